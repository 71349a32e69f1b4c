//! Socket options.

use std::time::Duration;

use netgraft_plugin::option::{OptionName, SocketOption};
use netgraft_plugin::{Error, Result};
use netgraft_tcp::Algorithm;

/// What buffers have at least and at most, as set: half of what they get. `SOCK_MIN_SNDBUF`, `SOCK_MIN_RCVBUF`,
/// and what `wmem_max` and `rmem_max` are in new kernels (socket(7)).
const LEAST_SEND: u32 = 2304;
const LEAST_RECEIVE: u32 = 1152;
/// The least that a window is clamped to (`SOCK_MIN_RCVBUF` / 2).
const LEAST_CLAMP: u32 = 1152;
const MOST: u32 = 4 << 20;

/// `IP_PMTUDISC_*` but DONT, which is 0 (ip(7)).
const WANT: u8 = 1;
const DO: u8 = 2;
const PROBE: u8 = 3;
const INTERFACE: u8 = 4;
const OMIT: u8 = 5;

/// The options of one socket, as the program set them.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) keep_alive: bool,
    pub(crate) linger: Option<Duration>,
    /// As set, within the limits; half of what the buffer gets.
    pub(crate) send_buffer: Option<u32>,
    pub(crate) receive_buffer: Option<u32>,
    pub(crate) broadcast: bool,
    /// Only noted: urgent data is in line always, as RFC 6093 wants it.
    pub(crate) out_of_band_inline: bool,
    /// Nothing is sent to a gateway.
    pub(crate) dont_route: bool,
    pub(crate) priority: u32,
    pub(crate) ttl: Option<u8>,
    pub(crate) hops: Option<u8>,
    pub(crate) tos: u8,
    pub(crate) traffic_class: u8,
    pub(crate) multicast_ttl: u8,
    pub(crate) multicast_loop: bool,
    pub(crate) multicast_hops: u8,
    pub(crate) multicast_loop6: bool,
    pub(crate) v6_only: bool,
    pub(crate) no_delay: bool,
    pub(crate) cork: bool,
    pub(crate) quick_ack: Option<bool>,
    pub(crate) keep_idle: Duration,
    pub(crate) keep_interval: Duration,
    pub(crate) keep_count: u32,
    pub(crate) user_timeout: Duration,
    pub(crate) defer_accept: Duration,
    pub(crate) syn_count: u32,
    pub(crate) fin_timeout: Duration,
    /// 0 for none.
    pub(crate) window_clamp: u32,
    pub(crate) max_segment: u16,
    /// `IP_PMTUDISC_*`
    pub(crate) mtu_discover: u8,
    /// What a raw socket sends begins with the IP header.
    pub(crate) header_included: bool,
    pub(crate) congestion: Algorithm,
    /// Connections of a listener that take data before their handshake is complete.
    pub(crate) fast_open: u32,
    /// The first data leaves with the SYN.
    pub(crate) fast_open_connect: bool,
}

impl Default for Options {
    /// What Linux has for a new socket (socket(7), ip(7), tcp(7)).
    fn default() -> Self {
        Options {
            reuse_address: false,
            reuse_port: false,
            keep_alive: false,
            linger: None,
            send_buffer: None,
            receive_buffer: None,
            broadcast: false,
            out_of_band_inline: false,
            dont_route: false,
            priority: 0,
            ttl: None,
            hops: None,
            tos: 0,
            traffic_class: 0,
            multicast_ttl: 1,
            multicast_loop: true,
            multicast_hops: 1,
            multicast_loop6: true,
            v6_only: false,
            no_delay: false,
            cork: false,
            quick_ack: None,
            keep_idle: Duration::from_secs(7200),
            keep_interval: Duration::from_secs(75),
            keep_count: 9,
            user_timeout: Duration::ZERO,
            defer_accept: Duration::ZERO,
            syn_count: 6,
            fin_timeout: Duration::from_secs(60),
            window_clamp: 0,
            max_segment: 0,
            mtu_discover: WANT,
            header_included: false,
            congestion: Algorithm::Cubic,
            fast_open: 0,
            fast_open_connect: false,
        }
    }
}

/// The options that some kind of socket has.
pub(crate) const KNOWN: &[OptionName] = &[
    OptionName::ReuseAddress,
    OptionName::ReusePort,
    OptionName::KeepAlive,
    OptionName::Linger,
    OptionName::SendBuffer,
    OptionName::ReceiveBuffer,
    OptionName::Broadcast,
    OptionName::OutOfBandInline,
    OptionName::DontRoute,
    OptionName::Priority,
    OptionName::Ttl,
    OptionName::TypeOfService,
    OptionName::MulticastTtl,
    OptionName::MulticastLoop,
    OptionName::MulticastInterface,
    OptionName::JoinGroup,
    OptionName::LeaveGroup,
    OptionName::PathMtu,
    OptionName::V6Only,
    OptionName::UnicastHops,
    OptionName::TrafficClass,
    OptionName::MulticastHops,
    OptionName::MulticastLoop6,
    OptionName::MulticastInterface6,
    OptionName::JoinGroup6,
    OptionName::LeaveGroup6,
    OptionName::NoDelay,
    OptionName::Cork,
    OptionName::QuickAck,
    OptionName::KeepIdle,
    OptionName::KeepInterval,
    OptionName::KeepCount,
    OptionName::UserTimeout,
    OptionName::DeferAccept,
    OptionName::SynCount,
    OptionName::FinTimeout,
    OptionName::WindowClamp,
    OptionName::MaxSegment,
    OptionName::MtuDiscover,
    OptionName::Congestion,
    OptionName::HeaderIncluded,
    OptionName::FastOpen,
    OptionName::FastOpenConnect,
];

/// Options of stream sockets only.
pub(crate) fn is_tcp(name: OptionName) -> bool {
    use OptionName as N;
    matches!(
        name,
        N::NoDelay
            | N::Cork
            | N::QuickAck
            | N::KeepIdle
            | N::KeepInterval
            | N::KeepCount
            | N::UserTimeout
            | N::DeferAccept
            | N::SynCount
            | N::FinTimeout
            | N::WindowClamp
            | N::NotSentLowWater
            | N::MaxSegment
            | N::Congestion
            | N::FastOpen
            | N::FastOpenConnect
    )
}

fn seconds(value: Duration, max: u64) -> Result<Duration> {
    let whole = value.as_secs();
    if (1..=max).contains(&whole) { Ok(value) } else { Err(Error::Invalid) }
}

impl Options {
    /// Notes an option's value.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::UnknownOption`].
    pub(crate) fn set(&mut self, option: SocketOption) -> Result<()> {
        use SocketOption as O;
        match option {
            O::ReuseAddress(on) => self.reuse_address = on,
            O::ReusePort(on) => self.reuse_port = on,
            O::KeepAlive(on) => self.keep_alive = on,
            O::Linger(time) => self.linger = time,
            O::SendBuffer(bytes) => self.send_buffer = Some(bytes.clamp(LEAST_SEND, MOST)),
            O::ReceiveBuffer(bytes) => self.receive_buffer = Some(bytes.clamp(LEAST_RECEIVE, MOST)),
            O::Broadcast(on) => self.broadcast = on,
            O::OutOfBandInline(on) => self.out_of_band_inline = on,
            O::DontRoute(on) => self.dont_route = on,
            O::Priority(priority) => self.priority = priority,
            O::Ttl(0) => return Err(Error::Invalid),
            O::Ttl(ttl) => self.ttl = Some(ttl),
            O::UnicastHops(hops) => self.hops = Some(hops),
            O::TypeOfService(tos) => self.tos = tos,
            O::TrafficClass(class) => self.traffic_class = class,
            O::MulticastTtl(ttl) => self.multicast_ttl = ttl,
            O::MulticastLoop(on) => self.multicast_loop = on,
            O::MulticastHops(hops) => self.multicast_hops = hops,
            O::MulticastLoop6(on) => self.multicast_loop6 = on,
            O::V6Only(on) => self.v6_only = on,
            O::NoDelay(on) => self.no_delay = on,
            O::Cork(on) => self.cork = on,
            O::QuickAck(on) => self.quick_ack = Some(on),
            // The ranges of net/ipv4/tcp.c: MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL, MAX_TCP_KEEPCNT, MAX_TCP_SYNCNT.
            O::KeepIdle(time) => self.keep_idle = seconds(time, 32_767)?,
            O::KeepInterval(time) => self.keep_interval = seconds(time, 32_767)?,
            O::KeepCount(count @ 1..=127) => self.keep_count = count,
            O::UserTimeout(time) => self.user_timeout = time,
            O::DeferAccept(time) => self.defer_accept = time,
            O::SynCount(count @ 1..=127) => self.syn_count = count,
            O::FinTimeout(time) => self.fin_timeout = time.min(Duration::from_secs(120)),
            O::WindowClamp(0) => self.window_clamp = 0,
            O::WindowClamp(bytes) => self.window_clamp = bytes.max(LEAST_CLAMP),
            O::MtuDiscover(mode @ 0..=OMIT) => self.mtu_discover = mode,
            O::MtuDiscover(_) => return Err(Error::Invalid),
            O::HeaderIncluded(on) => self.header_included = on,
            O::FastOpen(count) => self.fast_open = count,
            O::FastOpenConnect(on) => self.fast_open_connect = on,
            O::MaxSegment(0) => self.max_segment = 0,
            O::MaxSegment(bytes @ 88..=32_767) => self.max_segment = bytes as u16,
            O::KeepCount(_) | O::SynCount(_) | O::MaxSegment(_) => return Err(Error::Invalid),
            O::Congestion(name) => {
                self.congestion =
                    Algorithm::ALL.into_iter().find(|c| c.name() == name).ok_or(Error::NotFound)?;
            }
            _ => return Err(Error::UnknownOption),
        }
        Ok(())
    }

    /// The value of an option that is only noted here.
    ///
    /// # Errors
    /// [`Error::UnknownOption`].
    pub(crate) fn get(&self, name: OptionName) -> Result<SocketOption> {
        use {OptionName as N, SocketOption as O};
        Ok(match name {
            N::ReuseAddress => O::ReuseAddress(self.reuse_address),
            N::ReusePort => O::ReusePort(self.reuse_port),
            N::KeepAlive => O::KeepAlive(self.keep_alive),
            N::Linger => O::Linger(self.linger),
            N::Broadcast => O::Broadcast(self.broadcast),
            N::OutOfBandInline => O::OutOfBandInline(self.out_of_band_inline),
            N::DontRoute => O::DontRoute(self.dont_route),
            N::Priority => O::Priority(self.priority),
            N::Ttl => O::Ttl(self.ttl.unwrap_or(64)),
            N::UnicastHops => O::UnicastHops(self.hops.unwrap_or(64)),
            N::TypeOfService => O::TypeOfService(self.tos),
            N::TrafficClass => O::TrafficClass(self.traffic_class),
            N::MulticastTtl => O::MulticastTtl(self.multicast_ttl),
            N::MulticastLoop => O::MulticastLoop(self.multicast_loop),
            N::MulticastHops => O::MulticastHops(self.multicast_hops),
            N::MulticastLoop6 => O::MulticastLoop6(self.multicast_loop6),
            N::V6Only => O::V6Only(self.v6_only),
            N::NoDelay => O::NoDelay(self.no_delay),
            N::Cork => O::Cork(self.cork),
            N::QuickAck => O::QuickAck(self.quick_ack.unwrap_or(true)),
            N::KeepIdle => O::KeepIdle(self.keep_idle),
            N::KeepInterval => O::KeepInterval(self.keep_interval),
            N::KeepCount => O::KeepCount(self.keep_count),
            N::UserTimeout => O::UserTimeout(self.user_timeout),
            N::DeferAccept => O::DeferAccept(self.defer_accept),
            N::SynCount => O::SynCount(self.syn_count),
            N::FinTimeout => O::FinTimeout(self.fin_timeout),
            N::WindowClamp => O::WindowClamp(self.window_clamp),
            N::MtuDiscover => O::MtuDiscover(self.mtu_discover),
            N::HeaderIncluded => O::HeaderIncluded(self.header_included),
            N::FastOpen => O::FastOpen(self.fast_open),
            N::FastOpenConnect => O::FastOpenConnect(self.fast_open_connect),
            N::Congestion => O::Congestion(self.congestion.name().to_owned()),
            _ => return Err(Error::UnknownOption),
        })
    }

    /// Whether routers may not cut the socket's packets that fit the interface: the "don't fragment" bit of IPv4.
    /// Datagrams of PROBE have it, segments of TCP do not (ip_dont_fragment of Linux).
    pub(crate) fn dont_fragment(&self, datagram: bool) -> bool {
        matches!(self.mtu_discover, WANT | DO) || datagram && self.mtu_discover == PROBE
    }

    /// Whether a datagram that does not fit the interface is refused, not cut (ip_sk_ignore_df of Linux).
    pub(crate) fn keeps_whole(&self) -> bool {
        matches!(self.mtu_discover, DO | PROBE | INTERFACE)
    }

    /// Whether routers are believed that a path is narrower than the interface (ip_sk_accept_pmtu of Linux).
    pub(crate) fn believes_path(&self) -> bool {
        !matches!(self.mtu_discover, INTERFACE | OMIT)
    }

    /// What a connection has of its listener's options: not what is the listener's alone, nor what is set for each packet
    /// (`inet_csk_clone_lock` of Linux).
    pub(crate) fn of_a_connection(self) -> Options {
        Options { priority: 0, fast_open: 0, ..self }
    }

    /// TTL or hop limit of a packet to a unicast address.
    pub(crate) fn hop_limit(&self, v4: bool) -> u8 {
        // No router passes on what has none left, nor what has one (RFC 8200 section 3).
        if v4 { self.ttl.unwrap_or(64) } else { self.hops.unwrap_or(64).max(1) }
    }

    /// TOS byte or traffic class.
    pub(crate) fn class(&self, v4: bool) -> u8 {
        if v4 { self.tos } else { self.traffic_class }
    }
}

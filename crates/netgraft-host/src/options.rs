//! Socket options, as the host knows them.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use libc::c_int;
use netgraft_linux::inet_socket as sys;
use netgraft_plugin::{
    Agreed, CongestionState, Error, OptionName, Protocol, Result, SocketOption, TcpInfo, TcpState,
};

use crate::host::{Slot, host};

/// Longest text of an option: an interface's or an algorithm's name is at most 15 bytes (`IFNAMSIZ`,
/// `TCP_CA_NAME_MAX`).
const TEXT: usize = 16;

/// Where the kernel keeps an option: level and name.
type Place = (c_int, c_int);

/// The options that this stack knows.
pub(crate) fn known() -> Vec<OptionName> {
    OptionName::ALL.iter().copied().filter(|n| *n == OptionName::Linger || place(*n).is_some()).collect()
}

/// `None` for an option that this stack does not know, and for `SO_LINGER`, which is no plain value.
fn place(name: OptionName) -> Option<Place> {
    let socket = |name| Some((libc::SOL_SOCKET, name));
    let ip = |name| Some((libc::IPPROTO_IP, name));
    let ip6 = |name| Some((libc::IPPROTO_IPV6, name));
    let tcp = |name| Some((libc::IPPROTO_TCP, name));
    match name {
        OptionName::ReuseAddress => socket(libc::SO_REUSEADDR),
        OptionName::ReusePort => socket(libc::SO_REUSEPORT),
        OptionName::KeepAlive => socket(libc::SO_KEEPALIVE),
        OptionName::SendBuffer => socket(libc::SO_SNDBUF),
        OptionName::ReceiveBuffer => socket(libc::SO_RCVBUF),
        OptionName::Broadcast => socket(libc::SO_BROADCAST),
        OptionName::OutOfBandInline => socket(libc::SO_OOBINLINE),
        OptionName::DontRoute => socket(libc::SO_DONTROUTE),
        OptionName::Priority => socket(libc::SO_PRIORITY),
        OptionName::BindToDevice => socket(libc::SO_BINDTODEVICE),
        OptionName::Ttl => ip(libc::IP_TTL),
        OptionName::TypeOfService => ip(libc::IP_TOS),
        OptionName::MulticastTtl => ip(libc::IP_MULTICAST_TTL),
        OptionName::MulticastLoop => ip(libc::IP_MULTICAST_LOOP),
        OptionName::MulticastInterface => ip(libc::IP_MULTICAST_IF),
        OptionName::JoinGroup => ip(libc::IP_ADD_MEMBERSHIP),
        OptionName::LeaveGroup => ip(libc::IP_DROP_MEMBERSHIP),
        OptionName::PathMtu => ip(libc::IP_MTU),
        OptionName::MtuDiscover => ip(libc::IP_MTU_DISCOVER),
        OptionName::ReceiveErrors => ip(libc::IP_RECVERR),
        OptionName::HeaderIncluded => ip(libc::IP_HDRINCL),
        OptionName::V6Only => ip6(libc::IPV6_V6ONLY),
        OptionName::UnicastHops => ip6(libc::IPV6_UNICAST_HOPS),
        OptionName::TrafficClass => ip6(libc::IPV6_TCLASS),
        OptionName::MulticastHops => ip6(libc::IPV6_MULTICAST_HOPS),
        OptionName::MulticastLoop6 => ip6(libc::IPV6_MULTICAST_LOOP),
        OptionName::MulticastInterface6 => ip6(libc::IPV6_MULTICAST_IF),
        OptionName::JoinGroup6 => ip6(libc::IPV6_ADD_MEMBERSHIP),
        OptionName::LeaveGroup6 => ip6(libc::IPV6_DROP_MEMBERSHIP),
        OptionName::NoDelay => tcp(libc::TCP_NODELAY),
        OptionName::Cork => tcp(libc::TCP_CORK),
        OptionName::QuickAck => tcp(libc::TCP_QUICKACK),
        OptionName::KeepIdle => tcp(libc::TCP_KEEPIDLE),
        OptionName::KeepInterval => tcp(libc::TCP_KEEPINTVL),
        OptionName::KeepCount => tcp(libc::TCP_KEEPCNT),
        OptionName::UserTimeout => tcp(libc::TCP_USER_TIMEOUT),
        OptionName::DeferAccept => tcp(libc::TCP_DEFER_ACCEPT),
        OptionName::SynCount => tcp(libc::TCP_SYNCNT),
        OptionName::FinTimeout => tcp(libc::TCP_LINGER2),
        OptionName::WindowClamp => tcp(libc::TCP_WINDOW_CLAMP),
        OptionName::NotSentLowWater => tcp(libc::TCP_NOTSENT_LOWAT),
        OptionName::MaxSegment => tcp(libc::TCP_MAXSEG),
        OptionName::Congestion => tcp(libc::TCP_CONGESTION),
        OptionName::FastOpen => tcp(libc::TCP_FASTOPEN),
        OptionName::FastOpenConnect => tcp(libc::TCP_FASTOPEN_CONNECT),
        // The list is open: an option that is new in the contract is unknown here until it has its line.
        _ => None,
    }
}

/// The options of both families that have one name in the contract.
fn place_for(slot: &Slot, name: OptionName) -> Result<Place> {
    let six = slot.spec.domain == netgraft_plugin::Domain::V6;
    let (level, option) = match name {
        OptionName::MtuDiscover if six => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        OptionName::ReceiveErrors if six => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        OptionName::HeaderIncluded if six => (libc::IPPROTO_IPV6, libc::IPV6_HDRINCL),
        OptionName::PathMtu if six => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
        _ => place(name).ok_or(Error::UnknownOption)?,
    };
    // Linux answers EOPNOTSUPP or ENOPROTOOPT for TCP's options on other sockets; the contract has one answer.
    if level == libc::IPPROTO_TCP && slot.spec.protocol != Protocol::Tcp {
        return Err(Error::UnknownOption);
    }
    Ok((level, option))
}

/// Sets an option.
pub(crate) fn set(slot: &Slot, option: &SocketOption) -> Result<()> {
    let put = |bytes: &[u8]| {
        let (level, name) = place_for(slot, option.name())?;
        host(sys::setsockopt(slot.fd.as_fd(), level, name, bytes))
    };
    let int = |value: i64| put(&i32::try_from(value).map_err(|_| Error::Invalid)?.to_ne_bytes());
    let seconds = |time: &Duration| int(i64::try_from(ceil_seconds(*time)).map_err(|_| Error::Invalid)?);
    match option {
        SocketOption::Linger(time) => {
            let seconds = time.map(|t| i32::try_from(ceil_seconds(t)).unwrap_or(i32::MAX));
            slot.set_linger(seconds)
        }
        // Not to wait at all.
        SocketOption::FinTimeout(Duration::ZERO) => int(-1),
        SocketOption::ReuseAddress(on)
        | SocketOption::ReusePort(on)
        | SocketOption::KeepAlive(on)
        | SocketOption::Broadcast(on)
        | SocketOption::OutOfBandInline(on)
        | SocketOption::DontRoute(on)
        | SocketOption::MulticastLoop(on)
        | SocketOption::ReceiveErrors(on)
        | SocketOption::V6Only(on)
        | SocketOption::MulticastLoop6(on)
        | SocketOption::NoDelay(on)
        | SocketOption::Cork(on)
        | SocketOption::QuickAck(on)
        | SocketOption::FastOpenConnect(on)
        | SocketOption::HeaderIncluded(on) => int(i64::from(*on)),
        SocketOption::Ttl(value)
        | SocketOption::TypeOfService(value)
        | SocketOption::MulticastTtl(value)
        | SocketOption::MtuDiscover(value)
        | SocketOption::UnicastHops(value)
        | SocketOption::TrafficClass(value)
        | SocketOption::MulticastHops(value) => int(i64::from(*value)),
        SocketOption::SendBuffer(value)
        | SocketOption::ReceiveBuffer(value)
        | SocketOption::Priority(value)
        | SocketOption::MulticastInterface6(value)
        | SocketOption::KeepCount(value)
        | SocketOption::SynCount(value)
        | SocketOption::WindowClamp(value)
        | SocketOption::NotSentLowWater(value)
        | SocketOption::FastOpen(value)
        | SocketOption::MaxSegment(value) => int(i64::from(*value)),
        SocketOption::KeepIdle(time)
        | SocketOption::KeepInterval(time)
        | SocketOption::DeferAccept(time)
        | SocketOption::FinTimeout(time) => seconds(time),
        SocketOption::UserTimeout(time) => int(i64::try_from(time.as_millis()).map_err(|_| Error::Invalid)?),
        SocketOption::BindToDevice(text) | SocketOption::Congestion(text) => {
            if text.len() >= TEXT || text.bytes().any(|b| b == 0) {
                return Err(Error::Invalid);
            }
            put(text.as_bytes())
        }
        SocketOption::MulticastInterface(addr) => put(&addr.octets()),
        SocketOption::JoinGroup((group, interface)) | SocketOption::LeaveGroup((group, interface)) => {
            put(&[group.octets(), interface.octets()].concat())
        }
        SocketOption::JoinGroup6((group, index)) | SocketOption::LeaveGroup6((group, index)) => {
            put(&[&group.octets()[..], &index.to_ne_bytes()].concat())
        }
        // Read only, or new in the contract.
        _ => Err(Error::UnknownOption),
    }
}

/// Whole seconds, rounded up, so that a short time does not become none.
fn ceil_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Reads an option.
pub(crate) fn get(slot: &Slot, name: OptionName) -> Result<SocketOption> {
    let fd = slot.fd.as_fd();
    let int = || {
        let (level, option) = place_for(slot, name)?;
        host(sys::getsockopt_int(fd, level, option))
    };
    let on = || Ok(int()? != 0);
    let word = || Ok(u32::try_from(int()?).unwrap_or(0));
    let byte = || Ok(u8::try_from(int()?).unwrap_or(0));
    let seconds = || Ok(Duration::from_secs(u64::from(word()?)));
    let text = || {
        let (level, option) = place_for(slot, name)?;
        let mut raw = [0; TEXT];
        let len = host(sys::getsockopt(fd, level, option, &mut raw))?;
        let end = raw[..len].iter().position(|b| *b == 0).unwrap_or(len);
        Ok(String::from_utf8_lossy(&raw[..end]).into_owned())
    };
    Ok(match name {
        OptionName::Linger => {
            SocketOption::Linger(slot.linger()?.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0))))
        }
        OptionName::ReuseAddress => SocketOption::ReuseAddress(on()?),
        OptionName::ReusePort => SocketOption::ReusePort(on()?),
        OptionName::KeepAlive => SocketOption::KeepAlive(on()?),
        // The contract asks for what was set; the kernel has doubled it (socket(7)).
        OptionName::SendBuffer => SocketOption::SendBuffer(word()? / 2),
        OptionName::ReceiveBuffer => SocketOption::ReceiveBuffer(word()? / 2),
        OptionName::Broadcast => SocketOption::Broadcast(on()?),
        OptionName::OutOfBandInline => SocketOption::OutOfBandInline(on()?),
        OptionName::DontRoute => SocketOption::DontRoute(on()?),
        OptionName::Priority => SocketOption::Priority(word()?),
        OptionName::BindToDevice => SocketOption::BindToDevice(text()?),
        OptionName::Ttl => SocketOption::Ttl(byte()?),
        OptionName::TypeOfService => SocketOption::TypeOfService(byte()?),
        OptionName::MulticastTtl => SocketOption::MulticastTtl(byte()?),
        OptionName::MulticastLoop => SocketOption::MulticastLoop(on()?),
        OptionName::MulticastInterface => {
            SocketOption::MulticastInterface(Ipv4Addr::from(int()?.to_ne_bytes()))
        }
        OptionName::PathMtu => SocketOption::PathMtu(word()?),
        OptionName::MtuDiscover => SocketOption::MtuDiscover(byte()?),
        OptionName::ReceiveErrors => SocketOption::ReceiveErrors(on()?),
        OptionName::HeaderIncluded => SocketOption::HeaderIncluded(on()?),
        OptionName::V6Only => SocketOption::V6Only(on()?),
        OptionName::UnicastHops => SocketOption::UnicastHops(byte()?),
        OptionName::TrafficClass => SocketOption::TrafficClass(byte()?),
        OptionName::MulticastHops => SocketOption::MulticastHops(byte()?),
        OptionName::MulticastLoop6 => SocketOption::MulticastLoop6(on()?),
        OptionName::MulticastInterface6 => SocketOption::MulticastInterface6(word()?),
        OptionName::NoDelay => SocketOption::NoDelay(on()?),
        OptionName::Cork => SocketOption::Cork(on()?),
        OptionName::QuickAck => SocketOption::QuickAck(on()?),
        OptionName::KeepIdle => SocketOption::KeepIdle(seconds()?),
        OptionName::KeepInterval => SocketOption::KeepInterval(seconds()?),
        OptionName::KeepCount => SocketOption::KeepCount(word()?),
        OptionName::UserTimeout => SocketOption::UserTimeout(Duration::from_millis(u64::from(word()?))),
        OptionName::DeferAccept => SocketOption::DeferAccept(seconds()?),
        OptionName::SynCount => SocketOption::SynCount(word()?),
        OptionName::FinTimeout => SocketOption::FinTimeout(seconds()?),
        OptionName::WindowClamp => SocketOption::WindowClamp(word()?),
        OptionName::NotSentLowWater => SocketOption::NotSentLowWater(word()?),
        OptionName::MaxSegment => SocketOption::MaxSegment(word()?),
        OptionName::Congestion => SocketOption::Congestion(text()?),
        OptionName::FastOpen => SocketOption::FastOpen(word()?),
        OptionName::FastOpenConnect => SocketOption::FastOpenConnect(word()? != 0),
        // Memberships can't be read, and what is new in the contract is unknown here.
        _ => return Err(Error::UnknownOption),
    })
}

/// `TCP_INFO`; the offsets are those of `struct tcp_info` (linux/tcp.h), which only ever grows at its end.
pub(crate) fn tcp_info(slot: &Slot) -> Result<TcpInfo> {
    let mut raw = [0; 256];
    host(sys::getsockopt(slot.fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, &mut raw))?;
    let word = |at: usize| raw.get(at..).and_then(|r| r.first_chunk()).map_or(0, |w| u32::from_ne_bytes(*w));
    let long = |at: usize| raw.get(at..).and_then(|r| r.first_chunk()).map_or(0, |w| u64::from_ne_bytes(*w));
    let micros = |at: usize| Duration::from_micros(u64::from(word(at)));
    let send_mss = word(16);
    let state = tcp_state(raw[0]);
    // Of a listener they are its queue and its backlog, and no segments.
    let unit = if state == TcpState::Listen { 1 } else { send_mss };
    Ok(TcpInfo {
        state,
        rtt: micros(68),
        rtt_variance: micros(72),
        rto: micros(8),
        send_mss,
        receive_mss: word(20),
        congestion_window: word(80).saturating_mul(send_mss),
        slow_start_threshold: word(76).saturating_mul(send_mss),
        unacknowledged: word(24).saturating_mul(unit),
        selectively_acknowledged: word(28).saturating_mul(unit),
        lost: word(32).saturating_mul(send_mss),
        not_sent: word(144),
        least_rtt: micros(148),
        delivery_rate: long(160),
        pacing_rate: long(104),
        congestion_state: congestion_state(raw[1]),
        agreed: Agreed {
            timestamps: raw[5] & 1 != 0,
            sack: raw[5] & 2 != 0,
            window_scales: (raw[5] & 4 != 0).then_some((raw[6] & 15, raw[6] >> 4)),
            ecn: raw[5] & 8 != 0,
            fast_open: raw[5] & 32 != 0,
        },
        backoff: raw[4],
        retransmits: word(100),
        send_window: word(228),
        receive_window: word(232),
        // The kernel counts what was sent again.
        bytes_sent: long(200).saturating_sub(long(208)),
        bytes_received: long(128),
        bytes_retransmitted: long(208),
    })
}

fn congestion_state(number: u8) -> CongestionState {
    match number {
        1 => CongestionState::Disorder,
        2 => CongestionState::Reduced,
        3 => CongestionState::Recovery,
        4 => CongestionState::Loss,
        _ => CongestionState::Open,
    }
}

fn tcp_state(number: u8) -> TcpState {
    match number {
        1 => TcpState::Established,
        2 => TcpState::SynSent,
        3 => TcpState::SynReceived,
        4 => TcpState::FinWait1,
        5 => TcpState::FinWait2,
        6 => TcpState::TimeWait,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        10 => TcpState::Listen,
        11 => TcpState::Closing,
        _ => TcpState::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offsets_of_tcp_info_are_the_headers() {
        use std::mem::offset_of;
        assert_eq!(offset_of!(libc::tcp_info, tcpi_rto), 8);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_snd_mss), 16);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_unacked), 24);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_rtt), 68);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_rttvar), 72);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_snd_ssthresh), 76);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_snd_cwnd), 80);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_sacked), 28);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_lost), 32);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_total_retrans), 100);
    }

    #[test]
    fn short_times_are_rounded_up() {
        assert_eq!(ceil_seconds(Duration::from_millis(1)), 1);
        assert_eq!(ceil_seconds(Duration::ZERO), 0);
        assert_eq!(ceil_seconds(Duration::from_secs(2)), 2);
    }

    #[test]
    fn every_known_option_has_a_name_in_the_contract() {
        assert_eq!(known().len(), OptionName::ALL.len());
    }
}

//! Socket options: the program's levels, numbers and bytes, and what they mean (socket(7), ip(7), ipv6(7),
//! tcp(7)).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netgraft_plugin::{Domain, Kind, OptionName, SocketOption, SocketSpec, TcpInfo};

use crate::codec::kept::{self, Key};
use crate::uapi::{self, Errno};

/// The most bytes of a value that are read.
pub const MAX_LEN: u64 = 1024;

/// Control messages that a program can ask to receive with its datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the manual's names")]
pub enum Ancillary {
    Timestamp,
    TimestampNanos,
    PacketInfo,
    Ttl,
    TypeOfService,
    PacketInfo6,
    HopLimit,
    TrafficClass,
    Errors,
    Errors6,
    /// IP options: packets that have some do not get here, so there is never such a message.
    Options,
}

/// Which of the two time-outs of socket(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the manual's names")]
pub enum Direction {
    Receive,
    Send,
}

/// What a `setsockopt` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Set {
    /// Ask the stack.
    Stack(SocketOption),
    /// The sentry keeps a time-out; `None` waits for ever. The surrogate gets it too.
    Timeout(Direction, Option<Duration>),
    /// The sentry keeps it.
    Ancillary(Ancillary, bool),
    /// The surrogate's own option does what is wanted (`SO_RCVLOWAT`, `SO_PEEK_OFF`).
    Surrogate,
    /// Ask the stack, if the caller may exceed limits (CAP_NET_ADMIN, socket(7)).
    Forced(SocketOption),
    /// The sentry keeps it, and nothing follows from it.
    Kept(Key, i32),
}

/// What a `getsockopt` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Get {
    /// Ask the stack.
    Stack(OptionName),
    /// `TCP_INFO`
    TcpInfo,
    /// `SO_ERROR`
    Error,
    /// `SO_ACCEPTCONN`
    AcceptConn,
    /// A number that is known from the socket's kind alone.
    Number(i32),
    /// What the program has set, or this.
    Kept(Key, i32),
    /// These bytes.
    Bytes(&'static [u8]),
    /// A time-out that the sentry keeps.
    Timeout(Direction),
    /// The sentry keeps it.
    Ancillary(Ancillary),
    /// The surrogate's own value is the answer (`SO_RCVLOWAT`, `SO_COOKIE`).
    Surrogate,
}

/// `SO_RCVTIMEO_NEW` and `SO_SNDTIMEO_NEW`, the same on 64-bit systems.
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;

/// The least that a buffer can be set to, half of what Linux then shows (socket(7)).
const MIN_SEND_BUFFER: u32 = 2304;
/// How long FIN-WAIT-2 lasts by default (`tcp_fin_timeout`, tcp(7)).
const FIN_TIMEOUT: Duration = Duration::from_secs(60);
const MIN_RECEIVE_BUFFER: u32 = 1152;
/// `net.core.somaxconn`, the most that `TCP_FASTOPEN` takes.
const SOMAXCONN: u32 = 4096;

fn int(bytes: &[u8]) -> Result<i32, Errno> {
    bytes.first_chunk().map(|b| i32::from_ne_bytes(*b)).ok_or(uapi::EINVAL)
}

/// Options of IP also take one byte (ip(7)), and most of them none for a zero (`do_ip_setsockopt` of Linux).
fn int_byte_or_none(bytes: &[u8]) -> Result<i32, Errno> {
    if bytes.is_empty() { Ok(0) } else { int_or_byte(bytes) }
}

/// Options of IP also take one byte (ip(7)).
fn int_or_byte(bytes: &[u8]) -> Result<i32, Errno> {
    match bytes {
        [byte, ..] if bytes.len() < 4 => Ok(i32::from(*byte)),
        _ => int(bytes),
    }
}

fn flag(bytes: &[u8]) -> Result<bool, Errno> {
    int(bytes).map(|v| v != 0)
}

fn byte(value: i32) -> Result<u8, Errno> {
    u8::try_from(value).map_err(|_| uapi::EINVAL)
}

/// -1 asks for the default.
fn byte_or_default(value: i32, default: u8) -> Result<u8, Errno> {
    if value == -1 { Ok(default) } else { byte(value) }
}

fn unsigned(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

fn positive(value: i32, most: i32) -> Result<u32, Errno> {
    if (1..=most).contains(&value) { Ok(value as u32) } else { Err(uapi::EINVAL) }
}

fn seconds(value: i32, most: i32) -> Result<Duration, Errno> {
    positive(value, most).map(|s| Duration::from_secs(u64::from(s)))
}

fn ipv4(bytes: &[u8], at: usize) -> Result<Ipv4Addr, Errno> {
    let octets = bytes.get(at..at + 4).ok_or(uapi::EINVAL)?;
    Ok(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))
}

fn text(bytes: &[u8], most: usize) -> Result<String, Errno> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()).min(most);
    std::str::from_utf8(&bytes[..end]).map(str::to_owned).map_err(|_| uapi::EINVAL)
}

/// Reads a `setsockopt`.
///
/// # Errors
/// EINVAL for a value that is too short or out of range, EDOM for a time-out that is none, ENOPROTOOPT for an
/// option that does not exist for the socket, EPERM for one that is never allowed in a sandbox.
pub fn parse_set(spec: SocketSpec, level: i32, name: i32, value: &[u8]) -> Result<Set, Errno> {
    if level == uapi::SOL_SOCKET && name != uapi::SO_BINDTODEVICE && value.len() < 4 {
        return Err(uapi::EINVAL);
    }
    if level == uapi::IPPROTO_IPV6 && spec.domain != Domain::V6 {
        return Err(uapi::ENOPROTOOPT);
    }
    if spec.kind == Kind::Stream
        && let Some(kept) = kept::parse_set(level, name, value)
    {
        return kept.map(|(key, value)| Set::Kept(key, value));
    }
    match level {
        // The surrogate of a stream keeps the mark for `recv`, but `poll` does not look at it.
        uapi::SOL_SOCKET if name == uapi::SO_RCVLOWAT && spec.kind == Kind::Stream => match int(value)? {
            0 | 1 => Ok(Set::Surrogate),
            _ => Err(uapi::ENOPROTOOPT),
        },
        uapi::SOL_SOCKET => set_socket(name, value),
        uapi::IPPROTO_TCP if spec.kind == Kind::Stream => set_tcp(name, value).map(Set::Stack),
        uapi::IPPROTO_IP if name == uapi::IP_HDRINCL => set_header_included(spec, Domain::V4, value),
        uapi::IPPROTO_IPV6 if name == uapi::IPV6_HDRINCL => set_header_included(spec, Domain::V6, value),
        uapi::IPPROTO_IP => set_ip(name, value).map(|set| without_ecn(spec, set)),
        uapi::IPPROTO_IPV6 => set_ipv6(name, value).map(|set| without_ecn(spec, set)),
        _ => Err(uapi::ENOPROTOOPT),
    }
}

/// The two bits of congestion are TCP's own (`__ip_sock_set_tos` of Linux).
fn without_ecn(spec: SocketSpec, set: Set) -> Set {
    use SocketOption as O;
    match set {
        Set::Stack(O::TypeOfService(v)) if spec.kind == Kind::Stream => Set::Stack(O::TypeOfService(v & !3)),
        Set::Stack(O::TrafficClass(v)) if spec.kind == Kind::Stream => Set::Stack(O::TrafficClass(v & !3)),
        set => set,
    }
}

fn set_socket(name: i32, value: &[u8]) -> Result<Set, Errno> {
    use SocketOption as O;
    Ok(match name {
        uapi::SO_RCVTIMEO | SO_RCVTIMEO_NEW => Set::Timeout(Direction::Receive, timeout(value)?),
        uapi::SO_SNDTIMEO | SO_SNDTIMEO_NEW => Set::Timeout(Direction::Send, timeout(value)?),
        uapi::SO_TIMESTAMP => Set::Ancillary(Ancillary::Timestamp, flag(value)?),
        uapi::SO_TIMESTAMPNS => Set::Ancillary(Ancillary::TimestampNanos, flag(value)?),
        uapi::SO_RCVLOWAT | uapi::SO_PEEK_OFF => Set::Surrogate,
        uapi::SO_REUSEADDR => Set::Stack(O::ReuseAddress(flag(value)?)),
        uapi::SO_REUSEPORT => Set::Stack(O::ReusePort(flag(value)?)),
        uapi::SO_KEEPALIVE => Set::Stack(O::KeepAlive(flag(value)?)),
        uapi::SO_BROADCAST => Set::Stack(O::Broadcast(flag(value)?)),
        uapi::SO_OOBINLINE => Set::Stack(O::OutOfBandInline(flag(value)?)),
        uapi::SO_DONTROUTE => Set::Stack(O::DontRoute(flag(value)?)),
        uapi::SO_PRIORITY => Set::Stack(O::Priority(int(value)? as u32)),
        // A negative size is a large one (sk_setsockopt of Linux).
        uapi::SO_SNDBUF => Set::Stack(O::SendBuffer((int(value)? as u32).max(MIN_SEND_BUFFER))),
        uapi::SO_RCVBUF => Set::Stack(O::ReceiveBuffer((int(value)? as u32).max(MIN_RECEIVE_BUFFER))),
        uapi::SO_SNDBUFFORCE => Set::Forced(O::SendBuffer((int(value)?.max(0) as u32).max(MIN_SEND_BUFFER))),
        uapi::SO_RCVBUFFORCE => {
            Set::Forced(O::ReceiveBuffer((int(value)?.max(0) as u32).max(MIN_RECEIVE_BUFFER)))
        }
        uapi::SO_BINDTODEVICE => Set::Stack(O::BindToDevice(text(value, 15).map_err(|_| uapi::ENODEV)?)),
        uapi::SO_LINGER => {
            let (on, time) = (int(value)?, int(value.get(4..).unwrap_or(&[]))?);
            let time = Duration::from_secs(u64::from(time as u32));
            Set::Stack(O::Linger((on != 0).then_some(time)))
        }
        // Read only (socket(7)).
        uapi::SO_TYPE | uapi::SO_PROTOCOL | uapi::SO_DOMAIN | uapi::SO_ERROR | uapi::SO_ACCEPTCONN => {
            return Err(uapi::ENOPROTOOPT);
        }
        uapi::SO_MARK => return Err(uapi::EPERM),
        _ => return Err(uapi::ENOPROTOOPT),
    })
}

/// A `struct timeval`; zero is for ever.
fn timeout(value: &[u8]) -> Result<Option<Duration>, Errno> {
    let long = |at: usize| {
        value.get(at..).and_then(|b| b.first_chunk()).map(|b| i64::from_ne_bytes(*b)).ok_or(uapi::EINVAL)
    };
    let (seconds, micros) = (long(0)?, long(8)?);
    if !(0..1_000_000).contains(&micros) {
        return Err(uapi::EDOM);
    }
    // A negative time has passed already: the kernel then does not wait at all.
    let Ok(seconds) = u64::try_from(seconds) else { return Ok(Some(Duration::ZERO)) };
    let time = Duration::new(seconds, micros as u32 * 1000);
    Ok((!time.is_zero()).then_some(time))
}

fn set_tcp(name: i32, value: &[u8]) -> Result<SocketOption, Errno> {
    use SocketOption as O;
    if name == uapi::TCP_CONGESTION {
        return Ok(O::Congestion(text(value, 15)?));
    }
    let v = int(value)?;
    Ok(match name {
        uapi::TCP_NODELAY => O::NoDelay(v != 0),
        uapi::TCP_CORK => O::Cork(v != 0),
        uapi::TCP_QUICKACK => O::QuickAck(v != 0),
        uapi::TCP_KEEPIDLE => O::KeepIdle(seconds(v, 32767)?),
        uapi::TCP_KEEPINTVL => O::KeepInterval(seconds(v, 32767)?),
        uapi::TCP_KEEPCNT => O::KeepCount(positive(v, 127)?),
        uapi::TCP_SYNCNT => O::SynCount(positive(v, 127)?),
        // Not at all, or what new sockets have (do_tcp_setsockopt of Linux).
        uapi::TCP_LINGER2 if v < 0 => O::FinTimeout(Duration::ZERO),
        uapi::TCP_LINGER2 if v == 0 => O::FinTimeout(FIN_TIMEOUT),
        uapi::TCP_LINGER2 => O::FinTimeout(Duration::from_secs(u64::from(unsigned(v)))),
        uapi::TCP_DEFER_ACCEPT => O::DeferAccept(retransmissions(unsigned(v))),
        uapi::TCP_WINDOW_CLAMP if v < 0 => O::WindowClamp(1),
        uapi::TCP_WINDOW_CLAMP => O::WindowClamp(unsigned(v)),
        uapi::TCP_FASTOPEN => O::FastOpen(u32::try_from(v).map_err(|_| uapi::EINVAL)?.min(SOMAXCONN)),
        uapi::TCP_FASTOPEN_CONNECT if matches!(v, 0 | 1) => O::FastOpenConnect(v == 1),
        uapi::TCP_FASTOPEN_CONNECT => return Err(uapi::EINVAL),
        uapi::TCP_USER_TIMEOUT if v >= 0 => O::UserTimeout(Duration::from_millis(u64::from(unsigned(v)))),
        uapi::TCP_USER_TIMEOUT => return Err(uapi::EINVAL),
        // Zero takes the limit back; otherwise the range of tcp(7).
        uapi::TCP_MAXSEG if v == 0 || (88..=32767).contains(&v) => O::MaxSegment(unsigned(v)),
        uapi::TCP_MAXSEG => return Err(uapi::EINVAL),
        _ => return Err(uapi::ENOPROTOOPT),
    })
}

/// The time that retransmissions of a SYN-ACK take which are at least as long as this (`secs_to_retrans` of Linux).
fn retransmissions(seconds: u32) -> Duration {
    let (mut period, mut timeout) = (0, 1);
    for _ in 0..255 {
        if period >= seconds {
            break;
        }
        period += timeout;
        timeout = (timeout * 2).min(120);
    }
    Duration::from_secs(u64::from(period))
}

fn set_ip(name: i32, value: &[u8]) -> Result<Set, Errno> {
    use SocketOption as O;
    let ancillary = |kind| int_byte_or_none(value).map(|v| Set::Ancillary(kind, v != 0));
    Ok(Set::Stack(match name {
        uapi::IP_PKTINFO => return ancillary(Ancillary::PacketInfo),
        uapi::IP_RECVTTL => return ancillary(Ancillary::Ttl),
        uapi::IP_RECVTOS => return ancillary(Ancillary::TypeOfService),
        uapi::IP_RECVERR => return ancillary(Ancillary::Errors),
        uapi::IP_RETOPTS => return ancillary(Ancillary::Options),
        uapi::IP_TTL => {
            let ttl = byte_or_default(int_or_byte(value)?, 64)?;
            if ttl == 0 {
                return Err(uapi::EINVAL);
            }
            O::Ttl(ttl)
        }
        uapi::IP_TOS => O::TypeOfService((int_byte_or_none(value)? & 0xff) as u8),
        uapi::IP_MTU_DISCOVER => match int_byte_or_none(value)? {
            v @ 0..=5 => O::MtuDiscover(v as u8),
            _ => return Err(uapi::EINVAL),
        },
        uapi::IP_MULTICAST_TTL => O::MulticastTtl(byte_or_default(int_or_byte(value)?, 1)?),
        uapi::IP_MULTICAST_LOOP => O::MulticastLoop(int_or_byte(value)? != 0),
        // struct in_addr, ip_mreq or ip_mreqn: the interface's address is the second of two.
        uapi::IP_MULTICAST_IF => O::MulticastInterface(ipv4(value, if value.len() >= 8 { 4 } else { 0 })?),
        uapi::IP_ADD_MEMBERSHIP => O::JoinGroup((group(ipv4(value, 0)?)?, ipv4(value, 4)?)),
        uapi::IP_DROP_MEMBERSHIP => O::LeaveGroup((ipv4(value, 0)?, ipv4(value, 4)?)),
        _ => return Err(uapi::ENOPROTOOPT),
    }))
}

/// `IP_HDRINCL` and `IPV6_HDRINCL`, of raw sockets of the one family.
fn set_header_included(spec: SocketSpec, family: Domain, value: &[u8]) -> Result<Set, Errno> {
    if spec.kind != Kind::Raw || spec.domain != family {
        return Err(uapi::ENOPROTOOPT);
    }
    int_or_byte(value).map(|v| Set::Stack(SocketOption::HeaderIncluded(v != 0)))
}

fn group(addr: Ipv4Addr) -> Result<Ipv4Addr, Errno> {
    if addr.is_multicast() { Ok(addr) } else { Err(uapi::EINVAL) }
}

fn set_ipv6(name: i32, value: &[u8]) -> Result<Set, Errno> {
    use SocketOption as O;
    let ancillary = |kind| flag(value).map(|on| Set::Ancillary(kind, on));
    Ok(Set::Stack(match name {
        uapi::IPV6_RECVPKTINFO => return ancillary(Ancillary::PacketInfo6),
        uapi::IPV6_RECVHOPLIMIT => return ancillary(Ancillary::HopLimit),
        uapi::IPV6_RECVTCLASS => return ancillary(Ancillary::TrafficClass),
        uapi::IPV6_RECVERR => return ancillary(Ancillary::Errors6),
        uapi::IPV6_V6ONLY => O::V6Only(flag(value)?),
        uapi::IPV6_UNICAST_HOPS => O::UnicastHops(byte_or_default(int(value)?, 64)?),
        uapi::IPV6_MULTICAST_HOPS => O::MulticastHops(byte_or_default(int(value)?, 1)?),
        uapi::IPV6_TCLASS => O::TrafficClass(byte_or_default(int(value)?, 0)?),
        uapi::IPV6_MULTICAST_LOOP => match int(value)? {
            v @ 0..=1 => O::MulticastLoop6(v != 0),
            _ => return Err(uapi::EINVAL),
        },
        uapi::IPV6_MULTICAST_IF => O::MulticastInterface6(unsigned(int(value)?)),
        uapi::IPV6_MTU_DISCOVER => match int(value)? {
            v @ 0..=5 => O::MtuDiscover(v as u8),
            _ => return Err(uapi::EINVAL),
        },
        uapi::IPV6_ADD_MEMBERSHIP | uapi::IPV6_DROP_MEMBERSHIP => {
            let octets: [u8; 16] = *value.first_chunk().ok_or(uapi::EINVAL)?;
            let index = unsigned(int(value.get(16..).unwrap_or(&[]))?);
            let group = Ipv6Addr::from(octets);
            if !group.is_multicast() {
                return Err(uapi::EINVAL);
            }
            if name == uapi::IPV6_ADD_MEMBERSHIP {
                O::JoinGroup6((group, index))
            } else {
                O::LeaveGroup6((group, index))
            }
        }
        _ => return Err(uapi::ENOPROTOOPT),
    }))
}

/// Reads a `getsockopt`.
///
/// # Errors
/// ENOPROTOOPT for an option that does not exist for the socket.
pub fn parse_get(spec: SocketSpec, level: i32, name: i32) -> Result<Get, Errno> {
    use OptionName as N;
    if level == uapi::IPPROTO_IPV6 && spec.domain != Domain::V6 {
        return Err(uapi::EOPNOTSUPP);
    }
    if spec.kind == Kind::Stream
        && let Some(kept) = kept::parse_get(level, name)
    {
        return kept.map(|answer| match answer {
            kept::Answer::Kept(key, first) => Get::Kept(key, first),
            kept::Answer::Bytes(bytes) => Get::Bytes(bytes),
        });
    }
    Ok(match (level, name) {
        (uapi::SOL_SOCKET, _) => return get_socket(spec, name),
        (uapi::IPPROTO_TCP, _) if spec.kind != Kind::Stream => {
            return Err(uapi::EOPNOTSUPP);
        }
        (uapi::IPPROTO_TCP, uapi::TCP_INFO) => Get::TcpInfo,
        (uapi::IPPROTO_TCP, uapi::TCP_NODELAY) => Get::Stack(N::NoDelay),
        (uapi::IPPROTO_TCP, uapi::TCP_CORK) => Get::Stack(N::Cork),
        (uapi::IPPROTO_TCP, uapi::TCP_QUICKACK) => Get::Stack(N::QuickAck),
        (uapi::IPPROTO_TCP, uapi::TCP_KEEPIDLE) => Get::Stack(N::KeepIdle),
        (uapi::IPPROTO_TCP, uapi::TCP_KEEPINTVL) => Get::Stack(N::KeepInterval),
        (uapi::IPPROTO_TCP, uapi::TCP_KEEPCNT) => Get::Stack(N::KeepCount),
        (uapi::IPPROTO_TCP, uapi::TCP_SYNCNT) => Get::Stack(N::SynCount),
        (uapi::IPPROTO_TCP, uapi::TCP_LINGER2) => Get::Stack(N::FinTimeout),
        (uapi::IPPROTO_TCP, uapi::TCP_DEFER_ACCEPT) => Get::Stack(N::DeferAccept),
        (uapi::IPPROTO_TCP, uapi::TCP_WINDOW_CLAMP) => Get::Stack(N::WindowClamp),
        (uapi::IPPROTO_TCP, uapi::TCP_USER_TIMEOUT) => Get::Stack(N::UserTimeout),
        (uapi::IPPROTO_TCP, uapi::TCP_MAXSEG) => Get::Stack(N::MaxSegment),
        (uapi::IPPROTO_TCP, uapi::TCP_CONGESTION) => Get::Stack(N::Congestion),
        (uapi::IPPROTO_TCP, uapi::TCP_FASTOPEN) => Get::Stack(N::FastOpen),
        (uapi::IPPROTO_TCP, uapi::TCP_FASTOPEN_CONNECT) => Get::Stack(N::FastOpenConnect),
        (uapi::IPPROTO_IP, uapi::IP_HDRINCL) | (uapi::IPPROTO_IPV6, uapi::IPV6_HDRINCL)
            if spec.kind == Kind::Raw =>
        {
            Get::Stack(N::HeaderIncluded)
        }
        (uapi::IPPROTO_IP, uapi::IP_HDRINCL) => Get::Number(0),
        (uapi::IPPROTO_IP, uapi::IP_TTL) => Get::Stack(N::Ttl),
        (uapi::IPPROTO_IP, uapi::IP_TOS) => Get::Stack(N::TypeOfService),
        (uapi::IPPROTO_IP, uapi::IP_MTU) => Get::Stack(N::PathMtu),
        (uapi::IPPROTO_IP, uapi::IP_MTU_DISCOVER) => Get::Stack(N::MtuDiscover),
        (uapi::IPPROTO_IP, uapi::IP_MULTICAST_TTL) => Get::Stack(N::MulticastTtl),
        (uapi::IPPROTO_IP, uapi::IP_MULTICAST_LOOP) => Get::Stack(N::MulticastLoop),
        (uapi::IPPROTO_IP, uapi::IP_MULTICAST_IF) => Get::Stack(N::MulticastInterface),
        (uapi::IPPROTO_IP, uapi::IP_PKTINFO) => Get::Ancillary(Ancillary::PacketInfo),
        (uapi::IPPROTO_IP, uapi::IP_RECVTTL) => Get::Ancillary(Ancillary::Ttl),
        (uapi::IPPROTO_IP, uapi::IP_RECVTOS) => Get::Ancillary(Ancillary::TypeOfService),
        (uapi::IPPROTO_IP, uapi::IP_RECVERR) => Get::Ancillary(Ancillary::Errors),
        (uapi::IPPROTO_IP, uapi::IP_RETOPTS) => Get::Ancillary(Ancillary::Options),
        (uapi::IPPROTO_IPV6, uapi::IPV6_V6ONLY) => Get::Stack(N::V6Only),
        (uapi::IPPROTO_IPV6, uapi::IPV6_UNICAST_HOPS) => Get::Stack(N::UnicastHops),
        (uapi::IPPROTO_IPV6, uapi::IPV6_MULTICAST_HOPS) => Get::Stack(N::MulticastHops),
        (uapi::IPPROTO_IPV6, uapi::IPV6_MULTICAST_LOOP) => Get::Stack(N::MulticastLoop6),
        (uapi::IPPROTO_IPV6, uapi::IPV6_MULTICAST_IF) => Get::Stack(N::MulticastInterface6),
        (uapi::IPPROTO_IPV6, uapi::IPV6_TCLASS) => Get::Stack(N::TrafficClass),
        (uapi::IPPROTO_IPV6, uapi::IPV6_MTU) => Get::Stack(N::PathMtu),
        (uapi::IPPROTO_IPV6, uapi::IPV6_MTU_DISCOVER) => Get::Stack(N::MtuDiscover),
        (uapi::IPPROTO_IPV6, uapi::IPV6_RECVPKTINFO) => Get::Ancillary(Ancillary::PacketInfo6),
        (uapi::IPPROTO_IPV6, uapi::IPV6_RECVHOPLIMIT) => Get::Ancillary(Ancillary::HopLimit),
        (uapi::IPPROTO_IPV6, uapi::IPV6_RECVTCLASS) => Get::Ancillary(Ancillary::TrafficClass),
        (uapi::IPPROTO_IPV6, uapi::IPV6_RECVERR) => Get::Ancillary(Ancillary::Errors6),
        // No protocol of an IPv4 socket knows the level (`do_ip_getsockopt` of Linux).
        (level, _)
            if level != uapi::IPPROTO_IP && level != uapi::IPPROTO_TCP && spec.domain == Domain::V4 =>
        {
            return Err(uapi::EOPNOTSUPP);
        }
        _ => return Err(uapi::ENOPROTOOPT),
    })
}

fn get_socket(spec: SocketSpec, name: i32) -> Result<Get, Errno> {
    use OptionName as N;
    Ok(match name {
        uapi::SO_TYPE => Get::Number(crate::codec::call::kind_number(spec.kind)),
        uapi::SO_DOMAIN => Get::Number(crate::codec::call::domain_number(spec.domain)),
        uapi::SO_PROTOCOL => Get::Number(crate::codec::call::protocol_number(spec.protocol)),
        uapi::SO_MARK => Get::Number(0),
        uapi::SO_SNDLOWAT => Get::Number(1),
        uapi::SO_ERROR => Get::Error,
        uapi::SO_ACCEPTCONN => Get::AcceptConn,
        uapi::SO_RCVTIMEO | SO_RCVTIMEO_NEW => Get::Timeout(Direction::Receive),
        uapi::SO_SNDTIMEO | SO_SNDTIMEO_NEW => Get::Timeout(Direction::Send),
        uapi::SO_TIMESTAMP => Get::Ancillary(Ancillary::Timestamp),
        uapi::SO_TIMESTAMPNS => Get::Ancillary(Ancillary::TimestampNanos),
        uapi::SO_RCVLOWAT | uapi::SO_COOKIE | uapi::SO_PEEK_OFF => Get::Surrogate,
        uapi::SO_REUSEADDR => Get::Stack(N::ReuseAddress),
        uapi::SO_REUSEPORT => Get::Stack(N::ReusePort),
        uapi::SO_KEEPALIVE => Get::Stack(N::KeepAlive),
        uapi::SO_BROADCAST => Get::Stack(N::Broadcast),
        uapi::SO_OOBINLINE => Get::Stack(N::OutOfBandInline),
        uapi::SO_DONTROUTE => Get::Stack(N::DontRoute),
        uapi::SO_PRIORITY => Get::Stack(N::Priority),
        uapi::SO_SNDBUF => Get::Stack(N::SendBuffer),
        uapi::SO_RCVBUF => Get::Stack(N::ReceiveBuffer),
        uapi::SO_LINGER => Get::Stack(N::Linger),
        uapi::SO_BINDTODEVICE => Get::Stack(N::BindToDevice),
        _ => return Err(uapi::ENOPROTOOPT),
    })
}

/// An option of a stream that is off unless a program turns it on: what a stack without it has, too. `None` for one that
/// every stack has in one way or another.
#[must_use]
pub fn off(name: OptionName) -> Option<SocketOption> {
    use {OptionName as N, SocketOption as O};
    Some(match name {
        N::ReusePort => O::ReusePort(false),
        N::OutOfBandInline => O::OutOfBandInline(false),
        N::DontRoute => O::DontRoute(false),
        N::Priority => O::Priority(0),
        N::Cork => O::Cork(false),
        N::DeferAccept => O::DeferAccept(Duration::ZERO),
        N::UserTimeout => O::UserTimeout(Duration::ZERO),
        N::WindowClamp => O::WindowClamp(0),
        N::FastOpen => O::FastOpen(0),
        N::FastOpenConnect => O::FastOpenConnect(false),
        N::TypeOfService => O::TypeOfService(0),
        N::TrafficClass => O::TrafficClass(0),
        _ => return None,
    })
}

/// The bytes of a number.
#[must_use]
pub fn encode_int(value: i32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// The bytes of a time-out: a `struct timeval`, zero for none.
#[must_use]
pub fn encode_timeout(value: Option<Duration>) -> Vec<u8> {
    let value = value.unwrap_or_default();
    let seconds = i64::try_from(value.as_secs()).unwrap_or(i64::MAX);
    [seconds.to_ne_bytes(), i64::from(value.subsec_micros()).to_ne_bytes()].concat()
}

/// The bytes of an option's value.
#[must_use]
pub fn encode(option: &SocketOption) -> Vec<u8> {
    use SocketOption as O;
    let saturated = |v: u64| encode_int(i32::try_from(v).unwrap_or(i32::MAX));
    match option {
        O::ReuseAddress(on)
        | O::ReusePort(on)
        | O::KeepAlive(on)
        | O::HeaderIncluded(on)
        | O::Broadcast(on)
        | O::OutOfBandInline(on)
        | O::DontRoute(on)
        | O::MulticastLoop(on)
        | O::ReceiveErrors(on)
        | O::V6Only(on)
        | O::MulticastLoop6(on)
        | O::NoDelay(on)
        | O::Cork(on)
        | O::FastOpenConnect(on)
        | O::QuickAck(on) => encode_int(i32::from(*on)),
        O::Linger(time) => {
            let seconds = time.map_or(0, |t| i32::try_from(t.as_secs()).unwrap_or(i32::MAX));
            [i32::from(time.is_some()).to_ne_bytes(), seconds.to_ne_bytes()].concat()
        }
        // The kernel doubles what is set, for its own needs, and shows that (socket(7)).
        O::SendBuffer(bytes) | O::ReceiveBuffer(bytes) => saturated(u64::from(*bytes) * 2),
        O::Ttl(v)
        | O::TypeOfService(v)
        | O::MulticastTtl(v)
        | O::MtuDiscover(v)
        | O::UnicastHops(v)
        | O::TrafficClass(v)
        | O::MulticastHops(v) => encode_int(i32::from(*v)),
        O::Priority(v) => v.to_ne_bytes().to_vec(),
        O::PathMtu(v)
        | O::MulticastInterface6(v)
        | O::KeepCount(v)
        | O::SynCount(v)
        | O::WindowClamp(v)
        | O::FastOpen(v)
        | O::MaxSegment(v) => saturated(u64::from(*v)),
        O::NotSentLowWater(v) => v.to_ne_bytes().to_vec(),
        O::FinTimeout(Duration::ZERO) => encode_int(-1),
        O::KeepIdle(t) | O::KeepInterval(t) | O::DeferAccept(t) | O::FinTimeout(t) => saturated(t.as_secs()),
        O::UserTimeout(t) => saturated(u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
        O::BindToDevice(name) => {
            let mut bytes = name.clone().into_bytes();
            if !bytes.is_empty() {
                bytes.push(0);
            }
            bytes
        }
        O::Congestion(name) => {
            // Sixteen bytes, padded (`TCP_CA_NAME_MAX`).
            let mut bytes = name.clone().into_bytes();
            bytes.resize(16, 0);
            bytes
        }
        O::MulticastInterface(addr) => addr.octets().to_vec(),
        // Options that are only set.
        O::JoinGroup(_) | O::LeaveGroup(_) | O::JoinGroup6(_) | O::LeaveGroup6(_) => Vec::new(),
        _ => Vec::new(),
    }
}

/// `struct tcp_info` as far as `tcpi_rcv_wnd` (linux/tcp.h). Windows and queues are in segments there.
#[must_use]
pub fn encode_tcp_info(info: &TcpInfo) -> Vec<u8> {
    let mut bytes = vec![0u8; 236];
    let micros = |t: Duration| u32::try_from(t.as_micros()).unwrap_or(u32::MAX);
    let mss = info.send_mss.max(1);
    let agreed = &info.agreed;
    let (theirs, ours) = agreed.window_scales.unwrap_or_default();
    bytes[0] = info.state as u8;
    bytes[1] = info.congestion_state as u8;
    bytes[2] = info.backoff;
    bytes[4] = info.backoff;
    // TCPI_OPT_TIMESTAMPS and so on.
    bytes[5] = u8::from(agreed.timestamps)
        | u8::from(agreed.sack) << 1
        | u8::from(agreed.window_scales.is_some()) << 2
        | u8::from(agreed.ecn) << 3
        | u8::from(agreed.fast_open) << 5;
    // tcpi_snd_wscale in the low half, tcpi_rcv_wscale in the high one.
    bytes[6] = theirs & 15 | ours << 4;
    let mut word = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    word(8, micros(info.rto));
    word(16, info.send_mss);
    word(20, info.receive_mss);
    word(24, info.unacknowledged.div_ceil(mss));
    word(28, info.selectively_acknowledged.div_ceil(mss));
    word(32, info.lost.div_ceil(mss));
    word(68, micros(info.rtt));
    word(72, micros(info.rtt_variance));
    // TCP_INFINITE_SSTHRESH
    word(
        76,
        if info.slow_start_threshold == u32::MAX { 0x7fff_ffff } else { info.slow_start_threshold / mss },
    );
    word(80, info.congestion_window.div_ceil(mss));
    word(84, info.send_mss);
    word(96, info.receive_window);
    word(100, info.retransmits);
    word(144, info.not_sent);
    word(148, micros(info.least_rtt));
    let mut long = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    // tcpi_bytes_acked, tcpi_bytes_received
    long(120, info.bytes_sent.saturating_sub(u64::from(info.unacknowledged)));
    long(128, info.bytes_received);
    // tcpi_pacing_rate, tcpi_delivery_rate
    long(104, info.pacing_rate);
    long(160, info.delivery_rate);
    // tcpi_bytes_sent counts what was sent again, too; tcpi_bytes_retrans
    long(200, info.bytes_sent.saturating_add(info.bytes_retransmitted));
    long(208, info.bytes_retransmitted);
    // tcpi_snd_wnd, tcpi_rcv_wnd
    bytes[228..232].copy_from_slice(&info.send_window.to_ne_bytes());
    bytes[232..236].copy_from_slice(&info.receive_window.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests;

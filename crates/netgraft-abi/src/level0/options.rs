//! Socket options as Linux has them, for objects that take Linux's numbers.

use std::ffi::c_int;
use std::time::Duration;

use netgraft_plugin::option::{OptionName, SocketOption, TcpInfo};
use netgraft_plugin::{Domain, Error, Kind, Protocol, Result, SocketSpec, TcpState};

use super::api::{Api, error_of};
use super::sockets::numbers;
use crate::codes;
use crate::convert;
use crate::raw;

/// The level and the name of an option.
const fn place(name: OptionName) -> Option<(c_int, c_int)> {
    use OptionName as N;
    let (level, name) = match name {
        N::ReuseAddress => (libc::SOL_SOCKET, libc::SO_REUSEADDR),
        N::ReusePort => (libc::SOL_SOCKET, libc::SO_REUSEPORT),
        N::KeepAlive => (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
        N::Linger => (libc::SOL_SOCKET, libc::SO_LINGER),
        N::SendBuffer => (libc::SOL_SOCKET, libc::SO_SNDBUF),
        N::ReceiveBuffer => (libc::SOL_SOCKET, libc::SO_RCVBUF),
        N::Broadcast => (libc::SOL_SOCKET, libc::SO_BROADCAST),
        N::OutOfBandInline => (libc::SOL_SOCKET, libc::SO_OOBINLINE),
        N::DontRoute => (libc::SOL_SOCKET, libc::SO_DONTROUTE),
        N::Priority => (libc::SOL_SOCKET, libc::SO_PRIORITY),
        N::Ttl => (libc::IPPROTO_IP, libc::IP_TTL),
        N::TypeOfService => (libc::IPPROTO_IP, libc::IP_TOS),
        N::MulticastTtl => (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
        N::MulticastLoop => (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP),
        N::MulticastInterface => (libc::IPPROTO_IP, libc::IP_MULTICAST_IF),
        N::JoinGroup => (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP),
        N::LeaveGroup => (libc::IPPROTO_IP, libc::IP_DROP_MEMBERSHIP),
        N::PathMtu => (libc::IPPROTO_IP, libc::IP_MTU),
        N::MtuDiscover => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        N::HeaderIncluded => (libc::IPPROTO_IP, libc::IP_HDRINCL),
        N::V6Only => (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
        N::UnicastHops => (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
        N::TrafficClass => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        N::NoDelay => (libc::IPPROTO_TCP, libc::TCP_NODELAY),
        N::Cork => (libc::IPPROTO_TCP, libc::TCP_CORK),
        N::QuickAck => (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
        N::KeepIdle => (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
        N::KeepInterval => (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
        N::KeepCount => (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
        N::UserTimeout => (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
        N::DeferAccept => (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
        N::SynCount => (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
        N::FinTimeout => (libc::IPPROTO_TCP, libc::TCP_LINGER2),
        N::WindowClamp => (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
        N::NotSentLowWater => (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
        N::MaxSegment => (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
        N::Congestion => (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
        N::FastOpen => (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
        N::FastOpenConnect => (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT),
        _ => return None,
    };
    Some((level, name))
}

/// The level and the name of an option that a socket can have: others are not passed on, as objects pass what they do
/// not know to the real system call, or to a connection that is none.
fn place_of(spec: SocketSpec, name: OptionName) -> Option<(c_int, c_int)> {
    place(name).filter(|(level, _)| match *level {
        libc::IPPROTO_TCP => spec.protocol == Protocol::Tcp,
        libc::IPPROTO_IPV6 => spec.domain == Domain::V6,
        _ => name != OptionName::HeaderIncluded || spec.kind == Kind::Raw,
    })
}

/// The options that one of these sockets may have.
pub(super) fn possible(specs: &[SocketSpec]) -> Vec<OptionName> {
    let possible = |name: &OptionName| specs.iter().any(|spec| place_of(*spec, *name).is_some());
    OptionName::ALL.iter().copied().filter(possible).collect()
}

/// The options that an object has, asked of a fresh socket of each kind; what cannot be asked is believed to be there.
pub(super) fn probe(api: &Api, specs: &[SocketSpec]) -> Vec<OptionName> {
    let mut absent = possible(specs);
    for spec in specs {
        let made =
            numbers(*spec).ok().and_then(|(kind, protocol)| api.socket(libc::AF_INET, kind, protocol).ok());
        let Some(h) = made else { return possible(specs) };
        absent.retain(|name| !has(api, h, *spec, *name));
        api.close(h);
    }
    possible(specs).into_iter().filter(|name| !absent.contains(name)).collect()
}

/// Whether a socket has an option. Another error than "unknown" is of an option that it has: `IP_MTU` is told of a
/// connection only.
fn has(api: &Api, h: c_int, spec: SocketSpec, name: OptionName) -> bool {
    let Some((level, number)) = place_of(spec, name) else { return false };
    let answer = match name {
        // It cannot be read (ip(7)). To leave a group without being a member changes nothing.
        OptionName::JoinGroup | OptionName::LeaveGroup => {
            let membership = [[239, 255, 255, 255], [0; 4]].concat();
            api.set_option(h, level, libc::IP_DROP_MEMBERSHIP, &membership)
        }
        _ => api.get_option(h, level, number, &mut [0; 32]),
    };
    !matches!(answer, Err(libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL))
}

/// Seconds, rounded up, in an int.
fn seconds(time: Duration) -> c_int {
    let whole = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    c_int::try_from(whole).unwrap_or(c_int::MAX)
}

fn in_milliseconds(name: OptionName) -> bool {
    name == OptionName::UserTimeout
}

/// The bytes of a value as setsockopt(2) takes them.
fn encode(option: &SocketOption) -> Result<Vec<u8>> {
    let value = convert::to_option(option).ok_or(Error::UnknownOption)?;
    // SAFETY: all members are integers, and all 32 bytes of the union were initialised by `to_option`.
    let (number, ipv4, group4) = unsafe { (value.value.number, value.value.ipv4, value.value.group4) };
    Ok(match (option, value.r#type) {
        (SocketOption::Linger(time), _) => {
            let (on, time) = time.map_or((0, 0), |time| (1, seconds(time)));
            [c_int::to_ne_bytes(on), time.to_ne_bytes()].concat()
        }
        (SocketOption::Congestion(name), _) => name.clone().into_bytes(),
        // Not to wait at all.
        (SocketOption::FinTimeout(Duration::ZERO), _) => c_int::to_ne_bytes(-1).to_vec(),
        (_, codes::VALUE_DURATION) => {
            let time = Duration::from_nanos(number);
            let value = if in_milliseconds(option.name()) {
                c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX)
            } else {
                seconds(time)
            };
            value.to_ne_bytes().to_vec()
        }
        (_, codes::VALUE_IPV4) => ipv4.to_vec(),
        (_, codes::VALUE_GROUP4) => [group4.group, group4.interface_address].concat(),
        _ => c_int::try_from(number).map_err(|_| Error::Invalid)?.to_ne_bytes().to_vec(),
    })
}

/// The value in the bytes that getsockopt(2) gave; `None` for nonsense.
fn decode(name: OptionName, bytes: &[u8]) -> Option<SocketOption> {
    let mut value = convert::option_query(name)?;
    let int = |at: usize| {
        let bytes = bytes.get(at..at + size_of::<c_int>())?;
        u64::try_from(c_int::from_ne_bytes(bytes.try_into().ok()?)).ok()
    };
    match value.r#type {
        codes::VALUE_TEXT => {
            let text = bytes.iter().copied().take_while(|b| *b != 0).take(31);
            let mut whole = [0; 32];
            whole.iter_mut().zip(text).for_each(|(to, from)| *to = from);
            value.value.text = whole;
        }
        codes::VALUE_IPV4 => value.value.ipv4 = bytes.get(..4)?.try_into().ok()?,
        codes::VALUE_DURATION if name == OptionName::Linger => {
            value.value.nanoseconds = match int(0)? {
                0 => raw::NONE,
                _ => int(4)? * 1_000_000_000,
            };
        }
        codes::VALUE_DURATION if name == OptionName::FinTimeout && bytes == c_int::to_ne_bytes(-1) => {
            value.value.nanoseconds = 0;
        }
        codes::VALUE_DURATION => {
            let unit = if in_milliseconds(name) { 1_000_000 } else { 1_000_000_000 };
            value.value.nanoseconds = int(0)? * unit;
        }
        codes::VALUE_BOOL => value.value.number = int(0)?.min(1),
        // What Linux has doubled, the sentry's answer doubles again.
        _ if matches!(name, OptionName::SendBuffer | OptionName::ReceiveBuffer) => {
            value.value.number = int(0)? / 2;
        }
        // Some stacks answer options of one byte with one byte.
        _ if bytes.len() == 1 => value.value.number = u64::from(bytes[0]),
        _ => value.value.number = int(0)?,
    }
    convert::from_option(&value)
}

/// Sets an option of a socket. Objects may do that without being able to tell it: what is not in `known` is tried.
pub(super) fn set(
    api: &Api,
    (h, spec): (c_int, SocketSpec),
    known: &[OptionName],
    option: &SocketOption,
) -> Result<()> {
    let (level, name) = place_of(spec, option.name()).ok_or(Error::UnknownOption)?;
    let value = encode(option)?;
    match api.set_option(h, level, name, &value) {
        Ok(_) => Ok(()),
        Err(_) if !known.contains(&option.name()) => Err(Error::UnknownOption),
        Err(errno) => Err(unknown(errno)),
    }
}

/// An option of another protocol is EOPNOTSUPP in some places of Linux and ENOPROTOOPT in others.
fn unknown(errno: c_int) -> Error {
    if errno == libc::EOPNOTSUPP { Error::UnknownOption } else { error_of(errno) }
}

pub(super) fn get(
    api: &Api,
    (h, spec): (c_int, SocketSpec),
    known: &[OptionName],
    name: OptionName,
) -> Result<SocketOption> {
    let (level, number) =
        place_of(spec, name).filter(|_| known.contains(&name)).ok_or(Error::UnknownOption)?;
    let mut value = [0; 32];
    let len = api.get_option(h, level, number, &mut value).map_err(unknown)?;
    decode(name, value.get(..len).unwrap_or_default()).ok_or_else(|| {
        let what = format_args!("{len} bytes that are no value of {name:?}");
        error_of(api.complain(crate::watch::Call::plugin_getsockopt, what))
    })
}

/// `TCP_INFO` (tcp(7)), of which the head is the same in all versions.
pub(super) fn tcp_info(api: &Api, h: c_int) -> Result<TcpInfo> {
    // What an older stack does not write stays zero.
    let mut bytes = [0_u8; size_of::<libc::tcp_info>()];
    let len = api.get_option(h, libc::IPPROTO_TCP, libc::TCP_INFO, &mut bytes).map_err(error_of)?;
    if len < 104 {
        return Err(Error::NotSupported);
    }
    // SAFETY: `tcp_info` is made of integers, for which all bytes are values, and the array has its size.
    let info: libc::tcp_info = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
    let state = codes::tcp_state_of(info.tcpi_state.into()).unwrap_or(TcpState::Closed);
    let micros = |n: u32| Duration::from_micros(n.into());
    Ok(TcpInfo {
        state,
        rtt: micros(info.tcpi_rtt),
        rtt_variance: micros(info.tcpi_rttvar),
        rto: micros(info.tcpi_rto),
        send_mss: info.tcpi_snd_mss,
        receive_mss: info.tcpi_rcv_mss,
        congestion_window: info.tcpi_snd_cwnd.saturating_mul(info.tcpi_snd_mss),
        slow_start_threshold: info.tcpi_snd_ssthresh.saturating_mul(info.tcpi_snd_mss),
        // Of a listener these are its queue and its backlog, and no segments.
        unacknowledged: info.tcpi_unacked.saturating_mul(info.tcpi_snd_mss.max(1)),
        selectively_acknowledged: info.tcpi_sacked.saturating_mul(info.tcpi_snd_mss.max(1)),
        lost: info.tcpi_lost.saturating_mul(info.tcpi_snd_mss),
        retransmits: info.tcpi_total_retrans,
        receive_window: info.tcpi_rcv_space,
        bytes_sent: info.tcpi_bytes_sent.saturating_sub(info.tcpi_bytes_retrans),
        bytes_received: info.tcpi_bytes_received,
        ..TcpInfo::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were_set() {
        let s = Duration::from_secs;
        for option in [
            SocketOption::NoDelay(true),
            SocketOption::KeepAlive(false),
            SocketOption::Linger(None),
            SocketOption::Linger(Some(s(0))),
            SocketOption::Linger(Some(s(5))),
            SocketOption::KeepIdle(s(70)),
            SocketOption::FinTimeout(s(0)),
            SocketOption::FinTimeout(s(7)),
            SocketOption::UserTimeout(Duration::from_millis(1500)),
            SocketOption::Ttl(64),
            SocketOption::Priority(6),
            SocketOption::Congestion("cubic".into()),
            SocketOption::MulticastInterface([192, 0, 2, 1].into()),
        ] {
            assert_eq!(decode(option.name(), &encode(&option).unwrap()), Some(option));
        }
        assert_eq!(
            encode(&SocketOption::KeepIdle(Duration::from_millis(1))),
            encode(&SocketOption::KeepIdle(s(1)))
        );
        let doubled = decode(OptionName::SendBuffer, &8192_i32.to_ne_bytes());
        assert_eq!(doubled, Some(SocketOption::SendBuffer(4096)));
    }

    #[test]
    fn nonsense_is_no_value() {
        for (name, bytes) in [
            (OptionName::NoDelay, &[][..]),
            (OptionName::NoDelay, &[1, 0]),
            (OptionName::Ttl, &(-1_i32).to_ne_bytes()),
            (OptionName::Ttl, &300_i32.to_ne_bytes()),
            (OptionName::Linger, &1_i32.to_ne_bytes()),
            (OptionName::Congestion, b"\xff\xfe"),
        ] {
            assert_eq!(decode(name, bytes), None, "{name:?}");
        }
    }
}

//! Socket options that a program asked for and does not have here, for the operator: each is named once.

use crate::uapi::{self, Errno};

/// Options that are remembered as named. A program that makes up more is not listened to.
const MOST: usize = 128;

/// The options that were named.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    named: Vec<(i32, i32)>,
}

impl Refused {
    /// Notes that a call was refused: the option's name if it is to be said now.
    pub(crate) fn note(&mut self, level: i32, name: i32, errno: Errno) -> Option<String> {
        let unknown = [uapi::ENOPROTOOPT, uapi::EOPNOTSUPP, uapi::EPERM].contains(&errno);
        if !unknown || self.named.len() >= MOST || self.named.contains(&(level, name)) {
            return None;
        }
        self.named.push((level, name));
        Some(text(level, name))
    }
}

/// What an errno of these is called.
pub(crate) fn errno_name(errno: Errno) -> String {
    let known = [
        (uapi::ENOPROTOOPT, "ENOPROTOOPT"),
        (uapi::EOPNOTSUPP, "EOPNOTSUPP"),
        (uapi::EPERM, "EPERM"),
        (uapi::EINVAL, "EINVAL"),
    ];
    let name = known.into_iter().find(|(number, _)| *number == errno);
    name.map_or_else(|| format!("errno {errno}"), |(_, name)| name.to_owned())
}

/// An option as programs write it, such as `SOL_SOCKET, SO_ZEROCOPY`; by its number where it has no name here.
pub(crate) fn text(level: i32, name: i32) -> String {
    let level_name = LEVELS.iter().find(|(number, ..)| *number == level);
    let option = level_name.and_then(|(_, _, names)| names.iter().find(|(number, _)| *number == name));
    let level = level_name.map_or_else(|| format!("level {level}"), |(_, text, _)| (*text).to_owned());
    match option {
        Some((_, option)) => format!("{level}, {option}"),
        None => format!("{level}, option {name}"),
    }
}

type Names = [(i32, &'static str)];

/// Levels (ip(7), tcp(7), udp(7), ipv6(7), socket(7)) and their options (asm-generic/socket.h, linux/in.h, linux/in6.h,
/// linux/tcp.h, linux/udp.h), those that programs are found to ask for.
const LEVELS: [(i32, &str, &Names); 7] = [
    (1, "SOL_SOCKET", &SOCKET),
    (0, "IPPROTO_IP", &IP),
    (6, "IPPROTO_TCP", &TCP),
    (17, "IPPROTO_UDP", &UDP),
    (41, "IPPROTO_IPV6", &IPV6),
    (58, "IPPROTO_ICMPV6", &[(1, "ICMPV6_FILTER")]),
    (255, "IPPROTO_RAW", &[(1, "ICMP_FILTER")]),
];

const SOCKET: [(i32, &str); 30] = [
    (2, "SO_REUSEADDR"),
    (7, "SO_SNDBUF"),
    (8, "SO_RCVBUF"),
    (12, "SO_PRIORITY"),
    (14, "SO_BSDCOMPAT"),
    (15, "SO_REUSEPORT"),
    (18, "SO_RCVLOWAT"),
    (19, "SO_SNDLOWAT"),
    (25, "SO_BINDTODEVICE"),
    (26, "SO_ATTACH_FILTER"),
    (27, "SO_DETACH_FILTER"),
    (29, "SO_TIMESTAMP"),
    (32, "SO_SNDBUFFORCE"),
    (33, "SO_RCVBUFFORCE"),
    (35, "SO_TIMESTAMPNS"),
    (36, "SO_MARK"),
    (37, "SO_TIMESTAMPING"),
    (40, "SO_RXQ_OVFL"),
    (42, "SO_PEEK_OFF"),
    (44, "SO_LOCK_FILTER"),
    (45, "SO_SELECT_ERR_QUEUE"),
    (46, "SO_BUSY_POLL"),
    (47, "SO_MAX_PACING_RATE"),
    (49, "SO_INCOMING_CPU"),
    (50, "SO_ATTACH_BPF"),
    (55, "SO_MEMINFO"),
    (56, "SO_INCOMING_NAPI_ID"),
    (60, "SO_ZEROCOPY"),
    (61, "SO_TXTIME"),
    (69, "SO_PREFER_BUSY_POLL"),
];
const IP: [(i32, &str); 17] = [
    (4, "IP_OPTIONS"),
    (5, "IP_ROUTER_ALERT"),
    (13, "IP_RECVTOS"),
    (15, "IP_FREEBIND"),
    (18, "IP_PASSSEC"),
    (19, "IP_TRANSPARENT"),
    (20, "IP_ORIGDSTADDR"),
    (21, "IP_MINTTL"),
    (22, "IP_NODEFRAG"),
    (23, "IP_CHECKSUM"),
    (24, "IP_BIND_ADDRESS_NO_PORT"),
    (25, "IP_RECVFRAGSIZE"),
    (37, "IP_UNBLOCK_SOURCE"),
    (39, "IP_ADD_SOURCE_MEMBERSHIP"),
    (41, "IP_MSFILTER"),
    (49, "IP_MULTICAST_ALL"),
    (51, "IP_LOCAL_PORT_RANGE"),
];
const TCP: [(i32, &str); 17] = [
    (13, "TCP_CONGESTION"),
    (14, "TCP_MD5SIG"),
    (16, "TCP_THIN_LINEAR_TIMEOUTS"),
    (19, "TCP_REPAIR"),
    (23, "TCP_FASTOPEN"),
    (24, "TCP_TIMESTAMP"),
    (26, "TCP_CC_INFO"),
    (27, "TCP_SAVE_SYN"),
    (28, "TCP_SAVED_SYN"),
    (30, "TCP_FASTOPEN_CONNECT"),
    (31, "TCP_ULP"),
    (33, "TCP_FASTOPEN_KEY"),
    (34, "TCP_FASTOPEN_NO_COOKIE"),
    (35, "TCP_ZEROCOPY_RECEIVE"),
    (36, "TCP_INQ"),
    (37, "TCP_TX_DELAY"),
    (44, "TCP_RTO_MAX_MS"),
];
const UDP: [(i32, &str); 4] = [(1, "UDP_CORK"), (100, "UDP_ENCAP"), (103, "UDP_SEGMENT"), (104, "UDP_GRO")];
const IPV6: [(i32, &str); 14] = [
    (22, "IPV6_ROUTER_ALERT"),
    (27, "IPV6_JOIN_ANYCAST"),
    (29, "IPV6_MULTICAST_ALL"),
    (33, "IPV6_FLOWINFO_SEND"),
    (53, "IPV6_RECVHOPOPTS"),
    (56, "IPV6_RECVRTHDR"),
    (60, "IPV6_RECVPATHMTU"),
    (62, "IPV6_DONTFRAG"),
    (70, "IPV6_AUTOFLOWLABEL"),
    (72, "IPV6_ADDR_PREFERENCES"),
    (73, "IPV6_MINHOPCOUNT"),
    (74, "IPV6_ORIGDSTADDR"),
    (75, "IPV6_TRANSPARENT"),
    (78, "IPV6_FREEBIND"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_is_named_once_and_errors_of_values_never() {
        let mut refused = Refused::default();
        assert_eq!(refused.note(1, 60, uapi::ENOPROTOOPT).as_deref(), Some("SOL_SOCKET, SO_ZEROCOPY"));
        assert_eq!(refused.note(1, 60, uapi::ENOPROTOOPT), None);
        assert_eq!(refused.note(1, 61, uapi::EINVAL), None);
        assert_eq!(refused.note(6, 999, uapi::ENOPROTOOPT).as_deref(), Some("IPPROTO_TCP, option 999"));
        assert_eq!(refused.note(-5, 1, uapi::EPERM).as_deref(), Some("level -5, option 1"));
        for name in 0..1000 {
            refused.note(270, name, uapi::EOPNOTSUPP);
        }
        assert_eq!(refused.named.len(), MOST);
        assert_eq!(errno_name(uapi::ENOPROTOOPT), "ENOPROTOOPT");
    }

    #[test]
    fn names_are_in_order_and_once() {
        for (_, level, names) in LEVELS {
            assert!(names.is_sorted_by(|a, b| a.0 < b.0), "{level}");
        }
    }
}

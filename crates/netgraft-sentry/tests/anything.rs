//! Whatever bytes and numbers a program gives: no panic, and what is understood means the same when it is written
//! back.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use netgraft_core::codec::call::{self, Buffer, Call};
use netgraft_core::codec::message::{self, ControlWriter};
use netgraft_core::codec::sockopt::{self, Get, Set};
use netgraft_core::codec::{ioctl, sockaddr};
use netgraft_plugin::inet::Interface;
use netgraft_plugin::{Cidr, Domain, Kind, Protocol, SocketSpec};
use proptest::collection::vec;
use proptest::prelude::*;

fn config() -> ProptestConfig {
    // A failure prints its input; no file is left behind.
    ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() }
}

fn domain() -> impl Strategy<Value = Domain> {
    prop_oneof![Just(Domain::V4), Just(Domain::V6)]
}

fn spec() -> impl Strategy<Value = SocketSpec> {
    let kinds = prop_oneof![
        Just((Kind::Stream, Protocol::Tcp)),
        Just((Kind::Datagram, Protocol::Udp)),
        Just((Kind::Datagram, Protocol::Icmp)),
        any::<u8>().prop_map(|number| (Kind::Raw, Protocol::Raw(number))),
    ];
    (domain(), kinds).prop_map(|(domain, (kind, protocol))| SocketSpec { domain, kind, protocol })
}

/// Small numbers, which mean something, more often than others.
fn number() -> impl Strategy<Value = i32> {
    prop_oneof![4 => -2..300, 1 => any::<i32>()]
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let v6 = (any::<[u8; 16]>(), any::<u16>(), any::<u32>(), any::<u32>())
        .prop_map(|(ip, port, flow, scope)| SocketAddrV6::new(ip.into(), port, flow, scope).into());
    prop_oneof![any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))), v6]
}

fn interface() -> impl Strategy<Value = Interface> {
    let cidr = (any::<IpAddr>(), 0..=128u8).prop_filter_map("a prefix that fits", |(ip, p)| Cidr::new(ip, p));
    (any::<u32>(), ".{0,20}", any::<u32>(), any::<[bool; 2]>(), any::<Option<[u8; 6]>>(), vec(cidr, 0..4))
        .prop_map(|(index, name, mtu, [up, loopback], hardware_address, addresses)| Interface {
            index,
            name,
            mtu,
            up,
            loopback,
            hardware_address,
            addresses,
        })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn addresses(domain in domain(), family in 0..12u16, bytes in vec(any::<u8>(), 0..sockaddr::MAX_LEN), addr in address()) {
        let mut bytes = bytes;
        if let Some(field) = bytes.first_chunk_mut::<2>() {
            *field = family.to_ne_bytes();
        }
        let _ = sockaddr::parse_for_bind(domain, &bytes);
        if let Ok(sockaddr::Given::Inet(given)) = sockaddr::parse(domain, &bytes) {
            let back = sockaddr::encode(domain, given);
            prop_assert_eq!(sockaddr::parse(domain, back.bytes()), Ok(sockaddr::Given::Inet(given)));
        }
        // Every address of a stack can be shown on every socket, except that IPv4 has no room for IPv6.
        let shown = sockaddr::encode(domain, addr);
        prop_assert!(shown.bytes().len() <= sockaddr::MAX_LEN);
        if domain == Domain::V6 || addr.is_ipv4() {
            prop_assert!(sockaddr::parse(domain, shown.bytes()).is_ok());
        }
    }

    #[test]
    fn message_headers_and_parts(header in vec(any::<u8>(), message::HEADER_LEN), parts in vec(any::<u8>(), 0..300)) {
        let header = message::parse_header(&header.try_into().expect("its length"));
        prop_assert!(header.name.len <= u64::from(u32::MAX));
        if let Ok(parsed) = message::parse_parts(&parts) {
            prop_assert_eq!(parsed.len(), parts.len() / message::PART_LEN);
            let total: u128 = parsed.iter().map(|p| u128::from(p.len)).sum();
            prop_assert!(total <= i64::MAX as u128);
        }
    }

    #[test]
    fn control_messages(
        bytes in vec(any::<u8>(), 0..200),
        lengths in vec((0..200usize, 0..60u64), 0..4),
        room in 0..300u64,
        written in vec((any::<i32>(), any::<i32>(), vec(any::<u8>(), 0..50)), 0..6),
    ) {
        let mut bytes = bytes;
        for (at, len) in lengths {
            // Lengths that may be right, where one may stand.
            if let Some(field) = bytes.get_mut(at / 8 * 8..).and_then(|b| b.first_chunk_mut::<8>()) {
                *field = len.to_ne_bytes();
            }
        }
        if let Ok(controls) = message::parse_controls(&bytes) {
            prop_assert!(controls.iter().map(|c| c.data.len()).sum::<usize>() <= bytes.len());
        }
        let mut writer = ControlWriter::new(room);
        for (level, kind, data) in &written {
            writer.push(*level, *kind, data);
        }
        let (bytes, truncated) = writer.finish();
        prop_assert!(bytes.len() as u64 <= room);
        let controls = message::parse_controls(&bytes).expect("what the sentry writes can be read");
        prop_assert!(truncated || controls.len() == written.len());
        for (i, (control, (level, kind, data))) in controls.iter().zip(&written).enumerate() {
            prop_assert_eq!((control.level, control.kind), (*level, *kind));
            let last = i + 1 == controls.len();
            prop_assert!(control.data == &data[..] || truncated && last && data.starts_with(control.data));
        }
    }

    #[test]
    fn options(
        spec in spec(),
        level in prop_oneof![Just(libc::SOL_SOCKET), Just(libc::IPPROTO_TCP), Just(libc::IPPROTO_IP), Just(libc::IPPROTO_IPV6), any::<i32>()],
        name in prop_oneof![8 => 0..80, 1 => any::<i32>()],
        value in prop_oneof![vec(any::<u8>(), 0..40), (number(), number()).prop_map(|(a, b)| [a.to_ne_bytes(), b.to_ne_bytes()].concat())],
    ) {
        let get = sockopt::parse_get(spec, level, name);
        let set = sockopt::parse_set(spec, level, name, &value);
        if let (Ok(Get::Stack(read)), Ok(Set::Stack(option))) = (get, &set) {
            prop_assert_eq!(read, option.name());
            let doubled = matches!(name, libc::SO_SNDBUF | libc::SO_RCVBUF) && level == libc::SOL_SOCKET;
            let bytes = sockopt::encode(option);
            let again = sockopt::parse_set(spec, level, name, &bytes);
            if let Ok(Set::Stack(again)) = &again {
                prop_assert!(doubled || sockopt::encode(again) == bytes, "{:?} became {:?}", option, again);
            } else {
                // Only what a program may set, but never reads from a socket, has no way back.
                prop_assert!(bytes.is_empty(), "{:?}: {:?}", option, again);
            }
        }
        if let Ok(Set::Timeout(_, time)) = set {
            let bytes = sockopt::encode_timeout(time);
            prop_assert_eq!(bytes.len(), 16);
        }
    }

    #[test]
    fn requests(
        request in prop_oneof![8 => 0x8900..0x8980u32, 1 => any::<u32>()],
        bytes in vec(any::<u8>(), ioctl::REQUEST_LEN),
        interfaces in vec(interface(), 0..4),
        named in any::<bool>(),
        list in vec(any::<u8>(), ioctl::LIST_LEN),
    ) {
        let mut bytes: [u8; ioctl::REQUEST_LEN] = bytes.try_into().expect("its length");
        if let (true, Some(interface)) = (named, interfaces.first()) {
            bytes[..16].fill(0);
            bytes[..15].iter_mut().zip(interface.name.bytes()).for_each(|(to, from)| *to = from);
        }
        let before = bytes;
        let _ = ioctl::parse(request);
        if ioctl::answer(request, &interfaces, &mut bytes).is_err() {
            prop_assert_eq!(bytes, before, "a request that fails changes nothing");
        }
        let addresses = interfaces.iter().flat_map(|i| &i.addresses).filter(|a| a.addr().is_ipv4()).count();
        prop_assert_eq!(ioctl::list(&interfaces).len(), addresses * ioctl::REQUEST_LEN);
        let list: [u8; ioctl::LIST_LEN] = list.try_into().expect("its length");
        if let Some(Buffer { address, len }) = ioctl::parse_list(&list) {
            prop_assert!(address != 0 && len <= i32::MAX as u64);
        }
    }

    #[test]
    fn calls(nr in prop_oneof![4 => 0..500i64, 1 => any::<i64>()], args in any::<[u64; 6]>(), new in (0..12i32, number(), number())) {
        if let Some(call) = Call::parse(nr, args) {
            prop_assert!(call.fd().is_none_or(|fd| fd == args[0] as i32));
        }
        let (domain, kind, protocol) = new;
        if let Ok(made) = call::new_socket(domain, kind, protocol) {
            prop_assert_eq!(call::domain_number(made.spec.domain), domain);
            prop_assert_eq!(call::kind_number(made.spec.kind), kind & 0xf);
            prop_assert!(protocol == 0 || call::protocol_number(made.spec.protocol) == protocol);
        }
    }
}

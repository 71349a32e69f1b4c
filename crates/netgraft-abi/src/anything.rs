//! Whatever an object says or writes: no panic, and what is understood means the same when it is written back.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netgraft_plugin::inet::{BufferSizes, Interface, Route};
use netgraft_plugin::option::{OptionName, TcpInfo};
use netgraft_plugin::{Cidr, Domain, Kind, Protocol, SocketSpec};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::level0::{envelope, json};
use crate::{convert, raw};

fn cidr() -> impl Strategy<Value = Cidr> {
    (any::<IpAddr>(), 0..=128u8).prop_filter_map("a prefix that fits", |(ip, prefix)| Cidr::new(ip, prefix))
}

/// Texts that look like an object's answers more or less.
fn text() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        "\"[ -~]{0,12}\"",
        any::<IpAddr>().prop_map(|ip| format!("\"{ip}\"")),
        cidr().prop_map(|cidr| format!("\"{cidr}\"")),
        Just("null".to_owned()),
        Just("true".to_owned()),
    ];
    let names = [
        "name",
        "mtu",
        "Flags",
        "Addr",
        "dstaddr",
        "gateway",
        "prefixlen",
        "dstlen",
        "family",
        "min",
        "max",
        "1",
    ];
    let nested = value.prop_recursive(4, 32, 6, move |inner| {
        let member =
            (prop::sample::select(names.to_vec()), inner.clone()).prop_map(|(n, v)| format!("\"{n}\":{v}"));
        prop_oneof![
            vec(inner, 0..6).prop_map(|all| format!("[{}]", all.join(","))),
            vec(member, 0..6).prop_map(|all| format!("{{{}}}", all.join(","))),
        ]
    });
    prop_oneof![4 => nested, 1 => any::<String>(), 1 => "[0-9 ,\t-]{0,20}"]
}

fn bytes32() -> impl Strategy<Value = [u8; 32]> {
    prop_oneof![
        any::<[u8; 32]>(),
        // Small numbers, which mean something, in the first eight bytes.
        (0..300u64).prop_map(|number| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_ne_bytes());
            bytes
        }),
    ]
}

proptest! {
    // A failure prints its input; no file is left behind.
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_of_level_0(one in text(), other in text(), index in any::<u32>()) {
        for interface in json::interfaces(&one, &other) {
            prop_assert!(!interface.name.is_empty() && interface.index != 0);
        }
        for route in json::routes(&one, index) {
            prop_assert!(route.interface == index || route.interface != 0);
        }
        if let Some(sizes) = json::sizes(&one) {
            prop_assert!(sizes.min <= sizes.default && sizes.default <= sizes.max);
        }
        if let Some((first, last)) = json::ports(&one) {
            prop_assert!(first <= last);
        }
    }

    #[test]
    fn envelopes(
        sealed in vec(1..=255u8, 0..100),
        present in vec(any::<bool>(), 0..=envelope::FDS),
        text in prop_oneof![any::<String>(), "level0 [+x-]{0,9}\n?(%[0-9a-g]{0,2}|[ -~]|é){0,9}"],
    ) {
        let envelope = envelope::seal(&sealed, &present);
        prop_assert!(envelope.is_ascii());
        prop_assert_eq!(envelope::open(&envelope), Some((sealed, present)));
        if let Some((inside, present)) = envelope::open(&text) {
            prop_assert!(!inside.contains(&0) && present.len() <= envelope::FDS);
        }
    }

    #[test]
    fn addresses(ip in any::<(u16, [u8; 16])>(), port in any::<u16>(), prefix in any::<u8>(), known in any::<IpAddr>()) {
        let given = raw::Ip { family: ip.0 % 12, reserved: 0, bytes: ip.1 };
        let address = raw::Address { ip: given, port, ..Default::default() };
        if let Ok(Some(parsed)) = convert::from_address(&address) {
            prop_assert_eq!(convert::from_address(&convert::to_address(parsed)), Ok(Some(parsed)));
        }
        if let Some(parsed) = convert::from_cidr(&raw::Cidr { ip: given, prefix, ..Default::default() }) {
            prop_assert_eq!(convert::from_cidr(&convert::to_cidr(parsed)), Some(parsed));
        }
        let socket = SocketAddr::new(known, port);
        prop_assert_eq!(convert::from_address(&convert::to_address(socket)), Ok(Some(socket)));
    }

    #[test]
    fn sockets(numbers in any::<(u16, u8, u8, u8)>(), raw_protocol in any::<u8>()) {
        let (family, kind, protocol, number) = numbers;
        let (family, kind, protocol) = (family % 12, kind % 5, protocol % 7);
        let given = raw::SocketSpec { family, kind, protocol, number, ..Default::default() };
        if let Some(spec) = convert::from_spec(&given) {
            prop_assert_eq!(convert::from_spec(&convert::to_spec(spec)), Some(spec));
        }
        let spec = SocketSpec { domain: Domain::V6, kind: Kind::Raw, protocol: Protocol::Raw(raw_protocol) };
        prop_assert_eq!(convert::from_spec(&convert::to_spec(spec)), Some(spec));
    }

    #[test]
    fn options(name in 0..60u32, r#type in 0..9u32, right in any::<bool>(), value in bytes32()) {
        let mut given = raw::Opt { name, r#type, value: raw::Value { text: value } };
        if let (true, Some(name)) = (right, crate::codes::option_of(name)) {
            given.r#type = convert::value_type(name);
        }
        if let Some(option) = convert::from_option(&given) {
            let back = convert::to_option(&option).expect("what was read can be written");
            prop_assert_eq!(convert::from_option(&back), Some(option));
        }
    }

    #[test]
    fn settings(
        index in any::<u32>(),
        name in vec(any::<u8>(), 16),
        mtu in any::<u32>(),
        flags in any::<[u8; 3]>(),
        hardware_address in any::<[u8; 6]>(),
        addresses in vec(cidr(), 0..3),
        sizes in any::<[u32; 3]>(),
        gateway in any::<Option<IpAddr>>(),
    ) {
        let [up, loopback, has_hardware_address] = flags;
        let name = name.try_into().expect("its length");
        let given = raw::Interface {
            index,
            mtu,
            name,
            up,
            loopback,
            has_hardware_address,
            hardware_address,
            ..Default::default()
        };
        if let Some(interface) = convert::from_interface(&given, addresses.clone()) {
            let back = convert::from_interface(&convert::to_interface(&interface), addresses.clone());
            prop_assert_eq!(back, Some::<Interface>(interface));
        }
        let [min, default_size, max] = sizes;
        if let Some(BufferSizes { min, default, max }) = convert::from_sizes(raw::BufferSizes { min, default_size, max }) {
            prop_assert!(min <= default && default <= max);
        }
        for destination in addresses {
            let route = Route { destination, gateway, interface: index };
            prop_assert_eq!(convert::from_route(&convert::to_route(&route)), Some(route));
        }
    }

    #[test]
    fn what_was_received(len in any::<u64>(), full in any::<u64>(), small in any::<bool>(), capacity in 0..70_000usize, family in 0..12u16) {
        let scale = |n: u64| if small { n % 70_000 } else { n };
        let mut given = raw::Received { len: scale(len), full_len: scale(full), ..Default::default() };
        given.from.ip.family = family;
        if let Some(received) = convert::from_received(&given, capacity) {
            prop_assert!(received.len <= capacity && received.len <= received.full_len);
            prop_assert_eq!(convert::from_received(&convert::to_received(&received), capacity), Some(received));
        }
    }

    #[test]
    fn times_and_states(state in 0..14u32, nanos in any::<u64>(), seconds in any::<u64>()) {
        prop_assert!(convert::nanos(Duration::from_secs(seconds)) < raw::NONE);
        let given = raw::TcpInfo { state, rtt: nanos, ..convert::to_tcp_info(&TcpInfo::default()) };
        if let Some(info) = convert::from_tcp_info(&given) {
            prop_assert_eq!(convert::from_tcp_info(&convert::to_tcp_info(&info)), Some(info));
        }
    }

    #[test]
    fn details_of_a_connection(
        state in 0..7u32, agreed in 0..64u32, scales in (0..20u8, 0..20u8), backoff in 0..300u32, least in any::<u64>(),
    ) {
        let details = raw::TcpDetails {
            congestion_state: state, agreed, backoff, least_rtt: least,
            send_window_scale: scales.0, receive_window_scale: scales.1,
            ..raw::TcpDetails::default()
        };
        let scaled = agreed & crate::codes::AGREED_WINDOW_SCALES != 0;
        let good = state < 5 && backoff < 256 && !(scaled && scales.0.max(scales.1) > 14);
        let info = convert::with_tcp_details(TcpInfo::default(), &details);
        prop_assert_eq!(info.is_some(), good);
        if let Some(info) = info {
            let back = convert::to_tcp_details(&info);
            prop_assert_eq!(convert::with_tcp_details(TcpInfo::default(), &back), Some(info));
        }
    }

    #[test]
    fn counters_of_tcp(values in prop::collection::vec((0..24u32, any::<u64>()), 0..20)) {
        let list: Vec<raw::TcpCounter> =
            values.iter().map(|&(count, value)| raw::TcpCounter { count, reserved: 0, value }).collect();
        let counted = convert::from_tcp_counters(&list);
        let back: Vec<raw::TcpCounter> = convert::to_tcp_counters(&counted).collect();
        prop_assert_eq!(convert::from_tcp_counters(&back), counted);
        for &raw::TcpCounter { count, value, .. } in &back {
            let last = values.iter().rev().find(|(of, _)| *of == count);
            prop_assert_eq!(value, last.map_or(0, |(_, value)| *value));
        }
    }
}

#[test]
fn every_option_of_the_contract_has_a_number() {
    for &name in OptionName::ALL {
        assert!(convert::option_query(name).is_some(), "{name:?}");
    }
}

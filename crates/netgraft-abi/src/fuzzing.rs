//! What an object writes, as functions of bytes for a fuzzer: the feature `fuzzing`. Not a part of the interface.

use std::net::IpAddr;

use crate::level0::{envelope, json};
use crate::raw::{Ip, Received, Value};
use crate::{codes, convert, elf, raw};

/// Bytes taken apart, from the first on. What is not there any more is zero.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut array = [0; N];
        array.iter_mut().zip(taken).for_each(|(to, from)| *to = *from);
        array
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number that is small more often than not.
    fn number(&mut self) -> u64 {
        match self.u8() {
            255 => self.u64(),
            254 => self.u32().into(),
            small => small.into(),
        }
    }

    fn ip(&mut self) -> Ip {
        Ip { family: u16::from(self.u8()), reserved: self.u16(), bytes: self.array() }
    }

    fn address(&mut self) -> raw::Address {
        let (ip, port, reserved) = (self.ip(), self.u16(), self.u16());
        raw::Address { ip, port, reserved, flow_info: self.u32(), scope_id: self.u32() }
    }

    fn cidr(&mut self) -> raw::Cidr {
        raw::Cidr { ip: self.ip(), prefix: self.u8(), reserved: self.array() }
    }
}

/// Structures of `netgraft.h`: the first byte says which. What is understood means the same when it is written back.
///
/// # Panics
/// If it does not.
pub fn structures(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    match bytes.u8() % 8 {
        0 => addresses(&mut bytes),
        1 => sockets(&mut bytes),
        2 => options(&mut bytes),
        3 => interfaces(&mut bytes),
        4 => received(&mut bytes),
        5 => routes(&mut bytes),
        6 => tcp_info(&mut bytes),
        _ => results(&mut bytes),
    }
}

fn addresses(bytes: &mut Bytes<'_>) {
    let given = bytes.address();
    if let Ok(Some(addr)) = convert::from_address(&given) {
        assert_eq!(convert::from_address(&convert::to_address(addr)), Ok(Some(addr)));
    }
    if let Some(cidr) = convert::from_cidr(&bytes.cidr()) {
        assert_eq!(convert::from_cidr(&convert::to_cidr(cidr)), Some(cidr));
        assert!(cidr.contains(cidr.addr()));
    }
}

fn sockets(bytes: &mut Bytes<'_>) {
    let [kind, protocol, number] = bytes.array();
    let (family, reserved) = (bytes.u8().into(), bytes.array());
    let given = raw::SocketSpec { family, kind, protocol, number, reserved };
    if let Some(spec) = convert::from_spec(&given) {
        assert_eq!(convert::from_spec(&convert::to_spec(spec)), Some(spec));
    }
}

fn options(bytes: &mut Bytes<'_>) {
    let (name, kind) = (bytes.number() as u32, bytes.u8());
    let r#type = match codes::option_of(name) {
        // The right one more often than not.
        Some(name) if kind < 200 => convert::value_type(name),
        _ => kind.into(),
    };
    let given = raw::Opt { name, r#type, value: Value { text: bytes.array() } };
    if let Some(option) = convert::from_option(&given) {
        let back = convert::to_option(&option).and_then(|back| convert::from_option(&back));
        assert_eq!(back, Some(option));
    }
}

fn interfaces(bytes: &mut Bytes<'_>) {
    let given = raw::Interface {
        index: bytes.u32(),
        mtu: bytes.u32(),
        name: bytes.array(),
        up: bytes.u8(),
        loopback: bytes.u8(),
        has_hardware_address: bytes.u8(),
        reserved: bytes.u8(),
        hardware_address: bytes.array(),
        reserved2: bytes.array(),
    };
    let addresses: Vec<_> = convert::from_cidr(&bytes.cidr()).into_iter().collect();
    if let Some(interface) = convert::from_interface(&given, addresses.clone()) {
        assert!((1..16).contains(&interface.name.len()), "{interface:?}");
        let back = convert::from_interface(&convert::to_interface(&interface), addresses);
        assert_eq!(back, Some(interface));
    }
    let (min, default_size, max) = (bytes.u32(), bytes.u32(), bytes.u32());
    if let Some(sizes) = convert::from_sizes(raw::BufferSizes { min, default_size, max }) {
        assert!(0 < sizes.min && sizes.min <= sizes.default && sizes.default <= sizes.max, "{sizes:?}");
    }
}

fn received(bytes: &mut Bytes<'_>) {
    let given = Received {
        len: bytes.number(),
        full_len: bytes.number(),
        from: bytes.address(),
        to: bytes.ip(),
        interface_index: bytes.u32(),
        hop_limit: bytes.u8(),
        traffic_class: bytes.u8(),
        reserved: bytes.array(),
    };
    let capacity = usize::from(bytes.u16());
    if let Some(received) = convert::from_received(&given, capacity) {
        assert!(received.len <= capacity && received.len <= received.full_len, "{received:?}");
        assert_eq!(convert::from_received(&convert::to_received(&received), capacity), Some(received));
    }
}

fn routes(bytes: &mut Bytes<'_>) {
    let given = raw::Route { destination: bytes.cidr(), gateway: bytes.ip(), interface_index: bytes.u32() };
    if let Some(route) = convert::from_route(&given) {
        assert_eq!(convert::from_route(&convert::to_route(&route)), Some(route));
    }
}

fn tcp_info(bytes: &mut Bytes<'_>) {
    let given = raw::TcpInfo {
        state: bytes.u8().into(),
        rtt: bytes.u64(),
        rto: bytes.u64(),
        bytes_sent: bytes.u64(),
        ..raw::TcpInfo::default()
    };
    let details = raw::TcpDetails {
        slow_start_threshold: bytes.u32(),
        least_rtt: bytes.u64(),
        congestion_state: bytes.u8().into(),
        agreed: bytes.u8().into(),
        backoff: bytes.u16().into(),
        send_window_scale: bytes.u8(),
        receive_window_scale: bytes.u8(),
        ..raw::TcpDetails::default()
    };
    if let Some(info) = convert::from_tcp_info(&given) {
        assert_eq!(convert::from_tcp_info(&convert::to_tcp_info(&info)), Some(info));
        if let Some(more) = convert::with_tcp_details(info, &details) {
            assert_eq!(convert::with_tcp_details(info, &convert::to_tcp_details(&more)), Some(more));
        }
    }
}

fn results(bytes: &mut Bytes<'_>) {
    let result = match bytes.u8() {
        255 => bytes.u64().cast_signed(),
        small => i64::from(small.cast_signed()),
    };
    match codes::result_of(result) {
        Ok(count) => assert_eq!(i64::try_from(count), Ok(result)),
        Err(Some(error)) => assert_eq!(codes::error_number(error).map(i64::from), Some(result)),
        Err(None) => assert!(result < 0),
    }
}

/// Texts of a level 0 object, the text that goes from its pre-init to its init, and files that are to be objects: the
/// first byte says which.
///
/// # Panics
/// If something that cannot be is understood.
pub fn objects(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    if which % 4 == 0 {
        let _ = elf::check(rest);
        return;
    }
    let text = String::from_utf8_lossy(rest);
    if which % 4 == 1 {
        if let Some((inside, present)) = envelope::open(&text) {
            assert!(!inside.contains(&0) && present.len() <= envelope::FDS);
            let sealed = envelope::seal(&inside, &present);
            assert_eq!(envelope::open(&sealed), Some((inside, present)));
        }
        return;
    }
    // Two texts, where one is asked for beside the other.
    let (one, other) = text.split_once('\u{1}').unwrap_or((&text, ""));
    for interface in json::interfaces(one, other) {
        assert!(!interface.name.is_empty() && interface.index != 0, "{interface:?}");
        assert!(interface.addresses.iter().all(|cidr| cidr.prefix() <= longest(cidr.addr())));
    }
    for route in json::routes(one, 7) {
        assert_ne!(route.interface, 0, "{route:?}");
    }
    if let Some(sizes) = json::sizes(one) {
        assert!(sizes.min <= sizes.default && sizes.default <= sizes.max, "{sizes:?}");
    }
    if let Some((first, last)) = json::ports(one) {
        assert!(first <= last);
    }
}

const fn longest(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

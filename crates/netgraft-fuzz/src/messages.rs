//! What a program writes into its memory and passes in registers: the decoders of the sentry.

use std::net::SocketAddr;

use netgraft_core::codec;
use netgraft_plugin::inet::Interface;
use netgraft_plugin::{Domain, Kind, Protocol, SocketSpec};

use crate::bytes::Bytes;
use codec::call::{self, Call};
use codec::message::{self, ControlWriter};
use codec::sockopt::{self, Get, Set};
use codec::{ioctl, sockaddr};

/// The first byte says which decoder gets the others.
pub(crate) fn run(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    match bytes.u8() % 7 {
        0 => address(bytes),
        1 => header(bytes),
        2 => controls(bytes),
        3 => written_controls(bytes),
        4 => option(bytes),
        5 => request(bytes),
        _ => numbers(bytes),
    }
}

fn domain(byte: u8) -> Domain {
    if byte & 1 == 0 { Domain::V4 } else { Domain::V6 }
}

fn address(mut bytes: Bytes<'_>) {
    let domain = domain(bytes.u8());
    let given = bytes.slice(sockaddr::MAX_LEN);
    let _ = sockaddr::parse_for_bind(domain, given);
    if let Ok(sockaddr::Given::Inet(addr)) = sockaddr::parse(domain, given) {
        let back = sockaddr::encode(domain, addr);
        assert_eq!(sockaddr::parse(domain, back.bytes()), Ok(sockaddr::Given::Inet(addr)));
    }
    // Every address of a stack can be shown on every socket, except that IPv4 has no room for IPv6.
    let addr = SocketAddr::from((bytes.array::<16>(), bytes.u16()));
    let shown = sockaddr::encode(Domain::V6, addr);
    assert!(shown.bytes().len() <= sockaddr::MAX_LEN);
    assert!(sockaddr::parse(Domain::V6, shown.bytes()).is_ok());
}

fn header(mut bytes: Bytes<'_>) {
    let header = message::parse_header(&bytes.array());
    assert!(header.name.len <= u64::from(u32::MAX));
    let parts = bytes.0;
    if let Ok(parsed) = message::parse_parts(parts) {
        assert_eq!(parsed.len(), parts.len() / message::PART_LEN);
        let total: u128 = parsed.iter().map(|part| u128::from(part.len)).sum();
        assert!(total <= i64::MAX as u128, "{total} bytes in all parts");
    }
}

fn controls(bytes: Bytes<'_>) {
    let Ok(controls) = message::parse_controls(bytes.0) else { return };
    let (mut writer, mut total) = (ControlWriter::new(1 << 20), 0);
    for control in &controls {
        total += control.data.len();
        writer.push(control.level, control.kind, control.data);
    }
    assert!(total <= bytes.0.len());
    same(&controls, &writer.finish().0);
}

/// What the sentry writes where there is room for a part.
fn written_controls(mut bytes: Bytes<'_>) {
    let room = u64::from(bytes.u16() % 512);
    let mut writer = ControlWriter::new(room);
    let mut count = 0;
    while !bytes.is_empty() {
        let (level, kind, len) = (bytes.number(), bytes.number(), bytes.u8());
        writer.push(level, kind, bytes.slice(usize::from(len)));
        count += 1;
    }
    let (written, truncated) = writer.finish();
    assert!(written.len() as u64 <= room, "{} bytes in room for {room}", written.len());
    let controls = message::parse_controls(&written).expect("what the sentry writes can be read");
    assert!(truncated || controls.len() == count, "{} of {count} messages", controls.len());
}

fn same(controls: &[message::Control<'_>], written: &[u8]) {
    let back = message::parse_controls(written).expect("what the sentry writes can be read");
    assert_eq!(back.len(), controls.len());
    for (one, other) in controls.iter().zip(&back) {
        assert_eq!((one.level, one.kind, one.data), (other.level, other.kind, other.data));
    }
}

fn spec(byte: u8) -> SocketSpec {
    let (kind, protocol) = match byte >> 1 & 3 {
        0 => (Kind::Stream, Protocol::Tcp),
        1 => (Kind::Datagram, Protocol::Udp),
        2 => (Kind::Datagram, Protocol::Icmp),
        _ => (Kind::Raw, Protocol::Raw(byte >> 3)),
    };
    SocketSpec { domain: domain(byte), kind, protocol }
}

fn option(mut bytes: Bytes<'_>) {
    let spec = spec(bytes.u8());
    let level = match bytes.u8() % 5 {
        0 => libc::SOL_SOCKET,
        1 => libc::IPPROTO_TCP,
        2 => libc::IPPROTO_IP,
        3 => libc::IPPROTO_IPV6,
        _ => bytes.u32().cast_signed(),
    };
    let name = bytes.number();
    let get = sockopt::parse_get(spec, level, name);
    let set = sockopt::parse_set(spec, level, name, bytes.slice(sockopt::MAX_LEN as usize));
    if let (Ok(Get::Stack(read)), Ok(Set::Stack(option))) = (get, &set) {
        assert_eq!(read, option.name());
        let doubled = matches!(name, libc::SO_SNDBUF | libc::SO_RCVBUF) && level == libc::SOL_SOCKET;
        let written = sockopt::encode(option);
        match sockopt::parse_set(spec, level, name, &written) {
            Ok(Set::Stack(again)) => {
                assert!(doubled || sockopt::encode(&again) == written, "{option:?} became {again:?}");
            }
            // Only what a program may set, but never reads from a socket, has no way back.
            again => assert!(written.is_empty(), "{option:?} became {again:?}"),
        }
    }
    if let Ok(Set::Timeout(_, time)) = set {
        assert_eq!(sockopt::encode_timeout(time).len(), 16);
    }
}

fn request(mut bytes: Bytes<'_>) {
    let request = match bytes.u16() {
        number @ 0..0x8000 => 0x8900 + u32::from(number & 0xff),
        _ => bytes.u32(),
    };
    let interface = Interface {
        index: bytes.u32(),
        name: String::from_utf8_lossy(bytes.slice(16)).into_owned(),
        mtu: bytes.u32(),
        up: bytes.u8() & 1 != 0,
        loopback: bytes.u8() & 1 != 0,
        hardware_address: (bytes.u8() & 1 != 0).then(|| bytes.array()),
        addresses: vec!["192.0.2.1/24".parse().expect("a constant"), "::1/128".parse().expect("a constant")],
    };
    let interfaces = [interface];
    let _ = ioctl::parse(request);
    let mut data = bytes.array::<{ ioctl::REQUEST_LEN }>();
    if bytes.u8() & 1 != 0 {
        // The name of an interface that is there.
        data[..16].fill(0);
        let name = interfaces[0].name.bytes().take(15);
        data[..15].iter_mut().zip(name).for_each(|(to, from)| *to = from);
    }
    let before = data;
    if ioctl::answer(request, &interfaces, &mut data).is_err() {
        assert_eq!(data, before, "a request that fails changes nothing");
    }
    assert_eq!(ioctl::list(&interfaces).len(), ioctl::REQUEST_LEN);
    if let Some(buffer) = ioctl::parse_list(&bytes.array()) {
        assert!(buffer.address != 0 && buffer.len <= i32::MAX as u64);
    }
}

fn numbers(mut bytes: Bytes<'_>) {
    let number = if bytes.u8() < 250 { i64::from(bytes.u16() % 512) } else { bytes.u64().cast_signed() };
    let args = [(); 6].map(|()| bytes.u64());
    if let Some(call) = Call::parse(number, args) {
        assert!(call.fd().is_none_or(|fd| fd == args[0] as i32));
    }
    let (domain, kind, protocol) = (i32::from(bytes.u8() % 12), bytes.number(), bytes.number());
    if let Ok(made) = call::new_socket(domain, kind, protocol) {
        assert_eq!(call::domain_number(made.spec.domain), domain);
        assert_eq!(call::kind_number(made.spec.kind), kind & 0xf);
        assert!(protocol == 0 || call::protocol_number(made.spec.protocol) == protocol);
    }
}

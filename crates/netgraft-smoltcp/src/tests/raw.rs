//! IP headers: those that programs write, and "don't fragment".

use std::sync::Mutex as StdMutex;

use netgraft_plugin::Sockets;
use netgraft_plugin::option::{OptionName, SocketOption};

use super::*;
use crate::packet;

const RAW4: SocketSpec = SocketSpec { domain: Domain::V4, kind: Kind::Raw, protocol: Protocol::Raw(255) };
const RAW6: SocketSpec = SocketSpec { domain: Domain::V6, ..RAW4 };

/// The IP packets of one EtherType that stack 0 sends from now on.
fn tap(world: &mut World, ethertype: [u8; 2]) -> Arc<StdMutex<Vec<Vec<u8>>>> {
    let seen = Arc::new(StdMutex::new(Vec::new()));
    let tap = Arc::clone(&seen);
    world.filter(move |from, frame| {
        if from == 0 && frame[12..14] == ethertype {
            tap.lock().unwrap().push(frame[14..].to_vec());
        }
        true
    });
    seen
}

fn send_to(world: &mut World, handle: Handle, data: &[u8], to: &str) -> Result<usize> {
    world.stacks[0].send(handle, data, Some(addr(to)), SendFlags::empty(), world.now)
}

fn field(ip: &[u8]) -> u16 {
    u16::from_be_bytes([ip[6], ip[7]])
}

fn ident(ip: &[u8]) -> u16 {
    u16::from_be_bytes([ip[4], ip[5]])
}

/// An IPv4 packet with UDP for port 53, as a program writes it that leaves all that it can to the stack.
fn whole4(data: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x46, 0x20, 0, 0, 0, 0, 0, 0, 9, 17, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2, 1, 1, 1, 0];
    ip.extend([0, 7, 0, 53, 0, 8 + data.len() as u8, 0, 0]);
    ip.extend(data);
    ip
}

#[test]
fn dont_fragment_and_cutting_are_as_the_mode_says() {
    let mut world = World::new();
    let server = world.stacks[1].socket(UDP4).unwrap();
    world.stacks[1].bind(server, addr("0.0.0.0:53")).unwrap();
    let seen = tap(&mut world, [8, 0]);
    // Mode, "don't fragment", whether what is too large is cut.
    let modes = [
        (0, false, true),
        (1, true, true),
        (2, true, false),
        (3, true, false),
        (4, false, false),
        (5, false, true),
    ];
    for (mode, whole, cut) in modes {
        let client = world.stacks[0].socket(UDP4).unwrap();
        world.stacks[0].set_option(client, SocketOption::MtuDiscover(mode)).unwrap();
        let got = world.stacks[0].get_option(client, OptionName::MtuDiscover);
        assert_eq!(got, Ok(SocketOption::MtuDiscover(mode)));
        let mut idents = Vec::new();
        for _ in 0..2 {
            assert_eq!(send_to(&mut world, client, &[5; 1472], "192.0.2.2:53"), Ok(1472));
            world.settle();
            assert_eq!(world.recv(1, server).unwrap(), [5; 1472]);
            let packet = seen.lock().unwrap().pop().unwrap();
            assert_eq!(field(&packet), if whole { 0x4000 } else { 0 }, "{mode}");
            assert_eq!(packet::sum(&packet[..20], 0), 0xffff);
            idents.push(ident(&packet));
        }
        assert!(whole || idents[0] != idents[1], "what may be cut has a number of its own");
        seen.lock().unwrap().clear();
        if cut {
            assert_eq!(send_to(&mut world, client, &[6; 1473], "192.0.2.2:53"), Ok(1473));
            world.settle();
            assert_eq!(world.recv(1, server).unwrap(), [6; 1473]);
            let fields: Vec<u16> = seen.lock().unwrap().drain(..).map(|p| field(&p)).collect();
            assert_eq!(fields, [0x2000, 1480 / 8], "{mode}");
        } else {
            let sent = send_to(&mut world, client, &[6; 1473], "192.0.2.2:53");
            assert_eq!(sent, Err(Error::MessageTooLong), "{mode}");
        }
    }
    let client = world.stacks[0].socket(UDP4).unwrap();
    assert_eq!(world.stacks[0].set_option(client, SocketOption::MtuDiscover(6)), Err(Error::Invalid));
}

#[test]
fn segments_go_without_dont_fragment_if_the_program_wants_it() {
    for (mode, whole) in [(0, false), (1, true), (2, true), (4, false), (5, false)] {
        let mut world = World::new();
        let seen = tap(&mut world, [8, 0]);
        let listener = world.listen(1, TCP4, "0.0.0.0:80", 16);
        let client = world.stacks[0].socket(TCP4).unwrap();
        world.stacks[0].set_option(client, SocketOption::MtuDiscover(mode)).unwrap();
        world.stacks[0].set_option(client, SocketOption::TypeOfService(0x10)).unwrap();
        let now = world.now;
        assert_eq!(world.stacks[0].connect(client, addr("192.0.2.2:80"), now), Err(Error::InProgress));
        world.settle();
        let (server, _) = world.stacks[1].accept(listener).unwrap();
        world.send(0, client, &[7; 5000]).unwrap();
        world.pass(Duration::from_secs(1));
        let mut got = 0;
        while let Ok(some) = world.recv(1, server) {
            got += some.len();
        }
        assert_eq!(got, 5000);
        let packets = std::mem::take(&mut *seen.lock().unwrap());
        assert!(packets.len() >= 5);
        for packet in packets {
            assert_eq!((field(&packet), packet[1]), (if whole { 0x4000 } else { 0 }, 0x10), "{mode}");
        }
    }
}

#[test]
fn a_header_of_the_programs_own_leaves_as_it_is() {
    let mut world = World::new();
    let server = world.stacks[1].socket(UDP4).unwrap();
    world.stacks[1].bind(server, addr("0.0.0.0:53")).unwrap();
    let seen = tap(&mut world, [8, 0]);
    let raw = world.stacks[0].socket(RAW4).unwrap();
    let plain = world.stacks[0].socket(UDP4).unwrap();
    // The first waits for the neighbor's address, with a packet of another kind behind it.
    for _ in 0..2 {
        let whole = whole4(b"data");
        assert_eq!(send_to(&mut world, raw, &whole, "192.0.2.2:0"), Ok(whole.len()));
        assert_eq!(send_to(&mut world, plain, b"plain", "192.0.2.2:53"), Ok(5));
        world.settle();
        assert_eq!((world.recv(1, server), world.recv(1, server)), (Ok(b"data".into()), Ok(b"plain".into())));
        let packets = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(packets.len(), 2);
        let packet = &packets[0];
        assert_eq!(packet::sum(&packet[..24], 0), 0xffff);
        assert_eq!((packet[0], packet[1], packet[8]), (0x46, 0x20, 9));
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), whole.len());
        assert_ne!(ident(packet), 0);
        assert_eq!(packet[12..16], [192, 0, 2, 1], "the source is filled in");
        assert_eq!(packet[16..], whole[16..]);
        assert_eq!((packets[1][0], packets[1][9]), (0x45, 17));
    }
    let mut whole = whole4(b"");
    whole[4..8].copy_from_slice(&[0x12, 0x34, 0x20, 0x05]);
    whole[12..16].copy_from_slice(&[203, 0, 113, 9]);
    send_to(&mut world, raw, &whole, "192.0.2.2:0").unwrap();
    let packet = seen.lock().unwrap().pop();
    world.settle();
    let packet = packet.or_else(|| seen.lock().unwrap().pop()).unwrap();
    assert_eq!((ident(&packet), field(&packet), &packet[12..16]), (0x1234, 0x2005, &[203, 0, 113, 9][..]));
    whole.resize(1501, 0);
    assert_eq!(send_to(&mut world, raw, &whole, "192.0.2.2:0"), Err(Error::MessageTooLong));
    assert_eq!(send_to(&mut world, raw, &whole[..1500], "192.0.2.2:0"), Ok(1500));
    assert_eq!(send_to(&mut world, raw, &whole[..23], "192.0.2.2:0"), Err(Error::Invalid));
    assert_eq!(send_to(&mut world, raw, &[], "192.0.2.2:0"), Err(Error::Invalid));
    let bad = world.stacks[0].set_option(plain, SocketOption::HeaderIncluded(true));
    assert_eq!(bad, Err(Error::UnknownOption));
}

#[test]
fn a_header_of_the_programs_own_over_ipv6() {
    let mut world = World::new();
    let server = world.stacks[1].socket(UDP6).unwrap();
    world.stacks[1].bind(server, addr("[::]:53")).unwrap();
    let seen = tap(&mut world, [0x86, 0xdd]);
    let raw = world.stacks[0].socket(RAW6).unwrap();
    assert_eq!(
        world.stacks[0].get_option(raw, OptionName::HeaderIncluded),
        Ok(SocketOption::HeaderIncluded(true))
    );
    let (src, dst) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    let header = packet::Header {
        src,
        dst,
        protocol: packet::UDP,
        hop_limit: 3,
        traffic_class: 0x44,
        dont_fragment: false,
    };
    let mut whole = vec![0; 40 + 8 + 4];
    header.emit(&mut whole);
    // A flow label, which smoltcp would not keep.
    whole[3] = 0x77;
    packet::emit_udp(&mut whole[40..], &header, (7, 53), b"data", true);
    assert_eq!(send_to(&mut world, raw, &whole, "[2001:db8::2]:0"), Ok(52));
    world.settle();
    assert!(seen.lock().unwrap().contains(&whole));
    let (data, got) = receive(&mut world.stacks[1], server, world.now).unwrap();
    assert_eq!((&data[..], got.hop_limit, got.traffic_class), (&b"data"[..], 3, 0x44));
    assert_eq!(send_to(&mut world, raw, &whole[..39], "[2001:db8::2]:0"), Err(Error::Invalid));
    assert_eq!(send_to(&mut world, raw, &whole, "[::1]:0"), Ok(52));
}

#[test]
fn a_segment_of_a_raw_socket_is_cut_like_any_other_packet() {
    let mut world = World::new();
    let seen = tap(&mut world, [8, 0]);
    let spec = SocketSpec { protocol: Protocol::Raw(6), ..RAW4 };
    let raw = world.stacks[0].socket(spec).unwrap();
    let mut segment = vec![0; 3000];
    segment[12] = 5 << 4;
    assert_eq!(send_to(&mut world, raw, &segment, "192.0.2.2:0"), Ok(3000));
    world.settle();
    assert!(seen.lock().unwrap().len() >= 3);
}

//! The private link: what the kernel sends on it reaches the stack, and what the stack receives reaches the kernel.

use std::net::SocketAddr;

use netgraft_plugin::{Error, Kind, OptionName, Protocol, SocketOption};

use super::fake::prng::Prng;
use super::fake::rig::{Rig, addr};
use crate::Budget;
use crate::private_link::{KernelSocket, PrivateLink};
use crate::route::{Denial, Flow, Route, Router};
use crate::surrogate::Cookie;
use crate::uapi;

const PEER: &str = "198.51.100.1:53";
/// The address that the fake stack has beside its loopback.
const OWN: &str = "192.0.2.1";

fn rig() -> Rig {
    linked(Rig::new())
}

fn linked(mut rig: Rig) -> Rig {
    rig.core.expect_private_links();
    rig.core.add_private_link(PrivateLink { interface: 2, mac: [2, 0, 0, 0, 0, 9], mtu: 1500 });
    rig.world.borrow_mut().emitted.clear();
    rig
}

const fn socket(cookie: u64, local: SocketAddr) -> KernelSocket {
    KernelSocket { cookie: Cookie(cookie), local }
}

/// A frame of the kernel's with a UDP datagram.
fn frame(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let (SocketAddr::V4(source), SocketAddr::V4(destination)) = (from, to) else { panic!("{from} {to}") };
    let len = 28 + data.len() as u16;
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(source.ip().octets());
    frame.extend(destination.ip().octets());
    frame.extend(source.port().to_be_bytes());
    frame.extend(destination.port().to_be_bytes());
    frame.extend((len - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(data);
    frame
}

fn own(port: u16) -> SocketAddr {
    SocketAddr::new(OWN.parse().unwrap(), port)
}

fn sends(rig: &mut Rig, port: u16, data: &[u8]) {
    rig.core.frame_of_program(2, &frame(own(port), addr(PEER), data));
    rig.settle();
}

/// Where the stack's UDP sockets are bound.
fn bound(rig: &Rig) -> Vec<SocketAddr> {
    let net = rig.net();
    let udp = net.socks.values().filter(|sock| sock.spec.protocol == Protocol::Udp);
    let mut all: Vec<SocketAddr> = udp.filter_map(|sock| sock.local).collect();
    all.sort();
    all
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new("0.0.0.0".parse().unwrap(), port)
}

#[test]
fn what_the_kernel_sends_leaves_from_the_port_that_it_chose() {
    let mut rig = rig();
    sends(&mut rig, 40_000, b"one");
    sends(&mut rig, 40_000, b"two");
    assert_eq!(bound(&rig), [any(40_000)]);
    let sent: Vec<_> = rig.net().sent.iter().map(|(_, to, data)| (*to, data.clone())).collect();
    assert_eq!(sent, [(addr(PEER), b"one".to_vec()), (addr(PEER), b"two".to_vec())]);
    assert_eq!(rig.core.counts().datagrams_sent, 2);
}

#[test]
fn what_arrives_is_a_packet_from_its_sender() {
    let mut rig = rig();
    sends(&mut rig, 40_000, b"one");
    assert!(rig.net().arrives(addr(PEER), any(40_000), b"answer"));
    rig.settle();
    let [(interface, frame)] = &*rig.world().emitted else { panic!("{:?}", rig.world().emitted) };
    assert_eq!((*interface, &frame[..6]), (2, &[2, 0, 0, 0, 0, 9][..]));
    // Source and destination, the ports, and the data.
    assert_eq!(frame[26..34], [198, 51, 100, 1, 192, 0, 2, 1]);
    assert_eq!(frame[34..38], [0, 53, 0x9c, 0x40]);
    assert_eq!(frame[42..], *b"answer");
}

#[test]
fn a_bound_socket_is_served_until_its_last_holder_is_gone() {
    let mut rig = rig();
    rig.core.serve_kernel_socket(socket(1, any(53)), None).unwrap();
    rig.core.serve_kernel_socket(socket(2, any(53)), None).unwrap();
    assert_eq!(bound(&rig), [any(53)]);
    rig.core.datagram_socket_closed(socket(1, any(53)));
    // Twice the same, and one with the same port on the loopback.
    rig.core.datagram_socket_closed(socket(1, any(53)));
    rig.core.datagram_socket_closed(socket(3, addr("127.0.0.1:53")));
    assert_eq!(bound(&rig), [any(53)]);
    rig.core.datagram_socket_closed(socket(2, any(53)));
    assert_eq!(bound(&rig), []);
    // Nothing of the loopback leaves the kernel.
    rig.core.serve_kernel_socket(socket(4, addr("127.0.0.1:53")), None).unwrap();
    assert_eq!(bound(&rig), []);
}

#[test]
fn a_port_that_the_kernel_chose_is_not_lost_to_who_asks_for_it_in_vain() {
    let mut rig = rig();
    sends(&mut rig, 40_000, b"one");
    let attacker = socket(7, any(0));
    // The kernel refuses the port, and the attacker's socket has none again.
    rig.core.serve_kernel_socket(socket(7, any(40_000)), Some(1)).unwrap();
    rig.core.serve_kernel_socket(attacker, Some(1)).unwrap();
    assert_eq!(bound(&rig), [any(40_000)]);
    // Or it has the port of IPv6 alone, and goes.
    rig.core.serve_kernel_socket(socket(8, addr("[::]:40000")), Some(1)).unwrap();
    rig.core.datagram_socket_closed(socket(8, addr("[::]:40000")));
    assert_eq!(bound(&rig), [any(40_000)]);
    assert!(rig.net().arrives(addr(PEER), any(40_000), b"answer"));
    rig.settle();
    assert_eq!(rig.world().emitted.len(), 1);
    // Its own socket is gone.
    rig.core.datagram_socket_closed(socket(9, any(40_000)));
    assert_eq!(bound(&rig), []);
}

#[test]
fn a_socket_of_both_families_is_served_for_both() {
    let mut rig = rig();
    let both = addr("[::]:53");
    rig.core.serve_kernel_socket(socket(1, both), None).unwrap();
    rig.core.serve_kernel_socket(socket(2, any(53)), None).unwrap();
    assert_eq!(bound(&rig), [any(53), both]);
    rig.core.datagram_socket_closed(socket(1, both));
    assert_eq!(bound(&rig), [any(53)]);
    rig.core.datagram_socket_closed(socket(2, any(53)));
    assert_eq!(bound(&rig), []);
}

#[test]
fn a_stack_that_refuses_an_address_is_heard() {
    let mut rig = rig();
    rig.net().fail_next(netgraft_plugin::Call::bind, Error::AddressInUse);
    assert_eq!(rig.core.serve_kernel_socket(socket(1, any(53)), None), Err(Error::AddressInUse.errno()));
    assert_eq!(bound(&rig), []);
}

#[test]
fn a_socket_that_gets_another_address_leaves_its_old_one() {
    let mut rig = rig();
    let mut at = |local| {
        rig.core.serve_kernel_socket(socket(1, local), None).unwrap();
        bound(&rig)
    };
    assert_eq!(at(any(53)), [any(53)]);
    // Connected, and again without a peer.
    assert_eq!(at(own(53)), [own(53)]);
    assert_eq!(at(any(53)), [any(53)]);
    assert_eq!(at(any(0)), []);
    // A group's datagrams come to every socket with the port.
    assert_eq!(at(addr("239.1.2.3:99")), [any(99)]);
}

#[test]
fn a_port_that_the_kernel_chose_is_left_with_its_socket() {
    let mut rig = rig();
    sends(&mut rig, 40_000, b"x");
    sends(&mut rig, 40_001, b"x");
    rig.core.datagram_socket_closed(socket(7, any(40_000)));
    assert_eq!(bound(&rig), [any(40_001)]);
    // A socket of both families sends to an address of IPv4.
    rig.core.datagram_socket_closed(socket(8, addr("[::]:40001")));
    assert_eq!(bound(&rig), []);
}

#[test]
fn what_leaves_says_as_much_as_the_kernel_s_packet() {
    let mut rig = rig();
    let option = |rig: &Rig, name| {
        let net = rig.net();
        let udp = net.socks.iter().find(|(_, sock)| sock.spec.protocol == Protocol::Udp);
        udp.and_then(|(_, sock)| sock.options.get(&name).cloned())
    };
    // "Don't fragment" is set in `frame`.
    sends(&mut rig, 40_000, b"whole");
    assert_eq!(option(&rig, OptionName::MtuDiscover), Some(SocketOption::MtuDiscover(3)));
    let mut cuts = frame(own(40_000), addr(PEER), b"cut");
    cuts[20] = 0;
    cuts[22] = 9;
    rig.core.frame_of_program(2, &cuts);
    assert_eq!(option(&rig, OptionName::MtuDiscover), Some(SocketOption::MtuDiscover(5)));
    assert_eq!(option(&rig, OptionName::Ttl), Some(SocketOption::Ttl(9)));
}

#[test]
fn a_list_of_the_sockets_there_are_closes_and_makes_what_is_needed() {
    let mut rig = rig();
    sends(&mut rig, 40_000, b"gone");
    rig.core.serve_kernel_socket(socket(1, any(53)), None).unwrap();
    rig.core.serve_kernel_socket(socket(2, any(54)), None).unwrap();
    let sockets = [socket(1, any(53)), socket(3, own(99)), socket(4, addr("127.0.0.1:98"))];
    let mark = rig.core.mark_datagram_sockets();
    // What is newer than the list is not in it.
    sends(&mut rig, 40_001, b"new");
    rig.core.serve_kernel_socket(socket(5, any(55)), None).unwrap();
    // Of a list that is not whole nothing is closed.
    rig.core.datagram_sockets_are(&sockets, None);
    let all = [any(53), any(54), any(55), any(40_000), any(40_001), own(99)];
    assert_eq!(bound(&rig), all);
    rig.core.datagram_sockets_are(&sockets, Some(mark));
    assert_eq!(bound(&rig), [any(53), any(55), any(40_001), own(99)]);
}

/// A report of IGMP's version 3 with one record.
fn report(kind: u8, group: [u8; 4]) -> Vec<u8> {
    let mut report = vec![0x22, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, 0];
    report.extend(group);
    let mut frame = frame(own(0), addr("224.0.0.22:0"), &report);
    // Without the header of UDP.
    frame.drain(34..42);
    frame[16..18].copy_from_slice(&36_u16.to_be_bytes());
    frame[23] = 2;
    frame
}

#[test]
fn groups_are_joined_and_left_as_the_kernel_reports() {
    let mut rig = rig();
    let calls = |rig: &Rig| {
        let net = rig.net();
        let of = |name| net.socks.values().find_map(move |sock| sock.options.get(&name).cloned());
        let both = [of(OptionName::JoinGroup), of(OptionName::LeaveGroup)];
        both.into_iter().flatten().collect::<Vec<_>>()
    };
    rig.core.frame_of_program(2, &report(4, [239, 1, 2, 3]));
    rig.core.frame_of_program(2, &report(2, [239, 1, 2, 3]));
    rig.core.frame_of_program(2, &report(4, [224, 0, 0, 1]));
    let group = ("239.1.2.3".parse().unwrap(), "0.0.0.0".parse().unwrap());
    assert_eq!(calls(&rig), [SocketOption::JoinGroup(group)]);
    rig.core.frame_of_program(2, &report(3, [239, 1, 2, 3]));
    rig.core.frame_of_program(2, &report(3, [239, 1, 2, 4]));
    assert_eq!(calls(&rig), [SocketOption::JoinGroup(group), SocketOption::LeaveGroup(group)]);
    assert_eq!(rig.net().sent.len(), 0);
}

#[test]
fn a_new_link_asks_for_the_groups_that_there_are() {
    let mut rig = Rig::new();
    rig.core.expect_private_links();
    rig.core.add_private_link(PrivateLink { interface: 2, mac: [2, 0, 0, 0, 0, 9], mtu: 1500 });
    let world = rig.world();
    let [(2, v4), (2, v6)] = &*world.emitted else { panic!("{:?}", world.emitted) };
    assert_eq!((v4[23], v4[34], &v4[30..34]), (2, 0x11, &[224, 0, 0, 1][..]));
    assert_eq!((v6[20], v6[54], v6[62]), (0, 58, 130));
}

#[test]
fn the_kernel_s_answer_that_no_socket_takes_a_datagram_leaves() {
    let mut rig = rig();
    rig.core.serve_kernel_socket(socket(1, any(53)), None).unwrap();
    let mut answer = |port: u16| {
        let mut quoted = frame(addr(PEER), own(port), b"");
        quoted.drain(..14);
        let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
        message.extend(quoted);
        let mut frame = frame(own(0), addr(PEER), &message);
        frame.drain(34..42);
        let len = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        frame[23] = 1;
        rig.core.frame_of_program(2, &frame);
        rig.settle();
        rig.net().sent.len()
    };
    // The stack has answered for a port that it does not serve.
    assert_eq!((answer(54), answer(53)), (0, 1));
}

#[test]
fn ports_that_the_kernel_chose_are_bounded() {
    let budget = Budget { sockets: 20, process_sockets: 20, memory: 1 << 30, bytes: 1 << 20 };
    let mut rig = linked(Rig::with(Box::new(crate::route::Always(Route::Kernel)), budget));
    rig.core.serve_kernel_socket(socket(1, any(53)), None).unwrap();
    for port in 40_000..40_100 {
        sends(&mut rig, port, b"x");
    }
    assert_eq!(rig.net().sent.len(), 100);
    let bound = bound(&rig);
    // Two sockets of the stack are for ICMP.
    assert_eq!((bound.len(), bound[0], bound[17]), (18, any(53), any(40_099)));
}

#[test]
fn a_process_names_no_more_sockets_than_it_may_have() {
    let budget = Budget { sockets: 20, process_sockets: 3, memory: 1 << 30, bytes: 1 << 20 };
    let mut rig = linked(Rig::with(Box::new(crate::route::Always(Route::Kernel)), budget));
    let mut name = |cookie, owner| {
        let new = socket(cookie, any(0));
        rig.core.before_name(new, owner, None)?;
        rig.core.serve_kernel_socket(socket(cookie, any(50 + cookie as u16)), Some(owner))
    };
    for cookie in 1..=3 {
        assert_eq!(name(cookie, 7), Ok(()));
    }
    assert_eq!(name(4, 7), Err(uapi::EMFILE));
    // One that has its place may move, and another process has its own.
    assert_eq!((name(3, 7), name(5, 8)), (Ok(()), Ok(())));
    rig.core.datagram_socket_closed(socket(1, any(51)));
    rig.core.before_name(socket(6, any(0)), 7, None).unwrap();
}

struct Never;

impl Router for Never {
    fn route(&mut self, flow: &Flow) -> Route {
        match flow {
            Flow::Datagram(..) => Route::Denied(Denial::AccessDenied),
            _ => Route::Kernel,
        }
    }
}

#[test]
fn what_is_denied_is_answered_by_icmp_and_never_sent() {
    let budget = Budget { sockets: 20, process_sockets: 20, memory: 1 << 30, bytes: 1 << 20 };
    let mut rig = linked(Rig::with(Box::new(Never), budget));
    sends(&mut rig, 40_000, b"secret");
    assert_eq!(rig.net().sent.len(), 0);
    assert_eq!(bound(&rig), []);
    let [(_, frame)] = &*rig.world().emitted else { panic!("{:?}", rig.world().emitted) };
    // From where it was to go, "administratively prohibited" (RFC 1812), quoting what was sent.
    assert_eq!((frame[23], &frame[26..30], &frame[34..36]), (1, &[198, 51, 100, 1][..], &[3, 13][..]));
    assert!(frame.ends_with(b"secret"));
}

#[test]
fn the_kernel_s_own_packets_end_here() {
    let mut rig = rig();
    let mut reset = frame(own(80), addr(PEER), &[0; 20]);
    reset[23] = 6;
    reset[34 + 13] = 4;
    let mut reply = frame(own(0), addr(PEER), &[0; 20]);
    reply[23] = 1;
    reply[34] = 0;
    let mut report = frame(own(0), addr(PEER), &[0; 20]);
    report[23] = 2;
    let looped = frame(addr("127.0.0.1:9"), addr(PEER), b"x");
    for frame in [reset, reply, report, looped] {
        rig.core.frame_of_program(2, &frame);
    }
    rig.settle();
    assert_eq!((rig.net().sent.len(), rig.world().emitted.len()), (0, 0));
}

#[test]
fn no_frame_makes_it_panic() {
    let mut rig = rig();
    let mut random = Prng::new(7);
    for round in 0..20_000_u32 {
        let data = vec![round as u8; (random.next() % 64) as usize];
        let mut bytes = frame(own(random.next() as u16), addr(PEER), &data);
        bytes.truncate((random.next() % (bytes.len() as u64 + 1)) as usize);
        for _ in 0..random.next() % 6 {
            let at = (random.next() % 48) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        rig.core.frame_of_program((random.next() % 3) as u32, &bytes);
        if round % 64 == 0 {
            rig.settle();
        }
    }
    assert!(rig.net().socks.values().all(|sock| sock.spec.kind != Kind::Stream));
    // Of the raw sockets there is one for each protocol at most.
    assert!(rig.net().socks.len() < 2000, "{}", rig.net().socks.len());
}

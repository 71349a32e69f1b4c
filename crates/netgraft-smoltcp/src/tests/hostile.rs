//! Somebody on the wire who is neither of the two stacks, or who only knows that they talk.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netgraft_plugin::inet::Stack;
use netgraft_plugin::{Events, Sockets, TcpState};

use super::*;
use crate::neighbor::question;

/// The attacker's station.
const EVIL: [u8; 6] = [2, 0, 0, 0, 0, 0x66];
/// The station of each stack.
const STATIONS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

type Seen = Arc<Mutex<Vec<(usize, Vec<u8>)>>>;

/// A world whose frames are written down.
fn observed(neighbours: [&str; 2]) -> (World, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let world = World::with_neighbours(neighbours, move |end, frame| {
        noted.lock().unwrap().push((end, frame.to_vec()));
        true
    });
    (world, seen)
}

/// How many frames an end has sent to the attacker's station.
fn to_evil(seen: &Seen, end: usize) -> usize {
    seen.lock().unwrap().iter().filter(|(from, frame)| *from == end && frame[..6] == EVIL).count()
}

fn arp(operation: u8, to: [u8; 6], sender: (&str, [u8; 6]), target: (&str, [u8; 6])) -> Vec<u8> {
    let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
    let start = [&to[..], &sender.1, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    [&start[..], &sender.1, &ip(sender.0), &target.1, &ip(target.0)].concat()
}

/// The ones' complement sum of the Internet checksum (RFC 1071).
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let mut sum: u32 =
        bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An IPv6 packet with an ICMPv6 message, in a frame of the attacker's.
fn icmp6(to: [u8; 6], (src, dst): (&str, &str), mut message: Vec<u8>) -> Vec<u8> {
    let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let len = (message.len() as u32).to_be_bytes();
    message[2..4].fill(0);
    let sum = checksum(&[&ip(src), &ip(dst), &len, &[0, 0, 0, 58], &message]);
    message[2..4].copy_from_slice(&sum);
    let header = [0x60, 0, 0, 0, len[2], len[3], 58, 255];
    [&to[..], &EVIL, &[0x86, 0xdd], &header, &ip(src), &ip(dst), &message].concat()
}

/// A neighbor advertisement or solicitation, with the attacker's station in its option.
fn discovery(kind: u8, flags: u8, target: &str) -> Vec<u8> {
    let target = target.parse::<Ipv6Addr>().unwrap().octets();
    [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target, &[if kind == 136 { 2 } else { 1 }, 1], &EVIL].concat()
}

/// All that an attacker can say of a neighbor that stack 1 did not ask for.
fn lies() -> Vec<Vec<u8>> {
    let (four, six) = ("192.0.2.1", "2001:db8::1");
    let (own, own6) = ("192.0.2.2", "2001:db8::2");
    let (group, solicited_node) = ([0x33, 0x33, 0, 0, 0, 1], [0x33, 0x33, 0xff, 0, 0, 2]);
    vec![
        arp(2, STATIONS[1], (four, EVIL), (own, STATIONS[1])),
        // To all, of all: "gratuitous".
        arp(2, [0xff; 6], (four, EVIL), (four, [0xff; 6])),
        arp(1, [0xff; 6], (four, EVIL), (four, [0; 6])),
        arp(1, [0xff; 6], (four, EVIL), (own, [0; 6])),
        arp(1, STATIONS[1], (four, EVIL), (own, STATIONS[1])),
        icmp6(STATIONS[1], (six, own6), discovery(136, 0x60, six)),
        icmp6(STATIONS[1], (six, own6), discovery(136, 0x20, six)),
        icmp6(group, (six, "ff02::1"), discovery(136, 0x20, six)),
        icmp6(solicited_node, (six, "ff02::1:ff00:2"), discovery(135, 0, own6)),
        icmp6(STATIONS[1], (six, own6), discovery(135, 0, own6)),
    ]
}

/// A connection and a pair of datagram sockets of each family, from stack 1 to stack 0, that have exchanged data.
struct Talk {
    streams: [(Handle, Handle); 2],
    datagrams: [(Handle, Handle); 2],
}

fn talk(world: &mut World) -> Talk {
    let mut stream = |spec, at: &str, to: &str| {
        let listener = world.listen(0, spec, at, 5);
        let client = world.connect(1, spec, to);
        let (server, _) = world.stacks[0].accept(listener).unwrap();
        (client, server)
    };
    let streams = [stream(TCP4, "0.0.0.0:80", "192.0.2.1:80"), stream(TCP6, "[::]:81", "[2001:db8::1]:81")];
    let mut pair = |spec, at: &str, to: &str| {
        let there = world.stacks[0].socket(spec).unwrap();
        world.stacks[0].bind(there, addr(at)).unwrap();
        let here = world.stacks[1].socket(spec).unwrap();
        world.stacks[1].connect(here, addr(to), world.now).unwrap();
        (here, there)
    };
    let datagrams = [pair(UDP4, "0.0.0.0:7", "192.0.2.1:7"), pair(UDP6, "[::]:8", "[2001:db8::1]:8")];
    let talk = Talk { streams, datagrams };
    talk.works(world);
    talk
}

impl Talk {
    fn works(&self, world: &mut World) {
        for (here, there) in self.streams.iter().chain(&self.datagrams) {
            assert_eq!(world.send(1, *here, b"some"), Ok(4));
            world.settle();
            assert_eq!(world.recv(0, *there).as_deref(), Ok(&b"some"[..]));
        }
    }
}

#[test]
fn what_nobody_asked_for_replaces_no_neighbour() {
    let (mut world, seen) = observed([""; 2]);
    let talk = talk(&mut world);
    for lie in lies() {
        world.inject(1, &lie);
        talk.works(&mut world);
    }
    // Answers to the attacker's questions go to it, and nothing else: one a question.
    let questions = 4;
    assert_eq!(to_evil(&seen, 1), questions);
    let data = |frame: &[u8]| frame.ends_with(b"some");
    assert!(!seen.lock().unwrap().iter().any(|(_, frame)| frame[..6] == EVIL && data(frame)));
    // Nor when the neighbour is no longer certain.
    world.pass(Duration::from_secs(40));
    for lie in lies() {
        world.inject(1, &lie);
    }
    talk.works(&mut world);
    assert!(!seen.lock().unwrap().iter().any(|(_, frame)| frame[..6] == EVIL && data(frame)));
}

#[test]
fn what_was_said_before_it_was_asked_for_is_checked() {
    // The attacker is first: it is asked whether that is true, and the neighbour's own answer counts.
    let (mut world, seen) = observed([""; 2]);
    for lie in lies() {
        world.inject(1, &lie);
    }
    assert!(
        seen.lock().unwrap().iter().any(|(end, frame)| *end == 1 && question(frame) == Some(ip("192.0.2.1")))
    );
    talk(&mut world).works(&mut world);
    assert!(!seen.lock().unwrap().iter().any(|(_, frame)| frame[..6] == EVIL && frame.ends_with(b"some")));
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn an_answer_that_was_asked_for_moves_a_neighbour() {
    // A host with a new network adapter is found again once the old address is no longer confirmed.
    let (mut world, seen) = observed([""; 2]);
    let talk = talk(&mut world);
    world.pass(Duration::from_secs(61));
    let answers = Arc::clone(&seen);
    // The neighbour falls silent, and the other answers for it.
    world.filter(move |end, frame| {
        answers.lock().unwrap().push((end, frame.to_vec()));
        end == 1
    });
    world.send(1, talk.streams[0].0, b"some").unwrap();
    world.settle();
    world.inject(1, &arp(2, STATIONS[1], ("192.0.2.1", EVIL), ("192.0.2.2", STATIONS[1])));
    world.pass(Duration::from_secs(2));
    assert!(to_evil(&seen, 1) > 0);
}

#[test]
fn a_neighbour_that_the_operator_names_is_not_asked_for_and_never_replaced() {
    let named = "192.0.2.1=02:00:00:00:00:01 2001:db8::1=02:00:00:00:00:01";
    let (mut world, seen) = observed(["", named]);
    for lie in lies() {
        world.inject(1, &lie);
    }
    let talk = talk(&mut world);
    // Also where smoltcp's own table has forgotten it.
    world.pass(Duration::from_secs(100));
    let answer = arp(2, STATIONS[1], ("192.0.2.1", EVIL), ("192.0.2.2", STATIONS[1]));
    world.inject(1, &answer);
    talk.works(&mut world);
    let seen = seen.lock().unwrap();
    assert!(!seen.iter().any(|(end, frame)| *end == 1 && question(frame).is_some()), "it asks nobody");
    assert!(!seen.iter().any(|(_, frame)| frame[..6] == EVIL && frame.ends_with(b"some")));
}

/// An echo request to stack 1's network, in a frame of stack 0's.
fn ping(to: [u8; 4]) -> Vec<u8> {
    let mut header = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1, to[0], to[1], to[2], to[3]];
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    let mut message = [8, 0, 0, 0, 0, 9, 0, 1];
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum);
    let station = if to == [192, 0, 2, 2] { STATIONS[1] } else { [0xff; 6] };
    [&station[..], &STATIONS[0], &[8, 0], &header, &message].concat()
}

#[test]
fn an_echo_request_to_many_is_not_answered() {
    let (mut world, seen) = observed([""; 2]);
    world.pair();
    let replies =
        |seen: &Seen| seen.lock().unwrap().iter().filter(|(end, f)| *end == 1 && f[23] == 1).count();
    for to in [[192, 0, 2, 255], [255, 255, 255, 255], [224, 0, 0, 1]] {
        world.inject(1, &ping(to));
        assert_eq!(replies(&seen), 0, "to {to:?}");
    }
    world.inject(1, &ping([192, 0, 2, 2]));
    assert_eq!(replies(&seen), 1);
}

#[test]
fn neighbours_that_cannot_be_are_refused() {
    let refused = |neighbours: &[&str]| {
        let config = StackConfig {
            addresses: vec!["192.0.2.2/24".parse().unwrap()],
            neighbours: neighbours.iter().map(|n| n.parse().unwrap()).collect(),
            ..StackConfig::default()
        };
        let wire = Wire { queues: Default::default(), filter: Box::new(|_, _| true), frames: 0 };
        let link = Box::new(End { wire: Arc::new(Mutex::new(wire)), end: 0 });
        SmoltcpStack::with_link(config, link).map(drop).map_err(|e| e.to_string())
    };
    let (near, far) = ("192.0.2.1=02:00:00:00:00:01", "198.51.100.1=02:00:00:00:00:01");
    assert_eq!(refused(&[near]), Ok(()));
    assert!(refused(&[near, near]).unwrap_err().contains("given twice"));
    assert!(refused(&[far]).unwrap_err().contains("in the network of no --address"));
    assert!(refused(&["192.0.2.2=02:00:00:00:00:01"]).unwrap_err().contains("in the network of no"));
}

/// Changes a TCP segment over IPv4 without options in its frame, and computes its checksums again.
fn forged(frame: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = frame.to_vec();
    change(&mut frame);
    let len = u16::from_be_bytes([frame[16], frame[17]]) as usize - 20;
    frame[24..26].fill(0);
    let sum = checksum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum);
    frame[50..52].fill(0);
    let sum = checksum(&[&frame[26..34], &[0, 6], &(len as u16).to_be_bytes(), &frame[34..34 + len]]);
    frame[50..52].copy_from_slice(&sum);
    frame
}

const SEQ: std::ops::Range<usize> = 38..42;
const ACK: std::ops::Range<usize> = 42..46;
const FLAGS: usize = 47;
const RST: u8 = 4;
const SYN: u8 = 2;

fn number(frame: &[u8], at: std::ops::Range<usize>) -> u32 {
    u32::from_be_bytes(frame[at].try_into().unwrap())
}

/// The last segment that an end has sent.
fn last_segment(seen: &Seen, end: usize) -> Vec<u8> {
    let seen = seen.lock().unwrap();
    let tcp = |frame: &[u8]| frame.len() > 54 && frame[12..14] == [8, 0] && frame[23] == 6;
    seen.iter().rev().find(|(from, frame)| *from == end && tcp(frame)).unwrap().1.clone()
}

fn segments(seen: &Seen, end: usize) -> usize {
    let tcp = |frame: &[u8]| frame.len() >= 54 && frame[12..14] == [8, 0] && frame[23] == 6;
    seen.lock().unwrap().iter().filter(|(from, frame)| *from == end && tcp(frame)).count()
}

#[test]
fn a_syn_for_many_is_not_answered() {
    let (mut world, seen) = observed([""; 2]);
    world.listen(1, TCP4, "0.0.0.0:80", 5);
    world.connect(0, TCP4, "192.0.2.2:80");
    let syn = {
        let seen = seen.lock().unwrap();
        seen.iter()
            .find(|(end, f)| *end == 0 && f.len() > 54 && f[23] == 6 && f[FLAGS] == SYN)
            .unwrap()
            .1
            .clone()
    };
    world.settle();
    let before = segments(&seen, 1);
    for port in [80u16, 81] {
        for (mac, to) in [
            ([0xff; 6], [192, 0, 2, 255]),
            ([0xff; 6], [255, 255, 255, 255]),
            // To all stations, though it is for one host; and to one station, though it is for all hosts.
            ([0xff; 6], [192, 0, 2, 2]),
            (STATIONS[1], [192, 0, 2, 255]),
            (STATIONS[1], [255, 255, 255, 255]),
            ([1, 0, 0x5e, 0, 0, 1], [224, 0, 0, 1]),
            ([1, 0, 0x5e, 0, 0, 1], [192, 0, 2, 2]),
            (STATIONS[1], [224, 0, 0, 1]),
        ] {
            let frame = forged(&syn, |frame| {
                frame[..6].copy_from_slice(&mac);
                frame[30..34].copy_from_slice(&to);
                frame[34..36].copy_from_slice(&[0x99, port as u8]);
                frame[36..38].copy_from_slice(&port.to_be_bytes());
            });
            world.inject(1, &frame);
            assert_eq!(segments(&seen, 1), before, "to {to:?}, port {port}");
        }
    }
    // The same to the host itself is answered: the frames were well made.
    let frame = forged(&syn, |frame| frame[34..36].copy_from_slice(&[0x99, 1]));
    world.inject(1, &frame);
    assert!(segments(&seen, 1) > before);
}

/// RFC 5961: who does not see the segments has to guess one number of 2³², not one in the window.
#[test]
fn segments_of_a_blind_attacker_end_no_connection() {
    let (mut world, seen) = observed([""; 2]);
    let (client, server) = world.pair();
    world.send(0, client, b"hello").unwrap();
    world.settle();
    assert_eq!(world.recv(1, server).unwrap(), b"hello");
    let state = |world: &World| world.stacks[1].tcp_info(server).unwrap().state;
    let template = last_segment(&seen, 0);
    let next = number(&template, SEQ).wrapping_add(5);
    let acknowledged = number(&template, ACK);
    let segment = |flags: u8, seq: u32, ack: u32, data: &[u8]| {
        forged(&template, |frame| {
            frame[SEQ].copy_from_slice(&seq.to_be_bytes());
            frame[ACK].copy_from_slice(&ack.to_be_bytes());
            frame[FLAGS] = flags;
            let end = frame.len();
            frame[end - 5..].copy_from_slice(data);
        })
    };
    let resets = world.stacks[1].statistics().tcp_resets_received;
    for offset in [1, 2, 1000, 60_000] {
        let before = segments(&seen, 1);
        world.inject(1, &segment(RST, next.wrapping_add(offset), 0, b"xxxxx"));
        assert_eq!(state(&world), TcpState::Established, "RST {offset} further in the window");
        // The challenge: who really has lost the connection then resets it with the right number.
        assert_eq!(segments(&seen, 1), before + usize::from(offset == 1), "one challenge in a while");
        world.inject(1, &segment(SYN, next.wrapping_add(offset), 0, b"xxxxx"));
        assert_eq!(state(&world), TcpState::Established, "SYN in the window");
    }
    // Data with an acknowledgement of what was not sent, or of long ago, is not taken.
    for ack in [acknowledged.wrapping_add(100_000), acknowledged.wrapping_sub(1 << 30)] {
        world.inject(1, &segment(0x18, next, ack, b"evil!"));
        assert_eq!(world.recv(1, server), Err(Error::Again));
    }
    world.pass(Duration::from_secs(2));
    assert_eq!(world.send(0, client, b"still"), Ok(5));
    world.settle();
    assert_eq!(world.recv(1, server).unwrap(), b"still");
    assert_eq!(world.stacks[1].statistics().tcp_resets_received, resets);
    // The right number ends it.
    world.inject(1, &segment(RST, next.wrapping_add(5), 0, b"xxxxx"));
    assert_eq!(world.stacks[1].take_error(server), Some(Error::ConnectionReset));
}

#[test]
fn after_4200_syns_a_client_connects_at_once() {
    let (mut world, seen) = observed([""; 2]);
    let listener = world.listen(1, TCP4, "0.0.0.0:80", 128);
    world.connect(0, TCP4, "192.0.2.2:81");
    let syn = {
        let seen = seen.lock().unwrap();
        seen.iter()
            .find(|(end, f)| *end == 0 && f.len() > 54 && f[23] == 6 && f[FLAGS] == SYN)
            .unwrap()
            .1
            .clone()
    };
    seen.lock().unwrap().clear();
    let core = |world: &World| world.stacks[1].core().unwrap().connections.len();
    for i in 0..4200u32 {
        // From hosts of the link that are not there, and from ones behind no gateway.
        let from = [192, 0, 2, 3 + (i % 200) as u8];
        let frame = forged(&syn, |frame| {
            frame[26..30].copy_from_slice(&from);
            frame[34..36].copy_from_slice(&(2000 + i as u16).to_be_bytes());
            frame[36..38].copy_from_slice(&80u16.to_be_bytes());
            frame[SEQ].copy_from_slice(&(i * 7919).to_be_bytes());
        });
        world.wire.lock().unwrap().queues[1].push_back(frame);
    }
    world.settle();
    assert!(core(&world) <= 130, "{} connections are kept", core(&world));
    let now = world.now;
    let client = world.connect(0, TCP4, "192.0.2.2:80");
    assert_eq!(world.ready(0, client), Events::OUT);
    assert_eq!(world.now, now);
    world.send(0, client, b"honest").unwrap();
    world.settle();
    let (server, peer) = world.stacks[1].accept(listener).unwrap();
    assert_eq!(peer, world.stacks[0].local_addr(client).unwrap());
    assert_eq!(world.recv(1, server).unwrap(), b"honest");
}

/// A datagram in a frame of the attacker's, without a checksum of UDP.
fn udp4(to: [u8; 6], (src, dst): (&str, &str), port: u16, payload: &[u8]) -> Vec<u8> {
    let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
    let port = port.to_be_bytes();
    let len = (28 + payload.len() as u16).to_be_bytes();
    let start = [0x45, 0, len[0], len[1], 0, 1, 0, 0, 64, 17];
    let sum = checksum(&[&start, &ip(src), &ip(dst)]);
    let udp = [9, 9, port[0], port[1], 0, 8 + payload.len() as u8, 0, 0];
    [&to[..], &EVIL, &[8, 0], &start, &sum, &ip(src), &ip(dst), &udp, payload].concat()
}

#[test]
fn nobody_on_the_wire_speaks_for_the_stack_itself() {
    let mut world = World::new();
    let server = world.stacks[0].socket(UDP4).unwrap();
    world.stacks[0].bind(server, "0.0.0.0:53".parse().unwrap()).unwrap();
    let dropped = |world: &World| world.stacks[0].statistics().packets_dropped;
    let before = dropped(&world);
    for source in ["192.0.2.1", "127.0.0.1", "127.1.2.3"] {
        world.inject(0, &udp4(STATIONS[0], (source, "192.0.2.1"), 53, b"lie"));
    }
    world.inject(0, &icmp6(STATIONS[0], ("2001:db8::1", "2001:db8::1"), vec![128, 0, 0, 0, 0, 1, 0, 1]));
    assert_eq!(dropped(&world) - before, 4);
    let mut buf = [0; 100];
    let now = world.now;
    let got = world.stacks[0].recv(server, &mut buf, netgraft_plugin::RecvFlags::empty(), now);
    assert_eq!(got, Err(netgraft_plugin::Error::Again));
    // Others are heard.
    world.inject(0, &udp4(STATIONS[0], ("192.0.2.9", "192.0.2.1"), 53, b"truth"));
    let got = world.stacks[0].recv(server, &mut buf, netgraft_plugin::RecvFlags::empty(), now).unwrap();
    assert_eq!((got.len, got.from), (5, Some("192.0.2.9:2313".parse().unwrap())));
}

//! Whatever a neighbor sends: no panic, no flood in answer, and the next one who behaves is served.

use netgraft_plugin::link::Offload;
use netgraft_plugin::option::SocketOption;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::packet::{self, Header, ICMP, ICMPV6, TCP, UDP};

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Frames in answer to one: a datagram for everybody goes to several sockets, but each answers once at most.
const ANSWERS: usize = 4;
/// Frames that the stack sends on its own account in a case: connections, questions for a neighbor, reports.
const OWN: usize = 200;

/// Frames that wait for the stack, and those that it has sent.
type Line = Arc<Mutex<(VecDeque<Vec<u8>>, Vec<Vec<u8>>)>>;

struct Neighbor {
    line: Line,
    offload: Offload,
}

impl Link for Neighbor {
    fn medium(&self) -> Medium {
        Medium::Ethernet(OURS)
    }
    fn mtu(&self) -> usize {
        1500
    }
    fn offload(&self) -> Offload {
        self.offload
    }
    fn receive(&mut self, _now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        for count in 0..limit {
            let frame = self.line.lock().unwrap().0.pop_front();
            match frame {
                Some(frame) => deliver(&frame),
                None => return Ok(count),
            }
        }
        Ok(limit)
    }
    fn send(&mut self, _now: Instant, frame: &[u8], _meta: FrameMeta) -> Result<()> {
        assert!(frame.len() <= 1514);
        self.line.lock().unwrap().1.push(frame.to_vec());
        Ok(())
    }
    fn flush(&mut self, _now: Instant) -> Result<()> {
        Ok(())
    }
}

/// An IP packet from the neighbor, in a frame.
fn frame(v4: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let text = if v4 { ["192.0.2.2", "192.0.2.1"] } else { ["2001:db8::2", "2001:db8::1"] };
    let [src, dst] = text.map(|t| t.parse().unwrap());
    let header = Header { src, dst, protocol, hop_limit: 255, traffic_class: 0, dont_fragment: false };
    let mut frame = [&OURS[..], &THEIRS, if v4 { &[8, 0] } else { &[0x86, 0xdd] }].concat();
    let start = frame.len() + header.len();
    frame.resize(start + payload.len(), 0);
    header.emit(&mut frame[14..]);
    let whole = &mut frame[start..];
    whole.copy_from_slice(payload);
    let at = match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    };
    if let Some(at) = at.filter(|at| whole.len() >= at + 2) {
        let pseudo = if protocol == ICMP { 0 } else { packet::pseudo(src, dst, protocol, whole.len()) };
        whole[at..at + 2].fill(0);
        let check = !packet::sum(whole, pseudo);
        whole[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
    frame
}

fn segment(ports: (u16, u16), seq: u32, ack: u32, flags: u8, tail: &[u8]) -> Vec<u8> {
    let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    bytes.extend(seq.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes.extend([0x50 + (tail.len().min(40) as u8 / 4) * 0x10, flags, 0x20, 0, 0, 0, 0, 0]);
    bytes.extend(tail);
    bytes
}

/// What a well-behaved neighbor could say, of each kind.
fn sound() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let arp = |operation: u8| {
        let mut frame = [&[0xff; 6][..], &THEIRS, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &THEIRS].concat();
        frame.extend([192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
        frame
    };
    frames.extend([arp(1), arp(2)]);
    let mss = [2, 4, 5, 0xb4, 3, 3, 7, 0];
    for v4 in [true, false] {
        let echo = if v4 { (ICMP, [8, 0, 3, 11]) } else { (ICMPV6, [128, 129, 1, 2]) };
        for kind in echo.1 {
            // An error quotes the stack's own SYN.
            let mut message = vec![kind, if kind == 3 { 4 } else { 0 }, 0, 0, 0, 9, 0, 1];
            let mut quoted = frame(v4, TCP, &segment((40_000, 5000), 1, 0, 2, &[]));
            message.extend(quoted.drain(14..));
            frames.push(frame(v4, echo.0, &message));
        }
        for flags in [2, 0x10, 0x11, 4, 0x12, 0x18] {
            frames.push(frame(v4, TCP, &segment((5000, 80), 7, 9, flags, &mss)));
            frames.push(frame(v4, TCP, &segment((5000, 40_000), 7, 9, flags, &mss)));
        }
        frames.push(frame(v4, UDP, &[0, 7, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]));
        frames.push(frame(v4, UDP, &[0, 7, 0, 99, 0, 12, 0, 0, 1, 2, 3, 4]));
        frames.push(frame(v4, 200, b"raw"));
    }
    // Neighbor discovery, a group query, hop-by-hop options, fragments, IGMP.
    let ours = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for (kind, tail) in [(135, [1, 1]), (136, [2, 1])] {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend(ours);
        message.extend(tail);
        message.extend(THEIRS);
        frames.push(frame(false, ICMPV6, &message));
    }
    frames.push(frame(
        false,
        ICMPV6,
        &[130, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ));
    frames.push(frame(false, 0, &[17, 0, 5, 2, 0, 0, 1, 0, 0, 7, 0, 53, 0, 8, 0, 0]));
    for offset in [1, 8] {
        frames.push(frame(false, 44, &[17, 0, 0, offset, 0, 0, 0, 1, 0, 7, 0, 53, 0, 24, 0, 0]));
        let mut part = frame(true, UDP, &[0, 7, 0, 53, 0, 24, 0, 0]);
        part[14 + 6..14 + 8].copy_from_slice(&[if offset == 1 { 0x20 } else { 0 }, offset - 1]);
        frames.push(part);
    }
    frames.push(frame(true, packet::IGMP, &[0x11, 10, 0, 0, 0, 0, 0, 0]));
    frames
}

/// What is done to a sound frame.
#[derive(Clone, Debug)]
enum Change {
    Byte(Index, u8),
    Cut(Index),
    Longer(Vec<u8>),
    /// The source address, of IPv4 or both.
    Source(u8),
    /// A 16-bit field of the headers.
    Word(u8, u16),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, to)| Change::Byte(at, to)),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => vec(any::<u8>(), 0..200).prop_map(Change::Longer),
        1 => (0..6u8).prop_map(Change::Source),
        2 => (12..80u8, prop_oneof![Just(0), Just(u16::MAX), any::<u16>()]).prop_map(|(at, to)| Change::Word(at, to)),
    ]
}

fn apply(frame: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Byte(at, to) if !frame.is_empty() => {
            let at = at.index(frame.len());
            frame[at] = *to;
        }
        Change::Cut(at) if !frame.is_empty() => frame.truncate(at.index(frame.len())),
        Change::Longer(tail) => frame.extend(tail),
        Change::Source(which) if frame.len() >= 54 => {
            let special: [[u8; 4]; 6] =
                [[0; 4], [255; 4], [192, 0, 2, 1], [127, 0, 0, 1], [224, 0, 0, 1], [192, 0, 2, 255]];
            if frame[14] >> 4 == 6 {
                frame[22..38].fill(0);
                frame[22] = [0, 255, 0xfe, 0x20, 0xff, 0xfc][usize::from(*which)];
            } else {
                frame[26..30].copy_from_slice(&special[usize::from(*which)]);
                frame[24..26].fill(0);
                let check = !packet::sum(&frame[14..34], 0);
                frame[24..26].copy_from_slice(&check.to_be_bytes());
            }
        }
        Change::Word(at, to) if frame.len() > usize::from(*at) + 1 => {
            frame[usize::from(*at)..][..2].copy_from_slice(&to.to_be_bytes());
        }
        _ => {}
    }
}

/// Frames: sound ones with changes, headers with anything behind, and anything at all.
fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let changed = (any::<Index>(), vec(change(), 0..4)).prop_map(|(which, changes)| {
        let all = sound();
        let mut frame = which.get(&all).clone();
        changes.iter().for_each(|change| apply(&mut frame, change));
        frame
    });
    let headed =
        (any::<bool>(), any::<u8>(), vec(any::<u8>(), 0..120)).prop_map(|(v4, p, b)| frame(v4, p, &b));
    let any = vec(any::<u8>(), 0..120).prop_map(|bytes| [&OURS[..], &bytes].concat());
    vec(prop_oneof![8 => changed, 2 => headed, 1 => any], 1..40)
}

/// Everything that may be open while the frames come.
fn open(stack: &mut SmoltcpStack, now: Instant) -> Handle {
    let raw = |domain| SocketSpec { domain, kind: Kind::Raw, protocol: Protocol::Raw(200) };
    for spec in [UDP4, UDP6, raw(Domain::V4), raw(Domain::V6)] {
        let sock = stack.socket(spec).unwrap();
        let any = if spec.domain == Domain::V4 { "0.0.0.0:53" } else { "[::]:53" };
        stack.set_option(sock, SocketOption::V6Only(true)).ok();
        stack.bind(sock, addr(any)).unwrap();
    }
    let group = SocketSpec { domain: Domain::V4, ..UDP4 };
    let group = stack.socket(group).unwrap();
    let any = "0.0.0.0".parse().unwrap();
    stack.set_option(group, SocketOption::JoinGroup(("224.0.0.1".parse().unwrap(), any))).ok();
    for (spec, to) in [(TCP4, "192.0.2.2:5000"), (TCP6, "[2001:db8::2]:5000")] {
        let client = stack.socket(spec).unwrap();
        stack.bind(client, addr(if spec == TCP4 { "0.0.0.0:40000" } else { "[2001:db8::1]:40000" })).unwrap();
        assert_eq!(stack.connect(client, addr(to), now), Err(Error::InProgress));
    }
    let listener = stack.socket(TCP6).unwrap();
    stack.bind(listener, addr("[::]:80")).unwrap();
    stack.listen(listener, 1000).unwrap();
    listener
}

fn run(frames: Vec<Vec<u8>>, checksum: bool) {
    let line = Line::default();
    let config = StackConfig {
        addresses: ["192.0.2.1/24", "2001:db8::1/64"].iter().map(|a| a.parse().unwrap()).collect(),
        ..StackConfig::default()
    };
    let offload = Offload { checksum, ..Offload::default() };
    let link = Box::new(Neighbor { line: Arc::clone(&line), offload });
    let mut stack = SmoltcpStack::with_link(config, link).unwrap();
    stack.init(InitStackArgs::default()).unwrap();
    let mut now = Instant::from_millis(1);
    let listener = open(&mut stack, now);
    let count = frames.len();
    for (i, frame) in frames.into_iter().enumerate() {
        line.lock().unwrap().0.push_back(frame);
        if i % 3 == 0 {
            now = now + Duration::from_millis(150);
            rest(&mut stack, now);
        }
    }
    rest(&mut stack, now);
    while let Ok((sock, _)) = stack.accept(listener) {
        let _ = recv(&mut stack, sock, now);
        let _ = stack.send(sock, &[1; 3000], None, SendFlags::empty(), now);
        stack.close(sock, now).unwrap();
    }
    rest(&mut stack, now);
    let sent = std::mem::take(&mut line.lock().unwrap().1).len();
    assert!(sent <= count * ANSWERS + OWN, "{sent} frames in answer to {count}");

    // The next neighbor, who behaves: it asks, and answers when it is asked. What was believed of it is not certain any more.
    now = now + Duration::from_secs(61);
    let all = sound();
    for _ in 0..2 {
        line.lock().unwrap().0.extend([all[0].clone(), frame(true, ICMP, &[8, 0, 0, 0, 0x77, 1, 0x55, 2])]);
        line.lock().unwrap().0.push_back(frame(true, TCP, &segment((6543, 80), 70, 0, 2, &[2, 4, 5, 0xb4])));
        rest(&mut stack, now);
        let asked = line
            .lock()
            .unwrap()
            .1
            .iter()
            .any(|frame| crate::neighbor::question(frame) == Some("192.0.2.2".parse().unwrap()));
        if asked {
            line.lock().unwrap().0.push_back(all[1].clone());
            rest(&mut stack, now);
        }
    }
    let answers = std::mem::take(&mut line.lock().unwrap().1);
    let with = |protocol: u8, at: usize, bytes: &[u8]| {
        answers.iter().any(|f| {
            f[..6] == THEIRS
                && f[12..14] == [8, 0]
                && f[23] == protocol
                && f[34..].get(at..at + bytes.len()) == Some(bytes)
        })
    };
    assert!(with(ICMP, 4, &[0x77, 1, 0x55, 2]), "an echo is answered");
    assert!(with(TCP, 2, &6543u16.to_be_bytes()) && with(TCP, 8, &71u32.to_be_bytes()), "a SYN is answered");
    stack.destroy();
}

#[test]
fn a_syn_that_crosses_one_which_has_not_left_is_dropped() {
    for v4 in [true, false] {
        run(vec![frame(v4, TCP, &segment((5000, 40_000), 7, 0, 2, &[2, 4, 5, 0xb4]))], false);
    }
}

proptest! {
    // A failure prints its input; no file is left behind.
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_of_any_kind_do_no_harm(frames in frames(), checksum in any::<bool>()) {
        run(frames, checksum);
    }
}

//! A bridge between a simulated wire, or a link that the test holds up, and a stack that the test plays.

use std::sync::{Arc, Mutex};

use netgraft_linux::unix;
use netgraft_plugin::link::Medium;
use proptest::prelude::*;

use super::*;
use crate::wire::{self, WireEnd};

const MTU: usize = 1500;

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

/// A bridge, the other end of its wire, and the stack's end of its pair.
fn bridge() -> (Bridge, WireEnd, Channel) {
    let (near, far) = wire::pair(MTU);
    let (bridge, stack) = on(Box::new(near));
    (bridge, far, stack)
}

fn on(link: Box<dyn Link>) -> (Bridge, Channel) {
    let (own, stack) = pair().unwrap();
    (
        Bridge::new(Rebuilt { link: Some(link), recorder: None, dial: None }, own).unwrap(),
        Channel::from_fd(stack),
    )
}

/// A link with offloads whose sender takes no more than `room` frames, and whose receiver has `incoming`.
#[derive(Clone)]
struct Held(Arc<Mutex<State>>);

struct State {
    room: usize,
    sent: Vec<(Vec<u8>, u16)>,
    incoming: Vec<Vec<u8>>,
    error: Option<Error>,
}

impl Held {
    fn new(room: usize) -> Held {
        Held(Arc::new(Mutex::new(State { room, sent: Vec::new(), incoming: Vec::new(), error: None })))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }
}

impl Link for Held {
    fn medium(&self) -> Medium {
        Medium::Ethernet([2; 6])
    }

    fn mtu(&self) -> usize {
        MTU
    }

    fn offload(&self) -> Offload {
        Offload { checksum: true, segment_v4: 65_535, segment_v6: 65_535 }
    }

    fn receive(&mut self, _: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        self.with(|state| {
            if let Some(error) = state.error {
                return Err(error);
            }
            let count = limit.min(state.incoming.len());
            state.incoming.drain(..count).for_each(|frame| deliver(&frame));
            Ok(count)
        })
    }

    fn send(&mut self, _: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        self.with(|state| {
            if let Some(error) = state.error {
                return Err(error);
            }
            if state.room == 0 {
                return Err(Error::Again);
            }
            state.room -= 1;
            state.sent.push((frame.to_vec(), meta.segment_size));
            Ok(())
        })
    }

    fn flush(&mut self, _: Instant) -> Result<()> {
        Ok(())
    }
}

/// A TCP segment over IPv4 with a right checksum.
fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((40 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    frame.extend([0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.extend(payload);
    vnet::finish_header(&mut frame[14..34]);
    vnet::finish_checksum(&mut frame);
    frame
}

/// A datagram over IPv4 with a right checksum.
fn udp(payload: &[u8]) -> Vec<u8> {
    let mut frame = tcp(&[]);
    frame.truncate(34);
    frame[16..18].copy_from_slice(&(28 + payload.len() as u16).to_be_bytes());
    frame[23] = 17;
    vnet::finish_header(&mut frame[14..34]);
    frame.extend([0, 7, 0, 8]);
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0xff, 0xff]);
    frame.extend(payload);
    vnet::finish_checksum(&mut frame);
    frame
}

fn intact(frame: &[u8]) -> bool {
    vnet::is_intact(&[0; vnet::LEN], frame)
}

/// What the other end of a wire has received.
fn carried(far: &mut WireEnd, now: Instant) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while far.receive(now, 1000, &mut |frame| frames.push(frame.to_vec())).unwrap() > 0 {}
    frames
}

/// What the stack has received: headers and frames.
fn given(stack: &mut Channel) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut frames = Vec::new();
    while stack.receive(32, &mut |header, frame| frames.push((header.to_vec(), frame.to_vec()))).unwrap().0
        > 0
    {}
    frames
}

#[test]
fn whole_frames_cross_unchanged_both_ways() {
    let (mut bridge, mut far, mut stack) = bridge();
    let (out, back) = (tcp(b"out"), udp(b"back"));
    stack.queue(&out, None);
    stack.flush().unwrap();
    bridge.send(at(1)).unwrap();
    assert_eq!(carried(&mut far, at(1)), [out]);
    far.send(at(2), &back, FrameMeta::default()).unwrap();
    bridge.receive(at(2)).unwrap();
    // The wire has no offloads: the stack is to look at the checksum itself.
    assert_eq!(given(&mut stack), [(vec![0; vnet::LEN], back)]);
    assert_eq!((bridge.next_deadline(), bridge.lost()), (None, 0));
}

#[test]
fn what_a_wire_does_not_do_is_done_here() {
    let (mut bridge, mut far, mut stack) = bridge();
    let payload: Vec<u8> = (0..4000_u32).map(|i| i as u8).collect();
    stack.queue(&tcp(&payload), Some(1460));
    stack.queue(&tcp(b"one"), Some(0));
    stack.flush().unwrap();
    // A datagram whose checksum is begun only: the sum of its pseudo header.
    let mut datagram = udp(b"data");
    let right = datagram[40..42].to_vec();
    let data: [u16; 7] = [0xc000, 0x0201, 0xc000, 0x0202, 17, 12, 0];
    let sum: u32 = data.iter().map(|&word| u32::from(word)).sum();
    datagram[40..42].copy_from_slice(&(((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let header = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0];
    unix::send(stack.as_fd(), &[&header[..], &datagram].concat()).unwrap();
    bridge.send(at(1)).unwrap();
    let frames = carried(&mut far, at(1));
    let lengths: Vec<usize> = frames.iter().map(Vec::len).collect();
    assert_eq!(lengths, [54 + 1460, 54 + 1460, 54 + 1080, 57, 46]);
    assert!(frames.iter().all(|frame| intact(frame)));
    assert_eq!(frames[4][40..42], right);
    let joined: Vec<u8> = frames[..3].iter().flat_map(|frame| frame[54..].to_vec()).collect();
    assert_eq!(joined, payload);
}

#[test]
fn what_the_link_does_is_left_to_it() {
    let held = Held::new(10);
    let (mut bridge, mut stack) = on(Box::new(held.clone()));
    stack.queue(&tcp(&[7; 4000]), Some(1460));
    stack.queue(&tcp(b"one"), Some(0));
    stack.queue(&udp(b"two"), None);
    stack.flush().unwrap();
    bridge.send(at(1)).unwrap();
    held.with(|state| {
        let seen: Vec<(usize, u16)> = state.sent.iter().map(|(frame, size)| (frame.len(), *size)).collect();
        assert_eq!(seen, [(4054, 1460), (57, 0), (45, 0)]);
    });
    // Merged segments come with what they were merged of, and datagrams with their whole checksum.
    let mut begun = udp(b"begun");
    begun[40] ^= 0x55;
    held.with(|state| state.incoming = vec![tcp(&[9; 5000]), tcp(b"three"), begun]);
    bridge.receive(at(2)).unwrap();
    let frames = given(&mut stack);
    let tasks: Vec<Option<Task>> = frames.iter().map(|(header, _)| vnet::task(header)).collect();
    let checksum = Task::Checksum { start: 34, offset: 16 };
    assert_eq!(tasks, [Some(Task::Segments(1460)), Some(checksum), Some(Task::Nothing)]);
    assert!(intact(&frames[2].1));
    let mut single = frames[1].1.clone();
    assert!(vnet::write_checksum(&mut single, 34, 16) && intact(&single));
}

#[test]
fn a_stack_that_does_not_read_loses_frames_and_nothing_grows() {
    let held = Held::new(0);
    let (mut bridge, mut stack) = on(Box::new(held.clone()));
    let frame = |number: u32| udp(&number.to_be_bytes().repeat(250));
    let sent = 40_000;
    let mut next = 0;
    while next < sent {
        held.with(|state| state.incoming.extend((next..next + 64).map(frame)));
        next += 64;
        bridge.receive(at(1)).unwrap();
        bridge.send(at(1)).unwrap();
        assert!(bridge.channel.as_ref().unwrap().queued() < HELD + 64 * 1100);
    }
    assert_eq!(bridge.next_deadline(), Some(at(1) + RETRY), "a busy stack is not asked again and again");
    let lost = bridge.lost();
    assert!(lost > 0);
    // Once it reads, what was kept arrives, in order.
    let mut numbers = Vec::new();
    loop {
        let got = given(&mut stack);
        if got.is_empty() {
            break;
        }
        numbers.extend(got.iter().map(|(_, frame)| u32::from_be_bytes(frame[42..46].try_into().unwrap())));
        bridge.receive(at(2)).unwrap();
        bridge.send(at(2)).unwrap();
    }
    assert_eq!(numbers.len() as u64, u64::from(next) - lost);
    assert!(numbers.is_sorted() && numbers[0] == 0);
    assert_eq!(bridge.next_deadline(), None);
}

#[test]
fn a_link_without_room_is_tried_again_and_nothing_grows() {
    let held = Held::new(3);
    let (mut bridge, mut stack) = on(Box::new(held.clone()));
    let sent = 4000_u32;
    for number in 0..sent {
        stack.queue(&udp(&number.to_be_bytes().repeat(250)), None);
        if number % 32 == 31 {
            stack.flush().unwrap();
            bridge.send(at(1)).unwrap();
        }
    }
    assert_eq!(held.with(|state| state.sent.len()), 3);
    assert!(bridge.waiting_bytes <= HELD && bridge.lost() > 0);
    assert_eq!(bridge.next_deadline(), Some(at(1) + RETRY));
    held.with(|state| state.room = usize::MAX);
    bridge.receive(at(2)).unwrap();
    bridge.send(at(2)).unwrap();
    assert_eq!((bridge.waiting_bytes, bridge.next_deadline()), (0, None));
    held.with(|state| {
        assert_eq!(state.sent.len() as u64, u64::from(sent) - bridge.lost());
        let number = |frame: &[u8]| u32::from_be_bytes(frame[42..46].try_into().unwrap());
        assert!(state.sent.iter().map(|(frame, _)| number(frame)).is_sorted());
    });
}

/// Much in one direction does not keep the loop from what else there is: the rest is for the next call.
#[test]
fn a_call_carries_a_bounded_number_of_frames() {
    let (mut bridge, mut far, mut stack) = bridge();
    for _ in 0..FRAMES + 1 {
        far.send(at(1), &udp(b"x"), FrameMeta::default()).unwrap();
        stack.queue(&udp(b"y"), None);
    }
    stack.flush().unwrap();
    bridge.receive(at(1)).unwrap();
    assert_eq!(bridge.next_deadline(), Some(at(1)));
    bridge.send(at(1)).unwrap();
    assert_eq!((given(&mut stack).len(), carried(&mut far, at(1)).len()), (FRAMES, FRAMES));
    assert_eq!(bridge.next_deadline(), Some(at(1)));
    bridge.receive(at(1)).unwrap();
    bridge.send(at(1)).unwrap();
    assert_eq!((given(&mut stack).len(), carried(&mut far, at(1)).len()), (1, 1));
    assert_eq!(bridge.next_deadline(), None);
}

#[test]
fn a_link_that_is_gone_is_said_once() {
    let held = Held::new(10);
    let (mut bridge, mut stack) = on(Box::new(held.clone()));
    held.with(|state| state.error = Some(Error::Io));
    assert_eq!(bridge.receive(at(1)), Err(Error::Io));
    assert_eq!(bridge.receive(at(1)), Err(Error::Io), "it may come back");
    held.with(|state| state.error = Some(Error::NetworkDown));
    stack.queue(&udp(b"x"), None);
    stack.flush().unwrap();
    assert_eq!(bridge.send(at(1)), Err(Error::NetworkDown));
    stack.queue(&udp(b"y"), None);
    stack.flush().unwrap();
    assert_eq!((bridge.receive(at(1)), bridge.send(at(1))), (Ok(()), Ok(())));
    assert_eq!(bridge.next_deadline(), None);
}

#[test]
fn a_stack_that_closes_its_end_hears_no_more() {
    let (mut bridge, mut far, stack) = bridge();
    assert_eq!(bridge.fds().count(), 1 + usize::from(bridge.link.fd().is_some()));
    drop(stack);
    bridge.send(at(1)).unwrap();
    far.send(at(1), &udp(b"x"), FrameMeta::default()).unwrap();
    bridge.receive(at(1)).unwrap();
    bridge.send(at(1)).unwrap();
    assert_eq!(bridge.next_deadline(), None);
}

#[test]
fn headers_that_no_kernel_takes_lose_their_frame() {
    let (mut bridge, mut far, stack) = bridge();
    let frame = tcp(&[1; 1400]);
    for header in [
        [1, 0, 0, 0, 0, 0, 0xff, 0xff, 16, 0],
        [1, 0, 0, 0, 0, 0, 34, 0, 0xff, 0xff],
        [1, 1, 0, 0, 0, 0, 34, 0, 16, 0],
        [1, 3, 0, 0, 100, 0, 34, 0, 16, 0],
        [1, 1, 0, 0, 1, 0, 34, 0, 16, 0],
    ] {
        unix::send(stack.as_fd(), &[&header[..], &frame].concat()).unwrap();
    }
    bridge.send(at(1)).unwrap();
    assert_eq!((carried(&mut far, at(1)).len(), bridge.lost()), (0, 5));
}

proptest! {
    #[test]
    fn no_message_is_too_strange(
        messages in proptest::collection::vec(
            (any::<[u8; vnet::LEN]>(), proptest::collection::vec(any::<u8>(), 0..200), 0..3, any::<bool>()), 1..20,
        ),
    ) {
        let (mut wired, mut far, stack) = bridge();
        let held = Held::new(usize::MAX);
        let (mut offloaded, other) = on(Box::new(held.clone()));
        for (mut header, mut bytes, kind, near) in messages {
            if let (Some(place), true) = (bytes.get_mut(12..14), kind > 0) {
                place.copy_from_slice(if kind == 1 { &[8, 0] } else { &[0x86, 0xdd] });
            }
            if near {
                // What might be a header.
                header[1] %= 7;
                header[5] = 0;
                header[7] = 0;
                header[9] = 0;
            }
            for stack in [&stack, &other] {
                unix::send(stack.as_fd(), &[&header[..], &bytes].concat()).unwrap();
            }
            held.with(|state| state.incoming.push(bytes.clone()));
            far.send(at(1), &bytes, FrameMeta::default()).unwrap();
        }
        for bridge in [&mut wired, &mut offloaded] {
            bridge.receive(at(1)).unwrap();
            bridge.send(at(1)).unwrap();
            prop_assert_eq!(bridge.next_deadline(), None);
        }
        prop_assert!(carried(&mut far, at(1)).iter().all(|frame| frame.len() <= 200));
    }
}

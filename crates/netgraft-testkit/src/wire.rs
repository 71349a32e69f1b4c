//! A simulated wire: two [`Link`] ends in one process, and wrappers that make any link worse or visible.
//!
//! ```
//! use netgraft_plugin::Instant;
//! use netgraft_plugin::link::{FrameMeta, Link};
//! use netgraft_testkit::wire;
//!
//! let (mut left, mut right) = wire::pair(1500);
//! left.send(Instant::ZERO, b"frame", FrameMeta::default()).unwrap();
//! let mut seen = Vec::new();
//! right.receive(Instant::ZERO, 8, &mut |frame| seen.push(frame.to_vec())).unwrap();
//! assert_eq!(seen, [b"frame"]);
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netgraft_plugin::link::{FrameMeta, Link, Medium, Offload};
use netgraft_plugin::{Error, Instant, Result};

use crate::prng::Prng;

/// Bytes of an Ethernet header (IEEE 802.3, without a tag).
const ETHERNET: usize = 14;
/// Frames that one direction of a wire holds; more are lost, as in a full device queue.
const QUEUE: usize = 4096;
/// Buffers that are kept for the next frames.
const SPARE: usize = 256;

/// Frames under way in one direction, and buffers to use again.
#[derive(Default)]
struct Direction {
    frames: VecDeque<(Instant, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Direction {
    fn push(&mut self, now: Instant, frame: &[u8]) {
        if self.frames.len() < QUEUE {
            let mut buffer = self.spare.pop().unwrap_or_default();
            buffer.clear();
            buffer.extend_from_slice(frame);
            self.frames.push_back((now, buffer));
        }
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < SPARE {
            self.spare.push(buffer);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One end of a wire.
pub struct WireEnd {
    outgoing: Arc<Mutex<Direction>>,
    incoming: Arc<Mutex<Direction>>,
    medium: Medium,
    mtu: usize,
}

/// An Ethernet wire without delay or loss; `mtu` is the largest IP packet in bytes. The ends have the
/// addresses 02:00:00:00:00:01 and :02.
#[must_use]
pub fn pair(mtu: usize) -> (WireEnd, WireEnd) {
    let address = |last| Medium::Ethernet([2, 0, 0, 0, 0, last]);
    pair_of(mtu, address(1), address(2))
}

/// A wire that carries IP packets without a link header.
#[must_use]
pub fn ip_pair(mtu: usize) -> (WireEnd, WireEnd) {
    pair_of(mtu, Medium::Ip, Medium::Ip)
}

fn pair_of(mtu: usize, left: Medium, right: Medium) -> (WireEnd, WireEnd) {
    let directions = [(); 2].map(|()| Arc::new(Mutex::new(Direction::default())));
    let end = |out: usize, medium| WireEnd {
        outgoing: Arc::clone(&directions[out]),
        incoming: Arc::clone(&directions[1 - out]),
        medium,
        mtu,
    };
    (end(0, left), end(1, right))
}

impl Link for WireEnd {
    fn medium(&self) -> Medium {
        self.medium
    }

    fn mtu(&self) -> usize {
        self.mtu
    }

    fn receive(&mut self, _now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        for count in 0..limit {
            // The lock is not held while the frame is delivered: that may send.
            let Some((_, frame)) = lock(&self.incoming).frames.pop_front() else { return Ok(count) };
            deliver(&frame);
            lock(&self.incoming).recycle(frame);
        }
        Ok(limit)
    }

    /// A frame longer than the wire's MTU is lost, as on a real one.
    fn send(&mut self, now: Instant, frame: &[u8], _meta: FrameMeta) -> Result<()> {
        let header = match self.medium {
            Medium::Ethernet(_) => ETHERNET,
            Medium::Ip => 0,
        };
        if frame.len() <= self.mtu + header {
            lock(&self.outgoing).push(now, frame);
        }
        Ok(())
    }

    fn flush(&mut self, _now: Instant) -> Result<()> {
        Ok(())
    }

    fn next_deadline(&self) -> Option<Instant> {
        lock(&self.incoming).frames.front().map(|(sent, _)| *sent)
    }
}

/// How a link is made worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Impairments {
    /// Time that each frame takes.
    pub delay: Duration,
    /// Frames lost, in parts per million.
    pub loss: u32,
    /// Frames that are held back by another [`Impairments::delay`] or 1 ms, whichever is more, in parts per
    /// million, so that later ones pass them.
    pub reorder: u32,
    /// Frames delivered twice, in parts per million.
    pub duplicate: u32,
    /// Bytes per second; `None` for no limit.
    pub rate: Option<u64>,
}

/// Changes the impairments of a link that a stack owns.
#[derive(Clone, Debug)]
pub struct Dial(Arc<Mutex<Impairments>>);

impl Dial {
    /// Replaces the impairments, for frames that come from now on.
    pub fn set(&self, to: Impairments) {
        *lock(&self.0) = to;
    }

    /// The impairments.
    #[must_use]
    pub fn get(&self) -> Impairments {
        *lock(&self.0)
    }

    /// Loses every frame from now on.
    pub fn cut(&self) {
        self.set(Impairments { loss: 1_000_000, ..self.get() });
    }
}

/// A link whose incoming frames are lost, delayed, held back or doubled; outgoing ones pass. Impair both ends
/// of a wire for both directions.
pub struct Impaired<L> {
    link: L,
    dial: Arc<Mutex<Impairments>>,
    random: Prng,
    /// Frames under way, by when they are due and in which order they came.
    waiting: BTreeMap<(Instant, u64), Vec<u8>>,
    next: u64,
    /// When the limited rate has carried all that came so far.
    busy_until: Instant,
    spare: Vec<Vec<u8>>,
}

impl<L: Link> Impaired<L> {
    /// Wraps a link; `seed` decides what is lost.
    pub fn new(link: L, impairments: Impairments, seed: u64) -> (Self, Dial) {
        let dial = Arc::new(Mutex::new(impairments));
        let impaired = Impaired {
            link,
            dial: Arc::clone(&dial),
            random: Prng::new(seed),
            waiting: BTreeMap::new(),
            next: 0,
            busy_until: Instant::ZERO,
            spare: Vec::new(),
        };
        (impaired, Dial(dial))
    }

    /// Takes what the inner link has and decides each frame's fate.
    fn take_in(&mut self, now: Instant, limit: usize) -> Result<()> {
        let Impaired { link, dial, random, waiting, next, busy_until, spare } = self;
        let how = *lock(dial);
        link.receive(now, limit, &mut |frame| {
            if random.chance(how.loss) {
                return;
            }
            if let Some(rate) = how.rate {
                let nanos = (frame.len() as u64).saturating_mul(1_000_000_000) / rate.max(1);
                *busy_until = (*busy_until).max(now) + Duration::from_nanos(nanos);
            }
            let mut due = now.max(*busy_until) + how.delay;
            if random.chance(how.reorder) {
                due = due + how.delay.max(Duration::from_millis(1));
            }
            for _ in 0..=u32::from(random.chance(how.duplicate)) {
                if waiting.len() < QUEUE {
                    let mut buffer = spare.pop().unwrap_or_default();
                    buffer.clear();
                    buffer.extend_from_slice(frame);
                    waiting.insert((due, *next), buffer);
                    *next += 1;
                }
            }
        })?;
        Ok(())
    }
}

impl<L: Link> Link for Impaired<L> {
    fn medium(&self) -> Medium {
        self.link.medium()
    }

    fn mtu(&self) -> usize {
        self.link.mtu()
    }

    fn offload(&self) -> Offload {
        self.link.offload()
    }

    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        self.take_in(now, limit)?;
        for count in 0..limit {
            let Some(entry) = self.waiting.first_entry().filter(|e| e.key().0 <= now) else {
                return Ok(count);
            };
            let frame = entry.remove();
            deliver(&frame);
            if self.spare.len() < SPARE {
                self.spare.push(frame);
            }
        }
        Ok(limit)
    }

    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        self.link.send(now, frame, meta)
    }

    fn flush(&mut self, now: Instant) -> Result<()> {
        self.link.flush(now)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.fd()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let own = self.waiting.first_key_value().map(|((due, _), _)| *due);
        own.into_iter().chain(self.link.next_deadline()).min()
    }
}

/// Which way a captured frame went, as the stack sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// To the stack.
    In,
    /// From the stack.
    Out,
}

/// What sees the frames of a [`Captured`] link.
pub type Viewer = dyn FnMut(Way, Instant, &[u8]) + Send;

/// A link whose frames are shown to a function.
pub struct Captured<L> {
    link: L,
    view: Box<Viewer>,
}

impl<L: Link> Captured<L> {
    /// Wraps a link.
    pub fn new(link: L, view: Box<Viewer>) -> Self {
        Captured { link, view }
    }
}

impl<L: Link> Link for Captured<L> {
    fn medium(&self) -> Medium {
        self.link.medium()
    }

    fn mtu(&self) -> usize {
        self.link.mtu()
    }

    fn offload(&self) -> Offload {
        self.link.offload()
    }

    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let Captured { link, view } = self;
        link.receive(now, limit, &mut |frame| {
            view(Way::In, now, frame);
            deliver(frame);
        })
    }

    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        let sent = self.link.send(now, frame, meta);
        if sent != Err(Error::Again) {
            (self.view)(Way::Out, now, frame);
        }
        sent
    }

    fn flush(&mut self, now: Instant) -> Result<()> {
        self.link.flush(now)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.fd()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.link.next_deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_millis(5);

    fn received(link: &mut dyn Link, now: Instant) -> Vec<u8> {
        let mut seen = Vec::new();
        link.receive(now, 1000, &mut |frame| seen.push(frame[0])).unwrap();
        seen
    }

    fn send(link: &mut dyn Link, count: u8) {
        for byte in 0..count {
            link.send(NOW, &[byte; 100], FrameMeta::default()).unwrap();
        }
    }

    #[test]
    fn a_plain_wire_keeps_order_and_drops_what_is_too_long() {
        let (mut a, mut b) = pair(100);
        a.send(NOW, &[9; 115], FrameMeta::default()).unwrap();
        send(&mut a, 3);
        assert_eq!(b.next_deadline(), Some(NOW));
        assert_eq!(received(&mut b, NOW), [0, 1, 2]);
        assert_eq!(b.next_deadline(), None);
        assert_eq!(received(&mut a, NOW), [0_u8; 0]);
    }

    #[test]
    fn delay_and_rate_hold_frames_until_they_are_due() {
        let (mut a, b) = ip_pair(1500);
        let how =
            Impairments { delay: Duration::from_millis(10), rate: Some(100_000), ..Impairments::default() };
        let (mut b, _) = Impaired::new(b, how, 1);
        send(&mut a, 2);
        assert_eq!(received(&mut b, NOW), [0_u8; 0]);
        // 100 bytes at 100 kB/s take 1 ms.
        assert_eq!(b.next_deadline(), Some(NOW + Duration::from_millis(11)));
        assert_eq!(received(&mut b, NOW + Duration::from_millis(11)), [0]);
        assert_eq!(received(&mut b, NOW + Duration::from_millis(12)), [1]);
    }

    #[test]
    fn loss_reordering_and_doubling_repeat_from_their_seed() {
        let run = |seed| {
            let (mut a, b) = ip_pair(1500);
            let how =
                Impairments { loss: 200_000, reorder: 200_000, duplicate: 200_000, ..Impairments::default() };
            let (mut b, _) = Impaired::new(b, how, seed);
            send(&mut a, 200);
            let mut seen = received(&mut b, NOW);
            seen.extend(received(&mut b, NOW + Duration::from_secs(1)));
            seen
        };
        let seen = run(3);
        assert_eq!(seen, run(3));
        assert_ne!(seen, run(4));
        assert!(!seen.is_sorted());
        let mut distinct = seen.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() < 190 && distinct.len() > 130, "{}", distinct.len());
        assert!(seen.len() > distinct.len());
    }

    #[test]
    fn a_cut_wire_carries_nothing_and_capture_sees_both_ways() {
        let (a, b) = ip_pair(1500);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&seen);
        let mut a = Captured::new(a, Box::new(move |way, _, frame| lock(&copy).push((way, frame[0]))));
        let (mut b, dial) = Impaired::new(b, Impairments::default(), 1);
        send(&mut a, 1);
        assert_eq!(received(&mut b, NOW), [0]);
        dial.cut();
        send(&mut a, 1);
        assert_eq!(received(&mut b, NOW), [0_u8; 0]);
        b.send(NOW, &[7], FrameMeta::default()).unwrap();
        assert_eq!(received(&mut a, NOW), [7]);
        assert_eq!(*lock(&seen), [(Way::Out, 0), (Way::Out, 0), (Way::In, 7)]);
    }
}

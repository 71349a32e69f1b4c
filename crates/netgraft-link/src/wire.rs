//! A simulated wire: two [`Link`] ends in one process, for tests.
//!
//! ```
//! use netgraft_plugin::Instant;
//! use netgraft_plugin::link::{FrameMeta, Link};
//! use netgraft_link::wire;
//!
//! let (mut left, mut right) = wire::pair(1500);
//! left.send(Instant::ZERO, b"frame", FrameMeta::default()).unwrap();
//! let mut seen = Vec::new();
//! right.receive(Instant::ZERO, 8, &mut |frame| seen.push(frame.to_vec())).unwrap();
//! assert_eq!(seen, [b"frame"]);
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netgraft_plugin::link::{FrameMeta, Link, Medium};
use netgraft_plugin::{Instant, Result};

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

/// An Ethernet wire, to be wrapped in [`crate::Faulty`] for delay and loss; `mtu` is the largest IP packet in bytes. The ends have the
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
        if frame.len() <= self.mtu + self.medium.header() {
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
}

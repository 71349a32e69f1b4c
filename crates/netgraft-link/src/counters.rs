//! A link whose frames are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netgraft_plugin::link::{FrameMeta, Link};
use netgraft_plugin::{Error, Instant, Result};

/// What went over a link since it was wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames to the stack; one that the kernel has merged of several counts once.
    pub frames_in: u64,
    /// Their bytes, with the link's header.
    pub bytes_in: u64,
    /// Frames that the link took from the stack; one that is to be cut counts once.
    pub frames_out: u64,
    /// Their bytes, with the link's header.
    pub bytes_out: u64,
    /// Frames that the link had no room for; the stack may have sent them again.
    pub refused: u64,
}

/// The counts of a link that a stack owns. Each is right by itself; together they are not of one moment.
#[derive(Debug, Default)]
pub struct Counters {
    frames_in: AtomicU64,
    bytes_in: AtomicU64,
    frames_out: AtomicU64,
    bytes_out: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    /// The counts so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Traffic {
            frames_in: of(&self.frames_in),
            bytes_in: of(&self.bytes_in),
            frames_out: of(&self.frames_out),
            bytes_out: of(&self.bytes_out),
            refused: of(&self.refused),
        }
    }
}

fn add(count: &AtomicU64, more: usize) {
    count.fetch_add(more as u64, Ordering::Relaxed);
}

/// A link whose frames are counted.
pub struct Counted<L> {
    link: L,
    counters: Arc<Counters>,
}

impl<L: Link> Counted<L> {
    /// Wraps a link.
    pub fn new(link: L) -> (Self, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        (Counted { link, counters: Arc::clone(&counters) }, counters)
    }
}

impl<L: Link> Link for Counted<L> {
    as_the_link_within!();

    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let Counted { link, counters } = self;
        link.receive(now, limit, &mut |frame| {
            add(&counters.frames_in, 1);
            add(&counters.bytes_in, frame.len());
            deliver(frame);
        })
    }

    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        let sent = self.link.send(now, frame, meta);
        match sent {
            Ok(()) => {
                add(&self.counters.frames_out, 1);
                add(&self.counters.bytes_out, frame.len());
            }
            Err(Error::Again) => add(&self.counters.refused, 1),
            Err(_) => {}
        }
        sent
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.link.next_deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn frames_and_bytes_are_counted_each_way() {
        let (a, mut b) = wire::ip_pair(1500);
        let (mut a, counters) = Counted::new(a);
        for len in [10, 20] {
            a.send(Instant::ZERO, &vec![1; len], FrameMeta::default()).unwrap();
        }
        b.send(Instant::ZERO, &[2; 7], FrameMeta::default()).unwrap();
        assert_eq!(a.receive(Instant::ZERO, 9, &mut |frame| assert_eq!(frame, [2; 7])), Ok(1));
        let expected = Traffic { frames_in: 1, bytes_in: 7, frames_out: 2, bytes_out: 30, refused: 0 };
        assert_eq!(counters.traffic(), expected);
    }
}

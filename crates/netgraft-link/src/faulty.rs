//! A link whose frames are delayed, lost and so on, in either direction.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netgraft_plugin::faults::{Faults, LinkFaults, Loss, Share};
use netgraft_plugin::link::{FrameMeta, Link, Medium, Offload};
use netgraft_plugin::{Error, Instant, Result};

use crate::capture::Way;
use crate::path::{Counts, Path};

/// When a link that has no room is tried again.
const RETRY: Duration = Duration::from_millis(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a link and whoever turns its dial share.
#[derive(Default)]
struct Shared {
    faults: LinkFaults,
    incoming: Counts,
    outgoing: Counts,
}

/// Changes the faults of a link that a stack owns, and says what they did.
#[derive(Clone)]
pub struct Dial(Arc<Mutex<Shared>>);

impl Dial {
    /// Replaces the faults, for frames that come from now on.
    pub fn set(&self, faults: LinkFaults) {
        lock(&self.0).faults = faults;
    }

    /// The faults.
    #[must_use]
    pub fn get(&self) -> LinkFaults {
        lock(&self.0).faults
    }

    /// Loses every frame of a direction from now on.
    pub fn cut(&self, way: Way) {
        let mut shared = lock(&self.0);
        let faults = match way {
            Way::In => &mut shared.faults.incoming,
            Way::Out => &mut shared.faults.outgoing,
        };
        *faults = Faults { loss: Loss::Random(Share::ALL), ..*faults };
    }

    /// What became of the frames of a direction so far.
    #[must_use]
    pub fn counts(&self, way: Way) -> Counts {
        match way {
            Way::In => lock(&self.0).incoming,
            Way::Out => lock(&self.0).outgoing,
        }
    }
}

/// A link with faults. They are those of single frames on the wire, so it ends the offloads of the link that it wraps.
pub struct Faulty<L> {
    link: L,
    shared: Arc<Mutex<Shared>>,
    incoming: Path,
    outgoing: Path,
    /// A frame that was due and that the link had no room for.
    stuck: Option<Vec<u8>>,
    /// When to try again, if the link had no room.
    retry: Option<Instant>,
}

impl<L: Link> Faulty<L> {
    /// Wraps a link; `seed` decides which frames are lost and so on.
    pub fn new(mut link: L, faults: LinkFaults, seed: u64) -> (Self, Dial) {
        link.refuse_offload();
        let header = link.medium().header();
        let shared = Arc::new(Mutex::new(Shared { faults, ..Shared::default() }));
        let dial = Dial(Arc::clone(&shared));
        let incoming = Path::new(header, seed);
        // Another sequence for the other direction, decided by the same seed.
        let outgoing = Path::new(header, !seed);
        (Faulty { link, shared, incoming, outgoing, stuck: None, retry: None }, dial)
    }

    /// Gives the link what is due. What it has no room for stays.
    fn release(&mut self, now: Instant) -> Result<()> {
        if self.retry.is_some_and(|at| at > now) {
            return Ok(());
        }
        let mut queued = self.retry.take().is_some();
        while let Some(frame) = self.stuck.take().or_else(|| self.outgoing.pop(now)) {
            match self.link.send(now, &frame, FrameMeta::default()) {
                Err(Error::Again) => {
                    self.stuck = Some(frame);
                    self.retry = Some(now + RETRY);
                    break;
                }
                result => {
                    self.outgoing.recycle(frame);
                    result?;
                    queued = true;
                }
            }
        }
        match if queued { self.link.flush(now) } else { Ok(()) } {
            // The link keeps what it has no room for.
            Err(Error::Again) => {
                self.retry = Some(now + RETRY);
                Ok(())
            }
            other => other,
        }
    }
}

impl<L: Link> Link for Faulty<L> {
    fn medium(&self) -> Medium {
        self.link.medium()
    }

    fn mtu(&self) -> usize {
        self.link.mtu()
    }

    fn offload(&self) -> Offload {
        Offload::default()
    }

    fn room(&self) -> Option<usize> {
        self.link.room()
    }

    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        self.release(now)?;
        let Faulty { link, shared, incoming, .. } = self;
        let faults = lock(shared).faults.incoming;
        let clear = incoming.is_clear(&faults);
        let got = link.receive(now, limit, &mut |frame| {
            if clear {
                incoming.pass();
                deliver(frame);
            } else {
                incoming.push(now, &faults, frame);
            }
        });
        lock(shared).incoming = incoming.counts();
        if clear {
            return got;
        }
        got?;
        for count in 0..limit {
            let Some(frame) = incoming.pop(now) else { return Ok(count) };
            deliver(&frame);
            incoming.recycle(frame);
        }
        Ok(limit)
    }

    fn send(&mut self, now: Instant, frame: &[u8], _meta: FrameMeta) -> Result<()> {
        let mut shared = lock(&self.shared);
        let faults = shared.faults.outgoing;
        if self.stuck.is_none() && self.outgoing.is_clear(&faults) {
            self.link.send(now, frame, FrameMeta::default())?;
            self.outgoing.pass();
        } else {
            self.outgoing.push(now, &faults, frame);
        }
        shared.outgoing = self.outgoing.counts();
        Ok(())
    }

    fn flush(&mut self, now: Instant) -> Result<()> {
        self.release(now)?;
        if self.retry.is_some() { Ok(()) } else { self.link.flush(now) }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.fd()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let outgoing = self.retry.or_else(|| self.outgoing.next_deadline());
        [self.incoming.next_deadline(), outgoing, self.link.next_deadline()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{self, WireEnd};

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
        link.flush(NOW).unwrap();
    }

    #[test]
    fn either_direction_is_late_by_itself() {
        let (a, mut b) = wire::ip_pair(1500);
        let late = |ms| Faults { delay: Duration::from_millis(ms), ..Faults::default() };
        let (mut a, dial) = Faulty::new(a, LinkFaults { incoming: late(3), outgoing: late(10) }, 1);
        send(&mut a, 2);
        send(&mut b, 1);
        assert_eq!(received(&mut b, NOW), [0_u8; 0]);
        assert_eq!(received(&mut a, NOW), [0_u8; 0]);
        let at = |ms| NOW + Duration::from_millis(ms);
        assert_eq!(a.next_deadline(), Some(at(3)));
        assert_eq!(received(&mut a, at(3)), [0]);
        assert_eq!(a.next_deadline(), Some(at(10)));
        // What is due leaves when the link is looked at, though the stack has nothing to send.
        assert_eq!(received(&mut a, at(10)), [0_u8; 0]);
        assert_eq!(received(&mut b, at(10)), [0, 1]);
        assert_eq!(a.next_deadline(), None);
        assert_eq!((dial.counts(Way::In).frames, dial.counts(Way::Out).frames), (1, 2));
    }

    #[test]
    fn a_dial_changes_what_comes_later() {
        let (mut a, b) = wire::ip_pair(1500);
        let (mut b, dial) = Faulty::new(b, LinkFaults::default(), 1);
        send(&mut a, 1);
        assert_eq!(received(&mut b, NOW), [0]);
        let before = dial.get();
        dial.cut(Way::In);
        send(&mut a, 1);
        assert_eq!(received(&mut b, NOW), [0_u8; 0]);
        assert_eq!(dial.counts(Way::In).lost, 1);
        b.send(NOW, &[7], FrameMeta::default()).unwrap();
        b.flush(NOW).unwrap();
        assert_eq!(received(&mut a, NOW), [7]);
        dial.set(before);
        send(&mut a, 1);
        assert_eq!(received(&mut b, NOW), [0]);
    }

    /// A link with room for a few frames, which would do offloads.
    struct Narrow {
        end: WireEnd,
        room: usize,
        offload: Offload,
    }

    impl Link for Narrow {
        fn medium(&self) -> Medium {
            self.end.medium()
        }
        fn mtu(&self) -> usize {
            self.end.mtu()
        }
        fn offload(&self) -> Offload {
            self.offload
        }
        fn refuse_offload(&mut self) {
            self.offload = Offload::default();
        }
        fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
            self.room = 2;
            self.end.receive(now, limit, deliver)
        }
        fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
            assert_eq!(self.offload, Offload::default());
            self.room = self.room.checked_sub(1).ok_or(Error::Again)?;
            self.end.send(now, frame, meta)
        }
        fn flush(&mut self, _now: Instant) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_finds_no_room_is_tried_again_in_order() {
        let (a, mut b) = wire::ip_pair(1500);
        let offload = Offload { checksum: true, segment_v4: 65_535, segment_v6: 65_535 };
        let late = Faults { delay: Duration::from_nanos(1), ..Faults::default() };
        let faults = LinkFaults { outgoing: late, ..LinkFaults::default() };
        let (mut a, dial) = Faulty::new(Narrow { end: a, room: 2, offload }, faults, 1);
        assert_eq!(a.offload(), Offload::default());
        send(&mut a, 5);
        let later = NOW + Duration::from_micros(1);
        a.flush(later).unwrap();
        assert_eq!(received(&mut b, later), [0, 1]);
        assert_eq!(a.next_deadline(), Some(later + RETRY));
        let mut rest = Vec::new();
        for turn in 0..3 {
            received(&mut a, later + RETRY * turn);
            rest.extend(received(&mut b, later));
        }
        assert_eq!(rest, [2, 3, 4]);
        assert_eq!(a.next_deadline(), None);
        // Without faults and with nothing under way, the stack is told that there is no room.
        dial.set(LinkFaults::default());
        let sent: Vec<_> = (0..3).map(|byte| a.send(later, &[byte], FrameMeta::default())).collect();
        assert_eq!(sent, [Ok(()), Ok(()), Err(Error::Again)]);
    }
}

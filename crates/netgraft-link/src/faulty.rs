//! A link whose frames are delayed, lost and so on, in either direction, and how that is changed while a stack runs.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netgraft_linux::link::vnet;
use netgraft_plugin::faults::{Faults, LinkFaults, LinkReport, Loss, Share};
use netgraft_plugin::link::{FrameMeta, Link, Medium, Offload};
use netgraft_plugin::{Error, Instant, Result};

use crate::capture::Way;
use crate::cut::Cutter;
use crate::path::{Counts, Path};

/// When a link that has no room is tried again.
const RETRY: Duration = Duration::from_millis(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a link and whoever turns its dial share.
struct Shared {
    /// How often the dial was turned: the link looks at the rest when that has changed.
    turns: AtomicU64,
    state: Mutex<State>,
}

/// How a dial stands.
struct State {
    report: LinkReport,
    /// How often a seed was set.
    seedings: u64,
}

/// Changes the faults of a link that a stack owns, and says what they did.
#[derive(Clone)]
pub struct Dial(Arc<Shared>);

impl Dial {
    /// Replaces the faults, for frames that come from now on.
    pub fn set(&self, faults: LinkFaults) {
        self.change(faults, None);
    }

    /// The same; with a seed, which frames they meet is decided anew.
    pub fn change(&self, faults: LinkFaults, seed: Option<u64>) {
        self.turn(|State { report, seedings }| {
            report.faults = faults;
            if let Some(seed) = seed {
                report.seed = seed;
                *seedings += 1;
            }
        });
    }

    /// The faults.
    #[must_use]
    pub fn get(&self) -> LinkFaults {
        self.report().faults
    }

    /// Loses every frame of a direction from now on.
    pub fn cut(&self, way: Way) {
        self.turn(|State { report, .. }| {
            let faults = match way {
                Way::In => &mut report.faults.incoming,
                Way::Out => &mut report.faults.outgoing,
            };
            *faults = Faults { loss: Loss::Random(Share::ALL), ..*faults };
        });
    }

    /// What became of the frames of a direction until the link was last asked for frames, or flushed.
    #[must_use]
    pub fn counts(&self, way: Way) -> Counts {
        match way {
            Way::In => self.report().incoming,
            Way::Out => self.report().outgoing,
        }
    }

    /// The faults, their seed, and what became of the frames.
    #[must_use]
    pub fn report(&self) -> LinkReport {
        lock(&self.0.state).report
    }

    fn turn(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.0.state));
        self.0.turns.fetch_add(1, Ordering::Release);
    }
}

/// The offloads of a link: what the stack was told of them when it began, and counts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offloads {
    /// None.
    None,
    /// The link does them: there are no faults.
    ByLink(Offload),
    /// They are done here. Faults are those of single frames on the wire, so the link must not have them merged or cut.
    Here(Offload),
}

/// A link with faults. Those that it begins with end the offloads of the link that it wraps; those that come later do so as long
/// as there are some, without a difference to the stack but in speed.
pub struct Faulty<L> {
    link: L,
    shared: Arc<Shared>,
    /// How often the dial had been turned when it was last looked at, and how it stood.
    turns: u64,
    seedings: u64,
    faults: LinkFaults,
    offloads: Offloads,
    incoming: Path,
    outgoing: Path,
    /// What the dial was last told of them.
    told: (Counts, Counts),
    cutter: Cutter,
    /// A frame that was due and that the link had no room for.
    stuck: Option<Vec<u8>>,
    /// When to try again, if the link had no room.
    retry: Option<Instant>,
}

impl<L: Link> Faulty<L> {
    /// Wraps a link; `seed` decides which frames are lost and so on.
    pub fn new(mut link: L, faults: LinkFaults, seed: u64) -> (Self, Dial) {
        // Without an Ethernet header frames are not cut here.
        if !faults.is_none() || link.medium() == Medium::Ip {
            link.refuse_offload();
        }
        let offloads = match link.offload() {
            none if none == Offload::default() => Offloads::None,
            some => Offloads::ByLink(some),
        };
        let header = link.medium().header();
        let report = LinkReport { faults, seed, ..LinkReport::default() };
        let state = Mutex::new(State { report, seedings: 0 });
        let shared = Arc::new(Shared { turns: AtomicU64::new(0), state });
        let dial = Dial(Arc::clone(&shared));
        let faulty = Faulty {
            link,
            shared,
            turns: 0,
            seedings: 0,
            faults,
            offloads,
            incoming: Path::new(header, seed),
            // Another sequence for the other direction, decided by the same seed.
            outgoing: Path::new(header, !seed),
            told: Default::default(),
            cutter: Cutter::default(),
            stuck: None,
            retry: None,
        };
        (faulty, dial)
    }

    /// Keeps to what the dial says.
    fn look(&mut self, now: Instant) {
        let turns = self.shared.turns.load(Ordering::Acquire);
        if turns != self.turns {
            self.turns = turns;
            let State { report: LinkReport { faults, seed, .. }, seedings } = *lock(&self.shared.state);
            if self.faults != faults {
                self.faults = faults;
                self.incoming.change(now, &faults.incoming);
                self.outgoing.change(now, &faults.outgoing);
            }
            if self.seedings != seedings {
                self.seedings = seedings;
                self.incoming.reseed(seed);
                self.outgoing.reseed(!seed);
            }
        }
        match self.offloads {
            Offloads::ByLink(promised) if !self.faults.is_none() => {
                self.link.refuse_offload();
                self.offloads = Offloads::Here(promised);
            }
            Offloads::Here(promised) if self.is_clear() => {
                self.link.resume_offload();
                self.offloads = Offloads::ByLink(promised);
            }
            _ => {}
        }
    }

    /// Whether all frames pass at once, and none is under way.
    fn is_clear(&self) -> bool {
        self.stuck.is_none()
            && self.incoming.is_clear(&self.faults.incoming)
            && self.outgoing.is_clear(&self.faults.outgoing)
    }

    /// Tells the dial what became of frames.
    fn tell(&mut self) {
        let counts = (self.incoming.counts(), self.outgoing.counts());
        if self.told != counts {
            self.told = counts;
            let mut state = lock(&self.shared.state);
            (state.report.incoming, state.report.outgoing) = counts;
        }
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

    /// Sends a frame as it is to be on the wire.
    fn send_single(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        if self.stuck.is_none() && self.outgoing.is_clear(&self.faults.outgoing) {
            self.link.send(now, frame, meta)?;
            self.outgoing.pass();
        } else {
            self.outgoing.push(now, &self.faults.outgoing, frame);
        }
        Ok(())
    }

    /// Sends what the stack leaves to be cut and summed: all of it, or nothing if there is no room.
    fn send_cut(&mut self, now: Instant, frame: &[u8], segment: u16) -> Result<()> {
        let mut cutter = std::mem::take(&mut self.cutter);
        let mut first = true;
        let mut result = Ok(());
        cutter.cut(frame, segment, &mut |piece| {
            if result.is_ok() {
                result = match self.send_single(now, piece, FrameMeta::default()) {
                    Err(Error::Again) if !first => {
                        // It waits here; the next ones do so behind it.
                        self.outgoing.push(now, &Faults::default(), piece);
                        Ok(())
                    }
                    other => other,
                };
            }
            first = false;
        });
        self.cutter = cutter;
        result
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
        match self.offloads {
            Offloads::None => Offload::default(),
            Offloads::ByLink(promised) | Offloads::Here(promised) => promised,
        }
    }

    fn refuse_offload(&mut self) {
        self.link.refuse_offload();
        self.offloads = Offloads::None;
    }

    fn room(&self) -> Option<usize> {
        self.link.room()
    }

    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        self.look(now);
        self.release(now)?;
        let Faulty { link, faults, incoming, .. } = self;
        let clear = incoming.is_clear(&faults.incoming);
        let got = link.receive(now, limit, &mut |frame| {
            if clear {
                incoming.pass();
                deliver(frame);
            } else {
                incoming.push(now, &faults.incoming, frame);
            }
        });
        self.tell();
        if clear {
            return got;
        }
        got?;
        // As the link does that the stack leaves checksums to.
        let is_checked = matches!(self.offloads, Offloads::Here(Offload { checksum: true, .. }));
        for count in 0..limit {
            let Some(frame) = self.incoming.pop(now) else { return Ok(count) };
            if !is_checked || vnet::is_intact(&[0; vnet::LEN], &frame) {
                deliver(&frame);
            }
            self.incoming.recycle(frame);
        }
        Ok(limit)
    }

    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        self.look(now);
        match self.offloads {
            Offloads::None => self.send_single(now, frame, FrameMeta::default()),
            Offloads::ByLink(_) => self.send_single(now, frame, meta),
            Offloads::Here(_) => match vnet::layout(frame) {
                Some(layout) if layout.protocol == 6 => self.send_cut(now, frame, meta.segment_size),
                _ => self.send_single(now, frame, FrameMeta::default()),
            },
        }
    }

    fn flush(&mut self, now: Instant) -> Result<()> {
        self.look(now);
        self.tell();
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

    /// A link with offloads, which keeps what it is sent, and delivers what it is told.
    struct Device {
        sent: std::sync::mpsc::Sender<(Vec<u8>, u16)>,
        comes: std::sync::mpsc::Receiver<Vec<u8>>,
        does: bool,
        room: usize,
    }

    const OFFLOAD: Offload = Offload { checksum: true, segment_v4: 65_535, segment_v6: 65_535 };

    impl Link for Device {
        fn medium(&self) -> Medium {
            Medium::Ethernet([2; 6])
        }
        fn mtu(&self) -> usize {
            1500
        }
        fn offload(&self) -> Offload {
            if self.does { OFFLOAD } else { Offload::default() }
        }
        fn refuse_offload(&mut self) {
            self.does = false;
        }
        fn resume_offload(&mut self) {
            self.does = true;
        }
        fn receive(&mut self, _: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
            Ok(self.comes.try_iter().take(limit).map(|frame| deliver(&frame)).count())
        }
        fn send(&mut self, _: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
            self.room = self.room.checked_sub(1).ok_or(Error::Again)?;
            self.sent.send((frame.to_vec(), meta.segment_size)).unwrap();
            Ok(())
        }
        fn flush(&mut self, _: Instant) -> Result<()> {
            Ok(())
        }
    }

    fn segment(payload: usize) -> Vec<u8> {
        let mut frame = vec![0; 54 + payload];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[16..18].copy_from_slice(&(40 + payload as u16).to_be_bytes());
        frame[23] = 6;
        frame[46] = 5 << 4;
        frame
    }

    #[test]
    fn faults_that_come_later_end_the_offloads_for_as_long() {
        let (sent, leaves) = std::sync::mpsc::channel();
        let (to_it, comes) = std::sync::mpsc::channel();
        let device = Device { sent, comes, does: true, room: 1000 };
        let (mut a, dial) = Faulty::new(device, LinkFaults::default(), 1);
        let meta = FrameMeta { segment_size: 1000 };
        let whole = segment(2500);
        let send = |a: &mut Faulty<Device>, now| {
            a.send(now, &whole, meta).unwrap();
            a.flush(now).unwrap();
            assert_eq!(a.offload(), OFFLOAD, "the stack goes on as before");
            leaves.try_iter().collect::<Vec<_>>()
        };
        assert_eq!(send(&mut a, NOW), [(whole.clone(), 1000)]);

        let late = Faults { delay: Duration::from_millis(10), ..Faults::default() };
        dial.set(LinkFaults { outgoing: late, ..LinkFaults::default() });
        assert_eq!(send(&mut a, NOW), []);
        let later = NOW + Duration::from_millis(10);
        a.flush(later).unwrap();
        let pieces: Vec<_> = leaves.try_iter().collect();
        assert_eq!(pieces.iter().map(|(frame, _)| frame.len()).collect::<Vec<_>>(), [1054, 1054, 554]);
        assert!(pieces.iter().all(|(frame, size)| *size == 0 && vnet::is_intact(&[0; vnet::LEN], frame)));
        assert_eq!(dial.counts(Way::Out).frames, 4);

        // What is damaged on the way in is not taken for intact, as the stack does not look.
        let damage = Faults { corrupt: Share::ALL, ..Faults::default() };
        dial.set(LinkFaults { incoming: damage, ..LinkFaults::default() });
        let mut intact = segment(100);
        vnet::finish_checksum(&mut intact);
        to_it.send(intact.clone()).unwrap();
        assert_eq!(received(&mut a, later), [0_u8; 0]);
        assert_eq!(dial.counts(Way::In).corrupted, 1);
        // Without faults for this direction the pieces leave at once.
        assert_eq!(send(&mut a, later).len(), 3);

        dial.set(LinkFaults::default());
        assert_eq!(send(&mut a, later), [(whole.clone(), 1000)]);
        to_it.send(intact).unwrap();
        assert_eq!(received(&mut a, later), [0]);
    }

    #[test]
    fn pieces_that_find_no_room_wait_and_a_frame_that_finds_none_is_refused() {
        let (sent, leaves) = std::sync::mpsc::channel();
        let (_to_it, comes) = std::sync::mpsc::channel();
        let device = Device { sent, comes, does: true, room: 1 };
        let (mut a, dial) = Faulty::new(device, LinkFaults::default(), 1);
        let late = Faults { delay: Duration::from_millis(10), ..Faults::default() };
        dial.set(LinkFaults { incoming: late, ..LinkFaults::default() });
        let meta = FrameMeta { segment_size: 1000 };
        a.send(NOW, &segment(2500), meta).unwrap();
        a.link.room = 0;
        a.flush(NOW).unwrap();
        assert_eq!(leaves.try_iter().map(|(frame, _)| frame.len()).collect::<Vec<_>>(), [1054]);
        a.link.room = 9;
        let later = NOW + RETRY;
        a.receive(later, 1, &mut |_| {}).unwrap();
        assert_eq!(leaves.try_iter().map(|(frame, _)| frame.len()).collect::<Vec<_>>(), [1054, 554]);
        a.link.room = 0;
        assert_eq!(a.send(later, &segment(2500), meta), Err(Error::Again));
        assert_eq!(leaves.try_iter().count(), 0);
    }

    #[test]
    fn a_seed_makes_later_frames_meet_the_same_faults_again() {
        let (mut a, b) = wire::ip_pair(1500);
        let loss = Faults { loss: Loss::Random(Share::from_percent(50)), ..Faults::default() };
        let (mut b, dial) = Faulty::new(b, LinkFaults::both(loss), 1);
        let mut round = |dial: &Dial, seed| {
            dial.change(LinkFaults::both(loss), seed);
            send(&mut a, 100);
            received(&mut b, NOW)
        };
        let (first, again, on) = (round(&dial, Some(7)), round(&dial, Some(7)), round(&dial, None));
        assert!((20..80).contains(&first.len()));
        assert_eq!(first, again);
        assert_ne!(first, on);
        assert_eq!(dial.report().seed, 7);
    }
}

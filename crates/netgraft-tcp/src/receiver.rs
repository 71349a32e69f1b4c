//! The receiving half: what has come, what may come, and when to say so. Read RFC 9293 sections 3.8.6 and 3.10.7.4, RFC
//! 5681 section 4.2 (delayed acknowledgements) and RFC 7323 section 2.3 first.

use std::io::IoSlice;
use std::time::Duration;

use crate::buffer::{Bytes, Pool};
use crate::connection::ALWAYS;
use crate::reassembly::Reassembly;
use crate::seq::{FIRST, Numbers};
use crate::time::Instant;
use crate::tuning::Tuning;

/// "An ACK SHOULD be generated [...] within 500 ms of the arrival of the first unacknowledged packet" (RFC 5681 section
/// 4.2). Linux waits this long at first (`TCP_ATO_MIN`).
const DELAY: Duration = Duration::from_millis(40);
/// Segments that are acknowledged at once as a connection begins, so that the peer's window opens (`TCP_MAX_QUICKACKS`).
const QUICK: u8 = 16;
/// Duplicate acknowledgements that a peer with SACK is sent for the same number, beside those that tell of new ranges.
const ENOUGH: u8 = 3;
/// The largest segment that is assumed of the peer before one has come (RFC 9293 section 3.7.1).
const LEAST_MSS: usize = 536;

/// When to acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing is to be acknowledged.
    Nothing,
    /// At this time, unless data goes out before.
    At(Instant),
    /// Now.
    Now,
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) numbers: Numbers,
    /// `RCV.NXT`.
    pub(crate) next: u64,
    /// The next byte for the program.
    pub(crate) read: u64,
    /// The position behind what the peer was allowed to send.
    pub(crate) edge: u64,
    pub(crate) shift: u8,
    /// Most bytes that wait for the program.
    pub(crate) capacity: usize,
    pub(crate) tuning: Tuning,
    pub(crate) bytes: Bytes,
    pub(crate) ranges: Reassembly,
    /// Where the peer's FIN stands.
    pub(crate) fin: Option<u64>,
    pub(crate) due: Due,
    /// What was acknowledged last ("Last.ACK.sent" of RFC 7323).
    pub(crate) acked: u64,
    /// The largest segment seen.
    pub(crate) mss: usize,
    quick: u8,
    /// The position up to which a window that was used up has been noticed.
    limited: u64,
    /// Duplicate acknowledgements that were sent for the present `next`, and that are still to be sent.
    repeats: u8,
    owed: u8,
    /// Data goes both ways: acknowledgements can ride on it.
    interactive: bool,
    /// When data came last.
    heard: Option<Instant>,
    /// Whether acknowledgements never wait (`TCP_QUICKACK`, tcp(7)).
    pub(crate) at_once: bool,
    /// The largest window that is told (`TCP_WINDOW_CLAMP`, tcp(7)).
    pub(crate) clamp: u64,
    /// The program reads no more: what comes is counted and forgotten.
    pub(crate) discards: bool,
    /// Where the peer's urgent data ends (`RCV.UP`).
    pub(crate) urgent: u64,
    /// Whether there was no memory when data came or was read last: the window is no larger than it must be.
    is_tight: bool,
}

impl Receiver {
    /// A receiver with buffers of `capacity` bytes; windows are told in units of `1 << shift`.
    pub(crate) fn new(capacity: usize, tuning: Tuning, shift: u8) -> Self {
        Receiver {
            numbers: Numbers { initial: 0 },
            next: FIRST,
            read: FIRST + 1,
            edge: FIRST,
            shift,
            capacity,
            tuning,
            bytes: Bytes::new(FIRST + 1),
            ranges: Reassembly::default(),
            fin: None,
            due: Due::Nothing,
            acked: FIRST,
            mss: LEAST_MSS,
            quick: QUICK,
            limited: FIRST,
            repeats: 0,
            owed: 0,
            interactive: false,
            heard: None,
            at_once: false,
            clamp: u64::MAX,
            discards: false,
            urgent: FIRST,
            is_tight: false,
        }
    }

    /// The peer's SYN has come.
    pub(crate) fn begin(&mut self, initial: u32) {
        self.numbers = Numbers { initial };
        self.next = FIRST + 1;
        self.acked = FIRST + 1;
        self.edge = FIRST + 1 + u64::from(self.first_window());
    }

    /// Bytes that the program can read.
    pub(crate) fn readable(&self) -> usize {
        let fin = u64::from(self.fin.is_some_and(|fin| self.next > fin));
        (self.next - fin).saturating_sub(self.read) as usize
    }

    /// Whether everything up to the peer's FIN has come.
    pub(crate) fn is_over(&self) -> bool {
        self.fin.is_some_and(|fin| self.next > fin)
    }

    /// Takes the bytes of a segment, of which part may be known or not allowed. Answers how many are newly in order.
    pub(crate) fn take(&mut self, start: u64, data: &[u8], now: Instant, pool: &mut Pool) -> usize {
        if data.is_empty() {
            return 0;
        }
        let idle = self.heard.map_or(Duration::ZERO, |at| now.since(at));
        self.heard = Some(now);
        self.mss = self.mss.max(data.len().min(self.tuning.mss));
        let end = start + data.len() as u64;
        if start < self.next {
            // RFC 2883 section 4.1: all or part of it has come before.
            self.ranges.saw_twice(start, end.min(self.next));
            self.hurry();
        }
        let most = self.fin.unwrap_or(u64::MAX).min(self.edge);
        let (from, to) = (start.max(self.next), end.min(most));
        if from >= to {
            self.due = Due::Now;
            return 0;
        }
        self.is_tight = pool.is_full();
        if self.is_tight && !self.discards && (from > self.next || self.readable() >= ALWAYS) {
            // The peer sends it again when there may be room.
            self.due = Due::Now;
            return 0;
        }
        if !pool.is_short() {
            self.notice_limit(to);
        }
        let part = data.get((from - start) as usize..(to - start) as usize).unwrap_or_default();
        if from > self.next {
            // "A TCP receiver SHOULD send an immediate duplicate ACK when an out-of-order segment arrives" (RFC 5681 section
            // 4.2): one for each, should several be handled before any can leave.
            self.hurry();
            self.owed = self.owed.saturating_add(1);
            if self.ranges.add(from, to) && !self.discards {
                self.bytes.write(from, part, pool);
            }
            return 0;
        }
        if !self.discards {
            self.bytes.write(from, part, pool);
        }
        let holes = !self.ranges.is_empty();
        let next = if holes { self.ranges.join(to) } else { to };
        let came = (next - self.next) as usize;
        self.next = next;
        (self.repeats, self.owed) = (0, 0);
        if self.discards {
            self.read = self.next;
        }
        self.want_acknowledgement(holes, idle, now);
        came
    }

    /// Data up to `end` has come. If that is all that the peer may send, and it is not the program that is slow, the window
    /// is what holds the peer up, whatever the round trip: it doubles, once for each time that it was used up.
    fn notice_limit(&mut self, end: u64) {
        let used_up = end + 2 * self.mss as u64 > self.edge && end > self.limited;
        let most = self.tuning.most();
        if used_up && self.capacity < most && self.readable() <= self.capacity / 2 {
            self.limited = self.edge;
            self.capacity = self.capacity.saturating_mul(2).min(most);
        }
    }

    /// Something was lost or late: the peer's window is small for a while, and waits for every acknowledgement
    /// (`tcp_enter_quickack_mode` of Linux).
    fn hurry(&mut self) {
        self.due = Due::Now;
        self.quick = QUICK;
        self.interactive = false;
    }

    /// New data has come in order: says when to acknowledge it.
    fn want_acknowledgement(&mut self, filled: bool, idle: Duration, now: Instant) {
        if idle > DELAY && !self.interactive {
            // As Linux: after a pause the peer's window may be small again.
            self.quick = self.quick.max(2);
        }
        let waiting = (self.next - self.acked) as usize;
        let quick = self.quick > 0 && !self.interactive;
        // "an ACK SHOULD be generated for at least every second full-sized segment", and at once for one that fills a
        // gap (RFC 5681 section 4.2).
        if filled || quick || self.at_once || waiting >= 2 * self.mss {
            self.due = Due::Now;
        } else if self.due == Due::Nothing {
            self.due = Due::At(now + DELAY);
        }
    }

    /// The peer's FIN stands at `position`; answers whether it is in order.
    pub(crate) fn take_fin(&mut self, position: u64) -> bool {
        if self.fin.is_none() && position >= self.next {
            self.fin = Some(position);
        }
        if self.fin == Some(self.next) {
            self.next += 1;
            self.due = Due::Now;
            return true;
        }
        false
    }

    /// Whether a FIN that came early is in order now.
    pub(crate) fn pass_fin(&mut self) -> bool {
        match self.fin {
            Some(fin) if fin == self.next => self.take_fin(fin),
            _ => false,
        }
    }

    /// Gives bytes to the program, from `skip` bytes on.
    pub(crate) fn look(&self, skip: usize, buf: &mut [u8]) -> usize {
        let len = self.readable().saturating_sub(skip).min(buf.len());
        self.bytes.read(self.read + skip as u64, &mut buf[..len]);
        len
    }

    /// Shows bytes to the program; how many it took.
    pub(crate) fn show(&self, take: &mut dyn FnMut(&[IoSlice<'_>]) -> usize) -> usize {
        self.bytes.show(self.read, self.readable(), take)
    }

    /// Drops bytes that the program has.
    pub(crate) fn consume(
        &mut self,
        len: usize,
        round_trip: Option<Duration>,
        now: Instant,
        pool: &mut Pool,
    ) {
        let len = len.min(self.readable());
        self.read += len as u64;
        let all = self.readable() == 0 && self.ranges.is_empty();
        self.bytes.release(self.read, all, pool);
        self.is_tight = pool.is_full();
        if let Some(grown) = self.tuning.consumed(len, self.capacity, round_trip, now)
            && !pool.is_short()
        {
            self.capacity = grown;
        }
        if self.must_tell_window() {
            self.due = Due::Now;
        }
    }

    /// The program reads no more.
    pub(crate) fn discard(&mut self, pool: &mut Pool) {
        self.discards = true;
        self.read = self.next - u64::from(self.is_over());
        self.bytes.release(self.read, true, pool);
    }

    /// The window of a SYN, which no shift counts for.
    pub(crate) fn first_window(&self) -> u16 {
        u16::try_from((self.capacity as u64).min(self.clamp)).unwrap_or(u16::MAX)
    }

    /// Where the window could end: 16 bits have to tell it.
    fn possible(&self) -> u64 {
        let most = (u64::from(u16::MAX) << self.shift).min(self.clamp);
        if self.is_tight {
            let room = (2 * ALWAYS).min(self.capacity).saturating_sub(self.readable());
            return self.next + (room as u64).min(most);
        }
        self.next + (self.capacity.saturating_sub(self.readable()) as u64).min(most)
    }

    /// How much a window must grow to be worth a segment.
    fn step(&self) -> u64 {
        ((self.capacity / 2).min(self.tuning.mss) as u64).min(self.clamp / 2)
    }

    /// Whether the program has read so much that the peer should hear of it: as Linux, if the window has doubled.
    fn must_tell_window(&self) -> bool {
        if self.fin.is_some() || self.next <= FIRST {
            return false;
        }
        let (now, then) = (self.possible() - self.next, self.edge.saturating_sub(self.next));
        let step = self.step();
        now >= 2 * then && now >= then + step
    }

    /// The window for a segment that leaves now; the peer may send as much from then on. It never shrinks, and grows in
    /// steps that are worth a segment: "the avoidance algorithm keeps RCV.NXT + RCV.WND fixed until RCV.BUFF - RCV.USER -
    /// RCV.WND >= min(Fr * RCV.BUFF, Eff.snd.MSS)" (RFC 9293 section 3.8.6.2.2).
    pub(crate) fn window(&mut self) -> u16 {
        let possible = self.possible();
        let step = self.step();
        let grows = possible >= self.edge + step;
        let unit = 1u64 << self.shift;
        let units = if grows {
            (possible - self.next) / unit
        } else {
            self.edge.saturating_sub(self.next).div_ceil(unit)
        };
        let units = units.min(u64::from(u16::MAX));
        self.edge = self.edge.max(self.next + units * unit);
        units as u16
    }

    /// A segment leaves that acknowledges everything; `data` says that it has a payload.
    pub(crate) fn on_ack_sent(&mut self, data: bool, now: Instant) {
        if self.due != Due::Nothing {
            self.quick = self.quick.saturating_sub(1);
        }
        if data && self.heard.is_some_and(|at| now.since(at) < DELAY) {
            self.interactive = true;
        }
        self.acked = self.next;
        self.due = Due::Nothing;
    }

    /// Has what an acknowledgement left untold follow at once; `repeat` says that it was a duplicate itself. A peer without SACK counts duplicates, each of which is a
    /// segment that has arrived. One with SACK is told of segments by ranges, and needs no more than the three duplicates
    /// that the oldest rule asks for (RFC 5681 section 3.2; `tcp_comp_sack_nr` of Linux does the same).
    pub(crate) fn tell_rest(&mut self, selective: bool, repeat: bool) {
        if repeat && self.owed > 0 {
            self.repeats = self.repeats.saturating_add(1);
            self.owed -= 1;
        }
        if selective && self.repeats >= ENOUGH {
            self.owed = 0;
        }
        if self.owed > 0 || selective && self.ranges.has_news() {
            self.due = Due::Now;
        }
    }

    /// The time of a delayed acknowledgement has come: nothing went out that it could ride on.
    pub(crate) fn waited(&mut self, now: Instant) {
        if matches!(self.due, Due::At(at) if at <= now) {
            self.due = Due::Now;
            self.interactive = false;
        }
    }
}

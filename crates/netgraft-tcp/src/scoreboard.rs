//! What has been sent and not acknowledged, in ranges. Read RFC 6675 sections 3 and 4, RFC 2018 section 5 and RFC 8985
//! section 5 first.
//!
//! A range is what left as one packet, large or small; it is cut where an acknowledgement ends or begins, and where only
//! a part of it is sent again. Neighbors that were both reported as received are one range, so the list grows with the
//! number of holes and not with the window.

use std::collections::VecDeque;

use crate::rate::Snapshot;
use crate::time::Instant;

/// What is believed of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is on its way.
    InFlight,
    /// The peer has it, out of order.
    Sacked,
    /// It was lost, and is to be sent again.
    Lost,
}

/// Bytes that were sent together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// First position, and the one behind the last.
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// When it was sent last.
    pub(crate) sent: Instant,
    pub(crate) fate: Fate,
    /// Whether it was sent more than once.
    pub(crate) repeated: bool,
    pub(crate) snapshot: Snapshot,
}

impl Record {
    pub(crate) fn len(&self) -> u64 {
        self.end - self.start
    }
}

/// The ranges in their order, without gaps.
#[derive(Debug, Default)]
pub(crate) struct Scoreboard {
    records: VecDeque<Record>,
    in_flight: u64,
    sacked: u64,
    lost: u64,
    /// The end of the highest range that the peer has.
    pub(crate) highest_sacked: u64,
    /// The end of the highest range that was sent again.
    pub(crate) highest_repeated: u64,
}

impl Scoreboard {
    /// Bytes on their way (RFC 6675 section 4, "pipe").
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes that the peer has out of order.
    pub(crate) fn sacked(&self) -> u64 {
        self.sacked
    }

    /// Bytes that are to be sent again.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Bytes of memory of the list.
    pub(crate) fn memory(&self) -> usize {
        self.records.capacity() * size_of::<Record>()
    }

    /// Gives the memory of an empty list back.
    pub(crate) fn release_idle_memory(&mut self) {
        if self.records.is_empty() {
            self.records = VecDeque::new();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn front(&self) -> Option<&Record> {
        self.records.front()
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    fn count(&mut self, fate: Fate) -> &mut u64 {
        match fate {
            Fate::InFlight => &mut self.in_flight,
            Fate::Sacked => &mut self.sacked,
            Fate::Lost => &mut self.lost,
        }
    }

    /// Adds what is sent for the first time, behind all that is there.
    pub(crate) fn push(&mut self, start: u64, end: u64, sent: Instant, snapshot: Snapshot) {
        let record = Record { start, end, sent, fate: Fate::InFlight, repeated: false, snapshot };
        self.in_flight += record.len();
        self.records.push_back(record);
    }

    /// Takes out what lies before `ack`, calling `see` for each range.
    pub(crate) fn acknowledge(&mut self, ack: u64, mut see: impl FnMut(Record)) {
        while let Some(&first) = self.records.front().filter(|r| r.start < ack) {
            let mut done = first;
            done.end = first.end.min(ack);
            *self.count(done.fate) -= done.len();
            if ack < first.end {
                if let Some(rest) = self.records.front_mut() {
                    rest.start = ack;
                }
            } else {
                self.records.pop_front();
            }
            see(done);
        }
        if self.records.is_empty() && self.records.capacity() > 64 {
            self.records = VecDeque::new();
        }
    }

    /// The index of the first range that ends behind a position.
    fn find(&self, position: u64) -> usize {
        self.records.partition_point(|r| r.end <= position)
    }

    /// Cuts the range that has `position` inside, so that one begins there.
    fn cut(&mut self, position: u64) {
        let index = self.find(position);
        let Some(record) = self.records.get_mut(index).filter(|r| r.start < position) else { return };
        let mut rest = *record;
        record.end = position;
        rest.start = position;
        self.records.insert(index + 1, rest);
    }

    fn set(&mut self, index: usize, fate: Fate) {
        let Some(record) = self.records.get_mut(index) else { return };
        let (old, len) = (record.fate, record.len());
        record.fate = fate;
        *self.count(old) -= len;
        *self.count(fate) += len;
    }

    /// Notes that the peer has the bytes from `start` to `end`, calling `see` for each range that is news.
    pub(crate) fn sack(&mut self, start: u64, end: u64, mut see: impl FnMut(Record)) {
        let known = |r: &Record| r.fate == Fate::Sacked && r.start <= start && end <= r.end;
        if start >= end || self.records.get(self.find(start)).is_some_and(known) {
            return;
        }
        self.cut(start);
        self.cut(end);
        let mut index = self.find(start);
        while let Some(&record) = self.records.get(index).filter(|r| r.end <= end) {
            if record.fate != Fate::Sacked {
                see(record);
                self.set(index, Fate::Sacked);
                self.highest_sacked = self.highest_sacked.max(record.end);
            }
            index += 1 - usize::from(self.merge(index));
        }
        self.merge(index);
    }

    /// Joins a range with the one before it if the peer has both; answers whether it did.
    fn merge(&mut self, index: usize) -> bool {
        let Some(before) = index.checked_sub(1) else { return false };
        let both = |a: &Record, b: &Record| a.fate == Fate::Sacked && b.fate == Fate::Sacked;
        let (Some(left), Some(right)) = (self.records.get(before), self.records.get(index)) else {
            return false;
        };
        if !both(left, right) {
            return false;
        }
        let end = right.end;
        self.records.remove(index);
        if let Some(left) = self.records.get_mut(before) {
            left.end = end;
        }
        true
    }

    /// Marks as lost what `test` says so of, among the ranges on their way; `test` answers `None` to end the search.
    /// How many bytes were marked.
    pub(crate) fn lose(&mut self, mut test: impl FnMut(&Record) -> Option<bool>) -> u64 {
        let before = self.lost;
        for index in 0..self.records.len() {
            let Some(record) = self.records.get(index).filter(|r| r.fate == Fate::InFlight) else { continue };
            match test(record) {
                Some(true) => self.set(index, Fate::Lost),
                Some(false) => {}
                None => break,
            }
        }
        self.lost - before
    }

    /// Marks as lost the first `len` bytes of the first range, if it is on its way. How many bytes were marked.
    pub(crate) fn lose_first(&mut self, len: u64) -> u64 {
        let Some(&first) = self.records.front().filter(|r| r.fate == Fate::InFlight) else { return 0 };
        self.cut(first.start + len.min(first.len()));
        self.set(0, Fate::Lost);
        self.records.front().map_or(0, Record::len)
    }

    /// Forgets what the peer has said that it has: it may take it back (RFC 2018 section 8), and after a time-out
    /// everything is to be sent again.
    pub(crate) fn forget_sacks(&mut self) {
        for index in 0..self.records.len() {
            if self.records.get(index).is_some_and(|r| r.fate == Fate::Sacked) {
                self.set(index, Fate::Lost);
            }
        }
        self.highest_sacked = 0;
    }

    /// What was marked as lost was not, after all: it is on its way, as at first.
    pub(crate) fn unlose(&mut self) {
        for index in 0..self.records.len() {
            if self.records.get(index).is_some_and(|r| r.fate == Fate::Lost) {
                self.set(index, Fate::InFlight);
            }
        }
    }

    /// The first range that is lost.
    pub(crate) fn first_lost(&self) -> Option<Record> {
        if self.lost == 0 { None } else { self.records.iter().find(|r| r.fate == Fate::Lost).copied() }
    }

    /// Notes that the bytes from `start`, the beginning of a range, to `end` are sent again.
    pub(crate) fn repeat(&mut self, start: u64, end: u64, now: Instant, snapshot: Snapshot) {
        self.cut(end);
        let index = self.find(start);
        self.set(index, Fate::InFlight);
        if let Some(record) = self.records.get_mut(index) {
            record.repeated = true;
            record.sent = now;
            record.snapshot = snapshot;
        }
        self.highest_repeated = self.highest_repeated.max(end);
    }

    /// Cuts the last range so that its last piece has `len` bytes at most; answers it.
    pub(crate) fn last_piece(&mut self, len: u64) -> Option<Record> {
        let last = *self.records.back()?;
        if last.len() > len {
            self.cut(last.end - len);
        }
        self.records.back().copied()
    }

    /// Bytes that the peer has in all records of this test; for checks.
    #[cfg(test)]
    pub(crate) fn holds_together(&self) -> bool {
        let mut sums = [0u64; 3];
        let mut next = self.records.front().map(|r| r.start);
        for record in &self.records {
            if Some(record.start) != next || record.start >= record.end {
                return false;
            }
            next = Some(record.end);
            sums[record.fate as usize] += record.len();
        }
        sums == [self.in_flight, self.sacked, self.lost]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn board(records: u64) -> Scoreboard {
        let mut board = Scoreboard::default();
        for i in 0..records {
            board.push(i * 100, i * 100 + 100, Instant::from_millis(i), Snapshot::default());
        }
        board
    }

    #[test]
    fn ranges_are_cut_and_joined() {
        let mut board = board(3);
        let mut seen = Vec::new();
        board.sack(150, 250, |r| seen.push((r.start, r.end)));
        assert_eq!(seen, [(150, 200), (200, 250)]);
        board.sack(150, 250, |_| panic!("no news"));
        assert_eq!((board.in_flight(), board.sacked(), board.iter().count()), (200, 100, 4));
        assert_eq!(board.lose_first(60), 60);
        assert_eq!(board.first_lost().map(|r| (r.start, r.end)), Some((0, 60)));
        board.repeat(0, 30, Instant::from_millis(9), Snapshot::default());
        assert_eq!((board.in_flight(), board.lost()), (170, 30));
        board.acknowledge(40, |_| {});
        assert_eq!((board.in_flight(), board.sacked(), board.lost()), (140, 100, 20));
        assert!(board.holds_together());
    }

    proptest! {
        #[test]
        fn counts_hold(steps in proptest::collection::vec((0u8..6, 0u64..1000, 1u64..300), 0..60)) {
            let mut board = board(10);
            for (kind, at, len) in steps {
                match kind {
                    0 => board.acknowledge(at / 4, |_| {}),
                    1 => {
                        let end = (at + len).min(1000);
                        board.sack(board.front().map_or(0, |r| r.start).max(at), end, |_| {});
                    }
                    2 => { board.lose(|r| Some(r.start < at)); }
                    3 => { board.lose_first(len); }
                    4 => if let Some(r) = board.first_lost() {
                        board.repeat(r.start, r.end.min(r.start + len), Instant::ZERO, Snapshot::default());
                    },
                    _ => { board.last_piece(len); }
                }
                prop_assert!(board.holds_together());
            }
        }
    }
}

//! Ranges that have come out of order, and what is told of them. Read RFC 9293 section 3.10.7.4 ("Seventh, process the
//! segment text"), RFC 2018 section 4 and RFC 2883 section 4 first.

use crate::options::SackBlocks;
use crate::seq::Numbers;

/// Most ranges that are kept; data that would make one more is dropped, and comes again.
const MOST: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
    /// Larger for what was extended later.
    stamp: u64,
}

/// Ranges behind the first missing byte, in their order.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    ranges: Vec<Range>,
    stamp: u64,
    /// A range that came twice and is to be told of.
    duplicate: Option<(u64, u64)>,
}

impl Reassembly {
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds the range from `start` to `end`; `false` if there are too many already. Notes a duplicate.
    pub(crate) fn add(&mut self, start: u64, end: u64) -> bool {
        self.stamp += 1;
        let first = self.ranges.partition_point(|r| r.end < start);
        let last = first + self.ranges[first..].partition_point(|r| r.start <= end);
        let mut new = Range { start, end, stamp: self.stamp };
        let touched = self.ranges.get(first..last).unwrap_or_default();
        if touched.is_empty() {
            if self.ranges.len() >= MOST {
                return false;
            }
            self.ranges.insert(first, new);
            return true;
        }
        for range in touched {
            // RFC 2883 section 4.1.2: what overlaps with a range that is there is told of as a duplicate.
            let common = (range.start.max(start), range.end.min(end));
            if common.0 < common.1 {
                self.duplicate = Some(common);
            }
            new.start = new.start.min(range.start);
            new.end = new.end.max(range.end);
        }
        self.ranges.drain(first..last);
        self.ranges.insert(first, new);
        true
    }

    /// The ranges in their order: first position, and the one behind the last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|range| (range.start, range.end))
    }

    /// All bytes before `next` have come in order; answers up to where they go on.
    pub(crate) fn join(&mut self, mut next: u64) -> u64 {
        let mut done = 0;
        for range in &self.ranges {
            if range.start > next {
                break;
            }
            next = next.max(range.end);
            done += 1;
        }
        self.ranges.drain(..done);
        if self.ranges.is_empty() && self.ranges.capacity() > 16 {
            self.ranges = Vec::new();
        }
        next
    }

    /// Notes that the bytes from `start` to `end` came twice.
    pub(crate) fn saw_twice(&mut self, start: u64, end: u64) {
        self.duplicate = Some((start, end));
    }

    /// Takes the blocks for the next acknowledgement, at most `most`: a duplicate first (RFC 2883 section 4), then "the
    /// block containing the segment which triggered this ACK", then the most recently reported (RFC 2018 section 4).
    pub(crate) fn blocks(&mut self, most: usize, numbers: Numbers) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        let mut left = most;
        let mut put = |start: u64, end: u64| blocks.push(numbers.wire(start), numbers.wire(end));
        if let Some((start, end)) = self.duplicate.take() {
            put(start, end);
            left = left.saturating_sub(1);
            // The range around it, if there is one, must be the next (RFC 2883 section 4.2).
        }
        let mut below = u64::MAX;
        while left > 0 {
            let newest = self.ranges.iter().filter(|r| r.stamp < below).max_by_key(|r| r.stamp);
            let Some(range) = newest else { break };
            put(range.start, range.end);
            below = range.stamp;
            left -= 1;
        }
        blocks
    }

    /// Whether a duplicate is to be told of.
    pub(crate) fn has_duplicate(&self) -> bool {
        self.duplicate.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NUMBERS: Numbers = Numbers { initial: 0 };

    fn at(position: u32) -> u64 {
        crate::seq::FIRST + u64::from(position)
    }

    fn blocks(reassembly: &mut Reassembly) -> Vec<(u32, u32)> {
        reassembly.blocks(4, NUMBERS).as_slice().to_vec()
    }

    #[test]
    fn the_newest_range_is_told_first() {
        // RFC 2018 section 5.1, case 3, in other numbers.
        let mut ranges = Reassembly::default();
        for (start, end) in [(10, 20), (30, 40), (50, 60)] {
            ranges.add(at(start), at(end));
        }
        assert_eq!(blocks(&mut ranges), [(50, 60), (30, 40), (10, 20)]);
        ranges.add(at(20), at(25));
        assert_eq!(blocks(&mut ranges), [(10, 25), (50, 60), (30, 40)]);
        assert_eq!(ranges.join(at(10)), at(25));
        assert_eq!(blocks(&mut ranges), [(50, 60), (30, 40)]);
    }

    #[test]
    fn duplicates_come_first_and_once() {
        // RFC 2883 section 4.2.1.
        let mut ranges = Reassembly::default();
        ranges.add(at(10), at(20));
        ranges.add(at(15), at(30));
        assert_eq!(blocks(&mut ranges), [(15, 20), (10, 30)]);
        assert_eq!(blocks(&mut ranges), [(10, 30)]);
    }

    proptest! {
        #[test]
        fn ranges_are_what_was_added(parts in proptest::collection::vec((1u32..200, 1u32..20), 0..40)) {
            let mut ranges = Reassembly::default();
            let mut bytes = [false; 256];
            for (start, len) in parts {
                ranges.add(at(start), at(start + len));
                bytes[start as usize..(start + len) as usize].fill(true);
            }
            let mut told = [false; 256];
            let mut last = 0;
            for range in &ranges.ranges {
                prop_assert!(range.start > last, "ordered, and apart");
                last = range.end;
                told[(range.start - at(0)) as usize..(range.end - at(0)) as usize].fill(true);
            }
            prop_assert_eq!(bytes, told);
        }
    }
}

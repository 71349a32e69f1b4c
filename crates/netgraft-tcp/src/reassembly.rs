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
    /// Whether an acknowledgement has told of it as it is.
    reported: bool,
}

/// Most duplicates that wait to be told of. More are those of a peer that sends everything again.
const DUPLICATES: usize = 8;

/// Ranges behind the first missing byte, in their order.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    ranges: Vec<Range>,
    stamp: u64,
    /// How many of them no acknowledgement has told of.
    unreported: usize,
    /// Ranges that came twice and are to be told of: their first bytes, in the order in which they came.
    duplicates: Vec<(u64, u64)>,
}

impl Reassembly {
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes of memory of the list.
    pub(crate) fn memory(&self) -> usize {
        self.ranges.capacity() * size_of::<Range>() + self.duplicates.capacity() * size_of::<(u64, u64)>()
    }

    /// Gives the memory of empty lists back.
    pub(crate) fn release_idle_memory(&mut self) {
        if self.ranges.is_empty() {
            self.ranges = Vec::new();
        }
        if self.duplicates.is_empty() {
            self.duplicates = Vec::new();
        }
    }

    /// Adds the range from `start` to `end`; `false` if there are too many already. Notes a duplicate.
    pub(crate) fn add(&mut self, start: u64, end: u64) -> bool {
        self.stamp += 1;
        let first = self.ranges.partition_point(|r| r.end < start);
        let last = first + self.ranges[first..].partition_point(|r| r.start <= end);
        let mut new = Range { start, end, stamp: self.stamp, reported: false };
        if first == last && self.ranges.len() >= MOST {
            return false;
        }
        let mut common = None;
        for range in self.ranges.drain(first..last) {
            // RFC 2883 section 4.1.2: what overlaps with a range that is there is told of as a duplicate.
            let both = (range.start.max(start), range.end.min(end));
            if both.0 < both.1 {
                common = Some(both);
            }
            new.start = new.start.min(range.start);
            new.end = new.end.max(range.end);
            self.unreported -= usize::from(!range.reported);
        }
        self.ranges.insert(first, new);
        self.unreported += 1;
        if let Some((start, end)) = common {
            self.saw_twice(start, end);
        }
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
            self.unreported -= usize::from(!range.reported);
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
        if let Some(last) = self.duplicates.last_mut()
            && last.1 == start
        {
            // The next segment of those that came again.
            last.1 = end;
        } else if self.duplicates.len() < DUPLICATES {
            self.duplicates.push((start, end));
        }
    }

    /// Whether something is to be told: ranges that are new, or have grown, or duplicates.
    pub(crate) fn has_news(&self) -> bool {
        self.unreported > 0 || !self.duplicates.is_empty()
    }

    /// Takes the blocks for the next acknowledgement, at most `most`: a duplicate first (RFC 2883 section 4), and the range
    /// around it if there is one (section 4.2). Then, of what was not told of, what came first, as if each segment had been
    /// acknowledged as it came: a sender takes for lost what lies before the newest range that it is told of. "The block
    /// containing the segment which triggered this ACK" is the first of them (RFC 2018 section 4). Room that is left has
    /// the newest of those that were told of.
    pub(crate) fn blocks(&mut self, most: usize, numbers: Numbers) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        let mut left = most.min(4);
        // The stamps of what is in `blocks`; no range has 0.
        let mut shown = [0; 4];
        if left > 0 && !self.duplicates.is_empty() {
            let (start, end) = self.duplicates.remove(0);
            blocks.push(numbers.wire(start), numbers.wire(end));
            left -= 1;
            let around = self.ranges.iter().position(|r| r.start <= start && end <= r.end);
            if let Some(index) = around.filter(|_| left > 0) {
                left -= 1;
                shown[left] = self.tell(index, &mut blocks, numbers);
            }
        }
        let (mut fresh, mut count, mut above) = ([0; 4], 0, 0);
        while count < left.min(self.unreported) {
            let rest = self.ranges.iter().enumerate().filter(|(_, r)| !r.reported && r.stamp > above);
            let Some((index, range)) = rest.min_by_key(|(_, r)| r.stamp) else { break };
            (fresh[count], above) = (index, range.stamp);
            count += 1;
        }
        for &index in fresh[..count].iter().rev() {
            left -= 1;
            shown[left] = self.tell(index, &mut blocks, numbers);
        }
        while left > 0 {
            let rest =
                self.ranges.iter().enumerate().filter(|(_, r)| r.reported && !shown.contains(&r.stamp));
            let Some((index, _)) = rest.max_by_key(|(_, r)| r.stamp) else { break };
            left -= 1;
            shown[left] = self.tell(index, &mut blocks, numbers);
        }
        blocks
    }

    /// Puts a range into `blocks`; answers its stamp.
    fn tell(&mut self, index: usize, blocks: &mut SackBlocks, numbers: Numbers) -> u64 {
        let Some(range) = self.ranges.get_mut(index) else { return 0 };
        blocks.push(numbers.wire(range.start), numbers.wire(range.end));
        self.unreported -= usize::from(!std::mem::replace(&mut range.reported, true));
        range.stamp
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

    #[test]
    fn what_came_first_is_told_first() {
        // Five ranges, between two acknowledgements: no sender may take the first two for lost.
        let mut ranges = Reassembly::default();
        for (start, end) in [(10, 20), (30, 40), (50, 60), (70, 80), (90, 100)] {
            ranges.add(at(start), at(end));
        }
        let three = |ranges: &mut Reassembly| ranges.blocks(3, NUMBERS).as_slice().to_vec();
        assert_eq!(three(&mut ranges), [(50, 60), (30, 40), (10, 20)]);
        assert!(ranges.has_news());
        assert_eq!(three(&mut ranges), [(90, 100), (70, 80), (50, 60)]);
        assert!(!ranges.has_news());
        assert_eq!(three(&mut ranges), [(90, 100), (70, 80), (50, 60)], "again, should one be lost");
    }

    #[test]
    fn each_duplicate_is_told_of() {
        let mut ranges = Reassembly::default();
        ranges.add(at(50), at(90));
        for (start, end) in [(1, 2), (2, 3), (7, 8), (60, 70)] {
            ranges.saw_twice(at(start), at(end));
        }
        assert_eq!(blocks(&mut ranges), [(1, 3), (50, 90)], "neighbors are one");
        assert_eq!(blocks(&mut ranges), [(7, 8), (50, 90)]);
        assert_eq!(blocks(&mut ranges), [(60, 70), (50, 90)]);
        assert!(!ranges.has_news());
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
            prop_assert_eq!(ranges.unreported, ranges.ranges.iter().filter(|r| !r.reported).count());
            // However little room there is, all is told of in the end.
            let mut acknowledged = std::collections::BTreeSet::new();
            for _ in 0..100 {
                if !ranges.has_news() {
                    break;
                }
                acknowledged.extend(ranges.blocks(3, NUMBERS).as_slice().iter().copied());
            }
            prop_assert!(!ranges.has_news());
            for range in &ranges.ranges {
                prop_assert!(acknowledged.contains(&(NUMBERS.wire(range.start), NUMBERS.wire(range.end))));
            }
        }
    }
}

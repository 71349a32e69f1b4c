//! Buffers that grow to what the path needs. There is no RFC; tcp(7) (`tcp_moderate_rcvbuf`, `tcp_rmem`, `tcp_wmem`)
//! says what Linux does, after Semke, Mahdavi and Mathis, "Automatic TCP Buffer Tuning", SIGCOMM 1998.

use std::time::Duration;

use crate::time::Instant;

/// Round trips shorter than this are those of the wire alone, and not of two programs that take turns; Linux' measure of
/// the receiver's round trip has this grain.
const GRAIN: Duration = Duration::from_millis(1);

/// How the receive buffer grows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// Most bytes that it grows to; 0 if the program has set the size.
    most: usize,
    /// The largest payload that the peer was told to send.
    pub(crate) mss: usize,
    /// Bytes that the program has read in this round trip, and in the one before.
    taken: u64,
    before: u64,
    began: Instant,
}

impl Tuning {
    pub(crate) fn new(most: usize, mss: usize, now: Instant) -> Self {
        Tuning { most, mss, taken: 0, before: 0, began: now }
    }

    /// Most bytes that the buffer grows to.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// The program has set the size: it stays.
    pub(crate) fn fix(&mut self) {
        self.most = 0;
    }

    /// The program has read `len` bytes. Answers a new capacity, if the old one could hold the peer up: a window has to
    /// last for a round trip, and a peer in slow start doubles what it sends in the next.
    pub(crate) fn consumed(
        &mut self,
        len: usize,
        capacity: usize,
        round_trip: Option<Duration>,
        now: Instant,
    ) -> Option<usize> {
        self.taken += len as u64;
        let round_trip = round_trip?.max(GRAIN);
        if capacity >= self.most || now.since(self.began) < round_trip {
            return None;
        }
        let (taken, before) = (self.taken, self.before);
        self.before = taken;
        self.taken = 0;
        self.began = now;
        // Twice what was read, so that losses do not stop the peer; twice that while it speeds up.
        let factor = if taken > before + before / 4 { 4 } else { 2 };
        let wanted = taken.saturating_mul(factor).saturating_add(16 * self.mss as u64);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(self.most);
        (wanted > capacity).then_some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_with_what_a_round_trip_brings() {
        let rtt = Some(Duration::from_millis(50));
        let mut tuning = Tuning::new(6 << 20, 1460, Instant::ZERO);
        let at = Instant::from_millis;
        assert_eq!(tuning.consumed(100_000, 131_072, rtt, at(20)), None, "the round trip is not over");
        assert_eq!(tuning.consumed(20_000, 131_072, rtt, at(50)), Some(120_000 * 4 + 16 * 1460));
        assert_eq!(tuning.consumed(120_000, 500_000, rtt, at(100)), None, "it is steady");
        assert_eq!(tuning.consumed(60 << 20, 500_000, rtt, at(150)), Some(6 << 20));
        tuning.fix();
        assert_eq!(tuning.consumed(60 << 20, 500_000, rtt, at(200)), None);
    }
}

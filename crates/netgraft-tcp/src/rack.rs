//! Time-based loss detection and tail loss probes. Read RFC 8985 sections 3, 6 and 7 first.

use std::time::Duration;

use crate::scoreboard::{Record, Scoreboard};
use crate::time::Instant;

/// "RACK.dupthresh" segments that the peer has out of order are loss without reordering (RFC 8985 section 6.2, step 4).
pub(crate) const DUP_THRESHOLD: u64 = 3;
/// "If DSACK has been seen, persist the adapted window for 16 recoveries" (section 3.3.2).
const PERSIST: u8 = 16;
/// Most time that a probe waits beyond two round trips for a delayed acknowledgement ("TLP.max_ack_delay").
const ACK_DELAY: Duration = Duration::from_millis(200);
/// The grain of timers: nothing waits less.
const GRAIN: Duration = Duration::from_millis(2);

/// What RACK knows of a connection (section 5.3).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rack {
    /// When the latest delivered segment was sent, and where it ended.
    latest: Option<(Instant, u64)>,
    /// The round trip of that segment.
    rtt: Duration,
    /// The highest end that was delivered.
    forward: u64,
    /// Whether segments have overtaken each other on this path.
    pub(crate) reordering: bool,
    /// The window for reordering in quarters of the least round trip, less one, and recoveries that it lasts.
    more: u8,
    persist: u8,
    /// The position behind what was sent as the last DSACK was counted.
    dsack_round: Option<u64>,
}

/// "RACK_sent_after": of segments that were sent at the same time the one with higher numbers was later.
fn sent_after(a: (Instant, u64), b: (Instant, u64)) -> bool {
    a.0 > b.0 || a.0 == b.0 && a.1 > b.1
}

impl Rack {
    /// Steps 2 and 3: notes a segment that is delivered. `echoed` says whether the peer's timestamp shows that the
    /// acknowledgement is for the last copy.
    pub(crate) fn delivered(
        &mut self,
        record: &Record,
        least: Option<Duration>,
        echoed: Option<bool>,
        now: Instant,
    ) {
        let took = now.since(record.sent);
        if record.repeated && (echoed == Some(false) || least.is_some_and(|least| took < least)) {
            // It was the first copy that arrived.
            return;
        }
        if !record.repeated && record.end < self.forward {
            self.reordering = true;
        }
        self.forward = self.forward.max(record.end);
        self.rtt = took;
        if self.latest.is_none_or(|latest| sent_after((record.sent, record.end), latest)) {
            self.latest = Some((record.sent, record.end));
        }
    }

    /// A duplicate was reported: what seemed lost was late. At most once a round trip (section 6.2, step 4).
    pub(crate) fn saw_duplicate(&mut self, acknowledged: u64, next: u64) {
        if self.dsack_round.is_none_or(|round| acknowledged >= round) {
            self.dsack_round = Some(next);
            self.more = self.more.saturating_add(1);
            self.persist = PERSIST;
        }
    }

    /// A recovery has ended.
    pub(crate) fn recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.more = 0;
        }
    }

    /// Step 4: how much later a segment may come than one that was sent after it.
    fn window(&self, recovering: bool, sacked: u64, least: Duration, smoothed: Duration) -> Duration {
        if !self.reordering && (recovering || sacked >= DUP_THRESHOLD) {
            return Duration::ZERO;
        }
        (least / 4 * (u32::from(self.more) + 1)).min(smoothed)
    }

    /// Step 5: marks what must be lost by now. Answers how many bytes, and when to look again.
    pub(crate) fn detect(
        &self,
        board: &mut Scoreboard,
        (recovering, sacked): (bool, u64),
        (least, smoothed): (Duration, Duration),
        now: Instant,
    ) -> (u64, Option<Instant>) {
        let Some(latest) = self.latest else { return (0, None) };
        let allowed = self.rtt + self.window(recovering, sacked, least, smoothed);
        let highest = board.highest_repeated;
        let mut again: Option<Instant> = None;
        let lost = board.lose(|record| {
            if !sent_after(latest, (record.sent, record.end)) {
                // Behind the last repeated one all have the order in which they were sent.
                return if record.start >= highest { None } else { Some(false) };
            }
            let due = record.sent + allowed;
            if due <= now {
                return Some(true);
            }
            again = Some(again.map_or(due, |at| at.max(due)));
            Some(false)
        });
        (lost, again)
    }

    /// When a probe is due, counted from now (section 7.2): "PTO = 2 * SRTT", and longer if the peer may delay its
    /// acknowledgement of a single segment.
    pub(crate) fn probe_timeout(smoothed: Option<Duration>, single: bool) -> Duration {
        match smoothed {
            None => Duration::from_secs(1),
            Some(smoothed) => smoothed * 2 + if single { ACK_DELAY } else { GRAIN },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Snapshot;

    const RTT: Duration = Duration::from_millis(40);

    fn board() -> Scoreboard {
        let mut board = Scoreboard::default();
        for i in 0..5u64 {
            board.push(i * 100, i * 100 + 100, Instant::from_millis(i), Snapshot::default());
        }
        board
    }

    fn sack(rack: &mut Rack, board: &mut Scoreboard, from: u64, to: u64, now: Instant) {
        board.sack(from, to, |record| rack.delivered(&record, Some(RTT), None, now));
    }

    #[test]
    fn a_segment_is_lost_a_quarter_round_trip_after_a_later_one_came() {
        let (mut rack, mut board) = (Rack::default(), board());
        let now = Instant::from_millis(41);
        sack(&mut rack, &mut board, 100, 200, now);
        let (lost, again) = rack.detect(&mut board, (false, 1), (RTT, RTT), now);
        assert_eq!((lost, again), (0, Some(Instant::from_millis(50))));
        let (lost, again) = rack.detect(&mut board, (false, 1), (RTT, RTT), Instant::from_millis(50));
        assert_eq!((lost, again), (100, None));
    }

    #[test]
    fn three_segments_are_enough_without_reordering() {
        let (mut rack, mut board) = (Rack::default(), board());
        let now = Instant::from_millis(43);
        sack(&mut rack, &mut board, 100, 400, now);
        assert_eq!(rack.detect(&mut board, (false, 3), (RTT, RTT), now), (100, None));
        // The last was sent after all that came: it is not.
        assert_eq!(board.in_flight(), 100);
    }

    #[test]
    fn duplicates_widen_the_window_for_sixteen_recoveries() {
        let mut rack = Rack { reordering: true, ..Rack::default() };
        assert_eq!(rack.window(false, 9, RTT, RTT * 9), RTT / 4);
        rack.saw_duplicate(100, 500);
        rack.saw_duplicate(200, 600);
        assert_eq!(rack.window(false, 9, RTT, RTT * 9), RTT / 2);
        rack.saw_duplicate(500, 900);
        assert_eq!(rack.window(false, 9, RTT, RTT * 9), RTT / 4 * 3);
        assert_eq!(rack.window(false, 9, RTT, RTT / 2), RTT / 2, "never above a round trip");
        for _ in 0..16 {
            rack.recovered();
        }
        assert_eq!(rack.window(false, 9, RTT, RTT * 9), RTT / 4);
    }
}

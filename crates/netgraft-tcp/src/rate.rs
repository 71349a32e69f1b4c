//! How fast data is delivered. Read RFC 9438's companion draft-ietf-ccwg-bbr section 4.1 (delivery rate samples) first.
//!
//! Each segment notes how much had been delivered as it left. When it is acknowledged, what was delivered since then,
//! by the longer of the times in which it was sent and acknowledged, is a sample of the path's rate.

use std::time::Duration;

use crate::time::Instant;

/// What a segment notes as it leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Bytes delivered until then, and when the last of them was.
    delivered: u64,
    delivered_at: Instant,
    /// When the first segment of its flight was sent.
    first_sent: Instant,
    /// Bytes in flight, this segment included, as it left.
    pub(crate) in_flight: u64,
    /// Bytes lost until then.
    pub(crate) lost: u64,
    /// Whether the sender had nothing more to send.
    app_limited: bool,
}

/// A sample of the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateSample {
    /// Bytes that were delivered in [`RateSample::interval`].
    pub delivered: u64,
    /// The time in which they were; zero if there is no sample.
    pub interval: Duration,
    /// Bytes that had been delivered in all as the acknowledged segment was sent.
    pub prior_delivered: u64,
    /// Bytes in flight as it was sent.
    pub in_flight: u64,
    /// Bytes lost since it was sent.
    pub lost: u64,
    /// Whether the sender, not the path, set the rate.
    pub app_limited: bool,
}

impl RateSample {
    /// Bytes per second, if there is a sample.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        let nanos = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        (nanos > 0).then(|| (u128::from(self.delivered) * 1_000_000_000 / u128::from(nanos)) as u64)
    }
}

/// The counters of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    /// Bytes delivered in all.
    pub(crate) delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    /// Bytes lost in all.
    pub(crate) lost: u64,
    /// The count of delivered bytes up to which samples are limited by the sender; 0 for none.
    limited_until: u64,
    /// Bytes per second by the last sample that the path set, for `TCP_INFO`.
    pub(crate) last: u64,
}

impl Rate {
    /// A segment leaves; `idle` says that nothing else is in flight.
    pub(crate) fn sent(&mut self, idle: bool, in_flight: u64, now: Instant) -> Snapshot {
        if idle {
            self.first_sent = now;
            self.delivered_at = now;
        }
        Snapshot {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            in_flight,
            lost: self.lost,
            app_limited: self.limited_until > 0,
        }
    }

    /// A segment is acknowledged for the first time. `newest` becomes the one that was sent last of those of an
    /// acknowledgement.
    pub(crate) fn acknowledged(
        &mut self,
        len: u64,
        sent: (Snapshot, Instant),
        newest: &mut Option<(Snapshot, Instant)>,
        now: Instant,
    ) {
        self.delivered += len;
        self.delivered_at = now;
        let newer = |(old, at): (Snapshot, Instant)| {
            sent.0.delivered > old.delivered || sent.0.delivered == old.delivered && sent.1 >= at
        };
        if newest.is_none_or(newer) {
            *newest = Some(sent);
        }
    }

    /// The sample of an acknowledgement, after all its segments are noted.
    pub(crate) fn sample(
        &mut self,
        newest: Option<(Snapshot, Instant)>,
        least_rtt: Option<Duration>,
        now: Instant,
    ) -> RateSample {
        if self.limited_until > 0 && self.delivered > self.limited_until {
            self.limited_until = 0;
        }
        let Some((snapshot, sent)) = newest else { return RateSample::default() };
        self.first_sent = self.first_sent.max(sent);
        let send = sent.since(snapshot.first_sent);
        let acked = now.since(snapshot.delivered_at);
        let mut sample = RateSample {
            delivered: self.delivered - snapshot.delivered,
            interval: send.max(acked),
            prior_delivered: snapshot.delivered,
            in_flight: snapshot.in_flight,
            lost: self.lost - snapshot.lost,
            app_limited: snapshot.app_limited,
        };
        // A shorter time than any round trip is an artefact of how acknowledgements came.
        if least_rtt.is_some_and(|least| sample.interval < least) {
            sample.interval = Duration::ZERO;
        }
        if let Some(rate) = sample.rate()
            && (!sample.app_limited || rate >= self.last)
        {
            self.last = rate;
        }
        sample
    }

    /// Nothing more is there to send though the window is open.
    pub(crate) fn limited_by_sender(&mut self, in_flight: u64) {
        self.limited_until = (self.delivered + in_flight).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_path_shows_its_rate() {
        let at = Instant::from_millis;
        let mut rate = Rate::default();
        // A segment of 1000 bytes each millisecond, acknowledged 10 ms later: 1 MB/s.
        let mut sent = std::collections::VecDeque::new();
        let mut last = RateSample::default();
        for ms in 0..50 {
            if ms >= 10 {
                let (snapshot, when) = sent.pop_front().unwrap();
                let mut newest = None;
                rate.acknowledged(1000, (snapshot, when), &mut newest, at(ms));
                last = rate.sample(newest, Some(Duration::from_millis(10)), at(ms));
            }
            sent.push_back((rate.sent(sent.is_empty(), 1000 * sent.len() as u64, at(ms)), at(ms)));
        }
        assert_eq!((last.rate(), last.app_limited), (Some(1_000_000), false));
        rate.limited_by_sender(10_000);
        assert!(rate.sent(false, 0, at(50)).app_limited);
    }
}

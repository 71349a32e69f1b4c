//! Round-trip time and retransmission time-out. Read RFC 6298 sections 2 and 5, and RFC 7323 section 4 first.

use std::time::Duration;

use crate::time::Instant;

/// "Until a round-trip time (RTT) measurement has been made for a segment sent between the sender and receiver, the
/// sender SHOULD set RTO <- 1 second" (RFC 6298 section 2.1).
const FIRST: Duration = Duration::from_secs(1);
/// RFC 6298 section 2.4 has one second, and says why less is better on a fine clock; Linux has this
/// (`TCP_RTO_MIN`).
const LEAST: Duration = Duration::from_millis(200);
/// RFC 6298 section 2.5 allows a maximum of at least 60 seconds; Linux has this (`TCP_RTO_MAX`).
pub(crate) const MOST: Duration = Duration::from_secs(120);
/// For how long a minimum is the minimum (`tcp_min_rtt_wlen`, ip-sysctl).
const WINDOW: Duration = Duration::from_secs(300);

/// What is known of the round trips of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    /// Smoothed round trip and its variation, once there was a measurement.
    smooth: Option<(Duration, Duration)>,
    /// The shortest in the last five minutes, and when it was measured.
    least: Option<(Duration, Instant)>,
    /// How often the time-out was doubled.
    pub(crate) backoff: u32,
}

impl Rtt {
    /// Notes a measurement.
    pub(crate) fn measure(&mut self, took: Duration, now: Instant) {
        self.smooth = Some(match self.smooth {
            // "When the first RTT measurement R is made, the host MUST set SRTT <- R, RTTVAR <- R/2".
            None => (took, took / 2),
            // "RTTVAR <- (1 - beta) * RTTVAR + beta * |SRTT - R'|, SRTT <- (1 - alpha) * SRTT + alpha * R'", with
            // alpha of 1/8 and beta of 1/4.
            Some((mean, variation)) => ((mean * 7 + took) / 8, (variation * 3 + mean.abs_diff(took)) / 4),
        });
        // Zero is what the clock shows that the caller reads once a turn, and says nothing of the path.
        let counts = !took.is_zero();
        let stale = self.least.is_none_or(|(least, at)| took <= least || now.since(at) > WINDOW);
        if counts && stale {
            self.least = Some((took, now));
        }
    }

    /// Smoothed round trip.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smooth.map(|(mean, _)| mean)
    }

    /// Variation of the round trip.
    pub(crate) fn variation(&self) -> Duration {
        self.smooth.map_or(Duration::ZERO, |(_, variation)| variation)
    }

    /// The shortest round trip.
    pub(crate) fn least(&self) -> Option<Duration> {
        self.least.map(|(least, _)| least)
    }

    /// The time-out without doubling: "RTO <- SRTT + max (G, K*RTTVAR)" with K of 4. The least time-out stands in the
    /// place of G, as in Linux, so that a steady path does not time out for one late acknowledgement.
    pub(crate) fn base(&self) -> Duration {
        match self.smooth {
            None => FIRST,
            Some((mean, variation)) => (mean + LEAST.max(variation * 4)).min(MOST),
        }
    }

    /// The time-out: "The host MUST set RTO <- RTO * 2 ("back off the timer")" for each time that it has run out
    /// (RFC 6298 section 5.5).
    pub(crate) fn timeout(&self) -> Duration {
        self.base().saturating_mul(1 << self.backoff.min(16)).min(MOST)
    }

    /// Takes up what was known of another time: mean, variation and least, if there was a measurement.
    pub(crate) fn restore(&mut self, known: Option<(Duration, Duration, Duration)>, now: Instant) {
        self.smooth = known.map(|(mean, variation, _)| (mean, variation));
        self.least = known.map(|(_, _, least)| (least, now));
    }

    /// Forgets the measurements of a SYN that was sent more than once: "If the timer expires awaiting the ACK of a SYN
    /// segment and the TCP implementation is using an RTO less than 3 seconds, the RTO MUST be re-initialized to 3
    /// seconds when data transmission begins" (RFC 6298 section 5.7).
    pub(crate) fn after_lost_syn(&mut self) {
        if self.smooth.is_none() {
            let second = Duration::from_secs(1);
            self.smooth = Some((second, second / 2));
        }
        self.backoff = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_follow_the_round_trips() {
        let ms = Duration::from_millis;
        let mut rtt = Rtt::default();
        assert_eq!((rtt.timeout(), rtt.smoothed()), (FIRST, None));
        rtt.measure(ms(100), Instant::ZERO);
        assert_eq!((rtt.smoothed(), rtt.variation(), rtt.timeout()), (Some(ms(100)), ms(50), ms(300)));
        rtt.measure(ms(200), Instant::ZERO);
        assert_eq!((rtt.smoothed(), rtt.least()), (Some(Duration::from_micros(112_500)), Some(ms(100))));
        assert_eq!(rtt.timeout(), Duration::from_micros(112_500) + Duration::from_micros(62_500) * 4);
        rtt.backoff = 1;
        assert_eq!(rtt.timeout(), rtt.base() * 2);
        rtt.backoff = 40;
        assert_eq!(rtt.timeout(), MOST);
        // An old minimum gives way.
        rtt.measure(ms(300), Instant::from_millis(400_000));
        assert_eq!(rtt.least(), Some(ms(300)));
    }

    #[test]
    fn an_answer_within_a_turn_is_no_shortest_round_trip() {
        let us = Duration::from_micros;
        let mut rtt = Rtt::default();
        rtt.measure(Duration::ZERO, Instant::ZERO);
        assert_eq!((rtt.least(), rtt.smoothed()), (None, Some(Duration::ZERO)));
        rtt.measure(us(120), Instant::ZERO);
        rtt.measure(Duration::ZERO, Instant::ZERO);
        assert_eq!(rtt.least(), Some(us(120)));
    }

    #[test]
    fn a_lost_syn_leaves_three_seconds() {
        let mut rtt = Rtt { backoff: 1, ..Rtt::default() };
        rtt.after_lost_syn();
        assert_eq!(rtt.timeout(), Duration::from_secs(3));
    }
}

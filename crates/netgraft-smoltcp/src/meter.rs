//! Round trips and repetitions of a connection, measured from outside: smoltcp keeps its own to itself.

use std::time::Duration;

use netgraft_plugin::Instant;

/// Bounds of the time-out (RFC 6298 section 2, and smoltcp's own).
const RTO: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// What the time-out is above the round trip at least, as in smoltcp.
const MARGIN: Duration = Duration::from_millis(5);

/// What was measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    /// The sequence number behind all that was sent.
    end: Option<u32>,
    /// A segment's end and when it was sent, until it is acknowledged.
    sample: Option<(u32, Instant)>,
    /// Smoothed round trip and its variation.
    smooth: Option<(Duration, Duration)>,
    /// Segments sent again.
    pub(crate) repeated: u32,
}

impl Meter {
    /// Notes a segment from `seq` on that takes `len` sequence numbers. `probe` says that it may only ask whether
    /// the peer is there.
    pub(crate) fn sent(&mut self, seq: u32, len: u32, probe: bool, now: Instant) {
        let to = seq.wrapping_add(len);
        let new = self.end.is_none_or(|end| (to.wrapping_sub(end) as i32) > 0);
        match (len, new) {
            (0, _) => {}
            (_, true) => {
                self.end = Some(to);
                self.sample = self.sample.or(Some((to, now)));
            }
            (_, false) => {
                // Karn: nobody knows which of the two an acknowledgement is for.
                self.sample = None;
                self.repeated = self.repeated.saturating_add(u32::from(!probe));
            }
        }
    }

    /// Notes an acknowledgement (RFC 6298 section 2).
    pub(crate) fn acknowledged(&mut self, ack: u32, now: Instant) {
        let Some((to, at)) = self.sample else { return };
        // What acknowledges more than was sent is none.
        let valid = self.end.is_some_and(|end| end.wrapping_sub(ack) as i32 >= 0);
        if !valid || (ack.wrapping_sub(to) as i32) < 0 {
            return;
        }
        self.sample = None;
        let took = now.since(at);
        self.smooth = Some(match self.smooth {
            None => (took, took / 2),
            Some((mean, variation)) => ((mean * 7 + took) / 8, (variation * 3 + mean.abs_diff(took)) / 4),
        });
    }

    /// Smoothed round trip, its variation, and the time-out that follows from them.
    pub(crate) fn times(&self) -> (Duration, Duration, Duration) {
        let Some((mean, variation)) = self.smooth else { return (Duration::ZERO, Duration::ZERO, RTO.0) };
        (mean, variation, (mean + MARGIN.max(variation * 4)).clamp(RTO.0, RTO.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_smoothed_and_repetitions_counted() {
        let at = Instant::from_millis;
        let mut meter = Meter::default();
        assert_eq!(meter.times(), (Duration::ZERO, Duration::ZERO, RTO.0));
        let start = u32::MAX - 5;
        meter.sent(start, 1, false, at(0));
        meter.acknowledged(start.wrapping_add(1), at(400));
        let ms = Duration::from_millis;
        assert_eq!(meter.times(), (ms(400), ms(200), ms(1200)));
        // Of two segments the first is timed; what is acknowledged without being sent is ignored.
        meter.sent(start.wrapping_add(1), 10, false, at(1000));
        meter.sent(start.wrapping_add(11), 10, false, at(1100));
        meter.acknowledged(start.wrapping_add(500), at(1100));
        meter.acknowledged(start.wrapping_add(1), at(1100));
        meter.acknowledged(start.wrapping_add(21), at(1800));
        assert_eq!(meter.times(), (Duration::from_micros(450_000), ms(250), ms(1450)));
        // A repeated one is counted and not timed, a probe not even counted.
        meter.sent(start.wrapping_add(21), 10, false, at(2000));
        meter.sent(start.wrapping_add(21), 10, false, at(3000));
        meter.sent(start.wrapping_add(20), 1, true, at(3000));
        meter.sent(start.wrapping_add(31), 0, false, at(3000));
        meter.acknowledged(start.wrapping_add(31), at(3001));
        assert_eq!((meter.times().0, meter.repeated), (ms(450), 1));
    }
}

//! HyStart++: slow start that ends before the path overflows. Read RFC 9406 section 4.2 first.

use std::time::Duration;

/// "MIN_RTT_THRESH = 4 msec, MAX_RTT_THRESH = 16 msec, MIN_RTT_DIVISOR = 8, N_RTT_SAMPLE = 8,
/// CSS_GROWTH_DIVISOR = 4, CSS_ROUNDS = 5" (section 4.3).
const THRESHOLD: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(16));
const DIVISOR: u32 = 8;
const SAMPLES: u8 = 8;
pub(crate) const SLOWER: u64 = 4;
const ROUNDS: u8 = 5;

/// What to do with an acknowledgement in slow start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// Grow by all that was acknowledged.
    Full,
    /// Conservative slow start: grow by a quarter of it.
    Slow,
    /// Slow start is over.
    End,
}

/// The rounds of slow start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HyStart {
    /// The position with which the round ends.
    round_end: u64,
    /// The shortest round trip of the last round and of this one.
    last: Option<Duration>,
    current: Option<Duration>,
    samples: u8,
    /// In conservative slow start: the round trip as it began, and rounds since.
    conservative: Option<(Duration, u8)>,
}

impl HyStart {
    /// Notes an acknowledgement of data up to the first of `positions`; the second is the next that will be sent.
    pub(crate) fn acknowledged(&mut self, rtt: Option<Duration>, positions: (u64, u64)) -> Growth {
        if let Some(rtt) = rtt {
            self.current = Some(self.current.map_or(rtt, |least| least.min(rtt)));
            self.samples = self.samples.saturating_add(1);
        }
        let enough = self.samples >= SAMPLES;
        match (self.conservative, self.last, self.current) {
            (None, Some(last), Some(current)) if enough => {
                // "RttThresh = max(MIN_RTT_THRESH, min(lastRoundMinRTT / MIN_RTT_DIVISOR, MAX_RTT_THRESH))"
                let threshold = (last / DIVISOR).clamp(THRESHOLD.0, THRESHOLD.1);
                if current >= last + threshold {
                    self.conservative = Some((current, 0));
                }
            }
            // "If currentRoundMinRTT < cssBaselineMinRtt: cssBaselineMinRtt = infinity, resume slow start".
            (Some((baseline, _)), _, Some(current)) if enough && current < baseline => {
                self.conservative = None
            }
            _ => {}
        }
        if positions.0 >= self.round_end {
            self.round_end = positions.1;
            self.last = self.current.or(self.last);
            self.current = None;
            self.samples = 0;
            if let Some((_, rounds)) = &mut self.conservative {
                *rounds += 1;
                if *rounds >= ROUNDS {
                    return Growth::End;
                }
            }
        }
        if self.conservative.is_some() { Growth::Slow } else { Growth::Full }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_round_trip_slows_down_and_then_ends() {
        let mut start = HyStart::default();
        let mut position = 0;
        let mut round = |rtt: u64| {
            let mut last = Growth::Full;
            for _ in 0..10 {
                position += 1;
                last = start.acknowledged(Some(Duration::from_millis(rtt)), (position, position + 10));
                if last == Growth::End {
                    break;
                }
            }
            last
        };
        assert_eq!([round(40), round(40), round(44)], [Growth::Full; 3]);
        // An eighth more than the last round's.
        assert_eq!(round(50), Growth::Slow);
        assert_eq!(round(50), Growth::Slow);
        // Not as long as it seemed.
        assert_eq!(round(42), Growth::Full);
        let growths: Vec<Growth> = (0..8).map(|_| round(60)).collect();
        assert!(growths.contains(&Growth::End), "{growths:?}");
    }
}

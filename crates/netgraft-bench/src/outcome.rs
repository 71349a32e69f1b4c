//! The result of one run of one workload, which a client prints as one line of JSON.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What one run measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Operations per second, or Gbit per second: see `unit`.
    pub(crate) rate: f64,
    /// What `rate` counts, for instance `requests/s`.
    pub(crate) unit: String,
    /// Requests, connections or calls that were counted; bytes for a bulk transfer.
    pub(crate) operations: u64,
    /// How long the counting went on, in seconds, without the warm-up.
    pub(crate) seconds: f64,
    /// Of one operation; absent where there is none, as in a bulk transfer.
    pub(crate) latency: Option<Latency>,
    /// Datagrams that were given up for lost. Nothing else is allowed to get lost.
    pub(crate) lost: u64,
}

/// Latency of an operation, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    /// Not every tool reports this one.
    pub(crate) p90: Option<f64>,
    pub(crate) p99: f64,
    /// Not every tool reports this one.
    pub(crate) p999: Option<f64>,
    pub(crate) max: f64,
}

/// The longest latency that is told from longer ones, in nanoseconds: a minute.
const LONGEST: u64 = 60_000_000_000;

/// Whether a closed loop goes on after an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Start another one.
    Go,
    /// The time or the count is used up.
    Stop,
}

/// The bounds of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// How long to count, the warm-up of a tenth of that not included.
    pub(crate) time: Duration,
    /// How many operations (bytes, for a bulk transfer) to make at most.
    pub(crate) count: u64,
}

/// Counts operations between the end of a warm-up and the end of a run.
pub(crate) struct Meter {
    from: Instant,
    until: Instant,
    last: Instant,
    left: u64,
    counted: u64,
    lost: u64,
    latency: Histogram<u64>,
}

impl Meter {
    /// A meter for a run that begins `now`: a tenth of the time is warm-up and comes on top.
    pub(crate) fn new(now: Instant, bounds: Bounds) -> Self {
        let from = now + bounds.time / 10;
        #[expect(
            clippy::expect_used,
            reason = "the bounds and the precision are constants that hdrhistogram takes"
        )]
        let latency = Histogram::new_with_bounds(1, LONGEST, 3).expect("valid bounds");
        Self { from, until: from + bounds.time, last: from, left: bounds.count, counted: 0, lost: 0, latency }
    }

    /// When the run ends.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Counts `count` operations that began at `began` and ended `now`.
    pub(crate) fn record(&mut self, began: Instant, now: Instant, count: u64) -> Next {
        self.left = self.left.saturating_sub(count);
        if now >= self.until {
            return Next::Stop;
        }
        if now >= self.from {
            self.counted += count;
            self.last = now;
            let nanoseconds = u64::try_from((now - began).as_nanos()).unwrap_or(u64::MAX);
            self.latency.saturating_record_n(nanoseconds, count);
        }
        if self.left == 0 { Next::Stop } else { Next::Go }
    }

    /// Counts a datagram that was given up for lost.
    pub(crate) fn lose(&mut self) {
        self.lost += 1;
    }

    /// The outcome, or `None` if nothing was counted.
    pub(crate) fn finish(self, unit: &str) -> Option<Outcome> {
        // A run that used up its count ended before its time.
        let end = if self.left == 0 { self.last } else { self.until };
        let seconds = (end - self.from).as_secs_f64();
        if self.counted == 0 || seconds <= 0.0 {
            return None;
        }
        let at = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        Some(Outcome {
            rate: self.counted as f64 / seconds,
            unit: unit.to_owned(),
            operations: self.counted,
            seconds,
            latency: Some(Latency {
                p50: at(0.5),
                p90: Some(at(0.9)),
                p99: at(0.99),
                p999: Some(at(0.999)),
                max: self.latency.max() as f64 / 1000.0,
            }),
            lost: self.lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_warm_up_is_not_counted_and_the_end_is_kept() {
        let start = Instant::now();
        let mut meter = Meter::new(start, Bounds { time: SECOND, count: 1000 });
        assert_eq!(meter.record(start, start + 50 * MS, 1), Next::Go);
        assert_eq!(meter.record(start + 100 * MS, start + 102 * MS, 4), Next::Go);
        assert_eq!(meter.record(start + 1000 * MS, start + 1100 * MS, 1), Next::Stop);
        let outcome = meter.finish("requests/s").unwrap();
        assert_eq!((outcome.operations, outcome.seconds, outcome.rate), (4, 1.0, 4.0));
        let latency = outcome.latency.unwrap();
        assert!((1990.0..2010.0).contains(&latency.p50), "{latency:?}");
    }

    #[test]
    fn the_count_bounds_a_run() {
        let start = Instant::now();
        let mut meter = Meter::new(start, Bounds { time: SECOND, count: 2 });
        assert_eq!(meter.record(start, start + 200 * MS, 1), Next::Go);
        assert_eq!(meter.record(start, start + 600 * MS, 1), Next::Stop);
        let outcome = meter.finish("requests/s").unwrap();
        assert_eq!((outcome.operations, outcome.seconds), (2, 0.5));
    }

    #[test]
    fn nothing_counted_is_no_figure() {
        let start = Instant::now();
        assert_eq!(Meter::new(start, Bounds { time: SECOND, count: 2 }).finish("requests/s"), None);
    }
}

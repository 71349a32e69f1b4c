//! CUBIC. Read RFC 9438 section 4 first; slow start is that of `hystart`.

use std::time::Duration;

use crate::congestion::{Acknowledged, Congestion, Control, Window, restart};
use crate::hystart::{Growth, HyStart, SLOWER};
use crate::time::Instant;

/// "C SHOULD be set to 0.4" (section 5), in segments per cubic second.
const C: f64 = 0.4;
/// "beta_cubic SHOULD be set to 0.7" (section 4.6).
const BETA: f64 = 0.7;
/// "alpha_cubic = 3 * (1 - beta_cubic) / (1 + beta_cubic)" (section 4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// The current stage of congestion avoidance.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    began: Instant,
    /// Seconds until the window is at its plateau.
    k: f64,
    /// The window as Reno would have it, in segments.
    estimate: f64,
    /// The last acknowledgement of the stage.
    last: Instant,
}

/// What CUBIC remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cubic {
    start: HyStart,
    /// The window before the last reduction, in segments, with fast convergence, and without.
    plateau: f64,
    prior: f64,
    epoch: Option<Epoch>,
    /// Bytes that came out of order, for which the window grows once what was late has come.
    early: u64,
    /// Growth that is not a whole byte yet.
    rest: f64,
    /// `plateau`, `prior` and `epoch` before the last reduction.
    before: Option<Box<(f64, f64, Option<Epoch>)>>,
}

impl Cubic {
    fn avoid(&mut self, window: &mut Window, ack: &Acknowledged, bytes: u64) {
        let mss = window.mss as f64;
        let current = window.congestion as f64 / mss;
        let epoch = self.epoch.get_or_insert_with(|| {
            // "K is the time period [...] K = cubic_root((W_max - cwnd_epoch) / C)" (section 4.2).
            let k = if current < self.plateau { ((self.plateau - current) / C).cbrt() } else { 0.0 };
            self.plateau = self.plateau.max(current);
            Epoch { began: ack.now, k, estimate: current, last: ack.now }
        });
        epoch.last = ack.now;
        let (k, plateau) = (epoch.k, self.plateau);
        let cubic = |t: f64| C * (t - k).powi(3) + plateau;
        let elapsed = ack.now.since(epoch.began).as_secs_f64();
        // "target = W_cubic(t + RTT)", not below cwnd and not above one and a half of it (section 4.2).
        let target = cubic(elapsed + ack.smoothed.as_secs_f64()).clamp(current, 1.5 * current);
        // "W_est = W_est + alpha_cubic * segments_acked / cwnd", and with alpha of 1 once it has reached the window
        // before the reduction (section 4.3).
        let alpha = if epoch.estimate < self.prior { ALPHA } else { 1.0 };
        let segments = bytes as f64 / mss;
        epoch.estimate += alpha * segments / current;
        let next = if cubic(elapsed) < epoch.estimate {
            current.max(epoch.estimate)
        } else {
            // "cwnd SHOULD be incremented by (target - cwnd) / cwnd for each received new acknowledgment" of a segment.
            current + (target - current) / current * segments
        };
        let grow = (next - current) * mss + self.rest;
        self.rest = grow.fract();
        window.congestion += grow as u64;
    }
}

impl Control for Cubic {
    fn acknowledged(&mut self, window: &mut Window, ack: &Acknowledged) {
        if ack.recovering {
            return;
        }
        if ack.advanced == 0 {
            // Out of order: lost or late, which is not known yet.
            self.early += ack.delivered;
            return;
        }
        let early = std::mem::take(&mut self.early);
        if !ack.limited {
            // Time in which the window could not be used must not count (section 4.2, last paragraph).
            if let Some(epoch) = &mut self.epoch {
                epoch.began = epoch.began + ack.now.since(epoch.last);
                epoch.last = ack.now;
            }
            return;
        }
        let mut bytes = ack.delivered + early;
        if window.in_slow_start() {
            let growth = self.start.acknowledged(ack.rtt, ack.positions);
            let wanted = match growth {
                Growth::Full => bytes,
                Growth::Slow => bytes / SLOWER,
                Growth::End => 0,
            };
            let grow = wanted.min(window.threshold - window.congestion);
            window.congestion += grow;
            if growth == Growth::End {
                window.threshold = window.congestion;
            }
            if window.in_slow_start() {
                return;
            }
            bytes = bytes.saturating_sub(grow);
        }
        self.avoid(window, ack, bytes);
    }

    fn congested(&mut self, window: &mut Window, what: Congestion, _in_flight: u64, _now: Instant) {
        self.before = Some(Box::new((self.plateau, self.prior, self.epoch)));
        let current = window.congestion as f64 / window.mss as f64;
        // Fast convergence: "If W_max < cwnd_prior [...] further reduce W_max = cwnd * (1 + beta_cubic) / 2"
        // (section 4.7).
        self.plateau = if current < self.plateau { current * (1.0 + BETA) / 2.0 } else { current };
        self.prior = current;
        self.epoch = None;
        self.early = 0;
        // "ssthresh = max(flight_size * beta_cubic, 2)" (section 4.6). As Linux, it takes the window for the flight
        // size; `limited` keeps the window from growing above that.
        let reduced = (window.congestion as f64 * BETA) as u64;
        window.threshold = reduced.max(2 * window.mss);
        if what == Congestion::Timeout {
            window.congestion = window.mss;
            self.start = HyStart::default();
        }
    }

    fn undone(&mut self, _window: &mut Window) {
        if let Some(before) = self.before.take() {
            (self.plateau, self.prior, self.epoch) = *before;
        }
    }

    fn release_idle_memory(&mut self) {
        self.before = None;
    }

    fn resumed(&mut self, window: &mut Window, idle: Duration, timeout: Duration) {
        if let Some(epoch) = &mut self.epoch {
            epoch.began = epoch.began + idle;
        }
        restart(window, idle, timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::RateSample;

    fn ack(now: Instant, delivered: u64) -> Acknowledged {
        let rtt = Duration::from_millis(100);
        Acknowledged {
            now,
            delivered,
            advanced: delivered,
            lost: 0,
            rtt: Some(rtt),
            smoothed: rtt,
            least: Some(rtt),
            in_flight: (0, 0),
            limited: true,
            recovering: false,
            total: 0,
            positions: (0, 1 << 40),
            sample: RateSample::default(),
        }
    }

    #[test]
    fn the_window_comes_back_to_the_plateau_after_k_seconds() {
        let mss = 1000;
        let mut window = Window { congestion: 1000 * mss, threshold: 1, mss, pacing: None };
        let mut cubic = Cubic::default();
        cubic.congested(&mut window, Congestion::Loss, 0, Instant::ZERO);
        assert_eq!(window.threshold, 700 * mss);
        window.congestion = window.threshold;
        // K = cbrt(1000 * 0.3 / 0.4) = 9.09 s.
        let mut at = |from: u64, to: u64, window: &mut Window| {
            for ms in (from..to).step_by(10) {
                let delivered = window.congestion / 10;
                cubic.acknowledged(window, &ack(Instant::from_millis(ms), delivered));
            }
            window.congestion / mss
        };
        let half = at(0, 4500, &mut window);
        assert!((960..985).contains(&half), "{half}: steep at first, then flat");
        let plateau = at(4500, 9090, &mut window);
        assert!((990..=1005).contains(&plateau), "{plateau}");
        let beyond = at(9090, 14_000, &mut window);
        assert!((1035..1075).contains(&beyond), "{beyond}: it looks for more");
    }

    #[test]
    fn small_windows_grow_as_reno_does() {
        let mss = 1000;
        let mut window = Window { congestion: 10 * mss, threshold: 1, mss, pacing: None };
        let mut cubic = Cubic::default();
        cubic.congested(&mut window, Congestion::Loss, 0, Instant::ZERO);
        window.congestion = window.threshold;
        // Ten round trips of 100 ms: alpha is 0.53 until the window is at its old size.
        for round in 0..10u64 {
            let delivered = window.congestion;
            cubic.acknowledged(&mut window, &ack(Instant::from_millis(round * 100), delivered));
        }
        let segments = window.congestion / mss;
        assert!((12..=14).contains(&segments), "{segments}");
    }

    #[test]
    fn a_mistake_is_undone() {
        let mut window = Window { congestion: 100_000, threshold: 50_000, mss: 1000, pacing: None };
        let mut cubic = Cubic { plateau: 90.0, prior: 90.0, ..Cubic::default() };
        cubic.congested(&mut window, Congestion::Timeout, 0, Instant::ZERO);
        assert_eq!((window.congestion, window.threshold), (1000, 70_000));
        cubic.undone(&mut window);
        assert_eq!((cubic.plateau, cubic.prior), (90.0, 90.0));
    }
}

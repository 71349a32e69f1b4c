//! BBR, version 3: the window and the pace follow a model of the path, its bandwidth and its shortest round trip. Read
//! draft-ietf-ccwg-bbr sections 2 (terms), 3 (overview) and 5 (the algorithm) first; names are those of section 2 without
//! the prefix. `bbr_model` has what is measured, this file what is done with it.

use std::time::Duration;

use crate::bbr_model::{MIN_RTT_FILTER, Model, is_much};
use crate::congestion::{Acknowledged, Congestion, Control, Window, initial};
use crate::time::Instant;

/// "BBR.StartupPacingGain = 2.77", "BBR.DrainPacingGain = 0.5": here the inverse of the startup gain, as in Linux.
const STARTUP: f64 = 2.77;
const DRAIN: f64 = 0.35;
/// "BBR.PacingMarginPercent = 1".
const MARGIN: f64 = 0.99;
/// "BBR.ProbeRTTDuration = 200 milliseconds", "BBR.ProbeRTTInterval = 5 seconds", "BBR.ProbeRTTCwndGain = 0.5".
const PROBE_RTT: Duration = Duration::from_millis(200);
const PROBE_RTT_INTERVAL: Duration = Duration::from_secs(5);
const PROBE_RTT_GAIN: f64 = 0.5;
/// "BBR.Beta = 0.7", "BBR.Headroom = 0.15".
const BETA: f64 = 0.7;
const HEADROOM: f64 = 0.15;
/// "BBR.StartupFullLossCnt = 6" in segments; "BBR.MinPipeCwnd = 4 * SMSS".
const FULL_LOSS: u64 = 6;
const LEAST: u64 = 4;

/// The states of section 3.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Startup,
    Drain,
    Down,
    Cruise,
    Refill,
    Up,
    /// Until when, once the window is small; and how many bytes will have been delivered by then.
    ProbeRtt(Option<(Instant, u64)>),
}

/// The algorithm.
#[derive(Debug)]
pub(crate) struct Bbr {
    mode: Mode,
    model: Model,
    /// When the phase of probing began, and after which time and how many rounds it is time to probe again.
    cycle_at: Instant,
    wait: Duration,
    rounds_since_probe: u64,
    /// Whether samples may say that the probe was too much ("bw_probe_samples").
    probing: bool,
    /// Growth of the upper bound: rounds of it, bytes acknowledged, and bytes for each step.
    up: (u32, u64, u64),
    /// When the shortest round trip is to be looked for again.
    rtt_probed: Instant,
    /// The window before a recovery or a look for the shortest round trip.
    prior: u64,
    /// Losses of this round of startup, in bytes.
    round_lost: u64,
}

impl Bbr {
    pub(crate) fn new(window: &mut Window, now: Instant) -> Self {
        let bbr = Bbr {
            mode: Mode::Startup,
            model: Model::default(),
            cycle_at: now,
            wait: Duration::from_secs(2),
            rounds_since_probe: 0,
            probing: false,
            up: (0, 0, u64::MAX),
            rtt_probed: now,
            prior: 0,
            round_lost: 0,
        };
        // "BBRInitPacingRate: nominal_bandwidth = InitialCwnd / (SRTT ? SRTT : 1ms)".
        window.pacing = Some((STARTUP * window.congestion as f64 * 1000.0) as u64);
        bbr
    }

    fn gains(&self) -> (f64, f64) {
        // Pacing and window, section 5.6.
        match self.mode {
            Mode::Startup => (STARTUP, 2.0),
            Mode::Drain => (DRAIN, 2.0),
            Mode::Down => (0.9, 2.0),
            Mode::Cruise | Mode::Refill => (1.0, 2.0),
            Mode::Up => (1.25, 2.25),
            Mode::ProbeRtt(_) => (1.0, PROBE_RTT_GAIN),
        }
    }

    fn is_probing_bandwidth(&self) -> bool {
        matches!(self.mode, Mode::Down | Mode::Cruise | Mode::Refill | Mode::Up)
    }

    /// "BBRInflight": what the path holds at a gain, rounded up to what leaves as one.
    fn inflight(&self, gain: f64, mss: u64) -> u64 {
        let bdp = self.model.product(gain);
        let budget = if self.mode == Mode::Up { bdp + 2 * mss } else { bdp };
        budget.max(LEAST * mss)
    }

    /// "BBRInflightWithHeadroom".
    fn with_headroom(&self, mss: u64) -> u64 {
        match self.model.inflight_high {
            u64::MAX => u64::MAX,
            high => high.saturating_sub(((high as f64 * HEADROOM) as u64).max(mss)).max(LEAST * mss),
        }
    }

    /// "BBRCheckStartupDone", section 5.3.1.
    fn startup(&mut self, window: &Window, ack: &Acknowledged) {
        if self.mode != Mode::Startup {
            return;
        }
        self.round_lost += ack.lost;
        self.model.look_for_plateau(ack);
        if self.model.round_start {
            // "BBRCheckStartupHighLoss"; but a path whose bandwidth still grows is not full, whatever it loses.
            let all = ack.sample.delivered + self.round_lost;
            let high =
                is_much(self.round_lost, all, window.mss, 0.0) && self.round_lost >= FULL_LOSS * window.mss;
            if high && ack.recovering && self.model.has_stopped_growing() {
                self.model.full = true;
                self.model.inflight_high = self.model.product(1.0).max(self.model.inflight_latest);
            }
            self.round_lost = 0;
        }
        if self.model.full {
            self.mode = Mode::Drain;
        }
    }

    fn drain(&mut self, window: &Window, ack: &Acknowledged) {
        if self.mode == Mode::Drain && ack.in_flight.1 <= self.inflight(1.0, window.mss) {
            self.go_down(ack);
        }
    }

    /// "BBRStartProbeBW_DOWN", section 5.3.3.
    fn go_down(&mut self, ack: &Acknowledged) {
        self.model.reset_latest();
        self.up = (0, 0, u64::MAX);
        // "BBRPickProbeWait": 2 to 3 seconds, apart from those of others. The count of delivered bytes is as good as a random
        // number here, where nobody gains by knowing it.
        let spread = ack.total.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        self.wait = Duration::from_millis(2000 + spread);
        self.rounds_since_probe = spread & 1;
        self.cycle_at = ack.now;
        self.model.start_round(ack.total);
        self.mode = Mode::Down;
    }

    /// "BBRUpdateProbeBWCyclePhase", section 5.3.3.6.
    fn cycle(&mut self, window: &Window, ack: &Acknowledged) {
        if !self.model.full || !self.is_probing_bandwidth() {
            return;
        }
        self.adapt_upper_bound(window, ack);
        if self.model.round_start {
            self.rounds_since_probe += 1;
        }
        let mss = window.mss;
        match self.mode {
            Mode::Down | Mode::Cruise if self.is_time_to_probe(window, ack.now) => {
                // "BBRStartProbeBW_REFILL".
                self.model.reset_lower_bounds();
                self.up = (0, 0, u64::MAX);
                self.model.start_round(ack.total);
                self.mode = Mode::Refill;
            }
            Mode::Down => {
                let drained = ack.in_flight.1 <= self.with_headroom(mss);
                if drained && ack.in_flight.1 <= self.inflight(1.0, mss) {
                    self.mode = Mode::Cruise;
                }
            }
            Mode::Refill if self.model.round_start => {
                self.probing = true;
                self.cycle_at = ack.now;
                self.model.start_round(ack.total);
                self.model.reset_plateau();
                self.raise_slope(window);
                self.mode = Mode::Up;
            }
            Mode::Up => {
                // "BBRIsTimeToGoDown": what the bound holds back is no plateau.
                let bounded = ack.limited && window.congestion >= self.model.inflight_high;
                if bounded {
                    self.model.restart_plateau(ack);
                } else {
                    self.model.look_for_plateau(ack);
                }
                if self.model.plateau {
                    self.finish_probe(ack);
                }
            }
            _ => {}
        }
    }

    /// The bandwidth of this probe is kept for two cycles.
    fn finish_probe(&mut self, ack: &Acknowledged) {
        self.model.advance_filter();
        self.go_down(ack);
    }

    fn is_time_to_probe(&self, window: &Window, now: Instant) -> bool {
        // "BBRIsRenoCoexistenceProbeTime": as many rounds as Reno takes to fill the same window, 63 at most.
        let rounds = (self.inflight(1.0, window.mss) / window.mss.max(1)).min(63);
        now.since(self.cycle_at) > self.wait || self.rounds_since_probe >= rounds
    }

    /// "BBRAdaptUpperBounds", section 5.5.9.
    fn adapt_upper_bound(&mut self, window: &Window, ack: &Acknowledged) {
        if self.is_too_much(window, ack) {
            return;
        }
        if self.model.inflight_high == u64::MAX {
            return;
        }
        if ack.sample.in_flight > self.model.inflight_high {
            self.model.inflight_high = ack.sample.in_flight;
        }
        if self.mode == Mode::Up {
            self.probe_upward(window, ack);
        }
    }

    /// "BBRIsInflightTooHigh", and what follows from it.
    fn is_too_much(&mut self, window: &Window, ack: &Acknowledged) -> bool {
        let sample = &ack.sample;
        if !is_much(sample.lost, sample.in_flight, window.mss, self.model.background) || sample.in_flight == 0
        {
            return false;
        }
        if self.probing {
            self.probing = false;
            if !sample.app_limited {
                let target = self.model.product(1.0).min(self.prior.max(self.model.product(1.0)));
                self.model.inflight_high = sample.in_flight.max((target as f64 * BETA) as u64);
            }
            if self.mode == Mode::Up {
                self.finish_probe(ack);
            }
        }
        true
    }

    /// "BBRRaiseInflightLongtermSlope".
    fn raise_slope(&mut self, window: &Window) {
        let growth = window.mss << self.up.0;
        self.up.0 = (self.up.0 + 1).min(30);
        self.up.2 = (window.congestion / growth.max(1)).max(1) * window.mss;
    }

    /// "BBRProbeInflightLongtermUpward".
    fn probe_upward(&mut self, window: &Window, ack: &Acknowledged) {
        if !ack.limited || window.congestion < self.model.inflight_high {
            return;
        }
        self.up.1 += ack.delivered;
        if self.up.1 >= self.up.2 {
            let steps = self.up.1 / self.up.2;
            self.up.1 -= steps * self.up.2;
            self.model.inflight_high += steps * window.mss;
        }
        if self.model.round_start {
            self.raise_slope(window);
        }
    }

    /// "BBRCheckProbeRTT", section 5.3.4.
    fn probe_rtt(&mut self, window: &mut Window, ack: &Acknowledged) {
        let due = ack.now.since(self.rtt_probed) > PROBE_RTT_INTERVAL;
        if let Some(rtt) = ack.rtt
            && (rtt <= self.model.probe_rtt || due)
        {
            self.model.probe_rtt = rtt;
            self.rtt_probed = ack.now;
        }
        self.model.update_min_rtt(ack.now);
        let target = self.inflight(PROBE_RTT_GAIN, window.mss);
        match self.mode {
            Mode::ProbeRtt(None) if ack.in_flight.1 <= target => {
                self.mode = Mode::ProbeRtt(Some((ack.now + PROBE_RTT, ack.total)));
                self.model.start_round(ack.total);
            }
            // "BBRExitProbeRTT".
            Mode::ProbeRtt(Some((until, begun)))
                if ack.now >= until && ack.sample.prior_delivered >= begun =>
            {
                self.rtt_probed = ack.now;
                window.congestion = window.congestion.max(self.prior);
                if self.model.full {
                    self.model.reset_lower_bounds();
                    self.go_down(ack);
                    self.mode = Mode::Cruise;
                } else {
                    self.mode = Mode::Startup;
                }
            }
            Mode::ProbeRtt(_) => {}
            _ if due && ack.limited => {
                self.prior = window.congestion.max(self.prior);
                self.mode = Mode::ProbeRtt(None);
            }
            _ => {}
        }
    }

    /// "BBRSetPacingRate", section 5.6.2.
    fn set_pace(&mut self, window: &mut Window) {
        let rate = (self.gains().0 * self.model.bandwidth() as f64 * MARGIN) as u64;
        if rate > 0 && (self.model.full || window.pacing.is_none_or(|old| rate > old)) {
            window.pacing = Some(rate);
        }
    }

    /// "BBRSetCwnd", section 5.6.4.
    fn set_window(&mut self, window: &mut Window, ack: &Acknowledged) {
        let mss = window.mss;
        let most = self.inflight(self.gains().1, mss) + self.model.extra();
        if self.model.full {
            window.congestion = (window.congestion + ack.delivered).min(most);
        } else if window.congestion < most || ack.total < initial(mss) {
            window.congestion += ack.delivered;
        }
        window.congestion = window.congestion.max(LEAST * mss);
        if let Mode::ProbeRtt(_) = self.mode {
            window.congestion = window.congestion.min(self.inflight(PROBE_RTT_GAIN, mss));
        }
        // "BBRBoundCwndForModel".
        let cap = match self.mode {
            Mode::Down | Mode::Refill | Mode::Up => self.model.inflight_high,
            Mode::Cruise | Mode::ProbeRtt(_) => self.with_headroom(mss),
            Mode::Startup | Mode::Drain => u64::MAX,
        };
        window.congestion = window.congestion.min(cap.min(self.model.inflight_low).max(LEAST * mss));
    }
}

impl Control for Bbr {
    fn acknowledged(&mut self, window: &mut Window, ack: &Acknowledged) {
        let lowers = !matches!(self.mode, Mode::Startup | Mode::Refill | Mode::Up);
        self.model.update(window, ack, lowers);
        if matches!(self.mode, Mode::Down | Mode::Cruise) && self.probing && self.model.round_start {
            self.probing = false;
        }
        self.startup(window, ack);
        self.drain(window, ack);
        self.cycle(window, ack);
        self.probe_rtt(window, ack);
        self.set_pace(window);
        self.set_window(window, ack);
    }

    fn congested(&mut self, window: &mut Window, what: Congestion, _in_flight: u64, _now: Instant) {
        self.prior = self.prior.max(window.congestion);
        window.threshold = u64::MAX;
        if what == Congestion::Timeout {
            // "BBROnEnterRTO: cwnd = C.inflight + 1": everything counts as lost.
            window.congestion = window.mss;
        }
    }

    fn undone(&mut self, window: &mut Window) {
        window.congestion = window.congestion.max(self.prior);
        self.model.reset_lower_bounds();
    }

    fn recovered(&mut self, window: &mut Window) {
        window.congestion = window.congestion.max(self.prior);
        self.prior = 0;
    }

    fn resumed(&mut self, window: &mut Window, _idle: Duration, _timeout: Duration) {
        // "BBRHandleRestartFromIdle": the model holds; only the pace keeps a burst from leaving.
        if self.is_probing_bandwidth() {
            window.pacing = Some((self.model.bandwidth() as f64 * MARGIN) as u64).filter(|rate| *rate > 0);
        }
    }

    fn rules_recovery(&self) -> bool {
        true
    }
}

const _: () = assert!(MIN_RTT_FILTER.as_secs() == 10);

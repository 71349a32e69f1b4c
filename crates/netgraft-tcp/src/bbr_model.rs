//! What BBR measures of a path. Read draft-ietf-ccwg-bbr sections 5.5.1 to 5.5.10 first.

use std::time::Duration;

use crate::congestion::{Acknowledged, Window};
use crate::time::Instant;

/// "BBR.MinRTTFilterLen = 10 secs".
pub(crate) const MIN_RTT_FILTER: Duration = Duration::from_secs(10);
/// "BBR.ExtraAckedFilterLen = 10" rounds, here two halves of five.
const EXTRA_ROUNDS: u64 = 5;
/// "BBR.StartupFullBwThresh = 1.25" for "BBR.StartupFullBwCnt = 3" rounds.
const GROWTH: f64 = 1.25;
const ROUNDS: u8 = 3;
/// "BBR.Beta = 0.7".
const BETA: f64 = 0.7;
/// "BBR.LossThresh: the maximum tolerated per-round-trip packet loss rate". The draft's default is 2 %; a path that loses 3 %
/// by itself, as radio does, is to be used, too.
const LOSS: f64 = 0.05;

/// The largest share of losses that a path, or others on it, are believed to cause by themselves.
const BACKGROUND: f64 = 0.1;

/// Whether `lost` of so many bytes are more than [`LOSS`] allows beyond the share that is lost anyway. In a few segments a
/// chance loss is a large part: what is above has to be more than twice what chance explains (the deviation of a count is
/// its root).
pub(crate) fn is_much(lost: u64, of: u64, mss: u64, anyway: f64) -> bool {
    let (lost, expected) = (lost as f64 / mss.max(1) as f64, of as f64 / mss.max(1) as f64 * (LOSS + anyway));
    lost > expected + 2.0 * expected.sqrt()
}

/// The model. Bandwidths are bytes per second.
#[derive(Debug)]
pub(crate) struct Model {
    /// The largest bandwidth of this cycle of probing and of the one before.
    max: [u64; 2],
    /// The shortest round trip of ten seconds and when it was measured; and that since the last look for it.
    pub(crate) min_rtt: Duration,
    min_rtt_at: Instant,
    pub(crate) probe_rtt: Duration,
    /// A round ends when this much is delivered. Whether one has begun with this acknowledgement.
    round_end: u64,
    pub(crate) round_start: bool,
    /// Bounds by what losses showed.
    low: u64,
    pub(crate) inflight_low: u64,
    pub(crate) inflight_high: u64,
    /// Best samples of this round.
    latest: u64,
    pub(crate) inflight_latest: u64,
    lost_in_round: u64,
    /// Whether the bandwidth has stopped growing, for good and for now; the level, and rounds at it.
    pub(crate) full: bool,
    pub(crate) plateau: bool,
    level: u64,
    at_level: u8,
    /// Acknowledgements beyond what the bandwidth explains: of these five rounds and of those before; the interval.
    extra: [u64; 2],
    extra_rounds: u64,
    interval: (Instant, u64),
    /// The share of losses while nothing is probed, a mean over some rounds. A probe is too much only for what it adds.
    pub(crate) background: f64,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            max: [0; 2],
            min_rtt: Duration::MAX,
            min_rtt_at: Instant::ZERO,
            probe_rtt: Duration::MAX,
            round_end: 0,
            round_start: false,
            low: u64::MAX,
            inflight_low: u64::MAX,
            inflight_high: u64::MAX,
            latest: 0,
            inflight_latest: 0,
            lost_in_round: 0,
            full: false,
            plateau: false,
            level: 0,
            at_level: 0,
            extra: [0; 2],
            extra_rounds: 0,
            interval: (Instant::ZERO, 0),
            background: 0.0,
        }
    }
}

impl Model {
    /// "BBR.bw": what the path is believed to carry.
    pub(crate) fn bandwidth(&self) -> u64 {
        self.max_bandwidth().min(self.low)
    }

    fn max_bandwidth(&self) -> u64 {
        self.max[0].max(self.max[1])
    }

    /// "BBRBDPMultiple": bandwidth times round trip, times a gain; unbounded before both are known.
    pub(crate) fn product(&self, gain: f64) -> u64 {
        if self.min_rtt == Duration::MAX || self.max_bandwidth() == 0 {
            return 0;
        }
        (self.bandwidth() as f64 * self.min_rtt.as_secs_f64() * gain) as u64
    }

    /// Bytes that acknowledgements in bunches need in flight beyond that (section 5.5.9).
    pub(crate) fn extra(&self) -> u64 {
        if self.full { self.extra[0].max(self.extra[1]) } else { self.extra[0] }
    }

    /// Takes in an acknowledgement. `lowers` says that a loss lowers the lower bounds: no probe is to blame.
    pub(crate) fn update(&mut self, window: &Window, ack: &Acknowledged, lowers: bool) {
        let sample = &ack.sample;
        self.round_start = ack.delivered > 0 && sample.prior_delivered >= self.round_end;
        if self.round_start {
            self.round_end = ack.total;
        }
        self.lost_in_round += ack.lost;
        let Some(rate) = sample.rate() else { return };
        // "BBRUpdateMaxBw": what the sender limited counts only if it is more.
        if rate >= self.max_bandwidth() || !sample.app_limited {
            self.max[0] = self.max[0].max(rate);
        }
        self.latest = self.latest.max(rate);
        self.inflight_latest = self.inflight_latest.max(sample.delivered);
        if self.round_start {
            // "BBRAdaptLowerBoundsFromCongestion" has any loss do so, which leaves little of a path that loses by itself.
            let all = sample.delivered + self.lost_in_round;
            if lowers && is_much(self.lost_in_round, all, window.mss, 0.0) {
                self.lower(window);
            }
            if lowers && all > 0 {
                // No probe is to blame: the path loses by itself, or others fill its queue.
                let share = self.lost_in_round as f64 / all as f64;
                self.background = (self.background * 0.75 + share * 0.25).min(BACKGROUND);
            }
            self.lost_in_round = 0;
            self.latest = rate;
            self.inflight_latest = sample.delivered;
        }
        self.count_extra(window, ack);
    }

    /// "BBRAdaptLowerBoundsFromCongestion".
    fn lower(&mut self, window: &Window) {
        if self.low == u64::MAX {
            self.low = self.max_bandwidth();
        }
        if self.inflight_low == u64::MAX {
            self.inflight_low = window.congestion;
        }
        self.low = self.latest.max((self.low as f64 * BETA) as u64);
        self.inflight_low = self.inflight_latest.max((self.inflight_low as f64 * BETA) as u64);
    }

    /// "BBRResetShortTermModel".
    pub(crate) fn reset_lower_bounds(&mut self) {
        self.low = u64::MAX;
        self.inflight_low = u64::MAX;
    }

    /// "BBRResetCongestionSignals".
    pub(crate) fn reset_latest(&mut self) {
        self.lost_in_round = 0;
        self.latest = 0;
        self.inflight_latest = 0;
    }

    /// "BBRStartRound".
    pub(crate) fn start_round(&mut self, delivered: u64) {
        self.round_end = delivered;
    }

    /// "BBRAdvanceMaxBwFilter".
    pub(crate) fn advance_filter(&mut self) {
        self.max = [0, self.max[0].max(if self.max[0] == 0 { self.max[1] } else { 0 })];
    }

    /// Whether the bandwidth did not grow in the last round.
    pub(crate) fn has_stopped_growing(&self) -> bool {
        self.at_level > 0
    }

    /// "BBRResetFullBW".
    pub(crate) fn reset_plateau(&mut self) {
        self.level = 0;
        self.at_level = 0;
        self.plateau = false;
    }

    /// Begins to look for a plateau at the level of this sample.
    pub(crate) fn restart_plateau(&mut self, ack: &Acknowledged) {
        self.reset_plateau();
        self.level = ack.sample.rate().unwrap_or(0);
    }

    /// "BBRCheckFullBWReached", section 5.3.1.2.
    pub(crate) fn look_for_plateau(&mut self, ack: &Acknowledged) {
        let Some(rate) = ack.sample.rate() else { return };
        if self.plateau || ack.sample.app_limited {
            return;
        }
        // "Still growing?", with each acknowledgement; rounds without are counted.
        if rate as f64 >= self.level as f64 * GROWTH {
            self.level = rate;
            self.at_level = 0;
            return;
        }
        if !self.round_start {
            return;
        }
        self.at_level += 1;
        self.plateau = self.at_level >= ROUNDS;
        self.full |= self.plateau;
    }

    /// "BBRUpdateMinRTT": the shortest of ten seconds is the shortest of the last looks for it.
    pub(crate) fn update_min_rtt(&mut self, now: Instant) {
        if self.probe_rtt <= self.min_rtt || now.since(self.min_rtt_at) > MIN_RTT_FILTER {
            self.min_rtt = self.probe_rtt;
            self.min_rtt_at = now;
        }
    }

    /// "BBRUpdateACKAggregation".
    fn count_extra(&mut self, window: &Window, ack: &Acknowledged) {
        let (began, delivered) = self.interval;
        let expected = self.bandwidth() as f64 * ack.now.since(began).as_secs_f64();
        if delivered as f64 <= expected {
            self.interval = (ack.now, 0);
            self.interval.1 = ack.delivered;
        } else {
            self.interval.1 += ack.delivered;
        }
        if self.round_start {
            self.extra_rounds += 1;
            if self.extra_rounds >= EXTRA_ROUNDS {
                self.extra_rounds = 0;
                self.extra = [0, self.extra[0]];
            }
        }
        let expected = self.bandwidth() as f64 * ack.now.since(self.interval.0).as_secs_f64();
        let extra = (self.interval.1 as f64 - expected).max(0.0) as u64;
        self.extra[0] = self.extra[0].max(extra.min(window.congestion));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chance_loss_is_not_much() {
        // One of ten, two of 40, 33 of 1,000; but 70 of 1,000 are, and six of 20.
        for (lost, of, much) in
            [(1, 10, false), (2, 40, false), (33, 1000, false), (70, 1000, true), (6, 20, true)]
        {
            assert_eq!(is_much(lost * 1448, of * 1448, 1448, 0.0), much, "{lost} of {of}");
        }
    }

    #[test]
    fn the_bandwidth_of_a_probe_holds_for_two_cycles() {
        let mut model = Model { max: [500, 0], ..Model::default() };
        model.advance_filter();
        model.max[0] = 400;
        assert_eq!(model.bandwidth(), 500);
        model.advance_filter();
        assert_eq!(model.bandwidth(), 400);
        model.low = 300;
        model.min_rtt = Duration::from_millis(500);
        assert_eq!(model.product(2.0), 300);
    }
}

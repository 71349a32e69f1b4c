//! A sender with BBR version 1, as kernels have it, for tests of what ours does beside one: packets of one size, an
//! acknowledgement for each, and a path that keeps their order. Written after "BBR: Congestion-Based Congestion Control"
//! (ACM Queue 14, 2016) and draft-cardwell-iccrg-bbr-congestion-control-00, sections 4.1 to 4.3.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use netgraft_tcp::Instant;

const HIGH_GAIN: f64 = 2.885;
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
const ROUNDS_OF_BANDWIDTH: u64 = 10;
const MIN_RTT_FOR: Duration = Duration::from_secs(10);
const PROBE_RTT_FOR: Duration = Duration::from_millis(200);
const LEAST: f64 = 4.0;
/// After so long without an acknowledgement everything counts as lost.
const TIMEOUT: Duration = Duration::from_millis(400);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Startup,
    Drain,
    Probe { phase: usize, since: Instant },
    Rtt { until: Option<Instant> },
}

struct Sent {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
}

pub(crate) struct Version1 {
    mode: Mode,
    next: u64,
    flying: BTreeMap<u64, Sent>,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    /// Packets per second, by round.
    rates: VecDeque<(u64, f64)>,
    round: u64,
    round_end: u64,
    min_rtt: Duration,
    min_rtt_at: Instant,
    /// The level of the bandwidth in startup, and rounds without growth.
    level: (f64, u8),
    window: f64,
    prior: f64,
    /// Where recovery ends, and the round of packet conservation.
    recover: Option<(u64, u64)>,
    /// When the next burst may leave, and what is left of this one.
    pace: Instant,
    burst: u32,
    seed: u64,
}

impl Version1 {
    pub(crate) fn new(seed: u64) -> Version1 {
        Version1 {
            mode: Mode::Startup,
            next: 0,
            flying: BTreeMap::new(),
            delivered: 0,
            delivered_at: Instant::ZERO,
            first_sent: Instant::ZERO,
            rates: VecDeque::new(),
            round: 0,
            round_end: 0,
            min_rtt: Duration::MAX,
            min_rtt_at: Instant::ZERO,
            level: (0.0, 0),
            window: 10.0,
            prior: 10.0,
            recover: None,
            pace: Instant::ZERO,
            burst: 0,
            seed,
        }
    }

    fn bandwidth(&self) -> f64 {
        self.rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max)
    }

    fn gain(&self) -> f64 {
        match self.mode {
            Mode::Startup => HIGH_GAIN,
            Mode::Drain => 1.0 / HIGH_GAIN,
            Mode::Probe { phase, .. } => CYCLE[phase],
            Mode::Rtt { .. } => 1.0,
        }
    }

    /// Packets of a bandwidth-delay product, times a gain.
    fn product(&self, gain: f64) -> f64 {
        if self.min_rtt == Duration::MAX {
            return 10.0;
        }
        // As kernels do: room for three bursts, and for acknowledgements that come in bunches.
        let burst = (self.bandwidth() / 1000.0).max(2.0);
        (self.bandwidth() * self.min_rtt.as_secs_f64() * gain + 6.0 * burst).max(LEAST)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        if (self.flying.len() as f64) < self.window {
            return Some(if self.burst > 0 { Instant::ZERO } else { self.pace });
        }
        self.flying.last_key_value().map(|(_, sent)| sent.at + TIMEOUT)
    }

    /// The number of the packet that leaves now.
    pub(crate) fn transmit(&mut self, now: Instant) -> Option<u64> {
        if self.flying.last_key_value().is_some_and(|(_, sent)| sent.at + TIMEOUT <= now) {
            self.flying.clear();
        }
        if self.flying.len() as f64 >= self.window {
            return None;
        }
        let bandwidth = if self.bandwidth() > 0.0 { self.bandwidth() } else { 1000.0 };
        let rate = bandwidth * self.gain();
        if self.burst == 0 {
            if self.pace > now {
                return None;
            }
            // What is cut by the device leaves at once: two segments, or those of a millisecond.
            self.burst = ((rate / 1000.0) as u32).max(2);
            self.pace = now;
        }
        self.burst -= 1;
        self.pace = self.pace + Duration::from_secs_f64(1.0 / rate);
        if self.flying.is_empty() {
            (self.first_sent, self.delivered_at) = (now, now);
        }
        let (delivered, delivered_at, first_sent) = (self.delivered, self.delivered_at, self.first_sent);
        self.flying.insert(self.next, Sent { at: now, delivered, delivered_at, first_sent });
        self.next += 1;
        Some(self.next - 1)
    }

    pub(crate) fn acknowledged(&mut self, number: u64, now: Instant) {
        let Some(sent) = self.flying.remove(&number) else { return };
        // The path keeps the order: what was sent before and is not there is lost.
        let rest = self.flying.split_off(&number);
        let lost = std::mem::replace(&mut self.flying, rest).len() as f64;
        self.delivered += 1;
        self.delivered_at = now;
        let interval = sent.at.since(sent.first_sent).max(now.since(sent.delivered_at));
        self.first_sent = sent.at;
        let begun = sent.delivered >= self.round_end;
        if begun {
            self.round_end = self.delivered;
            self.round += 1;
        }
        let rtt = now.since(sent.at);
        if interval >= self.min_rtt.min(rtt) && !interval.is_zero() {
            let rate = (self.delivered - sent.delivered) as f64 / interval.as_secs_f64();
            self.rates.push_back((self.round, rate));
        }
        let oldest = self.round.saturating_sub(ROUNDS_OF_BANDWIDTH);
        while self.rates.front().is_some_and(|(round, _)| *round < oldest) {
            self.rates.pop_front();
        }
        self.follow(rtt, begun, lost, now);
        self.set_window(lost, begun, number, now);
    }

    fn follow(&mut self, rtt: Duration, begun: bool, lost: f64, now: Instant) {
        let expired = now.since(self.min_rtt_at) > MIN_RTT_FOR;
        if rtt < self.min_rtt || expired {
            (self.min_rtt, self.min_rtt_at) = (rtt, now);
        }
        let flight = self.flying.len() as f64;
        match self.mode {
            Mode::Startup if begun => {
                let rate = self.bandwidth();
                self.level =
                    if rate >= self.level.0 * 1.25 { (rate, 0) } else { (self.level.0, self.level.1 + 1) };
                if self.level.1 >= 3 {
                    self.mode = Mode::Drain;
                }
            }
            Mode::Drain if flight <= self.product(1.0) => self.begin_probing(now),
            Mode::Probe { phase, since } => {
                let long = now.since(since) > self.min_rtt;
                let gain = CYCLE[phase];
                let over = if gain > 1.0 {
                    long && (lost > 0.0 || flight >= self.product(gain))
                } else if gain < 1.0 {
                    long || flight <= self.product(1.0)
                } else {
                    long
                };
                if over {
                    self.mode = Mode::Probe { phase: (phase + 1) % CYCLE.len(), since: now };
                }
            }
            _ => {}
        }
        match self.mode {
            Mode::Rtt { until: None } if flight <= LEAST => {
                self.mode = Mode::Rtt { until: Some(now + PROBE_RTT_FOR.max(self.min_rtt)) };
            }
            Mode::Rtt { until: Some(until) } if now >= until => {
                self.min_rtt_at = now;
                self.window = self.window.max(self.prior);
                if self.level.1 >= 3 { self.begin_probing(now) } else { self.mode = Mode::Startup }
            }
            Mode::Rtt { .. } => {}
            _ if expired => {
                self.prior = self.window;
                self.mode = Mode::Rtt { until: None };
            }
            _ => {}
        }
    }

    /// "BBREnterProbeBW": any phase but that of 0.75, by chance.
    fn begin_probing(&mut self, now: Instant) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let phase = match (self.seed >> 33) % 7 {
            0 => 0,
            other => other as usize + 1,
        };
        self.mode = Mode::Probe { phase, since: now };
    }

    /// As kernels do it: a round of packet conservation after a loss, then up to the target again.
    fn set_window(&mut self, lost: f64, begun: bool, number: u64, _now: Instant) {
        let flight = self.flying.len() as f64;
        let target = match self.mode {
            Mode::Startup | Mode::Drain => self.product(HIGH_GAIN),
            _ => self.product(2.0),
        };
        if lost > 0.0 {
            self.window = (self.window - lost).max(1.0);
        }
        match self.recover {
            None if lost > 0.0 => {
                self.prior = self.window + lost;
                self.recover = Some((self.next, self.round));
                self.window = flight + 1.0;
            }
            Some((end, _)) if number >= end && lost == 0.0 => {
                self.recover = None;
                self.window = self.window.max(self.prior);
            }
            _ => {}
        }
        let conserves = self.recover.is_some_and(|(_, round)| round == self.round) && !begun;
        if conserves {
            self.window = self.window.max(flight + 1.0);
        } else if self.level.1 >= 3 {
            self.window = (self.window + 1.0).min(target);
        } else if self.window < target || self.delivered < 10 {
            self.window += 1.0;
        }
        self.window = self.window.max(LEAST);
        if let Mode::Rtt { .. } = self.mode {
            self.window = self.window.min(LEAST);
        }
    }
}

//! What happens after a loss, and when it was none. Read RFC 6675 section 5, RFC 6582 section 3, RFC 6298 section 5, RFC
//! 5682 section 3 (F-RTO), RFC 3522 and RFC 3708 (undoing) and RFC 8985 section 7 first.

use crate::congestion::Congestion;
use crate::prr::Prr;
use crate::rack::Rack;
use crate::scoreboard::Fate;
use crate::sender::{Sender, Timer};
use crate::time::Instant;

/// Whether losses are being repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing is missing, as far as is known.
    Open,
    /// The window shrinks, and losses are repaired if there are any, while acknowledgements come: up to `recover`, the
    /// position that was next as it began.
    Recovery { recover: u64, prr: Prr, losses: bool },
    /// The retransmission timer has run out.
    Loss { recover: u64, forward: Forward },
}

impl Phase {
    pub(crate) fn recover(&self) -> Option<u64> {
        match *self {
            Phase::Open => None,
            Phase::Recovery { recover, .. } | Phase::Loss { recover, .. } => Some(recover),
        }
    }
}

/// F-RTO: whether a time-out was in vain (RFC 5682 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    /// Step 1: the first segment was sent again, and an acknowledgement is awaited.
    First,
    /// Step 2: new data was sent instead of more repetitions.
    New,
    /// It was not in vain, or cannot be known.
    Off,
}

/// What to go back to if a loss was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undo {
    congestion: u64,
    threshold: u64,
    /// Segments sent again less those that the peer had twice, and whether there were any.
    repeats: i64,
    any: bool,
    /// When the first one was sent again.
    pub(crate) first_repeat: Option<Instant>,
}

/// What an acknowledgement told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct News {
    /// Positions acknowledged in order, and bytes that arrived.
    pub(crate) advanced: u64,
    pub(crate) delivered: u64,
    /// Bytes newly believed lost.
    pub(crate) lost: u64,
    /// Whether the peer had something twice.
    pub(crate) duplicate: bool,
    /// Whether something that was sent once, before the loss was found, has arrived.
    pub(crate) original: bool,
    /// Whether more has come out of order.
    pub(crate) sacked: bool,
    /// Whether it was a duplicate acknowledgement.
    pub(crate) repeat: bool,
    /// Bytes in flight before.
    pub(crate) flight: u64,
    /// Whether it echoes a time before the first repetition.
    pub(crate) echo_before: bool,
}

impl Sender {
    fn note_undo(&mut self) {
        self.undo = Some(Box::new(Undo {
            congestion: self.window.congestion,
            threshold: self.window.threshold,
            repeats: 0,
            any: false,
            first_repeat: None,
        }));
    }

    /// Begins to repair losses (RFC 6675 section 5, RFC 6937 section 3).
    pub(crate) fn enter_recovery(&mut self, what: Congestion, flight: u64, now: Instant) {
        self.note_undo();
        self.controller.get().congested(&mut self.window, what, flight, now);
        let losses = what == Congestion::Loss;
        self.phase = Phase::Recovery { recover: self.next, prr: Prr::new(flight), losses };
        self.counts.recoveries += u32::from(what == Congestion::Loss);
        self.probe = None;
    }

    /// Notes that `bytes` were sent again.
    pub(crate) fn has_repeated(&mut self, bytes: u64, now: Instant) {
        let segments = self.segments(bytes);
        self.repeats = self.repeats.saturating_add(segments as u32);
        self.repeated_bytes = self.repeated_bytes.saturating_add(bytes);
        if let Some(undo) = &mut self.undo {
            undo.repeats += segments as i64;
            undo.any = true;
            undo.first_repeat.get_or_insert(now);
        }
    }

    /// Notes that `bytes` were sent, new or again.
    pub(crate) fn has_sent(&mut self, bytes: u64) {
        if let Phase::Recovery { prr, .. } = &mut self.phase {
            prr.has_sent(bytes);
        }
    }

    /// Follows an acknowledgement through the phases.
    pub(crate) fn follow(&mut self, to: u64, news: &News, now: Instant) {
        if news.duplicate {
            self.counts.duplicates += 1;
            self.rack.saw_duplicate(to, self.next);
            if let Some(undo) = &mut self.undo {
                undo.repeats -= 1;
            }
        }
        if self.was_mistaken(news) {
            self.go_back();
        }
        match self.phase {
            Phase::Open => {
                if news.lost > 0 {
                    self.enter_recovery(Congestion::Loss, news.flight, now);
                    self.reduce(news);
                }
            }
            Phase::Recovery { recover, .. } if to >= recover => {
                self.phase = Phase::Open;
                self.duplicates = 0;
                self.rack.recovered();
                if !self.controller.get().rules_recovery() {
                    // "At the end of recovery, [...] cwnd = ssthresh" (RFC 6937 section 3).
                    self.window.congestion = self.window.threshold;
                }
                self.controller.get().recovered(&mut self.window);
            }
            Phase::Recovery { .. } => {
                if let Phase::Recovery { losses, .. } = &mut self.phase {
                    *losses |= news.lost > 0;
                }
                self.reduce(news);
            }
            Phase::Loss { recover, forward } => self.follow_loss(to, (recover, forward), news),
        }
    }

    /// The window while losses are repaired.
    fn reduce(&mut self, news: &News) {
        if self.controller.get().rules_recovery() {
            return;
        }
        let (in_flight, target, mss) = (self.in_flight(), self.window.threshold, self.window.mss);
        if let Phase::Recovery { prr, .. } = &mut self.phase {
            let safe = news.advanced > 0 && news.lost == 0;
            self.window.congestion = prr.window(news.delivered, in_flight, target, mss, safe).max(mss);
        }
    }

    fn follow_loss(&mut self, to: u64, (recover, forward): (u64, Forward), news: &News) {
        if to >= recover {
            self.phase = Phase::Open;
            self.duplicates = 0;
            self.rack.recovered();
            self.controller.get().recovered(&mut self.window);
            return;
        }
        let next = match forward {
            // Step 2 a: a duplicate: "not sufficient to declare the timeout spurious".
            Forward::First | Forward::New if news.sacked || news.repeat => Forward::Off,
            // Step 2 b: "if the acknowledgment advances the window [...] transmit up to two new segments".
            Forward::First if news.advanced > 0 => Forward::New,
            other => other,
        };
        self.phase = Phase::Loss { recover, forward: next };
    }

    /// Whether what seemed lost was only late.
    fn was_mistaken(&self, news: &News) -> bool {
        let Some(undo) = &self.undo else { return false };
        // RFC 3522: the peer's timestamp shows that it is the original which made progress.
        let eifel = undo.any && news.advanced > 0 && news.echo_before;
        // RFC 3708: the peer had every repetition twice.
        let twice = undo.any && undo.repeats <= 0 && news.duplicate;
        // RFC 5682 step 3 b: "the acknowledgment acknowledges data that was not retransmitted".
        let forward = self.selective
            && news.original
            && matches!(self.phase, Phase::Loss { forward: Forward::First | Forward::New, .. });
        eifel || twice || forward
    }

    /// Takes a reduction back.
    fn go_back(&mut self) {
        let Some(undo) = self.undo.take() else { return };
        self.counts.undone += 1;
        // What was overtaken was sent again before it came, so that only this shows it ("RACK.reordering_seen", RFC 8985
        // section 6.2, step 3, asks for segments that were sent once): the next one is waited for.
        self.rack.reordering = true;
        self.counts.spurious_timeouts += u32::from(matches!(self.phase, Phase::Loss { .. }));
        self.window.congestion = self.window.congestion.max(undo.congestion);
        self.window.threshold = self.window.threshold.max(undo.threshold);
        self.controller.get().undone(&mut self.window);
        self.board.unlose();
        self.phase = Phase::Open;
        self.duplicates = 0;
    }

    /// An acknowledgement says that a router marked a packet (RFC 3168 section 6.1.2): once a round trip.
    pub(crate) fn marked(&mut self, now: Instant) {
        if self.una < self.marked_until || !matches!(self.phase, Phase::Open) {
            return;
        }
        self.marked_until = self.next;
        self.say_reduced = true;
        let flight = self.in_flight();
        self.enter_recovery(Congestion::Marked, flight, now);
        self.undo = None;
    }

    /// Judges a tail loss probe by an acknowledgement (RFC 8985 section 7.4.2).
    pub(crate) fn judge_probe(&mut self, to: u64, news: &News, now: Instant) {
        let Some(probe) = self.probe.filter(|probe| to >= probe.end) else { return };
        if !probe.repeated || news.duplicate {
            self.probe = None;
        } else if to > probe.end {
            // "The TLP sender has received an acknowledgment for data beyond the probe, but no DSACK: the probe
            // repaired a loss."
            self.probe = None;
            if matches!(self.phase, Phase::Open) {
                self.enter_recovery(Congestion::Loss, news.flight, now);
                self.undo = None;
            }
        } else if news.repeat {
            self.probe = None;
        }
    }

    /// The retransmission timer has run out (RFC 6298 section 5.4 to 5.6, RFC 5681 section 3.1, RFC 5682 step 1).
    pub(crate) fn time_out(&mut self, now: Instant) {
        let repairing = matches!(self.phase, Phase::Loss { recover, .. } if self.una <= recover);
        let again = repairing && self.rtt.backoff > 0;
        self.rtt.backoff += 1;
        self.counts.timeouts += 1;
        if !again {
            self.note_undo();
            let flight = self.board.in_flight();
            self.controller.get().congested(&mut self.window, Congestion::Timeout, flight, now);
        }
        // The peer may have dropped what it had out of order (RFC 2018 section 8): it would have acknowledged the first.
        if self.board.front().is_some_and(|first| first.fate == Fate::Sacked) {
            self.board.forget_sacks();
        }
        self.rate.lost += self.board.lose(|_| Some(true));
        self.duplicates = 0;
        self.probe = None;
        if !self.controller.get().rules_recovery() {
            self.window.congestion = self.window.mss;
        }
        // "If the TCP sender is already in RTO recovery AND 'recover' is larger than or equal to SND.UNA, do not enter step 2
        // of this algorithm" (RFC 5682 section 2.1): a peer that keeps nothing out of order would get a segment per time-out.
        let forward = if repairing { Forward::Off } else { Forward::First };
        self.phase = Phase::Loss { recover: self.next, forward };
        self.timer_base = now;
        self.again = None;
        self.set_timer(now);
    }

    /// The time for late segments is over: what is missing now is lost.
    pub(crate) fn stop_waiting(&mut self, now: Instant) {
        let flight = self.in_flight();
        let recovering = !matches!(self.phase, Phase::Open);
        let sacked = self.segments(self.board.sacked());
        let times = (self.rtt.least().unwrap_or_default(), self.smoothed());
        let (lost, again) = self.rack.detect(&mut self.board, (recovering, sacked), times, now);
        self.rate.lost += lost;
        if lost > 0 && !recovering {
            self.enter_recovery(Congestion::Loss, flight, now);
            let news = News {
                advanced: 0,
                delivered: 0,
                lost,
                duplicate: false,
                original: false,
                sacked: false,
                repeat: false,
                flight,
                echo_before: false,
            };
            self.reduce(&news);
        }
        self.again = again;
        self.set_timer(now);
    }

    /// Sets the timer to what must happen first.
    pub(crate) fn set_timer(&mut self, now: Instant) {
        if self.board.is_empty() {
            self.timer = Timer::Off;
            self.again = None;
            return;
        }
        let timeout = self.timer_base + self.rtt.timeout();
        if let Some(at) = self.again.filter(|at| *at < timeout) {
            self.timer = Timer::Reorder(at);
            return;
        }
        // RFC 8985 section 7.2: only with SACK, not while losses are repaired, and one at a time.
        let may_probe = self.selective
            && matches!(self.phase, Phase::Open)
            && self.board.sacked() == 0
            && self.probe.is_none()
            && !self.probe_wanted;
        if may_probe {
            let single = self.board.in_flight() <= self.window.mss;
            let at = self.sent_at.max(self.timer_base) + Rack::probe_timeout(self.rtt.smoothed(), single);
            if at < timeout {
                self.timer = Timer::Probe(at.max(now));
                return;
            }
        }
        self.timer = Timer::Retransmit(timeout.max(now));
    }
}

//! The sending half: what was sent, what is known of it, and what follows from an acknowledgement. Read RFC 9293
//! sections 3.3.1 and 3.8, RFC 5681, RFC 6582, RFC 6675 and RFC 8985 first. `recovery` has what happens after a loss.

use std::time::Duration;

use crate::buffer::Bytes;
use crate::congestion::{Acknowledged, Algorithm, Controller, Window};
use crate::rack::Rack;
use crate::rate::{Rate, Snapshot};
use crate::recovery::{Phase, Undo};
use crate::rtt::Rtt;
use crate::scoreboard::{Fate, Record, Scoreboard};
use crate::seq::{FIRST, Numbers};
use crate::time::Instant;

/// What the sender waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Nothing.
    Off,
    /// The retransmission time-out (RFC 6298).
    Retransmit(Instant),
    /// The probe of the tail (RFC 8985 section 7).
    Probe(Instant),
    /// Time for a segment that may only have been overtaken (RFC 8985 section 6.2).
    Reorder(Instant),
    /// The probe of a closed window (RFC 9293 section 3.8.6.1).
    Persist(Instant),
}

impl Timer {
    pub(crate) fn at(self) -> Option<Instant> {
        match self {
            Timer::Off => None,
            Timer::Retransmit(at) | Timer::Probe(at) | Timer::Reorder(at) | Timer::Persist(at) => Some(at),
        }
    }
}

/// Whether the pace holds data back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pacing {
    /// It does not: something else does, or nothing.
    Open,
    /// Until [`Sender::pace`].
    Held,
    /// It did, and the caller woke after that time: it sends what could have left.
    Behind,
}

/// A tail loss probe that was sent (RFC 8985 section 7.1, "TLP.end_seq" and "TLP.is_retrans").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) end: u64,
    pub(crate) repeated: bool,
}

/// What happened to a connection, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Retransmission time-outs (`TCPTimeouts`).
    pub timeouts: u32,
    /// Tail loss probes (`TCPLossProbes`).
    pub probes: u32,
    /// Times that losses were found without a time-out (`TCPSackRecovery`, `TCPRenoRecovery`).
    pub recoveries: u32,
    /// Times that a loss turned out to be none (`TCPFullUndo`, `TCPDSACKUndo`, `TCPLossUndo`).
    pub undone: u32,
    /// Those of them that undid a time-out (`TCPSpuriousRTOs`).
    pub spurious_timeouts: u32,
    /// Duplicates that the peer reported (`TCPDSACKRecv`).
    pub duplicates: u32,
    /// Segments that came out of order (`TCPOFOQueue`).
    pub out_of_order: u32,
    /// Challenges to segments that may be forged (`TCPChallengeACK`).
    pub challenges: u32,
}

/// An acknowledgement that was found acceptable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack<'a> {
    /// The position that it acknowledges.
    pub(crate) to: u64,
    /// Ranges that the peer has, as positions.
    pub(crate) sacks: &'a [(u64, u64)],
    /// Our timestamp that it echoes.
    pub(crate) echo: Option<u32>,
    /// Whether it carries nothing and changes no window, so that it may be a duplicate (RFC 5681 section 2).
    pub(crate) bare: bool,
    /// Whether it says that congestion was met.
    pub(crate) marked: bool,
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) numbers: Numbers,
    /// `SND.UNA` and `SND.NXT`.
    pub(crate) una: u64,
    pub(crate) next: u64,
    /// The position behind the last byte that the program wrote, and whether a FIN follows.
    pub(crate) written: u64,
    pub(crate) finished: bool,
    /// The position behind what the peer's window allows, and the largest window that it ever offered.
    pub(crate) edge: u64,
    pub(crate) most_window: u64,
    /// Positions of the segment that set the window: `SND.WL1`, `SND.WL2`.
    pub(crate) window_from: (u64, u64),
    pub(crate) shift: u8,
    pub(crate) bytes: Bytes,
    pub(crate) board: Scoreboard,
    pub(crate) rtt: Rtt,
    pub(crate) rack: Rack,
    pub(crate) rate: Rate,
    pub(crate) window: Window,
    pub(crate) controller: Controller,
    pub(crate) phase: Phase,
    pub(crate) undo: Option<Box<Undo>>,
    pub(crate) timer: Timer,
    /// When a segment that may only have been overtaken counts as lost.
    pub(crate) again: Option<Instant>,
    pub(crate) probe: Option<Probe>,
    /// A probe is to be sent now.
    pub(crate) probe_wanted: bool,
    /// Whether the peer tells what it has.
    pub(crate) selective: bool,
    /// Duplicate acknowledgements in a row of a peer that does not.
    pub(crate) duplicates: u64,
    /// Whether the congestion window was what held data back.
    pub(crate) limited: bool,
    /// When the retransmission timer began, and when data was sent last.
    pub(crate) timer_base: Instant,
    pub(crate) sent_at: Instant,
    /// Since when nothing more was acknowledged though something is outstanding.
    pub(crate) stalled: Option<Instant>,
    /// The end of the last segment below the largest size (Minshall's Nagle).
    pub(crate) small_end: u64,
    /// When the next segment may leave, if they are paced.
    pub(crate) pace: Instant,
    pub(crate) pacing: Pacing,
    /// Segments sent again, and their bytes.
    pub(crate) repeats: u32,
    pub(crate) repeated_bytes: u64,
    pub(crate) counts: Counts,
    /// The position up to which an ECN echo has been answered.
    pub(crate) marked_until: u64,
    /// The next new segment says that the window was reduced (RFC 3168 section 6.1.2).
    pub(crate) say_reduced: bool,
    /// Where urgent data ends.
    pub(crate) urgent: u64,
}

impl Sender {
    pub(crate) fn new(initial: u32, algorithm: Algorithm, mss: u64, now: Instant) -> Self {
        let mut window = Window::new(mss);
        let controller = Controller::new(algorithm, &mut window, now);
        Sender {
            numbers: Numbers { initial },
            una: FIRST,
            next: FIRST,
            written: FIRST + 1,
            finished: false,
            edge: FIRST + 1,
            most_window: 0,
            window_from: (0, 0),
            shift: 0,
            bytes: Bytes::new(FIRST + 1),
            board: Scoreboard::default(),
            rtt: Rtt::default(),
            rack: Rack::default(),
            rate: Rate::default(),
            window,
            controller,
            phase: Phase::Open,
            undo: None,
            timer: Timer::Off,
            again: None,
            probe: None,
            probe_wanted: false,
            selective: false,
            duplicates: 0,
            limited: false,
            timer_base: now,
            sent_at: now,
            stalled: None,
            small_end: FIRST,
            pace: Instant::ZERO,
            pacing: Pacing::Open,
            repeats: 0,
            repeated_bytes: 0,
            counts: Counts::default(),
            marked_until: 0,
            say_reduced: false,
            urgent: FIRST,
        }
    }

    /// Takes up an algorithm in the place of another; the window stays.
    pub(crate) fn set_algorithm(&mut self, algorithm: Algorithm, now: Instant) {
        if self.controller.algorithm() != algorithm {
            if self.controller.algorithm() == Algorithm::Unlimited {
                self.window.congestion = crate::congestion::initial(self.window.mss);
                self.window.threshold = u64::MAX;
            }
            self.controller = Controller::new(algorithm, &mut self.window, now);
        }
    }

    /// Takes up a largest payload; before anything was sent, the initial window follows.
    pub(crate) fn set_mss(&mut self, mss: u64) {
        let mss = mss.max(1);
        if self.window.mss == mss {
            return;
        }
        self.window.mss = mss;
        if self.next <= FIRST + 1 && self.controller.algorithm() != Algorithm::Unlimited {
            self.window.congestion = crate::congestion::initial(mss);
        }
    }

    /// The position behind everything that is to be sent, the FIN included.
    pub(crate) fn end(&self) -> u64 {
        self.written + u64::from(self.finished)
    }

    /// Bytes on their way. Each duplicate acknowledgement of a peer without SACK stands for a segment that has left
    /// the network (RFC 5681 section 3.2, step 4).
    pub(crate) fn in_flight(&self) -> u64 {
        let gone = if self.selective { 0 } else { self.duplicates * self.window.mss };
        self.board.in_flight().saturating_sub(gone)
    }

    /// What an algorithm may take as the round trip.
    pub(crate) fn smoothed(&self) -> Duration {
        self.rtt.smoothed().unwrap_or(Duration::ZERO)
    }

    /// How many segments `bytes` are, at least.
    pub(crate) fn segments(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.window.mss.max(1))
    }

    /// Notes the peer's window (RFC 9293 section 3.10.7.4): "If SND.WL1 < SEG.SEQ or (SND.WL1 = SEG.SEQ and SND.WL2 =<
    /// SEG.ACK), set SND.WND". Answers whether it changed.
    pub(crate) fn update_window(&mut self, seq: u64, ack: u64, window: u64) -> bool {
        let (wl1, wl2) = self.window_from;
        if !(wl1 < seq || wl1 == seq && wl2 <= ack) {
            return false;
        }
        self.window_from = (seq, ack);
        self.most_window = self.most_window.max(window);
        let edge = ack + window;
        let changed = edge != self.edge;
        self.edge = edge;
        changed
    }

    /// Handles an acknowledgement of positions in `una..=next`. `stamp` gives our timestamp of a time. Answers how many
    /// positions are newly acknowledged in order.
    pub(crate) fn acknowledge(&mut self, ack: &Ack<'_>, stamp: impl Fn(Instant) -> u32, now: Instant) -> u64 {
        let advanced = ack.to.saturating_sub(self.una);
        let before = (self.in_flight(), self.board.sacked());
        let duplicate = self.duplicate_block(ack);
        let seen = self.take(ack, &stamp, now);
        if let Some(took) = seen.oldest {
            self.rtt.measure(took, now);
        } else if let Some(echo) = ack.echo.filter(|_| advanced > 0) {
            // "RTTM: R = current time - TSecr" (RFC 7323 section 4.1), of use where Karn's rule allows no other.
            let took = stamp(now).wrapping_sub(echo);
            if took < 1 << 17 {
                self.rtt.measure(Duration::from_millis(u64::from(took)), now);
            }
        }
        if advanced > 0 {
            self.una = ack.to;
            self.small_end = self.small_end.max(self.una);
            self.rtt.backoff = 0;
            self.timer_base = now;
        }
        let repeat = advanced == 0 && ack.bare && !self.board.is_empty();
        self.count_duplicates(advanced, repeat);
        let found = self.find_losses(advanced, now);
        let news = crate::recovery::News {
            advanced,
            delivered: seen.delivered,
            lost: found.0,
            duplicate,
            original: seen.original,
            sacked: self.board.sacked() > before.1,
            repeat,
            flight: before.0,
            echo_before: self.echoes_before_repeat(ack, &stamp),
        };
        self.judge_probe(ack.to, &news, now);
        self.follow(ack.to, &news, now);
        if ack.marked {
            self.marked(now);
        }
        self.tell_controller(ack.to, &news, &seen, now);
        self.again = found.1;
        self.set_timer(now);
        advanced
    }

    /// Whether the first block tells of a duplicate (RFC 2883 section 4): it lies below the acknowledgement, or within
    /// the second block.
    fn duplicate_block(&self, ack: &Ack<'_>) -> bool {
        match ack.sacks {
            [(_, end), ..] if *end <= ack.to => true,
            [(start, end), (from, to), ..] => from <= start && end <= to,
            _ => false,
        }
    }

    /// Takes what the acknowledgement covers off the scoreboard.
    fn take(&mut self, ack: &Ack<'_>, stamp: &impl Fn(Instant) -> u32, now: Instant) -> Seen {
        let Sender { board, rack, rate, rtt, phase, next, una, .. } = self;
        let least = rtt.least();
        let edge = phase.recover().unwrap_or(*next);
        let mut seen = Seen::default();
        let mut see = |record: Record| {
            seen.delivered += record.len();
            let echoed = ack.echo.map(|echo| (echo.wrapping_sub(stamp(record.sent)) as i32) >= 0);
            rack.delivered(&record, least, echoed, now);
            rate.acknowledged(record.len(), (record.snapshot, record.sent), &mut seen.last_sent, now);
            if record.repeated {
                return;
            }
            let took = now.since(record.sent);
            seen.oldest = Some(seen.oldest.map_or(took, |o| o.max(took)));
            if !took.is_zero() {
                // See `Rtt::measure`.
                seen.newest = Some(seen.newest.map_or(took, |n| n.min(took)));
            }
            seen.original |= record.start < edge;
        };
        board.acknowledge(ack.to, |record| {
            if record.fate != Fate::Sacked {
                see(record);
            }
        });
        let floor = (*una).max(ack.to);
        for &(start, end) in ack.sacks {
            // "The SACK option [...] must not be taken for data that was never sent" (RFC 6675 section 3).
            if floor <= start && start < end && end <= *next {
                board.sack(start, end, &mut see);
            }
        }
        seen
    }

    /// Whether an acknowledgement that makes progress echoes a time before the first retransmission: it is for an
    /// original (RFC 3522, the Eifel detection).
    fn echoes_before_repeat(&self, ack: &Ack<'_>, stamp: &impl Fn(Instant) -> u32) -> bool {
        let first = self.undo.as_ref().and_then(|undo| undo.first_repeat);
        match (ack.echo, first) {
            (Some(echo), Some(first)) => (echo.wrapping_sub(stamp(first)) as i32) < 0,
            _ => false,
        }
    }

    fn count_duplicates(&mut self, advanced: u64, repeat: bool) {
        if self.selective {
            return;
        }
        if advanced > 0 {
            // A partial acknowledgement deflates by what it covers (RFC 6582 section 3.2, step 3).
            let covered = self.segments(advanced).saturating_sub(1);
            self.duplicates =
                if matches!(self.phase, Phase::Open) { 0 } else { self.duplicates.saturating_sub(covered) };
        } else if repeat {
            self.duplicates = (self.duplicates + 1).min(self.segments(self.board.in_flight()));
        }
    }

    /// Looks for losses; answers how many bytes are newly believed lost, and when to look again.
    fn find_losses(&mut self, advanced: u64, now: Instant) -> (u64, Option<Instant>) {
        let recovering = !matches!(self.phase, Phase::Open);
        let (lost, again) = if self.selective {
            if self.board.sacked() == 0 && self.board.highest_repeated <= self.una {
                return (0, None);
            }
            let sacked = self.segments(self.board.sacked());
            let times = (self.rtt.least().unwrap_or(Duration::ZERO), self.smoothed());
            self.rack.detect(&mut self.board, (recovering, sacked), times, now)
        } else {
            // RFC 6582 section 3.2: the third duplicate, and in recovery each partial acknowledgement, tell of the first
            // segment that is missing.
            let repairs = matches!(self.phase, Phase::Recovery { losses: true, .. } | Phase::Loss { .. });
            let third = !repairs && self.duplicates >= crate::rack::DUP_THRESHOLD;
            let within =
                matches!(self.phase, Phase::Recovery { recover, losses: true, .. } if self.una < recover);
            let partial = advanced > 0 && within;
            let lost = if third || partial { self.board.lose_first(self.window.mss) } else { 0 };
            (lost, None)
        };
        self.rate.lost += lost;
        (lost, again)
    }

    fn tell_controller(&mut self, to: u64, news: &crate::recovery::News, seen: &Seen, now: Instant) {
        let sample = self.rate.sample(seen.last_sent, self.rtt.least(), now);
        if news.delivered == 0 && news.lost == 0 {
            return;
        }
        let in_flight = self.in_flight();
        // In slow start a window that is at least half used is (RFC 7661 has more of it).
        let used = self.limited || self.window.in_slow_start() && news.flight * 2 >= self.window.congestion;
        let event = Acknowledged {
            now,
            delivered: news.delivered,
            advanced: news.advanced,
            lost: news.lost,
            rtt: seen.newest,
            smoothed: self.smoothed(),
            least: self.rtt.least(),
            in_flight: (news.flight, in_flight),
            limited: used,
            recovering: matches!(self.phase, Phase::Recovery { .. }),
            total: self.rate.delivered,
            positions: (to, self.next),
            sample,
        };
        self.controller.get().acknowledged(&mut self.window, &event);
    }
}

/// What an acknowledgement covered.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Bytes that were not known to be there.
    delivered: u64,
    /// Round trips of those sent once: of the one sent first, and of the one sent last.
    oldest: Option<Duration>,
    newest: Option<Duration>,
    /// Whether one was sent once, and before the last loss was found.
    original: bool,
    /// The one that was sent last, with the time.
    last_sent: Option<(Snapshot, Instant)>,
}

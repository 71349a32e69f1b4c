//! What the path carries: by what routers say, and by what does not arrive. Read RFC 9293 section 3.7.2, RFC 1191 sections 3
//! and 6, RFC 8201 section 5, RFC 5927 section 7 (whom to believe), RFC 4821 section 7.7 and RFC 8899 section 4.5 (black
//! holes) first.

use std::time::Duration;

use crate::config::Path;
use crate::congestion::Algorithm;
use crate::connection::Connection;
use crate::recovery::Phase;
use crate::time::Instant;

/// "The timeout value SHOULD be [...] 10 minutes": after that a narrow path may have become wide (RFC 1191 section 6.3,
/// RFC 8899 section 5.1.1, "PMTU_RAISE_TIMER").
const RAISE: Duration = Duration::from_secs(600);
/// Payloads that are tried on a path that swallows large packets: BASE_PLPMTU of 1,200 bytes (RFC 8899 section 5.1.2), then
/// what every host takes.
const BASES: [u16; 2] = [1160, 536];

/// A step that is worth a probe.
const STEP: u16 = 32;

/// What is known of the path beside [`Path::mss`].
#[derive(Debug)]
pub(crate) struct Search {
    /// What the interface carries.
    pub(crate) wide: u16,
    /// When a narrow path is tried anew.
    pub(crate) until: Option<Instant>,
    /// The largest size that is not known to be too large ("search_high", RFC 4821 section 7.3).
    ceiling: u16,
    probing: Probing,
}

/// The search for a larger size, by one segment of it.
#[derive(Debug)]
enum Probing {
    No,
    /// As soon as there is enough to send.
    Wanted(u16),
    Sent(Box<SizeProbe>),
}

/// A segment that is larger than the path is known to carry.
#[derive(Debug)]
struct SizeProbe {
    mss: u16,
    end: u64,
    /// Segments sent again before, and the window: the loss of a probe "MUST NOT" count as congestion (RFC 4821 section 7.6.3).
    repeats: u32,
    congestion: u64,
    threshold: u64,
}

impl Search {
    pub(crate) fn new(wide: u16) -> Self {
        Search { wide, until: None, ceiling: wide, probing: Probing::No }
    }
}

impl Connection {
    /// Takes up another path, through another interface.
    pub fn set_path(&mut self, path: Path) {
        self.search = Search::new(path.mss);
        self.path = path;
        self.fit();
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> Path {
        self.path
    }

    /// A router says that packets are too large: the path carries segments of `mss` bytes without options (RFC 1191, RFC
    /// 8201). `quoted` is the number of the segment that it quotes; one that is not in flight is not believed (RFC 5927
    /// section 7). What was lost by it is sent again at once. Answers whether it was believed.
    pub fn narrow(&mut self, mss: u16, quoted: u32, now: Instant) -> bool {
        let sender = &self.sender;
        let position = sender.numbers.position(quoted, sender.una);
        let flying = sender.una <= position && position < sender.next;
        if !flying || mss >= self.path.mss {
            return false;
        }
        let large = self.sender.window.mss;
        self.shrink(mss, now);
        // Everything in flight was made for the old path. The window stays: nothing was lost to congestion.
        if self.sender.window.mss < large && self.is_synchronized() {
            self.sender.board.lose(|_| Some(true));
            self.sender.set_timer(now);
        }
        true
    }

    fn shrink(&mut self, mss: u16, now: Instant) {
        self.path.mss = mss.max(1);
        self.search.until = Some(now + RAISE);
        self.search.probing = Probing::No;
        self.fit();
    }

    /// Large segments time out again and again: the path may swallow them without a word ("black hole").
    pub(crate) fn suspect_black_hole(&mut self, now: Instant) {
        let large = self.sender.board.front().is_some_and(|first| first.len() > u64::from(BASES[1]));
        if !self.settings.find_black_holes || self.sender.rtt.backoff < 2 || !large {
            return;
        }
        if let Some(base) = BASES.into_iter().find(|base| *base < self.path.mss) {
            self.shrink(base, now);
            // The loss window is one segment of the new size (RFC 5681 section 3.1).
            let window = &mut self.sender.window;
            if self.sender.controller.algorithm() != Algorithm::Unlimited {
                window.congestion = window.congestion.min(window.mss);
            }
        }
    }

    /// A path that was narrow for long enough is tried anew.
    pub(crate) fn widen(&mut self, now: Instant) {
        if self.search.until.is_none_or(|until| until > now) {
            return;
        }
        self.search.until = None;
        if self.settings.find_black_holes {
            // Routers may say nothing: one segment tries it.
            self.search.ceiling = self.search.wide;
            self.search.probing = Probing::Wanted(self.search.wide);
        } else {
            self.path.mss = self.search.wide;
            self.fit();
        }
    }

    /// A probe that is to leave next, if one is wanted: where it begins, and its length; 0 for not yet, as the window has to
    /// let it go in one piece. Behind it there is enough to send that its loss shows soon (RFC 4821 section 7.4).
    pub(crate) fn size_probe(&mut self) -> Option<(u64, u64)> {
        let Probing::Wanted(mss) = self.search.probing else { return None };
        let len = u64::from(self.effective(mss));
        let s = &self.sender;
        if len <= s.window.mss {
            // The peer takes no more.
            self.search.probing = Probing::No;
            return None;
        }
        let needed = len + 3 * s.window.mss;
        let unsent = s.written.saturating_sub(s.next);
        let usable = s.edge.saturating_sub(s.next);
        let enough = unsent.min(usable).min(s.window.congestion) >= needed;
        if !matches!(s.phase, Phase::Open) || !enough {
            return None;
        }
        let (start, end) = (s.next, s.next + len);
        if s.window.congestion.saturating_sub(s.in_flight()) < len {
            return Some((start, 0));
        }
        let (repeats, congestion, threshold) = (s.repeats, s.window.congestion, s.window.threshold);
        self.search.probing = Probing::Sent(Box::new(SizeProbe { mss, end, repeats, congestion, threshold }));
        Some((start, len))
    }

    /// Whether the segment that ends at `end` is a probe, which must not be cut.
    pub(crate) fn is_size_probe(&self, end: u64) -> bool {
        matches!(&self.search.probing, Probing::Sent(probe) if probe.end == end)
    }

    /// Judges a probe once all up to its end is acknowledged, and looks for the size in between (RFC 4821 section 7.3).
    pub(crate) fn judge_size(&mut self, now: Instant) {
        let Probing::Sent(probe) = &self.search.probing else { return };
        if self.sender.una < probe.end {
            return;
        }
        if self.sender.repeats == probe.repeats {
            self.path.mss = probe.mss;
            self.search.probing = Probing::No;
            self.fit();
        } else {
            // It, or something beside it, was lost.
            self.search.ceiling = probe.mss - 1;
            let window = &mut self.sender.window;
            window.congestion = window.congestion.max(probe.congestion);
            window.threshold = window.threshold.max(probe.threshold);
        }
        let left = self.search.ceiling.saturating_sub(self.path.mss);
        self.search.probing =
            if left > STEP { Probing::Wanted(self.path.mss + left.div_ceil(2)) } else { Probing::No };
        if left <= STEP && self.search.ceiling < self.search.wide {
            self.search.until = Some(now + RAISE);
        }
    }

    /// The largest payload if the path carries segments of `mss` bytes without options.
    fn effective(&self, mss: u16) -> u16 {
        let options = if self.stamps.is_some() { 12 } else { 0 };
        mss.min(self.peer_mss).saturating_sub(options).max(1)
    }

    /// The largest payload follows from what the path carries, the peer takes, and the options need (RFC 9293 section
    /// 3.7.1, "Eff.snd.MSS", and RFC 6691).
    pub(crate) fn fit(&mut self) {
        self.sender.set_mss(u64::from(self.effective(self.path.mss)));
    }
}

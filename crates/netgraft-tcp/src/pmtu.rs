//! What the path carries: by what routers say, and by what does not arrive. Read RFC 9293 section 3.7.2, RFC 1191 sections 3
//! and 6, RFC 8201 section 5, RFC 5927 section 7 (whom to believe), RFC 4821 section 7.7 and RFC 8899 section 4.5 (black
//! holes) first.

use std::time::Duration;

use crate::config::Path;
use crate::congestion::Algorithm;
use crate::connection::Connection;
use crate::time::Instant;

/// "The timeout value SHOULD be [...] 10 minutes": after that a narrow path may have become wide (RFC 1191 section 6.3,
/// RFC 8899 section 5.1.1, "PMTU_RAISE_TIMER").
const RAISE: Duration = Duration::from_secs(600);
/// Payloads that are tried on a path that swallows large packets: BASE_PLPMTU of 1,200 bytes (RFC 8899 section 5.1.2), then
/// what every host takes.
const BASES: [u16; 2] = [1160, 536];

/// What is known of the path beside [`Path::mss`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Search {
    /// What the interface carries.
    pub(crate) wide: u16,
    /// When a narrow path is tried anew.
    pub(crate) until: Option<Instant>,
}

impl Connection {
    /// Takes up another path, through another interface.
    pub fn set_path(&mut self, path: Path) {
        self.search = Search { wide: path.mss, until: None };
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
        if self.search.until.is_some_and(|until| until <= now) {
            self.search.until = None;
            self.path.mss = self.search.wide;
            self.fit();
        }
    }

    /// The largest payload follows from what the path carries, the peer takes, and the options need (RFC 9293 section
    /// 3.7.1, "Eff.snd.MSS", and RFC 6691).
    pub(crate) fn fit(&mut self) {
        let options = if self.stamps.is_some() { 12 } else { 0 };
        let mss = self.path.mss.min(self.peer_mss).saturating_sub(options).max(1);
        self.sender.set_mss(u64::from(mss));
    }
}

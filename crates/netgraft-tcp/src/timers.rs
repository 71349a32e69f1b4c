//! Time passes. Read RFC 9293 sections 3.8.3 (failures), 3.8.4 (keep-alives) and 3.8.6.1 (closed windows), RFC 6298 section
//! 5 and RFC 5482 first.

use std::time::Duration;

use crate::connection::{Connection, Questions, Reason, State};
use crate::output::CORK;
use crate::receiver::Due;
use crate::sender::{Pacing, Timer};
use crate::time::Instant;

/// "R2 [...] SHOULD correspond to at least 100 seconds" (RFC 9293 section 3.8.3); what 15 retransmissions take
/// (`tcp_retries2`, ip-sysctl).
const STALL: Duration = Duration::from_secs(924);

impl Connection {
    /// When [`Connection::on_time`] has something to do next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.state == State::Closed {
            return None;
        }
        let sender = &self.sender;
        let due = match self.receiver.due {
            Due::At(at) => Some(at),
            Due::Nothing | Due::Now => None,
        };
        [
            // Before the handshake is complete only the SYN's answer is sent again.
            sender.timer.at().filter(|_| self.is_synchronized()),
            (sender.pacing == Pacing::Held).then_some(sender.pace),
            due,
            self.handshake.again,
            self.held.map(|since| since + CORK),
            self.stall_limit(),
            self.question_at(),
            self.half_closed_limit(),
            self.search.until.filter(|_| self.is_synchronized()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due. What leaves by it is taken with [`Connection::transmit`].
    pub fn on_time(&mut self, now: Instant) {
        if self.state == State::Closed {
            return;
        }
        if matches!(self.state, State::SynSent | State::SynReceived) {
            return self.syn_time_out(now);
        }
        if self.stall_limit().is_some_and(|at| at <= now) {
            return self.give_up();
        }
        if self.half_closed_limit().is_some_and(|at| at <= now) {
            return self.end(Some(Reason::TimedOut));
        }
        self.widen(now);
        self.receiver.waited(now);
        if self.held.is_some_and(|since| since + CORK <= now) {
            self.push();
        }
        self.sender.wake_from_pace(now);
        self.ask(now);
        if self.sender.timer.at().is_some_and(|at| at <= now) {
            self.sender_time(now);
        }
    }

    fn sender_time(&mut self, now: Instant) {
        let sender = &mut self.sender;
        match sender.timer {
            Timer::Off => {}
            Timer::Reorder(_) => sender.stop_waiting(now),
            Timer::Probe(_) => {
                sender.probe_wanted = true;
                sender.counts.probes += 1;
                sender.timer_base = now;
                sender.set_timer(now);
            }
            Timer::Retransmit(_) => {
                sender.time_out(now);
                self.suspect_black_hole(now);
            }
            Timer::Persist(_) => {
                // "The first zero-window probe when a zero window has existed for the retransmission timeout period, and
                // SHOULD increase exponentially the interval between successive probes."
                sender.rtt.backoff += 1;
                sender.timer = Timer::Persist(now + sender.rtt.timeout());
                // As much as the window takes, however little, or a question.
                sender.most_window = sender.most_window.min(2 * sender.edge.saturating_sub(sender.next));
                self.questions.wanted = true;
            }
        }
    }

    /// When data that is not acknowledged ends the connection. A peer that answers, though its window stays closed, is
    /// alive (RFC 9293 section 3.8.6.1: "MUST allow the connection to stay open").
    fn stall_limit(&self) -> Option<Instant> {
        if !self.is_synchronized() {
            return None;
        }
        let since = self.sender.stalled?;
        Some(match self.settings.user_timeout {
            None => since.max(self.heard) + STALL,
            Some(user) => since + user,
        })
    }

    fn half_closed_limit(&self) -> Option<Instant> {
        let since = self.half_closed.filter(|_| self.orphan && self.state == State::FinWait2)?;
        Some(since.max(self.heard) + self.settings.fin_timeout)
    }

    /// The connection has failed: the peer, should it still be there, is told.
    fn give_up(&mut self) {
        self.end(Some(Reason::TimedOut));
        self.reply = Some(Box::new(self.reset()));
    }

    /// When a silent peer is asked next, or given up.
    fn question_at(&self) -> Option<Instant> {
        let keep = self.settings.keep_alive?;
        let open =
            matches!(self.state, State::Established | State::CloseWait | State::FinWait1 | State::FinWait2);
        if !open || self.sender.stalled.is_some() {
            return None;
        }
        let Questions { unanswered, asked, .. } = self.questions;
        Some(if unanswered == 0 { self.heard + keep.idle } else { asked + keep.interval })
    }

    fn ask(&mut self, now: Instant) {
        let (Some(at), Some(keep)) = (self.question_at(), self.settings.keep_alive) else { return };
        if at > now {
            return;
        }
        let silent = self.settings.user_timeout.is_some_and(|user| now.since(self.heard) >= user);
        if self.questions.unanswered >= keep.count || silent && self.questions.unanswered > 0 {
            return self.give_up();
        }
        self.questions = Questions { wanted: true, unanswered: self.questions.unanswered + 1, asked: now };
    }
}

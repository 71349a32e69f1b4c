//! A segment arrives at a connection that has begun. Read RFC 9293 section 3.10.7.4, RFC 5961 sections 3 to 5 and 7 (blind
//! attacks) and RFC 7323 section 5 (PAWS) first; the steps below are those of RFC 9293, in their order.

use std::time::Duration;

use crate::buffer::Pool;
use crate::connection::{Arrival, Connection, Reason, State};
use crate::receiver::Due;
use crate::segment::{Flags, Header, Segment};
use crate::sender::{Ack, Timer};
use crate::seq::FIRST;
use crate::time::Instant;

/// "TS.Recent [...] is invalid if the connection has been idle for more than 24 days" (RFC 7323 section 5.5).
const STALE: Duration = Duration::from_secs(24 * 24 * 3600);
/// How often segments out of the window are answered at most (RFC 5961 section 7; `tcp_invalid_ratelimit`, ip-sysctl).
const CHALLENGE: Duration = Duration::from_millis(500);

impl Connection {
    /// Handles a segment that came for this connection. Its checksum was checked.
    pub fn input(&mut self, segment: &Segment<'_>, now: Instant, pool: &mut Pool) -> Arrival {
        match self.state {
            State::Closed => return Arrival::default(),
            State::SynSent => {
                self.input_syn_sent(segment, now);
                if self.state != State::Established && self.state != State::FinWait1 {
                    return Arrival::default();
                }
                // Data may come with the answer to a SYN: it stands behind it.
                let start = FIRST + 1;
                // What left with the SYN may be acknowledged (RFC 7413).
                let freed = self.sender.una.saturating_sub(FIRST + 1) as usize;
                let mut arrival = Arrival { freed, ..Arrival::default() };
                let done = self.sender.una.min(self.sender.written);
                self.sender.bytes.release(done, done == self.sender.written, pool);
                self.take_text(segment, start, &mut arrival, now, pool);
                return arrival;
            }
            _ => {}
        }
        let near = self.receiver.next;
        let header = &segment.header;
        let mut start = self.receiver.numbers.position(header.seq, near);
        if header.flags.has(Flags::SYN) {
            // A SYN stands before the first byte. With an ACK it may be the other end's answer to ours, when both began.
            let answer = header.flags.has(Flags::ACK) && self.state == State::SynReceived && start == FIRST;
            if !answer {
                self.input_syn(start, header, now);
                return Arrival::default();
            }
            start += 1;
        }
        if !self.is_current(segment, start, now) || !self.is_acceptable(segment, start, now) {
            return Arrival::default();
        }
        // Second, check the RST bit.
        if header.flags.has(Flags::RST) {
            self.input_reset(start, now, pool);
            return Arrival::default();
        }
        // Fifth, check the ACK field: "If the ACK bit is off, drop the segment and return".
        if !header.flags.has(Flags::ACK) {
            return Arrival::default();
        }
        let Some(mut arrival) = self.input_ack(segment, start, now, pool) else { return Arrival::default() };
        if self.state == State::Closed {
            return arrival;
        }
        self.heard = now;
        self.questions.unanswered = 0;
        if segment.marked && self.ecn {
            self.tell_mark = true;
            self.receiver.due = Due::Now;
        }
        if self.ecn && header.flags.has(Flags::CWR) {
            self.tell_mark = false;
        }
        self.input_urgent(header, start, &mut arrival);
        self.take_text(segment, start, &mut arrival, now, pool);
        arrival
    }

    /// Fourth, check the SYN bit: a connection that exists answers with an acknowledgement (RFC 5961 section 4), so that a
    /// peer which lost its own resets it, and nobody else can.
    fn input_syn(&mut self, start: u64, header: &Header, now: Instant) {
        let first = header.flags.0 & Flags::ACK.0 == 0;
        if self.state == State::SynReceived && start == FIRST && first && self.handshake.again.is_some() {
            // The answer to it was lost.
            self.handshake.wanted = true;
            self.handshake.tries = self.handshake.tries.saturating_sub(1);
            return;
        }
        self.challenge(now);
    }

    /// RFC 7323 section 5.3, R1: "If SEG.TSval < TS.Recent [...] treat the arriving segment as not acceptable".
    fn is_current(&mut self, segment: &Segment<'_>, start: u64, now: Instant) -> bool {
        let Some(stamps) = self.stamps else { return true };
        let reset = segment.header.flags.has(Flags::RST);
        let Some((value, _)) = segment.header.options.timestamps else {
            // "If a non-<RST> segment is received without a TSopt, a TCP SHOULD silently drop the segment" (section 3.2).
            return reset;
        };
        let old = (value.wrapping_sub(stamps.recent) as i32) < 0;
        if old && !reset && now.since(stamps.recent_at) < STALE {
            if !segment.payload.is_empty() && start < self.receiver.next {
                let end = start + segment.payload.len() as u64;
                self.receiver.ranges.saw_twice(start, end.min(self.receiver.next));
            }
            self.answer_stray(segment, now);
            return false;
        }
        true
    }

    /// First, check the sequence number. As in Linux, a segment is acceptable that touches what was acknowledged last or
    /// lies in the window: that is wider than RFC 9293's test by what is not yet acknowledged. "If the RCV.WND is zero, no
    /// segments will be acceptable, but special allowance should be made to accept valid ACKs, URGs, and RSTs."
    fn is_acceptable(&mut self, segment: &Segment<'_>, start: u64, now: Instant) -> bool {
        let end = start + u64::from(segment.len());
        if end >= self.receiver.acked && start <= self.receiver.edge.max(self.receiver.next) {
            return true;
        }
        if !segment.header.flags.has(Flags::RST) {
            if start < self.receiver.next && !segment.payload.is_empty() {
                // RFC 2883: it has come before.
                let last = start + segment.payload.len() as u64;
                self.receiver.ranges.saw_twice(start, last.min(self.receiver.next));
            }
            self.answer_stray(segment, now);
        }
        false
    }

    /// "If an incoming segment is not acceptable, an acknowledgment should be sent in reply": always to one with data, and
    /// otherwise at a bounded rate, as two ends could do so forever.
    fn answer_stray(&mut self, segment: &Segment<'_>, now: Instant) {
        if segment.payload.is_empty() {
            self.challenge(now);
        } else {
            self.receiver.due = Due::Now;
        }
    }

    /// An acknowledgement that shows a peer where the connection stands; a forged segment gains no more than that.
    fn challenge(&mut self, now: Instant) {
        if self.challenged.is_none_or(|at| now.since(at) >= CHALLENGE) {
            self.challenged = Some(now);
            self.sender.counts.challenges += 1;
            self.receiver.due = Due::Now;
        }
    }

    /// RFC 5961 section 3.2: "If the RST bit is set and the sequence number exactly matches the next expected sequence
    /// number (RCV.NXT), then TCP MUST reset the connection"; in the window it is answered with a challenge.
    fn input_reset(&mut self, start: u64, now: Instant, pool: &mut Pool) {
        if start != self.receiver.next {
            if start > self.receiver.next {
                self.challenge(now);
            }
            return;
        }
        let refused = self.state == State::SynReceived && !self.handshake.passive;
        self.end(Some(if refused { Reason::Refused } else { Reason::Reset }));
        self.release_sent(pool);
    }

    /// Fifth, the ACK field. `None` if the segment is to be dropped.
    fn input_ack(
        &mut self,
        segment: &Segment<'_>,
        start: u64,
        now: Instant,
        pool: &mut Pool,
    ) -> Option<Arrival> {
        let header = &segment.header;
        let ack = self.sender.numbers.position(header.ack, self.sender.una);
        if self.state == State::SynReceived {
            // "If SND.UNA < SEG.ACK =< SND.NXT, then enter ESTABLISHED state [...]. If the segment acknowledgment is not
            // acceptable, form a reset segment <SEQ=SEG.ACK><CTL=RST>".
            if ack <= FIRST || ack > self.sender.next {
                let reset = Header { seq: header.ack, flags: Flags::RST, ..Header::default() };
                self.reply = Some(Box::new(reset));
                return None;
            }
            self.establish(header.options.timestamps.map(|(_, echo)| echo), now);
            self.sender.set_timer(now);
            // The first window that is scaled.
            self.sender.window_from = (FIRST, FIRST);
        }
        // RFC 5961 section 5.2: "SND.UNA - MAX.SND.WND =< SEG.ACK =< SND.NXT", or a challenge.
        if ack > self.sender.next || ack + self.sender.most_window < self.sender.una {
            self.challenge(now);
            return None;
        }
        self.note_stamp(segment, start, now);
        if ack < self.sender.una {
            // "If the ACK is a duplicate (SEG.ACK =< SND.UNA), it can be ignored."
            return Some(Arrival::default());
        }
        let window = u64::from(header.window) << self.sender.shift;
        let moved = self.sender.update_window(start, ack, window);
        let before = self.sender.una;
        let mut sacks = [(0, 0); 4];
        let mut count = 0;
        if self.sender.selective {
            for (place, &(first, end)) in sacks.iter_mut().zip(header.options.sack.as_slice()) {
                let near = self.sender.una;
                *place = (self.sender.numbers.position(first, near), self.sender.numbers.position(end, near));
                count += 1;
            }
        }
        let flags = header.flags;
        let bare = segment.payload.is_empty() && !moved && !flags.any(Flags::SYN | Flags::FIN);
        let told = Ack {
            to: ack,
            sacks: sacks.get(..count).unwrap_or_default(),
            echo: self.stamps.and(header.options.timestamps).map(|(_, echo)| echo),
            bare,
            marked: self.ecn && flags.has(Flags::ECE),
        };
        let offset = self.stamp_offset;
        let stamp = |at: Instant| (at.millis() as u32).wrapping_add(offset);
        self.sender.acknowledge(&told, stamp, now);
        if matches!(self.sender.timer, Timer::Persist(_)) && self.sender.edge > self.sender.next {
            // The window is open.
            self.sender.rtt.backoff = 0;
            self.sender.timer = Timer::Off;
        }
        let mut arrival = Arrival::default();
        if self.sender.una > before {
            let done = self.sender.una.min(self.sender.written);
            let all = done == self.sender.written;
            self.sender.bytes.release(done, all, pool);
            arrival.freed = done.saturating_sub(before.max(FIRST + 1)) as usize;
            self.sender.stalled = (self.sender.una < self.sender.end()).then_some(now);
            self.grow_send_buffer(pool);
            self.judge_size(now);
        }
        self.after_fin_acknowledged(now);
        Some(arrival)
    }

    /// RFC 7323 section 4.3: "If SEG.TSval >= TS.Recent and SEG.SEQ <= Last.ACK.sent then SEG.TSval is copied to
    /// TS.Recent".
    fn note_stamp(&mut self, segment: &Segment<'_>, start: u64, now: Instant) {
        let acked = self.receiver.acked;
        if let (Some(stamps), Some((value, _))) = (&mut self.stamps, segment.header.options.timestamps)
            && (value.wrapping_sub(stamps.recent) as i32 >= 0 || now.since(stamps.recent_at) >= STALE)
            && start <= acked
        {
            stamps.recent = value;
            stamps.recent_at = now;
        }
    }

    /// Our FIN may be acknowledged now.
    fn after_fin_acknowledged(&mut self, now: Instant) {
        if !self.sender.finished || self.sender.una < self.sender.end() {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                self.half_closed = Some(now);
            }
            State::Closing => self.state = State::TimeWait,
            State::LastAck => self.end(None),
            _ => {}
        }
    }

    /// Sixth, the URG bit: "RCV.UP <- max(RCV.UP,SEG.UP), and signal the user that the remote side has urgent data".
    fn input_urgent(&mut self, header: &Header, start: u64, arrival: &mut Arrival) {
        let open = matches!(self.state, State::Established | State::FinWait1 | State::FinWait2);
        if header.flags.has(Flags::URG) && open {
            let mark = start + u64::from(header.urgent);
            if mark > self.receiver.urgent && mark > self.receiver.next {
                self.receiver.urgent = mark;
                arrival.urgent = true;
            }
        }
    }

    /// Seventh, the segment text, and eighth, the FIN bit.
    fn take_text(
        &mut self,
        segment: &Segment<'_>,
        start: u64,
        arrival: &mut Arrival,
        now: Instant,
        pool: &mut Pool,
    ) {
        // In CLOSE-WAIT and later "this should not occur since a FIN has been received from the remote side. Ignore".
        let open = matches!(self.state, State::Established | State::FinWait1 | State::FinWait2);
        if !open {
            if !segment.is_empty() {
                self.receiver.due = Due::Now;
            }
            return;
        }
        let early = !segment.payload.is_empty() && start > self.receiver.next;
        self.sender.counts.out_of_order += u32::from(early);
        arrival.received = self.receiver.take(start, segment.payload, now, pool);
        let end = start + segment.payload.len() as u64;
        let fin = segment.header.flags.has(Flags::FIN) && end <= self.receiver.edge;
        let over = fin && self.receiver.take_fin(end) || self.receiver.pass_fin();
        if fin && !over {
            self.receiver.due = Due::Now;
        }
        if !over {
            return;
        }
        arrival.finished = true;
        self.state = match self.state {
            State::Established => State::CloseWait,
            // "If our FIN has been ACKed (perhaps in this segment), then enter TIME-WAIT [...]; otherwise, enter the
            // CLOSING state." An acknowledged FIN has left FIN-WAIT-1 above.
            State::FinWait1 => State::Closing,
            State::FinWait2 => State::TimeWait,
            other => other,
        };
    }
}

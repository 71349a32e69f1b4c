//! What leaves: retransmissions, new data, questions and acknowledgements. Read RFC 9293 sections 3.7.4 (Nagle), 3.8.1 and
//! 3.8.6.2.1 (silly windows), RFC 6298 section 5 and RFC 3042 (limited transmit) first.

use std::time::Duration;

use crate::connection::{Connection, State};
use crate::receiver::Due;
use crate::recovery::{Forward, Phase};
use crate::segment::{Flags, Header};
use crate::sender::{Pacing, Probe, Timer};
use crate::seq::FIRST;
use crate::time::Instant;

/// How long a small segment is held back for more (tcp(7), `TCP_CORK`).
pub(crate) const CORK: Duration = Duration::from_millis(200);

/// How late a paced segment may be, at least, without a loss of rate.
const SLACK: Duration = Duration::from_millis(1);

/// A segment that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The header.
    pub header: Header,
    /// Where the payload stands, and how long it is.
    start: u64,
    len: usize,
    /// Payload of the pieces into which the segment is to be cut on its way; 0 if it fits as it is.
    pub segment_size: u16,
    /// Whether the packet may be marked by routers: ECT(0) (RFC 3168 section 6.1.2).
    pub ecn_capable: bool,
}

impl Transmit {
    /// Gives the segment a payload.
    pub(crate) fn hold(&mut self, start: u64, len: usize) {
        (self.start, self.len) = (start, len);
    }

    pub(crate) fn bare(header: Header) -> Self {
        Transmit { header, start: 0, len: 0, segment_size: 0, ecn_capable: false }
    }

    /// Length of header and payload, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.header.len() + self.len
    }

    /// A segment is never empty: it has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Length of the payload, in bytes.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.len
    }
}

/// A piece of what is to be sent: from a position, a number of data bytes, and whether the FIN follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    start: u64,
    len: u64,
    fin: bool,
}

impl Connection {
    /// Writes a segment, its payload included, to the first [`Transmit::len`] bytes of `buf`. The checksum is left 0.
    ///
    /// # Panics
    /// If `buf` is shorter.
    pub fn write(&self, transmit: &Transmit, ports: (u16, u16), buf: &mut [u8]) {
        let header = transmit.header.len();
        transmit.header.emit(ports, &mut buf[..header]);
        self.sender.bytes.read(transmit.start, &mut buf[header..header + transmit.len]);
    }

    /// The next segment that is to leave, if there is one. It counts as sent.
    pub fn transmit(&mut self, now: Instant) -> Option<Transmit> {
        if let Some(reply) = self.reply.take() {
            return Some(Transmit::bare(*reply));
        }
        match self.state {
            State::Closed => return None,
            State::SynSent | State::SynReceived => {
                if self.handshake.wanted {
                    let syn = self.syn(now);
                    return Some(self.with_data(syn));
                }
                if !self.is_early() {
                    return None;
                }
            }
            _ => {}
        }
        // What has come out of order is told by an acknowledgement of its own, as data leaves no room for it.
        let special = !self.receiver.ranges.is_empty() || self.receiver.ranges.has_news();
        if self.receiver.due == Due::Now && special {
            return Some(self.acknowledgement(now));
        }
        if let Some(piece) = self.choose(now) {
            return Some(self.emit(piece, now));
        }
        if self.questions.wanted {
            self.questions.wanted = false;
            return Some(self.question(now));
        }
        (self.receiver.due == Due::Now).then(|| self.acknowledgement(now))
    }

    /// A segment without data.
    fn acknowledgement(&mut self, now: Instant) -> Transmit {
        let mut header = self.header(self.sender.next, now);
        if self.handshake_allows_sack() {
            let most = if header.options.timestamps.is_some() { 3 } else { 4 };
            header.options.sack = self.receiver.ranges.blocks(most, self.receiver.numbers);
        }
        let repeat = self.receiver.acked == self.receiver.next;
        self.receiver.on_ack_sent(false, now);
        self.receiver.tell_rest(self.sender.selective, repeat);
        Transmit::bare(header)
    }

    fn handshake_allows_sack(&self) -> bool {
        // Both ways or not at all (RFC 2018 section 2).
        self.sender.selective
    }

    fn header(&mut self, start: u64, now: Instant) -> Header {
        let mut flags = Flags::ACK;
        if self.tell_mark {
            flags |= Flags::ECE;
        }
        Header {
            seq: self.sender.numbers.wire(start),
            ack: self.receiver.numbers.wire(self.receiver.next),
            flags,
            window: self.receiver.window(),
            urgent: 0,
            options: self.common_options(now),
        }
    }

    /// A question that the peer answers with an acknowledgement: it has the number before the first that it has not
    /// acknowledged (RFC 9293 section 3.8.4; a probe of a closed window in Linux is the same).
    fn question(&mut self, now: Instant) -> Transmit {
        let header = self.header(self.sender.una.saturating_sub(1), now);
        self.receiver.on_ack_sent(false, now);
        Transmit::bare(header)
    }

    /// Most payload that leaves as one segment.
    fn whole(&self) -> u64 {
        let mss = self.sender.window.mss;
        let mut whole = self.path.whole as u64;
        if let Some(rate) = self.sender.window.pacing {
            // No more than leaves in a millisecond, so that the pace is not one of bursts.
            whole = whole.min((rate / 1000).max(2 * mss));
        }
        if whole < 2 * mss { mss } else { whole / mss * mss }
    }

    /// Chooses what data leaves next, and cuts it to size.
    fn choose(&mut self, now: Instant) -> Option<Piece> {
        let sending = matches!(
            self.state,
            State::Established | State::CloseWait | State::FinWait1 | State::Closing | State::LastAck
        ) || self.is_early();
        if !sending {
            return None;
        }
        if self.sender.probe_wanted {
            self.sender.probe_wanted = false;
            return self.probe();
        }
        self.sender.wake_from_pace(now);
        if self.sender.pace > now && self.sender.window.pacing.is_some() {
            self.sender.pacing = Pacing::Held;
            return None;
        }
        let piece = if self.sender.board.lost() > 0 && !self.prefers_new() {
            self.repetition()
        } else {
            self.new_data(now)
        };
        if piece.is_none() {
            // Something else holds data back; the time until then is not made up for.
            self.sender.pacing = Pacing::Open;
        }
        piece
    }

    /// F-RTO: whether new data leaves before more is sent again (RFC 5682 section 3.1, step 2 b). Without new data it
    /// cannot be told whether the time-out was in vain.
    fn prefers_new(&mut self) -> bool {
        let Phase::Loss { recover, forward: Forward::New } = self.sender.phase else { return false };
        let sender = &mut self.sender;
        let can = sender.end() > sender.next
            && sender.edge > sender.next
            && sender.next < recover + 2 * sender.window.mss;
        if !can && sender.next <= recover {
            sender.phase = Phase::Loss { recover, forward: Forward::Off };
        }
        can
    }

    /// The probe of the tail (RFC 8985 section 7.3): new data if there is some, else the last segment again.
    fn probe(&mut self) -> Option<Piece> {
        let sender = &mut self.sender;
        let mss = sender.window.mss;
        let unsent = sender.written.saturating_sub(sender.next);
        let usable = sender.edge.saturating_sub(sender.next);
        let len = unsent.min(usable).min(mss);
        let piece = if len > 0 {
            let fin = sender.finished && len == unsent && usable > len;
            Some(Piece { start: sender.next, len, fin })
        } else {
            sender.board.last_piece(mss).map(|last| piece_of(last.start, last.end, sender.written))
        };
        let repeated = len == 0;
        let end = piece
            .map_or(sender.next, |p| if repeated { sender.next } else { p.start + p.len + u64::from(p.fin) });
        sender.probe = piece.map(|_| Probe { end, repeated });
        piece
    }

    /// Lost data that may leave.
    fn repetition(&mut self) -> Option<Piece> {
        let whole = self.whole();
        let sender = &mut self.sender;
        let lost = sender.board.first_lost()?;
        let mss = sender.window.mss;
        let room = sender.window.congestion.saturating_sub(sender.in_flight());
        let alone = sender.board.in_flight() == 0;
        if room < mss.min(lost.len()) && !alone {
            sender.limited = true;
            return None;
        }
        let mut len = lost.len().min(whole).min(room.max(mss));
        if len > mss {
            len -= len % mss;
        }
        Some(piece_of(lost.start, lost.start + len, sender.written))
    }

    /// New data that may leave.
    fn new_data(&mut self, now: Instant) -> Option<Piece> {
        if let Some((start, len)) = self.size_probe() {
            self.sender.limited |= len == 0;
            return (len > 0).then_some(Piece { start, len, fin: false });
        }
        let whole = self.whole();
        let sender = &mut self.sender;
        let mss = sender.window.mss;
        let unsent = sender.written.saturating_sub(sender.next);
        let fin = sender.finished && sender.next <= sender.written;
        if unsent == 0 && !fin {
            let flight = sender.in_flight();
            if flight < sender.window.congestion && !sender.board.is_empty() {
                sender.limited = false;
                sender.rate.limited_by_sender(flight);
            }
            self.held = None;
            return None;
        }
        if sender.board.is_empty() && sender.next > FIRST + 1 {
            let (idle, timeout) = (now.since(sender.sent_at), sender.rtt.base());
            if idle > timeout {
                sender.controller.get().resumed(&mut sender.window, idle, timeout);
                sender.sent_at = now;
            }
        }
        let usable = sender.edge.saturating_sub(sender.next);
        let room = sender.window.congestion.saturating_sub(sender.in_flight());
        if room < mss.min(unsent.max(1)) {
            sender.limited = true;
            return None;
        }
        let mut len = unsent.min(usable).min(whole).min(room);
        let fin = fin && len == unsent && usable > len;
        if !len.is_multiple_of(mss) && !self.may_send_small(len, fin, now) {
            len -= len % mss;
        }
        if len == 0 && !fin {
            self.wait_for_window(now);
            return None;
        }
        let whole_rest = self.sender.written - self.sender.next == len;
        Some(Piece { start: self.sender.next, len, fin: fin && whole_rest })
    }

    /// Whether the last part of `len` bytes, which fills no segment, may leave.
    fn may_send_small(&mut self, len: u64, fin: bool, now: Instant) -> bool {
        let sender = &self.sender;
        let mss = sender.window.mss;
        let rest = len < sender.written - sender.next;
        if rest {
            // More is there, so the peer's window or the congestion window is what cuts it. "It is strongly recommended
            // that [...] D is sent if min(D,U) >= Fs * Max(SND.WND)", with Fs of 1/2, "or if all queued data can be sent now"
            // (RFC 9293 section 3.8.6.2.1); or if nothing else will open the window.
            return len >= sender.most_window / 2 && len > 0 || len > mss;
        }
        if fin || self.override_silly(len) {
            self.held = None;
            return true;
        }
        if (self.settings.cork || self.more) && self.released < sender.written {
            self.held.get_or_insert(now);
            return false;
        }
        self.held = None;
        // Nagle's algorithm (RFC 9293 section 3.7.4), in Minshall's variant: a small segment waits only for another small one.
        self.settings.no_delay || self.sender.small_end <= self.sender.una
    }

    /// Urgent data does not wait.
    fn override_silly(&self, len: u64) -> bool {
        let sender = &self.sender;
        sender.urgent > sender.next && sender.urgent <= sender.next + len
    }

    /// Data waits for the peer's window: with nothing in flight the peer has to be asked (RFC 9293 section 3.8.6.1).
    fn wait_for_window(&mut self, now: Instant) {
        let sender = &mut self.sender;
        sender.limited = false;
        let flight = sender.in_flight();
        if flight < sender.window.congestion && !sender.board.is_empty() {
            // Samples show the peer's window then, and not what the path carries: a startup must not end by it.
            sender.rate.limited_by_sender(flight);
        }
        let waits = self.held.is_none() && sender.edge.saturating_sub(sender.next) < sender.window.mss;
        if sender.board.is_empty() && sender.timer == Timer::Off && waits {
            sender.timer = Timer::Persist(now + sender.rtt.timeout());
        }
    }

    /// Makes a segment of a piece, and counts it as sent.
    fn emit(&mut self, piece: Piece, now: Instant) -> Transmit {
        let Piece { start, len, fin } = piece;
        let end = start + len + u64::from(fin);
        let mut header = self.header(start, now);
        let new = start >= self.sender.next;
        let probes = new && self.is_size_probe(end);
        let sender = &mut self.sender;
        if start + len == sender.written && len > 0 {
            header.flags |= Flags::PSH;
        }
        if fin {
            header.flags |= Flags::FIN;
        }
        if sender.urgent > start {
            header.flags |= Flags::URG;
            header.urgent = u16::try_from(sender.urgent - start).unwrap_or(u16::MAX);
        }
        if new && sender.say_reduced && len > 0 {
            header.flags |= Flags::CWR;
            sender.say_reduced = false;
        }
        let idle = sender.board.is_empty();
        let bytes = end - start;
        let snapshot = sender.rate.sent(idle, sender.board.in_flight() + bytes, now);
        if new {
            sender.board.push(start, end, now, snapshot);
            sender.next = end;
            if !len.is_multiple_of(sender.window.mss) && !probes {
                sender.small_end = end;
            }
            if idle {
                sender.timer_base = now;
            }
        } else {
            if sender.board.front().is_some_and(|first| first.start == start) {
                sender.timer_base = now;
            }
            sender.board.repeat(start, end, now, snapshot);
            sender.has_repeated(bytes, now);
        }
        if sender.probe.is_some_and(|probe| probe.end >= end) {
            // "After sending a loss probe, the sender MUST arm the RTO timer" (RFC 8985 section 7.3).
            sender.timer_base = now;
        }
        sender.has_sent(bytes);
        self.questions.wanted = false;
        sender.sent_at = now;
        sender.stalled.get_or_insert(now);
        if let Some(rate) = sender.window.pacing.filter(|rate| *rate > 0) {
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
            let took = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            let slack = u64::try_from(sender.slack().as_nanos()).unwrap_or(u64::MAX);
            let late = Instant::from_nanos(now.nanos().saturating_sub(slack));
            sender.pace = sender.pace.max(late) + took;
        }
        sender.set_timer(now);
        let mss = sender.window.mss;
        self.receiver.on_ack_sent(len > 0, now);
        Transmit {
            header,
            start,
            len: len as usize,
            segment_size: if len > mss && !probes { mss as u16 } else { 0 },
            // "ECT [...] MUST NOT be set on retransmitted data packets" (RFC 3168 section 6.1.5).
            ecn_capable: self.ecn && new && len > 0,
        }
    }
}

impl crate::sender::Sender {
    /// How late a paced segment may be without a loss of rate: a quarter of a round trip if the caller woke late, so that
    /// what could have left in the meantime leaves now. Where the window or the program held data back there is nothing to
    /// make up for, and a burst would only meet a full queue.
    fn slack(&self) -> Duration {
        match self.pacing {
            Pacing::Behind => SLACK.max(self.smoothed() / 4),
            Pacing::Open | Pacing::Held => SLACK,
        }
    }

    /// The time for which the pace held data back may be over. If the caller noticed too late, its delay has set the rate,
    /// and not the path: samples must not say that the path is slow.
    pub(crate) fn wake_from_pace(&mut self, now: Instant) {
        if self.pacing != Pacing::Held || self.pace > now {
            return;
        }
        self.pacing = Pacing::Behind;
        if now.since(self.pace) > SLACK {
            let flight = self.in_flight();
            self.rate.limited_by_sender(flight);
        }
    }
}

/// The piece of a range of positions, of which the last may be the FIN's.
fn piece_of(start: u64, end: u64, written: u64) -> Piece {
    let len = end.min(written).saturating_sub(start);
    Piece { start, len, fin: end > written }
}

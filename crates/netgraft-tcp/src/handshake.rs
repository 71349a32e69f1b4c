//! The beginning of a connection: SYN and its answer. Read RFC 9293 sections 3.5 and 3.10.7.3, RFC 7323 sections 2.2 and
//! 3.2, and RFC 3168 section 6.1.1 first.

use std::time::Duration;

use crate::config::{Config, Ecn};
use crate::connection::{Connection, Reason, Stamps, State};
use crate::fastopen::Fast;
use crate::options::{MOST_SHIFT, Options};
use crate::segment::{Flags, Header, Segment};
use crate::seq::FIRST;
use crate::time::Instant;

/// The time-out of the first SYN (RFC 6298 section 2.1).
const SYN_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the answer to a SYN is sent again (`tcp_synack_retries`, ip-sysctl).
const ANSWERS: u32 = 5;
/// The largest segment that every peer takes (RFC 9293 section 3.7.1).
const DEFAULT_MSS: u16 = 536;
/// The least that Linux believes of a peer (`TCP_MIN_SND_MSS`).
const LEAST_MSS: u16 = 48;

/// The SYN of this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    /// One is to be sent now.
    pub(crate) wanted: bool,
    /// How often it was sent, and when it was sent first and last.
    pub(crate) tries: u32,
    pub(crate) first: Instant,
    pub(crate) last: Instant,
    /// When it is sent again.
    pub(crate) again: Option<Instant>,
    /// Whether the peer began.
    pub(crate) passive: bool,
    /// What is offered.
    pub(crate) mss: u16,
    pub(crate) scaling: Option<u8>,
    pub(crate) timestamps: bool,
    pub(crate) sack: bool,
    pub(crate) ecn: bool,
    pub(crate) fast: Fast,
}

impl Handshake {
    pub(crate) fn new(config: &Config, passive: bool, now: Instant) -> Self {
        Handshake {
            wanted: true,
            tries: 0,
            first: now,
            last: now,
            again: None,
            passive,
            mss: config.mss,
            scaling: config.window_scaling.then(|| shift(config.receive.most.max(config.receive.initial))),
            timestamps: config.timestamps,
            sack: config.sack,
            ecn: if passive { config.ecn != Ecn::Off } else { config.ecn == Ecn::Ask },
            fast: Fast::new(config.fast_open, passive),
        }
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            mss: Some(self.mss),
            window_scale: self.scaling,
            sack_permitted: self.sack,
            ..Options::default()
        }
    }
}

/// The least shift with which 16 bits tell a window of `most` bytes.
fn shift(most: usize) -> u8 {
    (0..MOST_SHIFT).find(|shift| most >> shift <= usize::from(u16::MAX)).unwrap_or(MOST_SHIFT)
}

impl Connection {
    /// Begins a connection (RFC 9293 section 3.10.1, an active OPEN). `initial` is its initial sequence number, which
    /// must not be guessed (RFC 6528).
    #[must_use]
    pub fn connect(config: &Config, initial: u32, now: Instant) -> Self {
        let handshake = Handshake::new(config, false, now);
        Connection::new(config, initial, State::SynSent, handshake, now)
    }

    /// Takes up a connection that a SYN asks a listener for (RFC 9293 section 3.10.7.2). `None` if the segment is no
    /// such SYN.
    #[must_use]
    pub fn accept(config: &Config, initial: u32, syn: &Segment<'_>, now: Instant) -> Option<Self> {
        let flags = syn.header.flags;
        if !flags.has(Flags::SYN) || flags.any(Flags::ACK | Flags::RST | Flags::FIN) {
            return None;
        }
        let handshake = Handshake::new(config, true, now);
        let mut connection = Connection::new(config, initial, State::SynReceived, handshake, now);
        connection.negotiate(syn, now);
        connection.handshake.fast.judge(syn.header.options.fast_open);
        Some(connection)
    }

    /// Takes up what the peer's SYN offers.
    pub(crate) fn negotiate(&mut self, syn: &Segment<'_>, now: Instant) {
        let (offer, offered) = (&mut self.handshake, &syn.header.options);
        self.receiver.begin(syn.header.seq);
        self.peer_mss = offered.mss.unwrap_or(DEFAULT_MSS).max(LEAST_MSS);
        // "Both sides MUST send Window Scale options in their <SYN> segments to enable window scaling in either
        // direction" (RFC 7323 section 2.2); so for timestamps and SACK.
        offer.sack &= offered.sack_permitted;
        offer.timestamps &= offered.timestamps.is_some();
        match (offer.scaling, offered.window_scale) {
            (Some(ours), Some(theirs)) => {
                self.receiver.shift = ours;
                self.sender.shift = theirs;
            }
            _ => offer.scaling = None,
        }
        self.sender.selective = offer.sack;
        if let Some((value, _)) = offered.timestamps.filter(|_| offer.timestamps) {
            self.stamps = Some(Stamps { recent: value, recent_at: now });
        }
        // RFC 3168 section 6.1.1: a SYN asks with both flags, its answer agrees with ECE alone.
        let flags = syn.header.flags;
        let agreed = if flags.has(Flags::ACK) {
            flags.has(Flags::ECE) && !flags.has(Flags::CWR)
        } else {
            flags.has(Flags::ECE | Flags::CWR)
        };
        offer.ecn &= agreed;
        self.ecn = offer.ecn;
        self.receiver.numbers.initial = syn.header.seq;
        // "The window field in a segment where the SYN bit is set MUST NOT be scaled."
        let window = u64::from(syn.header.window);
        self.sender.window_from = (FIRST, FIRST);
        self.sender.edge = self.sender.una.max(FIRST + 1) + window;
        self.sender.most_window = self.sender.most_window.max(window);
        self.fit();
    }

    /// The SYN, or the answer to one.
    pub(crate) fn syn(&mut self, now: Instant) -> Header {
        let answer = self.state != State::SynSent;
        let handshake = &mut self.handshake;
        handshake.wanted = false;
        if handshake.tries == 0 {
            handshake.first = now;
        }
        handshake.last = now;
        let limit =
            self.settings.user_timeout.filter(|_| !handshake.passive).map(|most| handshake.first + most);
        let again = now + SYN_TIMEOUT * (1 << handshake.tries.min(16));
        handshake.again = Some(limit.map_or(again, |limit| limit.min(again)));
        handshake.tries += 1;
        // RFC 3168 section 6.1.1.1: one that was not answered goes without.
        let ecn = handshake.ecn && handshake.tries <= 2;
        let mut options = handshake.options();
        let mut flags = Flags::SYN;
        let (mut ack, mut echo) = (0, 0);
        if answer {
            flags |= Flags::ACK;
            ack = self.receiver.numbers.wire(self.receiver.next);
            echo = self.stamps.map_or(0, |stamps| stamps.recent);
            if self.ecn {
                flags |= Flags::ECE;
            }
        } else if ecn {
            flags |= Flags::ECE | Flags::CWR;
        }
        options.timestamps = self.handshake.timestamps.then(|| (self.stamp(now), echo));
        options.fast_open = self.handshake.fast.option(answer, self.handshake.tries);
        self.sender.next = self.sender.next.max(FIRST + 1);
        let window = self.receiver.first_window();
        if answer {
            self.receiver.on_ack_sent(false, now);
        }
        Header { seq: self.sender.numbers.wire(FIRST), ack, flags, window, urgent: 0, options }
    }

    /// The time of a SYN without an answer has come.
    pub(crate) fn syn_time_out(&mut self, now: Instant) {
        if self.handshake.again.is_none_or(|at| at > now) {
            return;
        }
        let tries = self.handshake.tries;
        let most = if self.handshake.passive { ANSWERS } else { self.settings.syn_retries };
        let late = self.settings.user_timeout.is_some_and(|most| now.since(self.handshake.first) >= most);
        if tries > most || late && !self.handshake.passive {
            return self.end(Some(Reason::TimedOut));
        }
        self.handshake.wanted = true;
        self.handshake.again = None;
    }

    /// A segment in state SYN-SENT (RFC 9293 section 3.10.7.3).
    pub(crate) fn input_syn_sent(&mut self, segment: &Segment<'_>, now: Instant) {
        let header = &segment.header;
        let flags = header.flags;
        // First: "If SEG.ACK =< ISS or SEG.ACK > SND.NXT, send a reset (unless the RST bit is set) <SEQ=SEG.ACK><CTL=RST>".
        if flags.has(Flags::ACK) {
            let ack = self.sender.numbers.position(header.ack, FIRST);
            if ack <= FIRST || ack > self.sender.next {
                if !flags.has(Flags::RST) {
                    let reset = Header { seq: header.ack, flags: Flags::RST, ..Header::default() };
                    self.reply = Some(Box::new(reset));
                }
                return;
            }
        }
        // Second: "If the ACK was acceptable, [...] connection reset". Otherwise it is a blind attack.
        if flags.has(Flags::RST) {
            if flags.has(Flags::ACK) {
                self.end(Some(Reason::Refused));
            }
            return;
        }
        // Fourth: the SYN.
        if !flags.has(Flags::SYN) {
            return;
        }
        self.negotiate(segment, now);
        self.heard = now;
        if flags.has(Flags::ACK) {
            self.take_fast_answer(header);
            self.establish(header.options.timestamps.map(|(_, echo)| echo), now);
            self.receiver.due = crate::receiver::Due::Now;
        } else {
            // "Otherwise, enter SYN-RECEIVED, form a SYN,ACK segment": both ends began.
            self.state = State::SynReceived;
            self.handshake.wanted = true;
        }
    }

    /// Our SYN is acknowledged.
    pub(crate) fn establish(&mut self, echo: Option<u32>, now: Instant) {
        let handshake = self.handshake;
        self.handshake.again = None;
        self.handshake.wanted = false;
        self.sender.una = self.sender.una.max(FIRST + 1);
        self.sender.next = self.sender.next.max(FIRST + 1);
        if self.state == State::SynSent || self.state == State::SynReceived {
            self.state = if self.sender.finished { State::FinWait1 } else { State::Established };
        }
        let rtt = &mut self.sender.rtt;
        match (handshake.tries, echo, self.stamps.is_some()) {
            // A cookie: nobody knows when it was sent.
            (0, _, _) => {}
            (1, _, _) => rtt.measure(now.since(handshake.last), now),
            // The peer's echo tells which of them was answered (RFC 7323 section 4).
            (_, Some(echo), true) => {
                let took = (now.millis() as u32).wrapping_add(self.stamp_offset).wrapping_sub(echo);
                rtt.measure(Duration::from_millis(u64::from(took.min(60_000))), now);
            }
            _ => rtt.after_lost_syn(),
        }
        if handshake.tries > 2 && self.algorithm() != crate::congestion::Algorithm::Unlimited {
            // "If the SYN or SYN/ACK is lost, the initial window used by a sender after a correctly transmitted SYN MUST be
            // one segment" (RFC 5681 section 3.1); as in Linux, one loss is forgiven (RFC 6928 section 2).
            self.sender.window.congestion = self.sender.window.mss;
        }
        if self.sender.end() > FIRST + 1 {
            self.sender.stalled = Some(now);
        }
        self.sender.sent_at = now;
    }
}

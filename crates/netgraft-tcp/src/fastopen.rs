//! Data in the SYN, for those who have shown before that they are where they say. Read RFC 7413 sections 3, 4.1 and 4.2 first.

use crate::buffer::Pool;
use crate::config::FastOpen;
use crate::connection::{Arrival, Connection, State};
use crate::options::Cookie;
use crate::output::Transmit;
use crate::segment::{Header, Segment};
use crate::seq::FIRST;
use crate::time::Instant;

/// How far Fast Open has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fast {
    /// Not at all.
    Off,
    /// A client: its cookie, the largest payload, and bytes that left with the SYN.
    Asking { cookie: Cookie, mss: u16, sent: u16 },
    /// A client whose peer has answered: the cookie that it gave, if it did, and whether it took the data.
    Answered { cookie: Option<Cookie>, taken: bool },
    /// A server: the cookie that the client must show. With `tell` the answer has it.
    Serving { cookie: Cookie, tell: bool },
    /// A server that takes data before the handshake is complete, and may send some.
    Open,
}

impl Fast {
    pub(crate) fn new(how: FastOpen, passive: bool) -> Self {
        match (how, passive) {
            (FastOpen::Client(cookie, mss), false) => Fast::Asking { cookie, mss, sent: 0 },
            (FastOpen::Server(cookie), true) => Fast::Serving { cookie, tell: false },
            _ => Fast::Off,
        }
    }

    /// Judges the cookie of a SYN. "If the cookie is invalid, [...] generate a SYN-ACK acknowledging (only) the SYN sequence
    /// number and SHOULD include a Fast Open option with the valid cookie" (section 4.2.2, step 2 and 3).
    pub(crate) fn judge(&mut self, shown: Option<Cookie>) {
        *self = match (*self, shown) {
            (Fast::Serving { cookie, .. }, Some(shown)) if shown == cookie => Fast::Open,
            (Fast::Serving { cookie, .. }, Some(_)) => Fast::Serving { cookie, tell: true },
            _ => Fast::Off,
        };
    }

    /// The option of a SYN that leaves for the `tries`th time, or of its answer. A SYN that was lost may have been lost for
    /// its option: those that follow have none (section 4.2.1: "retransmit the SYN without data and without Fast Open").
    pub(crate) fn option(&self, answer: bool, tries: u32) -> Option<Cookie> {
        match *self {
            Fast::Asking { cookie, .. } if !answer && tries <= 1 => Some(cookie),
            Fast::Serving { cookie, tell: true } if answer => Some(cookie),
            _ => None,
        }
    }
}

impl Connection {
    /// Adds data to a SYN that leaves.
    pub(crate) fn with_data(&mut self, header: Header) -> Transmit {
        let mut transmit = Transmit::bare(header);
        let first = self.handshake.tries == 1 && self.state == State::SynSent;
        if let Fast::Asking { cookie, mss, sent } = &mut self.handshake.fast
            && first
            && !cookie.as_slice().is_empty()
        {
            // "The maximum amount of data is [...] the MSS" less the options (section 4.2.1, step 2).
            let room = usize::from(*mss).min(usize::from(self.path.mss)).saturating_sub(header.options.len());
            let unsent = self.sender.written.saturating_sub(FIRST + 1);
            let len = (room as u64).min(unsent) as u16;
            *sent = len;
            transmit.hold(FIRST + 1, usize::from(len));
            self.sender.next = FIRST + 1 + u64::from(len);
        }
        transmit
    }

    /// The peer has answered a SYN that may have had data. What it did not acknowledge has not been sent: "the client sends
    /// the data again after the handshake" (section 4.2.1, step 4).
    pub(crate) fn take_fast_answer(&mut self, header: &Header) {
        let Fast::Asking { cookie, sent, .. } = self.handshake.fast else { return };
        let ack = self.sender.numbers.position(header.ack, FIRST);
        let taken = ack.saturating_sub(FIRST + 1).min(u64::from(sent));
        self.sender.una = FIRST + 1 + taken;
        self.sender.next = self.sender.una;
        // The window counts from there.
        self.sender.edge += taken;
        // Without an answer to its question the peer does not know of cookies; with one that holds it says nothing.
        let given = header.options.fast_open.filter(|given| !given.as_slice().is_empty());
        self.handshake.fast =
            Fast::Answered { cookie: given.or((taken > 0).then_some(cookie)), taken: taken > 0 };
    }

    /// Takes the data of a SYN whose cookie is right (section 4.2.2, step 4). [`Connection::accept`] has no memory to put it
    /// to; a caller that has set [`FastOpen::Server`] calls this next.
    pub fn take_early(&mut self, syn: &Segment<'_>, now: Instant, pool: &mut Pool) -> Arrival {
        let mut arrival = Arrival::default();
        if self.handshake.fast == Fast::Open && self.state == State::SynReceived && self.handshake.tries == 0
        {
            arrival.received = self.receiver.take(FIRST + 1, syn.payload, now, pool);
        }
        arrival
    }

    /// Whether the peer's cookie was right, so that data may pass before the handshake is complete.
    #[must_use]
    pub fn is_early(&self) -> bool {
        self.state == State::SynReceived && self.handshake.fast == Fast::Open
    }

    /// The cookie that the peer has given or confirmed, for the next connection to it; and whether it took data with the SYN.
    #[must_use]
    pub fn fast_open_answer(&self) -> Option<(Option<Cookie>, bool)> {
        match self.handshake.fast {
            Fast::Answered { cookie, taken } => Some((cookie, taken)),
            _ => None,
        }
    }

    /// Whether data came or went with the SYN.
    #[must_use]
    pub fn used_fast_open(&self) -> bool {
        matches!(self.handshake.fast, Fast::Open | Fast::Answered { taken: true, .. })
    }
}

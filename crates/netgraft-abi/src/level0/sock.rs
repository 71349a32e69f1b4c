//! One socket of a level 0 object: what is known of it beside what the object says.

use std::ffi::c_int;
use std::net::SocketAddr;

use netgraft_plugin::{Error, EventInfo, Events, Kind, SocketSpec};

use super::api::{Api, error_of};

/// Where a socket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A stream without a connection, or a datagram socket.
    Fresh,
    Listening,
    /// A connection to there is being made.
    Connecting(SocketAddr),
    Connected,
    /// The attempt or the connection failed.
    Failed,
}

pub(super) struct Sock {
    /// The object's handle.
    pub(super) raw: c_int,
    pub(super) spec: SocketSpec,
    pub(super) phase: Phase,
    /// The pending error. It is kept here: the object's `SO_ERROR` may or may not be cleared by reading it.
    pub(super) error: Option<Error>,
    pub(super) info: EventInfo,
    /// A receive would have blocked, and no event has come since: the object's claim of IN does not count.
    pub(super) in_blocked: bool,
    /// The same for a send, and OUT.
    pub(super) out_blocked: bool,
    /// An event said that the stream may have ended; it may be old. A receive tells.
    pub(super) may_have_ended: bool,
    /// The end of the stream was received.
    pub(super) ended: bool,
    pub(super) write_shut: bool,
}

impl Sock {
    pub(super) fn new(raw: c_int, spec: SocketSpec, phase: Phase) -> Sock {
        Sock {
            raw,
            spec,
            phase,
            error: None,
            info: EventInfo::default(),
            in_blocked: false,
            out_blocked: false,
            may_have_ended: false,
            ended: false,
            write_shut: false,
        }
    }

    fn is_stream(&self) -> bool {
        self.spec.kind == Kind::Stream
    }

    /// An event has come.
    pub(super) fn edge(&mut self, bits: Events) {
        let ends = Events::HUP | Events::RDHUP | Events::ERR;
        if bits.intersects(Events::IN | Events::PRI | ends) {
            self.in_blocked = false;
        }
        if bits.intersects(Events::OUT | ends) {
            self.out_blocked = false;
        }
        // HUP comes with a plain FIN as well.
        if bits.intersects(ends) && self.phase == Phase::Connected {
            self.may_have_ended = true;
        }
    }

    pub(super) fn fail(&mut self, error: Error) {
        self.phase = Phase::Failed;
        self.error = Some(error);
    }

    /// Finds out whether a connection attempt or a connection has ended.
    pub(super) fn look(&mut self, api: &Api) {
        match self.phase {
            Phase::Connecting(addr) => self.look_at_attempt(api, addr),
            Phase::Connected if self.is_stream() => {
                let ends = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
                if api.readiness(self.raw).is_some_and(|bits| bits & ends != 0)
                    && let Some(error) = self.pending(api)
                {
                    self.fail(error);
                }
            }
            _ => {}
        }
    }

    fn look_at_attempt(&mut self, api: &Api, addr: SocketAddr) {
        // Nothing at all means that it goes on.
        if api.readiness(self.raw).is_none_or(|bits| bits == 0) {
            return;
        }
        if let Some(error) = self.pending(api) {
            return self.fail(error);
        }
        // Asking again tells the rest: 0 once, or EISCONN, when it has succeeded.
        match api.connect(self.raw, addr) {
            Ok(_) | Err(libc::EISCONN) => self.phase = Phase::Connected,
            Err(libc::EALREADY | libc::EINPROGRESS | libc::EAGAIN | libc::EINTR) => {}
            Err(errno) => self.fail(error_of(errno)),
        }
    }

    /// `SO_ERROR` of the object.
    pub(super) fn pending(&self, api: &Api) -> Option<Error> {
        match api.get_int(self.raw, libc::SOL_SOCKET, libc::SO_ERROR) {
            Ok(0) | Err(_) => None,
            Ok(errno) => Some(error_of(errno)),
        }
    }

    /// What the socket is ready for now.
    pub(super) fn level(&self, api: &Api) -> Events {
        let error = if self.error.is_some() { Events::ERR } else { Events::empty() };
        match self.phase {
            Phase::Failed => Events::IN | Events::OUT | Events::HUP | Events::RDHUP | error,
            Phase::Connecting(_) => Events::empty(),
            Phase::Listening => self.unless_blocked(self.claim(api) & Events::IN),
            Phase::Fresh if self.is_stream() => self.claim(api) & (Events::OUT | Events::HUP),
            Phase::Fresh | Phase::Connected => {
                let claim = self.claim(api);
                let mut level = self.unless_blocked(claim & (Events::IN | Events::OUT | Events::RDHUP));
                if self.may_have_ended || claim.intersects(Events::HUP | Events::ERR) && !self.in_blocked {
                    level |= Events::IN;
                }
                if self.ended {
                    level |= Events::IN | Events::RDHUP;
                }
                // HUP alone may be a plain FIN; with our own half closed it is what it says.
                if self.write_shut && (self.ended || claim.contains(Events::HUP)) {
                    level |= Events::HUP | Events::RDHUP;
                }
                if !self.is_stream() {
                    level |= claim & Events::ERR;
                }
                level | error
            }
        }
    }

    fn claim(&self, api: &Api) -> Events {
        Events::from_bits_truncate(api.readiness(self.raw).unwrap_or(0))
    }

    /// Without what a call has found not to be there.
    fn unless_blocked(&self, mut level: Events) -> Events {
        if self.in_blocked {
            level -= Events::IN;
        }
        if self.out_blocked {
            level -= Events::OUT;
        }
        level
    }
}

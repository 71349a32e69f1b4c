//! One socket of a level 0 object: what is known of it beside what the object says.

use std::ffi::c_int;
use std::net::SocketAddr;

use netgraft_plugin::{Error, EventInfo, Events, Kind, SocketSpec};

use super::api::{Api, error_of};

/// What readiness says of a stream that may be over. HUP comes with a plain FIN as well.
const ENDS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

/// Whether a data call that fails with this says that the connection is over. What else it may say, such as that it
/// knows no flags, is of the call alone.
pub(super) fn is_an_end(errno: c_int) -> bool {
    matches!(
        errno,
        libc::ECONNRESET
            | libc::ECONNABORTED
            | libc::ECONNREFUSED
            | libc::EPIPE
            | libc::ETIMEDOUT
            | libc::ENETRESET
            | libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::ENETDOWN
    )
}

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
                if let Some(bits) = api.readiness(self.raw)
                    && bits & ENDS != 0
                    && let Some(error) = self.error_at_end(api, bits)
                {
                    self.fail(error);
                }
            }
            _ => {}
        }
    }

    fn look_at_attempt(&mut self, api: &Api, addr: SocketAddr) {
        // Nothing at all means that it goes on.
        let Some(bits @ 1..) = api.readiness(self.raw) else { return };
        // An error that is reported may be that of an attempt before, unless the object says that this one has ended.
        if bits & ENDS != 0
            && let Some(error) = self.pending(api)
        {
            if !self.has_connected(api, addr, bits) {
                self.fail(error);
            }
            return;
        }
        // Asking again tells the outcome: 0 once, or EISCONN, when it has succeeded.
        match api.connect(self.raw, addr) {
            Ok(_) | Err(libc::EISCONN) => self.phase = Phase::Connected,
            Err(libc::EALREADY | libc::EINPROGRESS | libc::EAGAIN | libc::EINTR) => {
                if let Some(error) = self.pending(api) {
                    self.fail(error);
                }
            }
            Err(errno) => self.fail(error_of(errno)),
        }
    }

    /// Whether an attempt of which `SO_ERROR` tells an error has succeeded all the same, and the connection has come to
    /// an orderly end since: with that some objects say that it was refused. HUP without ERR leaves it open.
    fn has_connected(&mut self, api: &Api, addr: SocketAddr, bits: u32) -> bool {
        let orderly = bits & (libc::EPOLLHUP | libc::EPOLLERR) as u32 == libc::EPOLLHUP as u32;
        let connected = matches!(api.ioctl(self.raw, libc::FIONREAD, 0), Ok(1..))
            || orderly && matches!(api.connect(self.raw, addr), Ok(_) | Err(libc::EISCONN));
        if connected {
            self.phase = Phase::Connected;
        }
        connected
    }

    /// Why a connection has ended, if that was no orderly end.
    ///
    /// HUP and ERR come with a plain FIN, and some objects have an error in `SO_ERROR` then, which a socket whose data
    /// calls do not fail cannot have: an error is one only if a data call says so.
    fn error_at_end(&mut self, api: &Api, bits: u32) -> Option<Error> {
        // A send of nothing says it without touching what is still to be received. After our own end each send fails.
        if bits & libc::EPOLLERR as u32 != 0
            && !self.write_shut
            && let Err(errno) = api.write(self.raw, &[], 0)
            && is_an_end(errno)
        {
            return Some(error_of(errno));
        }
        // With data in the queue there is nothing to ask yet; and without, nothing that a look could take away.
        if self.ended || api.ioctl(self.raw, libc::FIONREAD, 0) != Ok(0) {
            return None;
        }
        match api.peek(self.raw) {
            // Its end is here, whether or not the object's events say more than HUP.
            Ok(0) | Err(libc::ESHUTDOWN) => {
                self.ended = true;
                None
            }
            Err(errno) if is_an_end(errno) => Some(error_of(errno)),
            _ => None,
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

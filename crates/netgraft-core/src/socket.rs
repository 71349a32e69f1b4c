//! A socket of the program, and the states that it goes through.

use std::net::SocketAddr;
use std::time::Duration;

use netgraft_plugin::{Error, Handle, Kind, SocketOption, SocketSpec};

use crate::codec::kept::Kept;
use crate::codec::sockopt::{Ancillary, Direction};
use crate::datagram::Datagram;
use crate::flows::Flowing;
use crate::join::Joined;
use crate::listener::Listening;
use crate::program::{Files, ProgramId};
use crate::stream::Stream;
use crate::surrogate::{Gate, Shown, Watch};

/// What a socket is doing.
pub(crate) enum State<K: Files> {
    /// A stream socket that has neither connected nor listened, or whose blocking `connect` has failed.
    Fresh,
    /// A stream socket that is being connected.
    Connecting(Attempt<K::End>),
    /// A stream socket that is connected.
    Connected(Stream<K::End>),
    /// A stream socket that is connected to another one of the sandbox, past the stack.
    Joined(Joined),
    /// A stream socket that listens.
    Listening(Listening<K::File>),
    /// A stream socket that is over; its surrogate shows it and is used up. Or any socket whose stack is gone.
    Ended(Ended),
    /// A datagram or raw socket.
    Datagram(Datagram<K::End>),
}

/// How a stream socket is being connected.
pub(crate) enum Attempt<E> {
    /// A blocking `connect` waits; the surrogate is as it was.
    Blocking,
    /// A non-blocking `connect` is under way: the surrogate is connected to this end, and its gate is closed.
    Gated(E, Gate),
}

/// What is over, and the local address that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) over: Over,
    pub(crate) local: Option<SocketAddr>,
}

/// The kinds of end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// A non-blocking attempt to connect: the next `connect` says how it ended.
    Attempt,
    /// A connection, by a failure or in both directions.
    Connection,
    /// A listener that was shut down.
    Listener,
}

impl Over {
    pub(crate) fn ended(self) -> Ended {
        Ended { over: self, local: None }
    }
}

/// What tells that the program has closed its last descriptor of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClosedBy {
    /// The sentry's end hangs up.
    End,
    /// The kernel takes the surrogate out of the nursery.
    Nursery,
    /// A watch ([`Watch`]).
    Watch,
}

impl<K: Files> State<K> {
    /// What tells of the last close of a socket in this state.
    pub(crate) fn closed_by(&self) -> ClosedBy {
        match self {
            State::Fresh | State::Connecting(Attempt::Blocking) | State::Joined(_) => ClosedBy::Nursery,
            State::Connecting(Attempt::Gated(..)) => ClosedBy::End,
            State::Connected(stream) if stream.is_shut() => ClosedBy::Watch,
            State::Connected(_) => ClosedBy::End,
            State::Listening(_) | State::Ended(_) | State::Datagram(_) => ClosedBy::Watch,
        }
    }
}

/// An error that no call has reported to the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pending {
    /// There is none.
    #[default]
    None,
    /// Only the sentry knows of it.
    Hidden(Error),
    /// The surrogate shows an error of its own for it: a call that has read that one has reported it.
    Shown(Error),
}

impl Pending {
    pub(crate) fn new(error: Error, shown: Shown) -> Pending {
        match shown {
            Shown::Yes => Pending::Shown(error),
            Shown::No => Pending::Hidden(error),
        }
    }

    /// The error, reported or not.
    pub(crate) fn take(&mut self) -> Option<Error> {
        match std::mem::take(self) {
            Pending::None => None,
            Pending::Hidden(error) | Pending::Shown(error) => Some(error),
        }
    }

    pub(crate) fn is_some(self) -> bool {
        self != Pending::None
    }
}

/// What a stream socket's next handle in the stack is given: Linux keeps it when a connection has failed.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    /// The options that the program has set, each once.
    pub(crate) options: Vec<SocketOption>,
    /// The address that the program has bound it to.
    pub(crate) bound: Option<SocketAddr>,
}

/// Where the program's descriptor of a socket was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The thread.
    pub tid: u32,
    /// Its descriptor.
    pub fd: i32,
}

/// What a connection has from its listener ([`Socket::inheritance`]).
pub(crate) struct Inheritance {
    ancillary: u16,
    kept: Kept,
}

/// Where an entry of the table came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// socket(2), or an earlier sentry.
    Made,
    /// accept(2): it never gets another handle.
    Accepted,
}

/// A socket of the program.
pub(crate) struct Socket<K: Files> {
    /// What it was made as.
    pub(crate) spec: SocketSpec,
    /// Where it came from.
    pub(crate) origin: Origin,
    /// The program that it was made for.
    pub(crate) program: ProgramId,
    /// The process that it was made for, or whose listener accepted it ([`crate::Program::process`]).
    pub(crate) owner: u32,
    /// Its socket in the stack; a stream socket gets one when it first needs it.
    pub(crate) handle: Option<Handle>,
    /// What it is doing.
    pub(crate) state: State<K>,
    /// Where the program's descriptor was last seen.
    pub(crate) seen: Option<Seen>,
    /// The watch for its last close, where nothing else would tell.
    pub(crate) watch: Option<Watch>,
    /// The error that no call has reported.
    pub(crate) pending: Pending,
    /// What outlives a handle.
    pub(crate) setup: Setup,
    /// The flow that it is, if flows are recorded: not of datagrams, which are flows by their peers.
    pub(crate) flow: Option<Box<Flowing>>,
    /// Where a stream socket was connected to last, as the call had it.
    pub(crate) toward: Option<SocketAddr>,
    /// `SO_RCVTIMEO` and `SO_SNDTIMEO`.
    timeouts: [Option<Duration>; 2],
    /// Control messages that the program wants.
    ancillary: u16,
    /// Options from which nothing follows.
    pub(crate) kept: Kept,
}

impl<K: Files> Socket<K> {
    /// A socket in a state.
    pub(crate) fn new(
        spec: SocketSpec,
        program: ProgramId,
        handle: Option<Handle>,
        state: State<K>,
    ) -> Socket<K> {
        Socket {
            spec,
            origin: Origin::Made,
            program,
            owner: 0,
            handle,
            state,
            seen: None,
            watch: None,
            pending: Pending::None,
            setup: Setup::default(),
            flow: None,
            toward: None,
            timeouts: [None; 2],
            ancillary: 0,
            kept: Kept::default(),
        }
    }

    /// The same, as a process's.
    pub(crate) fn of(self, owner: u32) -> Socket<K> {
        Socket { owner, ..self }
    }

    /// A connection that a listener has accepted.
    pub(crate) fn accepted(
        spec: SocketSpec,
        program: ProgramId,
        handle: Handle,
        state: State<K>,
    ) -> Socket<K> {
        Socket { origin: Origin::Accepted, ..Socket::new(spec, program, Some(handle), state) }
    }

    /// Whether only a watch tells of the program's last close ([`State::closed_by`]). A socket that is bound, too, has
    /// something that must be given up at once, and the end of a flow that is recorded is to be known at once.
    pub(crate) fn needs_watch(&self) -> bool {
        self.setup.bound.is_some() && matches!(self.state, State::Fresh)
            || self.flow.is_some() && matches!(self.state, State::Joined(_))
            || self.state.closed_by() == ClosedBy::Watch
    }

    /// Whether its close is to reset the connection (socket(7), `SO_LINGER` with a time of 0).
    pub(crate) fn closes_by_reset(&self) -> bool {
        self.setup.options.contains(&SocketOption::Linger(Some(Duration::ZERO)))
    }

    /// Notes an option that the program has set.
    pub(crate) fn keep_option(&mut self, option: &SocketOption) {
        if self.spec.kind != Kind::Stream || self.origin == Origin::Accepted {
            return;
        }
        match self.setup.options.iter_mut().find(|kept| kept.name() == option.name()) {
            Some(kept) => kept.clone_from(option),
            None => self.setup.options.push(option.clone()),
        }
    }

    /// The stream, if it is connected.
    pub(crate) fn stream(&self) -> Option<&Stream<K::End>> {
        match &self.state {
            State::Connected(stream) => Some(stream),
            _ => None,
        }
    }

    /// The stream, if it is connected.
    pub(crate) fn stream_mut(&mut self) -> Option<&mut Stream<K::End>> {
        match &mut self.state {
            State::Connected(stream) => Some(stream),
            _ => None,
        }
    }

    /// The datagram socket, if it is one.
    pub(crate) fn datagram(&self) -> Option<&Datagram<K::End>> {
        match &self.state {
            State::Datagram(datagram) => Some(datagram),
            _ => None,
        }
    }

    /// The datagram socket, if it is one.
    pub(crate) fn datagram_mut(&mut self) -> Option<&mut Datagram<K::End>> {
        match &mut self.state {
            State::Datagram(datagram) => Some(datagram),
            _ => None,
        }
    }

    /// The listener, if it listens.
    pub(crate) fn listening_mut(&mut self) -> Option<&mut Listening<K::File>> {
        match &mut self.state {
            State::Listening(listening) => Some(listening),
            _ => None,
        }
    }

    /// Whether an attempt to connect is under way.
    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting(_))
    }

    /// A time-out of the socket; `None` waits for ever.
    pub(crate) fn timeout(&self, direction: Direction) -> Option<Duration> {
        self.timeouts[direction as usize]
    }

    /// Sets a time-out.
    pub(crate) fn set_timeout(&mut self, direction: Direction, value: Option<Duration>) {
        self.timeouts[direction as usize] = value;
    }

    /// What a connection has from its listener beside what the stack knows (`sk_clone_lock` of Linux).
    pub(crate) fn inheritance(&self) -> Inheritance {
        Inheritance { ancillary: self.ancillary, kept: self.kept.clone() }
    }

    /// Gives a connection what it has from its listener.
    pub(crate) fn inherit(&mut self, from: Inheritance) {
        self.ancillary = from.ancillary;
        self.kept = from.kept;
    }

    /// Whether the program wants a control message.
    pub(crate) fn wants(&self, kind: Ancillary) -> bool {
        self.ancillary & (1 << kind as u16) != 0
    }

    /// Whether the program wants any control message.
    pub(crate) fn wants_any(&self) -> bool {
        self.ancillary != 0
    }

    /// Notes whether the program wants a control message.
    pub(crate) fn set_wanted(&mut self, kind: Ancillary, on: bool) {
        let bit = 1 << kind as u16;
        self.ancillary = if on { self.ancillary | bit } else { self.ancillary & !bit };
    }
}

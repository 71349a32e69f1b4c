//! The sockets that the sentry serves, found by what the kernel and the stack call them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netgraft_linux::inotify::Watch;
use netgraft_linux::unix::Name;
use netgraft_plugin::{Error, Handle, Kind, SocketOption, SocketSpec};
use netgraft_sentry::sockopt::{Ancillary, Direction};

use super::datagram::Datagram;
use super::listener::Listening;
use super::stream::Stream;

/// Names a socket of the table; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SocketId {
    index: u32,
    generation: u32,
}

impl SocketId {
    /// As an epoll token. The high bit stays clear: those are the loop's own.
    pub(super) fn token(self) -> u64 {
        (u64::from(self.generation & 0x7fff_ffff) << 32) | u64::from(self.index)
    }

    /// Back from an epoll token.
    pub(super) fn from_token(token: u64) -> SocketId {
        SocketId { index: token as u32, generation: (token >> 32) as u32 }
    }
}

/// What a socket is doing.
pub(super) enum State {
    /// A stream socket that has neither connected nor listened, or whose blocking `connect` has failed.
    Fresh,
    /// A blocking `connect` waits; the surrogate is as it was.
    ConnectingBlocked,
    /// A non-blocking `connect` is under way: the surrogate is connected to this end, and its gate is closed by
    /// this many bytes, which are to be read before those of the program.
    ConnectingGated(OwnedFd, usize),
    /// Connected.
    Stream(Stream),
    /// Listening.
    Listening(Listening),
    /// A stream that is over; the surrogate shows it and is used up.
    Ended(Over),
    /// A datagram or raw socket.
    Datagram(Datagram),
}

/// What is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// A non-blocking attempt to connect: the next `connect` says how it ended.
    Attempt,
    /// A connection, by a failure or in both directions.
    Connection,
    /// A listener that was shut down.
    Listener,
}

/// What a stream socket's next handle in the stack is given: Linux keeps it when a connection has failed.
#[derive(Debug, Default)]
pub(super) struct Setup {
    /// The options that the program has set, each once.
    pub(super) options: Vec<SocketOption>,
    /// The address that the program has bound it to.
    pub(super) bound: Option<SocketAddr>,
}

/// Where the program's descriptor of a socket was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The thread.
    pub(super) tid: u32,
    /// Its descriptor.
    pub(super) fd: i32,
}

/// A socket of the program.
pub(super) struct Socket {
    /// What it was made as.
    pub(super) spec: SocketSpec,
    /// Its socket in the stack; a stream socket gets one when it first needs it.
    pub(super) handle: Option<Handle>,
    /// What it is doing.
    pub(super) state: State,
    /// Where the program's descriptor was last seen.
    pub(super) seen: Option<Seen>,
    /// The watch for its last close, where nothing else would tell.
    pub(super) watch: Option<Watch>,
    /// An error that the program has not been told yet.
    pub(super) pending_error: Option<Error>,
    /// The surrogate shows an error of its own for the pending one: who reads that has been told.
    pub(super) shows_error: bool,
    /// What outlives a handle.
    pub(super) setup: Setup,
    /// The local address of the connection, or the attempt, that is over.
    pub(super) past_local: Option<SocketAddr>,
    /// `SO_RCVTIMEO` and `SO_SNDTIMEO`.
    timeouts: [Option<Duration>; 2],
    /// Control messages that the program wants.
    ancillary: u16,
    /// The program's open file (`SO_COOKIE`); unknown for a connection that was accepted without the sentry.
    cookie: Option<u64>,
    /// The name of the sentry's end of an accepted connection.
    name: Option<Name>,
}

impl Socket {
    /// A socket in a state.
    pub(super) fn new(spec: SocketSpec, handle: Option<Handle>, state: State) -> Socket {
        Socket {
            spec,
            handle,
            state,
            seen: None,
            watch: None,
            pending_error: None,
            shows_error: false,
            setup: Setup::default(),
            past_local: None,
            timeouts: [None; 2],
            ancillary: 0,
            cookie: None,
            name: None,
        }
    }

    /// Notes an option that the program has set. An accepted connection never has another handle.
    pub(super) fn keep_option(&mut self, option: &SocketOption) {
        if self.spec.kind != Kind::Stream || self.name.is_some() {
            return;
        }
        match self.setup.options.iter_mut().find(|kept| kept.name() == option.name()) {
            Some(kept) => kept.clone_from(option),
            None => self.setup.options.push(option.clone()),
        }
    }

    /// A time-out of the socket; `None` waits for ever.
    pub(super) fn timeout(&self, direction: Direction) -> Option<Duration> {
        self.timeouts[direction as usize]
    }

    /// Sets a time-out.
    pub(super) fn set_timeout(&mut self, direction: Direction, value: Option<Duration>) {
        self.timeouts[direction as usize] = value;
    }

    /// Whether the program wants a control message.
    pub(super) fn wants(&self, kind: Ancillary) -> bool {
        self.ancillary & (1 << kind as u16) != 0
    }

    /// Whether the program wants any control message.
    pub(super) fn wants_any(&self) -> bool {
        self.ancillary != 0
    }

    /// Notes whether the program wants a control message.
    pub(super) fn set_wanted(&mut self, kind: Ancillary, on: bool) {
        let bit = 1 << kind as u16;
        self.ancillary = if on { self.ancillary | bit } else { self.ancillary & !bit };
    }
}

/// All sockets.
#[derive(Default)]
pub(super) struct Table {
    slots: Vec<(u32, Option<Socket>)>,
    free: Vec<u32>,
    by_cookie: HashMap<u64, SocketId>,
    by_name: HashMap<Name, SocketId>,
    by_handle: HashMap<Handle, SocketId>,
    by_watch: HashMap<Watch, SocketId>,
}

impl Table {
    /// How many sockets there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds a socket.
    pub(super) fn insert(&mut self, socket: Socket) -> SocketId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        let id = SocketId { index, generation: slot.0 };
        if let Some(handle) = socket.handle {
            self.by_handle.insert(handle, id);
        }
        slot.1 = Some(socket);
        id
    }

    /// Removes a socket and all its names.
    pub(super) fn remove(&mut self, id: SocketId) -> Option<Socket> {
        let slot = self.slots.get_mut(id.index as usize).filter(|s| s.0 == id.generation)?;
        let socket = slot.1.take()?;
        slot.0 = (slot.0 + 1) & 0x7fff_ffff;
        self.free.push(id.index);
        if let Some(handle) = socket.handle {
            self.by_handle.remove(&handle);
        }
        if let Some(cookie) = socket.cookie {
            self.by_cookie.remove(&cookie);
        }
        if let Some(name) = socket.name {
            self.by_name.remove(&name);
        }
        if let Some(watch) = socket.watch {
            self.by_watch.remove(&watch);
        }
        Some(socket)
    }

    /// A socket, if it still exists.
    pub(super) fn get(&self, id: SocketId) -> Option<&Socket> {
        self.slots.get(id.index as usize).filter(|s| s.0 == id.generation)?.1.as_ref()
    }

    /// A socket, if it still exists.
    pub(super) fn get_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.slots.get_mut(id.index as usize).filter(|s| s.0 == id.generation)?.1.as_mut()
    }

    /// The socket behind an open file of the program.
    pub(super) fn find_cookie(&self, cookie: u64) -> Option<SocketId> {
        self.by_cookie.get(&cookie).copied()
    }

    /// The connection whose sentry's end has a name.
    pub(super) fn find_name(&self, name: Name) -> Option<SocketId> {
        self.by_name.get(&name).copied()
    }

    /// The socket behind a handle of the stack.
    pub(super) fn find_handle(&self, handle: Handle) -> Option<SocketId> {
        self.by_handle.get(&handle).copied()
    }

    /// The socket that a watch is for.
    pub(super) fn find_watch(&self, watch: Watch) -> Option<SocketId> {
        self.by_watch.get(&watch).copied()
    }

    /// Notes the open file of a socket.
    pub(super) fn set_cookie(&mut self, id: SocketId, cookie: u64) {
        if let Some(socket) = self.get_mut(id) {
            let old = socket.cookie.replace(cookie);
            if let Some(old) = old {
                self.by_cookie.remove(&old);
            }
            self.by_cookie.insert(cookie, id);
        }
    }

    /// The open file of a socket, if it is known.
    pub(super) fn cookie(&self, id: SocketId) -> Option<u64> {
        self.get(id)?.cookie
    }

    /// Notes the name of a connection's end.
    pub(super) fn set_name(&mut self, id: SocketId, name: Name) {
        if let Some(socket) = self.get_mut(id) {
            socket.name = Some(name);
            self.by_name.insert(name, id);
        }
    }

    /// Notes the watch for a socket's last close.
    pub(super) fn set_watch(&mut self, id: SocketId, watch: Watch) {
        if let Some(socket) = self.get_mut(id) {
            socket.watch = Some(watch);
            self.by_watch.insert(watch, id);
        }
    }

    /// Takes the watch of a socket.
    pub(super) fn take_watch(&mut self, id: SocketId) -> Option<Watch> {
        let watch = self.get_mut(id)?.watch.take()?;
        self.by_watch.remove(&watch);
        Some(watch)
    }

    /// Gives a socket its handle, or takes it.
    pub(super) fn set_handle(&mut self, id: SocketId, handle: Option<Handle>) -> Option<Handle> {
        let socket = self.get_mut(id)?;
        let old = std::mem::replace(&mut socket.handle, handle);
        if let Some(old) = old {
            self.by_handle.remove(&old);
        }
        if let Some(handle) = handle {
            self.by_handle.insert(handle, id);
        }
        old
    }

    /// The ids of all sockets.
    pub(super) fn ids(&self) -> impl Iterator<Item = SocketId> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, s)| s.1.is_some())
            .map(|(index, s)| SocketId { index: index as u32, generation: s.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netgraft_plugin::{Domain, Kind, Protocol};

    const SPEC: SocketSpec = SocketSpec { domain: Domain::V4, kind: Kind::Stream, protocol: Protocol::Tcp };

    #[test]
    fn an_id_is_never_used_for_another_socket() {
        let mut table = Table::default();
        let a = table.insert(Socket::new(SPEC, Some(Handle(1)), State::Fresh));
        table.set_cookie(a, 77);
        assert_eq!(SocketId::from_token(a.token()), a);
        assert!(table.remove(a).is_some());
        let b = table.insert(Socket::new(SPEC, Some(Handle(2)), State::Fresh));
        assert_ne!(a, b);
        assert!(table.get(a).is_none() && table.remove(a).is_none());
        assert_eq!(table.find_cookie(77), None);
        assert_eq!(table.find_handle(Handle(1)), None);
        assert_eq!(table.find_handle(Handle(2)), Some(b));
        assert_eq!(table.ids().collect::<Vec<_>>(), [b]);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn timeouts_and_wishes_are_kept_apart() {
        let mut socket = Socket::new(SPEC, None, State::Fresh);
        socket.set_timeout(Direction::Send, Some(Duration::from_secs(1)));
        assert_eq!(socket.timeout(Direction::Receive), None);
        socket.set_wanted(Ancillary::Ttl, true);
        assert!(socket.wants(Ancillary::Ttl) && !socket.wants(Ancillary::Timestamp));
        socket.set_wanted(Ancillary::Ttl, false);
        assert!(!socket.wants_any());
    }
}

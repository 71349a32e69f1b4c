//! `bind`, `listen` and `accept`.

use std::net::SocketAddr;

use netgraft_plugin::{Error, Kind};

use crate::answers::{Answer, Outcome};
use crate::codec::call::{AddressOut, Buffer, Call};
use crate::codec::sockaddr;
use crate::codec::sockopt::Direction;
use crate::core::{Core, Kernel, Request, Subject};
use crate::listener::Listening;
use crate::program::{Caller, InjectError};
use crate::route::Flow;
use crate::socket::{Over, Seen, Socket, State};
use crate::stream::Stream;
use crate::surrogate::Cookie;
use crate::table::SocketId;
use crate::uapi::{self, Errno};

/// `net.core.somaxconn`: the most that a backlog can be.
const SOMAXCONN: u32 = 4096;

impl<K: Kernel> Core<K> {
    /// bind(2)
    pub(crate) fn bind(
        &mut self,
        request: &Request,
        subject: &mut Subject<K>,
        fd: i32,
        addr: Buffer,
    ) -> Outcome {
        let caller = &request.caller;
        let (bytes, len) = self.kernel.read_address(caller, addr)?;
        let id = subject.id;
        let socket = self.table.get(id).ok_or(uapi::EBADF)?;
        let spec = socket.spec;
        let addr = sockaddr::parse_for_bind(spec.domain, &bytes[..len])?;
        match socket.state {
            State::Fresh | State::Datagram(_) => {}
            State::Ended(ended) if ended.over != Over::Connection => self.renew(caller, subject, fd)?,
            _ => return Err(uapi::EINVAL),
        }
        self.require_stack(caller, &Flow::Bind(spec, addr))?;
        if addr.port() == 0 && self.bind_without_port(id, addr)? {
            return Ok(Answer::Value(0));
        }
        if let Some(socket) = self.table.get_mut(id)
            && socket.handle.is_none()
            && socket.setup.bound.is_some_and(|bound| bound.port() == 0)
        {
            // A port that the stack chose is not kept without its connection.
            socket.setup.bound = None;
        }
        let handle = self.handle_of(id)?;
        let cookie = self.table.cookie(id);
        if self.stack.local_addr(handle).is_ok_and(|local| local.port() != 0) {
            return self.bind_again(request, cookie, addr);
        }
        self.stack.bind(handle, addr).map_err(Error::errno)?;
        if let Some(socket) = self.table.get_mut(id) {
            socket.setup.bound = Some(addr);
        }
        self.note_bind(caller, cookie, addr);
        Ok(Answer::Value(0))
    }

    /// A `bind` to an address alone (ip(7), `IP_BIND_ADDRESS_NO_PORT`): whether the port is chosen later, by `connect`.
    fn bind_without_port(&mut self, id: SocketId, addr: SocketAddr) -> Result<bool, Errno> {
        let socket = self.table.get(id).ok_or(uapi::EBADF)?;
        let is_free = socket.setup.bound.is_none()
            && socket.handle.is_none_or(|handle| self.stack.local_addr(handle).is_ok_and(|a| a.port() == 0));
        if !socket.kept.binds_without_port() || socket.spec.kind != Kind::Stream || !is_free {
            return Ok(false);
        }
        let ip = addr.ip().to_canonical();
        if !ip.is_unspecified() && !self.is_own(ip) {
            return Err(uapi::EADDRNOTAVAIL);
        }
        if let Some(socket) = self.table.get_mut(id) {
            socket.setup.bound = Some(addr);
        }
        Ok(true)
    }

    /// A `bind` of a socket that is bound. A signal can hit a thread at the instant of its answer: the kernel takes the
    /// answer, and the call is made again all the same. So what a thread asks for twice in a row, it has.
    pub(crate) fn bind_again(
        &mut self,
        request: &Request,
        cookie: Option<Cookie>,
        addr: SocketAddr,
    ) -> Outcome {
        if cookie.is_none() || request.bound_before != cookie.map(|cookie| (cookie, addr)) {
            return Err(uapi::EINVAL);
        }
        self.note_bind(&request.caller, cookie, addr);
        Ok(Answer::Value(0))
    }

    /// Notes that a thread has bound the socket with this cookie.
    pub(crate) fn note_bind(&mut self, caller: &Caller, cookie: Option<Cookie>, addr: SocketAddr) {
        if let Some(cookie) = cookie {
            self.answers.note_bind(caller.tid, cookie, addr);
        }
    }

    /// listen(2)
    pub(crate) fn listen(
        &mut self,
        caller: &Caller,
        subject: &mut Subject<K>,
        fd: i32,
        backlog: i32,
    ) -> Outcome {
        let id = subject.id;
        let socket = self.table.get(id).ok_or(uapi::EBADF)?;
        let spec = socket.spec;
        let named = match &socket.state {
            State::Fresh => None,
            State::Ended(ended) if ended.over == Over::Listener => {
                self.renew(caller, subject, fd)?;
                None
            }
            State::Listening(listening) => Some(listening.name),
            State::Datagram(_) => return Err(uapi::EOPNOTSUPP),
            _ => return Err(uapi::EINVAL),
        };
        self.require_stack(caller, &Flow::Listen(spec))?;
        // A negative backlog means the most (listen(2) on Linux).
        let backlog = u32::try_from(backlog).unwrap_or(SOMAXCONN).min(SOMAXCONN);
        let handle = self.handle_of(id)?;
        self.bind_late(id)?;
        self.stack.listen(handle, backlog).map_err(Error::errno)?;
        let name = self.kernel.listen(&subject.file, named, spec.domain, backlog)?;
        if let Some(socket) = self.table.get_mut(id) {
            match &mut socket.state {
                State::Listening(listening) => listening.backlog = backlog,
                state => *state = State::Listening(Listening::new(name, backlog)),
            }
        }
        self.note_listener(id);
        Ok(Answer::Value(0))
    }

    /// accept(2) with an address
    pub(crate) fn accept(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        addr: AddressOut,
        flags: i32,
    ) -> Outcome {
        if flags & !(uapi::SOCK_NONBLOCK | uapi::SOCK_CLOEXEC) != 0 {
            return Err(uapi::EINVAL);
        }
        match self.table.get(subject.id).map(|s| &s.state) {
            Some(State::Listening(_)) => {}
            Some(State::Datagram(_)) => return Err(uapi::EOPNOTSUPP),
            _ => return Err(uapi::EINVAL),
        }
        match self.take_connection(subject, flags) {
            Ok(connection) => self.hand_over(&request.caller, subject.id, connection, addr, flags),
            Err(uapi::EAGAIN) if self.kernel.is_nonblocking(&subject.file)? => Err(uapi::EAGAIN),
            Err(uapi::EAGAIN) => self.park(request, subject.id, Direction::Receive),
            Err(errno) => Err(errno),
        }
    }

    fn take_connection(&mut self, subject: &Subject<K>, flags: i32) -> Result<K::File, Errno> {
        let nonblocking = flags & uapi::SOCK_NONBLOCK != 0;
        let listening = self.table.get_mut(subject.id).and_then(Socket::listening_mut);
        if let Some(connection) = listening.and_then(|listening| listening.returned.pop_front()) {
            self.kernel.set_nonblocking(&connection, nonblocking)?;
            return Ok(connection);
        }
        self.kernel.accept(&subject.file, nonblocking)
    }

    /// Gives an accepted connection to the caller, with its peer's address.
    fn hand_over(
        &mut self,
        caller: &Caller,
        listener: SocketId,
        connection: K::File,
        addr: AddressOut,
        flags: i32,
    ) -> Outcome {
        let joined = if self.joins { self.kernel.accepted_pair(&connection) } else { None };
        let new = if joined.is_none() { self.identify(&connection) } else { None };
        let peer = match new {
            Some(id) => self.table.get(id).and_then(|socket| {
                let peer = self.stack.peer_addr(socket.handle?).ok()?;
                Some(sockaddr::encode(socket.spec.domain, peer))
            }),
            None => joined.and_then(|pair| {
                let domain = self.table.get(listener)?.spec.domain;
                Some(sockaddr::encode(domain, pair.peer))
            }),
        };
        // Of a connection that is over already there is no address.
        let bytes = peer.as_ref().map_or(&[][..], |peer| peer.bytes());
        let sent = self
            .kernel
            .write_address(caller, addr, bytes)
            .map_err(InjectError::Full)
            .and_then(|()| self.kernel.inject(caller, &connection, flags & uapi::SOCK_CLOEXEC != 0));
        match sent {
            Ok(fd) => {
                let seen = Seen { tid: caller.tid, fd };
                if let Some(id) = new {
                    if let Some(socket) = self.table.get_mut(id) {
                        socket.seen = Some(seen);
                    }
                    self.tell_owner(id);
                }
                if let Some(pair) = joined {
                    self.accepted.note(pair, seen);
                }
                Ok(Answer::Done)
            }
            Err(error) => {
                // It was not taken: it is the next caller's.
                if let Some(listening) = self.table.get_mut(listener).and_then(Socket::listening_mut) {
                    listening.returned.push_back(connection);
                }
                match error {
                    InjectError::Full(errno) => Err(errno),
                    InjectError::Gone => Ok(Answer::Done),
                }
            }
        }
    }

    /// A connection has come: the first caller that still waits gets it.
    pub(crate) fn serve_parked_accept(&mut self, id: SocketId) {
        if self.parked.has(id) {
            self.serve_parked(id, |call| matches!(call, Call::Accept { .. }));
        }
    }

    /// Makes connections of a listener appear in the queue of its surrogate, as many as it and the budget have room for.
    pub(crate) fn pump_listener(&mut self, id: SocketId) {
        loop {
            let Some(owner) = self.table.get(id).map(|socket| socket.owner) else { return };
            let full = self.is_full(owner).is_some();
            let Some(socket) = self.table.get_mut(id) else { return };
            let (spec, program, inheritance) = (socket.spec, socket.program, socket.inheritance());
            let (State::Listening(listening), Some(handle)) = (&mut socket.state, socket.handle) else {
                return;
            };
            if full {
                return self.work.retry_listener(id);
            }
            let name = listening.name;
            let held = match listening.held.take() {
                Some(held) => held,
                None => match self.stack.accept(handle) {
                    Ok((held, peer)) => {
                        if self.is_unwanted(spec, held, Some(peer)) {
                            self.stack.abort(held, self.time.now);
                            continue;
                        }
                        held
                    }
                    Err(_) => return,
                },
            };
            match self.kernel.offer(name) {
                Ok((end, end_name)) => {
                    let state = State::Connected(Stream::new(end));
                    let mut accepted = Socket::accepted(spec, program, held, state).of(owner);
                    accepted.inherit(inheritance);
                    let new = self.table.insert(accepted);
                    self.table.set_name(new, end_name);
                    self.begin_incoming(new, held);
                    self.start_stream(new);
                    self.counts.connections_in += 1;
                    self.serve_parked_accept(id);
                }
                Err(uapi::EAGAIN | uapi::ENFILE | uapi::EMFILE | uapi::ENOBUFS | uapi::ENOMEM) => {
                    if let Some(listening) = self.table.get_mut(id).and_then(Socket::listening_mut) {
                        listening.held = Some(held);
                    }
                    return self.work.retry_listener(id);
                }
                Err(_) => {
                    // The program has closed its listener.
                    return self.stack.abort(held, self.time.now);
                }
            }
        }
    }

    /// A listener that listens no more: blocked calls return, and its surrogate polls as closed.
    pub(crate) fn end_listener(&mut self, id: SocketId, file: &K::File) {
        self.journal_end(id);
        if let Some(handle) = self.table.set_handle(id, None) {
            self.stack.close(handle, self.time.now);
        }
        let _ = self.kernel.shut(file, netgraft_plugin::Shutdown::Both);
        let Some(socket) = self.table.get_mut(id) else { return };
        let before = std::mem::replace(&mut socket.state, State::Ended(Over::Listener.ended()));
        if let State::Listening(listening) = before {
            self.table.remove_listener(id, listening.bound.addr.port());
            if let Some(held) = listening.held {
                self.stack.abort(held, self.time.now);
            }
            for connection in listening.returned {
                self.reset_waiting(connection);
            }
            self.reset_queue(file);
        }
        for parked in self.parked.take_all(id) {
            self.answer(&parked.caller, Err(uapi::EINVAL));
        }
    }

    /// Resets the connections in the queue of a surrogate that was shut down, as Linux does (tcp(7),
    /// `inet_csk_listen_stop`): AF_UNIX would keep them until the close, and their clients would wait.
    fn reset_queue(&mut self, file: &K::File) {
        // One more than the largest backlog waits at most, and nothing comes any more.
        for _ in 0..=SOMAXCONN {
            match self.kernel.accept(file, true) {
                Ok(connection) => self.reset_waiting(connection),
                Err(_) => return,
            }
        }
    }

    /// Resets a connection that nobody has accepted.
    fn reset_waiting(&mut self, connection: K::File) {
        let joined = if self.joins { self.kernel.accepted_pair(&connection) } else { None };
        match joined {
            // A byte unread makes a reset of the close.
            Some(pair) => {
                if let Some(client) = self.find_side(pair.reversed()) {
                    self.kernel.mark(&client);
                    self.kernel.dispose(client);
                }
            }
            None => {
                if let Some(id) = self.identify(&connection) {
                    self.discard_with_reset(id);
                }
            }
        }
        drop(connection);
    }
}

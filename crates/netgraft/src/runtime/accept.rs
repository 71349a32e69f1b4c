//! `bind`, `listen`, `accept` and `shutdown`.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use netgraft_linux::unix;
use netgraft_plugin::{Error, Shutdown};
use netgraft_sentry::call::{AddressOut, Buffer, Call};
use netgraft_sentry::sockaddr;
use netgraft_sentry::sockopt::Direction;

use super::caller::Caller;
use super::create::errno;
use super::engine::{Answer, Engine, Outcome, Work};
use super::listener::Listening;
use super::table::{Over, Socket, SocketId, State};

/// `net.core.somaxconn`: the most that a backlog can be.
const SOMAXCONN: u32 = 4096;

impl Engine {
    /// bind(2)
    pub(super) fn bind(&mut self, caller: &Caller, fd: i32, addr: Buffer) -> Outcome {
        let Some((id, mut file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        let (bytes, len) = caller.read_address(addr)?;
        let Some(socket) = self.table.get(id) else { return Ok(Answer::Kernel) };
        let addr = sockaddr::parse_for_bind(socket.spec.domain, &bytes[..len])?;
        match socket.state {
            State::Fresh | State::Datagram(_) => {}
            State::Ended(Over::Attempt | Over::Listener) => file = self.renew(caller, id, fd)?,
            _ => return Err(libc::EINVAL),
        }
        // A port whose holder was just closed is free.
        self.harvest_closes();
        if let Some(socket) = self.table.get_mut(id)
            && socket.handle.is_none()
            && socket.setup.bound.is_some_and(|bound| bound.port() == 0)
        {
            // A port that the stack chose is not kept without its connection.
            socket.setup.bound = None;
        }
        let handle = self.handle_of(id)?;
        if self.stack.local_addr(handle).is_ok_and(|local| local.port() != 0) {
            return self.bind_again(caller, self.table.cookie(id), addr);
        }
        self.stack.bind(handle, addr).map_err(Error::errno)?;
        if let Some(socket) = self.table.get_mut(id) {
            socket.setup.bound = Some(addr);
        }
        self.note_bind(caller, self.table.cookie(id), addr);
        self.watch(id, file.as_fd());
        self.journal_datagrams(id, file.as_fd());
        Ok(Answer::Value(0))
    }

    /// A `bind` of a socket that is bound. A signal can hit a thread at the instant of its answer: the kernel takes the
    /// answer, and the call is made again all the same. So what a thread asks for twice in a row, it has.
    pub(super) fn bind_again(&mut self, caller: &Caller, file: Option<u64>, addr: SocketAddr) -> Outcome {
        if file.is_none() || self.bound_before != file.map(|cookie| (cookie, addr)) {
            return Err(libc::EINVAL);
        }
        self.note_bind(caller, file, addr);
        Ok(Answer::Value(0))
    }

    /// Notes that a thread has bound the socket with this cookie.
    pub(super) fn note_bind(&mut self, caller: &Caller, file: Option<u64>, addr: SocketAddr) {
        // Bounded: a dead thread's entry must not stay for ever.
        if self.just_bound.len() >= 256 {
            self.just_bound.clear();
        }
        if let Some(cookie) = file {
            self.just_bound.insert(caller.tid, (cookie, addr));
        }
    }

    /// listen(2)
    pub(super) fn listen(&mut self, caller: &Caller, fd: i32, backlog: i32) -> Outcome {
        let Some((id, mut file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        let Some(socket) = self.table.get(id) else { return Ok(Answer::Kernel) };
        let domain = socket.spec.domain;
        let fresh = match &socket.state {
            State::Fresh => true,
            State::Ended(Over::Listener) => {
                file = self.renew(caller, id, fd)?;
                true
            }
            State::Listening(_) => false,
            State::Datagram(_) => return Err(libc::EOPNOTSUPP),
            _ => return Err(libc::EINVAL),
        };
        self.harvest_closes();
        // A negative backlog means the most (listen(2) on Linux).
        let backlog = u32::try_from(backlog).unwrap_or(SOMAXCONN).min(SOMAXCONN);
        let handle = self.handle_of(id)?;
        self.stack.listen(handle, backlog).map_err(Error::errno)?;
        self.stack_busy = true;
        if fresh {
            let name = self.fresh_listener_name(domain);
            unix::bind(file.as_fd(), name).map_err(|e| errno(&e))?;
            self.watch(id, file.as_fd());
            if let Some(socket) = self.table.get_mut(id) {
                socket.state = State::Listening(Listening::new(name));
            }
        }
        unix::listen(file.as_fd(), backlog as i32).map_err(|e| errno(&e))?;
        self.journal_listener(id, backlog);
        Ok(Answer::Value(0))
    }

    /// accept(2) with an address
    pub(super) fn accept(
        &mut self,
        caller: &Caller,
        call: Call,
        fd: i32,
        addr: AddressOut,
        flags: i32,
    ) -> Outcome {
        if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
            return Err(libc::EINVAL);
        }
        let Some((id, file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        match self.table.get(id).map(|s| &s.state) {
            Some(State::Listening(_)) => {}
            Some(State::Datagram(_)) => return Err(libc::EOPNOTSUPP),
            _ => return Err(libc::EINVAL),
        }
        match self.take_connection(id, &file, flags) {
            Ok(connection) => self.hand_over(caller, id, connection, addr, flags),
            Err(libc::EAGAIN | libc::EINTR) => {
                if unix::is_nonblocking(file.as_fd()).map_err(|e| errno(&e))? {
                    return Err(libc::EAGAIN);
                }
                Ok(self.park(caller, call, id, Direction::Receive))
            }
            Err(code) => Err(code),
        }
    }

    fn take_connection(&mut self, id: SocketId, file: &OwnedFd, flags: i32) -> Result<OwnedFd, i32> {
        if let Some(Socket { state: State::Listening(listening), .. }) = self.table.get_mut(id)
            && let Some(connection) = listening.returned.pop_front()
        {
            let nonblocking = flags & libc::SOCK_NONBLOCK != 0;
            unix::set_nonblocking(connection.as_fd(), nonblocking).map_err(|e| errno(&e))?;
            return Ok(connection);
        }
        unix::accept_bounded(file.as_fd(), flags & libc::SOCK_NONBLOCK != 0)
            .map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Gives an accepted connection to the caller, with its peer's address.
    fn hand_over(
        &mut self,
        caller: &Caller,
        listener: SocketId,
        connection: OwnedFd,
        addr: AddressOut,
        flags: i32,
    ) -> Outcome {
        let new = self.identify(connection.as_fd());
        let peer = new.and_then(|id| self.table.get(id)).and_then(|socket| {
            let peer = self.stack.peer_addr(socket.handle?).ok()?;
            Some(sockaddr::encode(socket.spec.domain, peer))
        });
        let written = match &peer {
            Some(peer) => caller.write_address(addr, peer.bytes()),
            // The connection is over already: there is nothing to say of its peer.
            None => caller.write_address(addr, &[]),
        };
        let sent = match written {
            Ok(()) => {
                let cloexec = flags & libc::SOCK_CLOEXEC != 0;
                self.listener
                    .answer_with_fd(caller.id, connection.as_fd(), cloexec)
                    .map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))
            }
            Err(code) => Err(code),
        };
        match sent {
            Ok(fd) => {
                if let Some(socket) = new.and_then(|id| self.table.get_mut(id)) {
                    socket.seen = Some(super::table::Seen { tid: caller.tid, fd });
                }
                Ok(Answer::Done)
            }
            Err(code) => {
                // Nobody took it: it is the next caller's.
                if let Some(Socket { state: State::Listening(listening), .. }) = self.table.get_mut(listener)
                {
                    listening.returned.push_back(connection);
                }
                match code {
                    libc::EMFILE | libc::ENFILE | libc::EFAULT | libc::EINVAL => Err(code),
                    _ => Ok(Answer::Done),
                }
            }
        }
    }

    /// A connection has come: the first caller that still waits gets it.
    pub(super) fn serve_parked_accept(&mut self, id: SocketId) {
        if self.parked.has(id) {
            self.serve_parked(id, |call| matches!(call, Call::Accept { .. }));
        }
    }

    /// shutdown(2)
    pub(super) fn shutdown(&mut self, caller: &Caller, fd: i32, how: i32) -> Outcome {
        let Some((id, file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        let kind = match how {
            libc::SHUT_RD => Shutdown::Read,
            libc::SHUT_WR => Shutdown::Write,
            libc::SHUT_RDWR => Shutdown::Both,
            _ => return Err(libc::EINVAL),
        };
        self.send_what_was_written(id);
        let Some(socket) = self.table.get_mut(id) else { return Ok(Answer::Kernel) };
        match &mut socket.state {
            State::Stream(stream) => {
                stream.watched = true;
                if kind != Shutdown::Read {
                    // From now on nobody can leave a byte unread to reset the connection.
                    let _ = unix::mark(file.as_fd());
                }
                // What was written before is read first: the end of the stream comes after it.
                unix::shutdown(file.as_fd(), how).map_err(|e| errno(&e))?;
                self.watch(id, file.as_fd());
                if kind != Shutdown::Read {
                    self.pump(id, Work::OutToEnd);
                }
                Ok(Answer::Value(0))
            }
            State::Listening(_) => {
                // It sends nothing: there is nothing to end in that direction.
                if kind != Shutdown::Write {
                    self.end_listener(id, &file);
                }
                Ok(Answer::Value(0))
            }
            State::ConnectingBlocked | State::ConnectingGated(..) => {
                self.fail_connect_by_shutdown(id);
                Ok(Answer::Value(0))
            }
            State::Datagram(_) => {
                let handle = socket.handle.ok_or(libc::ENOTCONN)?;
                self.stack.shutdown(handle, kind, self.now).map_err(Error::errno)?;
                if let State::Datagram(datagram) = &mut socket.state {
                    datagram.shut_in |= kind != Shutdown::Write;
                }
                unix::shutdown(file.as_fd(), how).map_err(|e| errno(&e))?;
                Ok(Answer::Value(0))
            }
            _ => Err(libc::ENOTCONN),
        }
    }

    /// A listener that listens no more: blocked calls return, and its surrogate polls as closed.
    pub(super) fn end_listener(&mut self, id: SocketId, file: &OwnedFd) {
        self.journal_end(id);
        if let Some(handle) = self.table.set_handle(id, None) {
            let _ = self.stack.close(handle, self.now);
        }
        let _ = unix::shutdown(file.as_fd(), libc::SHUT_RDWR);
        let Some(socket) = self.table.get_mut(id) else { return };
        if let State::Listening(listening) =
            std::mem::replace(&mut socket.state, State::Ended(Over::Listener))
            && let Some(held) = listening.held
        {
            let _ = self.stack.abort(held, self.now);
        }
        self.stack_busy = true;
        for parked in self.parked.take_all(id) {
            self.answer(&parked.caller, Err(libc::EINVAL));
        }
    }

    /// A connection attempt that is shut down is over (tcp(7): the socket is reset).
    fn fail_connect_by_shutdown(&mut self, id: SocketId) {
        for parked in self.parked.take_all(id) {
            self.answer(&parked.caller, Err(libc::ECONNRESET));
        }
        if self.table.get(id).is_some_and(|s| matches!(s.state, State::ConnectingBlocked)) {
            // The surrogate is as it was: the program may try again.
            return self.begin_anew(id);
        }
        self.fail_stream(id, Error::ConnectionReset);
    }
}

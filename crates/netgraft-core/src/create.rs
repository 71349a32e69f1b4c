//! `socket`, and the end of sockets.

use std::net::SocketAddr;

use netgraft_plugin::{Error, Handle, Kind};

use crate::answers::{Answer, Outcome};
use crate::codec::call::{self, Call, NewSocket};
use crate::core::{Core, Kernel, Subject};
use crate::datagram::Datagram;
use crate::flows::FlowEnd;
use crate::program::{Caller, InjectError, Privilege};
use crate::pump::Work;
use crate::route::{Flow, Route};
use crate::socket::{Seen, Socket, State};
use crate::stream::Stream;
use crate::surrogate::Interest;
use crate::table::SocketId;
use crate::uapi::{self, Errno};

impl<K: Kernel> Core<K> {
    /// socket(2)
    pub(crate) fn socket(&mut self, caller: &Caller, domain: i32, kind: i32, protocol: i32) -> Outcome {
        if !self.kernel.is_in_sandbox(caller) {
            // A process that has moved to another network namespace has the network of that one.
            return Ok(Answer::Kernel);
        }
        let new = call::new_socket(domain, kind, protocol)?;
        match self.route(caller, &Flow::Socket(new.spec)) {
            Route::Denied(denial) => return Err(denial.errno()),
            Route::Host => return self.host_socket(caller, &new),
            Route::Kernel => {
                let is_raw = new.spec.kind == Kind::Raw;
                // The kernel says what it says to who may not have one.
                if !is_raw || self.kernel.has_privilege(caller, Privilege::NetRaw) {
                    self.prepare_link(new.spec)?;
                }
                self.counts.sockets += 1;
                return Ok(Answer::Kernel);
            }
            Route::Stack | Route::Joined(_) => {}
        }
        if new.spec.kind == Kind::Raw && !self.kernel.has_privilege(caller, Privilege::NetRaw) {
            return Err(uapi::EPERM);
        }
        let owner = self.kernel.process(caller);
        self.make_room(owner)?;
        let (id, file) = match new.spec.kind {
            Kind::Stream => self.new_stream(caller, owner, &new)?,
            Kind::Datagram | Kind::Raw => self.new_datagram(caller, owner, &new)?,
        };
        self.counts.sockets += 1;
        let subject = Subject { id, file };
        let outcome = self.inject(caller, &subject, new.close_on_exec);
        self.watch_close(subject.id, &subject.file);
        self.journal(subject.id, &Call::Socket { domain, kind, protocol });
        outcome
    }

    /// Refuses a socket that is beyond the budget, unless sockets that were closed unnoticed make room.
    pub(crate) fn make_room(&mut self, owner: u32) -> Result<(), Errno> {
        self.sweep_nursery();
        if self.is_full(owner).is_some() {
            self.harvest_closes();
            self.forget_closed();
        }
        if self.is_full(owner) == Some(uapi::ENFILE) {
            self.end_stalest();
        }
        self.is_full(owner).map_or(Ok(()), Err)
    }

    /// The errno for a process that asks for a socket beyond the budget; `None` if there is room.
    pub(crate) fn is_full(&self, owner: u32) -> Option<Errno> {
        if self.table.len() + self.links.len() >= self.budget.sockets {
            Some(uapi::ENFILE)
        } else if self.table.len_of(owner) >= self.budget.process_sockets {
            Some(uapi::EMFILE)
        } else {
            self.short.then_some(uapi::ENOBUFS)
        }
    }

    fn new_stream(
        &mut self,
        caller: &Caller,
        owner: u32,
        new: &NewSocket,
    ) -> Result<(SocketId, K::File), Errno> {
        let file = self.kernel.new_stream(new.spec.domain, new.nonblocking)?;
        let cookie = self.kernel.cookie(&file).ok_or(uapi::EIO)?;
        let id = self.table.insert(Socket::new(new.spec, caller.program, None, State::Fresh).of(owner));
        self.table.set_cookie(id, cookie);
        // Not held: when the program closes its last descriptor, the entry is gone.
        self.kernel.shelter(&file, id);
        Ok((id, file))
    }

    fn new_datagram(
        &mut self,
        caller: &Caller,
        owner: u32,
        new: &NewSocket,
    ) -> Result<(SocketId, K::File), Errno> {
        let handle = self.stack.socket(new.spec).map_err(Error::errno)?;
        let made = self.kernel.new_datagram(new.spec.domain, new.nonblocking).and_then(|(file, end)| {
            let cookie = self.kernel.cookie(&file).ok_or(uapi::EIO)?;
            Ok((file, end, cookie))
        });
        let (file, end, cookie) = match made {
            Ok(made) => made,
            Err(errno) => {
                self.stack.close(handle, self.time.now);
                return Err(errno);
            }
        };
        let state = State::Datagram(Datagram::new(end));
        let id = self.table.insert(Socket::new(new.spec, caller.program, Some(handle), state).of(owner));
        self.table.set_cookie(id, cookie);
        if let Some(datagram) = self.table.get(id).and_then(Socket::datagram) {
            self.kernel.watch_end(&datagram.end, id, Interest::Input);
        }
        self.observe(handle);
        if new.spec.kind == Kind::Raw {
            self.begin_flow(id, Some(caller), &Flow::Socket(new.spec));
        }
        Ok((id, file))
    }

    /// Puts a new socket into the program's table and answers the call. If the caller was interrupted the socket never
    /// was.
    fn inject(&mut self, caller: &Caller, subject: &Subject<K>, close_on_exec: bool) -> Outcome {
        match self.kernel.inject(caller, &subject.file, close_on_exec) {
            Ok(fd) => {
                if let Some(socket) = self.table.get_mut(subject.id) {
                    socket.seen = Some(Seen { tid: caller.tid, fd });
                }
                Ok(Answer::Done)
            }
            Err(error) => {
                self.discard(subject.id);
                match error {
                    InjectError::Full(errno) => Err(errno),
                    InjectError::Gone => Ok(Answer::Done),
                }
            }
        }
    }

    /// The socket's handle in the stack, made now if it has none.
    pub(crate) fn handle_of(&mut self, id: SocketId) -> Result<Handle, Errno> {
        if let Some(handle) = self.table.get(id).ok_or(uapi::EBADF)?.handle {
            return Ok(handle);
        }
        let handle = self.unobserved_handle(id)?;
        self.observe(handle);
        Ok(handle)
    }

    /// Binds a handle whose port was left to `connect` or `listen` (ip(7), `IP_BIND_ADDRESS_NO_PORT`).
    pub(crate) fn bind_late(&mut self, id: SocketId) -> Result<(), Errno> {
        let socket = self.table.get(id).ok_or(uapi::EBADF)?;
        let (Some(handle), Some(bound)) = (socket.handle, socket.setup.bound) else { return Ok(()) };
        if bound.port() != 0 || self.stack.local_addr(handle).is_ok_and(|local| local.port() != 0) {
            return Ok(());
        }
        self.stack.bind(handle, bound).map_err(Error::errno)
    }

    /// The same for a socket of whose events nothing has to be known.
    pub(crate) fn unobserved_handle(&mut self, id: SocketId) -> Result<Handle, Errno> {
        let socket = self.table.get(id).ok_or(uapi::EBADF)?;
        if let Some(handle) = socket.handle {
            return Ok(handle);
        }
        let handle = self.stack.socket(socket.spec).map_err(Error::errno)?;
        for option in &socket.setup.options {
            // It was taken before: what the stack refuses now, it refuses because of what it knows now.
            if let Err(error) = self.stack.set_option(handle, option.clone()) {
                tracing::debug!(?option, %error, "an option did not outlive a connection");
            }
        }
        let waits_for_port = |bound: &SocketAddr| bound.port() == 0 && socket.kept.binds_without_port();
        if let Some(address) = socket.setup.bound.filter(|bound| !waits_for_port(bound))
            && let Err(error) = self.stack.bind(handle, address)
        {
            self.stack.close(handle, self.time.now);
            return Err(error.errno());
        }
        self.table.set_handle(id, Some(handle));
        Ok(handle)
    }

    /// The program has closed its last descriptor of a socket: what it sent before still goes out.
    pub(crate) fn file_closed(&mut self, id: SocketId) {
        match self.table.get(id).map(|s| &s.state) {
            Some(State::Datagram(_)) => {
                self.pump_datagram_out(id);
                // What was sent leaves before the socket goes.
                self.stack.poll(self.time.now);
            }
            Some(State::Connected(_)) => return self.closed_after_shutdown(id),
            _ => {}
        }
        self.discard(id);
    }

    /// A stream that had been shut down was closed: from now on a hang-up of the sentry's end means just that.
    fn closed_after_shutdown(&mut self, id: SocketId) {
        if let Some(watch) = self.table.take_watch(id) {
            self.kernel.unwatch_close(watch);
        }
        let Some(stream) = self.table.get_mut(id).and_then(Socket::stream_mut) else { return };
        stream.note_closed_after_shutdown();
        if stream.is_open_out() {
            // Ends the socket when the last byte has been read, which may have to wait for room in the stack.
            self.pump(id, Work::OutToEnd);
        } else if self.kernel.receive(stream.end(), &mut [0]) == Err(uapi::ECONNRESET) {
            self.discard_with_reset(id);
        } else {
            self.discard(id);
        }
    }

    /// Ends a socket and everything that belongs to it. A connected stream is closed in an orderly way.
    pub(crate) fn discard(&mut self, id: SocketId) {
        for parked in self.parked.take_all(id) {
            self.answer(&parked.caller, Err(uapi::EBADF));
        }
        self.journal_end(id);
        self.forget_owner(id);
        self.flow_ended(id, FlowEnd::Closed);
        let Some((socket, _)) = self.table.remove(id) else { return };
        if let Some(watch) = socket.watch {
            self.kernel.unwatch_close(watch);
        }
        self.held = self.held.saturating_sub(socket.stream().map_or(0, Stream::buffered));
        if let State::Listening(listening) = socket.state
            && let Some(held) = listening.held
        {
            self.stack.abort(held, self.time.now);
        }
        if let Some(handle) = socket.handle {
            self.stack.close(handle, self.time.now);
        }
    }

    /// Ends a socket with a reset of its connection.
    pub(crate) fn discard_with_reset(&mut self, id: SocketId) {
        tracing::debug!(?id, "the program closed a connection with bytes unread");
        self.flow_ended(id, FlowEnd::Reset);
        if let Some(handle) = self.table.set_handle(id, None) {
            self.stack.abort(handle, self.time.now);
        }
        self.discard(id);
    }
}

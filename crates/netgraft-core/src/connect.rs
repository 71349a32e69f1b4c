//! `connect`: attempts, their gates, and how they end.

use std::net::SocketAddr;

use netgraft_plugin::{Error, Events, Kind};

use crate::answers::{Answer, Outcome};
use crate::codec::call::Buffer;
use crate::codec::sockaddr::{self, Given};
use crate::codec::sockopt::Direction;
use crate::core::{Core, Kernel, Request, Subject};
use crate::flows::FlowEnd;
use crate::join::meant;
use crate::program::{Caller, InjectError};
use crate::route::{Denial, Flow, Route};
use crate::socket::{Attempt, Over, Pending, Socket, State};
use crate::stream::{Opening, SendBuffer, Stream};
use crate::surrogate::Interest;
use crate::table::SocketId;
use crate::uapi::{self, Errno};

/// What a `connect` finds.
enum Found {
    /// The socket can be connected.
    Ready,
    /// One that is used up, and must be renewed first.
    UsedUp,
    /// An attempt is under way.
    Connecting,
    /// The answer.
    Known(Errno),
}

impl<K: Kernel> Core<K> {
    /// connect(2)
    pub(crate) fn connect(
        &mut self,
        request: &Request,
        subject: &mut Subject<K>,
        fd: i32,
        addr: Buffer,
    ) -> Outcome {
        let caller = &request.caller;
        let (bytes, len) = self.kernel.read_address(caller, addr)?;
        let socket = self.table.get(subject.id).ok_or(uapi::EBADF)?;
        let (domain, bytes) = (socket.spec.domain, &bytes[..len]);
        let given = match socket.spec.kind {
            Kind::Stream => sockaddr::parse_for_connect(domain, bytes)?,
            _ => sockaddr::parse(domain, bytes)?,
        };
        if socket.datagram().is_some() {
            return self.connect_datagram(caller, subject, given);
        }
        let Given::Inet(addr) = given else { return self.disconnect_stream(caller, subject, fd) };
        let blocking = !self.kernel.is_nonblocking(&subject.file)?;
        self.connect_to(request, subject, fd, addr, blocking)
    }

    /// connect(2) of a stream socket.
    pub(crate) fn connect_to(
        &mut self,
        request: &Request,
        subject: &mut Subject<K>,
        fd: i32,
        addr: SocketAddr,
        blocking: bool,
    ) -> Outcome {
        let caller = &request.caller;
        match self.look_before_connect(caller, subject, fd)? {
            Found::Known(0) => Ok(Answer::Value(0)),
            Found::Known(errno) => Err(errno),
            Found::Connecting if blocking => self.park(request, subject.id, Direction::Send),
            Found::Connecting => Err(uapi::EALREADY),
            Found::UsedUp => {
                self.renew(caller, subject, fd)?;
                self.begin_connect(request, subject, addr, blocking)
            }
            Found::Ready => self.begin_connect(request, subject, addr, blocking),
        }
    }

    /// What the socket's past says to another `connect`.
    fn look_before_connect(
        &mut self,
        caller: &Caller,
        subject: &mut Subject<K>,
        fd: i32,
    ) -> Result<Found, Errno> {
        let socket = self.table.get_mut(subject.id).ok_or(uapi::EBADF)?;
        Ok(match &mut socket.state {
            State::Fresh if !socket.pending.is_some() => Found::Ready,
            State::Fresh => {
                let error = self.take_pending(subject);
                Found::Known(error.map_or(uapi::ECONNABORTED, Error::errno))
            }
            State::Ended(_) if socket.spec.kind != Kind::Stream => Found::Known(uapi::ENETDOWN),
            State::Ended(ended) => match ended.over {
                Over::Attempt => {
                    // It has failed, and this call says so, also to a program that has read SO_ERROR before. The next
                    // one begins anew.
                    let error = self.take_pending(subject);
                    self.renew(caller, subject, fd)?;
                    Found::Known(error.map_or(uapi::ECONNABORTED, Error::errno))
                }
                Over::Connection => Found::Known(uapi::EISCONN),
                Over::Listener => Found::UsedUp,
            },
            State::Connecting(_) => Found::Connecting,
            State::Connected(stream) if stream.opening == Opening::Unreported => {
                stream.opening = Opening::Done;
                Found::Known(0)
            }
            State::Joined(joined) if joined.opening == Opening::Unreported => {
                joined.opening = Opening::Done;
                Found::Known(0)
            }
            State::Connected(_) | State::Joined(_) | State::Listening(_) => Found::Known(uapi::EISCONN),
            State::Datagram(_) => Found::Known(uapi::EINVAL),
        })
    }

    fn begin_connect(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        addr: SocketAddr,
        blocking: bool,
    ) -> Outcome {
        let id = subject.id;
        if let Some(socket) = self.table.get_mut(id) {
            socket.toward = Some(addr);
        }
        let route = self.route_connect(&request.caller, id, addr)?;
        if let (Route::Stack | Route::Joined(_), Some(spec)) = (route, self.table.get(id).map(|s| s.spec)) {
            self.begin_flow(id, Some(&request.caller), &Flow::Connect(spec, addr));
        }
        match route {
            Route::Stack => {}
            Route::Joined(listener) => {
                if let Some(joined) = self.join(subject, listener, addr, blocking)? {
                    return joined;
                }
            }
            Route::Denied(denial) => return Err(denial.errno()),
            // A socket that was made for the stack stays there.
            Route::Host | Route::Kernel => return Err(Denial::AccessDenied.errno()),
        }
        let handle = self.handle_of(id)?;
        self.bind_late(id)?;
        match self.stack.connect(handle, addr, self.time.now) {
            Ok(()) => {
                self.establish(id, &subject.file)?;
                Ok(Answer::Value(0))
            }
            Err(Error::InProgress) if blocking => {
                self.enter(id, State::Connecting(Attempt::Blocking));
                self.park(request, id, Direction::Send)
            }
            Err(Error::InProgress) => {
                if let Err(errno) = self.close_gate(id, &subject.file) {
                    // Without a gate the program could not see how the attempt ends.
                    self.begin_anew(id);
                    return Err(errno);
                }
                if self.is_own(meant(addr).ip()) {
                    // On Linux the handshake over the loopback is over when the call returns: a send is taken at once.
                    self.run_stack();
                    self.flush_links();
                }
                Err(uapi::EINPROGRESS)
            }
            Err(error) => {
                self.flow_ended(id, FlowEnd::Failed(error));
                Err(error.errno())
            }
        }
    }

    /// Puts a socket into a state; what it was in is over.
    pub(crate) fn enter(&mut self, id: SocketId, state: State<K>) {
        if let Some(socket) = self.table.get_mut(id) {
            socket.state = state;
        }
    }

    /// Ends the connection, the attempt or the listener that a stream socket is, so that it can be used again
    /// (connect(2), AF_UNSPEC).
    fn disconnect_stream(&mut self, caller: &Caller, subject: &mut Subject<K>, fd: i32) -> Outcome {
        let id = subject.id;
        match self.table.get(id).map(|s| &s.state) {
            Some(State::Fresh) => return Ok(Answer::Value(0)),
            Some(State::Listening(_)) => self.end_listener(id, &subject.file),
            Some(State::Joined(_)) => self.reset_at_close(subject),
            _ => {}
        }
        for parked in self.parked.take_all(id) {
            self.answer(&parked.caller, Err(uapi::ECONNABORTED));
        }
        self.flow_ended(id, FlowEnd::Reset);
        if let Some(handle) = self.table.set_handle(id, None) {
            self.stack.abort(handle, self.time.now);
        }
        if let Some(socket) = self.table.get_mut(id) {
            self.held = self.held.saturating_sub(socket.stream().map_or(0, Stream::buffered));
            socket.pending = Pending::None;
            socket.state = State::Ended(Over::Attempt.ended());
        }
        self.renew(caller, subject, fd)?;
        Ok(Answer::Value(0))
    }

    fn connect_datagram(&mut self, caller: &Caller, subject: &Subject<K>, given: Given) -> Outcome {
        let id = subject.id;
        self.send_what_was_written(id);
        if let Given::Inet(addr) = given {
            let socket = self.table.get(id).ok_or(uapi::EBADF)?;
            let (spec, handle) = (socket.spec, socket.handle.ok_or(uapi::EINVAL)?);
            self.require_datagram(caller, handle, (spec, addr))?;
        }
        let socket = self.table.get(id).ok_or(uapi::EBADF)?;
        let (Some(datagram), Some(handle)) = (socket.datagram(), socket.handle) else {
            return Err(uapi::EINVAL);
        };
        match given {
            Given::Inet(addr) => {
                self.stack.connect(handle, addr, self.time.now).map_err(Error::errno)?;
                self.kernel.aim(&subject.file, &datagram.end)?;
            }
            Given::Unspecified => {
                self.stack.disconnect(handle).map_err(Error::errno)?;
                self.kernel.unaim(&subject.file)?;
            }
        }
        Ok(Answer::Value(0))
    }

    fn close_gate(&mut self, id: SocketId, file: &K::File) -> Result<(), Errno> {
        let end = self.kernel.join(file)?;
        let gate = self.kernel.gate(file, &end)?;
        // A program that gives the attempt up hangs up.
        self.kernel.watch_end(&end, id, Interest::HangUp);
        self.enter(id, State::Connecting(Attempt::Gated(end, gate)));
        Ok(())
    }

    /// A connection attempt has ended.
    pub(crate) fn connect_event(&mut self, id: SocketId, events: Events) {
        let Some(handle) = self.table.get(id).and_then(|s| s.handle) else { return };
        if events.intersects(Events::ERR | Events::HUP)
            && let Some(error) = self.stack.take_error(handle)
        {
            return self.connect_failed(id, error);
        }
        if events.contains(Events::OUT) {
            self.connected(id);
        }
    }

    fn connected(&mut self, id: SocketId) {
        let Some(socket) = self.table.get_mut(id) else { return };
        match std::mem::replace(&mut socket.state, State::Ended(Over::Attempt.ended())) {
            State::Connecting(Attempt::Gated(end, gate)) => self.open_gate(id, end, gate),
            State::Connecting(Attempt::Blocking) => {
                socket.state = State::Connecting(Attempt::Blocking);
                self.answer_connected(id);
            }
            other => socket.state = other,
        }
    }

    /// The attempt of a blocking call has succeeded: only now is the surrogate connected.
    fn answer_connected(&mut self, id: SocketId) {
        let waiting = self.parked.take_connects(id);
        let found = waiting.iter().find_map(|parked| {
            let file = self.kernel.duplicate(&parked.caller, parked.call.fd()?).ok()?;
            self.only_of(id, file)
        });
        let file = found.or_else(|| self.find_file(id));
        let result = match &file {
            Some(file) => self.establish(id, file),
            None => Err(uapi::ECONNABORTED),
        };
        // The program may close its descriptor as soon as it is answered: then none must be left.
        drop(file);
        for parked in waiting {
            self.answer(&parked.caller, result.map(|()| Answer::Value(0)));
        }
        if result.is_err() {
            self.discard_with_reset(id);
        }
        self.serve_data_calls(id);
    }

    /// Connects the surrogate of a stream that is connected in the stack.
    fn establish(&mut self, id: SocketId, file: &K::File) -> Result<(), Errno> {
        let end = self.kernel.join(file)?;
        self.kernel.wake(file, &end);
        self.become_stream(id, Stream::new(end));
        Ok(())
    }

    fn become_stream(&mut self, id: SocketId, stream: Stream<K::End>) {
        self.enter(id, State::Connected(stream));
        self.counts.connections_out += 1;
        self.start_stream(id);
    }

    fn open_gate(&mut self, id: SocketId, end: K::End, gate: crate::surrogate::Gate) {
        let file = self.find_file(id);
        self.kernel.unwatch_end(&end);
        self.kernel.ungate(file.as_ref(), &end, gate);
        let mut stream = Stream::new(end);
        if file.is_none() {
            stream.send_buffer = SendBuffer::Clamped;
        }
        drop(file);
        // A thread that waited in a blocking call is answered too.
        let waiting = self.parked.take_connects(id);
        if waiting.is_empty() {
            stream.opening = Opening::Unreported;
        }
        for parked in waiting {
            self.answer(&parked.caller, Ok(Answer::Value(0)));
        }
        self.become_stream(id, stream);
        self.serve_data_calls(id);
    }

    /// Restores the send buffer of a stream whose file could not be found when its gate was opened.
    pub(crate) fn restore_send_buffer(&mut self, id: SocketId, file: &K::File) {
        if let Some(stream) = self.table.get_mut(id).and_then(Socket::stream_mut)
            && stream.send_buffer == SendBuffer::Clamped
            && self.kernel.restore_send_buffer(file, stream.end())
        {
            stream.send_buffer = SendBuffer::Restored;
        }
    }

    /// A blocking attempt is over, and the socket as if there had been none.
    pub(crate) fn begin_anew(&mut self, id: SocketId) {
        self.flow_ended(id, FlowEnd::Closed);
        if let Some(handle) = self.table.set_handle(id, None) {
            self.stack.close(handle, self.time.now);
        }
        self.enter(id, State::Fresh);
    }

    pub(crate) fn connect_failed(&mut self, id: SocketId, error: Error) {
        let waiting = self.parked.take_connects(id);
        self.flow_ended(id, FlowEnd::Failed(error));
        match self.table.get(id).map(|s| &s.state) {
            // The surrogate is as it was: the program may try again.
            Some(State::Connecting(Attempt::Blocking)) => self.begin_anew(id),
            _ => {
                self.fail_stream(id, error);
                if !waiting.is_empty() {
                    self.forget_error(id);
                }
            }
        }
        for parked in waiting {
            self.answer(&parked.caller, Err(error.errno()));
        }
        self.serve_data_calls(id);
    }

    /// Sends and receives that waited for the end of an attempt go on.
    fn serve_data_calls(&mut self, id: SocketId) {
        self.serve_parked_receive(id);
        self.retry_sends(id);
    }

    /// A blocking call tells the error that waits: nothing else is to tell it again.
    fn forget_error(&mut self, id: SocketId) {
        if let Some(file) = self.find_file(id) {
            self.kernel.take_error(&file);
        }
        if let Some(socket) = self.table.get_mut(id) {
            socket.pending = Pending::None;
        }
    }

    /// Puts a new surrogate in the place of one that is used up, so that the program can use the socket again. Only
    /// this descriptor gets it: duplicates keep the old one.
    pub(crate) fn renew(&mut self, caller: &Caller, subject: &mut Subject<K>, fd: i32) -> Result<(), Errno> {
        let id = subject.id;
        let domain = self.table.get(id).ok_or(uapi::EBADF)?.spec.domain;
        let nonblocking = self.kernel.is_nonblocking(&subject.file)?;
        let file = self.kernel.new_stream(domain, nonblocking)?;
        let cookie = self.kernel.cookie(&file).ok_or(uapi::EIO)?;
        self.kernel.replace(caller, fd, &file).map_err(|error| match error {
            InjectError::Full(errno) => errno,
            InjectError::Gone => uapi::EINTR,
        })?;
        // Only now: until then the program has the old one.
        subject.file = file;
        if let Some(watch) = self.table.take_watch(id) {
            self.kernel.unwatch_close(watch);
        }
        self.table.set_cookie(id, cookie);
        self.kernel.shelter(&subject.file, id);
        if let Some(socket) = self.table.get_mut(id) {
            socket.state = State::Fresh;
            if let Pending::Shown(error) = socket.pending {
                socket.pending = Pending::Hidden(error);
            }
        }
        Ok(())
    }
}

//! `connect`, in both its forms.
//!
//! A blocking call leaves the surrogate fresh and waits for its answer, so that it can be made again after a
//! failure. A non-blocking one connects the surrogate to the sentry with its gate closed: it polls as a
//! connecting socket does, until the sentry opens the gate or closes its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netgraft_linux::epoll::bits;
use netgraft_linux::unix;
use netgraft_plugin::{Error, Events, Handle, Kind};
use netgraft_sentry::call::{Buffer, Call};
use netgraft_sentry::sockaddr::{self, Given};
use netgraft_sentry::sockopt::Direction;

use super::caller::Caller;
use super::create::{errno, show_domain};
use super::engine::{Answer, Engine, Outcome};
use super::stream::Stream;
use super::table::{Over, Socket, SocketId, State};

/// Half of what `SO_SNDBUF` shows: the kernel doubles what is set.
fn settable(shown: i32) -> i32 {
    shown / 2
}

/// Bytes that close the gate of a socket whose send buffer has the smallest size (4,608 bytes as the kernel
/// counts them, of which each message takes more than its length).
const GATE: usize = 4096;

impl Engine {
    /// connect(2)
    pub(super) fn connect(&mut self, caller: &Caller, call: Call, fd: i32, addr: Buffer) -> Outcome {
        let Some((id, file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        let (bytes, len) = caller.read_address(addr)?;
        let Some(socket) = self.table.get(id) else { return Ok(Answer::Kernel) };
        let domain = socket.spec.domain;
        let given = sockaddr::parse(domain, &bytes[..len])?;
        if matches!(socket.state, State::Datagram(_)) {
            return self.connect_datagram(id, &file, given);
        }
        let Given::Inet(addr) = given else { return self.disconnect_stream(caller, id, &file, fd) };
        let blocking = !unix::is_nonblocking(file.as_fd()).map_err(|e| errno(&e))?;
        match &socket.state {
            State::Fresh if socket.pending_error.is_none() => {}
            State::Fresh => {
                let error = self.take_pending(id, &file);
                return Err(error.map_or(libc::ECONNABORTED, Error::errno));
            }
            State::Ended(_) if socket.spec.kind != Kind::Stream => return Err(libc::ENETDOWN),
            State::Ended(Over::Attempt) => {
                // It has failed, and this call says so, also to who has heard it from SO_ERROR before. The next one
                // begins anew.
                let error = self.take_pending(id, &file);
                self.renew(caller, id, fd)?;
                return Err(error.map_or(libc::ECONNABORTED, Error::errno));
            }
            State::Ended(Over::Connection) => return Err(libc::EISCONN),
            State::Ended(Over::Listener) => {
                let file = self.renew(caller, id, fd)?;
                return self.begin_connect(caller, call, id, &file, addr, blocking);
            }
            State::ConnectingBlocked | State::ConnectingGated(..) if blocking => {
                return Ok(self.park_connect(caller, call, id));
            }
            State::ConnectingBlocked | State::ConnectingGated(..) => return Err(libc::EALREADY),
            State::Stream(stream) if stream.unsaid => {
                if let Some(Socket { state: State::Stream(stream), .. }) = self.table.get_mut(id) {
                    stream.unsaid = false;
                }
                return Ok(Answer::Value(0));
            }
            State::Stream(_) => return Err(libc::EISCONN),
            State::Listening(_) => return Err(libc::EISCONN),
            State::Datagram(_) => return Err(libc::EINVAL),
        }
        self.begin_connect(caller, call, id, &file, addr, blocking)
    }

    fn begin_connect(
        &mut self,
        caller: &Caller,
        call: Call,
        id: SocketId,
        file: &OwnedFd,
        addr: std::net::SocketAddr,
        blocking: bool,
    ) -> Outcome {
        // A listener that was just closed does not answer any more.
        self.harvest_closes();
        let handle = self.handle_of(id)?;
        let result = self.stack.connect(handle, addr, self.now);
        self.stack_busy = true;
        match result {
            Ok(()) => {
                self.establish(id, file.as_fd())?;
                Ok(Answer::Value(0))
            }
            Err(Error::InProgress) if blocking => {
                if let Some(socket) = self.table.get_mut(id) {
                    socket.state = State::ConnectingBlocked;
                }
                Ok(self.park_connect(caller, call, id))
            }
            Err(Error::InProgress) => {
                self.close_gate(id, file.as_fd())?;
                Err(libc::EINPROGRESS)
            }
            Err(error) => Err(error.errno()),
        }
    }

    fn park_connect(&mut self, caller: &Caller, call: Call, id: SocketId) -> Answer {
        self.park(caller, call, id, Direction::Send)
    }

    /// Ends the connection, the attempt or the listener that a stream socket is, so that it can be used again (connect(2),
    /// AF_UNSPEC).
    fn disconnect_stream(&mut self, caller: &Caller, id: SocketId, file: &OwnedFd, fd: i32) -> Outcome {
        match self.table.get(id).map(|s| &s.state) {
            Some(State::Fresh) => return Ok(Answer::Value(0)),
            Some(State::Listening(_)) => self.end_listener(id, file),
            _ => {}
        }
        for parked in self.parked.take_all(id) {
            self.answer(&parked.caller, Err(libc::ECONNABORTED));
        }
        if let Some(handle) = self.table.set_handle(id, None) {
            let _ = self.stack.abort(handle, self.now);
            self.stack_busy = true;
        }
        if let Some(socket) = self.table.get_mut(id) {
            socket.pending_error = None;
            socket.state = State::Ended(Over::Attempt);
        }
        self.renew(caller, id, fd)?;
        Ok(Answer::Value(0))
    }

    fn connect_datagram(&mut self, id: SocketId, file: &OwnedFd, given: Given) -> Outcome {
        self.send_what_was_written(id);
        let Some(Socket { state: State::Datagram(datagram), handle: Some(handle), .. }) = self.table.get(id)
        else {
            return Err(libc::EINVAL);
        };
        let (handle, end_name) = (*handle, datagram.end_name);
        match given {
            Given::Inet(addr) => {
                self.stack.connect(handle, addr, self.now).map_err(Error::errno)?;
                unix::connect(file.as_fd(), end_name).map_err(|e| errno(&e))?;
            }
            Given::Unspecified => {
                self.stack.disconnect(handle).map_err(Error::errno)?;
                unix::disconnect(file.as_fd()).map_err(|e| errno(&e))?;
            }
        }
        self.journal_datagrams(id, file.as_fd());
        self.stack_busy = true;
        Ok(Answer::Value(0))
    }

    /// Connects the program's file to the sentry and gives the sentry's end.
    fn join(&mut self, file: BorrowedFd<'_>) -> Result<OwnedFd, i32> {
        unix::connect(file, self.rendezvous.1).map_err(|e| errno(&e))?;
        unix::accept(self.rendezvous.0.as_fd(), true).map_err(|e| errno(&e))
    }

    fn close_gate(&mut self, id: SocketId, file: BorrowedFd<'_>) -> Result<(), i32> {
        let end = self.join(file)?;
        unix::set_send_buffer(file, 0).map_err(|e| errno(&e))?;
        // More than the smallest buffer holds: neither poll nor a write gets past it.
        let fill = unix::send(file, &[0; GATE]).map_err(|e| errno(&e))?;
        // A program that gives the attempt up hangs up.
        self.epoll.add(end.as_fd(), bits::RDHUP | bits::EDGE, id.token()).map_err(|e| errno(&e))?;
        if let Some(socket) = self.table.get_mut(id) {
            socket.state = State::ConnectingGated(end, fill);
        }
        Ok(())
    }

    /// A connection attempt has ended.
    pub(super) fn connect_event(&mut self, id: SocketId, events: Events) {
        let Some(handle) = self.table.get(id).and_then(|s| s.handle) else { return };
        if events.intersects(Events::ERR | Events::HUP)
            && let Some(error) = self.stack.take_error(handle)
        {
            return self.connect_failed(id, error);
        }
        if events.contains(Events::OUT) {
            self.connected(id, handle);
        }
    }

    fn connected(&mut self, id: SocketId, _handle: Handle) {
        let Some(socket) = self.table.get_mut(id) else { return };
        match std::mem::replace(&mut socket.state, State::Ended(Over::Attempt)) {
            State::ConnectingGated(end, fill) => {
                socket.state = State::ConnectingGated(end, fill);
                self.open_gate(id);
            }
            _ => self.answer_connected(id),
        }
    }

    /// The attempt of a blocking call has succeeded: only now is the surrogate connected.
    fn answer_connected(&mut self, id: SocketId) {
        let waiting = self.parked.take_all(id);
        let file = waiting
            .iter()
            .find_map(|parked| {
                let fd = parked.call.fd()?;
                let file = self.tasks.duplicate(parked.caller.tid, fd).ok()?;
                (self.identify(file.as_fd()) == Some(id)).then_some(file)
            })
            .or_else(|| self.find_file(id));
        let result = match &file {
            Some(file) => self.establish(id, file.as_fd()),
            None => Err(libc::ECONNABORTED),
        };
        // The program may close its descriptor as soon as it is answered: then none must be left.
        drop(file);
        for parked in waiting {
            self.answer(&parked.caller, result.map(|()| Answer::Value(0)));
        }
        if result.is_err() {
            self.discard_with_reset(id);
        }
    }

    /// Connects the surrogate of a stream that is connected in the stack.
    fn establish(&mut self, id: SocketId, file: BorrowedFd<'_>) -> Result<(), i32> {
        let end = self.join(file)?;
        // AF_UNIX does not wake who connects. A byte that is sent and read does: waiters see the edge.
        let _ = unix::send(file, b"c");
        let _ = unix::recv(end.as_fd(), &mut [0], 0);
        self.become_stream(id, Stream::new(end));
        Ok(())
    }

    fn become_stream(&mut self, id: SocketId, stream: Stream) {
        if let Some(socket) = self.table.get_mut(id) {
            socket.state = State::Stream(stream);
        }
        self.summary.connections_out += 1;
        self.start_stream(id);
    }

    fn open_gate(&mut self, id: SocketId) {
        let file = self.find_file(id);
        let Some(socket) = self.table.get_mut(id) else { return };
        let State::ConnectingGated(end, fill) =
            std::mem::replace(&mut socket.state, State::Ended(Over::Attempt))
        else {
            return;
        };
        let _ = self.epoll.remove(end.as_fd());
        // The sentry's end was never changed: its size is the default.
        if let Some(file) = &file
            && let Ok(size) = unix::send_buffer(end.as_fd())
        {
            let _ = unix::set_send_buffer(file.as_fd(), settable(size));
        }
        // Reading what fills it makes the program's socket writable: it wakes. The program may have written since
        // the size was restored: no byte more is read.
        let mut junk = [0; GATE];
        let mut left = fill.min(GATE);
        while left > 0 {
            match unix::recv(end.as_fd(), &mut junk[..left], 0) {
                Ok(n @ 1..) => left -= n,
                _ => break,
            }
        }
        let narrow = file.is_none();
        drop(file);
        // One that waited in a blocking call is answered too.
        let waiting = self.parked.take_all(id);
        let unsaid = waiting.is_empty();
        for parked in waiting {
            self.answer(&parked.caller, Ok(Answer::Value(0)));
        }
        let mut stream = Stream::new(end);
        (stream.narrow, stream.unsaid) = (narrow, unsaid);
        self.become_stream(id, stream);
    }

    /// Restores the send buffer of a stream whose file could not be found when its gate was opened.
    pub(super) fn widen(&mut self, id: SocketId, file: BorrowedFd<'_>) {
        if let Some(Socket { state: State::Stream(stream), .. }) = self.table.get_mut(id)
            && stream.narrow
            && let Ok(size) = unix::send_buffer(stream.end().as_fd())
            && unix::set_send_buffer(file, settable(size)).is_ok()
        {
            stream.narrow = false;
        }
    }

    /// A blocking attempt is over, and the socket as if there had been none.
    pub(super) fn begin_anew(&mut self, id: SocketId) {
        if let Some(handle) = self.table.set_handle(id, None) {
            let _ = self.stack.close(handle, self.now);
            self.stack_busy = true;
        }
        if let Some(socket) = self.table.get_mut(id) {
            socket.state = State::Fresh;
        }
    }

    fn connect_failed(&mut self, id: SocketId, error: Error) {
        let waiting = self.parked.take_all(id);
        let blocked = self.table.get(id).is_some_and(|s| matches!(s.state, State::ConnectingBlocked));
        if blocked {
            // The surrogate is as it was: the program may try again.
            self.begin_anew(id);
        } else {
            self.fail_stream(id, error);
            if !waiting.is_empty()
                && let Some(socket) = self.table.get_mut(id)
            {
                socket.pending_error = None;
            }
        }
        for parked in waiting {
            self.answer(&parked.caller, Err(error.errno()));
        }
    }

    /// Puts a new surrogate in the place of one that is used up, so that the program can use the socket again. Only
    /// this descriptor gets it: duplicates keep the old one.
    pub(super) fn renew(&mut self, caller: &Caller, id: SocketId, fd: i32) -> Result<OwnedFd, i32> {
        let old = self.tasks.duplicate(caller.tid, fd).map_err(|e| errno(&e))?;
        let nonblocking = unix::is_nonblocking(old.as_fd()).map_err(|e| errno(&e))?;
        let file = unix::stream(nonblocking).map_err(|e| errno(&e))?;
        if let Some(socket) = self.table.get(id) {
            show_domain(file.as_fd(), socket.spec.domain).map_err(|e| errno(&e))?;
        }
        let cookie = unix::cookie(file.as_fd()).map_err(|e| errno(&e))?;
        let number = u32::try_from(fd).map_err(|_| libc::EBADF)?;
        let close_on_exec = is_closed_on_exec(caller.tid, number);
        self.listener.replace_fd(caller.id, file.as_fd(), number, close_on_exec).map_err(|e| errno(&e))?;
        // Only now: until then the program has the old one.
        if let Some(watch) = self.table.take_watch(id) {
            self.closes.unwatch(watch);
        }
        self.table.set_cookie(id, cookie);
        let _ = self.nursery.add(file.as_fd(), bits::HUP, id.token());
        if let Some(socket) = self.table.get_mut(id) {
            socket.state = State::Fresh;
            socket.shows_error = false;
        }
        Ok(file)
    }
}

/// Whether a descriptor of the program is closed on exec, from `/proc/PID/fdinfo` (proc(5)).
fn is_closed_on_exec(tid: u32, fd: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|f| i32::from_str_radix(f.trim(), 8).ok());
    flags.is_some_and(|f| f & libc::O_CLOEXEC != 0)
}

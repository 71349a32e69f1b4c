//! What moves: surrogates that are ready, and events of the stack.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netgraft_linux::epoll::bits;
use netgraft_linux::unix;
use netgraft_plugin::{Error, Event, Events, Received, RecvFlags, SendFlags};
use netgraft_sentry::call::Call;

use super::datagram::MAX_DATAGRAM;
use super::engine::{Engine, Work};
use super::stream::{self, Moved, Pumped, Stream};
use super::table::{Over, Socket, SocketId, State};

/// Datagrams of one socket that are moved before others have their turn: more than a surrogate's buffer holds, so that
/// what a thread sent without an address always goes before what it sends with one.
const DATAGRAMS_A_TURN: usize = 512;

impl Engine {
    /// The sentry's end of a surrogate is ready.
    pub(super) fn surrogate_ready(&mut self, id: SocketId, events: u32) {
        match self.table.get(id).map(|s| &s.state) {
            Some(State::Stream(_)) => self.stream_ready(id, events),
            Some(State::Datagram(_)) => {
                if events & bits::IN != 0 {
                    self.pump(id, Work::Datagrams);
                }
                if events & bits::OUT != 0 {
                    self.pump_datagram_in(id);
                    self.hear_datagram_reads(id);
                }
            }
            Some(State::ConnectingGated(..)) if events & bits::HUP != 0 => {
                // The program gave the attempt up.
                self.discard(id);
            }
            _ => {}
        }
    }

    fn stream_ready(&mut self, id: SocketId, events: u32) {
        if events & bits::OUT != 0 {
            self.program_has_read(id);
        }
        if events & (bits::RDHUP | bits::HUP) != 0 {
            self.pump(id, Work::OutToEnd);
        } else if events & bits::IN != 0 {
            self.pump(id, Work::Out);
        }
        // While outbound is open, its end is still to be read: the pump that reads it sees the hang-up.
        if events & bits::HUP != 0
            && let Some(Socket { state: State::Stream(stream), .. }) = self.table.get(id)
            && !stream.watched
            && !stream.is_open_out()
        {
            self.discard(id);
        }
    }

    /// The program has read, so that there is room in the surrogate. If nobody waited for it, the next time is not told.
    fn program_has_read(&mut self, id: SocketId) {
        let Some(Socket { state: State::Stream(stream), .. }) = self.table.get(id) else { return };
        let waited = stream.waits_for_program();
        self.pump(id, Work::In);
        if !waited
            && let Some(Socket { state: State::Stream(stream), .. }) = self.table.get_mut(id)
            && stream.hears_reads
            && !stream.waits_for_program()
        {
            stream.hears_reads = false;
            if let Err(error) = self.epoll.modify(stream.end().as_fd(), stream.interest(), id.token()) {
                tracing::warn!(%error, "a connection cannot be watched");
            }
        }
    }

    /// Something happened in the stack.
    pub(super) fn stack_event(&mut self, event: Event) {
        let Some(id) = self.table.find_handle(event.handle) else { return };
        match self.table.get(id).map(|s| &s.state) {
            Some(State::ConnectingBlocked | State::ConnectingGated(..)) => {
                self.connect_event(id, event.events)
            }
            Some(State::Stream(_)) => {
                if event.events.intersects(Events::IN | Events::RDHUP | Events::ERR | Events::HUP) {
                    self.pump(id, Work::In);
                }
                // A reset after the end of the stream is not seen by a receive.
                if event.events.contains(Events::ERR)
                    && self.table.find_handle(event.handle).is_some()
                    && let Some(error) = self.stack.take_error(event.handle)
                {
                    return self.fail_stream(id, error);
                }
                if event.events.contains(Events::OUT)
                    && let Some(Socket { state: State::Stream(stream), .. }) = self.table.get(id)
                    && stream.waits_for_stack()
                {
                    self.pump(id, Work::OutToEnd);
                }
            }
            Some(State::Listening(_)) => self.pump_listener(id),
            Some(State::Datagram(_)) => {
                if event.events.contains(Events::ERR) {
                    self.datagram_error(id, event);
                }
                self.pump_datagram_in(id);
                if event.events.contains(Events::OUT) {
                    // Whatever else the program has sent is told by its end, in its turn.
                    if matches!(self.table.get(id), Some(Socket { state: State::Datagram(d), .. }) if d.held.is_some())
                    {
                        self.pump(id, Work::Datagrams);
                    }
                    self.retry_sends(id);
                }
            }
            Some(State::Fresh | State::Ended(_)) | None => {}
        }
    }

    /// Moves what can be moved, and deals with what comes of it.
    pub(super) fn pump(&mut self, id: SocketId, work: Work) {
        let pumped = match work {
            Work::Out => self.pump_stream_out(id, false),
            Work::OutToEnd => self.pump_stream_out(id, true),
            Work::In => self.pump_stream_in(id),
            Work::Datagrams if self.pump_datagram_out(id) => Pumped::More,
            Work::Datagrams => Pumped::Idle,
        };
        match pumped {
            Pumped::Idle => {}
            Pumped::EndOfProgram => {
                if let Some(Socket { state: State::Stream(stream), .. }) = self.table.get(id)
                    && stream.program_is_gone()
                {
                    self.discard(id);
                }
            }
            Pumped::More => {
                let rest = if work == Work::Out { Work::OutToEnd } else { work };
                // One turn a round, however often there was reason for one.
                if !self.again.contains(&(id, rest)) {
                    self.again.push((id, rest));
                }
            }
            Pumped::ResetByProgram => self.discard_with_reset(id),
            Pumped::Failed(error) => self.fail_stream(id, error),
        }
    }

    /// Moves bytes of the program to the stack; `to_end` if the end of the stream is known to be behind them.
    pub(super) fn pump_stream_out(&mut self, id: SocketId, to_end: bool) -> Pumped {
        let Some(Socket { state: State::Stream(stream), handle: Some(handle), .. }) = self.table.get_mut(id)
        else {
            return Pumped::Idle;
        };
        let handle = *handle;
        let mut moved = Moved::default();
        let pumped =
            stream.pump_out(self.stack.as_mut(), handle, self.now, &mut self.scratch, &mut moved, to_end);
        // With the program gone the whole connection is closed next, with a FIN or, if it is not to linger, a reset alone.
        if pumped == Pumped::EndOfProgram && !stream.program_is_gone() {
            stream.finish_out(self.stack.as_mut(), handle, self.now);
        }
        self.stack_busy |= moved.sent > 0 || moved.resumed || pumped != Pumped::Idle;
        self.summary.bytes_sent += moved.sent;
        pumped
    }

    fn pump_stream_in(&mut self, id: SocketId) -> Pumped {
        let Some(Socket { state: State::Stream(stream), handle: Some(handle), .. }) = self.table.get_mut(id)
        else {
            return Pumped::Idle;
        };
        let handle = *handle;
        let mut moved = Moved::default();
        let pumped = stream.pump_in(self.stack.as_mut(), handle, self.now, &mut self.scratch, &mut moved);
        // A window may have opened.
        self.stack_busy |= moved.received > 0;
        self.summary.bytes_received += moved.received;
        if stream.waits_for_program() && !stream.hears_reads {
            stream.hears_reads = true;
            // If there is room by now, that is told at once.
            if let Err(error) = self.epoll.modify(stream.end().as_fd(), stream.interest(), id.token()) {
                tracing::warn!(%error, "a connection cannot be watched");
            }
        }
        if self.parked.has(id) {
            self.serve_parked_receive(id);
        }
        pumped
    }

    /// A connection has failed: the surrogate shows it, and the error waits for `SO_ERROR`.
    pub(super) fn fail_stream(&mut self, id: SocketId, error: Error) {
        tracing::debug!(?id, %error, "a connection failed");
        let file = self.find_file(id);
        let Some(socket) = self.table.get_mut(id) else { return };
        socket.pending_error = Some(error);
        socket.past_local = socket.handle.and_then(|handle| self.stack.local_addr(handle).ok());
        let end = match std::mem::replace(&mut socket.state, State::Ended(Over::Connection)) {
            State::Stream(stream) => {
                if stream.unsaid {
                    socket.state = State::Ended(Over::Attempt);
                }
                Some(stream.into_end())
            }
            State::ConnectingGated(end, _) => {
                socket.state = State::Ended(Over::Attempt);
                Some(end)
            }
            other => {
                socket.state = other;
                None
            }
        };
        if let Some(handle) = self.table.set_handle(id, None) {
            let _ = self.stack.close(handle, self.now);
            self.stack_busy = true;
        }
        if let Some(file) = &file {
            self.watch(id, file.as_fd());
        }
        if let Some(end) = end {
            close_with_reset(end, file.as_ref().map(AsFd::as_fd));
            if let (Some(file), Some(socket)) = (&file, self.table.get_mut(id)) {
                socket.shows_error = unix::has_error(file.as_fd());
            }
        }
        if file.is_none() {
            // Nothing would tell when the program closes it.
            self.discard(id);
        }
    }

    /// Makes connections of a listener appear in the queue of its surrogate.
    pub(super) fn pump_listener(&mut self, id: SocketId) {
        loop {
            let Some(Socket { state: State::Listening(listening), handle: Some(handle), spec, .. }) =
                self.table.get_mut(id)
            else {
                return;
            };
            let (name, spec) = (listening.name, *spec);
            let held = match listening.held.take() {
                Some(held) => held,
                None => match self.stack.accept(*handle) {
                    Ok((handle, _peer)) => handle,
                    Err(_) => return,
                },
            };
            match self.offer(name) {
                Ok((end, end_name)) => {
                    let socket = Socket::new(spec, Some(held), State::Stream(Stream::new(end)));
                    let new = self.table.insert(socket);
                    self.table.set_name(new, end_name);
                    self.start_stream(new);
                    self.summary.connections_in += 1;
                    self.serve_parked_accept(id);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(Socket { state: State::Listening(listening), .. }) = self.table.get_mut(id) {
                        listening.held = Some(held);
                    }
                    if !self.full_listeners.contains(&id) {
                        self.full_listeners.push(id);
                    }
                    return;
                }
                Err(_) => {
                    // The program has closed its listener.
                    let _ = self.stack.abort(held, self.now);
                    self.stack_busy = true;
                    return;
                }
            }
        }
    }

    /// Connects a new end to the surrogate of a listener.
    fn offer(&mut self, listener: unix::Name) -> io::Result<(OwnedFd, unix::Name)> {
        let name = self.fresh_name();
        let end = unix::stream(true)?;
        unix::bind(end.as_fd(), name)?;
        unix::connect(end.as_fd(), listener)?;
        Ok((end, name))
    }

    /// Begins to move bytes of a stream whose end and handle are in place.
    pub(super) fn start_stream(&mut self, id: SocketId) {
        let Some(Socket { state: State::Stream(stream), handle: Some(handle), .. }) = self.table.get(id)
        else {
            return;
        };
        let handle = *handle;
        if let Err(error) = self.epoll.add(stream.end().as_fd(), stream.interest(), id.token()) {
            tracing::warn!(%error, "a connection cannot be watched");
        }
        let mask = Events::IN | Events::OUT | Events::RDHUP;
        if matches!(self.stack.add_fd(handle, mask), Err(Error::Exists)) {
            // The stack has reported what it had while the connection was being made.
            self.pump(id, Work::In);
        }
        self.stack_busy = true;
    }

    /// Gives the program's datagrams to the stack; whether there may be more than one turn allows.
    pub(super) fn pump_datagram_out(&mut self, id: SocketId) -> bool {
        let mut budget = stream::BUDGET;
        for _ in 0..DATAGRAMS_A_TURN {
            let Some(Socket { state: State::Datagram(datagram), handle: Some(handle), .. }) =
                self.table.get_mut(id)
            else {
                return false;
            };
            let held = datagram.held.take();
            let data = match &held {
                Some(data) => data.as_slice(),
                None => match unix::recv(datagram.end.as_fd(), &mut self.scratch, 0) {
                    Ok(n) => &self.scratch[..n],
                    Err(_) => return false,
                },
            };
            let len = data.len();
            let result = self.stack.send(*handle, data, None, SendFlags::empty(), self.now);
            self.stack_busy = true;
            match result {
                Ok(n) => {
                    self.summary.datagrams_sent += 1;
                    self.summary.bytes_sent += n as u64;
                }
                Err(Error::Again) => {
                    datagram.held = Some(held.unwrap_or_else(|| self.scratch[..len].to_vec()));
                    return false;
                }
                Err(error) => {
                    let socket = self.table.get_mut(id);
                    if let Some(socket) = socket {
                        socket.pending_error = Some(error);
                    }
                }
            }
            budget = budget.saturating_sub(len);
            if budget == 0 {
                break;
            }
        }
        true
    }

    /// Before a call changes a datagram socket, what the program has sent on it leaves: under the conditions of then.
    pub(super) fn send_what_was_written(&mut self, id: SocketId) {
        if matches!(self.table.get(id), Some(Socket { state: State::Datagram(_), .. })) {
            self.pump(id, Work::Datagrams);
        }
    }

    /// Puts the next datagram into the surrogate, if it is empty, or gives it to a parked call.
    pub(super) fn pump_datagram_in(&mut self, id: SocketId) {
        if self.parked.has(id) {
            self.serve_parked_receive(id);
        }
        let Some(Socket { state: State::Datagram(datagram), handle: Some(handle), .. }) =
            self.table.get_mut(id)
        else {
            return;
        };
        let handle = *handle;
        if datagram.shut_in || !self.stack.readiness(handle).is_ok_and(|events| events.contains(Events::IN)) {
            return;
        }
        if !datagram.is_empty() {
            return self.hear_datagram_reads(id);
        }
        // If the program has just closed the socket, sending to it drops what it sent before: that is read first.
        self.pump(id, Work::Datagrams);
        let Some(Socket { state: State::Datagram(datagram), .. }) = self.table.get_mut(id) else { return };
        let buf = &mut self.scratch[..MAX_DATAGRAM];
        match self.stack.recv(handle, buf, RecvFlags::empty(), self.now) {
            Ok(received) => {
                let len = received.len.min(buf.len());
                datagram.last = Received { len, ..received };
                self.summary.datagrams_received += 1;
                self.summary.bytes_received += len as u64;
                match unix::send(datagram.end.as_fd(), &buf[..len]) {
                    Ok(_) => {
                        datagram.occupied = true;
                        self.hear_datagram_reads(id);
                    }
                    Err(error) => {
                        datagram.shut_in = error.raw_os_error() == Some(libc::EPIPE);
                        tracing::debug!(%error, "a datagram could not be put into its surrogate");
                    }
                }
            }
            Err(Error::Again) => {}
            Err(error) => {
                if let Some(socket) = self.table.get_mut(id) {
                    socket.pending_error = Some(error);
                }
            }
        }
    }

    /// Lets the loop be told when the program reads its datagram, if and only if the stack has another one.
    fn hear_datagram_reads(&mut self, id: SocketId) {
        let Some(Socket { state: State::Datagram(datagram), handle: Some(handle), .. }) =
            self.table.get_mut(id)
        else {
            return;
        };
        let more = !datagram.shut_in
            && self.stack.readiness(*handle).is_ok_and(|events| events.contains(Events::IN));
        if more != datagram.hears_reads {
            datagram.hears_reads = more;
            // If it has been read by now, that is told at once.
            if let Err(error) = self.epoll.modify(datagram.end.as_fd(), datagram.interest(), id.token()) {
                tracing::warn!(%error, "a datagram socket cannot be watched");
            }
        }
    }

    /// An ICMP message has arrived for a datagram socket: the surrogate shows an error.
    fn datagram_error(&mut self, id: SocketId, event: Event) {
        let Some(error) = self.stack.take_error(event.handle) else { return };
        let parked = self.parked.first(id, |call| {
            matches!(call, Call::RecvFrom { .. } | Call::RecvMsg { .. } | Call::RecvMMsg { .. })
        });
        if let Some(parked) = parked {
            self.parked.forget_thread(parked.caller.tid);
            self.answer(&parked.caller, Err(error.errno()));
            return;
        }
        let file = self.find_file(id);
        let Some(socket) = self.table.get_mut(id) else { return };
        socket.pending_error = Some(error);
        if let (Some(file), State::Datagram(datagram)) = (file, &socket.state) {
            socket.shows_error = signal_datagram_error(&datagram.end, file.as_fd());
        }
    }
}

/// Closes the sentry's end so that the program sees a failed connection: unread bytes of the program make
/// AF_UNIX report a reset (unix(7)).
fn close_with_reset(end: OwnedFd, file: Option<BorrowedFd<'_>>) {
    if let Some(file) = file {
        // If the buffer is full there are unread bytes.
        let _ = unix::send(file, b"x");
    }
    drop(end);
}

/// Makes the surrogate of a connected datagram socket poll as failed: an AF_UNIX datagram socket whose peer
/// turns away with bytes of it unread gets an error. Whether it has one.
fn signal_datagram_error(end: &OwnedFd, file: BorrowedFd<'_>) -> bool {
    let sent = unix::send(file, b"x").is_ok();
    if sent {
        let own = unix::peer_name(end.as_fd());
        let _ = unix::disconnect(end.as_fd());
        if let Some(name) = own {
            let _ = unix::connect(end.as_fd(), name);
        }
    }
    sent
}

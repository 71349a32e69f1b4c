//! What moves: ends of surrogates that are ready, and events of the stack.

use std::collections::HashSet;
use std::time::Duration;

use netgraft_plugin::{Error, Event, Events, Instant, RecvFlags, SendFlags, Shutdown};

use crate::core::{Core, Kernel};
use crate::datagram::{MAX_DATAGRAM, Queue, Reading};
use crate::deny::{Asked, incoming};
use crate::flows::{FlowEnd, Way};
use crate::receive::is_receive;
use crate::socket::{Attempt, Over, Pending, Socket, State};
use crate::stream::{self, Opening, Pump, Pumped, Stream};
use crate::surrogate::{Interest, Shown};
use crate::table::SocketId;
use crate::uapi;

/// Datagrams of one socket that are moved before others have their turn: more than a surrogate's buffer holds, so that
/// what a thread sent without an address always goes before what it sends with one.
const DATAGRAMS_A_TURN: usize = 512;

/// How many receives at most it takes to empty a surrogate that nobody writes to any more.
const LEFT_BEHIND: usize = 64;

/// How long a listener waits before it offers a connection again that the program's queue had no room for.
const RETRY: Duration = Duration::from_millis(10);

/// How a failure is told behind the end of the peer's stream: a reset says that what was sent was in vain.
fn after_end(error: Error) -> Error {
    if error == Error::ConnectionReset { Error::BrokenPipe } else { error }
}

/// What may be moved on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    /// Bytes from the program to the stack, as far as the surrogate has some.
    Out,
    /// Bytes from the program to the stack, until the end of the stream.
    OutToEnd,
    /// Bytes from the stack to the program.
    In,
    /// Datagrams from the program to the stack.
    Datagrams,
}

/// What is left to do in a later round.
#[derive(Debug, Default)]
pub(crate) struct WorkList {
    /// Sockets whose pump used up its budget.
    again: Vec<(SocketId, Work)>,
    /// Memory for the next round's list.
    spare: Vec<(SocketId, Work)>,
    /// Sockets that have something to do when memory is not short any more.
    postponed: HashSet<(SocketId, Work)>,
    /// Listeners with a connection that found no room.
    full_listeners: Vec<SocketId>,
    retry_at: Option<Instant>,
}

impl WorkList {
    /// Whether something is to be done at once.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.again.is_empty()
    }

    /// When listeners are to be tried again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Has a socket's turn come again: one turn a round, however often there was reason for one.
    fn push(&mut self, id: SocketId, work: Work) {
        if !self.again.contains(&(id, work)) {
            self.again.push((id, work));
        }
    }

    /// Whether a socket's turn comes again.
    fn has(&self, id: SocketId, work: Work) -> bool {
        self.again.contains(&(id, work))
    }

    /// Has a socket's turn come when memory is not short any more.
    fn postpone(&mut self, id: SocketId, work: Work) {
        self.postponed.insert((id, work));
    }

    /// Memory is not short any more.
    pub(crate) fn resume(&mut self) {
        self.again.extend(self.postponed.drain());
    }

    /// Takes what is to be done in this round, to be given back with [`WorkList::end_turn`].
    pub(crate) fn begin_turn(&mut self) -> Vec<(SocketId, Work)> {
        std::mem::swap(&mut self.again, &mut self.spare);
        std::mem::take(&mut self.spare)
    }

    /// Keeps the memory of a turn that is done.
    pub(crate) fn end_turn(&mut self, mut turn: Vec<(SocketId, Work)>) {
        turn.clear();
        self.spare = turn;
    }

    /// Has a listener tried again after a while.
    pub(crate) fn retry_listener(&mut self, id: SocketId) {
        if !self.full_listeners.contains(&id) {
            self.full_listeners.push(id);
        }
    }

    /// Takes the listeners whose time has come, and sets the time for those that have none.
    pub(crate) fn listeners_to_retry(&mut self, now: Instant) -> Vec<SocketId> {
        match self.retry_at {
            Some(at) if at <= now => {
                self.retry_at = None;
                std::mem::take(&mut self.full_listeners)
            }
            None if !self.full_listeners.is_empty() => {
                self.retry_at = Some(now + RETRY);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}

impl<K: Kernel> Core<K> {
    /// The sentry's end of a surrogate is ready ([`crate::surrogate::END_EVENTS`]).
    pub fn end_ready(&mut self, id: SocketId, events: Events) {
        match self.table.get(id).map(|s| &s.state) {
            Some(State::Connected(_)) => self.stream_ready(id, events),
            Some(State::Datagram(_)) => {
                if events.contains(Events::IN) {
                    self.pump(id, Work::Datagrams);
                }
                if events.contains(Events::OUT) {
                    self.pump_datagram_in(id);
                    self.await_datagram_read(id);
                }
            }
            Some(State::Connecting(Attempt::Gated(..))) if events.contains(Events::HUP) => {
                // The program gave the attempt up.
                self.discard(id);
            }
            _ => {}
        }
    }

    fn stream_ready(&mut self, id: SocketId, events: Events) {
        if events.contains(Events::OUT) {
            self.program_has_read(id);
        }
        if events.intersects(Events::RDHUP | Events::HUP) {
            self.pump(id, Work::OutToEnd);
        } else if events.contains(Events::IN) {
            self.pump(id, Work::Out);
        }
        // While outbound is open, its end is still to be read: the pump that reads it sees the hang-up.
        if events.contains(Events::HUP)
            && let Some(stream) = self.table.get(id).and_then(Socket::stream)
            && !stream.is_shut()
            && !stream.is_open_out()
        {
            self.discard(id);
        }
    }

    /// The program has read, so that there is room in the surrogate. If nothing waited for it, the next time is not
    /// reported.
    fn program_has_read(&mut self, id: SocketId) {
        let Some(stream) = self.table.get(id).and_then(Socket::stream) else { return };
        let waited = stream.waits_for_program();
        self.pump(id, Work::In);
        if !waited
            && let Some(stream) = self.table.get_mut(id).and_then(Socket::stream_mut)
            && !stream.waits_for_program()
            && stream.set_interest(Interest::Input)
        {
            self.kernel.rewatch_end(stream.end(), id, Interest::Input);
        }
    }

    /// Something happened in the stack.
    pub(crate) fn stack_event(&mut self, event: Event) {
        let Some(id) = self.table.find_handle(event.handle) else { return self.link_event(event) };
        match self.table.get(id).map(|s| &s.state) {
            Some(State::Connecting(_)) => self.connect_event(id, event.events),
            Some(State::Connected(_)) => self.stream_event(id, event),
            Some(State::Listening(_)) => self.pump_listener(id),
            Some(State::Datagram(_)) => self.datagram_event(id, event),
            Some(State::Fresh | State::Joined(_) | State::Ended(_)) | None => {}
        }
    }

    fn stream_event(&mut self, id: SocketId, event: Event) {
        if event.events.intersects(Events::IN | Events::RDHUP | Events::ERR | Events::HUP) {
            self.pump(id, Work::In);
        }
        // A reset after the end of the stream is not seen by a receive.
        if event.events.contains(Events::ERR)
            && self.table.find_handle(event.handle).is_some()
            && !self.has_input_before_end(id)
            && let Some(error) = self.stack.take_error(event.handle)
        {
            return self.fail_stream(id, error);
        }
        if event.events.contains(Events::OUT)
            && self.table.get(id).and_then(Socket::stream).is_some_and(Stream::waits_for_stack)
        {
            self.pump(id, Work::OutToEnd);
        }
    }

    fn datagram_event(&mut self, id: SocketId, event: Event) {
        if event.events.contains(Events::ERR) {
            self.datagram_error(id, event);
        }
        self.pump_datagram_in(id);
        if event.events.contains(Events::OUT) {
            // Whatever else the program has sent is reported by its end, in its turn.
            if self.table.get(id).and_then(Socket::datagram).is_some_and(|d| d.held.is_some()) {
                self.pump(id, Work::Datagrams);
            }
            self.retry_sends(id);
        }
    }

    /// Moves what can be moved, and deals with what comes of it.
    pub(crate) fn pump(&mut self, id: SocketId, work: Work) {
        if self.short && matches!(work, Work::Out | Work::OutToEnd) {
            return self.work.postpone(id, work);
        }
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
                if let Some(stream) = self.table.get(id).and_then(Socket::stream)
                    && stream.program_is_gone(&mut self.kernel)
                {
                    self.discard(id);
                }
            }
            Pumped::More => {
                let rest = if work == Work::Out { Work::OutToEnd } else { work };
                self.work.push(id, rest);
            }
            Pumped::ResetByProgram => self.discard_with_reset(id),
            Pumped::Failed(error) if work == Work::In => self.fail_stream(id, error),
            Pumped::Failed(error) => self.fail_after_input(id, error),
        }
    }

    /// A send has found that the connection has failed: the program first reads what came before that (tcp(7)).
    fn fail_after_input(&mut self, id: SocketId, error: Error) {
        self.with_stream(id, |stream, _| {
            stream.note_failure(error);
            Pumped::Idle
        });
        self.pump(id, Work::In);
    }

    /// Whether bytes wait that the program is to read before it sees how a connection ends.
    fn has_input_before_end(&self, id: SocketId) -> bool {
        self.table.get(id).and_then(Socket::stream).is_some_and(Stream::waits_for_program)
            || self.work.has(id, Work::In)
    }

    /// Runs one pump of a connected stream, and says how many bytes it has moved.
    fn with_stream(
        &mut self,
        id: SocketId,
        run: impl FnOnce(&mut Stream<K::End>, &mut Pump<'_, K>) -> Pumped,
    ) -> Option<(Pumped, u64)> {
        let chunk = self.budget.chunk(self.held);
        let socket = self.table.get_mut(id)?;
        let (State::Connected(stream), Some(handle)) = (&mut socket.state, socket.handle) else {
            return None;
        };
        let mut pump = Pump {
            kernel: &mut self.kernel,
            stack: &mut self.stack,
            handle,
            now: self.time.now,
            scratch: self.buffers.scratch.get_mut(..chunk)?,
            moved: 0,
        };
        let before = stream.buffered();
        let pumped = run(stream, &mut pump);
        self.held = (self.held + stream.buffered()).saturating_sub(before);
        Some((pumped, pump.moved))
    }

    /// Moves bytes of the program to the stack; `to_end` if the end of the stream is known to be behind them.
    fn pump_stream_out(&mut self, id: SocketId, to_end: bool) -> Pumped {
        let ran = self.with_stream(id, |stream, pump| {
            let pumped = stream.pump_out(pump, to_end);
            // With the program gone the whole connection is closed next, with a FIN or, if it is not to linger, a reset
            // alone.
            if pumped == Pumped::EndOfProgram && !stream.program_is_gone(pump.kernel) {
                stream.finish_out(pump.stack, pump.handle, pump.now);
            }
            pumped
        });
        let Some((pumped, moved)) = ran else { return Pumped::Idle };
        self.counts.bytes_sent += moved;
        self.flow_moved(id, Way::Out, moved);
        if moved > 0 {
            // There is room in the surrogate.
            self.retry_sends(id);
        }
        pumped
    }

    fn pump_stream_in(&mut self, id: SocketId) -> Pumped {
        let Some((pumped, moved)) = self.with_stream(id, |stream, pump| stream.pump_in(pump)) else {
            return Pumped::Idle;
        };
        self.counts.bytes_received += moved;
        self.flow_moved(id, Way::In, moved);
        if let Some(stream) = self.table.get_mut(id).and_then(Socket::stream_mut)
            && stream.waits_for_program()
            && stream.set_interest(Interest::InputAndRoom)
        {
            // If there is room by now, that is reported at once.
            self.kernel.rewatch_end(stream.end(), id, Interest::InputAndRoom);
        }
        self.serve_parked_receive(id);
        pumped
    }

    /// A connection has failed: the surrogate shows it, and the error waits for `SO_ERROR`.
    ///
    /// What the peer has ended in order stays ended: then the program reads the end of the stream, and only what it sends
    /// fails, as Linux has it for a reset in CLOSE-WAIT.
    pub(crate) fn fail_stream(&mut self, id: SocketId, error: Error) {
        tracing::debug!(?id, %error, "a connection failed");
        let file = self.find_file(id);
        self.flow_ended(id, FlowEnd::Failed(error));
        let Some(socket) = self.table.get_mut(id) else { return };
        let local = socket.handle.and_then(|handle| self.stack.local_addr(handle).ok());
        let ended = |over| State::Ended(crate::socket::Ended { over, local });
        let before = std::mem::replace(&mut socket.state, ended(Over::Connection));
        let mut in_order = false;
        let end = match before {
            State::Connected(stream) => {
                in_order = error == Error::BrokenPipe || stream.has_given_end();
                if stream.opening == Opening::Unreported {
                    socket.state = ended(Over::Attempt);
                }
                self.held = self.held.saturating_sub(stream.buffered());
                stream.into_end()
            }
            State::Connecting(Attempt::Gated(end, _)) => {
                socket.state = ended(Over::Attempt);
                end
            }
            other => {
                socket.state = other;
                return;
            }
        };
        if let Some(handle) = self.table.set_handle(id, None) {
            self.stack.close(handle, self.time.now);
        }
        let (error, shown) = match in_order {
            true => (after_end(error), self.end_in_order(end, file.as_ref())),
            false => (error, self.kernel.reset(end, file.as_ref())),
        };
        let Some(file) = file else {
            // Nothing would tell when the program closes it.
            return self.discard(id);
        };
        if let Some(socket) = self.table.get_mut(id) {
            socket.pending = Pending::new(error, shown);
        }
        self.watch_close(id, &file);
        // The program may close its descriptor as soon as it is answered: then none must be left.
        drop(file);
        self.serve_parked_receive(id);
        self.retry_sends(id);
    }

    /// Closes an end so that the program reads the end of the stream: bytes of its own that were left there would make a
    /// failure of it.
    fn end_in_order(&mut self, end: K::End, file: Option<&K::File>) -> Shown {
        match file {
            Some(file) => drop(self.kernel.shut(file, Shutdown::Both)),
            None => self.kernel.shut_end(&end),
        }
        for _ in 0..LEFT_BEHIND {
            if !matches!(self.kernel.receive(&end, &mut self.buffers.scratch), Ok(1..)) {
                break;
            }
        }
        Shown::No
    }

    /// Begins to move bytes of a stream whose end and handle are in place.
    pub(crate) fn start_stream(&mut self, id: SocketId) {
        let Some(socket) = self.table.get(id) else { return };
        let (State::Connected(stream), Some(handle)) = (&socket.state, socket.handle) else { return };
        self.kernel.watch_end(stream.end(), id, stream.interest());
        let mask = Events::IN | Events::OUT | Events::RDHUP;
        if matches!(self.stack.watch(handle, mask), Err(Error::Exists)) {
            // The stack has reported what it had while the connection was being made.
            self.pump(id, Work::In);
        }
    }

    /// Gives the program's datagrams to the stack; says whether there may be more than one turn allows.
    pub(crate) fn pump_datagram_out(&mut self, id: SocketId) -> bool {
        let mut budget = stream::BUDGET;
        for _ in 0..DATAGRAMS_A_TURN {
            let Some(socket) = self.table.get_mut(id) else { return false };
            let (State::Datagram(datagram), Some(handle)) = (&mut socket.state, socket.handle) else {
                return false;
            };
            let held = datagram.held.take();
            let data = match &held {
                Some(data) => data.as_slice(),
                None => match self.kernel.receive(&datagram.end, &mut self.buffers.scratch) {
                    Ok(n) => &self.buffers.scratch[..n.min(self.buffers.scratch.len())],
                    Err(_) => return false,
                },
            };
            let len = data.len();
            match self.stack.send(handle, data, None, SendFlags::empty(), self.time.now) {
                Ok(n) => {
                    self.counts.datagrams_sent += 1;
                    self.counts.bytes_sent += n as u64;
                    self.datagram_passed(id, Way::Out, None, n);
                }
                Err(Error::Again) => {
                    datagram.held = Some(held.unwrap_or_else(|| self.buffers.scratch[..len].to_vec()));
                    return false;
                }
                Err(error) => socket.pending = Pending::Hidden(error),
            }
            budget = budget.saturating_sub(len);
            if budget == 0 {
                break;
            }
        }
        true
    }

    /// Puts the next datagram into the surrogate, if it is empty, or gives it to a parked call.
    pub(crate) fn pump_datagram_in(&mut self, id: SocketId) {
        // Nothing but this reports the one behind an unwanted one.
        while self.put_datagram_in(id) {}
    }

    /// The same; whether it was one that is not wanted, and was dropped.
    fn put_datagram_in(&mut self, id: SocketId) -> bool {
        self.serve_parked_receive(id);
        if !self.has_datagram(id) {
            return false;
        }
        let Some(datagram) = self.table.get_mut(id).and_then(Socket::datagram_mut) else { return false };
        if !datagram.is_empty(&mut self.kernel) {
            self.await_datagram_read(id);
            return false;
        }
        // If the program has just closed the socket, sending to it drops what it sent before: that is read first.
        self.pump(id, Work::Datagrams);
        let Some(socket) = self.table.get_mut(id) else { return false };
        let spec = socket.spec;
        let (State::Datagram(datagram), Some(handle)) = (&mut socket.state, socket.handle) else {
            return false;
        };
        let buf = &mut self.buffers.scratch[..MAX_DATAGRAM];
        match self.stack.recv(handle, buf, RecvFlags::empty(), self.time.now) {
            Ok(received) => {
                let asked =
                    Asked { router: self.router.as_mut(), stack: &self.stack, heard: &mut self.heard };
                let unwanted = incoming(asked, (spec, handle), received.from);
                if let Some(flow) = unwanted {
                    self.note_denied(None, &flow);
                    return true;
                }
                self.counts.datagrams_received += 1;
                self.counts.bytes_received += received.len as u64;
                match self.kernel.send(&datagram.end, &buf[..received.len]) {
                    Ok(_) => {
                        datagram.queue = Queue::Holds(received);
                        self.await_datagram_read(id);
                    }
                    Err(errno) => {
                        if errno == uapi::EPIPE {
                            datagram.reading = Reading::Shut;
                        }
                        tracing::debug!(errno, "a datagram could not be put into its surrogate");
                    }
                }
                self.datagram_passed(id, Way::In, received.from, received.len);
            }
            Err(Error::Again) => {}
            Err(error) => socket.pending = Pending::Hidden(error),
        }
        false
    }

    /// Whether the stack has a datagram that the program may still read.
    fn has_datagram(&self, id: SocketId) -> bool {
        let Some(socket) = self.table.get(id) else { return false };
        let (State::Datagram(datagram), Some(handle)) = (&socket.state, socket.handle) else { return false };
        datagram.reading == Reading::Open
            && self.stack.readiness(handle).is_ok_and(|events| events.contains(Events::IN))
    }

    /// Has the poller report that the program has read its datagram, if and only if the stack has another one.
    fn await_datagram_read(&mut self, id: SocketId) {
        let interest = if self.has_datagram(id) { Interest::InputAndRoom } else { Interest::Input };
        let Some(datagram) = self.table.get_mut(id).and_then(Socket::datagram_mut) else { return };
        if std::mem::replace(&mut datagram.interest, interest) != interest {
            // If it has been read by now, that is reported at once.
            self.kernel.rewatch_end(&datagram.end, id, interest);
        }
    }

    /// An ICMP message has arrived for a datagram socket: a parked receive answers with it, or the surrogate shows it.
    fn datagram_error(&mut self, id: SocketId, event: Event) {
        let Some(error) = self.stack.take_error(event.handle) else { return };
        if let Some(parked) = self.parked.first(id, is_receive) {
            self.parked.forget_thread(parked.caller.tid);
            return self.answer(&parked.caller, Err(error.errno()));
        }
        // To show it, the end drops what the program has sent: that leaves first.
        self.pump(id, Work::Datagrams);
        let file = self.find_file(id);
        let Some(socket) = self.table.get_mut(id) else { return };
        let shown = match (&file, &socket.state) {
            (Some(file), State::Datagram(datagram)) if !self.kernel.has_input(&datagram.end) => {
                self.kernel.show_datagram_error(&datagram.end, file)
            }
            _ => Shown::No,
        };
        socket.pending = Pending::new(error, shown);
    }
}

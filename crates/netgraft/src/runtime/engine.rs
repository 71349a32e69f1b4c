//! The loop, and what all calls share.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netgraft_linux::epoll::{Epoll, EventBuffer, bits};
use netgraft_linux::inotify::CloseWatcher;
use netgraft_linux::listener::Listener;
use netgraft_linux::task::Tasks;
use netgraft_linux::unix::{self, Name};
use netgraft_plugin::{Domain, Event, Events, Instant, PluginStack};
use netgraft_sentry::Errno;
use netgraft_sentry::call::Call;

use super::SentryArgs;
use super::caller::Caller;
use super::calls::Resumed;
use super::datagram::MAX_DATAGRAM;
use super::host::HostCalls;
use super::parked::ParkingLot;
use super::stream::CHUNK;
use super::table::{SocketId, State, Table};
use crate::clock;
use crate::control::{self, FromSentry, Summary, ToSentry};
use crate::vitals::Vitals;

/// Tokens of the loop's own descriptors; those of sockets have the high bit clear.
const OWN: u64 = 1 << 63;
const TOKEN_LISTENER: u64 = OWN;
const TOKEN_CONTROL: u64 = OWN | 1;
const TOKEN_CLOSES: u64 = OWN | 2;
const TOKEN_STACK: u64 = OWN | 3;
/// A call on a host socket that is parked; the rest of the token says which.
pub(super) const TOKEN_HOST: u64 = OWN | 1 << 62;

/// Calls that are answered before surrogates and the stack have their turn.
const CALLS_A_ROUND: usize = 64;
/// Times that the stack is polled again for what its own events brought.
const POLLS_A_ROUND: usize = 8;
/// How long a listener waits before it offers a connection again that the program's queue had no room for.
const RETRY: Duration = Duration::from_millis(10);

/// How long the program's last bytes may take to be delivered after its end: less than the launcher waits.
const LAST_BYTES: Duration = Duration::from_millis(1500);

/// What a call comes to.
pub(super) enum Answer {
    /// The value that the call returns.
    Value(i64),
    /// Nothing is to be sent: it was answered (a descriptor was injected), or parked.
    Done,
    /// The kernel is to do it: the descriptor is not one that the sentry serves.
    Kernel,
}

/// The result of a call.
pub(super) type Outcome = Result<Answer, Errno>;

/// A socket on which bytes may be moved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// From the program to the stack, as far as the surrogate has something.
    Out,
    /// From the program to the stack, until the end of the stream.
    OutToEnd,
    /// From the stack to the program.
    In,
    /// Datagrams from the program to the stack.
    Datagrams,
}

/// The sentry.
pub(super) struct Engine {
    pub(super) stack: Box<dyn PluginStack>,
    pub(super) listener: Listener,
    pub(super) control: OwnedFd,
    vitals: Vitals,
    /// Whether the launcher is told which sockets are to outlive the stack.
    pub(super) journal: bool,
    pub(super) epoll: Epoll,
    pub(super) tasks: Tasks,
    pub(super) table: Table,
    pub(super) parked: ParkingLot,
    pub(super) closes: CloseWatcher,
    /// Watches fresh stream sockets without holding them, to find those that were closed unused.
    pub(super) nursery: Epoll,
    /// How many fresh sockets there may be before the next look at [`Engine::nursery`].
    pub(super) nursery_limit: usize,
    /// A listener of the sentry's own: the program's sockets are connected to it, to get the other end.
    pub(super) rendezvous: (OwnedFd, Name),
    /// The next name, from an unpredictable start; even.
    next_name: u64,
    /// The network namespace that surrogates are in (`SO_NETNS_COOKIE`).
    pub(super) network: u64,
    pub(super) now: Instant,
    pub(super) scratch: Vec<u8>,
    /// A datagram under way.
    pub(super) payload: Vec<u8>,
    /// Sockets whose pump used up its budget.
    pub(super) again: Vec<(SocketId, Work)>,
    /// Those of them that have their turn now.
    turn: Vec<(SocketId, Work)>,
    /// Listeners with a connection that found no room.
    pub(super) full_listeners: Vec<SocketId>,
    retry_at: Option<Instant>,
    /// Answers that the caller did not get, since a signal interrupted it: given if it asks again.
    pub(super) lost: std::collections::HashMap<u32, Lost>,
    /// Threads whose last call was a `bind` with success: of which open file (`SO_COOKIE`), to which address.
    pub(super) just_bound: std::collections::HashMap<u32, (u64, SocketAddr)>,
    /// What the caller that is served now did last, if that was a `bind`.
    pub(super) bound_before: Option<(u64, SocketAddr)>,
    /// Set while a parked call is served again.
    pub(super) resumed: Option<Resumed>,
    /// The stack was given something, so it is to be polled.
    pub(super) stack_busy: bool,
    pub(super) host: Option<HostCalls>,
    pub(super) summary: Summary,
    /// The program has ended: until when its last bytes may take to be delivered.
    ends_at: Option<Instant>,
    moved_events: Vec<Event>,
    /// Why the sentry cannot go on.
    broken: Option<io::Error>,
}

/// An answer that was not delivered.
pub(super) struct Lost {
    number: i64,
    args: [u64; 6],
    result: Result<i64, Errno>,
}

impl Engine {
    pub(super) fn new(args: SentryArgs) -> io::Result<Engine> {
        let SentryArgs { stack, listener, control, vitals, journal, kept: _ } = args;
        let listener = Listener::new(listener);
        // Older kernels do without.
        let _ = listener.wake_synchronously();
        unix::handle_alarm()?;
        let epoll = Epoll::new()?;
        let closes = CloseWatcher::new()?;
        epoll.add(listener.as_fd(), bits::IN, TOKEN_LISTENER)?;
        epoll.add(control.as_fd(), bits::IN | bits::RDHUP, TOKEN_CONTROL)?;
        epoll.add(closes.as_fd(), bits::IN, TOKEN_CLOSES)?;
        for wake in stack.wake_fds() {
            let mut events = 0;
            if wake.events.contains(Events::IN) {
                events |= bits::IN;
            }
            if wake.events.contains(Events::OUT) {
                events |= bits::OUT;
            }
            epoll.add(wake.fd, events, TOKEN_STACK)?;
        }
        let first = unpredictable() & !1;
        let rendezvous = unix::stream(true)?;
        unix::bind(rendezvous.as_fd(), Name(first))?;
        unix::listen(rendezvous.as_fd(), 4)?;
        let network = unix::network(rendezvous.as_fd())?;
        let info = stack.info();
        let host = stack.offers_host_fds().then(HostCalls::default);
        Ok(Engine {
            stack,
            listener,
            control,
            vitals,
            journal,
            broken: None,
            epoll,
            tasks: Tasks::new(),
            table: Table::default(),
            parked: ParkingLot::default(),
            closes,
            nursery: Epoll::new()?,
            nursery_limit: 1024,
            rendezvous: (rendezvous, Name(first)),
            next_name: first.wrapping_add(2),
            network,
            now: clock::now(),
            scratch: vec![0; CHUNK.max(MAX_DATAGRAM)],
            payload: Vec::with_capacity(MAX_DATAGRAM),
            again: Vec::new(),
            turn: Vec::new(),
            full_listeners: Vec::new(),
            retry_at: None,
            lost: std::collections::HashMap::new(),
            just_bound: std::collections::HashMap::new(),
            bound_before: None,
            resumed: None,
            stack_busy: true,
            host,
            summary: Summary { stack: format!("{} {}", info.name, info.version), ..Summary::default() },
            ends_at: None,
            moved_events: Vec::new(),
        })
    }

    /// A name that no socket has had.
    pub(super) fn fresh_name(&mut self) -> Name {
        let name = Name(self.next_name);
        self.next_name = self.next_name.wrapping_add(2);
        name
    }

    /// The same for a listener: the surrogates of its connections inherit it, so that a later sentry can tell their
    /// address family by it.
    pub(super) fn fresh_listener_name(&mut self, domain: Domain) -> Name {
        let Name(even) = self.fresh_name();
        Name(even | u64::from(domain == Domain::V6))
    }

    pub(super) fn run(mut self) -> io::Result<()> {
        let mut buffer = EventBuffer::new(512);
        loop {
            let timeout = self.timeout();
            self.epoll.wait(&mut buffer, timeout)?;
            self.now = clock::now();
            let mut calls = false;
            for &(events, token) in buffer.events() {
                match token {
                    TOKEN_LISTENER if events & bits::HUP != 0 && events & bits::IN == 0 => {
                        // No thread of the program is left; the launcher will say stop.
                        let _ = self.epoll.remove(self.listener.as_fd());
                    }
                    TOKEN_LISTENER => calls = true,
                    TOKEN_CONTROL => {
                        if self.is_told_to_stop() {
                            let _ = self.epoll.remove(self.control.as_fd());
                            self.ends_at = Some(self.now + LAST_BYTES);
                        }
                    }
                    TOKEN_CLOSES => self.harvest_closes(),
                    TOKEN_STACK => self.stack_busy = true,
                    token if token & TOKEN_HOST == TOKEN_HOST => self.host_ready(token & !TOKEN_HOST),
                    token => self.surrogate_ready(SocketId::from_token(token), events),
                }
            }
            if calls {
                self.serve_calls();
            }
            self.run_timers();
            self.run_stack();
            if let Some(error) = self.broken.take() {
                // What was closed behind its owner's back must not be closed again: the process ends anyway.
                std::mem::forget(self);
                return Err(io::Error::other(format!(
                    "the stack has closed a descriptor of the sentry: {error}"
                )));
            }
            if let Some(why) = self.stack.failure() {
                let told = control::send(self.control.as_fd(), &FromSentry::Broke(why));
                // It is not called again, not even to be destroyed: the process ends.
                std::mem::forget(self);
                return told;
            }
            if let Some(at) = self.ends_at
                && (self.now >= at || !self.has_last_bytes())
            {
                return self.stop();
            }
        }
    }

    /// How long to sleep at most.
    fn timeout(&self) -> Option<Duration> {
        if !self.again.is_empty() || self.stack_busy {
            return Some(Duration::ZERO);
        }
        let host = self.host.as_ref().and_then(HostCalls::next_deadline);
        let deadlines =
            [self.stack.next_deadline(), self.parked.next_deadline(), self.retry_at, self.ends_at, host];
        let deadline = deadlines.into_iter().flatten().min()?;
        Some(deadline.since(clock::now()))
    }

    fn is_told_to_stop(&self) -> bool {
        match control::receive::<ToSentry>(self.control.as_fd()) {
            Ok(Some(ToSentry::Stop) | None) => true,
            Ok(Some(ToSentry::Listener(place))) => {
                let refusal = FromSentry::NotAttached(place, "it serves one program".to_owned());
                control::send(self.control.as_fd(), &refusal).is_err()
            }
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Whether bytes that the program sent before it ended are still on their way.
    fn has_last_bytes(&self) -> bool {
        !self.again.is_empty()
            || self.stack.unfinished() > 0
            || self.table.ids().any(|id| match self.table.get(id).map(|s| &s.state) {
                Some(State::Stream(stream)) => {
                    stream.is_open_out() && unix::readable(stream.end().as_fd()).unwrap_or(false)
                }
                _ => false,
            })
    }

    fn stop(mut self) -> io::Result<()> {
        let statistics = self.stack.statistics();
        self.summary.packets = (statistics.packets_received, statistics.packets_sent);
        for id in self.table.ids().collect::<Vec<_>>() {
            // Nobody sends any more: one turn is enough for what a surrogate holds.
            let _ = self.pump_datagram_out(id);
        }
        self.now = clock::now();
        self.stack.poll(self.now);
        // Who still waits in a call is about to be killed, and hears no errors that Linux would not give.
        self.parked = ParkingLot::default();
        // Connections end as those of a process that is gone: closed, or reset if data was left unread.
        for id in self.table.ids().collect::<Vec<_>>() {
            self.discard(id);
        }
        self.now = clock::now();
        self.stack.poll(self.now);
        self.stack.destroy();
        control::send(self.control.as_fd(), &FromSentry::Summary(self.summary))
    }

    /// Answers calls while some wait.
    fn serve_calls(&mut self) {
        for _ in 0..CALLS_A_ROUND {
            let notification = match self.listener.receive() {
                Ok(notification) => notification,
                // The caller has died or was interrupted.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return,
                // Code in this process has closed the listener: nobody would be answered any more.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTTY)) => {
                    self.broken = Some(error);
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "no call could be received");
                    return;
                }
            };
            self.vitals.took(0, notification.id);
            self.summary.calls += 1;
            let caller = Caller {
                id: notification.id,
                tid: notification.tid,
                number: notification.number,
                args: notification.args,
            };
            // A thread waits in one call: what it was parked for was interrupted.
            self.parked.forget_thread(caller.tid);
            self.bound_before = self.just_bound.remove(&caller.tid);
            if !self.repeat_lost(&caller) {
                match Call::parse(caller.number, caller.args) {
                    Some(call) => {
                        let outcome = self.serve(&caller, call);
                        self.answer(&caller, outcome);
                    }
                    None => self.answer(&caller, Err(libc::ENOSYS)),
                }
            }
            self.vitals.served(0);
            if !unix::readable(self.listener.as_fd()).unwrap_or(false) {
                return;
            }
        }
    }

    /// A caller that was interrupted before it got its answer, and now asks the same again, gets that answer:
    /// what it asked for was done and must not be done twice.
    fn repeat_lost(&mut self, caller: &Caller) -> bool {
        if self.lost.is_empty() {
            return false;
        }
        match self.lost.remove(&caller.tid) {
            Some(lost) if lost.number == caller.number && lost.args == caller.args => {
                self.answer(caller, lost.result.map(Answer::Value));
                true
            }
            _ => false,
        }
    }

    /// Sends an outcome to its caller.
    pub(super) fn answer(&mut self, caller: &Caller, outcome: Outcome) {
        let (sent, result) = match outcome {
            Ok(Answer::Done) => return,
            Ok(Answer::Kernel) => {
                // If the caller is gone there is nothing to let through.
                let _ = self.listener.let_through(caller.id);
                return;
            }
            Ok(Answer::Value(value)) => (self.listener.answer(caller.id, Ok(value)), Ok(value)),
            Err(errno) => (self.listener.answer(caller.id, Err(errno)), Err(errno)),
        };
        if sent.is_err() {
            // Interrupted, or dead. Bounded: a dead thread's entry must not stay for ever.
            if self.lost.len() >= 256 {
                self.lost.clear();
            }
            self.lost.insert(caller.tid, Lost { number: caller.number, args: caller.args, result });
        }
    }

    /// Files that were closed for the last time.
    pub(super) fn harvest_closes(&mut self) {
        let mut closed = Vec::new();
        if let Err(error) = self.closes.harvest(|watch| closed.push(watch)) {
            // As with the listener: only code in this process can have done this.
            self.broken = Some(error);
        }
        for watch in closed {
            match self.table.find_watch(watch) {
                Some(id) => self.program_closed(id),
                None => self.closes.unwatch(watch),
            }
        }
    }

    fn run_timers(&mut self) {
        while let Some(parked) = self.parked.take_due(self.now) {
            let outcome = match parked.call {
                // connect(2) says that it is still under way (socket(7), SO_SNDTIMEO).
                Call::Connect { .. } => Err(libc::EINPROGRESS),
                _ if parked.progress > 0 => Ok(Answer::Value(i64::from(parked.progress))),
                _ => Err(libc::EAGAIN),
            };
            self.answer(&parked.caller, outcome);
        }
        if self.retry_at.is_some_and(|at| at <= self.now) {
            self.retry_at = None;
            for id in std::mem::take(&mut self.full_listeners) {
                self.pump_listener(id);
            }
        }
        if !self.full_listeners.is_empty() && self.retry_at.is_none() {
            self.retry_at = Some(self.now + RETRY);
        }
        if self.host.is_some() {
            self.host_timers();
        }
    }

    /// Lets the stack run, and moves what it brings.
    fn run_stack(&mut self) {
        std::mem::swap(&mut self.again, &mut self.turn);
        while let Some((id, work)) = self.turn.pop() {
            self.pump(id, work);
        }
        let due = self.stack.next_deadline().is_some_and(|at| at <= self.now);
        if !self.stack_busy && !due {
            return;
        }
        for _ in 0..POLLS_A_ROUND {
            self.stack_busy = false;
            self.stack.poll(self.now);
            let mut events = std::mem::take(&mut self.moved_events);
            self.stack.drain_events(&mut |event| {
                events.push(event);
                true
            });
            for event in events.drain(..) {
                self.stack_event(event);
            }
            self.moved_events = events;
            if !self.stack_busy {
                return;
            }
        }
    }

    /// Duplicates a descriptor of the caller and finds the socket behind it; `None` if the sentry does not
    /// serve it.
    pub(super) fn resolve(&mut self, caller: &Caller, fd: i32) -> Option<(SocketId, OwnedFd)> {
        let file = match self.tasks.duplicate(caller.tid, fd) {
            Ok(file) => file,
            Err(error) => {
                // The kernel knows what to say of a bad descriptor.
                tracing::trace!(%error, fd, "no such descriptor");
                return None;
            }
        };
        let id = self.identify(file.as_fd()).or_else(|| self.adopt(file.as_fd()))?;
        if let Some(socket) = self.table.get_mut(id) {
            socket.seen = Some(super::table::Seen { tid: caller.tid, fd });
        }
        self.widen(id, file.as_fd());
        Some((id, file))
    }

    /// The socket behind an open file of the program.
    pub(super) fn identify(&mut self, file: BorrowedFd<'_>) -> Option<SocketId> {
        let cookie = unix::cookie(file).ok()?;
        if let Some(id) = self.table.find_cookie(cookie) {
            return Some(id);
        }
        // An accepted connection is known by the name of the sentry's end until its file is seen.
        let id = self.table.find_name(unix::peer_name(file)?)?;
        if self.table.cookie(id).is_some() {
            return None;
        }
        self.table.set_cookie(id, cookie);
        Some(id)
    }

    /// The program's descriptor of a socket, where it was last seen, if it still is that socket's.
    pub(super) fn find_file(&mut self, id: SocketId) -> Option<OwnedFd> {
        let seen = self.table.get(id)?.seen?;
        let file = self.tasks.duplicate(seen.tid, seen.fd).ok()?;
        (self.identify(file.as_fd()) == Some(id)).then_some(file)
    }

    /// Watches for the last close of the program's file.
    pub(super) fn watch(&mut self, id: SocketId, file: BorrowedFd<'_>) {
        if self.table.get(id).is_none_or(|s| s.watch.is_some()) {
            return;
        }
        match self.closes.watch(file) {
            Ok(watch) => self.table.set_watch(id, watch),
            Err(error) => tracing::warn!(%error, fd = file.as_raw_fd(), "a socket's close cannot be watched"),
        }
    }
}

/// An unpredictable number: the standard library keys its hashers with getrandom(2).
fn unpredictable() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

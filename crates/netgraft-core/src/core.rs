//! The sockets of a sandbox, and what happens to them.
//!
//! The owner of a [`Core`] tells it the time ([`Core::set_time`]) and what has happened: a call was received
//! ([`Core::call`]), an end or a host socket is ready ([`Core::end_ready`], [`Core::host_ready`]), files were closed
//! ([`Core::harvest_closes`]), a descriptor of the stack is ready ([`Core::wake_stack`]). Then it lets timers and the
//! stack run ([`Core::run`]), and sleeps until [`Core::next_deadline`]. Nothing here waits.

use std::collections::HashSet;
use std::time::Duration;

use netgraft_plugin::faults::LinkFaults;
use netgraft_plugin::inet::Statistics;
use netgraft_plugin::{Event, Events, Handle, Instant, PluginStack};

use crate::answers::{Answer, Answers, Outcome};
use crate::budget::Budget;
use crate::codec::call::Call;
use crate::codec::sockopt::Direction;
use crate::counts::Counts;
use crate::datagram::MAX_DATAGRAM;
use crate::deny::Denials;
use crate::flows::{FlowLog, FlowSink};
use crate::host::{HostCalls, HostSocket};
use crate::join::Accepted;
use crate::journal::Journal;
use crate::owners::Told;
use crate::parked::{Parked, ParkingLot};
use crate::policy::Heard;
use crate::private_link::{Links, PrivateLinks};
use crate::program::{Caller, Program};
use crate::pump::WorkList;
use crate::refused::Refused;
use crate::route::Router;
use crate::socket::{ClosedBy, Seen, Socket, State};
use crate::stack::Stack;
use crate::stream::CHUNK;
use crate::surrogate::{Cookie, Surrogate, Watch, Watcher};
use crate::table::{SocketId, Table};
use crate::uapi;

/// All that the core needs of the world. See the traits for what is what.
pub trait Kernel: Program + Surrogate + Watcher + HostSocket + PrivateLinks + Journal + FlowSink {}

impl<K: Program + Surrogate + Watcher + HostSocket + PrivateLinks + Journal + FlowSink> Kernel for K {}

/// Times that the stack is polled again in a round for what its own events brought.
const POLLS_A_ROUND: usize = 8;

/// How many fresh sockets there may be before the nursery is looked at for the first time.
const NURSERY: usize = 1024;

/// The least time between two looks at the nursery.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);

/// When the nursery is looked at for sockets that were closed.
struct Nursery {
    /// How many sockets there may be before the next look.
    limit: usize,
    /// When a look is possible again.
    next_sweep: Instant,
}

/// The time, as the owner of a core says it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Time {
    /// On the monotonic clock, on which deadlines are.
    pub now: Instant,
    /// Since the epoch, for `SO_TIMESTAMP`.
    pub wall: Duration,
}

/// Memory that is used again for every call.
pub(crate) struct Buffers {
    /// Bytes on their way to the program, or between an end and the stack.
    pub(crate) scratch: Vec<u8>,
    /// Bytes of the program on their way to the stack.
    pub(crate) payload: Vec<u8>,
}

/// The sockets of a sandbox. See the module.
pub struct Core<K: Kernel> {
    pub(crate) kernel: K,
    pub(crate) stack: Stack,
    pub(crate) router: Box<dyn Router>,
    /// What it has denied.
    pub(crate) denials: Denials,
    /// Who may be answered all the same.
    pub(crate) heard: Heard,
    /// Flows, if they are recorded.
    pub(crate) flows: Option<FlowLog>,
    pub(crate) table: Table<K>,
    pub(crate) parked: ParkingLot,
    pub(crate) answers: Answers,
    pub(crate) host: HostCalls<K::File>,
    pub(crate) links: Links,
    pub(crate) work: WorkList,
    pub(crate) buffers: Buffers,
    pub(crate) budget: Budget,
    pub(crate) counts: Counts,
    pub(crate) time: Time,
    /// Bytes of the program's data that are held here ([`Budget::bytes`]).
    pub(crate) held: usize,
    /// Whether memory was short when it was last measured.
    pub(crate) short: bool,
    /// What was used then.
    memory: usize,
    /// Whether connections inside the sandbox are joined.
    pub(crate) joins: bool,
    pub(crate) accepted: Accepted,
    /// Options that were reported to the operator.
    pub(crate) refused: Refused,
    /// Whose sockets they are, if somebody wants to know.
    pub(crate) told: Option<Told>,
    nursery: Nursery,
    /// Kept between rounds for its memory.
    events: Vec<Event>,
    /// Likewise.
    closed: Vec<Watch>,
}

/// The socket that a call is about.
pub(crate) struct Subject<K: Kernel> {
    pub(crate) id: SocketId,
    /// A duplicate of the program's open file.
    pub(crate) file: K::File,
}

impl<K: Kernel> Core<K> {
    /// A core without sockets.
    #[must_use]
    pub fn new(kernel: K, stack: Box<dyn PluginStack>, router: Box<dyn Router>, budget: Budget) -> Core<K> {
        Core {
            kernel,
            told: stack.owners().map(Told::new),
            stack: Stack::new(stack),
            router,
            denials: Denials::default(),
            heard: Heard::default(),
            flows: None,
            table: Table::default(),
            parked: ParkingLot::default(),
            answers: Answers::default(),
            host: HostCalls::default(),
            links: Links::default(),
            work: WorkList::default(),
            buffers: Buffers {
                scratch: vec![0; CHUNK.max(MAX_DATAGRAM)],
                payload: Vec::with_capacity(MAX_DATAGRAM),
            },
            budget,
            counts: Counts::default(),
            time: Time::default(),
            held: 0,
            short: false,
            memory: 0,
            joins: false,
            accepted: Accepted::default(),
            refused: Refused::default(),
            nursery: Nursery { limit: NURSERY, next_sweep: Instant::ZERO },
            events: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// Says what time it is. Called before anything else in a round.
    pub fn set_time(&mut self, time: Time) {
        self.time = time;
    }

    /// The kernel that it works on.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// The stack, to be asked.
    #[must_use]
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Replaces the faults of the stack's link: [`PluginStack::set_link_faults`].
    ///
    /// # Errors
    /// If it has none that can be changed.
    pub fn set_link_faults(&mut self, faults: LinkFaults, seed: Option<u64>) -> netgraft_plugin::Result<()> {
        self.stack.set_link_faults(faults, seed)
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many flows were denied.
    #[must_use]
    pub fn denied(&self) -> u64 {
        self.denials.total
    }

    /// How many sockets there are.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.table.len()
    }

    /// Says how much memory the sentry and its stack use. While that is more than the budget there are no new sockets,
    /// and what programs send stays in their surrogates.
    pub fn note_memory(&mut self, used: usize) {
        self.memory = used;
        self.short = used >= self.budget.memory;
        if !self.short {
            self.work.resume();
        }
    }

    /// How much memory was used when it was last measured, and how much may be.
    #[must_use]
    pub fn memory(&self) -> (usize, usize) {
        (self.memory, self.budget.memory)
    }

    /// How many rules there are about who may talk to whom.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.router.rules()
    }

    /// Whether memory is short, so that it is to be measured again soon.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// Gives up memory that was needed for more sockets than there are.
    pub fn shrink(&mut self) {
        self.table.shrink();
    }

    /// Has the stack polled: one of its descriptors is ready.
    pub fn wake_stack(&mut self) {
        self.stack.wake();
    }

    /// When [`Core::run`] is to be called at the latest; `None` for never. The time before now means at once.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.work.is_waiting() || self.links.is_waiting() || self.stack.is_due() {
            return Some(Instant::ZERO);
        }
        let deadlines = [
            self.stack.next_deadline(),
            self.parked.next_deadline(),
            self.work.retry_at(),
            self.host.next_deadline(),
            self.flows.as_ref().and_then(FlowLog::next_deadline),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Fires timers that are due, moves what is left from the last round, lets the stack run and moves what it brings.
    pub fn run(&mut self) {
        self.run_timers();
        let turn = self.work.begin_turn();
        for &(id, work) in &turn {
            self.pump(id, work);
        }
        self.work.end_turn(turn);
        self.resume_links();
        self.run_stack();
        self.flush_links();
    }

    /// Lets the stack run, if it has something to do, and deals with what it reports.
    pub(crate) fn run_stack(&mut self) {
        let due = self.stack.next_deadline().is_some_and(|at| at <= self.time.now);
        if !self.stack.is_due() && !due {
            return;
        }
        for _ in 0..POLLS_A_ROUND {
            self.stack.poll(self.time.now);
            let mut events = std::mem::take(&mut self.events);
            self.stack.drain_events(&mut events);
            for event in events.drain(..) {
                self.stack_event(event);
            }
            self.events = events;
            if !self.stack.is_due() {
                return;
            }
        }
    }

    fn run_timers(&mut self) {
        while let Some(parked) = self.parked.take_due(self.time.now) {
            let outcome = match parked.call {
                // connect(2) says that it is still under way (socket(7), SO_SNDTIMEO).
                Call::Connect { .. } => Err(uapi::EINPROGRESS),
                _ if parked.progress > 0 => Ok(Answer::Value(i64::from(parked.progress))),
                _ => Err(uapi::EAGAIN),
            };
            self.answer(&parked.caller, outcome);
        }
        for id in self.work.listeners_to_retry(self.time.now) {
            self.pump_listener(id);
        }
        self.run_host_timers();
        self.sweep_flows();
    }

    /// Files that were closed for the last time.
    pub fn harvest_closes(&mut self) {
        let mut closed = std::mem::take(&mut self.closed);
        self.kernel.take_closed(&mut closed);
        for watch in closed.drain(..) {
            match self.table.find_watch(watch) {
                Some(id) => self.file_closed(id),
                None => self.kernel.unwatch_close(watch),
            }
        }
        self.closed = closed;
    }

    /// Whether bytes that the program sent before it ended are still on their way.
    pub fn has_last_bytes(&mut self) -> bool {
        if self.work.is_waiting() || self.stack.unfinished() > 0 {
            return true;
        }
        let (kernel, table) = (&mut self.kernel, &self.table);
        table.ids().any(|id| {
            let stream = table.get(id).and_then(Socket::stream);
            stream.is_some_and(|stream| stream.is_open_out() && kernel.has_input(stream.end()))
        })
    }

    /// Ends all sockets, as those of a process that is gone: closed, or reset if data was left unread. The program has
    /// ended; who still waits in a call is about to be killed, and gets no error that Linux would not give. Answers what the
    /// stack has counted, with these last packets.
    pub fn stop(&mut self) -> Statistics {
        for id in self.table.ids().collect::<Vec<_>>() {
            // Nobody sends any more: one turn is enough for what a surrogate holds.
            let _ = self.pump_datagram_out(id);
        }
        self.stack.poll(self.time.now);
        self.stop_flows();
        self.parked = ParkingLot::default();
        for id in self.table.ids().collect::<Vec<_>>() {
            self.discard(id);
        }
        self.stack.poll(self.time.now);
        let statistics = self.stack.statistics();
        self.stack.destroy();
        statistics
    }

    /// The socket behind an open file of the program.
    pub(crate) fn identify(&mut self, file: &K::File) -> Option<SocketId> {
        let cookie = self.kernel.cookie(file)?;
        if let Some(id) = self.table.find_cookie(cookie) {
            return Some(id);
        }
        // An accepted connection is known by the name of the sentry's end until its file is seen.
        let id = self.table.find_name(self.kernel.peer_name(file)?)?;
        if self.table.cookie(id).is_some() {
            return None;
        }
        self.table.set_cookie(id, cookie);
        Some(id)
    }

    /// The program's descriptor of a socket, where it was last seen, if it still is that socket's.
    pub(crate) fn find_file(&mut self, id: SocketId) -> Option<K::File> {
        let Seen { tid, fd } = self.table.get(id)?.seen?;
        let file = self.kernel.duplicate_of(tid, fd).ok()?;
        self.only_of(id, file)
    }

    /// The file, if it is this socket's.
    pub(crate) fn only_of(&mut self, id: SocketId, file: K::File) -> Option<K::File> {
        if self.identify(&file) == Some(id) {
            return Some(file);
        }
        self.kernel.dispose(file);
        None
    }

    /// Takes care that the last close of a socket is noticed: watches its file if nothing else tells of it.
    pub(crate) fn watch_close(&mut self, id: SocketId, file: &K::File) {
        if self.table.get(id).is_none_or(|s| s.watch.is_some() || !s.needs_watch()) {
            return;
        }
        match self.kernel.watch_close(file) {
            Ok(watch) => self.table.set_watch(id, watch),
            Err(errno) => tracing::warn!(?id, errno, "the close of a socket cannot be watched"),
        }
    }

    /// Asks the stack for the events of a socket.
    pub(crate) fn observe(&mut self, handle: Handle) {
        if let Err(error) = self.stack.watch(handle, Events::IN | Events::OUT | Events::RDHUP) {
            tracing::warn!(%error, "the stack does not report a socket's events");
        }
    }

    /// Parks a call until something happens on the socket, or its time-out comes.
    pub(crate) fn park(&mut self, request: &Request, id: SocketId, direction: Direction) -> Outcome {
        self.park_with_progress(request, id, direction, 0)
    }

    /// Parks a call that has done a part.
    pub(crate) fn park_with_progress(
        &mut self,
        request: &Request,
        id: SocketId,
        direction: Direction,
        progress: u32,
    ) -> Outcome {
        let deadline = match request.resumed {
            Some(resumed) => resumed.deadline,
            None => self.table.get(id).and_then(|s| s.timeout(direction)).map(|t| self.time.now + t),
        };
        self.parked.park(id, Parked { caller: request.caller, call: request.call, deadline, progress });
        Ok(Answer::Done)
    }

    /// Serves the parked calls of a socket again, those that `wanted` picks, until one has to wait on.
    pub(crate) fn serve_parked(&mut self, id: SocketId, wanted: impl Fn(&Call) -> bool) {
        while let Some(parked) = self.parked.first(id, &wanted) {
            self.parked.forget_thread(parked.caller.tid);
            if !self.kernel.is_waiting(&parked.caller) {
                // Interrupted or dead.
                self.keep_part(parked);
                continue;
            }
            let resumed = Resumed { deadline: parked.deadline, progress: parked.progress };
            let request = Request { resumed: Some(resumed), ..Request::new(parked.caller, parked.call) };
            let outcome = self.serve(&request);
            self.keep_part_of(&request, &outcome);
            let waits_on = self.parked.is_parked(id, &parked.caller);
            self.answer(&parked.caller, outcome);
            if waits_on {
                return;
            }
        }
    }

    /// Forgets fresh sockets that the program has closed, when the table has doubled since the last time, so that the
    /// cost for each socket is constant.
    pub(crate) fn sweep_nursery(&mut self) {
        if self.table.len() > self.nursery.limit {
            self.forget_closed();
            self.nursery.limit = (self.table.len() * 2).max(NURSERY);
        }
    }

    /// Forgets fresh sockets that the program has closed, but not more often than every few milliseconds.
    pub(crate) fn forget_closed(&mut self) {
        if self.time.now < self.nursery.next_sweep {
            return;
        }
        self.nursery.next_sweep = self.time.now + SWEEP_INTERVAL;
        let Some(alive) = self.kernel.sheltered() else { return };
        let alive: HashSet<SocketId> = alive.into_iter().collect();
        let sheltered = |socket: &Socket<K>| {
            let state = &socket.state;
            let kind = state.closed_by() == ClosedBy::Nursery || matches!(state, State::Ended(_));
            kind && socket.watch.is_none()
        };
        let gone: Vec<SocketId> = self
            .table
            .ids()
            .filter(|id| !alive.contains(id) && self.table.get(*id).is_some_and(sheltered))
            .collect();
        for id in gone {
            self.discard(id);
        }
    }
}

/// A call that is being served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) caller: Caller,
    pub(crate) call: Call,
    /// What is known of it, if it was parked before.
    pub(crate) resumed: Option<Resumed>,
    /// What the thread did last, if that was a `bind`: of which file, to which address.
    pub(crate) bound_before: Option<(Cookie, std::net::SocketAddr)>,
}

impl Request {
    pub(crate) fn new(caller: Caller, call: Call) -> Request {
        Request { caller, call, resumed: None, bound_before: None }
    }

    /// Bytes that were moved before, by a data call on a stream.
    pub(crate) fn progress(&self) -> usize {
        self.resumed.map_or(0, |resumed| resumed.progress as usize)
    }
}

/// What is known of a parked call when it is served again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resumed {
    /// Until when it waits.
    pub(crate) deadline: Option<Instant>,
    /// Messages that were received before (recvmmsg(2)), or bytes that were moved (`waiting.rs`).
    pub(crate) progress: u32,
}

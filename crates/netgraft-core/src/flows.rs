//! Flows as an operator sees them: who talked to whom, how much, by which rule, and how it ended. Nothing of it is done unless
//! somebody wants to know ([`Core::record_flows`]).
//!
//! A flow of TCP is a connection or an attempt at one, and a raw socket is a flow of its own. Datagrams between a socket and a peer
//! are one flow from the first until none has passed for [`IDLE`], or until the socket is closed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use netgraft_plugin::{Error, Handle, Instant, Kind, SocketSpec};

use crate::core::{Core, Kernel};
use crate::deny::Bucket;
use crate::join::Pair;
use crate::policy::{Direction, Protocol, protocol_of};
use crate::program::Caller;
use crate::route::Flow;
use crate::table::SocketId;

/// After how long without a datagram a flow of them is over.
const IDLE: Duration = Duration::from_secs(60);
/// How often that is looked at, while there is one.
const SWEEP: Duration = Duration::from_secs(15);
/// The most flows of datagrams that are known at a time: with one more, all of them end and those that go on begin anew.
const MOST: usize = 16_384;
/// How many denied attempts are recorded at once, and in a second after that.
const DENIED_AT_ONCE: u32 = 1000;
const DENIED_A_SECOND: u32 = 500;

/// A flow that is over, or that was denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// When it began and ended, since the epoch.
    pub began: Duration,
    /// See [`FlowRecord::began`].
    pub ended: Duration,
    /// Who began.
    pub direction: Direction,
    /// What was spoken.
    pub protocol: Protocol,
    /// The sandbox's address.
    pub local: Option<SocketAddr>,
    /// The peer's.
    pub remote: Option<SocketAddr>,
    /// The process that began it, or that has the socket.
    pub process: Option<ProcessName>,
    /// Whether both ends are in the sandbox, and connected past the stack.
    pub joined: bool,
    /// What was sent and received, as far as that is known.
    pub sent: Option<Amount>,
    /// See [`FlowRecord::sent`].
    pub received: Option<Amount>,
    /// Segments that were sent again, where the stack says so.
    pub retransmits: Option<u32>,
    /// How it ended.
    pub end: FlowEnd,
    /// Why it was allowed or denied; `None` if there are no rules.
    pub rule: Option<String>,
    /// Denied attempts before this one that were not recorded, since there were too many.
    pub unrecorded: u64,
}

/// How much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes of payload.
    pub bytes: u64,
    /// Datagrams; `None` for a stream.
    pub packets: Option<u64>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessName {
    /// Its number, as its own process-id namespace has it.
    pub pid: u32,
    /// Its executable's path, if that could be read.
    pub executable: Option<String>,
}

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlowEnd {
    /// The program has closed the socket.
    Closed,
    /// The program has closed it with a reset.
    Reset,
    /// It failed.
    Failed(Error),
    /// It was denied: it never began.
    Denied,
    /// The operator has ended it.
    Killed,
    /// No datagram has passed for a minute.
    Idle,
    /// There were too many flows of datagrams: it may go on as another one.
    TooMany,
    /// The sandbox has ended.
    Stopped,
}

/// Where records go, and what they need to know.
pub trait FlowSink {
    /// A flow is over. Must not wait.
    fn flow(&mut self, record: FlowRecord);

    /// The process of a thread; `None` if it is gone.
    fn process_name(&mut self, tid: u32) -> Option<ProcessName>;
}

/// Which way a datagram went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Out,
    In,
}

/// A flow that goes on.
#[derive(Debug)]
pub(crate) struct Flowing {
    began: Duration,
    /// When a datagram has passed last.
    last: Instant,
    direction: Direction,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    process: Option<ProcessName>,
    rule: Option<String>,
    is_joined: bool,
    pub(crate) sent: Amount,
    pub(crate) received: Amount,
}

impl Flowing {
    fn pass(&mut self, way: Way, bytes: usize, now: Instant) {
        self.last = now;
        let amount = match way {
            Way::Out => &mut self.sent,
            Way::In => &mut self.received,
        };
        amount.bytes += bytes as u64;
        amount.packets = Some(amount.packets.unwrap_or(0) + 1);
    }
}

/// The flows of datagrams, and what bounds records.
#[derive(Debug)]
pub(crate) struct FlowLog {
    datagrams: HashMap<SocketId, HashMap<SocketAddr, Flowing>>,
    /// How many there are.
    count: usize,
    next_sweep: Option<Instant>,
    denied: Bucket,
}

impl FlowLog {
    fn new() -> FlowLog {
        FlowLog {
            datagrams: HashMap::new(),
            count: 0,
            next_sweep: None,
            denied: Bucket::new(DENIED_AT_ONCE, DENIED_A_SECOND),
        }
    }

    /// When flows that are idle are to be looked for.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.next_sweep
    }
}

impl<K: Kernel> Core<K> {
    /// Has flows recorded from now on ([`FlowSink`]).
    pub fn record_flows(&mut self) {
        self.flows = Some(FlowLog::new());
    }

    /// A flow of a socket begins, by a call or from outside.
    pub(crate) fn begin_flow(&mut self, id: SocketId, caller: Option<&Caller>, flow: &Flow) {
        if self.flows.is_none() {
            return;
        }
        // What it was before, if nobody has said that it is over.
        self.flow_ended(id, FlowEnd::Closed);
        let owner = self.table.get(id).map_or(0, |socket| socket.owner);
        let flowing = self.flowing(caller.map_or(owner, |caller| caller.tid), flow);
        if let Some(socket) = self.table.get_mut(id) {
            socket.flow = Some(Box::new(flowing));
        }
    }

    /// A connection has come, on this handle.
    pub(crate) fn begin_incoming(&mut self, id: SocketId, handle: Handle) {
        if self.flows.is_none() {
            return;
        }
        let ends = self.stack.local_addr(handle).ok().zip(self.stack.peer_addr(handle).ok());
        if let (Some((local, peer)), Some(spec)) = (ends, self.table.get(id).map(|socket| socket.spec)) {
            self.begin_flow(id, None, &Flow::Incoming(spec, local, peer));
        }
    }

    /// The flow of a socket goes past the stack, between these addresses.
    pub(crate) fn flow_joined(&mut self, id: SocketId, pair: Pair) {
        if let Some(flowing) = self.table.get_mut(id).and_then(|socket| socket.flow.as_mut()) {
            flowing.is_joined = true;
            (flowing.local, flowing.remote) = (Some(pair.local), Some(pair.peer));
        }
    }

    /// Bytes of a stream have passed.
    pub(crate) fn flow_moved(&mut self, id: SocketId, way: Way, bytes: u64) {
        if self.flows.is_none() || bytes == 0 {
            return;
        }
        if let Some(flowing) = self.table.get_mut(id).and_then(|socket| socket.flow.as_mut()) {
            match way {
                Way::Out => flowing.sent.bytes += bytes,
                Way::In => flowing.received.bytes += bytes,
            }
        }
    }

    /// A datagram has passed, to a peer or to the one that the socket is connected to.
    pub(crate) fn datagram_passed(
        &mut self,
        id: SocketId,
        way: Way,
        remote: Option<SocketAddr>,
        bytes: usize,
    ) {
        let (now, Some(log)) = (self.time.now, &mut self.flows) else { return };
        let Some(socket) = self.table.get_mut(id) else { return };
        if let Some(flowing) = &mut socket.flow {
            // A raw socket is one flow.
            return flowing.pass(way, bytes, now);
        }
        let (spec, owner, handle) = (socket.spec, socket.owner, socket.handle);
        let peer = || handle.and_then(|handle| self.stack.peer_addr(handle).ok());
        let Some(remote) = remote.or_else(peer) else { return };
        if let Some(flowing) = log.datagrams.get_mut(&id).and_then(|flows| flows.get_mut(&remote)) {
            return flowing.pass(way, bytes, now);
        }
        if log.count >= MOST {
            self.end_datagram_flows(FlowEnd::TooMany, |_| true);
        }
        let local = handle.and_then(|handle| self.stack.local_addr(handle).ok());
        let flow = match (way, local) {
            (Way::In, Some(local)) => Flow::Incoming(spec, local, remote),
            _ => Flow::Datagram(spec, remote),
        };
        let mut flowing = self.flowing(owner, &flow);
        flowing.local = local;
        flowing.pass(way, bytes, now);
        let Some(log) = &mut self.flows else { return };
        log.datagrams.entry(id).or_default().insert(remote, flowing);
        log.count += 1;
        log.next_sweep.get_or_insert(now + SWEEP);
    }

    /// What a socket was doing is over. Its handle is still there, to be asked.
    pub(crate) fn flow_ended(&mut self, id: SocketId, end: FlowEnd) {
        let Some(log) = &mut self.flows else { return };
        let Some(socket) = self.table.get_mut(id) else { return };
        let (spec, handle) = (socket.spec, socket.handle);
        if let Some(flowing) = socket.flow.take() {
            let handle = handle.filter(|_| !flowing.is_joined);
            let info = handle.and_then(|handle| self.stack.tcp_info(handle).ok());
            let local = handle.and_then(|handle| self.stack.local_addr(handle).ok());
            let record = self.record(spec, *flowing, end);
            let local = record.local.or(local);
            self.kernel.flow(FlowRecord { local, retransmits: info.map(|info| info.retransmits), ..record });
        } else if let Some(flows) = log.datagrams.remove(&id) {
            log.count = log.count.saturating_sub(flows.len());
            for flowing in flows.into_values() {
                let record = self.record(spec, flowing, end);
                self.kernel.flow(record);
            }
        }
    }

    /// A flow was denied: it is recorded, and told to the operator.
    pub(crate) fn note_denied(&mut self, caller: Option<&Caller>, flow: &Flow) {
        if let Some(unrecorded) = self.flows.as_mut().and_then(|log| log.denied.note(self.time.now)) {
            let mut flowing = self.flowing(caller.map_or(0, |caller| caller.tid), flow);
            if let Flow::Incoming(_, local, _) = *flow {
                flowing.local = Some(local);
            }
            let record = self.record(flow.spec(), flowing, FlowEnd::Denied);
            self.kernel.flow(FlowRecord { sent: None, received: None, unrecorded, ..record });
        }
        self.tell_denied(caller, flow);
    }

    /// Ends flows of datagrams that are idle, when it is time.
    pub(crate) fn sweep_flows(&mut self) {
        let now = self.time.now;
        if self.flows.as_ref().and_then(FlowLog::next_deadline).is_none_or(|at| at > now) {
            return;
        }
        self.end_datagram_flows(FlowEnd::Idle, |flowing| flowing.last + IDLE <= now);
        if let Some(log) = &mut self.flows {
            log.next_sweep = (log.count > 0).then_some(now + SWEEP);
        }
    }

    fn end_datagram_flows(&mut self, end: FlowEnd, is_over: impl Fn(&Flowing) -> bool) {
        let Some(log) = &mut self.flows else { return };
        let mut over = Vec::new();
        for (&id, flows) in &mut log.datagrams {
            over.extend(flows.extract_if(|_, flowing| is_over(flowing)).map(|(_, flowing)| (id, flowing)));
        }
        log.datagrams.retain(|_, flows| !flows.is_empty());
        log.count = log.count.saturating_sub(over.len());
        for (id, flowing) in over {
            if let Some(spec) = self.table.get(id).map(|socket| socket.spec) {
                let record = self.record(spec, flowing, end);
                self.kernel.flow(record);
            }
        }
    }

    /// Ends all flows: the sandbox ends.
    pub(crate) fn stop_flows(&mut self) {
        if self.flows.is_some() {
            for id in self.table.ids().collect::<Vec<_>>() {
                self.flow_ended(id, FlowEnd::Stopped);
            }
        }
    }

    fn flowing(&mut self, tid: u32, flow: &Flow) -> Flowing {
        let (direction, local, remote) = match *flow {
            Flow::Connect(_, remote) | Flow::Datagram(_, remote) => (Direction::Out, None, Some(remote)),
            Flow::Incoming(_, local, remote) => (Direction::In, Some(local), Some(remote)),
            Flow::Bind(_, local) => (Direction::Bind, Some(local), None),
            Flow::Socket(_) | Flow::Listen(_) => (Direction::Out, None, None),
        };
        let decided = self.decided(flow);
        Flowing {
            began: self.time.wall,
            last: self.time.now,
            direction,
            local,
            remote,
            process: if tid == 0 { None } else { self.kernel.process_name(tid) },
            rule: self.router.reason(&decided),
            is_joined: false,
            sent: Amount::default(),
            received: Amount::default(),
        }
    }

    fn record(&self, spec: SocketSpec, flowing: Flowing, end: FlowEnd) -> FlowRecord {
        let known = !flowing.is_joined;
        let amount = |amount: Amount| {
            let packets = if spec.kind == Kind::Stream { None } else { Some(amount.packets.unwrap_or(0)) };
            known.then_some(Amount { packets, ..amount })
        };
        FlowRecord {
            began: flowing.began,
            ended: self.time.wall,
            direction: flowing.direction,
            protocol: protocol_of(spec),
            local: flowing.local,
            remote: flowing.remote,
            process: flowing.process,
            joined: flowing.is_joined,
            sent: amount(flowing.sent),
            received: amount(flowing.received),
            retransmits: None,
            end,
            rule: flowing.rule,
            unrecorded: 0,
        }
    }
}

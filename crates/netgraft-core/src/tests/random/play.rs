//! Plays a sequence on a core and looks at the invariants after each step.

mod acts;

use std::collections::HashMap;

use netgraft_plugin::{Call, Error, Events};

use super::super::fake::net::{Phase, Remote};
use super::super::fake::rig::{MAIN, Rig};
use super::super::fake::world::Reply;
use super::model::{End, Model};
use super::ops::{Op, Then, What};
use crate::Budget;
use crate::policy::{Direction, Protocol};
use crate::program::{Caller, ProgramId};
use crate::route::{Always, Route};
use crate::uapi::{self, Errno};

type Check = Result<(), String>;

const ETIMEDOUT: Errno = Error::TimedOut.errno();

/// The threads of the program.
const THREADS: [u32; 3] = [MAIN, MAIN + 1, MAIN + 2];

/// How often something happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connected: usize,
    pub(crate) accepted: usize,
    pub(crate) waited: usize,
    pub(crate) interrupted: usize,
    pub(crate) bytes: usize,
    pub(crate) datagrams: usize,
    pub(crate) ends: usize,
    pub(crate) resets: usize,
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Connect,
    Accept,
    /// A receive, with the place of its data.
    Receive(u64),
    Send,
    Other,
}

/// A call that was made.
#[derive(Clone, Copy, Debug)]
struct Made {
    caller: Caller,
    purpose: Purpose,
    fd: i32,
    cookie: u64,
    /// Whether it may fail with EAGAIN.
    may_refuse: bool,
    has_waited: bool,
    /// Bytes that it had moved when it was last looked at.
    moved: usize,
}

struct Play<'a> {
    rig: Rig,
    model: Model,
    seen: &'a mut Seen,
    fds: Vec<i32>,
    remotes: Vec<Remote>,
    made: Vec<Made>,
    /// Who connects to which port of a remote host.
    dialed: HashMap<u16, u64>,
    /// The port of a datagram socket.
    ports: HashMap<u64, u16>,
    listening: Vec<u16>,
    next: u32,
    with_timeouts: bool,
    knows_remotes: usize,
}

/// Plays a sequence.
pub(crate) fn play(ops: &[Op]) -> Check {
    play_and_count(ops, &mut Seen::default())
}

/// Plays a sequence and counts what happened in it.
pub(crate) fn play_and_count(ops: &[Op], seen: &mut Seen) -> Check {
    // Some sandboxes may use little of the sentry.
    let budget = if ops.len().is_multiple_of(5) {
        Budget { sockets: 8, process_sockets: 6, memory: 1 << 30, bytes: 4096 }
    } else {
        Budget { sockets: 1000, process_sockets: 1000, memory: 1 << 30, bytes: 1 << 20 }
    };
    let mut rig = Rig::with(Box::new(Always(Route::Stack)), budget);
    rig.world_mut().add_thread(THREADS[2], MAIN, ProgramId(0));
    rig.world_mut().notes.is_kept = ops.len().is_multiple_of(2);
    rig.net().window = 4096;
    rig.core.set_joining(ops.len().is_multiple_of(3));
    if ops.len() % 7 < 3 {
        rig.core.record_flows();
    }
    let mut play = Play {
        rig,
        model: Model::default(),
        seen,
        fds: Vec::new(),
        remotes: Vec::new(),
        made: Vec::new(),
        dialed: HashMap::new(),
        ports: HashMap::new(),
        listening: Vec::new(),
        next: 0,
        with_timeouts: ops.iter().any(|op| op.what == What::Timeout),
        knows_remotes: 0,
    };
    for op in ops {
        play.step(op).map_err(|reason| format!("{reason}, at {op:?}"))?;
    }
    play.end()
}

impl Play<'_> {
    fn step(&mut self, op: &Op) -> Check {
        self.act(op)?;
        self.look()?;
        match op.then {
            Then::Nothing => return Ok(()),
            Then::Round => drop(self.rig.round()),
            Then::Settle => self.rig.settle(),
        }
        self.look()?;
        if op.then == Then::Settle { self.at_rest() } else { Ok(()) }
    }

    fn fd(&self, op: &Op) -> Option<i32> {
        if self.fds.is_empty() { None } else { Some(self.fds[op.at % self.fds.len()]) }
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// Makes a call, if its thread is free.
    fn call(&mut self, op: &Op, fd: i32, purpose: Purpose, number: i64, args: [u64; 6]) -> Option<Reply> {
        let tid = THREADS[op.thread];
        if self.rig.world().threads[&tid].call.is_some() {
            return None;
        }
        self.rig.me = tid;
        let interrupts = op.what == What::InterruptAnswer;
        let caller = self.rig.begin(number, args);
        let (cookie, nonblocking) = match self.rig.world().file(tid, fd) {
            Ok(found) => (found.cookie, self.rig.world().socks.get(found.cookie).nonblocking),
            Err(_) => (0, false),
        };
        self.rig.world_mut().limits.interrupts_answer = interrupts;
        self.rig.core.call(&caller);
        self.rig.world_mut().limits.interrupts_answer = false;
        let mut caller = caller;
        if interrupts && self.rig.reply(caller.id) == Reply::Interrupted {
            // It is made again, as after a signal with SA_RESTART.
            caller = self.rig.begin(number, args);
            self.rig.core.call(&caller);
        }
        let flags = if matches!(purpose, Purpose::Receive(_) | Purpose::Send) { args[3] as i32 } else { 0 };
        let may_refuse = nonblocking || self.with_timeouts || flags & uapi::MSG_DONTWAIT != 0;
        self.made.push(Made { caller, purpose, fd, cookie, may_refuse, has_waited: false, moved: 0 });
        Some(self.rig.reply(caller.id))
    }

    /// Looks at the calls that have ended, and at what the network did.
    fn look(&mut self) -> Check {
        // What was sent is known before what was received.
        self.made.sort_by_key(|made| made.purpose != Purpose::Send);
        for mut made in std::mem::take(&mut self.made) {
            match self.rig.reply(made.caller.id) {
                Reply::Waits => {
                    let Some(moved) = self.rig.core.parked.moved(made.caller.id) else {
                        return Err(format!("a call neither waits nor is answered: {made:?}"));
                    };
                    (made.has_waited, made.moved) = (true, moved as usize);
                    self.made.push(made);
                }
                reply => self.answered(&made, reply)?,
            }
        }
        let new = self.rig.net().accepted[self.knows_remotes..].to_vec();
        for remote in new {
            self.knows_remotes += 1;
            self.remotes.push(remote);
            let port = self.rig.net().remote_port(remote);
            let dialed = self.dialed.get(&port).ok_or("a connection that nobody has asked for")?;
            self.model.pair(End::of_file(*dialed), End::of_remote(remote.pipe))?;
        }
        Ok(())
    }

    fn answered(&mut self, made: &Made, reply: Reply) -> Check {
        self.seen.waited += usize::from(made.has_waited && reply != Reply::Interrupted);
        self.seen.interrupted += usize::from(reply == Reply::Interrupted);
        if reply == Reply::Fails(uapi::EAGAIN) && !made.may_refuse {
            return Err(format!("a call that may wait fails with EAGAIN: {made:?}"));
        }
        let end = End::of_file(made.cookie);
        match (made.purpose, reply) {
            (Purpose::Connect, Reply::Is(_)) => self.seen.connected += 1,
            (Purpose::Accept, Reply::Is(fd)) => {
                self.seen.accepted += 1;
                self.fds.push(fd as i32);
            }
            (Purpose::Receive(at), Reply::Is(n)) => {
                let bytes = self.rig.world_mut().memory(MAIN, at, n as usize).unwrap().to_vec();
                self.received(made.cookie, &bytes)?;
            }
            (Purpose::Send, Reply::Is(n)) if !self.ports.contains_key(&made.cookie) => {
                self.model.has_sent(end, n as usize);
            }
            // The program does not know, but what was taken is on its way.
            (Purpose::Send, Reply::Interrupted) => self.model.has_sent(end, made.moved),
            (Purpose::Receive(_), Reply::Fails(errno)) => self.reads_failure(made.cookie, errno)?,
            (Purpose::Send, Reply::Fails(errno)) => self.failed(made.cookie, errno)?,
            _ => {}
        }
        Ok(())
    }

    /// A socket has received something: bytes of a stream, its end, or a datagram.
    fn received(&mut self, cookie: u64, bytes: &[u8]) -> Check {
        let end = End::of_file(cookie);
        match self.ports.get(&cookie) {
            // A socket that was shut down for reading gets nothing.
            Some(_) if bytes.is_empty() => Ok(()),
            Some(&port) => {
                self.seen.datagrams += 1;
                self.model.receives(port, bytes)
            }
            None if bytes.is_empty() => {
                self.seen.ends += 1;
                self.model.reads_end(end)
            }
            None => {
                self.seen.bytes += bytes.len();
                self.model.reads(end, bytes)
            }
        }
    }

    /// A read has failed: what came before the failure must have been read.
    fn reads_failure(&mut self, cookie: u64, errno: Errno) -> Check {
        let end = End::of_file(cookie);
        if matches!(errno, uapi::ECONNRESET | ETIMEDOUT) && !self.ports.contains_key(&cookie) {
            self.model.reads_failure(end)?;
        }
        self.failed(cookie, errno)
    }

    /// A stream has failed for its owner, who sees that after all that came before.
    fn failed(&mut self, cookie: u64, errno: Errno) -> Check {
        if matches!(errno, uapi::EAGAIN | uapi::ENFILE | uapi::EFAULT | uapi::ENOTCONN | uapi::EINVAL) {
            return Ok(());
        }
        self.model.end(End::of_file(cookie)).has_failed = true;
        self.seen.resets += usize::from(errno == uapi::ECONNRESET);
        Ok(())
    }

    fn act(&mut self, op: &Op) -> Check {
        match op.what {
            What::Tcp | What::TcpNonblocking | What::Udp => self.make_socket(op),
            What::Connect | What::ConnectHere | What::ConnectUdp => self.connect(op),
            What::Listen => self.listen(op),
            What::Accept | What::AcceptUntrapped => self.accept(op)?,
            What::Write | What::Read => self.kernel_data(op)?,
            What::RecvFrom | What::SendTo | What::InterruptAnswer => self.trapped_data(op),
            What::Shutdown | What::Close | What::Dup | What::Disconnect => self.change(op),
            What::SoError | What::Names | What::Option | What::Timeout => self.ask(op)?,
            What::RemoteSends | What::RemoteReads | What::RemoteEnds | What::RemoteFails => {
                self.remote(op)?
            }
            What::RemoteDials | What::RemoteAnswers => self.remote_opens(op),
            What::Arrives | What::UdpFails | What::UdpRoom => self.datagrams(op),
            What::Interrupt | What::Kill => self.disturb(op),
            What::InterruptInject => {
                self.rig.world_mut().limits.interrupts_inject = true;
                self.make_socket(op);
                self.rig.world_mut().limits.interrupts_inject = false;
            }
            What::StackRefuses => {
                let calls =
                    [Call::socket, Call::bind, Call::listen, Call::connect, Call::set_option, Call::accept];
                self.rig.net().fail_next(calls[op.size % calls.len()], Error::NoBuffers);
            }
            What::SpuriousEvents => self.rig.net().report_all(),
            What::Time => self.rig.pass(op.size as u64 % 50),
            What::NoRoom => self.rig.world_mut().limits.no_room = op.size.is_multiple_of(2),
            What::FullTable => {
                self.rig.world_mut().limits.descriptors = if op.size.is_multiple_of(2) { 1024 } else { 6 };
            }
        }
        Ok(())
    }

    /// What must hold when the sentry has nothing to do: nobody waits for what is there.
    fn at_rest(&mut self) -> Check {
        if self.rig.world().limits.no_room {
            return Ok(());
        }
        for made in &self.made {
            let tid = made.caller.tid;
            let is_same = self.rig.world().file(tid, made.fd).is_ok_and(|file| file.cookie == made.cookie);
            if !is_same {
                continue;
            }
            let events = self.rig.world().socks.poll(made.cookie);
            let handle = self.rig.core.table.find_cookie(crate::Cookie(made.cookie));
            let handle = handle.and_then(|id| self.rig.core.table.get(id)?.handle);
            let net = self.rig.net();
            let phase = handle.and_then(|handle| net.get(handle).ok()).map(|sock| &sock.phase);
            let is_connecting = matches!(phase, Some(Phase::Connecting(_)));
            let is_over = match made.purpose {
                Purpose::Connect | Purpose::Receive(_) | Purpose::Send if is_connecting => false,
                Purpose::Receive(_) => {
                    let in_stack = self.ports.contains_key(&made.cookie)
                        && handle.is_some_and(|handle| net.ready(handle.0).contains(Events::IN));
                    events.intersects(Events::IN | Events::ERR | Events::RDHUP) || in_stack
                }
                Purpose::Accept => events.intersects(Events::IN | Events::HUP),
                Purpose::Send if self.ports.contains_key(&made.cookie) => net.datagram_room > 0,
                Purpose::Send => events.contains(Events::OUT),
                Purpose::Connect | Purpose::Other => true,
            };
            if is_over {
                return Err(format!("a call waits for what is there ({events:?}): {made:?}"));
            }
        }
        Ok(())
    }

    /// All that is under way arrives, all descriptors are closed, and nothing is left.
    fn end(mut self) -> Check {
        {
            let mut world = self.rig.world_mut();
            world.limits.no_room = false;
            world.limits.descriptors = 1024;
        }
        self.rig.net().open_datagram_room(usize::MAX);
        for tid in THREADS {
            self.rig.world_mut().interrupt(tid);
        }
        self.rig.pass(100);
        self.look()?;
        self.drain()?;
        while !self.fds.is_empty() {
            self.close(0);
        }
        // Those that were accepted but never taken go with their listeners.
        for _ in 0..3 {
            self.rig.pass(100);
            self.drain()?;
            self.rig.core.forget_closed();
        }
        self.rig.settle();
        let left = self.rig.leftovers();
        if !left.is_empty() {
            return Err(format!("at the end there is {left:?}"));
        }
        self.flows_add_up()
    }

    /// Each connection was recorded once, if flows are recorded, and what passed is what was counted.
    fn flows_add_up(&self) -> Check {
        let (counts, world) = (self.rig.core.counts(), self.rig.world());
        let flows = &world.notes.flows;
        if self.rig.core.flows.is_none() {
            return if flows.is_empty() { Ok(()) } else { Err("flows that nobody wants to know".to_owned()) };
        }
        let of = |wanted| {
            let is_it =
                |flow: &&crate::FlowRecord| flow.protocol == Protocol::Tcp && flow.direction == wanted;
            flows.iter().filter(is_it).count() as u64
        };
        // Attempts are flows, too.
        if of(Direction::Out) < counts.connections_out
            || of(Direction::In) != counts.connections_in - counts.connections_joined
        {
            return Err(format!("{counts:?}, and these flows: {flows:?}"));
        }
        let sum = |amount: fn(&crate::FlowRecord) -> Option<crate::Amount>| -> u64 {
            flows.iter().filter_map(amount).map(|amount| amount.bytes).sum()
        };
        let (sent, received) = (sum(|flow| flow.sent), sum(|flow| flow.received));
        if (sent, received) == (counts.bytes_sent, counts.bytes_received) {
            Ok(())
        } else {
            Err(format!("{sent} and {received} bytes in flows, and {counts:?}"))
        }
    }

    /// Moves bytes until nothing is under way, and looks whether all has arrived.
    fn drain(&mut self) -> Check {
        let mut still = 0;
        let mut turns = 0;
        while still < 2 {
            turns += 1;
            if turns > 1000 {
                return Err("bytes never stop to come".to_owned());
            }
            let before = self.seen.bytes;
            self.rig.settle();
            self.look()?;
            for index in 0..self.fds.len() {
                let (fd, cookie) = (self.fds[index], self.rig.file(self.fds[index]));
                match self.rig.read(fd, 65_536) {
                    Ok(bytes) => self.received(cookie, &bytes)?,
                    Err(errno) => self.failed(cookie, errno)?,
                }
            }
            for remote in self.remotes.clone() {
                self.remote_reads(remote)?;
            }
            still = if self.seen.bytes == before { still + 1 } else { 0 };
        }
        for index in 0..self.fds.len() {
            self.model.is_whole(End::of_file(self.rig.file(self.fds[index])))?;
        }
        for remote in self.remotes.clone() {
            self.model.is_whole(End::of_remote(remote.pipe))?;
        }
        Ok(())
    }
}

//! Plays a sequence on a core and looks at the invariants after each step.

use std::collections::HashMap;

use netgraft_plugin::{Call, Error, Events};

use super::super::fake::net::{Answer, Phase, Remote};
use super::super::fake::rig::{MAIN, Rig, addr};
use super::super::fake::unix::Kind;
use super::super::fake::world::Reply;
use super::model::{End, Model};
use super::ops::{Op, Then, What};
use crate::Budget;
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
        Budget { sockets: 8, process_sockets: 6, memory: 1 << 20, bytes: 4096 }
    } else {
        Budget { sockets: 1000, process_sockets: 1000, memory: 1 << 30, bytes: 1 << 20 }
    };
    let rig = Rig::with(Box::new(Always(Route::Stack)), budget);
    rig.world_mut().add_thread(THREADS[2], MAIN, ProgramId(0));
    rig.world_mut().notes.is_kept = ops.len().is_multiple_of(2);
    rig.net().window = 4096;
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
        self.made.push(Made { caller, purpose, fd, cookie, may_refuse, has_waited: false });
        Some(self.rig.reply(caller.id))
    }

    /// Looks at the calls that have ended, and at what the network did.
    fn look(&mut self) -> Check {
        for mut made in std::mem::take(&mut self.made) {
            match self.rig.reply(made.caller.id) {
                Reply::Waits => {
                    if !self.rig.core.parked.has_call(made.caller.id) {
                        return Err(format!("a call neither waits nor is answered: {made:?}"));
                    }
                    made.has_waited = true;
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
                self.model.end(end).sent += n as usize;
            }
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

    fn make_socket(&mut self, op: &Op) {
        let kind = match op.what {
            What::Udp => uapi::SOCK_DGRAM,
            What::TcpNonblocking => uapi::SOCK_STREAM | uapi::SOCK_NONBLOCK,
            _ => uapi::SOCK_STREAM,
        };
        let args = [uapi::AF_INET as u64, kind as u64, 0, 0, 0, 0];
        let Some(Reply::Is(fd)) = self.call(op, -1, Purpose::Other, uapi::SYS_socket, args) else { return };
        let fd = fd as i32;
        self.fds.push(fd);
        if op.what == What::Udp {
            let port = 2000 + self.number() as u16;
            self.ports.insert(self.rig.file(fd), port);
            self.with_address(op, fd, Purpose::Other, uapi::SYS_bind, &format!("127.0.0.1:{port}"));
        }
    }

    fn with_address(&mut self, op: &Op, fd: i32, purpose: Purpose, number: i64, to: &str) -> Option<Reply> {
        let (at, len) = self.rig.put_addr(addr(to));
        self.call(op, fd, purpose, number, [fd as u64, at, len, 0, 0, 0])
    }

    fn is_stream(&self, fd: i32) -> bool {
        self.rig.world().socks.get(self.rig.file(fd)).kind == Kind::Stream
    }

    fn connect(&mut self, op: &Op) {
        let Some(fd) = self.fd(op) else { return };
        if self.is_stream(fd) == (op.what == What::ConnectUdp) {
            return;
        }
        let port = 1000 + self.number() as u16;
        let to = match op.what {
            What::ConnectHere if !self.listening.is_empty() => {
                format!("127.0.0.1:{}", self.listening[op.size % self.listening.len()])
            }
            What::ConnectHere => "127.0.0.1:1".to_owned(),
            What::ConnectUdp => format!("127.0.0.1:{}", 2001 + op.size % 20),
            _ => format!("198.51.100.1:{port}"),
        };
        if op.what == What::Connect {
            let answer = [Answer::Accepts, Answer::Accepts, Answer::Refuses, Answer::Silent][op.size % 4];
            self.rig.remote(&to, answer);
        }
        let reply = self.with_address(op, fd, Purpose::Connect, uapi::SYS_connect, &to);
        if matches!(reply, Some(Reply::Waits | Reply::Is(0) | Reply::Fails(uapi::EINPROGRESS))) {
            self.dialed.insert(port, self.rig.file(fd));
        }
    }

    fn listen(&mut self, op: &Op) {
        let Some(fd) = self.fd(op) else { return };
        let port = 3000 + self.number() as u16;
        self.with_address(op, fd, Purpose::Other, uapi::SYS_bind, &format!("127.0.0.1:{port}"));
        let args = [fd as u64, op.size as u64 % 3, 0, 0, 0, 0];
        if self.call(op, fd, Purpose::Other, uapi::SYS_listen, args) == Some(Reply::Is(0)) {
            let handle = self.rig.handle(fd);
            let port = self.rig.net().get(handle).unwrap().local.unwrap().port();
            if !self.listening.contains(&port) {
                self.listening.push(port);
            }
        }
    }

    fn accept(&mut self, op: &Op) -> Check {
        let Some(mut fd) = self.fd(op) else { return Ok(()) };
        if !op.size.is_multiple_of(8) {
            // Mostly on what listens.
            let listens = |fd: &i32| self.rig.world().socks.is_listening(self.rig.file(*fd));
            let listeners: Vec<i32> = self.fds.iter().copied().filter(listens).collect();
            let Some(&listener) = listeners.get(op.at % listeners.len().max(1)) else { return Ok(()) };
            fd = listener;
        }
        if op.what == What::AcceptUntrapped {
            if let Ok(new) = self.rig.accept_untrapped(fd) {
                self.seen.accepted += 1;
                self.fds.push(new);
            }
            return Ok(());
        }
        let (at, len) = self.rig.put_out();
        self.call(op, fd, Purpose::Accept, uapi::SYS_accept4, [fd as u64, at, len, 0, 0, 0]);
        Ok(())
    }

    /// read(2) and write(2), which the kernel does alone.
    fn kernel_data(&mut self, op: &Op) -> Check {
        let Some(fd) = self.fd(op) else { return Ok(()) };
        let cookie = self.rig.file(fd);
        if op.what == What::Read {
            return match self.rig.read(fd, op.size.max(2000)) {
                Ok(bytes) => self.received(cookie, &bytes),
                Err(errno) => self.reads_failure(cookie, errno),
            };
        }
        if !self.is_stream(fd) {
            let Some(port) = self.peer_port(fd) else { return Ok(()) };
            let bytes = Model::datagram(port, cookie as u32, self.number(), op.size % 500);
            let _ = self.rig.write(fd, &bytes);
            return Ok(());
        }
        let end = End::of_file(cookie);
        let bytes = self.model.next(end, op.size);
        match self.rig.write(fd, &bytes) {
            Ok(n) => self.model.end(end).sent += n,
            Err(errno) => self.failed(cookie, errno)?,
        }
        Ok(())
    }

    /// The port that a datagram socket is connected to.
    fn peer_port(&self, fd: i32) -> Option<u16> {
        let handle = self.rig.core.table.get(self.rig.id(fd))?.handle?;
        Some(self.rig.net().peer_addr(handle).ok()?.port())
    }

    fn trapped_data(&mut self, op: &Op) {
        let Some(fd) = self.fd(op) else { return };
        let cookie = self.rig.file(fd);
        let waits = |made: &Made| made.cookie == cookie && made.purpose != Purpose::Accept;
        if self.made.iter().any(waits) {
            // Whose bytes come first would not be known.
            return;
        }
        let flags = if op.size.is_multiple_of(3) { uapi::MSG_DONTWAIT } else { 0 };
        if op.what == What::SendTo || op.what == What::InterruptAnswer && op.size.is_multiple_of(2) {
            let port = 2001 + op.size as u16 % 20;
            let bytes = if self.is_stream(fd) {
                self.model.next(End::of_file(cookie), op.size)
            } else {
                Model::datagram(port, cookie as u32, self.number(), op.size % 500)
            };
            let data = self.rig.put(&bytes);
            let (at, len) = self.rig.put_addr(addr(&format!("127.0.0.1:{port}")));
            let args = [fd as u64, data, bytes.len() as u64, flags as u64, at, len];
            self.call(op, fd, Purpose::Send, uapi::SYS_sendto, args);
            return;
        }
        let room = op.size.max(2000);
        let data = self.rig.put(&vec![0; room]);
        let (at, len) = self.rig.put_out();
        let args = [fd as u64, data, room as u64, flags as u64, at, len];
        self.call(op, fd, Purpose::Receive(data), uapi::SYS_recvfrom, args);
    }

    fn change(&mut self, op: &Op) {
        let Some(fd) = self.fd(op) else { return };
        let cookie = self.rig.file(fd);
        let end = End::of_file(cookie);
        match op.what {
            What::Shutdown => {
                let how = op.size as i32 % 3;
                let args = [fd as u64, how as u64, 0, 0, 0, 0];
                let Some(Reply::Is(0)) = self.call(op, fd, Purpose::Other, uapi::SYS_shutdown, args) else {
                    return;
                };
                let state = self.model.end(end);
                state.has_ended |= how != uapi::SHUT_RD;
                state.is_deaf |= how != uapi::SHUT_WR;
            }
            What::Close => {
                self.close(op.at % self.fds.len());
            }
            What::Dup => {
                self.fds.extend(self.rig.try_dup(fd));
            }
            _ => {
                let at = self.rig.put(&[0; 16]);
                let args = [fd as u64, at, 16, 0, 0, 0];
                self.call(op, fd, Purpose::Other, uapi::SYS_connect, args);
                if self.is_stream(fd) {
                    let state = self.model.end(end);
                    (state.has_ended, state.has_failed) = (true, true);
                }
            }
        }
    }

    fn close(&mut self, index: usize) {
        let fd = self.fds.swap_remove(index);
        let cookie = self.rig.file(fd);
        self.rig.close(fd);
        if !self.rig.world().socks.is_open(cookie) {
            let end = End::of_file(cookie);
            let sent = self.model.peer(end).map_or(0, |peer| self.model.end(peer).sent);
            let state = self.model.end(end);
            state.has_ended = true;
            // Bytes that are left unread reset the connection.
            state.has_failed |= state.got < sent;
        }
    }

    fn ask(&mut self, op: &Op) -> Check {
        let Some(fd) = self.fd(op) else { return Ok(()) };
        let (at, len) = self.rig.put_out();
        let cookie = self.rig.file(fd);
        match op.what {
            What::SoError => {
                let args = [fd as u64, uapi::SOL_SOCKET as u64, uapi::SO_ERROR as u64, at, len, 0];
                if self.call(op, fd, Purpose::Other, uapi::SYS_getsockopt, args) == Some(Reply::Is(0)) {
                    let errno = self.rig.peek_u32(at) as Errno;
                    if errno != 0 {
                        self.failed(cookie, errno)?;
                    }
                }
            }
            What::Names => {
                let number =
                    if op.size.is_multiple_of(2) { uapi::SYS_getpeername } else { uapi::SYS_getsockname };
                self.call(op, fd, Purpose::Other, number, [fd as u64, at, len, 0, 0, 0]);
            }
            _ => {
                let (name, value) = if op.what == What::Timeout {
                    let name = if op.size.is_multiple_of(2) { uapi::SO_RCVTIMEO } else { uapi::SO_SNDTIMEO };
                    (name, [0i64.to_ne_bytes(), (op.size as i64).to_ne_bytes()].concat())
                } else {
                    (uapi::SO_KEEPALIVE, 1i32.to_ne_bytes().to_vec())
                };
                let at = self.rig.put(&value);
                let args = [fd as u64, uapi::SOL_SOCKET as u64, name as u64, at, value.len() as u64, 0];
                self.call(op, fd, Purpose::Other, uapi::SYS_setsockopt, args);
            }
        }
        Ok(())
    }

    fn remote(&mut self, op: &Op) -> Check {
        if self.remotes.is_empty() {
            return Ok(());
        }
        let index = op.at % self.remotes.len();
        let remote = self.remotes[index];
        let end = End::of_remote(remote.pipe);
        if self.rig.net().was_reset(remote) {
            self.model.end(end).has_failed = true;
        }
        match op.what {
            What::RemoteSends if !self.model.end(end).has_ended => {
                let bytes = self.model.next(end, op.size);
                if let Ok(n) = self.rig.net().remote_sends(remote, &bytes) {
                    self.model.end(end).sent += n;
                }
            }
            What::RemoteReads => self.remote_reads(remote)?,
            What::RemoteEnds => {
                self.rig.net().remote_ends(remote);
                self.model.end(end).has_ended = true;
            }
            What::RemoteFails => {
                let error = if op.size.is_multiple_of(2) { Error::ConnectionReset } else { Error::TimedOut };
                self.rig.net().remote_fails(remote, error);
                let state = self.model.end(end);
                (state.has_ended, state.has_failed, state.was_cut) = (true, true, true);
                self.remotes.swap_remove(index);
            }
            _ => {}
        }
        Ok(())
    }

    fn remote_reads(&mut self, remote: Remote) -> Check {
        let end = End::of_remote(remote.pipe);
        let bytes = self.rig.net().remote_reads(remote);
        self.seen.bytes += bytes.len();
        self.model.reads(end, &bytes)?;
        if self.rig.net().was_reset(remote) {
            self.model.end(end).has_failed = true;
            self.seen.resets += 1;
        }
        if self.rig.net().remote_sees_end(remote) {
            self.seen.ends += 1;
            self.model.reads_end(end)?;
        }
        Ok(())
    }

    fn remote_opens(&mut self, op: &Op) {
        if op.what == What::RemoteAnswers {
            let answer = if op.size.is_multiple_of(3) { Answer::Refuses } else { Answer::Accepts };
            let mut net = self.rig.net();
            net.remotes.values_mut().filter(|a| **a == Answer::Silent).for_each(|a| *a = answer);
            net.is_woken = true;
            return;
        }
        if self.listening.is_empty() {
            return;
        }
        let port = self.listening[op.at % self.listening.len()];
        let from = addr(&format!("198.51.100.2:{}", 1000 + self.number()));
        let dialed = self.rig.net().dial(addr(&format!("127.0.0.1:{port}")), from);
        self.remotes.extend(dialed);
    }

    fn datagrams(&mut self, op: &Op) {
        let mut bound: Vec<u16> = self.ports.values().copied().collect();
        bound.sort_unstable();
        if bound.is_empty() {
            return;
        }
        let port = bound[op.at % bound.len()];
        match op.what {
            What::Arrives => {
                let bytes = Model::datagram(port, 0, self.number(), op.size % 500);
                let to = addr(&format!("127.0.0.1:{port}"));
                self.rig.net().arrives(addr("198.51.100.1:53"), to, &bytes);
            }
            What::UdpFails => {
                let found =
                    self.fds.iter().copied().find(|&fd| self.ports.get(&self.rig.file(fd)) == Some(&port));
                let Some(fd) = found else { return };
                let handle = self.rig.core.table.get(self.rig.id(fd)).and_then(|socket| socket.handle);
                if let Some(handle) = handle {
                    self.rig.net().datagram_fails(handle, Error::ConnectionRefused);
                }
            }
            _ if op.size.is_multiple_of(2) => self.rig.net().open_datagram_room(0),
            _ => self.rig.net().open_datagram_room(op.size % 20 + 1),
        }
    }

    fn disturb(&mut self, op: &Op) {
        let tid = THREADS[op.thread];
        if op.what == What::Kill {
            self.rig.world_mut().kill(tid);
            self.rig.world_mut().add_thread(tid, MAIN, ProgramId(0));
            return;
        }
        let waiting = self.made.iter().copied().find(|made| made.caller.tid == tid);
        if self.rig.world_mut().interrupt(tid)
            && op.size.is_multiple_of(2)
            && let Some(made) = waiting
            && self.rig.world().file(tid, made.fd).is_ok_and(|file| file.cookie == made.cookie)
        {
            // The call is made again, on the same socket.
            let op = Op { what: What::Interrupt, ..*op };
            self.call(&op, made.fd, made.purpose, made.caller.number, made.caller.args);
        }
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
        if left.is_empty() { Ok(()) } else { Err(format!("at the end there is {left:?}")) }
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

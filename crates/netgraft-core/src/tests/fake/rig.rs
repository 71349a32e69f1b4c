//! A core on a fake kernel and a fake stack, and a program that makes calls: what it asks goes through the core if a
//! sandbox's filter traps it, and to the fake kernel otherwise.

use std::cell::{Ref, RefCell, RefMut};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::MutexGuard;
use std::time::Duration;

use netgraft_plugin::{Error, Events, Handle, Instant};

use super::kernel::FakeKernel;
use super::net::{Answer, Net, Remote};
use super::stack::FakeStack;
use super::world::{Reply, World};
use crate::codec::sockaddr;
use crate::core::{Core, Time};
use crate::program::{Caller, ProgramId};
use crate::route::{Always, Route, Router};
use crate::uapi::{self, Errno};
use crate::{Budget, SocketId};

/// The thread that makes calls unless a test says otherwise.
pub(crate) const MAIN: u32 = 100;
/// Another thread of the same process.
pub(crate) const OTHER: u32 = 101;
/// A remote host.
pub(crate) const REMOTE: &str = "198.51.100.1:80";
/// Rounds after which a core that always has something to do is wrong.
const ROUNDS: usize = 10_000;
/// The budget of a core unless a test says otherwise.
const BUDGET: Budget = Budget { sockets: 1000, process_sockets: 1000, memory: 1 << 30, bytes: 1 << 20 };

/// All that a test has.
pub(crate) struct Rig {
    pub(crate) core: Core<FakeKernel>,
    pub(crate) world: Rc<RefCell<World>>,
    pub(crate) stack: FakeStack,
    /// The thread that makes the next calls.
    pub(crate) me: u32,
    pub(crate) now: Instant,
    /// The last call.
    pub(crate) last: u64,
    last_args: [u64; 6],
}

/// An errno as the reply of a call.
pub(crate) const fn fails(errno: Errno) -> Reply {
    Reply::Fails(errno)
}

/// Success with 0.
pub(crate) const DONE: Reply = Reply::Is(0);

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Rig {
    /// A sandbox with one program of two threads, whose traffic goes to the stack.
    pub(crate) fn new() -> Rig {
        Rig::with(Box::new(Always(Route::Stack)), BUDGET)
    }

    pub(crate) fn with(router: Box<dyn Router>, budget: Budget) -> Rig {
        let world = Rc::new(RefCell::new(World::new()));
        world.borrow_mut().add_process(MAIN);
        world.borrow_mut().add_thread(MAIN, MAIN, ProgramId(0));
        world.borrow_mut().add_thread(OTHER, MAIN, ProgramId(0));
        let stack = FakeStack::default();
        let kernel = FakeKernel { world: world.clone() };
        let core = Core::new(kernel, Box::new(stack.clone()), router, budget);
        let mut rig =
            Rig { core, world, stack, me: MAIN, now: Instant::from_millis(1000), last: 0, last_args: [0; 6] };
        rig.tell_time();
        rig
    }

    pub(crate) fn net(&self) -> MutexGuard<'_, Net> {
        self.stack.net()
    }

    pub(crate) fn world(&self) -> Ref<'_, World> {
        self.world.borrow()
    }

    pub(crate) fn world_mut(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    fn tell_time(&mut self) {
        self.core.set_time(Time { now: self.now, wall: Duration::new(1_700_000_000, 123_456_789) });
    }

    /// Time passes, and the sentry does what is due.
    pub(crate) fn pass(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
        self.tell_time();
        self.settle();
    }

    /// One round of the sentry's loop, without sleep; whether there was anything to do.
    pub(crate) fn round(&mut self) -> bool {
        let mut busy = false;
        loop {
            let ready = self.world_mut().socks.take_ready();
            let Some((id, events)) = ready else { break };
            busy = true;
            self.core.end_ready(id, events);
        }
        if !self.world().closed.is_empty() {
            busy = true;
            self.core.harvest_closes();
        }
        if std::mem::take(&mut self.net().is_woken) {
            busy = true;
            self.core.wake_stack();
        }
        let due = self.core.next_deadline().is_some_and(|at| at <= self.now);
        self.core.run();
        busy || due
    }

    /// Rounds of the sentry's loop until it would sleep.
    pub(crate) fn settle(&mut self) {
        for _ in 0..ROUNDS {
            if !self.round() {
                return;
            }
        }
        panic!("the core never comes to rest");
    }

    /// Makes a call, which the core serves; answers what has become of it at once.
    pub(crate) fn call(&mut self, number: i64, args: [u64; 6]) -> Reply {
        let caller = self.begin(number, args);
        self.core.call(&caller);
        self.reply(caller.id)
    }

    /// A thread begins a call that the core has not seen yet.
    pub(crate) fn begin(&mut self, number: i64, args: [u64; 6]) -> Caller {
        let id = self.world_mut().begin_call(self.me);
        self.last = id;
        self.last_args = args;
        Caller { program: self.world().threads[&self.me].program, id, tid: self.me, number, args }
    }

    /// The arguments of the last call.
    pub(crate) fn args(&self) -> [u64; 6] {
        self.last_args
    }

    /// What has become of a call.
    pub(crate) fn reply(&self, call: u64) -> Reply {
        self.world().calls[&call].reply
    }

    /// What has become of the last call when all is at rest.
    pub(crate) fn reply_at_rest(&mut self) -> Reply {
        let last = self.last;
        self.settle();
        self.reply(last)
    }

    /// Runs calls as another thread.
    pub(crate) fn as_thread<T>(&mut self, tid: u32, act: impl FnOnce(&mut Rig) -> T) -> T {
        let me = std::mem::replace(&mut self.me, tid);
        let result = act(self);
        self.me = me;
        result
    }

    /// Puts bytes into the program's memory.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u64 {
        self.world_mut().allocate(self.me, bytes)
    }

    /// Bytes of the program's memory.
    pub(crate) fn peek(&self, address: u64, len: usize) -> Vec<u8> {
        self.world_mut().memory(self.me, address, len).unwrap().to_vec()
    }

    pub(crate) fn peek_u32(&self, address: u64) -> u32 {
        u32::from_ne_bytes(self.peek(address, 4).try_into().unwrap())
    }

    /// socket(2)
    pub(crate) fn try_socket(&mut self, domain: i32, kind: i32, protocol: i32) -> Reply {
        self.call(uapi::SYS_socket, [domain as u64, kind as u64, protocol as u64, 0, 0, 0])
    }

    fn must_socket(&mut self, domain: i32, kind: i32, protocol: i32) -> i32 {
        match self.try_socket(domain, kind, protocol) {
            Reply::Is(fd) => fd as i32,
            other => panic!("socket: {other:?}"),
        }
    }

    /// A blocking TCP socket.
    pub(crate) fn tcp(&mut self) -> i32 {
        self.must_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0)
    }

    /// A TCP socket that does not block.
    pub(crate) fn tcp_nonblocking(&mut self) -> i32 {
        self.must_socket(uapi::AF_INET, uapi::SOCK_STREAM | uapi::SOCK_NONBLOCK, 0)
    }

    pub(crate) fn tcp6(&mut self) -> i32 {
        self.must_socket(uapi::AF_INET6, uapi::SOCK_STREAM, 0)
    }

    pub(crate) fn udp(&mut self) -> i32 {
        self.must_socket(uapi::AF_INET, uapi::SOCK_DGRAM, 0)
    }

    pub(crate) fn udp6(&mut self) -> i32 {
        self.must_socket(uapi::AF_INET6, uapi::SOCK_DGRAM, 0)
    }

    pub(crate) fn udp_nonblocking(&mut self) -> i32 {
        self.must_socket(uapi::AF_INET, uapi::SOCK_DGRAM | uapi::SOCK_NONBLOCK, 0)
    }

    /// Has a remote address answer connection attempts.
    pub(crate) fn remote(&mut self, at: &str, answer: Answer) {
        self.net().remotes.insert(addr(at), answer);
    }

    /// A connection to a remote host.
    pub(crate) fn connected(&mut self) -> (i32, Remote) {
        self.remote(REMOTE, Answer::Accepts);
        let fd = self.tcp();
        assert_eq!(self.connect(fd, REMOTE), Reply::Waits);
        assert_eq!(self.reply_at_rest(), DONE);
        let remote = *self.net().accepted.last().unwrap();
        (fd, remote)
    }

    /// A connection attempt that does not block and that a remote host does not answer yet.
    pub(crate) fn connecting(&mut self) -> i32 {
        let fd = self.tcp_nonblocking();
        assert_eq!(self.connect(fd, REMOTE), fails(uapi::EINPROGRESS));
        self.settle();
        fd
    }

    /// A listener.
    pub(crate) fn listener(&mut self, at: &str, backlog: i32) -> i32 {
        let fd = self.tcp();
        assert_eq!(self.bind(fd, at), DONE);
        assert_eq!(self.listen(fd, backlog), DONE);
        self.settle();
        fd
    }

    /// A remote host connects to a listener.
    pub(crate) fn dial(&mut self, to: &str, from: &str) -> Remote {
        let remote = self.net().dial(addr(to), addr(from)).unwrap();
        self.settle();
        remote
    }

    /// The handle behind a descriptor.
    pub(crate) fn handle(&self, fd: i32) -> Handle {
        self.core.table.get(self.id(fd)).unwrap().handle.unwrap()
    }

    /// The remote host sends.
    pub(crate) fn remote_sends(&mut self, remote: Remote, data: &[u8]) {
        assert_eq!(self.net().remote_sends(remote, data), Ok(data.len()));
        self.settle();
    }

    /// The remote host sends no more.
    pub(crate) fn remote_ends(&mut self, remote: Remote) {
        self.net().remote_ends(remote);
        self.settle();
    }

    /// The connection fails on its way.
    pub(crate) fn remote_fails(&mut self, remote: Remote, error: Error) {
        self.net().remote_fails(remote, error);
        self.settle();
    }

    /// All that the remote host gets while the sentry works.
    pub(crate) fn remote_reads(&mut self, remote: Remote) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            self.settle();
            let bytes = self.net().remote_reads(remote);
            if bytes.is_empty() {
                return all;
            }
            all.extend(bytes);
        }
    }

    /// Puts an address into memory: where it is, and its length.
    pub(crate) fn put_addr(&mut self, to: SocketAddr) -> (u64, u64) {
        let bytes = sockaddr::encode(netgraft_plugin::Domain::of(&to), to);
        (self.put(bytes.bytes()), bytes.bytes().len() as u64)
    }

    fn with_addr(&mut self, number: i64, fd: i32, to: &str) -> Reply {
        let (at, len) = self.put_addr(addr(to));
        self.call(number, [fd as u64, at, len, 0, 0, 0])
    }

    pub(crate) fn connect(&mut self, fd: i32, to: &str) -> Reply {
        self.with_addr(uapi::SYS_connect, fd, to)
    }

    /// connect(2) with `AF_UNSPEC`
    pub(crate) fn disconnect(&mut self, fd: i32) -> Reply {
        let at = self.put(&[0; 16]);
        self.call(uapi::SYS_connect, [fd as u64, at, 16, 0, 0, 0])
    }

    pub(crate) fn bind(&mut self, fd: i32, to: &str) -> Reply {
        self.with_addr(uapi::SYS_bind, fd, to)
    }

    pub(crate) fn listen(&mut self, fd: i32, backlog: i32) -> Reply {
        self.call(uapi::SYS_listen, [fd as u64, backlog as u64, 0, 0, 0, 0])
    }

    /// accept4(2) with an address, which goes to [`Rig::out`].
    pub(crate) fn accept(&mut self, fd: i32, flags: i32) -> Reply {
        let (at, len) = self.put_out();
        self.call(uapi::SYS_accept4, [fd as u64, at, len, flags as u64, 0, 0])
    }

    /// Room for an address in memory, and its length.
    pub(crate) fn put_out(&mut self) -> (u64, u64) {
        let at = self.put(&[0; 64]);
        let len = self.put(&64u32.to_ne_bytes());
        self.core.kernel().world.borrow_mut().out = (at, len);
        (at, len)
    }

    /// The address that the last call gave; `None` for no address.
    pub(crate) fn out(&self) -> Option<SocketAddr> {
        let (at, len) = self.world().out;
        let len = self.peek_u32(len) as usize;
        let bytes = self.peek(at, len.min(64));
        let domain = if len == 28 { netgraft_plugin::Domain::V6 } else { netgraft_plugin::Domain::V4 };
        match sockaddr::parse(domain, &bytes) {
            Ok(sockaddr::Given::Inet(addr)) if len > 0 => Some(addr),
            _ => None,
        }
    }

    pub(crate) fn getsockname(&mut self, fd: i32) -> Reply {
        let (at, len) = self.put_out();
        self.call(uapi::SYS_getsockname, [fd as u64, at, len, 0, 0, 0])
    }

    pub(crate) fn getpeername(&mut self, fd: i32) -> Reply {
        let (at, len) = self.put_out();
        self.call(uapi::SYS_getpeername, [fd as u64, at, len, 0, 0, 0])
    }

    pub(crate) fn shutdown(&mut self, fd: i32, how: i32) -> Reply {
        self.call(uapi::SYS_shutdown, [fd as u64, how as u64, 0, 0, 0, 0])
    }

    pub(crate) fn setsockopt(&mut self, fd: i32, level: i32, name: i32, value: &[u8]) -> Reply {
        let at = self.put(value);
        self.call(uapi::SYS_setsockopt, [fd as u64, level as u64, name as u64, at, value.len() as u64, 0])
    }

    pub(crate) fn set_int(&mut self, fd: i32, level: i32, name: i32, value: i32) -> Reply {
        self.setsockopt(fd, level, name, &value.to_ne_bytes())
    }

    /// getsockopt(2): the bytes, or the errno.
    pub(crate) fn getsockopt(&mut self, fd: i32, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        let at = self.put(&[0; 256]);
        let len = self.put(&256u32.to_ne_bytes());
        match self.call(uapi::SYS_getsockopt, [fd as u64, level as u64, name as u64, at, len, 0]) {
            Reply::Is(0) => Ok(self.peek(at, self.peek_u32(len) as usize)),
            Reply::Fails(errno) => Err(errno),
            other => panic!("getsockopt: {other:?}"),
        }
    }

    pub(crate) fn get_int(&mut self, fd: i32, level: i32, name: i32) -> Result<i32, Errno> {
        self.getsockopt(fd, level, name).map(|bytes| i32::from_ne_bytes(bytes[..4].try_into().unwrap()))
    }

    /// `SO_ERROR`
    pub(crate) fn so_error(&mut self, fd: i32) -> Errno {
        self.get_int(fd, uapi::SOL_SOCKET, uapi::SO_ERROR).unwrap()
    }

    /// Sets a time-out of socket(7) in milliseconds.
    pub(crate) fn set_timeout(&mut self, fd: i32, name: i32, millis: i64) {
        let value = [(millis / 1000).to_ne_bytes(), (millis % 1000 * 1000).to_ne_bytes()].concat();
        assert_eq!(self.setsockopt(fd, uapi::SOL_SOCKET, name, &value), DONE);
    }

    /// The same, as another thread.
    pub(crate) fn set_timeout_as(&mut self, tid: u32, fd: i32, name: i32, millis: i64) {
        self.as_thread(tid, |rig| rig.set_timeout(fd, name, millis));
    }

    /// sendto(2) with an address
    pub(crate) fn sendto(&mut self, fd: i32, data: &[u8], flags: i32, to: Option<&str>) -> Reply {
        let at = self.put(data);
        let (name, len) = to.map_or((0, 0), |to| self.put_addr(addr(to)));
        self.call(uapi::SYS_sendto, [fd as u64, at, data.len() as u64, flags as u64, name, len])
    }

    /// recvfrom(2) with an address, which goes to [`Rig::out`], and data, which goes to [`Rig::data`].
    pub(crate) fn recvfrom(&mut self, fd: i32, len: usize, flags: i32) -> Reply {
        let at = self.put(&vec![0; len]);
        self.world_mut().data = at;
        let (name, name_len) = self.put_out();
        self.call(uapi::SYS_recvfrom, [fd as u64, at, len as u64, flags as u64, name, name_len])
    }

    /// What the last receive gave.
    pub(crate) fn data(&self, len: usize) -> Vec<u8> {
        let at = self.world().data;
        self.peek(at, len)
    }

    /// The open file behind a descriptor of the calling thread.
    pub(crate) fn file(&self, fd: i32) -> u64 {
        self.world().file(self.me, fd).unwrap().cookie
    }

    /// write(2), without waiting: the kernel's own.
    pub(crate) fn write(&mut self, fd: i32, data: &[u8]) -> Result<usize, Errno> {
        let file = self.file(fd);
        self.world_mut().socks.send(file, data)
    }

    /// read(2), without waiting: the kernel's own.
    pub(crate) fn read(&mut self, fd: i32, len: usize) -> Result<Vec<u8>, Errno> {
        let file = self.file(fd);
        let mut buf = vec![0; len];
        let n = self.world_mut().socks.receive(file, &mut buf, false)?;
        buf.truncate(n);
        Ok(buf)
    }

    /// Reads all that comes, while the sentry works, until there is nothing more or the end.
    pub(crate) fn read_all(&mut self, fd: i32) -> (Vec<u8>, Result<(), Errno>) {
        let mut all = Vec::new();
        for _ in 0..ROUNDS {
            self.settle();
            match self.read(fd, 4096) {
                Ok(bytes) if bytes.is_empty() => return (all, Ok(())),
                Ok(bytes) => all.extend(bytes),
                Err(errno) => return (all, Err(errno)),
            }
        }
        panic!("the stream has no end");
    }

    /// Writes all bytes, while the sentry works.
    pub(crate) fn write_all(&mut self, fd: i32, mut data: &[u8]) {
        while !data.is_empty() {
            match self.write(fd, data) {
                Ok(n) => data = &data[n..],
                Err(uapi::EAGAIN) => {}
                Err(errno) => panic!("write: {errno}"),
            }
            self.settle();
        }
    }

    /// accept(2) without an address: the kernel's own.
    pub(crate) fn accept_untrapped(&mut self, fd: i32) -> Result<i32, Errno> {
        let file = self.file(fd);
        let mut world = self.world.borrow_mut();
        world.check_table(self.me)?;
        let accepted = world.socks.accept(file, false)?;
        let fd = world.install(self.me, accepted, None, false)?;
        world.release(accepted);
        Ok(fd)
    }

    /// poll(2): the kernel's own.
    pub(crate) fn poll(&self, fd: i32) -> Events {
        self.world().socks.poll(self.file(fd))
    }

    /// How often pollers of a descriptor were woken.
    pub(crate) fn edges(&self, fd: i32) -> u32 {
        self.world().socks.get(self.file(fd)).edges
    }

    /// close(2)
    pub(crate) fn close(&mut self, fd: i32) {
        self.world_mut().close(self.me, fd);
    }

    /// dup(2)
    pub(crate) fn dup(&mut self, fd: i32) -> i32 {
        self.try_dup(fd).unwrap()
    }

    pub(crate) fn try_dup(&mut self, fd: i32) -> Result<i32, Errno> {
        let file = self.file(fd);
        self.world_mut().install(self.me, file, None, false)
    }

    /// The core's socket behind a descriptor.
    pub(crate) fn id(&self, fd: i32) -> SocketId {
        self.core.table.find_cookie(crate::Cookie(self.file(fd))).unwrap()
    }

    /// Whether the core holds anything: sockets, handles, parked calls, bytes.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let world = self.world();
        let counts = [
            ("sockets", self.core.sockets()),
            ("handles", self.net().socks.len()),
            ("parked calls", self.core.parked.len()),
            ("held bytes", self.core.held),
            ("open files", world.socks.len()),
            ("watches", world.watches.len()),
            ("sheltered", world.nursery.len()),
        ];
        counts.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect()
    }

    /// Asserts that nothing is left once all is closed.
    pub(crate) fn assert_nothing_left(&mut self) {
        self.settle();
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }
}

//! A core on a fake kernel and a fake stack, and a program that makes calls: what it asks goes through the core if a
//! sandbox's filter traps it, and to the fake kernel otherwise.

use std::cell::{Ref, RefCell, RefMut};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::MutexGuard;
use std::time::Duration;

use netgraft_plugin::{Events, Instant};

use super::kernel::FakeKernel;
use super::net::Net;
use super::stack::FakeStack;
use super::world::{Reply, World};
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
        loop {
            let ready = self.world_mut().socks.take_awaited();
            let Some(id) = ready else { break };
            busy = true;
            self.core.file_ready(id);
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

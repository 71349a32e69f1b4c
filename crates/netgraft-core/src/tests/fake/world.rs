//! The kernel's state: open files, the programs' processes and threads, and who watches what.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use netgraft_plugin::Domain;

use super::unix::{Kind, Released, Socks};
use crate::journal::Kept;
use crate::program::{Privilege, ProgramId, Serves};
use crate::surrogate::Cookie;
use crate::table::SocketId;
use crate::uapi::{self, Errno};

/// Where the memory of a process begins.
pub(crate) const MEMORY: u64 = 0x1_0000;

/// What has become of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It waits for its answer.
    Waits,
    /// It has returned this.
    Is(i64),
    /// It has failed with this errno.
    Fails(Errno),
    /// The kernel does it.
    Kernel,
    /// A signal interrupted it, or its thread has died.
    Interrupted,
}

/// A call of a thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallState {
    pub(crate) tid: u32,
    /// Which of the threads with this number has made it.
    incarnation: u64,
    pub(crate) reply: Reply,
}

/// A descriptor.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    pub(crate) cookie: u64,
    pub(crate) close_on_exec: bool,
    pub(crate) fd: Option<Arc<OwnedFd>>,
}

/// A process.
#[derive(Default)]
pub(crate) struct Process {
    pub(crate) table: BTreeMap<i32, Descriptor>,
    pub(crate) memory: Vec<u8>,
}

/// A thread.
#[derive(Clone, Debug)]
pub(crate) struct Thread {
    pub(crate) process: u32,
    pub(crate) program: ProgramId,
    pub(crate) incarnation: u64,
    pub(crate) in_sandbox: bool,
    pub(crate) privileges: Vec<Privilege>,
    /// The call that it is in.
    pub(crate) call: Option<u64>,
}

/// What the core has noted for a later sentry.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) is_kept: bool,
    pub(crate) kept: Vec<Kept>,
    pub(crate) forgotten: Vec<Cookie>,
    pub(crate) warnings: Vec<String>,
    pub(crate) flows: Vec<crate::FlowRecord>,
}

/// Limits of the system.
pub(crate) struct Limits {
    /// The sentry's table is full.
    pub(crate) no_room: bool,
    /// It is, but for duplicates.
    pub(crate) no_join: bool,
    /// A signal comes just before a descriptor is put into a table.
    pub(crate) interrupts_inject: bool,
    /// A signal comes just before a call is answered.
    pub(crate) interrupts_answer: bool,
    /// A signal comes just before something is written to a caller's memory.
    pub(crate) interrupts_write: bool,
    /// Descriptors that a process may have.
    pub(crate) descriptors: usize,
    /// Watches for closes that there may be.
    pub(crate) watches: usize,
}

/// Everything.
pub(crate) struct World {
    /// Programs of which a process may be in another network namespace.
    pub(crate) leavers: HashSet<ProgramId>,
    pub(crate) socks: Socks,
    pub(crate) processes: BTreeMap<u32, Process>,
    pub(crate) threads: BTreeMap<u32, Thread>,
    pub(crate) calls: HashMap<u64, CallState>,
    pub(crate) last_call: u64,
    pub(crate) last_incarnation: u64,
    pub(crate) watches: BTreeMap<i32, u64>,
    pub(crate) last_watch: i32,
    pub(crate) closed: Vec<i32>,
    pub(crate) nursery: HashMap<u64, SocketId>,
    /// Whether the nursery can be listed.
    pub(crate) nursery_is_listed: bool,
    pub(crate) notes: Notes,
    pub(crate) limits: Limits,
    /// What the next descriptor that a stack gives is.
    pub(crate) host_spec: (Domain, bool),
    /// Files that were no sockets and were closed elsewhere.
    pub(crate) disposed: usize,
    /// Where the last call's address and its length went.
    pub(crate) out: (u64, u64),
    /// Where the last receive's data went.
    pub(crate) data: u64,
    /// Frames on private links.
    pub(crate) emitted: Vec<(u32, Vec<u8>)>,
}

impl World {
    pub(crate) fn new() -> World {
        World {
            leavers: HashSet::new(),
            socks: Socks::default(),
            processes: BTreeMap::new(),
            threads: BTreeMap::new(),
            calls: HashMap::new(),
            last_call: 0,
            last_incarnation: 0,
            watches: BTreeMap::new(),
            last_watch: 0,
            closed: Vec::new(),
            nursery: HashMap::new(),
            nursery_is_listed: true,
            notes: Notes::default(),
            limits: Limits {
                no_room: false,
                no_join: false,
                interrupts_inject: false,
                interrupts_answer: false,
                interrupts_write: false,
                descriptors: 1024,
                watches: usize::MAX,
            },
            host_spec: (Domain::V4, true),
            disposed: 0,
            out: (0, 0),
            data: 0,
            emitted: Vec::new(),
        }
    }

    /// ENFILE when the sentry has no room.
    pub(crate) fn check_room(&self) -> Result<(), Errno> {
        if self.limits.no_room { Err(uapi::ENFILE) } else { Ok(()) }
    }

    /// One reference less to an open file.
    pub(crate) fn release(&mut self, cookie: u64) {
        let mut closed = Vec::new();
        self.socks.release(cookie, &mut closed);
        for Released { cookie } in closed {
            self.nursery.remove(&cookie);
            if let Some((&watch, _)) = self.watches.iter().find(|(_, watched)| **watched == cookie) {
                self.watches.remove(&watch);
                self.closed.push(watch);
            }
        }
    }

    pub(crate) fn add_process(&mut self, pid: u32) {
        self.processes.insert(pid, Process::default());
    }

    pub(crate) fn add_thread(&mut self, tid: u32, process: u32, program: ProgramId) {
        self.last_incarnation += 1;
        let thread = Thread {
            process,
            program,
            incarnation: self.last_incarnation,
            in_sandbox: true,
            privileges: Vec::new(),
            call: None,
        };
        assert!(self.threads.insert(tid, thread).is_none(), "the thread number {tid} is taken");
    }

    /// A thread begins a call.
    pub(crate) fn begin_call(&mut self, tid: u32) -> u64 {
        self.last_call += 1;
        let id = self.last_call;
        let thread = self.threads.get_mut(&tid).unwrap();
        assert_eq!(thread.call, None, "the thread {tid} waits in a call");
        thread.call = Some(id);
        let incarnation = thread.incarnation;
        self.calls.insert(id, CallState { tid, incarnation, reply: Reply::Waits });
        id
    }

    /// Whether a call waits for its answer.
    pub(crate) fn waits(&self, call: u64) -> bool {
        self.calls.get(&call).is_some_and(|call| call.reply == Reply::Waits)
    }

    /// Whether the thread that has made a call lives, and has not been answered: it may have been interrupted.
    pub(crate) fn may_be_written(&self, call: u64) -> bool {
        self.calls.get(&call).is_some_and(|call| {
            let lives = self.threads.get(&call.tid).is_some_and(|t| t.incarnation == call.incarnation);
            lives && matches!(call.reply, Reply::Waits | Reply::Interrupted)
        })
    }

    /// Ends a call.
    pub(crate) fn end_call(&mut self, call: u64, reply: Reply) {
        let state = self.calls.get_mut(&call).unwrap();
        assert_eq!(state.reply, Reply::Waits, "a call is answered twice, now with {reply:?}");
        state.reply = reply;
        if let Some(thread) = self.threads.get_mut(&state.tid)
            && thread.call == Some(call)
        {
            thread.call = None;
        }
    }

    /// A signal interrupts the thread's call, if it is in one.
    pub(crate) fn interrupt(&mut self, tid: u32) -> bool {
        let Some(call) = self.threads.get(&tid).and_then(|thread| thread.call) else { return false };
        self.end_call(call, Reply::Interrupted);
        true
    }

    /// A thread dies; the last one of a process takes its descriptors along.
    pub(crate) fn kill(&mut self, tid: u32) {
        self.interrupt(tid);
        let process = self.threads.remove(&tid).unwrap().process;
        if self.threads.values().any(|thread| thread.process == process) {
            return;
        }
        for (_, descriptor) in self.processes.remove(&process).unwrap().table {
            self.release(descriptor.cookie);
        }
    }

    /// The open file behind a descriptor of a thread.
    pub(crate) fn file(&self, tid: u32, fd: i32) -> Result<Descriptor, Errno> {
        let thread = self.threads.get(&tid).ok_or(uapi::ESRCH)?;
        self.processes[&thread.process].table.get(&fd).cloned().ok_or(uapi::EBADF)
    }

    /// Puts an open file into the lowest free place of a thread's table.
    pub(crate) fn install(
        &mut self,
        tid: u32,
        cookie: u64,
        fd: Option<Arc<OwnedFd>>,
        close_on_exec: bool,
    ) -> Result<i32, Errno> {
        self.check_table(tid)?;
        let process = self.threads[&tid].process;
        let table = &mut self.processes.get_mut(&process).unwrap().table;
        let place = (3..).find(|fd| !table.contains_key(fd)).unwrap();
        table.insert(place, Descriptor { cookie, close_on_exec, fd });
        self.socks.get_mut(cookie).refs += 1;
        Ok(place)
    }

    /// EMFILE when a thread's table is full.
    pub(crate) fn check_table(&self, tid: u32) -> Result<(), Errno> {
        let table = &self.processes[&self.threads[&tid].process].table;
        if table.len() >= self.limits.descriptors { Err(uapi::EMFILE) } else { Ok(()) }
    }

    /// Closes a descriptor.
    pub(crate) fn close(&mut self, tid: u32, fd: i32) {
        let process = self.threads[&tid].process;
        let descriptor = self.processes.get_mut(&process).unwrap().table.remove(&fd).unwrap();
        self.release(descriptor.cookie);
    }

    /// A part of a thread's memory.
    pub(crate) fn memory(&mut self, tid: u32, address: u64, len: usize) -> Result<&mut [u8], Errno> {
        let process = self.threads.get(&tid).ok_or(uapi::ESRCH)?.process;
        let memory = &mut self.processes.get_mut(&process).unwrap().memory;
        let at = address.checked_sub(MEMORY).ok_or(uapi::EFAULT)? as usize;
        let end = at.checked_add(len).ok_or(uapi::EFAULT)?;
        memory.get_mut(at..end).ok_or(uapi::EFAULT)
    }

    /// Gives a thread's process more memory, which is filled with `bytes`; answers where it is.
    pub(crate) fn allocate(&mut self, tid: u32, bytes: &[u8]) -> u64 {
        let process = self.threads[&tid].process;
        let memory = &mut self.processes.get_mut(&process).unwrap().memory;
        let at = MEMORY + memory.len() as u64;
        memory.extend_from_slice(bytes);
        memory.resize(memory.len().next_multiple_of(8), 0);
        at
    }

    /// Makes a file that is no socket.
    pub(crate) fn make_pipe(&mut self, tid: u32) -> i32 {
        let cookie = self.socks.make(Kind::Other, Domain::V4, false);
        self.install(tid, cookie, None, false).unwrap()
    }

    /// Makes a socket that is not the core's.
    pub(crate) fn make_foreign(&mut self, tid: u32, connects: Serves) -> i32 {
        let cookie = self.socks.make(Kind::Foreign(connects), Domain::V4, false);
        self.install(tid, cookie, None, false).unwrap()
    }
}

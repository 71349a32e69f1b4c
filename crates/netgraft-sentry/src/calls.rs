//! The programs that a sentry serves: their listeners, and the threads behind them.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use netgraft_core::{Caller, Core, ProgramId};
use netgraft_launch::NamespaceIds;
use netgraft_launch::control::FromSentry;
use netgraft_launch::vitals::{MAX_LISTENERS, Vitals};
use netgraft_linux::listener::Listener;
use netgraft_linux::task::Tasks;
use netgraft_linux::unix;

use crate::bindings::Bindings;
use crate::sentry::time;
use crate::turns::{Turn, Turns};

/// What came of an attempt to receive a call.
#[derive(Debug)]
pub(crate) enum Received {
    /// A call.
    Call(Caller),
    /// None waits.
    Nothing,
    /// The caller has died or was interrupted meanwhile.
    Gone,
}

/// Receives the next call of a program; waits for one.
///
/// # Errors
/// EBADF, ENOTTY: code in this process has closed the listener.
pub(crate) fn receive(listener: &Listener, program: ProgramId) -> io::Result<Received> {
    match listener.receive() {
        Ok(n) => Ok(Received::Call(Caller { program, id: n.id, tid: n.tid, number: n.number, args: n.args })),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::EINTR) => Ok(Received::Gone),
            Some(libc::EBADF | libc::ENOTTY) => Err(error),
            _ => {
                tracing::debug!(%error, "no call could be received");
                Ok(Received::Nothing)
            }
        },
    }
}

/// The programs of a sandbox.
#[derive(Debug)]
pub(crate) struct Programs {
    listeners: Vec<Option<Arc<Listener>>>,
    pub(crate) tasks: Tasks,
    pub(crate) home: NamespaceIds,
    /// Programs of which a process may be in other namespaces than these.
    leavers: HashSet<ProgramId>,
    /// Whether that may be so of all.
    is_successor: bool,
    vitals: Vitals,
}

impl Programs {
    /// No programs yet; as many threads are known by a descriptor.
    pub(crate) fn new(vitals: Vitals, home: NamespaceIds, is_successor: bool, threads: usize) -> Programs {
        Programs {
            listeners: Vec::new(),
            tasks: Tasks::with_room(threads),
            home,
            leavers: HashSet::new(),
            is_successor,
            vitals,
        }
    }

    /// Takes over the listener of a program, at its place in the vitals.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a place that there is not, or that is taken.
    pub(crate) fn attach(&mut self, place: u32, listener: OwnedFd) -> io::Result<ProgramId> {
        let index = usize::try_from(place).ok().filter(|&i| i < MAX_LISTENERS);
        let index = index.ok_or(io::ErrorKind::InvalidInput)?;
        if self.listeners.len() <= index {
            self.listeners.resize_with(index + 1, || None);
        }
        if self.listeners[index].is_some() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let listener = Listener::new(listener);
        // Older kernels do without.
        let _ = listener.wake_synchronously();
        self.listeners[index] = Some(Arc::new(listener));
        Ok(ProgramId(place))
    }

    /// Notes that a process of a program may enter another network namespace.
    pub(crate) fn expect_leavers(&mut self, program: ProgramId) {
        self.leavers.insert(program);
    }

    /// Whether there was a sentry before this one.
    pub(crate) fn is_successor(&self) -> bool {
        self.is_successor
    }

    /// Whether a process of a program may be in another network namespace.
    pub(crate) fn may_have_left(&self, program: ProgramId) -> bool {
        self.is_successor || self.leavers.contains(&program)
    }

    /// Gives up the listener of a program whose last thread has ended.
    pub(crate) fn detach(&mut self, program: ProgramId) {
        if let Some(place) = self.listeners.get_mut(program.0 as usize) {
            *place = None;
        }
        self.leavers.remove(&program);
    }

    /// The descriptor of a program's listener.
    pub(crate) fn listener_fd(&self, program: ProgramId) -> Option<BorrowedFd<'_>> {
        self.listener(program).map(|listener| listener.as_fd())
    }

    /// The listener of a program, if it is still served.
    pub(crate) fn listener(&self, program: ProgramId) -> Option<&Arc<Listener>> {
        self.listeners.get(program.0 as usize)?.as_ref()
    }

    /// Receives a call of a program, if one waits.
    ///
    /// # Errors
    /// EBADF, ENOTTY: code in this process has closed the listener.
    pub(crate) fn receive(&self, program: ProgramId) -> io::Result<Received> {
        let Some(listener) = self.listener(program) else { return Ok(Received::Nothing) };
        if !unix::readable(listener.as_fd()).unwrap_or(false) {
            return Ok(Received::Nothing);
        }
        let received = receive(listener, program)?;
        if let Received::Call(caller) = &received {
            self.vitals.took(caller.program.0 as usize, caller.id);
            self.serves(program);
        }
        Ok(received)
    }

    /// Notes that the last call of a program is being served from now on.
    pub(crate) fn serves(&self, program: ProgramId) {
        self.vitals.serves(program.0 as usize);
    }

    /// Notes that what there was to do about a program's last call is done for now.
    pub(crate) fn served(&self, program: ProgramId) {
        self.vitals.served(program.0 as usize);
    }
}

/// Calls after which the loop has a round in any case, which measures the memory in use.
const CALLS_A_LOOK: u64 = 256;

/// How often in a row the kernel may give no call, and how long apart: it may be short of memory.
const MOST_FAILURES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Serves the calls of a program as they come, on a thread of its own, until the program has ended.
pub(crate) fn serve(turns: &Turns, listener: &Listener, program: ProgramId, vitals: &Vitals) {
    vitals.note_calls_thread();
    let mut failures = 0;
    loop {
        let caller = match receive(listener, program) {
            Ok(Received::Call(caller)) => caller,
            Ok(Received::Gone) => {
                if Listener::is_over(listener.as_fd()) {
                    return;
                }
                continue;
            }
            Ok(Received::Nothing) if Listener::is_over(listener.as_fd()) => return,
            Ok(Received::Nothing) => {
                failures += 1;
                if failures > MOST_FAILURES {
                    return turns.note_ended(io::Error::other("no call of the program can be received"));
                }
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(error) => return turns.note_ended(error),
        };
        failures = 0;
        // Before anything waits: should the sentry die meanwhile, the call is answered.
        vitals.took(program.0 as usize, caller.id);
        let mut turn = turns.take();
        if is_over(&mut turn.core) {
            // It is not to be used any more; the launcher answers what was taken.
            return turns.wake();
        }
        begin_round(vitals, &mut turn);
        let served = catch_unwind(AssertUnwindSafe(|| serve_call(&mut turn, &caller)));
        if let Err(panic) = served {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            let text = format!("the sentry panicked: {}", text.unwrap_or("no text"));
            return turns.note_ended(io::Error::other(text));
        }
        turn.calls = turn.calls.wrapping_add(1);
        if is_over(&mut turn.core) || turn.calls.is_multiple_of(CALLS_A_LOOK) {
            turns.wake();
        }
        turns.wake_if_due(&mut turn);
        vitals.end_round();
    }
}

/// Whether the sentry is about to end: the stack has given up, or a descriptor was closed behind its owner's back.
pub(crate) fn is_over(core: &mut Core<Bindings>) -> bool {
    core.stack().failure().is_some() || core.kernel().launcher.is_broken()
}

fn serve_call(turn: &mut Turn, caller: &Caller) {
    let core = &mut turn.core;
    core.set_time(time());
    core.kernel().programs.serves(caller.program);
    core.call(caller);
    core.kernel().programs.served(caller.program);
    core.run();
    core.kernel().flush_flows();
}

/// A thread has its turn: a launcher that sleeps looks again.
pub(crate) fn begin_round(vitals: &Vitals, turn: &mut Turn) {
    if vitals.begin_round() {
        vitals.set_asleep(false);
        // If it is gone, the hang-up of the control socket ends the sentry.
        let _ = turn.core.kernel().launcher.send(&FromSentry::Busy);
    }
}

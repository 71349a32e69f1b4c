//! What the launcher does when the sentry has ended and the program has not.
//!
//! Either a fresh sentry takes over, in the namespaces of the one before and with the same descriptors and the
//! sockets that it told of; or, as the operator chose or when that has happened too often, a process takes its
//! place that answers that the network is down. The program never waits for a sentry that is gone.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use netgraft_linux::fdpass::wait_readable;
use netgraft_linux::listener::Listener;
use netgraft_linux::namespace::Namespaces;
use netgraft_linux::nsfd::Namespace;
use netgraft_linux::process::{self, Change, Wait, clone_sibling};
use netgraft_linux::{confine, fdpass};

use super::crash::{self, Cause};
use super::keeper::{self, Listeners};
use super::launcher::{Launcher, Process};
use super::report::Role;
use super::sentry::{self, Handover, SentryNetwork};
use super::stand_in;
use super::watchdog::Watchdog;
use crate::control::{Kept, KeptRole, LinkSetting};

/// How many restarts there may be in [`WINDOW`].
const RESTARTS: usize = 5;
/// In how long.
const WINDOW: Duration = Duration::from_secs(60);
/// How long a process may take to end after it has closed its descriptors.
const ENDING: Duration = Duration::from_millis(500);
/// The most sockets that are kept for a sentry that takes over.
const KEPT: usize = 65_536;

/// What a sentry that takes over needs.
pub(super) struct Spare {
    /// The sentry's user namespace.
    users: Namespace,
    /// Its process-id namespace.
    pids: Namespace,
    /// What the stack's `pre_init` gave.
    pub(super) init_str: String,
    /// The descriptors that go with it.
    pub(super) fds: Vec<OwnedFd>,
    /// Sockets that are to be made again, by cookie.
    kept: HashMap<u64, Kept>,
    /// Faults of the link that were set while it ran.
    pub(super) link: Option<LinkSetting>,
    /// When there were restarts.
    restarts: VecDeque<Instant>,
}

impl Spare {
    /// Finds the sentry's namespaces: those above the program's, whose process waits to be executed.
    pub(super) fn new(program: u32) -> io::Result<Spare> {
        Ok(Spare {
            users: Namespace::of_process(program, "user")?.parent()?,
            pids: Namespace::of_process(program, "pid")?.parent()?,
            init_str: String::new(),
            fds: Vec::new(),
            kept: HashMap::new(),
            link: None,
            restarts: VecDeque::new(),
        })
    }

    /// Notes a socket.
    pub(super) fn keep(&mut self, kept: Kept) {
        if self.kept.len() < KEPT || self.kept.contains_key(&kept.cookie) {
            self.kept.insert(kept.cookie, kept);
        }
    }

    /// Forgets a socket.
    pub(super) fn forget(&mut self, cookie: u64) {
        self.kept.remove(&cookie);
    }

    /// Counts a restart now; `None` if there were too many, or which one of them this is.
    fn count_restart(&mut self, now: Instant) -> Option<usize> {
        while self.restarts.front().is_some_and(|&at| now.duration_since(at) >= WINDOW) {
            self.restarts.pop_front();
        }
        if self.restarts.len() >= RESTARTS {
            return None;
        }
        self.restarts.push_back(now);
        Some(self.restarts.len())
    }
}

impl Launcher {
    /// Ends and reaps the sentry, and says what happened.
    pub(super) fn autopsy(&mut self, cause: Option<Cause>) -> String {
        self.watchdog.stop();
        self.control_open = false;
        let Some(sentry) = self.pid(Role::Sentry) else {
            return "the sentry could not be started".to_owned();
        };
        self.processes[Role::Sentry as usize] = Process::Reaped;
        let cause = cause.or_else(|| self.last_failure.take()).or_else(|| {
            // Its socket was closed, as its end does: or by the stack, and then it lives.
            let ended = process::pidfd(sentry).and_then(|fd| wait_readable([Some(fd.as_fd())], Some(ENDING)));
            let lives = matches!(ended, Ok([false]));
            lives.then(|| Cause::GaveUp("its socket to the launcher was closed".to_owned()))
        });
        // To one that is ending this changes nothing.
        let _ = process::kill(sentry, libc::SIGKILL);
        // One that waits in the kernel for an answer of the program (fuse(4)) ends when that one does.
        let ended = process::pidfd(sentry).and_then(|fd| wait_readable([Some(fd.as_fd())], Some(ENDING)));
        let how = if matches!(ended, Ok([false])) { Wait::Look } else { Wait::Block };
        let change = match process::wait(sentry, how) {
            Ok(Some(change)) => change,
            Ok(None) | Err(_) => Change::Signaled(libc::SIGKILL),
        };
        let (cause, plan) = (cause.unwrap_or(Cause::Died(change)), &self.plan.sentry);
        crash::text(&self.stack_name, &cause, &plan.vitals, plan.object.as_deref())
    }

    /// Whether the sentry's process has ended. Its keeper holds a copy of its socket, and until the program is executed
    /// that one's process does, so that no hang-up tells.
    pub(super) fn sentry_has_ended(&self) -> bool {
        // Without that socket it is the stand-in.
        self.pid(Role::Sentry).filter(|_| self.control_open).is_some_and(|sentry| {
            let ended =
                process::pidfd(sentry).and_then(|fd| wait_readable([Some(fd.as_fd())], Some(Duration::ZERO)));
            matches!(ended, Ok([true]))
        })
    }

    /// The sentry has ended, the program has not.
    pub(super) fn survive(&mut self, cause: Option<Cause>) {
        let what = self.autopsy(cause);
        let count = self.spare.as_mut().map(|spare| spare.count_restart(Instant::now()));
        if let Some(keeper) = self.keeper.take() {
            let restarts = matches!(count, Some(Some(_)));
            keeper::release(&keeper, if restarts { Listeners::Stay } else { Listeners::End });
        }
        match count {
            Some(Some(count)) => match self.restart() {
                Ok(()) => {
                    let of = format!("restart {count} of {RESTARTS} in {} s", WINDOW.as_secs());
                    tracing::error!("{what}; a fresh one takes over ({of})");
                }
                Err(error) => {
                    tracing::error!("{what}; no fresh one could be started ({error})");
                    self.stand_in();
                }
            },
            Some(None) => {
                tracing::error!(
                    "{what}; it was restarted {RESTARTS} times in {} s: the program goes on without a network",
                    WINDOW.as_secs()
                );
                self.stand_in();
            }
            None => {
                tracing::error!("{what}; the program goes on without a network");
                self.stand_in();
            }
        }
    }

    /// Puts processes in the sentry's place that answer that the network is down: one for each listener, since taking a
    /// call may block.
    fn stand_in(&mut self) {
        self.spare = None;
        let surrogates = self.surrogates.take();
        for (place, listener) in std::mem::take(&mut self.listeners) {
            let taken = self.plan.sentry.vitals.taken(place as usize);
            let mut listener = Some(listener);
            let child = process::fork(|| match listener.take() {
                Some(listener) => stand_in::main(listener, surrogates.as_ref(), taken),
                None => 1,
            });
            match child {
                Ok(pid) => self.stand_ins.push(pid),
                // With the last copy of the listener closed the kernel answers its calls, with ENOSYS.
                Err(error) => tracing::error!("the program's calls are answered ENOSYS: {error}"),
            }
        }
    }

    /// Starts a sentry in the namespaces of the one before.
    fn restart(&mut self) -> io::Result<()> {
        if let (Some(uplink), Some(spare)) = (&mut self.uplink, &mut self.spare) {
            match (uplink.again(), spare.fds.first_mut()) {
                (Ok(socket), Some(place)) => *place = socket,
                (Err(error), _) => tracing::warn!("{error}; the sandbox has no uplink from here on"),
                (Ok(_), None) => {}
            }
        }
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let Some(spare) = &self.spare else { return Err(broken()) };
        let (plan, listeners) = (&self.plan.sentry, &self.listeners);
        let network = match &self.surrogates {
            Some(namespace) => SentryNetwork::Former(namespace),
            None => SentryNetwork::Caller,
        };
        let home = self.namespaces;
        let (control, theirs) = fdpass::pair()?;
        let (mut tells, told) = io::pipe()?;
        let mut theirs = Some(theirs);
        let taken: Vec<_> = listeners.keys().map(|&place| plan.vitals.taken(place as usize)).collect();
        for (listener, taken) in listeners.values().zip(&taken) {
            stand_in::answer_unnoted(&Listener::new(listener.try_clone()?), *taken, libc::EINTR);
        }
        plan.vitals.renew();
        plan.object.iter().for_each(|object| object.forget_calls());
        let helper = process::fork(|| {
            let Some(theirs) = theirs.take() else { return 1 };
            let made = make_sentry(spare, || sentry::main(plan, theirs.as_fd(), &network, None))
                .and_then(|pid| (&told).write_all(&pid.to_ne_bytes()));
            // Only the sentry holds it from here on: its end is to be seen.
            drop(theirs);
            if made.is_err() {
                return 1;
            }
            // Whoever waited for the sentry before does not wait for ever: their calls are made again.
            for (listener, taken) in listeners.values().zip(taken) {
                if let Ok(listener) = listener.try_clone() {
                    stand_in::answer_pending(&Listener::new(listener), taken, libc::EINTR);
                }
            }
            0
        })?;
        self.processes[Role::SentryHelper as usize] = Process::Alive(helper);
        drop((told, theirs));
        let mut pid = [0; 4];
        tells.read_exact(&mut pid)?;
        self.processes[Role::Sentry as usize] = Process::Alive(i32::from_ne_bytes(pid));

        let mut kept: Vec<Kept> = spare.kept.values().cloned().collect();
        // If not all fit into a message, listeners come first.
        kept.sort_by_key(|kept| kept.role == KeptRole::Datagrams);
        let fds: Vec<_> = listeners.values().chain(&spare.fds).map(AsFd::as_fd).collect();
        let (init_str, listeners) = (spare.init_str.clone(), self.listeners.keys().copied().collect());
        let link = spare.link.clone();
        let message =
            sentry::handover(Handover { init_str, listeners, kept, link, home, is_successor: true })?;
        // One that has ended already is told by the hang-up of this socket.
        let _ = fdpass::send(control.as_fd(), &message, &fds);
        if let Some(ends) = &mut self.ends {
            ends.control = control;
        }
        let _ = self.hand_over_links();
        self.control_open = true;
        self.ear = self.ear.of_next();
        self.restarts += 1;
        // What it had begun to say of other rules.
        self.rules.clear();
        self.watchdog = Watchdog::new(Instant::now());
        Ok(())
    }
}

/// Makes the sentry's process, as a child of the launcher, and answers its process id.
fn make_sentry(spare: &Spare, child: impl FnOnce() -> i32) -> io::Result<i32> {
    confine::die_with_parent()?;
    spare.users.enter(Namespaces::USER)?;
    spare.pids.enter(Namespaces::PID)?;
    clone_sibling(Namespaces::NONE, child)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_bounded_in_a_sliding_window() {
        let own = |kind| Namespace::own(kind).unwrap();
        let mut spare = Spare {
            users: own("user"),
            pids: own("pid"),
            init_str: String::new(),
            fds: Vec::new(),
            kept: HashMap::new(),
            link: None,
            restarts: VecDeque::new(),
        };
        let start = Instant::now();
        for second in 0..RESTARTS {
            let now = start + Duration::from_secs(second as u64);
            assert_eq!(spare.count_restart(now), Some(second + 1));
        }
        assert_eq!(spare.count_restart(start + Duration::from_secs(59)), None);
        assert_eq!(spare.count_restart(start + WINDOW), Some(RESTARTS));
        assert_eq!(spare.count_restart(start + WINDOW), None);
    }
}

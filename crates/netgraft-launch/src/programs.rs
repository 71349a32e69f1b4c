//! Programs beside the first, and listeners that somebody else has made: each brings a listener of its own to the
//! sentry that runs already.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netgraft_linux::confine::{Action, Allow, CallFilter};
use netgraft_linux::fdpass;
use netgraft_linux::listener::Listener;
use netgraft_linux::namespace::Namespaces;
use netgraft_linux::nsfd::Namespace;
use netgraft_linux::process::{self, Change, Exec, Wait};

use crate::control::{self, FromSentry, ToSentry};
use crate::error::RunError;
use crate::launcher::{Incoming, Launcher, reap, step};
use crate::path_sockets;
use crate::profile::Profile;
use crate::report::{Report, Role, Step};
use crate::spec::{Descriptors, Files, ProgramSpec, Seccomp, Terminal, User};
use crate::tree;
use crate::vitals::MAX_LISTENERS;

/// How long a sentry may take to serve a further listener.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramId(usize);

impl ProgramId {
    /// The program that the sandbox was made for.
    pub(super) const FIRST: ProgramId = ProgramId(0);

    /// Its place among the programs that came later.
    fn further(self) -> Option<usize> {
        self.0.checked_sub(1)
    }
}

/// What a program's process works from; decided before its fork.
pub(super) struct ProgramPlan {
    /// Its name, for messages.
    pub(super) name: OsString,
    /// What is executed.
    pub(super) exec: Exec,
    /// Its working directory: the caller's, if the program has entered namespaces in which that is lost.
    pub(super) directory: Option<PathBuf>,
    /// Who it runs as.
    pub(super) user: Option<User>,
    /// Its terminal.
    pub(super) terminal: Terminal,
    /// What takes system calls away from it.
    pub(super) filters: Vec<CallFilter>,
    /// The files that it sees.
    pub(super) files: Files,
    /// The descriptors that it gets.
    pub(super) descriptors: Descriptors,
    /// Whether it is the one that sockets were handed to (sd_listen_fds(3)), so that it is told its own process id.
    pub(super) activated: bool,
}

impl ProgramPlan {
    /// Prepares a program.
    ///
    /// # Errors
    /// Why it cannot be executed, as far as that is known.
    pub(super) fn new(spec: &ProgramSpec, contained: bool) -> Result<ProgramPlan, RunError> {
        let filters = match &spec.seccomp {
            Seccomp::ByIds { user_namespaces } if contained => Profile::contained(*user_namespaces).filters(),
            Seccomp::ByIds { .. } | Seccomp::All => Ok(Vec::new()),
            Seccomp::Profile(profile) => profile.filters(),
        };
        let told = |e| RunError::Options(format!("the seccomp profile cannot be used: {e}"));
        let mut filters = filters.map_err(told)?;
        let passed = passed_sockets(&spec.environment, std::process::id());
        let mut descriptors = spec.descriptors.clone();
        if let Descriptors::Only(kept) = &mut descriptors {
            // Only sockets: who sets the variables by mistake, or for a file, hands on no file by that.
            kept.extend((3..).take(passed).filter(|fd| process::is_inherited_socket(*fd)));
        }
        if let Descriptors::Only(kept) = &descriptors
            && let Some(fd) = kept.iter().find(|fd| **fd > 2 && !process::is_inherited(**fd))
        {
            return Err(RunError::Options(format!("descriptor {fd} cannot be kept: it is not open")));
        }
        if spec.files.no_path_sockets {
            filters.push(no_unix_sockets().map_err(step(Step::Profile))?);
            filters.push(no_other_network().map_err(step(Step::Profile))?);
        }
        let name = spec.program.clone();
        let path = spec.environment.iter().find(|(key, _)| key == "PATH").map(|(_, path)| path.clone());
        let exec = Exec::new(name.clone(), spec.args.clone(), spec.environment.iter().cloned(), path)
            .map_err(|e| RunError::exec(name.clone(), e.raw_os_error().unwrap_or(libc::EINVAL)))?;
        Ok(ProgramPlan {
            name,
            exec,
            directory: spec.directory.clone(),
            user: spec.user,
            terminal: spec.terminal,
            filters,
            files: spec.files.clone(),
            descriptors,
            activated: passed > 0,
        })
    }
}

/// The host's internet sockets that a program is given: the caller's own, which no rule reaches.
pub(super) fn given_sockets(program: &ProgramPlan) -> Vec<i32> {
    let given: Vec<i32> = match &program.descriptors {
        Descriptors::Only(kept) => (0..3).chain(kept.iter().copied().filter(|fd| *fd > 2)).collect(),
        Descriptors::All => std::fs::read_dir("/proc/self/fd")
            .map(|entries| {
                let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
                entries.flatten().filter_map(number).collect()
            })
            .unwrap_or_default(),
    };
    given.into_iter().filter(|fd| process::is_inherited_inet_socket(*fd)).collect()
}

/// How many sockets `environment` says were handed to the process `own` (sd_listen_fds(3)).
fn passed_sockets(environment: &[(OsString, OsString)], own: u32) -> usize {
    let number = |name: &str| {
        let value = environment.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        value.and_then(|value| value.to_str()).and_then(|text| text.parse::<u32>().ok())
    };
    // As many as a process may usually have.
    let count =
        number("LISTEN_FDS").filter(|count| *count <= 1024).and_then(|count| usize::try_from(count).ok());
    count.filter(|_| number("LISTEN_PID") == Some(own)).unwrap_or(0)
}

/// Refuses AF_UNIX sockets, which could be connected to those of the host's file system. A pair of streams or of sequences
/// of packets is connected already; each of a pair of datagram sockets could be connected elsewhere, and send there.
fn no_unix_sockets() -> io::Result<CallFilter> {
    // The kernel reads ints, the lowest four bits of the second as the type.
    let unix = (0, 0xffff_ffff, libc::AF_UNIX as u64);
    let of_kind =
        |kind: i32| Allow { number: libc::SYS_socketpair, conditions: vec![unix, (1, 0xf, kind as u64)] };
    let refused = [
        Allow { number: libc::SYS_socket, conditions: vec![unix] },
        of_kind(libc::SOCK_DGRAM),
        // A datagram socket by another name (unix(7)).
        of_kind(libc::SOCK_RAW),
    ];
    CallFilter::compile(&refused, Action::Errno(libc::EACCES), Action::Allow)
}

/// Refuses network namespaces of its own: an internet socket that was made in one is the kernel's, and the kernel would connect
/// it to a path if it were a surrogate by then. clone3(2) is ENOSYS in every sandbox.
fn no_other_network() -> io::Result<CallFilter> {
    let network = libc::CLONE_NEWNET as u64;
    let of_network = |number, index| Allow { number, conditions: vec![(index, network, network)] };
    let refused = [
        of_network(libc::SYS_unshare, 0),
        of_network(libc::SYS_clone, 0),
        of_network(libc::SYS_setns, 1),
        // Of whatever kind the file is.
        Allow { number: libc::SYS_setns, conditions: vec![(1, 0xffff_ffff, 0)] },
    ];
    CallFilter::compile(&refused, Action::Errno(libc::EPERM), Action::Allow)
}

/// A program that came later.
#[derive(Debug)]
pub(super) enum Further {
    Runs(i32),
    Ended(Change),
}

/// The namespaces of a sandbox's programs, and the directory that they were started in.
pub(super) struct Home {
    namespaces: [(Namespace, Namespaces); 7],
    directory: Option<PathBuf>,
}

impl Home {
    /// Opens those of a process that may still be looked at.
    pub(super) fn of(pid: u32) -> io::Result<Home> {
        let of = |kind, flag| Namespace::of_process(pid, kind).map(|namespace| (namespace, flag));
        Ok(Home {
            // The first makes it possible to enter the others.
            namespaces: [
                of("user", Namespaces::USER)?,
                of("net", Namespaces::NET)?,
                of("ipc", Namespaces::IPC)?,
                of("uts", Namespaces::UTS)?,
                of("pid", Namespaces::PID)?,
                of("cgroup", Namespaces::CGROUP)?,
                of("mnt", Namespaces::MOUNT)?,
            ],
            directory: std::env::current_dir().ok(),
        })
    }

    /// Moves the caller into them, and for process ids its children.
    pub(super) fn enter(&self) -> io::Result<()> {
        self.namespaces.iter().try_for_each(|(namespace, kind)| namespace.enter(*kind))?;
        // Entering a mount namespace leads to its root directory. One that is not there is the program's to miss.
        if let Some(directory) = &self.directory {
            let _ = std::env::set_current_dir(directory);
        }
        Ok(())
    }
}

impl Launcher {
    /// Starts a further program.
    pub(super) fn spawn(&mut self, program: &ProgramSpec) -> Result<ProgramId, RunError> {
        path_sockets::check(&program.files, self.plan.sockets)?;
        let program = &ProgramPlan::new(program, self.plan.is_contained())?;
        if program.terminal == Terminal::Own {
            let text = "a terminal of its own is for the program that the sandbox is made for";
            return Err(RunError::Options(text.to_owned()));
        }
        let (reports, theirs) = fdpass::pair().map_err(step(Step::Start))?;
        fdpass::tell_senders(reports.as_fd()).map_err(step(Step::Start))?;
        let (waits, go) = io::pipe().map_err(step(Step::Start))?;
        let home = self.home.as_ref().ok_or_else(|| step(Step::Start)(io::ErrorKind::Unsupported.into()))?;
        let (theirs, mut ours) = (File::from(theirs), Some((reports, go)));
        let plan = &self.plan;
        let helper = process::fork(|| {
            drop(ours.take());
            tree::newcomer(plan, home, program, &theirs, &waits)
        })
        .map_err(step(Step::Start))?;
        drop((theirs, waits));
        let Some((reports, go)) = ours else { return Err(step(Step::Start)(io::ErrorKind::Other.into())) };
        let mut pid = None;
        let started = self.follow_start(program, &reports, go, &mut pid);
        reap(helper);
        match (started, pid) {
            (Ok(()), Some(pid)) => {
                self.further.push(Further::Runs(pid));
                Ok(ProgramId(self.further.len()))
            }
            (started, pid) => {
                if let Some(pid) = pid {
                    let _ = process::kill(pid, libc::SIGKILL);
                    reap(pid);
                }
                let silent = || step(Step::Start)(io::Error::other("its process ended without a word"));
                Err(started.err().unwrap_or_else(silent))
            }
        }
    }

    /// Follows the reports of a further program's process until it is executed.
    fn follow_start(
        &mut self,
        program: &ProgramPlan,
        reports: &OwnedFd,
        mut go: impl io::Write,
        pid: &mut Option<i32>,
    ) -> Result<(), RunError> {
        let mut attached = false;
        while let Some((report, sender)) = Report::receive(reports.as_fd()).map_err(step(Step::Start))? {
            match report {
                Report::Made(_) => {
                    *pid = Some(sender);
                    self.limit(sender)?;
                }
                Report::Listener(number) => {
                    let listener = take_descriptor(sender, number).map_err(step(Step::Listener))?;
                    self.attach(listener)?;
                    process::set_group(sender, sender).map_err(step(Step::Start))?;
                    go.write_all(&[1]).map_err(step(Step::Start))?;
                    attached = true;
                }
                Report::ExecFailed(errno) => return Err(RunError::exec(program.name.clone(), errno)),
                other => self.report(other, sender)?,
            }
        }
        if attached {
            Ok(())
        } else {
            Err(step(Step::Start)(io::Error::other("its process ended without a word")))
        }
    }

    /// Hands a listener to the sentry and waits until it is served; answers its place.
    pub(super) fn attach(&mut self, listener: OwnedFd) -> Result<u32, RunError> {
        let listener = Listener::new(listener);
        if let Some(missing) = listener.missing_request() {
            return Err(RunError::Kernel(missing));
        }
        let listener = listener.into_fd();
        let place = self.free_place()?;
        let refused = |why: String| RunError::Sentry(format!("the sentry does not serve the program: {why}"));
        let control = self.ends()?.control.as_fd();
        if !self.control_open {
            return Err(refused("it has ended, and the sandbox goes on without a network".to_owned()));
        }
        control::send_with_fd(control, &ToSentry::Listener(place), listener.as_fd())
            .map_err(step(Step::Handover))?;
        self.plan.sentry.vitals.clear(place as usize);
        self.listeners.insert(place, listener);
        let answer = self.hear_of(place);
        if answer.is_err() {
            self.listeners.remove(&place);
        }
        answer.and_then(|answer| answer.map_err(refused)).map(|()| place)
    }

    /// Waits for what the sentry says of the listener of this place.
    fn hear_of(&mut self, place: u32) -> Result<Result<(), String>, RunError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Ok(Err("it did not answer in time".to_owned()));
            };
            match self.next(Some(left))? {
                Some(Incoming::Sentry(FromSentry::Attached(which))) if which == place => return Ok(Ok(())),
                Some(Incoming::Sentry(FromSentry::NotAttached(which, why))) if which == place => {
                    return Ok(Err(why));
                }
                Some(incoming) => {
                    let before = self.restarts;
                    self.take(incoming)?;
                    // One that took over has got all listeners at its start.
                    if self.restarts != before {
                        return Ok(Ok(()));
                    }
                    if !self.control_open {
                        return Ok(Err("it has ended".to_owned()));
                    }
                }
                None => {}
            }
        }
    }

    /// The first place whose listener nobody uses any more.
    fn free_place(&mut self) -> Result<u32, RunError> {
        self.listeners.retain(|_, listener| !Listener::is_over(listener.as_fd()));
        let mut places = 0..MAX_LISTENERS as u32;
        places.find(|place| !self.listeners.contains_key(place)).ok_or_else(|| {
            RunError::Sentry(format!(
                "{MAX_LISTENERS} programs run in the sandbox, and a sentry serves no more"
            ))
        })
    }

    /// Looks which of the programs that came later have ended.
    pub(super) fn look_at_further(&mut self) {
        for program in &mut self.further {
            if let Further::Runs(pid) = *program
                && let Ok(Some(end @ (Change::Exited(_) | Change::Signaled(_)))) =
                    process::wait(pid, Wait::Look)
            {
                *program = Further::Ended(end);
            }
        }
    }

    /// How a program ended, if it has.
    pub(super) fn end_of(&self, program: ProgramId) -> Option<Change> {
        match program.further() {
            None => self.end_of_first,
            Some(index) => match self.further.get(index)? {
                Further::Ended(end) => Some(*end),
                Further::Runs(_) => None,
            },
        }
    }

    /// The process of a program that runs.
    pub(super) fn process_of(&self, program: ProgramId) -> Option<i32> {
        match program.further() {
            None => self.pid(Role::Program),
            Some(index) => match self.further.get(index)? {
                Further::Runs(pid) => Some(*pid),
                Further::Ended(_) => None,
            },
        }
    }
}

/// Takes a descriptor of a program's process, which waits for that.
pub(super) fn take_descriptor(program: i32, number: i32) -> io::Result<OwnedFd> {
    process::pidfd(program).and_then(|pidfd| process::take_fd(pidfd.as_fd(), number))
}

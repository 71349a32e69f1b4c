//! The process model: launcher, sentry, program and the processes that make their namespaces.
//!
//! ```text
//! launcher ─┬─ sentry helper     user namespace S          ends when the others are made
//!           ├─ first process     S, process-id namespace Q
//!           ├─ sentry            S, Q; has a keeper that shares its descriptors
//!           ├─ program helper    user namespace P below S, Q; ends when the others are made
//!           ├─ first process     P, process-id namespace R below Q
//!           └─ program           P, R
//! ```
//!
//! The sentry sees the program's processes, since Q holds R; the program does not see the sentry. The sentry's
//! one capability is over S and so over P, and nothing outside. Neither the sentry's nor the program's end
//! takes a namespace down with it; the launcher's does.

mod allow;
mod crash;
mod jobs;
mod keeper;
mod launcher;
mod mirror;
mod report;
mod sentry;
mod stand_in;
mod survive;
mod tree;
mod veth;
mod watchdog;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

use netgraft_linux::capability::{self, Capability};
use netgraft_linux::namespace::IdMaps;
use netgraft_linux::process::{self, Change, Exec, Wait};
use netgraft_linux::signal::{self, Signals};
use netgraft_linux::{confine, filter};
use netgraft_plugin::{NetworkType, StackConfig};

pub(crate) use allow::call_text;
pub use crash::OnCrash;
pub(crate) use crash::change_text;
pub use report::Step;
pub(crate) use sentry::confine_for;

use crate::control::Summary;
use crate::error::{RunError, signal_status};
use crate::stacks;
use crate::vitals::Vitals;
use jobs::Jobs;
use launcher::Launcher;
use sentry::{NOBODY, SentryPlan};
use tree::{InheritedSignals, Plan};

/// What to run, and on what.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunOptions {
    /// How the network is set up.
    pub network: NetworkType,
    /// The stack's name, for [`NetworkType::Plugin`] only.
    pub plugin: Option<String>,
    /// What the stack is told.
    pub config: StackConfig,
    /// Name servers for the program; none leaves /etc/resolv.conf as it is.
    pub name_servers: Vec<IpAddr>,
    /// What happens when the stack crashes, hangs or does what it may not.
    pub on_crash: OnCrash,
    /// The program, looked for as execvp(3) does.
    pub program: OsString,
    /// Its arguments, without its name.
    pub args: Vec<OsString>,
}

impl RunOptions {
    /// The defaults: [`NetworkType::Sandbox`] without a link.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> RunOptions {
        RunOptions {
            network: NetworkType::default(),
            plugin: None,
            config: StackConfig::default(),
            name_servers: Vec::new(),
            on_crash: OnCrash::default(),
            program: program.into(),
            args: Vec::new(),
        }
    }
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// Its exit status, or 128 and the number of the signal that ended it.
    pub code: u8,
    /// What the sentry says of it; `None` if it did not answer in time.
    pub summary: Option<Summary>,
}

/// Runs a program in a sandbox until it ends, with this process's input, output, environment and terminal, and
/// whatever becomes of the stack meanwhile ([`OnCrash`]).
///
/// The process stands in for the program meanwhile: signals that it gets go to the program, and when the
/// program is stopped, so is this process. Call it from a process with one thread: it forks without exec, and
/// the signal mask is the calling thread's. The stacks must be registered ([`crate::register_builtin_stacks`]).
///
/// # Errors
/// Why the program was not started, or not run to its end; nothing is left behind then.
pub fn run(options: RunOptions) -> Result<ExitStatus, RunError> {
    let result = run_once(options);
    // An outer sandbox refuses steps for reasons of its own: its listener is the reason to tell.
    if let Err(RunError::Step { step, .. }) = &result
        && *step != Step::Filter
        && has_listener()
    {
        let source = io::Error::from_raw_os_error(libc::EBUSY);
        return Err(RunError::Step { step: Step::Filter, source });
    }
    result
}

/// Whether a system call listener watches this process already: then the kernel refuses a second one.
fn has_listener() -> bool {
    const BUSY: i32 = 3;
    let probe = process::fork(|| {
        let busy = |e: io::Error| e.raw_os_error() == Some(libc::EBUSY);
        let installed = confine::no_new_privileges().and_then(|()| filter::install(false).map(drop));
        if installed.is_err_and(busy) { BUSY } else { 0 }
    });
    probe.and_then(|pid| process::wait(pid, Wait::Block)).is_ok_and(|end| end == Some(Change::Exited(BUSY)))
}

fn run_once(options: RunOptions) -> Result<ExitStatus, RunError> {
    if let Some(missing) = confine::missing_feature() {
        return Err(RunError::Kernel(missing));
    }
    let choice = stacks::choose(options.network, options.plugin.as_deref(), &options.config)?;
    let mut stack = (choice.factory)(&options.config)?;
    let name = options.program.clone();
    let exec = Exec::new(options.program, options.args, std::env::vars_os(), std::env::var_os("PATH"))
        .map_err(|e| RunError::exec(name.clone(), e.raw_os_error().unwrap_or(libc::EINVAL)))?;
    let failed = |source| RunError::Step { step: Step::Start, source };
    let maps = id_maps().map_err(|source| RunError::Step { step: Step::IdMaps, source })?;
    let (launcher_ends, child_ends) = tree::ends().map_err(failed)?;

    let inherited = take_signals().map_err(failed)?;
    let restore = Restore { mask: inherited.mask, ignored: inherited.ignored.clone() };
    let plan = Plan {
        sentry: SentryPlan {
            factory: choice.factory,
            config: options.config,
            become_nobody: matches!(maps, IdMaps::All { .. })
                && maps.has_user(NOBODY)
                && maps.has_group(NOBODY),
            warn_of_rules: options.network == NetworkType::Plugin,
            object: choice.object,
            vitals: Vitals::new().map_err(failed)?,
            journal: options.on_crash == OnCrash::Restart,
        },
        host_network: options.network == NetworkType::Host,
        maps,
        exec,
        host_sockets: stack.offers_host_fds(),
        resolv_conf: resolv_conf(&options.name_servers),
        signals: inherited,
    };
    let jobs = Jobs::detect();
    let (mut launcher_ends, mut child_ends) = (Some(launcher_ends), Some(child_ends));
    let helper = process::fork(|| {
        drop(launcher_ends.take());
        child_ends.take().map_or(1, |ends| tree::sentry_helper(&plan, ends))
    })
    .map_err(failed)?;
    drop(child_ends);
    let Some(launcher_ends) = launcher_ends else { return Err(failed(io::ErrorKind::Other.into())) };

    let mut launcher = Launcher::new(&plan.sentry, stack.info().name, launcher_ends, helper, jobs, name)?;
    launcher.start(&plan.maps, stack.as_mut())?;
    let code = match launcher.supervise()? {
        Change::Exited(status) => u8::try_from(status).unwrap_or(u8::MAX),
        Change::Signaled(signal) | Change::Stopped(signal) => signal_status(signal),
    };
    let summary = launcher.last_words();
    drop(launcher);
    drop(restore);
    Ok(ExitStatus { code, summary })
}

/// Root keeps every id that it has here, so that servers which change users work; an ordinary user has only
/// its own.
fn id_maps() -> io::Result<IdMaps> {
    if capability::has(Capability::SETUID)? && capability::has(Capability::SETGID)? {
        IdMaps::all()
    } else {
        let (_, user, _, group) = process::ids();
        Ok(IdMaps::One { user, group })
    }
}

/// Blocks every signal, and gives those that the launcher needs their default action.
fn take_signals() -> io::Result<InheritedSignals> {
    let mask = Signals::all_but_faults().block_exactly()?;
    let mut ignored = vec![(libc::SIGPIPE, signal::sigpipe_was_ignored())];
    // SIGCHLD must leave children to wait for, SIGTSTP must stop.
    for needed in [libc::SIGCHLD, libc::SIGTSTP] {
        if signal::is_ignored(needed) {
            ignored.push((needed, true));
            signal::set_ignored(needed, false)?;
        }
    }
    Ok(InheritedSignals { mask, ignored })
}

/// Gives the caller its signal state back.
struct Restore {
    mask: Signals,
    ignored: Vec<(i32, bool)>,
}

impl Drop for Restore {
    fn drop(&mut self) {
        // SIGPIPE was changed by the Rust runtime and not by us.
        for &(signal, ignored) in self.ignored.iter().filter(|(signal, _)| *signal != libc::SIGPIPE) {
            let _ = signal::set_ignored(signal, ignored);
        }
        let _ = self.mask.block_exactly();
    }
}

fn resolv_conf(servers: &[IpAddr]) -> Option<String> {
    if servers.is_empty() {
        return None;
    }
    let mut text = String::from("# The name servers of --dns.\n");
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    Some(text)
}

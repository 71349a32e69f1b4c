//! A sandbox from its making to its end, for who runs one program in it and for who runs several.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::hash::RandomState;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use netgraft_abi::Loaded;
use netgraft_core::policy::Policy;
use netgraft_linux::capability::{self, Capability};
use netgraft_linux::confine;
use netgraft_linux::filter::{self, Sockets};
use netgraft_linux::namespace::IdMaps;
use netgraft_linux::process::{self, Change, Wait};
use netgraft_linux::signal::{self, Signals};
use netgraft_plugin::config::CaptureConfig;
use netgraft_plugin::{NetworkType, PluginStack, SyscallRule};

use crate::allow::{self, Origin};
use crate::capture::Capture;
use crate::containers::{self, Containers, Gate};
use crate::control::Summary;
use crate::crash::OnCrash;
use crate::error::{RunError, signal_status};
use crate::flows::FlowWriter;
use crate::groups::Groups;
use crate::ids::{self, Apart};
use crate::jobs::Jobs;
use crate::launcher::Launcher;
use crate::output::Output;
use crate::path_sockets;
use crate::programs::{ProgramId, ProgramPlan, given_sockets};
use crate::report::Step;
use crate::scrape::MetricsServer;
use crate::sentry::{NOBODY, SentryMain, SentryPlan};
use crate::spec::{NetworkSpec, ProgramSpec, Terminal};
use crate::stacks;
use crate::taken::{self, Taken};
use crate::tree::{self, InheritedSignals, Plan};
use crate::uplink::{self, Uplink};
use crate::veth;
use crate::vitals::Vitals;

/// How many system calls beyond the base are listed in a warning.
const FEW: usize = 4;

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// Its exit status, or 128 and the number of the signal that ended it.
    pub code: u8,
    /// What the sentry says of it; `None` if it did not answer in time.
    pub summary: Option<Summary>,
}

/// Runs a program in a sandbox of its own until it ends, with this process's input, output and terminal, and
/// whatever becomes of the stack meanwhile ([`OnCrash`]).
///
/// The process stands in for the program meanwhile: signals that it gets go to the program, and when the
/// program is stopped, so is this process. Call it from a process with one thread: it forks without exec, and
/// the signal mask is the calling thread's.
///
/// # Errors
/// Why the program was not started, or not run to its end; nothing is left behind then.
pub fn run(network: &NetworkSpec, program: &ProgramSpec, sentry: SentryMain) -> Result<ExitStatus, RunError> {
    let result = run_once(network, program, sentry);
    // An outer sandbox refuses steps for reasons of its own: its listener is the reason to tell.
    let refused = match &result {
        Err(RunError::Step { step, .. }) => *step != Step::Filter,
        Err(RunError::Kernel(_)) => true,
        _ => false,
    };
    if refused && has_listener() {
        let source = io::Error::from_raw_os_error(libc::EBUSY);
        return Err(RunError::step(Step::Filter, source));
    }
    result
}

fn run_once(
    network: &NetworkSpec,
    program: &ProgramSpec,
    sentry: SentryMain,
) -> Result<ExitStatus, RunError> {
    let mut sandbox = Sandbox::make(network, Purpose::Program(program), sentry)?;
    let end = sandbox.launcher.supervise(ProgramId::FIRST)?;
    sandbox.launcher.linger(end, program.until)?;
    let code = status_of(end);
    Ok(ExitStatus { code, summary: sandbox.finish() })
}

/// Whether a system call listener watches this process already: then the kernel refuses a second one.
fn has_listener() -> bool {
    const BUSY: i32 = 3;
    let probe = process::fork(|| {
        let busy = |e: io::Error| e.raw_os_error() == Some(libc::EBUSY);
        let installed =
            confine::no_new_privileges().and_then(|()| filter::install(Sockets::Surrogates).map(drop));
        if installed.is_err_and(busy) { BUSY } else { 0 }
    });
    probe.and_then(|pid| process::wait(pid, Wait::Block)).is_ok_and(|end| end == Some(Change::Exited(BUSY)))
}

/// What a sandbox is made for.
#[derive(Clone, Copy)]
enum Purpose<'a> {
    /// A program.
    Program(&'a ProgramSpec),
    /// Programs that come later.
    Programs,
    /// Containers.
    Containers,
}

/// A sandbox: namespaces, a sentry that serves them, and any number of programs. Dropping it ends every process of it.
///
/// The process that makes it has one thread, since it forks without exec, and its signals are blocked until the
/// sandbox is dropped: those that come while [`Sandbox::wait`] waits go to that program.
pub struct Sandbox {
    // In this order: the stack has ended before the kernel has its addresses, a capture is complete when every process has ended, and then the signals are given back.
    launcher: Launcher,
    #[expect(dead_code, reason = "gives addresses back when it is dropped")]
    taken: Option<Taken>,
    #[expect(dead_code, reason = "gives the ids back when it is dropped")]
    apart: Option<Apart>,
    #[expect(dead_code, reason = "waits for the writer when it is dropped")]
    capture: Option<Capture>,
    #[expect(dead_code, reason = "waits for the writer when it is dropped")]
    flows: Option<FlowWriter>,
    #[expect(dead_code, reason = "gives the signals back when it is dropped")]
    restore: Restore,
}

impl Sandbox {
    /// Makes a sandbox in which nothing runs yet.
    ///
    /// # Errors
    /// What could not be made; nothing is left behind then.
    pub fn start(network: &NetworkSpec, sentry: SentryMain) -> Result<Sandbox, RunError> {
        Sandbox::make(network, Purpose::Programs, sentry)
    }

    /// Makes a sandbox for containers: an OCI runtime makes their processes and their one network namespace.
    ///
    /// # Errors
    /// What could not be made, and options that containers do not have; nothing is left behind then.
    pub fn for_containers(network: &NetworkSpec, sentry: SentryMain) -> Result<Sandbox, RunError> {
        containers::check(network).map_err(RunError::Options)?;
        Sandbox::make(network, Purpose::Containers, sentry)
    }

    /// What stands behind the internet sockets of a sandbox's programs.
    #[must_use]
    pub fn sockets(&self) -> Sockets {
        self.launcher.plan.sockets
    }

    /// Serves containers until the last of them, and the last process that may make one, has ended. `close` is then to keep
    /// others from coming, and says whether it has: if not, somebody has come.
    ///
    /// # Errors
    /// What makes it impossible to go on.
    pub fn serve_containers(
        mut self,
        gate: &Gate,
        close: impl FnMut() -> bool,
    ) -> Result<Option<Summary>, RunError> {
        self.launcher.serve_containers(gate, close)?;
        Ok(self.finish())
    }

    fn make(network: &NetworkSpec, purpose: Purpose<'_>, sentry: SentryMain) -> Result<Sandbox, RunError> {
        if let Some(missing) = confine::missing_feature() {
            return Err(RunError::Kernel(missing));
        }
        let choice = stacks::choose(network)?;
        let of_tree = network.kind != NetworkType::Plugin;
        if of_tree && !network.allowed_calls.is_empty() {
            return Err(RunError::Options(format!(
                "--allow-syscall goes with --network plugin, not with --network {}",
                network.kind
            )));
        }
        let (mut config, veth) = veth::plan(network.veth.clone(), network.config.clone());
        config.wrappers.capture =
            network.capture.as_ref().map(|spec| CaptureConfig { snap: spec.snap, epoch: 0 });
        config.keeps_sockets = stacks::keeps_sockets(network);
        let mut stack = (choice.factory)(&config)?;
        let sockets = stacks::sockets(network, stack.as_ref());
        let is_private = stacks::is_private(network, sockets);
        if let Purpose::Program(program) = purpose {
            path_sockets::check(&program.files, sockets)?;
        }
        stacks::check_wrappers(&config, &stack.info(), choice.object.is_some(), network.ask)?;
        // Before any process is made: in version 2 the launcher may leave its own group for it.
        let groups = network.limits.is_any().then(|| Groups::make(&network.limits));
        let groups = groups.transpose().map_err(RunError::Options)?;
        let taken = network.take_address.then(|| taken::take(&mut config)).transpose()?;
        if taken.is_some() {
            stack = (choice.factory)(&config)?;
        }
        let doubled = uplink::doubled(&config);
        let mut name_servers = network.name_servers.clone();
        let given = (!config.addresses.is_empty(), !name_servers.is_empty());
        let mut uplink = Uplink::prepare(&mut config, &mut name_servers, (&network.publish, network.ask))?;
        let duplicates = uplink.as_mut().and_then(|uplink| uplink.duplicates.take());
        let left_out = uplink::fit_ipv6(&mut config, &mut name_servers, given)?;
        if uplink.is_some() && choice.object.is_some() {
            uplink::widen(&mut config);
        }
        if uplink.is_some() {
            // What it offers is the stack's configuration.
            stack = (choice.factory)(&config)?;
        }
        let failed = |source| RunError::step(Step::Start, source);
        let maps = id_maps().map_err(|source| RunError::step(Step::IdMaps, source))?;
        let apart = match purpose {
            Purpose::Containers => None,
            Purpose::Program(_) | Purpose::Programs => ids::take(network.ids, &maps)?,
        };
        let contained = apart.is_some();
        let program_maps = apart.as_ref().map_or_else(|| maps.clone(), |apart| apart.maps.clone());
        let program = match purpose {
            Purpose::Program(program) => Some(ProgramPlan::new(program, contained)?),
            Purpose::Programs | Purpose::Containers => None,
        };
        let past_rules = past_rules(network, program.as_ref())?;
        let (launcher_ends, child_ends) = tree::ends().map_err(failed)?;

        let jobs = match program.as_ref().map(|program| program.terminal) {
            Some(Terminal::Callers) => Jobs::detect(),
            Some(Terminal::Own) => Jobs::OwnTerminal,
            None => Jobs::Apart,
        };
        let signals = take_signals().map_err(failed)?;
        let restore = Restore { mask: signals.mask, ignored: signals.ignored.clone() };
        // With every signal blocked, and before there is anything that it should not have.
        let (capture, capture_socket) = match network.capture.as_ref().map(Capture::start).transpose()? {
            Some((capture, socket, kept)) => {
                config.wrappers.capture = Some(kept);
                (Some(capture), Some(socket))
            }
            None => (None, None),
        };
        let flows = network
            .flows
            .as_ref()
            .map(|spec| FlowWriter::start(spec, network.kind == NetworkType::Host))
            .transpose()?;
        let (flows, flows_socket) = flows.unzip();
        let metrics = network.metrics.as_ref().map(MetricsServer::start).transpose()?;
        let containers = matches!(purpose, Purpose::Containers).then(Containers::start);
        let containers = containers.transpose().map_err(failed)?;
        let plan = Rc::new(Plan {
            capture: capture_socket,
            sentry: SentryPlan {
                factory: choice.factory,
                config,
                become_nobody: matches!(maps, IdMaps::All { .. })
                    && maps.has_user(NOBODY)
                    && maps.has_group(NOBODY),
                origin: if of_tree { Origin::Tree } else { Origin::Foreign },
                allowed: allow::of_private_link(is_private, allow::allowed_calls(&network.allowed_calls)),
                output: Output::new(choice.object.as_ref().map(|object| object.object())).map_err(failed)?,
                object: choice.object,
                vitals: Vitals::new().map_err(failed)?,
                journal: network.on_crash == OnCrash::Restart,
                limits: network.sockets,
                join: network.join,
                sockets,
                is_private,
                of_host: network.kind == NetworkType::Host,
                policy: RefCell::new(network.policy.clone().map(|spec| Arc::new(Policy::new(spec)))),
                flows: flows_socket,
                name_keys: RandomState::new(),
                main: sentry,
                containers,
            },
            veth,
            host_network: sockets == Sockets::Host,
            maps,
            program_maps,
            program,
            limits: network.limits,
            sockets,
            resolv_conf: resolv_conf(&name_servers),
            signals,
        });
        let (mut launcher_ends, mut child_ends) = (Some(launcher_ends), Some(child_ends));
        let helper = process::fork(|| {
            drop(launcher_ends.take());
            child_ends.take().map_or(1, |ends| match plan.sentry.containers {
                Some(_) => tree::containers_helper(&plan, ends),
                None => tree::sentry_helper(&plan, ends),
            })
        })
        .map_err(failed)?;
        drop(child_ends);
        let Some(launcher_ends) = launcher_ends else { return Err(failed(io::ErrorKind::Other.into())) };
        // The rules of the stacks in this tree are reviewed with them.
        let wider = if of_tree { None } else { wider(stack.as_ref(), &plan.sentry.allowed) };
        let doubts: Vec<String> = plan.sentry.object.iter().flat_map(|object| doubts(object)).collect();
        let mut launcher = Launcher::new(plan, stack.info().name, launcher_ends, helper, jobs)?;
        wider
            .into_iter()
            .chain(doubled)
            .chain(duplicates)
            .chain(left_out)
            .chain(doubts)
            .chain(past_rules)
            .for_each(|text| launcher.warn(text));
        launcher.uplink = uplink;
        launcher.metrics = metrics;
        launcher.groups = groups;
        launcher.start(stack.as_mut())?;
        Ok(Sandbox { launcher, taken, apart, capture, flows, restore })
    }

    /// Starts a further program in the sandbox's namespaces, in a process group of its own and without the terminal.
    /// For a sandbox of [`Sandbox::start`].
    ///
    /// # Errors
    /// What could not be done; the sandbox goes on without this program.
    pub fn spawn(&mut self, program: &ProgramSpec) -> Result<ProgramId, RunError> {
        self.launcher.spawn(program)
    }

    /// Lets the sentry serve the listener (seccomp_unotify(2)) of processes that somebody else has made in the
    /// sandbox's namespaces ([`Sandbox::first_process`]).
    ///
    /// # Errors
    /// [`RunError::Sentry`] if the sentry does not serve it, or serves as many as it can.
    pub fn attach(&mut self, listener: OwnedFd) -> Result<(), RunError> {
        self.launcher.attach(listener).map(drop)
    }

    /// The first process of the programs' process-id namespace, as the caller's has it. Its entries in `/proc/PID/ns` are
    /// the sandbox's namespaces; it lives as long as the sandbox.
    #[must_use]
    pub fn first_process(&self) -> Option<u32> {
        self.launcher.first_process()
    }

    /// Waits until a program ends: its exit status, or 128 and the number of the signal that ended it.
    ///
    /// # Errors
    /// What makes it impossible to go on, and that the program could not be executed.
    pub fn wait(&mut self, program: ProgramId) -> Result<u8, RunError> {
        self.launcher.supervise(program).map(status_of)
    }

    /// Ends the sandbox and every process of it; what the sentry says of it, unless it did not answer in time.
    #[must_use]
    pub fn finish(mut self) -> Option<Summary> {
        self.launcher.last_words()
    }
}

/// What is to be said of internet sockets that a program is given where there are rules.
fn past_rules(network: &NetworkSpec, program: Option<&ProgramPlan>) -> Result<Option<String>, RunError> {
    let given = program.filter(|_| network.policy.is_some() || network.strict).map(given_sockets);
    let given: Vec<String> = given.unwrap_or_default().iter().map(i32::to_string).collect();
    if given.is_empty() {
        return Ok(None);
    }
    let text = format!(
        "no rule reaches the host's sockets that the program is given: descriptor {}",
        given.join(", ")
    );
    if network.strict { Err(RunError::Options(format!("--strict: {text}"))) } else { Ok(Some(text)) }
}

/// The exit status of a program that ended in this way.
fn status_of(end: Change) -> u8 {
    match end {
        Change::Exited(status) => u8::try_from(status).unwrap_or(u8::MAX),
        Change::Signaled(signal) | Change::Stopped(signal) => signal_status(signal),
    }
}

/// What programs will stumble over, as warnings.
fn doubts(object: &Loaded) -> impl Iterator<Item = String> {
    object.doubts().iter().map(|text| format!("the stack {} {text}", object.object()))
}

/// What a stack may do beyond the base, as a warning.
fn wider(stack: &dyn PluginStack, allowed: &[SyscallRule]) -> Option<String> {
    let wider = allow::wider_than_base(&[stack.seccomp_filters(), allowed.to_vec()].concat());
    let what = "the stack widens the sentry's allow-list by";
    let all = wider.join(", ");
    match wider.len() {
        0 => None,
        1..=FEW => Some(format!("{what} {all}")),
        count => {
            tracing::info!("{what} {all}");
            Some(format!("{what} {count} system calls: -v lists them"))
        }
    }
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
    let mut text = String::from("# The name servers of --dns, or those that the link offers.\n");
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    Some(text)
}

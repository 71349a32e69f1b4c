//! The sentry's process: it drops everything that it does not need, then brings the stack up and serves.

use std::any::Any;
use std::cell::RefCell;
use std::fs::{self, File};
use std::hash::RandomState;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use netgraft_abi::Loaded;
use netgraft_core::policy::Policy;
use netgraft_linux::capability::{self, Capability};
use netgraft_linux::confine::{self, AllowList};
use netgraft_linux::disposal::Disposal;
use netgraft_linux::filter::Sockets;
use netgraft_linux::memory::Meter;
use netgraft_linux::mount::{self, Access};
use netgraft_linux::namespace::{Namespaces, unshare};
use netgraft_linux::nsfd::Namespace;
use netgraft_linux::signal::Signals;
use netgraft_linux::worker::{Wake, Worker};
use netgraft_linux::{fdpass, memory, process, unix};
use netgraft_plugin::registry::Factory;
use netgraft_plugin::{Call, InitStackArgs, PluginStack, StackConfig, SyscallRule};
use serde::{Deserialize, Serialize};

use super::allow::{self, Origin};
use super::keeper;
use crate::clock;
use crate::containers::Containers;
use crate::control::{self, FromSentry, Kept, LinkSetting, Network};
use crate::join::Join;
use crate::output::Output;
use crate::spec::SocketLimits;
use crate::vitals::Vitals;

/// The user that the sentry becomes where it may ("nobody").
pub(super) const NOBODY: u32 = 65534;

/// What the sentry's main function works on.
pub struct SentryArgs {
    /// The stack, after `init`.
    pub stack: Box<dyn PluginStack>,
    /// The seccomp listeners of programs, with their places in [`Vitals`]; others follow
    /// ([`control::ToSentry::Listener`]).
    pub listeners: Vec<(u32, OwnedFd)>,
    /// The `SOCK_SEQPACKET` socket to the launcher ([`crate::control`]).
    pub control: OwnedFd,
    /// The words that the launcher looks at.
    pub vitals: Vitals,
    /// Whether the launcher is told which sockets are to outlive the stack.
    pub journal: bool,
    /// What the sentry before this one said of such sockets.
    pub kept: Vec<Kept>,
    /// Closes files whose close may wait.
    pub disposal: Disposal,
    /// A thread for the calls of the first program; none for a stack that is bound to one thread.
    pub calls: Option<Worker>,
    /// Wakes the sentry's loop.
    pub wake: Wake,
    /// Measures its memory.
    pub meter: Meter,
    /// Looks into the programs' processes for the sentry ([`netgraft_linux::inspector`]), where it may not.
    pub inspector: Option<OwnedFd>,
    /// The namespaces of the programs.
    pub home: NamespaceIds,
    /// Whether there was a sentry before this one, which knew who may have left them.
    pub is_successor: bool,
    /// What the programs may use of it.
    pub limits: SocketLimits,
    /// What becomes of connections inside the sandbox.
    pub join: Join,
    /// What stands behind the programs' internet sockets.
    pub sockets: Sockets,
    /// Whether datagrams pass over private links ([`control::ToSentry::PrivateLink`]).
    pub is_private: bool,
    /// Whether the stack's network is the host's own.
    pub of_host: bool,
    /// Who may talk to whom.
    pub policy: Option<Arc<Policy>>,
    /// Where flows go, a socket of packets that does not block; `None` if nobody wants to know them.
    pub flows: Option<OwnedFd>,
    /// Keys for names that only the sentries of this sandbox can make.
    pub name_keys: RandomState,
}

/// The namespaces of a sandbox's programs, as numbers of namespaces(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceIds {
    /// The user namespace: a program's capabilities count in this one only.
    pub user: u64,
    /// The network namespace whose place the stack takes: a process that has left it has the kernel's network.
    pub network: u64,
}

/// What the sentry's process does once it is confined.
#[derive(Clone, Copy, Debug)]
pub struct SentryMain {
    /// Wraps a stack so that its calls are noted in the vitals, and a launcher that sleeps is woken
    /// ([`FromSentry::Busy`], on this socket).
    pub watch: fn(Box<dyn PluginStack>, Vitals, OwnedFd) -> Box<dyn PluginStack>,
    /// Serves the programs until the launcher says [`control::ToSentry::Stop`] or goes away. `/proc` of its own
    /// process-id namespace, which holds the programs' processes, is all the file system there is.
    pub run: fn(SentryArgs) -> io::Result<()>,
}

/// What the sentry does, decided in the launcher.
pub(super) struct SentryPlan {
    /// Makes the stack.
    pub(super) factory: Arc<Factory>,
    /// What the operator chose for it.
    pub(super) config: StackConfig,
    /// Whether it becomes [`NOBODY`].
    pub(super) become_nobody: bool,
    /// What the operator allows the stack beyond its own rules.
    pub(super) allowed: Vec<SyscallRule>,
    /// Whose code the stack is.
    pub(super) origin: Origin,
    /// The shared object that the stack comes from.
    pub(super) object: Option<Arc<Loaded>>,
    /// Where what it prints goes.
    pub(super) output: Output,
    /// The words that the launcher looks at.
    pub(super) vitals: Vitals,
    /// Whether the launcher is told which sockets are to outlive the stack.
    pub(super) journal: bool,
    /// What the programs may use of it.
    pub(super) limits: SocketLimits,
    /// What becomes of connections inside the sandbox.
    pub(super) join: Join,
    /// What stands behind the programs' internet sockets.
    pub(super) sockets: Sockets,
    /// Whether datagrams pass over private links.
    pub(super) is_private: bool,
    /// Whether the stack's network is the host's own.
    pub(super) of_host: bool,
    /// Who may talk to whom.
    pub(super) policy: RefCell<Option<Arc<Policy>>>,
    /// Where flows go.
    pub(super) flows: Option<OwnedFd>,
    /// Keys for names that every sentry of the sandbox is to know.
    pub(super) name_keys: RandomState,
    /// What it runs when it is confined.
    pub(super) main: SentryMain,
    /// Whose processes it serves, if an OCI runtime makes them.
    pub(super) containers: Option<Containers>,
}

/// Which network namespace a sentry works in.
pub(super) enum SentryNetwork<'a> {
    /// The caller's, for host sockets.
    Caller,
    /// An empty one of its own.
    Own,
    /// That of the sentry before it, whose surrogates have their names there.
    Former(&'a Namespace),
}

/// The launcher's one message before [`FromSentry::Ready`]; its descriptors are the listeners and those of
/// `pre_init`.
#[derive(Serialize, Deserialize)]
pub(super) struct Handover {
    /// What `pre_init` returned.
    pub(super) init_str: String,
    /// The listeners' places in [`Vitals`].
    pub(super) listeners: Vec<u32>,
    /// What a sentry before this one said of sockets that are to be made again.
    pub(super) kept: Vec<Kept>,
    /// And of the link's faults, if they were changed.
    pub(super) link: Option<LinkSetting>,
    /// The namespaces of the programs.
    pub(super) home: NamespaceIds,
    /// Whether there was a sentry before this one, which knew who may have left them.
    pub(super) is_successor: bool,
}

/// The most bytes that a [`Handover`] has: what a socket's default send buffer takes.
pub(super) const HANDOVER_LIMIT: usize = 128 * 1024;

/// The message that carries this: as many of the kept sockets as fit.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if the text alone is too long.
pub(super) fn handover(mut handover: Handover) -> io::Result<Vec<u8>> {
    loop {
        let message = serde_json::to_vec(&handover)?;
        if message.len() <= HANDOVER_LIMIT {
            return Ok(message);
        }
        let kept = &mut handover.kept;
        if kept.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let fits = kept.len() * HANDOVER_LIMIT / message.len();
        kept.truncate(fits.min(kept.len() - 1));
        tracing::warn!("only {} of the program's sockets can be handed over to the sentry", kept.len());
    }
}

/// Runs the sentry; the exit status is 0 after an orderly end. Where the ids of its user namespace are not mapped yet, the
/// byte that says so comes from `mapped`.
pub(super) fn main(
    plan: &SentryPlan,
    control: BorrowedFd<'_>,
    network: &SentryNetwork<'_>,
    mapped: Option<&PipeReader>,
) -> i32 {
    let work = || serve(plan, control, network, mapped);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let text = match result {
        Ok(Ok(())) => return 0,
        Ok(Err(text)) => text,
        Err(panic) => format!("the sentry panicked: {}", panic_text(panic.as_ref())),
    };
    // If the launcher is gone nobody can be told.
    if control::send(control, &FromSentry::Failed(text)).is_err() {
        plan.vitals.note_cut_off();
    }
    1
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

fn serve(
    plan: &SentryPlan,
    control: BorrowedFd<'_>,
    network: &SentryNetwork<'_>,
    mapped: Option<&PipeReader>,
) -> Result<(), String> {
    let cannot = |what: &'static str| move |e: io::Error| format!("the sentry cannot {what}: {e}");
    let null = File::options().read(true).write(true).open("/dev/null").map_err(cannot("open /dev/null"))?;
    let mut kept = vec![0, 1, control.as_raw_fd()];
    let placed = plan.output.take_place(null.as_fd());
    kept.extend(placed.map_err(cannot("replace its input and output"))?);
    kept.extend(plan.flows.as_ref().map(AsRawFd::as_raw_fd));
    kept.extend(plan.object.iter().flat_map(|object| object.descriptors()));
    kept.extend(plan.containers.iter().map(|containers| containers.inspector.as_raw_fd()));
    if let SentryNetwork::Former(namespace) = network {
        namespace.enter(Namespaces::NET).map_err(cannot("enter the network namespace of the one before"))?;
    }
    // The longest step, possible before the ids are mapped.
    make_namespaces(matches!(network, SentryNetwork::Own))?;
    if let Some(mut mapped) = mapped {
        mapped.read_exact(&mut [0]).map_err(|_| "the launcher is gone".to_owned())?;
    }
    process::close_all_but(&kept).map_err(cannot("close descriptors"))?;
    // `null` was closed there: nothing must close that number again.
    std::mem::forget(null);
    // While /proc shows it, wherever that comes from.
    let meter = Meter::new().map_err(cannot("open /proc/self/statm"))?;
    let own = Namespace::own("net").map_err(cannot("open its network namespace"))?;
    empty_root(plan.containers.is_none())?;
    if matches!(network, SentryNetwork::Own) {
        control::send_with_fd(control, &FromSentry::NetworkNamespace, own.as_fd())
            .map_err(cannot("tell the launcher"))?;
    }
    drop(own);
    drop_privileges(plan.become_nobody).map_err(cannot("drop its privileges"))?;
    // Host sockets have no other end, and the keeper may not look into containers.
    if !matches!(network, SentryNetwork::Caller) && plan.containers.is_none() {
        keeper::start(control).map_err(cannot("start its keeper"))?;
    }
    confine::set_name(c"netgraft-sentry").map_err(cannot("name itself"))?;
    // The launcher's mask, which blocks everything, was inherited.
    Signals::none().block_exactly().map_err(cannot("unblock signals"))?;

    // Before the allow-list, which has no threads and no new timers in it, and while the program's namespaces are made.
    memory::share_heap();
    unix::prepare_alarm().map_err(cannot("make a timer"))?;
    // An object may keep what it knows in the thread that started it.
    let calls = plan.object.is_none().then(|| Worker::start("netgraft-calls"));
    let calls = calls.transpose().map_err(cannot("start a thread"))?;
    let disposal = Disposal::start().map_err(cannot("start a thread"))?;
    let wake = Wake::new().map_err(cannot("make a descriptor"))?;
    // The code of an object waits until all is ready for its end. Any other stack is confined while the program's process
    // is still on its way.
    let early =
        plan.object.is_none().then(|| make_confined(plan, control, calls.as_ref(), &disposal)).transpose()?;

    let message = fdpass::receive(control, HANDOVER_LIMIT).map_err(cannot("receive the handover"))?;
    let Some((bytes, mut fds)) = message else { return Err("the launcher is gone".to_owned()) };
    let handover: Handover =
        serde_json::from_slice(&bytes).map_err(|e| format!("the handover is malformed: {e}"))?;
    let Handover { init_str, listeners, kept, link, home, is_successor } = handover;
    if fds.len() < listeners.len() {
        return Err("the handover has too few descriptors".to_owned());
    }
    let given: Vec<OwnedFd> = fds.drain(..listeners.len()).collect();
    let listeners = listeners.into_iter().zip(given).collect();
    let control = control.try_clone_to_owned().map_err(cannot("duplicate its control socket"))?;

    let mut stack =
        early.map_or_else(|| make_confined(plan, control.as_fd(), calls.as_ref(), &disposal), Ok)?;
    stack.init(InitStackArgs { init_str, fds, now: clock::now() }).map_err(|e| e.to_string())?;
    if let Some((faults, seed)) = link.and_then(|link| link.parse()) {
        // A link that can be changed can be so again.
        let _ = stack.set_link_faults(faults, Some(seed));
    }
    let seen = if plan.of_host { Network::of_host(stack.as_ref()) } else { Network::of(stack.as_ref()) };
    let flows = plan.flows.as_ref().map(OwnedFd::try_clone).transpose();
    let flows = flows.map_err(cannot("duplicate a descriptor"))?;
    control::send(control.as_fd(), &FromSentry::Ready(seen)).map_err(cannot("tell the launcher"))?;
    (plan.main.run)(SentryArgs {
        stack,
        listeners,
        control,
        vitals: plan.vitals.clone(),
        journal: plan.journal,
        kept,
        disposal,
        calls,
        wake,
        home,
        is_successor,
        limits: plan.limits,
        join: plan.join,
        sockets: plan.sockets,
        is_private: plan.is_private,
        of_host: plan.of_host,
        policy: plan.policy.borrow().clone(),
        flows,
        name_keys: plan.name_keys.clone(),
        meter,
        inspector: plan
            .containers
            .as_ref()
            .map(Containers::inspector)
            .transpose()
            .map_err(cannot("go on"))?,
    })
    .map_err(cannot("go on"))
}

/// A stack that is to be initialised, in a process that is confined from here on.
fn make_confined(
    plan: &SentryPlan,
    control: BorrowedFd<'_>,
    calls: Option<&Worker>,
    disposal: &Disposal,
) -> Result<Box<dyn PluginStack>, String> {
    let mut stack = make_stack(plan, control)?;
    // What a thread does as it starts is not in the list.
    disposal.wait_started();
    calls
        .map_or(Ok(()), Worker::wait_started)
        .map_err(|e| format!("the sentry cannot start a thread: {e}"))?;
    confine_for(stack.as_mut(), plan.origin, plan.object.is_some(), &plan.allowed, &plan.vitals)?;
    Ok(stack)
}

fn make_stack(plan: &SentryPlan, control: BorrowedFd<'_>) -> Result<Box<dyn PluginStack>, String> {
    let vitals = plan.vitals.clone();
    vitals.begin(Call::factory);
    let made = (plan.factory)(&plan.config).map_err(|e| e.to_string())?;
    vitals.end();
    let own_control = control.try_clone_to_owned().map_err(|e| e.to_string())?;
    Ok((plan.main.watch)(made, vitals, own_control))
}

/// Links a stack and leaves the process no system call but those of the base, the stack's own and those of `allowed`,
/// for good. One that is refused is named in `vitals`.
///
/// # Errors
/// One line: what the stack says, or what cannot be done.
pub fn confine_for(
    stack: &mut dyn PluginStack,
    origin: Origin,
    of_object: bool,
    allowed: &[SyscallRule],
    vitals: &Vitals,
) -> Result<(), String> {
    let confine = |rules: &[SyscallRule]| {
        let list = AllowList::compile_with_names(&allow::rules(origin, rules));
        list.and_then(|list| list.install()).map_err(list_refused)
    };
    let own = [stack.seccomp_filters(), allowed.to_vec()].concat();
    // Its flags are where no filter sees them, so the C library is made to use clone(2), which can be allowed by itself.
    if allowed.iter().any(|rule| rule.number == libc::SYS_clone3) {
        netgraft_abi::forbid_clone3().map_err(|e| format!("the sentry cannot forbid clone3: {e}"))?;
    }
    vitals.report_ends().map_err(|e| e.to_string())?;
    // An object's constructors are code from outside, too. Their list can only become shorter.
    if of_object {
        confine(&[own.clone(), netgraft_abi::loader_rules()].concat())?;
    }
    stack.prepare().map_err(|e| e.to_string())?;
    // From here on nothing becomes executable.
    confine(&own)
}

/// Namespaces and a session of the sentry's own.
fn make_namespaces(own_network: bool) -> Result<(), String> {
    let cannot = |what: &'static str| move |e: io::Error| format!("the sentry cannot {what}: {e}");
    // Away from the terminal's signals, and from the terminal.
    process::new_session().map_err(cannot("start a session"))?;
    let network = if own_network { Namespaces::NET } else { Namespaces::NONE };
    unshare(network | Namespaces::MOUNT | Namespaces::IPC | Namespaces::UTS)
        .map_err(cannot("make its namespaces"))
}

/// Changes to a root directory with nothing in it but the /proc of the process-id namespace or, where that is not the sentry's,
/// its own descriptors, from which an object is linked. The ids are mapped by now: who has none in the sentry's user namespace
/// can make no file there.
fn empty_root(with_processes: bool) -> Result<(), String> {
    let cannot = |what: &'static str| move |e: io::Error| format!("the sentry cannot {what}: {e}");
    // /proc is the one directory that is there in every sandboxable system: the new root begins on top of it.
    let root = Path::new("/proc");
    let own = (!with_processes).then(|| mount::Tree::of(Path::new("/proc/self/fd"))).transpose();
    let own = own.map_err(cannot("find its descriptors in /proc"))?;
    mount::mount_new(c"tmpfs", root, Access::Data, c"size=4k,mode=755")
        .and_then(|()| fs::create_dir(root.join("proc")))
        .map_err(root_refused)?;
    if with_processes {
        mount::mount_new(c"proc", &root.join("proc"), Access::ReadOnly, c"subset=pid")
            .map_err(proc_refused)?;
    }
    if let Some(own) = own {
        let place = root.join("proc/self/fd");
        fs::create_dir_all(&place)
            .and_then(|()| own.show_at(&place))
            .map_err(cannot("show its descriptors in its root directory"))?;
    }
    std::env::set_current_dir(root)
        .and_then(|()| mount::pivot_to_working_directory())
        .and_then(|()| mount::make_read_only(Path::new("/")))
        .map_err(cannot("leave the root directory"))
}

/// The kernel lets a user namespace mount /proc only where all of the /proc that it can see is uncovered.
fn proc_refused(error: io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "; parts of /proc are covered here, as container runtimes do: start the container with an uncovered \
             /proc (Podman: --security-opt unmask=ALL, Docker: --security-opt systempaths=unconfined)"
        }
        _ => "",
    };
    format!("the sentry cannot mount a /proc of its own: {error}{hint}")
}

/// Whether this or the program's own filter is refused first is a matter of luck: the hint is the same.
fn list_refused(error: io::Error) -> String {
    let hint = crate::error::filter_hint(&error);
    format!("the sentry cannot install its allow-list: {error}{hint}")
}

/// A user namespace may mount a tmpfs anywhere: only a policy of the host's refuses that.
fn root_refused(error: io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; mount(2) is blocked here: a container's system call filter or an AppArmor or SELinux profile must allow \
             it in user namespaces (Podman, Docker: --security-opt seccomp=unconfined or a profile with mount)"
        }
        _ => "",
    };
    format!("the sentry cannot make its root directory: {error}{hint}")
}

fn drop_privileges(become_nobody: bool) -> io::Result<()> {
    if become_nobody {
        capability::become_user(NOBODY, NOBODY)?;
    }
    capability::keep_only(Capability::SYS_PTRACE)?;
    confine::no_new_privileges()?;
    confine::not_dumpable()?;
    confine::die_with_parent()?;
    confine::no_core_file()?;
    confine::raise_descriptor_limit()
}

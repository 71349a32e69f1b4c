//! The processes that make the sandbox's namespaces and the program's process.
//!
//! All of these are forks of the launcher and its children: the helpers make the others as *siblings*, so that
//! the launcher can wait for them, and since only a process in a user namespace can make the next one below
//! it. Each runs one function here and exits.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use netgraft_linux::capability::Capability;
use netgraft_linux::confine::CallFilter;
use netgraft_linux::filter::Sockets;
use netgraft_linux::mount::{self, Access};
use netgraft_linux::namespace::{IdMaps, Namespaces, unshare};
use netgraft_linux::process::{self, clone_sibling};
use netgraft_linux::signal::{self, Signals};
use netgraft_linux::{capability, confine, fdpass, filter, netdev, task, terminal};

use super::files;
use super::groups::Limits;
use super::programs::{Home, ProgramPlan};
use super::report::{Report, Role, Step};
use super::sentry::{self, SentryNetwork, SentryPlan};
use super::spec::{Descriptors, Terminal, User};
use super::veth::VethPlan;

/// What the children work from; decided before the first fork.
pub(super) struct Plan {
    /// The ids that the sandbox's user namespaces have.
    pub(super) maps: IdMaps,
    /// Those of the programs' user namespace.
    pub(super) program_maps: IdMaps,
    /// What the sentry does.
    pub(super) sentry: SentryPlan,
    /// The capture's socket, for the sentry.
    pub(super) capture: Option<OwnedFd>,
    /// The interface that is made for the stack.
    pub(super) veth: Option<VethPlan>,
    /// Whether the sentry stays in the caller's network namespace, for host sockets.
    pub(super) host_network: bool,
    /// The first program, if the sandbox is made for one.
    pub(super) program: Option<ProgramPlan>,
    /// What stands behind the programs' internet sockets.
    pub(super) sockets: Sockets,
    /// What the programs may use together.
    pub(super) limits: Limits,
    /// What the programs' resolv.conf says, if not what the host's says.
    pub(super) resolv_conf: Option<String>,
    /// The signal state that programs get.
    pub(super) signals: InheritedSignals,
}

impl Plan {
    /// Whether root started the sandbox and its programs have neither root's ids nor all capabilities.
    pub(super) const fn is_contained(&self) -> bool {
        matches!(self.program_maps, IdMaps::Apart { .. })
    }
}

/// The signal state that the launcher was started with.
pub(super) struct InheritedSignals {
    /// The mask of blocked signals.
    pub(super) mask: Signals,
    /// Signals that were ignored and that the launcher or the Rust runtime treats otherwise.
    pub(super) ignored: Vec<(i32, bool)>,
}

/// The ends of pipes and sockets that the launcher alone holds.
pub(super) struct LauncherEnds {
    /// Nothing is ever written: its closing is the launcher's end.
    pub(super) lifetime: PipeWriter,
    pub(super) reports: OwnedFd,
    /// Takes a byte for each of [`MAPPED`] when the ids are mapped.
    pub(super) mapped: PipeWriter,
    pub(super) go: PipeWriter,
    pub(super) control: OwnedFd,
}

/// What tells those who wait for the first id maps that they are there: the sentry's helper, and the sentry.
pub(super) const MAPPED: [u8; 2] = [1; 2];

/// The ends that the children hold.
pub(super) struct ChildEnds {
    lifetime: PipeReader,
    reports: File,
    mapped: PipeReader,
    program_mapped: PipeReader,
    /// Only the first helper keeps it, so that its end is seen at the other end.
    map_program: RefCell<Option<PipeWriter>>,
    go: PipeReader,
    control: OwnedFd,
}

/// Makes the pipes.
pub(super) fn ends() -> io::Result<(LauncherEnds, ChildEnds)> {
    let lifetime = io::pipe()?;
    let reports = fdpass::pair()?;
    fdpass::tell_senders(reports.0.as_fd())?;
    let mapped = io::pipe()?;
    let go = io::pipe()?;
    let program_mapped = io::pipe()?;
    let control = fdpass::pair()?;
    let launcher = LauncherEnds {
        lifetime: lifetime.1,
        reports: reports.0,
        mapped: mapped.1,
        go: go.1,
        control: control.0,
    };
    let children = ChildEnds {
        lifetime: lifetime.0,
        reports: File::from(reports.1),
        mapped: mapped.0,
        program_mapped: program_mapped.0,
        map_program: RefCell::new(Some(program_mapped.1)),
        go: go.0,
        control: control.1,
    };
    Ok((launcher, children))
}

/// Why a child gives up: what the launcher is told, or nothing when the launcher itself is gone.
enum Failure {
    Step(Step, io::Error),
    Alone,
}

fn at(step: Step) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::Step(step, error)
}

fn status(result: Result<(), Failure>, reports: &File) -> i32 {
    match result {
        Ok(()) => return 0,
        Err(Failure::Step(step, error)) => Report::failed(step, &error).send(reports),
        Err(Failure::Alone) => {}
    }
    1
}

/// Waits for the byte that says "go on".
fn wait_for_byte(mut pipe: &PipeReader) -> Result<(), Failure> {
    pipe.read_exact(&mut [0]).map_err(|_| Failure::Alone)
}

/// The first child: makes the sentry's user and process-id namespaces and, in them, the sentry, the first
/// process and the helper for the program.
///
/// The sentry is made before the ids are mapped, and goes on as far as it can without: the launcher maps them meanwhile. The
/// program's user namespace needs them (user_namespaces(7)).
pub(super) fn sentry_helper(plan: &Plan, ends: ChildEnds) -> i32 {
    let work = || {
        confine::die_with_parent().map_err(at(Step::Start))?;
        unshare(Namespaces::USER).map_err(at(Step::UserNamespace))?;
        Report::NeedsIdMaps.send(&ends.reports);
        unshare(Namespaces::PID).map_err(at(Step::PidNamespace))?;
        // The first process of the namespace must be the first to be made.
        let first = || first_process(&ends, Role::SentryInit);
        clone_sibling(Namespaces::NONE, first).map_err(at(Step::Start))?;
        make_sentry(plan, &ends)?;
        wait_for_byte(&ends.mapped)?;
        let program = clone_sibling(Namespaces::USER, || program_helper(plan, &ends))
            .map_err(at(Step::ProgramUserNamespace))?;
        plan.program_maps.write(program).map_err(at(Step::IdMaps))?;
        match ends.map_program.take() {
            Some(mut pipe) => pipe.write_all(&[1]).map_err(at(Step::Start)),
            None => Err(Failure::Alone),
        }
    };
    status(work(), &ends.reports)
}

/// Makes the sentry, in the caller's user namespace.
fn make_sentry(plan: &Plan, ends: &ChildEnds) -> Result<(), Failure> {
    let sentry = || {
        Report::Made(Role::Sentry).send(&ends.reports);
        let network = if plan.host_network { SentryNetwork::Caller } else { SentryNetwork::Own };
        sentry::main(&plan.sentry, ends.control.as_fd(), &network, Some(&ends.mapped))
    };
    clone_sibling(Namespaces::NONE, sentry).map(drop).map_err(at(Step::Start))
}

/// The first child where others make the programs' processes: makes the sentry's user namespace, and the sentry in it. The
/// sentry stays in the caller's process-id namespace, which holds the containers', since the kernel names callers as the
/// listener's reader sees them.
pub(super) fn containers_helper(plan: &Plan, ends: ChildEnds) -> i32 {
    let work = || {
        confine::die_with_parent().map_err(at(Step::Start))?;
        unshare(Namespaces::USER).map_err(at(Step::UserNamespace))?;
        Report::NeedsIdMaps.send(&ends.reports);
        make_sentry(plan, &ends)?;
        wait_for_byte(&ends.mapped)?;
        Report::NoProgram.send(&ends.reports);
        Ok(())
    };
    status(work(), &ends.reports)
}

/// The second child: makes the program's namespaces and, in them, the first process and the program's.
fn program_helper(plan: &Plan, ends: &ChildEnds) -> i32 {
    let work = || {
        Report::Made(Role::ProgramHelper).send(&ends.reports);
        drop(ends.map_program.take());
        confine::die_with_parent().map_err(at(Step::Start))?;
        // Possible before the ids are mapped, and the longest step: it runs beside the sentry's.
        let all = Namespaces::NET
            | Namespaces::MOUNT
            | Namespaces::IPC
            | Namespaces::UTS
            | Namespaces::PID
            | Namespaces::CGROUP;
        unshare(all).map_err(at(Step::ProgramNamespaces))?;
        netdev::loopback_up().map_err(at(Step::Loopback))?;
        wait_for_byte(&ends.program_mapped)?;
        become_root_inside(plan)?;
        if let Some(text) = &plan.resolv_conf {
            cover_resolv_conf(text).map_err(at(Step::Dns))?;
        }
        let first = || first_process(ends, Role::ProgramInit);
        clone_sibling(Namespaces::NONE, first).map_err(at(Step::Start))?;
        clone_sibling(Namespaces::NONE, || program(plan, ends)).map_err(at(Step::Start))?;
        Ok(())
    };
    status(work(), &ends.reports)
}

/// Where the host's ids are not there, root of the host is nobody who could make files or mounts: becomes root inside.
fn become_root_inside(plan: &Plan) -> Result<(), Failure> {
    if plan.is_contained() {
        capability::become_user(0, 0).map_err(at(Step::IdMaps))?;
        // A change of user resets both.
        confine::dumpable().and_then(|()| confine::die_with_parent()).map_err(at(Step::Start))?;
    }
    Ok(())
}

/// The first process of a process-id namespace: takes over orphans, and ends the namespace with the launcher.
fn first_process(ends: &ChildEnds, role: Role) -> i32 {
    Report::Made(role).send(&ends.reports);
    let alive = ends.lifetime.as_raw_fd();
    let ready = process::new_session()
        .and_then(|()| confine::set_name(c"netgraft-init"))
        // The kernel then reaps the orphans itself (wait(2)).
        .and_then(|()| signal::set_ignored(libc::SIGCHLD, true))
        .and_then(|()| confine::not_dumpable())
        .and_then(|()| confine::die_with_parent())
        .and_then(|()| process::close_all_but(&[alive]));
    if ready.is_err() {
        return 1;
    }
    // The launcher may have ended before `die_with_parent`: the pipe tells that too.
    let _ = (&ends.lifetime).read(&mut [0]);
    0
}

/// The first program's process, up to execve(2); without a program it ends when the sandbox is made.
fn program(plan: &Plan, ends: &ChildEnds) -> i32 {
    let work = || {
        Report::Made(Role::Program).send(&ends.reports);
        report_namespaces(&ends.reports).map_err(at(Step::Numbers))?;
        cover_kernel_files(plan, &ends.reports);
        leave_covered_directory().map_err(at(Step::Directory))?;
        match &plan.program {
            Some(program) => become_program(plan, program, &ends.reports, &ends.go),
            None => {
                Report::NoProgram.send(&ends.reports);
                wait_for_byte(&ends.go)
            }
        }
    };
    status(work(), &ends.reports)
}

/// Reports the numbers of the namespaces that the calling process is in. Only it can read them here: a fork of the
/// launcher may not be inspected.
fn report_namespaces(reports: &File) -> io::Result<()> {
    let number = |kind| {
        let number = task::own_namespace(kind)?;
        u32::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    };
    Report::UserNamespace(number("user")?).send(reports);
    Report::NetworkNamespace(number("net")?).send(reports);
    Ok(())
}

/// A fork of the launcher: enters the namespaces of a sandbox that runs, and makes a further program's process there.
pub(super) fn newcomer(
    plan: &Plan,
    home: &Home,
    program: &ProgramPlan,
    reports: &File,
    go: &PipeReader,
) -> i32 {
    let work = || {
        confine::die_with_parent().map_err(at(Step::Start))?;
        home.enter().map_err(at(Step::Join))?;
        become_root_inside(plan)?;
        let process = || {
            Report::Made(Role::Program).send(reports);
            status(become_program(plan, program, reports, go), reports)
        };
        clone_sibling(Namespaces::NONE, process).map(drop).map_err(at(Step::Start))
    };
    status(work(), reports)
}

/// Takes what a program's process is to have, installs the filter, waits until it is served, and calls execve(2).
fn become_program(
    plan: &Plan,
    program: &ProgramPlan,
    reports: &File,
    go: &PipeReader,
) -> Result<(), Failure> {
    if program.files.has_mounts() {
        // A further program shares the mounts of the first up to here.
        unshare(Namespaces::MOUNT).map_err(at(Step::Files))?;
        files::lay_out(&program.files, plan.is_contained()).map_err(at(Step::Files))?;
        if program.directory.is_none() {
            // Where the caller's is not there any more, it begins at the root.
            let here = std::env::current_dir().ok().filter(|_| program.files.root.is_none());
            let there = here.is_some_and(|here| std::env::set_current_dir(here).is_ok());
            if !there {
                std::env::set_current_dir("/").map_err(at(Step::Directory))?;
            }
        }
    }
    if program.terminal == Terminal::Own {
        take_terminal(reports).map_err(at(Step::Terminal))?;
        leave_covered_directory().map_err(at(Step::Directory))?;
    }
    if let Some(directory) = &program.directory {
        std::env::set_current_dir(directory).map_err(at(Step::Directory))?;
    }
    for &(signal, ignored) in &plan.signals.ignored {
        signal::set_ignored(signal, ignored).map_err(at(Step::Start))?;
    }
    plan.signals.mask.block_exactly().map_err(at(Step::Start))?;
    if plan.is_contained() || program.files.read_only {
        // Container engines refuse the call, and have made one; the profile refuses all that is done with keys.
        let _ = process::own_keyring();
    }
    if plan.is_contained() {
        capability::keep(Capability::OF_CONTAINED_ROOT).map_err(at(Step::User))?;
    }
    if let Some(user) = program.user {
        become_user(user).map_err(at(Step::User))?;
    }
    confine::no_new_privileges().map_err(at(Step::NoNewPrivileges))?;
    files::restrict(&program.files).map_err(at(Step::Files))?;
    if let Descriptors::Only(kept) = &program.descriptors {
        process::inherit_only(kept).map_err(at(Step::Descriptors))?;
    }
    // From here on only calls that the filter lets through: the sentry does not serve yet.
    let listener = filter::install(plan.sockets).map_err(at(Step::Filter))?;
    Report::Listener(listener.as_raw_fd()).send(reports);
    program.filters.iter().try_for_each(CallFilter::install).map_err(at(Step::Profile))?;
    wait_for_byte(go)?;
    drop(listener);
    let error = if program.activated {
        // The number of a pidfd of netgraft's own process would tell a library that no socket is for this one.
        let exec = program.exec.without(c"LISTEN_PIDFDID");
        exec.with_number(c"LISTEN_PID", std::process::id()).run()
    } else {
        program.exec.run()
    };
    Report::ExecFailed(error.raw_os_error().unwrap_or(libc::EIO)).send(reports);
    Err(Failure::Alone)
}

/// Makes a pseudo-terminal in a devpts of the sandbox's own, and the caller the leader of a session at it. The operator's
/// terminals are out of sight then.
fn take_terminal(reports: &File) -> io::Result<()> {
    let devices = Path::new("/dev/pts");
    mount::mount_new(c"devpts", devices, Access::Devices, c"newinstance,ptmxmode=0666,mode=0620")?;
    let ptmx = devices.join("ptmx");
    // Where this is a link it leads to the new one by itself.
    if fs::symlink_metadata("/dev/ptmx").is_ok_and(|meta| !meta.is_symlink()) {
        mount::bind(&ptmx, Path::new("/dev/ptmx"))?;
    }
    let terminal::Pair { master, slave } = terminal::open_pair(&ptmx)?;
    Report::Terminal(master.as_raw_fd()).send(reports);
    process::new_session()?;
    terminal::make_controlling(slave.as_fd())?;
    process::replace_stdio(slave.as_fd())?;
    // The launcher takes its duplicate while this process waits; both end with execve(2).
    std::mem::forget((master, slave));
    Ok(())
}

/// Covers what /sys and /proc show of the host. The sandbox works without.
fn cover_kernel_files(plan: &Plan, reports: &File) {
    let skipped = |step, error: &io::Error| {
        Report::Skipped(step, error.raw_os_error().unwrap_or(libc::EIO)).send(reports);
    };
    // With host sockets the host's interfaces are the right ones.
    let mut has_sysfs_below = false;
    if plan.sockets != Sockets::Host {
        match cover_interfaces() {
            Ok(()) => has_sysfs_below = true,
            Err(error) => skipped(Step::Sys, &error),
        }
    }
    if let Err(error) = mount::mount_new(c"proc", Path::new("/proc"), Access::Data, c"") {
        skipped(Step::Proc, &error);
        if has_sysfs_below && let Err(error) = mount::detach(Path::new("/proc")) {
            skipped(Step::Sys, &error);
        }
    }
    if plan.sockets == Sockets::StreamSurrogates
        && let Err(error) = open_datagram_sockets()
    {
        skipped(Step::DatagramSockets, &error);
    }
    if let Err(error) = files::hide_fuse() {
        skipped(Step::Fuse, &error);
    }
    if let Err(error) = files::protect(plan.is_contained()) {
        skipped(Step::KernelFiles, &error);
    }
}

/// Lets every user of the sandbox do with the kernel's datagram sockets what the stack allows (ip(7), icmp(7)): bind to any
/// port, and send echo requests.
fn open_datagram_sockets() -> io::Result<()> {
    let folder = Path::new("/proc/sys/net/ipv4");
    fs::write(folder.join("ip_unprivileged_port_start"), "0")?;
    let (_, _, _, group) = process::ids();
    // From narrow to wide: one with a group that the sandbox does not have is refused, and leaves the one before.
    let ranges = [format!("{group} {group}"), "0 65535".to_owned(), "0 2147483647".to_owned()];
    let write = |range: &String| fs::write(folder.join("ping_group_range"), range);
    ranges.iter().map(write).reduce(|before, next| before.or(next)).unwrap_or(Ok(()))
}

/// A working directory in what was just covered would go on showing what is below: the host's processes, from its /proc.
fn leave_covered_directory() -> io::Result<()> {
    // One that has no path any more is in a file system of a disk.
    let Ok(here) = std::env::current_dir() else { return Ok(()) };
    if ["/proc", "/sys", "/dev"].iter().any(|covered| here.starts_with(covered)) {
        return std::env::set_current_dir(&here).or_else(|_| std::env::set_current_dir("/"));
    }
    Ok(())
}

/// Becomes a user of the sandbox, unless that is the caller: an ordinary user can be nobody else.
fn become_user(user: User) -> io::Result<()> {
    let (_, own, _, group) = process::ids();
    if (own, group) == (user.user, user.group) && own != 0 {
        return Ok(());
    }
    capability::become_user(user.user, user.group)
}

/// Shows the interfaces of the sandbox's network namespace in /sys, which is otherwise the host's. A sysfs shows those of
/// the namespace that it was mounted in, and all that the program's has are virtual. It stays at /proc, for the new /proc
/// to be mounted on it: taking it away again would cost a millisecond (the kernel waits for all readers of the mounts).
fn cover_interfaces() -> io::Result<()> {
    let place = Path::new("/proc");
    mount::mount_new(c"sysfs", place, Access::ReadOnly, c"")?;
    let cover = |folder: &str| mount::bind(&place.join(folder), &Path::new("/sys").join(folder));
    cover("devices/virtual/net").and_then(|()| cover("class/net")).or_else(|error| {
        mount::detach(place)?;
        Err(error)
    })
}

/// Mounts a file with this text over /etc/resolv.conf. It lies in a file system of its own, which nothing but
/// this mount leads to.
fn cover_resolv_conf(text: &str) -> io::Result<()> {
    let place = Path::new("/proc");
    mount::mount_new(c"tmpfs", place, Access::Data, c"size=64k,mode=755")?;
    let file = place.join("resolv.conf");
    let done = fs::write(&file, text).and_then(|()| mount::bind(&file, Path::new("/etc/resolv.conf")));
    mount::detach(place)?;
    done
}

//! The launcher's side of a running sandbox: what its processes report, signals, and the end.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netgraft_abi::Level;
use netgraft_core::policy::{Loopback, MOST_RULES, Policy, PolicySpec, Rule};
use netgraft_linux::epoll::Epoll;
use netgraft_linux::fdpass::{self, wait_readable};
use netgraft_linux::listener::Listener;
use netgraft_linux::nsfd::Namespace;
use netgraft_linux::process::{self, Change, Wait};
use netgraft_linux::signal::{self, Arrived, Signals};
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{InitStackArgs, LinkConfig, PluginStack, PreInitStack, PreInitStackArgs};

use super::crash::Cause;
use super::door::Door;
use super::groups::Groups;
use super::jobs::{AfterStop, Jobs};
use super::keeper;
use super::mirror::{self, Link, Making, Mirror};
use super::output::Shown;
use super::programs::{self, Further, Home, ProgramId};
use super::pty::Pty;
use super::report::{Report, Role, Step};
use super::said::{Ear, printable};
use super::scrape::MetricsServer;
use super::sentry::{self, Handover, NamespaceIds};
use super::survive::Spare;
use super::tree::{self, LauncherEnds, Plan};
use super::uplink::Uplink;
use super::veth::{self, Veth};
use super::watchdog::{Look, Watchdog};
use crate::clock;
use crate::control::{self, FromSentry, Network, Summary, ToSentry};
use crate::error::RunError;
use crate::vitals::UnderWay;

/// How long a sentry may take for its last words.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the sentry may take to hand over the rest of a capture, after its last words: more than it takes.
const LAST_FRAMES: Duration = Duration::from_secs(12);
/// How long a process may take to end by itself, and again when it was killed.
const REAP_TIME: Duration = Duration::from_secs(1);

/// So many messages of the sentry come before a signal that is there: its last words, but not all that it can say.
const IN_A_ROW: u32 = 256;

/// Something that came to the launcher.
pub(super) enum Incoming {
    /// A report and its sender's process id.
    Report(Report, i32),
    /// Every process that reports is gone or, as the program does, has called execve(2).
    ReportsClosed,
    Sentry(FromSentry),
    /// The sentry has ended, or is to end: why, if that is known already.
    SentryGone(Option<Cause>),
    Signal(Arrived),
    /// What was left running has ended.
    OrphanEnded,
    /// Something happens with containers.
    Guests,
}

/// What is known of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// It has not reported yet, and may not exist.
    Unknown,
    Alive(i32),
    Reaped,
}

/// A sandbox that is being made or runs. Dropping it ends every process of it.
pub(super) struct Launcher {
    pub(super) plan: Rc<Plan>,
    /// The stack's name, for messages.
    pub(super) stack_name: String,
    /// `None` once the sandbox is being ended: the first processes of both namespaces then end too.
    pub(super) ends: Option<LauncherEnds>,
    reports_open: bool,
    /// What was shown of what sentries write.
    shown: Shown,
    /// Warnings that wait until the program is started: if it is not, the error alone is printed.
    warnings: Vec<String>,
    pub(super) control_open: bool,
    /// What the sentry says is heard with this.
    pub(super) ear: Ear,
    /// How many messages of the sentry were taken while a signal waited.
    in_a_row: u32,
    signals: OwnedFd,
    /// The processes by [`Role`].
    pub(super) processes: [Process; Role::ALL.len()],
    jobs: Jobs,
    /// The program that signals go to.
    pub(super) foreground: ProgramId,
    /// How the first program ended.
    pub(super) end_of_first: Option<Change>,
    /// The programs that came later.
    pub(super) further: Vec<Further>,
    /// Where further programs are started, if there can be any.
    pub(super) home: Option<Home>,
    /// The launcher's duplicates, by their places: whoever takes the sentry's place gets them.
    pub(super) listeners: BTreeMap<u32, OwnedFd>,
    /// The numbers of the programs' namespaces.
    pub(super) namespaces: NamespaceIds,
    /// How often a sentry has taken over.
    pub(super) restarts: u32,
    /// Serves metrics.
    pub(super) metrics: Option<MetricsServer>,
    /// Rules that the operator is setting, as far as the sentry has said them.
    pub(super) rules: Vec<Rule>,
    /// The processes beside the sentry's successor that answer calls when there is no sentry any more.
    pub(super) stand_ins: Vec<i32>,
    /// The sentry's network namespace, if it has one of its own.
    pub(super) surrogates: Option<Namespace>,
    /// The process that holds the sentry's descriptors should it die.
    pub(super) keeper: Option<OwnedFd>,
    /// What a sentry that takes over needs, if one is to take over.
    pub(super) spare: Option<Spare>,
    /// Why the sentry ended, if it said so and that is not reported yet.
    pub(super) last_failure: Option<Cause>,
    pub(super) watchdog: Watchdog,
    /// The devices in the program's network namespace.
    mirror: Mirror,
    /// The link of a level 0 stack.
    veth: Option<Veth>,
    /// The terminal of the program's own.
    pty: Option<Pty>,
    /// What limits the programs; removed when they have ended.
    pub(super) groups: Option<Groups>,
    /// What is waited for after the program's end.
    pub(super) lingerer: Option<OwnedFd>,
    /// The passt that carries the stack's frames.
    pub(super) uplink: Option<Uplink>,
    /// Where the operator knocks.
    door: Option<Door>,
    /// What happens with containers.
    pub(super) guests: Option<Epoll>,
}

pub(super) fn step(step: Step) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::step(step, source)
}

impl Launcher {
    /// Takes over after the first fork; every signal is blocked.
    pub(super) fn new(
        plan: Rc<Plan>,
        stack_name: String,
        ends: LauncherEnds,
        helper: i32,
        jobs: Jobs,
    ) -> Result<Launcher, RunError> {
        let mut processes = [Process::Unknown; Role::ALL.len()];
        processes[Role::SentryHelper as usize] = Process::Alive(helper);
        // Without a descriptor for signals nothing works; the helper then ends by its closed pipes.
        let signals = Signals::all_but_faults().descriptor().map_err(step(Step::Supervise))?;
        Ok(Launcher {
            plan,
            stack_name,
            ends: Some(ends),
            reports_open: true,
            shown: Shown::new(),
            warnings: Vec::new(),
            control_open: true,
            ear: Ear::new(),
            in_a_row: 0,
            signals,
            processes,
            jobs,
            foreground: ProgramId::FIRST,
            end_of_first: None,
            further: Vec::new(),
            home: None,
            listeners: BTreeMap::new(),
            namespaces: NamespaceIds::default(),
            restarts: 0,
            metrics: None,
            rules: Vec::new(),
            stand_ins: Vec::new(),
            surrogates: None,
            keeper: None,
            spare: None,
            last_failure: None,
            watchdog: Watchdog::new(Instant::now()),
            mirror: Mirror::default(),
            veth: None,
            pty: None,
            groups: None,
            lingerer: None,
            uplink: None,
            door: None,
            guests: None,
        })
    }

    pub(super) fn pid(&self, role: Role) -> Option<i32> {
        match self.processes[role as usize] {
            Process::Alive(pid) => Some(pid),
            Process::Unknown | Process::Reaped => None,
        }
    }

    /// Reaps the helpers that have ended, so that none stays a zombie while the program runs.
    fn reap_helpers(&mut self) {
        for role in [Role::SentryHelper, Role::ProgramHelper] {
            if let Some(pid) = self.pid(role)
                && matches!(process::wait(pid, Wait::Look), Ok(Some(Change::Exited(_) | Change::Signaled(_))))
            {
                self.processes[role as usize] = Process::Reaped;
            }
        }
    }

    /// Puts a program's process, which has not been executed, under the limits.
    pub(super) fn limit(&mut self, pid: i32) -> Result<(), RunError> {
        if !self.plan.limits.is_any() {
            return Ok(());
        }
        self.groups.as_ref().map_or(Ok(()), |groups| groups.take(pid)).map_err(step(Step::Limits))
    }

    /// The first process of the programs' process-id namespace.
    pub(super) fn first_process(&self) -> Option<u32> {
        self.pid(Role::ProgramInit).map(i32::unsigned_abs)
    }

    pub(super) fn ends(&self) -> Result<&LauncherEnds, RunError> {
        self.ends.as_ref().ok_or_else(|| step(Step::Supervise)(io::ErrorKind::BrokenPipe.into()))
    }

    /// Waits for the next thing to come; `None` when the time is over.
    ///
    /// Reports come first, so that a process's last words are heard before its end, then the sentry's.
    pub(super) fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Incoming>, RunError> {
        let deadline = timeout.map(|t| Instant::now() + t);
        loop {
            let wake = [deadline, self.watchdog.due()].into_iter().flatten().min();
            let wait = wake.map(|at| at.saturating_duration_since(Instant::now()));
            let ends = self.ends()?;
            let written = self.plan.sentry.output.readers();
            let fds = [
                self.reports_open.then(|| ends.reports.as_fd()),
                self.control_open.then(|| ends.control.as_fd()),
                Some(self.signals.as_fd()),
                written[0],
                written[1],
                self.lingerer(),
                self.door.as_ref().map(Door::as_fd),
                self.metrics.as_ref().map(MetricsServer::fd),
                self.guests.as_ref().map(Epoll::as_fd),
            ];
            let [report, sentry, signal, logged, printed, orphan, knock, asks, guests] =
                wait_readable(fds, wait).map_err(step(Step::Supervise))?;
            if logged || printed {
                self.show_output();
            }
            if knock {
                self.let_in(self.door.as_ref().and_then(Door::admit));
            }
            if asks {
                self.let_in_metrics();
            }
            let ends = self.ends()?;
            if report {
                let received = Report::receive(ends.reports.as_fd()).map_err(step(Step::Supervise))?;
                self.reports_open = received.is_some();
                let incoming = received.map(|(report, sender)| Incoming::Report(report, sender));
                return Ok(Some(incoming.unwrap_or(Incoming::ReportsClosed)));
            }
            if let Some(under_way) = self.look_at_sentry() {
                return Ok(Some(Incoming::SentryGone(Some(Cause::Hung(under_way)))));
            }
            self.in_a_row = if signal { self.in_a_row + 1 } else { 0 };
            if sentry && self.in_a_row <= IN_A_ROW {
                if let Some(incoming) = self.hear_sentry()? {
                    return Ok(Some(incoming));
                }
                if deadline.is_some_and(|at| at <= Instant::now()) {
                    return Ok(None);
                }
                continue;
            }
            self.in_a_row = 0;
            if orphan {
                return Ok(Some(Incoming::OrphanEnded));
            }
            if guests {
                return Ok(Some(Incoming::Guests));
            }
            if signal {
                let arrived = signal::read(self.signals.as_fd()).map_err(step(Step::Supervise))?;
                return Ok(arrived.map(Incoming::Signal));
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return Ok(None);
            }
        }
    }

    /// Hands one who has knocked to the sentry. Whoever comes when it has no room, or is gone, is sent away: neither of the
    /// two can keep the launcher waiting.
    fn let_in(&self, client: Option<OwnedFd>) {
        let (Some(client), Some(ends)) = (client, &self.ends) else { return };
        let sent = control::send_with_fd_now(ends.control.as_fd(), &ToSentry::Operator, client.as_fd());
        if let Err(error) = sent {
            tracing::debug!(%error, "an operator was not let in");
        }
    }

    /// The same for the process that serves metrics. Once it is gone it is not listened to any more.
    fn let_in_metrics(&mut self) {
        match self.metrics.as_ref().map(MetricsServer::next) {
            Some(Some(client)) => self.let_in(Some(client)),
            _ => self.metrics = None,
        }
    }

    /// Lets the operator in from now on. A sandbox that cannot be asked runs all the same.
    fn open_door(&mut self) {
        match Door::open() {
            Ok(door) => self.door = Some(door),
            Err(error) => tracing::info!("the sandbox cannot be asked (netgraft list, ss): {error}"),
        }
    }

    /// Shows what the sentry has written.
    pub(super) fn show_output(&mut self) {
        self.plan.sentry.output.show(&mut self.shown);
    }

    /// Looks whether the sentry does not get on: with what.
    fn look_at_sentry(&mut self) -> Option<UnderWay> {
        let vitals = &self.plan.sentry.vitals;
        match self.watchdog.look(vitals.beat(), Instant::now()) {
            Look::Fine => {}
            Look::Sleepy => vitals.set_asleep(true),
            Look::Awake => vitals.set_asleep(false),
            Look::Hung(under_way) => return Some(under_way),
        }
        None
    }

    /// Takes a message of the sentry, and keeps to itself what is no news to anybody else.
    fn hear_sentry(&mut self) -> Result<Option<Incoming>, RunError> {
        let gone = |cause| Ok(Some(Incoming::SentryGone(cause)));
        let (message, mut fds) = match control::receive_with_fds(self.ends()?.control.as_fd()) {
            Ok(Some(received)) => received,
            Ok(None) => return gone(None),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return gone(None),
            Err(e) => {
                let what = printable(&e.to_string());
                return gone(Some(Cause::GaveUp(format!("it sent nonsense: {what}"))));
            }
        };
        let message = match self.ear.check(message) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(None),
            Err(what) => return gone(Some(Cause::GaveUp(format!("it sent nonsense: {what}")))),
        };
        // Those two come from the sentry before the stack's code runs, and once. One in the host's network has neither.
        if self.plan.host_network && matches!(message, FromSentry::NetworkNamespace | FromSentry::Keeper) {
            return gone(Some(Cause::GaveUp("it sent nonsense: it has no such descriptor".to_owned())));
        }
        match message {
            FromSentry::NetworkNamespace => {
                if let (Some(fd), None) = (fds.pop(), &self.surrogates) {
                    self.surrogates = Some(Namespace::from_fd(fd));
                }
            }
            FromSentry::Broke(why) => return gone(Some(Cause::Broke(why))),
            FromSentry::Keeper => {
                if let (Some(fd), None) = (fds.pop(), &self.keeper) {
                    self.keeper = Some(fd);
                }
            }
            FromSentry::Busy => self.watchdog.wake(Instant::now()),
            FromSentry::Keep(kept) => {
                if let Some(spare) = &mut self.spare {
                    spare.keep(kept);
                }
            }
            FromSentry::Forget(cookie) => {
                if let Some(spare) = &mut self.spare {
                    spare.forget(cookie);
                }
            }
            FromSentry::Policy { spec, more } => {
                if let Err(what) = self.note_policy(spec, more) {
                    return gone(Some(Cause::GaveUp(format!("it sent nonsense: {what}"))));
                }
            }
            FromSentry::Link(setting) => {
                if let Some(spare) = &mut self.spare {
                    spare.link = Some(setting);
                }
            }
            message => return Ok(Some(Incoming::Sentry(message))),
        }
        Ok(None)
    }

    /// Notes rules that the operator has set: a sentry that takes over keeps them.
    fn note_policy(&mut self, mut spec: PolicySpec, more: bool) -> Result<(), &'static str> {
        if self.rules.len() + spec.rules.len() > MOST_RULES {
            return Err("too many rules");
        }
        self.rules.append(&mut spec.rules);
        if more {
            return Ok(());
        }
        spec.rules = std::mem::take(&mut self.rules);
        if self.plan.sentry.of_host {
            spec.loopback = Loopback::OfHost;
        }
        tracing::info!("the operator has set other rules: {}", spec.rules.len());
        *self.plan.sentry.policy.borrow_mut() = Some(Arc::new(Policy::new(spec)));
        Ok(())
    }

    /// Says something when the program is started.
    pub(super) fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }

    /// Brings the sandbox up to the point where the program is executed.
    pub(super) fn start(&mut self, stack: &mut dyn PluginStack) -> Result<(), RunError> {
        let mut handed_over: Option<PreInitStack> = None;
        let mut devices: Option<Making> = None;
        loop {
            match self.next(None)? {
                Some(Incoming::Report(Report::NeedsIdMaps, helper)) => {
                    self.plan.maps.write(helper).map_err(step(Step::IdMaps))?;
                    (&self.ends()?.mapped).write_all(&tree::MAPPED).map_err(step(Step::Start))?;
                }
                Some(Incoming::Report(Report::Made(Role::Program), pid)) => {
                    self.report(Report::Made(Role::Program), pid)?;
                    self.limit(pid)?;
                    // Its namespaces exist from here on.
                    if self.plan.program.is_none() {
                        self.home = Some(Home::of(pid.unsigned_abs()).map_err(step(Step::Supervise))?);
                    }
                    if self.plan.sentry.journal {
                        self.spare = Some(Spare::new(pid.unsigned_abs()).map_err(step(Step::Supervise))?);
                    }
                    let mut prepared = self.prepare_stack(stack, pid.unsigned_abs())?;
                    if self.plan.sentry.of_host {
                        // What the sentry will say of it, some milliseconds of the kernel's work earlier.
                        devices = network_of_host(stack, &prepared)
                            .map(|network| mirror::begin(&network, pid, false));
                    }
                    if let Some(uplink) = &self.uplink {
                        prepared.fds.insert(0, uplink.socket().map_err(step(Step::Handover))?);
                    }
                    if let Some(capture) = &self.plan.capture {
                        prepared.fds.push(capture.try_clone().map_err(step(Step::Handover))?);
                    }
                    handed_over = Some(prepared);
                }
                Some(Incoming::Report(Report::Listener(number), program)) => {
                    let listener =
                        programs::take_descriptor(program, number).map_err(step(Step::Listener))?;
                    self.hand_over(Some(listener), handed_over.take().unwrap_or_default())?;
                }
                Some(Incoming::Report(Report::Terminal(number), program)) => {
                    let master = programs::take_descriptor(program, number).map_err(step(Step::Terminal))?;
                    self.pty = Some(Pty::new(master).map_err(step(Step::Terminal))?);
                }
                Some(Incoming::Report(Report::NoProgram, _)) => {
                    if self.plan.sentry.containers.is_some() {
                        handed_over = Some(self.prepare_stack(stack, std::process::id())?);
                    }
                    self.hand_over(None, handed_over.take().unwrap_or_default())?;
                }
                Some(Incoming::Report(report, sender)) => self.report(report, sender)?,
                Some(Incoming::Sentry(FromSentry::Ready(network))) => {
                    let program = self.pid(Role::Program).unwrap_or(0);
                    self.warnings.drain(..).for_each(|text| tracing::warn!("{text}"));
                    let link = &self.plan.sentry.config.link;
                    if *link != LinkConfig::None
                        && let Some(interface) = network.interfaces.first()
                    {
                        tracing::info!("inside, the link {link} is {}", printable(&interface.name));
                    }
                    if self.plan.sentry.containers.is_some() {
                        // The devices and the processes are the runtime's.
                        self.reap_helpers();
                        self.open_door();
                        return Ok(());
                    }
                    let is_private = self.plan.sentry.is_private;
                    self.mirror = devices
                        .take()
                        .unwrap_or_else(|| mirror::begin(&network, program, is_private))
                        .finish()?;
                    self.hand_over_links().map_err(step(Step::Handover))?;
                    self.jobs.place(program).map_err(step(Step::Supervise))?;
                    self.reap_helpers();
                    let gone = go(&self.ends()?.go);
                    if let Some(pty) = &mut self.pty {
                        pty.begin_typing().map_err(step(Step::Terminal))?;
                    }
                    self.mirror.reap_maker();
                    if self.plan.program.is_none() && reap(program).is_some() {
                        self.processes[Role::Program as usize] = Process::Reaped;
                    }
                    self.open_door();
                    return gone;
                }
                Some(Incoming::Sentry(FromSentry::Warning(text))) => self.warnings.push(text),
                Some(Incoming::Sentry(message)) => said(message)?,
                Some(Incoming::Signal(arrived)) => match arrived.signal {
                    libc::SIGCHLD if self.sentry_has_ended() => {
                        return Err(RunError::SentryDied(self.autopsy(None)));
                    }
                    // Whoever else ended also closed its pipe or reported.
                    signal if is_no_end(signal) => {}
                    signal => return Err(RunError::Interrupted(signal)),
                },
                Some(Incoming::SentryGone(cause)) => {
                    return Err(RunError::SentryDied(self.autopsy(cause)));
                }
                // The sentry says itself what becomes of it.
                Some(Incoming::ReportsClosed) if self.plan.sentry.containers.is_some() => {}
                Some(Incoming::ReportsClosed) => {
                    let source = io::Error::other("its process ended without a word");
                    return Err(RunError::step(Step::Start, source));
                }
                Some(Incoming::OrphanEnded | Incoming::Guests) | None => {}
            }
        }
    }

    /// Calls `pre_init`, with the program's process, or where the stack has a link of its own, with that one's.
    fn prepare_stack(&mut self, stack: &mut dyn PluginStack, program: u32) -> Result<PreInitStack, RunError> {
        let Some(plan) = &self.plan.veth else {
            if self.plan.sentry.object.as_ref().is_some_and(|object| object.level() == Level::Zero) {
                tracing::warn!(
                    "the level 0 stack {} is run without a link: the network namespace that its pre-init looks \
                     into is empty (give it --link veth:NAME --address CIDR --gateway ADDR)",
                    self.stack_name
                );
            }
            let prepared = stack.pre_init(PreInitStackArgs { pid: program });
            return prepared.map_err(|error| self.interruption(error));
        };
        let (pair, holder) = veth::make(plan)?;
        let prepared = stack.pre_init(PreInitStackArgs { pid: holder.pid() });
        let handed_over = prepared.map_err(|error| self.interruption(error))?;
        holder.settle()?;
        self.veth = Some(pair);
        Ok(handed_over)
    }

    /// A stack's `pre_init` fails, too, when a signal has come: then that is why.
    fn interruption(&self, error: SetupError) -> RunError {
        while let Ok(Some(arrived)) = signal::read(self.signals.as_fd()) {
            if !is_no_end(arrived.signal) {
                return RunError::Interrupted(arrived.signal);
            }
        }
        error.into()
    }

    /// Gives the sentry the listener of the first program, and what the stack's `pre_init` returned.
    fn hand_over(&mut self, listener: Option<OwnedFd>, stack: PreInitStack) -> Result<(), RunError> {
        if let Some(listener) = listener {
            let listener = Listener::new(listener);
            if let Some(missing) = listener.missing_request() {
                return Err(RunError::Kernel(missing));
            }
            self.listeners.insert(0, listener.into_fd());
        }
        let places = self.listeners.keys().copied().collect();
        let home = self.namespaces;
        let (init_str, kept) = (stack.init_str.clone(), Vec::new());
        let message = sentry::handover(Handover {
            init_str,
            listeners: places,
            kept,
            link: None,
            home,
            is_successor: false,
        })
        .ok()
        .filter(|_| stack.fds.len() < fdpass::MAX_FDS)
        .ok_or_else(|| RunError::Sentry("the stack hands over more than one message can carry".to_owned()))?;
        let fds: Vec<_> = self.listeners.values().chain(&stack.fds).map(AsFd::as_fd).collect();
        fdpass::send(self.ends()?.control.as_fd(), &message, &fds).map_err(step(Step::Handover))?;
        if let Some(spare) = &mut self.spare {
            (spare.init_str, spare.fds) = (stack.init_str, stack.fds);
        }
        Ok(())
    }

    /// Gives the sentry the private links.
    pub(super) fn hand_over_links(&self) -> io::Result<()> {
        let Some(ends) = &self.ends else { return Ok(()) };
        let control = ends.control.as_fd();
        for Link { link, socket } in &self.mirror.links {
            control::send_with_fd(control, &ToSentry::PrivateLink(*link), socket.as_fd())?;
        }
        if let Some(observer) = &self.mirror.observer {
            control::send_with_fd(control, &ToSentry::Observer, observer.as_fd())?;
        }
        Ok(())
    }

    pub(super) fn report(&mut self, report: Report, sender: i32) -> Result<(), RunError> {
        match report {
            Report::Failed(step, errno) => Err(RunError::step(step, io::Error::from_raw_os_error(errno))),
            Report::Skipped(step, errno) => {
                let error = io::Error::from_raw_os_error(errno);
                let text = format!("cannot {}: {error}", step.text());
                // Usual in a container, and hardly a program looks there: docs/limits.md has it.
                if step == Step::Sys {
                    tracing::info!("{text}");
                } else {
                    self.warnings.push(text);
                }
                Ok(())
            }
            Report::ExecFailed(errno) => {
                let name = self.plan.program.as_ref().map(|program| program.name.clone()).unwrap_or_default();
                Err(RunError::exec(name, errno))
            }
            Report::Made(role) => {
                self.processes[role as usize] = Process::Alive(sender);
                Ok(())
            }
            Report::UserNamespace(number) => {
                self.namespaces.user = number.into();
                Ok(())
            }
            Report::NetworkNamespace(number) => {
                self.namespaces.network = number.into();
                Ok(())
            }
            Report::Listener(_) | Report::Terminal(_) | Report::NoProgram | Report::NeedsIdMaps => Ok(()),
        }
    }

    /// Watches over the sandbox until this program ends.
    pub(super) fn supervise(&mut self, program: ProgramId) -> Result<Change, RunError> {
        self.foreground = program;
        // A program may have ended before its signal could be distinguished from others.
        self.look()?;
        loop {
            if let Some(end) = self.end_of(program) {
                return Ok(end);
            }
            if self.process_of(program).is_none() {
                return Err(step(Step::Supervise)(io::Error::from_raw_os_error(libc::ESRCH)));
            }
            if let Some(incoming) = self.next(None)? {
                self.take(incoming)?;
            }
        }
    }

    /// Does what is to be done about something that came.
    pub(super) fn take(&mut self, incoming: Incoming) -> Result<(), RunError> {
        match incoming {
            Incoming::Report(report, sender) => self.report(report, sender),
            Incoming::Sentry(FromSentry::Failed(text)) => {
                self.last_failure = Some(Cause::GaveUp(text));
                Ok(())
            }
            Incoming::Sentry(message) => said(message),
            Incoming::SentryGone(cause) => {
                self.look()?;
                // Both may have been killed with their namespaces: then the program's end counts.
                if self.is_needed() {
                    self.survive(cause);
                } else if cause.is_some() {
                    // For the one line that says how the sentry ended.
                    self.last_failure = cause;
                }
                Ok(())
            }
            Incoming::Signal(arrived) => self.signal(arrived),
            Incoming::ReportsClosed | Incoming::OrphanEnded | Incoming::Guests => Ok(()),
        }
    }

    /// Whether the network has somebody to serve: the foreground program, or what it left running and is waited for.
    fn is_needed(&self) -> bool {
        self.end_of(self.foreground).is_none() || self.lingerer.is_some()
    }

    /// The sentry has ended: takes what it said before, and then decides what becomes of the program. The signal of its end
    /// may arrive before its last words are read.
    fn hear_last_words(&mut self) -> Result<(), RunError> {
        for _ in 0..IN_A_ROW {
            let control = [Some(self.ends()?.control.as_fd())];
            if wait_readable(control, Some(Duration::ZERO)).map_err(step(Step::Supervise))? != [true] {
                break;
            }
            match self.hear_sentry()? {
                Some(gone @ Incoming::SentryGone(_)) => return self.take(gone),
                Some(incoming) => self.take(incoming)?,
                None => {}
            }
        }
        self.survive(None);
        Ok(())
    }

    fn signal(&mut self, arrived: Arrived) -> Result<(), RunError> {
        if arrived.signal == libc::SIGCHLD {
            self.look()?;
            if self.is_needed() {
                if self.sentry_has_ended() {
                    return self.hear_last_words();
                }
                self.look_at_uplink();
            }
            return Ok(());
        }
        let Some(program) = self.process_of(self.foreground) else { return Ok(()) };
        match (arrived.signal, &mut self.pty) {
            (libc::SIGWINCH, Some(pty)) => {
                pty.resize();
                return Ok(());
            }
            (libc::SIGCONT, Some(pty)) => pty.enter(),
            (libc::SIGTTIN, Some(_)) if arrived.from_kernel => {
                return Jobs::stop_reading().map_err(step(Step::Supervise));
            }
            _ => {}
        }
        match arrived.signal {
            libc::SIGCONT => self.jobs.resume(program).map_err(step(Step::Supervise)),
            _ if arrived.from_kernel && self.jobs.terminal_reaches_program() => Ok(()),
            signal => match process::kill(program, signal) {
                // SIGCHLD reports a program that has just ended.
                Err(e) if e.raw_os_error() != Some(libc::ESRCH) => Err(step(Step::Supervise)(e)),
                _ => Ok(()),
            },
        }
    }

    /// If passt has ended, another one is started with another sentry, as the operator chose: its connections are lost in
    /// any case.
    fn look_at_uplink(&mut self) {
        let Some(text) = self.uplink.as_mut().and_then(Uplink::end) else { return };
        if self.spare.is_some() {
            self.survive(Some(Cause::Uplink(text)));
        } else {
            tracing::warn!("{text}; the sandbox has no uplink from here on");
        }
    }

    /// Looks how the programs have changed: their ends, or a stop of the first, which the launcher follows.
    fn look(&mut self) -> Result<(), RunError> {
        self.reap_helpers();
        self.look_at_further();
        let Some(program) = self.pid(Role::Program) else { return Ok(()) };
        match process::wait(program, Wait::Look).map_err(step(Step::Supervise))? {
            None => Ok(()),
            Some(Change::Stopped(_)) => {
                if self.jobs.stop().map_err(step(Step::Supervise))? == AfterStop::Continue {
                    self.jobs.resume(program).map_err(step(Step::Supervise))?;
                }
                Ok(())
            }
            Some(end) => {
                self.processes[Role::Program as usize] = Process::Reaped;
                self.end_of_first = Some(end);
                self.hear_last_reports()
            }
        }
    }

    /// Reads what the program's process reported before it ended: that it could not call execve(2).
    fn hear_last_reports(&mut self) -> Result<(), RunError> {
        while self.reports_open {
            let reports = self.ends()?.reports.as_fd();
            let [more] =
                wait_readable([Some(reports)], Some(Duration::ZERO)).map_err(step(Step::Supervise))?;
            if !more {
                break;
            }
            match Report::receive(reports).map_err(step(Step::Supervise))? {
                Some((report, sender)) => self.report(report, sender)?,
                None => self.reports_open = false,
            }
        }
        Ok(())
    }

    /// Asks the sentry what happened, now that the program has ended.
    pub(super) fn last_words(&mut self) -> Option<Summary> {
        let ends = self.ends.as_ref().filter(|_| self.control_open)?;
        // What the program left running ends with it, and the kernel ends the namespaces while the sentry is asked.
        if let Some(first) = self.pid(Role::ProgramInit) {
            let _ = process::kill(first, libc::SIGKILL);
        }
        // No connection of the program is left that could be cut short. What the sentry has open is closed as it ends.
        if let Some(keeper) = self.keeper.take() {
            keeper::dismiss(&keeper);
        }
        // One that takes no messages has no last words.
        control::send_at_once(ends.control.as_fd(), &ToSentry::Stop).ok()?;
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            match self.next(Some(left)).ok()?? {
                Incoming::Sentry(FromSentry::Summary(summary)) => {
                    self.await_last_frames();
                    return Some(summary);
                }
                Incoming::Sentry(message) => said(message).err().map_or(Some(()), |_| None)?,
                Incoming::SentryGone(cause) => {
                    tracing::error!("{}, when the program had ended", self.autopsy(cause));
                    return None;
                }
                Incoming::Report(report, sender) => self.report(report, sender).ok()?,
                Incoming::ReportsClosed | Incoming::Signal(_) | Incoming::OrphanEnded | Incoming::Guests => {}
            }
        }
    }

    /// Lets the sentry hand over the rest of a capture and the last flows, after which it ends. What is missing then is the writer's to say.
    fn await_last_frames(&mut self) {
        if self.plan.capture.is_none() && self.plan.sentry.flows.is_none() {
            return;
        }
        let deadline = Instant::now() + LAST_FRAMES;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.next(Some(left)) {
                Ok(Some(Incoming::SentryGone(_)) | None) | Err(_) => return,
                Ok(Some(_)) => {}
            }
        }
    }

    /// Ends and reaps every process. The order matters: see [`Role::ALL`].
    fn end(&mut self) {
        self.door = None;
        self.metrics = None;
        self.show_output();
        self.jobs.take_back();
        self.mirror.reap_maker();
        let Some(ends) = self.ends.take() else { return };
        let LauncherEnds { lifetime, reports, mapped, go, control } = ends;
        drop((mapped, go));
        // A process that was made and has not said so cannot be reaped: so the helpers end by themselves, and
        // what they say they made is waited for.
        for (helper, children) in [
            (Role::SentryHelper, [Role::SentryInit, Role::ProgramHelper, Role::Sentry].as_slice()),
            (Role::ProgramHelper, &[Role::ProgramInit, Role::Program]),
        ] {
            match self.pid(helper).map(reap) {
                // It failed before it made all of them, or was killed.
                Some(end) if end != Some(Change::Exited(0)) => {}
                _ => self.collect_made(reports.as_fd(), children),
            }
            self.processes[helper as usize] = Process::Reaped;
        }
        drop(lifetime);
        let mut others = std::mem::take(&mut self.stand_ins);
        others.extend(self.further.drain(..).filter_map(|program| match program {
            Further::Runs(pid) => Some(pid),
            Further::Ended(_) => None,
        }));
        for pid in Role::ALL.into_iter().filter_map(|role| self.pid(role)).chain(others.iter().copied()) {
            let _ = process::kill(pid, libc::SIGKILL);
        }
        for pid in others {
            reap(pid);
        }
        for role in Role::ALL {
            if let Some(pid) = self.pid(role) {
                reap(pid);
                self.processes[role as usize] = Process::Reaped;
            }
        }
        drop(control);
        self.plan.sentry.output.show_rest(&mut self.shown);
        // With the last process of the sandbox the other side is closed: what it wrote is shown before that is seen.
        if let Some(pty) = self.pty.take() {
            pty.end();
        }
    }

    /// Reads reports until all of `roles` are known, for a bounded time.
    fn collect_made(&mut self, reports: BorrowedFd<'_>, roles: &[Role]) {
        while roles.iter().any(|role| self.processes[*role as usize] == Process::Unknown)
            && matches!(wait_readable([Some(reports)], Some(REAP_TIME)), Ok([true]))
        {
            match Report::receive(reports) {
                Ok(Some((Report::Made(role), pid))) => self.processes[role as usize] = Process::Alive(pid),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}

/// Waits for the end of a process, and kills it if that takes too long; `None` if even that does not end it
/// in time (it waits for a device, or for a process that is not known): whoever reaps after the launcher
/// takes it over.
pub(super) fn reap(pid: i32) -> Option<Change> {
    for _ in 0..2 {
        let ended = process::pidfd(pid).and_then(|fd| wait_readable([Some(fd.as_fd())], Some(REAP_TIME)));
        if matches!(ended, Ok([true])) {
            return process::wait(pid, Wait::Block).ok().flatten();
        }
        tracing::info!("process {pid} did not end within {REAP_TIME:?}: it is killed");
        let _ = process::kill(pid, libc::SIGKILL);
    }
    None
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.end();
    }
}

/// The host's network, as a stack in the launcher's own namespace sees it; `None` if it cannot say.
fn network_of_host(stack: &mut dyn PluginStack, prepared: &PreInitStack) -> Option<Network> {
    let fds = prepared.fds.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>().ok()?;
    stack.init(InitStackArgs { init_str: prepared.init_str.clone(), fds, now: clock::now() }).ok()?;
    Some(Network::of_host(stack))
}

/// Whether a signal asks for no end of a sandbox that is being made.
fn is_no_end(signal: i32) -> bool {
    matches!(signal, libc::SIGCHLD | libc::SIGCONT | libc::SIGWINCH | libc::SIGURG)
}

/// Lets a process that waits for a byte go on.
fn go(mut pipe: impl Write) -> Result<(), RunError> {
    pipe.write_all(&[1]).map_err(step(Step::Start))
}

fn said(message: FromSentry) -> Result<(), RunError> {
    match message {
        FromSentry::Failed(text) => Err(RunError::Sentry(text)),
        FromSentry::Warning(text) => {
            tracing::warn!("{text}");
            Ok(())
        }
        FromSentry::Ready(_)
        | FromSentry::Summary(_)
        | FromSentry::NetworkNamespace
        | FromSentry::Broke(_)
        | FromSentry::Keeper
        | FromSentry::Busy
        | FromSentry::Keep(_)
        | FromSentry::Link(_)
        | FromSentry::Attached(_)
        | FromSentry::NotAttached(..)
        | FromSentry::Policy { .. }
        | FromSentry::Forget(_) => Ok(()),
    }
}

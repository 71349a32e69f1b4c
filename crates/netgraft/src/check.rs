//! The conformance suite on any stack: `netgraft check`.
//!
//! The stack runs in a child process, which says line by line how it goes on: a stack that crashes or hangs fails
//! its case, and the next child goes on behind it. A stack in a shared object has a child for each case, which after
//! `pre_init` has nothing of the host's any more ([`netgraft_linux::jail`]) and the allow-list that `run` gives the sentry.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netgraft_abi::Loaded;
use netgraft_launch::vitals::Vitals;
use netgraft_launch::{RunError, Step, call_text, change_text, confine_for, printable, stacks};
use netgraft_linux::cage::{Cage, Ids, Rest};
use netgraft_linux::fdpass::wait_readable;
use netgraft_linux::jail;
use netgraft_linux::process::{self, Change};
use netgraft_linux::signal::{self, Signals};
use netgraft_plugin::registry::Factory;
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{InitStackArgs, PluginStack, PreInitStackArgs, StackConfig, get_plugin_stack};
use netgraft_smoltcp::SmoltcpStack;
use netgraft_testkit::conformance::{self, Outcome, Progress, Report, Row, Skips, Subject, Time};
use serde::{Deserialize, Serialize};

/// How long a case may take: one that waits in vain gives up after a few seconds by itself.
const CASE_LIMIT: Duration = Duration::from_secs(60);
/// How long an object's function may take, which must not block: as long as `run` gives `init`.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How often the object's calls are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// After so many hangs in a row the others are not waited for.
const HANGS: usize = 3;
/// The most rows that a report has: many times what the suite has cases.
const ROWS: usize = 20_000;
/// The most bytes of a line of the child.
const LINE_LIMIT: usize = 1 << 20;

/// A line of the child.
#[derive(Serialize, Deserialize)]
enum Line {
    Begins(String),
    Ended(Row),
}

/// What a check found.
pub struct Checked {
    /// Every case.
    pub report: Report,
    /// The failures and refusals that are known of a stack of this tree: how many.
    pub known: usize,
    /// Whether something failed that is not known.
    pub failed: bool,
    /// Why the cases behind the last one did not run, if they did not.
    pub stopped: Option<String>,
}

/// Runs the conformance suite on the stack that `plugin` names, or whose file it is; only the cases whose name
/// contains `filter`. Call it from a process with one thread: it forks without exec.
///
/// # Errors
/// If there is no such stack, no process can be made, or a signal came; nothing is left behind then.
pub fn check(
    plugin: &str,
    argument: Option<String>,
    trust_pre_init: bool,
    filter: &str,
) -> Result<Checked, RunError> {
    let examined = Examined::find(plugin, argument, trust_pre_init)?;
    let interrupts = Interrupts::take().map_err(failed)?;
    let mut report = Report { stack: examined.name.clone(), rows: Vec::new() };
    let (mut hangs, mut stopped) = (0, None);
    loop {
        let done = report.rows.len();
        let mut run = Run::begin(&examined, filter, done, &interrupts).map_err(failed)?;
        let end = run.hear(&mut report)?;
        let open = run.open.take();
        // Ended before its calls are looked at, and before the next one begins.
        drop(run);
        match end {
            End::Ended(Some(Change::Exited(0))) if open.is_none() => {
                hangs = 0;
                if report.rows.len() == done {
                    break;
                }
            }
            end => {
                let id = open.as_deref().unwrap_or("process/start []");
                let call = examined.call().unwrap_or("(any)");
                hangs = if matches!(end, End::Hung(_)) { hangs + 1 } else { 0 };
                report.rows.push(Row::lost(id, call, &examined.end_text(end)));
                if open.is_none() {
                    break;
                }
                if hangs == HANGS {
                    let text =
                        format!("{HANGS} cases in a row hung, the last one in {call}: the rest did not run");
                    stopped = Some(text);
                    break;
                }
            }
        }
    }
    let skips = Skips::parse(conformance::DEVIATIONS).unwrap_or_default();
    let unexplained = skips.unlisted(&report).len();
    let (_, fails, unsupported) = report.counts();
    let unknown = report.failures().any(|row| skips.unexplained(&report).iter().any(|u| u.id() == row.id()));
    let known = (fails + unsupported).saturating_sub(unexplained);
    Ok(Checked { known, failed: unknown || stopped.is_some(), report, stopped })
}

fn failed(source: io::Error) -> RunError {
    RunError::step(Step::Start, source)
}

/// The stack that is examined.
struct Examined {
    name: String,
    factory: Arc<Factory>,
    config: StackConfig,
    object: Option<Arc<Loaded>>,
    vitals: Vitals,
}

impl Examined {
    fn find(plugin: &str, argument: Option<String>, trust_pre_init: bool) -> Result<Examined, RunError> {
        let config = StackConfig { argument, ..StackConfig::default() };
        let vitals = Vitals::new().map_err(failed)?;
        if stacks::is_path(plugin) {
            let object = Arc::new(stacks::load(Path::new(plugin), trust_pre_init)?);
            let (name, factory) = (object.info().name.clone(), object.factory());
            return Ok(Examined { name, factory, config, object: Some(object), vitals });
        }
        let factory = get_plugin_stack(plugin)?;
        Ok(Examined { name: plugin.to_owned(), factory, config, object: None, vitals })
    }

    /// The function of the object that is being called, or was when its process ended.
    fn call(&self) -> Option<&'static str> {
        self.object.as_ref().and_then(|object| object.current_call().0)
    }

    fn end_text(&self, end: End) -> String {
        match (end, self.vitals.refused()) {
            (End::Ended(Some(Change::Signaled(libc::SIGSYS))), Some(number)) => format!(
                "the process was killed by signal 31 (SIGSYS) for the {}, which the stack's allow-list does not \
                 have",
                call_text(number)
            ),
            (End::Ended(Some(change)), _) => format!("the process {}", change_text(change)),
            (End::Ended(None), _) => "the process ended".to_owned(),
            (End::Hung(limit), _) => format!("none within {} s", limit.as_secs()),
            (End::Nonsense, _) => "nonsense where the suite reports".to_owned(),
        }
    }

    fn subject(&self) -> Subject {
        let (name, factory, config) = (self.name.as_str(), Arc::clone(&self.factory), self.config.clone());
        if self.object.is_some() {
            let vitals = self.vitals.clone();
            let single = move |now| {
                let pre = factory(&config)?.pre_init(PreInitStackArgs { pid: own_pid() })?;
                let mut stack = factory(&config)?;
                jail::enter().map_err(|e| SetupError::host("the stack's process cannot be confined", e))?;
                confine_for(stack.as_mut(), true, &vitals).map_err(SetupError::new)?;
                stack.init(InitStackArgs { init_str: pre.init_str, fds: pre.fds, now })?;
                Ok(stack)
            };
            return Subject {
                name: name.to_owned(),
                time: Time::Real,
                single: Box::new(single),
                linked: None,
            };
        }
        if name != stacks::SMOLTCP {
            return Subject::from_factory(name, factory, config, Time::Real);
        }
        // The built-in stack knows only the time that it is told, and takes links.
        Subject {
            linked: Some(Box::new(|config, link, now| {
                let mut stack = Box::new(SmoltcpStack::with_link(config.clone(), link)?);
                stack.init(InitStackArgs { now, ..InitStackArgs::default() })?;
                Ok(stack as Box<dyn PluginStack>)
            })),
            ..Subject::from_factory(name, factory, config, Time::Simulated)
        }
    }
}

/// The caller's number in /proc, which may be that of a process-id namespace above its own.
fn own_pid() -> u32 {
    let link = std::fs::read_link("/proc/self").ok();
    link.and_then(|link| link.to_str()?.parse().ok()).unwrap_or_else(std::process::id)
}

/// The child: runs the cases and says how it goes on. What the stack prints goes to standard error.
fn tell_cases(examined: &Examined, filter: &str, done: usize, end: &File) -> i32 {
    let mut kept = vec![0, 1, end.as_raw_fd()];
    kept.extend(examined.object.iter().flat_map(|object| object.descriptors()));
    let ready = process::replace_stdin_and_stdout(io::stderr().as_fd())
        .and_then(|()| process::close_all_but(&kept))
        .and_then(|()| Signals::none().block_exactly());
    if ready.is_err() {
        return 1;
    }
    let mut end = end;
    let mut whole = true;
    conformance::run_rest(&examined.subject(), filter, done, &mut |progress| {
        let line = match progress {
            Progress::Begins(id) => Line::Begins(id.to_owned()),
            Progress::Ended(row) => Line::Ended(row.clone()),
        };
        let written =
            serde_json::to_string(&line).map_err(io::Error::from).and_then(|text| writeln!(end, "{text}"));
        whole &= written.is_ok();
        // A process that is confined cannot prepare another stack.
        if matches!(progress, Progress::Ended(_)) && examined.object.is_some() {
            process::exit_now(i32::from(!whole));
        }
    });
    i32::from(!whole)
}

/// A row as the child gave it, which may run hostile code: no text of it is more than a part of a line.
fn clean(row: Row) -> Row {
    let outcome = match row.outcome {
        Outcome::Fail { call, expected, actual } => Outcome::Fail {
            call: printable(&call),
            expected: printable(&expected),
            actual: printable(&actual),
        },
        Outcome::Unsupported { says } => Outcome::Unsupported { says: printable(&says) },
        other => other,
    };
    Row {
        group: printable(&row.group),
        name: printable(&row.name),
        setting: printable(&row.setting),
        outcome,
    }
}

/// How a child came to its end.
enum End {
    /// By itself; nothing is known if somebody killed what waits for it.
    Ended(Option<Change>),
    /// Something took longer than this.
    Hung(Duration),
    /// What it said is no report.
    Nonsense,
}

/// A child that runs cases. Dropping it ends it.
struct Run<'a> {
    examined: &'a Examined,
    interrupts: &'a Interrupts,
    cage: Cage,
    /// `None` when the child has closed its end.
    lines: Option<File>,
    heard: Vec<u8>,
    /// The case that has begun.
    open: Option<String>,
    /// When that was, and when the object's last call was.
    since: Instant,
    last_call: (Instant, u64),
}

impl<'a> Run<'a> {
    fn begin(
        examined: &'a Examined,
        filter: &str,
        done: usize,
        interrupts: &'a Interrupts,
    ) -> io::Result<Run<'a>> {
        examined.vitals.renew();
        if let Some(object) = &examined.object {
            object.forget_calls();
        }
        let (lines, end) = io::pipe()?;
        let end = File::from(OwnedFd::from(end));
        let cage = Cage::new(Ids::Own, Rest::Ended, || tell_cases(examined, filter, done, &end))?;
        let now = Instant::now();
        Ok(Run {
            examined,
            interrupts,
            cage,
            lines: Some(OwnedFd::from(lines).into()),
            heard: Vec::new(),
            open: None,
            since: now,
            last_call: (now, 0),
        })
    }

    /// Collects what the child says until it ends or must be ended.
    fn hear(&mut self, report: &mut Report) -> Result<End, RunError> {
        loop {
            let lines = self.lines.as_ref().map(AsFd::as_fd);
            let fds = [lines, Some(self.cage.ended()), Some(self.interrupts.descriptor.as_fd())];
            let [line, ended, interrupted] = wait_readable(fds, Some(LOOK)).map_err(failed)?;
            if interrupted
                && let Some(arrived) = signal::read(self.interrupts.descriptor.as_fd()).map_err(failed)?
            {
                return Err(RunError::Interrupted(arrived.signal));
            }
            if line {
                // What it said before its end is heard first.
                if self.read(report).is_none() {
                    return Ok(End::Nonsense);
                }
            } else if ended {
                return Ok(End::Ended(self.cage.change()));
            }
            if let Some(limit) = self.hang() {
                return Ok(End::Hung(limit));
            }
        }
    }

    /// Reads what is there; `None` if it is nonsense.
    fn read(&mut self, report: &mut Report) -> Option<()> {
        let mut bytes = [0; 4096];
        match self.lines.as_mut()?.read(&mut bytes) {
            Ok(count @ 1..) => self.heard.extend(&bytes[..count]),
            _ => self.lines = None,
        }
        while let Some(length) = self.heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.heard.drain(..=length).collect();
            match serde_json::from_slice(&line).ok()? {
                Line::Begins(id) => (self.open, self.since) = (Some(printable(&id)), Instant::now()),
                Line::Ended(row) => {
                    self.open = None;
                    if report.rows.len() == ROWS {
                        return None;
                    }
                    report.rows.push(clean(row));
                }
            }
        }
        (self.heard.len() <= LINE_LIMIT).then_some(())
    }

    /// Whether something takes too long: the limit.
    fn hang(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if let Some(object) = &self.examined.object {
            let (call, count) = object.current_call();
            if call.is_none() || count != self.last_call.1 {
                self.last_call = (now, count);
            }
            if now - self.last_call.0 >= CALL_LIMIT {
                return Some(CALL_LIMIT);
            }
        }
        (now - self.since >= CASE_LIMIT).then_some(CASE_LIMIT)
    }
}

/// The signals that end a check. The caller gets its mask back at the end.
struct Interrupts {
    descriptor: OwnedFd,
    mask: Signals,
}

impl Interrupts {
    fn take() -> io::Result<Interrupts> {
        let mask = Signals::blocked()?;
        let ends = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
        let ends = ends.into_iter().filter(|signal| !signal::is_ignored(*signal));
        let (mut taken, mut blocked) = (Signals::none(), mask);
        for signal in ends {
            (taken, blocked) = (taken.with(signal), blocked.with(signal));
        }
        let descriptor = taken.descriptor()?;
        blocked.block_exactly()?;
        Ok(Interrupts { descriptor, mask })
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let _ = self.mask.block_exactly();
    }
}

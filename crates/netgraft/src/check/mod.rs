//! The conformance suite on any stack: `netgraft check`.
//!
//! The stack runs in a child process, which says line by line how it goes on: a stack that crashes or hangs fails
//! its case, and the next child goes on behind it. A stack in a shared object has a child for each case, which is
//! confined after `pre_init` as the sentry of `run` is, and never has the caller's network.

mod case;
mod place;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netgraft_abi::{Level, Loaded};
use netgraft_launch::vitals::Vitals;
use netgraft_launch::{self as launch, RunError, Step, printable, stacks};
use netgraft_linux::cage::{Cage, Ids, Rest};
use netgraft_linux::fdpass::wait_readable;
use netgraft_linux::process::Change;
use netgraft_linux::signal::{self, Signals};
use netgraft_plugin::registry::Factory;
use netgraft_plugin::{StackConfig, SyscallRule, get_plugin_stack};
use netgraft_testkit::conformance::{self, Choice, Outcome, Report, Row, Skips};

use case::{Line, Lines};

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
/// How many calls before its end a case that failed shows.
const LAST_CALLS: usize = 12;

/// Which cases are run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cases {
    /// All of them.
    #[default]
    All,
    /// Those whose `group/name [setting]` contains a text.
    Containing(String),
    /// The one of this name, `group/name [setting]`, or without the setting in all that it has.
    Named(String),
}

impl Cases {
    fn choice(&self) -> Choice<'_> {
        match self {
            Cases::All => Choice::Containing(""),
            Cases::Containing(part) => Choice::Containing(part),
            Cases::Named(name) => Choice::Named(name),
        }
    }
}

/// What to check, and how.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CheckOptions {
    /// A registered stack's name, or the path of a shared object.
    pub stack: String,
    /// What the stack is told (`--plugin-arg`).
    pub argument: Option<String>,
    /// Which cases.
    pub cases: Cases,
    /// Whether each call is told as it is made.
    pub trace: bool,
    /// Whether the pre-init of a shared object has the caller's rights, to open devices itself.
    pub trust_pre_init: bool,
    /// System calls, by their numbers, that the stack may make beyond the base and its own rules.
    pub allowed_calls: Vec<i64>,
    /// A file of failures that are known, each with its reason, as [`Skips`] reads them.
    pub known: Option<PathBuf>,
}

impl CheckOptions {
    /// All cases on a stack, and nothing else.
    #[must_use]
    pub fn new(stack: impl Into<String>) -> CheckOptions {
        CheckOptions { stack: stack.into(), ..CheckOptions::default() }
    }
}

/// What a check found.
pub struct Checked {
    /// Every case.
    pub report: Report,
    /// The failures that are known: the case, as [`Row::id`] says it, and the reason.
    pub known: BTreeMap<String, String>,
    /// Whether something failed that is not known, or what is known is out of date.
    pub failed: bool,
    /// Why the cases behind the last one did not run, if they did not.
    pub stopped: Option<String>,
    /// Entries of the file of known failures that explain nothing: all that they mean passes, or there is no such case.
    pub stale: Vec<String>,
}

impl Checked {
    /// For people: a line for each group, what failed, one line for each failure that is known, and what is not supported.
    #[must_use]
    pub fn table(&self) -> String {
        self.report.table_knowing(&|row| self.known.get(&row.id()).cloned())
    }

    /// For people: only the failures that are not known.
    #[must_use]
    pub fn failures_text(&self) -> String {
        let unknown = self.report.failures().filter(|row| !self.known.contains_key(&row.id()));
        unknown.map(Row::failure_text).collect()
    }
}

/// Runs the conformance suite on a stack, and tells each call of it as it is made if that is asked for. Call it from a
/// process with one thread: it forks without exec.
///
/// # Errors
/// If there is no such stack, no process can be made, or a signal came; nothing is left behind then.
pub fn check(options: &CheckOptions, tell: &mut dyn FnMut(&str)) -> Result<Checked, RunError> {
    let own = Skips::parse(conformance::DEVIATIONS).unwrap_or_default();
    let known = options.known.as_deref().map(read_known).transpose()?;
    let examined = Examined::find(options)?;
    let interrupts = Interrupts::take().map_err(failed)?;
    let mut report = Report { stack: examined.name.clone(), rows: Vec::new() };
    let (mut hangs, mut stopped) = (0, None);
    loop {
        let done = report.rows.len();
        let mut run = Run::begin(&examined, options, done, &interrupts).map_err(failed)?;
        let end = run.hear(&mut report, tell)?;
        run.show_rest_of_output();
        let open = run.open.take();
        // Ended before its calls are looked at, and before the next one begins.
        drop(run);
        match end {
            End::Ended(Some(Change::Exited(0))) if open.is_none() => {
                hangs = 0;
                if report.rows.len() == done {
                    break;
                }
                stopped = examined.never_prepared(&report);
                if stopped.is_some() {
                    break;
                }
            }
            end => {
                let id = open.as_ref().map_or("process/start []", |open| open.id.as_str());
                let call = examined.call().unwrap_or("(any)");
                hangs = if matches!(end, End::Hung(_)) { hangs + 1 } else { 0 };
                let row = Row::lost(id, call, &examined.end_text(end));
                let lost = open.is_none();
                report.rows.push(open.map_or(row.clone(), |open| open.close(row)));
                if lost {
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
    Ok(judge(report, stopped, &own, known.as_ref(), options.cases == Cases::All))
}

/// Compares what was found with what is known.
fn judge(report: Report, stopped: Option<String>, own: &Skips, known: Option<&Skips>, all: bool) -> Checked {
    let mut reasons = BTreeMap::new();
    let mut unknown = false;
    for row in report.failures() {
        match own.reason(&report, row).or_else(|| known?.reason(&report, row)) {
            Some(reason) => {
                // It is one line.
                reasons.insert(row.id(), printable(&reason.split_whitespace().collect::<Vec<_>>().join(" ")));
            }
            None => unknown = true,
        }
    }
    // What did not run says nothing of the entries.
    let stale = known.filter(|_| all && stopped.is_none()).map_or(Vec::new(), |known| known.stale(&report));
    Checked {
        known: reasons,
        failed: unknown || stopped.is_some() || !stale.is_empty(),
        report,
        stopped,
        stale,
    }
}

fn read_known(path: &Path) -> Result<Skips, RunError> {
    let wrong = |what: String| {
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        RunError::Options(format!("--known {}: {what}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    Skips::parse(&text).map_err(|e| wrong(e.to_string()))
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
    allowed: Vec<SyscallRule>,
    vitals: Vitals,
}

impl Examined {
    fn find(options: &CheckOptions) -> Result<Examined, RunError> {
        let config = StackConfig { argument: options.argument.clone(), ..StackConfig::default() };
        let vitals = Vitals::new().map_err(failed)?;
        let allowed = launch::allowed_calls(&options.allowed_calls);
        let plugin = options.stack.as_str();
        if stacks::is_path(plugin) {
            let object = Arc::new(stacks::load(Path::new(plugin), options.trust_pre_init)?);
            for text in object.doubts() {
                tracing::warn!("the stack {} {text}", object.object());
            }
            let (name, factory) = (object.info().name.clone(), object.factory());
            return Ok(Examined { name, factory, config, object: Some(object), allowed, vitals });
        }
        if !allowed.is_empty() {
            let text = "--allow-syscall is for a stack in a file: that of a name is not confined here";
            return Err(RunError::Options(text.to_owned()));
        }
        let factory = get_plugin_stack(plugin)?;
        Ok(Examined { name: plugin.to_owned(), factory, config, object: None, allowed, vitals })
    }

    /// The function of the object that is being called, or was when its process ended.
    fn call(&self) -> Option<&'static str> {
        self.object.as_ref().and_then(|object| object.current_call().0)
    }

    /// That an object whose pre-init is not trusted with the caller's rights will fail every case as it failed the first:
    /// one of level 0 opens its devices itself.
    fn never_prepared(&self, report: &Report) -> Option<String> {
        let object = self.object.as_ref().filter(|o| o.level() == Level::Zero && !o.trusts_pre_init())?;
        let mut tried = report.rows.iter().filter(|row| !matches!(row.outcome, Outcome::Unsupported { .. }));
        let (Some(Row { outcome: Outcome::Fail { call, .. }, .. }), None) = (tried.next(), tried.next())
        else {
            return None;
        };
        (call == "init").then(|| {
            format!(
                "{} opens its devices itself, and cannot without your rights: the rest did not run; use \
                 --trust-pre-init, if you trust it with them",
                object.object()
            )
        })
    }

    /// How messages name what prints.
    fn printer(&self) -> &str {
        self.object.as_ref().map_or(self.name.as_str(), |object| object.object())
    }

    fn end_text(&self, end: End) -> String {
        match (end, self.vitals.refused()) {
            (End::Ended(Some(Change::Signaled(libc::SIGSYS))), Some(number)) => format!(
                "the process was killed by signal 31 (SIGSYS) for the {}, which the stack's allow-list does not \
                 have ({})",
                launch::call_text(number),
                launch::remedy(number)
            ),
            (End::Ended(Some(change)), _) => format!("the process {}", launch::change_text(change)),
            (End::Ended(None), _) => "the process ended".to_owned(),
            (End::Hung(limit), _) => format!("none within {} s", limit.as_secs()),
            (End::Nonsense, _) => "nonsense where the suite reports".to_owned(),
        }
    }
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
    let (group, name, setting) = (printable(&row.group), printable(&row.name), printable(&row.setting));
    Row { group, name, setting, outcome, ..row }
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

/// A case that has begun.
struct Open {
    id: String,
    since: Instant,
    /// The last calls.
    calls: VecDeque<String>,
    /// What was said of the stack's answers.
    said: Vec<String>,
    /// The first call whose answer broke the contract, and what was said of it.
    broken: Option<(String, String)>,
}

impl Open {
    /// The case has ended so; what led to a failure stays with it. An answer that breaks the contract is one, whether or
    /// not the case would have noticed.
    fn close(self, mut row: Row) -> Row {
        if let (Outcome::Pass, Some((call, said))) = (&row.outcome, &self.broken) {
            row.outcome = Outcome::Fail {
                call: call.clone(),
                expected: "an answer that the contract has".to_owned(),
                actual: said.clone(),
            };
        }
        if matches!(row.outcome, Outcome::Fail { .. }) {
            (row.said, row.calls) = (self.said, self.calls.into());
        }
        row
    }
}

/// A child that runs cases. Dropping it ends it.
struct Run<'a> {
    examined: &'a Examined,
    interrupts: &'a Interrupts,
    cage: Cage,
    /// `None` when the child has closed its end.
    lines: Option<File>,
    heard: Vec<u8>,
    /// What it prints; `None` when nobody can print any more.
    output: Option<File>,
    printed: Vec<u8>,
    open: Option<Open>,
    trace: bool,
    /// When the child began, or the last case ended, and when the object's last call was.
    since: Instant,
    last_call: (Instant, u64),
}

impl<'a> Run<'a> {
    fn begin(
        examined: &'a Examined,
        options: &CheckOptions,
        done: usize,
        interrupts: &'a Interrupts,
    ) -> io::Result<Run<'a>> {
        examined.vitals.renew();
        if let Some(object) = &examined.object {
            object.forget_calls();
        }
        let (lines, end) = io::pipe()?;
        let (output, input) = io::pipe()?;
        let (end, mut input) = (Lines::new(OwnedFd::from(end).into()), Some(OwnedFd::from(input)));
        let cage = Cage::new(Ids::Own, Rest::Ended, || match input.take() {
            Some(input) => case::run(examined, &options.cases, done, &end, input.into()),
            None => 1,
        })?;
        let now = Instant::now();
        Ok(Run {
            examined,
            interrupts,
            cage,
            lines: Some(OwnedFd::from(lines).into()),
            heard: Vec::new(),
            output: Some(OwnedFd::from(output).into()),
            printed: Vec::new(),
            open: None,
            trace: options.trace,
            since: now,
            last_call: (now, 0),
        })
    }

    /// Collects what the child says until it ends or must be ended.
    fn hear(&mut self, report: &mut Report, tell: &mut dyn FnMut(&str)) -> Result<End, RunError> {
        loop {
            let lines = self.lines.as_ref().map(AsFd::as_fd);
            let output = self.output.as_ref().map(AsFd::as_fd);
            let fds = [lines, Some(self.cage.ended()), Some(self.interrupts.descriptor.as_fd()), output];
            let [line, ended, interrupted, printed] = wait_readable(fds, Some(LOOK)).map_err(failed)?;
            if interrupted
                && let Some(arrived) = signal::read(self.interrupts.descriptor.as_fd()).map_err(failed)?
            {
                return Err(RunError::Interrupted(arrived.signal));
            }
            if printed {
                self.show_output();
            }
            if line {
                // What it said before its end is heard first.
                if self.read(report, tell).is_none() {
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

    /// Logs what the stack has printed, line by line.
    fn show_output(&mut self) {
        let mut bytes = [0; 4096];
        match self.output.as_mut().map(|output| output.read(&mut bytes)) {
            Some(Ok(count @ 1..)) => self.printed.extend(&bytes[..count]),
            _ => self.output = None,
        }
        let name = self.examined.printer();
        while let Some(length) = self.printed.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.printed.drain(..=length).collect();
            tracing::info!("{name}: {}", printable(String::from_utf8_lossy(&line).trim_end()));
        }
        // A line without an end is no reason to keep all of it.
        if self.printed.len() > LINE_LIMIT {
            self.printed.clear();
        }
    }

    /// Logs what the child left in its output, a last line without an end as well. A pipe has no more than 64 KiB.
    fn show_rest_of_output(&mut self) {
        for _ in 0..17 {
            let there = wait_readable([self.output.as_ref().map(AsFd::as_fd)], Some(Duration::ZERO));
            if !matches!(there, Ok([true])) {
                break;
            }
            self.show_output();
        }
        if !self.printed.is_empty() {
            let line = std::mem::take(&mut self.printed);
            tracing::info!("{}: {}", self.examined.printer(), printable(&String::from_utf8_lossy(&line)));
        }
    }

    /// Reads what is there; `None` if it is nonsense.
    fn read(&mut self, report: &mut Report, tell: &mut dyn FnMut(&str)) -> Option<()> {
        let mut bytes = [0; 4096];
        match self.lines.as_mut()?.read(&mut bytes) {
            Ok(count @ 1..) => self.heard.extend(&bytes[..count]),
            _ => self.lines = None,
        }
        while let Some(length) = self.heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.heard.drain(..=length).collect();
            match serde_json::from_slice(&line).ok()? {
                Line::Begins(id) => {
                    let id = printable(&id);
                    if self.trace {
                        tell(&format!("{id}:"));
                    }
                    let (calls, said) = (VecDeque::new(), Vec::new());
                    self.open = Some(Open { id, since: Instant::now(), calls, said, broken: None });
                }
                Line::Call(text) => self.called(printable(&text), tell),
                Line::Said(level, text, call) => self.said(level, printable(&text), call, tell),
                Line::Ended(row) => {
                    let mut row = match self.open.take() {
                        Some(open) => open.close(row),
                        None => row,
                    };
                    if self.trace {
                        row.calls.clear();
                    }
                    self.since = Instant::now();
                    if report.rows.len() == ROWS {
                        return None;
                    }
                    report.rows.push(clean(row));
                }
            }
        }
        (self.heard.len() <= LINE_LIMIT).then_some(())
    }

    fn called(&mut self, text: String, tell: &mut dyn FnMut(&str)) {
        if self.trace {
            tell(&text);
        }
        let Some(open) = &mut self.open else { return };
        // One that is made again and again with the same answer is one.
        let apart = |line: &str| line.trim_start().split_once(' ').map(|(_, call)| call.to_owned());
        if open.calls.back().is_some_and(|last| apart(last) == apart(&text)) {
            open.calls.pop_back();
        } else if open.calls.len() == LAST_CALLS {
            open.calls.pop_front();
        }
        open.calls.push_back(text);
    }

    fn said(&mut self, level: u8, text: String, call: Option<String>, tell: &mut dyn FnMut(&str)) {
        tracing::info!("{text}");
        if level > 2 {
            return;
        }
        if self.trace {
            tell(&text);
        }
        let Some(open) = &mut self.open else { return };
        if let (Some(call), None) = (call, &open.broken) {
            open.broken = Some((printable(&call), text.clone()));
        }
        if open.said.len() < LAST_CALLS && !open.said.contains(&text) {
            open.said.push(text);
        }
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
        let since = self.open.as_ref().map_or(self.since, |open| open.since);
        (now - since >= CASE_LIMIT).then_some(CASE_LIMIT)
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

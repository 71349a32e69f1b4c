//! The conformance suite on any stack: `netgraft check`.
//!
//! The stack runs in a child process, which says line by line how it goes on: a stack that crashes or hangs fails
//! its case, and the next child goes on behind it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use netgraft_linux::fdpass::wait_readable;
use netgraft_linux::process::{self, Change, Wait};
use netgraft_plugin::registry::Factory;
use netgraft_plugin::{InitStackArgs, PluginStack, StackConfig, get_plugin_stack};
use netgraft_smoltcp::SmoltcpStack;
use netgraft_testkit::conformance::{self, Progress, Report, Row, Skips, Subject, Time};
use serde::{Deserialize, Serialize};

use crate::error::RunError;
use crate::launch::Step;
use crate::stacks;

/// How long a case may take: one that waits in vain gives up after a few seconds by itself.
const CASE_LIMIT: Duration = Duration::from_secs(60);

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
}

/// Runs the conformance suite on the stack that `plugin` names, or whose file it is; only the cases whose name
/// contains `filter`.
///
/// # Errors
/// If there is no such stack, or no process can be made.
pub fn check(plugin: &str, argument: Option<String>, filter: &str) -> Result<Checked, RunError> {
    let config = StackConfig { argument, ..StackConfig::default() };
    let (name, factory) = find(plugin)?;
    let failed = |source| RunError::Step { step: Step::Start, source };
    let mut report = Report { stack: name.clone(), rows: Vec::new() };
    loop {
        let done = report.rows.len();
        let (lines, end) = io::pipe().map_err(failed)?;
        let mut lines = Some(lines);
        let child = process::fork(|| {
            drop(lines.take());
            tell_cases(&subject(&name, &factory, &config), filter, done, end.into())
        })
        .map_err(failed)?;
        let Some(lines) = lines else { return Err(failed(io::ErrorKind::Other.into())) };
        let open = hear_cases(lines.into(), child, &mut report);
        match (process::wait(child, Wait::Block).map_err(failed)?, open) {
            (Some(Change::Exited(0)), None) => break,
            (change, open) => {
                let actual = match change {
                    Some(Change::Signaled(libc::SIGKILL)) => format!("no end within {CASE_LIMIT:?}"),
                    Some(Change::Signaled(signal)) => format!("the process died of signal {signal}"),
                    _ => "the process exited".to_owned(),
                };
                report.rows.push(Row::lost(open.as_deref().unwrap_or("process/start []"), &actual));
                if open.is_none() {
                    break;
                }
            }
        }
    }
    let skips = Skips::parse(conformance::DEVIATIONS).unwrap_or_default();
    let unexplained = skips.unlisted(&report).len();
    let (_, fails, unsupported) = report.counts();
    let failed = report.failures().any(|row| skips.unexplained(&report).iter().any(|u| u.id() == row.id()));
    Ok(Checked { known: (fails + unsupported).saturating_sub(unexplained), failed, report })
}

fn find(plugin: &str) -> Result<(String, Arc<Factory>), RunError> {
    if stacks::is_path(plugin) {
        let object = Arc::new(netgraft_abi::load(Path::new(plugin))?);
        return Ok((object.info().name.clone(), object.factory()));
    }
    Ok((plugin.to_owned(), get_plugin_stack(plugin)?))
}

fn subject(name: &str, factory: &Arc<Factory>, config: &StackConfig) -> Subject {
    if name != stacks::SMOLTCP {
        return Subject::from_factory(name, Arc::clone(factory), config.clone(), Time::Real);
    }
    // The built-in stack knows only the time that it is told, and takes links.
    let factory = Arc::clone(factory);
    Subject {
        linked: Some(Box::new(|config, link, now| {
            let mut stack = Box::new(SmoltcpStack::with_link(config.clone(), link)?);
            stack.init(InitStackArgs { now, ..InitStackArgs::default() })?;
            Ok(stack as Box<dyn PluginStack>)
        })),
        ..Subject::from_factory(name, factory, config.clone(), Time::Simulated)
    }
}

/// The child: runs the cases and says how it goes on. What the stack prints goes to standard error.
fn tell_cases(subject: &Subject, filter: &str, done: usize, end: OwnedFd) -> i32 {
    if process::replace_stdin_and_stdout(io::stderr().as_fd()).is_err() {
        return 1;
    }
    let mut end = std::fs::File::from(end);
    let mut whole = true;
    conformance::run_rest(subject, filter, done, &mut |progress| {
        let line = match progress {
            Progress::Begins(id) => Line::Begins(id.to_owned()),
            Progress::Ended(row) => Line::Ended(row.clone()),
        };
        let written =
            serde_json::to_string(&line).map_err(io::Error::from).and_then(|text| writeln!(end, "{text}"));
        whole &= written.is_ok();
    });
    i32::from(!whole)
}

/// The parent: collects what the child says, and ends it if a case takes too long. Returns the case that had begun
/// when nothing more came.
fn hear_cases(lines: OwnedFd, child: i32, report: &mut Report) -> Option<String> {
    let mut reader = BufReader::new(std::fs::File::from(lines));
    let mut open = None;
    loop {
        let waiting = reader.buffer().is_empty();
        if waiting && !is_readable(reader.get_ref().as_fd()) {
            // It may have ended at this moment.
            let _ = process::kill(child, libc::SIGKILL);
            return open;
        }
        let mut text = String::new();
        match reader.read_line(&mut text) {
            Ok(1..) => {}
            _ => return open,
        }
        match serde_json::from_str(&text) {
            Ok(Line::Begins(id)) => open = Some(id),
            Ok(Line::Ended(row)) => {
                open = None;
                report.rows.push(row);
            }
            Err(_) => return open,
        }
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    wait_readable([Some(fd)], Some(CASE_LIMIT)).is_ok_and(|[ready]| ready)
}

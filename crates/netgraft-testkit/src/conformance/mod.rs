//! The conformance suite: what every stack must do behind the contract, case by case.
//!
//! ```no_run
//! use netgraft_testkit::conformance::{Subject, Time, run};
//!
//! let factory = netgraft_host::factory(); // or that of a stack of your own
//! let subject = Subject::from_factory("host", factory, Default::default(), Time::Real);
//! let report = run(&subject, "");
//! println!("{}", report.table());
//! ```
//!
//! A case runs on a stack of its own, over the stack's loopback; where the subject takes a [`Link`], also on
//! two stacks that a simulated wire joins. Linux is the measure: every case over loopback passes on the host's
//! sockets.
//!
//! A row of the report is a pass, a failure (which call, what was expected, what came) or what the stack says
//! that it cannot do. Failures that are known are lines of a file with a reason each: [`Skips`].

mod bench;
mod calls;
mod cases;
mod check;
mod report;
mod skips;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use netgraft_plugin::link::Link;
use netgraft_plugin::registry::Factory;
use netgraft_plugin::stack::{SetupError, StackInfo};
use netgraft_plugin::{Domain, InitStackArgs, Instant, PluginStack, PreInitStackArgs, StackConfig};

pub use bench::{Bench, Side, Sock};
pub use check::{Check, Checks, Outcome, equal, holds};
pub use report::{Report, Row};
pub use skips::{Skips, SkipsError};

/// Makes a stack and initialises it.
pub type Make = dyn Fn(Instant) -> Result<Box<dyn PluginStack>, SetupError>;
/// Makes a stack on a link and initialises it.
pub type MakeLinked =
    dyn Fn(&StackConfig, Box<dyn Link>, Instant) -> Result<Box<dyn PluginStack>, SetupError>;

/// How time passes for a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Time {
    /// As the suite says: hours take no time. For a stack that has its time from the calls alone.
    Simulated,
    /// As the machine's clock says. For a stack with a kernel, a device or a process behind it.
    Real,
}

/// A stack to be examined.
pub struct Subject {
    /// Its name, for the report and for skips.
    pub name: String,
    /// How its time passes.
    pub time: Time,
    /// Makes one with a loopback.
    pub single: Box<Make>,
    /// Makes one on a link, if it speaks packets.
    pub linked: Option<Box<MakeLinked>>,
    /// The families that it says it has no sockets of: what is about them is not tried.
    pub lacks: Vec<Domain>,
}

impl Subject {
    /// A stack as netgraft itself would make it: `pre_init` on one instance, `init` on another, here both in
    /// this process.
    #[must_use]
    pub fn from_factory(name: &str, factory: Arc<Factory>, config: StackConfig, time: Time) -> Subject {
        // One that cannot be made says so in each case.
        let lacks = factory(&config).map(|stack| lacking(&stack.info())).unwrap_or_default();
        let single = move |now| {
            let pre = factory(&config)?.pre_init(PreInitStackArgs { pid: std::process::id() })?;
            let mut stack = factory(&config)?;
            stack.init(InitStackArgs { init_str: pre.init_str, fds: pre.fds, now })?;
            Ok(stack)
        };
        Subject { name: name.to_owned(), time, single: Box::new(single), linked: None, lacks }
    }
}

/// The families that a stack has no sockets of, by its own word; none if it speaks of no sockets at all.
#[must_use]
pub fn lacking(info: &StackInfo) -> Vec<Domain> {
    let has = |domain: &Domain| info.sockets.iter().any(|spec| spec.domain == *domain);
    let lacks = [Domain::V4, Domain::V6].into_iter().filter(|domain| !has(domain));
    if info.sockets.is_empty() { Vec::new() } else { lacks.collect() }
}

/// What is said of a case about a family that a stack has no sockets of.
pub(crate) fn no_family(domain: Domain) -> Outcome {
    let family = match domain {
        Domain::V4 => "IPv4",
        Domain::V6 => "IPv6",
    };
    Outcome::Unsupported { says: format!("it has no sockets of {family}") }
}

/// On what a case is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Over {
    /// IPv4 over loopback.
    Once,
    /// Both families, over loopback.
    Families,
    /// IPv4, over loopback and over a wire.
    Paths,
    /// Both families, over loopback and over a wire.
    All,
    /// Both families, over a wire alone.
    Wire,
    /// IPv6, over a wire alone.
    Wire6,
}

/// How the two sides of a case are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Both are sockets of one stack.
    Loopback,
    /// Each has a stack, and a wire joins them.
    Wire,
}

/// One case of the suite.
#[derive(Clone, Copy)]
pub struct Case {
    /// What it is about.
    pub group: &'static str,
    /// What it says, unique within its group.
    pub name: &'static str,
    /// On what it is run.
    pub over: Over,
    /// Its body.
    pub run: fn(&mut Bench) -> Check,
}

impl Case {
    /// What it is run on, for a subject with or without links.
    fn settings(&self, links: bool) -> Vec<(Path, Domain)> {
        let both = [Domain::V4, Domain::V6];
        let on = |path, domains: &[Domain]| domains.iter().map(|d| (path, *d)).collect::<Vec<_>>();
        let mut settings = match self.over {
            Over::Once | Over::Paths => on(Path::Loopback, &both[..1]),
            Over::Families | Over::All => on(Path::Loopback, &both),
            Over::Wire | Over::Wire6 => Vec::new(),
        };
        if links {
            settings.extend(match self.over {
                Over::Once | Over::Families => Vec::new(),
                Over::Paths => on(Path::Wire, &both[..1]),
                Over::All | Over::Wire => on(Path::Wire, &both),
                Over::Wire6 => on(Path::Wire, &both[1..]),
            });
        }
        settings
    }
}

/// Where the stacks of this tree are known to do otherwise, each with the reason: the text of a [`Skips`].
pub const DEVIATIONS: &str = include_str!("../../deviations.toml");

/// Every case, in order.
#[must_use]
pub fn cases() -> Vec<Case> {
    cases::all()
}

/// Which cases are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// Those whose `group/name [setting]` contains this; an empty text is in all.
    Containing(&'a str),
    /// The one that is named so, `group/name [setting]`, or without the setting in all that it has.
    Named(&'a str),
}

impl Choice<'_> {
    /// Whether it means the case that [`Row::id`] names so.
    #[must_use]
    pub fn takes(&self, id: &str) -> bool {
        match self {
            Choice::Containing(part) => id.contains(part),
            Choice::Named(name) => is_named(id, name),
        }
    }
}

/// Whether a name, with a setting or without, means the case of an id.
pub(crate) fn is_named(id: &str, name: &str) -> bool {
    id == name || id.strip_prefix(name).is_some_and(|rest| rest.starts_with(" ["))
}

/// Runs the cases whose `group/name [setting]` contains `filter`; an empty filter takes all.
///
/// A stack that panics fails the case. A stack that does not return hangs the suite.
#[must_use]
pub fn run(subject: &Subject, filter: &str) -> Report {
    run_each(subject, filter, &mut |_| {})
}

/// How a run goes on.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A case begins, `group/name [setting]`: the last one that is reported if the stack does not return.
    Begins(&'a str),
    /// It has ended. One that is not tried, since the stack says that it lacks the family, ends without a beginning.
    Ended(&'a Row),
}

/// The same, and tells how it goes on: a case that waits in vain takes five seconds of real time.
pub fn run_each(subject: &Subject, filter: &str, tell: &mut dyn FnMut(Progress<'_>)) -> Report {
    run_rest(subject, Choice::Containing(filter), 0, tell)
}

/// The same of a choice, without the first `done` cases that it takes: goes on after a stack that ended the process.
pub fn run_rest(
    subject: &Subject,
    choice: Choice<'_>,
    mut done: usize,
    tell: &mut dyn FnMut(Progress<'_>),
) -> Report {
    let mut rows = Vec::new();
    for case in cases() {
        for (path, domain) in case.settings(subject.linked.is_some()) {
            let row = Row::new(&case, path, domain);
            let id = row.id();
            if !choice.takes(&id) {
                continue;
            }
            if done > 0 {
                done -= 1;
                continue;
            }
            let outcome = if subject.lacks.contains(&domain) {
                no_family(domain)
            } else {
                tell(Progress::Begins(&id));
                run_one(subject, &case, path, domain)
            };
            let row = Row { outcome, ..row };
            tell(Progress::Ended(&row));
            rows.push(row);
        }
    }
    Report { stack: subject.name.clone(), rows }
}

fn run_one(subject: &Subject, case: &Case, path: Path, domain: Domain) -> Outcome {
    // The bench goes with the panic: nothing sees a stack in a broken state.
    let body = AssertUnwindSafe(|| {
        let mut bench = Bench::new(subject, path, domain)?;
        let found = (case.run)(&mut bench);
        bench.stacks.iter_mut().for_each(|stack| stack.destroy());
        found
    });
    match catch_unwind(body) {
        Ok(Ok(())) => Outcome::Pass,
        Ok(Err(outcome)) => outcome,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Outcome::fail("(any)", "no panic", text.unwrap_or("a panic"))
        }
    }
}

//! The process of a case, or of those that follow each other: it says line by line how it goes on.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netgraft_abi::Level;
use netgraft_linux::signal::Signals;
use netgraft_linux::{jail, process};
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{Call, InitStackArgs, Observer, PluginStack, PreInitStackArgs, Watched};
use netgraft_smoltcp::SmoltcpStack;
use netgraft_testkit::conformance::{self, Progress, Row, Subject, Time};
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::{Cases, Examined, place};
use netgraft_launch::{self as launch, stacks};
use netgraft_sentry::trace;

/// A line of the process.
#[derive(Serialize, Deserialize)]
pub(super) enum Line {
    /// A case begins.
    Begins(String),
    /// A call of the stack, with its answer.
    Call(String),
    /// Something was said: how grave it is, from 1 for an error, what, and of an answer that breaks the contract the call.
    Said(u8, String, Option<String>),
    /// The case has ended.
    Ended(Row),
}

/// Where the lines go.
#[derive(Clone)]
pub(super) struct Lines(Arc<File>);

impl Lines {
    pub(super) fn new(end: File) -> Lines {
        Lines(Arc::new(end))
    }

    fn say(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        (&*self.0).write_all(text.as_bytes())
    }
}

/// Runs the cases. What the stack prints goes to `output`.
pub(super) fn run(examined: &Examined, cases: &Cases, done: usize, lines: &Lines, output: File) -> i32 {
    let mut kept = vec![0, 1, lines.0.as_raw_fd()];
    kept.extend(examined.object.iter().flat_map(|object| object.descriptors()));
    let ready = File::open("/dev/null").and_then(|null| {
        let replaced = process::replace_standard(null.as_fd(), output.as_fd());
        replaced.and_then(|()| process::close_all_but(&kept))?;
        // Their numbers were closed there, and are nobody's.
        std::mem::forget((null, output));
        Signals::none().block_exactly()
    });
    if ready.is_err() {
        return 1;
    }
    let collector = tracing::Dispatch::new(Collector(lines.clone()));
    tracing::dispatcher::with_default(&collector, || tell_cases(examined, cases, done, lines))
}

fn tell_cases(examined: &Examined, cases: &Cases, done: usize, lines: &Lines) -> i32 {
    let (mut whole, mut tried) = (true, false);
    conformance::run_rest(&subject(examined, lines), cases.choice(), done, &mut |progress| {
        let line = match progress {
            Progress::Begins(id) => Line::Begins(id.to_owned()),
            Progress::Ended(row) => Line::Ended(row.clone()),
        };
        tried |= matches!(progress, Progress::Begins(_));
        whole &= lines.say(&line).is_ok();
        // A process that is confined cannot prepare another stack.
        if matches!(progress, Progress::Ended(_)) && tried && examined.object.is_some() {
            process::exit_now(i32::from(!whole));
        }
    });
    i32::from(!whole)
}

fn subject(examined: &Examined, lines: &Lines) -> Subject {
    let (name, factory, config) =
        (examined.name.as_str(), Arc::clone(&examined.factory), examined.config.clone());
    let recorder = lines.clone();
    let watch = move |stack| Box::new(Watched::new(stack, Recorder::new(&recorder))) as Box<dyn PluginStack>;
    if let Some(object) = &examined.object {
        let (vitals, allowed) = (examined.vitals.clone(), examined.allowed.clone());
        let linked = object.level() == Level::Zero;
        let single = move |now| {
            place::enter()?;
            let holder = linked.then(place::make_link).transpose()?;
            let pid = holder.as_ref().map_or_else(std::process::id, |holder| holder.pid());
            let pre = factory(&config)?.pre_init(PreInitStackArgs { pid })?;
            holder.map_or(Ok(()), |holder| holder.settle())?;
            jail::enter().map_err(|e| SetupError::host("the stack's process cannot be confined", e))?;
            let mut stack = watch(factory(&config)?);
            launch::confine_for(stack.as_mut(), launch::Origin::Foreign, true, &allowed, &vitals)
                .map_err(SetupError::new)?;
            stack.init(InitStackArgs { init_str: pre.init_str, fds: pre.fds, now })?;
            Ok(stack)
        };
        return Subject {
            name: name.to_owned(),
            time: Time::Real,
            single: Box::new(single),
            linked: None,
            lacks: conformance::lacking(object.info()),
        };
    }
    let time = if name == stacks::SMOLTCP { Time::Simulated } else { Time::Real };
    let mut subject = Subject::from_factory(name, factory, config, time);
    let (single, watched) = (subject.single, watch.clone());
    subject.single = Box::new(move |now| single(now).map(&watched));
    if name == stacks::SMOLTCP {
        // The built-in stack knows only the time that it is told, and takes links.
        subject.linked = Some(Box::new(move |config, link, now| {
            let mut stack = Box::new(SmoltcpStack::with_link(config.clone(), link)?);
            stack.init(InitStackArgs { now, ..InitStackArgs::default() })?;
            Ok(watch(stack))
        }));
    }
    subject
}

/// Writes down what a stack is asked and what it answers, each with the time since the first call that has one.
struct Recorder {
    lines: Lines,
    start: AtomicU64,
    now: AtomicU64,
}

impl Recorder {
    fn new(lines: &Lines) -> Recorder {
        Recorder { lines: lines.clone(), start: AtomicU64::new(u64::MAX), now: AtomicU64::new(0) }
    }
}

/// The time that is among the arguments of a call, in nanoseconds.
fn time_in(arguments: &str) -> Option<u64> {
    let (_, after) = arguments.split_once("Instant(")?;
    after.split_once(')')?.0.parse().ok()
}

impl Observer for Recorder {
    fn begin(&self, _: Call) {}

    fn end(&self, _: Call) {}

    fn traces(&self) -> bool {
        true
    }

    fn trace(&self, call: Call, arguments: &str, answer: &dyn fmt::Debug) {
        if let Some(now) = time_in(arguments) {
            self.start.fetch_min(now, Ordering::Relaxed);
            self.now.store(now, Ordering::Relaxed);
        }
        if let Some(line) = trace::line(call, arguments, answer) {
            let since = self.now.load(Ordering::Relaxed).saturating_sub(self.start.load(Ordering::Relaxed));
            let _ = self.lines.say(&Line::Call(format!("{:>11.6} {line}", since as f64 / 1e9)));
        }
    }
}

/// Hears what the adapters and the stack say, and passes it on.
struct Collector(Lines);

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => 1,
            tracing::Level::WARN => 2,
            _ => 3,
        };
        let _ = self.0.say(&Line::Said(level, message.text, message.call));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The text of an event, and the call that the adapters of shared objects complain of.
#[derive(Default)]
struct Message {
    text: String,
    call: Option<String>,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.text = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.text),
            "call" => self.call = Some(value.to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_found_among_arguments() {
        assert_eq!(time_in("now: Instant(1500)"), Some(1500));
        assert_eq!(time_in("handle: Handle(1), now: Instant(7)"), Some(7));
        assert_eq!((time_in("mask: Events(IN)"), time_in("Instant(x)")), (None, None));
    }
}

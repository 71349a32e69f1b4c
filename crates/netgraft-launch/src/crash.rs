//! What is said of a sentry that ended before its program, and what becomes of the program.

use std::fmt;
use std::str::FromStr;

use netgraft_abi::Loaded;
use netgraft_linux::process::Change;
use netgraft_linux::shared::Thread;
use netgraft_plugin::Call;

use super::allow::{call_text, remedy};
use super::watchdog;
use crate::vitals::{UnderWay, Vitals};

/// What happens when a stack crashes, hangs or does what it may not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnCrash {
    /// The program goes on without a network.
    #[default]
    Fail,
    /// A fresh stack takes over: listening sockets listen again, connections are reset.
    Restart,
}

impl fmt::Display for OnCrash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnCrash::Fail => "fail",
            OnCrash::Restart => "restart",
        })
    }
}

impl FromStr for OnCrash {
    type Err = String;
    fn from_str(text: &str) -> Result<OnCrash, String> {
        match text {
            "fail" => Ok(OnCrash::Fail),
            "restart" => Ok(OnCrash::Restart),
            other => Err(format!("unknown --on-crash action '{other}': use fail or restart")),
        }
    }
}

/// How a sentry came to its end.
#[derive(Debug)]
pub(super) enum Cause {
    /// Its process ended by itself.
    Died(Change),
    /// It said why, or sent what is no message.
    GaveUp(String),
    /// Its stack said so.
    Broke(String),
    /// The launcher ended it, since a call of the stack did not return or its loop stood still.
    Hung(UnderWay),
    /// The launcher ended it, since its uplink has ended, as this says.
    Uplink(String),
}

/// Where a sentry was when it ended.
enum Place {
    /// In this call of the stack.
    Call(&'static str),
    /// In a thread that the stack made.
    OwnThread,
    /// In none; the last call before, if there was one.
    Outside(Option<Call>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Call(call) => write!(f, " in {}", named(call)),
            Place::OwnThread => f.write_str(" in a thread of its own"),
            Place::Outside(Some(call)) => write!(f, " after its call '{}'", call.name()),
            Place::Outside(None) => Ok(()),
        }
    }
}

/// A call in a sentence. An object's constructors have no name.
fn named(call: &str) -> String {
    if call.starts_with("its ") { call.to_owned() } else { format!("its call '{call}'") }
}

/// Finds out where: an object's own function is closer than the call of the contract that led to it.
fn place(vitals: &Vitals, object: Option<&Loaded>) -> Place {
    if let Some(Thread::Other(thread)) = vitals.thread_of_end() {
        return object.and_then(|object| object.driver_call(thread)).map_or(Place::OwnThread, Place::Call);
    }
    match (Vitals::call_of(vitals.pulse()), object.and_then(|object| object.current_call().0)) {
        (Some(_), Some(function)) => Place::Call(function),
        (Some(call), None) => Place::Call(call.name()),
        (None, _) => Place::Outside(vitals.last_call()),
    }
}

/// Says what happened, as a part of a sentence.
pub(super) fn text(stack: &str, cause: &Cause, vitals: &Vitals, object: Option<&Loaded>) -> String {
    let place = place(vitals, object);
    match (cause, vitals.refused()) {
        (Cause::Uplink(text), _) => text.clone(),
        (Cause::Hung(UnderWay::Round), _) => {
            let limit = watchdog::limit_of(UnderWay::Round);
            format!("the sentry of the stack {stack} was killed: its loop stood still for {limit} s{place}")
        }
        (Cause::Hung(UnderWay::Call(call)), _) => {
            let limit = watchdog::limit_of(UnderWay::Call(*call));
            let name = object.and_then(|object| object.current_call().0).unwrap_or(call.name());
            format!("the stack {stack} was killed: {} hung for {limit} s", named(name))
        }
        (Cause::Died(Change::Signaled(libc::SIGSYS)), Some(number)) => {
            let (what, remedy) = (call_text(number), remedy(number));
            format!(
                "the stack {stack} was killed by signal 31 (SIGSYS){place} for the {what}, which its allow-list \
                 does not have ({remedy})"
            )
        }
        (Cause::Died(_), _) if vitals.was_cut_off() => {
            format!("the stack {stack} has closed the sentry's descriptors{place}")
        }
        // Without a call of the stack it may have been anything: the kernel short of memory, or an operator.
        (Cause::Died(change), _) if matches!(place, Place::Outside(_)) => {
            format!("the sentry of the stack {stack} {}, outside of the stack's calls", change_text(*change))
        }
        (Cause::Died(change), _) => format!("the stack {stack} {}{place}", change_text(*change)),
        (Cause::Broke(why), _) => format!("the stack {stack} cannot go on: {why}"),
        (Cause::GaveUp(text), _) => format!("the sentry of the stack {stack} gave up{place}: {text}"),
    }
}

/// How a process ended, as the end of a sentence.
#[must_use]
pub fn change_text(change: Change) -> String {
    match change {
        Change::Exited(status) => format!("exited with status {status}"),
        Change::Signaled(signal) | Change::Stopped(signal) => {
            format!("was killed by signal {signal} ({})", signal_name(signal))
        }
    }
}

/// The usual name of a signal that can end a process.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGSYS => "SIGSYS",
        _ => "see signal(7)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_is_told_with_stack_call_and_signal() {
        let vitals = Vitals::new().unwrap();
        let died = |signal| Cause::Died(Change::Signaled(signal));
        assert!(text("odd", &died(libc::SIGKILL), &vitals, None).contains("outside of the stack's calls"));
        vitals.begin(Call::poll);
        let told = text("odd", &died(libc::SIGSEGV), &vitals, None);
        assert_eq!(told, "the stack odd was killed by signal 11 (SIGSEGV) in its call 'poll'");
        let told = text("odd", &Cause::Hung(UnderWay::Call(Call::send)), &vitals, None);
        assert_eq!(told, "the stack odd was killed: its call 'send' hung for 5 s");
        let told = text("odd", &Cause::GaveUp("no more".into()), &vitals, None);
        assert_eq!(told, "the sentry of the stack odd gave up in its call 'poll': no more");
        assert!(text("odd", &Cause::Died(Change::Exited(3)), &vitals, None).contains("exited with status 3"));
        vitals.end();
        let told = text("odd", &Cause::GaveUp("no more".into()), &vitals, None);
        assert_eq!(told, "the sentry of the stack odd gave up after its call 'poll': no more");
        let told = text("odd", &Cause::Hung(UnderWay::Round), &vitals, None);
        assert_eq!(
            told,
            "the sentry of the stack odd was killed: its loop stood still for 5 s after its call 'poll'"
        );
        vitals.note_cut_off();
        let told = text("odd", &Cause::Died(Change::Exited(1)), &vitals, None);
        assert_eq!(told, "the stack odd has closed the sentry's descriptors after its call 'poll'");
    }

    #[test]
    fn what_to_do_is_parsed_and_shown() {
        for choice in [OnCrash::Fail, OnCrash::Restart] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert!("retry".parse::<OnCrash>().unwrap_err().contains("use fail or restart"));
    }
}

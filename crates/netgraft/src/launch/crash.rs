//! What is said of a sentry that ended before its program, and what becomes of the program.

use std::fmt;
use std::str::FromStr;

use netgraft_linux::process::Change;

use super::allow::call_text;
use super::watchdog;
use crate::vitals::{StackCall, Vitals};

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
            other => Err(format!("'{other}' is nothing to do about a crash: use fail or restart")),
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
    /// The launcher ended it, since a call of the stack did not return.
    Hung(StackCall),
}

/// Says what happened, as a part of a sentence.
pub(super) fn text(stack: &str, cause: &Cause, vitals: &Vitals) -> String {
    let call = Vitals::call_of(vitals.pulse());
    let place = match call {
        Some(call) => format!(" in its call '{}'", call.name()),
        None => String::new(),
    };
    match (cause, vitals.refused()) {
        (Cause::Hung(call), _) => {
            let limit = if call.is_of_start() { watchdog::START_LIMIT } else { watchdog::LIMIT };
            format!("the stack {stack} was killed: its call '{}' hung for {limit} s", call.name())
        }
        (Cause::Died(Change::Signaled(libc::SIGSYS)), Some(number)) => {
            let what = call_text(number);
            format!(
                "the stack {stack} was killed by signal 31 (SIGSYS){place} for the {what}, which its allow-list \
                 does not have"
            )
        }
        // Without a call of the stack it may have been anything: the kernel short of memory, or an operator.
        (Cause::Died(change), _) if call.is_none() => {
            format!("the sentry of the stack {stack} {}, outside of the stack's calls", change_text(*change))
        }
        (Cause::Died(change), _) => format!("the stack {stack} {}{place}", change_text(*change)),
        (Cause::GaveUp(text), _) => format!("the sentry of the stack {stack} gave up{place}: {text}"),
    }
}

fn change_text(change: Change) -> String {
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
        assert!(text("odd", &died(libc::SIGKILL), &vitals).contains("outside of the stack's calls"));
        vitals.begin(const { StackCall::named("poll") });
        let told = text("odd", &died(libc::SIGSEGV), &vitals);
        assert_eq!(told, "the stack odd was killed by signal 11 (SIGSEGV) in its call 'poll'");
        let told = text("odd", &Cause::Hung(const { StackCall::named("send") }), &vitals);
        assert_eq!(told, "the stack odd was killed: its call 'send' hung for 5 s");
        let told = text("odd", &Cause::GaveUp("no more".into()), &vitals);
        assert_eq!(told, "the sentry of the stack odd gave up in its call 'poll': no more");
        assert!(text("odd", &Cause::Died(Change::Exited(3)), &vitals).contains("exited with status 3"));
    }

    #[test]
    fn what_to_do_is_parsed_and_shown() {
        for choice in [OnCrash::Fail, OnCrash::Restart] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert!("retry".parse::<OnCrash>().unwrap_err().contains("use fail or restart"));
    }
}

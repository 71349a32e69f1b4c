//! Finds out that a call of the stack does not return.
//!
//! While the stack is being called the launcher looks once a second at the word in which the sentry notes its
//! calls. When two looks find nothing new and no call under way it says so in another word and sleeps: the next
//! call of the stack then sends one message. So an idle sandbox costs no wake-up, and a busy one a second's look
//! and no system call. Looks are counted, not time: a suspended or stopped sandbox is not a hung one.

use std::time::{Duration, Instant};

use netgraft_linux::shared::Pulse;
use netgraft_plugin::Call;

use crate::vitals::Vitals;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// How many looks may find the same call under way: seconds.
pub(super) const LIMIT: u32 = 5;
/// The same for the calls that start a stack, which may look for devices or take memory.
pub(super) const START_LIMIT: u32 = 10;

/// Where the launcher is with its looks.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It looks every second; what it saw last, and how often in a row.
    Looking { at: Instant, last: Pulse, same: u32 },
    /// The sentry was told that the launcher sleeps. A call that began at the same moment may not have seen it:
    /// one more look.
    LastLook { at: Instant, last: Pulse },
    /// It waits for the sentry's message.
    Asleep,
}

/// What a look led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing to do.
    Fine,
    /// Nothing happens: the sentry is to be told that the launcher sleeps.
    Sleepy,
    /// It is not to be told so any more.
    Awake,
    /// A call has not returned in time.
    Hung(Call),
}

/// Looks at the calls of one sentry.
#[derive(Debug)]
pub(super) struct Watchdog(State);

impl Watchdog {
    /// Begins to look.
    pub(super) fn new(now: Instant) -> Watchdog {
        Watchdog(State::Looking { at: now + PERIOD, last: Pulse::default(), same: 0 })
    }

    /// When to look next.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.0 {
            State::Looking { at, .. } | State::LastLook { at, .. } => Some(at),
            State::Asleep => None,
        }
    }

    /// The sentry says that its stack is being called again.
    pub(super) fn wake(&mut self, now: Instant) {
        *self = Watchdog::new(now);
    }

    /// There is nothing to look at any more.
    pub(super) fn stop(&mut self) {
        self.0 = State::Asleep;
    }

    /// Looks, if it is time to.
    pub(super) fn look(&mut self, pulse: Pulse, now: Instant) -> Look {
        if self.due().is_none_or(|at| now < at) {
            return Look::Fine;
        }
        let call = Vitals::call_of(pulse);
        let at = now + PERIOD;
        match (&self.0, call) {
            (State::Looking { last, same, .. }, Some(call)) => {
                let same = if *last == pulse { same + 1 } else { 0 };
                self.0 = State::Looking { at, last: pulse, same };
                let limit = if call.is_of_start() { START_LIMIT } else { LIMIT };
                if same >= limit { Look::Hung(call) } else { Look::Fine }
            }
            (State::Looking { last, .. }, None) if *last == pulse => {
                self.0 = State::LastLook { at, last: pulse };
                Look::Sleepy
            }
            (State::LastLook { last, .. }, None) if *last == pulse => {
                self.0 = State::Asleep;
                Look::Fine
            }
            (State::Looking { .. }, None) => {
                self.0 = State::Looking { at, last: pulse, same: 0 };
                Look::Fine
            }
            (State::LastLook { .. } | State::Asleep, _) => {
                self.0 = State::Looking { at, last: pulse, same: 0 };
                Look::Awake
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks once a second at what `pulse` says; the looks before the first that is not fine.
    fn looks(watchdog: &mut Watchdog, start: Instant, pulse: impl Fn(u32) -> Pulse) -> (u32, Look) {
        for second in 1..100 {
            let now = start + PERIOD * second;
            match watchdog.look(pulse(second), now) {
                Look::Fine => {}
                other => return (second, other),
            }
        }
        (100, Look::Fine)
    }

    fn begun(vitals: &Vitals, call: Call) -> Pulse {
        vitals.begin(call);
        vitals.pulse()
    }

    #[test]
    fn a_call_that_lasts_is_hung_and_many_short_ones_are_not() {
        let (start, vitals) = (Instant::now(), Vitals::new().unwrap());
        let poll = begun(&vitals, Call::poll);
        let (seconds, look) = looks(&mut Watchdog::new(start), start, |_| poll);
        assert_eq!(look, Look::Hung(Call::poll));
        assert_eq!(seconds, LIMIT + 1);
        let init = begun(&vitals, Call::init);
        let (seconds, look) = looks(&mut Watchdog::new(start), start, |_| init);
        assert!(matches!(look, Look::Hung(_)) && seconds == START_LIMIT + 1);
        let others = |_| begun(&vitals, Call::poll);
        assert_eq!(looks(&mut Watchdog::new(start), start, others), (100, Look::Fine));
    }

    #[test]
    fn an_idle_stack_is_left_alone_and_a_call_at_that_moment_is_seen() {
        let (start, vitals) = (Instant::now(), Vitals::new().unwrap());
        let mut watchdog = Watchdog::new(start);
        assert_eq!(watchdog.look(Pulse::default(), start + PERIOD), Look::Sleepy);
        assert_eq!(watchdog.look(Pulse::default(), start + 2 * PERIOD), Look::Fine);
        assert_eq!(watchdog.due(), None);
        watchdog.wake(start);
        assert!(watchdog.due().is_some());
        assert_eq!(watchdog.look(Pulse::default(), start + PERIOD), Look::Sleepy);
        let poll = begun(&vitals, Call::poll);
        assert_eq!(watchdog.look(poll, start + 2 * PERIOD), Look::Awake);
    }

    #[test]
    fn nothing_is_looked_at_before_it_is_time() {
        let (start, vitals) = (Instant::now(), Vitals::new().unwrap());
        let mut watchdog = Watchdog::new(start);
        assert_eq!(watchdog.look(begun(&vitals, Call::poll), start), Look::Fine);
        assert_eq!(watchdog.due(), Some(start + PERIOD));
    }
}

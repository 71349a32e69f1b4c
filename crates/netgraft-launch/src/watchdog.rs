//! Finds out that a call of the stack does not return, and that the sentry's loop stands still outside of one.
//!
//! While the sentry has something to do the launcher looks once a second at the words in which it notes the rounds of
//! its loop and the calls of its stack. When two looks find nothing new and nothing under way it says so in another word
//! and sleeps: the next round or call then sends one message. So an idle sandbox costs no wake-up, and a busy one a second's look
//! and no system call. Looks are counted, not time: a suspended or stopped sandbox is not a hung one.

use std::time::{Duration, Instant};

use crate::vitals::{Beat, UnderWay};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// How many looks may find the same call or round under way: seconds.
const LIMIT: u32 = 5;
/// The same for the calls that start a stack, which may look for devices or take memory.
const START_LIMIT: u32 = 10;

/// Where the launcher is with its looks.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It looks every second; what it saw last, and how often in a row.
    Looking { at: Instant, last: Beat, same: u32 },
    /// The sentry was told that the launcher sleeps. A call that began at the same moment may not have seen it:
    /// one more look.
    LastLook { at: Instant, last: Beat },
    /// It waits for the sentry's message.
    Asleep,
}

/// What a look led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing to do.
    Fine,
    /// Nothing happens: the word that says that the launcher sleeps is to be set.
    Sleepy,
    /// That word is to be cleared.
    Awake,
    /// It has been at the same thing for too long.
    Hung(UnderWay),
}

/// Looks at the calls of one sentry.
#[derive(Debug)]
pub(super) struct Watchdog(State);

impl Watchdog {
    /// Begins to look.
    pub(super) fn new(now: Instant) -> Watchdog {
        Watchdog(State::Looking { at: now + PERIOD, last: Beat::default(), same: 0 })
    }

    /// When to look next.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.0 {
            State::Looking { at, .. } | State::LastLook { at, .. } => Some(at),
            State::Asleep => None,
        }
    }

    /// The sentry says that it has something to do again.
    pub(super) fn wake(&mut self, now: Instant) {
        *self = Watchdog::new(now);
    }

    /// There is nothing to look at any more.
    pub(super) fn stop(&mut self) {
        self.0 = State::Asleep;
    }

    /// Looks, if it is time to.
    pub(super) fn look(&mut self, beat: Beat, now: Instant) -> Look {
        if self.due().is_none_or(|at| now < at) {
            return Look::Fine;
        }
        let under_way = beat.under_way();
        let at = now + PERIOD;
        match (&self.0, under_way) {
            (State::Looking { last, same, .. }, Some(at_it)) => {
                let same = if *last == beat { same + 1 } else { 0 };
                self.0 = State::Looking { at, last: beat, same };
                let limit = limit_of(at_it);
                if same >= limit { Look::Hung(at_it) } else { Look::Fine }
            }
            (State::Looking { last, .. }, None) if *last == beat => {
                self.0 = State::LastLook { at, last: beat };
                Look::Sleepy
            }
            (State::LastLook { last, .. }, None) if *last == beat => {
                self.0 = State::Asleep;
                Look::Fine
            }
            (State::Looking { .. }, None) => {
                self.0 = State::Looking { at, last: beat, same: 0 };
                Look::Fine
            }
            (State::LastLook { .. } | State::Asleep, _) => {
                self.0 = State::Looking { at, last: beat, same: 0 };
                Look::Awake
            }
        }
    }
}

/// How many looks may find this under way.
pub(super) fn limit_of(under_way: UnderWay) -> u32 {
    match under_way {
        UnderWay::Call(call) if call.is_of_start() => START_LIMIT,
        UnderWay::Call(_) | UnderWay::Round => LIMIT,
    }
}

#[cfg(test)]
mod tests {
    use netgraft_plugin::Call;

    use super::*;
    use crate::vitals::Vitals;

    /// Looks once a second at what `beat` says; the looks before the first that is not fine.
    fn looks(watchdog: &mut Watchdog, start: Instant, beat: impl Fn() -> Beat) -> (u32, Look) {
        for second in 1..100 {
            let now = start + PERIOD * second;
            match watchdog.look(beat(), now) {
                Look::Fine => {}
                other => return (second, other),
            }
        }
        (100, Look::Fine)
    }

    #[test]
    fn a_call_that_lasts_is_hung_and_many_short_ones_are_not() {
        let (start, vitals) = (Instant::now(), Vitals::new().unwrap());
        vitals.begin_round();
        vitals.begin(Call::poll);
        let (seconds, look) = looks(&mut Watchdog::new(start), start, || vitals.beat());
        assert_eq!(look, Look::Hung(UnderWay::Call(Call::poll)));
        assert_eq!(seconds, LIMIT + 1);
        vitals.begin(Call::init);
        let (seconds, look) = looks(&mut Watchdog::new(start), start, || vitals.beat());
        assert!(matches!(look, Look::Hung(_)) && seconds == START_LIMIT + 1);
        let other = || {
            vitals.begin(Call::poll);
            vitals.beat()
        };
        assert_eq!(looks(&mut Watchdog::new(start), start, other), (100, Look::Fine));
    }

    #[test]
    fn a_round_that_lasts_is_hung_unless_the_stack_is_called_in_it() {
        let (start, vitals) = (Instant::now(), Vitals::new().unwrap());
        vitals.begin_round();
        let (seconds, look) = looks(&mut Watchdog::new(start), start, || vitals.beat());
        assert_eq!((seconds, look), (LIMIT + 1, Look::Hung(UnderWay::Round)));
        let short = || {
            vitals.begin_round();
            vitals.beat()
        };
        assert_eq!(looks(&mut Watchdog::new(start), start, short), (100, Look::Fine));
        let long = || {
            vitals.begin(Call::poll);
            vitals.end();
            vitals.beat()
        };
        assert_eq!(looks(&mut Watchdog::new(start), start, long), (100, Look::Fine));
    }

    #[test]
    fn an_idle_sentry_is_left_alone_and_what_it_does_at_that_moment_is_seen() {
        let (start, vitals) = (Instant::now(), Vitals::new().unwrap());
        let mut watchdog = Watchdog::new(start);
        assert_eq!(watchdog.look(vitals.beat(), start + PERIOD), Look::Sleepy);
        assert_eq!(watchdog.look(vitals.beat(), start + 2 * PERIOD), Look::Fine);
        assert_eq!(watchdog.due(), None);
        watchdog.wake(start);
        assert!(watchdog.due().is_some());
        assert_eq!(watchdog.look(vitals.beat(), start + PERIOD), Look::Sleepy);
        vitals.begin_round();
        assert_eq!(watchdog.look(vitals.beat(), start + 2 * PERIOD), Look::Awake);
    }

    #[test]
    fn nothing_is_looked_at_before_it_is_time() {
        let (start, vitals) = (Instant::now(), Vitals::new().unwrap());
        let mut watchdog = Watchdog::new(start);
        vitals.begin_round();
        assert_eq!(watchdog.look(vitals.beat(), start), Look::Fine);
        assert_eq!(watchdog.due(), Some(start + PERIOD));
    }
}

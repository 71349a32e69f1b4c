//! What the launcher can see of a sentry that says nothing any more: words that both share.
//!
//! The sentry writes which call of its stack it is in, which system call was refused to it and which calls of the
//! program it has taken. Each costs it a plain store. What is read here was written by a process that may run
//! hostile code: it chooses words of messages, and no action but one that the sentry could have caused itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use netgraft_linux::shared::{Pulse, Thread, Words};
use netgraft_plugin::Call;

/// The calls of the stack.
const CALL: usize = 0;
/// Not zero while the launcher sleeps without a look at [`CALL`].
const ASLEEP: usize = 1;
/// The number of a refused system call, plus one.
const REFUSED: usize = 2;
/// The thread in which the sentry met a signal that ended it.
const THREAD: usize = 3;
/// Not zero when the sentry found its socket to the launcher closed.
const CUT_OFF: usize = 4;
/// The number of the sentry's round of its loop, and in the lowest bit whether it is under way.
const ROUND: usize = 5;
/// The sentry's thread that serves calls.
const CALLS: usize = 6;
/// From here on each listener has [`EACH`] words.
const LISTENERS: usize = 8;
const EACH: usize = 4;
/// How many calls were taken from the listener; the ids of the first and the last.
const TAKEN: usize = 0;
const FIRST: usize = 1;
const LAST: usize = 2;
/// Not zero while the last of them is being served.
const SERVING: usize = 3;

/// The most listeners that a sentry serves at a time: each has its place in the page.
pub const MAX_LISTENERS: usize = (Words::COUNT - LISTENERS) / EACH;

/// The calls of a program that a sentry has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The id of the first.
    pub first: u64,
    /// The id of the last.
    pub last: u64,
    /// Whether the last was being served: it may be what the stack did not survive.
    pub serving: bool,
}

/// What a sentry was at when it was looked at: another look that finds the same has found a sentry that stands still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    call: Pulse,
    round: u64,
}

/// What a sentry is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderWay {
    /// A call of its stack.
    Call(Call),
    /// A round of its loop, outside of the stack's calls.
    Round,
}

impl Beat {
    /// What is under way, if anything is.
    #[must_use]
    pub fn under_way(self) -> Option<UnderWay> {
        match Vitals::call_of(self.call) {
            Some(call) => Some(UnderWay::Call(call)),
            None => (self.round & 1 != 0).then_some(UnderWay::Round),
        }
    }
}

/// The shared words of one sandbox.
#[derive(Clone, Debug)]
pub struct Vitals(Arc<Words>);

impl Vitals {
    /// New words, shared with every process that is forked later.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new() -> io::Result<Vitals> {
        Words::new().map(|words| Vitals(Arc::new(words)))
    }

    fn get(&self, index: usize) -> u64 {
        self.0.word(index).load(Relaxed)
    }

    fn set(&self, index: usize, value: u64) {
        self.0.word(index).store(value, Relaxed);
    }

    /// The sentry is about to call its stack; answers whether the launcher is to be woken, since it sleeps.
    pub fn begin(&self, call: Call) -> bool {
        self.0.calls(CALL).begin(call.number());
        self.get(ASLEEP) != 0
    }

    /// The stack has answered.
    pub fn end(&self) {
        self.0.calls(CALL).end();
    }

    /// The sentry has taken a call from this listener, which must be below [`MAX_LISTENERS`].
    pub fn took(&self, listener: usize, id: u64) {
        let at = Self::place(listener);
        let before = self.get(at + TAKEN);
        if before == 0 {
            self.set(at + FIRST, id);
        }
        self.set(at + LAST, id);
        self.set(at + TAKEN, before.wrapping_add(1));
    }

    /// It begins to serve the last call that it has taken.
    pub fn serves(&self, listener: usize) {
        self.set(Self::place(listener) + SERVING, 1);
    }

    /// It has done what there was to do about that call for now.
    pub fn served(&self, listener: usize) {
        self.set(Self::place(listener) + SERVING, 0);
    }

    /// The calls that were taken from a listener.
    pub fn taken(&self, listener: usize) -> Option<Taken> {
        let word = |index| self.get(Self::place(listener) + index);
        (word(TAKEN) != 0).then_some(Taken {
            first: word(FIRST),
            last: word(LAST),
            serving: word(SERVING) != 0,
        })
    }

    /// Forgets the calls of a listener, whose place is another's from now on.
    pub fn clear(&self, listener: usize) {
        for index in [TAKEN, FIRST, LAST, SERVING] {
            self.set(Self::place(listener) + index, 0);
        }
    }

    /// The first word of a listener. One that has no place shares the last: it is refused before.
    fn place(listener: usize) -> usize {
        LISTENERS + EACH * listener.min(MAX_LISTENERS - 1)
    }

    /// Sets whether the launcher sleeps.
    pub fn set_asleep(&self, asleep: bool) {
        self.0.word(ASLEEP).store(u64::from(asleep), SeqCst);
    }

    /// The sentry has been woken and begins a round of its loop; answers whether the launcher is to be woken.
    pub fn begin_round(&self) -> bool {
        self.set(ROUND, (self.get(ROUND) | 1).wrapping_add(2));
        self.get(ASLEEP) != 0
    }

    /// The round is over: the sentry sleeps.
    pub fn end_round(&self) {
        self.set(ROUND, self.get(ROUND) & !1);
    }

    /// What the sentry is at.
    pub fn beat(&self) -> Beat {
        Beat { call: self.pulse(), round: self.get(ROUND) }
    }

    /// Changes with each call of the stack.
    pub fn pulse(&self) -> Pulse {
        self.0.calls(CALL).pulse()
    }

    /// The call that a pulse stands for, if one was under way.
    pub fn call_of(pulse: Pulse) -> Option<Call> {
        pulse.current().and_then(Call::from_number)
    }

    /// The last call that was made, under way or not.
    pub fn last_call(&self) -> Option<Call> {
        self.pulse().last().and_then(Call::from_number)
    }

    /// The calling thread is the sentry's own, beside the main one: what happens in it is not a stack's thread's.
    pub fn note_calls_thread(&self) {
        self.set(CALLS, u64::from(netgraft_linux::shared::thread_id().unsigned_abs()));
    }

    /// The thread in which the sentry met a signal that ended it; either of its own counts as the main one.
    pub fn thread_of_end(&self) -> Option<Thread> {
        let calls = self.get(CALLS);
        match Thread::from_word(self.get(THREAD))? {
            Thread::Other(id) if calls != 0 && u64::from(id.unsigned_abs()) == calls => Some(Thread::Main),
            thread => Some(thread),
        }
    }

    /// The sentry can tell the launcher nothing: code in its process has closed the socket.
    pub fn note_cut_off(&self) {
        self.set(CUT_OFF, 1);
    }

    /// Whether it was so.
    pub fn was_cut_off(&self) -> bool {
        self.get(CUT_OFF) != 0
    }

    /// The system call that was refused to the sentry.
    pub fn refused(&self) -> Option<i64> {
        self.get(REFUSED).checked_sub(1).and_then(|number| i64::try_from(number).ok())
    }

    /// Makes forbidden system calls of the calling process, and the thread that ends it, name themselves here.
    ///
    /// # Errors
    /// As sigaction(2).
    pub fn report_ends(&self) -> io::Result<()> {
        // The handler needs the words for as long as the process lives.
        let words: &'static Arc<Words> = Box::leak(Box::new(Arc::clone(&self.0)));
        netgraft_linux::shared::report_ends(words, REFUSED, THREAD)
    }

    /// Forgets what one sentry said of its end, before the next begins.
    pub fn renew(&self) {
        self.0.calls(CALL).forget();
        self.end_round();
        for word in [REFUSED, THREAD, CUT_OFF, CALLS] {
            self.set(word, 0);
        }
        for listener in 0..MAX_LISTENERS {
            self.served(listener);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_names_the_call_and_differs_from_the_one_before() {
        let vitals = Vitals::new().unwrap();
        assert_eq!(Vitals::call_of(vitals.pulse()), None);
        let call = Call::poll;
        assert!(!vitals.begin(call));
        let first = vitals.pulse();
        assert_eq!(Vitals::call_of(first).map(Call::name), Some("poll"));
        vitals.end();
        assert_eq!(Vitals::call_of(vitals.pulse()), None);
        vitals.set_asleep(true);
        assert!(vitals.begin(call));
        assert_ne!(vitals.pulse(), first);
        vitals.end();
        assert_eq!(vitals.last_call(), Some(call));
        vitals.renew();
        assert_eq!(vitals.last_call(), None);
        vitals.0.calls(CALL).begin(0xfe);
        assert_eq!(
            (vitals.last_call(), Vitals::call_of(vitals.pulse())),
            (None, None),
            "a number that is none"
        );
    }

    #[test]
    fn a_round_is_under_way_and_a_call_within_it_goes_first() {
        let vitals = Vitals::new().unwrap();
        assert_eq!(vitals.beat().under_way(), None);
        assert!(!vitals.begin_round());
        let first = vitals.beat();
        assert_eq!(first.under_way(), Some(UnderWay::Round));
        vitals.begin(Call::poll);
        assert_eq!(vitals.beat().under_way(), Some(UnderWay::Call(Call::poll)));
        vitals.end();
        vitals.end_round();
        assert_eq!(vitals.beat().under_way(), None);
        vitals.set_asleep(true);
        assert!(vitals.begin_round());
        assert_ne!(vitals.beat(), first);
        vitals.renew();
        assert_eq!(vitals.beat().under_way(), None);
    }

    #[test]
    fn the_calls_that_were_taken_have_a_first_and_a_last() {
        let vitals = Vitals::new().unwrap();
        for listener in [0, 3, MAX_LISTENERS - 1] {
            assert_eq!(vitals.taken(listener), None);
            for id in [u64::MAX, 0, 1] {
                vitals.took(listener, id);
            }
            let taken = Taken { first: u64::MAX, last: 1, serving: true };
            assert_eq!(
                vitals.taken(listener),
                Some(Taken { serving: false, ..taken }),
                "it waits for its turn"
            );
            vitals.serves(listener);
            assert_eq!(vitals.taken(listener), Some(taken));
            vitals.served(listener);
            assert_eq!(vitals.taken(listener), Some(Taken { serving: false, ..taken }));
            vitals.clear(listener);
            assert_eq!(vitals.taken(listener), None);
        }
    }
}

//! What the launcher can see of a sentry that says nothing any more: words that both share.
//!
//! The sentry writes which call of its stack it is in, which system call was refused to it and which calls of the
//! program it has taken. Each costs it a plain store. What is read here was written by a process that may run
//! hostile code: it chooses words of messages, and no action but one that the sentry could have caused itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use netgraft_linux::shared::{Thread, Words};
use netgraft_plugin::Call;

/// The call of the stack under way in the low byte, the last one in the next, and above them how many there were.
const CALL: usize = 0;
/// Not zero while the launcher sleeps without a look at [`CALL`].
const ASLEEP: usize = 1;
/// The number of a refused system call, plus one.
const REFUSED: usize = 2;
/// How many calls of the program were taken; the ids of the first and the last.
const TAKEN: usize = 3;
const FIRST: usize = 4;
const LAST: usize = 5;
/// Not zero while the last of them is being served.
const SERVING: usize = 6;
/// The thread in which the sentry met a signal that ended it.
const THREAD: usize = 7;
/// Not zero when the sentry found its socket to the launcher closed.
const CUT_OFF: usize = 8;

/// The calls of the program that a sentry has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The id of the first.
    pub(crate) first: u64,
    /// The id of the last.
    pub(crate) last: u64,
    /// Whether the last was being served: it may be what the stack did not survive.
    pub(crate) serving: bool,
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
    pub(crate) fn begin(&self, call: Call) -> bool {
        let number = u64::from(call.number());
        let word = (self.get(CALL) | 0xffff).wrapping_add(1) | number << 8 | number;
        self.set(CALL, word);
        self.get(ASLEEP) != 0
    }

    /// The stack has answered.
    pub(crate) fn end(&self) {
        self.set(CALL, self.get(CALL) & !0xff);
    }

    /// The sentry has taken a call of the program.
    pub(crate) fn took(&self, id: u64) {
        let before = self.get(TAKEN);
        if before == 0 {
            self.set(FIRST, id);
        }
        self.set(LAST, id);
        self.set(SERVING, 1);
        self.set(TAKEN, before.wrapping_add(1));
    }

    /// It has done what there was to do about that call for now.
    pub(crate) fn served(&self) {
        self.set(SERVING, 0);
    }

    /// The calls that were taken.
    pub(crate) fn taken(&self) -> Option<Taken> {
        let (first, last, serving) = (self.get(FIRST), self.get(LAST), self.get(SERVING) != 0);
        (self.get(TAKEN) != 0).then_some(Taken { first, last, serving })
    }

    /// Sets whether the launcher sleeps.
    pub(crate) fn set_asleep(&self, asleep: bool) {
        self.0.word(ASLEEP).store(u64::from(asleep), SeqCst);
    }

    /// Changes with each call of the stack.
    pub(crate) fn pulse(&self) -> u64 {
        self.get(CALL)
    }

    /// The call that a pulse stands for, if one was under way.
    pub(crate) fn call_of(pulse: u64) -> Option<Call> {
        Call::from_number((pulse & 0xff) as u8)
    }

    /// The last call that was made, under way or not.
    pub(crate) fn last_call(&self) -> Option<Call> {
        Self::call_of(self.get(CALL) >> 8)
    }

    /// The thread in which the sentry met a signal that ended it.
    pub(crate) fn thread_of_end(&self) -> Option<Thread> {
        Thread::from_word(self.get(THREAD))
    }

    /// The sentry can tell the launcher nothing: code in its process has closed the socket.
    pub(crate) fn note_cut_off(&self) {
        self.set(CUT_OFF, 1);
    }

    /// Whether it was so.
    pub(crate) fn was_cut_off(&self) -> bool {
        self.get(CUT_OFF) != 0
    }

    /// The system call that was refused to the sentry.
    pub(crate) fn refused(&self) -> Option<i64> {
        self.get(REFUSED).checked_sub(1).and_then(|number| i64::try_from(number).ok())
    }

    /// Makes forbidden system calls of the calling process, and the thread that ends it, name themselves here.
    ///
    /// # Errors
    /// As sigaction(2).
    pub(crate) fn report_ends(&self) -> io::Result<()> {
        // The handler needs the words for as long as the process lives.
        let words: &'static Arc<Words> = Box::leak(Box::new(Arc::clone(&self.0)));
        netgraft_linux::shared::report_ends(words, REFUSED, THREAD)
    }

    /// Forgets what one sentry said of its end, before the next begins.
    pub(crate) fn renew(&self) {
        self.set(CALL, self.get(CALL) & !0xffff);
        for word in [REFUSED, SERVING, THREAD, CUT_OFF] {
            self.set(word, 0);
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
        assert_eq!(Vitals::call_of(0xfe), None, "a code that is none");
    }

    #[test]
    fn the_calls_that_were_taken_have_a_first_and_a_last() {
        let vitals = Vitals::new().unwrap();
        assert_eq!(vitals.taken(), None);
        for id in [u64::MAX, 0, 1] {
            vitals.took(id);
        }
        let taken = Taken { first: u64::MAX, last: 1, serving: true };
        assert_eq!(vitals.taken(), Some(taken));
        vitals.served();
        assert_eq!(vitals.taken(), Some(Taken { serving: false, ..taken }));
    }
}

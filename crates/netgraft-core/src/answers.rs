//! Answers to calls, and those that their callers did not get.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::core::{Core, Kernel, Request, Resumed};
use crate::parked::Parked;
use crate::program::{Caller, Gone};
use crate::surrogate::Cookie;
use crate::uapi::{self, Errno};

/// What a call comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The value that the call returns.
    Value(i64),
    /// Nothing is to be sent: it was answered (a descriptor was injected), or parked.
    Done,
    /// The kernel is to do it: the descriptor is not one that the sentry serves.
    Kernel,
}

/// The result of a call.
pub(crate) type Outcome = Result<Answer, Errno>;

/// How many threads are remembered at most, so that the entries of dead ones do not pile up.
const REMEMBERED: usize = 256;

/// An answer that was not delivered, since a signal interrupted the caller.
struct Lost {
    number: i64,
    args: [u64; 6],
    result: Result<i64, Errno>,
    /// Which of the threads that have this number ([`crate::program::Program::incarnation`]).
    incarnation: u64,
}

/// What is remembered of threads between their calls.
#[derive(Default)]
pub(crate) struct Answers {
    lost: HashMap<u32, Lost>,
    /// Calls that were interrupted when they had done a part, and the thread's incarnation.
    parts: HashMap<u32, (Parked, u64)>,
    /// Threads whose last call was a `bind` with success: of which open file, to which address.
    bound: HashMap<u32, (Cookie, SocketAddr)>,
}

impl Answers {
    /// Of how many threads something is remembered.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.lost.len() + self.parts.len() + self.bound.len()
    }

    /// Notes that a thread has bound the socket with this cookie.
    pub(crate) fn note_bind(&mut self, tid: u32, cookie: Cookie, addr: SocketAddr) {
        if self.bound.len() >= REMEMBERED {
            self.bound.clear();
        }
        self.bound.insert(tid, (cookie, addr));
    }

    /// Takes what a thread has just bound, if that was its last call.
    pub(crate) fn take_bound(&mut self, tid: u32) -> Option<(Cookie, SocketAddr)> {
        self.bound.remove(&tid)
    }
}

impl<K: Kernel> Core<K> {
    /// Sends an outcome to its caller.
    pub(crate) fn answer(&mut self, caller: &Caller, outcome: Outcome) {
        let result = match outcome {
            Ok(Answer::Done) => return,
            Ok(Answer::Kernel) => return self.kernel.let_kernel(caller),
            Ok(Answer::Value(value)) => Ok(value),
            Err(errno) => Err(errno),
        };
        tracing::trace!(tid = caller.tid, ?result);
        // ESRCH: the caller was gone before anything was done for it. If it makes the call again, that is a new one.
        if self.kernel.answer(caller, result) == Err(Gone)
            && result != Err(uapi::ESRCH)
            && let Some(incarnation) = self.kernel.incarnation(caller.tid)
        {
            if self.answers.lost.len() >= REMEMBERED {
                self.answers.lost.clear();
            }
            let lost = Lost { number: caller.number, args: caller.args, result, incarnation };
            self.answers.lost.insert(caller.tid, lost);
        }
    }

    /// Keeps what a call has done that a signal has interrupted: its thread may make it again.
    pub(crate) fn keep_part(&mut self, parked: Parked) {
        if parked.progress == 0 {
            return;
        }
        if let Some(incarnation) = self.kernel.incarnation(parked.caller.tid) {
            if self.answers.parts.len() >= REMEMBERED {
                self.answers.parts.clear();
            }
            self.answers.parts.insert(parked.caller.tid, (parked, incarnation));
        }
    }

    /// The same of a call that was served again and whose caller was gone by then.
    pub(crate) fn keep_part_of(&mut self, request: &Request, outcome: &Outcome) {
        if let (Some(Resumed { deadline, progress }), Err(uapi::ESRCH)) = (request.resumed, outcome) {
            self.keep_part(Parked { caller: request.caller, call: request.call, deadline, progress });
        }
    }

    /// What a thread has to go on with that makes a call: the part that the same call had done when it was interrupted.
    pub(crate) fn take_part(&mut self, caller: &Caller) -> Option<Resumed> {
        // A thread waits in one call: what it was parked for was interrupted.
        let parked = self.parked.forget_thread(caller.tid).map(|(_, parked)| parked);
        let kept = self.answers.parts.remove(&caller.tid);
        let kept = || {
            let (parked, incarnation) = kept?;
            (self.kernel.incarnation(caller.tid) == Some(incarnation)).then_some(parked)
        };
        parked.or_else(kept)?.resumed_by(caller)
    }

    /// A caller that was interrupted before it got its answer, and now asks the same again, gets that answer: what it
    /// asked for was done and must not be done twice. Says whether that was so.
    pub(crate) fn repeat_lost(&mut self, caller: &Caller) -> bool {
        let Some(lost) = self.answers.lost.remove(&caller.tid) else { return false };
        let same = lost.number == caller.number && lost.args == caller.args;
        if !same || self.kernel.incarnation(caller.tid) != Some(lost.incarnation) {
            return false;
        }
        self.answer(caller, lost.result.map(Answer::Value));
        true
    }
}

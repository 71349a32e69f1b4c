//! What the sentry's threads share: they take turns at it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netgraft_core::Core;
use netgraft_linux::worker::Wake;
use netgraft_plugin::Instant;

use crate::bindings::Bindings;

/// What is shared, while a thread has its turn.
pub(crate) struct Turn {
    /// The sockets.
    pub(crate) core: Core<Bindings>,
    /// Until when the loop sleeps, while it does; `None` while it is awake.
    pub(crate) sleeps: Option<Sleep>,
    /// Calls that the thread for them has served.
    pub(crate) calls: u64,
}

/// How long the loop sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// At most until then.
    Until(Instant),
    /// Until something happens.
    Forever,
}

/// Turns are taken in the order in which they were asked for: a thread that has many calls to serve does not keep the
/// loop waiting.
pub(crate) struct Turns {
    queue: Mutex<()>,
    turn: Mutex<Turn>,
    /// Wakes the loop.
    wake: Wake,
    /// How the thread that serves calls has ended.
    ended: Mutex<Option<io::Error>>,
}

impl Turns {
    /// The loop is awake.
    pub(crate) fn new(core: Core<Bindings>, wake: Wake) -> Turns {
        Turns {
            queue: Mutex::new(()),
            turn: Mutex::new(Turn { core, sleeps: None, calls: 0 }),
            wake,
            ended: Mutex::new(None),
        }
    }

    /// Waits for a turn. What a thread that has panicked leaves must not be used: the loop asks first how it has ended
    /// ([`Turns::take_ended`]).
    pub(crate) fn take(&self) -> MutexGuard<'_, Turn> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        drop(queue);
        turn
    }

    /// Wakes the loop if it would sleep for longer than it may: a call has changed what is due.
    pub(crate) fn wake_if_due(&self, turn: &mut Turn) {
        let Some(sleep) = turn.sleeps else { return };
        let due = turn.core.next_deadline();
        let is_late = match (due, sleep) {
            (None, _) => false,
            (Some(_), Sleep::Forever) => true,
            (Some(due), Sleep::Until(at)) => due < at,
        };
        if is_late {
            turn.sleeps = None;
            self.wake();
        }
    }

    /// Wakes the loop.
    pub(crate) fn wake(&self) {
        self.wake.wake();
    }

    /// Readable when the loop was woken.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Notes that the loop is awake.
    pub(crate) fn clear_wake(&self) {
        self.wake.clear();
    }

    /// Notes how the thread that serves calls has ended, and wakes the loop.
    pub(crate) fn note_ended(&self, error: io::Error) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.wake();
    }

    /// How the thread that serves calls has ended, if it has.
    pub(crate) fn take_ended(&self) -> Option<io::Error> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

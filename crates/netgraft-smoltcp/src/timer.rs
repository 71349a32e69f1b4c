//! The timers of all sockets in one heap. An entry that became stale is noticed when it fires, so that moving
//! a deadline back costs nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use netgraft_plugin::{Handle, Instant};

/// A heap of deadlines.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Handle)>>,
}

impl Timers {
    /// Sees to it that `handle` fires no later than `at`. `armed` is the socket's earliest entry.
    pub(crate) fn arm(&mut self, handle: Handle, armed: &mut Option<Instant>, at: Instant) {
        if armed.is_none_or(|old| at < old) {
            *armed = Some(at);
            self.heap.push(Reverse((at, handle)));
        }
    }

    /// The next deadline; some of its sockets may be gone, or want a later one.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes a socket whose time has come, with the time of its entry.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Handle, Instant)> {
        let &Reverse((at, handle)) = self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        Some((handle, at))
    }

    pub(crate) fn clear(&mut self) {
        self.heap.clear();
    }
}

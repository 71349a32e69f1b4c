//! Calls that are answered later.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::codec::call::Call;
use crate::core::Resumed;
use crate::program::Caller;
use crate::table::SocketId;
use netgraft_plugin::Instant;

/// A blocking call that could not be done at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parked {
    /// Who waits.
    pub(crate) caller: Caller,
    /// For what.
    pub(crate) call: Call,
    /// Until when: the socket's time-out.
    pub(crate) deadline: Option<Instant>,
    /// Messages that it has received already (recvmmsg(2)), or bytes that it has moved (`waiting.rs`).
    pub(crate) progress: u32,
}

impl Parked {
    /// What a call goes on with that a signal has interrupted: a thread that makes it again has what it has done.
    pub(crate) fn resumed_by(&self, caller: &Caller) -> Option<Resumed> {
        let again = self.caller.number == caller.number && self.caller.args == caller.args;
        (again && self.progress > 0).then_some(Resumed { deadline: self.deadline, progress: self.progress })
    }
}

/// All parked calls, by socket.
///
/// A thread waits in one call at most, so a new call of a thread means that its parked one was interrupted.
#[derive(Debug, Default)]
pub(crate) struct ParkingLot {
    by_socket: HashMap<SocketId, VecDeque<Parked>>,
    by_thread: HashMap<u32, SocketId>,
    /// Deadlines, each with its thread.
    deadlines: BTreeSet<(Instant, u32)>,
}

impl ParkingLot {
    /// Parks a call behind those of the same socket.
    pub(crate) fn park(&mut self, socket: SocketId, parked: Parked) {
        self.forget_thread(parked.caller.tid);
        self.by_thread.insert(parked.caller.tid, socket);
        self.deadlines.extend(parked.deadline.map(|at| (at, parked.caller.tid)));
        self.by_socket.entry(socket).or_default().push_back(parked);
    }

    /// Drops what a thread was parked for, and gives it.
    pub(crate) fn forget_thread(&mut self, tid: u32) -> Option<(SocketId, Parked)> {
        let socket = self.by_thread.remove(&tid)?;
        let queue = self.by_socket.get_mut(&socket)?;
        let at = queue.iter().position(|p| p.caller.tid == tid)?;
        let parked = queue.remove(at)?;
        if queue.is_empty() {
            self.by_socket.remove(&socket);
        }
        self.drop_deadline(&parked);
        Some((socket, parked))
    }

    fn drop_deadline(&mut self, parked: &Parked) {
        if let Some(at) = parked.deadline {
            self.deadlines.remove(&(at, parked.caller.tid));
        }
    }

    /// The first call that is parked on a socket and that `wanted` picks.
    pub(crate) fn first(&self, socket: SocketId, wanted: impl Fn(&Call) -> bool) -> Option<Parked> {
        self.by_socket.get(&socket)?.iter().find(|p| wanted(&p.call)).copied()
    }

    /// Whether a caller is parked on a socket.
    pub(crate) fn is_parked(&self, socket: SocketId, caller: &Caller) -> bool {
        self.by_socket.get(&socket).is_some_and(|queue| queue.iter().any(|p| p.caller == *caller))
    }

    /// Makes a parked call wait no longer than until `deadline`.
    pub(crate) fn limit(&mut self, socket: SocketId, caller: &Caller, deadline: Instant) {
        let queue = self.by_socket.get_mut(&socket);
        let Some(parked) = queue.and_then(|q| q.iter_mut().find(|p| p.caller == *caller)) else { return };
        let old = parked.deadline.replace(parked.deadline.map_or(deadline, |d| d.min(deadline)));
        let new = parked.deadline;
        self.deadlines.extend(new.map(|at| (at, caller.tid)));
        if let Some(old) = old
            && Some(old) != new
        {
            self.deadlines.remove(&(old, caller.tid));
        }
    }

    /// Whether anything is parked on a socket.
    pub(crate) fn has(&self, socket: SocketId) -> bool {
        self.by_socket.contains_key(&socket)
    }

    /// Takes all calls that are parked on a socket.
    pub(crate) fn take_all(&mut self, socket: SocketId) -> VecDeque<Parked> {
        let queue = self.by_socket.remove(&socket).unwrap_or_default();
        for parked in &queue {
            self.by_thread.remove(&parked.caller.tid);
            self.drop_deadline(parked);
        }
        queue
    }

    /// How many calls are parked.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn len(&self) -> usize {
        self.by_socket.values().map(VecDeque::len).sum()
    }

    /// What a parked call has done by now; `None` if it is not parked.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn moved(&self, call: u64) -> Option<u32> {
        let parked = self.by_socket.values().flatten().find(|parked| parked.caller.id == call);
        parked.map(|parked| parked.progress)
    }

    /// Takes the calls of connect(2) that are parked on a socket, and leaves the others.
    pub(crate) fn take_connects(&mut self, socket: SocketId) -> Vec<Parked> {
        let Some(queue) = self.by_socket.get(&socket) else { return Vec::new() };
        let connects = queue.iter().filter(|p| matches!(p.call, Call::Connect { .. }));
        let threads: Vec<u32> = connects.map(|p| p.caller.tid).collect();
        threads.into_iter().filter_map(|tid| self.forget_thread(tid)).map(|(_, parked)| parked).collect()
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes a call whose deadline has come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Parked> {
        let (at, tid) = *self.deadlines.first()?;
        if at > now {
            return None;
        }
        let parked = self.forget_thread(tid);
        // Whatever the thread was parked for, this deadline is over.
        self.deadlines.remove(&(at, tid));
        parked.map(|(_, parked)| parked)
    }
}

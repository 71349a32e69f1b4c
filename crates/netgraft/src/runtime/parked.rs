//! Calls that are answered later.

use std::collections::{HashMap, VecDeque};

use netgraft_plugin::Instant;
use netgraft_sentry::call::Call;

use super::caller::Caller;
use super::table::SocketId;

/// A blocking call that could not be done at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parked {
    /// Who waits.
    pub(super) caller: Caller,
    /// For what.
    pub(super) call: Call,
    /// Until when: the socket's time-out.
    pub(super) deadline: Option<Instant>,
    /// Messages that it has received already (recvmmsg(2)).
    pub(super) progress: u32,
}

/// All parked calls, by socket.
///
/// A thread waits in one call at most, so a new call of a thread means that its parked one was interrupted.
#[derive(Debug, Default)]
pub(super) struct ParkingLot {
    by_socket: HashMap<SocketId, VecDeque<Parked>>,
    by_thread: HashMap<u32, SocketId>,
    /// How many have a deadline.
    timed: usize,
}

impl ParkingLot {
    /// Parks a call behind those of the same socket.
    pub(super) fn park(&mut self, socket: SocketId, parked: Parked) {
        self.forget_thread(parked.caller.tid);
        self.by_thread.insert(parked.caller.tid, socket);
        self.timed += usize::from(parked.deadline.is_some());
        self.by_socket.entry(socket).or_default().push_back(parked);
    }

    /// Drops what a thread was parked for.
    pub(super) fn forget_thread(&mut self, tid: u32) {
        let Some(socket) = self.by_thread.remove(&tid) else { return };
        if let Some(queue) = self.by_socket.get_mut(&socket) {
            if let Some(at) = queue.iter().position(|p| p.caller.tid == tid)
                && let Some(parked) = queue.remove(at)
            {
                self.timed -= usize::from(parked.deadline.is_some());
            }
            if queue.is_empty() {
                self.by_socket.remove(&socket);
            }
        }
    }

    /// The first call that is parked on a socket and that `wanted` picks.
    pub(super) fn first(&self, socket: SocketId, wanted: impl Fn(&Call) -> bool) -> Option<Parked> {
        self.by_socket.get(&socket)?.iter().find(|p| wanted(&p.call)).copied()
    }

    /// Whether a caller is parked on a socket.
    pub(super) fn is_parked(&self, socket: SocketId, caller: &Caller) -> bool {
        self.by_socket.get(&socket).is_some_and(|queue| queue.iter().any(|p| p.caller == *caller))
    }

    /// Makes a parked call wait no longer than until `deadline`.
    pub(super) fn limit(&mut self, socket: SocketId, caller: &Caller, deadline: Instant) {
        let queue = self.by_socket.get_mut(&socket);
        if let Some(parked) = queue.and_then(|q| q.iter_mut().find(|p| p.caller == *caller)) {
            self.timed += usize::from(parked.deadline.is_none());
            parked.deadline = Some(parked.deadline.map_or(deadline, |d| d.min(deadline)));
        }
    }

    /// Whether anything is parked on a socket.
    pub(super) fn has(&self, socket: SocketId) -> bool {
        self.by_socket.contains_key(&socket)
    }

    /// Takes all calls that are parked on a socket.
    pub(super) fn take_all(&mut self, socket: SocketId) -> VecDeque<Parked> {
        let queue = self.by_socket.remove(&socket).unwrap_or_default();
        for parked in &queue {
            self.by_thread.remove(&parked.caller.tid);
            self.timed -= usize::from(parked.deadline.is_some());
        }
        queue
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.timed == 0 {
            return None;
        }
        self.by_socket.values().flatten().filter_map(|p| p.deadline).min()
    }

    /// Takes the calls whose deadline has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(SocketId, Parked)> {
        if self.timed == 0 {
            return Vec::new();
        }
        let due: Vec<(SocketId, Parked)> = self
            .by_socket
            .iter()
            .flat_map(|(id, queue)| queue.iter().map(|p| (*id, *p)))
            .filter(|(_, p)| p.deadline.is_some_and(|d| d <= now))
            .collect();
        for (_, parked) in &due {
            self.forget_thread(parked.caller.tid);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::table::{Socket, State, Table};
    use netgraft_plugin::{Domain, Kind, Protocol, SocketSpec};

    fn parked(tid: u32, deadline: Option<Instant>) -> Parked {
        Parked {
            caller: Caller { id: u64::from(tid), tid, number: 0, args: [0; 6] },
            call: Call::Listen { fd: 3, backlog: 0 },
            deadline,
            progress: 0,
        }
    }

    #[test]
    fn a_thread_is_parked_once_and_deadlines_are_found() {
        let spec = SocketSpec { domain: Domain::V4, kind: Kind::Stream, protocol: Protocol::Tcp };
        let mut table = Table::default();
        let a = table.insert(Socket::new(spec, None, State::Fresh));
        let b = table.insert(Socket::new(spec, None, State::Fresh));
        let mut lot = ParkingLot::default();
        lot.park(a, parked(1, None));
        lot.park(a, parked(2, Some(Instant::from_millis(5))));
        lot.park(b, parked(1, None));
        assert_eq!(lot.first(a, |_| true).map(|p| p.caller.tid), Some(2), "thread 1 moved on");
        assert_eq!(lot.next_deadline(), Some(Instant::from_millis(5)));
        assert!(lot.take_due(Instant::from_millis(4)).is_empty());
        assert_eq!(lot.take_due(Instant::from_millis(5)).len(), 1);
        assert!(!lot.has(a));
        assert_eq!(lot.take_all(b).len(), 1);
        assert_eq!(lot.next_deadline(), None);
    }
}

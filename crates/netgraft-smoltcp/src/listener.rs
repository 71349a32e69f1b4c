//! The queues of listeners: each SYN makes a connection that waits here.

use std::collections::{BTreeSet, VecDeque};

use netgraft_plugin::{Events, Handle};

/// Largest backlog (`somaxconn`, listen(2)).
const MOST: u32 = 4096;

/// The queues of a listening socket.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    backlog: usize,
    /// Connections whose handshake is not complete.
    pub(crate) half_open: BTreeSet<Handle>,
    /// Connections that wait for `accept`, in their order.
    pub(crate) ready: VecDeque<Handle>,
}

impl Listener {
    pub(crate) fn new(backlog: u32) -> Self {
        let mut listener = Listener::default();
        listener.set_backlog(backlog);
        listener
    }

    pub(crate) fn set_backlog(&mut self, backlog: u32) {
        self.backlog = backlog.min(MOST) as usize;
    }

    /// Whether one more connection would be too many: like Linux, one more than the backlog waits.
    pub(crate) fn is_full(&self) -> bool {
        self.half_open.len() + self.ready.len() > self.backlog
    }

    /// Whether so many wait for `accept` that no more are completed.
    pub(crate) fn is_crowded(&self) -> bool {
        self.ready.len() > self.backlog
    }

    pub(crate) fn readiness(&self) -> Events {
        if self.ready.is_empty() { Events::empty() } else { Events::IN }
    }
}

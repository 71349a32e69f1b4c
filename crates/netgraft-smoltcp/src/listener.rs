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
    /// Connections that took data and whose handshake is not complete (RFC 7413).
    pub(crate) early: BTreeSet<Handle>,
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

    /// Whether so many handshakes are underway that one more is answered without a memory of it.
    pub(crate) fn is_flooded(&self) -> bool {
        self.half_open.len() > self.backlog
    }

    /// TCP_INFO of a listener: connections that wait for `accept`, and how many may (`tcpi_unacked`, `tcpi_sacked`).
    pub(crate) fn queue(&self) -> (usize, usize) {
        (self.ready.len(), self.backlog)
    }

    /// Whether so many wait for `accept` that no more are completed: like Linux, one more than the backlog waits.
    pub(crate) fn is_crowded(&self) -> bool {
        self.ready.len() > self.backlog
    }

    pub(crate) fn readiness(&self) -> Events {
        if self.ready.is_empty() { Events::empty() } else { Events::IN }
    }
}

//! The table of connections in TIME-WAIT (RFC 9293 section 3.6.1).

use std::collections::VecDeque;
use std::time::Duration;

use netgraft_plugin::Instant;
use netgraft_tcp::{TIME_WAIT, TimeWait};

use crate::addr::Tuple;
use crate::hash::{Keyed, Map};
use crate::ports::Sharing;

/// After how long a connection over loopback may take the addresses again (`tcp_tw_reuse` of 2, ip-sysctl).
const REUSE: Duration = Duration::from_secs(1);
/// Most of them; the oldest leaves first (`tcp_max_tw_buckets`).
const MOST: usize = 65_536;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) tcp: TimeWait,
    /// How it is counted on its port.
    pub(crate) sharing: Sharing,
    pub(crate) since: Instant,
    pub(crate) loopback: bool,
}

/// All of them.
pub(crate) struct TimeWaits {
    map: Map<Tuple, Waiting>,
    order: VecDeque<(Instant, Tuple)>,
}

impl TimeWaits {
    pub(crate) fn new(key: Keyed) -> Self {
        TimeWaits { map: Map::with_hasher(key), order: VecDeque::new() }
    }

    pub(crate) fn get(&self, tuple: &Tuple) -> Option<&Waiting> {
        if self.map.is_empty() { None } else { self.map.get(tuple) }
    }

    /// Adds one; answers one that had to leave for it.
    pub(crate) fn insert(&mut self, tuple: Tuple, waiting: Waiting) -> Option<(Tuple, Waiting)> {
        let evicted = if self.map.len() >= MOST { self.pop() } else { None };
        self.map.insert(tuple, waiting);
        self.order.push_back((waiting.since, tuple));
        evicted
    }

    pub(crate) fn remove(&mut self, tuple: &Tuple) -> Option<Waiting> {
        self.map.remove(tuple)
    }

    fn pop(&mut self) -> Option<(Tuple, Waiting)> {
        while let Some((since, tuple)) = self.order.pop_front() {
            if self.map.get(&tuple).is_some_and(|w| w.since == since) {
                return self.map.remove(&tuple).map(|waiting| (tuple, waiting));
            }
        }
        None
    }

    /// Takes one whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<(Tuple, Waiting)> {
        while self.order.front().is_some_and(|(since, _)| *since + TIME_WAIT <= now) {
            let (since, tuple) = self.order.pop_front()?;
            if self.map.get(&tuple).is_some_and(|w| w.since == since) {
                return self.map.remove(&tuple).map(|waiting| (tuple, waiting));
            }
        }
        None
    }

    /// When the next one's time is over.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.front().map(|(since, _)| *since + TIME_WAIT)
    }

    pub(crate) fn clear(&mut self) {
        self.map.clear();
        self.order.clear();
    }
}

impl Waiting {
    /// Whether `connect` may take the addresses.
    pub(crate) fn may_reuse(&self, now: Instant) -> bool {
        self.loopback && now.since(self.since) >= REUSE
    }
}

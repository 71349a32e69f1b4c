//! Connections in TIME-WAIT (RFC 9293 section 3.6.1): a few numbers each, without buffers.

use std::collections::VecDeque;
use std::time::Duration;

use netgraft_plugin::Instant;

use crate::addr::Tuple;
use crate::hash::{Keyed, Map};
use crate::packet::{RST, SYN, Segment};
use crate::ports::Sharing;

/// How long they stay, as on Linux.
const STAY: Duration = Duration::from_secs(60);
/// After how long a connection over loopback may take the addresses again (`tcp_tw_reuse` of 2, ip-sysctl).
const REUSE: Duration = Duration::from_secs(1);
/// Most of them; the oldest leaves first (`tcp_max_tw_buckets`).
const MOST: usize = 65_536;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// The next sequence numbers of both sides: ours, and the peer's.
    pub(crate) next: (u32, u32),
    /// How it is counted on its port.
    pub(crate) sharing: Sharing,
    pub(crate) since: Instant,
    pub(crate) loopback: bool,
}

/// What a segment for one of them means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Nothing.
    Ignore,
    /// It is acknowledged again.
    Acknowledge,
    /// It begins a new connection if somebody listens (RFC 6191, RFC 1122 section 4.2.2.13).
    Begin,
    /// It ends the wait: the peer knows nothing of the connection.
    End,
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
        while self.order.front().is_some_and(|(since, _)| *since + STAY <= now) {
            let (since, tuple) = self.order.pop_front()?;
            if self.map.get(&tuple).is_some_and(|w| w.since == since) {
                return self.map.remove(&tuple).map(|waiting| (tuple, waiting));
            }
        }
        None
    }

    /// When the next one's time is over.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.front().map(|(since, _)| *since + STAY)
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

    /// What to do with a segment.
    pub(crate) fn meaning(&self, segment: &Segment) -> Meaning {
        if segment.flags & RST != 0 {
            // An exact reset answers our acknowledgement of a SYN that seemed old: the next SYN must find the
            // addresses free. As on Linux with `tcp_rfc1337` of 0, against RFC 1337.
            return if segment.seq == self.next.1 { Meaning::End } else { Meaning::Ignore };
        }
        if segment.flags & SYN != 0 {
            // Nothing old is underway on the loopback, so any new sequence number will do.
            let newer = (segment.seq.wrapping_sub(self.next.1) as i32) > 0;
            return if newer || self.loopback { Meaning::Begin } else { Meaning::Acknowledge };
        }
        let plain = segment.payload_len == 0 && segment.flags & crate::packet::FIN == 0;
        if plain && segment.seq == self.next.1 { Meaning::Ignore } else { Meaning::Acknowledge }
    }
}

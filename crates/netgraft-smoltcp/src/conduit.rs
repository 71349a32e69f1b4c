//! How datagrams leave on the link: through a raw socket of smoltcp for each neighbor, so that a neighbor which
//! does not answer holds up nobody else's packets.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use netgraft_plugin::{Error, Handle, Instant, Result};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::raw;

use crate::device::Edit;
use crate::hash::{Keyed, Map};
use crate::iface::NetIf;

/// Packets that wait for a neighbor's address, and their bytes.
const PACKETS: usize = 64;
const BYTES: usize = 128 * 1024;
/// How long a neighbor is asked.
const UNRESOLVED: Duration = Duration::from_secs(3);
/// How often.
const ASK: Duration = Duration::from_secs(1);
/// How much of a packet is kept to be quoted: its header and some of what follows.
const QUOTED: usize = 128;
/// Neighbors with packets waiting, at most.
const MOST: usize = 256;

struct Conduit {
    set: SocketSet<'static>,
    inner: SocketHandle,
    since: Instant,
    /// When to try again, and when the neighbor was last asked.
    retry: Instant,
    asked: Instant,
    /// Who sent what is waiting.
    senders: Vec<Handle>,
    /// What is changed in each of the packets, in their order.
    edits: VecDeque<Edit>,
    /// The first bytes of the first packet that waits.
    first: Vec<u8>,
}

/// What was meant for a neighbor that does not answer.
pub(crate) struct Lost {
    /// Who sent it.
    pub(crate) senders: Vec<Handle>,
    /// The first bytes of the first packet.
    pub(crate) first: Vec<u8>,
}

impl Conduit {
    /// Sends what can leave.
    fn drain(&mut self, netif: &mut NetIf, now: Instant) {
        while let Some(&edit) = self.edits.front()
            && netif.egress(now, &mut self.set, edit)
        {
            self.edits.pop_front();
        }
    }

    fn is_empty(&self) -> bool {
        self.set.get::<raw::Socket<'static>>(self.inner).send_queue() == 0
    }
}

/// The raw sockets.
pub(crate) struct Conduits {
    waiting: Map<IpAddr, Conduit>,
    /// One that is empty, for the next packet.
    spare: Option<(SocketSet<'static>, SocketHandle)>,
}

impl Conduits {
    pub(crate) fn new(key: Keyed) -> Self {
        Conduits { waiting: Map::with_hasher(key), spare: None }
    }

    /// Sends an IP packet of `len` bytes that `fill` writes to the neighbor `hop`. Answers whether the neighbor
    /// must be asked for its address: the packet waits for it.
    ///
    /// # Errors
    /// [`Error::NoBuffers`] if too much waits for neighbors.
    pub(crate) fn send(
        &mut self,
        netif: &mut NetIf,
        (hop, sender, edit): (IpAddr, Handle, Edit),
        len: usize,
        now: Instant,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<bool> {
        if let Some(conduit) = self.waiting.get_mut(&hop) {
            let socket = conduit.set.get_mut::<raw::Socket<'static>>(conduit.inner);
            fill(socket.send(len).map_err(|_| Error::NoBuffers)?);
            conduit.edits.push_back(edit);
            if !conduit.senders.contains(&sender) {
                conduit.senders.push(sender);
            }
            return Ok(false);
        }
        let (mut set, inner) = self.spare.take().unwrap_or_else(make);
        let mut first = [0; QUOTED];
        let kept = len.min(QUOTED);
        match set.get_mut::<raw::Socket<'static>>(inner).send(len) {
            Ok(buf) => {
                fill(buf);
                first[..kept].copy_from_slice(&buf[..kept]);
            }
            Err(_) => {
                self.spare = Some((set, inner));
                return Err(Error::MessageTooLong);
            }
        }
        let before = netif.tx.packets;
        netif.egress(now, &mut set, edit);
        let asked = netif.tx.packets != before;
        if set.get::<raw::Socket<'static>>(inner).send_queue() == 0 {
            self.spare = Some((set, inner));
        } else if self.waiting.len() < MOST {
            let retry = netif.poll_at(now, &set).unwrap_or(now);
            let senders = vec![sender];
            let edits = VecDeque::from([edit]);
            let from = if edit.envelope { outer_len(first[0]).min(kept) } else { 0 };
            let first = first[from..kept].to_vec();
            let conduit = Conduit { set, inner, since: now, retry, asked: now, senders, edits, first };
            self.waiting.insert(hop, conduit);
            return Ok(!asked);
        } else {
            return Err(Error::NoBuffers);
        }
        Ok(false)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When a neighbor is asked again, or given up.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.waiting.values().map(|c| c.retry.min(c.since + UNRESOLVED)).min()
    }

    /// Tries again; answers what was for neighbors that are given up now, and whom to ask again.
    pub(crate) fn retry(&mut self, netif: &mut NetIf, now: Instant) -> (Vec<Lost>, Vec<IpAddr>) {
        let (mut lost, mut ask) = (Vec::new(), Vec::new());
        self.waiting.retain(|hop, conduit| {
            conduit.drain(netif, now);
            if conduit.is_empty() {
                return false;
            }
            if now >= conduit.since + UNRESOLVED {
                let senders = std::mem::take(&mut conduit.senders);
                lost.push(Lost { senders, first: std::mem::take(&mut conduit.first) });
                return false;
            }
            if now >= conduit.asked + ASK {
                conduit.asked = now;
                ask.push(*hop);
            }
            conduit.retry = netif
                .poll_at(now, &conduit.set)
                .map_or(now, |at| at.max(now))
                .max(now + Duration::from_millis(1));
            true
        });
        (lost, ask)
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }
}

fn make() -> (SocketSet<'static>, SocketHandle) {
    let buffer = |packets: usize, bytes: usize| {
        raw::PacketBuffer::new(vec![raw::PacketMetadata::EMPTY; packets], vec![0; bytes])
    };
    let mut set = SocketSet::new(Vec::with_capacity(1));
    let inner = set.add(raw::Socket::new(None, None, buffer(1, 1), buffer(PACKETS, BYTES)));
    (set, inner)
}

/// The length of the header of an envelope that begins so.
const fn outer_len(first: u8) -> usize {
    if first >> 4 == 4 { 20 } else { 40 }
}

//! Packets that came in parts: smoltcp puts them together for a raw socket.

use netgraft_plugin::Instant;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::raw;

use crate::demux::PLAIN;
use crate::iface::NetIf;

/// The reassembler's socket and a buffer for what comes out of it.
pub(crate) struct Fragments {
    set: SocketSet<'static>,
    inner: SocketHandle,
    whole: Vec<u8>,
}

impl Fragments {
    pub(crate) fn new() -> Self {
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let buffer = |packets: usize, bytes: usize| {
            raw::PacketBuffer::new(vec![raw::PacketMetadata::EMPTY; packets], vec![0; bytes])
        };
        let inner = set.add(raw::Socket::new(None, None, buffer(1, 65_536), buffer(1, 1)));
        Fragments { set, inner, whole: Vec::new() }
    }

    /// Takes a fragment; if it completes a packet, that packet in a frame like the fragment's own. The frame
    /// is given back with [`Fragments::give_back`].
    pub(crate) fn take(&mut self, netif: &mut NetIf, frame: &[u8], now: Instant) -> Option<Vec<u8>> {
        netif.ingress(now, frame, &mut self.set, PLAIN);
        let packet = self.set.get_mut::<raw::Socket<'static>>(self.inner).recv().ok()?;
        let mut whole = std::mem::take(&mut self.whole);
        whole.clear();
        whole.extend_from_slice(&frame[..netif.header]);
        whole.extend_from_slice(packet);
        Some(whole)
    }

    /// Keeps the buffer for the next packet.
    pub(crate) fn give_back(&mut self, whole: Vec<u8>) {
        self.whole = whole;
    }
}

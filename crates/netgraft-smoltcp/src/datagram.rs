//! What UDP, ICMP and raw sockets share: a queue of received datagrams, a peer, groups.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use netgraft_plugin::{Error, Events, Handle, Received, RecvFlags, Result};

use crate::core::{Core, Path};
use crate::device::Edit;
use crate::iface::Side;
use crate::options::Options;
use crate::packet::Header;
use crate::sock::{Body, Sock};

/// What a datagram costs beside its bytes, so that empty ones fill a buffer too.
const OVERHEAD: usize = 256;
/// Default receive buffer (`rmem_default`, socket(7)).
const BUFFER: u32 = 212_992;

/// A received datagram's description.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    pub(crate) from: SocketAddr,
    pub(crate) to: IpAddr,
    pub(crate) interface: u32,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
}

impl Meta {
    fn received(self, len: usize, full_len: usize) -> Received {
        Received {
            len,
            full_len,
            from: Some(self.from),
            to: Some(self.to),
            interface: self.interface,
            hop_limit: self.hop_limit,
            traffic_class: self.traffic_class,
        }
    }
}

/// A datagram socket.
#[derive(Debug, Default)]
pub(crate) struct Datagrams {
    bytes: VecDeque<u8>,
    metas: VecDeque<(Meta, usize)>,
    pub(crate) peer: Option<SocketAddr>,
    /// The local address before the peer was noted.
    pub(crate) bound_before: Option<IpAddr>,
    pub(crate) shut_read: bool,
    pub(crate) shut_write: bool,
    /// Whether a send was refused since a queue was full.
    pub(crate) blocked: bool,
    /// Joined groups: interface and group.
    pub(crate) groups: Vec<(u32, IpAddr)>,
    /// Interface of outgoing multicast; 0 for the route's.
    pub(crate) multicast_interface: u32,
    /// The same as the program named it, for `IP_MULTICAST_IF`.
    pub(crate) multicast_address: Option<std::net::Ipv4Addr>,
}

impl Datagrams {
    /// Bytes of the receive buffer.
    fn limit(options: &Options) -> usize {
        options.receive_buffer.map_or(BUFFER, |b| b.saturating_mul(2)) as usize
    }

    /// Queues a datagram if there is room.
    pub(crate) fn push(&mut self, meta: Meta, parts: [&[u8]; 2], options: &Options) -> bool {
        let len = parts[0].len() + parts[1].len();
        // As on Linux, one more is taken as long as there is any room.
        if self.bytes.len() + self.metas.len() * OVERHEAD >= Self::limit(options) || self.shut_read {
            return false;
        }
        for part in parts {
            self.bytes.extend(part);
        }
        self.metas.push_back((meta, len));
        true
    }

    /// Takes or looks at the first datagram.
    pub(crate) fn recv(&mut self, buf: &mut [u8], flags: RecvFlags) -> Option<Received> {
        let &(meta, full_len) = self.metas.front()?;
        let len = full_len.min(buf.len());
        let (front, back) = self.bytes.as_slices();
        let first = front.len().min(len);
        buf[..first].copy_from_slice(&front[..first]);
        buf[first..len].copy_from_slice(&back[..len - first]);
        if !flags.contains(RecvFlags::PEEK) {
            self.metas.pop_front();
            self.bytes.drain(..full_len);
        }
        Some(meta.received(len, full_len))
    }

    /// Shows the first datagram in the queue's own memory, and forgets it; whether there was one.
    pub(crate) fn take_first(&mut self, show: impl FnOnce(&Received, &[u8])) -> bool {
        let Some((meta, len)) = self.metas.pop_front() else { return false };
        let received = meta.received(len, len);
        match self.bytes.as_slices().0.get(..len) {
            Some(data) => show(&received, data),
            // It goes round the end of the queue, which happens once in a round.
            None => {
                let bytes = self.bytes.make_contiguous();
                show(&received, bytes.get(..len).unwrap_or_default());
            }
        }
        self.bytes.drain(..len);
        true
    }

    pub(crate) fn first_len(&self) -> usize {
        self.metas.front().map_or(0, |(_, len)| *len)
    }

    /// Readiness as Linux' `datagram_poll` has it.
    pub(crate) fn readiness(&self, error: Option<Error>) -> Events {
        let mut ready = if error.is_some() { Events::ERR } else { Events::empty() };
        ready.set(Events::IN, !self.metas.is_empty() || self.shut_read);
        ready.set(Events::RDHUP, self.shut_read);
        ready.set(Events::HUP, self.shut_read && self.shut_write);
        ready.set(Events::OUT, !self.blocked);
        ready
    }
}

impl Sock {
    /// What the socket is ready for.
    pub(crate) fn readiness(&self) -> Events {
        let failed = if self.error.is_some() { Events::ERR } else { Events::empty() };
        match &self.body {
            // As Linux has it for a socket in state CLOSE.
            Body::Fresh => Events::OUT | Events::HUP | failed,
            Body::Listener(listener) => listener.readiness() | failed,
            Body::Conn(conn) => conn.readiness(self.error),
            Body::Datagrams(datagrams) => datagrams.readiness(self.error),
        }
    }
}

impl Core {
    /// Queues a received datagram at a socket; answers whether it was taken.
    pub(crate) fn receive(&mut self, handle: Handle, meta: Meta, parts: [&[u8]; 2]) -> bool {
        let Some(sock) = self.socks.get_mut(handle) else { return false };
        let Body::Datagrams(datagrams) = &mut sock.body else { return false };
        let taken = datagrams.push(meta, parts, &sock.options);
        if taken {
            self.update(handle, true);
        }
        taken
    }

    /// Sends one datagram: an IP header and `len` bytes that `fill` writes.
    ///
    /// # Errors
    /// [`Error::Again`] if the queue is full, [`Error::MessageTooLong`], [`Error::NoBuffers`].
    pub(crate) fn transmit(
        &mut self,
        sender: Handle,
        path: Path,
        header: &Header,
        len: usize,
        looped: bool,
        fill: impl Fn(&mut [u8], bool),
    ) -> Result<()> {
        let total = header.len() + len;
        let most = if header.dst.is_ipv4() { 65_535 } else { 65_535 + 40 };
        if total > most {
            return Err(Error::MessageTooLong);
        }
        let write = |buf: &mut [u8], checksum: bool| {
            header.emit(buf);
            fill(&mut buf[header.len()..], checksum);
        };
        if path.side == Side::Loopback {
            return self.send_inside(sender, total, |buf| write(buf, false));
        }
        if looped && !self.net.lo.tx.is_full() {
            self.net.lo.tx.push(total, Default::default(), |buf| write(buf, false));
        }
        let whole = self.socks.get(sender).is_some_and(|s| s.options.keeps_whole());
        if whole && !self.link_down && total > self.net.mtu(Side::Link) {
            return Err(Error::MessageTooLong);
        }
        let edit = Edit {
            traffic_class: header.traffic_class,
            may_fragment: header.dst.is_ipv4() && !header.dont_fragment,
            header_checksum: true,
            ..Edit::default()
        };
        self.send_outside(sender, path.hop, total, edit, |buf| write(buf, true))
    }

    /// Queues an IP packet of `len` bytes for this stack itself.
    ///
    /// # Errors
    /// [`Error::Again`] if the queue is full.
    pub(crate) fn send_inside(
        &mut self,
        sender: Handle,
        len: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        if self.net.lo.tx.is_full() {
            return Err(self.refuse(sender));
        }
        self.net.lo.tx.push(len, Default::default(), write);
        Ok(())
    }

    /// Queues an IP packet of `len` bytes for the neighbor `hop`.
    ///
    /// # Errors
    /// [`Error::Again`] if the queue is full, [`Error::NoBuffers`], [`Error::NetworkDown`].
    pub(crate) fn send_outside(
        &mut self,
        sender: Handle,
        hop: IpAddr,
        len: usize,
        edit: Edit,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        if self.link_down {
            return Err(Error::NetworkDown);
        }
        let Some(netif) = &mut self.net.link else { return Err(Error::NetworkUnreachable) };
        if netif.tx.is_full() {
            return Err(self.refuse(sender));
        }
        if self.conduits.send(netif, (hop, sender, edit), len, self.now, write)? {
            self.solicit(hop);
        }
        Ok(())
    }

    fn refuse(&mut self, sender: Handle) -> Error {
        if let Some(sock) = self.socks.get_mut(sender)
            && let Body::Datagrams(datagrams) = &mut sock.body
            && !datagrams.blocked
        {
            datagrams.blocked = true;
            self.blocked.push(sender);
            self.update(sender, false);
        }
        Error::Again
    }

    /// Tells the senders that were refused that there is room again.
    pub(crate) fn unblock(&mut self) {
        let room = !self.net.lo.tx.is_full() && self.net.link.as_ref().is_none_or(|l| !l.tx.is_full());
        if self.blocked.is_empty() || !room {
            return;
        }
        for handle in std::mem::take(&mut self.blocked) {
            if let Some(Body::Datagrams(datagrams)) = self.socks.get_mut(handle).map(|s| &mut s.body) {
                datagrams.blocked = false;
                self.update(handle, false);
            }
        }
    }
}

//! UDP (RFC 768).

use std::net::{IpAddr, SocketAddr};

use netgraft_plugin::{Error, Handle, Result};

use crate::addr::Tuple;
use crate::core::{Core, Path, check_family, destination, loopback};
use crate::datagram::Meta;
use crate::iface::Side;
use crate::packet::{self, Header, Packet, UDP};
use crate::ports::Role;
use crate::sock::{Body, Hold};

impl Core {
    /// A UDP packet.
    pub(crate) fn udp_input(&mut self, side: Side, frame: &[u8], packet: &Packet<'_>) {
        if self.net.at(side).checksums && !packet::checksum_holds(packet) {
            self.stats.packets_dropped += 1;
            return;
        }
        let Some((src_port, dst_port, data)) = packet::udp(packet.payload) else {
            self.stats.packets_dropped += 1;
            return;
        };
        let from = SocketAddr::new(packet.src, src_port);
        let to = SocketAddr::new(packet.dst, dst_port);
        let meta = meta(side, packet, from);
        if packet.dst.is_multicast() || self.net.is_broadcast(packet.dst) {
            return self.udp_to_many(meta, to, data, side);
        }
        if side == Side::Link && !self.net.is_local(packet.dst) {
            self.stats.packets_dropped += 1;
            return;
        }
        let tuple = Tuple::new(to, from);
        let receiver = match self.udp_peers.get(&tuple) {
            Some(&handle) => Some(handle),
            None => self.udp_ports.receiver(dst_port, packet.dst, || self.key.of(&tuple)),
        };
        match receiver {
            Some(handle) if self.receive(handle, meta, [data, &[]]) => self.stats.udp_received += 1,
            Some(_) => self.stats.udp_receive_overflows += 1,
            None => {
                self.stats.udp_no_port += 1;
                // The interface answers "port unreachable".
                self.net.at(side).ingress_unclaimed(self.now, frame);
            }
        }
    }

    fn udp_to_many(&mut self, meta: Meta, to: SocketAddr, data: &[u8], side: Side) {
        let joined = |index: u32| self.groups.contains_key(&(index, to.ip()));
        let member = match side {
            // The loopback carries the copies of what this stack sends itself.
            Side::Loopback => joined(1) || joined(2),
            Side::Link => joined(2),
        };
        if to.ip().is_multicast() && !member {
            return;
        }
        let all: Vec<Handle> = self.udp_ports.receivers(to.port(), to.ip()).collect();
        for handle in all {
            if self.receive(handle, meta, [data, &[]]) {
                self.stats.udp_received += 1;
            } else {
                self.stats.udp_receive_overflows += 1;
            }
        }
    }

    /// Sends a UDP datagram.
    ///
    /// # Errors
    /// As `Sockets::send`.
    pub(crate) fn udp_send(&mut self, handle: Handle, data: &[u8], to: Option<SocketAddr>) -> Result<()> {
        let sock = self.socks.held(handle)?;
        let Body::Datagrams(datagrams) = &sock.body else { return Err(Error::NotSupported) };
        let dst = destination(to.or(datagrams.peer).ok_or(Error::DestinationRequired)?);
        check_family(sock.spec.domain, &sock.options, dst)?;
        if dst.port() == 0 {
            return Err(Error::Invalid);
        }
        let limit = if dst.is_ipv4() { 65_507 } else { 65_527 };
        if data.len() > limit {
            return Err(Error::MessageTooLong);
        }
        if self.net.is_broadcast(dst.ip()) && !sock.options.broadcast {
            return Err(Error::AccessDenied);
        }
        if sock.bound.hold == Hold::Nothing {
            let ip = sock.bound.ip;
            self.hold_port(handle, ip, 0, Role::Receiving)?;
        }
        let (path, header) = self.datagram_header(handle, dst.ip(), UDP)?;
        let sock = self.socks.held(handle)?;
        let ports = (sock.bound.port, dst.port());
        let looped = self.loops_back(handle, dst.ip());
        self.transmit(handle, path, &header, 8 + data.len(), looped, |buf, checksum| {
            packet::emit_udp(buf, &header, ports, data, checksum);
        })?;
        self.stats.udp_sent += 1;
        Ok(())
    }
}

/// How the packet of a datagram is described to its reader.
pub(crate) fn meta(side: Side, packet: &Packet<'_>, from: SocketAddr) -> Meta {
    Meta {
        from,
        to: packet.dst,
        interface: side.index(),
        hop_limit: packet.hop_limit,
        traffic_class: packet.traffic_class,
    }
}

impl Core {
    /// The way and the IP header of a datagram from a socket.
    ///
    /// # Errors
    /// [`Error::NetworkUnreachable`], [`Error::Invalid`] from a loopback address to elsewhere.
    pub(crate) fn datagram_header(
        &self,
        handle: Handle,
        dst: IpAddr,
        protocol: u8,
    ) -> Result<(Path, Header)> {
        let sock = self.socks.held(handle)?;
        let Body::Datagrams(datagrams) = &sock.body else { return Err(Error::NotSupported) };
        let multicast = dst.is_multicast();
        let mut path = match (multicast, datagrams.multicast_interface) {
            (true, 1) => Path { side: Side::Loopback, src: loopback(dst.is_ipv4()), hop: dst },
            _ => self.path_of(sock, dst)?,
        };
        let bound = sock.bound.ip;
        if !bound.is_unspecified() && !bound.is_multicast() && !self.net.is_broadcast(bound) {
            if bound.is_ipv4() != dst.is_ipv4() {
                return Err(Error::NetworkUnreachable);
            }
            if bound.is_loopback() && path.side == Side::Link {
                return Err(Error::Invalid);
            }
            path.src = bound;
        }
        let v4 = dst.is_ipv4();
        let hop_limit = match (multicast, v4) {
            (true, true) => sock.options.multicast_ttl,
            (true, false) => sock.options.multicast_hops,
            _ => sock.options.hop_limit(v4),
        };
        let traffic_class = sock.options.class(v4);
        let dont_fragment = sock.options.dont_fragment(true);
        Ok((path, Header { src: path.src, dst, protocol, hop_limit, traffic_class, dont_fragment }))
    }

    /// Whether a packet that is sent to many also reaches this stack's own sockets.
    pub(crate) fn loops_back(&self, handle: Handle, dst: IpAddr) -> bool {
        let Some(sock) = self.socks.get(handle) else { return false };
        match dst {
            IpAddr::V4(_) if dst.is_multicast() => sock.options.multicast_loop,
            IpAddr::V6(_) if dst.is_multicast() => sock.options.multicast_loop6,
            _ => self.net.is_broadcast(dst),
        }
    }
}

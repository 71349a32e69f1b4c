//! ICMP (RFC 792) and ICMPv6 (RFC 4443): errors for packets of ours, echo sockets (icmp(7)), and what multicast
//! routers ask.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netgraft_plugin::{Domain, Error, Handle, Result};

use crate::conduit::Lost;
use crate::core::{Core, candidates, destination};
use crate::iface::Side;
use crate::packet::{self, Header, ICMP, ICMPV6, Packet};
use crate::sock::{Body, Bound, Hold};
use crate::udp::meta;

impl Core {
    /// An ICMP or ICMPv6 message.
    pub(crate) fn icmp_input(&mut self, side: Side, frame: &[u8], packet: &Packet<'_>) {
        let valid = side == Side::Loopback || packet::checksum_holds(packet);
        let of_link = side == Side::Link && self.net.at(side).mac.is_some();
        if of_link && packet.protocol == ICMPV6 && (!valid || self.discovery_input(frame, packet)) {
            return;
        }
        // As Linux has it (icmp_echo_ignore_broadcasts): a question to many would be answered to who is named as its sender.
        let to_many = side == Side::Link && !self.net.is_local(packet.dst);
        if to_many && packet.protocol == ICMP && packet.payload.first() == Some(&8) {
            self.stats.packets_dropped += 1;
            return;
        }
        if valid {
            self.echo_input(side, packet);
            let error = error_of(packet);
            if let (Some((error, hard)), Some(inner)) = (error, packet.payload.get(8..)) {
                self.error_for(inner, error, hard);
            }
            if let (Some(mtu), Some(inner)) = (narrower(packet), packet.payload.get(8..)) {
                self.narrow(inner, mtu);
            }
        }
        // Echo requests and group queries are the interface's.
        self.net.at(side).ingress_unclaimed(self.now, frame);
        let groups = packet.protocol == ICMPV6 && matches!(packet.payload.first(), Some(130..=132));
        if side == Side::Link && groups {
            self.expect_reports();
        }
    }

    /// IGMP: the interface answers queries after a random delay.
    pub(crate) fn group_input(&mut self, side: Side, frame: &[u8]) {
        self.net.at(side).ingress_unclaimed(self.now, frame);
        self.expect_reports();
    }

    fn expect_reports(&mut self) {
        // The longest response delay that routers use (RFC 3376 section 8.3).
        self.reports_until = Some(self.now + Duration::from_secs(11));
    }

    /// Gives an echo reply to the socket that has its identifier.
    pub(crate) fn echo_input(&mut self, side: Side, packet: &Packet<'_>) {
        let reply = if packet.protocol == ICMP { 0 } else { 129 };
        let &[kind, 0, _, _, hi, lo, ..] = packet.payload else { return };
        if kind != reply {
            return;
        }
        let ident = u16::from_be_bytes([hi, lo]);
        let Some(sharers) = self.echoes.get(&(packet.protocol == ICMP, ident)) else { return };
        // Of those that share it the last one gets the reply, as on Linux.
        let meant = |handle: &&Handle| self.is_meant(**handle, packet);
        if let Some(&handle) = sharers.iter().rev().find(meant) {
            let from = SocketAddr::new(packet.src, 0);
            self.receive(handle, meta(side, packet, from), [packet.payload, &[]]);
        }
    }

    /// Whether a packet's addresses are those of an echo or raw socket.
    pub(crate) fn is_meant(&self, handle: Handle, packet: &Packet<'_>) -> bool {
        let Some(sock) = self.socks.get(handle) else { return false };
        let Body::Datagrams(datagrams) = &sock.body else { return false };
        (sock.bound.ip.is_unspecified() || sock.bound.ip == packet.dst)
            && datagrams.peer.is_none_or(|p| p.ip() == packet.src)
    }

    /// Binds an echo socket to an identifier, to one that nobody has if it is 0.
    ///
    /// # Errors
    /// [`Error::AddressInUse`]
    pub(crate) fn hold_ident(&mut self, handle: Handle, ip: IpAddr, ident: u16) -> Result<()> {
        let sock = self.socks.get(handle).ok_or(Error::BadHandle)?;
        let v4 = sock.spec.domain == Domain::V4;
        let shares = |h: &Handle| self.socks.get(*h).is_some_and(|s| s.options.reuse_address);
        let ident = match ident {
            0 => candidates((1, u16::MAX), self.random.next())
                .find(|&i| !self.echoes.contains_key(&(v4, i)))
                .ok_or(Error::AddressInUse)?,
            ident => match self.echoes.get(&(v4, ident)) {
                Some(others) if !(shares(&handle) && others.iter().all(shares)) => {
                    return Err(Error::AddressInUse);
                }
                _ => ident,
            },
        };
        self.echoes.entry((v4, ident)).or_default().push(handle);
        if let Some(sock) = self.socks.get_mut(handle) {
            sock.bound = Bound { ip, port: ident, hold: Hold::Entry };
        }
        Ok(())
    }

    /// Gives the identifier of an echo socket back.
    pub(crate) fn release_ident(&mut self, handle: Handle, v4: bool, ident: u16) {
        if let Some(sharers) = self.echoes.get_mut(&(v4, ident)) {
            sharers.retain(|h| *h != handle);
            if sharers.is_empty() {
                self.echoes.remove(&(v4, ident));
            }
        }
    }

    /// Sends an echo request with the socket's own identifier in it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no echo request.
    pub(crate) fn echo_send(&mut self, handle: Handle, data: &[u8], to: Option<SocketAddr>) -> Result<()> {
        let sock = self.socks.held(handle)?;
        let Body::Datagrams(datagrams) = &sock.body else { return Err(Error::NotSupported) };
        let dst = destination(to.or(datagrams.peer).ok_or(Error::DestinationRequired)?);
        let v4 = sock.spec.domain == Domain::V4;
        if dst.is_ipv4() != v4 {
            return Err(if v4 { Error::FamilyNotSupported } else { Error::NetworkUnreachable });
        }
        let (protocol, request) = if v4 { (ICMP, 8) } else { (ICMPV6, 128) };
        if data.len() < 8 || data[0] != request || data[1] != 0 {
            return Err(Error::Invalid);
        }
        if self.net.is_broadcast(dst.ip()) && !sock.options.broadcast {
            return Err(Error::AccessDenied);
        }
        if sock.bound.hold == Hold::Nothing {
            let ip = sock.bound.ip;
            self.hold_ident(handle, ip, 0)?;
        }
        let ident = self.socks.held(handle)?.bound.port;
        let (path, header) = self.datagram_header(handle, dst.ip(), protocol)?;
        self.transmit(handle, path, &header, data.len(), false, |buf, _| {
            buf.copy_from_slice(data);
            buf[4..6].copy_from_slice(&ident.to_be_bytes());
            packet::fill_icmp_checksum(buf, &header);
        })
    }

    /// After a packet that may have brought a neighbor's address: what waited for it can leave.
    pub(crate) fn neighbors_may_have_come(&mut self) {
        for handle in std::mem::take(&mut self.resolving) {
            if let Some(Body::Conn(conn)) = self.socks.get_mut(handle).map(|s| &mut s.body) {
                conn.resolving = false;
            }
            self.mark_dirty(handle);
        }
        if self.conduits.is_empty() {
            return;
        }
        let Some(netif) = &mut self.net.link else { return };
        let (lost, ask) = self.conduits.retry(netif, self.now);
        for hop in ask {
            self.solicit(hop);
        }
        for Lost { senders, first } in lost {
            self.tell_unreachable(&first);
            self.fail_connected(senders);
        }
    }

    /// Gives raw sockets the error that a router would send for a packet whose next hop does not answer (RFC 1812, section
    /// 4.3.3.1; RFC 4443, section 3.1), as from where it was to go.
    fn tell_unreachable(&mut self, lost: &[u8]) {
        let Some((from, to, of, rest)) = packet::quoted(lost) else { return };
        let (protocol, kind, echo) = if from.is_ipv4() { (ICMP, [3, 1], 8) } else { (ICMPV6, [1, 3], 128) };
        // No error is about another one.
        if of == protocol && rest.first() != Some(&echo) {
            return;
        }
        let header =
            Header { src: to, dst: from, protocol, hop_limit: 64, traffic_class: 0, dont_fragment: false };
        let mut ip = vec![0; header.len()];
        ip.extend(kind);
        ip.extend([0; 6]);
        ip.extend(lost);
        header.emit(&mut ip);
        let (_, message) = ip.split_at_mut(header.len());
        packet::fill_icmp_checksum(message, &header);
        let payload = &ip[header.len()..];
        let error = Packet {
            src: to,
            dst: from,
            protocol,
            hop_limit: 64,
            traffic_class: 0,
            fragment: false,
            ip: &ip,
            payload,
        };
        self.raw_input(Side::Link, &error);
    }

    fn fail_connected(&mut self, senders: Vec<Handle>) {
        for handle in senders {
            let connected = match self.socks.get(handle).map(|s| &s.body) {
                Some(Body::Datagrams(datagrams)) => datagrams.peer.is_some(),
                _ => false,
            };
            if connected {
                self.fail(handle, Error::HostUnreachable);
            }
        }
    }
}

/// The MTU that "fragmentation needed" or "packet too big" tells of.
fn narrower(packet: &Packet<'_>) -> Option<u32> {
    match (packet.protocol, packet.payload) {
        (ICMP, &[3, 4, _, _, _, _, hi, lo, ..]) => Some(u32::from(u16::from_be_bytes([hi, lo]))),
        (ICMPV6, &[2, _, _, _, a, b, c, d, ..]) => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    }
}

/// What an ICMP error means (icmp_err_convert of Linux), and whether it is a hard one; `None` for what is none.
fn error_of(packet: &Packet<'_>) -> Option<(Error, bool)> {
    let &[kind, code, ..] = packet.payload else { return None };
    if packet.protocol == ICMP {
        return match (kind, code) {
            (3, 0 | 6 | 9 | 11) => Some((Error::NetworkUnreachable, code != 0 && code != 11)),
            (3, 2) => Some((Error::ProtocolNotSupported, true)),
            (3, 3) => Some((Error::ConnectionRefused, true)),
            (3, 4) => None,
            (3, 5) => Some((Error::NotSupported, false)),
            (3, 7 | 8 | 10) => Some((Error::HostUnreachable, true)),
            (3, 1 | 12..=15) | (11, _) => Some((Error::HostUnreachable, code >= 13)),
            _ => None,
        };
    }
    match (kind, code) {
        (1, 0) => Some((Error::NetworkUnreachable, false)),
        (1, 1) => Some((Error::AccessDenied, true)),
        (1, 2 | 3) | (3, _) => Some((Error::HostUnreachable, false)),
        (1, 4) => Some((Error::ConnectionRefused, true)),
        _ => None,
    }
}

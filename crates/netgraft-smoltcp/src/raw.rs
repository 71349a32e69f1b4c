//! Raw sockets (raw(7)), and packets whose IP header the program writes.

use std::net::{IpAddr, SocketAddr};

use netgraft_plugin::{Error, Handle, Result};

use crate::core::{Core, check_family, destination};
use crate::device::Edit;
use crate::iface::Side;
use crate::packet::{self, ICMPV6, Packet};
use crate::sock::Body;
use crate::udp::meta;

impl Core {
    /// Gives a packet to the raw sockets of its protocol.
    pub(crate) fn raw_input(&mut self, side: Side, packet: &Packet<'_>) {
        let v4 = packet.dst.is_ipv4();
        let wanted =
            |&&(family, protocol, _): &&(bool, u8, Handle)| family == v4 && protocol == packet.protocol;
        let handles: Vec<Handle> = self.raws.iter().filter(wanted).map(|r| r.2).collect();
        // IPv4 gives the IP header too, IPv6 does not (raw(7), RFC 3542 section 3).
        let data = if v4 { packet.ip } else { packet.payload };
        for handle in handles {
            if self.is_meant(handle, packet) {
                let from = SocketAddr::new(packet.src, 0);
                self.receive(handle, meta(side, packet, from), [data, &[]]);
            }
        }
    }

    /// Where a packet of a raw socket goes.
    fn raw_destination(&self, handle: Handle, to: Option<SocketAddr>) -> Result<SocketAddr> {
        let sock = self.socks.held(handle)?;
        let Body::Datagrams(datagrams) = &sock.body else { return Err(Error::NotSupported) };
        let dst = destination(to.or(datagrams.peer).ok_or(Error::DestinationRequired)?);
        check_family(sock.spec.domain, &sock.options, dst)?;
        if self.net.is_broadcast(dst.ip()) && !sock.options.broadcast {
            return Err(Error::AccessDenied);
        }
        Ok(dst)
    }

    /// Sends a packet of a raw socket; the IP header is made here.
    ///
    /// # Errors
    /// As `Sockets::send`.
    pub(crate) fn raw_send(
        &mut self,
        handle: Handle,
        protocol: u8,
        data: &[u8],
        to: Option<SocketAddr>,
    ) -> Result<()> {
        let dst = self.raw_destination(handle, to)?;
        let (path, header) = self.datagram_header(handle, dst.ip(), protocol)?;
        self.transmit(handle, path, &header, data.len(), false, |buf, _| {
            buf.copy_from_slice(data);
            // RFC 3542 section 3.1: the kernel does it for ICMPv6.
            if protocol == ICMPV6 && buf.len() >= 4 {
                packet::fill_icmp_checksum(buf, &header);
            }
        })
    }

    /// Sends a packet whose IP header the program has written (raw(7), `IP_HDRINCL`).
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no header, [`Error::MessageTooLong`] for more than the interface carries; as
    /// `Sockets::send`.
    pub(crate) fn raw_send_whole(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
    ) -> Result<()> {
        let dst = self.raw_destination(handle, to)?;
        let (path, envelope) = self.datagram_header(handle, dst.ip(), ENVELOPE)?;
        let on_link = path.side == Side::Link;
        let outer = if on_link { envelope.len() } else { 0 };
        // On a link the packet goes to smoltcp in an envelope, which also has no more than 65,535 bytes.
        if data.len() > self.net.mtu(path.side).min(65_535 - outer) {
            return Err(Error::MessageTooLong);
        }
        check_whole(data, dst.is_ipv4())?;
        let ident = (self.random.next() % 0xffff) as u16 + 1;
        let write = |buf: &mut [u8]| {
            if on_link {
                envelope.emit(buf);
            }
            let ip = &mut buf[outer..];
            ip.copy_from_slice(data);
            complete(ip, path.src, ident);
        };
        let len = outer + data.len();
        match path.side {
            Side::Loopback => self.send_inside(handle, len, write),
            Side::Link => {
                let edit = Edit { envelope: true, ..Edit::default() };
                self.send_outside(handle, path.hop, len, edit, write)
            }
        }
    }
}

/// Checks a packet whose header a program has written, as far as Linux does.
///
/// # Errors
/// [`Error::Invalid`] if it is shorter than its header.
fn check_whole(ip: &[u8], v4: bool) -> Result<(), Error> {
    let least = match ip.first() {
        Some(first) if v4 => (usize::from(first & 15) * 4).max(20),
        _ => 40,
    };
    if ip.len() < least { Err(Error::Invalid) } else { Ok(()) }
}

/// Fills in what a program may leave open in the IPv4 header that it writes: total length and checksum always, the
/// source if it is 0, and the identification if it is 0 and the packet may be cut (raw(7)). Nothing in IPv6.
fn complete(ip: &mut [u8], src: IpAddr, ident: u16) {
    let IpAddr::V4(src) = src else { return };
    let header_len = usize::from(ip.first().map_or(0, |b| b & 15)) * 4;
    if header_len < 20 || header_len > ip.len() {
        return;
    }
    let total = ip.len() as u16;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    if ip[4..6] == [0, 0] && ip[6] & 0x40 == 0 {
        ip[4..6].copy_from_slice(&ident.to_be_bytes());
    }
    if ip[12..16] == [0; 4] {
        ip[12..16].copy_from_slice(&src.octets());
    }
    ip[10..12].fill(0);
    let check = !packet::sum(&ip[..header_len], 0);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
}

/// The protocol of an envelope (RFC 3692: for use within one's own).
pub(crate) const ENVELOPE: u8 = 253;

/// Takes the packet out of an envelope behind a link header of `link` bytes; the length that is left. What smoltcp
/// sends of its own in between, to find a neighbor, is no envelope.
pub(crate) fn unpack(frame: &mut [u8], link: usize) -> usize {
    let len = frame.len();
    let outer = match frame.get(link..).and_then(|ip| Some((ip.first()? >> 4, ip))) {
        Some((4, ip)) if ip.get(9) == Some(&ENVELOPE) => 20,
        Some((6, ip)) if ip.get(6) == Some(&ENVELOPE) => 40,
        _ => return len,
    };
    if len < link + outer {
        return len;
    }
    frame.copy_within(link + outer.., link);
    len - outer
}

//! IP packets: what the demultiplexer looks at, and what datagram sockets send. Every length is checked here,
//! once; a packet that does not fit its own lengths is `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::device::Edit;

pub(crate) const ICMP: u8 = 1;
pub(crate) const IGMP: u8 = 2;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const FRAGMENT_V6: u8 = 44;
/// `IPPROTO_RAW`: the program writes the IP header (raw(7)).
pub(crate) const RAW: u8 = 255;

/// A parsed IP packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    /// Whether it is a part of a larger packet.
    pub(crate) fragment: bool,
    /// The whole packet, without padding of the link.
    pub(crate) ip: &'a [u8],
    /// What follows the IP header and the extension headers that are skipped.
    pub(crate) payload: &'a [u8],
}

fn be16(b: &[u8], at: usize) -> u16 {
    match b.get(at..at + 2) {
        Some(&[hi, lo]) => u16::from_be_bytes([hi, lo]),
        _ => 0,
    }
}

fn be32(b: &[u8], at: usize) -> u32 {
    u32::from(be16(b, at)) << 16 | u32::from(be16(b, at + 2))
}

/// Parses an IPv4 (RFC 791) or IPv6 packet (RFC 8200).
pub(crate) fn parse(bytes: &[u8]) -> Option<Packet<'_>> {
    match bytes.first()? >> 4 {
        4 => parse_v4(bytes),
        6 => parse_v6(bytes),
        _ => None,
    }
}

fn parse_v4(bytes: &[u8]) -> Option<Packet<'_>> {
    let header = bytes.get(..20)?;
    let header_len = usize::from(header[0] & 15) * 4;
    let ip = bytes.get(..usize::from(be16(header, 2)))?;
    if header_len < 20 {
        return None;
    }
    Some(Packet {
        src: Ipv4Addr::from_bits(be32(header, 12)).into(),
        dst: Ipv4Addr::from_bits(be32(header, 16)).into(),
        protocol: header[9],
        hop_limit: header[8],
        traffic_class: header[1],
        fragment: be16(header, 6) & 0x3fff != 0,
        ip,
        payload: ip.get(header_len..)?,
    })
}

fn parse_v6(bytes: &[u8]) -> Option<Packet<'_>> {
    let header = bytes.get(..40)?;
    let ip = bytes.get(..40 + usize::from(be16(header, 4)))?;
    let address = |at: usize| header.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok());
    let (mut protocol, mut payload) = (header[6], &ip[40..]);
    // Hop-by-hop options come first if at all; MLD has them.
    if protocol == 0 {
        let len = usize::from(*payload.get(1)?) * 8 + 8;
        (protocol, payload) = (*payload.first()?, payload.get(len..)?);
    }
    Some(Packet {
        src: Ipv6Addr::from(address(8)?).into(),
        dst: Ipv6Addr::from(address(24)?).into(),
        protocol,
        hop_limit: header[7],
        traffic_class: (be16(header, 0) >> 4) as u8,
        fragment: protocol == FRAGMENT_V6,
        ip,
        payload,
    })
}

/// Changes an outgoing packet as `edit` says. A packet that may be cut on its way gets the identification `ident`.
pub(crate) fn edit(ip: &mut [u8], edit: &Edit, ident: u32) {
    if edit.traffic_class != 0 || edit.may_fragment {
        edit_header(ip, edit, ident);
    }
}

fn edit_header(ip: &mut [u8], edit: &Edit, ident: u32) {
    match ip.first().map(|b| b >> 4) {
        Some(4) if ip.len() >= 20 => {
            ip[1] = edit.traffic_class;
            if edit.may_fragment {
                ip[4..6].copy_from_slice(&(ident as u16).to_be_bytes());
                ip[6..8].fill(0);
            }
            if edit.header_checksum {
                let header_len = (usize::from(ip[0] & 15) * 4).min(ip.len());
                ip[10..12].fill(0);
                let sum = !sum(&ip[..header_len], 0);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
            }
        }
        Some(6) if ip.len() >= 40 => {
            ip[0] = 0x60 | edit.traffic_class >> 4;
            ip[1] = ip[1] & 15 | edit.traffic_class << 4;
        }
        _ => {}
    }
}

/// One's complement sum of big-endian words (RFC 1071), begun with `start`.
pub(crate) fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut total = u64::from(start);
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        total += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    for (i, &byte) in words.remainder().iter().enumerate() {
        total += u64::from(byte) << (if i % 2 == 0 { 8 } else { 0 });
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The sum of the pseudo header of a transport protocol (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub(crate) fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u32 {
    let addresses = match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => u32::from(sum(&s.octets(), 0)) + u32::from(sum(&d.octets(), 0)),
        (IpAddr::V6(s), IpAddr::V6(d)) => u32::from(sum(&s.octets(), 0)) + u32::from(sum(&d.octets(), 0)),
        _ => 0,
    };
    addresses + u32::from(protocol) + (len >> 16) as u32 + (len & 0xffff) as u32
}

/// Whether the checksum of a UDP, ICMP or ICMPv6 payload holds.
pub(crate) fn checksum_holds(packet: &Packet<'_>) -> bool {
    let payload = packet.payload;
    match packet.protocol {
        ICMP => sum(payload, 0) == 0xffff,
        UDP if packet.src.is_ipv4() && be16(payload, 6) == 0 => true,
        UDP => {
            let Some(covered) = payload.get(..usize::from(be16(payload, 4))) else { return false };
            sum(covered, pseudo(packet.src, packet.dst, UDP, covered.len())) == 0xffff
        }
        other => sum(payload, pseudo(packet.src, packet.dst, other, payload.len())) == 0xffff,
    }
}

/// A UDP header (RFC 768): ports, and the payload.
pub(crate) fn udp(payload: &[u8]) -> Option<(u16, u16, &[u8])> {
    let len = usize::from(be16(payload.get(..8)?, 4));
    Some((be16(payload, 0), be16(payload, 2), payload.get(8..len)?))
}

/// What goes into the IP header of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    /// "Don't fragment" of IPv4.
    pub(crate) dont_fragment: bool,
}

impl Header {
    /// Length of the IP header.
    pub(crate) fn len(&self) -> usize {
        if self.dst.is_ipv4() { 20 } else { 40 }
    }

    /// Writes the IP header, its checksum included, in front of the payload that `buf` has room for.
    pub(crate) fn emit(&self, buf: &mut [u8]) {
        let total = buf.len();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                buf[..20].fill(0);
                buf[0] = 0x45;
                buf[1] = self.traffic_class;
                buf[2..4].copy_from_slice(&(total as u16).to_be_bytes());
                buf[6] = if self.dont_fragment { 0x40 } else { 0 };
                buf[8] = self.hop_limit;
                buf[9] = self.protocol;
                buf[12..16].copy_from_slice(&src.octets());
                buf[16..20].copy_from_slice(&dst.octets());
                let check = !sum(&buf[..20], 0);
                buf[10..12].copy_from_slice(&check.to_be_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                buf[..8].fill(0);
                buf[0] = 0x60 | self.traffic_class >> 4;
                buf[1] = self.traffic_class << 4;
                buf[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
                buf[6] = self.protocol;
                buf[7] = self.hop_limit;
                buf[8..24].copy_from_slice(&src.octets());
                buf[24..40].copy_from_slice(&dst.octets());
            }
            _ => buf.fill(0),
        }
    }
}

/// Computes the checksum of a TCP segment.
pub(crate) fn fill_tcp_checksum(buf: &mut [u8], header: &Header) {
    if buf.len() < 20 {
        return;
    }
    buf[16..18].fill(0);
    let check = !sum(buf, pseudo(header.src, header.dst, TCP, buf.len()));
    buf[16..18].copy_from_slice(&check.to_be_bytes());
}

/// Whether the checksum of an IPv4 header holds; IPv6 has none.
pub(crate) fn header_holds(ip: &[u8]) -> bool {
    match ip.first() {
        Some(first) if first >> 4 == 4 => {
            ip.get(..usize::from(first & 15) * 4).is_some_and(|header| sum(header, 0) == 0xffff)
        }
        _ => true,
    }
}

/// The start of a packet that an ICMP error quotes: addresses, protocol, and what follows the IP header, at
/// least 8 bytes (RFC 792, RFC 4443 section 3).
pub(crate) fn quoted(inner: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    match inner.first()? >> 4 {
        4 => {
            let header = inner.get(..20)?;
            let src = Ipv4Addr::from_bits(be32(header, 12)).into();
            let dst = Ipv4Addr::from_bits(be32(header, 16)).into();
            let rest = inner.get(usize::from(header[0] & 15) * 4..)?;
            (rest.len() >= 8).then_some((src, dst, header[9], rest))
        }
        6 => {
            let header = inner.get(..40)?;
            let address = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).ok();
            let (src, dst) = (Ipv6Addr::from(address(8)?), Ipv6Addr::from(address(24)?));
            let rest = inner.get(40..)?;
            (rest.len() >= 8).then_some((src.into(), dst.into(), header[6], rest))
        }
        _ => None,
    }
}

/// Writes a UDP header in front of `data`.
pub(crate) fn emit_udp(buf: &mut [u8], header: &Header, ports: (u16, u16), data: &[u8], checksum: bool) {
    buf[0..2].copy_from_slice(&ports.0.to_be_bytes());
    buf[2..4].copy_from_slice(&ports.1.to_be_bytes());
    buf[4..6].copy_from_slice(&((8 + data.len()) as u16).to_be_bytes());
    buf[6..8].fill(0);
    buf[8..].copy_from_slice(data);
    if checksum {
        // Zero means "none", so a sum of zero is sent as its other form (RFC 768).
        let check = match !sum(buf, pseudo(header.src, header.dst, UDP, buf.len())) {
            0 => 0xffff,
            check => check,
        };
        buf[6..8].copy_from_slice(&check.to_be_bytes());
    }
}

/// Computes the checksum of an ICMP or ICMPv6 message.
pub(crate) fn fill_icmp_checksum(buf: &mut [u8], header: &Header) {
    buf[2..4].fill(0);
    let start = match header.protocol {
        ICMP => 0,
        other => pseudo(header.src, header.dst, other, buf.len()),
    };
    let check = !sum(buf, start);
    buf[2..4].copy_from_slice(&check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(src: &str, dst: &str, protocol: u8) -> Header {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        Header { src, dst, protocol, hop_limit: 64, traffic_class: 0x28, dont_fragment: false }
    }

    #[test]
    fn what_is_emitted_parses_back() {
        for h in [header("192.0.2.1", "192.0.2.2", UDP), header("2001:db8::1", "2001:db8::2", UDP)] {
            for data in [&b""[..], b"a", b"abcd", b"abcdefg"] {
                let mut buf = vec![0; h.len() + 8 + data.len()];
                h.emit(&mut buf);
                emit_udp(&mut buf[h.len()..], &h, (7, 9), data, true);
                let packet = parse(&buf).unwrap();
                assert_eq!((packet.src, packet.dst), (h.src, h.dst));
                assert_eq!((packet.hop_limit, packet.traffic_class, packet.fragment), (64, 0x28, false));
                assert!(checksum_holds(&packet));
                assert_eq!(udp(packet.payload), Some((7, 9, data)));
                *buf.last_mut().unwrap() ^= 1;
                assert!(!checksum_holds(&parse(&buf).unwrap()));
            }
        }
    }

    #[test]
    fn cut_packets_are_refused() {
        let h = header("192.0.2.1", "192.0.2.2", UDP);
        let mut buf = vec![0; 20 + 8 + 4];
        h.emit(&mut buf);
        emit_udp(&mut buf[20..], &h, (7, 9), b"data", true);
        for len in 0..buf.len() {
            assert!(parse(&buf[..len]).is_none(), "{len}");
        }
        buf[20 + 4..20 + 6].copy_from_slice(&100u16.to_be_bytes());
        let packet = parse(&buf).unwrap();
        assert_eq!(udp(packet.payload), None);
        assert!(!checksum_holds(&packet));
    }
}

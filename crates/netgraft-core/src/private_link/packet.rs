//! IP packets on a private link: read from what the kernel sends, and made for what it receives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// A UDP header (RFC 768).
pub(super) const UDP_HEADER: usize = 8;

/// Numbers of protocols (IANA, "Protocol Numbers").
pub(super) const ICMP: u8 = 1;
pub(super) const IGMP: u8 = 2;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

const ETHERTYPE_V4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_V6: [u8; 2] = [0x86, 0xdd];
/// The source of what comes from the sentry: a local address of nobody else's on this link.
const SENTRY: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// "Don't fragment" among the flags of IPv4 (RFC 791, section 3.1).
const DONT_FRAGMENT: u16 = 0x4000;
/// Extension headers of IPv6 (RFC 8200, section 4).
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// More of them than any kernel sends.
const MOST_EXTENSIONS: usize = 4;

/// What a packet's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    /// TTL or hop limit.
    pub(super) hop_limit: u8,
    /// TOS or traffic class.
    pub(super) traffic_class: u8,
    /// Whether no router may cut it (RFC 791); nothing of IPv6.
    pub(super) dont_fragment: bool,
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Identification of the packet.
    pub(super) id: u32,
    /// Bytes of payload before it.
    pub(super) offset: usize,
    /// Whether more follow.
    pub(super) more: bool,
}

/// A packet, or a fragment of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) header: Header,
    pub(super) piece: Option<Piece>,
    /// All of it, from its IP header on.
    pub(super) ip: &'a [u8],
    /// What follows its IP header.
    pub(super) payload: &'a [u8],
}

/// Reads the packet in a frame; `None` if it is none, or not whole.
pub(super) fn parse(frame: &[u8]) -> Option<Packet<'_>> {
    let ethertype = frame.get(12..ETHERNET)?;
    let ip = frame.get(ETHERNET..)?;
    match ip.first()? >> 4 {
        4 if ethertype == ETHERTYPE_V4 => parse_v4(ip),
        6 if ethertype == ETHERTYPE_V6 => parse_v6(ip),
        _ => None,
    }
}

/// Reads a packet that begins with its IPv4 header.
pub(super) fn parse_ip(ip: &[u8]) -> Option<Packet<'_>> {
    if ip.first()? >> 4 == 4 { parse_v4(ip) } else { None }
}

/// RFC 791, section 3.1
fn parse_v4(ip: &[u8]) -> Option<Packet<'_>> {
    let fixed: &[u8; 20] = ip.first_chunk()?;
    let header_len = usize::from(fixed[0] & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let (ip, payload) = (ip.get(..total)?, ip.get(header_len..total)?);
    if header_len < fixed.len() {
        return None;
    }
    let field = u16::from_be_bytes([fixed[6], fixed[7]]);
    let (offset, more) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0);
    let id = u32::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let address = |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]).into();
    let header = Header {
        source: address(12),
        destination: address(16),
        protocol: fixed[9],
        hop_limit: fixed[8],
        traffic_class: fixed[1],
        dont_fragment: field & DONT_FRAGMENT != 0,
    };
    let piece = (offset > 0 || more).then_some(Piece { id, offset, more });
    Some(Packet { header, piece, ip, payload })
}

/// RFC 8200, sections 3 and 4
fn parse_v6(ip: &[u8]) -> Option<Packet<'_>> {
    let fixed: &[u8; 40] = ip.first_chunk()?;
    let len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let ip = ip.get(..fixed.len() + len)?;
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = fixed.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    let (mut next, mut rest, mut piece) = (fixed[6], ip.get(fixed.len()..)?, None);
    for _ in 0..MOST_EXTENSIONS {
        let len = match next {
            HOP_BY_HOP | DESTINATION_OPTIONS => 8 + usize::from(*rest.get(1)?) * 8,
            FRAGMENT => {
                let [_, _, high, low, a, b, c, d] = *rest.first_chunk()?;
                let field = u16::from_be_bytes([high, low]);
                let (offset, more) = (usize::from(field & !7), field & 1 != 0);
                piece = Some(Piece { id: u32::from_be_bytes([a, b, c, d]), offset, more });
                8
            }
            _ => break,
        };
        next = *rest.first()?;
        rest = rest.get(len..)?;
    }
    let header = Header {
        source: address(8)?,
        destination: address(24)?,
        protocol: next,
        hop_limit: fixed[7],
        traffic_class: (fixed[0] << 4) | (fixed[1] >> 4),
        dont_fragment: false,
    };
    Some(Packet { header, piece, ip, payload: rest })
}

/// The ports and the data of a UDP datagram (RFC 768). Its checksum is not looked at: on this link the kernel leaves it
/// to a device that does not exist.
pub(super) fn parse_udp(payload: &[u8]) -> Option<(u16, u16, &[u8])> {
    let [a, b, c, d, e, f, ..] = *payload.first_chunk::<UDP_HEADER>()?;
    let len = usize::from(u16::from_be_bytes([e, f]));
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), payload.get(UDP_HEADER..len)?))
}

/// The addresses of the datagram whose first bytes an ICMP error quotes (RFC 792, RFC 4443).
pub(super) fn quoted_udp(quote: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let octet = |at: usize| quote.get(at).copied();
    let (fixed, protocol) = match octet(0)? >> 4 {
        4 => (usize::from(octet(0)? & 0xf) * 4, octet(9)?),
        6 => (40, octet(6)?),
        _ => return None,
    };
    let address = |at: usize| -> Option<IpAddr> {
        let bytes = quote.get(at..)?;
        match fixed {
            40 if octet(0)? >> 4 == 6 => {
                bytes.first_chunk::<16>().map(|&octets| Ipv6Addr::from(octets).into())
            }
            _ => bytes.first_chunk::<4>().map(|&octets| Ipv4Addr::from(octets).into()),
        }
    };
    let (source, destination) = if octet(0)? >> 4 == 4 { (12, 16) } else { (8, 24) };
    let [a, b, c, d] = *quote.get(fixed..)?.first_chunk()?;
    let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    (protocol == UDP).then_some((
        SocketAddr::new(address(source)?, ports.0),
        SocketAddr::new(address(destination)?, ports.1),
    ))
}

/// Writes a UDP header before the data of a datagram: `datagram` begins with the room for it. IPv4 goes without a checksum,
/// since nothing changes a byte between the sentry and the kernel; IPv6 must have one.
pub(super) fn write_udp(datagram: &mut [u8], header: &Header, ports: (u16, u16)) {
    let len = datagram.len() as u16;
    let Some(fields) = datagram.first_chunk_mut::<UDP_HEADER>() else { return };
    fields[0..2].copy_from_slice(&ports.0.to_be_bytes());
    fields[2..4].copy_from_slice(&ports.1.to_be_bytes());
    fields[4..6].copy_from_slice(&len.to_be_bytes());
    fields[6..8].fill(0);
    if header.source.is_ipv6() {
        let check = match checksum(header, datagram) {
            0 => 0xffff,
            check => check,
        };
        datagram[6..8].copy_from_slice(&check.to_be_bytes());
    }
}

/// Makes the frame of a UDP datagram, if it fits into one.
pub(super) fn udp_frame(
    framing: Framing,
    header: &Header,
    ports: (u16, u16),
    data: &[u8],
    frame: &mut Vec<u8>,
) -> bool {
    let fixed = if header.source.is_ipv4() { 20 } else { 40 };
    let len = UDP_HEADER + data.len();
    if fixed + len > framing.mtu {
        return false;
    }
    put_header(framing, header, None, len, frame);
    frame.extend([0; UDP_HEADER]);
    frame.extend(data);
    if let Some(datagram) = frame.get_mut(ETHERNET + fixed..) {
        write_udp(datagram, header, ports);
    }
    true
}

/// The checksum of a packet's payload with its pseudo-header (RFC 8200, section 8.1; RFC 768).
pub(super) fn checksum(header: &Header, payload: &[u8]) -> u16 {
    let mut sum = u64::from(header.protocol) + payload.len() as u64;
    for address in [header.source, header.destination] {
        sum += match address {
            IpAddr::V4(address) => add(&address.octets()),
            IpAddr::V6(address) => add(&address.octets()),
        };
    }
    fold(sum + add(payload))
}

/// The checksum of some bytes alone (RFC 1071).
pub(super) fn plain_checksum(bytes: &[u8]) -> u16 {
    fold(add(bytes))
}

fn add(bytes: &[u8]) -> u64 {
    // Four bytes at a time: the sum of their halves is that of the pairs (RFC 1071, section 2).
    let (words, rest) = bytes.as_chunks::<4>();
    let whole: u64 = words.iter().map(|&word| u64::from(u32::from_be_bytes(word))).sum();
    let (pairs, last) = rest.as_chunks::<2>();
    let pairs: u64 = pairs.iter().map(|&pair| u64::from(u16::from_be_bytes(pair))).sum();
    whole + pairs + last.first().map_or(0, |&last| u64::from(last) << 8)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What the frames of a link have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framing {
    /// The address of the program's end.
    pub(super) mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub(super) mtu: usize,
    /// Identification of the packet, if it has to be cut.
    pub(super) id: u32,
}

/// Hands out the frames of a packet: one, or several fragments if it is longer than the link allows.
pub(super) fn frames(
    framing: Framing,
    header: &Header,
    payload: &[u8],
    frame: &mut Vec<u8>,
    emit: &mut dyn FnMut(&[u8]),
) {
    let fixed = if header.source.is_ipv4() { 20 } else { 40 };
    if fixed + payload.len() <= framing.mtu {
        put(framing, header, None, payload, frame);
        return emit(frame);
    }
    // A fragment header of IPv6 is as long as the unit of offsets.
    let room = framing.mtu.saturating_sub(fixed + 8) & !7;
    if room == 0 {
        return;
    }
    let mut offset = 0;
    for part in payload.chunks(room) {
        let more = offset + part.len() < payload.len();
        put(framing, header, Some(Piece { id: framing.id, offset, more }), part, frame);
        emit(frame);
        offset += part.len();
    }
}

fn put(framing: Framing, header: &Header, piece: Option<Piece>, payload: &[u8], frame: &mut Vec<u8>) {
    put_header(framing, header, piece, payload.len(), frame);
    frame.extend(payload);
}

/// Begins a frame: all headers before a payload of `len` bytes.
fn put_header(framing: Framing, header: &Header, piece: Option<Piece>, len: usize, frame: &mut Vec<u8>) {
    frame.clear();
    frame.extend(framing.mac);
    frame.extend(SENTRY);
    match (header.source, header.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend(ETHERTYPE_V4);
            frame.extend(header_v4(header, (source, destination), piece, len));
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend(ETHERTYPE_V6);
            put_header_v6(header, (source, destination), piece, len, frame);
        }
        // Never made.
        _ => frame.clear(),
    }
}

/// A link-local address of the sentry's on the link, made of its Ethernet address (RFC 4291, appendix A).
const SENTRY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
/// A hop-by-hop header with the router alert that each message of MLD has (RFC 3810, section 5; RFC 2711).
const ALERT: [u8; 8] = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];

/// The frame of a query to all hosts for the groups that they are members of.
pub(super) fn multicast_listener_query(mac: [u8; 6], mut query: [u8; 28]) -> Vec<u8> {
    let destination = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let header = Header {
        source: SENTRY_V6.into(),
        destination: destination.into(),
        protocol: ICMPV6,
        hop_limit: 1,
        traffic_class: 0,
        dont_fragment: false,
    };
    let check = checksum(&header, &query);
    query[2..4].copy_from_slice(&check.to_be_bytes());
    let mut frame = Vec::new();
    let outer = Header { protocol: HOP_BY_HOP, ..header };
    put_header(Framing { mac, mtu: 1280, id: 0 }, &outer, None, ALERT.len() + query.len(), &mut frame);
    frame.extend(ALERT);
    frame.extend(query);
    frame
}

/// Puts an IPv4 packet into a frame.
pub(super) fn wrap_v4(mac: [u8; 6], ip: &[u8], frame: &mut Vec<u8>) {
    frame.clear();
    frame.extend(mac);
    frame.extend(SENTRY);
    frame.extend(ETHERTYPE_V4);
    frame.extend(ip);
}

/// RFC 791, section 3.1
fn header_v4(
    header: &Header,
    (source, destination): (Ipv4Addr, Ipv4Addr),
    piece: Option<Piece>,
    len: usize,
) -> [u8; 20] {
    let mut bytes = [0; 20];
    let whole = if header.dont_fragment { DONT_FRAGMENT } else { 0 };
    let (id, field) = piece.map_or((0, whole), |piece| {
        (piece.id as u16, (piece.offset / 8) as u16 | if piece.more { 0x2000 } else { 0 })
    });
    bytes[0] = 0x45;
    bytes[1] = header.traffic_class;
    bytes[2..4].copy_from_slice(&((20 + len) as u16).to_be_bytes());
    bytes[4..6].copy_from_slice(&id.to_be_bytes());
    bytes[6..8].copy_from_slice(&field.to_be_bytes());
    bytes[8] = header.hop_limit;
    bytes[9] = header.protocol;
    bytes[12..16].copy_from_slice(&source.octets());
    bytes[16..20].copy_from_slice(&destination.octets());
    let check = plain_checksum(&bytes);
    bytes[10..12].copy_from_slice(&check.to_be_bytes());
    bytes
}

/// RFC 8200, sections 3 and 4.5
fn put_header_v6(
    header: &Header,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    piece: Option<Piece>,
    len: usize,
    frame: &mut Vec<u8>,
) {
    let extension = if piece.is_some() { 8 } else { 0 };
    let class = header.traffic_class;
    frame.extend([0x60 | (class >> 4), class << 4, 0, 0]);
    frame.extend(((len + extension) as u16).to_be_bytes());
    frame.push(if piece.is_some() { FRAGMENT } else { header.protocol });
    frame.push(header.hop_limit);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    if let Some(piece) = piece {
        frame.extend([header.protocol, 0]);
        frame.extend((piece.offset as u16 | u16::from(piece.more)).to_be_bytes());
        frame.extend(piece.id.to_be_bytes());
    }
}

/// The IP header of a packet that the kernel sent, with the first bytes of what followed it, as an ICMP error quotes it.
pub(super) fn quote(header: &Header, first: &[u8], len: usize, into: &mut Vec<u8>) {
    match (header.source, header.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            into.extend(header_v4(header, (source, destination), None, len));
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            put_header_v6(header, (source, destination), None, len, into);
        }
        _ => return,
    }
    into.extend(first);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(v6: bool) -> Header {
        let (source, destination) =
            if v6 { ("2001:db8::1", "2001:db8::2") } else { ("192.0.2.1", "192.0.2.2") };
        Header {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol: UDP,
            hop_limit: 7,
            traffic_class: 0xb8,
            dont_fragment: false,
        }
    }

    fn cut(v6: bool, mtu: usize, payload: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let framing = Framing { mac: [2; 6], mtu, id: 77 };
        frames(framing, &header(v6), payload, &mut Vec::new(), &mut |frame| all.push(frame.to_vec()));
        all
    }

    #[test]
    fn what_is_written_is_read_again() {
        for v6 in [false, true] {
            let mut datagram = vec![0; UDP_HEADER];
            datagram.extend(b"hello");
            write_udp(&mut datagram, &header(v6), (7, 9));
            let frames = cut(v6, 1500, &datagram);
            let [frame] = &*frames else { panic!("{frames:?}") };
            let (framing, mut at_once) = (Framing { mac: [2; 6], mtu: 1500, id: 77 }, Vec::new());
            assert!(udp_frame(framing, &header(v6), (7, 9), b"hello", &mut at_once));
            assert_eq!(at_once, *frame);
            assert!(!udp_frame(framing, &header(v6), (7, 9), &[0; 1500], &mut at_once));
            let packet = parse(frame).unwrap();
            assert_eq!((packet.header, packet.piece), (header(v6), None));
            assert_eq!(parse_udp(packet.payload), Some((7, 9, &b"hello"[..])));
            // With the checksum in it the sum is that of nothing.
            assert_eq!(checksum(&packet.header, packet.payload) == 0, v6);
            if !v6 {
                assert_eq!(plain_checksum(&packet.ip[..20]), 0);
            }
        }
    }

    #[test]
    fn a_long_packet_is_cut_at_units_of_eight_bytes() {
        let payload: Vec<u8> = (0..4000_u32).map(|at| at as u8).collect();
        for v6 in [false, true] {
            let frames = cut(v6, 1500, &payload);
            assert_eq!(frames.len(), 3);
            let mut whole: Vec<u8> = Vec::new();
            for (at, frame) in frames.iter().enumerate() {
                assert!(frame.len() <= ETHERNET + 1500);
                let packet = parse(frame).unwrap();
                let piece = packet.piece.unwrap();
                assert_eq!((piece.id, piece.offset, piece.more), (77, whole.len(), at < 2));
                assert_eq!(packet.header, header(v6));
                whole.extend(packet.payload);
            }
            assert_eq!(whole, payload);
        }
        assert!(cut(false, 20, &payload).is_empty());
    }

    #[test]
    fn what_is_no_packet_is_none() {
        let [frame] = <[Vec<u8>; 1]>::try_from(cut(true, 1500, &[1; 40])).unwrap();
        for len in 0..frame.len() {
            assert_eq!(parse(&frame[..len]), None, "{len}");
        }
        let [frame] = <[Vec<u8>; 1]>::try_from(cut(false, 1500, &[1; 40])).unwrap();
        for len in 0..frame.len() {
            assert_eq!(parse(&frame[..len]), None, "{len}");
        }
        let mut short = frame.clone();
        short[ETHERNET] = 0x44;
        assert_eq!(parse(&short), None);
        for len in [0, 7, 9, 60_000_u16] {
            let mut datagram = [0; 8];
            datagram[4..6].copy_from_slice(&len.to_be_bytes());
            assert_eq!(parse_udp(&datagram), None, "{len}");
        }
    }

    #[test]
    fn a_query_for_groups_is_whole() {
        let mut query = [130; 28];
        query[2..4].fill(0);
        let frame = multicast_listener_query([2; 6], query);
        let packet = parse(&frame).unwrap();
        assert_eq!((packet.header.protocol, packet.payload.len()), (ICMPV6, 28));
        assert_eq!((checksum(&packet.header, packet.payload), packet.header.hop_limit), (0, 1));
    }

    #[test]
    fn what_an_error_quotes_is_read() {
        for v6 in [false, true] {
            let mut datagram = vec![0; UDP_HEADER];
            write_udp(&mut datagram, &header(v6), (7, 9));
            let mut quoted = Vec::new();
            quote(&header(v6), &datagram, UDP_HEADER, &mut quoted);
            let Header { source, destination, .. } = header(v6);
            let both = (SocketAddr::new(source, 7), SocketAddr::new(destination, 9));
            assert_eq!(quoted_udp(&quoted), Some(both));
            for len in 0..quoted.len() - 4 {
                assert_eq!(quoted_udp(&quoted[..len]), None, "{len}");
            }
        }
    }

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        assert_eq!(plain_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(plain_checksum(&[1]), !0x0100);
    }
}

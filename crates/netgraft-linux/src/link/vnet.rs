//! The header in front of a frame that says what is left to do (`struct virtio_net_hdr`, linux/virtio_net.h):
//! checksums to compute, segments to cut; and the same work done here, where nobody else does it.

/// Length of the header.
pub const LEN: usize = 10;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_TCPV4`, `VIRTIO_NET_HDR_GSO_TCPV6`, `VIRTIO_NET_HDR_GSO_UDP_L4`
const GSO_V4: u8 = 1;
const GSO_V6: u8 = 4;
const GSO_UDP: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`, beside one of these: the first segment has CWR set.
const GSO_ECN: u8 = 0x80;

/// The most bytes at the start of a frame that [`describe`] looks at or changes.
pub const HEAD: usize = 14 + 60 + 60;

/// Where the headers of an Ethernet frame with an IP packet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Whether it is IPv4; else it is IPv6 without extension headers.
    pub v4: bool,
    /// The number of the transport protocol: 6 is TCP, 17 UDP.
    pub protocol: u8,
    /// Whether it is a fragment.
    pub fragment: bool,
    /// Offset of the transport header. Not checked against the frame's length.
    pub transport: usize,
    /// End of the IP packet. Not checked against the frame's length.
    pub end: usize,
}

fn be16(bytes: &[u8], at: usize) -> Option<usize> {
    let pair = bytes.get(at..at + 2)?;
    Some(usize::from(u16::from_be_bytes([pair[0], pair[1]])))
}

/// The layout of a frame; `None` if it is no IP packet.
#[must_use]
pub fn layout(frame: &[u8]) -> Option<Layout> {
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let transport = 14 + usize::from(*frame.get(14)? & 15) * 4;
            let fragment = be16(frame, 20)? & 0x3fff != 0;
            let end = 14 + be16(frame, 16)?;
            Some(Layout { v4: true, protocol: *frame.get(23)?, fragment, transport, end })
        }
        [0x86, 0xdd] => {
            let end = 54 + be16(frame, 18)?;
            Some(Layout { v4: false, protocol: *frame.get(20)?, fragment: false, transport: 54, end })
        }
        _ => None,
    }
}

fn add(bytes: &[u8], mut sum: u64) -> u64 {
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        sum += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    for (i, &byte) in words.remainder().iter().enumerate() {
        sum += u64::from(byte) << (if i % 2 == 0 { 8 } else { 0 });
    }
    sum
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sum of the pseudo header.
fn pseudo(frame: &[u8], layout: &Layout, len: usize) -> u64 {
    let addresses = if layout.v4 { 26..34 } else { 22..54 };
    add(frame.get(addresses).unwrap_or(&[]), 0) + u64::from(layout.protocol) + len as u64
}

/// The payload bytes of each piece that a received frame was merged of; 0 if it is a whole one of the wire's.
#[must_use]
pub fn segment_size(header: &[u8]) -> u16 {
    match header {
        [_, gso, _, _, low, high, ..] if *gso != 0 => u16::from_ne_bytes([*low, *high]),
        _ => 0,
    }
}

/// What a header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Nothing: the frame is as it should be.
    Nothing,
    /// A checksum, of the bytes from `start` to the end, to be written `offset` bytes behind that; there is what it begins
    /// with.
    Checksum {
        /// Where the bytes begin.
        start: u16,
        /// Where the checksum stands, behind that.
        offset: u16,
    },
    /// TCP segments or UDP datagrams of so many payload bytes, each with its own headers and checksums.
    Segments(u16),
}

/// What a header of an untrusted sender asks for; `None` for what no kernel takes.
#[must_use]
pub fn task(header: &[u8]) -> Option<Task> {
    let &[flags, kind, _, _, s0, s1, c0, c1, o0, o1] = header.first_chunk::<LEN>()?;
    let half = |low, high| u16::from_ne_bytes([low, high]);
    match (kind & !GSO_ECN, half(s0, s1)) {
        (0, _) if flags & NEEDS_CSUM == 0 => Some(Task::Nothing),
        (0, _) => Some(Task::Checksum { start: half(c0, c1), offset: half(o0, o1) }),
        (GSO_V4 | GSO_V6 | GSO_UDP, size @ 1..) => Some(Task::Segments(size)),
        _ => None,
    }
}

/// Does [`Task::Checksum`]; whether it lies in the frame.
#[must_use]
pub fn write_checksum(frame: &mut [u8], start: u16, offset: u16) -> bool {
    let start = usize::from(start);
    let Some(data) = frame.get(start..) else { return false };
    let check = !fold(add(data, 0));
    let at = start + usize::from(offset);
    let Some(field) = frame.get_mut(at..at + 2) else { return false };
    // A datagram whose checksum is 0 has none (RFC 768); for TCP both mean the same.
    field.copy_from_slice(&if check == 0 { 0xffff } else { check }.to_be_bytes());
    true
}

/// Writes the checksum of a TCP segment or UDP datagram into the frame. Other frames, fragments, cut ones and datagrams
/// without a checksum stay as they are.
pub fn finish_checksum(frame: &mut [u8]) {
    let Some(found) = layout(frame).filter(|l| !l.fragment && l.end <= frame.len()) else { return };
    let at = match found.protocol {
        6 => found.transport + 16,
        17 => found.transport + 6,
        _ => return,
    };
    if at + 2 > found.end || (found.protocol == 17 && frame[at..at + 2] == [0, 0]) {
        return;
    }
    frame[at..at + 2].fill(0);
    let data = &frame[found.transport..found.end];
    let check = match !fold(add(data, pseudo(frame, &found, data.len()))) {
        // 0 means that there is none (RFC 768).
        0 if found.protocol == 17 => 0xffff,
        check => check,
    };
    frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

/// Writes the checksum of an IPv4 header (RFC 791), the whole of `header`.
pub fn finish_header(header: &mut [u8]) {
    if header.len() >= 20 {
        header[10..12].fill(0);
        let check = !fold(add(header, 0));
        header[10..12].copy_from_slice(&check.to_be_bytes());
    }
}

/// Describes an outgoing frame of `len` bytes whose first bytes are `head` (at least [`HEAD`] of them, or the
/// whole frame): a TCP segment leaves with its checksum begun, to be finished by the other side, and is cut
/// into pieces of `segment` payload bytes unless that is 0.
pub fn describe(head: &mut [u8], len: usize, segment: u16) -> [u8; LEN] {
    let mut header = [0; LEN];
    let Some(found) = layout(head).filter(|l| l.protocol == 6 && !l.fragment && l.end <= len) else {
        return header;
    };
    let at = found.transport;
    let Some(&offset) = head.get(at + 12) else { return header };
    let begun = fold(pseudo(head, &found, found.end.saturating_sub(at)));
    let Some(field) = head.get_mut(at + 16..at + 18) else { return header };
    field.copy_from_slice(&begun.to_be_bytes());
    header[0] = NEEDS_CSUM;
    header[6..8].copy_from_slice(&(at as u16).to_ne_bytes());
    header[8..10].copy_from_slice(&16u16.to_ne_bytes());
    if segment > 0 {
        header[1] = if found.v4 { GSO_V4 } else { GSO_V6 };
        let headers = at + usize::from(offset >> 4) * 4;
        header[2..4].copy_from_slice(&(headers as u16).to_ne_bytes());
        header[4..6].copy_from_slice(&segment.to_ne_bytes());
    }
    header
}

/// Whether a received frame's transport checksum holds: the kernel says so, or has still to compute it, or it
/// is computed here. Frames without one hold.
#[must_use]
pub fn is_intact(header: &[u8], frame: &[u8]) -> bool {
    if header.first().is_some_and(|flags| flags & (NEEDS_CSUM | DATA_VALID) != 0) {
        return true;
    }
    let Some(found) = layout(frame).filter(|l| !l.fragment) else { return true };
    let Some(data) = frame.get(found.transport..found.end) else { return false };
    match found.protocol {
        17 if found.v4 && data.get(6..8) == Some(&[0, 0]) => true,
        6 | 17 => fold(add(data, pseudo(frame, &found, data.len()))) == 0xffff,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp_frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 14 + 20 + 20];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&((40 + payload.len()) as u16).to_be_bytes());
        frame[23] = 6;
        frame[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
        frame[34 + 12] = 5 << 4;
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn a_segment_is_described_and_its_checksum_can_be_finished() {
        let mut frame = tcp_frame(b"hello");
        let len = frame.len();
        let header = describe(&mut frame, len, 3);
        assert_eq!(header[0..2], [NEEDS_CSUM, GSO_V4]);
        assert_eq!(u16::from_ne_bytes([header[2], header[3]]), 54);
        assert_eq!(u16::from_ne_bytes([header[4], header[5]]), 3);
        assert_eq!(u16::from_ne_bytes([header[6], header[7]]), 34);
        assert!(!is_intact(&[0; LEN], &frame));
        assert!(is_intact(&header, &frame));
        // What the kernel does with such a frame.
        let check = !fold(add(&frame[34..], 0));
        frame[50..52].copy_from_slice(&check.to_be_bytes());
        assert!(is_intact(&[0; LEN], &frame));
        frame[54] ^= 1;
        assert!(!is_intact(&[0; LEN], &frame));
    }

    #[test]
    fn a_begun_checksum_is_finished_here_as_the_kernel_would() {
        for payload in [&b""[..], b"x", b"hello, world"] {
            let mut frame = tcp_frame(payload);
            let len = frame.len();
            describe(&mut frame, len, 0);
            finish_checksum(&mut frame);
            assert!(is_intact(&[0; LEN], &frame), "{payload:?}");
        }
        let mut datagram = tcp_frame(&[0; 8]);
        datagram[23] = 17;
        let without = datagram.clone();
        finish_checksum(&mut datagram);
        assert_eq!(datagram, without);
        datagram[40] = 1;
        finish_checksum(&mut datagram);
        assert!(is_intact(&[0; LEN], &datagram) && datagram != without);
    }

    #[test]
    fn a_header_says_what_is_left_to_do() {
        let mut frame = tcp_frame(b"hello");
        let len = frame.len();
        let header = describe(&mut frame, len, 0);
        assert_eq!(task(&header), Some(Task::Checksum { start: 34, offset: 16 }));
        assert!(write_checksum(&mut frame, 34, 16));
        assert!(is_intact(&[0; LEN], &frame));
        assert_eq!(task(&describe(&mut frame, len, 3)), Some(Task::Segments(3)));
        assert_eq!(task(&[0; LEN]), Some(Task::Nothing));
        assert_eq!(task(&[DATA_VALID, 0, 0, 0, 9, 9, 9, 9, 9, 9]), Some(Task::Nothing));
        let with = |kind: u8, size: u8| task(&[NEEDS_CSUM, kind, 0, 0, size, 0, 0, 0, 0, 0]);
        assert_eq!(with(GSO_V6 | GSO_ECN, 7), Some(Task::Segments(7)));
        assert_eq!(with(GSO_UDP, 7), Some(Task::Segments(7)));
        for (kind, size) in [(GSO_V4, 0), (3, 7), (99, 7), (GSO_ECN | 3, 7)] {
            assert_eq!(with(kind, size), None, "{kind}");
        }
        assert_eq!(task(&[0; 9]), None);
    }

    #[test]
    fn a_checksum_outside_of_the_frame_is_refused() {
        let before = tcp_frame(b"hello");
        for (start, offset) in [(34, 24), (34, u16::MAX), (58, 0), (59, 0), (60, 0), (u16::MAX, u16::MAX)] {
            let mut frame = before.clone();
            assert!(!write_checksum(&mut frame, start, offset), "{start} {offset}");
            assert_eq!(frame, before);
        }
    }

    #[test]
    fn a_merged_frame_says_how_long_its_pieces_were() {
        let size = 1448u16.to_ne_bytes();
        assert_eq!(segment_size(&[0, GSO_V4, 0, 0, size[0], size[1], 0, 0, 0, 0]), 1448);
        assert_eq!(segment_size(&[0, 0, 0, 0, size[0], size[1], 0, 0, 0, 0]), 0);
        assert_eq!(segment_size(&[1]), 0);
    }

    #[test]
    fn short_and_foreign_frames_are_left_alone() {
        let whole = tcp_frame(b"x");
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            let before = cut.clone();
            if describe(&mut cut, len, 100)[0] == 0 {
                assert_eq!(cut, before);
            }
            let _ = is_intact(&[], &cut);
            finish_checksum(&mut cut);
        }
        let mut arp = vec![0; 42];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(describe(&mut arp, 42, 0), [0; LEN]);
        assert!(is_intact(&[0; LEN], &arp));
    }
}

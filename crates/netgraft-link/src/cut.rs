//! Merged frames cut into those that were, or would be, on the wire: segmentation without help of a device.

use netgraft_linux::link::vnet::{self, Layout, layout};

/// TCP flags of the last piece only (RFC 9293): FIN, PSH.
const LAST_ONLY: u8 = 0x01 | 0x08;
/// The TCP flag of the first piece only (RFC 3168 section 6.1.2): CWR.
const FIRST_ONLY: u8 = 0x80;
/// Offset of the TCP flags.
const FLAGS: usize = 13;

/// Cuts frames; keeps a buffer between calls.
#[derive(Default)]
pub(crate) struct Cutter {
    buffer: Vec<u8>,
}

impl Cutter {
    /// Hands on the frames that `frame` was merged of, in pieces of `segment` payload bytes, each with its headers and
    /// checksums; the frame itself with its checksum if `segment` is 0. What cannot be cut is handed on as it is.
    pub(crate) fn cut(&mut self, frame: &[u8], segment: u16, deliver: &mut dyn FnMut(&[u8])) {
        let merged = if segment == 0 { None } else { Merged::parse(frame) };
        let Some(merged) = merged else {
            self.buffer.clear();
            self.buffer.extend_from_slice(frame);
            vnet::finish_checksum(&mut self.buffer);
            return deliver(&self.buffer);
        };
        let mut offset = 0;
        for (number, payload) in merged.payload.chunks(usize::from(segment)).enumerate() {
            self.buffer.clear();
            self.buffer.extend_from_slice(merged.headers);
            self.buffer.extend_from_slice(payload);
            let last = offset + payload.len() == merged.payload.len();
            merged.edit(&mut self.buffer, number, offset, last);
            deliver(&self.buffer);
            offset += payload.len();
        }
    }
}

/// A frame with more than one segment or datagram.
struct Merged<'a> {
    layout: Layout,
    headers: &'a [u8],
    /// Not empty.
    payload: &'a [u8],
}

impl<'a> Merged<'a> {
    fn parse(frame: &'a [u8]) -> Option<Merged<'a>> {
        let layout = layout(frame).filter(|l| !l.fragment && l.transport >= if l.v4 { 34 } else { 54 })?;
        let header = match layout.protocol {
            6 => usize::from(*frame.get(layout.transport + 12)? >> 4) * 4,
            17 => 8,
            _ => return None,
        };
        if layout.protocol == 6 && header < 20 {
            return None;
        }
        let (headers, payload) = frame.get(..layout.end)?.split_at_checked(layout.transport + header)?;
        (!payload.is_empty()).then_some(Merged { layout, headers, payload })
    }

    /// Makes the headers of a piece of them; the piece begins `offset` bytes behind the first one. Every offset is inside
    /// the headers, which [`Merged::parse`] has seen.
    fn edit(&self, piece: &mut [u8], number: usize, offset: usize, last: bool) {
        let Layout { v4, protocol, transport, .. } = self.layout;
        // As far as 65,535: a piece is not longer than what it is cut from, whose lengths have 16 bits.
        let put = |piece: &mut [u8], at: usize, value: usize| {
            piece[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
        };
        let len = piece.len();
        if v4 {
            put(piece, 16, len - 14);
            let ident = u16::from_be_bytes([piece[18], piece[19]]).wrapping_add(number as u16);
            put(piece, 18, usize::from(ident));
            vnet::finish_header(&mut piece[14..transport]);
        } else {
            put(piece, 18, len - transport);
        }
        if protocol == 17 {
            put(piece, transport + 4, len - transport);
        } else {
            let seq = &mut piece[transport + 4..transport + 8];
            let first = u32::from_be_bytes([seq[0], seq[1], seq[2], seq[3]]);
            seq.copy_from_slice(&first.wrapping_add(offset as u32).to_be_bytes());
            let not_here = if last { 0 } else { LAST_ONLY } | if number == 0 { 0 } else { FIRST_ONLY };
            piece[transport + FLAGS] &= !not_here;
        }
        vnet::finish_checksum(piece);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame with FIN, PSH, ACK and CWR set in a TCP segment, or a datagram.
    fn frame(v4: bool, tcp: bool, options: usize, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        let header = if tcp { 20 + options * 4 } else { 8 };
        let len = header + payload.len();
        let protocol = if tcp { 6 } else { 17 };
        if v4 {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + len as u16).to_be_bytes());
            frame.extend([0xff, 0xff, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((len as u16).to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend([0x20; 32]);
        }
        if tcp {
            frame.extend([0, 1, 0, 2, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 0]);
            frame.extend([(header as u8 / 4) << 4, 0x99, 0, 9, 0, 0, 0, 0]);
            frame.resize(frame.len() + options * 4, 1);
        } else {
            frame.extend([0, 1, 0, 2]);
            frame.extend((len as u16).to_be_bytes());
            frame.extend([0xaa, 0xaa]);
        }
        frame.extend(payload);
        frame
    }

    fn cut(frame: &[u8], segment: u16) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        Cutter::default().cut(frame, segment, &mut |piece| pieces.push(piece.to_vec()));
        pieces
    }

    #[test]
    fn pieces_are_whole_frames_that_add_up() {
        let payload: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        for (v4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
            let whole = frame(v4, tcp, 3, &payload);
            let pieces = cut(&whole, 1400);
            assert_eq!(pieces.len(), 8);
            let headers = whole.len() - payload.len();
            let mut joined = Vec::new();
            for (number, piece) in pieces.iter().enumerate() {
                let found = layout(piece).unwrap();
                assert_eq!(found.end, piece.len());
                assert!(vnet::is_intact(&[0; vnet::LEN], piece), "{v4} {tcp}");
                if v4 {
                    let mut header = piece[14..34].to_vec();
                    vnet::finish_header(&mut header);
                    assert_eq!(header, piece[14..34]);
                    let ident = u16::from_be_bytes([piece[18], piece[19]]);
                    assert_eq!(ident, 0xffff_u16.wrapping_add(number as u16));
                }
                if tcp {
                    let at = found.transport;
                    let seq = u32::from_be_bytes(piece[at + 4..at + 8].try_into().unwrap());
                    assert_eq!(seq, 0xffff_fff0_u32.wrapping_add(joined.len() as u32));
                    let expected = match number {
                        0 => 0x90,
                        7 => 0x19,
                        _ => 0x10,
                    };
                    assert_eq!(piece[at + FLAGS], expected, "{number}");
                } else {
                    assert_eq!(
                        usize::from(piece[found.transport + 4]) << 8
                            | usize::from(piece[found.transport + 5]),
                        piece.len() - found.transport
                    );
                }
                joined.extend_from_slice(&piece[headers..]);
            }
            assert_eq!(joined, payload);
        }
    }

    #[test]
    fn what_was_not_merged_gets_its_checksum_and_foreign_frames_pass() {
        let single = frame(true, true, 0, b"hello");
        let out = cut(&single, 0);
        assert_eq!((out.len(), out[0].len()), (1, single.len()));
        assert!(vnet::is_intact(&[0; vnet::LEN], &out[0]));
        let mut arp = vec![0; 42];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(cut(&arp, 100), [arp.clone()]);
        assert_eq!(cut(&arp, 0), [arp]);
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            kind in 0..3, segment in 0u16..200,
        ) {
            if let (Some(place), true) = (bytes.get_mut(12..14), kind > 0) {
                place.copy_from_slice(if kind == 1 { &[8, 0] } else { &[0x86, 0xdd] });
            }
            let pieces = cut(&bytes, segment);
            prop_assert!(!pieces.is_empty());
            prop_assert!(pieces.iter().all(|piece| piece.len() <= bytes.len()));
        }
    }
}

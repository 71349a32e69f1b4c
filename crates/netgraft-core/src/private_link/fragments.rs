//! Puts together what the kernel has cut for a link: it sends the fragments of a packet one after the other, in order.

use super::packet::{Header, Packet, Piece};

/// How many packets are put together at a time: as many as processors may send at once.
const PACKETS: usize = 16;
/// The most bytes of a packet (RFC 791).
const MOST: usize = 65_535;

/// A packet of which something is still missing.
#[derive(Debug)]
struct Open {
    header: Header,
    id: u32,
    payload: Vec<u8>,
}

/// Packets that are being put together.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    open: Vec<Open>,
}

impl Fragments {
    /// Takes a fragment; gives the payload of the packet that it completes.
    pub(super) fn take(&mut self, packet: &Packet<'_>, piece: Piece) -> Option<Vec<u8>> {
        let Header { source, destination, protocol, .. } = packet.header;
        let known = |open: &Open| {
            let Header { source: s, destination: d, protocol: p, .. } = open.header;
            (s, d, p, open.id) == (source, destination, protocol, piece.id)
        };
        let at = self.open.iter().position(known);
        if piece.offset == 0 {
            if let Some(at) = at {
                self.open.remove(at);
            }
            if self.open.len() == PACKETS {
                // The oldest has lost a fragment.
                self.open.remove(0);
            }
            self.open.push(Open { header: packet.header, id: piece.id, payload: packet.payload.to_vec() });
            return None;
        }
        let at = at?;
        let open = self.open.get_mut(at)?;
        if open.payload.len() != piece.offset || open.payload.len() + packet.payload.len() > MOST {
            self.open.remove(at);
            return None;
        }
        open.payload.extend(packet.payload);
        if piece.more { None } else { Some(self.open.remove(at).payload) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::{Framing, frames, parse};
    use super::*;

    fn cut(id: u32, payload: &[u8]) -> Vec<Vec<u8>> {
        let header = Header {
            source: "192.0.2.1".parse().unwrap(),
            destination: "192.0.2.2".parse().unwrap(),
            protocol: 17,
            hop_limit: 64,
            traffic_class: 0,
            dont_fragment: false,
        };
        let mut all = Vec::new();
        let framing = Framing { mac: [2; 6], mtu: 1500, id };
        frames(framing, &header, payload, &mut Vec::new(), &mut |frame| all.push(frame.to_vec()));
        all
    }

    fn give(fragments: &mut Fragments, frame: &[u8]) -> Option<Vec<u8>> {
        let packet = parse(frame).unwrap();
        fragments.take(&packet, packet.piece.unwrap())
    }

    #[test]
    fn packets_are_put_together_side_by_side() {
        let (first, second) = (vec![1; 4000], vec![2; 3000]);
        let (a, b) = (cut(1, &first), cut(2, &second));
        let mut fragments = Fragments::default();
        assert_eq!(give(&mut fragments, &a[0]), None);
        assert_eq!(give(&mut fragments, &b[0]), None);
        assert_eq!(give(&mut fragments, &a[1]), None);
        assert_eq!(give(&mut fragments, &b[1]), None);
        assert_eq!(give(&mut fragments, &b[2]), Some(second));
        assert_eq!(give(&mut fragments, &a[2]), Some(first));
        assert!(fragments.open.is_empty());
    }

    #[test]
    fn what_is_out_of_order_or_too_much_is_dropped() {
        let mut fragments = Fragments::default();
        let cut_up = cut(1, &[1; 4000]);
        assert_eq!(give(&mut fragments, &cut_up[1]), None);
        assert_eq!(give(&mut fragments, &cut_up[0]), None);
        assert_eq!(give(&mut fragments, &cut_up[2]), None);
        assert!(fragments.open.is_empty());
        for id in 0..1000 {
            assert_eq!(give(&mut fragments, &cut(id, &[1; 4000])[0]), None);
            assert!(fragments.open.len() <= PACKETS);
        }
    }
}

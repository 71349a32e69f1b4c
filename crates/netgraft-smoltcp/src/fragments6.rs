//! IPv6 packets that came in parts (RFC 8200 section 4.5); smoltcp puts only IPv4 ones together.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use netgraft_plugin::Instant;

use crate::packet::Packet;

/// How long the parts of a packet are waited for.
const STAY: Duration = Duration::from_secs(60);
/// Packets that are put together at a time; the oldest makes room.
const MOST: usize = 16;
/// Parts of one packet: 64 KiB at the least MTU of IPv6 have 54.
const PARTS: usize = 64;

struct Assembly {
    key: (IpAddr, IpAddr, u32),
    since: Instant,
    next_header: u8,
    data: Vec<u8>,
    /// Ranges of `data` that have come.
    parts: Vec<(usize, usize)>,
    /// Length of the whole, once the last part has come.
    total: Option<usize>,
}

/// Packets that are being put together.
#[derive(Default)]
pub(crate) struct Fragments6 {
    pending: VecDeque<Assembly>,
}

impl Fragments6 {
    /// Takes a part; if it completes a packet, that packet in a frame like the part's own, whose link header has
    /// `link` bytes.
    pub(crate) fn take(
        &mut self,
        packet: &Packet<'_>,
        frame: &[u8],
        link: usize,
        now: Instant,
    ) -> Option<Vec<u8>> {
        self.pending.retain(|a| now < a.since + STAY);
        let header = packet.payload.get(..8)?;
        let data = packet.payload.get(8..)?;
        let field = u16::from_be_bytes([header[2], header[3]]);
        let (from, more) = (usize::from(field & 0xfff8), field & 1 == 1);
        let key = (packet.src, packet.dst, u32::from_be_bytes(header[4..8].try_into().ok()?));
        let to = from + data.len();
        // All parts but the last have a multiple of eight bytes, and no packet is longer than 64 KiB.
        if to > 65_535 || data.is_empty() || more && !data.len().is_multiple_of(8) {
            return None;
        }
        let at = match self.pending.iter().position(|a| a.key == key) {
            Some(at) => at,
            None => {
                if self.pending.len() >= MOST {
                    self.pending.pop_front();
                }
                let (next_header, parts) = (header[0], Vec::new());
                let assembly =
                    Assembly { key, since: now, next_header, data: Vec::new(), parts, total: None };
                self.pending.push_back(assembly);
                self.pending.len() - 1
            }
        };
        let assembly = &mut self.pending[at];
        let overlaps = assembly.parts.iter().any(|&(a, b)| from < b && a < to);
        let beyond = assembly.total.is_some_and(|t| to > t || !more);
        let ends_early = !more && assembly.parts.iter().any(|&(_, b)| b > to);
        if overlaps || beyond || ends_early || assembly.parts.len() >= PARTS {
            // RFC 5722: the whole packet is dropped, unless the part only came twice.
            if !assembly.parts.contains(&(from, to)) {
                self.pending.remove(at);
            }
            return None;
        }
        if assembly.data.len() < to {
            assembly.data.resize(to, 0);
        }
        assembly.data[from..to].copy_from_slice(data);
        assembly.parts.push((from, to));
        if !more {
            assembly.total = Some(to);
        }
        let have: usize = assembly.parts.iter().map(|(a, b)| b - a).sum();
        if assembly.total != Some(have) {
            return None;
        }
        let assembly = self.pending.remove(at)?;
        let mut whole = Vec::with_capacity(link + 40 + have);
        whole.extend_from_slice(frame.get(..link + 40)?);
        whole[link + 4..link + 6].copy_from_slice(&(have as u16).to_be_bytes());
        whole[link + 6] = assembly.next_header;
        whole.extend_from_slice(&assembly.data);
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Header, UDP, parse};
    use crate::split::pieces;

    fn parts() -> (Vec<u8>, Vec<Vec<u8>>) {
        let (src, dst) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let header =
            Header { src, dst, protocol: UDP, hop_limit: 64, traffic_class: 0, dont_fragment: false };
        let mut packet: Vec<u8> = (0..5040u32).map(|i| (i % 251) as u8).collect();
        header.emit(&mut packet);
        let parts = pieces(&packet, 1280, 7).map(|p| {
            let mut buf = vec![0; p.len()];
            p.write(&packet, &mut buf);
            buf
        });
        let parts = parts.collect();
        (packet, parts)
    }

    fn take(fragments: &mut Fragments6, part: &[u8], now: Instant) -> Option<Vec<u8>> {
        fragments.take(&parse(part).unwrap(), part, 0, now)
    }

    #[test]
    fn parts_in_any_order_make_the_packet() {
        let (packet, parts) = parts();
        for turn in 0..parts.len() {
            let mut order = parts.clone();
            order.rotate_left(turn);
            let mut fragments = Fragments6::default();
            let last = order.pop().unwrap();
            for part in &order {
                assert_eq!(take(&mut fragments, part, Instant::ZERO), None);
                assert_eq!(take(&mut fragments, part, Instant::ZERO), None, "twice does no harm");
            }
            assert_eq!(take(&mut fragments, &last, Instant::ZERO).as_deref(), Some(&packet[..]));
            assert!(fragments.pending.is_empty());
        }
    }

    #[test]
    fn old_and_overlapping_parts_are_dropped() {
        let (_, parts) = parts();
        let mut fragments = Fragments6::default();
        assert_eq!(take(&mut fragments, &parts[0], Instant::ZERO), None);
        assert_eq!(take(&mut fragments, &parts[1], Instant::from_millis(61_000)), None);
        assert_eq!(fragments.pending.len(), 1);
        let mut shifted = parts[1].clone();
        shifted[43] ^= 8;
        assert_eq!(take(&mut fragments, &shifted, Instant::from_millis(61_000)), None);
        assert!(fragments.pending.is_empty());
    }
}

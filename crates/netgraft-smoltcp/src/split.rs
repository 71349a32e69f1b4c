//! Cuts packets that are larger than the link's MTU (RFC 791 section 3.2, RFC 8200 section 4.5).

/// What a fragment is made of: the headers in front of it, and a range of the packet's payload.
pub(crate) struct Piece {
    head: [u8; 68],
    head_len: usize,
    start: usize,
    end: usize,
}

impl Piece {
    pub(crate) fn len(&self) -> usize {
        self.head_len + self.end - self.start
    }

    /// Writes the fragment of `packet`.
    pub(crate) fn write(&self, packet: &[u8], buf: &mut [u8]) {
        buf[..self.head_len].copy_from_slice(&self.head[..self.head_len]);
        buf[self.head_len..].copy_from_slice(&packet[self.start..self.end]);
    }
}

/// The fragments of an IP packet, in order. None for what is no IP packet.
pub(crate) fn pieces(packet: &[u8], mtu: usize, ident: u32) -> impl Iterator<Item = Piece> + use<> {
    let header = match packet.first().map(|b| b >> 4) {
        Some(4) => usize::from(packet[0] & 15) * 4,
        Some(6) => 40,
        _ => 0,
    };
    let mut head = [0u8; 68];
    let total = packet.len();
    let valid = (20..=60).contains(&header) && header <= total;
    if valid {
        head[..header].copy_from_slice(&packet[..header]);
    }
    let v4 = valid && head[0] >> 4 == 4;
    let head_len = if v4 { header } else { header + 8 };
    // All fragments but the last carry a multiple of eight bytes.
    let room = mtu.saturating_sub(head_len) / 8 * 8;
    let payload = if valid && room > 0 { total - header } else { 0 };
    (0..payload.div_ceil(room.max(1))).map(move |i| {
        let (from, to) = (i * room, ((i + 1) * room).min(payload));
        let more = to < payload;
        let mut head = head;
        if v4 {
            describe_v4(&mut head[..header], header + to - from, ident, from, more);
        } else {
            describe_v6(&mut head, to - from, ident, from, more);
        }
        Piece { head, head_len, start: header + from, end: header + to }
    })
}

fn describe_v4(head: &mut [u8], len: usize, ident: u32, offset: usize, more: bool) {
    head[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    head[4..6].copy_from_slice(&(ident as u16).to_be_bytes());
    let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
    head[6..8].copy_from_slice(&field.to_be_bytes());
    head[10..12].fill(0);
    let check = !crate::packet::sum(head, 0);
    head[10..12].copy_from_slice(&check.to_be_bytes());
}

fn describe_v6(head: &mut [u8; 68], len: usize, ident: u32, offset: usize, more: bool) {
    head[4..6].copy_from_slice(&((len + 8) as u16).to_be_bytes());
    head[40] = head[6];
    head[41] = 0;
    head[6] = crate::packet::FRAGMENT_V6;
    head[42..44].copy_from_slice(&(offset as u16 & 0xfff8 | u16::from(more)).to_be_bytes());
    head[44..48].copy_from_slice(&ident.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_packet_once() {
        for (first, header, extra) in [(0x45u8, 20, 0), (0x60, 40, 8)] {
            let mut packet = vec![0u8; 5000];
            packet[0] = first;
            for (i, byte) in packet[header..].iter_mut().enumerate() {
                *byte = i as u8;
            }
            let (mut next, mut data) = (0, Vec::new());
            for piece in pieces(&packet, 1500, 77) {
                assert!(piece.len() <= 1500);
                let mut buf = vec![0; piece.len()];
                piece.write(&packet, &mut buf);
                let at = if extra == 0 { 6 } else { 42 };
                let field = usize::from(u16::from_be_bytes([buf[at], buf[at + 1]]));
                let offset = if extra == 0 { (field & 0x1fff) * 8 } else { field & 0xfff8 };
                assert_eq!(offset, next);
                next += buf.len() - header - extra;
                data.extend_from_slice(&buf[header + extra..]);
            }
            assert_eq!(data, packet[header..]);
        }
        assert_eq!(pieces(&[0; 30], 1500, 1).count(), 0);
        assert_eq!(pieces(&[0x45; 10], 1500, 1).count(), 0);
    }
}

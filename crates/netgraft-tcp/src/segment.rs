//! Segments: the header of TCP as bytes and as values. Read RFC 9293 section 3.1 first.

use crate::options::Options;

/// The control bits of a header (RFC 9293 section 3.1, RFC 3168 section 6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data comes.
    pub const FIN: Flags = Flags(1);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(2);
    /// Reset the connection.
    pub const RST: Flags = Flags(4);
    /// Give what has come to the program.
    pub const PSH: Flags = Flags(8);
    /// The acknowledgement number counts.
    pub const ACK: Flags = Flags(16);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(32);
    /// Congestion was met (ECN echo).
    pub const ECE: Flags = Flags(64);
    /// The congestion window was reduced.
    pub const CWR: Flags = Flags(128);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    #[must_use]
    pub const fn any(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Flags) {
        self.0 |= other.0;
    }
}

/// The least length of a header, in bytes.
pub const HEADER: usize = 20;

/// A header without its ports, checksum and payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Number of the first byte, or of the SYN.
    pub seq: u32,
    /// Number of the next byte that the sender expects, if [`Flags::ACK`] is set.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Receive window, before scaling.
    pub window: u16,
    /// Urgent pointer: behind the last urgent byte, from [`Header::seq`] on (RFC 6093 section 3.1).
    pub urgent: u16,
    /// Options.
    pub options: Options,
}

impl Header {
    /// Length in bytes, options and padding included.
    #[must_use]
    pub fn len(&self) -> usize {
        HEADER + self.options.len()
    }

    /// A header is never empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Writes the header to the first [`Header::len`] bytes of `buf`, with a checksum of 0.
    ///
    /// # Panics
    /// If `buf` is shorter.
    pub fn emit(&self, ports: (u16, u16), buf: &mut [u8]) {
        let len = self.len();
        buf[0..2].copy_from_slice(&ports.0.to_be_bytes());
        buf[2..4].copy_from_slice(&ports.1.to_be_bytes());
        buf[4..8].copy_from_slice(&self.seq.to_be_bytes());
        buf[8..12].copy_from_slice(&self.ack.to_be_bytes());
        buf[12] = (len / 4) as u8 * 16;
        buf[13] = self.flags.0;
        buf[14..16].copy_from_slice(&self.window.to_be_bytes());
        buf[16..18].fill(0);
        buf[18..20].copy_from_slice(&self.urgent.to_be_bytes());
        self.options.emit(&mut buf[HEADER..len]);
    }
}

/// A segment that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Ports of source and destination.
    pub ports: (u16, u16),
    /// The header.
    pub header: Header,
    /// What follows the header.
    pub payload: &'a [u8],
    /// Whether a router marked the packet: "congestion experienced" (RFC 3168 section 5). The IP header says so.
    pub marked: bool,
}

impl<'a> Segment<'a> {
    /// Parses a segment; `None` if it is shorter than its header says. Options that make no sense are left out
    /// (RFC 9293 section 3.2, MUST-7). The checksum is the caller's.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let fixed: &[u8; HEADER] = bytes.first_chunk()?;
        let len = usize::from(fixed[12] >> 4) * 4;
        let options = bytes.get(HEADER..len)?;
        let be16 = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let be32 = |at: usize| u32::from(be16(at)) << 16 | u32::from(be16(at + 2));
        Some(Segment {
            ports: (be16(0), be16(2)),
            header: Header {
                seq: be32(4),
                ack: be32(8),
                flags: Flags(fixed[13]),
                window: be16(14),
                urgent: be16(18),
                options: Options::parse(options),
            },
            payload: bytes.get(len..)?,
            marked: false,
        })
    }

    /// Sequence numbers that the segment takes: payload, SYN and FIN (RFC 9293 section 3.4, `SEG.LEN`).
    #[must_use]
    pub fn len(&self) -> u32 {
        let flags = self.header.flags;
        self.payload.len() as u32 + u32::from(flags.has(Flags::SYN)) + u32::from(flags.has(Flags::FIN))
    }

    /// Whether it takes no sequence number.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The reset that answers a segment for which there is no connection (RFC 9293 section 3.10.7.1); `None` if it
    /// is a reset itself.
    #[must_use]
    pub fn refusal(&self) -> Option<Header> {
        let asked = self.header;
        if asked.flags.has(Flags::RST) {
            return None;
        }
        // "If the ACK bit is off, sequence number zero is used, <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>. If the
        // ACK bit is on, <SEQ=SEG.ACK><CTL=RST>."
        Some(if asked.flags.has(Flags::ACK) {
            Header { seq: asked.ack, flags: Flags::RST, ..Header::default() }
        } else {
            let ack = asked.seq.wrapping_add(self.len());
            Header { ack, flags: Flags::RST | Flags::ACK, ..Header::default() }
        })
    }
}

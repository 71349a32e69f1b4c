//! The options of a header. Read RFC 9293 section 3.2, RFC 7323 sections 2 and 3, RFC 2018 sections 2 and 3, RFC 7413
//! section 4.1.1 and RFC 5482 section 3 first.

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
const USER_TIMEOUT: u8 = 28;
const FAST_OPEN: u8 = 34;

/// "If a Window Scale option is received with a shift.cnt value larger than 14, the TCP SHOULD log the error but MUST
/// use 14" (RFC 7323 section 2.3).
pub(crate) const MOST_SHIFT: u8 = 14;

/// Up to four ranges of bytes that have come out of order (RFC 2018 section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    len: u8,
    blocks: [(u32, u32); 4],
}

impl SackBlocks {
    /// Adds a range, if there is room: its first number, and the one behind its last.
    pub fn push(&mut self, first: u32, end: u32) {
        if let Some(block) = self.blocks.get_mut(usize::from(self.len)) {
            *block = (first, end);
            self.len += 1;
        }
    }

    /// The ranges, the newest first.
    #[must_use]
    pub fn as_slice(&self) -> &[(u32, u32)] {
        &self.blocks[..usize::from(self.len).min(4)]
    }
}

/// A cookie of Fast Open: 4 to 16 bytes, or none to ask for one (RFC 7413 section 4.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cookie {
    len: u8,
    bytes: [u8; 16],
}

impl Cookie {
    /// A cookie of these bytes; `None` if their number is odd, or neither 0 nor 4 to 16.
    #[must_use]
    pub fn new(from: &[u8]) -> Option<Self> {
        if !matches!(from.len(), 0 | 4..=16) || !from.len().is_multiple_of(2) {
            return None;
        }
        let mut bytes = [0; 16];
        bytes[..from.len()].copy_from_slice(from);
        Some(Cookie { len: from.len() as u8, bytes })
    }

    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len).min(16)]
    }
}

/// The options that this crate knows. Others are skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Largest payload that the sender takes, of a SYN (RFC 9293 section 3.7.1).
    pub mss: Option<u16>,
    /// Shift of the sender's windows, of a SYN (RFC 7323 section 2.2).
    pub window_scale: Option<u8>,
    /// Whether selective acknowledgements are understood, of a SYN (RFC 2018 section 2).
    pub sack_permitted: bool,
    /// The sender's clock, and the last of the receiver's that it has seen (RFC 7323 section 3.2).
    pub timestamps: Option<(u32, u32)>,
    /// What has come out of order (RFC 2018 section 3).
    pub sack: SackBlocks,
    /// A cookie, or a question for one, of a SYN (RFC 7413 section 4.1.1).
    pub fast_open: Option<Cookie>,
    /// The user time-out in seconds or, with the top bit, in minutes (RFC 5482 section 3).
    pub user_timeout: Option<u16>,
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(&[hi, lo]) => u16::from_be_bytes([hi, lo]),
        _ => 0,
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}

impl Options {
    /// Reads the options of a header. "Each option must be prepared for a bad length" (RFC 9293 section 3.2, MUST-7):
    /// reading ends at one whose length cannot be.
    #[must_use]
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut found = Options::default();
        while let Some(&kind) = bytes.first() {
            let len = match (kind, bytes.get(1)) {
                (END, _) => break,
                (NOP, _) => 1,
                (_, Some(&len)) if len >= 2 && usize::from(len) <= bytes.len() => usize::from(len),
                _ => break,
            };
            found.note(kind, &bytes[..len]);
            bytes = &bytes[len..];
        }
        found
    }

    fn note(&mut self, kind: u8, option: &[u8]) {
        match (kind, option.len()) {
            (MSS, 4) => self.mss = Some(be16(option, 2)),
            (WINDOW_SCALE, 3) => self.window_scale = Some(option[2].min(MOST_SHIFT)),
            (SACK_PERMITTED, 2) => self.sack_permitted = true,
            (SACK, 10 | 18 | 26 | 34) => {
                for block in option[2..].chunks_exact(8) {
                    self.sack.push(be32(block, 0), be32(block, 4));
                }
            }
            (TIMESTAMPS, 10) => self.timestamps = Some((be32(option, 2), be32(option, 6))),
            (FAST_OPEN, _) => self.fast_open = Cookie::new(&option[2..]).or(self.fast_open),
            (USER_TIMEOUT, 4) => self.user_timeout = Some(be16(option, 2)),
            _ => {}
        }
    }

    /// Length in bytes, padding included.
    #[must_use]
    pub fn len(&self) -> usize {
        let blocks = self.sack.as_slice().len();
        let cookie = self.fast_open.map_or(0, |c| (2 + c.as_slice().len()).next_multiple_of(4));
        let aligned = [
            (self.mss.is_some(), 4),
            (self.window_scale.is_some(), 4),
            // Beside timestamps it takes the place of their padding.
            (self.sack_permitted && self.timestamps.is_none(), 4),
            (self.timestamps.is_some(), 12),
            (blocks > 0, 4 + 8 * blocks),
            (self.user_timeout.is_some(), 4),
        ];
        aligned.into_iter().filter(|(there, _)| *there).map(|(_, len)| len).sum::<usize>() + cookie
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the options to a buffer of [`Options::len`] bytes. More than a header can hold are not written.
    pub fn emit(&self, buf: &mut [u8]) {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(place) = buf.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
                at += bytes.len();
            }
        };
        if let Some(mss) = self.mss {
            put(&[MSS, 4]);
            put(&mss.to_be_bytes());
        }
        match (self.sack_permitted, self.timestamps.is_some()) {
            (true, _) => put(&[SACK_PERMITTED, 2]),
            (false, true) => put(&[NOP, NOP]),
            (false, false) => {}
        }
        match self.timestamps {
            Some((value, echo)) => {
                put(&[TIMESTAMPS, 10]);
                put(&value.to_be_bytes());
                put(&echo.to_be_bytes());
            }
            None if self.sack_permitted => put(&[NOP, NOP]),
            None => {}
        }
        if let Some(shift) = self.window_scale {
            put(&[NOP, WINDOW_SCALE, 3, shift]);
        }
        let blocks = self.sack.as_slice();
        if !blocks.is_empty() {
            put(&[NOP, NOP, SACK, 2 + 8 * blocks.len() as u8]);
            for &(first, end) in blocks {
                put(&first.to_be_bytes());
                put(&end.to_be_bytes());
            }
        }
        if let Some(cookie) = self.fast_open {
            let bytes = cookie.as_slice();
            put(&[NOP, NOP][..(2 + bytes.len()).next_multiple_of(4) - 2 - bytes.len()]);
            put(&[FAST_OPEN, 2 + bytes.len() as u8]);
            put(bytes);
        }
        if let Some(timeout) = self.user_timeout {
            put(&[USER_TIMEOUT, 4]);
            put(&timeout.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_the_wire() {
        let mut sack = SackBlocks::default();
        sack.push(1, 2);
        sack.push(u32::MAX, 7);
        let all = [
            Options::default(),
            Options {
                mss: Some(1460),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps: Some((5, 6)),
                ..Options::default()
            },
            Options { sack_permitted: true, fast_open: Cookie::new(&[1; 8]), ..Options::default() },
            Options { timestamps: Some((1, u32::MAX)), sack, ..Options::default() },
            Options { fast_open: Cookie::new(&[]), user_timeout: Some(0x8003), ..Options::default() },
        ];
        for options in all {
            let mut bytes = vec![0xff; options.len()];
            options.emit(&mut bytes);
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(Options::parse(&bytes), options);
        }
    }

    #[test]
    fn lengths_that_cannot_be_end_the_reading() {
        // RFC 9293 section 3.2, MUST-7.
        for bytes in [&[2][..], &[2, 0, 5, 5], &[2, 1, 5, 5], &[2, 40, 5, 5], &[8, 10, 1], &[0, 2, 4, 5, 5]] {
            assert_eq!(Options::parse(bytes), Options::default(), "{bytes:?}");
        }
        assert_eq!(Options::parse(&[1, 1, 3, 3, 200]).window_scale, Some(14));
        assert_eq!(Options::parse(&[99, 4, 1, 2, 2, 4, 1, 0]).mss, Some(256));
        assert_eq!(Cookie::new(&[1; 5]), None);
        assert_eq!(Cookie::new(&[1; 2]), None);
    }
}

//! `struct msghdr`, I/O vectors and control messages in the program's memory (recv(2), cmsg(3)).

use smallvec::SmallVec;

use crate::codec::call::Buffer;
use crate::uapi::{self, Errno};

/// Size of `struct msghdr`.
pub const HEADER_LEN: usize = 56;
/// Size of `struct mmsghdr`: a header and the length of its message.
pub const MULTI_LEN: usize = 64;
/// Most parts of an I/O vector (`UIO_MAXIOV`).
pub const MAX_PARTS: u64 = 1024;
/// Size of `struct iovec`.
pub const PART_LEN: usize = 16;
/// Most messages of a `sendmmsg` or `recvmmsg`.
pub const MAX_MESSAGES: u32 = 1024;
/// Most bytes of control messages that are read (`net.core.optmem_max` is of this order).
pub const MAX_CONTROL: u64 = 20_480;

/// Offset of `msg_namelen`.
pub const NAME_LEN_OFFSET: u64 = 8;
/// Offset of `msg_controllen`.
pub const CONTROL_LEN_OFFSET: u64 = 40;
/// Offset of `msg_flags`.
pub const FLAGS_OFFSET: u64 = 48;
/// Offset of `msg_len` in `struct mmsghdr`.
pub const MESSAGE_LEN_OFFSET: u64 = 56;

/// `struct msghdr`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The address; no address if it is null.
    pub name: Buffer,
    /// The I/O vector: its address and the number of its parts.
    pub parts: Buffer,
    /// The control messages.
    pub control: Buffer,
    /// `msg_flags`
    pub flags: i32,
}

/// Reads a header.
#[must_use]
pub fn parse_header(bytes: &[u8; HEADER_LEN]) -> Header {
    let word = |at: usize| {
        let mut value = [0; 8];
        value.copy_from_slice(&bytes[at..at + 8]);
        u64::from_ne_bytes(value)
    };
    Header {
        name: Buffer { address: word(0), len: word(8) & 0xffff_ffff },
        parts: Buffer { address: word(16), len: word(24) },
        control: Buffer { address: word(32), len: word(40) },
        flags: word(48) as i32,
    }
}

/// An I/O vector; the usual ones have few parts.
pub type Parts = SmallVec<[Buffer; 8]>;
/// The bytes of an I/O vector or of control messages: on the stack if there are few.
pub type Bytes = SmallVec<[u8; 256]>;

/// Reads an I/O vector.
///
/// # Errors
/// EINVAL if a length, or all together, are more than a `ssize_t` holds.
pub fn parse_parts(bytes: &[u8]) -> Result<Parts, Errno> {
    let mut total = 0u64;
    bytes
        .as_chunks::<PART_LEN>()
        .0
        .iter()
        .map(|part| {
            let (address, len) = part.split_at(8);
            let word = |b: &[u8]| b.iter().rev().fold(0u64, |acc, &byte| (acc << 8) | u64::from(byte));
            let part = Buffer { address: word(address), len: word(len) };
            total = total.checked_add(part.len).filter(|&t| t <= i64::MAX as u64).ok_or(uapi::EINVAL)?;
            Ok(part)
        })
        .collect()
}

/// Control messages under construction, limited to the room that the program gave.
#[derive(Debug, Default)]
pub struct ControlWriter {
    bytes: Bytes,
    room: usize,
    truncated: bool,
}

/// Size of `struct cmsghdr`.
const CONTROL_HEADER: usize = 16;

impl ControlWriter {
    /// `room` is the program's `msg_controllen`.
    #[must_use]
    pub fn new(room: u64) -> Self {
        ControlWriter {
            bytes: Bytes::new(),
            room: usize::try_from(room.min(MAX_CONTROL)).unwrap_or(0),
            truncated: false,
        }
    }

    /// Adds a message; what does not fit is cut, as the kernel does.
    pub fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let start = self.bytes.len();
        if self.room.saturating_sub(start) < CONTROL_HEADER {
            self.truncated = true;
            return;
        }
        let fits = data.len().min(self.room - start - CONTROL_HEADER);
        self.truncated |= fits < data.len();
        self.bytes.extend(((CONTROL_HEADER + fits) as u64).to_ne_bytes());
        self.bytes.extend(level.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend_from_slice(&data[..fits]);
        let padded = (self.bytes.len().next_multiple_of(8)).min(self.room);
        self.bytes.resize(padded.max(self.bytes.len()), 0);
    }

    /// The bytes, and whether something was cut (`MSG_CTRUNC`).
    #[must_use]
    pub fn finish(self) -> (Bytes, bool) {
        (self.bytes, self.truncated)
    }
}

/// One control message of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control<'a> {
    /// `cmsg_level`
    pub level: i32,
    /// `cmsg_type`
    pub kind: i32,
    /// Its data.
    pub data: &'a [u8],
}

/// Reads the program's control messages.
///
/// # Errors
/// EINVAL if a length does not fit.
pub fn parse_controls(mut bytes: &[u8]) -> Result<SmallVec<[Control<'_>; 4]>, Errno> {
    let mut controls = SmallVec::new();
    while bytes.len() >= CONTROL_HEADER {
        let int = |at: usize| i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut len = [0; 8];
        len.copy_from_slice(&bytes[..8]);
        let len = usize::try_from(u64::from_ne_bytes(len)).map_err(|_| uapi::EINVAL)?;
        if len < CONTROL_HEADER || len > bytes.len() {
            return Err(uapi::EINVAL);
        }
        controls.push(Control { level: int(8), kind: int(12), data: &bytes[CONTROL_HEADER..len] });
        bytes = bytes.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    }
    Ok(controls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_survive_a_round_trip() {
        let mut writer = ControlWriter::new(256);
        writer.push(uapi::IPPROTO_IP, uapi::IP_TTL, &64i32.to_ne_bytes());
        writer.push(uapi::SOL_SOCKET, uapi::SO_TIMESTAMP, &[7; 16]);
        let (bytes, truncated) = writer.finish();
        assert!(!truncated);
        let controls = parse_controls(&bytes).unwrap();
        assert_eq!(controls.len(), 2);
        assert_eq!((controls[0].level, controls[0].kind), (uapi::IPPROTO_IP, uapi::IP_TTL));
        assert_eq!(controls[0].data, 64i32.to_ne_bytes());
        assert_eq!(controls[1].data, [7; 16]);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said() {
        for room in 0..64 {
            let mut writer = ControlWriter::new(room);
            writer.push(1, 2, &[9; 20]);
            writer.push(1, 2, &[9; 20]);
            let (bytes, truncated) = writer.finish();
            assert!(bytes.len() as u64 <= room);
            assert!(truncated);
        }
    }

    #[test]
    fn nonsense_lengths_are_refused() {
        let mut bytes = [0u8; 32];
        for len in [0u64, 15, 33, u64::MAX] {
            bytes[..8].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(parse_controls(&bytes).unwrap_err(), uapi::EINVAL, "{len}");
        }
        let mut vector = [0xffu8; 32];
        assert_eq!(parse_parts(&vector).unwrap_err(), uapi::EINVAL);
        vector[8..16].copy_from_slice(&5u64.to_ne_bytes());
        vector[24..32].copy_from_slice(&6u64.to_ne_bytes());
        assert_eq!(parse_parts(&vector).unwrap().iter().map(|p| p.len).sum::<u64>(), 11);
    }
}

//! The thread that made a trapped call: its memory, checked.

use netgraft_linux::task;
use netgraft_sentry::Errno;
use netgraft_sentry::call::{AddressOut, Buffer};
use netgraft_sentry::message::{self, Header, PART_LEN};
use netgraft_sentry::sockaddr;

/// A thread of the program that waits for the answer to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// The notification.
    pub(super) id: u64,
    /// The thread.
    pub(super) tid: u32,
    /// The call's number.
    pub(super) number: i64,
    /// The call's arguments.
    pub(super) args: [u64; 6],
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().unwrap_or(libc::EFAULT)
}

impl Caller {
    /// Fills `buf` from the program's memory.
    pub(super) fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), Errno> {
        if buf.is_empty() {
            return Ok(());
        }
        match task::read_memory(self.tid, address, buf) {
            Ok(n) if n == buf.len() => Ok(()),
            Ok(_) => Err(libc::EFAULT),
            Err(error) => Err(errno(&error)),
        }
    }

    /// Writes all of `data` to the program's memory.
    pub(super) fn write(&self, address: u64, data: &[u8]) -> Result<(), Errno> {
        if data.is_empty() {
            return Ok(());
        }
        match task::write_memory(self.tid, address, data) {
            Ok(n) if n == data.len() => Ok(()),
            Ok(_) => Err(libc::EFAULT),
            Err(error) => Err(errno(&error)),
        }
    }

    fn read_u32(&self, address: u64) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// The bytes of an address argument.
    pub(super) fn read_address(&self, from: Buffer) -> Result<([u8; sockaddr::MAX_LEN], usize), Errno> {
        let mut bytes = [0; sockaddr::MAX_LEN];
        let len = usize::try_from(from.len).ok().filter(|&l| l <= bytes.len()).ok_or(libc::EINVAL)?;
        self.read(from.address, &mut bytes[..len])?;
        Ok((bytes, len))
    }

    /// Writes an address result: as much as fits, and its full length (accept(2)).
    pub(super) fn write_address(&self, to: AddressOut, address: &[u8]) -> Result<(), Errno> {
        if to.address == 0 {
            return Ok(());
        }
        let room = self.read_u32(to.len)?;
        if room > i32::MAX as u32 {
            return Err(libc::EINVAL);
        }
        let fits = address.len().min(room as usize);
        self.write(to.address, &address[..fits])?;
        self.write(to.len, &(address.len() as u32).to_ne_bytes())
    }

    /// Writes a `getsockopt` result: as much as fits, and how much that is.
    pub(super) fn write_value(&self, address: u64, len: u64, value: &[u8]) -> Result<(), Errno> {
        let room = self.read_u32(len)?;
        if room > i32::MAX as u32 {
            return Err(libc::EINVAL);
        }
        let fits = value.len().min(room as usize);
        self.write(address, &value[..fits])?;
        self.write(len, &(fits as u32).to_ne_bytes())
    }

    /// A `struct msghdr`.
    pub(super) fn read_header(&self, address: u64) -> Result<Header, Errno> {
        let mut bytes = [0; message::HEADER_LEN];
        self.read(address, &mut bytes)?;
        Ok(message::parse_header(&bytes))
    }

    /// An I/O vector.
    pub(super) fn read_parts(&self, parts: Buffer) -> Result<message::Parts, Errno> {
        if parts.len > message::MAX_PARTS {
            return Err(libc::EMSGSIZE);
        }
        let mut bytes = message::Bytes::from_elem(0, parts.len as usize * PART_LEN);
        self.read(parts.address, &mut bytes)?;
        message::parse_parts(&bytes)
    }

    /// Gathers an I/O vector into `data`, which it clears first; stops at `most` bytes.
    pub(super) fn gather(&self, parts: &[Buffer], most: usize, data: &mut Vec<u8>) -> Result<(), Errno> {
        data.clear();
        for part in parts {
            let len = usize::try_from(part.len).unwrap_or(usize::MAX).min(most - data.len());
            let start = data.len();
            data.resize(start + len, 0);
            self.read(part.address, &mut data[start..])?;
        }
        Ok(())
    }

    /// Spreads `data` over an I/O vector.
    pub(super) fn scatter(&self, parts: &[Buffer], mut data: &[u8]) -> Result<(), Errno> {
        for part in parts {
            let len = usize::try_from(part.len).unwrap_or(usize::MAX).min(data.len());
            let (head, tail) = data.split_at(len);
            self.write(part.address, head)?;
            data = tail;
            if data.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// All bytes of an I/O vector.
pub(super) fn total(parts: &[Buffer]) -> usize {
    parts.iter().fold(0, |sum, p| sum.saturating_add(usize::try_from(p.len).unwrap_or(usize::MAX)))
}

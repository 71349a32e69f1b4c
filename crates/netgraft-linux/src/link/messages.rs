//! Frames in batches: recvmmsg(2) and sendmmsg(2) on a socket that keeps the boundaries of messages, each frame behind a
//! header ([`super::vnet`]).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{FRAME, check, vlan, vnet};

/// Frames of one receiving call.
const RECEIVE: usize = 32;
/// Frames and bytes of one sending call.
const SEND: usize = 64;
const SEND_BYTES: usize = 256 * 1024;
/// Room for a header and a frame.
const SLOT: usize = vnet::LEN + FRAME;

/// Frames that have come, and frames that are to leave.
#[derive(Debug)]
pub(super) struct Messages {
    /// `RECEIVE` times a header and a frame.
    buf: Box<[u8]>,
    /// The length of each; 0 for a message that was longer than its slot.
    lengths: [usize; RECEIVE],
    /// Outgoing headers and frames, one behind the other, and where each ends.
    out: Vec<u8>,
    ends: Vec<usize>,
    /// The VLAN that outgoing frames are of.
    vlan: Option<u16>,
}

impl Messages {
    pub(super) fn new() -> Messages {
        Messages {
            // Pages that no frame touches cost nothing.
            buf: vec![0; RECEIVE * SLOT].into_boxed_slice(),
            lengths: [0; RECEIVE],
            out: Vec::new(),
            ends: Vec::new(),
            vlan: None,
        }
    }

    /// The same, whose outgoing frames are of a VLAN.
    pub(super) fn of_vlan(self, vlan: Option<u16>) -> Messages {
        Messages { vlan, ..self }
    }

    /// Receives at most `limit` messages with one system call; answers how many came, and whether more may wait.
    pub(super) fn receive(&mut self, fd: BorrowedFd<'_>, limit: usize) -> io::Result<(usize, bool)> {
        let wanted = limit.min(RECEIVE);
        match self.receive_batch(fd, wanted) {
            Ok(got) => Ok((got, got == wanted)),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok((0, false))
            }
            Err(e) => Err(e),
        }
    }

    /// The header and the frame of the first `count` messages of the last call; both empty for a message that is shorter
    /// than a header or longer than the largest frame.
    pub(super) fn received(&self, count: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.buf.chunks_exact(SLOT).zip(&self.lengths).take(count).map(|(slot, &len)| {
            let message = slot.get(..len).unwrap_or(&[]);
            message.split_at_checked(vnet::LEN).unwrap_or((&[], &[]))
        })
    }

    fn receive_batch(&mut self, fd: BorrowedFd<'_>, wanted: usize) -> io::Result<usize> {
        // SAFETY: `iovec` and `mmsghdr` are plain data for which zero is valid.
        let mut parts: [libc::iovec; RECEIVE] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; RECEIVE] = unsafe { std::mem::zeroed() };
        for (part, slot) in parts.iter_mut().zip(self.buf.chunks_exact_mut(SLOT)) {
            *part = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
        }
        for (message, part) in messages.iter_mut().zip(&mut parts) {
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        let flags = libc::MSG_DONTWAIT as _;
        let count = wanted as libc::c_uint;
        // SAFETY: the first `wanted` messages each point to one part, which points to its own slot of `buf`; all
        // live through the call and nothing else refers to them. There is no room for control messages, so that the
        // kernel closes descriptors that a message brings.
        let got = check(unsafe {
            libc::recvmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, flags, std::ptr::null_mut())
        })?;
        let got = (got as usize).min(wanted);
        for (len, message) in self.lengths.iter_mut().zip(&messages[..got]) {
            let cut = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            *len = if cut { 0 } else { message.msg_len as usize };
        }
        Ok(got)
    }

    /// Whether a frame of so many bytes is more than one sending call takes together with what is queued.
    pub(super) fn is_full_for(&self, len: usize) -> bool {
        !self.ends.is_empty() && (self.ends.len() >= SEND || self.out.len() + len > SEND_BYTES)
    }

    /// Bytes that are queued, headers included.
    pub(super) fn queued(&self) -> usize {
        self.out.len()
    }

    /// Queues one frame. With `segment` its header says that a TCP segment's checksum is still to be computed, and that it is
    /// to be cut into pieces of so many payload bytes unless that is 0; without, that it is as it should be.
    pub(super) fn queue(&mut self, frame: &[u8], segment: Option<u16>) {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; vnet::LEN]);
        self.out.extend_from_slice(frame);
        let (header, copy) = self.out[start..].split_at_mut(vnet::LEN);
        if let Some(size) = segment {
            let mut described = vnet::describe(copy, frame.len(), size);
            if self.vlan.is_some() {
                vlan::shift(&mut described);
            }
            header.copy_from_slice(&described);
        }
        if let Some(vlan) = self.vlan {
            vlan::insert(&mut self.out, start + vnet::LEN, vlan);
        }
        self.ends.push(self.out.len());
    }

    /// Sends what is queued. A frame that the other side cannot take is dropped, as a full queue of the kernel's drops it.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; the rest stays queued. If the other side is gone, what says so: ENETDOWN, ENODEV,
    /// ENXIO of an interface, EPIPE, ECONNRESET, ENOTCONN of a socket.
    pub(super) fn flush(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut done = 0;
        let result = loop {
            if done == self.ends.len() {
                break Ok(());
            }
            match self.send_batch(fd, done) {
                Ok(sent) => done += sent,
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(
                        libc::ENETDOWN
                        | libc::ENODEV
                        | libc::ENXIO
                        | libc::EPIPE
                        | libc::ECONNRESET
                        | libc::ENOTCONN,
                    ) => {
                        done = self.ends.len();
                        break Err(e);
                    }
                    Some(libc::EAGAIN) => break Err(e),
                    _ => done += 1,
                },
            }
        };
        let cut = if done == 0 { 0 } else { self.ends[done - 1] };
        self.out.drain(..cut);
        self.ends.drain(..done);
        for end in &mut self.ends {
            *end -= cut;
        }
        result
    }

    fn send_batch(&mut self, fd: BorrowedFd<'_>, from: usize) -> io::Result<usize> {
        // SAFETY: `iovec` and `mmsghdr` are plain data for which zero is valid.
        let mut parts: [libc::iovec; SEND] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; SEND] = unsafe { std::mem::zeroed() };
        let mut start = if from == 0 { 0 } else { self.ends[from - 1] };
        let count = (self.ends.len() - from).min(SEND);
        for ((part, message), &end) in parts.iter_mut().zip(&mut messages).zip(&self.ends[from..]) {
            let frame = &mut self.out[start..end];
            *part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            start = end;
        }
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _;
        // SAFETY: the first `count` messages each point to one part, which points into `out`; all live through
        // the call, and the kernel only reads them, but for the lengths in `messages`.
        let sent = check(unsafe {
            libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count as libc::c_uint, flags)
        })?;
        Ok((sent as usize).min(count))
    }
}

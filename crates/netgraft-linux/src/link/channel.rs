//! A pair of sockets that carries frames as a device does: each message of `SOCK_SEQPACKET` (unix(7)) is a frame behind a
//! header ([`super::vnet`]). One end is given to whoever expects a device.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::messages::Messages;
use super::{check, vnet};
use crate::unix;

/// Bytes that are under way in a direction, as the kernel counts them, where it lets the caller have so many.
const BUFFER: libc::c_int = 4 * 1024 * 1024;

/// Makes a pair, non-blocking.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors that the call writes.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: the kernel returned two new descriptors, which nobody else owns.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
    for end in [&ours, &theirs] {
        // Beyond wmem_max only with CAP_NET_ADMIN; without it the largest that may be has to do.
        let forced = set(end, libc::SO_SNDBUFFORCE);
        forced.or_else(|_| set(end, libc::SO_SNDBUF))?;
    }
    Ok((ours, theirs))
}

fn set(fd: &OwnedFd, name: libc::c_int) -> io::Result<()> {
    let (value, len) = (BUFFER, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the value lives through the call and has the length that is passed.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, (&raw const value).cast(), len) })
        .map(drop)
}

/// An end of a pair.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
    messages: Messages,
}

impl Channel {
    /// The end that this descriptor is.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Channel {
        Channel { fd, messages: Messages::new() }
    }

    /// Receives at most `limit` messages with one system call and hands the header and the frame of each to `deliver`;
    /// answers how many came, and whether more may wait. What is no frame behind a header is left out. Neither header nor
    /// frame is checked.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the other end is closed.
    pub fn receive(
        &mut self,
        limit: usize,
        deliver: &mut dyn FnMut(&[u8], &[u8]),
    ) -> io::Result<(usize, bool)> {
        let (got, more) = self.messages.receive(self.fd.as_fd(), limit)?;
        let mut whole = 0;
        for (header, frame) in self.messages.received(got) {
            if header.len() == vnet::LEN && !frame.is_empty() {
                whole += 1;
                deliver(header, frame);
            }
        }
        // The end of the stream looks like empty messages, as many as are asked for.
        if got > 0 && whole == 0 && unix::is_hung_up(self.fd.as_fd()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((got, more))
    }

    /// Bytes that are queued for [`Channel::flush`].
    #[must_use]
    pub fn queued(&self) -> usize {
        self.messages.queued()
    }

    /// Queues one frame for [`Channel::flush`]. With `segment` the other end learns that a TCP segment's checksum is still
    /// to be computed, and that it was merged from pieces of so many payload bytes unless that is 0.
    pub fn queue(&mut self, frame: &[u8], segment: Option<u16>) {
        self.messages.queue(frame, segment);
    }

    /// Sends what is queued, in batches.
    ///
    /// # Errors
    /// `WouldBlock` if the socket is full; the rest stays queued. EPIPE, ECONNRESET if the other end is closed.
    pub fn flush(&mut self) -> io::Result<()> {
        self.messages.flush(self.fd.as_fd())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers, and the lengths of the frames behind them.
    type Frames = Vec<(Vec<u8>, usize)>;

    fn received(channel: &mut Channel, limit: usize) -> io::Result<(Frames, bool)> {
        let mut frames = Vec::new();
        let (_, more) =
            channel.receive(limit, &mut |header, frame| frames.push((header.to_vec(), frame.len())))?;
        Ok((frames, more))
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let (ours, theirs) = pair().unwrap();
        let (mut ours, mut theirs) = (Channel::from_fd(ours), Channel::from_fd(theirs));
        assert_eq!(received(&mut theirs, 8).unwrap(), (vec![], false));
        for len in [60, 1514, 65_550] {
            ours.queue(&vec![7; len], None);
        }
        assert_eq!(ours.queued(), 60 + 1514 + 65_550 + 3 * vnet::LEN);
        ours.flush().unwrap();
        assert_eq!(ours.queued(), 0);
        let (frames, more) = received(&mut theirs, 2).unwrap();
        assert_eq!((frames, more), (vec![(vec![0; vnet::LEN], 60), (vec![0; vnet::LEN], 1514)], true));
        assert_eq!(received(&mut theirs, 2).unwrap(), (vec![(vec![0; vnet::LEN], 65_550)], false));
    }

    #[test]
    fn a_full_socket_keeps_the_rest_in_order() {
        let (ours, theirs) = pair().unwrap();
        let (mut ours, mut theirs) = (Channel::from_fd(ours), Channel::from_fd(theirs));
        for number in 0..1000_u32 {
            ours.queue(&number.to_be_bytes().repeat(10_000), None);
        }
        assert_eq!(ours.flush().map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock));
        let mut next = 0_u32;
        while next < 1000 {
            let (got, _) = theirs
                .receive(64, &mut |_, frame| {
                    assert_eq!(frame, next.to_be_bytes().repeat(10_000));
                    next += 1;
                })
                .unwrap();
            assert!(got > 0, "{next}");
            let _ = ours.flush();
        }
        assert_eq!(ours.queued(), 0);
    }

    #[test]
    fn what_is_no_frame_is_left_out_and_the_end_is_an_error() {
        let (ours, theirs) = pair().unwrap();
        let mut ours = Channel::from_fd(ours);
        for len in [0, 1, vnet::LEN, 70_000] {
            unix::send(theirs.as_fd(), &vec![0; len]).unwrap();
        }
        unix::send(theirs.as_fd(), &[0; vnet::LEN + 1]).unwrap();
        assert_eq!(received(&mut ours, 8).unwrap().0, [(vec![0; vnet::LEN], 1)]);
        unix::send(theirs.as_fd(), &[]).unwrap();
        assert_eq!(received(&mut ours, 8).unwrap(), (vec![], false), "an empty message is no end");
        drop(theirs);
        assert_eq!(received(&mut ours, 8).map_err(|e| e.kind()), Err(io::ErrorKind::UnexpectedEof));
        ours.queue(&[1; 60], None);
        assert_eq!(ours.flush().map_err(|e| e.kind()), Err(io::ErrorKind::BrokenPipe));
        assert_eq!(ours.queued(), 0);
    }
}

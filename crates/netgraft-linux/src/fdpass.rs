//! Messages with descriptors over `SOCK_SEQPACKET` pairs (unix(7)), and waiting for them.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use crate::result::check;

/// The most descriptors that one message carries (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;
const FD_SIZE: usize = size_of::<RawFd>();
/// The words of an ancillary buffer for one descriptor (cmsg(3)); the kernel may put a second one into its padding.
pub(crate) const SMALL: usize = 3;

/// A connected pair of sockets that keep message boundaries, closed by execve(2).
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors.
    check(unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    })?;
    // SAFETY: the kernel just gave both descriptors to us alone.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Makes the kernel say of each message who sent it (`SO_PASSCRED`).
///
/// # Errors
/// As setsockopt(2).
pub fn tell_senders(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is one int, alive during the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PASSCRED,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Receives a short message on a socket of [`tell_senders`], with the process id of its sender as the caller's
/// process-id namespace has it; `None` if every peer is gone.
///
/// # Errors
/// As recvmsg(2); [`io::ErrorKind::InvalidData`] for a message of another length or without a sender.
pub fn receive_from_sender<const N: usize>(socket: BorrowedFd<'_>) -> io::Result<Option<([u8; N], i32)>> {
    let mut data = [0_u8; N];
    let mut control = [0_u64; 8];
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: N };
    // SAFETY: `msghdr` is plain data for which zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points to buffers of the lengths it says, alive and ours alone in the call.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let got = check(got as libc::c_int)? as usize;
    if got == 0 {
        return Ok(None);
    }
    // Nobody sends descriptors here, but what has come must not stay open.
    each_fd(&message, drop);
    // SAFETY: the kernel filled the control buffer and set `msg_controllen` to what it used.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if got != N || header.is_null() {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    // SAFETY: a non-null header lies within the buffer.
    let kind = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
    if kind != (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    // SAFETY: a message of this kind carries one `ucred`, for which the buffer has room.
    let sender = unsafe { libc::CMSG_DATA(header).cast::<libc::ucred>().read_unaligned() };
    Ok(Some((data, sender.pid)))
}

/// An ancillary buffer, aligned for `cmsghdr`.
fn control_buffer(fds: usize) -> Vec<u64> {
    // SAFETY: CMSG_SPACE only computes.
    let bytes = unsafe { libc::CMSG_SPACE((fds * FD_SIZE) as u32) } as usize;
    vec![0; bytes.div_ceil(size_of::<u64>())]
}

/// Sends one message with descriptors. A peer that is gone is an error, not a signal.
///
/// # Errors
/// As sendmsg(2); [`io::ErrorKind::InvalidInput`] for more than [`MAX_FDS`] descriptors or an empty message.
pub fn send(socket: BorrowedFd<'_>, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, data, fds, libc::MSG_NOSIGNAL)
}

/// The same, without waiting for room.
///
/// # Errors
/// As [`send`], and [`io::ErrorKind::WouldBlock`].
pub fn send_now(socket: BorrowedFd<'_>, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, data, fds, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
}

fn send_with(socket: BorrowedFd<'_>, data: &[u8], fds: &[BorrowedFd<'_>], flags: i32) -> io::Result<()> {
    // An empty packet could not be told from the end of the connection.
    if fds.len() > MAX_FDS || data.is_empty() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    send_in(&mut control_buffer(fds.len()), socket, data, fds, flags)
}

/// The same with `flags` (send(2)), and with ancillary data in a buffer of the caller's, so that nothing is allocated:
/// [`SMALL`] words are enough for one descriptor.
///
/// # Errors
/// As sendmsg(2); [`io::ErrorKind::InvalidInput`] if the buffer is too small for the descriptors.
pub(crate) fn send_in(
    control: &mut [u64],
    socket: BorrowedFd<'_>,
    data: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: i32,
) -> io::Result<()> {
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: `msghdr` is plain data for which zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        // SAFETY: CMSG_SPACE only computes.
        let needed = unsafe { libc::CMSG_SPACE((fds.len() * FD_SIZE) as u32) } as usize;
        if needed > size_of_val(control) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = needed;
        // SAFETY: the buffer is aligned and has room for one header with `fds.len()` descriptors, as was just checked, so
        // CMSG_FIRSTHDR is not null and CMSG_DATA has that much room behind it.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN((fds.len() * FD_SIZE) as u32) as usize;
            let mut slot = libc::CMSG_DATA(header).cast::<RawFd>();
            for fd in fds {
                slot.write_unaligned(fd.as_raw_fd());
                slot = slot.add(1);
            }
        }
    }
    loop {
        // SAFETY: the message points to buffers that live through the call; the kernel only reads them.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
        match check(sent as libc::c_int) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(drop),
        }
    }
}

/// Receives one message with its descriptors, closed by execve(2); `None` if the peer is gone.
///
/// # Errors
/// As recvmsg(2); [`io::ErrorKind::InvalidData`] if the message is longer than `limit` bytes or lost
/// descriptors.
pub fn receive(socket: BorrowedFd<'_>, limit: usize) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    // Room for what is there, not for the longest message, whose pages cost more than this look.
    let length = next_length(socket)?;
    if length == 0 {
        return Ok(None);
    }
    let mut data = vec![0_u8; length.min(limit)];
    let mut fds = Vec::new();
    let (got, is_whole) = receive_in(&mut control_buffer(MAX_FDS), socket, &mut data, |fd| fds.push(fd))?;
    if got == 0 {
        return Ok(None);
    }
    if !is_whole {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    data.truncate(got);
    Ok(Some((data, fds)))
}

/// Waits for the next message: how many bytes it has, 0 if the peer is gone.
fn next_length(socket: BorrowedFd<'_>) -> io::Result<usize> {
    // SAFETY: `msghdr` is plain data for which zero is valid: no room for anything.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    loop {
        let flags = libc::MSG_PEEK | libc::MSG_TRUNC;
        // SAFETY: the message has no buffers, into which the kernel could write.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        match check(got as libc::c_int) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(|length| length as usize),
        }
    }
}

/// Receives what has come on a stream socket, with the descriptors that came along: how many bytes of `data` that is, 0 at the
/// end.
///
/// # Errors
/// As recvmsg(2); [`io::ErrorKind::InvalidData`] if descriptors were lost.
pub fn receive_some(socket: BorrowedFd<'_>, data: &mut [u8], take: impl FnMut(OwnedFd)) -> io::Result<usize> {
    match receive_in(&mut control_buffer(MAX_FDS), socket, data, take)? {
        (got, true) => Ok(got),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The same with buffers of the caller's, so that nothing is allocated: how many bytes of `data` the message has, and whether
/// it is whole. Each descriptor that came goes to `take`.
///
/// # Errors
/// As recvmsg(2).
pub(crate) fn receive_in(
    control: &mut [u64],
    socket: BorrowedFd<'_>,
    data: &mut [u8],
    take: impl FnMut(OwnedFd),
) -> io::Result<(usize, bool)> {
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: `msghdr` is plain data for which zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(control);
    let got = loop {
        // SAFETY: the message points to buffers of the lengths it says, alive and ours alone in the call.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match check(got as libc::c_int) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => break result? as usize,
        }
    };
    each_fd(&message, take);
    Ok((got, message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0))
}

/// Hands over each descriptor that came with a message, which the kernel has just filled.
fn each_fd(message: &libc::msghdr, mut take: impl FnMut(OwnedFd)) {
    // SAFETY: the kernel filled the control buffer and set `msg_controllen` to what it used.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(ptr::from_ref(message)) };
    while !header.is_null() {
        // SAFETY: a non-null header lies within the buffer.
        let (level, kind, len) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes; CMSG_DATA points behind the header.
            let (start, slot) =
                unsafe { (libc::CMSG_LEN(0) as usize, libc::CMSG_DATA(header).cast::<RawFd>()) };
            for i in 0..len.saturating_sub(start) / FD_SIZE {
                // SAFETY: `cmsg_len` counts this element; the kernel put a new descriptor there, ours alone.
                take(unsafe { OwnedFd::from_raw_fd(slot.add(i).read_unaligned()) });
            }
        }
        // SAFETY: `header` lies within the buffer of `message`.
        header = unsafe { libc::CMSG_NXTHDR(ptr::from_ref(message), header) };
    }
}

/// Waits until one of the descriptors has something to read or its peer is gone (poll(2)), or the time is
/// over; says which.
///
/// # Errors
/// As poll(2); an interruption by a signal is no error.
pub fn wait_readable<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    // poll skips negative descriptors.
    let mut list = fds.map(|fd| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    // Rounded up, so that a wait never ends before its time and spins.
    let millis = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    // SAFETY: `list` has N elements and lives through the call.
    match check(unsafe { libc::poll(list.as_mut_ptr(), N as libc::nfds_t, millis) }) {
        Err(e) if e.kind() != io::ErrorKind::Interrupted => Err(e),
        _ => Ok(list.map(|entry| entry.revents != 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn messages_keep_their_boundaries_and_descriptors_their_order() {
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        send(a.as_fd(), b"first", &[writer.as_fd(), null.as_fd()]).unwrap();
        send(a.as_fd(), b"second", &[]).unwrap();
        drop(writer);
        let (data, mut fds) = receive(b.as_fd(), 100).unwrap().unwrap();
        assert_eq!((data.as_slice(), fds.len()), (b"first".as_slice(), 2));
        File::from(fds.remove(0)).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        let (data, fds) = receive(b.as_fd(), 100).unwrap().unwrap();
        assert_eq!((data.as_slice(), fds.len()), (b"second".as_slice(), 0));
        drop(a);
        assert!(receive(b.as_fd(), 100).unwrap().is_none());
    }

    #[test]
    fn the_kernel_tells_who_sent() {
        let (a, b) = pair().unwrap();
        tell_senders(b.as_fd()).unwrap();
        let child = crate::process::fork(|| i32::from(send(a.as_fd(), b"it is me", &[]).is_err())).unwrap();
        assert_eq!(receive_from_sender(b.as_fd()).unwrap(), Some((*b"it is me", child)));
        crate::process::wait(child, crate::process::Wait::Block).unwrap();
        send(a.as_fd(), b"other", &[]).unwrap();
        assert_eq!(receive_from_sender::<8>(b.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(a);
        assert_eq!(receive_from_sender::<8>(b.as_fd()).unwrap(), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"too long", &[]).unwrap();
        assert_eq!(receive(b.as_fd(), 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let many: Vec<_> = std::iter::repeat_n(a.as_fd(), MAX_FDS + 1).collect();
        assert_eq!(send(a.as_fd(), b"x", &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(send(a.as_fd(), b"", &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        drop(b);
        assert_eq!(send(a.as_fd(), b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_message_that_is_too_long_is_none_and_the_next_is_whole() {
        let (ours, theirs) = pair().unwrap();
        send(theirs.as_fd(), &[7; 100], &[theirs.as_fd()]).unwrap();
        send(theirs.as_fd(), &[8; 10], &[theirs.as_fd()]).unwrap();
        drop(theirs);
        assert_eq!(receive(ours.as_fd(), 99).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (data, fds) = receive(ours.as_fd(), 10).unwrap().unwrap();
        assert_eq!((data, fds.len()), (vec![8; 10], 1));
        drop(fds);
        assert!(receive(ours.as_fd(), 10).unwrap().is_none());
    }
}

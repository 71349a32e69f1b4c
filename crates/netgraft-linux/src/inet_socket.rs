//! The host's socket calls on descriptors, safe to call: inet sockets, epoll and poll.
//!
//! Addresses cross as bytes that [`encode_addr`] and [`decode_addr`] make and read, so that nothing here
//! depends on the layout of Rust types. Every call that can be interrupted is repeated (signal(7)).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libc::{c_int, c_void, socklen_t};

use crate::result::retry;

/// Bytes of the largest inet address, `struct sockaddr_in6` (ipv6(7)).
pub const ADDR_MAX: usize = 28;
const ADDR_V4: usize = 16;

/// An address as the kernel takes it, and how many bytes of it count.
#[must_use]
pub fn encode_addr(addr: &SocketAddr) -> ([u8; ADDR_MAX], usize) {
    let mut raw = [0; ADDR_MAX];
    match addr {
        SocketAddr::V4(a) => {
            raw[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            raw[2..4].copy_from_slice(&a.port().to_be_bytes());
            raw[4..8].copy_from_slice(&a.ip().octets());
            (raw, ADDR_V4)
        }
        SocketAddr::V6(a) => {
            raw[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            raw[2..4].copy_from_slice(&a.port().to_be_bytes());
            raw[4..8].copy_from_slice(&a.flowinfo().to_ne_bytes());
            raw[8..24].copy_from_slice(&a.ip().octets());
            raw[24..28].copy_from_slice(&a.scope_id().to_ne_bytes());
            (raw, ADDR_MAX)
        }
    }
}

/// The inet address in `raw`; `None` if it is too short or of another family. Like the kernel, takes an
/// IPv6 address without its scope (24 bytes, RFC 2133).
#[must_use]
pub fn decode_addr(raw: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*raw.first_chunk()?);
    let port = u16::from_be_bytes(*raw.get(2..)?.first_chunk()?);
    match c_int::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = *raw.get(4..ADDR_V4)?.first_chunk()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(ip), port).into())
        }
        libc::AF_INET6 => {
            let flow = u32::from_ne_bytes(*raw.get(4..)?.first_chunk()?);
            let ip: [u8; 16] = *raw.get(8..)?.first_chunk()?;
            let scope = raw.get(24..).and_then(|r| r.first_chunk()).map_or(0, |s| u32::from_ne_bytes(*s));
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into())
        }
        _ => None,
    }
}

fn owned(fd: c_int) -> OwnedFd {
    // SAFETY: every caller passes a descriptor that a successful call has just made and nobody else has.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// socket(2), with `SOCK_CLOEXEC`; `kind` may hold `SOCK_NONBLOCK`.
///
/// # Errors
/// Those of socket(2).
pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes only integers.
    retry(|| unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) }).map(owned)
}

/// A connected pair of unix sockets (socketpair(2)), with `SOCK_CLOEXEC`.
///
/// # Errors
/// Those of socketpair(2).
pub fn unix_pair(kind: c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = kind | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors that the call writes.
    retry(|| unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    Ok((owned(fds[0]), owned(fds[1])))
}

/// bind(2)
///
/// # Errors
/// Those of bind(2).
pub fn bind(fd: BorrowedFd<'_>, addr: &SocketAddr) -> io::Result<()> {
    let (raw, len) = encode_addr(addr);
    // SAFETY: the kernel reads `len` bytes of `raw`, which are initialised and live across the call.
    retry(|| unsafe { libc::bind(fd.as_raw_fd(), raw.as_ptr().cast(), len as socklen_t) }).map(drop)
}

/// connect(2)
///
/// # Errors
/// Those of connect(2); `EINPROGRESS` from a non-blocking stream.
pub fn connect(fd: BorrowedFd<'_>, addr: &SocketAddr) -> io::Result<()> {
    let (raw, len) = encode_addr(addr);
    connect_raw(fd, &raw[..len])
}

/// connect(2) with `AF_UNSPEC`: forgets a datagram socket's peer.
///
/// # Errors
/// Those of connect(2).
pub fn disconnect(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut raw = [0; ADDR_V4];
    raw[..2].copy_from_slice(&(libc::AF_UNSPEC as u16).to_ne_bytes());
    connect_raw(fd, &raw)
}

fn connect_raw(fd: BorrowedFd<'_>, raw: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `raw.len()` initialised bytes of `raw`, which lives across the call.
    retry(|| unsafe { libc::connect(fd.as_raw_fd(), raw.as_ptr().cast(), raw.len() as socklen_t) }).map(drop)
}

/// listen(2)
///
/// # Errors
/// Those of listen(2).
pub fn listen(fd: BorrowedFd<'_>, backlog: c_int) -> io::Result<()> {
    // SAFETY: takes only integers.
    retry(|| unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// accept4(2) with `SOCK_CLOEXEC` and `flags`: the new socket and its peer.
///
/// # Errors
/// Those of accept(2); `EAFNOSUPPORT` if the peer has no inet address.
pub fn accept4(fd: BorrowedFd<'_>, flags: c_int) -> io::Result<(OwnedFd, SocketAddr)> {
    let flags = flags | libc::SOCK_CLOEXEC;
    let (socket, peer) = with_addr(|raw, len| {
        // SAFETY: `with_addr` passes a buffer and its length that live across the call.
        retry(|| unsafe { libc::accept4(fd.as_raw_fd(), raw, len, flags) }).map(owned)
    })?;
    Ok((socket, peer.ok_or_else(foreign)?))
}

/// getsockname(2)
///
/// # Errors
/// Those of getsockname(2); `EAFNOSUPPORT` if it is no inet address.
pub fn getsockname(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    // SAFETY: `with_addr` passes a buffer and its length that live across the call.
    let (_, addr) = with_addr(|raw, len| retry(|| unsafe { libc::getsockname(fd.as_raw_fd(), raw, len) }))?;
    addr.ok_or_else(foreign)
}

/// getpeername(2)
///
/// # Errors
/// Those of getpeername(2); `EAFNOSUPPORT` if it is no inet address.
pub fn getpeername(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    // SAFETY: `with_addr` passes a buffer and its length that live across the call.
    let (_, addr) = with_addr(|raw, len| retry(|| unsafe { libc::getpeername(fd.as_raw_fd(), raw, len) }))?;
    addr.ok_or_else(foreign)
}

fn foreign() -> io::Error {
    io::Error::from_raw_os_error(libc::EAFNOSUPPORT)
}

/// Gives `call` room for an address and reads what it wrote there.
fn with_addr<T>(
    call: impl FnOnce(*mut libc::sockaddr, *mut socklen_t) -> io::Result<T>,
) -> io::Result<(T, Option<SocketAddr>)> {
    // The kernel copies bytes, whatever their alignment. There is room for more than any inet address.
    let mut raw = [0_u8; 128];
    let mut len = raw.len() as socklen_t;
    let result = call(raw.as_mut_ptr().cast(), &raw mut len)?;
    Ok((result, decode_addr(&raw[..raw.len().min(len as usize)])))
}

/// getsockopt(2): fills `value` and says how many bytes of it.
///
/// # Errors
/// Those of getsockopt(2).
pub fn getsockopt(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<usize> {
    let mut len = value.len() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the length of `value`, and then the count to `len`.
    retry(|| unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len)
    })?;
    Ok(value.len().min(len as usize))
}

/// getsockopt(2) of an `int`; the kernel answers some of them as one byte.
///
/// # Errors
/// Those of getsockopt(2).
pub fn getsockopt_int(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value = [0; 4];
    let len = getsockopt(fd, level, name, &mut value)?;
    Ok(if len == 1 { c_int::from(value[0]) } else { c_int::from_ne_bytes(value) })
}

/// setsockopt(2)
///
/// # Errors
/// Those of setsockopt(2).
pub fn setsockopt(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    let len = value.len() as socklen_t;
    // SAFETY: the kernel reads `len` initialised bytes of `value`.
    retry(|| unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) }).map(drop)
}

/// shutdown(2): `how` is `SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`.
///
/// # Errors
/// Those of shutdown(2).
pub fn shutdown(fd: BorrowedFd<'_>, how: c_int) -> io::Result<()> {
    // SAFETY: takes only integers.
    retry(|| unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

/// sendto(2), with `MSG_NOSIGNAL`; without `to`, send(2).
///
/// # Errors
/// Those of send(2).
pub fn sendto(fd: BorrowedFd<'_>, data: &[u8], to: Option<&SocketAddr>, flags: c_int) -> io::Result<usize> {
    let encoded = to.map(encode_addr);
    let (addr, len) =
        encoded.as_ref().map_or((std::ptr::null(), 0), |(raw, len)| (raw.as_ptr().cast(), *len as socklen_t));
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads `data` and, if `addr` is not null, `len` bytes of `encoded`; both are
    // initialised and live across the call.
    let sent = retry(|| unsafe {
        libc::sendto(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), flags, addr, len)
    })?;
    Ok(sent as usize)
}

/// recvfrom(2): the length, which with `MSG_TRUNC` can be more than the buffer's, and the sender's address
/// where there is one.
///
/// # Errors
/// Those of recv(2).
pub fn recvfrom(fd: BorrowedFd<'_>, buf: &mut [u8], flags: c_int) -> io::Result<(usize, Option<SocketAddr>)> {
    let mut raw = [0_u8; 128];
    let mut len = raw.len() as socklen_t;
    // SAFETY: the kernel writes at most `buf.len()` bytes to `buf`, at most `len` to `raw`, and the
    // address's length to `len`; all live across the call.
    let received = retry(|| unsafe {
        let addr = raw.as_mut_ptr().cast();
        libc::recvfrom(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), flags, addr, &raw mut len)
    })?;
    Ok((received as usize, decode_addr(&raw[..raw.len().min(len as usize)])))
}

/// What [`recvmsg`] gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The length; with `MSG_TRUNC` among the flags asked for, the datagram's own.
    pub len: usize,
    /// Bytes of control messages.
    pub control_len: usize,
    /// `MSG_TRUNC`, `MSG_CTRUNC` and the like.
    pub flags: c_int,
    /// The sender, where there is an inet one.
    pub from: Option<SocketAddr>,
}

/// recvmsg(2) into one buffer, with room for control messages (cmsg(3)), which [`control_messages`] reads.
///
/// Descriptors that come in control messages are the caller's to take: do not use this on unix sockets.
///
/// # Errors
/// Those of recvmsg(2).
pub fn recvmsg(fd: BorrowedFd<'_>, buf: &mut [u8], control: &mut [u8], flags: c_int) -> io::Result<Message> {
    let mut raw = [0_u8; 128];
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: `msghdr` is a C structure of integers and pointers, for which all zeroes is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = raw.as_mut_ptr().cast::<c_void>();
    header.msg_namelen = raw.len() as socklen_t;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len();
    // SAFETY: `header` points to buffers with their true lengths, all exclusively borrowed and alive.
    let received = retry(|| unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) })?;
    let name_len = raw.len().min(header.msg_namelen as usize);
    Ok(Message {
        len: received as usize,
        control_len: control.len().min(header.msg_controllen),
        flags: header.msg_flags,
        from: decode_addr(&raw[..name_len]),
    })
}

/// sendmsg(2) of one buffer with control messages (cmsg(3)) and `MSG_NOSIGNAL`.
///
/// # Errors
/// Those of sendmsg(2).
pub fn sendmsg(
    fd: BorrowedFd<'_>,
    data: &[u8],
    to: Option<&SocketAddr>,
    control: &[u8],
    flags: c_int,
) -> io::Result<usize> {
    let mut encoded = to.map(encode_addr);
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: `msghdr` is a C structure of integers and pointers, for which all zeroes is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if let Some((raw, len)) = encoded.as_mut() {
        header.msg_name = raw.as_mut_ptr().cast();
        header.msg_namelen = *len as socklen_t;
    }
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len();
    }
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: `header` points to live buffers with their true lengths; the kernel only reads them.
    let sent = retry(|| unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) })?;
    Ok(sent as usize)
}

/// The control messages in `control`, as level, type and data (cmsg(3)). Stops at the first that is cut.
pub fn control_messages(control: &[u8]) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let mut rest = control;
    std::iter::from_fn(move || {
        let len = usize::from_ne_bytes(*rest.first_chunk()?);
        let level = c_int::from_ne_bytes(*rest.get(8..)?.first_chunk()?);
        let kind = c_int::from_ne_bytes(*rest.get(12..)?.first_chunk()?);
        let data = rest.get(HEADER..len)?;
        rest = rest.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
        Some((level, kind, data))
    })
}

/// ioctl(2) with a request that writes an `int`, such as `FIONREAD` and `SIOCOUTQ`.
///
/// # Errors
/// `EINVAL` for a request that is none of these two; else those of ioctl(2).
pub fn ioctl_int(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<c_int> {
    // Other requests might write more than an int.
    if request != libc::FIONREAD && request != libc::TIOCOUTQ {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut value: c_int = 0;
    // SAFETY: both requests write one int (tty_ioctl(4), tcp(7)), and `value` is one.
    retry(|| unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut value) })?;
    Ok(value)
}

/// What one descriptor is ready for, of `events`, now (poll(2) without waiting).
///
/// # Errors
/// Those of poll(2).
pub fn readiness(fd: BorrowedFd<'_>, events: i16) -> io::Result<i16> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: the kernel reads and writes the one entry, which lives across the call.
    retry(|| unsafe { libc::poll(&raw mut entry, 1, 0) })?;
    Ok(entry.revents)
}

/// Waits until one of `fds` has one of its events, or `timeout` has passed (poll(2), rounded up to whole
/// milliseconds); answers how many are ready.
///
/// # Errors
/// Those of poll(2). A signal ends the wait early, with 0.
pub fn wait(fds: &[(BorrowedFd<'_>, i16)], timeout: Duration) -> io::Result<usize> {
    let mut entries: Vec<libc::pollfd> = fds
        .iter()
        .map(|(fd, events)| libc::pollfd { fd: fd.as_raw_fd(), events: *events, revents: 0 })
        .collect();
    let millis = c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX);
    // SAFETY: the kernel reads and writes the entries, as many as there are.
    let ready = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, millis) };
    match usize::try_from(ready) {
        Ok(count) => Ok(count),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn addresses_survive_both_ways_and_short_ones_are_refused() {
        for text in ["127.0.0.1:80", "[2001:db8::1]:65535", "0.0.0.0:0"] {
            let addr: SocketAddr = text.parse().unwrap();
            let (raw, len) = encode_addr(&addr);
            assert_eq!(decode_addr(&raw[..len]), Some(addr));
            for cut in 0..len {
                // 24 bytes and more are an IPv6 address without its scope.
                assert_eq!(decode_addr(&raw[..cut]).is_some(), addr.is_ipv6() && cut >= 24, "{text} {cut}");
            }
        }
        assert_eq!(decode_addr(&[1, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn a_stream_connects_and_carries_bytes() {
        let listener = socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        bind(listener.as_fd(), &"127.0.0.1:0".parse().unwrap()).unwrap();
        listen(listener.as_fd(), 1).unwrap();
        let client = socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        connect(client.as_fd(), &getsockname(listener.as_fd()).unwrap()).unwrap();
        let (server, peer) = accept4(listener.as_fd(), 0).unwrap();
        assert_eq!(peer, getsockname(client.as_fd()).unwrap());
        assert_eq!(sendto(client.as_fd(), b"abc", None, 0).unwrap(), 3);
        assert_eq!(wait(&[(server.as_fd(), libc::POLLIN)], Duration::from_secs(5)).unwrap(), 1);
        assert_eq!(ioctl_int(server.as_fd(), libc::FIONREAD).unwrap(), 3);
        let mut buf = [0; 8];
        assert_eq!(recvfrom(server.as_fd(), &mut buf, 0).unwrap().0, 3);
    }

    #[test]
    fn control_messages_are_cut_safely() {
        let udp = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap();
        setsockopt(udp.as_fd(), libc::IPPROTO_IP, libc::IP_RECVTTL, &1_i32.to_ne_bytes()).unwrap();
        bind(udp.as_fd(), &"127.0.0.1:0".parse().unwrap()).unwrap();
        let to = getsockname(udp.as_fd()).unwrap();
        assert_eq!(sendmsg(udp.as_fd(), b"x", Some(&to), &[], 0).unwrap(), 1);
        let (mut buf, mut control) = ([0; 4], [0; 64]);
        let message = recvmsg(udp.as_fd(), &mut buf, &mut control, 0).unwrap();
        assert_eq!((message.len, message.from), (1, Some(to)));
        let seen: Vec<_> = control_messages(&control[..message.control_len]).collect();
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].0, seen[0].1), (libc::IPPROTO_IP, libc::IP_TTL));
        for cut in 0..message.control_len {
            assert!(control_messages(&control[..cut]).count() <= 1);
        }
        assert_eq!(control_messages(&[0xff; 40]).count(), 0);
    }
}

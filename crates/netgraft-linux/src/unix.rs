//! AF_UNIX sockets (unix(7)) as surrogates of internet sockets.
//!
//! No call here blocks. Functions that take a descriptor of the program's work on its open file: what they
//! change, the program sees.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

pub use crate::descriptor::{cookie, is_nonblocking, set_nonblocking};
use crate::descriptor::{long_option, set_status_flags, status_flags};
use crate::result::{check, check_len};

/// The name of a surrogate or of the sentry's end: an abstract address in the sentry's network namespace,
/// where the program has no sockets of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name(pub u64);

const NAME_LENGTH: usize = 9;
/// `SO_PASSRIGHTS` (asm-generic/socket.h).
pub(crate) const PASS_RIGHTS: libc::c_int = 83;
/// `SIOCATMARK` (sockios.h).
const AT_MARK: libc::c_ulong = 0x8905;

impl Name {
    fn address(self) -> (libc::sockaddr_un, libc::socklen_t) {
        let mut address = empty_address();
        address.sun_family = libc::AF_UNIX as u16;
        for (to, from) in address.sun_path[1..NAME_LENGTH].iter_mut().zip(self.0.to_ne_bytes()) {
            *to = from as libc::c_char;
        }
        (address, (2 + NAME_LENGTH) as libc::socklen_t)
    }

    fn parse(address: &libc::sockaddr_un, length: libc::socklen_t) -> Option<Name> {
        let abstract_name = address.sun_family == libc::AF_UNIX as u16
            && length as usize == 2 + NAME_LENGTH
            && address.sun_path[0] == 0;
        let mut bytes = [0u8; 8];
        for (to, from) in bytes.iter_mut().zip(&address.sun_path[1..NAME_LENGTH]) {
            *to = *from as u8;
        }
        abstract_name.then(|| Name(u64::from_ne_bytes(bytes)))
    }
}

/// An abstract name that carries bytes: longer than a [`Name`], and never taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongName {
    bytes: [u8; LONG_MOST],
    len: usize,
}

/// The most bytes of a [`LongName`].
pub const LONG_MOST: usize = 64;

impl LongName {
    /// The name with these bytes; `None` if they are too many, or as few as those of a [`Name`].
    #[must_use]
    pub fn new(carried: &[u8]) -> Option<LongName> {
        let mut bytes = [0; LONG_MOST];
        bytes.get_mut(..carried.len())?.copy_from_slice(carried);
        (carried.len() >= NAME_LENGTH).then_some(LongName { bytes, len: carried.len() })
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn address(&self) -> (libc::sockaddr_un, libc::socklen_t) {
        let mut address = empty_address();
        address.sun_family = libc::AF_UNIX as u16;
        for (to, from) in address.sun_path[1..].iter_mut().zip(self.bytes()) {
            *to = *from as libc::c_char;
        }
        (address, (2 + 1 + self.len) as libc::socklen_t)
    }

    fn parse(address: &libc::sockaddr_un, length: libc::socklen_t) -> Option<LongName> {
        let len = (length as usize).checked_sub(2 + 1)?;
        if address.sun_family != libc::AF_UNIX as u16 || address.sun_path[0] != 0 {
            return None;
        }
        let mut bytes = [0u8; LONG_MOST];
        for (to, from) in bytes.get_mut(..len)?.iter_mut().zip(&address.sun_path[1..]) {
            *to = *from as u8;
        }
        (len >= NAME_LENGTH).then_some(LongName { bytes, len })
    }
}

fn empty_address() -> libc::sockaddr_un {
    libc::sockaddr_un { sun_family: 0, sun_path: [0; 108] }
}

/// A new stream socket, blocking or not.
///
/// # Errors
/// EMFILE and the like, socket(2).
pub fn stream(nonblocking: bool) -> io::Result<OwnedFd> {
    socket(libc::SOCK_STREAM | if nonblocking { libc::SOCK_NONBLOCK } else { 0 })
}

/// A new datagram socket, blocking or not.
///
/// # Errors
/// EMFILE and the like, socket(2).
pub fn datagram(nonblocking: bool) -> io::Result<OwnedFd> {
    socket(libc::SOCK_DGRAM | if nonblocking { libc::SOCK_NONBLOCK } else { 0 })
}

/// A pair of datagram sockets without names, of which only the second is connected to the first: the first receives
/// from the second and from no other socket, since none can name it, and sends nowhere.
///
/// # Errors
/// EMFILE and the like, socketpair(2).
pub fn datagram_pair(nonblocking: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors that the call writes.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: the kernel returned two new descriptors, which nobody else owns.
    let (first, second) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
    disconnect(first.as_fd())?;
    // The disconnection left an error at the other side.
    clear_error(second.as_fd());
    Ok((first, second))
}

fn socket(kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three integers and returns a new descriptor or -1.
    own(unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) })
}

fn own(fd: i32) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives a socket its name.
///
/// # Errors
/// EADDRINUSE, EINVAL if it has one.
pub fn bind(fd: BorrowedFd<'_>, name: Name) -> io::Result<()> {
    let (address, len) = name.address();
    // SAFETY: `address` is readable for `len` bytes.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

/// Gives a socket a name that carries bytes.
///
/// # Errors
/// EADDRINUSE, EINVAL if it has one.
pub fn bind_long(fd: BorrowedFd<'_>, name: &LongName) -> io::Result<()> {
    let (address, len) = name.address();
    // SAFETY: `address` is readable for `len` bytes.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

/// Connects to the socket with a name. The connection exists when this returns.
///
/// # Errors
/// EAGAIN if a listener's queue is full, ECONNREFUSED if there is none.
pub fn connect(fd: BorrowedFd<'_>, name: Name) -> io::Result<()> {
    let (address, len) = name.address();
    // SAFETY: `address` is readable for `len` bytes.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

/// The same on an open file of the program's that may block, without waiting; `nonblocking` says whether it does not.
/// Another thread may change that meanwhile: an interval timer then ends the wait, as in [`accept_bounded`].
///
/// # Errors
/// As [`connect`], EINTR if the timer had to help, and fcntl(2).
pub fn connect_at_once(fd: BorrowedFd<'_>, name: Name, nonblocking: bool) -> io::Result<()> {
    if nonblocking {
        return bounded(|| connect(fd, name));
    }
    let flags = status_flags(fd)?;
    set_status_flags(fd, flags | libc::O_NONBLOCK)?;
    let connected = bounded(|| connect(fd, name));
    // The connection is made, or it is not: that the flags cannot be restored changes nothing.
    let _ = set_status_flags(fd, flags);
    connected
}

/// Forgets a datagram socket's peer.
///
/// # Errors
/// connect(2)
pub fn disconnect(fd: BorrowedFd<'_>) -> io::Result<()> {
    let address = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    // SAFETY: `address` is readable for its length.
    check(unsafe { libc::connect(fd.as_raw_fd(), &raw const address, 16) }).map(drop)
}

/// The address of a socket, or of its peer, whatever its family (getsockname(2), getpeername(2)).
///
/// # Errors
/// ENOTSOCK, ENOTCONN.
pub fn any_address(fd: BorrowedFd<'_>, of_peer: bool) -> io::Result<Vec<u8>> {
    let mut bytes = [0u8; size_of::<libc::sockaddr_storage>()];
    let mut len = bytes.len() as libc::socklen_t;
    let (fd, at, room) = (fd.as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut len);
    // SAFETY: `bytes` is writable for `len` bytes, and `len` is writable.
    check(unsafe {
        if of_peer { libc::getpeername(fd, at, room) } else { libc::getsockname(fd, at, room) }
    })?;
    Ok(bytes[..bytes.len().min(len as usize)].to_vec())
}

/// A new stream that is connected to a path, without waiting for room in the listener's queue. It blocks afterwards.
///
/// # Errors
/// connect(2): EAGAIN if the queue is full, ECONNREFUSED if nobody listens; EINVAL for a path that is too long.
pub fn connect_path(path: &std::path::Path) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let name = path.as_os_str().as_bytes();
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    // Room for the byte that ends it (unix(7)).
    if name.is_empty() || name.contains(&0) || name.len() >= size_of::<libc::sockaddr_un>() - address.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    address.extend(name);
    address.push(0);
    let socket = stream(true)?;
    connect_any(socket.as_fd(), &address)?;
    let stream = std::os::unix::net::UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream.into())
}

/// Connects a socket of any family. Only for those whose connect never waits: netlink(7), packet(7).
///
/// # Errors
/// As connect(2).
pub fn connect_any(fd: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // No address has more bytes than a `sockaddr_storage`; the kernel refuses a longer one.
    let len = libc::socklen_t::try_from(address.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: `address` is readable for `len` bytes.
    check(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), len) }).map(drop)
}

/// Binds a socket of any family. Only for those whose bind never waits: netlink(7), packet(7), datagrams.
///
/// # Errors
/// As bind(2).
pub fn bind_any(fd: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(address.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: `address` is readable for `len` bytes.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), len) }).map(drop)
}

/// Whether an AF_UNIX socket is one side of a connection, which it stays until it is closed: a stream or a sequence of
/// packets that has a peer.
#[must_use]
pub fn is_connection(fd: BorrowedFd<'_>) -> bool {
    let kind = get_int(fd, libc::SO_TYPE);
    kind.is_ok_and(|kind| kind != libc::SOCK_DGRAM) && any_address(fd, true).is_ok()
}

/// Listens.
///
/// # Errors
/// EINVAL if the socket is connected.
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: the call takes two integers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// Accepts. Blocks if the open file is blocking and nothing waits: see [`accept_bounded`].
///
/// # Errors
/// accept4(2)
pub fn accept(fd: BorrowedFd<'_>, nonblocking: bool) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: null pointers ask for no address.
    own(unsafe { libc::accept4(fd.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) })
}

/// Accepts from a listener of the program, whose open file may be blocking and may be emptied by another
/// thread between a look and the call: an interval timer then ends the wait after some milliseconds.
/// [`handle_alarm`] must have been called.
///
/// # Errors
/// EAGAIN if nothing waits, EINTR if the timer had to help.
pub fn accept_bounded(fd: BorrowedFd<'_>, nonblocking: bool) -> io::Result<OwnedFd> {
    if !readable(fd)? {
        return Err(io::Error::from_raw_os_error(libc::EAGAIN));
    }
    // Also where the file does not block: another thread may change that just now.
    bounded(|| accept(fd, nonblocking))
}

/// Makes a call that may wait, for some milliseconds at most. [`handle_alarm`] must have been called.
///
/// # Errors
/// EINTR if the timer had to help, or what the call gives.
pub fn bounded<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    set_timer(5_000)?;
    let result = call();
    set_timer(0)?;
    result
}

/// Closes an internet socket, which waits for its unsent bytes if this is its last close and a program has asked for
/// that (`SO_LINGER`, socket(7)): for some milliseconds at most, then the kernel goes on by itself.
pub fn close_bounded(file: OwnedFd) {
    // If there is no timer the socket is closed all the same.
    let _ = set_timer(5_000);
    drop(file);
    let _ = set_timer(0);
}

/// Has the kernel refuse (EPERM) what is sent to this socket with descriptors in it (`SO_PASSRIGHTS`, Linux 6.16):
/// who reads it would have to close them, and closing some files waits. Older kernels do not know the option.
pub fn refuse_rights(fd: BorrowedFd<'_>) {
    let _ = set_int(fd, PASS_RIGHTS, 0);
}

/// Whether the kernel knows [`refuse_rights`].
#[must_use]
pub fn can_refuse_rights() -> bool {
    stream(true).and_then(|socket| set_int(socket.as_fd(), PASS_RIGHTS, 0)).is_ok()
}

thread_local! {
    /// The timer that interrupts the calls of this thread.
    static ALARM: Cell<Option<libc::timer_t>> = const { Cell::new(None) };
}

/// Makes the timer that [`bounded`] needs, for the calling thread: a confined process cannot.
///
/// # Errors
/// timer_create(2)
pub fn prepare_alarm() -> io::Result<()> {
    timer_of_thread().map(drop)
}

fn timer_of_thread() -> io::Result<libc::timer_t> {
    if let Some(timer) = ALARM.get() {
        return Ok(timer);
    }
    // SAFETY: the structure is plain data, for which zero is valid.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = libc::SIGALRM;
    // SAFETY: the call takes nothing and returns an integer.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer: libc::timer_t = std::ptr::null_mut();
    // SAFETY: `event` is readable and `timer` writable; the timer belongs to the process from here on.
    check(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) })?;
    ALARM.set(Some(timer));
    Ok(timer)
}

fn set_timer(micros: u32) -> io::Result<()> {
    let timer = timer_of_thread()?;
    let value = libc::timespec { tv_sec: 0, tv_nsec: libc::c_long::from(micros) * 1000 };
    let times = libc::itimerspec { it_interval: value, it_value: value };
    // SAFETY: the timer is this thread's own, `times` is readable; no old value is asked for.
    check(unsafe { libc::timer_settime(timer, 0, &raw const times, std::ptr::null_mut()) }).map(drop)
}

/// Makes SIGALRM interrupt a blocking call of the thread whose timer it is, and do nothing else.
///
/// # Errors
/// sigaction(2)
pub fn handle_alarm() -> io::Result<()> {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: the structure is plain data, for which zero is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
    // SAFETY: `action` is readable and its handler is an async-signal-safe function of the right type.
    check(unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) }).map(drop)
}

/// Whether something can be read or accepted now.
///
/// # Errors
/// poll(2)
pub fn readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one writable entry.
    check(unsafe { libc::poll(&raw mut poll, 1, 0) })?;
    Ok(poll.revents != 0)
}

/// Whether the other end of a stream was closed, or both directions shut down.
#[must_use]
pub fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: `poll` is one writable entry.
    let result = unsafe { libc::poll(&raw mut poll, 1, 0) };
    result == 1 && poll.revents & libc::POLLHUP != 0
}

/// Whether the other end of a stream has said that it sends no more, or was closed.
#[must_use]
pub fn has_ended(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: `poll` is one writable entry.
    let result = unsafe { libc::poll(&raw mut poll, 1, 0) };
    result == 1 && poll.revents & libc::POLLRDHUP != 0
}

fn get_int(fd: BorrowedFd<'_>, option: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut len = 4 as libc::socklen_t;
    // SAFETY: `value` is writable for `len` bytes.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut len)
    })?;
    Ok(value)
}

fn set_int(fd: BorrowedFd<'_>, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: `value` is readable for four bytes.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), 4) })
        .map(drop)
}

/// The address family (`SO_DOMAIN`).
///
/// # Errors
/// ENOTSOCK
pub fn domain(fd: BorrowedFd<'_>) -> io::Result<i32> {
    get_int(fd, libc::SO_DOMAIN)
}

/// A number for the network namespace that the socket is in (`SO_NETNS_COOKIE`, Linux 5.14), which no other namespace
/// has had since the system booted.
///
/// # Errors
/// ENOTSOCK
pub fn network(fd: BorrowedFd<'_>) -> io::Result<u64> {
    long_option(fd, libc::SO_NETNS_COOKIE)
}

/// The process that connected the other end of an accepted stream (`SO_PEERCRED`, unix(7)), as the caller's
/// process-id namespace has it; 0 if it is not in there.
///
/// # Errors
/// getsockopt(2)
pub fn peer_process(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` is writable for `len` bytes.
    check(unsafe {
        let value = (&raw mut peer).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut len)
    })?;
    Ok(u32::try_from(peer.pid).unwrap_or(0))
}

/// Whether it listens (`SO_ACCEPTCONN`).
///
/// # Errors
/// ENOTSOCK
pub fn is_listening(fd: BorrowedFd<'_>) -> io::Result<bool> {
    get_int(fd, libc::SO_ACCEPTCONN).map(|listens| listens != 0)
}

/// Whether it is a stream socket (`SO_TYPE`).
///
/// # Errors
/// ENOTSOCK
pub fn is_stream(fd: BorrowedFd<'_>) -> io::Result<bool> {
    get_int(fd, libc::SO_TYPE).map(|kind| kind == libc::SOCK_STREAM)
}

/// Whether it is a datagram or raw socket of an internet family (`SO_DOMAIN`, `SO_TYPE`).
#[must_use]
pub fn is_inet_datagram(fd: BorrowedFd<'_>) -> bool {
    domain(fd).is_ok_and(|domain| [libc::AF_INET, libc::AF_INET6].contains(&domain))
        && get_int(fd, libc::SO_TYPE).is_ok_and(|kind| [libc::SOCK_DGRAM, libc::SOCK_RAW].contains(&kind))
}

/// Whether it is a UDP socket of an internet family (`SO_PROTOCOL`).
#[must_use]
pub fn is_udp(fd: BorrowedFd<'_>) -> bool {
    domain(fd).is_ok_and(|domain| [libc::AF_INET, libc::AF_INET6].contains(&domain))
        && get_int(fd, libc::SO_PROTOCOL).is_ok_and(|protocol| protocol == libc::IPPROTO_UDP)
        && get_int(fd, libc::SO_TYPE).is_ok_and(|kind| kind == libc::SOCK_DGRAM)
}

/// The bytes that a socket may have under way (`SO_SNDBUF`), as the kernel counts them: it answers twice what
/// was set.
///
/// # Errors
/// getsockopt(2)
pub fn send_buffer(fd: BorrowedFd<'_>) -> io::Result<i32> {
    get_int(fd, libc::SO_SNDBUF)
}

/// Sets `SO_SNDBUF`; the kernel takes twice the value, and at least its minimum.
///
/// # Errors
/// setsockopt(2)
pub fn set_send_buffer(fd: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    set_int(fd, libc::SO_SNDBUF, bytes)
}

/// Takes the kernel's pending error of a socket (`SO_ERROR`), and says whether there was one.
pub fn clear_error(fd: BorrowedFd<'_>) -> bool {
    get_int(fd, libc::SO_ERROR).is_ok_and(|error| error != 0)
}

/// Whether an error is pending (POLLERR), which it stays.
#[must_use]
pub fn has_error(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: `poll` is one writable entry.
    let result = unsafe { libc::poll(&raw mut poll, 1, 0) };
    result == 1 && poll.revents & libc::POLLERR != 0
}

/// Puts a mark on a socket that means nothing to AF_UNIX (`SO_DONTROUTE`), and stays with it.
///
/// # Errors
/// setsockopt(2)
pub fn set_flag(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, libc::SO_DONTROUTE, 1)
}

/// Whether a socket has the mark of [`set_flag`].
#[must_use]
pub fn has_flag(fd: BorrowedFd<'_>) -> bool {
    get_int(fd, libc::SO_DONTROUTE).is_ok_and(|on| on != 0)
}

fn peer_address(fd: BorrowedFd<'_>) -> Option<(libc::sockaddr_un, libc::socklen_t)> {
    let mut address = empty_address();
    let mut len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` is writable for `len` bytes.
    check(unsafe { libc::getpeername(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) }).ok()?;
    Some((address, len))
}

fn own_address(fd: BorrowedFd<'_>) -> Option<(libc::sockaddr_un, libc::socklen_t)> {
    let mut address = empty_address();
    let mut len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` is writable for `len` bytes.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) }).ok()?;
    Some((address, len))
}

/// The name of the socket at the other end, if it has one of ours.
#[must_use]
pub fn peer_name(fd: BorrowedFd<'_>) -> Option<Name> {
    peer_address(fd).and_then(|(address, len)| Name::parse(&address, len))
}

/// The socket's own name, if it has one of ours.
#[must_use]
pub fn own_name(fd: BorrowedFd<'_>) -> Option<Name> {
    own_address(fd).and_then(|(address, len)| Name::parse(&address, len))
}

/// The name of the socket at the other end, if it carries bytes.
#[must_use]
pub fn long_peer_name(fd: BorrowedFd<'_>) -> Option<LongName> {
    peer_address(fd).and_then(|(address, len)| LongName::parse(&address, len))
}

/// The socket's own name, if it carries bytes.
#[must_use]
pub fn long_own_name(fd: BorrowedFd<'_>) -> Option<LongName> {
    own_address(fd).and_then(|(address, len)| LongName::parse(&address, len))
}

/// Whether it is a stream socket that has no name, no peer and does not listen.
#[must_use]
pub fn is_fresh_stream(fd: BorrowedFd<'_>) -> bool {
    let mut address = empty_address();
    let mut len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` is writable for `len` bytes.
    let peer = check(unsafe { libc::getpeername(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) });
    let unconnected = peer.is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN));
    unconnected
        && domain(fd).is_ok_and(|d| d == libc::AF_UNIX)
        && is_stream(fd).is_ok_and(|s| s)
        && is_listening(fd).is_ok_and(|listens| !listens)
        && own_name(fd).is_none()
}

/// Sends without waiting and without a signal; a stream may take a part.
///
/// # Errors
/// EAGAIN, EPIPE, ECONNRESET, ECONNREFUSED
pub fn send(fd: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
    // SAFETY: `data` is readable for its length.
    check_len(unsafe {
        libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    })
}

/// [`send`] of several pieces of memory (sendmsg(2)).
///
/// # Errors
/// As [`send`]; EMSGSIZE for more than 1,024 pieces.
pub fn send_pieces(fd: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    // One piece, as most have, costs less without a header.
    if let [piece] = pieces {
        return send(fd, piece);
    }
    // SAFETY: the structure is plain data, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    // An IoSlice is an iovec (std::io::IoSlice), and the kernel only reads what it names.
    header.msg_iov = pieces.as_ptr().cast_mut().cast();
    header.msg_iovlen = pieces.len();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header names `pieces`, which are readable for their lengths, and no other memory.
    check_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) })
}

/// Leaves a mark behind what was sent on a stream, which the other end finds with [`is_at_mark`]: a byte of urgent data
/// (`MSG_OOB`, Linux 5.15), which is no part of the stream.
///
/// # Errors
/// EAGAIN, EPIPE, EOPNOTSUPP if the kernel has no such data for AF_UNIX.
pub fn mark(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MSG_OOB | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the byte is readable.
    check_len(unsafe { libc::send(fd.as_raw_fd(), b"x".as_ptr().cast(), 1, flags) }).map(drop)
}

/// Sends without waiting; the last byte is urgent data (`MSG_OOB`) if all of them are taken.
///
/// # Errors
/// As [`send`]; EOPNOTSUPP if the kernel has no such data for AF_UNIX.
pub fn send_urgent(fd: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_OOB | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `data` is readable for its length.
    check_len(unsafe { libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), flags) })
}

/// Whether the next byte to read is urgent data (`SIOCATMARK`): a receive without MSG_OOB drops it, unless SO_OOBINLINE is
/// set, and goes on behind it.
#[must_use]
pub fn is_urgent_next(fd: BorrowedFd<'_>) -> bool {
    let mut at_mark = 0i32;
    // SAFETY: `at_mark` is writable for the four bytes that the request stores.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), AT_MARK, &raw mut at_mark) };
    result == 0 && at_mark != 0
}

/// Whether a [`mark`] is all that is left to read (`SIOCATMARK`). A receive takes it away and goes on behind it.
#[must_use]
pub fn is_at_mark(fd: BorrowedFd<'_>) -> bool {
    if !is_urgent_next(fd) {
        return false;
    }
    let mut unread = 0i32;
    // SAFETY: `unread` is writable for the four bytes that the request stores.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut unread) };
    result == 0 && unread == 1
}

/// Receives without waiting. `MSG_TRUNC` among the flags makes a datagram's own length the result, which may
/// be more than the buffer's.
///
/// # Errors
/// EAGAIN, ECONNRESET
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8], flags: i32) -> io::Result<usize> {
    // SAFETY: `buf` is writable for its length.
    check_len(unsafe {
        libc::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), flags | libc::MSG_DONTWAIT)
    })
}

/// [`recv`] into several pieces of memory (recvmsg(2)). Descriptors that come with the bytes are closed.
///
/// # Errors
/// As [`recv`]; EMSGSIZE for more than 1,024 pieces.
pub fn recv_pieces(fd: BorrowedFd<'_>, pieces: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    if let [piece] = pieces {
        return recv(fd, piece, 0);
    }
    // SAFETY: the structure is plain data, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    // An IoSliceMut is an iovec (std::io::IoSliceMut).
    header.msg_iov = pieces.as_mut_ptr().cast();
    header.msg_iovlen = pieces.len();
    // SAFETY: the header names `pieces`, which are writable for their lengths, and no other memory.
    check_len(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) })
}

/// Bytes that can be read (`FIONREAD`); of a datagram socket, those of the next datagram.
///
/// # Errors
/// ioctl(2)
pub fn waiting(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut value = 0i32;
    // SAFETY: `value` is writable for the four bytes that the request stores.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut value) })?;
    Ok(usize::try_from(value).unwrap_or(0))
}

/// Kernel memory that sent and unread data holds (`SIOCOUTQ`): zero when the other end has read all of it.
///
/// # Errors
/// ioctl(2)
pub fn unread(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut value = 0i32;
    // SAFETY: `value` is writable for the four bytes that the request stores.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut value) })?;
    Ok(usize::try_from(value).unwrap_or(0))
}

/// shutdown(2) with `SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`.
///
/// # Errors
/// ENOTCONN
pub fn shutdown(fd: BorrowedFd<'_>, how: i32) -> io::Result<()> {
    // SAFETY: the call takes two integers.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u64) -> Name {
        Name((u64::from(std::process::id()) << 32) | n)
    }

    #[test]
    fn pieces_are_moved_in_order_and_as_far_as_they_fit() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let out = [IoSlice::new(b"ab"), IoSlice::new(b"cde"), IoSlice::new(b"f")];
        assert_eq!(send_pieces(a.as_fd(), &out).unwrap(), 6);
        assert_eq!(send_pieces(a.as_fd(), &out[..1]).unwrap(), 2);
        let (mut one, mut two) = ([0; 3], [0; 4]);
        let mut into = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        assert_eq!(recv_pieces(b.as_fd(), &mut into).unwrap(), 7);
        assert_eq!((&one, &two), (b"abc", b"defa"));
        let mut rest = [0; 4];
        assert_eq!(recv_pieces(b.as_fd(), &mut [IoSliceMut::new(&mut rest)]).unwrap(), 1);
        assert_eq!(rest[0], b'b');
        let mut into = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        let error = recv_pieces(b.as_fd(), &mut into).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert_eq!(recv_pieces(b.as_fd(), &mut into).unwrap(), 0);
        let error = send_pieces(b.as_fd(), &out).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn names_find_their_socket() {
        let listener = stream(false).unwrap();
        bind(listener.as_fd(), name(1)).unwrap();
        listen(listener.as_fd(), 1).unwrap();
        let end = stream(true).unwrap();
        bind(end.as_fd(), name(2)).unwrap();
        connect(end.as_fd(), name(1)).unwrap();
        handle_alarm().unwrap();
        let accepted = accept_bounded(listener.as_fd(), true).unwrap();
        assert_eq!(peer_name(accepted.as_fd()), Some(name(2)));
        assert_ne!(cookie(accepted.as_fd()).unwrap(), cookie(end.as_fd()).unwrap());
        let empty = accept_bounded(listener.as_fd(), true).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
    }

    /// The poll states of the design: two small writes into the smallest buffer close the gate, reading them
    /// and restoring the size opens it.
    #[test]
    fn the_gate_closes_and_opens() {
        let poll = |fd: &OwnedFd| {
            let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
            // SAFETY: one writable entry.
            unsafe { libc::poll(&raw mut entry, 1, 0) };
            entry.revents
        };
        let listener = stream(true).unwrap();
        bind(listener.as_fd(), name(4)).unwrap();
        listen(listener.as_fd(), 4).unwrap();
        let program = stream(true).unwrap();
        assert_eq!(poll(&program), libc::POLLOUT | libc::POLLHUP, "fresh");
        let size = send_buffer(program.as_fd()).unwrap();
        connect(program.as_fd(), name(4)).unwrap();
        let end = accept(listener.as_fd(), true).unwrap();
        set_send_buffer(program.as_fd(), 0).unwrap();
        send(program.as_fd(), b"j").unwrap();
        send(program.as_fd(), b"j").unwrap();
        assert_eq!(poll(&program), 0, "connecting");
        set_send_buffer(program.as_fd(), size / 2).unwrap();
        let mut junk = [0; 4];
        assert_eq!(recv(end.as_fd(), &mut junk, 0).unwrap(), 2);
        assert_eq!(poll(&program), libc::POLLOUT, "established");
    }

    #[test]
    fn a_mark_is_found_behind_the_last_byte_and_resets_when_it_is_left() {
        let pair = |n| {
            let listener = stream(true).unwrap();
            bind(listener.as_fd(), name(n)).unwrap();
            listen(listener.as_fd(), 1).unwrap();
            let program = stream(true).unwrap();
            connect(program.as_fd(), name(n)).unwrap();
            (program, accept(listener.as_fd(), true).unwrap())
        };
        let mut buf = [0; 8];
        for left in [true, false] {
            let (program, end) = pair(10 + u64::from(left));
            send(program.as_fd(), b"last").unwrap();
            mark(program.as_fd()).unwrap();
            shutdown(program.as_fd(), libc::SHUT_WR).unwrap();
            assert!(!is_at_mark(end.as_fd()));
            assert_eq!(recv(end.as_fd(), &mut buf, 0).unwrap(), 4);
            assert!(is_at_mark(end.as_fd()));
            if !left {
                assert_eq!(recv(end.as_fd(), &mut buf, 0).unwrap(), 0, "the end of the stream");
                assert!(!is_at_mark(end.as_fd()));
            }
            drop(end);
            let last = recv(program.as_fd(), &mut buf, 0).map_err(|e| e.raw_os_error());
            assert_eq!(last, if left { Err(Some(libc::ECONNRESET)) } else { Ok(0) });
        }
    }

    #[test]
    fn unread_datagrams_are_seen() {
        let (program, end) = (datagram(true).unwrap(), datagram(true).unwrap());
        bind(program.as_fd(), name(5)).unwrap();
        connect(end.as_fd(), name(5)).unwrap();
        assert_eq!(unread(end.as_fd()).unwrap(), 0);
        send(end.as_fd(), b"").unwrap();
        assert!(unread(end.as_fd()).unwrap() > 0);
        assert_eq!(recv(program.as_fd(), &mut [0; 8], 0).unwrap(), 0);
        assert_eq!(unread(end.as_fd()).unwrap(), 0);
    }
}

//! Network devices of the caller's own network namespace (netdevice(7)).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::process::check;

/// Brings `lo` up; the kernel gives it 127.0.0.1 and ::1.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the network namespace.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: socket has no memory arguments.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `ifreq` is plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // A new namespace has `lo` with no flags that a write could lose.
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_LOOPBACK) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, alive during the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

//! What every descriptor has, and every socket, of whatever family.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::result::check;

/// Whether the open file is non-blocking (`O_NONBLOCK`).
///
/// # Errors
/// fcntl(2)
pub fn is_nonblocking(fd: BorrowedFd<'_>) -> io::Result<bool> {
    status_flags(fd).map(|flags| flags & libc::O_NONBLOCK != 0)
}

/// Makes the open file blocking or not: for everybody who has it.
///
/// # Errors
/// fcntl(2)
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let flags = status_flags(fd)?;
    let wanted = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    if wanted == flags {
        return Ok(());
    }
    set_status_flags(fd, wanted)
}

pub(crate) fn set_status_flags(fd: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the request takes an integer.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}

pub(crate) fn status_flags(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: the request takes no argument.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })
}

/// A number that no other socket of the system has had since it booted (`SO_COOKIE`, socket(7)).
///
/// # Errors
/// ENOTSOCK
pub fn cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    long_option(fd, libc::SO_COOKIE)
}

/// An option of `SOL_SOCKET` that is a number of 64 bits.
pub(crate) fn long_option(fd: BorrowedFd<'_>, name: libc::c_int) -> io::Result<u64> {
    let (mut value, mut len) = (0_u64, 8 as libc::socklen_t);
    // SAFETY: `value` is writable for `len` bytes.
    check(unsafe {
        let at = (&raw mut value).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, at, &raw mut len)
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn an_open_file_is_blocking_or_not_for_each_of_its_descriptors() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let copy = reader.try_clone().unwrap();
        for on in [true, true, false, false] {
            set_nonblocking(reader.as_fd(), on).unwrap();
            assert_eq!(is_nonblocking(copy.as_fd()).unwrap(), on);
        }
    }

    #[test]
    fn sockets_have_cookies_of_their_own_and_pipes_none() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_ne!(cookie(a.as_fd()).unwrap(), cookie(b.as_fd()).unwrap());
        assert_eq!(cookie(a.as_fd()).unwrap(), cookie(a.try_clone().unwrap().as_fd()).unwrap());
        let (reader, _writer) = std::io::pipe().unwrap();
        assert_eq!(cookie(reader.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }
}

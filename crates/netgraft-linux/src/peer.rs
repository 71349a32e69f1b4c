//! Who is at the other end of a connected AF_UNIX socket (unix(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::fdpass::wait_readable;
use crate::result::check;

/// `SO_PEERPIDFD`, from Linux 6.5 on.
const PEER_PIDFD: i32 = 77;

/// The process that connected a socket, or that listens at the other end of it.
#[derive(Debug)]
pub struct Peer {
    /// Its process id here; 0 if it is in a process-id namespace that this one does not hold.
    pub pid: u32,
    /// Its effective user id, as this user namespace has it.
    pub user: u32,
    /// The process itself, where the kernel tells.
    process: Option<OwnedFd>,
}

impl Peer {
    /// Asks the kernel.
    ///
    /// # Errors
    /// getsockopt(2)
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Peer> {
        let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut len = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: `peer` is writable for `len` bytes.
        check(unsafe {
            let value = (&raw mut peer).cast();
            libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut len)
        })?;
        let process = peer_pidfd(socket);
        Ok(Peer { pid: u32::try_from(peer.pid).unwrap_or(0), user: peer.uid, process })
    }

    /// Whether the process has ended, so that its id may be another's; `false` where the kernel cannot say.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let Some(process) = &self.process else { return false };
        matches!(wait_readable([Some(process.as_fd())], Some(Duration::ZERO)), Ok([true]))
    }
}

fn peer_pidfd(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    let mut fd: i32 = -1;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `fd` is writable for `len` bytes.
    let got = check(unsafe {
        let value = (&raw mut fd).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, PEER_PIDFD, value, &raw mut len)
    });
    if got.is_err() || fd < 0 {
        return None;
    }
    // SAFETY: the kernel just made this descriptor for us alone.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn this_process_is_its_own_peer() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = Peer::of(a.as_fd()).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert!(!peer.has_ended());
    }
}

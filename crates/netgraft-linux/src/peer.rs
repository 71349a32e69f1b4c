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
    process: Itself,
}

/// What the kernel tells of a peer's process.
#[derive(Debug)]
enum Itself {
    /// The process.
    Process(OwnedFd),
    /// It has ended, and was waited for.
    Gone,
    /// Nothing: the kernel is older, or there was no process.
    Unknown,
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
        match &self.process {
            Itself::Process(process) => {
                matches!(wait_readable([Some(process.as_fd())], Some(Duration::ZERO)), Ok([true]))
            }
            Itself::Gone => true,
            Itself::Unknown => false,
        }
    }
}

fn peer_pidfd(socket: BorrowedFd<'_>) -> Itself {
    let mut fd: i32 = -1;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `fd` is writable for `len` bytes.
    let got = check(unsafe {
        let value = (&raw mut fd).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, PEER_PIDFD, value, &raw mut len)
    });
    match got {
        // SAFETY: the kernel just made this descriptor for us alone.
        Ok(_) if fd >= 0 => Itself::Process(unsafe { OwnedFd::from_raw_fd(fd) }),
        // Kernels differ in how they say that it was waited for.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => Itself::Gone,
        _ => Itself::Unknown,
    }
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

    #[test]
    fn a_peer_that_was_waited_for_has_ended() {
        let path = std::env::temp_dir().join(format!("netgraft-peer-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let connects = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])";
        let mut child =
            std::process::Command::new("/usr/bin/python3").args(["-c", connects]).arg(&path).spawn().unwrap();
        let (socket, _) = listener.accept().unwrap();
        assert!(child.wait().unwrap().success());
        std::fs::remove_file(&path).unwrap();
        let knows = {
            let (a, _b) = UnixStream::pair().unwrap();
            matches!(Peer::of(a.as_fd()).unwrap().process, Itself::Process(_))
        };
        assert_eq!(Peer::of(socket.as_fd()).unwrap().has_ended(), knows, "older kernels cannot say");
    }
}

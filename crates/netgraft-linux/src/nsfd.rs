//! Namespaces as descriptors: those of a process or a socket, and entering them (ioctl_ns(2), setns(2)).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::namespace::Namespaces;
use crate::result::check;

/// `NS_GET_PARENT` (ioctl_ns(2)).
const GET_PARENT: libc::c_ulong = 0xb702;
/// `SIOCGSKNS`: the network namespace of a socket.
const GET_SOCKET_NETWORK: libc::c_ulong = 0x894c;

/// A namespace.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A namespace of a process: `kind` is a name in `/proc/PID/ns`, such as "net".
    ///
    /// # Errors
    /// ENOENT if the process has ended, EACCES if it may not be inspected.
    pub fn of_process(pid: u32, kind: &str) -> io::Result<Namespace> {
        File::open(format!("/proc/{pid}/ns/{kind}")).map(Namespace)
    }

    /// A namespace of the calling process.
    ///
    /// # Errors
    /// ENOENT if `/proc` is not mounted.
    pub fn own(kind: &str) -> io::Result<Namespace> {
        File::open(format!("/proc/self/ns/{kind}")).map(Namespace)
    }

    /// A namespace that a file stands for: of `/proc/PID/ns`, or one where such a file is bind-mounted.
    ///
    /// # Errors
    /// As open(2).
    pub fn from_path(path: &Path) -> io::Result<Namespace> {
        File::open(path).map(Namespace)
    }

    /// Takes over a descriptor that was received.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Namespace {
        Namespace(File::from(fd))
    }

    /// The user or process-id namespace above this one.
    ///
    /// # Errors
    /// EPERM if it is not the caller's own or below it.
    pub fn parent(&self) -> io::Result<Namespace> {
        // SAFETY: the request takes no argument and returns a new descriptor or -1.
        let fd = check(unsafe { libc::ioctl(self.0.as_raw_fd(), GET_PARENT) })?;
        // SAFETY: the kernel returned a new descriptor, which nobody else owns.
        Ok(Namespace(unsafe { File::from_raw_fd(fd) }))
    }

    /// The network namespace of a socket.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN over it, ENOTTY for what is no socket.
    pub fn of_socket(socket: BorrowedFd<'_>) -> io::Result<Namespace> {
        // SAFETY: the request takes no argument and returns a new descriptor or -1.
        let fd = check(unsafe { libc::ioctl(socket.as_raw_fd(), GET_SOCKET_NETWORK) })?;
        // SAFETY: the kernel returned a new descriptor, which nobody else owns.
        Ok(Namespace(unsafe { File::from_raw_fd(fd) }))
    }

    /// Whether both are the same namespace (namespaces(7)).
    ///
    /// # Errors
    /// As fstat(2).
    pub fn is(&self, other: &Namespace) -> io::Result<bool> {
        let (a, b) = (self.0.metadata()?, other.0.metadata()?);
        Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
    }

    /// Moves the calling thread, or for process ids its next children, into this namespace, which must be of this
    /// kind (setns(2)). A user namespace can be entered by a process with one thread only, and gives it every
    /// capability there.
    ///
    /// # Errors
    /// As setns(2): EPERM, EINVAL.
    pub fn enter(&self, kind: Namespaces) -> io::Result<()> {
        // SAFETY: the call takes two integers; memory and descriptors stay as they are.
        check(unsafe { libc::setns(self.0.as_raw_fd(), kind.bits()) }).map(drop)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_told_apart() {
        let own = Namespace::own("net").unwrap();
        let same = Namespace::of_process(std::process::id(), "net").unwrap();
        assert!(own.is(&same).unwrap());
        assert!(!own.is(&Namespace::own("user").unwrap()).unwrap());
        // The first user namespace has none above it, and above another one is out of reach.
        let above = Namespace::own("user").unwrap().parent().unwrap_err();
        assert_eq!(above.raw_os_error(), Some(libc::EPERM));
    }
}

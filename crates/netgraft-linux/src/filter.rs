//! The program's seccomp filter and its listener (seccomp_unotify(2)).

use std::io;
use std::os::fd::OwnedFd;

/// Installs the filter on the calling thread, which becomes the program, and returns the listener.
/// `no_new_privs` must be set.
///
/// # Errors
/// EBUSY if the thread has a listener already.
pub fn install(host_sockets: bool) -> io::Result<OwnedFd> {
    let _ = host_sockets;
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

//! The controlling terminal and its foreground process group (termios(3)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::result::check;

/// The foreground process group of the terminal (tcgetpgrp(3)).
///
/// # Errors
/// ENOTTY if it is not the caller's controlling terminal.
pub fn foreground(terminal: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: tcgetpgrp has no memory arguments.
    check(unsafe { libc::tcgetpgrp(terminal.as_raw_fd()) })
}

/// Makes `group` the foreground process group (tcsetpgrp(3)). A caller in the background must have SIGTTOU
/// blocked.
///
/// # Errors
/// EPERM if the group is not of the session, ENOTTY.
pub fn set_foreground(terminal: BorrowedFd<'_>, group: i32) -> io::Result<()> {
    // SAFETY: tcsetpgrp has no memory arguments.
    check(unsafe { libc::tcsetpgrp(terminal.as_raw_fd(), group) }).map(drop)
}

//! Terminals: the controlling one and its foreground process group (termios(3)), and pseudo-terminals (pty(7)).

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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

/// A pseudo-terminal (pty(7)): the side of who shows it, and the side of who runs in it.
#[derive(Debug)]
pub struct Pair {
    /// What is written here was typed; what is read here is to be shown.
    pub master: OwnedFd,
    /// A terminal.
    pub slave: OwnedFd,
}

/// Makes a pseudo-terminal of the devpts file system whose `ptmx` this is (devpts(5)). Neither side becomes the caller's
/// controlling terminal.
///
/// # Errors
/// As open(2) and ioctl_tty(2); ENOSPC when the file system has as many as it may have.
pub fn open_pair(ptmx: &Path) -> io::Result<Pair> {
    let master: OwnedFd =
        File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(ptmx)?.into();
    let unlock: libc::c_int = 0;
    // SAFETY: the request reads one int, which lives through the call.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the request takes its argument by value and returns a new descriptor or -1.
    let slave = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(Pair { master, slave: unsafe { OwnedFd::from_raw_fd(slave) } })
}

/// Makes a terminal the controlling one of the caller, who leads a session without one (`TIOCSCTTY`).
///
/// # Errors
/// EPERM if the caller leads no session, or has a terminal, or another session has this one.
pub fn make_controlling(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes its argument by value.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Gives `to` the window size of `from`; whoever runs in `to` gets SIGWINCH if it changed (`TIOCSWINSZ`).
///
/// # Errors
/// ENOTTY if one of them is no terminal.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request writes a `winsize`, which lives through the call.
    check(unsafe { libc::ioctl(from.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    // SAFETY: the request reads a `winsize`, which lives through the call.
    check(unsafe { libc::ioctl(to.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// How a terminal treats what goes through it (termios(3)).
#[derive(Clone, Copy)]
pub struct Mode(libc::termios);

impl Mode {
    /// The mode of a terminal.
    ///
    /// # Errors
    /// ENOTTY if it is none.
    pub fn of(terminal: BorrowedFd<'_>) -> io::Result<Mode> {
        // SAFETY: `termios` is plain data for which zero is valid.
        let mut mode: libc::termios = unsafe { mem::zeroed() };
        // SAFETY: `mode` lives through the call.
        check(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut mode) })?;
        Ok(Mode(mode))
    }

    /// The same, but every byte goes through as it is: no echo, no signals, no lines (cfmakeraw(3)).
    #[must_use]
    pub fn raw(mut self) -> Mode {
        // SAFETY: the structure is initialized and ours.
        unsafe { libc::cfmakeraw(&raw mut self.0) };
        self
    }

    /// Whether keys make signals or lines, or are echoed: none of that in a mode of [`Mode::raw`].
    #[must_use]
    pub fn treats_keys(&self) -> bool {
        self.0.c_lflag & (libc::ICANON | libc::ECHO | libc::ISIG) != 0
    }

    /// Gives a terminal this mode, after what was written to it has left. A caller in the background must have SIGTTOU
    /// blocked.
    ///
    /// # Errors
    /// ENOTTY, EIO.
    pub fn set(&self, terminal: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the structure is initialized and lives through the call.
        check(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSADRAIN, &raw const self.0) }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn what_is_typed_at_one_side_is_read_at_the_other() {
        let Pair { master, slave } = open_pair(Path::new("/dev/ptmx")).unwrap();
        let cooked = Mode::of(slave.as_fd()).unwrap();
        cooked.raw().set(slave.as_fd()).unwrap();
        assert!(cooked.treats_keys() && !Mode::of(slave.as_fd()).unwrap().treats_keys());
        File::from(master.try_clone().unwrap()).write_all(b"\x03typed").unwrap();
        let mut got = [0; 6];
        File::from(slave.try_clone().unwrap()).read_exact(&mut got).unwrap();
        assert_eq!(&got, b"\x03typed");
        let size = libc::winsize { ws_row: 7, ws_col: 9, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the request reads a `winsize`, which lives through the call.
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        let other = open_pair(Path::new("/dev/ptmx")).unwrap();
        copy_size(slave.as_fd(), other.master.as_fd()).unwrap();
        let mut seen = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the request writes a `winsize`, which lives through the call.
        unsafe { libc::ioctl(other.slave.as_raw_fd(), libc::TIOCGWINSZ, &raw mut seen) };
        assert_eq!((seen.ws_row, seen.ws_col), (7, 9));
        let pipe = io::pipe().unwrap();
        assert_eq!(Mode::of(pipe.0.as_fd()).err().and_then(|e| e.raw_os_error()), Some(libc::ENOTTY));
    }
}

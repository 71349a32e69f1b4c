//! The program's own terminal, shown at the caller's: two processes move what is typed and what is to be seen.
//!
//! They are forks of the launcher, which forks without exec and so has no threads; one for each direction, so that a
//! program which does not read what is typed can still be seen.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netgraft_linux::terminal::{self, Mode};
use netgraft_linux::{confine, process};

use super::launcher::reap;

/// The character that ends a terminal's input where a line begins (termios(3), VEOF).
const END_OF_INPUT: u8 = 4;

/// A terminal that is shown. [`Pty::end`] gives the caller's back as it was.
pub(super) struct Pty {
    master: OwnedFd,
    /// Moves what is typed.
    typing: i32,
    /// Moves what is to be seen.
    showing: i32,
    /// The mode of the caller's terminal, if its input is one.
    mode: Option<Mode>,
}

impl Pty {
    /// Begins to show the terminal whose side this is.
    ///
    /// # Errors
    /// As fork(2).
    pub(super) fn new(master: OwnedFd) -> io::Result<Pty> {
        let mode = io::stdin().is_terminal().then(|| Mode::of(io::stdin().as_fd()).ok()).flatten();
        let showing = process::fork(|| alone(&master, |master| copy(master, io::stdout())))?;
        let typing = match process::fork(|| {
            alone(&master, |mut master| {
                copy(io::stdin(), &mut master)?;
                master.write_all(&[END_OF_INPUT])
            })
        }) {
            Ok(typing) => typing,
            Err(error) => {
                stop(showing);
                return Err(error);
            }
        };
        let pty = Pty { master, typing, showing, mode };
        pty.resize();
        pty.enter();
        Ok(pty)
    }

    /// Hands the window size on. Without a terminal there is none.
    pub(super) fn resize(&self) {
        let _ = terminal::copy_size(io::stdin().as_fd(), self.master.as_fd());
    }

    /// Lets every key reach the program's terminal instead of the caller's.
    pub(super) fn enter(&self) {
        if let Some(mode) = &self.mode {
            let _ = mode.raw().set(io::stdin().as_fd());
        }
    }

    /// Ends it, when the program's side is closed: what was written there is shown first, for a bounded time.
    pub(super) fn end(self) {
        drop(self.master);
        stop(self.typing);
        reap(self.showing);
        if let Some(mode) = self.mode {
            let _ = mode.set(io::stdin().as_fd());
        }
    }
}

fn stop(pid: i32) {
    let _ = process::kill(pid, libc::SIGKILL);
    reap(pid);
}

/// The life of a process that moves bytes: it holds nothing else of the launcher's.
fn alone(master: &OwnedFd, work: impl FnOnce(File) -> io::Result<()>) -> i32 {
    let ready = confine::die_with_parent()
        .and_then(|()| confine::set_name(c"netgraft-pty"))
        .and_then(|()| process::close_all_but(&[0, 1, master.as_raw_fd()]));
    match ready.and_then(|()| master.try_clone()) {
        Ok(master) => i32::from(work(File::from(master)).is_err()),
        Err(_) => 1,
    }
}

/// Moves bytes until one side has ended; a terminal whose other side is closed answers EIO.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let got = from.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..got])?;
        to.flush()?;
    }
}

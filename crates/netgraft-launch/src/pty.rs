//! The program's own terminal, shown at the caller's: two processes move what is typed and what is to be seen.
//!
//! They are forks of the launcher, which forks without exec and so has no threads; one for each direction, so that a
//! program which does not read what is typed can still be seen.
//!
//! While the launcher's job is in the background of the caller's shell (`&`, `bg`) the terminal is the shell's: its mode is
//! left alone, and who reads what is typed is stopped by the kernel as the job of any program that does (SIGTTIN), the
//! launcher with it. The program goes on, and what it writes is seen. In front again, the keys are its own.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netgraft_linux::signal::Signals;
use netgraft_linux::terminal::{self, Mode};
use netgraft_linux::{confine, process};

use super::launcher::reap;

/// The character that ends a terminal's input where a line begins (termios(3), VEOF).
const END_OF_INPUT: u8 = 4;

/// A terminal that is shown. [`Pty::end`] gives the caller's back as it was.
pub(super) struct Pty {
    master: OwnedFd,
    /// Moves what is typed, once the program is started.
    typing: Option<i32>,
    /// Moves what is to be seen.
    showing: i32,
    /// The mode that the caller's terminal had before it was changed.
    mode: Option<Mode>,
}

/// Whether the caller's input is a terminal that is the launcher's job's to use.
fn is_in_front() -> bool {
    let input = io::stdin();
    // One that is not the controlling terminal has no background.
    input.is_terminal()
        && terminal::foreground(input.as_fd()).map_or(true, |group| group == process::own_group())
}

impl Pty {
    /// Begins to show the terminal whose side this is.
    ///
    /// # Errors
    /// As fork(2).
    pub(super) fn new(master: OwnedFd) -> io::Result<Pty> {
        let showing = process::fork(|| alone(&master, |master| copy(master, io::stdout())))?;
        let pty = Pty { master, typing: None, showing, mode: None };
        pty.resize();
        Ok(pty)
    }

    /// Begins to take what is typed. In the background that stops the job at once, so it comes when the program is started.
    ///
    /// # Errors
    /// As fork(2).
    pub(super) fn begin_typing(&mut self) -> io::Result<()> {
        self.enter();
        let master = &self.master;
        self.typing = Some(process::fork(|| {
            alone(master, |mut master| {
                Signals::only(libc::SIGTTIN).unblock()?;
                copy(io::stdin(), &mut master)?;
                master.write_all(&[END_OF_INPUT])
            })
        })?);
        Ok(())
    }

    /// Hands the window size on. Without a terminal there is none.
    pub(super) fn resize(&self) {
        let _ = terminal::copy_size(io::stdin().as_fd(), self.master.as_fd());
    }

    /// Lets every key reach the program's terminal instead of the caller's, if that is in front.
    pub(super) fn enter(&mut self) {
        if !is_in_front() {
            return;
        }
        let Ok(mode) = Mode::of(io::stdin().as_fd()) else { return };
        // A shell that stopped the job has set its own; else it is as it was left here.
        if mode.treats_keys() || self.mode.is_none() {
            self.mode = Some(mode);
        }
        let _ = mode.raw().set(io::stdin().as_fd());
    }

    /// Ends it, when the program's side is closed: what was written there is shown first, for a bounded time.
    pub(super) fn end(self) {
        drop(self.master);
        if let Some(typing) = self.typing {
            stop(typing);
        }
        reap(self.showing);
        if let Some(mode) = self.mode.filter(|_| is_in_front()) {
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

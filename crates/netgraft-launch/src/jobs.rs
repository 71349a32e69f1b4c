//! The program's place among process groups and at the terminal.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use netgraft_linux::signal::{self, Signals};
use netgraft_linux::{process, terminal};

/// How the program stands to the launcher's process group and terminal.
pub(super) enum Jobs {
    /// In the launcher's group. So it is in a pipeline at a terminal, whose other parts must stay in the
    /// foreground with it: the terminal's signals reach launcher and program alike.
    Shared,
    /// In a group of its own, without a terminal.
    Apart,
    /// In a session of its own, with a terminal of its own.
    OwnTerminal,
    /// In a group of its own, which has the terminal while the launcher's group would have it.
    Terminal {
        /// The controlling terminal.
        terminal: File,
        /// Whether the program has it now.
        lent: bool,
    },
}

/// What the launcher does about a stopped program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterStop {
    /// Nothing: a SIGCONT will come, or has come.
    Wait,
    /// The program goes on at once: nobody could ever continue it.
    Continue,
}

impl Jobs {
    /// Looks where the launcher stands. Nothing is changed yet.
    pub(super) fn detect() -> Jobs {
        let Ok(tty) = File::options().read(true).write(true).open("/dev/tty") else { return Jobs::Apart };
        let in_front = terminal::foreground(tty.as_fd()).is_ok_and(|group| group == process::own_group());
        let whole = io::stdin().is_terminal() && io::stdout().is_terminal();
        match (in_front, whole) {
            (true, false) => Jobs::Shared,
            _ => Jobs::Terminal { terminal: tty, lent: false },
        }
    }

    /// Puts the program, before it is executed, into its group and gives it the terminal.
    pub(super) fn place(&mut self, program: i32) -> io::Result<()> {
        match self {
            Jobs::Shared | Jobs::OwnTerminal => Ok(()),
            Jobs::Apart => process::set_group(program, program),
            Jobs::Terminal { .. } => {
                process::set_group(program, program)?;
                self.lend(program);
                Ok(())
            }
        }
    }

    /// Gives the terminal to the program if the launcher's group has it. A terminal that is gone is no error:
    /// the program will see that itself.
    fn lend(&mut self, program: i32) {
        if let Jobs::Terminal { terminal, lent } = self
            && terminal::foreground(terminal.as_fd()).is_ok_and(|group| group == process::own_group())
        {
            *lent = terminal::set_foreground(terminal.as_fd(), program).is_ok();
        }
    }

    /// Takes the terminal back from the program, if it was lent.
    pub(super) fn take_back(&mut self) {
        if let Jobs::Terminal { terminal, lent } = self
            && std::mem::take(lent)
        {
            let _ = terminal::set_foreground(terminal.as_fd(), process::own_group());
        }
    }

    /// Whether a signal from the terminal has reached the program by itself.
    pub(super) fn terminal_reaches_program(&self) -> bool {
        matches!(self, Jobs::Shared)
    }

    /// The program was stopped: so is the launcher, that its parent sees it, until somebody continues it.
    pub(super) fn stop(&mut self) -> io::Result<AfterStop> {
        let had_terminal = matches!(self, Jobs::Terminal { lent: true, .. });
        self.take_back();
        // With its default action and in an orphaned group the kernel ignores SIGTSTP, as it would have for
        // the program alone (setpgid(2)).
        if had_terminal {
            process::kill_group(0, libc::SIGTSTP)?;
        } else {
            process::kill(std::process::id() as i32, libc::SIGTSTP)?;
        }
        Signals::only(libc::SIGTSTP).unblock()?;
        Signals::all_but_faults().block_exactly()?;
        let nobody_will = had_terminal && !signal::is_pending(libc::SIGCONT);
        Ok(if nobody_will { AfterStop::Continue } else { AfterStop::Wait })
    }

    /// A part of the launcher's job has read from the terminal in the background: the launcher stops as that part has, that
    /// its parent sees it, until somebody continues the job. The program does not: it has a terminal of its own.
    pub(super) fn stop_reading() -> io::Result<()> {
        process::kill(std::process::id() as i32, libc::SIGTTIN)?;
        Signals::only(libc::SIGTTIN).unblock()?;
        Signals::all_but_faults().block_exactly().map(drop)
    }

    /// The launcher was continued: so is the program, with the terminal if it is the launcher's to give.
    pub(super) fn resume(&mut self, program: i32) -> io::Result<()> {
        self.lend(program);
        match self {
            Jobs::Shared => process::kill(program, libc::SIGCONT),
            Jobs::Apart | Jobs::OwnTerminal | Jobs::Terminal { .. } => {
                process::kill_group(program, libc::SIGCONT)
            }
        }
    }
}

//! What a program leaves running when it ends, such as a server that has put itself in the background: it belongs to the
//! first process of the programs' namespace then, as any orphan does.

use std::fs;
use std::os::fd::AsFd;

use netgraft_linux::process::{self, Change};
use netgraft_linux::signal::Arrived;

use super::launcher::{Incoming, Launcher};
use crate::error::RunError;
use crate::report::Role;
use crate::spec::Until;

impl Launcher {
    /// The orphans, by their process ids; none where the kernel does not list them (`CONFIG_PROC_CHILDREN`).
    fn orphans(&self) -> Vec<i32> {
        let Some(first) = self.pid(Role::ProgramInit) else { return Vec::new() };
        let text = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }

    /// The first program has ended: waits for what it left running, or says that this ends with it.
    pub(super) fn linger(&mut self, end: Change, until: Until) -> Result<(), RunError> {
        let orphans = self.orphans();
        let name = |pid: &i32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            super::printable(name.trim_end())
        };
        let Some(names) = orphans.first().map(name) else { return Ok(()) };
        let count = orphans.len();
        if until == Until::First {
            let text = format!(
                "the program has ended ({}), and so does what it left running ({names}, {count} in all): --wait all waits for it",
                crate::crash::change_text(end)
            );
            // A server that has put itself in the background looks like one that has done its work; a shell's `&` does not.
            if end == Change::Exited(0) && orphans.iter().any(|orphan| leads_session(*orphan)) {
                tracing::warn!("{text}");
            } else {
                tracing::info!("{text}");
            }
            return Ok(());
        }
        tracing::info!("the program has ended; waiting for what it left running ({names}, {count} in all)");
        while let Some(orphan) = self.orphans().first() {
            // One that has just ended is not there any more.
            self.lingerer = process::pidfd(*orphan).ok();
            while self.lingerer.is_some() {
                match self.next(None)? {
                    Some(Incoming::OrphanEnded) => self.lingerer = None,
                    Some(Incoming::Signal(arrived)) => self.pass_on(arrived)?,
                    Some(incoming) => self.take(incoming)?,
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Hands a signal that would have gone to the program on to all that it left running.
    fn pass_on(&mut self, arrived: Arrived) -> Result<(), RunError> {
        if [libc::SIGCHLD, libc::SIGWINCH, libc::SIGCONT].contains(&arrived.signal) {
            return self.take(Incoming::Signal(arrived));
        }
        for pid in self.orphans() {
            // One that has just ended needs no signal.
            let _ = process::kill(pid, arrived.signal);
        }
        Ok(())
    }

    /// What is waited for, for the loop that waits.
    pub(super) fn lingerer(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.lingerer.as_ref().map(AsFd::as_fd)
    }
}

/// Whether a process is in a session of its own making, or of a process that it was made by (daemon(7)): one whose leader is
/// no process of the program's terminal.
fn leads_session(pid: i32) -> bool {
    let field = |pid: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = text.rsplit_once(')')?;
        rest.split_whitespace().nth(3)?.parse::<i32>().ok()
    };
    // As the launcher's process-id namespace has it (proc_pid_stat(5), field 6).
    match (field(&pid.to_string()), field("self")) {
        (Some(session), Some(own)) => session != own,
        _ => false,
    }
}

//! A forked process that is ended together with everything that it forks, and with the process that made it.
//!
//! ```text
//! maker ── keeper ── first process of a process-id namespace ── the child ── ...       with one
//! maker ── keeper ── the child ── ...                                                  without
//! ```
//!
//! The keeper is ours: it waits for the child's end, or for that of its maker, and then ends what is left. With a
//! namespace the kernel does that, however much there is. Without one the keeper adopts what loses its parent
//! (`PR_SET_CHILD_SUBREAPER`) and kills until nothing is left.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::namespace::{IdMaps, Namespaces, unshare};
use crate::process::{self, Change, Wait, exit_now};
use crate::signal::{self, Signals};
use crate::{confine, fdpass};

/// How long the keeper may take to end what it keeps. It only sends signals: this is for a machine that crawls.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the keeper tries to kill what forks faster than it kills.
const KILLING: Duration = Duration::from_secs(10);

/// Which process ids the child sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Those of its maker.
    Same,
    /// Only its own and those of its children, where the kernel allows that: in a process-id namespace, for an
    /// ordinary user in a user namespace with nobody else in it. Elsewhere those of its maker.
    Own,
}

/// What becomes of what the child leaves behind when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It is ended with the child.
    Ended,
    /// It stays until the cage is dropped or its maker ends.
    Stays,
}

/// A child and all that it forks. Dropping it, in the process that made it, ends them.
#[derive(Debug)]
pub struct Cage {
    keeper: i32,
    maker: u32,
    /// Readable when the keeper has ended, and then nothing is left.
    over: OwnedFd,
    /// Its closing is the maker's end. The keeper says here how the child ended.
    life: OwnedFd,
    reaped: bool,
}

impl Cage {
    /// Forks, as [`process::fork`] does. The child has the caller's descriptors and signal mask, and leads no process
    /// group. With [`Ids::Own`] nothing outlives it, whatever `rest` says.
    ///
    /// # Errors
    /// EAGAIN, ENOMEM, EMFILE.
    pub fn new(ids: Ids, rest: Rest, child: impl FnOnce() -> i32) -> io::Result<Cage> {
        let (ours, theirs) = fdpass::pair()?;
        let mut ours = Some(ours);
        let keeper = process::fork(|| {
            drop(ours.take());
            keep(theirs.as_fd(), ids, rest, child)
        })?;
        let Some(life) = ours else { return Err(io::ErrorKind::Other.into()) };
        match process::pidfd(keeper) {
            Ok(over) => Ok(Cage { keeper, maker: std::process::id(), over, life, reaped: false }),
            Err(error) => {
                // The keeper sees that its maker is gone.
                drop(life);
                let _ = process::wait(keeper, Wait::Block);
                Err(error)
            }
        }
    }

    /// Readable when the child has ended.
    #[must_use]
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.life.as_fd()
    }

    /// How the child ended, when it has; `None` if nobody knows, since the keeper was killed. To be asked once.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        match fdpass::wait_readable([Some(self.ended())], Some(Duration::ZERO)) {
            Ok([true]) => {
                fdpass::receive(self.ended(), MESSAGE).ok()?.and_then(|(bytes, _)| from_message(&bytes))
            }
            _ => None,
        }
    }

    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(fdpass::wait_readable([Some(self.over.as_fd())], Some(Duration::ZERO)), Ok([true]))
    }

    /// Ends all that is left of it, and says how the child ended if it had before.
    pub fn end(mut self) -> Option<Change> {
        let change = self.change();
        self.finish();
        change
    }

    fn finish(&mut self) {
        // A forked copy has nothing to say, and what its numbers stand for may be others.
        if self.reaped || self.maker != std::process::id() {
            return;
        }
        self.reaped = true;
        // SAFETY: shutdown has no memory arguments.
        unsafe { libc::shutdown(self.life.as_raw_fd(), libc::SHUT_WR) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match fdpass::wait_readable([Some(self.over.as_fd())], Some(left)) {
                Ok([true]) => break,
                Ok(_) if !left.is_zero() => {}
                _ => {
                    let _ = process::kill(self.keeper, libc::SIGKILL);
                    break;
                }
            }
        }
        let _ = process::wait(self.keeper, Wait::Block);
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The length of the keeper's message: a letter, and a number in the machine's order.
const MESSAGE: usize = 5;

fn message(change: Change) -> [u8; MESSAGE] {
    let (letter, number) = match change {
        Change::Exited(status) => (b'e', status),
        Change::Signaled(signal) => (b's', signal),
        Change::Stopped(signal) => (b't', signal),
    };
    let mut bytes = [letter; MESSAGE];
    bytes[1..].copy_from_slice(&number.to_ne_bytes());
    bytes
}

fn from_message(bytes: &[u8]) -> Option<Change> {
    let number = i32::from_ne_bytes(bytes.get(1..MESSAGE)?.try_into().ok()?);
    match bytes[0] {
        b'e' => Some(Change::Exited(number)),
        b's' => Some(Change::Signaled(number)),
        b't' => Some(Change::Stopped(number)),
        _ => None,
    }
}

/// The keeper. It exits here: what the child works with is not dropped a second time.
fn keep(life: BorrowedFd<'_>, ids: Ids, rest: Rest, child: impl FnOnce() -> i32) -> i32 {
    // Away from a terminal's signals; and none is to end it before the others.
    let _ = process::new_session();
    let Ok(mask) = Signals::all_but_faults().block_exactly() else { exit_now(1) };
    let status = if ids == Ids::Own && own_ids().is_ok() {
        keep_namespace(life, mask, child)
    } else {
        keep_children(life, rest, mask, child)
    };
    exit_now(i32::from(status.is_err()))
}

/// Makes the caller's next child the first process of a process-id namespace.
fn own_ids() -> io::Result<()> {
    if unshare(Namespaces::PID).is_ok() {
        return Ok(());
    }
    let (_, user, _, group) = process::ids();
    unshare(Namespaces::USER | Namespaces::PID)?;
    // Without the map it has the same rights to files; it only does not see its own number.
    let _ = IdMaps::One { user, group }.write_own();
    Ok(())
}

/// Forks the child proper, which has nothing of the keeper's.
fn fork_child(life: BorrowedFd<'_>, mask: Signals, child: impl FnOnce() -> i32) -> io::Result<i32> {
    let life = life.as_raw_fd();
    process::fork(move || {
        // SAFETY: the owner of this descriptor is in frames that this process never returns to.
        unsafe { libc::close(life) };
        if mask.block_exactly().is_err() || confine::die_with_parent().is_err() {
            return 1;
        }
        child()
    })
}

fn keep_namespace(life: BorrowedFd<'_>, mask: Signals, child: impl FnOnce() -> i32) -> io::Result<()> {
    let first = process::fork(|| {
        let kept = confine::die_with_parent().and_then(|()| fork_child(life, mask, child)).and_then(|pid| {
            process::close_all_but(&[life.as_raw_fd()])?;
            let change = reap_until(pid)?;
            fdpass::send(life, &message(change), &[])
        });
        // With this process the kernel ends all that is left in the namespace.
        exit_now(i32::from(kept.is_err()))
    })?;
    process::close_all_but(&[life.as_raw_fd()])?;
    let ended = process::pidfd(first)?;
    while let Ok([false, false]) = fdpass::wait_readable([Some(life), Some(ended.as_fd())], None) {}
    let _ = process::kill(first, libc::SIGKILL);
    process::wait(first, Wait::Block).map(drop)
}

/// Waits for any child, as the first process of a namespace must, until it is this one.
fn reap_until(child: i32) -> io::Result<Change> {
    loop {
        if let Some((pid, change)) = process::wait_any(Wait::Block)?
            && pid == child
        {
            return Ok(change);
        }
    }
}

fn keep_children(
    life: BorrowedFd<'_>,
    rest: Rest,
    mask: Signals,
    child: impl FnOnce() -> i32,
) -> io::Result<()> {
    confine::adopt_orphans()?;
    let signals = Signals::only(libc::SIGCHLD).descriptor()?;
    let pid = fork_child(life, mask, child)?;
    let kept = process::close_all_but(&[life.as_raw_fd(), signals.as_raw_fd()])
        .and_then(|()| wait_for_end(life, signals.as_fd(), rest, pid));
    // However the wait went.
    kill_children();
    kept
}

/// Waits until nothing is left to be kept, or the maker asks for the end, or has ended.
fn wait_for_end(life: BorrowedFd<'_>, signals: BorrowedFd<'_>, rest: Rest, pid: i32) -> io::Result<()> {
    let mut open = Some(pid);
    // Without a child nothing is left to be kept.
    while let Ok(reaped) = process::wait_any(Wait::Look) {
        if let Some((reaped, change @ (Change::Exited(_) | Change::Signaled(_)))) = reaped {
            if open == Some(reaped) {
                open = None;
                if rest == Rest::Ended {
                    kill_children();
                }
                fdpass::send(life, &message(change), &[])?;
            }
            continue;
        }
        match fdpass::wait_readable([Some(life), Some(signals)], None)? {
            [true, _] => break,
            _ => drop(signal::read(signals)?),
        }
    }
    Ok(())
}

/// Kills all children, and those that thereby become the caller's.
fn kill_children() {
    let deadline = Instant::now() + KILLING;
    while Instant::now() < deadline {
        // Reaped first: mostly nothing is left, and then nobody needs to be looked for.
        loop {
            match process::wait_any(Wait::Look) {
                Ok(Some((_, Change::Exited(_) | Change::Signaled(_)))) => {}
                Ok(_) => break,
                Err(_) => return,
            }
        }
        for pid in children() {
            // A number that /proc has for somebody else, in another namespace, is no child of ours.
            if process::wait(pid, Wait::Look).is_ok_and(|change| change.is_none()) {
                let _ = process::kill(pid, libc::SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The processes whose parent is the caller, of those in /proc (proc_pid_stat(5)).
fn children() -> Vec<i32> {
    let own = std::process::id().to_string();
    let is_ours = |pid: i32| {
        let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, which may be anything, ends at the last parenthesis.
        let rest = stat.rsplit(|b| *b == b')').next().unwrap_or_default();
        rest.split(|b| *b == b' ').filter(|word| !word.is_empty()).nth(1) == Some(own.as_bytes())
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_ours(*pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// A process that was forked twice, in a session of its own, with the writing end of a pipe.
    fn leave_one_behind(writer: &mut io::PipeWriter) -> io::Result<()> {
        let pid = process::fork(|| {
            let left = process::new_session().and_then(|()| {
                process::fork(|| {
                    let _ = writer.write_all(b"x");
                    std::thread::sleep(Duration::from_secs(1000));
                    0
                })
            });
            i32::from(left.is_err())
        })?;
        process::wait(pid, Wait::Block).map(drop)
    }

    /// Waits until nobody holds the writing end any more; what was written.
    fn rest(mut reader: io::PipeReader) -> String {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    /// Waits for the child's end.
    fn end_of(cage: &Cage) -> Option<Change> {
        while fdpass::wait_readable([Some(cage.ended())], None).unwrap() != [true] {}
        cage.change()
    }

    fn leaver(ids: Ids, rest: Rest) -> (Cage, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let mut writer = Some(writer);
        let cage = Cage::new(ids, rest, || {
            let Some(mut writer) = writer.take() else { return 1 };
            if leave_one_behind(&mut writer).is_ok() { 7 } else { 2 }
        });
        (cage.unwrap(), reader)
    }

    #[test]
    fn what_a_child_leaves_behind_ends_with_it() {
        for ids in [Ids::Same, Ids::Own] {
            let (cage, reader) = leaver(ids, Rest::Ended);
            assert_eq!(end_of(&cage), Some(Change::Exited(7)), "{ids:?}");
            assert!(["", "x"].contains(&rest(reader).as_str()));
        }
    }

    #[test]
    fn or_with_the_cage() {
        let (cage, mut reader) = leaver(Ids::Same, Rest::Stays);
        assert_eq!(end_of(&cage), Some(Change::Exited(7)));
        reader.read_exact(&mut [0]).unwrap();
        assert!(!cage.is_over(), "it waits for what is left");
        drop(cage);
        assert_eq!(rest(reader), "");
        let cage = Cage::new(Ids::Same, Rest::Stays, || 3).unwrap();
        assert_eq!(end_of(&cage), Some(Change::Exited(3)));
        while !cage.is_over() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_end_from_outside_ends_all() {
        for ids in [Ids::Same, Ids::Own] {
            let (mut reader, writer) = io::pipe().unwrap();
            let mut writer = Some(writer);
            let cage = Cage::new(ids, Rest::Ended, || {
                let Some(mut writer) = writer.take() else { return 1 };
                let _ = leave_one_behind(&mut writer);
                std::thread::sleep(Duration::from_secs(1000));
                0
            })
            .unwrap();
            drop(writer);
            reader.read_exact(&mut [0]).unwrap();
            assert_eq!(cage.end(), None, "{ids:?}");
            assert_eq!(rest(reader), "");
        }
    }

    #[test]
    fn a_killed_maker_takes_all_with_it() {
        for ids in [Ids::Same, Ids::Own] {
            let (mut reader, writer) = io::pipe().unwrap();
            let mut writer = Some(writer);
            let maker = process::fork(|| {
                let cage = Cage::new(ids, Rest::Ended, || {
                    let Some(mut writer) = writer.take() else { return 1 };
                    let _ = leave_one_behind(&mut writer);
                    std::thread::sleep(Duration::from_secs(1000));
                    0
                });
                drop(writer.take());
                cage.map_or(1, |cage| i32::from(end_of(&cage).is_none()))
            })
            .unwrap();
            drop(writer);
            reader.read_exact(&mut [0]).unwrap();
            process::kill(maker, libc::SIGKILL).unwrap();
            process::wait(maker, Wait::Block).unwrap();
            assert_eq!(rest(reader), "", "{ids:?}");
        }
    }

    #[test]
    fn ends_are_told() {
        for ids in [Ids::Same, Ids::Own] {
            let aborts = Cage::new(ids, Rest::Ended, || std::process::abort()).unwrap();
            assert_eq!(end_of(&aborts), Some(Change::Signaled(libc::SIGABRT)), "{ids:?}");
        }
    }
}

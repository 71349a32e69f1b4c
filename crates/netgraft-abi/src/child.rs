//! A child process in which code of an object runs: its constructors when it is first looked at, and pre-init.
//! What the object does there, crash or hang, ends the child and nobody else.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use netgraft_linux::fdpass;
use netgraft_linux::process::{self, Change, Wait};
use netgraft_linux::signal::Signals;

use crate::library;

/// The most that a child answers, in bytes.
pub(crate) const ANSWER_LIMIT: usize = 96 * 1024;
/// The most of an object's output that is kept, in bytes: what a pipe holds.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// What a child gave back: bytes and descriptors, or a text why not.
pub(crate) type Answer = Result<(Vec<u8>, Vec<OwnedFd>), String>;

/// The rights that a child has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Those of its parent.
    Same,
    /// As few as a process can have that still finds the files of its user.
    Few,
}

/// What may go wrong beyond what the child says itself.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The child could not be made or heard.
    Host(io::Error),
    /// It ended without an answer: how.
    Died(String),
    /// It said why it did not do it.
    Said(String),
}

/// Runs `body` in a forked child, for at most `limit`. Of the parent's descriptors the child has standard error and
/// those of `keep`; its input is empty, and what it prints goes to the log under the object's name.
pub(crate) fn run(
    object: &str,
    doing: &str,
    keep: &[BorrowedFd<'_>],
    rights: Rights,
    limit: Duration,
    body: impl FnOnce() -> Answer,
) -> Result<(Vec<u8>, Vec<OwnedFd>), Failure> {
    let (ours, theirs) = fdpass::pair().map_err(Failure::Host)?;
    let (mut output, input) = io::pipe().map_err(Failure::Host)?;
    let nothing = std::fs::File::open("/dev/null").map_err(Failure::Host)?;
    let mut alone = Some(library::linker_at_rest());
    let pid = process::fork(|| {
        // The child's copy of the lock is its own.
        drop(alone.take());
        let mut kept: Vec<i32> = keep.iter().map(AsRawFd::as_raw_fd).collect();
        kept.extend([0, 1, theirs.as_raw_fd()]);
        let ready = settle(nothing.as_fd(), input.as_fd(), &kept, rights);
        let answer = ready.map_err(|e| format!("cannot prepare: {e}")).and_then(|()| body());
        i32::from(tell(theirs.as_fd(), answer).is_err())
    })
    .map_err(Failure::Host)?;
    drop((alone, theirs, input));
    let result = listen(ours.as_fd(), pid, doing, limit);
    show_output(object, &mut output);
    result
}

/// Prepares the child.
fn settle(nothing: BorrowedFd<'_>, output: BorrowedFd<'_>, keep: &[i32], rights: Rights) -> io::Result<()> {
    // A session of its own: away from the terminal, and all that it leaves behind can be ended as a group.
    process::new_session()?;
    // What it prints must not make it wait for a reader.
    let flags = libc::O_NONBLOCK;
    // SAFETY: a plain flag on a descriptor that is open.
    unsafe { libc::fcntl(output.as_raw_fd(), libc::F_SETFL, flags) };
    for (from, to) in [(nothing, 0), (output, 1), (output, 2)] {
        // SAFETY: dup2 onto the standard descriptors, which nothing in this process owns.
        if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    process::close_all_but(keep)?;
    netgraft_linux::confine::no_core_file()?;
    Signals::none().block_exactly()?;
    if rights == Rights::Few {
        give_up_rights()?;
    }
    Ok(())
}

/// No network, no capabilities, none to be gained. What an ordinary user may not do is left out.
fn give_up_rights() -> io::Result<()> {
    use netgraft_linux::namespace::{Namespaces, unshare};
    let _ = unshare(Namespaces::NET | Namespaces::IPC | Namespaces::UTS);
    netgraft_linux::confine::no_new_privileges()?;
    netgraft_linux::confine::die_with_parent()?;
    // capset(2): version 3, this process, six words of nothing.
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0_u32; 6];
    // SAFETY: both arrays have the layout that version 3 says, and live through the call.
    if unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn tell(socket: BorrowedFd<'_>, answer: Answer) -> io::Result<()> {
    let (mark, data, fds) = match answer {
        Ok((data, fds)) => (b'+', data, fds),
        Err(text) => (b'-', text.into_bytes(), Vec::new()),
    };
    let mut message = vec![mark];
    message.extend(data);
    if message.len() > ANSWER_LIMIT || fds.len() > fdpass::MAX_FDS {
        return fdpass::send(socket, b"-it hands over more than one message can carry", &[]);
    }
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    fdpass::send(socket, &message, &fds)
}

/// Waits for the answer and for the child's end.
fn listen(
    socket: BorrowedFd<'_>,
    pid: i32,
    doing: &str,
    limit: Duration,
) -> Result<(Vec<u8>, Vec<OwnedFd>), Failure> {
    let deadline = Instant::now() + limit;
    let in_time = wait_until(socket, deadline).and_then(|ready| {
        if ready { fdpass::receive(socket, ANSWER_LIMIT) } else { Err(io::ErrorKind::TimedOut.into()) }
    });
    match in_time {
        Ok(Some((mut message, fds))) if !message.is_empty() => {
            let mark = message.remove(0);
            reap(pid, deadline);
            match mark {
                b'+' => Ok((message, fds)),
                _ => Err(Failure::Said(String::from_utf8_lossy(&message).into_owned())),
            }
        }
        Ok(_) => Err(Failure::Died(match process::wait(pid, Wait::Block) {
            Ok(Some(change)) => format!("{} in {doing}", describe(change)),
            _ => format!("ended in {doing}"),
        })),
        Err(error) => {
            // The group: what it forked goes too.
            let _ = process::kill_group(pid, libc::SIGKILL);
            let _ = process::kill(pid, libc::SIGKILL);
            let _ = process::wait(pid, Wait::Block);
            Err(match error.kind() {
                io::ErrorKind::TimedOut => {
                    Failure::Died(format!("did not come back from {doing} within {} s", limit.as_secs()))
                }
                _ => Failure::Host(error),
            })
        }
    }
}

fn wait_until(socket: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if fdpass::wait_readable([Some(socket)], Some(left))? == [true] {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
    }
}

/// The child has answered and only has to exit; if the object holds it up, it is killed.
fn reap(pid: i32, deadline: Instant) {
    let ended = process::pidfd(pid).and_then(|fd| wait_until(fd.as_fd(), deadline));
    if !matches!(ended, Ok(true)) {
        let _ = process::kill(pid, libc::SIGKILL);
    }
    let _ = process::wait(pid, Wait::Block);
}

fn describe(change: Change) -> String {
    match change {
        Change::Exited(status) => format!("exited with status {status}"),
        Change::Signaled(signal) | Change::Stopped(signal) => format!("died of {}", signal_name(signal)),
    }
}

/// The name of a signal that ends a process which goes wrong, or its number.
pub(crate) fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGILL => "SIGILL",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSYS => "SIGSYS (a system call that is not allowed)",
        libc::SIGTRAP => "SIGTRAP",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// Logs what an object has printed so far.
fn show_output(object: &str, output: &mut io::PipeReader) {
    // SAFETY: a plain flag on a descriptor that is open. A process that the object left behind may hold the other
    // end, so there may be no end of file.
    unsafe { libc::fcntl(output.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    let mut bytes = Vec::new();
    // The error at the end is that nothing more is there.
    let _ = output.take(OUTPUT_LIMIT).read_to_end(&mut bytes);
    for line in String::from_utf8_lossy(&bytes).lines() {
        tracing::info!(stack = object, "{}", crate::log::printable(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(limit: u64, body: impl FnOnce() -> Answer) -> Result<(Vec<u8>, Vec<OwnedFd>), Failure> {
        run("test", "the test", &[], Rights::Few, Duration::from_millis(limit), body)
    }

    fn text(result: Result<(Vec<u8>, Vec<OwnedFd>), Failure>) -> String {
        match result {
            Ok((data, fds)) => format!("{} {}", String::from_utf8_lossy(&data), fds.len()),
            Err(Failure::Host(e)) => e.to_string(),
            Err(Failure::Died(text) | Failure::Said(text)) => text,
        }
    }

    #[test]
    fn answers_and_ends_are_told() {
        let fd = || std::io::pipe().map(|(r, _)| OwnedFd::from(r)).unwrap();
        assert_eq!(text(go(5000, || Ok((b"hello".to_vec(), vec![fd(), fd()])))), "hello 2");
        assert_eq!(text(go(5000, || Err("no device".into()))), "no device");
        assert_eq!(text(go(5000, || process::exit_now(3))), "exited with status 3 in the test");
        let abort = || std::process::abort();
        assert_eq!(text(go(5000, abort)), "died of SIGABRT in the test");
        let hang = || {
            std::thread::sleep(Duration::from_secs(100));
            Err(String::new())
        };
        assert_eq!(text(go(50, hang)), "did not come back from the test within 0 s");
    }

    #[test]
    fn the_child_has_few_rights() {
        let answer = go(5000, || {
            let status = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
            let line = status.lines().find(|l| l.starts_with("CapEff")).unwrap_or("none").to_owned();
            let fds = std::fs::read_dir("/proc/self/fd").map_err(|e| e.to_string())?.count();
            Ok((format!("{line} {}", fds - 1).into_bytes(), Vec::new()))
        });
        assert_eq!(text(answer), "CapEff:\t0000000000000000 4 0");
    }
}

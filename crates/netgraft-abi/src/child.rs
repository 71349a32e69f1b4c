//! A child process in which code of an object runs: its constructors when it is first looked at, and pre-init. It has no
//! rights of its parent, unless the operator trusts pre-init with them.
//! What the object does there, crash or hang, ends the child and no other process; and what it forks ends with the child.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netgraft_linux::cage::{Cage, Ids, Rest};
use netgraft_linux::confine::{Allow, AllowList};
use netgraft_linux::fdpass;
use netgraft_linux::process::{self, Change};
use netgraft_linux::signal::Signals;

use crate::library;

/// The most that a child answers, in bytes.
pub(crate) const ANSWER_LIMIT: usize = 96 * 1024;
/// The most of an object's output that is kept, in bytes: what a pipe holds.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// What a child gave back: bytes and descriptors, or a text why not.
pub(crate) type Answer = Result<(Vec<u8>, Vec<OwnedFd>), String>;

/// What children with the rights of their parent left behind, such as a process that opens devices for a stack: it ends
/// with this, and with the process.
#[derive(Default)]
pub(crate) struct Left(Mutex<Vec<Cage>>);

impl Left {
    fn keep(&self, cage: Cage) {
        let mut cages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cages.retain(|cage| !cage.is_over());
        cages.push(cage);
    }
}

/// The rights that a child has.
#[derive(Clone, Copy)]
pub(crate) enum Rights<'a> {
    /// Those of its parent. What it leaves behind when it succeeds stays here.
    Same(&'a Left),
    /// None: a place with nothing of the host's in it ([`netgraft_linux::jail`]), and only these system calls.
    None(&'a [Allow]),
    /// As `None`, but other system calls are answered EPERM: pre-init may try to open what it can do without.
    Asking(&'a [Allow]),
}

/// How a child can fail.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The child could not be made, or its answer not be read.
    Host(io::Error),
    /// It ended without an answer: how.
    Died(String),
    /// It reported why it did not do it.
    Said(String),
}

/// Runs `body` in a forked child, for at most `limit`, and not longer than until a signal comes that the caller blocks
/// and that asks it to end or to stop: the signal stays for the caller. Of the parent's descriptors the child has
/// standard error and those of `keep`; its input is empty, and what it prints goes to the log under the object's name.
pub(crate) fn run(
    object: &str,
    doing: &str,
    keep: &[BorrowedFd<'_>],
    rights: Rights<'_>,
    limit: Duration,
    body: impl FnOnce() -> Answer,
) -> Result<(Vec<u8>, Vec<OwnedFd>), Failure> {
    let (ours, theirs) = fdpass::pair().map_err(Failure::Host)?;
    let (mut output, input) = io::pipe().map_err(Failure::Host)?;
    let nothing = std::fs::File::open("/dev/null").map_err(Failure::Host)?;
    let mut alone = Some(library::linker_at_rest());
    let interruption = interruption().map_err(Failure::Host)?;
    // What runs with the caller's rights may need the processes that the caller sees.
    let (ids, rest) = match rights {
        Rights::Same(_) => (Ids::Same, Rest::Stays),
        Rights::None(_) | Rights::Asking(_) => (Ids::Own, Rest::Ended),
    };
    let cage = Cage::new(ids, rest, || {
        // The child's copy of the lock is its own.
        drop(alone.take());
        let mut kept: Vec<i32> = keep.iter().map(AsRawFd::as_raw_fd).collect();
        kept.extend([0, 1, theirs.as_raw_fd()]);
        let ready = confine(nothing.as_fd(), input.as_fd(), &kept, rights);
        let answer = ready.map_err(|e| format!("cannot prepare: {e}")).and_then(|()| body());
        i32::from(tell(theirs.as_fd(), answer).is_err())
    })
    .map_err(Failure::Host)?;
    drop((alone, theirs, input));
    let result = listen(ours.as_fd(), &cage, interruption.as_fd(), doing, limit);
    match rights {
        Rights::Same(left) if result.is_ok() => left.keep(cage),
        _ => drop(cage),
    }
    show_output(object, &mut output);
    result
}

/// Prepares the child.
fn confine(
    nothing: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    keep: &[i32],
    rights: Rights<'_>,
) -> io::Result<()> {
    // A session of its own: a signal to its group reaches no other process.
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
    let list = match rights {
        Rights::Same(_) => return Ok(()),
        Rights::None(rules) => AllowList::compile(rules)?,
        Rights::Asking(rules) => AllowList::compile_refusing(rules)?,
    };
    netgraft_linux::jail::enter()?;
    crate::level0::forbid_clone3()?;
    list.install()
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

/// Readable when a signal waits that ends the caller's wait.
fn interruption() -> io::Result<OwnedFd> {
    // The launcher blocks all of these, and only means the others by it.
    let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGWINCH, libc::SIGURG];
    harmless.into_iter().fold(Signals::blocked()?, Signals::without).descriptor()
}

/// Waits for the answer and for the child's end. If it fails, all of the child is to be ended.
fn listen(
    socket: BorrowedFd<'_>,
    cage: &Cage,
    interruption: BorrowedFd<'_>,
    doing: &str,
    limit: Duration,
) -> Result<(Vec<u8>, Vec<OwnedFd>), Failure> {
    let deadline = Instant::now() + limit;
    let wait = |socket| wait_until([socket, Some(cage.ended()), Some(interruption)], deadline);
    // The answer first: it stays when the child has ended.
    let answer = match wait(Some(socket)).map_err(Failure::Host)? {
        [true, _, _] => fdpass::receive(socket, ANSWER_LIMIT).map_err(Failure::Host)?,
        _ => None,
    };
    // It has answered and only has to exit, or something holds it up.
    let [_, ended, interrupted] = wait(None).map_err(Failure::Host)?;
    let change = if ended { cage.change() } else { None };
    match answer {
        Some((mut message, fds)) if !message.is_empty() => match message.remove(0) {
            b'+' => Ok((message, fds)),
            _ => Err(Failure::Said(String::from_utf8_lossy(&message).into_owned())),
        },
        _ => Err(Failure::Died(match change {
            Some(change) => format!("{} in {doing}", describe(change)),
            None if ended => format!("ended in {doing}"),
            None if interrupted => format!("was interrupted in {doing}"),
            None => format!("did not come back from {doing} within {} s", limit.as_secs()),
        })),
    }
}

/// Waits until one of the descriptors is readable, and says which; none when the time is over.
fn wait_until(fds: [Option<BorrowedFd<'_>>; 3], deadline: Instant) -> io::Result<[bool; 3]> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let ready = fdpass::wait_readable(fds, Some(left))?;
        if ready.contains(&true) || left.is_zero() {
            return Ok(ready);
        }
    }
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
        tracing::info!("{object}: {}", crate::log::printable(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tests' children need.
    fn rules() -> Vec<Allow> {
        let calls = [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_openat,
            libc::SYS_close,
            libc::SYS_fcntl,
            libc::SYS_fstat,
            libc::SYS_statx,
            libc::SYS_newfstatat,
            libc::SYS_lseek,
            libc::SYS_getdents64,
            libc::SYS_sendmsg,
            libc::SYS_pipe2,
            libc::SYS_mmap,
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_brk,
            libc::SYS_madvise,
            libc::SYS_clock_nanosleep,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigaction,
            libc::SYS_getpid,
            libc::SYS_gettid,
            libc::SYS_tgkill,
            libc::SYS_getrandom,
            libc::SYS_exit_group,
        ];
        calls.map(|number| Allow { number, conditions: Vec::new() }).to_vec()
    }

    fn go(limit: u64, body: impl FnOnce() -> Answer) -> Result<(Vec<u8>, Vec<OwnedFd>), Failure> {
        run("test", "the test", &[], Rights::None(&rules()), Duration::from_millis(limit), body)
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

    /// As a constructor that starts a helper would: with a session of its own, or without.
    #[test]
    fn what_it_forks_ends_with_it() {
        let left = Left::default();
        // A confined child may fork here, and nowhere outside of this test.
        let mut rules = rules();
        let more =
            [libc::SYS_clone, libc::SYS_setsid, libc::SYS_set_robust_list, libc::SYS_futex, libc::SYS_rseq];
        rules.extend(more.map(|number| Allow { number, conditions: Vec::new() }));
        let none = Rights::None(&rules);
        for (rights, session) in [(Rights::Same(&left), true), (none, true), (none, false)] {
            let (reader, writer) = io::pipe().unwrap();
            let kept = writer.try_clone().unwrap();
            let body = || {
                let forked = process::fork(|| {
                    if session {
                        let _ = process::new_session();
                    }
                    std::thread::sleep(Duration::from_secs(1000));
                    0
                });
                forked.map_err(|e| e.to_string()).map(|_| (Vec::new(), Vec::new()))
            };
            let result = run("test", "the test", &[kept.as_fd()], rights, Duration::from_secs(60), body);
            assert_eq!(text(result), " 0");
            drop((writer, kept));
            // What pre-init leaves behind may be what the stack stands on.
            if let Rights::Same(left) = rights {
                let cages = std::mem::take(&mut *left.0.lock().unwrap());
                assert_eq!(cages.iter().filter(|cage| !cage.is_over()).count(), 1);
            }
            let mut rest = String::new();
            { reader }.read_to_string(&mut rest).unwrap();
        }
    }

    /// The launcher blocks its signals, and must not wait for the object's time to be over.
    #[test]
    fn a_signal_that_waits_ends_it_and_stays() {
        let child = process::fork(|| {
            let _ = Signals::all_but_faults().block_exactly();
            let _ = process::kill(std::process::id() as i32, libc::SIGTERM);
            let hang = || {
                std::thread::sleep(Duration::from_secs(1000));
                Err(String::new())
            };
            let result =
                run("test", "the test", &[], Rights::Same(&Left::default()), Duration::from_secs(1000), hang);
            let told = text(result) == "was interrupted in the test";
            i32::from(!told || !netgraft_linux::signal::is_pending(libc::SIGTERM))
        });
        assert_eq!(process::wait(child.unwrap(), process::Wait::Block).unwrap(), Some(Change::Exited(0)));
    }

    #[test]
    fn the_child_has_no_rights() {
        let answer = go(5000, || {
            let status = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
            let line = status.lines().find(|l| l.starts_with("CapEff")).unwrap_or("none").to_owned();
            let fds = std::fs::read_dir("/proc/self/fd").map_err(|e| e.to_string())?.count();
            Ok((format!("{line} {}", fds - 1).into_bytes(), Vec::new()))
        });
        assert_eq!(text(answer), "CapEff:\t0000000000000000 4 0");
    }
}

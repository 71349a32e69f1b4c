//! Processes: forks without exec, siblings, waiting, killing, execve(2).

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::ptr;

use crate::namespace::Namespaces;
use crate::result::{check, check_long};

/// The exit status of a forked child that panicked.
pub const PANICKED: i32 = 70;

/// Forks (fork(2)); the child runs `child` and exits with what it returns, and never comes back from here.
///
/// Only the calling thread exists in the child. A lock that another thread held at that moment stays locked
/// there, except those of the allocator; so call it before threads are made.
///
/// # Errors
/// EAGAIN or ENOMEM, as fork(2).
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the child gets a copy of the memory, so no reference of this thread dangles in it; it does not
    // return into the caller's frames (`finish` does not return).
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 { finish(child) } else { Ok(pid) }
}

/// Makes a process whose parent is the caller's own parent (`CLONE_PARENT`, clone(2)), in new namespaces or,
/// after unshare(2) of the process-id namespace, as the next process of that one. The child runs `child` as
/// with [`fork`].
///
/// The caller must have one thread only: unlike [`fork`], this does not make the allocator usable in the child.
///
/// # Errors
/// As clone(2); EINVAL if the caller is the first process of its process-id namespace.
pub fn clone_sibling(namespaces: Namespaces, child: impl FnOnce() -> i32) -> io::Result<i32> {
    let flags = i64::from(namespaces.bits() | libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with no stack given this is fork(2): a copy of the memory, the same stack
    // pointer in it. The remaining arguments are unused without their flags. See `fork` for the rest.
    let pid = check_long(unsafe { libc::syscall(libc::SYS_clone, flags, 0_i64, 0_i64, 0_i64, 0_i64) })?;
    if pid == 0 { finish(child) } else { Ok(pid as i32) }
}

/// Forks; the child has not a copy of the caller's descriptor table but the same one (`CLONE_FILES`, clone(2)), so that
/// what is open there is closed only when both have ended. It runs `child` as with [`clone_sibling`]. Answers a
/// descriptor for the child.
///
/// What one of both closes is closed for the other. `child` is a function, since a closure could own descriptors, which
/// both would then close.
///
/// # Errors
/// As clone(2).
pub fn fork_with_same_files(child: fn() -> i32) -> io::Result<OwnedFd> {
    let flags = i64::from(libc::CLONE_FILES | libc::CLONE_PIDFD | libc::SIGCHLD);
    let mut pidfd: RawFd = -1;
    // SAFETY: as in `clone_sibling`; with CLONE_PIDFD the third argument points to where the descriptor is stored, which
    // lives through the call.
    let pid =
        check_long(unsafe { libc::syscall(libc::SYS_clone, flags, 0_i64, &raw mut pidfd, 0_i64, 0_i64) })?;
    if pid == 0 {
        finish(child)
    }
    // SAFETY: the kernel just gave this descriptor to us; the child knows nothing of it.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

fn finish(child: impl FnOnce() -> i32) -> ! {
    // A panic must not unwind into the frames of the parent's copy.
    let status = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
    exit_now(status)
}

/// Ends the process at once: no destructors, no exit handlers (_exit(2)).
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// How a child changed (wait(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// This signal stopped it.
    Stopped(i32),
}

/// Whether to wait for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until the child has ended.
    Block,
    /// Only look whether it has ended or stopped.
    Look,
}

/// Waits for a child, or looks whether it has changed; `None` if it has not.
///
/// # Errors
/// ECHILD if it is no child of the caller.
pub fn wait(pid: i32, how: Wait) -> io::Result<Option<Change>> {
    Ok(wait_for(pid, how)?.map(|(_, change)| change))
}

/// The same for whichever child changes, and which.
///
/// # Errors
/// ECHILD if the caller has no child.
pub fn wait_any(how: Wait) -> io::Result<Option<(i32, Change)>> {
    wait_for(-1, how)
}

fn wait_for(pid: i32, how: Wait) -> io::Result<Option<(i32, Change)>> {
    let options = match how {
        Wait::Block => 0,
        Wait::Look => libc::WNOHANG | libc::WUNTRACED,
    };
    let mut status = 0;
    let got = loop {
        // SAFETY: `status` lives through the call.
        match check(unsafe { libc::waitpid(pid, &raw mut status, options) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    let change = match got {
        0 => None,
        _ if libc::WIFEXITED(status) => Some(Change::Exited(libc::WEXITSTATUS(status))),
        _ if libc::WIFSIGNALED(status) => Some(Change::Signaled(libc::WTERMSIG(status))),
        _ if libc::WIFSTOPPED(status) => Some(Change::Stopped(libc::WSTOPSIG(status))),
        _ => None,
    };
    Ok(change.map(|change| (got, change)))
}

/// Sends a signal to a process (kill(2)).
///
/// # Errors
/// ESRCH, EPERM, and EINVAL for a process id that means a group or everything.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: kill has no memory arguments.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Sends a signal to a process group; 0 is the caller's own (killpg(3)).
///
/// # Errors
/// ESRCH, EPERM.
pub fn kill_group(group: i32, signal: i32) -> io::Result<()> {
    // SAFETY: killpg has no memory arguments.
    check(unsafe { libc::killpg(group, signal) }).map(drop)
}

/// A descriptor for a process (pidfd_open(2)).
///
/// # Errors
/// ESRCH, EMFILE.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open has no memory arguments.
    let fd = check_long(unsafe { libc::syscall(libc::SYS_pidfd_open, i64::from(pid), 0_i64) })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal to the process of a descriptor (pidfd_send_signal(2)).
///
/// # Errors
/// ESRCH if it has ended, EPERM.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let (pidfd, signal) = (i64::from(pidfd.as_raw_fd()), i64::from(signal));
    // SAFETY: without a `siginfo_t`, which may be missing, the call takes integers.
    check_long(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, 0_i64, 0_i64) }).map(drop)
}

/// Takes a duplicate of another process's descriptor (pidfd_getfd(2)).
///
/// # Errors
/// EBADF if it has none of that number, EPERM, ESRCH.
pub fn take_fd(pidfd: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    let (pidfd, number) = (i64::from(pidfd.as_raw_fd()), i64::from(number));
    // SAFETY: pidfd_getfd has no memory arguments.
    let fd = check_long(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0_i64) })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Moves a process to a process group; 0 stands for the caller and for a group named after the process
/// (setpgid(2)).
///
/// # Errors
/// EACCES if the child has called execve(2), ESRCH, EPERM.
pub fn set_group(pid: i32, group: i32) -> io::Result<()> {
    // SAFETY: setpgid has no memory arguments.
    check(unsafe { libc::setpgid(pid, group) }).map(drop)
}

/// The caller's process group (getpgrp(2)).
#[must_use]
pub fn own_group() -> i32 {
    // SAFETY: getpgrp cannot fail.
    unsafe { libc::getpgrp() }
}

/// Leaves the session and its terminal for a session of its own (setsid(2)).
///
/// # Errors
/// EPERM if the caller leads a process group.
pub fn new_session() -> io::Result<()> {
    // SAFETY: setsid has no arguments.
    check(unsafe { libc::setsid() }).map(drop)
}

/// Real and effective user id, real and effective group id.
#[must_use]
pub fn ids() -> (u32, u32, u32, u32) {
    // SAFETY: these cannot fail.
    unsafe { (libc::getuid(), libc::geteuid(), libc::getgid(), libc::getegid()) }
}

/// Closes every descriptor but standard error and those in `keep` (close_range(2)), for a process that forked
/// off and must hold nothing of its parent's open. The caller must not use any other descriptor afterwards.
///
/// # Errors
/// As close_range(2).
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<u32> =
        keep.iter().filter_map(|&fd| u32::try_from(fd).ok()).chain([libc::STDERR_FILENO as u32]).collect();
    kept.sort_unstable();
    let mut first = 0_u32;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX)
}

/// Lets execve(2) close every descriptor but the standard ones and those in `keep` (close_range(2)).
///
/// # Errors
/// As close_range(2); EBADF if one of `keep` is not open.
pub fn inherit_only(keep: &[RawFd]) -> io::Result<()> {
    const CLOEXEC: i64 = 4;
    // SAFETY: only flags of descriptors change, and they stay open here.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, 3_i64, i64::from(u32::MAX), CLOEXEC) })?;
    for &fd in keep {
        // SAFETY: a plain flag.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
    }
    Ok(())
}

/// Lets a command inherit no descriptor but the standard ones, whatever their flags are.
pub fn inherit_nothing(command: &mut Command) {
    // SAFETY: between fork and exec only one system call is made, which changes flags of the child's own descriptors.
    unsafe { command.pre_exec(|| inherit_only(&[])) };
}

/// Lets execve(2) leave a descriptor open.
///
/// # Errors
/// As fcntl(2).
pub fn leave_open(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a plain flag.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }).map(drop)
}

/// Whether a descriptor is open and would be inherited by execve(2).
#[must_use]
pub fn is_inherited(fd: RawFd) -> bool {
    // SAFETY: asks for a plain flag.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Whether a descriptor is open, would be inherited by execve(2), and is a socket (`SO_TYPE`).
#[must_use]
pub fn is_inherited_socket(fd: RawFd) -> bool {
    let mut kind = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    let value = (&raw mut kind).cast();
    // SAFETY: `kind` is writable for `len` bytes; a number that is no descriptor of a socket is an error.
    let asked = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_TYPE, value, &raw mut len) };
    asked == 0 && is_inherited(fd)
}

/// Whether a descriptor would be inherited by execve(2) and is an internet socket (`SO_DOMAIN`).
#[must_use]
pub fn is_inherited_inet_socket(fd: RawFd) -> bool {
    let mut domain = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    let value = (&raw mut domain).cast();
    // SAFETY: `domain` is writable for `len` bytes; a number that is no descriptor of a socket is an error.
    let asked = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, value, &raw mut len) };
    asked == 0 && matches!(domain, libc::AF_INET | libc::AF_INET6) && is_inherited(fd)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: only descriptor numbers are passed. Owners of closed descriptors exist only in frames that this
    // forked process never returns to (see `close_all_but`).
    check_long(unsafe { libc::syscall(libc::SYS_close_range, i64::from(first), i64::from(last), 0_i64) })
        .map(drop)
}

/// Puts `source` in the place of standard input and output (dup2(2)).
///
/// # Errors
/// As dup2(2).
pub fn replace_stdin_and_stdout(source: BorrowedFd<'_>) -> io::Result<()> {
    replace(source, libc::STDIN_FILENO)?;
    replace_stdout(source)
}

/// Puts `source` in the place of standard output (dup2(2)).
///
/// # Errors
/// As dup2(2).
pub fn replace_stdout(source: BorrowedFd<'_>) -> io::Result<()> {
    replace(source, libc::STDOUT_FILENO)
}

/// `target` is standard input or output.
fn replace(source: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: 0 and 1 are never owned by an `OwnedFd`: std does not own them, and we open nothing there.
    check(unsafe { libc::dup2(source.as_raw_fd(), target) }).map(drop)
}

/// Puts `input` in the place of standard input, and `output` in those of standard output and standard error (dup2(2)).
///
/// # Errors
/// As dup2(2).
pub fn replace_standard(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<()> {
    for (source, target) in [(input, 0), (output, 1), (output, 2)] {
        // SAFETY: as in `replace_stdin_and_stdout`; std does not own 2 either.
        check(unsafe { libc::dup2(source.as_raw_fd(), target) })?;
    }
    Ok(())
}

/// Puts `source` in the place of standard error (dup2(2)).
///
/// # Errors
/// As dup2(2).
pub fn replace_stderr(source: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: 2 is never owned by an `OwnedFd`: std does not own it, and we open nothing there.
    check(unsafe { libc::dup2(source.as_raw_fd(), libc::STDERR_FILENO) }).map(drop)
}

/// Puts `source` in the place of standard input, output and error (dup2(2)).
///
/// # Errors
/// As dup2(2).
pub fn replace_stdio(source: BorrowedFd<'_>) -> io::Result<()> {
    replace_stdin_and_stdout(source)?;
    replace_stderr(source)
}

/// What execve(2) takes, prepared before the fork.
#[derive(Clone)]
pub struct Exec {
    /// The paths to try, in order.
    candidates: Vec<CString>,
    argv: Vec<CString>,
    envp: Vec<CString>,
}

impl Exec {
    /// Prepares to run `program` with `args` and `environment`, looked for as execvp(3) does: a name without
    /// a slash in the directories of `search_path`.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if a text holds a zero byte, NotFound if the program's name is empty.
    pub fn new(
        program: OsString,
        args: Vec<OsString>,
        environment: impl Iterator<Item = (OsString, OsString)>,
        search_path: Option<OsString>,
    ) -> io::Result<Exec> {
        let text = |s: OsString| CString::new(s.into_vec()).map_err(io::Error::from);
        let name = text(program)?;
        let candidates = candidates(name.to_bytes(), search_path.map(OsString::into_vec));
        if candidates.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let mut argv = vec![name];
        for arg in args {
            argv.push(text(arg)?);
        }
        let mut envp = Vec::new();
        for (mut key, value) in environment {
            key.push("=");
            key.push(value);
            envp.push(text(key)?);
        }
        Ok(Exec { candidates, argv, envp })
    }

    /// The same without a variable of the environment.
    #[must_use]
    pub fn without(&self, key: &CStr) -> Exec {
        let mut exec = self.clone();
        let begin = [key.to_bytes(), b"="].concat();
        exec.envp.retain(|entry| !entry.to_bytes().starts_with(&begin));
        exec
    }

    /// The same with a number in a variable of the environment.
    #[must_use]
    pub fn with_number(&self, key: &CStr, number: u32) -> Exec {
        let mut exec = self.without(key);
        let begin = [key.to_bytes(), b"="].concat();
        // Neither a key nor a number holds a zero byte.
        exec.envp.extend(CString::new([&begin, number.to_string().as_bytes()].concat()));
        exec
    }

    /// Becomes the program; returns only to say why it did not. A file without a known format is given to
    /// the shell, as execvp(3) does.
    #[must_use]
    pub fn run(&self) -> io::Error {
        let mut denied = false;
        for path in &self.candidates {
            let argv: Vec<&CStr> = self.argv.iter().map(CString::as_c_str).collect();
            let mut error = execve(path, &argv, &self.envp);
            if error.raw_os_error() == Some(libc::ENOEXEC) {
                let script: Vec<&CStr> = [c"/bin/sh", path.as_c_str()]
                    .into_iter()
                    .chain(self.argv.iter().skip(1).map(CString::as_c_str))
                    .collect();
                error = execve(c"/bin/sh", &script, &self.envp);
            }
            match error.raw_os_error() {
                Some(libc::EACCES) => denied = true,
                Some(libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT) => {}
                _ => return error,
            }
            // With one candidate the program was named by a path, and its own error is the answer.
            if self.candidates.len() == 1 {
                return error;
            }
        }
        io::Error::from_raw_os_error(if denied { libc::EACCES } else { libc::ENOENT })
    }
}

fn candidates(name: &[u8], search_path: Option<Vec<u8>>) -> Vec<CString> {
    if name.is_empty() {
        return Vec::new();
    }
    if name.contains(&b'/') {
        return CString::new(name).into_iter().collect();
    }
    let path = search_path.unwrap_or_else(|| b"/bin:/usr/bin".to_vec());
    path.split(|&b| b == b':')
        .filter_map(|dir| {
            let mut full = dir.to_vec();
            if !full.is_empty() {
                full.push(b'/');
            }
            full.extend_from_slice(name);
            CString::new(full).ok()
        })
        .collect()
}

fn execve(path: &CStr, argv: &[&CStr], envp: &[CString]) -> io::Error {
    let argv: Vec<_> = argv.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
    let envp: Vec<_> = envp.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
    // SAFETY: both arrays end with a null pointer and point to strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Leaves the session keyring (session-keyring(7)) that the caller shares with who started it, for an empty one of its own.
///
/// # Errors
/// As keyctl(2): ENOSYS where the kernel has no keys, EDQUOT where the user has too many.
pub fn own_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: without a name no memory is read.
    check_long(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0_u64) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use crate::fdpass;
    use crate::signal::Signals;

    #[test]
    fn a_child_ends_with_the_status_of_its_function_and_a_panic_does_not_escape() {
        let pid = fork(|| 7).unwrap();
        assert_eq!(wait(pid, Wait::Block).unwrap(), Some(Change::Exited(7)));
        // A panic without its hook: the hook's lock may be held by the thread of another test at the moment of the fork.
        let pid = fork(|| std::panic::resume_unwind(Box::new(()))).unwrap();
        assert_eq!(wait(pid, Wait::Block).unwrap(), Some(Change::Exited(PANICKED)));
    }

    #[test]
    fn a_child_with_the_same_files_keeps_them_open_until_it_ends() {
        fn wait_for_signal() -> i32 {
            Signals::none().with(libc::SIGUSR1).wait().map_or(1, |_| 0)
        }
        let before = Signals::all_but_faults().block_exactly().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let (told, tells) = fdpass::pair().unwrap();
        let middle = fork(|| {
            let child = fork_with_same_files(wait_for_signal);
            let told = child.and_then(|pidfd| fdpass::send(tells.as_fd(), b"!", &[pidfd.as_fd()]));
            i32::from(told.is_err())
        })
        .unwrap();
        before.block_exactly().unwrap();
        drop(writer);
        let (_, fds) = fdpass::receive(told.as_fd(), 1).unwrap().unwrap();
        assert_eq!(wait(middle, Wait::Block).unwrap(), Some(Change::Exited(0)));
        let closed = |time| fdpass::wait_readable([Some(reader.as_fd())], Some(time)).unwrap();
        assert_eq!(closed(Duration::from_millis(50)), [false], "the writer is held");
        signal(fds[0].as_fd(), libc::SIGUSR1).unwrap();
        assert_eq!(closed(Duration::from_secs(20)), [true]);
    }

    #[test]
    fn names_are_looked_up_as_execvp_does() {
        let list = |name: &str, path: Option<&str>| -> Vec<String> {
            candidates(name.as_bytes(), path.map(|p| p.as_bytes().to_vec()))
                .into_iter()
                .map(|c| c.into_string().unwrap())
                .collect()
        };
        assert_eq!(list("ls", Some("/a:/b")), ["/a/ls", "/b/ls"]);
        assert_eq!(list("ls", Some(":/b")), ["ls", "/b/ls"]);
        assert_eq!(list("./ls", Some("/a")), ["./ls"]);
        assert_eq!(list("ls", None), ["/bin/ls", "/usr/bin/ls"]);
        assert!(list("", Some("/a")).is_empty());
    }

    #[test]
    fn exec_errors_come_back() {
        let run = |program: &str| {
            Exec::new(program.into(), Vec::new(), std::iter::empty(), Some("/usr/bin".into()))
                .map(|e| e.run().raw_os_error())
        };
        assert_eq!(run("/nonexistent/x").unwrap(), Some(libc::ENOENT));
        assert_eq!(run("/etc").unwrap(), Some(libc::EACCES));
        assert_eq!(run("no-such-program").unwrap(), Some(libc::ENOENT));
        assert_eq!(run("").unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn groups_cannot_be_killed_by_accident() {
        for pid in [0, -1, -5] {
            assert_eq!(kill(pid, 0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
    }
}

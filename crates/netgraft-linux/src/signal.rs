//! Signals: the mask, dispositions, and reading signals from a descriptor (signal(7)).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::result::check;

/// Whether SIGPIPE was ignored when the process started.
static SIGPIPE_IGNORED: AtomicBool = AtomicBool::new(false);

/// Runs before `main`: the Rust runtime ignores SIGPIPE there, and a program that we start is to get what we
/// got from our own parent.
extern "C" fn note_sigpipe() {
    SIGPIPE_IGNORED.store(is_ignored(libc::SIGPIPE), Ordering::Relaxed);
}

#[used]
// SAFETY: the section holds pointers to functions that libc calls once at start-up, with arguments that a
// function without parameters may leave alone; ours uses no part of the Rust runtime.
#[unsafe(link_section = ".init_array")]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

/// Whether SIGPIPE was ignored when the process started, before the Rust runtime came.
#[must_use]
pub fn sigpipe_was_ignored() -> bool {
    SIGPIPE_IGNORED.load(Ordering::Relaxed)
}

/// Whether the process ignores a signal.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: `sigaction` is plain data for which zero is valid.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: `action` lives through the call; nothing is changed.
    unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    action.sa_sigaction == libc::SIG_IGN
}

/// Ignores a signal, or gives it back its default action.
///
/// # Errors
/// EINVAL for SIGKILL and SIGSTOP.
pub fn set_ignored(signal: i32, ignored: bool) -> io::Result<()> {
    // SAFETY: `sigaction` is plain data for which zero is valid.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: no handler is installed, only one of the two constants.
    check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) }).map(drop)
}

/// A set of signals.
#[derive(Clone, Copy)]
pub struct Signals(libc::sigset_t);

impl Signals {
    /// No signal.
    #[must_use]
    pub fn none() -> Signals {
        // SAFETY: `sigset_t` is plain data; sigemptyset makes it a valid set.
        unsafe {
            let mut set = mem::zeroed();
            libc::sigemptyset(&raw mut set);
            Signals(set)
        }
    }

    /// Every signal but those that report a fault of the process itself.
    #[must_use]
    pub fn all_but_faults() -> Signals {
        let mut set = Signals::none();
        // SAFETY: `set` holds a valid set; the numbers are signals.
        unsafe {
            libc::sigfillset(&raw mut set.0);
            for fault in
                [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS]
            {
                libc::sigdelset(&raw mut set.0, fault);
            }
        }
        set
    }

    /// One signal.
    #[must_use]
    pub fn only(signal: i32) -> Signals {
        let mut set = Signals::none();
        // SAFETY: `set` holds a valid set; a number that is no signal is refused.
        unsafe { libc::sigaddset(&raw mut set.0, signal) };
        set
    }

    /// The set with a signal.
    #[must_use]
    pub fn with(mut self, signal: i32) -> Signals {
        // SAFETY: the set is valid; a number that is no signal is refused.
        unsafe { libc::sigaddset(&raw mut self.0, signal) };
        self
    }

    /// The set without a signal.
    #[must_use]
    pub fn without(mut self, signal: i32) -> Signals {
        // SAFETY: as in `with`.
        unsafe { libc::sigdelset(&raw mut self.0, signal) };
        self
    }

    /// What the calling thread blocks.
    ///
    /// # Errors
    /// None are known.
    pub fn blocked() -> io::Result<Signals> {
        let mut now = Signals::none();
        // SAFETY: without a new set nothing is changed; `now` lives through the call.
        let code = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut now.0) };
        if code == 0 { Ok(now) } else { Err(io::Error::from_raw_os_error(code)) }
    }

    /// Whether a signal is in the set.
    #[must_use]
    pub fn has(&self, signal: i32) -> bool {
        // SAFETY: the set is valid.
        unsafe { libc::sigismember(&raw const self.0, signal) == 1 }
    }

    /// Makes this the calling thread's mask of blocked signals and returns the mask before (sigprocmask(2)).
    ///
    /// # Errors
    /// None are known.
    pub fn block_exactly(&self) -> io::Result<Signals> {
        let mut old = Signals::none();
        // SAFETY: both sets are valid and live through the call.
        let code = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, &raw mut old.0) };
        if code == 0 { Ok(old) } else { Err(io::Error::from_raw_os_error(code)) }
    }

    /// Lets these signals through to the calling thread.
    ///
    /// # Errors
    /// None are known.
    pub fn unblock(&self) -> io::Result<()> {
        // SAFETY: the set is valid and lives through the call.
        let code = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const self.0, ptr::null_mut()) };
        if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
    }

    /// Takes one of these signals, which must be blocked, and waits until one comes (sigwait(3)).
    ///
    /// # Errors
    /// EINVAL
    pub fn wait(&self) -> io::Result<i32> {
        let mut signal = 0;
        // SAFETY: the set is valid; both live through the call.
        let code = unsafe { libc::sigwait(&raw const self.0, &raw mut signal) };
        if code == 0 { Ok(signal) } else { Err(io::Error::from_raw_os_error(code)) }
    }

    /// A descriptor from which these signals, which must be blocked, are read (signalfd(2)). It does not block
    /// and is closed by execve(2).
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the set is valid and lives through the call.
        let fd = check(unsafe { libc::signalfd(-1, &raw const self.0, flags) })?;
        // SAFETY: the kernel just gave this descriptor to us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// Whether a blocked signal waits for the calling thread or the process (sigpending(2)).
#[must_use]
pub fn is_pending(signal: i32) -> bool {
    let mut set = Signals::none();
    // SAFETY: the set lives through the call.
    unsafe { libc::sigpending(&raw mut set.0) };
    set.has(signal)
}

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Which.
    pub signal: i32,
    /// Whether the kernel sent it, as a terminal does for ctrl-C, and no process.
    pub from_kernel: bool,
}

/// Reads one signal; `None` if none waits.
///
/// # Errors
/// As read(2).
pub fn read(descriptor: BorrowedFd<'_>) -> io::Result<Option<Arrived>> {
    // SAFETY: `signalfd_siginfo` is plain data for which zero is valid.
    let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: `info` has room for `size` bytes; any content is valid for it.
    let got = unsafe { libc::read(descriptor.as_raw_fd(), (&raw mut info).cast(), size) };
    match check(got as libc::c_int) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
        Ok(_) => {
            Ok(Some(Arrived { signal: info.ssi_signo as i32, from_kernel: info.ssi_code == libc::SI_KERNEL }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Change, Wait, fork, kill, wait};
    use std::os::fd::AsFd;

    #[test]
    fn blocked_signals_are_read_from_the_descriptor() {
        let child = fork(|| {
            let all = Signals::all_but_faults();
            let Ok(old) = all.block_exactly() else { return 1 };
            let Ok(fd) = all.descriptor() else { return 2 };
            if kill(std::process::id() as i32, libc::SIGUSR1).is_err() || !is_pending(libc::SIGUSR1) {
                return 3;
            }
            let arrived = read(fd.as_fd()).ok().flatten();
            if arrived != Some(Arrived { signal: libc::SIGUSR1, from_kernel: false }) {
                return 4;
            }
            if !matches!(read(fd.as_fd()), Ok(None)) || old.has(libc::SIGUSR1) { 5 } else { 0 }
        });
        assert_eq!(wait(child.unwrap(), Wait::Block).unwrap(), Some(Change::Exited(0)));
    }

    #[test]
    fn sigpipe_is_known_as_it_was_before_the_runtime() {
        // The test harness is itself started by a Rust program that restores the default.
        assert!(is_ignored(libc::SIGPIPE));
        assert!(!sigpipe_was_ignored());
    }

    #[test]
    fn faults_are_not_in_the_set() {
        let all = Signals::all_but_faults();
        assert!(all.has(libc::SIGTERM) && all.has(libc::SIGCHLD) && !all.has(libc::SIGSEGV));
        assert!(Signals::only(libc::SIGTSTP).has(libc::SIGTSTP));
    }
}

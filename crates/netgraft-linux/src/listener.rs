//! The supervisor's side of a seccomp listener (seccomp_unotify(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::confine::Missing;
use crate::result::check;

/// A trapped system call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Names the call until it is answered or interrupted.
    pub id: u64,
    /// The thread, as seen from the supervisor's pid namespace.
    pub tid: u32,
    /// The call's number.
    pub number: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// The listener of one sandbox.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

const fn ioctl_number(direction: u64, number: u64, size: usize) -> u64 {
    (direction << 30) | ((size as u64) << 16) | ((b'!' as u64) << 8) | number
}

const RECV: u64 = ioctl_number(3, 0, size_of::<libc::seccomp_notif>());
const SEND: u64 = ioctl_number(3, 1, size_of::<libc::seccomp_notif_resp>());
const ID_VALID: u64 = ioctl_number(1, 2, size_of::<u64>());
const ADDFD: u64 = ioctl_number(1, 3, size_of::<libc::seccomp_notif_addfd>());
const SET_FLAGS: u64 = ioctl_number(1, 4, size_of::<u64>());

/// Wakes the program on the processor that the supervisor is about to leave.
const FD_SYNC_WAKE_UP: u64 = 1;

impl Listener {
    /// Takes over a listener that [`crate::filter::install`] returned.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Listener { fd }
    }

    /// The descriptor, to be handed to another process.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Looks whether the kernel knows every request that is needed; `None` if it does. Nobody is answered by this,
    /// and no descriptor goes anywhere.
    #[must_use]
    pub fn missing_request(&self) -> Option<Missing> {
        // The ids of a listener count up from a random one: none is this.
        let nobody: u64 = 0;
        let add = self.answer_with_fd(nobody, self.fd.as_fd(), true).map(drop);
        let answer = self.answer(nobody, Err(libc::ENOSYS));
        // SAFETY: the id is readable and of the size that the request number names.
        let valid = check(unsafe { libc::ioctl(self.fd.as_raw_fd(), ID_VALID, &raw const nobody) }).map(drop);
        [
            ("SECCOMP_IOCTL_NOTIF_SEND", answer),
            ("SECCOMP_IOCTL_NOTIF_ID_VALID", valid),
            // What 5.14 added to the request of 5.9: descriptor and answer in one step.
            ("SECCOMP_IOCTL_NOTIF_ADDFD with SECCOMP_ADDFD_FLAG_SEND", add),
        ]
        .into_iter()
        .find(|(_, told)| told.as_ref().err().and_then(io::Error::raw_os_error) != Some(libc::ENOENT))
        .map(|(name, _)| Missing::Request(name))
    }

    /// Whether every process that the listener watched has ended (Linux 5.9).
    #[must_use]
    pub fn is_over(listener: BorrowedFd<'_>) -> bool {
        let mut entry = libc::pollfd { fd: listener.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one entry, which lives through the call.
        let ready = unsafe { libc::poll(&raw mut entry, 1, 0) };
        ready == 1 && entry.revents & libc::POLLHUP != 0
    }

    /// Asks that answers wake the program on the supervisor's processor (Linux 6.6).
    ///
    /// # Errors
    /// EINVAL on older kernels; all works without.
    pub fn wake_synchronously(&self) -> io::Result<()> {
        // SAFETY: this request takes its argument by value.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), SET_FLAGS, FD_SYNC_WAKE_UP) }).map(drop)
    }

    /// Takes the next call. Blocks unless the listener polls readable.
    ///
    /// # Errors
    /// ENOENT if the caller has died or was interrupted meanwhile: there is nothing to answer.
    pub fn receive(&self) -> io::Result<Notification> {
        // SAFETY: the structure is plain integers, for which zero is valid; the kernel wants it zeroed.
        let mut notif: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: `notif` is writable and of the size that the request names.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), RECV, &raw mut notif) })?;
        Ok(Notification {
            id: notif.id,
            tid: notif.pid,
            number: i64::from(notif.data.nr),
            args: notif.data.args,
        })
    }

    /// Answers a call with its return value, or with a negative errno.
    ///
    /// # Errors
    /// ENOENT if the call was interrupted or its thread has died.
    pub fn answer(&self, id: u64, result: Result<i64, i32>) -> io::Result<()> {
        let (val, error) = match result {
            Ok(value) => (value, 0),
            Err(errno) => (0, -errno),
        };
        self.send(libc::seccomp_notif_resp { id, val, error, flags: 0 })
    }

    /// Lets the kernel do the call after all. Never for a decision about policy: the arguments may have
    /// changed since they were looked at.
    ///
    /// # Errors
    /// As [`Listener::answer`].
    pub fn let_through(&self, id: u64) -> io::Result<()> {
        self.send(libc::seccomp_notif_resp {
            id,
            val: 0,
            error: 0,
            flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        })
    }

    /// Puts `fd` into the caller's descriptor table and answers the call with its number, in one step: either
    /// both happen or neither. Returns the number.
    ///
    /// # Errors
    /// ENOENT or ESRCH if the call is gone, EMFILE if the caller's table is full: then it is still to be answered.
    pub fn answer_with_fd(&self, id: u64, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<i32> {
        self.add(id, fd, close_on_exec, libc::SECCOMP_ADDFD_FLAG_SEND as u32, 0)
    }

    /// Puts `fd` into the caller's descriptor table without answering. Returns the number.
    ///
    /// # Errors
    /// As [`Listener::answer_with_fd`].
    pub fn add_fd(&self, id: u64, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<i32> {
        self.add(id, fd, close_on_exec, 0, 0)
    }

    /// Replaces descriptor `target` of the caller by `fd`, without answering.
    ///
    /// # Errors
    /// As [`Listener::answer_with_fd`].
    pub fn replace_fd(
        &self,
        id: u64,
        fd: BorrowedFd<'_>,
        target: u32,
        close_on_exec: bool,
    ) -> io::Result<()> {
        self.add(id, fd, close_on_exec, libc::SECCOMP_ADDFD_FLAG_SETFD as u32, target).map(drop)
    }

    fn add(
        &self,
        id: u64,
        fd: BorrowedFd<'_>,
        close_on_exec: bool,
        flags: u32,
        target: u32,
    ) -> io::Result<i32> {
        let request = libc::seccomp_notif_addfd {
            id,
            flags,
            srcfd: fd.as_raw_fd() as u32,
            newfd: target,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // SAFETY: `request` is readable and of the size that the request number names.
        let number = unsafe { libc::ioctl(self.fd.as_raw_fd(), ADDFD, &raw const request) };
        check(number)
    }

    /// Whether a call still waits. What was read of the program's memory counts only if it does: otherwise the
    /// thread's number may be another's by now.
    #[must_use]
    pub fn is_waiting(&self, id: u64) -> bool {
        // SAFETY: `id` is readable and of the size that the request number names.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), ID_VALID, &raw const id) == 0 }
    }

    fn send(&self, response: libc::seccomp_notif_resp) -> io::Result<()> {
        // SAFETY: `response` is readable and of the size that the request number names.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), SEND, &raw const response) }).map(drop)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

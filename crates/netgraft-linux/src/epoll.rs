//! epoll(7): the sentry's loop, and the host stack's sockets.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::result::check;

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

/// Bits of epoll_ctl(2).
pub mod bits {
    /// `EPOLLIN`
    pub const IN: u32 = libc::EPOLLIN as u32;
    /// `EPOLLOUT`
    pub const OUT: u32 = libc::EPOLLOUT as u32;
    /// `EPOLLRDHUP`
    pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
    /// `EPOLLHUP`
    pub const HUP: u32 = libc::EPOLLHUP as u32;
    /// `EPOLLERR`
    pub const ERR: u32 = libc::EPOLLERR as u32;
    /// `EPOLLONESHOT`
    pub const ONESHOT: u32 = libc::EPOLLONESHOT as u32;
    /// `EPOLLET`
    pub const EDGE: u32 = libc::EPOLLET as u32;
}

/// A buffer for [`Epoll::wait`].
#[derive(Debug)]
pub struct EventBuffer {
    events: Vec<(u32, u64)>,
    raw: Vec<RawEvent>,
}

/// `struct epoll_event`, which is packed on x86-64.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct RawEvent(libc::epoll_event);

impl std::fmt::Debug for RawEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("epoll_event")
    }
}

impl EventBuffer {
    /// Room for `capacity` events a call.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        EventBuffer {
            events: Vec::with_capacity(capacity),
            raw: vec![RawEvent(libc::epoll_event { events: 0, u64: 0 }); capacity.max(1)],
        }
    }

    /// The events of the last wait: bits and token.
    #[must_use]
    pub fn events(&self) -> &[(u32, u64)] {
        &self.events
    }
}

impl Epoll {
    /// A new instance.
    ///
    /// # Errors
    /// epoll_create1(2)
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes an integer and returns a new descriptor or -1.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel returned a new descriptor, which nobody else owns.
        Ok(Epoll { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Watches the open file behind `fd` until it is closed everywhere, or removed.
    ///
    /// # Errors
    /// epoll_ctl(2)
    pub fn add(&self, fd: BorrowedFd<'_>, events: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, token)
    }

    /// Watches an open file, or changes what it is watched for if it is watched under the same descriptor.
    ///
    /// # Errors
    /// epoll_ctl(2)
    pub fn set(&self, fd: BorrowedFd<'_>, events: u32, token: u64) -> io::Result<()> {
        match self.add(fd, events, token) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => self.modify(fd, events, token),
            result => result,
        }
    }

    /// Changes what is watched for.
    ///
    /// # Errors
    /// epoll_ctl(2)
    pub fn modify(&self, fd: BorrowedFd<'_>, events: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events, token)
    }

    /// Stops watching.
    ///
    /// # Errors
    /// epoll_ctl(2)
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, operation: i32, fd: BorrowedFd<'_>, events: u32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` is readable for the call; the descriptors are open.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) })
            .map(drop)
    }

    /// Waits until something is ready or `timeout` has passed (`None`: for ever); a signal ends it early, with
    /// no events.
    ///
    /// # Errors
    /// epoll_pwait2(2)
    pub fn wait(&self, buffer: &mut EventBuffer, timeout: Option<Duration>) -> io::Result<()> {
        buffer.events.clear();
        let spec = timeout.map(|t| libc::timespec {
            tv_sec: t.as_secs().min(1 << 32) as libc::time_t,
            tv_nsec: t.subsec_nanos() as libc::c_long,
        });
        let spec = spec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `raw` is writable for its length (`RawEvent` is a transparent `epoll_event`); `spec` is null
        // or points to a timespec that lives until the end of this function.
        let n = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                buffer.raw.as_mut_ptr(),
                buffer.raw.len() as i32,
                spec,
                std::ptr::null::<libc::sigset_t>(),
                8usize,
            )
        };
        if n < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        buffer.events.extend(buffer.raw[..n as usize].iter().map(|e| (e.0.events, e.0.u64)));
        Ok(())
    }

    /// The tokens of all files that are still watched, from `/proc/self/fdinfo` (proc(5)): a file that was
    /// closed everywhere is not among them.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn tokens(&self) -> io::Result<Vec<u64>> {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd()))?;
        Ok(text.lines().filter_map(token_of_line).collect())
    }
}

/// `tfd:        5 events:       19 data:                7  pos:0 ino:61 sdev:9`
fn token_of_line(line: &str) -> Option<u64> {
    let (_, data) = line.strip_prefix("tfd:")?.split_once("data:")?;
    u64::from_str_radix(data.split_whitespace().next()?, 16).ok()
}

impl AsFd for Epoll {
    /// Readable while something that is watched is ready.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn readiness_and_liveness() {
        let epoll = Epoll::new().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        epoll.add(reader.as_fd(), bits::IN, 0xabc).unwrap();
        let mut buffer = EventBuffer::new(4);
        epoll.wait(&mut buffer, Some(Duration::ZERO)).unwrap();
        assert!(buffer.events().is_empty());
        writer.write_all(b"x").unwrap();
        epoll.wait(&mut buffer, Some(Duration::from_secs(5))).unwrap();
        assert_eq!(buffer.events(), [(bits::IN, 0xabc)]);
        assert_eq!(epoll.tokens().unwrap(), [0xabc]);
        drop(reader);
        // A child that the thread of another test has forked meanwhile holds a copy, and ends soon.
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while !epoll.tokens().unwrap().is_empty() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(epoll.tokens().unwrap().is_empty());
    }
}

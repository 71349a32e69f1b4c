//! Learns that an open file was closed for the last time (inotify(7)).
//!
//! A watch on the inode of a socket reports `IN_CLOSE` when its open file goes, however often it was
//! duplicated, inherited or passed: a socket has one open file.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Watches sockets for their end.
#[derive(Debug)]
pub struct CloseWatcher {
    fd: OwnedFd,
}

/// A watch; the kernel never uses a number twice while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watch(i32);

impl Watch {
    /// The kernel's number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }

    /// Back from [`Watch::number`].
    #[must_use]
    pub fn from_number(number: i32) -> Watch {
        Watch(number)
    }
}

impl CloseWatcher {
    /// A new instance.
    ///
    /// # Errors
    /// EMFILE: `fs.inotify.max_user_instances` is used up.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes an integer and returns a new descriptor or -1.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel returned a new descriptor, which nobody else owns.
        Ok(CloseWatcher { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Watches the open file behind `fd`, a descriptor of this process, which may be closed afterwards.
    ///
    /// # Errors
    /// ENOSPC: `fs.inotify.max_user_watches` is used up. ENOENT: `/proc` is not mounted.
    pub fn watch(&self, fd: BorrowedFd<'_>) -> io::Result<Watch> {
        let path = format!("/proc/self/fd/{}\0", fd.as_raw_fd());
        // SAFETY: `path` ends in a NUL byte.
        let watch =
            unsafe { libc::inotify_add_watch(self.fd.as_raw_fd(), path.as_ptr().cast(), libc::IN_CLOSE) };
        if watch < 0 { Err(io::Error::last_os_error()) } else { Ok(Watch(watch)) }
    }

    /// Ends a watch, also one whose file is closed: the kernel keeps it until then.
    pub fn unwatch(&self, watch: Watch) {
        // SAFETY: the call takes two integers.
        let _ = unsafe { libc::inotify_rm_watch(self.fd.as_raw_fd(), watch.0) };
    }

    /// Calls `closed` for each file that was closed since the last call.
    ///
    /// # Errors
    /// read(2); none for "nothing happened".
    pub fn harvest(&self, mut closed: impl FnMut(Watch)) -> io::Result<()> {
        let mut buf = [0u8; 4096];
        loop {
            // SAFETY: `buf` is writable for its length.
            let n = unsafe { libc::read(self.fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
            if n < 0 {
                let error = io::Error::last_os_error();
                return if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) };
            }
            let mut rest = &buf[..n as usize];
            // struct inotify_event: wd, mask, cookie, len, name; sockets have no name.
            while let Some((head, tail)) = rest.split_at_checked(16) {
                let field = |i: usize| [head[i], head[i + 1], head[i + 2], head[i + 3]];
                if u32::from_ne_bytes(field(4)) & libc::IN_CLOSE != 0 {
                    closed(Watch(i32::from_ne_bytes(field(0))));
                }
                rest = tail.get(u32::from_ne_bytes(field(12)) as usize..).unwrap_or(&[]);
            }
        }
    }
}

impl AsFd for CloseWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn only_the_last_close_of_an_open_file_is_reported() {
        let watcher = CloseWatcher::new().unwrap();
        let (a, _b) = UnixStream::pair().unwrap();
        let watch = watcher.watch(a.as_fd()).unwrap();
        let copy = a.try_clone().unwrap();
        drop(a);
        let mut seen = Vec::new();
        watcher.harvest(|w| seen.push(w)).unwrap();
        assert!(seen.is_empty(), "a duplicate is open");
        drop(copy);
        // Other tests make processes, which have a copy until they close theirs or end.
        for _ in 0..1000 {
            watcher.harvest(|w| seen.push(w)).unwrap();
            if !seen.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(seen, [watch]);
        watcher.unwatch(watch);
        watcher.harvest(|w| seen.push(w)).unwrap();
        assert_eq!(seen.len(), 1);
    }
}

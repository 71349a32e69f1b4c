//! The program's threads as seen by the sentry: their memory and their descriptors.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `PIDFD_THREAD` of pidfd_open(2), Linux 6.9.
const PIDFD_THREAD: u32 = libc::O_EXCL as u32;

/// How many threads' pidfds are kept.
const CACHED: usize = 256;

/// Reads memory of a thread (process_vm_readv(2)) and returns how many bytes could be read.
///
/// # Errors
/// EFAULT if the first byte is not mapped, ESRCH if the thread is gone, EPERM if it may not be inspected.
pub fn read_memory(tid: u32, address: u64, buf: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buf.len() };
    // SAFETY: `local` describes `buf`, which is writable for its length; `remote` is an address of another
    // process, which the kernel checks.
    let n = unsafe { libc::process_vm_readv(tid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Writes memory of a thread (process_vm_writev(2)) and returns how many bytes could be written.
///
/// # Errors
/// As [`read_memory`].
pub fn write_memory(tid: u32, address: u64, data: &[u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: data.len() };
    // SAFETY: `local` describes `data`, which the kernel only reads; `remote` is an address of another
    // process, which the kernel checks.
    let n = unsafe { libc::process_vm_writev(tid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// A pidfd of one thread (pidfd_open(2)). On kernels before 6.9, which have none of threads, it is one of the
/// thread's process: its threads share their descriptors, unless one has left them on purpose (unshare(2)).
///
/// # Errors
/// ESRCH if it is gone.
fn open_thread(tid: u32) -> io::Result<OwnedFd> {
    match pidfd_open(tid, PIDFD_THREAD) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => pidfd_open(process_of(tid)?, 0),
        result => result,
    }
}

/// The process of a thread, from `/proc/TID/status` (proc(5)).
fn process_of(tid: u32) -> io::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status"))
        .map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let id = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// The processes that are to be seen in `/proc`: those of its process-id namespace.
#[must_use]
pub fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// How many descriptors a process has room for: their numbers are below this (proc(5), `FDSize`).
#[must_use]
pub fn descriptors(process: u32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    size.and_then(|size| size.trim().parse().ok()).unwrap_or(0)
}

fn pidfd_open(pid: u32, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Duplicates descriptors of the program's threads.
#[derive(Debug, Default)]
pub struct Tasks {
    pidfds: HashMap<u32, OwnedFd>,
}

impl Tasks {
    /// No thread is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Duplicates descriptor `fd` of thread `tid` (pidfd_getfd(2)): the same open file.
    ///
    /// # Errors
    /// EBADF if the thread has no such descriptor, ESRCH if it is gone, EPERM if it may not be inspected.
    pub fn duplicate(&mut self, tid: u32, fd: i32) -> io::Result<OwnedFd> {
        if let Some(pidfd) = self.pidfds.get(&tid) {
            match get_fd(pidfd, fd) {
                // The number belongs to another thread by now.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                result => return result,
            }
        }
        let pidfd = open_thread(tid)?;
        let result = get_fd(&pidfd, fd);
        if self.pidfds.len() >= CACHED {
            self.pidfds.clear();
        }
        self.pidfds.insert(tid, pidfd);
        result
    }
}

fn get_fd(pidfd: &OwnedFd, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    #[test]
    fn memory_is_read_written_and_refused() {
        let me = std::process::id();
        let mut target = *b"surrogate";
        let at = target.as_mut_ptr() as u64;
        let mut seen = [0; 9];
        assert_eq!(read_memory(me, at, &mut seen).unwrap(), 9);
        assert_eq!(&seen, b"surrogate");
        assert_eq!(write_memory(me, at, b"S").unwrap(), 1);
        assert_eq!(std::hint::black_box(&target)[0], b'S');
        assert_eq!(read_memory(me, 8, &mut seen).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(read_memory(me, u64::MAX, &mut seen).unwrap_err().raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn a_thread_is_found_by_its_process_too() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let number = reader.as_raw_fd();
        let thread = std::thread::spawn(move || {
            // SAFETY: the call takes nothing and returns a number.
            let tid = unsafe { libc::gettid() } as u32;
            let by_process = pidfd_open(process_of(tid).unwrap(), 0).unwrap();
            get_fd(&by_process, number).unwrap();
            process_of(tid).unwrap()
        });
        assert_eq!(thread.join().unwrap(), std::process::id());
        assert_eq!(process_of(u32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_duplicate_is_the_same_open_file() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let mut tasks = Tasks::new();
        let me = std::process::id();
        let copy = tasks.duplicate(me, reader.as_raw_fd()).unwrap();
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(copy), &mut text).unwrap();
        assert_eq!(text, "x");
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "x", "the duplicate had read it");
        assert_eq!(tasks.duplicate(me, -1).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}

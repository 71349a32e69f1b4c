//! How much memory the calling process uses, and how it gives some back.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use crate::result::check;

/// A file in memory that no directory has (memfd_create(2)), closed by execve(2).
///
/// # Errors
/// EMFILE, ENOMEM
pub fn unnamed_file(name: &CStr) -> io::Result<File> {
    // SAFETY: the name ends with a zero byte; the call returns a new descriptor or -1.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Measures the memory of the calling process.
#[derive(Debug)]
pub struct Meter {
    statm: File,
    page: usize,
}

impl Meter {
    /// Opens `/proc/self/statm` (proc(5)).
    ///
    /// # Errors
    /// open(2)
    pub fn new() -> io::Result<Meter> {
        // SAFETY: the call takes an integer and returns one.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(|_| io::Error::last_os_error())?;
        Ok(Meter { statm: File::open("/proc/self/statm")?, page })
    }

    /// Bytes of memory that are the process's own: resident, and neither of a file nor shared.
    ///
    /// # Errors
    /// read(2)
    pub fn own(&self) -> io::Result<usize> {
        let mut text = [0; 128];
        let len = self.statm.read_at(&mut text, 0)?;
        let text = std::str::from_utf8(&text[..len]).map_err(io::Error::other)?;
        let mut pages = text.split_whitespace().skip(1).map_while(|word| word.parse::<usize>().ok());
        let (resident, shared) = (pages.next(), pages.next());
        let own = resident.zip(shared).map(|(resident, shared)| resident.saturating_sub(shared));
        own.map(|pages| pages * self.page).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Has all threads take their memory from one heap: that of a thread of its own would never be given back, and this
/// process's threads take turns anyway (mallopt(3)).
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes two integers, and no other thread runs yet that could allocate beside it.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the kernel back what was freed (malloc_trim(3)). Takes time with the size of the heap: not for every day.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes an integer; the allocator locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{self, Change, Wait};

    /// Takes memory and gives it back: the number of the first thing that is wrong, or 0.
    fn take_and_give_back() -> io::Result<i32> {
        const SIZE: usize = 64 << 20;
        let meter = Meter::new()?;
        let before = meter.own()?;
        let taken = std::hint::black_box(vec![1_u8; SIZE]);
        let with = meter.own()?;
        drop(taken);
        trim();
        let after = meter.own()?;
        let right = [before > 0, with >= before + SIZE / 2, after < with - SIZE / 2];
        Ok(right.iter().position(|right| !right).map_or(0, |at| at as i32 + 1))
    }

    #[test]
    fn what_is_taken_is_measured_and_what_is_given_back_too() {
        // In a process of its own: what other tests take and give back at the same time would be measured, too.
        let child = process::fork(|| take_and_give_back().unwrap_or(99)).unwrap();
        assert_eq!(process::wait(child, Wait::Block).unwrap(), Some(Change::Exited(0)));
    }
}

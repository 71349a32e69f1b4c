//! Locks on parts of files (fcntl(2), open file description locks).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::result::check;

/// Locks bytes of a file against other open files, if no other has locked one of them: whether it has. The bytes need not be
/// there. The lock ends when no descriptor of this open file is left.
///
/// # Errors
/// As fcntl(2): EBADF for a file that is not open for writing, ENOLCK.
pub fn try_range(file: &File, first: u64, count: u64) -> io::Result<bool> {
    let wrong = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: first.try_into().map_err(wrong)?,
        l_len: count.try_into().map_err(wrong)?,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and `lock` is a `struct flock` that outlives the call, which only reads it.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_has_one_holder() {
        let path = std::env::temp_dir().join(format!("netgraft-lock-{}", std::process::id()));
        let open = || File::options().write(true).create(true).truncate(false).open(&path).unwrap();
        let (first, second) = (open(), open());
        assert!(try_range(&first, u64::from(u32::MAX), 10).unwrap());
        assert!(!try_range(&second, u64::from(u32::MAX) + 9, 1).unwrap());
        assert!(try_range(&second, u64::from(u32::MAX) + 10, 1).unwrap());
        let duplicate = first.try_clone().unwrap();
        drop(first);
        assert!(!try_range(&second, u64::from(u32::MAX), 1).unwrap());
        drop(duplicate);
        // A child that another test has just forked may have one more until it ends.
        let freed = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            try_range(&second, u64::from(u32::MAX), 1).unwrap()
        });
        assert!(freed);
        assert!(try_range(&second, u64::MAX, 1).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}

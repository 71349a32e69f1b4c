//! Objects in memory files, and the dynamic linker.
//!
//! What the launcher has read and looked at is kept in memory files, dependencies and all: the sentry links
//! exactly those, in a file system that is empty.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs::File;
use std::io::{self, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libloading::os::unix::Library as Linked;

static LINKER: Mutex<()> = Mutex::new(());

/// Held while the dynamic linker works, and while a process is forked in which it will: a child that is made in the
/// middle of another thread's dlopen(3) inherits half-made lists.
pub(crate) fn linker_at_rest() -> MutexGuard<'static, ()> {
    LINKER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A shared object that is linked into this process, for good: threads may run in it, so it is never unloaded.
pub(crate) struct Library(ManuallyDrop<Linked>);

/// What the dynamic linker says.
fn text(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    source.unwrap_or_else(|| error.to_string())
}

impl Library {
    /// Links the object at a path; its constructors run here and now.
    ///
    /// # Errors
    /// What the dynamic linker says.
    pub(crate) fn open(path: &OsStr) -> Result<Library, String> {
        let _alone = linker_at_rest();
        // SAFETY: running the object's constructors is what this crate is for, and why it is called only in a child
        // process and in the sentry; all symbols are resolved now, and none of its symbols is given to others.
        let linked = unsafe { Linked::open(Some(path), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        linked.map(|l| Library(ManuallyDrop::new(l))).map_err(|e| text(&e))
    }

    /// Links an object that is open.
    ///
    /// # Errors
    /// As [`Library::open`].
    pub(crate) fn open_fd(fd: BorrowedFd<'_>) -> Result<Library, String> {
        Library::open(OsStr::new(&fd_path(fd.as_raw_fd())))
    }

    /// The address of a symbol as `T`, which must be a function pointer type.
    ///
    /// # Safety
    /// The symbol, if it is there, is a function of type `T`.
    pub(crate) unsafe fn symbol<T: Copy>(&self, name: &CStr) -> Option<T> {
        // SAFETY: the caller's promise.
        let symbol = unsafe { self.0.get::<T>(name.to_bytes_with_nul()) }.ok()?;
        Some(*symbol)
    }
}

/// A path of an open file that the dynamic linker has not seen before.
///
/// It takes an object with a name that it knows for loaded, and numbers of descriptors are used again. The bits of a
/// counter, written as `/` and `/.`, make each name differ, and mean nothing to the kernel.
fn fd_path(fd: i32) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut path = String::from("/proc/self");
    for bit in 0..u32::BITS - number.leading_zeros() {
        path.push_str(if number >> bit & 1 == 1 { "/." } else { "/" });
    }
    path.push_str(&format!("/fd/{fd}"));
    path
}

/// Copies a file to a memory file, closed by execve(2).
///
/// # Errors
/// As memfd_create(2), read(2), write(2).
pub(crate) fn memory_copy(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut title: Vec<u8> = name.bytes().filter(|b| *b != 0).take(200).collect();
    title.push(0);
    // SAFETY: the name ends in a zero byte and lives through the call.
    let fd = unsafe {
        libc::memfd_create(title.as_ptr().cast::<c_char>(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave it to us alone.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: seals are a plain number.
    if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

/// The files of the objects that are linked into this process, in the order in which they came.
pub(crate) fn linked_files() -> Vec<PathBuf> {
    unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: the dynamic linker passes a structure that it keeps, and `data` as it was given below.
        let (info, files) = unsafe { (&*info, &mut *data.cast::<Vec<PathBuf>>()) };
        if !info.dlpi_name.is_null() {
            // SAFETY: a text that the dynamic linker keeps.
            let name = unsafe { CStr::from_ptr(info.dlpi_name) };
            // The vDSO has a name and no file, and the program itself no name.
            if name.to_bytes().starts_with(b"/") {
                files.push(PathBuf::from(OsStr::from_bytes(name.to_bytes())));
            }
        }
        0
    }
    let mut files: Vec<PathBuf> = Vec::new();
    // SAFETY: `note` fits, and `files` lives through the call and has no other user meanwhile.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut files).cast()) };
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_takes_no_name_for_another() {
        let paths: Vec<String> = (0..100).map(|_| fd_path(3)).collect();
        for (i, path) in paths.iter().enumerate() {
            assert!(!paths[..i].contains(path), "{path}");
        }
    }
}

//! Mounts (mount(2)).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr;

use crate::result::{check, check_long};

/// What a mount does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and writing; no devices, programs or set-user-id files.
    Data,
    /// Reading, writing and programs; no devices or set-user-id files.
    Programs,
    /// Reading, writing and devices; no programs or set-user-id files.
    Devices,
    /// Reading; no devices, programs or set-user-id files.
    ReadOnly,
}

impl Access {
    const fn flags(self) -> libc::c_ulong {
        let data = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        match self {
            Access::Data => data,
            Access::Programs => libc::MS_NOSUID | libc::MS_NODEV,
            Access::Devices => libc::MS_NOSUID | libc::MS_NOEXEC,
            Access::ReadOnly => data | libc::MS_RDONLY,
        }
    }
}

/// Mounts a new file system of a kernel type that has no device, such as proc or tmpfs.
///
/// # Errors
/// As mount(2); EPERM where the user namespace may not see what it would reveal.
pub fn mount_new(kind: &CStr, target: &Path, access: Access, options: &CStr) -> io::Result<()> {
    let target = text(target)?;
    // SAFETY: all strings end with a zero byte and outlive the call.
    check(unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            access.flags(),
            options.as_ptr().cast::<libc::c_void>(),
        )
    })
    .map(drop)
}

/// Shows a file or directory at another place too (`MS_BIND`).
///
/// # Errors
/// As mount(2).
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    let (source, target) = (text(source)?, text(target)?);
    // SAFETY: the strings end with a zero byte and outlive the call; type and data are unused for a bind.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null()) })
        .map(drop)
}

/// Keeps mounts of this mount namespace from spreading to others, and those of others from here (`MS_PRIVATE`).
///
/// # Errors
/// As mount(2).
pub fn make_private() -> io::Result<()> {
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the string is a constant; the other arguments are unused for a change of propagation.
    check(unsafe { libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), flags, ptr::null()) }).map(drop)
}

/// Makes a mount read-only (`MS_REMOUNT`).
///
/// # Errors
/// As mount(2).
pub fn make_read_only(target: &Path) -> io::Result<()> {
    let target = text(target)?;
    let flags = Access::ReadOnly.flags() | libc::MS_REMOUNT;
    // SAFETY: as in `bind`; a remount has no source.
    check(unsafe { libc::mount(ptr::null(), target.as_ptr(), ptr::null(), flags, ptr::null()) }).map(drop)
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Makes a mount, or it and all below it, read-only through this place (mount_setattr(2), Linux 5.12). Other places where
/// the same is mounted stay as they are.
///
/// # Errors
/// As mount_setattr(2); EINVAL for what is no mount point.
pub fn make_place_read_only(target: &Path, with_all_below: bool) -> io::Result<()> {
    let flags = if with_all_below { libc::AT_RECURSIVE } else { 0 };
    set_read_only(libc::AT_FDCWD, &text(target)?, flags)
}

fn set_read_only(directory: i32, path: &CStr, flags: i32) -> io::Result<()> {
    const RDONLY: u64 = 1;
    let attributes = Attributes { set: RDONLY, clear: 0, propagation: 0, userns: 0 };
    // SAFETY: the path ends with a zero byte; the structure is readable and as long as is said; both outlive the call.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    })
    .map(drop)
}

/// A file or directory and all that is mounted below it, picked up and shown nowhere yet (open_tree(2)).
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Tree {
    /// Picks up what is at a path.
    ///
    /// # Errors
    /// As open_tree(2).
    pub fn of(path: &Path) -> io::Result<Tree> {
        let path = text(path)?;
        let flags = libc::OPEN_TREE_CLONE as i32 | libc::OPEN_TREE_CLOEXEC as i32 | libc::AT_RECURSIVE;
        // SAFETY: the path ends with a zero byte and outlives the call.
        let fd =
            check_long(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
        // SAFETY: the kernel just gave this descriptor to us alone.
        Ok(Tree(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Makes all of it read-only, where it will be shown.
    ///
    /// # Errors
    /// As mount_setattr(2).
    pub fn make_read_only(&self) -> io::Result<()> {
        set_read_only(self.0.as_raw_fd(), c"", libc::AT_EMPTY_PATH | libc::AT_RECURSIVE)
    }

    /// Shows it at a place, which must exist and be of the same kind (move_mount(2)).
    ///
    /// # Errors
    /// As move_mount(2): ENOENT, ENOTDIR.
    pub fn show_at(self, place: &Path) -> io::Result<()> {
        let place = text(place)?;
        // SAFETY: both paths end with a zero byte and outlive the call.
        check_long(unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                place.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        })
        .map(drop)
    }
}

/// Takes a mount out of the tree; it ends when nobody uses it (`MNT_DETACH`, umount2(2)).
///
/// # Errors
/// As umount2(2).
pub fn detach(target: &Path) -> io::Result<()> {
    let target = text(target)?;
    // SAFETY: the string ends with a zero byte and outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// Makes the working directory, a mount point, the root of the mount namespace, and drops the old root
/// (pivot_root(2), "pivot_root(".", ".")").
///
/// # Errors
/// As pivot_root(2); EINVAL if the old root is the initial ram disk.
pub fn pivot_to_working_directory() -> io::Result<()> {
    let here = c".".as_ptr();
    // SAFETY: the strings are constants.
    check_long(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) })?;
    detach(Path::new("."))?;
    std::env::set_current_dir("/")
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_encoded_bytes())?)
}

//! Landlock (landlock(7)): what a process may still do to files, on top of all other checks.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::result::check_long;

/// Rights to change something, by the version of Landlock that has them first.
const WRITE_1: u64 = 1 << 1 // WRITE_FILE
    | 0x1ff0; // REMOVE_DIR, REMOVE_FILE, MAKE_CHAR to MAKE_SYM
const REFER: u64 = 1 << 13; // version 2
const TRUNCATE: u64 = 1 << 14; // version 3
/// Those that a file that is no directory can have.
const OF_FILE: u64 = 1 << 1 | TRUNCATE;
/// Abstract AF_UNIX sockets and signals of others, version 6.
const SCOPES: u64 = 1 | 2;

/// `struct landlock_ruleset_attr`
#[repr(C)]
struct RulesetAttr {
    files: u64,
    network: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`, which is packed.
#[repr(C, packed)]
struct BeneathAttr {
    allowed: u64,
    parent: i32,
}

/// The version that the kernel has; 0 for none.
#[must_use]
pub fn version() -> i64 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag and no structure the call reads no memory.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<RulesetAttr>(), 0_usize, VERSION)
    };
    version.max(0)
}

/// Lets the calling thread and what it starts write, make and remove files below these places only, for good; and, where the
/// kernel can, reach no abstract AF_UNIX socket and signal no process that is not under the same rules. `no_new_privs` must
/// be set. Places that do not exist are left out. `false` if the kernel has no Landlock.
///
/// # Errors
/// As landlock_restrict_self(2).
pub fn write_only_below(places: &[&Path]) -> io::Result<bool> {
    let version = version();
    if version < 1 {
        return Ok(false);
    }
    let mut rights = WRITE_1;
    rights |= if version >= 2 { REFER } else { 0 };
    rights |= if version >= 3 { TRUNCATE } else { 0 };
    let attr = RulesetAttr { files: rights, network: 0, scoped: if version >= 6 { SCOPES } else { 0 } };
    // Older kernels refuse a structure with what they do not know, unless it is zero.
    // SAFETY: the structure is readable and of the size that is said.
    let ruleset = check_long(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of::<RulesetAttr>(), 0_u32)
    })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset as i32) };
    for place in places {
        let Ok(place) = File::options().read(true).custom_flags(libc::O_PATH).open(place) else { continue };
        let allowed = if place.metadata()?.is_dir() { rights } else { rights & OF_FILE };
        let beneath = BeneathAttr { allowed, parent: place.as_fd().as_raw_fd() };
        const PATH_BENEATH: u32 = 1;
        // SAFETY: the structure is of the type that the number names, and lives through the call.
        check_long(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                ruleset.as_raw_fd(),
                PATH_BENEATH,
                &raw const beneath,
                0_u32,
            )
        })?;
    }
    // SAFETY: integers only.
    check_long(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Change, Wait, fork, wait};

    #[test]
    fn files_are_written_below_the_places_only() {
        assert!(version() > 0, "this kernel has no Landlock: the test needs one that does");
        let folder = std::env::temp_dir().join(format!("netgraft-landlock-{}", std::process::id()));
        let (open, shut) = (folder.join("open"), folder.join("shut"));
        std::fs::create_dir_all(&open).unwrap();
        std::fs::create_dir_all(&shut).unwrap();
        std::fs::write(shut.join("there"), "x").unwrap();
        let child = fork(|| {
            let ready = crate::confine::no_new_privileges()
                .and_then(|()| write_only_below(&[&open, &folder.join("none")]));
            let writes = |place: &Path| std::fs::write(place, "y").is_ok();
            let results = [
                ready.is_ok_and(|done| done),
                writes(&open.join("new")),
                !writes(&shut.join("new")),
                !writes(&shut.join("there")),
                std::fs::remove_file(shut.join("there")).is_err(),
                std::fs::read(shut.join("there")).is_ok(),
                std::fs::rename(shut.join("there"), open.join("moved")).is_err(),
            ];
            results.iter().position(|good| !good).map_or(0, |at| at as i32 + 1)
        });
        let end = wait(child.unwrap(), Wait::Block).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(end, Some(Change::Exited(0)));
    }
}

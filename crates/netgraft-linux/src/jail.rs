//! A place with nothing in it, for code from outside that is to compute and to make no more of the host than that.

use std::fs;
use std::io;
use std::path::Path;

use crate::mount::{self, Access};
use crate::namespace::{IdMaps, Namespaces, unshare};
use crate::{capability, confine, process};

/// The user and group that the caller becomes where it may ("nobody").
pub const NOBODY: u32 = 65534;

/// Leaves the host behind, for good: network, IPC and host name namespaces with nothing in them, a read-only root directory
/// with nothing in it but `/proc` with the caller's own process-id namespace, user and group [`NOBODY`] if the caller was
/// root, no capability, and none to be gained. Descriptors stay open.
///
/// The caller has one thread, and is in a process-id namespace that was made for it ([`crate::cage::Ids::Own`]).
///
/// # Errors
/// What the kernel refuses. The caller must then end: it may have a part of its rights.
pub fn enter() -> io::Result<()> {
    let others = Namespaces::MOUNT | Namespaces::NET | Namespaces::IPC | Namespaces::UTS;
    let (_, user, _, group) = process::ids();
    if unshare(others).is_err() {
        unshare(Namespaces::USER | others)?;
        IdMaps::One { user, group }.write_own()?;
    }
    // Without a user namespace of its own, what is mounted here would be mounted there, too.
    mount::make_private()?;
    empty_root()?;
    if user == 0 {
        match capability::become_user(NOBODY, NOBODY) {
            // A user namespace with no such id, or whose groups nobody may change, as in those that ordinary users make
            // (user_namespaces(7)): root in it is somebody else outside.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            Err(e) if e.raw_os_error() == Some(libc::EPERM) && are_groups_fixed() => {}
            other => other?,
        }
    }
    capability::drop_all()?;
    confine::no_new_privileges()?;
    confine::not_dumpable()?;
    confine::die_with_parent()?;
    confine::no_core_file()
}

/// Whether the user namespace refuses setgroups(2) to everybody.
fn are_groups_fixed() -> bool {
    fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim_end() == "deny")
}

/// Makes a read-only root directory with nothing in it but `/proc`, and drops the one before.
fn empty_root() -> io::Result<()> {
    // The one directory that is there in every sandboxable system.
    let root = Path::new("/proc");
    mount::mount_new(c"tmpfs", root, Access::Data, c"size=4k,mode=755")?;
    fs::create_dir(root.join("proc"))?;
    mount::mount_new(c"proc", &root.join("proc"), Access::ReadOnly, c"subset=pid")?;
    std::env::set_current_dir(root)?;
    mount::pivot_to_working_directory()?;
    mount::make_read_only(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cage::{Cage, Ids, Rest};
    use crate::fdpass::wait_readable;
    use crate::process::{Change, Wait};
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    /// Who enters the place.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Caller {
        Root,
        Ordinary,
        /// Root of a user namespace that has no other id.
        Alone,
    }

    /// What is wrong with the place: 0 is nothing.
    fn faults(caller: Caller) -> i32 {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = |name: &str| status.lines().find(|l| l.starts_with(name)).unwrap_or("").to_owned();
        let root: Vec<_> = fs::read_dir("/").into_iter().flatten().flatten().map(|e| e.file_name()).collect();
        let checks = [
            (process::ids().0 == 0) == (caller == Caller::Alone),
            line("CapEff").ends_with("0000000000000000") && line("CapBnd").ends_with("0000000000000000"),
            line("NoNewPrivs").ends_with('1'),
            root == ["proc"],
            File::create("/x").is_err() && fs::create_dir("/proc/x").is_err(),
            fs::metadata("/etc/passwd").is_err() && fs::metadata("/proc/sys").is_err(),
            unshare(Namespaces::MOUNT).is_err(),
        ];
        checks.iter().position(|good| !good).map_or(0, |at| at as i32 + 1)
    }

    fn caged(caller: Caller) -> i32 {
        let Ok(cage) =
            Cage::new(Ids::Own, Rest::Ended, || if enter().is_err() { 99 } else { faults(caller) })
        else {
            return 98;
        };
        let _ = wait_readable([Some(cage.ended())], Some(Duration::from_secs(60)));
        match cage.change() {
            Some(Change::Exited(status)) => status,
            _ => 97,
        }
    }

    #[test]
    fn nothing_of_the_host_is_left() {
        let proc_before = fs::metadata("/proc").unwrap().dev();
        for caller in [Caller::Root, Caller::Ordinary, Caller::Alone] {
            let child = process::fork(|| {
                let become_caller = || match caller {
                    Caller::Root => Ok(()),
                    // Who gives up capabilities is not dumpable (prctl(2)), and then may not write its own id map.
                    Caller::Ordinary => capability::become_user(NOBODY, NOBODY)
                        .and_then(|()| capability::drop_all())
                        .and_then(|()| confine::dumpable()),
                    Caller::Alone => {
                        unshare(Namespaces::USER).and_then(|()| IdMaps::One { user: 0, group: 0 }.write_own())
                    }
                };
                if become_caller().is_err() { 96 } else { caged(caller) }
            });
            let status = process::wait(child.unwrap(), Wait::Block).unwrap();
            assert_eq!(status, Some(Change::Exited(0)), "{caller:?}");
        }
        assert_eq!(fs::metadata("/proc").unwrap().dev(), proc_before, "the caller's mounts are as before");
    }
}

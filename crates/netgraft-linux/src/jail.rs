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
            // A user namespace with no such id: root in it is somebody else outside.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            other => other?,
        }
    }
    capability::drop_all()?;
    confine::no_new_privileges()?;
    confine::not_dumpable()?;
    confine::die_with_parent()?;
    confine::no_core_file()
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

    /// What is wrong with the place: 0 is nothing.
    fn faults() -> i32 {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = |name: &str| status.lines().find(|l| l.starts_with(name)).unwrap_or("").to_owned();
        let root: Vec<_> = fs::read_dir("/").into_iter().flatten().flatten().map(|e| e.file_name()).collect();
        let checks = [
            process::ids().0 != 0,
            line("CapEff").ends_with("0000000000000000") && line("CapBnd").ends_with("0000000000000000"),
            line("NoNewPrivs").ends_with('1'),
            root == ["proc"],
            File::create("/x").is_err() && fs::create_dir("/proc/x").is_err(),
            fs::metadata("/etc/passwd").is_err() && fs::metadata("/proc/sys").is_err(),
            unshare(Namespaces::MOUNT).is_err(),
        ];
        checks.iter().position(|good| !good).map_or(0, |at| at as i32 + 1)
    }

    fn caged() -> i32 {
        let Ok(cage) = Cage::new(Ids::Own, Rest::Ended, || if enter().is_err() { 99 } else { faults() })
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
        for root in [true, false] {
            let child = process::fork(|| {
                let ordinary =
                    || capability::become_user(NOBODY, NOBODY).and_then(|()| capability::drop_all());
                // Who gives up capabilities is not dumpable (prctl(2)), and then may not write its own id map.
                if !root && ordinary().and_then(|()| confine::dumpable()).is_err() { 96 } else { caged() }
            });
            assert_eq!(
                process::wait(child.unwrap(), Wait::Block).unwrap(),
                Some(Change::Exited(0)),
                "root: {root}"
            );
        }
        assert_eq!(fs::metadata("/proc").unwrap().dev(), proc_before, "the caller's mounts are as before");
    }
}

//! The files that a program sees and may change: another root directory, places from the host, what is read-only.
//!
//! All of it happens in the program's own mount namespace, before it is executed. What is shown from the host is picked up
//! first, as detached mounts, and put into place last, under the new root directory: a link in a foreign root directory
//! leads nowhere else then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use netgraft_linux::landlock;
use netgraft_linux::mount::{self, Access, Tree};

use crate::spec::{Bind, Files};

/// The devices that every program may use.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// The device by which a program serves a file system of its own: what it does not answer, whoever looks at such files waits
/// for, the sentry among them.
const FUSE: &str = "/dev/fuse";

/// Hides the device for file systems of a program's own: it is there for who shows it with a bind of this very place.
///
/// # Errors
/// As mount(2).
pub(super) fn hide_fuse() -> io::Result<()> {
    if Path::new(FUSE).exists() { mount::bind(Path::new("/dev/null"), Path::new(FUSE)) } else { Ok(()) }
}

/// Lays the files out. Answers where the program may write, if not wherever its user may.
///
/// # Errors
/// What could not be done, with its place.
pub(super) fn lay_out(files: &Files, contained: bool) -> io::Result<()> {
    if files.read_only || files.root.is_some() {
        // What the host mounts later could be written.
        mount::make_private()?;
    }
    if files.binds.iter().any(|bind| bind.source == Path::new(FUSE)) {
        // Where the host has none the bind says so.
        let _ = mount::detach(Path::new(FUSE));
    }
    let pick = |path: &Path| Tree::of(path).map_err(|e| at(path, &e));
    let binds: Vec<(Tree, &Bind)> = files
        .binds
        .iter()
        .map(|bind| pick(&bind.source).map(|tree| (tree, bind)))
        .collect::<io::Result<_>>()?;
    match &files.root {
        Some(root) => new_root(root, files.read_only, contained)?,
        None if files.read_only => {
            mount::make_place_read_only(Path::new("/"), true).map_err(|e| at(Path::new("/"), &e))?;
            // What was read-only before stays so; /proc is the sandbox's own.
            mount::mount_new(c"proc", Path::new("/proc"), Access::Data, c"")
                .map_err(|e| at(Path::new("/proc"), &e))?;
            protect(contained)?;
        }
        None => {}
    }
    for place in &files.tmpfs {
        mount::mount_new(c"tmpfs", place, Access::Programs, c"mode=1777").map_err(|e| at(place, &e))?;
    }
    for (tree, bind) in binds {
        if bind.read_only {
            tree.make_read_only().map_err(|e| at(&bind.source, &e))?;
        }
        tree.show_at(&bind.target).map_err(|e| at(&bind.target, &e))?;
    }
    Ok(())
}

/// Makes this directory the root directory, with /proc, /sys and /dev as far as it has places for them.
fn new_root(root: &Path, read_only: bool, contained: bool) -> io::Result<()> {
    let failed = |e: io::Error| at(root, &e);
    let sys = Tree::of(Path::new("/sys")).ok();
    let resolv = Tree::of(Path::new("/etc/resolv.conf")).ok();
    let devices: Vec<(Tree, &str)> = DEVICES
        .iter()
        .filter_map(|name| Tree::of(&Path::new("/dev").join(name)).ok().map(|tree| (tree, *name)))
        .collect();
    let tree = Tree::of(root).map_err(failed)?;
    if read_only {
        tree.make_read_only().map_err(failed)?;
    }
    // On top of what every system has; only this mount namespace sees it.
    let place = Path::new("/proc");
    tree.show_at(place).map_err(failed)?;
    std::env::set_current_dir(place).map_err(failed)?;
    // /proc of the sandbox, while there is an old one in sight (user_namespaces(7)).
    if Path::new("proc").is_dir() {
        mount::mount_new(c"proc", Path::new("proc"), Access::Data, c"").map_err(failed)?;
    }
    mount::pivot_to_working_directory().map_err(failed)?;
    if let Some(sys) = sys.filter(|_| Path::new("/sys").is_dir()) {
        sys.show_at(Path::new("/sys")).map_err(failed)?;
    }
    if Path::new("/dev").is_dir() {
        mount::mount_new(c"tmpfs", Path::new("/dev"), Access::Devices, c"mode=755,size=64k")
            .map_err(failed)?;
        for (tree, name) in devices {
            let node = Path::new("/dev").join(name);
            fs::write(&node, "").map_err(failed)?;
            tree.show_at(&node).map_err(failed)?;
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "fd/0"),
            ("stdout", "fd/1"),
            ("stderr", "fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            std::os::unix::fs::symlink(target, Path::new("/dev").join(name)).map_err(failed)?;
        }
        for folder in ["shm", "pts"] {
            fs::create_dir(Path::new("/dev").join(folder)).map_err(failed)?;
        }
        mount::mount_new(c"tmpfs", Path::new("/dev/shm"), Access::Data, c"mode=1777").map_err(failed)?;
        let options = c"newinstance,ptmxmode=0666,mode=0620";
        mount::mount_new(c"devpts", Path::new("/dev/pts"), Access::Devices, options).map_err(failed)?;
    }
    if let Some(resolv) = resolv.filter(|_| Path::new("/etc/resolv.conf").exists()) {
        resolv.show_at(Path::new("/etc/resolv.conf")).map_err(failed)?;
    }
    if Path::new("/proc/self").exists() {
        protect(contained)?;
    }
    Ok(())
}

/// Makes read-only what the kernel shows of the host in /proc and /sys, but for the settings of the sandbox's network, where
/// root inside could write it.
pub(super) fn protect(contained: bool) -> io::Result<()> {
    if !contained {
        return Ok(());
    }
    for name in ["sys", "bus", "fs", "irq", "acpi", "scsi", "sysrq-trigger"] {
        let place = Path::new("/proc").join(name);
        if !place.exists() {
            continue;
        }
        mount::bind(&place, &place)?;
        if name == "sys" {
            let own = place.join("net");
            mount::bind(&own, &own)?;
        }
        mount::make_place_read_only(&place, false)?;
    }
    if Path::new("/sys/kernel").exists() {
        mount::make_place_read_only(Path::new("/sys"), true)
    } else {
        Ok(())
    }
}

/// Keeps the program from changing anything but what was given to it, where the kernel has Landlock.
///
/// # Errors
/// As landlock_restrict_self(2).
pub(super) fn restrict(files: &Files) -> io::Result<()> {
    if !files.read_only {
        return Ok(());
    }
    let mut places: Vec<&Path> = vec![Path::new("/dev"), Path::new("/proc")];
    places.extend(files.tmpfs.iter().map(PathBuf::as_path));
    places.extend(files.binds.iter().filter(|bind| !bind.read_only).map(|bind| bind.target.as_path()));
    landlock::write_only_below(&places).map(drop)
}

/// An error with the place where it happened.
fn at(place: &Path, error: &io::Error) -> io::Error {
    // The report to the launcher has a number only; who runs this in a terminal sees the place.
    tracing::error!("{}: {error}", place.display());
    io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

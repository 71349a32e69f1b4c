//! The operator's way to a running sandbox: a socket in the file system ([`crate::operator`] says what is spoken there).
//!
//! The launcher listens, looks who has connected and hands the connection to the sentry, which answers by itself. So the
//! launcher reads nothing of either side, and neither can keep it waiting.
//!
//! **Nothing of it is reached from inside.** A program may see the file, for it sees the caller's files and an ordinary user's
//! programs are that user. So the kernel is asked who has connected, and a process in another user namespace than the
//! launcher's own, as all of a sandbox's are, is turned away. The other way round [`is_outside`] tells a client that what
//! listens is no program of a sandbox.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use netgraft_linux::peer::Peer;
use netgraft_linux::{process, unix};

/// Where root's sandboxes are.
const OF_ROOT: &str = "/run/netgraft";
/// Where those of others are who have no folder of their own for such (`XDG_RUNTIME_DIR`); the user id follows.
const TEMPORARY: &str = "/tmp/netgraft-";
/// What a socket's name ends in.
const ENDING: &str = ".sock";
/// How many sandboxes one process may have that are found by name.
const MOST: u32 = 256;

/// The socket of a sandbox. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Makes the socket of a sandbox of this process: `PID.sock` in the first folder that can be had, `PID-2.sock` if this
    /// process has one already.
    ///
    /// # Errors
    /// Why there is no folder, or no socket.
    pub(crate) fn open() -> io::Result<Door> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for place in places() {
            match place.make().and_then(|()| Door::open_in(&place.path)) {
                Ok(door) => return Ok(door),
                Err(error) => {
                    last = io::Error::new(error.kind(), format!("{}: {error}", place.path.display()))
                }
            }
        }
        Err(last)
    }

    fn open_in(folder: &Path) -> io::Result<Door> {
        let pid = std::process::id();
        // A name that is there is one that answers: the file gets its name when it listens.
        let hidden = folder.join(format!(".{pid}"));
        let _ = fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden)?;
        let named = fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| free_name(folder, pid))
            .and_then(|path| fs::rename(&hidden, &path).map(|()| path));
        match named {
            Ok(path) => Ok(Door { listener, path }),
            Err(error) => {
                let _ = fs::remove_file(&hidden);
                Err(error)
            }
        }
    }

    /// What becomes readable when somebody connects.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Takes one who has connected; `None` if there is none, or it is not let in.
    pub(crate) fn admit(&self) -> Option<OwnedFd> {
        let (client, _) = self.listener.accept().ok()?;
        client.set_nonblocking(true).ok()?;
        is_outside(client.as_fd()).then(|| client.into())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        if let Some(folder) = self.path.parent() {
            leave(folder);
        }
    }
}

/// A folder in /tmp is not left behind empty; it is made again by whoever needs it.
fn leave(folder: &Path) {
    if folder.as_os_str().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
        let _ = fs::remove_dir(folder);
    }
}

/// A name in a folder that no sandbox which runs has.
fn free_name(folder: &Path, pid: u32) -> io::Result<PathBuf> {
    let name = |number| match number {
        1 => format!("{pid}{ENDING}"),
        more => format!("{pid}-{more}{ENDING}"),
    };
    // One whose queue is full lives.
    let is_free = |path: &PathBuf| {
        !path.exists() || matches!(connect_now(path), Err(error) if error.kind() != io::ErrorKind::WouldBlock)
    };
    let free = (1..=MOST).map(|number| folder.join(name(number))).find(is_free);
    free.ok_or_else(|| io::ErrorKind::AlreadyExists.into())
}

/// Whether the other end of a socket is a process of this one's own user namespace, or of root's or one that no namespace
/// of ours holds: not one of a sandbox.
#[must_use]
pub fn is_outside(socket: BorrowedFd<'_>) -> bool {
    let Ok(peer) = Peer::of(socket) else { return false };
    let (_, own, ..) = process::ids();
    if peer.pid == 0 {
        return true;
    }
    if peer.user != own {
        // What root of the host is, a sandbox's process is to nobody but root itself, which looks below.
        return peer.user == 0;
    }
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/user"));
    match (namespace("self"), namespace(&peer.pid.to_string())) {
        // In this order: its id may have become another's meanwhile.
        (Ok(own), Ok(peers)) => own == peers && !peer.has_ended(),
        _ => false,
    }
}

/// A folder for sockets.
struct Place {
    path: PathBuf,
}

impl Place {
    /// Makes it if it is not there, and sees to it that it is the caller's alone.
    fn make(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.check()
    }

    /// Sees to it that it is the caller's alone: what others put there is nothing to connect to, to show or to remove.
    fn check(&self) -> io::Result<()> {
        let found = fs::symlink_metadata(&self.path)?;
        let (_, own, ..) = process::ids();
        if !found.is_dir() || found.uid() != own || found.mode() & 0o077 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it is no directory of the caller's alone (mode 700)",
            ));
        }
        Ok(())
    }
}

/// Where sockets may be, the best place first.
fn places() -> impl Iterator<Item = Place> {
    let (_, own, ..) = process::ids();
    let root = (own == 0).then(|| PathBuf::from(OF_ROOT));
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let runtime = runtime.map(|path| path.join("netgraft"));
    let temporary = move || PathBuf::from(format!("{TEMPORARY}{}", outer_id(own)));
    root.into_iter().chain(runtime).chain(std::iter::once_with(temporary)).map(|path| Place { path })
}

/// A user id as the user namespace outside of this one has it (user_namespaces(7)): root of a namespace of its own is not the
/// only one who is called that.
fn outer_id(own: u32) -> u32 {
    let maps = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let outer = |line: &str| {
        let mut numbers = line.split_whitespace().map_while(|number| number.parse::<u32>().ok());
        let (inside, outside, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let offset = own.checked_sub(inside).filter(|&offset| offset < count)?;
        outside.checked_add(offset)
    };
    maps.lines().find_map(outer).unwrap_or(own)
}

/// The caller's sandboxes that run, by the names of their sockets without the ending. What sandboxes have left that were
/// killed is removed.
#[must_use]
pub fn sandboxes() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for Place { path: folder } in places().filter(|place| place.check().is_ok()) {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(ENDING)) else {
                continue;
            };
            // A program of the caller's own may put other things there.
            if !is_name(name) || !is_socket(&path) {
                continue;
            }
            if is_stale(&path) {
                remove_stale(&folder, &path);
            } else {
                found.push((name.to_owned(), path.clone()));
            }
        }
    }
    // By number, as process ids are.
    found.sort_by_key(|(name, _)| (name.len(), name.clone()));
    found.dedup_by(|a, b| a.1 == b.1);
    found
}

fn is_stale(path: &Path) -> bool {
    matches!(connect_now(path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Connects, without waiting for room in a listener's queue.
fn connect_now(path: &Path) -> io::Result<UnixStream> {
    unix::connect_path(path).map(UnixStream::from)
}

/// Whether a sandbox's socket can have such a name: a process id, and perhaps a number.
fn is_name(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.split_once('-').map_or_else(|| is_number(name), |(pid, number)| is_number(pid) && is_number(number))
}

/// Whether it is a socket, and no link to one.
fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Removes the socket of a sandbox that is gone. One who does that at a time: the name may be another's by then.
fn remove_stale(folder: &Path, path: &Path) {
    let Ok(lock) = File::open(folder) else { return };
    if lock.try_lock().is_ok() && is_stale(path) {
        let _ = fs::remove_file(path);
        leave(folder);
    }
}

/// Connects to a sandbox.
///
/// # Errors
/// One line: there is no such sandbox, or what listens is no sandbox of the caller's.
pub fn connect(sandbox: &str) -> Result<UnixStream, String> {
    let wanted = format!("{sandbox}{ENDING}");
    if !is_name(sandbox) {
        return Err(format!("'{sandbox}' is no sandbox: 'netgraft list' shows which run"));
    }
    let own = places().filter(|place| place.check().is_ok());
    let path = own.map(|place| place.path.join(&wanted)).find(|path| is_socket(path));
    let path = path.ok_or_else(|| format!("no sandbox '{sandbox}' runs: 'netgraft list' shows which do"))?;
    let stream = connect_now(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => format!("the sandbox '{sandbox}' takes nobody now: try again"),
        io::ErrorKind::ConnectionRefused => {
            format!("the sandbox '{sandbox}' was killed: 'netgraft list' shows which run")
        }
        _ => format!("{}: {error}", path.display()),
    })?;
    if is_outside(stream.as_fd()) {
        Ok(stream)
    } else {
        Err(format!("{} was made by a program of a sandbox and is not used; remove it", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_has_a_name_while_it_lives() {
        let folder = std::env::temp_dir().join(format!("netgraft-door-{}", std::process::id()));
        let place = Place { path: folder.clone() };
        place.make().unwrap();
        let (first, second) = (Door::open_in(&folder).unwrap(), Door::open_in(&folder).unwrap());
        let pid = std::process::id();
        assert_eq!(first.path, folder.join(format!("{pid}.sock")));
        assert_eq!(second.path, folder.join(format!("{pid}-2.sock")));
        assert_eq!(fs::metadata(&first.path).unwrap().mode() & 0o777, 0o600);
        let client = UnixStream::connect(&first.path).unwrap();
        assert!(is_outside(client.as_fd()), "this process is in its own user namespace");
        // The connections that looked for a name come first.
        while first.admit().is_some() {}
        let gone = first.path.clone();
        drop(first);
        assert!(!gone.exists());
        let path = second.path.clone();
        std::mem::forget(second);
        assert!(!is_stale(&path));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_folder_of_others_is_not_used() {
        let folder = std::env::temp_dir().join(format!("netgraft-open-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let made = Place { path: folder.clone() }.make();
        fs::remove_dir(&folder).unwrap();
        assert_eq!(made.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}

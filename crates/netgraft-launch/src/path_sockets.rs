//! `--no-path-sockets` where datagram sockets are surrogates: a send that the kernel serves, on a descriptor that another thread turns
//! to such a surrogate meanwhile, reaches an AF_UNIX datagram socket that is in sight. So none may be.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use netgraft_linux::filter::Sockets;
use netgraft_linux::task;

use crate::error::RunError;
use crate::spec::Files;

/// The columns of `/proc/net/unix` before the type of a socket, and between that and its path (proc_net_unix(5)).
const BEFORE_TYPE: usize = 4;
const BEFORE_PATH: usize = 2;
/// `SOCK_DGRAM` there.
const DATAGRAM: &[u8] = b"0002";

/// Refuses a program that may make no AF_UNIX sockets and could reach one.
///
/// # Errors
/// [`RunError::Options`] with its path.
pub(super) fn check(files: &Files, sockets: Sockets) -> Result<(), RunError> {
    if !files.no_path_sockets || sockets != Sockets::Surrogates {
        return Ok(());
    }
    let Some(path) = in_sight(files) else { return Ok(()) };
    let above = path.parent().filter(|above| above.is_absolute()).unwrap_or(Path::new("/run"));
    Err(RunError::Options(format!(
        "--no-path-sockets cannot keep the program from the socket {} where the stack carries datagrams: add --tmpfs {}",
        path.display(),
        above.display()
    )))
}

/// A datagram socket whose path the program would see, if there is one: of any network namespace that a process is in which the caller
/// sees.
fn in_sight(files: &Files) -> Option<PathBuf> {
    let mut looked_at = HashSet::new();
    let own = std::iter::once("self".to_owned());
    let processes = task::processes().into_iter().map(|process| process.to_string());
    for process in own.chain(processes) {
        // There is one such directory for each network namespace.
        let place = format!("/proc/{process}/net");
        let Some(namespace) = std::fs::metadata(&place).ok().map(|place| place.ino()) else { continue };
        if looked_at.insert(namespace)
            && let Ok(sockets) = std::fs::read(format!("{place}/unix"))
            && let Some(path) = first_in_sight(files, &sockets)
        {
            return Some(path);
        }
    }
    None
}

fn first_in_sight(files: &Files, sockets: &[u8]) -> Option<PathBuf> {
    // A path may have any bytes but those that end it: a line break in it makes a second line, which is none.
    let mut paths = sockets.split(|&byte| byte == b'\n').filter_map(path_of_datagrams);
    paths.find(|path| is_in_sight(files, path)).map(Path::to_owned)
}

/// The path of the datagram socket that a line is about.
fn path_of_datagrams(line: &[u8]) -> Option<&Path> {
    let (_, rest) = columns(line, BEFORE_TYPE)?;
    let (kind, rest) = columns(rest, 1)?;
    let (_, path) = columns(rest, BEFORE_PATH)?;
    // An abstract name is of a network namespace.
    let is_path = kind == DATAGRAM && !path.is_empty() && !path.starts_with(b"@");
    is_path.then(|| Path::new(OsStr::from_bytes(path)))
}

/// The last of some columns of a line, and what follows it and a space.
fn columns(line: &[u8], count: usize) -> Option<(&[u8], &[u8])> {
    let (mut last, mut rest) = (&[][..], line);
    for _ in 0..count {
        rest = rest.trim_ascii_start();
        let end = rest.iter().position(|&byte| byte == b' ')?;
        (last, rest) = (rest.get(..end)?, rest.get(end + 1..)?);
    }
    Some((last, rest))
}

/// Whether a program sees a file. One whose path is relative may be anywhere.
fn is_in_sight(files: &Files, path: &Path) -> bool {
    // As they are without links in them; what is not there hides and shows nothing.
    let is_below = |above: &Path| above.canonicalize().is_ok_and(|above| path.starts_with(above));
    if path.is_relative() || files.binds.iter().any(|bind| is_below(&bind.source)) {
        return true;
    }
    match &files.root {
        Some(root) => is_below(root),
        None => !files.tmpfs.iter().any(|above| is_below(above)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Bind;

    /// What there is: sockets of streams, with an abstract name, without a name, and below a directory.
    fn sockets(folder: &Path) -> Vec<u8> {
        let mut text = b"\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 11111 /run/dbus/system_bus_socket
0000000000000000: 00000003 00000000 00000000 0002 01 22222 @/tmp/abstract
0000000000000000: 00000002 00000000 00000000 0001 01 22223 /not\xffutf8
0000000000000000: 00000002 00000000 00000000 0002 01    333
0000000000000000: 00000002 00000000 00000000 0002 01   4444 "
            .to_vec();
        text.extend(folder.as_os_str().as_bytes());
        text.extend(b"/a log/dev-log\n");
        text
    }

    #[test]
    fn a_datagram_socket_is_in_sight_unless_a_mount_hides_it() {
        let base = std::env::temp_dir().join(format!("netgraft-sight-{}", std::process::id()));
        let folder = base.join("run");
        std::fs::create_dir_all(folder.join("a log")).unwrap();
        std::os::unix::fs::symlink(&folder, base.join("link")).unwrap();
        let folder = folder.canonicalize().unwrap();
        let seen = |files: &Files| first_in_sight(files, &sockets(&folder));
        let log = Some(folder.join("a log/dev-log"));
        let hidden = Files { tmpfs: vec![folder.clone()], ..Files::default() };
        let shown = |source: PathBuf| Bind { source, target: "/log".into(), read_only: true };
        assert_eq!(seen(&Files::default()), log);
        assert_eq!(seen(&Files { tmpfs: vec!["/proc".into()], ..Files::default() }), log);
        assert_eq!(seen(&hidden), None);
        assert_eq!(seen(&Files { tmpfs: vec![base.join("link")], ..Files::default() }), None);
        for source in [folder.join("a log"), base.join("link")] {
            assert_eq!(seen(&Files { binds: vec![shown(source)], ..hidden.clone() }), log);
        }
        assert_eq!(seen(&Files { root: Some("/proc".into()), ..Files::default() }), None);
        assert_eq!(seen(&Files { root: Some(base.join("link")), ..Files::default() }), log);
        let relative = b"0: 00000002 00000000 00000000 0002 01 5 here";
        assert_eq!(first_in_sight(&Files::default(), relative), Some("here".into()));
        std::fs::remove_dir_all(base).unwrap();
    }
}

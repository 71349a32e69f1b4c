//! `--no-path-sockets` where datagram sockets are surrogates: a send that the kernel serves, on a descriptor that another thread turns
//! to such a surrogate meanwhile, reaches an AF_UNIX datagram socket that is in sight. So none may be.

use std::path::{Path, PathBuf};

use crate::spec::Files;

/// The columns of `/proc/net/unix` before the type of a socket, and between that and its path (proc_net_unix(5)).
const BEFORE_TYPE: usize = 4;
const BEFORE_PATH: usize = 2;
/// `SOCK_DGRAM` there.
const DATAGRAM: &str = "0002";

/// A datagram socket of the caller's network namespace whose path the program would see, if there is one.
pub(super) fn in_sight(files: &Files) -> Option<PathBuf> {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    first_in_sight(files, &sockets)
}

fn first_in_sight(files: &Files, sockets: &str) -> Option<PathBuf> {
    let datagrams = sockets.lines().filter_map(|line| {
        let after = |line: &str, columns: usize| {
            (0..columns).try_fold(line.to_owned(), |rest, _| {
                rest.trim_start().split_once(' ').map(|(_, rest)| rest.to_owned())
            })
        };
        let rest = after(line, BEFORE_TYPE)?;
        let (kind, rest) = rest.trim_start().split_once(' ')?;
        let path = after(rest, BEFORE_PATH)?;
        // An abstract name is of a network namespace.
        (kind == DATAGRAM && !path.starts_with('@')).then(|| PathBuf::from(path))
    });
    let mut seen = datagrams.filter(|path| !path.as_os_str().is_empty() && is_in_sight(files, path));
    seen.next()
}

/// Whether a program sees a file. One whose path is relative may be anywhere.
fn is_in_sight(files: &Files, path: &Path) -> bool {
    let is_below = |above: &Path| path.starts_with(above);
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

    const SOCKETS: &str = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 11111 /run/dbus/system_bus_socket
0000000000000000: 00000003 00000000 00000000 0002 01 22222 @/tmp/abstract
0000000000000000: 00000002 00000000 00000000 0002 01    333
0000000000000000: 00000002 00000000 00000000 0002 01 44444 /run/a log/dev-log
";

    fn seen(files: &Files) -> Option<PathBuf> {
        first_in_sight(files, SOCKETS)
    }

    #[test]
    fn a_datagram_socket_is_in_sight_unless_a_mount_hides_it() {
        let log = Some(PathBuf::from("/run/a log/dev-log"));
        let hidden = Files { tmpfs: vec!["/run".into()], ..Files::default() };
        assert_eq!(seen(&Files::default()), log);
        assert_eq!(seen(&Files { tmpfs: vec!["/tmp".into()], ..Files::default() }), log);
        assert_eq!(seen(&hidden), None);
        let bind = Bind { source: "/run/a log".into(), target: "/log".into(), read_only: true };
        assert_eq!(seen(&Files { binds: vec![bind], ..hidden }), log);
        assert_eq!(seen(&Files { root: Some("/srv/root".into()), ..Files::default() }), None);
        assert_eq!(seen(&Files { root: Some("/run".into()), ..Files::default() }), log);
        let relative = "0: 00000002 00000000 00000000 0002 01 5 here";
        assert_eq!(first_in_sight(&Files::default(), relative), Some("here".into()));
    }
}

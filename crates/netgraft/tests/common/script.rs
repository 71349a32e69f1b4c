//! Python scripts that run in a network namespace of their own, as root, as an ordinary user in a user namespace of its own, and
//! with netgraft as an ordinary user without any.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{common, lwip};

/// Whose the namespace is.
#[derive(Clone, Copy)]
pub(crate) enum As {
    Root,
    /// An ordinary user, who is root in a user namespace of its own.
    User,
    /// Root, whose netgraft is an ordinary user's, without any capability.
    #[allow(
        dead_code,
        clippy::allow_attributes,
        reason = "not each test that includes this file has such a row"
    )]
    Plain,
}

/// What the script runs as netgraft where it is an ordinary user's.
const PLAIN: &str = "#!/bin/sh
exec /usr/bin/setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all \"${0%/*}/bare/netgraft\" \"$@\"
";

/// Runs a script in a folder of its own, with the command in it. Its arguments are the command, and what `prepare` makes in
/// the folder. It prints OK if all is well.
pub(crate) fn run(name: &str, who: As, script: &str, prepare: impl FnOnce(&Path) -> Vec<OsString>) {
    let dir = std::env::temp_dir().join(format!("netgraft-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    common::remove_at_exit(&dir);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let mut bare = dir.join("netgraft");
    if matches!(who, As::Plain) {
        fs::write(&bare, PLAIN).unwrap();
        fs::set_permissions(&bare, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.join("bare")).unwrap();
        bare = dir.join("bare/netgraft");
    }
    fs::copy(env!("CARGO_BIN_EXE_netgraft"), bare).unwrap();
    let mut command = match who {
        As::Root | As::Plain => Command::new("unshare"),
        As::User => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
            command.args(["unshare", "--user", "--map-root-user"]);
            command.env("USERNS", "1");
            command
        }
    };
    command.args(["--net", "/usr/bin/python3", "-c", script]).arg(dir.join("netgraft")).args(prepare(&dir));
    command.current_dir(&dir).stdin(Stdio::null());
    if matches!(who, As::Plain) {
        command.env("PLAIN", "1");
    }
    // Some programs look for settings there.
    command.env("HOME", &dir).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "OK\n", "{errors}");
}

/// The object of `plugins/lwip` in the script's folder.
pub(crate) fn object(dir: &Path) -> OsString {
    let file = dir.join("lwip.so");
    let folder = dir.file_name().unwrap().to_string_lossy();
    let (_, name) = folder.rsplit_once(|c: char| c.is_ascii_digit()).unwrap();
    fs::copy(lwip::build(&format!("lwip{name}")), &file).unwrap();
    file.into()
}

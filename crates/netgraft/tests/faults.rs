//! Faults of a link, counted by the kernel at its other end over 10,000 frames, as root and as an ordinary user in a user
//! namespace of its own. Needs root: changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

/// Runs the script on the built-in stack, or on the object of `plugins/lwip`, whose link has the same wrappers.
fn check(name: &str, words: &[&str], object: bool) {
    let dir = std::env::temp_dir().join(format!("netgraft-faults-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    common::remove_at_exit(&dir);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_netgraft"), dir.join("netgraft")).unwrap();
    let mut options = Vec::new();
    if object {
        let lwip = dir.join("lwip.so");
        fs::copy(lwip::build(&format!("faults-lwip-{name}")), &lwip).unwrap();
        options = ["--network", "plugin", "--plugin"].map(OsString::from).to_vec();
        options.push(lwip.into());
    }
    let output = Command::new(words[0])
        .args(&words[1..])
        .args(["python3", "-c", include_str!("faults.py")])
        .arg(dir.join("netgraft"))
        .args(options)
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "OK\n", "{errors}");
}

const ROOT: &[&str] = &["unshare", "--net"];
const USER: &[&str] = &[
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
];

#[test]
fn each_fault_keeps_its_share_as_root() {
    check("root", ROOT, false);
}

#[test]
fn each_fault_keeps_its_share_as_an_ordinary_user() {
    check("user", USER, false);
}

#[test]
fn each_fault_keeps_its_share_on_an_object_as_root() {
    check("object-root", ROOT, true);
}

#[test]
fn each_fault_keeps_its_share_on_an_object_as_an_ordinary_user() {
    check("object-user", USER, true);
}

#[test]
fn faults_without_a_link_of_netgrafts_are_refused() {
    for (options, part) in [
        (&["--link-loss", "1%"][..], "faults of a link: give a --link"),
        (&["--network", "host", "--link-delay", "1ms"], "faults of a link: give a --link"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_netgraft"))
            .arg("run")
            .args(options)
            .args(["--", "true"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{text}");
        assert!(text.contains(part) && text.lines().count() == 1, "{text}");
    }
}

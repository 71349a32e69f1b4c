//! Faults of a link, counted by the kernel at its other end over 10,000 frames, as root and as an ordinary user in a user
//! namespace of its own. Needs root: changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;
#[path = "common/script.rs"]
mod script;

use std::ffi::OsString;
use std::process::Command;

use script::As;

/// Runs the script on the built-in stack, or on the object of `plugins/lwip`, whose link has the same wrappers.
fn check(name: &str, who: As, is_object: bool) {
    script::run(name, who, include_str!("faults.py"), |dir| {
        let mut options = Vec::new();
        if is_object {
            options = ["--network", "plugin", "--plugin"].map(OsString::from).to_vec();
            options.push(script::object(dir));
        }
        options
    });
}

#[test]
fn each_fault_keeps_its_share_as_root() {
    check("faults-root", As::Root, false);
}

#[test]
fn each_fault_keeps_its_share_as_an_ordinary_user() {
    check("faults-user", As::User, false);
}

#[test]
fn each_fault_keeps_its_share_on_an_object_as_root() {
    check("faults-object-root", As::Root, true);
}

#[test]
fn each_fault_keeps_its_share_on_an_object_as_an_ordinary_user() {
    check("faults-object-user", As::User, true);
}

#[test]
fn each_fault_keeps_its_share_without_any_privilege() {
    check("faults-plain", As::Plain, false);
}

#[test]
fn each_fault_keeps_its_share_on_an_object_without_any_privilege() {
    check("faults-object-plain", As::Plain, true);
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

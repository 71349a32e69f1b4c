//! `--address dhcp` and `--address auto` on a TAP device and on an interface, with dnsmasq on the other side, as root and as an
//! ordinary user in a user namespace of its own. Needs root: changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

fn check(name: &str, words: &[&str]) {
    let dir = std::env::temp_dir().join(format!("netgraft-lease-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    common::remove_at_exit(&dir);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_netgraft"), dir.join("netgraft")).unwrap();
    fs::copy(lwip::build(&format!("lease-lwip-{name}")), dir.join("lwip.so")).unwrap();
    let output = Command::new(words[0])
        .args(&words[1..])
        .args(["/usr/bin/python3", "-c", include_str!("lease.py")])
        .args([dir.join("netgraft"), dir.join("lwip.so")])
        .current_dir(&dir)
        .env("HOME", &dir)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "OK\n", "{errors}");
}

#[test]
fn a_link_is_asked_for_addresses_as_root() {
    check("root", &["unshare", "--net"]);
}

#[test]
fn a_link_is_asked_for_addresses_as_an_ordinary_user() {
    check(
        "user",
        &[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "unshare",
            "--user",
            "--map-root-user",
            "--net",
        ],
    );
}

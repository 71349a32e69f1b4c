//! passt as the uplink, as root and as an ordinary user in a user namespace of its own, with real programs and servers in
//! another network namespace. Needs root: changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn check(name: &str, words: &[&str]) {
    let dir = std::env::temp_dir().join(format!("netgraft-passt-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    common::remove_at_exit(&dir);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_netgraft"), dir.join("netgraft")).unwrap();
    let go = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/passt.go");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(dir.join("fetch")).arg(go).current_dir(&dir);
    build.env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false").env("GO111MODULE", "off");
    assert!(build.env("GOCACHE", dir.join("gocache")).status().unwrap().success());
    let output = Command::new(words[0])
        .args(&words[1..])
        .args(["/usr/bin/python3", "-c", include_str!("passt.py")])
        .arg(dir.join("netgraft"))
        .current_dir(&dir)
        .env("HOME", &dir)
        .env("PASST_GO", dir.join("fetch"))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "OK\n", "{errors}");
}

#[test]
fn programs_reach_the_outside_as_root() {
    check("root", &["unshare", "--net"]);
}

#[test]
fn programs_reach_the_outside_as_an_ordinary_user() {
    check(
        "user",
        &[
            "env",
            "USERNS=1",
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

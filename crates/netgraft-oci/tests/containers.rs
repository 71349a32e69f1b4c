//! Containers by runc, whose sockets netgraft serves: the cases are in `containers.py`. Needs root.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A folder with the two commands and lwIP's object, removed at the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn build(profile: &Path) {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--package", "netgraft", "--bin", "netgraft"]).env("CARGO_NET_OFFLINE", "true");
    build.env("CARGO_TARGET_DIR", profile.parent().unwrap());
    if profile.ends_with("release") {
        build.arg("--release");
    }
    succeed(build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")));
}

fn folder(name: &str) -> Folder {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    assert!(root, "this test makes containers: run it as root");
    let folder = Folder(std::env::temp_dir().join(format!("netgraft-oci-{name}-{}", std::process::id())));
    fs::create_dir(&folder.0).unwrap();
    let oci = Path::new(env!("CARGO_BIN_EXE_netgraft-oci"));
    // It comes with the other command, which lies beside it.
    let profile = oci.parent().unwrap();
    // scripts/test has built all of the workspace: one package alone would be built anew, with other features.
    if !(profile.ends_with("release") && profile.join("netgraft").exists()) {
        build(profile);
    }
    for command in ["netgraft", "netgraft-oci"] {
        fs::copy(profile.join(command), folder.0.join(command)).unwrap();
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lwip-{name}"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/lwip");
    succeed(Command::new("make").args(["-s", "-C"]).arg(source).arg(format!("OUT={}", out.display())));
    fs::copy(out.join("libnetgraft_lwip.so"), folder.0.join("lwip.so")).unwrap();
    folder
}

fn run(case: &str) {
    let folder = folder(case);
    let mut command = Command::new("unshare");
    command.args(["--net", "/usr/bin/python3"]);
    command
        .args(["-c", include_str!("containers.py")])
        .arg(&folder.0)
        .arg(folder.0.join("lwip.so"))
        .arg(case);
    command.stdin(Stdio::null()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "OK\n", "{errors}");
}

#[test]
fn redis_in_a_container() {
    run("redis_in_a_container");
}

#[test]
fn two_containers_of_a_pod() {
    run("two_containers_of_a_pod");
}

#[test]
fn an_engines_profile_stays() {
    run("an_engines_profile_stays");
}

#[test]
fn kinds_of_containers() {
    run("kinds_of_containers");
}

#[test]
fn many_at_once() {
    run("many_at_once");
}

#[test]
fn processes_in_numbers() {
    run("processes_in_numbers");
}

#[test]
fn sudden_ends() {
    run("sudden_ends");
}

#[test]
fn errors() {
    run("errors");
}

#[test]
fn an_engines_network_is_taken_over() {
    run("an_engines_network_is_taken_over");
}

#[test]
fn podman() {
    run("podman");
}

//! Attacks of a hostile program, object or sentry on what is around them: each must fail, and SECURITY.md says which promise it
//! holds. As root each is also tried as an ordinary user.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

const NOBODY: u32 = 65534;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Own,
    Nobody,
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

fn users() -> &'static [User] {
    if is_root() { &[User::Own, User::Nobody] } else { &[User::Own] }
}

/// A folder with the command in it that every user can read.
fn folder() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("netgraft-attack-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        common::remove_at_exit(&dir);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_netgraft"), dir.join("netgraft")).unwrap();
        dir
    })
}

fn binary() -> PathBuf {
    folder().join("netgraft")
}

fn as_user(mut command: Command, user: User) -> Command {
    command.current_dir("/").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    if user == User::Nobody {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Runs a script of `tests/attack`, whose first argument is the command's path.
fn script(user: User, name: &str, args: &[&str]) -> Output {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attack").join(name)).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", &text]).arg(binary()).args(args);
    as_user(command, user).output().unwrap()
}

#[track_caller]
fn done(user: User, got: &Output) {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&got.stdout), said(&got.stderr));
    assert!(got.status.success() && out.ends_with("done\n"), "as {user:?}: {out}{err}");
}

#[test]
fn nothing_is_typed_into_the_operator_s_terminal() {
    for &user in users() {
        for network in ["none", "host"] {
            done(user, &script(user, "typing.py", &[network]));
        }
    }
}

/// The hostile object, whose constructor and pre-init look for rights, files and processes.
fn looter() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let object = folder().join("looter.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-DLOOT", "-I"])
        .arg(root.join("crates/netgraft-abi/include"))
        .arg("-I")
        .arg(root.join("tests/plugins"))
        .arg("-o")
        .arg(&object)
        .arg(root.join("tests/plugins/hostile.c"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    object
}

#[test]
fn code_of_an_object_finds_no_rights_of_the_operator() {
    let object = looter();
    let path = object.to_str().unwrap();
    for &user in users() {
        let netgraft = |args: &[&str]| {
            let mut command = Command::new(binary());
            command.args(args);
            let got = as_user(command, user).output().unwrap();
            let text =
                String::from_utf8_lossy(&got.stdout).into_owned() + &String::from_utf8_lossy(&got.stderr);
            (got.status.code(), text)
        };
        let run = ["run", "--network", "plugin", "--plugin", path];
        let (status, text) = netgraft(&["stacks", path]);
        assert!(status == Some(0) && text.contains("hostile"), "as {user:?}: {text}");
        let (status, text) = netgraft(&[&run[..], &["--", "sh", "-c", "exit 7"]].concat());
        assert_eq!(status, Some(7), "as {user:?}: {text}");
        let (status, text) = netgraft(&["check", path, "--filter", "create/a fresh stream"]);
        assert_eq!(status, Some(0), "as {user:?}: {text}");
        // Whoever trusts it gives it what he has: that the attack would work is seen here.
        let (status, text) = netgraft(&[&run[..], &["--trust-pre-init", "--", "true"]].concat());
        let status_of_loot = if user == User::Own && is_root() { 40 } else { 44 };
        assert_eq!(status, Some(125), "as {user:?}: {text}");
        assert!(text.contains(&format!("exited with status {status_of_loot} in ")), "as {user:?}: {text}");
    }
}

#[test]
fn root_of_a_sandbox_is_nobody_on_the_host() {
    for &user in users() {
        done(user, &script(user, "rooted.py", &[]));
    }
}

#[test]
fn nothing_below_the_mounts_of_a_sandbox_is_reached() {
    for &user in users() {
        done(user, &script(user, "mounts.py", &[]));
    }
}

#[test]
fn an_untrusted_program_finds_no_files_sockets_or_descriptors() {
    for &user in users() {
        done(user, &script(user, "files.py", &[]));
    }
}

#[test]
fn a_program_without_path_sockets_makes_none_of_others() {
    let program = folder().join("paths");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attack/paths.c");
    let built = Command::new("cc")
        .args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .args([&program, &source])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    // Its sockets are in a folder that every user can see into.
    for &user in users() {
        done(user, &script(user, "paths.py", &[program.to_str().unwrap()]));
    }
}

#[test]
fn privileges_on_the_network_are_lent_to_who_has_them_in_the_sandbox() {
    assert!(is_root(), "this test makes network namespaces: run it as root");
    done(User::Own, &script(User::Own, "lent.py", &[]));
}

#[test]
fn forks_and_memory_end_at_their_limits() {
    for &user in users() {
        done(user, &script(user, "limits.py", &[]));
    }
}

//! `netgraft check` and `netgraft stacks` from outside.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn netgraft(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netgraft")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Builds a test object of `tests/plugins` with definitions.
fn object(name: &str, file: &str, defines: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/plugins").join(file);
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../netgraft-abi/include");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-pthread", "-o"])
        .arg(&out)
        .arg(format!("-I{}", header.display()))
        .args(defines)
        .arg(&source)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built.stderr));
    out
}

#[test]
fn the_built_in_stack_is_examined_and_the_report_is_json() {
    let ran = netgraft(&["check", "smoltcp", "--filter", "create/", "--json"]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(report["stack"], "smoltcp");
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() >= 10 && rows.iter().all(|row| row["outcome"] == "pass"), "{report}");
}

#[test]
fn failures_of_an_object_are_told_with_the_call() {
    let loops = object("libcheckloop.so", "loop.c", &[]);
    let ran = netgraft(&["check", loops.to_str().unwrap(), "--filter", "bind/"]);
    let table = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1), "{table}");
    assert!(table.contains("FAIL bind/"), "{table}");
    assert!(table.contains("expected") && table.contains("got"), "{table}");
    let told = netgraft(&["stacks", loops.to_str().unwrap()]);
    assert!(text(&told.stdout).contains("level 1"), "{}", text(&told.stdout));
}

#[test]
fn a_stack_that_crashes_fails_its_case_and_the_next_one_runs() {
    let hostile = object("libcheckhostile.so", "hostile.c", &[]);
    let ran =
        netgraft(&["check", hostile.to_str().unwrap(), "--plugin-arg", "socket:abort", "--filter", "bind/"]);
    let table = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1), "{table}{}", text(&ran.stderr));
    let told = "socket: expected a return, got the process was killed by signal 6 (SIGABRT)";
    assert!(table.matches(told).count() > 3, "{table}");
}

/// As in `run`: what a stack may not do is told before it matters, by the function and by the system call.
#[test]
fn a_forbidden_system_call_fails_its_case() {
    let hostile = object("libcheckforbidden.so", "hostile.c", &[]);
    for (deed, call) in [("inet", "socket"), ("fork", "clone"), ("mount", "mount")] {
        let argument = format!("send:{deed}");
        let case = "stream/questions and answers [v4]";
        let ran =
            netgraft(&["check", hostile.to_str().unwrap(), "--plugin-arg", &argument, "--filter", case]);
        let table = text(&ran.stdout);
        assert_eq!(ran.status.code(), Some(1), "{table}{}", text(&ran.stderr));
        let told = format!(
            "FAIL {case}: send: expected a return, got the process was killed by signal 31 (SIGSYS) for the \
             system call {call}, which"
        );
        assert!(table.contains(&told), "{table}");
    }
}

#[test]
fn hangs_are_named_and_not_waited_for_again_and_again() {
    let hostile = object("libcheckhang.so", "hostile.c", &[]);
    let ran =
        netgraft(&["check", hostile.to_str().unwrap(), "--plugin-arg", "socket:spin", "--filter", "bind/"]);
    let table = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1), "{table}");
    assert_eq!(table.matches("socket: expected a return, got none within 10 s").count(), 3, "{table}");
    assert_eq!(table.matches("FAIL").count(), 3, "{table}");
    let told = "netgraft: 3 cases in a row hung, the last one in socket: the rest did not run\n";
    assert!(text(&ran.stderr).ends_with(told), "{}", text(&ran.stderr));
}

#[test]
fn what_a_stack_does_not_have_is_no_failure() {
    let loops = object("libcheckfamily.so", "loop.c", &[]);
    let ran = netgraft(&["check", loops.to_str().unwrap(), "--filter", "create/"]);
    let table = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(0), "{table}");
    assert!(table.contains("unsupported create/kinds and protocols that do not fit"), "{table}");
}

#[test]
fn what_cannot_be_checked_is_one_line() {
    for args in [
        &["check", "no-such-stack"][..],
        &["check", "./no-such-file.so"],
        &["check", "smoltcp", "--filter", "no such case"],
        &["stacks", "./no-such-file.so"],
    ] {
        let ran = netgraft(args);
        assert_eq!(ran.status.code(), Some(125), "{args:?}");
        assert_eq!(text(&ran.stderr).lines().count(), 1, "{args:?}: {}", text(&ran.stderr));
    }
}

//! Rules about who may talk to whom, on the built-in stack and lwIP, as root and as an ordinary user: a program that tries every way
//! out, what comes in, and what binds. Needs root: changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;
#[path = "common/script.rs"]
mod script;

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use script::As;

/// The hostile program, in the script's folder.
fn hostile(dir: &Path) -> OsString {
    let file = dir.join("hostile");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy.c");
    let built = Command::new("cc")
        .args(["-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .args([&file, &source])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    file.into()
}

fn check(name: &str, who: As) {
    script::run(name, who, include_str!("policy.py"), |dir| vec![script::object(dir), hostile(dir)]);
}

#[test]
fn rules_are_kept_as_root() {
    check("policy-root", As::Root);
}

#[test]
fn rules_are_kept_as_an_ordinary_user() {
    check("policy-user", As::User);
}

//! passt as the uplink, as root and as an ordinary user in a user namespace of its own, with real programs and servers in
//! another network namespace. Needs root: changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;
#[path = "common/script.rs"]
mod script;

use std::path::Path;
use std::process::Command;

use script::As;

/// `large` is the stack that moves 1 GiB each way; the other moves less.
fn check(name: &str, who: As, large: &str) {
    script::run(name, who, include_str!("passt.py"), |dir| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/passt.go");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(dir.join("fetch")).arg(source).current_dir(dir);
        build.env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false").env("GO111MODULE", "off");
        assert!(build.env("GOCACHE", dir.join("gocache")).status().unwrap().success());
        vec![script::object(dir), large.into()]
    });
}

#[test]
fn programs_reach_the_outside_as_root() {
    check("passt-root", As::Root, "lwip");
}

#[test]
fn programs_reach_the_outside_as_an_ordinary_user() {
    check("passt-user", As::User, "built-in");
}

#[test]
fn programs_reach_the_outside_without_any_privilege() {
    check("passt-plain", As::Plain, "neither");
}

#[test]
fn peers_may_be_silent_as_root() {
    script::run("silent-root", As::Root, include_str!("silent.py"), |dir| vec![script::object(dir)]);
}

#[test]
fn peers_may_be_silent_as_an_ordinary_user() {
    script::run("silent-user", As::User, include_str!("silent.py"), |dir| vec![script::object(dir)]);
}

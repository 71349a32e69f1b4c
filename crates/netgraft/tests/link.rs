//! Faults of a link that are changed while it carries traffic (`netgraft link`), and the frames of links with segmentation offload, as
//! root, as an ordinary user in a user namespace of its own, and as one without any privilege. Needs root: changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;
#[path = "common/script.rs"]
mod script;

use script::As;

/// Runs the script on the built-in stack, or on the object of `plugins/lwip`.
fn check(name: &str, who: As, is_object: bool) {
    script::run(name, who, include_str!("link.py"), |dir| {
        if is_object { vec![script::object(dir)] } else { Vec::new() }
    });
}

#[test]
fn faults_change_while_it_runs_as_root() {
    check("link-root", As::Root, false);
}

#[test]
fn faults_change_while_it_runs_as_an_ordinary_user() {
    check("link-user", As::User, false);
}

#[test]
fn faults_change_while_it_runs_without_any_privilege() {
    check("link-plain", As::Plain, false);
}

#[test]
fn faults_change_while_it_runs_on_an_object_as_root() {
    check("link-object-root", As::Root, true);
}

#[test]
fn faults_change_while_it_runs_on_an_object_as_an_ordinary_user() {
    check("link-object-user", As::User, true);
}

/// Without segmentation offload all works, slower: frames are counted.
#[test]
fn frames_carry_many_segments_as_root() {
    script::run("gso-root", As::Root, include_str!("gso.py"), |_| Vec::new());
}

#[test]
fn frames_carry_many_segments_as_an_ordinary_user() {
    script::run("gso-user", As::User, include_str!("gso.py"), |_| Vec::new());
}

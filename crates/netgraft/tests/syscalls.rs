//! The sentry's allow-list against what a sentry really calls: nothing that is allowed is left from another day.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/trace.rs"]
mod trace;

use std::collections::BTreeSet;
use std::process::Command;

/// A program that uses sockets in the ways that there are.
const PROGRAM: &str = include_str!("syscalls/program.py");

/// The names of a list of `netgraft stacks --syscalls`, and whether each is rare.
fn listed(text: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let base = text.split("\n\n").next().unwrap();
    let (mut usual, mut rare) = (BTreeSet::new(), BTreeSet::new());
    for line in base.lines().skip(1) {
        let name = line.split_whitespace().next().unwrap().to_owned();
        if line.contains("rare: ") {
            rare.insert(name)
        } else {
            usual.insert(name)
        };
    }
    (usual, rare)
}

#[test]
fn every_system_call_of_the_sentry_is_one_that_it_makes() {
    let netgraft = env!("CARGO_BIN_EXE_netgraft");
    let list = Command::new(netgraft).args(["stacks", "--syscalls"]).output().unwrap();
    let text = String::from_utf8(list.stdout).unwrap();
    let (usual, rare) = listed(&text);
    assert!(text.contains("\nhost: 1 more\n") && text.contains("\nsmoltcp: no more\n"), "{text}");
    assert!(usual.len() + rare.len() <= 60, "{} calls", usual.len() + rare.len());

    let folder = trace::Folder::new("syscalls");
    // Joined connections and the kernel's datagram sockets, and all of it on the stack.
    let called: BTreeSet<String> = ["always", "never"]
        .into_iter()
        .flat_map(|join| {
            folder.calls_of_sentry(&["--network", "none", "--join", join], &["python3", "-c", PROGRAM])
        })
        .collect();
    let known: BTreeSet<String> = usual.union(&rare).cloned().collect();
    let (unknown, unused): (Vec<_>, Vec<_>) =
        (called.difference(&known).collect(), usual.difference(&called).collect());
    assert!(unknown.is_empty(), "called, and not listed: {unknown:?}");
    assert!(unused.is_empty(), "listed, and not called: {unused:?}");
}

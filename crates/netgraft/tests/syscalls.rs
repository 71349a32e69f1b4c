//! The sentry's allow-list against what a sentry really calls: nothing that is allowed is left from another day.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

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

/// What the threads of a trace's sentry called after its last filter was installed.
fn called(trace: &str) -> BTreeSet<String> {
    let of = |line: &str| line.split_once(' ').map(|(pid, rest)| (pid.to_owned(), rest.trim().to_owned()));
    let lines: Vec<(String, String)> = trace.lines().filter_map(of).collect();
    let named = |line: &str| line.starts_with("prctl(PR_SET_NAME, \"netgraft-sent");
    let (sentry, _) = lines.iter().find(|(_, line)| named(line)).unwrap();
    let filter =
        |(pid, line): &(String, String)| pid == sentry && line.starts_with("seccomp(SECCOMP_SET_MODE_FILTER");
    let confined = lines.iter().rposition(filter).unwrap();
    // Its threads name themselves, as netgraft's other processes do.
    let other = [
        "netgraft-init",
        "netgraft-keeper",
        "netgraft-pcap",
        "netgraft-pty",
        "netgraft-down",
        "netgraft-giver",
    ];
    let names = |line: &str| {
        let name = line.strip_prefix("prctl(PR_SET_NAME, \"")?.split('"').next()?.to_owned();
        (name.starts_with("netgraft") && !other.contains(&name.as_str())).then_some(name)
    };
    let own: BTreeSet<&str> =
        lines.iter().filter(|(_, line)| names(line).is_some()).map(|(pid, _)| pid.as_str()).collect();
    let name = |line: &str| {
        let (name, _) = line.split_once('(')?;
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then(|| name.to_owned())
    };
    let theirs = lines[confined + 1..].iter().filter(|(pid, _)| own.contains(pid.as_str()));
    theirs.filter_map(|(_, line)| name(line)).collect()
}

#[test]
fn every_system_call_of_the_sentry_is_one_that_it_makes() {
    let netgraft = env!("CARGO_BIN_EXE_netgraft");
    let list = Command::new(netgraft).args(["stacks", "--syscalls"]).output().unwrap();
    let text = String::from_utf8(list.stdout).unwrap();
    let (usual, rare) = listed(&text);
    assert!(text.contains("\nhost: 1 more\n") && text.contains("\nsmoltcp: no more\n"), "{text}");
    assert!(usual.len() + rare.len() <= 60, "{} calls", usual.len() + rare.len());

    let folder = std::env::temp_dir().join(format!("netgraft-syscalls-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    common::remove_at_exit(&folder);
    let trace = folder.join("trace");
    let run = |path: &Path| {
        let output = Command::new("strace")
            .args(["-f", "-qq", "-e", "signal=none", "-o"])
            .arg(path)
            .args([netgraft, "run", "--network", "none", "--", "python3", "-c", PROGRAM])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
    };
    let called = called(&run(&trace));
    let known: BTreeSet<String> = usual.union(&rare).cloned().collect();
    let (unknown, unused): (Vec<_>, Vec<_>) =
        (called.difference(&known).collect(), usual.difference(&called).collect());
    assert!(unknown.is_empty(), "called, and not listed: {unknown:?}");
    assert!(unused.is_empty(), "listed, and not called: {unused:?}");
}

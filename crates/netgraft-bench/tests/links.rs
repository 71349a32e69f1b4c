//! Comparisons across a veth between two namespaces. Without root, only their refusal can be seen.
#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as it should be")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

fn bench(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netgraft-bench"));
    command.args(words.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn is_root() -> bool {
    // The effective user is the second of the four.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    users.split_whitespace().nth(1) == Some("0")
}

/// Names of the namespaces that the process `pid` made and did not remove.
fn namespaces_of(pid: u32) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&format!("netgraft-bench-{pid}-"))).collect()
}

#[test]
fn both_roles_give_figures_and_nothing_stays() {
    let words = "compare --links --networks native --workloads request-1,bulk-out,udp-1 --rounds 1 --seconds 0.1 --json -";
    let child = bench(words).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if is_root() {
        assert!(output.status.success(), "{said}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let roles: Vec<_> =
            report["results"].as_array().unwrap().iter().map(|entry| &entry["role"]).collect();
        assert_eq!(roles, ["serves", "dials"].repeat(3));
    } else {
        assert!(!output.status.success() && said.contains("need root"), "{said}");
    }
    assert!(namespaces_of(pid).is_empty());
}

#[test]
fn an_interrupt_removes_the_namespaces() {
    let mut child =
        bench("compare --links --networks native --workloads request-1 --seconds 60").spawn().unwrap();
    let pid = child.id();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    if is_root() {
        assert!(first.contains("round 1 of 5"), "{first}");
        assert_eq!(namespaces_of(pid).len(), 2);
        assert!(Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert_eq!(lines.last().unwrap().unwrap(), "netgraft-bench: interrupted");
    } else {
        assert!(first.contains("need root"), "{first}");
        assert!(!child.wait().unwrap().success());
    }
    assert!(namespaces_of(pid).is_empty());
}

#[test]
fn what_crosses_no_link_is_refused() {
    let output = bench("compare --links --networks native --workloads control").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(said.contains(if is_root() { "control does not cross a link" } else { "need root" }), "{said}");
}

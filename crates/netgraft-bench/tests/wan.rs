//! Comparisons on a bad line between namespaces. Without root, only their refusal can be seen.
#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as it should be")]

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn is_root() -> bool {
    // The effective user is the second of the four.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    users.split_whitespace().nth(1) == Some("0")
}

/// Runs `wan`; nothing of it may stay.
fn wan(words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netgraft-bench"));
    command.arg("wan").args(words.split_whitespace()).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let own = format!("netgraft-bench-{}-", child.id());
    let output = child.wait_with_output().unwrap();
    let left = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with(&own)), "{left:?}");
    output
}

#[test]
fn flows_cross_a_bad_line_and_every_figure_is_there() {
    let svg = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("wan.svg");
    let output = wan(&format!(
        "--networks native,native --line delay=2ms,loss=3%,reorder=5%:1ms,duplicate=2% --congestion cubic \
         --rounds 1 --seconds 0.1 --json - --svg {}",
        svg.display()
    ));
    let said = String::from_utf8_lossy(&output.stderr);
    if !is_root() {
        assert!(!output.status.success() && said.contains("need root"), "{said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = report["results"].as_array().unwrap();
    // Five kinds of flows, two directions, two networks.
    assert_eq!(results.len(), 20);
    let mut resent = 0.0;
    for entry in results {
        assert!(entry["figure"]["median"].as_f64().unwrap() > 0.0, "{entry}");
        assert!(entry["other_congestion"].is_null() && entry["failures"].as_array().unwrap().is_empty());
        // A handshake and an answer: two round trips, of 4 ms each.
        if entry["unit"] == "ms" {
            assert!(entry["figure"]["median"].as_f64().unwrap() >= 8.0, "{entry}");
        }
        resent += entry["retransmits"].as_f64().unwrap();
    }
    // 20 flows of 7 segments and 5 of 700 in each of four columns: without a loss among them the line is not bad.
    assert!(resent > 0.0, "{said}");
    assert!(std::fs::read_to_string(svg).unwrap().matches("fill=\"#").count() > 6);
}

#[test]
fn what_makes_no_sense_is_told_in_one_line() {
    for (words, part) in [
        ("--networks native,host", "host has no link of its own"),
        ("--networks native --line speed=9", "--line speed=9: unknown fault 'speed'"),
        ("--networks native --congestion none-such", "no congestion control none-such"),
        ("--networks native --flows 5k", "expected 10k, 1m, bulk, share or beside"),
    ] {
        let output = wan(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(part), "{words}: {said}");
    }
}

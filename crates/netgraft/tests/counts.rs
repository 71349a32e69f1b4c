//! How many system calls the sentry makes for what a program does: each is a cost that no measurement of time shows on a
//! busy machine. docs/performance.md has the same table.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/trace.rs"]
mod trace;

use std::collections::BTreeMap;
use std::fmt::Write as _;

const PROGRAM: &str = include_str!("counts/program.py");
/// How often a program does it, in the shorter of two runs; the longer has twice as many.
const TIMES: usize = 200;

/// What a program does, whether within the sandbox it goes past the stack, and the most system calls for each time. Past the
/// stack one thread of the sentry serves all of it, and the number is always the same; where two take turns it is not.
struct Limit {
    what: &'static str,
    join: &'static str,
    most: usize,
}

const fn limit(what: &'static str, join: &'static str, most: usize) -> Limit {
    Limit { what, join, most }
}

const LIMITS: [Limit; 12] = [
    limit("close", "always", 7),
    limit("name", "always", 9),
    limit("option", "always", 8),
    limit("connection", "always", 60),
    limit("request", "always", 0),
    limit("message", "always", 0),
    limit("datagram", "always", 0),
    limit("name", "never", 10),
    limit("connection", "never", 100),
    limit("request", "never", 8),
    limit("message", "never", 60),
    limit("datagram", "never", 56),
];

/// How often each system call was made.
fn counts(folder: &trace::Folder, limit: &Limit, times: usize) -> BTreeMap<String, usize> {
    let options = ["--network", "none", "--join", limit.join];
    let times = times.to_string();
    let mut counts = BTreeMap::new();
    for name in folder.calls_of_sentry(&options, &["python3", "-c", PROGRAM, limit.what, &times]) {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[test]
fn no_more_system_calls_are_made_than_there_have_to_be() {
    let folder = trace::Folder::new("counts");
    let (mut table, mut too_many) = (String::new(), Vec::new());
    for limit in &LIMITS {
        let (short, long) = (counts(&folder, limit, TIMES), counts(&folder, limit, 2 * TIMES));
        // What is made at the start and at the end is in both.
        let more: Vec<(f64, &String)> = long
            .iter()
            .map(|(name, &count)| {
                let before = short.get(name).copied().unwrap_or(0);
                (count.saturating_sub(before) as f64 / TIMES as f64, name)
            })
            .filter(|&(each, _)| each >= 0.1)
            .collect();
        let sum: f64 = more.iter().map(|&(each, _)| each).sum();
        let parts: Vec<String> = more.iter().map(|(each, name)| format!("{name} {each:.1}")).collect();
        let Limit { what, join, most } = limit;
        writeln!(table, "| {what} | {join} | {sum:.1} | {} |", parts.join(", ")).unwrap();
        if sum > *most as f64 + 0.5 {
            too_many.push(format!("{what} with --join {join}: {sum:.1}, and not {most}"));
        }
    }
    println!("{table}");
    assert!(too_many.is_empty(), "{too_many:#?}\n{table}");
}

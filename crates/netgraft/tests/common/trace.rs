//! What system calls a sentry makes, by strace(1).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// netgraft's processes and threads that are not the sentry's.
const OTHERS: [&str; 6] =
    ["netgraft-init", "netgraft-keeper", "netgraft-pcap", "netgraft-pty", "netgraft-down", "netgraft-giver"];

/// A folder for traces.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// An empty one, which is removed when the process ends.
    pub(crate) fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("netgraft-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        crate::common::remove_at_exit(&folder);
        Folder(folder)
    }

    /// Runs a program under netgraft with these options, and returns the names of all calls that the sentry made once it
    /// was confined, in their order.
    pub(crate) fn calls_of_sentry(&self, options: &[&str], program: &[&str]) -> Vec<String> {
        let trace = self.0.join("trace");
        let output = Command::new("strace")
            .args(["-f", "-qq", "-e", "signal=none", "-o"])
            .arg(&trace)
            .args([env!("CARGO_BIN_EXE_netgraft"), "run"])
            .args(options)
            .arg("--")
            .args(program)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        calls(&String::from_utf8_lossy(&fs::read(&trace).unwrap()))
    }
}

/// What the threads of a trace's sentry called after its last filter was installed.
fn calls(trace: &str) -> Vec<String> {
    let of = |line: &str| line.split_once(' ').map(|(pid, rest)| (pid.to_owned(), rest.trim().to_owned()));
    let lines: Vec<(String, String)> = trace.lines().filter_map(of).collect();
    let named = |line: &str| line.starts_with("prctl(PR_SET_NAME, \"netgraft-sent");
    let (sentry, _) = lines.iter().find(|(_, line)| named(line)).unwrap();
    let filter =
        |(pid, line): &(String, String)| pid == sentry && line.starts_with("seccomp(SECCOMP_SET_MODE_FILTER");
    let confined = lines.iter().rposition(filter).unwrap();
    // Its threads name themselves, as netgraft's other processes do.
    let is_own = |line: &str| {
        let name = line.strip_prefix("prctl(PR_SET_NAME, \"").and_then(|rest| rest.split('"').next());
        name.is_some_and(|name| name.starts_with("netgraft") && !OTHERS.contains(&name))
    };
    let own: Vec<&str> = lines.iter().filter(|(_, line)| is_own(line)).map(|(pid, _)| pid.as_str()).collect();
    let name = |line: &str| {
        let (name, arguments) = line.split_once('(')?;
        if name == "fcntl" && arguments.contains("F_GETFD") {
            // A debug build asks it of each descriptor that it closes.
            return None;
        }
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then(|| name.to_owned())
    };
    let theirs = lines[confined + 1..].iter().filter(|(pid, _)| own.contains(&pid.as_str()));
    theirs.filter_map(|(_, line)| name(line)).collect()
}

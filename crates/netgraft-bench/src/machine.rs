//! Facts about the machine, without which a figure means nothing.

use std::fs;
use std::time::Duration;

use serde::Serialize;

use crate::error::{Doing, Error, Result};

/// What a figure was measured on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Machine {
    /// Processors that this process may use.
    pub(crate) cores: usize,
    /// What /proc/cpuinfo calls them.
    pub(crate) processor: String,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Load average of the minute before the run: above 0, others were at work.
    pub(crate) load: String,
    /// How this program was compiled.
    pub(crate) build: &'static str,
}

impl Machine {
    /// Asks the system; what it doesn't say is "unknown".
    pub(crate) fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let or_unknown = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            processor: or_unknown(model.map_or("", |(_, name)| name.trim())),
            kernel: or_unknown(read("/proc/sys/kernel/osrelease").trim()),
            load: or_unknown(read("/proc/loadavg").split(' ').next().unwrap_or_default()),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }
}

/// CPU time that all children have used which this process has waited for, and theirs.
pub(crate) fn cpu_of_children() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").doing(|| "reading /proc/self/stat")?;
    parse_children_cpu(&stat)
        .ok_or_else(|| Error::Failed("/proc/self/stat has not the fields of proc(5)".to_owned()))
}

/// Fields 16 and 17 of proc_pid_stat(5), in ticks of 10 ms (USER_HZ is 100 on all that Linux runs on
/// today but Alpha and Itanium).
fn parse_children_cpu(stat: &str) -> Option<Duration> {
    // The name in parentheses may itself hold anything, so fields count from the last parenthesis.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(13);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(10 * (user + system)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_childrens_time_is_found_behind_any_name() {
        let stat = "1 (a ) b) S 2 3 4 5 6 7 8 9 10 11 12 13 140 160 18";
        assert_eq!(parse_children_cpu(stat), Some(Duration::from_millis(3000)));
        assert_eq!(parse_children_cpu("1 (a) S"), None);
        assert!(cpu_of_children().is_ok());
    }

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::now();
        assert!(machine.cores > 0);
        assert_ne!(machine.kernel, "unknown");
    }
}

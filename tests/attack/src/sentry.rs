//! What a sentry uses.

use std::fmt;
use std::fs;

use netgraft_e2e::leaks;

/// The descriptors and the memory of a sentry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// How many descriptors it has.
    pub descriptors: usize,
    /// Its own memory in KiB (`RssAnon` of proc(5)).
    pub memory: u64,
}

impl Usage {
    /// What the sentry of a job uses now.
    ///
    /// # Errors
    /// When the job has no sentry, or it cannot be looked at.
    pub fn now(mark: &str) -> Result<Usage, String> {
        let named = |pid: i32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "netgraft-sentry")
        };
        let pid = leaks::marked_processes(mark).into_iter().map(|(pid, _)| pid).find(|pid| named(*pid));
        let pid = pid.ok_or("the job has no sentry any more")?;
        let of = |file: &str| format!("/proc/{pid}/{file}");
        let status = fs::read_to_string(of("status")).map_err(|error| error.to_string())?;
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let memory = memory.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        let descriptors = fs::read_dir(of("fd")).map_err(|error| error.to_string())?.count();
        Ok(Usage { descriptors, memory: memory.ok_or("a sentry without RssAnon")? })
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} descriptors, {} KiB", self.descriptors, self.memory)
    }
}

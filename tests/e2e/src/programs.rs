//! The real programs under `tests/e2e/programs`, and what each needs.

use std::path::PathBuf;
use std::time::Duration;

use crate::machine;
use crate::stage::{Scratch, Stage};

/// One program: a server script and a client script.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The first part of the scripts' names.
    pub name: &'static str,
    /// The programs that it needs of the machine.
    pub needs: &'static [&'static str],
}

const fn program(name: &'static str, needs: &'static [&'static str]) -> Program {
    Program { name, needs }
}

/// Every program.
pub const ALL: [Program; 14] = [
    program("redis", &["redis-server", "redis-cli", "redis-benchmark", "nc", "sha256sum"]),
    program("nginx", &["nginx", "curl", "wrk", "nc"]),
    program("pyhttp", &["python3", "nc"]),
    program("asyncio", &["python3", "nc"]),
    program("iperf3", &["iperf3", "python3", "nc"]),
    program("nc", &["nc", "sha256sum"]),
    program("ssh", &["sshd", "ssh", "nc"]),
    program("go", &["nc"]),
    program("node", &["node", "nc"]),
    program("devtcp", &["bash", "python3", "nc"]),
    program("forking", &["python3", "nc"]),
    program("faults", &["python3", "curl", "nc"]),
    program("ping", &["ping"]),
    program("bulk", &["python3", "curl", "sha256sum", "nc"]),
];

/// How long a program's client may take: 1 GiB twice is the longest.
pub const LIMIT: Duration = Duration::from_secs(150);

/// The address family of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The one of two addresses that is of this family.
    #[must_use]
    pub const fn of(self, both: [&str; 2]) -> &str {
        match self {
            Family::V4 => both[0],
            Family::V6 => both[1],
        }
    }

    /// For the report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.of(["v4", "v6"])
    }
}

/// What the scripts need beside the machine's programs.
#[derive(Debug)]
pub struct Kit {
    /// The folder of the scripts.
    pub scripts: PathBuf,
    keys: PathBuf,
    tools: PathBuf,
}

impl Kit {
    /// Puts the scripts on the stage, builds what they need, and checks that every program is installed.
    ///
    /// # Errors
    /// Names each program that is missing and the Debian package that has it.
    pub fn new(stage: &Stage) -> Result<Self, String> {
        let needs = ALL.iter().flat_map(|program| program.needs);
        let mut missing: Vec<String> = needs.filter_map(|name| machine::find(name).err()).collect();
        missing.sort();
        missing.dedup();
        if !missing.is_empty() {
            return Err(missing.join("\n"));
        }
        stage.compile_go()?;
        // The folder that sshd separates its privileges in, which Debian makes at boot.
        std::fs::create_dir_all("/run/sshd").map_err(|error| format!("/run/sshd: {error}"))?;
        let tools = stage.bin("");
        Ok(Kit { scripts: stage.copy_folder("e2e/programs")?, keys: stage.make_keys()?, tools })
    }

    /// Tells a job's scripts where the server is.
    pub fn describe(&self, scratch: &mut Scratch, host: &str, bind: &str) {
        let in_url = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        scratch.set("HOST", host);
        scratch.set("URLHOST", in_url);
        scratch.set("BIND", bind);
        scratch.set("PORT", 21_000);
        scratch.set("PROGRAMS", self.scripts.display());
        scratch.set("KEYS", self.keys.display());
        scratch.set("BIN", self.tools.display());
    }

    /// The words that run one of the scripts.
    #[must_use]
    pub fn script(&self, name: &str, arguments: &[&str]) -> Vec<String> {
        let mut words = vec!["sh".to_owned(), self.scripts.join(name).display().to_string()];
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        words
    }
}

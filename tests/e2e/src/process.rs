//! Programs with a time limit, whose output is kept and who leave nobody behind.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::machine::SEARCH_PATH;
use crate::stage::Scratch;

/// The variable by which processes of a job are recognised, whoever their parent is by now.
pub const MARK: &str = "NETGRAFT_E2E_JOB";

/// A started program, in a process group of its own, whose output goes to a file.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
    errors: Option<PathBuf>,
    started: Instant,
    ended: bool,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status; `None` when it had to be killed at its time limit.
    pub status: Option<ExitStatus>,
    /// What it printed, on standard output and standard error.
    pub output: String,
    /// What it printed on standard error, when the two were kept apart.
    pub errors: String,
    /// How long it ran.
    pub took: Duration,
}

impl Running {
    /// Starts a command with the job's environment. Its output goes to `NAME.log` in the job's folder.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(command: &mut Command, scratch: &Scratch, name: &str) -> Result<Self, String> {
        let log = scratch.path().join(format!("{name}.log"));
        let file = create(&log)?;
        let copy = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
        Self::start_with(command.stdin(Stdio::null()), scratch, (file, log), (copy, None))
    }

    /// Like [`Self::start`], with standard error kept apart and standard input read from a file.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_apart(
        command: &mut Command,
        scratch: &Scratch,
        name: &str,
        input: Stdio,
    ) -> Result<Self, String> {
        let log = scratch.path().join(format!("{name}.log"));
        let errors = scratch.path().join(format!("{name}.err"));
        let (out, err) = (create(&log)?, create(&errors)?);
        Self::start_with(command.stdin(input), scratch, (out, log), (err, Some(errors)))
    }

    fn start_with(
        command: &mut Command,
        scratch: &Scratch,
        (out, log): (File, PathBuf),
        (err, errors): (File, Option<PathBuf>),
    ) -> Result<Self, String> {
        command
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LANG", "C.UTF-8")
            .env("HOME", scratch.work())
            .env("TMPDIR", scratch.temporary())
            .env("WORK", scratch.work())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("RUST_BACKTRACE", "1")
            // No name server is in reach: those who ask for one are not to wait long.
            .env("RES_OPTIONS", "timeout:1 attempts:1")
            .env(MARK, scratch.mark())
            .envs(scratch.variables())
            .current_dir(scratch.work())
            .stdout(out)
            .stderr(err)
            .process_group(0);
        let child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        Ok(Running { child, log, errors, started: Instant::now(), ended: false })
    }

    /// The process id of what was started.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end, and kills the process group when it has not come within `limit` from now.
    ///
    /// # Errors
    /// When the program can't be waited for or its output can't be read.
    pub fn finish(mut self, limit: Duration) -> Result<Ended, String> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                self.ended = true;
                break Some(status);
            }
            if Instant::now() > deadline {
                self.kill();
                break None;
            }
            std::thread::sleep(Duration::from_millis(4));
        };
        let took = self.started.elapsed();
        let errors = self.errors.as_deref().map(read_log).transpose()?.unwrap_or_default();
        Ok(Ended { status, output: read_log(&self.log)?, errors, took })
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        match self.child.try_wait() {
            Ok(None) => true,
            Ok(Some(_)) | Err(_) => {
                self.ended = true;
                false
            }
        }
    }

    /// Sends a signal to the program itself, as a person who stops it would.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // A program that has ended by itself is what the caller wants as well.
            let _gone = rustix::process::kill_process(pid, signal);
        }
    }

    /// What it has printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        read_log(&self.log).unwrap_or_default()
    }

    fn kill(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // Already gone is as good.
            let _gone = kill_process_group(pid, Signal::KILL);
        }
        let _status = self.child.wait();
        self.ended = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
        }
    }
}

impl Ended {
    /// Asserts exit status 0; otherwise says how it ended and the end of what it printed.
    ///
    /// # Errors
    /// When the program failed, was killed by a signal or ran out of time.
    pub fn success(&self) -> Result<(), String> {
        match self.status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("{status}\n{}{}", tail(&self.output), tail(&self.errors))),
            None => {
                Err(format!("no end within {:.0?}\n{}{}", self.took, tail(&self.output), tail(&self.errors)))
            }
        }
    }
}

fn create(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn read_log(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of an output, which is where programs say what went wrong.
#[must_use]
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(25);
    lines[from..].iter().map(|line| format!("    | {line}\n")).collect()
}

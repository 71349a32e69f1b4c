//! Child processes that can't be lost, never outstay their time, and say why they failed.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{Doing, Error, Result};

/// How often a wait looks whether the user interrupted.
const TICK: Duration = Duration::from_millis(100);

/// How long a process that is told to end may take.
const GRACE: Duration = Duration::from_secs(2);

/// How many lines of a child are kept until somebody reads them; after that it has to wait.
const LINES: usize = 1024;

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT and SIGTERM are seen by [`check_interrupt`] instead of killing this process.
pub(crate) fn catch_interrupts() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(flag)).doing(|| "installing a signal handler")?;
    }
    Ok(())
}

/// An error if SIGINT or SIGTERM came.
pub(crate) fn check_interrupt() -> Result<()> {
    match INTERRUPTED.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::Interrupted),
        _ => Ok(()),
    }
}

/// A child with its three standard streams piped. Dropping it ends it.
pub(crate) struct Running {
    what: String,
    child: Child,
    pidfd: OwnedFd,
    input: Option<ChildStdin>,
    output: Receiver<String>,
    errors: Receiver<String>,
}

impl Running {
    /// Starts a command; `what` names it in errors.
    pub(crate) fn spawn(what: impl Into<String>, command: &mut Command) -> Result<Self> {
        let what = what.into();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().doing(|| format!("starting {what} ({:?})", command.get_program()))?;
        let input = child.stdin.take();
        let (output, errors) = (lines_of(child.stdout.take()), lines_of(child.stderr.take()));
        match watch(&child) {
            Ok(pidfd) => Ok(Self { what, child, pidfd, input, output, errors }),
            Err(error) => {
                let _killed = child.kill();
                let _reaped = child.wait();
                Err(error).doing(|| format!("watching {what}"))
            }
        }
    }

    /// The next line that the child prints, before `until`.
    pub(crate) fn next_line(&mut self, until: Instant) -> Result<String> {
        loop {
            check_interrupt()?;
            match self.output.recv_timeout(TICK) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::Failed(format!(
                        "{} printed nothing in time{}",
                        self.what,
                        self.complaint()
                    )));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Failed(format!("{} ended early{}", self.what, self.complaint())));
                }
            }
        }
    }

    /// Whether the child has ended.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        self.child.try_wait().map(|status| status.is_some()).doing(|| format!("waiting for {}", self.what))
    }

    /// Ends the child's input and waits until it ends; what it printed since the last line that was
    /// read. An exit status other than 0 is an error.
    pub(crate) fn finish(mut self, until: Instant) -> Result<Vec<String>> {
        self.input = None;
        let mut lines = Vec::new();
        loop {
            check_interrupt()?;
            // The pipe is emptied while waiting, so that a child with much to say can end.
            lines.extend(self.output.try_iter());
            if ended(&self.pidfd, TICK).doing(|| format!("waiting for {}", self.what))? {
                break;
            }
            if Instant::now() >= until {
                return Err(Error::Failed(format!("{} did not end in time{}", self.what, self.complaint())));
            }
        }
        let status = self.child.wait().doing(|| format!("waiting for {}", self.what))?;
        if !status.success() {
            return Err(Error::Failed(format!("{}: {status}{}", self.what, self.complaint())));
        }
        // A grandchild may hold the pipe open, so its end is not waited for at any price.
        while let Ok(line) = self.output.recv_timeout(TICK) {
            lines.push(line);
        }
        Ok(lines)
    }

    /// The last lines of the child's standard error, as the rest of a sentence.
    fn complaint(&self) -> String {
        let mut lines = Vec::new();
        while let Ok(line) = self.errors.recv_timeout(TICK) {
            lines.push(line);
        }
        match lines.len() {
            0 => String::new(),
            length => format!(": {}", lines[length.saturating_sub(3)..].join(" / ")),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        self.input = None;
        // The child is not reaped yet, so its number is still its own.
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let until = Instant::now() + GRACE;
        while Instant::now() < until && !ended(&self.pidfd, TICK)? {}
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("netgraft-bench: ending {}: {error}", self.what);
        }
    }
}

/// How long a command takes from its start to its end, with nothing on its streams.
///
/// # Errors
/// It can't be started, takes longer than `patience`, or fails.
pub(crate) fn time(what: &str, command: &mut Command, patience: Duration) -> Result<Duration> {
    check_interrupt()?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn().doing(|| format!("starting {what} ({:?})", command.get_program()))?;
    let waited = watch(&child).and_then(|pidfd| ended(&pidfd, patience));
    let took = began.elapsed();
    if !matches!(waited, Ok(true)) {
        child.kill().doing(|| format!("ending {what}"))?;
    }
    let status: ExitStatus = child.wait().doing(|| format!("waiting for {what}"))?;
    match waited {
        Ok(true) if status.success() => Ok(took),
        Ok(true) => {
            // Once more, for its words.
            Running::spawn(what, command)?.finish(Instant::now() + patience)?;
            Err(Error::Failed(format!("{what}: {status}, but not when it was tried again")))
        }
        Ok(false) => Err(Error::Failed(format!("{what} did not end in {patience:?}"))),
        Err(error) => Err(error).doing(|| format!("waiting for {what}")),
    }
}

/// A descriptor that becomes readable when the child ends.
fn watch(child: &Child) -> io::Result<OwnedFd> {
    Ok(pidfd_open(Pid::from_child(child), PidfdFlags::empty())?)
}

/// Waits at most `time`; whether the process has ended.
fn ended(pidfd: &OwnedFd, time: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(time).map_err(io::Error::other)?;
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(error) if io::Error::from(error).kind() == ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The lines of a stream, read by a thread that ends with the stream.
fn lines_of(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver): (SyncSender<String>, _) = sync_channel(LINES);
    if let Some(stream) = stream {
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

/// Raises the limit on open files to what the system allows, for workloads with many connections.
pub(crate) fn raise_file_limit() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).doing(|| "raising RLIMIT_NOFILE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_come_and_the_end_is_seen() {
        let mut child = Running::spawn("a shell", &mut shell("echo one; cat; echo two")).unwrap();
        assert_eq!(child.next_line(soon()).unwrap(), "one");
        assert_eq!(child.finish(soon()).unwrap(), ["two"]);
    }

    #[test]
    fn a_failure_names_the_child_and_its_words() {
        let child = Running::spawn("a shell", &mut shell("echo bad luck >&2; exit 3")).unwrap();
        assert_eq!(child.finish(soon()).unwrap_err().to_string(), "a shell: exit status: 3: bad luck");
    }

    #[test]
    fn a_child_that_stays_too_long_is_ended() {
        let child = Running::spawn("a sleeper", &mut shell("exec sleep 60")).unwrap();
        let pid = child.child.id();
        let error = child.finish(Instant::now() + Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), "a sleeper did not end in time");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_start_is_timed_and_its_failure_explained() {
        let took = time("a nap", &mut shell("sleep 0.05"), Duration::from_secs(5)).unwrap();
        assert!(took >= Duration::from_millis(50));
        let error = time("a nap", &mut shell("echo no >&2; exit 1"), Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.to_string(), "a nap: exit status: 1: no");
        let error = time("a nap", &mut shell("exec sleep 60"), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), "a nap did not end in 50ms");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error =
            time("nothing", &mut Command::new("/no/such/program"), Duration::from_secs(5)).unwrap_err();
        assert!(error.to_string().starts_with("starting nothing (\"/no/such/program\"): "), "{error}");
    }
}

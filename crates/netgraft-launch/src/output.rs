//! What sentries write: lines of the log, and nothing on the program's or the operator's own output.
//!
//! A sentry holds nothing of the operator's. Its standard error is a pipe that the launcher reads, so that all that it
//! writes has a budget: neither a stack nor a program that makes the sentry complain fills the disk that the log is on.
//! What a stack in a shared object prints comes through another pipe and is logged under the object's name; the sentry's
//! own log is kept apart from it ([`LogWriter`]).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use netgraft_abi::printable;
use netgraft_linux::{process, unix};
use tracing::level_filters::LevelFilter;

/// The most bytes of a line that has no end yet.
const LINE_LIMIT: usize = 4096;
/// How many pieces of a line are read before others have their turn: some pipe's full.
const PIECES: usize = 16;
/// The most bytes that are shown of all that the sentries of a sandbox write, a line's own end included.
const BUDGET: usize = 1 << 20;
/// The same where the operator wants to see what happens in detail (`-vv`), which a program decides.
const DETAILED: usize = 256 << 20;

/// A pipe from the sentries to the launcher. Who writes waits for nobody: what does not fit is lost.
struct Pipe {
    reader: File,
    writer: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Pipe> {
        let (reader, writer) = io::pipe()?;
        let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
        unix::set_nonblocking(reader.as_fd(), true)?;
        unix::set_nonblocking(writer.as_fd(), true)?;
        Ok(Pipe { reader: reader.into(), writer })
    }

    /// Gives each line that has come to `tell`; `part` is the beginning of one whose end has not.
    fn lines(&self, part: &mut Vec<u8>, tell: &mut dyn FnMut(&[u8])) {
        let mut bytes = [0; LINE_LIMIT];
        for _ in 0..PIECES {
            let Ok(count @ 1..) = (&self.reader).read(&mut bytes) else { return };
            part.extend(bytes.get(..count).unwrap_or_default());
            while let Some(length) = part.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = part.drain(..=length).collect();
                if length > 0 {
                    tell(&line);
                }
            }
            if part.len() >= LINE_LIMIT {
                tell(part);
                part.clear();
            }
        }
    }
}

/// The pipes of a sandbox's sentries.
pub(super) struct Output {
    log: Pipe,
    /// What an object prints, with its name.
    prints: Option<(String, Pipe)>,
}

/// What was read of them so far.
#[derive(Debug)]
pub(super) struct Shown {
    log: Vec<u8>,
    printed: Vec<u8>,
    budget: Budget,
}

impl Shown {
    pub(super) fn new() -> Shown {
        let detailed = LevelFilter::current() >= LevelFilter::DEBUG;
        Shown {
            log: Vec::new(),
            printed: Vec::new(),
            budget: Budget(Some(if detailed { DETAILED } else { BUDGET })),
        }
    }
}

/// Bytes that are still shown; `None` once it was said that the rest is not.
#[derive(Debug)]
struct Budget(Option<usize>);

impl Budget {
    /// What is shown of a line.
    fn spend(&mut self, line: String) -> Option<String> {
        match self.0?.checked_sub(line.len() + 1) {
            Some(left) => {
                self.0 = Some(left);
                Some(line)
            }
            None => {
                self.0 = None;
                Some("the sentry has written as much as is shown of it: the rest is not".to_owned())
            }
        }
    }
}

impl Output {
    /// The pipes for a stack of this tree, or for an object of this name.
    pub(super) fn new(object: Option<&str>) -> io::Result<Output> {
        let prints = object.map(|object| Pipe::new().map(|pipe| (object.to_owned(), pipe))).transpose()?;
        Ok(Output { log: Pipe::new()?, prints })
    }

    /// Readable when something was written: to the log, and by an object.
    pub(super) fn readers(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [Some(self.log.reader.as_fd()), self.prints.as_ref().map(|(_, pipe)| pipe.reader.as_fd())]
    }

    /// In the sentry: lets them take the place of standard output and standard error; `null` takes that of input, and of
    /// output if nobody is to print. The descriptor that must stay open for the log.
    pub(super) fn take_place(&self, null: BorrowedFd<'_>) -> io::Result<Option<RawFd>> {
        let Some((_, prints)) = &self.prints else {
            process::replace_stdin_and_stdout(null)?;
            return process::replace_stderr(self.log.writer.as_fd()).map(|()| None);
        };
        let log = self.keep_log()?;
        process::replace_standard(null, prints.writer.as_fd())?;
        if log.is_none() {
            process::replace_stderr(self.log.writer.as_fd())?;
        }
        Ok(log)
    }

    /// Keeps the log apart from standard error, where who writes it knows of that.
    fn keep_log(&self) -> io::Result<Option<RawFd>> {
        if !USED.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let log = File::from(self.log.writer.try_clone()?);
        Ok(Some(LOG.get_or_init(|| log).as_raw_fd()))
    }

    /// In the launcher: shows the lines that have come.
    pub(super) fn show(&self, shown: &mut Shown) {
        let Shown { log, printed, budget } = shown;
        self.log.lines(log, &mut |line| show_log(line, budget));
        if let Some((object, prints)) = &self.prints {
            prints.lines(printed, &mut |line| show_print(object, line, budget));
        }
    }

    /// The same when a sentry is gone: its last lines may have no end.
    pub(super) fn show_rest(&self, shown: &mut Shown) {
        self.show(shown);
        let Shown { log, printed, budget } = shown;
        if !log.is_empty() {
            show_log(&std::mem::take(log), budget);
        }
        if let (Some((object, _)), false) = (&self.prints, printed.is_empty()) {
            show_print(object, &std::mem::take(printed), budget);
        }
    }
}

fn show_log(line: &[u8], budget: &mut Budget) {
    if let Some(line) = budget.spend(of_sentry(line)) {
        // An error here means that standard error has no reader.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

fn show_print(object: &str, line: &[u8], budget: &mut Budget) {
    let line = String::from_utf8_lossy(line);
    if let Some(line) = budget.spend(format!("{object}: {}", printable(line.trim_end()))) {
        tracing::info!("{line}");
    }
}

/// A line that a sentry wrote, such that it is seen whose it is: our own log's lines say what has happened to it, and cannot
/// be forged.
fn of_sentry(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let text = line.trim_end();
    format!("netgraft: sentry: {}", printable(text.strip_prefix("netgraft: ").unwrap_or(text)))
}

/// Whether the log is written by a [`LogWriter`].
static USED: AtomicBool = AtomicBool::new(false);
/// Where the log of a sentry goes whose standard error is a stack's.
static LOG: OnceLock<File> = OnceLock::new();

/// Standard error for a log: in a sentry, the launcher's by way of the launcher, apart from what the stack prints. A process
/// whose log goes elsewhere has in its sentries only what that log can do without descriptors of its own.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LogWriter {}

impl LogWriter {
    /// For the subscriber of the process that makes sandboxes, before it makes one.
    #[must_use]
    pub fn new() -> LogWriter {
        USED.store(true, Ordering::Relaxed);
        LogWriter {}
    }
}

impl Default for LogWriter {
    fn default() -> LogWriter {
        LogWriter::new()
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match LOG.get() {
            Some(log) => (&*log).write(bytes),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_prints_waits_for_nobody_and_lines_are_whole() {
        let pipe = Pipe::new().unwrap();
        let mut writer = File::from(pipe.writer.try_clone().unwrap());
        while writer.write(&[b'x'; 1000]).is_ok() {}
        let (mut part, mut told) = (Vec::new(), Vec::new());
        pipe.lines(&mut part, &mut |line| told.push(line.to_vec()));
        assert!(part.len() < LINE_LIMIT && told.len() > 1, "an endless line is told in pieces");
        while (&pipe.reader).read(&mut [0; 4096]).is_ok() {}
        (part, told) = (Vec::new(), Vec::new());
        writer.write_all(b"one\ntwo\nthr").unwrap();
        pipe.lines(&mut part, &mut |line| told.push(line.to_vec()));
        assert_eq!((part.as_slice(), told.concat().as_slice()), (&b"thr"[..], &b"one\ntwo\n"[..]));
    }

    #[test]
    fn all_that_is_written_has_a_budget() {
        let mut budget = Budget(Some(100));
        let shown: Vec<String> = (0..50).filter_map(|_| budget.spend("x".repeat(9))).collect();
        assert_eq!(shown.len(), 11);
        assert!(shown[10].contains("the rest is not") && budget.spend(String::new()).is_none());
    }

    #[test]
    fn a_sentry_s_lines_are_seen_to_be_its_own() {
        assert_eq!(of_sentry(b"netgraft: error: it is lost\n"), "netgraft: sentry: error: it is lost");
        assert_eq!(of_sentry(b"thread panicked\n"), "netgraft: sentry: thread panicked");
        let nasty = of_sentry(b"a\rnetgraft: error: b\x1b[2J\xff\n");
        assert!(!nasty.contains(['\r', '\x1b']) && nasty.lines().count() == 1, "{nasty:?}");
    }
}

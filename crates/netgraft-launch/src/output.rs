//! What a stack in a shared object prints: lines of the log, under the object's name, and nothing on the program's or
//! the operator's own output.
//!
//! The sentry's standard output and standard error are a pipe that the launcher reads. Its own log, which goes to
//! standard error as everybody's, is kept apart ([`LogWriter`]).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use netgraft_abi::printable;
use netgraft_linux::{process, unix};

/// The most bytes of a line that has no end yet.
const LINE_LIMIT: usize = 4096;

/// A pipe from the sentries to the launcher.
pub(super) struct Output {
    object: String,
    reader: File,
    writer: OwnedFd,
}

impl Output {
    /// A pipe for what the object of this name prints. Who prints waits for nobody: what does not fit is lost.
    pub(super) fn new(object: &str) -> io::Result<Output> {
        let (reader, writer) = io::pipe()?;
        let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
        unix::set_nonblocking(reader.as_fd(), true)?;
        unix::set_nonblocking(writer.as_fd(), true)?;
        Ok(Output { object: object.to_owned(), reader: reader.into(), writer })
    }

    /// Readable when something was printed.
    pub(super) fn reader(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// In the sentry: lets it take the place of standard output, and of standard error too if the log is kept apart from
    /// it. The descriptor that must stay open for the log.
    pub(super) fn take_place(&self, input: BorrowedFd<'_>) -> io::Result<Option<RawFd>> {
        let log = keep_log()?;
        if log.is_some() {
            process::replace_standard(input, self.writer.as_fd())?;
        } else {
            process::replace_stdin_and_stdout(self.writer.as_fd())?;
        }
        Ok(log)
    }

    /// In the launcher: logs the lines that have come; `part` is the beginning of one whose end has not.
    pub(super) fn show(&self, part: &mut Vec<u8>) {
        let mut bytes = [0; LINE_LIMIT];
        while let Ok(count @ 1..) = (&self.reader).read(&mut bytes) {
            part.extend(bytes.get(..count).unwrap_or_default());
            while let Some(length) = part.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = part.drain(..=length).collect();
                self.tell(&line);
            }
            if part.len() >= LINE_LIMIT {
                self.tell(part);
                part.clear();
            }
        }
    }

    fn tell(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        tracing::info!("{}: {}", self.object, printable(line.trim_end()));
    }
}

/// Whether the log is written by a [`LogWriter`].
static USED: AtomicBool = AtomicBool::new(false);
/// Standard error as it was before a stack's output took its place.
static LOG: OnceLock<File> = OnceLock::new();

/// Keeps standard error for the log, where that knows of it.
fn keep_log() -> io::Result<Option<RawFd>> {
    if !USED.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let log = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    Ok(Some(LOG.get_or_init(|| log).as_raw_fd()))
}

/// Standard error for a log: in a sentry, where what the stack prints goes to the launcher, the launcher's standard
/// error all the same. A process whose log goes elsewhere shows what stacks print to standard error as it is.
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
        let output = Output::new("libx.so").unwrap();
        let mut writer = File::from(output.writer.try_clone().unwrap());
        while writer.write(&[b'x'; 1000]).is_ok() {}
        let mut part = Vec::new();
        output.show(&mut part);
        assert!(part.len() < LINE_LIMIT, "an endless line is told in pieces");
        part.clear();
        writer.write_all(b"one\ntwo\nthr").unwrap();
        output.show(&mut part);
        assert_eq!(part, b"thr");
    }
}

//! The process that writes flows to a file, and rules that they would need (`--flows`, `--learn`).
//!
//! The sentry has no file system, so a process with the caller's rights takes records from it, several a message, and writes a line
//! of JSON for each. It ends when every sender is gone, however that came. The sentry never waits for it: what there is no room for is
//! lost and counted. What the sentry sends is checked: it may be a stack that was taken over.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netgraft_core::policy::{Direction, Protocol};
use netgraft_linux::process::{self, Wait};
use netgraft_linux::{confine, fdpass, unix};
use serde::{Deserialize, Serialize};

use crate::capture::{create, numbered};
use crate::error::RunError;
use crate::learn::Learned;
use crate::said::printable;

/// How long the launcher waits for the last records to be written.
const LAST: Duration = Duration::from_secs(5);
/// The most bytes of one message.
pub const MESSAGE: usize = 128 << 10;
/// A reader of the file sees what there is after so much time without more.
const QUIET: Duration = Duration::from_millis(50);

/// Where flows go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowsSpec {
    /// The file of flows, which is made anew. Later ones have a number behind its name.
    pub file: Option<PathBuf>,
    /// A file that has so many bytes is followed by the next.
    pub size: Option<u64>,
    /// How many files are kept, the oldest of more being removed; `None` for all.
    pub keep: Option<u32>,
    /// The file that gets the rules which the flows need, at the end.
    pub learn: Option<PathBuf>,
}

/// A line of the file: a flow that is over or was denied, or that some are missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlowLine {
    /// A flow.
    Flow(Box<FlowEntry>),
    /// Flows that are missing here.
    Lost {
        /// How many.
        lost: u64,
    },
}

/// A flow. What is not known is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowEntry {
    /// When it began, in seconds since the epoch.
    pub start: f64,
    /// When it ended.
    pub end: f64,
    /// Who began: `out` is the sandbox.
    pub direction: Direction,
    /// `tcp`, `udp`, `icmp`, `raw`
    pub protocol: Protocol,
    /// The sandbox's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// The peer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddr>,
    /// The process, as its own process-id namespace numbers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// Whether both ends are in the sandbox, and connected past the stack.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joined: bool,
    /// Bytes of payload from the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    /// Bytes of payload to the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    /// Datagrams from the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_sent: Option<u64>,
    /// Datagrams to the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_received: Option<u64>,
    /// Segments that were sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u32>,
    /// `closed`, `reset` (by the program), `denied`, `killed`, `idle`, `too many`, `stopped`, or an error such as `connection refused`.
    pub ended: String,
    /// Why it was allowed or denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Denied attempts before this one that have no line, since there were too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrecorded: Option<u64>,
}

/// What a flow that was denied ends with.
pub const DENIED: &str = "denied";

/// Flows that are being written. Dropping it waits for the last records; the sandbox has ended by then.
#[derive(Debug)]
pub(crate) struct FlowWriter {
    process: i32,
}

impl FlowWriter {
    /// Opens the files and starts the writer, before anything else of the sandbox, whose network may be the host's, is made: the
    /// writer has none of its descriptors. What is answered goes to the sentry.
    ///
    /// # Errors
    /// [`RunError::Options`] if a file cannot be made.
    pub(crate) fn start(spec: &FlowsSpec, of_host: bool) -> Result<(FlowWriter, OwnedFd), RunError> {
        let failed =
            |what: &str, error: io::Error| RunError::Options(format!("{what} cannot be written: {error}"));
        let mut files = Files::open(spec, of_host)?;
        let (ours, theirs) = fdpass::pair().map_err(|error| failed("flows", error))?;
        unix::set_nonblocking(theirs.as_fd(), true).map_err(|error| failed("flows", error))?;
        let process = process::fork(|| {
            let mut kept = vec![2, ours.as_raw_fd()];
            kept.extend(files.descriptors());
            // Standard error is for what it has to say.
            let result = confine::set_name(c"netgraft-flows")
                .and_then(|()| process::close_all_but(&kept))
                .and_then(|()| files.write_all(&ours));
            if let Err(error) = result {
                tracing::warn!("the flows end here: {error}");
                return 1;
            }
            0
        })
        .map_err(|error| failed("flows", error))?;
        Ok((FlowWriter { process }, theirs))
    }
}

impl Drop for FlowWriter {
    fn drop(&mut self) {
        let until = Instant::now() + LAST;
        while matches!(process::wait(self.process, Wait::Look), Ok(None)) {
            if Instant::now() >= until {
                tracing::warn!("flows are still being written by the process {}", self.process);
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The file of flows.
struct Log {
    file: BufWriter<File>,
    path: PathBuf,
    written: u64,
    number: u32,
    kept: VecDeque<PathBuf>,
}

/// What is written.
struct Files {
    log: Option<Log>,
    size: Option<u64>,
    keep: Option<u32>,
    learn: Option<(File, Learned)>,
}

impl Files {
    fn open(spec: &FlowsSpec, of_host: bool) -> Result<Files, RunError> {
        let make = |path: &PathBuf, what: &str| {
            create(path).map_err(|error| {
                RunError::Options(format!("the {what} {} cannot be written: {error}", path.display()))
            })
        };
        let log = |path: &PathBuf| {
            let file = BufWriter::new(make(path, "flows")?);
            let kept = VecDeque::from([path.clone()]);
            Ok::<_, RunError>(Log { file, path: path.clone(), written: 0, number: 0, kept })
        };
        Ok(Files {
            log: spec.file.as_ref().map(log).transpose()?,
            size: spec.size,
            keep: spec.keep,
            learn: match &spec.learn {
                Some(path) => Some((make(path, "rules")?, Learned::new(of_host))),
                None => None,
            },
        })
    }

    fn descriptors(&self) -> impl Iterator<Item = i32> {
        let log = self.log.as_ref().map(|log| log.file.get_ref().as_raw_fd());
        log.into_iter().chain(self.learn.as_ref().map(|(file, _)| file.as_raw_fd()))
    }

    /// Writes what comes until every sender is gone.
    fn write_all(&mut self, from: &OwnedFd) -> io::Result<()> {
        let received = self.receive_all(from);
        if let Some((file, learned)) = &mut self.learn {
            file.write_all(learned.text().as_bytes())?;
        }
        received
    }

    fn receive_all(&mut self, from: &OwnedFd) -> io::Result<()> {
        loop {
            if fdpass::wait_readable([Some(from.as_fd())], Some(QUIET))? != [true] {
                self.flush()?;
                fdpass::wait_readable([Some(from.as_fd())], None)?;
            }
            let message = match fdpass::receive(from.as_fd(), MESSAGE) {
                Ok(Some((message, _))) => message,
                Ok(None) => break,
                // The sentry was killed.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error),
            };
            for line in message.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line = serde_json::from_slice(line)
                    .map_err(|_| io::Error::other("the sentry sent what is no flow"))?;
                self.line(clean(line))?;
            }
        }
        self.flush()
    }

    fn line(&mut self, line: FlowLine) -> io::Result<()> {
        if let (Some((_, learned)), FlowLine::Flow(flow)) = (&mut self.learn, &line) {
            learned.note(flow);
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        if log.written > 0 && self.size.is_some_and(|size| log.written + text.len() as u64 > size) {
            log.next_file(self.keep)?;
        }
        log.written += text.len() as u64;
        log.file.write_all(&text)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), |log| log.file.flush())
    }
}

impl Log {
    fn next_file(&mut self, keep: Option<u32>) -> io::Result<()> {
        self.number += 1;
        let path = numbered(&self.path, self.number);
        self.file.flush()?;
        self.file = BufWriter::new(create(&path)?);
        self.written = 0;
        self.kept.push_back(path);
        while keep.is_some_and(|keep| self.kept.len() > keep as usize) {
            if let Some(oldest) = self.kept.pop_front() {
                fs::remove_file(oldest)?;
            }
        }
        Ok(())
    }
}

/// Texts of a program's and a sentry's are not believed to be harmless.
fn clean(line: FlowLine) -> FlowLine {
    match line {
        FlowLine::Flow(flow) => FlowLine::Flow(Box::new(FlowEntry {
            executable: flow.executable.as_deref().map(printable),
            ended: printable(&flow.ended),
            rule: flow.rule.as_deref().map(printable),
            ..*flow
        })),
        lost @ FlowLine::Lost { .. } => lost,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn flow(direction: Direction, protocol: Protocol, remote: &str) -> FlowEntry {
        FlowEntry {
            start: 1.5,
            end: 2.25,
            direction,
            protocol,
            local: Some("192.0.2.2:4000".parse().unwrap()),
            remote: Some(remote.parse().unwrap()),
            pid: Some(2),
            executable: Some("/bin/x".to_owned()),
            joined: false,
            bytes_sent: Some(1),
            bytes_received: None,
            packets_sent: None,
            packets_received: None,
            retransmits: None,
            ended: "closed".to_owned(),
            rule: None,
            unrecorded: None,
        }
    }

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("netgraft-flows-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn send(to: &OwnedFd, lines: &[FlowLine]) {
        let text: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        fdpass::send(to.as_fd(), text.join("\n").as_bytes(), &[]).unwrap();
    }

    #[test]
    fn flows_are_lines_of_json_in_files_that_follow_each_other() {
        let dir = folder("files");
        let file = Some(dir.join("flows"));
        let spec = FlowsSpec { file, size: Some(700), keep: Some(2), learn: None };
        let mut files = Files::open(&spec, false).unwrap();
        let (ours, theirs) = fdpass::pair().unwrap();
        let mut nasty = flow(Direction::Out, Protocol::Tcp, "198.51.100.1:80");
        nasty.executable = Some("/bin/a\n\u{202e}b".to_owned());
        for _ in 0..5 {
            let lines = [FlowLine::Flow(Box::new(nasty.clone())), FlowLine::Lost { lost: 3 }];
            send(&theirs, &lines);
        }
        drop(theirs);
        files.write_all(&ours).unwrap();
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.path()).collect();
        names.sort();
        assert_eq!(names.len(), 2, "{names:?}");
        for name in names {
            let text = fs::read_to_string(name).unwrap();
            assert!(text.len() <= 700 && text.ends_with('\n'), "{text}");
            for line in text.lines() {
                let line: FlowLine = serde_json::from_str(line).unwrap();
                let FlowLine::Flow(flow) = line else { continue };
                assert_eq!(flow.executable.as_deref(), Some("/bin/a\u{fffd}\u{fffd}b"));
                assert_eq!((flow.start, flow.bytes_received), (1.5, None));
            }
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn nonsense_ends_the_flows_and_keeps_what_was_learned() {
        let dir = folder("nonsense");
        let spec = FlowsSpec { learn: Some(dir.join("rules")), ..FlowsSpec::default() };
        let mut files = Files::open(&spec, false).unwrap();
        let (ours, theirs) = fdpass::pair().unwrap();
        send(&theirs, &[FlowLine::Flow(Box::new(flow(Direction::Out, Protocol::Tcp, "198.51.100.1:80")))]);
        fdpass::send(theirs.as_fd(), b"{\"start\":1}", &[]).unwrap();
        assert!(files.write_all(&ours).unwrap_err().to_string().contains("no flow"));
        let text = fs::read_to_string(dir.join("rules")).unwrap();
        assert!(text.contains("allow out tcp 198.51.100.1:80"), "{text}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let spec = FlowsSpec { file: Some("/nowhere/at/all".into()), ..FlowsSpec::default() };
        let Err(RunError::Options(text)) = Files::open(&spec, false).map(drop) else { panic!("it was made") };
        assert!(text.starts_with("the flows /nowhere/at/all cannot be written: "), "{text}");
    }
}

//! Commands on sandboxes that run, by their operator sockets ([`netgraft_launch::operator`]).
//!
//! What a sentry answers and what programs are called is not believed to be harmless: texts are cleaned before they are
//! printed.

mod kernel_sockets;
mod link;
mod list;
mod processes;
mod ss;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use netgraft_launch::door;
use netgraft_launch::operator::{Answer, Answered, Asked, MOST_ANSWER, Request, VERSION};
use netgraft_launch::printable;
use netgraft_linux::peer::Peer;

pub(crate) use link::{LinkArgs, link};
pub(crate) use list::list;
pub(crate) use ss::{SsArgs, ss};

/// How long a sentry may take for a part of its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take for all of it.
const PATIENCE_IN_ALL: Duration = Duration::from_secs(60);

/// A connection to a sandbox.
pub(crate) struct Client {
    /// When it is given up, whatever comes.
    until: Instant,
    stream: BufReader<UnixStream>,
    sandbox: String,
}

impl Client {
    /// Connects to a sandbox of the caller's.
    pub(crate) fn connect(sandbox: &str) -> Result<Client, String> {
        let stream = door::connect(sandbox)?;
        let timeouts = stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)));
        timeouts.map_err(|error| format!("the sandbox {sandbox}: {error}"))?;
        let until = Instant::now() + PATIENCE_IN_ALL;
        Ok(Client { until, stream: BufReader::new(stream), sandbox: sandbox.to_owned() })
    }

    /// The process that made the sandbox, as this process-id namespace has it.
    pub(crate) fn launcher(&self) -> Option<u32> {
        let peer = Peer::of(self.stream.get_ref().as_fd()).ok()?;
        (peer.pid != 0).then_some(peer.pid)
    }

    /// Asks something.
    pub(crate) fn ask(&mut self, request: Request) -> Result<(), String> {
        let mut line = serde_json::to_vec(&Asked::new(request)).map_err(|error| error.to_string())?;
        line.push(b'\n');
        match self.stream.get_mut().write_all(&line) {
            // Why it was closed is still to be read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            sent => sent.map_err(|error| self.failed(&error)),
        }
    }

    /// The next message of an answer. [`Answer::Error`] is an error.
    pub(crate) fn next(&mut self) -> Result<Answer, String> {
        if Instant::now() >= self.until {
            let seconds = PATIENCE_IN_ALL.as_secs();
            return Err(format!(
                "the sentry of the sandbox {} answers for more than {seconds} s",
                self.sandbox
            ));
        }
        let mut line = Vec::new();
        let mut limited = self.stream.by_ref().take(MOST_ANSWER as u64);
        let got = limited.read_until(b'\n', &mut line);
        got.map_err(|error| self.failed(&error))?;
        if line.pop() != Some(b'\n') {
            return Err(format!("the sandbox {} has ended, or its sentry does not answer", self.sandbox));
        }
        match serde_json::from_slice::<Answered>(&line) {
            Ok(Answered { answer: Answer::Error { text }, .. }) => {
                Err(format!("the sandbox {}: {}", self.sandbox, printable(&text)))
            }
            Ok(answered) if answered.v == VERSION => Ok(answered.answer),
            Ok(answered) => Err(format!(
                "the sandbox {} answers in version {}, which this netgraft ({VERSION}) does not know",
                self.sandbox, answered.v
            )),
            Err(error) => Err(format!("the sandbox {} answers nonsense: {error}", self.sandbox)),
        }
    }

    fn failed(&self, error: &std::io::Error) -> String {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                format!("the sentry of the sandbox {} does not answer", self.sandbox)
            }
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                format!("the sandbox {} has ended, or its sentry does not answer", self.sandbox)
            }
            _ => format!("the sandbox {}: {error}", self.sandbox),
        }
    }
}

/// Why an answer is not used.
fn unexpected() -> String {
    "the sentry answers something else than it was asked for".to_owned()
}

/// The text of `netgraft metrics`.
pub(crate) fn metrics(sandbox: &str) -> Result<String, String> {
    let mut client = Client::connect(sandbox)?;
    client.ask(Request::Metrics)?;
    match client.next()? {
        Answer::Metrics(figures) => {
            netgraft_launch::metrics::text(figures).map_err(|error| error.to_string())
        }
        _ => Err(format!("the sandbox {sandbox} answers something else")),
    }
}

/// Lines of columns that are as wide as they need to be; the last one is not filled.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [["ID", "STACK"], ["12345", "x"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(super::table(&rows), "ID     STACK\n12345  x\n");
    }
}

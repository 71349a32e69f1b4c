//! The process that serves metrics (`--metrics`): HTTP on a socket of the host's, with the caller's rights.
//!
//! For each request it sends the launcher one end of a new pair of sockets, which the launcher hands to the sentry as that of an
//! operator ([`crate::operator`]): so no listener of the sandbox's has to be found, a sentry that takes over is asked as well,
//! and neither the launcher nor the sentry reads what comes from outside.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use netgraft_linux::confine;
use netgraft_linux::fdpass::{self, wait_readable};
use netgraft_linux::process::{self, Wait};

use crate::error::RunError;
use crate::metrics;
use crate::operator::{Answer, Answered, Asked, MOST_ANSWER, Request};

/// The most bytes of a request.
const MOST_HEAD: usize = 8 << 10;
/// How long a client may take for its request, and the sandbox for its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many requests are served at a time.
const MOST: usize = 8;
/// How long the launcher waits for the process's end.
const LAST: Duration = Duration::from_secs(1);
/// What OpenMetrics text is called (its specification, "Text format").
const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// An AF_UNIX socket of this path, the caller's alone.
    Path(PathBuf),
    /// A port of the host's.
    Port(SocketAddr),
}

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<MetricsAddress, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("unix: needs a path behind it".to_owned()),
            Some(path) => Ok(MetricsAddress::Path(path.into())),
            None => text.parse().map(MetricsAddress::Port).map_err(|_| {
                format!(
                    "'{text}' is no place for metrics: use unix:PATH or ADDR:PORT, such as 127.0.0.1:9100"
                )
            }),
        }
    }
}

enum Listening {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listening {
    fn open(address: &MetricsAddress) -> Result<Listening, RunError> {
        let failed = |what: String, error: io::Error| {
            let why = if error.kind() == ErrorKind::AddrInUse {
                "it is taken".to_owned()
            } else {
                error.to_string()
            };
            RunError::Options(format!("--metrics {what}: {why}"))
        };
        match address {
            MetricsAddress::Port(port) => {
                TcpListener::bind(port).map(Listening::Tcp).map_err(|error| failed(port.to_string(), error))
            }
            MetricsAddress::Path(path) => {
                remove_stale(path);
                let listener = UnixListener::bind(path);
                let listener = listener.and_then(|listener| {
                    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map(|()| listener)
                });
                listener
                    .map(|listener| Listening::Unix(listener, path.clone()))
                    .map_err(|error| failed(format!("unix:{}", path.display()), error))
            }
        }
    }

    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Listening::Unix(listener, _) => listener.as_fd(),
            Listening::Tcp(listener) => listener.as_fd(),
        }
    }

    fn accept(&self) -> io::Result<Client> {
        match self {
            Listening::Unix(listener, _) => listener.accept().map(|(stream, _)| Client::Unix(stream)),
            Listening::Tcp(listener) => listener.accept().map(|(stream, _)| Client::Tcp(stream)),
        }
    }
}

/// What a sandbox has left that was killed.
fn remove_stale(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket
        && matches!(UnixStream::connect(path), Err(error) if error.kind() == ErrorKind::ConnectionRefused)
    {
        let _ = fs::remove_file(path);
    }
}

/// Metrics that are being served. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct MetricsServer {
    process: i32,
    path: Option<PathBuf>,
    launcher: OwnedFd,
}

impl MetricsServer {
    /// Listens, and starts the process, before anything else of the sandbox is made: the process has none of its descriptors.
    ///
    /// # Errors
    /// [`RunError::Options`] if the address is taken or cannot be had.
    pub(crate) fn start(address: &MetricsAddress) -> Result<MetricsServer, RunError> {
        let listening = Listening::open(address)?;
        let failed = |error: io::Error| RunError::Options(format!("metrics cannot be served: {error}"));
        let (ours, theirs) = fdpass::pair().map_err(failed)?;
        let theirs = Arc::new(theirs);
        let process = process::fork(|| {
            let kept = [2, theirs.as_raw_fd(), listening.fd().as_raw_fd()];
            let result = confine::set_name(c"netgraft-metric")
                .and_then(|()| confine::die_with_parent())
                .and_then(|()| process::close_all_but(&kept))
                .and_then(|()| serve(&listening, &theirs));
            if let Err(error) = result {
                tracing::warn!("metrics are not served any more: {error}");
                return 1;
            }
            0
        })
        .map_err(failed)?;
        let path = match listening {
            Listening::Unix(_, path) => Some(path),
            Listening::Tcp(_) => None,
        };
        Ok(MetricsServer { process, path, launcher: ours })
    }

    /// What becomes readable when somebody wants to ask the sentry.
    pub(crate) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.launcher.as_fd()
    }

    /// The next one who wants to ask the sentry; `None` if there is none, or the process is gone.
    pub(crate) fn next(&self) -> Option<OwnedFd> {
        let (_, fds) = fdpass::receive(self.launcher.as_fd(), 16).ok()??;
        fds.into_iter().next()
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        // It serves nobody any more, whatever it is doing.
        let _ = process::kill(self.process, libc::SIGKILL);
        let until = Instant::now() + LAST;
        while matches!(process::wait(self.process, Wait::Look), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// Somebody who asks.
enum Client {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Client {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Client::Unix(stream) => {
                stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout)))
            }
            Client::Tcp(stream) => {
                stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout)))
            }
        }
    }
}

impl Read for Client {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Client::Unix(stream) => stream.read(buf),
            Client::Tcp(stream) => stream.read(buf),
        }
    }
}

impl Write for Client {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Client::Unix(stream) => stream.write(buf),
            Client::Tcp(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Serves until the launcher is gone.
fn serve(listening: &Listening, launcher: &Arc<OwnedFd>) -> io::Result<()> {
    let busy = Arc::new(AtomicUsize::new(0));
    loop {
        let [knock, gone] = wait_readable([Some(listening.fd()), Some(launcher.as_fd())], None)?;
        if gone {
            // It never says anything: that is its end.
            return Ok(());
        }
        if !knock {
            continue;
        }
        let Ok(mut client) = listening.accept() else { continue };
        if busy.fetch_add(1, Ordering::Relaxed) >= MOST {
            busy.fetch_sub(1, Ordering::Relaxed);
            refuse(&mut client);
            continue;
        }
        let (launcher, done) = (Arc::clone(launcher), Arc::clone(&busy));
        let thread = std::thread::Builder::new().spawn(move || {
            let _ = answer(client, &launcher);
            done.fetch_sub(1, Ordering::Relaxed);
        });
        if thread.is_err() {
            busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Sends one away when there are as many as there may be, without waiting for what it asks.
fn refuse(client: &mut Client) {
    let reply = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    // There is room for it, or there is not: nobody waits.
    if client.set_timeout(Duration::from_millis(1)).is_ok() {
        let _ = client.write_all(reply);
        // What is unread would make a reset of the close.
        let _ = client.read(&mut [0; 4096]);
    }
}

/// Answers one request, and closes the connection.
fn answer(mut client: Client, launcher: &OwnedFd) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let asked = loop {
        match understand(&head) {
            Asks::More if head.len() < MOST_HEAD => {}
            asked => break asked,
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        client.set_timeout(left)?;
        let mut part = [0; 1024];
        match client.read(&mut part)? {
            0 => return Ok(()),
            n => head.extend_from_slice(part.get(..n).unwrap_or_default()),
        }
    };
    client.set_timeout(PATIENCE)?;
    let (status, kind, text) = match asked {
        Asks::Metrics { .. } => {
            match ask(launcher).and_then(|figures| metrics::text(figures).map_err(io::Error::other)) {
                Ok(text) => ("200 OK", TYPE, text),
                Err(error) => ("503 Service Unavailable", "text/plain", format!("{error}\n")),
            }
        }
        Asks::Elsewhere => ("404 Not Found", "text/plain", "metrics are at /metrics\n".to_owned()),
        Asks::Otherwise => ("405 Method Not Allowed", "text/plain", "use GET\n".to_owned()),
        Asks::Nonsense | Asks::More => ("400 Bad Request", "text/plain", "no request of HTTP\n".to_owned()),
    };
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let mut reply = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        text.len()
    );
    if !matches!(asked, Asks::Metrics { only_head: true }) {
        reply.push_str(&text);
    }
    client.write_all(reply.as_bytes())
}

/// What a request is (RFC 9112).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Metrics { only_head: bool },
    Elsewhere,
    Otherwise,
    Nonsense,
    More,
}

fn understand(head: &[u8]) -> Asks {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Asks::More,
        Err(_) => return Asks::Nonsense,
    }
    let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
    match (request.method, path) {
        (Some("GET" | "HEAD"), "/metrics" | "/") => {
            Asks::Metrics { only_head: request.method == Some("HEAD") }
        }
        (Some("GET" | "HEAD"), _) => Asks::Elsewhere,
        _ => Asks::Otherwise,
    }
}

/// Asks the sentry for its numbers.
fn ask(launcher: &OwnedFd) -> io::Result<metrics::Figures> {
    let (mut ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    ours.set_read_timeout(Some(PATIENCE))?;
    fdpass::send_now(launcher.as_fd(), b"ask", &[theirs.as_fd()])?;
    drop(theirs);
    let mut line = serde_json::to_vec(&Asked::new(Request::Metrics))?;
    line.push(b'\n');
    ours.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(ours.take(MOST_ANSWER as u64)).read_until(b'\n', &mut answer)?;
    match serde_json::from_slice(&answer) {
        Ok(Answered { answer: Answer::Metrics(figures), .. }) => Ok(figures),
        Ok(_) | Err(_) => Err(io::Error::other("the sandbox does not answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood() {
        let metrics = |only_head| Asks::Metrics { only_head };
        for (text, asks) in [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", metrics(false)),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", metrics(false)),
            ("HEAD / HTTP/1.1\r\n\r\n", metrics(true)),
            ("GET /etc/passwd HTTP/1.1\r\n\r\n", Asks::Elsewhere),
            ("POST /metrics HTTP/1.1\r\n\r\n", Asks::Otherwise),
            ("GET /metrics HTTP/1.1\r\nHost", Asks::More),
            ("", Asks::More),
            ("\u{1}\u{2}\r\n\r\n", Asks::Nonsense),
        ] {
            assert_eq!(understand(text.as_bytes()), asks, "{text:?}");
        }
        let many: String = (0..100).map(|n| format!("a{n}: b\r\n")).collect();
        assert_eq!(understand(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()), Asks::Nonsense);
    }

    #[test]
    fn places_are_read() {
        assert_eq!("unix:/run/m.sock".parse(), Ok(MetricsAddress::Path("/run/m.sock".into())));
        assert_eq!("[::1]:9100".parse(), Ok(MetricsAddress::Port("[::1]:9100".parse().unwrap())));
        for wrong in ["unix:", "9100", "localhost:9100", "127.0.0.1"] {
            assert!(wrong.parse::<MetricsAddress>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_place_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = MetricsAddress::Port(taken.local_addr().unwrap());
        let Err(RunError::Options(text)) = Listening::open(&address).map(drop) else { panic!("it was had") };
        assert!(text.ends_with(": it is taken"), "{text}");
        let path = std::env::temp_dir().join(format!("netgraft-metrics-{}", std::process::id()));
        let first = UnixListener::bind(&path).unwrap();
        let address = MetricsAddress::Path(path.clone());
        assert!(Listening::open(&address).is_err());
        drop(first);
        // What listens no more is in nobody's way, and a file that is no socket stays.
        assert!(Listening::open(&address).is_ok());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        assert!(Listening::open(&address).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        fs::remove_file(&path).unwrap();
    }
}

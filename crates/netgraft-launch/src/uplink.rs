//! passt as the uplink of a sandbox: started or reached by the launcher, asked for what it offers, and ended with the
//! sandbox. It ends by itself when its socket is closed, whoever was killed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use netgraft_link::PasstLink;
use netgraft_link::lease::{Acquire, Lease};
use netgraft_linux::{fdpass, link, unix};
use netgraft_plugin::config::PasstConfig;
use netgraft_plugin::link::{FrameMeta, Link};
use netgraft_plugin::{Error, LinkConfig, StackConfig};

use crate::clock;
use crate::error::RunError;
use crate::publish::{Publish, Transport};

/// What passt takes: 64 KiB of frame without its header, in steps of four.
const MTU: u16 = 65_520;
/// Bytes of what passt said that are told.
const WORDS: usize = 300;

/// A passt that serves the sandbox.
pub(crate) struct Uplink {
    /// The launcher's duplicate, until the sentry has its own.
    socket: OwnedFd,
    /// The one that was started here.
    child: Option<Started>,
    config: PasstConfig,
    publish: Vec<Publish>,
    /// The largest MTU that is asked for.
    most: u16,
}

struct Started {
    child: Child,
    /// What it says.
    errors: File,
}

impl Drop for Started {
    fn drop(&mut self) {
        // Its socket is closed, so it has ended or is about to; it has nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn refused(text: String) -> RunError {
    RunError::Options(text)
}

impl Uplink {
    /// Reaches passt, if the configuration's link is one, and puts what it offers into the configuration: addresses and
    /// gateways unless some are given, the MTU, and name servers if there are none.
    ///
    /// # Errors
    /// [`RunError::Options`]: what is missing, in one line.
    pub(crate) fn prepare(
        config: &mut StackConfig,
        name_servers: &mut Vec<IpAddr>,
        publish: &[Publish],
    ) -> Result<Option<Uplink>, RunError> {
        let mtu = config.wrappers.mtu.unwrap_or(MTU).min(MTU);
        let LinkConfig::Passt(passt) = &mut config.link else { return Ok(None) };
        let no_random = |e| refused(format!("passt: there are no random numbers for an address: {e}"));
        passt.mac = link::random_mac().map_err(no_random)?;
        let (socket, child) = match &passt.socket {
            None => start(publish, mtu).map(|(socket, child)| (socket, Some(child)))?,
            Some(_) if !publish.is_empty() => {
                return Err(refused(
                    "--publish is for a passt that netgraft starts: give --tcp-ports to the one that is running".to_owned(),
                ));
            }
            Some(path) => (reach(path)?, None),
        };
        let mut uplink =
            Uplink { socket, child, config: passt.clone(), publish: publish.to_vec(), most: mtu };
        let Lease { addresses, gateways, name_servers: offered, mtu: said } = uplink.ask()?;
        if config.addresses.is_empty() {
            if addresses.is_empty() {
                return Err(uplink.broken(
                    "it offers no address within 5 s: has this network namespace an uplink itself?",
                ));
            }
            config.addresses = addresses;
            if config.gateways.is_empty() {
                config.gateways = gateways;
            }
        }
        if name_servers.is_empty() {
            *name_servers = offered;
        }
        // 65,520 is what passt offers; something else may say nothing.
        passt.mtu = said.map_or(1500, |said| u16::try_from(said).unwrap_or(MTU)).min(mtu);
        uplink.config = passt.clone();
        Ok(Some(uplink))
    }

    /// A duplicate of the socket for a sentry.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// A socket for a sentry that takes over: another passt's, since nobody knows where in the stream the one before was.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn again(&mut self) -> Result<OwnedFd, RunError> {
        self.child = None;
        let (socket, child) = match &self.config.socket {
            None => start(&self.publish, self.most).map(|(socket, child)| (socket, Some(child)))?,
            Some(path) => (reach(path)?, None),
        };
        (self.socket, self.child) = (socket, child);
        self.socket().map_err(|e| refused(format!("passt: its socket cannot be duplicated: {e}")))
    }

    /// How the passt that was started here has ended, told once.
    pub(crate) fn end(&mut self) -> Option<String> {
        let started = self.child.as_mut()?;
        let status = started.child.try_wait().ok().flatten()?;
        let words = words_of(&mut started.errors);
        self.child = None;
        let words = if words.is_empty() { String::new() } else { format!(": {words}") };
        Some(format!("passt has ended ({status}){words}"))
    }

    fn broken(&mut self, what: &str) -> RunError {
        let place = match &self.config.socket {
            Some(path) => format!("passt at {}", path.display()),
            None => "passt".to_owned(),
        };
        let words = self.child.as_mut().map(|started| words_of(&mut started.errors)).unwrap_or_default();
        let words = if words.is_empty() { words } else { format!(" ({words})") };
        refused(format!("--link passt: {place}: {what}{words}"))
    }

    /// Asks passt what it offers.
    fn ask(&mut self) -> Result<Lease, RunError> {
        let failed = |e: io::Error| refused(format!("passt: its socket cannot be used: {e}"));
        let mac = self.config.mac;
        let mut link = PasstLink::new(self.socket().map_err(failed)?, mac, usize::from(MTU));
        let random = link::random_mac().map_err(failed)?;
        let mut acquire = Acquire::new(mac, u32::from_be_bytes([random[2], random[3], random[4], random[5]]));
        loop {
            let now = clock::now();
            let mut sent = Ok(());
            let go_on = acquire.poll(now, &mut |frame| sent = link.send(now, frame, FrameMeta::default()));
            if !go_on {
                return Ok(acquire.lease());
            }
            let received = sent
                .and_then(|()| link.flush(now))
                .and_then(|()| link.receive(now, 64, &mut |frame| acquire.input(now, frame)));
            match received {
                // An answer may be followed by a question at once.
                Ok(1..) => continue,
                Ok(0) | Err(Error::Again) => {}
                Err(_) => return Err(self.gone()),
            }
            let wait = acquire.next_deadline().since(clock::now());
            fdpass::wait_readable([Some(self.socket.as_fd())], Some(wait)).map_err(failed)?;
        }
    }

    /// passt has closed its end.
    fn gone(&mut self) -> RunError {
        let status = self.child.as_mut().and_then(|started| started.child.wait().ok());
        match status {
            Some(status) => self.broken(&format!("it ended at once, {status}")),
            None => self.broken("it closed the connection; it serves one client at a time"),
        }
    }
}

/// Starts a passt whose socket is its standard input, which every version that has `--fd` takes.
fn start(publish: &[Publish], mtu: u16) -> Result<(OwnedFd, Started), RunError> {
    let failed = |e: io::Error| refused(format!("--link passt: passt cannot be started: {e}"));
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    for end in [&ours, &theirs] {
        widen(end.as_fd()).map_err(failed)?;
    }
    let errors = unnamed_file().map_err(failed)?;
    let mut command = Command::new("passt");
    // The host's own addresses are not reachable through the gateway's.
    command.args(["--foreground", "--quiet", "--no-map-gw", "--fd", "0", "--mtu", &mtu.to_string()]);
    for (option, transport) in [("--tcp-ports", Transport::Tcp), ("--udp-ports", Transport::Udp)] {
        let mut ports = publish.iter().filter(|port| port.transport == transport).peekable();
        if ports.peek().is_none() {
            command.args([option, "none"]);
        }
        for port in ports {
            command.args([option, &port.of_passt()]);
        }
    }
    // Ctrl-C is for the program, which may have something to send still.
    command.process_group(0);
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(errors.try_clone().map_err(failed)?);
    let child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => refused(
            "--link passt: there is no passt here: install the package passt (apt install passt)".to_owned(),
        ),
        _ => failed(e),
    })?;
    unix::set_nonblocking(ours.as_fd(), true).map_err(failed)?;
    Ok((ours.into(), Started { child, errors }))
}

/// Gives a socket the largest buffer that the kernel allows (`net.core.wmem_max`): passt drops frames when its own is full,
/// and sets that of a socket that it accepts in the same way.
fn widen(socket: BorrowedFd<'_>) -> io::Result<()> {
    unix::set_send_buffer(socket, i32::MAX / 2)
}

fn reach(path: &Path) -> Result<OwnedFd, RunError> {
    let place = path.display();
    let failed = |e: io::Error| {
        refused(format!(
            "--link passt:{place}: {e}; is 'passt --socket {place}' running, and without a client?"
        ))
    };
    let socket = UnixStream::connect(path).map_err(failed)?;
    widen(socket.as_fd()).map_err(failed)?;
    unix::set_nonblocking(socket.as_fd(), true).map_err(failed)?;
    Ok(socket.into())
}

/// A file without a name, for words that may never be read.
fn unnamed_file() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open(std::env::temp_dir())
}

/// What passt has said last, in one line.
fn words_of(errors: &mut File) -> String {
    let mut text = Vec::new();
    // Words that cannot be read are no words.
    let _ = errors.rewind().and_then(|()| errors.take(64 * 1024).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    // Where no syslog is, passt complains of that, too.
    let mut lines = text.lines().map(str::trim).filter(|line| {
        !line.is_empty() && !line.contains("to syslog") && !line.starts_with("Don't run as root")
    });
    lines.next_back().unwrap_or_default().chars().take(WORDS).collect()
}

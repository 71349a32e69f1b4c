//! Containers in a sandbox: an OCI runtime makes their processes and hands over their listeners.
//!
//! The runtime (runc 1.1 or later) sends the listener of each process that it makes, the container's first or one of `exec`,
//! to a socket that the container's configuration names (`listenerPath`), with the state of that process as JSON. Who starts a
//! runtime registers at another socket first, and holds that connection for as long as the runtime's process lives: the sandbox
//! ends when there is neither a container nor anybody who may make one.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use netgraft_linux::epoll::{Epoll, EventBuffer, bits};
use netgraft_linux::inspector::{self, Scope};
use netgraft_linux::listener::Listener;
use netgraft_linux::namespace::Namespaces;
use netgraft_linux::nsfd::Namespace;
use netgraft_linux::{fdpass, task};
use netgraft_plugin::{LinkConfig, NetworkType};
use serde::Deserialize;

use crate::control::{self, ToSentry};
use crate::crash::OnCrash;
use crate::datagrams::Datagrams;
use crate::error::RunError;
use crate::launcher::{Incoming, Launcher, step};
use crate::report::Step;
use crate::sentry::NamespaceIds;
use crate::spec::NetworkSpec;
use crate::taken;

/// The most bytes that a runtime says of a process.
const STATE_LIMIT: usize = 1 << 20;
/// The most descriptors that come with it.
const FDS: usize = 16;
/// The name of the listener among the descriptors (`seccompFdName` of the runtime specification).
const LISTENER: &str = "seccompFd";

/// How long a sandbox waits for the first that comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tokens of the two sockets; others follow.
const FRONTS: u64 = 0;
const LISTENERS: u64 = 1;

/// Where containers come to a sandbox. Neither socket blocks.
#[derive(Debug)]
pub struct Gate {
    /// Those that start runtimes connect here.
    pub fronts: UnixListener,
    /// The runtimes send listeners here.
    pub listeners: UnixListener,
    /// The number of the containers' network namespace is written here when the first of them comes.
    pub network: PathBuf,
    /// The number of the host's network namespace, in which no container is.
    pub of_host: u64,
}

/// Moves the calling process, which has one thread, into the network namespace of containers, where there is one already: what a
/// sandbox does on a link then is done there. If it has one interface with addresses, that is the link of a stack with a network
/// of its own, and the addresses are the stack's while the sandbox lives.
///
/// # Errors
/// One line.
pub fn enter(namespace: &Path, network: &mut NetworkSpec) -> Result<(), String> {
    if !matches!(network.kind, NetworkType::Sandbox | NetworkType::Plugin) {
        return Ok(());
    }
    let told = |error: io::Error| format!("{}: {error}", namespace.display());
    Namespace::from_path(namespace).and_then(|there| there.enter(Namespaces::NET)).map_err(told)?;
    let mut found = Vec::new();
    for name in interfaces().map_err(told)? {
        if !taken::of_kernel(&name).map_err(told)?.is_empty() {
            found.push(name);
        }
    }
    match &found[..] {
        [] => Ok(()),
        [name] => {
            network.config.link =
                format!("packet:{name}").parse().map_err(|error| format!("{name}: {error}"))?;
            network.take_address = true;
            // There is no private link for the kernel's: the interface has its name.
            match network.datagrams {
                Datagrams::Kernel => {
                    Err("containers with a link have their datagram sockets from the stack: \
                                          leave 'datagrams' out"
                        .to_owned())
                }
                Datagrams::Auto | Datagrams::Stack => {
                    network.datagrams = Datagrams::Stack;
                    Ok(())
                }
            }
        }
        several => Err(format!(
            "the container has several interfaces with addresses ({}), and a stack takes one over: give it one network, \
             or set the annotation dev.netgraft.network to none",
            several.join(", ")
        )),
    }
}

/// The interfaces of the caller's network namespace but its loopback (proc(5), `/proc/net/dev`).
fn interfaces() -> io::Result<Vec<String>> {
    let text = std::fs::read_to_string("/proc/net/dev")?;
    let names = text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned());
    Ok(names.filter(|name| name != "lo").collect())
}

/// What a sandbox for containers has beside others.
pub(super) struct Containers {
    /// The sentry's way to look into their processes.
    pub(super) inspector: OwnedFd,
    /// Which processes those are.
    scope: Scope,
}

impl Containers {
    /// Starts an inspector.
    pub(super) fn start() -> io::Result<Containers> {
        let scope = Scope::new()?;
        Ok(Containers { inspector: inspector::start(&scope)?, scope })
    }

    /// For the sentry.
    pub(super) fn inspector(&self) -> io::Result<OwnedFd> {
        self.inspector.try_clone()
    }
}

/// Refuses what containers do not have.
pub(super) fn check(network: &NetworkSpec) -> Result<(), String> {
    let not = |what: &str, instead: &str| Err(format!("containers have no {what} yet: {instead}"));
    // The one that their network has ([`enter`]).
    let is_theirs = matches!(network.config.link, LinkConfig::Packet(_)) && network.take_address;
    if network.config.link != LinkConfig::None && !is_theirs || network.veth.is_some() {
        return not(
            "link of their own choice",
            "leave 'link' out, and it is the interface that their engine makes",
        );
    }
    if network.on_crash == OnCrash::Restart {
        return not("restart of a stack that has crashed", "leave 'on-crash' out");
    }
    if network.flows.is_some() || network.metrics.is_some() {
        return not("flows or metrics", "leave those options out");
    }
    if network.limits.is_any() || network.capture.is_some() || !network.name_servers.is_empty() {
        return not("limits, captures or name servers of netgraft's", "their engine has such options");
    }
    Ok(())
}

/// What a runtime says of a process (`ContainerProcessState` of the runtime specification), as far as it matters here.
#[derive(Deserialize)]
struct State {
    fds: Vec<String>,
    pid: u32,
}

/// Who is connected, or lives.
enum Guest {
    /// Somebody who starts a runtime.
    Front(UnixStream),
    /// A runtime, and what it has said so far.
    Runtime(UnixStream, Vec<u8>, Vec<OwnedFd>),
    /// Processes with a listener.
    Processes(OwnedFd),
}

impl Guest {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Guest::Front(stream) | Guest::Runtime(stream, ..) => stream.as_fd(),
            Guest::Processes(listener) => listener.as_fd(),
        }
    }
}

/// The guests of a sandbox.
struct Guests {
    known: HashMap<u64, Guest>,
    next: u64,
    /// Whether anybody has come.
    any: bool,
    /// The containers' network namespace: as long as it is held, no other has its number.
    network: Option<Namespace>,
}

impl Launcher {
    /// Serves containers until nobody is there any more, or a signal says to end.
    pub(super) fn serve_containers(
        &mut self,
        gate: &Gate,
        mut close: impl FnMut() -> bool,
    ) -> Result<(), RunError> {
        let failed = |error| step(Step::Supervise)(error);
        let epoll = Epoll::new().map_err(failed)?;
        epoll.add(gate.fronts.as_fd(), bits::IN, FRONTS).map_err(failed)?;
        epoll.add(gate.listeners.as_fd(), bits::IN, LISTENERS).map_err(failed)?;
        self.guests = Some(epoll);
        let mut guests = Guests { known: HashMap::new(), next: LISTENERS + 1, any: false, network: None };
        let mut buffer = EventBuffer::new(16);
        while !(guests.any && guests.known.is_empty() && close()) {
            // Who has started this may have been killed before it came.
            let patience = if guests.any { None } else { Some(PATIENCE) };
            match self.next(patience)? {
                Some(Incoming::Guests) => {
                    let Some(epoll) = &self.guests else { break };
                    epoll.wait(&mut buffer, Some(Duration::ZERO)).map_err(failed)?;
                    let events: Vec<(u32, u64)> = buffer.events().to_vec();
                    for (_, token) in events {
                        self.on_guest(gate, &mut guests, token);
                    }
                }
                Some(Incoming::Signal(arrived))
                    if [libc::SIGTERM, libc::SIGINT, libc::SIGHUP].contains(&arrived.signal) =>
                {
                    return Ok(());
                }
                Some(incoming) => self.take(incoming)?,
                None => guests.any = true,
            }
        }
        Ok(())
    }

    fn on_guest(&mut self, gate: &Gate, guests: &mut Guests, token: u64) {
        let came = match token {
            FRONTS => gate.fronts.accept().map(|(stream, _)| Guest::Front(stream)),
            LISTENERS => {
                gate.listeners.accept().map(|(stream, _)| Guest::Runtime(stream, Vec::new(), Vec::new()))
            }
            token => return self.on_known(gate, guests, token),
        };
        // Those who have gone again are nobody's business.
        if let Ok(guest) = came {
            self.admit(guests, guest);
        }
    }

    fn admit(&mut self, guests: &mut Guests, guest: Guest) {
        let events = match &guest {
            Guest::Front(stream) | Guest::Runtime(stream, ..) => {
                if stream.set_nonblocking(true).is_err() {
                    return;
                }
                bits::IN | bits::RDHUP
            }
            // Its end is reported in any case.
            Guest::Processes(_) => 0,
        };
        let token = guests.next;
        let added = self.guests.as_ref().map(|epoll| epoll.add(guest.as_fd(), events, token));
        if matches!(added, Some(Ok(()))) {
            guests.next += 1;
            guests.any = true;
            guests.known.insert(token, guest);
        }
    }

    /// Somebody who is there says something, or is gone.
    fn on_known(&mut self, gate: &Gate, guests: &mut Guests, token: u64) {
        let Some(guest) = guests.known.get_mut(&token) else { return };
        let mut state = None;
        let is_over = match guest {
            Guest::Front(stream) => {
                // It has nothing to say.
                match fdpass::receive_some(stream.as_fd(), &mut [0; 64], drop) {
                    Ok(got) => got == 0,
                    Err(error) => error.kind() != io::ErrorKind::WouldBlock,
                }
            }
            Guest::Runtime(stream, text, files) => match hear(stream, text, files) {
                Ok(false) => false,
                Ok(true) => {
                    state = Some((std::mem::take(text), std::mem::take(files)));
                    true
                }
                Err(error) => {
                    tracing::error!("a runtime's message cannot be received: {error}");
                    true
                }
            },
            Guest::Processes(listener) => Listener::is_over(listener.as_fd()),
        };
        if let Some((text, files)) = state {
            match self.take_processes(gate, guests, &text, files) {
                Ok(listener) => self.admit(guests, Guest::Processes(listener)),
                Err(why) => tracing::error!("a container is not served: {why}"),
            }
        }
        if is_over && let Some(guest) = guests.known.remove(&token) {
            if let Some(epoll) = &self.guests {
                let _ = epoll.remove(guest.as_fd());
            }
            // The last duplicate of a listener that is over goes with it.
            self.listeners.retain(|_, listener| !Listener::is_over(listener.as_fd()));
        }
    }

    /// Serves the processes whose listener a runtime has sent.
    fn take_processes(
        &mut self,
        gate: &Gate,
        guests: &mut Guests,
        text: &[u8],
        mut files: Vec<OwnedFd>,
    ) -> Result<OwnedFd, String> {
        let state: State =
            serde_json::from_slice(text).map_err(|e| format!("its runtime says nonsense: {e}"))?;
        let index = state.fds.iter().position(|name| name == LISTENER);
        let index = index.filter(|&index| index < files.len() && files.len() == state.fds.len());
        let listener = files.swap_remove(index.ok_or("its runtime sends no seccompFd")?);
        let of = |kind| task::namespace(state.pid, kind).map_err(|e| format!("process {}: {e}", state.pid));
        let home = NamespaceIds { user: of("user")?, network: of("net")? };
        if self.namespaces.network == 0 {
            if home.network == gate.of_host {
                return Err("it is in the host's network namespace".to_owned());
            }
            let held = Namespace::of_process(state.pid, "net").map_err(|e| e.to_string())?;
            guests.network = Some(held);
            self.namespaces = home;
            if let Some(containers) = &self.plan.sentry.containers {
                containers.scope.set(home.network);
            }
            let ends = self.ends().map_err(|e| e.to_string())?;
            control::send(ends.control.as_fd(), &ToSentry::Home(home)).map_err(|e| e.to_string())?;
            std::fs::write(&gate.network, home.network.to_string())
                .map_err(|e| format!("{}: {e}", gate.network.display()))?;
        } else if self.namespaces.network != home.network {
            return Err("it is in another network namespace than the others of its sandbox".to_owned());
        }
        let processes = of("pid")?;
        if processes != task::own_namespace("pid").map_err(|e| e.to_string())?
            && let Some(containers) = &self.plan.sentry.containers
        {
            containers.scope.add_processes(processes);
        }
        let watched = listener.try_clone().map_err(|e| e.to_string())?;
        self.attach(listener).map_err(|e| e.to_string())?;
        Ok(watched)
    }
}

/// Reads what a runtime says: whether that was all. It keeps the connection (runc does), so the text says where it ends.
fn hear(stream: &UnixStream, text: &mut Vec<u8>, files: &mut Vec<OwnedFd>) -> io::Result<bool> {
    let mut part = [0; 4096];
    loop {
        let received = fdpass::receive_some(stream.as_fd(), &mut part, |file| {
            if files.len() < FDS {
                files.push(file);
            }
        });
        match received {
            Ok(0) => return Ok(true),
            Ok(got) if text.len() + got <= STATE_LIMIT => text.extend_from_slice(&part[..got]),
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(serde_json::from_slice::<State>(text).is_ok());
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_says_may_come_in_parts() {
        use std::io::Write;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (mut text, mut files) = (Vec::new(), Vec::new());
        theirs.write_all(b"{\"fds\":[\"seccompFd\"],").unwrap();
        assert!(!hear(&ours, &mut text, &mut files).unwrap());
        theirs.write_all(b"\"pid\":7,\"state\":{}}").unwrap();
        assert!(hear(&ours, &mut text, &mut files).unwrap());
        let state: State = serde_json::from_slice(&text).unwrap();
        assert_eq!((state.fds, state.pid), (vec![LISTENER.to_owned()], 7));
    }

    #[test]
    fn a_runtime_that_does_not_come_to_an_end_is_cut_off() {
        use std::io::Write;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (mut text, mut files) = (Vec::new(), Vec::new());
        let cut_off = (0..1000).any(|_| {
            let _ = theirs.write(&[b' '; 8192]);
            hear(&ours, &mut text, &mut files).is_err()
        });
        assert!(cut_off && text.len() <= STATE_LIMIT);
    }

    #[test]
    fn options_that_containers_do_not_have_are_refused() {
        let mut network = NetworkSpec::new(NetworkType::Sandbox);
        assert_eq!(check(&network), Ok(()));
        network.on_crash = OnCrash::Restart;
        assert!(check(&network).unwrap_err().contains("on-crash"));
        network.on_crash = OnCrash::default();
        network.config.link = "tap:x0".parse().unwrap();
        assert!(check(&network).unwrap_err().contains("link"));
        network.config.link = "packet:eth0".parse().unwrap();
        network.take_address = true;
        assert_eq!(check(&network), Ok(()));
    }
}

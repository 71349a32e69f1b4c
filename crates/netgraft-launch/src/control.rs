//! What the launcher and the sentry say to each other, one message a packet of a `SOCK_SEQPACKET` pair.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};

use netgraft_core::policy::PolicySpec;
use netgraft_linux::fdpass;
use netgraft_plugin::faults::LinkFaults;
use netgraft_plugin::{Cidr, inet};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sentry::NamespaceIds;

/// A message of the sentry to the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSentry {
    /// The stack is up and has this network: the program may start.
    Ready(Network),
    /// The stack could not be set up, or the sentry cannot go on.
    Failed(String),
    /// The stack says that it cannot go on: why. The sentry ends.
    Broke(String),
    /// Something that the operator should know.
    Warning(String),
    /// The answer to [`ToSentry::Stop`]; the sentry exits after it.
    Summary(Summary),
    /// The sentry's network namespace, in the message's descriptor: its surrogates are known by it, and a sentry
    /// that takes over needs it.
    NetworkNamespace,
    /// The process that holds the sentry's descriptors should it die, as a pidfd in the message's descriptor.
    Keeper,
    /// The launcher slept, and the stack is being called again.
    Busy,
    /// A socket that a sentry which takes over makes again; replaces what was said of this socket before.
    Keep(Kept),
    /// The socket of this cookie is gone.
    Forget(u64),
    /// The faults of the link are these from now on, also those of a sentry that takes over.
    Link(LinkSetting),
    /// The answer to [`ToSentry::Listener`]: the calls of this listener are served from now on.
    Attached(u32),
    /// The answer to [`ToSentry::Listener`] if the sentry does not serve it: why.
    NotAttached(u32, String),
    /// A part of the rules that the operator has set, which a sentry that takes over keeps: with all settings and some rules.
    Policy {
        /// The part.
        spec: PolicySpec,
        /// Whether more parts follow.
        more: bool,
    },
}

/// The most rules of a part of [`FromSentry::Policy`].
pub const RULES_A_PART: usize = 400;

/// The faults of a link, as [`netgraft_plugin::faults::Faults`] are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSetting {
    /// Those of frames to the stack.
    pub incoming: String,
    /// Those of frames from it.
    pub outgoing: String,
    /// Decides which frames they meet.
    pub seed: u64,
}

impl LinkSetting {
    /// The faults and the seed; `None` if the texts are none.
    #[must_use]
    pub fn parse(&self) -> Option<(LinkFaults, u64)> {
        let (incoming, outgoing) = (self.incoming.parse().ok()?, self.outgoing.parse().ok()?);
        Some((LinkFaults { incoming, outgoing }, self.seed))
    }
}

/// A socket of the program that outlives its stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The program's open file (`SO_COOKIE`).
    pub cookie: u64,
    /// The surrogate's name.
    pub name: u64,
    /// What it does.
    pub role: KeptRole,
    /// The address that it was bound to; unspecified with port 0 if it was not.
    pub address: SocketAddr,
    /// The peer of a datagram socket that was connected.
    pub peer: Option<SocketAddr>,
    /// `SO_REUSEADDR`, `SO_REUSEPORT` and `IPV6_V6ONLY`, where they were on.
    pub on: Vec<KeptOption>,
    /// Thread and descriptor of the program where it was last seen, as the sentry's process-id namespace has them.
    pub seen: Option<(u32, i32)>,
}

/// What a kept socket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeptRole {
    /// A TCP socket that listens with this backlog.
    Listener(u32),
    /// A UDP socket.
    Datagrams,
}

/// An option of a kept socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeptOption {
    /// `SO_REUSEADDR`
    ReuseAddress,
    /// `SO_REUSEPORT`
    ReusePort,
    /// `IPV6_V6ONLY`
    V6Only,
}

/// A message of the launcher to the sentry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSentry {
    /// The program has ended: reset what is open, say what happened, exit.
    Stop,
    /// Another program's listener, in the message's descriptor, and its place in [`crate::vitals::Vitals`]. The sentry
    /// answers with [`FromSentry::Attached`] or [`FromSentry::NotAttached`]. A listener whose last process has ended
    /// hangs up, and its place is then given to another.
    Listener(u32),
    /// Somebody wants to speak with the sentry ([`crate::operator`]), by the message's descriptor, a stream that does not
    /// block.
    Operator,
    /// A private link, with its packet socket in the message's descriptor.
    PrivateLink(PrivateLink),
    /// What observes the programs' datagram sockets, in the message's descriptor.
    Observer,
    /// The namespaces of the programs, before the first of them comes.
    Home(NamespaceIds),
}

/// A device of the programs' network namespace whose frames pass between the kernel and the sentry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateLink {
    /// Index of the stack's interface that it shows.
    pub interface: u32,
    /// Ethernet address of the programs' end.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: u32,
}

/// The most interfaces, routes, and addresses of an interface that [`Network`] may have.
pub const MAX_LISTED: usize = 16;
/// The most bytes that an interface's name has (netdevice(7)).
pub const MAX_NAME: usize = 15;

/// What a stack has beside its loopback, as the sentry says; the receiver must check it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
    /// The routes through these.
    pub routes: Vec<Route>,
    /// They are the host's own, seen on every start: what shows them must be cheap rather than alike in all.
    #[serde(default)]
    pub of_host: bool,
}

/// An interface of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A route of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads, with the prefix length.
    pub destination: (IpAddr, u8),
    /// The next hop; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the interface.
    pub interface: u32,
}

impl Network {
    /// The network of a stack. Lists and names that are too long are cut so that the message stays short and
    /// its receiver still sees that they are too long.
    #[must_use]
    pub fn of(stack: &(impl inet::Stack + ?Sized)) -> Network {
        let pair = |cidr: Cidr| (cidr.addr(), cidr.prefix());
        let interfaces: Vec<Interface> = stack
            .interfaces()
            .into_iter()
            .filter(|interface| !interface.loopback)
            .take(MAX_LISTED + 1)
            .map(|interface| Interface {
                index: interface.index,
                name: interface.name.chars().take(MAX_NAME + 1).collect(),
                mtu: interface.mtu,
                up: interface.up,
                mac: interface.hardware_address,
                addresses: interface.addresses.into_iter().take(MAX_LISTED + 1).map(pair).collect(),
            })
            .collect();
        if interfaces.is_empty() {
            return Network::default();
        }
        let routes = stack
            .routes()
            .into_iter()
            .filter(|route| interfaces.iter().any(|interface| interface.index == route.interface))
            .take(MAX_LISTED + 1)
            .map(|route| Route {
                destination: pair(route.destination),
                gateway: route.gateway,
                interface: route.interface,
            })
            .collect();
        Network { interfaces, routes, of_host: false }
    }

    /// The same of the host's own network: of its devices those that carry addresses, which getaddrinfo(3) asks for
    /// (`AI_ADDRCONFIG`).
    #[must_use]
    pub fn of_host(stack: &(impl inet::Stack + ?Sized)) -> Network {
        let mut network = Network::of(stack);
        network.interfaces.retain(|interface| interface.up && !interface.addresses.is_empty());
        network.of_host = true;
        network
    }
}

/// What happened in a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The stack's name and version.
    pub stack: String,
    /// Sockets that the program made.
    pub sockets: u64,
    /// Connections that it opened.
    pub connections_out: u64,
    /// Connections that it accepted.
    pub connections_in: u64,
    /// How many of either went from one program of the sandbox to another, past the stack.
    pub connections_joined: u64,
    /// Payload bytes that the program received from the stack.
    pub bytes_received: u64,
    /// Payload bytes that the program gave to the stack.
    pub bytes_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// IP packets that the stack received and sent.
    pub packets: (u64, u64),
    /// System calls that were answered by the sentry.
    pub calls: u64,
    /// Flows that the policy has denied.
    #[serde(default)]
    pub denied: u64,
}

/// The most bytes that a message has.
const LIMIT: usize = 64 * 1024;

/// Sends a message ([`FromSentry`] or [`ToSentry`]).
///
/// # Errors
/// [`io::ErrorKind::BrokenPipe`] if the other side is gone.
pub fn send<T: Serialize>(control: BorrowedFd<'_>, message: &T) -> io::Result<()> {
    fdpass::send(control, &serde_json::to_vec(message)?, &[])
}

/// The same, without waiting for room.
///
/// # Errors
/// As [`send`], and [`io::ErrorKind::WouldBlock`].
pub fn send_at_once<T: Serialize>(control: BorrowedFd<'_>, message: &T) -> io::Result<()> {
    fdpass::send_now(control, &serde_json::to_vec(message)?, &[])
}

/// Sends a message with a descriptor.
///
/// # Errors
/// As [`send`].
pub fn send_with_fd<T: Serialize>(
    control: BorrowedFd<'_>,
    message: &T,
    fd: BorrowedFd<'_>,
) -> io::Result<()> {
    fdpass::send(control, &serde_json::to_vec(message)?, &[fd])
}

/// Sends a message with a descriptor, without waiting for room.
///
/// # Errors
/// As [`send`], and [`io::ErrorKind::WouldBlock`].
pub fn send_with_fd_now<T: Serialize>(
    control: BorrowedFd<'_>,
    message: &T,
    fd: BorrowedFd<'_>,
) -> io::Result<()> {
    fdpass::send_now(control, &serde_json::to_vec(message)?, &[fd])
}

/// Receives a message; `None` if the other side is gone. Blocks unless the descriptor does not.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for what is no message, [`io::ErrorKind::WouldBlock`].
pub fn receive<T: DeserializeOwned>(control: BorrowedFd<'_>) -> io::Result<Option<T>> {
    Ok(receive_with_fds(control)?.map(|(message, _)| message))
}

/// The same, with the descriptors that came along.
///
/// # Errors
/// As [`receive`].
pub fn receive_with_fds<T: DeserializeOwned>(
    control: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let received = match fdpass::receive(control, LIMIT) {
        // The other side closed with messages of this one unread. The kernel says that once, before what it sent itself.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => fdpass::receive(control, LIMIT),
        received => received,
    };
    match received? {
        None => Ok(None),
        Some((bytes, fds)) => Ok(Some((serde_json::from_slice(&bytes)?, fds))),
    }
}

//! Where the traffic of a socket goes: one decision, asked in one place for each call that names an address.
//!
//! The flow that is decided on was copied from the program and checked before, and what is decided on is what is done:
//! a program cannot change it in between.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netgraft_plugin::{Kind, SocketSpec};
use serde::{Deserialize, Serialize};

use crate::table::SocketId;

use crate::uapi::{self, Errno};

/// What is to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flow {
    /// A socket is made (socket(2)): what will stand behind it.
    Socket(SocketSpec),
    /// A stream socket connects (connect(2)).
    Connect(SocketSpec, SocketAddr),
    /// A socket takes a local address (bind(2)).
    Bind(SocketSpec, SocketAddr),
    /// A stream socket listens (listen(2)).
    Listen(SocketSpec),
    /// A datagram goes to an address, or a datagram socket gets a peer (sendto(2), connect(2)).
    Datagram(SocketSpec, SocketAddr),
    /// A connection or a datagram has come: to the first address, from the second.
    Incoming(SocketSpec, SocketAddr, SocketAddr),
}

impl Flow {
    /// The socket whose flow it is.
    #[must_use]
    pub const fn spec(&self) -> SocketSpec {
        match *self {
            Flow::Socket(spec)
            | Flow::Connect(spec, _)
            | Flow::Bind(spec, _)
            | Flow::Listen(spec)
            | Flow::Datagram(spec, _)
            | Flow::Incoming(spec, _, _) => spec,
        }
    }

    /// The same flow to the loopback, if it goes to an address of the sandbox's own.
    pub(crate) fn within(&self, is_own: impl Fn(IpAddr) -> bool) -> Option<Flow> {
        let inner = |addr: SocketAddr| {
            let ip = addr.ip().to_canonical();
            let loopback = if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            is_own(ip).then(|| SocketAddr::new(loopback, addr.port()))
        };
        match *self {
            Flow::Connect(spec, addr) => inner(addr).map(|addr| Flow::Connect(spec, addr)),
            Flow::Datagram(spec, addr) => inner(addr).map(|addr| Flow::Datagram(spec, addr)),
            Flow::Incoming(spec, local, peer) => inner(peer).map(|peer| Flow::Incoming(spec, local, peer)),
            Flow::Socket(_) | Flow::Bind(..) | Flow::Listen(_) => None,
        }
    }
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// The sandbox's stack.
    Stack,
    /// This listener of the same sandbox, past the stack. Only [`crate::Core`] decides so, within [`Route::Stack`].
    Joined(SocketId),
    /// A socket of the host's.
    Host,
    /// The kernel of the sandbox's own network namespace: a datagram or raw socket where nothing but the loopback can be
    /// reached.
    Kernel,
    /// Nowhere.
    Denied(Denial),
}

/// The errno with which a denied flow fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Denial {
    /// EACCES, as a firewall that rejects locally.
    AccessDenied,
    /// ECONNREFUSED, as a host on which nothing listens.
    Refused,
}

impl Denial {
    /// What the call answers.
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            Denial::AccessDenied => uapi::EACCES,
            Denial::Refused => uapi::ECONNREFUSED,
        }
    }
}

/// Decides on flows.
pub trait Router: Send {
    /// The route of a flow.
    fn route(&mut self, flow: &Flow) -> Route;

    /// Whether nothing is ever denied, so that what comes in need not be asked about.
    fn is_open(&self) -> bool {
        true
    }

    /// Whether what goes to an address of the stack's own is decided as what goes over the loopback.
    fn own_is_loopback(&self) -> bool {
        false
    }

    /// Whether a rule decides on a flow, and not what holds where no rule is about it.
    fn decides_by_rule(&self, flow: &Flow) -> bool {
        let _ = flow;
        false
    }

    /// How many rules it has.
    fn rules(&self) -> usize {
        0
    }

    /// Why it decides so on a flow, for the operator.
    fn reason(&self, flow: &Flow) -> Option<String> {
        let _ = flow;
        None
    }
}

/// One route for everything.
#[derive(Clone, Copy, Debug)]
pub struct Always(pub Route);

impl Router for Always {
    fn route(&mut self, _flow: &Flow) -> Route {
        self.0
    }
}

/// One route for streams, and one for datagram and raw sockets.
#[derive(Clone, Copy, Debug)]
pub struct ByKind {
    /// That of streams.
    pub streams: Route,
    /// That of datagram and raw sockets.
    pub datagrams: Route,
}

impl Router for ByKind {
    fn route(&mut self, flow: &Flow) -> Route {
        match flow.spec().kind {
            Kind::Stream => self.streams,
            Kind::Datagram | Kind::Raw => self.datagrams,
        }
    }
}

#[cfg(test)]
mod tests {
    use netgraft_plugin::{Domain, Protocol};

    use super::*;

    #[test]
    fn datagrams_have_a_route_of_their_own() {
        let mut routes = ByKind { streams: Route::Stack, datagrams: Route::Kernel };
        let spec = |kind| SocketSpec { domain: Domain::V4, kind, protocol: Protocol::Udp };
        assert_eq!(routes.route(&Flow::Socket(spec(Kind::Stream))), Route::Stack);
        assert_eq!(routes.route(&Flow::Socket(spec(Kind::Datagram))), Route::Kernel);
        assert_eq!(routes.route(&Flow::Socket(spec(Kind::Raw))), Route::Kernel);
    }

    #[test]
    fn a_denial_has_the_errno_that_it_names() {
        assert_eq!(Denial::AccessDenied.errno(), 13);
        assert_eq!(Denial::Refused.errno(), 111);
    }
}

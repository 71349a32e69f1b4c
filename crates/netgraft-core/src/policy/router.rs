//! The policy as a router: what it allows goes where it would go without it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use netgraft_plugin::{Kind, Protocol as SocketProtocol, SocketSpec};

use super::rule::{Direction, Protocol};
use super::{Loopback, Policy, Reason, Verdict};
use crate::route::{ByKind, Flow, Route, Router};

/// Denies what a policy does not allow.
#[derive(Clone, Debug)]
pub struct PolicyRouter {
    /// Where the rest goes.
    pub routes: ByKind,
    /// What decides.
    pub policy: Arc<Policy>,
}

impl PolicyRouter {
    fn verdict(&self, flow: &Flow) -> Option<Verdict> {
        let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let decide = |direction, local, remote| {
            Some(self.policy.decide(direction, protocol(flow.spec()), local, remote))
        };
        match *flow {
            Flow::Socket(spec) if spec.kind == Kind::Raw => Some(self.policy.allows_raw()),
            Flow::Socket(_) => None,
            Flow::Connect(_, peer) | Flow::Datagram(_, peer) => decide(Direction::Out, nobody, peer),
            Flow::Bind(_, local) => decide(Direction::Bind, local, nobody),
            Flow::Listen(_) => None,
            Flow::Incoming(_, local, peer) => decide(Direction::In, local, peer),
        }
    }
}

impl Router for PolicyRouter {
    fn route(&mut self, flow: &Flow) -> Route {
        match self.verdict(flow) {
            Some(verdict) if !verdict.is_allowed() => Route::Denied(self.policy.denial()),
            _ => self.routes.route(flow),
        }
    }

    fn is_open(&self) -> bool {
        false
    }

    fn own_is_loopback(&self) -> bool {
        self.policy.spec().loopback == Loopback::OfSandbox
    }

    fn decides_by_rule(&self, flow: &Flow) -> bool {
        self.verdict(flow).is_some_and(|verdict| matches!(verdict.reason, Reason::Rule(_)))
    }

    fn rules(&self) -> usize {
        self.policy.spec().rules.len()
    }

    fn reason(&self, flow: &Flow) -> Option<String> {
        self.verdict(flow).map(|verdict| self.policy.reason_text(verdict))
    }
}

/// What a socket speaks.
pub(crate) fn protocol(spec: SocketSpec) -> Protocol {
    match spec.protocol {
        SocketProtocol::Tcp => Protocol::Tcp,
        SocketProtocol::Udp => Protocol::Udp,
        SocketProtocol::Icmp | SocketProtocol::Icmpv6 => Protocol::Icmp,
        SocketProtocol::Raw(_) => Protocol::Raw,
    }
}

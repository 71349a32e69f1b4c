//! Who may talk to whom: rules of the operator's, of which the first that is about a flow decides.
//!
//! [`Policy::decide`] is the decision, and a pure function: it is asked about what was copied from a program, or stands in a
//! packet, so that nobody can change it afterwards. What no rule is about, the default decides, each direction by itself:
//!
//! - **out** and **in**: as the operator says; else denied if there is any rule that allows, and allowed if all rules deny.
//! - **bind**: allowed, unless a rule allows a bind: then what the rules do not allow is denied, but for ports that the stack
//!   chooses.
//!
//! Three kinds of addresses are not meant by rules that mean more than them ([`Place`]): private networks, metadata services and
//! the loopback. To the first two nothing goes out that a rule does not name, and not to the host's loopback either. What goes
//! over the loopback of the sandbox itself stays in it: that is allowed but for rules about loopback addresses.
//!
//! A datagram that comes is allowed if one to where it comes from is: it is taken for an answer. The other way round what a
//! rule has let in may be answered ([`Heard`]).

mod file;
mod heard;
mod index;
mod place;
mod router;
mod rule;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use file::{PolicyError, PolicyFile};
pub use heard::Heard;
pub use place::{Net, Place, led_to, plain};
pub use router::PolicyRouter;
pub(crate) use router::protocol as protocol_of;
pub use rule::{Action, Direction, Protocol, Rule, RuleError, parse_flow};

pub use crate::route::Denial;
use index::Index;

/// The most rules of a policy.
pub const MOST_RULES: usize = 65_536;

/// Whose the loopback is that a program reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loopback {
    /// The sandbox's own.
    #[default]
    OfSandbox,
    /// The host's, with its sockets.
    OfHost,
}

/// What a policy is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySpec {
    /// The rules, the first one first.
    pub rules: Vec<Rule>,
    /// What becomes of flows that no rule is about, out and in.
    pub default: Option<Action>,
    /// Whether rules about more than private networks are about these, too.
    pub allow_private: bool,
    /// What a call answers that is denied.
    pub deny_with: Option<Denial>,
    /// Whose the loopback is. The sandbox knows that, and no message says it.
    #[serde(skip)]
    pub loopback: Loopback,
}

impl PolicySpec {
    /// Whether there is nothing in it: then there is no policy, and everything is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.default.is_none()
    }
}

/// Why a flow is allowed or denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// By the rule of this number, from 0.
    Rule(usize),
    /// No rule is about it.
    Default,
    /// It goes to a special address, which no rule names.
    Unnamed(Place),
    /// It stays in the sandbox.
    WithinSandbox,
    /// It may be an answer.
    Answer,
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of the flow.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

impl Verdict {
    /// Whether the flow may be.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.action == Action::Allow
    }
}

/// Rules, ready to decide: in a time that does not grow with their number, but for rules about the same network.
#[derive(Debug)]
pub struct Policy {
    spec: PolicySpec,
    indices: [[Index; Protocol::ALL.len()]; Direction::ALL.len()],
    defaults: [Action; Direction::ALL.len()],
}

impl Policy {
    /// A policy of these rules; more than [`MOST_RULES`] are left out.
    #[must_use]
    pub fn new(mut spec: PolicySpec) -> Policy {
        spec.rules.truncate(MOST_RULES);
        let mut indices: [[Index; Protocol::ALL.len()]; Direction::ALL.len()] = Default::default();
        for (number, rule) in spec.rules.iter().enumerate() {
            for (protocol, index) in Protocol::ALL.into_iter().zip(&mut indices[rule.direction as usize]) {
                if rule.speaks(protocol) {
                    index.add(number, &rule.net);
                }
            }
        }
        let allows = |of: fn(Direction) -> bool| {
            spec.rules.iter().any(|rule| rule.action == Action::Allow && of(rule.direction))
        };
        let otherwise = |allows| if allows { Action::Deny } else { Action::Allow };
        let default = spec.default.unwrap_or(otherwise(allows(|_| true)));
        let bind = otherwise(allows(|direction| direction == Direction::Bind));
        Policy { spec, indices, defaults: [default, default, bind] }
    }

    /// What it is made of.
    #[must_use]
    pub fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    /// The errno of a call that is denied.
    #[must_use]
    pub fn denial(&self) -> Denial {
        self.spec.deny_with.unwrap_or(Denial::AccessDenied)
    }

    /// What becomes of flows in a direction that no rule is about.
    #[must_use]
    pub fn default_of(&self, direction: Direction) -> Action {
        self.defaults[direction as usize]
    }

    /// Decides on a flow between a socket's own address and a peer's. Of [`Direction::Out`] the own address does not matter, of
    /// [`Direction::Bind`] the peer's.
    #[must_use]
    pub fn decide(
        &self,
        direction: Direction,
        protocol: Protocol,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Verdict {
        match direction {
            Direction::Out => self.decide_out(protocol, remote),
            Direction::In => self.decide_in(protocol, local, remote),
            Direction::Bind => self.decide_bind(protocol, local),
        }
    }

    /// Whether programs may make sockets that write their addresses themselves.
    #[must_use]
    pub fn allows_raw(&self) -> Verdict {
        let index = &self.indices[Direction::Out as usize][Protocol::Raw as usize];
        // They are about all addresses.
        let any = IpAddr::from([192, 0, 2, 1]);
        self.verdict(index.first(&self.spec.rules, any, 0, |_| true), Action::Deny)
    }

    /// Whether a rule is about what datagram sockets do on the loopback of the sandbox.
    #[must_use]
    pub fn concerns_loopback_datagrams(&self) -> bool {
        let datagrams = |rule: &Rule| rule.speaks(Protocol::Udp) || rule.speaks(Protocol::Icmp);
        self.spec.rules.iter().any(|rule| {
            datagrams(rule) && (rule.direction == Direction::Bind || Place::Loopback.is_named_by(&rule.net))
        })
    }

    /// A text for the operator: by which rule, or why without one.
    #[must_use]
    pub fn reason_text(&self, verdict: Verdict) -> String {
        match verdict.reason {
            Reason::Rule(number) => match self.spec.rules.get(number) {
                Some(rule) => format!("rule {}, '{rule}'", number + 1),
                None => format!("rule {}", number + 1),
            },
            Reason::Default => "no rule is about it".to_owned(),
            Reason::Unnamed(Place::Metadata) => "a metadata service that no rule names".to_owned(),
            Reason::Unnamed(Place::Loopback) => "the host's loopback, which no rule names".to_owned(),
            Reason::Unnamed(_) => "a private network that no rule names (--allow-private)".to_owned(),
            Reason::WithinSandbox => "it stays in the sandbox".to_owned(),
            Reason::Answer => "it may be an answer".to_owned(),
        }
    }

    fn index(&self, direction: Direction, protocol: Protocol) -> &Index {
        &self.indices[direction as usize][protocol as usize]
    }

    fn verdict(&self, rule: Option<usize>, otherwise: Action) -> Verdict {
        let by_rule = rule.and_then(|number| Some((number, self.spec.rules.get(number)?.action)));
        match by_rule {
            Some((number, action)) => Verdict { action, reason: Reason::Rule(number) },
            None => Verdict { action: otherwise, reason: Reason::Default },
        }
    }

    fn decide_out(&self, protocol: Protocol, remote: SocketAddr) -> Verdict {
        if protocol == Protocol::Raw {
            return self.allows_raw();
        }
        let (ip, port) = (plain(remote.ip()), remote.port());
        let verdict = self.decide_place(protocol, ip, port);
        match led_to(ip) {
            // Both must be allowed: what the program names, and where that leads.
            Some(inner) if verdict.is_allowed() => self.decide_place(protocol, inner, port),
            _ => verdict,
        }
    }

    fn decide_place(&self, protocol: Protocol, ip: IpAddr, port: u16) -> Verdict {
        let index = self.index(Direction::Out, protocol);
        let place = Place::of(ip);
        let names = |rule: &Rule| place.is_named_by(&rule.net);
        match (place, self.spec.loopback) {
            (Place::Public, _) => {}
            (Place::Private, _) if self.spec.allow_private => {}
            (Place::Loopback, Loopback::OfSandbox) => {
                return match index.first(&self.spec.rules, ip, port, names) {
                    Some(number) => self.verdict(Some(number), Action::Allow),
                    None => Verdict { action: Action::Allow, reason: Reason::WithinSandbox },
                };
            }
            (Place::Private | Place::Metadata | Place::Loopback, _) => {
                let counts = |rule: &Rule| rule.action == Action::Deny || names(rule);
                return match index.first(&self.spec.rules, ip, port, counts) {
                    Some(number) => self.verdict(Some(number), Action::Deny),
                    None => Verdict { action: Action::Deny, reason: Reason::Unnamed(place) },
                };
            }
        }
        let first = index.first(&self.spec.rules, ip, port, |_| true);
        self.verdict(first, self.defaults[Direction::Out as usize])
    }

    fn decide_in(&self, protocol: Protocol, local: SocketAddr, remote: SocketAddr) -> Verdict {
        if protocol == Protocol::Raw {
            return self.allows_raw();
        }
        let (ip, port) = (remote.ip().to_canonical(), local.port());
        let index = self.index(Direction::In, protocol);
        if Place::of(ip) == Place::Loopback && self.spec.loopback == Loopback::OfSandbox {
            let names = |rule: &Rule| Place::Loopback.is_named_by(&rule.net);
            return match index.first(&self.spec.rules, ip, port, names) {
                Some(number) => self.verdict(Some(number), Action::Allow),
                None => Verdict { action: Action::Allow, reason: Reason::WithinSandbox },
            };
        }
        let first = index.first(&self.spec.rules, ip, port, |_| true);
        let verdict = self.verdict(first, self.defaults[Direction::In as usize]);
        let is_datagram = matches!(protocol, Protocol::Udp | Protocol::Icmp);
        // Nobody is asked under the unspecified address, so that nobody answers from it.
        let is_answer = is_datagram && !ip.is_unspecified();
        if !verdict.is_allowed() && is_answer && self.decide_out(protocol, remote).is_allowed() {
            return Verdict { action: Action::Allow, reason: Reason::Answer };
        }
        verdict
    }

    fn decide_bind(&self, protocol: Protocol, local: SocketAddr) -> Verdict {
        let (ip, port) = (local.ip().to_canonical(), local.port());
        let verdict = self.decide_bind_to(protocol, ip, port);
        let all_of_v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        if ip.is_ipv6() && ip.is_unspecified() && verdict.is_allowed() {
            // Whether it takes the addresses of IPv4 as well (ipv6(7), IPV6_V6ONLY) may change after this.
            let other = self.decide_bind_to(protocol, all_of_v4, port);
            return if other.is_allowed() { verdict } else { other };
        }
        verdict
    }

    fn decide_bind_to(&self, protocol: Protocol, ip: IpAddr, port: u16) -> Verdict {
        let first = if ip.is_unspecified() {
            // All addresses are taken at once: what may not be taken alone may not be among them.
            let about = |rule: &Rule| {
                let is_bind =
                    rule.direction == Direction::Bind && rule.speaks(protocol) && rule.has_port(port);
                is_bind && (rule.action == Action::Deny || rule.net.contains(ip))
            };
            self.spec.rules.iter().position(about)
        } else {
            self.index(Direction::Bind, protocol).first(&self.spec.rules, ip, port, |_| true)
        };
        let otherwise = if port == 0 { Action::Allow } else { self.defaults[Direction::Bind as usize] };
        self.verdict(first, otherwise)
    }
}

/// A policy that is shared.
pub type Shared = Arc<Policy>;

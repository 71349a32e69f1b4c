//! Rules that a run would have needed, from its flows (`--learn`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use netgraft_core::policy::{Action, Direction, Net, Protocol, Rule};

use crate::flows::{DENIED, FlowEntry};

/// The most rules that are written: as many as fit into a policy, with room for what people add.
const MOST: usize = 60_000;
/// The most denied flows that are named.
const MOST_DENIED: usize = 1000;
/// From more addresses than this to one port, a rule is about all addresses.
const MOST_CLIENTS: usize = 16;

/// A destination: protocol, address, and port where there are ports.
type Target = (u8, IpAddr, Option<u16>);

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// Whether the loopback and the addresses are the host's, so that nothing stays in the sandbox.
    of_host: bool,
    out: BTreeSet<Target>,
    /// Who came in, by protocol and own port.
    clients: BTreeMap<(u8, Option<u16>), BTreeSet<IpAddr>>,
    is_raw: bool,
    denied: BTreeSet<String>,
    /// Flows that found no room.
    left_out: u64,
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp];

impl Learned {
    /// Nothing was seen yet, in a sandbox with the host's network or one of its own.
    pub(crate) fn new(of_host: bool) -> Learned {
        Learned { of_host, ..Learned::default() }
    }

    /// Notes a flow. What stays in the sandbox needs no rule.
    pub(crate) fn note(&mut self, flow: &FlowEntry) {
        if flow.ended == DENIED {
            if self.denied.len() < MOST_DENIED {
                self.denied.insert(denied_text(flow));
            }
            return;
        }
        if flow.protocol == Protocol::Raw {
            self.is_raw = true;
            return;
        }
        let Some(remote) = flow.remote else { return };
        let ip = remote.ip().to_canonical();
        let is_own = flow.local.is_some_and(|local| local.ip().to_canonical() == ip);
        if !self.of_host && (flow.joined || ip.is_loopback() || is_own) {
            return;
        }
        if flow.joined && flow.direction == Direction::Out {
            // It comes in as well, from this address.
            let other = FlowEntry {
                direction: Direction::In,
                local: flow.remote,
                remote: flow.local,
                ..flow.clone()
            };
            self.note(&other);
        }
        let port = match (flow.direction, flow.local) {
            _ if flow.protocol == Protocol::Icmp => None,
            (Direction::Out, _) => Some(remote.port()),
            (_, Some(local)) => Some(local.port()),
            (_, None) => return,
        };
        // No rule names it.
        if port == Some(0) {
            return;
        }
        if self.count() >= MOST {
            self.left_out += 1;
            return;
        }
        let protocol = flow.protocol as u8;
        match flow.direction {
            Direction::Out => {
                self.out.insert((protocol, ip, port));
            }
            Direction::In => {
                let clients = self.clients.entry((protocol, port)).or_default();
                if clients.len() <= MOST_CLIENTS {
                    clients.insert(ip);
                }
            }
            Direction::Bind => {}
        }
    }

    fn count(&self) -> usize {
        self.out.len() + self.clients.len() * (MOST_CLIENTS + 1)
    }

    /// A policy file that allows what was seen, and nothing else.
    pub(crate) fn text(&self) -> String {
        let mut text =
            String::from("# What a run needed, as netgraft has seen it: look at it before it is used.\n");
        if self.left_out > 0 {
            let _ = writeln!(text, "# {} flows to still more addresses are left out.", self.left_out);
        }
        text.push_str("default = \"deny\"\nrules = [\n");
        if self.is_raw {
            text.push_str("  \"allow raw any\",\n");
        }
        for &(protocol, ip, port) in &self.out {
            line(&mut text, Direction::Out, protocol, (Net::of(ip), port), "");
        }
        for (&(protocol, port), clients) in &self.clients {
            if clients.len() > MOST_CLIENTS {
                let why = format!(" # from more than {MOST_CLIENTS} addresses");
                line(&mut text, Direction::In, protocol, (Net::Any, port), &why);
                continue;
            }
            for &ip in clients {
                line(&mut text, Direction::In, protocol, (Net::of(ip), port), "");
            }
        }
        text.push_str("]\n");
        if !self.denied.is_empty() {
            text.push_str("# Denied, and not among them:\n");
            for denied in &self.denied {
                let _ = writeln!(text, "#   {denied}");
            }
        }
        text
    }
}

fn line(
    text: &mut String,
    direction: Direction,
    protocol: u8,
    (net, port): (Net, Option<u16>),
    comment: &str,
) {
    let protocol = PROTOCOLS.into_iter().find(|known| *known as u8 == protocol);
    let rule = Rule { action: Action::Allow, direction, protocol, net, ports: port.map(|port| port..=port) };
    let _ = writeln!(text, "  \"{rule}\",{comment}");
}

fn denied_text(flow: &FlowEntry) -> String {
    let mut text = format!("{} {}", flow.direction, flow.protocol);
    if let Some(remote) = flow.remote {
        let _ = write!(text, " {remote}");
    }
    if let (Direction::In | Direction::Bind, Some(local)) = (flow.direction, flow.local) {
        let _ = write!(text, " to {local}");
    }
    text
}

#[cfg(test)]
mod tests {
    use netgraft_core::policy::{Policy, PolicyFile};

    use super::*;
    use crate::flows::tests::flow;

    fn policy(learned: &Learned) -> Policy {
        let text = learned.text();
        match PolicyFile::parse(&text) {
            Ok(file) => Policy::new(file.spec),
            Err(error) => panic!("{error}\n{text}"),
        }
    }

    #[test]
    fn what_was_learned_allows_the_same_run_and_no_other() {
        let mut learned = Learned::default();
        let flows = [
            flow(Direction::Out, Protocol::Tcp, "198.51.100.1:443"),
            flow(Direction::Out, Protocol::Udp, "10.0.0.53:53"),
            flow(Direction::Out, Protocol::Tcp, "169.254.169.254:80"),
            flow(Direction::Out, Protocol::Icmp, "[2001:db8::1]:0"),
            flow(Direction::Out, Protocol::Tcp, "[::ffff:198.51.100.9]:443"),
            flow(Direction::In, Protocol::Tcp, "203.0.113.5:50000"),
        ];
        flows.iter().for_each(|flow| learned.note(flow));
        let policy = policy(&learned);
        let decides = |flow: &FlowEntry| {
            policy
                .decide(flow.direction, flow.protocol, flow.local.unwrap(), flow.remote.unwrap())
                .is_allowed()
        };
        assert!(flows.iter().all(decides), "{}", learned.text());
        for other in [
            flow(Direction::Out, Protocol::Udp, "198.51.100.1:443"),
            flow(Direction::Out, Protocol::Tcp, "198.51.100.1:80"),
            flow(Direction::Out, Protocol::Tcp, "198.51.100.2:443"),
            flow(Direction::In, Protocol::Tcp, "203.0.113.6:50000"),
        ] {
            assert!(!decides(&other), "{other:?}");
        }
        assert!(!policy.allows_raw().is_allowed());
    }

    #[test]
    fn a_run_without_a_network_is_denied_one() {
        let mut learned = Learned::default();
        learned.note(&flow(Direction::Out, Protocol::Tcp, "127.0.0.1:80"));
        learned.note(&flow(Direction::Out, Protocol::Tcp, "192.0.2.2:80"));
        let text = learned.text();
        assert!(text.contains("rules = [\n]\n"), "{text}");
        assert!(!PolicyFile::parse(&text).unwrap().spec.is_empty());
    }

    #[test]
    fn on_the_host_the_loopback_needs_rules_for_both_sides() {
        let mut learned = Learned::new(true);
        let mut joined = flow(Direction::Out, Protocol::Tcp, "127.0.0.1:8080");
        (joined.joined, joined.local) = (true, Some("127.0.0.1:50000".parse().unwrap()));
        learned.note(&joined);
        let text = learned.text();
        assert!(
            text.contains("\"allow out tcp 127.0.0.1:8080\"")
                && text.contains("\"allow in tcp 127.0.0.1:8080\""),
            "{text}"
        );
    }

    #[test]
    fn many_clients_are_all_clients_and_what_was_denied_is_a_remark() {
        let mut learned = Learned::default();
        for n in 0..=MOST_CLIENTS {
            learned.note(&flow(Direction::In, Protocol::Tcp, &format!("203.0.113.{n}:5")));
        }
        let mut raw = flow(Direction::Out, Protocol::Raw, "198.51.100.1:0");
        raw.remote = None;
        learned.note(&raw);
        let mut denied = flow(Direction::Out, Protocol::Tcp, "198.51.100.3:22");
        denied.ended = DENIED.to_owned();
        learned.note(&denied);
        let text = learned.text();
        assert!(text.contains("\"allow in tcp any:4000\", # from more than 16"), "{text}");
        assert!(text.ends_with("# Denied, and not among them:\n#   out tcp 198.51.100.3:22\n"), "{text}");
        assert!(policy(&learned).allows_raw().is_allowed());
    }

    #[test]
    fn rules_are_bounded() {
        let mut learned = Learned::default();
        for n in 0..MOST as u32 + 5 {
            let remote = std::net::SocketAddr::new(std::net::Ipv4Addr::from(0xc800_0000 + n).into(), 80);
            learned.note(&flow(Direction::Out, Protocol::Tcp, &remote.to_string()));
        }
        assert_eq!(policy(&learned).spec().rules.len(), MOST);
        assert!(learned.text().contains("# 5 flows to still more addresses"));
    }
}

//! Texts of an operator: policies and flows.

use std::net::{IpAddr, SocketAddr};

use netgraft_core::policy::{Direction, Policy, PolicyFile, PolicySpec, Protocol, Rule, parse_flow};

/// Reads a policy. Its rules, written and read again, are the same, and decide alike.
pub(crate) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        if let Ok((direction, protocol, address)) = parse_flow(line) {
            let same = match protocol {
                Protocol::Icmp => format!("{direction} {protocol} {}", address.ip()),
                _ => format!("{direction} {protocol} {address}"),
            };
            assert_eq!(parse_flow(&same), Ok((direction, protocol, address)), "{line}");
        }
    }
    let spec = match PolicyFile::parse(&text) {
        Ok(file) => file.spec,
        Err(error) => {
            assert!(error.line >= 1 && error.column >= 1 && !error.text.is_empty());
            return;
        }
    };
    let again = |rule: &Rule| Rule::parse_with_verb(&rule.to_string()).expect("a rule that was written");
    let rules: Vec<Rule> = spec.rules.iter().map(again).collect();
    assert_eq!(rules, spec.rules);
    let policy = Policy::new(spec.clone());
    let one_by_one = |protocol, ip: IpAddr, port| {
        let about = |rule: &&Rule| {
            rule.direction == Direction::In
                && rule.speaks(protocol)
                && rule.net.contains(ip)
                && rule.has_port(port)
        };
        spec.rules.iter().find(about).map(|rule| rule.action)
    };
    for end in bytes.chunks_exact(6).take(32) {
        let ip = IpAddr::from([end[0], end[1], end[2], end[3]]);
        let port = u16::from_be_bytes([end[4], end[5]]);
        let (local, remote) = (SocketAddr::new(ip, port), SocketAddr::new(ip, port));
        for direction in [Direction::Out, Direction::In, Direction::Bind] {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp, Protocol::Raw] {
                let verdict = policy.decide(direction, protocol, local, remote);
                assert!(!policy.reason_text(verdict).contains('\n'));
            }
        }
        if !ip.is_loopback() {
            let verdict = policy.decide(Direction::In, Protocol::Tcp, local, remote).action;
            let default = policy.default_of(Direction::In);
            assert_eq!(verdict, one_by_one(Protocol::Tcp, ip, port).unwrap_or(default));
        }
    }
    let empty = PolicySpec::default();
    assert!(
        Policy::new(empty)
            .decide(Direction::Bind, Protocol::Tcp, ([0; 4], 1).into(), ([0; 4], 1).into())
            .is_allowed()
    );
}

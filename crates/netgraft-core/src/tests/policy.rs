//! Rules as the calls of a program meet them.

use std::sync::Arc;

use super::fake::rig::{DONE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::policy::{Loopback, Policy, PolicyRouter, PolicySpec, Rule};
use crate::route::{ByKind, Route};
use crate::{Budget, uapi};

const BUDGET: Budget = Budget { sockets: 100, process_sockets: 100, memory: 1 << 30, bytes: 1 << 20 };

fn rig(rules: &[&str]) -> Rig {
    let rules = rules.iter().map(|rule| Rule::parse_with_verb(rule).unwrap()).collect();
    let spec = PolicySpec { rules, loopback: Loopback::OfSandbox, ..PolicySpec::default() };
    let routes = ByKind { streams: Route::Stack, datagrams: Route::Stack };
    let router = PolicyRouter { routes, policy: Arc::new(Policy::new(spec)) };
    let mut rig = Rig::with(Box::new(router), BUDGET);
    rig.core.set_joining(true);
    rig
}

/// What a connection to a listener on all addresses answers.
fn connects(rules: &[&str], to: &str) -> Reply {
    connected(rules, to).1
}

/// The same, with what has become of it.
fn connected(rules: &[&str], to: &str) -> (Rig, Reply) {
    let mut rig = rig(rules);
    let listener = rig.tcp();
    assert_eq!(rig.bind(listener, "0.0.0.0:6379"), DONE);
    assert_eq!(rig.listen(listener, 4), DONE);
    let client = rig.tcp();
    rig.connect(client, to);
    let reply = rig.reply_at_rest();
    (rig, reply)
}

#[test]
fn rules_hold_for_every_address_of_the_loopback() {
    assert_eq!(connects(&["deny tcp 192.0.2.9"], "127.0.0.2:6379"), DONE);
    assert_eq!(connects(&["deny tcp 127.0.0.2:6379"], "127.0.0.2:6379"), fails(uapi::EACCES));
    assert_eq!(connects(&["deny tcp 127.0.0.2:6379"], "127.0.0.1:6379"), DONE);
    let all_but_one = ["allow tcp 127.0.0.1:6379", "deny tcp 127.0.0.0/8"];
    assert_eq!(connects(&all_but_one, "127.0.0.1:6379"), DONE);
    assert_eq!(connects(&all_but_one, "127.0.0.3:6379"), fails(uapi::EACCES));
}

#[test]
fn an_address_of_the_sandbox_s_own_is_no_way_past_rules_about_its_loopback() {
    let rules = ["deny tcp 127.0.0.0/8:6379", "allow tcp any:6379"];
    assert_eq!(connects(&rules, "127.0.0.1:6379"), fails(uapi::EACCES));
    assert_eq!(connects(&rules, "192.0.2.1:6379"), fails(uapi::EACCES));
    // What is allowed within is allowed by both.
    assert_eq!(connects(&["allow tcp 198.51.100.1:80"], "192.0.2.1:6379"), DONE);
}

#[test]
fn a_joined_connection_is_one_that_comes_in() {
    // The stack carries what is not let in, and its listener resets it.
    let (rig, _) = connected(&["deny in tcp 127.0.0.1:6379"], "127.0.0.1:6379");
    let counts = rig.core.counts();
    assert_eq!((counts.connections_joined, counts.connections_in, rig.net().resets), (0, 0, 1));
    let (rig, reply) = connected(&["deny in tcp 127.0.0.1:80"], "127.0.0.1:6379");
    assert_eq!((reply, rig.core.counts().connections_joined, rig.net().resets), (DONE, 1, 0));
}

/// What a datagram to a peer answers after that one has sent something.
fn answers(rules: &[&str]) -> Reply {
    let mut rig = rig(rules);
    let fd = rig.udp();
    assert_eq!(rig.bind(fd, "0.0.0.0:5000"), DONE);
    rig.net().arrives(addr("198.51.100.7:9"), addr("192.0.2.1:5000"), b"hello");
    rig.settle();
    rig.sendto(fd, b"x", 0, Some("198.51.100.7:9"))
}

#[test]
fn who_a_rule_lets_in_is_answered_but_past_no_rule() {
    let in_only = ["allow in udp any:5000", "allow tcp 192.0.2.9:80"];
    assert_eq!(answers(&in_only), Reply::Is(1));
    // Nobody was let in by a rule, or a rule says that nothing goes there.
    assert_eq!(answers(&["allow tcp 192.0.2.9:80"]), fails(uapi::EACCES));
    assert_eq!(answers(&["deny udp 198.51.100.7"]), fails(uapi::EACCES));
    assert_eq!(answers(&["deny out udp 198.51.100.7", "allow in udp any:5000"]), fails(uapi::EACCES));
}

#[test]
fn nobody_answers_from_the_unspecified_address() {
    let policy = |rules: &[&str]| {
        let rules = rules.iter().map(|rule| Rule::parse_with_verb(rule).unwrap()).collect();
        Policy::new(PolicySpec { rules, loopback: Loopback::OfSandbox, ..PolicySpec::default() })
    };
    let policy = policy(&["allow udp 198.51.100.7:53"]);
    let comes = |from: &str| {
        let (direction, protocol) = (crate::policy::Direction::In, crate::policy::Protocol::Udp);
        policy.decide(direction, protocol, addr("192.0.2.1:5000"), addr(from)).is_allowed()
    };
    assert!(comes("198.51.100.7:53"));
    assert!(!comes("0.0.0.0:53") && !comes("[::]:53") && !comes("198.51.100.8:53"));
}

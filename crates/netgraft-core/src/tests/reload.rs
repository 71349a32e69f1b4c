//! Rules that change while programs talk.

use std::sync::Arc;

use super::fake::net::Answer;
use super::fake::rig::{DONE, REMOTE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::EndedFlows;
use crate::policy::{Loopback, Policy, PolicyRouter, PolicySpec, Rule};
use crate::route::{ByKind, Route};
use crate::uapi;

fn set(rig: &mut Rig, rules: &[&str]) {
    let rules = rules.iter().map(|rule| Rule::parse_with_verb(rule).unwrap()).collect();
    let spec = PolicySpec { rules, loopback: Loopback::OfSandbox, ..PolicySpec::default() };
    let routes = ByKind { streams: Route::Stack, datagrams: Route::Stack };
    rig.core.set_router(Box::new(PolicyRouter { routes, policy: Arc::new(Policy::new(spec)) }));
}

/// Ends what is denied, a socket at a time; how many flows that were.
fn end(rig: &mut Rig) -> u64 {
    let (mut all, mut from) = (EndedFlows::default(), 0);
    for _ in 0..1000 {
        let (some, next) = rig.core.end_denied(from, 1);
        all.ended += some.ended;
        all.left += some.left;
        match next {
            Some(next) => from = next,
            None => {
                rig.settle();
                assert_eq!(all.left, 0);
                return all.ended;
            }
        }
    }
    panic!("the table has no end");
}

#[test]
fn what_began_goes_on_until_it_is_ended() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    set(&mut rig, &[&format!("deny tcp {REMOTE}")]);
    let other = rig.tcp();
    assert_eq!(rig.connect(other, REMOTE), fails(uapi::EACCES));
    rig.write_all(fd, b"still");
    assert_eq!(rig.remote_reads(remote), b"still");
    assert_eq!((end(&mut rig), rig.net().resets), (1, 1));
    assert_eq!(rig.read_all(fd), (Vec::new(), Err(uapi::ECONNRESET)));
    assert_eq!(rig.write(fd, b"x"), Err(uapi::EPIPE));
    assert_eq!((end(&mut rig), rig.core.denied()), (0, 2));
    rig.close(fd);
    rig.settle();
    rig.close(other);
    assert_eq!(rig.leftovers(), ["1 sockets"], "a fresh one, which is forgotten later");
}

#[test]
fn what_is_allowed_is_not_ended() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    set(&mut rig, &[&format!("allow tcp {REMOTE}")]);
    assert_eq!(end(&mut rig), 0);
    rig.write_all(fd, b"on");
    assert_eq!(rig.remote_reads(remote), b"on");
}

#[test]
fn an_attempt_that_waits_is_denied() {
    for (with, errno) in [("access", uapi::EACCES), ("refused", uapi::ECONNREFUSED)] {
        let mut rig = Rig::new();
        rig.remote(REMOTE, Answer::Silent);
        let fd = rig.tcp();
        assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
        let waits = rig.last;
        let rules = vec![Rule::parse_with_verb("deny tcp any:80").unwrap()];
        let denial = (with == "refused").then_some(crate::route::Denial::Refused);
        let spec = PolicySpec { rules, deny_with: denial, ..PolicySpec::default() };
        let routes = ByKind { streams: Route::Stack, datagrams: Route::Stack };
        rig.core.set_router(Box::new(PolicyRouter { routes, policy: Arc::new(Policy::new(spec)) }));
        assert_eq!(end(&mut rig), 1);
        assert_eq!(rig.reply(waits), fails(errno));
        assert_eq!(rig.net().socks.len(), 0);
    }
}

#[test]
fn what_came_in_is_reset() {
    let mut rig = Rig::new();
    let listener = rig.listener("0.0.0.0:80", 5);
    let remote = rig.dial("192.0.2.1:80", "198.51.100.7:4000");
    rig.settle();
    let fd = rig.accept_untrapped(listener).unwrap();
    set(&mut rig, &["deny in tcp 198.51.100.8:80"]);
    assert_eq!(end(&mut rig), 0);
    rig.remote_sends(remote, b"hi");
    rig.settle();
    assert_eq!(rig.read(fd, 10), Ok(b"hi".to_vec()));
    set(&mut rig, &["deny in tcp 198.51.100.7:80"]);
    assert_eq!((end(&mut rig), rig.net().resets), (1, 1));
    assert!(rig.read(fd, 10).is_err() || rig.read(fd, 10) == Ok(Vec::new()));
    // The listener stays, and lets others in.
    rig.dial("192.0.2.1:80", "198.51.100.9:4000");
    rig.settle();
    assert!(rig.accept_untrapped(listener).is_ok());
}

#[test]
fn a_joined_connection_is_ended_on_both_sides() {
    for rule in ["deny tcp 127.0.0.1:80", "deny in tcp 127.0.0.1:80"] {
        let mut rig = Rig::new();
        rig.core.set_joining(true);
        let listener = rig.listener("127.0.0.1:80", 5);
        let client = rig.tcp();
        assert_eq!(rig.connect(client, "127.0.0.1:80"), DONE);
        let server = rig.accept_untrapped(listener).unwrap();
        set(&mut rig, &[rule]);
        assert_eq!(end(&mut rig), 1, "{rule}");
        assert_eq!(rig.write(client, b"x"), Err(uapi::EPIPE));
        assert!(rig.write(server, b"x").is_err());
        assert_eq!(end(&mut rig), 0, "{rule}");
        for fd in [client, server, listener] {
            rig.close(fd);
        }
    }
}

#[test]
fn a_datagram_socket_loses_its_peer() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    assert_eq!(rig.connect(fd, "198.51.100.7:53"), DONE);
    set(&mut rig, &["deny udp 198.51.100.7"]);
    assert_eq!(end(&mut rig), 1);
    assert_eq!(rig.so_error(fd), uapi::EACCES);
    assert!(matches!(rig.sendto(fd, b"x", 0, None), Reply::Fails(_)));
    assert_eq!(rig.sendto(fd, b"x", 0, Some("198.51.100.7:53")), fails(uapi::EACCES));
    assert_eq!(rig.sendto(fd, b"x", 0, Some("198.51.100.8:53")), Reply::Is(1));
    let sent: Vec<_> = rig.net().sent.iter().map(|&(_, to, _)| to).collect();
    assert_eq!(sent, [addr("198.51.100.8:53")]);
}

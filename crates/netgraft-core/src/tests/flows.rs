//! Flows that are recorded.

use std::sync::Arc;
use std::time::Duration;

use netgraft_plugin::Error;

use super::fake::net::Answer;
use super::fake::rig::{DONE, MAIN, REMOTE, Rig, addr, fails};
use crate::flows::{Amount, FlowEnd, FlowRecord};
use crate::policy::{Direction, Loopback, Policy, PolicyRouter, PolicySpec, Protocol, Rule};
use crate::route::{ByKind, Route};
use crate::uapi;

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.core.record_flows();
    rig.core.set_joining(true);
    rig
}

/// What was recorded since the last time.
fn taken(rig: &mut Rig) -> Vec<FlowRecord> {
    rig.settle();
    std::mem::take(&mut rig.world_mut().notes.flows)
}

fn only(rig: &mut Rig) -> FlowRecord {
    let mut all = taken(rig);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn stream(bytes: u64) -> Option<Amount> {
    Some(Amount { bytes, packets: None })
}

fn datagrams(packets: u64, bytes: u64) -> Option<Amount> {
    Some(Amount { bytes, packets: Some(packets) })
}

#[test]
fn a_connection_is_a_flow_from_its_connect_to_its_close() {
    let mut rig = rig();
    let (fd, remote) = rig.connected();
    rig.write_all(fd, b"question");
    rig.remote_reads(remote);
    rig.remote_sends(remote, b"an answer");
    assert_eq!(rig.read(fd, 100), Ok(b"an answer".to_vec()));
    assert_eq!(taken(&mut rig), []);
    rig.pass(1500);
    rig.close(fd);
    let flow = only(&mut rig);
    assert_eq!((flow.direction, flow.protocol, flow.end), (Direction::Out, Protocol::Tcp, FlowEnd::Closed));
    assert_eq!(flow.remote, Some(addr(REMOTE)));
    assert!(flow.local.is_some_and(|local| local.port() != 0), "{flow:?}");
    assert_eq!((flow.sent, flow.received), (stream(8), stream(9)));
    assert_eq!((flow.process.map(|process| process.pid), flow.joined, flow.rule), (Some(MAIN), false, None));
    assert!(flow.ended >= flow.began);
}

#[test]
fn an_attempt_that_fails_says_how() {
    for blocking in [true, false] {
        let mut rig = rig();
        rig.remote(REMOTE, Answer::Refuses);
        let fd = if blocking { rig.tcp() } else { rig.tcp_nonblocking() };
        rig.connect(fd, REMOTE);
        let flow = only(&mut rig);
        assert_eq!((flow.remote, flow.end), (Some(addr(REMOTE)), FlowEnd::Failed(Error::ConnectionRefused)));
        rig.close(fd);
        assert_eq!(taken(&mut rig), [], "once");
    }
}

#[test]
fn what_comes_in_and_resets_are_told() {
    let mut rig = rig();
    let listener = rig.listener("0.0.0.0:80", 5);
    let remote = rig.dial("192.0.2.1:80", "198.51.100.7:4000");
    let fd = rig.accept_untrapped(listener).unwrap();
    rig.remote_sends(remote, b"unread");
    rig.remote_fails(remote, Error::ConnectionReset);
    let flow = only(&mut rig);
    assert_eq!((flow.direction, flow.end), (Direction::In, FlowEnd::Failed(Error::ConnectionReset)));
    assert_eq!((flow.local, flow.remote), (Some(addr("192.0.2.1:80")), Some(addr("198.51.100.7:4000"))));
    assert_eq!((flow.received, flow.process.map(|process| process.pid)), (stream(6), Some(MAIN)));
    rig.close(fd);
    // With bytes unread, a close is a reset.
    let remote = rig.dial("192.0.2.1:80", "198.51.100.7:4001");
    let fd = rig.accept_untrapped(listener).unwrap();
    rig.remote_sends(remote, b"unread");
    rig.close(fd);
    assert_eq!(only(&mut rig).end, FlowEnd::Reset);
}

#[test]
fn a_joined_connection_is_one_flow_whose_close_is_seen_at_once() {
    let mut rig = rig();
    let listener = rig.listener("127.0.0.1:80", 5);
    let client = rig.tcp();
    assert_eq!(rig.connect(client, "127.0.0.1:80"), DONE);
    let server = rig.accept_untrapped(listener).unwrap();
    rig.write(client, b"x").unwrap();
    assert_eq!(taken(&mut rig), []);
    rig.close(client);
    let flow = only(&mut rig);
    assert_eq!((flow.joined, flow.direction, flow.end), (true, Direction::Out, FlowEnd::Closed));
    assert_eq!((flow.remote, flow.sent, flow.received), (Some(addr("127.0.0.1:80")), None, None));
    assert!(flow.local.is_some_and(|local| local.port() != 0));
    rig.close(server);
    rig.close(listener);
    rig.assert_nothing_left();
}

#[test]
fn datagrams_are_flows_by_their_peers() {
    let mut rig = rig();
    let fd = rig.udp();
    assert_eq!(rig.bind(fd, "0.0.0.0:5000"), DONE);
    for to in ["198.51.100.7:53", "198.51.100.8:53", "198.51.100.7:53"] {
        rig.sendto(fd, b"four", 0, Some(to));
    }
    rig.net().arrives(addr("198.51.100.7:53"), addr("192.0.2.1:5000"), b"answer");
    rig.net().arrives(addr("198.51.100.9:9"), addr("192.0.2.1:5000"), b"hello");
    rig.settle();
    rig.recvfrom(fd, 100, 0);
    rig.recvfrom(fd, 100, 0);
    rig.settle();
    // One of them goes on, the others are over when nothing has passed for a while.
    for _ in 0..8 {
        rig.pass(10_000);
        rig.sendto(fd, b"on", 0, Some("198.51.100.7:53"));
    }
    let mut idle = taken(&mut rig);
    idle.sort_by_key(|flow| flow.remote);
    let of = |flow: &FlowRecord| (flow.remote.unwrap(), flow.direction, flow.sent, flow.received, flow.end);
    let (out, came) = (Direction::Out, Direction::In);
    assert_eq!(
        idle.iter().map(of).collect::<Vec<_>>(),
        [
            (addr("198.51.100.8:53"), out, datagrams(1, 4), datagrams(0, 0), FlowEnd::Idle),
            (addr("198.51.100.9:9"), came, datagrams(0, 0), datagrams(1, 5), FlowEnd::Idle),
        ]
    );
    rig.close(fd);
    let flow = only(&mut rig);
    let wanted = (addr("198.51.100.7:53"), out, datagrams(10, 24), datagrams(1, 6), FlowEnd::Closed);
    assert_eq!(of(&flow), wanted);
    assert_eq!(flow.ended - flow.began, Duration::ZERO, "the fake's wall clock stands still");
    assert!(rig.core.flows.as_ref().unwrap().next_deadline().is_some());
    rig.pass(20_000);
    assert_eq!(rig.core.flows.as_ref().unwrap().next_deadline(), None, "nothing wakes the sentry any more");
}

#[test]
fn flows_of_datagrams_are_bounded() {
    let mut rig = rig();
    let fd = rig.udp();
    let send = |rig: &mut Rig, n: u32| {
        let to = std::net::SocketAddr::new(std::net::Ipv4Addr::from(0xc633_0000 + n).into(), 53);
        rig.sendto(fd, b"x", 0, Some(&to.to_string()));
    };
    for n in 0..16_384 {
        send(&mut rig, n);
    }
    assert_eq!(rig.world().notes.flows, []);
    send(&mut rig, 16_384);
    let over = taken(&mut rig);
    assert!(over.len() == 16_384 && over.iter().all(|flow| flow.end == FlowEnd::TooMany), "{}", over.len());
    rig.close(fd);
    assert_eq!(only(&mut rig).end, FlowEnd::Closed);
}

#[test]
fn denied_attempts_are_recorded_with_their_rule_within_bounds() {
    let rules = vec![Rule::parse_with_verb("deny 198.51.100.0/24").unwrap()];
    let spec = PolicySpec { rules, loopback: Loopback::OfSandbox, ..PolicySpec::default() };
    let routes = ByKind { streams: Route::Stack, datagrams: Route::Stack };
    let mut rig = rig();
    rig.core.set_router(Box::new(PolicyRouter { routes, policy: Arc::new(Policy::new(spec)) }));
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EACCES));
    let flow = only(&mut rig);
    assert_eq!((flow.end, flow.remote, flow.sent), (FlowEnd::Denied, Some(addr(REMOTE)), None));
    assert_eq!(flow.rule.as_deref(), Some("rule 1, 'deny out 198.51.100.0/24'"));
    for _ in 0..3000 {
        rig.connect(fd, REMOTE);
    }
    assert_eq!(taken(&mut rig).len(), 999);
    rig.pass(1000);
    rig.connect(fd, REMOTE);
    assert_eq!(only(&mut rig).unrecorded, 2001);
    rig.remote("203.0.113.1:80", Answer::Accepts);
    rig.connect(fd, "203.0.113.1:80");
    rig.settle();
    rig.close(fd);
    assert_eq!(only(&mut rig).rule.as_deref(), Some("no rule is about it"));
}

#[test]
fn the_end_of_the_sandbox_ends_what_goes_on() {
    let mut rig = rig();
    rig.connected();
    let datagram = rig.udp();
    rig.sendto(datagram, b"x", 0, Some("198.51.100.7:53"));
    rig.core.stop();
    let ends: Vec<_> = rig.world().notes.flows.iter().map(|flow| flow.end).collect();
    assert_eq!(ends, [FlowEnd::Stopped; 2]);
}

#[test]
fn nothing_is_recorded_unless_it_is_asked_for() {
    let mut rig = Rig::new();
    let (fd, _) = rig.connected();
    rig.close(fd);
    assert_eq!(taken(&mut rig), []);
}

//! What is told of connections, and what they take.

use std::time::Duration;

use netgraft_plugin::inet::Stack as _;
use netgraft_plugin::option::{OptionName, SocketOption};
use netgraft_plugin::{
    CongestionState, Handle, InitStackArgs, PluginStack as _, Sockets as _, StackConfig, TcpState,
};

use super::wire::is_tcp;
use super::{TCP4, World};
use crate::SmoltcpStack;
use crate::sock::{Body, Sock};
use crate::tcp::Conn;

/// Bytes of memory of a connection, what stands for it in tables included, and without its data.
fn memory(world: &World, end: usize, handle: Handle) -> usize {
    let core = world.stacks[end].core().unwrap();
    let Body::Conn(conn) = &core.socks.get(handle).unwrap().body else { panic!("no connection") };
    let entry = size_of::<(crate::addr::Tuple, Handle)>();
    size_of::<Sock>() + size_of::<Conn>() - size_of_val(&conn.tcp) + conn.tcp.memory() + entry
}

#[test]
fn a_connection_that_is_idle_has_less_than_two_kibibytes() {
    let mut world = World::new();
    let (client, server) = world.pair();
    let bytes = vec![7; 200_000];
    for _ in 0..5 {
        let (mut sent, mut got) = (0, 0);
        while got < bytes.len() {
            sent += world.send(0, client, &bytes[sent..]).unwrap_or(0);
            world.settle();
            got += world.recv(1, server).map_or(0, |part| part.len());
            world.settle();
        }
        world.send(1, server, b"thanks").unwrap();
        world.settle();
        world.recv(0, client).unwrap();
    }
    world.pass(Duration::from_secs(3));
    for (end, handle) in [(0, client), (1, server)] {
        let bytes = memory(&world, end, handle);
        assert!((1024..2048).contains(&bytes), "{end}: {bytes} bytes");
        assert_eq!(world.stacks[end].core().unwrap().pool.used(), 0);
    }
}

/// Sends; the frames are on the way for 20 ms, and what answers them for no time.
fn round_trip(world: &mut World, client: Handle, data: &[u8]) {
    world.send(0, client, data).unwrap();
    world.stacks[0].poll(world.now);
    world.now = world.now + Duration::from_millis(20);
    world.settle();
}

#[test]
fn a_connection_tells_what_it_has_measured_and_agreed_on() {
    let mut world = World::new();
    let (client, server) = world.pair();
    let told = |world: &World| world.stacks[0].tcp_info(client).unwrap();
    let fresh = told(&world);
    assert_eq!(fresh.slow_start_threshold, u32::MAX);
    assert_eq!((fresh.congestion_state, fresh.backoff), (CongestionState::Open, 0));
    assert!(fresh.agreed.timestamps && fresh.agreed.sack && fresh.agreed.window_scales.is_some());
    assert!(!fresh.agreed.ecn && !fresh.agreed.fast_open);
    world.stacks[1].set_option(server, SocketOption::QuickAck(true)).unwrap();
    for _ in 0..40 {
        round_trip(&mut world, client, b"ping");
        world.recv(1, server).unwrap();
    }
    // Of ten segments the third is lost.
    let mut segments = 0;
    world.filter(move |end, frame| {
        if end == 1 || !is_tcp(frame) || frame.len() < 1000 {
            return true;
        }
        segments += 1;
        segments != 3
    });
    round_trip(&mut world, client, &[1; 14_480]);
    assert_eq!(world.recv(1, server).unwrap().len(), 14_480);
    let after = told(&world);
    assert_eq!((after.retransmits, after.bytes_retransmitted), (1, 1448));
    assert_eq!(after.bytes_sent, 40 * 4 + 14_480);
    assert!(after.slow_start_threshold < 14_480 && after.slow_start_threshold >= 2 * 1448, "{after:?}");
    assert!(after.least_rtt <= Duration::from_millis(20) && after.delivery_rate > 0, "{after:?}");
    assert_eq!((after.unacknowledged, after.not_sent, after.lost), (0, 0, 0));
    let stats: std::collections::HashMap<_, _> =
        world.stacks[0].statistics().tcp.named().into_iter().collect();
    assert_eq!((stats["RetransSegs"], stats["TCPSackRecovery"], stats["TCPTimeouts"]), (1, 1, 0));
    let theirs = world.stacks[1].statistics().tcp;
    assert_eq!(theirs.out_of_order, 7);
    // What a connection counted stays when it is gone.
    world.stacks[0].close(client, world.now).unwrap();
    world.stacks[1].close(server, world.now).unwrap();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.stacks[0].statistics().tcp.retransmitted, 1);
}

#[test]
fn what_was_not_sent_and_what_the_peer_has_out_of_order_is_told() {
    let mut world = World::new();
    let (client, server) = world.pair();
    let mut first = true;
    world.filter(move |end, frame| {
        !(end == 0 && is_tcp(frame) && frame.len() > 1000 && std::mem::take(&mut first))
    });
    // Ten segments are the initial window; the rest has to wait.
    world.send(0, client, &[1; 40_000]).unwrap();
    let now = world.now;
    world.stacks[0].poll(now);
    let info = world.stacks[0].tcp_info(client).unwrap();
    assert_eq!((info.unacknowledged, info.not_sent), (14_480, 40_000 - 14_480));
    world.stacks[1].poll(now);
    world.stacks[0].poll(now);
    let info = world.stacks[0].tcp_info(client).unwrap();
    assert_eq!(info.congestion_state, CongestionState::Recovery, "{info:?}");
    assert!(info.selectively_acknowledged >= 9 * 1448, "{info:?}");
    world.settle();
    let mut got = 0;
    for _ in 0..10 {
        got += world.recv(1, server).map_or(0, |part| part.len());
        world.settle();
    }
    assert_eq!(got, 40_000);
    assert_eq!(world.stacks[0].tcp_info(client).unwrap().congestion_state, CongestionState::Open);
}

#[test]
fn a_listener_tells_its_queue_and_its_backlog() {
    let mut world = World::new();
    let listener = world.listen(1, TCP4, "0.0.0.0:80", 7);
    for _ in 0..3 {
        world.connect(0, TCP4, "192.0.2.2:80");
    }
    let info = world.stacks[1].tcp_info(listener).unwrap();
    assert_eq!((info.state, info.unacknowledged, info.selectively_acknowledged), (TcpState::Listen, 3, 7));
}

#[test]
fn the_operator_chooses_for_the_whole_stack() {
    let config = |text: &str| StackConfig { argument: Some(text.to_owned()), ..StackConfig::default() };
    let mut stack = SmoltcpStack::new(config("tcp_congestion_control=bbr")).unwrap();
    stack.init(InitStackArgs::default()).unwrap();
    let socket = stack.socket(TCP4).unwrap();
    let chosen = stack.get_option(socket, OptionName::Congestion).unwrap();
    assert_eq!(chosen, SocketOption::Congestion("bbr".into()));
    let refused = SmoltcpStack::new(config("tcp_congestion_control=vegas")).err().unwrap().to_string();
    assert!(refused.contains("cubic, reno or bbr"), "{refused}");
}

//! TCP across a wire.

use std::time::Duration;

use netgraft_plugin::inet::Stack;
use netgraft_plugin::option::{OptionName, SocketOption};
use netgraft_plugin::{Error, Events, RecvFlags, SendFlags, Shutdown, Sockets, TcpState};

use super::*;

const FAILED: Events = Events::from_bits_retain(
    Events::IN.bits() | Events::OUT.bits() | Events::ERR.bits() | Events::HUP.bits() | Events::RDHUP.bits(),
);

#[test]
fn connections_of_both_families_and_dual_stack() {
    for (spec, at, client, to, seen) in [
        (TCP4, "0.0.0.0:80", TCP4, "192.0.2.2:80", "192.0.2.1"),
        (TCP6, "[::]:80", TCP6, "[2001:db8::2]:80", "2001:db8::1"),
        (TCP6, "[::]:80", TCP4, "192.0.2.2:80", "::ffff:192.0.2.1"),
        (TCP4, "192.0.2.2:80", TCP6, "[::ffff:192.0.2.2]:80", "192.0.2.1"),
    ] {
        let mut world = World::new();
        let listener = world.listen(1, spec, at, 5);
        watch(&mut world.stacks[1], listener, Events::IN);
        let client = world.connect(0, client, to);
        assert_eq!(world.ready(0, client), Events::OUT, "{to}");
        assert_eq!(events(&mut world.stacks[1]), [Event { handle: listener, events: Events::IN }]);
        let (server, peer) = world.stacks[1].accept(listener).unwrap();
        assert_eq!(peer.ip().to_string(), seen);
        assert_eq!(world.stacks[1].peer_addr(server), Ok(peer));
        assert_eq!(world.stacks[0].peer_addr(client).unwrap(), addr(to));
        assert_eq!(world.send(0, client, b"hello"), Ok(5));
        world.settle();
        assert_eq!(world.recv(1, server).unwrap(), b"hello");
        assert_eq!(world.recv(1, server), Err(Error::Again));
        assert_eq!(world.stacks[0].tcp_info(client).unwrap().state, TcpState::Established);
    }
}

#[test]
fn an_ipv6_only_listener_refuses_ipv4() {
    let mut world = World::new();
    let listener = world.stacks[1].socket(TCP6).unwrap();
    world.stacks[1].set_option(listener, SocketOption::V6Only(true)).unwrap();
    world.stacks[1].bind(listener, addr("[::]:80")).unwrap();
    world.stacks[1].listen(listener, 5).unwrap();
    let client = world.connect(0, TCP4, "192.0.2.2:80");
    assert_eq!(world.stacks[0].take_error(client), Some(Error::ConnectionRefused));
}

#[test]
fn urgent_data_has_its_place() {
    let mut world = World::new();
    let (client, server) = world.pair();
    watch(&mut world.stacks[1], server, Events::PRI);
    events(&mut world.stacks[1]);
    assert_eq!(world.stacks[1].urgent(server), Ok(0));
    assert_eq!(world.send(0, client, b"ab"), Ok(2));
    let now = world.now;
    assert_eq!(world.stacks[0].send(client, b"c!", None, SendFlags::OUT_OF_BAND, now), Ok(2));
    assert_eq!(world.send(0, client, b"de"), Ok(2));
    world.settle();
    assert_eq!(events(&mut world.stacks[1]), [Event { handle: server, events: Events::PRI }]);
    // Behind the fourth byte; what was read counts no more.
    assert_eq!(world.stacks[1].urgent(server), Ok(4));
    let mut first = [0; 3];
    world.stacks[1].recv(server, &mut first, RecvFlags::empty(), now).unwrap();
    assert_eq!((&first, world.stacks[1].urgent(server)), (b"abc", Ok(1)));
    assert_eq!(world.recv(1, server).unwrap(), b"!de");
    assert_eq!(world.stacks[1].urgent(server), Ok(0));
    assert!(!world.ready(1, server).contains(Events::PRI));
    let datagrams = world.stacks[0].socket(UDP4).unwrap();
    assert_eq!(world.stacks[0].urgent(datagrams), Err(Error::NotSupported));
    let sent = world.stacks[0].send(datagrams, b"!", Some(addr("192.0.2.2:9")), SendFlags::OUT_OF_BAND, now);
    assert_eq!(sent, Err(Error::NotSupported));
}

#[test]
fn refused() {
    let mut world = World::new();
    let client = world.connect(0, TCP4, "192.0.2.2:81");
    assert_eq!(world.ready(0, client), FAILED);
    assert_eq!(world.stacks[0].take_error(client), Some(Error::ConnectionRefused));
    assert_eq!(world.stacks[0].take_error(client), None);
    assert_eq!(world.recv(0, client).unwrap(), b"");
    assert_eq!(world.send(0, client, b"x"), Err(Error::BrokenPipe));
    assert_eq!(world.stacks[0].statistics().tcp_attempt_fails, 1);
    assert_eq!(world.stacks[1].statistics().tcp_resets_sent, 1);
    // Linux lets the program try again with the same socket.
    world.listen(1, TCP4, "0.0.0.0:81", 1);
    assert_eq!(world.stacks[0].connect(client, addr("192.0.2.2:81"), world.now), Err(Error::InProgress));
    world.settle();
    assert_eq!(world.ready(0, client), Events::OUT);
}

#[test]
fn a_host_that_is_not_there_is_unreachable_after_three_seconds() {
    let mut world = World::new();
    let client = world.connect(0, TCP4, "192.0.2.77:80");
    let client6 = world.connect(0, TCP6, "[2001:db8::77]:80");
    world.pass(Duration::from_millis(2900));
    assert_eq!(world.ready(0, client), Events::empty());
    world.pass(Duration::from_millis(300));
    assert_eq!(world.stacks[0].take_error(client), Some(Error::HostUnreachable));
    world.pass(Duration::from_millis(3000));
    assert_eq!(world.stacks[0].take_error(client6), Some(Error::HostUnreachable));
    let client = world.stacks[0].socket(TCP4).unwrap();
    let far = world.stacks[0].connect(client, addr("198.51.100.1:80"), world.now);
    assert_eq!(far, Err(Error::NetworkUnreachable));
}

pub(super) fn is_tcp(frame: &[u8]) -> bool {
    frame.len() > 34 && frame[12..14] == [8, 0] && frame[23] == 6
}

#[test]
fn a_silent_peer_times_out_as_the_options_say() {
    for (option, seconds) in [
        (SocketOption::SynCount(6), 127),
        (SocketOption::SynCount(2), 7),
        (SocketOption::UserTimeout(Duration::from_secs(4)), 4),
    ] {
        let mut world = World::filtered(|_, frame| !is_tcp(frame));
        let client = world.stacks[0].socket(TCP4).unwrap();
        world.stacks[0].set_option(client, option).unwrap();
        world.stacks[0].connect(client, addr("192.0.2.2:80"), world.now).unwrap_err();
        world.pass(Duration::from_millis(seconds * 1000 - 500));
        assert_eq!(world.ready(0, client), Events::empty());
        world.pass(Duration::from_secs(1));
        assert_eq!(world.ready(0, client), FAILED);
        assert_eq!(world.stacks[0].take_error(client), Some(Error::TimedOut));
    }
}

#[test]
fn lost_handshakes_and_data_are_repeated() {
    let mut lost = 0;
    let mut world = World::filtered(move |_, frame| {
        lost += usize::from(is_tcp(frame));
        !is_tcp(frame) || !lost.is_multiple_of(3)
    });
    let listener = world.listen(1, TCP4, "0.0.0.0:80", 5);
    let client = world.connect(0, TCP4, "192.0.2.2:80");
    world.pass(Duration::from_secs(10));
    let (server, _) = world.stacks[1].accept(listener).unwrap();
    let mut sent = Vec::new();
    let mut got = Vec::new();
    for n in 0..20u8 {
        let data = vec![n; 1000];
        sent.extend_from_slice(&data);
        assert_eq!(world.send(0, client, &data), Ok(1000));
        world.pass(Duration::from_secs(20));
        while let Ok(data) = world.recv(1, server) {
            got.extend(data);
        }
    }
    assert_eq!(got, sent);
}

#[test]
fn bulk_at_mtu_1500_with_loss_arrives_whole() {
    let mut count = 0u32;
    let mut world = World::filtered(move |_, _| {
        count += 1;
        !count.is_multiple_of(97)
    });
    let listener = world.listen(1, TCP4, "0.0.0.0:80", 5);
    let client = world.connect(0, TCP4, "192.0.2.2:80");
    world.pass(Duration::from_secs(5));
    let (server, _) = world.stacks[1].accept(listener).unwrap();
    let total = 2_000_000usize;
    let (mut sent, mut got) = (0usize, 0usize);
    for _ in 0..4000 {
        while sent < total {
            let data: Vec<u8> = (sent..(sent + 10_000).min(total)).map(|i| (i % 251) as u8).collect();
            match world.send(0, client, &data) {
                Ok(len) => sent += len,
                Err(error) => {
                    assert_eq!(error, Error::Again);
                    break;
                }
            }
        }
        world.pass(Duration::from_millis(50));
        while let Ok(data) = world.recv(1, server) {
            assert!(data.iter().enumerate().all(|(i, &b)| b == ((got + i) % 251) as u8), "at {got}");
            got += data.len();
        }
        if got == total {
            return;
        }
    }
    panic!("{got} of {total} bytes came");
}

#[test]
fn half_close_and_close() {
    let mut world = World::new();
    let (client, server) = world.pair();
    watch(&mut world.stacks[1], server, Events::IN | Events::RDHUP);
    world.send(0, client, b"last").unwrap();
    world.stacks[0].shutdown(client, Shutdown::Write, world.now).unwrap();
    world.settle();
    assert_eq!(world.send(0, client, b"x"), Err(Error::BrokenPipe));
    assert_eq!(world.ready(1, server), Events::IN | Events::OUT | Events::RDHUP);
    assert_eq!(world.recv(1, server).unwrap(), b"last");
    assert_eq!(world.recv(1, server).unwrap(), b"");
    assert_eq!(world.recv(1, server).unwrap(), b"", "the end stays");
    assert_eq!(world.send(1, server, b"answer"), Ok(6));
    world.stacks[1].close(server, world.now).unwrap();
    world.settle();
    assert_eq!(world.recv(0, client).unwrap(), b"answer");
    assert_eq!(world.recv(0, client).unwrap(), b"");
    assert_eq!(world.ready(0, client), Events::IN | Events::OUT | Events::RDHUP | Events::HUP);
    world.stacks[0].close(client, world.now).unwrap();
    assert_eq!(world.stacks[0].readiness(client), Err(Error::BadHandle));
    world.pass(Duration::from_secs(61));
    assert!(world.stacks.iter().all(|s| s.next_deadline().is_none()), "nothing is left");
    assert!(world.stacks.iter().all(|s| s.statistics().tcp_established == 0));
}

#[test]
fn resets() {
    let mut world = World::new();
    let (client, server) = world.pair();
    world.send(0, client, b"data").unwrap();
    world.settle();
    world.stacks[0].abort(client, world.now).unwrap();
    world.settle();
    assert_eq!(world.ready(1, server), FAILED);
    assert_eq!(world.recv(1, server).unwrap(), b"data", "what came before the reset");
    assert_eq!(world.recv(1, server), Err(Error::ConnectionReset));
    assert_eq!(world.recv(1, server).unwrap(), b"");
    assert_eq!(world.send(1, server, b"x"), Err(Error::BrokenPipe));
    assert_eq!(world.stacks[1].statistics().tcp_resets_received, 1);
}

#[test]
fn closing_with_unread_data_or_no_linger_resets() {
    for linger in [None, Some(Duration::ZERO)] {
        let mut world = World::new();
        let (client, server) = world.pair();
        if linger.is_some() {
            world.stacks[1].set_option(server, SocketOption::Linger(linger)).unwrap();
        } else {
            world.send(0, client, b"unread").unwrap();
            world.settle();
        }
        world.stacks[1].close(server, world.now).unwrap();
        world.settle();
        assert_eq!(world.stacks[0].take_error(client), Some(Error::ConnectionReset));
    }
}

#[test]
fn data_for_a_closed_socket_is_reset() {
    let mut world = World::new();
    let (client, server) = world.pair();
    world.stacks[1].close(server, world.now).unwrap();
    world.settle();
    assert_eq!(world.send(0, client, b"x"), Ok(1));
    world.settle();
    assert_eq!(world.stacks[0].take_error(client), Some(Error::BrokenPipe));
}

#[test]
fn the_backlog_holds_one_more_and_drops_the_rest() {
    let mut world = World::new();
    let listener = world.listen(1, TCP4, "0.0.0.0:80", 2);
    let clients: Vec<Handle> = (0..5).map(|_| world.connect(0, TCP4, "192.0.2.2:80")).collect();
    let up = |w: &World| clients.iter().filter(|&&c| w.ready(0, c) == Events::OUT).count();
    assert_eq!(up(&world), 3);
    assert_eq!(world.stacks[1].statistics().tcp_listen_overflows, 2);
    while world.stacks[1].accept(listener).is_ok() {}
    // The peers try again.
    world.pass(Duration::from_secs(4));
    assert_eq!(up(&world), 5);
    assert_eq!(std::iter::from_fn(|| world.stacks[1].accept(listener).ok()).count(), 2);
}

#[test]
fn closing_a_listener_resets_who_waits() {
    let mut world = World::new();
    let listener = world.listen(1, TCP4, "0.0.0.0:80", 2);
    let client = world.connect(0, TCP4, "192.0.2.2:80");
    world.stacks[1].close(listener, world.now).unwrap();
    world.settle();
    assert_eq!(world.stacks[0].take_error(client), Some(Error::ConnectionReset));
    assert_eq!(world.stacks[1].statistics().sockets, 0);
    let again = world.listen(1, TCP4, "0.0.0.0:80", 2);
    assert_eq!(world.ready(1, again), Events::empty());
}

#[test]
fn a_cut_wire_ends_a_connection_by_user_timeout_and_by_keep_alive() {
    let mut world = World::new();
    let (client, server) = world.pair();
    world.stacks[0].set_option(client, SocketOption::UserTimeout(Duration::from_secs(5))).unwrap();
    for option in [
        SocketOption::KeepAlive(true),
        SocketOption::KeepIdle(Duration::from_secs(10)),
        SocketOption::KeepInterval(Duration::from_secs(2)),
        SocketOption::KeepCount(3),
    ] {
        world.stacks[1].set_option(server, option).unwrap();
    }
    // Answered probes keep it alive.
    world.pass(Duration::from_secs(100));
    assert_eq!(world.ready(1, server), Events::OUT);
    world.filter(|_, _| false);
    world.send(0, client, b"x").unwrap();
    world.pass(Duration::from_secs(6));
    assert_eq!(world.stacks[0].take_error(client), Some(Error::TimedOut));
    world.pass(Duration::from_secs(12));
    assert_eq!(world.stacks[1].take_error(server), Some(Error::TimedOut));
}

#[test]
fn cork_holds_back_parts_of_segments_for_200_ms() {
    let mut world = World::new();
    let (client, server) = world.pair();
    world.stacks[0].set_option(client, SocketOption::Cork(true)).unwrap();
    world.send(0, client, &[1; 2000]).unwrap();
    world.pass(Duration::from_millis(100));
    assert_eq!(world.recv(1, server).unwrap().len(), 1448);
    world.pass(Duration::from_millis(150));
    assert_eq!(world.recv(1, server).unwrap().len(), 552);
    world.send(0, client, b"abc").unwrap();
    world.settle();
    assert_eq!(world.recv(1, server), Err(Error::Again));
    world.stacks[0].set_option(client, SocketOption::Cork(false)).unwrap();
    world.settle();
    assert_eq!(world.recv(1, server).unwrap(), b"abc");
    world.pass(Duration::from_millis(20));
    world.stacks[0].send(client, b"x", None, SendFlags::MORE, world.now).unwrap();
    world.settle();
    assert_eq!(world.recv(1, server), Err(Error::Again));
    world.send(0, client, b"y").unwrap();
    world.settle();
    assert_eq!(world.recv(1, server).unwrap(), b"xy");
}

#[test]
fn deferred_accept_waits_for_data() {
    let mut world = World::new();
    let listener = world.stacks[1].socket(TCP4).unwrap();
    world.stacks[1].bind(listener, addr("0.0.0.0:80")).unwrap();
    world.stacks[1].set_option(listener, SocketOption::DeferAccept(Duration::from_secs(30))).unwrap();
    world.stacks[1].listen(listener, 5).unwrap();
    let client = world.connect(0, TCP4, "192.0.2.2:80");
    assert_eq!(world.ready(0, client), Events::OUT);
    assert_eq!(world.stacks[1].accept(listener), Err(Error::Again));
    world.send(0, client, b"GET").unwrap();
    world.settle();
    let (server, _) = world.stacks[1].accept(listener).unwrap();
    assert_eq!(world.recv(1, server).unwrap(), b"GET");
}

#[test]
fn a_full_buffer_says_again_and_then_out() {
    let mut world = World::new();
    let (client, server) = world.pair();
    watch(&mut world.stacks[0], client, Events::OUT);
    events(&mut world.stacks[0]);
    let data = vec![0; 65_536];
    let mut sent = 0;
    while let Ok(len) = world.send(0, client, &data) {
        sent += len;
        world.pass(Duration::from_millis(50));
    }
    assert!(sent > 400_000, "{sent}");
    assert_eq!(world.ready(0, client), Events::empty());
    world.pass(Duration::from_millis(100));
    assert_eq!(events(&mut world.stacks[0]), []);
    let mut got = 0;
    while got < sent {
        if let Ok(data) = world.recv(1, server) {
            got += data.len();
        }
        world.pass(Duration::from_millis(20));
    }
    assert_eq!(events(&mut world.stacks[0]), [Event { handle: client, events: Events::OUT }]);
    assert_eq!(world.stacks[0].queued_out(client), Ok(0));
}

#[test]
fn a_small_maximum_segment_is_kept() {
    let mut world = World::new();
    let listener = world.listen(1, TCP4, "0.0.0.0:80", 5);
    let client = world.stacks[0].socket(TCP4).unwrap();
    world.stacks[0].set_option(client, SocketOption::MaxSegment(500)).unwrap();
    world.stacks[0].connect(client, addr("192.0.2.2:80"), world.now).unwrap_err();
    world.settle();
    let (server, _) = world.stacks[1].accept(listener).unwrap();
    world.filter(|_, frame| {
        assert!(frame.len() <= 14 + 40 + 500, "{} bytes", frame.len());
        true
    });
    world.send(0, client, &[0; 3000]).unwrap();
    world.send(1, server, &[0; 3000]).unwrap();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.recv(0, client).unwrap().len(), 3000);
    assert_eq!(world.recv(1, server).unwrap().len(), 3000);
    assert_eq!(
        world.stacks[1].get_option(server, OptionName::MaxSegment),
        Ok(SocketOption::MaxSegment(488)),
        "as on Linux, less 12 bytes of timestamps"
    );
}

#[test]
fn pause_stands_still_and_destroy_resets() {
    let mut world = World::new();
    let (client, server) = world.pair();
    world.stacks[1].pause().unwrap();
    world.send(0, client, b"x").unwrap();
    for stack in &mut world.stacks {
        stack.poll(world.now);
    }
    assert_eq!(world.recv(1, server), Err(Error::Again));
    world.stacks[1].resume().unwrap();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.recv(1, server).unwrap(), b"x");
    world.stacks[1].destroy();
    world.stacks[0].poll(world.now);
    assert_eq!(world.stacks[0].take_error(client), Some(Error::ConnectionReset));
    assert_eq!(world.stacks[1].socket(TCP4), Err(Error::NetworkDown));
}

/// Sequence number and flags of a TCP frame over IPv4 without options.
fn seq_and_flags(frame: &[u8]) -> Option<(u32, u8)> {
    is_tcp(frame).then(|| (u32::from_be_bytes(frame[38..42].try_into().unwrap()), frame[47]))
}

/// Connects from port 5000, waiting for a second SYN if need be, and closes at the server first.
fn once_from_the_same_port(world: &mut World, listener: Handle) -> Result<()> {
    let client = world.stacks[0].socket(TCP4).unwrap();
    world.stacks[0].set_option(client, SocketOption::ReuseAddress(true)).unwrap();
    world.stacks[0].bind(client, addr("0.0.0.0:5000")).unwrap();
    assert_eq!(world.stacks[0].connect(client, addr("192.0.2.2:80"), world.now), Err(Error::InProgress));
    world.settle();
    if world.ready(0, client).is_empty() {
        world.pass(Duration::from_millis(1100));
    }
    let (server, _) = world.stacks[1].accept(listener)?;
    assert_eq!(world.send(1, server, b"bye"), Ok(3));
    world.stacks[1].close(server, world.now).unwrap();
    world.settle();
    assert_eq!(world.recv(0, client).unwrap(), b"bye");
    assert_eq!(world.recv(0, client).unwrap(), b"");
    world.stacks[0].close(client, world.now).unwrap();
    world.settle();
    Ok(())
}

#[test]
fn a_port_whose_connection_waits_at_the_server_connects_again_at_once() {
    let numbers = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
    let seen = Arc::clone(&numbers);
    let mut world = World::filtered(move |end, frame| {
        if let Some((seq, flags)) = seq_and_flags(frame)
            && flags & 2 != 0
        {
            seen.lock().unwrap()[end].push(seq);
        }
        true
    });
    let listener = world.listen(1, TCP4, "0.0.0.0:80", 16);
    let end = world.now + Duration::from_millis(50);
    for _ in 0..50 {
        once_from_the_same_port(&mut world, listener).unwrap();
        world.pass(Duration::from_millis(1));
    }
    assert_eq!(world.now, end, "no connection took a second SYN");
    let numbers = numbers.lock().unwrap();
    for numbers in &*numbers {
        // Nothing was repeated, and each number is behind what the last connection has sent.
        assert_eq!(numbers.len(), 50);
        assert!(numbers.windows(2).all(|w| (4..1 << 20).contains(&w[1].wrapping_sub(w[0]))), "{numbers:?}");
    }
}

#[test]
fn a_peer_whose_numbers_do_not_grow_connects_again_with_its_second_syn() {
    let mut world = World::new();
    let listener = world.listen(1, TCP4, "0.0.0.0:80", 16);
    let mut late = 0;
    for _ in 0..60 {
        let began = world.now;
        once_from_the_same_port(&mut world, listener).unwrap();
        late += usize::from(world.now > began);
        // Its next number is anything, as of a host that was started again.
        world.stacks[0].core_mut().unwrap().initial = crate::isn::InitialNumbers::new();
        world.pass(Duration::from_millis(1));
    }
    assert!((1..60).contains(&late), "{late} of 60 numbers seemed old");
}

#[test]
fn round_trips_and_repetitions_are_told() {
    let mut world = World::new();
    let (client, server) = world.pair();
    let info = |world: &World| world.stacks[0].tcp_info(client).unwrap();
    assert_eq!((info(&world).rtt, info(&world).retransmits), (Duration::ZERO, 0));
    for _ in 0..50 {
        world.send(0, client, b"ping").unwrap();
        world.stacks[0].poll(world.now);
        // The frame is 40 ms on the way.
        world.now = world.now + Duration::from_millis(40);
        world.settle();
        world.recv(1, server).unwrap();
        world.send(1, server, b"pong").unwrap();
        world.settle();
        world.recv(0, client).unwrap();
    }
    let off = info(&world).rtt.abs_diff(Duration::from_millis(40));
    assert!(off < Duration::from_millis(2), "{:?}", info(&world));
    // 200 ms above the round trip, as on Linux.
    let off = info(&world).rto.abs_diff(Duration::from_millis(240));
    assert!(off < Duration::from_millis(2) && info(&world).retransmits == 0, "{:?}", info(&world));
    let mut lost = 3;
    world.filter(move |end, frame| {
        let ours = end == 0 && frame.ends_with(b"again");
        lost -= usize::from(lost > 0 && ours);
        lost == 0 || !ours
    });
    world.send(0, client, b"again").unwrap();
    world.pass(Duration::from_secs(10));
    assert_eq!(world.recv(1, server).unwrap(), b"again");
    assert_eq!(info(&world).retransmits, 2);
    // Neither keep-alive probes nor an idle connection repeat anything.
    world.stacks[0].set_option(client, SocketOption::KeepIdle(Duration::from_secs(1))).unwrap();
    world.stacks[0].set_option(client, SocketOption::KeepAlive(true)).unwrap();
    world.pass(Duration::from_secs(20));
    assert_eq!(info(&world).retransmits, 2);
}

#[test]
fn a_flood_of_syns_takes_no_memory_and_a_client_still_connects() {
    // RFC 4987 section 3.6. Nobody who floods acknowledges the answer.
    let mut world = World::filtered(|end, frame| !(end == 0 && is_tcp(frame) && frame[47] & 0x12 == 0x10));
    let listener = world.listen(1, TCP4, "0.0.0.0:80", 2);
    for _ in 0..50 {
        world.connect(0, TCP4, "192.0.2.2:80");
    }
    let half_open = world.stacks[1].core().unwrap().connections.len();
    assert_eq!(half_open, 3, "the backlog and one more");
    world.filter(|_, _| true);
    let client = world.connect(0, TCP4, "192.0.2.2:80");
    assert_eq!(world.ready(0, client), Events::OUT);
    assert_eq!(world.send(0, client, b"hello"), Ok(5));
    world.settle();
    let (server, peer) = world.stacks[1].accept(listener).unwrap();
    assert_eq!(peer, world.stacks[0].local_addr(client).unwrap());
    assert_eq!(world.recv(1, server).unwrap(), b"hello");
    assert_eq!(world.stacks[1].tcp_info(server).unwrap().state, TcpState::Established);
    // An acknowledgement of something else is refused.
    world.stacks[1].close(listener, world.now).unwrap();
    world.settle();
    let late = world.connect(0, TCP4, "192.0.2.2:80");
    assert_eq!(world.stacks[0].take_error(late), Some(Error::ConnectionRefused));
}

/// A link that is gone from some time on.
struct Leaving {
    inner: End,
    gone: Arc<std::sync::atomic::AtomicBool>,
}

impl Link for Leaving {
    fn medium(&self) -> Medium {
        self.inner.medium()
    }
    fn mtu(&self) -> usize {
        1500
    }
    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        if self.gone.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Error::NetworkDown);
        }
        self.inner.receive(now, limit, deliver)
    }
    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        self.inner.send(now, frame, meta)
    }
    fn flush(&mut self, now: Instant) -> Result<()> {
        self.inner.flush(now)
    }
}

#[test]
fn a_link_that_is_gone_ends_its_connections_and_no_others() {
    let mut world = World::new();
    let gone = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let addresses = vec!["192.0.2.1/24".parse().unwrap()];
    let config = StackConfig { addresses, ..StackConfig::default() };
    let inner = End { wire: Arc::clone(&world.wire), end: 0 };
    let link = Box::new(Leaving { inner, gone: Arc::clone(&gone) });
    world.stacks[0] = SmoltcpStack::with_link(config, link).unwrap();
    world.stacks[0].init(InitStackArgs::default()).unwrap();
    world.listen(1, TCP4, "0.0.0.0:80", 16);
    let listener = world.listen(0, TCP4, "0.0.0.0:81", 16);
    let outside = world.connect(0, TCP4, "192.0.2.2:80");
    let inside = world.connect(0, TCP4, "127.0.0.1:81");
    let (accepted, _) = world.stacks[0].accept(listener).unwrap();
    assert_eq!(world.send(0, outside, b"x"), Ok(1));
    gone.store(true, std::sync::atomic::Ordering::Relaxed);
    world.filter(|from, _| from == 0);
    world.settle();
    assert_eq!(world.send(0, outside, b"x"), Err(Error::NetworkDown));
    let later = world.stacks[0].socket(TCP4).unwrap();
    let now = world.now;
    assert_eq!(world.stacks[0].connect(later, addr("192.0.2.2:80"), now), Err(Error::NetworkDown));
    assert_eq!(world.send(0, inside, b"hello"), Ok(5));
    world.settle();
    assert_eq!(world.recv(0, accepted), Ok(b"hello".to_vec()));
}

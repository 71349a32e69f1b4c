//! Connections inside a sandbox.

use netgraft_plugin::{Events, TcpState};

use super::fake::net::Answer;
use super::fake::rig::{DONE, OTHER, Rig, addr, fails};
use super::fake::world::Reply;
use crate::uapi;

const HERE: &str = "127.0.0.1:80";
const ANYWHERE: &str = "0.0.0.0:80";

fn joining() -> Rig {
    let mut rig = Rig::new();
    rig.core.set_joining(true);
    rig
}

fn fd_of(reply: Reply) -> i32 {
    match reply {
        Reply::Is(fd) => fd as i32,
        other => panic!("no descriptor: {other:?}"),
    }
}

/// A connection that is joined: listener, client, accepted.
fn joined(rig: &mut Rig) -> (i32, i32, i32) {
    let listener = rig.listener(HERE, 5);
    let client = rig.tcp();
    assert_eq!(rig.connect(client, HERE), DONE);
    let accepted = rig.accept_untrapped(listener).unwrap();
    (listener, client, accepted)
}

#[test]
fn bytes_of_a_joined_connection_do_not_pass_the_sentry() {
    let mut rig = joining();
    let (_, client, accepted) = joined(&mut rig);
    assert_eq!(rig.write(client, b"hello"), Ok(5));
    // No round of the sentry in between.
    assert_eq!(rig.read(accepted, 10), Ok(b"hello".to_vec()));
    assert_eq!(rig.write(accepted, b"world"), Ok(5));
    assert_eq!(rig.read(client, 10), Ok(b"world".to_vec()));
    let counts = rig.core.counts();
    assert_eq!((counts.connections_out, counts.connections_in, counts.connections_joined), (1, 1, 1));
    assert_eq!((counts.bytes_sent, counts.bytes_received), (0, 0));
}

#[test]
fn both_sides_know_both_addresses() {
    let mut rig = joining();
    let (_, client, accepted) = joined(&mut rig);
    assert_eq!(rig.getpeername(client), DONE);
    assert_eq!(rig.out(), Some(addr(HERE)));
    assert_eq!(rig.getsockname(client), DONE);
    let local = rig.out().unwrap();
    assert!(local.ip().is_loopback() && local.port() != 0);
    assert_eq!(rig.getpeername(accepted), DONE);
    assert_eq!(rig.out(), Some(local));
    assert_eq!(rig.getsockname(accepted), DONE);
    assert_eq!(rig.out(), Some(addr(HERE)));
}

#[test]
fn an_accept_with_an_address_names_the_client_also_when_it_is_gone() {
    let mut rig = joining();
    let listener = rig.listener(ANYWHERE, 5);
    for closes_first in [false, true] {
        let client = rig.tcp();
        assert_eq!(rig.connect(client, HERE), DONE);
        assert_eq!(rig.getsockname(client), DONE);
        let local = rig.out();
        if closes_first {
            rig.close(client);
        }
        fd_of(rig.accept(listener, 0));
        assert_eq!(rig.out(), local);
    }
}

#[test]
fn an_accept_that_waits_gets_a_joined_connection() {
    let mut rig = joining();
    let listener = rig.listener(HERE, 5);
    assert_eq!(rig.accept(listener, 0), Reply::Waits);
    let waits = rig.last;
    let connected = rig.as_thread(OTHER, |rig| {
        let client = rig.tcp();
        rig.connect(client, HERE)
    });
    assert_eq!(connected, DONE);
    fd_of(rig.reply(waits));
}

#[test]
fn a_nonblocking_connect_is_under_way_and_then_done() {
    let mut rig = joining();
    rig.listener(HERE, 5);
    let client = rig.tcp_nonblocking();
    let edges = rig.edges(client);
    assert_eq!(rig.connect(client, HERE), fails(uapi::EINPROGRESS));
    assert!(rig.edges(client) > edges, "who polls sees that it is connected");
    assert!(rig.poll(client).contains(Events::OUT) && !rig.poll(client).contains(Events::HUP));
    assert_eq!(rig.write(client, b"at once"), Ok(7));
    assert_eq!(rig.so_error(client), 0);
    assert_eq!(rig.connect(client, HERE), DONE, "the first call after it says how it went");
    assert_eq!(rig.connect(client, HERE), fails(uapi::EISCONN));
}

#[test]
fn what_is_not_the_sandboxs_own_goes_through_the_stack() {
    let mut rig = joining();
    rig.listener(HERE, 5);
    for (to, answer) in [("198.51.100.1:80", Answer::Accepts), ("127.0.0.1:81", Answer::Refuses)] {
        rig.remote(to, answer);
        let client = rig.tcp();
        rig.connect(client, to);
        rig.settle();
    }
    assert_eq!(rig.core.counts().connections_joined, 0);
}

#[test]
fn a_listener_of_everything_takes_the_stacks_own_addresses_only() {
    let mut rig = joining();
    rig.listener(ANYWHERE, 5);
    rig.remote("198.51.100.1:80", Answer::Accepts);
    let abroad = rig.tcp();
    assert_eq!(rig.connect(abroad, "198.51.100.1:80"), Reply::Waits);
    assert_eq!(rig.core.counts().connections_joined, 0);
    for to in [HERE, "127.1.2.3:80", "0.0.0.0:80"] {
        let client = rig.as_thread(OTHER, Rig::tcp);
        assert_eq!(rig.as_thread(OTHER, |rig| rig.connect(client, to)), DONE, "{to}");
    }
    assert_eq!(rig.core.counts().connections_joined, 3);
}

#[test]
fn a_full_queue_is_the_stacks_to_answer() {
    let mut rig = joining();
    rig.listener(HERE, 0);
    let first = rig.tcp();
    assert_eq!(rig.connect(first, HERE), DONE);
    let second = rig.tcp();
    assert_eq!(rig.connect(second, HERE), Reply::Waits);
    assert_eq!(rig.reply_at_rest(), DONE, "the stack has a queue of its own");
    assert_eq!(rig.core.counts().connections_joined, 1);
}

#[test]
fn a_listener_that_is_closed_takes_no_more() {
    let mut rig = joining();
    let listener = rig.listener(HERE, 5);
    rig.close(listener);
    let client = rig.tcp();
    assert_ne!(rig.connect(client, HERE), DONE);
    assert_eq!(rig.core.counts().connections_joined, 0);
}

#[test]
fn a_listener_that_is_shut_down_takes_no_more() {
    let mut rig = joining();
    let listener = rig.listener(HERE, 5);
    assert_eq!(rig.shutdown(listener, uapi::SHUT_RD), DONE);
    let client = rig.tcp();
    assert_ne!(rig.connect(client, HERE), DONE);
    assert_eq!(rig.core.counts().connections_joined, 0);
}

#[test]
fn connections_that_close_by_a_reset_are_the_stacks() {
    let mut rig = joining();
    rig.listener(HERE, 5);
    let client = rig.tcp();
    linger_not(&mut rig, client);
    rig.connect(client, HERE);
    assert_eq!(rig.core.counts().connections_joined, 0);
}

#[test]
fn a_clients_port_is_taken_while_it_lives_and_free_afterwards() {
    let mut rig = joining();
    rig.listener(HERE, 5);
    let client = rig.tcp();
    assert_eq!(rig.bind(client, "127.0.0.1:5000"), DONE);
    assert_eq!(rig.connect(client, HERE), DONE);
    let other = rig.tcp();
    assert_eq!(rig.bind(other, "127.0.0.1:5000"), fails(netgraft_plugin::Error::AddressInUse.errno()));
    rig.close(client);
    rig.settle();
    assert_eq!(rig.bind(other, "127.0.0.1:5000"), DONE);
}

#[test]
fn sockets_that_are_closed_are_found_when_there_are_many() {
    let mut rig = joining();
    let listener = rig.listener(HERE, 5);
    for _ in 0..3000 {
        let client = rig.tcp();
        assert_eq!(rig.connect(client, HERE), DONE);
        let accepted = rig.accept_untrapped(listener).unwrap();
        rig.close(client);
        rig.close(accepted);
        rig.pass(1);
    }
    assert!(rig.core.sockets() < 1100, "{}", rig.core.sockets());
    assert_eq!(rig.core.counts().connections_joined, 3000);
}

#[test]
fn a_half_that_is_shut_down_ends_the_other_sides_input() {
    let mut rig = joining();
    let (_, client, accepted) = joined(&mut rig);
    rig.write(client, b"last").unwrap();
    assert_eq!(rig.shutdown(client, uapi::SHUT_WR), DONE);
    assert_eq!(rig.read_all(accepted), (b"last".to_vec(), Ok(())));
    assert_eq!(rig.write(accepted, b"still"), Ok(5));
    assert_eq!(rig.read(client, 10), Ok(b"still".to_vec()));
}

#[test]
fn a_close_with_bytes_unread_is_a_reset() {
    let mut rig = joining();
    let (_, client, accepted) = joined(&mut rig);
    rig.write(client, b"unread").unwrap();
    rig.close(accepted);
    assert_eq!(rig.so_error(client), uapi::ECONNRESET);
    assert_eq!(rig.so_error(client), 0);
}

#[test]
fn tcp_info_follows_the_ends() {
    let mut rig = joining();
    let (_, client, accepted) = joined(&mut rig);
    let state = |rig: &mut Rig| rig.getsockopt(client, uapi::IPPROTO_TCP, uapi::TCP_INFO).unwrap()[0];
    assert_eq!(state(&mut rig), TcpState::Established as u8);
    assert_eq!(rig.shutdown(accepted, uapi::SHUT_WR), DONE);
    assert_eq!(state(&mut rig), TcpState::CloseWait as u8);
    rig.close(accepted);
    assert_eq!(state(&mut rig), TcpState::CloseWait as u8);
    assert_eq!(rig.shutdown(client, uapi::SHUT_WR), DONE);
    assert_eq!(state(&mut rig), TcpState::Closed as u8);
}

#[test]
fn a_trapped_receive_waits_for_the_other_side() {
    let mut rig = joining();
    let (_, client, accepted) = joined(&mut rig);
    assert_eq!(rig.recvfrom(client, 10, 0), Reply::Waits);
    let waits = rig.last;
    rig.write(accepted, b"now").unwrap();
    rig.settle();
    assert_eq!(rig.reply(waits), Reply::Is(3));
    assert_eq!(rig.data(3), b"now");
}

#[test]
fn options_of_an_accepted_connection_are_its_listeners() {
    let mut rig = joining();
    let listener = rig.listener(HERE, 5);
    assert_eq!(rig.set_int(listener, uapi::IPPROTO_TCP, uapi::TCP_NODELAY, 1), DONE);
    let client = rig.tcp();
    assert_eq!(rig.connect(client, HERE), DONE);
    let accepted = rig.accept_untrapped(listener).unwrap();
    assert_eq!(rig.get_int(accepted, uapi::IPPROTO_TCP, uapi::TCP_NODELAY), Ok(1));
    assert_ne!(rig.get_int(client, uapi::IPPROTO_TCP, uapi::TCP_NODELAY), Ok(1), "and no client's");
}

/// Has a socket close by a reset.
fn linger_not(rig: &mut Rig, fd: i32) {
    let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
    assert_eq!(rig.setsockopt(fd, uapi::SOL_SOCKET, uapi::SO_LINGER, &linger), DONE);
}

#[test]
fn a_close_that_does_not_linger_is_a_reset_behind_the_bytes_that_were_sent() {
    for server_closes in [false, true] {
        let mut rig = joining();
        let listener = rig.listener(HERE, 5);
        let client = rig.tcp();
        assert_eq!(rig.connect(client, HERE), DONE);
        let accepted = fd_of(rig.accept(listener, 0));
        let (closes, sees) = if server_closes { (accepted, client) } else { (client, accepted) };
        rig.write(closes, b"last").unwrap();
        linger_not(&mut rig, closes);
        rig.close(closes);
        assert_eq!(rig.read_all(sees), (b"last".to_vec(), Err(uapi::ECONNRESET)));
    }
}

#[test]
fn a_disconnect_resets_a_joined_connection() {
    let mut rig = joining();
    let listener = rig.listener(HERE, 5);
    let client = rig.tcp();
    assert_eq!(rig.connect(client, HERE), DONE);
    let accepted = fd_of(rig.accept(listener, 0));
    assert_eq!(rig.disconnect(client), DONE);
    rig.settle();
    assert_eq!(rig.read(accepted, 10), Err(uapi::ECONNRESET));
    assert_eq!(rig.getpeername(client), fails(uapi::ENOTCONN));
    assert_eq!(rig.connect(client, HERE), DONE, "it can be used again");
}

#[test]
fn urgent_data_of_a_joined_connection_is_the_kernels_own() {
    let mut rig = joining();
    let (_, client, accepted) = joined(&mut rig);
    assert_eq!(rig.sendto(client, b"ab!", uapi::MSG_OOB, None), Reply::Is(3));
    assert_eq!(rig.read(accepted, 10), Ok(b"ab".to_vec()));
    assert_eq!(rig.recvfrom(accepted, 10, uapi::MSG_OOB), Reply::Is(1));
    assert_eq!(rig.recvfrom(accepted, 10, uapi::MSG_OOB), fails(uapi::EINVAL));
}

#[test]
fn urgent_data_is_refused_where_a_close_is_to_reset() {
    let mut rig = joining();
    let listener = rig.listener(HERE, 5);
    let client = rig.tcp();
    assert_eq!(rig.connect(client, HERE), DONE);
    let accepted = fd_of(rig.accept(listener, 0));
    linger_not(&mut rig, accepted);
    assert_eq!(rig.sendto(client, b"!", uapi::MSG_OOB, None), fails(uapi::EOPNOTSUPP));
    assert_eq!(rig.sendto(accepted, b"!", uapi::MSG_OOB, None), fails(uapi::EOPNOTSUPP));
    // The mark is no urgent data of the program's.
    assert_eq!(rig.recvfrom(accepted, 10, uapi::MSG_OOB), fails(uapi::EINVAL));
    rig.write(client, b"data").unwrap();
    assert_eq!(rig.read(accepted, 10), Ok(b"data".to_vec()));
}

#[test]
fn a_close_that_does_not_linger_twice_adds_no_byte() {
    let mut rig = joining();
    let listener = rig.listener(HERE, 5);
    let client = rig.tcp();
    assert_eq!(rig.connect(client, HERE), DONE);
    let accepted = fd_of(rig.accept(listener, 0));
    linger_not(&mut rig, accepted);
    rig.write(client, b"data").unwrap();
    linger_not(&mut rig, accepted);
    let file = rig.file(accepted);
    let queued = rig.world().socks.queued(file);
    assert_eq!(queued, 5, "a second mark makes a byte of data of the first");
    let off = [0i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
    assert_eq!(rig.setsockopt(accepted, uapi::SOL_SOCKET, uapi::SO_LINGER, &off), DONE);
    assert_eq!(rig.world().socks.queued(file), 4, "and none is left when it lingers again");
    assert_eq!(rig.read(accepted, 10), Ok(b"data".to_vec()));
}

#[test]
fn a_receive_and_a_send_that_wait_are_both_served() {
    let mut rig = joining();
    let (_, client, accepted) = joined(&mut rig);
    while rig.write(client, &[7; 1024]).is_ok() {}
    assert_eq!(rig.recvfrom(client, 10, 0), Reply::Waits);
    let receives = rig.last;
    let sends = rig.as_thread(OTHER, |rig| {
        assert_eq!(rig.sendto(client, b"more", 0, Some(HERE)), Reply::Waits);
        rig.last
    });
    rig.write(accepted, b"answer").unwrap();
    rig.settle();
    assert_eq!((rig.reply(receives), rig.reply(sends)), (Reply::Is(6), Reply::Waits));
    assert_eq!(rig.read_all(accepted).1, Err(uapi::EAGAIN));
    rig.settle();
    assert_eq!(rig.reply(sends), Reply::Is(4));
}

#[test]
fn joined_connections_count_in_the_budget_once_they_are_looked_at() {
    let mut rig = Rig::with(
        Box::new(crate::route::Always(crate::route::Route::Stack)),
        crate::Budget { sockets: 3, process_sockets: 3, memory: 1 << 30, bytes: 1 << 20 },
    );
    rig.core.set_joining(true);
    let (_, client, accepted) = joined(&mut rig);
    assert_eq!(rig.getpeername(accepted), DONE);
    let other = rig.as_thread(OTHER, |rig| rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0));
    assert!(matches!(other, Reply::Fails(uapi::EMFILE | uapi::ENFILE)), "{other:?}");
    rig.close(client);
}

#[test]
fn a_client_that_nobody_has_accepted_is_reset_with_its_listener() {
    let mut rig = joining();
    let listener = rig.listener(HERE, 5);
    let client = rig.tcp();
    assert_eq!(rig.connect(client, HERE), DONE);
    assert_eq!(rig.shutdown(listener, uapi::SHUT_RDWR), DONE);
    assert_eq!(rig.read(client, 10), Err(uapi::ECONNRESET));
    assert_eq!(rig.read(client, 10), Ok(Vec::new()));
}

#[test]
fn an_accepted_side_has_what_its_listener_keeps() {
    let mut rig = joining();
    let listener = rig.listener(HERE, 5);
    // SO_NO_CHECK
    assert_eq!(rig.set_int(listener, uapi::SOL_SOCKET, 11, 1), DONE);
    assert_eq!(rig.set_int(listener, uapi::SOL_SOCKET, uapi::SO_TIMESTAMP, 1), DONE);
    let client = rig.tcp();
    assert_eq!(rig.connect(client, HERE), DONE);
    let accepted = rig.accept_untrapped(listener).unwrap();
    assert_eq!(rig.get_int(accepted, uapi::SOL_SOCKET, 11), Ok(1));
    assert_eq!(rig.get_int(accepted, uapi::SOL_SOCKET, uapi::SO_TIMESTAMP), Ok(1));
    assert_eq!(rig.get_int(client, uapi::SOL_SOCKET, 11), Ok(0));
}

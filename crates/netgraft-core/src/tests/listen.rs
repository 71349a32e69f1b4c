//! bind(2) and listen(2), and what becomes of connections that arrive.

use netgraft_plugin::{Call, Error, Events};

use super::fake::rig::{DONE, OTHER, REMOTE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::uapi;

#[test]
fn a_bound_socket_tells_its_address() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), DONE);
    assert_eq!(rig.getsockname(fd), DONE);
    assert_eq!(rig.out(), Some(addr("127.0.0.1:80")));
}

#[test]
fn an_address_that_is_taken_fails_with_eaddrinuse() {
    let mut rig = Rig::new();
    rig.listener("127.0.0.1:80", 1);
    let fd = rig.tcp();
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), fails(Error::AddressInUse.errno()));
    assert_eq!(rig.bind(fd, "127.0.0.1:81"), DONE, "it can be bound to another one");
}

#[test]
fn an_address_of_another_host_fails_with_eaddrnotavail() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.bind(fd, REMOTE), fails(uapi::EADDRNOTAVAIL));
}

#[test]
fn a_second_bind_fails_with_einval() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), DONE);
    assert_eq!(rig.bind(fd, "127.0.0.1:81"), fails(uapi::EINVAL));
}

#[test]
fn a_bind_that_a_thread_repeats_after_a_signal_succeeds() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), DONE);
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), DONE);
    let other = rig.as_thread(OTHER, |rig| rig.bind(fd, "127.0.0.1:80"));
    assert_eq!(other, fails(uapi::EINVAL), "another thread has not asked for it");
}

#[test]
fn a_bind_is_not_repeated_when_the_thread_has_made_another_call_since() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), DONE);
    assert_eq!(rig.getsockname(fd), DONE);
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), fails(uapi::EINVAL));
}

#[test]
fn a_connected_socket_cannot_be_bound() {
    let mut rig = Rig::new();
    let (fd, _) = rig.connected();
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), fails(uapi::EINVAL));
}

#[test]
fn af_unspec_with_the_unspecified_address_binds() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    let at = rig.put(&[0; 16]);
    assert_eq!(rig.call(uapi::SYS_bind, [fd as u64, at, 16, 0, 0, 0]), DONE);
    assert_eq!(rig.getsockname(fd), DONE);
    assert_ne!(rig.out().unwrap().port(), 0);
}

#[test]
fn a_bind_to_another_family_fails_with_eafnosupport() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.bind(fd, "[::1]:80"), fails(uapi::EAFNOSUPPORT));
}

#[test]
fn the_address_of_a_socket_that_was_just_closed_is_free() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    rig.close(fd);
    // The sentry has not heard of the close yet.
    let fd = rig.tcp();
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), DONE);
}

#[test]
fn a_bound_socket_that_is_closed_gives_its_address_up() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), DONE);
    rig.close(fd);
    rig.assert_nothing_left();
}

#[test]
fn a_listener_polls_readable_when_a_connection_has_come() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    assert_eq!(rig.poll(fd), Events::empty());
    let before = rig.edges(fd);
    rig.dial("127.0.0.1:80", REMOTE);
    assert_eq!(rig.poll(fd), Events::IN);
    assert_eq!(rig.edges(fd), before + 1);
}

#[test]
fn a_listener_without_an_address_gets_a_port() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.listen(fd, 1), DONE);
    assert_eq!(rig.getsockname(fd), DONE);
    assert_ne!(rig.out().unwrap().port(), 0);
}

#[test]
fn a_datagram_socket_cannot_listen() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    assert_eq!(rig.listen(fd, 1), fails(uapi::EOPNOTSUPP));
}

#[test]
fn a_connected_socket_cannot_listen() {
    let mut rig = Rig::new();
    let (fd, _) = rig.connected();
    assert_eq!(rig.listen(fd, 1), fails(uapi::EINVAL));
}

#[test]
fn a_socket_that_is_being_connected_cannot_listen() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    assert_eq!(rig.listen(fd, 1), fails(uapi::EINVAL));
}

#[test]
fn the_stacks_own_refusal_of_a_listen_is_its_errno() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.net().fail_next(Call::listen, Error::AddressInUse);
    assert_eq!(rig.listen(fd, 1), fails(Error::AddressInUse.errno()));
    assert_eq!(rig.listen(fd, 1), DONE);
}

#[test]
fn a_backlog_below_zero_is_the_most_and_a_larger_one_is_cut() {
    for asked in [-1, i32::MIN, 5000, i32::MAX] {
        let mut rig = Rig::new();
        let fd = rig.listener("127.0.0.1:80", asked);
        let handle = rig.handle(fd);
        let net = rig.net();
        let super::fake::net::Phase::Listening { backlog, .. } = net.get(handle).unwrap().phase else {
            panic!("it does not listen");
        };
        assert_eq!(backlog, 4096, "{asked}");
    }
}

#[test]
fn a_second_listen_changes_the_backlog_of_both() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    assert_eq!(rig.listen(fd, 3), DONE);
    for port in 0..4 {
        rig.dial("127.0.0.1:80", &format!("198.51.100.1:{}", 1000 + port));
    }
    assert_eq!(rig.world().socks.waiting(rig.file(fd)), 4, "as many as the backlog, and one");
}

#[test]
fn a_full_queue_holds_a_connection_until_the_program_accepts() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 0);
    rig.dial("127.0.0.1:80", "198.51.100.1:1000");
    let second = rig.dial("127.0.0.1:80", "198.51.100.1:1001");
    assert_eq!(rig.world().socks.waiting(rig.file(fd)), 1);
    rig.accept_untrapped(fd).unwrap();
    rig.settle();
    assert_eq!(rig.world().socks.waiting(rig.file(fd)), 0, "it is offered again after a while");
    rig.pass(10);
    assert_eq!(rig.world().socks.waiting(rig.file(fd)), 1);
    let accepted = rig.accept_untrapped(fd).unwrap();
    rig.remote_sends(second, b"second");
    assert_eq!(rig.read(accepted, 10), Ok(b"second".to_vec()));
}

#[test]
fn a_connection_that_finds_no_room_in_the_sentry_is_offered_again() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    rig.world_mut().limits.no_room = true;
    rig.dial("127.0.0.1:80", REMOTE);
    assert_eq!(rig.poll(fd), Events::empty());
    rig.world_mut().limits.no_room = false;
    rig.pass(10);
    assert_eq!(rig.poll(fd), Events::IN);
}

#[test]
fn a_listener_that_is_closed_resets_the_connection_that_it_holds() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 0);
    let first = rig.dial("127.0.0.1:80", "198.51.100.1:1000");
    let second = rig.dial("127.0.0.1:80", "198.51.100.1:1001");
    let third = rig.dial("127.0.0.1:80", "198.51.100.1:1002");
    rig.close(fd);
    rig.pass(20);
    for remote in [first, second, third] {
        assert!(rig.net().remote_sees_reset(remote));
    }
    rig.assert_nothing_left();
}

#[test]
fn a_connection_for_a_listener_that_was_just_closed_is_reset() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    let remote = rig.net().dial(addr("127.0.0.1:80"), addr(REMOTE)).unwrap();
    rig.close(fd);
    // The stack's event comes first.
    rig.core.wake_stack();
    rig.core.run();
    assert!(rig.net().remote_sees_reset(remote));
    rig.assert_nothing_left();
}

#[test]
fn a_listener_that_was_shut_down_can_listen_again_on_its_address() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    assert_eq!(rig.shutdown(fd, uapi::SHUT_RDWR), DONE);
    assert_eq!(rig.listen(fd, 1), DONE);
    rig.dial("127.0.0.1:80", REMOTE);
    assert_eq!(rig.poll(fd), Events::IN);
}

#[test]
fn a_listener_that_was_shut_down_can_connect() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    assert_eq!(rig.shutdown(fd, uapi::SHUT_RDWR), DONE);
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
}

#[test]
fn a_stack_without_a_connection_after_all_changes_nothing() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    rig.net().fail_next(Call::accept, Error::ConnectionAborted);
    rig.net().dial(addr("127.0.0.1:80"), addr(REMOTE)).unwrap();
    rig.core.wake_stack();
    rig.settle();
    assert_eq!(rig.poll(fd), Events::empty());
    rig.dial("127.0.0.1:80", "198.51.100.1:1001");
    assert_eq!(rig.world().socks.waiting(rig.file(fd)), 2);
}

#[test]
fn connections_that_come_are_counted() {
    let mut rig = Rig::new();
    rig.listener("127.0.0.1:80", 5);
    rig.dial("127.0.0.1:80", "198.51.100.1:1000");
    rig.dial("127.0.0.1:80", "198.51.100.1:1001");
    assert_eq!(rig.core.counts().connections_in, 2);
}

#[test]
fn getsockopt_tells_a_listener_from_other_sockets() {
    let mut rig = Rig::new();
    let (fresh, listener) = (rig.tcp(), rig.listener("127.0.0.1:80", 5));
    assert_eq!(rig.get_int(fresh, uapi::SOL_SOCKET, uapi::SO_ACCEPTCONN), Ok(0));
    assert_eq!(rig.get_int(listener, uapi::SOL_SOCKET, uapi::SO_ACCEPTCONN), Ok(1));
}

#[test]
fn a_listener_that_is_shut_down_resets_who_waits_in_its_queue() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 5);
    let waiting = [rig.dial("127.0.0.1:80", REMOTE), rig.dial("127.0.0.1:80", "198.51.100.3:9")];
    rig.settle();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_RD), DONE);
    rig.settle();
    for remote in waiting {
        assert!(rig.net().remote_sees_reset(remote));
    }
    rig.close(fd);
    rig.settle();
    rig.assert_nothing_left();
}

#[test]
fn an_address_without_a_port_gets_one_when_it_listens() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.setsockopt(fd, uapi::IPPROTO_IP, 24, &[1]), DONE);
    assert_eq!(rig.bind(fd, "127.0.0.1:0"), DONE);
    assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_KEEPALIVE, 1), DONE);
    assert_eq!(rig.getsockname(fd), DONE);
    assert_eq!(rig.out(), Some(addr("127.0.0.1:0")));
    assert_eq!(rig.listen(fd, 1), DONE);
    assert_eq!(rig.getsockname(fd), DONE);
    assert!(rig.out().is_some_and(|local| local.ip().is_loopback() && local.port() != 0));
}

//! accept(2).

use netgraft_plugin::Error;

use super::fake::rig::{DONE, MAIN, OTHER, REMOTE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::uapi;

const HERE: &str = "127.0.0.1:80";

fn fd_of(reply: Reply) -> i32 {
    match reply {
        Reply::Is(fd) => fd as i32,
        other => panic!("no descriptor: {other:?}"),
    }
}

#[test]
fn an_accept_gives_the_connection_and_its_peers_address() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    let remote = rig.dial(HERE, REMOTE);
    let fd = fd_of(rig.accept(listener, 0));
    assert_eq!(rig.out(), Some(addr(REMOTE)));
    rig.remote_sends(remote, b"hello");
    assert_eq!(rig.read(fd, 10), Ok(b"hello".to_vec()));
}

#[test]
fn a_blocking_accept_waits_for_a_connection() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    assert_eq!(rig.accept(listener, 0), Reply::Waits);
    let waits = rig.last;
    rig.dial(HERE, REMOTE);
    assert!(fd_of(rig.reply(waits)) > listener);
    assert_eq!(rig.out(), Some(addr(REMOTE)));
}

#[test]
fn a_nonblocking_accept_without_a_connection_fails_with_eagain() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    let file = rig.file(listener);
    rig.world_mut().socks.get_mut(file).nonblocking = true;
    assert_eq!(rig.accept(listener, 0), fails(uapi::EAGAIN));
}

#[test]
fn accepts_are_served_in_their_order_one_connection_each() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    rig.accept(listener, 0);
    let first = rig.last;
    rig.as_thread(OTHER, |rig| rig.accept(listener, 0));
    let second = rig.last;
    rig.dial(HERE, "198.51.100.1:1000");
    assert!(matches!(rig.reply(first), Reply::Is(_)));
    assert_eq!(rig.reply(second), Reply::Waits);
    rig.dial(HERE, "198.51.100.1:1001");
    assert!(matches!(rig.reply(second), Reply::Is(_)));
}

#[test]
fn an_accept_that_was_interrupted_is_passed_over() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    rig.accept(listener, 0);
    rig.world_mut().interrupt(MAIN);
    rig.as_thread(OTHER, |rig| rig.accept(listener, 0));
    let second = rig.last;
    rig.dial(HERE, REMOTE);
    assert!(matches!(rig.reply(second), Reply::Is(_)));
}

#[test]
fn a_connection_whose_taker_was_interrupted_goes_to_the_next_accept() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    let remote = rig.dial(HERE, REMOTE);
    rig.world_mut().limits.interrupts_inject = true;
    assert_eq!(rig.accept(listener, 0), Reply::Interrupted);
    rig.world_mut().limits.interrupts_inject = false;
    let fd = fd_of(rig.accept(listener, 0));
    rig.remote_sends(remote, b"kept");
    assert_eq!(rig.read(fd, 10), Ok(b"kept".to_vec()));
}

#[test]
fn a_full_descriptor_table_fails_with_emfile_and_loses_no_connection() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    rig.dial(HERE, REMOTE);
    rig.world_mut().limits.descriptors = 1;
    assert_eq!(rig.accept(listener, 0), fails(uapi::EMFILE));
    rig.world_mut().limits.descriptors = 100;
    fd_of(rig.accept(listener, 0));
    assert_eq!(rig.out(), Some(addr(REMOTE)));
}

#[test]
fn an_address_outside_of_memory_fails_with_efault_and_loses_no_connection() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    rig.dial(HERE, REMOTE);
    let len = rig.put(&64u32.to_ne_bytes());
    assert_eq!(rig.call(uapi::SYS_accept, [listener as u64, 8, len, 0, 0, 0]), fails(uapi::EFAULT));
    fd_of(rig.accept(listener, 0));
}

#[test]
fn a_negative_address_length_fails_with_einval() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    rig.dial(HERE, REMOTE);
    let at = rig.put(&[0; 64]);
    let len = rig.put(&u32::MAX.to_ne_bytes());
    assert_eq!(rig.call(uapi::SYS_accept, [listener as u64, at, len, 0, 0, 0]), fails(uapi::EINVAL));
}

#[test]
fn an_address_is_cut_to_its_room_and_its_length_told() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    rig.dial(HERE, REMOTE);
    let at = rig.put(&[0xff; 64]);
    let len = rig.put(&4u32.to_ne_bytes());
    fd_of(rig.call(uapi::SYS_accept, [listener as u64, at, len, 0, 0, 0]));
    assert_eq!(rig.peek_u32(len), 16);
    assert_eq!(rig.peek(at, 5), [2, 0, 0, 80, 0xff]);
}

#[test]
fn flags_that_do_not_exist_fail_with_einval() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    assert_eq!(rig.accept(listener, 1), fails(uapi::EINVAL));
}

#[test]
fn the_flags_of_accept4_are_those_of_the_new_descriptor() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 5);
    rig.dial(HERE, "198.51.100.1:1000");
    rig.dial(HERE, "198.51.100.1:1001");
    let fd = fd_of(rig.accept(listener, uapi::SOCK_NONBLOCK | uapi::SOCK_CLOEXEC));
    assert!(rig.world().socks.get(rig.file(fd)).nonblocking);
    assert!(rig.world().file(MAIN, fd).unwrap().close_on_exec);
    let fd = fd_of(rig.accept(listener, 0));
    assert!(!rig.world().socks.get(rig.file(fd)).nonblocking);
    assert!(!rig.world().file(MAIN, fd).unwrap().close_on_exec);
}

#[test]
fn a_connection_that_waits_again_gets_the_flags_of_its_next_taker() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 5);
    rig.dial(HERE, REMOTE);
    rig.world_mut().limits.descriptors = 1;
    assert_eq!(rig.accept(listener, 0), fails(uapi::EMFILE));
    rig.world_mut().limits.descriptors = 100;
    let fd = fd_of(rig.accept(listener, uapi::SOCK_NONBLOCK));
    assert!(rig.world().socks.get(rig.file(fd)).nonblocking);
}

#[test]
fn an_accept_on_a_socket_that_does_not_listen_fails_with_einval() {
    let mut rig = Rig::new();
    let fresh = rig.tcp();
    let (connected, _) = rig.connected();
    assert_eq!(rig.accept(fresh, 0), fails(uapi::EINVAL));
    assert_eq!(rig.accept(connected, 0), fails(uapi::EINVAL));
}

#[test]
fn an_accept_on_a_datagram_socket_fails_with_eopnotsupp() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    assert_eq!(rig.accept(fd, 0), fails(uapi::EOPNOTSUPP));
}

#[test]
fn a_receive_timeout_ends_an_accept_with_eagain() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    rig.set_timeout(listener, uapi::SO_RCVTIMEO, 200);
    assert_eq!(rig.accept(listener, 0), Reply::Waits);
    let waits = rig.last;
    rig.pass(199);
    assert_eq!(rig.reply(waits), Reply::Waits);
    rig.pass(1);
    assert_eq!(rig.reply(waits), fails(uapi::EAGAIN));
}

#[test]
fn a_listener_that_is_shut_down_ends_an_accept_with_einval() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    rig.accept(listener, 0);
    let waits = rig.last;
    assert_eq!(rig.as_thread(OTHER, |rig| rig.shutdown(listener, uapi::SHUT_RD)), DONE);
    assert_eq!(rig.reply(waits), fails(uapi::EINVAL));
}

#[test]
fn a_connection_that_was_accepted_without_the_sentry_is_known_by_its_end() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    rig.dial(HERE, REMOTE);
    let fd = rig.accept_untrapped(listener).unwrap();
    assert_eq!(rig.getpeername(fd), DONE);
    assert_eq!(rig.out(), Some(addr(REMOTE)));
    assert_eq!(rig.getsockname(fd), DONE);
    assert_eq!(rig.out(), Some(addr(HERE)));
}

#[test]
fn a_connection_that_was_reset_in_the_queue_can_be_accepted_and_is_over() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    let remote = rig.dial(HERE, REMOTE);
    rig.remote_fails(remote, Error::ConnectionReset);
    let fd = fd_of(rig.accept(listener, 0));
    assert_eq!(rig.out(), None, "there is no address any more");
    assert_eq!(rig.read(fd, 1), Ok(Vec::new()));
    rig.close(fd);
    rig.close(listener);
    rig.assert_nothing_left();
}

#[test]
fn bytes_that_came_before_the_accept_are_there_after_it() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    let remote = rig.dial(HERE, REMOTE);
    rig.remote_sends(remote, b"early");
    rig.remote_ends(remote);
    let fd = fd_of(rig.accept(listener, 0));
    assert_eq!(rig.read_all(fd), (b"early".to_vec(), Ok(())));
}

#[test]
fn an_accepted_connection_never_gets_another_handle() {
    let mut rig = Rig::new();
    let listener = rig.listener(HERE, 1);
    rig.dial(HERE, REMOTE);
    let fd = fd_of(rig.accept(listener, 0));
    rig.set_int(fd, uapi::IPPROTO_TCP, uapi::TCP_NODELAY, 1);
    assert!(rig.core.table.get(rig.id(fd)).unwrap().setup.options.is_empty());
}

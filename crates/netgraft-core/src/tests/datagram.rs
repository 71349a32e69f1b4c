//! Datagram sockets: what goes through the surrogate, and connect(2) on them.

use netgraft_plugin::{Call, Error, Events};

use super::fake::rig::{DONE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::uapi;

const PEER: &str = "198.51.100.1:53";

/// A socket that is connected to a remote host.
fn connected(rig: &mut Rig) -> i32 {
    let fd = rig.udp();
    assert_eq!(rig.connect(fd, PEER), DONE);
    rig.settle();
    fd
}

fn arrives(rig: &mut Rig, fd: i32, data: &[u8]) {
    let handle = rig.handle(fd);
    let to = rig.net().get(handle).unwrap().local.unwrap();
    assert!(rig.net().arrives(addr(PEER), to, data));
    rig.settle();
}

#[test]
fn a_socket_that_is_not_connected_cannot_be_written_to() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    assert_eq!(rig.write(fd, b"x"), Err(uapi::ENOTCONN));
    assert_eq!(rig.poll(fd), Events::OUT);
}

#[test]
fn what_is_written_to_a_connected_socket_leaves() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    assert_eq!(rig.write(fd, b"one"), Ok(3));
    assert_eq!(rig.write(fd, b"two"), Ok(3));
    rig.settle();
    let sent: Vec<_> = rig.net().sent.iter().map(|(_, to, data)| (*to, data.clone())).collect();
    assert_eq!(sent, [(addr(PEER), b"one".to_vec()), (addr(PEER), b"two".to_vec())]);
    assert_eq!(rig.core.counts().datagrams_sent, 2);
}

#[test]
fn an_empty_datagram_leaves_too() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    assert_eq!(rig.write(fd, b""), Ok(0));
    rig.settle();
    assert_eq!(rig.net().sent.len(), 1);
}

#[test]
fn what_was_written_goes_to_the_peer_of_then() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    rig.write(fd, b"old").unwrap();
    assert_eq!(rig.connect(fd, "198.51.100.2:53"), DONE);
    rig.write(fd, b"new").unwrap();
    rig.settle();
    let to: Vec<_> = rig.net().sent.iter().map(|(_, to, _)| *to).collect();
    assert_eq!(to, [addr(PEER), addr("198.51.100.2:53")]);
}

#[test]
fn af_unspec_forgets_the_peer() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    assert_eq!(rig.disconnect(fd), DONE);
    assert_eq!(rig.getpeername(fd), fails(uapi::ENOTCONN));
    assert_eq!(rig.write(fd, b"x"), Err(uapi::ENOTCONN));
}

#[test]
fn what_arrives_is_read() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    arrives(&mut rig, fd, b"one");
    arrives(&mut rig, fd, b"two");
    assert_eq!(rig.poll(fd), Events::IN | Events::OUT);
    assert_eq!(rig.read(fd, 10), Ok(b"one".to_vec()));
    rig.settle();
    assert_eq!(rig.read(fd, 10), Ok(b"two".to_vec()));
    rig.settle();
    assert_eq!(rig.read(fd, 10), Err(uapi::EAGAIN));
    assert_eq!(rig.core.counts().datagrams_received, 2);
}

#[test]
fn an_empty_datagram_that_arrives_is_read_and_makes_room_for_the_next() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    arrives(&mut rig, fd, b"");
    arrives(&mut rig, fd, b"next");
    assert_eq!(rig.read(fd, 10), Ok(Vec::new()));
    rig.settle();
    assert_eq!(rig.read(fd, 10), Ok(b"next".to_vec()));
}

#[test]
fn a_datagram_that_the_stack_has_no_room_for_is_kept_and_leaves_first() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    rig.net().datagram_room = 0;
    rig.write(fd, b"one").unwrap();
    rig.write(fd, b"two").unwrap();
    rig.settle();
    assert_eq!(rig.net().sent.len(), 0);
    rig.net().open_datagram_room(1);
    rig.settle();
    rig.net().open_datagram_room(1);
    rig.settle();
    let sent: Vec<_> = rig.net().sent.iter().map(|(_, _, data)| data.clone()).collect();
    assert_eq!(sent, [b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn what_was_written_before_a_close_leaves() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    rig.write(fd, b"last").unwrap();
    rig.close(fd);
    rig.settle();
    assert_eq!(rig.net().sent.len(), 1);
    rig.assert_nothing_left();
}

#[test]
fn an_unreachable_port_shows_as_an_error_and_so_error_tells_which() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    let handle = rig.handle(fd);
    rig.net().datagram_fails(handle, Error::ConnectionRefused);
    rig.settle();
    assert!(rig.poll(fd).contains(Events::ERR));
    assert_eq!(rig.so_error(fd), uapi::ECONNREFUSED);
    assert_eq!(rig.so_error(fd), 0);
    assert!(!rig.poll(fd).contains(Events::ERR));
}

#[test]
fn the_socket_works_on_after_an_error() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    let handle = rig.handle(fd);
    rig.net().datagram_fails(handle, Error::ConnectionRefused);
    rig.settle();
    assert_eq!(rig.so_error(fd), uapi::ECONNREFUSED);
    rig.write(fd, b"again").unwrap();
    rig.settle();
    assert_eq!(rig.net().sent.len(), 1);
    arrives(&mut rig, fd, b"answer");
    assert_eq!(rig.read(fd, 10), Ok(b"answer".to_vec()));
}

#[test]
fn an_error_that_a_read_has_told_is_not_told_again() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    let handle = rig.handle(fd);
    rig.net().datagram_fails(handle, Error::ConnectionRefused);
    rig.settle();
    assert_eq!(rig.read(fd, 10), Err(uapi::ECONNRESET), "the one word that AF_UNIX has");
    assert_eq!(rig.so_error(fd), 0);
}

#[test]
fn what_was_written_before_an_error_arrived_leaves() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    rig.write(fd, b"before").unwrap();
    let handle = rig.handle(fd);
    rig.net().datagram_fails(handle, Error::ConnectionRefused);
    // The stack's event is seen before that of the surrogate.
    rig.core.wake_stack();
    rig.core.run();
    rig.settle();
    let sent: Vec<_> = rig.net().sent.iter().map(|(_, _, data)| data.clone()).collect();
    assert_eq!(sent, [b"before".to_vec()]);
}

#[test]
fn a_route_that_does_not_exist_fails_the_connect() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    rig.net().fail_next(Call::connect, Error::NetworkUnreachable);
    assert_eq!(rig.connect(fd, PEER), fails(uapi::ENETUNREACH));
}

#[test]
fn a_refusal_of_the_stack_to_send_waits_for_the_next_call() {
    let mut rig = Rig::new();
    let fd = connected(&mut rig);
    rig.net().fail_next(Call::send, Error::NetworkUnreachable);
    rig.write(fd, b"x").unwrap();
    rig.settle();
    assert_eq!(rig.sendto(fd, b"y", 0, None), fails(uapi::ENETUNREACH));
    assert_eq!(rig.sendto(fd, b"y", 0, None), Reply::Is(1));
}

#[test]
fn a_datagram_socket_is_gone_when_it_is_closed() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    rig.close(fd);
    rig.assert_nothing_left();
}

#[test]
fn without_room_in_the_sentry_there_is_no_socket_and_nothing_is_left() {
    let mut rig = Rig::new();
    rig.world_mut().limits.no_room = true;
    assert_eq!(rig.try_socket(uapi::AF_INET, uapi::SOCK_DGRAM, 0), fails(uapi::ENFILE));
    assert_eq!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), fails(uapi::ENFILE));
    rig.assert_nothing_left();
}

#[test]
fn a_stack_without_sockets_of_a_kind_says_so() {
    for error in [Error::KindNotSupported, Error::ProtocolNotSupported, Error::FamilyNotSupported] {
        let mut rig = Rig::new();
        rig.net().fail_next(Call::socket, error);
        assert_eq!(rig.try_socket(uapi::AF_INET, uapi::SOCK_DGRAM, 0), fails(error.errno()));
        rig.assert_nothing_left();
    }
}

#[test]
fn two_sockets_of_one_sandbox_talk_to_each_other() {
    let mut rig = Rig::new();
    let (a, b) = (rig.udp(), rig.udp());
    assert_eq!(rig.bind(a, "127.0.0.1:1000"), DONE);
    assert_eq!(rig.connect(b, "127.0.0.1:1000"), DONE);
    rig.write(b, b"hello").unwrap();
    rig.settle();
    assert_eq!(rig.read(a, 10), Ok(b"hello".to_vec()));
}

//! getsockname(2), getpeername(2) and ioctl(2).

use netgraft_plugin::{Call, Error};

use super::fake::rig::{DONE, REMOTE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::program::Serves;
use crate::uapi;

const SIOCOUTQ: u64 = 0x5411;
const SIOCATMARK: u64 = 0x8905;
const SIOCGIFCONF: u64 = 0x8912;
const SIOCGIFADDR: u64 = 0x8915;
const SIOCSIFADDR: u64 = 0x8916;
const SIOCGIFMTU: u64 = 0x8921;

fn ioctl(rig: &mut Rig, fd: i32, request: u64, argument: u64) -> Reply {
    rig.call(uapi::SYS_ioctl, [fd as u64, request, argument, 0, 0, 0])
}

fn interface(rig: &mut Rig, name: &str) -> u64 {
    let mut bytes = [0; 40];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    rig.put(&bytes)
}

#[test]
fn an_unbound_socket_has_the_unspecified_address() {
    let mut rig = Rig::new();
    let (v4, v6) = (rig.tcp(), rig.tcp6());
    assert_eq!(rig.getsockname(v4), DONE);
    assert_eq!(rig.out(), Some(addr("0.0.0.0:0")));
    assert_eq!(rig.getsockname(v6), DONE);
    assert_eq!(rig.out(), Some(addr("[::]:0")));
}

#[test]
fn both_names_of_a_connection_are_told() {
    let mut rig = Rig::new();
    let (fd, _) = rig.connected();
    assert_eq!(rig.getsockname(fd), DONE);
    assert_ne!(rig.out().unwrap().port(), 0);
    assert_eq!(rig.getpeername(fd), DONE);
    assert_eq!(rig.out(), Some(addr(REMOTE)));
}

#[test]
fn a_socket_without_a_peer_fails_with_enotconn() {
    let mut rig = Rig::new();
    let (tcp, udp) = (rig.tcp(), rig.udp());
    let listener = rig.listener("127.0.0.1:80", 1);
    for fd in [tcp, udp, listener] {
        assert_eq!(rig.getpeername(fd), fails(uapi::ENOTCONN));
    }
}

#[test]
fn a_socket_that_is_being_connected_has_no_peer() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    assert_eq!(rig.getpeername(fd), fails(uapi::ENOTCONN));
}

#[test]
fn the_name_of_a_refused_attempt_is_its_local_address() {
    let mut rig = Rig::new();
    let fd = rig.tcp_nonblocking();
    rig.bind(fd, "127.0.0.1:5000");
    rig.remote(REMOTE, super::fake::net::Answer::Refuses);
    rig.connect(fd, REMOTE);
    rig.settle();
    assert_eq!(rig.getsockname(fd), DONE);
    assert_eq!(rig.out(), Some(addr("127.0.0.1:5000")));
}

#[test]
fn a_bound_address_outlives_the_handle() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.bind(fd, "127.0.0.1:5000");
    rig.remote(REMOTE, super::fake::net::Answer::Refuses);
    rig.connect(fd, REMOTE);
    rig.settle();
    assert_eq!(rig.net().socks.len(), 0);
    assert_eq!(rig.getsockname(fd), DONE);
    assert_eq!(rig.out(), Some(addr("127.0.0.1:5000")));
}

#[test]
fn a_bound_address_that_was_taken_meanwhile_fails_the_next_attempt() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.bind(fd, "127.0.0.1:5000");
    rig.remote(REMOTE, super::fake::net::Answer::Refuses);
    rig.connect(fd, REMOTE);
    rig.settle();
    rig.net().fail_next(Call::bind, Error::AddressInUse);
    assert_eq!(rig.connect(fd, REMOTE), fails(Error::AddressInUse.errno()));
    assert_eq!(rig.net().socks.len(), 0, "no handle is left behind");
}

#[test]
fn the_peer_of_a_datagram_socket_is_told() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    rig.connect(fd, "198.51.100.1:53");
    assert_eq!(rig.getpeername(fd), DONE);
    assert_eq!(rig.out(), Some(addr("198.51.100.1:53")));
}

#[test]
fn siocoutq_tells_what_the_stack_has_not_sent() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.write(fd, b"hello").unwrap();
    let at = rig.put(&[0xff; 4]);
    assert_eq!(ioctl(&mut rig, fd, SIOCOUTQ, at), DONE);
    assert_eq!(rig.peek_u32(at), 5, "what the program has written counts, too");
    rig.remote_reads(remote);
    assert_eq!(ioctl(&mut rig, fd, SIOCOUTQ, at), DONE);
    assert_eq!(rig.peek_u32(at), 0);
    let fresh = rig.tcp();
    assert_eq!(ioctl(&mut rig, fresh, SIOCOUTQ, at), DONE);
}

#[test]
fn siocatmark_is_zero() {
    let mut rig = Rig::new();
    let (fd, _) = rig.connected();
    let at = rig.put(&[0xff; 4]);
    assert_eq!(ioctl(&mut rig, fd, SIOCATMARK, at), DONE);
    assert_eq!(rig.peek_u32(at), 0);
}

#[test]
fn a_request_that_does_not_exist_fails_with_enotty() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(ioctl(&mut rig, fd, 0x1234, 0), fails(uapi::ENOTTY));
}

#[test]
fn interfaces_are_those_of_the_stack() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let at = interface(&mut rig, "eth0");
    assert_eq!(ioctl(&mut rig, fd, SIOCGIFADDR, at), DONE);
    assert_eq!(rig.peek(at + 20, 4), [192, 0, 2, 1]);
    assert_eq!(ioctl(&mut rig, fd, SIOCGIFMTU, at), DONE);
    assert_eq!(rig.peek_u32(at + 16), 1500);
}

#[test]
fn an_interface_that_does_not_exist_fails_with_enodev() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let at = interface(&mut rig, "eth7");
    assert_eq!(ioctl(&mut rig, fd, SIOCGIFADDR, at), fails(uapi::ENODEV));
}

#[test]
fn an_interface_without_an_address_fails_with_eaddrnotavail() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let at = interface(&mut rig, "bare");
    assert_eq!(ioctl(&mut rig, fd, SIOCGIFADDR, at), fails(uapi::EADDRNOTAVAIL));
}

#[test]
fn an_interface_cannot_be_changed() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let at = interface(&mut rig, "eth0");
    assert_eq!(ioctl(&mut rig, fd, SIOCSIFADDR, at), fails(uapi::EPERM));
}

#[test]
fn the_list_of_interfaces_is_cut_to_whole_entries() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let list = rig.put(&[0xff; 100]);
    for (room, len) in [(100u64, 80u32), (79, 40), (39, 0)] {
        let at = rig.put(&[room.to_ne_bytes(), list.to_ne_bytes()].concat());
        assert_eq!(ioctl(&mut rig, fd, SIOCGIFCONF, at), DONE);
        assert_eq!(rig.peek_u32(at), len);
    }
    assert_eq!(rig.peek(list, 3), *b"lo\0");
    let at = rig.put(&[0; 16]);
    assert_eq!(ioctl(&mut rig, fd, SIOCGIFCONF, at), DONE);
    assert_eq!(rig.peek_u32(at), 80, "without a buffer, the length of all");
}

#[test]
fn the_kernel_never_tells_the_name_of_a_file() {
    let mut rig = Rig::new();
    let fd = rig.world_mut().make_foreign(super::fake::rig::MAIN, Serves::Kernel);
    // A surrogate may stand for the descriptor by the time that the kernel looks.
    assert_eq!(rig.getsockname(fd), DONE);
    assert_eq!(rig.getpeername(fd), fails(uapi::ENOTCONN));
    assert_eq!(rig.getpeername(99), fails(uapi::EBADF));
    assert_eq!(rig.world().disposed, 2);
}

#[test]
fn what_would_change_a_surrogate_is_done_by_who_looked_at_the_file() {
    let mut rig = Rig::new();
    let make = |rig: &mut Rig, connects| rig.world_mut().make_foreign(super::fake::rig::MAIN, connects);
    for (connects, expected) in [
        (Serves::Kernel, Reply::Kernel),
        (Serves::Fails(uapi::EISCONN), fails(uapi::EISCONN)),
        (Serves::Sentry, DONE),
    ] {
        let fd = make(&mut rig, connects);
        assert_eq!(rig.connect(fd, REMOTE), expected, "{connects:?}");
        assert_eq!(rig.bind(fd, REMOTE), expected, "{connects:?}");
        let listens = if connects == Serves::Sentry { fails(uapi::EOPNOTSUPP) } else { expected };
        assert_eq!(rig.call(uapi::SYS_listen, [fd as u64, 1, 0, 0, 0, 0]), listens, "{connects:?}");
    }
    let pipe = rig.world_mut().make_pipe(super::fake::rig::MAIN);
    assert_eq!(rig.connect(pipe, REMOTE), fails(uapi::ENOTSOCK));
    assert_eq!(ioctl(&mut rig, pipe, SIOCATMARK, 0), Reply::Kernel, "devices have requests of their own");
    let fd = make(&mut rig, Serves::Sentry);
    let at = rig.put(&[16]);
    assert_eq!(rig.call(uapi::SYS_connect, [fd as u64, at, 1, 0, 0, 0]), fails(uapi::EINVAL));
    assert_eq!(rig.call(uapi::SYS_connect, [fd as u64, 1, 16, 0, 0, 0]), fails(uapi::EFAULT));
}

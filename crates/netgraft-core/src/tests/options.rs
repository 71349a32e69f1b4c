//! getsockopt(2) and setsockopt(2). What each number and its bytes mean is tested beside the codec.

use std::time::Duration;

use netgraft_plugin::{Call, Error, OptionName, SocketOption, TcpState};

use super::fake::rig::{DONE, MAIN, REMOTE, Rig, fails};
use super::fake::world::Reply;
use crate::program::{Privilege, Serves};
use crate::uapi;

#[test]
fn an_option_goes_to_the_stack_and_comes_back() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_KEEPALIVE, 1), DONE);
    assert_eq!(rig.get_int(fd, uapi::SOL_SOCKET, uapi::SO_KEEPALIVE), Ok(1));
    let handle = rig.handle(fd);
    let kept = rig.net().get(handle).unwrap().options[&OptionName::KeepAlive].clone();
    assert_eq!(kept, SocketOption::KeepAlive(true));
}

#[test]
fn an_option_that_the_stack_does_not_have_fails_with_enoprotoopt() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.net().fail_next(Call::set_option, Error::UnknownOption);
    assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_KEEPALIVE, 1), fails(uapi::ENOPROTOOPT));
    assert_eq!(rig.get_int(fd, uapi::SOL_SOCKET, uapi::SO_KEEPALIVE), Err(uapi::ENOPROTOOPT));
}

#[test]
fn an_option_that_was_refused_is_not_given_to_the_next_handle() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.net().fail_next(Call::set_option, Error::Invalid);
    assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_KEEPALIVE, 1), fails(uapi::EINVAL));
    assert!(rig.core.table.get(rig.id(fd)).unwrap().setup.options.is_empty());
}

#[test]
fn an_option_that_is_set_twice_is_kept_once() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    for seconds in [10, 20] {
        assert_eq!(rig.set_int(fd, uapi::IPPROTO_TCP, uapi::TCP_KEEPIDLE, seconds), DONE);
    }
    let kept = &rig.core.table.get(rig.id(fd)).unwrap().setup.options;
    assert_eq!(*kept, [SocketOption::KeepIdle(Duration::from_secs(20))]);
}

#[test]
fn a_congestion_control_that_does_not_exist_fails_with_enoent() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.net().fail_next(Call::set_option, Error::NotFound);
    assert_eq!(rig.setsockopt(fd, uapi::IPPROTO_TCP, uapi::TCP_CONGESTION, b"nonsense"), fails(uapi::ENOENT));
}

#[test]
fn what_a_datagram_socket_was_written_leaves_before_an_option_changes_it() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    rig.connect(fd, "198.51.100.1:53");
    rig.write(fd, b"before").unwrap();
    assert_eq!(rig.set_int(fd, uapi::IPPROTO_IP, uapi::IP_TTL, 3), DONE);
    assert_eq!(rig.net().sent.len(), 1);
}

#[test]
fn a_time_out_comes_back_and_the_surrogate_has_it_too() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.set_timeout(fd, uapi::SO_RCVTIMEO, 1500);
    let value = [1i64.to_ne_bytes(), 500_000i64.to_ne_bytes()].concat();
    assert_eq!(rig.getsockopt(fd, uapi::SOL_SOCKET, uapi::SO_RCVTIMEO), Ok(value.clone()));
    assert_eq!(rig.getsockopt(fd, uapi::SOL_SOCKET, uapi::SO_SNDTIMEO), Ok(vec![0; 16]));
    let file = rig.file(fd);
    let own = rig.world().socks.get(file).options[&(uapi::SOL_SOCKET, uapi::SO_RCVTIMEO)].clone();
    assert_eq!(own, value);
}

#[test]
fn a_time_out_that_is_none_fails_with_edom() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    let value = [0i64.to_ne_bytes(), 1_000_000i64.to_ne_bytes()].concat();
    assert_eq!(rig.setsockopt(fd, uapi::SOL_SOCKET, uapi::SO_RCVTIMEO, &value), fails(uapi::EDOM));
}

#[test]
fn the_kind_of_a_socket_is_told_without_the_stack() {
    let mut rig = Rig::new();
    let (tcp, udp) = (rig.tcp6(), rig.udp());
    let get = |rig: &mut Rig, fd, name| rig.get_int(fd, uapi::SOL_SOCKET, name).unwrap();
    assert_eq!(get(&mut rig, tcp, uapi::SO_TYPE), uapi::SOCK_STREAM);
    assert_eq!(get(&mut rig, tcp, uapi::SO_DOMAIN), uapi::AF_INET6);
    assert_eq!(get(&mut rig, tcp, uapi::SO_PROTOCOL), uapi::IPPROTO_TCP);
    assert_eq!(get(&mut rig, udp, uapi::SO_TYPE), uapi::SOCK_DGRAM);
    assert_eq!(get(&mut rig, udp, uapi::SO_DOMAIN), uapi::AF_INET);
    assert_eq!(get(&mut rig, udp, uapi::SO_PROTOCOL), uapi::IPPROTO_UDP);
}

#[test]
fn what_can_only_be_read_cannot_be_set() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    for name in [uapi::SO_TYPE, uapi::SO_ERROR, uapi::SO_ACCEPTCONN, uapi::SO_PROTOCOL, uapi::SO_DOMAIN] {
        assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, name, 1), fails(uapi::ENOPROTOOPT), "{name}");
    }
}

#[test]
fn a_mark_fails_with_eperm() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_MARK, 1), fails(uapi::EPERM));
}

#[test]
fn an_option_of_tcp_on_a_datagram_socket_fails() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    assert_eq!(rig.set_int(fd, uapi::IPPROTO_TCP, uapi::TCP_NODELAY, 1), fails(uapi::ENOPROTOOPT));
    assert_eq!(rig.get_int(fd, uapi::IPPROTO_TCP, uapi::TCP_NODELAY), Err(uapi::EOPNOTSUPP));
}

#[test]
fn a_value_that_is_too_short_fails_with_einval() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.setsockopt(fd, uapi::SOL_SOCKET, uapi::SO_KEEPALIVE, &[1, 0]), fails(uapi::EINVAL));
}

#[test]
fn a_negative_length_fails_with_einval() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    let at = rig.put(&[0; 8]);
    let args = [fd as u64, uapi::SOL_SOCKET as u64, uapi::SO_KEEPALIVE as u64, at, u64::MAX, 0];
    assert_eq!(rig.call(uapi::SYS_setsockopt, args), fails(uapi::EINVAL));
    let len = rig.put(&u32::MAX.to_ne_bytes());
    let args = [fd as u64, uapi::SOL_SOCKET as u64, uapi::SO_TYPE as u64, at, len, 0];
    assert_eq!(rig.call(uapi::SYS_getsockopt, args), fails(uapi::EINVAL));
}

#[test]
fn a_value_is_cut_to_its_room() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    let at = rig.put(&[0xff; 8]);
    let len = rig.put(&2u32.to_ne_bytes());
    let args = [fd as u64, uapi::SOL_SOCKET as u64, uapi::SO_TYPE as u64, at, len, 0];
    assert_eq!(rig.call(uapi::SYS_getsockopt, args), DONE);
    assert_eq!(rig.peek(at, 3), [1, 0, 0xff]);
    assert_eq!(rig.peek_u32(len), 2);
}

#[test]
fn a_value_outside_of_memory_fails_with_efault() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    let args = [fd as u64, uapi::SOL_SOCKET as u64, uapi::SO_KEEPALIVE as u64, 8, 4, 0];
    assert_eq!(rig.call(uapi::SYS_setsockopt, args), fails(uapi::EFAULT));
}

#[test]
fn control_messages_are_asked_for_and_told() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    assert_eq!(rig.get_int(fd, uapi::IPPROTO_IP, uapi::IP_PKTINFO), Ok(0));
    assert_eq!(rig.set_int(fd, uapi::IPPROTO_IP, uapi::IP_PKTINFO, 1), DONE);
    assert_eq!(rig.get_int(fd, uapi::IPPROTO_IP, uapi::IP_PKTINFO), Ok(1));
    assert_eq!(rig.set_int(fd, uapi::IPPROTO_IP, uapi::IP_PKTINFO, 0), DONE);
    assert_eq!(rig.get_int(fd, uapi::IPPROTO_IP, uapi::IP_PKTINFO), Ok(0));
}

#[test]
fn tcp_info_tells_the_state() {
    let mut rig = Rig::new();
    let fresh = rig.tcp();
    let (connected, _) = rig.connected();
    let connecting = rig.connecting();
    let listener = rig.listener("127.0.0.1:80", 1);
    for (fd, state) in [
        (fresh, TcpState::Closed),
        (connected, TcpState::Established),
        (connecting, TcpState::Established),
        (listener, TcpState::Listen),
    ] {
        let info = rig.getsockopt(fd, uapi::IPPROTO_TCP, uapi::TCP_INFO).unwrap();
        assert_eq!(info[0], state as u8, "{state:?}");
    }
    let other = rig.tcp_nonblocking();
    assert_eq!(rig.connect(other, "198.51.100.9:80"), fails(uapi::EINPROGRESS));
    let info = rig.getsockopt(other, uapi::IPPROTO_TCP, uapi::TCP_INFO).unwrap();
    assert_eq!(info[0], TcpState::SynSent as u8);
}

#[test]
fn so_error_of_a_socket_without_one_is_zero() {
    let mut rig = Rig::new();
    let (tcp, udp) = (rig.tcp(), rig.udp());
    let (connected, _) = rig.connected();
    for fd in [tcp, udp, connected] {
        assert_eq!(rig.so_error(fd), 0);
    }
}

#[test]
fn so_error_while_an_attempt_is_under_way_is_zero_and_takes_nothing() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    assert_eq!(rig.so_error(fd), 0);
    rig.remote(REMOTE, super::fake::net::Answer::Refuses);
    rig.core.wake_stack();
    rig.settle();
    assert_eq!(rig.so_error(fd), uapi::ECONNREFUSED);
}

#[test]
fn a_linger_time_of_zero_makes_a_close_a_reset() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    let value = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
    assert_eq!(rig.setsockopt(fd, uapi::SOL_SOCKET, uapi::SO_LINGER, &value), DONE);
    rig.write(fd, b"lost").unwrap();
    rig.close(fd);
    rig.settle();
    assert!(rig.net().remote_sees_reset(remote));
    rig.assert_nothing_left();
}

#[test]
fn an_option_of_the_surrogate_itself_is_set_there() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_RCVLOWAT, 7), DONE);
    assert_eq!(rig.get_int(fd, uapi::SOL_SOCKET, uapi::SO_RCVLOWAT), Ok(7));
    let stream = rig.tcp();
    assert_eq!(rig.set_int(stream, uapi::SOL_SOCKET, uapi::SO_RCVLOWAT, 7), fails(uapi::ENOPROTOOPT));
}

#[test]
fn an_option_on_another_socket_is_the_kernels() {
    let mut rig = Rig::new();
    let fd = rig.world_mut().make_foreign(super::fake::rig::MAIN, Serves::Kernel);
    assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_KEEPALIVE, 1), Reply::Kernel);
    assert_eq!(rig.world().disposed, 1);
    let pipe = rig.world_mut().make_pipe(super::fake::rig::MAIN);
    assert_eq!(rig.set_int(pipe, uapi::SOL_SOCKET, uapi::SO_KEEPALIVE, 1), fails(uapi::ENOTSOCK));
    // By the time that the kernel looks there may be a surrogate.
    assert_eq!(rig.set_int(99, uapi::SOL_SOCKET, uapi::SO_KEEPALIVE, 1), fails(uapi::EBADF));
}

#[test]
fn a_limit_is_exceeded_with_a_privilege_only() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_RCVBUFFORCE, 1 << 20), fails(uapi::EPERM));
    rig.world_mut().threads.get_mut(&MAIN).unwrap().privileges.push(Privilege::NetAdmin);
    assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_RCVBUFFORCE, 1 << 20), DONE);
    assert_eq!(rig.get_int(fd, uapi::SOL_SOCKET, uapi::SO_RCVBUF), Ok(2 << 20));
}

#[test]
fn a_stack_that_lacks_an_option_has_it_turned_off() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.net().fail_next(Call::get_option, Error::UnknownOption);
    assert_eq!(rig.get_int(fd, uapi::SOL_SOCKET, uapi::SO_REUSEPORT), Ok(0));
    rig.net().fail_next(Call::set_option, Error::UnknownOption);
    assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_REUSEPORT, 0), DONE);
    rig.net().fail_next(Call::set_option, Error::UnknownOption);
    assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_REUSEPORT, 1), fails(uapi::ENOPROTOOPT));
}

#[test]
fn a_stack_without_urgent_data_has_it_in_line() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.net().fail_next(Call::set_option, Error::UnknownOption);
    assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_OOBINLINE, 1), DONE);
    rig.net().fail_next(Call::get_option, Error::UnknownOption);
    assert_eq!(rig.get_int(fd, uapi::SOL_SOCKET, uapi::SO_OOBINLINE), Ok(1));
}

//! Calls on sockets that are the host's own.

use std::time::Duration;

use netgraft_plugin::{Call, Domain, Error};

use super::fake::host::Asked;
use super::fake::rig::{DONE, MAIN, OTHER, REMOTE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::program::Privilege;
use crate::route::{Always, Route};
use crate::{Budget, uapi};

const EADDRINUSE: i32 = Error::AddressInUse.errno();

fn rig() -> Rig {
    Rig::with(
        Box::new(Always(Route::Host)),
        Budget { sockets: 10, process_sockets: 10, memory: 1 << 30, bytes: 1 << 20 },
    )
}

fn socket(rig: &mut Rig, is_stream: bool, flags: i32) -> i32 {
    rig.world_mut().host_spec = (Domain::V4, is_stream);
    let kind = if is_stream { uapi::SOCK_STREAM } else { uapi::SOCK_DGRAM };
    match rig.try_socket(uapi::AF_INET, kind | flags, 0) {
        Reply::Is(fd) => fd as i32,
        other => panic!("socket: {other:?}"),
    }
}

/// What the next calls on a descriptor answer.
fn script(rig: &mut Rig, fd: i32, answers: &[i32]) {
    let file = rig.file(fd);
    rig.world_mut().socks.get_mut(file).host.answers.extend(answers);
}

fn asked(rig: &Rig, fd: i32) -> Vec<Asked> {
    rig.world().socks.get(rig.file(fd)).host.asked.clone()
}

/// The socket becomes writable.
fn becomes_writable(rig: &mut Rig, fd: i32) {
    let file = rig.file(fd);
    let token = rig.world().socks.get(file).host.watched.expect("nothing waits for the socket");
    rig.core.host_ready(token);
}

#[test]
fn a_socket_is_the_stacks_descriptor() {
    let mut rig = rig();
    let fd = socket(&mut rig, true, uapi::SOCK_CLOEXEC);
    assert!(rig.world().file(MAIN, fd).unwrap().close_on_exec);
    assert!(!rig.world().socks.get(rig.file(fd)).nonblocking);
    assert_eq!(rig.core.sockets(), 0, "the table does not have it");
    rig.close(fd);
    rig.assert_nothing_left();
}

#[test]
fn a_stack_without_descriptors_fails_and_its_socket_is_closed() {
    let mut rig = rig();
    rig.net().fail_next(Call::take_host_fd, Error::NotSupported);
    assert_eq!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), fails(uapi::EOPNOTSUPP));
    rig.assert_nothing_left();
}

#[test]
fn a_raw_socket_needs_the_capability() {
    let mut rig = rig();
    let raw = |rig: &mut Rig| rig.try_socket(uapi::AF_INET, uapi::SOCK_RAW, uapi::IPPROTO_ICMP);
    assert_eq!(raw(&mut rig), fails(uapi::EPERM));
    rig.world_mut().threads.get_mut(&MAIN).unwrap().privileges.push(Privilege::NetRaw);
    assert!(matches!(raw(&mut rig), Reply::Is(_)));
}

#[test]
fn a_connect_goes_to_the_host_and_its_errno_comes_back() {
    let mut rig = rig();
    let fd = socket(&mut rig, true, uapi::SOCK_NONBLOCK);
    script(&mut rig, fd, &[uapi::EINPROGRESS, uapi::ECONNREFUSED, 0]);
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EINPROGRESS));
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::ECONNREFUSED));
    assert_eq!(rig.connect(fd, REMOTE), DONE);
    assert_eq!(asked(&rig, fd), vec![Asked::Connect(Some(addr(REMOTE))); 3]);
}

#[test]
fn a_blocking_connect_waits_until_the_socket_is_writable() {
    let mut rig = rig();
    let fd = socket(&mut rig, true, 0);
    script(&mut rig, fd, &[uapi::EINPROGRESS]);
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    let waits = rig.last;
    becomes_writable(&mut rig, fd);
    assert_eq!(rig.reply(waits), DONE);
    assert_eq!(rig.world().socks.get(rig.file(fd)).host.watched, None);
}

#[test]
fn a_connect_that_was_interrupted_waits_no_more() {
    let mut rig = rig();
    let fd = socket(&mut rig, true, 0);
    script(&mut rig, fd, &[uapi::EINPROGRESS]);
    rig.connect(fd, REMOTE);
    rig.world_mut().interrupt(MAIN);
    rig.listen(fd, 1);
    let file = rig.file(fd);
    assert_eq!(rig.world().socks.get(file).host.watched, None);
    assert_eq!(rig.world().socks.get(file).refs, 1, "only the program's descriptor");
}

#[test]
fn a_connect_that_another_thread_shuts_down_fails_with_econnreset() {
    let mut rig = rig();
    let fd = socket(&mut rig, true, 0);
    script(&mut rig, fd, &[uapi::EINPROGRESS]);
    rig.connect(fd, REMOTE);
    let waits = rig.last;
    let file = rig.file(fd);
    rig.world_mut().socks.get_mut(file).host.was_attempt_shut = true;
    becomes_writable(&mut rig, fd);
    assert_eq!(rig.reply(waits), fails(uapi::ECONNRESET));
    assert_eq!(asked(&rig, fd).len(), 1, "no other attempt was begun");
}

#[test]
fn a_send_timeout_ends_a_connect_with_einprogress_and_a_send_with_eagain() {
    let mut rig = rig();
    let stream = socket(&mut rig, true, 0);
    let datagrams = socket(&mut rig, false, 0);
    for fd in [stream, datagrams] {
        let file = rig.file(fd);
        rig.world_mut().socks.get_mut(file).host.send_timeout = Some(Duration::from_millis(100));
    }
    script(&mut rig, stream, &[uapi::EINPROGRESS]);
    script(&mut rig, datagrams, &[uapi::EAGAIN]);
    assert_eq!(rig.connect(stream, REMOTE), Reply::Waits);
    let connects = rig.last;
    assert_eq!(rig.as_thread(OTHER, |rig| rig.sendto(datagrams, b"x", 0, Some(REMOTE))), Reply::Waits);
    let sends = rig.last;
    rig.pass(99);
    assert_eq!((rig.reply(connects), rig.reply(sends)), (Reply::Waits, Reply::Waits));
    rig.pass(1);
    assert_eq!(rig.reply(connects), fails(uapi::EINPROGRESS));
    assert_eq!(rig.reply(sends), fails(uapi::EAGAIN));
    assert_eq!(rig.world().socks.get(rig.file(stream)).refs, 1);
}

#[test]
fn a_datagram_goes_out_with_what_it_carries() {
    let mut rig = rig();
    let fd = socket(&mut rig, false, 0);
    assert_eq!(rig.sendto(fd, b"hello", 7, Some(REMOTE)), Reply::Is(5));
    let sent = Asked::Send { data: b"hello".to_vec(), to: Some(addr(REMOTE)), control: 0, flags: 7 };
    assert_eq!(asked(&rig, fd), [sent]);
    assert_eq!(rig.sendto(fd, &[0; 65_536], 0, Some(REMOTE)), fails(uapi::EMSGSIZE));
}

#[test]
fn a_send_that_may_wait_waits_for_room() {
    let mut rig = rig();
    let fd = socket(&mut rig, false, 0);
    script(&mut rig, fd, &[uapi::EAGAIN, uapi::EAGAIN]);
    assert_eq!(rig.sendto(fd, b"x", uapi::MSG_DONTWAIT, Some(REMOTE)), fails(uapi::EAGAIN));
    assert_eq!(rig.sendto(fd, b"x", 0, Some(REMOTE)), Reply::Waits);
    let waits = rig.last;
    becomes_writable(&mut rig, fd);
    assert_eq!(rig.reply(waits), Reply::Is(1));
}

#[test]
fn a_privileged_port_is_lent_to_who_has_the_right_in_the_sandbox() {
    let mut rig = rig();
    let fd = socket(&mut rig, true, 0);
    script(&mut rig, fd, &[uapi::EACCES, uapi::EACCES, uapi::EACCES]);
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), fails(uapi::EACCES));
    rig.world_mut().threads.get_mut(&MAIN).unwrap().privileges.push(Privilege::NetBindService);
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), DONE);
    assert_eq!(rig.net().bound_host_fds, [addr("127.0.0.1:80")]);
    rig.net().fail_next(Call::bind_host_fd, Error::NotSupported);
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), fails(uapi::EACCES));
}

#[test]
fn a_bind_that_a_thread_repeats_after_a_signal_succeeds() {
    let mut rig = rig();
    let fd = socket(&mut rig, true, 0);
    script(&mut rig, fd, &[0, uapi::EINVAL, uapi::EINVAL, EADDRINUSE]);
    assert_eq!(rig.bind(fd, "127.0.0.1:8080"), DONE);
    assert_eq!(rig.bind(fd, "127.0.0.1:8080"), DONE);
    assert_eq!(rig.bind(fd, "127.0.0.1:8081"), fails(uapi::EINVAL));
    assert_eq!(rig.bind(fd, "127.0.0.1:8081"), fails(EADDRINUSE));
}

#[test]
fn af_unspec_forgets_the_peer() {
    let mut rig = rig();
    let fd = socket(&mut rig, false, 0);
    assert_eq!(rig.disconnect(fd), DONE);
    assert_eq!(asked(&rig, fd), [Asked::Connect(None)]);
}

#[test]
fn a_listen_goes_to_the_host_with_its_backlog() {
    let mut rig = rig();
    let fd = socket(&mut rig, true, 0);
    assert_eq!(rig.listen(fd, -1), DONE);
    assert_eq!(asked(&rig, fd), [Asked::Listen(-1)]);
}

#[test]
fn what_the_filter_leaves_to_the_kernel_is_the_kernels() {
    let mut rig = rig();
    let fd = socket(&mut rig, true, 0);
    assert_eq!(rig.getsockname(fd), Reply::Kernel);
    assert_eq!(rig.accept(fd, 0), Reply::Kernel);
}

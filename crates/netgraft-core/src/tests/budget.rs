//! What a sandbox may use of the sentry.

use netgraft_plugin::Events;

use super::fake::rig::{DONE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::route::{Always, Route};
use crate::{Budget, uapi};

fn rig(sockets: usize) -> Rig {
    Rig::with(
        Box::new(Always(Route::Stack)),
        Budget { sockets, process_sockets: sockets, memory: 1 << 30, bytes: 1 << 20 },
    )
}

#[test]
fn a_socket_beyond_the_budget_fails_with_enfile() {
    let mut rig = rig(2);
    let (_stream, udp) = (rig.tcp(), rig.udp());
    assert_eq!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), fails(uapi::ENFILE));
    assert_eq!(rig.try_socket(uapi::AF_INET, uapi::SOCK_DGRAM, 0), fails(uapi::ENFILE));
    rig.close(udp);
    assert!(matches!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), Reply::Is(_)));
}

#[test]
fn fresh_sockets_that_were_closed_make_room() {
    let mut rig = rig(2);
    for _ in 0..2 {
        let fd = rig.tcp();
        rig.close(fd);
    }
    assert!(matches!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), Reply::Is(_)));
    assert_eq!(rig.core.sockets(), 1);
}

#[test]
fn the_nursery_is_looked_at_at_most_every_few_milliseconds() {
    let mut rig = rig(1);
    let fd = rig.tcp();
    assert_eq!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), fails(uapi::ENFILE));
    rig.close(fd);
    assert_eq!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), fails(uapi::ENFILE));
    rig.pass(10);
    assert!(matches!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), Reply::Is(_)));
}

#[test]
fn sockets_that_are_open_are_never_forgotten() {
    let mut rig = rig(10);
    let fds: Vec<i32> = (0..10).map(|_| rig.tcp()).collect();
    rig.pass(20);
    assert_eq!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), fails(uapi::ENFILE));
    rig.world_mut().nursery_is_listed = false;
    rig.pass(20);
    assert_eq!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), fails(uapi::ENFILE));
    for fd in fds {
        assert_eq!(rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_KEEPALIVE, 1), DONE);
    }
    assert_eq!(rig.core.sockets(), 10);
}

#[test]
fn a_socket_that_was_renewed_is_not_forgotten_while_it_is_open() {
    let mut rig = rig(1);
    let fd = rig.tcp_nonblocking();
    rig.remote("198.51.100.1:80", super::fake::net::Answer::Refuses);
    rig.connect(fd, "198.51.100.1:80");
    rig.settle();
    assert_eq!(rig.connect(fd, "198.51.100.1:80"), fails(uapi::ECONNREFUSED));
    rig.pass(20);
    assert_eq!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), fails(uapi::ENFILE));
    rig.close(fd);
    rig.pass(20);
    assert!(matches!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), Reply::Is(_)));
}

#[test]
fn a_blocking_attempt_whose_socket_was_closed_makes_room() {
    let mut rig = rig(1);
    let fd = rig.tcp();
    rig.connect(fd, "198.51.100.1:80");
    let waits = rig.last;
    rig.me = super::fake::rig::OTHER;
    rig.close(fd);
    assert!(matches!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), Reply::Is(_)));
    assert_eq!(rig.reply(waits), fails(uapi::EBADF));
}

#[test]
fn connections_beyond_the_budget_wait_in_the_stack() {
    let mut rig = rig(3);
    let fd = rig.listener("127.0.0.1:80", 10);
    for port in 0..4 {
        rig.net().dial(addr("127.0.0.1:80"), addr(&format!("198.51.100.1:{}", 1000 + port))).unwrap();
    }
    rig.settle();
    assert_eq!(rig.world().socks.waiting(rig.file(fd)), 2);
    assert_eq!(rig.core.sockets(), 3);
    let accepted = rig.accept_untrapped(fd).unwrap();
    rig.close(accepted);
    rig.pass(10);
    assert_eq!(rig.world().socks.waiting(rig.file(fd)), 2, "the next one came");
    assert_eq!(rig.poll(fd), Events::IN);
}

#[test]
fn a_table_that_grows_is_swept() {
    let mut rig = rig(10_000);
    for _ in 0..3000 {
        let fd = rig.tcp();
        rig.close(fd);
        rig.pass(1);
    }
    assert!(rig.core.sockets() < 1100, "{}", rig.core.sockets());
}

#[test]
fn bytes_that_are_held_for_both_sides_never_exceed_the_budget_by_much() {
    let budget = Budget { sockets: 100, process_sockets: 100, memory: 1 << 30, bytes: 8192 };
    let mut rig = Rig::with(Box::new(Always(Route::Stack)), budget);
    for _ in 0..20 {
        let (fd, remote) = rig.connected();
        let _ = rig.net().remote_sends(remote, &[1; 16_384]);
        rig.settle();
        while rig.write(fd, &[2; 4096]).is_ok() {
            rig.settle();
        }
    }
    // Each direction can make progress, in the least steps.
    assert!(rig.core.held <= 8192 + 40 * 2048, "{}", rig.core.held);
}

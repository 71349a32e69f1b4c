//! shutdown(2).

use netgraft_plugin::{Error, Events};

use super::fake::rig::{DONE, OTHER, REMOTE, Rig, fails};
use super::fake::world::Reply;
use crate::uapi;

#[test]
fn a_direction_that_does_not_exist_fails_with_einval() {
    let mut rig = Rig::new();
    let (fd, _) = rig.connected();
    assert_eq!(rig.shutdown(fd, 3), fails(uapi::EINVAL));
    assert_eq!(rig.shutdown(fd, -1), fails(uapi::EINVAL));
}

#[test]
fn a_socket_without_a_connection_fails_with_enotconn() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), fails(uapi::ENOTCONN));
    let udp = rig.udp();
    assert_eq!(rig.shutdown(udp, uapi::SHUT_WR), fails(uapi::ENOTCONN));
}

#[test]
fn shut_wr_ends_the_stream_and_leaves_the_other_direction_open() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.write(fd, b"request").unwrap();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), DONE);
    assert_eq!(rig.remote_reads(remote), b"request");
    assert!(rig.net().remote_sees_end(remote));
    assert_eq!(rig.write(fd, b"more"), Err(uapi::EPIPE));
    rig.remote_sends(remote, b"answer");
    rig.remote_ends(remote);
    assert_eq!(rig.read_all(fd), (b"answer".to_vec(), Ok(())));
}

#[test]
fn shut_wr_comes_after_bytes_that_the_stack_has_no_room_for() {
    let mut rig = Rig::new();
    rig.net().window = 64;
    let (fd, remote) = rig.connected();
    rig.write(fd, &[9; 5000]).unwrap();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), DONE);
    rig.settle();
    assert!(!rig.net().remote_sees_end(remote));
    assert_eq!(rig.remote_reads(remote), [9; 5000]);
    assert!(rig.net().remote_sees_end(remote));
}

#[test]
fn shut_rd_makes_reads_return_zero() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_RD), DONE);
    assert_eq!(rig.read(fd, 1), Ok(Vec::new()));
    assert_eq!(rig.write(fd, b"still"), Ok(5));
    assert_eq!(rig.remote_reads(remote), b"still");
}

#[test]
fn a_peer_that_sends_after_shut_rd_is_not_held_up() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_RD), DONE);
    for _ in 0..20 {
        rig.remote_sends(remote, &[1; 10_000]);
    }
    assert_eq!(rig.core.held, 0);
}

#[test]
fn shut_rdwr_hangs_up() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.write(fd, b"last").unwrap();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_RDWR), DONE);
    assert!(rig.poll(fd).contains(Events::HUP | Events::RDHUP | Events::IN | Events::OUT));
    assert_eq!(rig.remote_reads(remote), b"last");
    assert!(rig.net().remote_sees_end(remote));
    assert_eq!(rig.core.sockets(), 1, "the program has its descriptor still");
}

#[test]
fn a_stream_that_was_shut_down_is_gone_when_it_is_closed() {
    for how in [uapi::SHUT_RD, uapi::SHUT_WR, uapi::SHUT_RDWR] {
        let mut rig = Rig::new();
        let (fd, remote) = rig.connected();
        assert_eq!(rig.shutdown(fd, how), DONE);
        rig.settle();
        rig.close(fd);
        rig.settle();
        assert!(rig.net().remote_sees_end(remote), "{how}");
        rig.assert_nothing_left();
    }
}

#[test]
fn a_stream_that_was_shut_down_and_closed_sends_its_last_bytes() {
    let mut rig = Rig::new();
    rig.net().window = 64;
    let (fd, remote) = rig.connected();
    rig.write(fd, &[9; 5000]).unwrap();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), DONE);
    rig.close(fd);
    assert_eq!(rig.remote_reads(remote), [9; 5000]);
    assert!(rig.net().remote_sees_end(remote));
    rig.assert_nothing_left();
}

#[test]
fn a_stream_that_was_shut_for_reading_and_closed_sends_its_last_bytes() {
    let mut rig = Rig::new();
    rig.net().window = 64;
    let (fd, remote) = rig.connected();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_RD), DONE);
    rig.write(fd, &[9; 5000]).unwrap();
    rig.close(fd);
    assert_eq!(rig.remote_reads(remote), [9; 5000]);
    assert!(rig.net().remote_sees_end(remote));
    rig.assert_nothing_left();
}

#[test]
fn a_stream_that_both_sides_ended_shows_no_error() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), DONE);
    rig.remote_ends(remote);
    assert_eq!(rig.read(fd, 1), Ok(Vec::new()));
    assert_eq!(rig.so_error(fd), 0);
    rig.close(fd);
    rig.settle();
    assert_eq!(rig.net().resets, 0);
    rig.assert_nothing_left();
}

#[test]
fn a_reset_after_shut_wr_shows_as_one() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), DONE);
    rig.settle();
    rig.remote_fails(remote, Error::ConnectionReset);
    assert!(rig.poll(fd).contains(Events::ERR));
    assert_eq!(rig.read(fd, 1), Err(uapi::ECONNRESET));
}

#[test]
fn a_close_with_bytes_unread_after_shut_wr_resets() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), DONE);
    rig.remote_sends(remote, b"unread");
    rig.close(fd);
    rig.settle();
    assert!(rig.net().remote_sees_reset(remote));
    rig.assert_nothing_left();
}

#[test]
fn a_second_shutdown_does_no_harm() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.write(fd, b"x").unwrap();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), DONE);
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), DONE);
    assert_eq!(rig.shutdown(fd, uapi::SHUT_RD), DONE);
    assert_eq!(rig.remote_reads(remote), b"x");
    assert!(rig.net().remote_sees_end(remote));
    rig.close(fd);
    rig.assert_nothing_left();
}

#[test]
fn a_listener_that_is_shut_for_reading_listens_no_more() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    assert_eq!(rig.shutdown(fd, uapi::SHUT_RD), DONE);
    assert!(rig.poll(fd).contains(Events::HUP | Events::IN));
    assert_eq!(rig.net().socks.len(), 0);
    assert_eq!(rig.shutdown(fd, uapi::SHUT_RD), fails(uapi::ENOTCONN));
    rig.close(fd);
    rig.assert_nothing_left();
}

#[test]
fn a_listener_that_is_shut_for_writing_listens_on() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), DONE);
    rig.dial("127.0.0.1:80", REMOTE);
    assert_eq!(rig.poll(fd), Events::IN);
}

#[test]
fn a_blocking_attempt_that_is_shut_down_fails_with_econnreset() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.connect(fd, REMOTE);
    let waits = rig.last;
    assert_eq!(rig.as_thread(OTHER, |rig| rig.shutdown(fd, uapi::SHUT_RDWR)), DONE);
    assert_eq!(rig.reply(waits), fails(uapi::ECONNRESET));
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits, "it can be tried again");
}

#[test]
fn a_nonblocking_attempt_that_is_shut_down_shows_a_reset() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), DONE);
    assert!(rig.poll(fd).contains(Events::ERR | Events::HUP));
    assert_eq!(rig.so_error(fd), uapi::ECONNRESET);
    rig.close(fd);
    rig.assert_nothing_left();
}

#[test]
fn a_datagram_socket_that_is_shut_for_reading_waits_for_nothing() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    rig.connect(fd, "198.51.100.1:53");
    assert_eq!(rig.shutdown(fd, uapi::SHUT_RD), DONE);
    assert_eq!(rig.recvfrom(fd, 10, 0), DONE);
    assert_eq!(rig.recvfrom(fd, 10, uapi::MSG_DONTWAIT), fails(uapi::EAGAIN));
}

#[test]
fn a_datagram_socket_that_is_shut_for_writing_fails_with_epipe() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    rig.connect(fd, "198.51.100.1:53");
    rig.write(fd, b"before").unwrap();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), DONE);
    assert_eq!(rig.net().sent.len(), 1, "what was written before has left");
    assert_eq!(rig.sendto(fd, b"x", 0, None), fails(uapi::EPIPE));
    assert_eq!(rig.write(fd, b"x"), Err(uapi::EPIPE));
}

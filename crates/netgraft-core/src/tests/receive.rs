//! recvfrom(2), recvmsg(2), recvmmsg(2).

use netgraft_plugin::Error;

use super::fake::rig::{DONE, MAIN, OTHER, Rig, addr, fails};
use super::fake::world::Reply;
use crate::uapi;

const PEER: &str = "198.51.100.1:53";
const HERE: &str = "127.0.0.1:1000";

fn bound(rig: &mut Rig) -> i32 {
    let fd = rig.udp();
    assert_eq!(rig.bind(fd, HERE), DONE);
    rig.settle();
    fd
}

fn arrives(rig: &mut Rig, data: &[u8]) {
    assert!(rig.net().arrives(addr(PEER), addr(HERE), data));
    rig.settle();
}

/// A `struct msghdr` in memory: where it, its data, its address and its control messages are.
struct Room {
    at: u64,
    data: u64,
    name: u64,
    control: u64,
}

fn room(rig: &mut Rig, len: usize, control_len: usize) -> Room {
    let (data, name) = (rig.put(&vec![0; len]), rig.put(&[0; 64]));
    let vector = rig.put(&[data.to_ne_bytes(), (len as u64).to_ne_bytes()].concat());
    let control = if control_len == 0 { 0 } else { rig.put(&vec![0; control_len]) };
    let words = [name, 64, vector, 1, control, control_len as u64, 0, 0];
    let bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_ne_bytes()).collect();
    Room { at: rig.put(&bytes), data, name, control }
}

fn recvmsg(rig: &mut Rig, fd: i32, room: &Room, flags: i32) -> Reply {
    rig.call(uapi::SYS_recvmsg, [fd as u64, room.at, flags as u64, 0, 0, 0])
}

fn flags_of(rig: &Rig, room: &Room) -> i32 {
    rig.peek_u32(room.at + 48) as i32
}

#[test]
fn a_receive_tells_the_data_and_the_sender() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    arrives(&mut rig, b"hello");
    assert_eq!(rig.recvfrom(fd, 100, 0), Reply::Is(5));
    assert_eq!(rig.data(5), b"hello");
    assert_eq!(rig.out(), Some(addr(PEER)));
}

#[test]
fn a_receive_waits_for_a_datagram() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    assert_eq!(rig.recvfrom(fd, 100, 0), Reply::Waits);
    let waits = rig.last;
    arrives(&mut rig, b"hello");
    assert_eq!(rig.reply(waits), Reply::Is(5));
    assert_eq!(rig.data(5), b"hello");
}

#[test]
fn a_receive_that_must_not_wait_fails_with_eagain() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    assert_eq!(rig.recvfrom(fd, 100, uapi::MSG_DONTWAIT), fails(uapi::EAGAIN));
    let nonblocking = rig.udp_nonblocking();
    assert_eq!(rig.recvfrom(nonblocking, 100, 0), fails(uapi::EAGAIN));
}

#[test]
fn a_receive_timeout_ends_a_receive_with_eagain() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.set_timeout(fd, uapi::SO_RCVTIMEO, 100);
    assert_eq!(rig.recvfrom(fd, 100, 0), Reply::Waits);
    let waits = rig.last;
    rig.pass(100);
    assert_eq!(rig.reply(waits), fails(uapi::EAGAIN));
}

#[test]
fn an_interrupted_receive_takes_no_datagram() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.recvfrom(fd, 100, 0);
    rig.world_mut().interrupt(MAIN);
    arrives(&mut rig, b"kept");
    assert_eq!(rig.recvfrom(fd, 100, 0), Reply::Is(4));
    assert_eq!(rig.data(4), b"kept");
}

#[test]
fn waiting_receives_get_the_datagrams_in_their_order() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.recvfrom(fd, 100, 0);
    let first = rig.last;
    rig.as_thread(OTHER, |rig| rig.recvfrom(fd, 100, 0));
    let second = rig.last;
    arrives(&mut rig, b"1");
    assert_eq!((rig.reply(first), rig.reply(second)), (Reply::Is(1), Reply::Waits));
    arrives(&mut rig, b"22");
    assert_eq!(rig.reply(second), Reply::Is(2));
}

#[test]
fn a_peek_leaves_the_datagram() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    arrives(&mut rig, b"hello");
    for flags in [uapi::MSG_PEEK, uapi::MSG_PEEK, 0] {
        assert_eq!(rig.recvfrom(fd, 100, flags), Reply::Is(5));
        assert_eq!(rig.data(5), b"hello");
        assert_eq!(rig.out(), Some(addr(PEER)));
    }
    assert_eq!(rig.recvfrom(fd, 100, uapi::MSG_DONTWAIT), fails(uapi::EAGAIN));
}

#[test]
fn a_datagram_is_cut_to_its_room_and_msg_trunc_tells_its_length() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    arrives(&mut rig, b"hello");
    arrives(&mut rig, b"world");
    assert_eq!(rig.recvfrom(fd, 2, 0), Reply::Is(2));
    assert_eq!(rig.data(2), b"he");
    assert_eq!(rig.recvfrom(fd, 2, uapi::MSG_TRUNC), Reply::Is(5), "the rest of the first is gone");
    assert_eq!(rig.data(2), b"wo");
}

#[test]
fn trapped_and_other_receives_take_turns() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    for data in [b"1", b"2", b"3", b"4"] {
        arrives(&mut rig, data);
    }
    assert_eq!(rig.read(fd, 10), Ok(b"1".to_vec()));
    assert_eq!(rig.recvfrom(fd, 10, 0), Reply::Is(1));
    assert_eq!(rig.data(1), b"2");
    assert_eq!(rig.read(fd, 10), Ok(b"3".to_vec()));
    rig.settle();
    assert_eq!(rig.recvfrom(fd, 10, 0), Reply::Is(1));
    assert_eq!(rig.data(1), b"4");
}

#[test]
fn an_error_ends_a_waiting_receive() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.connect(fd, PEER);
    assert_eq!(rig.recvfrom(fd, 10, 0), Reply::Waits);
    let waits = rig.last;
    let handle = rig.handle(fd);
    rig.net().datagram_fails(handle, Error::ConnectionRefused);
    rig.settle();
    assert_eq!(rig.reply(waits), fails(uapi::ECONNREFUSED));
    assert_eq!(rig.so_error(fd), 0);
}

#[test]
fn a_receive_on_a_stream_without_a_connection_fails_with_enotconn() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.recvfrom(fd, 10, 0), fails(uapi::ENOTCONN));
}

#[test]
fn a_receive_on_a_stream_tells_no_address() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_sends(remote, b"hello");
    assert_eq!(rig.recvfrom(fd, 10, 0), Reply::Is(5));
    assert_eq!(rig.data(5), b"hello");
    assert_eq!(rig.out(), None);
}

#[test]
fn a_receive_on_a_stream_waits_for_bytes() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    assert_eq!(rig.recvfrom(fd, 10, 0), Reply::Waits);
    let waits = rig.last;
    rig.remote_sends(remote, b"hello");
    assert_eq!(rig.reply(waits), Reply::Is(5));
    assert_eq!(rig.data(5), b"hello");
}

#[test]
fn a_receive_that_waits_on_a_stream_sees_its_end() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.recvfrom(fd, 10, 0);
    let waits = rig.last;
    rig.remote_ends(remote);
    assert_eq!(rig.reply(waits), DONE);
}

#[test]
fn a_receive_that_waits_on_a_stream_sees_its_failure() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.recvfrom(fd, 10, 0);
    let waits = rig.last;
    rig.remote_fails(remote, Error::TimedOut);
    assert_eq!(rig.reply(waits), fails(Error::TimedOut.errno()));
}

#[test]
fn a_receive_that_waits_on_a_stream_ends_when_another_thread_shuts_it_down() {
    let mut rig = Rig::new();
    let (fd, _remote) = rig.connected();
    rig.recvfrom(fd, 10, 0);
    let waits = rig.last;
    assert_eq!(rig.as_thread(OTHER, |rig| rig.shutdown(fd, uapi::SHUT_RD)), DONE);
    rig.settle();
    assert_eq!(rig.reply(waits), DONE);
}

#[test]
fn a_receive_that_waits_on_a_datagram_socket_ends_when_another_thread_shuts_it_down() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.connect(fd, PEER);
    rig.recvfrom(fd, 10, 0);
    let waits = rig.last;
    assert_eq!(rig.as_thread(OTHER, |rig| rig.shutdown(fd, uapi::SHUT_RD)), DONE);
    rig.settle();
    assert_eq!(rig.reply(waits), DONE);
}

#[test]
fn urgent_data_of_a_stream_is_received_apart() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    assert_eq!(rig.recvfrom(fd, 10, uapi::MSG_OOB), fails(uapi::EINVAL));
    let handle = rig.core.table.get(rig.id(fd)).unwrap().handle.unwrap().0;
    // "ab!", of which the last is urgent, and what follows.
    rig.net().marks.insert(handle, 3);
    rig.remote_sends(remote, b"ab!cd");
    rig.settle();
    assert_eq!(rig.read(fd, 10), Ok(b"ab".to_vec()));
    assert_eq!(rig.recvfrom(fd, 10, uapi::MSG_OOB | uapi::MSG_PEEK), Reply::Is(1));
    assert_eq!(rig.recvfrom(fd, 10, uapi::MSG_OOB), Reply::Is(1));
    assert_eq!(rig.recvfrom(fd, 10, uapi::MSG_OOB), fails(uapi::EINVAL));
    assert_eq!(rig.read(fd, 10), Ok(b"cd".to_vec()));
}

#[test]
fn a_message_tells_data_sender_and_length() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    arrives(&mut rig, b"hello");
    let room = room(&mut rig, 3, 0);
    assert_eq!(recvmsg(&mut rig, fd, &room, 0), Reply::Is(3));
    assert_eq!(rig.peek(room.data, 3), b"hel");
    assert_eq!(flags_of(&rig, &room), uapi::MSG_TRUNC);
    assert_eq!(rig.peek_u32(room.at + 8), 16);
    assert_eq!(rig.peek(room.name, 4), [2, 0, 0, 53]);
}

#[test]
fn a_message_has_the_control_messages_that_were_asked_for() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.set_int(fd, uapi::IPPROTO_IP, uapi::IP_RECVTTL, 1);
    arrives(&mut rig, b"x");
    let room = room(&mut rig, 10, 64);
    assert_eq!(recvmsg(&mut rig, fd, &room, 0), Reply::Is(1));
    let control = rig.peek(room.control, 20);
    assert_eq!(control[..8], 20u64.to_ne_bytes());
    assert_eq!(control[12..16], uapi::IP_TTL.to_ne_bytes());
    assert_eq!(control[16..20], 64i32.to_ne_bytes());
    assert_eq!(rig.peek_u32(room.at + 40), 24);
    assert_eq!(flags_of(&rig, &room), 0);
}

#[test]
fn control_messages_without_room_are_cut_and_msg_ctrunc_says_so() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.set_int(fd, uapi::IPPROTO_IP, uapi::IP_PKTINFO, 1);
    arrives(&mut rig, b"x");
    let room = room(&mut rig, 10, 8);
    assert_eq!(recvmsg(&mut rig, fd, &room, 0), Reply::Is(1));
    assert_eq!(flags_of(&rig, &room), uapi::MSG_CTRUNC);
}

#[test]
fn the_time_of_a_datagram_is_the_time_that_the_core_was_told() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_TIMESTAMP, 1);
    arrives(&mut rig, b"x");
    let room = room(&mut rig, 10, 64);
    assert_eq!(recvmsg(&mut rig, fd, &room, 0), Reply::Is(1));
    let value = rig.peek(room.control + 16, 16);
    assert_eq!(value, [1_700_000_000i64.to_ne_bytes(), 123_456i64.to_ne_bytes()].concat());
}

#[test]
fn the_error_queue_has_the_error_that_waits() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.set_int(fd, uapi::IPPROTO_IP, uapi::IP_RECVERR, 1);
    let handle = rig.handle(fd);
    rig.net().datagram_fails(handle, Error::ConnectionRefused);
    rig.settle();
    let room = room(&mut rig, 10, 64);
    assert_eq!(recvmsg(&mut rig, fd, &room, uapi::MSG_ERRQUEUE), DONE);
    assert_eq!(rig.peek_u32(room.control + 16), uapi::ECONNREFUSED as u32);
    assert_eq!(flags_of(&rig, &room), uapi::MSG_ERRQUEUE);
    assert_eq!(recvmsg(&mut rig, fd, &room, uapi::MSG_ERRQUEUE), fails(uapi::EAGAIN));
}

#[test]
fn an_empty_error_queue_fails_with_eagain_and_never_waits() {
    let mut rig = Rig::new();
    let udp = bound(&mut rig);
    let (tcp, _) = rig.connected();
    for fd in [udp, tcp] {
        let room = room(&mut rig, 10, 64);
        assert_eq!(recvmsg(&mut rig, fd, &room, uapi::MSG_ERRQUEUE), fails(uapi::EAGAIN));
        assert_eq!(rig.recvfrom(fd, 10, uapi::MSG_ERRQUEUE), fails(uapi::EAGAIN));
    }
}

#[test]
fn a_message_on_a_stream_tells_no_name() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_sends(remote, b"hello");
    let room = room(&mut rig, 10, 0);
    assert_eq!(recvmsg(&mut rig, fd, &room, 0), Reply::Is(5));
    assert_eq!(rig.peek(room.data, 5), b"hello");
    assert_eq!(rig.peek_u32(room.at + 8), 0);
}

fn many(rig: &mut Rig, count: usize) -> u64 {
    let bytes: Vec<u8> = (0..count)
        .flat_map(|_| {
            let room = room(rig, 10, 0);
            rig.peek(room.at, 64)
        })
        .collect();
    rig.put(&bytes)
}

fn recvmmsg(rig: &mut Rig, fd: i32, at: u64, count: u64, flags: i32, timeout: u64) -> Reply {
    rig.call(uapi::SYS_recvmmsg, [fd as u64, at, count, flags as u64, timeout, 0])
}

#[test]
fn many_messages_wait_until_all_have_come() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    let at = many(&mut rig, 3);
    arrives(&mut rig, b"1");
    assert_eq!(recvmmsg(&mut rig, fd, at, 3, 0, 0), Reply::Waits);
    let waits = rig.last;
    arrives(&mut rig, b"22");
    assert_eq!(rig.reply(waits), Reply::Waits);
    arrives(&mut rig, b"333");
    assert_eq!(rig.reply(waits), Reply::Is(3));
    let lens: Vec<u32> = (0..3).map(|i| rig.peek_u32(at + i * 64 + 56)).collect();
    assert_eq!(lens, [1, 2, 3]);
}

#[test]
fn wait_for_one_waits_for_one() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    let at = many(&mut rig, 3);
    assert_eq!(recvmmsg(&mut rig, fd, at, 3, 0x1_0000, 0), Reply::Waits);
    let waits = rig.last;
    arrives(&mut rig, b"1");
    assert_eq!(rig.reply(waits), Reply::Is(1));
}

#[test]
fn a_timeout_of_many_messages_gives_those_that_have_come() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    let at = many(&mut rig, 3);
    let timeout = rig.put(&[0i64.to_ne_bytes(), 50_000_000i64.to_ne_bytes()].concat());
    arrives(&mut rig, b"1");
    assert_eq!(recvmmsg(&mut rig, fd, at, 3, 0, timeout), Reply::Waits);
    let waits = rig.last;
    rig.pass(49);
    assert_eq!(rig.reply(waits), Reply::Waits);
    rig.pass(1);
    assert_eq!(rig.reply(waits), Reply::Is(1));
}

#[test]
fn a_timeout_that_is_no_time_fails_with_einval() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    let at = many(&mut rig, 1);
    for (seconds, nanos) in [(-1i64, 0i64), (0, 1_000_000_000), (0, -1)] {
        let timeout = rig.put(&[seconds.to_ne_bytes(), nanos.to_ne_bytes()].concat());
        assert_eq!(recvmmsg(&mut rig, fd, at, 1, 0, timeout), fails(uapi::EINVAL));
    }
}

#[test]
fn a_receive_into_nowhere_fails_with_efault() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    arrives(&mut rig, b"x");
    assert_eq!(rig.call(uapi::SYS_recvfrom, [fd as u64, 8, 10, 0, 0, 0]), fails(uapi::EFAULT));
}

//! sendto(2), sendmsg(2), sendmmsg(2).

use netgraft_plugin::{Call, Error};

use super::fake::net::Answer;
use super::fake::rig::{DONE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::uapi;

const PEER: &str = "198.51.100.1:53";

/// A `struct msghdr` in memory.
struct Message<'a> {
    to: Option<&'a str>,
    parts: &'a [&'a [u8]],
    control: &'a [u8],
}

impl Message<'_> {
    fn bytes(&self, rig: &mut Rig) -> Vec<u8> {
        let (name, name_len) = self.to.map_or((0, 0), |to| rig.put_addr(addr(to)));
        let parts: Vec<u8> = self
            .parts
            .iter()
            .flat_map(|part| [rig.put(part).to_ne_bytes(), (part.len() as u64).to_ne_bytes()].concat())
            .collect();
        let vector = rig.put(&parts);
        let control = if self.control.is_empty() { 0 } else { rig.put(self.control) };
        let words = [name, name_len, vector, self.parts.len() as u64, control, self.control.len() as u64, 0];
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn send(&self, rig: &mut Rig, fd: i32, flags: i32) -> Reply {
        let bytes = self.bytes(rig);
        let at = rig.put(&bytes);
        rig.call(uapi::SYS_sendmsg, [fd as u64, at, flags as u64, 0, 0, 0])
    }
}

/// A control message.
fn control(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + data.len() as u64).to_ne_bytes().to_vec();
    bytes.extend([level.to_ne_bytes(), kind.to_ne_bytes()].concat());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

#[test]
fn a_send_with_an_address_goes_there() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    assert_eq!(rig.sendto(fd, b"hello", 0, Some(PEER)), Reply::Is(5));
    let net = rig.net();
    assert_eq!((net.sent[0].1, net.sent[0].2.as_slice()), (addr(PEER), &b"hello"[..]));
}

#[test]
fn a_send_without_an_address_fails_with_edestaddrreq() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    assert_eq!(rig.sendto(fd, b"hello", 0, None), fails(uapi::EDESTADDRREQ));
}

#[test]
fn what_was_written_leaves_before_what_is_sent_with_an_address() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    assert_eq!(rig.connect(fd, PEER), DONE);
    rig.write(fd, b"first").unwrap();
    assert_eq!(rig.sendto(fd, b"second", 0, Some("198.51.100.2:53")), Reply::Is(6));
    let sent: Vec<_> = rig.net().sent.iter().map(|(_, _, data)| data.clone()).collect();
    assert_eq!(sent, [b"first".to_vec(), b"second".to_vec()]);
}

#[test]
fn a_datagram_longer_than_any_fails_with_emsgsize() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    assert_eq!(rig.sendto(fd, &[0; 65_536], 0, Some(PEER)), fails(uapi::EMSGSIZE));
    assert_eq!(rig.sendto(fd, &[0; 65_508], 0, Some(PEER)), fails(uapi::EMSGSIZE));
    assert_eq!(rig.sendto(fd, &[0; 65_507], 0, Some(PEER)), Reply::Is(65_507));
}

#[test]
fn a_length_that_no_memory_has_fails_without_being_read() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let (at, len) = rig.put_addr(addr(PEER));
    let args = [fd as u64, 0x1_0000, u64::MAX, 0, at, len];
    assert_eq!(rig.call(uapi::SYS_sendto, args), fails(uapi::EMSGSIZE));
}

#[test]
fn data_outside_of_memory_fails_with_efault() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let (at, len) = rig.put_addr(addr(PEER));
    assert_eq!(rig.call(uapi::SYS_sendto, [fd as u64, 8, 10, 0, at, len]), fails(uapi::EFAULT));
    assert_eq!(rig.net().sent.len(), 0);
}

#[test]
fn urgent_data_on_a_datagram_socket_fails_with_eopnotsupp() {
    let mut rig = Rig::new();
    let udp = rig.udp();
    assert_eq!(rig.sendto(udp, b"!", uapi::MSG_OOB, Some(PEER)), fails(uapi::EOPNOTSUPP));
}

#[test]
fn urgent_data_keeps_its_place_in_the_stream() {
    let mut rig = Rig::new();
    let (tcp, remote) = rig.connected();
    rig.write(tcp, b"ab").unwrap();
    assert_eq!(rig.sendto(tcp, b"c!", uapi::MSG_OOB, None), Reply::Is(2));
    rig.write(tcp, b"d").unwrap();
    let message = Message { to: None, parts: &[b"e", b"?"], control: &[] };
    assert_eq!(message.send(&mut rig, tcp, uapi::MSG_OOB), Reply::Is(2));
    rig.settle();
    assert_eq!(rig.remote_reads(remote), b"abc!de?");
    assert_eq!(rig.net().urgent_sent, b"!?");
}

#[test]
fn urgent_data_waits_for_room_in_the_stack() {
    let mut rig = Rig::new();
    rig.net().window = 4;
    let (tcp, remote) = rig.connected();
    rig.write(tcp, b"abcd").unwrap();
    assert_eq!(rig.sendto(tcp, b"!", uapi::MSG_OOB, None), Reply::Is(1));
    rig.write(tcp, b"ef").unwrap();
    rig.settle();
    assert_eq!(rig.net().urgent_sent, b"");
    assert_eq!(rig.net().remote_reads(remote), b"abcd");
    rig.settle();
    assert_eq!(rig.net().remote_reads(remote), b"!ef");
    assert_eq!(rig.net().urgent_sent, b"!");
}

#[test]
fn a_shutdown_makes_an_ordinary_byte_of_an_urgent_one_that_waits() {
    let mut rig = Rig::new();
    rig.net().window = 2;
    let (tcp, remote) = rig.connected();
    rig.write(tcp, b"ab").unwrap();
    assert_eq!(rig.sendto(tcp, b"!", uapi::MSG_OOB, None), Reply::Is(1));
    assert_eq!(rig.shutdown(tcp, uapi::SHUT_WR), DONE);
    let mut got = Vec::new();
    for _ in 0..4 {
        rig.settle();
        got.extend(rig.net().remote_reads(remote));
    }
    assert_eq!(got, b"ab!");
    assert!(rig.net().remote_sees_end(remote));
}

#[test]
fn a_send_that_the_stack_has_no_room_for_waits() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    rig.net().datagram_room = 0;
    assert_eq!(rig.sendto(fd, b"x", 0, Some(PEER)), Reply::Waits);
    let waits = rig.last;
    rig.settle();
    assert_eq!(rig.reply(waits), Reply::Waits);
    rig.net().open_datagram_room(1);
    rig.settle();
    assert_eq!(rig.reply(waits), Reply::Is(1));
    assert_eq!(rig.net().sent.len(), 1);
}

#[test]
fn a_send_that_must_not_wait_fails_with_eagain() {
    let mut rig = Rig::new();
    let (blocking, nonblocking) = (rig.udp(), rig.udp_nonblocking());
    rig.net().datagram_room = 0;
    assert_eq!(rig.sendto(blocking, b"x", uapi::MSG_DONTWAIT, Some(PEER)), fails(uapi::EAGAIN));
    assert_eq!(rig.sendto(nonblocking, b"x", 0, Some(PEER)), fails(uapi::EAGAIN));
}

#[test]
fn a_send_timeout_ends_a_send_with_eagain() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    rig.set_timeout(fd, uapi::SO_SNDTIMEO, 100);
    rig.net().datagram_room = 0;
    assert_eq!(rig.sendto(fd, b"x", 0, Some(PEER)), Reply::Waits);
    let waits = rig.last;
    rig.pass(100);
    assert_eq!(rig.reply(waits), fails(uapi::EAGAIN));
    rig.net().open_datagram_room(10);
    rig.settle();
    assert_eq!(rig.net().sent.len(), 0, "it is not sent after all");
}

#[test]
fn an_error_that_waits_fails_the_next_send_once() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    rig.connect(fd, PEER);
    let handle = rig.handle(fd);
    rig.net().datagram_fails(handle, Error::ConnectionRefused);
    rig.settle();
    assert_eq!(rig.sendto(fd, b"x", 0, Some(PEER)), fails(uapi::ECONNREFUSED));
    assert_eq!(rig.sendto(fd, b"x", 0, Some(PEER)), Reply::Is(1));
}

#[test]
fn an_ipv4_address_on_an_ipv6_socket_means_the_mapped_one() {
    let mut rig = Rig::new();
    let fd = rig.udp6();
    assert_eq!(rig.sendto(fd, b"x", 0, Some(PEER)), Reply::Is(1));
    assert_eq!(rig.net().sent[0].1, addr("[::ffff:198.51.100.1]:53"));
}

#[test]
fn an_ipv6_address_on_an_ipv4_socket_fails_with_eafnosupport() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    assert_eq!(rig.sendto(fd, b"x", 0, Some("[2001:db8::1]:53")), fails(uapi::EAFNOSUPPORT));
}

#[test]
fn a_stream_ignores_the_address_of_a_send() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    assert_eq!(rig.sendto(fd, b"bytes", 0, Some(PEER)), Reply::Is(5));
    assert_eq!(rig.remote_reads(remote), b"bytes");
}

#[test]
fn a_send_on_a_stream_waits_for_room() {
    let mut rig = Rig::new();
    rig.net().window = 100;
    let (fd, remote) = rig.connected();
    while rig.write(fd, &[7; 1000]).is_ok() {
        rig.settle();
    }
    assert_eq!(rig.sendto(fd, b"last", uapi::MSG_DONTWAIT, Some(PEER)), fails(uapi::EAGAIN));
    assert_eq!(rig.sendto(fd, b"last", 0, Some(PEER)), Reply::Waits);
    let waits = rig.last;
    rig.settle();
    assert_eq!(rig.reply(waits), Reply::Waits);
    assert!(rig.remote_reads(remote).ends_with(b"last"));
    assert_eq!(rig.reply(waits), Reply::Is(4));
}

#[test]
fn a_send_that_waits_on_a_stream_ends_with_it() {
    let mut rig = Rig::new();
    rig.net().window = 100;
    let (fd, remote) = rig.connected();
    while rig.write(fd, &[7; 1000]).is_ok() {
        rig.settle();
    }
    assert_eq!(rig.sendto(fd, b"last", 0, Some(PEER)), Reply::Waits);
    let waits = rig.last;
    rig.remote_fails(remote, Error::TimedOut);
    assert_eq!(rig.reply(waits), fails(Error::TimedOut.errno()));
}

#[test]
fn a_send_on_a_stream_without_a_connection_fails_with_epipe() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.sendto(fd, b"x", 0, Some(PEER)), fails(uapi::EPIPE));
    let message = Message { to: Some(PEER), parts: &[b"x"], control: &[] };
    assert_eq!(message.send(&mut rig, fd, 0), fails(uapi::EPIPE));
}

#[test]
fn a_send_with_fast_open_connects_and_waits() {
    for refuses in [false, true] {
        let mut rig = Rig::new();
        let fd = rig.tcp();
        assert_eq!(rig.sendto(fd, b"hello", uapi::MSG_FASTOPEN, Some(PEER)), Reply::Waits);
        let waits = rig.last;
        rig.remote(PEER, if refuses { Answer::Refuses } else { Answer::Accepts });
        rig.settle();
        if refuses {
            assert_eq!(rig.reply(waits), fails(uapi::ECONNREFUSED));
            continue;
        }
        assert_eq!(rig.reply(waits), Reply::Is(5));
        let remote = rig.net().accepted[0];
        assert_eq!(rig.remote_reads(remote), b"hello");
        assert_eq!(rig.sendto(fd, b"x", uapi::MSG_FASTOPEN, Some(PEER)), fails(uapi::EISCONN));
    }
}

#[test]
fn a_send_with_fast_open_that_must_not_wait_begins_an_attempt() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    let flags = uapi::MSG_FASTOPEN | uapi::MSG_DONTWAIT;
    assert_eq!(rig.sendto(fd, b"hello", flags, Some(PEER)), fails(uapi::EINPROGRESS));
    assert_eq!(rig.sendto(fd, b"hello", flags, Some(PEER)), fails(uapi::EALREADY));
    rig.remote(PEER, Answer::Accepts);
    rig.settle();
    assert_eq!(rig.sendto(fd, b"hello", flags, Some(PEER)), Reply::Is(5));
    let remote = rig.net().accepted[0];
    assert_eq!(rig.remote_reads(remote), b"hello");
}

#[test]
fn a_message_with_fast_open_connects() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.remote(PEER, Answer::Accepts);
    let message = Message { to: Some(PEER), parts: &[b"he", b"llo"], control: &[] };
    assert_eq!(message.send(&mut rig, fd, uapi::MSG_FASTOPEN), Reply::Waits);
    assert_eq!(rig.reply_at_rest(), Reply::Is(5));
    let remote = rig.net().accepted[0];
    assert_eq!(rig.remote_reads(remote), b"hello");
}

#[test]
fn a_send_with_fast_open_finds_no_listener_that_was_just_closed() {
    let mut rig = Rig::new();
    let listener = rig.listener("127.0.0.1:80", 5);
    rig.close(listener);
    // No round of the sentry in between.
    let fd = rig.tcp();
    let reply = rig.sendto(fd, b"x", uapi::MSG_FASTOPEN, Some("127.0.0.1:80"));
    assert_eq!(reply, fails(uapi::ECONNREFUSED));
}

#[test]
fn a_send_with_fast_open_needs_an_address() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.sendto(fd, b"x", uapi::MSG_FASTOPEN, None), fails(uapi::EINVAL));
}

#[test]
fn a_send_on_a_socket_that_is_being_connected_fails_with_eagain() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    assert_eq!(rig.sendto(fd, b"x", 0, Some(PEER)), fails(uapi::EAGAIN));
}

#[test]
fn a_send_on_a_failed_stream_tells_its_error_first() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_fails(remote, Error::TimedOut);
    assert_eq!(rig.sendto(fd, b"x", 0, Some(PEER)), fails(Error::TimedOut.errno()));
    assert_eq!(rig.sendto(fd, b"x", 0, Some(PEER)), fails(uapi::EPIPE));
}

#[test]
fn a_message_is_gathered_from_its_parts() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let message = Message { to: Some(PEER), parts: &[b"one", b"", b"two"], control: &[] };
    assert_eq!(message.send(&mut rig, fd, 0), Reply::Is(6));
    assert_eq!(rig.net().sent[0].2, b"onetwo");
}

#[test]
fn a_message_with_too_many_parts_fails_with_emsgsize() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let mut header = [0; 56];
    header[24..32].copy_from_slice(&1025u64.to_ne_bytes());
    let at = rig.put(&header);
    assert_eq!(rig.call(uapi::SYS_sendmsg, [fd as u64, at, 0, 0, 0, 0]), fails(uapi::EMSGSIZE));
}

#[test]
fn a_message_on_a_stream_without_address_and_control_is_the_kernels() {
    let mut rig = Rig::new();
    let (fd, _) = rig.connected();
    let message = Message { to: None, parts: &[b"x"], control: &[] };
    assert_eq!(message.send(&mut rig, fd, 0), Reply::Kernel);
}

#[test]
fn descriptors_in_a_message_on_a_stream_are_not_sent() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    let rights = control(uapi::SOL_SOCKET, 1, &3i32.to_ne_bytes());
    let message = Message { to: None, parts: &[b"bytes"], control: &rights };
    assert_eq!(message.send(&mut rig, fd, 0), Reply::Is(5));
    assert_eq!(rig.remote_reads(remote), b"bytes");
}

#[test]
fn a_source_address_of_the_stack_is_taken_and_another_fails_with_einval() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    for (source, reply) in
        [([127, 0, 0, 1], Reply::Is(1)), ([0; 4], Reply::Is(1)), ([203, 0, 113, 1], fails(uapi::EINVAL))]
    {
        let mut info = [0; 12];
        info[4..8].copy_from_slice(&source);
        let info = control(uapi::IPPROTO_IP, uapi::IP_PKTINFO, &info);
        let message = Message { to: Some(PEER), parts: &[b"x"], control: &info };
        assert_eq!(message.send(&mut rig, fd, 0), reply, "{source:?}");
    }
}

#[test]
fn a_control_message_that_does_not_exist_fails_with_einval() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let unknown = control(uapi::IPPROTO_IP, 99, &[0; 4]);
    let message = Message { to: Some(PEER), parts: &[b"x"], control: &unknown };
    assert_eq!(message.send(&mut rig, fd, 0), fails(uapi::EINVAL));
}

fn send_many(rig: &mut Rig, fd: i32, messages: &[Message<'_>], flags: i32) -> (Reply, u64) {
    let bytes: Vec<u8> =
        messages.iter().flat_map(|message| [message.bytes(rig), vec![0; 8]].concat()).collect();
    let at = rig.put(&bytes);
    (rig.call(uapi::SYS_sendmmsg, [fd as u64, at, messages.len() as u64, flags as u64, 0, 0]), at)
}

#[test]
fn many_messages_are_sent_and_their_lengths_told() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let messages = [&b"one"[..], b"three", b""];
    let parts = messages.map(|data| [data]);
    let messages: Vec<_> =
        parts.iter().map(|parts| Message { to: Some(PEER), parts, control: &[] }).collect();
    let (reply, at) = send_many(&mut rig, fd, &messages, 0);
    assert_eq!(reply, Reply::Is(3));
    let lens: Vec<u32> = (0..3).map(|i| rig.peek_u32(at + i * 64 + 56)).collect();
    assert_eq!(lens, [3, 5, 0]);
    assert_eq!(rig.net().sent.len(), 3);
}

#[test]
fn many_messages_stop_at_the_first_that_fails() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let message = |to| Message { to, parts: &[b"x"], control: &[] };
    let (reply, _) = send_many(&mut rig, fd, &[message(Some(PEER)), message(None), message(Some(PEER))], 0);
    assert_eq!(reply, Reply::Is(1));
    let (reply, _) = send_many(&mut rig, fd, &[message(None), message(Some(PEER))], 0);
    assert_eq!(reply, fails(uapi::EDESTADDRREQ));
    assert_eq!(rig.net().sent.len(), 1);
}

#[test]
fn many_messages_wait_only_for_the_first() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let message = || Message { to: Some(PEER), parts: &[b"x"], control: &[] };
    rig.net().datagram_room = 1;
    let (reply, _) = send_many(&mut rig, fd, &[message(), message()], 0);
    assert_eq!(reply, Reply::Is(1));
    let (reply, _) = send_many(&mut rig, fd, &[message(), message()], 0);
    assert_eq!(reply, Reply::Waits);
    rig.net().open_datagram_room(2);
    assert_eq!(rig.reply_at_rest(), Reply::Is(2));
}

#[test]
fn many_messages_on_a_stream_are_the_kernels() {
    let mut rig = Rig::new();
    let (fd, _) = rig.connected();
    let (reply, _) = send_many(&mut rig, fd, &[], 0);
    assert_eq!(reply, Reply::Kernel);
    let (reply, _) = send_many(&mut rig, fd, &[], uapi::MSG_FASTOPEN);
    assert_eq!(reply, fails(uapi::EOPNOTSUPP));
}

#[test]
fn the_stacks_own_refusal_of_a_send_is_its_errno() {
    for error in [Error::NetworkUnreachable, Error::AccessDenied, Error::NoBuffers] {
        let mut rig = Rig::new();
        let fd = rig.udp();
        rig.net().fail_next(Call::send, error);
        assert_eq!(rig.sendto(fd, b"x", 0, Some(PEER)), fails(error.errno()));
    }
}

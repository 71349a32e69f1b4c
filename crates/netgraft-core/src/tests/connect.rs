//! connect(2).

use netgraft_plugin::{Call, Error, Events, OptionName, SocketOption};

use super::fake::net::Answer;
use super::fake::rig::{DONE, MAIN, OTHER, REMOTE, Rig, fails};
use super::fake::world::Reply;
use crate::uapi;

#[test]
fn a_blocking_connect_waits_until_the_stack_is_connected() {
    let mut rig = Rig::new();
    rig.remote(REMOTE, Answer::Accepts);
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    assert_eq!(rig.poll(fd), Events::OUT | Events::HUP, "the surrogate is as it was");
    assert_eq!(rig.reply_at_rest(), DONE);
    assert_eq!(rig.poll(fd), Events::OUT);
}

#[test]
fn a_blocking_connect_that_is_refused_fails_with_econnrefused() {
    let mut rig = Rig::new();
    rig.remote(REMOTE, Answer::Refuses);
    let fd = rig.tcp();
    rig.connect(fd, REMOTE);
    assert_eq!(rig.reply_at_rest(), fails(uapi::ECONNREFUSED));
    assert_eq!(rig.so_error(fd), 0, "the call has told it");
}

#[test]
fn a_socket_can_connect_again_after_a_blocking_connect_was_refused() {
    let mut rig = Rig::new();
    rig.remote(REMOTE, Answer::Refuses);
    let fd = rig.tcp();
    rig.connect(fd, REMOTE);
    assert_eq!(rig.reply_at_rest(), fails(uapi::ECONNREFUSED));
    rig.remote(REMOTE, Answer::Accepts);
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    assert_eq!(rig.reply_at_rest(), DONE);
}

#[test]
fn a_connect_that_times_out_fails_with_etimedout() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    let handle = rig.handle(fd);
    rig.net().fail_attempt(handle.0, Error::TimedOut);
    assert_eq!(rig.reply_at_rest(), fails(Error::TimedOut.errno()));
}

#[test]
fn a_stack_that_connects_at_once_is_answered_at_once() {
    let mut rig = Rig::new();
    rig.remote(REMOTE, Answer::Accepts);
    rig.net().connects_at_once = true;
    let fd = rig.tcp_nonblocking();
    assert_eq!(rig.connect(fd, REMOTE), DONE);
    assert_eq!(rig.poll(fd), Events::OUT);
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EISCONN));
}

#[test]
fn the_stacks_own_refusal_of_a_connect_is_its_errno() {
    for error in
        [Error::NetworkUnreachable, Error::AddressNotAvailable, Error::NoBuffers, Error::AccessDenied]
    {
        let mut rig = Rig::new();
        let fd = rig.tcp();
        rig.net().fail_next(Call::connect, error);
        assert_eq!(rig.connect(fd, REMOTE), fails(error.errno()));
        // It is as new.
        assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    }
}

#[test]
fn a_connect_for_which_the_stack_has_no_socket_fails_and_can_be_repeated() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.net().fail_next(Call::socket, Error::TooManySockets);
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::ENFILE));
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
}

#[test]
fn a_nonblocking_connect_is_in_progress_and_not_writable() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    assert_eq!(rig.poll(fd), Events::empty());
    assert_eq!(rig.write(fd, b"early"), Err(uapi::EAGAIN));
}

#[test]
fn a_nonblocking_connect_wakes_pollers_when_it_succeeds() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    let before = rig.edges(fd);
    rig.remote(REMOTE, Answer::Accepts);
    rig.core.wake_stack();
    rig.settle();
    assert_eq!(rig.poll(fd), Events::OUT);
    assert!(rig.edges(fd) > before);
    assert_eq!(rig.so_error(fd), 0);
}

#[test]
fn what_closes_the_gate_never_reaches_the_peer() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    rig.remote(REMOTE, Answer::Accepts);
    rig.core.wake_stack();
    rig.settle();
    assert_eq!(rig.write(fd, b"hello"), Ok(5));
    let remote = rig.net().accepted[0];
    assert_eq!(rig.remote_reads(remote), b"hello");
}

#[test]
fn a_gate_that_opens_without_the_file_is_restored_at_the_next_call() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    // The descriptor is not where it was seen last.
    let copy = rig.dup(fd);
    rig.close(fd);
    rig.remote(REMOTE, Answer::Accepts);
    rig.core.wake_stack();
    rig.settle();
    assert!(rig.write(copy, &[1; 1000]).unwrap() < 1000, "the send buffer is as the gate made it");
    rig.settle();
    assert_eq!(rig.getpeername(copy), DONE);
    assert_eq!(rig.write(copy, &[1; 1000]), Ok(1000));
}

#[test]
fn a_second_connect_while_one_is_under_way_fails_with_ealready() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EALREADY));
}

#[test]
fn the_connect_after_a_nonblocking_one_says_once_that_it_succeeded() {
    let mut rig = Rig::new();
    rig.remote(REMOTE, Answer::Accepts);
    let fd = rig.connecting();
    assert_eq!(rig.connect(fd, REMOTE), DONE);
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EISCONN));
}

#[test]
fn a_nonblocking_connect_that_is_refused_shows_an_error_and_tells_it_once() {
    let mut rig = Rig::new();
    rig.remote(REMOTE, Answer::Refuses);
    let fd = rig.connecting();
    let events = rig.poll(fd);
    assert!(events.contains(Events::ERR | Events::HUP | Events::IN | Events::OUT), "{events:?}");
    assert_eq!(rig.so_error(fd), uapi::ECONNREFUSED);
    assert_eq!(rig.so_error(fd), 0);
    assert!(!rig.poll(fd).contains(Events::ERR));
}

#[test]
fn the_connect_after_one_that_was_refused_says_so_and_the_next_begins_anew() {
    let mut rig = Rig::new();
    rig.remote(REMOTE, Answer::Refuses);
    let fd = rig.connecting();
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::ECONNREFUSED));
    assert_eq!(rig.poll(fd), Events::OUT | Events::HUP, "the descriptor has a new surrogate");
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EINPROGRESS));
}

#[test]
fn the_connect_after_a_refusal_that_so_error_told_fails_with_econnaborted() {
    let mut rig = Rig::new();
    rig.remote(REMOTE, Answer::Refuses);
    let fd = rig.connecting();
    assert_eq!(rig.so_error(fd), uapi::ECONNREFUSED);
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::ECONNABORTED));
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EINPROGRESS));
}

#[test]
fn a_refused_socket_reads_its_error_and_then_the_end() {
    let mut rig = Rig::new();
    rig.remote(REMOTE, Answer::Refuses);
    let fd = rig.connecting();
    assert_eq!(rig.read(fd, 1), Err(uapi::ECONNRESET), "the one word that AF_UNIX has");
    assert_eq!(rig.read(fd, 1), Ok(Vec::new()));
    assert_eq!(rig.so_error(fd), 0, "the program has been told");
}

#[test]
fn a_trapped_receive_on_a_refused_socket_has_the_right_errno() {
    let mut rig = Rig::new();
    rig.remote(REMOTE, Answer::Refuses);
    let fd = rig.connecting();
    assert_eq!(rig.recvfrom(fd, 10, 0), fails(uapi::ECONNREFUSED));
    assert_eq!(rig.recvfrom(fd, 10, 0), DONE);
}

#[test]
fn a_blocking_connect_joins_an_attempt_that_is_under_way() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    let file = rig.file(fd);
    rig.world_mut().socks.get_mut(file).nonblocking = false;
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    rig.remote(REMOTE, Answer::Accepts);
    rig.core.wake_stack();
    assert_eq!(rig.reply_at_rest(), DONE);
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EISCONN), "the call has told the success");
}

#[test]
fn a_blocking_connect_that_joined_an_attempt_tells_its_failure_once() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    let file = rig.file(fd);
    rig.world_mut().socks.get_mut(file).nonblocking = false;
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    rig.remote(REMOTE, Answer::Refuses);
    rig.core.wake_stack();
    assert_eq!(rig.reply_at_rest(), fails(uapi::ECONNREFUSED));
    assert_eq!(rig.so_error(fd), 0);
}

#[test]
fn two_threads_that_wait_for_one_attempt_are_both_answered() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    let first = rig.last;
    assert_eq!(rig.as_thread(OTHER, |rig| rig.connect(fd, REMOTE)), Reply::Waits);
    rig.remote(REMOTE, Answer::Accepts);
    rig.core.wake_stack();
    assert_eq!(rig.reply_at_rest(), DONE);
    assert_eq!(rig.reply(first), DONE);
}

#[test]
fn an_interrupted_connect_goes_on_and_can_be_asked_for_again() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    assert!(rig.world_mut().interrupt(MAIN));
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    rig.remote(REMOTE, Answer::Accepts);
    rig.core.wake_stack();
    assert_eq!(rig.reply_at_rest(), DONE);
}

#[test]
fn an_attempt_whose_caller_was_interrupted_is_connected_all_the_same() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    assert!(rig.world_mut().interrupt(MAIN));
    rig.remote(REMOTE, Answer::Accepts);
    rig.core.wake_stack();
    rig.settle();
    assert_eq!(rig.poll(fd), Events::OUT);
    assert_eq!(rig.write(fd, b"hello"), Ok(5));
    let remote = rig.net().accepted[0];
    assert_eq!(rig.remote_reads(remote), b"hello");
}

#[test]
fn a_connect_whose_descriptor_was_closed_meanwhile_leaves_nothing() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    rig.close(fd);
    rig.remote(REMOTE, Answer::Accepts);
    rig.core.wake_stack();
    assert_eq!(rig.reply_at_rest(), fails(uapi::ECONNABORTED));
    assert_eq!(rig.net().resets, 1);
    rig.assert_nothing_left();
}

#[test]
fn a_connect_does_not_take_another_socket_in_the_place_of_its_own() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    let waits = rig.last;
    // Another thread closes the descriptor and gets another socket with its number.
    let other = rig.as_thread(OTHER, |rig| {
        rig.close(fd);
        rig.tcp()
    });
    assert_eq!(other, fd);
    rig.remote(REMOTE, Answer::Accepts);
    rig.core.wake_stack();
    rig.settle();
    assert_eq!(rig.reply(waits), fails(uapi::ECONNABORTED));
    assert_eq!(rig.poll(other), Events::OUT | Events::HUP, "it is as new");
}

#[test]
fn a_program_that_closes_a_socket_which_is_being_connected_ends_the_attempt() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    rig.close(fd);
    rig.assert_nothing_left();
}

#[test]
fn af_unspec_makes_a_connected_socket_as_new() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    assert_eq!(rig.disconnect(fd), DONE);
    assert!(rig.net().remote_sees_reset(remote));
    assert_eq!(rig.poll(fd), Events::OUT | Events::HUP);
    assert_eq!(rig.getpeername(fd), fails(uapi::ENOTCONN));
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    assert_eq!(rig.reply_at_rest(), DONE);
}

#[test]
fn af_unspec_ends_an_attempt_and_answers_who_waits_for_it() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    let waits = rig.last;
    assert_eq!(rig.as_thread(OTHER, |rig| rig.disconnect(fd)), DONE);
    assert_eq!(rig.reply(waits), fails(uapi::ECONNABORTED));
    assert_eq!(rig.net().socks.len(), 0);
}

#[test]
fn af_unspec_ends_a_listener() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    assert_eq!(rig.disconnect(fd), DONE);
    assert_eq!(rig.net().socks.len(), 0);
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
}

#[test]
fn af_unspec_on_a_fresh_socket_does_nothing() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.disconnect(fd), DONE);
    assert_eq!(rig.poll(fd), Events::OUT | Events::HUP);
}

#[test]
fn a_listener_cannot_connect() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EISCONN));
}

#[test]
fn options_and_the_address_outlive_a_refused_attempt() {
    let mut rig = Rig::new();
    rig.remote(REMOTE, Answer::Refuses);
    let fd = rig.tcp();
    assert_eq!(rig.set_int(fd, uapi::IPPROTO_TCP, uapi::TCP_NODELAY, 1), DONE);
    assert_eq!(rig.bind(fd, "127.0.0.1:5000"), DONE);
    rig.connect(fd, REMOTE);
    assert_eq!(rig.reply_at_rest(), fails(uapi::ECONNREFUSED));
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    let handle = rig.handle(fd);
    let net = rig.net();
    let sock = net.get(handle).unwrap();
    assert_eq!(sock.options.get(&OptionName::NoDelay), Some(&SocketOption::NoDelay(true)));
    assert_eq!(sock.local, Some("127.0.0.1:5000".parse().unwrap()));
}

#[test]
fn an_address_of_another_family_fails_with_eafnosupport() {
    let mut rig = Rig::new();
    let (v4, v6) = (rig.tcp(), rig.tcp6());
    assert_eq!(rig.connect(v4, "[::1]:80"), fails(uapi::EAFNOSUPPORT));
    // Of what is too short for an address of IPv6 the family does not count.
    assert_eq!(rig.connect(v6, REMOTE), fails(uapi::EINVAL));
}

#[test]
fn an_address_that_is_too_short_or_too_long_fails_with_einval() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    let at = rig.put(&[2, 0, 0, 80, 127, 0, 0, 1]);
    assert_eq!(rig.call(uapi::SYS_connect, [fd as u64, at, 8, 0, 0, 0]), fails(uapi::EINVAL));
    assert_eq!(rig.call(uapi::SYS_connect, [fd as u64, at, 129, 0, 0, 0]), fails(uapi::EINVAL));
    assert_eq!(rig.call(uapi::SYS_connect, [fd as u64, at, u64::MAX, 0, 0, 0]), fails(uapi::EINVAL));
}

#[test]
fn an_address_outside_of_memory_fails_with_efault() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.call(uapi::SYS_connect, [fd as u64, 8, 16, 0, 0, 0]), fails(uapi::EFAULT));
}

#[test]
fn without_room_for_an_end_a_nonblocking_connect_fails_and_leaves_no_attempt() {
    let mut rig = Rig::new();
    let fd = rig.tcp_nonblocking();
    let (at, len) = rig.put_addr(REMOTE.parse().unwrap());
    let caller = rig.begin(uapi::SYS_connect, [fd as u64, at, len, 0, 0, 0]);
    // The descriptor can be duplicated; the end cannot be made.
    rig.world_mut().limits.no_join = true;
    rig.core.call(&caller);
    assert_eq!(rig.reply(caller.id), fails(uapi::ENFILE));
    assert_eq!(rig.net().socks.len(), 0);
    rig.world_mut().limits.no_join = false;
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EINPROGRESS));
}

#[test]
fn without_room_for_an_end_a_blocking_connect_fails_and_resets_the_connection() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    rig.world_mut().limits.no_join = true;
    rig.remote(REMOTE, Answer::Accepts);
    rig.core.wake_stack();
    assert_eq!(rig.reply_at_rest(), fails(uapi::ENFILE));
    let remote = rig.net().accepted[0];
    assert!(rig.net().remote_sees_reset(remote));
    rig.close(fd);
    rig.pass(20);
    rig.assert_nothing_left();
}

#[test]
fn a_send_timeout_ends_a_blocking_connect_with_einprogress() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.set_timeout(fd, uapi::SO_SNDTIMEO, 500);
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    let waits = rig.last;
    rig.pass(499);
    assert_eq!(rig.reply(waits), Reply::Waits);
    rig.pass(1);
    assert_eq!(rig.reply(waits), fails(uapi::EINPROGRESS));
}

#[test]
fn a_connect_over_ipv6_reaches_a_listener() {
    let mut rig = Rig::new();
    let listener = rig.tcp6();
    assert_eq!(rig.bind(listener, "[::1]:80"), DONE);
    assert_eq!(rig.listen(listener, 1), DONE);
    let fd = rig.tcp6();
    assert_eq!(rig.connect(fd, "[::1]:80"), Reply::Waits);
    assert_eq!(rig.reply_at_rest(), DONE);
}

#[test]
fn a_connection_is_counted_once_it_is_made() {
    let mut rig = Rig::new();
    rig.connecting();
    assert_eq!(rig.core.counts().connections_out, 0);
    rig.connected();
    assert_eq!(rig.core.counts().connections_out, 2);
}

#[test]
fn data_calls_on_an_attempt_wait_for_its_end() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    let connects = rig.last;
    assert_eq!(rig.as_thread(OTHER, |rig| rig.sendto(fd, b"first", 0, Some(REMOTE))), Reply::Waits);
    let sends = rig.last;
    rig.remote(REMOTE, Answer::Accepts);
    rig.core.wake_stack();
    rig.settle();
    assert_eq!((rig.reply(connects), rig.reply(sends)), (DONE, Reply::Is(5)));
    let remote = rig.net().accepted[0];
    assert_eq!(rig.remote_reads(remote), b"first");
}

#[test]
fn data_calls_on_an_attempt_fail_with_it() {
    for receives in [false, true] {
        let mut rig = Rig::new();
        let fd = rig.tcp();
        assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
        let connects = rig.last;
        rig.as_thread(OTHER, |rig| {
            if receives { rig.recvfrom(fd, 1, 0) } else { rig.sendto(fd, b"x", 0, Some(REMOTE)) }
        });
        let waits = rig.last;
        rig.remote(REMOTE, Answer::Refuses);
        rig.core.wake_stack();
        rig.settle();
        assert_eq!(rig.reply(connects), fails(uapi::ECONNREFUSED));
        assert_eq!(rig.reply(waits), fails(if receives { uapi::ENOTCONN } else { uapi::EPIPE }));
    }
}

#[test]
fn data_calls_on_an_attempt_that_must_not_wait_fail_with_eagain() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    assert_eq!(rig.sendto(fd, b"x", 0, Some(REMOTE)), fails(uapi::EAGAIN));
    assert_eq!(rig.recvfrom(fd, 1, 0), fails(uapi::EAGAIN));
}

/// On Linux the handshake over the loopback is over when connect(2) returns.
#[test]
fn a_connection_inside_the_sandbox_takes_bytes_when_the_call_has_returned() {
    let mut rig = Rig::new();
    rig.listener("127.0.0.1:80", 1);
    let fd = rig.tcp_nonblocking();
    assert_eq!(rig.connect(fd, "127.0.0.1:80"), fails(uapi::EINPROGRESS));
    assert_eq!(rig.write(fd, b"at once"), Ok(7));
    assert_eq!(rig.connect(fd, "127.0.0.1:80"), DONE);
}

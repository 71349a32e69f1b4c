//! Connected streams: bytes, ends and resets.

use netgraft_plugin::{Error, Events};

use super::fake::net::Remote;
use super::fake::rig::{DONE, REMOTE, Rig, fails};
use super::fake::unix::SEND_BUFFER;
use crate::{Budget, uapi};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// The remote host sends until it is held up; how much.
fn fill(rig: &mut Rig, remote: Remote) -> usize {
    let mut sent = 0;
    loop {
        let result = rig.net().remote_sends(remote, &pattern(100_000)[sent..]);
        let Ok(n) = result else { return sent };
        sent += n;
        rig.settle();
    }
}

#[test]
fn bytes_of_the_program_reach_the_peer() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    assert_eq!(rig.write(fd, b"hello"), Ok(5));
    assert_eq!(rig.remote_reads(remote), b"hello");
    assert_eq!(rig.core.counts().bytes_sent, 5);
}

#[test]
fn bytes_of_the_peer_reach_the_program() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_sends(remote, b"hello");
    assert_eq!(rig.poll(fd), Events::IN | Events::OUT);
    assert_eq!(rig.read(fd, 3), Ok(b"hel".to_vec()));
    assert_eq!(rig.read(fd, 3), Ok(b"lo".to_vec()));
    assert_eq!(rig.read(fd, 3), Err(uapi::EAGAIN));
    assert_eq!(rig.core.counts().bytes_received, 5);
}

#[test]
fn much_more_than_all_buffers_hold_arrives_whole_from_the_program() {
    let mut rig = Rig::new();
    rig.net().window = 1000;
    let (fd, remote) = rig.connected();
    let sent = pattern(100_000);
    let (mut at, mut got) = (0, Vec::new());
    while got.len() < sent.len() {
        match rig.write(fd, &sent[at..]) {
            Ok(n) => at += n,
            Err(errno) => assert_eq!(errno, uapi::EAGAIN),
        }
        let before = got.len();
        got.extend(rig.remote_reads(remote));
        assert!(got.len() > before || at < sent.len(), "the stream has stopped at {before}");
    }
    assert_eq!(got, sent);
    assert_eq!(rig.core.held, 0);
}

#[test]
fn much_more_than_all_buffers_hold_arrives_whole_at_the_program() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    let sent = pattern(100_000);
    let (mut at, mut got) = (0, Vec::new());
    for _ in 0..1000 {
        match rig.net().remote_sends(remote, &sent[at..]) {
            Ok(n) => at += n,
            Err(error) => assert_eq!(error, Error::Again),
        }
        rig.settle();
        got.extend(rig.read(fd, 777).unwrap_or_default());
    }
    assert_eq!(got, sent);
    assert_eq!(rig.core.held, 0);
}

#[test]
fn a_program_that_does_not_read_holds_the_peer_up() {
    let mut rig = Rig::new();
    let (_fd, remote) = rig.connected();
    let mut sent = 0;
    loop {
        match rig.net().remote_sends(remote, &[7; 5000]) {
            Ok(n) => sent += n,
            Err(_) => break,
        }
        rig.settle();
        assert!(sent < 1_000_000, "nothing holds the peer up");
    }
    assert!(rig.core.held < 300_000);
}

/// The window update leaves with a poll of the stack: a receive that opened the window makes the stack due, though nothing
/// else happens.
#[test]
fn a_receive_that_opens_the_window_has_the_stack_polled() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    let sent = fill(&mut rig, remote);
    rig.settle();
    assert_eq!(rig.core.next_deadline(), None, "nothing moves while the program does not read");
    let polls = rig.net().polls;
    let mut read = 0;
    for _ in 0..1000 {
        read += rig.read(fd, 4096).map_or(0, |bytes| bytes.len());
        rig.settle();
    }
    assert_eq!(read, sent);
    assert!(rig.net().polls > polls);
    assert!(rig.net().remote_sends(remote, b"more").is_ok(), "the peer was never told of the room");
}

#[test]
fn the_sentry_is_not_woken_for_room_that_nothing_waits_for() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_sends(remote, b"a");
    assert_eq!(rig.read(fd, 1), Ok(b"a".to_vec()));
    assert!(!rig.round(), "a read without waiting bytes wakes nobody");
}

#[test]
fn the_interest_in_room_ends_when_nothing_waits_any_more() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    let n = rig.net().remote_sends(remote, &[1; 3 * SEND_BUFFER]).unwrap();
    rig.settle();
    assert_eq!(rig.read_all(fd).0.len(), n);
    rig.remote_sends(remote, b"a");
    let _ = rig.read_all(fd);
    rig.remote_sends(remote, b"b");
    assert_eq!(rig.read(fd, 1), Ok(b"b".to_vec()));
    assert!(!rig.round());
}

#[test]
fn the_end_of_the_peers_stream_is_read_as_zero() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_sends(remote, b"last");
    rig.remote_ends(remote);
    assert_eq!(rig.poll(fd), Events::IN | Events::OUT | Events::RDHUP);
    assert_eq!(rig.read_all(fd), (b"last".to_vec(), Ok(())));
    assert_eq!(rig.write(fd, b"still"), Ok(5));
    assert_eq!(rig.remote_reads(remote), b"still");
}

#[test]
fn a_close_sends_all_bytes_and_then_the_end() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    assert_eq!(rig.write(fd, b"bye"), Ok(3));
    rig.close(fd);
    assert_eq!(rig.remote_reads(remote), b"bye");
    assert!(rig.net().remote_sees_end(remote));
    rig.assert_nothing_left();
}

#[test]
fn a_close_sends_bytes_that_the_stack_has_no_room_for_at_first() {
    let mut rig = Rig::new();
    rig.net().window = 100;
    let (fd, remote) = rig.connected();
    let sent = pattern(6000);
    assert_eq!(rig.write(fd, &sent), Ok(6000));
    rig.close(fd);
    rig.settle();
    assert!(!rig.net().remote_sees_end(remote));
    assert_eq!(rig.remote_reads(remote), sent);
    assert!(rig.net().remote_sees_end(remote));
    rig.assert_nothing_left();
}

#[test]
fn a_close_with_bytes_unread_resets_the_connection() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_sends(remote, b"unread");
    rig.close(fd);
    rig.settle();
    assert!(rig.net().remote_sees_reset(remote));
    rig.assert_nothing_left();
}

#[test]
fn a_close_after_the_peers_end_is_orderly() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_ends(remote);
    rig.close(fd);
    rig.settle();
    assert!(rig.net().remote_sees_end(remote));
    assert_eq!(rig.net().resets, 0);
    rig.assert_nothing_left();
}

#[test]
fn a_peer_that_ends_after_the_close_changes_nothing() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.close(fd);
    rig.settle();
    rig.remote_ends(remote);
    rig.assert_nothing_left();
}

#[test]
fn a_socket_lives_as_long_as_one_of_its_descriptors() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    let copy = rig.dup(fd);
    rig.close(fd);
    rig.settle();
    assert!(!rig.net().remote_sees_end(remote));
    assert_eq!(rig.write(copy, b"still"), Ok(5));
    assert_eq!(rig.remote_reads(remote), b"still");
    rig.close(copy);
    rig.settle();
    assert!(rig.net().remote_sees_end(remote));
    rig.assert_nothing_left();
}

#[test]
fn a_reset_by_the_peer_shows_after_the_bytes_before_it() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.net().remote_sends(remote, b"before").unwrap();
    rig.remote_fails(remote, Error::ConnectionReset);
    let events = rig.poll(fd);
    assert!(
        events.contains(Events::IN | Events::OUT | Events::ERR | Events::HUP | Events::RDHUP),
        "{events:?}"
    );
    assert_eq!(rig.read(fd, 10), Ok(b"before".to_vec()));
    assert_eq!(rig.read(fd, 10), Err(uapi::ECONNRESET));
    assert_eq!(rig.read(fd, 10), Ok(Vec::new()));
    assert_eq!(rig.write(fd, b"x"), Err(uapi::EPIPE));
}

#[test]
fn a_reset_shows_after_bytes_that_wait_for_the_program_to_read() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    let sent = fill(&mut rig, remote);
    assert!(sent > SEND_BUFFER);
    rig.remote_fails(remote, Error::ConnectionReset);
    let (got, end) = rig.read_all(fd);
    assert_eq!((got.len(), end), (sent, Err(uapi::ECONNRESET)));
    assert_eq!(got, pattern(100_000)[..sent]);
}

#[test]
fn a_send_that_finds_a_reset_loses_no_bytes_that_came_before_it() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    let sent = fill(&mut rig, remote);
    rig.write(fd, b"x").unwrap();
    rig.remote_fails(remote, Error::ConnectionReset);
    assert_eq!(rig.read_all(fd).0, pattern(100_000)[..sent]);
}

#[test]
fn bytes_that_are_held_are_given_back_when_the_program_closes() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    fill(&mut rig, remote);
    assert!(rig.core.held > 0);
    rig.close(fd);
    rig.assert_nothing_left();
}

#[test]
fn a_program_that_closes_without_reading_up_to_a_failure_leaves_nothing() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    fill(&mut rig, remote);
    rig.write(fd, b"x").unwrap();
    rig.remote_fails(remote, Error::ConnectionReset);
    rig.close(fd);
    rig.assert_nothing_left();
}

/// What has ended in order stays ended, whichever of the two events comes first.
#[test]
fn a_reset_behind_the_peers_end_is_told_to_who_sends() {
    for (data, send_first) in [(&b""[..], true), (b"answer", true), (b"", false), (b"answer", false)] {
        let mut rig = Rig::new();
        let (fd, remote) = rig.connected();
        rig.remote_sends(remote, data);
        rig.remote_ends(remote);
        if send_first {
            rig.write(fd, b"x").unwrap();
        }
        // The surrogate's event is seen before that of the stack.
        rig.net().remote_fails(remote, Error::ConnectionReset);
        rig.settle();
        assert_eq!(rig.read_all(fd), (data.to_vec(), Ok(())), "{send_first}");
        assert_eq!(rig.poll(fd), Events::IN | Events::OUT | Events::RDHUP | Events::HUP);
        assert_eq!(rig.so_error(fd), uapi::EPIPE);
        assert_eq!(rig.so_error(fd), 0);
        assert_eq!(rig.write(fd, b"y"), Err(uapi::EPIPE));
        assert_eq!(rig.read(fd, 1), Ok(Vec::new()));
        rig.close(fd);
        rig.assert_nothing_left();
    }
}

/// A stack that knows says so: then the end counts though the program has not come to it.
#[test]
fn a_broken_pipe_is_behind_the_peers_end() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    let sent = fill(&mut rig, remote);
    rig.write(fd, b"x").unwrap();
    rig.remote_fails(remote, Error::BrokenPipe);
    let (got, end) = rig.read_all(fd);
    assert_eq!((got.len(), end), (sent, Ok(())));
    assert_eq!(rig.so_error(fd), uapi::EPIPE);
}

#[test]
fn so_error_tells_how_a_connection_failed_once() {
    for error in [Error::ConnectionReset, Error::TimedOut, Error::HostUnreachable] {
        let mut rig = Rig::new();
        let (fd, remote) = rig.connected();
        rig.remote_fails(remote, error);
        assert_eq!(rig.so_error(fd), error.errno());
        assert_eq!(rig.so_error(fd), 0);
        assert_eq!(rig.read(fd, 1), Ok(Vec::new()), "told once");
    }
}

#[test]
fn a_trapped_receive_tells_a_failure_with_its_own_errno() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_fails(remote, Error::TimedOut);
    assert_eq!(rig.recvfrom(fd, 10, 0), fails(Error::TimedOut.errno()));
    assert_eq!(rig.recvfrom(fd, 10, 0), DONE);
    assert_eq!(rig.so_error(fd), 0);
}

#[test]
fn a_failed_stream_that_is_closed_leaves_nothing() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_fails(remote, Error::ConnectionReset);
    rig.close(fd);
    rig.assert_nothing_left();
}

#[test]
fn a_failed_stream_tells_its_local_address_but_has_no_peer() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.getsockname(fd);
    let local = rig.out();
    rig.remote_fails(remote, Error::ConnectionReset);
    assert_eq!(rig.getpeername(fd), fails(uapi::ENOTCONN));
    assert_eq!(rig.getsockname(fd), DONE);
    assert_eq!(rig.out(), local);
}

#[test]
fn a_failed_stream_is_connected_to_the_next_connect() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_fails(remote, Error::ConnectionReset);
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EISCONN));
}

#[test]
fn bytes_to_a_peer_that_has_closed_bring_a_reset() {
    let mut rig = Rig::new();
    let listener = rig.listener("127.0.0.1:80", 1);
    let fd = rig.tcp();
    rig.connect(fd, "127.0.0.1:80");
    assert_eq!(rig.reply_at_rest(), DONE);
    let accepted = rig.accept_untrapped(listener).unwrap();
    rig.close(accepted);
    rig.settle();
    assert_eq!(rig.read(fd, 1), Ok(Vec::new()));
    assert_eq!(rig.write(fd, b"too late"), Ok(8));
    rig.settle();
    assert_eq!(rig.so_error(fd), uapi::EPIPE);
    assert_eq!(rig.write(fd, b"later still"), Err(uapi::EPIPE));
}

#[test]
fn a_small_budget_still_moves_bytes_and_is_kept() {
    let budget = Budget { sockets: 10, process_sockets: 10, memory: 1 << 30, bytes: 4096 };
    let mut rig = Rig::with(Box::new(crate::route::Always(crate::route::Route::Stack)), budget);
    let (fd, remote) = rig.connected();
    let n = rig.net().remote_sends(remote, &pattern(16_384)).unwrap();
    rig.settle();
    assert!(rig.core.held <= 4096, "{}", rig.core.held);
    assert_eq!(rig.read_all(fd).0, pattern(n));
    assert_eq!(rig.core.held, 0);
}

#[test]
fn bytes_that_are_held_are_given_back_when_the_stream_fails() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.net().remote_sends(remote, &pattern(16_384)).unwrap();
    rig.settle();
    assert!(rig.core.held > 0);
    rig.net().window = 0;
    assert_eq!(rig.write(fd, b"x"), Ok(1));
    rig.remote_fails(remote, Error::ConnectionReset);
    // The program's own bytes find that out.
    rig.settle();
    let _ = rig.read_all(fd);
    rig.close(fd);
    rig.assert_nothing_left();
}

#[test]
fn two_ends_in_one_sandbox_talk_to_each_other() {
    let mut rig = Rig::new();
    let listener = rig.listener("127.0.0.1:80", 1);
    let fd = rig.tcp();
    rig.connect(fd, "127.0.0.1:80");
    assert_eq!(rig.reply_at_rest(), DONE);
    let accepted = rig.accept_untrapped(listener).unwrap();
    rig.write_all(fd, b"question");
    assert_eq!(rig.read(accepted, 20), Ok(b"question".to_vec()));
    rig.write_all(accepted, b"answer");
    assert_eq!(rig.read(fd, 20), Ok(b"answer".to_vec()));
}

#[test]
fn two_ends_in_one_sandbox_move_more_than_the_stack_holds() {
    let mut rig = Rig::new();
    rig.net().window = 64;
    let listener = rig.listener("127.0.0.1:80", 1);
    let fd = rig.tcp();
    rig.connect(fd, "127.0.0.1:80");
    assert_eq!(rig.reply_at_rest(), DONE);
    let accepted = rig.accept_untrapped(listener).unwrap();
    assert_eq!(rig.write(fd, &pattern(5000)), Ok(5000));
    rig.settle();
    assert_eq!(rig.read(accepted, 6000), Ok(pattern(5000)));
}

#[test]
fn an_event_of_a_socket_that_is_gone_does_not_reach_the_next_one() {
    let mut rig = Rig::new();
    let (fd, _) = rig.connected();
    let gone = rig.id(fd);
    rig.close(fd);
    rig.settle();
    let (fd, remote) = rig.connected();
    let next = rig.id(fd);
    assert_ne!(gone, next);
    assert_eq!(crate::SocketId::from_bits(next.to_bits()), next);
    rig.core.end_ready(gone, Events::HUP | Events::RDHUP | Events::IN);
    rig.core.end_ready(crate::SocketId::from_bits(u64::MAX >> 1), Events::HUP);
    assert_eq!(rig.core.sockets(), 1);
    rig.write(fd, b"still").unwrap();
    assert_eq!(rig.remote_reads(remote), b"still");
}

//! Trapped data calls on streams that go on until all is done.

use netgraft_plugin::Error;

use super::fake::rig::{DONE, MAIN, OTHER, Rig, fails};
use super::fake::world::Reply;
use crate::uapi;

const PEER: &str = "198.51.100.1:53";

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn a_receive_waits_for_all_that_it_asks_for() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_sends(remote, b"one");
    assert_eq!(rig.recvfrom(fd, 8, uapi::MSG_WAITALL), Reply::Waits);
    let waits = rig.last;
    rig.remote_sends(remote, b"two");
    assert_eq!(rig.reply(waits), Reply::Waits);
    rig.remote_sends(remote, b"three");
    assert_eq!(rig.reply(waits), Reply::Is(8));
    assert_eq!(rig.data(8), b"onetwoth");
    assert_eq!(rig.read(fd, 9), Ok(b"ree".to_vec()));
}

#[test]
fn more_than_a_surrogate_holds_is_received_at_once() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    let sent = pattern(100_000);
    assert_eq!(rig.recvfrom(fd, sent.len(), uapi::MSG_WAITALL), Reply::Waits);
    let waits = rig.last;
    let mut at = 0;
    while at < sent.len() {
        at += rig.net().remote_sends(remote, &sent[at..]).unwrap();
        rig.settle();
    }
    assert_eq!(rig.reply(waits), Reply::Is(sent.len() as i64));
    assert!(rig.data(sent.len()) == sent);
}

#[test]
fn a_receive_that_waits_for_all_gives_what_there_is_at_an_end() {
    for how in ["end", "failure", "shutdown", "time", "nonblocking"] {
        let mut rig = Rig::new();
        let (fd, remote) = rig.connected();
        rig.set_timeout(fd, uapi::SO_RCVTIMEO, 50);
        rig.remote_sends(remote, b"some");
        let flags = uapi::MSG_WAITALL | if how == "nonblocking" { uapi::MSG_DONTWAIT } else { 0 };
        let first = rig.recvfrom(fd, 8, flags);
        let waits = rig.last;
        assert_eq!(first, if how == "nonblocking" { Reply::Is(4) } else { Reply::Waits }, "{how}");
        match how {
            "end" => rig.remote_ends(remote),
            "failure" => rig.remote_fails(remote, Error::TimedOut),
            "shutdown" => assert_eq!(rig.as_thread(OTHER, |rig| rig.shutdown(fd, uapi::SHUT_RD)), DONE),
            "time" => rig.pass(60),
            _ => {}
        }
        rig.settle();
        assert_eq!((rig.reply(waits), rig.data(4)), (Reply::Is(4), b"some".to_vec()), "{how}");
        match how {
            "failure" => assert_eq!(rig.so_error(fd), Error::TimedOut.errno()),
            "time" | "nonblocking" => assert_eq!(rig.read(fd, 9), Err(uapi::EAGAIN)),
            _ => assert_eq!(rig.read(fd, 9), Ok(Vec::new()), "{how}"),
        }
    }
}

#[test]
fn what_is_only_looked_at_is_not_waited_for() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_sends(remote, b"some");
    assert_eq!(rig.recvfrom(fd, 8, uapi::MSG_WAITALL | uapi::MSG_PEEK), Reply::Is(4));
    assert_eq!(rig.recvfrom(fd, 8, uapi::MSG_WAITALL | uapi::MSG_PEEK), Reply::Is(4));
    assert_eq!(rig.read(fd, 9), Ok(b"some".to_vec()));
}

#[test]
fn a_send_waits_until_all_is_taken() {
    let mut rig = Rig::new();
    rig.net().window = 1000;
    let (fd, remote) = rig.connected();
    let data = pattern(200_000);
    assert_eq!(rig.sendto(fd, &data, 0, Some(PEER)), Reply::Waits);
    let (waits, mut got) = (rig.last, Vec::new());
    while rig.reply(waits) == Reply::Waits {
        let part = rig.remote_reads(remote);
        assert!(!part.is_empty(), "it has stopped at {}", got.len());
        got.extend(part);
    }
    assert_eq!(rig.reply(waits), Reply::Is(data.len() as i64));
    while got.len() < data.len() {
        got.extend(rig.remote_reads(remote));
    }
    assert!(got == data);
}

#[test]
fn a_send_that_does_not_wait_takes_what_there_is_room_for() {
    let mut rig = Rig::new();
    rig.net().window = 1000;
    let (fd, _) = rig.connected();
    let data = pattern(200_000);
    let Reply::Is(sent) = rig.sendto(fd, &data, uapi::MSG_DONTWAIT, Some(PEER)) else { panic!("it waits") };
    assert!((1..200_000).contains(&sent), "{sent}");
}

#[test]
fn a_send_that_waits_tells_how_far_it_came() {
    for how in ["failure", "time"] {
        let mut rig = Rig::new();
        rig.net().window = 1000;
        let (fd, remote) = rig.connected();
        rig.set_timeout(fd, uapi::SO_SNDTIMEO, 50);
        assert_eq!(rig.sendto(fd, &pattern(200_000), 0, Some(PEER)), Reply::Waits);
        let waits = rig.last;
        match how {
            "failure" => rig.remote_fails(remote, Error::TimedOut),
            _ => rig.pass(60),
        }
        let Reply::Is(sent) = rig.reply(waits) else { panic!("{how}: {:?}", rig.reply(waits)) };
        assert!((1..200_000).contains(&sent), "{how}: {sent}");
    }
}

/// A signal interrupts the call, and the kernel makes it again: what was taken stays taken.
#[test]
fn a_call_that_is_made_again_goes_on_where_it_was() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_sends(remote, b"one");
    assert_eq!(rig.recvfrom(fd, 6, uapi::MSG_WAITALL), Reply::Waits);
    let args = rig.args();
    rig.world_mut().interrupt(MAIN);
    rig.remote_sends(remote, b"tw");
    assert_eq!(rig.call(uapi::SYS_recvfrom, args), Reply::Waits);
    let waits = rig.last;
    rig.remote_sends(remote, b"o");
    assert_eq!((rig.reply(waits), rig.data(6)), (Reply::Is(6), b"onetwo".to_vec()));

    rig.net().window = 1000;
    let (fd, remote) = rig.connected();
    let data = pattern(100_000);
    assert_eq!(rig.sendto(fd, &data, 0, Some(PEER)), Reply::Waits);
    let (args, mut got, mut last) = (rig.args(), Vec::new(), rig.last);
    for _ in 0..100_000 {
        got.extend(rig.remote_reads(remote));
        if rig.reply(last) != Reply::Waits {
            break;
        }
        rig.world_mut().interrupt(MAIN);
        rig.call(uapi::SYS_sendto, args);
        last = rig.last;
    }
    assert_eq!(rig.reply(last), Reply::Is(data.len() as i64));
    while got.len() < data.len() {
        got.extend(rig.remote_reads(remote));
    }
    assert!(got == data);
}

#[test]
fn another_call_of_the_thread_does_not_go_on() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_sends(remote, b"one");
    assert_eq!(rig.recvfrom(fd, 6, uapi::MSG_WAITALL), Reply::Waits);
    let args = rig.args();
    rig.world_mut().interrupt(MAIN);
    assert_eq!(rig.getsockname(fd), DONE);
    rig.remote_sends(remote, b"twotwo");
    assert_eq!(rig.call(uapi::SYS_recvfrom, args), Reply::Is(6));
    assert_eq!(rig.data(6), b"twotwo");
    assert_eq!(rig.recvfrom(fd, 6, uapi::MSG_DONTWAIT), fails(uapi::EAGAIN));
}

//! What a later sentry is told.

use super::fake::rig::{DONE, REMOTE, Rig, addr, fails};
use crate::journal::{Kept, Role};
use crate::{Cookie, uapi};

fn rig() -> Rig {
    let rig = Rig::new();
    rig.world_mut().notes.is_kept = true;
    rig
}

fn last(rig: &Rig) -> Kept {
    rig.world().notes.kept.last().unwrap().clone()
}

#[test]
fn a_listener_is_noted_before_its_call_is_answered() {
    let mut rig = rig();
    let fd = rig.listener("127.0.0.1:80", 5);
    let kept = last(&rig);
    assert_eq!((kept.cookie, kept.address), (Cookie(rig.file(fd)), addr("127.0.0.1:80")));
    assert!(matches!(kept.role, Role::Listener(_, 5)), "{kept:?}");
    assert_eq!(kept.seen.map(|seen| seen.fd), Some(fd));
}

#[test]
fn a_new_backlog_replaces_what_was_noted() {
    let mut rig = rig();
    let fd = rig.listener("127.0.0.1:80", 5);
    let Role::Listener(name, _) = last(&rig).role else { panic!("no listener") };
    assert_eq!(rig.listen(fd, 7), DONE);
    assert_eq!(last(&rig).role, Role::Listener(name, 7));
}

#[test]
fn a_datagram_socket_is_noted_with_its_address_and_its_peer() {
    let mut rig = rig();
    let fd = rig.udp();
    assert_eq!((last(&rig).role, last(&rig).peer), (Role::Datagrams, None));
    rig.bind(fd, "127.0.0.1:1000");
    assert_eq!(last(&rig).address, addr("127.0.0.1:1000"));
    rig.connect(fd, REMOTE);
    assert_eq!(last(&rig).peer, Some(addr(REMOTE)));
    rig.disconnect(fd);
    assert_eq!(last(&rig).peer, None);
}

#[test]
fn streams_are_not_noted() {
    let mut rig = rig();
    rig.tcp();
    rig.connected();
    assert!(rig.world().notes.kept.is_empty());
}

#[test]
fn calls_that_name_no_address_are_not_noted() {
    let mut rig = rig();
    let fd = rig.udp();
    let notes = rig.world().notes.kept.len();
    rig.sendto(fd, b"x", 0, Some(REMOTE));
    rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_BROADCAST, 1);
    rig.getsockname(fd);
    assert_eq!(rig.world().notes.kept.len(), notes);
}

#[test]
fn a_socket_that_is_closed_is_forgotten() {
    let mut rig = rig();
    let (udp, listener) = (rig.udp(), rig.listener("127.0.0.1:80", 5));
    let cookies = [Cookie(rig.file(udp)), Cookie(rig.file(listener))];
    rig.close(udp);
    rig.close(listener);
    rig.settle();
    assert_eq!(rig.world().notes.forgotten, cookies);
}

#[test]
fn a_listener_that_is_shut_down_is_forgotten_once() {
    let mut rig = rig();
    let fd = rig.listener("127.0.0.1:80", 5);
    rig.shutdown(fd, uapi::SHUT_RDWR);
    rig.close(fd);
    rig.settle();
    assert_eq!(rig.world().notes.forgotten.len(), 1);
}

#[test]
fn streams_that_end_are_not_forgotten() {
    let mut rig = rig();
    let (fd, _) = rig.connected();
    rig.close(fd);
    rig.settle();
    assert!(rig.world().notes.forgotten.is_empty());
}

#[test]
fn a_call_that_fails_changes_no_note() {
    let mut rig = rig();
    let fd = rig.udp();
    rig.bind(fd, "127.0.0.1:1000");
    let before = last(&rig);
    assert_eq!(rig.bind(fd, "127.0.0.1:1001"), fails(uapi::EINVAL));
    assert_eq!(last(&rig), before);
}

#[test]
fn without_a_reader_nothing_is_noted() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 5);
    rig.close(fd);
    rig.settle();
    let notes = &rig.world().notes;
    assert!(notes.kept.is_empty() && notes.forgotten.is_empty());
}

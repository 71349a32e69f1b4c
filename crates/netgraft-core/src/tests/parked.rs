//! Calls that wait: time-outs, signals, deaths, thread numbers that come again.

use netgraft_plugin::Instant;

use super::fake::rig::{DONE, MAIN, OTHER, REMOTE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::ProgramId;
use crate::uapi;

const HERE: &str = "127.0.0.1:1000";

fn bound(rig: &mut Rig) -> i32 {
    let fd = rig.udp();
    assert_eq!(rig.bind(fd, HERE), DONE);
    rig.settle();
    fd
}

#[test]
fn the_core_sleeps_until_the_first_deadline() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    assert_eq!(rig.core.next_deadline(), None);
    rig.set_timeout(fd, uapi::SO_RCVTIMEO, 300);
    rig.recvfrom(fd, 1, 0);
    rig.set_timeout_as(OTHER, fd, uapi::SO_RCVTIMEO, 200);
    rig.as_thread(OTHER, |rig| rig.recvfrom(fd, 1, 0));
    rig.settle();
    assert_eq!(rig.core.next_deadline(), Some(Instant::from_millis(1200)));
    rig.pass(200);
    assert_eq!(rig.core.next_deadline(), Some(Instant::from_millis(1300)));
    rig.pass(100);
    assert_eq!(rig.core.next_deadline(), None);
}

#[test]
fn the_stacks_own_deadline_counts_and_has_it_polled() {
    let mut rig = Rig::new();
    bound(&mut rig);
    rig.net().deadline = Some(Instant::from_millis(1500));
    assert_eq!(rig.core.next_deadline(), Some(Instant::from_millis(1500)));
    let polls = rig.net().polls;
    rig.now = Instant::from_millis(1500);
    rig.core.set_time(crate::Time { now: rig.now, wall: std::time::Duration::ZERO });
    rig.core.run();
    assert_eq!(rig.net().polls, polls + 1);
}

#[test]
fn a_core_at_rest_does_not_poll_the_stack() {
    let mut rig = Rig::new();
    bound(&mut rig);
    let polls = rig.net().polls;
    for _ in 0..3 {
        rig.core.run();
    }
    assert_eq!(rig.net().polls, polls);
}

#[test]
fn a_thread_that_makes_another_call_waits_no_more() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.recvfrom(fd, 1, 0);
    rig.world_mut().interrupt(MAIN);
    rig.getsockname(fd);
    assert_eq!(rig.core.parked.len(), 0);
}

#[test]
fn a_call_that_was_interrupted_while_it_waited_can_be_made_again() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.recvfrom(fd, 10, 0);
    let args = rig.args();
    rig.world_mut().interrupt(MAIN);
    assert!(rig.net().arrives(addr(REMOTE), addr(HERE), b"kept"));
    rig.settle();
    assert_eq!(rig.call(uapi::SYS_recvfrom, args), Reply::Is(4));
}

#[test]
fn a_dead_thread_gets_no_answer_and_takes_nothing() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.as_thread(OTHER, |rig| rig.recvfrom(fd, 10, 0));
    let dead = rig.last;
    rig.world_mut().kill(OTHER);
    assert!(rig.net().arrives(addr(REMOTE), addr(HERE), b"kept"));
    rig.settle();
    assert_eq!(rig.reply(dead), Reply::Interrupted);
    assert_eq!(rig.recvfrom(fd, 10, 0), Reply::Is(4));
}

#[test]
fn a_new_thread_with_the_number_of_a_dead_one_is_another() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.as_thread(OTHER, |rig| rig.recvfrom(fd, 10, 0));
    rig.world_mut().kill(OTHER);
    rig.world_mut().add_thread(OTHER, MAIN, ProgramId(0));
    assert!(rig.net().arrives(addr(REMOTE), addr(HERE), b"x"));
    rig.settle();
    assert_eq!(rig.world().threads[&OTHER].call, None, "it has not asked for anything");
    assert_eq!(rig.read(fd, 10), Ok(b"x".to_vec()));
}

#[test]
fn a_deadline_of_a_call_that_is_over_does_not_end_the_next_one() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.set_timeout(fd, uapi::SO_RCVTIMEO, 100);
    rig.recvfrom(fd, 10, 0);
    rig.world_mut().interrupt(MAIN);
    rig.pass(50);
    assert_eq!(rig.recvfrom(fd, 10, 0), Reply::Waits);
    let waits = rig.last;
    rig.pass(99);
    assert_eq!(rig.reply(waits), Reply::Waits);
    rig.pass(1);
    assert_eq!(rig.reply(waits), fails(uapi::EAGAIN));
}

#[test]
fn a_call_that_waits_again_keeps_its_first_deadline() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    rig.set_timeout(fd, uapi::SO_SNDTIMEO, 100);
    rig.net().datagram_room = 0;
    assert_eq!(rig.sendto(fd, b"x", 0, Some("198.51.100.1:53")), Reply::Waits);
    let waits = rig.last;
    rig.pass(60);
    rig.net().open_datagram_room(0);
    let handle = rig.handle(fd);
    rig.net().notify(handle.0);
    rig.core.retry_sends(rig.id(fd));
    assert_eq!(rig.reply(waits), Reply::Waits);
    rig.pass(39);
    assert_eq!(rig.reply(waits), Reply::Waits);
    rig.pass(1);
    assert_eq!(rig.reply(waits), fails(uapi::EAGAIN));
}

#[test]
fn a_socket_that_is_closed_ends_the_calls_that_wait_for_it() {
    let mut rig = Rig::new();
    let fd = bound(&mut rig);
    rig.recvfrom(fd, 10, 0);
    let waits = rig.last;
    rig.as_thread(OTHER, |rig| rig.close(fd));
    rig.settle();
    assert_eq!(rig.reply(waits), fails(uapi::EBADF));
    rig.assert_nothing_left();
}

#[test]
fn a_process_that_dies_takes_its_sockets_along() {
    let mut rig = Rig::new();
    let (_stream, remote) = rig.connected();
    let _connecting = rig.connecting();
    let _listener = rig.listener("127.0.0.1:80", 1);
    let _fresh = rig.tcp();
    let udp = bound(&mut rig);
    rig.recvfrom(udp, 10, 0);
    rig.world_mut().kill(MAIN);
    rig.world_mut().kill(OTHER);
    rig.settle();
    assert!(rig.net().remote_sees_end(remote));
    rig.core.stop();
    assert_eq!(rig.core.sockets(), 0);
    assert_eq!(rig.core.parked.len(), 0);
}

#[test]
fn a_stop_sends_what_was_written_and_ends_the_stack() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    rig.connect(fd, "198.51.100.1:53");
    rig.write(fd, b"last").unwrap();
    rig.core.stop();
    assert_eq!(rig.net().sent.len(), 1);
    assert!(rig.net().is_destroyed);
    assert_eq!(rig.core.sockets(), 0);
}

#[test]
fn last_bytes_are_seen_until_they_have_left() {
    let mut rig = Rig::new();
    rig.net().window = 10;
    let (fd, remote) = rig.connected();
    assert!(!rig.core.has_last_bytes());
    rig.write(fd, &[7; 100]).unwrap();
    rig.settle();
    assert!(!rig.remote_reads(remote).is_empty());
    assert!(!rig.core.has_last_bytes());
    rig.write(fd, &[7; 100]).unwrap();
    assert!(rig.core.has_last_bytes());
}

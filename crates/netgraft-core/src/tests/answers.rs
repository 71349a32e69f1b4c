//! Answers that their callers did not get.

use super::fake::rig::{DONE, MAIN, OTHER, REMOTE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::ProgramId;
use crate::uapi;

/// A call that is done but whose caller is interrupted before it is answered.
fn lost(rig: &mut Rig, number: i64, args: [u64; 6]) -> [u64; 6] {
    rig.world_mut().limits.interrupts_answer = true;
    assert_eq!(rig.call(number, args), Reply::Interrupted);
    rig.world_mut().limits.interrupts_answer = false;
    args
}

fn sendto(rig: &mut Rig, fd: i32) -> [u64; 6] {
    let data = rig.put(b"once");
    let (at, len) = rig.put_addr(addr("198.51.100.1:53"));
    [fd as u64, data, 4, 0, at, len]
}

#[test]
fn a_call_that_is_made_again_gets_its_lost_answer_and_is_not_done_twice() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let args = sendto(&mut rig, fd);
    lost(&mut rig, uapi::SYS_sendto, args);
    assert_eq!(rig.call(uapi::SYS_sendto, args), Reply::Is(4));
    assert_eq!(rig.net().sent.len(), 1);
    assert_eq!(rig.call(uapi::SYS_sendto, args), Reply::Is(4));
    assert_eq!(rig.net().sent.len(), 2, "the next one is a new one");
}

#[test]
fn a_lost_errno_is_answered_again() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    let (at, len) = rig.put_addr(addr("[::1]:80"));
    let args = [fd as u64, at, len, 0, 0, 0];
    lost(&mut rig, uapi::SYS_connect, args);
    assert_eq!(rig.call(uapi::SYS_connect, args), fails(uapi::EAFNOSUPPORT));
}

#[test]
fn a_datagram_that_was_taken_for_a_caller_which_is_interrupted_is_in_place_when_it_calls_again() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    rig.bind(fd, "127.0.0.1:1000");
    assert!(rig.net().arrives(addr(REMOTE), addr("127.0.0.1:1000"), b"taken"));
    rig.settle();
    rig.world_mut().limits.interrupts_write = true;
    assert_eq!(rig.recvfrom(fd, 10, 0), Reply::Interrupted);
    rig.world_mut().limits.interrupts_write = false;
    let args = rig.args();
    assert_eq!(rig.call(uapi::SYS_recvfrom, args), Reply::Is(5));
    assert_eq!((rig.data(5), rig.out()), (b"taken".to_vec(), Some(addr(REMOTE))));
}

#[test]
fn bytes_that_were_taken_for_a_caller_which_is_interrupted_are_in_place_when_it_calls_again() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_sends(remote, b"taken");
    rig.world_mut().limits.interrupts_write = true;
    assert_eq!(rig.recvfrom(fd, 10, 0), Reply::Interrupted);
    rig.world_mut().limits.interrupts_write = false;
    let args = rig.args();
    assert_eq!(rig.call(uapi::SYS_recvfrom, args), Reply::Is(5));
    assert_eq!(rig.data(5), b"taken");
}

#[test]
fn another_call_of_the_thread_drops_a_lost_answer() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let args = sendto(&mut rig, fd);
    lost(&mut rig, uapi::SYS_sendto, args);
    rig.getsockname(fd);
    assert_eq!(rig.call(uapi::SYS_sendto, args), Reply::Is(4));
    assert_eq!(rig.net().sent.len(), 2);
}

#[test]
fn other_arguments_are_another_call() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let args = sendto(&mut rig, fd);
    lost(&mut rig, uapi::SYS_sendto, args);
    let other = sendto(&mut rig, fd);
    assert_eq!(rig.call(uapi::SYS_sendto, other), Reply::Is(4));
    assert_eq!(rig.net().sent.len(), 2);
}

#[test]
fn another_thread_does_not_get_a_lost_answer() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let args = sendto(&mut rig, fd);
    lost(&mut rig, uapi::SYS_sendto, args);
    assert_eq!(rig.as_thread(OTHER, |rig| rig.call(uapi::SYS_sendto, args)), Reply::Is(4));
    assert_eq!(rig.net().sent.len(), 2);
}

#[test]
fn a_new_thread_with_the_same_number_does_not_get_a_lost_answer() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let args = sendto(&mut rig, fd);
    rig.as_thread(OTHER, |rig| lost(rig, uapi::SYS_sendto, args));
    rig.world_mut().kill(OTHER);
    rig.world_mut().add_thread(OTHER, MAIN, ProgramId(0));
    assert_eq!(rig.as_thread(OTHER, |rig| rig.call(uapi::SYS_sendto, args)), Reply::Is(4));
    assert_eq!(rig.net().sent.len(), 2);
}

#[test]
fn a_socket_whose_caller_was_interrupted_never_was() {
    let mut rig = Rig::new();
    for kind in [uapi::SOCK_STREAM, uapi::SOCK_DGRAM] {
        rig.world_mut().limits.interrupts_inject = true;
        assert_eq!(rig.try_socket(uapi::AF_INET, kind, 0), Reply::Interrupted);
        rig.world_mut().limits.interrupts_inject = false;
        rig.assert_nothing_left();
    }
}

#[test]
fn a_socket_for_which_the_callers_table_is_full_never_was() {
    let mut rig = Rig::new();
    rig.world_mut().limits.descriptors = 0;
    for kind in [uapi::SOCK_STREAM, uapi::SOCK_DGRAM] {
        assert_eq!(rig.try_socket(uapi::AF_INET, kind, 0), fails(uapi::EMFILE));
        rig.assert_nothing_left();
    }
}

#[test]
fn a_call_whose_caller_is_gone_before_it_is_served_does_nothing() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let args = sendto(&mut rig, fd);
    let caller = rig.begin(uapi::SYS_sendto, args);
    rig.world_mut().interrupt(MAIN);
    rig.core.call(&caller);
    assert_eq!(rig.reply(caller.id), Reply::Interrupted);
    assert_eq!(rig.net().sent.len(), 0);
    // Nothing was done for it: the thread can make the same call again.
    assert_eq!(rig.call(uapi::SYS_sendto, args), Reply::Is(4));
    assert_eq!(rig.net().sent.len(), 1);
}

#[test]
fn a_socket_whose_caller_is_gone_before_it_is_served_is_made_for_the_next_call() {
    let mut rig = Rig::new();
    let args = [uapi::AF_INET as u64, uapi::SOCK_DGRAM as u64, 0, 0, 0, 0];
    let caller = rig.begin(uapi::SYS_socket, args);
    rig.world_mut().interrupt(MAIN);
    rig.core.call(&caller);
    assert!(matches!(rig.call(uapi::SYS_socket, args), Reply::Is(_)));
    assert_eq!(rig.core.sockets(), 1);
}

#[test]
fn threads_that_die_with_lost_answers_do_not_pile_up() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    let args = sendto(&mut rig, fd);
    for tid in 1000..2000 {
        rig.world_mut().add_thread(tid, MAIN, ProgramId(0));
        rig.as_thread(tid, |rig| lost(rig, uapi::SYS_sendto, args));
        rig.world_mut().kill(tid);
    }
    assert!(rig.core.answers.remembered() <= 256);
}

#[test]
fn a_call_that_is_not_trapped_fails_with_enosys() {
    let mut rig = Rig::new();
    assert_eq!(rig.call(0, [0; 6]), fails(uapi::ENOSYS));
}

#[test]
fn each_call_is_counted() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.connect(fd, REMOTE);
    assert_eq!(rig.core.counts().calls, 2);
    assert_eq!(rig.core.counts().sockets, 1);
}

#[test]
fn a_descriptor_that_cannot_be_looked_at_is_not_left_to_the_kernel() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.world_mut().limits.no_room = true;
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::ENFILE));
    assert_eq!(rig.getsockname(fd), fails(uapi::ENFILE));
    rig.world_mut().limits.no_room = false;
    assert_eq!(rig.getsockname(fd), DONE);
}

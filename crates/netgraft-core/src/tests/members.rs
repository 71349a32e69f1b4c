//! Who belongs to a sandbox: several programs on one core, and processes that have left its network.

use netgraft_plugin::Events;

use super::fake::rig::{DONE, MAIN, REMOTE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::ProgramId;
use crate::program::Privilege;
use crate::uapi;

/// A thread of a second program.
const GUEST: u32 = 500;

fn rig() -> Rig {
    let rig = Rig::new();
    rig.world_mut().add_process(GUEST);
    rig.world_mut().add_thread(GUEST, GUEST, ProgramId(1));
    rig
}

#[test]
fn two_programs_of_a_sandbox_talk_to_each_other() {
    let mut rig = rig();
    let listener = rig.listener("127.0.0.1:80", 1);
    let fd = rig.as_thread(GUEST, |rig| {
        let fd = rig.tcp();
        rig.connect(fd, "127.0.0.1:80");
        assert_eq!(rig.reply_at_rest(), DONE);
        rig.write_all(fd, b"question");
        fd
    });
    let accepted = rig.accept_untrapped(listener).unwrap();
    assert_eq!(rig.read(accepted, 20), Ok(b"question".to_vec()));
    rig.write_all(accepted, b"answer");
    assert_eq!(rig.as_thread(GUEST, |rig| rig.read(fd, 20)), Ok(b"answer".to_vec()));
}

#[test]
fn the_same_descriptor_number_of_two_programs_means_two_sockets() {
    let mut rig = rig();
    let own = rig.tcp();
    let other = rig.as_thread(GUEST, Rig::tcp);
    assert_eq!(own, other);
    assert_eq!(rig.bind(own, "127.0.0.1:80"), DONE);
    rig.as_thread(GUEST, |rig| {
        assert_eq!(rig.bind(other, "127.0.0.1:81"), DONE);
        rig.getsockname(other);
        assert_eq!(rig.out(), Some(addr("127.0.0.1:81")));
    });
    rig.getsockname(own);
    assert_eq!(rig.out(), Some(addr("127.0.0.1:80")));
}

#[test]
fn a_socket_that_is_passed_to_another_program_is_the_same_socket() {
    let mut rig = rig();
    let (fd, remote) = rig.connected();
    let file = rig.file(fd);
    let passed = rig.world_mut().install(GUEST, file, None, false).unwrap();
    rig.close(fd);
    rig.settle();
    rig.as_thread(GUEST, |rig| {
        assert_eq!(rig.getpeername(passed), DONE);
        assert_eq!(rig.out(), Some(addr(REMOTE)));
        rig.write(passed, b"still").unwrap();
    });
    assert_eq!(rig.remote_reads(remote), b"still");
}

#[test]
fn a_program_that_ends_leaves_the_other_its_sockets() {
    let mut rig = rig();
    let (fd, remote) = rig.connected();
    rig.as_thread(GUEST, |rig| {
        rig.listener("127.0.0.1:80", 1);
        let udp = rig.udp();
        rig.recvfrom(udp, 1, 0);
    });
    rig.world_mut().kill(GUEST);
    rig.settle();
    assert_eq!(rig.core.sockets(), 1);
    assert_eq!(rig.core.parked.len(), 0);
    rig.write(fd, b"still").unwrap();
    assert_eq!(rig.remote_reads(remote), b"still");
}

#[test]
fn each_program_is_answered_its_own_calls() {
    let mut rig = rig();
    let fd = rig.udp();
    rig.bind(fd, "127.0.0.1:1000");
    rig.recvfrom(fd, 10, 0);
    let own = rig.last;
    let other = rig.as_thread(GUEST, |rig| {
        let fd = rig.udp();
        rig.bind(fd, "127.0.0.1:1001");
        rig.recvfrom(fd, 10, 0);
        rig.last
    });
    assert!(rig.net().arrives(addr(REMOTE), addr("127.0.0.1:1001"), b"guest"));
    rig.settle();
    assert_eq!((rig.reply(own), rig.reply(other)), (Reply::Waits, Reply::Is(5)));
}

#[test]
fn a_process_in_another_network_namespace_gets_the_kernels_sockets() {
    let mut rig = rig();
    rig.as_thread(GUEST, |rig| {
        for number in [uapi::SYS_setns, uapi::SYS_unshare, uapi::SYS_clone] {
            assert_eq!(rig.call(number, [0x4000_0000; 6]), Reply::Kernel, "the kernel does it");
        }
        assert!(matches!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), Reply::Is(_)), "it has failed");
    });
    rig.world_mut().threads.get_mut(&GUEST).unwrap().in_sandbox = false;
    rig.as_thread(GUEST, |rig| {
        for kind in [uapi::SOCK_STREAM, uapi::SOCK_DGRAM, uapi::SOCK_RAW] {
            assert_eq!(rig.try_socket(uapi::AF_INET, kind, 0), Reply::Kernel);
        }
    });
    assert_eq!(rig.core.sockets(), 1);
}

#[test]
fn a_process_that_has_left_keeps_the_sockets_that_it_had() {
    let mut rig = rig();
    let (fd, remote) = rig.connected();
    rig.world_mut().threads.get_mut(&MAIN).unwrap().in_sandbox = false;
    assert_eq!(rig.getpeername(fd), DONE);
    assert_eq!(rig.out(), Some(addr(REMOTE)));
    rig.write(fd, b"still").unwrap();
    assert_eq!(rig.remote_reads(remote), b"still");
}

#[test]
fn a_raw_socket_of_the_stack_needs_the_capability() {
    let mut rig = rig();
    let raw = |rig: &mut Rig| rig.try_socket(uapi::AF_INET, uapi::SOCK_RAW, uapi::IPPROTO_ICMP);
    assert_eq!(raw(&mut rig), fails(uapi::EPERM));
    rig.world_mut().threads.get_mut(&MAIN).unwrap().privileges.push(Privilege::NetRaw);
    let Reply::Is(fd) = raw(&mut rig) else { panic!("no socket") };
    assert_eq!(rig.poll(fd as i32), Events::OUT);
    assert_eq!(rig.get_int(fd as i32, uapi::SOL_SOCKET, uapi::SO_TYPE), Ok(uapi::SOCK_RAW));
}

//! What a sandbox and each of its processes may use: who asks for more is told, and gets on when there is room.

use super::fake::rig::{MAIN, OTHER, REMOTE, Rig, fails};
use super::fake::world::Reply;
use crate::program::ProgramId;
use crate::route::{Always, Route};
use crate::{Budget, uapi};

/// A process beside the one of [`MAIN`] and [`OTHER`].
const APART: u32 = 200;

fn rig(budget: Budget) -> Rig {
    let rig = Rig::with(Box::new(Always(Route::Stack)), budget);
    rig.world_mut().add_process(APART);
    rig.world_mut().add_thread(APART, APART, ProgramId(0));
    rig
}

fn budget(sockets: usize, process_sockets: usize) -> Budget {
    Budget { sockets, process_sockets, memory: 1 << 20, bytes: 1 << 20 }
}

fn tcp(rig: &mut Rig, tid: u32) -> Reply {
    rig.as_thread(tid, |rig| rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0))
}

fn udp(rig: &mut Rig, tid: u32) -> Reply {
    rig.as_thread(tid, |rig| rig.try_socket(uapi::AF_INET, uapi::SOCK_DGRAM, 0))
}

#[test]
fn a_process_has_its_share_and_leaves_the_rest_to_others() {
    let mut rig = rig(budget(4, 3));
    let first = rig.tcp();
    rig.udp();
    // Threads are one process.
    assert!(matches!(tcp(&mut rig, OTHER), Reply::Is(_)));
    assert_eq!(tcp(&mut rig, MAIN), fails(uapi::EMFILE));
    assert_eq!(udp(&mut rig, OTHER), fails(uapi::EMFILE));
    assert!(matches!(udp(&mut rig, APART), Reply::Is(_)));
    assert_eq!(udp(&mut rig, APART), fails(uapi::ENFILE));
    rig.close(first);
    rig.pass(100);
    assert!(matches!(tcp(&mut rig, MAIN), Reply::Is(_)));
}

#[test]
fn connections_are_their_listeners_and_wait_for_room() {
    let mut rig = rig(budget(10, 2));
    let listener = rig.listener("0.0.0.0:80", 8);
    rig.dial("192.0.2.1:80", "198.51.100.7:1000");
    rig.dial("192.0.2.1:80", "198.51.100.7:1001");
    rig.settle();
    let first = rig.accept_untrapped(listener).unwrap();
    assert_eq!(rig.accept_untrapped(listener), Err(uapi::EAGAIN));
    rig.close(first);
    rig.settle();
    rig.pass(20);
    rig.pass(20);
    assert!(rig.accept_untrapped(listener).is_ok());
}

#[test]
fn without_memory_nothing_new_comes_and_what_is_sent_waits() {
    let mut rig = rig(budget(10, 10));
    let (fd, remote) = rig.connected();
    rig.core.note_memory(1 << 20);
    assert!(rig.core.is_short());
    assert_eq!(tcp(&mut rig, MAIN), fails(uapi::ENOBUFS));
    assert_eq!(udp(&mut rig, MAIN), fails(uapi::ENOBUFS));
    assert_eq!(rig.write(fd, b"later"), Ok(5));
    rig.settle();
    assert!(rig.remote_reads(remote).is_empty());
    // What frees memory goes on.
    rig.remote_sends(remote, b"now");
    assert_eq!(rig.read(fd, 8), Ok(b"now".to_vec()));
    rig.core.note_memory(1000);
    rig.settle();
    assert_eq!(rig.remote_reads(remote), b"later");
    assert!(matches!(tcp(&mut rig, MAIN), Reply::Is(_)));
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EISCONN));
}

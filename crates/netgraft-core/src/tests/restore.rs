//! Sockets that outlive their stack: a second core takes over the kernel that the first one worked on.

use std::rc::Rc;

use netgraft_plugin::{Call, Error, Events, OptionName};

use super::fake::kernel::{FakeKernel, File};
use super::fake::rig::{DONE, REMOTE, Rig, addr, fails};
use super::fake::stack::FakeStack;
use super::fake::world::Reply;
use crate::journal::{Kept, Role};
use crate::program::Serves;
use crate::route::{Always, Route};
use crate::{Budget, Cookie, Core, Name, ProgramId, Seen, uapi};

/// The first sentry dies with its stack; another one takes over.
fn successor(rig: &mut Rig) {
    rig.stack = FakeStack::default();
    let kernel = FakeKernel { world: Rc::clone(&rig.world) };
    let budget = Budget { sockets: 1000, process_sockets: 1000, memory: 1 << 30, bytes: 1 << 20 };
    let router = Box::new(Always(Route::Stack));
    let old =
        std::mem::replace(&mut rig.core, Core::new(kernel, Box::new(rig.stack.clone()), router, budget));
    drop(old);
    let mut world = rig.world_mut();
    world.watches.clear();
    world.closed.clear();
    world.nursery.clear();
}

/// Restores what the journal has last said of a descriptor.
fn restore(rig: &mut Rig, fd: i32) -> Result<(), Error> {
    let cookie = rig.file(fd);
    let kept = rig.world().notes.kept.iter().rfind(|kept| kept.cookie == Cookie(cookie)).unwrap().clone();
    restore_as(rig, fd, &kept)
}

fn restore_as(rig: &mut Rig, fd: i32, kept: &Kept) -> Result<(), Error> {
    let file = File::new(Rc::clone(&rig.world), rig.file(fd), None);
    rig.core.restore(ProgramId(0), kept, &file, Seen { tid: rig.me, fd })
}

fn kept_rig() -> Rig {
    let rig = Rig::new();
    rig.world_mut().notes.is_kept = true;
    rig
}

#[test]
fn a_listener_listens_again_on_its_address() {
    let mut rig = kept_rig();
    let fd = rig.listener("127.0.0.1:80", 5);
    successor(&mut rig);
    assert_eq!(restore(&mut rig, fd), Ok(()));
    rig.settle();
    rig.dial("127.0.0.1:80", REMOTE);
    assert_eq!(rig.poll(fd), Events::IN);
    assert!(matches!(rig.accept(fd, 0), Reply::Is(_)));
    rig.close(fd);
    rig.settle();
    assert_eq!(rig.core.sockets(), 1, "the close of the listener was noticed");
}

#[test]
fn connections_that_waited_at_the_old_stack_are_gone() {
    let mut rig = kept_rig();
    let fd = rig.listener("127.0.0.1:80", 5);
    rig.dial("127.0.0.1:80", REMOTE);
    successor(&mut rig);
    assert_eq!(restore(&mut rig, fd), Ok(()));
    assert_eq!(rig.world().socks.waiting(rig.file(fd)), 0);
}

#[test]
fn a_datagram_socket_has_its_address_and_its_peer_again() {
    let mut rig = kept_rig();
    let fd = rig.udp();
    rig.bind(fd, "127.0.0.1:1000");
    rig.connect(fd, "198.51.100.1:53");
    successor(&mut rig);
    assert_eq!(restore(&mut rig, fd), Ok(()));
    rig.settle();
    rig.write(fd, b"hello").unwrap();
    rig.settle();
    assert_eq!(rig.net().sent[0].0, addr("127.0.0.1:1000"));
    assert!(rig.net().arrives(addr("198.51.100.1:53"), addr("127.0.0.1:1000"), b"answer"));
    rig.settle();
    assert_eq!(rig.read(fd, 10), Ok(b"answer".to_vec()));
}

#[test]
fn options_that_share_an_address_are_set_before_it_is_taken() {
    let mut rig = kept_rig();
    let fd = rig.tcp();
    rig.set_int(fd, uapi::SOL_SOCKET, uapi::SO_REUSEADDR, 1);
    rig.bind(fd, "127.0.0.1:80");
    rig.listen(fd, 1);
    let kept = rig.world().notes.kept.last().unwrap().clone();
    assert_eq!(kept.on, [OptionName::ReuseAddress]);
    successor(&mut rig);
    assert_eq!(restore(&mut rig, fd), Ok(()));
    assert_eq!(rig.get_int(fd, uapi::SOL_SOCKET, uapi::SO_REUSEADDR), Ok(1));
}

#[test]
fn a_socket_that_the_stack_refuses_leaves_nothing() {
    for call in [Call::socket, Call::bind, Call::listen] {
        let mut rig = kept_rig();
        let fd = rig.listener("127.0.0.1:80", 5);
        successor(&mut rig);
        rig.net().fail_next(call, Error::AddressInUse);
        assert_eq!(restore(&mut rig, fd), Err(Error::AddressInUse));
        assert_eq!((rig.core.sockets(), rig.net().socks.len()), (0, 0));
    }
}

#[test]
fn a_datagram_socket_without_room_for_its_end_leaves_nothing() {
    let mut rig = kept_rig();
    let fd = rig.udp();
    rig.bind(fd, "127.0.0.1:1000");
    successor(&mut rig);
    rig.world_mut().limits.no_room = true;
    assert_eq!(restore(&mut rig, fd), Err(Error::TooManySockets));
    assert_eq!((rig.core.sockets(), rig.net().socks.len()), (0, 0));
}

#[test]
fn a_fresh_socket_of_the_old_sentry_is_as_new() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    successor(&mut rig);
    assert_eq!(rig.getsockname(fd), DONE);
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits);
    rig.remote(REMOTE, super::fake::net::Answer::Accepts);
    rig.core.wake_stack();
    assert_eq!(rig.reply_at_rest(), DONE);
}

#[test]
fn a_connection_of_the_old_sentry_was_reset() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    rig.remote_sends(remote, b"unread");
    rig.write(fd, b"unsent").unwrap();
    successor(&mut rig);
    assert!(rig.poll(fd).contains(Events::ERR | Events::HUP));
    assert_eq!(rig.so_error(fd), uapi::ECONNRESET);
    assert_eq!(rig.so_error(fd), 0);
    assert_eq!(rig.getpeername(fd), fails(uapi::ENOTCONN));
    assert_eq!(rig.read(fd, 10), Ok(b"unread".to_vec()));
    rig.close(fd);
    rig.assert_nothing_left();
}

#[test]
fn a_connection_that_both_sides_had_ended_shows_no_error() {
    let mut rig = Rig::new();
    let (fd, remote) = rig.connected();
    assert_eq!(rig.shutdown(fd, uapi::SHUT_WR), DONE);
    rig.settle();
    rig.remote_ends(remote);
    successor(&mut rig);
    assert!(!rig.poll(fd).contains(Events::ERR));
    assert_eq!(rig.read(fd, 1), Ok(Vec::new()));
}

#[test]
fn an_attempt_of_the_old_sentry_has_failed() {
    let mut rig = Rig::new();
    let fd = rig.connecting();
    successor(&mut rig);
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::ECONNABORTED));
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EINPROGRESS));
}

#[test]
fn a_listener_that_was_not_restored_does_not_listen() {
    let mut rig = Rig::new();
    let fd = rig.listener("127.0.0.1:80", 1);
    successor(&mut rig);
    assert_eq!(rig.accept(fd, 0), fails(uapi::EINVAL));
    assert_eq!(rig.listen(fd, 1), DONE, "it can listen again");
}

#[test]
fn a_datagram_socket_that_was_not_restored_says_that_the_network_is_down() {
    let mut rig = Rig::new();
    let fd = rig.udp();
    successor(&mut rig);
    assert_eq!(rig.sendto(fd, b"x", 0, Some(REMOTE)), fails(uapi::ENETDOWN));
    assert_eq!(rig.recvfrom(fd, 1, 0), fails(uapi::ENETDOWN));
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::ENETDOWN));
}

#[test]
fn a_file_that_is_no_surrogate_is_not_adopted() {
    let mut rig = Rig::new();
    let pipe = rig.world_mut().make_pipe(rig.me);
    let fd = rig.world_mut().make_foreign(rig.me, Serves::Kernel);
    successor(&mut rig);
    assert_eq!(rig.listen(pipe, 1), fails(uapi::ENOTSOCK));
    assert_eq!(rig.listen(fd, 1), Reply::Kernel);
    assert_eq!(rig.core.sockets(), 0);
}

#[test]
fn a_kept_socket_without_an_address_is_not_bound() {
    let mut rig = kept_rig();
    let fd = rig.udp();
    let kept = Kept {
        cookie: Cookie(rig.file(fd)),
        role: Role::Datagrams,
        address: addr("0.0.0.0:0"),
        peer: None,
        on: Vec::new(),
        seen: None,
    };
    successor(&mut rig);
    rig.net().fail_next(Call::bind, Error::Invalid);
    assert_eq!(restore_as(&mut rig, fd, &kept), Ok(()));
    assert_ne!(kept.role, Role::Listener(Name(1), 1));
}

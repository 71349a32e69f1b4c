//! Where flows go: what is asked, and what a denial comes to.

use std::sync::{Arc, Mutex};

use netgraft_plugin::{Domain, Kind, Protocol, SocketSpec};

use super::fake::rig::{DONE, REMOTE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::route::{Denial, Flow, Route, Router};
use crate::{Budget, uapi};

/// Decides by a function and notes what was asked.
struct Rules {
    rule: fn(&Flow) -> Route,
    asked: Arc<Mutex<Vec<Flow>>>,
}

impl Router for Rules {
    fn route(&mut self, flow: &Flow) -> Route {
        self.asked.lock().unwrap().push(*flow);
        (self.rule)(flow)
    }
}

fn rig(rule: fn(&Flow) -> Route) -> (Rig, Arc<Mutex<Vec<Flow>>>) {
    let asked = Arc::default();
    let rules = Rules { rule, asked: Arc::clone(&asked) };
    (
        Rig::with(
            Box::new(rules),
            Budget { sockets: 10, process_sockets: 10, memory: 1 << 30, bytes: 1 << 20 },
        ),
        asked,
    )
}

const TCP: SocketSpec = SocketSpec { domain: Domain::V4, kind: Kind::Stream, protocol: Protocol::Tcp };
const UDP: SocketSpec = SocketSpec { domain: Domain::V4, kind: Kind::Datagram, protocol: Protocol::Udp };

#[test]
fn every_call_that_names_an_address_is_asked_about_once() {
    let (mut rig, asked) = rig(|_| Route::Stack);
    let fd = rig.tcp_nonblocking();
    rig.bind(fd, "127.0.0.1:1000");
    rig.connect(fd, REMOTE);
    let listener = rig.tcp();
    rig.listen(listener, 1);
    let flows = [
        Flow::Socket(TCP),
        Flow::Bind(TCP, addr("127.0.0.1:1000")),
        Flow::Connect(TCP, addr(REMOTE)),
        Flow::Socket(TCP),
        Flow::Listen(TCP),
    ];
    assert_eq!(*asked.lock().unwrap(), flows);
}

#[test]
fn datagrams_are_asked_about_by_address() {
    let (mut rig, asked) = rig(|_| Route::Stack);
    let udp = rig.udp();
    rig.connect(udp, REMOTE);
    rig.sendto(udp, b"x", 0, Some("198.51.100.7:7"));
    rig.sendto(udp, b"x", 0, None);
    let flows =
        [Flow::Socket(UDP), Flow::Datagram(UDP, addr(REMOTE)), Flow::Datagram(UDP, addr("198.51.100.7:7"))];
    assert_eq!(*asked.lock().unwrap(), flows);
}

#[test]
fn a_denied_socket_is_not_made() {
    let (mut rig, _) = rig(|_| Route::Denied(Denial::AccessDenied));
    assert_eq!(rig.try_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0), fails(uapi::EACCES));
    rig.assert_nothing_left();
}

#[test]
fn a_denied_connect_has_the_errno_of_its_denial_and_begins_nothing() {
    let (mut rig, _) = rig(|flow| match flow {
        Flow::Connect(_, to) if to.port() == 80 => Route::Denied(Denial::Refused),
        Flow::Connect(..) => Route::Denied(Denial::AccessDenied),
        _ => Route::Stack,
    });
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, "198.51.100.1:80"), fails(uapi::ECONNREFUSED));
    assert_eq!(rig.connect(fd, "198.51.100.1:81"), fails(uapi::EACCES));
    assert_eq!(rig.net().socks.len(), 0, "the stack has seen nothing");
}

#[test]
fn a_denied_bind_and_a_denied_listen_change_nothing() {
    let (mut rig, _) = rig(|flow| match flow {
        Flow::Bind(..) | Flow::Listen(_) => Route::Denied(Denial::AccessDenied),
        _ => Route::Stack,
    });
    let fd = rig.tcp();
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), fails(uapi::EACCES));
    assert_eq!(rig.listen(fd, 1), fails(uapi::EACCES));
    assert_eq!(rig.connect(fd, REMOTE), Reply::Waits, "it is as new");
}

#[test]
fn a_denied_datagram_does_not_leave() {
    let (mut rig, _) = rig(|flow| match flow {
        Flow::Datagram(_, to) if to.port() == 53 => Route::Denied(Denial::AccessDenied),
        _ => Route::Stack,
    });
    let fd = rig.udp();
    assert_eq!(rig.sendto(fd, b"x", 0, Some("198.51.100.1:53")), fails(uapi::EACCES));
    assert_eq!(rig.connect(fd, "198.51.100.1:53"), fails(uapi::EACCES));
    assert_eq!(rig.sendto(fd, b"x", 0, Some("198.51.100.1:54")), Reply::Is(1));
    assert_eq!(rig.net().sent.len(), 1);
}

#[test]
fn a_socket_of_the_stack_never_goes_to_the_host() {
    let (mut rig, _) = rig(|flow| if matches!(flow, Flow::Socket(_)) { Route::Stack } else { Route::Host });
    let (tcp, udp) = (rig.tcp(), rig.udp());
    assert_eq!(rig.connect(tcp, REMOTE), fails(uapi::EACCES));
    assert_eq!(rig.bind(tcp, "127.0.0.1:80"), fails(uapi::EACCES));
    assert_eq!(rig.connect(udp, REMOTE), fails(uapi::EACCES));
    assert_eq!(rig.sendto(udp, b"x", 0, Some(REMOTE)), fails(uapi::EACCES));
}

#[test]
fn a_socket_of_the_host_never_goes_to_the_stack() {
    let (mut rig, _) = rig(|flow| if matches!(flow, Flow::Socket(_)) { Route::Host } else { Route::Stack });
    let fd = rig.tcp();
    assert_eq!(rig.connect(fd, REMOTE), fails(uapi::EACCES));
    assert_eq!(rig.bind(fd, "127.0.0.1:80"), fails(uapi::EACCES));
    assert_eq!(rig.listen(fd, 1), fails(uapi::EACCES));
    assert_eq!(rig.disconnect(fd), DONE, "that names no address");
}

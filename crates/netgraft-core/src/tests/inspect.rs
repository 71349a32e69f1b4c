//! What an operator sees of the sockets.

use netgraft_plugin::{Kind, TcpState};

use super::fake::rig::{DONE, REMOTE, Rig, addr};

#[test]
fn sockets_are_seen_as_they_are_and_in_parts() {
    let mut rig = Rig::new();
    rig.core.set_joining(true);
    let listener = rig.listener("127.0.0.1:80", 7);
    let client = rig.tcp();
    assert_eq!(rig.connect(client, "127.0.0.1:80"), DONE);
    let pending = rig.tcp_nonblocking();
    rig.connect(pending, REMOTE);
    let fresh = rig.tcp();
    let udp = rig.udp();
    rig.connect(udp, REMOTE);

    let (all, next) = rig.core.inspect(0, 100);
    assert_eq!((all.len(), next), (5, None));
    let mut parts = Vec::new();
    let mut from = Some(0);
    while let Some(at) = from {
        let (part, next) = rig.core.inspect(at, 2);
        assert!(part.len() <= 2);
        parts.extend(part);
        from = next;
    }
    assert_eq!(parts, all);
    assert_eq!(rig.core.inspect(1 << 40, 2), (Vec::new(), None), "a place that there is not");

    let of = |fd: i32| all.iter().find(|s| s.seen.is_some_and(|seen| seen.fd == fd)).copied().unwrap();
    let (listening, joined) = (of(listener), of(client));
    assert_eq!(
        (listening.state, listening.local, listening.unsent),
        (TcpState::Listen, Some(addr("127.0.0.1:80")), 7)
    );
    assert!(joined.joined && joined.state == TcpState::Established && joined.peer == listening.local);
    assert_eq!(of(pending).state, TcpState::SynSent);
    assert_eq!((of(fresh).state, of(fresh).local), (TcpState::Closed, None));
    assert_eq!(
        (of(udp).spec.kind, of(udp).state, of(udp).peer),
        (Kind::Datagram, TcpState::Established, Some(addr(REMOTE)))
    );
}

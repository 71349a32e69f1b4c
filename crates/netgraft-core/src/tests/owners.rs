//! Who has a socket, told for captures.

use std::sync::Arc;

use netgraft_plugin::owners::{End, Owners};

use super::fake::rig::{MAIN, Rig, addr};
use super::fake::world::Reply;

/// A rig whose stack's packets are captured.
fn rig() -> (Rig, Arc<Owners>) {
    let owners = Arc::new(Owners::default());
    let mut rig = Rig::new();
    rig.core.told = Some(crate::owners::Told::new(owners.clone()));
    (rig, owners)
}

fn owner(owners: &Owners, protocol: u8, local: &str) -> Option<String> {
    let mut heard = None;
    owners.find(End::new(protocol, addr(local)), &mut |owner| heard = Some(owner.to_owned()));
    heard
}

#[test]
fn listeners_clients_and_datagram_sockets_have_owners_from_their_first_address_on() {
    let (mut rig, owners) = rig();
    let listener = rig.listener("127.0.0.1:80", 1);
    assert_eq!(owner(&owners, 6, "127.0.0.1:80"), Some(format!("p[{MAIN}] fd {listener}")));
    let (client, _) = rig.connected();
    rig.getsockname(client);
    let local = rig.out().unwrap().to_string();
    assert_eq!(owner(&owners, 6, &local), Some(format!("p[{MAIN}] fd {client}")));
    let udp = rig.udp();
    rig.sendto(udp, b"x", 0, Some("198.51.100.1:53"));
    rig.getsockname(udp);
    let local = rig.out().unwrap();
    assert_ne!(local.port(), 0);
    assert_eq!(owner(&owners, 17, &local.to_string()), Some(format!("p[{MAIN}] fd {udp}")));
    assert_eq!(owner(&owners, 6, &local.to_string()), None);
    // For the packets that follow its end.
    rig.close(listener);
    rig.settle();
    assert!(owner(&owners, 6, "127.0.0.1:80").is_some());
}

#[test]
fn a_connection_is_its_listeners_until_a_call_shows_whose_it_is() {
    let (mut rig, owners) = rig();
    let listener = rig.listener("127.0.0.1:80", 8);
    let peers = ["198.51.100.1:1000", "198.51.100.1:1001"];
    let of = |peer: &str| {
        let mut heard = String::new();
        let end = End::new(6, addr("127.0.0.1:80")).with_peer(addr(peer));
        owners.find(end, &mut |owner| heard.push_str(owner));
        heard
    };
    let name = |fd: i32| format!("p[{MAIN}] fd {fd}");
    for peer in peers {
        rig.dial("127.0.0.1:80", peer);
        assert_eq!(of(peer), name(listener));
    }
    let Reply::Is(first) = rig.accept(listener, 0) else { panic!("no connection") };
    // Without an address: the kernel's own.
    let second = rig.accept_untrapped(listener).unwrap();
    assert_eq!((of(peers[0]), of(peers[1])), (name(first as i32), name(listener)));
    rig.getsockname(second);
    assert_eq!((of(peers[0]), of(peers[1])), (name(first as i32), name(second)));
}

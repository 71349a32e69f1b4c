//! Whose packets they are. The sentry knows which process made a socket, a capture sees its packets: what the one writes here
//! the other looks up. Where nothing is captured there is no such table.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// Closed sockets whose owners are still known, for the packets that follow: the end of a connection.
const CLOSED: usize = 4096;

/// The end of a socket's packets: the number of the transport protocol (6 is TCP, 17 UDP), the local address, which may be an
/// unspecified one, and the peer's if the socket has packets of this one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    protocol: u8,
    ip: IpAddr,
    port: u16,
    peer: Option<(IpAddr, u16)>,
}

impl End {
    /// The end of this protocol and address. An address of IPv4 in one of IPv6 is the same end.
    #[must_use]
    pub fn new(protocol: u8, local: SocketAddr) -> End {
        End { protocol, ip: local.ip().to_canonical(), port: local.port(), peer: None }
    }

    /// The same, of packets from and to one peer.
    #[must_use]
    pub fn with_peer(self, peer: SocketAddr) -> End {
        End { peer: Some((peer.ip().to_canonical(), peer.port())), ..self }
    }
}

/// The owners of a sandbox's sockets, in words.
#[derive(Debug, Default)]
pub struct Owners(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Who, and which mention of them it is.
    names: HashMap<End, (u64, Box<str>)>,
    closed: VecDeque<(End, u64)>,
    mentions: u64,
}

impl Owners {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says who has the socket at an end: `curl[12] fd 5`.
    pub fn set(&self, end: End, owner: &str) {
        let mut table = self.table();
        table.mentions += 1;
        let mention = table.mentions;
        table.names.insert(end, (mention, owner.into()));
    }

    /// The socket at an end is closed. Its owner stays known for a while.
    pub fn close(&self, end: End) {
        let mut table = self.table();
        let Some(&(mention, _)) = table.names.get(&end) else { return };
        table.closed.push_back((end, mention));
        if table.closed.len() <= CLOSED {
            return;
        }
        if let Some((oldest, mention)) = table.closed.pop_front()
            && table.names.get(&oldest).is_some_and(|(last, _)| *last == mention)
        {
            // Nobody else has that end since.
            table.names.remove(&oldest);
        }
    }

    /// Tells `hear` the owner of the socket that a packet with this local end is of, if it is known; answers whether it is. A
    /// socket with the packet's peer goes first, then one with its address. Nothing is allocated.
    pub fn find(&self, end: End, hear: &mut dyn FnMut(&str)) -> bool {
        let table = self.table();
        let all = End { peer: None, ..end };
        let any = |ip: IpAddr| End { ip, ..all };
        let own = match end.ip {
            IpAddr::V4(_) => IpAddr::from([0, 0, 0, 0]),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // A socket of IPv6 that is bound to no address has packets of IPv4, too (RFC 3493 section 3.7).
        let found = [end, all, any(own), any(Ipv6Addr::UNSPECIFIED.into())]
            .iter()
            .find_map(|end| table.names.get(end));
        if let Some((_, owner)) = found {
            hear(owner);
        }
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(protocol: u8, local: &str) -> End {
        End::new(protocol, local.parse().unwrap())
    }

    fn owner(owners: &Owners, protocol: u8, local: &str) -> Option<String> {
        let mut heard = None;
        let found = owners.find(end(protocol, local), &mut |owner| heard = Some(owner.to_owned()));
        assert_eq!(found, heard.is_some());
        heard
    }

    #[test]
    fn an_owner_is_found_by_its_address_or_by_any() {
        let owners = Owners::default();
        owners.set(end(6, "192.0.2.1:80"), "one");
        owners.set(end(6, "0.0.0.0:80"), "any");
        owners.set(end(17, "[::]:53"), "both");
        owners.set(end(6, "[::ffff:192.0.2.1]:81"), "mapped");
        for (protocol, local, expected) in [
            (6, "192.0.2.1:80", Some("one")),
            (6, "192.0.2.2:80", Some("any")),
            (6, "[2001:db8::1]:80", None),
            (17, "192.0.2.1:80", None),
            (17, "192.0.2.1:53", Some("both")),
            (17, "[2001:db8::1]:53", Some("both")),
            (6, "192.0.2.1:81", Some("mapped")),
        ] {
            assert_eq!(owner(&owners, protocol, local).as_deref(), expected, "{protocol} {local}");
        }
    }

    #[test]
    fn a_connection_has_an_owner_of_its_own_beside_its_listener() {
        let owners = Owners::default();
        owners.set(end(6, "0.0.0.0:80"), "listener");
        let [one, other] = ["192.0.2.9:5", "192.0.2.9:6"]
            .map(|peer| end(6, "192.0.2.1:80").with_peer(peer.parse().unwrap()));
        owners.set(one, "connection");
        for (end, expected) in
            [(one, "connection"), (other, "listener"), (end(6, "192.0.2.1:80"), "listener")]
        {
            let mut heard = String::new();
            assert!(owners.find(end, &mut |owner| heard.push_str(owner)) && heard == expected, "{end:?}");
        }
    }

    #[test]
    fn those_of_closed_sockets_are_forgotten_late_and_not_if_they_are_anothers_by_then() {
        let owners = Owners::default();
        let nth = |n: usize| End::new(6, SocketAddr::new([10, 0, (n >> 8) as u8, n as u8].into(), 80));
        for n in 0..=CLOSED {
            owners.set(nth(n), "old");
        }
        owners.close(nth(0));
        owners.set(nth(0), "new");
        for n in 1..=CLOSED {
            assert!(owners.find(nth(1), &mut |_| ()), "{n}");
            owners.close(nth(n));
        }
        let mut heard = String::new();
        assert!(owners.find(nth(0), &mut |owner| heard.push_str(owner)) && heard == "new");
        owners.close(nth(0));
        assert!(!owners.find(nth(1), &mut |_| ()) && owners.find(nth(2), &mut |_| ()));
        assert_eq!(owners.table().names.len(), CLOSED);
        // Nobody knows this one.
        owners.close(end(6, "192.0.2.1:1"));
    }
}

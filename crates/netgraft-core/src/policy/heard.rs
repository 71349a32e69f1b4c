//! From whom datagrams have come lately that a rule has let in: these may be answered, whatever the rules about going out are.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::place::plain;
use super::rule::Protocol;

/// How many are remembered at least, of those that came last.
const GENERATION: usize = 4096;

/// What was spoken, an own port, and who has sent to it.
type Key = (Protocol, u16, SocketAddr);

/// Who may be answered.
#[derive(Debug, Default)]
pub struct Heard {
    young: HashSet<Key>,
    old: HashSet<Key>,
}

impl Heard {
    /// Notes that a datagram has come and was let in.
    pub fn note(&mut self, protocol: Protocol, port: u16, peer: SocketAddr) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key(protocol, port, peer));
    }

    /// Whether one to this peer may be an answer.
    #[must_use]
    pub fn has(&self, protocol: Protocol, port: u16, peer: SocketAddr) -> bool {
        let key = key(protocol, port, peer);
        self.young.contains(&key) || self.old.contains(&key)
    }
}

fn key(protocol: Protocol, port: u16, peer: SocketAddr) -> Key {
    (protocol, port, SocketAddr::new(plain(peer.ip()), peer.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_lately_may_be_answered_and_others_may_not() {
        let peer = |n: u32| SocketAddr::new(std::net::Ipv4Addr::from(n).into(), 53);
        let mut heard = Heard::default();
        heard.note(Protocol::Udp, 80, peer(1));
        let has = |heard: &Heard, port, peer| heard.has(Protocol::Udp, port, peer);
        assert!(has(&heard, 80, peer(1)) && !has(&heard, 81, peer(1)) && !has(&heard, 80, peer(2)));
        assert!(!heard.has(Protocol::Icmp, 80, peer(1)), "an identifier of a ping is no port");
        assert!(has(&heard, 80, "[::ffff:0.0.0.1]:53".parse().unwrap()));
        for n in 2..3 * GENERATION as u32 {
            heard.note(Protocol::Udp, 80, peer(n));
        }
        assert!(!has(&heard, 80, peer(1)) && has(&heard, 80, peer(2 * GENERATION as u32)));
        assert!(heard.young.len() + heard.old.len() <= 2 * GENERATION);
    }
}

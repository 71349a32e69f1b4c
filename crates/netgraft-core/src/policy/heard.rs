//! From whom datagrams have come lately that a rule has let in: these may be answered, whatever the rules about going out are.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::place::plain;

/// How many are remembered at least, of those that came last.
const GENERATION: usize = 4096;

/// An own port, and who has sent to it.
type Pair = (u16, SocketAddr);

/// Who may be answered.
#[derive(Debug, Default)]
pub struct Heard {
    young: HashSet<Pair>,
    old: HashSet<Pair>,
}

impl Heard {
    /// Notes that a datagram has come and was let in.
    pub fn note(&mut self, port: u16, peer: SocketAddr) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(pair(port, peer));
    }

    /// Whether one to this peer may be an answer.
    #[must_use]
    pub fn has(&self, port: u16, peer: SocketAddr) -> bool {
        let pair = pair(port, peer);
        self.young.contains(&pair) || self.old.contains(&pair)
    }
}

fn pair(port: u16, peer: SocketAddr) -> Pair {
    (port, SocketAddr::new(plain(peer.ip()), peer.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_lately_may_be_answered_and_others_may_not() {
        let peer = |n: u32| SocketAddr::new(std::net::Ipv4Addr::from(n).into(), 53);
        let mut heard = Heard::default();
        heard.note(80, peer(1));
        assert!(heard.has(80, peer(1)) && !heard.has(81, peer(1)) && !heard.has(80, peer(2)));
        assert!(heard.has(80, "[::ffff:0.0.0.1]:53".parse().unwrap()));
        for n in 2..3 * GENERATION as u32 {
            heard.note(80, peer(n));
        }
        assert!(!heard.has(80, peer(1)) && heard.has(80, peer(2 * GENERATION as u32)));
        assert!(heard.young.len() + heard.old.len() <= 2 * GENERATION);
    }
}

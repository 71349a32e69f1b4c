//! Names of sockets in the sentry's network namespace.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};

use netgraft_core::Pair;
use netgraft_linux::unix::{LongName, Name};
use netgraft_plugin::Domain;

/// Gives names that no socket has had and that cannot be guessed: a keyed hash of a counter, with keys from
/// getrandom(2). Whoever knows the name of a listening surrogate can connect to it past the stack, so a name is known
/// to those only who hold the socket.
#[derive(Debug, Default)]
pub(crate) struct Names {
    keys: RandomState,
    given: u64,
}

impl Names {
    /// A name.
    pub(crate) fn fresh(&mut self) -> Name {
        self.given = self.given.wrapping_add(1);
        Name(self.keys.hash_one(self.given) & !1)
    }

    /// The same for a listener: the surrogates of its connections inherit it, so that a later sentry can tell their
    /// address family by its lowest bit.
    pub(crate) fn fresh_for_listener(&mut self, domain: Domain) -> Name {
        let Name(even) = self.fresh();
        Name(even | u64::from(domain == Domain::V6))
    }
}

/// Names of joined connections: both addresses, and a tag of them that nobody else can make. The keys are the sandbox's,
/// so that a later sentry knows the names of this one.
#[derive(Debug)]
pub(crate) struct PairNames {
    keys: RandomState,
    /// Names, by their tags, that a program has given to a socket of its own.
    taken: HashSet<[u8; TAG]>,
}

/// The most names that a program may have taken: then no connection is joined any more.
const MOST_TAKEN: usize = 65_536;

/// Bytes of an address in a name: family, port, IP address.
const ADDRESS: usize = 1 + 2 + 16;
/// Bytes of the tag.
const TAG: usize = 8;
/// Bytes that make each name another one.
const ONCE: usize = 8;

impl PairNames {
    /// With keys that are the same in every sentry of a sandbox, and different in every sandbox.
    pub(crate) fn new(keys: RandomState) -> PairNames {
        PairNames { keys, taken: HashSet::new() }
    }

    /// Notes a name that was found on a socket before it was given one: it tells nothing from now on. A program that has
    /// seen the name of an earlier connection can bind a socket to it, when that connection is over.
    pub(crate) fn distrust(&mut self, name: &LongName) {
        if let Some((tag, _)) = name.bytes().split_first_chunk::<TAG>() {
            self.taken.insert(*tag);
        }
    }

    /// The name of the client of a connection; `once` has been in no other name. `None` if programs have taken too many.
    pub(crate) fn name(&self, pair: Pair, Name(once): Name) -> Option<LongName> {
        if self.taken.len() >= MOST_TAKEN {
            return None;
        }
        let mut bytes = [0u8; TAG + ONCE + 2 * ADDRESS];
        let (tag, tagged) = bytes.split_at_mut(TAG);
        let (unique, addresses) = tagged.split_at_mut(ONCE);
        unique.copy_from_slice(&once.to_ne_bytes());
        for (into, address) in addresses.chunks_exact_mut(ADDRESS).zip([pair.local, pair.peer]) {
            write_address(into, address);
        }
        tag.copy_from_slice(&self.keys.hash_one(&*tagged).to_ne_bytes());
        LongName::new(&bytes)
    }

    /// The connection whose client has a name; `None` if the tag is not one of ours.
    pub(crate) fn pair(&self, name: &LongName) -> Option<Pair> {
        let (tag, tagged) = name.bytes().split_first_chunk::<TAG>()?;
        let (local, peer) = tagged.get(ONCE..)?.split_at_checked(ADDRESS)?;
        let known = peer.len() == ADDRESS && u64::from_ne_bytes(*tag) == self.keys.hash_one(tagged);
        if !known || self.taken.contains(tag) {
            return None;
        }
        Some(Pair { local: read_address(local)?, peer: read_address(peer)? })
    }
}

fn write_address(into: &mut [u8], address: SocketAddr) {
    into[1..3].copy_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(v4) => {
            into[0] = 4;
            into[3..7].copy_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            into[0] = 6;
            into[3..19].copy_from_slice(&v6.octets());
        }
    }
}

fn read_address(from: &[u8]) -> Option<SocketAddr> {
    let from: &[u8; ADDRESS] = from.try_into().ok()?;
    let ip = match from[0] {
        4 => IpAddr::from([from[3], from[4], from[5], from[6]]),
        6 => IpAddr::from(*from.last_chunk::<16>()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([from[1], from[2]])))
}

/// The address family that a listener's name tells.
pub(crate) fn domain_of(Name(name): Name) -> Domain {
    if name & 1 == 0 { Domain::V4 } else { Domain::V6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_do_not_follow_each_other() {
        let mut names = Names::default();
        let given: Vec<u64> = (0..1000).map(|_| names.fresh().0).collect();
        let distinct: std::collections::HashSet<_> = given.iter().collect();
        assert_eq!(distinct.len(), given.len());
        // A counter's steps are all alike.
        let steps: std::collections::HashSet<u64> =
            given.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
        assert!(steps.len() > 990);
        assert_ne!(names.fresh(), Names::default().fresh(), "two sentries' names have nothing in common");
    }

    #[test]
    fn the_name_of_a_joined_connection_tells_its_addresses() {
        let keys = RandomState::new();
        let (names, later) = (PairNames::new(keys.clone()), PairNames::new(keys));
        for (local, peer) in [("127.0.0.1:5000", "127.0.0.1:80"), ("[::1]:5000", "[2001:db8::1]:80")] {
            let pair = Pair { local: local.parse().unwrap(), peer: peer.parse().unwrap() };
            let name = names.name(pair, Name(7)).unwrap();
            assert_ne!(names.name(pair, Name(8)).unwrap(), name);
            assert_eq!(later.pair(&name), Some(pair));
            assert_eq!(PairNames::new(RandomState::new()).pair(&name), None, "another sandbox's");
            let mut forged = name.bytes().to_vec();
            forged[TAG + ONCE + 2] ^= 1;
            assert_eq!(names.pair(&LongName::new(&forged).unwrap()), None);
            assert_eq!(names.pair(&LongName::new(&name.bytes()[..30]).unwrap()), None);
        }
    }

    #[test]
    fn a_name_that_a_program_has_taken_tells_nothing() {
        let mut names = PairNames::new(RandomState::new());
        let pair = Pair { local: "127.0.0.1:5000".parse().unwrap(), peer: "127.0.0.1:80".parse().unwrap() };
        let (name, other) = (names.name(pair, Name(7)).unwrap(), names.name(pair, Name(8)).unwrap());
        names.distrust(&name);
        assert_eq!((names.pair(&name), names.pair(&other)), (None, Some(pair)));
        for once in 0..MOST_TAKEN as u64 {
            if let Some(name) = names.name(pair, Name(100 + once)) {
                names.distrust(&name);
            }
        }
        assert_eq!(names.name(pair, Name(9)), None, "no more connections are joined");
    }

    #[test]
    fn a_listeners_name_tells_its_family() {
        let mut names = Names::default();
        for domain in [Domain::V4, Domain::V6] {
            assert_eq!(domain_of(names.fresh_for_listener(domain)), domain);
        }
    }
}

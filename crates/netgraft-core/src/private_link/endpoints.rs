//! The stack's sockets that stand for local addresses of the kernel's datagram sockets.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netgraft_plugin::{Handle, SocketOption};

use super::packet::Header;
use crate::surrogate::Cookie;

/// How many entries of a queue may be void before it is cleaned.
const SPARE: usize = 64;

/// What stands for a local address. It may serve several sockets: to which of them a datagram goes is the kernel's
/// business.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint {
    /// The stack's socket.
    pub(super) handle: Handle,
    /// How many sockets of the kernel's are known to have the address.
    pub(super) holders: usize,
    /// Whether the kernel chose the port for a socket that sent, which is not among the holders.
    pub(super) is_chosen: bool,
    /// The local address that the last datagram was sent from.
    pub(super) source: Option<IpAddr>,
    /// What its packets say.
    pub(super) sends_as: SendsAs,
    /// When it was last used, by [`Endpoints::mark`].
    pub(super) used: u64,
}

/// What the packets of a socket of the stack say, as far as the kernel's packets have asked for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SendsAs {
    /// TTL or hop limit, for single hosts and for groups; 0 if none was set.
    hop_limits: [u8; 2],
    /// TOS or traffic class.
    traffic_class: u8,
    /// Whether routers may cut them, as the stack's socket was last told.
    may_cut: Option<bool>,
}

/// `IP_PMTUDISC_PROBE` and `IP_PMTUDISC_OMIT` (ip(7)): "don't fragment" always, or never. Which it is, and how long a packet
/// may be, was decided by the kernel that sent it.
const PROBE: u8 = 3;
const OMIT: u8 = 5;

impl SendsAs {
    /// The options that are to be set before a packet leaves as the kernel has sent it.
    pub(super) fn change(&mut self, header: &Header) -> impl Iterator<Item = SocketOption> + use<> {
        let &Header { destination, hop_limit, traffic_class, dont_fragment, .. } = header;
        let is_group = destination.is_multicast();
        let limit = std::mem::replace(&mut self.hop_limits[usize::from(is_group)], hop_limit);
        let class = std::mem::replace(&mut self.traffic_class, traffic_class);
        let limited = match (destination, is_group) {
            (IpAddr::V4(_), false) => SocketOption::Ttl(hop_limit),
            (IpAddr::V4(_), true) => SocketOption::MulticastTtl(hop_limit),
            (IpAddr::V6(_), false) => SocketOption::UnicastHops(hop_limit),
            (IpAddr::V6(_), true) => SocketOption::MulticastHops(hop_limit),
        };
        let classed = match destination {
            IpAddr::V4(_) => SocketOption::TypeOfService(traffic_class),
            IpAddr::V6(_) => SocketOption::TrafficClass(traffic_class),
        };
        let may_cut = destination.is_ipv4().then_some(!dont_fragment);
        let cut = std::mem::replace(&mut self.may_cut, may_cut);
        let discovered = SocketOption::MtuDiscover(if dont_fragment { PROBE } else { OMIT });
        [
            (limit != hop_limit).then_some(limited),
            (class != traffic_class).then_some(classed),
            (may_cut.is_some() && cut != may_cut).then_some(discovered),
        ]
        .into_iter()
        .flatten()
    }
}

/// All of them, by the addresses that they are bound to.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    by_address: HashMap<SocketAddr, Endpoint>,
    by_handle: HashMap<Handle, SocketAddr>,
    /// The sockets of the kernel's that asked for an address.
    held: HashMap<Cookie, Held>,
    /// How many of them a process has asked for, as far as it is known.
    by_owner: HashMap<u32, usize>,
    /// Those without a holder, the one that was not used for longest first, as far as is known: each with when it was used.
    unheld: VecDeque<(Handle, u64)>,
    /// How many have no holder.
    unheld_count: usize,
    /// Counts uses.
    uses: u64,
}

/// What is known of a socket of the kernel's.
#[derive(Clone, Copy, Debug)]
struct Held {
    places: Places,
    /// Since when, by [`Endpoints::mark`].
    since: u64,
    /// The process that asked.
    owner: Option<u32>,
}

/// The addresses at which one socket is served: an IPv6 socket for both families has two.
pub(super) type Places = [Option<SocketAddr>; 2];

impl Endpoints {
    pub(super) fn len(&self) -> usize {
        self.by_address.len()
    }

    /// How many stand for ports that the kernel chose.
    pub(super) fn unheld(&self) -> usize {
        self.unheld_count
    }

    /// What comes later has a higher mark.
    pub(super) const fn mark(&self) -> u64 {
        self.uses
    }

    /// Adds one without a holder, for a port that the kernel chose or for a socket that is to hold it.
    pub(super) fn insert(&mut self, local: SocketAddr, handle: Handle, is_chosen: bool) {
        self.uses += 1;
        let endpoint = Endpoint {
            handle,
            holders: 0,
            is_chosen,
            source: None,
            sends_as: SendsAs::default(),
            used: self.uses,
        };
        self.by_handle.insert(handle, local);
        self.by_address.insert(local, endpoint);
        self.unheld_count += 1;
        self.queue(handle, self.uses);
    }

    fn queue(&mut self, handle: Handle, used: u64) {
        self.unheld.push_back((handle, used));
        // What has ended, or is held by now, is still in it.
        if self.unheld.len() > 2 * self.unheld_count + SPARE {
            let (by_handle, by_address) = (&self.by_handle, &self.by_address);
            self.unheld.retain(|(handle, _)| {
                let endpoint = by_handle.get(handle).and_then(|address| by_address.get(address));
                endpoint.is_some_and(|endpoint| endpoint.holders == 0)
            });
        }
    }

    pub(super) fn remove(&mut self, local: &SocketAddr) -> Option<Endpoint> {
        let endpoint = self.by_address.remove(local)?;
        self.by_handle.remove(&endpoint.handle);
        if endpoint.holders == 0 {
            self.unheld_count = self.unheld_count.saturating_sub(1);
        }
        Some(endpoint)
    }

    pub(super) fn get(&self, local: &SocketAddr) -> Option<&Endpoint> {
        self.by_address.get(local)
    }

    /// The address that serves a local one: itself, or any with its port.
    pub(super) fn find(&self, local: SocketAddr) -> Option<SocketAddr> {
        [local, any_of(local)].into_iter().find(|address| self.by_address.contains_key(address))
    }

    /// The address that a handle stands for.
    pub(super) fn of_handle(&self, handle: Handle) -> Option<SocketAddr> {
        self.by_handle.get(&handle).copied()
    }

    /// Notes a use, and gives what was used.
    pub(super) fn touch(&mut self, local: &SocketAddr) -> Option<&mut Endpoint> {
        self.uses += 1;
        let endpoint = self.by_address.get_mut(local)?;
        endpoint.used = self.uses;
        Some(endpoint)
    }

    /// The one that was not used for longest, of those whose port the kernel chose.
    pub(super) fn stalest(&mut self) -> Option<SocketAddr> {
        for _ in 0..=self.unheld.len() {
            let (handle, used) = self.unheld.pop_front()?;
            let Some(&address) = self.by_handle.get(&handle) else { continue };
            let Some(endpoint) = self.by_address.get(&address).filter(|endpoint| endpoint.holders == 0)
            else {
                continue;
            };
            if endpoint.used == used {
                return Some(address);
            }
            // It was used since: it has another turn.
            self.unheld.push_back((handle, endpoint.used));
        }
        None
    }

    /// Where a socket is known to be served.
    pub(super) fn places(&self, cookie: Cookie) -> Option<Places> {
        self.held.get(&cookie).map(|held| held.places)
    }

    /// How many sockets a process has asked for.
    pub(super) fn held_by(&self, owner: u32) -> usize {
        self.by_owner.get(&owner).copied().unwrap_or(0)
    }

    /// A socket is served there from now on, and no longer where it was. Answers which of these addresses nobody has now: not one
    /// that the kernel has chosen for another socket.
    pub(super) fn hold(&mut self, cookie: Cookie, places: Places, owner: Option<u32>) -> Places {
        for place in places.iter().flatten() {
            if let Some(endpoint) = self.by_address.get_mut(place) {
                if endpoint.holders == 0 {
                    self.unheld_count = self.unheld_count.saturating_sub(1);
                }
                endpoint.holders += 1;
            }
        }
        let before = self.held.remove(&cookie);
        if let Some(owner) = before.and_then(|held| held.owner)
            && let Some(count) = self.by_owner.get_mut(&owner)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_owner.remove(&owner);
            }
        }
        if places != [None; 2] {
            self.uses += 1;
            let owner = owner.or(before.and_then(|held| held.owner));
            self.held.insert(cookie, Held { places, since: self.uses, owner });
            if let Some(owner) = owner {
                *self.by_owner.entry(owner).or_default() += 1;
            }
        }
        let mut left = [None; 2];
        for (place, left) in before.iter().flat_map(|held| &held.places).flatten().zip(&mut left) {
            if let Some(endpoint) = self.by_address.get_mut(place) {
                endpoint.holders = endpoint.holders.saturating_sub(1);
                if endpoint.holders == 0 {
                    let (handle, used, is_chosen) = (endpoint.handle, endpoint.used, endpoint.is_chosen);
                    self.unheld_count += 1;
                    self.queue(handle, used);
                    *left = (!is_chosen).then_some(*place);
                }
            }
        }
        left
    }

    /// The sockets that were known at a mark, and have not moved since.
    pub(super) fn holders_at(&self, mark: u64) -> impl Iterator<Item = Cookie> {
        self.held.iter().filter(move |(_, held)| held.since <= mark).map(|(cookie, _)| *cookie)
    }

    /// The addresses without a holder that were not used after a mark.
    pub(super) fn unused_since(&self, mark: u64) -> Vec<SocketAddr> {
        let unused =
            |(_, endpoint): &(&SocketAddr, &Endpoint)| endpoint.holders == 0 && endpoint.used <= mark;
        self.by_address.iter().filter(unused).map(|(address, _)| *address).collect()
    }
}

/// Any address with the same port.
pub(super) fn any_of(local: SocketAddr) -> SocketAddr {
    let any: IpAddr = match local {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(any, local.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::new("0.0.0.0".parse().unwrap(), port)
    }

    #[test]
    fn an_address_is_served_by_itself_or_by_any() {
        let (own, any) = ("192.0.2.1:53".parse().unwrap(), address(53));
        let mut all = Endpoints::default();
        assert_eq!(all.find(own), None);
        all.insert(any, Handle(1), true);
        assert_eq!(all.find(own), Some(any));
        all.insert(own, Handle(2), true);
        assert_eq!(all.find(own), Some(own));
        assert_eq!(all.find("192.0.2.1:54".parse().unwrap()), None);
        assert_eq!(all.find("[2001:db8::1]:53".parse().unwrap()), None);
        assert_eq!(all.remove(&own).map(|e| e.handle), Some(Handle(2)));
        assert_eq!((all.of_handle(Handle(2)), all.of_handle(Handle(1))), (None, Some(any)));
    }

    #[test]
    fn the_stalest_is_one_whose_port_the_kernel_chose() {
        let mut all = Endpoints::default();
        assert_eq!(all.stalest(), None);
        for port in 1..=4 {
            all.insert(address(port), Handle(port.into()), true);
        }
        assert_eq!(all.hold(Cookie(1), [Some(address(1)), None], None), [None; 2]);
        all.touch(&address(2));
        assert_eq!((all.unheld(), all.stalest()), (3, Some(address(3))));
        all.remove(&address(3));
        assert_eq!((all.unheld(), all.stalest()), (2, Some(address(4))));
        all.remove(&address(4));
        assert_eq!((all.unheld(), all.stalest()), (1, Some(address(2))));
        all.remove(&address(2));
        assert_eq!((all.unheld(), all.stalest()), (0, None));
    }

    #[test]
    fn a_queue_of_those_that_come_and_go_does_not_grow() {
        let mut all = Endpoints::default();
        all.insert(address(9), Handle(9), true);
        for round in 10..10_000 {
            all.insert(address(1), Handle(round), true);
            all.remove(&address(1));
            assert!(all.unheld.len() <= 4 + SPARE, "{}", all.unheld.len());
        }
        assert_eq!(all.stalest(), Some(address(9)));
    }

    #[test]
    fn an_address_is_left_by_its_last_holder() {
        let mut all = Endpoints::default();
        for port in [1, 2] {
            all.insert(address(port), Handle(port.into()), false);
        }
        let one = [Some(address(1)), None];
        assert_eq!(all.hold(Cookie(1), one, None), [None; 2]);
        assert_eq!(all.hold(Cookie(2), one, None), [None; 2]);
        // Again the same, another place, and none.
        assert_eq!(all.hold(Cookie(2), one, None), [None; 2]);
        assert_eq!(all.hold(Cookie(2), [Some(address(2)), None], None), [None; 2]);
        assert_eq!(all.hold(Cookie(1), [None; 2], None), [Some(address(1)), None]);
        assert_eq!(all.hold(Cookie(1), [None; 2], None), [None; 2]);
        assert_eq!(
            (all.places(Cookie(1)), all.holders_at(u64::MAX).collect::<Vec<_>>()),
            (None, vec![Cookie(2)])
        );
        assert_eq!((all.unheld(), all.unused_since(all.mark())), (1, vec![address(1)]));
        assert_eq!((all.unused_since(0), all.holders_at(2).count()), (vec![], 0));
    }
    #[test]
    fn a_port_that_the_kernel_chose_stays_for_its_socket() {
        let mut all = Endpoints::default();
        all.insert(address(1), Handle(1), true);
        let one = [Some(address(1)), None];
        // Another one asks for it, in vain or not.
        assert_eq!(all.hold(Cookie(1), one, Some(7)), [None; 2]);
        assert_eq!((all.unheld(), all.held_by(7)), (0, 1));
        assert_eq!(all.hold(Cookie(1), [None; 2], Some(7)), [None; 2]);
        assert_eq!((all.unheld(), all.held_by(7)), (1, 0));
        assert_eq!(all.stalest(), Some(address(1)));
    }

    #[test]
    fn sockets_are_counted_by_who_asked() {
        let mut all = Endpoints::default();
        all.insert(address(1), Handle(1), false);
        let one = [Some(address(1)), None];
        for cookie in 1..4 {
            all.hold(Cookie(cookie), one, Some(7));
        }
        // A list does not know of whom they are.
        all.hold(Cookie(1), one, None);
        all.hold(Cookie(4), one, None);
        assert_eq!(all.held_by(7), 3);
        for cookie in 1..5 {
            all.hold(Cookie(cookie), [None; 2], None);
        }
        assert_eq!((all.held_by(7), all.by_owner.len()), (0, 0));
    }
}

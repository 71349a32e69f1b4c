//! Which sockets hold which local ports, and who may share one (socket(7), `SO_REUSEADDR`, `SO_REUSEPORT`).

use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};

use netgraft_plugin::{Domain, Handle};

use crate::hash::{Keyed, Map};
use crate::options::Options;

/// One socket's hold on a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bind {
    pub(crate) handle: Handle,
    /// The address; `None` for any.
    pub(crate) addr: Option<IpAddr>,
    pub(crate) domain: Domain,
    pub(crate) v6_only: bool,
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    /// What the socket takes off the port.
    pub(crate) role: Role,
}

/// With whom a connection shares its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sharing {
    /// `SO_REUSEADDR`: with those that do not listen and have it too.
    address: bool,
    /// `SO_REUSEPORT`: with those that have it too.
    port: bool,
}

impl Sharing {
    const ALL: [Sharing; 4] = [
        Sharing { address: false, port: false },
        Sharing { address: true, port: false },
        Sharing { address: false, port: true },
        Sharing { address: true, port: true },
    ];

    pub(crate) fn of(options: &Options) -> Self {
        Sharing { address: options.reuse_address, port: options.reuse_port }
    }

    fn index(self) -> usize {
        usize::from(self.address) + 2 * usize::from(self.port)
    }

    fn allows(self, new: &Bind) -> bool {
        self.address && new.reuse_address || self.port && new.reuse_port
    }
}

/// What a bound socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Nothing yet, or only its own connection.
    Bound,
    /// Connections, or datagrams of anybody.
    Receiving,
}

impl Bind {
    fn covers(&self, v4: bool) -> bool {
        match (self.addr, v4) {
            (Some(addr), _) => addr.is_ipv4() == v4,
            (None, true) => self.domain == Domain::V4 || !self.v6_only,
            (None, false) => self.domain == Domain::V6,
        }
    }

    fn overlaps(&self, other: &Bind) -> bool {
        let same = match (self.addr, other.addr) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        same && [true, false].into_iter().any(|v4| self.covers(v4) && other.covers(v4))
    }

    /// How well the socket fits a packet for `dst`; `None` if it does not (the order of Linux' `compute_score`:
    /// a family of its own before a dual one, an address before any).
    pub(crate) fn fits(&self, dst: IpAddr) -> Option<u8> {
        if !self.covers(dst.is_ipv4()) || self.addr.is_some_and(|a| a != dst) {
            return None;
        }
        let own_family = (self.domain == Domain::V4) == dst.is_ipv4();
        Some(u8::from(self.addr.is_some()) * 2 + u8::from(own_family))
    }
}

#[derive(Debug, Default)]
struct PortUse {
    binds: Vec<Bind>,
    /// Connections on the port, also in TIME-WAIT, that no entry of `binds` stands for: how many of IPv6 and
    /// IPv4 share with whom.
    connections: [[u32; 4]; 2],
}

/// The ports of one protocol.
pub(crate) struct Ports {
    ports: Map<u16, PortUse>,
    /// The same connections by local address.
    connections: Map<(SocketAddr, Sharing), u32>,
    datagram: bool,
}

impl Ports {
    pub(crate) fn new(key: Keyed, datagram: bool) -> Self {
        Ports { ports: Map::with_hasher(key), connections: Map::with_hasher(key), datagram }
    }

    /// Whether `new` may hold `port` beside those that do.
    pub(crate) fn is_free(&self, port: u16, new: &Bind) -> bool {
        let Some(used) = self.ports.get(&port) else { return true };
        let shared = |old: &Bind| {
            old.reuse_port && new.reuse_port
                || old.reuse_address && new.reuse_address && (self.datagram || old.role == Role::Bound)
        };
        !self.connections_refuse(port, used, new)
            && used.binds.iter().all(|old| old.handle == new.handle || !old.overlaps(new) || shared(old))
    }

    /// Whether a connection has an address that `new` would take, and does not share it.
    fn connections_refuse(&self, port: u16, used: &PortUse, new: &Bind) -> bool {
        [false, true].into_iter().filter(|&v4| new.covers(v4)).any(|v4| {
            let counts = &used.connections[usize::from(v4)];
            Sharing::ALL.into_iter().filter(|s| counts[s.index()] > 0 && !s.allows(new)).any(|sharing| {
                let at = |ip| self.connections.contains_key(&(SocketAddr::new(ip, port), sharing));
                new.addr.is_none_or(at)
            })
        })
    }

    /// Whether a port has no holder but connections.
    pub(crate) fn is_unbound(&self, port: u16) -> bool {
        self.ports.get(&port).is_none_or(|used| used.binds.is_empty())
    }

    pub(crate) fn add(&mut self, port: u16, bind: Bind) {
        self.ports.entry(port).or_default().binds.push(bind);
    }

    pub(crate) fn remove(&mut self, port: u16, handle: Handle) {
        if let Some(used) = self.ports.get_mut(&port) {
            used.binds.retain(|b| b.handle != handle);
            self.tidy(port);
        }
    }

    /// The entry of a bound socket.
    pub(crate) fn entry(&mut self, port: u16, handle: Handle) -> Option<&mut Bind> {
        self.ports.get_mut(&port)?.binds.iter_mut().find(|b| b.handle == handle)
    }

    /// Counts a connection on its local address.
    pub(crate) fn add_connection(&mut self, local: SocketAddr, sharing: Sharing) {
        let used = self.ports.entry(local.port()).or_default();
        used.connections[usize::from(local.is_ipv4())][sharing.index()] += 1;
        *self.connections.entry((local, sharing)).or_default() += 1;
    }

    /// Takes a connection out that was counted.
    pub(crate) fn remove_connection(&mut self, local: SocketAddr, sharing: Sharing) {
        let Entry::Occupied(mut entry) = self.connections.entry((local, sharing)) else { return };
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
        if let Some(used) = self.ports.get_mut(&local.port()) {
            used.connections[usize::from(local.is_ipv4())][sharing.index()] -= 1;
            self.tidy(local.port());
        }
    }

    fn tidy(&mut self, port: u16) {
        if self.ports.get(&port).is_some_and(|u| u.binds.is_empty() && u.connections == [[0; 4]; 2]) {
            self.ports.remove(&port);
        }
    }

    /// The receiving socket that fits a packet best; of equals that share the port, the one that `spread`
    /// (a hash of the packet's addresses) falls on.
    pub(crate) fn receiver(&self, port: u16, dst: IpAddr, spread: impl FnOnce() -> u64) -> Option<Handle> {
        let binds = &self.ports.get(&port)?.binds;
        let score = |b: &Bind| if b.role == Role::Receiving { b.fits(dst) } else { None };
        if let [only] = binds.as_slice() {
            return score(only).map(|_| only.handle);
        }
        let best = binds.iter().filter_map(score).max()?;
        let mut fitting = binds.iter().filter(|b| score(b) == Some(best));
        let count = fitting.clone().count();
        let first = fitting.clone().next()?;
        if count > 1 && first.reuse_port {
            let at = (u128::from(spread()) * count as u128) >> 64;
            return fitting.nth(at as usize).map(|b| b.handle);
        }
        // Without SO_REUSEPORT the last one that was bound gets it, as on Linux.
        fitting.next_back().map(|b| b.handle)
    }

    /// Everybody on the port whom a multicast or broadcast packet reaches.
    pub(crate) fn receivers(&self, port: u16, dst: IpAddr) -> impl Iterator<Item = Handle> + '_ {
        let binds = self.ports.get(&port).map_or(&[][..], |u| &u.binds);
        binds.iter().filter(move |b| b.role == Role::Receiving && b.fits(dst).is_some()).map(|b| b.handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(handle: u64, addr: &str, reuse: (bool, bool), role: Role) -> Bind {
        let ip: IpAddr = addr.parse().unwrap();
        let domain = if ip.is_ipv4() { Domain::V4 } else { Domain::V6 };
        Bind {
            handle: Handle(handle),
            addr: (!ip.is_unspecified()).then_some(ip),
            domain,
            v6_only: false,
            reuse_address: reuse.0,
            reuse_port: reuse.1,
            role,
        }
    }

    #[test]
    fn sharing_follows_linux() {
        let key = Keyed::random();
        let mut tcp = Ports::new(key, false);
        let plain = (false, false);
        tcp.add(80, bind(1, "127.0.0.1", plain, Role::Bound));
        assert!(!tcp.is_free(80, &bind(2, "0.0.0.0", plain, Role::Bound)));
        assert!(!tcp.is_free(80, &bind(2, "::", plain, Role::Bound)), "dual stack");
        assert!(tcp.is_free(80, &Bind { v6_only: true, ..bind(2, "::", plain, Role::Bound) }));
        assert!(tcp.is_free(80, &bind(2, "127.0.0.2", plain, Role::Bound)));
        assert!(tcp.is_free(80, &bind(2, "::1", plain, Role::Bound)));
        tcp.add(81, bind(1, "0.0.0.0", (true, false), Role::Bound));
        assert!(tcp.is_free(81, &bind(2, "0.0.0.0", (true, false), Role::Bound)));
        tcp.entry(81, Handle(1)).unwrap().role = Role::Receiving;
        assert!(!tcp.is_free(81, &bind(2, "0.0.0.0", (true, false), Role::Bound)));
        tcp.remove(81, Handle(1));
        tcp.remove(80, Handle(1));
        assert!(tcp.ports.is_empty());
    }

    #[test]
    fn connections_keep_their_address_and_share_as_they_said() {
        let mut tcp = Ports::new(Keyed::random(), false);
        let local: SocketAddr = "127.0.0.1:81".parse().unwrap();
        let options = [(false, false), (true, false), (false, true), (true, true)];
        for (index, (address, port)) in options.into_iter().enumerate() {
            let sharing = Sharing { address, port };
            assert_eq!((sharing.index(), Sharing::ALL[index]), (index, sharing));
            tcp.add_connection(local, sharing);
            tcp.add_connection(local, sharing);
            tcp.remove_connection(local, sharing);
            for new in options {
                let shared = address && new.0 || port && new.1;
                for (addr, free) in [
                    ("127.0.0.1", shared),
                    ("0.0.0.0", shared),
                    ("::", shared),
                    ("127.0.0.2", true),
                    ("::1", true),
                ] {
                    let bind = bind(2, addr, new, Role::Bound);
                    assert_eq!(tcp.is_free(81, &bind), free, "{sharing:?} {new:?} {addr}");
                    assert_eq!(tcp.is_free(81, &Bind { v6_only: true, ..bind }), free || addr == "::");
                }
            }
            tcp.remove_connection(local, sharing);
            // One that was never counted is no harm.
            tcp.remove_connection(local, sharing);
            assert!(tcp.ports.is_empty() && tcp.connections.is_empty());
        }
    }

    #[test]
    fn the_best_fit_receives_and_reuse_port_spreads() {
        let mut udp = Ports::new(Keyed::random(), true);
        udp.add(5, bind(1, "0.0.0.0", (true, true), Role::Receiving));
        udp.add(5, bind(2, "127.0.0.1", (true, true), Role::Receiving));
        let to = |udp: &Ports, a: &str, h: u64| udp.receiver(5, a.parse().unwrap(), || h);
        assert_eq!(to(&udp, "127.0.0.1", 0), Some(Handle(2)));
        assert_eq!(to(&udp, "127.0.0.2", 0), Some(Handle(1)));
        assert_eq!(to(&udp, "::1", 0), None);
        udp.add(5, bind(3, "0.0.0.0", (true, true), Role::Receiving));
        assert_eq!(to(&udp, "127.0.0.2", 0), Some(Handle(1)));
        assert_eq!(to(&udp, "127.0.0.2", u64::MAX), Some(Handle(3)));
    }
}

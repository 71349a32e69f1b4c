//! The stack's sockets that stand for local addresses of the kernel's datagram sockets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netgraft_plugin::{Handle, SocketOption};

use super::packet::Header;

/// What stands for a local address. It may serve several sockets: to which of them a datagram goes is the kernel's
/// business.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint {
    /// The stack's socket.
    pub(super) handle: Handle,
    /// The peer that it is connected to.
    pub(super) peer: Option<SocketAddr>,
    /// How many sockets have asked for the address by bind(2); 0 if the kernel chose the port.
    pub(super) binds: u32,
    /// The local address that the last datagram was sent from.
    pub(super) source: Option<IpAddr>,
    /// What its packets say.
    pub(super) sends_as: SendsAs,
    /// When it was last used.
    pub(super) used: u64,
}

/// What the packets of a socket of the stack say, as far as the kernel's packets have asked for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SendsAs {
    /// TTL or hop limit, for single hosts and for groups; 0 if none was set.
    hop_limits: [u8; 2],
    /// TOS or traffic class.
    traffic_class: u8,
}

impl SendsAs {
    /// The options that are to be set before a packet leaves as the kernel has sent it.
    pub(super) fn change(&mut self, header: &Header) -> impl Iterator<Item = SocketOption> + use<> {
        let &Header { destination, hop_limit, traffic_class, .. } = header;
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
        [(limit != hop_limit).then_some(limited), (class != traffic_class).then_some(classed)]
            .into_iter()
            .flatten()
    }
}

/// All of them, by the addresses that they are bound to.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    by_address: HashMap<SocketAddr, Endpoint>,
    by_handle: HashMap<Handle, SocketAddr>,
    /// Counts uses.
    uses: u64,
}

impl Endpoints {
    pub(super) fn len(&self) -> usize {
        self.by_address.len()
    }

    pub(super) fn insert(&mut self, local: SocketAddr, handle: Handle, binds: u32) {
        self.uses += 1;
        let endpoint = Endpoint {
            handle,
            peer: None,
            binds,
            source: None,
            sends_as: SendsAs::default(),
            used: self.uses,
        };
        self.by_handle.insert(handle, local);
        self.by_address.insert(local, endpoint);
    }

    pub(super) fn remove(&mut self, local: &SocketAddr) -> Option<Endpoint> {
        let endpoint = self.by_address.remove(local)?;
        self.by_handle.remove(&endpoint.handle);
        Some(endpoint)
    }

    pub(super) fn get_mut(&mut self, local: &SocketAddr) -> Option<&mut Endpoint> {
        self.by_address.get_mut(local)
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
    pub(super) fn stalest(&self) -> Option<SocketAddr> {
        let free = self.by_address.iter().filter(|(_, endpoint)| endpoint.binds == 0);
        free.min_by_key(|(_, endpoint)| endpoint.used).map(|(address, _)| *address)
    }

    /// All addresses.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.by_address.keys().copied().collect()
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

    #[test]
    fn an_address_is_served_by_itself_or_by_any() {
        let (own, any) = ("192.0.2.1:53".parse().unwrap(), "0.0.0.0:53".parse().unwrap());
        let mut all = Endpoints::default();
        assert_eq!(all.find(own), None);
        all.insert(any, Handle(1), 1);
        assert_eq!(all.find(own), Some(any));
        all.insert(own, Handle(2), 1);
        assert_eq!(all.find(own), Some(own));
        assert_eq!(all.find("192.0.2.1:54".parse().unwrap()), None);
        assert_eq!(all.find("[2001:db8::1]:53".parse().unwrap()), None);
        assert_eq!(all.remove(&own).map(|e| e.handle), Some(Handle(2)));
        assert_eq!((all.of_handle(Handle(2)), all.of_handle(Handle(1))), (None, Some(any)));
    }

    #[test]
    fn the_stalest_is_one_whose_port_the_kernel_chose() {
        let address = |port| SocketAddr::new("0.0.0.0".parse().unwrap(), port);
        let mut all = Endpoints::default();
        assert_eq!(all.stalest(), None);
        all.insert(address(1), Handle(1), 1);
        all.insert(address(2), Handle(2), 0);
        all.insert(address(3), Handle(3), 0);
        assert_eq!(all.stalest(), Some(address(2)));
        all.touch(&address(2));
        assert_eq!(all.stalest(), Some(address(3)));
    }
}

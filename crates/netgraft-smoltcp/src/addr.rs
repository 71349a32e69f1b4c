//! Addresses: IPv4-mapped IPv6 addresses are IPv4 inside the stack, and are shown as the socket's family has
//! them (RFC 4291 section 2.5.5.2, ipv6(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use netgraft_plugin::{Domain, Error, Result};
use smoltcp::wire::IpAddress;

/// Addresses and ports of both ends, IPv4 as IPv4-mapped: the key of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tuple {
    local: u128,
    remote: u128,
    ports: u32,
}

impl Tuple {
    pub(crate) fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Tuple {
            local: bits(local.ip()),
            remote: bits(remote.ip()),
            ports: u32::from(local.port()) << 16 | u32::from(remote.port()),
        }
    }
}

impl Tuple {
    /// Both addresses without the ports.
    pub(crate) fn addresses(&self) -> (u128, u128) {
        (self.local, self.remote)
    }

    /// The local address and port.
    pub(crate) fn local(&self) -> SocketAddr {
        let ip = Ipv6Addr::from_bits(self.local);
        let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
        SocketAddr::new(ip, (self.ports >> 16) as u16)
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => 0xffff_0000_0000 | u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// What an address of the program means inside the stack.
///
/// # Errors
/// [`Error::FamilyNotSupported`] if the socket does not speak it.
pub(crate) fn inward(domain: Domain, addr: SocketAddr) -> Result<SocketAddr> {
    match (domain, addr) {
        (Domain::V4, SocketAddr::V4(_)) => Ok(addr),
        (Domain::V6, SocketAddr::V6(a)) => Ok(match a.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), a.port()),
            None => SocketAddr::V6(SocketAddrV6::new(*a.ip(), a.port(), 0, a.scope_id())),
        }),
        _ => Err(Error::FamilyNotSupported),
    }
}

/// An address of the stack as a socket of `domain` shows it.
pub(crate) fn outward(domain: Domain, addr: SocketAddr) -> SocketAddr {
    match outward_ip(domain, addr.ip()) {
        // A link-local address is one of an interface, and only the link's has any.
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(ip, addr.port(), 0, crate::iface::Side::Link.index()))
        }
        ip => SocketAddr::new(ip, addr.port()),
    }
}

/// The same without a port.
pub(crate) fn outward_ip(domain: Domain, ip: IpAddr) -> IpAddr {
    match (domain, ip) {
        (Domain::V6, IpAddr::V4(a)) => a.to_ipv6_mapped().into(),
        _ => ip,
    }
}

/// The address that means "any" in a family.
pub(crate) const fn unspecified(domain: Domain) -> IpAddr {
    match domain {
        Domain::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Domain::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// An address for smoltcp.
pub(crate) fn address(ip: IpAddr) -> IpAddress {
    match ip {
        IpAddr::V4(a) => IpAddress::Ipv4(a),
        IpAddr::V6(a) => IpAddress::Ipv6(a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_tells_its_local_address() {
        for (local, remote) in
            [("192.0.2.1:80", "192.0.2.2:5000"), ("[2001:db8::1]:80", "[2001:db8::2]:5000")]
        {
            let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
            assert_eq!(Tuple::new(local, remote).local(), local);
        }
    }

    #[test]
    fn mapped_addresses_go_in_as_ipv4_and_come_out_mapped() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:80".parse().unwrap();
        let v4: SocketAddr = "192.0.2.1:80".parse().unwrap();
        assert_eq!(inward(Domain::V6, mapped), Ok(v4));
        assert_eq!(outward(Domain::V6, v4), mapped);
        assert_eq!(outward(Domain::V4, v4), v4);
        assert_eq!(inward(Domain::V4, mapped), Err(Error::FamilyNotSupported));
        assert_eq!(inward(Domain::V6, v4), Err(Error::FamilyNotSupported));
    }
}

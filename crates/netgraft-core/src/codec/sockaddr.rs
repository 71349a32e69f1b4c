//! Socket addresses in the program's memory (ip(7), ipv6(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use netgraft_plugin::Domain;

use crate::uapi::{self, Errno};

/// The most bytes of an address that are read (`struct sockaddr_storage`).
pub const MAX_LEN: usize = 128;

/// Size of `struct sockaddr_in`.
const V4_LEN: usize = 16;
/// Size of `struct sockaddr_in6`; Linux also takes it without the scope (RFC 2133).
const V6_LEN: usize = 28;
const V6_SHORT_LEN: usize = 24;

/// An address as the program gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// An internet address.
    Inet(SocketAddr),
    /// `AF_UNSPEC`: connect(2) forgets the peer.
    Unspecified,
}

/// Reads an address for a socket of `domain`.
///
/// # Errors
/// EINVAL if it is too short, EAFNOSUPPORT if it is of another family.
pub fn parse(domain: Domain, bytes: &[u8]) -> Result<Given, Errno> {
    let family = bytes.get(..2).map(|b| u16::from_ne_bytes([b[0], b[1]])).ok_or(uapi::EINVAL)?;
    match (i32::from(family), domain) {
        (uapi::AF_UNSPEC, _) => Ok(Given::Unspecified),
        (uapi::AF_INET, Domain::V4) => parse_v4(bytes).map(Given::Inet),
        (uapi::AF_INET6, Domain::V6) => parse_v6(bytes).map(Given::Inet),
        _ => Err(uapi::EAFNOSUPPORT),
    }
}

/// Reads an address for connect(2) on a stream. Of what is too short the family does not count.
///
/// # Errors
/// As [`parse`].
pub fn parse_for_connect(domain: Domain, bytes: &[u8]) -> Result<Given, Errno> {
    match parse(domain, bytes) {
        Err(_) if domain == Domain::V6 && bytes.len() < V6_SHORT_LEN => Err(uapi::EINVAL),
        given => given,
    }
}

/// Reads an address to bind to. `AF_UNSPEC` with the unspecified address means `AF_INET` (ip(7)).
///
/// # Errors
/// As [`parse`].
pub fn parse_for_bind(domain: Domain, bytes: &[u8]) -> Result<SocketAddr, Errno> {
    if domain == Domain::V6 && bytes.len() < V6_SHORT_LEN {
        return Err(uapi::EINVAL);
    }
    match parse(domain, bytes)? {
        Given::Inet(addr) => Ok(addr),
        Given::Unspecified if domain == Domain::V4 => match parse_v4(bytes)? {
            addr if addr.ip().is_unspecified() => Ok(addr),
            _ => Err(uapi::EAFNOSUPPORT),
        },
        Given::Unspecified => Err(uapi::EAFNOSUPPORT),
    }
}

fn parse_v4(bytes: &[u8]) -> Result<SocketAddr, Errno> {
    let bytes: &[u8; V4_LEN] = bytes.first_chunk().ok_or(uapi::EINVAL)?;
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let addr = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
    Ok(SocketAddr::new(IpAddr::V4(addr), port))
}

fn parse_v6(bytes: &[u8]) -> Result<SocketAddr, Errno> {
    let head: &[u8; V6_SHORT_LEN] = bytes.first_chunk().ok_or(uapi::EINVAL)?;
    let port = u16::from_be_bytes([head[2], head[3]]);
    let flow = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let mut addr = [0u8; 16];
    addr.copy_from_slice(&head[8..24]);
    let scope = bytes.get(24..28).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    Ok(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(addr), port, flow, scope)))
}

/// An address as the program is to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    bytes: [u8; V6_LEN],
    len: usize,
}

impl Encoded {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Writes an address for a socket of `domain`: an IPv4 address on an IPv6 socket is shown mapped (RFC 4291
/// section 2.5.5.2).
#[must_use]
pub fn encode(domain: Domain, addr: SocketAddr) -> Encoded {
    let mut bytes = [0u8; V6_LEN];
    match (domain, addr) {
        (Domain::V4, SocketAddr::V4(v4)) => {
            bytes[0..2].copy_from_slice(&(uapi::AF_INET as u16).to_ne_bytes());
            bytes[2..4].copy_from_slice(&v4.port().to_be_bytes());
            bytes[4..8].copy_from_slice(&v4.ip().octets());
            Encoded { bytes, len: V4_LEN }
        }
        (_, addr) => {
            let (ip, flow, scope) = match addr {
                SocketAddr::V6(v6) => (*v6.ip(), v6.flowinfo(), v6.scope_id()),
                SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0, 0),
            };
            bytes[0..2].copy_from_slice(&(uapi::AF_INET6 as u16).to_ne_bytes());
            bytes[2..4].copy_from_slice(&addr.port().to_be_bytes());
            bytes[4..8].copy_from_slice(&flow.to_be_bytes());
            bytes[8..24].copy_from_slice(&ip.octets());
            bytes[24..28].copy_from_slice(&scope.to_ne_bytes());
            Encoded { bytes, len: V6_LEN }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_a_round_trip() {
        for (domain, text) in [(Domain::V4, "192.0.2.1:80"), (Domain::V6, "[2001:db8::1%7]:443")] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(parse(domain, encode(domain, addr).bytes()), Ok(Given::Inet(addr)));
        }
    }

    #[test]
    fn ipv4_on_an_ipv6_socket_is_mapped() {
        let encoded = encode(Domain::V6, "192.0.2.1:80".parse().unwrap());
        assert_eq!(
            parse(Domain::V6, encoded.bytes()),
            Ok(Given::Inet("[::ffff:192.0.2.1]:80".parse().unwrap()))
        );
    }

    #[test]
    fn short_and_foreign_addresses_are_refused() {
        let v4 = encode(Domain::V4, "192.0.2.1:80".parse().unwrap());
        for len in 0..16 {
            assert_eq!(parse(Domain::V4, &v4.bytes()[..len]), Err(uapi::EINVAL));
        }
        assert_eq!(parse(Domain::V6, v4.bytes()), Err(uapi::EAFNOSUPPORT));
        assert_eq!(parse(Domain::V4, &[0, 0]), Ok(Given::Unspecified));
        assert_eq!(parse_for_bind(Domain::V4, &[0; 16]), Ok("0.0.0.0:0".parse().unwrap()));
        assert_eq!(parse_for_bind(Domain::V6, &[0; 28]), Err(uapi::EAFNOSUPPORT));
    }
}

//! `ioctl` requests of sockets and interfaces (netdevice(7), tcp(7)).

use std::net::IpAddr;

use netgraft_plugin::inet::Interface;

use crate::codec::call::Buffer;
use crate::uapi::{self, Errno};

/// Size of `struct ifreq`.
pub const REQUEST_LEN: usize = 40;
const NAME_LEN: usize = 16;

/// What an `ioctl` on a socket asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `SIOCOUTQ`: bytes that the peer has not acknowledged.
    QueuedOut,
    /// `SIOCATMARK`: whether urgent data is next.
    AtMark,
    /// `SIOCGIFCONF`: the interfaces with IPv4 addresses.
    List,
    /// A request on one interface, whose name or index is in a `struct ifreq`.
    Interface(u32),
    /// Nothing that exists here.
    Unknown,
}

/// Reads a request number.
#[must_use]
pub const fn parse(request: u32) -> Request {
    match request {
        0x5411 => Request::QueuedOut,
        0x8905 => Request::AtMark,
        0x8912 => Request::List,
        0x8910..=0x8977 => Request::Interface(request),
        _ => Request::Unknown,
    }
}

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;

/// Answers a request on one interface: changes the `struct ifreq` in place.
///
/// # Errors
/// ENODEV if there is no such interface, EADDRNOTAVAIL if it has no IPv4 address, EPERM for a change, ENOTTY
/// for a request that does not exist.
pub fn answer(request: u32, interfaces: &[Interface], bytes: &mut [u8; REQUEST_LEN]) -> Result<(), Errno> {
    let value = NAME_LEN;
    let int = |bytes: &[u8]| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    if request == SIOCGIFNAME {
        let index = int(&bytes[value..]);
        let found = interfaces.iter().find(|i| i64::from(i.index) == i64::from(index)).ok_or(uapi::ENODEV)?;
        bytes[..NAME_LEN].copy_from_slice(&name_field(&found.name));
        return Ok(());
    }
    let end = bytes[..NAME_LEN].iter().position(|&b| b == 0).unwrap_or(NAME_LEN);
    let interface = interfaces.iter().find(|i| i.name.as_bytes() == &bytes[..end]).ok_or(uapi::ENODEV)?;
    let v4 = interface.addresses.iter().find(|a| a.addr().is_ipv4());
    let field = &mut bytes[value..];
    let put = |field: &mut [u8], v: i32| field[..4].copy_from_slice(&v.to_ne_bytes());
    match request {
        SIOCGIFFLAGS => field[..2].copy_from_slice(&(flags(interface) as u16).to_ne_bytes()),
        SIOCGIFMETRIC => put(field, 0),
        SIOCGIFMTU => put(field, i32::try_from(interface.mtu).unwrap_or(i32::MAX)),
        SIOCGIFINDEX => put(field, i32::try_from(interface.index).unwrap_or(i32::MAX)),
        SIOCGIFTXQLEN => put(field, 1000),
        SIOCGIFHWADDR => {
            // ARPHRD_LOOPBACK, ARPHRD_ETHER or ARPHRD_NONE
            let kind: u16 = match (interface.loopback, interface.hardware_address) {
                (true, _) => 772,
                (false, Some(_)) => 1,
                (false, None) => 0xfffe,
            };
            field[..16].fill(0);
            field[..2].copy_from_slice(&kind.to_ne_bytes());
            if let Some(address) = interface.hardware_address {
                field[2..8].copy_from_slice(&address);
            }
        }
        SIOCGIFADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK => {
            let address = v4.ok_or(uapi::EADDRNOTAVAIL)?;
            let IpAddr::V4(own) = address.addr() else { return Err(uapi::EADDRNOTAVAIL) };
            let mask = u32::MAX.checked_shl(32 - u32::from(address.prefix())).unwrap_or(0);
            let octets = match request {
                SIOCGIFADDR => own.octets(),
                SIOCGIFNETMASK => mask.to_be_bytes(),
                _ => address.broadcast().map_or([0; 4], |b| b.octets()),
            };
            field[..16].copy_from_slice(&ipv4_sockaddr(octets));
        }
        // The even numbers between are the matching changes (SIOCSIFADDR and so on).
        0x8914..=0x8924 | 0x8934..=0x8937 | 0x8943 => return Err(uapi::EPERM),
        _ => return Err(uapi::ENOTTY),
    }
    Ok(())
}

/// The list that `SIOCGIFCONF` gives: an entry for each IPv4 address.
#[must_use]
pub fn list(interfaces: &[Interface]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for interface in interfaces {
        for address in &interface.addresses {
            if let IpAddr::V4(own) = address.addr() {
                bytes.extend(name_field(&interface.name));
                bytes.extend(ipv4_sockaddr(own.octets()));
                bytes.extend([0; REQUEST_LEN - 2 * NAME_LEN]);
            }
        }
    }
    bytes
}

/// Size of `struct ifconf`.
pub const LIST_LEN: usize = 16;

/// What a `struct ifconf` asks for: where the list goes, and how many of its bytes may. `None` asks only how long
/// the list is.
#[must_use]
pub fn parse_list(bytes: &[u8; LIST_LEN]) -> Option<Buffer> {
    let [a, b, c, d, _, _, _, _, address @ ..] = *bytes;
    let address = u64::from_ne_bytes(address);
    // A length below zero has room for nothing, which is no error (dev_ifconf of Linux).
    let len = u64::try_from(i32::from_ne_bytes([a, b, c, d])).unwrap_or(0);
    (address != 0).then_some(Buffer { address, len })
}

fn flags(interface: &Interface) -> i32 {
    let mut flags = 0;
    if interface.up {
        flags |= uapi::IFF_UP | uapi::IFF_RUNNING;
    }
    flags
        | match (interface.loopback, interface.hardware_address) {
            (true, _) => uapi::IFF_LOOPBACK,
            (false, Some(_)) => uapi::IFF_BROADCAST | uapi::IFF_MULTICAST,
            (false, None) => uapi::IFF_POINTOPOINT | uapi::IFF_NOARP | uapi::IFF_MULTICAST,
        }
}

fn name_field(name: &str) -> [u8; NAME_LEN] {
    let mut field = [0; NAME_LEN];
    let len = name.len().min(NAME_LEN - 1);
    field[..len].copy_from_slice(&name.as_bytes()[..len]);
    field
}

fn ipv4_sockaddr(octets: [u8; 4]) -> [u8; 16] {
    let mut field = [0; 16];
    field[..2].copy_from_slice(&(uapi::AF_INET as u16).to_ne_bytes());
    field[4..8].copy_from_slice(&octets);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces() -> Vec<Interface> {
        vec![Interface {
            index: 2,
            name: "eth0".into(),
            mtu: 1500,
            up: true,
            loopback: false,
            hardware_address: Some([2, 0, 0, 0, 0, 1]),
            addresses: vec!["192.0.2.7/24".parse().unwrap(), "2001:db8::7/64".parse().unwrap()],
        }]
    }

    fn ask(request: u32, name: &str) -> Result<[u8; REQUEST_LEN], Errno> {
        let mut bytes = [0; REQUEST_LEN];
        bytes[..16].copy_from_slice(&name_field(name));
        answer(request, &interfaces(), &mut bytes).map(|()| bytes)
    }

    #[test]
    fn flags_are_those_of_the_device_that_mirrors_the_interface() {
        let [ethernet] = <[Interface; 1]>::try_from(interfaces()).unwrap();
        assert_eq!(flags(&ethernet), 0x1043);
        assert_eq!(flags(&Interface { up: false, ..ethernet.clone() }), 0x1002);
        // As a TUN device has them.
        assert_eq!(flags(&Interface { hardware_address: None, ..ethernet.clone() }), 0x10d1);
        assert_eq!(flags(&Interface { loopback: true, ..ethernet }), 0x49);
    }

    #[test]
    fn a_list_is_asked_for_with_any_length() {
        let ask = |len: i32, address: u64| {
            let mut bytes = [0xa5; LIST_LEN];
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
            bytes[8..].copy_from_slice(&address.to_ne_bytes());
            parse_list(&bytes)
        };
        for len in [0, 80, -1, i32::MIN, i32::MAX] {
            assert_eq!(ask(len, 0), None);
            assert_eq!(ask(len, 4096), Some(Buffer { address: 4096, len: len.max(0) as u64 }));
        }
    }

    #[test]
    fn an_interface_is_described() {
        assert_eq!(ask(SIOCGIFADDR, "eth0").unwrap()[20..24], [192, 0, 2, 7]);
        assert_eq!(ask(SIOCGIFNETMASK, "eth0").unwrap()[20..24], [255, 255, 255, 0]);
        assert_eq!(ask(SIOCGIFBRDADDR, "eth0").unwrap()[20..24], [192, 0, 2, 255]);
        assert_eq!(ask(SIOCGIFHWADDR, "eth0").unwrap()[16..24], [1, 0, 2, 0, 0, 0, 0, 1]);
        assert_eq!(ask(SIOCGIFMTU, "eth0").unwrap()[16..20], 1500i32.to_ne_bytes());
        assert_eq!(ask(SIOCGIFINDEX, "eth0").unwrap()[16..20], 2i32.to_ne_bytes());
        assert_eq!(ask(SIOCGIFADDR, "eth1"), Err(uapi::ENODEV));
        assert_eq!(ask(0x8914, "eth0"), Err(uapi::EPERM));
        let list = list(&interfaces());
        assert_eq!(list.len(), REQUEST_LEN);
        assert_eq!(&list[..5], b"eth0\0");
    }
}

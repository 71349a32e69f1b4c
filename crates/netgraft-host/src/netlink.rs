//! The host's interfaces, addresses and routes, read over rtnetlink(7).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{BorrowedFd, OwnedFd};

use netgraft_linux::inet_socket as sys;
use netgraft_plugin::Cidr;
use netgraft_plugin::inet::{Interface, Route};

/// Opens a socket that reads what there is; it joins no group.
pub(crate) fn open() -> io::Result<OwnedFd> {
    sys::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::NETLINK_ROUTE)
}

/// `struct nlmsghdr` is 16 bytes; the structures after it have these sizes (rtnetlink(7)).
const HEADER: usize = 16;
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const RTMSG: usize = 12;
/// The kernel's largest dump packet is 32 KiB.
const PACKET: usize = 64 << 10;
/// A host with more packets than this in one dump is cut off, rather than looping for ever.
const PACKETS: usize = 4096;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;

/// Asks for a dump of `request` and hands each answer of type `reply` to `each`, without its header.
fn dump(fd: BorrowedFd<'_>, request: u16, reply: u16, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    // Leftovers of a dump that was cut off would be taken for answers.
    let mut packet = vec![0; PACKET];
    while sys::recvfrom(fd, &mut packet, libc::MSG_DONTWAIT).is_ok() {}
    let mut message = [0_u8; HEADER + IFINFOMSG];
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    message[..4].copy_from_slice(&((HEADER + IFINFOMSG) as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&request.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    sys::sendto(fd, &message, None, 0)?;
    for _ in 0..PACKETS {
        let (len, _) = sys::recvfrom(fd, &mut packet, libc::MSG_DONTWAIT)?;
        if messages(&packet[..len.min(PACKET)], reply, &mut each)? {
            return Ok(());
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Hands each message of type `reply` in a packet to `each`, without its header. Whether the dump ends with the packet.
fn messages(packet: &[u8], reply: u16, each: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    let mut rest = packet;
    while let Some(header) = rest.first_chunk::<HEADER>() {
        let size = word(header, 0) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = rest.get(HEADER..size) else { return Err(io::ErrorKind::InvalidData.into()) };
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => return Err(io::ErrorKind::InvalidData.into()),
            _ if kind == reply => each(body),
            _ => {}
        }
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads a packet of the kernel's as each kind of dump.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_anything(packet: &[u8]) {
    let _ = messages(packet, libc::RTM_NEWLINK, &mut |body| {
        if let Some(interface) = link(body) {
            assert!(interface.name.len() <= 3 * body.len(), "a name out of nothing");
        }
    });
    let _ = messages(packet, libc::RTM_NEWADDR, &mut |body| {
        if let Some((_, cidr)) = interface_address(body) {
            assert_eq!(cidr.to_string().parse(), Ok(cidr));
        }
    });
    let _ = messages(packet, libc::RTM_NEWROUTE, &mut |body| {
        if let Some(route) = route(body) {
            assert_eq!(route.destination.to_string().parse(), Ok(route.destination));
        }
    });
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |w| u32::from_ne_bytes(*w))
}

/// The attributes of a message: type and value (rtnetlink(7), `struct rtattr`).
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [a, b, c, d] = *rest.first_chunk()?;
        let size = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..size)?;
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]), value))
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk().map(|raw: &[u8; 4]| IpAddr::V4(Ipv4Addr::from(*raw))),
        16 => bytes.first_chunk().map(|raw: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*raw))),
        _ => None,
    }
}

/// The interfaces with their addresses, by index.
pub(crate) fn interfaces(fd: BorrowedFd<'_>) -> io::Result<Vec<Interface>> {
    let mut found = BTreeMap::new();
    dump(fd, libc::RTM_GETLINK, libc::RTM_NEWLINK, |body| {
        if let Some(interface) = link(body) {
            found.insert(interface.index, interface);
        }
    })?;
    dump(fd, libc::RTM_GETADDR, libc::RTM_NEWADDR, |body| {
        if let Some((index, cidr)) = interface_address(body)
            && let Some(interface) = found.get_mut(&index)
        {
            interface.addresses.push(cidr);
        }
    })?;
    Ok(found.into_values().collect())
}

/// `struct ifinfomsg` and its attributes.
fn link(body: &[u8]) -> Option<Interface> {
    let flags = word(body, 8);
    let mut interface = Interface {
        index: word(body, 4),
        name: String::new(),
        mtu: 0,
        up: flags & libc::IFF_UP as u32 != 0,
        loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
        hardware_address: None,
        addresses: Vec::new(),
    };
    for (kind, value) in attributes(body.get(IFINFOMSG..)?) {
        match kind {
            IFLA_IFNAME => {
                let text = value.strip_suffix(&[0]).unwrap_or(value);
                interface.name = String::from_utf8_lossy(text).into_owned();
            }
            IFLA_MTU => interface.mtu = word(value, 0),
            IFLA_ADDRESS if !interface.loopback => {
                interface.hardware_address = <[u8; 6]>::try_from(value).ok();
            }
            _ => {}
        }
    }
    Some(interface)
}

/// `struct ifaddrmsg` and its attributes: the interface's index and the address.
fn interface_address(body: &[u8]) -> Option<(u32, Cidr)> {
    let prefix = *body.get(1)?;
    let mut found = None;
    for (kind, value) in attributes(body.get(IFADDRMSG..)?) {
        // On a point-to-point link IFA_ADDRESS is the peer's, and IFA_LOCAL ours.
        if kind == IFA_LOCAL || kind == IFA_ADDRESS && found.is_none() {
            found = address(value);
        }
    }
    Some((word(body, 4), Cidr::new(found?, prefix)?))
}

/// The unicast routes of the main table, the most specific first.
pub(crate) fn routes(fd: BorrowedFd<'_>) -> io::Result<Vec<Route>> {
    let mut found = Vec::new();
    dump(fd, libc::RTM_GETROUTE, libc::RTM_NEWROUTE, |body| found.extend(route(body)))?;
    found.sort_by_key(|route| std::cmp::Reverse(route.destination.prefix()));
    Ok(found)
}

/// `struct rtmsg` and its attributes.
fn route(body: &[u8]) -> Option<Route> {
    let [family, prefix, _, _, table, _, _, kind] = *body.first_chunk()?;
    if table != RT_TABLE_MAIN || kind != RTN_UNICAST {
        return None;
    }
    let mut destination = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut gateway, mut interface) = (None, 0);
    for (kind, value) in attributes(body.get(RTMSG..)?) {
        match kind {
            RTA_DST => destination = address(value)?,
            RTA_GATEWAY => gateway = address(value),
            RTA_OIF => interface = word(value, 0),
            _ => {}
        }
    }
    Some(Route { destination: Cidr::new(destination, prefix)?, gateway, interface })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_loopback_is_found_with_its_address() {
        let socket = open().unwrap();
        let interfaces = interfaces(socket.as_fd()).unwrap();
        let lo = interfaces.iter().find(|i| i.loopback).unwrap();
        assert_eq!((lo.index, lo.name.as_str()), (1, "lo"));
        assert!(lo.mtu >= 1280);
        routes(socket.as_fd()).unwrap();
    }

    #[test]
    fn messages_cut_anywhere_do_not_panic() {
        let whole: Vec<u8> = (0..64).map(|i| [20, 0, 3, 0, 250, 255][i % 6]).collect();
        for cut in 0..whole.len() {
            let _ = (link(&whole[..cut]), interface_address(&whole[..cut]), route(&whole[..cut]));
        }
    }
}

//! Network devices, addresses and routes of the caller's own network namespace (netdevice(7), rtnetlink(7)).

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::inet_socket::{recvfrom, sendto, socket};
use crate::link::{control_socket, interface_ioctl, request};
use crate::result::check;

/// Brings `lo` up; the kernel gives it 127.0.0.1 and ::1.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the network namespace.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: socket has no memory arguments.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `ifreq` is plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // A new namespace has `lo` with no flags that a write could lose.
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_LOOPBACK) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, alive during the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

/// Whether a device carries Ethernet frames (TAP) or IP packets (TUN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunKind {
    /// Ethernet frames.
    Ethernet,
    /// IP packets.
    Ip,
}

/// Makes a device whose other end is the descriptor that is returned, under an index of its own choice unless
/// that is taken (Documentation/networking/tuntap.rst of the kernel). The device has a carrier as long as the
/// descriptor is open; reading it is not needed. It is there until its network namespace is not: so whoever closes
/// the descriptor does not wait for the device's removal, some 20 ms, which the kernel then does by itself.
///
/// # Errors
/// ENOENT, ENODEV or EACCES if `/dev/net/tun` cannot be opened, EPERM without CAP_NET_ADMIN over the network
/// namespace, EBUSY or EINVAL if the name is taken.
pub fn make_tun(name: &str, index: u32, kind: TunKind) -> io::Result<OwnedFd> {
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?;
    let kind = match kind {
        TunKind::Ethernet => libc::IFF_TAP,
        TunKind::Ip => libc::IFF_TUN,
    };
    let attach = |index: libc::c_int| {
        // SAFETY: TUNSETIFINDEX reads one int, alive during the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFINDEX as _, &raw const index) })?;
        let mut request = request(name)?;
        request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI) as libc::c_short;
        interface_ioctl(file.as_raw_fd(), libc::TUNSETIFF as libc::c_ulong, &mut request)
    };
    // The module of a tunnel may have put a device of its own at that index; zero lets the kernel choose.
    attach(index.cast_signed()).or_else(|_| attach(0))?;
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST as _, 1) })?;
    Ok(file.into())
}

/// The index of a device.
///
/// # Errors
/// ENODEV if there is none of that name.
pub fn index_of(name: &str) -> io::Result<u32> {
    let mut request = request(name)?;
    interface_ioctl(control_socket()?.as_raw_fd(), libc::SIOCGIFINDEX as libc::c_ulong, &mut request)?;
    // SAFETY: SIOCGIFINDEX has filled `ifru_ifindex`.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    u32::try_from(index).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// `struct nlmsghdr` (netlink(7)).
const HEADER: usize = 16;
/// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_OPERSTATE: u16 = 16;
/// `IF_OPER_UP` (linux/if.h)
const IF_OPER_UP: u8 = 6;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VXLAN_ID: u16 = 1;
/// linux/veth.h
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
/// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 2;
/// linux/rtnetlink.h
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTNH_F_ONLINK: u32 = 4;

/// Where packets of a route go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// The destination is on the link.
    Link,
    /// A router in a network of the device.
    Gateway(IpAddr),
    /// A router on the link whose address is in no network of the device.
    GatewayOnLink(IpAddr),
}

/// Changes that rtnetlink(7) makes, one message each.
#[derive(Debug, Default)]
pub struct Changes {
    bytes: Vec<u8>,
    count: u32,
}

impl Changes {
    /// None.
    #[must_use]
    pub fn new() -> Changes {
        Changes::default()
    }

    /// Adds a message of a type; `body` is its structure and its attributes.
    fn push(&mut self, kind: u16, flags: libc::c_int, body: &[u8]) {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        self.bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]); // to the kernel
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.count += 1;
    }

    /// Adds what an interface had: an address or a route of [`of_interface`].
    pub fn restore(&mut self, kept: &Kept) {
        let kind = if kept.is_route { libc::RTM_NEWROUTE } else { libc::RTM_NEWADDR };
        self.push(kind, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &kept.body);
    }

    /// Makes a bridge without ports. It has no carrier once it has been given an address.
    pub fn make_bridge(&mut self, name: &str, index: u32) {
        self.make_device(name, index, |info| attribute(info, IFLA_INFO_KIND, b"bridge"));
    }

    /// Makes a VXLAN device that knows no other end: what is sent to it is dropped. It has a carrier. Each of a
    /// network namespace has another `id`, of 24 bits.
    pub fn make_vxlan(&mut self, name: &str, index: u32, id: u32) {
        self.make_device(name, index, |info| {
            attribute(info, IFLA_INFO_KIND, b"vxlan");
            nested(info, IFLA_INFO_DATA, |data| attribute(data, IFLA_VXLAN_ID, &id.to_ne_bytes()));
        });
    }

    fn make_device(&mut self, name: &str, index: u32, describe: impl FnOnce(&mut Vec<u8>)) {
        let mut body = link(index, 0);
        attribute(&mut body, IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        nested(&mut body, IFLA_LINKINFO, describe);
        self.push(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body);
    }

    /// Makes a veth pair (veth(4)): both ends have this name, the other one in another network namespace.
    pub fn make_veth(&mut self, name: &str, other: BorrowedFd<'_>) {
        self.make_pair(name, 0, other, |_| {});
    }

    /// The same, whose other end has this index, if that is free there. The kernel cuts what it sends over that end into single
    /// packets (`IFLA_GSO_MAX_SEGS`).
    pub fn make_veth_at(&mut self, name: &str, other: BorrowedFd<'_>, index: u32) {
        // The index of the other end counts only where this end has one, too.
        self.make_pair(name, index, other, |peer| {
            attribute(peer, IFLA_GSO_MAX_SEGS, &1_u32.to_ne_bytes());
        });
    }

    fn make_pair(
        &mut self,
        name: &str,
        index: u32,
        other: BorrowedFd<'_>,
        describe: impl FnOnce(&mut Vec<u8>),
    ) {
        self.make_device(name, index, |info| {
            attribute(info, IFLA_INFO_KIND, b"veth");
            nested(info, IFLA_INFO_DATA, |data| {
                nested(data, VETH_INFO_PEER, |peer| {
                    peer.extend(link(index, 0));
                    attribute(peer, IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
                    attribute(peer, IFLA_NET_NS_FD, &other.as_raw_fd().to_ne_bytes());
                    describe(peer);
                });
            });
        });
    }

    /// Removes a device; the other end of a veth pair goes with it.
    pub fn delete(&mut self, index: u32) {
        self.push(libc::RTM_DELLINK, 0, &link(index, 0));
    }

    /// Sets a device's MTU in bytes and, if given, its Ethernet address.
    pub fn configure(&mut self, index: u32, mtu: u32, mac: Option<[u8; 6]>) {
        let mut body = link(index, 0);
        if let Some(mac) = mac {
            attribute(&mut body, IFLA_ADDRESS, &mac);
        }
        attribute(&mut body, IFLA_MTU, &mtu.to_ne_bytes());
        self.push(libc::RTM_NEWLINK, 0, &body);
    }

    /// Keeps the kernel from giving a device a link-local IPv6 address by itself. EAFNOSUPPORT where the kernel
    /// has no IPv6.
    pub fn no_automatic_address(&mut self, index: u32) {
        let mut body = link(index, 0);
        nested(&mut body, IFLA_AF_SPEC, |families| {
            nested(families, libc::AF_INET6 as u16, |inet6| {
                attribute(inet6, IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        });
        self.push(libc::RTM_NEWLINK, 0, &body);
    }

    /// Says that a device that is up, and has a carrier, works: `ip link` then shows it as UP and not as UNKNOWN, which it is
    /// until its carrier changes (Documentation/networking/operstates.rst of the kernel).
    pub fn operational(&mut self, index: u32) {
        let mut body = link(index, 0);
        attribute(&mut body, IFLA_OPERSTATE, &[IF_OPER_UP]);
        self.push(libc::RTM_NEWLINK, 0, &body);
    }

    /// Brings a device up.
    pub fn up(&mut self, index: u32) {
        let body = link(index, libc::IFF_UP as u32);
        self.push(libc::RTM_NEWLINK, 0, &body);
    }

    /// Has no neighbours looked for on a device: whatever it is sent to is behind it.
    pub fn no_neighbours(&mut self, index: u32) {
        let body = link(index, libc::IFF_NOARP as u32);
        self.push(libc::RTM_NEWLINK, 0, &body);
    }

    /// Gives a device an address, which is at once in use: duplicates are not looked for.
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8, broadcast: Option<Ipv4Addr>) {
        let mut body = vec![family(address), prefix, 0, 0];
        if address.is_ipv6() {
            body[2] = IFA_F_NODAD;
        }
        body.extend(index.to_ne_bytes());
        ip_attribute(&mut body, IFA_LOCAL, address);
        ip_attribute(&mut body, IFA_ADDRESS, address);
        if let Some(broadcast) = broadcast {
            attribute(&mut body, IFA_BROADCAST, &broadcast.octets());
        }
        self.push(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body);
    }

    /// Takes an address away, and the routes with it. EADDRNOTAVAIL if the device has it not.
    pub fn remove_address(&mut self, index: u32, address: IpAddr, prefix: u8) {
        let mut body = vec![family(address), prefix, 0, 0];
        body.extend(index.to_ne_bytes());
        ip_attribute(&mut body, IFA_LOCAL, address);
        self.push(libc::RTM_DELADDR, 0, &body);
    }

    /// Adds a route through a device to the main table. EEXIST if the kernel has it already.
    pub fn add_route(&mut self, index: u32, network: IpAddr, prefix: u8, next: NextHop) {
        let (scope, flags) = match next {
            NextHop::Link => (libc::RT_SCOPE_LINK, 0),
            NextHop::Gateway(_) => (libc::RT_SCOPE_UNIVERSE, 0),
            NextHop::GatewayOnLink(_) => (libc::RT_SCOPE_UNIVERSE, RTNH_F_ONLINK),
        };
        let mut body = vec![family(network), prefix, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, scope];
        body.push(libc::RTN_UNICAST);
        body.extend(flags.to_ne_bytes());
        if prefix > 0 {
            ip_attribute(&mut body, RTA_DST, network);
        }
        if let NextHop::Gateway(gateway) | NextHop::GatewayOnLink(gateway) = next {
            ip_attribute(&mut body, RTA_GATEWAY, gateway);
        }
        attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
        self.push(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body);
    }

    /// Makes the changes, in order; one that fails does not keep the next ones from being made. Says what came
    /// of each.
    ///
    /// # Errors
    /// What keeps the kernel from being asked at all, and [`io::ErrorKind::InvalidData`] if its answer is
    /// incomplete.
    pub fn make(self) -> io::Result<Vec<io::Result<()>>> {
        let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        sendto(socket.as_fd(), &self.bytes, None, 0)?;
        let mut outcomes = Vec::new();
        let mut packet = vec![0; 8192];
        // The kernel has answered all of them before `sendto` returns.
        while outcomes.len() < self.count as usize {
            let (len, _) = recvfrom(socket.as_fd(), &mut packet, libc::MSG_DONTWAIT)?;
            read_outcomes(&packet[..len], &mut outcomes)?;
        }
        Ok(outcomes)
    }
}

/// An address or a route of an interface, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    is_route: bool,
    /// `struct ifaddrmsg` or `struct rtmsg` (rtnetlink(7)), and its attributes.
    body: Vec<u8>,
}

/// Flags of addresses (`IFA_F_TENTATIVE` and what follows from it) and of routes that describe a state and cannot be asked for.
const STATES_OF_ADDRESS: u8 = 0x40 | 0x20 | 0x08 | 0x80;
const IFA_FLAGS: u16 = 8;
/// `RTPROT_KERNEL`, `RT_SCOPE`: what the kernel adds with an address by itself.
const BY_KERNEL: u8 = 2;
/// linux/rtnetlink.h
const RTN_UNICAST: u8 = 1;
const RT_TABLE_LOCAL: u8 = 255;
/// How many messages of a list are looked at.
const MOST_LISTED: usize = 65_536;

/// The addresses of an interface and the routes through it, but for what the kernel adds by itself and link-local addresses; in an order
/// in which they can be added again.
///
/// # Errors
/// As netlink(7).
pub fn of_interface(index: u32) -> io::Result<Vec<Kept>> {
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let mut kept = Vec::new();
    list(socket.as_fd(), libc::RTM_GETADDR, &mut |kind, body| {
        let is_meant = kind == libc::RTM_NEWADDR
            && body.get(4..8).and_then(|own| own.first_chunk()).is_some_and(|own| u32::from_ne_bytes(*own) == index)
            // RT_SCOPE_UNIVERSE and RT_SCOPE_SITE: a link-local one stays.
            && body.get(3).is_some_and(|scope| *scope != 253);
        if is_meant {
            let mut body = body.to_vec();
            if let Some(flags) = body.get_mut(2) {
                *flags &= !STATES_OF_ADDRESS;
            }
            let mut whole: Vec<u8> = body.drain(..8).collect();
            whole.extend(without(&body, &[IFA_FLAGS]));
            kept.push(Kept { is_route: false, body: whole });
        }
    })?;
    let mut routes: Vec<Kept> = Vec::new();
    list(socket.as_fd(), libc::RTM_GETROUTE, &mut |kind, body| {
        let Some(&[_, _, _, _, table, protocol, _, type_, ..]) = body.first_chunk::<12>() else { return };
        let through = attribute_of(body.get(12..).unwrap_or_default(), RTA_OIF);
        let is_meant = kind == libc::RTM_NEWROUTE
            && through.and_then(<[u8]>::first_chunk).is_some_and(|own| u32::from_ne_bytes(*own) == index)
            && (protocol, type_) != (BY_KERNEL, RTN_UNICAST)
            && table != RT_TABLE_LOCAL
            && type_ == RTN_UNICAST;
        if is_meant {
            let mut body = body.to_vec();
            // Of its flags, that the gateway is on the link whatever addresses there are.
            if let Some(flags) = body.get_mut(8..12) {
                let own = flags.first_chunk().map_or(0, |flags| u32::from_ne_bytes(*flags));
                flags.copy_from_slice(&(own & RTNH_F_ONLINK).to_ne_bytes());
            }
            let mut whole: Vec<u8> = body.drain(..12).collect();
            whole.extend(without(&body, &[RTA_CACHEINFO]));
            routes.push(Kept { is_route: true, body: whole });
        }
    })?;
    // A gateway has to be in reach when its route is added.
    routes.sort_by_key(|route| attribute_of(route.body.get(12..).unwrap_or_default(), RTA_GATEWAY).is_some());
    kept.extend(routes);
    Ok(kept)
}

/// linux/rtnetlink.h
const RTA_CACHEINFO: u16 = 12;

/// Attributes but for some.
fn without(attributes: &[u8], left_out: &[u16]) -> Vec<u8> {
    let mut rest = attributes;
    let mut kept = Vec::new();
    while let Some([a, b, c, d]) = rest.first_chunk::<4>() {
        let (len, kind) = (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d]));
        let Some(whole) = rest.get(..len.next_multiple_of(4).min(rest.len())).filter(|_| len >= 4) else {
            break;
        };
        if !left_out.contains(&kind) {
            kept.extend(whole);
            kept.resize(kept.len().next_multiple_of(4), 0);
        }
        rest = rest.get(whole.len()..).unwrap_or_default();
    }
    kept
}

/// The value of an attribute.
fn attribute_of(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    while let Some([a, b, c, d]) = rest.first_chunk::<4>() {
        let (len, kind) = (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d]));
        if kind == wanted {
            return rest.get(4..len);
        }
        rest = rest.get(len.next_multiple_of(4).max(4)..)?;
    }
    None
}

/// Asks for a list of both families, and hands out the type and the body of each message.
fn list(socket: BorrowedFd<'_>, request: u16, each: &mut dyn FnMut(u16, &[u8])) -> io::Result<()> {
    let mut message = Vec::new();
    message.extend(((HEADER + 16) as u32).to_ne_bytes());
    message.extend(request.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    message.extend([0; 24]);
    sendto(socket, &message, None, 0)?;
    let mut packet = vec![0; 64 * 1024];
    for _ in 0..MOST_LISTED {
        let (len, _) = recvfrom(socket, &mut packet, 0)?;
        let mut rest = packet.get(..len).unwrap_or_default();
        while let Some([a, b, c, d, e, f, ..]) = rest.first_chunk::<HEADER>() {
            let (size, kind) = (u32::from_ne_bytes([*a, *b, *c, *d]) as usize, u16::from_ne_bytes([*e, *f]));
            match libc::c_int::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => return Err(io::ErrorKind::InvalidData.into()),
                _ => {}
            }
            let Some(body) = rest.get(HEADER..size) else { return Err(io::ErrorKind::InvalidData.into()) };
            each(kind, body);
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Reads the acknowledgements in a packet (`struct nlmsgerr`, netlink(7)): an errno each, 0 for success.
fn read_outcomes(packet: &[u8], outcomes: &mut Vec<io::Result<()>>) -> io::Result<()> {
    let mut rest = packet;
    while let Some(header) = rest.first_chunk::<HEADER>() {
        let [a, b, c, d, e, f, ..] = *header;
        let size = u32::from_ne_bytes([a, b, c, d]) as usize;
        let errno = rest.get(HEADER..size).and_then(|body| body.first_chunk());
        match errno {
            Some(errno) if libc::c_int::from(u16::from_ne_bytes([e, f])) == libc::NLMSG_ERROR => {
                outcomes.push(match i32::from_ne_bytes(*errno) {
                    0 => Ok(()),
                    errno => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
                });
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// `struct ifinfomsg` with flags that are to be set.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes()); // these change
    body
}

/// Adds a `struct rtattr` with its value; each begins at a multiple of four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.resize(body.len().next_multiple_of(4), 0);
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

fn ip_attribute(body: &mut Vec<u8>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(a) => attribute(body, kind, &a.octets()),
        IpAddr::V6(a) => attribute(body, kind, &a.octets()),
    }
}

/// Adds an attribute whose value is attributes.
fn nested(body: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut value = Vec::new();
    fill(&mut value);
    attribute(body, kind, &value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length, type, flags and sequence number of each message.
    fn headers(changes: &Changes) -> Vec<(u32, u16, u16, u32)> {
        let mut rest = changes.bytes.as_slice();
        let mut found = Vec::new();
        while let Some(h) = rest.first_chunk::<HEADER>() {
            let word = |at: usize| u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
            let half = |at: usize| u16::from_ne_bytes([h[at], h[at + 1]]);
            found.push((word(0), half(4), half(6), word(8)));
            rest = &rest[(word(0) as usize).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn messages_follow_each_other_at_multiples_of_four_bytes() {
        let mut changes = Changes::new();
        changes.make_bridge("br", 7);
        changes.configure(7, 1400, Some([2, 0, 0, 0, 0, 9]));
        changes.no_automatic_address(7);
        changes.up(7);
        // Header, structure, name of 3 bytes with padding, and "bridge" in an attribute in an attribute.
        let expected = [
            (16 + 16 + 8 + 4 + 10, 16, 0x605, 0),
            (16 + 16 + 12 + 8, 16, 5, 1),
            (16 + 16 + 4 + 4 + 5, 16, 5, 2),
            (16 + 16, 16, 5, 3),
        ];
        assert_eq!(headers(&changes), expected);
        assert_eq!(changes.bytes.len() % 4, 0);
    }

    #[test]
    fn addresses_are_written_as_the_kernel_reads_them() {
        let mut changes = Changes::new();
        changes.add_address(2, "192.0.2.2".parse().unwrap(), 24, Some("192.0.2.255".parse().unwrap()));
        let body = &changes.bytes[HEADER..];
        assert_eq!(body[..4], [libc::AF_INET as u8, 24, 0, 0]);
        assert_eq!(body[4..8], 2_u32.to_ne_bytes());
        let attributes = [8, 0, 2, 0, 192, 0, 2, 2, 8, 0, 1, 0, 192, 0, 2, 2, 8, 0, 4, 0, 192, 0, 2, 255];
        assert_eq!(body[8..], attributes);
        let mut changes = Changes::new();
        changes.add_address(2, "2001:db8::2".parse().unwrap(), 64, None);
        assert_eq!(changes.bytes[HEADER..HEADER + 4], [libc::AF_INET6 as u8, 64, IFA_F_NODAD, 0]);
        assert_eq!(changes.bytes.len(), HEADER + 8 + 20 + 20);
    }

    #[test]
    fn routes_are_written_as_the_kernel_reads_them() {
        let mut changes = Changes::new();
        let gateway = "192.0.2.1".parse().unwrap();
        changes.add_route(2, "0.0.0.0".parse().unwrap(), 0, NextHop::Gateway(gateway));
        let body = &changes.bytes[HEADER..];
        assert_eq!(body[..12], [libc::AF_INET as u8, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
        assert_eq!(body[12..], [8, 0, 5, 0, 192, 0, 2, 1, 8, 0, 4, 0, 2, 0, 0, 0]);
        let mut changes = Changes::new();
        changes.add_route(2, "10.0.0.0".parse().unwrap(), 8, NextHop::Link);
        assert_eq!(changes.bytes[HEADER + 6], 253);
        assert_eq!(changes.bytes[HEADER + 12..HEADER + 20], [8, 0, 1, 0, 10, 0, 0, 0]);
        let mut changes = Changes::new();
        changes.add_route(2, "0.0.0.0".parse().unwrap(), 0, NextHop::GatewayOnLink(gateway));
        assert_eq!(changes.bytes[HEADER + 8..HEADER + 12], 4_u32.to_ne_bytes());
    }

    #[test]
    fn answers_cut_anywhere_do_not_panic() {
        let mut whole = Vec::new();
        for errno in [0_i32, -17, i32::MIN] {
            whole.extend(36_u32.to_ne_bytes());
            whole.extend(2_u16.to_ne_bytes());
            whole.extend([0; 10]);
            whole.extend(errno.to_ne_bytes());
            whole.extend([0; 16]);
        }
        let mut outcomes = Vec::new();
        read_outcomes(&whole, &mut outcomes).unwrap();
        let codes: Vec<_> =
            outcomes.iter().map(|o| o.as_ref().err().and_then(|e| e.raw_os_error())).collect();
        assert_eq!(codes, [None, Some(17), Some(i32::MAX)]);
        for cut in 0..whole.len() {
            let _ = read_outcomes(&whole[..cut], &mut Vec::new());
        }
        assert!(read_outcomes(&[0; HEADER], &mut Vec::new()).is_err());
    }

    #[test]
    fn the_kernel_says_what_came_of_each_change() {
        let mut changes = Changes::new();
        // No device has this index.
        changes.up(i32::MAX as u32);
        changes.add_route(i32::MAX as u32, "198.51.100.0".parse().unwrap(), 24, NextHop::Link);
        let outcomes = changes.make().unwrap();
        assert_eq!(outcomes.len(), 2);
        for outcome in outcomes {
            let errno = outcome.unwrap_err().raw_os_error();
            assert!(matches!(errno, Some(libc::ENODEV | libc::EPERM)), "{errno:?}");
        }
    }
}

//! What the operator chose for a stack.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::faults::LinkFaults;
use crate::time::Instant;

/// An interface address with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    addr: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// An address and its prefix length in bits; `None` if that is longer than the address.
    #[must_use]
    pub const fn new(addr: IpAddr, prefix: u8) -> Option<Cidr> {
        let longest = match addr {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        if prefix > longest { None } else { Some(Cidr { addr, prefix }) }
    }

    /// The address itself, host part included.
    #[must_use]
    pub const fn addr(self) -> IpAddr {
        self.addr
    }

    /// The prefix length in bits.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The network's first address: the host part cleared.
    #[must_use]
    pub fn network(self) -> IpAddr {
        match self.addr {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask))
            }
        }
    }

    /// Whether `addr` is in the network.
    #[must_use]
    pub fn contains(self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.addr.is_ipv4()
            && Cidr { addr, prefix: self.prefix }.network() == self.network()
    }

    /// The directed broadcast address of an IPv4 network that has one (RFC 919; none for /31, RFC 3021).
    #[must_use]
    pub fn broadcast(self) -> Option<Ipv4Addr> {
        match self.network() {
            IpAddr::V4(n) if self.prefix < 31 => {
                Some(Ipv4Addr::from_bits(n.to_bits() | (u32::MAX >> self.prefix)))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

/// A text that is no address with a prefix length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an address with a prefix length, such as 192.0.2.2/24 or 2001:db8::2/64")]
pub struct ParseCidrError(String);

impl FromStr for Cidr {
    type Err = ParseCidrError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseCidrError(text.to_owned());
        let (addr, prefix) = text.split_once('/').ok_or_else(error)?;
        let addr = addr.parse().map_err(|_| error())?;
        let prefix = prefix.parse().map_err(|_| error())?;
        Cidr::new(addr, prefix).ok_or_else(error)
    }
}

/// The name of a network interface (netdevice(7)): 1 to 15 bytes without '/', ':' or white space, and not "." or "..".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that no interface can have as its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' cannot be an interface name: 1 to 15 bytes without '/', ':' or white space")]
pub struct ParseInterfaceError(String);

impl FromStr for InterfaceName {
    type Err = ParseInterfaceError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = (1..16).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b == 0);
        if good { Ok(InterfaceName(text.to_owned())) } else { Err(ParseInterfaceError(text.to_owned())) }
    }
}

/// Where a packet stack's frames go: the kind of link, each with its own description.
///
/// A stack opens none of these itself: the crate `netgraft-link` does, for every stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum LinkConfig {
    /// Nowhere: only the stack's own loopback works.
    #[default]
    None,
    /// A TAP device.
    Tap(TapConfig),
    /// An interface of the kernel, through AF_PACKET (packet(7)).
    Packet(PacketConfig),
    /// passt(1), which carries connections out with ordinary sockets.
    Passt(PasstConfig),
}

/// A TAP device as a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TapConfig {
    /// The device in the caller's network namespace, made if absent.
    pub name: InterfaceName,
}

/// An interface of the kernel as a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PacketConfig {
    /// The interface of the caller's network namespace, which exists.
    pub interface: InterfaceName,
}

/// passt as a link. The launcher starts or reaches it, and hands its socket over as the first of the descriptors of `init`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct PasstConfig {
    /// The socket on which one is listening; `None` for one that is started.
    pub socket: Option<PathBuf>,
    /// The Ethernet address of the stack's interface.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u16,
    /// Whether it serves connections right whose sandbox's side has ended; ones from before September 2025 do not.
    pub half_closes: bool,
}

impl LinkConfig {
    /// passt on this socket, or one that is started.
    #[must_use]
    pub const fn passt(socket: Option<PathBuf>) -> LinkConfig {
        LinkConfig::Passt(PasstConfig { socket, mac: [0; 6], mtu: 1500, half_closes: false })
    }

    /// The TAP device of this name.
    #[must_use]
    pub const fn tap(name: InterfaceName) -> LinkConfig {
        LinkConfig::Tap(TapConfig { name })
    }

    /// The interface of this name.
    #[must_use]
    pub const fn packet(interface: InterfaceName) -> LinkConfig {
        LinkConfig::Packet(PacketConfig { interface })
    }
}

impl fmt::Display for LinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkConfig::None => f.write_str("none"),
            LinkConfig::Tap(tap) => write!(f, "tap:{}", tap.name),
            LinkConfig::Packet(packet) => write!(f, "packet:{}", packet.interface),
            LinkConfig::Passt(PasstConfig { socket: None, .. }) => f.write_str("passt"),
            LinkConfig::Passt(PasstConfig { socket: Some(path), .. }) => {
                write!(f, "passt:{}", path.display())
            }
        }
    }
}

/// A text that names no link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseLinkError {
    /// The kind of link is unknown.
    #[error("unknown link '{0}': use none, passt, tap:NAME, packet:IFACE")]
    Unknown(String),
    /// The interface cannot exist.
    #[error(transparent)]
    Name(#[from] ParseInterfaceError),
}

impl FromStr for LinkConfig {
    type Err = ParseLinkError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "none" => Ok(LinkConfig::None),
            None if text == "passt" => Ok(LinkConfig::passt(None)),
            Some(("passt", path)) if !path.is_empty() => Ok(LinkConfig::passt(Some(path.into()))),
            Some(("tap", name)) => Ok(LinkConfig::tap(name.parse()?)),
            Some(("packet", interface)) => Ok(LinkConfig::packet(interface.parse()?)),
            _ => Err(ParseLinkError::Unknown(text.to_owned())),
        }
    }
}

/// What is done to the frames of a stack's link on their way, whatever kind of link it is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Wrappers {
    /// Delay, loss and so on.
    pub faults: LinkFaults,
    /// Decides which frames are lost and so on.
    pub seed: u64,
    /// Whether the faults are to be changeable while the stack runs also where that costs something: an object's frames, which
    /// it else reads from the device itself, then pass through netgraft.
    pub changeable: bool,
    /// What a capture keeps of frames, if they are captured. The launcher then hands the capture's socket over, as the last
    /// of the descriptors of `init`.
    pub capture: Option<CaptureConfig>,
    /// The largest IP packet that crosses the link, in bytes; `None` for what the link carries.
    pub mtu: Option<u16>,
    /// The VLAN of a TAP device's or an interface's frames (IEEE 802.1Q, 1 to 4094); `None` for those without a tag.
    pub vlan: Option<u16>,
    /// What the launcher has opened already, as `netgraft-link` describes it; it hands the descriptor over as the first of
    /// those of `init`.
    pub opened: Option<String>,
    /// Addresses that are the stack's for a time, and are to be asked for again.
    pub terms: Vec<Term>,
}

/// An address, or addresses, that are the stack's for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Which.
    pub addresses: Vec<IpAddr>,
    /// Who gave them.
    pub giver: Giver,
    /// When.
    pub given: Instant,
    /// From then on: when to ask again.
    pub renew: Duration,
    /// From then on: when whoever gave them need not be the one that is asked (RFC 2131 section 4.4.5).
    pub rebind: Duration,
    /// From then on: when they are not the stack's any more.
    pub ends: Duration,
}

/// Who gives addresses for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Giver {
    /// A DHCP server, and the station that its answers come from.
    Dhcp {
        /// The server.
        server: Ipv4Addr,
        /// The station.
        station: [u8; 6],
    },
    /// A router, by its advertisements.
    Router,
    /// A DHCPv6 server, by its identifier.
    Dhcp6 {
        /// The identifier.
        server: Vec<u8>,
    },
}

/// What a capture keeps of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Bytes of a frame that are kept; 0 for all.
    pub snap: u32,
    /// The time at [`crate::Instant::ZERO`], in nanoseconds since 1970.
    pub epoch: u64,
}

impl Wrappers {
    /// These faults, decided by this seed.
    #[must_use]
    pub const fn of_faults(faults: LinkFaults, seed: u64) -> Wrappers {
        Wrappers {
            faults,
            seed,
            changeable: false,
            capture: None,
            mtu: None,
            vlan: None,
            opened: None,
            terms: Vec::new(),
        }
    }

    /// Whether frames are left alone.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.faults.is_none()
            && !self.changeable
            && self.capture.is_none()
            && self.mtu.is_none()
            && self.vlan.is_none()
            && self.opened.is_none()
            && self.terms.is_empty()
    }
}

/// A neighbour on the link and its Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// Its address: of one host.
    pub ip: IpAddr,
    /// The Ethernet address of one station.
    pub mac: [u8; 6],
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.mac;
        write!(f, "{}={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}", self.ip)
    }
}

/// A text that names no neighbour.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the address of a host and of its station, such as 192.0.2.1=02:00:00:00:00:01")]
pub struct ParseNeighbourError(String);

impl FromStr for Neighbour {
    type Err = ParseNeighbourError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseNeighbourError(text.to_owned());
        let (ip, station) = text.split_once('=').ok_or_else(error)?;
        let ip: IpAddr = ip.parse().map_err(|_| error())?;
        let mut mac = [0; 6];
        let mut parts = station.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(part.ok_or_else(error)?, 16).map_err(|_| error())?;
        }
        let one_host = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback();
        let one_station = mac[0] & 1 == 0 && mac != [0; 6] && parts.next().is_none();
        if one_host && one_station { Ok(Neighbour { ip, mac }) } else { Err(error()) }
    }
}

/// What the operator chose for a stack: the command line, parsed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct StackConfig {
    /// Where frames go.
    pub link: LinkConfig,
    /// What is done to them, by a stack whose link is `netgraft-link`'s ([`crate::StackInfo::wraps_link`]).
    pub wrappers: Wrappers,
    /// The addresses of the link's interface.
    pub addresses: Vec<Cidr>,
    /// Default gateways, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Neighbours that the stack neither asks for nor lets anybody replace, on a link of Ethernet.
    pub neighbours: Vec<Neighbour>,
    /// Free text for the stack (`--plugin-arg`).
    pub argument: Option<String>,
    /// Whether a stack that could give its sockets away by their descriptors ([`crate::PluginStack::offers_host_fds`]) keeps them,
    /// since somebody is to look at what they carry. Whoever drives it then may be in another network namespace.
    pub keeps_sockets: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidrs_parse_mask_and_contain() {
        let c: Cidr = "192.0.2.130/25".parse().unwrap();
        assert_eq!(c.network(), "192.0.2.128".parse::<IpAddr>().unwrap());
        assert_eq!(c.broadcast(), Some(Ipv4Addr::new(192, 0, 2, 255)));
        assert!(c.contains("192.0.2.200".parse().unwrap()));
        assert!(!c.contains("192.0.2.1".parse().unwrap()));
        assert!(!c.contains("::1".parse().unwrap()));
        let all: Cidr = "::/0".parse().unwrap();
        assert!(all.contains("2001:db8::1".parse().unwrap()));
        let zero: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(zero.contains("255.1.2.3".parse().unwrap()));
        assert_eq!(c.to_string(), "192.0.2.130/25");
    }

    #[test]
    fn bad_cidrs_are_refused() {
        for text in ["", "1.2.3.4", "1.2.3.4/33", "::1/129", "1.2.3/8", "1.2.3.4/-1", "host/24"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn neighbours_are_hosts_and_stations() {
        for text in ["192.0.2.1=02:00:00:00:00:01", "2001:db8::1=52:54:00:ab:cd:ef"] {
            assert_eq!(text.parse::<Neighbour>().unwrap().to_string(), text);
        }
        for text in [
            "192.0.2.1",
            "=02:00:00:00:00:01",
            "192.0.2.1=02:00:00:00:00",
            "192.0.2.1=02:00:00:00:00:01:02",
            "192.0.2.1=2:0:0:0:0:1",
            "192.0.2.1=+2:00:00:00:00:01",
            "192.0.2.1=ff:ff:ff:ff:ff:ff",
            "192.0.2.1=01:00:5e:00:00:01",
            "192.0.2.1=00:00:00:00:00:00",
            "224.0.0.1=02:00:00:00:00:01",
            "::=02:00:00:00:00:01",
        ] {
            assert!(text.parse::<Neighbour>().is_err(), "{text}");
        }
    }

    #[test]
    fn links_parse() {
        assert_eq!("none".parse(), Ok(LinkConfig::None));
        for text in ["tap:ng0", "packet:veth1", "passt", "passt:/run/user/1/passt.socket"] {
            let link: LinkConfig = text.parse().unwrap();
            assert_eq!(link.to_string(), text);
        }
        assert_eq!("tap:ng0".parse(), Ok(LinkConfig::tap("ng0".parse().unwrap())));
        assert_eq!("packet:ng0".parse(), Ok(LinkConfig::packet("ng0".parse().unwrap())));
        for text in [
            "tap",
            "tap:",
            "tap:0123456789abcdef",
            "packet:a/b",
            "wire:x",
            "passt:",
            "none:x",
            "tap:a b",
            "tap:..",
        ] {
            assert!(text.parse::<LinkConfig>().is_err(), "{text}");
        }
    }
}

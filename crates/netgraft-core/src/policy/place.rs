//! Addresses and networks, and which of them are special: where a rule that means "the internet" must not lead.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Net {
    /// All, of both families.
    Any,
    /// Those that begin with the same bits; the other bits of the address are zero.
    Prefix(IpAddr, u8),
}

impl Net {
    /// A single address. One of IPv4 that is written as IPv6 is IPv4 (RFC 4291 section 2.5.5.2).
    #[must_use]
    pub fn of(ip: IpAddr) -> Net {
        let ip = ip.to_canonical();
        Net::Prefix(ip, width(ip))
    }

    /// Whether an address is among them.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match *self {
            Net::Any => true,
            Net::Prefix(net, length) => width(net) == width(ip) && masked(ip, length) == net,
        }
    }

    /// Whether all of these are among others.
    #[must_use]
    pub fn is_within(&self, other: &Net) -> bool {
        match (*self, *other) {
            (_, Net::Any) => true,
            (Net::Any, _) => false,
            (Net::Prefix(ip, length), Net::Prefix(_, wider)) => length >= wider && other.contains(ip),
        }
    }

    /// Whether it is a single address.
    #[must_use]
    pub fn is_single(&self) -> bool {
        matches!(*self, Net::Prefix(ip, length) if length == width(ip))
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Net::Any => f.write_str("any"),
            Net::Prefix(ip, _) if self.is_single() => ip.fmt(f),
            Net::Prefix(ip, length) => write!(f, "{ip}/{length}"),
        }
    }
}

/// How many bits an address has.
#[must_use]
pub(crate) fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The first bits of an address, the others zero.
#[must_use]
pub(crate) fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

/// What an address is to a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Somewhere in the internet.
    Public,
    /// Near: the networks that are nobody's alone (RFC 1918, RFC 4193, RFC 6598), those of a link (RFC 3927, RFC 4291), groups and
    /// broadcasts.
    Private,
    /// Where a cloud tells a machine its secrets.
    Metadata,
    /// This machine.
    Loopback,
}

/// Where clouds have their metadata and credential services: those of AWS, Azure, Google and others, also over IPv6; of tasks and
/// pods at AWS; Azure's WireServer; OpenStack, Alibaba, Oracle, Scaleway and Tencent.
const METADATA: [IpAddr; 13] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 42, 42)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 23)),
];

const LOOPBACKS: [Net; 2] = [
    Net::Prefix(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    Net::Prefix(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
];

const PRIVATE: [Net; 16] = [
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([100, 64, 0, 0], 10),
    v4([169, 254, 0, 0], 16),
    v4([192, 0, 0, 0], 24),
    v4([198, 18, 0, 0], 15),
    v4([224, 0, 0, 0], 3),
    v4([0, 0, 0, 0], 8),
    v6([0xfc00, 0, 0], 7),
    v6([0xfe80, 0, 0], 10),
    v6([0xfec0, 0, 0], 10),
    v6([0xff00, 0, 0], 8),
    // Translators of one's own (RFC 8215), what they translate to (RFC 7915), and Teredo (RFC 4380) lead anywhere.
    v6([0x64, 0xff9b, 1], 48),
    Net::Prefix(IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0)), 96),
    v6([0x2001, 0, 0], 32),
];

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> Net {
    Net::Prefix(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length)
}

const fn v6([a, b, c]: [u16; 3], length: u8) -> Net {
    Net::Prefix(IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), length)
}

/// The address that one is: a mapped one (RFC 4291) is that of IPv4, and the unspecified one is the loopback, as for connect(2).
#[must_use]
pub fn plain(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// The address of IPv4 that one of IPv6 leads to by somebody in between: a translator (64:ff9b::/96, RFC 6052), 6to4 (RFC 3056), or
/// what is compatible (RFC 4291 section 2.5.5.1).
#[must_use]
pub fn led_to(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = ip else { return None };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let of = |high: u16, low: u16| IpAddr::from(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match (a, b) {
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => Some(plain(of(g, h))),
        (0x2002, _) => Some(plain(of(b, c))),
        (0, 0) if [c, d, e, f] == [0; 4] && g != 0 => Some(plain(of(g, h))),
        _ => None,
    }
}

impl Place {
    /// What an address is ([`plain`]).
    #[must_use]
    pub fn of(ip: IpAddr) -> Place {
        if LOOPBACKS.iter().any(|net| net.contains(ip)) {
            Place::Loopback
        } else if METADATA.contains(&ip) {
            Place::Metadata
        } else if PRIVATE.iter().any(|net| net.contains(ip)) {
            Place::Private
        } else {
            Place::Public
        }
    }

    /// Whether a rule about these addresses means addresses that are this, and not merely more than that.
    #[must_use]
    pub fn is_named_by(self, net: &Net) -> bool {
        match self {
            Place::Public => true,
            Place::Private => PRIVATE.iter().any(|private| net.is_within(private)),
            Place::Metadata => net.is_single(),
            Place::Loopback => LOOPBACKS.iter().any(|loopback| net.is_within(loopback)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn whatever_an_address_is_written_like_it_is_the_same() {
        for text in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::169.254.169.254",
        ] {
            let ip = plain(ip(text));
            assert_eq!(Place::of(led_to(ip).unwrap_or(ip)), Place::Metadata, "{text}");
        }
        for text in ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
            assert_eq!(Place::of(plain(ip(text))), Place::Loopback, "{text}");
        }
        for text in [
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "169.254.1.1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.1",
        ] {
            assert_eq!(Place::of(plain(ip(text))), Place::Private, "{text}");
        }
        for text in ["192.0.2.1", "8.8.8.8", "172.32.0.1", "2001:db8::1", "100.128.0.1"] {
            assert_eq!(Place::of(plain(ip(text))), Place::Public, "{text}");
        }
    }

    #[test]
    fn a_network_contains_what_begins_as_it_does() {
        let net = Net::Prefix(ip("192.0.2.0"), 24);
        assert!(
            net.contains(ip("192.0.2.255")) && !net.contains(ip("192.0.3.0")) && !net.contains(ip("::1"))
        );
        assert!(Net::Prefix(ip("0.0.0.0"), 0).contains(ip("255.255.255.255")));
        assert!(!Net::Prefix(ip("0.0.0.0"), 0).contains(ip("::1")));
        assert!(Net::of(ip("192.0.2.1")).is_within(&net) && !net.is_within(&Net::of(ip("192.0.2.1"))));
        assert!(!Net::Any.is_within(&net) && net.is_within(&Net::Any));
        assert_eq!(Net::of(ip("::ffff:192.0.2.1")).to_string(), "192.0.2.1");
        assert_eq!(net.to_string(), "192.0.2.0/24");
    }

    #[test]
    fn a_wide_rule_names_nothing_special() {
        let all = Net::Prefix(ip("0.0.0.0"), 0);
        for place in [Place::Private, Place::Metadata, Place::Loopback] {
            assert!(!place.is_named_by(&all) && !place.is_named_by(&Net::Any));
        }
        assert!(Place::Private.is_named_by(&Net::Prefix(ip("10.1.0.0"), 16)));
        assert!(!Place::Metadata.is_named_by(&Net::Prefix(ip("169.254.0.0"), 16)));
        assert!(Place::Metadata.is_named_by(&Net::of(ip("169.254.169.254"))));
    }
}

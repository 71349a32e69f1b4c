//! What a link offers: addresses, gateways, name servers and the MTU, asked for by DHCP (RFC 2131, RFC 2132) and by router
//! solicitation (RFC 4861, RFC 4862, RFC 8106). No I/O, no clock: frames and the time go in, frames come out.
//!
//! It asks once and renews nothing, so it is for links whose leases do not end, as passt's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netgraft_linux::link::vnet;
use netgraft_plugin::{Cidr, Instant};

use crate::dhcp6;

/// How long after one question the other one is asked, and after how long an unanswered one is asked again, at first.
const SOON: Duration = Duration::from_millis(20);
const AGAIN: Duration = Duration::from_millis(300);
/// How long the first answer may take, and how long another one has after each.
const FIRST: Duration = Duration::from_secs(6);
const OTHER: Duration = Duration::from_secs(1);

const ETHERNET: usize = 14;
/// DHCP messages (RFC 2132 section 9.6).
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
/// Flags of a router's advertisement: addresses, or other things, are had by DHCPv6 (RFC 4861 section 4.2).
const MANAGED: u8 = 0x80;
const OTHER_THINGS: u8 = 0x40;
/// All routers of the link.
const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// What was offered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Addresses of the stack's interface.
    pub addresses: Vec<Cidr>,
    /// Default gateways, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Name servers.
    pub name_servers: Vec<IpAddr>,
    /// The largest IP packet, if it was said.
    pub mtu: Option<usize>,
}

/// How far DHCP has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum V4 {
    Discovering,
    Requesting { server: [u8; 4], address: [u8; 4] },
    Done,
}

/// Asks for a lease of each family.
pub struct Acquire {
    mac: [u8; 6],
    transaction: [u8; 4],
    v4: V4,
    /// Whether a router has answered.
    routed: bool,
    v6: dhcp6::Client,
    lease: Lease,
    /// When the first question was asked.
    began: Option<Instant>,
    /// When the last answer came.
    answered: Option<Instant>,
    /// Questions asked since then.
    asked: u32,
    next: Instant,
}

impl Acquire {
    /// A client with this address; `random` makes its questions its own.
    #[must_use]
    pub fn new(mac: [u8; 6], random: u32) -> Acquire {
        Acquire {
            mac,
            transaction: random.to_be_bytes(),
            v4: V4::Discovering,
            routed: false,
            v6: dhcp6::Client::new(mac, random),
            lease: Lease::default(),
            began: None,
            answered: None,
            asked: 0,
            next: Instant::ZERO,
        }
    }

    /// Sends what is due, and answers whether to go on.
    ///
    /// One question at a time, the next one when there is an answer or after a moment: the passt of Debian 12 does not see one
    /// that it reads together with another.
    pub fn poll(&mut self, now: Instant, send: &mut dyn FnMut(&[u8])) -> bool {
        self.began.get_or_insert(now);
        let over = self.until().is_some_and(|until| now >= until);
        let open = [!self.routed, self.v6.asks(), self.v4 != V4::Done];
        let count = open.iter().filter(|open| **open).count() as u32;
        if count == 0 || over {
            return false;
        }
        if now < self.next {
            return true;
        }
        let turn = (self.asked % count) as usize;
        let which = (0..open.len()).filter(|&which| open[which]).nth(turn);
        match which {
            Some(0) => send(&self.solicitation()),
            Some(1) => self.v6.question(self.link_local()).iter().for_each(|question| send(question)),
            _ => send(&self.dhcp()),
        }
        self.asked += 1;
        let round = self.asked / count;
        self.next = now + if round == 0 { SOON } else { AGAIN * round / count };
        true
    }

    /// When to go on with what there is.
    fn until(&self) -> Option<Instant> {
        let most = self.began.map(|began| began + FIRST);
        let answered = self.answered.map(|answered| answered + OTHER);
        most.into_iter().chain(answered).min()
    }

    /// When [`Acquire::poll`] is to be called at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.until().map_or(self.next, |until| until.min(self.next))
    }

    /// Takes a frame in.
    pub fn input(&mut self, now: Instant, frame: &[u8]) {
        let answered = match frame.get(12..14) {
            Some([0x08, 0x00]) => self.dhcp_answer(now, frame).unwrap_or(false),
            Some([0x86, 0xdd]) => self.advertisement(frame).unwrap_or(false) || self.dhcp6_answer(now, frame),
            _ => false,
        };
        if answered {
            self.progress(now);
            self.answered = Some(now);
        }
    }

    /// An answer has come: the next question may be asked.
    fn progress(&mut self, now: Instant) {
        (self.next, self.asked) = (now, 0);
    }

    /// What was offered so far.
    #[must_use]
    pub fn lease(self) -> Lease {
        let mut lease = self.lease;
        // IPv4 first, whichever answered first.
        lease.addresses.sort_by_key(|cidr| cidr.addr().is_ipv6());
        lease.gateways.sort_by_key(IpAddr::is_ipv6);
        lease.name_servers.sort_by_key(IpAddr::is_ipv6);
        lease
    }

    /// A DISCOVER, or a REQUEST for what was offered.
    fn dhcp(&self) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET + 20 + 8 + 236];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&self.mac);
        frame[12..14].copy_from_slice(&[8, 0]);
        let bootp = &mut frame[ETHERNET + 28..];
        // A request from Ethernet; the answer is to be broadcast.
        bootp[..3].copy_from_slice(&[1, 1, 6]);
        bootp[4..8].copy_from_slice(&self.transaction);
        bootp[10] = 0x80;
        bootp[28..34].copy_from_slice(&self.mac);
        frame.extend_from_slice(&COOKIE);
        match self.v4 {
            V4::Requesting { server, address } => {
                frame.extend_from_slice(&[53, 1, REQUEST, 50, 4]);
                frame.extend_from_slice(&address);
                frame.extend_from_slice(&[54, 4]);
                frame.extend_from_slice(&server);
            }
            V4::Discovering | V4::Done => frame.extend_from_slice(&[53, 1, DISCOVER]),
        }
        // Wanted: mask, router, name servers, MTU.
        frame.extend_from_slice(&[55, 4, 1, 3, 6, 26, 255]);
        let len = frame.len();
        let put = |frame: &mut [u8], at: usize, value: usize| {
            frame[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
        };
        let ip = ETHERNET;
        frame[ip] = 0x45;
        put(&mut frame, ip + 2, len - ip);
        frame[ip + 8..ip + 10].copy_from_slice(&[64, 17]);
        frame[ip + 16..ip + 20].fill(0xff);
        vnet::finish_header(&mut frame[ip..ip + 20]);
        put(&mut frame, ip + 20, 68);
        put(&mut frame, ip + 22, 67);
        put(&mut frame, ip + 24, len - ip - 20);
        frame
    }

    /// Whether the frame was the last answer that was waited for.
    fn dhcp_answer(&mut self, now: Instant, frame: &[u8]) -> Option<bool> {
        let found = vnet::layout(frame).filter(|l| l.protocol == 17 && !l.fragment)?;
        let udp = frame.get(found.transport..found.end)?;
        let bootp = udp.get(8..)?;
        let is_ours = udp.get(..4)? == [0, 67, 0, 68]
            && *bootp.first()? == 2
            && bootp.get(4..8)? == self.transaction
            && bootp.get(28..34)? == self.mac
            && bootp.get(236..240)? == COOKIE
            && vnet::is_intact(&[0; vnet::LEN], frame);
        if !is_ours {
            return Some(false);
        }
        let options = DhcpOptions(bootp.get(240..)?);
        let address: [u8; 4] = *bootp.get(16..)?.first_chunk()?;
        match (*options.find(53)?.first()?, self.v4) {
            (OFFER, V4::Discovering) => {
                self.v4 = V4::Requesting { server: options.address(54)?.octets(), address };
                self.progress(now);
                Some(false)
            }
            (ACK, V4::Requesting { .. }) => {
                self.v4 = V4::Done;
                self.take_v4(address.into(), &options);
                Some(true)
            }
            _ => Some(false),
        }
    }

    fn take_v4(&mut self, address: Ipv4Addr, options: &DhcpOptions<'_>) {
        let mask = options.address(1).map_or(24, |mask| mask.to_bits().leading_ones());
        let mut prefix = u8::try_from(mask).unwrap_or(32);
        if let Some(gateway) = options.address(3) {
            // Some clouds give an address of its own network and a gateway outside: both in one will do, since everything
            // goes through the gateway in any case.
            let common = (address.to_bits() ^ gateway.to_bits()).leading_zeros();
            prefix = prefix.min(u8::try_from(common).unwrap_or(32));
            self.lease.gateways.push(gateway.into());
        }
        self.lease.addresses.extend(Cidr::new(address.into(), prefix));
        let servers = options.find(6).unwrap_or(&[]).chunks_exact(4);
        self.lease.name_servers.extend(servers.map(|s| IpAddr::from([s[0], s[1], s[2], s[3]])));
        if let Some([high, low]) = options.find(26) {
            self.said_mtu(usize::from(u16::from_be_bytes([*high, *low])));
        }
    }

    /// The smaller of what is said.
    fn said_mtu(&mut self, mtu: usize) {
        // The least of IPv6 (RFC 8200 section 5).
        if (1280..=65_535).contains(&mtu) {
            self.lease.mtu = Some(self.lease.mtu.map_or(mtu, |before| before.min(mtu)));
        }
    }

    /// The interface identifier of the address (RFC 4291 appendix A).
    fn identifier(&self) -> u64 {
        let [a, b, c, d, e, f] = self.mac;
        u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    /// The link-local address (RFC 4862 section 5.3).
    fn link_local(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(self.identifier()))
    }

    /// Whether the frame was the last answer of DHCPv6 that was waited for.
    fn dhcp6_answer(&mut self, now: Instant, frame: &[u8]) -> bool {
        let before = self.v6.stage.clone();
        let given = self.v6.answer(frame);
        if self.v6.stage != before {
            self.progress(now);
        }
        let Some(given) = given else { return false };
        // In front of those that were made of a prefix: it is the one that the network knows, so packets leave with it.
        let place = self.lease.addresses.iter().position(|cidr| cidr.addr().is_ipv6());
        if let Some(cidr) = given.address.and_then(|address| Cidr::new(address.into(), 128)) {
            self.lease.addresses.insert(place.unwrap_or(self.lease.addresses.len()), cidr);
        }
        for server in given.name_servers.into_iter().map(IpAddr::from) {
            if !self.lease.name_servers.contains(&server) {
                self.lease.name_servers.push(server);
            }
        }
        true
    }

    /// A router solicitation, from the link-local address.
    fn solicitation(&self) -> Vec<u8> {
        let from = self.link_local();
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 2];
        frame.extend_from_slice(&self.mac);
        frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, 58, 255]);
        frame.extend_from_slice(&from.octets());
        frame.extend_from_slice(&ROUTERS.octets());
        // With the address that the answer goes to.
        frame.extend_from_slice(&[133, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        frame.extend_from_slice(&self.mac);
        let check = icmp_checksum(&frame);
        frame[56..58].copy_from_slice(&check.to_be_bytes());
        frame
    }

    /// Whether the frame was a router's advertisement.
    fn advertisement(&mut self, frame: &[u8]) -> Option<bool> {
        let found = vnet::layout(frame).filter(|l| l.protocol == 58 && frame.get(21) == Some(&255))?;
        let packet = frame.get(..found.end)?;
        let from = Ipv6Addr::from(*packet.get(22..)?.first_chunk::<16>()?);
        let message = packet.get(found.transport..)?;
        let is_one = *message.first()? == 134 && from.is_unicast_link_local() && icmp_checksum(packet) == 0;
        if !is_one || self.routed {
            return Some(false);
        }
        self.routed = true;
        let flags = *message.get(5)?;
        self.v6.advised(flags & MANAGED != 0, flags & OTHER_THINGS != 0);
        if message.get(6..8)? != [0, 0] {
            self.lease.gateways.push(from.into());
        }
        let mut rest = message.get(16..)?;
        while let [kind, units, ..] = *rest {
            let len = usize::from(units) * 8;
            // RFC 4861 section 4.6: nothing is behind an option without a length.
            let Some(option) = rest.get(..len).filter(|_| len > 0) else { break };
            self.router_option(kind, option);
            rest = &rest[len..];
        }
        Some(true)
    }

    /// One option, whose length is at least 8.
    fn router_option(&mut self, kind: u8, option: &[u8]) {
        match kind {
            // A prefix to make an address of (RFC 4862 section 5.5.3): autonomous, of 64 bits, valid.
            3 if option.len() == 32 && option[2] == 64 && option[3] & 0x40 != 0 && option[4..8] != [0; 4] => {
                let mut bits = [0; 16];
                bits[..8].copy_from_slice(&option[16..24]);
                bits[8..].copy_from_slice(&self.identifier().to_be_bytes());
                // As a host route: its neighbours are reached through the router, which is right for every of them (RFC 4861
                // section 6.3.4 leaves it to the host), and passt answers for them from another address than theirs, which
                // smoltcp 0.14 takes for that address's.
                self.lease.addresses.extend(Cidr::new(Ipv6Addr::from(bits).into(), 128));
            }
            5 if option.len() == 8 => {
                let mtu = u32::from_be_bytes([option[4], option[5], option[6], option[7]]);
                self.said_mtu(mtu as usize);
            }
            25 => {
                let servers = option[8..].chunks_exact(16).filter_map(|server| server.first_chunk::<16>());
                self.lease.name_servers.extend(servers.map(|server| IpAddr::from(*server)));
            }
            _ => {}
        }
    }
}

/// The options of a DHCP message.
struct DhcpOptions<'a>(&'a [u8]);

impl<'a> DhcpOptions<'a> {
    fn find(&self, code: u8) -> Option<&'a [u8]> {
        let mut rest = self.0;
        loop {
            match rest {
                [0, behind @ ..] => rest = behind,
                [255, ..] | [] | [_] => return None,
                [this, len, behind @ ..] => {
                    let (value, next) = behind.split_at_checked(usize::from(*len))?;
                    if *this == code {
                        return Some(value);
                    }
                    rest = next;
                }
            }
        }
    }

    fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.find(code)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
    }
}

/// The checksum of an ICMPv6 message in a frame without extension headers; 0 if the one that is in it holds.
fn icmp_checksum(frame: &[u8]) -> u16 {
    let words = |bytes: &[u8]| {
        let pairs = bytes.chunks(2);
        pairs.map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum::<u32>()
    };
    let message = frame.get(54..).unwrap_or(&[]);
    let mut sum = words(frame.get(22..54).unwrap_or(&[])) + words(message) + message.len() as u32 + 58;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
    /// The answers of passt to a client with this address and the transaction 0x00001234, as it gave them.
    const OFFERED: &str = "020000000007bede301d478d08004500014800000000ff11663ac6336401c633640200430044013400000201060000\
        0012340000800000000000c63364020000000000000000020000000007";
    const ADVERTISED: &str = "020000000007bede301d478d86dd6000000000403afffe800000000000000000000000000001fe80000000000000\
        000000000000000786008fb7ff8023280000000000000000030440c000000e1000000e100000000020010db80001000000000000000000000501\
        00000000fff00101bede301d478d";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    fn answer(kind: u8) -> Vec<u8> {
        let mut frame = bytes(OFFERED);
        frame.resize(ETHERNET + 28 + 236, 0);
        frame.extend_from_slice(&COOKIE);
        frame.extend_from_slice(&[1, 4, 255, 255, 255, 0, 3, 4, 198, 51, 100, 1, 6, 4, 10, 255, 255, 53]);
        frame.extend_from_slice(&[
            26, 2, 255, 240, 51, 4, 255, 255, 255, 255, 53, 1, kind, 54, 4, 198, 51, 100, 1, 255,
        ]);
        frame.resize(342, 0);
        frame
    }

    fn sent(acquire: &mut Acquire, now: Instant) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        acquire.poll(now, &mut |frame| frames.push(frame.to_vec()));
        frames
    }

    #[test]
    fn an_offer_is_taken_and_a_prefix_becomes_an_address() {
        let mut acquire = Acquire::new(MAC, 0x1234);
        let now = Instant::from_millis(10);
        let mut question = || {
            let frames = sent(&mut acquire, now);
            assert_eq!((frames.len(), &frames[0][6..12]), (1, &MAC[..]));
            frames[0].clone()
        };
        let solicitation = question();
        assert_eq!((solicitation[54], icmp_checksum(&solicitation)), (133, 0));
        acquire.input(now, &bytes(ADVERTISED));
        // It says that there is DHCPv6.
        let frames = sent(&mut acquire, now);
        assert_eq!(frames[0][54..58], [2, 34, 2, 35]);
        // No server answers: the other question comes soon.
        assert_eq!(acquire.next_deadline(), now + SOON);
        let frames = sent(&mut acquire, now + SOON);
        assert_eq!(frames[0][ETHERNET + 28 + 240..][..3], [53, 1, DISCOVER]);
        acquire.input(now + SOON, &answer(OFFER));
        let frames = [sent(&mut acquire, now + SOON), sent(&mut acquire, now + SOON * 2)].concat();
        assert_eq!(frames[1][ETHERNET + 28 + 240..][..9], [53, 1, REQUEST, 50, 4, 198, 51, 100, 2]);
        acquire.input(now + SOON * 2, &answer(ACK));
        assert!(!acquire.poll(now + SOON * 2 + OTHER, &mut |_| ()));
        let text = |cidr: &Cidr| cidr.to_string();
        let lease = acquire.lease();
        let addresses: Vec<String> = lease.addresses.iter().map(text).collect();
        assert_eq!(addresses, ["198.51.100.2/24", "2001:db8:1::ff:fe00:7/128"]);
        assert_eq!(lease.gateways, ["198.51.100.1", "fe80::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert_eq!(lease.name_servers, ["10.255.255.53".parse::<IpAddr>().unwrap()]);
        assert_eq!(lease.mtu, Some(65_520));
    }

    #[test]
    fn questions_are_asked_again_and_end() {
        let mut acquire = Acquire::new(MAC, 1);
        let mut now = Instant::from_millis(1);
        let mut asked = 0;
        while acquire.poll(now, &mut |_| asked += 1) {
            assert!(acquire.next_deadline() > now);
            now = acquire.next_deadline();
        }
        assert_eq!((asked, now), (13, Instant::from_millis(1) + FIRST));
        assert_eq!(acquire.lease(), Lease::default());
    }

    #[test]
    fn one_family_alone_is_enough_after_a_moment() {
        let mut acquire = Acquire::new(MAC, 1);
        let now = Instant::from_millis(1);
        assert!(acquire.poll(now, &mut |_| ()));
        acquire.input(now, &bytes(ADVERTISED));
        assert!(acquire.poll(now, &mut |_| ()));
        assert!(!acquire.poll(now + OTHER, &mut |_| ()));
        assert_eq!(acquire.lease().addresses.len(), 1);
    }

    #[test]
    fn answers_to_others_and_damaged_ones_are_not_taken() {
        let mut other = Acquire::new(MAC, 0x4321);
        other.input(Instant::ZERO, &answer(OFFER));
        assert_eq!(other.v4, V4::Discovering);
        let mut acquire = Acquire::new(MAC, 0x1234);
        let mut damaged = bytes(ADVERTISED);
        damaged[100] ^= 1;
        acquire.input(Instant::ZERO, &damaged);
        assert!(!acquire.routed);
        // An acknowledgement of what was not asked for.
        acquire.input(Instant::ZERO, &answer(ACK));
        assert_eq!(acquire.lease(), Lease::default());
    }

    #[test]
    fn a_gateway_outside_of_the_network_is_reached_all_the_same() {
        let mut acquire = Acquire::new(MAC, 1);
        acquire.take_v4(
            Ipv4Addr::new(192, 0, 2, 7),
            &DhcpOptions(&[1, 4, 255, 255, 255, 255, 3, 4, 192, 0, 2, 1]),
        );
        let cidr = acquire.lease.addresses[0];
        assert!(cidr.contains(acquire.lease.gateways[0]), "{cidr}");
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(
            noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            cut in any::<prop::sample::Index>(), which in 0..3,
        ) {
            let mut frame = match which { 0 => answer(OFFER), 1 => answer(ACK), _ => bytes(ADVERTISED) };
            for (place, byte) in noise {
                let at = place.index(frame.len());
                frame[at] = byte;
            }
            frame.truncate(cut.index(frame.len() + 1));
            let mut acquire = Acquire::new(MAC, 0x1234);
            acquire.v4 = V4::Requesting { server: [0; 4], address: [0; 4] };
            acquire.input(Instant::ZERO, &frame);
            acquire.poll(Instant::ZERO, &mut |_| ());
        }
    }
}

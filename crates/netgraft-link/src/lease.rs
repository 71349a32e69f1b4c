//! What a link offers: addresses, gateways, name servers and the MTU, asked for by DHCP (RFC 2131, RFC 2132) and by router
//! solicitation (RFC 4861, RFC 4862, RFC 8106). No I/O, no clock: frames and the time go in, frames come out.
//!
//! It asks once. What ends is asked for again by the link's wrapper (`leased`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netgraft_linux::link::vnet;
use netgraft_plugin::config::{Giver, Term};
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
pub(crate) const ACK: u8 = 5;
pub(crate) const NAK: u8 = 6;
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
    /// How long the addresses may be used, those that end.
    pub terms: Vec<Term>,
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
    /// Routers were asked so often.
    solicited: u32,
    next: Instant,
    /// How long the first answer may take, and how long another one has after each.
    patience: (Duration, Duration),
    /// Whether there are neighbours on the link, beside the router.
    neighbours: bool,
    /// Prefixes whose addresses are on the link (RFC 4861 section 4.6.2).
    on_link: Vec<Cidr>,
    /// Answers to whoever asks for the link-local address.
    replies: Vec<Vec<u8>>,
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
            solicited: 0,
            next: Instant::ZERO,
            patience: (FIRST, OTHER),
            neighbours: false,
            on_link: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// The same for IPv4 alone.
    #[must_use]
    pub fn of_v4(self) -> Acquire {
        Acquire { routed: true, ..self }
    }

    /// The same on a network with servers and neighbours of its own, where an answer may take its time: a DHCP server looks
    /// whether somebody has an address before it offers it (RFC 2131 section 2.2). With `v6` for IPv6, too.
    #[must_use]
    pub fn on_network(mac: [u8; 6], random: u32, v6: bool) -> Acquire {
        Acquire {
            routed: !v6,
            patience: (FIRST * 2, OTHER * 5),
            neighbours: true,
            ..Acquire::new(mac, random)
        }
    }

    /// Sends what is due, and answers whether to go on.
    ///
    /// One question at a time, the next one when there is an answer or after a moment: the passt of Debian 12 does not see one
    /// that it reads together with another.
    pub fn poll(&mut self, now: Instant, send: &mut dyn FnMut(&[u8])) -> bool {
        self.began.get_or_insert(now);
        self.replies.drain(..).for_each(|reply| send(&reply));
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
            Some(0) => {
                // That may be another station's address, which has the answer then: the next question is from none, and its
                // answer is for all.
                let from = if self.solicited.is_multiple_of(2) {
                    link_local(self.mac)
                } else {
                    Ipv6Addr::UNSPECIFIED
                };
                self.solicited += 1;
                send(&solicitation(self.mac, from));
            }
            Some(1) => self.v6.question(link_local(self.mac)).iter().for_each(|question| send(question)),
            _ => send(&self.dhcp()),
        }
        self.asked += 1;
        let round = self.asked / count;
        self.next = now + if round == 0 { SOON } else { AGAIN * round / count };
        true
    }

    /// When to go on with what there is.
    fn until(&self) -> Option<Instant> {
        let most = self.began.map(|began| began + self.patience.0);
        let answered = self.answered.map(|answered| answered + self.patience.1);
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
            Some([0x86, 0xdd]) => {
                self.replies.extend(neighbour_advertisement(frame, self.mac));
                self.advertisement(now, frame).unwrap_or(false) || self.dhcp6_answer(now, frame)
            }
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
        for cidr in lease.addresses.iter_mut().filter(|cidr| cidr.addr().is_ipv6()) {
            if let Some(net) = self.on_link.iter().find(|net| self.neighbours && net.contains(cidr.addr())) {
                *cidr = Cidr::new(cidr.addr(), net.prefix()).unwrap_or(*cidr);
            }
        }
        // IPv4 first, whichever answered first.
        lease.addresses.sort_by_key(|cidr| cidr.addr().is_ipv6());
        lease.gateways.sort_by_key(IpAddr::is_ipv6);
        lease.name_servers.sort_by_key(IpAddr::is_ipv6);
        lease
    }

    /// A DISCOVER, or a REQUEST for what was offered.
    fn dhcp(&self) -> Vec<u8> {
        let ask = match self.v4 {
            V4::Requesting { server, address } => Ask::Offered { server, address },
            V4::Discovering | V4::Done => Ask::Anything,
        };
        question(self.mac, self.transaction, &ask)
    }

    /// Whether the frame was the last answer that was waited for.
    fn dhcp_answer(&mut self, now: Instant, frame: &[u8]) -> Option<bool> {
        let Some((options, address)) = DhcpOptions::of_answer(frame, self.mac, self.transaction) else {
            return Some(false);
        };
        let address = address.octets();
        match (*options.find(53)?.first()?, self.v4) {
            (OFFER, V4::Discovering) => {
                self.v4 = V4::Requesting { server: options.address(54)?.octets(), address };
                self.progress(now);
                Some(false)
            }
            (ACK, V4::Requesting { server, .. }) => {
                self.v4 = V4::Done;
                self.take_v4(address.into(), &options);
                let station = *frame.get(6..)?.first_chunk()?;
                let giver = Giver::Dhcp { server: server.into(), station };
                self.lease.terms.extend(v4_term(&options, address.into(), giver, now));
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

    /// Whether the frame was the last answer of DHCPv6 that was waited for.
    fn dhcp6_answer(&mut self, now: Instant, frame: &[u8]) -> bool {
        let before = self.v6.stage.clone();
        let given = self.v6.answer(frame);
        if self.v6.stage != before {
            self.progress(now);
        }
        let Some(given) = given else { return false };
        if let (Some(address), dhcp6::Stage::Done { server }) = (given.address, &self.v6.stage) {
            let giver = Giver::Dhcp6 { server: server.clone() };
            self.lease.terms.extend(v6_term(address, giver, now, given.renew, given.valid));
        }
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

    /// Whether the frame was a router's advertisement.
    fn advertisement(&mut self, now: Instant, frame: &[u8]) -> Option<bool> {
        let (from, message) = advertisement(frame)?;
        if self.routed {
            return Some(false);
        }
        self.routed = true;
        let flags = *message.get(5)?;
        self.v6.advised(flags & MANAGED != 0, flags & OTHER_THINGS != 0);
        if message.get(6..8)? != [0, 0] {
            self.lease.gateways.push(from.into());
        }
        router_options(message, &mut |kind, option| self.router_option(now, kind, option));
        Some(true)
    }

    /// One option, whose length is at least 8.
    fn router_option(&mut self, now: Instant, kind: u8, option: &[u8]) {
        match kind {
            3 => {
                // "L: when set, indicates that this prefix can be used for on-link determination" (RFC 4861 section 4.6.2).
                if option.get(3).is_some_and(|flags| flags & 0x80 != 0)
                    && let (Some(length), Some(bits)) =
                        (option.get(2), option.get(16..).and_then(|o| o.first_chunk::<16>()))
                {
                    self.on_link.extend(Cidr::new(Ipv6Addr::from(*bits).into(), *length));
                }
                let Some((prefix, valid)) = prefix(option) else { return };
                let address = Ipv6Addr::from_bits(prefix | u128::from(identifier(self.mac)));
                // As a host route unless there are neighbours: else they are reached through the router, which is right for
                // every of them, and passt answers for them from another address than theirs, which smoltcp 0.14 takes for that
                // address's.
                self.lease.addresses.extend(Cidr::new(address.into(), 128));
                self.lease.terms.extend(v6_term(address, Giver::Router, now, valid / 2, valid));
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

/// A router's advertisement: who sent it, and the message; `None` if the frame is none (RFC 4861 section 6.1.2).
pub(crate) fn advertisement(frame: &[u8]) -> Option<(Ipv6Addr, &[u8])> {
    let found = vnet::layout(frame).filter(|l| !l.v4 && l.protocol == 58 && frame.get(21) == Some(&255))?;
    let packet = frame.get(..found.end)?;
    let from = Ipv6Addr::from(*packet.get(22..)?.first_chunk::<16>()?);
    let message = packet.get(found.transport..)?;
    let is_one = *message.first()? == 134 && from.is_unicast_link_local() && icmp_checksum(packet) == 0;
    is_one.then_some((from, message))
}

/// The options of an advertisement, each with its type; their length is at least 8.
pub(crate) fn router_options(message: &[u8], each: &mut dyn FnMut(u8, &[u8])) {
    let mut rest = message.get(16..).unwrap_or_default();
    while let [kind, units, ..] = *rest {
        let len = usize::from(units) * 8;
        // RFC 4861 section 4.6: nothing is behind an option without a length.
        let Some(option) = rest.get(..len).filter(|_| len > 0) else { break };
        each(kind, option);
        rest = &rest[len..];
    }
}

/// A prefix to make an address of (RFC 4862 section 5.5.3): autonomous, of 64 bits, valid. With the seconds that it is.
pub(crate) fn prefix(option: &[u8]) -> Option<(u128, u32)> {
    let valid = u32::from_be_bytes(*option.get(4..)?.first_chunk()?);
    let bits = u128::from_be_bytes(*option.get(16..)?.first_chunk()?) & !u128::from(u64::MAX);
    let usable = option.get(2..4).is_some_and(|o| o[0] == 64 && o[1] & 0x40 != 0) && valid > 0;
    (usable && bits >> 118 != 0x3fa).then_some((bits, valid))
}

/// The interface identifier of an address (RFC 4291 appendix A).
pub(crate) fn identifier([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The link-local address of a station (RFC 4862 section 5.3).
#[must_use]
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(identifier(mac)))
}

/// The answer to a neighbour that asks for the link-local address (RFC 4861 section 7.2.4), as servers do before they answer
/// a client whose station they do not know.
fn neighbour_advertisement(frame: &[u8], mac: [u8; 6]) -> Option<Vec<u8>> {
    let found = vnet::layout(frame).filter(|l| !l.v4 && l.protocol == 58 && frame.get(21) == Some(&255))?;
    let packet = frame.get(..found.end)?;
    let own = link_local(mac).octets();
    let asked =
        packet.get(54) == Some(&135) && packet.get(62..78) == Some(&own[..]) && icmp_checksum(packet) == 0;
    let from = packet.get(22..38).filter(|from| asked && **from != [0; 16])?;
    let mut reply = packet.get(6..12)?.to_vec();
    reply.extend_from_slice(&mac);
    reply.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    reply.extend_from_slice(&own);
    reply.extend_from_slice(from);
    // Solicited, and it replaces what was known.
    reply.extend_from_slice(&[136, 0, 0, 0, 0x60, 0, 0, 0]);
    reply.extend_from_slice(&own);
    reply.extend_from_slice(&[2, 1]);
    reply.extend_from_slice(&mac);
    let check = icmp_checksum(&reply);
    reply[56..58].copy_from_slice(&check.to_be_bytes());
    Some(reply)
}

/// A router solicitation, from an address of the station's, or from none: then the answer is for all (RFC 4861 section 4.1).
pub(crate) fn solicitation(mac: [u8; 6], from: Ipv6Addr) -> Vec<u8> {
    let has_address = !from.is_unspecified();
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 2];
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, if has_address { 16 } else { 8 }, 58, 255]);
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&ROUTERS.octets());
    frame.extend_from_slice(&[133, 0, 0, 0, 0, 0, 0, 0]);
    if has_address {
        // Where the answer goes.
        frame.extend_from_slice(&[1, 1]);
        frame.extend_from_slice(&mac);
    }
    let check = icmp_checksum(&frame);
    frame[56..58].copy_from_slice(&check.to_be_bytes());
    frame
}

/// What a DHCP client asks for.
pub(crate) enum Ask {
    /// Whatever there is.
    Anything,
    /// What was offered.
    Offered { server: [u8; 4], address: [u8; 4] },
    /// The address that it has, again; of the server that gave it, or of any.
    Again { address: Ipv4Addr, of: Option<(Ipv4Addr, [u8; 6])> },
    /// The address that it had.
    Former { address: Ipv4Addr },
}

/// A question of a DHCP client, as a frame (RFC 2131 sections 2, 4.1 and 4.3.6).
pub(crate) fn question(mac: [u8; 6], transaction: [u8; 4], ask: &Ask) -> Vec<u8> {
    let (station, from, to) = match ask {
        Ask::Again { address, of: Some((server, station)) } => (*station, address.octets(), server.octets()),
        Ask::Again { address, of: None } => ([0xff; 6], address.octets(), [0xff; 4]),
        _ => ([0xff; 6], [0; 4], [0xff; 4]),
    };
    let mut frame = vec![0; ETHERNET + 20 + 8 + 236];
    frame[..6].copy_from_slice(&station);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[8, 0]);
    let bootp = &mut frame[ETHERNET + 28..];
    // A request from Ethernet.
    bootp[..3].copy_from_slice(&[1, 1, 6]);
    bootp[4..8].copy_from_slice(&transaction);
    bootp[12..16].copy_from_slice(&from);
    if from == [0; 4] {
        // The answer is to be broadcast.
        bootp[10] = 0x80;
    }
    bootp[28..34].copy_from_slice(&mac);
    frame.extend_from_slice(&COOKIE);
    match ask {
        Ask::Anything => frame.extend_from_slice(&[53, 1, DISCOVER]),
        Ask::Offered { server, address } => {
            frame.extend_from_slice(&[53, 1, REQUEST, 50, 4]);
            frame.extend_from_slice(address);
            frame.extend_from_slice(&[54, 4]);
            frame.extend_from_slice(server);
        }
        Ask::Again { .. } => frame.extend_from_slice(&[53, 1, REQUEST]),
        Ask::Former { address } => {
            frame.extend_from_slice(&[53, 1, REQUEST, 50, 4]);
            frame.extend_from_slice(&address.octets());
        }
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
    frame[ip + 12..ip + 16].copy_from_slice(&from);
    frame[ip + 16..ip + 20].copy_from_slice(&to);
    vnet::finish_header(&mut frame[ip..ip + 20]);
    put(&mut frame, ip + 20, 68);
    put(&mut frame, ip + 22, 67);
    put(&mut frame, ip + 24, len - ip - 20);
    frame
}

/// How long an address of DHCP may be used; `None` for ever.
pub(crate) fn v4_term(
    options: &DhcpOptions<'_>,
    address: Ipv4Addr,
    giver: Giver,
    given: Instant,
) -> Option<Term> {
    let seconds = |code| options.find(code)?.first_chunk::<4>().map(|word| u32::from_be_bytes(*word));
    // 0xffffffff is infinity (RFC 2131 section 3.3).
    let ends = seconds(51).filter(|ends| *ends != u32::MAX)?.max(1);
    // "T1 defaults to (0.5 * duration_of_lease). T2 defaults to (0.875 * duration_of_lease)" (section 4.4.5).
    let rebind = seconds(59).filter(|at| *at <= ends).unwrap_or(ends - ends / 8);
    let renew = seconds(58).filter(|at| *at <= rebind).unwrap_or(ends / 2);
    let time = |seconds: u32| Duration::from_secs(seconds.into());
    let addresses = vec![address.into()];
    Some(Term { addresses, giver, given, renew: time(renew), rebind: time(rebind), ends: time(ends) })
}

/// How long an address of IPv6 may be used that is valid for so many seconds; `None` for ever (RFC 4861 section 4.6.2).
pub(crate) fn v6_term(
    address: Ipv6Addr,
    giver: Giver,
    given: Instant,
    renew: u32,
    valid: u32,
) -> Option<Term> {
    let time = |seconds: u32| Duration::from_secs(seconds.into());
    (valid != u32::MAX).then(|| Term {
        addresses: vec![address.into()],
        giver,
        given,
        renew: time(renew.min(valid)),
        rebind: time(valid),
        ends: time(valid),
    })
}

/// The options of a DHCP message.
pub(crate) struct DhcpOptions<'a>(&'a [u8]);

impl<'a> DhcpOptions<'a> {
    /// Those of a message for this client; `None` if it is none.
    pub(crate) fn of_answer(frame: &'a [u8], mac: [u8; 6], transaction: [u8; 4]) -> Option<(Self, Ipv4Addr)> {
        let found = vnet::layout(frame).filter(|l| l.v4 && l.protocol == 17 && !l.fragment)?;
        let udp = frame.get(found.transport..found.end)?;
        let bootp = udp.get(8..)?;
        let is_ours = udp.get(..4)? == [0, 67, 0, 68]
            && *bootp.first()? == 2
            && bootp.get(4..8)? == transaction
            && bootp.get(28..34)? == mac
            && bootp.get(236..240)? == COOKIE
            && vnet::is_intact(&[0; vnet::LEN], frame);
        let address: [u8; 4] = *bootp.get(16..)?.first_chunk()?;
        is_ours.then_some((DhcpOptions(bootp.get(240..)?), address.into()))
    }

    pub(crate) fn find(&self, code: u8) -> Option<&'a [u8]> {
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
pub(crate) fn icmp_checksum(frame: &[u8]) -> u16 {
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
    fn every_second_question_for_routers_is_from_nobody() {
        let mut acquire = Acquire::on_network(MAC, 1, true);
        let mut now = Instant::ZERO;
        let mut sources = Vec::new();
        while sources.len() < 4 {
            for frame in sent(&mut acquire, now).iter().filter(|frame| frame.get(54) == Some(&133)) {
                assert_eq!(icmp_checksum(frame), 0);
                let from = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap());
                // Only one who has an address says where that is (RFC 4861 section 4.1).
                assert_eq!((frame.len(), frame[19]), if from.is_unspecified() { (62, 8) } else { (70, 16) });
                sources.push(from);
            }
            now = acquire.next_deadline();
        }
        let own = link_local(MAC);
        assert_eq!(sources, [own, Ipv6Addr::UNSPECIFIED, own, Ipv6Addr::UNSPECIFIED]);
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

    #[test]
    fn on_a_network_there_is_more_time_and_prefixes_are_on_the_link() {
        let mut acquire = Acquire::on_network(MAC, 1, true);
        let now = Instant::from_millis(1);
        assert!(acquire.poll(now, &mut |_| ()));
        acquire.input(now, &bytes(ADVERTISED));
        assert!(acquire.poll(now + OTHER * 4, &mut |_| ()));
        assert_eq!(acquire.lease().addresses[0].prefix(), 64);
        // IPv4 alone asks no router.
        let mut acquire = Acquire::on_network(MAC, 1, false);
        let questions = sent(&mut acquire, now);
        assert_eq!(questions[0][ETHERNET + 28 + 240..][..3], [53, 1, DISCOVER]);
    }

    #[test]
    fn who_asks_for_the_link_local_address_is_answered() {
        let mut acquire = Acquire::new(MAC, 1);
        let own = link_local(MAC).octets();
        let mut asks =
            vec![0x33, 0x33, 0xff, 0, 0, 7, 4, 4, 4, 4, 4, 4, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255];
        let server = link_local([4; 6]).octets();
        for part in [&server[..], &own, &[135, 0, 0, 0, 0, 0, 0, 0], &own] {
            asks.extend_from_slice(part);
        }
        let check = icmp_checksum(&asks);
        asks[56..58].copy_from_slice(&check.to_be_bytes());
        acquire.input(Instant::ZERO, &asks);
        let answers = sent(&mut acquire, Instant::ZERO);
        assert_eq!((answers.len(), answers[0][54], icmp_checksum(&answers[0])), (2, 136, 0));
        assert_eq!((&answers[0][..6], &answers[0][38..54]), (&[4; 6][..], &server[..]));
        asks[70] ^= 1;
        acquire.input(Instant::ZERO, &asks);
        assert!(acquire.replies.is_empty());
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

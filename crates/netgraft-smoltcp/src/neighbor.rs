//! Neighbors' Ethernet addresses (RFC 826, RFC 4861). smoltcp has a table of its own for datagrams, which nobody else can
//! read and which believes everything; TCP has this one. smoltcp asks for one neighbor a second in all, so that one
//! that does not answer would hold up the others; what it does not ask, this does.
//!
//! All that comes of ARP and neighbor discovery ends here, and smoltcp hears what this file believes:
//!
//! - an answer counts if it was asked for, once, and for [`ANSWERED`] (RFC 4861 section 7.2.5 would also let one that says
//!   "override" replace what is known: who is on the link could take over any connection with it);
//! - a question tells who asks. Of a neighbor that is not known it is believed until the neighbor was asked in turn, which
//!   happens at once; of one that has answered once it changes nothing. It is answered in either case;
//! - what the operator says (`--neighbour`) is never asked for and never replaced.
//!
//! So a neighbor that has another address from now on is found when the old one is no longer confirmed, after
//! [`REACHABLE`]. Who answers a question faster than the one who was meant is still believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netgraft_plugin::Instant;

use crate::core::Core;
use crate::hash::{Keyed, Map};
use crate::packet::{self, Header, ICMPV6, Packet};

/// All ones, to every station.
const BROADCAST: [u8; 6] = [0xff; 6];
/// Every IPv6 node of the link, and its group of stations.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// How long an address is believed without a sign that it still holds ("reachable", RFC 4861 section 10). After that it is
/// still used, and the neighbor is asked: one that is there answers, to one that is gone it makes no difference.
const REACHABLE: Duration = Duration::from_secs(30);
/// How often a neighbor is asked at most.
const ASK: Duration = Duration::from_secs(1);
/// How long after a question its answer may come.
const ANSWERED: Duration = Duration::from_secs(3);
/// Most neighbors; one that was not heard of for the longest time makes room.
const MOST: usize = 1024;

#[derive(Clone, Copy, Debug, Default)]
struct Neighbor {
    mac: Option<[u8; 6]>,
    /// When it was known to hold; of one that nobody has confirmed, never.
    confirmed: Option<Instant>,
    /// When TCP had it asked last.
    asked: Option<Instant>,
    /// The last question to it that is not answered.
    question: Option<Instant>,
}

/// The neighbors that TCP sends to.
pub(crate) struct Neighbors {
    known: Map<IpAddr, Neighbor>,
    /// Those that the operator has named.
    fixed: Map<IpAddr, [u8; 6]>,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Station {
    /// To this station; whether it is to be asked if it is still there.
    Known([u8; 6], bool),
    /// Nobody knows; whether it is to be asked for.
    Unknown(bool),
}

/// What has come of what was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// It is believed.
    Learned,
    /// It is believed, and the neighbor is asked whether it is true.
    ToBeAsked,
    /// It changes nothing.
    Ignored,
}

impl Neighbors {
    pub(crate) fn new(key: Keyed) -> Self {
        Neighbors { known: Map::with_hasher(key), fixed: Map::with_hasher(key) }
    }

    /// Notes a neighbor that the operator has named.
    pub(crate) fn fix(&mut self, ip: IpAddr, mac: [u8; 6]) {
        self.fixed.insert(ip, mac);
    }

    /// The station that the operator has named for a neighbor.
    pub(crate) fn fixed(&self, ip: IpAddr) -> Option<[u8; 6]> {
        self.fixed.get(&ip).copied()
    }

    fn entry(&mut self, ip: IpAddr) -> &mut Neighbor {
        if self.known.len() >= MOST && !self.known.contains_key(&ip) {
            let oldest = self.known.iter().min_by_key(|(_, n)| (n.confirmed, n.question)).map(|(ip, _)| *ip);
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        self.known.entry(ip).or_default()
    }

    /// Notes that a question for a neighbor has left.
    pub(crate) fn questioned(&mut self, ip: IpAddr, now: Instant) {
        self.entry(ip).question = Some(now);
    }

    /// Takes a neighbor's answer.
    fn answered(&mut self, ip: IpAddr, mac: [u8; 6], now: Instant) -> Heard {
        if !is_station(mac) || self.fixed.contains_key(&ip) {
            return Heard::Ignored;
        }
        match self.known.get_mut(&ip) {
            Some(neighbor) if neighbor.question.is_some_and(|asked| now.since(asked) < ANSWERED) => {
                *neighbor = Neighbor { mac: Some(mac), confirmed: Some(now), asked: None, question: None };
                Heard::Learned
            }
            _ => Heard::Ignored,
        }
    }

    /// Takes what a neighbor's question says of who asks.
    fn asks(&mut self, ip: IpAddr, mac: [u8; 6]) -> Heard {
        if !is_station(mac) || self.fixed.contains_key(&ip) {
            return Heard::Ignored;
        }
        let neighbor = self.entry(ip);
        match neighbor.mac {
            // smoltcp may have forgotten it.
            Some(known) if known == mac => Heard::Learned,
            Some(_) if neighbor.confirmed.is_some() => Heard::Ignored,
            _ => {
                neighbor.mac = Some(mac);
                Heard::ToBeAsked
            }
        }
    }

    /// Notes that packets reach a neighbor: they were acknowledged (RFC 4861 section 7.3.1).
    pub(crate) fn confirm(&mut self, ip: IpAddr, now: Instant) {
        if let Some(neighbor) = self.known.get_mut(&ip).filter(|n| n.mac.is_some()) {
            neighbor.confirmed = Some(now);
            neighbor.asked = None;
        }
    }

    /// Where packets for a neighbor go.
    pub(crate) fn station(&mut self, ip: IpAddr, now: Instant) -> Station {
        if let Some(mac) = self.fixed(ip) {
            return Station::Known(mac, false);
        }
        let neighbor = self.entry(ip);
        let holds = neighbor.confirmed.is_some_and(|at| now.since(at) < REACHABLE);
        let asks =
            (neighbor.mac.is_none() || !holds) && neighbor.asked.is_none_or(|asked| now.since(asked) >= ASK);
        if asks {
            neighbor.asked = Some(now);
        }
        match neighbor.mac {
            Some(mac) => Station::Known(mac, asks),
            None => Station::Unknown(asks),
        }
    }

    /// When a neighbor that was asked may be asked again.
    pub(crate) fn asks_at(&self, ip: IpAddr, now: Instant) -> Instant {
        let asked = self.known.get(&ip).and_then(|n| n.asked);
        asked.map_or(now, |asked| asked + ASK)
    }
}

/// Whether an Ethernet address can be that of one station.
fn is_station(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

/// The neighbor that a frame asks for, if it is a question (RFC 826, RFC 4861 section 4.3).
pub(crate) fn question(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x06] if frame.get(20..22)? == [0, 1] => {
            let target: [u8; 4] = frame.get(38..42)?.try_into().ok()?;
            Some(target.into())
        }
        [0x86, 0xdd] if *frame.get(20)? == ICMPV6 && *frame.get(54)? == 135 => {
            let target: [u8; 16] = frame.get(62..78)?.try_into().ok()?;
            Some(target.into())
        }
        _ => None,
    }
}

impl Core {
    /// Takes an ARP packet (RFC 826): learns from it, and answers it.
    pub(crate) fn arp_input(&mut self, frame: &[u8]) {
        let Some(&[0, 1, 8, 0, 6, 4, 0, operation @ (1 | 2), ref ends @ ..]) = frame.get(14..42) else {
            return;
        };
        let Some(&[a, b, c, d, e, f, s0, s1, s2, s3, _, _, _, _, _, _, t0, t1, t2, t3]) =
            ends.first_chunk::<20>()
        else {
            return;
        };
        let (mac, sender) = ([a, b, c, d, e, f], Ipv4Addr::new(s0, s1, s2, s3));
        let target = Ipv4Addr::new(t0, t1, t2, t3);
        if !self.is_of_link(target.into()) {
            return;
        }
        let near = self.is_on_link(sender.into());
        if operation == 2 {
            if near {
                let heard = self.neighbors.answered(sender.into(), mac, self.now);
                self.believe(heard, sender.into(), mac);
            }
            return;
        }
        if near {
            let heard = self.neighbors.asks(sender.into(), mac);
            self.believe(heard, sender.into(), mac);
        }
        // One who looks whether an address is free has none yet (RFC 5227 section 2.1.1).
        if (near || sender.is_unspecified()) && is_station(mac) {
            self.push_arp(2, mac, (target, self.own_mac()), (sender, mac));
        }
    }

    /// Takes a neighbor solicitation or advertisement (RFC 4861 sections 7.2.3 to 7.2.5); answers whether it is one.
    pub(crate) fn discovery_input(&mut self, frame: &[u8], packet: &Packet<'_>) -> bool {
        let Some(kind @ (135 | 136)) = packet.payload.first() else { return false };
        // "The IP Hop Limit field has a value of 255, i.e., the packet could not possibly have been forwarded."
        let fits = packet.protocol == ICMPV6 && packet.hop_limit == 255 && packet.payload.get(1) == Some(&0);
        let Some(target) = packet.payload.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()) else {
            return true;
        };
        let (target, IpAddr::V6(src)) = (Ipv6Addr::from(target), packet.src) else { return true };
        if !fits || target.is_multicast() {
            return true;
        }
        if *kind == 136 {
            // "Solicited" and to this station alone; others are news that nobody has asked for.
            let solicited = packet.payload.get(4).is_some_and(|flags| flags & 0x40 != 0);
            if let Some(mac) = option(packet.payload, 2).filter(|_| solicited && !packet.dst.is_multicast())
                && self.is_on_link(target.into())
            {
                let heard = self.neighbors.answered(target.into(), mac, self.now);
                self.believe(heard, target.into(), mac);
            }
            return true;
        }
        if !self.is_of_link(target.into()) {
            return true;
        }
        let near = self.is_on_link(src.into());
        if near && let Some(mac) = option(packet.payload, 1) {
            let heard = self.neighbors.asks(src.into(), mac);
            self.believe(heard, src.into(), mac);
        }
        if let Some(station) = frame.get(6..12).and_then(|b| <[u8; 6]>::try_from(b).ok())
            && is_station(station)
            && (near || src.is_unspecified())
        {
            let own = self.own_mac();
            if src.is_unspecified() {
                // One who looks whether an address is free (RFC 4862 section 5.4): all are told that it is not.
                self.push_advertisement(ALL_NODES_MAC, (target, own), ALL_NODES);
            } else {
                self.push_advertisement(station, (target, own), src);
            }
        }
        true
    }

    /// Tells smoltcp what is believed, and asks whether it is true.
    fn believe(&mut self, heard: Heard, ip: IpAddr, mac: [u8; 6]) {
        if heard == Heard::Ignored {
            return;
        }
        self.tell_interface(ip, mac);
        if heard == Heard::ToBeAsked {
            self.solicit(ip);
        }
    }

    /// Gives smoltcp a neighbor's address, in the form in which it can hear it: an answer.
    pub(crate) fn tell_interface(&mut self, ip: IpAddr, mac: [u8; 6]) {
        let own = self.own_mac();
        let Some(link) = &self.net.link else { return };
        let mut buf = [0; 14 + 40 + 32];
        let len = match ip {
            IpAddr::V4(ip) => {
                let mine = link.addresses.iter().find_map(|c| match c.addr() {
                    IpAddr::V4(mine) if c.contains(ip.into()) => Some(mine),
                    _ => None,
                });
                let Some(mine) = mine else { return };
                fill_arp(&mut buf[..14 + 28], 2, own, (ip, mac), (mine, own));
                14 + 28
            }
            IpAddr::V6(ip) => {
                let Ok(path) = self.path(ip.into()) else { return };
                let IpAddr::V6(mine) = path.src else { return };
                fill_advertisement(&mut buf, own, (ip, mac), mine);
                buf.len()
            }
        };
        if let Some(link) = &mut self.net.link {
            link.ingress_unclaimed(self.now, &buf[..len]);
        }
        self.neighbors_may_have_come();
    }

    fn own_mac(&self) -> [u8; 6] {
        self.net.link.as_ref().and_then(|link| link.mac).unwrap_or_default()
    }

    /// Whether an address is the link's own.
    fn is_of_link(&self, ip: IpAddr) -> bool {
        self.net.link.as_ref().is_some_and(|link| link.has(ip))
    }

    /// Whether an address is one of a neighbor on the link.
    fn is_on_link(&self, ip: IpAddr) -> bool {
        let Some(link) = &self.net.link else { return false };
        !ip.is_multicast()
            && !ip.is_unspecified()
            && !self.net.is_local(ip)
            && !self.net.is_broadcast(ip)
            && (crate::core::is_link_local(ip) || link.addresses.iter().any(|c| c.contains(ip)))
    }

    fn push_arp(
        &mut self,
        operation: u8,
        to: [u8; 6],
        sender: (Ipv4Addr, [u8; 6]),
        target: (Ipv4Addr, [u8; 6]),
    ) {
        if let Some(netif) = &mut self.net.link {
            let fill = |buf: &mut [u8]| fill_arp(buf, operation, to, sender, target);
            netif.tx.push(14 + 28, Default::default(), fill);
        }
    }

    fn push_advertisement(&mut self, to: [u8; 6], target: (Ipv6Addr, [u8; 6]), dst: Ipv6Addr) {
        if let Some(netif) = &mut self.net.link {
            let fill = |buf: &mut [u8]| fill_advertisement(buf, to, target, dst);
            netif.tx.push(14 + 40 + 32, Default::default(), fill);
        }
    }

    /// Asks for the Ethernet address of `hop` (RFC 826, RFC 4861 section 4.3).
    pub(crate) fn solicit(&mut self, hop: IpAddr) {
        let Ok(path) = self.path(hop) else { return };
        let Some(netif) = &mut self.net.link else { return };
        let Some(mac) = netif.mac else { return };
        match (path.src, hop) {
            (IpAddr::V4(src), IpAddr::V4(hop)) => self.push_arp(1, BROADCAST, (src, mac), (hop, [0; 6])),
            (IpAddr::V6(src), IpAddr::V6(hop)) => {
                let last = hop.octets();
                // The solicited-node group (RFC 4291 section 2.7.1).
                let group =
                    Ipv6Addr::from_bits(0xff02 << 112 | 1 << 32 | 0xff << 24 | (hop.to_bits() & 0xff_ffff));
                let header = Header {
                    src: src.into(),
                    dst: group.into(),
                    protocol: ICMPV6,
                    hop_limit: 255,
                    traffic_class: 0,
                    dont_fragment: false,
                };
                netif.tx.push(14 + 40 + 32, Default::default(), |buf| {
                    buf[0..3].copy_from_slice(&[0x33, 0x33, 0xff]);
                    buf[3..6].copy_from_slice(&last[13..]);
                    buf[6..12].copy_from_slice(&mac);
                    buf[12..14].copy_from_slice(&[0x86, 0xdd]);
                    header.emit(&mut buf[14..]);
                    let message = &mut buf[54..];
                    message.fill(0);
                    message[0] = 135;
                    message[8..24].copy_from_slice(&last);
                    // Option: source link-layer address, one unit of eight bytes.
                    message[24..26].copy_from_slice(&[1, 1]);
                    message[26..32].copy_from_slice(&mac);
                    packet::fill_icmp_checksum(message, &header);
                });
            }
            _ => {}
        }
    }
}

/// Writes an ARP packet in its frame: the operation is 1 for a question and 2 for an answer.
fn fill_arp(
    buf: &mut [u8],
    operation: u8,
    to: [u8; 6],
    (sender, sender_mac): (Ipv4Addr, [u8; 6]),
    (target, target_mac): (Ipv4Addr, [u8; 6]),
) {
    buf.fill(0);
    buf[0..6].copy_from_slice(&to);
    buf[6..12].copy_from_slice(&sender_mac);
    // Ethertype, then hardware type, protocol type, both lengths, operation.
    buf[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, operation]);
    buf[22..28].copy_from_slice(&sender_mac);
    buf[28..32].copy_from_slice(&sender.octets());
    buf[32..38].copy_from_slice(&target_mac);
    buf[38..42].copy_from_slice(&target.octets());
}

/// Writes a neighbor advertisement in its frame (RFC 4861 section 4.4): "solicited" but to all nodes, and "override".
fn fill_advertisement(buf: &mut [u8], to: [u8; 6], (target, mac): (Ipv6Addr, [u8; 6]), dst: Ipv6Addr) {
    let header = Header {
        src: target.into(),
        dst: dst.into(),
        protocol: ICMPV6,
        hop_limit: 255,
        traffic_class: 0,
        dont_fragment: false,
    };
    buf[0..6].copy_from_slice(&to);
    buf[6..12].copy_from_slice(&mac);
    buf[12..14].copy_from_slice(&[0x86, 0xdd]);
    header.emit(&mut buf[14..]);
    let message = &mut buf[54..];
    message.fill(0);
    message[0] = 136;
    message[4] = if dst.is_multicast() { 0x20 } else { 0x60 };
    message[8..24].copy_from_slice(&target.octets());
    // Option: target link-layer address, one unit of eight bytes.
    message[24..26].copy_from_slice(&[2, 1]);
    message[26..32].copy_from_slice(&mac);
    packet::fill_icmp_checksum(message, &header);
}

/// The Ethernet address in an option of a neighbor discovery message: 1 for the source's, 2 for the target's.
fn option(message: &[u8], wanted: u8) -> Option<[u8; 6]> {
    let mut options = message.get(24..)?;
    while let Some(&[kind, units, ..]) = options.get(..2) {
        let len = usize::from(units) * 8;
        let bytes = options.get(..len).filter(|_| len > 0)?;
        if kind == wanted {
            return bytes.get(2..).and_then(|b| b.first_chunk::<6>()).copied();
        }
        options = &options[len..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_believed_for_a_while_and_asked_for_once_a_second() {
        let mut neighbors = Neighbors::new(Keyed::random());
        let (ip, mac) = (IpAddr::from([192, 0, 2, 9]), [2, 0, 0, 0, 0, 9]);
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        assert_eq!(neighbors.station(ip, at(0)), Station::Unknown(true));
        assert_eq!(neighbors.station(ip, at(0)), Station::Unknown(false));
        assert_eq!(neighbors.asks_at(ip, at(0)), at(1));
        neighbors.questioned(ip, at(0));
        assert_eq!(neighbors.answered(ip, mac, at(1)), Heard::Learned);
        assert_eq!(neighbors.station(ip, at(20)), Station::Known(mac, false));
        assert_eq!(neighbors.station(ip, at(31)), Station::Known(mac, true));
        neighbors.confirm(ip, at(31));
        assert_eq!(neighbors.station(ip, at(32)), Station::Known(mac, false));
        assert_eq!(neighbors.station(ip, at(200)), Station::Known(mac, true));
        assert_eq!(neighbors.station(ip, at(200)), Station::Known(mac, false));
        neighbors.questioned(ip, at(200));
        assert_eq!(
            neighbors.answered(ip, [3, 0, 0, 0, 0, 1], at(201)),
            Heard::Ignored,
            "a group is no station"
        );
        assert_eq!(neighbors.station(ip, at(201)), Station::Known(mac, true));
        for i in 0..2000u32 {
            neighbors.questioned(Ipv4Addr::from_bits(i).into(), at(100));
        }
        assert_eq!(neighbors.known.len(), MOST);
        assert_eq!(neighbors.station(ip, at(201)), Station::Known(mac, false), "it was heard of last");
    }

    #[test]
    fn only_answers_to_questions_replace_what_is_known() {
        let mut neighbors = Neighbors::new(Keyed::random());
        let (ip, mac, other) = (IpAddr::from([192, 0, 2, 9]), [2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 66]);
        let at = |millis: u64| Instant::from_millis(millis);
        assert_eq!(neighbors.answered(ip, other, at(0)), Heard::Ignored, "nobody has asked");
        assert_eq!(neighbors.asks(ip, other), Heard::ToBeAsked, "until the neighbor itself was asked");
        assert_eq!(neighbors.station(ip, at(0)), Station::Known(other, true));
        neighbors.questioned(ip, at(0));
        assert_eq!(neighbors.answered(ip, mac, at(1)), Heard::Learned);
        assert_eq!(neighbors.answered(ip, other, at(2)), Heard::Ignored, "the second answer");
        assert_eq!(neighbors.asks(ip, other), Heard::Ignored);
        assert_eq!(neighbors.asks(ip, mac), Heard::Learned);
        assert_eq!(neighbors.station(ip, at(3)), Station::Known(mac, false));
        neighbors.questioned(ip, at(40_000));
        assert_eq!(neighbors.answered(ip, other, at(43_000)), Heard::Ignored, "too late");
        neighbors.fix(ip, other);
        neighbors.questioned(ip, at(50_000));
        assert_eq!(neighbors.answered(ip, mac, at(50_001)), Heard::Ignored);
        assert_eq!(neighbors.asks(ip, mac), Heard::Ignored);
        assert_eq!(neighbors.station(ip, at(90_000)), Station::Known(other, false));
    }
}

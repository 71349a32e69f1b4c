//! Neighbors' Ethernet addresses (RFC 826, RFC 4861). smoltcp has a table of its own for datagrams, which nobody else can
//! read; TCP has this one. Both learn from the same packets. smoltcp asks for one neighbor a second in all, so that one
//! that does not answer would hold up the others; what it does not ask, this does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netgraft_plugin::Instant;

use crate::core::Core;
use crate::hash::{Keyed, Map};
use crate::packet::{self, Header, ICMPV6, Packet};

/// All ones, to every station.
const BROADCAST: [u8; 6] = [0xff; 6];
/// How long an address is believed without a sign that it still holds ("reachable", RFC 4861 section 10). After that it is
/// still used, and the neighbor is asked: one that is there answers, to one that is gone it makes no difference.
const REACHABLE: Duration = Duration::from_secs(30);
/// How often a neighbor is asked at most.
const ASK: Duration = Duration::from_secs(1);
/// Most neighbors; one that was not heard of for the longest time makes room.
const MOST: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Neighbor {
    mac: Option<[u8; 6]>,
    /// When it was known to hold, and when the neighbor was asked last.
    confirmed: Instant,
    asked: Option<Instant>,
}

/// The neighbors that TCP sends to.
pub(crate) struct Neighbors {
    known: Map<IpAddr, Neighbor>,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Station {
    /// To this station; whether it is to be asked if it is still there.
    Known([u8; 6], bool),
    /// Nobody knows; whether it is to be asked for.
    Unknown(bool),
}

impl Neighbors {
    pub(crate) fn new(key: Keyed) -> Self {
        Neighbors { known: Map::with_hasher(key) }
    }

    fn entry(&mut self, ip: IpAddr, now: Instant) -> &mut Neighbor {
        if self.known.len() >= MOST && !self.known.contains_key(&ip) {
            let oldest = self.known.iter().min_by_key(|(_, n)| n.confirmed).map(|(ip, _)| *ip);
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        self.known.entry(ip).or_insert(Neighbor { mac: None, confirmed: now, asked: None })
    }

    /// Notes a neighbor's address.
    fn learn(&mut self, ip: IpAddr, mac: [u8; 6], now: Instant) {
        if mac[0] & 1 == 0 && mac != [0; 6] {
            *self.entry(ip, now) = Neighbor { mac: Some(mac), confirmed: now, asked: None };
        }
    }

    /// Notes that packets reach a neighbor: they were acknowledged (RFC 4861 section 7.3.1).
    pub(crate) fn confirm(&mut self, ip: IpAddr, now: Instant) {
        if let Some(neighbor) = self.known.get_mut(&ip).filter(|n| n.mac.is_some()) {
            neighbor.confirmed = now;
            neighbor.asked = None;
        }
    }

    /// Where packets for a neighbor go.
    pub(crate) fn station(&mut self, ip: IpAddr, now: Instant) -> Station {
        let neighbor = self.entry(ip, now);
        let age = now.since(neighbor.confirmed);
        let asks = (neighbor.mac.is_none() || age >= REACHABLE)
            && neighbor.asked.is_none_or(|asked| now.since(asked) >= ASK);
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

impl Core {
    /// Learns from an ARP packet for this station, as RFC 826 has it: from a question as from an answer.
    pub(crate) fn learn_arp(&mut self, frame: &[u8]) {
        let Some(&[0, 1, 8, 0, 6, 4, 0, 1 | 2, ref ends @ ..]) = frame.get(14..42) else { return };
        let Some(&[a, b, c, d, e, f, s0, s1, s2, s3, _, _, _, _, _, _, t0, t1, t2, t3]) =
            ends.first_chunk::<20>()
        else {
            return;
        };
        let (sender, target) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(t0, t1, t2, t3));
        if self.is_on_link(sender.into()) && self.net.is_local(target.into()) {
            self.neighbors.learn(sender.into(), [a, b, c, d, e, f], self.now);
        }
    }

    /// Learns from a neighbor solicitation or advertisement (RFC 4861 sections 7.2.3 and 7.2.5).
    pub(crate) fn learn_discovery(&mut self, packet: &Packet<'_>) {
        let (kind, wanted) = match packet.payload.first() {
            Some(135) => (packet.src, 1),
            Some(136) => match packet.payload.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()) {
                Some(target) => (Ipv6Addr::from(target).into(), 2),
                None => return,
            },
            _ => return,
        };
        // "The IP Hop Limit field has a value of 255, i.e., the packet could not possibly have been forwarded."
        if packet.protocol != ICMPV6 || packet.hop_limit != 255 || !self.is_on_link(kind) {
            return;
        }
        let mut options = packet.payload.get(24..).unwrap_or_default();
        while let Some(&[option, units, ..]) = options.get(..2) {
            let len = usize::from(units) * 8;
            let Some(bytes) = options.get(..len).filter(|_| len > 0) else { return };
            if option == wanted
                && let Some(&mac) = bytes.get(2..).and_then(|b| b.first_chunk::<6>())
            {
                return self.neighbors.learn(kind, mac, self.now);
            }
            options = &options[len..];
        }
    }

    /// Whether an address is one of a neighbor on the link.
    fn is_on_link(&self, ip: IpAddr) -> bool {
        let Some(link) = &self.net.link else { return false };
        !ip.is_multicast()
            && !ip.is_unspecified()
            && !self.net.is_local(ip)
            && (crate::core::is_link_local(ip) || link.addresses.iter().any(|c| c.contains(ip)))
    }

    /// Asks for the Ethernet address of `hop` (RFC 826, RFC 4861 section 4.3).
    pub(crate) fn solicit(&mut self, hop: IpAddr) {
        let Ok(path) = self.path(hop) else { return };
        let Some(netif) = &mut self.net.link else { return };
        let Some(mac) = netif.mac else { return };
        match (path.src, hop) {
            (IpAddr::V4(src), IpAddr::V4(hop)) => netif.tx.push(14 + 28, Default::default(), |buf| {
                buf.fill(0);
                buf[0..6].copy_from_slice(&BROADCAST);
                buf[6..12].copy_from_slice(&mac);
                // Ethertype, then hardware type, protocol type, both lengths, "request".
                buf[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
                buf[22..28].copy_from_slice(&mac);
                buf[28..32].copy_from_slice(&src.octets());
                buf[38..42].copy_from_slice(&hop.octets());
            }),
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
        neighbors.learn(ip, mac, at(1));
        assert_eq!(neighbors.station(ip, at(20)), Station::Known(mac, false));
        assert_eq!(neighbors.station(ip, at(31)), Station::Known(mac, true));
        neighbors.confirm(ip, at(31));
        assert_eq!(neighbors.station(ip, at(32)), Station::Known(mac, false));
        assert_eq!(neighbors.station(ip, at(200)), Station::Known(mac, true));
        assert_eq!(neighbors.station(ip, at(200)), Station::Known(mac, false));
        neighbors.learn(ip, [3, 0, 0, 0, 0, 1], at(201));
        assert_eq!(neighbors.station(ip, at(201)), Station::Known(mac, true), "a group is no station");
        for i in 0..2000u32 {
            neighbors.learn(Ipv4Addr::from_bits(i).into(), mac, at(100));
        }
        assert_eq!(neighbors.known.len(), MOST);
    }
}

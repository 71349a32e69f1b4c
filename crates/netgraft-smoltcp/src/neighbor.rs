//! Asking for neighbors' addresses. smoltcp asks for one neighbor a second in all, so that one that does not
//! answer would hold up the others; what it does not ask, this does. It takes the answers in either case.

use std::net::{IpAddr, Ipv6Addr};

use crate::core::Core;
use crate::packet::{self, Header, ICMPV6};

/// All ones, to every station.
const BROADCAST: [u8; 6] = [0xff; 6];

impl Core {
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

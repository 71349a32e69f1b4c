//! How TCP segments leave: with an IP header, to a station, into the queue of an interface.

use std::net::SocketAddr;

use netgraft_plugin::link::FrameMeta;
use netgraft_tcp::{Flags, Transmit};

use crate::core::Core;
use crate::device::Edit;
use crate::iface::{NetIf, Side};
use crate::packet::{self, Header, Packet, TCP};
use crate::tcp::Conn;

/// "ECN-Capable Transport", 0 (RFC 3168 section 5).
const ECT: u8 = 2;

/// Where a segment goes.
pub(crate) struct Way {
    /// Source and destination.
    pub(crate) ends: (SocketAddr, SocketAddr),
    /// The station on an Ethernet.
    pub(crate) station: [u8; 6],
    pub(crate) class: u8,
    pub(crate) hop_limit: u8,
    pub(crate) may_fragment: bool,
}

impl NetIf {
    /// Queues a TCP segment of `len` bytes that `fill` writes without its checksum, to be cut into pieces of
    /// `segment_size`.
    pub(crate) fn push_tcp(
        &mut self,
        way: &Way,
        len: usize,
        segment_size: u16,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let header = Header {
            src: way.ends.0.ip(),
            dst: way.ends.1.ip(),
            protocol: TCP,
            hop_limit: way.hop_limit,
            traffic_class: way.class,
            dont_fragment: !way.may_fragment,
        };
        let (link, mac, checksum) = (self.header, self.mac, self.checksums);
        let start = link + header.len();
        if way.may_fragment {
            let (traffic_class, header_checksum) = (way.class, true);
            self.tx.edit = Edit { traffic_class, may_fragment: true, header_checksum, ..Edit::default() };
        }
        self.tx.push(start + len, FrameMeta { segment_size }, |buf| {
            if let Some(mac) = mac {
                buf[0..6].copy_from_slice(&way.station);
                buf[6..12].copy_from_slice(&mac);
                let kind = if header.dst.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
                buf[12..14].copy_from_slice(&kind);
            }
            header.emit(&mut buf[link..]);
            fill(&mut buf[start..]);
            if checksum {
                packet::fill_tcp_checksum(&mut buf[start..], &header);
            }
        });
        self.tx.edit = Edit::default();
    }

    /// Queues a segment of a connection.
    pub(crate) fn push_segment(&mut self, conn: &Conn, transmit: &Transmit, station: [u8; 6]) {
        let class = conn.class | if transmit.ecn_capable { ECT } else { 0 };
        let way = Way {
            ends: (conn.local, conn.remote),
            station,
            class,
            hop_limit: conn.hop_limit,
            may_fragment: conn.may_fragment,
        };
        let ports = (conn.local.port(), conn.remote.port());
        self.tx.resets += u64::from(transmit.header.flags.has(Flags::RST));
        self.push_tcp(&way, transmit.len(), transmit.segment_size, |buf| {
            conn.tcp.write(transmit, ports, buf)
        });
    }
}

impl Core {
    /// Answers a segment for which there is no connection, back to where it came from.
    pub(crate) fn answer(
        &mut self,
        side: Side,
        frame: &[u8],
        packet: &Packet<'_>,
        ports: (u16, u16),
        header: &netgraft_tcp::Header,
    ) {
        let netif = self.net.at(side);
        if netif.tx.is_full() {
            return;
        }
        let station = frame.get(6..12).and_then(|b| b.first_chunk::<6>()).copied().unwrap_or_default();
        let way = Way {
            ends: (SocketAddr::new(packet.dst, ports.1), SocketAddr::new(packet.src, ports.0)),
            station,
            class: 0,
            hop_limit: 64,
            may_fragment: false,
        };
        netif.tx.resets += u64::from(header.flags.has(Flags::RST));
        netif.push_tcp(&way, header.len(), 0, |buf| header.emit((ports.1, ports.0), buf));
    }
}

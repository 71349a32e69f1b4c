//! Every packet that comes in finds its socket here, by hash, before smoltcp sees it.

use std::net::{IpAddr, SocketAddr};

use netgraft_plugin::{Error, Handle, Kind, Protocol, SocketSpec};
use netgraft_tcp::{Connection, Flags, Meaning, Segment, State};

use crate::addr::Tuple;
use crate::core::Core;
use crate::device::Edit;
use crate::iface::Side;
use crate::options::Options;
use crate::packet::{self, ICMP, ICMPV6, Packet, TCP, UDP};
use crate::ports::Sharing;
use crate::sock::{Body, Bound, Hold, Owner};
use crate::tcp::{Conn, Life, at};

impl Core {
    /// Takes one frame in.
    pub(crate) fn input(&mut self, side: Side, frame: &[u8]) {
        self.work += 1;
        let netif = self.net.at(side);
        let header = netif.header;
        if netif.mac.is_some_and(|mac| !is_for(frame, mac)) {
            return;
        }
        let ethertype = if header == 14 { frame.get(12..14) } else { None };
        let ip = match ethertype {
            None if header == 0 => frame,
            Some([0x08, 0x00] | [0x86, 0xdd]) => &frame[14..],
            Some([0x08, 0x06]) => return self.arp_input(frame),
            // There is nothing else on this link.
            _ => return,
        };
        let Some(packet) = packet::parse(ip) else {
            self.stats.packets_dropped += 1;
            return;
        };
        self.stats.packets_received += 1;
        self.stats.bytes_received += packet.ip.len() as u64;
        let is_mapped = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        // RFC 4942 section 2.2: the mapped form of an address is nothing for a wire.
        let alien = packet.dst.is_loopback()
            || packet.src.is_multicast()
            // Nobody else speaks for this stack: what it says itself goes over its loopback (RFC 2827).
            || self.net.is_local(packet.src)
            || is_mapped(packet.src)
            || is_mapped(packet.dst);
        if side == Side::Link && (alien || self.net.is_broadcast(packet.src)) {
            // RFC 1122 section 3.2.1.3: such addresses must not appear here.
            self.stats.packets_dropped += 1;
            return;
        }
        let ours = side == Side::Loopback || self.net.is_local(packet.dst);
        if !self.raws.is_empty() && (ours || packet.dst.is_multicast()) {
            self.raw_input(side, &packet);
        }
        match packet.protocol {
            packet::FRAGMENT_V6 if ours || packet.dst.is_multicast() => {
                self.fragment6_input(side, frame, &packet);
            }
            packet::FRAGMENT_V6 => self.stats.packets_dropped += 1,
            _ if packet.fragment => self.fragment_input(side, frame),
            TCP if ours && !is_for_many(frame, header) => self.tcp_input(side, frame, &packet),
            // A segment for many stations or hosts is nobody's, and not refused (RFC 1122 section 4.2.3.10).
            TCP => self.stats.packets_dropped += 1,
            UDP => self.udp_input(side, frame, &packet),
            ICMP | ICMPV6 => self.icmp_input(side, frame, &packet),
            packet::IGMP => self.group_input(side, frame),
            _ => self.net.at(side).ingress_unclaimed(self.now, frame),
        }
    }

    fn tcp_input(&mut self, side: Side, frame: &[u8], packet: &Packet<'_>) {
        let Some(mut segment) = Segment::parse(packet.payload).filter(|_| self.checks(side, packet)) else {
            self.stats.packets_dropped += 1;
            return;
        };
        // "Congestion experienced" (RFC 3168 section 5).
        segment.marked = packet.traffic_class & 3 == 3;
        let (src, dst) = segment.ports;
        let local = SocketAddr::new(packet.dst, dst);
        let remote = SocketAddr::new(packet.src, src);
        let tuple = Tuple::new(local, remote);
        if let Some(&handle) = self.connections.get(&tuple) {
            return self.deliver(handle, &segment);
        }
        let spread = || self.key.of(&tuple);
        let asks = segment.header.flags.has(Flags::SYN)
            && !segment.header.flags.any(Flags::ACK | Flags::RST | Flags::FIN);
        let listener = if asks { self.tcp_ports.receiver(dst, packet.dst, spread) } else { None };
        let mut old = None;
        if let Some(waiting) = self.time_waits.get(&tuple) {
            let tcp = waiting.tcp;
            match tcp.meaning(&segment, waiting.loopback) {
                Meaning::Begin if listener.is_some() => old = Some(tcp.next.0),
                Meaning::Ignore => return,
                Meaning::End => return self.forget_time_wait(&tuple),
                Meaning::Acknowledge | Meaning::Begin => {
                    let header = tcp.acknowledgement(at(self.now));
                    return self.answer(side, frame, packet, segment.ports, &header);
                }
            }
            self.forget_time_wait(&tuple);
        }
        if let Some(listener) = listener {
            let isn = self.initial.choose(&tuple, old, self.now);
            if self.is_flooded(listener) {
                return self.answer_with_cookie(side, frame, packet, (tuple, &segment));
            }
            return self.syn(listener, side, (local, remote), &segment, isn);
        }
        if self.flooded.is_some_and(|until| self.now < until)
            && self.take_cookie(side, (local, remote), &segment)
        {
            return;
        }
        if let Some(refusal) = segment.refusal() {
            self.answer(side, frame, packet, segment.ports, &refusal);
        }
    }

    /// Whether the checksums of a segment hold.
    fn checks(&mut self, side: Side, packet: &Packet<'_>) -> bool {
        side == Side::Loopback
            || packet::header_holds(packet.ip)
                && (!self.net.at(side).checksums || packet::checksum_holds(packet))
    }

    /// Ends a TIME-WAIT before its time.
    pub(crate) fn forget_time_wait(&mut self, tuple: &Tuple) {
        if let Some(old) = self.time_waits.remove(tuple) {
            self.tcp_ports.remove_connection(tuple.local(), old.sharing);
        }
    }

    /// A segment for a connection.
    fn deliver(&mut self, handle: Handle, segment: &Segment<'_>) {
        let now = self.now;
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let owner = sock.owner;
        let Body::Conn(conn) = &mut sock.body else { return };
        // As long as nobody accepts, no more connections are completed: the peer sends its acknowledgement again.
        if let (Life::HalfOpen { .. }, Owner::Listener(listener)) = (conn.life, owner)
            && conn.tcp.state() == State::SynReceived
            && !segment.header.flags.has(Flags::RST)
            && matches!(self.socks.get(listener).map(|s| &s.body), Some(Body::Listener(l)) if l.is_crowded())
        {
            self.stats.tcp_listen_overflows += 1;
            return;
        }
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let Body::Conn(conn) = &mut sock.body else { return };
        let before = conn.tcp.state();
        let arrival = conn.tcp.input(segment, at(now), &mut self.pool);
        conn.received += arrival.received as u64;
        conn.starved &= arrival.freed == 0;
        if arrival.freed > 0
            && let Some(hop) = conn.hop
        {
            self.neighbors.confirm(hop, now);
        }
        if conn.tcp.state() == State::Closed && conn.tcp.reason().is_some() {
            let connecting = matches!(conn.life, Life::Connecting { .. });
            self.stats.tcp_resets_received += u64::from(!connecting);
            let error = match before {
                State::CloseWait => Some(Error::BrokenPipe),
                _ => conn.error(),
            };
            return self.end(handle, error);
        }
        self.mark_dirty(handle);
    }

    /// A SYN for a listener.
    fn syn(
        &mut self,
        listener: Handle,
        side: Side,
        ends: (SocketAddr, SocketAddr),
        segment: &Segment<'_>,
        isn: u32,
    ) {
        let (now, local) = (self.now, ends.0);
        let Some(sock) = self.socks.get(listener) else { return };
        let Body::Listener(queues) = &sock.body else { return };
        if queues.is_crowded() {
            // Dropped, not refused: the peer tries again (tcp_abort_on_overflow of 0).
            self.stats.tcp_listen_overflows += 1;
            return;
        }
        let options = sock.options.clone();
        let tuple = Tuple::new(ends.0, ends.1);
        let mut config = self.tcp_config(&options, side, tuple, local.is_ipv4());
        self.fast_listen(listener, &tuple, &mut config);
        let Some(tcp) = Connection::accept(&config, isn, segment, at(now)) else {
            self.stats.packets_dropped += 1;
            return;
        };
        let mut conn = Conn::new(tcp, side, ends, Life::HalfOpen { since: now }, &options);
        self.take_early(&mut conn, segment);
        self.add_half_open(listener, conn, options);
    }

    /// Adds a connection whose handshake is underway to those of a listener.
    pub(crate) fn add_half_open(&mut self, listener: Handle, conn: Conn, options: Options) {
        let Some(domain) = self.socks.get(listener).map(|s| s.spec.domain) else { return };
        let (local, tuple) = (conn.local, conn.tuple());
        let spec = SocketSpec { domain, kind: Kind::Stream, protocol: Protocol::Tcp };
        let sharing = Sharing::of(&options);
        let options = options.of_a_connection();
        let handle = self.add_socket(spec, options, Owner::Listener(listener), Body::Conn(Box::new(conn)));
        if let Some(sock) = self.socks.get_mut(handle) {
            sock.bound = Bound { ip: local.ip(), port: local.port(), hold: Hold::Connection(sharing) };
        }
        self.tcp_ports.add_connection(local, sharing);
        self.connections.insert(tuple, handle);
        if let Some(Body::Listener(queues)) = self.socks.get_mut(listener).map(|s| &mut s.body) {
            queues.half_open.insert(handle);
        }
        self.mark_dirty(handle);
    }

    /// A part of a packet: the interface puts it together, and a raw socket of smoltcp gives it back whole.
    fn fragment_input(&mut self, side: Side, frame: &[u8]) {
        let (now, netif) = (self.now, self.net.at(side));
        let header = netif.header;
        let Some(whole) = self.fragments.take(netif, frame, now) else { return };
        if let Some(packet) = packet::parse(&whole[header..]).filter(|p| !p.fragment) {
            match packet.protocol {
                TCP if self.net.is_local(packet.dst) && !is_for_many(&whole, header) => {
                    self.tcp_input(side, &whole, &packet);
                }
                UDP => self.udp_input(side, &whole, &packet),
                // The interface has answered echo requests already.
                ICMP => self.echo_input(side, &packet),
                _ => {}
            }
        }
        self.fragments.give_back(whole);
    }

    fn fragment6_input(&mut self, side: Side, frame: &[u8], part: &Packet<'_>) {
        let header = self.net.at(side).header;
        let Some(whole) = self.fragments6.take(part, frame, header, self.now) else { return };
        let Some(packet) = packet::parse(&whole[header..]).filter(|p| !p.fragment) else { return };
        match packet.protocol {
            TCP if self.net.is_local(packet.dst) && !is_for_many(&whole, header) => {
                self.tcp_input(side, &whole, &packet);
            }
            TCP => self.stats.packets_dropped += 1,
            UDP => self.udp_input(side, &whole, &packet),
            ICMPV6 => self.icmp_input(side, &whole, &packet),
            _ => self.net.at(side).ingress_unclaimed(self.now, &whole),
        }
    }

    /// A router says that packets of a connection must be no larger than `mtu` (RFC 1191, RFC 8201).
    pub(crate) fn narrow(&mut self, inner: &[u8], mtu: u32) {
        let Some((src, dst, TCP, rest)) = packet::quoted(inner) else { return };
        let (Some(&[a, b]), Some(&[c, d])) = (rest.get(0..2), rest.get(2..4)) else { return };
        let local = SocketAddr::new(src, u16::from_be_bytes([a, b]));
        let remote = SocketAddr::new(dst, u16::from_be_bytes([c, d]));
        let Some(&handle) = self.connections.get(&Tuple::new(local, remote)) else { return };
        let Some(&[s0, s1, s2, s3]) = rest.get(4..8) else { return };
        let now = at(self.now);
        let Some(sock) = self.socks.get_mut(handle).filter(|s| s.options.believes_path()) else { return };
        let Body::Conn(conn) = &mut sock.body else { return };
        // Linux believes no less than `min_pmtu`, and IPv6 has no less.
        let (least, headers) = if src.is_ipv4() { (552, 40) } else { (1280, 60) };
        let segment = u16::try_from(mtu.max(least) - headers).unwrap_or(u16::MAX);
        if conn.tcp.narrow(segment, u32::from_be_bytes([s0, s1, s2, s3]), now) {
            self.mark_dirty(handle);
        }
    }

    /// An error that came for a packet which this stack sent: `inner` is the start of that packet.
    pub(crate) fn error_for(&mut self, inner: &[u8], error: Error, hard: bool) {
        let Some((src, dst, protocol, rest)) = packet::quoted(inner) else { return };
        let (Some(&[a, b]), Some(&[c, d])) = (rest.get(0..2), rest.get(2..4)) else { return };
        let local = SocketAddr::new(src, u16::from_be_bytes([a, b]));
        let remote = SocketAddr::new(dst, u16::from_be_bytes([c, d]));
        let tuple = Tuple::new(local, remote);
        match protocol {
            TCP => {
                let Some(&handle) = self.connections.get(&tuple) else { return };
                let Some(Body::Conn(conn)) = self.socks.get(handle).map(|s| &s.body) else { return };
                // RFC 5461: only a connection that is being made believes it.
                if matches!(conn.life, Life::Connecting { .. }) {
                    self.end(handle, Some(error));
                }
            }
            UDP => {
                if let Some(&handle) = self.udp_peers.get(&tuple)
                    && hard
                {
                    self.fail(handle, error);
                }
            }
            _ => {}
        }
    }
}

/// What may be set in a packet that goes nowhere special.
pub(crate) const PLAIN: Edit =
    Edit { traffic_class: 0, may_fragment: false, envelope: false, header_checksum: false };

/// Whether a frame with a link header of `header` bytes is for a group of stations.
fn is_for_many(frame: &[u8], header: usize) -> bool {
    header == 14 && frame.first().is_some_and(|first| first & 1 == 1)
}

/// Whether an Ethernet frame is for the station `mac`, or for many.
fn is_for(frame: &[u8], mac: [u8; 6]) -> bool {
    frame.len() >= 14 && (frame[0] & 1 == 1 || frame[..6] == mac)
}

//! Every packet that comes in finds its socket here, by hash, before smoltcp sees it.

use std::net::SocketAddr;

use netgraft_plugin::{Error, Handle, Instant, Kind, Protocol, SocketSpec};
use smoltcp::socket::tcp::{Socket, State};

use crate::addr::Tuple;
use crate::core::Core;
use crate::device::Edit;
use crate::iface::{NetIf, Side};
use crate::packet::{self, ACK, FIN, ICMP, ICMPV6, Packet, RST, SYN, Segment, TCP, UDP};
use crate::ports::Sharing;
use crate::sock::{Body, Bound, Hold, Owner};
use crate::tcp::{Conn, Life, buffer_sizes};
use crate::timewait::Meaning;

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
            // ARP is the interface's; what is neither, it drops.
            _ => {
                self.net.at(side).ingress_unclaimed(self.now, frame);
                return self.neighbors_may_have_come();
            }
        };
        let Some(packet) = packet::parse(ip) else {
            self.stats.packets_dropped += 1;
            return;
        };
        self.stats.packets_received += 1;
        self.stats.bytes_received += packet.ip.len() as u64;
        let alien = packet.dst.is_loopback() || packet.src.is_loopback() || packet.src.is_multicast();
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
            TCP if ours => self.tcp_input(side, frame, &packet),
            UDP => self.udp_input(side, frame, &packet),
            ICMP | ICMPV6 => self.icmp_input(side, frame, &packet),
            packet::IGMP => self.group_input(side, frame),
            _ => self.net.at(side).ingress_unclaimed(self.now, frame),
        }
    }

    fn tcp_input(&mut self, side: Side, frame: &[u8], packet: &Packet<'_>) {
        let Some(segment) = packet::segment(packet.payload) else {
            self.stats.packets_dropped += 1;
            return;
        };
        let local = SocketAddr::new(packet.dst, segment.dst_port);
        let remote = SocketAddr::new(packet.src, segment.src_port);
        let tuple = Tuple::new(local, remote);
        if let Some(&handle) = self.connections.get(&tuple) {
            return self.deliver(handle, frame, packet, &segment);
        }
        let spread = || self.key.of(&tuple);
        let listener = match segment.flags & (SYN | ACK | RST | FIN) {
            SYN => self.tcp_ports.receiver(segment.dst_port, packet.dst, spread),
            _ => None,
        };
        let mut old = None;
        if let Some(waiting) = self.time_waits.get(&tuple) {
            let next = waiting.next;
            match waiting.meaning(&segment) {
                Meaning::Begin if listener.is_some() => old = Some(next.0),
                Meaning::Ignore => return,
                Meaning::End => return self.forget_time_wait(&tuple),
                Meaning::Acknowledge | Meaning::Begin => {
                    return self.acknowledge(side, frame, packet, &segment, next);
                }
            }
            self.forget_time_wait(&tuple);
        }
        if let Some(listener) = listener {
            let isn = self.initial.choose(&tuple, old, self.now);
            return self.syn(listener, side, (local, remote), frame, packet, (&segment, isn));
        }
        // The interface answers with a reset.
        self.net.at(side).ingress_unclaimed(self.now, frame);
    }

    /// Ends a TIME-WAIT before its time.
    pub(crate) fn forget_time_wait(&mut self, tuple: &Tuple) {
        if let Some(old) = self.time_waits.remove(tuple) {
            self.tcp_ports.remove_connection(tuple.local(), old.sharing);
        }
    }

    /// A segment for a connection.
    fn deliver(&mut self, handle: Handle, frame: &[u8], packet: &Packet<'_>, segment: &Segment) {
        let now = self.now;
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let Body::Conn(conn) = &mut sock.body else { return };
        // Nothing answers a SYN that has not left. smoltcp 0.14 would take a SYN that crosses it, and then subtract
        // from the window that it has not offered yet, which is a panic.
        if matches!(conn.life, Life::Connecting { .. }) && !conn.spoke {
            self.stats.packets_dropped += 1;
            return;
        }
        let before = (conn.socket().recv_queue(), conn.socket().state());
        let netif = self.net.at(conn.side);
        if segment.flags & SYN != 0 {
            conn.meet(packet, segment);
            conn.ingress_syn(netif, frame, None, now);
        } else {
            netif.ingress(now, frame, &mut conn.set, conn.edit);
        }
        conn.hear(before, segment, now);
        let state = conn.socket().state();
        if state == State::Closed && segment.flags & RST != 0 {
            let (error, open) = match (conn.life, before.1) {
                (Life::Connecting { .. }, _) => (Error::ConnectionRefused, false),
                (_, State::CloseWait) => (Error::BrokenPipe, true),
                _ => (Error::ConnectionReset, true),
            };
            self.stats.tcp_resets_received += u64::from(open);
            return self.end(handle, Some(error));
        }
        self.mark_dirty(handle);
    }

    /// A SYN for a listener.
    fn syn(
        &mut self,
        listener: Handle,
        side: Side,
        ends: (SocketAddr, SocketAddr),
        frame: &[u8],
        packet: &Packet<'_>,
        (segment, isn): (&Segment, u32),
    ) {
        let (now, local) = (self.now, ends.0);
        let Some(sock) = self.socks.get(listener) else { return };
        let Body::Listener(queues) = &sock.body else { return };
        if queues.is_full() {
            // Dropped, not refused: the peer tries again (tcp_abort_on_overflow of 0).
            self.stats.tcp_listen_overflows += 1;
            return;
        }
        let (options, domain) = (sock.options.clone(), sock.spec.domain);
        let sizes = buffer_sizes(&options, self.receive_buffer, self.send_buffer);
        let (mut set, inner) = self.make_tcp(sizes);
        if set.get_mut::<Socket<'static>>(inner).listen(crate::addr::endpoint(local)).is_err() {
            return self.recycle_tcp(set, inner);
        }
        let mut conn = Conn::new((set, inner), sizes, side, ends, Life::HalfOpen { since: now }, now);
        let netif = self.net.at(side);
        conn.meet(packet, segment);
        conn.apply(&options, netif);
        conn.ingress_syn(netif, frame, Some(isn), now);
        conn.hear((0, State::Listen), segment, now);
        if conn.socket().state() != State::SynReceived {
            self.stats.packets_dropped += 1;
            return self.recycle_tcp(conn.set, conn.inner);
        }
        let tuple = conn.tuple();
        let spec = SocketSpec { domain, kind: Kind::Stream, protocol: Protocol::Tcp };
        let sharing = Sharing::of(&options);
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

    /// Acknowledges a segment of a connection in TIME-WAIT: back to where it came from.
    fn acknowledge(
        &mut self,
        side: Side,
        frame: &[u8],
        packet: &Packet<'_>,
        segment: &Segment,
        next: (u32, u32),
    ) {
        let netif = self.net.at(side);
        let (link, checksums) = (netif.header, netif.checksums || side == Side::Link);
        let header = packet::Header {
            src: packet.dst,
            dst: packet.src,
            protocol: TCP,
            hop_limit: 64,
            traffic_class: 0,
            dont_fragment: true,
        };
        let len = link + header.len() + 20;
        netif.tx.push(len, netgraft_plugin::link::FrameMeta::default(), |buf| {
            if link == 14 {
                buf[0..6].copy_from_slice(&frame[6..12]);
                buf[6..12].copy_from_slice(&frame[0..6]);
                buf[12..14].copy_from_slice(&frame[12..14]);
            }
            header.emit(&mut buf[link..]);
            let ports = (segment.dst_port, segment.src_port);
            packet::emit_ack(&mut buf[link + header.len()..], &header, ports, next, checksums);
        });
    }

    /// A part of a packet: the interface puts it together, and a raw socket of smoltcp gives it back whole.
    fn fragment_input(&mut self, side: Side, frame: &[u8]) {
        let (now, netif) = (self.now, self.net.at(side));
        let header = netif.header;
        let Some(whole) = self.fragments.take(netif, frame, now) else { return };
        if let Some(packet) = packet::parse(&whole[header..]).filter(|p| !p.fragment) {
            match packet.protocol {
                TCP if self.net.is_local(packet.dst) => self.tcp_input(side, &whole, &packet),
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
            TCP => self.tcp_input(side, &whole, &packet),
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
        let Some(sock) = self.socks.get_mut(handle).filter(|s| s.options.believes_path()) else { return };
        let Body::Conn(conn) = &mut sock.body else { return };
        // Linux believes no less than `min_pmtu`, and IPv6 has no less.
        let (least, headers) = if src.is_ipv4() { (552, 40) } else { (1280, 60) };
        let segment = u16::try_from(mtu.max(least) - headers).unwrap_or(u16::MAX);
        conn.path_mss = conn.path_mss.min(segment);
        conn.edit.segment = conn.edit.segment.min(segment);
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

impl Conn {
    /// Notes what the peer's SYN offers.
    fn meet(&mut self, packet: &Packet<'_>, segment: &Segment) {
        let options = packet::syn_options(packet.payload, segment);
        self.peer_mss = options.mss.map_or(536, |(_, mss)| mss.max(48));
        self.peer_shift = options.window_scale;
    }

    /// Gives smoltcp a SYN, with the MSS option lowered to what the program asked for and the link can carry.
    /// `isn` is our initial sequence number, if we listen.
    fn ingress_syn(&mut self, netif: &mut NetIf, frame: &[u8], isn: Option<u32>, now: Instant) {
        let most = self.edit.mss;
        let mut lowered = Vec::new();
        let mut frame = frame;
        if most != 0 && self.peer_mss > most {
            lowered.extend_from_slice(frame);
            packet::clamp_mss(&mut lowered[netif.header..], most, true);
            self.peer_mss = most;
            frame = &lowered;
        }
        self.edit.segment = self.edit.segment.min(self.peer_mss);
        match isn {
            Some(isn) => netif.ingress_syn(now, frame, &mut self.set, self.local.ip(), isn),
            None => netif.ingress(now, frame, &mut self.set, self.edit),
        }
    }

    /// Notes what a segment says, after smoltcp has had it; `queued` bytes were there and `state` was the state
    /// before.
    fn hear(&mut self, (queued, state): (usize, State), segment: &Segment, now: Instant) {
        self.heard = now;
        self.received += self.socket().recv_queue().saturating_sub(queued) as u64;
        let shift = if segment.flags & SYN == 0 { self.peer_shift } else { 0 };
        self.peer_window = u32::from(segment.window) << shift;
        if segment.flags & ACK != 0 {
            self.meter.acknowledged(segment.ack, now);
        }
        let fin = u32::from(segment.flags & FIN != 0);
        // What comes in TIME-WAIT is a repetition, or anybody's.
        if state != State::TimeWait {
            self.next = (segment.ack, segment.seq.wrapping_add(segment.payload_len as u32).wrapping_add(fin));
        }
        self.observe(now);
    }
}

/// What may be set in a packet that goes nowhere special.
pub(crate) const PLAIN: Edit = Edit {
    traffic_class: 0,
    mss: 0,
    segment: 0,
    may_fragment: false,
    envelope: false,
    header_checksum: false,
    tcp_checksum: false,
};

/// Whether an Ethernet frame is for the station `mac`, or for many.
fn is_for(frame: &[u8], mac: [u8; 6]) -> bool {
    frame.len() >= 14 && (frame[0] & 1 == 1 || frame[..6] == mac)
}

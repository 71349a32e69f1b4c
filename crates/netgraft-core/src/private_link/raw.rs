//! ICMP and raw packets on a private link.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use netgraft_plugin::{
    Domain, Error, Handle, Kind, Protocol, Received, RecvFlags, SendFlags, SocketOption, SocketSpec,
};

use super::endpoints::SendsAs;
use super::packet::{self, Header, ICMP, ICMPV6, Packet, TCP, UDP};
use super::{DATAGRAMS_A_TURN, HOP_LIMIT, with_scope};
use crate::core::{Core, Kernel};
use crate::route::{Flow, Route};
use crate::uapi::Errno;

/// Types of ICMP messages that are requests of programs (RFC 792, RFC 4443); the kernel makes the others itself, in answer to
/// what the stack answers, too.
const ECHO: u8 = 8;
const TIMESTAMP: u8 = 13;
const ECHO_V6: u8 = 128;
/// `IPPROTO_RAW` (raw(7)).
const ANY_PROTOCOL: u8 = 255;
/// RST (RFC 9293, section 3.1).
const RESET: u8 = 4;
/// The most bytes of a packet that an error quotes (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4).
const QUOTED: usize = 512;

/// The stack's raw sockets, by family and protocol.
#[derive(Debug, Default)]
pub(super) struct RawSockets {
    by_protocol: HashMap<(Domain, u8), Raw>,
    by_handle: HashMap<Handle, (Domain, u8)>,
    /// Whether a program has asked for raw sockets of ICMP: they see the requests of others.
    watches_icmp: bool,
}

/// A raw socket of the stack.
#[derive(Clone, Copy, Debug)]
struct Raw {
    handle: Handle,
    sends_as: SendsAs,
}

impl RawSockets {
    pub(super) fn len(&self) -> usize {
        self.by_handle.len()
    }
}

fn domain_of(address: IpAddr) -> Domain {
    if address.is_ipv4() { Domain::V4 } else { Domain::V6 }
}

impl<K: Kernel> Core<K> {
    /// Opens the sockets over which ICMP messages pass.
    pub(super) fn open_raw_icmp(&mut self) {
        for (domain, protocol) in [(Domain::V4, ICMP), (Domain::V6, ICMPV6)] {
            if let Err(errno) = self.raw_handle(domain, protocol) {
                tracing::debug!(?domain, errno, "the stack has no raw socket for ICMP");
            }
        }
    }

    /// A program makes a datagram or raw socket: whether the stack has what it needs.
    ///
    /// # Errors
    /// What the stack says to a socket of that kind.
    pub(crate) fn prepare_link(&mut self, spec: SocketSpec) -> Result<(), Errno> {
        match spec.protocol {
            _ if !self.links.is_any() => Ok(()),
            Protocol::Udp | Protocol::Tcp => Ok(()),
            Protocol::Icmp => self.raw_handle(Domain::V4, ICMP).map(drop),
            Protocol::Icmpv6 => self.raw_handle(Domain::V6, ICMPV6).map(drop),
            Protocol::Raw(protocol) => {
                self.links.raw.watches_icmp |= [ICMP, ICMPV6].contains(&protocol);
                self.raw_handle(spec.domain, protocol).map(drop)
            }
        }
    }

    fn raw_handle(&mut self, domain: Domain, protocol: u8) -> Result<Handle, Errno> {
        if let Some(raw) = self.links.raw.by_protocol.get(&(domain, protocol)) {
            return Ok(raw.handle);
        }
        let spec = SocketSpec { domain, kind: Kind::Raw, protocol: Protocol::Raw(protocol) };
        let handle = self.stack.socket(spec).map_err(Error::errno)?;
        let _ = self.stack.set_option(handle, SocketOption::Broadcast(true));
        self.observe(handle);
        let raw = Raw { handle, sends_as: SendsAs::default() };
        self.links.raw.by_protocol.insert((domain, protocol), raw);
        self.links.raw.by_handle.insert(handle, (domain, protocol));
        Ok(handle)
    }

    /// A packet of the program's that is no datagram of UDP.
    pub(super) fn raw_of_program(&mut self, interface: u32, packet: &Packet<'_>) {
        let Header { destination, protocol, .. } = packet.header;
        if self.take_report(packet) || !is_of_program(packet) && !self.is_of_no_port(packet) {
            return;
        }
        let domain = domain_of(destination);
        let spec = SocketSpec { domain, kind: Kind::Raw, protocol: Protocol::Raw(protocol) };
        let to = with_scope(SocketAddr::new(destination, 0), interface);
        if let Route::Denied(_) = self.router.route(&Flow::Datagram(spec, to)) {
            return self.refuse(interface, packet, Error::AccessDenied);
        }
        // What no program has asked for is nothing that one has sent; a socket of IPPROTO_RAW sends every protocol.
        let is_asked = |protocol| self.links.raw.by_protocol.contains_key(&(domain, protocol));
        if !is_asked(protocol) && !is_asked(ANY_PROTOCOL) {
            return;
        }
        let Ok(handle) = self.raw_handle(domain, protocol) else { return };
        let sent = self.send_raw(handle, packet, to);
        if let Err(error) = sent
            && error != Error::Again
        {
            tracing::debug!(%to, %error, "a raw packet cannot be sent");
            self.refuse(interface, packet, error);
        }
    }

    /// Whether it is the kernel's answer that no socket takes a datagram (RFC 1122, section 4.1.3.1) which the stack has taken for
    /// one: where a socket has another peer, or has just been closed.
    fn is_of_no_port(&self, packet: &Packet<'_>) -> bool {
        let quoted = match (packet.header.protocol, packet.payload) {
            (ICMP, [3, 3, ..]) | (ICMPV6, [1, 4, ..]) => packet.payload.get(8..).and_then(packet::quoted_udp),
            _ => None,
        };
        quoted.is_some_and(|(_, to)| self.links.endpoints.find(to).is_some())
    }

    fn send_raw(&mut self, handle: Handle, packet: &Packet<'_>, to: SocketAddr) -> Result<(), Error> {
        let protocol = packet.header.protocol;
        let Some(raw) = self.links.raw.by_protocol.get_mut(&(domain_of(to.ip()), protocol)) else {
            return Ok(());
        };
        let wanted = raw.sends_as.change(&packet.header);
        self.set_options(handle, wanted);
        self.stack.send(handle, packet.payload, Some(to), SendFlags::empty(), self.time.now).map(drop)
    }

    /// Moves what a raw socket of the stack has received to the kernel.
    pub(super) fn raw_for_program(&mut self, handle: Handle) {
        let Some(&(domain, protocol)) = self.links.raw.by_handle.get(&handle) else { return };
        for _ in 0..DATAGRAMS_A_TURN {
            let now = self.time.now;
            let received = match self.stack.recv(handle, &mut self.buffers.scratch, RecvFlags::empty(), now) {
                Ok(received) => received,
                Err(Error::Again) => return,
                Err(error) => {
                    tracing::debug!(%error, "a raw socket of the stack has failed");
                    continue;
                }
            };
            self.raw_packet_for_program(domain, protocol, &received);
        }
        self.links.come_again(handle);
    }

    /// Hands on the packet in the scratch memory.
    fn raw_packet_for_program(&mut self, domain: Domain, protocol: u8, received: &Received) {
        let (Some(from), Some(scratch)) = (received.from, self.take_scratch(received.len)) else { return };
        if let Some(bytes) = scratch.get(..received.len) {
            match domain {
                // With its IP header (raw(7)); also a fragment, which the kernel puts together.
                Domain::V4 => {
                    if let Some(packet) = packet::parse_ip(bytes)
                        && (packet.piece.is_some_and(|piece| piece.offset > 0)
                            || self.is_for_program(&packet.header, packet.payload))
                    {
                        self.emit_whole(received.interface, packet.ip);
                    }
                }
                Domain::V6 => {
                    let header = self.header_of(from, protocol, received);
                    if self.is_for_program(&header, bytes) {
                        self.emit_packet(received.interface, &header, bytes);
                    }
                }
            }
        }
        self.buffers.scratch = scratch;
    }

    fn header_of(&self, from: SocketAddr, protocol: u8, received: &Received) -> Header {
        let v4 = from.is_ipv4();
        let own = self.links.addresses.iter().find(|address| address.is_ipv4() == v4);
        Header {
            source: from.ip(),
            destination: received.to.or(own.copied()).unwrap_or(from.ip()),
            protocol,
            hop_limit: if received.hop_limit == 0 { HOP_LIMIT } else { received.hop_limit },
            traffic_class: received.traffic_class,
            dont_fragment: false,
        }
    }

    /// Whether the kernel is to see a packet that the stack has seen as well.
    fn is_for_program(&self, header: &Header, payload: &[u8]) -> bool {
        let first = payload.first().copied();
        match header.protocol {
            // The stack has answered it; the kernel's answer ends here.
            ICMP if first == Some(ECHO) => self.links.raw.watches_icmp,
            ICMPV6 if first == Some(ECHO_V6) => self.links.raw.watches_icmp,
            // Neighbours and routers are the stack's business.
            ICMPV6 => first.is_some_and(|kind| kind < 5 || kind == ECHO_V6 + 1 || kind > 143),
            // It comes as a datagram as well, where a socket waits for it.
            UDP => packet::parse_udp(payload).is_some_and(|(_, port, _)| {
                self.links.endpoints.find(SocketAddr::new(header.destination, port)).is_none()
            }),
            _ => !payload.is_empty(),
        }
    }

    /// Tells the sender of a packet by an ICMP message that it was not sent (RFC 792, RFC 4443).
    pub(super) fn refuse(&mut self, interface: u32, packet: &Packet<'_>, error: Error) {
        let sent = packet.header;
        if sent.destination.is_multicast() {
            return;
        }
        let mtu = self.links.link(interface).map_or(0, |link| link.mtu as u32);
        let (kind, code, extra) = match (sent.source.is_ipv4(), error) {
            (true, Error::MessageTooLong) => (3, 4, mtu),
            (false, Error::MessageTooLong) => (2, 0, mtu),
            (true, Error::NetworkUnreachable) => (3, 0, 0),
            (false, Error::NetworkUnreachable) => (1, 0, 0),
            (true, Error::AccessDenied) => (3, 13, 0),
            (false, Error::AccessDenied) => (1, 1, 0),
            (true, _) => (3, 1, 0),
            (false, _) => (1, 3, 0),
        };
        let mut message = vec![kind, code, 0, 0];
        message.extend(u32::to_be_bytes(extra));
        let first = packet.payload.get(..QUOTED).unwrap_or(packet.payload);
        packet::quote(&sent, first, packet.payload.len(), &mut message);
        let header = Header {
            source: sent.destination,
            destination: sent.source,
            protocol: if sent.source.is_ipv4() { ICMP } else { ICMPV6 },
            hop_limit: HOP_LIMIT,
            traffic_class: 0,
            dont_fragment: false,
        };
        let check = match header.protocol {
            ICMP => packet::plain_checksum(&message),
            _ => packet::checksum(&header, &message),
        };
        if let Some(field) = message.get_mut(2..4) {
            field.copy_from_slice(&check.to_be_bytes());
        }
        self.emit_packet(interface, &header, &message);
    }
}

/// Whether a program has sent it, and not the kernel by itself.
fn is_of_program(packet: &Packet<'_>) -> bool {
    let first = packet.payload.first().copied();
    match packet.header.protocol {
        ICMP => matches!(first, Some(ECHO | TIMESTAMP)),
        ICMPV6 => first == Some(ECHO_V6),
        // A reset answers what came for a connection of the stack.
        TCP => packet.payload.get(13).is_some_and(|flags| flags & RESET == 0),
        // Memberships are reported by the stack.
        2 | 0 | 59 => false,
        _ => true,
    }
}

//! The private link: datagram and raw sockets that are the kernel's own, on a device that only the sentry is behind.
//!
//! A program's datagram sockets are then those of its network namespace, with all that the kernel knows of them: none of their data
//! calls is trapped. What they send to other hosts arrives here as packets, whose headers no program can change any more, and is
//! given to the stack by a socket for each local address ([`endpoints`]). What the stack receives for such an address
//! is made a packet again, and the kernel finds the socket for it. ICMP and raw packets pass through raw sockets of the stack
//! ([`raw`]), so that errors come with their offender and what they quote.
//!
//! The kernel's network namespace of the program has the stack's addresses on the device, so it also answers where the stack
//! does: what it sends of its own (neighbour discovery, multicast listener reports, ICMP errors, replies to pings, resets) ends
//! here.

mod endpoints;
mod fragments;
mod groups;
mod names;
mod packet;
mod raw;
mod sockets;

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use netgraft_plugin::{
    Batch, Domain, Error, Event, Events, Handle, Kind, Protocol, Received, SendFlags, SocketOption,
    SocketSpec,
};

use crate::core::{Core, Kernel};
use crate::route::{Flow, Route};
use crate::socket::Seen;

use endpoints::Endpoints;
use fragments::Fragments;
use groups::Groups;
use packet::{Framing, Header, Packet, UDP, UDP_HEADER};
use raw::RawSockets;

pub use sockets::KernelSocket;

/// Datagrams of one socket that are moved before others have their turn.
const DATAGRAMS_A_TURN: usize = 64;
/// Errors of one socket that are passed over before others have their turn.
const ERRORS_A_TURN: usize = 4;

/// Time to live where a stack does not say what a datagram had.
const HOP_LIMIT: u8 = 64;

/// The kernel's side of private links.
pub trait PrivateLinks {
    /// Sends a frame to the program's end of a link, by the index of its interface. It may be dropped.
    fn emit(&mut self, interface: u32, frame: &[u8]);

    /// Has everything leave that was emitted.
    fn flush(&mut self);

    /// Who has the UDP socket with a local address, if that can be found out.
    fn owner_of(&mut self, _local: SocketAddr) -> Option<Seen> {
        None
    }
}

/// One link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivateLink {
    /// Index of the stack's interface that it stands for.
    pub interface: u32,
    /// Ethernet address of the program's end.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: usize,
}

/// All private links of a sandbox.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// Whether there are some, or are to be.
    is_expected: bool,
    links: Vec<PrivateLink>,
    /// The addresses of the stack.
    addresses: Vec<IpAddr>,
    endpoints: Endpoints,
    raw: RawSockets,
    fragments: Fragments,
    /// Handles with more to receive than a turn allows.
    again: Vec<Handle>,
    groups: Groups,
    /// Identification of the last packet that was cut.
    last_id: u32,
    /// Memory for a frame.
    frame: Vec<u8>,
    /// Whether something was emitted that has not been flushed.
    emitted: bool,
    /// Whether a datagram came for an address that was not known.
    is_outdated: bool,
}

impl Links {
    /// Whether something is left to do.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.again.is_empty()
    }

    /// Whether datagram sockets reach other hosts over links.
    pub(crate) fn is_any(&self) -> bool {
        self.is_expected
    }

    /// How many sockets of the stack there are for datagrams and raw packets.
    pub(crate) fn len(&self) -> usize {
        self.endpoints.len() + self.raw.len()
    }

    fn link(&self, interface: u32) -> Option<PrivateLink> {
        self.links.iter().find(|link| link.interface == interface).or(self.links.first()).copied()
    }

    /// Has a socket's turn come again: one turn a round.
    fn come_again(&mut self, handle: Handle) {
        if !self.again.contains(&handle) {
            self.again.push(handle);
        }
    }

    fn framing(&mut self, link: PrivateLink) -> Framing {
        self.last_id = self.last_id.wrapping_add(1);
        Framing { mac: link.mac, mtu: link.mtu, id: self.last_id }
    }

    /// Makes a packet of a datagram that the stack has received at a local address, and hands it to the kernel.
    fn emit_datagram(
        &mut self,
        kernel: &mut impl PrivateLinks,
        local: SocketAddr,
        received: &Received,
        data: &[u8],
    ) {
        let Some(from) = received.from.map(plain) else { return };
        let Some(destination) = self.local_destination(local, received, from.is_ipv4()) else { return };
        let header = Header {
            source: from.ip(),
            destination,
            protocol: UDP,
            hop_limit: if received.hop_limit == 0 { HOP_LIMIT } else { received.hop_limit },
            traffic_class: received.traffic_class,
            dont_fragment: false,
        };
        let Some(link) = self.link(received.interface) else { return };
        let framing = self.framing(link);
        let ports = (from.port(), local.port());
        if packet::udp_frame(framing, &header, ports, data, &mut self.frame) {
            kernel.emit(link.interface, &self.frame);
        } else {
            let mut datagram = vec![0; UDP_HEADER];
            datagram.extend(data);
            packet::write_udp(&mut datagram, &header, ports);
            let emit = &mut |frame: &[u8]| kernel.emit(link.interface, frame);
            packet::frames(framing, &header, &datagram, &mut self.frame, emit);
        }
        self.emitted = true;
    }

    /// The address of the program's that a datagram goes to.
    fn local_destination(&mut self, local: SocketAddr, received: &Received, v4: bool) -> Option<IpAddr> {
        let known = &self.addresses;
        let is_known = |address: &IpAddr| {
            address.is_ipv4() == v4
                && (known.contains(address) || address.is_multicast() || is_broadcast(address))
        };
        let told = received.to.map(|to| to.to_canonical());
        self.is_outdated |= told.is_some_and(|to| !is_known(&to));
        let bound = Some(local.ip()).filter(|ip| !ip.is_unspecified());
        let source = self.endpoints.get(&local).and_then(|endpoint| endpoint.source);
        let own = known.iter().copied().find(|address| address.is_ipv4() == v4);
        [told, bound, source, own].into_iter().flatten().find(is_known)
    }

    /// Whether a stack that may choose takes this source for what is sent from all its addresses.
    fn is_only_source(&self, source: IpAddr) -> bool {
        let is_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let alike = |ip: &&IpAddr| ip.is_ipv4() == source.is_ipv4() && is_local(ip) == is_local(&source);
        self.addresses.iter().filter(alike).count() <= 1
    }
}

fn spec_of(address: SocketAddr) -> SocketSpec {
    SocketSpec { domain: Domain::of(&address), kind: Kind::Datagram, protocol: Protocol::Udp }
}

/// The address without what only the program's kernel knows.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl<K: Kernel> Core<K> {
    /// Has datagrams pass over private links, which are added as they are made.
    pub fn expect_private_links(&mut self) {
        if !self.router.is_open() {
            // What comes in is not asked about here.
            tracing::warn!("with rules there are no private links: datagrams reach no other hosts");
            return;
        }
        self.links.is_expected = true;
        self.note_addresses();
        self.open_raw_icmp();
    }

    /// Adds a link.
    pub fn add_private_link(&mut self, link: PrivateLink) {
        self.links.links.push(link);
        self.note_addresses();
        self.ask_for_groups(link);
    }

    /// Notes which addresses the stack has.
    fn note_addresses(&mut self) {
        let interfaces = self.stack.interfaces();
        let all = interfaces.iter().filter(|i| !i.loopback).flat_map(|i| i.addresses.iter());
        self.links.addresses = all.map(|cidr| cidr.addr()).collect();
    }

    /// The program has sent a frame.
    pub fn frame_of_program(&mut self, interface: u32, frame: &[u8]) {
        let Some(packet) = packet::parse(frame) else { return };
        let Header { source, destination, .. } = packet.header;
        if [source, destination].iter().any(is_of_no_link) || source.is_multicast() {
            return;
        }
        match packet.piece {
            None => self.packet_of_program(interface, &packet),
            Some(piece) => {
                if let Some(payload) = self.links.fragments.take(&packet, piece) {
                    let whole = Packet { piece: None, ip: &[], payload: &payload, ..packet };
                    self.packet_of_program(interface, &whole);
                }
            }
        }
    }

    fn packet_of_program(&mut self, interface: u32, packet: &Packet<'_>) {
        if packet.header.protocol == UDP {
            if let Some((from, to, data)) = packet::parse_udp(packet.payload) {
                self.datagram_of_program(interface, packet, (from, to), data);
            }
        } else {
            self.raw_of_program(interface, packet);
        }
    }

    fn datagram_of_program(&mut self, interface: u32, packet: &Packet<'_>, ports: (u16, u16), data: &[u8]) {
        let Header { source, destination, .. } = packet.header;
        let local = SocketAddr::new(source, ports.0);
        let to = with_scope(SocketAddr::new(destination, ports.1), interface);
        if let Route::Denied(_) = self.router.route(&Flow::Datagram(spec_of(to), to)) {
            return self.refuse(interface, packet, Error::AccessDenied);
        }
        let Some(bound) = self.sender_for(local) else { return };
        let Some(endpoint) = self.links.endpoints.touch(&bound) else { return };
        endpoint.source = Some(source);
        let handle = endpoint.handle;
        let wanted = endpoint.sends_as.change(&packet.header);
        self.set_options(handle, wanted);
        match self.stack.send(handle, data, Some(to), SendFlags::empty(), self.time.now) {
            Ok(_) => {
                self.counts.datagrams_sent += 1;
                self.counts.bytes_sent += data.len() as u64;
            }
            // As a full queue of a device drops it.
            Err(Error::Again) => {}
            Err(error) => {
                tracing::debug!(%to, %error, "a datagram cannot be sent");
                self.refuse(interface, packet, error);
            }
        }
    }

    /// Sets what is to be set of a socket of the stack; what it refuses, it does as it does.
    fn set_options(&mut self, handle: Handle, options: impl IntoIterator<Item = SocketOption>) {
        for option in options {
            let _ = self.stack.set_option(handle, option);
        }
    }

    /// An event of a socket that is not in the table.
    pub(crate) fn link_event(&mut self, event: Event) {
        if let Some(local) = self.links.endpoints.of_handle(event.handle) {
            if event.events.contains(Events::ERR) {
                // The packet that says so has gone to the kernel.
                let _ = self.stack.take_error(event.handle);
            }
            if event.events.contains(Events::IN) {
                self.datagrams_for_program(event.handle, local);
            }
        } else if event.events.contains(Events::IN) {
            self.raw_for_program(event.handle);
        }
    }

    /// Goes on with what was left in the last round.
    pub(crate) fn resume_links(&mut self) {
        let mut again = std::mem::take(&mut self.links.again);
        for handle in again.drain(..) {
            self.link_event(Event { handle, events: Events::IN });
        }
        // Those that come again once more stand in a list of their own meanwhile; the memory of the longer one is kept.
        if self.links.again.is_empty() {
            self.links.again = again;
        }
    }

    /// Moves what the stack has received for an address to the kernel.
    fn datagrams_for_program(&mut self, handle: Handle, local: SocketAddr) {
        self.links.endpoints.touch(&local);
        let Core { stack, links, kernel, counts, buffers, time, .. } = self;
        let mut deliver = |received: &Received, data: &[u8]| {
            counts.datagrams_received += 1;
            counts.bytes_received += data.len() as u64;
            links.emit_datagram(kernel, local, received, data);
        };
        let mut batch = Batch::default();
        // Of what is behind an error nothing else tells.
        for _ in 0..ERRORS_A_TURN {
            batch = stack.recv_batch(handle, DATAGRAMS_A_TURN, time.now, &mut buffers.scratch, &mut deliver);
            match batch.stopped {
                None | Some(Error::Again) => break,
                Some(error) => tracing::debug!(%local, %error, "a datagram socket of the stack has failed"),
            }
        }
        if std::mem::take(&mut links.is_outdated) {
            self.note_addresses();
        }
        if batch.stopped.is_none() && batch.count >= DATAGRAMS_A_TURN {
            self.links.come_again(handle);
        }
    }

    /// The scratch memory, to be put back, if it has so much room.
    fn take_scratch(&mut self, len: usize) -> Option<Vec<u8>> {
        (self.buffers.scratch.len() >= len).then(|| std::mem::take(&mut self.buffers.scratch))
    }

    fn emit_packet(&mut self, interface: u32, header: &Header, payload: &[u8]) {
        let Some(link) = self.links.link(interface) else { return };
        let framing = self.links.framing(link);
        let mut frame = std::mem::take(&mut self.links.frame);
        let kernel = &mut self.kernel;
        packet::frames(framing, header, payload, &mut frame, &mut |frame| kernel.emit(link.interface, frame));
        self.links.frame = frame;
        self.links.emitted = true;
    }

    /// Hands on a packet with its IPv4 header as it is.
    fn emit_whole(&mut self, interface: u32, ip: &[u8]) {
        let Some(link) = self.links.link(interface) else { return };
        let mut frame = std::mem::take(&mut self.links.frame);
        packet::wrap_v4(link.mac, ip, &mut frame);
        self.emit_frame(link.interface, &frame);
        self.links.frame = frame;
    }

    fn emit_frame(&mut self, interface: u32, frame: &[u8]) {
        self.kernel.emit(interface, frame);
        self.links.emitted = true;
    }

    /// Has the kernel receive what was emitted.
    pub(crate) fn flush_links(&mut self) {
        if std::mem::take(&mut self.links.emitted) {
            self.kernel.flush();
        }
    }
}

/// The limited broadcast address, or one that may be a network's.
fn is_broadcast(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[3] == 255)
}

/// Whether an address is one that no packet on a link has.
fn is_of_no_link(address: &IpAddr) -> bool {
    let is_mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    address.is_loopback() || address.is_unspecified() || is_mapped
}

/// A link-local address is that of an interface.
fn with_scope(address: SocketAddr, interface: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() || v6.ip().is_multicast() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, interface).into()
        }
        other => other,
    }
}

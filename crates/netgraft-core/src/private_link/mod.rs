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
mod names;
mod packet;
mod raw;

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use netgraft_plugin::{
    Domain, Error, Event, Events, Handle, Kind, Protocol, Received, RecvFlags, SendFlags, SocketOption,
    SocketSpec,
};

use crate::core::{Core, Kernel};
use crate::route::{Flow, Route};
use crate::socket::Seen;
use crate::uapi::Errno;

use endpoints::{Endpoints, any_of};
use fragments::Fragments;
use packet::{Framing, Header, Packet, UDP, UDP_HEADER};
use raw::RawSockets;

/// Datagrams of one socket that are moved before others have their turn.
const DATAGRAMS_A_TURN: usize = 64;

/// How many local addresses whose ports the kernel chose are served: more than a sandbox uses at a time. Beyond that, the one that
/// was not used for longest has to go.
const MOST_CHOSEN: usize = 4096;

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

/// A datagram socket of the kernel's that is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundSocket {
    /// Its local address.
    pub local: SocketAddr,
    /// Its peer, if it is connected.
    pub peer: Option<SocketAddr>,
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
    /// What joins groups for all sockets, of IPv4 and of IPv6.
    members: [Option<Handle>; 2],
    /// Identification of the last packet that was cut.
    last_id: u32,
    /// Memory for a frame.
    frame: Vec<u8>,
    /// Whether something was emitted that has not been flushed.
    emitted: bool,
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

    /// How many sockets of the stack there are for local addresses.
    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
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

    fn next_id(&mut self) -> u32 {
        self.last_id = self.last_id.wrapping_add(1);
        self.last_id
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
        if packet.header.source.is_loopback() || packet.header.destination.is_loopback() {
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
        let Some(bound) = self.endpoint_for(local) else { return };
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

    /// What stands for a local address; made now for a port that the kernel has chosen.
    fn endpoint_for(&mut self, local: SocketAddr) -> Option<SocketAddr> {
        if let Some(bound) = self.links.endpoints.find(local) {
            return Some(bound);
        }
        let any = any_of(local);
        let bound = match self.new_endpoint(any, 0) {
            Ok(()) => Ok(any),
            Err(_) => self.new_endpoint(local, 0).map(|()| local),
        };
        let bound = bound
            .inspect_err(|errno| tracing::debug!(%local, errno, "the stack has no socket for it"))
            .ok()?;
        if self.told.is_some()
            && let Some(seen) = self.kernel.owner_of(local)
        {
            self.tell_endpoint(bound, seen);
        }
        Some(bound)
    }

    /// Makes a socket of the stack for a local address.
    fn new_endpoint(&mut self, local: SocketAddr, binds: u32) -> Result<(), Errno> {
        if self.links.len() >= MOST_CHOSEN.min(self.budget.sockets)
            && let Some(stalest) = self.links.endpoints.stalest()
        {
            self.end_endpoint(stalest);
        }
        if self.table.len() + self.links.len() >= self.budget.sockets {
            return Err(crate::uapi::ENFILE);
        }
        let handle = self.stack.socket(spec_of(local)).map_err(Error::errno)?;
        let mut options = vec![
            SocketOption::ReuseAddress(true),
            // The kernel has asked for the permission, and hands out copies inside the sandbox itself.
            SocketOption::Broadcast(true),
            SocketOption::MulticastLoop(false),
        ];
        if local.is_ipv6() {
            // Each family has a socket of its own here.
            options.extend([SocketOption::V6Only(true), SocketOption::MulticastLoop6(false)]);
        }
        self.set_options(handle, options);
        if let Err(error) = self.stack.bind(handle, local) {
            self.stack.close(handle, self.time.now);
            return Err(error.errno());
        }
        self.observe(handle);
        self.links.endpoints.insert(local, handle, binds);
        Ok(())
    }

    /// Says who has the socket of an endpoint.
    pub(super) fn tell_endpoint(&mut self, bound: SocketAddr, seen: Seen) {
        if let Some(told) = &self.told
            && let Some(title) = self.kernel.title(seen.tid)
        {
            told.set_datagrams(bound, &format!("{title} fd {}", seen.fd));
        }
    }

    /// Sets what is to be set of a socket of the stack; what it refuses, it does as it does.
    fn set_options(&mut self, handle: Handle, options: impl IntoIterator<Item = SocketOption>) {
        for option in options {
            let _ = self.stack.set_option(handle, option);
        }
    }

    fn end_endpoint(&mut self, local: SocketAddr) {
        if let Some(told) = &self.told {
            told.close_datagrams(local);
        }
        if let Some(endpoint) = self.links.endpoints.remove(&local) {
            self.stack.close(endpoint.handle, self.time.now);
        }
    }

    /// The kernel has bound a datagram socket: datagrams to its address are to reach it.
    ///
    /// # Errors
    /// EADDRINUSE and the like, of the stack.
    pub(crate) fn bound_by_kernel(&mut self, local: SocketAddr) -> Result<(), Errno> {
        let local = plain(local);
        if local.port() == 0 || local.ip().is_loopback() || !self.links.is_any() {
            return Ok(());
        }
        // What is sent to a group or to all hosts reaches every socket with the port.
        let is_own = local.ip().is_unspecified() || self.links.addresses.contains(&local.ip());
        let served = if is_own { local } else { any_of(local) };
        self.bind_endpoint(served)?;
        if served.is_ipv6() && served.ip().is_unspecified() {
            // Unless it is for IPv6 alone, which the kernel knows. Where the stack has another socket there, that one stays.
            let _ =
                self.bind_endpoint(SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), served.port()));
        }
        Ok(())
    }

    fn bind_endpoint(&mut self, local: SocketAddr) -> Result<(), Errno> {
        if let Some(endpoint) = self.links.endpoints.get_mut(&local) {
            endpoint.binds += 1;
            if endpoint.peer.take().is_some() {
                let handle = endpoint.handle;
                let _ = self.stack.disconnect(handle);
            }
            return Ok(());
        }
        self.new_endpoint(local, 1)
    }

    /// The kernel has given a datagram socket a peer, or taken it: `before` is the local address that it had until then.
    pub(crate) fn connected_by_kernel(&mut self, before: SocketAddr, now: BoundSocket) {
        if !self.links.is_any() {
            return;
        }
        let (before, local) = (plain(before), plain(now.local));
        if before.port() != 0 && before.port() != local.port() {
            self.datagram_socket_closed(before);
        }
        if local.port() == 0 || local.ip().is_loopback() {
            return;
        }
        let Some(bound) = self.endpoint_for(local) else { return };
        let Some(endpoint) = self.links.endpoints.touch(&bound) else { return };
        // Another socket of the same address may have other peers.
        let peer = now.peer.map(plain).filter(|_| endpoint.binds <= 1);
        let peer = peer.filter(|peer| !peer.ip().is_loopback() && peer.port() != 0);
        if std::mem::replace(&mut endpoint.peer, peer) == peer {
            return;
        }
        let handle = endpoint.handle;
        let done = match peer {
            Some(peer) => self.stack.connect(handle, peer, self.time.now),
            None => self.stack.disconnect(handle),
        };
        if let Err(error) = done {
            tracing::debug!(?peer, %error, "the stack does not connect a datagram socket");
        }
    }

    /// A datagram socket of the kernel's with this local address is gone.
    pub fn datagram_socket_closed(&mut self, local: SocketAddr) {
        let local = plain(local);
        let Some(bound) = self.links.endpoints.find(local) else { return };
        let Some(endpoint) = self.links.endpoints.get_mut(&bound) else { return };
        endpoint.binds = endpoint.binds.saturating_sub(1);
        if endpoint.binds == 0 {
            self.end_endpoint(bound);
        }
        let both = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), local.port());
        if bound.is_ipv6() && bound.ip().is_unspecified() && self.links.endpoints.find(both) == Some(both) {
            self.datagram_socket_closed(both);
        }
    }

    /// These datagram sockets of the kernel's are there: what stands for others is closed, and what is missing is made.
    pub fn datagram_sockets_are(&mut self, sockets: &[BoundSocket]) {
        for address in self.links.endpoints.addresses() {
            let serves = |socket: &BoundSocket| {
                let local = plain(socket.local);
                [local, any_of(local)].contains(&address)
                    || (local.ip().is_unspecified() && local.port() == address.port())
            };
            if !sockets.iter().any(serves) {
                self.end_endpoint(address);
            }
        }
        for socket in sockets {
            let local = plain(socket.local);
            if self.links.endpoints.find(local).is_some() {
                continue;
            }
            if let Err(errno) = self.bound_by_kernel(local) {
                tracing::warn!("the datagram socket of {local} receives nothing from others: errno {errno}");
            }
            if socket.peer.is_some() {
                self.connected_by_kernel(local, *socket);
            }
        }
    }

    /// A program asks the kernel for membership of a group (ip(7)): the stack is to receive what is sent to it.
    pub(crate) fn joined_by_kernel(&mut self, option: SocketOption) {
        let (SocketOption::JoinGroup(_) | SocketOption::JoinGroup6(_)) = option else { return };
        if !self.links.is_any() {
            return;
        }
        let v6 = matches!(option, SocketOption::JoinGroup6(_));
        let domain = if v6 { Domain::V6 } else { Domain::V4 };
        let spec = SocketSpec { domain, kind: Kind::Datagram, protocol: Protocol::Udp };
        let member = match self.links.members[usize::from(v6)] {
            Some(member) => member,
            None => {
                let Ok(member) = self.stack.socket(spec) else { return };
                *self.links.members[usize::from(v6)].insert(member)
            }
        };
        if let Err(error) = self.stack.set_option(member, option) {
            // Also that it is a member already.
            tracing::debug!(%error, "the stack does not join a group");
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
        for handle in std::mem::take(&mut self.links.again) {
            self.link_event(Event { handle, events: Events::IN });
        }
    }

    /// Moves what the stack has received for an address to the kernel.
    fn datagrams_for_program(&mut self, handle: Handle, local: SocketAddr) {
        for _ in 0..DATAGRAMS_A_TURN {
            let Some(room) = self.buffers.scratch.get_mut(UDP_HEADER..) else { return };
            let received = match self.stack.recv(handle, room, RecvFlags::empty(), self.time.now) {
                Ok(received) => received,
                Err(Error::Again) => return,
                Err(error) => {
                    // Of the next ones nothing else tells.
                    tracing::debug!(%local, %error, "a datagram socket of the stack has failed");
                    continue;
                }
            };
            self.counts.datagrams_received += 1;
            self.counts.bytes_received += received.len as u64;
            self.datagram_for_program(local, &received);
        }
        self.links.come_again(handle);
    }

    /// Makes a packet of the datagram in the scratch memory.
    fn datagram_for_program(&mut self, local: SocketAddr, received: &Received) {
        let Some(from) = received.from.map(plain) else { return };
        let Some(destination) = self.local_destination(local, received, from.is_ipv4()) else { return };
        let header = Header {
            source: from.ip(),
            destination,
            protocol: UDP,
            hop_limit: if received.hop_limit == 0 { HOP_LIMIT } else { received.hop_limit },
            traffic_class: received.traffic_class,
        };
        let Some(mut scratch) = self.take_scratch(UDP_HEADER + received.len) else { return };
        if let Some(datagram) = scratch.get_mut(..UDP_HEADER + received.len) {
            packet::write_udp(datagram, &header, (from.port(), local.port()));
            self.emit_packet(received.interface, &header, datagram);
        }
        self.buffers.scratch = scratch;
    }

    /// The scratch memory, to be put back, if it has so much room.
    fn take_scratch(&mut self, len: usize) -> Option<Vec<u8>> {
        (self.buffers.scratch.len() >= len).then(|| std::mem::take(&mut self.buffers.scratch))
    }

    /// The address of the program's that a datagram goes to.
    fn local_destination(&mut self, local: SocketAddr, received: &Received, v4: bool) -> Option<IpAddr> {
        let is_known = |address: &IpAddr, known: &[IpAddr]| {
            address.is_ipv4() == v4
                && (known.contains(address) || address.is_multicast() || is_broadcast(address))
        };
        let told = received.to.map(|to| to.to_canonical());
        let bound = Some(local.ip()).filter(|ip| !ip.is_unspecified());
        if told.is_some_and(|to| !is_known(&to, &self.links.addresses)) {
            // It has another address since.
            self.note_addresses();
        }
        let known = &self.links.addresses;
        let source = self.links.endpoints.get_mut(&local).and_then(|endpoint| endpoint.source);
        let own = known.iter().copied().find(|address| address.is_ipv4() == v4);
        [told, bound, source, own].into_iter().flatten().find(|address| is_known(address, known))
    }

    fn emit_packet(&mut self, interface: u32, header: &Header, payload: &[u8]) {
        let Some(link) = self.links.link(interface) else { return };
        let framing = Framing { mac: link.mac, mtu: link.mtu, id: self.links.next_id() };
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
        self.kernel.emit(link.interface, &frame);
        self.links.frame = frame;
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

/// A link-local address is that of an interface.
fn with_scope(address: SocketAddr, interface: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() || v6.ip().is_multicast() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, interface).into()
        }
        other => other,
    }
}

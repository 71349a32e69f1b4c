//! [`Sockets`] and [`PluginNotifier`]: each call finds the socket and what kind it is.

use std::net::SocketAddr;

use netgraft_plugin::data::{self, Batch, Fill, Spare, Streamed, Take};
use netgraft_plugin::option::{OptionName, SocketOption, TcpInfo};
use netgraft_plugin::{
    Domain, Error, Events, Handle, Instant, Kind, PluginNotifier, Protocol, Received, RecvFlags, Result,
    SendFlags, Shutdown, SocketSpec, Sockets,
};

use crate::addr::{Tuple, inward, outward, outward_ip};
use crate::core::{Core, check_family, destination};
use crate::options::Options;
use crate::packet;
use crate::ports::Role;
use crate::sock::{Body, Bound, Hold, Owner};
use crate::stack::SmoltcpStack;

/// Sockets that the program may hold.
const MOST: u64 = 1 << 20;

/// The kinds of sockets, for `StackInfo`.
pub(crate) fn specs() -> Vec<SocketSpec> {
    let mut specs = Vec::new();
    for domain in [Domain::V4, Domain::V6] {
        let echo = if domain == Domain::V4 { Protocol::Icmp } else { Protocol::Icmpv6 };
        let raw = if domain == Domain::V4 { 1 } else { 58 };
        specs.extend([
            SocketSpec { domain, kind: Kind::Stream, protocol: Protocol::Tcp },
            SocketSpec { domain, kind: Kind::Datagram, protocol: Protocol::Udp },
            SocketSpec { domain, kind: Kind::Datagram, protocol: echo },
            SocketSpec { domain, kind: Kind::Raw, protocol: Protocol::Raw(raw) },
            SocketSpec { domain, kind: Kind::Raw, protocol: Protocol::Raw(packet::RAW) },
        ]);
    }
    specs
}

fn check_spec(spec: SocketSpec) -> Result<()> {
    match (spec.kind, spec.protocol, spec.domain) {
        (Kind::Stream, Protocol::Tcp, _)
        | (Kind::Datagram, Protocol::Udp, _)
        | (Kind::Datagram, Protocol::Icmp, Domain::V4)
        | (Kind::Datagram, Protocol::Icmpv6, Domain::V6) => Ok(()),
        (Kind::Raw, Protocol::Raw(1..), _) => Ok(()),
        _ => Err(Error::ProtocolNotSupported),
    }
}

/// A received datagram's addresses as a socket of this family shows them.
fn shown(domain: Domain, received: Received) -> Received {
    Received {
        from: received.from.map(|from| outward(domain, from)),
        to: received.to.map(|to| outward_ip(domain, to)),
        ..received
    }
}

impl Core {
    fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()> {
        let sock = self.socks.held(handle)?;
        let addr = inward(sock.spec.domain, addr)?;
        let datagram = matches!(sock.body, Body::Datagrams(_));
        if sock.bound.hold != Hold::Nothing {
            return Err(Error::Invalid);
        }
        if sock.spec.domain == Domain::V6 && sock.options.v6_only && addr.is_ipv4() {
            return Err(Error::Invalid);
        }
        if !self.may_bind(addr.ip(), datagram) {
            return Err(Error::AddressNotAvailable);
        }
        // "Any" of a dual socket stays IPv6, also when it was written as ::ffff:0.0.0.0.
        match sock.spec.protocol {
            Protocol::Tcp => self.hold_port(handle, addr.ip(), addr.port(), Role::Bound),
            Protocol::Udp => self.hold_port(handle, addr.ip(), addr.port(), Role::Receiving),
            Protocol::Icmp | Protocol::Icmpv6 => self.hold_ident(handle, addr.ip(), addr.port()),
            Protocol::Raw(protocol) => {
                self.socks.held_mut(handle)?.bound =
                    Bound { ip: addr.ip(), port: u16::from(protocol), hold: Hold::Entry };
                Ok(())
            }
        }
    }

    fn datagram_connect(&mut self, handle: Handle, to: SocketAddr) -> Result<()> {
        let sock = self.socks.held(handle)?;
        let (spec, bound) = (sock.spec, sock.bound);
        let remote = destination(to);
        check_family(spec.domain, &sock.options, remote)?;
        if self.net.is_broadcast(remote.ip()) && !sock.options.broadcast {
            return Err(Error::AccessDenied);
        }
        self.datagram_disconnect(handle)?;
        let (path, header) = self.datagram_header(handle, remote.ip(), packet::UDP)?;
        let _ = path;
        if bound.hold == Hold::Nothing {
            match spec.protocol {
                Protocol::Udp => self.hold_port(handle, bound.ip, 0, Role::Receiving)?,
                Protocol::Icmp | Protocol::Icmpv6 => self.hold_ident(handle, bound.ip, 0)?,
                _ => {}
            }
        }
        let sock = self.socks.held_mut(handle)?;
        let Body::Datagrams(datagrams) = &mut sock.body else { return Err(Error::NotSupported) };
        datagrams.peer = Some(remote);
        datagrams.bound_before = Some(sock.bound.ip);
        if sock.bound.ip.is_unspecified() {
            sock.bound.ip = header.src;
        }
        if spec.protocol == Protocol::Udp && !remote.ip().is_multicast() {
            let tuple = Tuple::new(sock.bound.addr(), remote);
            if let Some(entry) = self.udp_ports.entry(sock.bound.port, handle) {
                entry.role = Role::Bound;
            }
            self.udp_peers.insert(tuple, handle);
        }
        Ok(())
    }

    fn datagram_disconnect(&mut self, handle: Handle) -> Result<()> {
        let sock = self.socks.held_mut(handle)?;
        let Body::Datagrams(datagrams) = &mut sock.body else { return Err(Error::NotSupported) };
        let Some(peer) = datagrams.peer.take() else { return Ok(()) };
        let tuple = Tuple::new(sock.bound.addr(), peer);
        if self.udp_peers.get(&tuple) == Some(&handle) {
            self.udp_peers.remove(&tuple);
        }
        if let Some(ip) = datagrams.bound_before.take() {
            sock.bound.ip = ip;
        }
        if let Some(entry) = self.udp_ports.entry(sock.bound.port, handle) {
            entry.role = Role::Receiving;
        }
        Ok(())
    }

    fn datagram_send(&mut self, handle: Handle, data: &[u8], to: Option<SocketAddr>) -> Result<usize> {
        let sock = self.socks.held_mut(handle)?;
        if let Some(error) = sock.error.take() {
            self.update(handle, false);
            return Err(error);
        }
        let protocol = sock.spec.protocol;
        let to = to.map(|addr| inward(sock.spec.domain, addr)).transpose()?;
        if matches!(&sock.body, Body::Datagrams(d) if d.shut_write) {
            return Err(Error::BrokenPipe);
        }
        match protocol {
            Protocol::Udp => self.udp_send(handle, data, to)?,
            Protocol::Icmp | Protocol::Icmpv6 => self.echo_send(handle, data, to)?,
            Protocol::Raw(_) if sock.options.header_included => self.raw_send_whole(handle, data, to)?,
            Protocol::Raw(number) => self.raw_send(handle, number, data, to)?,
            Protocol::Tcp => return Err(Error::NotSupported),
        }
        Ok(data.len())
    }

    fn datagram_recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags) -> Result<Received> {
        let sock = self.socks.held_mut(handle)?;
        if let Some(error) = sock.error.take() {
            self.update(handle, false);
            return Err(error);
        }
        let domain = sock.spec.domain;
        let Body::Datagrams(datagrams) = &mut sock.body else { return Err(Error::NotConnected) };
        let Some(received) = datagrams.recv(buf, flags) else {
            return if datagrams.shut_read { Ok(Received::default()) } else { Err(Error::Again) };
        };
        let received = shown(domain, received);
        let ready = sock.readiness();
        self.queue.set_ready(handle, &mut sock.info, ready);
        Ok(received)
    }

    fn datagram_recv_batch(
        &mut self,
        handle: Handle,
        limit: usize,
        deliver: &mut dyn FnMut(&Received, &[u8]),
    ) -> Batch {
        let none = |error| Batch { count: 0, stopped: Some(error) };
        let sock = match self.socks.held_mut(handle) {
            Ok(sock) => sock,
            Err(error) => return none(error),
        };
        if let Some(error) = sock.error.take() {
            self.update(handle, false);
            return none(error);
        }
        let domain = sock.spec.domain;
        let Body::Datagrams(datagrams) = &mut sock.body else { return none(Error::NotConnected) };
        let mut count = 0;
        while count < limit && datagrams.take_first(|received, data| deliver(&shown(domain, *received), data))
        {
            count += 1;
        }
        let empty = count < limit && !datagrams.shut_read;
        let ready = sock.readiness();
        self.queue.set_ready(handle, &mut sock.info, ready);
        Batch { count, stopped: empty.then_some(Error::Again) }
    }

    fn datagram_shutdown(&mut self, handle: Handle, how: Shutdown) -> Result<()> {
        let sock = self.socks.held_mut(handle)?;
        let Body::Datagrams(datagrams) = &mut sock.body else { return Err(Error::NotSupported) };
        if datagrams.peer.is_none() {
            return Err(Error::NotConnected);
        }
        datagrams.shut_read |= how != Shutdown::Write;
        datagrams.shut_write |= how != Shutdown::Read;
        self.update(handle, true);
        Ok(())
    }

    fn datagram_close(&mut self, handle: Handle) {
        let _ = self.datagram_disconnect(handle);
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let groups = match &mut sock.body {
            Body::Datagrams(datagrams) => std::mem::take(&mut datagrams.groups),
            _ => Vec::new(),
        };
        let v4 = sock.spec.domain == Domain::V4;
        match sock.spec.protocol {
            Protocol::Icmp | Protocol::Icmpv6 if sock.bound.hold == Hold::Entry => {
                let ident = sock.bound.port;
                sock.bound.hold = Hold::Nothing;
                self.release_ident(handle, v4, ident);
            }
            Protocol::Raw(_) => {
                self.raws.retain(|r| r.2 != handle);
                sock.bound.hold = Hold::Nothing;
            }
            _ => {}
        }
        for (index, group) in groups {
            self.leave_group(index, group);
        }
        self.discard(handle);
    }

    fn close(&mut self, handle: Handle, abortive: bool) -> Result<()> {
        let sock = self.socks.held_mut(handle)?;
        self.queue.set_mask(handle, &mut sock.info, None);
        let datagram = matches!(sock.body, Body::Datagrams(_));
        self.socks.held -= 1;
        if datagram {
            self.datagram_close(handle)
        } else {
            self.stream_close(handle, abortive)
        }
        Ok(())
    }
}

impl Sockets for SmoltcpStack {
    fn socket(&mut self, spec: SocketSpec) -> Result<Handle> {
        check_spec(spec)?;
        let core = self.core_mut()?;
        if core.socks.held >= MOST {
            return Err(Error::TooManySockets);
        }
        let body = match spec.kind {
            Kind::Stream => Body::Fresh,
            _ => Body::Datagrams(Box::default()),
        };
        // Echo sockets share from birth (inet_create, INET_PROTOSW_REUSE).
        let reuse_address = matches!(spec.protocol, Protocol::Icmp | Protocol::Icmpv6);
        let header_included = spec.protocol == Protocol::Raw(packet::RAW);
        let congestion = core.argument.congestion;
        let options = Options { reuse_address, header_included, congestion, ..Options::default() };
        let handle = core.add_socket(spec, options, Owner::Program, body);
        core.socks.held += 1;
        if let Protocol::Raw(protocol) = spec.protocol {
            core.raws.push((spec.domain == Domain::V4, protocol, handle));
        }
        core.update(handle, false);
        Ok(handle)
    }

    fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()> {
        self.core_mut()?.bind(handle, addr)
    }

    fn listen(&mut self, handle: Handle, backlog: u32) -> Result<()> {
        self.core_mut()?.stream_listen(handle, backlog)
    }

    fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)> {
        self.core_mut()?.stream_accept(handle)
    }

    fn connect(&mut self, handle: Handle, addr: SocketAddr, now: Instant) -> Result<()> {
        let core = self.core_mut()?;
        core.tick(now);
        let sock = core.socks.held(handle)?;
        let datagram = matches!(sock.body, Body::Datagrams(_));
        let addr = inward(sock.spec.domain, addr)?;
        if datagram { core.datagram_connect(handle, addr) } else { core.stream_connect(handle, addr) }
    }

    fn disconnect(&mut self, handle: Handle) -> Result<()> {
        self.core_mut()?.datagram_disconnect(handle)
    }

    fn local_addr(&self, handle: Handle) -> Result<SocketAddr> {
        let sock = self.core()?.socks.held(handle)?;
        Ok(outward(sock.spec.domain, sock.bound.addr()))
    }

    fn peer_addr(&self, handle: Handle) -> Result<SocketAddr> {
        let sock = self.core()?.socks.held(handle)?;
        let peer = match &sock.body {
            Body::Conn(conn) if conn.life == crate::tcp::Life::Open => conn.remote,
            // A peer without a port, of an echo or raw socket, is not shown (inet_getname).
            Body::Datagrams(datagrams) => {
                datagrams.peer.filter(|peer| peer.port() != 0).ok_or(Error::NotConnected)?
            }
            _ => return Err(Error::NotConnected),
        };
        Ok(outward(sock.spec.domain, peer))
    }

    fn send(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
        now: Instant,
    ) -> Result<usize> {
        let core = self.core_mut()?;
        core.tick(now);
        match core.socks.held(handle)?.body {
            Body::Datagrams(_) if flags.contains(SendFlags::OUT_OF_BAND) => Err(Error::NotSupported),
            Body::Datagrams(_) => core.datagram_send(handle, data, to),
            _ => core.stream_send(handle, data, flags),
        }
    }

    fn recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags, now: Instant) -> Result<Received> {
        let core = self.core_mut()?;
        core.tick(now);
        match core.socks.held(handle)?.body {
            Body::Datagrams(_) => core.datagram_recv(handle, buf, flags),
            _ => core.stream_recv(handle, buf, flags),
        }
    }

    fn send_with(
        &mut self,
        handle: Handle,
        flags: SendFlags,
        now: Instant,
        spare: Spare<'_>,
        fill: &mut Fill<'_>,
    ) -> Result<usize> {
        let core = self.core_mut()?;
        core.tick(now);
        if flags.is_empty() && spare.spill.is_empty() {
            return core.stream_send_with(handle, fill);
        }
        data::send_copied(self, handle, flags, now, spare, fill)
    }

    fn recv_with(
        &mut self,
        handle: Handle,
        now: Instant,
        spare: Spare<'_>,
        take: &mut Take<'_>,
    ) -> Result<Streamed> {
        if !spare.spill.is_empty() {
            return data::recv_copied(self, handle, now, spare, take);
        }
        let core = self.core_mut()?;
        core.tick(now);
        Ok(core.stream_recv_with(handle, take)?.map_or(Streamed::End, Streamed::Bytes))
    }

    fn recv_batch(
        &mut self,
        handle: Handle,
        limit: usize,
        now: Instant,
        _scratch: &mut [u8],
        deliver: &mut dyn FnMut(&Received, &[u8]),
    ) -> Batch {
        match self.core_mut() {
            Ok(core) => {
                core.tick(now);
                core.datagram_recv_batch(handle, limit, deliver)
            }
            Err(error) => Batch { count: 0, stopped: Some(error) },
        }
    }

    fn send_room(&self, handle: Handle) -> usize {
        match self.core().and_then(|c| c.socks.held(handle)).map(|s| &s.body) {
            Ok(Body::Conn(conn)) => conn.send_room(),
            Ok(Body::Datagrams(_)) => 65_507,
            _ => 0,
        }
    }

    fn queued_in(&self, handle: Handle) -> Result<usize> {
        match &self.core()?.socks.held(handle)?.body {
            Body::Conn(conn) => Ok(conn.tcp.readable()),
            Body::Datagrams(datagrams) => Ok(datagrams.first_len()),
            Body::Fresh => Ok(0),
            Body::Listener(_) => Err(Error::Invalid),
        }
    }

    fn queued_out(&self, handle: Handle) -> Result<usize> {
        match &self.core()?.socks.held(handle)?.body {
            Body::Conn(conn) => Ok(conn.queued_out()),
            Body::Datagrams(_) | Body::Fresh => Ok(0),
            Body::Listener(_) => Err(Error::Invalid),
        }
    }

    fn urgent(&self, handle: Handle) -> Result<usize> {
        match &self.core()?.socks.held(handle)?.body {
            Body::Conn(conn) => Ok(conn.tcp.urgent_mark().unwrap_or(0)),
            Body::Fresh | Body::Listener(_) => Ok(0),
            Body::Datagrams(_) => Err(Error::NotSupported),
        }
    }

    fn shutdown(&mut self, handle: Handle, how: Shutdown, now: Instant) -> Result<()> {
        let core = self.core_mut()?;
        core.tick(now);
        match core.socks.held(handle)?.body {
            Body::Datagrams(_) => core.datagram_shutdown(handle, how),
            _ => core.stream_shutdown(handle, how),
        }
    }

    fn close(&mut self, handle: Handle, now: Instant) -> Result<()> {
        let core = self.core_mut()?;
        core.tick(now);
        core.close(handle, false)
    }

    fn abort(&mut self, handle: Handle, now: Instant) -> Result<()> {
        let core = self.core_mut()?;
        core.tick(now);
        core.close(handle, true)
    }

    fn readiness(&self, handle: Handle) -> Result<Events> {
        Ok(self.core()?.socks.held(handle)?.readiness())
    }

    fn take_error(&mut self, handle: Handle) -> Option<Error> {
        let core = self.core_mut().ok()?;
        let error = core.socks.held_mut(handle).ok()?.error.take();
        if error.is_some() {
            core.update(handle, false);
        }
        error
    }

    fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()> {
        self.core_mut()?.set_option(handle, option)
    }

    fn get_option(&self, handle: Handle, name: OptionName) -> Result<SocketOption> {
        self.core()?.get_option(handle, name)
    }

    fn tcp_info(&self, handle: Handle) -> Result<TcpInfo> {
        self.core()?.tcp_info(handle)
    }
}

impl PluginNotifier for SmoltcpStack {
    fn add_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let core = self.core_mut()?;
        let sock = core.socks.held_mut(handle)?;
        if sock.info.mask().is_some() {
            return Err(Error::Exists);
        }
        core.queue.set_mask(handle, &mut sock.info, Some(mask));
        Ok(())
    }

    fn update_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let core = self.core_mut()?;
        let sock = core.socks.held_mut(handle)?;
        if sock.info.mask().is_none() {
            return Err(Error::BadHandle);
        }
        core.queue.set_mask(handle, &mut sock.info, Some(mask));
        Ok(())
    }

    fn remove_fd(&mut self, handle: Handle) -> Result<()> {
        let core = self.core_mut()?;
        let sock = core.socks.held_mut(handle)?;
        if sock.info.mask().is_none() {
            return Err(Error::BadHandle);
        }
        core.queue.set_mask(handle, &mut sock.info, None);
        Ok(())
    }
}

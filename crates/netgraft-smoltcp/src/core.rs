//! The state of a running stack.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netgraft_link::Dial;
use netgraft_link::pcap::{InterfaceId, Recorder};
use netgraft_plugin::inet::{BufferSizes, Route, Statistics, best_route, is_broadcast};
use netgraft_plugin::link::Link;
use netgraft_plugin::{Cidr, Domain, Error, EventInfo, Handle, Instant, Result, SocketSpec, WaitQueue};
use netgraft_tcp::{Config, Pool};

use crate::addr::Tuple;
use crate::argument::Argument;
use crate::conduit::Conduits;
use crate::fastopen::Known;
use crate::fragments::Fragments;
use crate::fragments6::Fragments6;
use crate::hash::{Keyed, Map};
use crate::iface::{NetIf, Side};
use crate::isn::InitialNumbers;
use crate::neighbor::Neighbors;
use crate::options::Options;
use crate::ports::{Bind, Ports, Role};
use crate::sock::{Body, Bound, Hold, Owner, Sock, Socks};
use crate::timer::Timers;
use crate::timewait::TimeWaits;

/// Default size of both TCP buffers.
const BUFFER: u32 = 256 * 1024;
/// Bytes of free memory for TCP data that are kept.
const SPARE: usize = 32 << 20;

/// The interfaces.
pub(crate) struct Net {
    pub(crate) lo: NetIf,
    pub(crate) link: Option<NetIf>,
}

impl Net {
    pub(crate) fn at(&mut self, side: Side) -> &mut NetIf {
        match (side, &mut self.link) {
            (Side::Link, Some(link)) => link,
            _ => &mut self.lo,
        }
    }

    pub(crate) fn mtu(&self, side: Side) -> usize {
        match (side, &self.link) {
            (Side::Link, Some(link)) => link.mtu,
            _ => self.lo.mtu,
        }
    }

    /// Whether an address is the stack's own.
    pub(crate) fn is_local(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.lo.has(ip) || self.link.as_ref().is_some_and(|l| l.has(ip))
    }

    /// Whether an address means all of a network.
    pub(crate) fn is_broadcast(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(a) => {
                let on_link = self.link.as_ref().map_or(&[][..], |l| &l.addresses);
                is_broadcast(on_link, a) || is_broadcast(&self.lo.addresses, a)
            }
            IpAddr::V6(_) => false,
        }
    }
}

/// Small random numbers (SplitMix64), seeded from the system's.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Everything of a running stack.
pub(crate) struct Core {
    pub(crate) net: Net,
    pub(crate) link: Option<Box<dyn Link>>,
    /// Whether the link has failed.
    pub(crate) link_down: bool,
    /// The capture, with the loopback's place in it.
    pub(crate) capture: Option<(Recorder, InterfaceId)>,
    /// Changes the faults of the link.
    pub(crate) dial: Option<Dial>,
    /// Routes that were added; those of the addresses are not among them.
    pub(crate) routes: Vec<Route>,
    pub(crate) socks: Socks,
    pub(crate) connections: Map<Tuple, Handle>,
    pub(crate) tcp_ports: Ports,
    pub(crate) udp_ports: Ports,
    pub(crate) udp_peers: Map<Tuple, Handle>,
    /// ICMP echo sockets by family and identifier, in the order in which they were bound.
    pub(crate) echoes: Map<(bool, u16), Vec<Handle>>,
    /// Raw sockets: family, protocol, handle.
    pub(crate) raws: Vec<(bool, u8, Handle)>,
    /// Multicast groups with the number of members, by interface index.
    pub(crate) groups: Map<(u32, IpAddr), u32>,
    pub(crate) conduits: Conduits,
    /// Connections that wait for a neighbor's address.
    pub(crate) resolving: Vec<Handle>,
    pub(crate) fragments: Fragments,
    pub(crate) fragments6: Fragments6,
    pub(crate) time_waits: TimeWaits,
    pub(crate) queue: WaitQueue,
    pub(crate) timers: Timers,
    pub(crate) dirty: VecDeque<Handle>,
    /// Datagram sockets that were refused since a queue was full.
    pub(crate) blocked: Vec<Handle>,
    pub(crate) stats: Statistics,
    pub(crate) key: Keyed,
    pub(crate) random: Random,
    pub(crate) initial: InitialNumbers,
    pub(crate) receive_buffer: BufferSizes,
    pub(crate) send_buffer: BufferSizes,
    pub(crate) port_range: (u16, u16),
    /// The latest time that the stack was told.
    pub(crate) now: Instant,
    /// Until when multicast reports may be due, after a query.
    pub(crate) reports_until: Option<Instant>,
    /// What the operator has set.
    pub(crate) argument: Argument,
    /// Memory for the data of all connections.
    pub(crate) pool: Pool,
    /// The Ethernet addresses that TCP sends to.
    pub(crate) neighbors: Neighbors,
    /// The cookies of Fast Open that peers gave.
    pub(crate) known: Known,
    /// Until when acknowledgements of SYN cookies may come.
    pub(crate) flooded: Option<Instant>,
    /// Whether selective acknowledgements are offered.
    pub(crate) sack: bool,
    /// Packets and sockets handled, for tests of what work is done.
    pub(crate) work: u64,
}

/// A way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) side: Side,
    /// The source address that suits it.
    pub(crate) src: IpAddr,
    /// The neighbor that the packet goes to.
    pub(crate) hop: IpAddr,
}

impl Core {
    pub(crate) fn new(key: Keyed, argument: Argument, now: Instant) -> Self {
        let mut random = Random(key.of(&3u8));
        let mut lo = NetIf::loopback(random.next(), now);
        lo.addresses = [(IpAddr::V4(Ipv4Addr::LOCALHOST), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)]
            .into_iter()
            .filter_map(|(ip, prefix)| Cidr::new(ip, prefix))
            .collect();
        lo.sync_addresses();
        Core {
            net: Net { lo, link: None },
            link: None,
            link_down: false,
            capture: None,
            dial: None,
            routes: Vec::new(),
            socks: Socks::default(),
            connections: Map::with_hasher(key),
            tcp_ports: Ports::new(key, false),
            udp_ports: Ports::new(key, true),
            udp_peers: Map::with_hasher(key),
            echoes: Map::with_hasher(key),
            raws: Vec::new(),
            groups: Map::with_hasher(key),
            conduits: Conduits::new(key),
            resolving: Vec::new(),
            fragments: Fragments::new(),
            fragments6: Fragments6::default(),
            time_waits: TimeWaits::new(key),
            queue: WaitQueue::new(),
            timers: Timers::default(),
            dirty: VecDeque::new(),
            blocked: Vec::new(),
            stats: Statistics::default(),
            key,
            random,
            initial: InitialNumbers::new(),
            receive_buffer: BufferSizes { min: 4096, default: BUFFER, max: 6 * 1024 * 1024 },
            send_buffer: BufferSizes { min: 4096, default: BUFFER, max: 4 * 1024 * 1024 },
            port_range: (32_768, 60_999),
            now,
            reports_until: None,
            pool: Pool::limited(SPARE, argument.memory),
            argument,
            neighbors: Neighbors::new(key),
            known: Known::new(key),
            flooded: None,
            sack: true,
            work: 0,
        }
    }

    /// Notes the time; it never goes back.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Adds a socket without an address.
    pub(crate) fn add_socket(
        &mut self,
        spec: SocketSpec,
        options: Options,
        owner: Owner,
        body: Body,
    ) -> Handle {
        self.socks.insert(|handle| Sock {
            handle,
            owner,
            spec,
            options,
            info: EventInfo::default(),
            error: None,
            bound: Bound::nowhere(spec.domain),
            body,
            dirty: false,
            armed: None,
        })
    }

    /// The way to an address.
    ///
    /// # Errors
    /// [`Error::NetworkUnreachable`].
    pub(crate) fn path(&self, dst: IpAddr) -> Result<Path> {
        if self.net.is_local(dst) {
            let src = match dst {
                IpAddr::V4(a) if a.is_loopback() => Ipv4Addr::LOCALHOST.into(),
                _ => dst,
            };
            return Ok(Path { side: Side::Loopback, src, hop: dst });
        }
        let link = self.net.link.as_ref().ok_or(Error::NetworkUnreachable)?;
        let source = |near: IpAddr| {
            let family = || link.addresses.iter().filter(|c| c.addr().is_ipv4() == dst.is_ipv4());
            let local = |c: &&Cidr| is_link_local(c.addr()) == is_link_local(dst);
            family()
                .find(|c| c.contains(near) && c.prefix() > 0)
                .or_else(|| family().find(local))
                .or_else(|| family().next())
                .map(|c| c.addr())
                .ok_or(Error::NetworkUnreachable)
        };
        if dst.is_multicast() || self.net.is_broadcast(dst) || is_link_local(dst) {
            return Ok(Path { side: Side::Link, src: source(dst)?, hop: dst });
        }
        if link.addresses.iter().any(|c| c.contains(dst)) {
            return Ok(Path { side: Side::Link, src: source(dst)?, hop: dst });
        }
        let gateway =
            best_route(&self.routes, dst).and_then(|r| r.gateway).ok_or(Error::NetworkUnreachable)?;
        let near = if is_link_local(gateway) { dst } else { gateway };
        Ok(Path { side: Side::Link, src: source(near)?, hop: gateway })
    }

    /// The way of a socket's packets to an address.
    ///
    /// # Errors
    /// [`Error::NetworkUnreachable`], also if the socket wants no gateway and one is needed.
    pub(crate) fn path_of(&self, sock: &Sock, dst: IpAddr) -> Result<Path> {
        let path = self.path(dst)?;
        if sock.options.dont_route && path.hop != dst { Err(Error::NetworkUnreachable) } else { Ok(path) }
    }

    /// Whether a socket may bind to an address.
    pub(crate) fn may_bind(&self, ip: IpAddr, datagram: bool) -> bool {
        ip.is_unspecified()
            || self.net.is_local(ip)
            || datagram && (ip.is_multicast() || self.net.is_broadcast(ip))
    }

    /// The port table entry of a socket.
    pub(crate) fn bind_of(sock: &Sock, ip: IpAddr, role: Role) -> Bind {
        Bind {
            handle: sock.handle,
            addr: (!ip.is_unspecified()).then_some(ip),
            domain: sock.spec.domain,
            v6_only: sock.options.v6_only,
            reuse_address: sock.options.reuse_address,
            reuse_port: sock.options.reuse_port,
            role,
        }
    }

    /// Binds a socket that has no port yet, to any free port if `port` is 0.
    ///
    /// # Errors
    /// [`Error::AddressInUse`]
    pub(crate) fn hold_port(&mut self, handle: Handle, ip: IpAddr, port: u16, role: Role) -> Result<()> {
        let sock = self.socks.get_mut(handle).ok_or(Error::BadHandle)?;
        let datagram = matches!(sock.body, Body::Datagrams(_));
        let bind = Self::bind_of(sock, ip, role);
        let ports = if datagram { &mut self.udp_ports } else { &mut self.tcp_ports };
        let port = match port {
            0 => {
                // A port chosen for the program is one that it shares with nobody.
                let alone = Bind { reuse_address: false, reuse_port: false, ..bind };
                candidates(self.port_range, self.random.next())
                    .find(|&p| ports.is_free(p, &alone))
                    .ok_or(Error::AddressInUse)?
            }
            port if ports.is_free(port, &bind) => port,
            _ => return Err(Error::AddressInUse),
        };
        ports.add(port, bind);
        sock.bound = Bound { ip, port, hold: Hold::Entry };
        Ok(())
    }

    /// Gives a socket's port back.
    pub(crate) fn release_port(&mut self, sock: &mut Sock) {
        let ports = match sock.body {
            Body::Datagrams(_) => &mut self.udp_ports,
            _ => &mut self.tcp_ports,
        };
        match sock.bound.hold {
            Hold::Nothing => {}
            Hold::Entry => ports.remove(sock.bound.port, sock.handle),
            Hold::Connection(sharing) => ports.remove_connection(sock.bound.addr(), sharing),
        }
        sock.bound.hold = Hold::Nothing;
    }

    /// A free local port for a connection to `remote` (RFC 6056: from a random start).
    ///
    /// # Errors
    /// [`Error::AddressNotAvailable`]
    pub(crate) fn connect_port(&mut self, src: IpAddr, remote: SocketAddr) -> Result<u16> {
        let start = self.random.next();
        candidates(self.port_range, start)
            .find(|&port| {
                let local = SocketAddr::new(src, port);
                let tuple = Tuple::new(local, remote);
                self.tcp_ports.is_unbound(port)
                    && local != remote
                    && !self.connections.contains_key(&tuple)
                    && self.time_waits.get(&tuple).is_none_or(|w| w.may_reuse(self.now))
            })
            .ok_or(Error::AddressNotAvailable)
    }

    /// How a new connection of a socket with these options begins.
    pub(crate) fn tcp_config(&mut self, options: &Options, side: Side, tuple: Tuple, v4: bool) -> Config {
        let offset = self.initial.timestamp_offset(&tuple);
        let sizes = (self.receive_buffer, self.send_buffer);
        let sack = self.sack;
        let argument = self.argument;
        crate::tcp::config(options, sizes, (self.net.at(side), side, v4), (sack, &argument), offset)
    }

    /// Queues a socket that may have something to send.
    pub(crate) fn mark_dirty(&mut self, handle: Handle) {
        if let Some(sock) = self.socks.get_mut(handle)
            && !sock.dirty
        {
            sock.dirty = true;
            self.dirty.push_back(handle);
        }
    }

    /// Sets a socket's readiness anew; `news` says that a waiter must hear of it even if nothing changed.
    pub(crate) fn update(&mut self, handle: Handle, news: bool) {
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let ready = sock.readiness();
        if news {
            self.queue.notify(handle, &mut sock.info, ready);
        } else {
            self.queue.set_ready(handle, &mut sock.info, ready);
        }
    }

    /// Sets a pending error and tells the waiters.
    pub(crate) fn fail(&mut self, handle: Handle, error: Error) {
        if let Some(sock) = self.socks.get_mut(handle) {
            sock.error = Some(error);
            self.update(handle, true);
        }
    }
}

/// The ports of a range, once each, from a random one on.
pub(crate) fn candidates(range: (u16, u16), random: u64) -> impl Iterator<Item = u16> {
    let (first, count) = (u32::from(range.0), u32::from(range.1 - range.0) + 1);
    let start = (random % u64::from(count)) as u32;
    (0..count).map(move |i| (first + (start + i) % count) as u16)
}

/// Whether an address is `fe80::/10` (RFC 4291 section 2.5.6).
pub(crate) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V6(a) => a.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    }
}

/// The loopback address of a family.
pub(crate) const fn loopback(v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) }
}

/// The destination that a program means by `addr`: "any" is the loopback (ip(7)).
pub(crate) fn destination(addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        return SocketAddr::new(loopback(addr.is_ipv4()), addr.port());
    }
    addr
}

/// Whether a socket of `domain` may send to `dst`.
///
/// # Errors
/// [`Error::NetworkUnreachable`] from an IPv6-only socket to a mapped address.
pub(crate) fn check_family(domain: Domain, options: &Options, dst: SocketAddr) -> Result<()> {
    if domain == Domain::V6 && options.v6_only && dst.is_ipv4() {
        Err(Error::NetworkUnreachable)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_each_port_once() {
        for random in [0, 1, 7, u64::MAX] {
            let mut all: Vec<u16> = candidates((65_530, 65_535), random).collect();
            all.sort_unstable();
            assert_eq!(all, [65_530, 65_531, 65_532, 65_533, 65_534, 65_535]);
        }
    }
}

//! The settings of the whole stack.

use std::net::IpAddr;

use netgraft_plugin::inet::{BufferSizes, Interface, Recovery, Route, Stack, Statistics, check_buffer_sizes};
use netgraft_plugin::{Cidr, Domain, Error, Result};
use smoltcp::iface::Route as SmolRoute;
use smoltcp::wire::IpCidr;

use crate::addr::address;
use crate::core::{Core, is_link_local};
use crate::iface::{ADDRESSES, LOOPBACK_MTU, NetIf, Side};
use crate::sock::Body;
use crate::stack::{SmoltcpStack, link_local};

/// Routes that fit (a feature of smoltcp).
const ROUTES: usize = 32;

impl Core {
    fn netif(&mut self, index: u32) -> Result<&mut NetIf> {
        match (index, &mut self.net.link) {
            (1, _) => Ok(&mut self.net.lo),
            (2, Some(link)) => Ok(link),
            _ => Err(Error::NotFound),
        }
    }

    /// Adds an address.
    ///
    /// # Errors
    /// As `Stack::add_address`.
    pub(crate) fn add_address(&mut self, index: u32, cidr: Cidr) -> Result<()> {
        let ip = cidr.addr();
        let netif = self.netif(index)?;
        if netif.has(ip) {
            return Err(Error::Exists);
        }
        if ip.is_multicast() || ip.is_unspecified() || cidr.broadcast().is_some_and(|b| IpAddr::V4(b) == ip) {
            return Err(Error::Invalid);
        }
        if netif.addresses.len() >= ADDRESSES {
            return Err(Error::NoBuffers);
        }
        netif.addresses.push(cidr);
        netif.sync_addresses();
        Ok(())
    }

    fn remove_address(&mut self, index: u32, cidr: Cidr) -> Result<()> {
        let netif = self.netif(index)?;
        let at = netif.addresses.iter().position(|c| *c == cidr).ok_or(Error::NotFound)?;
        netif.addresses.remove(at);
        netif.sync_addresses();
        Ok(())
    }

    /// Gives an address of the link up, which is another station's. In place of a link-local one comes another.
    pub(crate) fn give_up(&mut self, address: IpAddr) {
        let random = self.random.next();
        let Some(link) = &mut self.net.link else { return };
        link.addresses.retain(|cidr| cidr.addr() != address);
        if is_link_local(address) {
            link.addresses.extend(link_local(random));
        }
        link.sync_addresses();
    }

    /// The routes, the most specific first.
    fn routes(&self) -> Vec<Route> {
        let on_link = |netif: &NetIf, side: Side| {
            let network = |c: &Cidr| Cidr::new(c.network(), c.prefix());
            let route = move |destination| Route { destination, gateway: None, interface: side.index() };
            netif.addresses.iter().filter_map(network).map(route).collect::<Vec<_>>()
        };
        let mut routes = on_link(&self.net.lo, Side::Loopback);
        if let Some(link) = &self.net.link {
            routes.extend(on_link(link, Side::Link));
        }
        routes.extend(&self.routes);
        routes.sort_by_key(|r| std::cmp::Reverse(r.destination.prefix()));
        routes.dedup();
        routes
    }

    /// Adds a route.
    ///
    /// # Errors
    /// As `Stack::add_route`.
    pub(crate) fn add_route(&mut self, route: Route) -> Result<()> {
        if self.routes().contains(&route) {
            return Err(Error::Exists);
        }
        if route.interface != Side::Link.index() || self.net.link.is_none() {
            return Err(if route.interface == Side::Loopback.index() {
                Error::NotSupported
            } else {
                Error::NotFound
            });
        }
        // smoltcp knows the networks of its addresses, and gateways.
        let gateway = route.gateway.ok_or(Error::NotSupported)?;
        if gateway.is_ipv4() != route.destination.addr().is_ipv4() {
            return Err(Error::Invalid);
        }
        let near = crate::core::is_link_local(gateway)
            || self.net.link.as_ref().is_some_and(|l| l.addresses.iter().any(|c| c.contains(gateway)));
        if !near || self.net.is_local(gateway) {
            return Err(Error::NetworkUnreachable);
        }
        if self.routes.len() >= ROUTES {
            return Err(Error::NoBuffers);
        }
        self.routes.push(route);
        self.sync_routes();
        Ok(())
    }

    fn remove_route(&mut self, route: Route) -> Result<()> {
        let at = self.routes.iter().position(|r| *r == route).ok_or(Error::NotFound)?;
        self.routes.remove(at);
        self.sync_routes();
        Ok(())
    }

    fn sync_routes(&mut self) {
        let routes: Vec<SmolRoute> = self
            .routes
            .iter()
            .filter_map(|r| {
                let cidr = IpCidr::new(address(r.destination.network()), r.destination.prefix());
                let via_router = address(r.gateway?);
                Some(SmolRoute { cidr, via_router, preferred_until: None, expires_at: None })
            })
            .collect();
        if let Some(link) = &mut self.net.link {
            link.inner().routes_mut().update(|list| {
                list.clear();
                for route in routes {
                    // `add_route` keeps to `ROUTES`.
                    let _ = list.push(route);
                }
            });
        }
    }

    /// Resets every connection and forgets every socket.
    pub(crate) fn destroy(&mut self) {
        for handle in self.socks.handles() {
            if matches!(self.socks.get(handle).map(|s| &s.body), Some(Body::Conn(_))) {
                self.reset(handle);
            }
        }
        self.flush_link();
        for handle in self.socks.handles() {
            self.discard(handle);
        }
        self.time_waits.clear();
        self.timers.clear();
        self.conduits.clear();
        self.link = None;
    }

    fn statistics(&self) -> Statistics {
        let mut stats = self.stats;
        let link = self.net.link.as_ref();
        let sum = |of: fn(&NetIf) -> u64| of(&self.net.lo) + link.map_or(0, of);
        stats.packets_sent = sum(|n| n.tx.packets);
        stats.bytes_sent = sum(|n| n.tx.bytes);
        stats.tcp_resets_sent = sum(|n| n.tx.resets);
        stats.sockets = self.socks.held;
        self.socks.connections().for_each(|conn| crate::tcp::count(conn, &mut stats.tcp));
        stats.tcp.memory_pressures = self.pool.pressures();
        stats
    }
}

impl Stack for SmoltcpStack {
    fn is_own(&self, ip: IpAddr) -> bool {
        self.core().is_ok_and(|core| core.net.is_local(ip))
    }

    fn interfaces(&self) -> Vec<Interface> {
        let Ok(core) = self.core() else { return Vec::new() };
        let mut interfaces = vec![Interface {
            index: Side::Loopback.index(),
            name: "lo".to_owned(),
            mtu: LOOPBACK_MTU,
            up: true,
            loopback: true,
            hardware_address: None,
            addresses: core.net.lo.addresses.clone(),
        }];
        if let Some(link) = &core.net.link {
            interfaces.push(Interface {
                index: Side::Link.index(),
                name: crate::iface::LINK_NAME.to_owned(),
                mtu: link.mtu as u32,
                up: !core.link_down,
                loopback: false,
                hardware_address: link.mac,
                addresses: link.addresses.clone(),
            });
        }
        interfaces
    }

    fn add_address(&mut self, interface: u32, address: Cidr) -> Result<()> {
        self.core_mut()?.add_address(interface, address)
    }

    fn remove_address(&mut self, interface: u32, address: Cidr) -> Result<()> {
        self.core_mut()?.remove_address(interface, address)
    }

    fn routes(&self) -> Vec<Route> {
        self.core().map(Core::routes).unwrap_or_default()
    }

    fn add_route(&mut self, route: Route) -> Result<()> {
        self.core_mut()?.add_route(route)
    }

    fn remove_route(&mut self, route: Route) -> Result<()> {
        self.core_mut()?.remove_route(route)
    }

    fn tcp_receive_buffer(&self) -> BufferSizes {
        self.core().map_or(BufferSizes { min: 0, default: 0, max: 0 }, |c| c.receive_buffer)
    }

    fn set_tcp_receive_buffer(&mut self, sizes: BufferSizes) -> Result<()> {
        check_buffer_sizes(sizes)?;
        self.core_mut()?.receive_buffer = sizes;
        Ok(())
    }

    fn tcp_send_buffer(&self) -> BufferSizes {
        self.core().map_or(BufferSizes { min: 0, default: 0, max: 0 }, |c| c.send_buffer)
    }

    fn set_tcp_send_buffer(&mut self, sizes: BufferSizes) -> Result<()> {
        check_buffer_sizes(sizes)?;
        self.core_mut()?.send_buffer = sizes;
        Ok(())
    }

    fn tcp_sack(&self) -> bool {
        self.core().is_ok_and(|c| c.sack)
    }

    fn set_tcp_sack(&mut self, on: bool) -> Result<()> {
        self.core_mut()?.sack = on;
        Ok(())
    }

    fn tcp_recovery(&self) -> Recovery {
        Recovery::Rack
    }

    fn set_tcp_recovery(&mut self, recovery: Recovery) -> Result<()> {
        if recovery == Recovery::Rack { Ok(()) } else { Err(Error::NotSupported) }
    }

    fn statistics(&self) -> Statistics {
        self.core().map(Core::statistics).unwrap_or_default()
    }

    fn port_range(&self) -> (u16, u16) {
        self.core().map_or((0, 0), |c| c.port_range)
    }

    fn set_port_range(&mut self, first: u16, last: u16) -> Result<()> {
        if first == 0 || first > last {
            return Err(Error::Invalid);
        }
        self.core_mut()?.port_range = (first, last);
        Ok(())
    }

    fn forwarding(&self, _domain: Domain) -> bool {
        false
    }

    fn set_forwarding(&mut self, _domain: Domain, on: bool) -> Result<()> {
        if on { Err(Error::NotSupported) } else { Ok(()) }
    }

    fn pause(&mut self) -> Result<()> {
        self.set_paused(true)
    }

    fn resume(&mut self) -> Result<()> {
        self.set_paused(false)
    }
}

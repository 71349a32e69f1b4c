//! Interfaces, addresses, routes, and the settings of the whole stack.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netgraft_plugin::inet::{BufferSizes, Route};
use netgraft_plugin::{Cidr, Domain, Error, Events};

use super::super::bench::{Bench, Side, unexpected};
use super::super::check::{Check, Checks, counted, equal, holds};
use super::super::no_family;
use super::group;

group! { "settings":
    "the loopback is the first interface", All, loopback;
    "interfaces have names and numbers of their own", All, interfaces;
    "a link shows what was configured", Wire, link;
    "routes lead out of interfaces that exist", All, routes;
    "an address is added, used and removed", All, address;
    "addresses of interfaces that do not exist are refused", Once, no_interface;
    "a peer reaches an address that was added", Wire, address_reached;
    "a route is added and removed", Wire, route;
    "a default gateway is used", Wire, gateway;
    "buffer sizes are in order and can be changed", Once, buffers;
    "buffer sizes out of order are refused", Once, bad_buffers;
    "the port range can be changed", Families, port_range;
    "a port range that is none is refused", Once, bad_range;
    "a port range runs out", Families, ports_run_out;
    "forwarding, recovery and sack are reported as set", Once, switches;
    "connections are counted", All, connections_counted;
    "datagrams are counted", All, datagrams_counted;
    "sockets are counted and go away", All, sockets_counted;
    "a paused stack stands still and goes on", All, paused;
    "a poll with nothing to do is harmless", All, idle_polls;
    "time that stands still is harmless", Families, same_time;
}

fn loopback(b: &mut Bench) -> Check {
    for side in [Side::Client, Side::Server] {
        let interfaces = b.interfaces(side)?;
        let Some(lo) = interfaces.first() else {
            return Err(unexpected("interfaces", "a loopback", &interfaces));
        };
        holds("interfaces", "the loopback, up, with number 1", lo.loopback && lo.up && lo.index == 1, lo)?;
        holds("interfaces", "a loopback MTU of 1280 at least", lo.mtu >= 1280, lo.mtu)?;
        let local: IpAddr = match b.domain {
            Domain::V4 => Ipv4Addr::LOCALHOST.into(),
            Domain::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        let addressed = lo.addresses.iter().any(|a| a.addr().is_ipv6() == local.is_ipv6());
        if !addressed && !b.has_family(side) {
            return Err(no_family(b.domain));
        }
        holds("interfaces", "its address", lo.addresses.iter().any(|a| a.addr() == local), &lo.addresses)?;
    }
    Ok(())
}

fn interfaces(b: &mut Bench) -> Check {
    let interfaces = b.interfaces(Side::Client)?;
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for iface in &interfaces {
        holds("interfaces", "a name of 1 to 15 bytes", (1..16).contains(&iface.name.len()), &iface.name)?;
        let own = names.insert(&iface.name) && numbers.insert(iface.index) && iface.index > 0;
        holds("interfaces", "a name and a number of its own", own, iface)?;
    }
    Ok(())
}

fn link(b: &mut Bench) -> Check {
    for (side, last) in [(Side::Client, 1), (Side::Server, 2)] {
        let addr = b.addr(side, 0).ip();
        let interfaces = b.stack(side).interfaces();
        let Some(link) = interfaces.iter().find(|i| !i.loopback) else {
            return Err(unexpected("interfaces", "a link", &interfaces));
        };
        equal("interfaces: mtu", link.mtu, 1500)?;
        equal("interfaces: hardware_address", link.hardware_address, Some([2, 0, 0, 0, 0, last]))?;
        holds("interfaces: up", "true", link.up, link)?;
        equal("is_own", b.stack(side).is_own(addr), true)?;
        let other = b.addr(if last == 1 { Side::Server } else { Side::Client }, 0).ip();
        equal("is_own of the peer's", b.stack(side).is_own(other), false)?;
        let configured = Cidr::new(addr, if addr.is_ipv4() { 24 } else { 64 });
        let has = link.addresses.iter().any(|a| Some(*a) == configured);
        holds("interfaces: addresses", &format!("{configured:?}"), has, &link.addresses)?;
    }
    Ok(())
}

fn routes(b: &mut Bench) -> Check {
    let routes = b.stack(Side::Client).routes();
    if routes.is_empty() {
        return Ok(());
    }
    let interfaces = b.interfaces(Side::Client)?;
    for route in &routes {
        let known = interfaces.iter().any(|i| i.index == route.interface);
        holds("routes", "an interface that exists", known, route)?;
        let fits = route.gateway.is_none_or(|g| g.is_ipv4() == route.destination.addr().is_ipv4());
        holds("routes", "a gateway of the same family", fits, route)?;
    }
    Ok(())
}

fn cidr(addr: IpAddr, prefix: u8) -> Check<Cidr> {
    Cidr::new(addr, prefix).ok_or_else(|| unexpected("Cidr::new", "a network", (addr, prefix)))
}

/// An address to add on a path: one more host of the network, or of the loopback's.
fn extra(b: &Bench, side: Side) -> Check<Cidr> {
    let (addr, prefix): (IpAddr, u8) = match b.addr(side, 0).ip() {
        IpAddr::V4(ip) if ip.is_loopback() => (Ipv4Addr::new(192, 0, 2, 200).into(), 32),
        IpAddr::V4(_) => (Ipv4Addr::new(192, 0, 2, 200).into(), 24),
        IpAddr::V6(_) => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x200).into(), 64),
    };
    cidr(addr, prefix)
}

/// Adds the address to the side's last interface; answers which that is.
fn add(b: &mut Bench, side: Side, address: Cidr) -> Check<u32> {
    let index = b.stack(side).interfaces().last().map_or(1, |i| i.index);
    b.stack(side).add_address(index, address).supported("add_address")?;
    Ok(index)
}

fn address(b: &mut Bench) -> Check {
    let address = extra(b, Side::Client)?;
    let to = SocketAddr::new(address.addr(), 0);
    let before = b.tcp(Side::Client)?;
    b.bind(before, to).must_fail("bind before", &[Error::AddressNotAvailable])?;
    let index = add(b, Side::Client, address)?;
    b.stack(Side::Client).add_address(index, address).must_fail("add_address again", &[Error::Exists])?;
    let interfaces = b.stack(Side::Client).interfaces();
    let shown = interfaces.iter().any(|i| i.index == index && i.addresses.contains(&address));
    // One that tells of no interfaces has nothing to show.
    holds("interfaces", "the address", shown || interfaces.is_empty(), &interfaces)?;
    b.bind(before, to).must("bind")?;
    b.close(before).must("close")?;
    b.stack(Side::Client).remove_address(index, address).must("remove_address")?;
    b.stack(Side::Client).remove_address(index, address).must_fail("remove_address", &[Error::NotFound])?;
    let after = b.tcp(Side::Client)?;
    b.bind(after, to).must_fail("bind after", &[Error::AddressNotAvailable])
}

fn no_interface(b: &mut Bench) -> Check {
    let address = extra(b, Side::Client)?;
    let errors = &[Error::NotFound, Error::NotSupported];
    b.stack(Side::Client).add_address(4711, address).must_fail("add_address", errors)?;
    b.stack(Side::Client).remove_address(4711, address).must_fail("remove_address", errors)
}

fn address_reached(b: &mut Bench) -> Check {
    let address = extra(b, Side::Server)?;
    add(b, Side::Server, address)?;
    let listener = b.tcp(Side::Server)?;
    b.bind(listener, SocketAddr::new(address.addr(), 0)).must("bind")?;
    b.listen(listener, 1).must("listen")?;
    let addr = b.local_addr(listener).must("local_addr")?;
    b.connected_to(addr)?;
    b.accepted(listener).map(|_| ())
}

/// A network that no side has, behind the other side.
fn behind(b: &mut Bench) -> Check<(Route, SocketAddr)> {
    let gateway = b.addr(Side::Server, 0).ip();
    let (network, host): (IpAddr, IpAddr) = match b.domain {
        Domain::V4 => (Ipv4Addr::new(198, 51, 100, 0).into(), Ipv4Addr::new(198, 51, 100, 9).into()),
        Domain::V6 => (
            Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9).into(),
        ),
    };
    let prefix = if network.is_ipv4() { 24 } else { 64 };
    let destination = cidr(network, prefix)?;
    let interfaces = b.stack(Side::Client).interfaces();
    let interface = interfaces.iter().find(|i| !i.loopback).map_or(0, |i| i.index);
    Ok((Route { destination, gateway: Some(gateway), interface }, SocketAddr::new(host, 9)))
}

fn route(b: &mut Bench) -> Check {
    let (route, _) = behind(b)?;
    let stack = b.stack(Side::Client);
    stack.add_route(route).supported("add_route")?;
    stack.add_route(route).must_fail("add_route again", &[Error::Exists])?;
    holds("routes", "the new route", stack.routes().contains(&route), stack.routes())?;
    stack.remove_route(route).must("remove_route")?;
    stack.remove_route(route).must_fail("remove_route again", &[Error::NotFound])?;
    holds("routes", "no such route", !stack.routes().contains(&route), stack.routes())?;
    let off = Route { gateway: Some(route.destination.addr()), ..route };
    stack.add_route(off).must_fail("add_route over a gateway on no link", &[Error::NetworkUnreachable])
}

fn gateway(b: &mut Bench) -> Check {
    let (_, host) = behind(b)?;
    let address = cidr(host.ip(), if host.is_ipv4() { 32 } else { 128 })?;
    add(b, Side::Server, address)?;
    let listener = b.tcp(Side::Server)?;
    b.bind(listener, host).must("bind")?;
    b.listen(listener, 1).must("listen")?;
    b.connected_to(host)?;
    b.accepted(listener).map(|_| ())
}

fn buffers(b: &mut Bench) -> Check {
    let stack = b.stack(Side::Client);
    for sizes in [stack.tcp_receive_buffer(), stack.tcp_send_buffer()] {
        let ordered = 0 < sizes.min && sizes.min <= sizes.default && sizes.default <= sizes.max;
        holds("tcp buffers", "0 < min ≤ default ≤ max", ordered, sizes)?;
    }
    let sizes = BufferSizes { min: 4096, default: 20_000, max: 100_000 };
    stack.set_tcp_receive_buffer(sizes).supported("set_tcp_receive_buffer")?;
    equal("tcp_receive_buffer", stack.tcp_receive_buffer(), sizes)?;
    stack.set_tcp_send_buffer(sizes).must("set_tcp_send_buffer")?;
    equal("tcp_send_buffer", stack.tcp_send_buffer(), sizes)?;
    let pair = b.connection()?;
    b.transfer(pair.client, pair.server, &[4; 300_000], "transfer through small buffers")
}

fn bad_buffers(b: &mut Bench) -> Check {
    let stack = b.stack(Side::Client);
    let before = (stack.tcp_receive_buffer(), stack.tcp_send_buffer());
    for (min, default, max) in [(0, 1, 2), (5000, 4000, 6000), (4000, 7000, 6000)] {
        let sizes = BufferSizes { min, default, max };
        stack.set_tcp_receive_buffer(sizes).must_fail("set_tcp_receive_buffer", &[Error::Invalid])?;
        stack.set_tcp_send_buffer(sizes).must_fail("set_tcp_send_buffer", &[Error::Invalid])?;
    }
    equal("tcp buffers", (stack.tcp_receive_buffer(), stack.tcp_send_buffer()), before)
}

fn port_range(b: &mut Bench) -> Check {
    b.stack(Side::Client).set_port_range(40_000, 40_099).supported("set_port_range")?;
    equal("port_range", b.stack(Side::Client).port_range(), (40_000, 40_099))?;
    for _ in 0..20 {
        let sock = b.udp(Side::Client)?;
        let addr = b.addr(Side::Client, 0);
        b.bind(sock, addr).must("bind")?;
        let port = b.local_addr(sock).must("local_addr")?.port();
        holds("local_addr", "a port of the range", (40_000..=40_099).contains(&port), port)?;
    }
    Ok(())
}

fn bad_range(b: &mut Bench) -> Check {
    let stack = b.stack(Side::Client);
    let before = stack.port_range();
    for (first, last) in [(0, 5), (10, 9)] {
        stack.set_port_range(first, last).must_fail("set_port_range", &[Error::Invalid])?;
    }
    equal("port_range", stack.port_range(), before)
}

fn ports_run_out(b: &mut Bench) -> Check {
    let (_, server) = b.listener(16)?;
    // The other side may be the same stack: its port is not among them.
    let first = if (40_000..=40_007).contains(&server.port()) { 41_000 } else { 40_000 };
    b.stack(Side::Client).set_port_range(first, first + 7).supported("set_port_range")?;
    let addr = b.addr(Side::Client, 0);
    let mut socks = Vec::new();
    for _ in 0..8 {
        let sock = b.tcp(Side::Client)?;
        b.bind(sock, addr).must("bind")?;
        socks.push(sock);
    }
    let late = b.tcp(Side::Client)?;
    b.bind(late, addr).must_fail("bind without a free port", &[Error::AddressInUse])?;
    b.connect(late, server).must_fail("connect without a free port", &[Error::AddressNotAvailable])?;
    if let Some(sock) = socks.pop() {
        b.close(sock).must("close")?;
    }
    b.start_connect(late, server)?;
    b.ready(late, Events::OUT)
}

fn switches(b: &mut Bench) -> Check {
    let stack = b.stack(Side::Client);
    let sack = stack.tcp_sack();
    for on in [!sack, sack] {
        match stack.set_tcp_sack(on) {
            Ok(()) => equal("tcp_sack", stack.tcp_sack(), on)?,
            other => {
                other.must_fail("set_tcp_sack", &[Error::NotSupported])?;
                equal("tcp_sack", stack.tcp_sack(), sack)?;
            }
        }
    }
    let recovery = stack.tcp_recovery();
    match stack.set_tcp_recovery(recovery) {
        Ok(()) => {}
        other => other.must_fail("set_tcp_recovery", &[Error::NotSupported])?,
    }
    equal("tcp_recovery", stack.tcp_recovery(), recovery)?;
    for domain in [Domain::V4, Domain::V6] {
        let forwarding = stack.forwarding(domain);
        for on in [!forwarding, forwarding] {
            match stack.set_forwarding(domain, on) {
                Ok(()) => equal("forwarding", stack.forwarding(domain), on)?,
                other => {
                    other.must_fail("set_forwarding", &[Error::NotSupported])?;
                    equal("forwarding", stack.forwarding(domain), forwarding)?;
                }
            }
        }
    }
    Ok(())
}

fn connections_counted(b: &mut Bench) -> Check {
    let (client, server) = (b.stack(Side::Client).statistics(), b.stack(Side::Server).statistics());
    for _ in 0..3 {
        b.connection()?;
    }
    let opened = b.stack(Side::Client).statistics().tcp_active_opens - client.tcp_active_opens;
    let accepted = b.stack(Side::Server).statistics().tcp_passive_opens - server.tcp_passive_opens;
    counted("active and passive opens", (opened, accepted), (3, 3))
}

fn datagrams_counted(b: &mut Bench) -> Check {
    let (server, to) = b.udp_bound(Side::Server)?;
    let client = b.udp(Side::Client)?;
    let before = (b.stack(Side::Client).statistics(), b.stack(Side::Server).statistics());
    for _ in 0..5 {
        b.send_to(client, b"x", to).must("send_to")?;
        b.datagram(server)?;
    }
    let sent = b.stack(Side::Client).statistics().udp_sent - before.0.udp_sent;
    let received = b.stack(Side::Server).statistics().udp_received - before.1.udp_received;
    counted("datagrams sent and received", (sent, received), (5, 5))
}

fn sockets_counted(b: &mut Bench) -> Check {
    let before = b.stack(Side::Client).statistics().sockets;
    let socks = [b.tcp(Side::Client)?, b.udp(Side::Client)?, b.tcp(Side::Client)?];
    counted("sockets", b.stack(Side::Client).statistics().sockets, before + 3)?;
    for sock in socks {
        b.close(sock).must("close")?;
    }
    b.quiesce();
    equal("statistics: sockets", b.stack(Side::Client).statistics().sockets, before)
}

fn paused(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.stack(Side::Server).pause().supported("pause")?;
    // What is taken meanwhile waits.
    match b.send(pair.client, b"waiting") {
        Ok(count) => equal("send", count, 7)?,
        Err(e) => return Err(e).must("send"),
    }
    b.run_for(Duration::from_millis(400));
    b.recv(pair.server, &mut [0; 8]).must_fail("recv while paused", &[Error::Again])?;
    b.stack(Side::Server).resume().must("resume")?;
    equal("recv", b.recv_exact(pair.server, 7)?, b"waiting".to_vec())
}

fn idle_polls(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.quiesce();
    b.events.clear();
    for _ in 0..1000 {
        b.step();
    }
    equal("drain_events", b.events.len(), 0)?;
    b.send_all(pair.client, b"still")?;
    equal("recv", b.recv_exact(pair.server, 5)?, b"still".to_vec())
}

fn same_time(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let now = b.now();
    b.send_all(pair.client, b"at once")?;
    for _ in 0..100 {
        for stack in &mut b.stacks {
            stack.poll(now);
        }
    }
    equal("recv", b.recv_exact(pair.server, 7)?, b"at once".to_vec())
}

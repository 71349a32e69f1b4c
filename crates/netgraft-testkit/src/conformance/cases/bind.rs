//! Addresses and ports are taken, refused and given back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netgraft_plugin::{Domain, Error, SocketOption};

use super::super::bench::{Bench, Side, Sock};
use super::super::check::{Check, Checks, equal, holds};
use super::group;

group! { "bind":
    "port 0 gives a free port of the range", All, ephemeral;
    "an address and a port are kept as given", All, exact;
    "a second bind is refused", Families, twice;
    "a taken port is refused", Families, taken;
    "a datagram port that is taken is refused", Families, taken_udp;
    "the unspecified address takes the port of each", Families, unspecified_conflicts;
    "tcp and udp ports are apart", Families, protocols_apart;
    "closing gives the port back", Families, given_back;
    "a foreign address is refused", Families, foreign;
    "the other family is refused", Families, other_family;
    "binding to a connected socket is refused", Families, connected;
    "reuse of an address lets bound sockets share it", Families, reuse_address;
    "a listener shares its port with no socket", Families, listener_alone;
    "reuse of a port lets listeners share it", Families, reuse_port;
    "ephemeral ports differ", Families, many_differ;
    "a v6 socket takes the v4 port too, unless it is v6 only", Once, dual_stack;
    "a v6 only socket refuses mapped addresses", Once, v6_only_mapped;
    "v6 only cannot change once bound", Once, v6_only_late;
    "a port in time-wait is refused without reuse", Families, time_wait;
}

fn ephemeral(b: &mut Bench) -> Check {
    let range = b.stack(Side::Client).port_range();
    for sock in [b.tcp(Side::Client)?, b.udp(Side::Client)?] {
        let asked = b.addr(Side::Client, 0);
        b.bind(sock, asked).must("bind")?;
        let got = b.local_addr(sock).must("local_addr")?;
        equal("local_addr", got.ip(), asked.ip())?;
        holds("local_addr", &format!("a port of {range:?}"), (range.0..=range.1).contains(&got.port()), got)?;
    }
    Ok(())
}

/// A port that is free now.
fn free_port(b: &mut Bench) -> Check<u16> {
    let probe = b.tcp(Side::Client)?;
    let any = b.any(0);
    b.bind(probe, any).must("bind")?;
    let port = b.local_addr(probe).must("local_addr")?.port();
    b.close(probe).must("close")?;
    Ok(port)
}

fn exact(b: &mut Bench) -> Check {
    let port = free_port(b)?;
    let sock = b.tcp(Side::Client)?;
    let addr = b.addr(Side::Client, port);
    b.bind(sock, addr).must("bind")?;
    equal("local_addr", b.local_addr(sock).must("local_addr")?, addr)?;
    let sock = b.udp(Side::Client)?;
    let any = b.any(port);
    b.bind(sock, any).must("bind(any)")?;
    equal("local_addr", b.local_addr(sock).must("local_addr")?, any)
}

fn twice(b: &mut Bench) -> Check {
    for sock in [b.tcp(Side::Client)?, b.udp(Side::Client)?] {
        let addr = b.addr(Side::Client, 0);
        b.bind(sock, addr).must("bind")?;
        let first = b.local_addr(sock).must("local_addr")?;
        b.bind(sock, addr).must_fail("the second bind", &[Error::Invalid])?;
        equal("local_addr", b.local_addr(sock).must("local_addr")?, first)?;
    }
    Ok(())
}

fn bound(b: &mut Bench, sock: Sock) -> Check<SocketAddr> {
    let addr = b.addr(Side::Client, 0);
    b.bind(sock, addr).must("bind")?;
    b.local_addr(sock).must("local_addr")
}

fn taken(b: &mut Bench) -> Check {
    let (first, second) = (b.tcp(Side::Client)?, b.tcp(Side::Client)?);
    let addr = bound(b, first)?;
    b.bind(second, addr).must_fail("bind", &[Error::AddressInUse])?;
    // The refused socket is as it was.
    equal("local_addr", b.local_addr(second).must("local_addr")?, b.any(0))?;
    bound(b, second).map(|_| ())
}

fn taken_udp(b: &mut Bench) -> Check {
    let (first, second) = (b.udp(Side::Client)?, b.udp(Side::Client)?);
    let addr = bound(b, first)?;
    b.bind(second, addr).must_fail("bind", &[Error::AddressInUse])
}

fn unspecified_conflicts(b: &mut Bench) -> Check {
    let (first, second) = (b.tcp(Side::Client)?, b.tcp(Side::Client)?);
    let addr = bound(b, first)?;
    let any = b.any(addr.port());
    b.bind(second, any).must_fail("bind(any)", &[Error::AddressInUse])?;
    b.close(first).must("close")?;
    b.bind(second, any).must("bind(any)")?;
    let third = b.tcp(Side::Client)?;
    b.bind(third, addr).must_fail("bind", &[Error::AddressInUse])
}

fn protocols_apart(b: &mut Bench) -> Check {
    let (tcp, udp) = (b.tcp(Side::Client)?, b.udp(Side::Client)?);
    let addr = bound(b, tcp)?;
    b.bind(udp, addr).must("bind of the other protocol")
}

fn given_back(b: &mut Bench) -> Check {
    for stream in [true, false] {
        let make = |b: &mut Bench| if stream { b.tcp(Side::Client) } else { b.udp(Side::Client) };
        let first = make(b)?;
        let addr = bound(b, first)?;
        b.close(first).must("close")?;
        let second = make(b)?;
        b.bind(second, addr).must("bind after close")?;
    }
    Ok(())
}

fn foreign(b: &mut Bench) -> Check {
    let foreign: IpAddr = match b.domain {
        Domain::V4 => Ipv4Addr::new(198, 51, 100, 77).into(),
        Domain::V6 => Ipv6Addr::new(0x2001, 0xdb8, 77, 0, 0, 0, 0, 77).into(),
    };
    for sock in [b.tcp(Side::Client)?, b.udp(Side::Client)?] {
        b.bind(sock, SocketAddr::new(foreign, 0)).must_fail("bind", &[Error::AddressNotAvailable])?;
    }
    Ok(())
}

fn other_family(b: &mut Bench) -> Check {
    // inet_bind refuses the family, inet6_bind the length of a sockaddr_in (EINVAL).
    let (other, errors): (IpAddr, &[Error]) = match b.domain {
        Domain::V4 => (Ipv6Addr::LOCALHOST.into(), &[Error::FamilyNotSupported]),
        Domain::V6 => (Ipv4Addr::LOCALHOST.into(), &[Error::Invalid, Error::FamilyNotSupported]),
    };
    for sock in [b.tcp(Side::Client)?, b.udp(Side::Client)?] {
        b.bind(sock, SocketAddr::new(other, 0)).must_fail("bind", errors)?;
    }
    Ok(())
}

fn connected(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let addr = b.addr(Side::Client, 0);
    b.bind(pair.client, addr).must_fail("bind", &[Error::Invalid])?;
    let addr = b.addr(Side::Server, 0);
    b.bind(pair.server, addr).must_fail("bind", &[Error::Invalid])
}

fn reuse_address(b: &mut Bench) -> Check {
    let socks = [b.tcp(Side::Client)?, b.tcp(Side::Client)?];
    for sock in socks {
        b.set(sock, SocketOption::ReuseAddress(true)).supported("set_option(ReuseAddress)")?;
    }
    let addr = bound(b, socks[0])?;
    b.bind(socks[1], addr).must("bind with SO_REUSEADDR on both")?;
    b.listen(socks[0], 1).must("listen")?;
    b.listen(socks[1], 1).must_fail("a second listen", &[Error::AddressInUse])
}

fn listener_alone(b: &mut Bench) -> Check {
    let listener = b.tcp(Side::Client)?;
    b.set(listener, SocketOption::ReuseAddress(true)).supported("set_option(ReuseAddress)")?;
    let addr = bound(b, listener)?;
    b.listen(listener, 1).must("listen")?;
    let second = b.tcp(Side::Client)?;
    b.set(second, SocketOption::ReuseAddress(true)).must("set_option")?;
    b.bind(second, addr).must_fail("bind", &[Error::AddressInUse])
}

fn reuse_port(b: &mut Bench) -> Check {
    let socks = [b.tcp(Side::Server)?, b.tcp(Side::Server)?];
    for sock in socks {
        b.set(sock, SocketOption::ReusePort(true)).supported("set_option(ReusePort)")?;
    }
    let any = b.addr(Side::Server, 0);
    b.bind(socks[0], any).must("bind")?;
    let addr = b.local_addr(socks[0]).must("local_addr")?;
    b.bind(socks[1], addr).must("bind with SO_REUSEPORT on both")?;
    for sock in socks {
        b.listen(sock, 8).must("listen")?;
    }
    let alone = b.tcp(Side::Server)?;
    b.bind(alone, addr).must_fail("bind without it", &[Error::AddressInUse])?;
    b.connected_to(addr)?;
    // One of the two has the connection.
    b.until("accept", "a connection on either listener", |b| {
        Ok(socks.iter().any(|sock| b.accept(*sock).is_ok()).then_some(()))
    })
}

fn many_differ(b: &mut Bench) -> Check {
    let mut ports = std::collections::HashSet::new();
    for _ in 0..100 {
        let sock = b.tcp(Side::Client)?;
        let addr = bound(b, sock)?;
        holds("bind", "a port of its own", ports.insert(addr.port()), addr)?;
    }
    Ok(())
}

fn v6_tcp(b: &mut Bench) -> Check<Sock> {
    b.domain = Domain::V6;
    b.tcp(Side::Client)
}

fn dual_stack(b: &mut Bench) -> Check {
    let v4 = b.tcp(Side::Client)?;
    let port = bound(b, v4)?.port();
    let v6 = v6_tcp(b)?;
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    b.bind(v6, any).must_fail("bind(::) beside a v4 socket", &[Error::AddressInUse])?;
    b.set(v6, SocketOption::V6Only(true)).supported("set_option(V6Only)")?;
    b.bind(v6, any).must("bind(::) of a v6 only socket")
}

fn v6_only_mapped(b: &mut Bench) -> Check {
    let sock = v6_tcp(b)?;
    let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), 0);
    b.set(sock, SocketOption::V6Only(true)).supported("set_option(V6Only)")?;
    b.bind(sock, mapped).must_fail("bind(mapped)", &[Error::Invalid])?;
    let dual = v6_tcp(b)?;
    b.set(dual, SocketOption::V6Only(false)).must("set_option(V6Only)")?;
    b.bind(dual, mapped).must("bind(mapped)")?;
    equal("local_addr", b.local_addr(dual).must("local_addr")?.ip(), mapped.ip())
}

fn v6_only_late(b: &mut Bench) -> Check {
    let sock = v6_tcp(b)?;
    bound(b, sock)?;
    b.set(sock, SocketOption::V6Only(true)).must_fail("set_option(V6Only)", &[Error::Invalid])
}

fn time_wait(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.close(pair.listener).must("close")?;
    b.close(pair.server).must("close")?;
    b.recv_end(pair.client)?;
    b.close(pair.client).must("close")?;
    b.quiesce();
    let sock = b.tcp(Side::Server)?;
    b.bind(sock, pair.addr).must_fail("bind", &[Error::AddressInUse])?;
    b.set(sock, SocketOption::ReuseAddress(true)).supported("set_option(ReuseAddress)")?;
    // The old sockets had not said that they would share.
    b.bind(sock, pair.addr).must_fail("bind with SO_REUSEADDR on one", &[Error::AddressInUse])
}

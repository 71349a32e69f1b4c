//! Datagrams: boundaries, addresses, sizes, refusals.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netgraft_plugin::{Domain, Error, Events, OptionName, Received, RecvFlags, SocketOption};

use super::super::bench::{Bench, Side, Sock, pattern, unexpected};
use super::super::check::{Check, Checks, Outcome, equal, holds};
use super::group;

group! { "datagram":
    "a datagram comes with its sender", All, with_sender;
    "a send without an address binds", All, send_binds;
    "a send without a destination is refused", Families, no_destination;
    "boundaries are kept and order too", All, boundaries;
    "a short buffer cuts and says so", All, cut;
    "an empty datagram is one", All, empty;
    "a peek leaves it", All, peek;
    "the length of the first is reported", All, first_length;
    "a connected socket sends to its peer", All, connected;
    "a connected socket receives from its peer only", All, peer_alone;
    "a socket may change its peer and lose it", All, peer_changes;
    "connecting gives a local address", All, connect_binds;
    "the largest datagram passes", All, largest;
    "a larger one is refused", All, too_large;
    "what needs fragments passes", Wire, fragments;
    "a dead port refuses a connected socket", All, refused;
    "a dead port leaves an unconnected socket alone", All, not_refused;
    "the other family is refused", Families, other_family;
    "port 0 is no destination", Families, port_zero;
    "a full buffer drops the late ones", All, overflow;
    "the destination, the interface and the hop limit are reported", All, details;
    "a socket may send to itself", Families, to_itself;
    "the unspecified address takes datagrams to any", All, unspecified;
    "a v6 socket exchanges datagrams with a v4 one", Once, mapped;
    "sockets that share a port with reuse", Families, shared_port;
    "a broadcast needs permission", Once, broadcast_denied;
    "a broadcast is received", Paths, broadcast;
    "a group's datagrams reach its members only", Paths, multicast;
    "a v6 group's datagrams reach its members only", Wire6, multicast6;
    "closing drops what waits", Families, close_drops;
    "the socket that fits best receives it", Families, best_fit;
    "a broken destination does not break the socket", All, still_works;
}

/// A bound server, its address, and a client.
fn ends(b: &mut Bench) -> Check<(Sock, SocketAddr, Sock)> {
    let (server, addr) = b.udp_bound(Side::Server)?;
    Ok((server, addr, b.udp(Side::Client)?))
}

fn with_sender(b: &mut Bench) -> Check {
    let (server, to, _) = ends(b)?;
    let (client, from) = b.udp_bound(Side::Client)?;
    equal("send_to", b.send_to(client, b"hello", to).must("send_to")?, 5)?;
    let (data, got) = b.datagram(server)?;
    equal("recv", data, b"hello".to_vec())?;
    equal("recv: from, full_len", (got.from, got.full_len), (Some(from), 5))?;
    b.send_to(server, b"back", from).must("send_to")?;
    let (data, got) = b.datagram(client)?;
    equal("recv", (data, got.from), (b"back".to_vec(), Some(to)))
}

fn send_binds(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    b.send_to(client, b"x", to).must("send_to")?;
    let port = b.local_addr(client).must("local_addr")?.port();
    let from = b.addr(Side::Client, port);
    equal("recv: from", b.datagram(server)?.1.from, Some(from))?;
    b.send_to(server, b"y", from).must("send_to")?;
    equal("recv", b.datagram(client)?.0, b"y".to_vec())
}

fn no_destination(b: &mut Bench) -> Check {
    let (sock, _) = b.udp_bound(Side::Client)?;
    b.send(sock, b"x").must_fail("send", &[Error::DestinationRequired])
}

fn boundaries(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    for len in 1..60 {
        b.send_to(client, &vec![len; usize::from(len)], to).must("send_to")?;
    }
    for len in 1..60 {
        equal("recv", b.datagram(server)?.0, vec![len; usize::from(len)])?;
    }
    b.recv(server, &mut [0; 8]).must_fail("recv", &[Error::Again])
}

fn cut(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    b.send_to(client, b"0123456789", to).must("send_to")?;
    b.send_to(client, b"next", to).must("send_to")?;
    b.ready(server, Events::IN)?;
    let mut buf = [0; 4];
    let got = b.recv(server, &mut buf).must("recv")?;
    equal("recv: len, full_len", (got.len, got.full_len), (4, 10))?;
    equal("recv", &buf, b"0123")?;
    equal("recv: the rest is gone", b.datagram(server)?.0, b"next".to_vec())
}

fn empty(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    equal("send_to", b.send_to(client, &[], to).must("send_to")?, 0)?;
    b.ready(server, Events::IN)?;
    let (data, got) = b.datagram(server)?;
    equal("recv", (data.len(), got.full_len), (0, 0))?;
    b.recv(server, &mut [0; 8]).must_fail("recv", &[Error::Again])
}

fn peek(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    b.send_to(client, b"peeked", to).must("send_to")?;
    b.ready(server, Events::IN)?;
    for _ in 0..2 {
        let mut buf = [0; 3];
        let got = b.recv_with(server, &mut buf, RecvFlags::PEEK).must("recv(PEEK)")?;
        equal("recv(PEEK)", (&buf, got.full_len), (b"pee", 6))?;
    }
    equal("recv", b.datagram(server)?.0, b"peeked".to_vec())
}

fn first_length(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    equal("queued_in", b.queued_in(server).supported("queued_in")?, 0)?;
    for len in [30, 70] {
        b.send_to(client, &vec![1; len], to).must("send_to")?;
    }
    b.ready(server, Events::IN)?;
    b.quiesce();
    equal("queued_in", b.queued_in(server).must("queued_in")?, 30)?;
    b.datagram(server)?;
    equal("queued_in", b.queued_in(server).must("queued_in")?, 70)
}

fn connected(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    b.connect(client, to).must("connect")?;
    equal("peer_addr", b.peer_addr(client).must("peer_addr")?, to)?;
    b.send(client, b"hello").must("send")?;
    equal("recv", b.datagram(server)?.0, b"hello".to_vec())?;
    // An address overrides the peer for one datagram.
    let (other, elsewhere) = b.udp_bound(Side::Server)?;
    b.send_to(client, b"aside", elsewhere).must("send_to")?;
    equal("recv", b.datagram(other)?.0, b"aside".to_vec())?;
    equal("peer_addr", b.peer_addr(client).must("peer_addr")?, to)
}

fn peer_alone(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    b.connect(client, to).must("connect")?;
    let local = b.local_addr(client).must("local_addr")?;
    let (stranger, _) = b.udp_bound(Side::Server)?;
    b.send_to(stranger, b"stranger", local).must("send_to")?;
    b.quiesce();
    b.recv(client, &mut [0; 8]).must_fail("recv", &[Error::Again])?;
    b.send_to(server, b"peer", local).must("send_to")?;
    equal("recv", b.datagram(client)?.0, b"peer".to_vec())
}

fn peer_changes(b: &mut Bench) -> Check {
    let (_, first, client) = ends(b)?;
    let (server, second) = b.udp_bound(Side::Server)?;
    b.connect(client, first).must("connect")?;
    b.connect(client, second).must("the second connect")?;
    equal("peer_addr", b.peer_addr(client).must("peer_addr")?, second)?;
    b.send(client, b"x").must("send")?;
    b.datagram(server)?;
    b.disconnect(client).supported("disconnect")?;
    b.peer_addr(client).must_fail("peer_addr", &[Error::NotConnected])?;
    b.send(client, b"x").must_fail("send", &[Error::DestinationRequired])?;
    b.send_to(client, b"y", second).must("send_to")?;
    equal("recv", b.datagram(server)?.0, b"y".to_vec())
}

fn connect_binds(b: &mut Bench) -> Check {
    let (_, to, client) = ends(b)?;
    b.connect(client, to).must("connect")?;
    let local = b.local_addr(client).must("local_addr")?;
    equal("local_addr", local.ip(), b.addr(Side::Client, 0).ip())?;
    holds("local_addr", "a port", local.port() != 0, local)
}

/// The most bytes that a datagram carries: 16 bits of length, less the headers that it covers.
fn most(domain: Domain) -> usize {
    match domain {
        Domain::V4 => 65_535 - 20 - 8,
        Domain::V6 => 65_535 - 8,
    }
}

fn largest(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    let data = pattern(most(b.domain), 1);
    equal("send_to", b.send_to(client, &data, to).must("send_to")?, data.len())?;
    let got = b.datagram(server)?.0;
    holds("recv", "the bytes that were sent", got == data, got.len())
}

fn too_large(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    let data = vec![1; most(b.domain) + 1];
    b.send_to(client, &data, to).must_fail("send_to", &[Error::MessageTooLong])?;
    b.send_to(client, b"small", to).must("send_to")?;
    equal("recv", b.datagram(server)?.0, b"small".to_vec())
}

fn fragments(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    for len in [1472, 1473, 2000, 8000, 30_000] {
        let data = pattern(len, 2);
        b.send_to(client, &data, to).must("send_to")?;
        let got = b.datagram(server)?.0;
        holds("recv", "the bytes that were sent", got == data, (len, got.len()))?;
    }
    Ok(())
}

fn refused(b: &mut Bench) -> Check {
    let dead = b.dead_port(Side::Server)?;
    let client = b.udp(Side::Client)?;
    b.connect(client, dead).must("connect")?;
    b.send(client, b"x").must("send")?;
    b.ready(client, Events::ERR)?;
    b.recv(client, &mut [0; 8]).must_fail("recv", &[Error::ConnectionRefused])?;
    b.recv(client, &mut [0; 8]).must_fail("recv", &[Error::Again])?;
    equal("readiness", b.readiness(client).must("readiness")?, Events::OUT)?;
    b.send(client, b"x").must("send")?;
    b.ready(client, Events::ERR)?;
    equal("take_error", b.take_error(client), Some(Error::ConnectionRefused))?;
    equal("take_error", b.take_error(client), None)
}

fn not_refused(b: &mut Bench) -> Check {
    let dead = b.dead_port(Side::Server)?;
    let client = b.udp(Side::Client)?;
    b.send_to(client, b"x", dead).must("send_to")?;
    b.quiesce();
    equal("readiness", b.readiness(client).must("readiness")?, Events::OUT)?;
    b.recv(client, &mut [0; 8]).must_fail("recv", &[Error::Again])
}

fn other_family(b: &mut Bench) -> Check {
    let client = b.udp(Side::Client)?;
    match b.domain {
        Domain::V4 => {
            let to = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 9);
            b.send_to(client, b"x", to).must_fail("send_to", &[Error::FamilyNotSupported])?;
            b.connect(client, to).must_fail("connect", &[Error::FamilyNotSupported])
        }
        Domain::V6 => {
            // udpv6_sendmsg takes an AF_INET address, unless the socket is v6 only.
            b.set(client, SocketOption::V6Only(true)).supported("set_option(V6Only)")?;
            let to = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), 9);
            b.send_to(client, b"x", to).must_fail("send_to", &[Error::NetworkUnreachable])
        }
    }
}

fn port_zero(b: &mut Bench) -> Check {
    let client = b.udp(Side::Client)?;
    let to = b.addr(Side::Server, 0);
    b.send_to(client, b"x", to).must_fail("send_to", &[Error::Invalid])
}

fn overflow(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    b.set(server, SocketOption::ReceiveBuffer(32_768)).supported("set_option(ReceiveBuffer)")?;
    for number in 0..200_u32 {
        let mut data = vec![0; 1000];
        data[..4].copy_from_slice(&number.to_le_bytes());
        b.send_to(client, &data, to).must("send_to")?;
        b.step();
    }
    b.quiesce();
    let mut received = 0_u32;
    let mut buf = [0; 1000];
    while let Ok(got) = b.recv(server, &mut buf) {
        equal("recv", (got.len, &buf[..4]), (1000, &received.to_le_bytes()[..]))?;
        received += 1;
    }
    holds("recv", "some of 200, in order from the first", (5..200).contains(&received), received)?;
    b.send_to(client, b"after", to).must("send_to")?;
    equal("recv", b.datagram(server)?.0, b"after".to_vec())
}

/// Where a datagram was sent to; a stack need not tell that, nor what comes with it.
fn destination(got: &Received) -> Check<IpAddr> {
    got.to.ok_or_else(|| Outcome::Unsupported { says: "recv: it tells no destination".to_owned() })
}

fn details(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    let (hops, class) = match b.domain {
        Domain::V4 => (SocketOption::Ttl(33), SocketOption::TypeOfService(0x20)),
        Domain::V6 => (SocketOption::UnicastHops(33), SocketOption::TrafficClass(0x20)),
    };
    b.set(client, hops).supported("set_option(hops)")?;
    b.set(client, class).supported("set_option(class)")?;
    b.send_to(client, b"x", to).must("send_to")?;
    let got = b.datagram(server)?.1;
    equal("recv: to", destination(&got)?, to.ip())?;
    equal("recv: hop_limit, traffic_class", (got.hop_limit, got.traffic_class), (33, 0x20))?;
    let interfaces = b.interfaces(Side::Server)?;
    let iface = interfaces.iter().find(|i| i.addresses.iter().any(|a| a.addr() == to.ip()));
    equal("recv: interface", Some(got.interface), iface.map(|i| i.index))
}

fn to_itself(b: &mut Bench) -> Check {
    let (sock, addr) = b.udp_bound(Side::Client)?;
    b.connect(sock, addr).must("connect")?;
    b.send(sock, b"me").must("send")?;
    let (data, got) = b.datagram(sock)?;
    equal("recv", (data, got.from), (b"me".to_vec(), Some(addr)))
}

fn unspecified(b: &mut Bench) -> Check {
    let server = b.udp(Side::Server)?;
    let any = b.any(0);
    b.bind(server, any).must("bind(any)")?;
    let port = b.local_addr(server).must("local_addr")?.port();
    let to = b.addr(Side::Server, port);
    let client = b.udp(Side::Client)?;
    b.connect(client, to).must("connect")?;
    b.send(client, b"x").must("send")?;
    let from = b.datagram(server)?.1.from;
    equal("recv: from", from, Some(b.local_addr(client).must("local_addr")?))?;
    // The answer leaves from the address that was asked, or the connected client would not receive it.
    b.send_to(server, b"y", b.local_addr(client).must("local_addr")?).must("send_to")?;
    equal("recv", b.datagram(client)?.1.from, Some(to))
}

fn mapped(b: &mut Bench) -> Check {
    let (v4, v4_addr) = b.udp_bound(Side::Server)?;
    b.domain = Domain::V6;
    let v6 = b.udp(Side::Client)?;
    let any = b.any(0);
    b.bind(v6, any).must("bind(any)")?;
    let port = b.local_addr(v6).must("local_addr")?.port();
    let local: IpAddr = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    b.send_to(v6, b"six", SocketAddr::new(local, v4_addr.port())).must("send_to(mapped)")?;
    let v6_addr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    equal("recv: from", b.datagram(v4)?.1.from, Some(v6_addr))?;
    b.send_to(v4, b"four", v6_addr).must("send_to")?;
    equal("recv: from", b.datagram(v6)?.1.from, Some(SocketAddr::new(local, v4_addr.port())))
}

fn shared_port(b: &mut Bench) -> Check {
    let socks = [b.udp(Side::Server)?, b.udp(Side::Server)?];
    let mut addr = b.addr(Side::Server, 0);
    for sock in socks {
        b.set(sock, SocketOption::ReuseAddress(true)).supported("set_option(ReuseAddress)")?;
        b.bind(sock, addr).must("bind with SO_REUSEADDR on both")?;
        addr = b.local_addr(sock).must("local_addr")?;
    }
    let client = b.udp(Side::Client)?;
    b.send_to(client, b"x", addr).must("send_to")?;
    b.quiesce();
    let received = socks.map(|sock| b.recv(sock, &mut [0; 8]).is_ok());
    equal("recv: the last that was bound receives it", received, [false, true])
}

fn broadcast_denied(b: &mut Bench) -> Check {
    b.declares(Side::Client, OptionName::Broadcast)?;
    let client = b.udp(Side::Client)?;
    let to = SocketAddr::new(Ipv4Addr::new(127, 255, 255, 255).into(), 9);
    b.send_to(client, b"x", to).must_fail("send_to", &[Error::AccessDenied])?;
    b.connect(client, to).must_fail("connect", &[Error::AccessDenied])
}

fn broadcast(b: &mut Bench) -> Check {
    b.declares(Side::Client, OptionName::Broadcast)?;
    let server = b.udp(Side::Server)?;
    let any = b.any(0);
    b.bind(server, any).must("bind(any)")?;
    let port = b.local_addr(server).must("local_addr")?.port();
    let client = b.udp(Side::Client)?;
    b.set(client, SocketOption::Broadcast(true)).supported("set_option(Broadcast)")?;
    let ip = match b.addr(Side::Server, 0).ip() {
        ip if ip.is_loopback() => Ipv4Addr::new(127, 255, 255, 255),
        _ => Ipv4Addr::new(192, 0, 2, 255),
    };
    b.send_to(client, b"all", SocketAddr::new(ip.into(), port)).must("send_to(broadcast)")?;
    let (data, got) = b.datagram(server)?;
    equal("recv", data, b"all".to_vec())?;
    equal("recv: to", destination(&got)?, ip.into())
}

fn multicast(b: &mut Bench) -> Check {
    b.declares(Side::Server, OptionName::JoinGroup)?;
    let group = Ipv4Addr::new(239, 255, 77, 1);
    let (IpAddr::V4(here), IpAddr::V4(there)) = (b.addr(Side::Client, 0).ip(), b.addr(Side::Server, 0).ip())
    else {
        return Ok(());
    };
    let server = b.udp(Side::Server)?;
    b.bind(server, SocketAddr::new(group.into(), 0)).must("bind(group)")?;
    let port = b.local_addr(server).must("local_addr")?.port();
    let client = b.udp(Side::Client)?;
    b.set(client, SocketOption::MulticastInterface(here)).supported("set_option(MulticastInterface)")?;
    let to = SocketAddr::new(group.into(), port);
    b.send_to(client, b"before", to).must("send_to(group)")?;
    b.quiesce();
    b.recv(server, &mut [0; 8]).must_fail("recv of no member", &[Error::Again])?;
    b.set(server, SocketOption::JoinGroup((group, there))).supported("set_option(JoinGroup)")?;
    b.set(server, SocketOption::JoinGroup((group, there)))
        .must_fail("a second JoinGroup", &[Error::AddressInUse])?;
    b.send_to(client, b"during", to).must("send_to(group)")?;
    equal("recv of a member", b.datagram(server)?.0, b"during".to_vec())?;
    b.set(server, SocketOption::LeaveGroup((group, there))).must("set_option(LeaveGroup)")?;
    b.send_to(client, b"after", to).must("send_to(group)")?;
    b.quiesce();
    b.recv(server, &mut [0; 8]).must_fail("recv after leaving", &[Error::Again])?;
    b.set(server, SocketOption::LeaveGroup((group, there)))
        .must_fail("a second LeaveGroup", &[Error::AddressNotAvailable])
}

/// Index of a side's interface that is no loopback.
fn link_index(b: &mut Bench, side: Side) -> Check<u32> {
    let interfaces = b.stack(side).interfaces();
    let link = interfaces.iter().find(|i| !i.loopback).map(|i| i.index);
    link.ok_or_else(|| unexpected("interfaces", "one beside the loopback", &interfaces))
}

fn multicast6(b: &mut Bench) -> Check {
    // Transient and of this link (RFC 4291 section 2.7).
    let group = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0, 0x77);
    b.declares(Side::Server, OptionName::JoinGroup6)?;
    let (here, there) = (link_index(b, Side::Client)?, link_index(b, Side::Server)?);
    let server = b.udp(Side::Server)?;
    let any = b.any(0);
    b.bind(server, any).must("bind(any)")?;
    let port = b.local_addr(server).must("local_addr")?.port();
    let client = b.udp(Side::Client)?;
    b.set(client, SocketOption::MulticastInterface6(here)).supported("set_option(MulticastInterface6)")?;
    let to = SocketAddr::new(group.into(), port);
    b.set(server, SocketOption::JoinGroup6((group, there))).supported("set_option(JoinGroup6)")?;
    b.send_to(client, b"during", to).must("send_to(group)")?;
    equal("recv of a member", b.datagram(server)?.0, b"during".to_vec())?;
    b.set(server, SocketOption::LeaveGroup6((group, there))).must("set_option(LeaveGroup6)")?;
    b.send_to(client, b"after", to).must("send_to(group)")?;
    b.quiesce();
    b.recv(server, &mut [0; 8]).must_fail("recv after leaving", &[Error::Again])
}

fn close_drops(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    b.send_to(client, b"old", to).must("send_to")?;
    b.ready(server, Events::IN)?;
    b.close(server).must("close")?;
    let next = b.udp(Side::Server)?;
    b.bind(next, to).must("bind")?;
    b.recv(next, &mut [0; 8]).must_fail("recv", &[Error::Again])?;
    b.send_to(client, b"new", to).must("send_to")?;
    equal("recv", b.datagram(next)?.0, b"new".to_vec())
}

fn best_fit(b: &mut Bench) -> Check {
    let (any, bound, own) = (b.udp(Side::Server)?, b.udp(Side::Server)?, b.udp(Side::Server)?);
    let (client, from) = b.udp_bound(Side::Client)?;
    let mut port = 0;
    for (sock, addr) in [(any, b.any(0)), (bound, b.addr(Side::Server, 0)), (own, b.addr(Side::Server, 0))] {
        b.set(sock, SocketOption::ReuseAddress(true)).supported("set_option(ReuseAddress)")?;
        b.bind(sock, SocketAddr::new(addr.ip(), port)).must("bind")?;
        port = b.local_addr(sock).must("local_addr")?.port();
    }
    b.connect(own, from).must("connect")?;
    let to = b.addr(Side::Server, port);
    // From the peer it goes to the connected one, from others to the one with the address.
    let stranger = b.udp(Side::Client)?;
    b.send_to(client, b"peer", to).must("send_to")?;
    b.send_to(stranger, b"stranger", to).must("send_to")?;
    equal("recv of the connected socket", b.datagram(own)?.0, b"peer".to_vec())?;
    equal("recv of the bound socket", b.datagram(bound)?.0, b"stranger".to_vec())?;
    b.close(bound).must("close")?;
    b.send_to(stranger, b"rest", to).must("send_to")?;
    equal("recv of the unspecified one", b.datagram(any)?.0, b"rest".to_vec())
}

fn still_works(b: &mut Bench) -> Check {
    let (server, to, client) = ends(b)?;
    let dead = b.dead_port(Side::Server)?;
    for _ in 0..50 {
        b.send_to(client, b"lost", dead).must("send_to")?;
    }
    b.quiesce();
    b.send_to(client, b"found", to).must("send_to")?;
    equal("recv", b.datagram(server)?.0, b"found".to_vec())
}

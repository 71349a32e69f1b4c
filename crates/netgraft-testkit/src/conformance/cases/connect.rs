//! Connections are made, refused, and given up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netgraft_link::Way;
use netgraft_plugin::{Domain, Error, Events, SocketOption, TcpState, inet};

use super::super::bench::{Bench, Side, Sock};
use super::super::check::{Check, Checks, Outcome, equal, holds};
use super::group;

group! { "connect":
    "connecting ends with out and no error", All, succeeds;
    "a connected socket says so when asked again", All, connected_again;
    "a socket without an address gets one", All, local_chosen;
    "a bound socket keeps its port", All, keeps_port;
    "a port without a listener refuses", All, refused;
    "a refused socket gives its error once", All, refused_error_once;
    "a refused socket may connect again", All, refused_then_again;
    "the other family is refused", Families, other_family;
    "the unspecified address means this host", Families, to_unspecified;
    "a mapped address of a v6 socket is v4", Once, to_mapped;
    "the same four-tuple is refused", Families, same_tuple;
    "a socket may connect to itself", Families, to_itself;
    "a missing route is reported at once", Families, no_route;
    "a datagram group or broadcast is no peer of a stream", Once, to_group;
    "a socket that is connecting is not ready", Wire, connecting;
    "a host that is not on the link is unreachable", Wire, no_neighbor;
    "a host that does not answer times out", Wire, no_answer;
    "a lost syn is sent again", Wire, lost_syn;
    "closing a socket that connects ends the attempt", Wire, close_connecting;
    "the state of a connection is established", All, states;
    "the whole loopback network is local", Once, loopback_network;
}

fn succeeds(b: &mut Bench) -> Check {
    let (_, addr) = b.listener(4)?;
    let client = b.tcp(Side::Client)?;
    b.connect(client, addr).must_fail("connect", &[Error::InProgress])?;
    b.ready(client, Events::OUT)?;
    equal("readiness", b.readiness(client).must("readiness")?, Events::OUT)?;
    equal("take_error", b.take_error(client), None)?;
    equal("peer_addr", b.peer_addr(client).must("peer_addr")?, addr)
}

fn connected_again(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    // The first call after a non-blocking connect may tell the end of it (inet_stream_connect).
    match b.connect(pair.client, pair.addr) {
        Ok(()) => {}
        other => other.must_fail("connect", &[Error::IsConnected])?,
    }
    b.connect(pair.client, pair.addr).must_fail("connect", &[Error::IsConnected])?;
    b.connect(pair.server, pair.addr).must_fail("connect", &[Error::IsConnected])
}

fn local_chosen(b: &mut Bench) -> Check {
    let (_, addr) = b.listener(4)?;
    let client = b.tcp(Side::Client)?;
    b.start_connect(client, addr)?;
    // Known before the peer has answered.
    let local = b.local_addr(client).must("local_addr")?;
    equal("local_addr", local.ip(), b.addr(Side::Client, 0).ip())?;
    let range = b.stack(Side::Client).port_range();
    holds("local_addr", &format!("a port of {range:?}"), (range.0..=range.1).contains(&local.port()), local)
}

fn keeps_port(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    let client = b.tcp(Side::Client)?;
    let any = b.any(0);
    b.bind(client, any).must("bind")?;
    let port = b.local_addr(client).must("local_addr")?.port();
    b.start_connect(client, addr)?;
    b.ready(client, Events::OUT)?;
    let local = b.addr(Side::Client, port);
    equal("local_addr", b.local_addr(client).must("local_addr")?, local)?;
    equal("accept: the peer's address", b.accepted(listener)?.1, local)
}

/// A socket whose connection attempt was refused and whose error is not taken.
fn refused_socket(b: &mut Bench) -> Check<Sock> {
    let addr = b.dead_port(Side::Server)?;
    let client = b.tcp(Side::Client)?;
    match b.connect(client, addr) {
        // A stack may know at once; then the error is not kept.
        Err(Error::InProgress) => b.ready(client, Events::ERR | Events::HUP)?,
        other => return Err(Outcome::fail("connect", "InProgress", format_args!("{other:?}"))),
    }
    Ok(client)
}

fn refused(b: &mut Bench) -> Check {
    let client = refused_socket(b)?;
    let all = Events::IN | Events::OUT | Events::ERR | Events::HUP | Events::RDHUP;
    equal("readiness", b.readiness(client).must("readiness")?, all)?;
    equal("take_error", b.take_error(client), Some(Error::ConnectionRefused))?;
    equal("take_error", b.take_error(client), None)?;
    equal("readiness", b.readiness(client).must("readiness")?, all - Events::ERR)?;
    b.peer_addr(client).must_fail("peer_addr", &[Error::NotConnected])
}

fn refused_error_once(b: &mut Bench) -> Check {
    let client = refused_socket(b)?;
    b.recv(client, &mut [0; 8]).must_fail("recv", &[Error::ConnectionRefused])?;
    equal("recv after the error", b.recv(client, &mut [0; 8]).must("recv")?.len, 0)?;
    b.send(client, b"x").must_fail("send after the error", &[Error::BrokenPipe])?;
    let client = refused_socket(b)?;
    b.send(client, b"x").must_fail("send", &[Error::ConnectionRefused])?;
    equal("take_error", b.take_error(client), None)
}

fn refused_then_again(b: &mut Bench) -> Check {
    let client = refused_socket(b)?;
    let (listener, addr) = b.listener(4)?;
    b.connect(client, addr).must_fail("connect with a pending error", &[Error::ConnectionRefused])?;
    b.start_connect(client, addr)?;
    b.ready(client, Events::OUT)?;
    equal("take_error", b.take_error(client), None)?;
    let (server, _) = b.accepted(listener)?;
    b.send_all(client, b"second")?;
    equal("recv", b.recv_exact(server, 6)?, b"second".to_vec())
}

fn other_family(b: &mut Bench) -> Check {
    let (other, errors): (IpAddr, &[Error]) = match b.domain {
        Domain::V4 => (Ipv6Addr::LOCALHOST.into(), &[Error::FamilyNotSupported]),
        // The address is too short for the family, says inet6_stream_connect's protocol.
        Domain::V6 => (Ipv4Addr::LOCALHOST.into(), &[Error::Invalid, Error::FamilyNotSupported]),
    };
    let sock = b.tcp(Side::Client)?;
    b.connect(sock, SocketAddr::new(other, 9)).must_fail("connect", errors)
}

fn to_unspecified(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    let to = b.any(addr.port());
    let client = b.connected_to(to)?;
    equal("peer_addr", b.peer_addr(client).must("peer_addr")?, addr)?;
    b.accepted(listener).map(|_| ())
}

fn to_mapped(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    b.domain = Domain::V6;
    let local: IpAddr = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    let to = SocketAddr::new(local, addr.port());
    let client = b.connected_to(to)?;
    equal("peer_addr", b.peer_addr(client).must("peer_addr")?, to)?;
    equal("local_addr", b.local_addr(client).must("local_addr")?.ip(), local)?;
    let (_, peer) = b.accepted(listener)?;
    equal("accept: the peer's address", peer.ip(), IpAddr::from(Ipv4Addr::LOCALHOST))
}

fn same_tuple(b: &mut Bench) -> Check {
    let (_, addr) = b.listener(4)?;
    let socks = [b.tcp(Side::Client)?, b.tcp(Side::Client)?];
    let mut local = b.addr(Side::Client, 0);
    for sock in socks {
        b.set(sock, SocketOption::ReuseAddress(true)).supported("set_option(ReuseAddress)")?;
        b.bind(sock, local).must("bind")?;
        local = b.local_addr(sock).must("local_addr")?;
    }
    b.start_connect(socks[0], addr)?;
    b.connect(socks[1], addr).must_fail("the second connect", &[Error::AddressNotAvailable])?;
    let (_, elsewhere) = b.listener(4)?;
    b.start_connect(socks[1], elsewhere)?;
    b.ready(socks[1], Events::OUT)
}

fn to_itself(b: &mut Bench) -> Check {
    let sock = b.tcp(Side::Client)?;
    let addr = b.addr(Side::Client, 0);
    b.bind(sock, addr).must("bind")?;
    let addr = b.local_addr(sock).must("local_addr")?;
    // A simultaneous open (RFC 9293 section 3.5).
    b.start_connect(sock, addr)?;
    b.ready(sock, Events::OUT)?;
    equal("take_error", b.take_error(sock), None)?;
    equal("peer_addr", b.peer_addr(sock).must("peer_addr")?, addr)?;
    b.send_all(sock, b"echo")?;
    equal("recv", b.recv_exact(sock, 4)?, b"echo".to_vec())
}

/// An address that no network of the case has (RFC 5737, RFC 3849).
fn elsewhere(domain: Domain) -> SocketAddr {
    let addr: IpAddr = match domain {
        Domain::V4 => Ipv4Addr::new(203, 0, 113, 5).into(),
        Domain::V6 => Ipv6Addr::new(0x2001, 0xdb8, 99, 0, 0, 0, 0, 5).into(),
    };
    SocketAddr::new(addr, 9)
}

fn no_route(b: &mut Bench) -> Check {
    let addr = elsewhere(b.domain);
    let routes = b.stack(Side::Client).routes();
    if inet::best_route(&routes, addr.ip()).is_some() {
        return Err(Outcome::Unsupported { says: "its routes lead everywhere".to_owned() });
    }
    let unreachable = &[Error::NetworkUnreachable];
    let (tcp, udp) = (b.tcp(Side::Client)?, b.udp(Side::Client)?);
    let connected = b.connect(tcp, addr);
    if routes.is_empty() && connected != Err(Error::NetworkUnreachable) {
        return Err(Outcome::Unsupported { says: "it has a route and tells of none".to_owned() });
    }
    connected.must_fail("connect(tcp)", unreachable)?;
    b.connect(udp, addr).must_fail("connect(udp)", unreachable)?;
    b.send_to(udp, b"x", addr).must_fail("send_to(udp)", unreachable)?;
    equal("take_error", b.take_error(tcp), None)
}

fn to_group(b: &mut Bench) -> Check {
    let sock = b.tcp(Side::Client)?;
    for group in [Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::BROADCAST] {
        let errors = &[Error::NetworkUnreachable, Error::AccessDenied];
        b.connect(sock, SocketAddr::new(group.into(), 9)).must_fail("connect", errors)?;
    }
    Ok(())
}

/// A socket that connects over a wire which carries nothing any more, between stacks that know each other.
fn connecting_socket(b: &mut Bench) -> Check<(Sock, SocketAddr)> {
    let pair = b.connection()?;
    b.dials.iter().for_each(|dial| dial.cut(Way::In));
    let sock = b.tcp(Side::Client)?;
    b.connect(sock, pair.addr).must_fail("connect", &[Error::InProgress])?;
    b.quiesce();
    Ok((sock, pair.addr))
}

fn connecting(b: &mut Bench) -> Check {
    let (sock, addr) = connecting_socket(b)?;
    equal("readiness", b.readiness(sock).must("readiness")?, Events::empty())?;
    b.connect(sock, addr).must_fail("connect", &[Error::Already])?;
    b.send(sock, b"x").must_fail("send", &[Error::Again])?;
    b.recv(sock, &mut [0; 8]).must_fail("recv", &[Error::Again])?;
    b.peer_addr(sock).must_fail("peer_addr", &[Error::NotConnected])?;
    b.listen(sock, 1).must_fail("listen", &[Error::Invalid])?;
    let info = b.tcp_info(sock).supported("tcp_info")?;
    equal("tcp_info: state", info.state, TcpState::SynSent)?;
    equal("take_error", b.take_error(sock), None)
}

fn no_neighbor(b: &mut Bench) -> Check {
    let addr = match b.addr(Side::Server, 9) {
        SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::new(192, 0, 2, 77).into(), 9),
        SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 77).into(), 9),
    };
    let sock = b.tcp(Side::Client)?;
    b.start_connect(sock, addr)?;
    b.ready(sock, Events::ERR)?;
    equal("take_error", b.take_error(sock), Some(Error::HostUnreachable))
}

fn no_answer(b: &mut Bench) -> Check {
    let (sock, _) = connecting_socket(b)?;
    let start = b.now();
    b.until_within(Duration::from_secs(300), "readiness", "ERR", |b| {
        Ok(b.readiness(sock).must("readiness")?.contains(Events::ERR).then_some(()))
    })?;
    // The last neighbor that is known may become unreachable before TCP gives up.
    let error = b.take_error(sock);
    let known = matches!(error, Some(Error::TimedOut | Error::HostUnreachable));
    holds("take_error", "TimedOut or HostUnreachable", known, error)?;
    let took = b.now().since(start);
    holds("connect", "some seconds of patience", took >= Duration::from_secs(2), took)
}

fn lost_syn(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let before = b.dials[1].get();
    b.dials[1].cut(Way::In);
    let sock = b.tcp(Side::Client)?;
    b.start_connect(sock, pair.addr)?;
    b.run_for(Duration::from_millis(100));
    b.dials[1].set(before);
    let start = b.now();
    b.ready(sock, Events::OUT)?;
    equal("take_error", b.take_error(sock), None)?;
    let took = b.now().since(start);
    holds("connect", "the syn again after about a second", took <= Duration::from_secs(4), took)
}

fn close_connecting(b: &mut Bench) -> Check {
    let (sock, addr) = connecting_socket(b)?;
    let local = b.local_addr(sock).must("local_addr")?;
    b.close(sock).must("close")?;
    b.quiesce();
    let next = b.tcp(Side::Client)?;
    b.bind(next, local).must("bind to the port of the attempt")?;
    b.start_connect(next, addr)
}

fn states(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    for sock in [pair.client, pair.server] {
        let info = b.tcp_info(sock).supported("tcp_info")?;
        equal("tcp_info: state", info.state, TcpState::Established)?;
        holds("tcp_info: send_mss", "at least 536 bytes (RFC 9293)", info.send_mss >= 536, info.send_mss)?;
    }
    Ok(())
}

fn loopback_network(b: &mut Bench) -> Check {
    let local = |last| SocketAddr::new(Ipv4Addr::new(127, 0, 0, last).into(), 0);
    let listener = b.tcp(Side::Server)?;
    b.bind(listener, local(3)).must("bind(127.0.0.3)")?;
    b.listen(listener, 4).must("listen")?;
    let addr = b.local_addr(listener).must("local_addr")?;
    let client = b.tcp(Side::Client)?;
    b.bind(client, local(2)).must("bind(127.0.0.2)")?;
    b.start_connect(client, addr)?;
    b.ready(client, Events::OUT)?;
    let (_, peer) = b.accepted(listener)?;
    equal("accept: the peer's address", peer.ip(), local(2).ip())?;
    // Nobody listens on the same port of another address.
    let refused = b.tcp(Side::Client)?;
    b.start_connect(refused, SocketAddr::new(local(4).ip(), addr.port()))?;
    b.ready(refused, Events::ERR)?;
    equal("take_error", b.take_error(refused), Some(Error::ConnectionRefused))
}

//! Listeners, their queues and what they give.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netgraft_plugin::{Domain, Error, Events, SendFlags, Shutdown, SocketOption, TcpState};

use super::super::bench::{Bench, Side, Sock};
use super::super::check::{Check, Checks, equal, holds};
use super::group;

group! { "listen":
    "a socket without an address gets a port", Families, unbound;
    "an empty queue says again and is not ready", Families, empty;
    "a connection makes the listener ready until it is accepted", All, ready_once;
    "an accepted socket knows both addresses", All, addresses;
    "connections come in order", All, in_order;
    "the backlog holds as many as it says", All, backlog;
    "what a full queue turned away comes later", Paths, overflow;
    "a second listen changes the backlog", Families, again;
    "a connected socket cannot listen", Families, connected;
    "a datagram socket cannot listen", Families, datagram;
    "a listener refuses data calls and connect", Families, data_calls;
    "closing resets the connections that wait", All, close_resets;
    "closing leaves accepted connections alone", All, close_keeps;
    "shutdown stops a listener", All, shut;
    "data and the end may come before accept", All, early_data;
    "a connection that was reset before accept says so", All, early_reset;
    "the unspecified address takes connections to any", All, unspecified;
    "a v6 listener takes v4 connections as mapped addresses", Once, mapped;
    "a v6 only listener takes no v4 connections", Once, v6_only;
    "options are inherited by accepted sockets", Families, inherited;
}

fn unbound(b: &mut Bench) -> Check {
    let sock = b.tcp(Side::Server)?;
    b.listen(sock, 1).must("listen")?;
    let addr = b.local_addr(sock).must("local_addr")?;
    equal("local_addr", addr.ip(), b.any(0).ip())?;
    holds("local_addr", "a port", addr.port() != 0, addr)?;
    let to = b.addr(Side::Server, addr.port());
    b.connected_to(to)?;
    b.accepted(sock).map(|_| ())
}

fn empty(b: &mut Bench) -> Check {
    let (listener, _) = b.listener(4)?;
    b.accept(listener).must_fail("accept", &[Error::Again])?;
    b.quiesce();
    equal("readiness", b.readiness(listener).must("readiness")?, Events::empty())?;
    let info = b.tcp_info(listener).supported("tcp_info")?;
    equal("tcp_info: state", info.state, TcpState::Listen)
}

fn ready_once(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    b.connected_to(addr)?;
    b.ready(listener, Events::IN)?;
    equal("readiness", b.readiness(listener).must("readiness")?, Events::IN)?;
    b.accept(listener).must("accept")?;
    equal("readiness", b.readiness(listener).must("readiness")?, Events::empty())?;
    b.accept(listener).must_fail("accept", &[Error::Again])
}

fn addresses(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    equal("local_addr", b.local_addr(pair.server).must("local_addr")?, pair.addr)?;
    let client = b.local_addr(pair.client).must("local_addr")?;
    equal("peer_addr", b.peer_addr(pair.server).must("peer_addr")?, client)?;
    equal("peer_addr", b.peer_addr(pair.client).must("peer_addr")?, pair.addr)?;
    b.peer_addr(pair.listener).must_fail("peer_addr of the listener", &[Error::NotConnected])
}

fn in_order(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(16)?;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let client = b.connected_to(addr)?;
        b.quiesce();
        clients.push(b.local_addr(client).must("local_addr")?);
    }
    for client in clients {
        equal("accept: the peer's address", b.accept(listener).must("accept")?.1, client)?;
    }
    Ok(())
}

fn backlog(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(40)?;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let client = b.tcp(Side::Client)?;
        b.start_connect(client, addr)?;
        clients.push(client);
    }
    for client in clients {
        b.ready(client, Events::OUT)?;
        equal("take_error", b.take_error(client), None)?;
    }
    for _ in 0..40 {
        b.accepted(listener)?;
    }
    b.accept(listener).must_fail("accept", &[Error::Again])
}

fn overflow(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(1)?;
    for _ in 0..4 {
        let client = b.tcp(Side::Client)?;
        b.start_connect(client, addr)?;
    }
    b.quiesce();
    // A client sends its SYN again after 1 s (RFC 6298), then after 2 s more.
    for _ in 0..4 {
        b.until_within(Duration::from_secs(20), "accept", "a connection", |b| Ok(b.accept(listener).ok()))?;
    }
    Ok(())
}

fn again(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(1)?;
    b.listen(listener, 20).must("the second listen")?;
    for _ in 0..10 {
        b.connected_to(addr)?;
    }
    for _ in 0..10 {
        b.accepted(listener)?;
    }
    Ok(())
}

fn connected(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.listen(pair.client, 1).must_fail("listen", &[Error::Invalid])?;
    b.listen(pair.server, 1).must_fail("listen", &[Error::Invalid])?;
    b.accept(pair.client).must_fail("accept", &[Error::Invalid])
}

fn datagram(b: &mut Bench) -> Check {
    let (sock, _) = b.udp_bound(Side::Server)?;
    b.listen(sock, 1).must_fail("listen", &[Error::NotSupported])?;
    b.accept(sock).must_fail("accept", &[Error::NotSupported, Error::Invalid])
}

fn data_calls(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(1)?;
    b.recv(listener, &mut [0; 8]).must_fail("recv", &[Error::NotConnected])?;
    b.send(listener, b"x").must_fail("send", &[Error::BrokenPipe])?;
    b.connect(listener, addr).must_fail("connect", &[Error::IsConnected])?;
    equal("take_error", b.take_error(listener), None)
}

fn close_resets(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    let client = b.connected_to(addr)?;
    b.ready(listener, Events::IN)?;
    b.close(listener).must("close")?;
    b.recv_some(client)?.must_fail("recv", &[Error::ConnectionReset])?;
    let late = b.tcp(Side::Client)?;
    b.start_connect(late, addr)?;
    b.ready(late, Events::ERR)?;
    equal("take_error", b.take_error(late), Some(Error::ConnectionRefused))
}

fn close_keeps(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.close(pair.listener).must("close")?;
    b.quiesce();
    b.send_all(pair.client, b"still here")?;
    equal("recv", b.recv_exact(pair.server, 10)?, b"still here".to_vec())
}

fn shut(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    b.shutdown(listener, Shutdown::Write).must("shutdown(Write) of a listener")?;
    b.connected_to(addr)?;
    b.accepted(listener)?;
    b.shutdown(listener, Shutdown::Read).must("shutdown(Read) of a listener")?;
    b.accept(listener).must_fail("accept", &[Error::Invalid])?;
    let late = b.tcp(Side::Client)?;
    b.start_connect(late, addr)?;
    b.ready(late, Events::ERR)?;
    equal("take_error", b.take_error(late), Some(Error::ConnectionRefused))
}

fn early_data(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    let client = b.connected_to(addr)?;
    b.send_all(client, b"early")?;
    b.close(client).must("close")?;
    b.quiesce();
    let (server, _) = b.accepted(listener)?;
    equal("recv", b.recv_exact(server, 5)?, b"early".to_vec())?;
    b.recv_end(server)
}

fn early_reset(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    let client = b.connected_to(addr)?;
    b.ready(listener, Events::IN)?;
    b.abort(client).must("abort")?;
    b.quiesce();
    // Linux leaves the connection in the queue.
    let (server, _) = b.accepted(listener)?;
    b.recv(server, &mut [0; 8]).must_fail("recv", &[Error::ConnectionReset])
}

/// A listener on the unspecified address of a family.
fn listen_any(b: &mut Bench, domain: Domain, v6_only: Option<bool>) -> Check<(Sock, u16)> {
    let family = std::mem::replace(&mut b.domain, domain);
    let (sock, any) = (b.tcp(Side::Server)?, b.any(0));
    if let Some(only) = v6_only {
        b.set(sock, SocketOption::V6Only(only)).supported("set_option(V6Only)")?;
    }
    b.domain = family;
    b.bind(sock, any).must("bind(any)")?;
    b.listen(sock, 8).must("listen")?;
    Ok((sock, b.local_addr(sock).must("local_addr")?.port()))
}

fn unspecified(b: &mut Bench) -> Check {
    let (listener, port) = listen_any(b, b.domain, None)?;
    let to = b.addr(Side::Server, port);
    b.connected_to(to)?;
    let (server, _) = b.accepted(listener)?;
    equal("local_addr of the accepted socket", b.local_addr(server).must("local_addr")?, to)?;
    equal("local_addr", b.local_addr(listener).must("local_addr")?, b.any(port))
}

fn mapped(b: &mut Bench) -> Check {
    let (listener, port) = listen_any(b, Domain::V6, Some(false))?;
    let client = b.connected_to(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))?;
    let (server, peer) = b.accepted(listener)?;
    let local: IpAddr = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    equal("accept: the peer's address", peer.ip(), local)?;
    equal("local_addr", b.local_addr(server).must("local_addr")?, SocketAddr::new(local, port))?;
    b.send_with(server, b"v4", None, SendFlags::empty()).must("send")?;
    equal("recv", b.recv_exact(client, 2)?, b"v4".to_vec())
}

fn v6_only(b: &mut Bench) -> Check {
    let (listener, port) = listen_any(b, Domain::V6, Some(true))?;
    let client = b.tcp(Side::Client)?;
    b.start_connect(client, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))?;
    b.ready(client, Events::ERR)?;
    equal("take_error", b.take_error(client), Some(Error::ConnectionRefused))?;
    b.domain = Domain::V6;
    b.connected_to(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port))?;
    b.accepted(listener).map(|_| ())
}

fn inherited(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    b.set(listener, SocketOption::KeepAlive(true)).supported("set_option(KeepAlive)")?;
    b.set(listener, SocketOption::NoDelay(true)).supported("set_option(NoDelay)")?;
    b.connected_to(addr)?;
    let (server, _) = b.accepted(listener)?;
    for option in [SocketOption::KeepAlive(true), SocketOption::NoDelay(true)] {
        equal("get_option of the accepted socket", b.get(server, option.name()), Ok(option))?;
    }
    Ok(())
}

//! Many sockets at once, and many after each other.

use std::collections::HashSet;
use std::time::Duration;

use netgraft_link::Way;
use netgraft_plugin::{Error, Events, SocketOption};

use super::super::bench::{Bench, Pair, Side, Sock, pattern};
use super::super::check::{Check, Checks, counted, equal, holds};
use super::group;

group! { "many":
    "many connections live side by side", All, side_by_side;
    "connections follow each other", All, one_after_another;
    "connections that the server ends follow each other", All, server_ends;
    "aborted connections leave nothing", All, aborted;
    "many datagram sockets receive only their own", All, datagram_sockets;
    "many listeners take their own connections", All, listeners;
    "transfers share the stack", All, transfers;
    "a crowd connects at once", All, crowd;
    "attempts that fail leave nothing", All, failed_attempts;
    "sockets that are made and closed leave nothing", All, made_and_closed;
    "closing in any order leaves nothing", All, closing_order;
    "idle sockets do not disturb a busy one", Paths, idle_crowd;
    "orphans without answers give up", Wire, orphans;
    "orphans whose peer keeps its half open go", Wire, half_open_orphans;
}

/// How many of a kind: a host lends a process fewer descriptors than a stack of one's own has sockets.
fn count(b: &Bench, simulated: usize, real: usize) -> usize {
    if b.simulated() { simulated } else { real }
}

/// Sockets that exist, of both sides.
fn sockets(b: &mut Bench) -> u64 {
    b.stacks.iter().map(|stack| stack.statistics().sockets).sum()
}

/// Everything that a case made must be gone.
fn gone(b: &mut Bench, before: u64) -> Check {
    b.quiesce();
    equal("statistics: sockets afterwards", sockets(b), before)
}

/// Connections to one listener.
fn connections(b: &mut Bench, count: usize) -> Check<(Sock, Vec<Pair>)> {
    let (listener, addr) = b.listener(64)?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        let client = b.connected_to(addr)?;
        let (server, peer) = b.accepted(listener)?;
        equal("accept: the peer's address", peer, b.local_addr(client).must("local_addr")?)?;
        pairs.push(Pair { client, server, listener, addr });
    }
    Ok((listener, pairs))
}

fn side_by_side(b: &mut Bench) -> Check {
    let before = sockets(b);
    let count = count(b, 1000, 150);
    let (listener, pairs) = connections(b, count)?;
    counted("sockets", sockets(b), before + 1 + 2 * count as u64)?;
    for (number, pair) in pairs.iter().enumerate() {
        b.send_all(pair.client, &number.to_le_bytes())?;
    }
    for (number, pair) in pairs.iter().enumerate() {
        equal("recv", b.recv_exact(pair.server, 8)?, number.to_le_bytes().to_vec())?;
    }
    for pair in pairs {
        b.close(pair.client).must("close")?;
        b.close(pair.server).must("close")?;
    }
    b.close(listener).must("close")?;
    gone(b, before)
}

fn one_after_another(b: &mut Bench) -> Check {
    let before = sockets(b);
    let (listener, addr) = b.listener(8)?;
    for round in 0..count(b, 3000, 300) {
        let client = b.connected_to(addr)?;
        let (server, _) = b.accepted(listener)?;
        b.send_all(client, &round.to_le_bytes())?;
        equal("recv", b.recv_exact(server, 8)?, round.to_le_bytes().to_vec())?;
        b.close(client).must("close")?;
        b.recv_end(server)?;
        b.close(server).must("close")?;
    }
    b.close(listener).must("close")?;
    gone(b, before)
}

fn server_ends(b: &mut Bench) -> Check {
    let before = sockets(b);
    let listener = b.tcp(Side::Server)?;
    b.set(listener, SocketOption::ReuseAddress(true)).supported("set_option(ReuseAddress)")?;
    let addr = b.addr(Side::Server, 0);
    b.bind(listener, addr).must("bind")?;
    b.listen(listener, 8).must("listen")?;
    let addr = b.local_addr(listener).must("local_addr")?;
    for _ in 0..count(b, 1000, 200) {
        let client = b.connected_to(addr)?;
        let (server, _) = b.accepted(listener)?;
        b.send_all(server, b"bye")?;
        b.close(server).must("close")?;
        equal("recv", b.recv_exact(client, 3)?, b"bye".to_vec())?;
        b.recv_end(client)?;
        b.close(client).must("close")?;
    }
    b.close(listener).must("close")?;
    // The connections that wait for old segments do not keep a server from its port, if it asks so.
    let next = b.tcp(Side::Server)?;
    b.set(next, SocketOption::ReuseAddress(true)).must("set_option(ReuseAddress)")?;
    b.bind(next, addr).must("bind with SO_REUSEADDR")?;
    b.listen(next, 1).must("listen")?;
    b.close(next).must("close")?;
    gone(b, before)
}

fn aborted(b: &mut Bench) -> Check {
    let before = sockets(b);
    let (listener, addr) = b.listener(8)?;
    for round in 0..200 {
        let client = b.connected_to(addr)?;
        let (server, _) = b.accepted(listener)?;
        let (first, second) = if round % 2 == 0 { (client, server) } else { (server, client) };
        b.send_all(second, b"unread")?;
        b.abort(first).must("abort")?;
        b.ready(second, Events::ERR)?;
        b.close(second).must("close")?;
    }
    b.close(listener).must("close")?;
    gone(b, before)
}

fn datagram_sockets(b: &mut Bench) -> Check {
    let before = sockets(b);
    let client = b.udp(Side::Client)?;
    let servers: Vec<_> = (0..count(b, 500, 150)).map(|_| b.udp_bound(Side::Server)).collect::<Check<_>>()?;
    for (number, (_, addr)) in servers.iter().enumerate() {
        b.send_to(client, &number.to_le_bytes(), *addr).must("send_to")?;
        b.step();
    }
    for (number, (sock, _)) in servers.iter().enumerate() {
        equal("recv", b.datagram(*sock)?.0, number.to_le_bytes().to_vec())?;
        b.recv(*sock, &mut [0; 8]).must_fail("recv", &[Error::Again])?;
        b.close(*sock).must("close")?;
    }
    b.close(client).must("close")?;
    gone(b, before)
}

fn listeners(b: &mut Bench) -> Check {
    let listeners: Vec<_> = (0..60).map(|_| b.listener(4)).collect::<Check<_>>()?;
    let mut clients = Vec::new();
    for (_, addr) in listeners.iter().rev() {
        let client = b.tcp(Side::Client)?;
        b.start_connect(client, *addr)?;
        clients.push(client);
    }
    for ((listener, _), client) in listeners.iter().rev().zip(clients) {
        let (_, peer) = b.accepted(*listener)?;
        equal("accept: the peer's address", peer, b.local_addr(client).must("local_addr")?)?;
        b.accept(*listener).must_fail("accept", &[Error::Again])?;
    }
    Ok(())
}

fn transfers(b: &mut Bench) -> Check {
    let (_, pairs) = connections(b, 20)?;
    let data: Vec<Vec<u8>> = (0..20).map(|seed| pattern(50_000, seed)).collect();
    let (mut sent, mut got) = ([0; 20], [0; 20]);
    let mut buf = vec![0; 4096];
    b.until("transfer", "all data of all connections", |b| {
        for (number, pair) in pairs.iter().enumerate() {
            while sent[number] < data[number].len() {
                match b.send(pair.client, &data[number][sent[number]..]) {
                    Ok(count) => sent[number] += count,
                    Err(Error::Again) => break,
                    Err(e) => return Err(e).must("send"),
                }
            }
            loop {
                match b.recv(pair.server, &mut buf) {
                    Ok(r) => {
                        let expected = data[number].get(got[number]..got[number] + r.len);
                        let same = r.len > 0 && expected == Some(&buf[..r.len]);
                        holds("recv", "the bytes of this connection", same, (number, got[number]))?;
                        got[number] += r.len;
                    }
                    Err(Error::Again) => break,
                    Err(e) => return Err(e).must("recv"),
                }
            }
        }
        Ok((got == [50_000; 20]).then_some(()))
    })
}

fn crowd(b: &mut Bench) -> Check {
    let count = count(b, 400, 100);
    let (listener, addr) = b.listener(count as u32)?;
    let mut waiting = HashSet::new();
    for _ in 0..count {
        let client = b.tcp(Side::Client)?;
        b.start_connect(client, addr)?;
        waiting.insert(b.local_addr(client).must("local_addr")?);
    }
    equal("local_addr: addresses of their own", waiting.len(), count)?;
    for _ in 0..count {
        let (_, peer) = b.accepted(listener)?;
        holds("accept", "each client once", waiting.remove(&peer), peer)?;
    }
    Ok(())
}

fn failed_attempts(b: &mut Bench) -> Check {
    let before = sockets(b);
    let dead = b.dead_port(Side::Server)?;
    for _ in 0..200 {
        let client = b.tcp(Side::Client)?;
        b.start_connect(client, dead)?;
        b.ready(client, Events::ERR)?;
        equal("take_error", b.take_error(client), Some(Error::ConnectionRefused))?;
        b.close(client).must("close")?;
    }
    gone(b, before)
}

fn made_and_closed(b: &mut Bench) -> Check {
    let before = sockets(b);
    for round in 0..2000 {
        let sock = if round % 2 == 0 { b.tcp(Side::Client)? } else { b.udp(Side::Client)? };
        if round % 3 == 0 {
            let addr = b.addr(Side::Client, 0);
            b.bind(sock, addr).must("bind")?;
        }
        if round % 5 == 0 {
            b.add_fd(sock, Events::IN | Events::OUT).must("add_fd")?;
        }
        b.close(sock).must("close")?;
    }
    gone(b, before)
}

fn closing_order(b: &mut Bench) -> Check {
    let before = sockets(b);
    for order in 0..6 {
        let pair = b.connection()?;
        b.send_all(pair.client, b"unread")?;
        let mut all = [pair.client, pair.server, pair.listener];
        all.rotate_left(order % 3);
        if order >= 3 {
            all.swap(0, 1);
        }
        for sock in all {
            b.close(sock).must("close")?;
            if order % 2 == 0 {
                b.quiesce();
            }
        }
    }
    gone(b, before)
}

fn idle_crowd(b: &mut Bench) -> Check {
    let count = count(b, 500, 100);
    let (_, pairs) = connections(b, count)?;
    for pair in &pairs {
        b.add_fd(pair.server, Events::IN).must("add_fd")?;
    }
    b.quiesce();
    b.events.clear();
    let busy = b.connection()?;
    b.transfer(busy.client, busy.server, &pattern(200_000, 1), "a transfer among idle ones")?;
    equal("drain_events of idle sockets", b.events.len(), 0)
}

fn orphans(b: &mut Bench) -> Check {
    let before = sockets(b);
    let pair = b.connection()?;
    let local = b.local_addr(pair.client).must("local_addr")?;
    b.dials.iter().for_each(|dial| dial.cut(Way::In));
    b.send_all(pair.client, b"into the void")?;
    for sock in [pair.client, pair.server, pair.listener] {
        b.close(sock).must("close")?;
    }
    b.run_for(Duration::from_secs(3600));
    let next = b.tcp(Side::Client)?;
    b.bind(next, local).must("bind to the orphan's port")?;
    b.close(next).must("close")?;
    gone(b, before)
}

fn half_open_orphans(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.close(pair.client).must("close")?;
    b.recv_end(pair.server)?;
    // FIN-WAIT-2 of a closed socket ends after a minute (tcp_fin_timeout, tcp(7)).
    b.run_for(Duration::from_secs(180));
    equal("send", b.send(pair.server, b"x").must("send")?, 1)?;
    b.quiesce();
    b.send(pair.server, b"x").must_fail("send", &[Error::BrokenPipe])
}

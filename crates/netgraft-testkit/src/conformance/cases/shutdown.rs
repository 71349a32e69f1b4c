//! Half-closed and fully closed connections.

use netgraft_plugin::{Error, Events, RecvFlags, Shutdown, TcpState};

use super::super::bench::{Bench, Side, Sock, pattern};
use super::super::check::{Check, Checks, equal, holds};
use super::group;

group! { "shutdown":
    "closing the sending half ends the peer's reading", All, write_half;
    "the other half goes on", All, other_half;
    "sending after it is a broken pipe", All, send_after;
    "queued bytes leave before the end", All, queued_leave;
    "closing the receiving half ends one's own reading", All, read_half;
    "what has arrived is read before the end", Families, read_half_data;
    "closing both halves hangs up", All, both;
    "a second time is harmless", All, twice;
    "when both ends have closed both hang up", All, both_ends;
    "a socket whose connection is over has no peer", All, over;
    "a socket without a connection refuses", Families, unconnected;
    "the states are those of the protocol", All, states;
    "a datagram socket without a peer refuses", Families, datagram_unconnected;
    "a datagram socket with a peer stops sending", Families, datagram_write;
    "both ends may close at once", All, at_once;
    "an end that is peeked at stays", All, peeked_end;
}

fn write_half(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.shutdown(pair.client, Shutdown::Write).must("shutdown")?;
    b.recv_end(pair.server)?;
    let open = Events::IN | Events::OUT | Events::RDHUP;
    equal("readiness(server)", b.readiness(pair.server).must("readiness")?, open)?;
    // One's own shut half can be written to: that fails at once.
    equal("readiness(client)", b.readiness(pair.client).must("readiness")?, Events::OUT)?;
    b.recv(pair.client, &mut [0; 8]).must_fail("recv(client)", &[Error::Again])
}

fn other_half(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"question")?;
    b.shutdown(pair.client, Shutdown::Write).must("shutdown")?;
    equal("recv", b.recv_exact(pair.server, 8)?, b"question".to_vec())?;
    b.recv_end(pair.server)?;
    b.transfer(pair.server, pair.client, &pattern(200_000, 1), "the answer")?;
    b.close(pair.server).must("close")?;
    b.recv_end(pair.client)
}

fn send_after(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.shutdown(pair.server, Shutdown::Write).must("shutdown")?;
    for _ in 0..2 {
        b.send(pair.server, b"x").must_fail("send", &[Error::BrokenPipe])?;
    }
    equal("take_error", b.take_error(pair.server), None)
}

fn queued_leave(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let mut sent = 0;
    while let Ok(count) = b.send(pair.client, &[3; 4096]) {
        sent += count;
        holds("send", "Again at last, since the peer does not read", sent < 1 << 26, sent)?;
    }
    b.shutdown(pair.client, Shutdown::Write).must("shutdown")?;
    b.recv_exact(pair.server, sent)?;
    b.recv_end(pair.server)
}

fn read_half(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.shutdown(pair.client, Shutdown::Read).must("shutdown")?;
    equal("recv", b.recv(pair.client, &mut [0; 8]).must("recv")?.len, 0)?;
    let ready = b.readiness(pair.client).must("readiness")?;
    equal("readiness", ready, Events::IN | Events::OUT | Events::RDHUP)?;
    b.send_all(pair.client, b"out")?;
    equal("recv(server)", b.recv_exact(pair.server, 3)?, b"out".to_vec())?;
    // The peer sees nothing of it.
    equal("readiness(server)", b.readiness(pair.server).must("readiness")?, Events::OUT)
}

fn read_half_data(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.server, b"waiting")?;
    b.ready(pair.client, Events::IN)?;
    b.shutdown(pair.client, Shutdown::Read).must("shutdown")?;
    equal("recv", b.recv_exact(pair.client, 7)?, b"waiting".to_vec())?;
    equal("recv", b.recv(pair.client, &mut [0; 8]).must("recv")?.len, 0)
}

fn both(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.shutdown(pair.client, Shutdown::Both).must("shutdown")?;
    let all = Events::IN | Events::OUT | Events::HUP | Events::RDHUP;
    equal("readiness", b.readiness(pair.client).must("readiness")?, all)?;
    equal("recv", b.recv(pair.client, &mut [0; 8]).must("recv")?.len, 0)?;
    b.send(pair.client, b"x").must_fail("send", &[Error::BrokenPipe])?;
    b.recv_end(pair.server)
}

fn twice(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    for how in [Shutdown::Write, Shutdown::Write, Shutdown::Read, Shutdown::Read] {
        b.shutdown(pair.client, how).must("shutdown")?;
    }
    b.recv_end(pair.server)
}

/// A connection whose ends have both shut their sending halves.
fn ended(b: &mut Bench) -> Check<(Sock, Sock)> {
    let pair = b.connection()?;
    b.shutdown(pair.client, Shutdown::Write).must("shutdown")?;
    b.recv_end(pair.server)?;
    b.shutdown(pair.server, Shutdown::Write).must("shutdown")?;
    b.recv_end(pair.client)?;
    b.quiesce();
    Ok((pair.client, pair.server))
}

fn both_ends(b: &mut Bench) -> Check {
    let (client, server) = ended(b)?;
    let all = Events::IN | Events::OUT | Events::HUP | Events::RDHUP;
    for sock in [client, server] {
        b.ready(sock, all)?;
        equal("readiness", b.readiness(sock).must("readiness")?, all)?;
        equal("recv", b.recv(sock, &mut [0; 8]).must("recv")?.len, 0)?;
        b.send(sock, b"x").must_fail("send", &[Error::BrokenPipe])?;
        equal("take_error", b.take_error(sock), None)?;
    }
    Ok(())
}

fn over(b: &mut Bench) -> Check {
    let (client, server) = ended(b)?;
    for sock in [client, server] {
        b.peer_addr(sock).must_fail("peer_addr", &[Error::NotConnected])?;
        b.shutdown(sock, Shutdown::Both).must_fail("shutdown", &[Error::NotConnected])?;
        let local = b.local_addr(sock).must("local_addr")?;
        holds("local_addr", "the port still", local.port() != 0, local)?;
    }
    Ok(())
}

fn unconnected(b: &mut Bench) -> Check {
    let sock = b.tcp(Side::Client)?;
    let addr = b.addr(Side::Client, 0);
    b.bind(sock, addr).must("bind")?;
    for how in [Shutdown::Read, Shutdown::Write, Shutdown::Both] {
        b.shutdown(sock, how).must_fail("shutdown", &[Error::NotConnected])?;
    }
    Ok(())
}

fn states(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.tcp_info(pair.client).supported("tcp_info")?;
    b.shutdown(pair.client, Shutdown::Write).must("shutdown")?;
    b.recv_end(pair.server)?;
    b.quiesce();
    let state = |b: &Bench, sock| Ok(b.tcp_info(sock).must("tcp_info")?.state);
    equal("state of the side that closed first", state(b, pair.client)?, TcpState::FinWait2)?;
    equal("state of the other", state(b, pair.server)?, TcpState::CloseWait)?;
    b.shutdown(pair.server, Shutdown::Write).must("shutdown")?;
    b.quiesce();
    // Linux says CLOSE for a socket in TIME-WAIT, which it keeps elsewhere.
    let first = state(b, pair.client)?;
    holds("state of the side that closed first", "Closed", first == TcpState::Closed, first)?;
    equal("state of the other", state(b, pair.server)?, TcpState::Closed)
}

fn datagram_unconnected(b: &mut Bench) -> Check {
    let (sock, _) = b.udp_bound(Side::Client)?;
    b.shutdown(sock, Shutdown::Both).must_fail("shutdown", &[Error::NotConnected])
}

fn datagram_write(b: &mut Bench) -> Check {
    let (server, addr) = b.udp_bound(Side::Server)?;
    let client = b.udp(Side::Client)?;
    b.connect(client, addr).must("connect")?;
    b.send(client, b"before").must("send")?;
    b.shutdown(client, Shutdown::Write).must("shutdown")?;
    b.send(client, b"after").must_fail("send", &[Error::BrokenPipe])?;
    equal("recv", b.datagram(server)?.0, b"before".to_vec())
}

fn at_once(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"to the server")?;
    b.send_all(pair.server, b"to the client")?;
    // RFC 9293 section 3.6: both go through CLOSING.
    b.shutdown(pair.client, Shutdown::Write).must("shutdown")?;
    b.shutdown(pair.server, Shutdown::Write).must("shutdown")?;
    equal("recv(server)", b.recv_exact(pair.server, 13)?, b"to the server".to_vec())?;
    equal("recv(client)", b.recv_exact(pair.client, 13)?, b"to the client".to_vec())?;
    for sock in [pair.client, pair.server] {
        b.recv_end(sock)?;
        b.ready(sock, Events::HUP)?;
        equal("take_error", b.take_error(sock), None)?;
    }
    Ok(())
}

fn peeked_end(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.shutdown(pair.client, Shutdown::Write).must("shutdown")?;
    b.ready(pair.server, Events::RDHUP)?;
    for _ in 0..2 {
        let got = b.recv_with(pair.server, &mut [0; 8], RecvFlags::PEEK).must("recv(PEEK)")?;
        equal("recv(PEEK) at the end: length", got.len, 0)?;
    }
    b.recv_end(pair.server)
}

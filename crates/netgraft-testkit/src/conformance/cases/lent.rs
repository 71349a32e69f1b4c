//! Memory that a stack lends, and datagrams in batches.

use std::io::{IoSlice, IoSliceMut};
use std::time::Duration;

use netgraft_plugin::data::{copy_from, copy_into};
use netgraft_plugin::{
    Batch, Datagram, Error, Events, Received, Result, SendFlags, Shutdown, SocketOption, Spare, Spill,
    Streamed,
};

use super::super::bench::{Bench, Side, Sock, pattern};
use super::super::check::{Check, Checks, Outcome, equal, holds};
use super::group;

group! { "lent":
    "what is written into lent memory arrives", All, ping_pong;
    "a megabyte passes through lent memory", All, megabyte;
    "lent and copied bytes keep their order", All, mixed;
    "corked bytes keep their order too", All, corked;
    "bytes that are not taken stay", All, not_taken;
    "nothing there says again, and nothing is lent", Families, nothing;
    "a full socket says again, and nothing is lent", All, full;
    "a writer without bytes changes nothing", Families, no_bytes;
    "the end comes after the bytes and stays", All, end;
    "a closed direction takes nothing", Families, closed_direction;
    "a reset is reported, and nothing is taken", All, reset;
    "a batch arrives in order, with its sender", All, batch;
    "a batch goes to many peers", All, many_peers;
    "a batch stops at what cannot be sent", Families, batch_stops;
    "no more is received than asked for", All, batch_limit;
    "an empty datagram of a batch is one", All, batch_empty;
    "a refusal stops a batch", All, batch_refused;
}

/// A socket, with the spare memory for both its directions.
struct End {
    sock: Sock,
    scratch: Vec<u8>,
    outbound: Spill,
    inbound: Spill,
}

impl End {
    fn new(sock: Sock) -> End {
        End { sock, scratch: vec![0; 32 << 10], outbound: Spill::new(), inbound: Spill::new() }
    }

    /// Sends through lent memory; the inner result is the stack's answer.
    fn send(&mut self, b: &mut Bench, data: &[u8]) -> Check<Result<usize>> {
        let (mut filled, mut calls, mut empty) = (0, 0, false);
        let mut fill = |pieces: &mut [IoSliceMut<'_>]| {
            calls += 1;
            empty |= pieces.is_empty() || pieces.iter().any(|piece| piece.is_empty());
            filled = copy_into(pieces, data);
            filled
        };
        let spare = Spare { scratch: &mut self.scratch, spill: &mut self.outbound };
        let now = b.now();
        let stack = &mut b.stacks[self.sock.stack];
        let sent = stack.send_with(self.sock.handle, SendFlags::empty(), now, spare, &mut fill);
        holds("send_with", "room in each piece that is lent", !empty, calls)?;
        match sent {
            Ok(count) => equal("send_with: bytes written, and calls", (filled, calls), (count, 1))?,
            Err(Error::Again) => equal("send_with: calls with Again", calls, 0)?,
            // A stack that cannot tell its room finds out when the bytes are there.
            Err(_) => {}
        }
        Ok(sent)
    }

    /// Receives at most `most` bytes from lent memory.
    fn recv(&mut self, b: &mut Bench, most: usize) -> Check<Result<Option<Vec<u8>>>> {
        let (mut buf, mut taken, mut calls, mut empty) = (vec![0; most], 0, 0, false);
        let mut take = |pieces: &[IoSlice<'_>]| {
            calls += 1;
            empty |= pieces.is_empty() || pieces.iter().any(|piece| piece.is_empty());
            taken = copy_from(pieces, &mut buf);
            taken
        };
        let spare = Spare { scratch: &mut self.scratch, spill: &mut self.inbound };
        let now = b.now();
        let received = b.stacks[self.sock.stack].recv_with(self.sock.handle, now, spare, &mut take);
        holds("recv_with", "bytes in each piece that is lent", !empty, calls)?;
        match received {
            Ok(Streamed::Bytes(count)) => {
                equal("recv_with: bytes taken, and calls", (taken, calls), (count, 1))?;
            }
            other => equal(&format!("recv_with: calls with {other:?}"), calls, 0)?,
        }
        buf.truncate(taken);
        Ok(received.map(|streamed| (streamed != Streamed::End).then_some(buf)))
    }

    fn send_all(&mut self, b: &mut Bench, data: &[u8]) -> Check {
        let mut sent = 0;
        b.until("send_with", "room for all data", |b| {
            while sent < data.len() || !self.outbound.is_empty() {
                match self.send(b, &data[sent..])? {
                    Ok(count) => sent += count,
                    Err(Error::Again) => return Ok(None),
                    Err(e) => return Err(e).must("send_with"),
                }
            }
            Ok(Some(()))
        })
    }

    fn recv_exact(&mut self, b: &mut Bench, len: usize) -> Check<Vec<u8>> {
        let mut data = Vec::new();
        b.until("recv_with", &format!("{len} bytes"), |b| {
            while data.len() < len {
                match self.recv(b, len - data.len())? {
                    Ok(Some(bytes)) => data.extend(bytes),
                    Err(Error::Again) => return Ok(None),
                    other => {
                        return Err(Outcome::fail("recv_with", "more data", format_args!("{other:?}")));
                    }
                }
            }
            Ok(Some(()))
        })?;
        Ok(data)
    }

    /// Waits for an answer that is not Again.
    fn recv_some(&mut self, b: &mut Bench) -> Check<Result<Option<Vec<u8>>>> {
        self.recv_some_of(b, 2048)
    }

    /// The same, with at most `most` bytes.
    fn recv_some_of(&mut self, b: &mut Bench, most: usize) -> Check<Result<Option<Vec<u8>>>> {
        b.until("recv_with", "an answer", |b| {
            let received = self.recv(b, most)?;
            Ok((received != Err(Error::Again)).then_some(received))
        })
    }
}

/// Both ends of a new connection, the client's first.
fn ends(b: &mut Bench) -> Check<(End, End)> {
    let pair = b.connection()?;
    Ok((End::new(pair.client), End::new(pair.server)))
}

fn ping_pong(b: &mut Bench) -> Check {
    let (mut client, mut server) = ends(b)?;
    for round in 0..50_u32 {
        let text = round.to_le_bytes();
        client.send_all(b, &text)?;
        equal("recv_with(server)", server.recv_exact(b, 4)?, text.to_vec())?;
        server.send_all(b, &text[..3])?;
        equal("recv_with(client)", client.recv_exact(b, 3)?, text[..3].to_vec())?;
    }
    Ok(())
}

fn megabyte(b: &mut Bench) -> Check {
    let (mut client, mut server) = ends(b)?;
    let data = pattern(1 << 20, 21);
    let (mut sent, mut got) = (0, Vec::new());
    let limit = Duration::from_secs(if b.simulated() { 600 } else { 20 });
    b.until_within(limit, "a megabyte", "all data", |b| {
        while sent < data.len() || !client.outbound.is_empty() {
            match client.send(b, &data[sent..])? {
                Ok(count) => sent += count,
                Err(Error::Again) => break,
                Err(e) => return Err(e).must("send_with"),
            }
        }
        loop {
            // An odd number, so that every place in a ring is an end of a piece once.
            match server.recv(b, 10_007)? {
                Ok(Some(bytes)) => got.extend(bytes),
                Ok(None) => return Err(Outcome::fail("recv_with", "more data", "the end")),
                Err(Error::Again) => break,
                Err(e) => return Err(e).must("recv_with"),
            }
        }
        Ok((got.len() >= data.len()).then_some(()))
    })?;
    holds("recv_with", "the bytes that were sent", got == data, got.len())
}

fn mixed(b: &mut Bench) -> Check {
    let (mut client, mut server) = ends(b)?;
    let data = pattern(4000, 22);
    for (i, piece) in data.chunks(50).enumerate() {
        if i % 2 == 0 { client.send_all(b, piece)? } else { b.send_all(client.sock, piece)? }
    }
    for (i, piece) in data.chunks(100).enumerate() {
        let got = if i % 2 == 0 && server.inbound.is_empty() {
            b.recv_exact(server.sock, piece.len())?
        } else {
            server.recv_exact(b, piece.len())?
        };
        equal("the bytes in order", got, piece.to_vec())?;
    }
    Ok(())
}

fn corked(b: &mut Bench) -> Check {
    let (mut client, mut server) = ends(b)?;
    b.set(client.sock, SocketOption::Cork(true)).supported("set_option(Cork)")?;
    client.send_all(b, b"one ")?;
    b.send_all(client.sock, b"two ")?;
    client.send_all(b, b"three ")?;
    b.set(client.sock, SocketOption::Cork(false)).must("set_option(Cork)")?;
    client.send_all(b, b"four")?;
    equal("recv_with", server.recv_exact(b, 18)?, b"one two three four".to_vec())
}

fn not_taken(b: &mut Bench) -> Check {
    let (client, mut server) = ends(b)?;
    b.send_all(client.sock, b"abcdefghij")?;
    equal("recv_with", server.recv_exact(b, 3)?, b"abc".to_vec())?;
    let nothing = server.recv_some_of(b, 0)?.must("recv_with that takes nothing")?;
    equal("recv_with that takes nothing", nothing, Some(Vec::new()))?;
    equal("recv_with", server.recv_exact(b, 7)?, b"defghij".to_vec())?;
    equal("recv_with", server.recv(b, 8)?, Err(Error::Again))
}

fn nothing(b: &mut Bench) -> Check {
    let (mut client, mut server) = ends(b)?;
    for end in [&mut client, &mut server] {
        equal("recv_with", end.recv(b, 8)?, Err(Error::Again))?;
    }
    Ok(())
}

fn full(b: &mut Bench) -> Check {
    let (mut client, mut server) = ends(b)?;
    let data = vec![9; 64 << 10];
    let mut sent = 0;
    let mut last = Ok(0);
    // A kernel's socket may find some more room a while later: it is full when it says so twice in a row.
    for _ in 0..100 {
        let before = sent;
        // What the peer's buffer and the wire take, too.
        while let Ok(count) = client.send(b, &data)? {
            sent += count;
            holds("send_with", "an end of the room", sent < 1 << 30, sent)?;
        }
        b.quiesce();
        if sent == before {
            last = client.send(b, &data[..1])?;
            match last {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
    }
    equal("send_with on a full socket", last, Err(Error::Again))?;
    let mut got = 0;
    b.until("recv_with", "all that was sent", |b| {
        // What waits beside the stack follows as soon as there is room.
        if !client.outbound.is_empty() {
            let _ = client.send(b, &[])?;
        }
        while let Ok(Some(bytes)) = server.recv(b, 64 << 10)? {
            holds("recv_with", "the bytes that were sent", bytes.iter().all(|byte| *byte == 9), got)?;
            got += bytes.len();
        }
        Ok((got == sent).then_some(()))
    })?;
    client.send_all(b, b"more")?;
    equal("recv_with", server.recv_exact(b, 4)?, b"more".to_vec())
}

fn no_bytes(b: &mut Bench) -> Check {
    let (mut client, mut server) = ends(b)?;
    let before = b.readiness(client.sock).must("readiness")?;
    equal("send_with of nothing", client.send(b, &[])?, Ok(0))?;
    equal("readiness", b.readiness(client.sock).must("readiness")?, before)?;
    b.quiesce();
    equal("recv_with", server.recv(b, 8)?, Err(Error::Again))?;
    client.send_all(b, b"something")?;
    equal("recv_with", server.recv_exact(b, 9)?, b"something".to_vec())
}

fn end(b: &mut Bench) -> Check {
    let (mut client, mut server) = ends(b)?;
    client.send_all(b, b"last")?;
    b.close(client.sock).must("close")?;
    equal("recv_with", server.recv_exact(b, 4)?, b"last".to_vec())?;
    for _ in 0..3 {
        equal("recv_with at the end", server.recv_some(b)?, Ok(None))?;
    }
    Ok(())
}

fn closed_direction(b: &mut Bench) -> Check {
    let (mut client, mut server) = ends(b)?;
    b.shutdown(client.sock, Shutdown::Write).must("shutdown")?;
    equal("send_with after a shutdown", client.send(b, b"x")?, Err(Error::BrokenPipe))?;
    server.send_all(b, b"the other way")?;
    equal("recv_with", client.recv_exact(b, 13)?, b"the other way".to_vec())
}

fn reset(b: &mut Bench) -> Check {
    let (mut client, mut server) = ends(b)?;
    b.abort(client.sock).must("abort")?;
    equal("recv_with", server.recv_some(b)?, Err(Error::ConnectionReset))?;
    equal("recv_with after the error", server.recv(b, 8)?, Ok(None))?;
    equal("send_with after the error", server.send(b, b"x")?, Err(Error::BrokenPipe))?;
    // And the other way round: the first send reports it.
    (client, server) = ends(b)?;
    b.abort(server.sock).must("abort")?;
    b.ready(client.sock, Events::ERR)?;
    equal("send_with", client.send(b, b"x")?, Err(Error::ConnectionReset))
}

/// A datagram that was received: its bytes, and what is said of them.
type Got = (Vec<u8>, Received);

/// Sends a batch.
fn send(b: &mut Bench, sock: Sock, batch: &[Datagram<'_>]) -> Batch {
    let now = b.now();
    b.stacks[sock.stack].send_batch(sock.handle, batch, SendFlags::empty(), now)
}

/// Receives a batch.
fn recv(b: &mut Bench, sock: Sock, limit: usize) -> Check<(Batch, Vec<Got>)> {
    let (now, mut scratch, mut got) = (b.now(), vec![0; 65_536], Vec::new());
    let mut deliver = |received: &Received, data: &[u8]| got.push((data.to_vec(), *received));
    let stack = &mut b.stacks[sock.stack];
    let batch = stack.recv_batch(sock.handle, limit, now, &mut scratch, &mut deliver);
    equal("recv_batch: count", batch.count, got.len())?;
    holds("recv_batch", "no more than asked for", got.len() <= limit, batch)?;
    let whole = got.iter().all(|(data, received)| data.len() == received.len);
    holds("recv_batch", "the lengths of the bytes that are shown", whole, &got)?;
    Ok((batch, got))
}

/// Receives `count` datagrams in batches of at most `limit`.
fn recv_all(b: &mut Bench, sock: Sock, limit: usize, count: usize) -> Check<Vec<Got>> {
    let mut all = Vec::new();
    b.until("recv_batch", &format!("{count} datagrams"), |b| {
        loop {
            let (batch, got) = recv(b, sock, limit.min(count - all.len()))?;
            all.extend(got);
            match batch.stopped {
                _ if all.len() >= count => return Ok(Some(())),
                None => holds("recv_batch", "as many as asked for, or a reason", batch.count > 0, batch)?,
                Some(Error::Again) => return Ok(None),
                Some(e) => return Err(e).must("recv_batch"),
            }
        }
    })?;
    Ok(all)
}

fn batch(b: &mut Bench) -> Check {
    let (server, to) = b.udp_bound(Side::Server)?;
    let (client, from) = b.udp_bound(Side::Client)?;
    let texts: Vec<Vec<u8>> = (1..30_u8).map(|len| vec![len; usize::from(len)]).collect();
    let batch: Vec<_> = texts.iter().map(|data| Datagram { data, to: Some(to) }).collect();
    equal("send_batch", send(b, client, &batch), Batch { count: texts.len(), stopped: None })?;
    let got = recv_all(b, server, 7, texts.len())?;
    for ((data, received), text) in got.iter().zip(&texts) {
        equal("recv_batch", data, text)?;
        let said = (received.from, received.full_len);
        equal("recv_batch: from, full_len", said, (Some(from), text.len()))?;
    }
    Ok(())
}

fn many_peers(b: &mut Bench) -> Check {
    let (first, to_first) = b.udp_bound(Side::Server)?;
    let (second, to_second) = b.udp_bound(Side::Server)?;
    let client = b.udp(Side::Client)?;
    b.connect(client, to_first).must("connect")?;
    let batch = [
        Datagram { data: b"peer", to: None },
        Datagram { data: b"other", to: Some(to_second) },
        Datagram { data: b"again", to: None },
    ];
    equal("send_batch", send(b, client, &batch), Batch { count: 3, stopped: None })?;
    let texts = |got: Vec<Got>| got.into_iter().map(|(data, _)| data).collect::<Vec<_>>();
    equal("recv_batch", texts(recv_all(b, first, 8, 2)?), vec![b"peer".to_vec(), b"again".to_vec()])?;
    equal("recv_batch", texts(recv_all(b, second, 8, 1)?), vec![b"other".to_vec()])
}

fn batch_stops(b: &mut Bench) -> Check {
    let (server, to) = b.udp_bound(Side::Server)?;
    let client = b.udp(Side::Client)?;
    let large = vec![0; 70_000];
    let batch = [&b"one"[..], b"two", &large, b"four"].map(|data| Datagram { data, to: Some(to) });
    let expected = Batch { count: 2, stopped: Some(Error::MessageTooLong) };
    equal("send_batch with one that is too large", send(b, client, &batch), expected)?;
    let got = recv_all(b, server, 8, 2)?;
    equal("recv_batch", got[1].0.as_slice(), b"two")?;
    b.quiesce();
    let nothing = Batch { count: 0, stopped: Some(Error::Again) };
    equal("recv_batch of what comes behind it", recv(b, server, 8)?.0, nothing)
}

fn batch_limit(b: &mut Bench) -> Check {
    let (server, to) = b.udp_bound(Side::Server)?;
    let client = b.udp(Side::Client)?;
    for text in [b"1", b"2", b"3", b"4", b"5"] {
        b.send_to(client, text, to).must("send_to")?;
    }
    b.ready(server, Events::IN)?;
    b.quiesce();
    let (batch, got) = recv(b, server, 3)?;
    equal("recv_batch", batch, Batch { count: 3, stopped: None })?;
    equal("recv_batch", got[2].0.as_slice(), b"3")?;
    equal("recv_batch of none", recv(b, server, 0)?.0, Batch::default())?;
    let (batch, got) = recv(b, server, 8)?;
    equal("recv_batch", batch, Batch { count: 2, stopped: Some(Error::Again) })?;
    equal("recv_batch", got[1].0.as_slice(), b"5")?;
    let ready = b.readiness(server).must("readiness")?;
    holds("readiness", "no IN", !ready.contains(Events::IN), ready)
}

fn batch_empty(b: &mut Bench) -> Check {
    let (server, to) = b.udp_bound(Side::Server)?;
    let client = b.udp(Side::Client)?;
    let batch = [&b"a"[..], b"", b"b"].map(|data| Datagram { data, to: Some(to) });
    equal("send_batch", send(b, client, &batch).count, 3)?;
    let got = recv_all(b, server, 8, 3)?;
    let lengths: Vec<_> = got.iter().map(|(data, received)| (data.len(), received.full_len)).collect();
    equal("recv_batch", lengths, vec![(1, 1), (0, 0), (1, 1)])
}

fn batch_refused(b: &mut Bench) -> Check {
    let dead = b.dead_port(Side::Server)?;
    let client = b.udp(Side::Client)?;
    b.connect(client, dead).must("connect")?;
    let sent = send(b, client, &[Datagram { data: b"x", to: None }]);
    equal("send_batch", sent, Batch { count: 1, stopped: None })?;
    b.ready(client, Events::ERR)?;
    let refused = Batch { count: 0, stopped: Some(Error::ConnectionRefused) };
    equal("recv_batch", recv(b, client, 8)?.0, refused)?;
    equal("take_error", b.take_error(client), None)
}

//! Bytes of a stream: order, room, the end, and resets.

use std::time::Duration;

use netgraft_link::Way;
use netgraft_plugin::faults::{Faults, LinkFaults, Loss, Rate, Share};
use netgraft_plugin::option::{Agreed, CongestionState, TcpInfo};
use netgraft_plugin::{Error, Events, RecvFlags, SendFlags, SocketOption};

use super::super::bench::{Bench, Pair, Side, Sock, pattern, unexpected};
use super::super::check::{Check, Checks, Outcome, equal, holds};
use super::group;

group! { "stream":
    "questions and answers", All, ping_pong;
    "nothing there says again", All, nothing;
    "what arrives makes the socket readable until it is read", All, readable;
    "a short buffer leaves the rest", Families, short_reads;
    "a peek leaves everything", All, peek;
    "empty buffers move nothing", Families, empty_buffers;
    "a stream has no sender and no cut", Families, received_fields;
    "a megabyte arrives whole", All, megabyte;
    "both directions at once", All, both_ways;
    "a full socket says again and gets room when the peer reads", All, full;
    "what is written after close is queued still arrives", All, close_delivers;
    "the end comes after the data and stays", All, end_stays;
    "waiting bytes are counted", All, counted;
    "unacknowledged bytes are counted down", All, counted_out;
    "room is never promised in vain", Families, room;
    "a reset gives data, then the error, then the end", All, reset_order;
    "a reset fails a send once, then the pipe is broken", All, reset_send;
    "closing with unread data resets", All, unread_resets;
    "a zero linger time resets", All, zero_linger;
    "sending to a closed peer breaks the pipe", All, closed_peer;
    "an idle hour changes nothing", Wire, idle_hour;
    "a lossy wire loses nothing", Wire, lossy;
    "a reordering wire changes no order", Wire, reordering;
    "a doubling wire doubles nothing", Wire, doubling;
    "a long wire is filled", Wire, long_wire;
    "a slow wire is shared by both directions", Wire, slow;
    "a cut that heals is survived", Wire, healed;
    "bytes are counted for each connection", All, byte_counts;
    "a connection tells what was measured and agreed on", All, details;
    "what is sent again is counted", Wire, repeats_counted;
    "a reader that sleeps loses nothing", Wire, slow_reader;
    "a lost window update is made good", Wire, lost_update;
    "data without answers ends the connection at last", Wire, gives_up;
    "a lost end is sent again", Wire, lost_end;
    "what is followed by more arrives all the same", All, more;
    "single bytes arrive in order", All, single_bytes;
}

fn ping_pong(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    for round in 0..100_u32 {
        let text = round.to_le_bytes();
        b.send_all(pair.client, &text)?;
        equal("recv(server)", b.recv_exact(pair.server, 4)?, text.to_vec())?;
        b.send_all(pair.server, &text[..3])?;
        equal("recv(client)", b.recv_exact(pair.client, 3)?, text[..3].to_vec())?;
    }
    Ok(())
}

fn nothing(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    for sock in [pair.client, pair.server] {
        b.recv(sock, &mut [0; 8]).must_fail("recv", &[Error::Again])?;
        b.recv_with(sock, &mut [0; 8], RecvFlags::PEEK).must_fail("recv(PEEK)", &[Error::Again])?;
        equal("readiness", b.readiness(sock).must("readiness")?, Events::OUT)?;
    }
    Ok(())
}

fn readable(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"data")?;
    b.ready(pair.server, Events::IN)?;
    equal("readiness", b.readiness(pair.server).must("readiness")?, Events::IN | Events::OUT)?;
    b.recv_exact(pair.server, 4)?;
    equal("readiness", b.readiness(pair.server).must("readiness")?, Events::OUT)
}

fn short_reads(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let data = pattern(1000, 1);
    b.send_all(pair.client, &data)?;
    b.quiesce();
    for chunk in data.chunks(7) {
        let mut buf = [0; 7];
        let got = b.recv(pair.server, &mut buf).must("recv")?;
        equal("recv", &buf[..got.len], chunk)?;
    }
    b.recv(pair.server, &mut [0; 7]).must_fail("recv", &[Error::Again])
}

fn peek(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"peeked")?;
    b.quiesce();
    for _ in 0..3 {
        let mut buf = [0; 4];
        let got = b.recv_with(pair.server, &mut buf, RecvFlags::PEEK).must("recv(PEEK)")?;
        equal("recv(PEEK)", &buf[..got.len], b"peek")?;
        b.ready(pair.server, Events::IN)?;
    }
    equal("recv", b.recv_exact(pair.server, 6)?, b"peeked".to_vec())?;
    b.recv_with(pair.server, &mut [0; 8], RecvFlags::PEEK).must_fail("recv(PEEK)", &[Error::Again])
}

fn empty_buffers(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    equal("send of nothing", b.send(pair.client, &[]).must("send")?, 0)?;
    b.quiesce();
    b.recv(pair.server, &mut [0; 8]).must_fail("recv", &[Error::Again])?;
    b.send_all(pair.client, b"x")?;
    b.quiesce();
    equal("recv into nothing", b.recv(pair.server, &mut []).must("recv")?.len, 0)?;
    equal("recv", b.recv_exact(pair.server, 1)?, b"x".to_vec())
}

fn received_fields(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"abc")?;
    b.quiesce();
    let got = b.recv(pair.server, &mut [0; 2]).must("recv")?;
    equal("recv: len, full_len, from", (got.len, got.full_len, got.from), (2, 2, None))
}

fn megabyte(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.transfer(pair.client, pair.server, &pattern(1 << 20, 2), "transfer to the server")?;
    b.transfer(pair.server, pair.client, &pattern(1 << 20, 3), "transfer to the client")
}

fn both_ways(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let ways = [(pair.client, pair.server), (pair.server, pair.client)];
    let data = [pattern(300_000, 4), pattern(300_000, 5)];
    let (mut sent, mut got) = ([0, 0], [0, 0]);
    let mut buf = vec![0; 16_384];
    b.until("transfer", "all data both ways", |b| {
        for (way, &(from, to)) in ways.iter().enumerate() {
            match b.send(from, &data[way][sent[way]..]) {
                Ok(count) => sent[way] += count,
                Err(Error::Again) => {}
                Err(e) => Err(e).must("send")?,
            }
            loop {
                match b.recv(to, &mut buf) {
                    Ok(r) => {
                        holds("recv", "more data", r.len > 0, r)?;
                        equal("recv", Some(&buf[..r.len]), data[way].get(got[way]..got[way] + r.len))?;
                        got[way] += r.len;
                    }
                    Err(Error::Again) => break,
                    Err(e) => return Err(e).must("recv"),
                }
            }
        }
        Ok((got == [300_000; 2]).then_some(()))
    })
}

/// Sends until nothing more goes, with time for the peer's buffer to fill; answers how much went.
fn fill(b: &mut Bench, pair: &Pair) -> Check<usize> {
    let chunk = [7; 16_384];
    let mut sent = 0;
    for _ in 0..1000 {
        match b.send(pair.client, &chunk) {
            Ok(count) => sent += count,
            Err(Error::Again) => {
                b.quiesce();
                match b.send(pair.client, &chunk) {
                    Ok(count) => sent += count,
                    Err(Error::Again) => return Ok(sent),
                    Err(e) => return Err(e).must("send"),
                }
            }
            Err(e) => return Err(e).must("send"),
        }
    }
    Err(unexpected("send", "Again at last, since the peer does not read", sent))
}

fn full(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let sent = fill(b, &pair)?;
    let ready = b.readiness(pair.client).must("readiness")?;
    holds("readiness of a full socket", "no OUT", !ready.contains(Events::OUT), ready)?;
    let data = b.recv_exact(pair.server, sent)?;
    holds("recv", "the bytes that were sent", data.iter().all(|byte| *byte == 7), sent)?;
    b.ready(pair.client, Events::OUT)?;
    b.send_all(pair.client, b"more")?;
    equal("recv", b.recv_exact(pair.server, 4)?, b"more".to_vec())
}

fn close_delivers(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let sent = fill(b, &pair)?;
    b.close(pair.client).must("close")?;
    b.recv_exact(pair.server, sent)?;
    b.recv_end(pair.server)
}

fn end_stays(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"last")?;
    b.close(pair.client).must("close")?;
    b.ready(pair.server, Events::IN | Events::RDHUP)?;
    equal("recv", b.recv_exact(pair.server, 4)?, b"last".to_vec())?;
    for _ in 0..3 {
        b.recv_end(pair.server)?;
    }
    let ready = b.readiness(pair.server).must("readiness")?;
    equal("readiness", ready, Events::IN | Events::OUT | Events::RDHUP)?;
    equal("take_error", b.take_error(pair.server), None)
}

fn counted(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    equal("queued_in", b.queued_in(pair.server).supported("queued_in")?, 0)?;
    b.send_all(pair.client, &[1; 300])?;
    b.quiesce();
    equal("queued_in", b.queued_in(pair.server).must("queued_in")?, 300)?;
    b.recv_exact(pair.server, 100)?;
    equal("queued_in", b.queued_in(pair.server).must("queued_in")?, 200)
}

fn counted_out(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    equal("queued_out", b.queued_out(pair.client).supported("queued_out")?, 0)?;
    let sent = fill(b, &pair)?;
    let queued = b.queued_out(pair.client).must("queued_out")?;
    holds("queued_out of a full socket", "1 to what was sent", (1..=sent).contains(&queued), queued)?;
    b.recv_exact(pair.server, sent)?;
    // The last bytes may be acknowledged half a second late (RFC 9293 section 3.8.6.3).
    let acknowledged = |b: &mut Bench| Ok((b.queued_out(pair.client) == Ok(0)).then_some(()));
    b.until("queued_out", "0 once all is read", acknowledged)
}

fn room(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let room = |b: &Bench, sock: Sock| b.stacks[sock.stack].send_room(sock.handle);
    holds("send_room", "some room", room(b, pair.client) > 0, room(b, pair.client))?;
    let promised = room(b, pair.client);
    if promised != usize::MAX {
        let data = vec![1; promised.min(1 << 22)];
        equal("send of what there is room for", b.send(pair.client, &data).must("send")?, data.len())?;
    }
    fill(b, &pair)?;
    let left = room(b, pair.client);
    holds("send_room of a full socket", "0 or unknown", left == 0 || left == usize::MAX, left)
}

fn reset_order(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"before")?;
    b.quiesce();
    b.abort(pair.client).must("abort")?;
    let all = Events::IN | Events::OUT | Events::ERR | Events::HUP | Events::RDHUP;
    b.ready(pair.server, all)?;
    equal("recv", b.recv_exact(pair.server, 6)?, b"before".to_vec())?;
    b.recv(pair.server, &mut [0; 8]).must_fail("recv", &[Error::ConnectionReset])?;
    equal("recv after the error", b.recv(pair.server, &mut [0; 8]).must("recv")?.len, 0)?;
    equal("take_error", b.take_error(pair.server), None)?;
    equal("readiness", b.readiness(pair.server).must("readiness")?, all - Events::ERR)
}

fn reset_send(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.abort(pair.server).must("abort")?;
    b.ready(pair.client, Events::ERR)?;
    b.send(pair.client, b"x").must_fail("send", &[Error::ConnectionReset])?;
    b.send(pair.client, b"x").must_fail("send", &[Error::BrokenPipe])?;
    let pair = b.connection()?;
    b.abort(pair.server).must("abort")?;
    b.ready(pair.client, Events::ERR)?;
    equal("take_error", b.take_error(pair.client), Some(Error::ConnectionReset))?;
    equal("take_error", b.take_error(pair.client), None)?;
    b.peer_addr(pair.client).must_fail("peer_addr", &[Error::NotConnected])
}

fn unread_resets(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"unread")?;
    b.ready(pair.server, Events::IN)?;
    // RFC 2525 section 2.17: data is lost, so the peer must know.
    b.close(pair.server).must("close")?;
    b.recv_some(pair.client)?.must_fail("recv", &[Error::ConnectionReset])
}

fn zero_linger(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.set(pair.client, SocketOption::Linger(Some(Duration::ZERO))).supported("set_option(Linger)")?;
    // The window lets it go at once: it is on its way before the reset.
    b.send_all(pair.client, b"before")?;
    b.close(pair.client).must("close")?;
    equal("recv", b.recv_exact(pair.server, 6)?, b"before".to_vec())?;
    b.recv_some(pair.server)?.must_fail("recv", &[Error::ConnectionReset])
}

fn closed_peer(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.close(pair.server).must("close")?;
    b.recv_end(pair.client)?;
    // The first is taken, and answered with a reset.
    equal("send", b.send(pair.client, b"x").must("send")?, 1)?;
    b.quiesce();
    b.send(pair.client, b"x").must_fail("send after the answer", &[Error::BrokenPipe])?;
    let ready = b.readiness(pair.client).must("readiness")?;
    holds("readiness", "HUP", ready.contains(Events::HUP), ready)?;
    equal("recv after it", b.recv(pair.client, &mut [0; 8]).must("recv")?.len, 0)
}

fn idle_hour(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.run_for(Duration::from_secs(3600));
    b.transfer(pair.server, pair.client, &pattern(10_000, 6), "transfer after an hour")
}

/// A transfer each way over a wire that is impaired both ways.
fn impaired(b: &mut Bench, how: Faults, len: usize) -> Check {
    let pair = b.connection()?;
    b.dials.iter().for_each(|dial| dial.set(LinkFaults::only_incoming(how)));
    b.transfer(pair.client, pair.server, &pattern(len, 7), "transfer to the server")?;
    b.transfer(pair.server, pair.client, &pattern(len, 8), "transfer to the client")?;
    b.close(pair.client).must("close")?;
    b.recv_end(pair.server)
}

fn lossy(b: &mut Bench) -> Check {
    let delay = Duration::from_millis(5);
    impaired(b, Faults { delay, loss: Loss::Random(Share::from_percent(2)), ..Faults::default() }, 300_000)
}

fn reordering(b: &mut Bench) -> Check {
    let delay = Duration::from_millis(5);
    impaired(
        b,
        Faults { delay, reorder: Share::from_percent(10), reorder_by: delay, ..Faults::default() },
        300_000,
    )
}

fn doubling(b: &mut Bench) -> Check {
    impaired(b, Faults { duplicate: Share::from_percent(30), ..Faults::default() }, 300_000)
}

fn long_wire(b: &mut Bench) -> Check {
    let start = b.now();
    impaired(b, Faults { delay: Duration::from_millis(50), ..Faults::default() }, 1 << 20)?;
    let took = b.now().since(start);
    // 100 ms there and back: a window of 64 KiB moves a megabyte in less than 2 s.
    holds("transfer", "a megabyte each way within 10 s", took < Duration::from_secs(10), took)
}

fn slow(b: &mut Bench) -> Check {
    let rate = Rate::from_bits(8_000_000);
    let delay = Duration::from_millis(1);
    let start = b.now();
    impaired(b, Faults { delay, rate, ..Faults::default() }, 500_000)?;
    let took = b.now().since(start);
    holds("transfer", "what takes a second done within four", took < Duration::from_secs(4), took)
}

fn healed(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"before")?;
    b.recv_exact(pair.server, 6)?;
    let before: Vec<_> = b.dials.iter().map(|dial| dial.get()).collect();
    b.dials.iter().for_each(|dial| dial.cut(Way::In));
    b.send_all(pair.client, b"during")?;
    b.run_for(Duration::from_secs(8));
    b.recv(pair.server, &mut [0; 8]).must_fail("recv", &[Error::Again])?;
    b.dials.iter().zip(before).for_each(|(dial, how)| dial.set(how));
    equal("recv", b.recv_exact(pair.server, 6)?, b"during".to_vec())
}

fn byte_counts(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.tcp_info(pair.client).supported("tcp_info")?;
    b.transfer(pair.client, pair.server, &pattern(50_000, 9), "transfer")?;
    b.quiesce();
    let sent = b.tcp_info(pair.client).must("tcp_info")?.bytes_sent;
    let received = b.tcp_info(pair.server).must("tcp_info")?.bytes_received;
    equal("tcp_info: bytes sent and received", (sent, received), (50_000, 50_000))?;
    let info = b.tcp_info(pair.client).must("tcp_info")?;
    equal("tcp_info: unacknowledged", info.unacknowledged, 0)
}

fn details(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.tcp_info(pair.client).supported("tcp_info")?;
    b.transfer(pair.client, pair.server, &pattern(50_000, 9), "transfer")?;
    b.transfer(pair.server, pair.client, &pattern(50_000, 8), "transfer")?;
    b.quiesce();
    let (client, server) =
        (b.tcp_info(pair.client).must("tcp_info")?, b.tcp_info(pair.server).must("tcp_info")?);
    for info in [&client, &server] {
        equal("tcp_info: not sent, lost, time-outs", (info.not_sent, info.lost, info.backoff), (0, 0, 0))?;
        equal("tcp_info: congestion state", info.congestion_state, CongestionState::Open)?;
    }
    if client.agreed == Agreed::default() && client.least_rtt.is_zero() {
        return Err(Outcome::Unsupported { says: "tcp_info: no details are told".to_owned() });
    }
    // Both ends have the same connection; what one offers is what the other is offered.
    let seen = |info: &TcpInfo| {
        let Agreed { timestamps, sack, window_scales, ecn, .. } = info.agreed;
        (timestamps, sack, window_scales.is_some(), ecn)
    };
    equal("tcp_info: agreed at both ends", seen(&server), seen(&client))?;
    let turned = server.agreed.window_scales.map(|(send, receive)| (receive, send));
    equal("tcp_info: window scales", client.agreed.window_scales, turned)?;
    let (least, rto) = (client.least_rtt, client.rto);
    holds("tcp_info: shortest round trip", "at most the time-out", least <= rto, least)
}

fn repeats_counted(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"before")?;
    b.recv_exact(pair.server, 6)?;
    let before = b.stack(Side::Client).statistics().tcp;
    let hows: Vec<_> = b.dials.iter().map(|dial| dial.get()).collect();
    b.dials.iter().for_each(|dial| dial.cut(Way::In));
    b.send_all(pair.client, b"during")?;
    b.run_for(Duration::from_secs(4));
    b.dials.iter().zip(hows).for_each(|(dial, how)| dial.set(how));
    equal("recv", b.recv_exact(pair.server, 6)?, b"during".to_vec())?;
    let after = b.stack(Side::Client).statistics().tcp;
    let (again, timeouts) = (after.retransmitted - before.retransmitted, after.timeouts - before.timeouts);
    if (again, timeouts) == (0, 0) {
        return Err(Outcome::Unsupported { says: "statistics: no retransmissions are counted".to_owned() });
    }
    holds("statistics: segments sent again", "at least one", again >= 1, again)?;
    holds("statistics: time-outs", "at least one", timeouts >= 1, timeouts)
}

fn slow_reader(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let sent = fill(b, &pair)?;
    // The writer asks for room all the while (RFC 9293 section 3.8.6.1).
    b.run_for(Duration::from_secs(900));
    equal("readiness", b.readiness(pair.client).must("readiness")?, Events::empty())?;
    b.recv_exact(pair.server, sent)?;
    b.transfer(pair.client, pair.server, &pattern(100_000, 10), "transfer after the sleep")
}

fn lost_update(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let sent = fill(b, &pair)?;
    let before: Vec<_> = b.dials.iter().map(|dial| dial.get()).collect();
    b.dials.iter().for_each(|dial| dial.cut(Way::In));
    // What has arrived is read, and the window update is lost.
    let mut buf = vec![0; sent];
    let mut got = 0;
    while let Ok(r) = b.recv(pair.server, &mut buf) {
        holds("recv", "more data", r.len > 0, r)?;
        got += r.len;
    }
    b.run_for(Duration::from_secs(3));
    b.dials.iter().zip(before).for_each(|(dial, how)| dial.set(how));
    let limit = Duration::from_secs(120);
    b.until_within(limit, "recv", "the rest, after a window probe", |b| {
        while let Ok(r) = b.recv(pair.server, &mut buf) {
            holds("recv", "more data", r.len > 0, r)?;
            got += r.len;
        }
        Ok((got == sent).then_some(()))
    })?;
    b.transfer(pair.client, pair.server, &pattern(100_000, 11), "transfer afterwards")
}

fn gives_up(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.dials.iter().for_each(|dial| dial.cut(Way::In));
    b.send_all(pair.client, b"into the void")?;
    let start = b.now();
    b.until_within(Duration::from_secs(7200), "readiness", "ERR", |b| {
        Ok(b.readiness(pair.client).must("readiness")?.contains(Events::ERR).then_some(()))
    })?;
    let error = b.take_error(pair.client);
    let known = matches!(error, Some(Error::TimedOut | Error::HostUnreachable));
    holds("take_error", "TimedOut or HostUnreachable", known, error)?;
    // RFC 9293 section 3.8.3: at least 100 seconds.
    let took = b.now().since(start);
    holds("send", "100 s of patience at least", took >= Duration::from_secs(100), took)
}

fn lost_end(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"x")?;
    b.recv_exact(pair.server, 1)?;
    b.quiesce();
    let before: Vec<_> = b.dials.iter().map(|dial| dial.get()).collect();
    b.dials.iter().for_each(|dial| dial.cut(Way::In));
    b.close(pair.client).must("close")?;
    b.run_for(Duration::from_secs(2));
    b.recv(pair.server, &mut [0; 8]).must_fail("recv", &[Error::Again])?;
    b.dials.iter().zip(before).for_each(|(dial, how)| dial.set(how));
    b.recv_end(pair.server)
}

fn more(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    for piece in [b"one ", b"two "] {
        b.send_with(pair.client, piece, None, SendFlags::MORE).must("send(MORE)")?;
    }
    b.send_with(pair.client, b"three", None, SendFlags::empty()).must("send")?;
    equal("recv", b.recv_exact(pair.server, 13)?, b"one two three".to_vec())?;
    // And when nothing follows, after 200 ms (send(2), tcp(7)).
    b.send_with(pair.client, b"last", None, SendFlags::MORE).must("send(MORE)")?;
    equal("recv", b.recv_exact(pair.server, 4)?, b"last".to_vec())
}

fn single_bytes(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let data = pattern(500, 12);
    for byte in &data {
        b.send_all(pair.client, &[*byte])?;
    }
    equal("recv", b.recv_exact(pair.server, 500)?, data)
}

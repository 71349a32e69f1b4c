//! Random sequences of calls, with time among them: whatever a program does, the stack keeps its word.
//!
//! A failure names its seed; the sequence repeats from it on a simulated clock.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use netgraft_link::random::Random;
use netgraft_plugin::faults::{Faults, LinkFaults, Loss, Share};
use netgraft_plugin::{Error, Events, OptionName, RecvFlags, Shutdown, SocketOption};

use super::super::bench::{Bench, Side, Sock, pattern};
use super::super::check::{Check, Checks, Outcome, equal, holds};
use super::group;

group! { "random":
    "calls in any order keep the stack's word", All, any_order;
    "calls in any order over a bad wire", Wire, bad_wire;
    "bytes of random streams arrive as they were sent", All, streams;
    "datagrams in any order arrive whole", All, datagrams;
}

/// The seeds of one case: on a real clock a sequence takes its time.
fn seeds(b: &Bench) -> std::ops::Range<u64> {
    0..if b.simulated() { 12 } else { 2 }
}

/// Names the seed in a failure.
fn seeded(seed: u64, result: Check) -> Check {
    result.map_err(|outcome| match outcome {
        Outcome::Fail { call, expected, actual } => {
            Outcome::Fail { call: format!("seed {seed}: {call}"), expected, actual }
        }
        other => other,
    })
}

fn any_order(b: &mut Bench) -> Check {
    seeds(b).try_for_each(|seed| seeded(seed, sequence(b, seed)))
}

fn bad_wire(b: &mut Bench) -> Check {
    let delay = Duration::from_millis(3);
    let share = Share::from_percent(5);
    let loss = Loss::Random(share);
    let how =
        Faults { delay, loss, reorder: share, reorder_by: delay, duplicate: share, ..Faults::default() };
    b.dials.iter().for_each(|dial| dial.set(LinkFaults::only_incoming(how)));
    seeds(b).try_for_each(|seed| seeded(seed, sequence(b, 100 + seed)))
}

/// One sequence: makes calls at random on a handful of sockets, then closes all of them.
fn sequence(b: &mut Bench, seed: u64) -> Check {
    let mut random = Random::new(seed);
    let before: u64 = b.stacks.iter().map(|stack| stack.statistics().sockets).sum();
    let mut socks: Vec<Sock> = Vec::new();
    for _ in 0..300 {
        if socks.len() < 4 || (socks.len() < 16 && random.below(8) == 0) {
            let side = if random.below(2) == 0 { Side::Client } else { Side::Server };
            socks.push(if random.below(3) == 0 { b.udp(side)? } else { b.tcp(side)? });
        }
        let at = random.below(socks.len() as u64) as usize;
        let sock = socks[at];
        match random.below(20) {
            0..=1 => {
                let _ = b.close(sock);
                socks.swap_remove(at);
                b.readiness(sock).must_fail("readiness after close", &[Error::BadHandle])?;
            }
            2 => {
                let _ = b.abort(sock);
                socks.swap_remove(at);
            }
            3..=5 => step_in_time(b, &mut random),
            6..=7 => {
                if let Ok((accepted, _)) = b.accept(sock) {
                    socks.push(accepted);
                }
            }
            8..=9 => {
                let other = socks[random.below(socks.len() as u64) as usize];
                if let Ok(to) = b.local_addr(other) {
                    let _ = b.connect(sock, to);
                }
            }
            _ => any_call(b, sock, &mut random),
        }
        for sock in &socks {
            consistent(b, *sock)?;
        }
    }
    for sock in socks {
        b.abort(sock).must("abort")?;
    }
    b.quiesce();
    let after: u64 = b.stacks.iter().map(|stack| stack.statistics().sockets).sum();
    equal("statistics: sockets afterwards", after, before)
}

/// Lets no time, a little or much pass.
fn step_in_time(b: &mut Bench, random: &mut Random) {
    match random.below(4) {
        0 => b.step(),
        1 => b.run_for(Duration::from_millis(2)),
        _ if !b.simulated() => b.run_for(Duration::from_millis(random.below(3))),
        2 => b.run_for(Duration::from_millis(random.below(2_000))),
        _ => b.run_for(Duration::from_secs(random.below(100))),
    }
}

/// A call that may fail in any way that is no panic.
fn any_call(b: &mut Bench, sock: Sock, random: &mut Random) {
    let side = if random.below(2) == 0 { Side::Client } else { Side::Server };
    let addr = b.addr(side, [0, 0, 9, 40_001][random.below(4) as usize]);
    let mut buf = vec![7; random.below(5_000) as usize];
    let _ = match random.below(13) {
        0 => b.bind(sock, addr),
        1..=2 => b.listen(sock, random.below(6) as u32),
        3..=4 => b.send(sock, &buf).map(drop),
        5 => b.send_to(sock, &buf, addr).map(drop),
        6 => b.recv(sock, &mut buf).map(drop),
        7 => b.recv_with(sock, &mut buf, RecvFlags::PEEK).map(drop),
        8 => {
            let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both][random.below(3) as usize];
            b.shutdown(sock, how)
        }
        9 => b.add_fd(sock, Events::from_bits_truncate(random.bits() as u32)),
        10 => b.update_fd(sock, Events::from_bits_truncate(random.bits() as u32)),
        11 => b.remove_fd(sock).and_then(|()| b.disconnect(sock)),
        _ => {
            let name = OptionName::ALL[random.below(OptionName::ALL.len() as u64) as usize];
            let got = b.get(sock, name);
            let _ = b.set(sock, SocketOption::Linger((random.below(2) == 0).then_some(Duration::ZERO)));
            got.and_then(|option| b.set(sock, option))
        }
    };
}

/// What a stack says of one socket in several ways must agree.
fn consistent(b: &mut Bench, sock: Sock) -> Check {
    // On real time something may arrive between two questions.
    if !b.simulated() {
        return b.readiness(sock).map(drop).must("readiness");
    }
    let ready = b.readiness(sock).must("readiness")?;
    let peeked = b.recv_with(sock, &mut [0; 1], RecvFlags::PEEK);
    let listens = b.tcp_info(sock).is_ok_and(|info| info.state == netgraft_plugin::TcpState::Listen);
    if peeked.is_ok() && !listens {
        holds("readiness of what can be received", "IN", ready.contains(Events::IN), ready)?;
    }
    if peeked == Err(Error::Again) {
        holds("readiness of what says again", "no IN", !ready.contains(Events::IN), ready)?;
    }
    if ready.contains(Events::HUP) {
        holds("readiness of what is hung up", "OUT", ready.contains(Events::OUT), ready)?;
    }
    let connected = b.peer_addr(sock).is_ok();
    holds("peer_addr", "none of a listener", !(connected && listens), ready)
}

fn streams(b: &mut Bench) -> Check {
    seeds(b).try_for_each(|seed| seeded(seed, stream(b, seed)))
}

/// A connection that sends and reads pieces of random sizes, and whose halves end at random.
fn stream(b: &mut Bench, seed: u64) -> Check {
    let mut random = Random::new(seed);
    let pair = b.connection()?;
    let ends = [(pair.client, pair.server), (pair.server, pair.client)];
    let data = [pattern(400_000, seed + 1000), pattern(400_000, seed + 2000)];
    let (mut sent, mut got, mut shut) = ([0, 0], [0, 0], [false; 2]);
    for _ in 0..400 {
        let way = random.below(2) as usize;
        let (from, to) = ends[way];
        match random.below(10) {
            0..=3 if !shut[way] => {
                let end = data[way].len().min(sent[way] + random.below(5_000) as usize);
                match b.send(from, &data[way][sent[way]..end]) {
                    Ok(count) => {
                        holds("send", "no more than there is", count <= end - sent[way], count)?;
                        sent[way] += count;
                    }
                    Err(Error::Again) => {}
                    Err(e) => return Err(e).must("send"),
                }
            }
            0..=7 => {
                let mut buf = vec![0; random.below(4_000) as usize + 1];
                match b.recv(to, &mut buf) {
                    Ok(r) => {
                        equal("recv", Some(&buf[..r.len]), data[way].get(got[way]..got[way] + r.len))?;
                        got[way] += r.len;
                        holds("recv", "no end before all bytes", r.len > 0 || got[way] == sent[way], got)?;
                    }
                    Err(Error::Again) => {}
                    Err(e) => return Err(e).must("recv"),
                }
            }
            8 => b.step(),
            _ if !shut[way] && random.below(20) == 0 => {
                b.shutdown(from, Shutdown::Write).must("shutdown")?;
                shut[way] = true;
            }
            _ => step_in_time(b, &mut random),
        }
    }
    for (way, (from, to)) in ends.into_iter().enumerate() {
        if !shut[way] {
            b.shutdown(from, Shutdown::Write).must("shutdown")?;
        }
        let rest = b.recv_exact(to, sent[way] - got[way])?;
        let same = rest == data[way][got[way]..sent[way]];
        holds("recv", "the rest of the bytes", same, (got[way], sent[way]))?;
        b.recv_end(to)?;
    }
    for sock in [pair.client, pair.server, pair.listener] {
        b.close(sock).must("close")?;
    }
    Ok(())
}

fn datagrams(b: &mut Bench) -> Check {
    seeds(b).try_for_each(|seed| seeded(seed, exchange(b, seed)))
}

/// Sockets that send each other datagrams of random sizes; each arrives once, at the socket that it was sent to.
fn exchange(b: &mut Bench, seed: u64) -> Check {
    let mut random = Random::new(seed);
    let mut socks = Vec::new();
    for side in [Side::Client, Side::Server, Side::Client, Side::Server] {
        socks.push(b.udp_bound(side)?);
    }
    let mut under_way: HashMap<(Sock, Vec<u8>), SocketAddr> = HashMap::new();
    for number in 0..200_u32 {
        let (from, from_addr) = socks[random.below(4) as usize];
        let (to, to_addr) = socks[random.below(4) as usize];
        let mut data = number.to_le_bytes().to_vec();
        data.resize(4 + random.below(3_000) as usize, number as u8);
        match b.send_to(from, &data, to_addr) {
            Ok(count) => {
                equal("send_to", count, data.len())?;
                under_way.insert((to, data), from_addr);
            }
            other => other.map(drop).must_fail("send_to", &[Error::Again])?,
        }
        if random.below(3) == 0 {
            b.quiesce();
            for (sock, _) in &socks {
                take_received(b, *sock, &mut under_way)?;
            }
        }
    }
    b.quiesce();
    for (sock, _) in &socks {
        take_received(b, *sock, &mut under_way)?;
        b.close(*sock).must("close")?;
    }
    equal("recv: datagrams that were lost without need", under_way.len(), 0)
}

/// Takes all that a socket has received off the list.
fn take_received(b: &mut Bench, sock: Sock, under_way: &mut HashMap<(Sock, Vec<u8>), SocketAddr>) -> Check {
    let mut buf = vec![0; 4096];
    loop {
        match b.recv(sock, &mut buf) {
            Ok(got) => {
                let sender = under_way.remove(&(sock, buf[..got.len].to_vec()));
                holds("recv", "a datagram that was sent to this socket", sender.is_some(), got)?;
                equal("recv: from", got.from, sender)?;
            }
            Err(Error::Again) => return Ok(()),
            Err(e) => return Err(e).must("recv"),
        }
    }
}

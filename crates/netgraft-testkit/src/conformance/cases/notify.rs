//! Readiness is reported for what is registered, and only for that.

use netgraft_plugin::{Error, Events, PluginStack, Shutdown};

use super::super::bench::{Bench, Pair, Side, Sock};
use super::super::check::{Check, Checks, equal, holds};
use super::group;

group! { "notify":
    "what holds already is reported at once", All, at_once;
    "a second registration is refused", Families, add_twice;
    "what is not registered cannot be changed", Families, not_added;
    "nothing is reported for a socket that is not registered", All, silent;
    "only what is waited for is reported", All, masked;
    "errors and hang-ups are always reported", All, always;
    "a wider mask reports what it adds", All, widened;
    "a narrower mask reports less", All, narrowed;
    "a removed socket is silent and may be added again", All, removed;
    "closing a socket ends its reports", All, closed;
    "the end of a connect is reported", All, connect_ends;
    "a refused connect is reported", All, connect_refused;
    "a connection is reported to its listener", All, connection_comes;
    "data after an empty read is reported", All, data_again;
    "room after a full write is reported", All, room_again;
    "the peer's end is reported", All, peer_ends;
    "a hang-up is reported when both ends have closed", All, hangs_up;
    "a reset is reported", All, reset;
    "a datagram is reported", All, datagram;
    "an accepted socket is not registered by itself", All, accepted;
    "a sink that says stop loses nothing", Families, stopped_sink;
    "idle sockets report nothing", All, idle;
    "one's own shutdown is reported", Families, own_shutdown;
    "readiness is reported for the socket that has it only", All, own_events;
}

/// Waits until these events were reported for a socket, since they were last taken; answers all that were.
fn reported(b: &mut Bench, sock: Sock, events: Events) -> Check<Events> {
    let mut seen = Events::empty();
    b.until("drain_events", &format!("{events:?}"), |b| {
        seen |= b.take_events(sock);
        Ok(seen.contains(events).then_some(seen))
    })
}

/// Nothing may be reported for a socket for a while.
fn unreported(b: &mut Bench, sock: Sock) -> Check {
    b.quiesce();
    equal("drain_events", b.take_events(sock), Events::empty())
}

/// A connection with one end registered, and what it reported so far taken.
fn watched(b: &mut Bench, mask: Events) -> Check<Pair> {
    let pair = b.connection()?;
    b.add_fd(pair.server, mask).must("add_fd")?;
    b.quiesce();
    b.take_events(pair.server);
    Ok(pair)
}

fn at_once(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"data")?;
    b.ready(pair.server, Events::IN)?;
    b.add_fd(pair.server, Events::IN | Events::OUT).must("add_fd")?;
    // Without time passing or a packet moving.
    let mut seen = Events::empty();
    b.stacks[pair.server.stack].drain_events(&mut |event| {
        if event.handle == pair.server.handle {
            seen |= event.events;
        }
        true
    });
    equal("drain_events", seen, Events::IN | Events::OUT)
}

fn add_twice(b: &mut Bench) -> Check {
    for sock in [b.tcp(Side::Client)?, b.udp(Side::Client)?] {
        b.add_fd(sock, Events::IN).must("add_fd")?;
        b.add_fd(sock, Events::OUT).must_fail("add_fd", &[Error::Exists])?;
    }
    Ok(())
}

fn not_added(b: &mut Bench) -> Check {
    let sock = b.tcp(Side::Client)?;
    b.update_fd(sock, Events::IN).must_fail("update_fd", &[Error::BadHandle])?;
    b.remove_fd(sock).must_fail("remove_fd", &[Error::BadHandle])?;
    b.add_fd(sock, Events::IN).must("add_fd")?;
    b.update_fd(sock, Events::OUT).must("update_fd")?;
    b.remove_fd(sock).must("remove_fd")?;
    b.remove_fd(sock).must_fail("remove_fd", &[Error::BadHandle])
}

fn silent(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.send_all(pair.client, b"data")?;
    unreported(b, pair.server)?;
    b.abort(pair.client).must("abort")?;
    unreported(b, pair.server)
}

fn masked(b: &mut Bench) -> Check {
    let pair = watched(b, Events::IN)?;
    b.quiesce();
    equal("drain_events", b.take_events(pair.server), Events::empty())?;
    b.send_all(pair.client, b"data")?;
    equal("drain_events", reported(b, pair.server, Events::IN)?, Events::IN)
}

fn always(b: &mut Bench) -> Check {
    let pair = watched(b, Events::empty())?;
    b.abort(pair.client).must("abort")?;
    let seen = reported(b, pair.server, Events::ERR | Events::HUP)?;
    equal("drain_events", seen, Events::ERR | Events::HUP)
}

fn widened(b: &mut Bench) -> Check {
    let pair = watched(b, Events::empty())?;
    b.send_all(pair.client, b"data")?;
    unreported(b, pair.server)?;
    b.update_fd(pair.server, Events::IN).must("update_fd")?;
    reported(b, pair.server, Events::IN)?;
    b.update_fd(pair.server, Events::IN | Events::OUT).must("update_fd")?;
    reported(b, pair.server, Events::OUT).map(|_| ())
}

fn narrowed(b: &mut Bench) -> Check {
    let pair = watched(b, Events::IN)?;
    b.update_fd(pair.server, Events::OUT).must("update_fd")?;
    b.quiesce();
    b.take_events(pair.server);
    b.send_all(pair.client, b"data")?;
    b.quiesce();
    let seen = b.take_events(pair.server);
    holds("drain_events", "no IN", !seen.contains(Events::IN), seen)
}

fn removed(b: &mut Bench) -> Check {
    let pair = watched(b, Events::IN)?;
    b.remove_fd(pair.server).must("remove_fd")?;
    b.send_all(pair.client, b"data")?;
    unreported(b, pair.server)?;
    b.add_fd(pair.server, Events::IN).must("add_fd")?;
    reported(b, pair.server, Events::IN).map(|_| ())
}

fn closed(b: &mut Bench) -> Check {
    let pair = watched(b, Events::IN | Events::OUT)?;
    b.send_all(pair.client, b"data")?;
    b.ready(pair.server, Events::IN)?;
    b.take_events(pair.server);
    b.update_fd(pair.server, Events::IN).must("update_fd")?;
    // Queued and not drained when it is closed.
    b.close(pair.server).must("close")?;
    unreported(b, pair.server)
}

fn connect_ends(b: &mut Bench) -> Check {
    let (_, addr) = b.listener(4)?;
    let client = b.tcp(Side::Client)?;
    b.start_connect(client, addr)?;
    b.add_fd(client, Events::OUT).must("add_fd")?;
    let seen = reported(b, client, Events::OUT)?;
    equal("drain_events", seen, Events::OUT)?;
    equal("take_error", b.take_error(client), None)
}

fn connect_refused(b: &mut Bench) -> Check {
    let addr = b.dead_port(Side::Server)?;
    let client = b.tcp(Side::Client)?;
    b.start_connect(client, addr)?;
    b.add_fd(client, Events::OUT).must("add_fd")?;
    reported(b, client, Events::OUT | Events::ERR | Events::HUP)?;
    equal("take_error", b.take_error(client), Some(Error::ConnectionRefused))
}

fn connection_comes(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    b.add_fd(listener, Events::IN).must("add_fd")?;
    unreported(b, listener)?;
    for _ in 0..3 {
        b.connected_to(addr)?;
        equal("drain_events", reported(b, listener, Events::IN)?, Events::IN)?;
        b.accept(listener).must("accept")?;
        b.accept(listener).must_fail("accept", &[Error::Again])?;
    }
    Ok(())
}

fn data_again(b: &mut Bench) -> Check {
    let pair = watched(b, Events::IN)?;
    for _ in 0..5 {
        b.send_all(pair.client, b"data")?;
        reported(b, pair.server, Events::IN)?;
        equal("recv", b.recv_exact(pair.server, 4)?, b"data".to_vec())?;
        b.recv(pair.server, &mut [0; 8]).must_fail("recv", &[Error::Again])?;
        unreported(b, pair.server)?;
    }
    Ok(())
}

fn room_again(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.add_fd(pair.client, Events::OUT).must("add_fd")?;
    let mut sent = 0;
    for _ in 0..3 {
        // Full for good: neither stack moves any more.
        loop {
            match b.send(pair.client, &[1; 8192]) {
                Ok(count) => sent += count,
                Err(Error::Again) => {
                    b.quiesce();
                    b.take_events(pair.client);
                    match b.send(pair.client, &[1; 8192]) {
                        Ok(count) => sent += count,
                        Err(Error::Again) => break,
                        Err(e) => return Err(e).must("send"),
                    }
                }
                Err(e) => return Err(e).must("send"),
            }
        }
        b.recv_exact(pair.server, sent)?;
        sent = 0;
        reported(b, pair.client, Events::OUT)?;
    }
    Ok(())
}

fn peer_ends(b: &mut Bench) -> Check {
    let pair = watched(b, Events::IN | Events::RDHUP)?;
    b.shutdown(pair.client, Shutdown::Write).must("shutdown")?;
    let seen = reported(b, pair.server, Events::IN | Events::RDHUP)?;
    holds("drain_events", "no HUP", !seen.contains(Events::HUP), seen)
}

fn hangs_up(b: &mut Bench) -> Check {
    let pair = watched(b, Events::IN)?;
    b.shutdown(pair.server, Shutdown::Write).must("shutdown")?;
    b.recv_end(pair.client)?;
    b.close(pair.client).must("close")?;
    reported(b, pair.server, Events::HUP).map(|_| ())
}

fn reset(b: &mut Bench) -> Check {
    let pair = watched(b, Events::IN | Events::OUT | Events::RDHUP)?;
    b.abort(pair.client).must("abort")?;
    let all = Events::IN | Events::OUT | Events::RDHUP | Events::ERR | Events::HUP;
    reported(b, pair.server, all).map(|_| ())
}

fn datagram(b: &mut Bench) -> Check {
    let (server, addr) = b.udp_bound(Side::Server)?;
    let client = b.udp(Side::Client)?;
    b.add_fd(server, Events::IN).must("add_fd")?;
    unreported(b, server)?;
    for _ in 0..3 {
        b.send_to(client, b"datagram", addr).must("send_to")?;
        equal("drain_events", reported(b, server, Events::IN)?, Events::IN)?;
        b.datagram(server)?;
        b.recv(server, &mut [0; 8]).must_fail("recv", &[Error::Again])?;
    }
    Ok(())
}

fn accepted(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    b.add_fd(listener, Events::IN | Events::OUT).must("add_fd")?;
    b.connected_to(addr)?;
    let (server, _) = b.accepted(listener)?;
    unreported(b, server)?;
    b.add_fd(server, Events::OUT).must("add_fd of the accepted socket")?;
    reported(b, server, Events::OUT).map(|_| ())
}

fn stopped_sink(b: &mut Bench) -> Check {
    let socks: Vec<Sock> = (0..20).map(|_| b.udp(Side::Client)).collect::<Check<_>>()?;
    for sock in &socks {
        b.add_fd(*sock, Events::OUT).must("add_fd")?;
    }
    let now = b.now();
    let mut seen = Vec::new();
    for _ in 0..100 {
        let stack: &mut dyn PluginStack = b.stack(Side::Client);
        stack.poll(now);
        let mut calls = 0;
        stack.drain_events(&mut |event| {
            calls += 1;
            seen.push(event.handle);
            false
        });
        holds("drain_events", "no event after the sink said stop", calls <= 1, calls)?;
    }
    let missed = socks.iter().filter(|sock| !seen.contains(&sock.handle)).count();
    equal("drain_events: sockets never reported", missed, 0)
}

fn idle(b: &mut Bench) -> Check {
    let mut socks = Vec::new();
    for _ in 0..10 {
        let pair = watched(b, Events::IN | Events::OUT | Events::RDHUP)?;
        socks.extend([pair.client, pair.server]);
    }
    let busy = b.connection()?;
    b.transfer(busy.client, busy.server, &[1; 100_000], "a transfer beside them")?;
    for sock in socks {
        equal("drain_events of an idle socket", b.take_events(sock), Events::empty())?;
    }
    Ok(())
}

fn own_shutdown(b: &mut Bench) -> Check {
    let pair = watched(b, Events::IN | Events::RDHUP)?;
    b.shutdown(pair.server, Shutdown::Both).must("shutdown")?;
    reported(b, pair.server, Events::IN | Events::RDHUP | Events::HUP).map(|_| ())
}

fn own_events(b: &mut Bench) -> Check {
    let pairs = [watched(b, Events::IN)?, watched(b, Events::IN)?, watched(b, Events::IN)?];
    b.send_all(pairs[1].client, b"data")?;
    reported(b, pairs[1].server, Events::IN)?;
    unreported(b, pairs[0].server)?;
    unreported(b, pairs[2].server)
}

//! Options: kept, refused, and what they do.

use std::time::Duration;

use netgraft_link::Way;
use netgraft_plugin::{Domain, Error, Events, OptionName, SocketOption};

use super::super::bench::{Bench, Side, Sock, unexpected};
use super::super::check::{Check, Checks, equal, holds};
use super::group;

group! { "options":
    "a fresh socket has the defaults", Families, defaults;
    "switches are kept", Families, switches;
    "times and counts are kept", Families, values;
    "linger is kept in its three forms", Families, linger;
    "hops and classes are kept", Families, hops;
    "what is out of range is refused", Families, out_of_range;
    "what the stack does not name it refuses", Families, unnamed;
    "every option that the stack names works on some socket", Once, named;
    "options of tcp are unknown to a datagram socket", Families, tcp_of_udp;
    "v6 only is unknown to a v4 socket", Once, v6_only_of_v4;
    "buffers have the sizes that were asked for", Families, buffer_sizes;
    "small buffers hold little", All, small_buffers;
    "an algorithm is named, others are refused", Families, congestion;
    "a device is named, others are refused", Families, device;
    "the path MTU of a connection is reported", All, path_mtu;
    "options survive the connection being made", All, survive;
    "a cork holds small data back", All, cork;
    "a deferred accept waits for data", All, defer_accept;
    "keep-alives find a dead peer", Wire, keepalive_dead;
    "keep-alives leave a living peer alone", Wire, keepalive_alive;
    "a user timeout ends a connection without answers", Wire, user_timeout;
    "a syn count ends an attempt early", Wire, syn_count;
    "a datagram that must not be cut is refused", Wire, dont_fragment;
    "the modes of path MTU discovery cut and refuse as they should", Wire, mtu_discover;
    "a small segment is agreed on", All, max_segment;
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn expect(b: &Bench, sock: Sock, option: SocketOption) -> Check {
    let name = option.name();
    let got = b.get(sock, name).supported(&format!("get_option({name:?})"))?;
    equal(&format!("get_option({name:?})"), got, option)
}

/// Sets and reads back.
fn keep(b: &mut Bench, sock: Sock, option: SocketOption) -> Check {
    let call = format!("set_option({option:?})");
    b.set(sock, option.clone()).supported(&call)?;
    expect(b, sock, option)
}

fn defaults(b: &mut Bench) -> Check {
    let tcp = b.tcp(Side::Client)?;
    for option in [
        SocketOption::ReuseAddress(false),
        SocketOption::ReusePort(false),
        SocketOption::KeepAlive(false),
        SocketOption::Linger(None),
        SocketOption::NoDelay(false),
        SocketOption::Cork(false),
        SocketOption::KeepIdle(seconds(7200)),
        SocketOption::KeepInterval(seconds(75)),
        SocketOption::KeepCount(9),
        SocketOption::UserTimeout(Duration::ZERO),
        SocketOption::DeferAccept(Duration::ZERO),
    ] {
        expect(b, tcp, option)?;
    }
    let udp = b.udp(Side::Client)?;
    expect(b, udp, SocketOption::Broadcast(false))?;
    match b.domain {
        Domain::V4 => expect(b, udp, SocketOption::Ttl(64)),
        Domain::V6 => expect(b, udp, SocketOption::V6Only(false)),
    }
}

fn switches(b: &mut Bench) -> Check {
    let (tcp, udp) = (b.tcp(Side::Client)?, b.udp(Side::Client)?);
    for on in [true, false] {
        for option in [
            SocketOption::ReuseAddress(on),
            SocketOption::ReusePort(on),
            SocketOption::KeepAlive(on),
            SocketOption::NoDelay(on),
            SocketOption::Cork(on),
        ] {
            keep(b, tcp, option)?;
        }
        for option in
            [SocketOption::ReuseAddress(on), SocketOption::ReusePort(on), SocketOption::Broadcast(on)]
        {
            keep(b, udp, option)?;
        }
        if b.domain == Domain::V6 {
            keep(b, tcp, SocketOption::V6Only(on))?;
            keep(b, udp, SocketOption::V6Only(on))?;
        }
    }
    Ok(())
}

fn values(b: &mut Bench) -> Check {
    let tcp = b.tcp(Side::Client)?;
    for option in [
        SocketOption::KeepIdle(seconds(10)),
        SocketOption::KeepIdle(seconds(32_767)),
        SocketOption::KeepInterval(seconds(5)),
        SocketOption::KeepCount(3),
        SocketOption::KeepCount(127),
        SocketOption::UserTimeout(Duration::from_millis(7_500)),
        SocketOption::SynCount(2),
    ] {
        keep(b, tcp, option)?;
    }
    Ok(())
}

fn linger(b: &mut Bench) -> Check {
    let tcp = b.tcp(Side::Client)?;
    for time in [Some(seconds(5)), Some(Duration::ZERO), None] {
        keep(b, tcp, SocketOption::Linger(time))?;
    }
    Ok(())
}

fn hops(b: &mut Bench) -> Check {
    for sock in [b.tcp(Side::Client)?, b.udp(Side::Client)?] {
        match b.domain {
            Domain::V4 => {
                keep(b, sock, SocketOption::Ttl(17))?;
                keep(b, sock, SocketOption::TypeOfService(0x10))?;
            }
            Domain::V6 => {
                keep(b, sock, SocketOption::UnicastHops(17))?;
                keep(b, sock, SocketOption::TrafficClass(0x10))?;
            }
        }
    }
    Ok(())
}

fn out_of_range(b: &mut Bench) -> Check {
    let tcp = b.tcp(Side::Client)?;
    for option in [
        SocketOption::KeepIdle(Duration::ZERO),
        SocketOption::KeepIdle(seconds(32_768)),
        SocketOption::KeepInterval(Duration::ZERO),
        SocketOption::KeepCount(0),
        SocketOption::KeepCount(128),
        SocketOption::SynCount(0),
        SocketOption::MaxSegment(1),
    ] {
        let before = b.get(tcp, option.name()).supported("get_option")?;
        let call = format!("set_option({option:?})");
        b.set(tcp, option).must_fail(&call, &[Error::Invalid])?;
        expect(b, tcp, before)?;
    }
    if b.domain == Domain::V4 {
        b.set(tcp, SocketOption::Ttl(0)).must_fail("set_option(Ttl(0))", &[Error::Invalid])?;
    }
    Ok(())
}

fn unnamed(b: &mut Bench) -> Check {
    let named = b.stack(Side::Client).info().options;
    let socks = [b.tcp(Side::Client)?, b.udp(Side::Client)?];
    for name in OptionName::ALL.iter().filter(|name| !named.contains(name)) {
        for sock in socks {
            b.get(sock, *name).must_fail(&format!("get_option({name:?})"), &[Error::UnknownOption])?;
        }
    }
    let off = [
        SocketOption::OutOfBandInline(true),
        SocketOption::DontRoute(true),
        SocketOption::BindToDevice("lo".into()),
        SocketOption::WindowClamp(8192),
        SocketOption::NotSentLowWater(8192),
        SocketOption::ReceiveErrors(true),
        SocketOption::Priority(1),
        SocketOption::QuickAck(true),
    ];
    for option in off {
        if !named.contains(&option.name()) {
            let call = format!("set_option({option:?})");
            b.set(socks[0], option).must_fail(&call, &[Error::UnknownOption])?;
        }
    }
    Ok(())
}

fn named(b: &mut Bench) -> Check {
    let named = b.stack(Side::Client).info().options;
    let mut socks = Vec::new();
    for domain in [Domain::V4, Domain::V6] {
        b.domain = domain;
        let pair = b.connection()?;
        socks.extend([pair.client, b.udp(Side::Client)?]);
    }
    for name in named {
        // Memberships cannot be read (ip(7)).
        let write_only = matches!(
            name,
            OptionName::JoinGroup | OptionName::LeaveGroup | OptionName::JoinGroup6 | OptionName::LeaveGroup6
        );
        let works = socks.iter().any(|sock| b.get(*sock, name).is_ok_and(|option| option.name() == name));
        holds("get_option", &format!("{name:?} of some socket"), works || write_only, name)?;
    }
    Ok(())
}

fn tcp_of_udp(b: &mut Bench) -> Check {
    let udp = b.udp(Side::Client)?;
    for option in [SocketOption::NoDelay(true), SocketOption::KeepCount(3), SocketOption::Cork(true)] {
        let name = option.name();
        b.set(udp, option).must_fail(&format!("set_option({name:?})"), &[Error::UnknownOption])?;
        b.get(udp, name).must_fail(&format!("get_option({name:?})"), &[Error::UnknownOption])?;
    }
    Ok(())
}

fn v6_only_of_v4(b: &mut Bench) -> Check {
    let sock = b.tcp(Side::Client)?;
    b.set(sock, SocketOption::V6Only(true)).must_fail("set_option(V6Only)", &[Error::UnknownOption])
}

fn buffer_sizes(b: &mut Bench) -> Check {
    for sock in [b.tcp(Side::Client)?, b.udp(Side::Client)?] {
        keep(b, sock, SocketOption::SendBuffer(60_000))?;
        keep(b, sock, SocketOption::ReceiveBuffer(50_000))?;
        // Too little is made enough, not refused (socket(7)).
        b.set(sock, SocketOption::ReceiveBuffer(1)).must("set_option(ReceiveBuffer(1))")?;
        match b.get(sock, OptionName::ReceiveBuffer).must("get_option")? {
            SocketOption::ReceiveBuffer(size) => {
                holds("get_option(ReceiveBuffer)", "128 to 50,000", (128..50_000).contains(&size), size)?;
            }
            other => return Err(unexpected("get_option", "ReceiveBuffer", &other)),
        }
    }
    Ok(())
}

fn small_buffers(b: &mut Bench) -> Check {
    let listener = b.tcp(Side::Server)?;
    b.set(listener, SocketOption::ReceiveBuffer(8192)).supported("set_option(ReceiveBuffer)")?;
    let addr = b.addr(Side::Server, 0);
    b.bind(listener, addr).must("bind")?;
    b.listen(listener, 1).must("listen")?;
    let addr = b.local_addr(listener).must("local_addr")?;
    let client = b.tcp(Side::Client)?;
    b.set(client, SocketOption::SendBuffer(8192)).supported("set_option(SendBuffer)")?;
    b.start_connect(client, addr)?;
    b.ready(client, Events::OUT)?;
    let (server, _) = b.accepted(listener)?;
    let mut sent = 0;
    for _ in 0..50 {
        b.quiesce();
        match b.send(client, &[5; 4096]) {
            Ok(count) => sent += count,
            Err(Error::Again) => break,
            Err(e) => return Err(e).must("send"),
        }
    }
    // Linux doubles both, for its own bookkeeping.
    holds("send", "some kilobytes before Again", (1..100_000).contains(&sent), sent)?;
    let data = b.recv_exact(server, sent)?;
    holds("recv", "the bytes that were sent", data.iter().all(|byte| *byte == 5), sent)
}

fn congestion(b: &mut Bench) -> Check {
    let sock = b.tcp(Side::Client)?;
    let name = b.get(sock, OptionName::Congestion).supported("get_option(Congestion)")?;
    match &name {
        SocketOption::Congestion(name) => holds("get_option(Congestion)", "a name", !name.is_empty(), name)?,
        other => return Err(unexpected("get_option", "Congestion", other)),
    }
    b.set(sock, name.clone()).must("set_option of the same")?;
    let wrong = b.set(sock, SocketOption::Congestion("no-such".into()));
    holds("set_option(Congestion)", "an error", wrong.is_err(), wrong)?;
    expect(b, sock, name)
}

fn device(b: &mut Bench) -> Check {
    let sock = b.udp(Side::Client)?;
    match b.set(sock, SocketOption::BindToDevice("lo".into())) {
        // An ordinary user of an old kernel may not.
        Err(Error::NotPermitted) => return Ok(()),
        done => done.supported("set_option(BindToDevice)")?,
    }
    expect(b, sock, SocketOption::BindToDevice("lo".into()))?;
    b.set(sock, SocketOption::BindToDevice("nosuch0".into()))
        .must_fail("set_option(BindToDevice)", &[Error::NotFound])
}

fn path_mtu(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    match b.get(pair.client, OptionName::PathMtu).supported("get_option(PathMtu)")? {
        SocketOption::PathMtu(mtu) => {
            holds("get_option(PathMtu)", "1280 to 65,575", (1280..65_576).contains(&mtu), mtu)?
        }
        other => return Err(unexpected("get_option", "PathMtu", &other)),
    }
    let fresh = b.tcp(Side::Client)?;
    if b.domain == Domain::V4 {
        b.get(fresh, OptionName::PathMtu).must_fail("get_option(PathMtu)", &[Error::NotConnected])?;
    }
    let set = b.set(fresh, SocketOption::PathMtu(1400));
    holds("set_option(PathMtu)", "an error", set.is_err(), set)
}

fn survive(b: &mut Bench) -> Check {
    let (_, addr) = b.listener(4)?;
    let client = b.tcp(Side::Client)?;
    let options =
        [SocketOption::NoDelay(true), SocketOption::KeepAlive(true), SocketOption::KeepIdle(seconds(99))];
    for option in options.clone() {
        keep(b, client, option)?;
    }
    b.start_connect(client, addr)?;
    b.ready(client, Events::OUT)?;
    for option in options {
        expect(b, client, option)?;
    }
    keep(b, client, SocketOption::NoDelay(false))
}

fn cork(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.set(pair.client, SocketOption::Cork(true)).supported("set_option(Cork)")?;
    b.send_all(pair.client, b"held")?;
    b.run_for(Duration::from_millis(20));
    b.recv(pair.server, &mut [0; 8]).must_fail("recv", &[Error::Again])?;
    b.set(pair.client, SocketOption::Cork(false)).must("set_option(Cork)")?;
    equal("recv", b.recv_exact(pair.server, 4)?, b"held".to_vec())?;
    // For 200 ms at most (tcp(7)).
    b.set(pair.client, SocketOption::Cork(true)).must("set_option(Cork)")?;
    b.send_all(pair.client, b"late")?;
    equal("recv", b.recv_exact(pair.server, 4)?, b"late".to_vec())
}

fn defer_accept(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    b.set(listener, SocketOption::DeferAccept(seconds(10))).supported("set_option(DeferAccept)")?;
    let client = b.connected_to(addr)?;
    b.quiesce();
    b.accept(listener).must_fail("accept before data", &[Error::Again])?;
    b.send_all(client, b"data")?;
    let (server, _) = b.accepted(listener)?;
    equal("recv", b.recv(server, &mut [0; 8]).must("recv")?.len, 4)
}

/// Runs until a connection's end says `TimedOut`; answers how long it took.
fn times_out(b: &mut Bench, sock: Sock, limit: Duration) -> Check<Duration> {
    let start = b.now();
    b.until_within(limit, "readiness", "ERR", |b| {
        Ok(b.readiness(sock).must("readiness")?.contains(Events::ERR).then_some(()))
    })?;
    equal("take_error", b.take_error(sock), Some(Error::TimedOut))?;
    Ok(b.now().since(start))
}

fn keepalive_dead(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    for option in [
        SocketOption::KeepIdle(seconds(10)),
        SocketOption::KeepInterval(seconds(5)),
        SocketOption::KeepCount(3),
        SocketOption::KeepAlive(true),
    ] {
        keep(b, pair.client, option)?;
    }
    b.dials.iter().for_each(|dial| dial.cut(Way::In));
    let took = times_out(b, pair.client, seconds(100))?;
    // 10 s of silence, then three probes 5 s apart.
    holds("keep-alive", "about 25 s", (seconds(20)..seconds(32)).contains(&took), took)
}

fn keepalive_alive(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    keep(b, pair.client, SocketOption::KeepIdle(seconds(2)))?;
    keep(b, pair.client, SocketOption::KeepInterval(seconds(1)))?;
    keep(b, pair.client, SocketOption::KeepAlive(true))?;
    b.run_for(seconds(120));
    equal("readiness", b.readiness(pair.client).must("readiness")?, Events::OUT)?;
    equal("readiness", b.readiness(pair.server).must("readiness")?, Events::OUT)?;
    b.send_all(pair.server, b"alive")?;
    equal("recv", b.recv_exact(pair.client, 5)?, b"alive".to_vec())
}

fn user_timeout(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    keep(b, pair.client, SocketOption::UserTimeout(seconds(5)))?;
    b.dials.iter().for_each(|dial| dial.cut(Way::In));
    b.send_all(pair.client, b"into the void")?;
    let took = times_out(b, pair.client, seconds(60))?;
    holds("user timeout", "about 5 s", (seconds(4)..seconds(15)).contains(&took), took)
}

fn syn_count(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    b.dials.iter().for_each(|dial| dial.cut(Way::In));
    let sock = b.tcp(Side::Client)?;
    keep(b, sock, SocketOption::SynCount(1))?;
    b.start_connect(sock, pair.addr)?;
    let took = times_out(b, sock, seconds(60))?;
    // One more after 1 s, given up after 2 s more.
    holds("connect", "about 3 s", (seconds(1)..seconds(8)).contains(&took), took)
}

fn dont_fragment(b: &mut Bench) -> Check {
    let (server, to) = b.udp_bound(Side::Server)?;
    let client = b.udp(Side::Client)?;
    // IP_PMTUDISC_DO and IPV6_PMTUDISC_DO.
    keep(b, client, SocketOption::MtuDiscover(2))?;
    b.send_to(client, &[1; 2000], to).must_fail("send_to", &[Error::MessageTooLong])?;
    b.send_to(client, &[1; 1400], to).must("send_to")?;
    equal("recv", b.datagram(server)?.0.len(), 1400)
}

fn mtu_discover(b: &mut Bench) -> Check {
    let (server, to) = b.udp_bound(Side::Server)?;
    // IP_PMTUDISC_DONT, WANT, INTERFACE and OMIT (ip(7)); of these only INTERFACE refuses what it would have to cut.
    for (mode, cuts) in [(0, true), (1, true), (4, false), (5, true)] {
        let client = b.udp(Side::Client)?;
        keep(b, client, SocketOption::MtuDiscover(mode))?;
        let sent = b.send_to(client, &[1; 2000], to);
        if cuts {
            sent.must("send_to")?;
            equal("recv", b.datagram(server)?.0.len(), 2000)?;
        } else {
            sent.must_fail("send_to", &[Error::MessageTooLong])?;
        }
        b.send_to(client, &[1; 1400], to).must("send_to")?;
        equal("recv", b.datagram(server)?.0.len(), 1400)?;
    }
    Ok(())
}

fn max_segment(b: &mut Bench) -> Check {
    let (listener, addr) = b.listener(4)?;
    let client = b.tcp(Side::Client)?;
    b.set(client, SocketOption::MaxSegment(800)).supported("set_option(MaxSegment)")?;
    b.start_connect(client, addr)?;
    b.ready(client, Events::OUT)?;
    let (server, _) = b.accepted(listener)?;
    for sock in [client, server] {
        let mss = b.tcp_info(sock).supported("tcp_info")?.send_mss;
        holds("tcp_info: send_mss", "at most 800", (1..=800).contains(&mss), mss)?;
    }
    b.transfer(server, client, &[9; 50_000], "transfer in small segments")
}

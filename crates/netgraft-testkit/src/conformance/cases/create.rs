//! Sockets are made, have numbers of their own, and are gone when closed.

use std::collections::HashSet;

use netgraft_plugin::{Domain, Error, Events, Handle, Kind, OptionName, Protocol, Shutdown, SocketSpec};

use super::super::bench::{Bench, Side, Sock};
use super::super::check::{Check, Checks, Outcome, equal, holds};
use super::group;

group! { "create":
    "a fresh stream socket has no addresses", All, fresh_stream;
    "a fresh stream socket polls as out and hung up", Families, fresh_readiness;
    "a fresh datagram socket is writable", Families, fresh_datagram;
    "a fresh stream socket refuses data calls", Families, fresh_calls;
    "every call on a foreign handle is refused", Once, foreign_handle;
    "a closed handle is gone at once", Families, closed_handle;
    "handles are not used again", Once, unique_handles;
    "kinds and protocols that do not fit are refused", Families, misfits;
    "sockets that the stack names can be made", Once, named_sockets;
    "the state of a fresh stream socket is closed", Families, fresh_state;
    "destroy ends everything", Families, destroyed;
}

fn fresh_stream(b: &mut Bench) -> Check {
    let sock = b.tcp(Side::Client)?;
    equal("local_addr", b.local_addr(sock).must("local_addr")?, b.any(0))?;
    b.peer_addr(sock).must_fail("peer_addr", &[Error::NotConnected])?;
    equal("take_error", b.take_error(sock), None)
}

fn fresh_readiness(b: &mut Bench) -> Check {
    let sock = b.tcp(Side::Client)?;
    // tcp_poll: a closed socket is hung up, and can be written to since that fails at once.
    equal("readiness", b.readiness(sock).must("readiness")?, Events::OUT | Events::HUP)
}

fn fresh_datagram(b: &mut Bench) -> Check {
    let sock = b.udp(Side::Client)?;
    equal("readiness", b.readiness(sock).must("readiness")?, Events::OUT)?;
    equal("local_addr", b.local_addr(sock).must("local_addr")?, b.any(0))?;
    b.peer_addr(sock).must_fail("peer_addr", &[Error::NotConnected])?;
    b.recv(sock, &mut [0; 8]).must_fail("recv", &[Error::Again])
}

fn fresh_calls(b: &mut Bench) -> Check {
    let sock = b.tcp(Side::Client)?;
    b.recv(sock, &mut [0; 8]).must_fail("recv", &[Error::NotConnected])?;
    b.send(sock, b"x").must_fail("send", &[Error::BrokenPipe])?;
    b.accept(sock).must_fail("accept", &[Error::Invalid])?;
    for how in [Shutdown::Read, Shutdown::Write, Shutdown::Both] {
        b.shutdown(sock, how).must_fail("shutdown", &[Error::NotConnected])?;
    }
    Ok(())
}

/// Every call that takes a handle must say that this one is none.
fn refused_everywhere(b: &mut Bench, sock: Sock) -> Check {
    let bad = &[Error::BadHandle];
    let addr = b.addr(Side::Server, 9);
    b.bind(sock, addr).must_fail("bind", bad)?;
    b.listen(sock, 1).must_fail("listen", bad)?;
    b.accept(sock).must_fail("accept", bad)?;
    b.connect(sock, addr).must_fail("connect", bad)?;
    b.disconnect(sock).must_fail("disconnect", bad)?;
    b.local_addr(sock).must_fail("local_addr", bad)?;
    b.peer_addr(sock).must_fail("peer_addr", bad)?;
    b.send(sock, b"x").must_fail("send", bad)?;
    b.send_to(sock, b"x", addr).must_fail("send_to", bad)?;
    b.recv(sock, &mut [0; 8]).must_fail("recv", bad)?;
    b.queued_in(sock).must_fail("queued_in", &[Error::BadHandle, Error::NotSupported])?;
    b.queued_out(sock).must_fail("queued_out", &[Error::BadHandle, Error::NotSupported])?;
    b.shutdown(sock, Shutdown::Both).must_fail("shutdown", bad)?;
    b.readiness(sock).must_fail("readiness", bad)?;
    equal("take_error", b.take_error(sock), None)?;
    let option = &[Error::BadHandle, Error::UnknownOption];
    b.get(sock, OptionName::KeepAlive).must_fail("get_option", option)?;
    b.tcp_info(sock).must_fail("tcp_info", &[Error::BadHandle, Error::NotSupported])?;
    b.add_fd(sock, Events::IN).must_fail("add_fd", bad)?;
    b.update_fd(sock, Events::IN).must_fail("update_fd", bad)?;
    b.remove_fd(sock).must_fail("remove_fd", bad)?;
    b.abort(sock).must_fail("abort", bad)?;
    b.close(sock).must_fail("close", bad)
}

fn foreign_handle(b: &mut Bench) -> Check {
    b.tcp(Side::Client)?;
    for number in [0x7fff_1234, u64::MAX, u64::MAX / 2] {
        refused_everywhere(b, Sock { stack: 0, handle: Handle(number) })?;
    }
    Ok(())
}

fn closed_handle(b: &mut Bench) -> Check {
    let (listener, _) = b.listener(1)?;
    for sock in [b.tcp(Side::Client)?, b.udp(Side::Client)?, listener] {
        b.close(sock).must("close")?;
        refused_everywhere(b, sock)?;
    }
    Ok(())
}

fn unique_handles(b: &mut Bench) -> Check {
    let mut seen = HashSet::new();
    for round in 0..200 {
        let sock = if round % 2 == 0 { b.tcp(Side::Client)? } else { b.udp(Side::Client)? };
        holds("socket", "a handle of its own", seen.insert(sock.handle), sock)?;
        b.close(sock).must("close")?;
    }
    Ok(())
}

fn misfits(b: &mut Bench) -> Check {
    let domain = b.domain;
    let other_icmp = if domain == Domain::V4 { Protocol::Icmpv6 } else { Protocol::Icmp };
    for (kind, protocol) in [
        (Kind::Stream, Protocol::Udp),
        (Kind::Stream, Protocol::Icmp),
        (Kind::Datagram, Protocol::Tcp),
        (Kind::Datagram, other_icmp),
    ] {
        let spec = SocketSpec { domain, kind, protocol };
        let call = format!("socket({spec:?})");
        let made = b.socket(Side::Client, spec);
        // A stack without the family may say so first.
        if made == Err(Error::FamilyNotSupported) && !b.has_family(Side::Client) {
            return Err(Outcome::Unsupported { says: format!("{call}: FamilyNotSupported") });
        }
        made.must_fail(&call, &[Error::ProtocolNotSupported, Error::KindNotSupported])?;
    }
    Ok(())
}

fn named_sockets(b: &mut Bench) -> Check {
    let info = b.stack(Side::Client).info();
    holds("info", "a name", !info.name.is_empty(), &info.name)?;
    holds("info", "at least one kind of socket", !info.sockets.is_empty(), &info.sockets)?;
    for spec in info.sockets {
        match b.socket(Side::Client, spec) {
            // A host may keep raw and echo sockets from an ordinary user.
            Err(Error::NotPermitted | Error::AccessDenied) if spec.protocol != Protocol::Tcp => {}
            made => b.close(made.must(&format!("socket({spec:?})"))?).must("close")?,
        }
    }
    Ok(())
}

fn fresh_state(b: &mut Bench) -> Check {
    let sock = b.tcp(Side::Client)?;
    let info = b.tcp_info(sock).supported("tcp_info")?;
    equal("tcp_info: state", info.state, netgraft_plugin::TcpState::Closed)?;
    equal("tcp_info: bytes", (info.bytes_sent, info.bytes_received), (0, 0))?;
    let udp = b.udp(Side::Client)?;
    b.tcp_info(udp).must_fail("tcp_info of a datagram socket", &[Error::NotSupported])
}

fn destroyed(b: &mut Bench) -> Check {
    let pair = b.connection()?;
    let domain = b.domain;
    b.stack(Side::Client).destroy();
    let down = &[Error::NetworkDown];
    let spec = SocketSpec { domain, kind: Kind::Stream, protocol: Protocol::Tcp };
    b.socket(Side::Client, spec).must_fail("socket", down)?;
    b.send(pair.client, b"x").must_fail("send", down)?;
    b.recv(pair.client, &mut [0; 8]).must_fail("recv", down)?;
    b.readiness(pair.client).must_fail("readiness", down)?;
    b.close(pair.client).must_fail("close", down)?;
    // Polling what is no more is harmless, and so is a second end.
    b.step();
    b.stack(Side::Client).destroy();
    Ok(())
}

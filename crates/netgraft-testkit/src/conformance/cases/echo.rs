//! ICMP echo sockets (icmp(7)): requests out, one's own replies in.

use netgraft_plugin::{Domain, Error, Events, Kind, OptionName, Protocol, SocketOption, SocketSpec};

use super::super::bench::{Bench, Side, Sock, pattern};
use super::super::check::{Check, Checks, Outcome, equal, holds};
use super::group;

group! { "echo":
    "a request is answered", All, answered;
    "the identifier is the socket's", All, identifier;
    "an identifier that was asked for is kept", Families, bound;
    "an identifier may be shared", Families, shared;
    "a taken identifier is refused without reuse", Families, taken;
    "each socket receives its own replies", All, own_replies;
    "a connected socket sends to its peer", All, connected;
    "a large request is answered", All, large;
    "what is no request is refused", Families, no_request;
    "a stump is refused", Families, stump;
    "an unbound socket receives nothing", Families, quiet;
}

/// Bytes of an echo message before its data (RFC 792, RFC 4443).
const HEADER: usize = 8;

fn echo(b: &mut Bench) -> Check<Sock> {
    let protocol = match b.domain {
        Domain::V4 => Protocol::Icmp,
        Domain::V6 => Protocol::Icmpv6,
    };
    let spec = SocketSpec { domain: b.domain, kind: Kind::Datagram, protocol };
    match b.socket(Side::Client, spec) {
        Err(e @ (Error::AccessDenied | Error::NotPermitted)) => {
            Err(Outcome::Unsupported { says: format!("socket(echo): {e:?}") })
        }
        made => made.supported("socket(echo)"),
    }
}

/// Types of a request and its reply.
fn types(b: &Bench) -> (u8, u8) {
    match b.domain {
        Domain::V4 => (8, 0),
        Domain::V6 => (128, 129),
    }
}

/// A request; the checksum and the identifier are the stack's to fill in.
fn request(b: &Bench, sequence: u16, data: &[u8]) -> Vec<u8> {
    let mut packet = vec![types(b).0, 0, 0, 0, 0xaa, 0xbb];
    packet.extend(sequence.to_be_bytes());
    packet.extend(data);
    packet
}

/// Receives the reply to a request.
fn reply(b: &mut Bench, sock: Sock, sequence: u16, data: &[u8]) -> Check<u16> {
    let (packet, got) = b.datagram(sock)?;
    holds("recv", "an echo message", packet.len() >= HEADER, &packet)?;
    equal("recv: type and code", (packet[0], packet[1]), (types(b).1, 0))?;
    equal("recv: sequence", u16::from_be_bytes([packet[6], packet[7]]), sequence)?;
    holds("recv: data", "the data of the request", packet[HEADER..] == *data, packet.len())?;
    let from = b.addr(Side::Server, 0).ip();
    equal("recv: from", got.from.map(|from| from.ip()), Some(from))?;
    Ok(u16::from_be_bytes([packet[4], packet[5]]))
}

fn answered(b: &mut Bench) -> Check {
    let sock = echo(b)?;
    let to = b.addr(Side::Server, 0);
    for sequence in 1..5 {
        let packet = request(b, sequence, b"ping");
        equal("send_to", b.send_to(sock, &packet, to).must("send_to")?, packet.len())?;
        b.ready(sock, Events::IN)?;
        reply(b, sock, sequence, b"ping")?;
    }
    b.recv(sock, &mut [0; 64]).must_fail("recv", &[Error::Again])
}

fn identifier(b: &mut Bench) -> Check {
    let sock = echo(b)?;
    let (packet, to) = (request(b, 1, b"x"), b.addr(Side::Server, 0));
    b.send_to(sock, &packet, to).must("send_to")?;
    let id = reply(b, sock, 1, b"x")?;
    equal("local_addr: port", b.local_addr(sock).must("local_addr")?.port(), id)
}

fn bound(b: &mut Bench) -> Check {
    let sock = echo(b)?;
    let local = b.any(0x4321);
    b.bind(sock, local).must("bind")?;
    equal("local_addr: port", b.local_addr(sock).must("local_addr")?.port(), 0x4321)?;
    let (packet, to) = (request(b, 7, b"x"), b.addr(Side::Server, 0));
    b.send_to(sock, &packet, to).must("send_to")?;
    equal("recv: identifier", reply(b, sock, 7, b"x")?, 0x4321)
}

fn shared(b: &mut Bench) -> Check {
    let (first, second) = (echo(b)?, echo(b)?);
    // Echo sockets are born with SO_REUSEADDR (inet_create, INET_PROTOSW_REUSE).
    equal("get_option", b.get(first, OptionName::ReuseAddress), Ok(SocketOption::ReuseAddress(true)))?;
    let local = b.any(0x4322);
    b.bind(first, local).must("bind")?;
    b.bind(second, local).must("bind to the same")
}

fn taken(b: &mut Bench) -> Check {
    let (first, second) = (echo(b)?, echo(b)?);
    for sock in [first, second] {
        b.set(sock, SocketOption::ReuseAddress(false)).supported("set_option(ReuseAddress)")?;
    }
    let local = b.any(0x4323);
    b.bind(first, local).must("bind")?;
    b.bind(second, local).must_fail("bind", &[Error::AddressInUse])?;
    b.close(first).must("close")?;
    b.bind(second, local).must("bind after close")
}

fn own_replies(b: &mut Bench) -> Check {
    let socks = [echo(b)?, echo(b)?, echo(b)?];
    let to = b.addr(Side::Server, 0);
    for (sock, sequence) in socks.into_iter().zip(10..) {
        let packet = request(b, sequence, &sequence.to_be_bytes());
        b.send_to(sock, &packet, to).must("send_to")?;
    }
    for (sock, sequence) in socks.into_iter().zip(10_u16..) {
        reply(b, sock, sequence, &sequence.to_be_bytes())?;
        b.recv(sock, &mut [0; 64]).must_fail("recv", &[Error::Again])?;
    }
    Ok(())
}

fn connected(b: &mut Bench) -> Check {
    let sock = echo(b)?;
    let packet = request(b, 1, b"x");
    b.send(sock, &packet).must_fail("send", &[Error::DestinationRequired])?;
    let to = b.addr(Side::Server, 0);
    b.connect(sock, to).must("connect")?;
    // inet_getname takes a peer without a port for none.
    b.peer_addr(sock).must_fail("peer_addr", &[Error::NotConnected])?;
    b.send(sock, &packet).must("send")?;
    reply(b, sock, 1, b"x").map(|_| ())
}

fn large(b: &mut Bench) -> Check {
    let sock = echo(b)?;
    let to = b.addr(Side::Server, 0);
    for (len, sequence) in [(56, 1), (1400, 2), (4000, 3)] {
        let data = pattern(len, 1);
        let packet = request(b, sequence, &data);
        b.send_to(sock, &packet, to).must("send_to")?;
        reply(b, sock, sequence, &data)?;
    }
    Ok(())
}

fn no_request(b: &mut Bench) -> Check {
    let sock = echo(b)?;
    let to = b.addr(Side::Server, 0);
    for kind in [types(b).1, 3, 255] {
        let mut packet = request(b, 1, b"x");
        packet[0] = kind;
        b.send_to(sock, &packet, to).must_fail(&format!("send_to of type {kind}"), &[Error::Invalid])?;
    }
    let mut packet = request(b, 1, b"x");
    packet[1] = 1;
    b.send_to(sock, &packet, to).must_fail("send_to of code 1", &[Error::Invalid])
}

fn stump(b: &mut Bench) -> Check {
    let sock = echo(b)?;
    let (packet, to) = (request(b, 1, &[]), b.addr(Side::Server, 0));
    for len in [0, 1, 7] {
        b.send_to(sock, &packet[..len], to)
            .must_fail(&format!("send_to of {len} bytes"), &[Error::Invalid])?;
    }
    b.send_to(sock, &packet, to).must("send_to of a bare header")?;
    reply(b, sock, 1, &[]).map(|_| ())
}

fn quiet(b: &mut Bench) -> Check {
    let (idle, busy) = (echo(b)?, echo(b)?);
    let (packet, to) = (request(b, 1, b"x"), b.addr(Side::Server, 0));
    b.send_to(busy, &packet, to).must("send_to")?;
    reply(b, busy, 1, b"x")?;
    equal("readiness", b.readiness(idle).must("readiness")?, Events::OUT)?;
    b.recv(idle, &mut [0; 64]).must_fail("recv", &[Error::Again])
}

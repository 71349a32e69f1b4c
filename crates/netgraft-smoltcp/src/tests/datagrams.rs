//! UDP, ICMP and raw sockets.

use netgraft_plugin::inet::Stack;
use netgraft_plugin::option::SocketOption;
use netgraft_plugin::{Error, Events, Sockets};

use super::*;

fn send_to(world: &mut World, on: usize, handle: Handle, data: &[u8], to: &str) -> Result<usize> {
    world.stacks[on].send(handle, data, Some(addr(to)), SendFlags::empty(), world.now)
}

#[test]
fn udp_goes_both_ways_with_its_metadata() {
    let mut world = World::new();
    let server = world.stacks[1].socket(UDP6).unwrap();
    world.stacks[1].bind(server, addr("[::]:53")).unwrap();
    for (spec, to, seen) in
        [(UDP4, "192.0.2.2:53", "::ffff:192.0.2.1"), (UDP6, "[2001:db8::2]:53", "2001:db8::1")]
    {
        let client = world.stacks[0].socket(spec).unwrap();
        world.stacks[0].set_option(client, SocketOption::Ttl(9)).unwrap();
        world.stacks[0].set_option(client, SocketOption::UnicastHops(9)).unwrap();
        world.stacks[0].set_option(client, SocketOption::TypeOfService(0x20)).unwrap();
        world.stacks[0].set_option(client, SocketOption::TrafficClass(0x20)).unwrap();
        assert_eq!(send_to(&mut world, 0, client, b"query", to), Ok(5));
        world.settle();
        let (data, got) = receive(&mut world.stacks[1], server, world.now).unwrap();
        assert_eq!(data, b"query");
        assert_eq!(got.from.unwrap().ip().to_string(), seen);
        assert_eq!((got.hop_limit, got.traffic_class, got.interface), (9, 0x20, 2));
        let to = got.from;
        world.stacks[1].send(server, b"", to, SendFlags::empty(), world.now).unwrap();
        world.settle();
        let (data, got) = receive(&mut world.stacks[0], client, world.now).unwrap();
        assert_eq!((data.len(), got.full_len), (0, 0), "an empty datagram is one");
        assert_eq!(world.recv(0, client), Err(Error::Again));
    }
}

#[test]
fn large_datagrams_are_cut_and_put_together() {
    let mut world = World::new();
    let server = world.stacks[1].socket(UDP4).unwrap();
    world.stacks[1].bind(server, addr("0.0.0.0:53")).unwrap();
    let client = world.stacks[0].socket(UDP4).unwrap();
    let data: Vec<u8> = (0..65_527u32).map(|i| (i % 251) as u8).collect();
    for len in [60_000, 65_507] {
        assert_eq!(send_to(&mut world, 0, client, &data[..len], "192.0.2.2:53"), Ok(len));
        world.settle();
        assert_eq!(world.recv(1, server).unwrap(), data[..len]);
    }
    let server6 = world.stacks[1].socket(UDP6).unwrap();
    world.stacks[1].bind(server6, addr("[2001:db8::2]:53")).unwrap();
    let client6 = world.stacks[0].socket(UDP6).unwrap();
    for len in [60_000, 65_487, 65_488, 65_527] {
        assert_eq!(send_to(&mut world, 0, client6, &data[..len], "[2001:db8::2]:53"), Ok(len));
        world.settle();
        assert_eq!(world.recv(1, server6).as_deref(), Ok(&data[..len]), "{len}");
    }
    assert_eq!(send_to(&mut world, 0, client, &[0; 65_508], "192.0.2.2:53"), Err(Error::MessageTooLong));
    world.stacks[0].set_option(client, SocketOption::MtuDiscover(2)).unwrap();
    assert_eq!(send_to(&mut world, 0, client, &[0; 1473], "192.0.2.2:53"), Err(Error::MessageTooLong));
    assert_eq!(send_to(&mut world, 0, client, &[0; 1472], "192.0.2.2:53"), Ok(1472));
}

#[test]
fn a_connected_socket_hears_only_its_peer_and_its_errors() {
    let mut world = World::new();
    let client = world.stacks[0].socket(UDP4).unwrap();
    world.stacks[0].connect(client, addr("192.0.2.2:53"), world.now).unwrap();
    assert_eq!(world.send(0, client, b"x"), Ok(1));
    world.settle();
    assert_eq!(world.ready(0, client), Events::OUT | Events::ERR);
    assert_eq!(world.recv(0, client), Err(Error::ConnectionRefused));
    assert_eq!(world.stacks[1].statistics().udp_no_port, 1);
    let local = world.stacks[0].local_addr(client).unwrap();
    assert_eq!(local.ip().to_string(), "192.0.2.1");
    for (port, heard) in [(53, true), (54, false)] {
        let server = world.stacks[1].socket(UDP4).unwrap();
        world.stacks[1].bind(server, addr(&format!("0.0.0.0:{port}"))).unwrap();
        send_to(&mut world, 1, server, b"y", &local.to_string()).unwrap();
        world.settle();
        assert_eq!(world.recv(0, client).is_ok(), heard, "{port}");
    }
    world.stacks[0].disconnect(client).unwrap();
    assert_eq!(world.send(0, client, b"x"), Err(Error::DestinationRequired));
}

#[test]
fn broadcast_and_multicast() {
    let mut world = World::new();
    let server = world.stacks[1].socket(UDP4).unwrap();
    world.stacks[1].bind(server, addr("0.0.0.0:9")).unwrap();
    let client = world.stacks[0].socket(UDP4).unwrap();
    for to in ["192.0.2.255:9", "255.255.255.255:9", "127.255.255.255:9"] {
        assert_eq!(send_to(&mut world, 0, client, b"x", to), Err(Error::AccessDenied), "{to}");
    }
    world.stacks[0].set_option(client, SocketOption::Broadcast(true)).unwrap();
    for to in ["192.0.2.255:9", "255.255.255.255:9"] {
        send_to(&mut world, 0, client, b"x", to).unwrap();
        world.settle();
        assert_eq!(world.recv(1, server).unwrap(), b"x", "{to}");
    }
    let group = "239.1.2.3".parse().unwrap();
    send_to(&mut world, 0, client, b"m", "239.1.2.3:9").unwrap();
    world.settle();
    assert_eq!(world.recv(1, server), Err(Error::Again), "not joined");
    let any = "0.0.0.0".parse().unwrap();
    world.stacks[1].set_option(server, SocketOption::JoinGroup((group, any))).unwrap();
    assert_eq!(
        world.stacks[1].set_option(server, SocketOption::JoinGroup((group, any))),
        Err(Error::AddressInUse)
    );
    send_to(&mut world, 0, client, b"m", "239.1.2.3:9").unwrap();
    world.settle();
    assert_eq!(world.recv(1, server).unwrap(), b"m");
    world.stacks[1].set_option(server, SocketOption::LeaveGroup((group, any))).unwrap();
    send_to(&mut world, 0, client, b"m", "239.1.2.3:9").unwrap();
    world.settle();
    assert_eq!(world.recv(1, server), Err(Error::Again));
    let six = world.stacks[1].socket(UDP6).unwrap();
    world.stacks[1].bind(six, addr("[::]:10")).unwrap();
    world.stacks[1].set_option(six, SocketOption::JoinGroup6(("ff02::77".parse().unwrap(), 2))).unwrap();
    let from = world.stacks[0].socket(UDP6).unwrap();
    send_to(&mut world, 0, from, b"6", "[ff02::77]:10").unwrap();
    world.settle();
    assert_eq!(world.recv(1, six).unwrap(), b"6");
}

#[test]
fn a_neighbor_that_is_not_there_holds_up_nobody() {
    let mut world = World::new();
    let server = world.stacks[1].socket(UDP4).unwrap();
    world.stacks[1].bind(server, addr("0.0.0.0:53")).unwrap();
    let client = world.stacks[0].socket(UDP4).unwrap();
    send_to(&mut world, 0, client, b"lost", "192.0.2.99:53").unwrap();
    send_to(&mut world, 0, client, b"found", "192.0.2.2:53").unwrap();
    let connected = world.stacks[0].socket(UDP4).unwrap();
    world.stacks[0].connect(connected, addr("192.0.2.98:53"), world.now).unwrap();
    world.send(0, connected, b"lost").unwrap();
    world.pass(std::time::Duration::from_secs(2));
    assert_eq!(world.recv(1, server).unwrap(), b"found");
    world.pass(std::time::Duration::from_secs(6));
    assert_eq!(world.recv(0, connected), Err(Error::HostUnreachable));
    assert_eq!(world.recv(0, client), Err(Error::Again));
}

#[test]
fn raw_sockets_hear_of_a_neighbor_that_is_not_there() {
    for (domain, icmp, to, kind, header) in
        [(Domain::V4, 1, "192.0.2.99:53", [3, 1], 20), (Domain::V6, 58, "[2001:db8::99]:53", [1, 3], 0)]
    {
        let mut world = World::new();
        let raw = SocketSpec { domain, kind: Kind::Raw, protocol: Protocol::Raw(icmp) };
        let raw = world.stacks[0].socket(raw).unwrap();
        let udp = SocketSpec { domain, kind: Kind::Datagram, protocol: Protocol::Udp };
        let client = world.stacks[0].socket(udp).unwrap();
        send_to(&mut world, 0, client, b"lost", to).unwrap();
        send_to(&mut world, 0, client, b"lost, too", to).unwrap();
        world.pass(std::time::Duration::from_secs(6));
        let said = world.recv(0, raw).unwrap();
        assert_eq!(said[header..][..2], kind);
        // It quotes the packet.
        assert!(said.ends_with(b"lost"), "{said:?}");
        // One for all that waited, and none for another one.
        assert_eq!(world.recv(0, raw), Err(Error::Again));
    }
}

#[test]
fn echo_sockets_ping_and_get_their_own_replies() {
    for (domain, protocol, to, request, reply) in [
        (Domain::V4, Protocol::Icmp, "192.0.2.2:0", 8, 0),
        (Domain::V6, Protocol::Icmpv6, "[2001:db8::2]:0", 128, 129),
        (Domain::V4, Protocol::Icmp, "127.0.0.1:0", 8, 0),
        (Domain::V6, Protocol::Icmpv6, "[::1]:0", 128, 129),
    ] {
        let mut world = World::new();
        let spec = SocketSpec { domain, kind: Kind::Datagram, protocol };
        let ping = world.stacks[0].socket(spec).unwrap();
        let other = world.stacks[0].socket(spec).unwrap();
        let any = if domain == Domain::V4 { "0.0.0.0:77" } else { "[::]:77" };
        world.stacks[0].bind(ping, addr(any)).unwrap();
        let share = |world: &mut World, on| {
            world.stacks[0].set_option(other, SocketOption::ReuseAddress(on)).unwrap();
            world.stacks[0].bind(other, addr(any))
        };
        assert_eq!(share(&mut world, false), Err(Error::AddressInUse));
        let message = [request, 0, 0, 0, 9, 9, 0, 1, b'd', b'a', b't', b'a'];
        assert_eq!(send_to(&mut world, 0, ping, &message, to), Ok(12));
        world.settle();
        let (data, got) = receive(&mut world.stacks[0], ping, world.now).unwrap();
        assert_eq!((data[0], &data[4..]), (reply, &[0, 77, 0, 1, b'd', b'a', b't', b'a'][..]));
        assert_eq!(got.from, Some(addr(to)));
        assert_eq!(world.recv(0, other), Err(Error::Again));
        assert_eq!(send_to(&mut world, 0, ping, &[reply; 12], to), Err(Error::Invalid));
        assert_eq!(send_to(&mut world, 0, ping, &[request, 0], to), Err(Error::Invalid));
        // Of two that share an identifier, the last one gets the replies, until it is closed.
        assert_eq!(share(&mut world, true), Ok(()));
        send_to(&mut world, 0, ping, &message, to).unwrap();
        world.settle();
        assert_eq!(world.recv(0, ping), Err(Error::Again));
        assert_eq!(world.recv(0, other).unwrap()[0], reply);
        world.stacks[0].close(other, world.now).unwrap();
        world.stacks[0].connect(ping, addr(to), world.now).unwrap();
        assert_eq!(world.stacks[0].peer_addr(ping), Err(Error::NotConnected), "it has no port");
        world.stacks[0].send(ping, &message, None, SendFlags::empty(), world.now).unwrap();
        world.settle();
        assert_eq!(world.recv(0, ping).unwrap()[0], reply);
    }
}

#[test]
fn raw_sockets_see_the_header_and_the_receive_buffer_has_an_end() {
    let mut world = World::new();
    let spec = SocketSpec { domain: Domain::V4, kind: Kind::Raw, protocol: Protocol::Raw(200) };
    let (a, b) = (world.stacks[0].socket(spec).unwrap(), world.stacks[1].socket(spec).unwrap());
    send_to(&mut world, 0, a, b"raw", "192.0.2.2:0").unwrap();
    world.settle();
    let data = world.recv(1, b).unwrap();
    assert_eq!((data.len(), data[9], &data[20..]), (23, 200, &b"raw"[..]));

    let server = world.stacks[1].socket(UDP4).unwrap();
    world.stacks[1].bind(server, addr("0.0.0.0:53")).unwrap();
    world.stacks[1].set_option(server, SocketOption::ReceiveBuffer(5_000)).unwrap();
    let client = world.stacks[0].socket(UDP4).unwrap();
    for _ in 0..20 {
        send_to(&mut world, 0, client, &[0; 1000], "192.0.2.2:53").unwrap();
    }
    world.settle();
    let got = std::iter::from_fn(|| world.recv(1, server).ok()).count();
    assert_eq!(got, 8);
    assert_eq!(world.stacks[1].statistics().udp_receive_overflows, 12);
}

#[test]
fn a_socket_that_wants_no_gateway_reaches_only_neighbors() {
    let mut world = World::new();
    let gateway = Some("192.0.2.2".parse().unwrap());
    let route =
        netgraft_plugin::inet::Route { destination: "0.0.0.0/0".parse().unwrap(), gateway, interface: 2 };
    world.stacks[0].add_route(route).unwrap();
    let udp = world.stacks[0].socket(UDP4).unwrap();
    let tcp = world.stacks[0].socket(TCP4).unwrap();
    assert_eq!(send_to(&mut world, 0, udp, b"x", "198.51.100.1:9"), Ok(1));
    for sock in [udp, tcp] {
        world.stacks[0].set_option(sock, SocketOption::DontRoute(true)).unwrap();
        let to = world.stacks[0].connect(sock, addr("198.51.100.1:9"), world.now);
        assert_eq!(to, Err(Error::NetworkUnreachable));
    }
    assert_eq!(send_to(&mut world, 0, udp, b"x", "198.51.100.1:9"), Err(Error::NetworkUnreachable));
    assert_eq!(send_to(&mut world, 0, udp, b"x", "192.0.2.2:9"), Ok(1));
    assert_eq!(send_to(&mut world, 0, udp, b"x", "127.0.0.1:9"), Ok(1));
}

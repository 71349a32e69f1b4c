//! The loopback, ports, options and events.

use netgraft_plugin::inet::Stack;
use netgraft_plugin::option::{OptionName, SocketOption};
use netgraft_plugin::{Error, Events, Sockets};

use super::*;

fn listener(stack: &mut SmoltcpStack, spec: SocketSpec, at: &str) -> Handle {
    let handle = stack.socket(spec).unwrap();
    stack.bind(handle, addr(at)).unwrap();
    stack.listen(handle, 4096).unwrap();
    handle
}

fn connect(stack: &mut SmoltcpStack, to: &str, now: Instant) -> Handle {
    let to = addr(to);
    let handle = stack.socket(if to.is_ipv4() { TCP4 } else { TCP6 }).unwrap();
    assert_eq!(stack.connect(handle, to, now), Err(Error::InProgress));
    rest(stack, now);
    handle
}

const NOW: Instant = Instant::from_millis(5);

#[test]
fn every_loopback_address_works() {
    let mut stack = alone();
    let server = listener(&mut stack, TCP6, "[::]:80");
    for to in ["127.0.0.1:80", "127.9.8.7:80", "[::1]:80", "0.0.0.0:80", "[::]:80", "[::ffff:127.0.0.1]:80"] {
        let client = connect(&mut stack, to, NOW);
        assert_eq!(stack.readiness(client), Ok(Events::OUT), "{to}");
        let (accepted, peer) = stack.accept(server).unwrap();
        assert_eq!(stack.local_addr(client).unwrap().port(), peer.port());
        stack.send(accepted, b"hi", None, SendFlags::empty(), NOW).unwrap();
        rest(&mut stack, NOW);
        assert_eq!(recv(&mut stack, client, NOW).unwrap(), b"hi");
    }
    let refused = connect(&mut stack, "127.0.0.1:81", NOW);
    assert_eq!(stack.take_error(refused), Some(Error::ConnectionRefused));
    let far = stack.socket(TCP4).unwrap();
    assert_eq!(stack.connect(far, addr("192.0.2.1:1"), NOW), Err(Error::NetworkUnreachable));
}

#[test]
fn a_stack_reaches_its_own_outer_address() {
    let mut world = World::new();
    let server = world.listen(0, TCP4, "192.0.2.1:80", 5);
    let client = world.connect(0, TCP4, "192.0.2.1:80");
    assert_eq!(world.ready(0, client), Events::OUT);
    let (_, peer) = world.stacks[0].accept(server).unwrap();
    assert_eq!(peer.ip().to_string(), "192.0.2.1");
}

#[test]
fn ports_are_shared_as_on_linux() {
    let mut stack = alone();
    let a = stack.socket(TCP4).unwrap();
    assert_eq!(stack.bind(a, addr("192.0.2.7:80")), Err(Error::AddressNotAvailable));
    assert_eq!(stack.bind(a, addr("[::1]:80")), Err(Error::FamilyNotSupported));
    stack.bind(a, addr("0.0.0.0:80")).unwrap();
    assert_eq!(stack.bind(a, addr("0.0.0.0:81")), Err(Error::Invalid));
    let b = stack.socket(TCP4).unwrap();
    assert_eq!(stack.bind(b, addr("127.0.0.1:80")), Err(Error::AddressInUse));
    // Both with SO_REUSEADDR: binding works, a second listener does not.
    for handle in [a, b] {
        stack.set_option(handle, SocketOption::ReuseAddress(true)).unwrap();
    }
    stack.bind(b, addr("127.0.0.1:80")).unwrap();
    stack.listen(a, 1).unwrap();
    assert_eq!(stack.listen(b, 1), Err(Error::AddressInUse));
    // A connection that is left keeps the port from those without SO_REUSEADDR.
    let client = connect(&mut stack, "127.0.0.1:80", NOW);
    let (server, _) = stack.accept(a).unwrap();
    for handle in [server, client, a, b] {
        stack.close(handle, NOW).unwrap();
        rest(&mut stack, NOW);
    }
    let c = stack.socket(TCP4).unwrap();
    stack.set_option(c, SocketOption::ReuseAddress(true)).unwrap();
    stack.bind(c, addr("0.0.0.0:80")).unwrap();
    stack.listen(c, 1).unwrap();
    let any = stack.socket(TCP4).unwrap();
    stack.set_port_range(5000, 5001).unwrap();
    stack.listen(any, 1).unwrap();
    assert!((5000..=5001).contains(&stack.local_addr(any).unwrap().port()));
}

#[test]
fn reuse_port_spreads_connections() {
    let mut stack = alone();
    let listeners: Vec<Handle> = (0..4)
        .map(|_| {
            let handle = stack.socket(TCP4).unwrap();
            stack.set_option(handle, SocketOption::ReusePort(true)).unwrap();
            stack.bind(handle, addr("0.0.0.0:80")).unwrap();
            stack.listen(handle, 4096).unwrap();
            handle
        })
        .collect();
    for _ in 0..200 {
        connect(&mut stack, "127.0.0.1:80", NOW);
    }
    for handle in listeners {
        let count = std::iter::from_fn(|| stack.accept(handle).ok()).count();
        assert!((10..120).contains(&count), "{count} of 200");
    }
}

#[test]
fn ports_run_out_and_come_back() {
    let mut stack = alone();
    listener(&mut stack, TCP4, "127.0.0.1:80");
    listener(&mut stack, TCP4, "127.0.0.2:80");
    stack.set_port_range(6000, 6003).unwrap();
    let clients: Vec<Handle> = (0..4).map(|_| connect(&mut stack, "127.0.0.1:80", NOW)).collect();
    let fifth = stack.socket(TCP4).unwrap();
    assert_eq!(stack.connect(fifth, addr("127.0.0.1:80"), NOW), Err(Error::AddressNotAvailable));
    // The same ports do for another destination.
    connect(&mut stack, "127.0.0.2:80", NOW);
    stack.abort(clients[0], NOW).unwrap();
    assert_eq!(stack.connect(fifth, addr("127.0.0.1:80"), NOW), Err(Error::InProgress));
}

#[test]
fn options_read_back_and_unknown_ones_are_told() {
    let mut stack = alone();
    let tcp = stack.socket(TCP4).unwrap();
    let udp = stack.socket(UDP4).unwrap();
    for option in [
        SocketOption::NoDelay(true),
        SocketOption::KeepAlive(true),
        SocketOption::Congestion("reno".into()),
        SocketOption::SendBuffer(100_000),
        SocketOption::Linger(Some(std::time::Duration::from_secs(3))),
        SocketOption::TypeOfService(16),
        SocketOption::Ttl(3),
        SocketOption::FinTimeout(std::time::Duration::ZERO),
        SocketOption::WindowClamp(5000),
    ] {
        stack.set_option(tcp, option.clone()).unwrap();
        assert_eq!(stack.get_option(tcp, option.name()), Ok(option));
    }
    for sock in [tcp, udp] {
        for (asked, send, receive) in [(1, 2304, 1152), (u32::MAX, 4 << 20, 4 << 20)] {
            stack.set_option(sock, SocketOption::SendBuffer(asked)).unwrap();
            stack.set_option(sock, SocketOption::ReceiveBuffer(asked)).unwrap();
            let get = |name| stack.get_option(sock, name).unwrap();
            assert_eq!(get(OptionName::SendBuffer), SocketOption::SendBuffer(send));
            assert_eq!(get(OptionName::ReceiveBuffer), SocketOption::ReceiveBuffer(receive));
        }
    }
    assert_eq!(stack.set_option(tcp, SocketOption::Congestion("vegas".into())), Err(Error::NotFound));
    assert_eq!(stack.set_option(tcp, SocketOption::KeepCount(1000)), Err(Error::Invalid));
    assert_eq!(stack.set_option(udp, SocketOption::NoDelay(true)), Err(Error::UnknownOption));
    assert_eq!(stack.set_option(tcp, SocketOption::V6Only(true)), Err(Error::UnknownOption));
    assert_eq!(stack.get_option(tcp, OptionName::NotSentLowWater), Err(Error::UnknownOption));
    assert_eq!(stack.set_option(Handle(12345), SocketOption::NoDelay(true)), Err(Error::BadHandle));
}

#[test]
fn buffers_have_the_size_that_was_asked_for() {
    let mut stack = alone();
    let server = listener(&mut stack, TCP4, "127.0.0.1:80");
    let client = stack.socket(TCP4).unwrap();
    stack.set_option(client, SocketOption::SendBuffer(10_000)).unwrap();
    stack.connect(client, addr("127.0.0.1:80"), NOW).unwrap_err();
    rest(&mut stack, NOW);
    stack.accept(server).unwrap();
    assert_eq!(stack.send_room(client), 20_000);
    assert_eq!(stack.send(client, &[0; 50_000], None, SendFlags::empty(), NOW), Ok(20_000));
    assert_eq!(stack.send_room(client), 0);
    assert_eq!(stack.send(client, &[0; 50_000], None, SendFlags::empty(), NOW), Err(Error::Again));
    rest(&mut stack, Instant::from_millis(50));
    rest(&mut stack, Instant::from_millis(70));
    assert_eq!(stack.send_room(client), 20_000);
}

#[test]
fn each_arrival_is_an_event_and_a_registration_tells_what_holds() {
    let mut stack = alone();
    let server = listener(&mut stack, TCP4, "127.0.0.1:80");
    let client = connect(&mut stack, "127.0.0.1:80", NOW);
    let (conn, _) = stack.accept(server).unwrap();
    stack.set_option(client, SocketOption::NoDelay(true)).unwrap();
    watch(&mut stack, conn, Events::IN);
    assert_eq!(events(&mut stack), []);
    for _ in 0..3 {
        stack.send(client, b"x", None, SendFlags::empty(), NOW).unwrap();
        rest(&mut stack, NOW);
        let now = events(&mut stack);
        assert_eq!(now, [Event { handle: conn, events: Events::IN }], "without a read in between");
    }
    assert_eq!(stack.add_fd(conn, Events::IN), Err(Error::Exists));
    stack.update_fd(conn, Events::OUT).unwrap();
    assert_eq!(events(&mut stack), [Event { handle: conn, events: Events::OUT }]);
    stack.remove_fd(conn).unwrap();
    assert_eq!(stack.update_fd(conn, Events::IN), Err(Error::BadHandle));
    assert_eq!(stack.queued_in(conn), Ok(3));
    let mut one = [0; 1];
    stack.recv(conn, &mut one, RecvFlags::PEEK, NOW).unwrap();
    assert_eq!(stack.queued_in(conn), Ok(3));
}

#[test]
fn ten_thousand_idle_sockets_do_not_slow_a_ping_pong() {
    let mut steps = Vec::new();
    for idle in [0, 10_000] {
        let mut stack = alone();
        let server = listener(&mut stack, TCP4, "127.0.0.1:80");
        let mut pairs = Vec::new();
        for _ in 0..=idle {
            let client = connect(&mut stack, "127.0.0.1:80", NOW);
            pairs.push((client, stack.accept(server).unwrap().0));
        }
        let (client, conn) = pairs[idle / 2];
        let before = stack.work();
        let mut now = NOW;
        for _ in 0..100 {
            now = now + std::time::Duration::from_micros(10);
            stack.send(client, b"ping", None, SendFlags::empty(), now).unwrap();
            rest(&mut stack, now);
            assert_eq!(recv(&mut stack, conn, now).unwrap(), b"ping");
            stack.send(conn, b"pong", None, SendFlags::empty(), now).unwrap();
            rest(&mut stack, now);
            assert_eq!(recv(&mut stack, client, now).unwrap(), b"pong");
        }
        steps.push(stack.work() - before);
    }
    assert_eq!(steps[0], steps[1]);
    assert!(steps[0] <= 700, "{steps:?}");
}

#[test]
fn closed_connections_leave_nothing() {
    let mut stack = alone();
    let server = listener(&mut stack, TCP4, "127.0.0.1:80");
    let mut now = NOW;
    for _ in 0..1000 {
        let client = connect(&mut stack, "127.0.0.1:80", now);
        let (conn, _) = stack.accept(server).unwrap();
        stack.close(client, now).unwrap();
        rest(&mut stack, now);
        assert_eq!(recv(&mut stack, conn, now).unwrap(), b"");
        stack.close(conn, now).unwrap();
        rest(&mut stack, now);
        now = now + std::time::Duration::from_millis(1);
    }
    stack.close(server, now).unwrap();
    assert_eq!(stack.statistics().sockets, 0);
    assert_eq!(stack.statistics().tcp_established, 0);
    rest(&mut stack, now + std::time::Duration::from_secs(61));
    assert_eq!(stack.next_deadline(), None);
    let again = stack.socket(TCP4).unwrap();
    stack.bind(again, addr("127.0.0.1:80")).unwrap();
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let config = |addresses: &[&str], gateways: &[&str]| StackConfig {
        link: netgraft_plugin::LinkConfig::tap("ng0".parse().unwrap()),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        gateways: gateways.iter().map(|g| g.parse().unwrap()).collect(),
        ..StackConfig::default()
    };
    assert!(SmoltcpStack::new(config(&["192.0.2.2/24"], &["192.0.2.1"])).is_ok());
    for (addresses, gateways) in [
        (&["127.0.0.1/8"][..], &[][..]),
        (&["192.0.2.2/24", "192.0.2.2/25"], &[]),
        (&["192.0.2.2/24"], &["198.51.100.1"]),
    ] {
        assert!(SmoltcpStack::new(config(addresses, gateways)).is_err(), "{addresses:?} {gateways:?}");
    }
    let none = StackConfig { link: netgraft_plugin::LinkConfig::None, ..config(&["192.0.2.2/24"], &[]) };
    assert!(SmoltcpStack::new(none).is_err());
}

#[test]
fn both_directions_at_once_do_not_block_each_other() {
    let mut stack = alone();
    let server = listener(&mut stack, TCP4, "127.0.0.1:80");
    let client = connect(&mut stack, "127.0.0.1:80", NOW);
    let conn = stack.accept(server).unwrap().0;
    let data = vec![0; 300_000];
    let (mut sent, mut got) = ([0; 2], [0; 2]);
    let mut now = NOW;
    for _ in 0..2000 {
        stack.poll(now);
        for (way, (from, to)) in [(client, conn), (conn, client)].into_iter().enumerate() {
            if let Ok(len) = stack.send(from, &data[sent[way]..], None, SendFlags::empty(), now) {
                sent[way] += len;
            }
            let mut buf = [0; 16_384];
            while let Ok(part) = stack.recv(to, &mut buf, RecvFlags::empty(), now) {
                got[way] += part.len;
            }
        }
        if got == [300_000; 2] {
            return;
        }
        // Without a deadline there is nothing to wait for.
        let Some(next) = stack.next_deadline() else { break };
        now = now.max(next);
    }
    panic!("{sent:?} sent, {got:?} got");
}

#[test]
fn a_connection_keeps_its_port_as_its_options_say_now_and_in_time_wait() {
    let mut stack = alone();
    let server = listener(&mut stack, TCP4, "127.0.0.1:80");
    let client = connect(&mut stack, "127.0.0.1:80", NOW);
    let (conn, _) = stack.accept(server).unwrap();
    stack.close(server, NOW).unwrap();
    let bind = |stack: &mut SmoltcpStack, at: &str| {
        let sock = stack.socket(TCP4).unwrap();
        stack.set_option(sock, SocketOption::ReuseAddress(true)).unwrap();
        let bound = stack.bind(sock, addr(at));
        stack.close(sock, NOW).unwrap();
        bound
    };
    let at = ["127.0.0.1:80", "0.0.0.0:80"];
    for on in [false, true, false] {
        stack.set_option(conn, SocketOption::ReuseAddress(on)).unwrap();
        let expected = if on { Ok(()) } else { Err(Error::AddressInUse) };
        assert_eq!(at.map(|at| bind(&mut stack, at)), [expected, expected]);
        assert_eq!(bind(&mut stack, "127.0.0.2:80"), Ok(()));
    }
    for handle in [conn, client] {
        stack.close(handle, NOW).unwrap();
        rest(&mut stack, NOW);
    }
    assert_eq!(at.map(|at| bind(&mut stack, at)), [Err(Error::AddressInUse); 2]);
    rest(&mut stack, NOW + std::time::Duration::from_secs(60));
    assert_eq!(at.map(|at| bind(&mut stack, at)), [Ok(()); 2]);
}

/// A link on which another station has addresses.
struct Claimed(Arc<Mutex<Vec<std::net::IpAddr>>>);

impl Link for Claimed {
    fn medium(&self) -> Medium {
        Medium::Ethernet([2; 6])
    }
    fn mtu(&self) -> usize {
        1500
    }
    fn receive(&mut self, _: Instant, _: usize, _: &mut dyn FnMut(&[u8])) -> Result<usize> {
        Ok(0)
    }
    fn send(&mut self, _: Instant, _: &[u8], _: FrameMeta) -> Result<()> {
        Ok(())
    }
    fn flush(&mut self, _: Instant) -> Result<()> {
        Ok(())
    }
    fn withdrawn(&mut self) -> Option<std::net::IpAddr> {
        self.0.lock().unwrap().pop()
    }
}

#[test]
fn an_address_that_is_anothers_is_given_up() {
    let addresses = ["2001:db8::2/64", "2001:db8::3/64"].map(|text| text.parse().unwrap());
    let config = StackConfig { addresses: addresses.to_vec(), ..StackConfig::default() };
    let claimed = Arc::new(Mutex::new(Vec::new()));
    let mut stack = SmoltcpStack::with_link(config, Box::new(Claimed(Arc::clone(&claimed)))).unwrap();
    stack.init(InitStackArgs::default()).unwrap();
    let of_link = |stack: &SmoltcpStack| stack.interfaces().pop().unwrap().addresses;
    let first = of_link(&stack);
    assert_eq!((first.len(), &first[1..]), (3, &addresses[..]));
    claimed.lock().unwrap().push(addresses[0].addr());
    rest(&mut stack, NOW);
    assert_eq!(of_link(&stack), [first[0], addresses[1]]);
    // A link-local one is the stack's own choice: it makes another.
    claimed.lock().unwrap().push(first[0].addr());
    rest(&mut stack, NOW);
    let last = of_link(&stack);
    assert_eq!((last.len(), last[0]), (2, addresses[1]));
    assert!(last[1] != first[0] && last[1].addr().to_string().starts_with("fe80:"));
}

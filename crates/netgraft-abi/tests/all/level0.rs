//! Every quirk of level 0 objects, one by one.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use netgraft_plugin::inet::{BufferSizes, Route};
use netgraft_plugin::option::{OptionName, SocketOption};
use netgraft_plugin::{Domain, Error, Events, Kind, Protocol, Shutdown, SocketSpec};

use crate::common;
use crate::rig::{NOW, Rig, TCP, UDP, again};

/// The relay with some quirks. Tests run at the same time, and several have the same quirks: each object has a name of
/// its own.
fn object(quirks: &str) -> PathBuf {
    static BUILT: AtomicUsize = AtomicUsize::new(0);
    let number = BUILT.fetch_add(1, Ordering::Relaxed);
    let flag = format!("-DQUIRKS=\"{quirks}\"");
    common::build(&format!("quirk_{}_{number}", quirks.replace(',', "_")), "level0.c", &[&flag])
}

fn rig(quirks: &str) -> Rig {
    Rig::new(&object(quirks), None)
}

fn refused(quirks: &str) -> String {
    Rig::try_new(&object(quirks), None).err().unwrap().to_string()
}

/// The relay always leaves err stale on success, hands over a descriptor of -1, and has a wait that ignores its
/// time-out; so this alone goes through all three.
#[test]
fn data_goes_both_ways() {
    let mut rig = rig("");
    let (client, server) = rig.connection();
    let data: Vec<u8> = (0..1 << 20_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    rig.transfer(client, server, &data);
    rig.transfer(server, client, &data);
    assert_eq!(rig.stack.peer_addr(client), rig.stack.local_addr(server));
}

#[test]
fn what_would_block_comes_in_three_forms() {
    let data = vec![7; 4 << 20];
    for quirks in ["zero", "inprogress", "full"] {
        let mut rig = rig(quirks);
        let (client, server) = rig.connection();
        rig.transfer(client, server, &data);
    }
    let mut rig = rig("full,zero");
    let (client, server) = rig.connection();
    rig.transfer(client, server, &data);
}

/// A claim of room that is not there costs one call until the event comes, not a spin.
#[test]
fn readiness_that_claims_too_much_is_not_believed() {
    let mut rig = rig("claims");
    let (client, server) = rig.connection();
    // The kernel's window still grows for a while after it was full.
    let mut refused = 0;
    while refused < 20 {
        refused = if rig.send(client, &[0; 65536]).is_ok() { 0 } else { refused + 1 };
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for _ in 0..20 {
        rig.stack.update_fd(client, Events::IN | Events::OUT).unwrap();
        assert!(!rig.stack.readiness(client).unwrap().contains(Events::OUT));
        let events = rig.step();
        assert!(events.iter().all(|e| e.handle != client || !e.events.contains(Events::OUT)), "{events:?}");
    }
    let mut buf = [0; 65536];
    assert_eq!(rig.recv(client, &mut buf), Err(Error::Again));
    assert!(!rig.stack.readiness(client).unwrap().contains(Events::IN));
    rig.events.clear();
    rig.until("all is read", |rig| again(rig.recv(server, &mut buf)).is_none().then_some(()));
    rig.wait(client, Events::OUT);
}

#[test]
fn the_end_of_a_stream_comes_as_an_error() {
    let mut rig = rig("eshutdown,hup");
    let (client, server) = rig.connection();
    rig.send(client, b"last").unwrap();
    rig.stack.shutdown(client, Shutdown::Write, NOW).unwrap();
    let mut buf = [0; 16];
    let got = rig.until("the data", |rig| again(rig.recv(server, &mut buf)));
    assert_eq!(&buf[..got.len], b"last");
    let end = rig.until("the end", |rig| again(rig.recv(server, &mut buf)));
    assert_eq!((end.len, rig.recv(server, &mut buf).map(|r| r.len)), (0, Ok(0)), "and stays");
    assert!(rig.stack.readiness(server).unwrap().contains(Events::IN | Events::RDHUP));
    // The FIN came as HUP, but this half is open: it is no hang-up.
    assert!(!rig.stack.readiness(server).unwrap().contains(Events::HUP));
    assert_eq!(rig.send(server, b"still"), Ok(5));
}

/// A closed stream claims everything that it is asked for; a program that waits for urgent data alone must not wake.
#[test]
fn a_closed_stream_is_ready_for_what_a_closed_stream_is() {
    let closed = Events::IN | Events::OUT | Events::HUP | Events::RDHUP;
    for quirks in ["", "closed"] {
        let mut rig = rig(quirks);
        let (client, server) = rig.connection();
        rig.stack.shutdown(client, Shutdown::Both, NOW).unwrap();
        rig.stack.shutdown(server, Shutdown::Both, NOW).unwrap();
        for end in [client, server] {
            rig.wait(end, Events::HUP);
            assert_eq!(rig.stack.readiness(end), Ok(closed), "{quirks}");
            assert_eq!(again(rig.recv(end, &mut [0; 4])).map(|r| r.len), Some(0));
            assert_eq!(rig.stack.readiness(end), Ok(closed), "{quirks}");
            assert_eq!(rig.stack.take_error(end), None);
        }
        let fresh = rig.stack.socket(TCP).unwrap();
        assert_eq!(rig.stack.readiness(fresh), Ok(Events::OUT | Events::HUP));
    }
}

#[test]
fn a_refusal_is_told_once_though_so_error_stays() {
    let mut rig = rig("sticky");
    let (listener, addr) = rig.listener();
    rig.stack.close(listener, NOW).unwrap();
    let socket = rig.stack.socket(TCP).unwrap();
    let first = rig.stack.connect(socket, addr, NOW);
    rig.stack.add_fd(socket, Events::OUT).unwrap();
    if first == Err(Error::InProgress) {
        rig.wait(socket, Events::ERR);
        assert_eq!(rig.stack.take_error(socket), Some(Error::ConnectionRefused));
    } else {
        assert_eq!(first, Err(Error::ConnectionRefused));
    }
    assert_eq!(rig.stack.take_error(socket), None);
}

/// The interface's first user waits 100 ms at a time: what an object does when its time comes, it does as the next
/// wait begins. Waited for without a limit it does nothing any more.
#[test]
fn timers_live_from_waits_that_come_back() {
    let mut rig = rig("timers");
    let (client, server) = rig.connection();
    rig.transfer(client, server, b"on time");
}

/// A wait that finds nothing is no failure, however often.
#[test]
fn empty_waits_are_normal() {
    let mut rig = rig("empty");
    let (client, server) = rig.connection();
    assert_eq!(rig.recv(server, &mut [0; 16]), Err(Error::Again));
    rig.send(client, b"after all of them").unwrap();
    // The claim of readiness does not count any more: only an event of a later wait does.
    rig.wait(server, Events::IN);
    assert_eq!(rig.stack.failure(), None);
}

/// HUP, or HUP and ERR, come with a plain FIN, and SO_ERROR is wrong after it: the data, then the end, and no error.
#[test]
fn an_orderly_end_is_no_error() {
    for quirks in [
        "refused",
        "refused,hup",
        "refused,hup,sticky,eshutdown",
        "broken",
        "broken,hup,eshutdown",
        "broken,closed",
    ] {
        let mut rig = rig(quirks);
        let (client, server) = rig.connection();
        let data = vec![5; 100_000];
        let mut sent = 0;
        let mut got = Vec::new();
        let mut buf = vec![0; 65536];
        rig.until("the data, and then the end", |rig| {
            while sent < data.len() {
                match again(rig.send(server, &data[sent..])) {
                    Some(count) => sent += count,
                    None => break,
                }
                if sent == data.len() {
                    rig.stack.close(server, NOW).unwrap();
                }
            }
            // Whatever has happened since, it is no error of this stream.
            assert_eq!(rig.stack.take_error(client), None, "{quirks} after {} bytes", got.len());
            let received = again(rig.recv(client, &mut buf))?;
            got.extend_from_slice(&buf[..received.len]);
            (received.len == 0).then_some(())
        });
        assert!(got == data, "{quirks}: {} bytes", got.len());
        assert_eq!(rig.stack.take_error(client), None, "{quirks}");
        let level = rig.stack.readiness(client).unwrap();
        assert!(level.contains(Events::IN | Events::RDHUP) && !level.contains(Events::ERR), "{level:?}");
    }
}

/// So it is for a connection that has ended before it was looked at.
#[test]
fn a_connection_that_ended_at_once_was_one() {
    let mut rig = rig("refused,hup");
    let (listener, addr) = rig.listener();
    let client = rig.stack.socket(TCP).unwrap();
    let _ = rig.stack.connect(client, addr, NOW);
    let (server, _) = rig.until("a connection", |rig| again(rig.stack.accept(listener)));
    rig.stack.close(server, NOW).unwrap();
    rig.stack.add_fd(client, Events::IN | Events::OUT).unwrap();
    rig.wait(client, Events::OUT);
    assert_eq!(rig.stack.take_error(client), None);
    assert_eq!(rig.recv(client, &mut [0; 4]).map(|received| received.len), Ok(0));
    // A real refusal is still reported.
    rig.stack.close(listener, NOW).unwrap();
    let client = rig.stack.socket(TCP).unwrap();
    let first = rig.stack.connect(client, addr, NOW);
    rig.stack.add_fd(client, Events::OUT).unwrap();
    if first == Err(Error::InProgress) {
        rig.wait(client, Events::ERR);
        assert_eq!(rig.stack.take_error(client), Some(Error::ConnectionRefused));
    }
}

#[test]
fn events_of_closed_sockets_reach_nobody() {
    let mut rig = rig("late");
    let (client, server) = rig.connection();
    rig.stack.close(server, NOW).unwrap();
    rig.stack.close(client, NOW).unwrap();
    // The number of the object's handle is used again at once.
    let next = rig.stack.socket(UDP).unwrap();
    rig.stack.add_fd(next, Events::IN).unwrap();
    rig.events.clear();
    for _ in 0..10 {
        rig.step();
    }
    assert_eq!(rig.events, []);
    assert_eq!(rig.stack.readiness(client), Err(Error::BadHandle));
}

#[test]
fn a_handle_that_is_given_twice_is_refused() {
    let mut rig = rig("twice");
    let first = rig.stack.socket(TCP).unwrap();
    assert_eq!(rig.stack.socket(TCP), Err(Error::Io));
    assert!(rig.stack.local_addr(first).is_ok(), "the first one is not closed");
}

/// The relay would answer these with sockets of this process: it is not asked.
#[test]
fn other_sockets_are_not_asked_for() {
    let mut rig = rig("");
    let make = |domain, kind, protocol| SocketSpec { domain, kind, protocol };
    for (spec, error) in [
        (make(Domain::V6, Kind::Stream, Protocol::Tcp), Error::FamilyNotSupported),
        (make(Domain::V4, Kind::Raw, Protocol::Raw(1)), Error::KindNotSupported),
        (make(Domain::V4, Kind::Datagram, Protocol::Icmp), Error::ProtocolNotSupported),
    ] {
        assert_eq!(rig.stack.socket(spec), Err(error));
    }
}

#[test]
fn nonsense_is_an_error_and_no_more() {
    let mut buf = [0; 16];
    let mut read = rig("long-read");
    let (client, server) = read.connection();
    read.send(client, b"abc").unwrap();
    read.wait(server, Events::IN);
    assert_eq!(read.recv(server, &mut buf), Err(Error::Io));
    let udp = read.stack.socket(UDP).unwrap();
    read.stack.bind(udp, "127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = read.stack.local_addr(udp).unwrap();
    read.stack.connect(udp, addr, NOW).unwrap();
    assert_eq!(read.send(udp, b"x"), Ok(1));
    assert_eq!(read.recv(udp, &mut buf), Err(Error::Io));

    let mut write = rig("long-write");
    let (client, _) = write.connection();
    assert_eq!(write.send(client, b"abc"), Err(Error::Io));

    let mut option = rig("long-option");
    let socket = option.stack.socket(TCP).unwrap();
    assert_eq!(option.stack.get_option(socket, OptionName::NoDelay), Err(Error::Io));
    assert_eq!(option.stack.set_option(socket, SocketOption::NoDelay(true)), Ok(()));

    let mut address = rig("bad-address");
    let socket = address.stack.socket(TCP).unwrap();
    assert_eq!(address.stack.local_addr(socket), Err(Error::Io));

    let mut error = rig("bad-error");
    let socket = error.stack.socket(TCP).unwrap();
    assert_eq!(error.stack.peer_addr(socket), Err(Error::Io));
}

/// What an object has is asked before it serves; and no socket is asked for an option of another kind.
#[test]
fn options_that_an_object_lacks_are_not_declared() {
    let all = rig("").stack.info().options;
    let mut rig = rig("few-options");
    let few = rig.stack.info().options;
    let declared = |name| (all.contains(&name), few.contains(&name));
    for name in [OptionName::NoDelay, OptionName::KeepAlive, OptionName::Ttl] {
        assert_eq!(declared(name), (true, true), "{name:?}");
    }
    for name in [
        OptionName::Broadcast,
        OptionName::JoinGroup,
        OptionName::LeaveGroup,
        OptionName::MulticastTtl,
        OptionName::PathMtu,
        OptionName::Cork,
        OptionName::KeepIdle,
        OptionName::Congestion,
        OptionName::ReuseAddress,
    ] {
        assert_eq!(declared(name), (true, false), "{name:?}");
    }
    for name in [OptionName::V6Only, OptionName::UnicastHops, OptionName::HeaderIncluded] {
        assert_eq!(declared(name), (false, false), "{name:?}");
    }
    let (tcp, udp) = (rig.stack.socket(TCP).unwrap(), rig.stack.socket(UDP).unwrap());
    for (socket, option) in [
        (tcp, SocketOption::KeepCount(3)),
        (udp, SocketOption::Broadcast(true)),
        (udp, SocketOption::NoDelay(true)),
        (tcp, SocketOption::V6Only(true)),
        (tcp, SocketOption::TrafficClass(8)),
    ] {
        let name = option.name();
        assert_eq!(rig.stack.set_option(socket, option), Err(Error::UnknownOption), "{name:?}");
        assert_eq!(rig.stack.get_option(socket, name), Err(Error::UnknownOption), "{name:?}");
    }
    // Some can be set by objects that do not tell them.
    assert_eq!(rig.stack.set_option(tcp, SocketOption::ReuseAddress(true)), Ok(()));
    assert_eq!(rig.stack.get_option(tcp, OptionName::ReuseAddress), Err(Error::UnknownOption));
    assert_eq!(rig.stack.set_option(tcp, SocketOption::NoDelay(true)), Ok(()));
    assert_eq!(rig.stack.get_option(tcp, OptionName::NoDelay), Ok(SocketOption::NoDelay(true)));
}

/// The length of a datagram that was cut is asked for; an object that cannot tell it tells that it was cut.
#[test]
fn a_datagram_that_is_cut_is_told_of() {
    for (quirks, full_len) in [("", 10), ("no-flags", 5)] {
        let mut rig = rig(quirks);
        let udp = rig.stack.socket(UDP).unwrap();
        rig.stack.bind(udp, "127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = rig.stack.local_addr(udp).unwrap();
        rig.stack.connect(udp, addr, NOW).unwrap();
        for round in 0..2 {
            assert_eq!(rig.send(udp, b"0123456789"), Ok(10));
            let mut buf = [0; 4];
            let got = rig.recv(udp, &mut buf).unwrap();
            assert_eq!((got.len, got.full_len, &buf), (4, full_len, b"0123"), "{quirks}, {round}");
            assert_eq!(rig.send(udp, b"abc"), Ok(3));
            let got = rig.recv(udp, &mut buf).unwrap();
            assert_eq!((got.len, got.full_len), (3, 3), "{quirks}, {round}");
        }
    }
}

#[test]
fn a_stack_whose_wait_is_broken_is_down() {
    for quirks in ["fail-wait", "many-events"] {
        let mut rig = rig(quirks);
        let udp = rig.stack.socket(UDP);
        rig.until("it is given up", |rig| (rig.stack.socket(TCP) == Err(Error::NetworkDown)).then_some(()));
        assert!(rig.stack.failure().is_some_and(|why| why.contains("'plugin_epoll_wait'")));
        if let Ok(udp) = udp {
            rig.stack.poll(NOW);
            assert_eq!(rig.stack.take_error(udp), Some(Error::NetworkDown));
        }
    }
}

#[test]
fn set_up_that_fails_or_dies_is_told() {
    let expect = |quirks: &str, text: &str| {
        let error = refused(quirks);
        assert!(error.starts_with("the stack libquirk_") && error.ends_with(text), "{error}");
    };
    expect("fail-pre", "cannot be prepared: plugin_preinitstack answers -1");
    expect("abort-pre", "died of SIGABRT in plugin_preinitstack");
    expect("fail-init", "cannot be initialised: plugin_initstack answers -1");
    expect("fail-epoll", "cannot be initialised: plugin_epoll_create answers -1");
}

#[test]
fn the_stack_s_own_settings_are_read() {
    let mut rig = rig("");
    let interfaces = rig.stack.interfaces();
    assert!(interfaces[0].loopback && interfaces[0].addresses.contains(&"127.0.0.1/8".parse().unwrap()));
    let sizes = BufferSizes { min: 4096, default: 131_072, max: 6_291_456 };
    assert_eq!(rig.stack.tcp_receive_buffer(), sizes);
    assert_eq!(rig.stack.port_range(), (32_768, 60_999));
    let route = |to: &str| Route {
        destination: to.parse().unwrap(),
        gateway: Some("127.0.0.1".parse().unwrap()),
        interface: 1,
    };
    assert_eq!(rig.stack.add_route(route("192.0.2.0/24")), Ok(()));
    assert_eq!(rig.stack.remove_route(route("192.0.2.0/24")), Ok(()));
    assert_eq!(rig.stack.add_route(route("192.0.2.0/25")), Err(Error::NetworkUnreachable));
    assert_eq!(rig.stack.remove_route(route("2001:db8::/64")), Err(Error::FamilyNotSupported));
    rig.stack.destroy();
    assert_eq!(rig.stack.socket(TCP), Err(Error::NetworkDown));
}

#[test]
fn settings_that_are_nonsense_or_absent_are_defaults() {
    let bad = rig("bad-json");
    assert!(bad.stack.interfaces().is_empty() && bad.stack.routes().is_empty());
    assert_eq!(bad.stack.port_range(), (32_768, 60_999));
    let bare = common::build("quirk_bare", "level0.c", &["-DWITHOUT_OPTIONAL", "-Wno-unused-variable"]);
    let mut rig = Rig::new(&bare, None);
    assert!(rig.stack.interfaces().is_empty());
    let route = Route { destination: "0.0.0.0/0".parse().unwrap(), gateway: None, interface: 1 };
    assert_eq!(rig.stack.add_route(route), Err(Error::NotSupported));
}

#[test]
fn what_the_interface_cannot_say_is_refused() {
    let object = object("");
    let name = object.file_name().unwrap().display();
    let text = Rig::try_new(&object, Some("x")).err().unwrap().to_string();
    let expected = format!("the level 0 stack {name} takes no argument: its interface has no way to say it");
    assert_eq!(text, expected);
}

#[test]
fn the_calls_are_seen_from_outside() {
    let mut rig = rig("");
    let before = rig.object.current_call();
    rig.stack.socket(TCP).unwrap();
    let after = rig.object.current_call();
    assert!(after.1 > before.1 && after.0.is_none(), "{before:?} {after:?}");
    let death_text = rig.object.death_text(libc::SIGSEGV);
    assert!(
        death_text.starts_with(&format!("the stack {} died of SIGSEGV ", rig.object.object())),
        "{death_text}"
    );
}

//! Data in SYNs (RFC 7413).

use std::time::Duration;

use netgraft_plugin::inet::Stack as _;
use netgraft_plugin::option::SocketOption;
use netgraft_plugin::{Error, Events, Handle, PluginStack as _, Sockets as _};

use super::wire::is_tcp;
use super::{TCP4, World, addr};

fn listener(world: &mut World, most: u32) -> Handle {
    let listener = world.listen(1, TCP4, "0.0.0.0:80", 16);
    world.stacks[1].set_option(listener, SocketOption::FastOpen(most)).unwrap();
    listener
}

/// A socket that connects, and what `connect` says.
fn dial(world: &mut World) -> (Handle, Result<(), Error>) {
    let handle = world.stacks[0].socket(TCP4).unwrap();
    world.stacks[0].set_option(handle, SocketOption::FastOpenConnect(true)).unwrap();
    let said = world.stacks[0].connect(handle, addr("192.0.2.2:80"), world.now);
    (handle, said)
}

/// Makes the first connection, which asks for a cookie.
fn get_cookie(world: &mut World, listener: Handle) {
    let (client, said) = dial(world);
    assert_eq!(said, Err(Error::InProgress), "the peer is not known yet");
    world.settle();
    assert_eq!(world.ready(0, client), Events::OUT);
    let (server, _) = world.stacks[1].accept(listener).unwrap();
    assert!(!world.stacks[0].tcp_info(client).unwrap().agreed.fast_open);
    for (end, handle) in [(0, client), (1, server)] {
        world.stacks[end].close(handle, world.now).unwrap();
    }
    world.settle();
}

#[test]
fn the_second_connection_has_its_data_in_the_syn() {
    let mut world = World::new();
    let listener = listener(&mut world, 5);
    get_cookie(&mut world, listener);
    let (client, said) = dial(&mut world);
    assert_eq!(said, Ok(()), "as if it were connected");
    world.settle();
    assert_eq!(world.ready(0, client), Events::OUT);
    assert_eq!(world.stacks[1].accept(listener), Err(Error::Again), "nothing has left yet");
    assert_eq!(world.recv(0, client), Err(Error::Again));
    // One frame goes, and nothing comes back: the program at the other end has its question, and answers.
    world.send(0, client, b"question").unwrap();
    let now = world.now;
    world.stacks[0].poll(now);
    world.filter(|end, _| end == 0);
    world.stacks[1].poll(now);
    let (server, _) = world.stacks[1].accept(listener).unwrap();
    assert_eq!(world.recv(1, server).unwrap(), b"question");
    world.send(1, server, b"answer").unwrap();
    // The answers were lost; the one to the SYN comes again, and with it everything else.
    world.stacks[1].poll(now);
    world.filter(|_, _| true);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.recv(0, client).unwrap(), b"answer");
    assert!(world.stacks[0].tcp_info(client).unwrap().agreed.fast_open);
    assert!(world.stacks[1].tcp_info(server).unwrap().agreed.fast_open);
    let counted = |end: usize| world.stacks[end].statistics().tcp;
    assert_eq!((counted(0).fast_open_active, counted(1).fast_open_passive), (1, 1));
    assert!(world.stacks[1].core().unwrap().socks.get(listener).is_some());
}

#[test]
fn a_listener_takes_data_of_few_at_a_time_and_of_none_without_being_asked_to() {
    for most in [0, 1] {
        let mut world = World::new();
        let listener = listener(&mut world, 5);
        get_cookie(&mut world, listener);
        world.stacks[1].set_option(listener, SocketOption::FastOpen(most)).unwrap();
        // Nobody completes a handshake.
        world.filter(|end, frame| !(end == 1 && is_tcp(frame)));
        let mut clients = Vec::new();
        for number in 0..3 {
            let (client, said) = dial(&mut world);
            assert_eq!(said, Ok(()));
            world.send(0, client, &[number]).unwrap();
            world.settle();
            clients.push(client);
        }
        let mut early = 0;
        while world.stacks[1].accept(listener).is_ok() {
            early += 1;
        }
        assert_eq!(early, most);
        // In the end all connections have their byte.
        world.filter(|_, _| true);
        world.pass(Duration::from_secs(10));
        let mut late = Vec::new();
        while let Ok((server, _)) = world.stacks[1].accept(listener) {
            late.extend(world.recv(1, server).unwrap());
        }
        assert_eq!(late.len() as u32, 3 - most, "{late:?}");
    }
}

#[test]
fn a_peer_that_lost_its_secret_still_has_the_data_once() {
    let mut world = World::new();
    let listener = listener(&mut world, 5);
    get_cookie(&mut world, listener);
    world.stacks[1].core_mut().unwrap().initial = crate::isn::InitialNumbers::new();
    let (client, said) = dial(&mut world);
    assert_eq!(said, Ok(()));
    world.send(0, client, b"question").unwrap();
    world.settle();
    let (server, _) = world.stacks[1].accept(listener).unwrap();
    assert_eq!(world.recv(1, server).unwrap(), b"question");
    assert!(!world.stacks[1].tcp_info(server).unwrap().agreed.fast_open);
    // It has told the new cookie.
    let (client, said) = dial(&mut world);
    assert_eq!(said, Ok(()));
    world.send(0, client, b"again").unwrap();
    world.settle();
    let (server, _) = world.stacks[1].accept(listener).unwrap();
    assert_eq!(world.recv(1, server).unwrap(), b"again");
    assert!(world.stacks[1].tcp_info(server).unwrap().agreed.fast_open);
}

#[test]
fn a_refusal_comes_after_the_first_data() {
    let mut world = World::new();
    let listener = listener(&mut world, 5);
    get_cookie(&mut world, listener);
    world.stacks[1].close(listener, world.now).unwrap();
    let (client, said) = dial(&mut world);
    assert_eq!(said, Ok(()));
    world.send(0, client, b"question").unwrap();
    world.settle();
    assert_eq!(world.stacks[0].take_error(client), Some(Error::ConnectionRefused));
    // One that never wrote leaves no trace.
    let frames = world.wire.lock().unwrap().frames;
    let (silent, _) = dial(&mut world);
    world.settle();
    world.stacks[0].close(silent, world.now).unwrap();
    world.settle();
    assert_eq!(world.wire.lock().unwrap().frames, frames);
}

//! Registers the stack of `stack.rs` and drives it through the contract, as netgraft's sentry does.
//!
//! `cargo run -p netgraft-plugin --example echo_stack`
#![forbid(unsafe_code)]

mod stack;

use std::net::SocketAddr;
use std::sync::Arc;

use netgraft_plugin::*;

const NOW: Instant = Instant::ZERO;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    register_plugin_stack("echo", Arc::new(|_| Ok(Box::<stack::EchoStack>::default())))?;

    // What the launcher does, and then the sentry.
    let config = StackConfig::default();
    let pre = get_plugin_stack("echo")?(&config)?.pre_init(PreInitStackArgs { pid: std::process::id() })?;
    let mut stack = get_plugin_stack("echo")?(&config)?;
    stack.init(InitStackArgs { init_str: pre.init_str, fds: pre.fds, now: NOW })?;
    println!("{} makes {} kinds of sockets", stack.info().name, stack.info().sockets.len());

    let peer: SocketAddr = "192.0.2.1:7".parse()?;
    let tcp = SocketSpec { domain: Domain::V4, kind: Kind::Stream, protocol: Protocol::Tcp };
    let socket = stack.socket(tcp)?;
    stack.add_fd(socket, Events::OUT | Events::IN)?;
    assert_eq!(stack.connect(socket, peer, NOW), Err(Error::InProgress));
    assert_eq!(wait(stack.as_mut()), Some(Event { handle: socket, events: Events::OUT }));

    let mut buf = [0; 64];
    assert_eq!(stack.send(socket, b"hello, stream", None, SendFlags::empty(), NOW)?, 13);
    let received = stack.recv(socket, &mut buf, RecvFlags::empty(), NOW)?;
    assert_eq!(&buf[..received.len], b"hello, stream");
    println!("tcp {peer}: {}", String::from_utf8_lossy(&buf[..received.len]));
    assert_eq!(stack.recv(socket, &mut buf, RecvFlags::empty(), NOW), Err(Error::Again));
    stack.shutdown(socket, Shutdown::Write, NOW)?;
    assert_eq!(stack.recv(socket, &mut buf, RecvFlags::empty(), NOW)?.len, 0, "the end of the stream");
    stack.close(socket, NOW)?;
    assert_eq!(stack.readiness(socket), Err(Error::BadHandle));

    let socket = stack.socket(SocketSpec { kind: Kind::Datagram, protocol: Protocol::Udp, ..tcp })?;
    stack.send(socket, b"hello, datagram", Some(peer), SendFlags::empty(), NOW)?;
    let received = stack.recv(socket, &mut buf[..5], RecvFlags::empty(), NOW)?;
    assert_eq!((received.len, received.full_len, received.from), (5, 15, Some(peer)), "cut to the buffer");
    println!("udp {peer}: {} of {} bytes", received.len, received.full_len);

    stack.destroy();
    assert_eq!(stack.socket(tcp), Err(Error::NetworkDown));
    Ok(())
}

/// One turn of an event loop: the last event that the stack reports.
fn wait(stack: &mut dyn PluginStack) -> Option<Event> {
    let mut last = None;
    stack.poll(NOW);
    stack.drain_events(&mut |event| {
        last = Some(event);
        true
    });
    last
}

#[test]
fn the_example_runs() {
    main().unwrap();
}

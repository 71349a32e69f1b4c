//! A stack on a real link, for trying devices by hand: echoes on TCP and UDP port 7, sends without end on TCP
//! port 19, swallows on TCP port 9.
//! `cargo run --release -p netgraft-smoltcp --example link_peer -- tap:ng0 192.0.2.2/24 [SECONDS [GATEWAYS]]`.
#![expect(clippy::unwrap_used, reason = "a trial has nobody to report an error to")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant as Clock};

use netgraft_plugin::inet::Stack;
use netgraft_plugin::{
    Domain, Error, Event, Events, Handle, InitStackArgs, Instant, Kind, PluginNotifier, PluginStack,
    PreInitStackArgs, Protocol, RecvFlags, SendFlags, SocketSpec, Sockets, StackConfig,
};
use netgraft_smoltcp::SmoltcpStack;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let link = args[0].parse().unwrap();
    let addresses = args[1].split(',').map(|a| a.parse().unwrap()).collect();
    let seconds = args.get(2).map_or(10, |s| s.parse().unwrap());
    let gateways = args.get(3).map_or_else(Vec::new, |g| g.split(',').map(|a| a.parse().unwrap()).collect());
    let config = StackConfig { link, addresses, gateways, ..StackConfig::default() };
    let mut launcher = SmoltcpStack::new(config.clone()).unwrap();
    let opened = launcher.pre_init(PreInitStackArgs { pid: std::process::id() }).unwrap_or_else(|e| {
        eprintln!("{e}");
        std::process::exit(1)
    });
    println!("{}", opened.init_str);
    let mut stack = SmoltcpStack::new(config).unwrap();
    let args = InitStackArgs { init_str: opened.init_str, fds: opened.fds, now: Instant::ZERO };
    stack.init(args).unwrap();
    let mut ports: HashMap<Handle, u16> = HashMap::new();
    let any = |port: u16| SocketAddr::from(([0u16; 8], port));
    for port in [7, 9, 19] {
        let spec = SocketSpec { domain: Domain::V6, kind: Kind::Stream, protocol: Protocol::Tcp };
        let listener = stack.socket(spec).unwrap();
        stack.bind(listener, any(port)).unwrap();
        stack.listen(listener, 16).unwrap();
        stack.add_fd(listener, Events::IN).unwrap();
        ports.insert(listener, 1000 + port);
    }
    let spec = SocketSpec { domain: Domain::V6, kind: Kind::Datagram, protocol: Protocol::Udp };
    let udp = stack.socket(spec).unwrap();
    stack.bind(udp, any(7)).unwrap();
    stack.add_fd(udp, Events::IN).unwrap();
    ports.insert(udp, 2007);
    let start = Clock::now();
    let mut buf = vec![0; 256 * 1024];
    let mut events: Vec<Event> = Vec::new();
    while start.elapsed() < Duration::from_secs(seconds) {
        let now = Instant::from_nanos(start.elapsed().as_nanos() as u64);
        stack.poll(now);
        events.clear();
        stack.drain_events(&mut |event| {
            events.push(event);
            true
        });
        for event in &events {
            serve(&mut stack, &mut ports, event.handle, &mut buf, now);
        }
        if events.is_empty() && stack.next_deadline().is_none_or(|at| at > now) {
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    println!("{:?}", stack.statistics());
}

fn serve(
    stack: &mut SmoltcpStack,
    ports: &mut HashMap<Handle, u16>,
    handle: Handle,
    buf: &mut [u8],
    now: Instant,
) {
    match ports.get(&handle).copied() {
        Some(2007) => {
            while let Ok(got) = stack.recv(handle, buf, RecvFlags::empty(), now) {
                let _ = stack.send(handle, &buf[..got.len], got.from, SendFlags::empty(), now);
            }
        }
        Some(port @ 1000..2000) => {
            while let Ok((conn, _)) = stack.accept(handle) {
                stack.add_fd(conn, Events::IN | Events::OUT).unwrap();
                ports.insert(conn, port - 1000);
            }
        }
        Some(19) => while stack.send(handle, buf, None, SendFlags::empty(), now).is_ok() {},
        Some(port) => loop {
            match stack.recv(handle, buf, RecvFlags::empty(), now) {
                Ok(got) if got.len > 0 && port == 7 => {
                    let _ = stack.send(handle, &buf[..got.len], None, SendFlags::empty(), now);
                }
                Ok(got) if got.len > 0 => {}
                Err(Error::Again) => break,
                _ => {
                    stack.close(handle, now).unwrap();
                    break;
                }
            }
        },
        None => {}
    }
}

//! How fast the loopback is, through the contract and in one process:
//! `cargo run --release -p netgraft-smoltcp --example loopback_speed`. A word after `--` (`bulk`, `transactions`
//! or `connect`) asks for one part.
#![expect(clippy::unwrap_used, reason = "a measurement has nobody to report an error to")]

use std::net::SocketAddr;

use netgraft_plugin::{
    Domain, Error, Event, Events, Handle, InitStackArgs, Instant, Kind, PluginNotifier, PluginStack,
    Protocol, RecvFlags, SendFlags, SocketSpec, Sockets, StackConfig,
};
use netgraft_smoltcp::SmoltcpStack;

const TCP: SocketSpec = SocketSpec { domain: Domain::V4, kind: Kind::Stream, protocol: Protocol::Tcp };

struct Bench {
    stack: SmoltcpStack,
    start: std::time::Instant,
    ports: u16,
}

impl Bench {
    fn new() -> Self {
        let mut stack = SmoltcpStack::new(StackConfig::default()).unwrap();
        stack.init(InitStackArgs::default()).unwrap();
        Bench { stack, start: std::time::Instant::now(), ports: 80 }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.start.elapsed().as_nanos() as u64)
    }

    fn pairs(&mut self, count: usize) -> Vec<(Handle, Handle)> {
        let listener = self.stack.socket(TCP).unwrap();
        // Another port each time: connections keep theirs.
        self.ports += 1;
        let addr = SocketAddr::from(([127, 0, 0, 1], self.ports));
        self.stack.bind(listener, addr).unwrap();
        self.stack.listen(listener, 4096).unwrap();
        let mut pairs = Vec::new();
        for _ in 0..count {
            let client = self.stack.socket(TCP).unwrap();
            let now = self.now();
            assert_eq!(self.stack.connect(client, addr, now), Err(Error::InProgress));
            self.stack.poll(now);
            pairs.push((client, self.stack.accept(listener).unwrap().0));
        }
        self.stack.close(listener, Instant::ZERO).unwrap();
        pairs
    }
}

fn bulk(chunk: usize) {
    let mut bench = Bench::new();
    let (a, b) = bench.pairs(1)[0];
    let (out, mut buf) = (vec![7; chunk], vec![0; chunk]);
    let (mut received, total) = (0u64, 8u64 << 30);
    let begin = bench.now();
    while received < total {
        let now = bench.now();
        while bench.stack.send(a, &out, None, SendFlags::empty(), now).is_ok() {}
        bench.stack.poll(now);
        while let Ok(got) = bench.stack.recv(b, &mut buf, RecvFlags::empty(), now) {
            received += got.len as u64;
        }
        bench.stack.poll(now);
    }
    let seconds = bench.now().since(begin).as_secs_f64();
    println!("bulk, {chunk} bytes a call: {:.1} Gbit/s", received as f64 * 8e-9 / seconds);
}

fn ping_pong(pairs: usize, idle: usize) {
    let mut bench = Bench::new();
    bench.pairs(idle);
    let pairs = bench.pairs(pairs);
    for &(a, b) in &pairs {
        bench.stack.add_fd(a, Events::IN).unwrap();
        bench.stack.add_fd(b, Events::IN).unwrap();
    }
    let message = [1; 64];
    let now = bench.now();
    for &(a, _) in &pairs {
        bench.stack.send(a, &message, None, SendFlags::empty(), now).unwrap();
    }
    let (mut moved, total) = (0u64, 2_000_000u64);
    let mut events: Vec<Event> = Vec::new();
    let begin = bench.now();
    let work = bench.stack.work();
    while moved < total {
        let now = bench.now();
        bench.stack.poll(now);
        events.clear();
        bench.stack.drain_events(&mut |event| {
            events.push(event);
            true
        });
        for event in &events {
            let mut buf = [0; 256];
            if let Ok(got) = bench.stack.recv(event.handle, &mut buf, RecvFlags::empty(), now) {
                bench.stack.send(event.handle, &buf[..got.len], None, SendFlags::empty(), now).unwrap();
                moved += 1;
            }
        }
    }
    let seconds = bench.now().since(begin).as_secs_f64();
    let rate = moved as f64 / 2.0 / seconds;
    let steps = (bench.stack.work() - work) as f64 / moved as f64;
    println!(
        "{} pairs, {idle} idle: {rate:.0} transactions/s, {steps:.2} steps a message, {} resident",
        pairs.len(),
        resident()
    );
}

/// Memory of the process, as the kernel says it.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:"));
    line.map_or_else(String::new, |l| l.trim_start_matches("VmRSS:").trim().to_owned())
}

fn connect() {
    let mut bench = Bench::new();
    let listener = bench.stack.socket(TCP).unwrap();
    bench.stack.bind(listener, SocketAddr::from(([0, 0, 0, 0], 80))).unwrap();
    bench.stack.listen(listener, 128).unwrap();
    let (begin, total) = (bench.now(), 200_000);
    let mut buf = [0; 64];
    for i in 0..total {
        // Several destinations, as one has only so many ports in TIME-WAIT.
        let addr = SocketAddr::from(([127, 0, 0, (i / 20_000 + 1) as u8], 80));
        let now = bench.now();
        let client = bench.stack.socket(TCP).unwrap();
        assert_eq!(bench.stack.connect(client, addr, now), Err(Error::InProgress));
        bench.stack.poll(now);
        let (server, _) = bench.stack.accept(listener).unwrap();
        bench.stack.send(client, b"hello", None, SendFlags::empty(), now).unwrap();
        bench.stack.poll(now);
        assert_eq!(bench.stack.recv(server, &mut buf, RecvFlags::empty(), now).unwrap().len, 5);
        bench.stack.close(server, now).unwrap();
        bench.stack.close(client, now).unwrap();
        bench.stack.poll(now);
    }
    let seconds = bench.now().since(begin).as_secs_f64();
    println!("connect, 5 bytes, close: {:.0} a second", f64::from(total) / seconds);
}

fn main() {
    let only = std::env::args().nth(1);
    let wanted = |name| only.as_ref().is_none_or(|o| o == name);
    if wanted("bulk") {
        for chunk in [4096, 65_536, 262_144] {
            bulk(chunk);
        }
    }
    if wanted("transactions") {
        ping_pong(1, 0);
        ping_pong(50, 0);
        ping_pong(50, 10_000);
    }
    if wanted("connect") {
        connect();
    }
}

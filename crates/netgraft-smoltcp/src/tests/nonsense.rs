//! Frames that were damaged on the way do no harm.

use std::sync::atomic::{AtomicU64, Ordering};

use netgraft_plugin::option::SocketOption;

use super::*;

/// Numbers that look random.
fn random(state: &AtomicU64) -> usize {
    let mut x = state.load(Ordering::Relaxed);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    state.store(x, Ordering::Relaxed);
    (x >> 11) as usize
}

/// A link that hands every frame on twice: damaged, then whole.
struct Damaging {
    inner: End,
    state: AtomicU64,
}

impl Link for Damaging {
    fn medium(&self) -> Medium {
        self.inner.medium()
    }
    fn mtu(&self) -> usize {
        1500
    }
    fn offload(&self) -> netgraft_plugin::link::Offload {
        // Checksums are not looked at, so that damage gets far.
        netgraft_plugin::link::Offload { checksum: true, ..Default::default() }
    }
    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let state = &self.state;
        self.inner.receive(now, limit, &mut |frame| {
            let mut damaged = frame.to_vec();
            for _ in 0..=random(state) % 4 {
                let at = random(state) % damaged.len().min(100);
                damaged[at] = random(state) as u8;
            }
            damaged.truncate(random(state) % (2 * frame.len()) + 1);
            deliver(&damaged);
            deliver(frame);
        })
    }
    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        self.inner.send(now, frame, meta)
    }
    fn flush(&mut self, _now: Instant) -> Result<()> {
        Ok(())
    }
}

/// A link that hands every frame with TCP data on twice: moved ahead by 300,000 bytes, then as it is.
struct Ahead(End);

impl Link for Ahead {
    fn medium(&self) -> Medium {
        self.0.medium()
    }
    fn mtu(&self) -> usize {
        1500
    }
    fn offload(&self) -> netgraft_plugin::link::Offload {
        netgraft_plugin::link::Offload { checksum: true, ..Default::default() }
    }
    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        self.0.receive(now, limit, &mut |frame| {
            if frame.len() > 200 && frame[12..14] == [8, 0] && frame[23] == 6 {
                let mut moved = frame.to_vec();
                let seq = u32::from_be_bytes(frame[38..42].try_into().unwrap()).wrapping_add(300_000);
                moved[38..42].copy_from_slice(&seq.to_be_bytes());
                deliver(&moved);
            }
            deliver(frame);
        })
    }
    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        self.0.send(now, frame, meta)
    }
    fn flush(&mut self, _now: Instant) -> Result<()> {
        Ok(())
    }
}

#[test]
fn data_beyond_the_receive_buffer_is_not_taken() {
    let mut world = World::new();
    for end in 0..2 {
        let link = Box::new(Ahead(End { wire: Arc::clone(&world.wire), end }));
        let addresses = vec![format!("192.0.2.{}/24", end + 1).parse().unwrap()];
        let config = StackConfig { addresses, ..StackConfig::default() };
        world.stacks[end] = SmoltcpStack::with_link(config, link).unwrap();
        world.stacks[end].init(InitStackArgs::default()).unwrap();
    }
    let listener = world.listen(1, TCP4, "0.0.0.0:80", 16);
    // A buffer that does not grow: what is moved ahead stays beyond it.
    world.stacks[1].set_option(listener, SocketOption::ReceiveBuffer(131_072)).unwrap();
    let client = world.connect(0, TCP4, "192.0.2.2:80");
    let (server, _) = world.stacks[1].accept(listener).unwrap();
    let data: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let (mut sent, mut got) = (0, Vec::new());
    while got.len() < data.len() {
        while let Ok(len) = world.send(0, client, &data[sent..])
            && len > 0
        {
            sent += len;
        }
        // The buffer fills before anything is read.
        world.pass(Duration::from_secs(1));
        while let Ok(some) = world.recv(1, server) {
            got.extend(some);
        }
    }
    assert!(got == data);
}

#[test]
fn damaged_frames_are_survived() {
    for seed in 1..60 {
        let mut world = World::new();
        for end in 0..2 {
            let addresses = [format!("192.0.2.{}/24", end + 1), format!("2001:db8::{}/64", end + 1)];
            let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
            let inner = End { wire: Arc::clone(&world.wire), end };
            let link = Box::new(Damaging { inner, state: AtomicU64::new(seed * 2 + end as u64) });
            let config = StackConfig { addresses, ..StackConfig::default() };
            world.stacks[end] = SmoltcpStack::with_link(config, link).unwrap();
            world.stacks[end].init(InitStackArgs::default()).unwrap();
        }
        let listener = world.listen(1, TCP6, "[::]:80", 50);
        let udp = world.stacks[1].socket(UDP6).unwrap();
        world.stacks[1].bind(udp, addr("[::]:53")).unwrap();
        let any = "0.0.0.0".parse().unwrap();
        let group = SocketOption::JoinGroup(("239.1.2.3".parse().unwrap(), any));
        let _ = world.stacks[1].set_option(udp, group);
        let icmp = SocketSpec { domain: Domain::V4, kind: Kind::Datagram, protocol: Protocol::Icmp };
        let ping = world.stacks[0].socket(icmp).unwrap();
        for round in 0..10 {
            for (spec, tcp, to) in
                [(UDP4, "192.0.2.2:80", "192.0.2.2:53"), (UDP6, "[2001:db8::2]:80", "[2001:db8::2]:53")]
            {
                let kind = SocketSpec { domain: spec.domain, ..TCP4 };
                let client = world.stacks[0].socket(kind).unwrap();
                let _ = world.stacks[0].connect(client, addr(tcp), world.now);
                let datagram = world.stacks[0].socket(spec).unwrap();
                let now = world.now;
                let _ = world.stacks[0].send(datagram, &[7; 3000], Some(addr(to)), SendFlags::empty(), now);
                let _ = world.stacks[0].send(
                    ping,
                    &[8, 0, 0, 0, 0, 0, 0, 0],
                    Some(addr("192.0.2.2:0")),
                    SendFlags::empty(),
                    now,
                );
                world.pass(Duration::from_millis(1200));
                let _ = world.send(0, client, &[round; 5000]);
                world.pass(Duration::from_millis(100));
                while let Ok((server, _)) = world.stacks[1].accept(listener) {
                    while world.recv(1, server).is_ok_and(|d| !d.is_empty()) {}
                    world.stacks[1].close(server, world.now).unwrap();
                }
                while world.recv(1, udp).is_ok() {}
                world.stacks[0].close(client, world.now).unwrap();
                world.stacks[0].close(datagram, world.now).unwrap();
            }
        }
        world.pass(Duration::from_secs(10));
        for stack in &mut world.stacks {
            stack.destroy();
        }
    }
}

//! Frames of a neighbor into the built-in stack, while a program uses its sockets and time goes on.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use netgraft_plugin::link::{FrameMeta, Link, Medium, Offload};
use netgraft_plugin::{
    Domain, Error, Handle, InitStackArgs, Instant, Kind, PluginStack, Protocol, RecvFlags, Result, SendFlags,
    Shutdown, SocketSpec, Sockets, StackConfig,
};
use netgraft_smoltcp::SmoltcpStack;

use crate::bytes::Bytes;

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const MTU: usize = 1500;
/// The most actions of an input.
const ACTIONS: usize = 200;
/// The most frames that the stack may send for each action, in answer or by itself: what a program's socket sends at
/// once, and each of the sockets that are open sends again.
const SENT: usize = 60;

/// Frames that wait for the stack, and how many it has sent, of which the last stay here.
#[derive(Default)]
struct Line {
    inbound: VecDeque<Vec<u8>>,
    outbound: VecDeque<Vec<u8>>,
    sent: usize,
}

/// The neighbor's end, and the stack's.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Line>>);

impl Wire {
    fn with<T>(&self, act: impl FnOnce(&mut Line) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Link for Wire {
    fn medium(&self) -> Medium {
        Medium::Ethernet(OURS)
    }

    fn mtu(&self) -> usize {
        MTU
    }

    /// So that checksums of TCP and UDP do not keep changed bytes out.
    fn offload(&self) -> Offload {
        Offload { checksum: true, ..Offload::default() }
    }

    fn receive(&mut self, _now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        for count in 0..limit {
            match self.with(|line| line.inbound.pop_front()) {
                Some(frame) => deliver(&frame),
                None => return Ok(count),
            }
        }
        Ok(limit)
    }

    fn send(&mut self, _now: Instant, frame: &[u8], _meta: FrameMeta) -> Result<()> {
        assert!(frame.len() <= MTU + 14, "a frame of {} bytes", frame.len());
        self.with(|line| {
            line.sent += 1;
            line.outbound.truncate(15);
            line.outbound.push_front(frame.to_vec());
        });
        Ok(())
    }

    fn flush(&mut self, _now: Instant) -> Result<()> {
        Ok(())
    }
}

/// A stack with sockets of each kind, and what a program knows of them.
struct World {
    stack: SmoltcpStack,
    wire: Wire,
    now: Instant,
    listener: Handle,
    /// All sockets that are open but the listener.
    socks: Vec<Handle>,
}

const fn spec(domain: Domain, kind: Kind, protocol: Protocol) -> SocketSpec {
    SocketSpec { domain, kind, protocol }
}

impl World {
    fn new() -> World {
        let wire = Wire::default();
        let config = StackConfig {
            addresses: ["192.0.2.1/24", "2001:db8::1/64"].map(|a| a.parse().expect("a constant")).to_vec(),
            ..StackConfig::default()
        };
        let mut stack =
            SmoltcpStack::with_link(config, Box::new(wire.clone())).expect("a good configuration");
        stack.init(InitStackArgs::default()).expect("the first time");
        let listener = Handle(u64::MAX);
        let mut world = World { stack, wire, now: Instant::from_millis(1), listener, socks: Vec::new() };
        world.listener = world.open(spec(Domain::V6, Kind::Stream, Protocol::Tcp), Some("[::]:80"), None);
        world.stack.listen(world.listener, 16).expect("a listener");
        world.socks.clear();
        for domain in [Domain::V4, Domain::V6] {
            let any = if domain == Domain::V4 { "0.0.0.0:53" } else { "[::1]:53" };
            world.open(spec(domain, Kind::Datagram, Protocol::Udp), Some(any), None);
            let echo = if domain == Domain::V4 { Protocol::Icmp } else { Protocol::Icmpv6 };
            world.open(spec(domain, Kind::Datagram, echo), None, None);
            world.open(spec(domain, Kind::Raw, Protocol::Raw(200)), None, None);
            let peer = if domain == Domain::V4 { "192.0.2.2:5000" } else { "[2001:db8::2]:5000" };
            let own = if domain == Domain::V4 { "192.0.2.1:40000" } else { "[2001:db8::1]:40000" };
            world.open(spec(domain, Kind::Stream, Protocol::Tcp), Some(own), Some(peer));
        }
        world
    }

    fn open(&mut self, spec: SocketSpec, own: Option<&str>, peer: Option<&str>) -> Handle {
        let addr = |text: &str| text.parse::<SocketAddr>().expect("a constant");
        let sock = self.stack.socket(spec).expect("a socket");
        if let Some(own) = own {
            self.stack.bind(sock, addr(own)).expect("a free port");
        }
        if let Some(peer) = peer {
            assert_eq!(self.stack.connect(sock, addr(peer), self.now), Err(Error::InProgress));
        }
        self.socks.push(sock);
        sock
    }

    /// Lets the stack do all that it wants to do at once.
    fn settle(&mut self) {
        for round in 0.. {
            self.stack.poll(self.now);
            self.stack.drain_events(&mut |_| true);
            let due = self.stack.next_deadline().is_some_and(|at| at <= self.now);
            if !due && self.wire.with(|line| line.inbound.is_empty()) {
                return;
            }
            assert!(round < 10_000, "the stack never rests");
        }
    }

    fn act(&mut self, bytes: &mut Bytes<'_>) {
        let op = bytes.u8();
        match op % 8 {
            0..4 => {
                let len = usize::from(bytes.u16() % 1600);
                let mut frame = bytes.slice(len).to_vec();
                if op & 8 == 0 {
                    mend(&mut frame);
                }
                self.wire.with(|line| line.inbound.push_back(frame));
                if op & 16 == 0 {
                    self.settle();
                }
            }
            4 => {
                self.now = self.now + Duration::from_millis(1 << (bytes.u8() % 17));
                self.settle();
            }
            5 => {
                self.settle();
                while self.socks.len() < 40
                    && let Ok((sock, _)) = self.stack.accept(self.listener)
                {
                    self.socks.push(sock);
                }
            }
            _ => self.use_socket(bytes),
        }
    }

    /// What a program does with one of its sockets.
    fn use_socket(&mut self, bytes: &mut Bytes<'_>) {
        let (which, op, len) = (usize::from(bytes.u8()), bytes.u8(), usize::from(bytes.u16() % 4000));
        let Some(&sock) = self.socks.get(which % self.socks.len().max(1)) else { return };
        let now = self.now;
        match op % 6 {
            0 | 1 => {
                let mut buf = vec![0; len];
                let flags = if op & 8 == 0 { RecvFlags::empty() } else { RecvFlags::PEEK };
                if let Ok(received) = self.stack.recv(sock, &mut buf, flags, now) {
                    assert!(received.len <= buf.len() && received.len <= received.full_len, "{received:?}");
                }
            }
            2 => {
                let to = (op & 8 != 0).then(|| SocketAddr::from(([192, 0, 2, 2], 7)));
                if let Ok(sent) = self.stack.send(sock, &vec![op; len], to, SendFlags::empty(), now) {
                    assert!(sent <= len);
                }
            }
            3 => drop(self.stack.shutdown(sock, Shutdown::Write, now)),
            4 => {
                self.socks.swap_remove(which % self.socks.len());
                let closed =
                    if op & 8 == 0 { self.stack.close(sock, now) } else { self.stack.abort(sock, now) };
                assert_eq!(closed, Ok(()));
                assert_eq!(self.stack.readiness(sock), Err(Error::BadHandle));
            }
            _ => {
                let ready = self.stack.readiness(sock).expect("an open socket");
                let queued = self.stack.queued_in(sock).unwrap_or(0);
                assert!(
                    queued == 0 || ready.contains(netgraft_plugin::Events::IN),
                    "{queued} bytes, {ready:?}"
                );
            }
        }
        self.settle();
    }

    /// The next neighbor, who behaves, is answered.
    fn check_service(&mut self) {
        let arp = |operation| {
            let start = [&[0xff; 6][..], &THEIRS, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &THEIRS].concat();
            [start, vec![192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]].concat()
        };
        let mut echo = [&OURS[..], &THEIRS, &[8, 0]].concat();
        echo.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1]);
        echo.extend([8, 0, 0, 0, 0x77, 1, 0x55, 2]);
        mend(&mut echo);
        // What was believed of it is not certain any more; it asks, and answers when it is asked.
        self.now = self.now + Duration::from_secs(61);
        for _ in 0..3 {
            self.wire.with(|line| line.inbound.extend([arp(1), echo.clone(), arp(2)]));
            self.settle();
        }
        let answered = self.wire.with(|line| {
            line.outbound
                .iter()
                .any(|f| f.get(..6) == Some(&THEIRS) && f.get(38..42) == Some(&[0x77, 1, 0x55, 2]))
        });
        assert!(answered, "an echo is not answered any more");
    }
}

/// Makes an IPv4 header's checksum right, and that of the ICMP message behind it: a fuzzer seldom guesses them.
fn mend(frame: &mut [u8]) {
    if frame.get(12..14) != Some(&[8, 0]) || frame.len() < 34 {
        return;
    }
    let header = usize::from(frame[14] & 0xf) * 4;
    let end = 14 + header.max(20);
    if let Some(ip) = frame.get_mut(14..end) {
        ip[10..12].fill(0);
        let sum = checksum(ip);
        ip[10..12].copy_from_slice(&sum);
    }
    let total = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let end = total.clamp(end.min(frame.len()), frame.len());
    if frame[23] == 1
        && let Some(icmp) = frame.get_mut(14 + header.max(20)..end).filter(|icmp| icmp.len() >= 4)
    {
        icmp[2..4].fill(0);
        let sum = checksum(icmp);
        icmp[2..4].copy_from_slice(&sum);
    }
}

/// The checksum of RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |low| u32::from(*low)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

/// A sequence of actions.
pub(crate) fn run(bytes: &[u8]) {
    let (mut bytes, mut world) = (Bytes(bytes), World::new());
    let mut actions = 0;
    while !bytes.is_empty() && actions < ACTIONS {
        world.act(&mut bytes);
        actions += 1;
    }
    world.settle();
    let sent = world.wire.with(|line| line.sent);
    assert!(sent <= (actions + 1) * SENT, "{sent} frames sent for {actions} actions");
    world.check_service();
    world.stack.destroy();
    assert_eq!(world.stack.readiness(world.listener), Err(Error::NetworkDown));
}

//! The bench that a case works on: one or two stacks, their clock, and what they reported.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netgraft_linux::inet_socket;
use netgraft_plugin::{
    Cidr, Domain, Error, Event, Events, Handle, Instant, Kind, OptionName, PluginStack, Protocol, Received,
    Result, SocketSpec, StackConfig, inet::Interface,
};

use super::{Check, Checks, Outcome, Path, Subject, Time, equal, no_family};
use crate::clock::{FakeClock, RealClock};
use netgraft_link::random::Random;
use netgraft_link::{Dial, Faulty, wire};
use netgraft_plugin::faults::LinkFaults;

/// MTU of the simulated wire.
const MTU: usize = 1500;
/// How long a real wait lasts at most before the stacks are polled again: sockets that are not registered
/// with the notifier need not wake anybody.
const NAP: Duration = Duration::from_millis(1);

/// How often in a row a stack may want to run at once before time goes on in large steps.
const EAGER: u32 = 10_000;

/// Which side of a case a socket is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one that connects.
    Client,
    /// The one that listens.
    Server,
}

/// A socket of one of the stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sock {
    /// Which stack's.
    pub stack: usize,
    /// Its handle.
    pub handle: Handle,
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The end that connected.
    pub client: Sock,
    /// The end that was accepted.
    pub server: Sock,
    /// The listener, still open.
    pub listener: Sock,
    /// Where it listens.
    pub addr: SocketAddr,
}

enum Clock {
    Fake(FakeClock),
    Real(RealClock),
}

/// What a case works on.
pub struct Bench {
    /// One stack, or the client's and the server's.
    pub stacks: Vec<Box<dyn PluginStack>>,
    /// The family that the case is about.
    pub domain: Domain,
    /// The faults of the wire, at the client's and at the server's end, if there is one.
    pub dials: Vec<Dial>,
    /// What the stacks reported and the case has not taken.
    pub events: Vec<(usize, Event)>,
    clock: Clock,
    path: Path,
    /// How often in a row a stack wanted to run at once.
    eager: u32,
}

impl Bench {
    pub(crate) fn new(subject: &Subject, path: Path, domain: Domain) -> Check<Bench> {
        let setup = |e| Outcome::fail("init", "a stack", e);
        let clock = match subject.time {
            Time::Simulated => Clock::Fake(FakeClock::at(Instant::from_millis(1_000))),
            Time::Real => Clock::Real(RealClock::start()),
        };
        let mut bench = Bench {
            stacks: Vec::new(),
            domain,
            dials: Vec::new(),
            events: Vec::new(),
            clock,
            path,
            eager: 0,
        };
        let now = bench.now();
        match (path, &subject.linked) {
            (Path::Wire, Some(linked)) => {
                let (left, right) = wire::pair(MTU);
                for (side, end, seed) in [(Side::Client, left, 1), (Side::Server, right, 2)] {
                    let (end, dial) = Faulty::new(end, LinkFaults::default(), seed);
                    bench.dials.push(dial);
                    let stack = linked(&wire_config(side), Box::new(end), now).map_err(setup)?;
                    bench.stacks.push(stack);
                }
            }
            _ => bench.stacks.push((subject.single)(now).map_err(setup)?),
        }
        Ok(bench)
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        match &self.clock {
            Clock::Fake(clock) => clock.now(),
            Clock::Real(clock) => clock.now(),
        }
    }

    /// Whether hours take no time.
    #[must_use]
    pub fn simulated(&self) -> bool {
        matches!(self.clock, Clock::Fake(_))
    }

    /// How the sides are joined.
    #[must_use]
    pub fn path(&self) -> Path {
        self.path
    }

    /// The stack of a side.
    #[must_use]
    pub fn stack_of(&self, side: Side) -> usize {
        if side == Side::Server { self.stacks.len() - 1 } else { 0 }
    }

    /// Whether the stack of a side says that it has sockets of the case's family.
    #[must_use]
    pub fn has_family(&self, side: Side) -> bool {
        self.stacks[self.stack_of(side)].info().sockets.iter().any(|spec| spec.domain == self.domain)
    }

    /// The case is about an option that the stack must say it knows: without it there is nothing to try.
    ///
    /// # Errors
    /// [`Outcome::Unsupported`] if it does not say so.
    pub fn declares(&self, side: Side, name: OptionName) -> Check {
        if self.stacks[self.stack_of(side)].info().options.contains(&name) {
            return Ok(());
        }
        Err(Outcome::Unsupported { says: format!("it does not declare the option {name:?}") })
    }

    /// The interfaces of a side's stack, if it tells of any.
    ///
    /// # Errors
    /// [`Outcome::Unsupported`] if it does not.
    pub fn interfaces(&mut self, side: Side) -> Check<Vec<Interface>> {
        let interfaces = self.stack(side).interfaces();
        if interfaces.is_empty() {
            return Err(Outcome::Unsupported { says: "interfaces: it tells of none".to_owned() });
        }
        Ok(interfaces)
    }

    /// The stack of a side, for the calls that have no socket.
    pub fn stack(&mut self, side: Side) -> &mut dyn PluginStack {
        let index = self.stack_of(side);
        self.stacks[index].as_mut()
    }

    /// An address of a side, of the case's family.
    #[must_use]
    pub fn addr(&self, side: Side, port: u16) -> SocketAddr {
        SocketAddr::new(side_address(self.path, self.domain, side), port)
    }

    /// The unspecified address of the case's family.
    #[must_use]
    pub fn any(&self, port: u16) -> SocketAddr {
        match self.domain {
            Domain::V4 => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
            Domain::V6 => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
        }
    }

    /// One turn of the loop: polls every stack and takes its events in.
    pub fn step(&mut self) {
        let now = self.now();
        for (index, stack) in self.stacks.iter_mut().enumerate() {
            stack.poll(now);
            stack.drain_events(&mut |event| {
                self.events.push((index, event));
                true
            });
        }
    }

    /// Lets time pass until somebody wants to run, `until` at the latest.
    fn sleep(&mut self, until: Instant) {
        let due = self.stacks.iter().filter_map(|stack| stack.next_deadline()).min();
        let next = due.map_or(until, |due| due.min(until));
        match &mut self.clock {
            Clock::Fake(clock) => {
                // A stack that is always due must not stop time, nor the suite.
                self.eager = if next <= clock.now() { self.eager.saturating_add(1) } else { 0 };
                let least = Duration::from_micros(if self.eager < EAGER { 1 } else { 10_000 });
                clock.advance_to(next.max(clock.now() + least).min(until));
            }
            Clock::Real(clock) => {
                let wakes = self.stacks.iter().flat_map(|stack| stack.wake_fds());
                let fds: Vec<_> = wakes.map(|w| (w.fd, w.events.bits() as i16)).collect();
                // A wait that fails is a wait that was short: the loop has its deadline.
                let _ = inet_socket::wait(&fds, next.since(clock.now()).min(NAP));
            }
        }
    }

    /// Runs the stacks until `found` gives something.
    ///
    /// # Errors
    /// The failure if it does not within half a minute of simulated or five seconds of real time.
    pub fn until<T>(
        &mut self,
        call: &str,
        expected: &str,
        found: impl FnMut(&mut Bench) -> Check<Option<T>>,
    ) -> Check<T> {
        let limit = if self.simulated() { 30 } else { 5 };
        self.until_within(Duration::from_secs(limit), call, expected, found)
    }

    /// The same with a limit of one's own.
    ///
    /// # Errors
    /// The failure if nothing is found within the limit.
    pub fn until_within<T>(
        &mut self,
        limit: Duration,
        call: &str,
        expected: &str,
        mut found: impl FnMut(&mut Bench) -> Check<Option<T>>,
    ) -> Check<T> {
        let deadline = self.now() + limit;
        loop {
            self.step();
            if let Some(value) = found(self)? {
                return Ok(value);
            }
            if self.now() >= deadline {
                return Err(Outcome::fail(call, expected, format_args!("nothing within {limit:?}")));
            }
            self.sleep(deadline);
        }
    }

    /// Lets the stacks run for a while.
    pub fn run_for(&mut self, time: Duration) {
        let deadline = self.now() + time;
        loop {
            self.step();
            if self.now() >= deadline {
                return;
            }
            self.sleep(deadline);
        }
    }

    /// Lets the stacks run for as long as anything under way takes without loss.
    pub fn quiesce(&mut self) {
        self.run_for(Duration::from_millis(if self.simulated() { 500 } else { 15 }));
    }

    /// Waits until a socket is ready for all of `events`.
    ///
    /// # Errors
    /// The failure if it does not get ready.
    pub fn ready(&mut self, sock: Sock, events: Events) -> Check {
        self.until("readiness", &format!("{events:?}"), |b| {
            Ok(b.readiness(sock).must("readiness")?.contains(events).then_some(()))
        })
    }

    /// The events reported for a socket since they were last taken, together.
    pub fn take_events(&mut self, sock: Sock) -> Events {
        let mut taken = Events::empty();
        self.events.retain(|(stack, event)| {
            let mine = *stack == sock.stack && event.handle == sock.handle;
            if mine {
                taken |= event.events;
            }
            !mine
        });
        taken
    }
}

/// What most cases begin with.
#[expect(clippy::missing_errors_doc, reason = "each ends the case with the failure")]
impl Bench {
    /// A TCP socket of the case's family.
    pub fn tcp(&mut self, side: Side) -> Check<Sock> {
        let spec = SocketSpec { domain: self.domain, kind: Kind::Stream, protocol: Protocol::Tcp };
        self.made(side, spec, "socket(tcp)")
    }

    /// A socket of the case's family, where the stack has that family.
    fn made(&mut self, side: Side, spec: SocketSpec, call: &str) -> Check<Sock> {
        match self.socket(side, spec) {
            // Also in a case over IPv4 that has a socket of IPv6: said as in the cases over IPv6.
            Err(Error::FamilyNotSupported) if !self.has_family(side) => Err(no_family(self.domain)),
            result => result.supported(call),
        }
    }

    /// A UDP socket of the case's family.
    pub fn udp(&mut self, side: Side) -> Check<Sock> {
        let spec = SocketSpec { domain: self.domain, kind: Kind::Datagram, protocol: Protocol::Udp };
        self.made(side, spec, "socket(udp)")
    }

    /// A UDP socket bound to its side's address and a free port.
    pub fn udp_bound(&mut self, side: Side) -> Check<(Sock, SocketAddr)> {
        let sock = self.udp(side)?;
        self.bind(sock, self.addr(side, 0)).must("bind(udp)")?;
        Ok((sock, self.local_addr(sock).must("local_addr")?))
    }

    /// A listener of the server's side on a free port.
    pub fn listener(&mut self, backlog: u32) -> Check<(Sock, SocketAddr)> {
        let sock = self.tcp(Side::Server)?;
        self.bind(sock, self.addr(Side::Server, 0)).must("bind")?;
        self.listen(sock, backlog).must("listen")?;
        Ok((sock, self.local_addr(sock).must("local_addr")?))
    }

    /// Starts to connect.
    pub fn start_connect(&mut self, sock: Sock, addr: SocketAddr) -> Check {
        match self.connect(sock, addr) {
            // A stack may be done at once, as Linux is over loopback with a blocking socket.
            Ok(()) | Err(Error::InProgress) => Ok(()),
            other => other.must_fail("connect", &[Error::InProgress]),
        }
    }

    /// A new client socket, connected to `addr`.
    pub fn connected_to(&mut self, addr: SocketAddr) -> Check<Sock> {
        let client = self.tcp(Side::Client)?;
        self.start_connect(client, addr)?;
        self.ready(client, Events::OUT)?;
        equal("take_error", self.take_error(client), None)?;
        Ok(client)
    }

    /// Waits for a connection and accepts it.
    pub fn accepted(&mut self, listener: Sock) -> Check<(Sock, SocketAddr)> {
        self.until("accept", "a connection", |b| match b.accept(listener) {
            Ok(accepted) => Ok(Some(accepted)),
            Err(Error::Again) => Ok(None),
            Err(e) => Err(e).must("accept"),
        })
    }

    /// A connection, with its listener.
    pub fn connection(&mut self) -> Check<Pair> {
        let (listener, addr) = self.listener(8)?;
        let client = self.connected_to(addr)?;
        let (server, peer) = self.accepted(listener)?;
        equal("accept: the peer's address", peer, self.local_addr(client).must("local_addr")?)?;
        Ok(Pair { client, server, listener, addr })
    }

    /// Sends all of `data`, as room appears.
    pub fn send_all(&mut self, sock: Sock, data: &[u8]) -> Check {
        let mut sent = 0;
        self.until("send", "room for all data", |b| {
            while sent < data.len() {
                match b.send(sock, &data[sent..]) {
                    Ok(count) if count == 0 || count > data.len() - sent => {
                        return Err(Outcome::fail("send", "1 to all bytes", count));
                    }
                    Ok(count) => sent += count,
                    Err(Error::Again) => return Ok(None),
                    Err(e) => return Err(e).must("send"),
                }
            }
            Ok(Some(()))
        })
    }

    /// Receives exactly `len` bytes.
    pub fn recv_exact(&mut self, sock: Sock, len: usize) -> Check<Vec<u8>> {
        let mut data = vec![0; len];
        let mut got = 0;
        self.until("recv", &format!("{len} bytes"), |b| {
            while got < len {
                match b.recv(sock, &mut data[got..]) {
                    Ok(r) if r.len == 0 || r.len > len - got => {
                        return Err(Outcome::fail("recv", "more data", format_args!("{r:?} after {got}")));
                    }
                    Ok(r) => got += r.len,
                    Err(Error::Again) => return Ok(None),
                    Err(e) => return Err(e).must("recv"),
                }
            }
            Ok(Some(()))
        })?;
        Ok(data)
    }

    /// The stream must end here.
    pub fn recv_end(&mut self, sock: Sock) -> Check {
        let received = self.recv_some(sock)?.must("recv")?;
        equal("recv at the end of the stream: length", received.len, 0)
    }

    /// Waits until a receive says something else than Again.
    pub fn recv_some(&mut self, sock: Sock) -> Check<Result<Received>> {
        let mut buf = [0; 2048];
        self.until("recv", "an answer", |b| {
            let result = b.recv(sock, &mut buf);
            Ok((result != Err(Error::Again)).then_some(result))
        })
    }

    /// Receives one datagram.
    pub fn datagram(&mut self, sock: Sock) -> Check<(Vec<u8>, Received)> {
        let mut buf = vec![0; 65_536];
        let received = self.until("recv", "a datagram", |b| match b.recv(sock, &mut buf) {
            Ok(received) => Ok(Some(received)),
            Err(Error::Again) => Ok(None),
            Err(e) => Err(e).must("recv"),
        })?;
        super::holds("recv", "a length within the buffer", received.len <= buf.len(), received)?;
        buf.truncate(received.len);
        Ok((buf, received))
    }

    /// Sends `data` one way and checks that it arrives whole and in order, both ends working at once.
    pub fn transfer(&mut self, from: Sock, to: Sock, data: &[u8], call: &str) -> Check {
        let (mut sent, mut got) = (0, 0);
        let mut buf = vec![0; 32 << 10];
        let limit = Duration::from_secs(if self.simulated() { 600 } else { 20 });
        self.until_within(limit, call, "all data", |b| {
            while sent < data.len() {
                match b.send(from, &data[sent..]) {
                    Ok(count) => sent += count,
                    Err(Error::Again) => break,
                    Err(e) => return Err(e).must("send"),
                }
            }
            loop {
                match b.recv(to, &mut buf) {
                    Ok(r) if r.len == 0 => return Err(Outcome::fail("recv", "more data", "the end")),
                    Ok(r) => {
                        let expected = data.get(got..got + r.len);
                        if expected != Some(&buf[..r.len]) {
                            let actual = format!("other bytes at {got}");
                            return Err(Outcome::fail("recv", "the bytes that were sent", actual));
                        }
                        got += r.len;
                    }
                    Err(Error::Again) => break,
                    Err(e) => return Err(e).must("recv"),
                }
            }
            Ok((got == data.len()).then_some(()))
        })
    }

    /// A port of a side without a listener.
    pub fn dead_port(&mut self, side: Side) -> Check<SocketAddr> {
        let (sock, addr) = self.udp_bound(side)?;
        self.close(sock).must("close")?;
        Ok(addr)
    }
}

/// `len` bytes that no two positions are likely to share.
#[must_use]
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        data.extend_from_slice(&random.bits().to_le_bytes());
    }
    data.truncate(len);
    data
}

/// A value of an unexpected shape, as a failure.
pub(crate) fn unexpected(call: &str, expected: &str, actual: impl Debug) -> Outcome {
    Outcome::fail(call, expected, format_args!("{actual:?}"))
}

fn side_address(path: Path, domain: Domain, side: Side) -> IpAddr {
    let host = match side {
        Side::Client => 1,
        Side::Server => 2,
    };
    match (path, domain) {
        (Path::Loopback, Domain::V4) => Ipv4Addr::LOCALHOST.into(),
        (Path::Loopback, Domain::V6) => Ipv6Addr::LOCALHOST.into(),
        (Path::Wire, Domain::V4) => Ipv4Addr::new(192, 0, 2, host).into(),
        (Path::Wire, Domain::V6) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host)).into(),
    }
}

/// How a stack on the wire is configured: documentation addresses (RFC 5737, RFC 3849), the other side as
/// gateway.
fn wire_config(side: Side) -> StackConfig {
    let other = if side == Side::Client { Side::Server } else { Side::Client };
    let mut config = StackConfig::default();
    for (domain, prefix) in [(Domain::V4, 24), (Domain::V6, 64)] {
        config.addresses.extend(Cidr::new(side_address(Path::Wire, domain, side), prefix));
        config.gateways.push(side_address(Path::Wire, domain, other));
    }
    config
}

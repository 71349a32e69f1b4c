//! Our TCP against the kernel's: random programs on both ends of a TAP device whose link loses, doubles and reorders. Every
//! byte is right, every connection ends, and both ends agree how.
//!
//! The test runs itself again in a network namespace of its own (unshare(1)), which ends with it. `NETGRAFT_SEED=7` begins
//! with another seed.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant as Clock};

use netgraft_linux::inet_socket;
use netgraft_plugin::faults::LinkFaults;
use netgraft_plugin::option::SocketOption;
use netgraft_plugin::{
    Domain, Error, Events, Handle, InitStackArgs, Instant, Kind, LinkConfig, PluginStack, PreInitStackArgs,
    Protocol, RecvFlags, SendFlags, Shutdown, SocketSpec, Sockets, StackConfig, Wrappers,
};
use netgraft_smoltcp::SmoltcpStack;

const TCP: SocketSpec = SocketSpec { domain: Domain::V4, kind: Kind::Stream, protocol: Protocol::Tcp };
/// Says that the process is in the namespace.
const INSIDE: &str = "NETGRAFT_KERNEL_TEST";
/// Conversations at a time on one device.
const AT_ONCE: u64 = 12;
/// What the link does, and the congestion control of our end.
const LINKS: [(&str, &str); 4] = [
    ("none", "cubic"),
    ("delay=1ms,loss=2%,reorder=3%:2ms,duplicate=2%", "cubic"),
    ("delay=2ms,jitter=1ms,loss=4%", "bbr"),
    ("loss=1%,reorder=10%:1ms,corrupt=1%", "reno"),
];
/// When a conversation that has not ended has failed. It is not a measure: a loaded machine takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Random numbers that repeat (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most.max(1)
    }
}

/// What a read or a write found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Bytes(usize),
    Nothing,
    End,
    Reset,
}

/// One end of a conversation.
enum End {
    Kernel(Option<TcpStream>),
    Ours(Handle),
}

/// How a conversation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Both shut down and read to the end.
    Orderly,
    /// This end gives up with a reset.
    Reset(usize),
}

struct Talk {
    number: u64,
    ends: [End; 2],
    random: Random,
    /// Actions before the end.
    left: u32,
    sent: [usize; 2],
    got: [usize; 2],
    shut: [bool; 2],
    /// How each end has seen the conversation end.
    seen: [Option<Found>; 2],
    ending: Ending,
}

/// Both stacks, and the time.
struct World {
    stack: SmoltcpStack,
    began: Clock,
    buf: Vec<u8>,
}

impl World {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.began.elapsed().as_nanos() as u64 + 1)
    }

    /// Lets our stack run; sleeps a little if it has nothing to do.
    fn turn(&mut self, sleep: bool) {
        let now = self.now();
        self.stack.poll(now);
        let wait = match self.stack.next_deadline() {
            Some(at) if at <= now => Duration::ZERO,
            Some(at) => at.since(now).min(Duration::from_millis(2)),
            None => Duration::from_millis(2),
        };
        if sleep && !wait.is_zero() {
            let fds: Vec<_> = self.stack.wake_fds().into_iter().map(|wake| (wake.fd, 1)).collect();
            inet_socket::wait(&fds, wait).unwrap();
        }
    }

    fn write(&mut self, end: &mut End, data: &[u8]) -> Found {
        let now = self.now();
        match end {
            End::Kernel(Some(stream)) => match stream.write(data) {
                Ok(len) => Found::Bytes(len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Found::Nothing,
                Err(_) => Found::Reset,
            },
            End::Kernel(None) => Found::Reset,
            End::Ours(handle) => match self.stack.send(*handle, data, None, SendFlags::empty(), now) {
                Ok(len) => Found::Bytes(len),
                Err(Error::Again) => Found::Nothing,
                Err(_) => Found::Reset,
            },
        }
    }

    /// Reads into the world's buffer.
    fn read(&mut self, end: &mut End, most: usize) -> Found {
        let now = self.now();
        let World { stack, buf, .. } = self;
        let buf = &mut buf[..most.max(1)];
        match end {
            End::Kernel(Some(stream)) => match stream.read(buf) {
                Ok(0) => Found::End,
                Ok(len) => Found::Bytes(len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Found::Nothing,
                Err(_) => Found::Reset,
            },
            End::Kernel(None) => Found::End,
            End::Ours(handle) => match stack.recv(*handle, buf, RecvFlags::empty(), now) {
                Ok(got) if got.len == 0 => Found::End,
                Ok(got) => Found::Bytes(got.len),
                Err(Error::Again) => Found::Nothing,
                Err(_) => Found::Reset,
            },
        }
    }

    fn shut(&mut self, end: &mut End) {
        let now = self.now();
        // One that is over cannot be shut, which is found by reading.
        match end {
            End::Kernel(Some(stream)) => drop(stream.shutdown(std::net::Shutdown::Write)),
            End::Kernel(None) => {}
            End::Ours(handle) => drop(self.stack.shutdown(*handle, Shutdown::Write, now)),
        }
    }

    /// Gives the connection up, with a reset.
    fn give_up(&mut self, end: &mut End) {
        let now = self.now();
        match end {
            End::Kernel(stream) => {
                let stream = stream.take().unwrap();
                // SO_LINGER of no time (socket(7)).
                let at_once = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
                inet_socket::setsockopt(stream.as_fd(), 1, 13, &at_once).unwrap();
            }
            End::Ours(handle) => {
                self.stack.set_option(*handle, SocketOption::Linger(Some(Duration::ZERO))).unwrap();
                self.stack.close(*handle, now).unwrap();
            }
        }
    }

    /// Makes a connection; in turn each end begins. The first end is the kernel's.
    fn connect(&mut self, number: u64, listening: (&TcpListener, Handle)) -> [End; 2] {
        let deadline = Clock::now() + PATIENCE;
        let kernel: SocketAddr = "192.0.2.1:7000".parse().unwrap();
        let ours: SocketAddr = "192.0.2.2:8000".parse().unwrap();
        let (stream, handle) = if number.is_multiple_of(2) {
            let caller = std::thread::spawn(move || TcpStream::connect(ours).unwrap());
            let handle = loop {
                self.turn(true);
                match self.stack.accept(listening.1) {
                    Ok((handle, _)) => break handle,
                    Err(error) => assert!(error == Error::Again && Clock::now() < deadline, "{error}"),
                }
            };
            while !caller.is_finished() {
                self.turn(true);
            }
            (caller.join().unwrap(), handle)
        } else {
            let handle = self.stack.socket(TCP).unwrap();
            let now = self.now();
            assert_eq!(self.stack.connect(handle, kernel, now), Err(Error::InProgress));
            let stream = loop {
                self.turn(true);
                match listening.0.accept() {
                    Ok((stream, _)) => break stream,
                    Err(error) => {
                        assert!(error.kind() == ErrorKind::WouldBlock && Clock::now() < deadline, "{error}");
                    }
                }
            };
            while !self.stack.readiness(handle).unwrap().contains(Events::OUT) {
                assert!(Clock::now() < deadline, "no connection");
                self.turn(true);
            }
            (stream, handle)
        };
        stream.set_nonblocking(true).unwrap();
        [End::Kernel(Some(stream)), End::Ours(handle)]
    }
}

fn byte(talk: u64, from: usize, at: usize) -> u8 {
    ((at as u64 * 7 + talk * 31 + from as u64 * 101) % 251) as u8
}

impl Talk {
    fn new(number: u64, ends: [End; 2], seed: u64) -> Talk {
        let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let left = 20 + random.below(80) as u32;
        let ending = match random.below(5) {
            0 => Ending::Reset(random.below(2) as usize),
            _ => Ending::Orderly,
        };
        Talk {
            number,
            ends,
            random,
            left,
            sent: [0; 2],
            got: [0; 2],
            shut: [false; 2],
            seen: [None; 2],
            ending,
        }
    }

    fn send(&mut self, world: &mut World, end: usize, len: usize) {
        if self.shut[end] || self.seen[end] == Some(Found::Reset) {
            return;
        }
        let start = self.sent[end];
        let data: Vec<u8> = (start..start + len).map(|at| byte(self.number, end, at)).collect();
        match world.write(&mut self.ends[end], &data) {
            Found::Bytes(len) => self.sent[end] += len,
            Found::Reset => self.seen[end] = Some(Found::Reset),
            Found::Nothing | Found::End => {}
        }
    }

    fn receive(&mut self, world: &mut World, end: usize, most: usize) {
        if self.seen[end].is_some() {
            return;
        }
        match world.read(&mut self.ends[end], most) {
            Found::Bytes(len) => {
                for (offset, found) in world.buf[..len].iter().enumerate() {
                    let at = self.got[end] + offset;
                    assert_eq!(*found, byte(self.number, 1 - end, at), "talk {}: byte {at}", self.number);
                }
                self.got[end] += len;
                assert!(self.got[end] <= self.sent[1 - end], "talk {}: more than was sent", self.number);
            }
            Found::Nothing => {}
            over => self.seen[end] = Some(over),
        }
    }

    fn shut(&mut self, world: &mut World, end: usize) {
        if !self.shut[end] {
            self.shut[end] = true;
            world.shut(&mut self.ends[end]);
        }
    }

    /// Does something; whether it is over.
    fn step(&mut self, world: &mut World) -> bool {
        if self.left > 0 {
            self.left -= 1;
            let end = self.random.below(2) as usize;
            let len = self.random.below(40_000) as usize;
            match self.random.below(20) {
                0..=7 => self.send(world, end, len),
                8..=16 => self.receive(world, end, len),
                17 if self.random.below(8) == 0 && self.ending == Ending::Orderly => self.shut(world, end),
                _ => {}
            }
            return false;
        }
        match self.ending {
            Ending::Orderly => {
                for end in [0, 1] {
                    self.shut(world, end);
                    self.receive(world, end, 100_000);
                }
                self.seen.iter().all(Option::is_some)
            }
            Ending::Reset(by) => {
                if self.seen[by].is_none() {
                    // What has come is not looked at any more.
                    world.give_up(&mut self.ends[by]);
                    self.seen[by] = Some(Found::Reset);
                }
                // The reset may be lost: then what is sent is answered by another one.
                self.send(world, 1 - by, 1);
                self.receive(world, 1 - by, 100_000);
                self.seen[1 - by].is_some()
            }
        }
    }

    fn check(&self) {
        let Talk { number, sent, got, seen, ending, .. } = self;
        match ending {
            Ending::Orderly => {
                assert_eq!(*seen, [Some(Found::End); 2], "talk {number}");
                assert_eq!([got[1], got[0]], *sent, "talk {number}: {seen:?}");
            }
            Ending::Reset(by) => assert_eq!(seen[1 - by], Some(Found::Reset), "talk {number}"),
        }
    }
}

fn sh(script: &str) {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A TAP device with the kernel at 192.0.2.1 and our stack at 192.0.2.2.
fn world(number: usize, faults: &str, control: &str, seed: u64) -> World {
    let name = format!("tcp{number}");
    let faults = LinkFaults::both(faults.parse().unwrap());
    let config = StackConfig {
        link: LinkConfig::tap(name.parse().unwrap()),
        wrappers: Wrappers::of_faults(faults, seed),
        addresses: vec!["192.0.2.2/24".parse().unwrap()],
        argument: Some(format!("tcp_congestion_control={control}")),
        ..StackConfig::default()
    };
    let mut stack = SmoltcpStack::new(config).unwrap();
    let opened = stack.pre_init(PreInitStackArgs { pid: std::process::id() }).unwrap();
    sh(&format!("ip address add 192.0.2.1/24 dev {name} && ip link set {name} up"));
    let now = Instant::from_millis(1);
    stack.init(InitStackArgs { init_str: opened.init_str, fds: opened.fds, now }).unwrap();
    World { stack, began: Clock::now(), buf: vec![0; 100_000] }
}

fn talk_all(number: usize, (faults, control): (&str, &str), seed: u64) {
    let mut world = world(number, faults, control, seed);
    let listener = TcpListener::bind("192.0.2.1:7000").unwrap();
    listener.set_nonblocking(true).unwrap();
    let ours = world.stack.socket(TCP).unwrap();
    world.stack.bind(ours, "0.0.0.0:8000".parse().unwrap()).unwrap();
    world.stack.listen(ours, 16).unwrap();
    let mut talks: Vec<Talk> = (0..AT_ONCE)
        .map(|number| Talk::new(number, world.connect(number, (&listener, ours)), seed))
        .collect();
    let deadline = Clock::now() + PATIENCE;
    while !talks.is_empty() {
        let mut busy = false;
        talks.retain_mut(|talk| {
            let (sent, got) = (talk.sent, talk.got);
            let over = talk.step(&mut world);
            busy |= (sent, got) != (talk.sent, talk.got) || talk.left > 0;
            if over {
                talk.check();
                if let (End::Ours(handle), false) = (&talk.ends[1], talk.ending == Ending::Reset(1)) {
                    let now = world.now();
                    world.stack.close(*handle, now).unwrap();
                }
            }
            !over
        });
        world.turn(!busy);
        if Clock::now() > deadline {
            let left: Vec<String> = talks
                .iter()
                .map(|t| format!("talk {}: {:?} {:?} {:?} {:?}", t.number, t.sent, t.got, t.seen, t.ending))
                .collect();
            panic!("{faults}, {control}, seed {seed}: these do not end:\n{}", left.join("\n"));
        }
    }
}

#[test]
fn random_programs_agree_with_the_kernel() {
    if std::env::var_os(INSIDE).is_some() {
        let seed: u64 = std::env::var("NETGRAFT_SEED").ok().map_or(1, |seed| seed.parse().unwrap());
        for (number, link) in LINKS.into_iter().enumerate() {
            let began = Clock::now();
            talk_all(number, link, seed.wrapping_add(number as u64));
            println!("{link:?}: {:?}", began.elapsed());
        }
        return;
    }
    // As root of the namespace, whoever runs the test.
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "random_programs_agree_with_the_kernel", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare, of util-linux");
    let said = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{why}");
    print!("{said}");
}

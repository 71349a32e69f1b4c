//! Two ends and a wire between them, in virtual time.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "each test program uses a part of it"
)]

pub(crate) mod shared;
pub(crate) mod version1;

use std::collections::BTreeMap;
use std::time::Duration;

use netgraft_tcp::{Arrival, Config, Connection, Flags, Instant, Pool, Segment, State};

/// Random numbers that repeat (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, most: u64) -> u64 {
        self.next() % most.max(1)
    }

    pub(crate) fn chance(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < u64::from(per_million)
    }
}

/// What a wire does to packets, each way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wire {
    pub(crate) delay: Duration,
    /// Per million.
    pub(crate) loss: u32,
    pub(crate) duplicate: u32,
    /// Per million, and by how long.
    pub(crate) reorder: (u32, Duration),
    /// Bits per second, and bytes that wait for it; more are dropped.
    pub(crate) rate: Option<(u64, u64)>,
    /// Packets above so many waiting bytes are marked, if they may be.
    pub(crate) mark_above: Option<u64>,
    /// Bytes of the largest TCP segment, header included, that passes; larger ones vanish without a word.
    pub(crate) largest: Option<usize>,
    /// How late both ends notice that a time has come.
    pub(crate) late: Duration,
}

/// Bytes of a link and IP header.
const HEADERS: u64 = 34;

struct Packet {
    to: usize,
    bytes: Vec<u8>,
    marked: bool,
}

/// Two connections on a wire.
pub(crate) struct World {
    pub(crate) ends: [Option<Connection>; 2],
    pub(crate) pools: [Pool; 2],
    pub(crate) now: Instant,
    pub(crate) wire: Wire,
    pub(crate) random: Random,
    pub(crate) sent: [u64; 2],
    pub(crate) dropped: u64,
    config: [Config; 2],
    listening: bool,
    packets: BTreeMap<(Instant, u64), Packet>,
    count: u64,
    busy: [Instant; 2],
    /// What arrived, of both ends.
    pub(crate) arrivals: [Arrival; 2],
}

impl World {
    /// The first end connects to the second.
    pub(crate) fn new(config: [Config; 2], wire: Wire, seed: u64) -> World {
        let now = Instant::from_millis(1000);
        let client = Connection::connect(&config[0], 0xffff_f000, now);
        World {
            ends: [Some(client), None],
            pools: [Pool::new(1 << 20), Pool::new(1 << 20)],
            now,
            wire,
            random: Random(seed),
            sent: [0; 2],
            dropped: 0,
            config,
            listening: true,
            packets: BTreeMap::new(),
            count: 0,
            busy: [Instant::ZERO; 2],
            arrivals: [Arrival::default(); 2],
        }
    }

    /// Both begin at once (RFC 9293 figure 7).
    pub(crate) fn simultaneous(config: [Config; 2], wire: Wire, seed: u64) -> World {
        let mut world = World::new(config, wire, seed);
        world.ends[1] = Some(Connection::connect(&config[1], 77, world.now));
        world.listening = false;
        world
    }

    pub(crate) fn end(&mut self, index: usize) -> &mut Connection {
        self.ends[index].as_mut().unwrap()
    }

    pub(crate) fn state(&self, index: usize) -> Option<State> {
        self.ends[index].as_ref().map(Connection::state)
    }

    pub(crate) fn send(&mut self, index: usize, data: &[u8]) -> usize {
        let (now, pool) = (self.now, &mut self.pools[index]);
        self.ends[index].as_mut().unwrap().send(data, false, now, pool)
    }

    pub(crate) fn recv(&mut self, index: usize, buf: &mut [u8]) -> usize {
        let (now, pool) = (self.now, &mut self.pools[index]);
        self.ends[index].as_mut().unwrap().recv(buf, now, pool)
    }

    /// Sends what both ends have to send now.
    pub(crate) fn flush(&mut self) {
        for from in 0..2 {
            for _ in 0..100_000 {
                let now = self.now;
                let Some(end) = &mut self.ends[from] else { break };
                let Some(transmit) = end.transmit(now) else { break };
                let mut bytes = vec![0; transmit.len()];
                end.write(&transmit, (from as u16, 1 - from as u16), &mut bytes);
                let size = transmit.segment_size;
                let ecn = transmit.ecn_capable;
                self.cut(from, &bytes, size, ecn);
            }
        }
    }

    /// Cuts a large segment as a device does.
    fn cut(&mut self, from: usize, bytes: &[u8], size: u16, ecn: bool) {
        let header = usize::from(bytes[12] >> 4) * 4;
        let (head, payload) = bytes.split_at(header);
        if size == 0 || payload.len() <= usize::from(size) {
            return self.carry(from, bytes.to_vec(), ecn);
        }
        let seq = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let pieces = payload.chunks(usize::from(size));
        let count = pieces.len();
        for (i, piece) in pieces.enumerate() {
            let mut packet = head.to_vec();
            let number = seq.wrapping_add((i * usize::from(size)) as u32);
            packet[4..8].copy_from_slice(&number.to_be_bytes());
            if i + 1 < count {
                packet[13] &= !(Flags::FIN | Flags::PSH).0;
            }
            packet.extend_from_slice(piece);
            self.carry(from, packet, ecn);
        }
    }

    fn carry(&mut self, from: usize, bytes: Vec<u8>, ecn: bool) {
        self.sent[from] += 1;
        let wire = self.wire;
        if wire.largest.is_some_and(|most| bytes.len() > most) || self.random.chance(wire.loss) {
            self.dropped += 1;
            return;
        }
        let mut due = self.now;
        let mut marked = false;
        if let Some((rate, queue)) = wire.rate {
            let nanos = |bytes: u64| bytes * 8 * 1_000_000_000 / rate;
            let begin = self.busy[from].max(self.now);
            let waiting = begin.since(self.now).as_nanos() as u64 * rate / 8 / 1_000_000_000;
            if waiting > queue {
                self.dropped += 1;
                return;
            }
            marked = ecn && wire.mark_above.is_some_and(|above| waiting > above);
            due = begin + Duration::from_nanos(nanos(bytes.len() as u64 + HEADERS));
            self.busy[from] = due;
        }
        due = due + wire.delay;
        if self.random.chance(wire.reorder.0) {
            due = due + wire.reorder.1;
        }
        let copies = 1 + u32::from(self.random.chance(wire.duplicate));
        for _ in 0..copies {
            let packet = Packet { to: 1 - from, bytes: bytes.clone(), marked };
            self.packets.insert((due, self.count), packet);
            self.count += 1;
        }
    }

    /// Lets the next thing happen that is due until `end`; `false` if there is none.
    pub(crate) fn step(&mut self, end: Instant) -> bool {
        self.flush();
        let packet = self.packets.first_key_value().map(|(key, _)| key.0);
        let timers =
            self.ends.iter().flatten().filter_map(Connection::deadline).min().map(|due| due + self.wire.late);
        let Some(next) = packet.into_iter().chain(timers).min().filter(|next| *next <= end) else {
            self.now = self.now.max(end);
            return false;
        };
        self.now = self.now.max(next);
        if packet == Some(next) {
            if let Some((_, packet)) = self.packets.pop_first() {
                self.deliver(&packet);
            }
        } else {
            let now = self.now;
            for end in self.ends.iter_mut().flatten() {
                end.on_time(now);
            }
        }
        self.flush();
        true
    }

    fn deliver(&mut self, packet: &Packet) {
        let mut segment = Segment::parse(&packet.bytes).unwrap();
        segment.marked = packet.marked;
        let (now, pool) = (self.now, &mut self.pools[packet.to]);
        match &mut self.ends[packet.to] {
            Some(end) => {
                let arrival = end.input(&segment, now, pool);
                self.arrivals[packet.to].received += arrival.received;
            }
            None if self.listening => {
                if let Some(mut end) = Connection::accept(&self.config[1], 0x7fff_ff00, &segment, now) {
                    let arrival = end.take_early(&segment, now, pool);
                    self.arrivals[packet.to].received += arrival.received;
                    self.ends[packet.to] = Some(end);
                }
            }
            None => {}
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// Sends `total` bytes that nobody looks at, and takes them.
    pub(crate) fn bulk_more(&mut self, from: usize, total: usize, most: Duration) {
        let deadline = self.now + most;
        let (data, mut buf) = (vec![0; 65_536], vec![0; 65_536]);
        let (mut sent, mut got) = (0, 0);
        while got < total {
            let len = (total - sent).min(65_536);
            sent += self.send(from, &data[..len]);
            assert!(self.step(deadline), "{got} of {total}");
            got += self.recv(1 - from, &mut buf);
        }
    }

    /// Sends `total` bytes from one end to the other, checks each, and answers how long it took; `None` if it is not done
    /// after `most`.
    pub(crate) fn bulk(&mut self, from: usize, total: usize, most: Duration) -> Option<Duration> {
        let begin = self.now;
        let deadline = begin + most;
        let (mut sent, mut got) = (0usize, 0usize);
        let mut buf = vec![0; 65_536];
        let chunk: Vec<u8> = (0..65_536 + 251).map(|i| (i % 251) as u8).collect();
        while got < total {
            while sent < total && self.ends[from].as_ref().is_some_and(Connection::is_synchronized) {
                let len = (total - sent).min(65_536);
                let at = sent % 251;
                let taken = self.send(from, &chunk[at..at + len]);
                sent += taken;
                if taken == 0 {
                    break;
                }
            }
            if !self.step(deadline) {
                return None;
            }
            while self.ends[1 - from].is_some() {
                let len = self.recv(1 - from, &mut buf);
                if len == 0 {
                    break;
                }
                for (i, byte) in buf[..len].iter().enumerate() {
                    assert_eq!(*byte, ((got + i) % 251) as u8, "byte {}", got + i);
                }
                got += len;
            }
        }
        Some(self.now.since(begin))
    }
}

//! Several flows through one bottleneck, in virtual time: connections of ours, and models of senders of others.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use netgraft_tcp::{Config, Connection, Flags, Instant, Pool, Segment};

use super::version1::Version1;

/// Bytes of a link and IP header.
const HEADERS: u64 = 34;
/// Payload of a model's packets.
pub(crate) const MODEL_PACKET: u64 = 1448;

/// The bottleneck: bits per second, frames that wait for it at most, and the delay each way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bottleneck {
    pub(crate) rate: u64,
    pub(crate) queue: usize,
    pub(crate) delay: Duration,
    /// How late our senders notice that a time has come.
    pub(crate) late: Duration,
}

enum Flow {
    Ours { ends: Box<[Option<Connection>; 2]>, pools: [Pool; 2], config: Config },
    Other(Version1),
}

/// What is on its way: a segment of ours with its direction, or a packet of a model or its acknowledgement.
enum Packet {
    Segment { to: usize, bytes: Vec<u8> },
    Data(u64),
    Ack(u64),
}

pub(crate) struct Shared {
    pub(crate) now: Instant,
    bottleneck: Bottleneck,
    flows: Vec<Flow>,
    /// When each flow begins.
    begins: Vec<Instant>,
    /// Payload bytes that arrived of each flow, and frames of it that were dropped and sent.
    pub(crate) arrived: Vec<u64>,
    pub(crate) dropped: Vec<u64>,
    pub(crate) sent: Vec<u64>,
    packets: BTreeMap<(Instant, u64), (usize, Packet)>,
    count: u64,
    /// When each frame that waits has entered the line.
    entering: VecDeque<Instant>,
}

impl Shared {
    pub(crate) fn new(bottleneck: Bottleneck) -> Shared {
        Shared {
            now: Instant::from_millis(1000),
            bottleneck,
            flows: Vec::new(),
            begins: Vec::new(),
            arrived: Vec::new(),
            dropped: Vec::new(),
            sent: Vec::new(),
            packets: BTreeMap::new(),
            count: 0,
            entering: VecDeque::new(),
        }
    }

    fn add(&mut self, flow: Flow, begins: Duration) {
        self.flows.push(flow);
        self.begins.push(self.now + begins);
        self.arrived.push(0);
        self.dropped.push(0);
        self.sent.push(0);
    }

    /// A flow of ours that begins after a time.
    pub(crate) fn ours(&mut self, config: Config, begins: Duration) {
        let pools = [Pool::new(1 << 20), Pool::new(1 << 20)];
        self.add(Flow::Ours { ends: Box::new([None, None]), pools, config }, begins);
    }

    /// A flow of the kernel's BBR, as the model has it.
    pub(crate) fn other(&mut self, begins: Duration) {
        let seed = self.flows.len() as u64;
        self.add(Flow::Other(Version1::new(seed)), begins);
    }

    /// Puts a frame into the queue; `None` if it is full, else when it arrives.
    fn enter(&mut self, len: u64) -> Option<Instant> {
        let now = self.now;
        while self.entering.front().is_some_and(|at| *at <= now) {
            self.entering.pop_front();
        }
        if self.entering.len() > self.bottleneck.queue {
            return None;
        }
        let after = self.entering.back().copied().unwrap_or(now).max(now);
        let entered = after + Duration::from_nanos(len * 8 * 1_000_000_000 / self.bottleneck.rate);
        self.entering.push_back(entered);
        Some(entered + self.bottleneck.delay)
    }

    fn carry(&mut self, flow: usize, packet: Packet) {
        let (forward, len) = match &packet {
            Packet::Segment { to, bytes } => (*to == 1, bytes.len() as u64 + HEADERS),
            Packet::Data(_) => (true, MODEL_PACKET + 32 + HEADERS),
            Packet::Ack(_) => (false, 0),
        };
        let due = if forward {
            self.sent[flow] += 1;
            let Some(due) = self.enter(len) else {
                self.dropped[flow] += 1;
                return;
            };
            due
        } else {
            self.now + self.bottleneck.delay
        };
        self.packets.insert((due, self.count), (flow, packet));
        self.count += 1;
    }

    fn flush(&mut self, flow: usize) {
        let now = self.now;
        let mut out = Vec::new();
        match &mut self.flows[flow] {
            Flow::Ours { ends, .. } => {
                for from in 0..2 {
                    let Some(end) = &mut ends[from] else { continue };
                    while let Some(transmit) = end.transmit(now) {
                        let mut bytes = vec![0; transmit.len()];
                        end.write(&transmit, (from as u16, 1 - from as u16), &mut bytes);
                        cut(&bytes, transmit.segment_size, &mut |bytes| {
                            out.push(Packet::Segment { to: 1 - from, bytes });
                        });
                    }
                }
            }
            Flow::Other(model) => {
                while let Some(number) = model.transmit(now) {
                    out.push(Packet::Data(number));
                }
            }
        }
        for packet in out {
            self.carry(flow, packet);
        }
    }

    fn deliver(&mut self, flow: usize, packet: Packet) {
        let now = self.now;
        match (&mut self.flows[flow], packet) {
            (Flow::Ours { ends, pools, config }, Packet::Segment { to, bytes }) => {
                let segment = Segment::parse(&bytes).unwrap();
                match &mut ends[to] {
                    Some(end) => {
                        self.arrived[flow] += if to == 1 {
                            end.input(&segment, now, &mut pools[1]).received as u64
                        } else {
                            end.input(&segment, now, &mut pools[0]);
                            0
                        };
                        let mut buf = [0; 65_536];
                        while end.recv(&mut buf, now, &mut pools[to]) > 0 {}
                    }
                    None => ends[1] = Connection::accept(config, 0x7fff_ff00, &segment, now),
                }
            }
            (Flow::Other(_), Packet::Data(number)) => {
                self.arrived[flow] += MODEL_PACKET;
                self.carry(flow, Packet::Ack(number));
            }
            (Flow::Other(model), Packet::Ack(number)) => model.acknowledged(number, now),
            _ => {}
        }
    }

    /// When the timers of a flow run out.
    fn deadline(&self, flow: usize) -> Option<Instant> {
        match &self.flows[flow] {
            Flow::Ours { ends, .. } if ends[0].is_none() => Some(self.begins[flow]),
            Flow::Ours { ends, .. } => {
                let due = ends.iter().flatten().filter_map(Connection::deadline).min()?;
                Some(due + self.bottleneck.late)
            }
            Flow::Other(model) => model.deadline().map(|due| due.max(self.begins[flow])),
        }
    }

    fn on_time(&mut self, flow: usize) {
        let now = self.now;
        if let Flow::Ours { ends, pools, config } = &mut self.flows[flow] {
            if ends[0].is_none() {
                ends[0] = Some(Connection::connect(config, 0xffff_f000, now));
            }
            for end in ends.iter_mut().flatten() {
                end.on_time(now);
            }
            let sender = ends[0].as_mut().unwrap();
            if sender.is_synchronized() {
                fill(sender, now, &mut pools[0]);
            }
        }
        self.flush(flow);
    }

    /// Lets time pass; every sender always has something to send.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let packet = self.packets.first_key_value().map(|(key, _)| key.0);
            let timers = (0..self.flows.len()).filter_map(|flow| Some((self.deadline(flow)?, flow))).min();
            let next = packet.into_iter().chain(timers.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if packet == Some(next)
                && let Some((_, (flow, packet))) = self.packets.pop_first()
            {
                self.deliver(flow, packet);
                let now = self.now;
                if let Flow::Ours { ends, pools, .. } = &mut self.flows[flow]
                    && let Some(sender) = &mut ends[0]
                    && sender.is_synchronized()
                {
                    fill(sender, now, &mut pools[0]);
                }
                self.flush(flow);
            } else if let Some((_, flow)) = timers {
                self.on_time(flow);
            }
        }
        self.now = end;
    }
}

fn fill(sender: &mut Connection, now: Instant, pool: &mut Pool) {
    let chunk = [0; 65_536];
    while sender.send(&chunk, false, now, pool) > 0 {}
}

/// Cuts a large segment as a device does.
fn cut(bytes: &[u8], size: u16, out: &mut dyn FnMut(Vec<u8>)) {
    let header = usize::from(bytes[12] >> 4) * 4;
    let (head, payload) = bytes.split_at(header);
    if size == 0 || payload.len() <= usize::from(size) {
        return out(bytes.to_vec());
    }
    let seq = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let count = payload.len().div_ceil(usize::from(size));
    for (i, piece) in payload.chunks(usize::from(size)).enumerate() {
        let mut packet = head.to_vec();
        let number = seq.wrapping_add((i * usize::from(size)) as u32);
        packet[4..8].copy_from_slice(&number.to_be_bytes());
        if i + 1 < count {
            packet[13] &= !(Flags::FIN | Flags::PSH).0;
        }
        packet.extend_from_slice(piece);
        out(packet);
    }
}

//! Whatever a peer sends and whenever: no panic, no endless sending, no memory beyond the windows, and no byte that the
//! peer has not allowed.

use std::time::Duration;

use netgraft_tcp::{
    Algorithm, BufferSize, Config, Connection, Cookie, Flags, Header, Instant, KeepAlive, Options, Path,
    Pool, SackBlocks, Segment, Settings,
};
use proptest::collection::vec;
use proptest::prelude::*;

const OURS: u32 = u32::MAX - 5000;
const THEIRS: u32 = u32::MAX - 9000;
const RECEIVE: usize = 100_000;
const SEND: usize = 60_000;

/// A step of a case.
#[derive(Clone, Debug)]
enum Step {
    /// A segment: flags, number and acknowledgement near what is expected or anywhere, window, length, options.
    Segment {
        flags: u8,
        seq: i64,
        ack: i64,
        window: u16,
        len: usize,
        stamp: Option<i32>,
        sack: Vec<(i64, i64)>,
        marked: bool,
    },
    Wait(u64),
    Send(usize, bool),
    Urgent(usize),
    Recv(usize),
    Close,
    Detach,
    Narrow(u16, i64),
    Setting(u8),
    Capacity(usize),
}

fn near() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => Just(0i64),
        4 => -3000i64..3000,
        2 => -200_000i64..200_000,
        1 => any::<i32>().prop_map(i64::from),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![10 => Just(0x10u8), 3 => Just(0x18), 2 => Just(0x11), 1 => any::<u8>()];
    let window = prop_oneof![4 => Just(u16::MAX), 2 => Just(1000), 1 => Just(0), 1 => any::<u16>()];
    let len = prop_oneof![4 => Just(0usize), 4 => 1usize..3000, 1 => Just(60_000)];
    let stamp = prop_oneof![4 => Just(Some(1)), 1 => Just(None), 1 => any::<i32>().prop_map(Some)];
    let segment = (flags, near(), near(), window, len, stamp, vec((near(), near()), 0..5), any::<bool>())
        .prop_map(|(flags, seq, ack, window, len, stamp, sack, marked)| Step::Segment {
            flags,
            seq,
            ack,
            window,
            len,
            stamp,
            sack,
            marked,
        });
    prop_oneof![
        12 => segment,
        4 => prop_oneof![0u64..5, 0u64..500, 0u64..100_000].prop_map(Step::Wait),
        4 => (0usize..20_000, any::<bool>()).prop_map(|(len, more)| Step::Send(len, more)),
        1 => (0usize..100).prop_map(Step::Urgent),
        2 => (0usize..50_000).prop_map(Step::Recv),
        1 => Just(Step::Close),
        1 => Just(Step::Detach),
        1 => (any::<u16>(), near()).prop_map(|(mss, at)| Step::Narrow(mss, at)),
        1 => any::<u8>().prop_map(Step::Setting),
        1 => (1usize..RECEIVE).prop_map(Step::Capacity),
    ]
}

struct Case {
    connection: Connection,
    pool: Pool,
    now: Instant,
    /// The next number that the peer would send, and that it expects, as far as it has heard.
    next: u32,
    heard: u32,
    /// The number behind what the peer has allowed, of what was sent.
    edge: u32,
    shift: u8,
    stamp: u32,
}

impl Case {
    fn flush(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..5_000 {
            let Some(transmit) = self.connection.transmit(self.now) else { return Ok(()) };
            let mut bytes = vec![0; transmit.len()];
            self.connection.write(&transmit, (1, 2), &mut bytes);
            let segment = Segment::parse(&bytes).ok_or_else(|| TestCaseError::fail("no segment"))?;
            prop_assert!(segment.header.options.len() <= 40);
            let end = segment.header.seq.wrapping_add(segment.payload.len() as u32);
            if !segment.payload.is_empty() {
                let beyond = end.wrapping_sub(self.edge) as i32;
                prop_assert!(beyond <= 0, "{beyond} bytes beyond the window");
                let mss = usize::from(self.connection.mss());
                let cut = usize::from(transmit.segment_size);
                prop_assert!(segment.payload.len() <= mss || cut > 0 && cut <= mss);
            }
            if !segment.header.flags.has(Flags::RST) {
                self.next = segment.header.ack;
                if (end.wrapping_sub(self.heard) as i32) > 0 {
                    self.heard =
                        end.wrapping_add(u32::from(segment.header.flags.any(Flags::SYN | Flags::FIN)));
                }
            }
        }
        Err(TestCaseError::fail("it never stops sending"))
    }

    fn wait(&mut self, time: u64) -> Result<(), TestCaseError> {
        let end = self.now + Duration::from_millis(time);
        for _ in 0..20_000 {
            let Some(due) = self.connection.deadline().filter(|due| *due <= end) else {
                self.now = end;
                return Ok(());
            };
            self.now = self.now.max(due);
            self.connection.on_time(self.now);
            self.flush()?;
        }
        Err(TestCaseError::fail("time stands still"))
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let now = self.now;
        match step {
            Step::Segment { flags, seq, ack, window, len, stamp, sack, marked } => {
                let mut blocks = SackBlocks::default();
                for (a, b) in sack {
                    let at = |offset: i64| self.heard.wrapping_add(offset as u32);
                    blocks.push(at(a - 2000), at(*b));
                }
                let header = Header {
                    seq: self.next.wrapping_add(*seq as u32),
                    ack: self.heard.wrapping_add(*ack as u32),
                    flags: Flags(*flags),
                    window: *window,
                    urgent: (*len / 2) as u16,
                    options: Options {
                        timestamps: stamp.map(|by| {
                            self.stamp = self.stamp.wrapping_add(u32::from(by == 1));
                            (self.stamp.wrapping_add((by - 1) as u32), now.millis() as u32)
                        }),
                        sack: blocks,
                        mss: Some(*window),
                        window_scale: Some((*len % 20) as u8),
                        fast_open: Cookie::new(&[]),
                        ..Options::default()
                    },
                };
                let edge = header.ack.wrapping_add(u32::from(*window) << self.shift);
                // What was never sent cannot be acknowledged, so it allows nothing.
                let sound = (-1_000_000..=0).contains(ack);
                if sound && header.flags.has(Flags::ACK) && (edge.wrapping_sub(self.edge) as i32) > 0 {
                    self.edge = edge;
                }
                let payload = vec![7; *len];
                let segment = Segment { ports: (2, 1), header, payload: &payload, marked: *marked };
                self.connection.input(&segment, now, &mut self.pool);
            }
            Step::Wait(time) => self.wait(*time)?,
            Step::Send(len, more) => {
                self.connection.send(&vec![1; *len], *more, now, &mut self.pool);
            }
            Step::Urgent(len) => {
                self.connection.send_urgent(&vec![1; *len], now, &mut self.pool);
            }
            Step::Recv(len) => {
                self.connection.recv(&mut vec![0; *len], now, &mut self.pool);
            }
            Step::Close => self.connection.close(now),
            Step::Detach => self.connection.detach(now, &mut self.pool),
            Step::Narrow(mss, at) => {
                self.connection.narrow(*mss, self.heard.wrapping_add(*at as u32), now);
            }
            Step::Setting(bits) => {
                let on = |bit: u8| bits & 1 << bit != 0;
                let keep =
                    KeepAlive { idle: Duration::from_secs(2), interval: Duration::from_secs(1), count: 3 };
                self.connection.set(Settings {
                    no_delay: on(0),
                    cork: on(1),
                    quick_ack: on(2),
                    keep_alive: on(3).then_some(keep),
                    user_timeout: on(4).then_some(Duration::from_secs(9)),
                    ..Settings::default()
                });
                self.connection.set_algorithm(Algorithm::ALL[usize::from(bits % 3)], now);
            }
            Step::Capacity(bytes) => self.connection.set_receive_capacity(*bytes),
        }
        self.flush()?;
        self.wait(0)?;
        // Blocks at both ends of each queue, and one for each of the ranges that are far apart.
        let most = RECEIVE + SEND + 20 * 8192;
        prop_assert!(self.pool.used() <= most, "{} bytes", self.pool.used());
        // A window is told in units.
        prop_assert!(self.connection.readable() <= RECEIVE + 16);
        prop_assert!(
            self.connection.deadline().is_none_or(|due| due > self.now),
            "a deadline that has passed"
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_connection_survives_its_peer(
        steps in vec(step(), 1..60),
        established in any::<bool>(),
        (timestamps, sack, algorithm, whole) in (any::<bool>(), any::<bool>(), 0usize..3, 0usize..65_000),
    ) {
        let now = Instant::from_millis(5);
        let config = Config {
            receive: BufferSize { initial: RECEIVE, most: RECEIVE },
            send: BufferSize { initial: SEND, most: SEND },
            path: Path { mss: 1460, whole },
            algorithm: Algorithm::ALL[algorithm],
            ecn: netgraft_tcp::Ecn::Ask,
            timestamps,
            sack,
            ..Config::default()
        };
        let mut case = Case {
            connection: Connection::connect(&config, OURS, now),
            pool: Pool::new(0),
            now,
            next: THEIRS,
            heard: OURS,
            edge: OURS,
            shift: 0,
            stamp: 1000,
        };
        case.flush()?;
        case.next = THEIRS;
        if established {
            let options = Options {
                mss: Some(1460),
                window_scale: Some(3),
                sack_permitted: sack,
                timestamps: timestamps.then_some((1000, 5)),
                ..Options::default()
            };
            let flags = Flags::SYN | Flags::ACK | Flags::ECE;
            let header = Header { seq: THEIRS, ack: OURS.wrapping_add(1), flags, window: 60_000, options, urgent: 0 };
            let segment = Segment { ports: (2, 1), header, payload: &[], marked: false };
            case.connection.input(&segment, now, &mut case.pool);
            case.shift = 3;
            case.edge = OURS.wrapping_add(1 + 60_000);
            case.flush()?;
        } else {
            // What a SYN may offer is anything.
            case.shift = 14;
        }
        for step in &steps {
            case.step(step)?;
        }
        case.connection.abort(&mut case.pool);
        case.flush()?;
        prop_assert_eq!(case.pool.used(), 0);
        prop_assert_eq!(case.connection.deadline(), None);
    }

    #[test]
    fn any_bytes_are_parsed(bytes in vec(any::<u8>(), 0..200)) {
        if let Some(segment) = Segment::parse(&bytes) {
            prop_assert!(segment.payload.len() + 20 <= bytes.len());
            let _ = (segment.refusal(), segment.len());
            let mut header = segment.header;
            header.options = Options::parse(bytes.get(20..60).unwrap_or_default());
            if header.len() <= 60 {
                let mut buf = vec![0; header.len()];
                header.emit((1, 2), &mut buf);
                prop_assert_eq!(Segment::parse(&buf).map(|s| s.header.options), Some(header.options));
            }
        }
    }
}

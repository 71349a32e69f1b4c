//! Runs the scripts in `scripts/`: segments in and out of one connection, with their times. `scripts/README.md` says how
//! they are written.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use netgraft_tcp::{
    Algorithm, BufferSize, Config, Connection, Cookie, Cookies, Ecn, FastOpen, Flags, Header, Instant,
    KeepAlive, Meaning, Options, Path, Pool, Segment, TimeWait,
};

/// Our initial sequence number, and that of the peer, unless a script says otherwise.
const OURS: u32 = 1_000_000;
const THEIRS: u32 = 2_000_000;

/// A segment as a script has it: with what it names, and no more.
#[derive(Debug, Default)]
struct Picture {
    flags: Flags,
    seq: u32,
    len: u32,
    ack: Option<u32>,
    window: Option<u16>,
    urgent: Option<u16>,
    mss: Option<u16>,
    shift: Option<u8>,
    sack_permitted: bool,
    stamps: Option<(u32, u32)>,
    /// With the numbers of the end that they describe.
    sack: Vec<(u32, u32)>,
    none: Vec<String>,
    marked: bool,
    cookie: Option<Cookie>,
}

/// A cookie in hexadecimal digits, or `ask`.
fn cookie(text: &str) -> Cookie {
    if text == "ask" {
        return Cookie::default();
    }
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..text.len()).step_by(2).map(byte).collect();
    Cookie::new(&bytes).unwrap()
}

fn flags(text: &str) -> Flags {
    text.chars().fold(Flags::default(), |flags, c| {
        flags
            | match c {
                'S' => Flags::SYN,
                'F' => Flags::FIN,
                'R' => Flags::RST,
                'P' => Flags::PSH,
                'A' => Flags::ACK,
                'U' => Flags::URG,
                'E' => Flags::ECE,
                'W' => Flags::CWR,
                '.' => Flags::default(),
                other => panic!("no flag {other}"),
            }
    })
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("no number: {text}"))
}

fn picture(words: &[&str]) -> Picture {
    let mut words = words.iter();
    let mut p = Picture { flags: flags(words.next().unwrap()), ..Picture::default() };
    let place = words.next().unwrap();
    let (seq, len) = place.split_once('+').unwrap_or((place, "0"));
    p.seq =
        if let Some(below) = seq.strip_prefix('-') { 0u32.wrapping_sub(number(below)) } else { number(seq) };
    p.len = number(len);
    while let Some(word) = words.next() {
        let mut next = || *words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        match *word {
            "ack" => p.ack = Some(number(next())),
            "win" => p.window = Some(number(next())),
            "urg" => p.urgent = Some(number(next())),
            "mss" => p.mss = Some(number(next())),
            "ws" => p.shift = Some(number(next())),
            "sackok" => p.sack_permitted = true,
            "ts" => p.stamps = Some((number(next()), number(next()))),
            "sack" => {
                let (a, b) = next().split_once('-').unwrap();
                p.sack.push((number(a), number(b)));
            }
            "no" => p.none.push(next().to_owned()),
            "marked" => p.marked = true,
            "tfo" => p.cookie = Some(cookie(next())),
            other => panic!("no such word: {other}"),
        }
    }
    p
}

struct Out {
    at: Instant,
    header: Header,
    len: usize,
    ecn: bool,
}

/// What takes a segment when there is no connection.
enum Passive {
    Nothing,
    Listener,
    /// One that remembers nothing (RFC 4987).
    Cookies,
    /// What is left of the last connection.
    Wait(TimeWait),
}

/// The keyed hash of a listener that remembers nothing.
fn hash(a: u32, b: u32) -> u32 {
    (a.wrapping_mul(0x9e37_79b9) ^ b).wrapping_mul(0x85eb_ca6b)
}

struct Script {
    config: Config,
    initial: (u32, u32),
    connection: Option<Connection>,
    pool: Pool,
    now: Instant,
    out: VecDeque<Out>,
    written: usize,
    passive: Passive,
    /// What the last segment meant that came in TIME-WAIT.
    meaning: Option<Meaning>,
    /// The timestamp that was sent last.
    stamp: u32,
    /// Whether nothing leaves for now: several segments are handled at a time.
    holds: bool,
}

impl Script {
    fn new() -> Self {
        Script {
            config: Config { timestamps: false, ..Config::default() },
            initial: (OURS, THEIRS),
            connection: None,
            pool: Pool::new(0),
            now: Instant::from_millis(10_000),
            out: VecDeque::new(),
            written: 0,
            passive: Passive::Nothing,
            meaning: None,
            stamp: 0,
            holds: false,
        }
    }

    fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().unwrap()
    }

    fn collect(&mut self) {
        let now = self.now;
        let Some(connection) = self.connection.as_mut().filter(|_| !self.holds) else { return };
        for _ in 0..10_000 {
            let Some(transmit) = connection.transmit(now) else { return };
            let (header, len) = (transmit.header, transmit.payload_len());
            // What is written must be what is said.
            let mut bytes = vec![0; transmit.len()];
            connection.write(&transmit, (7, 8), &mut bytes);
            let parsed = Segment::parse(&bytes).unwrap();
            assert_eq!((parsed.header, parsed.payload.len()), (header, len));
            self.out.push_back(Out { at: now, header, len, ecn: transmit.ecn_capable });
        }
        panic!("it never stops sending");
    }

    fn advance(&mut self, to: Instant) {
        self.collect();
        for _ in 0..100_000 {
            let due = self.connection.as_ref().and_then(Connection::deadline).filter(|due| *due <= to);
            let Some(due) = due else {
                self.now = self.now.max(to);
                return;
            };
            self.now = self.now.max(due);
            let now = self.now;
            self.connection().on_time(now);
            self.collect();
        }
        panic!("time stands still");
    }

    fn quiet(&self) {
        if let Some(out) = self.out.front() {
            panic!("unexpected at {} ms: {}", self.elapsed(out.at), self.show(out));
        }
    }

    fn elapsed(&self, at: Instant) -> u64 {
        at.millis() - 10_000
    }

    fn show(&self, out: &Out) -> String {
        let header = &out.header;
        let seq = header.seq.wrapping_sub(self.initial.0);
        let ack = header.ack.wrapping_sub(self.initial.1);
        let sacks: Vec<_> = header
            .options
            .sack
            .as_slice()
            .iter()
            .map(|&(a, b)| format!("{}-{}", a.wrapping_sub(self.initial.1), b.wrapping_sub(self.initial.1)))
            .collect();
        let names = "FSRPAUEW";
        let flags: String =
            names.chars().enumerate().filter(|(i, _)| header.flags.0 & 1 << i != 0).map(|(_, c)| c).collect();
        format!(
            "{flags} {seq}+{} ack {ack} win {} sack {sacks:?} {:?}",
            out.len, header.window, header.options
        )
    }

    fn incoming(&mut self, p: &Picture) {
        let (ours, theirs) = self.initial;
        let mut options = Options {
            mss: p.mss,
            window_scale: p.shift,
            sack_permitted: p.sack_permitted,
            timestamps: p.stamps,
            fast_open: p.cookie,
            ..Options::default()
        };
        for &(a, b) in &p.sack {
            options.sack.push(ours.wrapping_add(a), ours.wrapping_add(b));
        }
        let mut flags = p.flags;
        if p.ack.is_some() {
            flags |= Flags::ACK;
        }
        let header = Header {
            seq: theirs.wrapping_add(p.seq),
            ack: p.ack.map_or(0, |ack| ours.wrapping_add(ack)),
            flags,
            window: p.window.unwrap_or(65_535),
            urgent: p.urgent.unwrap_or(0),
            options,
        };
        let payload: Vec<u8> = (0..p.len).map(|i| (p.seq.wrapping_add(i) % 251) as u8).collect();
        let segment = Segment { ports: (8, 7), header, payload: &payload, marked: p.marked };
        let (now, initial) = (self.now, ours);
        match (&mut self.connection, &self.passive) {
            (Some(connection), _) => {
                connection.input(&segment, now, &mut self.pool);
            }
            (None, Passive::Listener) => {
                self.connection = Connection::accept(&self.config, initial, &segment, now);
                if let Some(connection) = &mut self.connection {
                    connection.take_early(&segment, now, &mut self.pool);
                }
            }
            (None, Passive::Cookies) => self.remember_nothing(&segment),
            (None, Passive::Wait(waits)) => {
                let meaning = waits.meaning(&segment, false);
                if meaning == Meaning::Acknowledge {
                    self.out.push_back(Out {
                        at: now,
                        header: waits.acknowledgement(now),
                        len: 0,
                        ecn: false,
                    });
                }
                self.meaning = Some(meaning);
            }
            (None, Passive::Nothing) => panic!("neither connected nor listening"),
        }
        self.collect();
    }

    /// Answers a SYN, whose answer's number is ours from then on, or takes up the connection that comes of it.
    fn remember_nothing(&mut self, segment: &Segment<'_>) {
        let (cookies, now) = (Cookies::new(hash), self.now);
        if let Some(header) = cookies.answer(&self.config, segment, now) {
            self.initial.0 = header.seq;
            self.out.push_back(Out { at: now, header, len: 0, ecn: false });
        } else if let Some((connection, _)) = cookies.accept(&self.config, segment, now, &mut self.pool) {
            self.connection = Some(connection);
        }
    }

    fn expect(&mut self, at: Instant, p: &Picture) {
        if self.out.is_empty() {
            self.advance(at + Duration::from_micros(600));
        }
        let Some(out) = self.out.pop_front() else { panic!("nothing was sent") };
        let shown = self.show(&out);
        let late = out.at.since(at).max(at.since(out.at));
        assert!(
            late <= Duration::from_millis(1),
            "at {} ms and not {}: {shown}",
            self.elapsed(out.at),
            self.elapsed(at)
        );
        let header = &out.header;
        self.stamp = header.options.timestamps.map_or(self.stamp, |stamps| stamps.0);
        let mut flags = p.flags;
        if p.ack.is_some() {
            flags |= Flags::ACK;
        }
        let push = Flags::PSH.0;
        let seen = Flags(if p.flags.has(Flags::PSH) { header.flags.0 } else { header.flags.0 & !push });
        assert_eq!(seen, flags, "flags: {shown}");
        assert_eq!(header.seq.wrapping_sub(self.initial.0), p.seq, "seq: {shown}");
        assert_eq!(out.len as u32, p.len, "length: {shown}");
        if let Some(ack) = p.ack {
            assert_eq!(header.ack.wrapping_sub(self.initial.1), ack, "ack: {shown}");
        }
        if let Some(window) = p.window {
            assert_eq!(header.window, window, "window: {shown}");
        }
        if let Some(urgent) = p.urgent {
            assert_eq!(header.urgent, urgent, "urgent: {shown}");
        }
        let options = &header.options;
        assert!(p.mss.is_none() || options.mss == p.mss, "mss: {shown}");
        assert!(p.shift.is_none() || options.window_scale == p.shift, "ws: {shown}");
        assert!(p.cookie.is_none() || options.fast_open == p.cookie, "tfo: {shown}");
        assert!(!p.sack_permitted || options.sack_permitted, "sackok: {shown}");
        assert!(p.stamps.is_none() || options.timestamps == p.stamps, "ts: {shown}");
        let theirs = self.initial.1;
        let sacks: Vec<_> = options
            .sack
            .as_slice()
            .iter()
            .map(|&(a, b)| (a.wrapping_sub(theirs), b.wrapping_sub(theirs)))
            .collect();
        assert!(p.sack.is_empty() || sacks == p.sack, "sack: {shown}");
        assert!(!p.marked || out.ecn, "not ECN-capable: {shown}");
        for name in &p.none {
            let there = match name.as_str() {
                "mss" => options.mss.is_some(),
                "ws" => options.window_scale.is_some(),
                "sackok" => options.sack_permitted,
                "ts" => options.timestamps.is_some(),
                "sack" => !options.sack.as_slice().is_empty(),
                "ect" => out.ecn,
                "tfo" => options.fast_open.is_some(),
                other => panic!("no option {other}"),
            };
            assert!(!there, "{name}: {shown}");
        }
    }

    /// Does the handshake with what `set` allows.
    fn establish(&mut self, words: &[&str]) {
        let config = self.config;
        self.connection = Some(Connection::connect(&config, self.initial.0, self.now));
        self.collect();
        let mut text = "SA 0 ack 1 win 65535 mss 1460".to_owned();
        if config.sack {
            text += " sackok";
        }
        if config.window_scaling {
            text += " ws 0";
        }
        if config.timestamps {
            let stamp = self.now.millis() as u32;
            text += &format!(" ts 5000 {stamp}");
        }
        let extra = words.join(" ");
        text = format!("{text} {extra}");
        let words: Vec<&str> = text.split_whitespace().collect();
        let p = picture(&words);
        // A round trip of 100 ms.
        self.advance(self.now + Duration::from_millis(100));
        self.incoming(&p);
        self.out.clear();
    }

    fn set(&mut self, key: &str, value: &str) {
        let on = value == "on";
        let config = &mut self.config;
        match key {
            "timestamps" => config.timestamps = on,
            "sack" => config.sack = on,
            "scaling" => config.window_scaling = on,
            "mss" => {
                config.mss = number(value);
                config.path = Path { mss: number(value), ..config.path };
            }
            "whole" => config.path.whole = number(value),
            "receive" => config.receive = BufferSize { initial: number(value), most: number(value) },
            "send" => config.send = BufferSize { initial: number(value), most: number(value) },
            "ecn" => {
                config.ecn = [Ecn::Off, Ecn::Accept, Ecn::Ask]
                    [["off", "accept", "ask"].iter().position(|v| *v == value).unwrap()]
            }
            "control" => {
                config.algorithm =
                    Algorithm::ALL.into_iter().find(|a| a.name() == value).unwrap_or(Algorithm::Unlimited)
            }
            "fastopen" => config.fast_open = FastOpen::Client(cookie(value), 1460),
            "serve" => config.fast_open = FastOpen::Server(cookie(value)),
            "ours" => self.initial.0 = number(value),
            "theirs" => self.initial.1 = number(value),
            _ => {
                let settings = &mut config.settings;
                match key {
                    "nodelay" => settings.no_delay = on,
                    "cork" => settings.cork = on,
                    "quickack" => settings.quick_ack = on,
                    "blackholes" => settings.find_black_holes = on,
                    "timeout" => settings.user_timeout = Some(Duration::from_millis(number(value))),
                    "clamp" => settings.window_clamp = Some(number(value)),
                    "retries" => settings.syn_retries = number(value),
                    "fin" => settings.fin_timeout = Duration::from_millis(number(value)),
                    "keepalive" => {
                        let parts: Vec<u64> = value.split('/').map(number).collect();
                        settings.keep_alive = Some(KeepAlive {
                            idle: Duration::from_millis(parts[0]),
                            interval: Duration::from_millis(parts[1]),
                            count: parts[2] as u32,
                        });
                    }
                    other => panic!("no setting {other}"),
                }
                let settings = *settings;
                if let Some(connection) = &mut self.connection {
                    connection.set(settings);
                }
            }
        }
    }

    fn act(&mut self, verb: &str, words: &[&str]) {
        let now = self.now;
        let argument = words.first().copied().unwrap_or_default();
        match verb {
            "connect" => {
                self.connection = Some(Connection::connect(&self.config, self.initial.0, now));
            }
            "listen" => self.passive = Passive::Listener,
            "cookies" => self.passive = Passive::Cookies,
            "wait" => {
                let waits = self.connection().time_wait().unwrap();
                (self.connection, self.passive) = (None, Passive::Wait(waits));
            }
            "means" => assert_eq!(self.meaning.map(|m| format!("{m:?}")).as_deref(), Some(argument)),
            "absent" => assert!(self.connection.is_none(), "there is a connection"),
            "drain" => self.out.clear(),
            "hold" => self.holds = true,
            "release" => self.holds = false,
            "establish" => self.establish(words),
            "set" => self.set(words[0], words[1]),
            "send" | "more" | "urgent" => {
                let len: usize = number(argument);
                let data: Vec<u8> = (0..len).map(|i| ((self.written + i) % 251) as u8).collect();
                let Script { connection, pool, .. } = self;
                let connection = connection.as_mut().unwrap();
                let taken = match verb {
                    "urgent" => connection.send_urgent(&data, now, pool),
                    other => connection.send(&data, other == "more", now, pool),
                };
                let expected = words.get(1).map_or(len, |n| number(n));
                assert_eq!(taken, expected, "bytes taken");
                self.written += taken;
            }
            "recv" => {
                let len: usize = number(argument);
                let mut buf = vec![0; len.max(1) + words.get(1).map_or(0, |n| number::<usize>(n))];
                let Script { connection, pool, .. } = self;
                let got = connection.as_mut().unwrap().recv(&mut buf, now, pool);
                assert_eq!(got, len, "bytes received");
            }
            "close" => self.connection().close(now),
            "push" => self.connection().push(),
            "abort" => {
                let Script { connection, pool, .. } = self;
                connection.as_mut().unwrap().abort(pool);
            }
            "detach" => {
                let Script { connection, pool, .. } = self;
                connection.as_mut().unwrap().detach(now, pool);
            }
            "narrow" => {
                let quoted = self.initial.0.wrapping_add(number(words[1]));
                let believed = self.connection().narrow(number(argument), quoted, now);
                assert_eq!(believed, words[2] == "believed");
            }
            "fast" => {
                let told =
                    self.connection().fast_open_answer().map_or("nothing".to_owned(), |(cookie, taken)| {
                        let bytes = cookie.map_or(Vec::new(), |cookie| cookie.as_slice().to_vec());
                        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                        format!("{}{}", if taken { "taken:" } else { "refused:" }, hex)
                    });
                assert_eq!(told, argument);
            }
            "state" => assert_eq!(format!("{:?}", self.connection().state()), argument),
            "reason" => {
                let reason = self.connection().reason().map_or("none".to_owned(), |r| format!("{r:?}"));
                assert_eq!(reason, argument);
            }
            "readable" => assert_eq!(self.connection().readable(), number::<usize>(argument)),
            "over" => assert_eq!(self.connection().is_receive_over().to_string(), argument),
            "mark" => {
                let mark = self.connection().urgent_mark().map_or("none".to_owned(), |m| m.to_string());
                assert_eq!(mark, argument);
            }
            "info" => self.info(argument, words[1]),
            other => panic!("no such verb: {other}"),
        }
        self.collect();
    }

    fn info(&mut self, key: &str, value: &str) {
        let info = self.connection().info();
        let seen = match key {
            "cwnd" => info.congestion_window,
            "ssthresh" => info.threshold,
            "mss" => u64::from(info.mss.0),
            "unacked" => info.unacknowledged,
            "sacked" => info.sacked,
            "lost" => info.lost,
            "repeated" => u64::from(info.repeated),
            "timeouts" => u64::from(info.counts.timeouts),
            "recoveries" => u64::from(info.counts.recoveries),
            "probes" => u64::from(info.counts.probes),
            "undone" => u64::from(info.counts.undone),
            "rtt" => info.rtt.as_millis() as u64,
            "rto" => info.timeout.as_millis() as u64,
            "window" => info.windows.0,
            "memory" => self.pool.used() as u64,
            other => panic!("no measure {other}"),
        };
        assert_eq!(seen, number::<u64>(value), "{key}");
    }
}

/// The line of the script that runs.
static LINE: AtomicUsize = AtomicUsize::new(0);

fn run(lines: &[(usize, &str)]) {
    let mut script = Script::new();
    let mut at = script.now;
    for &(number, line) in lines {
        LINE.store(number, Ordering::Relaxed);
        let words: Vec<&str> = line.split_whitespace().collect();
        let (time, rest) = match words.first() {
            Some(first) if first.starts_with('+') => (self::number::<u64>(&first[1..]), &words[1..]),
            _ => (0, &words[..]),
        };
        at = at.max(script.now_floor()) + Duration::from_millis(time);
        match rest[0] {
            "out" => script.expect(at, &picture(&rest[1..])),
            "nothing" => {
                script.advance(at);
                script.quiet();
            }
            "in" => {
                script.advance(at);
                script.quiet();
                let stamp = script.stamp.to_string();
                let words: Vec<&str> = rest[1..]
                    .iter()
                    .map(|word| if *word == "last" { stamp.as_str() } else { word })
                    .collect();
                script.incoming(&picture(&words));
            }
            verb => {
                script.advance(at);
                let looks = ["state", "reason", "info", "readable", "over", "mark", "fast", "means", "drain"];
                if !looks.contains(&verb) {
                    script.quiet();
                }
                script.act(verb, &rest[1..]);
            }
        }
    }
    script.quiet();
}

impl Script {
    /// The time of the last line, to the millisecond.
    fn now_floor(&self) -> Instant {
        Instant::from_millis(self.now.millis())
    }
}

/// A case: its name, whether it cites something, and its lines with their numbers.
type Case<'a> = (String, bool, Vec<(usize, &'a str)>);

#[test]
fn scripts_hold() {
    let only = std::env::var("SCRIPT").unwrap_or_default();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut count, mut failed) = (0, Vec::new());
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "tcp")) {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let mut cases: Vec<Case<'_>> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap().trim();
            if let Some(case) = line.strip_prefix("case ") {
                cases.push((format!("{name}: {case}"), false, Vec::new()));
            } else if line.starts_with("cite ") {
                cases.last_mut().unwrap().1 = true;
            } else if !line.is_empty() {
                cases.last_mut().unwrap_or_else(|| panic!("{name}: no case yet")).2.push((index + 1, line));
            }
        }
        for (case, cited, lines) in cases {
            assert!(cited && !lines.is_empty(), "{case}: cites nothing or does nothing");
            if !case.contains(&only) {
                continue;
            }
            count += 1;
            if std::panic::catch_unwind(|| run(&lines)).is_err() {
                let at = LINE.load(Ordering::Relaxed);
                let line = lines.iter().find(|(number, _)| *number == at).map_or("", |(_, line)| line);
                failed.push(format!("{case}, line {at}: {line}"));
            }
        }
    }
    println!("{count} scripts");
    assert!(failed.is_empty(), "{} of {count} failed:\n{}", failed.len(), failed.join("\n"));
    assert!(count > 0, "no script");
}

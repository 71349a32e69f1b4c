//! A connection as data, to be put back later or elsewhere: numbers, windows, what was agreed, measures, and the bytes of
//! both buffers. There is no RFC; tcp(7) has the same under `TCP_REPAIR`.
//!
//! What is in flight counts as lost when the connection is put back, and what the peer has out of order is forgotten, as
//! RFC 2018 section 8 allows. Times are told by their distance from now, so that another clock may go on.

use std::time::Duration;

use crate::buffer::Pool;
use crate::config::{BufferSize, Config, KeepAlive, Path, Settings};
use crate::congestion::Algorithm;
use crate::connection::{Connection, Stamps, State};
use crate::handshake::Handshake;
use crate::seq::FIRST;
use crate::time::Instant;

/// The layout below. Another number is another layout.
const VERSION: u16 = 2;
const MAGIC: [u8; 4] = *b"NGTC";
/// Windows and buffers end here (RFC 7323 section 2.3).
const LARGEST: u64 = 1 << 30;

const STATES: [State; 10] = [
    State::SynSent,
    State::SynReceived,
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::CloseWait,
    State::Closing,
    State::LastAck,
    State::TimeWait,
    State::Closed,
];
const ALGORITHMS: [Algorithm; 4] =
    [Algorithm::Unlimited, Algorithm::NewReno, Algorithm::Cubic, Algorithm::Bbr];

/// Why data is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImportError {
    /// It was not written by [`Connection::export`], or it is cut or damaged.
    Damaged,
    /// It was written by another version.
    Version(u16),
}

impl std::fmt::Display for ImportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ImportError::Damaged => f.write_str("the data is no exported connection, or is damaged"),
            ImportError::Version(version) => {
                write!(f, "the connection was exported as version {version}, not {VERSION}")
            }
        }
    }
}

impl std::error::Error for ImportError {}

/// Writes numbers.
struct Writer(Vec<u8>);

impl Writer {
    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn all(&mut self, values: &[u64]) {
        values.iter().for_each(|value| self.u64(*value));
    }

    fn option(&mut self, value: Option<u64>) {
        self.all(&[u64::from(value.is_some()), value.unwrap_or(0)]);
    }

    fn time(&mut self, time: Duration) {
        self.u64(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Reads them.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn u64(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*first))
    }

    fn bool(&mut self) -> Option<bool> {
        match self.u64()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.u64()?).ok()
    }

    fn option(&mut self) -> Option<Option<u64>> {
        let there = self.bool()?;
        let value = self.u64()?;
        Some(there.then_some(value))
    }

    fn time(&mut self) -> Option<Duration> {
        self.u64().map(Duration::from_nanos)
    }

    /// A number that is not larger than any buffer.
    fn size(&mut self) -> Option<usize> {
        self.u64().filter(|size| *size <= LARGEST).map(|size| size as usize)
    }

    fn bytes(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(taken)
    }
}

fn before(now: Instant, age: Duration) -> Instant {
    Instant::from_nanos(now.nanos().saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)))
}

impl Connection {
    /// The connection as data, as of now. `None` before the handshake is complete and after the end, when there is nothing
    /// to keep.
    #[must_use]
    pub fn export(&self, now: Instant) -> Option<Vec<u8>> {
        if !self.is_synchronized() || self.state == State::TimeWait {
            return None;
        }
        let mut w = Writer(MAGIC.to_vec());
        w.0.extend_from_slice(&VERSION.to_be_bytes());
        w.u64(STATES.iter().position(|state| *state == self.state)? as u64);
        self.export_settings(&mut w);
        self.export_sender(&mut w);
        self.export_receiver(&mut w, now);
        Some(w.0)
    }

    fn export_settings(&self, w: &mut Writer) {
        let s = &self.settings;
        w.all(&[s.no_delay, s.cork, s.quick_ack, s.find_black_holes].map(u64::from));
        w.u64(u64::from(s.keep_alive.is_some()));
        let keep =
            s.keep_alive.unwrap_or(KeepAlive { idle: Duration::ZERO, interval: Duration::ZERO, count: 0 });
        w.time(keep.idle);
        w.time(keep.interval);
        w.u64(u64::from(keep.count));
        w.option(s.user_timeout.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)));
        w.u64(u64::from(s.syn_retries));
        w.time(s.fin_timeout);
        w.option(s.window_clamp.map(u64::from));
        w.all(&[u64::from(self.path.mss), self.path.whole as u64, u64::from(self.search.wide)]);
        let h = &self.handshake;
        w.all(&[u64::from(h.passive), u64::from(h.mss)]);
        w.all(&[
            u64::from(self.peer_mss),
            u64::from(self.ecn),
            u64::from(self.tell_mark),
            u64::from(self.orphan),
        ]);
    }

    fn export_sender(&self, w: &mut Writer) {
        let s = &self.sender;
        let algorithm = ALGORITHMS.iter().position(|a| *a == s.controller.algorithm()).unwrap_or(0);
        w.all(&[
            u64::from(s.numbers.initial),
            s.una,
            s.next,
            s.written,
            u64::from(s.finished),
            s.edge,
            s.most_window,
        ]);
        w.all(&[s.window_from.0, s.window_from.1, u64::from(s.shift), u64::from(s.selective), s.urgent]);
        w.all(&[s.window.congestion, s.window.threshold, algorithm as u64, u64::from(s.repeats)]);
        w.all(&[self.send_capacity as u64, self.send_most as u64]);
        w.u64(u64::from(s.rtt.smoothed().is_some()));
        w.time(s.smoothed());
        w.time(s.rtt.variation());
        w.time(s.rtt.least().unwrap_or_default());
        let from = s.una.max(FIRST + 1);
        let mut data = vec![0; s.written.saturating_sub(from) as usize];
        s.bytes.read(from, &mut data);
        w.0.extend_from_slice(&data);
    }

    fn export_receiver(&self, w: &mut Writer, now: Instant) {
        let r = &self.receiver;
        w.all(&[u64::from(r.numbers.initial), r.next, r.read, r.edge, u64::from(r.shift), r.capacity as u64]);
        w.all(&[
            r.tuning.most() as u64,
            r.tuning.mss as u64,
            r.acked,
            r.mss as u64,
            r.urgent,
            u64::from(r.discards),
        ]);
        w.option(r.fin);
        w.u64(u64::from(self.stamps.is_some()));
        w.u64(u64::from(self.stamps.map_or(0, |stamps| stamps.recent)));
        w.time(self.stamps.map_or(Duration::ZERO, |stamps| now.since(stamps.recent_at)));
        w.u64(u64::from(self.stamp(now)));
        w.time(now.since(self.heard));
        let mut data = vec![0; r.readable()];
        r.look(0, &mut data);
        w.0.extend_from_slice(&data);
        // A reader that discards holds no bytes.
        let ranges: Vec<(u64, u64)> = if r.discards { Vec::new() } else { r.ranges.iter().collect() };
        w.u64(ranges.len() as u64);
        for (start, end) in ranges {
            w.all(&[start, end]);
            let mut data = vec![0; (end - start) as usize];
            r.bytes.read(start, &mut data);
            w.0.extend_from_slice(&data);
        }
    }

    /// Puts a connection back. It goes on with the next [`Connection::transmit`].
    ///
    /// # Errors
    /// [`ImportError`]
    pub fn import(data: &[u8], now: Instant, pool: &mut Pool) -> Result<Self, ImportError> {
        let (magic, rest) = data.split_first_chunk::<4>().ok_or(ImportError::Damaged)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(ImportError::Damaged)?;
        let version = u16::from_be_bytes(*version);
        if *magic != MAGIC {
            return Err(ImportError::Damaged);
        }
        if version != VERSION {
            return Err(ImportError::Version(version));
        }
        let mut r = Reader(rest);
        let mut made = None;
        if Self::read(&mut r, &mut made, now, pool).is_some()
            && r.0.is_empty()
            && let Some(connection) = made.take()
        {
            return Ok(connection);
        }
        if let Some(mut connection) = made {
            connection.release(pool);
        }
        Err(ImportError::Damaged)
    }

    /// Reads all; what has memory of the pool is in `made` even if that fails.
    fn read(r: &mut Reader<'_>, made: &mut Option<Self>, now: Instant, pool: &mut Pool) -> Option<()> {
        let state = *STATES.get(r.number::<usize>()?)?;
        if matches!(state, State::SynSent | State::SynReceived | State::TimeWait | State::Closed) {
            return None;
        }
        let settings = read_settings(r)?;
        let path = Path { mss: r.number()?, whole: r.size()? };
        let wide = r.number()?;
        let (passive, mss) = (r.bool()?, r.number()?);
        let config = Config { path, mss, settings, ..Config::default() };
        let mut c = Connection::new(&config, 0, state, Handshake::new(&config, passive, now), now);
        c.handshake.wanted = false;
        c.search.wide = wide;
        (c.peer_mss, c.ecn, c.tell_mark, c.orphan) = (r.number()?, r.bool()?, r.bool()?, r.bool()?);
        let c = made.insert(c);
        c.read_sender(r, now, pool)?;
        c.read_receiver(r, now, pool)?;
        c.fit();
        c.half_closed = (state == State::FinWait2).then_some(now);
        let s = &mut c.sender;
        s.sent_at = now;
        if s.next > s.una {
            let snapshot = s.rate.sent(true, s.next - s.una, now);
            s.board.push(s.una, s.next, now, snapshot);
            s.board.lose(|_| Some(true));
        }
        s.stalled = (s.una < s.end()).then_some(now);
        s.set_timer(now);
        Some(())
    }

    fn read_sender(&mut self, r: &mut Reader<'_>, now: Instant, pool: &mut Pool) -> Option<()> {
        let s = &mut self.sender;
        s.numbers.initial = r.number()?;
        (s.una, s.next, s.written) = (r.u64()?, r.u64()?, r.u64()?);
        (s.finished, s.edge, s.most_window) = (r.bool()?, r.u64()?, r.u64()?);
        s.window_from = (r.u64()?, r.u64()?);
        s.shift = r.number::<u8>().filter(|shift| *shift <= 14)?;
        (s.selective, s.urgent) = (r.bool()?, r.u64()?);
        let (congestion, threshold) = (r.u64()?, r.u64()?);
        let algorithm = *ALGORITHMS.get(r.number::<usize>()?)?;
        s.repeats = r.number()?;
        let send = BufferSize { initial: r.size()?, most: r.size()? };
        let known = r.bool()?;
        let times = (r.time()?, r.time()?, r.time()?);
        s.rtt.restore(known.then_some(times), now);
        // Positions stay far from where they would go around.
        let ordered = FIRST < s.una && s.una <= s.next && s.next <= s.end() && s.written <= 1 << 62;
        let finished =
            matches!(self.state, State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck);
        let near = |position: u64| position <= s.written + (1 << 33);
        if !ordered || s.finished != finished || !near(s.edge) || !near(s.urgent) || s.most_window > 1 << 31 {
            return None;
        }
        s.set_algorithm(algorithm, now);
        if algorithm != Algorithm::Unlimited {
            s.window.congestion = congestion.clamp(s.window.mss, 1 << 40);
            s.window.threshold = threshold.max(s.window.mss);
        }
        let from = s.una.min(s.written);
        let data = r.bytes(s.written - from)?;
        s.bytes.restart(from);
        s.bytes.write(from, data, pool);
        s.small_end = s.next;
        (self.send_capacity, self.send_most) = (send.initial.max(1), send.most);
        Some(())
    }

    fn read_receiver(&mut self, r: &mut Reader<'_>, now: Instant, pool: &mut Pool) -> Option<()> {
        let c = &mut self.receiver;
        c.numbers.initial = r.number()?;
        (c.next, c.read, c.edge) = (r.u64()?, r.u64()?, r.u64()?);
        c.shift = r.number::<u8>().filter(|shift| *shift <= 14)?;
        c.capacity = r.size()?.max(1);
        let most = r.size()?;
        c.tuning = crate::tuning::Tuning::new(most, r.size()?, now);
        (c.acked, c.mss, c.urgent, c.discards) = (r.u64()?, r.size()?, r.u64()?, r.bool()?);
        c.fin = r.option()?;
        let stamped = r.bool()?;
        let recent: u32 = r.number()?;
        let age = r.time()?;
        let stamp: u32 = r.number()?;
        let heard = r.time()?;
        let over = c.fin.is_some_and(|fin| c.next > fin);
        let end = c.next - u64::from(over);
        let sound =
            FIRST < c.read && c.read <= end && end - c.read <= LARGEST && c.next <= c.edge.max(c.next);
        let bounded =
            c.next <= 1 << 62 && c.edge <= c.next + (1 << 31) && c.acked <= c.next && c.acked > FIRST;
        let fin = c.fin.is_none_or(|fin| fin >= end && fin <= c.edge.max(c.next));
        let closed = !matches!(self.state, State::Established | State::FinWait1 | State::FinWait2);
        if !sound || !bounded || !fin || over != closed || c.urgent > c.next + (1 << 33) {
            return None;
        }
        let data = r.bytes(end - c.read)?;
        c.bytes.restart(c.read);
        c.bytes.write(c.read, data, pool);
        let mut last = c.next;
        for _ in 0..r.size()? {
            let (start, to) = (r.u64()?, r.u64()?);
            if start <= last || to <= start || to > c.edge {
                return None;
            }
            c.bytes.write(start, r.bytes(to - start)?, pool);
            c.ranges.add(start, to).then_some(())?;
            last = to;
        }
        c.due = crate::receiver::Due::Now;
        self.stamps = stamped.then_some(Stamps { recent, recent_at: before(now, age) });
        self.stamp_offset = stamp.wrapping_sub(now.millis() as u32);
        self.heard = before(now, heard);
        Some(())
    }
}

fn read_settings(r: &mut Reader<'_>) -> Option<Settings> {
    let (no_delay, cork, quick_ack, find_black_holes) = (r.bool()?, r.bool()?, r.bool()?, r.bool()?);
    let keeps = r.bool()?;
    let keep = KeepAlive { idle: r.time()?, interval: r.time()?, count: r.number()? };
    Some(Settings {
        no_delay,
        cork,
        quick_ack,
        find_black_holes,
        keep_alive: keeps.then_some(keep),
        user_timeout: r.option()?.map(Duration::from_nanos),
        syn_retries: r.number()?,
        fin_timeout: r.time()?,
        window_clamp: r.option()?.and_then(|clamp| u32::try_from(clamp).ok()),
    })
}

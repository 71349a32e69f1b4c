//! A TCP connection: that of `netgraft-tcp`, and what Linux programs expect around it.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netgraft_plugin::data::{Fill, Take};
use netgraft_plugin::inet::{BufferSizes, TcpStatistics};
use netgraft_plugin::option::{Agreed, CongestionState, TcpInfo, TcpState};
use netgraft_plugin::{Error, Events, Handle, Instant, Received, RecvFlags, Result, SendFlags};
use netgraft_tcp::{
    Algorithm, BufferSize, Config, Connection, KeepAlive, Pool, Reason, Repair, Settings, State,
};

use crate::addr::Tuple;
use crate::argument::Argument;
use crate::iface::{NetIf, Side};
use crate::options::Options;

/// How long a neighbor that does not answer is asked: three times a second apart.
const UNRESOLVED: Duration = Duration::from_secs(3);
/// The largest buffer: windows end there (RFC 7323 section 2.3).
const LARGEST: usize = 1 << 30;

/// Time for `netgraft-tcp`.
pub(crate) fn at(now: Instant) -> netgraft_tcp::Instant {
    netgraft_tcp::Instant::from_nanos(now.nanos())
}

/// Time from `netgraft-tcp`.
pub(crate) fn from(at: netgraft_tcp::Instant) -> Instant {
    Instant::from_nanos(at.nanos())
}

/// A connection.
pub(crate) struct Conn {
    pub(crate) tcp: Connection,
    pub(crate) side: Side,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// The neighbor that its packets go to, and whether it waits for that neighbor's address.
    pub(crate) hop: Option<IpAddr>,
    pub(crate) resolving: bool,
    pub(crate) life: Life,
    /// What the program shut down.
    pub(crate) shut_read: bool,
    pub(crate) shut_write: bool,
    /// Payload bytes received, and how many of them the waiters were told of.
    pub(crate) received: u64,
    pub(crate) reported: u64,
    /// Payload bytes taken from the program.
    sent: u64,
    /// There was room in the send buffer and no memory: until something is acknowledged.
    pub(crate) starved: bool,
    /// Whether data may pass before the handshake is complete (RFC 7413), and the listener that has to know.
    pub(crate) early: Early,
    pub(crate) listener: Option<Handle>,
    /// Whether it is counted among the established.
    pub(crate) counted: bool,
    /// What its IP headers say.
    pub(crate) class: u8,
    pub(crate) hop_limit: u8,
    /// Whether routers may cut its packets.
    pub(crate) may_fragment: bool,
}

/// Data before the handshake is complete (RFC 7413).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Early {
    /// None.
    No,
    /// The SYN waits for the program's first data.
    Waits,
    /// The program has written; the SYN has what fits.
    Writes,
    /// The SYN that came had some.
    Took,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// A SYN was sent or waits for the neighbor's address.
    Connecting { unresolved: Option<Instant> },
    /// A SYN was received; or established, but accept is deferred until data comes.
    HalfOpen { since: Instant },
    /// Established, or closing.
    Open,
    /// Over. Received data can still be read.
    Ended { connected: bool },
}

/// The buffers of a new connection: receive and send.
fn buffers(options: &Options, receive: BufferSizes, send: BufferSizes) -> (BufferSize, BufferSize) {
    let size = |wanted: Option<u32>, sizes: BufferSizes| match wanted {
        Some(bytes) => {
            let bytes = (bytes.saturating_mul(2).clamp(sizes.min, sizes.max) as usize).clamp(1, LARGEST);
            BufferSize { initial: bytes, most: bytes }
        }
        None => BufferSize {
            initial: (sizes.default as usize).clamp(1, LARGEST),
            most: (sizes.max as usize).clamp(1, LARGEST),
        },
    };
    (size(options.receive_buffer, receive), size(options.send_buffer, send))
}

/// How a connection begins.
pub(crate) fn config(
    options: &Options,
    (receive, send): (BufferSizes, BufferSizes),
    (netif, side, v4): (&NetIf, Side, bool),
    (sack, argument): (bool, &Argument),
    timestamp_offset: u32,
) -> Config {
    let path = netif.tcp_path(v4, options.max_segment);
    let (mut receive, send) = buffers(options, receive, send);
    receive.initial = receive.initial.min(netif.buffer);
    receive.most = receive.most.min(netif.buffer);
    Config {
        path,
        mss: path.mss,
        receive,
        send,
        sack,
        ecn: argument.ecn,
        algorithm: algorithm(options, side),
        timestamp_offset,
        settings: Settings { find_black_holes: argument.find_black_holes, ..settings(options) },
        ..Config::default()
    }
}

fn algorithm(options: &Options, side: Side) -> Algorithm {
    match side {
        // Nothing is lost between two queues of one process: the peer's window is the only limit.
        Side::Loopback => Algorithm::Unlimited,
        Side::Link => options.congestion,
    }
}

fn settings(options: &Options) -> Settings {
    Settings {
        no_delay: options.no_delay,
        cork: options.cork,
        quick_ack: options.quick_ack == Some(true),
        keep_alive: options.keep_alive.then_some(KeepAlive {
            idle: options.keep_idle,
            interval: options.keep_interval,
            count: options.keep_count,
        }),
        user_timeout: (!options.user_timeout.is_zero()).then_some(options.user_timeout),
        syn_retries: options.syn_count,
        fin_timeout: options.fin_timeout,
        window_clamp: (options.window_clamp > 0).then_some(options.window_clamp),
        // As `tcp_mtu_probing` of 0, Linux' default; the operator may have it otherwise.
        find_black_holes: false,
    }
}

impl Conn {
    pub(crate) fn new(
        tcp: Connection,
        side: Side,
        ends: (SocketAddr, SocketAddr),
        life: Life,
        options: &Options,
    ) -> Self {
        let mut conn = Conn {
            tcp,
            side,
            local: ends.0,
            remote: ends.1,
            hop: None,
            resolving: false,
            life,
            shut_read: false,
            shut_write: false,
            received: 0,
            reported: 0,
            sent: 0,
            starved: false,
            early: Early::No,
            listener: None,
            counted: false,
            class: 0,
            hop_limit: 64,
            may_fragment: false,
        };
        conn.apply_header(options);
        conn
    }

    fn apply_header(&mut self, options: &Options) {
        let v4 = self.remote.is_ipv4();
        // The two bits of ECN are the connection's own (RFC 3168 section 5).
        self.class = options.class(v4) & !3;
        self.hop_limit = options.hop_limit(v4);
        self.may_fragment = v4 && !options.dont_fragment(false);
    }

    pub(crate) fn tuple(&self) -> Tuple {
        Tuple::new(self.local, self.remote)
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.life, Life::Ended { .. })
    }

    /// Makes changed options of the socket take effect.
    pub(crate) fn apply(&mut self, options: &Options, now: Instant) {
        self.apply_header(options);
        if !options.cork && self.tcp.settings().cork {
            self.tcp.push();
        }
        let find_black_holes = self.tcp.settings().find_black_holes;
        self.tcp.set(Settings { find_black_holes, ..settings(options) });
        self.tcp.set_algorithm(algorithm(options, self.side), at(now));
    }

    /// Largest segment that is sent.
    pub(crate) fn mss(&self) -> u16 {
        self.tcp.mss()
    }

    /// How much the program may write now.
    pub(crate) fn send_room(&self) -> usize {
        let open = self.life == Life::Open || self.may_write_early();
        if self.shut_write || !open { 0 } else { self.tcp.send_room() }
    }

    /// Bytes that were taken and not acknowledged.
    pub(crate) fn queued_out(&self) -> usize {
        self.tcp.unsent_and_unacknowledged()
    }

    /// Whether a FIN was sent, or is to be, that the peer has not acknowledged.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.tcp.state(), State::FinWait1 | State::Closing | State::LastAck)
    }

    /// Readiness as Linux' `tcp_poll` has it.
    pub(crate) fn readiness(&self, error: Option<Error>) -> Events {
        let failed = if error.is_some() { Events::ERR } else { Events::empty() };
        let (read_over, write_over) = match self.life {
            Life::Connecting { .. } if self.may_write_early() => (false, self.shut_write),
            Life::Connecting { .. } | Life::HalfOpen { .. } => return failed,
            Life::Open => (self.shut_read || self.tcp.is_receive_over(), self.shut_write),
            Life::Ended { .. } => (true, true),
        };
        let mut ready = failed;
        ready.set(Events::IN | Events::RDHUP, read_over);
        ready.set(Events::HUP, read_over && write_over);
        if self.tcp.readable() > 0 {
            ready |= Events::IN;
        }
        ready.set(Events::PRI, self.tcp.urgent_mark().is_some_and(|mark| mark <= self.tcp.readable()));
        // A third must be free, so that a writer does not wake for every segment (sk_stream_is_writeable).
        if write_over || !self.starved && self.tcp.send_room() >= self.tcp.send_capacity().div_ceil(3) {
            ready |= Events::OUT;
        }
        ready
    }

    fn may_write_early(&self) -> bool {
        matches!(self.early, Early::Waits | Early::Writes)
    }

    fn check_sending(&self) -> Result<()> {
        match self.life {
            Life::Connecting { .. } if self.may_write_early() => Ok(()),
            Life::Connecting { .. } | Life::HalfOpen { .. } => Err(Error::Again),
            Life::Ended { .. } => Err(Error::BrokenPipe),
            Life::Open if self.shut_write => Err(Error::BrokenPipe),
            Life::Open => Ok(()),
        }
    }

    /// Takes bytes that `fill` writes into the send buffer.
    pub(crate) fn send_with(&mut self, fill: &mut Fill<'_>, now: Instant, pool: &mut Pool) -> Result<usize> {
        self.check_sending()?;
        if self.tcp.send_room() == 0 {
            return Err(Error::Again);
        }
        let mut asked = false;
        let count = self.tcp.send_with(at(now), pool, &mut |pieces: &mut [IoSliceMut<'_>]| {
            asked = true;
            fill(pieces)
        });
        self.sent += count as u64;
        self.starved = !asked;
        if asked { Ok(count) } else { Err(Error::Again) }
    }

    /// Takes bytes from the program.
    pub(crate) fn send(
        &mut self,
        data: &[u8],
        flags: SendFlags,
        now: Instant,
        pool: &mut Pool,
    ) -> Result<usize> {
        self.check_sending()?;
        if data.is_empty() {
            return Ok(0);
        }
        let taken = if flags.contains(SendFlags::OUT_OF_BAND) {
            self.tcp.send_urgent(data, at(now), pool)
        } else {
            self.tcp.send(data, flags.contains(SendFlags::MORE), at(now), pool)
        };
        self.sent += taken as u64;
        self.starved = taken == 0 && self.tcp.send_room() > 0;
        if taken == 0 { Err(Error::Again) } else { Ok(taken) }
    }

    /// Whether received bytes may be given to the program; an error or `Ok(false)` if none are there, or none will come.
    fn check_receiving(&self) -> Result<bool> {
        let open = !matches!(self.life, Life::Connecting { .. } | Life::HalfOpen { .. });
        if open && self.tcp.readable() > 0 {
            return Ok(true);
        }
        match self.life {
            Life::Ended { .. } => Ok(false),
            Life::Open if self.shut_read || self.tcp.is_receive_over() => Ok(false),
            _ => Err(Error::Again),
        }
    }

    /// Shows the first bytes of the receive buffer to `take`; `Ok(None)` if none are there and none will come.
    pub(crate) fn recv_with(
        &mut self,
        take: &mut Take<'_>,
        now: Instant,
        pool: &mut Pool,
    ) -> Result<Option<usize>> {
        if !self.check_receiving()? {
            return Ok(None);
        }
        Ok(Some(self.tcp.recv_with(at(now), pool, &mut |pieces: &[IoSlice<'_>]| take(pieces))))
    }

    /// Gives bytes to the program; `Ok(None)` if none are there and none will come.
    pub(crate) fn recv(
        &mut self,
        buf: &mut [u8],
        flags: RecvFlags,
        now: Instant,
        pool: &mut Pool,
    ) -> Result<Option<Received>> {
        if !self.check_receiving()? {
            return Ok(None);
        }
        let len = if flags.contains(RecvFlags::PEEK) {
            self.tcp.peek(buf)
        } else {
            self.tcp.recv(buf, at(now), pool)
        };
        Ok(Some(Received { len, full_len: len, ..Received::default() }))
    }

    /// Ends sending: a FIN follows what is queued.
    pub(crate) fn finish(&mut self, now: Instant) {
        self.shut_write = true;
        self.tcp.close(at(now));
    }

    /// Whether the neighbor was asked for too long.
    pub(crate) fn is_unreachable(&self, now: Instant) -> bool {
        matches!(self.life, Life::Connecting { unresolved: Some(since) } if now >= since + UNRESOLVED)
    }

    /// When there is something to do next.
    pub(crate) fn deadline(&self, options: &Options) -> Option<Instant> {
        let own = match self.life {
            Life::Connecting { unresolved } => unresolved.map(|since| since + UNRESOLVED),
            // An established one waits for data no longer than it is deferred.
            Life::HalfOpen { since } if self.tcp.state() != State::SynReceived => {
                Some(since + options.defer_accept)
            }
            Life::HalfOpen { .. } | Life::Open => None,
            Life::Ended { .. } => return None,
        };
        [own, self.tcp.deadline().map(from)].into_iter().flatten().min()
    }

    /// The error that the program is told when the connection ended by itself.
    pub(crate) fn error(&self) -> Option<Error> {
        match (self.tcp.reason()?, self.life) {
            (Reason::Refused, _) | (Reason::Reset, Life::Connecting { .. }) => Some(Error::ConnectionRefused),
            (Reason::Reset, _) => Some(Error::ConnectionReset),
            (Reason::TimedOut, _) => Some(Error::TimedOut),
            (Reason::Aborted, _) => None,
        }
    }

    /// What is known of the connection.
    pub(crate) fn info(&self) -> TcpInfo {
        let info = self.tcp.info();
        let bytes = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        TcpInfo {
            state: if self.has_ended() { TcpState::Closed } else { state(info.state) },
            rtt: info.rtt,
            rtt_variance: info.rtt_variation,
            rto: info.timeout,
            send_mss: u32::from(info.mss.0),
            receive_mss: u32::from(info.mss.1),
            congestion_window: bytes(info.congestion_window),
            slow_start_threshold: bytes(info.threshold),
            unacknowledged: bytes(info.unacknowledged),
            selectively_acknowledged: bytes(info.sacked),
            lost: bytes(info.lost),
            not_sent: bytes(info.unsent),
            least_rtt: info.rtt_least,
            delivery_rate: info.delivery_rate,
            pacing_rate: info.pacing_rate.unwrap_or(u64::MAX),
            congestion_state: match info.phase {
                Repair::Nothing => CongestionState::Open,
                Repair::Disorder => CongestionState::Disorder,
                Repair::Reduced => CongestionState::Reduced,
                Repair::Recovery => CongestionState::Recovery,
                Repair::Loss => CongestionState::Loss,
            },
            agreed: Agreed {
                timestamps: info.timestamps,
                sack: info.sack,
                window_scales: info.scaled.then_some(info.scales),
                ecn: info.ecn,
                fast_open: self.tcp.used_fast_open(),
            },
            backoff: u8::try_from(info.backoff).unwrap_or(u8::MAX),
            retransmits: info.repeated,
            send_window: bytes(info.windows.0),
            receive_window: bytes(info.windows.1),
            bytes_sent: self.sent,
            bytes_received: self.received,
            bytes_retransmitted: info.repeated_bytes,
        }
    }
}

/// Adds what has happened to a connection to the counters of the stack.
pub(crate) fn count(conn: &Conn, stats: &mut TcpStatistics) {
    let info = conn.tcp.info();
    let counts = info.counts;
    let recoveries = if info.sack { &mut stats.sack_recoveries } else { &mut stats.reno_recoveries };
    *recoveries += u64::from(counts.recoveries);
    stats.retransmitted += u64::from(info.repeated);
    stats.timeouts += u64::from(counts.timeouts);
    stats.spurious_timeouts += u64::from(counts.spurious_timeouts);
    stats.loss_probes += u64::from(counts.probes);
    stats.undone += u64::from(counts.undone);
    stats.duplicates_reported += u64::from(counts.duplicates);
    stats.out_of_order += u64::from(counts.out_of_order);
    stats.challenges += u64::from(counts.challenges);
    stats.timed_out += u64::from(conn.tcp.reason() == Some(Reason::TimedOut));
}

fn state(state: State) -> TcpState {
    match state {
        State::Closed => TcpState::Closed,
        State::SynSent => TcpState::SynSent,
        State::SynReceived => TcpState::SynReceived,
        State::Established => TcpState::Established,
        State::FinWait1 => TcpState::FinWait1,
        State::FinWait2 => TcpState::FinWait2,
        State::CloseWait => TcpState::CloseWait,
        State::Closing => TcpState::Closing,
        State::LastAck => TcpState::LastAck,
        State::TimeWait => TcpState::TimeWait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_has_less_than_two_kibibytes() {
        let size = size_of::<Conn>() + size_of::<crate::sock::Sock>();
        assert!((1..2048).contains(&size), "{size}");
    }
}

//! A TCP connection: smoltcp's socket and what Linux programs expect around it.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::time::Duration;

use netgraft_plugin::data::{Fill, Take};
use netgraft_plugin::inet::BufferSizes;
use netgraft_plugin::option::{TcpInfo, TcpState};
use netgraft_plugin::{Error, Events, Instant, Received, RecvFlags, Result, SendFlags};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, State};

use crate::addr::Tuple;
use crate::device::Edit;
use crate::iface::{NetIf, Side};
use crate::meter::Meter;
use crate::options::{Congestion, Options};

/// How long unsent bytes of a corked connection wait at most (tcp(7), `TCP_CORK`).
const CORK_CEILING: Duration = Duration::from_millis(200);
/// How long data may stay unacknowledged: `tcp_retries2` of 15 (ip-sysctl).
const STALL: Duration = Duration::from_secs(924);
/// How long an answered SYN waits for its acknowledgement: `tcp_synack_retries` of 5.
const HALF_OPEN: Duration = Duration::from_secs(63);
/// How long a neighbor that does not answer is asked: three times a second apart.
const UNRESOLVED: Duration = Duration::from_secs(3);

/// A connection.
pub(crate) struct Conn {
    pub(crate) set: SocketSet<'static>,
    pub(crate) inner: SocketHandle,
    pub(crate) side: Side,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) life: Life,
    /// What the program shut down.
    pub(crate) shut_read: bool,
    pub(crate) shut_write: bool,
    /// Bytes held back by `TCP_CORK` or `MSG_MORE`, and until when.
    cork: Vec<u8>,
    cork_until: Option<Instant>,
    /// The peer's largest segment and window shift, from its SYN.
    pub(crate) peer_mss: u16,
    pub(crate) peer_shift: u8,
    /// The largest segment that the path carries, as far as routers have said.
    pub(crate) path_mss: u16,
    /// The peer's window in the last segment, in bytes.
    pub(crate) peer_window: u32,
    /// When the peer was last heard of.
    pub(crate) heard: Instant,
    /// Since when nothing more was acknowledged though something is outstanding.
    stalled: Option<Instant>,
    /// Bytes in the send buffer when that was looked at.
    outstanding: usize,
    /// Payload bytes received, and how many of them the waiters were told of.
    pub(crate) received: u64,
    pub(crate) told: u64,
    /// Payload bytes taken from the program.
    sent: u64,
    pub(crate) meter: Meter,
    /// The next sequence numbers of both sides, for TIME-WAIT.
    pub(crate) next: (u32, u32),
    /// Whether a segment has left, so that the neighbor's address is known.
    pub(crate) spoke: bool,
    /// Whether it is counted among the established.
    pub(crate) counted: bool,
    /// What must be changed in its packets.
    pub(crate) edit: Edit,
    /// Size of the two buffers, and what the program limited the send buffer to.
    pub(crate) buffers: (usize, usize),
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// A SYN was sent or waits for the neighbor's address.
    Connecting { since: Instant, unresolved: Option<Instant> },
    /// A SYN was received; or established, but accept is deferred until data comes.
    HalfOpen { since: Instant },
    /// Established, or closing.
    Open,
    /// Over. Received data can still be read.
    Ended { connected: bool },
}

/// What a timer found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on.
    Live,
    /// Give the connection up for this reason, without a word to the peer.
    Silent(Error),
    /// Reset it, for this reason.
    Reset(Error),
}

/// The buffer sizes of a new connection.
pub(crate) fn buffer_sizes(options: &Options, receive: BufferSizes, send: BufferSizes) -> (usize, usize) {
    let size = |wanted: Option<u32>, sizes: BufferSizes| {
        let bytes = wanted.map_or(sizes.default, |w| w.saturating_mul(2).clamp(sizes.min, sizes.max));
        // smoltcp's window arithmetic ends at 1 GiB.
        (bytes as usize).clamp(1, 1 << 30)
    };
    let most = receive.max as usize;
    (receive_capacity(size(options.receive_buffer, receive), most), size(options.send_buffer, send))
}

/// The capacity of a receive buffer for `size` bytes, of at most `most` where that has a choice.
///
/// The answer to a SYN offers up to 65,535 bytes, unscaled. smoltcp 0.14 scales what it remembers of it, and until
/// its next acknowledgement takes data up to there: what lies beyond the buffer would be lost but counted, and
/// could end in a panic. At one less than a power of two the scaled offer is within the buffer.
fn receive_capacity(size: usize, most: usize) -> usize {
    match size.next_power_of_two() {
        _ if size <= 65_535 => size,
        power if power - 1 > most => power / 2 - 1,
        power => power - 1,
    }
}

impl Conn {
    pub(crate) fn new(
        socket: (SocketSet<'static>, SocketHandle),
        buffers: (usize, usize),
        side: Side,
        ends: (SocketAddr, SocketAddr),
        life: Life,
        now: Instant,
    ) -> Self {
        Conn {
            set: socket.0,
            inner: socket.1,
            side,
            local: ends.0,
            remote: ends.1,
            life,
            shut_read: false,
            shut_write: false,
            cork: Vec::new(),
            cork_until: None,
            peer_mss: 536,
            peer_shift: 0,
            path_mss: u16::MAX,
            peer_window: 0,
            heard: now,
            stalled: None,
            outstanding: 0,
            received: 0,
            told: 0,
            sent: 0,
            meter: Meter::default(),
            next: (0, 0),
            spoke: false,
            counted: false,
            edit: Edit::default(),
            buffers,
        }
    }

    pub(crate) fn socket(&self) -> &Socket<'static> {
        self.set.get(self.inner)
    }

    pub(crate) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.inner)
    }

    pub(crate) fn tuple(&self) -> Tuple {
        Tuple::new(self.local, self.remote)
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.life, Life::Ended { .. })
    }

    /// Applies the socket's options to smoltcp's socket.
    pub(crate) fn apply(&mut self, options: &Options, netif: &NetIf) {
        let v4 = self.remote.is_ipv4();
        self.edit = netif.edit(v4, options.class(v4), options.max_segment, self.peer_mss.min(self.path_mss));
        self.edit.may_fragment = v4 && !options.dont_fragment(false);
        let hop_limit = options.hop_limit(v4);
        let socket = self.socket_mut();
        socket.set_nagle_enabled(!options.no_delay);
        let delay = (!options.quick_ack).then_some(smoltcp::time::Duration::from_millis(10));
        socket.set_ack_delay(delay);
        socket.set_hop_limit(Some(hop_limit));
        let congestion = match (self.side, options.congestion) {
            // Nothing is lost between two queues of one process: the peer's window is the only limit.
            (Side::Loopback, _) => CongestionControl::None,
            (Side::Link, Congestion::Cubic) => CongestionControl::Cubic,
            (Side::Link, Congestion::Reno) => CongestionControl::Reno,
        };
        let socket = self.socket_mut();
        if socket.congestion_control() != congestion || !socket.is_active() {
            socket.set_congestion_control(congestion);
        }
    }

    /// Largest segment that is sent.
    pub(crate) fn mss(&self, mtu: usize) -> usize {
        let headers = if self.remote.is_ipv4() { 40 } else { 60 };
        mtu.saturating_sub(headers).min(usize::from(self.peer_mss.min(self.path_mss))).max(1)
    }

    fn room(&self) -> usize {
        let queued = self.socket().send_queue() + self.cork.len();
        self.buffers.1.saturating_sub(queued)
    }

    /// How much the program may write now.
    pub(crate) fn send_room(&self) -> usize {
        if self.shut_write || self.life != Life::Open { 0 } else { self.room() }
    }

    /// Bytes that were taken and not acknowledged.
    pub(crate) fn queued_out(&self) -> usize {
        self.socket().send_queue() + self.cork.len()
    }

    /// Whether a FIN was sent, or is to be, that the peer has not acknowledged.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.socket().state(), State::FinWait1 | State::Closing | State::LastAck)
    }

    /// Whether the peer has sent its FIN.
    fn peer_closed(&self) -> bool {
        matches!(self.socket().state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait)
    }

    /// Readiness as Linux' `tcp_poll` has it.
    pub(crate) fn readiness(&self, error: Option<Error>) -> Events {
        let failed = if error.is_some() { Events::ERR } else { Events::empty() };
        let (read_over, write_over) = match self.life {
            Life::Connecting { .. } | Life::HalfOpen { .. } => return failed,
            Life::Open => (self.shut_read || self.peer_closed(), self.shut_write),
            Life::Ended { .. } => (true, true),
        };
        let mut ready = failed;
        ready.set(Events::IN | Events::RDHUP, read_over);
        ready.set(Events::HUP, read_over && write_over);
        if self.socket().can_recv() {
            ready |= Events::IN;
        }
        // A third must be free, so that a writer does not wake for every segment (sk_stream_is_writeable).
        if write_over || self.room() * 3 >= self.buffers.1 {
            ready |= Events::OUT;
        }
        ready
    }

    fn check_sending(&self) -> Result<()> {
        match self.life {
            Life::Connecting { .. } | Life::HalfOpen { .. } => Err(Error::Again),
            Life::Ended { .. } => Err(Error::BrokenPipe),
            Life::Open if self.shut_write => Err(Error::BrokenPipe),
            Life::Open => Ok(()),
        }
    }

    /// Whether bytes wait in a buffer beside that of smoltcp, behind which others have to wait.
    pub(crate) fn holds_back(&self) -> bool {
        !self.cork.is_empty()
    }

    /// Takes bytes that `fill` writes into the send buffer.
    pub(crate) fn send_with(&mut self, fill: &mut Fill<'_>) -> Result<usize> {
        self.check_sending()?;
        let room = self.room();
        let socket = self.socket_mut();
        if room == 0 || !socket.can_send() {
            return if socket.may_send() { Err(Error::Again) } else { Err(Error::BrokenPipe) };
        }
        let write = |free: &mut [u8]| {
            let most = room.min(free.len());
            let count = fill(&mut [IoSliceMut::new(&mut free[..most])]).min(most);
            (count, count)
        };
        let count = socket.send(write).map_err(|_| Error::BrokenPipe)?;
        self.sent += count as u64;
        Ok(count)
    }

    /// Shows the first bytes of the receive buffer to `take`; `Ok(None)` if none are there and none will come.
    pub(crate) fn recv_with(&mut self, take: &mut Take<'_>) -> Result<Option<usize>> {
        let open = !matches!(self.life, Life::Connecting { .. } | Life::HalfOpen { .. });
        if !self.socket().can_recv() || !open {
            // What is to be said of an empty buffer.
            return self.recv(&mut [], RecvFlags::PEEK).map(|_| None);
        }
        let read = |bytes: &mut [u8]| {
            let count = take(&[IoSlice::new(bytes)]).min(bytes.len());
            (count, count)
        };
        self.socket_mut().recv(read).map(Some).map_err(|_| Error::Io)
    }

    /// Takes bytes from the program.
    pub(crate) fn send(
        &mut self,
        data: &[u8],
        flags: SendFlags,
        corked: bool,
        mtu: usize,
        now: Instant,
    ) -> Result<usize> {
        self.check_sending()?;
        let room = self.room().min(data.len());
        if room == 0 {
            return if data.is_empty() { Ok(0) } else { Err(Error::Again) };
        }
        let hold = corked || flags.contains(SendFlags::MORE);
        if !hold && self.cork.is_empty() {
            let taken = self.socket_mut().send_slice(&data[..room]).map_err(|_| Error::BrokenPipe)?;
            self.sent += taken as u64;
            return Ok(taken);
        }
        self.cork.extend_from_slice(&data[..room]);
        self.sent += room as u64;
        if !hold {
            self.uncork();
        } else {
            let mss = self.mss(mtu);
            let whole = self.cork.len() / mss * mss;
            if whole > 0 {
                self.release(whole);
                self.cork_until = None;
            }
            if !self.cork.is_empty() {
                self.cork_until.get_or_insert(now + CORK_CEILING);
            }
        }
        Ok(room)
    }

    fn release(&mut self, count: usize) {
        let socket = self.set.get_mut::<Socket<'static>>(self.inner);
        let taken = socket.send_slice(&self.cork[..count]).unwrap_or(0);
        self.cork.drain(..taken);
    }

    /// Sends what was held back.
    pub(crate) fn uncork(&mut self) {
        self.release(self.cork.len());
        self.cork_until = None;
    }

    /// Gives bytes to the program; `Ok(None)` if none are there and none will come.
    pub(crate) fn recv(&mut self, buf: &mut [u8], flags: RecvFlags) -> Result<Option<Received>> {
        let socket = self.set.get_mut::<Socket<'static>>(self.inner);
        let open = !matches!(self.life, Life::Connecting { .. } | Life::HalfOpen { .. });
        if socket.can_recv() && open {
            let len =
                if flags.contains(RecvFlags::PEEK) { socket.peek_slice(buf) } else { socket.recv_slice(buf) };
            let len = len.unwrap_or(0);
            return Ok(Some(Received { len, full_len: len, ..Received::default() }));
        }
        match self.life {
            Life::Ended { .. } => Ok(None),
            Life::Open if self.shut_read || self.peer_closed() => Ok(None),
            _ => Err(Error::Again),
        }
    }

    /// Whether a read of the receive buffer, which held `before` bytes, may have to be told to the peer: only if
    /// the window can have doubled since.
    pub(crate) fn window_grew(&self, before: usize) -> bool {
        !self.has_ended() && before * 2 >= self.buffers.0
    }

    /// Ends sending: a FIN follows what is queued.
    pub(crate) fn finish(&mut self) {
        self.uncork();
        self.shut_write = true;
        self.socket_mut().close();
    }

    /// Notes a segment that smoltcp has sent.
    pub(crate) fn has_sent(&mut self, (seq, len): (u32, u32), now: Instant) {
        let open = matches!(self.life, Life::Open);
        // What repeats a byte though nothing is outstanding asks whether the peer is there; what repeats one into
        // a closed window asks whether it is open.
        let probe = open && (self.outstanding == 0 || self.peer_window == 0);
        self.meter.sent(seq, len, probe, now);
    }

    /// Notes what has become of the bytes sent; called after every packet and every egress.
    pub(crate) fn observe(&mut self, now: Instant) {
        let socket = self.socket();
        let fin = matches!(socket.state(), State::FinWait1 | State::Closing | State::LastAck);
        let outstanding = socket.send_queue() + usize::from(fin);
        self.stalled = match self.stalled {
            _ if outstanding == 0 => None,
            Some(since) if outstanding >= self.outstanding => Some(since),
            _ => Some(now),
        };
        self.outstanding = outstanding;
    }

    fn connect_limit(options: &Options) -> Duration {
        let by_count = Duration::from_secs((1u64 << (options.syn_count + 1).min(32)) - 1);
        match options.user_timeout {
            Duration::ZERO => by_count,
            user => user.min(by_count),
        }
    }

    /// When data that is not acknowledged ends the connection.
    fn stall_limit(&self, options: &Options) -> Option<Instant> {
        let since = self.stalled?;
        Some(match options.user_timeout {
            // A peer that answers probes of its closed window is alive.
            Duration::ZERO => since.max(self.heard) + STALL,
            user => since + user,
        })
    }

    fn keep_alive_limit(&self, options: &Options) -> Option<(Instant, Instant)> {
        let open = self.life == Life::Open && self.stalled.is_none();
        if !options.keep_alive || !open {
            return None;
        }
        let begin = self.heard + options.keep_idle;
        let end = match options.user_timeout {
            Duration::ZERO => begin + options.keep_interval * options.keep_count,
            user => begin.max(self.heard + user),
        };
        Some((begin, end))
    }

    /// Looks at the timers that smoltcp does not have, and acts on those that are due.
    pub(crate) fn check(&mut self, options: &Options, orphan: bool, now: Instant) -> Verdict {
        match self.life {
            Life::Connecting { unresolved: Some(since), .. } if now >= since + UNRESOLVED => {
                return Verdict::Silent(Error::HostUnreachable);
            }
            Life::Connecting { since, .. } if now >= since + Self::connect_limit(options) => {
                return Verdict::Silent(Error::TimedOut);
            }
            Life::HalfOpen { since } if now >= since + HALF_OPEN + options.defer_accept => {
                return Verdict::Silent(Error::TimedOut);
            }
            Life::Open => {}
            _ => return Verdict::Live,
        }
        if self.stall_limit(options).is_some_and(|at| now >= at) {
            return Verdict::Reset(Error::TimedOut);
        }
        if orphan && self.fin_wait_limit(options).is_some_and(|at| now >= at) {
            return Verdict::Silent(Error::TimedOut);
        }
        if let Some((begin, end)) = self.keep_alive_limit(options) {
            if now >= end {
                return Verdict::Reset(Error::TimedOut);
            }
            let interval = (now >= begin).then(|| smol_duration(options.keep_interval));
            if self.socket().keep_alive() != interval {
                self.socket_mut().set_keep_alive(interval);
            }
        } else if self.socket().keep_alive().is_some() {
            self.socket_mut().set_keep_alive(None);
        }
        if self.cork_until.is_some_and(|at| now >= at) {
            self.uncork();
        }
        Verdict::Live
    }

    fn fin_wait_limit(&self, options: &Options) -> Option<Instant> {
        (self.socket().state() == State::FinWait2).then(|| self.heard + options.fin_timeout)
    }

    /// When [`Conn::check`] has something to do next.
    pub(crate) fn deadline(&self, options: &Options, orphan: bool) -> Option<Instant> {
        match self.life {
            Life::Connecting { since, unresolved } => {
                let limit = since + Self::connect_limit(options);
                Some(unresolved.map_or(limit, |u| limit.min(u + UNRESOLVED)))
            }
            // An established one waits for data no longer than it is deferred.
            Life::HalfOpen { since } if self.socket().state() == State::Established => {
                Some(since + options.defer_accept)
            }
            Life::HalfOpen { since } => Some(since + HALF_OPEN + options.defer_accept),
            Life::Ended { .. } => None,
            Life::Open => {
                let keep = self
                    .keep_alive_limit(options)
                    .map(|(begin, end)| if self.socket().keep_alive().is_some() { end } else { begin });
                let fin = if orphan { self.fin_wait_limit(options) } else { None };
                [self.stall_limit(options), keep, fin, self.cork_until].into_iter().flatten().min()
            }
        }
    }

    /// What is known of the connection.
    pub(crate) fn info(&self, mtu: usize) -> TcpInfo {
        let socket = self.socket();
        let mss = self.mss(mtu) as u32;
        let (rtt, rtt_variance, rto) = self.meter.times();
        TcpInfo {
            rtt,
            rtt_variance,
            rto,
            retransmits: self.meter.repeated,
            state: if self.has_ended() { TcpState::Closed } else { state(socket.state()) },
            send_mss: mss,
            receive_mss: mss,
            unacknowledged: socket.send_queue() as u32,
            send_window: self.peer_window,
            receive_window: (socket.recv_capacity() - socket.recv_queue()) as u32,
            bytes_sent: self.sent,
            bytes_received: self.received,
            ..TcpInfo::default()
        }
    }
}

fn state(state: State) -> TcpState {
    match state {
        State::Closed => TcpState::Closed,
        State::Listen => TcpState::Listen,
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

fn smol_duration(duration: Duration) -> smoltcp::time::Duration {
    smoltcp::time::Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offer_of_a_syn_fits_into_the_buffer_when_it_is_scaled() {
        let most = 6 << 20;
        for size in (1..=most).step_by(4099).chain([65_535, 65_536, 262_144, 1 << 22, most]) {
            let capacity = receive_capacity(size, most);
            // As smoltcp has it: the least shift at which 16 bits tell the capacity.
            let shift = (usize::BITS - capacity.leading_zeros()).saturating_sub(16);
            assert!(capacity.min(65_535) << shift <= capacity, "{size} {capacity}");
            assert!(capacity <= most && capacity * 2 >= size, "{size} {capacity}");
        }
        assert_eq!([262_144, 100_000, 4096].map(|s| receive_capacity(s, most)), [262_143, 131_071, 4096]);
    }
}

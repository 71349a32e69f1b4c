//! A connection: its state and the calls of its user. Read RFC 9293 sections 3.3.2 (states), 3.6 (closing) and 3.9.1
//! (user commands) first.

use std::io::{IoSlice, IoSliceMut};
use std::time::Duration;

use crate::buffer::Pool;
use crate::config::{Config, Path, Settings};
use crate::congestion::Algorithm;
use crate::handshake::Handshake;
use crate::options::Options;
use crate::pmtu::Search;
use crate::receiver::Receiver;
use crate::segment::{Flags, Header};
use crate::sender::Sender;
use crate::seq::FIRST;
use crate::time::Instant;

/// Bytes that each direction of a connection may have, however little memory there is (the first of `tcp_wmem` and
/// `tcp_rmem`, tcp(7)).
pub(crate) const ALWAYS: usize = 4096;

/// After so long without a segment a connection is idle: a time-out that began with the last segment has passed.
const REST: Duration = Duration::from_millis(150);

/// The states of RFC 9293 section 3.3.2, without LISTEN, in which there is no connection yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the RFC's names")]
pub enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// Why a connection ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The peer refused it.
    Refused,
    /// The peer reset it.
    Reset,
    /// The peer was silent for too long.
    TimedOut,
    /// Its user gave it up.
    Aborted,
}

/// What a segment brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Bytes that can be read and could not before.
    pub received: usize,
    /// Bytes of the send buffer that are free and were not before.
    pub freed: usize,
    /// Whether the end of the peer's data is newly known.
    pub finished: bool,
    /// Whether urgent data is newly known to come.
    pub urgent: bool,
}

/// The timestamps of a connection that has them (RFC 7323 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamps {
    /// "TS.Recent", and when it was set.
    pub(crate) recent: u32,
    pub(crate) recent_at: Instant,
}

/// A question to the peer that carries no data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Questions {
    /// One is to be sent now.
    pub(crate) wanted: bool,
    /// Keep-alive questions without an answer.
    pub(crate) unanswered: u32,
    /// When the last of them was sent.
    pub(crate) asked: Instant,
}

/// A connection.
///
/// Give it each segment with [`Connection::input`], and its time with [`Connection::on_time`] when
/// [`Connection::deadline`] has come. After either, and after each call of its user, take what it has to send with
/// [`Connection::transmit`] until there is nothing more. Memory for data comes from a [`Pool`] of the caller's; when the
/// connection is dropped, give its memory back with [`Connection::release`] before.
#[derive(Debug)]
pub struct Connection {
    pub(crate) state: State,
    pub(crate) reason: Option<Reason>,
    pub(crate) settings: Settings,
    pub(crate) path: Path,
    pub(crate) search: Search,
    pub(crate) handshake: Handshake,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    /// Bytes that the send buffer holds, and that it grows to.
    pub(crate) send_capacity: usize,
    pub(crate) send_most: usize,
    pub(crate) stamps: Option<Stamps>,
    pub(crate) stamp_offset: u32,
    /// The largest payload that the peer takes, as its SYN says.
    pub(crate) peer_mss: u16,
    /// Whether both ends use ECN; a mark that is to be told until the peer says that it knows (RFC 3168 section 6.1.3).
    pub(crate) ecn: bool,
    pub(crate) tell_mark: bool,
    /// An answer that leaves before anything else: a reset, or an acknowledgement out of turn.
    pub(crate) reply: Option<Box<Header>>,
    /// When the last segment out of the window was answered.
    pub(crate) challenged: Option<Instant>,
    pub(crate) questions: Questions,
    /// When the peer was last heard of.
    pub(crate) heard: Instant,
    /// More follows at once, says the user: a small segment waits. Since when one does.
    pub(crate) more: bool,
    pub(crate) held: Option<Instant>,
    /// The position up to which nothing is held back any more.
    pub(crate) released: u64,
    /// Whether nobody reads any more.
    pub(crate) orphan: bool,
    /// Since when it is in FIN-WAIT-2.
    pub(crate) half_closed: Option<Instant>,
}

impl Connection {
    pub(crate) fn new(
        config: &Config,
        initial: u32,
        state: State,
        handshake: Handshake,
        now: Instant,
    ) -> Self {
        let mss = u64::from(config.path.mss.min(config.mss)).max(1);
        let receiver = Receiver::new(
            config.receive.initial.clamp(1, 1 << 30),
            crate::tuning::Tuning::new(config.receive.most.min(1 << 30), usize::from(config.mss), now),
            0,
        );
        let mut connection = Connection {
            state,
            reason: None,
            settings: config.settings,
            path: config.path,
            search: Search::new(config.path.mss),
            handshake,
            sender: Sender::new(initial, config.algorithm, mss, now),
            receiver,
            send_capacity: config.send.initial.max(1),
            send_most: config.send.most,
            stamps: None,
            stamp_offset: config.timestamp_offset,
            peer_mss: u16::MAX,
            ecn: false,
            tell_mark: false,
            reply: None,
            challenged: None,
            questions: Questions::default(),
            heard: now,
            more: false,
            held: None,
            released: FIRST,
            orphan: false,
            half_closed: None,
        };
        connection.receiver.at_once = config.settings.quick_ack;
        connection.receiver.clamp = config.settings.largest_window();
        connection
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it ended, if it ended before its time.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// Whether data may be sent or received: the handshake is complete, and the end has not come.
    #[must_use]
    pub fn is_synchronized(&self) -> bool {
        !matches!(self.state, State::SynSent | State::SynReceived | State::Closed)
    }

    /// Ends the connection.
    pub(crate) fn end(&mut self, reason: Option<Reason>) {
        if self.state != State::Closed {
            self.state = State::Closed;
            self.reason = reason;
        }
        self.sender.timer = crate::sender::Timer::Off;
        self.receiver.due = crate::receiver::Due::Nothing;
        self.questions.wanted = false;
        self.held = None;
    }

    /// Our timestamp of a time (RFC 7323 section 5.4: a clock of 1 ms).
    pub(crate) fn stamp(&self, at: Instant) -> u32 {
        (at.millis() as u32).wrapping_add(self.stamp_offset)
    }

    /// Takes bytes to send, as many as there is room for. `more` says that more follows at once (`MSG_MORE`, send(2)).
    /// 0 if the sending half is closed.
    pub fn send(&mut self, data: &[u8], more: bool, now: Instant, pool: &mut Pool) -> usize {
        let len = self.send_room().min(self.memory_left(pool)).min(data.len());
        if len == 0 {
            return 0;
        }
        self.sender.bytes.write(self.sender.written, &data[..len], pool);
        self.more = more;
        self.has_written(len, now);
        len
    }

    /// Takes bytes that `fill` writes into the send buffer; it answers how many. It is not called if there is no room.
    pub fn send_with(
        &mut self,
        now: Instant,
        pool: &mut Pool,
        fill: &mut dyn FnMut(&mut [IoSliceMut<'_>]) -> usize,
    ) -> usize {
        let room = self.send_room().min(self.memory_left(pool));
        if room == 0 {
            return 0;
        }
        let len = self.sender.bytes.fill(self.sender.written, room, pool, fill);
        if len > 0 {
            self.more = false;
            self.has_written(len, now);
        }
        len
    }

    /// For how many bytes to send there is memory. What is on its way frees some when it is acknowledged, so a connection
    /// with less than [`ALWAYS`] may go on.
    fn memory_left(&self, pool: &Pool) -> usize {
        pool.left().max(ALWAYS.saturating_sub(self.unsent_and_unacknowledged()))
    }

    fn has_written(&mut self, len: usize, now: Instant) {
        self.sender.written += len as u64;
        if self.is_synchronized() {
            self.sender.stalled.get_or_insert(now);
        }
    }

    /// Takes urgent bytes to send: the last of them is where the urgent data ends (RFC 9293 section 3.8.5), if there is room
    /// for all.
    pub fn send_urgent(&mut self, data: &[u8], now: Instant, pool: &mut Pool) -> usize {
        let len = self.send(data, false, now, pool);
        if len > 0 && len == data.len() {
            self.sender.urgent = self.sender.written;
        }
        len
    }

    /// How many bytes [`Connection::send`] would take.
    #[must_use]
    pub fn send_room(&self) -> usize {
        if self.sender.finished || self.state == State::Closed {
            return 0;
        }
        self.send_capacity.saturating_sub(self.unsent_and_unacknowledged())
    }

    /// Bytes that were taken and are not acknowledged (`SIOCOUTQ`, tcp(7)).
    #[must_use]
    pub fn unsent_and_unacknowledged(&self) -> usize {
        self.sender.written.saturating_sub(self.sender.una.max(FIRST + 1)) as usize
    }

    /// Bytes that were taken and not sent (`SIOCOUTQNSD`, tcp(7)).
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.sender.written.saturating_sub(self.sender.next.max(FIRST + 1)) as usize
    }

    /// Bytes that the send buffer holds.
    #[must_use]
    pub fn send_capacity(&self) -> usize {
        self.send_capacity
    }

    /// Sets the size of the send buffer; it stays.
    pub fn set_send_capacity(&mut self, bytes: usize) {
        self.send_capacity = bytes.max(1);
        self.send_most = 0;
    }

    /// Bytes that the receive buffer holds.
    #[must_use]
    pub fn receive_capacity(&self) -> usize {
        self.receiver.capacity
    }

    /// Sets the size of the receive buffer; it stays. What was offered to the peer still holds.
    pub fn set_receive_capacity(&mut self, bytes: usize) {
        self.receiver.capacity = bytes.clamp(1, 1 << 30);
        self.receiver.tuning.fix();
    }

    /// The send buffer grows to what the path takes: twice the congestion window, so that there is always something to
    /// send while a window is on its way (`tcp_wmem`, tcp(7)).
    pub(crate) fn grow_send_buffer(&mut self, pool: &Pool) {
        if pool.is_short() {
            return;
        }
        let wanted = usize::try_from(self.sender.window.congestion.saturating_mul(2)).unwrap_or(usize::MAX);
        let wanted = wanted.min(self.send_most);
        if wanted > self.send_capacity && self.sender.controller.algorithm() != Algorithm::Unlimited {
            self.send_capacity = wanted;
        }
    }

    /// Bytes that can be read.
    #[must_use]
    pub fn readable(&self) -> usize {
        self.receiver.readable()
    }

    /// Copies received bytes and leaves them where they are.
    pub fn peek(&self, buf: &mut [u8]) -> usize {
        self.receiver.look(0, buf)
    }

    /// Takes received bytes.
    pub fn recv(&mut self, buf: &mut [u8], now: Instant, pool: &mut Pool) -> usize {
        let len = self.receiver.look(0, buf);
        self.has_read(len, now, pool);
        len
    }

    /// Shows received bytes to `take`, which answers how many it took. It is not called if there are none.
    pub fn recv_with(
        &mut self,
        now: Instant,
        pool: &mut Pool,
        take: &mut dyn FnMut(&[IoSlice<'_>]) -> usize,
    ) -> usize {
        let len = self.receiver.show(take);
        self.has_read(len, now, pool);
        len
    }

    fn has_read(&mut self, len: usize, now: Instant, pool: &mut Pool) {
        if len > 0 {
            self.receiver.consume(len, self.sender.rtt.least(), now, pool);
            if self.state == State::Closed {
                self.receiver.due = crate::receiver::Due::Nothing;
            }
        }
    }

    /// Whether an acknowledgement is to leave now, such as one that opens the window after the program has read.
    #[must_use]
    pub fn must_acknowledge(&self) -> bool {
        self.receiver.due == crate::receiver::Due::Now
    }

    /// Whether all of the peer's data has come: it has sent its FIN.
    #[must_use]
    pub fn is_receive_over(&self) -> bool {
        self.receiver.is_over()
    }

    /// Where urgent data ends, counted from the next byte to read; `None` if it was read or there is none. The data
    /// itself is in line (RFC 6093 section 3.2).
    #[must_use]
    pub fn urgent_mark(&self) -> Option<usize> {
        let mark = self.receiver.urgent.checked_sub(self.receiver.read)?;
        if mark == 0 { None } else { usize::try_from(mark).ok() }
    }

    /// Ends sending: a FIN follows what is queued (RFC 9293 section 3.10.4).
    pub fn close(&mut self, now: Instant) {
        if self.sender.finished {
            return;
        }
        self.state = match self.state {
            State::SynSent => return self.end(None),
            // "Queue for processing after entering ESTABLISHED state".
            State::SynReceived => State::SynReceived,
            // "Queue this until all preceding SENDs have been segmentized, then form a FIN segment and send it. In any
            // case, enter FIN-WAIT-1 state."
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            _ => return,
        };
        self.sender.finished = true;
        self.more = false;
        self.sender.stalled.get_or_insert(now);
    }

    /// Nobody reads any more: what comes is dropped, and FIN-WAIT-2 lasts for a limited time.
    pub fn detach(&mut self, now: Instant, pool: &mut Pool) {
        self.orphan = true;
        self.half_closed = self.half_closed.map(|_| now);
        self.receiver.discard(pool);
    }

    /// Gives the connection up: a reset leaves if the peer knows of it (RFC 9293 section 3.10.5).
    pub fn abort(&mut self, pool: &mut Pool) {
        let known = !matches!(self.state, State::SynSent | State::Closed | State::TimeWait);
        self.end(Some(Reason::Aborted));
        self.reply = known.then(|| Box::new(self.reset()));
        self.release(pool);
    }

    /// Gives its memory back to the pool. Nothing can be read or sent from then on.
    pub fn release(&mut self, pool: &mut Pool) {
        self.sender.bytes.release(self.sender.written, true, pool);
        self.receiver.discard(pool);
    }

    /// Gives the memory of the sending half back, as nothing can leave any more.
    pub(crate) fn release_sent(&mut self, pool: &mut Pool) {
        self.sender.bytes.release(self.sender.written, true, pool);
    }

    pub(crate) fn reset(&self) -> Header {
        Header {
            seq: self.sender.numbers.wire(self.sender.next),
            ack: self.receiver.numbers.wire(self.receiver.next),
            flags: Flags::RST | Flags::ACK,
            ..Header::default()
        }
    }

    /// Bytes of memory that the connection takes itself: without the data in its buffers, which is the pool's.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + self.sender.board.memory()
            + self.sender.controller.memory()
            + self.sender.bytes.memory()
            + self.receiver.bytes.memory()
            + self.receiver.ranges.memory()
            + self.sender.undo.as_deref().map_or(0, size_of_val)
    }

    /// Gives the memory of lists back that are empty, if nothing has come or gone for a while: an idle connection has less
    /// than 2 KiB. A caller does so when one of its timers has found nothing to do.
    pub fn release_idle_memory(&mut self, now: Instant) {
        if now.since(self.heard.max(self.sender.sent_at)) >= REST {
            self.sender.board.release_idle_memory();
            // With nothing in flight there is nothing to take back.
            if self.sender.board.is_empty() {
                self.sender.undo = None;
                self.sender.controller.get().release_idle_memory();
            }
            self.sender.bytes.release_idle_memory();
            self.receiver.bytes.release_idle_memory();
            self.receiver.ranges.release_idle_memory();
        }
    }

    /// What every segment after the handshake carries.
    pub(crate) fn common_options(&self, now: Instant) -> Options {
        Options {
            timestamps: self.stamps.map(|stamps| (self.stamp(now), stamps.recent)),
            ..Options::default()
        }
    }

    /// Changes the settings.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.receiver.at_once = settings.quick_ack;
        self.receiver.clamp = settings.largest_window();
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Lets small segments leave that were held back for more data.
    pub fn push(&mut self) {
        self.more = false;
        self.held = None;
        self.released = self.sender.written;
    }

    /// Takes up another congestion control.
    pub fn set_algorithm(&mut self, algorithm: Algorithm, now: Instant) {
        self.sender.set_algorithm(algorithm, now);
    }

    /// The congestion control.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.sender.controller.algorithm()
    }

    /// The largest payload that the peer takes, as its SYN says.
    #[must_use]
    pub fn peer_mss(&self) -> u16 {
        self.peer_mss
    }

    /// The largest payload of a segment that is sent, in bytes.
    #[must_use]
    pub fn mss(&self) -> u16 {
        self.sender.window.mss.min(u64::from(u16::MAX)) as u16
    }
}

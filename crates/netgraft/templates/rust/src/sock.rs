//! One socket: its state, what it is ready for, what is received on it, and its options.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use netgraft_plugin::{
    Error, EventInfo, Events, Handle, Kind, OptionName, Received, Result, SocketOption, SocketSpec,
};

/// Bytes that a stream holds in one direction.
pub(crate) const RING: usize = 65_536;

/// Where a socket stands, with what belongs to that.
pub(crate) enum State {
    /// A stream that is neither connected nor listens.
    Fresh,
    /// Connections that wait to be accepted.
    Listening {
        waiting: VecDeque<Handle>,
        backlog: usize,
    },
    /// It waits for room at the listener there.
    Trying(SocketAddr),
    Connected(Stream),
    /// Refused, or reset by this peer; what had come before can still be received.
    Over {
        input: VecDeque<u8>,
        remote: Option<SocketAddr>,
    },
    Datagram {
        peer: Option<SocketAddr>,
        queue: VecDeque<(SocketAddr, Vec<u8>)>,
        write_shut: bool,
    },
}

impl State {
    pub(crate) fn datagram() -> State {
        State::Datagram { peer: None, queue: VecDeque::new(), write_shut: false }
    }
}

/// A connection, seen from one of its ends.
pub(crate) struct Stream {
    pub(crate) remote: SocketAddr,
    /// The other end, while it is open.
    pub(crate) other: Option<Handle>,
    /// What came in and was not received.
    pub(crate) input: VecDeque<u8>,
    pub(crate) fin_received: bool,
    pub(crate) fin_sent: bool,
    pub(crate) read_shut: bool,
    /// Its FIN went before the peer's came.
    pub(crate) closed_first: bool,
}

impl Stream {
    pub(crate) fn new(remote: SocketAddr, other: Handle) -> Stream {
        Stream {
            remote,
            other: Some(other),
            input: VecDeque::new(),
            fin_received: false,
            fin_sent: false,
            read_shut: false,
            closed_first: false,
        }
    }

    /// What is left of it after a reset.
    pub(crate) fn over(&mut self) -> State {
        State::Over { input: std::mem::take(&mut self.input), remote: Some(self.remote) }
    }
}

pub(crate) struct Sock {
    pub(crate) spec: SocketSpec,
    pub(crate) state: State,
    pub(crate) local: SocketAddr,
    /// The pending error, which is reported once.
    pub(crate) error: Option<Error>,
    pub(crate) options: Options,
    pub(crate) info: EventInfo,
}

impl Sock {
    pub(crate) fn new(spec: SocketSpec, state: State, local: SocketAddr, options: Options) -> Sock {
        Sock { spec, state, local, error: None, options, info: EventInfo::default() }
    }

    pub(crate) fn listens(&self) -> bool {
        matches!(self.state, State::Listening { .. })
    }

    /// Whether it is bound to a port, and to the address itself or to any.
    pub(crate) fn is_bound_to(&self, kind: Kind, addr: SocketAddr) -> bool {
        let open = matches!(self.state, State::Fresh | State::Listening { .. } | State::Datagram { .. });
        let any = self.local.ip().is_unspecified() || addr.ip().is_unspecified();
        open && self.spec.kind == kind
            && addr.port() != 0
            && self.local.port() == addr.port()
            && (any || self.local.ip() == addr.ip())
    }

    /// Who it is connected to.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Datagram { peer, .. } => *peer,
            State::Connected(stream) => Some(stream.remote),
            _ => None,
        }
    }

    /// The peer, for accept: one that was reset before is accepted all the same.
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Over { remote, .. } => *remote,
            _ => self.peer(),
        }
    }

    /// What poll(2) says of a Linux socket in this state; `room` is whether its peer takes more bytes.
    pub(crate) fn ready(&self, room: bool) -> Events {
        let when = |holds: bool, events: Events| if holds { events } else { Events::empty() };
        let error = when(self.error.is_some(), Events::ERR);
        error
            | match &self.state {
                State::Fresh => Events::OUT | Events::HUP,
                State::Trying(_) => Events::empty(),
                State::Listening { waiting, .. } => when(!waiting.is_empty(), Events::IN),
                State::Over { .. } => Events::IN | Events::OUT | Events::HUP | Events::RDHUP,
                State::Datagram { queue, .. } => Events::OUT | when(!queue.is_empty(), Events::IN),
                State::Connected(stream) => {
                    let ended = stream.fin_received || stream.read_shut;
                    when(ended || !stream.input.is_empty(), Events::IN)
                        | when(ended, Events::RDHUP)
                        | when(stream.fin_sent || room, Events::OUT)
                        | when(ended && stream.fin_sent, Events::HUP)
                }
            }
    }

    /// What is received, and whether that made room where there was none.
    pub(crate) fn recv_stream(&mut self, buf: &mut [u8], peek: bool) -> Result<(Received, bool)> {
        let (input, ended) = match &mut self.state {
            State::Connected(stream) => {
                let ended = stream.fin_received || stream.read_shut;
                (&mut stream.input, ended)
            }
            State::Over { input, .. } => (input, true),
            _ => return Err(self.error.take().unwrap_or(Error::NotConnected)),
        };
        if input.is_empty() && !buf.is_empty() {
            // What had come first, then the error, once, then the end.
            return match self.error.take() {
                Some(error) => Err(error),
                None if ended => Ok((Received::default(), false)),
                None => Err(Error::Again),
            };
        }
        let was_full = input.len() >= RING;
        let len = buf.len().min(input.len());
        let (first, second) = input.as_slices();
        let split = len.min(first.len());
        buf[..split].copy_from_slice(&first[..split]);
        buf[split..len].copy_from_slice(&second[..len - split]);
        if !peek {
            input.drain(..len);
        }
        Ok((Received { len, full_len: len, ..Received::default() }, was_full && !peek && len > 0))
    }

    /// A datagram: what is longer than the buffer is cut, and its own length reported.
    pub(crate) fn recv_datagram(&mut self, buf: &mut [u8], peek: bool) -> Result<Received> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let State::Datagram { queue, .. } = &mut self.state else { return Err(Error::Invalid) };
        let (from, data) = queue.front().ok_or(Error::Again)?;
        let len = buf.len().min(data.len());
        buf[..len].copy_from_slice(&data[..len]);
        let received = Received {
            len,
            full_len: data.len(),
            from: Some(*from),
            interface: 1,
            hop_limit: 64,
            ..Received::default()
        };
        if !peek {
            queue.pop_front();
        }
        Ok(received)
    }
}

/// The options that common programs need: redis-server and python3's http.server fail without the first and NoDelay. A
/// connection without loss, delay and silence needs nothing else.
pub(crate) const KNOWN: [OptionName; 8] = [
    OptionName::ReuseAddress,
    OptionName::KeepAlive,
    OptionName::Linger,
    OptionName::NoDelay,
    OptionName::KeepIdle,
    OptionName::KeepInterval,
    OptionName::KeepCount,
    OptionName::UserTimeout,
];

/// Their values, as a fresh socket of Linux has them.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) reuse_address: bool,
    pub(crate) linger: Option<Duration>,
    keep_alive: bool,
    no_delay: bool,
    keep_idle: Duration,
    keep_interval: Duration,
    keep_count: u32,
    user_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            reuse_address: false,
            linger: None,
            keep_alive: false,
            no_delay: false,
            keep_idle: Duration::from_secs(7200),
            keep_interval: Duration::from_secs(75),
            keep_count: 9,
            user_timeout: Duration::ZERO,
        }
    }
}

/// Seconds that TCP_KEEPIDLE and TCP_KEEPINTVL take (tcp(7)).
fn is_time(time: Duration) -> Result<Duration> {
    if (1..=32_767).contains(&time.as_secs()) { Ok(time) } else { Err(Error::Invalid) }
}

impl Sock {
    /// Never a silent success: what the stack does not keep it does not know.
    pub(crate) fn set_option(&mut self, option: SocketOption) -> Result<()> {
        self.knows(option.name())?;
        let options = &mut self.options;
        match option {
            SocketOption::ReuseAddress(on) => options.reuse_address = on,
            SocketOption::KeepAlive(on) => options.keep_alive = on,
            SocketOption::Linger(time) => options.linger = time,
            SocketOption::NoDelay(on) => options.no_delay = on,
            SocketOption::KeepIdle(time) => options.keep_idle = is_time(time)?,
            SocketOption::KeepInterval(time) => options.keep_interval = is_time(time)?,
            SocketOption::KeepCount(count @ 1..=127) => options.keep_count = count,
            SocketOption::KeepCount(_) => return Err(Error::Invalid),
            SocketOption::UserTimeout(time) => options.user_timeout = time,
            _ => return Err(Error::UnknownOption),
        }
        Ok(())
    }

    pub(crate) fn get_option(&self, name: OptionName) -> Result<SocketOption> {
        self.knows(name)?;
        let options = &self.options;
        Ok(match name {
            OptionName::ReuseAddress => SocketOption::ReuseAddress(options.reuse_address),
            OptionName::KeepAlive => SocketOption::KeepAlive(options.keep_alive),
            OptionName::Linger => SocketOption::Linger(options.linger),
            OptionName::NoDelay => SocketOption::NoDelay(options.no_delay),
            OptionName::KeepIdle => SocketOption::KeepIdle(options.keep_idle),
            OptionName::KeepInterval => SocketOption::KeepInterval(options.keep_interval),
            OptionName::KeepCount => SocketOption::KeepCount(options.keep_count),
            OptionName::UserTimeout => SocketOption::UserTimeout(options.user_timeout),
            _ => return Err(Error::UnknownOption),
        })
    }

    /// Those of the socket level are for all sockets, those of TCP for streams.
    fn knows(&self, name: OptionName) -> Result<()> {
        let of_socket = [OptionName::ReuseAddress, OptionName::KeepAlive, OptionName::Linger].contains(&name);
        let known = KNOWN.contains(&name) && (of_socket || self.spec.kind == Kind::Stream);
        if known { Ok(()) } else { Err(Error::UnknownOption) }
    }
}

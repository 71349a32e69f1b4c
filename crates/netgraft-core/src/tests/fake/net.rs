//! The state of the fake stack: TCP and UDP over a loopback, remote hosts that a test speaks for, and scripted errors.

mod remote;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netgraft_plugin::{
    Call, Error, Event, EventInfo, Events, Handle, Instant, Kind, OptionName, Received, SocketOption,
    SocketSpec, WaitQueue,
};

/// What a test calls the other side of a connection whose one side is a remote host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Remote {
    pub(crate) pipe: usize,
    side: usize,
}

/// One direction of a connection.
#[derive(Default)]
struct Way {
    bytes: VecDeque<u8>,
    /// Bytes that were read since the last poll: the sender learns of their room with the window update that leaves then.
    freed: usize,
    has_ended: bool,
}

impl Way {
    /// Bytes that the sender still takes for occupied.
    fn occupied(&self) -> usize {
        self.bytes.len() + self.freed
    }
}

/// A connection: what side 0 sends is in way 0.
struct Pipe {
    ways: [Way; 2],
    /// The error that a side has not taken.
    errors: [Option<Error>; 2],
    /// Whether a side is closed.
    closed: [bool; 2],
    /// Whether it has been reset.
    was_reset: bool,
    /// The socket of a side, if it is one of this stack's.
    owners: [Option<u64>; 2],
    addresses: [SocketAddr; 2],
}

/// What a socket is doing.
pub(crate) enum Phase {
    Fresh,
    Listening { backlog: usize, waiting: VecDeque<u64> },
    Connecting(SocketAddr),
    Failed(Option<Error>),
    Open(usize, usize),
    Datagrams { peer: Option<SocketAddr>, queue: VecDeque<(Received, Vec<u8>)>, error: Option<Error> },
}

/// A socket of the stack.
pub(crate) struct Sock {
    pub(crate) spec: SocketSpec,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) phase: Phase,
    pub(crate) options: HashMap<OptionName, SocketOption>,
    pub(crate) info: EventInfo,
    sends_no_more: bool,
    reads_no_more: bool,
}

/// How a remote address answers a connection attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepts,
    Refuses,
    Silent,
}

/// A datagram that left for a remote host.
pub(crate) type Sent = (SocketAddr, SocketAddr, Vec<u8>);

/// The stack.
pub(crate) struct Net {
    pub(crate) socks: BTreeMap<u64, Sock>,
    last: u64,
    next_port: u16,
    pipes: Vec<Pipe>,
    pub(crate) queue: WaitQueue,
    /// Answers of remote addresses; one that is not here is silent.
    pub(crate) remotes: HashMap<SocketAddr, Answer>,
    /// Connections that remote hosts have accepted, in order.
    pub(crate) accepted: Vec<Remote>,
    /// Errors that the next calls of a kind answer.
    pub(crate) scripts: HashMap<Call, VecDeque<Option<Error>>>,
    /// The next non-blocking connects answer at once.
    pub(crate) connects_at_once: bool,
    /// Bytes of a stream that the stack holds for each direction.
    pub(crate) window: usize,
    /// Datagrams that the stack takes before it has no room.
    pub(crate) datagram_room: usize,
    pub(crate) sent: Vec<Sent>,
    /// Urgent bytes that were sent, and where those of each handle end that come.
    pub(crate) urgent_sent: Vec<u8>,
    pub(crate) marks: HashMap<u64, usize>,
    /// Resets that were sent.
    pub(crate) resets: usize,
    /// Calls of `poll`.
    pub(crate) polls: usize,
    pub(crate) deadline: Option<Instant>,
    pub(crate) is_destroyed: bool,
    /// Handles for which events come, whether they exist or not.
    stray: Vec<Handle>,
    /// Something came from outside: a descriptor of the stack is ready.
    pub(crate) is_woken: bool,
    pub(crate) bound_host_fds: Vec<SocketAddr>,
}

impl Default for Net {
    fn default() -> Net {
        Net {
            socks: BTreeMap::new(),
            last: 0,
            next_port: 49_152,
            pipes: Vec::new(),
            queue: WaitQueue::new(),
            remotes: HashMap::new(),
            accepted: Vec::new(),
            scripts: HashMap::new(),
            connects_at_once: false,
            window: 16_384,
            datagram_room: usize::MAX,
            sent: Vec::new(),
            urgent_sent: Vec::new(),
            marks: HashMap::new(),
            resets: 0,
            polls: 0,
            deadline: None,
            is_destroyed: false,
            stray: Vec::new(),
            is_woken: false,
            bound_host_fds: Vec::new(),
        }
    }
}

/// Whether an address is of the stack itself.
fn is_local(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified() || ip == IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))
}

fn same_place(bound: SocketAddr, to: SocketAddr) -> bool {
    bound.port() == to.port()
        && (bound.ip().is_unspecified() || bound.ip().to_canonical() == to.ip().to_canonical())
}

impl Net {
    /// The error that a test has scripted for the next call of this kind.
    pub(crate) fn script(&mut self, call: Call) -> Result<(), Error> {
        match self.scripts.get_mut(&call).and_then(VecDeque::pop_front).flatten() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Has the next call of a kind fail.
    pub(crate) fn fail_next(&mut self, call: Call, error: Error) {
        self.scripts.entry(call).or_default().push_back(Some(error));
    }

    pub(crate) fn get(&self, handle: Handle) -> Result<&Sock, Error> {
        self.socks.get(&handle.0).ok_or(Error::BadHandle)
    }

    pub(crate) fn get_mut(&mut self, handle: Handle) -> Result<&mut Sock, Error> {
        self.socks.get_mut(&handle.0).ok_or(Error::BadHandle)
    }

    pub(crate) fn make(&mut self, spec: SocketSpec) -> Handle {
        let phase = match spec.kind {
            Kind::Stream => Phase::Fresh,
            _ => Phase::Datagrams { peer: None, queue: VecDeque::new(), error: None },
        };
        self.add(spec, None, phase)
    }

    fn add(&mut self, spec: SocketSpec, local: Option<SocketAddr>, phase: Phase) -> Handle {
        self.last += 1;
        let sock = Sock {
            spec,
            local,
            phase,
            options: HashMap::new(),
            info: EventInfo::default(),
            sends_no_more: false,
            reads_no_more: false,
        };
        self.socks.insert(self.last, sock);
        self.notify(self.last);
        Handle(self.last)
    }

    /// Reports what a socket is ready for now.
    pub(crate) fn notify(&mut self, socket: u64) {
        let ready = self.ready(socket);
        if let Some(sock) = self.socks.get_mut(&socket) {
            self.queue.notify(Handle(socket), &mut sock.info, ready);
        }
    }

    pub(crate) fn ready(&self, socket: u64) -> Events {
        let Some(sock) = self.socks.get(&socket) else { return Events::empty() };
        let mut events = Events::empty();
        match &sock.phase {
            Phase::Fresh => events = Events::OUT | Events::HUP,
            Phase::Listening { waiting, .. } => events.set(Events::IN, !waiting.is_empty()),
            Phase::Connecting(_) => {}
            Phase::Failed(error) => {
                events = Events::IN | Events::OUT | Events::RDHUP | Events::HUP;
                events.set(Events::ERR, error.is_some());
            }
            Phase::Open(pipe, side) => {
                let pipe = &self.pipes[*pipe];
                let (out, way) = (&pipe.ways[*side], &pipe.ways[1 - side]);
                let failed = pipe.errors[*side].is_some();
                let ended = way.has_ended || failed || sock.reads_no_more;
                events.set(Events::IN, !way.bytes.is_empty() || ended);
                events.set(Events::RDHUP, ended);
                events.set(Events::OUT, out.occupied() < self.window || failed || sock.sends_no_more);
                events.set(Events::HUP, ended && (out.has_ended || failed));
                events.set(Events::ERR, failed);
            }
            Phase::Datagrams { queue, error, .. } => {
                events.set(Events::IN, !queue.is_empty());
                events.set(Events::OUT, self.datagram_room > 0);
                events.set(Events::ERR, error.is_some());
            }
        }
        events
    }

    pub(crate) fn drain(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        for handle in std::mem::take(&mut self.stray) {
            let events = self.ready(handle.0);
            let nonsense = Event { handle, events: if events.is_empty() { Events::IN } else { events } };
            if !self.socks.contains_key(&handle.0) && !sink(nonsense) {
                return;
            }
        }
        while let Some(handle) = self.queue.pop() {
            // What it is ready for now, not when it was queued.
            let ready = self.ready(handle.0);
            let Some(sock) = self.socks.get_mut(&handle.0) else { continue };
            self.queue.set_ready(handle, &mut sock.info, ready);
            let events = sock.info.take();
            if !events.is_empty() && !sink(Event { handle, events }) {
                return;
            }
        }
    }

    /// Reports every socket though nothing has happened, and some that do not exist.
    pub(crate) fn report_all(&mut self) {
        self.is_woken = true;
        for socket in self.socks.keys().copied().collect::<Vec<_>>() {
            self.notify(socket);
        }
        self.stray.extend([0, 1, self.last, self.last + 1, u64::MAX].map(Handle));
    }

    fn free_port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    /// Whether another socket has the address.
    fn is_taken(&self, spec: SocketSpec, addr: SocketAddr, reuse: bool) -> bool {
        self.socks.values().any(|other| {
            let at = |bound: SocketAddr| {
                bound.port() == addr.port()
                    && (bound.ip().is_unspecified() || addr.ip().is_unspecified() || bound.ip() == addr.ip())
            };
            let reusable = reuse
                && other.options.get(&OptionName::ReuseAddress) == Some(&SocketOption::ReuseAddress(true))
                && !matches!(other.phase, Phase::Listening { .. });
            other.spec.kind == spec.kind && other.local.is_some_and(at) && !reusable
        })
    }

    pub(crate) fn bind(&mut self, handle: Handle, mut addr: SocketAddr) -> Result<(), Error> {
        let sock = self.get(handle)?;
        if sock.local.is_some() {
            return Err(Error::Invalid);
        }
        if !is_local(addr.ip()) {
            return Err(Error::AddressNotAvailable);
        }
        if addr.port() == 0 {
            addr.set_port(self.free_port());
        }
        let sock = self.get(handle)?;
        let reuse = sock.options.get(&OptionName::ReuseAddress) == Some(&SocketOption::ReuseAddress(true));
        // A connection that a listener accepted keeps its port, as with SO_REUSEADDR.
        if self.is_taken(sock.spec, addr, reuse) {
            return Err(Error::AddressInUse);
        }
        self.get_mut(handle)?.local = Some(addr);
        Ok(())
    }

    fn bind_if_unbound(&mut self, handle: Handle, to: IpAddr) -> Result<(), Error> {
        if self.get(handle)?.local.is_some() {
            return Ok(());
        }
        let ip = match to {
            IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(_) => IpAddr::from(1u128.to_be_bytes()),
        };
        let port = self.free_port();
        self.get_mut(handle)?.local = Some(SocketAddr::new(ip, port));
        Ok(())
    }

    pub(crate) fn listen(&mut self, handle: Handle, backlog: usize) -> Result<(), Error> {
        self.bind_if_unbound(handle, IpAddr::from([0; 4]))?;
        match &mut self.get_mut(handle)?.phase {
            Phase::Listening { backlog: old, .. } => *old = backlog,
            phase @ Phase::Fresh => *phase = Phase::Listening { backlog, waiting: VecDeque::new() },
            _ => return Err(Error::Invalid),
        }
        Ok(())
    }

    pub(crate) fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr), Error> {
        let Phase::Listening { waiting, .. } = &mut self.get_mut(handle)?.phase else {
            return Err(Error::Invalid);
        };
        let socket = waiting.pop_front().ok_or(Error::Again)?;
        let peer = self.peer_addr(Handle(socket))?;
        Ok((Handle(socket), peer))
    }

    pub(crate) fn connect(&mut self, handle: Handle, addr: SocketAddr) -> Result<(), Error> {
        let sock = self.get_mut(handle)?;
        match &mut sock.phase {
            Phase::Datagrams { peer, .. } => {
                *peer = Some(addr);
                return self.bind_if_unbound(handle, addr.ip());
            }
            Phase::Fresh => {}
            Phase::Connecting(_) => return Err(Error::Already),
            Phase::Listening { .. } | Phase::Failed(_) => return Err(Error::Invalid),
            Phase::Open(..) => return Err(Error::IsConnected),
        }
        self.bind_if_unbound(handle, addr.ip())?;
        self.get_mut(handle)?.phase = Phase::Connecting(addr);
        if self.connects_at_once {
            self.try_connect(handle.0, addr);
            return match &mut self.get_mut(handle)?.phase {
                Phase::Failed(error) => Err(error.take().unwrap_or(Error::Io)),
                Phase::Connecting(_) => Err(Error::InProgress),
                _ => Ok(()),
            };
        }
        Err(Error::InProgress)
    }

    /// Moves the attempts that are under way, and sends window updates.
    pub(crate) fn poll(&mut self) {
        self.polls += 1;
        for pipe in 0..self.pipes.len() {
            for sender in [0, 1] {
                if std::mem::take(&mut self.pipes[pipe].ways[sender].freed) > 0 {
                    self.notify_side(pipe, sender);
                }
            }
        }
        let attempts: Vec<(u64, SocketAddr)> = self
            .socks
            .iter()
            .filter_map(|(&socket, sock)| match sock.phase {
                Phase::Connecting(to) => Some((socket, to)),
                _ => None,
            })
            .collect();
        for (socket, to) in attempts {
            self.try_connect(socket, to);
        }
    }

    fn try_connect(&mut self, socket: u64, to: SocketAddr) {
        if !is_local(to.ip()) {
            match self.remotes.get(&to).copied().unwrap_or(Answer::Silent) {
                Answer::Silent => {}
                Answer::Refuses => self.fail_attempt(socket, Error::ConnectionRefused),
                Answer::Accepts => {
                    let remote = self.establish(socket, to, None);
                    self.accepted.push(remote);
                }
            }
            return;
        }
        let spec = self.socks[&socket].spec;
        let listener = self.socks.iter().find(|(_, sock)| {
            matches!(sock.phase, Phase::Listening { .. })
                && sock.local.is_some_and(|local| same_place(local, to))
        });
        let Some((&listener, _)) = listener else {
            return self.fail_attempt(socket, Error::ConnectionRefused);
        };
        let Phase::Listening { backlog, waiting } = &self.socks[&listener].phase else { return };
        // As many as fit, and one more (listen(2) on Linux); otherwise the SYN is sent again.
        if waiting.len() > *backlog {
            return;
        }
        let child = self.add(spec, Some(to), Phase::Fresh);
        self.establish(socket, to, Some(child.0));
        if let Some(Sock { phase: Phase::Listening { waiting, .. }, .. }) = self.socks.get_mut(&listener) {
            waiting.push_back(child.0);
        }
        self.notify(listener);
    }

    fn establish(&mut self, socket: u64, to: SocketAddr, child: Option<u64>) -> Remote {
        let pipe = self.pipes.len();
        let from = self.socks[&socket].local.unwrap();
        self.pipes.push(Pipe {
            ways: Default::default(),
            errors: [None; 2],
            closed: [false; 2],
            was_reset: false,
            owners: [Some(socket), child],
            addresses: [from, to],
        });
        for (side, owner) in [Some(socket), child].into_iter().enumerate() {
            if let Some(sock) = owner.and_then(|owner| self.socks.get_mut(&owner)) {
                sock.phase = Phase::Open(pipe, side);
            }
        }
        self.notify(socket);
        Remote { pipe, side: 1 }
    }

    /// Ends an attempt with an error.
    pub(crate) fn fail_attempt(&mut self, socket: u64, error: Error) {
        self.is_woken = true;
        self.socks.get_mut(&socket).unwrap().phase = Phase::Failed(Some(error));
        self.notify(socket);
    }

    /// A remote host connects to a listener; `None` if there is none, or its queue is full.
    pub(crate) fn dial(&mut self, to: SocketAddr, from: SocketAddr) -> Option<Remote> {
        self.is_woken = true;
        let (&listener, _) = self.socks.iter().find(|(_, sock)| {
            matches!(sock.phase, Phase::Listening { .. })
                && sock.local.is_some_and(|local| local.port() == to.port())
        })?;
        let Phase::Listening { backlog, waiting } = &self.socks[&listener].phase else { return None };
        if waiting.len() > *backlog {
            return None;
        }
        let spec = self.socks[&listener].spec;
        let child = self.add(spec, Some(to), Phase::Fresh);
        let pipe = self.pipes.len();
        self.pipes.push(Pipe {
            ways: Default::default(),
            errors: [None; 2],
            closed: [false; 2],
            was_reset: false,
            owners: [None, Some(child.0)],
            addresses: [from, to],
        });
        self.socks.get_mut(&child.0).unwrap().phase = Phase::Open(pipe, 1);
        if let Some(Sock { phase: Phase::Listening { waiting, .. }, .. }) = self.socks.get_mut(&listener) {
            waiting.push_back(child.0);
        }
        self.notify(listener);
        Some(Remote { pipe, side: 0 })
    }

    pub(crate) fn peer_addr(&self, handle: Handle) -> Result<SocketAddr, Error> {
        match &self.get(handle)?.phase {
            Phase::Open(pipe, side) => Ok(self.pipes[*pipe].addresses[1 - side]),
            Phase::Datagrams { peer: Some(peer), .. } => Ok(*peer),
            _ => Err(Error::NotConnected),
        }
    }

    fn notify_side(&mut self, pipe: usize, side: usize) {
        if let Some(socket) = self.pipes[pipe].owners[side] {
            self.notify(socket);
        }
    }

    fn send_on(&mut self, pipe: usize, side: usize, data: &[u8]) -> Result<usize, Error> {
        let window = self.window;
        let p = &mut self.pipes[pipe];
        if let Some(error) = p.errors[side].take() {
            return Err(error);
        }
        if p.ways[side].has_ended {
            return Err(Error::BrokenPipe);
        }
        if p.closed[1 - side] {
            // The other side answers with a reset.
            p.was_reset = true;
            p.errors[side] = Some(Error::ConnectionReset);
            p.ways[side].has_ended = true;
            self.notify_side(pipe, side);
            return Ok(data.len());
        }
        let n = data.len().min(window.saturating_sub(p.ways[side].occupied()));
        if n == 0 && !data.is_empty() {
            return Err(Error::Again);
        }
        p.ways[side].bytes.extend(&data[..n]);
        self.notify_side(pipe, 1 - side);
        Ok(n)
    }

    fn receive_on(&mut self, pipe: usize, side: usize, buf: &mut [u8], peek: bool) -> Result<usize, Error> {
        let p = &mut self.pipes[pipe];
        let way = &mut p.ways[1 - side];
        let n = buf.len().min(way.bytes.len());
        if n > 0 {
            for (to, byte) in buf.iter_mut().zip(&way.bytes) {
                *to = *byte;
            }
            if !peek {
                way.bytes.drain(..n);
                match p.owners[side] {
                    Some(_) => way.freed += n,
                    None => self.notify_side(pipe, 1 - side),
                }
            }
            return Ok(n);
        }
        if let Some(error) = p.errors[side].take() {
            // Nothing more comes.
            p.ways[1 - side].has_ended = true;
            p.ways[side].has_ended = true;
            return Err(error);
        }
        if way.has_ended { Ok(0) } else { Err(Error::Again) }
    }

    fn end_on(&mut self, pipe: usize, side: usize) {
        if !self.pipes[pipe].ways[side].has_ended {
            self.pipes[pipe].ways[side].has_ended = true;
            self.notify_side(pipe, 1 - side);
        }
    }

    fn reset_on(&mut self, pipe: usize, side: usize, error: Error) {
        let p = &mut self.pipes[pipe];
        p.closed[side] = true;
        p.was_reset = true;
        if !p.closed[1 - side] {
            p.errors[1 - side] = Some(error);
        }
        self.notify_side(pipe, 1 - side);
    }

    pub(crate) fn send_stream(&mut self, handle: Handle, data: &[u8]) -> Result<usize, Error> {
        match self.get(handle)?.phase {
            Phase::Open(pipe, side) => self.send_on(pipe, side, data),
            _ => Err(Error::NotConnected),
        }
    }

    pub(crate) fn receive_stream(
        &mut self,
        handle: Handle,
        buf: &mut [u8],
        peek: bool,
    ) -> Result<usize, Error> {
        let sock = self.get(handle)?;
        match sock.phase {
            Phase::Open(..) if sock.reads_no_more => Ok(0),
            Phase::Open(pipe, side) => {
                let len = self.receive_on(pipe, side, buf, peek)?;
                if let Some(mark) = self.marks.get_mut(&handle.0).filter(|_| !peek) {
                    *mark = mark.saturating_sub(len);
                }
                Ok(len)
            }
            _ => Err(Error::NotConnected),
        }
    }

    pub(crate) fn room(&self, handle: Handle) -> usize {
        match self.get(handle).map(|sock| &sock.phase) {
            // A send says what is wrong.
            Ok(Phase::Open(pipe, side)) if self.pipes[*pipe].errors[*side].is_some() => usize::MAX,
            Ok(Phase::Open(pipe, side)) => {
                self.window.saturating_sub(self.pipes[*pipe].ways[*side].occupied())
            }
            _ => usize::MAX,
        }
    }

    pub(crate) fn queued_out(&self, handle: Handle) -> Result<usize, Error> {
        match self.get(handle)?.phase {
            Phase::Open(pipe, side) => Ok(self.pipes[pipe].ways[side].bytes.len()),
            _ => Ok(0),
        }
    }

    pub(crate) fn shutdown(&mut self, handle: Handle, read: bool, write: bool) -> Result<(), Error> {
        let sock = self.get_mut(handle)?;
        match &sock.phase {
            Phase::Open(pipe, side) => {
                let (pipe, side) = (*pipe, *side);
                sock.reads_no_more |= read;
                sock.sends_no_more |= write;
                if write {
                    self.end_on(pipe, side);
                }
                Ok(())
            }
            Phase::Datagrams { peer: Some(_), .. } => {
                sock.sends_no_more |= write;
                sock.reads_no_more |= read;
                Ok(())
            }
            _ => Err(Error::NotConnected),
        }
    }

    /// Closes a socket: in an orderly way, or with a reset.
    pub(crate) fn close(&mut self, handle: Handle, with_reset: bool) -> Result<(), Error> {
        let sock = self.socks.remove(&handle.0).ok_or(Error::BadHandle)?;
        let at_once = sock.options.get(&OptionName::Linger)
            == Some(&SocketOption::Linger(Some(std::time::Duration::ZERO)));
        match sock.phase {
            Phase::Open(pipe, side) => {
                self.pipes[pipe].owners[side] = None;
                if with_reset || at_once {
                    self.resets += 1;
                    self.reset_on(pipe, side, Error::ConnectionReset);
                } else {
                    self.end_on(pipe, side);
                    self.pipes[pipe].closed[side] = true;
                }
            }
            Phase::Listening { waiting, .. } => {
                for child in waiting {
                    let _ = self.close(Handle(child), true);
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn take_error(&mut self, handle: Handle) -> Option<Error> {
        let at = match &mut self.socks.get_mut(&handle.0)?.phase {
            Phase::Failed(error) | Phase::Datagrams { error, .. } => return error.take(),
            Phase::Open(pipe, side) => (*pipe, *side),
            _ => return None,
        };
        let p = &mut self.pipes[at.0];
        let error = p.errors[at.1].take();
        if error.is_some() {
            p.ways.iter_mut().for_each(|way| way.has_ended = true);
        }
        error
    }

    /// Sends a datagram: to a socket of this stack, or away.
    pub(crate) fn send_datagram(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
    ) -> Result<usize, Error> {
        let sock = self.get_mut(handle)?;
        let Phase::Datagrams { peer, error, .. } = &mut sock.phase else { return Err(Error::Invalid) };
        if let Some(error) = error.take() {
            return Err(error);
        }
        if sock.sends_no_more {
            return Err(Error::BrokenPipe);
        }
        let to = to.or(*peer).ok_or(Error::DestinationRequired)?;
        if data.len() > 65_507 {
            return Err(Error::MessageTooLong);
        }
        self.bind_if_unbound(handle, to.ip())?;
        if self.datagram_room == 0 {
            return Err(Error::Again);
        }
        self.datagram_room -= 1;
        let from = self.get(handle)?.local.unwrap();
        if is_local(to.ip()) {
            if !self.deliver(from, to, data) {
                self.unreachable(handle);
            }
        } else {
            self.sent.push((from, to, data.to_vec()));
        }
        Ok(data.len())
    }

    /// Says that nothing listens where a datagram went, if the sender is connected.
    fn unreachable(&mut self, handle: Handle) {
        if let Ok(Sock { phase: Phase::Datagrams { peer: Some(_), error, .. }, .. }) = self.get_mut(handle) {
            *error = Some(Error::ConnectionRefused);
            self.notify(handle.0);
        }
    }

    /// An error arrives for a datagram socket.
    pub(crate) fn datagram_fails(&mut self, handle: Handle, with: Error) {
        self.is_woken = true;
        if let Ok(Sock { phase: Phase::Datagrams { error, .. }, .. }) = self.get_mut(handle) {
            *error = Some(with);
            self.notify(handle.0);
        }
    }

    /// A datagram of a remote host arrives; whether a socket was there for it.
    pub(crate) fn arrives(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) -> bool {
        self.is_woken = true;
        self.deliver(from, to, data)
    }

    /// A datagram arrives; whether a socket was there for it.
    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) -> bool {
        let found = self.socks.iter().find(|(_, sock)| {
            matches!(sock.phase, Phase::Datagrams { .. })
                && sock.local.is_some_and(|local| same_place(local, to))
        });
        let Some((&socket, _)) = found else { return false };
        let Some(Sock { phase: Phase::Datagrams { queue, .. }, .. }) = self.socks.get_mut(&socket) else {
            return false;
        };
        let received = Received {
            len: data.len(),
            full_len: data.len(),
            from: Some(from),
            to: Some(to.ip()),
            interface: 1,
            hop_limit: 64,
            traffic_class: 4,
        };
        queue.push_back((received, data.to_vec()));
        self.notify(socket);
        true
    }

    pub(crate) fn receive_datagram(
        &mut self,
        handle: Handle,
        buf: &mut [u8],
        peek: bool,
    ) -> Result<Received, Error> {
        let Phase::Datagrams { queue, error, .. } = &mut self.get_mut(handle)?.phase else {
            return Err(Error::Invalid);
        };
        if let Some(error) = error.take() {
            return Err(error);
        }
        let (received, data) = queue.front().ok_or(Error::Again)?;
        let len = data.len().min(buf.len());
        buf[..len].copy_from_slice(&data[..len]);
        let received = Received { len, ..*received };
        if !peek {
            queue.pop_front();
        }
        Ok(received)
    }

    /// The stack takes so many datagrams more.
    pub(crate) fn open_datagram_room(&mut self, room: usize) {
        self.is_woken = true;
        self.datagram_room = room;
        let waiting: Vec<u64> = self
            .socks
            .iter()
            .filter(|(_, sock)| matches!(sock.phase, Phase::Datagrams { .. }))
            .map(|(&socket, _)| socket)
            .collect();
        for socket in waiting {
            self.notify(socket);
        }
    }
}

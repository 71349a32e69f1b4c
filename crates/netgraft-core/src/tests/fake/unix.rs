//! AF_UNIX sockets as Linux has them (net/unix/af_unix.c): limited buffers, hang-ups, resets by bytes that nobody has
//! read, the mark of urgent data, queues of listeners, and who is woken by what.

use std::collections::{HashMap, VecDeque};

use netgraft_plugin::{Domain, Events};

use super::host::HostSide;
use crate::join::{Pair, Side};
use crate::program::Serves;
use crate::surrogate::{Interest, Name};
use crate::table::SocketId;
use crate::uapi::{self, Errno};

/// The send buffer of a socket.
pub(crate) const SEND_BUFFER: usize = 8192;
/// The smallest one, of a surrogate whose gate is closed.
pub(crate) const GATED: usize = 16;
/// Datagrams that an unconnected sender may have waiting (`net.unix.max_dgram_qlen`).
const QUEUE: usize = 10;

/// What an open file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An AF_UNIX stream socket.
    Stream,
    /// An AF_UNIX datagram socket.
    Datagram,
    /// No socket.
    Other,
    /// A socket that is not the core's, and who connects it.
    Foreign(Serves),
    /// A socket of the host's.
    Host,
}

/// Bytes in a queue.
struct Chunk {
    data: Vec<u8>,
    gone: usize,
    /// Urgent data: one byte that only tells of itself.
    is_mark: bool,
    /// The socket whose send buffer they fill.
    from: u64,
}

impl Chunk {
    /// What they take of the sender's buffer: also an empty datagram takes some.
    fn charge(&self) -> usize {
        self.data.len().max(1)
    }
}

/// The queue of a listener.
struct Queue {
    backlog: usize,
    waiting: VecDeque<u64>,
}

/// An open file.
pub(crate) struct Sock {
    pub(crate) kind: Kind,
    pub(crate) domain: Domain,
    /// Descriptors, duplicates, and places in queues.
    pub(crate) refs: usize,
    pub(crate) nonblocking: bool,
    /// Wake-ups of those who poll it.
    pub(crate) edges: u32,
    pub(crate) options: HashMap<(i32, i32), Vec<u8>>,
    pub(crate) host: HostSide,
    pub(crate) name: Option<Name>,
    pub(crate) peer_name: Option<Name>,
    pub(crate) send_buffer: usize,
    peer: Option<u64>,
    connected: bool,
    queue: VecDeque<Chunk>,
    /// What its own bytes in other queues take.
    charged: usize,
    reads_no_more: bool,
    sends_no_more: bool,
    error: bool,
    listening: Option<Queue>,
    /// The joined connection that it is a side of.
    pub(crate) joined: Option<(Pair, Side)>,
    /// What is to be reported once of the program's own file.
    awaited: Option<(SocketId, Events)>,
    watched: Option<(SocketId, Interest)>,
    is_ready: bool,
}

/// What a wake-up is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    Input,
    Room,
    State,
}

/// All open files, by cookie.
#[derive(Default)]
pub(crate) struct Socks {
    all: HashMap<u64, Sock>,
    last: u64,
    named: HashMap<Name, u64>,
    last_name: u64,
    ready: VecDeque<u64>,
}

/// What a released file leaves to do.
pub(crate) struct Released {
    pub(crate) cookie: u64,
}

impl Socks {
    pub(crate) fn make(&mut self, kind: Kind, domain: Domain, nonblocking: bool) -> u64 {
        self.last += 1;
        let sock = Sock {
            kind,
            domain,
            refs: 0,
            nonblocking,
            edges: 0,
            options: HashMap::new(),
            host: HostSide::default(),
            name: None,
            peer_name: None,
            send_buffer: SEND_BUFFER,
            peer: None,
            connected: false,
            queue: VecDeque::new(),
            charged: 0,
            reads_no_more: false,
            sends_no_more: false,
            error: false,
            listening: None,
            joined: None,
            awaited: None,
            watched: None,
            is_ready: false,
        };
        self.all.insert(self.last, sock);
        self.last
    }

    pub(crate) fn get(&self, cookie: u64) -> &Sock {
        &self.all[&cookie]
    }

    pub(crate) fn get_mut(&mut self, cookie: u64) -> &mut Sock {
        self.all.get_mut(&cookie).unwrap()
    }

    /// How many files are open.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn fresh_name(&mut self) -> Name {
        self.last_name += 1;
        Name(0x5000 + self.last_name)
    }

    pub(crate) fn bind(&mut self, cookie: u64, name: Name) {
        self.get_mut(cookie).name = Some(name);
        self.named.insert(name, cookie);
    }

    /// One reference less; the last one closes the file. Answers what was closed, queued connections among it.
    pub(crate) fn release(&mut self, cookie: u64, closed: &mut Vec<Released>) {
        let sock = self.get_mut(cookie);
        sock.refs -= 1;
        if sock.refs == 0 {
            self.close(cookie, false, closed);
        }
    }

    fn close(&mut self, cookie: u64, was_queued: bool, closed: &mut Vec<Released>) {
        let sock = self.all.remove(&cookie).unwrap();
        closed.push(Released { cookie });
        if let Some(name) = sock.name {
            self.named.remove(&name);
        }
        for queued in sock.listening.into_iter().flat_map(|queue| queue.waiting) {
            self.close(queued, true, closed);
        }
        if sock.kind == Kind::Stream
            && let Some(peer) = sock.peer
            && let Some(other) = self.all.get_mut(&peer)
        {
            other.reads_no_more = true;
            other.sends_no_more = true;
            other.error |= was_queued || !sock.queue.is_empty();
            self.wake(peer, Edge::State);
        }
        for chunk in sock.queue {
            self.uncharge(chunk.from, chunk.charge());
        }
    }

    fn uncharge(&mut self, sender: u64, bytes: usize) {
        if let Some(sock) = self.all.get_mut(&sender) {
            sock.charged -= bytes;
            if sock.is_writable() {
                self.wake(sender, Edge::Room);
            }
        }
    }

    fn wake(&mut self, cookie: u64, edge: Edge) {
        let Some(sock) = self.all.get_mut(&cookie) else { return };
        sock.edges += 1;
        let Some((_, interest)) = sock.watched else { return };
        let counts = match edge {
            Edge::State => true,
            Edge::Input => interest != Interest::HangUp,
            Edge::Room => interest == Interest::InputAndRoom,
        };
        if counts && !sock.is_ready {
            sock.is_ready = true;
            self.ready.push_back(cookie);
        }
    }

    /// Registers an end with the sentry's poller, or changes what it is watched for. What holds already is reported.
    pub(crate) fn watch(&mut self, cookie: u64, id: SocketId, interest: Interest) {
        let sock = self.get_mut(cookie);
        sock.watched = Some((id, interest));
        if !sock.reportable().is_empty() && !sock.is_ready {
            sock.is_ready = true;
            self.ready.push_back(cookie);
        }
    }

    pub(crate) fn is_watched(&self, cookie: u64) -> bool {
        self.get(cookie).watched.is_some()
    }

    pub(crate) fn unwatch(&mut self, cookie: u64) {
        self.get_mut(cookie).watched = None;
    }

    /// Takes an end that has something to report.
    pub(crate) fn take_ready(&mut self) -> Option<(SocketId, Events)> {
        while let Some(cookie) = self.ready.pop_front() {
            let Some(sock) = self.all.get_mut(&cookie) else { continue };
            sock.is_ready = false;
            let events = sock.reportable();
            if let Some((id, _)) = sock.watched
                && !events.is_empty()
            {
                return Some((id, events));
            }
        }
        None
    }

    /// Connects a stream socket to an end that nobody else has.
    pub(crate) fn join(&mut self, cookie: u64) -> Result<u64, Errno> {
        if self.get(cookie).connected {
            return Err(uapi::EISCONN);
        }
        let domain = self.get(cookie).domain;
        let end = self.make(Kind::Stream, domain, true);
        let name = self.fresh_name();
        self.connect(cookie, end, Some(name), None);
        self.wake(end, Edge::State);
        Ok(end)
    }

    fn connect(&mut self, a: u64, b: u64, name_of_b: Option<Name>, name_of_a: Option<Name>) {
        for (own, other, name) in [(a, b, name_of_b), (b, a, name_of_a)] {
            let sock = self.get_mut(own);
            sock.peer = Some(other);
            sock.connected = true;
            sock.peer_name = name;
        }
    }

    pub(crate) fn listen(&mut self, cookie: u64, backlog: u32) {
        let queue = &mut self.get_mut(cookie).listening;
        match queue {
            Some(queue) => queue.backlog = backlog as usize,
            None => *queue = Some(Queue { backlog: backlog as usize, waiting: VecDeque::new() }),
        }
    }

    /// Connects a new end to a listener: what becomes of a connection that arrives.
    pub(crate) fn offer(&mut self, listener: Name) -> Result<(u64, Name), Errno> {
        let cookie = *self.named.get(&listener).ok_or(uapi::ECONNREFUSED)?;
        let sock = self.get(cookie);
        let queue = sock.listening.as_ref().ok_or(uapi::ECONNREFUSED)?;
        if sock.reads_no_more {
            return Err(uapi::ECONNREFUSED);
        }
        if queue.waiting.len() > queue.backlog {
            return Err(uapi::EAGAIN);
        }
        let domain = sock.domain;
        let (end, accepted) = (self.make(Kind::Stream, domain, true), self.make(Kind::Stream, domain, false));
        let name = self.fresh_name();
        self.bind(end, name);
        self.get_mut(accepted).refs = 1;
        self.connect(end, accepted, Some(listener), Some(name));
        if let Some(queue) = &mut self.get_mut(cookie).listening {
            queue.waiting.push_back(accepted);
        }
        self.wake(cookie, Edge::Input);
        Ok((end, name))
    }

    /// Connects a socket of the program to a listener of the program.
    pub(crate) fn join_listener(&mut self, client: u64, listener: Name, pair: Pair) -> Result<(), Errno> {
        if self.get(client).connected {
            return Err(uapi::EISCONN);
        }
        let (end, _) = self.offer(listener)?;
        // The end that the offer has made is the client's own socket here.
        let accepted = self.get(end).peer.unwrap();
        let gone = self.all.remove(&end).unwrap();
        self.named.remove(&gone.name.unwrap());
        self.connect(client, accepted, Some(listener), None);
        self.get_mut(client).joined = Some((pair, Side::Client));
        self.get_mut(accepted).joined = Some((pair.reversed(), Side::Server));
        self.wake(client, Edge::State);
        Ok(())
    }

    /// Has a file reported once, when the program can go on with it.
    pub(crate) fn await_file(&mut self, cookie: u64, id: SocketId, events: Events) {
        self.get_mut(cookie).awaited = Some((id, events));
    }

    /// Whether urgent data lies in a queue.
    pub(crate) fn has_mark(&self, cookie: u64) -> bool {
        self.get(cookie).queue.iter().any(|chunk| chunk.is_mark)
    }

    /// How many bytes lie in a queue, urgent or not.
    pub(crate) fn queued(&self, cookie: u64) -> usize {
        self.get(cookie).queue.iter().map(|chunk| chunk.data.len() - chunk.gone).sum()
    }

    /// Takes it away.
    pub(crate) fn take_mark(&mut self, cookie: u64) {
        let queue = &mut self.get_mut(cookie).queue;
        if let Some(chunk) = queue.iter().position(|chunk| chunk.is_mark).and_then(|at| queue.remove(at)) {
            self.uncharge(chunk.from, chunk.charge());
        }
    }

    /// Takes a file of which something is to be reported.
    pub(crate) fn take_awaited(&mut self) -> Option<SocketId> {
        let mut cookies: Vec<u64> = self.all.keys().copied().collect();
        cookies.sort_unstable();
        cookies.into_iter().find_map(|cookie| {
            let sock = self.get_mut(cookie);
            let (id, wanted) = sock.awaited?;
            if !sock.poll().intersects(wanted | Events::ERR | Events::HUP) {
                return None;
            }
            sock.awaited = None;
            Some(id)
        })
    }

    /// Takes a connection off a queue: its reference goes to the caller.
    pub(crate) fn accept(&mut self, cookie: u64, nonblocking: bool) -> Result<u64, Errno> {
        let sock = self.get_mut(cookie);
        let queue = sock.listening.as_mut().ok_or(uapi::EINVAL)?;
        let Some(accepted) = queue.waiting.pop_front() else {
            return Err(if sock.reads_no_more { uapi::EINVAL } else { uapi::EAGAIN });
        };
        self.get_mut(accepted).nonblocking = nonblocking;
        Ok(accepted)
    }

    /// shutdown(2), of either half.
    pub(crate) fn shut(&mut self, cookie: u64, read: bool, write: bool) {
        let sock = self.get_mut(cookie);
        sock.reads_no_more |= read;
        sock.sends_no_more |= write;
        let peer = sock.peer.filter(|_| sock.kind == Kind::Stream);
        self.wake(cookie, Edge::State);
        if let Some(other) = peer.and_then(|peer| self.all.get_mut(&peer)) {
            other.sends_no_more |= read;
            other.reads_no_more |= write;
            self.wake(peer.unwrap(), Edge::State);
        }
    }

    pub(crate) fn take_error(&mut self, cookie: u64) -> bool {
        std::mem::take(&mut self.get_mut(cookie).error)
    }

    /// Sends without waiting.
    pub(crate) fn send(&mut self, cookie: u64, data: &[u8]) -> Result<usize, Errno> {
        match self.get(cookie).kind {
            Kind::Stream => self.send_stream(cookie, data),
            _ => self.send_datagram(cookie, data),
        }
    }

    fn send_stream(&mut self, cookie: u64, data: &[u8]) -> Result<usize, Errno> {
        let mut sent = 0;
        while sent < data.len() {
            let sock = self.get_mut(cookie);
            let refused = if !sock.connected {
                Some(uapi::ENOTCONN)
            } else if sock.sends_no_more {
                Some(uapi::EPIPE)
            } else if std::mem::take(&mut sock.error) {
                Some(uapi::ECONNRESET)
            } else if sock.charged >= sock.send_buffer {
                Some(uapi::EAGAIN)
            } else {
                None
            };
            if let Some(errno) = refused {
                return if sent > 0 { Ok(sent) } else { Err(errno) };
            }
            let chunk = (data.len() - sent).min((sock.send_buffer / 2).max(1));
            self.push(cookie, data[sent..sent + chunk].to_vec(), false);
            sent += chunk;
        }
        Ok(sent)
    }

    fn push(&mut self, from: u64, data: Vec<u8>, is_mark: bool) {
        let peer = self.get(from).peer.unwrap();
        let chunk = Chunk { data, gone: 0, is_mark, from };
        self.get_mut(from).charged += chunk.charge();
        self.get_mut(peer).queue.push_back(chunk);
        self.wake(peer, Edge::Input);
    }

    fn send_datagram(&mut self, cookie: u64, data: &[u8]) -> Result<usize, Errno> {
        let sock = self.get(cookie);
        let peer = sock.peer.ok_or(uapi::ENOTCONN)?;
        if sock.sends_no_more {
            return Err(uapi::EPIPE);
        }
        if data.len() > SEND_BUFFER {
            return Err(uapi::EMSGSIZE);
        }
        let Some(other) = self.all.get(&peer) else {
            // The peer is gone: the queue goes with it.
            self.get_mut(cookie).peer = None;
            self.purge(cookie);
            return Err(uapi::ECONNREFUSED);
        };
        if other.reads_no_more {
            return Err(uapi::EPIPE);
        }
        let room = sock.charged < sock.send_buffer;
        if !room || other.peer != Some(cookie) && other.queue.len() >= QUEUE {
            return Err(uapi::EAGAIN);
        }
        self.push(cookie, data.to_vec(), false);
        Ok(data.len())
    }

    fn purge(&mut self, cookie: u64) {
        for chunk in std::mem::take(&mut self.get_mut(cookie).queue) {
            self.uncharge(chunk.from, chunk.charge());
        }
    }

    /// Receives without waiting; answers the whole length of a datagram.
    pub(crate) fn receive(&mut self, cookie: u64, buf: &mut [u8], peek: bool) -> Result<usize, Errno> {
        match self.get(cookie).kind {
            Kind::Stream => self.receive_stream(cookie, buf, peek),
            _ => self.receive_datagram(cookie, buf, peek),
        }
    }

    fn receive_stream(&mut self, cookie: u64, buf: &mut [u8], peek: bool) -> Result<usize, Errno> {
        if !self.get(cookie).connected {
            return Err(uapi::EINVAL);
        }
        let mut copied = 0;
        let mut index = 0;
        while copied < buf.len() {
            let Some(chunk) = self.get_mut(cookie).queue.get_mut(index) else { break };
            if chunk.is_mark && copied > 0 {
                break;
            }
            if chunk.is_mark && peek {
                index += 1;
                continue;
            }
            let n = if chunk.is_mark { 0 } else { (chunk.data.len() - chunk.gone).min(buf.len() - copied) };
            buf[copied..copied + n].copy_from_slice(&chunk.data[chunk.gone..chunk.gone + n]);
            copied += n;
            if peek {
                index += 1;
                continue;
            }
            chunk.gone += n;
            if chunk.is_mark || chunk.gone == chunk.data.len() {
                let (from, charge) = (chunk.from, chunk.charge());
                self.get_mut(cookie).queue.pop_front();
                self.uncharge(from, charge);
            }
        }
        let sock = self.get_mut(cookie);
        if copied > 0 || buf.is_empty() {
            Ok(copied)
        } else if std::mem::take(&mut sock.error) {
            Err(uapi::ECONNRESET)
        } else if sock.reads_no_more {
            Ok(0)
        } else {
            Err(uapi::EAGAIN)
        }
    }

    fn receive_datagram(&mut self, cookie: u64, buf: &mut [u8], peek: bool) -> Result<usize, Errno> {
        let sock = self.get_mut(cookie);
        if std::mem::take(&mut sock.error) {
            return Err(uapi::ECONNRESET);
        }
        let Some(chunk) = sock.queue.front() else {
            return if sock.reads_no_more { Ok(0) } else { Err(uapi::EAGAIN) };
        };
        let (len, from, charge) = (chunk.data.len(), chunk.from, chunk.charge());
        let n = len.min(buf.len());
        buf[..n].copy_from_slice(&chunk.data[..n]);
        if !peek {
            sock.queue.pop_front();
            self.uncharge(from, charge);
        }
        Ok(len)
    }

    /// Leaves urgent data behind what was sent.
    pub(crate) fn mark(&mut self, cookie: u64) {
        let sock = self.get(cookie);
        let Some(peer) = sock.peer.filter(|peer| self.all.contains_key(peer)) else { return };
        if sock.connected && !sock.sends_no_more && !self.get(peer).reads_no_more {
            self.end_urgency(peer);
            self.push(cookie, vec![b'x'], true);
        }
    }

    /// What is urgent in a queue becomes a byte like any other, as another one comes.
    fn end_urgency(&mut self, cookie: u64) {
        self.get_mut(cookie).queue.iter_mut().for_each(|chunk| chunk.is_mark = false);
    }

    /// Sends, the last byte as urgent data; what was urgent before is not any more.
    pub(crate) fn send_urgent(&mut self, cookie: u64, data: &[u8]) -> Result<usize, Errno> {
        let Some((last, rest)) = data.split_last() else { return Err(uapi::EOPNOTSUPP) };
        if !rest.is_empty() {
            let sent = self.send(cookie, rest)?;
            if sent < rest.len() {
                return Ok(sent);
            }
        }
        let sock = self.get(cookie);
        let Some(peer) = sock.peer.filter(|peer| self.all.contains_key(peer)) else {
            return Err(uapi::EPIPE);
        };
        if sock.sends_no_more || self.get(peer).reads_no_more {
            return Err(uapi::EPIPE);
        }
        if sock.charged >= sock.send_buffer {
            return if rest.is_empty() { Err(uapi::EAGAIN) } else { Ok(rest.len()) };
        }
        self.end_urgency(peer);
        self.push(cookie, vec![*last], true);
        Ok(data.len())
    }

    /// The byte of urgent data that lies in a queue.
    pub(crate) fn urgent(&self, cookie: u64) -> Option<u8> {
        self.get(cookie).queue.iter().find(|chunk| chunk.is_mark)?.data.first().copied()
    }

    pub(crate) fn is_at_mark(&self, cookie: u64) -> bool {
        self.get(cookie).queue.front().is_some_and(|chunk| chunk.is_mark)
    }

    /// Sets the send buffer; more of it may make the socket writable, but wakes nobody.
    pub(crate) fn set_send_buffer(&mut self, cookie: u64, size: usize) {
        self.get_mut(cookie).send_buffer = size;
    }

    pub(crate) fn has_input(&self, cookie: u64) -> bool {
        let sock = self.get(cookie);
        !sock.queue.is_empty() || sock.reads_no_more
    }

    pub(crate) fn is_drained(&self, cookie: u64) -> bool {
        self.get(cookie).charged == 0
    }

    /// Whether bytes lie in the queue of a file.
    pub(crate) fn has_queued(&self, cookie: u64) -> bool {
        !self.get(cookie).queue.is_empty()
    }

    /// How many connections wait in a queue.
    pub(crate) fn waiting(&self, cookie: u64) -> usize {
        self.get(cookie).listening.as_ref().map_or(0, |queue| queue.waiting.len())
    }

    pub(crate) fn is_listening(&self, cookie: u64) -> bool {
        self.get(cookie).listening.is_some()
    }

    pub(crate) fn is_connected(&self, cookie: u64) -> bool {
        self.get(cookie).connected
    }

    pub(crate) fn is_open(&self, cookie: u64) -> bool {
        self.all.contains_key(&cookie)
    }

    /// Connects a datagram socket; what it was connected to before learns of it.
    pub(crate) fn aim(&mut self, cookie: u64, at: Option<u64>) {
        let old = std::mem::replace(&mut self.get_mut(cookie).peer, at);
        if old.is_none() || old == at || !self.has_queued(cookie) {
            return;
        }
        // unix_dgram_disconnected: what it has not read is lost, which a peer that is connected to it learns.
        self.purge(cookie);
        if let Some(other) = self.all.get_mut(&old.unwrap())
            && other.peer == Some(cookie)
        {
            other.error = true;
            self.wake(old.unwrap(), Edge::State);
        }
    }

    /// What poll(2) says of a file.
    pub(crate) fn poll(&self, cookie: u64) -> Events {
        self.get(cookie).poll()
    }
}

impl Sock {
    fn is_writable(&self) -> bool {
        self.charged * 4 <= self.send_buffer
    }

    fn poll(&self) -> Events {
        let mut events = Events::empty();
        events.set(Events::ERR, self.error);
        let closed = self.kind == Kind::Stream && !self.connected && self.listening.is_none();
        events.set(Events::HUP, self.reads_no_more && self.sends_no_more || closed);
        events.set(Events::RDHUP, self.reads_no_more);
        let waiting = self.listening.as_ref().is_some_and(|queue| !queue.waiting.is_empty());
        events.set(Events::IN, self.reads_no_more || waiting || !self.queue.is_empty());
        events.set(Events::OUT, self.listening.is_none() && self.is_writable());
        events
    }

    fn reportable(&self) -> Events {
        let Some((_, interest)) = self.watched else { return Events::empty() };
        let mask = match interest {
            Interest::HangUp => Events::RDHUP,
            Interest::Input => Events::IN | Events::RDHUP,
            Interest::InputAndRoom => Events::IN | Events::RDHUP | Events::OUT,
        };
        self.poll() & (mask | Events::ERR | Events::HUP)
    }
}

//! The TCP server: one thread, edge-triggered readiness, one read and one write per wake-up.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{io, mem};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use super::Life;
use crate::error::{Doing, Result};
use crate::wire::{BLOCK, CONNECT_BYTE, HELLO_BYTES, Mode};

const LISTENER: Token = Token(usize::MAX - 1);
const WAKER: Token = Token(usize::MAX - 2);

/// How often a server that hears nothing looks whether it should end.
const TICK: Duration = Duration::from_millis(500);

/// How many blocks one connection moves before the others get their turn.
const TURN: usize = 16;

/// A server and its connections. A connection's token is its place in `connections`.
pub(super) struct Server {
    poll: Poll,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Connections that have more to do although no event will say so.
    unfinished: VecDeque<usize>,
}

struct Connection {
    stream: TcpStream,
    phase: Phase,
}

/// Where a connection is.
enum Phase {
    /// Its first bytes are awaited.
    Hello { bytes: [u8; HELLO_BYTES], filled: usize },
    /// `partial` bytes of the next request are there, `owed` bytes of replies are not yet sent.
    Request { request: usize, reply: usize, partial: usize, owed: usize },
    /// Sends for ever.
    Source,
    /// Reads to the end.
    Sink { received: u64 },
    /// Tells the client how much came.
    Report { bytes: [u8; 8], sent: usize },
}

/// What a connection needs next.
enum Step {
    /// An event.
    Wait,
    /// Another turn, after the others had theirs.
    Again,
    /// To be forgotten.
    Close,
}

impl Server {
    /// A server at the address, which may leave the port to the system.
    pub(super) fn bind(address: SocketAddr) -> Result<Self> {
        let poll = Poll::new().doing(|| "making an epoll")?;
        let mut listener = TcpListener::bind(address).doing(|| format!("listening on TCP {address}"))?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)
            .doing(|| "polling the listener")?;
        Ok(Self { poll, listener, connections: Vec::new(), free: Vec::new(), unfinished: VecDeque::new() })
    }

    /// Wakes the server up from another thread.
    pub(super) fn waker(&self) -> Result<Waker> {
        Waker::new(self.poll.registry(), WAKER).doing(|| "making an eventfd")
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().doing(|| "asking for the server's address")
    }

    /// Serves until the life is over.
    pub(super) fn run(mut self, life: &Life) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BLOCK];
        let zeros = vec![0; BLOCK];
        let mut busy = Instant::now();
        loop {
            let wait = if self.unfinished.is_empty() { TICK } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                polled => polled.doing(|| "waiting for events")?,
            }
            let now = Instant::now();
            if !events.is_empty() || !self.unfinished.is_empty() {
                busy = now;
            }
            if life.is_over(now, busy) {
                return Ok(());
            }
            for _ in 0..self.unfinished.len() {
                if let Some(place) = self.unfinished.pop_front() {
                    self.turn(place, false, &mut buffer, &zeros);
                }
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    WAKER => {}
                    Token(place) => self.turn(place, event.is_read_closed(), &mut buffer, &zeros),
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.insert(stream)?,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    // The client gave up before it was accepted.
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
                    _ => return Err(error).doing(|| "accepting a connection"),
                },
            }
        }
    }

    fn insert(&mut self, mut stream: TcpStream) -> Result<()> {
        // Replies must not wait for acknowledgements; a stack that can't do that is measured without.
        let _nodelay = stream.set_nodelay(true);
        let place = self.free.pop().unwrap_or(self.connections.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, Token(place), interest)
            .doing(|| "polling a connection")?;
        let connection = Connection { stream, phase: Phase::Hello { bytes: [0; HELLO_BYTES], filled: 0 } };
        match self.connections.get_mut(place) {
            Some(slot) => *slot = Some(connection),
            None => self.connections.push(Some(connection)),
        }
        Ok(())
    }

    fn turn(&mut self, place: usize, ended: bool, buffer: &mut [u8], zeros: &[u8]) {
        // An event may be older than the connection's end; then there is nothing to do.
        let Some(slot) = self.connections.get_mut(place) else { return };
        let Some(connection) = slot else { return };
        match connection.drive(ended, buffer, zeros) {
            Ok(Step::Wait) => {}
            Ok(Step::Again) => {
                if !self.unfinished.contains(&place) {
                    self.unfinished.push_back(place);
                }
            }
            // Dropping the socket closes it, which also ends its registration.
            Ok(Step::Close) | Err(_) => {
                *slot = None;
                self.free.push(place);
            }
        }
    }
}

/// `None` when the call would block.
fn tried(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

impl Connection {
    /// Does what can be done now. `ended` says that an event reported the end of the input.
    fn drive(&mut self, ended: bool, buffer: &mut [u8], zeros: &[u8]) -> io::Result<Step> {
        loop {
            let step = match &mut self.phase {
                Phase::Hello { .. } => match self.hello()? {
                    None => continue,
                    Some(step) => step,
                },
                Phase::Request { request, reply, partial, owed } => {
                    let mut talk =
                        Talk { stream: &mut self.stream, request: *request, reply: *reply, partial, owed };
                    talk.serve(ended, buffer, zeros)?
                }
                Phase::Source => source(&mut self.stream, zeros)?,
                Phase::Sink { received } => match sink(&mut self.stream, received, buffer)? {
                    None => {
                        let bytes = received.to_be_bytes();
                        self.phase = Phase::Report { bytes, sent: 0 };
                        continue;
                    }
                    Some(step) => step,
                },
                Phase::Report { bytes, sent } => match tried(self.stream.write(&bytes[*sent..]))? {
                    None => Step::Wait,
                    Some(length) => {
                        *sent += length;
                        if *sent < bytes.len() {
                            continue;
                        }
                        Step::Close
                    }
                },
            };
            return Ok(step);
        }
    }

    /// Reads the first bytes; `None` when they are complete and the next phase has begun.
    fn hello(&mut self) -> io::Result<Option<Step>> {
        let Phase::Hello { bytes, filled } = &mut self.phase else { return Ok(None) };
        let Some(length) = tried(self.stream.read(&mut bytes[*filled..]))? else {
            return Ok(Some(Step::Wait));
        };
        if length == 0 {
            return Ok(Some(Step::Close));
        }
        *filled += length;
        if bytes[0] == CONNECT_BYTE {
            self.stream.write_all(&[CONNECT_BYTE])?;
            return Ok(Some(Step::Close));
        }
        if *filled < HELLO_BYTES {
            return Ok(None);
        }
        let next = match Mode::decode(bytes) {
            None => return Ok(Some(Step::Close)),
            Some(Mode::Request { request, reply }) => {
                Phase::Request { request: request as usize, reply: reply as usize, partial: 0, owed: 0 }
            }
            Some(Mode::Source) => Phase::Source,
            Some(Mode::Sink) => Phase::Sink { received: 0 },
        };
        let _hello = mem::replace(&mut self.phase, next);
        Ok(None)
    }
}

/// One connection of the request workload.
struct Talk<'a> {
    stream: &'a mut TcpStream,
    request: usize,
    reply: usize,
    partial: &'a mut usize,
    owed: &'a mut usize,
}

impl Talk<'_> {
    /// Reads requests and answers them. While a reply can't be sent, no further request is read, so a
    /// client that doesn't read can't make the debt grow.
    fn serve(&mut self, ended: bool, buffer: &mut [u8], zeros: &[u8]) -> io::Result<Step> {
        for _ in 0..TURN {
            if !self.pay(zeros)? {
                return Ok(Step::Wait);
            }
            let Some(length) = tried(self.stream.read(buffer))? else { return Ok(Step::Wait) };
            if length == 0 {
                return Ok(Step::Close);
            }
            let bytes = *self.partial + length;
            *self.partial = bytes % self.request;
            *self.owed += bytes / self.request * self.reply;
            // A short read emptied the socket: the next bytes raise an event of their own (epoll(7)).
            // An end that was already reported doesn't.
            if length < buffer.len() && !ended && self.pay(zeros)? {
                return Ok(Step::Wait);
            }
        }
        Ok(Step::Again)
    }

    /// Sends what is owed; whether nothing is left.
    fn pay(&mut self, zeros: &[u8]) -> io::Result<bool> {
        while *self.owed > 0 {
            let block = zeros.len().min(*self.owed);
            match tried(self.stream.write(&zeros[..block]))? {
                None => return Ok(false),
                Some(length) => *self.owed -= length,
            }
        }
        Ok(true)
    }
}

fn source(stream: &mut TcpStream, zeros: &[u8]) -> io::Result<Step> {
    for _ in 0..TURN {
        if tried(stream.write(zeros))?.is_none() {
            return Ok(Step::Wait);
        }
    }
    Ok(Step::Again)
}

/// Reads and counts; `None` at the end of file.
fn sink(stream: &mut TcpStream, received: &mut u64, buffer: &mut [u8]) -> io::Result<Option<Step>> {
    for _ in 0..TURN {
        match tried(stream.read(buffer))? {
            None => return Ok(Some(Step::Wait)),
            Some(0) => return Ok(None),
            Some(length) => *received += length as u64,
        }
    }
    Ok(Some(Step::Again))
}

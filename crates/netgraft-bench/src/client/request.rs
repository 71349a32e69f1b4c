//! `request` and `idle`: requests and replies on connections that stay open.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::error::{Doing, Error, Result};
use crate::outcome::{Bounds, Meter, Next, Outcome};
use crate::wire::{BLOCK, Mode};

/// What one turn of the loop sends and expects.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Bytes of one request.
    pub(super) request: u32,
    /// Bytes of one reply.
    pub(super) reply: u32,
    /// Requests that go out at once.
    pub(super) pipeline: u32,
}

struct Connection {
    stream: TcpStream,
    unsent: usize,
    awaited: usize,
    began: Instant,
}

/// Runs the loop on `connections` connections while `idle` more are open and silent.
pub(super) fn run(
    address: SocketAddr,
    connections: u32,
    idle: u32,
    sizes: Sizes,
    bounds: Bounds,
) -> Result<Outcome> {
    let mode = Mode::Request { request: sizes.request, reply: sizes.reply };
    let _silent = (0..idle).map(|_| super::dial(address, mode)).collect::<Result<Vec<_>>>()?;
    let mut poll = Poll::new().doing(|| "making an epoll")?;
    let mut driven = Vec::new();
    for place in 0..connections as usize {
        let stream = super::dial(address, mode)?;
        stream.set_nonblocking(true).doing(|| "setting O_NONBLOCK")?;
        let mut stream = TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(place), interest).doing(|| "polling a connection")?;
        driven.push(Connection { stream, unsent: 0, awaited: 0, began: Instant::now() });
    }
    drive(&mut poll, &mut driven, sizes, bounds)
}

fn drive(poll: &mut Poll, connections: &mut [Connection], sizes: Sizes, bounds: Bounds) -> Result<Outcome> {
    let batch = vec![0; sizes.request as usize * sizes.pipeline as usize];
    let mut scratch = vec![0; BLOCK];
    let mut events = Events::with_capacity(1024);
    let mut meter = Meter::new(Instant::now(), bounds);
    for connection in connections.iter_mut() {
        connection.begin(Instant::now(), &batch, sizes)?;
    }
    let until = meter.until();
    loop {
        super::wait(poll, &mut events, until)?;
        if events.is_empty() && Instant::now() >= until {
            return super::finish(meter, "requests/s");
        }
        for event in &events {
            let Some(connection) = connections.get_mut(event.token().0) else { continue };
            connection.send(&batch)?;
            if !connection.receive(&mut scratch)? {
                continue;
            }
            let now = Instant::now();
            if meter.record(connection.began, now, u64::from(sizes.pipeline)) == Next::Stop {
                return super::finish(meter, "requests/s");
            }
            connection.begin(now, &batch, sizes)?;
        }
    }
}

impl Connection {
    /// Starts a turn: all requests of a batch go out.
    fn begin(&mut self, now: Instant, batch: &[u8], sizes: Sizes) -> Result<()> {
        self.began = now;
        self.unsent = batch.len();
        self.awaited = sizes.reply as usize * sizes.pipeline as usize;
        self.send(batch)
    }

    /// Sends what the socket takes of the batch.
    fn send(&mut self, batch: &[u8]) -> Result<()> {
        while self.unsent > 0 {
            match self.stream.write(&batch[batch.len() - self.unsent..]) {
                Ok(length) => self.unsent -= length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).doing(|| "sending a request"),
            }
        }
        Ok(())
    }

    /// Reads what is there; whether that was the rest of what is awaited.
    fn receive(&mut self, scratch: &mut [u8]) -> Result<bool> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err(Error::Failed("the server closed a connection".to_owned())),
                Ok(length) if length > self.awaited => {
                    return Err(Error::Failed(format!(
                        "{length} bytes came where {} were awaited",
                        self.awaited
                    )));
                }
                Ok(length) => {
                    self.awaited -= length;
                    // Nothing can follow a complete reply, and a short read emptied the socket (epoll(7)).
                    if self.awaited == 0 || length < scratch.len() {
                        return Ok(self.awaited == 0);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).doing(|| "receiving a reply"),
            }
        }
    }
}

//! `connect`: the whole life of a short connection.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::error::{Doing, Error, Result};
use crate::outcome::{Bounds, Meter, Next, Outcome};
use crate::wire::CONNECT_BYTE;

struct Attempt {
    stream: TcpStream,
    stage: Stage,
    began: Instant,
}

/// How far a connection is.
enum Stage {
    /// The byte could not be sent yet.
    Connecting,
    /// The byte is sent, and its answer is awaited.
    Answer,
    /// The answer is there, and the end of file is awaited.
    End,
}

/// Keeps `connections` connections in the making. The server closes first, so that TIME-WAIT stays on
/// its side and the client's ports don't run out.
pub(super) fn run(address: SocketAddr, connections: u32, bounds: Bounds) -> Result<Outcome> {
    let mut poll = Poll::new().doing(|| "making an epoll")?;
    let mut events = Events::with_capacity(1024);
    let mut meter = Meter::new(Instant::now(), bounds);
    let until = meter.until();
    let mut attempts = (0..connections as usize)
        .map(|place| Attempt::begin(&poll, place, address, Instant::now()))
        .collect::<Result<Vec<_>>>()?;
    loop {
        super::wait(&mut poll, &mut events, until)?;
        if events.is_empty() && Instant::now() >= until {
            return super::finish(meter, "connections/s");
        }
        for event in &events {
            let place = event.token().0;
            let Some(attempt) = attempts.get_mut(place) else { continue };
            if !attempt.drive()? {
                continue;
            }
            let began = attempt.began;
            let now = Instant::now();
            if meter.record(began, now, 1) == Next::Stop {
                return super::finish(meter, "connections/s");
            }
            // The old socket is closed here, before the next is counted as begun.
            *attempt = Attempt::begin(&poll, place, address, now)?;
        }
    }
}

impl Attempt {
    fn begin(poll: &Poll, place: usize, address: SocketAddr, now: Instant) -> Result<Self> {
        let mut stream = TcpStream::connect(address).doing(|| format!("connecting to {address}"))?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(place), interest).doing(|| "polling a connection")?;
        Ok(Self { stream, stage: Stage::Connecting, began: now })
    }

    /// Does what can be done now; whether the connection has come to its end.
    fn drive(&mut self) -> Result<bool> {
        let mut byte = [0];
        loop {
            let done = match self.stage {
                Stage::Connecting => self.stream.write(&[CONNECT_BYTE]),
                Stage::Answer | Stage::End => self.stream.read(&mut byte),
            };
            self.stage = match (&self.stage, done) {
                (Stage::Connecting, Ok(_)) => Stage::Answer,
                (Stage::Answer, Ok(1)) if byte[0] == CONNECT_BYTE => Stage::End,
                (Stage::End, Ok(0)) => return Ok(true),
                (_, Ok(_)) => {
                    return Err(Error::Failed(
                        "the server did not answer with one byte and an end".to_owned(),
                    ));
                }
                (_, Err(error)) => match error.kind() {
                    // Not connected: a stack may say so while the handshake is under way.
                    ErrorKind::WouldBlock | ErrorKind::NotConnected => return Ok(false),
                    ErrorKind::Interrupted => continue,
                    _ => return Err(error).doing(|| "in a short connection"),
                },
            }
        }
    }
}

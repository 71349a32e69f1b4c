//! `bulk`: streams at full speed, a blocking thread for each.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::error::{Doing, Error, Result};
use crate::load::Direction;
use crate::outcome::{Bounds, Outcome};
use crate::wire::{BLOCK, Mode};

/// Moves bytes on all streams at once and counts what arrived.
///
/// Towards the server, the server counts and reports at the end, so that bytes which only fill buffers
/// are not taken for transferred ones.
pub(super) fn run(
    address: SocketAddr,
    direction: Direction,
    streams: u32,
    bounds: Bounds,
) -> Result<Outcome> {
    let mode = match direction {
        Direction::In => Mode::Source,
        Direction::Out => Mode::Sink,
    };
    let connections = (0..streams).map(|_| super::dial(address, mode)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let until = start + bounds.time;
    let share = bounds.count / u64::from(streams);
    let moved = std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .into_iter()
            .map(|stream| scope.spawn(move || one(stream, direction, until, share)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Error::Failed("a stream's thread panicked".to_owned())))
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let bytes: u64 = moved.iter().map(|(bytes, _)| bytes).sum();
    let end = moved.iter().map(|&(_, end)| end).max().unwrap_or(until);
    let seconds = (end - start).as_secs_f64();
    if bytes == 0 {
        return Err(Error::Failed("not one byte was transferred in time".to_owned()));
    }
    Ok(Outcome {
        rate: bytes as f64 * 8.0 / 1e9 / seconds,
        unit: "Gbit/s".to_owned(),
        operations: bytes,
        seconds,
        latency: None,
        lost: 0,
    })
}

/// One stream: how many bytes arrived at their destination, and when the last did.
fn one(stream: TcpStream, direction: Direction, until: Instant, share: u64) -> Result<(u64, Instant)> {
    match direction {
        Direction::In => receive(stream, until, share),
        Direction::Out => send(stream, until, share),
    }
}

fn receive(mut stream: TcpStream, until: Instant, share: u64) -> Result<(u64, Instant)> {
    // A server that stops sending must not keep the client beyond its time by much.
    stream.set_read_timeout(Some(Duration::from_millis(200))).doing(|| "setting SO_RCVTIMEO")?;
    let mut buffer = vec![0; BLOCK];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(Error::Failed("the server closed a bulk stream".to_owned())),
            Ok(length) => bytes += length as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).doing(|| "receiving a bulk stream"),
        }
        let now = Instant::now();
        if now >= until || bytes >= share {
            return Ok((bytes, now));
        }
    }
}

fn send(mut stream: TcpStream, until: Instant, share: u64) -> Result<(u64, Instant)> {
    stream.set_write_timeout(Some(super::PATIENCE)).doing(|| "setting SO_SNDTIMEO")?;
    stream.set_read_timeout(Some(super::PATIENCE)).doing(|| "setting SO_RCVTIMEO")?;
    let block = vec![0; BLOCK];
    let mut bytes = 0;
    while Instant::now() < until && bytes < share {
        match stream.write(&block) {
            Ok(length) => bytes += length as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).doing(|| "sending a bulk stream"),
        }
    }
    stream.shutdown(Shutdown::Write).doing(|| "ending a bulk stream")?;
    let mut report = [0; 8];
    stream.read_exact(&mut report).doing(|| "waiting for the server's count of the bytes")?;
    let received = u64::from_be_bytes(report);
    if received != bytes {
        return Err(Error::Failed(format!("{bytes} bytes were sent and {received} arrived")));
    }
    Ok((received, Instant::now()))
}

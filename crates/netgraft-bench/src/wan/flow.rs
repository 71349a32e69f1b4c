//! Flows of a known size or a known time over TCP, and what their sender had to send again.
//!
//! A connection begins with a head of [`HEAD`] bytes from the client: a magic number, the direction, a number of bytes (0
//! for as many as go through in the time) and a time in milliseconds.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use netgraft_linux::inet_socket;
use rustix::net::sockopt::{set_tcp_congestion, tcp_congestion};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::server::Ready;

const MAGIC: [u8; 4] = *b"NGW1";
const HEAD: usize = 4 + 4 + 8 + 8;
const BLOCK: usize = 128 * 1024;
/// How long a flow may stand still.
const STILL: Duration = Duration::from_secs(40);
/// How long a served flow may take to end after its client has.
const END: Duration = Duration::from_secs(2);
/// `IPPROTO_TCP`, `TCP_INFO` (linux/tcp.h) and the place of `tcpi_total_retrans` in it.
const TCP: i32 = 6;
const TCP_INFO: i32 = 11;
const TOTAL_RETRANS: usize = 100;

/// Which way the bytes of a flow go, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// To the client.
    In,
    /// From the client.
    Out,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    direction: Direction,
    bytes: u64,
    time: Duration,
}

impl Flow {
    fn encode(self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&MAGIC);
        head[4] = u8::from(self.direction == Direction::Out);
        head[8..16].copy_from_slice(&self.bytes.to_be_bytes());
        let millis = u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX);
        head[16..].copy_from_slice(&millis.to_be_bytes());
        head
    }

    fn decode(head: &[u8; HEAD]) -> Option<Flow> {
        let long = |at: usize| head[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let direction = match head[4..8] {
            [0, 0, 0, 0] => Direction::In,
            [1, 0, 0, 0] => Direction::Out,
            _ => return None,
        };
        let flow = Flow { direction, bytes: long(8), time: Duration::from_millis(long(16)) };
        (head[..4] == MAGIC && flow.time <= Duration::from_secs(3600)).then_some(flow)
    }
}

/// What one end saw of its flows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Payload bytes of all flows that this end received.
    pub(crate) bytes: u64,
    /// The time that they took, from the first to the last, in seconds.
    pub(crate) seconds: f64,
    /// The time of each flow from before its `connect` to its last byte, in milliseconds.
    pub(crate) completions: Vec<f64>,
    /// Segments that this end sent again; `None` if the stack does not say.
    pub(crate) retransmits: Option<u64>,
    /// The congestion control that this end's sockets had; `None` if the stack does not say.
    pub(crate) congestion: Option<String>,
    /// Payload bytes of each flow that this end received, of flows at the same time.
    #[serde(default)]
    pub(crate) each: Vec<u64>,
}

/// Asks for a congestion control; the one that a socket has then.
fn choose(socket: impl AsFd, congestion: &str) -> Option<String> {
    // What a stack refuses is seen by what it says it has.
    let _ = set_tcp_congestion(&socket, congestion);
    tcp_congestion(socket).ok()
}

fn retransmits(socket: &TcpStream) -> Option<u64> {
    let mut info = [0; 256];
    let len = inet_socket::getsockopt(socket.as_fd(), TCP, TCP_INFO, &mut info).ok()?;
    let word = info[..len].get(TOTAL_RETRANS..)?.first_chunk()?;
    Some(u64::from(u32::from_ne_bytes(*word)))
}

/// Serves flows until standard input ends, then prints what it saw as one line of JSON. The first line that it prints says
/// where it listens.
pub(crate) fn serve(listen: SocketAddr, congestion: &str) -> Result<()> {
    let listener = TcpListener::bind(listen).doing(|| format!("listening on {listen}"))?;
    let chosen = choose(&listener, congestion);
    let listening = listener.local_addr().doing(|| "asking for the listener's address")?;
    print(&Ready { listening })?;
    let (sender, served) = sync_channel(1024);
    let accepted: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            accepted.fetch_add(1, Ordering::Relaxed);
            let sender = sender.clone();
            std::thread::spawn(move || {
                // A flow that breaks is the client's to report.
                let seen = socket.and_then(|socket| answer(&socket)).ok();
                let _ = sender.send(seen);
            });
        }
    });
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).doing(|| "waiting for the end of standard input")?;
    let mut all = Seen { retransmits: Some(0), congestion: chosen, ..Seen::default() };
    for _ in 0..accepted.load(Ordering::Relaxed) {
        // The last ones may be about to see that their client is gone.
        if let Some((bytes, again)) = served.recv_timeout(END).ok().flatten() {
            all.bytes += bytes;
            all.retransmits = all.retransmits.zip(again).map(|(sum, more)| sum + more);
        }
    }
    print(&all)
}

pub(super) fn print(what: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(what).doing(|| "writing JSON")?;
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).doing(|| "printing")
}

/// No wait is endless, and the last segment of a flow does not wait for an acknowledgement (Nagle).
fn prepare(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(STILL))?;
    socket.set_write_timeout(Some(STILL))
}

/// One connection of the server's: bytes received within the flow's time, and what was sent again.
fn answer(mut socket: &TcpStream) -> std::io::Result<(u64, Option<u64>)> {
    prepare(socket)?;
    let mut head = [0; HEAD];
    socket.read_exact(&mut head)?;
    let flow = Flow::decode(&head).ok_or(ErrorKind::InvalidData)?;
    match flow.direction {
        Direction::In => {
            // A client whose time is over closes.
            send(socket, flow.bytes, None)?;
            if flow.bytes > 0 {
                socket.shutdown(std::net::Shutdown::Write)?;
                // Until the client has it all.
                let _ = socket.read(&mut head)?;
            }
            Ok((0, retransmits(socket)))
        }
        Direction::Out => {
            let until = (flow.bytes == 0).then(|| Instant::now() + flow.time);
            let got = receive(socket, flow.bytes, until)?;
            socket.write_all(&got.to_be_bytes())?;
            Ok((got, retransmits(socket)))
        }
    }
}

/// Sends so many bytes; 0 for until the time or the other side ends it.
fn send(mut socket: &TcpStream, bytes: u64, until: Option<Instant>) -> std::io::Result<()> {
    let block = vec![0; BLOCK];
    let mut left = if bytes == 0 { u64::MAX } else { bytes };
    while left > 0 && until.is_none_or(|until| Instant::now() < until) {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK);
        match socket.write(&block[..len]) {
            Ok(written) => left -= written as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A client whose time is over.
            Err(_) if bytes == 0 && until.is_none() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads so many bytes, or to the end if that is 0; how many came until then.
fn receive(mut socket: &TcpStream, bytes: u64, until: Option<Instant>) -> std::io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let (mut all, mut counted) = (0, 0);
    loop {
        let got = match socket.read(&mut block) {
            Ok(0) => break,
            Ok(got) => got as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        all += got;
        if until.is_none_or(|until| Instant::now() < until) {
            counted += got;
        }
        if bytes > 0 && all >= bytes {
            break;
        }
    }
    if bytes > 0 && all != bytes {
        return Err(std::io::Error::other(format!("{all} of {bytes} bytes came")));
    }
    Ok(counted)
}

/// Makes flows, one after the other, of `bytes` each, or one that takes `time` if that is 0.
pub(crate) fn dial(
    to: SocketAddr,
    congestion: &str,
    direction: Direction,
    bytes: u64,
    times: u32,
    time: Duration,
) -> Result<Seen> {
    let mut seen = Seen { retransmits: Some(0), ..Seen::default() };
    let began = Instant::now();
    for _ in 0..if bytes == 0 { 1 } else { times } {
        let start = Instant::now();
        let socket = connect(to, congestion).doing(|| format!("connecting to {to}"))?;
        seen.congestion = tcp_congestion(&socket).ok();
        let flow = Flow { direction, bytes, time };
        let again = match direction {
            Direction::In => take(&socket, flow, &mut seen),
            Direction::Out => give(&socket, flow, &mut seen),
        }
        .doing(|| format!("a flow of {bytes} bytes"))?;
        seen.completions.push(start.elapsed().as_secs_f64() * 1e3);
        seen.retransmits = seen.retransmits.zip(again).map(|(sum, more)| sum + more);
    }
    seen.seconds = if bytes == 0 { time } else { began.elapsed() }.as_secs_f64();
    Ok(seen)
}

/// Makes so many flows at the same time, each of which takes `time`.
pub(crate) fn dial_several(
    to: SocketAddr,
    congestion: &str,
    direction: Direction,
    count: u32,
    time: Duration,
) -> Result<Seen> {
    let flows: Vec<Result<Seen>> = std::thread::scope(|scope| {
        let flow = || dial(to, congestion, direction, 0, 1, time);
        let running: Vec<_> = (0..count).map(|_| scope.spawn(flow)).collect();
        let broken = || Error::Failed("a flow's thread has ended".to_owned());
        running.into_iter().map(|thread| thread.join().map_err(|_| broken())?).collect()
    });
    let mut all = Seen { retransmits: Some(0), seconds: time.as_secs_f64(), ..Seen::default() };
    for seen in flows {
        let seen = seen?;
        all.bytes += seen.bytes;
        all.each.push(seen.bytes);
        all.congestion = seen.congestion;
        all.retransmits = all.retransmits.zip(seen.retransmits).map(|(sum, more)| sum + more);
    }
    Ok(all)
}

/// The congestion control has to be chosen before the connection is made: what a stack does in its first round trip is its.
fn connect(to: SocketAddr, congestion: &str) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, connect, socket};
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None)?;
    choose(&socket, congestion);
    connect(&socket, &to)?;
    let socket = TcpStream::from(socket);
    prepare(&socket)?;
    Ok(socket)
}

fn take(mut socket: &TcpStream, flow: Flow, seen: &mut Seen) -> std::io::Result<Option<u64>> {
    socket.write_all(&flow.encode())?;
    if flow.bytes > 0 {
        seen.bytes += receive(socket, flow.bytes, None)?;
        return Ok(retransmits(socket));
    }
    let until = Instant::now() + flow.time;
    let mut block = vec![0; BLOCK];
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut block) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(got) => seen.bytes += got as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(retransmits(socket))
}

fn give(mut socket: &TcpStream, flow: Flow, seen: &mut Seen) -> std::io::Result<Option<u64>> {
    socket.write_all(&flow.encode())?;
    let until = (flow.bytes == 0).then(|| Instant::now() + flow.time);
    send(socket, flow.bytes, until)?;
    if flow.bytes == 0 {
        socket.shutdown(std::net::Shutdown::Write)?;
    }
    let mut count = [0; 8];
    socket.read_exact(&mut count)?;
    seen.bytes += u64::from_be_bytes(count);
    Ok(retransmits(socket))
}

/// What a server printed last.
pub(crate) fn seen_in(lines: &[String]) -> Result<Seen> {
    let line = lines.last().map_or("", String::as_str);
    serde_json::from_str(line).map_err(|error| Error::Failed(format!("no flows but {line:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_the_wire_and_nonsense_does_not() {
        for direction in [Direction::In, Direction::Out] {
            let flow = Flow { direction, bytes: 1 << 40, time: Duration::from_millis(2500) };
            assert_eq!(Flow::decode(&flow.encode()), Some(flow));
        }
        assert_eq!(Flow::decode(&[0; HEAD]), None);
        let mut head = Flow { direction: Direction::In, bytes: 1, time: Duration::ZERO }.encode();
        head[5] = 1;
        assert_eq!(Flow::decode(&head), None);
        let endless = Flow { direction: Direction::In, bytes: 1, time: Duration::MAX };
        assert_eq!(Flow::decode(&endless.encode()), None);
    }

    #[test]
    fn flows_of_both_directions_have_their_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            (0..6).map(|_| answer(&listener.accept().unwrap().0).unwrap().0).collect::<Vec<u64>>()
        });
        for direction in [Direction::In, Direction::Out] {
            let seen = dial(to, "cubic", direction, 300_000, 2, Duration::ZERO).unwrap();
            assert_eq!((seen.bytes, seen.completions.len()), (600_000, 2));
            let seen = dial(to, "cubic", direction, 0, 1, Duration::from_millis(30)).unwrap();
            assert!(seen.bytes > 0 && seen.retransmits.is_some(), "{seen:?}");
        }
        let received = server.join().unwrap();
        assert_eq!(received[..5], [0, 0, 0, 300_000, 300_000]);
        assert!(received[5] > 0);
    }
}

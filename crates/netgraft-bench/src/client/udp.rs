//! `udp`: requests and replies in datagrams, on connected sockets.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};

use crate::error::{Doing, Result};
use crate::outcome::{Bounds, Meter, Next, Outcome};

/// After this a datagram is given up for lost and the next is sent.
const LOST_AFTER: Duration = Duration::from_millis(100);

struct Socket {
    socket: UdpSocket,
    /// Number of the request whose reply is awaited; a late reply to an earlier one is passed over.
    number: u64,
    began: Instant,
}

/// Runs the loop on `connections` sockets with datagrams of `size` bytes, at least 8.
pub(super) fn run(address: SocketAddr, connections: u32, size: usize, bounds: Bounds) -> Result<Outcome> {
    let mut poll = Poll::new().doing(|| "making an epoll")?;
    let mut sockets = (0..connections as usize)
        .map(|place| Socket::connect(&poll, place, address))
        .collect::<Result<Vec<_>>>()?;
    let mut datagram = vec![0; size];
    let mut reply = vec![0; size];
    let mut events = Events::with_capacity(1024);
    let mut meter = Meter::new(Instant::now(), bounds);
    let until = meter.until();
    for socket in &mut sockets {
        socket.send(Instant::now(), &mut datagram)?;
    }
    let mut sweep = Instant::now() + LOST_AFTER;
    loop {
        super::wait(&mut poll, &mut events, sweep.min(until))?;
        for event in &events {
            let Some(socket) = sockets.get_mut(event.token().0) else { continue };
            if !socket.receive(&mut reply)? {
                continue;
            }
            let now = Instant::now();
            if meter.record(socket.began, now, 1) == Next::Stop {
                return super::finish(meter, "datagrams/s");
            }
            socket.send(now, &mut datagram)?;
        }
        let now = Instant::now();
        if now >= until {
            return super::finish(meter, "datagrams/s");
        }
        if now >= sweep {
            for socket in sockets.iter_mut().filter(|socket| now - socket.began >= LOST_AFTER) {
                meter.lose();
                socket.send(now, &mut datagram)?;
            }
            sweep = now + LOST_AFTER;
        }
    }
}

impl Socket {
    fn connect(poll: &Poll, place: usize, address: SocketAddr) -> Result<Self> {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let mut socket = UdpSocket::bind(any).doing(|| "binding a UDP socket")?;
        socket.connect(address).doing(|| format!("connecting UDP to {address}"))?;
        poll.registry()
            .register(&mut socket, Token(place), Interest::READABLE)
            .doing(|| "polling a socket")?;
        Ok(Self { socket, number: 0, began: Instant::now() })
    }

    /// Sends the next request.
    fn send(&mut self, now: Instant, datagram: &mut [u8]) -> Result<()> {
        self.number += 1;
        self.began = now;
        datagram[..8].copy_from_slice(&self.number.to_be_bytes());
        match self.socket.send(datagram) {
            // A datagram that finds no room is lost, and is counted so when its time is over.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            sent => sent.map(|_| ()).doing(|| "sending a datagram"),
        }
    }

    /// Reads until the awaited reply or nothing more is there; whether it came.
    fn receive(&mut self, reply: &mut [u8]) -> Result<bool> {
        loop {
            match self.socket.recv(reply) {
                Ok(length) if length == reply.len() && reply[..8] == self.number.to_be_bytes() => {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).doing(|| "receiving a datagram"),
            }
        }
    }
}

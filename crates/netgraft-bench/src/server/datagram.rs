//! The UDP server: one socket, which sends every datagram back to where it came from.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::Life;
use crate::error::{Doing, Result};

/// How often a server that hears nothing looks whether it should end.
const TICK: Duration = Duration::from_millis(100);

/// An echo server.
pub(super) struct Server {
    socket: UdpSocket,
}

impl Server {
    /// A server at the address, which may leave the port to the system.
    pub(super) fn bind(address: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind(address).doing(|| format!("binding UDP {address}"))?;
        socket.set_read_timeout(Some(TICK)).doing(|| "setting SO_RCVTIMEO")?;
        Ok(Self { socket })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Result<SocketAddr> {
        self.socket.local_addr().doing(|| "asking for the server's address")
    }

    /// Serves until the life is over.
    pub(super) fn run(self, life: &Life) -> Result<()> {
        let mut buffer = vec![0; 65_535];
        let mut busy = Instant::now();
        loop {
            let received = self.socket.recv_from(&mut buffer);
            let now = Instant::now();
            match received {
                Ok((length, peer)) => {
                    busy = now;
                    // A reply that the system can't take is lost, as any datagram may be.
                    let _sent = self.socket.send_to(&buffer[..length], peer);
                }
                // An earlier reply met a closed port, which is no fault of this server's.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).doing(|| "receiving a datagram"),
            }
            if life.is_over(now, busy) {
                return Ok(());
            }
        }
    }
}

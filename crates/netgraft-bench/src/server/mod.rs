//! The server of every workload: one thread, as redis has.
//!
//! It prints one line of JSON with its address when it is ready, and ends at the first of: its time is
//! up, its standard input ends, nothing happened for a while.

mod datagram;
mod stream;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};
use crate::load::Protocol;

/// What the server says when it is ready, as one line of JSON.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Where it listens.
    pub(crate) listening: SocketAddr,
}

/// When the server ends.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    until: Instant,
    quiet: Duration,
    stop: Arc<AtomicBool>,
}

impl Life {
    /// A life that ends after `time`, or after `quiet` without traffic, or when it is told to stop.
    pub(crate) fn new(now: Instant, time: Duration, quiet: Duration) -> Self {
        Self { until: now + time, quiet, stop: Arc::default() }
    }

    /// Whether the life is over, when the last traffic was at `busy`.
    fn is_over(&self, now: Instant, busy: Instant) -> bool {
        self.stop.load(Ordering::Relaxed) || now >= self.until || now - busy >= self.quiet
    }
}

/// Serves `protocol` at `address` until `life` is over or the standard input ends.
///
/// # Errors
/// The address can't be had, or the system refuses what a server needs. A client that misbehaves is
/// only closed.
pub(crate) fn run(protocol: Protocol, address: SocketAddr, life: Life, watch_input: bool) -> Result<()> {
    match protocol {
        Protocol::Tcp => {
            let server = stream::Server::bind(address)?;
            let waker = server.waker()?;
            watch(watch_input, &life, move || waker.wake().is_ok());
            announce(server.address()?)?;
            server.run(&life)
        }
        Protocol::Udp => {
            let server = datagram::Server::bind(address)?;
            watch(watch_input, &life, || true);
            announce(server.address()?)?;
            server.run(&life)
        }
    }
}

fn announce(listening: SocketAddr) -> Result<()> {
    let line = serde_json::to_string(&Ready { listening }).doing(|| "writing the address as JSON")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).doing(|| "printing the address")
}

/// Ends the life when the standard input does, so that a server never outlives the one who started it.
fn watch(watch_input: bool, life: &Life, wake: impl Fn() -> bool + Send + 'static) {
    if !watch_input {
        return;
    }
    let stop = Arc::clone(&life.stop);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut scratch = [0; 256];
        while matches!(input.read(&mut scratch), Ok(1..)) {}
        stop.store(true, Ordering::Relaxed);
        wake()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_ends_by_time_by_quiet_and_by_order() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let life = Life::new(start, 10 * second, 3 * second);
        assert!(!life.is_over(start + 2 * second, start));
        assert!(life.is_over(start + 3 * second, start));
        assert!(!life.is_over(start + 9 * second, start + 8 * second));
        assert!(life.is_over(start + 10 * second, start + 9 * second));
        life.stop.store(true, Ordering::Relaxed);
        assert!(life.is_over(start, start));
    }
}

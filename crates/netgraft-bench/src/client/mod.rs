//! The client of every workload. One thread drives all connections of a closed loop.

mod bulk;
mod connect;
mod control;
mod request;
mod udp;

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::error::{Doing, Error, Result};
use crate::load::Workload;
use crate::outcome::{Bounds, Meter, Outcome};
use crate::wire::Mode;

/// How long anything may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a workload against the server at `address`.
///
/// # Errors
/// Nothing listens there, the server doesn't answer, or a connection breaks. A figure that such a run
/// would give is never returned.
pub(crate) fn run(workload: &Workload, address: SocketAddr, bounds: Bounds) -> Result<Outcome> {
    match *workload {
        Workload::Request { connections, request_size, reply_size, pipeline } => {
            let sizes = request::Sizes { request: request_size, reply: reply_size, pipeline };
            request::run(address, connections, 0, sizes, bounds)
        }
        Workload::Idle { connections, idle } => {
            let sizes = request::Sizes { request: 40, reply: 16, pipeline: 1 };
            request::run(address, connections, idle, sizes, bounds)
        }
        Workload::Bulk { direction, streams } => bulk::run(address, direction, streams, bounds),
        Workload::Connect { connections } => connect::run(address, connections, bounds),
        Workload::Udp { connections, size } => udp::run(address, connections, size as usize, bounds),
        Workload::Control => control::run(bounds),
        Workload::Redis { .. } | Workload::Iperf3 { .. } => {
            Err(Error::Failed("redis and iperf3 bring their own client: use `pair`".to_owned()))
        }
    }
}

/// Connects and says what the connection is for.
fn dial(address: SocketAddr, mode: Mode) -> Result<TcpStream> {
    let mut stream =
        TcpStream::connect_timeout(&address, PATIENCE).doing(|| format!("connecting to {address}"))?;
    // A stack that can't do that is measured without.
    let _nodelay = stream.set_nodelay(true);
    stream.write_all(&mode.encode()).doing(|| "sending the hello")?;
    Ok(stream)
}

/// Waits for events until one comes or `until`.
fn wait(poll: &mut Poll, events: &mut Events, until: Instant) -> Result<()> {
    // epoll counts in milliseconds, and mio rounds up: the meter, not this, decides what is counted.
    let timeout = until.saturating_duration_since(Instant::now());
    match poll.poll(events, Some(timeout)) {
        Err(error) if error.kind() == ErrorKind::Interrupted => crate::process::check_interrupt(),
        polled => polled.doing(|| "waiting for events"),
    }
}

/// The outcome of a meter, or what it means that it counted nothing.
fn finish(meter: Meter, unit: &str) -> Result<Outcome> {
    meter
        .finish(unit)
        .ok_or_else(|| Error::Failed(format!("no {unit} at all: the other side never answered in time")))
}

//! `control`: what a call costs that only the sentry can answer.

use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::error::{Doing, Result};
use crate::outcome::{Bounds, Meter, Next, Outcome};

/// Makes and closes TCP sockets, one after the other.
pub(super) fn run(bounds: Bounds) -> Result<Outcome> {
    let mut began = Instant::now();
    let mut meter = Meter::new(began, bounds);
    loop {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        drop(socket.doing(|| "making a socket")?);
        let now = Instant::now();
        if meter.record(began, now, 1) == Next::Stop {
            return super::finish(meter, "sockets/s");
        }
        began = now;
    }
}

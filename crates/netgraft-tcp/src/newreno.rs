//! NewReno. Read RFC 5681 section 3.1, RFC 3465 (byte counting) and RFC 6582 first. What RFC 6582 says of retransmission
//! is in `sender`.

use std::time::Duration;

use crate::congestion::{Acknowledged, Congestion, Control, Window, restart};
use crate::time::Instant;

/// The algorithm has no state but the window.
#[derive(Debug)]
pub(crate) struct NewReno;

impl Control for NewReno {
    fn acknowledged(&mut self, window: &mut Window, ack: &Acknowledged) {
        // Only new data acknowledged in order lets the window grow (RFC 5681 section 3.1).
        if ack.recovering || !ack.limited || ack.advanced == 0 {
            return;
        }
        let mut bytes = ack.delivered;
        if window.in_slow_start() {
            // "During slow start, a TCP increments cwnd by at most SMSS bytes for each ACK received that cumulatively
            // acknowledges new data." By bytes: RFC 3465 section 2.1.
            let grow = bytes.min(window.threshold - window.congestion);
            window.congestion += grow;
            bytes -= grow;
        }
        // "A recommended way to increase cwnd during congestion avoidance is [...] cwnd += SMSS*SMSS/cwnd".
        window.congestion += window.mss * bytes / window.congestion.max(1);
    }

    fn congested(&mut self, window: &mut Window, what: Congestion, in_flight: u64, _now: Instant) {
        // "ssthresh = max (FlightSize / 2, 2*SMSS)" (RFC 5681 equation 4).
        let flight = in_flight.min(window.congestion);
        window.threshold = (flight / 2).max(2 * window.mss);
        if what == Congestion::Timeout {
            // "cwnd MUST be set to no more than the loss window, LW, which equals 1 full-sized segment".
            window.congestion = window.mss;
        }
    }

    fn undone(&mut self, _window: &mut Window) {}

    fn resumed(&mut self, window: &mut Window, idle: Duration, timeout: Duration) {
        restart(window, idle, timeout);
    }
}

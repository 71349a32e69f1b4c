//! BBR, version 3. Read draft-ietf-ccwg-bbr sections 2, 4 and 5 first.

use std::time::Duration;

use crate::congestion::{Acknowledged, Congestion, Control, Window};
use crate::time::Instant;

/// The model of the path.
#[derive(Debug)]
pub(crate) struct Bbr;

impl Bbr {
    pub(crate) fn new(_window: &mut Window, _now: Instant) -> Self {
        Bbr
    }
}

impl Control for Bbr {
    fn acknowledged(&mut self, _window: &mut Window, _ack: &Acknowledged) {}
    fn congested(&mut self, _window: &mut Window, _what: Congestion, _in_flight: u64, _now: Instant) {}
    fn undone(&mut self, _window: &mut Window) {}
    fn resumed(&mut self, _window: &mut Window, _idle: Duration, _timeout: Duration) {}
    fn rules_recovery(&self) -> bool {
        true
    }
}

//! Clocks for the code that drives a stack: a simulated one, and the machine's.

use std::time::Duration;

use netgraft_plugin::Instant;

/// A clock that stands still until it is moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct FakeClock {
    now: Instant,
}

impl FakeClock {
    /// A clock that shows `now`.
    #[must_use]
    pub const fn at(now: Instant) -> Self {
        FakeClock { now }
    }

    /// The time it shows.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Moves it on.
    pub fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
    }

    /// Moves it to `to`, never back.
    pub fn advance_to(&mut self, to: Instant) {
        self.now = self.now.max(to);
    }
}

/// The machine's monotonic clock, from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct RealClock {
    start: std::time::Instant,
}

impl RealClock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        RealClock { start: std::time::Instant::now() }
    }

    /// The time since the start.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fake_clock_moves_only_forward_and_only_when_told() {
        let mut clock = FakeClock::default();
        clock.advance(Duration::from_millis(3));
        clock.advance_to(Instant::from_millis(1));
        assert_eq!(clock.now(), Instant::from_millis(3));
        clock.advance_to(Instant::from_millis(5));
        assert_eq!(clock.now(), Instant::from_millis(5));
    }
}

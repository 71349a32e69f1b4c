//! What a link does to frames on purpose: the description that an operator gives and a link keeps to.

use std::num::NonZeroU64;
use std::time::Duration;

/// A share of all frames, in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

impl Share {
    /// No frame.
    pub const NONE: Share = Share(0);
    /// Every frame.
    pub const ALL: Share = Share(1_000_000);

    /// So many of a million; all of them if it is more.
    #[must_use]
    pub const fn from_ppm(ppm: u32) -> Share {
        if ppm > 1_000_000 { Share::ALL } else { Share(ppm) }
    }

    /// So many of a hundred; all of them if it is more.
    #[must_use]
    pub const fn from_percent(percent: u32) -> Share {
        Share::from_ppm(percent.saturating_mul(10_000))
    }

    /// Parts per million.
    #[must_use]
    pub const fn ppm(self) -> u32 {
        self.0
    }
}

/// Which frames are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each with the same chance, whatever became of the ones before.
    Random(Share),
    /// In bursts: the model of Gilbert and Elliott, a line that is good or bad.
    Bursts(Bursts),
}

/// Loss in bursts. Each frame finds the line as the one before it left it, good at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bursts {
    /// The chance of each frame on a good line that the line is bad from this one on.
    pub begin: Share,
    /// The chance of each frame on a bad line that the line is good from this one on; its inverse is the mean length of a
    /// burst.
    pub end: Share,
    /// The loss on a bad line.
    pub within: Share,
    /// The loss on a good line.
    pub outside: Share,
}

/// A number of bits each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// So many bits each second; `None` for 0.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Rate> {
        match NonZeroU64::new(bits) {
            Some(bits) => Some(Rate(bits)),
            None => None,
        }
    }

    /// Bits each second.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0.get()
    }

    /// How long so many bytes take.
    #[must_use]
    pub fn time_of(self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.bits());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What happens to the frames of one direction, in this order: they wait in a queue for the rate, some are lost, damaged
/// or doubled on the way, and the rest arrives after the delay. The default leaves them alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Faults {
    /// How fast frames enter the line; `None` for at once. What counts is the length of a frame with its link header.
    pub rate: Option<Rate>,
    /// How many frames may wait for the rate, beside the one that enters; one that finds the queue full is lost.
    pub queue: u32,
    /// Which frames are lost.
    pub loss: Loss,
    /// Frames in which one bit is wrong.
    pub corrupt: Share,
    /// Frames that arrive twice, one right behind the other.
    pub duplicate: Share,
    /// The time that each frame takes.
    pub delay: Duration,
    /// How much more or less it may be. Frames do not pass each other by it.
    pub jitter: Duration,
    /// Frames that later ones may pass.
    pub reorder: Share,
    /// How much longer those take.
    pub reorder_by: Duration,
}

impl Faults {
    /// The default of [`Faults::queue`]: that of Linux's devices and of tc-netem(8).
    pub const QUEUE: u32 = 1000;
    /// The default of [`Faults::reorder_by`].
    pub const REORDER_BY: Duration = Duration::from_millis(3);
}

impl Default for Faults {
    fn default() -> Self {
        Faults {
            rate: None,
            queue: Faults::QUEUE,
            loss: Loss::None,
            corrupt: Share::NONE,
            duplicate: Share::NONE,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: Share::NONE,
            reorder_by: Faults::REORDER_BY,
        }
    }
}

/// What happens to the frames of a link, as the stack on it sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LinkFaults {
    /// Those to the stack.
    pub incoming: Faults,
    /// Those from the stack.
    pub outgoing: Faults,
}

impl LinkFaults {
    /// The same in both directions.
    #[must_use]
    pub const fn both(faults: Faults) -> LinkFaults {
        LinkFaults { incoming: faults, outgoing: faults }
    }

    /// In the direction to the stack alone.
    #[must_use]
    pub fn only_incoming(faults: Faults) -> LinkFaults {
        LinkFaults { incoming: faults, outgoing: Faults::default() }
    }

    /// Whether all frames pass at once and unchanged.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == LinkFaults::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_end_at_all_and_rates_have_times() {
        assert_eq!(Share::from_ppm(2_000_000), Share::ALL);
        assert_eq!(Share::from_percent(101), Share::ALL);
        assert_eq!(Share::from_percent(1).ppm(), 10_000);
        assert_eq!(Rate::from_bits(0), None);
        let rate = Rate::from_bits(1_000_000).unwrap();
        assert_eq!(rate.time_of(125), Duration::from_millis(1));
        assert_eq!(Rate::from_bits(1).unwrap().time_of(usize::MAX), Duration::from_nanos(u64::MAX));
        assert!(LinkFaults::default().is_none());
        assert!(!LinkFaults::only_incoming(Faults { corrupt: Share::ALL, ..Faults::default() }).is_none());
    }
}

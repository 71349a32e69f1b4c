//! The one clock of a process, read by the shell around the stacks and never by them.

use std::sync::OnceLock;
use std::time::Instant as StdInstant;

use netgraft_plugin::Instant;

/// Nanoseconds of the monotonic clock since the first call in this process or in the one it was forked from.
#[must_use]
pub fn now() -> Instant {
    static START: OnceLock<StdInstant> = OnceLock::new();
    let elapsed = START.get_or_init(StdInstant::now).elapsed();
    Instant::from_nanos(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
}

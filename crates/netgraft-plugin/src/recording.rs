//! The end of a capture. A stack records its packets on its own; the sentry has it send the last of them when it stops.

use crate::time::Instant;

/// A capture of a stack's packets, which outlives [`crate::stack::PluginStack::destroy`].
pub trait Recording: Send {
    /// Sends what waits for the process that writes the capture, as far as there is room, without waiting. Answers how many
    /// bytes still wait: 0 when all are sent, or when that process is gone.
    fn send(&mut self, now: Instant) -> usize;

    /// Ends the capture: what still waits is left out, and the last blocks say how many frames of each interface are missing.
    /// Nothing is recorded any more.
    fn end(&mut self, now: Instant);
}

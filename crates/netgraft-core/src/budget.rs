//! What a sandbox may use of the sentry.
//!
//! A program that is out of its budget gets the errno of a system that is out of room, and goes on when it
//! closes sockets: ENFILE if the sandbox has too many, EMFILE if the process has, ENOBUFS if memory is short. The limit
//! lies below the sentry's own, so that the sentry can always serve.

use crate::stream::CHUNK;

/// The limits of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Sockets that exist at a time, those in flight in messages (SCM_RIGHTS) and in `accept` queues among them.
    pub sockets: usize,
    /// The most of them that one process has made, or that its listeners have accepted.
    pub process_sockets: usize,
    /// Bytes of memory that the sentry and its stack may use ([`crate::Core::note_memory`]).
    pub memory: usize,
    /// Bytes of the program's data that the sentry itself holds, beyond what the stack and the surrogates do.
    pub bytes: usize,
}

impl Budget {
    /// How many bytes may be moved at a time when `held` are held already: each chunk may have to be held.
    pub(crate) fn chunk(&self, held: usize) -> usize {
        /// Progress that is always possible.
        const LEAST: usize = 2048;
        self.bytes.saturating_sub(held).clamp(LEAST, CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_become_small_when_much_is_held() {
        let budget = Budget { sockets: 1, process_sockets: 1, memory: 1 << 30, bytes: 1 << 20 };
        assert_eq!(budget.chunk(0), CHUNK);
        assert_eq!(budget.chunk((1 << 20) - 5000), 5000);
        assert_eq!(budget.chunk(1 << 20), 2048);
        assert_eq!(budget.chunk(usize::MAX), 2048);
    }
}

//! What a fuzzer runs: the random tests of the core, with a sequence that it chooses.

/// Plays a sequence of calls, events and time on a kernel and a stack in memory, seven bytes a step.
///
/// # Panics
/// If an invariant does not hold.
pub fn sequence(bytes: &[u8]) {
    crate::tests::sequence_of_bytes(bytes);
}

/// Plays frames, sockets and lists of a private link on a stack in memory.
///
/// # Panics
/// If an invariant does not hold.
pub fn link(bytes: &[u8]) {
    crate::tests::link_of_bytes(bytes);
}

//! What is counted, for the summary of a run.

/// Counters of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sockets that the program made.
    pub sockets: u64,
    /// Calls that were received.
    pub calls: u64,
    /// Connections that the program made.
    pub connections_out: u64,
    /// Connections that came.
    pub connections_in: u64,
    /// Connections inside the sandbox that did not go through the stack; they are among both of the others.
    pub connections_joined: u64,
    /// Bytes from the program to the stack.
    pub bytes_sent: u64,
    /// Bytes from the stack to the program.
    pub bytes_received: u64,
    /// Datagrams from the program to the stack.
    pub datagrams_sent: u64,
    /// Datagrams from the stack to the program.
    pub datagrams_received: u64,
}

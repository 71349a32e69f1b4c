//! What the launcher and the sentry say to each other, one message a packet of a `SOCK_SEQPACKET` pair.

use std::io;
use std::os::fd::BorrowedFd;

use netgraft_linux::fdpass;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A message of the sentry to the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSentry {
    /// The stack is up: the program may start.
    Ready,
    /// The stack could not be set up, or the sentry cannot go on.
    Failed(String),
    /// Something that the operator should know.
    Warning(String),
    /// The answer to [`ToSentry::Stop`]; the sentry exits after it.
    Summary(Summary),
}

/// A message of the launcher to the sentry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSentry {
    /// The program has ended: reset what is open, say what happened, exit.
    Stop,
}

/// What happened in a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The stack's name and version.
    pub stack: String,
    /// Sockets that the program made.
    pub sockets: u64,
    /// Connections that it opened.
    pub connections_out: u64,
    /// Connections that it accepted.
    pub connections_in: u64,
    /// Payload bytes that the program received from the stack.
    pub bytes_received: u64,
    /// Payload bytes that the program gave to the stack.
    pub bytes_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// IP packets that the stack received and sent.
    pub packets: (u64, u64),
    /// System calls that were answered by the sentry.
    pub calls: u64,
}

/// The most bytes that a message has.
const LIMIT: usize = 64 * 1024;

/// Sends a message ([`FromSentry`] or [`ToSentry`]).
///
/// # Errors
/// [`io::ErrorKind::BrokenPipe`] if the other side is gone.
pub fn send<T: Serialize>(control: BorrowedFd<'_>, message: &T) -> io::Result<()> {
    fdpass::send(control, &serde_json::to_vec(message)?, &[])
}

/// Receives a message; `None` if the other side is gone. Blocks unless the descriptor does not.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for what is no message, [`io::ErrorKind::WouldBlock`].
pub fn receive<T: DeserializeOwned>(control: BorrowedFd<'_>) -> io::Result<Option<T>> {
    match fdpass::receive(control, LIMIT)? {
        None => Ok(None),
        Some((bytes, _)) => Ok(Some(serde_json::from_slice(&bytes)?)),
    }
}

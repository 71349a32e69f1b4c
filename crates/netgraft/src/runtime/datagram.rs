//! A datagram socket: its surrogate, and what is in it.

use std::os::fd::{AsFd, OwnedFd};

use netgraft_linux::epoll::bits;
use netgraft_linux::unix::{self, Name};
use netgraft_plugin::Received;

/// Most bytes of a datagram, headers aside (ip(7)).
pub(super) const MAX_DATAGRAM: usize = 65_535;

/// A datagram socket.
///
/// At most one datagram lies in the surrogate, so that what is known of it (its sender) is never ambiguous.
#[derive(Debug)]
pub(super) struct Datagram {
    /// The sentry's end, connected to the surrogate.
    pub(super) end: OwnedFd,
    /// The end's name, to which the surrogate connects when the program connects its socket.
    pub(super) end_name: Name,
    /// What is known of the datagram that was put into the surrogate last.
    pub(super) last: Received,
    /// The program reads no more (shutdown(2)).
    pub(super) shut_in: bool,
    /// A datagram of the program that the stack had no room for.
    pub(super) held: Option<Vec<u8>>,
    /// A datagram was put into the surrogate, and nobody has seen since that it was read.
    pub(super) occupied: bool,
    /// The loop is told when the program reads, since the stack has more for it.
    pub(super) hears_reads: bool,
}

impl Datagram {
    /// A datagram socket on the sentry's end.
    pub(super) fn new(end: OwnedFd, end_name: Name) -> Datagram {
        Datagram {
            end,
            end_name,
            last: Received::default(),
            shut_in: false,
            held: None,
            occupied: false,
            hears_reads: false,
        }
    }

    /// Whether the program has read all that was put into the surrogate.
    pub(super) fn is_empty(&mut self) -> bool {
        // The kernel counts one byte of a datagram that was read until just after it has said that there is room.
        if self.occupied && unix::unread(self.end.as_fd()).is_ok_and(|n| n <= 1) {
            self.occupied = false;
        }
        !self.occupied
    }

    /// What the loop is to be told of the end. Each datagram that the program reads makes the end writable once more:
    /// that wakes nobody unless there is something to be put in its place.
    pub(super) fn interest(&self) -> u32 {
        bits::IN | bits::EDGE | if self.hears_reads { bits::OUT } else { 0 }
    }
}

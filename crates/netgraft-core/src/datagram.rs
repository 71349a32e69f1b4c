//! A datagram socket: its surrogate, and what is in it.

use netgraft_plugin::Received;

use crate::program::Files;
use crate::surrogate::{Interest, Surrogate};

/// Most bytes of a datagram, headers aside (ip(7)).
pub(crate) const MAX_DATAGRAM: usize = 65_535;

/// What lies in a datagram surrogate: at most one datagram, so that what is known of it is never ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Nothing.
    Empty,
    /// This datagram, unless the program has read it and nobody has looked since.
    Holds(Received),
}

/// Whether the program still reads (shutdown(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It may.
    Open,
    /// It reads no more.
    Shut,
}

/// A datagram socket.
#[derive(Debug)]
pub(crate) struct Datagram<E> {
    /// The sentry's end, from which the surrogate receives.
    pub(crate) end: E,
    /// What is in the surrogate.
    pub(crate) queue: Queue,
    /// Whether the program still reads.
    pub(crate) reading: Reading,
    /// A datagram of the program that the stack had no room for.
    pub(crate) held: Option<Vec<u8>>,
    /// Which events of the end the poller reports.
    pub(crate) interest: Interest,
}

impl<E> Datagram<E> {
    /// A datagram socket on the sentry's end.
    pub(crate) fn new(end: E) -> Datagram<E> {
        Datagram { end, queue: Queue::Empty, reading: Reading::Open, held: None, interest: Interest::Input }
    }

    /// Whether the program has read all that was put into the surrogate.
    pub(crate) fn is_empty<K: Surrogate + Files<End = E>>(&mut self, kernel: &mut K) -> bool {
        if self.queue != Queue::Empty && kernel.is_drained(&self.end) {
            self.queue = Queue::Empty;
        }
        self.queue == Queue::Empty
    }
}

//! A listening socket: connections of the stack become connections in the queue of its surrogate.

use std::collections::VecDeque;

use netgraft_plugin::Handle;

use crate::join::Bound;
use crate::surrogate::Name;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listening<F> {
    /// The surrogate's name, to which an end is connected once for each connection.
    pub(crate) name: Name,
    /// Its address in the stack ([`crate::Core::note_listener`]).
    pub(crate) bound: Bound,
    /// The backlog that the program asked for.
    pub(crate) backlog: u32,
    /// The connection that the program's queue had no room for.
    pub(crate) held: Option<Handle>,
    /// Connections that were taken from the surrogate's queue for a caller which had gone.
    pub(crate) returned: VecDeque<F>,
}

impl<F> Listening<F> {
    /// A listener whose surrogate has a name.
    pub(crate) fn new(name: Name, backlog: u32) -> Listening<F> {
        Listening { name, bound: Bound::UNKNOWN, backlog, held: None, returned: VecDeque::new() }
    }
}

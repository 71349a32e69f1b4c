//! A listening socket: connections of the stack become connections in the queue of the surrogate.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use netgraft_linux::unix::Name;
use netgraft_plugin::Handle;

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listening {
    /// The surrogate's name, to which the sentry connects once for each connection.
    pub(super) name: Name,
    /// The connection that the program's queue had no room for.
    pub(super) held: Option<Handle>,
    /// Connections that were taken from the surrogate's queue for a caller which had gone.
    pub(super) returned: VecDeque<OwnedFd>,
}

impl Listening {
    /// A listener whose surrogate has a name.
    pub(super) fn new(name: Name) -> Listening {
        Listening { name, held: None, returned: VecDeque::new() }
    }
}

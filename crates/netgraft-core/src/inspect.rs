//! What an operator sees of the sockets of a sandbox (`netgraft ss`). Looking changes nothing.

use std::net::SocketAddr;

use netgraft_plugin::{SocketSpec, TcpInfo, TcpState};

use crate::core::{Core, Kernel};
use crate::socket::{Seen, State};
use crate::table::SocketId;

/// A socket, as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// What it was made as.
    pub spec: SocketSpec,
    /// Its state; that of a socket which is no TCP is [`TcpState::Closed`], or with a peer [`TcpState::Established`].
    pub state: TcpState,
    /// Its own address, if it has one.
    pub local: Option<SocketAddr>,
    /// Its peer's.
    pub peer: Option<SocketAddr>,
    /// Bytes that wait for the program, as far as the kernel counts them; of a listener, connections that wait.
    pub received: u64,
    /// Bytes that the program has written and that its peer does not have; of a listener, its backlog.
    pub unsent: u64,
    /// Whether it is connected to another socket of the sandbox, past the stack.
    pub joined: bool,
    /// The process that it was made for, or whose listener accepted it.
    pub owner: u32,
    /// Where the program's descriptor was last seen.
    pub seen: Option<Seen>,
}

impl<K: Kernel> Core<K> {
    /// The sockets from this place in the table on, at most so many, and the next place; `None` when these were the last.
    /// Begins at 0. Sockets that come and go between two looks may be missing.
    pub fn inspect(&mut self, from: usize, most: usize) -> (Vec<Inspected>, Option<usize>) {
        let (ids, next) = self.table.ids_from(from, most);
        let found = ids.into_iter().filter_map(|id| self.inspect_socket(id)).collect();
        (found, next)
    }

    fn inspect_socket(&mut self, id: SocketId) -> Option<Inspected> {
        let socket = self.table.get(id)?;
        let (handle, bound) = (socket.handle, socket.setup.bound);
        let local = handle.and_then(|handle| self.stack.local_addr(handle).ok()).or(bound);
        let peer = handle.and_then(|handle| self.stack.peer_addr(handle).ok());
        let info = handle.and_then(|handle| self.stack.tcp_info(handle).ok());
        let queued = handle.and_then(|handle| self.stack.queued_out(handle).ok()).unwrap_or(0) as u64;
        let mut seen = Inspected {
            spec: socket.spec,
            state: TcpState::Closed,
            local,
            peer,
            received: 0,
            unsent: queued,
            joined: false,
            owner: socket.owner,
            seen: socket.seen,
        };
        let known = |info: Option<TcpInfo>, otherwise| info.map_or(otherwise, |info| info.state);
        match &socket.state {
            State::Fresh => {}
            State::Connecting(_) => seen.state = known(info, TcpState::SynSent),
            State::Connected(stream) => {
                let (from_program, to_program) = self.kernel.held(stream.end());
                seen.state = known(info, TcpState::Established);
                seen.unsent += from_program;
                seen.received = to_program;
            }
            State::Joined(joined) => {
                seen.state = TcpState::Established;
                (seen.local, seen.peer, seen.joined) =
                    (Some(joined.pair.local), Some(joined.pair.peer), true);
                seen.unsent = 0;
            }
            State::Listening(listening) => {
                seen.state = TcpState::Listen;
                seen.received = info.map_or(0, |info| info.unacknowledged.into());
                seen.received += (listening.returned.len() + usize::from(listening.held.is_some())) as u64;
                seen.unsent = listening.backlog.into();
            }
            State::Ended(ended) => seen.local = ended.local.or(local),
            State::Datagram(datagram) => {
                let (from_program, to_program) = self.kernel.held(&datagram.end);
                seen.unsent += from_program;
                seen.received = to_program;
                if peer.is_some() {
                    seen.state = TcpState::Established;
                }
            }
        }
        Some(seen)
    }
}

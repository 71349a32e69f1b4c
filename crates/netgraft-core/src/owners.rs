//! Whose sockets they are, for a stack whose packets are captured.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use netgraft_plugin::Protocol;
use netgraft_plugin::owners::{End, Owners};

use crate::codec::call::Call;
use crate::core::{Core, Kernel};
use crate::program::Files;
use crate::socket::{Origin, Socket};
use crate::table::SocketId;

/// Numbers of protocols (IANA, "Protocol Numbers").
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What was said of sockets so far.
pub(crate) struct Told {
    owners: Arc<Owners>,
    ends: HashMap<SocketId, End>,
}

impl Told {
    pub(crate) fn new(owners: Arc<Owners>) -> Told {
        Told { owners, ends: HashMap::new() }
    }

    /// Somebody has the datagram socket of the kernel's at a local address.
    pub(crate) fn set_datagrams(&self, local: SocketAddr, owner: &str) {
        self.owners.set(End::new(UDP, local), owner);
    }

    /// It is gone.
    pub(crate) fn close_datagrams(&self, local: SocketAddr) {
        self.owners.close(End::new(UDP, local));
    }
}

fn is_accepted<K: Files>(socket: &Socket<K>) -> bool {
    socket.origin == Origin::Accepted
}

impl<K: Kernel> Core<K> {
    /// Says who has a socket, after a call that may have given it its local address.
    pub(crate) fn tell_owner_after(&mut self, id: SocketId, call: &Call) {
        let Some(told) = &self.told else { return };
        let is_due = match call {
            Call::Bind { .. } | Call::Listen { .. } | Call::Connect { .. } => true,
            Call::SendTo { .. } | Call::SendMsg { .. } | Call::SendMMsg { .. } => {
                !told.ends.contains_key(&id)
            }
            // The kernel may have accepted it without the sentry.
            _ => !told.ends.contains_key(&id) && self.table.get(id).is_some_and(is_accepted),
        };
        if is_due {
            self.tell_owner(id);
        }
    }

    /// Says who has a socket, if it has a local address.
    pub(crate) fn tell_owner(&mut self, id: SocketId) {
        let (Some(told), Some(socket)) = (&mut self.told, self.table.get(id)) else { return };
        let protocol = match socket.spec.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
            _ => return,
        };
        let (Some(handle), Some(seen)) = (socket.handle, socket.seen) else { return };
        let Ok(local) = self.stack.local_addr(handle) else { return };
        if local.port() == 0 {
            return;
        }
        let Some(title) = self.kernel.title(seen.tid) else { return };
        let mut end = End::new(protocol, local);
        if is_accepted(socket) {
            // It shares its address with its listener.
            let Ok(peer) = self.stack.peer_addr(handle) else { return };
            end = end.with_peer(peer);
        }
        if let Some(before) = told.ends.insert(id, end).filter(|before| *before != end) {
            told.owners.close(before);
        }
        told.owners.set(end, &format!("{title} fd {}", seen.fd));
    }

    /// A socket is gone.
    pub(crate) fn forget_owner(&mut self, id: SocketId) {
        if let Some(told) = &mut self.told
            && let Some(end) = told.ends.remove(&id)
        {
            told.owners.close(end);
        }
    }
}

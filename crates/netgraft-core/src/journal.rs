//! What a later sentry is to know of sockets, should this one die.

use std::net::SocketAddr;

use netgraft_plugin::{OptionName, Protocol, SocketOption};

use crate::codec::call::Call;
use crate::core::{Core, Kernel};
use crate::socket::{Seen, State};
use crate::surrogate::{Cookie, Name};
use crate::table::SocketId;

/// A socket of the program that outlives its stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The program's open file.
    pub cookie: Cookie,
    /// What it does.
    pub role: Role,
    /// The address that it is bound to; unspecified with port 0 if it is not.
    pub address: SocketAddr,
    /// The peer of a datagram socket that is connected.
    pub peer: Option<SocketAddr>,
    /// The options of [`KEPT_OPTIONS`] that are on.
    pub on: Vec<OptionName>,
    /// Where the program's descriptor was last seen.
    pub seen: Option<Seen>,
}

/// What a kept socket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It listens, under this name, with this backlog.
    Listener(Name, u32),
    /// It is a UDP socket.
    Datagrams,
}

/// The options that decide whether an address can be taken again.
pub const KEPT_OPTIONS: [OptionName; 3] =
    [OptionName::ReuseAddress, OptionName::ReusePort, OptionName::V6Only];

/// The option of [`KEPT_OPTIONS`] turned on; `None` for another one.
pub(crate) fn turned_on(name: OptionName) -> Option<SocketOption> {
    match name {
        OptionName::ReuseAddress => Some(SocketOption::ReuseAddress(true)),
        OptionName::ReusePort => Some(SocketOption::ReusePort(true)),
        OptionName::V6Only => Some(SocketOption::V6Only(true)),
        _ => None,
    }
}

/// Where the journal goes.
pub trait Journal {
    /// Whether anybody reads it.
    fn is_kept(&self) -> bool;

    /// Notes a socket; replaces what was said of it before.
    fn keep(&mut self, kept: Kept);

    /// Notes that a socket is gone.
    fn forget(&mut self, cookie: Cookie);

    /// Tells the operator something.
    fn warn(&mut self, text: String);
}

impl<K: Kernel> Core<K> {
    /// Notes what a call has made of a socket. Runs before the call is answered.
    pub(crate) fn journal(&mut self, id: SocketId, call: &Call) {
        let names_address = matches!(
            call,
            Call::Socket { .. } | Call::Bind { .. } | Call::Listen { .. } | Call::Connect { .. }
        );
        if !names_address || !self.kernel.is_kept() {
            return;
        }
        let Some(socket) = self.table.get(id) else { return };
        let (Some(cookie), Some(handle)) = (self.table.cookie(id), socket.handle) else { return };
        let role = match &socket.state {
            State::Listening(listening) => Role::Listener(listening.name, listening.backlog),
            State::Datagram(_) if socket.spec.protocol == Protocol::Udp => Role::Datagrams,
            _ => return,
        };
        let Ok(address) = self.stack.local_addr(handle) else { return };
        let peer = match role {
            Role::Listener(..) => None,
            Role::Datagrams => self.stack.peer_addr(handle).ok(),
        };
        let is_on = |name: &OptionName| {
            let value = self.stack.get_option(handle, *name);
            value.is_ok_and(|value| turned_on(*name) == Some(value))
        };
        let on = KEPT_OPTIONS.into_iter().filter(is_on).collect();
        self.kernel.keep(Kept { cookie, role, address, peer, on, seen: socket.seen });
    }

    /// Notes that a socket is gone, if the journal has it.
    pub(crate) fn journal_end(&mut self, id: SocketId) {
        if self.kernel.is_kept()
            && let Some(cookie) = self.table.cookie(id)
            && matches!(self.table.get(id).map(|s| &s.state), Some(State::Listening(_) | State::Datagram(_)))
        {
            self.kernel.forget(cookie);
        }
    }
}

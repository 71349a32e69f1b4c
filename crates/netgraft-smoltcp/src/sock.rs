//! A socket of the program, and where sockets are kept.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use netgraft_plugin::{Domain, Error, EventInfo, Handle, Instant, SocketSpec};

use crate::addr::unspecified;
use crate::datagram::Datagrams;
use crate::listener::Listener;
use crate::options::Options;
use crate::ports::Sharing;
use crate::tcp::Conn;

/// A socket, or a connection that waits for `accept` or outlives its `close`.
pub(crate) struct Sock {
    pub(crate) handle: Handle,
    pub(crate) owner: Owner,
    pub(crate) spec: SocketSpec,
    pub(crate) options: Options,
    pub(crate) info: EventInfo,
    /// The pending error (`SO_ERROR`).
    pub(crate) error: Option<Error>,
    pub(crate) bound: Bound,
    pub(crate) body: Body,
    /// Whether the socket stands in the queue of those that may have something to send.
    pub(crate) dirty: bool,
    /// The earliest entry in the timer heap.
    pub(crate) armed: Option<Instant>,
}

/// Who holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The program.
    Program,
    /// A listener: the connection has not been accepted.
    Listener(Handle),
    /// Nobody: the program has closed it, and the protocol goes on.
    Orphan,
}

/// The local address of a socket and how the port is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    pub(crate) hold: Hold,
}

/// How a port is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Not at all: the socket is not bound.
    Nothing,
    /// By an entry of its own in the port table.
    Entry,
    /// As one of the port's connections.
    Connection(Sharing),
}

impl Bound {
    pub(crate) fn nowhere(domain: Domain) -> Self {
        Bound { ip: unspecified(domain), port: 0, hold: Hold::Nothing }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

/// What a socket is.
pub(crate) enum Body {
    /// A stream socket that is not connected.
    Fresh,
    /// A stream socket that listens.
    Listener(Listener),
    /// A stream socket with a connection.
    Conn(Box<Conn>),
    /// A UDP, ICMP or raw socket.
    Datagrams(Box<Datagrams>),
}

struct Slot {
    generation: u32,
    sock: Option<Box<Sock>>,
}

/// Sockets by handle. A handle is a slot and the slot's generation, so that it is not used twice.
#[derive(Default)]
pub(crate) struct Socks {
    slots: Vec<Slot>,
    free: VecDeque<u32>,
    /// How many the program holds.
    pub(crate) held: u64,
}

impl Socks {
    /// Adds what `make` makes for its handle.
    pub(crate) fn insert(&mut self, make: impl FnOnce(Handle) -> Sock) -> Handle {
        let index = self.free.pop_front().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 1, sock: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        let handle = Handle(u64::from(slot.generation) << 32 | u64::from(index));
        slot.sock = Some(Box::new(make(handle)));
        handle
    }

    /// All connections.
    pub(crate) fn connections(&self) -> impl Iterator<Item = &Conn> {
        self.slots.iter().filter_map(|slot| match slot.sock.as_deref() {
            Some(Sock { body: Body::Conn(conn), .. }) => Some(conn.as_ref()),
            _ => None,
        })
    }

    /// The connections that the program has closed and the protocol has not.
    pub(crate) fn orphans(&self) -> impl Iterator<Item = &Conn> {
        self.slots.iter().filter_map(|slot| match slot.sock.as_deref() {
            Some(Sock { owner: Owner::Orphan, body: Body::Conn(conn), .. }) => Some(conn.as_ref()),
            _ => None,
        })
    }

    fn slot(&self, handle: Handle) -> Option<&Slot> {
        let slot = self.slots.get((handle.0 & 0xffff_ffff) as usize)?;
        (u64::from(slot.generation) == handle.0 >> 32).then_some(slot)
    }

    pub(crate) fn get(&self, handle: Handle) -> Option<&Sock> {
        self.slot(handle)?.sock.as_deref()
    }

    pub(crate) fn get_mut(&mut self, handle: Handle) -> Option<&mut Sock> {
        let slot = self.slots.get_mut((handle.0 & 0xffff_ffff) as usize)?;
        if u64::from(slot.generation) == handle.0 >> 32 { slot.sock.as_deref_mut() } else { None }
    }

    /// A socket that the program holds.
    pub(crate) fn held(&self, handle: Handle) -> Result<&Sock, Error> {
        self.get(handle).filter(|s| s.owner == Owner::Program).ok_or(Error::BadHandle)
    }

    /// A socket that the program holds.
    pub(crate) fn held_mut(&mut self, handle: Handle) -> Result<&mut Sock, Error> {
        self.get_mut(handle).filter(|s| s.owner == Owner::Program).ok_or(Error::BadHandle)
    }

    /// Takes a socket out; its handle is dead.
    pub(crate) fn remove(&mut self, handle: Handle) -> Option<Box<Sock>> {
        self.slot(handle)?;
        let index = (handle.0 & 0xffff_ffff) as u32;
        let slot = &mut self.slots[index as usize];
        let sock = slot.sock.take()?;
        // A slot whose generations are used up is left alone.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push_back(index);
        }
        Some(sock)
    }

    /// Every handle, for the end of the stack and for changes that concern all.
    pub(crate) fn handles(&self) -> Vec<Handle> {
        self.slots.iter().filter_map(|s| s.sock.as_ref().map(|s| s.handle)).collect()
    }
}

//! The sockets that the sentry serves, found by what the kernel and the stack call them.

use std::collections::HashMap;

use netgraft_plugin::Handle;

use crate::program::Files;
use crate::socket::{Socket, State};
use crate::surrogate::{Cookie, Name, Watch};

/// Names a socket of the table; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    index: u32,
    generation: u32,
}

/// Generations use 31 bits, so that an id fits into 63.
const GENERATIONS: u32 = 0x7fff_ffff;

impl SocketId {
    /// As a number below 2⁶³.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        (u64::from(self.generation & GENERATIONS) << 32) | u64::from(self.index)
    }

    /// Back from [`SocketId::to_bits`].
    #[must_use]
    pub fn from_bits(bits: u64) -> SocketId {
        SocketId { index: bits as u32, generation: (bits >> 32) as u32 & GENERATIONS }
    }
}

/// A place of the table.
struct Slot<K: Files> {
    generation: u32,
    entry: Option<Entry<K>>,
}

/// A socket and the names by which it is found.
struct Entry<K: Files> {
    socket: Socket<K>,
    /// The program's open file; unknown for a connection that was accepted without the sentry.
    cookie: Option<Cookie>,
    /// The name of the sentry's end of an accepted connection.
    name: Option<Name>,
}

/// All sockets.
pub(crate) struct Table<K: Files> {
    slots: Vec<Slot<K>>,
    free: Vec<u32>,
    by_cookie: HashMap<Cookie, SocketId>,
    by_name: HashMap<Name, SocketId>,
    by_handle: HashMap<Handle, SocketId>,
    by_watch: HashMap<Watch, SocketId>,
    /// The sockets that listen, by port.
    by_port: HashMap<u16, Vec<SocketId>>,
    /// How many sockets each process has.
    by_owner: HashMap<u32, usize>,
}

impl<K: Files> Default for Table<K> {
    fn default() -> Table<K> {
        Table {
            slots: Vec::new(),
            free: Vec::new(),
            by_cookie: HashMap::new(),
            by_name: HashMap::new(),
            by_handle: HashMap::new(),
            by_watch: HashMap::new(),
            by_port: HashMap::new(),
            by_owner: HashMap::new(),
        }
    }
}

impl<K: Files> Table<K> {
    /// How many sockets there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How many sockets a process has.
    pub(crate) fn len_of(&self, owner: u32) -> usize {
        self.by_owner.get(&owner).copied().unwrap_or(0)
    }

    /// Gives up memory that was needed for more sockets than there are. A place keeps its generation.
    pub(crate) fn shrink(&mut self) {
        self.by_cookie.shrink_to_fit();
        self.by_name.shrink_to_fit();
        self.by_handle.shrink_to_fit();
        self.by_watch.shrink_to_fit();
        self.by_port.shrink_to_fit();
        self.by_owner.shrink_to_fit();
    }

    /// Adds a socket.
    pub(crate) fn insert(&mut self, socket: Socket<K>) -> SocketId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        let id = SocketId { index, generation: slot.generation };
        if let Some(handle) = socket.handle {
            self.by_handle.insert(handle, id);
        }
        *self.by_owner.entry(socket.owner).or_default() += 1;
        slot.entry = Some(Entry { socket, cookie: None, name: None });
        id
    }

    /// Removes a socket and all its names; gives it with its cookie.
    pub(crate) fn remove(&mut self, id: SocketId) -> Option<(Socket<K>, Option<Cookie>)> {
        let slot = self.slots.get_mut(id.index as usize).filter(|s| s.generation == id.generation)?;
        let Entry { socket, cookie, name } = slot.entry.take()?;
        slot.generation = (slot.generation + 1) & GENERATIONS;
        self.free.push(id.index);
        if let Some(count) = self.by_owner.get_mut(&socket.owner) {
            *count -= 1;
            if *count == 0 {
                self.by_owner.remove(&socket.owner);
            }
        }
        if let Some(handle) = socket.handle {
            self.by_handle.remove(&handle);
        }
        if let Some(cookie) = cookie {
            self.by_cookie.remove(&cookie);
        }
        if let Some(name) = name {
            self.by_name.remove(&name);
        }
        if let Some(watch) = socket.watch {
            self.by_watch.remove(&watch);
        }
        if let State::Listening(listening) = &socket.state {
            self.remove_listener(id, listening.bound.addr.port());
        }
        Some((socket, cookie))
    }

    /// Notes that a socket listens on a port.
    pub(crate) fn set_listener(&mut self, id: SocketId, port: u16) {
        let listeners = self.by_port.entry(port).or_default();
        if !listeners.contains(&id) {
            listeners.push(id);
        }
    }

    /// Notes that a socket listens no more on a port.
    pub(crate) fn remove_listener(&mut self, id: SocketId, port: u16) {
        if let Some(listeners) = self.by_port.get_mut(&port) {
            listeners.retain(|&other| other != id);
            if listeners.is_empty() {
                self.by_port.remove(&port);
            }
        }
    }

    /// The sockets that listen on a port.
    pub(crate) fn listeners_at(&self, port: u16) -> &[SocketId] {
        self.by_port.get(&port).map_or(&[], Vec::as_slice)
    }

    fn entry(&self, id: SocketId) -> Option<&Entry<K>> {
        self.slots.get(id.index as usize).filter(|s| s.generation == id.generation)?.entry.as_ref()
    }

    fn entry_mut(&mut self, id: SocketId) -> Option<&mut Entry<K>> {
        self.slots.get_mut(id.index as usize).filter(|s| s.generation == id.generation)?.entry.as_mut()
    }

    /// A socket, if it still exists.
    pub(crate) fn get(&self, id: SocketId) -> Option<&Socket<K>> {
        self.entry(id).map(|entry| &entry.socket)
    }

    /// A socket, if it still exists.
    pub(crate) fn get_mut(&mut self, id: SocketId) -> Option<&mut Socket<K>> {
        self.entry_mut(id).map(|entry| &mut entry.socket)
    }

    /// The socket behind an open file of the program.
    pub(crate) fn find_cookie(&self, cookie: Cookie) -> Option<SocketId> {
        self.by_cookie.get(&cookie).copied()
    }

    /// The connection whose sentry's end has a name.
    pub(crate) fn find_name(&self, name: Name) -> Option<SocketId> {
        self.by_name.get(&name).copied()
    }

    /// The socket behind a handle of the stack.
    pub(crate) fn find_handle(&self, handle: Handle) -> Option<SocketId> {
        self.by_handle.get(&handle).copied()
    }

    /// The socket that a watch is for.
    pub(crate) fn find_watch(&self, watch: Watch) -> Option<SocketId> {
        self.by_watch.get(&watch).copied()
    }

    /// Notes the open file of a socket.
    pub(crate) fn set_cookie(&mut self, id: SocketId, cookie: Cookie) {
        let Some(entry) = self.entry_mut(id) else { return };
        if let Some(old) = entry.cookie.replace(cookie) {
            self.by_cookie.remove(&old);
        }
        self.by_cookie.insert(cookie, id);
    }

    /// The open file of a socket, if it is known.
    pub(crate) fn cookie(&self, id: SocketId) -> Option<Cookie> {
        self.entry(id)?.cookie
    }

    /// Notes the name of a connection's end.
    pub(crate) fn set_name(&mut self, id: SocketId, name: Name) {
        if let Some(entry) = self.entry_mut(id) {
            entry.name = Some(name);
            self.by_name.insert(name, id);
        }
    }

    /// Notes the watch for a socket's last close.
    pub(crate) fn set_watch(&mut self, id: SocketId, watch: Watch) {
        if let Some(socket) = self.get_mut(id) {
            socket.watch = Some(watch);
            self.by_watch.insert(watch, id);
        }
    }

    /// Takes the watch of a socket.
    pub(crate) fn take_watch(&mut self, id: SocketId) -> Option<Watch> {
        let watch = self.get_mut(id)?.watch.take()?;
        self.by_watch.remove(&watch);
        Some(watch)
    }

    /// Gives a socket its handle, or takes it; answers the one that it had.
    pub(crate) fn set_handle(&mut self, id: SocketId, handle: Option<Handle>) -> Option<Handle> {
        let socket = self.get_mut(id)?;
        let old = std::mem::replace(&mut socket.handle, handle);
        if let Some(old) = old {
            self.by_handle.remove(&old);
        }
        if let Some(handle) = handle {
            self.by_handle.insert(handle, id);
        }
        old
    }

    /// The ids of sockets from this place on, at most so many places, and the next one; `None` when it was the last.
    pub(crate) fn ids_from(&self, from: usize, most: usize) -> (Vec<SocketId>, Option<usize>) {
        let end = from.saturating_add(most).min(self.slots.len());
        let slots = self.slots.get(from..end).unwrap_or_default();
        let ids = slots
            .iter()
            .zip(from..)
            .filter(|(slot, _)| slot.entry.is_some())
            .map(|(slot, index)| SocketId { index: index as u32, generation: slot.generation })
            .collect();
        (ids, (end < self.slots.len()).then_some(end))
    }

    /// The ids of all sockets.
    pub(crate) fn ids(&self) -> impl Iterator<Item = SocketId> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, s)| s.entry.is_some())
            .map(|(index, s)| SocketId { index: index as u32, generation: s.generation })
    }
}

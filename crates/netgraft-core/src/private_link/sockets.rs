//! The datagram sockets of the program's kernel, and the sockets of the stack that stand for their addresses.
//!
//! A socket of the kernel's is known by its cookie, which no other one ever has: it is said at bind(2) and connect(2), in the list of
//! sockets, and when a socket is gone. A port that the kernel chose because a socket has sent is not known until a packet shows
//! it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netgraft_plugin::{Error, SocketOption};

use super::endpoints::{Places, any_of};
use super::{plain, spec_of};
use crate::core::{Core, Kernel};
use crate::socket::Seen;
use crate::surrogate::Cookie;
use crate::uapi::{EMFILE, ENFILE, ENOBUFS, Errno};

/// How many local addresses whose ports the kernel chose are served: more than a sandbox uses at a time. Beyond that, the one that
/// was not used for longest has to go.
const MOST_CHOSEN: usize = 4096;

/// A datagram socket of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelSocket {
    /// Which one it is.
    pub cookie: Cookie,
    /// Its local address; port 0 if it has none.
    pub local: SocketAddr,
}

impl<K: Kernel> Core<K> {
    /// What sends from a local address; made now for a port that the kernel has chosen.
    pub(super) fn sender_for(&mut self, local: SocketAddr) -> Option<SocketAddr> {
        let bound = self.endpoint_for(local)?;
        if bound.ip().is_unspecified()
            && !self.links.is_only_source(local.ip())
            && self.new_endpoint(local, true).is_ok()
        {
            // The stack might choose another of its addresses.
            return Some(local);
        }
        Some(bound)
    }

    fn endpoint_for(&mut self, local: SocketAddr) -> Option<SocketAddr> {
        if let Some(bound) = self.links.endpoints.find(local) {
            return Some(bound);
        }
        let any = any_of(local);
        let bound = match self.new_endpoint(any, true) {
            Ok(()) => Ok(any),
            Err(_) => self.new_endpoint(local, true).map(|()| local),
        };
        let bound = bound
            .inspect_err(|errno| tracing::debug!(%local, errno, "the stack has no socket for it"))
            .ok()?;
        if self.told.is_some()
            && let Some(seen) = self.kernel.owner_of(local)
        {
            self.tell_endpoint(bound, seen);
        }
        Some(bound)
    }

    /// Makes a socket of the stack for a local address.
    fn new_endpoint(&mut self, local: SocketAddr, is_chosen: bool) -> Result<(), Errno> {
        self.make_room_for_endpoint()?;
        let handle = self.stack.socket(spec_of(local)).map_err(Error::errno)?;
        let both = [
            SocketOption::ReuseAddress(true),
            // The kernel has asked for the permission, and hands out copies inside the sandbox itself.
            SocketOption::Broadcast(true),
            SocketOption::MulticastLoop(false),
        ];
        self.set_options(handle, both);
        if local.is_ipv6() {
            // Each family has a socket of its own here.
            self.set_options(handle, [SocketOption::V6Only(true), SocketOption::MulticastLoop6(false)]);
        }
        if let Err(error) = self.stack.bind(handle, local) {
            self.stack.close(handle, self.time.now);
            return Err(error.errno());
        }
        self.observe(handle);
        self.links.endpoints.insert(local, handle, is_chosen);
        Ok(())
    }

    fn make_room_for_endpoint(&mut self) -> Result<(), Errno> {
        if self.links.endpoints.unheld() >= MOST_CHOSEN {
            self.end_stalest();
        }
        let is_full = self.table.len() + self.links.len() >= self.budget.sockets;
        if is_full && !self.end_stalest() { Err(ENFILE) } else { Ok(()) }
    }

    /// Ends what stands for a port that the kernel chose and that was not used for longest. Answers whether there was one: if its
    /// socket sends again it is made anew.
    pub(crate) fn end_stalest(&mut self) -> bool {
        let stalest = self.links.endpoints.stalest();
        if let Some(stalest) = stalest {
            self.end_endpoint(stalest);
        }
        stalest.is_some()
    }

    /// Says who has the socket of an endpoint.
    pub(super) fn tell_endpoint(&mut self, bound: SocketAddr, seen: Seen) {
        if let Some(told) = &self.told
            && let Some(title) = self.kernel.title(seen.tid)
        {
            told.set_datagrams(bound, &format!("{title} fd {}", seen.fd));
        }
    }

    fn end_endpoint(&mut self, local: SocketAddr) {
        if let Some(told) = &self.told {
            told.close_datagrams(local);
        }
        if let Some(endpoint) = self.links.endpoints.remove(&local) {
            self.stack.close(endpoint.handle, self.time.now);
        }
    }

    /// A datagram socket of the kernel's has a local address, or is about to get it: datagrams to it are to reach the socket, and none
    /// to an address that it had before.
    ///
    /// # Errors
    /// EADDRINUSE and the like, of the stack; the socket is served where it was then.
    pub(crate) fn serve_kernel_socket(
        &mut self,
        socket: KernelSocket,
        owner: Option<u32>,
    ) -> Result<(), Errno> {
        if !self.links.is_any() {
            return Ok(());
        }
        let places = self.places_of(plain(socket.local));
        if self.links.endpoints.places(socket.cookie) == Some(places) {
            return Ok(());
        }
        let [first, second] = places;
        if let Some(first) = first
            && self.links.endpoints.get(&first).is_none()
        {
            self.new_endpoint(first, false)?;
        }
        // For IPv4 if it is not for IPv6 alone, which the kernel knows. Where the stack has another socket there, that one stays.
        let second = second.filter(|&second| {
            self.links.endpoints.get(&second).is_some() || self.new_endpoint(second, false).is_ok()
        });
        self.move_kernel_socket(socket.cookie, [first, second], owner);
        Ok(())
    }

    /// The errno for a process that is about to name one more socket than it may have; `None` if there is room.
    pub(super) fn is_full_of_links(&self, socket: KernelSocket, owner: u32) -> Option<Errno> {
        let is_new = self.links.endpoints.places(socket.cookie).is_none();
        let has = self.table.len_of(owner) + self.links.endpoints.held_by(owner);
        if is_new && has >= self.budget.process_sockets {
            Some(EMFILE)
        } else {
            (is_new && self.short).then_some(ENOBUFS)
        }
    }

    fn move_kernel_socket(&mut self, cookie: Cookie, places: Places, owner: Option<u32>) {
        for left in self.links.endpoints.hold(cookie, places, owner).into_iter().flatten() {
            self.end_port(left);
        }
    }

    /// Where a local address is served.
    fn places_of(&self, local: SocketAddr) -> Places {
        if local.port() == 0 || local.ip().is_loopback() {
            return [None; 2];
        }
        // What is sent to a group or to all hosts reaches every socket with the port.
        let is_own = local.ip().is_unspecified() || self.links.addresses.contains(&local.ip());
        let served = if is_own { local } else { any_of(local) };
        let both = served.is_ipv6() && served.ip().is_unspecified();
        [Some(served), both.then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), served.port()))]
    }

    /// A datagram socket of the kernel's is gone.
    pub fn datagram_socket_closed(&mut self, socket: KernelSocket) {
        if self.links.endpoints.places(socket.cookie).is_some() {
            return self.move_kernel_socket(socket.cookie, [None; 2], None);
        }
        let local = plain(socket.local);
        if local.port() != 0 {
            self.end_port(any_of(local));
            if local.is_ipv6() {
                self.end_port(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), local.port()));
            }
        }
    }

    /// Ends what stands for an address without a holder, and what sends from its port with a source of its own.
    pub(super) fn end_port(&mut self, left: SocketAddr) {
        let is_unheld = |core: &Core<K>, address: &SocketAddr| {
            core.links.endpoints.get(address).is_some_and(|endpoint| endpoint.holders == 0)
        };
        if is_unheld(self, &left) {
            self.end_endpoint(left);
        }
        if self.links.endpoints.get(&any_of(left)).is_some() {
            return;
        }
        let alike = |ip: &IpAddr| ip.is_ipv4() == left.is_ipv4();
        for at in 0..self.links.addresses.len() {
            let own = self.links.addresses.get(at).copied().filter(alike);
            if let Some(own) = own.map(|ip| SocketAddr::new(ip, left.port()))
                && is_unheld(self, &own)
            {
                self.end_endpoint(own);
            }
        }
    }

    /// A mark of what is known now, for a list of the datagram sockets that is asked for now.
    #[must_use]
    pub fn mark_datagram_sockets(&self) -> u64 {
        self.links.endpoints.mark()
    }

    /// These datagram sockets of the kernel's are there: what is missing is made. If the list is whole, what stands for others is
    /// closed, unless it was used after the mark.
    pub fn datagram_sockets_are(&mut self, sockets: &[KernelSocket], whole_at: Option<u64>) {
        let failed = sockets.iter().filter_map(|socket| {
            let errno = self.serve_kernel_socket(*socket, None).err()?;
            Some((socket.local, errno))
        });
        let failed: Vec<(SocketAddr, Errno)> = failed.collect();
        if let Some((local, errno)) = failed.first() {
            let count = failed.len();
            tracing::warn!(
                "{count} datagram sockets, the first at {local}, receive nothing from others: errno {errno}"
            );
        }
        let Some(mark) = whole_at else { return };
        let there: HashSet<Cookie> = sockets.iter().map(|socket| socket.cookie).collect();
        let known = self.links.endpoints.holders_at(mark);
        let gone: Vec<Cookie> = known.filter(|cookie| !there.contains(cookie)).collect();
        for cookie in gone {
            self.move_kernel_socket(cookie, [None; 2], None);
        }
        // All that are there have a holder by now.
        for address in self.links.endpoints.unused_since(mark) {
            self.end_endpoint(address);
        }
    }
}

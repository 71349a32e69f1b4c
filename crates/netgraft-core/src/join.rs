//! Connections inside a sandbox: a `connect` that reaches a listener of the same sandbox connects the two surrogates to
//! each other. Both ends are the program's then, and no byte passes the sentry or the stack.
//!
//! What the program sees of such a connection stays that of TCP: the client's port is reserved in the stack for as long
//! as the client lives, and both addresses stand in the name of the client's surrogate, so that an accepted connection
//! is known without an entry in the table until a call asks for one. A joined connection outlives its stack.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netgraft_plugin::{Domain, Error, Events, OptionName, SocketOption, SocketSpec, TcpInfo, TcpState};

use crate::answers::{Answer, Outcome};
use crate::codec::sockopt::Direction;
use crate::core::{Core, Kernel, Request, Subject};
use crate::program::{Caller, ProgramId};
use crate::receive::is_receive;
use crate::route::{Flow, Route};
use crate::send::is_send;
use crate::socket::{Over, Seen, Socket, State};
use crate::stream::Opening;
use crate::table::SocketId;
use crate::uapi::{self, Errno};

/// The addresses of a joined connection, as one of its sides sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// This side's address.
    pub local: SocketAddr,
    /// The other side's.
    pub peer: SocketAddr,
}

impl Pair {
    /// The same connection, as the other side sees it.
    #[must_use]
    pub fn reversed(self) -> Pair {
        Pair { local: self.peer, peer: self.local }
    }
}

/// Which side of a joined connection a surrogate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that called connect(2).
    Client,
    /// The one that accept(2) returned.
    Server,
}

/// A joined connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Joined {
    /// Its addresses.
    pub(crate) pair: Pair,
    /// Which side it is.
    pub(crate) side: Side,
    /// What is left of a `connect` that does not block.
    pub(crate) opening: Opening,
    /// Whether this side has called shutdown(2) for sending.
    pub(crate) has_ended: bool,
}

/// Where the accepted sides of joined connections were last seen, of those that were accepted with an address.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    by_pair: HashMap<Pair, Seen>,
}

impl Accepted {
    /// The most that are remembered.
    const MOST: usize = 4096;

    /// Notes a side that was just accepted.
    pub(crate) fn note(&mut self, pair: Pair, seen: Seen) {
        if self.by_pair.len() >= Self::MOST {
            self.by_pair.clear();
        }
        self.by_pair.insert(pair, seen);
    }
}

/// A listening socket, as far as a `connect` has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    /// Its address and port.
    pub(crate) addr: SocketAddr,
    /// Whether it takes IPv4 connections on the unspecified IPv6 address (ipv6(7), `IPV6_V6ONLY`).
    pub(crate) takes_v4: bool,
}

impl Bound {
    /// Before it is known.
    pub(crate) const UNKNOWN: Bound =
        Bound { addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), takes_v4: false };

    /// How closely a destination matches: the closest listener gets the connection. `None` if it is not this one's.
    fn matches(&self, destination: SocketAddr) -> Option<u8> {
        if self.addr.port() != destination.port() {
            return None;
        }
        match (self.addr.ip(), destination.ip()) {
            (own, wanted) if own == wanted => Some(2),
            (IpAddr::V4(own), IpAddr::V4(_)) if own.is_unspecified() => Some(1),
            (IpAddr::V6(own), IpAddr::V6(_)) if own.is_unspecified() => Some(1),
            (IpAddr::V6(own), IpAddr::V4(_)) if own.is_unspecified() && self.takes_v4 => Some(0),
            _ => None,
        }
    }
}

/// The address that a destination means: the unspecified address is the loopback, a mapped one is IPv4.
pub(crate) fn meant(destination: SocketAddr) -> SocketAddr {
    let ip = destination.ip().to_canonical();
    let ip = match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        other => other,
    };
    SocketAddr::new(ip, destination.port())
}

impl<K: Kernel> Core<K> {
    /// Whether connections inside the sandbox are joined; they are not unless this says so.
    pub fn set_joining(&mut self, on: bool) {
        self.joins = on;
    }

    /// Where a `connect` goes: what the router says, and within the stack the listener that it reaches, if that is the
    /// sandbox's own.
    pub(crate) fn route_connect(
        &mut self,
        caller: &Caller,
        id: SocketId,
        destination: SocketAddr,
    ) -> Result<Route, Errno> {
        let socket = self.table.get(id).ok_or(uapi::EBADF)?;
        let spec = socket.spec;
        let has_scope = matches!(destination, SocketAddr::V6(v6) if v6.scope_id() != 0);
        let is_plain = !has_scope && !socket.closes_by_reset();
        match self.route(caller, &Flow::Connect(spec, destination)) {
            Route::Stack if self.joins && is_plain => {
                let listener = self.find_listener(meant(destination));
                // The stack resets what a listener does not let in, and the operator hears of it.
                let listener = listener.filter(|_| self.is_let_in(spec, meant(destination)));
                Ok(listener.map_or(Route::Stack, Route::Joined))
            }
            route => Ok(route),
        }
    }

    /// Whether a connection from inside the sandbox may come to an address of its own.
    fn is_let_in(&mut self, spec: SocketSpec, destination: SocketAddr) -> bool {
        if self.router.is_open() {
            return true;
        }
        let from: IpAddr = match destination {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let flow = Flow::Incoming(spec, destination, SocketAddr::new(from, 0));
        !matches!(self.router.route(&flow), Route::Denied(_))
    }

    /// The listener that a connection to a local address reaches.
    fn find_listener(&self, destination: SocketAddr) -> Option<SocketId> {
        let candidates = self.table.listeners_at(destination.port());
        let matching = candidates.iter().filter_map(|&id| {
            let socket = self.table.get(id)?;
            let State::Listening(listening) = &socket.state else { return None };
            Some((listening.bound.matches(destination)?, id))
        });
        let (closeness, found) = matching.clone().max_by_key(|&(closeness, _)| closeness)?;
        // Several that share a port (SO_REUSEPORT) take turns in the stack.
        let is_shared = matching.filter(|&(other, _)| other == closeness).count() > 1;
        let resets = self.table.get(found).is_some_and(Socket::closes_by_reset);
        (!is_shared && !resets && (closeness == 2 || self.is_own(destination.ip()))).then_some(found)
    }

    /// Whether an address is one of the stack's.
    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.stack.is_own(ip)
    }

    /// Joins a socket to a listener; `None` if the connection has to go through the stack after all.
    pub(crate) fn join(
        &mut self,
        subject: &Subject<K>,
        listener: SocketId,
        destination: SocketAddr,
        blocking: bool,
    ) -> Result<Option<Outcome>, Errno> {
        let id = subject.id;
        let Some(State::Listening(listening)) = self.table.get(listener).map(|s| &s.state) else {
            return Ok(None);
        };
        let name = listening.name;
        let peer = meant(destination);
        let had_handle = self.table.get(id).is_some_and(|socket| socket.handle.is_some());
        let joined = match self.reserve_port(id, peer)? {
            None => Err(uapi::EADDRNOTAVAIL),
            Some(local) => {
                let pair = Pair { local, peer };
                self.kernel.join_listener(&subject.file, name, pair, !blocking).map(|()| pair)
            }
        };
        let pair = match joined {
            Ok(pair) => pair,
            Err(uapi::ECONNABORTED) => {
                self.enter(id, State::Ended(Over::Attempt.ended()));
                return Ok(Some(Err(uapi::ECONNABORTED)));
            }
            // Its queue is full, or it was closed just now: the stack knows what that means.
            Err(_) => {
                if let Some(handle) = self.table.get(id).and_then(|socket| socket.handle)
                    && !had_handle
                {
                    self.observe(handle);
                }
                return Ok(None);
            }
        };
        let opening = if blocking { Opening::Done } else { Opening::Unreported };
        self.enter(id, State::Joined(Joined { pair, side: Side::Client, opening, has_ended: false }));
        self.flow_joined(id, pair);
        // Only if somebody wants to know of its end at once.
        self.watch_close(id, &subject.file);
        self.counts.connections_out += 1;
        self.counts.connections_in += 1;
        self.counts.connections_joined += 1;
        self.serve_parked_accept(listener);
        // connect(2) on a socket that does not block does not wait for its end, however near that is.
        Ok(Some(if blocking { Ok(Answer::Value(0)) } else { Err(uapi::EINPROGRESS) }))
    }

    /// Has the stack keep a port for a client that is to be joined; answers its address. `None` if the stack refuses,
    /// as it then does for a connection of its own.
    fn reserve_port(&mut self, id: SocketId, peer: SocketAddr) -> Result<Option<SocketAddr>, Errno> {
        let spec = self.table.get(id).ok_or(uapi::EBADF)?.spec;
        let Ok(handle) = self.unobserved_handle(id) else { return Ok(None) };
        self.bind_late(id)?;
        let source = |bound: SocketAddr| {
            let ip =
                if bound.ip().is_unspecified() { source_for(peer.ip()) } else { bound.ip().to_canonical() };
            SocketAddr::new(ip, bound.port())
        };
        match self.stack.local_addr(handle) {
            Ok(bound) if bound.port() != 0 => return Ok(Some(source(bound))),
            _ => {}
        }
        let from = SocketAddr::new(in_domain(spec, source_for(peer.ip())), 0);
        let bound = match self.stack.bind(handle, from) {
            Err(Error::AddressInUse | Error::AddressNotAvailable) => {
                // Ports of clients whose close was not noticed yet.
                self.forget_closed();
                self.stack.bind(handle, from)
            }
            bound => bound,
        };
        if bound.is_err() {
            return Ok(None);
        }
        Ok(self.stack.local_addr(handle).ok().map(source))
    }

    /// Whether a socket is joined to another one.
    pub(crate) fn is_joined(&self, id: SocketId) -> bool {
        matches!(self.table.get(id).map(|socket| &socket.state), Some(State::Joined(_)))
    }

    /// Notes where a socket listens, so that connections find it.
    pub(crate) fn note_listener(&mut self, id: SocketId) {
        let Some(socket) = self.table.get_mut(id) else { return };
        let (State::Listening(listening), Some(handle)) = (&mut socket.state, socket.handle) else { return };
        let Ok(addr) = self.stack.local_addr(handle) else { return };
        let v6_only = self.stack.get_option(handle, OptionName::V6Only);
        let takes_v4 = socket.spec.domain == Domain::V6 && v6_only != Ok(SocketOption::V6Only(true));
        listening.bound = Bound { addr: SocketAddr::new(addr.ip().to_canonical(), addr.port()), takes_v4 };
        self.table.set_listener(id, addr.port());
    }

    /// Parks a data call that has moved some bytes until its socket can go on: of a joined connection the program's own
    /// file says when.
    pub(crate) fn park_data_call(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        direction: Direction,
        moved: usize,
    ) -> Outcome {
        let id = subject.id;
        if self.is_joined(id) {
            let sends = direction == Direction::Send || self.parked.first(id, is_send).is_some();
            let receives = direction == Direction::Receive || self.parked.first(id, is_receive).is_some();
            let mut events = Events::empty();
            events.set(Events::OUT, sends);
            events.set(Events::IN | Events::RDHUP, receives);
            if receives && self.kernel.has_mark(&subject.file) {
                // It would count as something to read for ever.
                self.kernel.take_mark(&subject.file);
            }
            self.kernel.await_file(&subject.file, id, events)?;
        }
        self.park_with_progress(request, id, direction, u32::try_from(moved).unwrap_or(u32::MAX))
    }

    /// Makes the last close of a joined socket a reset for the other side: with a mark in this side's queue, which the
    /// other side's own file leaves there. Where that file is not known the other side sees the end of the stream.
    pub(crate) fn reset_at_close(&mut self, subject: &Subject<K>) {
        let Some(State::Joined(joined)) = self.table.get(subject.id).map(|socket| &socket.state) else {
            return;
        };
        let other = joined.pair.reversed();
        if self.kernel.has_mark(&subject.file) {
            // A second one would make a byte of data of the first.
            return;
        }
        if let Some(file) = self.find_side(other) {
            self.kernel.mark(&file);
            self.kernel.dispose(file);
        }
    }

    /// Whether a side of a joined connection is to reset it at its close: the mark of that is urgent data of AF_UNIX itself,
    /// and there is room for one.
    pub(crate) fn has_reset_mark(&self, id: SocketId) -> bool {
        let Some(socket) = self.table.get(id) else { return false };
        let State::Joined(joined) = &socket.state else { return false };
        let other = joined.pair.reversed();
        let other = self
            .table
            .ids()
            .filter_map(|id| self.table.get(id))
            .find(|socket| matches!(&socket.state, State::Joined(joined) if joined.pair == other));
        socket.closes_by_reset() || other.is_some_and(Socket::closes_by_reset)
    }

    /// The program's file of a side of a joined connection, if it was seen and is still there.
    pub(crate) fn find_side(&mut self, pair: Pair) -> Option<K::File> {
        if let Some(Seen { tid, fd }) = self.accepted.by_pair.get(&pair).copied() {
            if let Ok(file) = self.kernel.duplicate_of(tid, fd) {
                if self.kernel.accepted_pair(&file) == Some(pair) {
                    return Some(file);
                }
                self.kernel.dispose(file);
            }
            self.accepted.by_pair.remove(&pair);
        }
        let is_side = |id: &SocketId| match self.table.get(*id).map(|socket| &socket.state) {
            Some(State::Joined(joined)) => joined.pair == pair,
            _ => false,
        };
        let id = self.table.ids().find(is_side)?;
        self.find_file(id)
    }

    /// The program's file of a joined connection is ready for what a trapped data call waits for
    /// ([`crate::Watcher::await_file`]).
    pub fn file_ready(&mut self, id: SocketId) {
        self.serve_parked_receive(id);
        self.retry_sends(id);
    }

    /// A surrogate that is joined and stands in no entry of the table: an accepted connection at its first trapped call,
    /// or one of an earlier sentry.
    pub(crate) fn adopt_joined(
        &mut self,
        (program, owner): (ProgramId, u32),
        file: &K::File,
        (spec, pair, side): (SocketSpec, Pair, Side),
    ) -> Option<SocketId> {
        let cookie = self.kernel.cookie(file)?;
        let state = State::Joined(Joined { pair, side, opening: Opening::Done, has_ended: false });
        let mut socket = Socket::new(spec, program, None, state).of(owner);
        if side == Side::Server {
            // What a listener was set to, its connections are (socket(7)), but for what is a listener's or a packet's.
            let listeners = self.table.listeners_at(pair.local.port());
            let setup = listeners.iter().find_map(|&id| {
                let listener = self.table.get(id)?;
                let State::Listening(listening) = &listener.state else { return None };
                listening.bound.matches(pair.local)?;
                let is_inherited = |option: &&SocketOption| {
                    !matches!(
                        option,
                        SocketOption::DeferAccept(_) | SocketOption::FastOpen(_) | SocketOption::Priority(_)
                    )
                };
                let options = listener.setup.options.iter().filter(is_inherited).cloned().collect();
                Some((options, listener.inheritance()))
            });
            if let Some((options, inheritance)) = setup {
                socket.setup.options = options;
                socket.inherit(inheritance);
            }
        }
        let id = self.table.insert(socket);
        self.table.set_cookie(id, cookie);
        self.kernel.shelter(file, id);
        Some(id)
    }
}

/// The address from which the stack would connect to one of its own.
fn source_for(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(v4) if v4.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        other => other,
    }
}

/// An address as a socket of a family is bound to it.
fn in_domain(spec: SocketSpec, ip: IpAddr) -> IpAddr {
    match (spec.domain, ip) {
        (Domain::V6, IpAddr::V4(v4)) => IpAddr::V6(v4.to_ipv6_mapped()),
        (_, ip) => ip,
    }
}

/// What `TCP_INFO` says of a joined connection (tcp(7)): its state, and segments as large as the loopback's.
pub(crate) fn tcp_info(is_over: bool, has_ended: bool) -> TcpInfo {
    /// The loopback's MTU less the headers (`net/ipv4/tcp_output.c`, tcp_mtu_to_mss).
    const MSS: u32 = 65_483;
    let state = match (is_over, has_ended) {
        (true, true) => TcpState::Closed,
        (true, false) => TcpState::CloseWait,
        (false, true) => TcpState::FinWait2,
        (false, false) => TcpState::Established,
    };
    let rto = std::time::Duration::from_millis(200);
    TcpInfo { state, rto, send_mss: MSS, receive_mss: MSS, congestion_window: 10 * MSS, ..TcpInfo::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_closest_listener_matches_best() {
        let bound = |addr: &str, takes_v4| Bound { addr: at(addr), takes_v4 };
        let to = at("127.0.0.1:80");
        assert_eq!(bound("127.0.0.1:80", false).matches(to), Some(2));
        assert_eq!(bound("0.0.0.0:80", false).matches(to), Some(1));
        assert_eq!(bound("[::]:80", true).matches(to), Some(0));
        assert_eq!(bound("[::]:80", false).matches(to), None, "IPV6_V6ONLY");
        assert_eq!(bound("127.0.0.2:80", false).matches(to), None);
        assert_eq!(bound("127.0.0.1:81", false).matches(to), None);
        assert_eq!(bound("0.0.0.0:80", false).matches(at("[::1]:80")), None);
        assert_eq!(bound("[::]:80", false).matches(at("[::1]:80")), Some(1));
    }

    #[test]
    fn the_unspecified_address_means_the_loopback() {
        assert_eq!(meant(at("0.0.0.0:1")), at("127.0.0.1:1"));
        assert_eq!(meant(at("[::]:1")), at("[::1]:1"));
        assert_eq!(meant(at("[::ffff:192.0.2.1]:1")), at("192.0.2.1:1"));
        assert_eq!(meant(at("[2001:db8::1]:1")), at("[2001:db8::1]:1"));
    }
}

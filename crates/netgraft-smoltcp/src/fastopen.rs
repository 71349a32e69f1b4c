//! Data in SYNs (RFC 7413): the cookies that peers gave, and those that are asked of clients.

use std::net::IpAddr;

use netgraft_plugin::Handle;
use netgraft_tcp::{Config, Cookie, FastOpen, Segment, State};

use crate::addr::Tuple;
use crate::core::Core;
use crate::hash::{Keyed, Map};
use crate::options::Options;
use crate::sock::{Body, Owner};
use crate::tcp::{Conn, Early, Life, at};

/// Peers whose cookies are kept; with one more, all are forgotten.
const MOST: usize = 1024;

/// The cookies that peers gave, and the largest payload that each takes (section 4.1.3).
#[derive(Debug)]
pub(crate) struct Known(Map<IpAddr, (Cookie, u16)>);

impl Known {
    pub(crate) fn new(key: Keyed) -> Self {
        Known(Map::with_hasher(key))
    }

    fn note(&mut self, peer: IpAddr, given: Option<Cookie>, mss: u16) {
        match given {
            Some(cookie) => {
                if self.0.len() >= MOST && !self.0.contains_key(&peer) {
                    self.0.clear();
                }
                self.0.insert(peer, (cookie, mss));
            }
            // It does not know of cookies, any more.
            None => drop(self.0.remove(&peer)),
        }
    }
}

impl Core {
    /// How a connection that a program begins uses Fast Open; and whether its SYN waits for data.
    pub(crate) fn fast_connect(&self, options: &Options, peer: IpAddr) -> (FastOpen, Early) {
        if !options.fast_open_connect || !self.argument.fast_open.0 {
            return (FastOpen::Off, Early::No);
        }
        match self.known.0.get(&peer) {
            Some(&(cookie, mss)) => (FastOpen::Client(cookie, mss), Early::Waits),
            None => (FastOpen::Client(Cookie::default(), 0), Early::No),
        }
    }

    /// Has a connection of a listener take data with the SYN, if it has few such ones (section 5.1).
    pub(crate) fn fast_listen(&self, listener: Handle, tuple: &Tuple, config: &mut Config) {
        let Some(sock) = self.socks.get(listener) else { return };
        let Body::Listener(queues) = &sock.body else { return };
        if self.argument.fast_open.1 && queues.early.len() < sock.options.fast_open as usize {
            config.fast_open = FastOpen::Server(self.initial.fast_open_cookie(tuple));
        }
    }

    /// Takes the data of a SYN into a connection that was just made.
    pub(crate) fn take_early(&mut self, conn: &mut Conn, syn: &Segment<'_>) {
        let arrival = conn.tcp.take_early(syn, at(self.now), &mut self.pool);
        conn.received += arrival.received as u64;
        if conn.tcp.is_early() {
            conn.early = Early::Took;
            self.stats.tcp.fast_open_passive += 1;
        }
    }

    /// Follows a connection with Fast Open whose handshake has gone on; it may be accepted before that is complete.
    pub(crate) fn follow_early(&mut self, handle: Handle) {
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let owner = sock.owner;
        let Body::Conn(conn) = &mut sock.body else { return };
        let state = conn.tcp.state();
        match (conn.early, conn.life) {
            (Early::Took, Life::HalfOpen { .. }) if conn.tcp.is_early() => {
                conn.life = Life::Open;
                self.stats.tcp_passive_opens += 1;
                if let Owner::Listener(listener) = owner {
                    conn.listener = Some(listener);
                    if let Some(Body::Listener(queues)) = self.socks.get_mut(listener).map(|s| &mut s.body) {
                        queues.early.insert(handle);
                    }
                    self.offer(listener, handle);
                }
            }
            (Early::Took, _) if state != State::SynReceived => {
                conn.early = Early::No;
                self.forget_early(handle);
            }
            (Early::Waits | Early::Writes, _) if state != State::SynSent => {
                conn.early = Early::No;
                self.learn(handle);
            }
            (Early::No, Life::Connecting { .. }) if state == State::Established => self.learn(handle),
            _ => {}
        }
    }

    /// Notes what a peer has said of cookies.
    fn learn(&mut self, handle: Handle) {
        let Some(Body::Conn(conn)) = self.socks.get(handle).map(|s| &s.body) else { return };
        let Some((cookie, taken)) = conn.tcp.fast_open_answer() else { return };
        self.stats.tcp.fast_open_active += u64::from(taken);
        self.known.note(conn.remote.ip(), cookie, conn.tcp.peer_mss());
    }

    /// A connection does not count among those of its listener any more that took data early.
    pub(crate) fn forget_early(&mut self, handle: Handle) {
        let Some(Body::Conn(conn)) = self.socks.get_mut(handle).map(|s| &mut s.body) else { return };
        let Some(listener) = conn.listener.take() else { return };
        if let Some(Body::Listener(queues)) = self.socks.get_mut(listener).map(|s| &mut s.body) {
            queues.early.remove(&handle);
        }
    }
}

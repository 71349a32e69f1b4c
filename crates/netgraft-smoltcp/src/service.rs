//! What a connection has to do after a packet, a call or a timer.

use netgraft_plugin::{Error, Handle, Instant};
use netgraft_tcp::State;

use crate::core::Core;
use crate::iface::Side;
use crate::neighbor::Station;
use crate::ports::Sharing;
use crate::sock::{Body, Owner};
use crate::tcp::{Early, Life, at};
use crate::timewait::Waiting;

/// Packets that one connection sends before others have their turn.
const TURN: usize = 16;
/// When a connection that could not send tries again.
const RETRY: std::time::Duration = std::time::Duration::from_millis(1);

/// When a connection whose route is gone looks for it again.
const NO_ROUTE: std::time::Duration = std::time::Duration::from_secs(1);

/// How a turn of sending ended.
enum Turn {
    /// Nothing more to do, but for timers.
    Rests,
    /// Nothing can leave before this time.
    Waits(Instant),
    /// More is waiting.
    Again,
}

impl Core {
    /// Lets a socket send what it can, follows its state, and arms its timer. Answers how many packets were
    /// sent.
    pub(crate) fn service(&mut self, handle: Handle) -> usize {
        let now = self.now;
        self.work += 1;
        let Some(sock) = self.socks.get_mut(handle) else { return 0 };
        sock.dirty = false;
        let Body::Conn(conn) = &mut sock.body else { return 0 };
        if conn.has_ended() {
            return 0;
        }
        if conn.early == Early::Waits {
            // Its SYN leaves with the program's first data.
            return 0;
        }
        if conn.is_unreachable(now) {
            self.end(handle, Some(Error::HostUnreachable));
            return 0;
        }
        if conn.tcp.deadline().is_some_and(|due| due <= at(now)) {
            conn.tcp.on_time(at(now));
        }
        let (sent, turn) = match self.station(handle) {
            Some(station) => self.send_segments(handle, station),
            None => (0, self.await_neighbor(handle)),
        };
        if sent == 0
            && let Some(Body::Conn(conn)) = self.socks.get_mut(handle).map(|s| &mut s.body)
        {
            conn.tcp.release_idle_memory(at(now));
        }
        self.sync_state(handle);
        self.schedule(handle, turn);
        sent
    }

    /// The station that a connection's packets go to; `None` if its address is not known yet.
    fn station(&mut self, handle: Handle) -> Option<[u8; 6]> {
        let Some(Body::Conn(conn)) = self.socks.get(handle).map(|s| &s.body) else { return None };
        let ethernet = conn.side == Side::Link && self.net.link.as_ref().is_some_and(|l| l.mac.is_some());
        if !ethernet {
            return Some([0; 6]);
        }
        let hop = self.path(conn.remote.ip()).ok().map(|path| path.hop);
        if let Some(Body::Conn(conn)) = self.socks.get_mut(handle).map(|s| &mut s.body) {
            conn.hop = hop;
        }
        let hop = hop?;
        match self.neighbors.station(hop, self.now) {
            Station::Known(mac, asks) => {
                if asks {
                    self.solicit(hop);
                }
                Some(mac)
            }
            Station::Unknown(asks) => {
                if asks {
                    self.solicit(hop);
                }
                None
            }
        }
    }

    /// A connection cannot send before its neighbor answers.
    fn await_neighbor(&mut self, handle: Handle) -> Turn {
        let now = self.now;
        let Some(Body::Conn(conn)) = self.socks.get_mut(handle).map(|s| &mut s.body) else {
            return Turn::Rests;
        };
        if let Life::Connecting { unresolved } = &mut conn.life {
            unresolved.get_or_insert(now);
        }
        // Without a route there is nobody to ask: it may come back.
        let again = conn.hop.map_or(now + NO_ROUTE, |hop| self.neighbors.asks_at(hop, now));
        if !conn.resolving {
            conn.resolving = true;
            self.resolving.push(handle);
        }
        Turn::Waits(again.max(now + RETRY))
    }

    fn send_segments(&mut self, handle: Handle, station: [u8; 6]) -> (usize, Turn) {
        let now = self.now;
        let Some(Body::Conn(conn)) = self.socks.get_mut(handle).map(|s| &mut s.body) else {
            return (0, Turn::Rests);
        };
        let netif = self.net.at(conn.side);
        let before = netif.tx.packets;
        let mut turn = Turn::Again;
        for _ in 0..TURN {
            if netif.tx.is_full() {
                // The loopback's queue will be empty before the next turn.
                turn = if conn.side == Side::Loopback { Turn::Again } else { Turn::Waits(now + RETRY) };
                break;
            }
            let Some(transmit) = conn.tcp.transmit(at(now)) else {
                turn = Turn::Rests;
                break;
            };
            netif.push_segment(conn, &transmit, station);
        }
        let sent = (netif.tx.packets - before) as usize;
        if sent > 0
            && let Life::Connecting { unresolved } = &mut conn.life
        {
            // After the first SYN the neighbor is known, and silence is the peer's.
            *unresolved = None;
        }
        (sent, turn)
    }

    fn schedule(&mut self, handle: Handle, turn: Turn) {
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let Body::Conn(conn) = &sock.body else { return };
        if conn.has_ended() {
            return;
        }
        let own = conn.deadline(&sock.options);
        let at = match turn {
            Turn::Rests => own,
            // What is due cannot leave before.
            Turn::Waits(until) => Some(until),
            Turn::Again => {
                if !sock.dirty {
                    sock.dirty = true;
                    self.dirty.push_back(handle);
                }
                own
            }
        };
        if let Some(at) = at {
            self.timers.arm(handle, &mut sock.armed, at);
        }
    }

    /// Follows what has become of the connection.
    fn sync_state(&mut self, handle: Handle) {
        let now = self.now;
        self.follow_early(handle);
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let owner = sock.owner;
        let Body::Conn(conn) = &mut sock.body else { return };
        let state = conn.tcp.state();
        let news = conn.received != conn.reported;
        conn.reported = conn.received;
        match (conn.life, state) {
            (Life::Connecting { .. }, State::Closed) => {
                let error = conn.error().unwrap_or(Error::ConnectionRefused);
                return self.end(handle, Some(error));
            }
            (Life::Connecting { .. }, State::SynSent | State::SynReceived) => return,
            (Life::Connecting { .. }, _) => conn.life = Life::Open,
            (Life::HalfOpen { .. }, State::Closed) => return self.end(handle, None),
            (Life::HalfOpen { .. }, State::SynReceived) => return,
            (Life::HalfOpen { since }, _) => {
                let defer = sock.options.defer_accept;
                let waits = conn.received == 0 && state == State::Established;
                if defer.is_zero() || !waits || now >= since + defer {
                    conn.life = Life::Open;
                    self.stats.tcp_passive_opens += 1;
                    if let Owner::Listener(listener) = owner {
                        self.offer(listener, handle);
                    }
                }
            }
            (Life::Open, State::TimeWait) => return self.enter_time_wait(handle),
            (Life::Open, State::Closed) => {
                let error = conn.error();
                return self.end(handle, error);
            }
            _ => {}
        }
        self.count(handle);
        // Nobody will read what comes after close (RFC 1122 section 4.2.2.13).
        if owner == Owner::Orphan && news {
            self.reset(handle);
            return self.end(handle, None);
        }
        self.update(handle, news);
    }

    /// Keeps `tcp_established`.
    fn count(&mut self, handle: Handle) {
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let Body::Conn(conn) = &mut sock.body else { return };
        let now = !conn.has_ended() && matches!(conn.tcp.state(), State::Established | State::CloseWait);
        match (conn.counted, now) {
            (false, true) => self.stats.tcp_established += 1,
            (true, false) => self.stats.tcp_established -= 1,
            _ => {}
        }
        conn.counted = now;
    }

    /// Puts an established connection where `accept` finds it.
    pub(crate) fn offer(&mut self, listener: Handle, handle: Handle) {
        let Some(sock) = self.socks.get_mut(listener) else { return };
        if let Body::Listener(queues) = &mut sock.body {
            queues.half_open.remove(&handle);
            queues.ready.push_back(handle);
            self.update(listener, true);
        }
    }

    /// Sends a reset for a connection, now: behind what the peer's window and the path have let go, which Linux has sent
    /// by the time of a close.
    pub(crate) fn reset(&mut self, handle: Handle) {
        let Some(sock) = self.socks.get(handle) else { return };
        if let Body::Conn(conn) = &sock.body
            && !conn.has_ended()
        {
            let station = self.station(handle);
            if let Some(station) = station {
                self.send_segments(handle, station);
            }
            if let Some(Body::Conn(conn)) = self.socks.get_mut(handle).map(|sock| &mut sock.body) {
                conn.tcp.abort(&mut self.pool);
            }
            if let Some(station) = station {
                self.send_segments(handle, station);
            }
        }
    }

    /// Moves a connection to TIME-WAIT, where it needs no buffers.
    fn enter_time_wait(&mut self, handle: Handle) {
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let Body::Conn(conn) = &sock.body else { return };
        let Some(tcp) = conn.tcp.time_wait() else { return };
        let sharing = Sharing::of(&sock.options);
        let waiting = Waiting { tcp, sharing, since: self.now, loopback: conn.side == Side::Loopback };
        self.tcp_ports.add_connection(conn.local, sharing);
        if let Some((tuple, evicted)) = self.time_waits.insert(conn.tuple(), waiting) {
            self.tcp_ports.remove_connection(tuple.local(), evicted.sharing);
        }
        self.end(handle, None);
    }

    /// Ends a connection: packets do not reach it any more. What was received stays to be read, unless nobody
    /// holds the socket.
    pub(crate) fn end(&mut self, handle: Handle, error: Option<Error>) {
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let owner = sock.owner;
        let Body::Conn(conn) = &mut sock.body else { return };
        let before = conn.life;
        if conn.has_ended() {
            return;
        }
        conn.life = Life::Ended { connected: before == Life::Open };
        let tuple = conn.tuple();
        sock.error = error.or(sock.error);
        self.connections.remove(&tuple);
        self.count(handle);
        match (before, owner) {
            (Life::Connecting { .. }, _) => self.stats.tcp_attempt_fails += 1,
            (Life::HalfOpen { .. }, Owner::Listener(listener)) => {
                self.stats.tcp_attempt_fails += 1;
                if let Some(Body::Listener(queues)) = self.socks.get_mut(listener).map(|s| &mut s.body) {
                    queues.half_open.remove(&handle);
                }
                return self.discard(handle);
            }
            _ => {}
        }
        match owner {
            Owner::Orphan => self.discard(handle),
            Owner::Listener(_) | Owner::Program => self.update(handle, true),
        }
    }

    /// Takes a socket away: its port, its place in the tables, its buffers.
    pub(crate) fn discard(&mut self, handle: Handle) {
        self.forget_early(handle);
        let Some(mut sock) = self.socks.remove(handle) else { return };
        self.release_port(&mut sock);
        if let Body::Conn(conn) = sock.body {
            if !conn.has_ended() {
                self.connections.remove(&conn.tuple());
            }
            if conn.counted {
                self.stats.tcp_established -= 1;
            }
            crate::tcp::count(&conn, &mut self.stats.tcp);
            let mut tcp = conn.tcp;
            tcp.release(&mut self.pool);
        }
    }
}

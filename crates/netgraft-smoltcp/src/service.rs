//! What a connection has to do after a packet, a call or a timer.

use netgraft_plugin::{Error, Handle, Instant};
use smoltcp::socket::tcp::State;

use crate::core::Core;
use crate::iface::Side;
use crate::ports::Sharing;
use crate::sock::{Body, Owner};
use crate::tcp::{Life, Verdict};
use crate::timewait::Waiting;

/// Packets that one connection sends before others have their turn.
const TURN: usize = 16;
/// When a connection that could not send tries again.
const RETRY: std::time::Duration = std::time::Duration::from_millis(1);

/// How a turn of sending ended.
enum Turn {
    /// Nothing more to do before this time.
    Rests(Option<Instant>),
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
        let orphan = sock.owner == Owner::Orphan;
        let Body::Conn(conn) = &mut sock.body else { return 0 };
        if conn.has_ended() {
            return 0;
        }
        match conn.check(&sock.options, orphan, now) {
            Verdict::Live => {}
            Verdict::Silent(error) => {
                self.end(handle, Some(error));
                return 0;
            }
            Verdict::Reset(error) => {
                self.reset(handle);
                self.end(handle, Some(error));
                return 1;
            }
        }
        let netif = self.net.at(conn.side);
        let before = netif.tx.packets;
        let mut turn = Turn::Again;
        for _ in 0..TURN {
            let segments = netif.tx.packets;
            let sent = netif.egress(now, &mut conn.set, conn.edit);
            if netif.tx.tcp_since(segments) {
                conn.has_sent(netif.tx.last_segment, now);
            }
            match netif.poll_at(now, &conn.set) {
                Some(at) if at <= now && sent => {}
                // The loopback's queue is full, and will be empty before the next turn.
                Some(at) if at <= now && conn.side == Side::Loopback && netif.tx.is_full() => break,
                Some(at) if at <= now => {
                    turn = Turn::Rests(Some(now + RETRY));
                    break;
                }
                at => {
                    turn = Turn::Rests(at);
                    break;
                }
            }
        }
        let sent = (netif.tx.packets - before) as usize;
        conn.spoke |= netif.tx.tcp_since(before);
        if let (Life::Connecting { since, unresolved }, Side::Link) = (conn.life, conn.side) {
            // After the first SYN the neighbor is known, and silence is the peer's.
            let unresolved = if conn.spoke { None } else { unresolved.or(Some(now)) };
            conn.life = Life::Connecting { since, unresolved };
        }
        let asked = sent > 0 && !netif.tx.tcp_since(before) || !conn.spoke;
        let neighbor = (conn.side == Side::Link && asked).then_some(conn.remote.ip());
        conn.observe(now);
        if let Some(remote) = neighbor {
            self.resolving.push(handle);
            if sent == 0
                && let Ok(path) = self.path(remote)
            {
                self.solicit(path.hop);
            }
        }
        self.settle(handle);
        self.rest(handle, turn);
        sent
    }

    fn rest(&mut self, handle: Handle, turn: Turn) {
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let orphan = sock.owner == Owner::Orphan;
        let Body::Conn(conn) = &sock.body else { return };
        if conn.has_ended() {
            return;
        }
        let own = conn.deadline(&sock.options, orphan);
        let at = match turn {
            Turn::Rests(at) => [own, at].into_iter().flatten().min(),
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

    /// Follows what has become of smoltcp's socket.
    fn settle(&mut self, handle: Handle) {
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let owner = sock.owner;
        let Body::Conn(conn) = &mut sock.body else { return };
        let state = conn.socket().state();
        let news = conn.received != conn.told;
        conn.told = conn.received;
        match (conn.life, state) {
            (Life::Connecting { .. }, State::Closed) => {
                return self.end(handle, Some(Error::ConnectionRefused));
            }
            (Life::Connecting { .. }, State::SynSent | State::SynReceived) => return,
            (Life::Connecting { .. }, _) => conn.life = Life::Open,
            (Life::HalfOpen { .. }, State::Listen | State::Closed) => return self.end(handle, None),
            (Life::HalfOpen { .. }, State::SynReceived) => return,
            (Life::HalfOpen { since }, _) => {
                let defer = sock.options.defer_accept;
                let waits = conn.received == 0 && state == State::Established;
                if defer.is_zero() || !waits || self.now >= since + defer {
                    conn.life = Life::Open;
                    self.stats.tcp_passive_opens += 1;
                    if let Owner::Listener(listener) = owner {
                        self.offer(listener, handle);
                    }
                }
            }
            (Life::Open, State::TimeWait) => return self.rest_in_time_wait(handle),
            (Life::Open, State::Closed) => return self.end(handle, None),
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
        let now = !conn.has_ended() && matches!(conn.socket().state(), State::Established | State::CloseWait);
        match (conn.counted, now) {
            (false, true) => self.stats.tcp_established += 1,
            (true, false) => self.stats.tcp_established -= 1,
            _ => {}
        }
        conn.counted = now;
    }

    /// Puts an established connection where `accept` finds it.
    fn offer(&mut self, listener: Handle, handle: Handle) {
        let Some(sock) = self.socks.get_mut(listener) else { return };
        if let Body::Listener(queues) = &mut sock.body {
            queues.half_open.remove(&handle);
            queues.ready.push_back(handle);
            self.update(listener, true);
        }
    }

    /// Sends a reset for a connection, now.
    pub(crate) fn reset(&mut self, handle: Handle) {
        let now = self.now;
        let Some(sock) = self.socks.get_mut(handle) else { return };
        if let Body::Conn(conn) = &mut sock.body
            && !conn.has_ended()
        {
            conn.socket_mut().abort();
            let edit = conn.edit;
            self.net.at(conn.side).egress(now, &mut conn.set, edit);
        }
    }

    /// Moves a connection to TIME-WAIT, where it needs no buffers.
    fn rest_in_time_wait(&mut self, handle: Handle) {
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let Body::Conn(conn) = &sock.body else { return };
        let sharing = Sharing::of(&sock.options);
        let waiting =
            Waiting { next: conn.next, sharing, since: self.now, loopback: conn.side == Side::Loopback };
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
        let Some(mut sock) = self.socks.remove(handle) else { return };
        self.release_port(&mut sock);
        if let Body::Conn(conn) = sock.body {
            if !conn.has_ended() {
                self.connections.remove(&conn.tuple());
            }
            if conn.counted {
                self.stats.tcp_established -= 1;
            }
            self.recycle_tcp(conn.set, conn.inner);
        }
    }
}

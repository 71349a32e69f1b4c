//! A flood of SYNs takes no memory: once a listener has as many handshakes underway as its backlog, it answers with SYN
//! cookies (RFC 4987 section 3.6), as Linux with `tcp_syncookies` of 1.

use std::net::SocketAddr;
use std::time::Duration;

use netgraft_plugin::Handle;
use netgraft_tcp::{Cookies, Flags, Segment};

use crate::addr::Tuple;
use crate::core::Core;
use crate::iface::Side;
use crate::packet::Packet;
use crate::sock::Body;
use crate::tcp::{Conn, Life, at};

/// How long after the last cookie acknowledgements of one are looked for.
const HOLDS: Duration = Duration::from_secs(128);

impl Core {
    /// Whether a listener has too many handshakes underway.
    pub(crate) fn is_flooded(&self, listener: Handle) -> bool {
        matches!(self.socks.get(listener).map(|s| &s.body), Some(Body::Listener(l)) if l.is_flooded() && !l.is_crowded())
    }

    /// Answers a SYN and forgets it.
    pub(crate) fn answer_with_cookie(
        &mut self,
        side: Side,
        frame: &[u8],
        packet: &Packet<'_>,
        (tuple, segment): (Tuple, &Segment<'_>),
    ) {
        let local = tuple.local();
        let Some(listener) = self.listener(local, &tuple) else { return };
        let Some(options) = self.socks.get(listener).map(|s| s.options.clone()) else { return };
        let config = self.tcp_config(&options, side, tuple, local.is_ipv4());
        let cookies = Cookies::new(|a, b| self.initial.cookie(&tuple, (a, b)));
        if let Some(header) = cookies.answer(&config, segment, at(self.now)) {
            self.flooded = Some(self.now + HOLDS);
            self.stats.tcp.cookies_sent += 1;
            self.answer(side, frame, packet, segment.ports, &header);
        }
    }

    fn listener(&self, local: SocketAddr, tuple: &Tuple) -> Option<Handle> {
        self.tcp_ports.receiver(local.port(), local.ip(), || self.key.of(tuple))
    }

    /// Takes up the connection whose cookie a segment acknowledges; `false` if it acknowledges none.
    pub(crate) fn take_cookie(
        &mut self,
        side: Side,
        (local, remote): (SocketAddr, SocketAddr),
        segment: &Segment<'_>,
    ) -> bool {
        if !segment.header.flags.has(Flags::ACK) || segment.header.flags.any(Flags::SYN | Flags::RST) {
            return false;
        }
        let tuple = Tuple::new(local, remote);
        let Some(handle) = self.listener(local, &tuple) else { return false };
        let Some(sock) = self.socks.get(handle) else { return false };
        let Body::Listener(listener) = &sock.body else { return false };
        let (options, crowded) = (sock.options.clone(), listener.is_crowded());
        let config = self.tcp_config(&options, side, tuple, local.is_ipv4());
        let cookies = Cookies::new(|a, b| self.initial.cookie(&tuple, (a, b)));
        let Some((mut tcp, arrival)) = cookies.accept(&config, segment, at(self.now), &mut self.pool) else {
            return false;
        };
        if crowded {
            // The peer sends again, and there may be room then.
            tcp.release(&mut self.pool);
            self.stats.tcp_listen_overflows += 1;
            return true;
        }
        self.stats.tcp.cookies_received += 1;
        let mut conn = Conn::new(tcp, side, (local, remote), Life::HalfOpen { since: self.now }, &options);
        conn.received = arrival.received as u64;
        self.add_half_open(handle, conn, options);
        true
    }
}

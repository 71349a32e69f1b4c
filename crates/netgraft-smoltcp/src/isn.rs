//! Initial sequence numbers (RFC 6528): a clock, so that a connection which takes the addresses of an old one
//! begins behind its numbers, plus a keyed hash of the addresses, so that nobody can tell them from outside.

use std::hash::{BuildHasher, RandomState};

use netgraft_plugin::Instant;
use netgraft_tcp::Cookie;

use crate::addr::Tuple;

/// How far behind the last number of a connection in TIME-WAIT the next one begins: what was still underway has
/// at most a window without scaling (as `tcp_tw_isn` of Linux).
const GAP: u32 = 65_537;

/// The secret of one stack: SipHash, from the system's random numbers.
pub(crate) struct InitialNumbers {
    secret: RandomState,
}

impl InitialNumbers {
    pub(crate) fn new() -> Self {
        InitialNumbers { secret: RandomState::new() }
    }

    /// The first sequence number of a connection. `old` is the next number of the connection that had the same
    /// addresses, if one is known.
    pub(crate) fn choose(&self, tuple: &Tuple, old: Option<u32>, now: Instant) -> u32 {
        // RFC 6528 counts 4 µs, made for 2 Mbit/s. 64 ns, as on Linux, are for 1 Gbit/s, and begin again after
        // 274 seconds, which is longer than TIME-WAIT.
        let clock = (now.nanos() >> 6) as u32;
        match old {
            Some(next) => next.wrapping_add(GAP),
            None => (self.secret.hash_one(tuple) as u32).wrapping_add(clock),
        }
    }

    /// A hash for SYN cookies (RFC 4987 section 3.6).
    pub(crate) fn cookie(&self, tuple: &Tuple, numbers: (u32, u32)) -> u32 {
        self.secret.hash_one((tuple, numbers, "cookie")) as u32
    }

    /// The cookie of Fast Open that a client must show: a keyed hash of its address (RFC 7413 section 4.1.2) and of the
    /// server's.
    pub(crate) fn fast_open_cookie(&self, tuple: &Tuple) -> Cookie {
        let hash = self.secret.hash_one((tuple.addresses(), "fast open"));
        Cookie::new(&hash.to_be_bytes()).unwrap_or_default()
    }

    /// What is added to the clock of a connection's timestamps: one number for each pair of addresses, so that a new
    /// connection's clock goes on where the last one's was (RFC 7323 section 5.4, RFC 6191).
    pub(crate) fn timestamp_offset(&self, tuple: &Tuple) -> u32 {
        self.secret.hash_one((tuple.addresses(), "timestamps")) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_clock_and_differ_by_address_and_stack() {
        let (a, b) = (InitialNumbers::new(), InitialNumbers::new());
        let tuple = |port: u16| {
            let at = |port: u16| std::net::SocketAddr::from(([192, 0, 2, 1], port));
            Tuple::new(at(port), at(80))
        };
        let second = Instant::from_millis(1000);
        let first = a.choose(&tuple(1), None, Instant::ZERO);
        assert_eq!(a.choose(&tuple(1), None, second).wrapping_sub(first), 15_625_000);
        assert_ne!(a.choose(&tuple(2), None, Instant::ZERO).wrapping_sub(first), 0);
        assert_ne!(b.choose(&tuple(1), None, Instant::ZERO), first);
        assert_eq!(a.choose(&tuple(1), Some(u32::MAX), second), 65_536);
    }
}

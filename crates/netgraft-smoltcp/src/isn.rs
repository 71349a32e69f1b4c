//! Initial sequence numbers (RFC 6528): a clock, so that a connection which takes the addresses of an old one
//! begins behind its numbers, plus a keyed hash of the addresses, so that nobody can tell them from outside.

use std::hash::{BuildHasher, RandomState};

use netgraft_plugin::Instant;

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
}

/// Of smoltcp's generator: each state is the one before times `FACTOR` plus `TERM`.
const FACTOR: u64 = 0xbb2e_fcec_3c39_611d;
const TERM: u64 = 0x7590_ef39;
/// What undoes the multiplication by the odd `FACTOR` (Newton's iteration doubles the right bits).
const INVERSE: u64 = {
    let mut inverse = FACTOR;
    let mut round = 0;
    while round < 5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(FACTOR.wrapping_mul(inverse)));
        round += 1;
    }
    inverse
};

/// The seed of an interface of smoltcp whose first TCP connection begins with the number `isn`. smoltcp 0.14
/// takes it from the interface's generator, and has no other way to be told.
pub(crate) fn seed(isn: u32) -> u64 {
    let before = |state: u64| state.wrapping_sub(TERM).wrapping_mul(INVERSE);
    // An output is the state shifted by 29 less its top three bits, which are 0 here.
    let mut state = u64::from(isn) << 29;
    loop {
        let previous = before(state);
        // The interface takes an identification for itself first, and draws again while it is 0.
        let drawn = (previous >> (29 - (previous >> 61))) as u32;
        if (drawn ^ (drawn >> 16)) as u16 != 0 {
            return before(previous);
        }
        state += 1;
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

    #[test]
    fn the_factor_is_undone() {
        assert_eq!(FACTOR.wrapping_mul(INVERSE), 1);
    }
}

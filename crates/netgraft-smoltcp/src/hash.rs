//! A fast hash with a secret key: packets choose the keys of the tables that they are looked up in, so an
//! attacker must not be able to choose colliding ones.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

/// A table hashed with [`Keyed`].
pub(crate) type Map<K, V> = HashMap<K, V, Keyed>;

/// The secret of one stack's tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed {
    seed: u64,
    factor: u64,
}

impl Keyed {
    /// A new secret, from the system's random numbers.
    pub(crate) fn random() -> Self {
        let random = RandomState::new();
        Keyed { seed: random.hash_one(1u8), factor: random.hash_one(2u8) | 1 }
    }

    /// The hash of one value, also used to spread connections over listeners.
    pub(crate) fn of(self, value: &impl Hash) -> u64 {
        self.hash_one(value)
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folding;
    fn build_hasher(&self) -> Folding {
        Folding { state: self.seed, factor: self.factor }
    }
}

/// Multiplies each word, mixed with the state, into 128 bits and folds them: both operands depend on the
/// secret, so that neither product nor fold can be steered from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Folding {
    state: u64,
    factor: u64,
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }
    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        self.state = fold(value ^ self.state, self.factor).wrapping_add(self.state.rotate_left(23));
    }
    fn write_u128(&mut self, value: u128) {
        self.write_u64(value as u64);
        self.write_u64((value >> 64) as u64);
    }
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
    fn finish(&self) -> u64 {
        fold(self.state, self.factor ^ 0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_and_secrets_differ() {
        let (a, b) = (Keyed::random(), Keyed::random());
        let mut low: Vec<u64> = (0..4096u32).map(|n| a.of(&(1u128, n)) & 0xfff).collect();
        low.sort_unstable();
        low.dedup();
        assert!(low.len() > 2300, "{} of 4096 buckets", low.len());
        assert_ne!(a.of(&7u64), b.of(&7u64));
    }
}

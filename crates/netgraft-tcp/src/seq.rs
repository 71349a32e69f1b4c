//! Sequence numbers. Read RFC 9293 section 3.4 first.
//!
//! On the wire they have 32 bits and go around. Inside they are *positions* of 64 bits that never do, so that they
//! compare as numbers: the SYN stands at [`FIRST`], the first byte of data one behind it, the FIN behind the last.

/// Where the SYN stands. So far from 0 that a position calculated from any number of the wire is positive.
pub(crate) const FIRST: u64 = 1 << 32;

/// The numbers of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// The initial sequence number.
    pub(crate) initial: u32,
}

impl Numbers {
    /// The number of a position.
    pub(crate) fn wire(self, position: u64) -> u32 {
        self.initial.wrapping_add(position.wrapping_sub(FIRST) as u32)
    }

    /// The position of a number: of all that have it, the one next to `near`, which is [`FIRST`] at least.
    pub(crate) fn position(self, number: u32, near: u64) -> u64 {
        let ahead = number.wrapping_sub(self.wire(near)) as i32;
        near.wrapping_add_signed(i64::from(ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_numbers_belong_together() {
        for initial in [0, 1, u32::MAX, 1 << 31] {
            let numbers = Numbers { initial };
            assert_eq!(numbers.wire(FIRST), initial);
            for near in [FIRST, FIRST + 5, FIRST + (3 << 32) + 17] {
                for ahead in [0i64, 1, -1, i64::from(i32::MAX), i64::from(i32::MIN)] {
                    let position = near.wrapping_add_signed(ahead);
                    assert_eq!(numbers.position(numbers.wire(position), near), position);
                }
            }
        }
    }
}

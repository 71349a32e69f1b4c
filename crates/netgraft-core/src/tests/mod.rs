//! Tests of the core as a whole, on a kernel and a stack in memory.

mod fake;

#[cfg(test)]
mod accept;
#[cfg(test)]
mod answers;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod connect;
#[cfg(test)]
mod datagram;
#[cfg(test)]
mod flows;
#[cfg(test)]
mod host;
#[cfg(test)]
mod inspect;
#[cfg(test)]
mod join;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod limits;
mod link_steps;
#[cfg(test)]
mod listen;
#[cfg(test)]
mod members;
#[cfg(test)]
mod names;
#[cfg(test)]
mod options;
#[cfg(test)]
mod owners;
#[cfg(test)]
mod parked;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod private_link;
mod random;
#[cfg(test)]
mod receive;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod restore;
#[cfg(test)]
mod route;
#[cfg(test)]
mod send;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod stack;
#[cfg(test)]
mod stream;
#[cfg(test)]
mod waiting;

/// Plays the sequence that these bytes are.
///
/// # Panics
/// If an invariant does not hold.
#[cfg(feature = "fuzzing")]
pub(crate) fn sequence_of_bytes(bytes: &[u8]) {
    random::play_bytes(bytes);
}

/// Plays the steps of a private link that these bytes are.
///
/// # Panics
/// If an invariant does not hold.
#[cfg(feature = "fuzzing")]
pub(crate) fn link_of_bytes(bytes: &[u8]) {
    link_steps::play(bytes);
}

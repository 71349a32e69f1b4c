//! Hostile programs, and what a sentry must be after them: as before.
//!
//! An *attack* is one of the programs under `programs/`. Each brings a canary, which does small requests and responses
//! all the time and must never wait for more than two seconds by its own clock, and, where something could cross, a
//! victim of another user. The driver counts the sentry's descriptors and memory at the points that a program names,
//! and looks for processes that are left.
#![forbid(unsafe_code)]

mod attack;
mod sentry;

pub use attack::{ATTACKS, Attack, Ids, compile, run};
pub use sentry::Usage;

//! Objects of both levels behind the contract. They are compiled from tests/plugins by the tests that want them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
mod conformance;
mod guide;
mod level0;
mod level1;
mod objects;
mod rig;

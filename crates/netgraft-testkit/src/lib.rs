//! What tests of netgraft and of network stacks need: a clock of their own, and the conformance suite over the
//! contract of [`netgraft_plugin`]. The simulated wire is `netgraft-link`'s ([`wire`]).
//!
//! Nothing here needs a kernel, root or a network: a stack that speaks packets runs against another one over
//! a [`wire`], on simulated time. A stack whose sockets are the host's runs on real time.
#![forbid(unsafe_code)]

pub mod clock;
pub mod conformance;

pub use netgraft_link::{random, wire};

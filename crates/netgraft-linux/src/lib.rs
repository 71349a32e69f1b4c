//! The kernel interfaces that netgraft stands on, safe to call: the only crate beside `netgraft-abi` with
//! unsafe code. It knows nothing of stacks or of sockets' semantics.

pub mod filter;
pub mod link;

//! The kernel interfaces that netgraft stands on, safe to call: the only crate beside `netgraft-abi` with
//! unsafe code. It knows nothing of stacks or of sockets' semantics.

pub mod broker;
pub mod epoll;
pub mod filter;
pub mod inet_socket;
pub mod inotify;
pub mod link;
pub mod listener;
pub mod task;
pub mod unix;

//! The kernel interfaces that netgraft stands on, safe to call: the only crate beside `netgraft-abi` with
//! unsafe code. It knows nothing of stacks or of sockets' semantics.

mod bpf;
pub mod broker;
pub mod cage;
pub mod capability;
pub mod cells;
pub mod confine;
pub mod descriptor;
pub mod disposal;
pub mod epoll;
pub mod fdpass;
pub mod filter;
pub mod inet_socket;
pub mod inotify;
pub mod inspector;
pub mod jail;
pub mod landlock;
pub mod link;
pub mod listener;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod netdev;
pub mod nsfd;
pub mod peer;
pub mod process;
mod result;
pub mod shared;
pub mod signal;
pub mod sock_diag;
pub mod syscall;
pub mod task;
pub mod terminal;
pub mod unix;
pub mod worker;

//! The built-in stack of netgraft: the TCP/IP stack smoltcp behind the plugin contract.
//!
//! smoltcp looks at each socket for each packet, so every connection has a set of its own, and every packet is
//! led to its connection by hash before smoltcp sees it. Sockets cost nothing while nothing happens to them.
//!
//! # Where what is
//! `demux` leads a packet to its socket; `service` is what a connection does after a packet, a call or a timer;
//! `poll` is the loop around both. `stream`, `udp`, `icmp` and `raw` are the program's calls, `tcp` what Linux programs
//! expect around smoltcp's socket. `device`, `iface` and `link` are the way out.
//!
//! # Limits
//! They are smoltcp 0.14's: a retransmission time-out of at least one second, a congestion window that begins
//! at two segments of 1 KiB, no use of a peer's selective acknowledgements, no timestamps and no urgent data.
//! Buffers keep the size that they had when the connection began. Nothing is forwarded.
//!
//! ```
//! use netgraft_plugin::{InitStackArgs, PluginStack, StackConfig, inet::Stack};
//! let mut stack = netgraft_smoltcp::SmoltcpStack::new(StackConfig::default())?;
//! stack.init(InitStackArgs::default())?;
//! assert_eq!(stack.interfaces()[0].name, "lo");
//! # Ok::<(), netgraft_plugin::stack::SetupError>(())
//! ```
#![forbid(unsafe_code)]

mod addr;
mod conduit;
mod cookies;
mod core;
mod datagram;
mod demux;
mod device;
mod emit;
mod fragments;
mod fragments6;
mod hash;
mod icmp;
mod iface;
mod inet;
mod isn;
mod listener;
mod neighbor;
mod options;
mod packet;
mod poll;
mod ports;
mod raw;
mod service;
mod sock;
mod sockets;
mod sockopt;
mod split;
mod stack;
mod stream;
mod tcp;
mod timer;
mod timewait;
mod udp;

#[cfg(test)]
mod tests;

pub use stack::{SmoltcpStack, factory};

/// The name under which the stack is registered.
pub const NAME: &str = "smoltcp";

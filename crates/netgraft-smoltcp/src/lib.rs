//! The built-in stack of netgraft: TCP by `netgraft-tcp`, everything else by smoltcp, behind the plugin contract.
//!
//! Every packet is led to its connection by hash. A connection has its own state and timer, and costs nothing while
//! nothing happens to it. smoltcp does IP, ARP and NDP, ICMP, IGMP and MLD, fragmentation, and the sending of datagrams.
//!
//! # Where what is
//! `demux` leads a packet to its socket; `service` is what a connection does after a packet, a call or a timer;
//! `poll` is the loop around both. `stream`, `udp`, `icmp` and `raw` are the program's calls, `tcp` what Linux programs
//! expect around a connection, `cookies` a listener under a flood. `emit` is how segments leave, `neighbor` whom they leave
//! to; `device`, `iface` and `link` are the way out.
//!
//! # Limits
//! Nothing is forwarded.
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
mod argument;
mod conduit;
mod cookies;
mod core;
mod datagram;
mod demux;
mod device;
mod emit;
mod fastopen;
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

//! The contract between netgraft and a network stack.
//!
//! netgraft runs a program in a sandbox that has no network and serves the program's sockets from a
//! *plugin stack*. A stack is anything that implements [`PluginStack`]:
//!
//! 1. It is registered under a name ([`registry::register_plugin_stack`]) with a factory.
//! 2. The privileged *launcher* makes one with the factory and calls [`PluginStack::pre_init`], which may
//!    open devices and returns a string and file descriptors.
//! 3. The confined *sentry* makes another one and calls [`PluginStack::init`] with that string and those
//!    descriptors. From then on it is the only caller, from one thread.
//! 4. The sentry's event loop calls the socket operations ([`socket::Sockets`]) for what the program asks,
//!    tells the stack which events it waits for ([`notify::PluginNotifier`]), calls
//!    [`PluginStack::poll`] when one of the stack's descriptors is ready or its deadline has come, and then
//!    fetches the events ([`PluginStack::drain_events`]).
//!
//! No call blocks: what cannot be done now answers [`Error::Again`] or [`Error::InProgress`] and is reported
//! as an event later. No call reads a clock: time is an argument. Addresses, options and lengths that reach
//! a stack were checked by the sentry.
//!
//! `examples/echo_stack` is a complete stack in under 200 lines, and a program that drives it.
#![forbid(unsafe_code)]

pub mod config;
pub mod contract;
pub mod data;
pub mod error;
pub mod event;
pub mod faults;
pub mod inet;
pub mod link;
pub mod network;
pub mod notify;
pub mod option;
pub mod owners;
pub mod recording;
pub mod registry;
pub mod seccomp;
pub mod socket;
pub mod stack;
pub mod time;
pub mod watch;

pub use config::{Cidr, InterfaceName, LinkConfig, Neighbour, StackConfig, Wrappers};
pub use contract::Call;
pub use data::{Batch, Datagram, Spare, Spill, Streamed};
pub use error::{Error, Result};
pub use event::{Event, Events};
pub use network::NetworkType;
pub use notify::{EventInfo, PluginNotifier, WaitQueue};
pub use option::{Agreed, CongestionState, OptionName, SocketOption, TcpInfo, TcpState};
pub use registry::{Registry, get_plugin_stack, register_plugin_stack};
pub use seccomp::SyscallRule;
pub use socket::{
    Domain, Handle, Kind, Protocol, Received, RecvFlags, SendFlags, Shutdown, SocketSpec, Sockets,
};
pub use stack::{InitStackArgs, PluginStack, PreInitStack, PreInitStackArgs, StackInfo, WakeFd};
pub use time::Instant;
pub use watch::{Observer, Watched};

//! Linux socket semantics on a plugin stack: what a program sees when it makes, connects, reads, writes, shuts down
//! and closes internet sockets that a stack of its sandbox serves.
//!
//! There is no I/O here, no clock and no system call. The owner of a [`Core`] reports events to it, and it works on the world
//! through small traits: [`Program`] (the threads that make calls), [`Surrogate`] (the AF_UNIX sockets that stand for
//! internet sockets), [`Watcher`] (what reports events on them), [`HostSocket`] (sockets of the host's), [`PrivateLinks`] (devices that lead to
//! the kernel's own datagram sockets) and [`Journal`] (what a later sentry is to know). The crate `netgraft-sentry` has these for the real kernel, and the tests here have
//! fakes of them.
//!
//! A call goes `calls` → one file for each kind of call (`create`, `connect`, `listen`, `shutdown`, `options`,
//! `names`, `send`, `receive`, `host`); bytes and events go through `pump`. A socket's state is one variant of
//! `socket::State` with its data.
#![forbid(unsafe_code)]

pub mod codec;
pub mod route;
pub mod uapi;

mod answers;
mod budget;
mod calls;
mod connect;
mod core;
mod counts;
mod create;
mod datagram;
mod deny;
mod fast_open;
mod flows;
mod host;
mod inspect;
mod join;
mod journal;
mod listen;
mod listener;
mod names;
mod options;
mod owners;
mod parked;
pub mod policy;
mod private_link;
mod program;
mod pump;
mod receive;
mod refused;
mod reload;
mod restore;
mod send;
mod shutdown;
mod socket;
mod stack;
mod stream;
mod surrogate;
mod table;
mod waiting;

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "a fuzzer needs a part of the tests"))]
#[expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report of a test")]
mod tests;

pub use crate::core::{Core, Kernel, Time};
pub use budget::Budget;
pub use counts::Counts;
pub use flows::{Amount, FlowEnd, FlowRecord, FlowSink, ProcessName};
pub use host::{HostSocket, HostToken};
pub use inspect::Inspected;
pub use join::{Pair, Side};
pub use journal::{Journal, KEPT_OPTIONS, Kept, Role};
pub use private_link::{KernelSocket, PrivateLink, PrivateLinks};
pub use program::{
    Caller, Files, ForeignCall, Gone, InjectError, Privilege, Program, ProgramId, Serves, total,
};
pub use reload::EndedFlows;
pub use socket::Seen;
pub use stack::Stack;
pub use surrogate::{
    Cookie, END_EVENTS, Found, Gate, Interest, Name, Shape, Shown, Surrogate, Watch, Watcher,
};
pub use table::SocketId;

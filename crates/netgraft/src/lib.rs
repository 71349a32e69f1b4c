//! netgraft runs any Linux program, unchanged, on any TCP/IP stack.
//!
//! The command `netgraft` is a thin shell around this library:
//!
//! ```no_run
//! netgraft::register_builtin_stacks()?;
//! let mut options = netgraft::RunOptions::new("redis-server");
//! options.network = netgraft_plugin::NetworkType::Sandbox;
//! let status = netgraft::run(options)?;
//! println!("ended with {}", status.code);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A stack of one's own is registered with [`netgraft_plugin::register_plugin_stack`] before [`run`], and
//! chosen with [`netgraft_plugin::NetworkType::Plugin`].
#![forbid(unsafe_code)]

mod check;
pub mod clock;
pub mod control;
mod error;
mod launch;
mod observer;
pub mod runtime;
mod stacks;
mod vitals;

pub use check::{Checked, check};
pub use error::{EXIT_FAILURE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, RunError};
pub use launch::{ExitStatus, OnCrash, RunOptions, Step, run};
pub use stacks::{HOST, SMOLTCP, register_builtin_stacks};

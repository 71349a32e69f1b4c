//! netgraft runs any Linux program, unchanged, on any TCP/IP stack.
//!
//! The command `netgraft` is a thin shell around this library:
//!
//! ```no_run
//! netgraft::register_builtin_stacks()?;
//! let network = netgraft::NetworkSpec::new(netgraft_plugin::NetworkType::Sandbox);
//! let program = netgraft::ProgramSpec::new("redis-server");
//! let status = netgraft::run(&network, &program)?;
//! println!("ended with {}", status.code);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A stack of one's own is registered with [`netgraft_plugin::register_plugin_stack`] before [`run`], and
//! chosen with [`netgraft_plugin::NetworkType::Plugin`].
#![forbid(unsafe_code)]

mod check;
mod new_stack;

use netgraft_plugin::register_plugin_stack;
use netgraft_plugin::registry::RegistryError;

pub use check::{Cases, CheckOptions, Checked, check};
pub use netgraft_launch::stacks::{HOST, SMOLTCP};
pub use netgraft_launch::{
    Ask, Bind, CaptureOutput, CaptureSpec, Datagrams, Descriptors, EXIT_FAILURE, EXIT_NOT_EXECUTABLE,
    EXIT_NOT_FOUND, ExitStatus, Files, FlowsSpec, Gate, Ids, Join, Limits, LogWriter, MetricsAddress,
    NetworkSpec, OnCrash, Profile, ProgramId, ProgramSpec, RunError, Sandbox, Seccomp, SentryMain,
    SocketLimits, Stacks, Step, Terminal, Until, User, clock, control, enter_network, policy, publish,
};
pub use netgraft_sentry::SENTRY;
pub use new_stack::{Language, NewStack, new_stack};

/// Registers the stacks that netgraft brings: [`SMOLTCP`] and [`HOST`].
///
/// # Errors
/// [`RegistryError::Duplicate`] if one of the names is taken.
pub fn register_builtin_stacks() -> Result<(), RegistryError> {
    register_plugin_stack(SMOLTCP, netgraft_smoltcp::factory())?;
    register_plugin_stack(HOST, netgraft_host::factory())
}

/// Runs a program in a sandbox of its own until it ends: [`netgraft_launch::run`]. The stacks must be registered
/// ([`register_builtin_stacks`]).
///
/// # Errors
/// Why the program was not started, or not run to its end; nothing is left behind then.
pub fn run(network: &NetworkSpec, program: &ProgramSpec) -> Result<ExitStatus, RunError> {
    netgraft_launch::run(network, program, SENTRY)
}

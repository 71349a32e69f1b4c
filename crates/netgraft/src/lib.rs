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
mod observer;
pub mod runtime;
mod trace;

use std::io;

use netgraft_plugin::registry::RegistryError;
use netgraft_plugin::{Watched, register_plugin_stack};

pub use check::{Cases, CheckOptions, Checked, check};
pub use netgraft_launch::stacks::{HOST, SMOLTCP};
pub(crate) use netgraft_launch::vitals;
pub use netgraft_launch::{
    EXIT_FAILURE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, ExitStatus, LogWriter, NetworkSpec, OnCrash,
    ProgramId, ProgramSpec, RunError, Sandbox, SentryMain, Stacks, Step, User, clock, control,
};
pub use new_stack::{Language, NewStack, new_stack};

/// Registers the stacks that netgraft brings: [`SMOLTCP`] and [`HOST`].
///
/// # Errors
/// [`RegistryError::Duplicate`] if one of the names is taken.
pub fn register_builtin_stacks() -> Result<(), RegistryError> {
    register_plugin_stack(SMOLTCP, netgraft_smoltcp::factory())?;
    register_plugin_stack(HOST, netgraft_host::factory())
}

/// What a sentry does once it is confined: for [`Sandbox::start`].
pub const SENTRY: SentryMain = SentryMain {
    watch: |stack, vitals, control| Box::new(Watched::new(stack, observer::ToLauncher::new(vitals, control))),
    run: serve,
};

/// Runs a program in a sandbox of its own until it ends: [`netgraft_launch::run`]. The stacks must be registered
/// ([`register_builtin_stacks`]).
///
/// # Errors
/// Why the program was not started, or not run to its end; nothing is left behind then.
pub fn run(network: &NetworkSpec, program: &ProgramSpec) -> Result<ExitStatus, RunError> {
    netgraft_launch::run(network, program, SENTRY)
}

fn serve(args: netgraft_launch::SentryArgs) -> io::Result<()> {
    let netgraft_launch::SentryArgs { stack, mut listeners, control, vitals, journal, kept } = args;
    let (Some((_, listener)), true) = (listeners.pop(), listeners.is_empty()) else {
        return Err(io::Error::other("it serves exactly one program"));
    };
    runtime::serve(runtime::SentryArgs { stack, listener, control, vitals, journal, kept })
}

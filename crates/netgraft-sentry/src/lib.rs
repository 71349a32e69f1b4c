//! The sentry: the confined process that serves the sockets of a sandbox.
//!
//! Two threads take turns. One waits in the kernel for the next call of the program, has [`netgraft_core::Core`] serve
//! it and lets the stack run: the kernel wakes that thread on the processor on which the caller is, and the caller there
//! again, while a wake-up through epoll(7) may take either to another one. The other thread's loop ([`sentry`](self))
//! hands the core what is ready on one epoll, and lets it run timers and the stack: the more is under way, the more is
//! done in a round. It also serves the calls of further programs, and all calls where the stack is a shared object. What the core asks for is done by [`bindings`](self), one file for each of its
//! traits.
#![forbid(unsafe_code)]

mod bindings;
mod calls;
mod figures;
mod names;
mod observer;
mod operator;
mod poller;
mod restore;
mod sentry;
pub mod trace;
mod turns;

use std::io;

use netgraft_launch::{SentryArgs, SentryMain};
use netgraft_plugin::Watched;

/// What the launcher's confined child does: for [`netgraft_launch::Sandbox::start`].
pub const SENTRY: SentryMain = SentryMain {
    watch: |stack, vitals, control| Box::new(Watched::new(stack, observer::ToLauncher::new(vitals, control))),
    run: serve,
};

/// Serves programs until the launcher says [`netgraft_launch::control::ToSentry::Stop`] or goes away.
///
/// Runs in the confined sentry: `/proc` of its own process-id namespace (which contains the programs') is mounted, and
/// is the only file system there is.
///
/// # Errors
/// What makes it impossible to go on.
pub fn serve(args: SentryArgs) -> io::Result<()> {
    sentry::Sentry::new(args)?.run()
}

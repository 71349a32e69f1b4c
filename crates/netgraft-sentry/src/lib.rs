//! The sentry: the confined process that serves the sockets of a sandbox.
//!
//! One thread, one epoll. A round of its loop ([`sentry`](self)) receives the calls that wait and lets
//! [`netgraft_core::Core`] serve them, hands it what is ready, and lets it run timers and the stack: the more is under
//! way, the more is done in a round. What the core asks for is done by [`bindings`](self), one file for each of its
//! traits.
#![forbid(unsafe_code)]

mod bindings;
mod calls;
mod names;
mod observer;
mod poller;
mod restore;
mod sentry;
pub mod trace;

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

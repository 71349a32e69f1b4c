//! The sentry's event loop: system calls of the program, surrogates and the stack.

use std::os::fd::OwnedFd;

use netgraft_plugin::PluginStack;

/// What the event loop works on.
pub struct SentryArgs {
    /// The stack, after `init`.
    pub stack: Box<dyn PluginStack>,
    /// The seccomp listener of the program.
    pub listener: OwnedFd,
    /// The `SOCK_SEQPACKET` socket to the launcher ([`crate::control`]).
    pub control: OwnedFd,
}

/// Serves the program until the launcher says [`crate::control::ToSentry::Stop`] or goes away.
///
/// Runs in the confined sentry: `/proc` of its own pid namespace (which contains the program's) is mounted,
/// and is the only file system there is.
///
/// # Errors
/// What makes it impossible to go on.
pub fn serve(args: SentryArgs) -> std::io::Result<()> {
    let _ = args;
    Err(std::io::Error::from(std::io::ErrorKind::Unsupported))
}

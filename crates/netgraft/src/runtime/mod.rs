//! The sentry's event loop: system calls of the program, surrogates and the stack.
//!
//! One thread, one epoll. A round of the loop answers the calls that wait, moves bytes from surrogates to the
//! stack, lets the stack run once, and moves what it reports back to the surrogates: the more is under way,
//! the more is done in a round.

mod accept;
mod caller;
mod calls;
mod connect;
mod create;
mod datagram;
mod engine;
mod host;
mod listener;
mod messages;
mod names;
mod options;
mod parked;
mod pump;
mod restore;
mod stream;
mod table;

use std::io;
use std::os::fd::OwnedFd;

use netgraft_plugin::PluginStack;

use crate::control::Kept;
use crate::vitals::Vitals;
use engine::Engine;

/// What the event loop works on.
pub struct SentryArgs {
    /// The stack, after `init`.
    pub stack: Box<dyn PluginStack>,
    /// The seccomp listener of the program.
    pub listener: OwnedFd,
    /// The `SOCK_SEQPACKET` socket to the launcher ([`crate::control`]).
    pub control: OwnedFd,
    /// The words that the launcher looks at.
    pub vitals: Vitals,
    /// Whether the launcher is told which sockets are to outlive the stack.
    pub journal: bool,
    /// What the sentry before this one said of such sockets.
    pub kept: Vec<Kept>,
}

/// Serves the program until the launcher says [`crate::control::ToSentry::Stop`] or goes away.
///
/// Runs in the confined sentry: `/proc` of its own pid namespace (which contains the program's) is mounted,
/// and is the only file system there is.
///
/// # Errors
/// What makes it impossible to go on.
pub fn serve(mut args: SentryArgs) -> io::Result<()> {
    let kept = std::mem::take(&mut args.kept);
    let mut engine = Engine::new(args)?;
    engine.restore(&kept);
    engine.run()
}

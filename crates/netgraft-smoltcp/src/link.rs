//! The host's devices as links of the stack.

use std::os::fd::OwnedFd;

use netgraft_plugin::link::Link;
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{LinkConfig, PreInitStack, StackConfig, SyscallRule};

/// Opens the device of a configuration, in the launcher.
///
/// # Errors
/// What is missing, for the operator.
pub(crate) fn open(config: &StackConfig) -> Result<PreInitStack, SetupError> {
    match &config.link {
        LinkConfig::None => Ok(PreInitStack { init_str: "none".to_owned(), fds: Vec::new() }),
        other => Err(SetupError::new(format!("link {other} is not available"))),
    }
}

/// Makes the link again, in the sentry.
///
/// # Errors
/// If the launcher's text or descriptors are not those of [`open`].
pub(crate) fn rebuild(text: &str, fds: Vec<OwnedFd>) -> Result<Option<Box<dyn Link>>, SetupError> {
    match (text, fds.len()) {
        ("none" | "", 0) => Ok(None),
        _ => Err(SetupError::new(format!("the link '{text}' that the launcher opened is unknown"))),
    }
}

/// System calls that the link needs in the sentry.
pub(crate) fn syscalls(link: &LinkConfig) -> Vec<SyscallRule> {
    let _ = link;
    Vec::new()
}

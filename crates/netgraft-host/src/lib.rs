//! The host's own sockets as a stack: what `--network host` runs on.
//!
//! Every socket is a non-blocking socket of the host. Whoever drives the stack may take its descriptor
//! ([`netgraft_plugin::PluginStack::take_host_fd`]) and give it to the program, so that bytes pass the sentry
//! by. The host's configuration is shown, never changed.
#![forbid(unsafe_code)]

mod host;
mod netlink;
mod options;
mod seccomp;
mod settings;
mod sockets;

use std::sync::Arc;

use netgraft_plugin::LinkConfig;
use netgraft_plugin::registry::Factory;
use netgraft_plugin::stack::SetupError;

pub use host::HostStack;

/// What a fuzzer runs.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    /// Reads a packet of rtnetlink(7).
    pub fn netlink(packet: &[u8]) {
        crate::netlink::read_anything(packet);
    }
}

/// The name under which the stack is registered.
pub const NAME: &str = "host";

/// Makes host stacks, for [`netgraft_plugin::register_plugin_stack`].
#[must_use]
pub fn factory() -> Arc<Factory> {
    Arc::new(|config| {
        let refuse = |what: &str| {
            Err(SetupError::new(format!(
                "the host network takes no {what}: it is configured on the host (use --network sandbox for a network of its own)"
            )))
        };
        if config.link != LinkConfig::None {
            return refuse("link");
        }
        if !config.addresses.is_empty() {
            return refuse("address");
        }
        if !config.gateways.is_empty() {
            return refuse("gateway");
        }
        if config.argument.is_some() {
            return refuse("argument");
        }
        Ok(Box::new(if config.keeps_sockets { HostStack::keeping() } else { HostStack::new() }))
    })
}

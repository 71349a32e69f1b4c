//! The network types of a sandbox.

use std::fmt;
use std::str::FromStr;

/// How a sandbox's network is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum NetworkType {
    /// Only a loopback, served by the built-in stack.
    None,
    /// The host's own sockets.
    Host,
    /// The built-in stack.
    #[default]
    Sandbox,
    /// A stack chosen by name.
    Plugin,
}

impl NetworkType {
    /// Every network type, in the order in which they are documented.
    pub const ALL: [NetworkType; 4] =
        [NetworkType::None, NetworkType::Host, NetworkType::Sandbox, NetworkType::Plugin];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            NetworkType::None => "none",
            NetworkType::Host => "host",
            NetworkType::Sandbox => "sandbox",
            NetworkType::Plugin => "plugin",
        }
    }
}

impl fmt::Display for NetworkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A network type that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown network type '{0}': use none, host, sandbox or plugin")]
pub struct UnknownNetworkType(String);

impl FromStr for NetworkType {
    type Err = UnknownNetworkType;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        NetworkType::ALL
            .into_iter()
            .find(|n| n.name() == text)
            .ok_or_else(|| UnknownNetworkType(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for network in NetworkType::ALL {
            assert_eq!(network.to_string().parse(), Ok(network));
        }
        assert!("Host".parse::<NetworkType>().is_err());
    }
}

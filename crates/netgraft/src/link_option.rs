//! The option `--link`.

use std::fmt;
use std::str::FromStr;

use netgraft_plugin::config::{ParseInterfaceError, ParseLinkError};
use netgraft_plugin::{InterfaceName, LinkConfig};

/// What `--link` can say: a link that the stack is given, or an interface that is made for a stack which looks for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkOption {
    /// A link of the contract.
    Stack(LinkConfig),
    /// A veth pair for a level 0 stack.
    Veth(InterfaceName),
}

impl LinkOption {
    /// The stack's link, and the interface that is made.
    pub(crate) fn split(self) -> (LinkConfig, Option<InterfaceName>) {
        match self {
            LinkOption::Stack(link) => (link, None),
            LinkOption::Veth(name) => (LinkConfig::None, Some(name)),
        }
    }
}

impl Default for LinkOption {
    fn default() -> Self {
        LinkOption::Stack(LinkConfig::None)
    }
}

impl fmt::Display for LinkOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkOption::Stack(link) => link.fmt(f),
            LinkOption::Veth(name) => write!(f, "veth:{name}"),
        }
    }
}

impl FromStr for LinkOption {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(name) = text.strip_prefix("veth:") {
            return name.parse().map(LinkOption::Veth).map_err(|e: ParseInterfaceError| e.to_string());
        }
        text.parse().map(LinkOption::Stack).map_err(|error: ParseLinkError| match error {
            ParseLinkError::Unknown(_) => format!("{error} or, for a level 0 stack, veth:NAME"),
            ParseLinkError::Name(_) => error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_made_and_every_other_link_is_the_stacks() {
        let pair: LinkOption = "veth:ng0".parse().unwrap();
        assert_eq!(pair.to_string(), "veth:ng0");
        assert_eq!(pair.split(), (LinkConfig::None, Some("ng0".parse().unwrap())));
        let tap: LinkOption = "tap:ng0".parse().unwrap();
        assert_eq!(tap.to_string(), "tap:ng0");
        assert_eq!(tap.split(), (LinkConfig::tap("ng0".parse().unwrap()), None));
        assert_eq!(LinkOption::default().to_string(), "none");
        for text in ["veth", "veth:", "veth:a/b", "tap:a/b", "wire:x"] {
            assert!(text.parse::<LinkOption>().is_err(), "{text}");
        }
    }
}

//! The options `--link` and `--address`.

use std::fmt;
use std::str::FromStr;

use netgraft::Ask;
use netgraft_plugin::config::{ParseCidrError, ParseInterfaceError, ParseLinkError};
use netgraft_plugin::{Cidr, InterfaceName, LinkConfig};

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

/// What `--address` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AddressOption {
    /// An address.
    Given(Cidr),
    /// What is on the link is asked.
    Asked(Ask),
}

impl AddressOption {
    /// The addresses, and what the link is asked for.
    ///
    /// # Errors
    /// That both are given, in one line.
    pub(crate) fn split(all: Vec<AddressOption>) -> Result<(Vec<Cidr>, Option<Ask>), String> {
        let (mut addresses, mut asked) = (Vec::new(), None);
        for one in all {
            match one {
                AddressOption::Given(cidr) => addresses.push(cidr),
                AddressOption::Asked(ask) => asked = Some(ask),
            }
        }
        if asked.is_some() && !addresses.is_empty() {
            return Err("--address dhcp and --address auto take the link's addresses: leave the others out"
                .to_owned());
        }
        Ok((addresses, asked))
    }
}

impl FromStr for AddressOption {
    type Err = ParseCidrError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "dhcp" => Ok(AddressOption::Asked(Ask::Dhcp)),
            "auto" => Ok(AddressOption::Asked(Ask::Auto)),
            other => other.parse().map(AddressOption::Given),
        }
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

//! What carries datagrams.

use std::fmt;
use std::str::FromStr;

/// Whose sockets the programs' datagram and raw sockets are, on the built-in stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Datagrams {
    /// The kernel's wherever they can be.
    #[default]
    Auto,
    /// The kernel's own, of the programs' network namespace; what goes to other hosts passes between it and the stack over a
    /// private link.
    Kernel,
    /// Surrogates, of which each call with an address is served by the sentry.
    Stack,
}

impl fmt::Display for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Datagrams::Auto => "auto",
            Datagrams::Kernel => "kernel",
            Datagrams::Stack => "stack",
        })
    }
}

impl FromStr for Datagrams {
    type Err = String;
    fn from_str(text: &str) -> Result<Datagrams, String> {
        match text {
            "auto" => Ok(Datagrams::Auto),
            "kernel" => Ok(Datagrams::Kernel),
            "stack" => Ok(Datagrams::Stack),
            other => Err(format!("unknown --datagrams choice '{other}': use auto, kernel or stack")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_survives_a_round_trip() {
        for choice in [Datagrams::Auto, Datagrams::Kernel, Datagrams::Stack] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        let wrong = "tap".parse::<Datagrams>();
        assert_eq!(wrong, Err("unknown --datagrams choice 'tap': use auto, kernel or stack".to_owned()));
    }
}

//! Whether connections inside a sandbox are joined.

use std::fmt;
use std::str::FromStr;

/// What becomes of a connection from a program to a listener of the same sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Join {
    /// The kernel carries it from one to the other, past the sentry and the stack.
    #[default]
    Always,
    /// The stack carries it, as any other.
    Never,
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Join::Always => "always",
            Join::Never => "never",
        })
    }
}

impl FromStr for Join {
    type Err = String;
    fn from_str(text: &str) -> Result<Join, String> {
        match text {
            "always" => Ok(Join::Always),
            "never" => Ok(Join::Never),
            other => Err(format!("unknown --join choice '{other}': use always or never")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_survives_a_round_trip() {
        for join in [Join::Always, Join::Never] {
            assert_eq!(join.to_string().parse(), Ok(join));
        }
        assert_eq!("no".parse::<Join>(), Err("unknown --join choice 'no': use always or never".to_owned()));
    }
}

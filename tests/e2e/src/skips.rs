//! The data file of skips: `tests/skips.toml`.
//!
//! A skipped case is still run. It must fail: one that passes has a stale skip, which fails the run, and so
//! does a skip that names no case.

use std::collections::HashSet;
use std::sync::Mutex;

use serde::Deserialize;

use crate::column::Column;

const FILE: &str = include_str!("../../skips.toml");

/// One line of the file.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq, Hash)]
#[serde(deny_unknown_fields)]
pub struct Skip {
    /// The case, as the harness prints it.
    pub case: String,
    /// The stack on which it is skipped: `native`, `host` or `smoltcp`.
    pub stack: String,
    /// Why.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    skip: Vec<Skip>,
}

/// The skips, and which of them a run has used.
#[derive(Debug)]
pub struct Skips {
    all: Vec<Skip>,
    used: Mutex<HashSet<Skip>>,
}

impl Skips {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is malformed, names an unknown stack, gives no reason or says a thing twice.
    pub fn load() -> Result<Self, String> {
        Self::parse(FILE)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| format!("tests/skips.toml: {error}"))?;
        let mut seen = HashSet::new();
        for skip in &file.skip {
            if !["native", "host", "smoltcp"].contains(&skip.stack.as_str()) {
                return Err(format!("tests/skips.toml: {}: unknown stack {}", skip.case, skip.stack));
            }
            if skip.reason.trim().is_empty() {
                return Err(format!("tests/skips.toml: {}: no reason", skip.case));
            }
            if !seen.insert((&skip.case, &skip.stack)) {
                return Err(format!("tests/skips.toml: {} on {} twice", skip.case, skip.stack));
            }
        }
        Ok(Skips { all: file.skip.clone(), used: Mutex::new(HashSet::new()) })
    }

    /// The reason for which a case is skipped in a column.
    #[must_use]
    pub fn reason(&self, case: &str, column: Column) -> Option<String> {
        let found = self.all.iter().find(|skip| skip.case == case && skip.stack == column.network.stack())?;
        if let Ok(mut used) = self.used.lock() {
            used.insert(found.clone());
        }
        Some(found.reason.clone())
    }

    /// The skips that no case asked for: they name something that does not exist.
    #[must_use]
    pub fn unused(&self) -> Vec<String> {
        let Ok(used) = self.used.lock() else { return vec!["the skips could not be read".to_owned()] };
        let unused = self.all.iter().filter(|skip| !used.contains(*skip));
        unused.map(|skip| format!("tests/skips.toml: no case {} on {}", skip.case, skip.stack)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::{Network, User};

    const HOST: Column = Column { network: Network::Host, user: User::Root };

    #[test]
    fn a_skip_has_a_reason_and_is_found_by_its_stack() {
        let skips = Skips::parse("[[skip]]\ncase = 'a'\nstack = 'host'\nreason = 'why'\n").unwrap();
        assert_eq!(skips.unused().len(), 1);
        assert_eq!(skips.reason("a", HOST).as_deref(), Some("why"));
        assert_eq!(skips.reason("a", Column { network: Network::Native, ..HOST }), None);
        assert!(skips.unused().is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "[[skip]]\ncase = 'a'\nstack = 'host'\n",
            "[[skip]]\ncase = 'a'\nstack = 'host'\nreason = ' '\n",
            "[[skip]]\ncase = 'a'\nstack = 'moon'\nreason = 'why'\n",
            "[[skip]]\ncase = 'a'\nstack = 'host'\nreason = 'why'\nextra = 1\n",
        ] {
            assert!(Skips::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_file_itself_is_sound() {
        Skips::load().unwrap();
    }
}

//! The data file of skips: `tests/skips.toml`.
//!
//! A skipped case is still run. It must fail: one that passes has a stale skip, which fails the run, and so
//! does a skip that names no case.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

use serde::Deserialize;

use crate::column::Column;

const FILE: &str = include_str!("../../skips.toml");

/// The names of stacks that the file may use.
const STACKS: [&str; 6] = ["native", "host", "smoltcp", "joined", "lwip.so", "relay.so"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    skip: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The case, as the harness prints it.
    case: String,
    /// The stacks on which it is skipped.
    stacks: Vec<String>,
    reason: String,
}

/// A case and a stack.
type Key = (String, String);

/// The skips, and which of them a run has used.
#[derive(Debug)]
pub struct Skips {
    reasons: BTreeMap<Key, String>,
    used: Mutex<HashSet<Key>>,
}

impl Skips {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is malformed, names no or an unknown stack, gives no reason or says a thing twice.
    pub fn load() -> Result<Self, String> {
        Self::parse(FILE)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| format!("tests/skips.toml: {error}"))?;
        let mut reasons = BTreeMap::new();
        for Entry { case, stacks, reason } in file.skip {
            if reason.trim().is_empty() {
                return Err(format!("tests/skips.toml: {case}: no reason"));
            }
            if stacks.is_empty() {
                return Err(format!("tests/skips.toml: {case}: no stack"));
            }
            for stack in stacks {
                if !STACKS.contains(&stack.as_str()) {
                    return Err(format!("tests/skips.toml: {case}: unknown stack {stack}"));
                }
                if reasons.insert((case.clone(), stack.clone()), reason.clone()).is_some() {
                    return Err(format!("tests/skips.toml: {case} on {stack} twice"));
                }
            }
        }
        Ok(Skips { reasons, used: Mutex::new(HashSet::new()) })
    }

    /// The reason for which a case is skipped in a column.
    #[must_use]
    pub fn reason(&self, case: &str, column: Column) -> Option<String> {
        let key = (case.to_owned(), column.network.stack().to_owned());
        let reason = self.reasons.get(&key)?;
        if let Ok(mut used) = self.used.lock() {
            used.insert(key);
        }
        Some(reason.clone())
    }

    /// The skips that no case asked for: they name something that does not exist.
    #[must_use]
    pub fn unused(&self) -> Vec<String> {
        let Ok(used) = self.used.lock() else { return vec!["the skips could not be read".to_owned()] };
        let unused = self.reasons.keys().filter(|key| !used.contains(*key));
        unused.map(|(case, stack)| format!("tests/skips.toml: no case {case} on {stack}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::{Network, User};

    const HOST: Column = Column { network: Network::Host, user: User::Root };

    #[test]
    fn a_skip_has_a_reason_and_is_found_by_its_stack() {
        let skips = Skips::parse("[[skip]]\ncase = 'a'\nstacks = ['host']\nreason = 'why'\n").unwrap();
        assert_eq!(skips.unused().len(), 1);
        assert_eq!(skips.reason("a", HOST).as_deref(), Some("why"));
        assert_eq!(skips.reason("a", Column { network: Network::Native, ..HOST }), None);
        assert!(skips.unused().is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "[[skip]]\ncase = 'a'\nstacks = ['host']\n",
            "[[skip]]\ncase = 'a'\nstacks = ['host']\nreason = ' '\n",
            "[[skip]]\ncase = 'a'\nstacks = ['moon']\nreason = 'why'\n",
            "[[skip]]\ncase = 'a'\nstacks = []\nreason = 'why'\n",
            "[[skip]]\ncase = 'a'\nstacks = ['host', 'host']\nreason = 'why'\n",
            "[[skip]]\ncase = 'a'\nstacks = ['host']\nreason = 'why'\nextra = 1\n",
        ] {
            assert!(Skips::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_file_itself_is_sound() {
        Skips::load().unwrap();
    }
}

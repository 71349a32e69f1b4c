//! Stacks by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::StackConfig;
use crate::stack::{PluginStack, SetupError};

/// Makes a stack from what the operator chose. Called in the launcher and again in the sentry; it only checks
/// the configuration, and opens nothing.
pub type Factory = dyn Fn(&StackConfig) -> Result<Box<dyn PluginStack>, SetupError> + Send + Sync;

/// Why a stack could not be registered or found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The name is taken.
    #[error("a stack named '{0}' is registered already")]
    Duplicate(String),
    /// The name is empty or has characters that a command line or file name could not carry.
    #[error("'{0}' is no stack name: use letters, digits, '-' and '_'")]
    BadName(String),
    /// No stack has the name.
    #[error("no stack is named '{name}': registered are {}", known.join(", "))]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
}

/// A set of stacks by name.
#[derive(Default)]
pub struct Registry {
    stacks: BTreeMap<String, Arc<Factory>>,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub const fn new() -> Self {
        Registry { stacks: BTreeMap::new() }
    }

    /// Adds a stack.
    ///
    /// # Errors
    /// [`RegistryError::Duplicate`], [`RegistryError::BadName`]; the registry is as before.
    pub fn register(&mut self, name: &str, factory: Arc<Factory>) -> Result<(), RegistryError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.is_empty() || !name.bytes().all(legal) {
            return Err(RegistryError::BadName(name.to_owned()));
        }
        if self.stacks.contains_key(name) {
            return Err(RegistryError::Duplicate(name.to_owned()));
        }
        self.stacks.insert(name.to_owned(), factory);
        Ok(())
    }

    /// Finds a stack's factory.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], which lists what there is.
    pub fn get(&self, name: &str) -> Result<Arc<Factory>, RegistryError> {
        self.stacks
            .get(name)
            .cloned()
            .ok_or_else(|| RegistryError::Unknown { name: name.to_owned(), known: self.names() })
    }

    /// The registered names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.stacks.keys().cloned().collect()
    }
}

static PROCESS: Mutex<Registry> = Mutex::new(Registry::new());

/// Registers a stack for this process.
///
/// # Errors
/// As [`Registry::register`].
pub fn register_plugin_stack(name: &str, factory: Arc<Factory>) -> Result<(), RegistryError> {
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner).register(name, factory)
}

/// Finds a stack that was registered for this process.
///
/// # Errors
/// As [`Registry::get`].
pub fn get_plugin_stack(name: &str) -> Result<Arc<Factory>, RegistryError> {
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner).get(name)
}

/// The names registered for this process, sorted.
#[must_use]
pub fn plugin_stack_names() -> Vec<String> {
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner).names()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factory() -> Arc<Factory> {
        Arc::new(|_| Err(SetupError::new("none")))
    }

    #[test]
    fn a_second_registration_of_a_name_is_an_error_and_changes_nothing() {
        let mut registry = Registry::new();
        registry.register("a", factory()).unwrap();
        assert_eq!(registry.register("a", factory()), Err(RegistryError::Duplicate("a".into())));
        registry.register("b", factory()).unwrap();
        assert_eq!(registry.names(), ["a", "b"]);
    }

    #[test]
    fn unknown_and_unusable_names_are_told() {
        let mut registry = Registry::new();
        registry.register("smoltcp", factory()).unwrap();
        let text = registry.get("lwip").err().map(|e| e.to_string());
        assert_eq!(text.as_deref(), Some("no stack is named 'lwip': registered are smoltcp"));
        for name in ["", "a/b", "a b"] {
            assert_eq!(registry.register(name, factory()), Err(RegistryError::BadName(name.into())));
        }
    }
}

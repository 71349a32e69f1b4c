//! Names of sockets in the sentry's network namespace.

use std::hash::{BuildHasher, RandomState};

use netgraft_linux::unix::Name;
use netgraft_plugin::Domain;

/// Gives names that no socket has had and that cannot be guessed: a keyed hash of a counter, with keys from
/// getrandom(2). Whoever knows the name of a listening surrogate can connect to it past the stack, so a name is known
/// to those only who hold the socket.
#[derive(Debug, Default)]
pub(crate) struct Names {
    keys: RandomState,
    given: u64,
}

impl Names {
    /// A name.
    pub(crate) fn fresh(&mut self) -> Name {
        self.given = self.given.wrapping_add(1);
        Name(self.keys.hash_one(self.given) & !1)
    }

    /// The same for a listener: the surrogates of its connections inherit it, so that a later sentry can tell their
    /// address family by its lowest bit.
    pub(crate) fn fresh_for_listener(&mut self, domain: Domain) -> Name {
        let Name(even) = self.fresh();
        Name(even | u64::from(domain == Domain::V6))
    }
}

/// The address family that a listener's name tells.
pub(crate) fn domain_of(Name(name): Name) -> Domain {
    if name & 1 == 0 { Domain::V4 } else { Domain::V6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_do_not_follow_each_other() {
        let mut names = Names::default();
        let given: Vec<u64> = (0..1000).map(|_| names.fresh().0).collect();
        let distinct: std::collections::HashSet<_> = given.iter().collect();
        assert_eq!(distinct.len(), given.len());
        // A counter's steps are all alike.
        let steps: std::collections::HashSet<u64> =
            given.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
        assert!(steps.len() > 990);
        assert_ne!(names.fresh(), Names::default().fresh(), "two sentries' names have nothing in common");
    }

    #[test]
    fn a_listeners_name_tells_its_family() {
        let mut names = Names::default();
        for domain in [Domain::V4, Domain::V6] {
            assert_eq!(domain_of(names.fresh_for_listener(domain)), domain);
        }
    }
}

//! The C interface between netgraft and stacks of third parties.
//!
//! A stack is a shared object that exports either the existing C functions (level 0, [`Level::Zero`]) or one entry
//! point that returns a table (level 1, [`Level::One`], `include/netgraft.h`). [`load`] looks at an object, and
//! [`Loaded::factory`] makes stacks of it that behave like any other behind the contract of `netgraft-plugin`.
//!
//! # Where code of an object runs
//!
//! Linking an object runs its constructors, so where it is linked decides what they may do:
//!
//! 1. [`load`] finds what it depends on by its dynamic section, copies all of them to memory files, links these in a child
//!    process that is nobody, in namespaces with nothing in them, behind the sentry's allow-list, and asks the object for
//!    its table.
//! 2. `pre_init` links it in another child like that. A link is opened by netgraft and handed to it. Only if the operator
//!    trusts the object's pre-init ([`Care`]) the child has the launcher's rights.
//! 3. [`netgraft_plugin::PluginStack::prepare`] links the copies into the sentry, after it gave up its privileges and
//!    its file system, behind an allow-list that lets it map code ([`loader_rules`]); `init` and everything after it
//!    run behind the sentry's final one.
//!
//! Nothing of it ever runs in the launcher's own process. A crash, an exit or a hang in 1 and 2 ends the child, and
//! becomes a text for the operator. What the child forks in 1 ends with it; what it forks in 2 ends when it fails, or
//! else with the last stack of the object or with the process ([`netgraft_linux::cage`]).
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let base = Vec::new();
//! let care = netgraft_abi::Care { base, trust_pre_init: false };
//! let object = std::sync::Arc::new(netgraft_abi::load("./libfoo.so".as_ref(), &care)?);
//! netgraft_plugin::register_plugin_stack(&object.info().name, object.factory())?;
//! # Ok(())
//! # }
//! ```

#[cfg(test)]
mod anything;
mod child;
mod codes;
mod convert;
mod elf;
mod error;
pub mod export;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod interface;
#[cfg(test)]
mod layout;
mod level0;
mod level1;
mod library;
mod log;
mod needed;
mod object;
mod probe;
pub mod raw;
mod table;
mod watch;

use std::time::Duration;

use netgraft_plugin::SyscallRule;

pub use error::{Fault, LoadError};
pub use level0::forbid_clone3;
pub use log::printable;
pub use object::{Care, Level, Loaded, factory_for_path, load};

/// What a process must be allowed beyond the sentry's base, and beyond the stack's own rules, while
/// [`netgraft_plugin::PluginStack::prepare`] runs: to map code, and to install its final allow-list afterwards.
///
/// An allow-list of all three, installed before `prepare`, holds for the constructors of the object: they make no
/// sockets, processes and traces of others that the stack itself could not make.
#[must_use]
pub fn loader_rules() -> Vec<SyscallRule> {
    let prctl = |option: i32| SyscallRule::masked(libc::SYS_prctl, 0, 0xffff_ffff, option as u64);
    vec![
        SyscallRule::any(libc::SYS_mmap),
        SyscallRule::any(libc::SYS_mprotect),
        SyscallRule::any(libc::SYS_seccomp),
        prctl(libc::PR_SET_NO_NEW_PRIVS),
        prctl(libc::PR_GET_NO_NEW_PRIVS),
    ]
}

/// How long an object's pre-init may take.
const PRE_INIT_LIMIT: Duration = Duration::from_secs(30);
/// What a function that an object does not have answers: `NETGRAFT_E_NOT_SUPPORTED`.
const NOT_SUPPORTED: i32 = -21;

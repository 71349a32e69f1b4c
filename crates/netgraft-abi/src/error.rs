//! Why an object is not loaded.

use std::io;

/// Why an object cannot be used as a stack. Each text is one line for the operator and names the object.
#[derive(Debug, thiserror::Error)]
#[error("{object}: {fault}")]
pub struct LoadError {
    /// The object, as it was named.
    pub object: String,
    /// What is wrong with it.
    #[source]
    pub fault: Fault,
}

/// What is wrong with an object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The host refused something that loading needs.
    #[error("cannot be loaded: {0}")]
    Host(#[source] io::Error),
    /// It is no ELF file.
    #[error("is not a shared object: it is no ELF file")]
    NotElf,
    /// It is an ELF file of another kind.
    #[error("is not a shared object but {0} (build it with 'cc -shared -fPIC')")]
    NotShared(&'static str),
    /// The file ends before what its headers say is in it.
    #[error("is cut off: the file has {size} bytes, and its headers speak of {end}")]
    CutOff {
        /// The file's length, in bytes.
        size: u64,
        /// Where something ends that it should have.
        end: u64,
    },
    /// It is for another machine.
    #[error("is built for {theirs}, and this netgraft for {ours}")]
    Machine {
        /// What the object is for.
        theirs: String,
        /// What netgraft is for.
        ours: String,
    },
    /// The dynamic linker refused it.
    #[error("cannot be linked: {0}")]
    Link(String),
    /// It exports nothing that netgraft knows.
    #[error("has no entry point: it exports neither netgraft_stack (level 1) nor plugin_initstack (level 0)")]
    NoEntryPoint,
    /// It exports a part of level 0.
    #[error("is no complete level 0 stack: it does not export {}", .0.join(", "))]
    MissingSymbols(Vec<String>),
    /// Its entry point returned null.
    #[error(
        "does not speak version {0} of the interface: netgraft_stack returned null (it is to return its table for every \
         request of the same major version): build it against the netgraft.h of this netgraft"
    )]
    Refused(String),
    /// It is built for another major version.
    #[error(
        "speaks version {theirs} of the interface, and this netgraft {ours}: build it against the netgraft.h of this \
         netgraft"
    )]
    Version {
        /// What the object speaks.
        theirs: String,
        /// What netgraft speaks.
        ours: String,
    },
    /// Its table has not all that version 1.0 has.
    #[error("has a table of {size} bytes that lacks {}", .missing.join(", "))]
    Truncated {
        /// The size that the table says it has.
        size: u32,
        /// The mandatory functions that are not in it.
        missing: Vec<String>,
    },
    /// Its table has another size than its version.
    #[error(
        "has a table of {size} bytes, which is not the size of version {version}: set .size to sizeof(struct \
         netgraft_stack_v1), and build it against one netgraft.h"
    )]
    Size {
        /// The size that the table says it has.
        size: u32,
        /// The version that it says it has.
        version: String,
    },
    /// Its table lacks what its own declarations call for.
    #[error("declares TCP sockets, so its table is to have {}, too: without them programs wait in vain", .0.join(", "))]
    Lacks(Vec<String>),
    /// Its table says what cannot be.
    #[error("has a table with nonsense in it: {0}")]
    Nonsense(String),
    /// It ended the process that looked at it.
    #[error("{0}")]
    Died(String),
}

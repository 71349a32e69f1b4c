//! What the core works on in these tests: a kernel and a stack in memory, without clock and without I/O.

pub(crate) mod calls;
pub(crate) mod host;
pub(crate) mod kernel;
pub(crate) mod net;
pub(crate) mod prng;
pub(crate) mod rig;
pub(crate) mod stack;
pub(crate) mod tasks;
pub(crate) mod unix;
pub(crate) mod watcher;
pub(crate) mod world;

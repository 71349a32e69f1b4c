//! netgraft runs any Linux program, unchanged, on any TCP/IP stack.
#![forbid(unsafe_code)]

pub mod control;
pub mod runtime;

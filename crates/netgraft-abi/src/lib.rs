//! The C interface between netgraft and stacks of third parties.

mod codes;
mod convert;
#[cfg(test)]
mod layout;
pub mod raw;

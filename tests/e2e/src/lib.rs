//! The harness of the end-to-end tests.
//!
//! A *job* is one program run in one *column*: natively, or under `netgraft run` with one network type, as root
//! or as an ordinary user. The same job must pass natively first. Jobs run a few at a time, each with a time
//! limit, and each ends by asserting that nothing of it is left: processes, files, namespaces.
#![forbid(unsafe_code)]

pub mod column;
#[cfg(test)]
mod failed_tests;
pub mod leaks;
pub mod machine;
pub mod netns;
pub mod process;
pub mod programs;
pub mod report;
pub mod skips;
pub mod stage;

/// What went wrong, in words for the person who reads the report.
pub type Outcome = Result<(), String>;

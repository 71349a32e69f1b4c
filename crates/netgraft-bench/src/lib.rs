//! Compares netgraft's stacks with the kernel's own, side by side in one run.
//!
//! The command `netgraft-bench` carries its own server and client, so that a comparison needs nothing
//! but netgraft. `docs/benchmarks.md` says what each workload means and how to read the figures.
//!
//! Read the modules in this order: `load` (what can be measured), `wire` (what server and client say
//! to each other), `server`, `client`, `pair` (both in one process tree), `compare` (rounds over
//! several networks), `report` (table and JSON). `wan` is the same on a line with delay and loss, with flows of its own.
#![forbid(unsafe_code)]

mod cli;
mod client;
mod compare;
mod error;
mod lab;
mod load;
mod machine;
mod outcome;
mod pair;
mod process;
mod report;
mod server;
mod side;
mod stats;
mod tools;
mod wan;
mod wire;

pub use cli::run;

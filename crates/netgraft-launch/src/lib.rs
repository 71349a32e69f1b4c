//! Makes sandboxes and runs programs in them: namespaces, processes, the confined sentry, and what happens when
//! the sentry dies.
//!
//! A sandbox is not a program, so there are two specs: [`NetworkSpec`] says what the network is, [`ProgramSpec`]
//! what runs in it. [`run`] runs one program in a sandbox of its own. [`Sandbox`] is for who needs more, such as an OCI
//! runtime: a sandbox without a program, further programs in it ([`Sandbox::spawn`]), and listeners that somebody else
//! has made ([`Sandbox::attach`]).
//!
//! ```text
//! launcher ─┬─ sentry helper     user namespace S          ends when the others are made
//!           ├─ first process     S, process-id namespace Q
//!           ├─ sentry            S, Q; has a keeper that shares its descriptors
//!           ├─ program helper    user namespace P below S, Q; ends when the others are made
//!           ├─ first process     P, process-id namespace R below Q
//!           ├─ program           P, R
//!           └─ further programs  P, R
//! ```
//!
//! The sentry sees the programs' processes, since Q holds R; the programs do not see the sentry. The sentry's
//! one capability is over S and so over P, and nothing outside. Neither the sentry's nor a program's end
//! takes a namespace down with it; the launcher's does.
//!
//! What the sentry does once it is confined is not here: [`SentryMain`] names it.
#![forbid(unsafe_code)]

mod allow;
mod capture;
pub mod clock;
mod containers;
pub mod control;
mod crash;
mod datagrams;
pub mod door;
mod error;
mod files;
pub mod flows;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod groups;
mod ids;
mod jobs;
mod join;
mod keeper;
mod launcher;
mod learn;
mod lingering;
pub mod metrics;
mod mirror;
pub mod operator;
mod output;
mod path_sockets;
mod profile;
mod programs;
mod pty;
pub mod publish;
mod report;
mod said;
mod sandbox;
mod scrape;
mod sentry;
mod spec;
pub mod stacks;
mod stand_in;
mod survive;
mod taken;
mod tree;
mod uplink;
pub mod veth;
pub mod vitals;
mod watchdog;

pub use netgraft_core::policy;

pub use allow::{
    Listing, Origin, allowed_calls, base_listing, call_text, foreign_listing, on_private_links, remedy,
    stack_listing,
};
pub use capture::{CaptureOutput, CaptureSpec};
pub use containers::{Gate, enter as enter_network};
pub use crash::{OnCrash, change_text};
pub use datagrams::Datagrams;
pub use error::{EXIT_FAILURE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, RunError};
pub use flows::FlowsSpec;
pub use groups::Limits;
pub use join::Join;
pub use output::LogWriter;
pub use profile::Profile;
pub use programs::ProgramId;
pub use report::Step;
pub use said::printable;
pub use sandbox::{ExitStatus, Sandbox, run};
pub use scrape::MetricsAddress;
pub use sentry::{NamespaceIds, SentryArgs, SentryMain, confine_for};
pub use spec::{
    Ask, Bind, Descriptors, Files, Ids, NetworkSpec, ProgramSpec, Seccomp, SocketLimits, Stacks, Terminal,
    Until, User,
};

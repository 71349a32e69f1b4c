//! What the operator and a running sandbox say to each other: JSON, one message a line, each with the version `v`.
//!
//! A client sends requests, and the sentry answers them in their order. An answer is one message or several; the last one
//! has another kind than [`Answer::Socket`]. A version or a request that is not known is an [`Answer::Error`], and the
//! connection goes on.
//!
//! A new request is a variant of [`Request`] here, what it is answered with one of [`Answer`], and an arm of
//! `netgraft-sentry/src/operator.rs`, `Operators::answer`.

use std::net::SocketAddr;

use netgraft_core::policy::PolicySpec;
use serde::{Deserialize, Serialize};

use crate::metrics::Figures;

/// The version of the messages.
pub const VERSION: u32 = 1;
/// The most bytes that a request has, its end of line included.
pub const MOST_REQUEST: usize = 4 << 20;
/// The most bytes that one message of an answer has.
pub const MOST_ANSWER: usize = 1 << 20;

/// A request with its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// [`VERSION`]
    pub v: u32,
    /// What is asked for.
    #[serde(flatten)]
    pub request: Request,
}

impl Asked {
    /// Asks in this version.
    #[must_use]
    pub fn new(request: Request) -> Asked {
        Asked { v: VERSION, request }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// What the sandbox is: [`Answer::Info`].
    Info,
    /// The sockets that the sentry has: an [`Answer::Socket`] each, then [`Answer::Done`].
    Sockets,
    /// What is counted: [`Answer::Metrics`].
    Metrics,
    /// Other rules, for what begins from now on: [`Answer::PolicySet`], or an error, and then the rules stay as they are.
    SetPolicy {
        /// The rules.
        policy: PolicySpec,
        /// Whether what goes on and is denied by them is ended.
        kill: bool,
    },
    /// Changes what happens to the frames of the link: [`Answer::Link`], with what is in force then.
    Link(LinkChange),
}

/// A change of the link's faults; the default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkChange {
    /// Whether all faults end first.
    pub reset: bool,
    /// Faults of the frames to the stack, as [`netgraft_plugin::faults::Faults::change`] reads them. Those that are not named
    /// stay.
    #[serde(rename = "in")]
    pub incoming: String,
    /// Those of the frames from it.
    #[serde(rename = "out")]
    pub outgoing: String,
    /// Decides anew which frames they meet.
    pub seed: Option<u64>,
}

/// An answer with its version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// [`VERSION`]
    pub v: u32,
    /// The answer.
    #[serde(flatten)]
    pub answer: Answer,
}

impl Answered {
    /// Answers in this version.
    #[must_use]
    pub fn new(answer: Answer) -> Answered {
        Answered { v: VERSION, answer }
    }
}

/// An answer, or a part of one. A client must believe none of its texts: the sentry may be hostile ([`crate::printable`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Answer {
    /// To [`Request::Info`].
    Info(Info),
    /// A part of the answer to [`Request::Sockets`].
    Socket(SocketLine),
    /// To [`Request::Metrics`].
    Metrics(Figures),
    /// To [`Request::SetPolicy`]: the rules are kept from now on.
    PolicySet {
        /// How many flows were ended.
        ended: u64,
        /// How many were to be ended and go on, since no descriptor of theirs was found.
        left: u64,
    },
    /// To [`Request::Link`].
    Link(LinkState),
    /// The last message of an answer that has several, or all that there is to say.
    Done,
    /// Why there is no answer.
    Error {
        /// One line.
        text: String,
    },
}

/// What a sandbox is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The stack's name.
    pub stack: String,
    /// And its version.
    pub stack_version: String,
    /// The interfaces of the stack that are not its loopback, with their addresses, as text.
    pub interfaces: Vec<(String, Vec<String>)>,
    /// How many sockets the sentry has.
    pub sockets: u64,
    /// Whose the programs' sockets are.
    pub behind: Behind,
}

/// What stands behind the internet sockets of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behind {
    /// The stack, for all.
    Stack,
    /// The stack, for streams; datagram and raw sockets are those of the kernel in the programs' network namespace.
    StackAndKernel,
    /// The host's sockets.
    Host,
}

/// The link of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// What happens to frames to the stack, and what has.
    #[serde(rename = "in")]
    pub incoming: Direction,
    /// To those from it.
    #[serde(rename = "out")]
    pub outgoing: Direction,
    /// Decides which frames that are.
    pub seed: u64,
}

/// One direction of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direction {
    /// As [`netgraft_plugin::faults::Faults`] are written.
    pub faults: String,
    /// All frames.
    pub frames: u64,
    /// Those that found the queue full.
    pub overflowed: u64,
    /// Those lost on the way.
    pub lost: u64,
    /// Those that were damaged.
    pub corrupted: u64,
    /// Those that came twice.
    pub duplicated: u64,
    /// Those that were held back.
    pub reordered: u64,
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketLine {
    /// `tcp`, `udp`, `icmp`, `raw`
    pub protocol: String,
    /// As ss(8) names it: `LISTEN`, `ESTAB`, `SYN-SENT`, `UNCONN`, …
    pub state: String,
    /// Its own address.
    pub local: Option<SocketAddr>,
    /// The other side's.
    pub peer: Option<SocketAddr>,
    /// Bytes that wait for the program, as far as that is known: of a surrogate, those that the kernel counts, bookkeeping
    /// included. Of a listener, connections that wait to be accepted.
    pub received: u64,
    /// Bytes that the program has written and the peer has not acknowledged. Of a listener, its backlog.
    pub unsent: u64,
    /// Whether the other side is in the sandbox as well, and the two are connected past the stack.
    #[serde(default)]
    pub joined: bool,
    /// The process that has it, as the sentry's process-id namespace has it; 0 if that is not known.
    pub process: u32,
    /// Its descriptor there, where that is known.
    pub descriptor: Option<i32>,
}

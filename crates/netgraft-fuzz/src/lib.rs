//! What comes from outside, as functions of bytes: each must take any bytes without a panic, and what it understands
//! must mean the same when it is written back.
//!
//! `fuzz/` runs them under libFuzzer (CONTRIBUTING.md has the commands); [`driver`] runs them on a stable compiler, a
//! bounded number of times, in the tests of this crate and as `cargo run -p netgraft-fuzz`. Both begin with
//! `fuzz/corpus`.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a fault is told by a panic, which is what a fuzzer looks for")]

mod bytes;
pub mod driver;
mod frames;
mod leases;
mod messages;
mod policy;
mod segments;

/// Something that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its file in `fuzz/fuzz_targets` and of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Takes any bytes, and panics if something is wrong.
    pub run: fn(&[u8]),
}

/// What is fuzzed.
pub const TARGETS: &[Target] = &[
    // What a program writes: control messages, options, addresses, requests, the numbers of calls.
    Target { name: "messages", run: messages::run },
    // What an object behind netgraft.h writes.
    Target { name: "structures", run: netgraft_abi::fuzzing::structures },
    // The texts of a level 0 object, and files that are to be objects.
    Target { name: "objects", run: netgraft_abi::fuzzing::objects },
    // What a neighbor sends, and a program does meanwhile.
    Target { name: "frames", run: frames::run },
    // What a peer of TCP sends, and a connection as data.
    Target { name: "segments", run: segments::run },
    // What programs, the network and time do to the core, one step after the other.
    Target { name: "sequences", run: netgraft_core::fuzzing::sequence },
    // What a program's kernel sends over a private link, and what becomes of its sockets.
    Target { name: "link", run: netgraft_core::fuzzing::link },
    // What the kernel says of the host's interfaces and routes.
    Target { name: "netlink", run: netgraft_host::fuzzing::netlink },
    // What routers and DHCP servers offer.
    Target { name: "leases", run: leases::leases },
    // What an operator writes: rules and flows.
    Target { name: "policy", run: policy::run },
    // What a sentry says to the launcher.
    Target { name: "said", run: said },
    // What a sentry writes to the process that keeps a capture.
    Target { name: "captures", run: leases::captures },
];

fn said(bytes: &[u8]) {
    netgraft_launch::fuzzing::said(bytes).expect("what a sentry says is checked");
}

/// Runs a target on bytes: what a file of `fuzz/fuzz_targets` calls.
///
/// # Panics
/// If something is wrong, and if there is no target of this name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    (target.run)(bytes);
}

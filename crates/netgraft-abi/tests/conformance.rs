//! The conformance suite on objects of both levels.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use netgraft_plugin::StackConfig;
use netgraft_testkit::conformance::{Skips, Subject, Time, run};

/// Runs the suite; every case that fails must be listed in `deviations.toml` with its reason.
fn conforms(name: &str, object: &Path, time: Time) {
    let filter = std::env::var("NETGRAFT_CASES").unwrap_or_default();
    let object = Arc::new(netgraft_abi::load(object).unwrap());
    let subject = Subject::from_factory(name, object.factory(), StackConfig::default(), time);
    let report = run(&subject, &filter);
    print!("{}", report.table());
    let skips = Skips::parse(include_str!("deviations.toml")).unwrap();
    let unlisted: Vec<String> =
        skips.unexplained(&report).iter().map(|row| format!("{}: {:?}", row.id(), row.outcome)).collect();
    assert!(unlisted.is_empty(), "{}", unlisted.join("\n"));
    if filter.is_empty() {
        assert_eq!(skips.stale(&report), Vec::<String>::new(), "deviations that are none");
    }
}

#[test]
fn a_small_stack_in_c() {
    conforms("loop", &common::build("conform_loop", "loop.c", &[]), Time::Simulated);
}

#[test]
fn the_existing_c_functions_on_the_kernel_s_sockets() {
    conforms("relay", &common::build("conform_relay", "level0.c", &[]), Time::Real);
}

#[test]
fn the_built_in_stack_as_an_object() {
    // cargo builds the examples with the tests, beside them.
    let mut object = PathBuf::from(std::env::current_exe().unwrap());
    object.pop();
    object.pop();
    object.push("examples/libsmoltcp_plugin.so");
    conforms("smoltcp-plugin", &object, Time::Simulated);
}

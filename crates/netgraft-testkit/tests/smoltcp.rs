//! The conformance suite on the built-in stack, on simulated time: over its loopback and over a wire.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use netgraft_plugin::{InitStackArgs, PluginStack, StackConfig};
use netgraft_smoltcp::SmoltcpStack;
use netgraft_testkit::conformance::{Skips, Subject, Time, run};

#[test]
fn the_built_in_stack_conforms() {
    let filter = std::env::var("NETGRAFT_CASES").unwrap_or_default();
    let factory = netgraft_smoltcp::factory();
    let subject = Subject {
        linked: Some(Box::new(|config, link, now| {
            let mut stack = Box::new(SmoltcpStack::with_link(config.clone(), link)?);
            stack.init(InitStackArgs { now, ..InitStackArgs::default() })?;
            Ok(stack as Box<dyn PluginStack>)
        })),
        ..Subject::from_factory("smoltcp", factory, StackConfig::default(), Time::Simulated)
    };
    let open = open_descriptors();
    let report = run(&subject, &filter);
    assert_eq!(open_descriptors(), open, "descriptors were left open");
    print!("{}", report.table());
    let skips = Skips::parse(include_str!("../deviations.toml")).unwrap();
    assert!(skips.unlisted(&report).is_empty(), "{}", report.table());
    if filter.is_empty() {
        assert_eq!(skips.stale(&report), Vec::<String>::new(), "deviations that are none");
    }
}

/// How many descriptors this process has.
fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// As a command would run it, which knows a stack by its factory alone.
#[test]
fn the_built_in_stack_conforms_on_real_time() {
    let filter = std::env::var("NETGRAFT_CASES").unwrap_or_default();
    let subject =
        Subject::from_factory("smoltcp", netgraft_smoltcp::factory(), StackConfig::default(), Time::Real);
    let report = run(&subject, &filter);
    let skips = Skips::parse(include_str!("../deviations.toml")).unwrap();
    assert!(skips.unlisted(&report).is_empty(), "{}", report.table());
}

//! The conformance suite on the host's sockets: what it asks of stacks is what Linux does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use netgraft_plugin::StackConfig;
use netgraft_testkit::conformance::{Skips, Subject, Time, run};

#[test]
fn the_host_stack_conforms() {
    let filter = std::env::var("NETGRAFT_CASES").unwrap_or_default();
    let subject = Subject::from_factory("host", netgraft_host::factory(), StackConfig::default(), Time::Real);
    let report = run(&subject, &filter);
    print!("{}", report.table());
    let skips = Skips::parse(include_str!("../deviations.toml")).unwrap();
    assert!(skips.unexplained(&report).is_empty(), "{}", report.table());
    if filter.is_empty() {
        assert_eq!(skips.stale(&report), Vec::<String>::new(), "deviations that are none");
    }
}

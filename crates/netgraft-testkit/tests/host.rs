//! The conformance suite on the host's sockets: what it asks of stacks is what Linux does.

use netgraft_plugin::StackConfig;
use netgraft_testkit::conformance::{Skips, Subject, Time, run};

#[test]
fn the_host_stack_conforms() {
    let filter = std::env::var("NETGRAFT_CASES").unwrap_or_default();
    let subject = Subject::from_factory("host", netgraft_host::factory(), StackConfig::default(), Time::Real);
    let open = open_descriptors();
    let report = run(&subject, &filter);
    assert_eq!(open_descriptors(), open, "descriptors were left open");
    print!("{}", report.table());
    let skips = Skips::parse(include_str!("../deviations.toml")).unwrap();
    assert!(skips.unexplained(&report).is_empty(), "{}", report.table());
    if filter.is_empty() {
        assert_eq!(skips.stale(&report), Vec::<String>::new(), "deviations that are none");
    }
}

/// How many descriptors this process has.
fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

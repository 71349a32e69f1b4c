//! The conformance suite on the host's sockets: what it asks of stacks is what Linux does.
//!
//! What depends on the machine is seen in a network namespace without routes and with echo sockets allowed:
//! `unshare -n sh -c 'ip link set lo up; echo "0 2147483647" > /proc/sys/net/ipv4/ping_group_range; cargo test
//! --offline -p netgraft-testkit --test host'`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use netgraft_plugin::StackConfig;
use netgraft_testkit::conformance::{Outcome, Row, Skips, Subject, Time, run};

#[test]
fn the_host_stack_conforms() {
    let filter = std::env::var("NETGRAFT_CASES").unwrap_or_default();
    let subject = Subject::from_factory("host", netgraft_host::factory(), StackConfig::default(), Time::Real);
    let open = open_descriptors();
    let report = run(&subject, &filter);
    assert_eq!(open_descriptors(), open, "descriptors were left open");
    print!("{}", report.table());
    let skips = Skips::parse(include_str!("../deviations.toml")).unwrap();
    let unlisted = skips.unlisted(&report).into_iter().filter(|row| !depends_on_the_machine(row)).count();
    assert_eq!(unlisted, 0, "{}", report.table());
    if filter.is_empty() {
        assert_eq!(skips.stale(&report), Vec::<String>::new(), "deviations that are none");
    }
}

/// Echo sockets are for the groups of `ping_group_range` (icmp(7)); a host with default routes has a way to
/// everywhere.
fn depends_on_the_machine(row: &Row) -> bool {
    let machines = row.group == "echo" || row.name == "a missing route is reported at once";
    machines && matches!(row.outcome, Outcome::Unsupported { .. })
}

/// How many descriptors this process has.
fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

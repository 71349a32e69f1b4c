//! The conformance suite on objects of both levels.

use std::path::Path;
use std::sync::Arc;

use netgraft_plugin::StackConfig;
use netgraft_plugin::registry::Factory;
use netgraft_testkit::conformance::{Outcome, Report, Row, Skips, Subject, Time, run};

fn report(name: &str, factory: Arc<Factory>, time: Time) -> Report {
    let filter = std::env::var("NETGRAFT_CASES").unwrap_or_default();
    let report = run(&Subject::from_factory(name, factory, StackConfig::default(), time), &filter);
    print!("{}", report.table());
    report
}

/// The deviations of the objects in `tests/plugins`.
const DEVIATIONS: &str = include_str!("deviations.toml");

/// How often a listed case must pass in turn before its deviation counts as none.
const TRIES: usize = 5;

/// Runs the suite; every case that fails must be listed in `deviations` with its reason.
fn conforms(name: &str, object: &Path, deviations: &str) {
    let object = Arc::new(crate::common::load_trusted(object).unwrap());
    let factory = object.factory();
    let report = report(name, Arc::clone(&factory), Time::Real);
    let skips = Skips::parse(deviations).unwrap();
    let once_more = |case: &str| {
        let subject = Subject::from_factory(name, Arc::clone(&factory), StackConfig::default(), Time::Real);
        run(&subject, case)
    };
    // The relay's ports are the host's, where the other tests of this machine take ports at the same time: a case fails if it
    // does so twice.
    let again = |row: &Row| {
        let report = once_more(&format!("{}/{}", row.group, row.name));
        skips.unexplained(&report).into_iter().any(|other| other.id() == row.id())
    };
    let unexplained = skips.unexplained(&report).into_iter().filter(|row| again(row));
    let unexplained: Vec<String> =
        unexplained.map(|row| format!("{}: {:?}", row.id(), row.outcome)).collect();
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
    if std::env::var_os("NETGRAFT_CASES").is_none() {
        // Where it is the kernel that is late, as with an end that comes before its data was read, a case may pass by luck.
        let fails = |key: &String| {
            let case = key.split(" [").next().unwrap_or(key);
            (0..TRIES).any(|_| !skips.stale(&once_more(case)).contains(key))
        };
        let stale: Vec<String> = skips.stale(&report).into_iter().filter(|key| !fails(key)).collect();
        assert_eq!(stale, Vec::<String>::new(), "deviations that are none");
    }
}

#[test]
fn a_small_stack_in_c() {
    conforms("loop", &crate::common::build("conform_loop", "loop.c", &[]), DEVIATIONS);
}

#[test]
fn the_existing_c_functions_on_the_kernel_s_sockets() {
    conforms("relay", &crate::common::build("conform_relay", "level0.c", &[]), DEVIATIONS);
}

/// The rows of the suite's cases whose id contains `filter`, on `loop.c` with its table changed by a statement of C.
fn rows(name: &str, change: &str, filter: &str) -> Vec<Row> {
    let object = Arc::new(crate::common::load(&crate::common::with_table(name, change)).unwrap());
    let subject = Subject::from_factory(name, object.factory(), StackConfig::default(), Time::Real);
    let report = run(&subject, filter);
    print!("{}", report.table());
    report.rows
}

/// The reason of a row that the stack does not support; a failure of the test for any other row.
fn reason(rows: &[Row], case: &str) -> String {
    let id = format!("{case} [v4]");
    match rows.iter().find(|row| row.id() == id).map(|row| &row.outcome) {
        Some(Outcome::Unsupported { says }) => says.clone(),
        other => panic!("{id}: {other:?}"),
    }
}

/// A table without `interfaces`, and without any of the optional functions behind it, fails no case.
#[test]
fn a_stack_without_interfaces_fails_nothing() {
    let without = "interfaces: it tells of none";
    for (name, change) in [
        ("no_interfaces", "t.interfaces = 0"),
        (
            "no_administration",
            "memset((char *)&t + offsetof(struct netgraft_stack_v1, interfaces), 0, \
             offsetof(struct netgraft_stack_v1, send_with) - offsetof(struct netgraft_stack_v1, interfaces))",
        ),
    ] {
        for group in ["settings/", "datagram/"] {
            let rows = rows(name, change, group);
            let failed: Vec<&Row> =
                rows.iter().filter(|row| matches!(row.outcome, Outcome::Fail { .. })).collect();
            assert!(failed.is_empty(), "{failed:?}");
            if group == "settings/" {
                assert_eq!(reason(&rows, "settings/the loopback is the first interface"), without);
                assert_eq!(reason(&rows, "settings/interfaces have names and numbers of their own"), without);
            }
        }
    }
}

/// Broadcast and groups are tried on a stack that declares their options, and on no other.
#[test]
fn groups_and_broadcast_count_only_if_they_are_declared() {
    let cases = [
        ("datagram/a broadcast needs permission", "Broadcast"),
        ("datagram/a broadcast is received", "Broadcast"),
        ("datagram/a group's datagrams reach its members only", "JoinGroup"),
    ];
    let bare = rows("undeclared_groups", "(void)0", "datagram/");
    for (case, option) in cases {
        assert_eq!(reason(&bare, case), format!("it does not declare the option {option}"));
    }
    // The same stack, which has none of it, with a list that promises it.
    let change = "static uint32_t o[] = {NETGRAFT_O_REUSE_ADDRESS, NETGRAFT_O_NO_DELAY, NETGRAFT_O_BROADCAST, \
                  NETGRAFT_O_JOIN_GROUP}; t.options = o; t.option_count = 4";
    let promised = rows("declared_groups", change, "datagram/");
    let failed = |case: &str| {
        let id = format!("{case} [v4]");
        promised.iter().any(|row| row.id() == id && matches!(row.outcome, Outcome::Fail { .. }))
    };
    assert!(failed(cases[0].0) && failed(cases[2].0), "what is declared is tried");
}

/// The same with the quirks that were seen on an object which nobody here wrote, all at once: what fails beyond the
/// relay's own deviations is what such an object does not tell in time.
#[test]
fn the_existing_c_functions_as_they_were_found() {
    let quirks = "-DQUIRKS=\"refused,hup,sticky,closed,eshutdown,inprogress,zero,old\"";
    conforms("found", &crate::common::build("conform_found", "level0.c", &[quirks]), DEVIATIONS);
}

/// An object without certain options fails no case that it fails not with them.
#[test]
fn the_existing_c_functions_with_few_options() {
    let quirks = "-DQUIRKS=\"few-options\"";
    conforms("few", &crate::common::build("conform_few", "level0.c", &[quirks]), DEVIATIONS);
}

/// `plugins/lwip`, with the list of what lwIP does otherwise.
#[test]
fn lwip() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/lwip");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lwip");
    let made = std::process::Command::new("make")
        .args(["-s", "-C"])
        .arg(&folder)
        .arg(format!("OUT={}", out.display()))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let deviations = std::fs::read_to_string(folder.join("test/deviations.toml")).unwrap();
    conforms("lwip", &out.join("libnetgraft_lwip.so"), &deviations);
}

/// Behind the C interface a stack does exactly what it does without.
#[test]
fn a_stack_in_rust_is_the_same_behind_the_interface() {
    let object = Arc::new(crate::common::load(&crate::common::build_example("smoltcp_plugin")).unwrap());
    let behind = report("smoltcp", object.factory(), Time::Simulated);
    let direct = report("smoltcp", netgraft_smoltcp::factory(), Time::Simulated);
    for (behind, direct) in behind.rows.iter().zip(&direct.rows) {
        assert_eq!((behind.id(), &behind.outcome), (direct.id(), &direct.outcome));
    }
    assert_eq!(behind.rows.len(), direct.rows.len());
}

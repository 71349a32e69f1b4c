//! The conformance suite on objects of both levels.

use std::path::Path;
use std::sync::Arc;

use netgraft_plugin::StackConfig;
use netgraft_plugin::registry::Factory;
use netgraft_testkit::conformance::{Report, Skips, Subject, Time, run};

fn report(name: &str, factory: Arc<Factory>, time: Time) -> Report {
    let filter = std::env::var("NETGRAFT_CASES").unwrap_or_default();
    let report = run(&Subject::from_factory(name, factory, StackConfig::default(), time), &filter);
    print!("{}", report.table());
    report
}

/// The deviations of the objects in `tests/plugins`.
const DEVIATIONS: &str = include_str!("deviations.toml");

/// Runs the suite; every case that fails must be listed in `deviations` with its reason.
fn conforms(name: &str, object: &Path, deviations: &str) {
    let object = Arc::new(crate::common::load_trusted(object).unwrap());
    let report = report(name, object.factory(), Time::Real);
    let skips = Skips::parse(deviations).unwrap();
    let unexplained = skips.unexplained(&report).into_iter();
    let unexplained: Vec<String> =
        unexplained.map(|row| format!("{}: {:?}", row.id(), row.outcome)).collect();
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
    if std::env::var_os("NETGRAFT_CASES").is_none() {
        assert_eq!(skips.stale(&report), Vec::<String>::new(), "deviations that are none");
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

/// The same with the quirks that were seen on an object which nobody here wrote, all at once: what fails beyond the
/// relay's own deviations is what such an object does not tell in time.
#[test]
fn the_existing_c_functions_as_they_were_found() {
    let quirks = "-DQUIRKS=\"refused,hup,sticky,closed,eshutdown,inprogress,zero,old\"";
    conforms("found", &crate::common::build("conform_found", "level0.c", &[quirks]), DEVIATIONS);
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

//! What is counted in a sandbox, as OpenMetrics text (`--metrics`, `netgraft metrics`) and the dashboard in `contrib`, as root and as
//! an ordinary user. Needs root: changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;
#[path = "common/script.rs"]
mod script;

use std::path::Path;

use script::As;

fn check(name: &str, who: As) {
    script::run(name, who, include_str!("metrics.py"), |dir| {
        // Where an ordinary user can read it.
        let dashboard = dir.join("dashboard.json");
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib/grafana.json"), &dashboard)
            .unwrap();
        vec![script::object(dir), dashboard.into()]
    });
}

#[test]
fn metrics_are_served_as_root() {
    check("metrics-root", As::Root);
}

#[test]
fn metrics_are_served_as_an_ordinary_user() {
    check("metrics-user", As::User);
}

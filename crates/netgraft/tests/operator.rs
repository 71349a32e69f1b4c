//! The operator's socket of a sandbox: `netgraft list`, `netgraft ss`, clients that mean ill, and what a killed sandbox leaves. Needs
//! root: changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;
#[path = "common/script.rs"]
mod script;

use script::As;

fn check(name: &str, who: As) {
    script::run(name, who, include_str!("operators.py"), |dir| vec![script::object(dir)]);
}

#[test]
fn a_sandbox_answers_its_operator_as_root() {
    check("operator-root", As::Root);
}

#[test]
fn a_sandbox_answers_its_operator_as_an_ordinary_user() {
    check("operator-user", As::User);
}

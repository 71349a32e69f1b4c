//! Flows as lines of JSON (`--flows`) and the rules that a run needs (`--learn`), as root and as an ordinary user. Needs root:
//! changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;
#[path = "common/script.rs"]
mod script;

use script::As;

fn check(name: &str, who: As) {
    script::run(name, who, include_str!("flows.py"), |dir| vec![script::object(dir)]);
}

#[test]
fn flows_are_written_as_root() {
    check("flows-root", As::Root);
}

#[test]
fn flows_are_written_as_an_ordinary_user() {
    check("flows-user", As::User);
}

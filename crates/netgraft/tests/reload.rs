//! Rules that change while a sandbox runs (`netgraft policy set`), as root and as an ordinary user. Needs root: changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;
#[path = "common/script.rs"]
mod script;

use script::As;

fn check(name: &str, who: As) {
    script::run(name, who, include_str!("reload.py"), |dir| vec![script::object(dir)]);
}

#[test]
fn rules_change_as_root() {
    check("reload-root", As::Root);
}

#[test]
fn rules_change_as_an_ordinary_user() {
    check("reload-user", As::User);
}

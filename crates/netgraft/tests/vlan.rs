//! VLANs on a TAP device and on an interface, as root and as an ordinary user in a user namespace of its own. Needs root: changes
//! users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;
#[path = "common/script.rs"]
mod script;

use script::As;

fn check(name: &str, who: As) {
    script::run(name, who, include_str!("vlan.py"), |dir| vec![script::object(dir)]);
}

#[test]
fn a_stack_is_in_one_vlan_as_root() {
    check("vlan-root", As::Root);
}

#[test]
fn a_stack_is_in_one_vlan_as_an_ordinary_user() {
    check("vlan-user", As::User);
}

//! `--address dhcp` and `--address auto` on a TAP device and on an interface, with dnsmasq on the other side, as root and as an
//! ordinary user in a user namespace of its own. Needs root: changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;
#[path = "common/script.rs"]
mod script;

use script::As;

fn check(name: &str, who: As) {
    script::run(name, who, include_str!("lease.py"), |dir| vec![script::object(dir)]);
}

#[test]
fn a_link_is_asked_for_addresses_as_root() {
    check("lease-root", As::Root);
}

#[test]
fn a_link_is_asked_for_addresses_as_an_ordinary_user() {
    check("lease-user", As::User);
}

#[test]
fn a_lease_is_renewed_rebound_and_given_up_as_root() {
    script::run("renewal-root", As::Root, include_str!("renewal.py"), |dir| vec![script::object(dir)]);
}

#[test]
fn a_lease_is_renewed_rebound_and_given_up_as_an_ordinary_user() {
    script::run("renewal-user", As::User, include_str!("renewal.py"), |dir| vec![script::object(dir)]);
}

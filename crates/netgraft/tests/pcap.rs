//! Captures, read back by tcpdump and tshark, as root and as an ordinary user in a user namespace of its own. Needs root:
//! changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;
#[path = "common/script.rs"]
mod script;

use script::As;

fn check(name: &str, who: As) {
    script::run(name, who, include_str!("pcap.py"), |dir| vec![script::object(dir)]);
}

#[test]
fn captures_are_read_back_as_root() {
    check("pcap-root", As::Root);
}

#[test]
fn captures_are_read_back_as_an_ordinary_user() {
    check("pcap-user", As::User);
}

#[test]
fn captures_are_read_back_without_any_privilege() {
    check("pcap-plain", As::Plain);
}

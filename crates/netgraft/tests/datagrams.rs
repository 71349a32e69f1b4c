//! The kernel's own datagram sockets on a link, as root and as an ordinary user in a user namespace of its
//! own. Needs root: changes users.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;
#[path = "common/lwip.rs"]
mod lwip;
#[path = "common/script.rs"]
#[expect(dead_code, reason = "the stack of an object has datagram sockets of its own")]
mod script;

use script::As;

fn check(name: &str, who: As) {
    script::run(name, who, include_str!("datagrams.py"), |_| Vec::new());
}

#[test]
fn datagrams_of_the_kernel_s_sockets_cross_a_link_as_root() {
    check("datagrams-root", As::Root);
}

#[test]
fn datagrams_of_the_kernel_s_sockets_cross_a_link_as_an_ordinary_user() {
    check("datagrams-user", As::User);
}

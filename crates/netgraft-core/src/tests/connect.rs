//! connect(2).

use netgraft_plugin::{Call, Error, Events};

use super::fake::net::Answer;
use super::fake::rig::{DONE, Rig, addr, fails};
use super::fake::world::Reply;
use crate::uapi;

#[test]
fn a_blocking_connect_waits_until_the_stack_is_connected() {
    let mut rig = Rig::new();
    let fd = rig.tcp();
    rig.net().remotes.insert(addr("198.51.100.1:80"), Answer::Accepts);
    assert_eq!(rig.connect(fd, "198.51.100.1:80"), Reply::Waits);
    assert_eq!(rig.reply_at_rest(), DONE);
}

//! Where a case of a stack in a shared object runs: nothing that the object does there reaches the caller's network.
//!
//! A case has a network namespace of its own, with a loopback; pre-init is in it if it is trusted with the caller's
//! rights. A level 0 object, which looks for its interface itself, is given a process that holds one more: the other end of
//! a veth pair with an address and a default route, as `run --link veth:NAME` has it. After pre-init the process has
//! nothing of the host's ([`netgraft_linux::jail`]).

use std::io;
use std::path::Path;

use netgraft_linux::mount::{self, Access};
use netgraft_linux::namespace::{Namespaces, unshare};
use netgraft_linux::netdev::{self, Changes, index_of};
use netgraft_linux::nsfd::Namespace;
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{Cidr, StackConfig};

use netgraft_launch::veth::{self, Holder};

/// The link's name, and its two ends (RFC 5737).
const LINK: &str = "ng0";
const NEAR: [u8; 4] = [192, 0, 2, 1];
const FAR: [u8; 4] = [192, 0, 2, 2];
const PREFIX: u8 = 24;

fn cannot(what: &str) -> impl FnOnce(io::Error) -> SetupError {
    let text = format!("the case cannot be given {what}");
    move |source| SetupError::host(text, source)
}

/// Moves the calling process to a network namespace of its own, which lasts as long as the process does.
pub(super) fn enter() -> Result<(), SetupError> {
    unshare(Namespaces::NET | Namespaces::MOUNT).map_err(cannot("namespaces of its own"))?;
    netdev::loopback_up().map_err(cannot("a loopback"))?;
    mount::make_private().map_err(cannot("mounts of its own"))?;
    // Objects look for a process under its number in /proc.
    let known = std::fs::read_link("/proc/self").ok();
    if known.and_then(|link| link.to_str()?.parse().ok()) != Some(std::process::id()) {
        mount::mount_new(c"proc", Path::new("/proc"), Access::ReadOnly, c"")
            .map_err(cannot("a /proc of its own"))?;
    }
    // The pair's near end lives in it after the process has left it.
    let own = Namespace::own("net").map_err(cannot("a network namespace"))?;
    std::mem::forget(own);
    Ok(())
}

/// Makes the link of a level 0 object, and the process that holds its far end.
pub(super) fn make_link() -> Result<Holder, SetupError> {
    let name = LINK.parse().map_err(|_| SetupError::new("the link has a name that cannot be"))?;
    let ends = StackConfig {
        addresses: Cidr::new(FAR.into(), PREFIX).into_iter().collect(),
        gateways: vec![NEAR.into()],
        ..StackConfig::default()
    };
    let (_, Some(plan)) = veth::plan(Some(name), ends) else {
        return Err(SetupError::new("the link cannot be planned"));
    };
    let (pair, holder) = veth::make(&plan)?;
    let index = index_of(LINK).map_err(cannot("a link"))?;
    let near = Cidr::new(NEAR.into(), PREFIX).ok_or_else(|| SetupError::new("the link's address is none"))?;
    let mut changes = Changes::new();
    changes.add_address(index, near.addr(), near.prefix(), near.broadcast());
    let done: io::Result<()> = changes.make().and_then(|all| all.into_iter().collect());
    done.map_err(cannot("a link with an address"))?;
    // It goes with the namespaces.
    std::mem::forget(pair);
    Ok(holder)
}

//! The link of a level 0 stack: a veth pair (veth(4)) whose one end is in the caller's network namespace.
//!
//! The existing C interface has no place for a link and addresses. Its pre-init is given a process instead, looks in
//! that process's network namespace for the first interface that is up, takes its IPv4 address and default route over,
//! and opens an AF_PACKET socket on it. So that is what is shown to it: a network namespace that holds the other end
//! and nothing else.
//!
//! It is not the program's. There the program, which may be root in its namespaces, could open packet sockets of its
//! own and go past the stack; and the devices that mirror the stack's interfaces have the same addresses, for which the
//! kernel would answer beside the stack. The socket and the launcher keep the namespace alive, so the pair is gone with
//! the sandbox, however that ends.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netgraft_linux::fdpass::{self, wait_readable};
use netgraft_linux::namespace::{Namespaces, unshare};
use netgraft_linux::netdev::{Changes, NextHop, index_of};
use netgraft_linux::nsfd::Namespace;
use netgraft_linux::{confine, process};
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{Cidr, InterfaceName, StackConfig};

use super::launcher::reap;

/// How long a step may take: the kernel's lock of all network devices may be busy.
const TIME: Duration = Duration::from_secs(5);
/// The most bytes that the process in the namespace says.
const REPORT_LIMIT: usize = 4096;

/// A pair that is to be made.
#[derive(Clone, Debug)]
pub struct VethPlan {
    /// Of both ends.
    name: InterfaceName,
    /// Of the end that the stack takes over.
    addresses: Vec<Cidr>,
    /// Its default routes.
    gateways: Vec<IpAddr>,
}

/// Splits an operator's choice into what the stack is told, and the pair that is made for a stack which is told nothing.
#[must_use]
pub fn plan(name: Option<InterfaceName>, config: StackConfig) -> (StackConfig, Option<VethPlan>) {
    let Some(name) = name else { return (config, None) };
    let StackConfig { addresses, gateways, .. } = config;
    let left = StackConfig { addresses: Vec::new(), gateways: Vec::new(), ..config };
    (left, Some(VethPlan { name, addresses, gateways }))
}

/// A pair that exists. Dropping it removes it.
pub struct Veth {
    /// Of the caller's end.
    index: u32,
    /// The other end's.
    _namespace: Namespace,
}

impl Drop for Veth {
    fn drop(&mut self) {
        let mut changes = Changes::new();
        changes.delete(self.index);
        // If it is gone already, somebody else removed it.
        let _ = changes.make();
    }
}

/// The process whose network namespace holds the other end while pre-init runs.
pub struct Holder {
    pid: i32,
    socket: OwnedFd,
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = process::kill(self.pid, libc::SIGKILL);
        reap(self.pid);
    }
}

/// Makes a pair, the other end with its addresses and its default route, both ends up.
///
/// # Errors
/// A text for the operator; nothing is left behind then.
pub fn make(plan: &VethPlan) -> Result<(Veth, Holder), SetupError> {
    let name = plan.name.as_str();
    let failed = |what: &str| {
        let what = format!("the veth pair of --link veth:{name} cannot be {what}");
        move |e: io::Error| match e.raw_os_error() {
            Some(libc::EPERM) => SetupError::host(format!("{what}, which needs root (CAP_NET_ADMIN)"), e),
            Some(libc::EEXIST) => SetupError::host(format!("{what}, since {name} is there already"), e),
            _ => SetupError::host(what, e),
        }
    };
    let (socket, theirs) = fdpass::pair().map_err(failed("prepared"))?;
    let pid = process::fork(|| i32::from(hold(theirs.as_fd(), plan).is_err())).map_err(failed("prepared"))?;
    drop(theirs);
    let holder = Holder { pid, socket };
    holder.answer().map_err(failed("given a network namespace"))?;
    let namespace = Namespace::of_process(pid.unsigned_abs(), "net").map_err(failed("prepared"))?;
    let mut pair = Changes::new();
    pair.make_veth(name, namespace.as_fd());
    all(pair).map_err(failed("made"))?;
    let index = index_of(name).map_err(failed("found"))?;
    let veth = Veth { index, _namespace: namespace };
    let mut up = Changes::new();
    up.up(index);
    all(up).map_err(failed("brought up"))?;
    holder.go_on().map_err(failed("given its addresses and its gateway"))?;
    Ok((veth, holder))
}

impl Holder {
    /// The process that pre-init is to be given.
    pub const fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Pre-init is done: what it has left of the addresses is taken away, so that the kernel does not answer beside
    /// the stack.
    ///
    /// # Errors
    /// As rtnetlink(7).
    pub fn settle(self) -> Result<(), SetupError> {
        self.go_on().map_err(|e| SetupError::host("the stack's interface keeps its addresses", e))
    }

    /// Lets the process take its next step.
    fn go_on(&self) -> io::Result<()> {
        fdpass::send(self.socket.as_fd(), b"go", &[])?;
        self.answer()
    }

    /// What came of a step: an errno, 0 for success.
    fn answer(&self) -> io::Result<()> {
        if wait_readable([Some(self.socket.as_fd())], Some(TIME))? != [true] {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (message, _) =
            fdpass::receive(self.socket.as_fd(), REPORT_LIMIT)?.ok_or(io::ErrorKind::BrokenPipe)?;
        match <[u8; 4]>::try_from(message.as_slice()).map(i32::from_ne_bytes) {
            Ok(0) => Ok(()),
            Ok(errno) => Err(io::Error::from_raw_os_error(errno)),
            Err(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The process in the namespace: three steps, each but the first when it is told to.
fn hold(socket: BorrowedFd<'_>, plan: &VethPlan) -> io::Result<()> {
    confine::die_with_parent()?;
    process::close_all_but(&[socket.as_raw_fd()])?;
    let tell = |result: &io::Result<()>| {
        let errno = result.as_ref().err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO));
        fdpass::send(socket, &errno.to_ne_bytes(), &[])
    };
    tell(&unshare(Namespaces::NET))?;
    let steps: [fn(&VethPlan) -> io::Result<()>; 2] = [configure, strip];
    for step in steps {
        if fdpass::receive(socket, REPORT_LIMIT)?.is_none() {
            return Ok(());
        }
        tell(&step(plan))?;
    }
    Ok(())
}

/// Gives the interface what an operator would, for the object to find.
fn configure(plan: &VethPlan) -> io::Result<()> {
    let index = index_of(plan.name.as_str())?;
    let mut quiet = Changes::new();
    quiet.no_automatic_address(index);
    // A kernel without IPv6 has no automatic address to prevent.
    let _ = quiet.make()?;
    let mut changes = Changes::new();
    for cidr in &plan.addresses {
        changes.add_address(index, cidr.addr(), cidr.prefix(), cidr.broadcast());
    }
    changes.up(index);
    for &gateway in plan.gateways.iter().take(1) {
        let any = if gateway.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        changes.add_route(index, any, 0, NextHop::Gateway(gateway));
    }
    all(changes)
}

/// Takes the addresses away that are left.
fn strip(plan: &VethPlan) -> io::Result<()> {
    let index = index_of(plan.name.as_str())?;
    for cidr in &plan.addresses {
        let mut changes = Changes::new();
        changes.remove_address(index, cidr.addr(), cidr.prefix());
        match all(changes) {
            // The object has done it.
            Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Makes changes, all of which must succeed.
fn all(changes: Changes) -> io::Result<()> {
    changes.make()?.into_iter().collect()
}

//! The core's traits on the real kernel, one file for each.

mod flows;
mod host;
mod journal;
pub(crate) mod links;
mod program;
mod surrogate;
mod watcher;

use std::hash::RandomState;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use netgraft_core::{Files, Name};
use netgraft_linux::disposal::Disposal;
use netgraft_linux::{unix, unix::Name as UnixName};

use crate::calls::Programs;
use crate::names::{Names, PairNames};
use crate::poller::Poller;

pub(crate) use flows::FlowsOut;
pub(crate) use journal::{ToLauncher, from_control};
use links::Links;

/// Everything that the core works on.
pub(crate) struct Bindings {
    /// The programs, their threads and their calls.
    pub(crate) programs: Programs,
    /// What wakes the sentry.
    pub(crate) poller: Arc<Poller>,
    /// The launcher.
    pub(crate) launcher: ToLauncher,
    /// The devices that lead to the programs' datagram sockets.
    pub(crate) links: Links,
    /// Where flows go, if they are recorded.
    pub(crate) flows: Option<FlowsOut>,
    /// Closes files that are no sockets.
    disposal: Disposal,
    names: Names,
    /// The names of joined connections.
    pairs: PairNames,
    /// What `SO_SNDBUF` is set to for the send buffer that every socket has.
    send_buffer: i32,
    /// A socket of the sentry's own, in the network namespace of all surrogates.
    own: OwnedFd,
    /// The number of that network namespace (`SO_NETNS_COOKIE`).
    network: u64,
    /// The sentry's own process id.
    process: u32,
    /// Whether the sandbox has sockets of the host's, in the sentry's network namespace.
    serves_host: bool,
}

impl Bindings {
    /// Bindings without sockets.
    ///
    /// # Errors
    /// EMFILE and the like.
    pub(crate) fn new(
        programs: Programs,
        poller: Arc<Poller>,
        launcher: ToLauncher,
        disposal: Disposal,
        (serves_host, name_keys): (bool, RandomState),
    ) -> io::Result<Bindings> {
        unix::handle_alarm()?;
        let own = unix::stream(true)?;
        let network = unix::network(own.as_fd())?;
        Ok(Bindings {
            programs,
            poller,
            launcher,
            links: Links::default(),
            flows: None,
            disposal,
            names: Names::default(),
            pairs: PairNames::new(name_keys),
            send_buffer: unix::send_buffer(own.as_fd())? / 2,
            own,
            network,
            serves_host,
            process: std::process::id(),
        })
    }
}

impl Files for Bindings {
    type File = OwnedFd;
    type End = OwnedFd;
}

/// The errno of a call that failed on the sentry's side.
pub(crate) fn errno(error: &io::Error) -> i32 {
    match error.raw_os_error() {
        // The sentry's own limits are the program's "no room".
        Some(libc::EMFILE | libc::ENFILE) => libc::ENFILE,
        Some(code) => code,
        None => libc::EIO,
    }
}

fn to_unix(Name(name): Name) -> UnixName {
    UnixName(name)
}

fn from_unix(UnixName(name): UnixName) -> Name {
    Name(name)
}

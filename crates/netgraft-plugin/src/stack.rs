//! The stack itself.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::error::Error;
use crate::event::{Event, Events};
use crate::faults::{LinkFaults, LinkReport};
use crate::inet;
use crate::notify::PluginNotifier;
use crate::option::OptionName;
use crate::owners::Owners;
use crate::recording::Recording;
use crate::seccomp::SyscallRule;
use crate::socket::{Handle, SocketSpec, Sockets};
use crate::time::Instant;

/// What a stack says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StackInfo {
    /// The name under which it is registered.
    pub name: String,
    /// Its version, free text.
    pub version: String,
    /// The sockets that it makes.
    pub sockets: Vec<SocketSpec>,
    /// The options that it knows.
    pub options: Vec<OptionName>,
    /// What it needs of the host, in words (a device, a capability); empty for nothing.
    pub needs: String,
    /// Whether its link is one of `netgraft-link`, so that [`crate::config::Wrappers`] have an effect. An operator who
    /// asks for faults is told of a stack that has none.
    pub wraps_link: bool,
}

/// Why a stack could not be set up. The text is for the operator: what failed, on what, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SetupError {
    message: String,
    #[source]
    source: Option<std::io::Error>,
}

impl SetupError {
    /// An error with a text for the operator.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        SetupError { message: message.into(), source: None }
    }

    /// An error with what the host said of it; its text is appended.
    #[must_use]
    pub fn host(message: impl std::fmt::Display, source: std::io::Error) -> Self {
        SetupError { message: format!("{message}: {source}"), source: Some(source) }
    }
}

/// What the launcher passes to [`PluginStack::pre_init`].
#[derive(Clone, Copy, Debug)]
pub struct PreInitStackArgs {
    /// A process of the sandbox, stopped before the program: its namespaces are the program's
    /// (`/proc/PID/ns`, namespaces(7)). A launcher that makes an interface for a stack that looks for one itself passes
    /// another process, which lives during the call and whose network namespace has that interface.
    pub pid: u32,
}

/// What [`PluginStack::pre_init`] gives, to be handed to the sentry.
#[derive(Debug, Default)]
pub struct PreInitStack {
    /// Free text, passed on verbatim.
    pub init_str: String,
    /// Descriptors, handed over in this order.
    pub fds: Vec<OwnedFd>,
}

/// What the sentry passes to [`PluginStack::init`].
#[derive(Debug, Default)]
pub struct InitStackArgs {
    /// The text of [`PreInitStack::init_str`].
    pub init_str: String,
    /// The descriptors of [`PreInitStack::fds`], in the same order.
    pub fds: Vec<OwnedFd>,
    /// The time now.
    pub now: Instant,
}

/// A host descriptor that wakes a stack.
#[derive(Clone, Copy, Debug)]
pub struct WakeFd<'a> {
    /// The descriptor.
    pub fd: BorrowedFd<'a>,
    /// What to wait for: IN, OUT or both. Waited for by level.
    pub events: Events,
}

/// A network stack: what runs behind the sockets of a sandbox.
///
/// The order of calls is: the factory; in the launcher [`PluginStack::pre_init`] alone; in the sentry
/// [`PluginStack::seccomp_filters`], [`PluginStack::prepare`], [`PluginStack::init`], then anything else, ended by
/// [`PluginStack::destroy`].
pub trait PluginStack: inet::Stack + Sockets + PluginNotifier + Send {
    /// What the stack says of itself. May be called before `init`.
    fn info(&self) -> StackInfo;

    /// Runs in the privileged launcher: opens devices, may join the sandbox's namespaces on a thread of its
    /// own. What it returns is handed to [`PluginStack::init`] in the sentry.
    ///
    /// # Errors
    /// A text for the operator; the sandbox is not started.
    fn pre_init(&mut self, args: PreInitStackArgs) -> Result<PreInitStack, SetupError> {
        let _ = args;
        Ok(PreInitStack::default())
    }

    /// Runs in the sentry when it has given up its privileges and its file system, but may still load code: a stack
    /// that is a shared object is linked here. [`PluginStack::init`] does the same if this was not called.
    ///
    /// # Errors
    /// A text for the operator; the program is not started.
    fn prepare(&mut self) -> Result<(), SetupError> {
        Ok(())
    }

    /// Runs in the confined sentry.
    ///
    /// # Errors
    /// A text for the operator; the program is not started.
    fn init(&mut self, args: InitStackArgs) -> Result<(), SetupError>;

    /// The host system calls that the stack needs in the sentry beyond the base.
    fn seccomp_filters(&self) -> Vec<SyscallRule> {
        Vec::new()
    }

    /// Moves packets and fires timers that are due. Bounded: when much is waiting, it does a part, and says
    /// with [`PluginStack::next_deadline`] that it wants to go on at once.
    fn poll(&mut self, now: Instant);

    /// Reports events until none is left or `sink` answers `false`.
    fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool);

    /// When [`PluginStack::poll`] is to be called at the latest, if nothing else happens; `None` for never,
    /// as for a stack without timers.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Ends the stack: connections are reset, devices closed. Every later call answers
    /// [`Error::NetworkDown`].
    fn destroy(&mut self);

    /// How many closed sockets still have bytes, or the end of a stream, that their peer has not acknowledged. When
    /// the program has ended the sentry lets them finish, for a moment.
    fn unfinished(&self) -> usize {
        0
    }

    /// Why the stack cannot go on, once that is so: in which call, and what was wrong. It is ended then, as if it had
    /// crashed. Asked after each round of calls, so it must be cheap; answers the same from then on.
    fn failure(&self) -> Option<String> {
        None
    }

    /// The host descriptors that mean work for [`PluginStack::poll`]. They do not change after `init`.
    fn wake_fds(&self) -> Vec<WakeFd<'_>> {
        Vec::new()
    }

    /// Whether sockets of this stack are the host's own descriptors: then [`PluginStack::take_host_fd`] works,
    /// and the sentry gives them to the program and does its control calls on them.
    fn offers_host_fds(&self) -> bool {
        false
    }

    /// Gives up a socket's host descriptor; the handle is gone.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for a stack without them, [`Error::BadHandle`].
    fn take_host_fd(&mut self, handle: Handle) -> Result<OwnedFd, Error> {
        let _ = handle;
        Err(Error::NotSupported)
    }

    /// Binds a descriptor that [`PluginStack::take_host_fd`] gave, with all the rights that
    /// the stack has: the host stack may bind privileged ports for a launcher that could.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for a stack without host descriptors; else as
    /// [`crate::socket::Sockets::bind`], and [`Error::AccessDenied`] without the right.
    fn bind_host_fd(&mut self, fd: BorrowedFd<'_>, addr: SocketAddr) -> Result<(), Error> {
        let _ = (fd, addr);
        Err(Error::NotSupported)
    }

    /// Where the sentry says whose sockets they are, for a stack whose packets are captured. It does not change after `init`.
    fn owners(&self) -> Option<Arc<Owners>> {
        None
    }

    /// The capture of a stack whose packets are captured, for the sentry that stops: it is asked before
    /// [`PluginStack::destroy`], and used after it.
    fn recording(&self) -> Option<Box<dyn Recording>> {
        None
    }

    /// What happens to the frames of the stack's link, and what has; `None` if that cannot be changed while the stack runs.
    fn link_report(&self) -> Option<LinkReport> {
        None
    }

    /// Replaces the faults of the link, for frames that come from now on; with a seed, which of them are lost and so on is
    /// decided anew. Frames that are under way arrive when they would have.
    ///
    /// # Errors
    /// [`Error::NotSupported`] if [`PluginStack::link_report`] is `None`.
    fn set_link_faults(&mut self, faults: LinkFaults, seed: Option<u64>) -> Result<(), Error> {
        let _ = (faults, seed);
        Err(Error::NotSupported)
    }
}

//! The programs that a sentry serves: their listeners, and the threads behind them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netgraft_core::{Caller, ProgramId};
use netgraft_launch::NamespaceIds;
use netgraft_launch::vitals::{MAX_LISTENERS, Vitals};
use netgraft_linux::listener::Listener;
use netgraft_linux::task::Tasks;
use netgraft_linux::unix;

/// What came of an attempt to receive a call.
#[derive(Debug)]
pub(crate) enum Received {
    /// A call.
    Call(Caller),
    /// None waits.
    Nothing,
    /// The caller has died or was interrupted meanwhile.
    Gone,
}

/// The programs of a sandbox.
#[derive(Debug)]
pub(crate) struct Programs {
    listeners: Vec<Option<Listener>>,
    pub(crate) tasks: Tasks,
    pub(crate) home: NamespaceIds,
    vitals: Vitals,
}

impl Programs {
    /// No programs yet; as many threads are known by a descriptor.
    pub(crate) fn new(vitals: Vitals, home: NamespaceIds, threads: usize) -> Programs {
        Programs { listeners: Vec::new(), tasks: Tasks::with_room(threads), home, vitals }
    }

    /// Takes over the listener of a program, at its place in the vitals.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a place that there is not, or that is taken.
    pub(crate) fn attach(&mut self, place: u32, listener: OwnedFd) -> io::Result<ProgramId> {
        let index = usize::try_from(place).ok().filter(|&i| i < MAX_LISTENERS);
        let index = index.ok_or(io::ErrorKind::InvalidInput)?;
        if self.listeners.len() <= index {
            self.listeners.resize_with(index + 1, || None);
        }
        if self.listeners[index].is_some() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let listener = Listener::new(listener);
        // Older kernels do without.
        let _ = listener.wake_synchronously();
        self.listeners[index] = Some(listener);
        Ok(ProgramId(place))
    }

    /// Gives up the listener of a program whose last thread has ended.
    pub(crate) fn detach(&mut self, program: ProgramId) {
        if let Some(place) = self.listeners.get_mut(program.0 as usize) {
            *place = None;
        }
    }

    /// The descriptor of a program's listener.
    pub(crate) fn listener_fd(&self, program: ProgramId) -> Option<BorrowedFd<'_>> {
        self.listener(program).map(AsFd::as_fd)
    }

    /// The listener of a program, if it is still served.
    pub(crate) fn listener(&self, program: ProgramId) -> Option<&Listener> {
        self.listeners.get(program.0 as usize)?.as_ref()
    }

    /// Receives a call of a program, if one waits.
    ///
    /// # Errors
    /// EBADF, ENOTTY: code in this process has closed the listener.
    pub(crate) fn receive(&self, program: ProgramId) -> io::Result<Received> {
        let Some(listener) = self.listener(program) else { return Ok(Received::Nothing) };
        if !unix::readable(listener.as_fd()).unwrap_or(false) {
            return Ok(Received::Nothing);
        }
        match listener.receive() {
            Ok(n) => {
                self.vitals.took(program.0 as usize, n.id);
                Ok(Received::Call(Caller { program, id: n.id, tid: n.tid, number: n.number, args: n.args }))
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Received::Gone),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTTY)) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "no call could be received");
                Ok(Received::Nothing)
            }
        }
    }

    /// The words that the launcher looks at.
    pub(crate) fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// Notes that what there was to do about a program's last call is done for now.
    pub(crate) fn served(&self, program: ProgramId) {
        self.vitals.served(program.0 as usize);
    }
}

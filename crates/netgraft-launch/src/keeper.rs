//! The process that holds the sentry's end of every connection when the sentry dies.
//!
//! The kernel closes what a dead process had open, and the program would take that for the orderly end of its
//! connections: a file that was half read would look whole. So this process, a fork of the sentry, has the same
//! descriptor table, and what is in it stays open. It sleeps until the launcher tells it that the sentry is dead. Then
//! it writes one byte to each connected surrogate, through the program's own descriptor, and ends: an AF_UNIX socket
//! that is closed with bytes unread resets the connection (unix(7)).
//!
//! It is there before the stack's code runs, and looks at nothing that the stack could have changed but that table.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netgraft_linux::fdpass::wait_readable;
use netgraft_linux::signal::Signals;
use netgraft_linux::task::{self, Tasks};
use netgraft_linux::{confine, process, unix};

use crate::control::{self, FromSentry};

/// Descriptors that are kept free for the keeper, should the stack have left none.
const RESERVED: usize = 8;
/// How long the launcher waits for it: many times what it takes for 100,000 descriptors.
const PATIENCE: Duration = Duration::from_secs(5);

/// What becomes of the program's sockets that listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listeners {
    /// They will listen again.
    Stay,
    /// Nobody will come any more: who waits in accept(2) is woken.
    End,
}

impl Listeners {
    /// The signal that says so to the keeper.
    const fn signal(self) -> i32 {
        match self {
            Listeners::Stay => libc::SIGUSR1,
            Listeners::End => libc::SIGUSR2,
        }
    }
}

/// Makes the keeper of the calling process, the sentry, whose signals are blocked; tells the launcher.
///
/// # Errors
/// As clone(2), and [`io::ErrorKind::BrokenPipe`] if the launcher is gone.
pub(super) fn start(control: BorrowedFd<'_>) -> io::Result<()> {
    let pidfd = process::fork_with_same_files(main)?;
    control::send_with_fd(control, &FromSentry::Keeper, pidfd.as_fd())
}

/// In the launcher: the sentry is dead; waits until its connections have ended.
pub(super) fn release(keeper: &OwnedFd, listeners: Listeners) {
    // Should it be gone, all that it held is closed.
    let _ = process::signal(keeper.as_fd(), listeners.signal());
    if !matches!(wait_readable([Some(keeper.as_fd())], Some(PATIENCE)), Ok([true])) {
        tracing::warn!("not all of the program's connections could be reset");
        dismiss(keeper);
        let _ = wait_readable([Some(keeper.as_fd())], Some(PATIENCE));
    }
}

/// In the launcher: ends the keeper, for which there is nothing more to do.
pub(super) fn dismiss(keeper: &OwnedFd) {
    let _ = process::signal(keeper.as_fd(), libc::SIGKILL);
}

fn main() -> i32 {
    let _ = confine::set_name(c"netgraft-keeper");
    let reserved: io::Result<Vec<OwnedFd>> = (0..RESERVED).map(|_| unix::stream(true)).collect();
    let Ok(reserved) = reserved else { return 1 };
    let Ok(own) = unix::network(reserved[0].as_fd()) else { return 1 };
    let asked = Signals::none().with(Listeners::Stay.signal()).with(Listeners::End.signal()).wait();
    drop(reserved);
    let listeners = if asked.is_ok_and(|signal| signal == Listeners::End.signal()) {
        Listeners::End
    } else {
        Listeners::Stay
    };
    // For the calls on the program's listeners that might block.
    let ready = unix::handle_alarm().and_then(|()| Signals::none().with(libc::SIGALRM).unblock());
    if ready.is_err() {
        return 1;
    }
    // Listeners first: a connection that waits there could otherwise be taken after the descriptors were looked at.
    each_surrogate(own, |surrogate| {
        if unix::is_listening(surrogate).is_ok_and(|listens| listens) {
            empty(surrogate, listeners);
        }
    });
    each_surrogate(own, reset);
    0
}

/// Calls this with every stream surrogate that a process of the program has.
fn each_surrogate(own_network: u64, mut with: impl FnMut(BorrowedFd<'_>)) {
    let own = std::process::id();
    // The keeper's table has the other ends.
    for process in task::processes().into_iter().filter(|&process| process != own) {
        let mut tasks = Tasks::new();
        for fd in 0..task::descriptors(process) {
            let file = match tasks.duplicate(process, fd) {
                Ok(file) => file,
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => continue,
                // It has ended, or may not be looked at: it is one of netgraft's.
                Err(_) => break,
            };
            let ours = unix::domain(file.as_fd()).is_ok_and(|domain| domain == libc::AF_UNIX)
                && unix::network(file.as_fd()).is_ok_and(|network| network == own_network)
                && unix::is_stream(file.as_fd()).is_ok_and(|stream| stream);
            if ours {
                with(file.as_fd());
            }
        }
    }
}

/// Takes the connections that wait in a listener's queue: they end with the stack.
fn empty(listener: BorrowedFd<'_>, listeners: Listeners) {
    while unix::accept_bounded(listener, true).is_ok() {}
    if listeners == Listeners::End {
        let _ = unix::shutdown(listener, libc::SHUT_RDWR);
    }
}

/// Leaves a byte that nobody will read, unless the peer has said already that it sends no more: that end stays orderly.
/// Where the buffer is full there are such bytes. A joined connection goes on: its other side would read the byte.
fn reset(surrogate: BorrowedFd<'_>) {
    let is_joined = unix::long_peer_name(surrogate).or_else(|| unix::long_own_name(surrogate)).is_some();
    if !is_joined && !unix::has_ended(surrogate) {
        let _ = unix::send(surrogate, b"x");
    }
}

//! Finds the program's descriptors of sockets that an earlier sentry noted, so that the core can make them again.

use netgraft_core::{Core, Journal, Kept, Program, ProgramId, Seen, Surrogate};
use netgraft_launch::control;
use netgraft_linux::task;
use netgraft_plugin::Shutdown;
use std::os::fd::OwnedFd;

use crate::bindings::{Bindings, from_control};

/// The most descriptors of the programs that are looked at for sockets which are not where they were last seen.
const SEARCHED: usize = 65_536;

/// A duplicate of the program's descriptor, and where it is.
type Found = (OwnedFd, Seen);

/// Makes the sockets again that the sentry before this one noted. One that cannot be made is reported and left: the
/// program's next call on it fails.
pub(crate) fn restore(core: &mut Core<Bindings>, kept: &[control::Kept]) {
    let kept: Vec<Kept> = kept.iter().map(from_control).collect();
    let mut files: Vec<Option<Found>> = kept.iter().map(|kept| file_of(core.kernel(), kept)).collect();
    if files.iter().any(Option::is_none) {
        search(core.kernel(), &kept, &mut files);
    }
    for (kept, found) in kept.iter().zip(files) {
        // One that is nowhere was closed meanwhile.
        let Some((file, seen)) = found else {
            core.kernel().forget(kept.cookie);
            continue;
        };
        if let Err(error) = core.restore(ProgramId::default(), kept, &file, seen) {
            if let netgraft_core::Role::Listener(..) = kept.role {
                // A thread that waits in accept(2) is woken, and the next call on it fails.
                let _ = core.kernel().shut(&file, Shutdown::Both);
            }
            core.kernel().warn(format!("the socket of {} could not be restored: {error}", kept.address));
            core.kernel().forget(kept.cookie);
        }
    }
}

/// The program's descriptor, where it was last seen.
fn file_of(bindings: &mut Bindings, kept: &Kept) -> Option<Found> {
    let seen = kept.seen?;
    let file = bindings.duplicate_of(seen.tid, seen.fd).ok()?;
    match bindings.cookie(&file) {
        Some(cookie) if cookie == kept.cookie => Some((file, seen)),
        _ => {
            bindings.dispose(file);
            None
        }
    }
}

/// Looks for sockets among all descriptors of the programs' processes. Their lists are closed to the sentry; how long
/// they are is not (proc(5)).
fn search(bindings: &mut Bindings, kept: &[Kept], files: &mut [Option<Found>]) {
    let mut left = SEARCHED;
    let own = std::process::id();
    for process in task::processes().into_iter().filter(|&process| process != own) {
        for fd in 0..task::descriptors(process) {
            left = left.saturating_sub(1);
            if left == 0 || files.iter().all(Option::is_some) {
                return;
            }
            if !bindings.is_socket(process, fd) {
                continue;
            }
            let Ok(file) = bindings.duplicate_of(process, fd) else { continue };
            let Some(cookie) = bindings.cookie(&file) else {
                bindings.dispose(file);
                continue;
            };
            match kept.iter().position(|k| k.cookie == cookie) {
                Some(at) if files[at].is_none() => files[at] = Some((file, Seen { tid: process, fd })),
                _ => bindings.dispose(file),
            }
        }
    }
}

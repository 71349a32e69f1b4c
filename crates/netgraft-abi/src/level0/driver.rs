//! The thread that drives a level 0 object.
//!
//! One thread makes the object's epoll handle and waits on it for ever, [`WAIT`] at a time: packets and timers move
//! only in that call, timers often only as it begins, and the object keeps state of its own for that thread. What comes
//! out is queued for the sentry's loop, which an eventfd wakes. A wait without events is normal. One may also never
//! return, so the thread is never stopped: it ends with the process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use netgraft_linux::signal::Signals;

use super::symbols::Symbols;
use crate::object::Loaded;
use crate::watch::{Call, Caller};

/// How long the object may take to make its epoll handle.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Events that are waited for at a time.
const BATCH: usize = 256;
/// How long a wait takes at most, in milliseconds: what the system waits that this interface comes from, so what
/// objects are made for.
const WAIT: i32 = 100;
/// How long the thread pauses after a wait that failed, or did not wait, so that it does not spin.
const PAUSE: Duration = Duration::from_millis(1);
/// So many waits in a row may find nothing in less than [`PAUSE`] before the thread pauses: an object that polls its
/// device is often only early.
const EARLY: u32 = 64;
/// Failed waits in a row, after which the object is given up: a second's worth.
const PATIENCE: u32 = 1000;

/// An event as it came: the data that was registered, and the bits.
pub(crate) type Raw = (u64, u32);

/// What the driver and the loop share.
pub(crate) struct Shared {
    queue: Mutex<Vec<Raw>>,
    /// Whether the eventfd was written and not read since.
    signalled: AtomicBool,
    /// Why the object was given up.
    failure: OnceLock<String>,
    wake: OwnedFd,
    /// The object's epoll handle.
    epoll: AtomicI32,
}

impl Shared {
    fn new() -> io::Result<Shared> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave it to us alone.
        let wake = unsafe { OwnedFd::from_raw_fd(fd) };
        let (queue, epoll) = (Mutex::new(Vec::new()), AtomicI32::new(-1));
        Ok(Shared { queue, signalled: AtomicBool::new(false), failure: OnceLock::new(), wake, epoll })
    }

    /// Queues events and wakes the loop, once until it has looked.
    fn push(&self, events: impl Iterator<Item = Raw>) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).extend(events);
        self.signal();
    }

    fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            let one = 1_u64;
            // SAFETY: eight bytes that live through the call. It fails only if the counter is full, and then the loop
            // is awake.
            unsafe { libc::write(self.wake.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
        }
    }

    /// Takes what has come, into an empty `events`, in exchange for its memory.
    pub(crate) fn take(&self, events: &mut Vec<Raw>) {
        if !self.signalled.load(Ordering::Acquire) {
            return;
        }
        let mut count = 0_u64;
        // SAFETY: eight bytes that live through the call.
        unsafe { libc::read(self.wake.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
        // Before the queue is taken: what is queued from here on writes again.
        self.signalled.store(false, Ordering::Release);
        mem::swap(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner), events);
    }

    /// Why the object was given up, once it is.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub(crate) fn epoll(&self) -> i32 {
        self.epoll.load(Ordering::Relaxed)
    }

    fn give_up(&self, why: String) {
        self.failure.get_or_init(|| why);
        self.signal();
    }
}

/// Starts the thread and waits until the object has its epoll handle.
pub(crate) fn start(loaded: &Arc<Loaded>, symbols: Symbols) -> Result<Arc<Shared>, String> {
    let shared = Shared::new().map_err(|e| format!("no eventfd: {e}"))?;
    let shared = Arc::new(shared);
    let (ready, started) = channel();
    let (theirs, object) = (Arc::clone(&shared), Arc::clone(loaded));
    thread::Builder::new()
        .name("netgraft-driver".to_owned())
        .spawn(move || drive(&object, &symbols, &theirs, &ready))
        .map_err(|e| format!("no thread: {e}"))?;
    match started.recv_timeout(START_LIMIT) {
        Ok(epoll) if epoll >= 0 => Ok(shared),
        Ok(result) => Err(format!("plugin_epoll_create answers {result}")),
        Err(_) => Err("plugin_epoll_create does not come back".to_owned()),
    }
}

fn drive(loaded: &Loaded, symbols: &Symbols, shared: &Shared, ready: &Sender<i32>) {
    // Signals are the loop's.
    let _ = Signals::all_but_faults().block_exactly();
    loaded.watch().drives();
    let epoll = {
        let _inside = loaded.watch().enter(Caller::Driver, Call::plugin_epoll_create);
        // SAFETY: no arguments. This thread makes the handle, once, and waits on it, as the interface says.
        unsafe { (symbols.plugin_epoll_create)() }
    };
    shared.epoll.store(epoll, Ordering::Relaxed);
    if ready.send(epoll).is_err() || epoll < 0 {
        return;
    }
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; BATCH];
    let (mut failed, mut early) = (0, 0);
    loop {
        let began = Instant::now();
        let count = {
            let _inside = loaded.watch().enter(Caller::Driver, Call::plugin_epoll_wait);
            // SAFETY: room for `BATCH` events.
            unsafe { (symbols.plugin_epoll_wait)(epoll, events.as_mut_ptr(), BATCH as i32, WAIT) }
        };
        match usize::try_from(count).ok().map(|count| events.get(..count)) {
            Some(Some([])) => {
                failed = 0;
                early = if began.elapsed() < PAUSE { early + 1 } else { 0 };
                if early > EARLY {
                    thread::sleep(PAUSE);
                }
            }
            None => {
                failed += 1;
                if failed > PATIENCE {
                    return shared.give_up(format!(
                        "its call 'plugin_epoll_wait' has failed {failed} times in a row, the last time with {count}"
                    ));
                }
                thread::sleep(PAUSE);
            }
            Some(Some(events)) => {
                (failed, early) = (0, 0);
                shared.push(events.iter().map(|event| (event.u64, event.events)));
            }
            Some(None) => {
                return shared.give_up(format!(
                    "its call 'plugin_epoll_wait' says that it wrote {count} events to an array of {BATCH}"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netgraft_linux::fdpass::wait_readable;

    #[test]
    fn a_batch_wakes_once_and_is_taken_whole() {
        let shared = Shared::new().unwrap();
        let readable = || wait_readable([Some(shared.wake_fd())], Some(Duration::ZERO)).unwrap() == [true];
        let mut events = Vec::new();
        shared.take(&mut events);
        assert!(!readable() && events.is_empty());
        shared.push([(1, 2)].into_iter());
        shared.push([(3, 4)].into_iter());
        assert!(readable());
        shared.take(&mut events);
        assert_eq!(events, [(1, 2), (3, 4)]);
        assert!(!readable());
    }
}

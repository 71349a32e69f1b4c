//! A thread that is started before its process is confined, and gets its work afterwards.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::result::check;
use crate::unix;

/// What a worker does.
type Job = Box<dyn FnOnce() + Send>;

/// The stack of a worker.
const STACK: usize = 512 * 1024;

/// A thread that waits for its one job.
#[derive(Debug)]
pub struct Worker {
    jobs: SyncSender<Job>,
    /// What came of its start.
    starts: Receiver<io::Result<()>>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// EAGAIN if the system allows no more threads.
    pub fn start(name: &str) -> io::Result<Worker> {
        let (jobs, job) = sync_channel::<Job>(1);
        let (started, starts) = sync_channel::<io::Result<()>>(1);
        std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
            let _ = started.send(unix::prepare_alarm());
            if let Ok(job) = job.recv() {
                job();
            }
        })?;
        Ok(Worker { jobs, starts })
    }

    /// Waits until the thread has started: from then on it needs futex(2) and what its job needs. To be called once.
    ///
    /// # Errors
    /// What it could not do.
    pub fn wait_started(&self) -> io::Result<()> {
        self.starts.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?
    }

    /// Gives the thread its job.
    pub fn run(self, job: impl FnOnce() + Send + 'static) {
        // It waits for this and for nothing else.
        let _ = self.jobs.send(Box::new(job));
    }
}

/// Wakes a thread that waits in epoll(7) or poll(2) (eventfd(2)).
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    /// One that has not been used.
    ///
    /// # Errors
    /// EMFILE
    pub fn new() -> io::Result<Wake> {
        // SAFETY: the call takes two integers and returns a new descriptor or -1.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the kernel returned a new descriptor, which nobody else owns.
        Ok(Wake(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes it readable.
    pub fn wake(&self) {
        let one = 1u64;
        // A counter that is full is readable, too.
        // SAFETY: `one` is readable for its eight bytes.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Makes it unreadable, after a wake-up.
    pub fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: `count` is writable for its eight bytes.
        let _ = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_is_there_until_it_is_cleared() {
        let wake = Wake::new().unwrap();
        let readable = || unix::readable(wake.as_fd()).unwrap();
        assert!(!readable());
        wake.wake();
        wake.wake();
        assert!(readable());
        wake.clear();
        assert!(!readable());
    }

    #[test]
    fn the_job_is_done_by_the_thread() {
        let (done, says) = sync_channel(1);
        let own = std::thread::current().id();
        let worker = Worker::start("test-worker").unwrap();
        worker.wait_started().unwrap();
        worker.run(move || done.send(std::thread::current().id()).unwrap());
        assert_ne!(says.recv().unwrap(), own);
    }

    #[test]
    fn a_worker_without_a_job_ends() {
        drop(Worker::start("test-worker").unwrap());
    }
}

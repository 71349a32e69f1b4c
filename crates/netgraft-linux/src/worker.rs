//! A thread that is started before its process is confined, and gets its work afterwards.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};

use crate::unix;

/// What a worker does.
type Job = Box<dyn FnOnce() + Send>;

/// The stack of a worker.
const STACK: usize = 512 * 1024;

/// A thread that waits for its one job.
#[derive(Debug)]
pub struct Worker {
    jobs: SyncSender<Job>,
}

impl Worker {
    /// Starts the thread. What the start of a thread takes is done when this returns: from then on it needs futex(2) and
    /// what its job needs.
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
        starts.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        Ok(Worker { jobs })
    }

    /// Gives the thread its job.
    pub fn run(self, job: impl FnOnce() + Send + 'static) {
        // It waits for this and for nothing else.
        let _ = self.jobs.send(Box::new(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_is_done_by_the_thread() {
        let (done, says) = sync_channel(1);
        let own = std::thread::current().id();
        Worker::start("test-worker").unwrap().run(move || done.send(std::thread::current().id()).unwrap());
        assert_ne!(says.recv().unwrap(), own);
    }

    #[test]
    fn a_worker_without_a_job_ends() {
        drop(Worker::start("test-worker").unwrap());
    }
}

//! Closes files that may make their closer wait.
//!
//! A program's descriptor is duplicated before it is known what it stands for. Closing the duplicate of a file on a
//! file system that the program itself serves (fuse(4)) waits for the program. So a file that is no socket is closed by
//! a thread that does nothing else.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

/// Files that may wait for their close.
const ROOM: usize = 64;
/// So many, and the thread counts as stuck.
const STUCK: usize = 4;

/// The way to the thread that closes files.
#[derive(Debug)]
pub struct Disposal {
    files: SyncSender<OwnedFd>,
    waiting: Arc<AtomicUsize>,
}

impl Disposal {
    /// Starts the thread. It needs no system call but futex(2), read(2) and close(2) later.
    ///
    /// # Errors
    /// EAGAIN if the system allows no more threads.
    pub fn start() -> io::Result<Disposal> {
        let (files, to_close) = sync_channel::<OwnedFd>(ROOM);
        let waiting = Arc::new(AtomicUsize::new(0));
        let done = Arc::clone(&waiting);
        let (started, starts) = sync_channel::<()>(1);
        std::thread::Builder::new().name("netgraft-close".to_owned()).stack_size(64 * 1024).spawn(
            move || {
                let _ = started.send(());
                while let Ok(file) = to_close.recv() {
                    drop(file);
                    done.fetch_sub(1, Ordering::Relaxed);
                }
            },
        )?;
        // What a thread's start takes is done when it has said so.
        let _ = starts.recv();
        Ok(Disposal { files, waiting })
    }

    /// Has a file closed. If the thread is stuck with as many as there is room for, it stays open.
    pub fn close(&self, file: OwnedFd) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.files.try_send(file) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let (std::sync::mpsc::TrySendError::Full(file)
            | std::sync::mpsc::TrySendError::Disconnected(file)) = error;
            std::mem::forget(file);
        }
    }

    /// Whether files wait for one whose close does not return. No more files than necessary should be duplicated then.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= STUCK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_file_is_closed_by_the_thread() {
        let disposal = Disposal::start().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        disposal.close(OwnedFd::from(writer));
        // The end comes when the last writer is closed.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}

//! Closes files that may make their closer wait.
//!
//! A program's descriptor is duplicated before it is known what it stands for. Closing the duplicate of a file on a
//! file system that the program itself serves (fuse(4)) waits for the program. So a file that is no socket is closed by
//! a thread that does nothing else.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::unix;

/// Files that may wait for their close.
const ROOM: usize = 64;
/// So many, and the thread counts as stuck.
const STUCK: usize = 4;
/// How often, and how long apart, a file is offered to a thread that has no room.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// The way to the threads that close files.
#[derive(Debug)]
pub struct Disposal {
    files: Lane,
    /// Devices have a thread of their own: one that waits for a file system's answer (fuse(4)) would keep its
    /// `/dev/fuse` open behind it, and so wait for ever, and nobody could end it.
    devices: Lane,
    /// Where the threads say that they have started.
    starts: [Receiver<()>; 2],
}

/// A thread, and the files that wait for it.
#[derive(Debug)]
struct Lane {
    files: SyncSender<OwnedFd>,
    waiting: Arc<AtomicUsize>,
}

impl Lane {
    /// Starts a thread; it says when it needs no more for that.
    fn start(name: &str) -> io::Result<(Lane, Receiver<()>)> {
        let (files, to_close) = sync_channel::<OwnedFd>(ROOM);
        let waiting = Arc::new(AtomicUsize::new(0));
        let done = Arc::clone(&waiting);
        let (started, starts) = sync_channel::<()>(1);
        std::thread::Builder::new().name(name.to_owned()).stack_size(64 * 1024).spawn(move || {
            let _ = started.send(());
            while let Ok(file) = to_close.recv() {
                drop(file);
                done.fetch_sub(1, Ordering::Relaxed);
            }
        })?;
        Ok((Lane { files, waiting }, starts))
    }

    fn close(&self, mut file: OwnedFd) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        for _ in 0..TRIES {
            match self.files.try_send(file) {
                Ok(()) => return,
                // A thread that is only behind is given time.
                Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => file = back,
            }
            std::thread::sleep(PAUSE);
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        std::mem::forget(file);
    }
}

impl Disposal {
    /// Starts the threads.
    ///
    /// # Errors
    /// EAGAIN if the system allows no more threads.
    pub fn start() -> io::Result<Disposal> {
        let (files, files_start) = Lane::start("netgraft-close")?;
        let (devices, devices_start) = Lane::start("netgraft-close-d")?;
        Ok(Disposal { files, devices, starts: [files_start, devices_start] })
    }

    /// Waits until the threads have started: from then on they need no system call but futex(2), read(2) and close(2). To
    /// be called once.
    pub fn wait_started(&self) {
        for starts in &self.starts {
            // One that has not gone so far closes nothing, either.
            let _ = starts.recv();
        }
    }

    /// Has a file closed. If a thread is stuck with as many as there is room for, it stays open.
    ///
    /// A datagram socket of an internet family is closed before this returns: it has nothing to wait for, and while it is
    /// open its port is taken.
    pub fn close(&self, file: OwnedFd) {
        if unix::is_inet_datagram(file.as_fd()) {
            drop(file);
        } else if is_device(file.as_fd()) {
            self.devices.close(file)
        } else {
            self.files.close(file)
        }
    }

    /// Whether files wait for one whose close does not return. No more files than necessary should be duplicated then.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        [&self.files, &self.devices].iter().any(|lane| lane.waiting.load(Ordering::Relaxed) >= STUCK)
    }
}

/// Whether a file is a character device, without a question to the server of its file system (statx(2),
/// `AT_STATX_DONT_SYNC`).
fn is_device(file: BorrowedFd<'_>) -> bool {
    // SAFETY: the structure is plain data, for which zero is valid.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the path is an empty string, and `status` is writable.
    let done =
        unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_TYPE, &raw mut status) };
    done == 0 && u32::from(status.stx_mode) & libc::S_IFMT == libc::S_IFCHR
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

    #[test]
    fn more_files_than_there_is_room_for_are_closed() {
        let disposal = Disposal::start().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        for _ in 0..10 * ROOM {
            disposal.close(writer.as_fd().try_clone_to_owned().unwrap());
        }
        drop(writer);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn the_port_of_a_datagram_socket_is_free_at_once() {
        let disposal = Disposal::start().unwrap();
        for _ in 0..50 {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            disposal.close(socket.into());
            std::net::UdpSocket::bind(address).unwrap();
        }
    }

    #[test]
    fn devices_are_told_from_files() {
        let device = std::fs::File::open("/dev/null").unwrap();
        let (pipe, _writer) = std::io::pipe().unwrap();
        assert!(is_device(device.as_fd()));
        assert!(!is_device(pipe.as_fd()));
    }
}

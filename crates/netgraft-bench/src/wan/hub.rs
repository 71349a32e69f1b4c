//! Interfaces that share a line: what comes in on any of them enters the same queue, and comes out on the one that stands
//! for it at the other end.

use std::os::fd::{AsFd, BorrowedFd};

use netgraft_linux::epoll::{Epoll, bits};
use netgraft_plugin::link::{FrameMeta, Link, Medium};
use netgraft_plugin::{Instant, Result};

use crate::error::{Doing, Error, Result as Done};

/// Some interfaces as one link. A frame has its interface's number behind its last byte, so that the other end's hub knows
/// where it goes; the rate of the line counts this byte.
pub(super) struct Hub {
    links: Vec<Box<dyn Link>>,
    /// Readable if any of them is.
    ready: Epoll,
    frame: Vec<u8>,
    /// The interface that has its turn first.
    turn: usize,
}

impl Hub {
    /// A hub of Ethernet interfaces.
    ///
    /// # Errors
    /// epoll_ctl(2)
    pub(super) fn new(links: Vec<Box<dyn Link>>) -> Done<Hub> {
        let ready = Epoll::new().doing(|| "making an epoll instance")?;
        for link in &links {
            let fd = link.fd().ok_or_else(|| Error::Failed("a link has no descriptor".to_owned()))?;
            ready.add(fd, bits::IN, 0).doing(|| "watching a link")?;
        }
        Ok(Hub { links, ready, frame: Vec::new(), turn: 0 })
    }
}

impl Link for Hub {
    fn medium(&self) -> Medium {
        self.links.first().map_or(Medium::Ip, |link| link.medium())
    }

    fn mtu(&self) -> usize {
        self.links.iter().map(|link| link.mtu()).min().unwrap_or(0) + 1
    }

    fn refuse_offload(&mut self) {
        self.links.iter_mut().for_each(|link| link.refuse_offload());
    }

    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let count = self.links.len();
        let share = (limit / count.max(1)).max(1);
        let mut all = 0;
        for turn in 0..count {
            let number = (self.turn + turn) % count;
            let Hub { links, frame: copy, .. } = self;
            let Some(link) = links.get_mut(number) else { continue };
            let got = link.receive(now, share, &mut |frame| {
                copy.clear();
                copy.extend_from_slice(frame);
                copy.push(number as u8);
                deliver(copy);
            });
            match got {
                Ok(got) => all += got,
                Err(netgraft_plugin::Error::Again) => {}
                Err(error) => return Err(error),
            }
        }
        self.turn = self.turn.wrapping_add(1);
        Ok(all)
    }

    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        let Some((number, frame)) = frame.split_last() else { return Ok(()) };
        match self.links.get_mut(usize::from(*number)) {
            Some(link) => link.send(now, frame, meta),
            None => Ok(()),
        }
    }

    fn flush(&mut self, now: Instant) -> Result<()> {
        let results: Vec<Result<()>> = self.links.iter_mut().map(|link| link.flush(now)).collect();
        results.into_iter().collect()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::os::unix::net::UnixDatagram;
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Queue {
        fd: UnixDatagram,
        frames: Arc<Mutex<VecDeque<Vec<u8>>>>,
        sent: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Link for Queue {
        fn medium(&self) -> Medium {
            Medium::Ethernet([2, 0, 0, 0, 0, 1])
        }
        fn mtu(&self) -> usize {
            1500
        }
        fn receive(&mut self, _: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
            let mut frames = self.frames.lock().unwrap();
            let count = frames.len().min(limit);
            frames.drain(..count).for_each(|frame| deliver(&frame));
            Ok(count)
        }
        fn send(&mut self, _: Instant, frame: &[u8], _: FrameMeta) -> Result<()> {
            self.sent.lock().unwrap().push(frame.to_vec());
            Ok(())
        }
        fn flush(&mut self, _: Instant) -> Result<()> {
            Ok(())
        }
        fn fd(&self) -> Option<BorrowedFd<'_>> {
            Some(self.fd.as_fd())
        }
    }

    #[test]
    fn frames_come_out_where_they_belong() {
        let queues: [Arc<Mutex<VecDeque<Vec<u8>>>>; 2] = Default::default();
        let sent: [Arc<Mutex<Vec<Vec<u8>>>>; 2] = Default::default();
        let links = (0..2).map(|number| {
            let fd = UnixDatagram::unbound().unwrap();
            let queue = Queue { fd, frames: queues[number].clone(), sent: sent[number].clone() };
            Box::new(queue) as Box<dyn Link>
        });
        let mut hub = Hub::new(links.collect()).unwrap();
        queues[0].lock().unwrap().extend([b"a".to_vec(), b"b".to_vec()]);
        queues[1].lock().unwrap().push_back(b"c".to_vec());
        let mut came: Vec<Vec<u8>> = Vec::new();
        assert_eq!(hub.receive(Instant::ZERO, 64, &mut |frame| came.push(frame.to_vec())), Ok(3));
        came.sort();
        assert_eq!(came, [b"a\0".to_vec(), b"b\0".to_vec(), b"c\x01".to_vec()]);
        for frame in &came {
            hub.send(Instant::ZERO, frame, FrameMeta::default()).unwrap();
        }
        // One of a hub with more interfaces, and nothing at all.
        hub.send(Instant::ZERO, b"x\x07", FrameMeta::default()).unwrap();
        hub.send(Instant::ZERO, b"", FrameMeta::default()).unwrap();
        assert_eq!(*sent[0].lock().unwrap(), [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(*sent[1].lock().unwrap(), [b"c".to_vec()]);
    }
}

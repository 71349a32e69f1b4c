//! Frames between a link and a stack that expects the descriptor of a device: a stack in C, whose frames are to be captured,
//! delayed or lost.
//!
//! The stack has one end of a pair of sockets ([`channel::pair`]), a bridge the other. On the pair each frame has a header in
//! front of it (`struct virtio_net_hdr`), as on a TAP device, and what the stack asks for in it is done here if the link does
//! not do it. Whoever polls the stack calls [`Bridge::receive`] before and [`Bridge::send`] after that.
//!
//! Neither call waits or grows without bound. A side that takes no frames loses what comes, as a device with a full ring
//! does.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use netgraft_linux::link::vnet::{self, Task};
use netgraft_linux::link::{Channel, channel};
use netgraft_plugin::link::{FrameMeta, Link, Offload};
use netgraft_plugin::owners::Owners;
use netgraft_plugin::recording::Recording;
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{Error, Instant, Result};

use crate::cut::Cutter;
use crate::device::Rebuilt;
use crate::faulty::Dial;
use crate::pcap::Recorder;

/// Frames of one direction and one call.
const FRAMES: usize = 64;
/// Bytes of one direction that wait for room.
const HELD: usize = 2 << 20;
/// Buffers that are kept for the next frames that wait.
const SPARE: usize = 64;
/// Pieces that one frame of the stack's is cut into.
const PIECES: usize = 1024;
/// When a side that had no room is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// Makes the pair of a bridge: its own end, and the stack's.
///
/// # Errors
/// EMFILE and the like, socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    channel::pair()
}

/// Carries frames between a link and a stack that has the other end of a pair.
pub struct Bridge {
    link: Box<dyn Link>,
    offload: Offload,
    /// The stack's end is behind it; `None` once that is closed.
    channel: Option<Channel>,
    recorder: Option<Recorder>,
    dial: Option<Dial>,
    cutter: Cutter,
    /// Frames that the link had no room for.
    waiting: VecDeque<(Vec<u8>, FrameMeta)>,
    waiting_bytes: usize,
    spare: Vec<Vec<u8>>,
    /// When there is more to do than the last calls did.
    due: Option<Instant>,
    is_link_down: bool,
    lost: u64,
}

impl Bridge {
    /// A bridge between a link and its own end of a pair.
    ///
    /// # Errors
    /// If there is no link.
    pub fn new(rebuilt: Rebuilt, own: OwnedFd) -> std::result::Result<Bridge, SetupError> {
        let link = rebuilt.link.ok_or_else(|| SetupError::new("the launcher has opened no link"))?;
        Ok(Bridge {
            offload: link.offload(),
            link,
            channel: Some(Channel::from_fd(own)),
            recorder: rebuilt.recorder,
            dial: rebuilt.dial,
            cutter: Cutter::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            spare: Vec::new(),
            due: None,
            is_link_down: false,
            lost: 0,
        })
    }

    /// Gives the stack what has come over the link.
    ///
    /// # Errors
    /// [`Error::NetworkDown`], once, if the link is gone for good; [`Error::Io`].
    pub fn receive(&mut self, now: Instant) -> Result<()> {
        self.due = None;
        if self.is_link_down {
            return Ok(());
        }
        let Bridge { link, offload, channel, cutter, lost, .. } = self;
        let mtu = link.mtu();
        let mut deliver = |frame: &[u8]| match channel {
            Some(channel) if channel.queued() < HELD => queue(channel, cutter, *offload, mtu, frame),
            Some(_) => *lost += 1,
            None => {}
        };
        let got = link.receive(now, FRAMES, &mut deliver);
        self.deliver_queued();
        match got {
            Ok(count) => {
                if count >= FRAMES {
                    self.due = Some(now);
                }
                Ok(())
            }
            Err(Error::Again) => Ok(()),
            Err(error) => self.fail(error),
        }
    }

    /// Sends what the stack has sent.
    ///
    /// # Errors
    /// As [`Bridge::receive`].
    pub fn send(&mut self, now: Instant) -> Result<()> {
        let queued = self.channel.as_ref().is_some_and(|channel| channel.queued() > 0);
        if queued {
            // The stack has made room meanwhile, or not: then it is busy.
            self.due = Some(if self.deliver_queued() { now } else { now + RETRY });
        }
        let result = self.send_frames(now).and_then(|()| self.flush(now));
        if let Some(recorder) = &self.recorder {
            recorder.flush(now);
        }
        result.or_else(|error| self.fail(error))
    }

    /// The link has failed; it may work again unless it is down.
    fn fail(&mut self, error: Error) -> Result<()> {
        self.is_link_down = error == Error::NetworkDown;
        Err(error)
    }

    /// Tells the stack what is queued for it; whether all of it went.
    fn deliver_queued(&mut self) -> bool {
        let Some(channel) = &mut self.channel else { return true };
        match channel.flush() {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) => {
                self.channel = None;
                true
            }
        }
    }

    fn send_frames(&mut self, now: Instant) -> Result<()> {
        let Some(mut channel) = self.channel.take() else { return Ok(()) };
        let mut result = Ok(());
        let mut count = 0;
        while count < FRAMES {
            let got = channel.receive(FRAMES - count, &mut |header, frame| {
                if result.is_ok() && !self.is_link_down {
                    result = self.send_frame(now, header, frame);
                }
            });
            match got {
                Ok((got, more)) => {
                    count += got;
                    if !more {
                        break;
                    }
                }
                // The stack has closed its link: it hears and says nothing more on it.
                Err(_) => return result,
            }
        }
        if count >= FRAMES {
            self.due = Some(now);
        }
        self.channel = Some(channel);
        result
    }

    /// Sends a frame of the stack's, and does what its header asks for if the link does not.
    fn send_frame(&mut self, now: Instant, header: &[u8], frame: &[u8]) -> Result<()> {
        let whole = FrameMeta::default();
        let layout = vnet::layout(frame);
        let is_tcp = layout.is_some_and(|layout| layout.protocol == 6);
        match vnet::task(header) {
            Some(Task::Nothing) => self.pass(now, frame, whole),
            Some(Task::Checksum { .. }) if self.offload.checksum && is_tcp => self.pass(now, frame, whole),
            Some(Task::Checksum { start, offset }) => {
                let mut copy = self.buffer(frame);
                let result = if vnet::write_checksum(&mut copy, start, offset) {
                    self.pass(now, &copy, whole)
                } else {
                    self.lost += 1;
                    Ok(())
                };
                self.recycle(copy);
                result
            }
            Some(Task::Segments(size)) => {
                let most = match layout {
                    Some(layout) if is_tcp && layout.v4 => self.offload.segment_v4,
                    Some(_) if is_tcp => self.offload.segment_v6,
                    _ => 0,
                };
                if frame.len() <= most {
                    return self.pass(now, frame, FrameMeta { segment_size: size });
                }
                if frame.len() / usize::from(size) > PIECES {
                    self.lost += 1;
                    return Ok(());
                }
                let mut cutter = std::mem::take(&mut self.cutter);
                let mut result = Ok(());
                cutter.cut(frame, size, &mut |piece| {
                    if result.is_ok() {
                        result = self.pass(now, piece, whole);
                    }
                });
                self.cutter = cutter;
                result
            }
            None => {
                self.lost += 1;
                Ok(())
            }
        }
    }

    /// Gives the link a frame, or keeps it until there is room.
    fn pass(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        if self.waiting.is_empty() {
            let mut result = self.link.send(now, frame, meta);
            if result == Err(Error::Again) {
                // What is queued there takes the room.
                result = self.link.flush(now).and_then(|()| self.link.send(now, frame, meta));
            }
            if result != Err(Error::Again) {
                return result;
            }
        }
        if self.waiting_bytes + frame.len() > HELD {
            self.lost += 1;
            return Ok(());
        }
        let copy = self.buffer(frame);
        self.waiting_bytes += copy.len();
        self.waiting.push_back((copy, meta));
        Ok(())
    }

    /// Gives the link what waits for it, and lets all of it leave.
    fn flush(&mut self, now: Instant) -> Result<()> {
        if self.is_link_down {
            return Ok(());
        }
        let mut full = false;
        if !self.waiting.is_empty() {
            full = self.link.flush(now) == Err(Error::Again);
        }
        while let Some((frame, meta)) = self.waiting.front() {
            match self.link.send(now, frame, *meta) {
                Err(Error::Again) => {
                    full = true;
                    break;
                }
                result => {
                    if let Some((frame, _)) = self.waiting.pop_front() {
                        self.waiting_bytes -= frame.len();
                        self.recycle(frame);
                    }
                    result?;
                }
            }
        }
        match self.link.flush(now) {
            Err(Error::Again) => full = true,
            result => result?,
        }
        if full {
            let retry = now + RETRY;
            self.due = Some(self.due.map_or(retry, |due| due.min(retry)));
        }
        Ok(())
    }

    fn buffer(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        copy
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < SPARE {
            self.spare.push(buffer);
        }
    }

    /// Where the owners of sockets are to be told, if frames are captured.
    #[must_use]
    pub fn owners(&self) -> Option<Arc<Owners>> {
        self.recorder.as_ref().map(Recorder::owners)
    }

    /// The capture, if there is one, for the sentry that stops.
    #[must_use]
    pub fn recording(&self) -> Option<Box<dyn Recording>> {
        let recorder = self.recorder.clone()?;
        Some(Box::new(recorder))
    }

    /// Changes the faults of the link, if it has such.
    #[must_use]
    pub fn dial(&self) -> Option<&Dial> {
        self.dial.as_ref()
    }

    /// When [`Bridge::receive`] and [`Bridge::send`] are to be called at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let recorder = self.recorder.as_ref().and_then(Recorder::next_deadline);
        let link = if self.is_link_down { None } else { self.link.next_deadline() };
        [self.due, link, recorder].into_iter().flatten().min()
    }

    /// The descriptors that become readable when a frame has come, from either side. They are the same for as long as the
    /// bridge lives.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.link.fd().into_iter().chain(self.channel.as_ref().map(AsFd::as_fd))
    }

    /// Frames of either side that were lost since the other had no room, or since their header was wrong.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

/// Queues a frame of the link for the stack. What the link leaves undone is said in the header, for TCP, or done.
fn queue(channel: &mut Channel, cutter: &mut Cutter, offload: Offload, mtu: usize, frame: &[u8]) {
    if !offload.checksum {
        return channel.queue(frame, None);
    }
    match vnet::layout(frame).filter(|layout| layout.protocol == 6 && !layout.fragment) {
        Some(layout) => {
            // The pieces that it was merged of were no larger than the link's packets.
            let headers = frame
                .get(layout.transport + 12)
                .map_or(0, |byte| layout.transport + usize::from(byte >> 4) * 4);
            let most = mtu.saturating_sub(headers.saturating_sub(14));
            let merged = frame.len() > mtu + 14;
            let size = if merged { u16::try_from(most).unwrap_or(u16::MAX) } else { 0 };
            channel.queue(frame, Some(size));
        }
        None => cutter.cut(frame, 0, &mut |whole| channel.queue(whole, None)),
    }
}

#[cfg(test)]
mod tests;

//! Links carry the frames of a packet stack.
//!
//! The crate `netgraft-link` has the links that netgraft opens for an operator, a simulated wire for tests, and
//! wrappers around any link: faults, captures, counters. A stack takes a `Box<dyn Link>` and knows of none of them.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use crate::error::Result;
use crate::time::Instant;

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Medium {
    /// An Ethernet header; the link's own address.
    Ethernet([u8; 6]),
    /// An IP header.
    Ip,
}

impl Medium {
    /// Bytes of a frame in front of its IP header (IEEE 802.3 without a tag).
    #[must_use]
    pub const fn header(self) -> usize {
        match self {
            Medium::Ethernet(_) => 14,
            Medium::Ip => 0,
        }
    }
}

/// What the other side of a link does for the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// Frames may be sent with the transport checksum left out, and received ones were checked or need no
    /// check.
    pub checksum: bool,
    /// TCP over IPv4 segments of up to this many bytes may be sent whole; 0 for none.
    pub segment_v4: usize,
    /// The same over IPv6.
    pub segment_v6: usize,
}

/// What a stack says about a frame that it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FrameMeta {
    /// Cut the TCP segment into pieces of this many payload bytes; 0 for no cutting.
    pub segment_size: u16,
}

/// A way for frames in and out. No call blocks.
pub trait Link: Send {
    /// What frames begin with.
    fn medium(&self) -> Medium;

    /// Largest IP packet in bytes that is not cut by the link.
    fn mtu(&self) -> usize;

    /// What the link does for the stack.
    fn offload(&self) -> Offload {
        Offload::default()
    }

    /// Ends what the other side does for the stack: from then on [`Link::offload`] is that of
    /// [`Offload::default`], each received frame is a whole one of the wire's with the checksum that is in it, and sent
    /// ones leave as they are. Wrappers that treat single frames of the wire ask for it. The default is for links
    /// without offloads.
    fn refuse_offload(&mut self) {}

    /// The opposite of [`Link::refuse_offload`]: the link is again as it was at first.
    fn resume_offload(&mut self) {}

    /// An address that turned out to be another station's, since this was asked last: the stack is to give it up. Frames of it
    /// pass no more.
    fn withdrawn(&mut self) -> Option<IpAddr> {
        None
    }

    /// Bytes of frames that may be on their way to the stack before the other side drops some; `None` if that is not known.
    /// Stacks keep the windows that they offer below it.
    fn room(&self) -> Option<usize> {
        None
    }

    /// Receives at most `limit` frames and hands each to `deliver`; answers how many, where one that several are cut from
    /// counts once. Fewer than `limit` means
    /// that no more waits, and that the descriptor of [`Link::fd`] becomes readable with the next.
    ///
    /// # Errors
    /// [`crate::Error::NetworkDown`] if the device is gone, [`crate::Error::Io`].
    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize>;

    /// Queues one frame; it may leave only with [`Link::flush`].
    ///
    /// # Errors
    /// [`crate::Error::Again`] if the queue is full, [`crate::Error::NetworkDown`], [`crate::Error::Io`].
    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()>;

    /// Sends what is queued.
    ///
    /// # Errors
    /// As [`Link::send`].
    fn flush(&mut self, now: Instant) -> Result<()>;

    /// The host descriptor that becomes readable when a frame has come.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// When [`Link::receive`] is to be called although the descriptor of [`Link::fd`] may not be readable: a delayed
    /// frame is due, in either direction.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

impl<L: Link + ?Sized> Link for Box<L> {
    fn medium(&self) -> Medium {
        (**self).medium()
    }

    fn mtu(&self) -> usize {
        (**self).mtu()
    }

    fn offload(&self) -> Offload {
        (**self).offload()
    }

    fn refuse_offload(&mut self) {
        (**self).refuse_offload();
    }

    fn resume_offload(&mut self) {
        (**self).resume_offload();
    }

    fn withdrawn(&mut self) -> Option<IpAddr> {
        (**self).withdrawn()
    }

    fn room(&self) -> Option<usize> {
        (**self).room()
    }

    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        (**self).receive(now, limit, deliver)
    }

    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        (**self).send(now, frame, meta)
    }

    fn flush(&mut self, now: Instant) -> Result<()> {
        (**self).flush(now)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        (**self).fd()
    }

    fn next_deadline(&self) -> Option<Instant> {
        (**self).next_deadline()
    }
}

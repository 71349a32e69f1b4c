//! The device that smoltcp sees: at most one frame comes in, and what it sends is queued.

use std::collections::VecDeque;

use netgraft_plugin::link::FrameMeta;
use smoltcp::phy::{Device, DeviceCapabilities, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

/// Room for the largest frame: an IP packet of 65535 bytes and an Ethernet header.
pub(crate) const LARGE: usize = 65_535 + 14;
/// Room for a frame of common size.
const SMALL: usize = 2048;
/// How many unused buffers are kept, of each size.
const KEPT: (usize, usize) = (64, 1024);

/// A frame in a buffer of the pool.
pub(crate) struct Frame {
    buf: Box<[u8]>,
    len: usize,
    pub(crate) meta: FrameMeta,
}

impl Frame {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

/// Frames that wait to leave, and buffers for the next ones.
pub(crate) struct TxQueue {
    frames: VecDeque<Frame>,
    large: Vec<Box<[u8]>>,
    small: Vec<Box<[u8]>>,
    /// IP packets and their bytes queued since the start.
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// The number of the last TCP packet among them.
    last_tcp: u64,
    /// TCP resets among them.
    pub(crate) resets: u64,
    /// What is changed in each frame as it is queued.
    pub(crate) edit: Edit,
    /// Bytes of link header before the IP header.
    header: usize,
    /// Frames beyond this many are refused.
    limit: usize,
}

/// What smoltcp cannot set itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Edit {
    /// The TOS byte or traffic class.
    pub(crate) traffic_class: u8,
    /// Upper bound of the MSS option in a SYN; 0 for none.
    pub(crate) mss: u16,
    /// Whether checksums that the edit invalidates are computed again.
    pub(crate) checksums: bool,
}

impl TxQueue {
    pub(crate) fn new(header: usize, limit: usize) -> Self {
        TxQueue {
            frames: VecDeque::new(),
            large: Vec::new(),
            small: Vec::new(),
            packets: 0,
            bytes: 0,
            last_tcp: 0,
            resets: 0,
            edit: Edit::default(),
            header,
            limit,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.frames.len() >= self.limit
    }

    pub(crate) fn clear(&mut self) {
        self.frames.clear();
    }

    /// Whether a TCP packet was queued after there had been `packets` in all.
    pub(crate) fn tcp_since(&self, packets: u64) -> bool {
        self.last_tcp > packets
    }

    /// Queues a frame that `fill` writes.
    pub(crate) fn push<R>(&mut self, len: usize, meta: FrameMeta, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let (stock, size) = if len <= SMALL { (&mut self.small, SMALL) } else { (&mut self.large, LARGE) };
        let mut buf = match stock.pop() {
            Some(buf) if buf.len() >= len => buf,
            _ => vec![0; size.max(len)].into_boxed_slice(),
        };
        let result = fill(&mut buf[..len]);
        crate::packet::edit(&mut buf[self.header..len], self.edit);
        self.packets += 1;
        self.bytes += (len - self.header.min(len)) as u64;
        if crate::packet::is_tcp(&buf[self.header.min(len)..len]) {
            self.last_tcp = self.packets;
        }
        self.resets += u64::from(crate::packet::is_reset(&buf[self.header.min(len)..len]));
        self.frames.push_back(Frame { buf, len, meta });
        result
    }

    pub(crate) fn pop(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }

    /// Puts a frame back that could not leave.
    pub(crate) fn unpop(&mut self, frame: Frame) {
        self.frames.push_front(frame);
    }

    /// Keeps a frame's buffer for later.
    pub(crate) fn recycle(&mut self, frame: Frame) {
        let (stock, kept) =
            if frame.buf.len() == SMALL { (&mut self.small, KEPT.1) } else { (&mut self.large, KEPT.0) };
        if stock.len() < kept {
            stock.push(frame.buf);
        }
    }
}

/// One call's view of a device.
pub(crate) struct Port<'a> {
    pub(crate) rx: Option<&'a [u8]>,
    pub(crate) tx: &'a mut TxQueue,
    pub(crate) caps: &'a DeviceCapabilities,
}

impl Device for Port<'_> {
    type RxToken<'t>
        = Rx<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Tx<'t>
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let frame = self.rx.take()?;
        Some((Rx(frame), Tx { queue: self.tx, meta: FrameMeta::default() }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Tx<'_>> {
        if self.tx.is_full() { None } else { Some(Tx { queue: self.tx, meta: FrameMeta::default() }) }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.caps.clone()
    }
}

pub(crate) struct Rx<'a>(&'a [u8]);

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(crate) struct Tx<'a> {
    queue: &'a mut TxQueue,
    meta: FrameMeta,
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.queue.push(len, self.meta, f)
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta.segment_size = meta.segmentation_offload_size.map_or(0, std::num::NonZeroU16::get);
    }
}

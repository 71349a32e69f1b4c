//! The device that smoltcp sees: at most one frame comes in, and what it sends is queued.

use std::collections::VecDeque;

use netgraft_plugin::link::FrameMeta;
use smoltcp::phy::{Device, DeviceCapabilities, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::packet;
use crate::split::pieces;

/// Room for the largest frame: 65535 bytes behind the headers of IPv6 and Ethernet.
const LARGE: usize = 65_535 + 40 + 14;
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
    /// TCP resets among them.
    pub(crate) resets: u64,
    /// What is changed in each frame as it is queued.
    pub(crate) edit: Edit,
    /// Bytes of link header before the IP header.
    header: usize,
    /// Largest IP packet; larger ones that the link does not cut as TCP segments are cut here.
    mtu: usize,
    /// The identification of the next packet that is cut.
    ident: u32,
    /// Frames beyond this many are refused.
    limit: usize,
}

/// What smoltcp cannot set itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Edit {
    /// The TOS byte or traffic class.
    pub(crate) traffic_class: u8,
    /// "Don't fragment", which smoltcp sets in every IPv4 packet, is taken out.
    pub(crate) may_fragment: bool,
    /// The packet is the payload of another one, which only told smoltcp the way.
    pub(crate) envelope: bool,
    /// Whether the checksum that the edit invalidates is computed again.
    pub(crate) header_checksum: bool,
}

impl TxQueue {
    pub(crate) fn new(header: usize, mtu: usize, ident: u32, limit: usize) -> Self {
        TxQueue {
            frames: VecDeque::new(),
            large: Vec::new(),
            small: Vec::new(),
            packets: 0,
            bytes: 0,
            resets: 0,
            edit: Edit::default(),
            header,
            mtu,
            ident,
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

    fn buffer(&mut self, len: usize) -> Box<[u8]> {
        let (stock, size) = if len <= SMALL { (&mut self.small, SMALL) } else { (&mut self.large, LARGE) };
        stock.pop().unwrap_or_else(|| vec![0; size].into_boxed_slice())
    }

    /// Queues a frame of at most 64 KiB of IP packet that `fill` writes.
    pub(crate) fn push<R>(&mut self, len: usize, meta: FrameMeta, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut buf = self.buffer(len);
        let result = fill(&mut buf[..len]);
        let len = if self.edit.envelope { crate::raw::unpack(&mut buf[..len], self.header) } else { len };
        let ip = &mut buf[self.header.min(len)..len];
        if self.edit.may_fragment {
            self.ident = self.ident.wrapping_add(1);
        }
        packet::edit(ip, &self.edit, self.ident);
        let frame = Frame { buf, len, meta };
        if len > self.header + self.mtu && frame.meta.segment_size == 0 {
            self.split(frame);
            return result;
        }
        self.enqueue(frame);
        result
    }

    fn enqueue(&mut self, frame: Frame) {
        self.packets += 1;
        self.bytes += (frame.len - self.header.min(frame.len)) as u64;
        self.frames.push_back(frame);
    }

    fn split(&mut self, frame: Frame) {
        let header = self.header;
        self.ident = self.ident.wrapping_add(1);
        for piece in pieces(&frame.bytes()[header..], self.mtu, self.ident) {
            let len = header + piece.len();
            let mut buf = self.buffer(len);
            buf[..header].copy_from_slice(&frame.buf[..header]);
            piece.write(&frame.bytes()[header..], &mut buf[header..len]);
            self.enqueue(Frame { buf, len, meta: FrameMeta::default() });
        }
        self.recycle(frame);
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

    fn set_meta(&mut self, _meta: PacketMeta) {}
}

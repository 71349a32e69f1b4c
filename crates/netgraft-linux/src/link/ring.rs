//! Frames in a ring of memory that the kernel fills (packet(7), `PACKET_RX_RING`; Documentation/networking/packet_mmap.rst): no
//! system call and no copy of the kernel's to the reader for each, and room for more of them than a socket's buffer has.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{check, vnet};

/// How many frames wait at most.
const SLOTS: usize = 2048;
/// What each has room for, its header included: a frame of Ethernet's usual length. Longer ones wait in the socket's buffer.
const SLOT: usize = 2048;
/// The kernel takes memory in such pieces.
const BLOCK: usize = 32 * 1024;
/// `struct tpacket2_hdr` (linux/if_packet.h): what is read of it.
const STATUS: usize = 0;
const SNAPPED: usize = 8;
const MAC: usize = 12;
/// `TP_STATUS_KERNEL`, `TP_STATUS_USER`, `TP_STATUS_COPY`
const OF_KERNEL: u32 = 0;
const OF_READER: u32 = 1;
const IS_COPIED: u32 = 2;
/// linux/if_packet.h
const PACKET_RX_RING: libc::c_int = 5;
const PACKET_COPY_THRESH: libc::c_int = 7;
const PACKET_VERSION: libc::c_int = 10;
const TPACKET_V2: libc::c_int = 1;

/// What the next slot has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slot<'a> {
    /// A header ([`vnet`]), and a frame.
    Frame(&'a [u8], &'a [u8]),
    /// One that is too long for it: the next message of the socket.
    Message,
}

/// The ring of a packet socket, mapped.
#[derive(Debug)]
pub(super) struct Ring {
    memory: NonNull<u8>,
    /// The slot that the kernel fills next, as far as is known: not after another reader.
    next: Option<usize>,
}

// SAFETY: the memory is this value's alone as far as this process goes, and is reached through `&mut self` only.
unsafe impl Send for Ring {}

/// Gives a packet socket a ring: to be done once, before it is mapped.
///
/// # Errors
/// EINVAL from a kernel without them, ENOMEM.
pub(super) fn set_up(fd: BorrowedFd<'_>) -> io::Result<()> {
    /// `struct tpacket_req`
    #[repr(C)]
    struct Request {
        block_size: u32,
        blocks: u32,
        frame_size: u32,
        frames: u32,
    }
    set(fd, PACKET_VERSION, &TPACKET_V2)?;
    set(fd, PACKET_COPY_THRESH, &(super::FRAME as libc::c_int))?;
    let request = Request {
        block_size: BLOCK as u32,
        blocks: (SLOTS * SLOT / BLOCK) as u32,
        frame_size: SLOT as u32,
        frames: SLOTS as u32,
    };
    set(fd, PACKET_RX_RING, &request)
}

fn set<T>(fd: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is readable for the length that is passed; the kernel copies it during the call.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, option, ptr::from_ref(value).cast(), len)
    };
    check(done).map(drop)
}

impl Ring {
    /// Maps the ring of a packet socket that has one.
    ///
    /// # Errors
    /// EINVAL if it has none.
    pub(super) fn map(fd: BorrowedFd<'_>) -> io::Result<Ring> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of this process.
        let at =
            unsafe { libc::mmap(ptr::null_mut(), SLOTS * SLOT, access, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(at.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Ring { memory, next: None })
    }

    /// The status of a slot.
    fn status(&self, slot: usize) -> &AtomicU32 {
        // SAFETY: a slot below `SLOTS` is inside of the mapping, and aligned as each of them is to its length; the kernel writes
        // the status as a whole, and this process writes it nowhere else.
        unsafe { AtomicU32::from_ptr(self.memory.add((slot % SLOTS) * SLOT + STATUS).as_ptr().cast()) }
    }

    /// Bytes of a slot that the kernel has left to the reader.
    fn bytes(&self, slot: usize) -> &[u8] {
        // SAFETY: the slot is inside of the mapping. The caller has seen that it is the reader's, by a load that acquires what the
        // kernel wrote before; the kernel does not write to it until it is given back, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.memory.add((slot % SLOTS) * SLOT).as_ptr(), SLOT) }
    }

    /// The slot that is the reader's next, if it is filled.
    fn find(&mut self) -> Option<usize> {
        let is_filled = |slot: usize| self.status(slot).load(Ordering::Acquire) & OF_READER != 0;
        let slot = match self.next {
            Some(next) => Some(next).filter(|&next| is_filled(next)),
            // The first of those that are filled, behind one that is not; if all are, any, and some come late.
            None => {
                let is_first = |&slot: &usize| is_filled(slot) && !is_filled(slot + SLOTS - 1);
                (0..SLOTS).find(is_first).or_else(|| is_filled(0).then_some(0))
            }
        };
        if slot.is_some() {
            self.next = slot;
        }
        slot
    }

    /// What has come next, if something has. [`Ring::release`] gives its place back to the kernel.
    pub(super) fn peek(&mut self) -> Option<Slot<'_>> {
        let slot = self.find()?;
        if self.status(slot).load(Ordering::Acquire) & IS_COPIED != 0 {
            return Some(Slot::Message);
        }
        let bytes = self.bytes(slot);
        let field = |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).copied();
        let len = field(SNAPPED).map_or(0, u32::from_ne_bytes) as usize;
        let [low, high, ..] = field(MAC).unwrap_or_default();
        let from = usize::from(u16::from_ne_bytes([low, high]));
        let header = from.checked_sub(vnet::LEN).and_then(|at| bytes.get(at..from)).unwrap_or_default();
        // One that the kernel has cut, for want of room in the socket's buffer, is no packet any more: its reader sees that.
        let frame = bytes.get(from..).and_then(|rest| rest.get(..len)).unwrap_or_default();
        Some(Slot::Frame(header, frame))
    }

    /// Gives the place of what [`Ring::peek`] has shown back.
    pub(super) fn release(&mut self) {
        if let Some(next) = self.next {
            self.status(next).store(OF_KERNEL, Ordering::Release);
            self.next = Some((next + 1) % SLOTS);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing refers to it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), SLOTS * SLOT) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use super::super::Packet;
    use super::*;
    use crate::namespace::{Namespaces, unshare};
    use crate::netdev::{Changes, index_of};
    use crate::nsfd::Namespace;

    /// Both ends of a veth pair, as packet sockets, the second with a ring.
    fn pair() -> Option<(Packet, Packet)> {
        unshare(Namespaces::USER | Namespaces::NET).ok()?;
        let home = Namespace::own("net").ok()?;
        unshare(Namespaces::NET).ok()?;
        let mut changes = Changes::new();
        changes.make_veth_at("v0", home.as_fd(), 9);
        changes.make().ok()?.into_iter().collect::<io::Result<()>>().ok()?;
        let open = || {
            let index = index_of("v0").ok()?;
            let mut changes = Changes::new();
            changes.configure(index, 9000, None);
            changes.up(index);
            changes.make().ok()?.into_iter().collect::<io::Result<()>>().ok()?;
            Packet::open("v0", None).ok().map(|(packet, _)| packet)
        };
        let inner = open()?;
        home.enter(Namespaces::NET).ok()?;
        let outer = open()?;
        set_up(outer.as_fd()).ok()?;
        Some((inner, outer))
    }

    /// A frame of a protocol that nobody speaks, so that it is told from what the kernel sends by itself.
    fn frame(number: u32, len: usize) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x88, 0xb5]);
        frame.extend(number.to_be_bytes());
        frame.resize(len, number as u8);
        frame
    }

    fn send(packet: &mut Packet, frames: impl Iterator<Item = (u32, usize)>) -> Option<()> {
        for (number, len) in frames {
            packet.send(&frame(number, len), None).ok()?;
        }
        packet.flush().ok()
    }

    /// The numbers of the frames that come, until there are so many or nothing comes any more.
    fn take(packet: &mut Packet, count: usize) -> Option<Vec<u32>> {
        let (mut all, mut is_whole) = (Vec::new(), true);
        let end = Instant::now() + Duration::from_secs(20);
        while all.len() < count && Instant::now() < end {
            let receive = packet.receive(7, &mut |bytes, _| {
                if bytes.get(12..14) == Some(&[0x88, 0xb5]) {
                    let number = bytes.get(14..18).map(|n| u32::from_be_bytes([n[0], n[1], n[2], n[3]]));
                    is_whole &= number.is_some_and(|number| bytes == frame(number, bytes.len()));
                    all.extend(number);
                }
            });
            receive.ok()?;
        }
        is_whole.then_some(all)
    }

    fn frames_come() -> Option<()> {
        let (mut inner, outer) = pair()?;
        let mut outer = Packet::from_ring(outer.into_fd());
        outer.ring.as_ref()?;
        // Around the ring, with some that do not fit into a slot.
        for round in 0..40_u32 {
            let numbers = round * 64..round * 64 + 64;
            send(&mut inner, numbers.clone().map(|n| (n, if n % 10 == 3 { 8000 } else { 60 })))?;
            (take(&mut outer, 64)? == numbers.collect::<Vec<_>>()).then_some(())?;
        }
        // Another reader begins where this one has stopped; what waits stays in order.
        send(&mut inner, (0..20).map(|n| (n, 1500)))?;
        (take(&mut outer, 7)? == (0..7).collect::<Vec<_>>()).then_some(())?;
        let again = outer.as_fd().try_clone_to_owned().ok()?;
        drop(outer);
        let mut outer = Packet::from_ring(again);
        (take(&mut outer, 13)? == (7..20).collect::<Vec<_>>()).then_some(())?;
        // Of a burst, as many as there are slots stay.
        for n in 0..3000 {
            send(&mut inner, std::iter::once((n, 60)))?;
        }
        let got = take(&mut outer, SLOTS - 8)?;
        got.iter().copied().eq(0..got.len() as u32).then_some(())
    }

    #[test]
    fn frames_come_in_order_whole_and_to_the_next_reader() {
        let child = crate::process::fork(|| {
            // Other tests look when their files are closed.
            let is_done = crate::process::close_all_but(&[]).is_ok() && frames_come().is_some();
            i32::from(!is_done)
        });
        let change = crate::process::wait(child.unwrap(), crate::process::Wait::Block).unwrap();
        assert_eq!(change, Some(crate::process::Change::Exited(0)));
    }
}

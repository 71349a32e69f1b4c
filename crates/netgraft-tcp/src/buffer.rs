//! Memory for data that waits: blocks out of a pool of the caller's. A queue holds blocks only where data lies in it,
//! so an idle connection holds none, and one far byte out of order holds one.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 8192;
/// Most pieces that are lent at once.
const PIECES: usize = 16;

/// Blocks that are free, for all connections of a caller.
#[derive(Debug, Default)]
pub struct Pool {
    free: Vec<Box<[u8]>>,
    keep: usize,
    used: usize,
    /// Most blocks; 0 for as many as are wanted.
    most: usize,
    pressures: u64,
}

impl Pool {
    /// A pool that keeps up to `keep` bytes of free memory for the next connection; what is above goes back to the
    /// system.
    #[must_use]
    pub fn new(keep: usize) -> Self {
        Pool { keep: keep / BLOCK, ..Pool::default() }
    }

    /// A pool of `most` bytes (`tcp_mem`, tcp(7)). From three quarters on no buffer grows any more; once all is used,
    /// connections get no more than it takes to go on.
    #[must_use]
    pub fn limited(keep: usize, most: usize) -> Self {
        Pool { keep: keep / BLOCK, most: (most / BLOCK).max(1), ..Pool::default() }
    }

    /// Whether so much is used that buffers must not grow.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.most > 0 && self.used >= self.most - self.most / 4
    }

    /// Whether all is used.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.most > 0 && self.used >= self.most
    }

    /// Bytes that are left, at least.
    pub(crate) fn left(&self) -> usize {
        if self.most == 0 { usize::MAX } else { self.most.saturating_sub(self.used) * BLOCK }
    }

    /// How often memory became short.
    #[must_use]
    pub fn pressures(&self) -> u64 {
        self.pressures
    }

    /// Bytes of memory that queues hold.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used * BLOCK
    }

    fn take(&mut self) -> Box<[u8]> {
        let before = self.is_short();
        self.used += 1;
        self.pressures += u64::from(self.is_short() && !before);
        self.free.pop().unwrap_or_else(|| vec![0; BLOCK].into_boxed_slice())
    }

    fn give(&mut self, block: Box<[u8]>) {
        self.used = self.used.saturating_sub(1);
        if self.free.len() < self.keep {
            self.free.push(block);
        }
    }
}

/// A queue of bytes by position; parts in between may be missing.
#[derive(Debug)]
pub(crate) struct Bytes {
    /// The position of the first byte of the first block.
    base: u64,
    blocks: VecDeque<Option<Box<[u8]>>>,
}

impl Bytes {
    /// An empty queue whose first byte will have this position.
    pub(crate) fn new(start: u64) -> Self {
        Bytes { base: start, blocks: VecDeque::new() }
    }

    /// Bytes of memory of the list of blocks.
    pub(crate) fn memory(&self) -> usize {
        self.blocks.capacity() * size_of::<Option<Box<[u8]>>>()
    }

    /// Gives the memory of an empty list back.
    pub(crate) fn release_idle_memory(&mut self) {
        if self.blocks.is_empty() {
            self.blocks = VecDeque::new();
        }
    }

    /// Begins at another position; nothing is held.
    pub(crate) fn restart(&mut self, start: u64) {
        self.base = start;
        self.blocks = VecDeque::new();
    }

    /// Writes bytes at a position that has not been released.
    pub(crate) fn write(&mut self, mut position: u64, mut data: &[u8], pool: &mut Pool) {
        while !data.is_empty() {
            let Some(from) = position.checked_sub(self.base) else { return };
            let (index, at) = ((from / BLOCK as u64) as usize, (from % BLOCK as u64) as usize);
            while self.blocks.len() <= index {
                self.blocks.push_back(None);
            }
            let len = data.len().min(BLOCK - at);
            if let Some(slot) = self.blocks.get_mut(index) {
                slot.get_or_insert_with(|| pool.take())[at..at + len].copy_from_slice(&data[..len]);
            }
            position += len as u64;
            data = &data[len..];
        }
    }

    /// Copies bytes from a position on; what is not held is left as it was.
    pub(crate) fn read(&self, mut position: u64, mut buf: &mut [u8]) {
        while !buf.is_empty() {
            let Some(from) = position.checked_sub(self.base) else { return };
            let (index, at) = ((from / BLOCK as u64) as usize, (from % BLOCK as u64) as usize);
            let len = buf.len().min(BLOCK - at);
            if let Some(Some(block)) = self.blocks.get(index) {
                buf[..len].copy_from_slice(&block[at..at + len]);
            }
            position += len as u64;
            buf = &mut buf[len..];
        }
    }

    /// Lends memory for up to `most` bytes from a position on, behind all that is held; `fill` answers how many it wrote.
    pub(crate) fn fill(
        &mut self,
        position: u64,
        most: usize,
        pool: &mut Pool,
        fill: &mut dyn FnMut(&mut [IoSliceMut<'_>]) -> usize,
    ) -> usize {
        let Some(from) = position.checked_sub(self.base) else { return 0 };
        let (index, at) = ((from / BLOCK as u64) as usize, (from % BLOCK as u64) as usize);
        let most = most.min(PIECES * BLOCK - at);
        let last = (at + most).div_ceil(BLOCK) + index;
        while self.blocks.len() < last {
            self.blocks.push_back(None);
        }
        let mut pieces: [IoSliceMut<'_>; PIECES] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let (mut left, mut begin, mut count) = (most, at, 0);
        for (piece, slot) in pieces.iter_mut().zip(self.blocks.iter_mut().skip(index)) {
            let len = left.min(BLOCK - begin);
            if len == 0 {
                break;
            }
            let block = slot.get_or_insert_with(|| pool.take());
            *piece = IoSliceMut::new(&mut block[begin..begin + len]);
            (left, begin, count) = (left - len, 0, count + 1);
        }
        let written = if count > 0 { fill(&mut pieces[..count]).min(most) } else { 0 };
        let needed = (at + written).div_ceil(BLOCK) + index;
        while self.blocks.len() > needed {
            if let Some(Some(block)) = self.blocks.pop_back() {
                pool.give(block);
            }
        }
        written
    }

    /// Shows up to `most` bytes from a position on; `take` answers how many it took.
    pub(crate) fn show(
        &self,
        position: u64,
        most: usize,
        take: &mut dyn FnMut(&[IoSlice<'_>]) -> usize,
    ) -> usize {
        let Some(from) = position.checked_sub(self.base) else { return 0 };
        let (index, at) = ((from / BLOCK as u64) as usize, (from % BLOCK as u64) as usize);
        let most = most.min(PIECES * BLOCK - at);
        let mut pieces: [IoSlice<'_>; PIECES] = std::array::from_fn(|_| IoSlice::new(&[]));
        let (mut left, mut begin, mut count) = (most, at, 0);
        for (piece, slot) in pieces.iter_mut().zip(self.blocks.iter().skip(index)) {
            let len = left.min(BLOCK - begin);
            let Some(block) = slot.as_ref().filter(|_| len > 0) else { break };
            *piece = IoSlice::new(&block[begin..begin + len]);
            (left, begin, count) = (left - len, 0, count + 1);
        }
        if count > 0 { take(&pieces[..count]).min(most - left) } else { 0 }
    }

    /// Gives back what lies before a position; `all` if nothing behind it is held either.
    pub(crate) fn release(&mut self, position: u64, all: bool, pool: &mut Pool) {
        while all || self.base + BLOCK as u64 <= position {
            match self.blocks.pop_front() {
                Some(Some(block)) => pool.give(block),
                Some(None) => {}
                None => break,
            }
            self.base += BLOCK as u64;
        }
        if self.blocks.is_empty() {
            self.base = position;
            if self.blocks.capacity() > 8 {
                self.blocks = VecDeque::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_where_they_were_written() {
        let mut pool = Pool::new(10 * BLOCK);
        let mut bytes = Bytes::new(1000);
        let data: Vec<u8> = (0..50_000u32).map(|i| (i % 251) as u8).collect();
        bytes.write(1000 + 20_000, &data[20_000..], &mut pool);
        bytes.write(1000, &data[..20_000], &mut pool);
        let mut got = vec![0; 50_000];
        bytes.read(1000, &mut got);
        assert_eq!(got, data);
        bytes.release(1000 + 30_000, false, &mut pool);
        let mut rest = vec![0; 20_000];
        bytes.read(31_000, &mut rest);
        assert_eq!(rest, data[30_000..]);
        bytes.release(51_000, true, &mut pool);
        assert_eq!(pool.used(), 0);
        bytes.write(51_000, b"more", &mut pool);
        let mut got = [0; 4];
        bytes.read(51_000, &mut got);
        assert_eq!(&got, b"more");
        assert_eq!(pool.used(), BLOCK);
    }

    #[test]
    fn lent_memory_is_what_is_read() {
        let mut pool = Pool::new(0);
        let mut bytes = Bytes::new(0);
        let data: Vec<u8> = (0..30_000u32).map(|i| (i % 251) as u8).collect();
        let mut done = 0;
        while done < data.len() {
            let rest = &data[done..];
            done += bytes.fill(done as u64, rest.len().min(11_000), &mut pool, &mut |pieces| {
                let mut at = 0;
                for piece in pieces.iter_mut() {
                    let len = piece.len().min(rest.len() - at).min(5000);
                    piece[..len].copy_from_slice(&rest[at..at + len]);
                    at += len;
                    if len < piece.len() {
                        break;
                    }
                }
                at
            });
        }
        assert_eq!(pool.used(), 4 * BLOCK);
        let mut seen = Vec::new();
        while seen.len() < data.len() {
            let from = seen.len();
            let took = bytes.show(from as u64, data.len() - from, &mut |pieces| {
                pieces.iter().for_each(|piece| seen.extend_from_slice(piece));
                seen.len() - from
            });
            assert_eq!(from + took, seen.len());
        }
        assert_eq!(seen, data);
        assert_eq!(bytes.fill(30_000, 100_000, &mut pool, &mut |_| 0), 0);
        assert_eq!(pool.used(), 4 * BLOCK, "what was not used is back");
    }

    #[test]
    fn a_far_byte_takes_one_block() {
        let mut pool = Pool::new(0);
        let mut bytes = Bytes::new(0);
        bytes.write(1 << 20, &[7], &mut pool);
        assert_eq!(pool.used(), BLOCK);
        let mut got = [0];
        bytes.read(1 << 20, &mut got);
        assert_eq!(got, [7]);
        bytes.write(0, &[8], &mut pool);
        bytes.read(0, &mut got);
        assert_eq!((got, pool.used()), ([8], 2 * BLOCK));
    }
}

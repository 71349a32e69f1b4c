//! The data path without needless copies: a stack lends its own memory, and takes and gives datagrams in batches.
//!
//! A caller uses [`Sockets::send_with`] and [`Sockets::recv_with`] on every stack: with one that lends its memory the
//! bytes are moved once, by the system call that the caller's closure makes; with any other, which implements
//! [`Sockets::send`] and [`Sockets::recv`] alone, they go through the caller's [`Spare`] memory.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;

use crate::error::{Error, Result};
use crate::socket::{Handle, Received, RecvFlags, SendFlags, Sockets};
use crate::time::Instant;

/// Writes bytes into memory that a stack lends, from the first piece on, and answers how many. No piece is empty.
pub type Fill<'a> = dyn FnMut(&mut [IoSliceMut<'_>]) -> usize + 'a;

/// Looks at bytes in memory that a stack lends, and answers how many it took, from the first on. No piece is empty.
pub type Take<'a> = dyn FnMut(&[IoSlice<'_>]) -> usize + 'a;

/// What [`Sockets::recv_with`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streamed {
    /// So many bytes were taken; the others stay where they are.
    Bytes(usize),
    /// The peer sends no more, and everything before that was taken.
    End,
}

/// Memory of the caller, for a stack that lends none.
#[derive(Debug)]
pub struct Spare<'a> {
    /// Room for bytes on their way; may be shared by all sockets. If it is empty, a stack that lends no memory answers
    /// [`Error::NotSupported`].
    pub scratch: &'a mut [u8],
    /// What is left of them, of this socket and this direction.
    pub spill: &'a mut Spill,
}

/// Bytes of one direction of a stream that one side gave and the other did not take. Stays empty with a stack that
/// lends its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spill {
    bytes: Vec<u8>,
    /// How many of them have gone.
    gone: usize,
}

impl Spill {
    /// Memory that an empty one keeps, in bytes, so that a slow reader does not cost an allocation each time.
    const KEPT: usize = 16 * 1024;

    /// Nothing.
    #[must_use]
    pub const fn new() -> Spill {
        Spill { bytes: Vec::new(), gone: 0 }
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.gone >= self.bytes.len()
    }

    /// What is left.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.gone..).unwrap_or_default()
    }

    /// Adds bytes behind what is left.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets the first `count` bytes, or all.
    pub fn drop_first(&mut self, count: usize) {
        self.gone = self.gone.saturating_add(count).min(self.bytes.len());
        if self.is_empty() {
            self.gone = 0;
            self.bytes.clear();
            self.bytes.shrink_to(Self::KEPT);
        }
    }

    /// Sends what is left, as far as the stack has room.
    ///
    /// # Errors
    /// [`Error::Again`] if something is left after that; else as [`Sockets::send`].
    pub fn send<S: Sockets + ?Sized>(
        &mut self,
        stack: &mut S,
        handle: Handle,
        flags: SendFlags,
        now: Instant,
    ) -> Result<()> {
        while !self.is_empty() {
            match stack.send(handle, self.bytes(), None, flags, now)? {
                0 => return Err(Error::Again),
                count => self.drop_first(count),
            }
        }
        Ok(())
    }
}

/// A datagram of a batch that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Its bytes.
    pub data: &'a [u8],
    /// Where to, unless to the socket's peer.
    pub to: Option<SocketAddr>,
}

/// How far a batch of datagrams came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// How many were sent or received, from the first on.
    pub count: usize,
    /// Why not one more: [`Error::Again`] if the stack has no room or nothing more. `None` if the whole batch was sent,
    /// if as many were received as were asked for, or if the socket is shut down for reading and empty.
    pub stopped: Option<Error>,
}

/// [`Sockets::send_with`] of a stack that has [`Sockets::send`] alone: through the caller's memory. Also what a stack
/// calls that lends its memory in some states only.
///
/// # Errors
/// As [`Sockets::send_with`].
pub fn send_copied<S: Sockets + ?Sized>(
    stack: &mut S,
    handle: Handle,
    flags: SendFlags,
    now: Instant,
    spare: Spare<'_>,
    fill: &mut Fill<'_>,
) -> Result<usize> {
    let Spare { scratch, spill } = spare;
    if scratch.is_empty() {
        return Err(Error::NotSupported);
    }
    spill.send(stack, handle, flags, now)?;
    let room = stack.send_room(handle).min(scratch.len());
    let Some(lent) = scratch.get_mut(..room).filter(|lent| !lent.is_empty()) else {
        // A stack without room may have a reason that is not going to pass.
        return stack.send(handle, &[], None, flags, now).and(Err(Error::Again));
    };
    let count = fill(&mut [IoSliceMut::new(lent)]).min(room);
    let mut rest = lent.get(..count).unwrap_or_default();
    while !rest.is_empty() {
        let sent = match stack.send(handle, rest, None, flags, now) {
            Ok(sent) => sent,
            Err(Error::Again) => 0,
            Err(error) => return Err(error),
        };
        rest = rest.get(sent..).unwrap_or_default();
        if sent == 0 {
            spill.push(rest);
            break;
        }
    }
    Ok(count)
}

/// [`Sockets::recv_with`] of a stack that has [`Sockets::recv`] alone: through the caller's memory. Also what a stack
/// calls that lends its memory in some states only.
///
/// # Errors
/// As [`Sockets::recv_with`].
pub fn recv_copied<S: Sockets + ?Sized>(
    stack: &mut S,
    handle: Handle,
    now: Instant,
    spare: Spare<'_>,
    take: &mut Take<'_>,
) -> Result<Streamed> {
    let Spare { scratch, spill } = spare;
    if !spill.is_empty() {
        let bytes = spill.bytes();
        let taken = take(&[IoSlice::new(bytes)]).min(bytes.len());
        spill.drop_first(taken);
        return Ok(Streamed::Bytes(taken));
    }
    if scratch.is_empty() {
        return Err(Error::NotSupported);
    }
    let received = stack.recv(handle, scratch, RecvFlags::empty(), now)?;
    let bytes = scratch.get(..received.len).unwrap_or(scratch);
    if bytes.is_empty() {
        return Ok(Streamed::End);
    }
    let taken = take(&[IoSlice::new(bytes)]).min(bytes.len());
    spill.push(bytes.get(taken..).unwrap_or_default());
    Ok(Streamed::Bytes(taken))
}

/// [`Sockets::send_batch`] of a stack that has [`Sockets::send`] alone.
pub fn send_each<S: Sockets + ?Sized>(
    stack: &mut S,
    handle: Handle,
    batch: &[Datagram<'_>],
    flags: SendFlags,
    now: Instant,
) -> Batch {
    let mut count = 0;
    for datagram in batch {
        if let Err(error) = stack.send(handle, datagram.data, datagram.to, flags, now) {
            return Batch { count, stopped: Some(error) };
        }
        count += 1;
    }
    Batch { count, stopped: None }
}

/// [`Sockets::recv_batch`] of a stack that has [`Sockets::recv`] alone.
pub fn recv_each<S: Sockets + ?Sized>(
    stack: &mut S,
    handle: Handle,
    limit: usize,
    now: Instant,
    scratch: &mut [u8],
    deliver: &mut dyn FnMut(&Received, &[u8]),
) -> Batch {
    if scratch.is_empty() {
        return Batch { count: 0, stopped: Some(Error::NotSupported) };
    }
    let mut count = 0;
    while count < limit {
        match stack.recv(handle, scratch, RecvFlags::empty(), now) {
            // Even an empty datagram has a sender: the socket is shut down.
            Ok(received) if received.from.is_none() => break,
            Ok(received) => {
                let bytes = scratch.get(..received.len).unwrap_or(scratch);
                deliver(&Received { len: bytes.len(), ..received }, bytes);
            }
            Err(error) => return Batch { count, stopped: Some(error) },
        }
        count += 1;
    }
    Batch { count, stopped: None }
}

/// Copies `data` into lent pieces as far as it fits, and answers how much: the simplest [`Fill`].
pub fn copy_into(pieces: &mut [IoSliceMut<'_>], data: &[u8]) -> usize {
    let mut rest = data;
    for piece in pieces {
        let (now, later) = rest.split_at(rest.len().min(piece.len()));
        if let Some(place) = piece.get_mut(..now.len()) {
            place.copy_from_slice(now);
        }
        rest = later;
    }
    data.len() - rest.len()
}

/// Copies lent pieces into `buf` as far as they fit, and answers how much: the simplest [`Take`].
pub fn copy_from(pieces: &[IoSlice<'_>], buf: &mut [u8]) -> usize {
    let total = buf.len();
    let mut rest = buf;
    for piece in pieces {
        let (now, later) = rest.split_at_mut(rest.len().min(piece.len()));
        if let Some(bytes) = piece.get(..now.len()) {
            now.copy_from_slice(bytes);
        }
        rest = later;
    }
    total - rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Events;
    use crate::socket::{Shutdown, SocketSpec};

    /// A stream on which `room` bytes fit and which knows, or does not know, that; what it was sent comes back.
    struct Pipe {
        room: usize,
        knows: bool,
        bytes: Vec<u8>,
        datagrams: Vec<(Option<SocketAddr>, Vec<u8>)>,
    }

    fn pipe(room: usize, knows: bool) -> Pipe {
        Pipe { room, knows, bytes: Vec::new(), datagrams: Vec::new() }
    }

    impl Sockets for Pipe {
        fn socket(&mut self, _: SocketSpec) -> Result<Handle> {
            Err(Error::NotSupported)
        }
        fn bind(&mut self, _: Handle, _: SocketAddr) -> Result<()> {
            Err(Error::NotSupported)
        }
        fn connect(&mut self, _: Handle, _: SocketAddr, _: Instant) -> Result<()> {
            Err(Error::NotSupported)
        }
        fn local_addr(&self, _: Handle) -> Result<SocketAddr> {
            Err(Error::NotSupported)
        }
        fn peer_addr(&self, _: Handle) -> Result<SocketAddr> {
            Err(Error::NotSupported)
        }
        fn send(
            &mut self,
            _: Handle,
            data: &[u8],
            to: Option<SocketAddr>,
            _: SendFlags,
            _: Instant,
        ) -> Result<usize> {
            if to.is_some() {
                self.room = self.room.checked_sub(data.len()).ok_or(Error::Again)?;
                self.datagrams.push((to, data.to_vec()));
                return Ok(data.len());
            }
            let count = data.len().min(self.room);
            if count == 0 && !data.is_empty() {
                return Err(Error::Again);
            }
            self.room -= count;
            self.bytes.extend(&data[..count]);
            Ok(count)
        }
        fn recv(&mut self, _: Handle, buf: &mut [u8], _: RecvFlags, _: Instant) -> Result<Received> {
            if !self.datagrams.is_empty() {
                let (from, data) = self.datagrams.remove(0);
                let len = data.len().min(buf.len());
                buf[..len].copy_from_slice(&data[..len]);
                return Ok(Received { len, full_len: data.len(), from, ..Received::default() });
            }
            let len = self.bytes.len().min(buf.len());
            if len == 0 {
                return Err(Error::Again);
            }
            buf[..len].copy_from_slice(&self.bytes[..len]);
            self.bytes.drain(..len);
            Ok(Received { len, full_len: len, ..Received::default() })
        }
        fn send_room(&self, _: Handle) -> usize {
            if self.knows { self.room } else { usize::MAX }
        }
        fn shutdown(&mut self, _: Handle, _: Shutdown, _: Instant) -> Result<()> {
            Ok(())
        }
        fn close(&mut self, _: Handle, _: Instant) -> Result<()> {
            Ok(())
        }
        fn readiness(&self, _: Handle) -> Result<Events> {
            Ok(Events::empty())
        }
    }

    const HANDLE: Handle = Handle(1);

    fn send(stack: &mut Pipe, spill: &mut Spill, data: &[u8]) -> Result<usize> {
        let spare = Spare { scratch: &mut [0; 8], spill };
        let mut fill = |pieces: &mut [IoSliceMut<'_>]| copy_into(pieces, data);
        stack.send_with(HANDLE, SendFlags::empty(), Instant::ZERO, spare, &mut fill)
    }

    #[test]
    fn what_a_stack_does_not_take_is_kept_and_goes_first() {
        let (mut stack, mut spill) = (pipe(5, false), Spill::new());
        assert_eq!(send(&mut stack, &mut spill, b"abcdefgh"), Ok(8));
        assert_eq!((stack.bytes.as_slice(), spill.bytes()), (&b"abcde"[..], &b"fgh"[..]));
        assert_eq!(send(&mut stack, &mut spill, b"ij"), Err(Error::Again));
        stack.room = 2;
        assert_eq!(send(&mut stack, &mut spill, b"ij"), Err(Error::Again), "a byte is still left");
        stack.room = 100;
        assert_eq!(send(&mut stack, &mut spill, b"ij"), Ok(2));
        assert_eq!(stack.bytes, b"abcdefghij");
        assert!(spill.is_empty());
    }

    #[test]
    fn a_stack_that_knows_its_room_is_never_offered_more() {
        let (mut stack, mut spill) = (pipe(3, true), Spill::new());
        assert_eq!(send(&mut stack, &mut spill, b"abcdef"), Ok(3));
        assert!(spill.is_empty());
        assert_eq!(send(&mut stack, &mut spill, b"def"), Err(Error::Again));
    }

    #[test]
    fn what_the_caller_does_not_take_is_kept_and_comes_first() {
        let mut stack = pipe(100, true);
        let mut spill = Spill::new();
        assert_eq!(send(&mut stack, &mut Spill::new(), b"abcdef"), Ok(6));
        let mut recv = |most: usize| {
            let (mut buf, mut scratch) = (vec![0; most], [0; 4]);
            let spare = Spare { scratch: &mut scratch, spill: &mut spill };
            let mut take = |pieces: &[IoSlice<'_>]| copy_from(pieces, &mut buf);
            match stack.recv_with(HANDLE, Instant::ZERO, spare, &mut take) {
                Ok(Streamed::Bytes(count)) => Ok(buf[..count].to_vec()),
                Ok(Streamed::End) => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        };
        assert_eq!(recv(3), Ok(b"abc".to_vec()));
        assert_eq!(recv(100), Ok(b"d".to_vec()));
        assert_eq!(recv(100), Ok(b"ef".to_vec()));
        assert_eq!(recv(100), Err(Error::Again));
    }

    #[test]
    fn a_batch_stops_at_the_first_failure_and_tells_it() {
        let mut stack = pipe(4, true);
        let to = Some(SocketAddr::from(([127, 0, 0, 1], 9)));
        let batch = ["ab", "", "cd", "ef"].map(|text| Datagram { data: text.as_bytes(), to });
        let sent = stack.send_batch(HANDLE, &batch, SendFlags::empty(), Instant::ZERO);
        assert_eq!(sent, Batch { count: 3, stopped: Some(Error::Again) });
        let mut seen = Vec::new();
        let mut deliver =
            |received: &Received, data: &[u8]| seen.push((received.full_len, data.len(), data.to_vec()));
        let got = stack.recv_batch(HANDLE, 2, Instant::ZERO, &mut [0; 1], &mut deliver);
        assert_eq!(got, Batch { count: 2, stopped: None });
        let got = stack.recv_batch(HANDLE, 2, Instant::ZERO, &mut [0; 8], &mut deliver);
        assert_eq!(got, Batch { count: 1, stopped: Some(Error::Again) });
        assert_eq!(seen, [(2, 1, b"a".to_vec()), (0, 0, vec![]), (2, 2, b"cd".to_vec())]);
    }

    #[test]
    fn lent_pieces_are_filled_and_emptied_in_order() {
        let (mut a, mut b) = ([0; 2], [0; 3]);
        let mut pieces = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        assert_eq!(copy_into(&mut pieces, b"abcdefg"), 5);
        assert_eq!(copy_into(&mut pieces, b"xyz"), 3);
        assert_eq!((a, b), (*b"xy", *b"zde"));
        let mut buf = [0; 4];
        assert_eq!(copy_from(&[IoSlice::new(&a), IoSlice::new(&b)], &mut buf), 4);
        assert_eq!(&buf, b"xyzd");
        assert_eq!(copy_from(&[IoSlice::new(&a)], &mut buf), 2);
    }

    #[test]
    fn an_empty_spill_keeps_little_memory() {
        let mut spill = Spill::new();
        spill.push(&[1; 1 << 20]);
        spill.drop_first(10);
        assert_eq!(spill.bytes().len(), (1 << 20) - 10);
        spill.drop_first(usize::MAX);
        assert!(spill.is_empty() && spill.bytes.capacity() <= Spill::KEPT);
    }
}

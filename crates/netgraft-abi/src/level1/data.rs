//! Memory that a level 1 stack lends, and its batches of datagrams.
//!
//! The object calls functions of ours with pieces of its memory. What it says there is checked as its answers are;
//! where it has not got these calls, or not now, `send` and `recv` do the work.

use std::ffi::c_void;
use std::io::{IoSlice, IoSliceMut};
use std::{ptr, slice};

use netgraft_plugin::data::{Fill, Take};
use netgraft_plugin::{Batch, Datagram, Error, Handle, Instant, Received, Result, SendFlags, Streamed};

use super::Level1Stack;
use super::instance::{Instance, call};
use crate::NOT_SUPPORTED;
use crate::convert;
use crate::raw;
use crate::watch::Call;

/// The most pieces of memory, and datagrams, of one call that are looked at.
const MOST: usize = 16;
/// The most bytes of a piece: what a slice may have.
const LONGEST: usize = isize::MAX.cast_unsigned();

/// What a function of ours found while the object called it.
struct Lent<F> {
    /// What is to be done with the pieces.
    act: F,
    /// What that answered, once it was done.
    moved: Option<usize>,
    /// Whether the object lent what cannot be.
    nonsense: bool,
}

impl<F> Lent<F> {
    const fn new(act: F) -> Lent<F> {
        Lent { act, moved: None, nonsense: false }
    }

    /// The pieces with something in them, which are looked at once.
    ///
    /// # Safety
    /// `pieces` is null, or so many are there.
    unsafe fn pieces<'a>(&mut self, pieces: *const raw::Piece, count: usize) -> &'a [raw::Piece] {
        if self.moved.is_some() || pieces.is_null() {
            return &[];
        }
        // SAFETY: the caller's promise; the answer is used during the object's call alone.
        let pieces = unsafe { slice::from_raw_parts(pieces, count.min(MOST)) };
        let good = |piece: &raw::Piece| !piece.bytes.is_null() && (1..=LONGEST).contains(&piece.length);
        if pieces.is_empty() || !pieces.iter().all(good) {
            self.nonsense = true;
            return &[];
        }
        pieces
    }

    /// How many bytes were moved, as the object and the function of ours say both; `None` if it does not lend now.
    fn outcome(&self, instance: &Instance, call: Call, result: i64) -> Result<Option<usize>> {
        if self.nonsense {
            return Err(instance.nonsense(call, format_args!("a piece without memory, or too long, is lent")));
        }
        let said = match (instance.count(call, result), self.moved) {
            (Err(Error::NotSupported), None) => return Ok(None),
            (said, _) => said?,
        };
        let moved = self.moved.unwrap_or(0);
        if said == moved as u64 {
            return Ok(Some(moved));
        }
        Err(instance.nonsense(call, format_args!("{said} bytes, where {moved} were moved")))
    }
}

/// `netgraft_lend` of a send.
unsafe extern "C" fn fill(caller: *mut c_void, pieces: *const raw::Piece, count: usize) -> u64 {
    // SAFETY: the object passes on what `send_lent` gave it, during that call.
    let lent = unsafe { &mut *caller.cast::<Lent<&mut Fill<'_>>>() };
    // SAFETY: the header says that so many pieces are there.
    let pieces = unsafe { lent.pieces(pieces, count) };
    if pieces.is_empty() {
        return 0;
    }
    let mut slices: [IoSliceMut<'_>; MOST] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    for (place, piece) in slices.iter_mut().zip(pieces) {
        // SAFETY: the header says that each piece is there, to be written to, during the call, and that no two overlap;
        // its length fits a slice.
        *place = IoSliceMut::new(unsafe { slice::from_raw_parts_mut(piece.bytes.cast(), piece.length) });
    }
    let room = pieces.iter().fold(0, |sum: usize, piece| sum.saturating_add(piece.length));
    let moved = slices.get_mut(..pieces.len()).map_or(0, |slices| (lent.act)(slices)).min(room);
    lent.moved = Some(moved);
    moved as u64
}

/// `netgraft_lend` of a receive.
unsafe extern "C" fn take(caller: *mut c_void, pieces: *const raw::Piece, count: usize) -> u64 {
    // SAFETY: the object passes on what `recv_lent` gave it, during that call.
    let lent = unsafe { &mut *caller.cast::<Lent<&mut Take<'_>>>() };
    // SAFETY: the header says that so many pieces are there.
    let pieces = unsafe { lent.pieces(pieces, count) };
    if pieces.is_empty() {
        return 0;
    }
    let mut slices = [IoSlice::new(&[]); MOST];
    for (place, piece) in slices.iter_mut().zip(pieces) {
        // SAFETY: the header says that each piece is there during the call; its length fits a slice.
        *place = IoSlice::new(unsafe { slice::from_raw_parts(piece.bytes.cast(), piece.length) });
    }
    let there = pieces.iter().fold(0, |sum: usize, piece| sum.saturating_add(piece.length));
    let moved = slices.get(..pieces.len()).map_or(0, |slices| (lent.act)(slices)).min(there);
    lent.moved = Some(moved);
    moved as u64
}

/// Datagrams that the object delivers.
struct Delivered<'a, 'b> {
    deliver: &'a mut (dyn FnMut(&Received, &[u8]) + 'b),
    limit: usize,
    count: usize,
    nonsense: bool,
}

/// `netgraft_deliver`.
unsafe extern "C" fn deliver(caller: *mut c_void, received: *const raw::Received, data: *const c_void) {
    // SAFETY: the object passes on what `recv_delivered` gave it, during that call.
    let delivered = unsafe { &mut *caller.cast::<Delivered<'_, '_>>() };
    // SAFETY: the header says that it is there during the call.
    let received = unsafe { received.as_ref() }.and_then(|r| convert::from_received(r, LONGEST));
    let Some(received) = received.filter(|r| r.len == 0 || !data.is_null()) else {
        delivered.nonsense = true;
        return;
    };
    if delivered.count >= delivered.limit {
        delivered.nonsense = true;
        return;
    }
    let data = if received.len == 0 {
        &[]
    } else {
        // SAFETY: the header says that so many bytes are there during the call; the length fits a slice.
        unsafe { slice::from_raw_parts(data.cast::<u8>(), received.len) }
    };
    delivered.count += 1;
    (delivered.deliver)(&received, data);
}

/// Why a batch ended, as the object says: `None` if it did not.
fn why(instance: &Instance, call: Call, stopped: i32) -> Option<Error> {
    match stopped {
        0 => None,
        number => Some(instance.count(call, number.into()).err().unwrap_or(Error::Io)),
    }
}

impl Level1Stack {
    /// Sends from memory of the stack; `None` if it does not lend any now.
    pub(super) fn send_lent(
        &self,
        handle: Handle,
        flags: SendFlags,
        now: Instant,
        act: &mut Fill<'_>,
    ) -> Result<Option<usize>> {
        let instance = self.of(handle)?;
        let mut lent = Lent::new(act);
        let (caller, now) = (ptr::from_mut(&mut lent).cast(), now.nanos());
        let absent = i64::from(NOT_SUPPORTED);
        let result = call!(instance, absent, send_with(handle.0, flags.bits(), now, Some(fill as _), caller));
        lent.outcome(instance, Call::send_with, result)
    }

    /// Receives from memory of the stack; `None` if it does not lend any now.
    pub(super) fn recv_lent(
        &self,
        handle: Handle,
        now: Instant,
        act: &mut Take<'_>,
    ) -> Result<Option<Streamed>> {
        let instance = self.of(handle)?;
        let mut lent = Lent::new(act);
        let caller = ptr::from_mut(&mut lent).cast();
        let absent = i64::from(NOT_SUPPORTED);
        let result = call!(instance, absent, recv_with(handle.0, now.nanos(), Some(take as _), caller));
        let moved = lent.outcome(instance, Call::recv_with, result)?;
        Ok(moved.map(|count| if lent.moved.is_some() { Streamed::Bytes(count) } else { Streamed::End }))
    }

    /// Sends a batch; stopped by [`Error::NotSupported`] before the first if the stack takes none.
    pub(super) fn send_together(
        &self,
        handle: Handle,
        batch: &[Datagram<'_>],
        flags: SendFlags,
        now: Instant,
    ) -> Batch {
        let mut sent = 0;
        for chunk in batch.chunks(MOST) {
            let done = match self.of(handle) {
                Ok(instance) => send_chunk(instance, handle, chunk, flags, now),
                Err(error) => Batch { count: 0, stopped: Some(error) },
            };
            sent += done.count;
            if done.stopped.is_some() {
                return Batch { count: sent, ..done };
            }
        }
        Batch { count: sent, stopped: None }
    }

    /// Receives a batch; stopped by [`Error::NotSupported`] before the first if the stack gives none.
    pub(super) fn recv_delivered(
        &self,
        handle: Handle,
        limit: usize,
        now: Instant,
        sink: &mut dyn FnMut(&Received, &[u8]),
    ) -> Batch {
        let instance = match self.of(handle) {
            Ok(instance) => instance,
            Err(error) => return Batch { count: 0, stopped: Some(error) },
        };
        let mut delivered = Delivered { deliver: sink, limit, count: 0, nonsense: false };
        let (caller, mut stopped) = (ptr::from_mut(&mut delivered).cast(), 0);
        let absent = i64::from(NOT_SUPPORTED);
        let result = call!(
            instance,
            absent,
            recv_batch(handle.0, limit, now.nanos(), Some(deliver as _), caller, &raw mut stopped)
        );
        let Delivered { count, nonsense, .. } = delivered;
        let stopped = match instance.count(Call::recv_batch, result) {
            Ok(said) if said == count as u64 && !nonsense => why(instance, Call::recv_batch, stopped),
            Ok(said) => {
                let what = format_args!("{said} datagrams, where {count} that can be were delivered");
                Some(instance.nonsense(Call::recv_batch, what))
            }
            Err(error) => Some(error),
        };
        Batch { count, stopped }
    }
}

fn send_chunk(
    instance: &Instance,
    handle: Handle,
    chunk: &[Datagram<'_>],
    flags: SendFlags,
    now: Instant,
) -> Batch {
    let empty = raw::Datagram { data: ptr::null(), length: 0, to: raw::Address::default(), reserved: 0 };
    let mut datagrams = [empty; MOST];
    for (place, datagram) in datagrams.iter_mut().zip(chunk) {
        place.data = datagram.data.as_ptr().cast();
        place.length = datagram.data.len();
        place.to = datagram.to.map(convert::to_address).unwrap_or_default();
    }
    let (count, mut stopped, absent) = (chunk.len().min(MOST), 0, i64::from(NOT_SUPPORTED));
    let result = call!(
        instance,
        absent,
        send_batch(handle.0, datagrams.as_ptr(), count, flags.bits(), now.nanos(), &raw mut stopped)
    );
    match instance.count(Call::send_batch, result) {
        Ok(sent) if sent == count as u64 => {
            Batch { count, stopped: why(instance, Call::send_batch, stopped) }
        }
        Ok(sent) if sent < count as u64 && stopped != 0 => {
            Batch { count: sent as usize, stopped: why(instance, Call::send_batch, stopped) }
        }
        Ok(sent) => {
            let what = format_args!("{sent} datagrams of {count}, and no reason");
            Batch { count: 0, stopped: Some(instance.nonsense(Call::send_batch, what)) }
        }
        Err(error) => Batch { count: 0, stopped: Some(error) },
    }
}

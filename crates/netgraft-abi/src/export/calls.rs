//! The functions that are more than a conversion.

use std::io::{IoSlice, IoSliceMut};

use netgraft_plugin::{Batch, Datagram, Received, Spare, Spill, Streamed};

use super::*;

pub(super) unsafe extern "C" fn create(
    given: *const raw::Config,
    host: *const raw::Host,
    context: *mut *mut c_void,
    why: *mut c_char,
    why_capacity: usize,
) -> i32 {
    let make = || {
        let exported = EXPORTED.get().and_then(Option::as_ref).ok_or("netgraft_stack was not called")?;
        // SAFETY: the header says that the configuration is there during the call.
        let config = unsafe { given.as_ref().ok_or("no configuration".to_owned()).and_then(|c| config(c))? };
        (exported.factory)(&config).map_err(|e| e.to_string())
    };
    match catch_unwind(AssertUnwindSafe(make)) {
        Ok(Ok(stack)) => {
            let instance = Box::new(Instance { stack: Some(stack), log: Log(host) });
            let instance: *mut c_void = Box::into_raw(instance).cast();
            logs::begin(instance, Log(host));
            // SAFETY: the header says that `context` is a place for one.
            unsafe { *context = instance };
            0
        }
        Ok(Err(text)) => {
            // SAFETY: the header says what `why` is.
            unsafe { explain(why, why_capacity, &text) };
            number(Error::Invalid)
        }
        Err(_) => number(Error::Io),
    }
}

pub(super) unsafe extern "C" fn destroy(context: *mut c_void) {
    if context.is_null() {
        return;
    }
    // SAFETY: `create` made it from a box, and the header says that it is not used any more.
    let instance = unsafe { Box::from_raw(context.cast::<Instance>()) };
    if let Some(mut stack) = instance.stack {
        let _ = catch_unwind(AssertUnwindSafe(move || {
            stack.destroy();
            drop(stack);
        }));
    }
    logs::end(context);
}

pub(super) unsafe extern "C" fn pre_init(
    context: *mut c_void,
    pid: u32,
    out: *mut raw::Handover,
    why: *mut c_char,
    why_capacity: usize,
) -> i32 {
    // SAFETY: the header says what the pointers are, for the whole call.
    unsafe {
        with(context, "pre_init", codes::BROKEN, |stack| {
            let Some(out) = out.as_mut() else { return number(Error::Invalid) };
            // The caller has opened the link, and describes it as stacks of this tree do.
            if out.fd_count == 1 {
                return 0;
            }
            let handed = match stack.pre_init(PreInitStackArgs { pid }) {
                Ok(handed) => handed,
                Err(error) => {
                    explain(why, why_capacity, &error.to_string());
                    return number(Error::Io);
                }
            };
            let text = handed.init_str.as_bytes();
            if text.len() > out.text_capacity || handed.fds.len() > out.fd_capacity {
                explain(why, why_capacity, "it hands over more than there is room for");
                return number(Error::NoBuffers);
            }
            ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), out.text, text.len());
            out.text_length = text.len();
            out.fd_count = handed.fds.len();
            for (i, fd) in handed.fds.into_iter().enumerate() {
                out.fds.add(i).write(fd.into_raw_fd());
            }
            0
        })
    }
}

pub(super) unsafe extern "C" fn init(
    context: *mut c_void,
    text: *const c_char,
    text_length: usize,
    fds: *const i32,
    fd_count: usize,
    now: u64,
    why: *mut c_char,
    why_capacity: usize,
) -> i32 {
    // SAFETY: the header says what the pointers are, for the whole call, and that the descriptors are the stack's.
    unsafe {
        with(context, "init", codes::BROKEN, |stack| {
            let text = list(text.cast::<u8>(), text_length);
            let Ok(init_str) = str::from_utf8(text).map(str::to_owned) else {
                explain(why, why_capacity, "the text handed over is no UTF-8");
                return number(Error::Invalid);
            };
            // Duplicates, since a failed call must leave the caller's alone.
            let duplicates: std::io::Result<Vec<OwnedFd>> = list(fds, fd_count)
                .iter()
                .map(|fd| BorrowedFd::borrow_raw(*fd).try_clone_to_owned())
                .collect();
            let args = duplicates.map(|fds| InitStackArgs { init_str, fds, now: Instant::from_nanos(now) });
            let result =
                args.map_err(|e| e.to_string()).and_then(|args| stack.init(args).map_err(|e| e.to_string()));
            if let Err(text) = result {
                explain(why, why_capacity, &text);
                return number(Error::Io);
            }
            for fd in list(fds, fd_count) {
                drop(OwnedFd::from_raw_fd(*fd));
            }
            0
        })
    }
}

pub(super) unsafe extern "C" fn drain_events(
    context: *mut c_void,
    events: *mut raw::Event,
    capacity: usize,
) -> i64 {
    // SAFETY: the header says that there is room for so many.
    unsafe {
        with(context, "drain_events", codes::BROKEN.into(), |stack| {
            let mut used = 0;
            if events.is_null() || capacity == 0 {
                return 0;
            }
            stack.drain_events(&mut |event| {
                events.add(used).write(raw::Event {
                    handle: event.handle.0,
                    events: event.events.bits(),
                    reserved: 0,
                });
                used += 1;
                used < capacity
            });
            i64::try_from(used).unwrap_or(i64::MAX)
        })
    }
}

pub(super) unsafe extern "C" fn wake_fds(
    context: *mut c_void,
    out: *mut raw::WakeFd,
    capacity: usize,
) -> i64 {
    // SAFETY: the header says that there is room for so many.
    unsafe {
        with(context, "wake_fds", codes::BROKEN.into(), |stack| {
            let fds = stack.wake_fds();
            let entry =
                |wake: &WakeFd<'_>| raw::WakeFd { fd: wake.fd.as_raw_fd(), events: wake.events.bits() };
            fill(out, capacity, fds.iter().map(entry))
        })
    }
}

pub(super) unsafe extern "C" fn accept(
    context: *mut c_void,
    handle: u64,
    connection: *mut u64,
    peer: *mut raw::Address,
) -> i32 {
    // SAFETY: the header says that both are places to write to.
    unsafe {
        with(context, "accept", codes::BROKEN, |stack| match stack.accept(Handle(handle)) {
            Ok((new, addr)) => {
                *connection = new.0;
                *peer = convert::to_address(addr);
                0
            }
            Err(error) => number(error),
        })
    }
}

pub(super) unsafe extern "C" fn send(
    context: *mut c_void,
    handle: u64,
    data: *const c_void,
    length: usize,
    to: *const raw::Address,
    flags: u32,
    now: u64,
) -> i64 {
    // SAFETY: the header says what the pointers are, for the whole call.
    unsafe {
        with(context, "send", codes::BROKEN.into(), |stack| {
            let data = list(data.cast::<u8>(), length);
            let to = match to.as_ref().map(convert::from_address) {
                None => None,
                Some(Ok(Some(addr))) => Some(addr),
                Some(_) => return number(Error::FamilyNotSupported).into(),
            };
            let flags = SendFlags::from_bits_truncate(flags);
            count(stack.send(Handle(handle), data, to, flags, Instant::from_nanos(now)))
        })
    }
}

pub(super) unsafe extern "C" fn recv(
    context: *mut c_void,
    handle: u64,
    buffer: *mut c_void,
    capacity: usize,
    flags: u32,
    now: u64,
    received: *mut raw::Received,
) -> i32 {
    // SAFETY: the header says what the pointers are, for the whole call.
    unsafe {
        with(context, "recv", codes::BROKEN, |stack| {
            let buffer = if buffer.is_null() || capacity == 0 {
                &mut []
            } else {
                slice::from_raw_parts_mut(buffer.cast::<u8>(), capacity)
            };
            let flags = RecvFlags::from_bits_truncate(flags);
            match stack.recv(Handle(handle), buffer, flags, Instant::from_nanos(now)) {
                Ok(got) => {
                    *received = convert::to_received(&got);
                    0
                }
                Err(error) => number(error),
            }
        })
    }
}

pub(super) unsafe extern "C" fn take_host_fd(context: *mut c_void, handle: u64) -> i32 {
    // SAFETY: the header says what the context is.
    unsafe {
        with(context, "take_host_fd", codes::BROKEN, |stack| {
            stack.take_host_fd(Handle(handle)).map_or_else(number, IntoRawFd::into_raw_fd)
        })
    }
}

pub(super) unsafe extern "C" fn bind_host_fd(
    context: *mut c_void,
    fd: i32,
    address: *const raw::Address,
) -> i32 {
    // SAFETY: the header says what the pointer is, and that the descriptor is open during the call.
    unsafe {
        with(context, "bind_host_fd", codes::BROKEN, |stack| {
            let addr = address.as_ref().and_then(|a| convert::from_address(a).ok().flatten());
            match addr {
                Some(addr) if fd >= 0 => status(stack.bind_host_fd(BorrowedFd::borrow_raw(fd), addr)),
                _ => number(Error::Invalid),
            }
        })
    }
}

/// The most pieces of lent memory that are passed on: a stack that lends more lends the others the next time.
const PIECES: usize = 16;

/// Passes pieces of lent memory on to the caller's function, and answers how many bytes it moved.
///
/// # Safety
/// The function is the caller's, as the header says, and the memory is there; it is written to only if the function
/// fills it.
unsafe fn lend(
    function: raw::Lend,
    caller: *mut c_void,
    lent: impl Iterator<Item = (*mut u8, usize)>,
) -> usize {
    let mut pieces = [raw::Piece { bytes: ptr::null_mut(), length: 0 }; PIECES];
    let (mut count, mut total) = (0, 0);
    for (place, (bytes, length)) in pieces.iter_mut().zip(lent) {
        *place = raw::Piece { bytes: bytes.cast(), length };
        count += 1;
        total += length;
    }
    // SAFETY: the caller's promise.
    let moved = function.map_or(0, |f| unsafe { f(caller, pieces.as_ptr(), count) });
    usize::try_from(moved).unwrap_or(usize::MAX).min(total)
}

/// What a stack that lends no memory needs, and does not get here: it answers that this is not supported, and the
/// caller, whose memory it would be, calls `send` and `recv`.
fn none(spill: &mut Spill) -> Spare<'_> {
    Spare { scratch: &mut [], spill }
}

pub(super) unsafe extern "C" fn send_with(
    context: *mut c_void,
    handle: u64,
    flags: u32,
    now: u64,
    fill: raw::Lend,
    caller: *mut c_void,
) -> i64 {
    // SAFETY: the header says what the context and the function are.
    unsafe {
        with(context, "send_with", codes::BROKEN.into(), |stack| {
            let mut fill = |lent: &mut [IoSliceMut<'_>]| {
                lend(fill, caller, lent.iter_mut().map(|piece| (piece.as_mut_ptr(), piece.len())))
            };
            let (mut spill, flags) = (Spill::new(), SendFlags::from_bits_truncate(flags));
            let now = Instant::from_nanos(now);
            count(stack.send_with(Handle(handle), flags, now, none(&mut spill), &mut fill))
        })
    }
}

pub(super) unsafe extern "C" fn recv_with(
    context: *mut c_void,
    handle: u64,
    now: u64,
    take: raw::Lend,
    caller: *mut c_void,
) -> i64 {
    // SAFETY: the header says what the context and the function are.
    unsafe {
        with(context, "recv_with", codes::BROKEN.into(), |stack| {
            let mut take = |lent: &[IoSlice<'_>]| {
                lend(take, caller, lent.iter().map(|piece| (piece.as_ptr().cast_mut(), piece.len())))
            };
            let mut spill = Spill::new();
            let received =
                stack.recv_with(Handle(handle), Instant::from_nanos(now), none(&mut spill), &mut take);
            count(received.map(|streamed| match streamed {
                Streamed::Bytes(count) => count,
                Streamed::End => 0,
            }))
        })
    }
}

/// How far a batch came: the count, and why not further.
///
/// # Safety
/// `stopped` is null or a place for a number.
unsafe fn batch(stopped: *mut i32, batch: Batch) -> i64 {
    if !stopped.is_null() {
        // SAFETY: the caller's promise.
        unsafe { stopped.write(batch.stopped.map_or(0, number)) };
    }
    i64::try_from(batch.count).unwrap_or(i64::MAX)
}

pub(super) unsafe extern "C" fn send_batch(
    context: *mut c_void,
    handle: u64,
    datagrams: *const raw::Datagram,
    total: usize,
    flags: u32,
    now: u64,
    stopped: *mut i32,
) -> i64 {
    /// Datagrams that are converted at a time.
    const CHUNK: usize = 16;
    // SAFETY: the header says what the pointers are, for the whole call.
    unsafe {
        with(context, "send_batch", codes::BROKEN.into(), |stack| {
            let (flags, now) = (SendFlags::from_bits_truncate(flags), Instant::from_nanos(now));
            let mut sent = Batch::default();
            for chunk in list(datagrams, total).chunks(CHUNK) {
                let mut some = [Datagram { data: &[], to: None }; CHUNK];
                let mut known = 0;
                for (place, datagram) in some.iter_mut().zip(chunk) {
                    let Ok(to) = convert::from_address(&datagram.to) else { break };
                    *place = Datagram { data: list(datagram.data.cast::<u8>(), datagram.length), to };
                    known += 1;
                }
                let done =
                    stack.send_batch(Handle(handle), some.get(..known).unwrap_or_default(), flags, now);
                sent = Batch { count: sent.count + done.count, stopped: done.stopped };
                if sent.stopped.is_none() && known < chunk.len() {
                    sent.stopped = Some(Error::FamilyNotSupported);
                }
                if sent.stopped.is_some() {
                    break;
                }
            }
            batch(stopped, sent)
        })
    }
}

pub(super) unsafe extern "C" fn recv_batch(
    context: *mut c_void,
    handle: u64,
    limit: usize,
    now: u64,
    deliver: raw::Deliver,
    caller: *mut c_void,
    stopped: *mut i32,
) -> i64 {
    // SAFETY: the header says what the pointers and the function are, for the whole call.
    unsafe {
        with(context, "recv_batch", codes::BROKEN.into(), |stack| {
            let mut deliver = |received: &Received, data: &[u8]| {
                let received = convert::to_received(received);
                if let Some(deliver) = deliver {
                    deliver(caller, &raw const received, data.as_ptr().cast());
                }
            };
            let now = Instant::from_nanos(now);
            let received = stack.recv_batch(Handle(handle), limit, now, &mut [], &mut deliver);
            batch(stopped, received)
        })
    }
}

//! The functions that are more than a conversion.

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

/// What a socket is ready for, or an error.
pub(super) fn readiness_of(stack: &dyn PluginStack, handle: u64) -> i64 {
    stack.readiness(Handle(handle)).map_or_else(|e| number(e).into(), |events| events.bits().into())
}

/// A set of events that a caller passes.
pub(super) fn mask(bits: u32) -> Events {
    Events::from_bits_truncate(bits)
}

//! The table's functions: each converts its arguments, calls the stack behind the panic barrier, and converts the
//! answer.

use netgraft_plugin::Domain;

use super::calls::*;
use super::*;

/// A function whose body is safe but for what it reads and writes through pointers; nothing for one that is written by
/// hand.
macro_rules! function {
    ($name:ident($($arg:ident: $ty:ty),*) -> $answer:ty) => {};
    ($name:ident($($arg:ident: $ty:ty),*) -> $answer:ty = $broken:expr, |$stack:ident| $body:expr) => {
        unsafe extern "C" fn $name(context: *mut c_void $(, $arg: $ty)*) -> $answer {
            // SAFETY: the header says what the context and the pointers are, for the whole call.
            unsafe { with(context, stringify!($name), $broken, |$stack| $body) }
        }
    };
}

/// The functions, and the table of them all.
macro_rules! functions {
    ($(
        $(#[$need:ident])? $name:ident($($arg:ident: $ty:ty),*) -> $answer:ty
            $(= $broken:expr, |$stack:ident| $body:expr)?;
    )*) => {
        $(function! { $name($($arg: $ty),*) -> $answer $(= $broken, |$stack| $body)? })*

        /// The functions; what describes the stack is filled in by [`super::describe`].
        pub(super) const TABLE: Table = Table {
            size: 0,
            version: 0,
            flags: 0,
            name: ptr::null(),
            version_text: ptr::null(),
            needs: ptr::null(),
            sockets: ptr::null(),
            socket_count: 0,
            options: ptr::null(),
            option_count: 0,
            rules: ptr::null(),
            rule_count: 0,
            create: Some(create),
            $($name: Some($name),)*
        };
    };
}
crate::interface::interface!(functions);

const BROKEN: i32 = codes::BROKEN;

fn at(now: u64) -> Instant {
    Instant::from_nanos(now)
}

/// Writes a value through a pointer of the caller.
///
/// # Safety
/// `out` is null or a place for it.
unsafe fn put<T>(out: *mut T, value: Result<T>) -> i32 {
    match value {
        // SAFETY: the caller's promise.
        Ok(value) if !out.is_null() => unsafe {
            out.write(value);
            0
        },
        Ok(_) => number(Error::Invalid),
        Err(error) => number(error),
    }
}

/// Reads an address of the caller.
///
/// # Safety
/// `addr` is null or points to one.
unsafe fn address(addr: *const raw::Address) -> Result<std::net::SocketAddr> {
    // SAFETY: the caller's promise.
    let addr = unsafe { addr.as_ref() }.ok_or(Error::Invalid)?;
    convert::from_address(addr).ok().flatten().ok_or(Error::FamilyNotSupported)
}

/// Reads a value of the caller that may be nonsense.
///
/// # Safety
/// `value` is null or points to one.
unsafe fn get<T, U>(value: *const T, convert: impl Fn(&T) -> Option<U>) -> Result<U> {
    // SAFETY: the caller's promise.
    unsafe { value.as_ref() }.and_then(convert).ok_or(Error::Invalid)
}

fn domain(family: u32) -> Result<Domain> {
    convert::from_family(family).ok_or(Error::FamilyNotSupported)
}

/// A set of events that a caller passes.
fn events(bits: u32) -> Events {
    Events::from_bits_truncate(bits)
}

//! The other way round: a stack in Rust as a level 1 object.
//!
//! ```ignore
//! netgraft_abi::export_stack!("mine", mine::factory());
//! ```
//!
//! in a crate of type `cdylib` is all that is needed. Panics stop at the boundary: the call, and every one after it,
//! answers `NETGRAFT_E_BROKEN`, and the stack, in whatever state the panic left it, is not called again.

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::{ptr, slice};

use netgraft_plugin::registry::Factory;
use netgraft_plugin::{
    Cidr, Error, Events, Handle, InitStackArgs, Instant, LinkConfig, PluginStack, PreInitStackArgs,
    RecvFlags, Result, SendFlags, StackConfig, WakeFd,
};

use crate::codes;
use crate::convert;
use crate::raw::{self, Table};

/// Exports a stack from a crate of type `cdylib`: its name, and an expression for its factory
/// ([`netgraft_plugin::registry::Factory`]).
#[macro_export]
macro_rules! export_stack {
    ($name:literal, $factory:expr) => {
        /// The entry point of `netgraft.h`.
        // SAFETY: the name is the interface's own, and an object exports it once.
        #[unsafe(no_mangle)]
        pub extern "C" fn netgraft_stack(requested: u32) -> *const $crate::raw::Table {
            $crate::export::table(requested, $name, || $factory)
        }
    };
}

/// A table that lives as long as the object.
struct Exported {
    table: Table,
    factory: Arc<Factory>,
}

// SAFETY: the table points to memory that is leaked and never written again.
unsafe impl Send for Exported {}
// SAFETY: as above.
unsafe impl Sync for Exported {}

static EXPORTED: OnceLock<Option<Exported>> = OnceLock::new();

/// An instance: what a context points to.
struct Instance {
    /// `None` after a panic.
    stack: Option<Box<dyn PluginStack>>,
    log: Log,
}

/// The caller's log.
#[derive(Clone, Copy)]
struct Log(*const raw::Host);

impl Log {
    fn write(self, level: u32, text: &str) {
        if self.0.is_null() {
            return;
        }
        // SAFETY: the caller keeps it alive as long as the instance, and its `log` may be called any time.
        unsafe {
            let host = &*self.0;
            if let Some(log) = host.log {
                log(host.context, level, text.as_ptr().cast(), text.len());
            }
        }
    }
}

/// What [`export_stack`] expands to: the table, made at the first call; null for another major version, and if the
/// stack cannot describe itself.
#[must_use]
pub fn table(requested: u32, name: &str, factory: fn() -> Arc<Factory>) -> *const Table {
    if requested >> 16 != raw::VERSION >> 16 {
        return ptr::null();
    }
    let make = || catch_unwind(AssertUnwindSafe(|| describe(name, factory()))).ok().flatten();
    EXPORTED.get_or_init(make).as_ref().map_or(ptr::null(), |exported| &raw const exported.table)
}

/// Memory for the table's lists and texts: as long as the object.
fn leak<T: 'static>(list: Vec<T>) -> (*const T, usize) {
    let list: &'static [T] = Vec::leak(list);
    (list.as_ptr(), list.len())
}

fn leak_text(text: &str) -> Option<*const c_char> {
    CString::new(text).ok().map(|text| text.into_raw().cast_const())
}

/// Asks a stack with the default configuration what it is; one that does not take it says less.
fn describe(name: &str, factory: Arc<Factory>) -> Option<Exported> {
    let stack = factory(&StackConfig::default()).ok();
    let (info, rules, host_fds) = match &stack {
        Some(stack) => (stack.info(), stack.seccomp_filters(), stack.offers_host_fds()),
        None => Default::default(),
    };
    let (sockets, socket_count) = leak(info.sockets.iter().copied().map(convert::to_spec).collect());
    let (options, option_count) =
        leak(info.options.iter().filter_map(|name| codes::option_number(*name)).collect());
    let (rules, rule_count) = leak(rules.iter().filter_map(convert::to_rule).collect());
    let table = Table {
        size: size_of::<Table>() as u32,
        version: raw::VERSION,
        flags: if host_fds { codes::STACK_HOST_FDS } else { 0 },
        name: leak_text(name)?,
        version_text: leak_text(&info.version)?,
        needs: leak_text(&info.needs)?,
        sockets,
        socket_count,
        options,
        option_count,
        rules,
        rule_count,
        ..functions::TABLE
    };
    Some(Exported { table, factory })
}

fn number(error: Error) -> i32 {
    codes::error_number(error).unwrap_or(crate::NOT_SUPPORTED)
}

fn status(result: Result<()>) -> i32 {
    result.map_or_else(number, |()| 0)
}

fn count(result: Result<usize>) -> i64 {
    result.map_or_else(|e| number(e).into(), |n| i64::try_from(n).unwrap_or(i64::MAX))
}

/// Runs a call on an instance. A panic becomes `broken`, as does every call after it. `name` is the call's.
///
/// # Safety
/// `context` is null or an [`Instance`] that has no other user meanwhile.
unsafe fn with<R>(
    context: *mut c_void,
    name: &str,
    broken: R,
    call: impl FnOnce(&mut dyn PluginStack) -> R,
) -> R {
    // SAFETY: the caller's promise.
    let Some(instance) = (unsafe { context.cast::<Instance>().as_mut() }) else { return broken };
    let Some(stack) = &mut instance.stack else { return broken };
    match catch_unwind(AssertUnwindSafe(|| call(stack.as_mut()))) {
        Ok(result) => result,
        Err(panic) => {
            // Not even its destructor runs: it would see what the panic left.
            std::mem::forget(instance.stack.take());
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            let text = format!("the stack panicked in '{name}': {}", text.unwrap_or("no text"));
            instance.log.write(codes::LOG_ERROR, &text);
            broken
        }
    }
}

/// Writes a reason, ended by a zero byte and cut if need be.
///
/// # Safety
/// `why` is null or has room for `capacity` bytes.
unsafe fn explain(why: *mut c_char, capacity: usize, text: &str) {
    if why.is_null() || capacity == 0 {
        return;
    }
    let length = text.len().min(capacity - 1);
    // SAFETY: the caller's promise; one more byte than `length` is there.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), why, length);
        *why.add(length) = 0;
    }
}

/// Fills a caller's array as list functions do.
///
/// # Safety
/// `out` has room for `capacity` elements.
unsafe fn fill<T>(out: *mut T, capacity: usize, items: impl ExactSizeIterator<Item = T>) -> i64 {
    let total = items.len();
    if !out.is_null() {
        for (i, item) in items.take(capacity).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { out.add(i).write(item) };
        }
    }
    i64::try_from(total).unwrap_or(i64::MAX)
}

/// The configuration that a caller passes.
///
/// # Safety
/// It is as the header says.
unsafe fn config(config: &raw::Config) -> Result<StackConfig, String> {
    let text = |p: *const c_char| {
        // SAFETY: texts end in a zero byte, the caller's promise.
        let text = unsafe { CStr::from_ptr(p) };
        text.to_str().map(str::to_owned).map_err(|e| e.to_string())
    };
    let name = || {
        let name = if config.link_name.is_null() { String::new() } else { text(config.link_name)? };
        name.parse().map_err(|e: netgraft_plugin::config::ParseInterfaceError| e.to_string())
    };
    let link = match config.link_kind {
        codes::LINK_NONE => LinkConfig::None,
        codes::LINK_TAP => LinkConfig::tap(name()?),
        codes::LINK_PACKET => LinkConfig::packet(name()?),
        other => return Err(format!("there is no link of kind {other}")),
    };
    // SAFETY: the arrays have these lengths, the caller's promise.
    let (addresses, gateways) = unsafe {
        (list(config.addresses, config.address_count), list(config.gateways, config.gateway_count))
    };
    let addresses: Option<Vec<Cidr>> = addresses.iter().map(convert::from_cidr).collect();
    let gateways = gateways.iter().map(|ip| convert::from_ip(ip).ok().flatten()).collect::<Option<_>>();
    Ok(StackConfig {
        link,
        addresses: addresses.ok_or("an address is none")?,
        gateways: gateways.ok_or("a gateway is none")?,
        argument: if config.argument.is_null() { None } else { Some(text(config.argument)?) },
        ..StackConfig::default()
    })
}

/// An array of a caller.
///
/// # Safety
/// It is null, or has so many elements for as long as the answer is used.
unsafe fn list<'a, T>(first: *const T, count: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    if first.is_null() || count == 0 { &[] } else { unsafe { slice::from_raw_parts(first, count) } }
}

mod calls;
mod functions;
mod logs;

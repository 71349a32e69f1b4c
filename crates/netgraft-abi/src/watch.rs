//! Which call of a stack is being made now, for whoever looks from another process: the launcher, when the
//! sentry has died or hangs in a call.

use std::io;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

macro_rules! calls {
    (
        [$($before:ident $text:literal,)*] [$($after:ident,)*];
        $(
            $(#[$need:ident])? $name:ident($($arg:ident: $ty:ty),*) -> $answer:ty
                $(= $broken:expr, |$stack:ident| $body:expr)?;
        )*
    ) => {
        /// A call of a stack.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        #[expect(non_camel_case_types, reason = "the names of the functions themselves")]
        pub(crate) enum Call { $($before,)* $($name,)* $($after,)* }

        impl Call {
            const ALL: &'static [Call] = &[$(Call::$before,)* $(Call::$name,)* $(Call::$after,)*];

            /// Its name in the interface.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Call::$before => $text,)*
                    $(Call::$name => stringify!($name),)*
                    $(Call::$after => stringify!($after),)*
                }
            }
        }
    };
}

// Not functions of a table, but code of the object that runs all the same; then those of level 0.
crate::interface::interface!(calls for [
    loading "its constructors", netgraft_stack "netgraft_stack", create "create",
] [
    plugin_preinitstack, plugin_initstack, plugin_epoll_create, plugin_epoll_ctl, plugin_epoll_wait, plugin_socket,
    plugin_bind, plugin_listen, plugin_accept, plugin_connect, plugin_getsockname, plugin_getpeername,
    plugin_getsockopt, plugin_setsockopt, plugin_ioctl, plugin_shutdown, plugin_close, plugin_readiness, plugin_read,
    plugin_recv, plugin_recvmsg, plugin_write, plugin_send, plugin_sendto, plugin_destroystack,
    plugin_get_interfaces, plugin_get_interfaceaddrs, plugin_get_routes, plugin_get_tcp_sndbuf_size,
    plugin_get_tcp_rcvbuf_size, plugin_get_port_range, plugin_add_route, plugin_del_route,
]);

/// The threads of ours that call a stack.
#[derive(Clone, Copy)]
pub(crate) enum Caller {
    /// The sentry's loop, or whoever stands in for it.
    Loop = 0,
    /// The thread that drives a level 0 stack's events.
    Driver = 1,
}

/// One caller's line: the call (0 for none, else its number and one), how many calls there were, and the id of the
/// thread (gettid(2)), which only the driver's has.
#[derive(Default)]
struct Line {
    call: AtomicU32,
    count: AtomicU32,
    thread: AtomicI32,
}

impl Line {
    fn name(&self) -> Option<&'static str> {
        let number = self.call.load(Ordering::Relaxed).checked_sub(1)?;
        Call::ALL.get(number as usize).map(|call| call.name())
    }
}

type Page = [Line; 2];

/// A page of memory that forked processes share.
pub(crate) struct Watch {
    page: NonNull<Page>,
}

// SAFETY: the page holds atomics only, is reached through shared references only, and lives until the drop.
unsafe impl Send for Watch {}
// SAFETY: as above.
unsafe impl Sync for Watch {}

impl Watch {
    pub(crate) fn new() -> io::Result<Watch> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice; no memory of ours is touched.
        let page = unsafe { libc::mmap(ptr::null_mut(), size_of::<Page>(), protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast::<Page>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Watch { page })
    }

    fn lines(&self) -> &Page {
        // SAFETY: the mapping is page-aligned, large enough, lives as long as `self`, and began as zeros, which are
        // values of atomics. Other processes, and a stack gone wild, may write to it: any value is one.
        unsafe { self.page.as_ref() }
    }

    /// Notes that a call begins; it ends when the answer is dropped.
    pub(crate) fn enter(&self, caller: Caller, call: Call) -> Inside<'_> {
        let line = &self.lines()[caller as usize];
        // One writer for each line: no read-modify-write is needed.
        line.count.store(line.count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        line.call.store(call as u32 + 1, Ordering::Relaxed);
        Inside { line, not_send: PhantomData }
    }

    /// The calling thread is the driver's.
    pub(crate) fn drives(&self) {
        // SAFETY: no arguments, and it cannot fail.
        let thread = unsafe { libc::gettid() };
        self.lines()[Caller::Driver as usize].thread.store(thread, Ordering::Relaxed);
    }

    /// What the loop's thread is in; and the number of its calls so far.
    pub(crate) fn current(&self) -> (Option<&'static str>, u64) {
        let [main, _] = self.lines();
        (main.name(), main.count.load(Ordering::Relaxed).into())
    }

    /// What the driver's thread is in, if this is its id.
    pub(crate) fn of_driver(&self, thread: i32) -> Option<&'static str> {
        let [_, driver] = self.lines();
        driver.name().filter(|_| driver.thread.load(Ordering::Relaxed) == thread)
    }

    /// Forgets what a process that is gone was in.
    pub(crate) fn clear(&self) {
        for line in self.lines() {
            line.call.store(0, Ordering::Relaxed);
            line.thread.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size, and no reference to it outlives `self`.
        unsafe { libc::munmap(self.page.as_ptr().cast(), size_of::<Page>()) };
    }
}

/// A call that goes on.
pub(crate) struct Inside<'a> {
    line: &'a Line,
    /// The line belongs to one thread.
    not_send: PhantomData<*const ()>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.line.call.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netgraft_linux::process::{Wait, fork, kill, wait};

    #[test]
    fn the_calls_stand_at_their_numbers() {
        for (i, call) in Call::ALL.iter().enumerate() {
            assert_eq!(*call as usize, i, "{}", call.name());
        }
    }

    #[test]
    fn a_dead_process_leaves_its_last_call_behind() {
        let watch = Watch::new().unwrap();
        drop(watch.enter(Caller::Loop, Call::socket));
        assert_eq!(watch.current().0, None);
        let child = fork(|| {
            let _inside = watch.enter(Caller::Loop, Call::plugin_connect);
            let _ = kill(std::process::id() as i32, libc::SIGKILL);
            0
        })
        .unwrap();
        wait(child, Wait::Block).unwrap();
        assert_eq!(watch.current(), (Some("plugin_connect"), 2));
        watch.clear();
        assert_eq!(watch.current().0, None);
    }

    #[test]
    fn the_driver_is_known_by_its_thread() {
        let watch = Watch::new().unwrap();
        // SAFETY: no arguments, and it cannot fail.
        let own = unsafe { libc::gettid() };
        watch.drives();
        let inside = watch.enter(Caller::Driver, Call::plugin_epoll_wait);
        assert_eq!(watch.of_driver(own), Some("plugin_epoll_wait"));
        assert_eq!((watch.of_driver(own + 1), watch.current()), (None, (None, 0)));
        drop(inside);
        assert_eq!(watch.of_driver(own), None);
    }
}

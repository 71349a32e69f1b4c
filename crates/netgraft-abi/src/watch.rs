//! Which call of a stack is being made now, for another process: the launcher, when the
//! sentry has died or hangs in a call.

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use netgraft_linux::shared::{Calls, Words, thread_id};

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
        #[repr(u8)]
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
    /// The sentry's loop, or the code that stands in for it.
    Loop = 0,
    /// The thread that drives a level 0 stack's events.
    Driver = 1,
}

/// The word in which the driver's thread writes its id (gettid(2)), behind one for each caller's calls.
const DRIVER: usize = 2;

/// The calls of all callers, on a page of memory that forked processes share. What is read from it was written by a
/// process in which the object runs: it chooses a name among those above.
pub(crate) struct Watch(Words);

impl Watch {
    pub(crate) fn new() -> io::Result<Watch> {
        Words::new().map(Watch)
    }

    fn calls(&self, caller: Caller) -> Calls<'_> {
        self.0.calls(caller as usize)
    }

    fn name(&self, caller: Caller) -> Option<&'static str> {
        let number = self.calls(caller).pulse().current()?.checked_sub(1)?;
        Call::ALL.get(usize::from(number)).map(|call| call.name())
    }

    /// Notes that a call begins; it ends when the answer is dropped.
    pub(crate) fn enter(&self, caller: Caller, call: Call) -> Inside<'_> {
        let calls = self.calls(caller);
        calls.begin(call as u8 + 1);
        Inside { calls, not_send: PhantomData }
    }

    /// The calling thread is the driver's.
    pub(crate) fn drives(&self) {
        self.0.word(DRIVER).store(u64::from(thread_id().unsigned_abs()), Ordering::Relaxed);
    }

    /// What the loop's thread is in; and the number of its calls so far.
    pub(crate) fn current(&self) -> (Option<&'static str>, u64) {
        (self.name(Caller::Loop), self.calls(Caller::Loop).pulse().count())
    }

    /// What the driver's thread is in, if this is its id.
    pub(crate) fn of_driver(&self, thread: i32) -> Option<&'static str> {
        let driver = self.0.word(DRIVER).load(Ordering::Relaxed);
        self.name(Caller::Driver).filter(|_| driver == u64::from(thread.unsigned_abs()))
    }

    /// Forgets what a process that is gone was in.
    pub(crate) fn clear(&self) {
        for caller in [Caller::Loop, Caller::Driver] {
            self.calls(caller).forget();
        }
        self.0.word(DRIVER).store(0, Ordering::Relaxed);
    }
}

/// A call that goes on.
pub(crate) struct Inside<'a> {
    calls: Calls<'a>,
    /// The calls are those of one thread.
    not_send: PhantomData<*const ()>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.calls.end();
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
        let own = thread_id();
        watch.drives();
        let inside = watch.enter(Caller::Driver, Call::plugin_epoll_wait);
        assert_eq!(watch.of_driver(own), Some("plugin_epoll_wait"));
        assert_eq!((watch.of_driver(own + 1), watch.current()), (None, (None, 0)));
        drop(inside);
        assert_eq!(watch.of_driver(own), None);
    }
}

//! The functions of a level 0 object.

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};

use crate::library::Library;

macro_rules! symbols {
    (mandatory { $($name:ident: $ty:ty,)* } optional { $($opt:ident: $opt_ty:ty,)* }) => {
        /// What is linked. The functions stay valid, since the object is never unloaded.
        #[derive(Clone, Copy)]
        #[expect(dead_code, reason = "an object must have all of them, whichever of them the adapter calls")]
        pub(crate) struct Symbols {
            $(pub(crate) $name: $ty,)*
            $(pub(crate) $opt: Option<$opt_ty>,)*
        }

        impl Symbols {
            /// Finds all functions.
            ///
            /// # Errors
            /// The names of all mandatory functions that are not there.
            pub(crate) fn find(library: &Library) -> Result<Symbols, Vec<String>> {
                let mut missing = Vec::new();
                $(
                    const _: () = assert!(size_of::<$ty>() == size_of::<*const ()>());
                    // SAFETY: the interface says what the symbol of this name is.
                    let $name = unsafe { library.symbol::<$ty>(c_name(concat!(stringify!($name), "\0"))) };
                    if $name.is_none() {
                        missing.push(stringify!($name).to_owned());
                    }
                )*
                match ($($name,)*) {
                    ($(Some($name),)*) => Ok(Symbols {
                        $($name,)*
                        $(
                            // SAFETY: as above.
                            $opt: unsafe {
                                library.symbol::<$opt_ty>(c_name(concat!(stringify!($opt), "\0")))
                            },
                        )*
                    }),
                    _ => Err(missing),
                }
            }
        }
    };
}

/// A name that ends in a zero byte.
fn c_name(name: &str) -> &CStr {
    CStr::from_bytes_with_nul(name.as_bytes()).unwrap_or_default()
}

type Err = *mut u64;
type SockAddr = *mut c_void;
type Len = *mut libc::socklen_t;
type Text = unsafe extern "C" fn(*mut *mut c_char) -> c_int;
type ChangeRoute = unsafe extern "C" fn(libc::in_addr_t, u8, libc::in_addr_t) -> c_int;

// A tuple that is matched has at most as many elements as std's traits go; a match needs no trait.
symbols! {
    mandatory {
        plugin_preinitstack: unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_int, *mut c_int) -> c_int,
        plugin_initstack: unsafe extern "C" fn(*const c_char, *mut c_int, c_int) -> c_int,
        plugin_epoll_create: unsafe extern "C" fn() -> c_int,
        plugin_epoll_ctl: unsafe extern "C" fn(c_int, c_int, c_int, *mut libc::epoll_event) -> c_int,
        plugin_epoll_wait: unsafe extern "C" fn(c_int, *mut libc::epoll_event, c_int, c_int) -> c_int,
        plugin_socket: unsafe extern "C" fn(c_int, c_int, c_int, Err) -> c_int,
        plugin_bind: unsafe extern "C" fn(c_int, *const c_void, libc::socklen_t, Err) -> c_int,
        plugin_listen: unsafe extern "C" fn(c_int, c_int, Err) -> c_int,
        plugin_accept: unsafe extern "C" fn(c_int, SockAddr, Len, Err) -> c_int,
        plugin_connect: unsafe extern "C" fn(c_int, *const c_void, libc::socklen_t, Err) -> c_int,
        plugin_getsockname: unsafe extern "C" fn(c_int, SockAddr, Len, Err) -> c_int,
        plugin_getpeername: unsafe extern "C" fn(c_int, SockAddr, Len, Err) -> c_int,
        plugin_getsockopt: unsafe extern "C" fn(c_int, c_int, c_int, *mut c_void, Len, Err) -> c_int,
        plugin_setsockopt: unsafe extern "C" fn(c_int, c_int, c_int, *const c_void, libc::socklen_t, Err) -> c_int,
        plugin_ioctl: unsafe extern "C" fn(c_int, Err, c_ulong, *mut c_void) -> c_int,
        plugin_shutdown: unsafe extern "C" fn(c_int, c_int, Err) -> c_int,
        plugin_close: unsafe extern "C" fn(c_int) -> c_int,
        plugin_readiness: unsafe extern "C" fn(c_int, c_int) -> c_int,
        plugin_read: unsafe extern "C" fn(c_int, *mut c_void, usize, Err) -> isize,
        plugin_readv: unsafe extern "C" fn(c_int, *const libc::iovec, c_int, Err) -> isize,
        plugin_recv: unsafe extern "C" fn(c_int, *mut c_void, usize, c_int, Err) -> isize,
        plugin_recvfrom: unsafe extern "C" fn(c_int, *mut c_void, usize, c_int, SockAddr, Len, Err) -> isize,
        plugin_recvmsg: unsafe extern "C" fn(c_int, *mut libc::msghdr, c_int, Err) -> isize,
        plugin_write: unsafe extern "C" fn(c_int, *const c_void, usize, Err) -> isize,
        plugin_writev: unsafe extern "C" fn(c_int, *const libc::iovec, c_int, Err) -> isize,
        plugin_send: unsafe extern "C" fn(c_int, *const c_void, usize, c_int, Err) -> isize,
        plugin_sendto: unsafe extern "C" fn(c_int, *const c_void, usize, c_int, *const c_void, libc::socklen_t, Err) -> isize,
        plugin_sendmsg: unsafe extern "C" fn(c_int, *const libc::msghdr, c_int, Err) -> isize,
    }
    optional {
        plugin_destroystack: unsafe extern "C" fn(),
        plugin_get_interfaces: Text,
        plugin_get_interfaceaddrs: Text,
        plugin_get_routes: Text,
        plugin_get_tcp_sndbuf_size: Text,
        plugin_get_tcp_rcvbuf_size: Text,
        plugin_get_port_range: Text,
        plugin_add_route: ChangeRoute,
        plugin_del_route: ChangeRoute,
    }
}

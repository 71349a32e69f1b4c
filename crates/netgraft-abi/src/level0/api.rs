//! The calls on a level 0 object: each checked, none with more than what the interface promises.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_ulong, c_void};
use std::net::SocketAddr;
use std::ptr;
use std::sync::Arc;

use netgraft_linux::inet_socket::{decode_addr, encode_addr};
use netgraft_plugin::Error;

use super::driver::Shared;
use super::symbols::Symbols;
use crate::object::Loaded;
use crate::watch::{Call, Caller};

/// Calls a function of the object on the loop's thread.
macro_rules! invoke {
    ($api:expr, $name:ident($($arg:expr),*)) => {{
        let api: &Api = $api;
        let _inside = api.loaded.watch().enter(Caller::Loop, Call::$name);
        // SAFETY: the function has this type, as the interface says; pointers among the arguments lead to live objects
        // of the lengths that are passed, and `err` always to one.
        unsafe { (api.symbols.$name)($($arg),*) }
    }};
}

/// Room for an address that the object writes.
const ADDRESS: usize = 128;
/// The greatest errno value (errno(3)).
const MAX_ERRNO: u64 = 4095;
/// The object computes lengths in an int.
const MAX_LENGTH: usize = 1 << 30;
/// The most bytes that a datagram has.
const MAX_DATAGRAM: usize = 65_535;

/// What can be called, and how to complain.
pub(super) struct Api {
    pub(super) loaded: Arc<Loaded>,
    pub(super) symbols: Symbols,
    pub(super) shared: Arc<Shared>,
    nonsense: Cell<u64>,
    /// Whether the object knows `MSG_TRUNC`, as long as it has not refused it.
    tells_length: Cell<bool>,
}

/// The error for an errno value of the object; what no stack should give is [`Error::Io`].
pub(super) fn error_of(errno: c_int) -> Error {
    match errno {
        libc::EINTR => Error::Again,
        libc::ESHUTDOWN => Error::BrokenPipe,
        libc::ENETRESET => Error::ConnectionReset,
        libc::EHOSTDOWN => Error::HostUnreachable,
        libc::EMFILE => Error::TooManySockets,
        libc::ENOTSOCK => Error::BadHandle,
        libc::ENOSYS => Error::NotSupported,
        other => Error::from_errno(other).unwrap_or(Error::Io),
    }
}

/// What a call gave: a number, or an errno value. Nonsense is EIO, and logged.
pub(super) type Outcome = Result<usize, c_int>;

impl Api {
    pub(super) const fn new(loaded: Arc<Loaded>, symbols: Symbols, shared: Arc<Shared>) -> Api {
        Api { loaded, symbols, shared, nonsense: Cell::new(0), tells_length: Cell::new(true) }
    }

    /// The object broke its contract: logged ever more rarely.
    pub(super) fn complain(&self, call: Call, what: std::fmt::Arguments<'_>) -> c_int {
        let count = self.nonsense.get() + 1;
        self.nonsense.set(count);
        if count.is_power_of_two() {
            let (stack, call) = (self.loaded.object(), call.name());
            tracing::error!(stack, call, count, "the stack {stack} breaks its contract in {call}: {what}");
        }
        libc::EIO
    }

    /// `err` is stale unless the result is negative.
    fn outcome(&self, call: Call, result: isize, err: u64) -> Outcome {
        match usize::try_from(result) {
            Ok(number) => Ok(number),
            Err(_) if (1..=MAX_ERRNO).contains(&err) => Err(err as c_int),
            Err(_) => Err(self.complain(call, format_args!("it fails with the error {err}"))),
        }
    }

    fn small(&self, call: Call, result: c_int, err: u64) -> Outcome {
        self.outcome(call, result as isize, err)
    }

    /// A result that must not be larger than what was asked for.
    fn at_most(&self, call: Call, limit: usize, outcome: Outcome) -> Outcome {
        match outcome {
            Ok(number) if number > limit => {
                Err(self.complain(call, format_args!("{number} bytes, where {limit} were asked for")))
            }
            other => other,
        }
    }

    fn address(&self, call: Call, bytes: &[u8; ADDRESS], len: libc::socklen_t) -> Result<SocketAddr, c_int> {
        let written = bytes.get(..len as usize);
        written.and_then(decode_addr).ok_or_else(|| {
            let family = u16::from_ne_bytes([bytes[0], bytes[1]]);
            self.complain(call, format_args!("an address of family {family} and {len} bytes"))
        })
    }

    pub(super) fn socket(&self, domain: c_int, kind: c_int, protocol: c_int) -> Result<c_int, c_int> {
        let mut err = 0;
        let result = invoke!(self, plugin_socket(domain, kind, protocol, &raw mut err));
        self.small(Call::plugin_socket, result, err).map(|h| h as c_int)
    }

    pub(super) fn close(&self, h: c_int) {
        invoke!(self, plugin_close(h));
    }

    pub(super) fn bind(&self, h: c_int, addr: SocketAddr) -> Outcome {
        let ((bytes, len), mut err) = (encode_addr(&addr), 0);
        let result = invoke!(self, plugin_bind(h, bytes.as_ptr().cast(), len as u32, &raw mut err));
        self.small(Call::plugin_bind, result, err)
    }

    pub(super) fn listen(&self, h: c_int, backlog: u32) -> Outcome {
        let (backlog, mut err) = (c_int::try_from(backlog).unwrap_or(c_int::MAX), 0);
        let result = invoke!(self, plugin_listen(h, backlog, &raw mut err));
        self.small(Call::plugin_listen, result, err)
    }

    /// The new handle, and its peer or what was wrong with that.
    pub(super) fn accept(&self, h: c_int) -> Result<(c_int, Result<SocketAddr, c_int>), c_int> {
        let (mut bytes, mut len, mut err) = ([0; ADDRESS], ADDRESS as u32, 0);
        let result = invoke!(self, plugin_accept(h, bytes.as_mut_ptr().cast(), &raw mut len, &raw mut err));
        let new = self.small(Call::plugin_accept, result, err)? as c_int;
        Ok((new, self.address(Call::plugin_accept, &bytes, len)))
    }

    pub(super) fn connect(&self, h: c_int, addr: SocketAddr) -> Outcome {
        let (bytes, len) = encode_addr(&addr);
        self.connect_bytes(h, bytes.get(..len).unwrap_or_default())
    }

    /// Forgets a datagram socket's peer: an address of no family.
    pub(super) fn disconnect(&self, h: c_int) -> Outcome {
        self.connect_bytes(h, &[0; 16])
    }

    fn connect_bytes(&self, h: c_int, bytes: &[u8]) -> Outcome {
        let mut err = 0;
        let result = invoke!(
            self,
            plugin_connect(h, bytes.as_ptr().cast(), bytes.len() as libc::socklen_t, &raw mut err)
        );
        self.small(Call::plugin_connect, result, err)
    }

    pub(super) fn local_addr(&self, h: c_int) -> Result<SocketAddr, c_int> {
        let (mut bytes, mut len, mut err) = ([0; ADDRESS], ADDRESS as u32, 0);
        let result =
            invoke!(self, plugin_getsockname(h, bytes.as_mut_ptr().cast(), &raw mut len, &raw mut err));
        self.small(Call::plugin_getsockname, result, err)?;
        self.address(Call::plugin_getsockname, &bytes, len)
    }

    pub(super) fn peer_addr(&self, h: c_int) -> Result<SocketAddr, c_int> {
        let (mut bytes, mut len, mut err) = ([0; ADDRESS], ADDRESS as u32, 0);
        let result =
            invoke!(self, plugin_getpeername(h, bytes.as_mut_ptr().cast(), &raw mut len, &raw mut err));
        self.small(Call::plugin_getpeername, result, err)?;
        self.address(Call::plugin_getpeername, &bytes, len)
    }

    /// How many bytes of the value were written.
    pub(super) fn get_option(&self, h: c_int, level: c_int, name: c_int, value: &mut [u8]) -> Outcome {
        let (mut len, mut err) = (value.len() as libc::socklen_t, 0);
        let result = invoke!(
            self,
            plugin_getsockopt(h, level, name, value.as_mut_ptr().cast(), &raw mut len, &raw mut err)
        );
        self.small(Call::plugin_getsockopt, result, err)?;
        self.at_most(Call::plugin_getsockopt, value.len(), Ok(len as usize))
    }

    /// An option that is an int.
    pub(super) fn get_int(&self, h: c_int, level: c_int, name: c_int) -> Result<c_int, c_int> {
        let mut value = [0; size_of::<c_int>()];
        self.get_option(h, level, name, &mut value)?;
        Ok(c_int::from_ne_bytes(value))
    }

    pub(super) fn set_option(&self, h: c_int, level: c_int, name: c_int, value: &[u8]) -> Outcome {
        let (len, mut err) = (value.len() as libc::socklen_t, 0);
        let result =
            invoke!(self, plugin_setsockopt(h, level, name, value.as_ptr().cast(), len, &raw mut err));
        self.small(Call::plugin_setsockopt, result, err)
    }

    /// A request that takes or gives an int. `err` stands in the second place of this function alone.
    pub(super) fn ioctl(&self, h: c_int, request: u64, value: c_int) -> Result<c_int, c_int> {
        let (mut value, mut err) = (value, 0);
        let request = request as c_ulong;
        let result = invoke!(self, plugin_ioctl(h, &raw mut err, request, (&raw mut value).cast::<c_void>()));
        self.small(Call::plugin_ioctl, result, err)?;
        Ok(value)
    }

    pub(super) fn shutdown(&self, h: c_int, how: c_int) -> Outcome {
        let mut err = 0;
        let result = invoke!(self, plugin_shutdown(h, how, &raw mut err));
        self.small(Call::plugin_shutdown, result, err)
    }

    /// All that the socket is ready for; a level. `None` if the object does not know.
    pub(super) fn readiness(&self, h: c_int) -> Option<u32> {
        // Not for urgent data, which nothing here receives: a closed stream claims all that it is asked for.
        const ALL: c_int = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP;
        u32::try_from(invoke!(self, plugin_readiness(h, ALL | libc::EPOLLHUP | libc::EPOLLERR))).ok()
    }

    /// Registers a socket for all events, or takes it off. It is done once in its life: an edge between two
    /// registrations would be lost.
    pub(super) fn register(&self, h: c_int, token: Option<u64>) -> bool {
        let edges = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: edges as u32, u64: token.unwrap_or(0) };
        let op = if token.is_some() { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_DEL };
        invoke!(self, plugin_epoll_ctl(self.shared.epoll(), op, h, &raw mut event)) >= 0
    }

    pub(super) fn write(&self, h: c_int, data: &[u8], flags: c_int) -> Outcome {
        let (len, mut err) = (data.len().min(MAX_LENGTH), 0);
        // Not every stack knows flags, and most writes have none.
        let (call, result) = if flags == 0 {
            (Call::plugin_write, invoke!(self, plugin_write(h, data.as_ptr().cast(), len, &raw mut err)))
        } else {
            (Call::plugin_send, invoke!(self, plugin_send(h, data.as_ptr().cast(), len, flags, &raw mut err)))
        };
        self.at_most(call, len, self.outcome(call, result, err))
    }

    pub(super) fn send_to(&self, h: c_int, data: &[u8], flags: c_int, to: SocketAddr) -> Outcome {
        let ((bytes, addr_len), len, mut err) = (encode_addr(&to), data.len().min(MAX_LENGTH), 0);
        let result = invoke!(
            self,
            plugin_sendto(
                h,
                data.as_ptr().cast(),
                len,
                flags,
                bytes.as_ptr().cast(),
                addr_len as u32,
                &raw mut err
            )
        );
        self.at_most(Call::plugin_sendto, len, self.outcome(Call::plugin_sendto, result, err))
    }

    pub(super) fn read(&self, h: c_int, buf: &mut [u8], peek: bool) -> Outcome {
        let (len, mut err) = (buf.len().min(MAX_LENGTH), 0);
        let (call, result) = if peek {
            let flags = libc::MSG_PEEK;
            (
                Call::plugin_recv,
                invoke!(self, plugin_recv(h, buf.as_mut_ptr().cast(), len, flags, &raw mut err)),
            )
        } else {
            (Call::plugin_read, invoke!(self, plugin_read(h, buf.as_mut_ptr().cast(), len, &raw mut err)))
        };
        self.at_most(call, len, self.outcome(call, result, err))
    }

    /// Looks whether a byte is there: 1, 0 at the end of a stream, or what is wrong with it. Nothing is taken.
    pub(super) fn peek(&self, h: c_int) -> Outcome {
        self.read(h, &mut [0], true)
    }

    /// A datagram: its bytes in the buffer, how long it is, and its sender.
    pub(super) fn read_datagram(
        &self,
        h: c_int,
        buf: &mut [u8],
        peek: bool,
    ) -> Result<(usize, usize, Option<SocketAddr>), c_int> {
        let flags = if peek { libc::MSG_PEEK } else { 0 };
        if self.tells_length.get() {
            match self.read_message(h, buf, flags | libc::MSG_TRUNC) {
                // Not every object knows the flag.
                Err(libc::EINVAL | libc::EOPNOTSUPP) => self.tells_length.set(false),
                other => return other,
            }
        }
        self.read_message(h, buf, flags)
    }

    /// recvmsg(2), with or without `MSG_TRUNC`, which asks for the whole length of what is cut.
    fn read_message(
        &self,
        h: c_int,
        buf: &mut [u8],
        flags: c_int,
    ) -> Result<(usize, usize, Option<SocketAddr>), c_int> {
        let (mut bytes, mut err) = ([0_u8; ADDRESS], 0);
        let len = buf.len().min(MAX_LENGTH);
        let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: len };
        // SAFETY: `msghdr` is plain data for which zero is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = bytes.as_mut_ptr().cast();
        message.msg_namelen = ADDRESS as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        let call = Call::plugin_recvmsg;
        let result = invoke!(self, plugin_recvmsg(h, &raw mut message, flags, &raw mut err));
        let cut = message.msg_flags & libc::MSG_TRUNC != 0;
        let limit = if cut && flags & libc::MSG_TRUNC != 0 { len.max(MAX_DATAGRAM) } else { len };
        let told = self.at_most(call, limit, self.outcome(call, result, err))?;
        let got = told.min(len);
        let from = match message.msg_namelen {
            0 => None,
            len => Some(self.address(call, &bytes, len)?),
        };
        // Cut, and not how much: longer than what is here.
        Ok((got, if cut { told.max(got + 1) } else { told }, from))
    }

    /// A text of an optional function, if the object has it and it answers. The memory is the object's malloc's.
    pub(super) fn text(
        &self,
        call: Call,
        function: Option<unsafe extern "C" fn(*mut *mut c_char) -> c_int>,
    ) -> Option<String> {
        let mut text = ptr::null_mut();
        let result = {
            let _inside = self.loaded.watch().enter(Caller::Loop, call);
            // SAFETY: the interface says what the function takes: where to put a pointer.
            unsafe { function?(&raw mut text) }
        };
        if text.is_null() {
            return None;
        }
        // SAFETY: on success it is a text that malloc(3) made and that is now ours; on failure nothing is known of it.
        let text = (result >= 0).then(|| unsafe { take_text(text) })?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Copies a text and frees it.
///
/// # Safety
/// It is a text in memory of malloc(3) that has no other user.
pub(super) unsafe fn take_text(text: *mut c_char) -> Vec<u8> {
    // SAFETY: the caller's promise.
    let copy = unsafe { std::ffi::CStr::from_ptr(text) }.to_bytes().to_vec();
    // SAFETY: as above.
    unsafe { libc::free(text.cast()) };
    copy
}

//! Readiness events.

use crate::socket::Handle;

bitflags::bitflags! {
    /// What a socket is ready for, with the bits of epoll_ctl(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Events: u32 {
        /// Data, a connection to accept, or the end of the stream can be read.
        const IN = libc::EPOLLIN as u32;
        /// Urgent data can be read.
        const PRI = libc::EPOLLPRI as u32;
        /// Something can be written; a connection attempt has ended.
        const OUT = libc::EPOLLOUT as u32;
        /// An error is pending ([`crate::socket::Sockets::take_error`]).
        const ERR = libc::EPOLLERR as u32;
        /// Both directions are closed.
        const HUP = libc::EPOLLHUP as u32;
        /// The peer sends no more.
        const RDHUP = libc::EPOLLRDHUP as u32;
    }
}

/// A socket's readiness, as a stack reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The socket.
    pub handle: Handle,
    /// All that it is ready for now (level, not only what changed).
    pub events: Events,
}

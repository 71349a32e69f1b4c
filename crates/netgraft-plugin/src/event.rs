//! Readiness events.

use linux_raw_sys::general;

use crate::socket::Handle;

bitflags::bitflags! {
    /// What a socket is ready for, with the bits of epoll_ctl(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Events: u32 {
        /// Data, a connection to accept, or the end of the stream can be read.
        const IN = general::EPOLLIN;
        /// Urgent data can be read.
        const PRI = general::EPOLLPRI;
        /// Something can be written; a connection attempt has ended.
        const OUT = general::EPOLLOUT;
        /// An error is pending ([`crate::socket::Sockets::take_error`]).
        const ERR = general::EPOLLERR;
        /// Both directions are closed.
        const HUP = general::EPOLLHUP;
        /// The peer sends no more.
        const RDHUP = general::EPOLLRDHUP;
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

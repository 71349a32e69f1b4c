//! Sockets as handles.

use std::net::SocketAddr;

use crate::data::{self, Batch, Datagram, Fill, Spare, Streamed, Take};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::option::{OptionName, SocketOption, TcpInfo};
use crate::time::Instant;

/// A socket of a stack. The stack chooses the number, and never uses one again while the sentry may still hold
/// an event for it: a counter will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// The address family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// `AF_INET`
    V4,
    /// `AF_INET6`
    V6,
}

impl Domain {
    /// The family of an address.
    #[must_use]
    pub const fn of(addr: &SocketAddr) -> Self {
        match addr {
            SocketAddr::V4(_) => Domain::V4,
            SocketAddr::V6(_) => Domain::V6,
        }
    }
}

/// The type of a socket (socket(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `SOCK_STREAM`
    Stream,
    /// `SOCK_DGRAM`
    Datagram,
    /// `SOCK_RAW`
    Raw,
}

/// The protocol of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP, of a stream socket.
    Tcp,
    /// UDP, of a datagram socket.
    Udp,
    /// ICMP echo of a datagram socket (icmp(7)): requests go out, replies with the socket's identifier come
    /// in. The "port" of its addresses is the identifier.
    Icmp,
    /// The same for ICMPv6.
    Icmpv6,
    /// This IP protocol number, of a raw socket.
    Raw(u8),
}

/// What kind of socket to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketSpec {
    /// Address family.
    pub domain: Domain,
    /// Type.
    pub kind: Kind,
    /// Protocol, never a default: the sentry resolves 0.
    pub protocol: Protocol,
}

/// Which half of a connection to close (shutdown(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// `SHUT_RD`
    Read,
    /// `SHUT_WR`
    Write,
    /// `SHUT_RDWR`
    Both,
}

bitflags::bitflags! {
    /// Flags of a send.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SendFlags: u32 {
        /// More data follows at once (`MSG_MORE`, send(2)).
        const MORE = 1;
        /// Do not use a gateway (`MSG_DONTROUTE`).
        const DONT_ROUTE = 2;
        /// Urgent data (`MSG_OOB`): the last byte is where it ends, if all of them are taken;
        /// [`crate::Error::NotSupported`] where a stack has none.
        const OUT_OF_BAND = 4;
    }

    /// Flags of a receive.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RecvFlags: u32 {
        /// Leave the data where it is (`MSG_PEEK`, recv(2)).
        const PEEK = 1;
    }
}

/// What a receive gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Received {
    /// Bytes written to the buffer. For a stream, 0 with a non-empty buffer is the end of the stream.
    pub len: usize,
    /// The datagram's own length, more than `len` if it was cut; `len` for a stream.
    pub full_len: usize,
    /// The sender of a datagram; `None` for a stream.
    pub from: Option<SocketAddr>,
    /// The address that a datagram was sent to, if the stack knows (`IP_PKTINFO`, ip(7)).
    pub to: Option<std::net::IpAddr>,
    /// Index of the interface on which it came, or 0.
    pub interface: u32,
    /// TTL or hop limit of the packet, or 0 if the stack does not know.
    pub hop_limit: u8,
    /// TOS or traffic class of the packet.
    pub traffic_class: u8,
}

/// The socket calls.
///
/// None blocks. A handle that is not the stack's own is answered with [`Error::BadHandle`]; a call that does
/// not fit the socket's state, with the error that Linux gives.
pub trait Sockets {
    /// Makes a socket.
    ///
    /// # Errors
    /// [`Error::FamilyNotSupported`], [`Error::KindNotSupported`], [`Error::ProtocolNotSupported`],
    /// [`Error::TooManySockets`].
    fn socket(&mut self, spec: SocketSpec) -> Result<Handle>;

    /// Binds to a local address; port 0 asks for a free one from [`crate::inet::Stack::port_range`].
    ///
    /// # Errors
    /// [`Error::AddressInUse`], [`Error::AddressNotAvailable`], [`Error::FamilyNotSupported`],
    /// [`Error::Invalid`] if the socket is bound.
    fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()>;

    /// Listens. At most `backlog` connections wait to be accepted (listen(2)); a second call changes it. A
    /// socket that is not bound gets a free port. A stack with TCP sockets must have it: without it, servers cannot start.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], [`Error::Invalid`] if the socket is connected, [`Error::NotSupported`] if it
    /// is no stream socket.
    fn listen(&mut self, handle: Handle, backlog: u32) -> Result<()> {
        let _ = (handle, backlog);
        Err(Error::NotSupported)
    }

    /// Takes the first waiting connection off a listener: its handle and its peer. A stack with TCP sockets must have it:
    /// without it, clients wait in vain.
    ///
    /// # Errors
    /// [`Error::Again`] if none waits, [`Error::Invalid`] if the socket does not listen.
    fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)> {
        let _ = handle;
        Err(Error::Invalid)
    }

    /// Connects. A stream socket answers [`Error::InProgress`], later reports OUT, or ERR with the reason in
    /// [`Sockets::take_error`]; asked again it answers [`Error::Already`], or [`Error::IsConnected`]. A
    /// datagram socket only notes the peer, and may be connected again.
    ///
    /// # Errors
    /// As above, and [`Error::NetworkUnreachable`], [`Error::AddressNotAvailable`] when no port is free.
    fn connect(&mut self, handle: Handle, addr: SocketAddr, now: Instant) -> Result<()>;

    /// Forgets a datagram socket's peer (connect(2) with `AF_UNSPEC`).
    ///
    /// # Errors
    /// [`Error::NotSupported`] for a stream socket.
    fn disconnect(&mut self, handle: Handle) -> Result<()> {
        let _ = handle;
        Err(Error::NotSupported)
    }

    /// The local address; unspecified with port 0 before the socket is bound.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    fn local_addr(&self, handle: Handle) -> Result<SocketAddr>;

    /// The peer's address.
    ///
    /// # Errors
    /// [`Error::NotConnected`].
    fn peer_addr(&self, handle: Handle) -> Result<SocketAddr>;

    /// Sends. A stream takes as much as it has room for and says how much; a datagram is taken whole or not
    /// at all. `to` is only for datagrams. The bytes may leave with the next [`crate::PluginStack::poll`].
    ///
    /// # Errors
    /// [`Error::Again`] if nothing can be taken; [`Error::NotConnected`], [`Error::DestinationRequired`],
    /// [`Error::BrokenPipe`] after a shutdown, [`Error::MessageTooLong`], or the socket's pending error.
    fn send(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
        now: Instant,
    ) -> Result<usize>;

    /// Receives.
    ///
    /// # Errors
    /// [`Error::Again`] if nothing is there; [`Error::NotConnected`], or the socket's pending error.
    fn recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags, now: Instant) -> Result<Received>;

    /// Sends bytes of a stream that `fill` writes into the stack's own memory: they are moved once.
    ///
    /// `fill` is called once at most, with room; all that it writes is taken, and the answer is how much that is.
    /// What `spare` has left over from a call before goes first. By default the bytes go through `spare`
    /// ([`crate::data::send_copied`]); a stack that lends its memory leaves `spare` alone unless there is something
    /// left over in it.
    ///
    /// # Errors
    /// [`Error::Again`] if there is no room: `fill` was not called. Otherwise as [`Sockets::send`]; if `fill` was
    /// called before the stack found out, its bytes are lost with the connection.
    fn send_with(
        &mut self,
        handle: Handle,
        flags: SendFlags,
        now: Instant,
        spare: Spare<'_>,
        fill: &mut Fill<'_>,
    ) -> Result<usize> {
        data::send_copied(self, handle, flags, now, spare, fill)
    }

    /// Receives bytes of a stream: `take` sees them in the stack's own memory.
    ///
    /// `take` is called once at most, with the first bytes that are there; those that it does not take stay. What
    /// `spare` has left over from a call before comes first. By default the bytes go through `spare`
    /// ([`crate::data::recv_copied`]); a stack that lends its memory leaves `spare` alone unless there is something
    /// left over in it.
    ///
    /// # Errors
    /// As [`Sockets::recv`]: `take` was not called.
    fn recv_with(
        &mut self,
        handle: Handle,
        now: Instant,
        spare: Spare<'_>,
        take: &mut Take<'_>,
    ) -> Result<Streamed> {
        data::recv_copied(self, handle, now, spare, take)
    }

    /// Sends datagrams of one socket, in order, up to the first that fails. Each is taken as by [`Sockets::send`].
    fn send_batch(
        &mut self,
        handle: Handle,
        batch: &[Datagram<'_>],
        flags: SendFlags,
        now: Instant,
    ) -> Batch {
        data::send_each(self, handle, batch, flags, now)
    }

    /// Receives at most `limit` datagrams of one socket, and hands each to `deliver`. A stack that lends its memory
    /// shows them there; any other uses `scratch`, which is to have room for the longest: what is longer is cut. With
    /// an empty one it stops with [`Error::NotSupported`].
    fn recv_batch(
        &mut self,
        handle: Handle,
        limit: usize,
        now: Instant,
        scratch: &mut [u8],
        deliver: &mut dyn FnMut(&Received, &[u8]),
    ) -> Batch {
        data::recv_each(self, handle, limit, now, scratch, deliver)
    }

    /// How many bytes of a stream [`Sockets::send`] would take now. A stack that cannot tell answers
    /// `usize::MAX`.
    fn send_room(&self, handle: Handle) -> usize {
        let _ = handle;
        usize::MAX
    }

    /// Bytes that can be received now; for a datagram socket the length of the first datagram (`FIONREAD`,
    /// udp(7)).
    ///
    /// # Errors
    /// [`Error::BadHandle`], [`Error::NotSupported`] if the stack cannot tell.
    fn queued_in(&self, handle: Handle) -> Result<usize> {
        let _ = handle;
        Err(Error::NotSupported)
    }

    /// Bytes sent and not yet acknowledged (`SIOCOUTQ`, tcp(7)).
    ///
    /// # Errors
    /// [`Error::BadHandle`], [`Error::NotSupported`] if the stack cannot tell.
    fn queued_out(&self, handle: Handle) -> Result<usize> {
        let _ = handle;
        Err(Error::NotSupported)
    }

    /// Where urgent data of a stream ends (`MSG_OOB`, recv(2); RFC 9293 section 3.8.5): how many bytes it is until behind
    /// the last of it, counted from the next that [`Sockets::recv`] gives, whether they have come or not; 0 if there is
    /// none, or it was received. The data itself is in line.
    ///
    /// # Errors
    /// [`Error::BadHandle`], [`Error::NotSupported`] where a stack has no urgent data.
    fn urgent(&self, handle: Handle) -> Result<usize> {
        let _ = handle;
        Err(Error::NotSupported)
    }

    /// Closes one or both halves.
    ///
    /// # Errors
    /// [`Error::NotConnected`].
    fn shutdown(&mut self, handle: Handle, how: Shutdown, now: Instant) -> Result<()>;

    /// Closes the socket; the handle is gone at once. A stream's queued bytes are still delivered, followed by
    /// a FIN, unless its linger time is zero.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    fn close(&mut self, handle: Handle, now: Instant) -> Result<()>;

    /// Closes the socket at once; a connected stream sends a reset (RFC 9293 section 3.10.5).
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    fn abort(&mut self, handle: Handle, now: Instant) -> Result<()> {
        self.close(handle, now)
    }

    /// What the socket is ready for now.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    fn readiness(&self, handle: Handle) -> Result<Events>;

    /// Takes the pending error (`SO_ERROR`). A stack that never reports ERR has none; one with TCP sockets must have it:
    /// without it, a `connect` that fails looks like one that has succeeded.
    fn take_error(&mut self, handle: Handle) -> Option<Error> {
        let _ = handle;
        None
    }

    /// Sets an option.
    ///
    /// # Errors
    /// [`Error::UnknownOption`] for what the stack cannot do: never a silent success. [`Error::Invalid`] for a
    /// value it cannot take.
    fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()> {
        let _ = (handle, option);
        Err(Error::UnknownOption)
    }

    /// Reads an option.
    ///
    /// # Errors
    /// [`Error::UnknownOption`].
    fn get_option(&self, handle: Handle, name: OptionName) -> Result<SocketOption> {
        let _ = (handle, name);
        Err(Error::UnknownOption)
    }

    /// What the stack knows of a TCP connection.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for another kind of socket.
    fn tcp_info(&self, handle: Handle) -> Result<TcpInfo> {
        let _ = handle;
        Err(Error::NotSupported)
    }
}

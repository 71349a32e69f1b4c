//! The errors of a stack, and the one table that turns them into errno values.

use linux_raw_sys::errno;

/// The result of a call on a stack.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $errno:ident, $text:literal;)*) => {
        /// Why a stack did not do what it was asked.
        ///
        /// Each variant has exactly one errno ([`Error::errno`]), the one that Linux gives in the same case
        /// (errno(3), tcp(7), udp(7), ip(7), ipv6(7)).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        #[non_exhaustive]
        pub enum Error {
            $($(#[$doc])* #[error($text)] $name,)*
        }

        impl Error {
            /// Every error, for tests and for tools that print the table.
            pub const ALL: &'static [Error] = &[$(Error::$name),*];

            /// The errno value, positive, as in errno(3).
            #[must_use]
            pub const fn errno(self) -> i32 {
                match self { $(Error::$name => errno::$errno.cast_signed(),)* }
            }

            /// The error for an errno value, if a stack can give it.
            #[must_use]
            pub const fn from_errno(value: i32) -> Option<Error> {
                if value < 0 {
                    return None;
                }
                match value.cast_unsigned() { $(errno::$errno => Some(Error::$name),)* _ => None }
            }
        }
    };
}

errors! {
    /// Nothing can be done now; an event will say when.
    Again = EAGAIN, "would block";
    /// The connection is being made; an event will say when.
    InProgress = EINPROGRESS, "operation in progress";
    /// A connection is being made already.
    Already = EALREADY, "connection already in progress";
    /// The socket is connected already.
    IsConnected = EISCONN, "already connected";
    /// The socket has no peer.
    NotConnected = ENOTCONN, "not connected";
    /// A datagram needs a destination and has none.
    DestinationRequired = EDESTADDRREQ, "destination address required";
    /// The address and port are taken.
    AddressInUse = EADDRINUSE, "address in use";
    /// The address is not one of the stack's, or no port is left.
    AddressNotAvailable = EADDRNOTAVAIL, "address not available";
    /// The address is of a family that the socket does not speak.
    FamilyNotSupported = EAFNOSUPPORT, "address family not supported";
    /// The peer answered a connection attempt with a reset, or a datagram with "port unreachable".
    ConnectionRefused = ECONNREFUSED, "connection refused";
    /// The peer reset the connection.
    ConnectionReset = ECONNRESET, "connection reset by peer";
    /// The connection was given up locally.
    ConnectionAborted = ECONNABORTED, "connection aborted";
    /// The peer does not answer.
    TimedOut = ETIMEDOUT, "connection timed out";
    /// No route leads to the network.
    NetworkUnreachable = ENETUNREACH, "network unreachable";
    /// No route leads to the host, or it does not answer on its link.
    HostUnreachable = EHOSTUNREACH, "host unreachable";
    /// The stack, or its interface, is down or gone.
    NetworkDown = ENETDOWN, "network is down";
    /// The socket was shut down for sending.
    BrokenPipe = EPIPE, "broken pipe";
    /// The datagram is larger than the protocol or the buffer allows.
    MessageTooLong = EMSGSIZE, "message too long";
    /// The handle is none of the stack's.
    BadHandle = EBADF, "bad handle";
    /// An argument is wrong, or the socket is in the wrong state for the call.
    Invalid = EINVAL, "invalid argument";
    /// The stack cannot do this for this socket.
    NotSupported = EOPNOTSUPP, "operation not supported";
    /// The stack does not know the option.
    UnknownOption = ENOPROTOOPT, "protocol option not available";
    /// The stack does not know the protocol.
    ProtocolNotSupported = EPROTONOSUPPORT, "protocol not supported";
    /// The stack has no sockets of this type.
    KindNotSupported = ESOCKTNOSUPPORT, "socket type not supported";
    /// The caller may not do this, as a policy or the host says.
    NotPermitted = EPERM, "operation not permitted";
    /// Access was denied, as with a broadcast without `SO_BROADCAST`.
    AccessDenied = EACCES, "permission denied";
    /// The stack has no room for one more socket or buffer.
    NoBuffers = ENOBUFS, "no buffer space available";
    /// The stack has no memory left.
    NoMemory = ENOMEM, "out of memory";
    /// Too many sockets.
    TooManySockets = ENFILE, "too many sockets";
    /// A thing that was named does not exist, such as a route or an interface.
    NotFound = ENODEV, "no such device or entry";
    /// The thing that was to be made exists.
    Exists = EEXIST, "entry exists";
    /// A value is out of its range.
    OutOfRange = EDOM, "value out of range";
    /// A stack broke its contract, or its device failed.
    Io = EIO, "input/output error";
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::from_raw_os_error(error.errno())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errno_table_is_a_bijection() {
        for &error in Error::ALL {
            assert_eq!(Error::from_errno(error.errno()), Some(error));
        }
        assert_eq!(Error::from_errno(0), None);
    }
}

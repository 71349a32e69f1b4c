//! The trapped system calls, with their arguments in the types that the kernel reads them as.

use netgraft_plugin::{Domain, Kind, Protocol, SocketSpec};

use crate::uapi::{self, Errno};

/// An address argument: where it is and how long the program says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Address in the program's memory.
    pub address: u64,
    /// Length in bytes.
    pub len: u64,
}

/// An address result: where it goes, and where its length stands and goes (accept(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressOut {
    /// Where the address goes; 0 for nowhere.
    pub address: u64,
    /// Where its length stands.
    pub len: u64,
}

/// A trapped call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the arguments' names in section 2 of the manual")]
pub enum Call {
    Socket {
        domain: i32,
        kind: i32,
        protocol: i32,
    },
    Bind {
        fd: i32,
        addr: Buffer,
    },
    Listen {
        fd: i32,
        backlog: i32,
    },
    Accept {
        fd: i32,
        addr: AddressOut,
        flags: i32,
    },
    Connect {
        fd: i32,
        addr: Buffer,
    },
    GetSockName {
        fd: i32,
        addr: AddressOut,
    },
    GetPeerName {
        fd: i32,
        addr: AddressOut,
    },
    Shutdown {
        fd: i32,
        how: i32,
    },
    GetSockOpt {
        fd: i32,
        level: i32,
        name: i32,
        value: u64,
        len: u64,
    },
    SetSockOpt {
        fd: i32,
        level: i32,
        name: i32,
        value: Buffer,
    },
    SendTo {
        fd: i32,
        data: Buffer,
        flags: i32,
        addr: Buffer,
    },
    RecvFrom {
        fd: i32,
        data: Buffer,
        flags: i32,
        addr: AddressOut,
    },
    SendMsg {
        fd: i32,
        message: u64,
        flags: i32,
    },
    RecvMsg {
        fd: i32,
        message: u64,
        flags: i32,
    },
    SendMMsg {
        fd: i32,
        messages: u64,
        count: u32,
        flags: i32,
    },
    RecvMMsg {
        fd: i32,
        messages: u64,
        count: u32,
        flags: i32,
        timeout: u64,
    },
    Ioctl {
        fd: i32,
        request: u32,
        argument: u64,
    },
    /// setns(2), or unshare(2) or clone(2) with a new network namespace.
    EnterNamespace,
}

impl Call {
    /// Reads a notification; `None` for a call that is not trapped.
    #[must_use]
    pub fn parse(number: i64, args: [u64; 6]) -> Option<Call> {
        // Registers are 64 bits wide; the kernel reads an `int` from the low half.
        let int = |i: usize| args[i] as i32;
        let fd = int(0);
        // `socklen_t` is an `int` to the kernel.
        let buffer = |i: usize| Buffer { address: args[i], len: u64::from(args[i + 1] as u32) };
        let out = |i: usize| AddressOut { address: args[i], len: args[i + 1] };
        let data = Buffer { address: args[1], len: args[2] };
        Some(match number {
            uapi::SYS_socket => Call::Socket { domain: fd, kind: int(1), protocol: int(2) },
            uapi::SYS_bind => Call::Bind { fd, addr: buffer(1) },
            uapi::SYS_listen => Call::Listen { fd, backlog: int(1) },
            uapi::SYS_accept => Call::Accept { fd, addr: out(1), flags: 0 },
            uapi::SYS_accept4 => Call::Accept { fd, addr: out(1), flags: int(3) },
            uapi::SYS_connect => Call::Connect { fd, addr: buffer(1) },
            uapi::SYS_getsockname => Call::GetSockName { fd, addr: out(1) },
            uapi::SYS_getpeername => Call::GetPeerName { fd, addr: out(1) },
            uapi::SYS_shutdown => Call::Shutdown { fd, how: int(1) },
            uapi::SYS_getsockopt => {
                Call::GetSockOpt { fd, level: int(1), name: int(2), value: args[3], len: args[4] }
            }
            uapi::SYS_setsockopt => Call::SetSockOpt { fd, level: int(1), name: int(2), value: buffer(3) },
            uapi::SYS_sendto => Call::SendTo { fd, data, flags: int(3), addr: buffer(4) },
            uapi::SYS_recvfrom => Call::RecvFrom { fd, data, flags: int(3), addr: out(4) },
            uapi::SYS_sendmsg => Call::SendMsg { fd, message: args[1], flags: int(2) },
            uapi::SYS_recvmsg => Call::RecvMsg { fd, message: args[1], flags: int(2) },
            uapi::SYS_sendmmsg => {
                Call::SendMMsg { fd, messages: args[1], count: args[2] as u32, flags: int(3) }
            }
            uapi::SYS_recvmmsg => Call::RecvMMsg {
                fd,
                messages: args[1],
                count: args[2] as u32,
                flags: int(3),
                timeout: args[4],
            },
            uapi::SYS_setns | uapi::SYS_unshare | uapi::SYS_clone => Call::EnterNamespace,
            uapi::SYS_ioctl => Call::Ioctl { fd, request: args[1] as u32, argument: args[2] },
            _ => return None,
        })
    }

    /// The socket that the call is about; `None` for a call that makes one, or that is about none.
    #[must_use]
    pub const fn fd(&self) -> Option<i32> {
        match *self {
            Call::Socket { .. } | Call::EnterNamespace => None,
            Call::Bind { fd, .. }
            | Call::Listen { fd, .. }
            | Call::Accept { fd, .. }
            | Call::Connect { fd, .. }
            | Call::GetSockName { fd, .. }
            | Call::GetPeerName { fd, .. }
            | Call::Shutdown { fd, .. }
            | Call::GetSockOpt { fd, .. }
            | Call::SetSockOpt { fd, .. }
            | Call::SendTo { fd, .. }
            | Call::RecvFrom { fd, .. }
            | Call::SendMsg { fd, .. }
            | Call::RecvMsg { fd, .. }
            | Call::SendMMsg { fd, .. }
            | Call::RecvMMsg { fd, .. }
            | Call::Ioctl { fd, .. } => Some(fd),
        }
    }
}

/// What `socket` was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSocket {
    /// What to make.
    pub spec: SocketSpec,
    /// `SOCK_NONBLOCK`
    pub nonblocking: bool,
    /// `SOCK_CLOEXEC`
    pub close_on_exec: bool,
}

/// `IPPROTO_MPTCP`
const MPTCP: i32 = 262;
const TYPE_MASK: i32 = 0xf;

/// Reads the arguments of socket(2).
///
/// # Errors
/// EINVAL for unknown flags or types, EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT as Linux.
pub fn new_socket(domain: i32, kind: i32, protocol: i32) -> Result<NewSocket, Errno> {
    let flags = kind & !TYPE_MASK;
    if flags & !(uapi::SOCK_NONBLOCK | uapi::SOCK_CLOEXEC) != 0 {
        return Err(uapi::EINVAL);
    }
    let domain = match domain {
        uapi::AF_INET => Domain::V4,
        uapi::AF_INET6 => Domain::V6,
        _ => return Err(uapi::EAFNOSUPPORT),
    };
    if !(0..=MPTCP).contains(&protocol) {
        return Err(uapi::EINVAL);
    }
    let echo = match domain {
        Domain::V4 => (uapi::IPPROTO_ICMP, Protocol::Icmp),
        Domain::V6 => (uapi::IPPROTO_ICMPV6, Protocol::Icmpv6),
    };
    let (kind, protocol) = match (kind & TYPE_MASK, protocol) {
        (uapi::SOCK_STREAM, 0 | uapi::IPPROTO_TCP) => (Kind::Stream, Protocol::Tcp),
        (uapi::SOCK_DGRAM, 0 | uapi::IPPROTO_UDP) => (Kind::Datagram, Protocol::Udp),
        (uapi::SOCK_DGRAM, p) if p == echo.0 => (Kind::Datagram, echo.1),
        (uapi::SOCK_RAW, 0) => return Err(uapi::EPROTONOSUPPORT),
        (uapi::SOCK_RAW, p) => {
            (Kind::Raw, Protocol::Raw(u8::try_from(p).map_err(|_| uapi::EPROTONOSUPPORT)?))
        }
        (uapi::SOCK_STREAM | uapi::SOCK_DGRAM, _) => return Err(uapi::EPROTONOSUPPORT),
        (uapi::SOCK_RDM | uapi::SOCK_SEQPACKET | uapi::SOCK_DCCP, _) => {
            return Err(uapi::ESOCKTNOSUPPORT);
        }
        _ => return Err(uapi::EINVAL),
    };
    Ok(NewSocket {
        spec: SocketSpec { domain, kind, protocol },
        nonblocking: flags & uapi::SOCK_NONBLOCK != 0,
        close_on_exec: flags & uapi::SOCK_CLOEXEC != 0,
    })
}

/// The number of a protocol (`SO_PROTOCOL`).
#[must_use]
pub const fn protocol_number(protocol: Protocol) -> i32 {
    match protocol {
        Protocol::Tcp => uapi::IPPROTO_TCP,
        Protocol::Udp => uapi::IPPROTO_UDP,
        Protocol::Icmp => uapi::IPPROTO_ICMP,
        Protocol::Icmpv6 => uapi::IPPROTO_ICMPV6,
        Protocol::Raw(number) => number as i32,
    }
}

/// The number of a type (`SO_TYPE`).
#[must_use]
pub const fn kind_number(kind: Kind) -> i32 {
    match kind {
        Kind::Stream => uapi::SOCK_STREAM,
        Kind::Datagram => uapi::SOCK_DGRAM,
        Kind::Raw => uapi::SOCK_RAW,
    }
}

/// The number of a family (`SO_DOMAIN`).
#[must_use]
pub const fn domain_number(domain: Domain) -> i32 {
    match domain {
        Domain::V4 => uapi::AF_INET,
        Domain::V6 => uapi::AF_INET6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_resolved() {
        let s = new_socket(uapi::AF_INET6, uapi::SOCK_STREAM | uapi::SOCK_NONBLOCK, 0).unwrap();
        assert_eq!(s.spec, SocketSpec { domain: Domain::V6, kind: Kind::Stream, protocol: Protocol::Tcp });
        assert!(s.nonblocking && !s.close_on_exec);
        let echo = new_socket(uapi::AF_INET, uapi::SOCK_DGRAM, uapi::IPPROTO_ICMP).unwrap();
        assert_eq!(echo.spec.protocol, Protocol::Icmp);
    }

    #[test]
    fn refusals_are_those_of_linux() {
        let errno = |d, k, p| new_socket(d, k, p).unwrap_err();
        assert_eq!(errno(uapi::AF_INET, uapi::SOCK_STREAM, MPTCP), uapi::EPROTONOSUPPORT);
        assert_eq!(errno(uapi::AF_INET, uapi::SOCK_STREAM, uapi::IPPROTO_UDP), uapi::EPROTONOSUPPORT);
        assert_eq!(errno(uapi::AF_INET, uapi::SOCK_SEQPACKET, 0), uapi::ESOCKTNOSUPPORT);
        assert_eq!(errno(uapi::AF_INET, uapi::SOCK_STREAM, -1), uapi::EINVAL);
        assert_eq!(errno(uapi::AF_INET, uapi::SOCK_STREAM | 0x40, 0), uapi::EINVAL);
        assert_eq!(errno(uapi::AF_INET, 9, 0), uapi::EINVAL);
        assert_eq!(errno(uapi::AF_INET6, uapi::SOCK_DGRAM, uapi::IPPROTO_ICMP), uapi::EPROTONOSUPPORT);
    }

    #[test]
    fn arguments_are_read_as_the_kernel_reads_them() {
        let high = 0xdead_0000_0000_0000u64;
        let call = Call::parse(uapi::SYS_bind, [high | 3, 0x1000, high | 16, 0, 0, 0]);
        assert_eq!(call, Some(Call::Bind { fd: 3, addr: Buffer { address: 0x1000, len: 16 } }));
        assert_eq!(Call::parse(i64::from(linux_raw_sys::general::__NR_read), [0; 6]), None);
    }
}

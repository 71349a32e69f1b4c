//! Numbers of Linux's user-space interface (the kernel's `include/uapi`), as the types in which system calls
//! carry them.
//!
//! They come from `linux-raw-sys`, which is made from the kernel's headers for each architecture; the few that those
//! headers compute are at the end.

use linux_raw_sys::{errno, general, net};

/// An errno value, positive (errno(3)).
pub type Errno = i32;

macro_rules! ints {
    ($from:ident: $($name:ident)*) => {
        $(#[doc = concat!("`", stringify!($name), "`")] pub const $name: i32 = $from::$name as i32;)*
    };
}

macro_rules! calls {
    ($($name:ident = $number:ident)*) => {
        $(#[doc = concat!("`", stringify!($name), "`")]
        #[expect(non_upper_case_globals, reason = "the names of syscall(2)")]
        pub const $name: i64 = general::$number as i64;)*
    };
}

ints! { errno:
    EACCES EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF ECONNABORTED ECONNREFUSED ECONNRESET
    EDESTADDRREQ EDOM EFAULT EHOSTUNREACH EINPROGRESS EINTR EINVAL EIO EISCONN EMFILE EMSGSIZE ENETDOWN
    ENETUNREACH ENFILE ENOBUFS ENODATA ENODEV ENOMEM ENOENT ENOPROTOOPT ENOSYS ENOTCONN ENOTSOCK ENOTTY EOPNOTSUPP EPERM
    EPIPE EPROTO EPROTONOSUPPORT ESOCKTNOSUPPORT ESRCH
}

calls! {
    SYS_accept = __NR_accept
    SYS_accept4 = __NR_accept4
    SYS_bind = __NR_bind
    SYS_clone = __NR_clone
    SYS_connect = __NR_connect
    SYS_getpeername = __NR_getpeername
    SYS_getsockname = __NR_getsockname
    SYS_getsockopt = __NR_getsockopt
    SYS_ioctl = __NR_ioctl
    SYS_listen = __NR_listen
    SYS_recvfrom = __NR_recvfrom
    SYS_recvmmsg = __NR_recvmmsg
    SYS_recvmsg = __NR_recvmsg
    SYS_sendmmsg = __NR_sendmmsg
    SYS_sendmsg = __NR_sendmsg
    SYS_sendto = __NR_sendto
    SYS_setns = __NR_setns
    SYS_setsockopt = __NR_setsockopt
    SYS_shutdown = __NR_shutdown
    SYS_socket = __NR_socket
    SYS_unshare = __NR_unshare
}

ints! { net:
    AF_INET AF_INET6 AF_UNSPEC IPV6_ADD_MEMBERSHIP IPV6_DROP_MEMBERSHIP IPV6_HDRINCL IPV6_HOPLIMIT
    IPV6_MTU IPV6_MTU_DISCOVER IPV6_MULTICAST_HOPS IPV6_MULTICAST_IF IPV6_MULTICAST_LOOP IPV6_PKTINFO
    IPV6_RECVERR IPV6_RECVHOPLIMIT IPV6_RECVPKTINFO IPV6_RECVTCLASS IPV6_TCLASS IPV6_UNICAST_HOPS
    IPV6_V6ONLY IP_ADD_MEMBERSHIP IP_DROP_MEMBERSHIP IP_HDRINCL IP_MTU IP_MTU_DISCOVER IP_MULTICAST_IF
    IP_MULTICAST_LOOP IP_MULTICAST_TTL IP_PKTINFO IP_RECVERR IP_RECVTOS IP_RECVTTL IP_RETOPTS IP_TOS
    IP_TTL MSG_CTRUNC MSG_DONTROUTE MSG_DONTWAIT MSG_ERRQUEUE MSG_MORE MSG_OOB MSG_PEEK MSG_TRUNC MSG_WAITALL SHUT_RD
    SHUT_RDWR SHUT_WR SOCK_DGRAM SOCK_RAW SOCK_RDM SOCK_SEQPACKET SOCK_STREAM SOL_SOCKET SO_ACCEPTCONN
    SO_BINDTODEVICE SO_BROADCAST SO_COOKIE SO_DOMAIN SO_DONTROUTE SO_ERROR SO_KEEPALIVE SO_LINGER SO_MARK
    SO_OOBINLINE SO_PEEK_OFF SO_PRIORITY SO_PROTOCOL SO_RCVBUF SO_RCVBUFFORCE SO_RCVLOWAT SO_RCVTIMEO SO_REUSEADDR
    SO_REUSEPORT SO_SNDBUF SO_SNDBUFFORCE SO_SNDLOWAT SO_SNDTIMEO SO_TIMESTAMP SO_TIMESTAMPNS SO_TYPE
    TCP_CONGESTION TCP_CORK TCP_DEFER_ACCEPT TCP_FASTOPEN TCP_FASTOPEN_CONNECT TCP_INFO TCP_KEEPCNT TCP_KEEPIDLE TCP_KEEPINTVL TCP_LINGER2
    TCP_MAXSEG TCP_NODELAY TCP_NOTSENT_LOWAT TCP_QUICKACK TCP_SYNCNT TCP_USER_TIMEOUT TCP_WINDOW_CLAMP
    IPPROTO_ICMP IPPROTO_ICMPV6 IPPROTO_IP IPPROTO_IPV6 IPPROTO_TCP IPPROTO_UDP
}

macro_rules! device_flags {
    ($($name:ident)*) => {
        $(#[doc = concat!("`", stringify!($name), "` (netdevice(7))")]
        pub const $name: i32 = net::net_device_flags::$name as i32;)*
    };
}

device_flags! { IFF_BROADCAST IFF_LOOPBACK IFF_MULTICAST IFF_NOARP IFF_POINTOPOINT IFF_RUNNING IFF_UP }

/// `SOCK_NONBLOCK` (socket(2)); the same bit as `O_NONBLOCK`.
pub const SOCK_NONBLOCK: i32 = general::O_NONBLOCK as i32;
/// `SOCK_CLOEXEC` (socket(2)); the same bit as `O_CLOEXEC`.
pub const SOCK_CLOEXEC: i32 = general::O_CLOEXEC as i32;
/// `SOCK_DCCP` (include/linux/net.h).
pub const SOCK_DCCP: i32 = 6;
/// `MSG_FASTOPEN` (include/linux/socket.h).
pub const MSG_FASTOPEN: i32 = 0x2000_0000;

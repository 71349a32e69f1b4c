//! A process that keeps two capabilities, and the launcher's network, for a confined one.
//!
//! The host stack runs without privileges, yet a program of root's may bind port 80 or open a ping socket on
//! the host's network. The launcher forks a *broker* that keeps CAP_NET_BIND_SERVICE and CAP_NET_RAW, as far as it has them, and
//! nothing else, under a system call filter of its own, and does two things on request: it binds an inet
//! socket that it is sent, and it makes an inet socket: a ping or raw socket, or, for a host stack that is in another network
//! namespace, one of TCP or UDP. It ends when its peer closes the socket pair, or when the thread that forked it ends.
//!
//! One request and one answer are each one packet of fixed size; what does not parse is answered `EINVAL`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use libc::c_int;

use crate::confine::{Allow, AllowList};
use crate::fdpass;
use crate::inet_socket::{ADDR_MAX, decode_addr, encode_addr, setsockopt, unix_pair};

const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_NET_RAW: u32 = 13;
const BOTH: u32 = 1 << CAP_NET_BIND_SERVICE | 1 << CAP_NET_RAW;

/// Byte 0 of a request; the rest is an address, or domain, type and protocol as bytes 1, 2 and 3.
const BIND: u8 = 1;
const SOCKET: u8 = 2;
const REQUEST: usize = 4 + ADDR_MAX;
const REPLY: usize = 4;

/// Whether this thread may bind privileged ports: CAP_NET_BIND_SERVICE is effective (capabilities(7)).
#[must_use]
pub fn has_capability() -> bool {
    capabilities().is_ok_and(|effective| effective & 1 << CAP_NET_BIND_SERVICE != 0)
}

/// `struct __user_cap_header_struct` and two `struct __user_cap_data_struct` (capget(2)).
const CAP_VERSION_3: u32 = 0x2008_0522;

fn capabilities() -> io::Result<u32> {
    let header = [CAP_VERSION_3, 0];
    let mut data = [0_u32; 6];
    // SAFETY: version 3 reads a header of two words and writes two sets of three words (capget(2)).
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    if result == 0 { Ok(data[0]) } else { Err(io::Error::last_os_error()) }
}

/// Forks a broker and returns the socket that [`Client::new`] takes. The broker is killed when the calling
/// thread ends, and gives no SIGCHLD.
///
/// # Errors
/// Those of socketpair(2) and clone(2).
pub fn start() -> io::Result<OwnedFd> {
    let (ours, theirs) = unix_pair(libc::SOCK_SEQPACKET)?;
    let filter = filter()?;
    // SAFETY: getpid takes nothing.
    let parent = unsafe { libc::getpid() };
    // SAFETY: without flags and stack, clone is fork(2), with no signal at the end. The child calls only
    // `serve`, which makes system calls on what lies on its stack and never returns, so that locks which
    // other threads held at the fork are not touched.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => serve(theirs.as_raw_fd(), parent, &filter),
        _ => Ok(ours),
    }
}

/// What the broker may call: it needs no memory, no files and no clock.
fn filter() -> io::Result<AllowList> {
    let calls = [
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_bind,
        libc::SYS_socket,
        libc::SYS_getsockopt,
        libc::SYS_close,
        libc::SYS_exit_group,
    ];
    AllowList::compile(&calls.map(|number| Allow { number, conditions: Vec::new() }))
}

/// The broker's process, from its fork to its end.
fn serve(socket: RawFd, parent: libc::pid_t, filter: &AllowList) -> ! {
    if confine(socket, parent, filter).is_ok() {
        // SAFETY: `confine` made this the number of the socket, and nothing closes it before the end.
        let socket = unsafe { BorrowedFd::borrow_raw(0) };
        while let Ok(Some((request, passed))) = receive(socket) {
            let (errno, made) = answer(&request, passed.as_ref().map(AsFd::as_fd));
            if send(socket, &errno.to_ne_bytes(), made.as_ref().map(AsFd::as_fd)).is_err() {
                break;
            }
            [passed, made].into_iter().flatten().for_each(close);
        }
    }
    // SAFETY: ends the process without running what was registered for its parent's end.
    unsafe { libc::_exit(0) }
}

/// Gives up all but the socket, which becomes descriptor 0, and the two capabilities.
fn confine(socket: RawFd, parent: libc::pid_t, filter: &AllowList) -> Result<(), ()> {
    let header = [CAP_VERSION_3, 0];
    let keep = capabilities().map_err(drop)? & BOTH;
    let data = [keep, keep, 0, 0, 0, 0];
    // SAFETY: these calls take integers, and pointers to a full signal set, the header and both capability
    // sets, and a literal with its NUL, all of which live across them. dup3 would refuse equal descriptors.
    let confined = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) == 0
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::getppid() == parent
            && libc::setsid() != -1
            && libc::dup2(socket, 0) == 0
            && libc::syscall(libc::SYS_close_range, 1_u32, u32::MAX, 0) == 0
            && libc::prctl(libc::PR_SET_NAME, c"netgraft-broker".as_ptr()) == 0
            && libc::prctl(libc::PR_SET_DUMPABLE, 0) == 0
            && libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) == 0
    };
    if !confined {
        return Err(());
    }
    filter.install().map_err(drop)
}

/// Does what a request asks: an errno value, or 0, and the socket that was made.
fn answer(request: &[u8; REQUEST], passed: Option<BorrowedFd<'_>>) -> (c_int, Option<OwnedFd>) {
    match (request[0], passed) {
        (BIND, Some(fd)) => (bind(fd, &request[4..]), None),
        (SOCKET, None) => {
            let [domain, kind, protocol] = [request[1], request[2], request[3]].map(c_int::from);
            let icmp = matches!(
                (domain, protocol),
                (libc::AF_INET, libc::IPPROTO_ICMP) | (libc::AF_INET6, libc::IPPROTO_ICMPV6)
            );
            let inet = domain == libc::AF_INET || domain == libc::AF_INET6;
            let usual = matches!(
                (kind, protocol),
                (libc::SOCK_STREAM, libc::IPPROTO_TCP) | (libc::SOCK_DGRAM, libc::IPPROTO_UDP)
            );
            if !(inet && (kind == libc::SOCK_RAW || usual) || kind == libc::SOCK_DGRAM && icmp) {
                return (libc::EINVAL, None);
            }
            // SAFETY: takes only integers.
            match unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) } {
                -1 => (errno(), None),
                // SAFETY: the kernel returned a new descriptor, which nobody else owns.
                fd => (0, Some(unsafe { OwnedFd::from_raw_fd(fd) })),
            }
        }
        _ => (libc::EINVAL, None),
    }
}

fn bind(fd: BorrowedFd<'_>, raw: &[u8]) -> c_int {
    let fd = fd.as_raw_fd();
    let Some(addr) = decode_addr(raw) else { return libc::EINVAL };
    // Anything but an inet socket of the address's family is refused: packet and netlink sockets would give
    // their address another meaning.
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut domain: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `domain`, and the count to `len`.
    let got = unsafe {
        let (level, name) = (libc::SOL_SOCKET, libc::SO_DOMAIN);
        libc::getsockopt(fd, level, name, (&raw mut domain).cast(), &raw mut len)
    };
    if got != 0 || domain != family {
        return libc::EINVAL;
    }
    let (raw, len) = encode_addr(&addr);
    // SAFETY: the kernel reads `len` initialised bytes of `raw`.
    match unsafe { libc::bind(fd, raw.as_ptr().cast(), len as libc::socklen_t) } {
        0 => 0,
        _ => errno(),
    }
}

fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Receives a packet: its length and its first descriptor; further ones are closed. Allocates nothing.
fn receive_packet(socket: BorrowedFd<'_>, data: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut first = None;
    let (len, _) = fdpass::receive_in(&mut [0; fdpass::SMALL], socket, data, |fd| match first {
        None => first = Some(fd),
        Some(_) => close(fd),
    })?;
    Ok((len, first))
}

/// The next request; `None` at the end. A packet of another size becomes one that is answered `EINVAL`.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<([u8; REQUEST], Option<OwnedFd>)>> {
    let mut request = [0; REQUEST];
    let (len, fd) = receive_packet(socket, &mut request)?;
    if len < REQUEST {
        request[0] = 0;
    }
    Ok((len != 0).then_some((request, fd)))
}

/// Closes a descriptor with close(2) alone: where it is dropped, a build with debug assertions asks with fcntl(2) before
/// whether it is open, which the broker may not.
fn close(fd: OwnedFd) {
    // SAFETY: the descriptor was owned, and is not used again.
    unsafe { libc::close(fd.into_raw_fd()) };
}

/// Sends a packet, with a descriptor if one is given. Allocates nothing.
fn send(socket: BorrowedFd<'_>, data: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    fdpass::send_in(&mut [0; fdpass::SMALL], socket, data, fd.as_slice(), libc::MSG_NOSIGNAL)
}

/// The confined side of a broker.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

impl Client {
    /// Takes the socket of [`start`]. A broker that does not answer within a second is an error then.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn new(socket: OwnedFd) -> io::Result<Client> {
        let mut second = [0; 16];
        second[..8].copy_from_slice(&1_i64.to_ne_bytes());
        setsockopt(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, &second)?;
        Ok(Client { socket })
    }

    /// Binds `fd`, an inet socket, with the broker's privileges.
    ///
    /// # Errors
    /// Those of bind(2); what the pair says if the broker is gone.
    pub fn bind(&self, fd: BorrowedFd<'_>, addr: &SocketAddr) -> io::Result<()> {
        let mut request = [0; REQUEST];
        let (raw, _) = encode_addr(addr);
        request[0] = BIND;
        request[4..].copy_from_slice(&raw);
        self.ask(&request, Some(fd)).map(drop)
    }

    /// Makes a raw socket, a datagram socket of ICMP or ICMPv6, or one of TCP or UDP, in the broker's network namespace.
    ///
    /// # Errors
    /// Those of socket(2); `EINVAL` for any other kind of socket.
    pub fn socket(&self, domain: c_int, kind: c_int, protocol: u8) -> io::Result<OwnedFd> {
        let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
        let mut request = [0; REQUEST];
        request[..4].copy_from_slice(&[
            SOCKET,
            u8::try_from(domain).map_err(invalid)?,
            u8::try_from(kind).map_err(invalid)?,
            protocol,
        ]);
        self.ask(&request, None)?.ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO))
    }

    fn ask(&self, request: &[u8; REQUEST], fd: Option<BorrowedFd<'_>>) -> io::Result<Option<OwnedFd>> {
        send(self.socket.as_fd(), request, fd)?;
        let mut reply = [0; REPLY];
        let (len, made) = receive_packet(self.socket.as_fd(), &mut reply)?;
        match (len, c_int::from_ne_bytes(reply)) {
            (REPLY, 0) => Ok(made),
            (REPLY, errno) => Err(io::Error::from_raw_os_error(errno)),
            _ => Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inet_socket::{getsockname, getsockopt_int, socket};

    #[test]
    fn a_broker_binds_makes_ping_sockets_and_refuses_the_rest() {
        let client = Client::new(start().unwrap()).unwrap();
        let tcp = socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        client.bind(tcp.as_fd(), &"127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(getsockname(tcp.as_fd()).unwrap().port(), 0);

        let wrong = client.bind(tcp.as_fd(), &"[::1]:0".parse().unwrap()).unwrap_err();
        assert_eq!(wrong.raw_os_error(), Some(libc::EINVAL));
        let (unix, _other) = unix_pair(libc::SOCK_STREAM).unwrap();
        let wrong = client.bind(unix.as_fd(), &"127.0.0.1:0".parse().unwrap()).unwrap_err();
        assert_eq!(wrong.raw_os_error(), Some(libc::EINVAL));
        let wrong = client.socket(libc::AF_PACKET, libc::SOCK_RAW, 1).unwrap_err();
        assert_eq!(wrong.raw_os_error(), Some(libc::EINVAL));
        for (kind, protocol) in [(libc::SOCK_STREAM, 132), (libc::SOCK_DGRAM, 136), (libc::SOCK_SEQPACKET, 6)]
        {
            let wrong = client.socket(libc::AF_INET, kind, protocol).unwrap_err();
            assert_eq!(wrong.raw_os_error(), Some(libc::EINVAL));
        }
        let made = client.socket(libc::AF_INET6, libc::SOCK_STREAM, 6).unwrap();
        client.bind(made.as_fd(), &"[::1]:0".parse().unwrap()).unwrap();

        // Needs CAP_NET_RAW or the ping group: the answer is a socket or a refusal, never nonsense.
        match client.socket(libc::AF_INET, libc::SOCK_RAW, 1) {
            Ok(raw) => {
                let kind = getsockopt_int(raw.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE).unwrap();
                assert_eq!(kind, libc::SOCK_RAW);
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
        }
        // A packet of a wrong size is answered, and the broker goes on.
        send(client.socket.as_fd(), b"x", None).unwrap();
        let mut reply = [0; REPLY];
        assert_eq!(receive_packet(client.socket.as_fd(), &mut reply).unwrap().0, REPLY);
        assert_eq!(c_int::from_ne_bytes(reply), libc::EINVAL);
    }

    #[test]
    fn a_privileged_port_is_bound_where_the_capability_is_there() {
        let client = Client::new(start().unwrap()).unwrap();
        let tcp = socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        let bound = client.bind(tcp.as_fd(), &"127.0.0.77:7".parse().unwrap());
        assert_eq!(bound.is_ok(), has_capability(), "{bound:?}");
    }
}

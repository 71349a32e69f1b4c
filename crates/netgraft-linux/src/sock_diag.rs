//! The UDP sockets of a network namespace: which there are, and which are gone (sock_diag(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::inet_socket::{sendto, socket};
use crate::result::check;

/// `struct nlmsghdr` (netlink(7)).
const HEADER: usize = 16;
/// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// The groups that are told of UDP sockets which are gone (`enum sknetlink_groups`): 2 for IPv4, 4 for IPv6.
const DESTROYED: u32 = 1 << 1 | 1 << 3;
/// `struct inet_diag_msg` (linux/inet_diag.h) up to its addresses.
const SOURCE_PORT: usize = 4;
const DESTINATION_PORT: usize = 6;
const SOURCE: usize = 8;
const DESTINATION: usize = 24;
/// Room for as much as the kernel says at a time.
const ROOM: usize = 32 * 1024;
/// Packets that are taken before others have their turn.
const PACKETS_A_TURN: usize = 64;

/// A socket that the kernel tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpSocket {
    /// Its local address.
    pub local: SocketAddr,
    /// Its peer; unspecified with port 0 if it has none.
    pub peer: SocketAddr,
}

/// What the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A socket is gone.
    Gone(UdpSocket),
    /// A socket exists: a part of the answer to [`Observer::list`].
    Exists(UdpSocket),
    /// That was all of one family.
    Listed,
}

/// Tells of the UDP sockets of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Observer {
    fd: OwnedFd,
    room: Vec<u8>,
}

impl Observer {
    /// Opens one in the caller's network namespace.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN over it; EPROTONOSUPPORT from a kernel without sock_diag.
    pub fn open() -> io::Result<OwnedFd> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let fd = socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG)?;
        // SAFETY: `sockaddr_nl` is plain data for which zero is valid.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = DESTROYED;
        let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the address lives through the call and has the length that is passed.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(fd)
    }

    /// The observer that [`Observer::open`] has opened.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Observer {
        Observer { fd, room: vec![0; ROOM] }
    }

    /// Asks for all UDP sockets of a family; [`Observer::receive`] gives them.
    ///
    /// # Errors
    /// EBUSY while an answer is under way.
    pub fn list(&self, v6: bool) -> io::Result<()> {
        let mut message = Vec::new();
        let len = HEADER + 56;
        message.extend((len as u32).to_ne_bytes());
        message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
        message.extend([0; 8]);
        // struct inet_diag_req_v2: family, protocol, extensions, all states.
        message.extend([
            if v6 { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 },
            libc::IPPROTO_UDP as u8,
            0,
            0,
        ]);
        message.extend(u32::MAX.to_ne_bytes());
        message.resize(len, 0);
        sendto(self.fd.as_fd(), &message, None, 0).map(drop)
    }

    /// Takes what the kernel has said since the last time, or a part of it.
    ///
    /// # Errors
    /// ENOBUFS if something was lost: ask for a list then.
    pub fn receive(&mut self, news: &mut dyn FnMut(News)) -> io::Result<()> {
        for _ in 0..PACKETS_A_TURN {
            match self.receive_packet() {
                // Whoever has CAP_NET_ADMIN there can send messages, too.
                Ok((_, sender)) if sender != 0 => {}
                Ok((len, _)) => read(self.room.get(..len).unwrap_or_default(), news),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The length of a packet, and the port id of its sender: 0 for the kernel (netlink(7)).
    fn receive_packet(&mut self) -> io::Result<(usize, u32)> {
        // SAFETY: `sockaddr_nl` is plain data for which zero is valid.
        let mut sender: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: `room` is writable for its length, and `sender` for `len` bytes; all live through the call.
        let got = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                self.room.as_mut_ptr().cast(),
                self.room.len(),
                libc::MSG_DONTWAIT,
                (&raw mut sender).cast(),
                &raw mut len,
            )
        };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        // What has no address of netlink's is not the kernel's.
        let is_told = len as usize == size_of::<libc::sockaddr_nl>();
        Ok((got, if is_told { sender.nl_pid } else { u32::MAX }))
    }
}

impl AsFd for Observer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads the messages of a packet.
fn read(packet: &[u8], news: &mut dyn FnMut(News)) {
    let mut rest = packet;
    while let Some([a, b, c, d, e, f, g, h, ..]) = rest.first_chunk::<HEADER>() {
        let size = u32::from_ne_bytes([*a, *b, *c, *d]) as usize;
        let (kind, flags) = (u16::from_ne_bytes([*e, *f]), u16::from_ne_bytes([*g, *h]));
        let Some(body) = rest.get(HEADER..size) else { return };
        if kind == SOCK_DIAG_BY_FAMILY {
            if let Some(socket) = socket_of(body) {
                let is_listed = i32::from(flags) & libc::NLM_F_MULTI != 0;
                news(if is_listed { News::Exists(socket) } else { News::Gone(socket) });
            }
        } else if i32::from(kind) == libc::NLMSG_DONE || i32::from(kind) == libc::NLMSG_ERROR {
            news(News::Listed);
        }
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn socket_of(body: &[u8]) -> Option<UdpSocket> {
    let v6 = match i32::from(*body.first()?) {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
    let address = |at: usize| -> Option<IpAddr> {
        let bytes = body.get(at..)?;
        if v6 {
            bytes.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into())
        } else {
            bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into())
        }
    };
    Some(UdpSocket {
        local: SocketAddr::new(address(SOURCE)?, port(SOURCE_PORT)?),
        peer: SocketAddr::new(address(DESTINATION)?, port(DESTINATION_PORT)?),
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as Socket;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn sockets_are_listed_and_their_end_is_told() {
        // A user namespace of its own has the capability, also for an ordinary user.
        let child = crate::process::fork(|| i32::from(observe().is_none())).unwrap();
        let change = crate::process::wait(child, crate::process::Wait::Block).unwrap();
        assert_eq!(change, Some(crate::process::Change::Exited(0)));
    }

    fn observe() -> Option<()> {
        use crate::namespace::{Namespaces, unshare};
        // Other tests look when their files are closed.
        crate::process::close_all_but(&[]).ok()?;
        unshare(Namespaces::USER | Namespaces::NET).ok()?;
        crate::netdev::loopback_up().ok()?;
        let mut observer = Observer::from_fd(Observer::open().ok()?);
        let socket = Socket::bind("127.0.0.1:0").ok()?;
        socket.connect("127.0.0.1:53").ok()?;
        let local = socket.local_addr().ok()?;
        let expected = UdpSocket { local, peer: "127.0.0.1:53".parse().ok()? };
        observer.list(false).ok()?;
        await_news(&mut observer, News::Exists(expected))?;
        drop(socket);
        await_news(&mut observer, News::Gone(expected))
    }

    fn await_news(observer: &mut Observer, wanted: News) -> Option<()> {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            let mut found = false;
            observer.receive(&mut |news| found |= news == wanted).ok()?;
            if found {
                return Some(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    #[test]
    fn messages_cut_anywhere_do_not_panic() {
        let mut message = vec![0; HEADER + 72];
        message[..4].copy_from_slice(&(16 + 72_u32).to_ne_bytes());
        message[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message[HEADER] = libc::AF_INET as u8;
        let mut heard = Vec::new();
        read(&message, &mut |news| heard.push(news));
        let none = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        assert_eq!(heard, [News::Gone(UdpSocket { local: none, peer: none })]);
        for len in 0..message.len() {
            read(&message[..len], &mut |news| panic!("{news:?}"));
        }
        message[..4].fill(0);
        read(&message, &mut |news| panic!("{news:?}"));
    }
}

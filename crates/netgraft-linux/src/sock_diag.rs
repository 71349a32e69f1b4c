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
/// `struct inet_diag_msg` (linux/inet_diag.h) up to its cookie.
const SOURCE_PORT: usize = 4;
const SOURCE: usize = 8;
const COOKIE: usize = 44;
/// The list is not whole: sockets have come or gone meanwhile (linux/netlink.h).
const NLM_F_DUMP_INTR: i32 = 0x10;
/// Room for as much as the kernel says at a time.
const ROOM: usize = 32 * 1024;
/// Packets that are taken before others have their turn.
const PACKETS_A_TURN: usize = 64;

/// A socket that the kernel tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpSocket {
    /// Its number, which no other one ever has (`SO_COOKIE`, socket(7)).
    pub cookie: u64,
    /// Its local address; port 0 if it has none.
    pub local: SocketAddr,
}

/// What the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A socket is gone.
    Gone(UdpSocket),
    /// A socket exists: a part of the answer to [`Observer::list`].
    Exists(UdpSocket),
    /// That was all of one family.
    Listed {
        /// Whether it was really all: not after an error, nor if sockets came and went meanwhile.
        is_whole: bool,
    },
}

/// Tells of the UDP sockets of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Observer {
    fd: OwnedFd,
    room: Vec<u8>,
    /// The number of the last list that was asked for (`nlmsg_seq`, netlink(7)).
    asked: u32,
    /// Whether a part of it says that it is not whole.
    is_cut: bool,
}

impl Observer {
    /// Opens one in the caller's network namespace.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN over it; as [`Observer::probe`].
    pub fn open() -> io::Result<OwnedFd> {
        Observer::probe()?;
        // Another one: that which has asked has an address, and no groups can be added by bind(2).
        let fd = unbound()?;
        // SAFETY: `sockaddr_nl` is plain data for which zero is valid.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = DESTROYED;
        let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the address lives through the call and has the length that is passed.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(fd)
    }

    /// Asks for a list of no sockets, to learn whether there could be one. No privilege is needed.
    ///
    /// # Errors
    /// EPROTONOSUPPORT from a kernel without sock_diag, ENOENT from one that does not list UDP sockets (its module `udp_diag` is
    /// missing).
    pub fn probe() -> io::Result<()> {
        let mut observer = Observer::from_fd(unbound()?);
        observer.ask(false, 0)?;
        let mut is_whole = None;
        // The kernel answers within the call.
        observer.receive(&mut |news| {
            if let News::Listed { is_whole: whole } = news {
                is_whole = Some(whole);
            }
        })?;
        match is_whole {
            Some(true) => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }

    /// The observer that [`Observer::open`] has opened.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Observer {
        Observer { fd, room: vec![0; ROOM], asked: 0, is_cut: false }
    }

    /// Asks for all UDP sockets of a family; [`Observer::receive`] gives them, and what is left of an earlier list no more.
    ///
    /// # Errors
    /// EBUSY while an answer is under way.
    pub fn list(&mut self, v6: bool) -> io::Result<()> {
        self.ask(v6, u32::MAX)
    }

    /// Asks for those in some states.
    fn ask(&mut self, v6: bool, states: u32) -> io::Result<()> {
        self.asked = self.asked.wrapping_add(1).max(1);
        self.is_cut = false;
        let mut message = Vec::new();
        let len = HEADER + 56;
        message.extend((len as u32).to_ne_bytes());
        message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
        message.extend(self.asked.to_ne_bytes());
        message.extend([0; 4]);
        // struct inet_diag_req_v2: family, protocol, extensions, states.
        message.extend([
            if v6 { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 },
            libc::IPPROTO_UDP as u8,
            0,
            0,
        ]);
        message.extend(states.to_ne_bytes());
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
                Ok((len, _)) => {
                    let packet = self.room.get(..len).unwrap_or_default();
                    read(packet, self.asked, &mut self.is_cut, news);
                }
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

fn unbound() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG)
}

impl AsFd for Observer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads the messages of a packet: those of the list with a number, and what is said without being asked for.
fn read(packet: &[u8], asked: u32, is_cut: &mut bool, news: &mut dyn FnMut(News)) {
    let mut rest = packet;
    while let Some([a, b, c, d, e, f, g, h, i, j, k, l, ..]) = rest.first_chunk::<HEADER>() {
        let size = u32::from_ne_bytes([*a, *b, *c, *d]) as usize;
        let (kind, flags) = (u16::from_ne_bytes([*e, *f]), i32::from(u16::from_ne_bytes([*g, *h])));
        let of_list = u32::from_ne_bytes([*i, *j, *k, *l]) == asked;
        let Some(body) = rest.get(HEADER..size) else { return };
        let is_listed = flags & libc::NLM_F_MULTI != 0;
        *is_cut |= of_list && flags & NLM_F_DUMP_INTR != 0;
        match i32::from(kind) {
            kind if kind == i32::from(SOCK_DIAG_BY_FAMILY) => match socket_of(body) {
                Some(socket) if !is_listed => news(News::Gone(socket)),
                Some(socket) if of_list => news(News::Exists(socket)),
                _ => {}
            },
            libc::NLMSG_DONE if of_list => {
                // Its errno is that of what was listed.
                let failed = body.first_chunk().is_some_and(|errno| i32::from_ne_bytes(*errno) != 0);
                news(News::Listed { is_whole: !failed && !*is_cut });
            }
            libc::NLMSG_ERROR if of_list => news(News::Listed { is_whole: false }),
            _ => {}
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
    let cookie = body.get(COOKIE..)?.first_chunk::<8>()?;
    let [low, high] = [&cookie[..4], &cookie[4..]].map(|half| half.first_chunk().copied());
    let (low, high) = (u32::from_ne_bytes(low?), u32::from_ne_bytes(high?));
    Some(UdpSocket {
        cookie: u64::from(high) << 32 | u64::from(low),
        local: SocketAddr::new(address(SOURCE)?, port(SOURCE_PORT)?),
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
        let cookie = crate::unix::cookie(socket.as_fd()).ok()?;
        let expected = UdpSocket { cookie, local };
        observer.list(false).ok()?;
        await_news(&mut observer, &[News::Exists(expected), News::Listed { is_whole: true }])?;
        drop(socket);
        await_news(&mut observer, &[News::Gone(expected)])
    }

    /// Waits until all of it was said, in this order.
    fn await_news(observer: &mut Observer, wanted: &[News]) -> Option<()> {
        let end = Instant::now() + Duration::from_secs(20);
        let mut wanted = wanted.iter().peekable();
        while Instant::now() < end {
            observer
                .receive(&mut |news| {
                    wanted.next_if_eq(&&news);
                })
                .ok()?;
            if wanted.peek().is_none() {
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
        message[HEADER + COOKIE] = 7;
        let heard = |message: &[u8], asked: u32| {
            let (mut heard, mut is_cut) = (Vec::new(), false);
            read(message, asked, &mut is_cut, &mut |news| heard.push(news));
            heard
        };
        let none = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let socket = UdpSocket { cookie: 7, local: none };
        assert_eq!(heard(&message, 1), [News::Gone(socket)]);
        for len in 0..message.len() {
            assert_eq!(heard(&message[..len], 1), []);
        }
        // As a part of a list: of this one, or of an earlier one.
        message[6..8].copy_from_slice(&(libc::NLM_F_MULTI as u16).to_ne_bytes());
        message[8..12].copy_from_slice(&5_u32.to_ne_bytes());
        assert_eq!((heard(&message, 5), heard(&message, 6)), (vec![News::Exists(socket)], vec![]));
        // Its end, whole, cut, or with an error.
        let mut end = vec![0; HEADER + 4];
        end[..4].copy_from_slice(&20_u32.to_ne_bytes());
        end[4..6].copy_from_slice(&(libc::NLMSG_DONE as u16).to_ne_bytes());
        end[8..12].copy_from_slice(&5_u32.to_ne_bytes());
        let is_whole = |message: &[u8]| {
            let [News::Listed { is_whole }] = heard(message, 5)[..] else { panic!("no end") };
            is_whole
        };
        assert!(is_whole(&end));
        message[6..8].copy_from_slice(&((libc::NLM_F_MULTI | NLM_F_DUMP_INTR) as u16).to_ne_bytes());
        let both = [message.clone(), end.clone()].concat();
        assert!(matches!(heard(&both, 5)[..], [News::Exists(_), News::Listed { is_whole: false }]));
        end[HEADER..].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        assert!(!is_whole(&end));
        end[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        assert!(!is_whole(&end) && heard(&end, 6).is_empty());
        message[..4].fill(0);
        assert_eq!(heard(&message, 5), []);
    }
}

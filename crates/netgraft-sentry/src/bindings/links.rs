//! Private links: packet sockets at the other ends of the devices in the programs' network namespace, and what tells of the
//! datagram sockets there.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netgraft_core::{Cookie, Core, KernelSocket, PrivateLink, PrivateLinks, Program, Seen};
use netgraft_launch::{clock, control};
use netgraft_linux::link::Packet;
use netgraft_linux::sock_diag::{News, Observer, UdpSocket};
use netgraft_linux::{inet_socket, task, unix};
use netgraft_plugin::Instant;

use super::Bindings;

/// Frames of a link that are taken before others have their turn.
const FRAMES_A_TURN: usize = 64;
/// The most descriptors of the programs that are looked at within a second for the owners of sockets, for a capture.
const SEARCHED: usize = 65_536;
/// When as many may be looked at again.
const REFILL: Duration = Duration::from_secs(1);

/// The most sockets of a list that are noted: there are no more ports.
const MOST_LISTED: usize = 1 << 18;

/// How often a list that was not whole is asked for again.
const TRIES: u8 = 4;

/// How many parts of an earlier list are taken to get at the next one.
const BUSY: usize = 256;

/// One link.
#[derive(Debug)]
struct Link {
    interface: u32,
    /// Taken while its frames are handed to the core.
    packet: Option<Packet>,
    /// Whether its device is gone.
    is_broken: bool,
}

/// What may be looked at until the next second.
#[derive(Debug)]
struct Search {
    left: usize,
    refilled: Instant,
}

impl Default for Search {
    fn default() -> Search {
        Search { left: SEARCHED, refilled: Instant::ZERO }
    }
}

/// A list of the datagram sockets that is being given.
#[derive(Debug, Default)]
struct List {
    sockets: Vec<KernelSocket>,
    /// Families that are still to come.
    to_come: u8,
    /// What the core knew when it was asked for.
    mark: u64,
    /// Whether all that came so far is whole.
    is_whole: bool,
    /// How often it may be asked for again because it was not.
    tries: u8,
}

/// All private links.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: Vec<Link>,
    observer: Option<Observer>,
    /// The programs' network namespace (`SO_NETNS_COOKIE`), which the observer was opened in.
    network: Option<u64>,
    list: List,
    search: Search,
    /// Frames that were emitted while their link was taken: its number, and where each ends.
    waiting: Vec<(usize, usize)>,
    bytes: Vec<u8>,
}

impl Links {
    /// Adds a link, and gives its number.
    pub(crate) fn add(&mut self, link: &control::PrivateLink, socket: OwnedFd) -> u32 {
        let packet = Some(Packet::from_ring(socket));
        self.links.push(Link { interface: link.interface, packet, is_broken: false });
        (self.links.len() - 1) as u32
    }

    /// The descriptor of a link.
    pub(crate) fn fd(&self, number: u32) -> Option<BorrowedFd<'_>> {
        Some(self.links.get(number as usize)?.packet.as_ref()?.as_fd())
    }

    /// Takes the observer of the datagram sockets.
    pub(crate) fn observe(&mut self, fd: OwnedFd) {
        self.network = unix::network(fd.as_fd()).ok();
        self.observer = Some(Observer::from_fd(fd));
    }

    /// The number of the programs' network namespace, if there are links and the kernel numbers namespaces.
    pub(crate) fn network(&self) -> Option<u64> {
        self.network
    }

    /// The descriptor of the observer.
    pub(crate) fn observer_fd(&self) -> Option<BorrowedFd<'_>> {
        self.observer.as_ref().map(AsFd::as_fd)
    }

    fn put(&mut self, number: usize, frame: &[u8]) {
        let Some(link) = self.links.get_mut(number).filter(|link| !link.is_broken) else { return };
        match &mut link.packet {
            // What the kernel has no room for is dropped, as by a device whose queue is full.
            Some(packet) => drop(packet.send(frame, None)),
            None => {
                self.bytes.extend(frame);
                self.waiting.push((number, self.bytes.len()));
            }
        }
    }

    fn put_back(&mut self, number: usize, packet: Packet) {
        if let Some(link) = self.links.get_mut(number) {
            link.packet = Some(packet);
        }
        if self.waiting.is_empty() {
            return;
        }
        let (mut waiting, mut bytes) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.bytes));
        let mut from = 0;
        for (number, to) in waiting.drain(..) {
            self.put(number, bytes.get(from..to).unwrap_or_default());
            from = to;
        }
        if self.waiting.is_empty() {
            bytes.clear();
            (self.waiting, self.bytes) = (waiting, bytes);
        }
    }
}

impl PrivateLinks for Bindings {
    fn emit(&mut self, interface: u32, frame: &[u8]) {
        if let Some(number) = self.links.links.iter().position(|link| link.interface == interface) {
            self.links.put(number, frame);
        }
    }

    fn flush(&mut self) {
        for link in &mut self.links.links {
            if let Some(packet) = &mut link.packet {
                let _ = packet.flush();
            }
        }
    }

    fn owner_of(&mut self, local: SocketAddr) -> Option<Seen> {
        let own = std::process::id();
        let now = clock::now();
        let search = &mut self.links.search;
        if now >= search.refilled + REFILL {
            *search = Search { left: SEARCHED, refilled: now };
        }
        for process in task::processes().into_iter().filter(|&process| process != own) {
            for fd in 0..task::descriptors(process) {
                self.links.search.left = self.links.search.left.checked_sub(1)?;
                if !self.is_socket(process, fd) {
                    continue;
                }
                let Ok(file) = self.duplicate_of(process, fd) else { continue };
                let is_meant = unix::is_udp(file.as_fd())
                    && inet_socket::getsockname(file.as_fd()).is_ok_and(|name| serves(name, local));
                self.dispose(file);
                if is_meant {
                    return Some(Seen { tid: process, fd });
                }
            }
        }
        None
    }
}

/// Whether a socket with this name sends from a local address.
fn serves(name: SocketAddr, local: SocketAddr) -> bool {
    let own = name.ip().to_canonical();
    name.port() == local.port() && (own.is_unspecified() || own == local.ip())
}

/// A link is there.
pub(crate) fn added(core: &mut Core<Bindings>, link: &control::PrivateLink) {
    core.add_private_link(PrivateLink { interface: link.interface, mac: link.mac, mtu: link.mtu as usize });
}

/// A link's packet socket is ready.
pub(crate) fn ready(core: &mut Core<Bindings>, number: u32) {
    let number = number as usize;
    let links = &mut core.kernel().links.links;
    let Some(link) = links.get_mut(number).filter(|link| !link.is_broken) else { return };
    let (Some(mut packet), interface) = (link.packet.take(), link.interface) else { return };
    let received = packet.receive(FRAMES_A_TURN, &mut |frame, _| core.frame_of_program(interface, frame));
    if let Err(error) = received
        && !matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::EINTR))
    {
        tracing::warn!("the private link of datagram sockets has failed: {error}");
        let bindings = core.kernel();
        bindings.poller.remove(packet.as_fd());
        if let Some(link) = bindings.links.links.get_mut(number) {
            link.is_broken = true;
        }
    }
    core.kernel().links.put_back(number, packet);
}

/// The observer of the datagram sockets has something to say.
pub(crate) fn observed(core: &mut Core<Bindings>) {
    // What a socket that is gone has sent comes before its end.
    for number in 0..core.kernel().links.links.len() {
        ready(core, number as u32);
    }
    let links = &mut core.kernel().links;
    let Some(mut observer) = links.observer.take() else { return };
    let mut list = std::mem::take(&mut links.list);
    let mut ended = None;
    let received = observer.receive(&mut |news| match news {
        News::Gone(socket) => core.datagram_socket_closed(known(socket)),
        News::Exists(socket) if list.to_come > 0 && list.sockets.len() < MOST_LISTED => {
            list.sockets.push(known(socket));
        }
        News::Exists(_) => list.is_whole = false,
        News::Listed { is_whole } => ended = Some(is_whole),
    });
    if let Some(is_whole) = ended
        && list.to_come > 0
    {
        list.is_whole &= is_whole;
        list.to_come -= 1;
        if list.to_come == 0 {
            core.datagram_sockets_are(&list.sockets, list.is_whole.then_some(list.mark));
            list.sockets = Vec::new();
        } else {
            list.is_whole &= observer.list(true).is_ok();
        }
    }
    let again = ended.is_some() && list.to_come == 0 && !list.is_whole && list.tries > 0;
    let tries = list.tries.saturating_sub(1);
    let links = &mut core.kernel().links;
    (links.observer, links.list) = (Some(observer), list);
    if received.is_err_and(is_lossy) {
        ask(core, TRIES);
    } else if again {
        ask(core, tries);
    }
}

/// Has all datagram sockets listed: of an earlier sentry's, or since something was lost.
pub(crate) fn list(core: &mut Core<Bindings>) {
    ask(core, TRIES);
}

fn ask(core: &mut Core<Bindings>, tries: u8) {
    let mark = core.mark_datagram_sockets();
    let Some(mut observer) = core.kernel().links.observer.take() else { return };
    // One family after the other: the kernel gives one list at a time, and an earlier one first.
    let mut asked = observer.list(false);
    for _ in 0..BUSY {
        if !matches!(&asked, Err(error) if error.raw_os_error() == Some(libc::EBUSY)) {
            break;
        }
        let _ = observer.receive(&mut |news| {
            if let News::Gone(socket) = news {
                core.datagram_socket_closed(known(socket));
            }
        });
        asked = observer.list(false);
    }
    if let Err(error) = &asked {
        tracing::debug!(%error, "the datagram sockets cannot be listed");
    }
    let to_come = if asked.is_ok() { 2 } else { 0 };
    let links = &mut core.kernel().links;
    links.list = List { sockets: Vec::new(), to_come, mark, is_whole: true, tries };
    links.observer = Some(observer);
}

fn is_lossy(error: io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

fn known(socket: UdpSocket) -> KernelSocket {
    KernelSocket { cookie: Cookie(socket.cookie), local: socket.local }
}

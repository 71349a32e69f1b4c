//! Private links: packet sockets at the other ends of the devices in the programs' network namespace, and what tells of the
//! datagram sockets there.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netgraft_core::{BoundSocket, Core, PrivateLink, PrivateLinks, Program, Seen};
use netgraft_launch::control;
use netgraft_linux::link::Packet;
use netgraft_linux::sock_diag::{News, Observer, UdpSocket};
use netgraft_linux::{inet_socket, task, unix};

use super::Bindings;

/// Frames of a link that are taken before others have their turn.
const FRAMES_A_TURN: usize = 64;
/// The most descriptors of the programs that are looked at for the owner of a socket, for a capture.
const SEARCHED: usize = 65_536;

/// The most sockets of a list that are noted: there are no more ports.
const MOST_LISTED: usize = 1 << 18;

/// One link.
#[derive(Debug)]
struct Link {
    interface: u32,
    /// Taken while its frames are handed to the core.
    packet: Option<Packet>,
    /// Whether its device is gone.
    is_broken: bool,
}

/// All private links.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: Vec<Link>,
    observer: Option<Observer>,
    /// Sockets of a list that is being given.
    listed: Vec<BoundSocket>,
    /// Families whose list is still to come.
    to_come: u8,
    /// Frames that were emitted while their link was taken: its number, and where each ends.
    waiting: Vec<(usize, usize)>,
    bytes: Vec<u8>,
}

impl Links {
    /// Adds a link, and gives its number.
    pub(crate) fn add(&mut self, link: &control::PrivateLink, socket: OwnedFd) -> u32 {
        let packet = Some(Packet::from_fd(socket, None));
        self.links.push(Link { interface: link.interface, packet, is_broken: false });
        (self.links.len() - 1) as u32
    }

    /// The descriptor of a link.
    pub(crate) fn fd(&self, number: u32) -> Option<BorrowedFd<'_>> {
        Some(self.links.get(number as usize)?.packet.as_ref()?.as_fd())
    }

    /// Takes the observer of the datagram sockets.
    pub(crate) fn observe(&mut self, fd: OwnedFd) {
        self.observer = Some(Observer::from_fd(fd));
    }

    /// The descriptor of the observer.
    pub(crate) fn observer_fd(&self) -> Option<BorrowedFd<'_>> {
        self.observer.as_ref().map(AsFd::as_fd)
    }

    /// Notes a socket of a list that was asked for.
    fn note(&mut self, socket: UdpSocket) {
        if self.to_come > 0 && self.listed.len() < MOST_LISTED {
            self.listed.push(bound(socket));
        }
    }

    fn list(&mut self) {
        let Some(observer) = &self.observer else { return };
        self.listed.clear();
        // One family after the other: the kernel gives one list at a time.
        self.to_come = 2;
        if let Err(error) = observer.list(false) {
            tracing::debug!(%error, "the datagram sockets cannot be listed");
            self.to_come = 0;
        }
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
        let (waiting, bytes) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.bytes));
        let mut from = 0;
        for (number, to) in waiting {
            self.put(number, bytes.get(from..to).unwrap_or_default());
            from = to;
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
        let mut left = SEARCHED;
        for process in task::processes().into_iter().filter(|&process| process != own) {
            for fd in 0..task::descriptors(process) {
                left = left.checked_sub(1)?;
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
    let Some(link) = links.get_mut(number) else { return };
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
    let Some(mut observer) = core.kernel().links.observer.take() else { return };
    let mut is_listed = false;
    let received = observer.receive(&mut |news| match news {
        News::Gone(socket) => core.datagram_socket_closed(socket.local),
        News::Exists(socket) => core.kernel().links.note(socket),
        News::Listed => is_listed = true,
    });
    let links = &mut core.kernel().links;
    if is_listed && links.to_come > 0 {
        links.to_come -= 1;
        if links.to_come > 0 {
            if observer.list(true).is_err() {
                links.to_come = 0;
            }
        } else {
            let listed = std::mem::take(&mut links.listed);
            links.observer = Some(observer);
            return core.datagram_sockets_are(&listed);
        }
    }
    links.observer = Some(observer);
    if received.is_err_and(is_lossy) {
        links.list();
    }
}

/// Has all datagram sockets listed: of an earlier sentry's, or since something was lost.
pub(crate) fn list(core: &mut Core<Bindings>) {
    core.kernel().links.list();
}

fn is_lossy(error: io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

fn bound(socket: UdpSocket) -> BoundSocket {
    let peer = (socket.peer.port() != 0).then_some(socket.peer);
    BoundSocket { local: socket.local, peer }
}

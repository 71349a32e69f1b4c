//! Sockets that outlive their stack: what the launcher is told of them, and how a sentry that takes over from one
//! that died makes them again.
//!
//! The surrogates are the program's and are still there, in the same network namespace under the same names; only
//! what stood behind them is gone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netgraft_linux::epoll::bits;
use netgraft_linux::task;
use netgraft_linux::unix::{self, Name};
use netgraft_plugin::{Domain, Error, Handle, Kind, OptionName, Protocol, SocketOption, SocketSpec};

use super::datagram::Datagram;
use super::engine::Engine;
use super::listener::Listening;
use super::table::{Over, Seen, Socket, SocketId, State};
use crate::control::{self, FromSentry, Kept, KeptOption, KeptRole};

const OPTIONS: [(KeptOption, OptionName); 3] = [
    (KeptOption::ReuseAddress, OptionName::ReuseAddress),
    (KeptOption::ReusePort, OptionName::ReusePort),
    (KeptOption::V6Only, OptionName::V6Only),
];

/// The most descriptors of the program that are looked at for sockets which are not where they were last seen.
const SEARCHED: usize = 65_536;

/// The smallest send buffer, as the kernel counts it: that of a surrogate whose gate is closed.
const GATED: i32 = 4608;

/// A duplicate of the program's descriptor, and where it is.
type Found = (OwnedFd, Seen);

fn option(kept: KeptOption) -> SocketOption {
    match kept {
        KeptOption::ReuseAddress => SocketOption::ReuseAddress(true),
        KeptOption::ReusePort => SocketOption::ReusePort(true),
        KeptOption::V6Only => SocketOption::V6Only(true),
    }
}

impl Engine {
    /// Tells the launcher of a listener.
    pub(super) fn journal_listener(&mut self, id: SocketId, backlog: u32) {
        if let Some(Socket { state: State::Listening(listening), .. }) = self.table.get(id) {
            self.keep(id, listening.name, KeptRole::Listener(backlog));
        }
    }

    /// Tells the launcher of a UDP socket that was made, bound or connected.
    pub(super) fn journal_datagrams(&mut self, id: SocketId, file: BorrowedFd<'_>) {
        if self.journal
            && let Some(Socket { state: State::Datagram(_), spec, .. }) = self.table.get(id)
            && spec.protocol == Protocol::Udp
            && let Some(name) = unix::own_name(file)
        {
            self.keep(id, name, KeptRole::Datagrams);
        }
    }

    fn keep(&mut self, id: SocketId, name: Name, role: KeptRole) {
        if !self.journal {
            return;
        }
        let Some(socket) = self.table.get(id) else { return };
        let (Some(cookie), Some(handle)) = (self.table.cookie(id), socket.handle) else { return };
        let seen = socket.seen.map(|seen| (seen.tid, seen.fd));
        let Ok(address) = self.stack.local_addr(handle) else { return };
        let peer = match role {
            KeptRole::Listener(_) => None,
            KeptRole::Datagrams => self.stack.peer_addr(handle).ok(),
        };
        let is_on = |name| {
            let value = self.stack.get_option(handle, name);
            matches!(
                value,
                Ok(SocketOption::ReuseAddress(true)
                    | SocketOption::ReusePort(true)
                    | SocketOption::V6Only(true))
            )
        };
        let on = OPTIONS.iter().filter(|(_, name)| is_on(*name)).map(|(kept, _)| *kept).collect();
        self.tell(&FromSentry::Keep(Kept { cookie, name: name.0, role, address, peer, on, seen }));
    }

    /// Tells the launcher that a socket is gone, if it was told of it.
    pub(super) fn journal_end(&mut self, id: SocketId) {
        if !self.journal {
            return;
        }
        if let Some(Socket { state: State::Listening(_) | State::Datagram(_), .. }) = self.table.get(id)
            && let Some(cookie) = self.table.cookie(id)
        {
            self.tell(&FromSentry::Forget(cookie));
        }
    }

    fn tell(&self, message: &FromSentry) {
        // If the launcher is gone, the hang-up of the control socket ends the sentry.
        let _ = control::send(self.control.as_fd(), message);
    }

    /// Makes the sockets again that the sentry before this one told of. One that cannot be made is reported and
    /// left: the program's next call on it fails.
    pub(super) fn restore(&mut self, kept: &[Kept]) {
        let mut files: Vec<Option<Found>> = kept.iter().map(|k| self.file_of(k)).collect();
        if files.iter().any(Option::is_none) {
            self.search(kept, &mut files);
        }
        for (kept, file) in kept.iter().zip(files) {
            // One that is nowhere was closed meanwhile.
            let Some((file, seen)) = file else {
                self.tell(&FromSentry::Forget(kept.cookie));
                continue;
            };
            if let Err(error) = self.restore_one(kept, &file, seen) {
                if let KeptRole::Listener(_) = kept.role {
                    // Who waits in accept(2) is woken, and the next call on it fails.
                    let _ = unix::shutdown(file.as_fd(), libc::SHUT_RDWR);
                }
                let text = format!("the socket of {} could not be restored: {error}", kept.address);
                self.tell(&FromSentry::Warning(text));
                self.tell(&FromSentry::Forget(kept.cookie));
            }
        }
    }

    /// A surrogate that is not in the table: the sentry before this one made it, or its connection failed before the
    /// program's descriptor was known. From now on it is this one's: a stream socket that has done nothing yet as if it
    /// were new, any other as one whose connection is over. `None` for what is no surrogate.
    pub(super) fn adopt(&mut self, file: BorrowedFd<'_>) -> Option<SocketId> {
        // The program has no AF_UNIX socket of its own in the sentry's network namespace.
        if self.host.is_some() || unix::network(file).ok()? != self.network {
            return None;
        }
        let v6 = unix::has_flag(file) || unix::own_name(file).is_some_and(|Name(name)| name & 1 != 0);
        let domain = if v6 { Domain::V6 } else { Domain::V4 };
        let (kind, protocol) = match unix::is_stream(file).ok()? {
            true => (Kind::Stream, Protocol::Tcp),
            // UDP sockets are made again: this was another one.
            false => (Kind::Datagram, Protocol::Icmp),
        };
        let cookie = unix::cookie(file).ok()?;
        let fresh = unix::is_fresh_stream(file);
        let state = if fresh { State::Fresh } else { State::Ended(what_was(file)) };
        let id = self.table.insert(Socket::new(SocketSpec { domain, kind, protocol }, None, state));
        self.table.set_cookie(id, cookie);
        if fresh {
            let _ = self.nursery.add(file, bits::HUP, id.token());
        } else {
            self.watch(id, file);
        }
        Some(id)
    }

    /// The program's descriptor, where it was last seen.
    fn file_of(&mut self, kept: &Kept) -> Option<Found> {
        let (tid, fd) = kept.seen?;
        let file = self.tasks.duplicate(tid, fd).ok()?;
        (unix::cookie(file.as_fd()).ok()? == kept.cookie).then_some((file, Seen { tid, fd }))
    }

    /// Looks for sockets among all descriptors of the program's processes. Their lists are closed to the sentry; how
    /// long they are is not (proc(5)).
    fn search(&mut self, kept: &[Kept], files: &mut [Option<Found>]) {
        let mut left = SEARCHED;
        for process in task::processes() {
            for fd in 0..task::descriptors(process) {
                left = left.saturating_sub(1);
                if left == 0 || files.iter().all(Option::is_some) {
                    return;
                }
                let Ok(file) = self.tasks.duplicate(process, fd) else { continue };
                let Ok(cookie) = unix::cookie(file.as_fd()) else { continue };
                if let Some(at) = kept.iter().position(|k| k.cookie == cookie) {
                    files[at].get_or_insert((file, Seen { tid: process, fd }));
                }
            }
        }
    }

    fn restore_one(&mut self, kept: &Kept, file: &OwnedFd, seen: Seen) -> Result<(), Error> {
        let (kind, protocol) = match kept.role {
            KeptRole::Listener(_) => (Kind::Stream, Protocol::Tcp),
            KeptRole::Datagrams => (Kind::Datagram, Protocol::Udp),
        };
        let spec = SocketSpec { domain: Domain::of(&kept.address), kind, protocol };
        let handle = self.stack.socket(spec)?;
        if let Err(error) = self.restore_in_stack(kept, handle) {
            let _ = self.stack.close(handle, self.now);
            return Err(error);
        }
        let state = match kept.role {
            KeptRole::Listener(_) => {
                // The connections that wait there ended with their stack.
                while unix::accept_bounded(file.as_fd(), true).is_ok() {}
                State::Listening(Listening::new(Name(kept.name)))
            }
            KeptRole::Datagrams => {
                let end_name = self.fresh_name();
                let connected = kept.peer.map(|_| file.as_fd());
                let end = new_end(end_name, Name(kept.name), connected).map_err(|_| Error::NetworkDown)?;
                // Nobody knows any more who sent what still lies there.
                let _unread = unix::recv(file.as_fd(), &mut self.scratch, 0);
                State::Datagram(Datagram::new(end, end_name))
            }
        };
        let id = self.table.insert(Socket::new(spec, Some(handle), state));
        self.table.set_cookie(id, kept.cookie);
        if let Some(socket) = self.table.get_mut(id) {
            socket.seen = Some(seen);
            if let State::Datagram(datagram) = &socket.state {
                let _ = self.epoll.add(datagram.end.as_fd(), datagram.interest(), id.token());
            }
        }
        self.observe(handle);
        self.watch(id, file.as_fd());
        Ok(())
    }

    fn restore_in_stack(&mut self, kept: &Kept, handle: Handle) -> Result<(), Error> {
        for on in &kept.on {
            self.stack.set_option(handle, option(*on))?;
        }
        if kept.address.port() != 0 || !kept.address.ip().is_unspecified() {
            self.stack.bind(handle, kept.address)?;
        }
        match (kept.role, kept.peer) {
            (KeptRole::Listener(backlog), _) => self.stack.listen(handle, backlog),
            (KeptRole::Datagrams, Some(peer)) => self.stack.connect(handle, peer, self.now),
            (KeptRole::Datagrams, None) => Ok(()),
        }
    }
}

/// What is over of a surrogate from before.
fn what_was(file: BorrowedFd<'_>) -> Over {
    if unix::is_listening(file).is_ok_and(|listens| listens) {
        Over::Listener
    } else if unix::send_buffer(file).is_ok_and(|size| size <= GATED) {
        Over::Attempt
    } else {
        Over::Connection
    }
}

/// A new end for a datagram surrogate that has lost its own. If the surrogate is connected to that, it is to the new
/// one from now on: before, AF_UNIX would let nobody else send to it.
fn new_end(name: Name, surrogate: Name, connected: Option<BorrowedFd<'_>>) -> std::io::Result<OwnedFd> {
    let end = unix::datagram(true)?;
    unix::bind(end.as_fd(), name)?;
    if let Some(file) = connected {
        unix::connect(file, name)?;
    }
    unix::connect(end.as_fd(), surrogate)?;
    Ok(end)
}

//! [`Surrogate`] with AF_UNIX sockets (unix(7)). No call here waits.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netgraft_core::{Cookie, Found, Gate, Name, Pair, Shape, Shown, Side, Surrogate};
use netgraft_linux::{inet_socket, unix};
use netgraft_plugin::{Domain, Shutdown};

use super::{Bindings, errno, from_unix, to_unix};
use crate::names::domain_of;

/// Bytes that close the gate of a socket whose send buffer has the smallest size (4,608 bytes as the kernel counts
/// them, of which each message takes more than its length).
const GATE: usize = 4096;

/// The smallest send buffer, as the kernel counts it: that of a surrogate whose gate is closed.
const GATED: i32 = 4608;

/// The most that UDP over IPv4 carries (udp(7)).
const MAX_PAYLOAD: i32 = 65_507;

/// Half of what `SO_SNDBUF` shows: the kernel doubles what is set.
fn settable(shown: i32) -> i32 {
    shown / 2
}

/// Lets a later sentry see the address family of a surrogate.
fn show_domain(file: BorrowedFd<'_>, domain: Domain) -> std::io::Result<()> {
    match domain {
        Domain::V4 => Ok(()),
        Domain::V6 => unix::set_flag(file),
    }
}

impl Surrogate for Bindings {
    fn new_stream(&mut self, domain: Domain, nonblocking: bool) -> Result<OwnedFd, i32> {
        let file = unix::stream(nonblocking).map_err(|e| errno(&e))?;
        show_domain(file.as_fd(), domain).map_err(|e| errno(&e))?;
        Ok(file)
    }

    fn new_datagram(&mut self, domain: Domain, nonblocking: bool) -> Result<(OwnedFd, OwnedFd), i32> {
        let (file, end) = unix::datagram_pair(nonblocking).map_err(|e| errno(&e))?;
        show_domain(file.as_fd(), domain).map_err(|e| errno(&e))?;
        unix::refuse_rights(end.as_fd());
        // The kernel refuses a datagram of more than this less 32 bytes: what UDP carries, to a byte.
        unix::set_send_buffer(file.as_fd(), (MAX_PAYLOAD + 33) / 2).map_err(|e| errno(&e))?;
        Ok((file, end))
    }

    fn cookie(&mut self, file: &OwnedFd) -> Option<Cookie> {
        unix::cookie(file.as_fd()).ok().map(Cookie)
    }

    fn peer_name(&mut self, file: &OwnedFd) -> Option<Name> {
        unix::peer_name(file.as_fd()).map(from_unix)
    }

    fn inspect(&mut self, file: &OwnedFd) -> Option<Found> {
        let file = file.as_fd();
        // The program has no AF_UNIX socket of its own in the sentry's network namespace.
        if self.serves_host || unix::network(file).ok()? != self.network {
            return None;
        }
        let inherited = unix::own_name(file).map(domain_of);
        let domain = if unix::has_flag(file) { Domain::V6 } else { inherited.unwrap_or(Domain::V4) };
        let shape = if let Some(pair) = self.accepted_by(file) {
            // The most frequent by far.
            Shape::Joined(pair, Side::Server)
        } else if !unix::is_stream(file).ok()? {
            Shape::Datagram
        } else if unix::is_fresh_stream(file) {
            Shape::Fresh
        } else if unix::is_listening(file).is_ok_and(|listens| listens) {
            Shape::Listener
        } else if let Some((pair, side)) = self.joined_side(file) {
            Shape::Joined(pair, side)
        } else if unix::send_buffer(file).is_ok_and(|size| size <= GATED) {
            Shape::Gated
        } else {
            Shape::Stream
        };
        Some(Found { domain, shape })
    }

    fn is_nonblocking(&mut self, file: &OwnedFd) -> Result<bool, i32> {
        unix::is_nonblocking(file.as_fd()).map_err(|e| errno(&e))
    }

    /// The surrogate is connected to a listener that exists for it alone, under a name that nobody knows, and that is
    /// closed before any call of the program is looked at again. So nothing else can be in its queue, and nothing of
    /// this surrogate can stay there. The kernel's word on who connected (`SO_PEERCRED`) is asked all the same.
    fn join(&mut self, file: &OwnedFd) -> Result<OwnedFd, i32> {
        // Before the surrogate is touched, a descriptor for its end is put aside.
        let listener = unix::stream(true).map_err(|e| errno(&e))?;
        // The end has it from the listener.
        unix::refuse_rights(listener.as_fd());
        let reserved = listener.try_clone().map_err(|e| errno(&e))?;
        let name = self.names.fresh();
        unix::bind(listener.as_fd(), name).map_err(|e| errno(&e))?;
        unix::listen(listener.as_fd(), 1).map_err(|e| errno(&e))?;
        unix::connect(file.as_fd(), name).map_err(|e| errno(&e))?;
        drop(reserved);
        let end = unix::accept(listener.as_fd(), true).map_err(|e| errno(&e))?;
        match unix::peer_process(end.as_fd()) {
            Ok(process) if process == self.process => Ok(end),
            Ok(process) => {
                tracing::warn!(process, "another process connected to a listener of the sentry's");
                Err(libc::ECONNABORTED)
            }
            Err(error) => Err(errno(&error)),
        }
    }

    fn gate(&mut self, file: &OwnedFd, _end: &OwnedFd) -> Result<Gate, i32> {
        unix::set_send_buffer(file.as_fd(), 0).map_err(|e| errno(&e))?;
        // More than the smallest buffer holds: neither poll nor a write gets past it.
        let fill = unix::send(file.as_fd(), &[0; GATE]).map_err(|e| errno(&e))?;
        Ok(Gate { fill })
    }

    fn ungate(&mut self, file: Option<&OwnedFd>, end: &OwnedFd, gate: Gate) {
        if let Some(file) = file {
            self.restore_send_buffer(file, end);
        }
        // Reading what fills it makes the program's socket writable: it wakes. The program may have written since the
        // size was restored: no byte more is read.
        let mut junk = [0; GATE];
        let mut left = gate.fill.min(GATE);
        while left > 0 {
            match unix::recv(end.as_fd(), &mut junk[..left], 0) {
                Ok(n @ 1..) => left = left.saturating_sub(n),
                _ => break,
            }
        }
    }

    fn restore_send_buffer(&mut self, file: &OwnedFd, end: &OwnedFd) -> bool {
        // The sentry's end was never changed: its size is the default.
        let size = unix::send_buffer(end.as_fd());
        size.is_ok_and(|size| unix::set_send_buffer(file.as_fd(), settable(size)).is_ok())
    }

    fn wake(&mut self, file: &OwnedFd, end: &OwnedFd) {
        // A byte that is sent and read: waiters see the edge.
        let _ = unix::send(file.as_fd(), b"c");
        let _ = unix::recv(end.as_fd(), &mut [0], 0);
    }

    fn mark(&mut self, file: &OwnedFd) {
        let _ = unix::mark(file.as_fd());
    }

    fn is_at_mark(&mut self, end: &OwnedFd) -> bool {
        unix::is_at_mark(end.as_fd())
    }

    fn clear_mark(&mut self, end: &OwnedFd) {
        let _ = unix::recv(end.as_fd(), &mut [0], 0);
    }

    fn send_urgent_as_program(&mut self, file: &OwnedFd, data: &[u8]) -> Result<usize, i32> {
        unix::send_urgent(file.as_fd(), data).map_err(|e| errno(&e))
    }

    fn is_at_urgent(&mut self, file: &OwnedFd) -> bool {
        unix::is_urgent_next(file.as_fd())
    }

    fn next_urgent(&mut self, end: &OwnedFd) -> Option<u8> {
        if !unix::is_urgent_next(end.as_fd()) {
            return None;
        }
        let mut byte = [0];
        let got = unix::recv(end.as_fd(), &mut byte, libc::MSG_OOB | libc::MSG_PEEK);
        got.is_ok_and(|n| n == 1).then_some(byte[0])
    }

    fn take_urgent(&mut self, end: &OwnedFd) {
        let _ = unix::recv(end.as_fd(), &mut [0], libc::MSG_OOB);
    }

    fn send_urgent(&mut self, end: &OwnedFd, byte: u8) -> Result<(), i32> {
        unix::send_urgent(end.as_fd(), &[byte]).map(drop).map_err(|e| errno(&e))
    }

    fn shut(&mut self, file: &OwnedFd, how: Shutdown) -> Result<(), i32> {
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        unix::shutdown(file.as_fd(), how).map_err(|e| errno(&e))
    }

    fn shut_end(&mut self, end: &OwnedFd) {
        let _ = unix::shutdown(end.as_fd(), libc::SHUT_WR);
    }

    fn reset(&mut self, end: OwnedFd, file: Option<&OwnedFd>) -> Shown {
        if let Some(file) = file {
            // AF_UNIX reports a reset if bytes are left unread. If the buffer is full there are such bytes.
            let _ = unix::send(file.as_fd(), b"x");
        }
        drop(end);
        shown(file.is_some_and(|file| unix::has_error(file.as_fd())))
    }

    fn take_error(&mut self, file: &OwnedFd) -> bool {
        unix::clear_error(file.as_fd())
    }

    fn is_hung_up(&mut self, end: &OwnedFd) -> bool {
        unix::is_hung_up(end.as_fd())
    }

    fn has_input(&mut self, end: &OwnedFd) -> bool {
        unix::readable(end.as_fd()).unwrap_or(false)
    }

    fn held(&mut self, end: &OwnedFd) -> (u64, u64) {
        let [waiting, unread] = [unix::waiting(end.as_fd()), unix::unread(end.as_fd())]
            .map(|bytes| bytes.map_or(0, |bytes| bytes as u64));
        (waiting, unread)
    }

    fn receive(&mut self, end: &OwnedFd, buf: &mut [u8]) -> Result<usize, i32> {
        unix::recv(end.as_fd(), buf, 0).map_err(|e| errno(&e))
    }

    fn receive_pieces(&mut self, end: &OwnedFd, pieces: &mut [IoSliceMut<'_>]) -> Result<usize, i32> {
        unix::recv_pieces(end.as_fd(), pieces).map_err(|e| errno(&e))
    }

    fn send_pieces(&mut self, end: &OwnedFd, pieces: &[IoSlice<'_>]) -> Result<usize, i32> {
        unix::send_pieces(end.as_fd(), pieces).map_err(|e| errno(&e))
    }

    fn send(&mut self, end: &OwnedFd, data: &[u8]) -> Result<usize, i32> {
        unix::send(end.as_fd(), data).map_err(|e| errno(&e))
    }

    fn receive_as_program(&mut self, file: &OwnedFd, buf: &mut [u8], flags: i32) -> Result<usize, i32> {
        unix::recv(file.as_fd(), buf, flags).map_err(|e| errno(&e))
    }

    fn send_as_program(&mut self, file: &OwnedFd, data: &[u8]) -> Result<usize, i32> {
        unix::send(file.as_fd(), data).map_err(|e| errno(&e))
    }

    fn listen(
        &mut self,
        file: &OwnedFd,
        named: Option<Name>,
        domain: Domain,
        backlog: u32,
    ) -> Result<Name, i32> {
        let name = match named {
            Some(name) => to_unix(name),
            None => {
                let name = self.names.fresh_for_listener(domain);
                unix::bind(file.as_fd(), name).map_err(|e| errno(&e))?;
                name
            }
        };
        // Its connections take this over.
        unix::refuse_rights(file.as_fd());
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        unix::listen(file.as_fd(), backlog).map_err(|e| errno(&e))?;
        Ok(from_unix(name))
    }

    fn offer(&mut self, listener: Name) -> Result<(OwnedFd, Name), i32> {
        let name = self.names.fresh();
        let end = unix::stream(true).map_err(|e| errno(&e))?;
        unix::refuse_rights(end.as_fd());
        unix::bind(end.as_fd(), name).map_err(|e| errno(&e))?;
        unix::connect(end.as_fd(), to_unix(listener)).map_err(|e| errno(&e))?;
        Ok((end, from_unix(name)))
    }

    /// The listener's name is known to no program, and the client's carries a tag that none can make. The name comes
    /// after the connection: whoever accepts it meanwhile and asks for it is served after this call.
    fn join_listener(
        &mut self,
        file: &OwnedFd,
        listener: Name,
        pair: Pair,
        nonblocking: bool,
    ) -> Result<(), i32> {
        let name = self.pairs.name(pair, self.names.fresh()).ok_or(libc::EINVAL)?;
        // Descriptors that the other side sends: TCP carries none.
        unix::refuse_rights(file.as_fd());
        // On a file that blocks, a connect to a listener whose queue is full would wait.
        unix::connect_at_once(file.as_fd(), to_unix(listener), nonblocking).map_err(|e| errno(&e))?;
        if let Err(error) = unix::bind_long(file.as_fd(), &name) {
            // A program has bound it meanwhile, and the other side sees that name: it must not count as ours.
            if let Some(foreign) = unix::long_own_name(file.as_fd()) {
                self.pairs.distrust(&foreign);
            }
            tracing::debug!(%error, "a joined connection cannot be named");
            let _ = unix::shutdown(file.as_fd(), libc::SHUT_RDWR);
            return Err(libc::ECONNABORTED);
        }
        // AF_UNIX does not wake those who poll the side that connects; a send buffer that is set does.
        let _ = unix::set_send_buffer(file.as_fd(), self.send_buffer);
        Ok(())
    }

    fn accepted_pair(&mut self, file: &OwnedFd) -> Option<Pair> {
        self.accepted_by(file.as_fd())
    }

    fn has_mark(&mut self, file: &OwnedFd) -> bool {
        unix::recv(file.as_fd(), &mut [0], libc::MSG_OOB | libc::MSG_PEEK).is_ok_and(|n| n == 1)
    }

    fn take_mark(&mut self, file: &OwnedFd) {
        let _ = unix::recv(file.as_fd(), &mut [0], libc::MSG_OOB);
    }

    fn has_ended(&mut self, file: &OwnedFd) -> bool {
        unix::has_ended(file.as_fd())
    }

    fn accept(&mut self, file: &OwnedFd, nonblocking: bool) -> Result<OwnedFd, i32> {
        match unix::accept_bounded(file.as_fd(), nonblocking) {
            Ok(connection) => Ok(connection),
            // The timer had to help: nothing waits any more.
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Err(libc::EAGAIN),
            Err(error) => Err(errno(&error)),
        }
    }

    fn set_nonblocking(&mut self, file: &OwnedFd, on: bool) -> Result<(), i32> {
        unix::set_nonblocking(file.as_fd(), on).map_err(|e| errno(&e))
    }

    fn aim(&mut self, file: &OwnedFd, end: &OwnedFd) -> Result<(), i32> {
        let name = match unix::own_name(end.as_fd()) {
            Some(name) => name,
            None => {
                let name = self.names.fresh();
                unix::bind(end.as_fd(), name).map_err(|e| errno(&e))?;
                name
            }
        };
        unix::connect(file.as_fd(), name).map_err(|e| errno(&e))
    }

    fn unaim(&mut self, file: &OwnedFd) -> Result<(), i32> {
        unix::disconnect(file.as_fd()).map_err(|e| errno(&e))
    }

    fn is_drained(&mut self, end: &OwnedFd) -> bool {
        // The kernel counts one byte of a datagram that was read until just after it has said that there is room.
        unix::unread(end.as_fd()).is_ok_and(|n| n <= 1)
    }

    /// An AF_UNIX datagram socket whose peer turns away with bytes of it unread gets an error.
    fn show_datagram_error(&mut self, end: &OwnedFd, file: &OwnedFd) -> Shown {
        if unix::send(file.as_fd(), b"x").is_err() {
            return Shown::No;
        }
        let _ = unix::disconnect(end.as_fd());
        let reconnected = self.connect_end(end, file);
        if let Err(error) = reconnected {
            tracing::warn!(%error, "a datagram socket receives no more");
        }
        Shown::Yes
    }

    fn replace_end(&mut self, file: &OwnedFd, aimed: bool) -> Result<OwnedFd, i32> {
        let end = unix::datagram(true).map_err(|e| errno(&e))?;
        unix::refuse_rights(end.as_fd());
        // A surrogate that is connected to its former end takes datagrams from no other.
        if aimed {
            self.aim(file, &end)?;
        }
        self.connect_end(&end, file).map_err(|e| errno(&e))?;
        Ok(end)
    }

    fn set_option(&mut self, file: &OwnedFd, level: i32, name: i32, value: &[u8]) -> Result<(), i32> {
        inet_socket::setsockopt(file.as_fd(), level, name, value).map_err(|e| errno(&e))
    }

    fn get_option(&mut self, file: &OwnedFd, level: i32, name: i32, value: &mut [u8]) -> Result<usize, i32> {
        inet_socket::getsockopt(file.as_fd(), level, name, value).map_err(|e| errno(&e))
    }
}

impl Bindings {
    /// The addresses of an accepted connection whose client this sentry has joined, or one before it. A program may get to
    /// know the name of a connection, and bind a socket of its own to it later; but it is not the sentry (`SO_PEERCRED`).
    fn accepted_by(&self, file: BorrowedFd<'_>) -> Option<Pair> {
        let pair = unix::long_peer_name(file).and_then(|name| self.pairs.pair(&name))?;
        let is_ours = unix::peer_process(file).is_ok_and(|process| process == self.process);
        (is_ours || self.programs.is_successor()).then(|| pair.reversed())
    }

    /// The joined connection that a surrogate is a side of: the name of the client tells.
    fn joined_side(&self, file: BorrowedFd<'_>) -> Option<(Pair, Side)> {
        if let Some(pair) = self.accepted_by(file) {
            return Some((pair, Side::Server));
        }
        let pair = unix::long_own_name(file).and_then(|name| self.pairs.pair(&name))?;
        Some((pair, Side::Client))
    }

    /// Connects an end to a datagram surrogate, which gets a name for it unless it has one.
    fn connect_end(&mut self, end: &OwnedFd, file: &OwnedFd) -> std::io::Result<()> {
        let name = match unix::own_name(file.as_fd()) {
            Some(name) => name,
            None => {
                let name = self.names.fresh();
                unix::bind(file.as_fd(), name)?;
                name
            }
        };
        unix::connect(end.as_fd(), name)
    }
}

fn shown(yes: bool) -> Shown {
    if yes { Shown::Yes } else { Shown::No }
}

//! Sockets that outlive their stack: how a sentry that takes over from one that died makes them again, and takes over
//! the rest.
//!
//! The surrogates are the program's and are still there, in the same network namespace; only what stood behind them is
//! gone.

use netgraft_plugin::{Domain, Error, Handle, Kind, Protocol, SocketSpec};

use crate::core::{Core, Kernel};
use crate::datagram::Datagram;
use crate::journal::{Kept, Role, turned_on};
use crate::listener::Listening;
use crate::program::{Caller, ProgramId};
use crate::socket::{Over, Seen, Socket, State};
use crate::surrogate::{Found, Interest, Shape};
use crate::table::SocketId;
use crate::uapi::{self, Errno};

impl<K: Kernel> Core<K> {
    /// A surrogate that is not in the table: an accepted connection that is joined, or one that an earlier sentry made, or
    /// whose connection failed before the program's descriptor was known. From now on it is served: a stream socket that has done nothing yet as if it were new, any
    /// other as one whose connection is over. `None` for what is no surrogate.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOBUFS: a joined connection beyond the budget.
    pub(crate) fn adopt(&mut self, caller: &Caller, file: &K::File) -> Result<Option<SocketId>, Errno> {
        let Some(Found { domain, shape }) = self.kernel.inspect(file) else { return Ok(None) };
        if let Shape::Joined(pair, side) = shape {
            let spec = SocketSpec { domain, kind: Kind::Stream, protocol: Protocol::Tcp };
            let owner = self.kernel.process(caller);
            self.make_room(owner)?;
            return Ok(self.adopt_joined((caller.program, owner), file, (spec, pair, side)));
        }
        let Some(cookie) = self.kernel.cookie(file) else { return Ok(None) };
        let (kind, protocol) = match shape {
            // UDP sockets are made again: this was another one.
            Shape::Datagram => (Kind::Datagram, Protocol::Icmp),
            _ => (Kind::Stream, Protocol::Tcp),
        };
        let state = match shape {
            Shape::Fresh => State::Fresh,
            Shape::Listener => State::Ended(Over::Listener.ended()),
            Shape::Gated => State::Ended(Over::Attempt.ended()),
            Shape::Stream | Shape::Datagram | Shape::Joined(..) => State::Ended(Over::Connection.ended()),
        };
        let spec = SocketSpec { domain, kind, protocol };
        let id = self.table.insert(Socket::new(spec, caller.program, None, state));
        self.table.set_cookie(id, cookie);
        if shape == Shape::Fresh {
            self.kernel.shelter(file, id);
        } else {
            self.watch_close(id, file);
        }
        Ok(Some(id))
    }

    /// Makes a socket again that an earlier sentry noted, on the program's open file.
    ///
    /// # Errors
    /// What the stack or the surrogate refuses. The program's next call on the socket fails.
    pub fn restore(
        &mut self,
        program: ProgramId,
        kept: &Kept,
        file: &K::File,
        seen: Seen,
    ) -> Result<(), Error> {
        let (kind, protocol) = match kept.role {
            Role::Listener(..) => (Kind::Stream, Protocol::Tcp),
            Role::Datagrams => (Kind::Datagram, Protocol::Udp),
        };
        let spec = SocketSpec { domain: Domain::of(&kept.address), kind, protocol };
        let handle = self.stack.socket(spec)?;
        let state =
            match self.restore_in_stack(kept, handle).and_then(|()| self.restore_surrogate(kept, file)) {
                Ok(state) => state,
                Err(error) => {
                    self.stack.close(handle, self.time.now);
                    return Err(error);
                }
            };
        let mut socket = Socket::new(spec, program, Some(handle), state);
        socket.seen = Some(seen);
        let id = self.table.insert(socket);
        self.table.set_cookie(id, kept.cookie);
        if let Some(datagram) = self.table.get(id).and_then(Socket::datagram) {
            self.kernel.watch_end(&datagram.end, id, Interest::Input);
        }
        self.note_listener(id);
        self.observe(handle);
        self.watch_close(id, file);
        self.tell_owner(id);
        Ok(())
    }

    fn restore_surrogate(&mut self, kept: &Kept, file: &K::File) -> Result<State<K>, Error> {
        match kept.role {
            Role::Listener(name, backlog) => {
                // The connections that wait there ended with their stack.
                while self.kernel.accept(file, true).is_ok() {}
                Ok(State::Listening(Listening::new(name, backlog)))
            }
            Role::Datagrams => {
                let end = self.kernel.replace_end(file, kept.peer.is_some()).map_err(|errno| {
                    tracing::debug!(errno, "a datagram socket's end could not be made");
                    Error::from_errno(errno).unwrap_or(Error::NetworkDown)
                })?;
                // Nothing is known any more of the sender of what still lies there.
                let _unread =
                    self.kernel.receive_as_program(file, &mut self.buffers.scratch, uapi::MSG_DONTWAIT);
                Ok(State::Datagram(Datagram::new(end)))
            }
        }
    }

    fn restore_in_stack(&mut self, kept: &Kept, handle: Handle) -> Result<(), Error> {
        for on in kept.on.iter().filter_map(|name| turned_on(*name)) {
            self.stack.set_option(handle, on)?;
        }
        if kept.address.port() != 0 || !kept.address.ip().is_unspecified() {
            self.stack.bind(handle, kept.address)?;
        }
        match (kept.role, kept.peer) {
            (Role::Listener(_, backlog), _) => self.stack.listen(handle, backlog),
            (Role::Datagrams, Some(peer)) => self.stack.connect(handle, peer, self.time.now),
            (Role::Datagrams, None) => Ok(()),
        }
    }
}

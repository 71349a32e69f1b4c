//! `socket`, and the end of sockets.

use std::os::fd::{AsFd, BorrowedFd};

use netgraft_linux::epoll::bits;
use netgraft_linux::unix;
use netgraft_plugin::{Domain, Error, Events, Handle, Kind, Protocol};
use netgraft_sentry::call::{self, NewSocket};

use super::caller::Caller;
use super::datagram::Datagram;
use super::engine::{Answer, Engine, Outcome, Work};
use super::table::{Socket, SocketId, State};

/// The most that UDP over IPv4 carries (udp(7)).
const MAX_PAYLOAD: i32 = 65_507;

impl Engine {
    /// socket(2)
    pub(super) fn socket(&mut self, caller: &Caller, domain: i32, kind: i32, protocol: i32) -> Outcome {
        let new = call::new_socket(domain, kind, protocol)?;
        if self.host.is_some() {
            return self.host_socket(caller, &new);
        }
        self.summary.sockets += 1;
        match new.spec.kind {
            Kind::Stream => self.new_stream(caller, &new),
            Kind::Raw if !has_net_raw(caller.tid) => Err(libc::EPERM),
            Kind::Datagram | Kind::Raw => self.new_datagram(caller, &new),
        }
    }

    fn new_stream(&mut self, caller: &Caller, new: &NewSocket) -> Outcome {
        debug_assert_eq!(new.spec.protocol, Protocol::Tcp);
        let file = unix::stream(new.nonblocking).map_err(|e| errno(&e))?;
        show_domain(file.as_fd(), new.spec.domain).map_err(|e| errno(&e))?;
        let cookie = unix::cookie(file.as_fd()).map_err(|e| errno(&e))?;
        if self.table.len() > self.nursery_limit {
            self.sweep_nursery();
        }
        let id = self.table.insert(Socket::new(new.spec, None, State::Fresh));
        self.table.set_cookie(id, cookie);
        // Not held: when the program closes its last descriptor, the entry is gone.
        let _ = self.nursery.add(file.as_fd(), bits::HUP, id.token());
        self.inject(caller, id, file.as_fd(), new.close_on_exec)
    }

    fn new_datagram(&mut self, caller: &Caller, new: &NewSocket) -> Outcome {
        let handle = self.stack.socket(new.spec).map_err(Error::errno)?;
        let made = self.datagram_surrogate(new, handle);
        let (id, file) = match made {
            Ok(made) => made,
            Err(error) => {
                let _ = self.stack.close(handle, self.now);
                return Err(errno(&error));
            }
        };
        self.watch(id, file.as_fd());
        let outcome = self.inject(caller, id, file.as_fd(), new.close_on_exec);
        self.journal_datagrams(id, file.as_fd());
        outcome
    }

    fn datagram_surrogate(
        &mut self,
        new: &NewSocket,
        handle: Handle,
    ) -> std::io::Result<(SocketId, std::os::fd::OwnedFd)> {
        let file = unix::datagram(new.nonblocking)?;
        show_domain(file.as_fd(), new.spec.domain)?;
        // The kernel refuses a datagram of more than this less 32 bytes: what UDP carries, to a byte.
        unix::set_send_buffer(file.as_fd(), (MAX_PAYLOAD + 33) / 2)?;
        let (name, end_name) = (self.fresh_name(), self.fresh_name());
        unix::bind(file.as_fd(), name)?;
        let end = unix::datagram(true)?;
        unix::bind(end.as_fd(), end_name)?;
        unix::connect(end.as_fd(), name)?;
        let cookie = unix::cookie(file.as_fd())?;
        let socket = Socket::new(new.spec, Some(handle), State::Datagram(Datagram::new(end, end_name)));
        let id = self.table.insert(socket);
        self.table.set_cookie(id, cookie);
        if let Some(Socket { state: State::Datagram(datagram), .. }) = self.table.get(id) {
            self.epoll.add(datagram.end.as_fd(), datagram.interest(), id.token())?;
        }
        self.observe(handle);
        Ok((id, file))
    }

    /// Puts a new socket into the program's table and answers the call. If the caller was interrupted the
    /// socket never was.
    fn inject(
        &mut self,
        caller: &Caller,
        id: SocketId,
        file: BorrowedFd<'_>,
        close_on_exec: bool,
    ) -> Outcome {
        match self.listener.answer_with_fd(caller.id, file, close_on_exec) {
            Ok(fd) => {
                if let Some(socket) = self.table.get_mut(id) {
                    socket.seen = Some(super::table::Seen { tid: caller.tid, fd });
                }
                Ok(Answer::Done)
            }
            Err(error) => {
                self.discard(id);
                match error.raw_os_error() {
                    Some(code @ (libc::EMFILE | libc::ENFILE)) => Err(code),
                    _ => Ok(Answer::Done),
                }
            }
        }
    }

    /// Asks the stack for the events of a socket.
    pub(super) fn observe(&mut self, handle: Handle) {
        let mask = Events::IN | Events::OUT | Events::RDHUP;
        if let Err(error) = self.stack.add_fd(handle, mask) {
            tracing::warn!(%error, "the stack does not report a socket's events");
        }
        self.stack_busy = true;
    }

    /// The socket's handle in the stack, made now if it has none.
    pub(super) fn handle_of(&mut self, id: SocketId) -> Result<Handle, i32> {
        let socket = self.table.get(id).ok_or(libc::EBADF)?;
        if let Some(handle) = socket.handle {
            return Ok(handle);
        }
        let handle = self.stack.socket(socket.spec).map_err(Error::errno)?;
        for option in &socket.setup.options {
            // It was taken before: what the stack refuses now, it refuses because of what it knows now.
            if let Err(error) = self.stack.set_option(handle, option.clone()) {
                tracing::debug!(?option, %error, "an option did not outlive a connection");
            }
        }
        if let Some(address) = socket.setup.bound
            && let Err(error) = self.stack.bind(handle, address)
        {
            let _ = self.stack.close(handle, self.now);
            return Err(error.errno());
        }
        self.table.set_handle(id, Some(handle));
        self.observe(handle);
        Ok(handle)
    }

    /// The program has closed its last descriptor of a socket: what it sent before still goes out.
    pub(super) fn program_closed(&mut self, id: SocketId) {
        match self.table.get(id).map(|s| &s.state) {
            Some(State::Datagram(_)) => {
                self.pump_datagram_out(id);
                // What was sent leaves before the socket goes.
                self.stack.poll(self.now);
            }
            Some(State::Stream(_)) => return self.closed_after_shutdown(id),
            _ => {}
        }
        self.discard(id);
    }

    /// A stream that had been shut down was closed: from now on a hang-up of the sentry's end means just that.
    fn closed_after_shutdown(&mut self, id: SocketId) {
        if let Some(watch) = self.table.take_watch(id) {
            self.closes.unwatch(watch);
        }
        let Some(Socket { state: State::Stream(stream), .. }) = self.table.get_mut(id) else { return };
        stream.watched = false;
        if stream.is_open_out() {
            // Ends the socket when the last byte has been read, which may have to wait for room in the stack.
            self.pump(id, Work::OutToEnd);
        } else {
            self.discard(id);
        }
    }

    /// Ends a socket and everything that belongs to it. A connected stream is closed in an orderly way.
    pub(super) fn discard(&mut self, id: SocketId) {
        for parked in self.parked.take_all(id) {
            self.answer(&parked.caller, Err(libc::EBADF));
        }
        self.journal_end(id);
        let Some(socket) = self.table.remove(id) else { return };
        if let Some(watch) = socket.watch {
            self.closes.unwatch(watch);
        }
        if let State::Listening(listening) = socket.state
            && let Some(held) = listening.held
        {
            let _ = self.stack.abort(held, self.now);
        }
        if let Some(handle) = socket.handle {
            // A handle that the stack does not know any more is closed already.
            let _ = self.stack.close(handle, self.now);
            self.stack_busy = true;
        }
    }

    /// Ends a socket with a reset of its connection.
    pub(super) fn discard_with_reset(&mut self, id: SocketId) {
        tracing::debug!(?id, "the program closed a connection with bytes unread");
        if let Some(handle) = self.table.set_handle(id, None) {
            let _ = self.stack.abort(handle, self.now);
            self.stack_busy = true;
        }
        self.discard(id);
    }

    /// Forgets fresh sockets that the program has closed. Runs when the table has doubled since the last
    /// time, so that its cost for each socket is constant.
    fn sweep_nursery(&mut self) {
        let alive: std::collections::HashSet<u64> = match self.nursery.tokens() {
            Ok(tokens) => tokens.into_iter().collect(),
            Err(error) => {
                tracing::warn!(%error, "closed sockets cannot be found");
                self.nursery_limit *= 2;
                return;
            }
        };
        let fresh =
            |state: &State| matches!(state, State::Fresh | State::ConnectingBlocked | State::Ended(_));
        let gone: Vec<SocketId> = self
            .table
            .ids()
            .filter(|id| !alive.contains(&id.token()))
            .filter(|id| self.table.get(*id).is_some_and(|s| fresh(&s.state) && s.watch.is_none()))
            .collect();
        for id in gone {
            self.discard(id);
        }
        self.nursery_limit = (self.table.len() * 2).max(1024);
    }
}

/// Whether a thread has `CAP_NET_RAW` in its user namespace, which raw(7) asks for (proc(5), `CapEff`).
fn has_net_raw(tid: u32) -> bool {
    const NET_RAW: u64 = 1 << 13;
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|caps| caps & NET_RAW != 0)
}

/// Lets a later sentry see the address family of a surrogate.
pub(super) fn show_domain(file: BorrowedFd<'_>, domain: Domain) -> std::io::Result<()> {
    match domain {
        Domain::V4 => Ok(()),
        Domain::V6 => unix::set_flag(file),
    }
}

/// The errno of a host call that failed on the sentry's side.
pub(super) fn errno(error: &std::io::Error) -> i32 {
    match error.raw_os_error() {
        // The sentry's own limits are the program's "no room".
        Some(libc::EMFILE | libc::ENFILE) => libc::ENFILE,
        Some(code) => code,
        None => libc::EIO,
    }
}

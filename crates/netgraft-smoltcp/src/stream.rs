//! The calls on stream sockets.

use std::net::SocketAddr;

use netgraft_plugin::data::{Fill, Take};
use netgraft_plugin::{Error, Handle, Instant, Received, RecvFlags, Result, SendFlags, Shutdown};
use netgraft_tcp::{Connection, Pool};

use crate::addr::Tuple;
use crate::core::{Core, check_family, destination};
use crate::iface::Side;
use crate::listener::Listener;
use crate::ports::{Role, Sharing};
use crate::sock::{Body, Bound, Hold, Owner};
use crate::tcp::{Conn, Early, Life, at};

impl Core {
    /// Listens, or changes the backlog.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], [`Error::Invalid`] if the socket is connected.
    pub(crate) fn stream_listen(&mut self, handle: Handle, backlog: u32) -> Result<()> {
        let sock = self.socks.held_mut(handle)?;
        match &mut sock.body {
            Body::Listener(listener) => {
                listener.set_backlog(backlog);
                return Ok(());
            }
            Body::Fresh => {}
            Body::Conn(_) => return Err(Error::Invalid),
            Body::Datagrams(_) => return Err(Error::NotSupported),
        }
        let bound = sock.bound;
        if bound.hold == Hold::Nothing {
            self.hold_port(handle, bound.ip, 0, Role::Receiving)?;
        } else {
            let bind = Self::bind_of(sock, bound.ip, Role::Receiving);
            if !self.tcp_ports.is_free(bound.port, &bind) {
                return Err(Error::AddressInUse);
            }
            if let Some(entry) = self.tcp_ports.entry(bound.port, handle) {
                entry.role = Role::Receiving;
            }
        }
        self.socks.held_mut(handle)?.body = Body::Listener(Listener::new(backlog));
        self.update(handle, false);
        Ok(())
    }

    /// Takes a connection off a listener.
    ///
    /// # Errors
    /// [`Error::Again`], [`Error::Invalid`] if the socket does not listen.
    pub(crate) fn stream_accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)> {
        let sock = self.socks.held_mut(handle)?;
        let Body::Listener(listener) = &mut sock.body else {
            return Err(match sock.body {
                Body::Datagrams(_) => Error::NotSupported,
                _ => Error::Invalid,
            });
        };
        let child = listener.ready.pop_front().ok_or(Error::Again)?;
        self.update(handle, false);
        let sock = self.socks.get_mut(child).ok_or(Error::ConnectionAborted)?;
        sock.owner = Owner::Program;
        self.socks.held += 1;
        let sock = self.socks.held(child)?;
        let Body::Conn(conn) = &sock.body else { return Err(Error::ConnectionAborted) };
        Ok((child, crate::addr::outward(sock.spec.domain, conn.remote)))
    }

    /// Begins a connection.
    ///
    /// # Errors
    /// [`Error::InProgress`] when it has begun; [`Error::Already`], [`Error::IsConnected`],
    /// [`Error::NetworkUnreachable`], [`Error::AddressNotAvailable`], [`Error::Invalid`].
    pub(crate) fn stream_connect(&mut self, handle: Handle, to: SocketAddr) -> Result<()> {
        self.reset_failed_attempt(handle)?;
        let sock = self.socks.held(handle)?;
        let remote = destination(to);
        check_family(sock.spec.domain, &sock.options, remote)?;
        if remote.ip().is_multicast() || self.net.is_broadcast(remote.ip()) {
            return Err(Error::NetworkUnreachable);
        }
        if remote.port() == 0 {
            return Err(Error::ConnectionRefused);
        }
        let path = self.path_of(sock, remote.ip())?;
        let (bound, sharing) = (sock.bound, Sharing::of(&sock.options));
        let src = if bound.ip.is_unspecified() { path.src } else { bound.ip };
        if src.is_ipv4() != remote.is_ipv4() {
            return Err(Error::NetworkUnreachable);
        }
        if src.is_loopback() && path.side == Side::Link {
            return Err(Error::Invalid);
        }
        if path.side == Side::Link && self.link_down {
            return Err(Error::NetworkDown);
        }
        let (port, hold) = match bound.hold {
            Hold::Nothing => (self.connect_port(src, remote)?, Hold::Connection(sharing)),
            hold => (bound.port, hold),
        };
        let local = SocketAddr::new(src, port);
        let tuple = Tuple::new(local, remote);
        let waits = self.time_waits.get(&tuple);
        if self.connections.contains_key(&tuple) || waits.is_some_and(|w| !w.may_reuse(self.now)) {
            return Err(Error::AddressNotAvailable);
        }
        let old = waits.map(|w| w.tcp.next.0);
        self.forget_time_wait(&tuple);
        let isn = self.initial.choose(&tuple, old, self.now);
        match self.begin(handle, path.side, (local, remote), hold, isn)? {
            // As far as the program can tell, it is connected (tcp(7), `TCP_FASTOPEN_CONNECT`).
            Early::Waits => Ok(()),
            _ => Err(Error::InProgress),
        }
    }

    fn begin(
        &mut self,
        handle: Handle,
        side: Side,
        ends: (SocketAddr, SocketAddr),
        hold: Hold,
        isn: u32,
    ) -> Result<Early> {
        let now = self.now;
        let options = self.socks.held(handle)?.options.clone();
        let tuple = Tuple::new(ends.0, ends.1);
        let mut config = self.tcp_config(&options, side, tuple, ends.1.is_ipv4());
        let (how, early) = self.fast_connect(&options, ends.1.ip());
        config.fast_open = how;
        let tcp = Connection::connect(&config, isn, at(now));
        let mut conn = Conn::new(tcp, side, ends, Life::Connecting { unresolved: None }, &options);
        conn.early = early;
        self.connections.insert(conn.tuple(), handle);
        if let Hold::Connection(sharing) = hold {
            self.tcp_ports.add_connection(ends.0, sharing);
        }
        let sock = self.socks.held_mut(handle)?;
        sock.bound = Bound { ip: ends.0.ip(), port: ends.0.port(), hold };
        sock.body = Body::Conn(Box::new(conn));
        self.stats.tcp_active_opens += 1;
        self.update(handle, false);
        self.mark_dirty(handle);
        Ok(early)
    }

    /// A socket whose attempt has failed may try again; any other connection is in the way.
    fn reset_failed_attempt(&mut self, handle: Handle) -> Result<()> {
        let sock = self.socks.held_mut(handle)?;
        let Body::Conn(conn) = &sock.body else {
            return match sock.body {
                Body::Listener(_) => Err(Error::IsConnected),
                _ => Ok(()),
            };
        };
        match conn.life {
            Life::Connecting { .. } => return Err(Error::Already),
            Life::Ended { connected: false } => {}
            _ => return Err(Error::IsConnected),
        }
        if let Some(error) = sock.error.take() {
            return Err(error);
        }
        if let Body::Conn(conn) = std::mem::replace(&mut sock.body, Body::Fresh) {
            crate::tcp::count(&conn, &mut self.stats.tcp);
            let mut tcp = conn.tcp;
            let hold = sock.bound.hold;
            if let Hold::Connection(sharing) = hold {
                self.tcp_ports.remove_connection(sock.bound.addr(), sharing);
                sock.bound = Bound::nowhere(sock.spec.domain);
            }
            tcp.release(&mut self.pool);
        }
        Ok(())
    }

    /// Takes bytes of a stream.
    ///
    /// # Errors
    /// As `Sockets::send`.
    pub(crate) fn stream_send(&mut self, handle: Handle, data: &[u8], flags: SendFlags) -> Result<usize> {
        self.sending(handle, |conn, now, pool| conn.send(data, flags, now, pool))
    }

    /// Takes bytes of a stream that `fill` writes.
    ///
    /// # Errors
    /// As `Sockets::send_with`.
    pub(crate) fn stream_send_with(&mut self, handle: Handle, fill: &mut Fill<'_>) -> Result<usize> {
        self.sending(handle, |conn, now, pool| conn.send_with(fill, now, pool))
    }

    /// What is before and after bytes are taken.
    fn sending(
        &mut self,
        handle: Handle,
        act: impl FnOnce(&mut Conn, Instant, &mut Pool) -> Result<usize>,
    ) -> Result<usize> {
        let sock = self.socks.held_mut(handle)?;
        if let Some(error) = sock.error.take() {
            self.update(handle, false);
            return Err(error);
        }
        let Body::Conn(conn) = &mut sock.body else { return Err(Error::BrokenPipe) };
        let taken = act(conn, self.now, &mut self.pool);
        if let (Ok(1..), Early::Waits) = (&taken, conn.early) {
            conn.early = Early::Writes;
        }
        if let Ok(1..) = taken
            && !sock.dirty
        {
            sock.dirty = true;
            self.dirty.push_back(handle);
        }
        let ready = sock.readiness();
        self.queue.set_ready(handle, &mut sock.info, ready);
        taken
    }

    /// Gives bytes of a stream.
    ///
    /// # Errors
    /// As `Sockets::recv`.
    pub(crate) fn stream_recv(
        &mut self,
        handle: Handle,
        buf: &mut [u8],
        flags: RecvFlags,
    ) -> Result<Received> {
        if buf.is_empty() {
            self.socks.held(handle).and_then(|sock| match &sock.body {
                Body::Conn(_) => Ok(()),
                _ => Err(Error::NotConnected),
            })?;
            return Ok(Received::default());
        }
        Ok(self.receiving(handle, |conn, now, pool| conn.recv(buf, flags, now, pool))?.unwrap_or_default())
    }

    /// Shows bytes of a stream to `take`; `None` at its end.
    ///
    /// # Errors
    /// As `Sockets::recv_with`.
    pub(crate) fn stream_recv_with(&mut self, handle: Handle, take: &mut Take<'_>) -> Result<Option<usize>> {
        self.receiving(handle, |conn, now, pool| conn.recv_with(take, now, pool))
    }

    /// What is before and after bytes are given away.
    fn receiving<T>(
        &mut self,
        handle: Handle,
        act: impl FnOnce(&mut Conn, Instant, &mut Pool) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let sock = self.socks.held_mut(handle)?;
        let Body::Conn(conn) = &mut sock.body else { return Err(Error::NotConnected) };
        let got = act(conn, self.now, &mut self.pool);
        let grew = conn.tcp.must_acknowledge();
        let failed = !matches!(got, Ok(Some(_)));
        if failed && let Some(error) = sock.error.take() {
            self.update(handle, false);
            return Err(error);
        }
        if grew && !sock.dirty {
            sock.dirty = true;
            self.dirty.push_back(handle);
        }
        let ready = sock.readiness();
        self.queue.set_ready(handle, &mut sock.info, ready);
        got
    }

    /// Closes one or both halves.
    ///
    /// # Errors
    /// [`Error::NotConnected`]
    pub(crate) fn stream_shutdown(&mut self, handle: Handle, how: Shutdown) -> Result<()> {
        let sock = self.socks.held_mut(handle)?;
        let conn = match &mut sock.body {
            Body::Conn(conn) => conn,
            // Linux stops listening when the reading half is closed.
            Body::Listener(_) if how != Shutdown::Write => {
                self.stop_listening(handle);
                return Ok(());
            }
            Body::Listener(_) => return Ok(()),
            _ => return Err(Error::NotConnected),
        };
        match conn.life {
            Life::Ended { .. } | Life::HalfOpen { .. } => return Err(Error::NotConnected),
            Life::Connecting { .. } => {
                self.end(handle, None);
                return Ok(());
            }
            Life::Open => {}
        }
        conn.shut_read |= how != Shutdown::Write;
        if how != Shutdown::Read && !conn.shut_write {
            conn.finish(self.now);
        }
        self.update(handle, false);
        self.mark_dirty(handle);
        Ok(())
    }

    /// Ends listening: connections that nobody accepted are reset.
    pub(crate) fn stop_listening(&mut self, handle: Handle) {
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let Body::Listener(listener) = std::mem::replace(&mut sock.body, Body::Fresh) else { return };
        if let Some(entry) = self.tcp_ports.entry(sock.bound.port, handle) {
            entry.role = Role::Bound;
        }
        for child in listener.half_open.into_iter().chain(listener.ready) {
            self.reset(child);
            self.discard(child);
        }
        self.update(handle, false);
    }

    /// Closes a stream socket whose handle is gone; `abortive` resets a connection.
    pub(crate) fn stream_close(&mut self, handle: Handle, abortive: bool) {
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let Body::Conn(conn) = &mut sock.body else {
            self.stop_listening(handle);
            return self.discard(handle);
        };
        let abortive =
            abortive || sock.options.linger.is_some_and(|l| l.is_zero()) || conn.tcp.readable() > 0;
        match conn.life {
            Life::Connecting { .. } | Life::HalfOpen { .. } | Life::Ended { .. } => self.discard(handle),
            Life::Open if abortive => {
                self.reset(handle);
                self.discard(handle);
            }
            Life::Open => {
                if !conn.shut_write {
                    conn.finish(self.now);
                }
                conn.tcp.detach(at(self.now), &mut self.pool);
                sock.owner = Owner::Orphan;
                self.mark_dirty(handle);
            }
        }
    }
}

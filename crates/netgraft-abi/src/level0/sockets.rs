//! The socket calls of a level 0 stack.

use std::ffi::c_int;
use std::net::SocketAddr;

use netgraft_plugin::option::{OptionName, SocketOption, TcpInfo};
use netgraft_plugin::{
    Domain, Error, Events, Handle, Instant, Kind, Received, RecvFlags, Result, SendFlags, Shutdown,
    SocketSpec, Sockets,
};

use super::api::error_of;
use super::sock::{Phase, Sock, is_an_end};
use super::{Level0Stack, Live, TCP, UDP, options};
use crate::watch::Call;

/// The type and the protocol that the object is asked for. Asked for another socket, it would give one of the host.
pub(super) const fn numbers(spec: SocketSpec) -> Result<(c_int, c_int)> {
    match spec {
        TCP => Ok((libc::SOCK_STREAM, libc::IPPROTO_TCP)),
        UDP => Ok((libc::SOCK_DGRAM, libc::IPPROTO_UDP)),
        SocketSpec { domain: Domain::V6, .. } => Err(Error::FamilyNotSupported),
        SocketSpec { kind: Kind::Raw, .. } => Err(Error::KindNotSupported),
        _ => Err(Error::ProtocolNotSupported),
    }
}

impl Live {
    fn sock(&self, handle: Handle) -> Result<&Sock> {
        self.socks.get(&handle.0).ok_or(Error::BadHandle)
    }

    /// Takes a handle of the object in: it must be new, and is made non-blocking and registered.
    fn adopt(&mut self, call: Call, raw: c_int, spec: SocketSpec, phase: Phase) -> Result<Handle> {
        if self.raws.contains(&raw) {
            // Not closed: it is another socket's.
            return Err(error_of(self.api.complain(call, format_args!("the handle {raw} is given twice"))));
        }
        // The object's sockets block until FIONBIO is set.
        let nonblocking = self.api.ioctl(raw, libc::FIONBIO, 1);
        let token = self.next;
        let result = match nonblocking {
            Ok(_) if self.api.register(raw, Some(token)) => Ok(Handle(token)),
            Ok(_) => Err(Error::NoBuffers),
            Err(errno) => Err(error_of(errno)),
        };
        if result.is_err() {
            self.api.close(raw);
            return result;
        }
        self.next += 1;
        self.raws.insert(raw);
        self.socks.insert(token, Sock::new(raw, spec, phase));
        result
    }

    fn connect(&mut self, handle: Handle, addr: SocketAddr) -> Result<()> {
        let sock = self.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        if let Some(error) = sock.error.take() {
            return Err(error);
        }
        // What cannot be connected is not asked.
        if sock.phase == Phase::Listening || sock.phase == Phase::Connected && sock.spec.kind == Kind::Stream
        {
            return Err(Error::IsConnected);
        }
        let result = match self.api.connect(sock.raw, addr) {
            // The end of the attempt before, which was reported already.
            Err(errno) if sock.phase == Phase::Failed && is_an_end(errno) => self.api.connect(sock.raw, addr),
            other => other,
        };
        if sock.spec.kind == Kind::Datagram {
            return result.map(drop).map_err(error_of);
        }
        match (sock.phase, result) {
            // 0 comes exactly once; here the attempt was made before.
            (Phase::Connecting(_), Ok(_) | Err(libc::EISCONN)) => {
                sock.phase = Phase::Connected;
                Err(Error::IsConnected)
            }
            (Phase::Connecting(_), Err(libc::EALREADY | libc::EINPROGRESS)) => Err(Error::Already),
            (_, Ok(_)) => {
                (sock.phase, sock.error) = (Phase::Connected, None);
                Ok(())
            }
            (_, Err(libc::EINPROGRESS)) => {
                (sock.phase, sock.error) = (Phase::Connecting(addr), None);
                Err(Error::InProgress)
            }
            (_, Err(errno)) => Err(error_of(errno)),
        }
    }

    fn send(&mut self, handle: Handle, data: &[u8], to: Option<SocketAddr>, flags: c_int) -> Result<usize> {
        let sock = self.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        let stream = sock.spec.kind == Kind::Stream;
        if sock.phase == Phase::Failed {
            return Err(sock.error.take().unwrap_or(Error::BrokenPipe));
        }
        let result = match to {
            Some(to) if !stream => self.api.send_to(sock.raw, data, flags, to),
            _ => self.api.write(sock.raw, data, flags),
        };
        match result {
            // A full ring: some of the object's calls answer 0, some EAGAIN, and write also EINPROGRESS.
            Ok(0) if !data.is_empty() => {
                sock.out_blocked = true;
                Err(Error::Again)
            }
            Err(libc::EAGAIN | libc::EINPROGRESS | libc::EINTR) => {
                sock.out_blocked = true;
                Err(Error::Again)
            }
            Ok(sent) if !stream && sent < data.len() => {
                let what = format_args!("a datagram of {} bytes is sent in part, {sent}", data.len());
                Err(error_of(self.api.complain(Call::plugin_sendto, what)))
            }
            Ok(sent) => Ok(sent),
            Err(errno) => Err(error_of(errno)),
        }
    }

    fn recv_stream(&mut self, handle: Handle, buf: &mut [u8], peek: bool) -> Result<Received> {
        let sock = self.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        let received = |len| Ok(Received { len, full_len: len, ..Received::default() });
        if sock.ended && sock.error.is_none() {
            return received(0);
        }
        match self.api.read(sock.raw, buf, peek) {
            // What had come before a reset is received first, then its error, once, then the end.
            Ok(0) | Err(libc::ESHUTDOWN) if !buf.is_empty() => match sock.error.take() {
                Some(error) => Err(error),
                None => {
                    sock.ended = true;
                    received(0)
                }
            },
            Ok(len) => received(len),
            Err(libc::EAGAIN | libc::EINTR) => {
                if let Some(error) = sock.error.take() {
                    return Err(error);
                }
                if sock.phase == Phase::Failed {
                    return received(0);
                }
                (sock.in_blocked, sock.may_have_ended) = (true, false);
                Err(Error::Again)
            }
            Err(errno) => {
                let error = error_of(errno);
                if sock.phase == Phase::Connected && error == Error::ConnectionReset {
                    sock.phase = Phase::Failed;
                }
                // Reported here, and not a second time.
                sock.error = None;
                Err(error)
            }
        }
    }

    fn recv_datagram(&mut self, handle: Handle, buf: &mut [u8], peek: bool) -> Result<Received> {
        let sock = self.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        match self.api.read_datagram(sock.raw, buf, peek) {
            Ok((len, full_len, from)) => Ok(Received { len, full_len, from, ..Received::default() }),
            Err(libc::EAGAIN | libc::EINTR) => {
                sock.in_blocked = true;
                Err(Error::Again)
            }
            Err(errno) => Err(error_of(errno)),
        }
    }

    fn close(&mut self, handle: Handle) -> Result<()> {
        let sock = self.socks.remove(&handle.0).ok_or(Error::BadHandle)?;
        self.raws.remove(&sock.raw);
        self.api.register(sock.raw, None);
        self.api.close(sock.raw);
        Ok(())
    }
}

impl Sockets for Level0Stack {
    fn socket(&mut self, spec: SocketSpec) -> Result<Handle> {
        let (kind, protocol) = numbers(spec)?;
        let live = self.live_mut()?;
        if live.api.shared.failure().is_some() {
            return Err(Error::NetworkDown);
        }
        let raw = live.api.socket(libc::AF_INET, kind, protocol).map_err(error_of)?;
        live.adopt(Call::plugin_socket, raw, spec, Phase::Fresh)
    }

    fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()> {
        let live = self.live()?;
        let sock = live.sock(handle)?;
        if addr.is_ipv6() {
            return Err(Error::FamilyNotSupported);
        }
        live.api.bind(sock.raw, addr).map(drop).map_err(error_of)
    }

    fn listen(&mut self, handle: Handle, backlog: u32) -> Result<()> {
        let live = self.live_mut()?;
        let sock = live.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        live.api.listen(sock.raw, backlog).map_err(error_of)?;
        sock.phase = Phase::Listening;
        Ok(())
    }

    fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)> {
        let live = self.live_mut()?;
        let sock = live.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        if sock.phase != Phase::Listening {
            return Err(Error::Invalid);
        }
        let (raw, peer) = live.api.accept(sock.raw).map_err(|errno| {
            sock.in_blocked |= errno == libc::EAGAIN;
            error_of(errno)
        })?;
        let spec = sock.spec;
        let new = live.adopt(Call::plugin_accept, raw, spec, Phase::Connected)?;
        match peer {
            Ok(peer) => Ok((new, peer)),
            Err(errno) => {
                let _ = live.close(new);
                Err(error_of(errno))
            }
        }
    }

    fn connect(&mut self, handle: Handle, addr: SocketAddr, _now: Instant) -> Result<()> {
        let live = self.live_mut()?;
        live.sock(handle)?;
        if addr.is_ipv6() {
            return Err(Error::FamilyNotSupported);
        }
        live.connect(handle, addr)
    }

    fn disconnect(&mut self, handle: Handle) -> Result<()> {
        let live = self.live()?;
        let sock = live.sock(handle)?;
        if sock.spec.kind == Kind::Stream {
            return Err(Error::NotSupported);
        }
        live.api.disconnect(sock.raw).map(drop).map_err(error_of)
    }

    fn local_addr(&self, handle: Handle) -> Result<SocketAddr> {
        let live = self.live()?;
        live.api.local_addr(live.sock(handle)?.raw).map_err(error_of)
    }

    fn peer_addr(&self, handle: Handle) -> Result<SocketAddr> {
        let live = self.live()?;
        live.api.peer_addr(live.sock(handle)?.raw).map_err(error_of)
    }

    fn send(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
        _now: Instant,
    ) -> Result<usize> {
        let mut bits = 0;
        for (flag, bit) in [
            (SendFlags::MORE, libc::MSG_MORE),
            (SendFlags::DONT_ROUTE, libc::MSG_DONTROUTE),
            (SendFlags::OUT_OF_BAND, libc::MSG_OOB),
        ] {
            if flags.contains(flag) {
                bits |= bit;
            }
        }
        self.live_mut()?.send(handle, data, to, bits)
    }

    fn recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags, _now: Instant) -> Result<Received> {
        let peek = flags.contains(RecvFlags::PEEK);
        let live = self.live_mut()?;
        match live.sock(handle)?.spec.kind {
            Kind::Stream => live.recv_stream(handle, buf, peek),
            _ => live.recv_datagram(handle, buf, peek),
        }
    }

    fn queued_in(&self, handle: Handle) -> Result<usize> {
        self.queued(handle, libc::FIONREAD)
    }

    fn queued_out(&self, handle: Handle) -> Result<usize> {
        self.queued(handle, libc::TIOCOUTQ)
    }

    fn shutdown(&mut self, handle: Handle, how: Shutdown, _now: Instant) -> Result<()> {
        let live = self.live_mut()?;
        let sock = live.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        let number = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        live.api.shutdown(sock.raw, number).map_err(error_of)?;
        sock.write_shut |= how != Shutdown::Read;
        // Waiters see a half that is closed from here, too.
        (sock.in_blocked, sock.out_blocked) = (false, false);
        Ok(())
    }

    fn close(&mut self, handle: Handle, _now: Instant) -> Result<()> {
        self.live_mut()?.close(handle)
    }

    fn abort(&mut self, handle: Handle, _now: Instant) -> Result<()> {
        let live = self.live_mut()?;
        let sock = live.sock(handle)?;
        if sock.spec.kind == Kind::Stream {
            let now = SocketOption::Linger(Some(std::time::Duration::ZERO));
            // Without the option it ends with a FIN: the best that is left.
            let _ = options::set(&live.api, (sock.raw, sock.spec), &live.options, &now);
        }
        live.close(handle)
    }

    fn readiness(&self, handle: Handle) -> Result<Events> {
        let live = self.live()?;
        Ok(live.sock(handle)?.level(&live.api))
    }

    fn take_error(&mut self, handle: Handle) -> Option<Error> {
        let live = self.live_mut().ok()?;
        let sock = live.socks.get_mut(&handle.0)?;
        sock.look(&live.api);
        let datagram = sock.spec.kind == Kind::Datagram;
        // Reading it may not clear it: only ERR says that there is one.
        let pending = datagram && sock.level(&live.api).contains(Events::ERR);
        sock.error.take().or_else(|| if pending { sock.pending(&live.api) } else { None })
    }

    fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()> {
        let live = self.live()?;
        let sock = live.sock(handle)?;
        options::set(&live.api, (sock.raw, sock.spec), &live.options, &option)
    }

    fn get_option(&self, handle: Handle, name: OptionName) -> Result<SocketOption> {
        let live = self.live()?;
        let sock = live.sock(handle)?;
        options::get(&live.api, (sock.raw, sock.spec), &live.options, name)
    }

    fn tcp_info(&self, handle: Handle) -> Result<TcpInfo> {
        let live = self.live()?;
        let sock = live.sock(handle)?;
        if sock.spec.kind != Kind::Stream {
            return Err(Error::NotSupported);
        }
        options::tcp_info(&live.api, sock.raw)
    }
}

impl Level0Stack {
    fn queued(&self, handle: Handle, request: u64) -> Result<usize> {
        let live = self.live()?;
        let count = live.api.ioctl(live.sock(handle)?.raw, request, 0).map_err(error_of)?;
        usize::try_from(count)
            .map_err(|_| error_of(live.api.complain(Call::plugin_ioctl, format_args!("{count} bytes"))))
    }
}

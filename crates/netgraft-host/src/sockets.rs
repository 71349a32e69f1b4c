//! The socket calls, each on the host's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use libc::c_int;
use netgraft_linux::inet_socket as sys;
use netgraft_plugin::{
    Domain, Error, Events, Handle, Instant, Kind, OptionName, Protocol, Received, RecvFlags, Result,
    SendFlags, Shutdown, SocketOption, SocketSpec, Sockets, TcpInfo,
};

use crate::host::{HostStack, Slot, host};
use crate::options;

/// Room for the control messages that [`Slot::set_details`] asks for: three small ones.
const CONTROL: usize = 128;

/// The numbers of socket(2) for a spec.
fn numbers(spec: SocketSpec) -> Result<(c_int, c_int, u8)> {
    let domain = match spec.domain {
        Domain::V4 => libc::AF_INET,
        Domain::V6 => libc::AF_INET6,
    };
    let (kind, protocol) = match (spec.kind, spec.protocol, spec.domain) {
        (Kind::Stream, Protocol::Tcp, _) => (libc::SOCK_STREAM, libc::IPPROTO_TCP),
        (Kind::Datagram, Protocol::Udp, _) => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        (Kind::Datagram, Protocol::Icmp, Domain::V4) => (libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        (Kind::Datagram, Protocol::Icmpv6, Domain::V6) => (libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6),
        (Kind::Raw, Protocol::Raw(number), _) => (libc::SOCK_RAW, c_int::from(number)),
        _ => return Err(Error::ProtocolNotSupported),
    };
    Ok((domain, kind, protocol as u8))
}

impl Sockets for HostStack {
    fn socket(&mut self, spec: SocketSpec) -> Result<Handle> {
        let (domain, kind, protocol) = numbers(spec)?;
        let fd = self.make(domain, kind, protocol)?;
        Ok(self.live_mut()?.insert(fd, spec))
    }

    fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()> {
        self.slot_mut(handle)?.set_details(true)?;
        let live = self.live()?;
        live.bind_fd(self.slot(handle)?.fd.as_fd(), addr)
    }

    fn listen(&mut self, handle: Handle, backlog: u32) -> Result<()> {
        let fd = self.slot(handle)?.fd.as_fd();
        host(sys::listen(fd, c_int::try_from(backlog).unwrap_or(c_int::MAX)))
    }

    fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)> {
        let slot = self.slot(handle)?;
        let spec = slot.spec;
        let (fd, peer) = host(sys::accept4(slot.fd.as_fd(), libc::SOCK_NONBLOCK))?;
        let live = self.live_mut()?;
        live.counters.tcp_passive_opens += 1;
        Ok((live.insert(fd, spec), peer))
    }

    fn connect(&mut self, handle: Handle, addr: SocketAddr, _now: Instant) -> Result<()> {
        let slot = self.slot_mut(handle)?;
        slot.set_details(true)?;
        let result = host(sys::connect(slot.fd.as_fd(), &addr));
        if slot.spec.kind == Kind::Stream && matches!(result, Ok(()) | Err(Error::InProgress)) {
            self.live_mut()?.counters.tcp_active_opens += 1;
        }
        result
    }

    fn disconnect(&mut self, handle: Handle) -> Result<()> {
        let slot = self.slot(handle)?;
        match slot.spec.kind {
            Kind::Stream => Err(Error::NotSupported),
            Kind::Datagram | Kind::Raw => host(sys::disconnect(slot.fd.as_fd())),
        }
    }

    fn local_addr(&self, handle: Handle) -> Result<SocketAddr> {
        host(sys::getsockname(self.slot(handle)?.fd.as_fd()))
    }

    fn peer_addr(&self, handle: Handle) -> Result<SocketAddr> {
        host(sys::getpeername(self.slot(handle)?.fd.as_fd()))
    }

    fn send(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
        _now: Instant,
    ) -> Result<usize> {
        let slot = self.slot_mut(handle)?;
        slot.set_details(true)?;
        let mut bits = libc::MSG_DONTWAIT;
        for (flag, bit) in [
            (SendFlags::MORE, libc::MSG_MORE),
            (SendFlags::DONT_ROUTE, libc::MSG_DONTROUTE),
            (SendFlags::OUT_OF_BAND, libc::MSG_OOB),
        ] {
            if flags.contains(flag) {
                bits |= bit;
            }
        }
        let sent = host(sys::sendto(slot.fd.as_fd(), data, to.as_ref(), bits))?;
        if slot.spec.protocol == Protocol::Udp {
            self.live_mut()?.counters.udp_sent += 1;
        }
        Ok(sent)
    }

    fn recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags, _now: Instant) -> Result<Received> {
        let slot = self.slot_mut(handle)?;
        let peek = if flags.contains(RecvFlags::PEEK) { libc::MSG_PEEK } else { 0 };
        let bits = libc::MSG_DONTWAIT | peek;
        if slot.spec.kind == Kind::Stream {
            let (len, _) = host(sys::recvfrom(slot.fd.as_fd(), buf, bits))?;
            return Ok(Received { len, full_len: len, ..Received::default() });
        }
        slot.set_details(true)?;
        let mut control = [0; CONTROL];
        let message = host(sys::recvmsg(slot.fd.as_fd(), buf, &mut control, bits | libc::MSG_TRUNC))?;
        let mut received = Received {
            len: message.len.min(buf.len()),
            full_len: message.len,
            from: message.from,
            ..Received::default()
        };
        for (level, kind, data) in sys::control_messages(&control[..message.control_len]) {
            read_detail(&mut received, level, kind, data);
        }
        if slot.spec.protocol == Protocol::Udp && peek == 0 {
            self.live_mut()?.counters.udp_received += 1;
        }
        Ok(received)
    }

    fn queued_in(&self, handle: Handle) -> Result<usize> {
        let value = host(sys::ioctl_int(self.slot(handle)?.fd.as_fd(), libc::FIONREAD))?;
        Ok(usize::try_from(value).unwrap_or(0))
    }

    fn queued_out(&self, handle: Handle) -> Result<usize> {
        let value = host(sys::ioctl_int(self.slot(handle)?.fd.as_fd(), libc::TIOCOUTQ))?;
        Ok(usize::try_from(value).unwrap_or(0))
    }

    fn shutdown(&mut self, handle: Handle, how: Shutdown, _now: Instant) -> Result<()> {
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        host(sys::shutdown(self.slot(handle)?.fd.as_fd(), how))
    }

    fn close(&mut self, handle: Handle, _now: Instant) -> Result<()> {
        let slot = self.live_mut()?.sockets.remove(&handle).ok_or(Error::BadHandle)?;
        // close(2) would wait for a linger time even on a non-blocking socket; who waits is the sentry's
        // matter. Zero stays: it means a reset.
        if slot.spec.kind == Kind::Stream && slot.linger()?.is_some_and(|seconds| seconds > 0) {
            slot.set_linger(None)?;
        }
        Ok(())
    }

    fn abort(&mut self, handle: Handle, _now: Instant) -> Result<()> {
        let slot = self.live_mut()?.sockets.remove(&handle).ok_or(Error::BadHandle)?;
        match slot.spec.kind {
            Kind::Stream => slot.set_linger(Some(0)),
            Kind::Datagram | Kind::Raw => Ok(()),
        }
    }

    fn readiness(&self, handle: Handle) -> Result<Events> {
        self.slot(handle)?.readiness()
    }

    fn take_error(&mut self, handle: Handle) -> Option<Error> {
        let fd = self.slot(handle).ok()?.fd.as_fd();
        match sys::getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_ERROR) {
            Ok(0) | Err(_) => None,
            Ok(errno) => Some(crate::host::host_error(&std::io::Error::from_raw_os_error(errno))),
        }
    }

    fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()> {
        options::set(self.slot(handle)?, &option)
    }

    fn get_option(&self, handle: Handle, name: OptionName) -> Result<SocketOption> {
        options::get(self.slot(handle)?, name)
    }

    fn tcp_info(&self, handle: Handle) -> Result<TcpInfo> {
        let slot = self.slot(handle)?;
        match slot.spec.kind {
            Kind::Stream => options::tcp_info(slot),
            Kind::Datagram | Kind::Raw => Err(Error::NotSupported),
        }
    }
}

impl Slot {
    /// Asks the kernel to tell the details of datagrams, or to stop (ip(7), ipv6(7)).
    pub(crate) fn set_details(&mut self, on: bool) -> Result<()> {
        if self.details == on || self.spec.kind == Kind::Stream {
            return Ok(());
        }
        let options = match self.spec.domain {
            Domain::V4 => {
                [libc::IP_PKTINFO, libc::IP_RECVTTL, libc::IP_RECVTOS].map(|o| (libc::IPPROTO_IP, o))
            }
            Domain::V6 => [libc::IPV6_RECVPKTINFO, libc::IPV6_RECVHOPLIMIT, libc::IPV6_RECVTCLASS]
                .map(|o| (libc::IPPROTO_IPV6, o)),
        };
        for (level, name) in options {
            host(sys::setsockopt(self.fd.as_fd(), level, name, &i32::from(on).to_ne_bytes()))?;
        }
        self.details = on;
        Ok(())
    }
}

/// Takes one control message of a datagram in.
fn read_detail(received: &mut Received, level: c_int, kind: c_int, data: &[u8]) {
    let word = |at: usize| data.get(at..).and_then(|d| d.first_chunk()).map(|w| u32::from_ne_bytes(*w));
    match (level, kind) {
        // struct in_pktinfo: index, local address, destination in the header.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            received.interface = word(0).unwrap_or(0);
            let raw: Option<&[u8; 4]> = data.get(8..).and_then(|d| d.first_chunk());
            received.to = raw.map(|raw| IpAddr::V4(Ipv4Addr::from(*raw)));
        }
        // struct in6_pktinfo: destination, index.
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            received.interface = word(16).unwrap_or(0);
            let raw: Option<&[u8; 16]> = data.first_chunk();
            received.to = raw.map(|raw| IpAddr::V6(Ipv6Addr::from(*raw)));
        }
        (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
            received.hop_limit = word(0).and_then(|v| u8::try_from(v).ok()).unwrap_or(0);
        }
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            received.traffic_class = word(0).and_then(|v| u8::try_from(v).ok()).unwrap_or(0);
        }
        // The kernel writes one byte here.
        (libc::IPPROTO_IP, libc::IP_TOS) => received.traffic_class = data.first().copied().unwrap_or(0),
        _ => {}
    }
}

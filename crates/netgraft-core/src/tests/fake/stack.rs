//! The fake stack behind the contract.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use netgraft_plugin::inet::{self, Interface};
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{
    Call, Cidr, Domain, Error, Event, Events, Handle, InitStackArgs, Instant, Kind, OptionName,
    PluginNotifier, PluginStack, Received, RecvFlags, Result, SendFlags, Shutdown, SocketOption, SocketSpec,
    Sockets, StackInfo, TcpInfo, TcpState,
};

use super::net::{Net, Phase};

/// A handle on the fake stack: the core has one, the test another.
#[derive(Clone, Default)]
pub(crate) struct FakeStack(pub(crate) Arc<Mutex<Net>>);

impl FakeStack {
    pub(crate) fn net(&self) -> MutexGuard<'_, Net> {
        // Everything runs on one thread: whoever finds it locked would wait for itself.
        self.0.try_lock().expect("the stack's state is held")
    }

    /// The state, after the scripted error of a call if there is one.
    fn enter(&self, call: Call) -> Result<MutexGuard<'_, Net>> {
        let mut net = self.net();
        if net.is_destroyed {
            return Err(Error::NetworkDown);
        }
        net.script(call)?;
        Ok(net)
    }
}

impl Sockets for FakeStack {
    fn socket(&mut self, spec: SocketSpec) -> Result<Handle> {
        Ok(self.enter(Call::socket)?.make(spec))
    }

    fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()> {
        self.enter(Call::bind)?.bind(handle, addr)
    }

    fn listen(&mut self, handle: Handle, backlog: u32) -> Result<()> {
        self.enter(Call::listen)?.listen(handle, backlog as usize)
    }

    fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)> {
        self.enter(Call::accept)?.accept(handle)
    }

    fn connect(&mut self, handle: Handle, addr: SocketAddr, _now: Instant) -> Result<()> {
        self.enter(Call::connect)?.connect(handle, addr)
    }

    fn disconnect(&mut self, handle: Handle) -> Result<()> {
        match &mut self.enter(Call::disconnect)?.get_mut(handle)?.phase {
            Phase::Datagrams { peer, .. } => *peer = None,
            _ => return Err(Error::NotSupported),
        }
        Ok(())
    }

    fn local_addr(&self, handle: Handle) -> Result<SocketAddr> {
        let net = self.net();
        let sock = net.get(handle)?;
        let unspecified = match sock.spec.domain {
            Domain::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Domain::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Ok(sock.local.unwrap_or(SocketAddr::new(unspecified, 0)))
    }

    fn peer_addr(&self, handle: Handle) -> Result<SocketAddr> {
        self.net().peer_addr(handle)
    }

    fn send(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
        _now: Instant,
    ) -> Result<usize> {
        let mut net = self.enter(Call::send)?;
        match net.get(handle)?.spec.kind {
            Kind::Stream => {
                let sent = net.send_stream(handle, data)?;
                if flags.contains(SendFlags::OUT_OF_BAND) && sent == data.len() {
                    net.urgent_sent.extend(data.last());
                }
                Ok(sent)
            }
            _ => net.send_datagram(handle, data, to),
        }
    }

    fn recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags, _now: Instant) -> Result<Received> {
        let mut net = self.enter(Call::recv)?;
        let peek = flags.contains(RecvFlags::PEEK);
        match net.get(handle)?.spec.kind {
            Kind::Stream => {
                let len = net.receive_stream(handle, buf, peek)?;
                Ok(Received { len, full_len: len, ..Received::default() })
            }
            _ => net.receive_datagram(handle, buf, peek),
        }
    }

    fn send_room(&self, handle: Handle) -> usize {
        self.net().room(handle)
    }

    fn urgent(&self, handle: Handle) -> Result<usize> {
        Ok(self.net().marks.get(&handle.0).copied().unwrap_or(0))
    }

    fn queued_out(&self, handle: Handle) -> Result<usize> {
        self.net().queued_out(handle)
    }

    fn shutdown(&mut self, handle: Handle, how: Shutdown, _now: Instant) -> Result<()> {
        self.enter(Call::shutdown)?.shutdown(handle, how != Shutdown::Write, how != Shutdown::Read)
    }

    fn close(&mut self, handle: Handle, _now: Instant) -> Result<()> {
        self.net().close(handle, false)
    }

    fn abort(&mut self, handle: Handle, _now: Instant) -> Result<()> {
        self.net().close(handle, true)
    }

    fn readiness(&self, handle: Handle) -> Result<Events> {
        let net = self.net();
        net.get(handle)?;
        Ok(net.ready(handle.0))
    }

    fn take_error(&mut self, handle: Handle) -> Option<Error> {
        self.net().take_error(handle)
    }

    fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()> {
        let mut net = self.enter(Call::set_option)?;
        net.get_mut(handle)?.options.insert(option.name(), option);
        Ok(())
    }

    fn get_option(&self, handle: Handle, name: OptionName) -> Result<SocketOption> {
        self.net().get(handle)?.options.get(&name).cloned().ok_or(Error::UnknownOption)
    }

    fn tcp_info(&self, handle: Handle) -> Result<TcpInfo> {
        let net = self.net();
        let state = match net.get(handle)?.phase {
            Phase::Open(..) => TcpState::Established,
            Phase::Listening { .. } => TcpState::Listen,
            Phase::Connecting(_) => TcpState::SynSent,
            Phase::Fresh | Phase::Failed(_) => TcpState::Closed,
            Phase::Datagrams { .. } => return Err(Error::NotSupported),
        };
        Ok(TcpInfo { state, ..TcpInfo::default() })
    }
}

impl PluginNotifier for FakeStack {
    fn add_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let net = &mut *self.net();
        let ready = net.ready(handle.0);
        let sock = net.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        net.queue.set_ready(handle, &mut sock.info, ready);
        net.queue.add(handle, &mut sock.info, mask)
    }

    fn update_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let net = &mut *self.net();
        let sock = net.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        net.queue.change(handle, &mut sock.info, Some(mask))
    }

    fn remove_fd(&mut self, handle: Handle) -> Result<()> {
        let net = &mut *self.net();
        let sock = net.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        net.queue.change(handle, &mut sock.info, None)
    }
}

impl inet::Stack for FakeStack {
    fn interfaces(&self) -> Vec<Interface> {
        let interface = |index: u32, name: &str, addresses: &[([u8; 4], u8)]| Interface {
            index,
            name: name.to_owned(),
            mtu: 1500,
            up: true,
            loopback: index == 1,
            hardware_address: (index != 1).then_some([2, 0, 0, 0, 0, 1]),
            addresses: addresses
                .iter()
                .map(|(octets, prefix)| Cidr::new(IpAddr::from(*octets), *prefix).unwrap())
                .collect(),
        };
        vec![
            interface(1, "lo", &[([127, 0, 0, 1], 8)]),
            interface(2, "eth0", &[([192, 0, 2, 1], 24)]),
            interface(3, "bare", &[]),
        ]
    }
}

impl PluginStack for FakeStack {
    fn info(&self) -> StackInfo {
        StackInfo::default()
    }

    fn init(&mut self, _args: InitStackArgs) -> std::result::Result<(), SetupError> {
        Ok(())
    }

    fn poll(&mut self, _now: Instant) {
        self.net().poll();
    }

    fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        // The sink may call the stack: its state must not be held.
        let mut events = Vec::new();
        self.net().drain(&mut |event| {
            events.push(event);
            true
        });
        events.into_iter().all(sink);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.net().deadline
    }

    fn destroy(&mut self) {
        let mut net = self.net();
        net.is_destroyed = true;
        net.socks.clear();
    }

    fn take_host_fd(&mut self, handle: Handle) -> Result<OwnedFd> {
        let mut net = self.enter(Call::take_host_fd)?;
        net.socks.remove(&handle.0).ok_or(Error::BadHandle)?;
        // Some descriptor: what stands for the host's socket is in the fake kernel.
        Ok(std::fs::File::open("/dev/null").map_err(|_| Error::Io)?.into())
    }

    fn bind_host_fd(&mut self, _fd: BorrowedFd<'_>, addr: SocketAddr) -> Result<()> {
        self.enter(Call::bind_host_fd)?.bound_host_fds.push(addr);
        Ok(())
    }
}

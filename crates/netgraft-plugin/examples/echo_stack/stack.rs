//! A whole stack in under 200 lines: a network on which every host echoes, over TCP and UDP.
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use netgraft_plugin::stack::SetupError;
use netgraft_plugin::*;

/// Echoes that wait in a socket at most, and bytes of one: what UDP over IPv4 carries.
const ECHOES: usize = 64;
const LONGEST: usize = 65_507;

/// How far a socket has come; one of UDP is always open.
#[derive(Clone, Copy)]
enum Phase {
    Unconnected,
    Open,
    Ended, // shut down for writing, and the echo with it
}

struct Socket {
    kind: Kind,
    phase: Phase,
    local: SocketAddr,
    peer: Option<SocketAddr>,
    echoes: VecDeque<(SocketAddr, Vec<u8>)>,
    info: EventInfo,
}

impl Socket {
    /// What poll(2) says of a Linux socket in this state.
    fn ready(&self) -> Events {
        let input = if self.echoes.is_empty() { Events::empty() } else { Events::IN };
        match self.phase {
            Phase::Unconnected => Events::OUT | Events::HUP,
            Phase::Open if self.kind == Kind::Stream && self.echoes.len() >= ECHOES => input,
            Phase::Open => input | Events::OUT,
            Phase::Ended => Events::IN | Events::OUT | Events::RDHUP | Events::HUP,
        }
    }
}

#[derive(Default)]
pub(super) struct EchoStack {
    sockets: Option<HashMap<Handle, Socket>>, // none before `init` and after `destroy`
    made: u64,
    queue: WaitQueue,
}

impl EchoStack {
    fn get(&self, handle: Handle) -> Result<&Socket> {
        self.sockets.as_ref().ok_or(Error::NetworkDown)?.get(&handle).ok_or(Error::BadHandle)
    }

    fn parts(&mut self, handle: Handle) -> Result<(&mut Socket, &mut WaitQueue)> {
        let sockets = self.sockets.as_mut().ok_or(Error::NetworkDown)?;
        Ok((sockets.get_mut(&handle).ok_or(Error::BadHandle)?, &mut self.queue))
    }

    /// Changes a socket; whoever waits for what that brings will be told.
    fn change<T>(&mut self, handle: Handle, act: impl FnOnce(&mut Socket) -> Result<T>) -> Result<T> {
        let (socket, queue) = self.parts(handle)?;
        let result = act(socket);
        let ready = socket.ready();
        queue.notify(handle, &mut socket.info, ready);
        result
    }
}

impl Sockets for EchoStack {
    fn socket(&mut self, spec: SocketSpec) -> Result<Handle> {
        let (kind, phase) = match (spec.kind, spec.protocol) {
            (Kind::Stream, Protocol::Tcp) => (Kind::Stream, Phase::Unconnected),
            (Kind::Datagram, Protocol::Udp) => (Kind::Datagram, Phase::Open),
            _ => return Err(Error::ProtocolNotSupported),
        };
        let local = if spec.domain == Domain::V4 { ([0_u8; 4], 0).into() } else { ([0_u8; 16], 0).into() };
        let (peer, echoes, info) = (None, VecDeque::new(), EventInfo::default());
        let socket = Socket { kind, phase, local, peer, echoes, info };
        self.made += 1;
        let handle = Handle(self.made);
        self.sockets.as_mut().ok_or(Error::NetworkDown)?.insert(handle, socket);
        self.change(handle, |_| Ok(handle))
    }
    fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()> {
        self.change(handle, |s| {
            if addr.is_ipv4() != s.local.is_ipv4() || s.local.port() != 0 {
                return Err(Error::Invalid);
            }
            s.local = SocketAddr::new(addr.ip(), addr.port().max(1)); // nobody to share ports with
            Ok(())
        })
    }
    fn connect(&mut self, handle: Handle, addr: SocketAddr, _now: Instant) -> Result<()> {
        self.change(handle, |s| match (s.kind, s.phase) {
            _ if addr.is_ipv4() != s.local.is_ipv4() => Err(Error::FamilyNotSupported),
            (Kind::Stream, Phase::Open | Phase::Ended) => Err(Error::IsConnected),
            (kind, _) => {
                (s.peer, s.phase) = (Some(addr), Phase::Open);
                if kind == Kind::Stream { Err(Error::InProgress) } else { Ok(()) }
            }
        })
    }
    fn local_addr(&self, handle: Handle) -> Result<SocketAddr> {
        Ok(self.get(handle)?.local)
    }
    fn peer_addr(&self, handle: Handle) -> Result<SocketAddr> {
        self.get(handle)?.peer.ok_or(Error::NotConnected)
    }
    #[rustfmt::skip]
    fn send(&mut self, handle: Handle, data: &[u8], to: Option<SocketAddr>, _: SendFlags, _: Instant) -> Result<usize> {
        self.change(handle, |s| match (s.kind, s.phase, to.or(s.peer)) {
            (_, Phase::Unconnected | Phase::Ended, _) => Err(Error::BrokenPipe),
            (_, _, None) => Err(Error::DestinationRequired),
            (Kind::Stream, ..) if s.echoes.len() >= ECHOES => Err(Error::Again),
            (Kind::Datagram, ..) if data.len() > LONGEST => Err(Error::MessageTooLong),
            (Kind::Datagram, ..) if s.echoes.len() >= ECHOES => Ok(data.len()), // lost
            (_, _, Some(peer)) => {
                let len = data.len().min(LONGEST);
                s.echoes.push_back((peer, data[..len].to_vec()));
                Ok(len)
            }
        })
    }
    fn recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags, _: Instant) -> Result<Received> {
        self.change(handle, |s| {
            let Some((from, data)) = s.echoes.front_mut() else {
                return match s.phase {
                    Phase::Unconnected => Err(Error::NotConnected),
                    Phase::Open => Err(Error::Again),
                    Phase::Ended => Ok(Received::default()),
                };
            };
            let len = buf.len().min(data.len());
            buf[..len].copy_from_slice(&data[..len]);
            let stream = s.kind == Kind::Stream;
            let (full_len, from) = if stream { (len, None) } else { (data.len(), Some(*from)) };
            if !flags.contains(RecvFlags::PEEK) {
                data.drain(..len);
                if !stream || data.is_empty() {
                    s.echoes.pop_front();
                }
            }
            Ok(Received { len, full_len, from, ..Received::default() })
        })
    }
    fn shutdown(&mut self, handle: Handle, how: Shutdown, _now: Instant) -> Result<()> {
        self.change(handle, |s| {
            s.peer.ok_or(Error::NotConnected)?;
            s.phase = if how == Shutdown::Read { s.phase } else { Phase::Ended };
            Ok(())
        })
    }
    fn close(&mut self, handle: Handle, _now: Instant) -> Result<()> {
        self.sockets.as_mut().ok_or(Error::NetworkDown)?.remove(&handle).map(drop).ok_or(Error::BadHandle)
    }
    fn readiness(&self, handle: Handle) -> Result<Events> {
        Ok(self.get(handle)?.ready())
    }
}

impl PluginNotifier for EchoStack {
    fn add_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let (socket, queue) = self.parts(handle)?;
        queue.add(handle, &mut socket.info, mask)
    }
    fn update_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let (socket, queue) = self.parts(handle)?;
        queue.change(handle, &mut socket.info, Some(mask))
    }
    fn remove_fd(&mut self, handle: Handle) -> Result<()> {
        let (socket, queue) = self.parts(handle)?;
        queue.change(handle, &mut socket.info, None)
    }
}

impl inet::Stack for EchoStack {} // nothing to administer

impl PluginStack for EchoStack {
    fn info(&self) -> StackInfo {
        let kinds = [(Kind::Stream, Protocol::Tcp), (Kind::Datagram, Protocol::Udp)];
        let of = |domain| kinds.map(|(kind, protocol)| SocketSpec { domain, kind, protocol });
        let sockets = [Domain::V4, Domain::V6].map(of).concat();
        StackInfo { name: "echo".to_owned(), version: "1".to_owned(), sockets, ..StackInfo::default() }
    }
    fn init(&mut self, _args: InitStackArgs) -> std::result::Result<(), SetupError> {
        self.sockets = Some(HashMap::new());
        Ok(())
    }
    fn destroy(&mut self) {
        self.sockets = None;
    }
    fn poll(&mut self, _now: Instant) {} // an echo needs no time
    fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        let EchoStack { sockets: Some(sockets), queue, .. } = self else { return };
        queue.drain(|h| sockets.get_mut(&h).map_or(Events::empty(), |s| s.info.take()), sink);
    }
}

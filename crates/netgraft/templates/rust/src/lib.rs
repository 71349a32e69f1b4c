//! A small network stack: TCP and UDP over IPv4 in memory, on 127.0.0.0/8, between programs of one sandbox. It is whole:
//! redis and python3's http.server run on it. Change it into yours, from the bottom up or from the top down.
//!
//! The contract is `netgraft_plugin`; `cargo doc --open -p netgraft-plugin` shows what each call must do. Three rules
//! hold for all of them: no call blocks, no call reads a clock, and what a socket is ready for is reported when it
//! changes (`Network::changed`).
#![deny(missing_docs)]

mod sock;

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use netgraft_plugin::inet::{Interface, Statistics};
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{
    Cidr, Domain, Error, Event, Events, Handle, InitStackArgs, Instant, Kind, LinkConfig, OptionName,
    PluginNotifier, PluginStack, Protocol, Received, RecvFlags, Result, SendFlags, Shutdown, SocketOption,
    SocketSpec, Sockets, StackConfig, StackInfo, WaitQueue, inet,
};

use sock::{Options, RING, Sock, State, Stream};

netgraft_abi::export_stack!("loop", Arc::new(|config| Ok(Box::new(LoopStack::new(config)?))));

/// The ports that sockets get which ask for none.
const PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// The longest datagram that IPv4 carries.
const LONGEST: usize = 65_507;
/// Datagrams that wait in a socket; more are lost.
const DATAGRAMS: usize = 256;
/// How long the address of a connection that was closed here first stays taken, as on Linux.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// How many do; of more the oldest is free before its time.
const LINGERING: usize = 64;

const TCP: SocketSpec = SocketSpec { domain: Domain::V4, kind: Kind::Stream, protocol: Protocol::Tcp };
const UDP: SocketSpec = SocketSpec { domain: Domain::V4, kind: Kind::Datagram, protocol: Protocol::Udp };

/// The stack: its network is there between `init` and `destroy`.
struct LoopStack {
    network: Option<Network>,
}

/// Every socket, and what of them is to be reported.
#[derive(Default)]
struct Network {
    socks: HashMap<Handle, Sock>,
    made: u64,
    next_port: u16,
    queue: WaitQueue,
    statistics: Statistics,
    /// The latest time that the caller has said.
    now: Instant,
    /// The oldest first.
    lingering: VecDeque<Lingering>,
}

/// A connection that this end closed first: in TIME-WAIT (RFC 9293 section 3.6.1), from the close of its socket.
struct Lingering {
    local: SocketAddr,
    remote: SocketAddr,
    /// Whether its socket would share the address.
    share: bool,
    until: Instant,
}

fn is_ours(addr: SocketAddr) -> Result<Ipv4Addr> {
    match addr {
        SocketAddr::V4(v4) if v4.ip().is_loopback() || v4.ip().is_unspecified() => Ok(*v4.ip()),
        SocketAddr::V4(_) => Err(Error::NetworkUnreachable),
        SocketAddr::V6(_) => Err(Error::FamilyNotSupported),
    }
}

/// An address of this host for the one that means any.
fn definite(addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() { (Ipv4Addr::LOCALHOST, addr.port()).into() } else { addr }
}

impl Network {
    fn get(&self, handle: Handle) -> Result<&Sock> {
        self.socks.get(&handle).ok_or(Error::BadHandle)
    }

    fn get_mut(&mut self, handle: Handle) -> Result<&mut Sock> {
        self.socks.get_mut(&handle).ok_or(Error::BadHandle)
    }

    fn make(&mut self, spec: SocketSpec, state: State, local: SocketAddr, options: Options) -> Handle {
        self.made += 1;
        let handle = Handle(self.made);
        self.socks.insert(handle, Sock::new(spec, state, local, options));
        handle
    }

    /// A socket's readiness may have changed: queues its event, once until it is fetched.
    fn changed(&mut self, handle: Handle) {
        let room = self.room_at_peer(handle);
        let Some(sock) = self.socks.get_mut(&handle) else { return };
        let ready = sock.ready(room);
        self.queue.notify(handle, &mut sock.info, ready);
    }

    /// Whether the other end of a stream takes more bytes now, or never will.
    fn room_at_peer(&self, handle: Handle) -> bool {
        let Some(State::Connected(stream)) = self.socks.get(&handle).map(|sock| &sock.state) else {
            return true;
        };
        match stream.other.and_then(|other| self.socks.get(&other)).map(|sock| &sock.state) {
            Some(State::Connected(other)) => other.input.len() < RING,
            _ => true,
        }
    }

    /// A port for a socket that has none.
    fn choose_port(&mut self, handle: Handle) -> Result<()> {
        if self.get(handle)?.local.port() != 0 {
            return Ok(());
        }
        for _ in PORTS {
            self.next_port = if PORTS.contains(&self.next_port) { self.next_port } else { *PORTS.start() };
            let mut addr = self.get(handle)?.local;
            addr.set_port(self.next_port);
            self.next_port += 1;
            if !self.is_in_the_way(handle, addr) {
                self.get_mut(handle)?.local = addr;
                return Ok(());
            }
        }
        Err(Error::AddressNotAvailable)
    }

    /// Whether another socket keeps this one from an address. Two that both ask for it share one, but listeners never
    /// do.
    fn is_in_the_way(&self, handle: Handle, addr: SocketAddr) -> bool {
        let Ok(own) = self.get(handle) else { return false };
        self.socks.iter().any(|(other, sock)| {
            let share = own.options.reuse_address && sock.options.reuse_address && !sock.listens();
            *other != handle && !share && sock.is_bound_to(own.spec.kind, addr)
        }) || (own.spec.kind == Kind::Stream && self.lingers(addr, own.options.reuse_address))
    }

    /// Whether an address is taken by a connection in TIME-WAIT.
    fn lingers(&self, addr: SocketAddr, share: bool) -> bool {
        self.lingering.iter().any(|old| {
            let same = old.local == addr || addr.ip().is_unspecified() && old.local.port() == addr.port();
            same && old.until > self.now && !(share && old.share)
        })
    }

    /// Lets go of what has lingered long enough, and of the oldest where there are too many.
    fn forget_old(&mut self) {
        while self.lingering.len() > LINGERING
            || self.lingering.front().is_some_and(|old| old.until <= self.now)
        {
            self.lingering.pop_front();
        }
    }

    /// A reset from one end of a connection ends what lingers at the other.
    fn forget_peer(&mut self, local: SocketAddr, remote: SocketAddr) {
        self.lingering.retain(|old| (old.local, old.remote) != (remote, local));
    }

    /// The socket that a datagram from `from` to `to` reaches. Of several the one that fits best: connected to the
    /// sender, listening, bound to the very address, or the last that was made.
    fn reached(&self, kind: Kind, to: SocketAddr, from: SocketAddr) -> Option<Handle> {
        let fits = self.socks.iter().filter(|(_, sock)| sock.is_bound_to(kind, to));
        let fits = fits.filter(|(_, sock)| sock.peer().is_none_or(|peer| peer == from));
        let best = fits.max_by_key(|(handle, sock)| {
            (sock.peer().is_some(), sock.listens(), !sock.local.ip().is_unspecified(), handle.0)
        });
        best.map(|(handle, _)| *handle)
    }

    /// Starts to connect a stream.
    fn connect_stream(&mut self, handle: Handle, to: SocketAddr) -> Result<()> {
        let sock = self.get_mut(handle)?;
        if let Some(error) = sock.error.take() {
            return Err(error);
        }
        match sock.state {
            State::Trying(_) => return Err(Error::Already),
            State::Connected(_) | State::Listening { .. } => return Err(Error::IsConnected),
            _ => {}
        }
        sock.local = definite(sock.local);
        self.choose_port(handle)?;
        let (local, to) = (self.get(handle)?.local, definite(to));
        if self.socks.values().any(|sock| sock.local == local && sock.peer() == Some(to)) {
            return Err(Error::AddressNotAvailable);
        }
        self.statistics.tcp_active_opens += 1;
        if local == to {
            // A simultaneous open with itself (RFC 9293 section 3.5): what it sends it receives.
            self.get_mut(handle)?.state = State::Connected(Stream::new(to, handle));
            self.changed(handle);
        } else {
            self.get_mut(handle)?.state = State::Trying(to);
            self.try_listener(handle, to);
        }
        Err(Error::InProgress)
    }

    /// An attempt arrives at the listener on its address: it is queued there, waits until there is room, as one whose SYN
    /// was dropped would, or is refused.
    fn try_listener(&mut self, handle: Handle, to: SocketAddr) {
        let Some(local) = self.socks.get(&handle).map(|sock| sock.local) else { return };
        let listener = self.reached(Kind::Stream, to, local);
        let found = listener.and_then(|listener| Some((listener, self.socks.get(&listener)?)));
        let (listener, options) = match found {
            Some((listener, Sock { state: State::Listening { waiting, backlog }, options, .. })) => {
                if waiting.len() >= *backlog {
                    return;
                }
                (listener, options.clone())
            }
            _ => {
                if let Some(sock) = self.socks.get_mut(&handle) {
                    sock.state = State::Over { input: VecDeque::new(), remote: None };
                    sock.error = Some(Error::ConnectionRefused);
                }
                return self.changed(handle);
            }
        };
        self.statistics.tcp_passive_opens += 1;
        let end = self.make(TCP, State::Connected(Stream::new(local, handle)), to, options);
        if let Some(sock) = self.socks.get_mut(&handle) {
            sock.state = State::Connected(Stream::new(to, end));
        }
        if let Some(State::Listening { waiting, .. }) = self.socks.get_mut(&listener).map(|s| &mut s.state) {
            waiting.push_back(end);
        }
        self.changed(listener);
        self.changed(handle);
    }

    /// A listener has room, or is gone.
    fn try_again(&mut self) {
        let mut trying: Vec<(Handle, SocketAddr)> = Vec::new();
        for (handle, sock) in &self.socks {
            if let State::Trying(to) = sock.state {
                trying.push((*handle, to));
            }
        }
        trying.sort_by_key(|(handle, _)| handle.0);
        trying.into_iter().for_each(|(handle, to)| self.try_listener(handle, to));
    }

    fn send_stream(&mut self, handle: Handle, data: &[u8]) -> Result<usize> {
        let sock = self.get_mut(handle)?;
        if let Some(error) = sock.error.take() {
            return Err(error);
        }
        let State::Connected(stream) = &mut sock.state else { return Err(Error::BrokenPipe) };
        if stream.fin_sent {
            return Err(Error::BrokenPipe);
        }
        let Some(other) = stream.other else {
            // Nobody is there any more: the data go, and a reset comes back.
            let (local, remote) = (sock.local, stream.remote);
            sock.state = stream.over();
            sock.error = Some(Error::BrokenPipe);
            self.forget_peer(local, remote);
            self.changed(handle);
            return Ok(data.len());
        };
        let Some(State::Connected(end)) = self.socks.get_mut(&other).map(|sock| &mut sock.state) else {
            return Err(Error::BrokenPipe);
        };
        let count = data.len().min(RING - end.input.len());
        if count == 0 && !data.is_empty() {
            return Err(Error::Again);
        }
        end.input.extend(&data[..count]);
        self.changed(other);
        Ok(count)
    }

    fn send_datagram(&mut self, handle: Handle, data: &[u8], to: Option<SocketAddr>) -> Result<usize> {
        let sock = self.get_mut(handle)?;
        if let Some(error) = sock.error.take() {
            return Err(error);
        }
        let State::Datagram { peer, write_shut, .. } = &sock.state else { return Err(Error::Invalid) };
        let (to, peer) = (to.or(*peer).ok_or(Error::DestinationRequired)?, *peer);
        if *write_shut {
            return Err(Error::BrokenPipe);
        }
        is_ours(to)?;
        if to.port() == 0 {
            return Err(Error::Invalid);
        }
        if data.len() > LONGEST {
            return Err(Error::MessageTooLong);
        }
        self.choose_port(handle)?;
        let from = definite(self.get(handle)?.local);
        self.statistics.udp_sent += 1;
        let Some(other) = self.reached(Kind::Datagram, to, from) else {
            self.statistics.udp_no_port += 1;
            if peer.is_some() {
                self.get_mut(handle)?.error = Some(Error::ConnectionRefused);
                self.changed(handle);
            }
            return Ok(data.len());
        };
        let State::Datagram { queue, .. } = &mut self.get_mut(other)?.state else { return Ok(data.len()) };
        if queue.len() < DATAGRAMS {
            queue.push_back((from, data.to_vec()));
            self.statistics.udp_received += 1;
            self.changed(other);
        } else {
            self.statistics.udp_receive_overflows += 1;
        }
        Ok(data.len())
    }

    /// Resets the other end of a stream.
    fn reset_other(&mut self, handle: Handle) {
        let Some(Sock { state: State::Connected(stream), local, .. }) = self.socks.get_mut(&handle) else {
            return;
        };
        let (local, remote, other) = (*local, stream.remote, stream.other.take());
        self.forget_peer(local, remote);
        let Some(other) = other.filter(|other| *other != handle) else { return };
        let Some(sock) = self.socks.get_mut(&other) else { return };
        if let State::Connected(end) = &mut sock.state {
            sock.state = end.over();
            sock.error = Some(Error::ConnectionReset);
            self.changed(other);
        }
    }

    fn send_fin(&mut self, handle: Handle) {
        let Some(State::Connected(stream)) = self.socks.get_mut(&handle).map(|sock| &mut sock.state) else {
            return;
        };
        if std::mem::replace(&mut stream.fin_sent, true) {
            return;
        }
        stream.closed_first = !stream.fin_received;
        let Some(other) = stream.other else { return };
        if let Some(State::Connected(end)) = self.socks.get_mut(&other).map(|sock| &mut sock.state) {
            end.fin_received = true;
            self.changed(other);
        }
    }

    /// Connections that were not accepted are reset with their listener.
    fn drop_waiting(&mut self, handle: Handle) {
        let Some(State::Listening { waiting, .. }) = self.socks.get_mut(&handle).map(|sock| &mut sock.state)
        else {
            return;
        };
        for end in std::mem::take(waiting) {
            self.reset_other(end);
            self.socks.remove(&end);
        }
    }

    /// Ends a socket. What is left unread, and a linger time of zero, make a reset.
    fn end(&mut self, handle: Handle, reset: bool) -> Result<()> {
        let sock = self.get(handle)?;
        let listened = sock.listens();
        let unread = matches!(&sock.state, State::Connected(stream) if !stream.input.is_empty());
        let reset = reset || unread || sock.options.linger == Some(Duration::ZERO);
        if reset {
            self.reset_other(handle);
        }
        self.drop_waiting(handle);
        self.send_fin(handle);
        let sock = self.socks.remove(&handle);
        if let Some(Sock { state: State::Connected(stream), local, options, .. }) = sock {
            if stream.closed_first && !reset {
                let (remote, share) = (stream.remote, options.reuse_address);
                self.lingering.push_back(Lingering { local, remote, share, until: self.now + TIME_WAIT });
                self.forget_old();
            }
            if let Some(other) = stream.other
                && let Some(State::Connected(end)) = self.socks.get_mut(&other).map(|sock| &mut sock.state)
            {
                end.other = None;
                self.changed(other);
            }
        }
        if listened {
            self.try_again();
        }
        Ok(())
    }
}

impl LoopStack {
    fn new(config: &StackConfig) -> std::result::Result<LoopStack, SetupError> {
        if config.link != LinkConfig::None || !config.addresses.is_empty() || !config.gateways.is_empty() {
            let text = "the stack has a loopback only: leave --link, --address and --gateway out";
            return Err(SetupError::new(text));
        }
        Ok(LoopStack { network: None })
    }

    fn net(&self) -> Result<&Network> {
        self.network.as_ref().ok_or(Error::NetworkDown)
    }

    fn net_mut(&mut self) -> Result<&mut Network> {
        self.network.as_mut().ok_or(Error::NetworkDown)
    }
}

impl Sockets for LoopStack {
    fn socket(&mut self, spec: SocketSpec) -> Result<Handle> {
        let network = self.net_mut()?;
        let any = (Ipv4Addr::UNSPECIFIED, 0).into();
        match spec {
            SocketSpec { domain: Domain::V6, .. } => Err(Error::FamilyNotSupported),
            SocketSpec { kind: Kind::Raw, .. } => Err(Error::KindNotSupported),
            TCP => Ok(network.make(spec, State::Fresh, any, Options::default())),
            UDP => Ok(network.make(spec, State::datagram(), any, Options::default())),
            _ => Err(Error::ProtocolNotSupported),
        }
    }

    fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()> {
        let network = self.net_mut()?;
        let sock = network.get(handle)?;
        let fresh = matches!(sock.state, State::Fresh | State::Datagram { .. });
        let ours = is_ours(addr).map_err(|e| match e {
            Error::NetworkUnreachable => Error::AddressNotAvailable,
            other => other,
        });
        if ours.is_ok() && (sock.local.port() != 0 || !fresh) {
            return Err(Error::Invalid);
        }
        ours?;
        if addr.port() != 0 && network.is_in_the_way(handle, addr) {
            return Err(Error::AddressInUse);
        }
        network.get_mut(handle)?.local = addr;
        network.choose_port(handle)
    }

    fn listen(&mut self, handle: Handle, backlog: u32) -> Result<()> {
        let network = self.net_mut()?;
        match network.get(handle)?.state {
            State::Datagram { .. } => return Err(Error::NotSupported),
            State::Fresh | State::Listening { .. } => {}
            _ => return Err(Error::Invalid),
        }
        network.choose_port(handle)?;
        let local = network.get(handle)?.local;
        let mut others = network.socks.iter().filter(|(other, sock)| **other != handle && sock.listens());
        if others.any(|(_, sock)| sock.is_bound_to(Kind::Stream, local)) {
            return Err(Error::AddressInUse);
        }
        let sock = network.get_mut(handle)?;
        let waiting = match std::mem::replace(&mut sock.state, State::Fresh) {
            State::Listening { waiting, .. } => waiting,
            _ => Default::default(),
        };
        sock.state = State::Listening { waiting, backlog: backlog.max(1) as usize };
        network.try_again();
        Ok(())
    }

    fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)> {
        let network = self.net_mut()?;
        let State::Listening { waiting, .. } = &mut network.get_mut(handle)?.state else {
            return Err(Error::Invalid);
        };
        let end = waiting.pop_front().ok_or(Error::Again)?;
        network.try_again();
        let sock = network.get(end)?;
        Ok((end, sock.remote().unwrap_or(sock.local)))
    }

    fn connect(&mut self, handle: Handle, addr: SocketAddr, now: Instant) -> Result<()> {
        let network = self.net_mut()?;
        network.now = now;
        let sock = network.get(handle)?;
        is_ours(addr)?;
        if sock.spec.kind == Kind::Stream {
            return network.connect_stream(handle, addr);
        }
        network.choose_port(handle)?;
        let sock = network.get_mut(handle)?;
        sock.local = definite(sock.local);
        if let State::Datagram { peer, .. } = &mut sock.state {
            *peer = Some(addr);
        }
        Ok(())
    }

    fn disconnect(&mut self, handle: Handle) -> Result<()> {
        match &mut self.net_mut()?.get_mut(handle)?.state {
            State::Datagram { peer, .. } => {
                *peer = None;
                Ok(())
            }
            _ => Err(Error::NotSupported),
        }
    }

    fn local_addr(&self, handle: Handle) -> Result<SocketAddr> {
        Ok(self.net()?.get(handle)?.local)
    }

    fn peer_addr(&self, handle: Handle) -> Result<SocketAddr> {
        match &self.net()?.get(handle)?.state {
            State::Connected(stream) if !(stream.fin_received && stream.fin_sent) => Ok(stream.remote),
            State::Datagram { peer: Some(peer), .. } => Ok(*peer),
            _ => Err(Error::NotConnected),
        }
    }

    fn send(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
        _now: Instant,
    ) -> Result<usize> {
        let network = self.net_mut()?;
        let kind = network.get(handle)?.spec.kind;
        if flags.contains(SendFlags::OUT_OF_BAND) {
            return Err(Error::NotSupported);
        }
        if kind == Kind::Stream {
            network.send_stream(handle, data)
        } else {
            network.send_datagram(handle, data, to)
        }
    }

    fn recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags, _now: Instant) -> Result<Received> {
        let network = self.net_mut()?;
        let peek = flags.contains(RecvFlags::PEEK);
        let sock = network.get_mut(handle)?;
        if sock.spec.kind == Kind::Datagram {
            return sock.recv_datagram(buf, peek);
        }
        let (received, room_came) = sock.recv_stream(buf, peek)?;
        // The other end may send again.
        if let (true, State::Connected(Stream { other: Some(other), .. })) = (room_came, &sock.state) {
            let other = *other;
            network.changed(other);
        }
        Ok(received)
    }

    fn queued_in(&self, handle: Handle) -> Result<usize> {
        Ok(match &self.net()?.get(handle)?.state {
            State::Connected(stream) => stream.input.len(),
            State::Over { input, .. } => input.len(),
            State::Datagram { queue, .. } => queue.front().map_or(0, |(_, data)| data.len()),
            _ => 0,
        })
    }

    fn shutdown(&mut self, handle: Handle, how: Shutdown, _now: Instant) -> Result<()> {
        let network = self.net_mut()?;
        match &mut network.get_mut(handle)?.state {
            // It stops listening and keeps its address; it has no half to send with.
            State::Listening { .. } if how == Shutdown::Write => return Ok(()),
            State::Listening { .. } => {
                network.drop_waiting(handle);
                network.get_mut(handle)?.state = State::Fresh;
                network.try_again();
            }
            State::Connected(stream) if !(stream.fin_received && stream.fin_sent) => {
                stream.read_shut |= how != Shutdown::Write;
                if how != Shutdown::Read {
                    network.send_fin(handle);
                }
            }
            State::Datagram { peer: Some(_), write_shut, .. } => *write_shut |= how != Shutdown::Read,
            _ => return Err(Error::NotConnected),
        }
        network.changed(handle);
        Ok(())
    }

    fn close(&mut self, handle: Handle, now: Instant) -> Result<()> {
        let network = self.net_mut()?;
        network.now = now;
        network.end(handle, false)
    }

    fn abort(&mut self, handle: Handle, now: Instant) -> Result<()> {
        let network = self.net_mut()?;
        network.now = now;
        network.end(handle, true)
    }

    fn readiness(&self, handle: Handle) -> Result<Events> {
        let network = self.net()?;
        Ok(network.get(handle)?.ready(network.room_at_peer(handle)))
    }

    fn take_error(&mut self, handle: Handle) -> Option<Error> {
        self.net_mut().ok()?.socks.get_mut(&handle)?.error.take()
    }

    fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()> {
        self.net_mut()?.get_mut(handle)?.set_option(option)
    }

    fn get_option(&self, handle: Handle, name: OptionName) -> Result<SocketOption> {
        self.net()?.get(handle)?.get_option(name)
    }
}

impl PluginNotifier for LoopStack {
    fn add_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let network = self.net_mut()?;
        network.changed(handle);
        let sock = network.socks.get_mut(&handle).ok_or(Error::BadHandle)?;
        network.queue.add(handle, &mut sock.info, mask)
    }

    fn update_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let network = self.net_mut()?;
        network.changed(handle);
        let sock = network.socks.get_mut(&handle).ok_or(Error::BadHandle)?;
        network.queue.change(handle, &mut sock.info, Some(mask))
    }

    fn remove_fd(&mut self, handle: Handle) -> Result<()> {
        let network = self.net_mut()?;
        let sock = network.socks.get_mut(&handle).ok_or(Error::BadHandle)?;
        network.queue.change(handle, &mut sock.info, None)
    }
}

impl inet::Stack for LoopStack {
    fn interfaces(&self) -> Vec<Interface> {
        vec![Interface {
            index: 1,
            name: "lo".to_owned(),
            mtu: 65_536,
            up: true,
            loopback: true,
            hardware_address: None,
            addresses: Cidr::new(Ipv4Addr::LOCALHOST.into(), 8).into_iter().collect(),
        }]
    }

    fn statistics(&self) -> Statistics {
        let Some(network) = &self.network else { return Statistics::default() };
        Statistics { sockets: network.socks.len() as u64, ..network.statistics }
    }
}

impl PluginStack for LoopStack {
    fn info(&self) -> StackInfo {
        StackInfo {
            name: "loop".to_owned(),
            version: "0.1".to_owned(),
            sockets: vec![TCP, UDP],
            options: sock::KNOWN.to_vec(),
            ..StackInfo::default()
        }
    }

    fn init(&mut self, args: InitStackArgs) -> std::result::Result<(), SetupError> {
        self.network = Some(Network { now: args.now, ..Network::default() });
        Ok(())
    }

    fn destroy(&mut self) {
        self.network = None;
    }

    /// No packets move here; what lingers ends by the clock alone.
    fn poll(&mut self, now: Instant) {
        let Some(network) = &mut self.network else { return };
        network.now = now;
        network.forget_old();
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.network.as_ref()?.lingering.front().map(|old| old.until)
    }

    fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        let Some(Network { socks, queue, .. }) = &mut self.network else { return };
        queue.drain(|handle| socks.get_mut(&handle).map_or(Events::empty(), |sock| sock.info.take()), sink);
    }
}

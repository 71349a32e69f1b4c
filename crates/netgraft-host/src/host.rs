//! The stack's life, its sockets' bookkeeping and their readiness.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netgraft_linux::broker::{self, Client};
use netgraft_linux::epoll::{Epoll, EventBuffer};
use netgraft_linux::{descriptor, inet_socket as sys};
use netgraft_plugin::inet::Statistics;
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{
    Domain, Error, Event, EventInfo, Events, Handle, InitStackArgs, Instant, Kind, PluginNotifier,
    PluginStack, PreInitStack, PreInitStackArgs, Protocol, Result, SocketSpec, StackInfo, SyscallRule,
    WaitQueue, WakeFd,
};

use crate::{netlink, options, seccomp};

/// What the broker's socket and the netlink socket are called in the init string, in the order of the
/// descriptors.
const BROKER: &str = "broker";
const NETLINK: &str = "netlink";

/// The events that a registered socket is watched for; what of them is reported is decided here.
const WATCHED: u32 =
    (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
/// The same for poll(2), whose bits agree with epoll's.
const POLLED: i16 = libc::POLLIN | libc::POLLOUT | libc::POLLPRI | libc::POLLRDHUP;

/// Events that are taken from the kernel at a time, and how often in one [`PluginStack::poll`].
const HARVEST: usize = 128;
const HARVESTS: usize = 8;

/// The host's sockets behind the plugin contract.
#[derive(Default)]
pub struct HostStack {
    state: State,
    /// Whether it keeps its sockets. They are made by the broker then, in the network namespace of who called `pre_init`.
    keeps: bool,
}

#[derive(Default)]
enum State {
    /// Before `init`.
    #[default]
    New,
    Running(Box<Live>),
    Destroyed,
}

/// A stack after `init`.
pub(crate) struct Live {
    pub(crate) sockets: HashMap<Handle, Slot>,
    next: u64,
    epoll: Epoll,
    /// What the kernel reports at a time.
    reported: EventBuffer,
    pub(crate) queue: WaitQueue,
    /// Events were left in the epoll instance: go on at once.
    more: bool,
    polled_at: Instant,
    pub(crate) broker: Option<Client>,
    pub(crate) netlink: OwnedFd,
    pub(crate) counters: Statistics,
}

/// One socket.
pub(crate) struct Slot {
    pub(crate) fd: OwnedFd,
    pub(crate) spec: SocketSpec,
    pub(crate) info: EventInfo,
    /// Whether the kernel was asked to tell a datagram's destination, hop limit and class: not before the
    /// socket is used here, as its descriptor may be taken.
    pub(crate) details: bool,
}

/// The error of a host call. What no stack gives otherwise is mapped to its nearest.
pub(crate) fn host_error(error: &io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EMFILE) => Error::TooManySockets,
        Some(libc::ENOENT) => Error::NotFound,
        Some(libc::EHOSTDOWN) => Error::HostUnreachable,
        Some(libc::ERANGE) => Error::OutOfRange,
        Some(errno) => Error::from_errno(errno).unwrap_or(Error::Io),
        None => Error::Io,
    }
}

pub(crate) fn host<T>(result: io::Result<T>) -> Result<T> {
    result.map_err(|e| host_error(&e))
}

impl HostStack {
    /// A stack before `init`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A stack before `init` that keeps its sockets ([`netgraft_plugin::StackConfig::keeps_sockets`]).
    #[must_use]
    pub fn keeping() -> Self {
        HostStack { keeps: true, ..Self::default() }
    }

    /// Makes a socket that does not block.
    pub(crate) fn make(&self, domain: i32, kind: i32, protocol: u8) -> Result<OwnedFd> {
        let live = self.live()?;
        let by_broker = |broker: &Client| {
            let fd = host(broker.socket(domain, kind, protocol))?;
            host(descriptor::set_nonblocking(fd.as_fd(), true))?;
            Ok(fd)
        };
        if self.keeps {
            // One of this process's own could be in another network.
            return live.broker.as_ref().map_or(Err(Error::NetworkDown), by_broker);
        }
        let first = sys::socket(domain, kind | libc::SOCK_NONBLOCK, i32::from(protocol));
        let denied = matches!(&first, Err(e) if matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM)));
        match &live.broker {
            Some(broker) if denied => by_broker(broker),
            _ => host(first),
        }
    }

    /// Binds a host socket, with the broker's privileges where this process has none and the launcher had.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn privileged_bind(&self, fd: BorrowedFd<'_>, addr: SocketAddr) -> Result<()> {
        self.live()?.bind_fd(fd, addr)
    }

    pub(crate) fn live(&self) -> Result<&Live> {
        match &self.state {
            State::Running(live) => Ok(live),
            State::New | State::Destroyed => Err(Error::NetworkDown),
        }
    }

    pub(crate) fn live_mut(&mut self) -> Result<&mut Live> {
        match &mut self.state {
            State::Running(live) => Ok(live),
            State::New | State::Destroyed => Err(Error::NetworkDown),
        }
    }

    pub(crate) fn slot(&self, handle: Handle) -> Result<&Slot> {
        self.live()?.sockets.get(&handle).ok_or(Error::BadHandle)
    }

    pub(crate) fn slot_mut(&mut self, handle: Handle) -> Result<&mut Slot> {
        self.live_mut()?.sockets.get_mut(&handle).ok_or(Error::BadHandle)
    }

    /// Resets every connection and closes every descriptor.
    pub(crate) fn end(&mut self) {
        if let State::Running(live) = std::mem::replace(&mut self.state, State::Destroyed) {
            for slot in live.sockets.values().filter(|s| s.spec.kind == Kind::Stream) {
                // Closing resets what is connected; a socket that refuses is closed all the same.
                let _ = slot.set_linger(Some(0));
            }
        }
    }
}

impl Live {
    fn new(fds: Handed) -> io::Result<Live> {
        Ok(Live {
            sockets: HashMap::new(),
            next: 1,
            epoll: Epoll::new()?,
            reported: EventBuffer::new(HARVEST),
            queue: WaitQueue::new(),
            more: false,
            polled_at: Instant::ZERO,
            broker: fds.broker.map(Client::new).transpose()?,
            netlink: fds.netlink.map_or_else(netlink::open, Ok)?,
            counters: Statistics::default(),
        })
    }

    pub(crate) fn insert(&mut self, fd: OwnedFd, spec: SocketSpec) -> Handle {
        let handle = Handle(self.next);
        self.next += 1;
        self.sockets.insert(handle, Slot { fd, spec, info: EventInfo::default(), details: false });
        handle
    }

    pub(crate) fn bind_fd(&self, fd: BorrowedFd<'_>, addr: SocketAddr) -> Result<()> {
        let first = sys::bind(fd, &addr);
        let denied = matches!(&first, Err(e) if e.raw_os_error() == Some(libc::EACCES));
        match &self.broker {
            Some(broker) if denied => host(broker.bind(fd, &addr)),
            _ => host(first),
        }
    }

    /// Takes what the kernel has to report, in batches; bounded.
    fn harvest(&mut self) {
        self.more = true;
        for _ in 0..HARVESTS {
            let Live { epoll, reported, sockets, queue, .. } = self;
            let waited = epoll.wait(reported, Some(Duration::ZERO));
            for &(events, token) in reported.events() {
                if let Some(slot) = sockets.get_mut(&Handle(token)) {
                    queue.notify(Handle(token), &mut slot.info, Events::from_bits_truncate(events));
                }
            }
            // Fewer than a batch, or an instance that can't be read: nothing is left.
            if waited.is_err() || reported.events().len() < HARVEST {
                self.more = false;
                return;
            }
        }
    }
}

impl Slot {
    /// What the socket is ready for now.
    pub(crate) fn readiness(&self) -> Result<Events> {
        let ready = host(sys::readiness(self.fd.as_fd(), POLLED))?;
        Ok(Events::from_bits_truncate(u32::from(ready as u16)))
    }

    /// Sets `SO_LINGER` in seconds, or turns it off (socket(7)).
    pub(crate) fn set_linger(&self, seconds: Option<i32>) -> Result<()> {
        let mut value = [0; 8];
        value[..4].copy_from_slice(&i32::from(seconds.is_some()).to_ne_bytes());
        value[4..].copy_from_slice(&seconds.unwrap_or(0).to_ne_bytes());
        host(sys::setsockopt(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &value))
    }

    /// Seconds of `SO_LINGER`, if it is on.
    pub(crate) fn linger(&self) -> Result<Option<i32>> {
        let mut value = [0; 8];
        host(sys::getsockopt(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &mut value))?;
        let [on, seconds] = [0, 4].map(|at| {
            let mut word = [0; 4];
            word.copy_from_slice(&value[at..at + 4]);
            i32::from_ne_bytes(word)
        });
        Ok((on != 0).then_some(seconds))
    }
}

impl PluginNotifier for HostStack {
    fn add_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let live = self.live_mut()?;
        let slot = live.sockets.get_mut(&handle).ok_or(Error::BadHandle)?;
        if slot.info.mask().is_some() {
            return Err(Error::Exists);
        }
        host(live.epoll.add(slot.fd.as_fd(), WATCHED, handle.0))?;
        let ready = slot.readiness()?;
        live.queue.set_ready(handle, &mut slot.info, ready);
        live.queue.set_mask(handle, &mut slot.info, Some(mask));
        Ok(())
    }

    fn update_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let live = self.live_mut()?;
        let slot = live.sockets.get_mut(&handle).ok_or(Error::BadHandle)?;
        if slot.info.mask().is_none() {
            return Err(Error::BadHandle);
        }
        let ready = slot.readiness()?;
        live.queue.set_ready(handle, &mut slot.info, ready);
        live.queue.set_mask(handle, &mut slot.info, Some(mask));
        Ok(())
    }

    fn remove_fd(&mut self, handle: Handle) -> Result<()> {
        let live = self.live_mut()?;
        let slot = live.sockets.get_mut(&handle).ok_or(Error::BadHandle)?;
        if slot.info.mask().is_none() {
            return Err(Error::BadHandle);
        }
        live.queue.set_mask(handle, &mut slot.info, None);
        host(live.epoll.remove(slot.fd.as_fd()))
    }
}

/// The descriptors that `pre_init` hands over.
#[derive(Default)]
struct Handed {
    broker: Option<OwnedFd>,
    netlink: Option<OwnedFd>,
}

impl Handed {
    fn parse(args: InitStackArgs) -> Result<Handed, SetupError> {
        let names = args.init_str.split_ascii_whitespace();
        let mut handed = Handed::default();
        let mut fds = args.fds.into_iter();
        for name in names {
            let fd =
                fds.next().ok_or_else(|| SetupError::new("a descriptor of the host stack is missing"))?;
            match name {
                BROKER => handed.broker = Some(fd),
                NETLINK => handed.netlink = Some(fd),
                other => {
                    return Err(SetupError::new(format!("the host stack knows no descriptor '{other}'")));
                }
            }
        }
        if fds.next().is_some() {
            return Err(SetupError::new("the host stack was handed more descriptors than it made"));
        }
        Ok(handed)
    }
}

impl PluginStack for HostStack {
    fn info(&self) -> StackInfo {
        let mut sockets = Vec::new();
        for domain in [Domain::V4, Domain::V6] {
            let icmp = if domain == Domain::V4 { Protocol::Icmp } else { Protocol::Icmpv6 };
            sockets.push(SocketSpec { domain, kind: Kind::Stream, protocol: Protocol::Tcp });
            sockets.push(SocketSpec { domain, kind: Kind::Datagram, protocol: Protocol::Udp });
            sockets.push(SocketSpec { domain, kind: Kind::Datagram, protocol: icmp });
        }
        StackInfo {
            name: crate::NAME.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sockets,
            options: options::known(),
            needs: String::new(),
            wraps_link: false,
        }
    }

    fn pre_init(&mut self, args: PreInitStackArgs) -> Result<PreInitStack, SetupError> {
        // The host's network is the launcher's; nothing of the sandbox's is looked at.
        let _ = args;
        let error = |e| SetupError::host("cannot open a netlink socket to read the host's interfaces", e);
        let mut pre =
            PreInitStack { init_str: NETLINK.to_owned(), fds: vec![netlink::open().map_err(error)?] };
        if self.keeps || broker::has_capability() {
            let error = |e| SetupError::host("cannot start the process that makes sockets of the host's", e);
            pre.fds.push(broker::start().map_err(error)?);
            pre.init_str = format!("{NETLINK} {BROKER}");
        }
        Ok(pre)
    }

    fn init(&mut self, args: InitStackArgs) -> Result<(), SetupError> {
        let handed = Handed::parse(args)?;
        let live = Live::new(handed).map_err(|e| SetupError::host("cannot set the host stack up", e))?;
        self.state = State::Running(Box::new(live));
        Ok(())
    }

    fn seccomp_filters(&self) -> Vec<SyscallRule> {
        seccomp::rules()
    }

    fn destroy(&mut self) {
        self.end();
    }

    fn poll(&mut self, now: Instant) {
        if let Ok(live) = self.live_mut() {
            live.polled_at = now;
            live.harvest();
        }
    }

    fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        let Ok(live) = self.live_mut() else { return };
        while let Some(handle) = live.queue.pop() {
            let Some(slot) = live.sockets.get_mut(&handle) else { continue };
            let events = slot.info.take();
            if !events.is_empty() && !sink(Event { handle, events }) {
                return;
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        // The kernel has its own timers; only an unfinished harvest is due, at once.
        self.live().ok().filter(|live| live.more || !live.queue.is_empty()).map(|live| live.polled_at)
    }

    fn wake_fds(&self) -> Vec<WakeFd<'_>> {
        self.live()
            .map_or_else(|_| Vec::new(), |live| vec![WakeFd { fd: live.epoll.as_fd(), events: Events::IN }])
    }

    fn offers_host_fds(&self) -> bool {
        !self.keeps
    }

    fn take_host_fd(&mut self, handle: Handle) -> Result<OwnedFd> {
        if self.keeps {
            return Err(Error::NotSupported);
        }
        let live = self.live_mut()?;
        let mut slot = live.sockets.remove(&handle).ok_or(Error::BadHandle)?;
        if slot.info.mask().is_some() {
            // The open file lives on, and so would its registration.
            host(live.epoll.remove(slot.fd.as_fd()))?;
        }
        slot.set_details(false)?;
        host(descriptor::set_nonblocking(slot.fd.as_fd(), false))?;
        Ok(slot.fd)
    }

    fn bind_host_fd(&mut self, fd: BorrowedFd<'_>, addr: SocketAddr) -> Result<()> {
        self.privileged_bind(fd, addr)
    }
}

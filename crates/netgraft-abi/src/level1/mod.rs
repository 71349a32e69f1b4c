//! A level 1 object as a stack.
//!
//! Everything that the object answers is checked before it is passed on: lengths against the buffer, handles and
//! events against the sockets that it made, addresses, names and numbers against what can be. What cannot be is
//! logged with the object's name and the call, and answered with [`Error::Io`].

mod data;
mod instance;
mod link;
mod settings;
mod sockets;

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use netgraft_link::Bridge;
use netgraft_plugin::faults::{LinkFaults, LinkReport};
use netgraft_plugin::stack::{SetupError, StackInfo};
use netgraft_plugin::{
    Error, Event, Events, Handle, InitStackArgs, Instant, Kind, PluginNotifier, PluginStack, PreInitStack,
    PreInitStackArgs, Result, StackConfig, SyscallRule, WakeFd,
};

use crate::child::{self, Failure};
use crate::convert;
use crate::level1::instance::{Instance, call};
use crate::level1::link::OpenLink;
use crate::object::Loaded;
use crate::raw;
use crate::watch::Call;

/// Events that are fetched in one call.
const BATCH: usize = 64;

/// A stack that is behind `netgraft.h`.
pub(crate) struct Level1Stack {
    loaded: Arc<Loaded>,
    config: StackConfig,
    state: State,
}

enum State {
    /// Nothing of the object is in this process.
    Made,
    /// Linked, with a context.
    Linked(Instance),
    Up(Box<Live>),
    /// After `destroy`.
    Ended,
}

/// A stack that serves.
struct Live {
    instance: Instance,
    /// The sockets that the stack made and the caller has not closed.
    sockets: HashMap<u64, Kind>,
    /// Duplicates of the stack's descriptors: what it closes stays open here.
    wake: Vec<(OwnedFd, Events)>,
    events: Vec<raw::Event>,
    /// The part of `events` that was fetched and not yet passed on.
    fetched: Range<usize>,
    /// Between the link and the object, if something is done to its frames. Behind the instance: the object's last frames
    /// are sent when it has ended.
    bridge: Option<Box<Bridge>>,
    /// The time of the last poll.
    now: Instant,
    /// Whether the operator knows that the link has failed.
    has_reported_link: bool,
}

impl Level1Stack {
    pub(crate) const fn new(loaded: Arc<Loaded>, config: StackConfig) -> Level1Stack {
        Level1Stack { loaded, config, state: State::Made }
    }

    fn live(&self) -> Result<&Live> {
        match &self.state {
            State::Up(live) => Ok(live),
            _ => Err(Error::NetworkDown),
        }
    }

    fn live_mut(&mut self) -> Result<&mut Live> {
        match &mut self.state {
            State::Up(live) => Ok(live),
            _ => Err(Error::NetworkDown),
        }
    }

    /// The instance, if `handle` is one of its sockets.
    fn of(&self, handle: Handle) -> Result<&Instance> {
        let live = self.live()?;
        if live.sockets.contains_key(&handle.0) { Ok(&live.instance) } else { Err(Error::BadHandle) }
    }

    fn failed(&self, doing: &str, text: &str) -> SetupError {
        SetupError::new(format!("the stack {} {doing}: {text}", self.loaded.object()))
    }
}

impl Live {
    fn new(instance: Instance, bridge: Option<Bridge>, now: Instant) -> Result<Live, String> {
        let fill = |fds, capacity| call!(&instance, 0, wake_fds(fds, capacity));
        let fds = instance.list::<raw::WakeFd>(Call::wake_fds, fill).map_err(|e| e.to_string())?;
        let wake = fds
            .iter()
            .map(|wake| {
                let events = Events::from_bits_truncate(wake.events) & (Events::IN | Events::OUT);
                if wake.fd < 0 || events.is_empty() {
                    return Err(format!("it wants to be woken by descriptor {} for nothing", wake.fd));
                }
                // SAFETY: borrowed for the duplication alone; if the number is not open, that fails.
                let fd = unsafe { BorrowedFd::borrow_raw(wake.fd) };
                let fd = fd.try_clone_to_owned();
                fd.map(|fd| (fd, events)).map_err(|e| format!("its descriptor {} is no good: {e}", wake.fd))
            })
            .collect::<Result<_, _>>()?;
        Ok(Live {
            instance,
            sockets: HashMap::new(),
            wake,
            events: vec![raw::Event::default(); BATCH],
            fetched: 0..0,
            bridge: bridge.map(Box::new),
            now,
            has_reported_link: false,
        })
    }

    /// Lets the object work, on the frames that its link has for it.
    fn poll(&mut self, now: Instant) {
        self.now = now;
        let received = self.bridge.as_mut().map_or(Ok(()), |bridge| bridge.receive(now));
        call!(&self.instance, (), poll(now.nanos()));
        let sent = self.bridge.as_mut().map_or(Ok(()), |bridge| bridge.send(now));
        if let (Err(error), false) = (received.and(sent), self.has_reported_link) {
            self.has_reported_link = true;
            let stack = self.instance.loaded.object();
            tracing::error!(stack, "the link of the stack {stack} has failed: {error}");
        }
    }

    /// Ends the object, and sends the frames that it leaves: resets.
    fn end(self) {
        let Live { instance, bridge, now, .. } = self;
        drop(instance);
        if let Some(mut bridge) = bridge {
            // The stack has ended: a link that fails now is no loss.
            let _ = bridge.send(now);
        }
    }
}

impl Live {
    /// Fetches a batch of events; whether there were any.
    fn fetch(&mut self) -> bool {
        let result = call!(&self.instance, 0, drain_events(self.events.as_mut_ptr(), BATCH));
        let Ok(count) = self.instance.count(Call::drain_events, result) else { return false };
        if count > BATCH as u64 {
            let what = format_args!("{count} events in an array of {BATCH}");
            self.instance.nonsense(Call::drain_events, what);
            return false;
        }
        self.fetched = 0..count as usize;
        count > 0
    }
}

impl PluginStack for Level1Stack {
    fn info(&self) -> StackInfo {
        self.loaded.info().clone()
    }

    fn pre_init(&mut self, args: PreInitStackArgs) -> Result<PreInitStack, SetupError> {
        // One that is trusted opens its devices itself.
        let link = if self.loaded.trusts_pre_init() { None } else { link::open(&self.config)? };
        let keep: Vec<BorrowedFd<'_>> = self.loaded.fds().chain(link.iter().map(OpenLink::fd)).collect();
        let body = || {
            let instance = Instance::create(&self.loaded, &self.config).map_err(|e| e.to_string())?;
            let unprepared = |text: &str| self.failed("cannot be prepared", text).to_string();
            let given = link.as_ref().map(|link| (link.text.as_str(), link.fd().as_raw_fd()));
            let (text, fds) = instance.pre_init(args.pid, given).map_err(|text| unprepared(&text))?;
            if fds.iter().any(|fd| *fd < 0) {
                return Err(unprepared("pre_init hands over a descriptor that is none"));
            }
            // SAFETY: the header makes them the caller's. If one is not open, sending it fails.
            let fds = fds.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }).collect();
            Ok((text, fds))
        };
        let limit = crate::PRE_INIT_LIMIT;
        let rights = self.loaded.pre_init_rights();
        let answer = child::run(self.loaded.object(), "pre_init", &keep, rights, limit, body);
        let (text, fds) = answer.map_err(|failure| match failure {
            Failure::Host(e) => self.failed("cannot be prepared", &e.to_string()),
            Failure::Died(text) => SetupError::new(format!("the stack {} {text}", self.loaded.object())),
            Failure::Said(text) => SetupError::new(text),
        })?;
        let init_str = String::from_utf8(text)
            .map_err(|_| self.failed("cannot be prepared", "what it hands over is no UTF-8"))?;
        let given = PreInitStack { init_str, fds };
        Ok(match link {
            Some(link) => link.prepend_to(given),
            None => given,
        })
    }

    fn prepare(&mut self) -> Result<(), SetupError> {
        if matches!(self.state, State::Made) {
            // A rule cannot look at its flags: without it, threads are made with clone(2), where one can.
            if self.loaded.rules().iter().any(|rule| rule.number == libc::SYS_clone3) {
                crate::level0::forbid_clone3().map_err(|e| SetupError::host("cannot forbid clone3", e))?;
            }
            self.state = State::Linked(Instance::create(&self.loaded, &self.config)?);
        }
        Ok(())
    }

    fn init(&mut self, mut args: InitStackArgs) -> Result<(), SetupError> {
        self.prepare()?;
        let bridge = if link::is_bridged(&self.config) {
            Some(link::make_bridge(&self.config, &mut args)?)
        } else {
            None
        };
        let State::Linked(instance) = std::mem::replace(&mut self.state, State::Ended) else {
            return Err(self.failed("cannot be initialised", "it was before"));
        };
        let fds: Vec<_> = args.fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
        if let Err(text) = instance.init(args.init_str.as_bytes(), &fds, args.now) {
            for fd in fds {
                // SAFETY: they were owned by us, and the header says that a failed init takes nothing.
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
            }
            return Err(self.failed("cannot be initialised", &text));
        }
        let live = Live::new(instance, bridge, args.now)
            .map_err(|text| self.failed("cannot be initialised", &text))?;
        self.state = State::Up(Box::new(live));
        Ok(())
    }

    fn seccomp_filters(&self) -> Vec<SyscallRule> {
        let mut rules = self.loaded.rules().to_vec();
        if link::is_bridged(&self.config) {
            rules.extend(netgraft_link::syscalls(&self.config.link));
        }
        rules
    }

    fn destroy(&mut self) {
        if let State::Up(live) = std::mem::replace(&mut self.state, State::Ended) {
            live.end();
        }
    }

    fn poll(&mut self, now: Instant) {
        if let Ok(live) = self.live_mut() {
            live.poll(now);
        }
    }

    fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        let Ok(live) = self.live_mut() else { return };
        // Each socket is reported once, so an honest stack is done after so many rounds.
        for _ in 0..live.sockets.len() / BATCH + 3 {
            // What the sink did not want the last time comes first.
            for place in live.fetched.by_ref() {
                let Some(event) = live.events.get(place) else { continue };
                let events = Events::from_bits_truncate(event.events);
                // One that was closed after its event was queued has no socket any more.
                let known = live.sockets.contains_key(&event.handle) && !events.is_empty();
                if known && !sink(Event { handle: Handle(event.handle), events }) {
                    return;
                }
            }
            if !live.fetch() {
                return;
            }
        }
    }

    fn failure(&self) -> Option<String> {
        self.live().ok()?.instance.failure()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let live = self.live().ok()?;
        let nanos = call!(&live.instance, raw::NONE, next_deadline());
        let own = (nanos != raw::NONE).then(|| Instant::from_nanos(nanos));
        let bridge = live.bridge.as_ref().and_then(|bridge| bridge.next_deadline());
        [own, bridge].into_iter().flatten().min()
    }

    fn wake_fds(&self) -> Vec<WakeFd<'_>> {
        let Ok(live) = self.live() else { return Vec::new() };
        let own = live.wake.iter().map(|(fd, events)| WakeFd { fd: fd.as_fd(), events: *events });
        let bridge = live.bridge.iter().flat_map(|bridge| bridge.fds());
        own.chain(bridge.map(|fd| WakeFd { fd, events: Events::IN })).collect()
    }

    fn offers_host_fds(&self) -> bool {
        self.loaded.offers_host_fds()
    }

    fn take_host_fd(&mut self, handle: Handle) -> Result<OwnedFd> {
        let instance = self.of(handle)?;
        let unsupported = crate::NOT_SUPPORTED;
        let result = call!(instance, unsupported, take_host_fd(handle.0));
        let number = instance.count(Call::take_host_fd, result.into())?;
        // SAFETY: borrowed for the duplication alone; if the number is not open, that fails.
        let fd = unsafe { BorrowedFd::borrow_raw(number as i32) };
        let Ok(copy) = fd.try_clone_to_owned() else {
            return Err(instance.nonsense(Call::take_host_fd, format_args!("{number} is no descriptor")));
        };
        // SAFETY: the header makes the descriptor ours, and it is open.
        drop(unsafe { OwnedFd::from_raw_fd(number as i32) });
        self.live_mut()?.sockets.remove(&handle.0);
        Ok(copy)
    }

    fn bind_host_fd(&mut self, fd: BorrowedFd<'_>, addr: std::net::SocketAddr) -> Result<()> {
        use std::os::fd::AsRawFd;
        let instance = &self.live()?.instance;
        let addr = convert::to_address(addr);
        let result = call!(instance, crate::NOT_SUPPORTED, bind_host_fd(fd.as_raw_fd(), &raw const addr));
        instance.status(Call::bind_host_fd, result)
    }

    fn owners(&self) -> Option<std::sync::Arc<netgraft_plugin::owners::Owners>> {
        self.live().ok()?.bridge.as_ref()?.owners()
    }

    fn recording(&self) -> Option<Box<dyn netgraft_plugin::recording::Recording>> {
        self.live().ok()?.bridge.as_ref()?.recording()
    }

    fn link_report(&self) -> Option<LinkReport> {
        Some(self.live().ok()?.bridge.as_ref()?.dial()?.report())
    }

    fn set_link_faults(&mut self, faults: LinkFaults, seed: Option<u64>) -> Result<()> {
        let bridge = self.live()?.bridge.as_ref();
        let dial = bridge.and_then(|bridge| bridge.dial()).ok_or(Error::NotSupported)?;
        dial.change(faults, seed);
        Ok(())
    }
}

impl PluginNotifier for Level1Stack {
    fn add_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let instance = self.of(handle)?;
        let result = call!(instance, crate::NOT_SUPPORTED, add_fd(handle.0, mask.bits()));
        instance.status(Call::add_fd, result)
    }

    fn update_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let instance = self.of(handle)?;
        let result = call!(instance, crate::NOT_SUPPORTED, update_fd(handle.0, mask.bits()));
        instance.status(Call::update_fd, result)
    }

    fn remove_fd(&mut self, handle: Handle) -> Result<()> {
        let instance = self.of(handle)?;
        let result = call!(instance, crate::NOT_SUPPORTED, remove_fd(handle.0));
        instance.status(Call::remove_fd, result)
    }
}

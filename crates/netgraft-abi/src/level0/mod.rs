//! A level 0 object as a stack: the existing C functions, with every quirk that objects of this kind have.
//!
//! - Results: -1 is failure, and only then `err` means something (`api.rs`).
//! - One thread makes the object's epoll handle and waits for ever (`driver.rs`); all other calls come from the
//!   sentry's loop.
//! - Events are edges, may be late and may be for a handle that is used again: each socket is registered once, under
//!   a number of ours that is never used again, and what an event means is asked with `plugin_readiness`.
//! - `plugin_readiness` may claim room or data that are not there: after a call that would block, the claim counts
//!   only when an event has come ([`sock::Sock`]).
//! - A handle that the object does not know goes to the real system call: only handles that it gave are passed.

mod api;
pub(crate) mod driver;
pub(crate) mod envelope;
pub(crate) mod json;
mod options;
mod seccomp;
mod settings;
mod sock;
mod sockets;
pub(crate) mod symbols;

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, c_char, c_int};
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use netgraft_plugin::option::OptionName;
use netgraft_plugin::stack::{SetupError, StackInfo};
use netgraft_plugin::{
    Domain, Error, Event, Events, Handle, InitStackArgs, Instant, Kind, LinkConfig, PluginNotifier,
    PluginStack, PreInitStack, PreInitStackArgs, Protocol, Result, SocketSpec, StackConfig, SyscallRule,
    WaitQueue, WakeFd,
};

pub use seccomp::forbid_clone3;
pub(crate) use seccomp::rules;

use crate::child::{self, Answer, Failure};
use crate::library::Library;
use crate::object::Loaded;
use crate::watch::{Call, Caller};
use api::Api;
use sock::Sock;
use symbols::Symbols;

const TCP: SocketSpec = SocketSpec { domain: Domain::V4, kind: Kind::Stream, protocol: Protocol::Tcp };
const UDP: SocketSpec = SocketSpec { domain: Domain::V4, kind: Kind::Datagram, protocol: Protocol::Udp };

/// The description of every level 0 object, since none describes itself. An object gives a real socket of
/// the host for a domain or a type that it does not have, so it is asked only for these. Which of the options it has is
/// known once it is up.
pub(crate) fn info(name: &str) -> StackInfo {
    StackInfo {
        name: name.to_owned(),
        version: "level 0".to_owned(),
        sockets: vec![TCP, UDP],
        options: options::possible(&[TCP, UDP]),
        needs: String::new(),
        wraps_link: false,
    }
}

/// A stack that is behind the `plugin_*` functions.
pub(crate) struct Level0Stack {
    loaded: Arc<Loaded>,
    state: State,
}

enum State {
    /// Nothing of the object is in this process.
    Made,
    Linked(Box<Symbols>),
    Up(Box<Live>),
    Ended,
}

/// A stack that serves.
struct Live {
    api: Api,
    /// By the handle that we gave, which is also what its events carry.
    socks: HashMap<u64, Sock>,
    /// The object's own handles of `socks`.
    raws: HashSet<c_int>,
    next: u64,
    /// What the object has of them.
    options: Vec<OptionName>,
    queue: WaitQueue,
    /// Reused between calls of `poll`.
    events: Vec<driver::Raw>,
    /// Whether the program's sockets have the error that the object was given up.
    has_failed_sockets: bool,
}

impl Level0Stack {
    /// The interface has no configuration: the object looks for an interface with its addresses and routes itself, in
    /// the network namespace of the process that its pre-init is given.
    pub(crate) fn new(loaded: Arc<Loaded>, config: &StackConfig) -> Result<Level0Stack, SetupError> {
        let object = loaded.object();
        let refused = |text: String| Err(SetupError::new(format!("the level 0 stack {object} {text}")));
        let StackConfig { link, addresses, gateways, argument, .. } = config;
        if argument.is_some() {
            return refused("takes no argument: its interface has no way to say it".to_owned());
        }
        if *link != LinkConfig::None {
            return refused(format!(
                "takes no link {link}: give it --link veth:NAME, as its pre-init looks for an interface itself"
            ));
        }
        if !(addresses.is_empty() && gateways.is_empty()) {
            return refused("takes addresses and gateways with --link veth:NAME only".to_owned());
        }
        Ok(Level0Stack { loaded, state: State::Made })
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

    fn failed(&self, text: &str) -> SetupError {
        SetupError::new(format!("the stack {} {text}", self.loaded.object()))
    }
}

/// The advice about a pre-init that needs more rights.
const NEEDS_TRUST: &str = "; with --trust-pre-init it has your rights, if you trust it with them";

fn find(library: &Library) -> Result<Symbols, String> {
    Symbols::find(library).map_err(|missing| format!("has lost {}", missing.join(", ")))
}

/// Pre-init, in a child of the launcher.
fn pre_init(loaded: &Loaded, pid: u32) -> Answer {
    let symbols = find(&loaded.link()?)?;
    let (mut text, mut fds, mut count) = (ptr::null_mut::<c_char>(), ptr::null_mut::<c_int>(), 0);
    let result = {
        let _inside = loaded.watch().enter(Caller::Loop, Call::plugin_preinitstack);
        // SAFETY: three places to write to, as the interface says.
        unsafe {
            (symbols.plugin_preinitstack)(pid.cast_signed(), &raw mut text, &raw mut fds, &raw mut count)
        }
    };
    if result != 0 {
        return Err(format!("plugin_preinitstack answers {result}"));
    }
    let text = if text.is_null() {
        Vec::new()
    } else {
        // SAFETY: the interface makes it a text of malloc(3), and ours.
        unsafe { api::take_text(text) }
    };
    let count = usize::try_from(count).ok().filter(|count| *count <= envelope::FDS);
    let count = count.ok_or("plugin_preinitstack gives an impossible number of descriptors")?;
    let numbers = match count {
        _ if fds.is_null() => Vec::new(),
        // SAFETY: the interface says that so many numbers are there.
        count => unsafe { std::slice::from_raw_parts(fds, count) }.to_vec(),
    };
    // SAFETY: the interface makes it memory of malloc(3), and ours; null is fine.
    unsafe { libc::free(fds.cast()) };
    // A device that could not be opened is -1, and the call succeeds all the same.
    let present: Vec<bool> = numbers.iter().map(|fd| *fd >= 0).collect();
    let open = numbers.iter().filter(|fd| **fd >= 0);
    // SAFETY: the interface makes them ours. If one is not open, sending it fails.
    let fds = open.map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }).collect();
    Ok((envelope::seal(&text, &present).into_bytes(), fds))
}

impl PluginStack for Level0Stack {
    fn info(&self) -> StackInfo {
        let info = self.loaded.info().clone();
        match &self.state {
            State::Up(live) => StackInfo { options: live.options.clone(), ..info },
            _ => info,
        }
    }

    fn pre_init(&mut self, args: PreInitStackArgs) -> Result<PreInitStack, SetupError> {
        let keep: Vec<BorrowedFd<'_>> = self.loaded.fds().collect();
        let body = || pre_init(&self.loaded, args.pid);
        let (object, limit) = (self.loaded.object(), crate::PRE_INIT_LIMIT);
        let rights = self.loaded.pre_init_rights();
        let answer = child::run(object, "plugin_preinitstack", &keep, rights, limit, body);
        let (text, fds) = answer.map_err(|failure| match failure {
            Failure::Host(e) => self.failed(&format!("cannot be prepared: {e}")),
            Failure::Died(text) => self.failed(&text),
            Failure::Said(text) if self.loaded.trusts_pre_init() => {
                self.failed(&format!("cannot be prepared: {text}"))
            }
            Failure::Said(text) => self.failed(&format!("cannot be prepared: {text}{NEEDS_TRUST}")),
        })?;
        let init_str = String::from_utf8(text).map_err(|_| self.failed("garbled what it hands over"))?;
        Ok(PreInitStack { init_str, fds })
    }

    fn prepare(&mut self) -> Result<(), SetupError> {
        if !matches!(self.state, State::Made) {
            return Ok(());
        }
        forbid_clone3().map_err(|e| SetupError::host("cannot forbid clone3", e))?;
        // Its state is in global variables: a second stack in one process, as in tests, needs its own.
        let library = if self.loaded.is_first_use() { self.loaded.link() } else { self.loaded.link_apart() };
        let symbols = library.and_then(|library| find(&library));
        let symbols = symbols.map_err(|text| self.failed(&format!("cannot be linked: {text}")))?;
        self.state = State::Linked(Box::new(symbols));
        Ok(())
    }

    fn init(&mut self, args: InitStackArgs) -> Result<(), SetupError> {
        self.prepare()?;
        let State::Linked(symbols) = std::mem::replace(&mut self.state, State::Ended) else {
            return Err(self.failed("was initialised before"));
        };
        let (text, present) = envelope::open(&args.init_str)
            .ok_or_else(|| self.failed("cannot be initialised: its handover is none of its own"))?;
        let mut fds = args.fds.into_iter().map(IntoRawFd::into_raw_fd);
        // The array is as pre-init made it, holes included.
        let mut numbers: Vec<c_int> =
            present.iter().map(|there| if *there { fds.next().unwrap_or(-1) } else { -1 }).collect();
        let text = CString::new(text).unwrap_or_default();
        let count = c_int::try_from(numbers.len()).unwrap_or(0);
        let result = {
            let _inside = self.loaded.watch().enter(Caller::Loop, Call::plugin_initstack);
            // SAFETY: a text, and an array of so many numbers, as the interface says.
            unsafe { (symbols.plugin_initstack)(text.as_ptr(), numbers.as_mut_ptr(), count) }
        };
        if result != 0 {
            return Err(self.failed(&format!("cannot be initialised: plugin_initstack answers {result}")));
        }
        let shared = driver::start(&self.loaded, *symbols)
            .map_err(|text| self.failed(&format!("cannot be initialised: {text}")))?;
        let api = Api::new(Arc::clone(&self.loaded), *symbols, shared);
        let options = options::probe(&api, &[TCP, UDP]);
        self.state = State::Up(Box::new(Live {
            api,
            options,
            socks: HashMap::new(),
            raws: HashSet::new(),
            next: 1,
            queue: WaitQueue::new(),
            events: Vec::new(),
            has_failed_sockets: false,
        }));
        Ok(())
    }

    fn seccomp_filters(&self) -> Vec<SyscallRule> {
        self.loaded.rules().to_vec()
    }

    fn destroy(&mut self) {
        let State::Up(live) = std::mem::replace(&mut self.state, State::Ended) else { return };
        for sock in live.socks.values() {
            live.api.close(sock.raw);
        }
        if let Some(function) = live.api.symbols.plugin_destroystack {
            let _inside = self.loaded.watch().enter(Caller::Loop, Call::plugin_destroystack);
            // SAFETY: no arguments. The driver's thread may be in its wait: it always is.
            unsafe { function() };
        }
    }

    fn poll(&mut self, _now: Instant) {
        let Ok(live) = self.live_mut() else { return };
        let mut events = std::mem::take(&mut live.events);
        live.api.shared.take(&mut events);
        for &(token, bits) in &events {
            live.event(token, bits);
        }
        events.clear();
        live.events = events;
        if live.api.shared.failure().is_some() && !live.has_failed_sockets {
            live.has_failed_sockets = true;
            for (&token, sock) in &mut live.socks {
                sock.fail(Error::NetworkDown);
                let level = sock.level(&live.api);
                live.queue.notify(Handle(token), &mut sock.info, level);
            }
        }
    }

    fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        let Ok(live) = self.live_mut() else { return };
        let socks = &mut live.socks;
        let take = |handle: Handle| socks.get_mut(&handle.0).map_or(Events::empty(), |sock| sock.info.take());
        live.queue.drain(take, sink);
    }

    fn failure(&self) -> Option<String> {
        self.live().ok()?.api.shared.failure().map(str::to_owned)
    }

    fn wake_fds(&self) -> Vec<WakeFd<'_>> {
        let Ok(live) = self.live() else { return Vec::new() };
        vec![WakeFd { fd: live.api.shared.wake_fd(), events: Events::IN }]
    }
}

impl Live {
    /// An event came out of the object.
    fn event(&mut self, token: u64, bits: u32) {
        // Late, or for a handle that is used again: the number that was registered with it is gone.
        let Some(sock) = self.socks.get_mut(&token) else { return };
        sock.edge(Events::from_bits_truncate(bits));
        self.refresh(token);
    }

    /// Asks what a socket is ready for, and queues it.
    fn refresh(&mut self, token: u64) {
        let Some(sock) = self.socks.get_mut(&token) else { return };
        sock.look(&self.api);
        let level = sock.level(&self.api);
        self.queue.notify(Handle(token), &mut sock.info, level);
    }
}

impl PluginNotifier for Level0Stack {
    fn add_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let live = self.live_mut()?;
        let sock = live.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        // There is no first event for what is there already.
        sock.look(&live.api);
        let level = sock.level(&live.api);
        live.queue.set_ready(handle, &mut sock.info, level);
        live.queue.add(handle, &mut sock.info, mask)
    }

    fn update_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        let live = self.live_mut()?;
        let sock = live.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        sock.look(&live.api);
        let level = sock.level(&live.api);
        live.queue.set_ready(handle, &mut sock.info, level);
        live.queue.change(handle, &mut sock.info, Some(mask))
    }

    fn remove_fd(&mut self, handle: Handle) -> Result<()> {
        let live = self.live_mut()?;
        let sock = live.socks.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        live.queue.change(handle, &mut sock.info, None)
    }
}

//! A stack that works, until it is told not to: the built-in one, with faults.
//!
//! A datagram that begins with '!' names the fault; the operator's text names one of the stack's start.

use std::net::SocketAddr;
use std::sync::Arc;

use netgraft_plugin::inet::{self, Interface, Statistics};
use netgraft_plugin::registry::Factory;
use netgraft_plugin::socket::{Received, RecvFlags, SendFlags, Shutdown, Sockets};
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{
    Error, Event, Events, Handle, InitStackArgs, Instant, OptionName, PluginNotifier, PluginStack,
    PreInitStack, PreInitStackArgs, Result, SocketOption, SocketSpec, StackConfig, StackInfo, SyscallRule,
    WakeFd,
};

/// What the stack says of itself from now on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Sane,
    /// Lengths, handles, addresses and events that cannot be.
    Nonsense,
    /// The next `poll` does not return.
    Sleepy,
}

pub(crate) struct Odd {
    inner: Box<dyn PluginStack>,
    start: String,
    mood: Mood,
}

pub(crate) fn factory() -> Arc<Factory> {
    Arc::new(|config: &StackConfig| {
        let start = config.argument.clone().unwrap_or_default();
        let inner = netgraft_smoltcp::factory()(&StackConfig { argument: None, ..config.clone() })?;
        Ok(Box::new(Odd { inner, start, mood: Mood::Sane }) as Box<dyn PluginStack>)
    })
}

fn hang() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// Faults that do not come back, and those that change the mood.
fn fault(name: &str) -> Option<Mood> {
    match name {
        "abort" => std::process::abort(),
        "exit" => std::process::exit(3),
        "panic" => panic!("out of sorts"),
        "hang" => hang(),
        "forbidden" => drop(std::net::TcpListener::bind("127.0.0.1:0")),
        "handler" => netgraft_linux::signal::set_ignored(libc::SIGSYS, true).unwrap_or_default(),
        "close" => netgraft_linux::process::close_all_but(&[0, 1]).unwrap_or_default(),
        "close-listener" => close_listener(),
        "memory" => drop(std::hint::black_box(vec![1u8; 1 << 20])),
        "nonsense" => return Some(Mood::Nonsense),
        "sleepy" => return Some(Mood::Sleepy),
        _ => {}
    }
    None
}

/// Closes every descriptor that is a seccomp listener, and nothing else.
fn close_listener() {
    let names = |fd: &i32| {
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        !link.to_string_lossy().contains("seccomp")
    };
    let kept: Vec<i32> = (0..1000).filter(|fd| names(fd)).collect();
    let _ = netgraft_linux::process::close_all_but(&kept);
}

impl PluginStack for Odd {
    fn info(&self) -> StackInfo {
        StackInfo { name: "odd".to_owned(), ..self.inner.info() }
    }
    fn pre_init(&mut self, args: PreInitStackArgs) -> std::result::Result<PreInitStack, SetupError> {
        self.inner.pre_init(args)
    }
    fn init(&mut self, args: InitStackArgs) -> std::result::Result<(), SetupError> {
        fault(&self.start);
        self.inner.init(args)
    }
    fn seccomp_filters(&self) -> Vec<SyscallRule> {
        self.inner.seccomp_filters()
    }
    fn poll(&mut self, now: Instant) {
        if self.mood == Mood::Sleepy {
            hang();
        }
        self.inner.poll(now);
    }
    fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        if self.mood == Mood::Nonsense {
            let mut handle = 0u64;
            while sink(Event { handle: Handle(handle), events: Events::all() }) {
                handle = handle.wrapping_mul(7).wrapping_add(1);
            }
        }
        self.inner.drain_events(sink);
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.inner.next_deadline()
    }
    fn destroy(&mut self) {
        self.inner.destroy();
    }
    fn unfinished(&self) -> usize {
        self.inner.unfinished()
    }
    fn wake_fds(&self) -> Vec<WakeFd<'_>> {
        self.inner.wake_fds()
    }
}

impl Sockets for Odd {
    fn socket(&mut self, spec: SocketSpec) -> Result<Handle> {
        self.inner.socket(spec)
    }
    fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()> {
        self.inner.bind(handle, addr)
    }
    fn listen(&mut self, handle: Handle, backlog: u32) -> Result<()> {
        self.inner.listen(handle, backlog)
    }
    fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)> {
        let (new, from) = self.inner.accept(handle)?;
        // Its own listener, as if that were a connection.
        if self.mood == Mood::Nonsense {
            Ok((handle, SocketAddr::from(([0; 16], 0))))
        } else {
            Ok((new, from))
        }
    }
    fn connect(&mut self, handle: Handle, addr: SocketAddr, now: Instant) -> Result<()> {
        self.inner.connect(handle, addr, now)
    }
    fn disconnect(&mut self, handle: Handle) -> Result<()> {
        self.inner.disconnect(handle)
    }
    fn local_addr(&self, handle: Handle) -> Result<SocketAddr> {
        match self.mood {
            Mood::Nonsense => Ok(SocketAddr::from(([0xff; 16], 65_535))),
            _ => self.inner.local_addr(handle),
        }
    }
    fn peer_addr(&self, handle: Handle) -> Result<SocketAddr> {
        self.inner.peer_addr(handle)
    }
    fn send(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
        now: Instant,
    ) -> Result<usize> {
        if let [b'!', name @ ..] = data {
            let name = String::from_utf8_lossy(name);
            self.mood = fault(&name).unwrap_or(self.mood);
        }
        let sent = self.inner.send(handle, data, to, flags, now)?;
        Ok(if self.mood == Mood::Nonsense { usize::MAX } else { sent })
    }
    fn recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags, now: Instant) -> Result<Received> {
        let received = self.inner.recv(handle, buf, flags, now)?;
        if self.mood != Mood::Nonsense {
            return Ok(received);
        }
        Ok(Received { len: usize::MAX, full_len: 0, interface: u32::MAX, ..received })
    }
    fn send_room(&self, handle: Handle) -> usize {
        self.inner.send_room(handle)
    }
    fn queued_in(&self, handle: Handle) -> Result<usize> {
        if self.mood == Mood::Nonsense { Ok(usize::MAX) } else { self.inner.queued_in(handle) }
    }
    fn queued_out(&self, handle: Handle) -> Result<usize> {
        if self.mood == Mood::Nonsense { Ok(usize::MAX) } else { self.inner.queued_out(handle) }
    }
    fn shutdown(&mut self, handle: Handle, how: Shutdown, now: Instant) -> Result<()> {
        self.inner.shutdown(handle, how, now)
    }
    fn close(&mut self, handle: Handle, now: Instant) -> Result<()> {
        self.inner.close(handle, now)
    }
    fn abort(&mut self, handle: Handle, now: Instant) -> Result<()> {
        self.inner.abort(handle, now)
    }
    fn readiness(&self, handle: Handle) -> Result<Events> {
        self.inner.readiness(handle)
    }
    fn take_error(&mut self, handle: Handle) -> Option<Error> {
        self.inner.take_error(handle)
    }
    fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()> {
        self.inner.set_option(handle, option)
    }
    fn get_option(&self, handle: Handle, name: OptionName) -> Result<SocketOption> {
        match self.mood {
            // The value of another option.
            Mood::Nonsense => Ok(SocketOption::Congestion("x".repeat(1 << 16))),
            _ => self.inner.get_option(handle, name),
        }
    }
}

impl PluginNotifier for Odd {
    fn add_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        self.inner.add_fd(handle, mask)
    }
    fn update_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        self.inner.update_fd(handle, mask)
    }
    fn remove_fd(&mut self, handle: Handle) -> Result<()> {
        self.inner.remove_fd(handle)
    }
}

impl inet::Stack for Odd {
    fn interfaces(&self) -> Vec<Interface> {
        let mut list = self.inner.interfaces();
        if self.mood == Mood::Nonsense {
            for (index, interface) in list.iter_mut().enumerate() {
                interface.name = "n".repeat(1000 + index);
                interface.index = u32::MAX;
            }
        }
        list
    }
    fn statistics(&self) -> Statistics {
        self.inner.statistics()
    }
}

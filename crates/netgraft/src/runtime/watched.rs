//! A stack whose calls are seen from outside: each is written down in the shared words while it lasts, so that
//! the launcher can name it when the sentry dies in it, and end a sentry that does not come back from it.
//!
//! Also the place where answers are cut to what the caller can use, whatever the stack says.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netgraft_plugin::inet::{self, BufferSizes, Interface, Recovery, Route, Statistics};
use netgraft_plugin::socket::{Received, RecvFlags, SendFlags, Shutdown, Sockets};
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{
    Cidr, Domain, Event, Events, Handle, InitStackArgs, Instant, OptionName, PluginNotifier, PluginStack,
    PreInitStack, PreInitStackArgs, Result, SocketOption, SocketSpec, StackInfo, SyscallRule, TcpInfo,
    WakeFd,
};

use crate::control::{self, FromSentry};
use crate::vitals::{StackCall, Vitals};

/// The most events that one call of `drain_events` may report: the rest comes with the next.
const EVENTS_A_CALL: usize = 64 * 1024;

/// A stack, the words in which its calls are noted, and the control socket to the launcher.
pub(crate) struct Watched {
    inner: Box<dyn PluginStack>,
    vitals: Vitals,
    control: OwnedFd,
}

impl Watched {
    /// Watches a stack.
    pub(crate) fn new(inner: Box<dyn PluginStack>, vitals: Vitals, control: OwnedFd) -> Watched {
        Watched { inner, vitals, control }
    }

    fn begin(&self, call: StackCall) {
        if self.vitals.begin(call) {
            self.wake_launcher();
        }
    }

    /// The launcher slept since nothing happened: from now on it looks again.
    #[cold]
    fn wake_launcher(&self) {
        self.vitals.set_asleep(false);
        // If it is gone, the control socket's hang-up ends the sentry.
        let _ = control::send(self.control.as_fd(), &FromSentry::Busy);
    }
}

macro_rules! watched {
    ($self:ident, $call:ident ( $($arg:expr),* )) => {{
        $self.begin(const { StackCall::named(stringify!($call)) });
        let answer = $self.inner.$call($($arg),*);
        $self.vitals.end();
        answer
    }};
}

macro_rules! read_calls {
    ($(fn $call:ident(&self $(, $arg:ident: $ty:ty)*) -> $result:ty;)*) => {
        $(fn $call(&self $(, $arg: $ty)*) -> $result { watched!(self, $call($($arg),*)) })*
    };
}

macro_rules! write_calls {
    ($(fn $call:ident(&mut self $(, $arg:ident: $ty:ty)*) -> $result:ty;)*) => {
        $(fn $call(&mut self $(, $arg: $ty)*) -> $result { watched!(self, $call($($arg),*)) })*
    };
}

impl PluginStack for Watched {
    read_calls! {
        fn info(&self) -> StackInfo;
        fn seccomp_filters(&self) -> Vec<SyscallRule>;
        fn next_deadline(&self) -> Option<Instant>;
        fn unfinished(&self) -> usize;
        fn wake_fds(&self) -> Vec<WakeFd<'_>>;
        fn offers_host_fds(&self) -> bool;
    }

    write_calls! {
        fn prepare(&mut self) -> std::result::Result<(), SetupError>;
        fn init(&mut self, args: InitStackArgs) -> std::result::Result<(), SetupError>;
        fn destroy(&mut self) -> ();
        fn poll(&mut self, now: Instant) -> ();
        fn take_host_fd(&mut self, handle: Handle) -> Result<OwnedFd>;
        fn bind_host_fd(&mut self, fd: BorrowedFd<'_>, addr: SocketAddr) -> Result<()>;
    }

    /// Runs in the launcher, where nothing is watched.
    fn pre_init(&mut self, args: PreInitStackArgs) -> std::result::Result<PreInitStack, SetupError> {
        self.inner.pre_init(args)
    }

    /// What an adapter has noted: no call of the stack.
    fn failure(&self) -> Option<String> {
        self.inner.failure()
    }

    fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        let mut left = EVENTS_A_CALL;
        let mut bounded = |event: Event| {
            left = left.saturating_sub(1);
            sink(event) && left > 0
        };
        watched!(self, drain_events(&mut bounded));
    }
}

impl Sockets for Watched {
    read_calls! {
        fn local_addr(&self, handle: Handle) -> Result<SocketAddr>;
        fn peer_addr(&self, handle: Handle) -> Result<SocketAddr>;
        fn send_room(&self, handle: Handle) -> usize;
        fn queued_in(&self, handle: Handle) -> Result<usize>;
        fn queued_out(&self, handle: Handle) -> Result<usize>;
        fn readiness(&self, handle: Handle) -> Result<Events>;
        fn get_option(&self, handle: Handle, name: OptionName) -> Result<SocketOption>;
        fn tcp_info(&self, handle: Handle) -> Result<TcpInfo>;
    }

    write_calls! {
        fn socket(&mut self, spec: SocketSpec) -> Result<Handle>;
        fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()>;
        fn listen(&mut self, handle: Handle, backlog: u32) -> Result<()>;
        fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)>;
        fn connect(&mut self, handle: Handle, addr: SocketAddr, now: Instant) -> Result<()>;
        fn disconnect(&mut self, handle: Handle) -> Result<()>;
        fn shutdown(&mut self, handle: Handle, how: Shutdown, now: Instant) -> Result<()>;
        fn close(&mut self, handle: Handle, now: Instant) -> Result<()>;
        fn abort(&mut self, handle: Handle, now: Instant) -> Result<()>;
        fn take_error(&mut self, handle: Handle) -> Option<netgraft_plugin::Error>;
        fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()>;
    }

    fn send(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
        now: Instant,
    ) -> Result<usize> {
        watched!(self, send(handle, data, to, flags, now)).map(|n| n.min(data.len()))
    }

    fn recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags, now: Instant) -> Result<Received> {
        let received = watched!(self, recv(handle, buf, flags, now))?;
        Ok(Received { len: received.len.min(buf.len()), ..received })
    }
}

impl PluginNotifier for Watched {
    write_calls! {
        fn add_fd(&mut self, handle: Handle, mask: Events) -> Result<()>;
        fn update_fd(&mut self, handle: Handle, mask: Events) -> Result<()>;
        fn remove_fd(&mut self, handle: Handle) -> Result<()>;
    }
}

impl inet::Stack for Watched {
    read_calls! {
        fn interfaces(&self) -> Vec<Interface>;
        fn routes(&self) -> Vec<Route>;
        fn tcp_receive_buffer(&self) -> BufferSizes;
        fn tcp_send_buffer(&self) -> BufferSizes;
        fn tcp_sack(&self) -> bool;
        fn tcp_recovery(&self) -> Recovery;
        fn statistics(&self) -> Statistics;
        fn port_range(&self) -> (u16, u16);
        fn forwarding(&self, domain: Domain) -> bool;
    }

    write_calls! {
        fn add_address(&mut self, interface: u32, address: Cidr) -> Result<()>;
        fn remove_address(&mut self, interface: u32, address: Cidr) -> Result<()>;
        fn add_route(&mut self, route: Route) -> Result<()>;
        fn remove_route(&mut self, route: Route) -> Result<()>;
        fn set_tcp_receive_buffer(&mut self, sizes: BufferSizes) -> Result<()>;
        fn set_tcp_send_buffer(&mut self, sizes: BufferSizes) -> Result<()>;
        fn set_tcp_sack(&mut self, on: bool) -> Result<()>;
        fn set_tcp_recovery(&mut self, recovery: Recovery) -> Result<()>;
        fn set_port_range(&mut self, first: u16, last: u16) -> Result<()>;
        fn set_forwarding(&mut self, domain: Domain, on: bool) -> Result<()>;
        fn pause(&mut self) -> Result<()>;
        fn resume(&mut self) -> Result<()>;
    }
}

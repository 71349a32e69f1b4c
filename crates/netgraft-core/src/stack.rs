//! The stack, and whether it is to be polled.

use std::net::SocketAddr;
use std::ops::Deref;

use netgraft_plugin::data::{Batch, Fill, Spare, Streamed, Take};
use netgraft_plugin::faults::LinkFaults;
use netgraft_plugin::{
    Error, Event, Events, Handle, Instant, PluginStack, Received, RecvFlags, Result, SendFlags, Shutdown,
    SocketOption, SocketSpec,
};

/// A stack whose calls note that it has been given something. What only asks is reached through [`Deref`]; there is no
/// other way to change it, so that no caller can forget to have it polled.
pub struct Stack {
    inner: Box<dyn PluginStack>,
    due: bool,
}

impl Deref for Stack {
    type Target = dyn PluginStack;

    fn deref(&self) -> &Self::Target {
        self.inner.as_ref()
    }
}

impl Stack {
    /// A stack after `init`: it is polled at once.
    #[must_use]
    pub fn new(inner: Box<dyn PluginStack>) -> Stack {
        Stack { inner, due: true }
    }

    /// Whether it is to be polled, apart from its own deadline.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// Has it polled: one of its descriptors is ready.
    pub fn wake(&mut self) {
        self.due = true;
    }

    /// Lets it run. What its events bring may make it due again.
    pub fn poll(&mut self, now: Instant) {
        self.due = false;
        self.inner.poll(now);
    }

    /// Takes its events.
    pub fn drain_events(&mut self, into: &mut Vec<Event>) {
        self.inner.drain_events(&mut |event| {
            into.push(event);
            true
        });
    }

    /// Ends it.
    pub fn destroy(&mut self) {
        self.inner.destroy();
    }

    /// [`netgraft_plugin::PluginStack::set_link_faults`]
    pub fn set_link_faults(&mut self, faults: LinkFaults, seed: Option<u64>) -> Result<()> {
        // Frames that were under way may be due now.
        self.due = true;
        self.inner.set_link_faults(faults, seed)
    }

    /// [`netgraft_plugin::Sockets::socket`]
    pub fn socket(&mut self, spec: SocketSpec) -> Result<Handle> {
        self.inner.socket(spec)
    }

    /// [`netgraft_plugin::PluginNotifier::add_fd`]
    pub fn watch(&mut self, handle: Handle, mask: Events) -> Result<()> {
        self.due = true;
        self.inner.add_fd(handle, mask)
    }

    /// [`netgraft_plugin::Sockets::bind`]
    pub fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()> {
        self.inner.bind(handle, addr)
    }

    /// [`netgraft_plugin::Sockets::listen`]
    pub fn listen(&mut self, handle: Handle, backlog: u32) -> Result<()> {
        self.due = true;
        self.inner.listen(handle, backlog)
    }

    /// [`netgraft_plugin::Sockets::accept`]
    pub fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)> {
        self.inner.accept(handle)
    }

    /// [`netgraft_plugin::Sockets::connect`]
    pub fn connect(&mut self, handle: Handle, addr: SocketAddr, now: Instant) -> Result<()> {
        self.due = true;
        self.inner.connect(handle, addr, now)
    }

    /// [`netgraft_plugin::Sockets::disconnect`]
    pub fn disconnect(&mut self, handle: Handle) -> Result<()> {
        self.due = true;
        self.inner.disconnect(handle)
    }

    /// [`netgraft_plugin::Sockets::send`]; says no more than it was given.
    pub fn send(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
        now: Instant,
    ) -> Result<usize> {
        self.due = true;
        self.inner.send(handle, data, to, flags, now).map(|n| n.min(data.len()))
    }

    /// [`netgraft_plugin::Sockets::recv`]; says no more than the buffer holds. Taking data may open a window.
    pub fn recv(
        &mut self,
        handle: Handle,
        buf: &mut [u8],
        flags: RecvFlags,
        now: Instant,
    ) -> Result<Received> {
        let received = self.inner.recv(handle, buf, flags, now)?;
        let len = received.len.min(buf.len());
        self.due |= len > 0 && !flags.contains(RecvFlags::PEEK);
        Ok(Received { len, ..received })
    }

    /// [`netgraft_plugin::Sockets::recv_batch`]; hands out no more than was asked for.
    pub fn recv_batch(
        &mut self,
        handle: Handle,
        limit: usize,
        now: Instant,
        scratch: &mut [u8],
        deliver: &mut dyn FnMut(&Received, &[u8]),
    ) -> Batch {
        let mut left = limit;
        let batch = self.inner.recv_batch(handle, limit, now, scratch, &mut |received, data| {
            if let Some(less) = left.checked_sub(1) {
                left = less;
                deliver(received, data);
            }
        });
        self.due |= left < limit;
        Batch { count: limit - left, ..batch }
    }

    /// [`netgraft_plugin::Sockets::send_with`]
    pub fn send_with(
        &mut self,
        handle: Handle,
        now: Instant,
        spare: Spare<'_>,
        fill: &mut Fill<'_>,
    ) -> Result<usize> {
        self.due = true;
        self.inner.send_with(handle, SendFlags::empty(), now, spare, fill)
    }

    /// [`netgraft_plugin::Sockets::recv_with`]. Taking data may open a window.
    pub fn recv_with(
        &mut self,
        handle: Handle,
        now: Instant,
        spare: Spare<'_>,
        take: &mut Take<'_>,
    ) -> Result<Streamed> {
        let streamed = self.inner.recv_with(handle, now, spare, take)?;
        self.due |= matches!(streamed, Streamed::Bytes(1..));
        Ok(streamed)
    }

    /// [`netgraft_plugin::Sockets::shutdown`]
    pub fn shutdown(&mut self, handle: Handle, how: Shutdown, now: Instant) -> Result<()> {
        self.due = true;
        self.inner.shutdown(handle, how, now)
    }

    /// [`netgraft_plugin::Sockets::close`]. A handle that the stack does not know any more is closed already.
    pub fn close(&mut self, handle: Handle, now: Instant) {
        self.due = true;
        let _ = self.inner.close(handle, now);
    }

    /// [`netgraft_plugin::Sockets::abort`], likewise.
    pub fn abort(&mut self, handle: Handle, now: Instant) {
        self.due = true;
        let _ = self.inner.abort(handle, now);
    }

    /// [`netgraft_plugin::Sockets::take_error`]
    pub fn take_error(&mut self, handle: Handle) -> Option<Error> {
        self.inner.take_error(handle)
    }

    /// [`netgraft_plugin::Sockets::set_option`]
    pub fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()> {
        self.due = true;
        self.inner.set_option(handle, option)
    }

    /// [`PluginStack::take_host_fd`]
    pub fn take_host_fd(&mut self, handle: Handle) -> Result<std::os::fd::OwnedFd> {
        self.inner.take_host_fd(handle)
    }

    /// [`PluginStack::bind_host_fd`]
    pub fn bind_host_fd(&mut self, fd: std::os::fd::BorrowedFd<'_>, addr: SocketAddr) -> Result<()> {
        self.inner.bind_host_fd(fd, addr)
    }
}

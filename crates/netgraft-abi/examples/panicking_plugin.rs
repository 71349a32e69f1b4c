//! A stack that panics, logs and refuses: what stops at the boundary of the interface, for tests.
#![expect(clippy::panic, reason = "the tests want to see it stopped")]

use std::sync::Arc;

use netgraft_plugin::inet::Stack;
use netgraft_plugin::stack::{SetupError, StackInfo};
use netgraft_plugin::{
    Error, Event, Events, Handle, InitStackArgs, Instant, PluginNotifier, PluginStack, Received, RecvFlags,
    Result, SendFlags, Shutdown, SocketSpec, Sockets,
};
use std::net::SocketAddr;

struct Panicking;

impl Stack for Panicking {}

impl PluginNotifier for Panicking {
    fn add_fd(&mut self, _: Handle, _: Events) -> Result<()> {
        Ok(())
    }
    fn update_fd(&mut self, _: Handle, _: Events) -> Result<()> {
        Ok(())
    }
    fn remove_fd(&mut self, _: Handle) -> Result<()> {
        Ok(())
    }
}

impl Sockets for Panicking {
    fn socket(&mut self, _: SocketSpec) -> Result<Handle> {
        tracing::warn!(number = 1, "a socket");
        Ok(Handle(1))
    }
    fn bind(&mut self, _: Handle, _: SocketAddr) -> Result<()> {
        panic!("no address for you")
    }
    fn connect(&mut self, _: Handle, _: SocketAddr, _: Instant) -> Result<()> {
        Ok(())
    }
    fn local_addr(&self, _: Handle) -> Result<SocketAddr> {
        Err(Error::AddressNotAvailable)
    }
    fn peer_addr(&self, _: Handle) -> Result<SocketAddr> {
        Err(Error::NotConnected)
    }
    fn send(
        &mut self,
        _: Handle,
        _: &[u8],
        _: Option<SocketAddr>,
        _: SendFlags,
        _: Instant,
    ) -> Result<usize> {
        Err(Error::Again)
    }
    fn recv(&mut self, _: Handle, _: &mut [u8], _: RecvFlags, _: Instant) -> Result<Received> {
        Err(Error::Again)
    }
    fn shutdown(&mut self, _: Handle, _: Shutdown, _: Instant) -> Result<()> {
        Ok(())
    }
    fn close(&mut self, _: Handle, _: Instant) -> Result<()> {
        Ok(())
    }
    fn readiness(&self, _: Handle) -> Result<Events> {
        Ok(Events::empty())
    }
}

impl PluginStack for Panicking {
    fn info(&self) -> StackInfo {
        StackInfo { version: "0".to_owned(), ..StackInfo::default() }
    }
    fn init(&mut self, _: InitStackArgs) -> std::result::Result<(), SetupError> {
        Ok(())
    }
    fn destroy(&mut self) {}
    fn poll(&mut self, _: Instant) {}
    fn drain_events(&mut self, _: &mut dyn FnMut(Event) -> bool) {}
}

netgraft_abi::export_stack!(
    "panicking",
    Arc::new(|config| match &config.argument {
        Some(text) => Err(SetupError::new(format!("it wants no '{text}'"))),
        None => Ok(Box::new(Panicking)),
    })
);

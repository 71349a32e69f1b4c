//! The settings of the stack as a whole: shown as the host has them, and never changed.

use std::os::fd::AsFd;

use netgraft_plugin::inet::{BufferSizes, Interface, Recovery, Route, Stack, Statistics, check_buffer_sizes};
use netgraft_plugin::{Cidr, Domain, Error, Result};

use crate::host::HostStack;
use crate::netlink;

/// Linux's defaults (tcp(7), ip(7)), which are shown: the sentry has no `/proc/sys` of the host to read.
const RECEIVE: BufferSizes = BufferSizes { min: 4096, default: 131_072, max: 6_291_456 };
const SEND: BufferSizes = BufferSizes { min: 4096, default: 16_384, max: 4_194_304 };
const PORTS: (u16, u16) = (32_768, 60_999);

impl HostStack {
    /// What a change of the host's settings is answered.
    fn refuse<T>(&self) -> Result<T> {
        self.live().and(Err(Error::NotSupported))
    }
}

impl Stack for HostStack {
    fn interfaces(&self) -> Vec<Interface> {
        // A host that can't be read shows nothing, as a host without interfaces does.
        self.live().ok().and_then(|live| netlink::interfaces(live.netlink.as_fd()).ok()).unwrap_or_default()
    }

    fn add_address(&mut self, _interface: u32, _address: Cidr) -> Result<()> {
        self.refuse()
    }

    fn remove_address(&mut self, _interface: u32, _address: Cidr) -> Result<()> {
        self.refuse()
    }

    fn routes(&self) -> Vec<Route> {
        self.live().ok().and_then(|live| netlink::routes(live.netlink.as_fd()).ok()).unwrap_or_default()
    }

    fn add_route(&mut self, _route: Route) -> Result<()> {
        self.refuse()
    }

    fn remove_route(&mut self, _route: Route) -> Result<()> {
        self.refuse()
    }

    fn tcp_receive_buffer(&self) -> BufferSizes {
        RECEIVE
    }

    fn set_tcp_receive_buffer(&mut self, sizes: BufferSizes) -> Result<()> {
        check_buffer_sizes(sizes)?;
        self.refuse()
    }

    fn tcp_send_buffer(&self) -> BufferSizes {
        SEND
    }

    fn set_tcp_send_buffer(&mut self, sizes: BufferSizes) -> Result<()> {
        check_buffer_sizes(sizes)?;
        self.refuse()
    }

    fn tcp_sack(&self) -> bool {
        true
    }

    fn set_tcp_sack(&mut self, _on: bool) -> Result<()> {
        self.refuse()
    }

    fn tcp_recovery(&self) -> Recovery {
        Recovery::Rack
    }

    fn set_tcp_recovery(&mut self, _recovery: Recovery) -> Result<()> {
        self.refuse()
    }

    /// Counts what goes through this stack's calls; the kernel's counters are the whole host's.
    fn statistics(&self) -> Statistics {
        self.live().map_or_else(
            |_| Statistics::default(),
            |live| Statistics { sockets: live.sockets.len() as u64, ..live.counters },
        )
    }

    fn port_range(&self) -> (u16, u16) {
        PORTS
    }

    fn set_port_range(&mut self, first: u16, last: u16) -> Result<()> {
        if first == 0 || first > last {
            return Err(Error::Invalid);
        }
        self.refuse()
    }

    fn forwarding(&self, _domain: Domain) -> bool {
        false
    }

    fn set_forwarding(&mut self, _domain: Domain, _on: bool) -> Result<()> {
        self.refuse()
    }

    fn pause(&mut self) -> Result<()> {
        self.refuse()
    }

    fn resume(&mut self) -> Result<()> {
        self.refuse()
    }
}

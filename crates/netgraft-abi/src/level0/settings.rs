//! The settings of a whole level 0 stack: what the optional functions tell.

use std::ffi::c_int;
use std::net::IpAddr;

use netgraft_plugin::inet::{BufferSizes, Interface, Route, Stack};
use netgraft_plugin::{Error, Result};

use super::{Level0Stack, json};
use crate::watch::{Call, Caller};

/// What a stack has that says nothing else, as in the contract.
const FIXED: BufferSizes = BufferSizes { min: 65_536, default: 65_536, max: 65_536 };

type ChangeRoute = unsafe extern "C" fn(libc::in_addr_t, u8, libc::in_addr_t) -> c_int;

impl Level0Stack {
    fn change_route(
        &self,
        call: Call,
        function: Option<ChangeRoute>,
        route: Route,
        failed: Error,
    ) -> Result<()> {
        let live = self.live()?;
        let function = function.ok_or(Error::NotSupported)?;
        let (IpAddr::V4(to), gateway) = (route.destination.network(), route.gateway) else {
            return Err(Error::FamilyNotSupported);
        };
        let gateway = match gateway {
            None => 0,
            // Addresses are in network order.
            Some(IpAddr::V4(addr)) => u32::from_ne_bytes(addr.octets()),
            Some(IpAddr::V6(_)) => return Err(Error::FamilyNotSupported),
        };
        let _inside = live.api.loaded.watch().enter(Caller::Loop, call);
        // SAFETY: plain numbers, as the interface says.
        let result =
            unsafe { function(u32::from_ne_bytes(to.octets()), route.destination.prefix(), gateway) };
        if result == 0 { Ok(()) } else { Err(failed) }
    }
}

impl Stack for Level0Stack {
    fn interfaces(&self) -> Vec<Interface> {
        let Ok(live) = self.live() else { return Vec::new() };
        let (api, symbols) = (&live.api, &live.api.symbols);
        let interfaces = api.text(Call::plugin_get_interfaces, symbols.plugin_get_interfaces);
        let addresses = api.text(Call::plugin_get_interfaceaddrs, symbols.plugin_get_interfaceaddrs);
        json::interfaces(&interfaces.unwrap_or_default(), &addresses.unwrap_or_default())
    }

    fn routes(&self) -> Vec<Route> {
        let Ok(live) = self.live() else { return Vec::new() };
        let text = live.api.text(Call::plugin_get_routes, live.api.symbols.plugin_get_routes);
        // The object does not say on which interface a route is: it has one beside the loopback.
        let interface = self.interfaces().iter().find(|i| !i.loopback).map_or(0, |i| i.index);
        json::routes(&text.unwrap_or_default(), interface)
    }

    fn add_route(&mut self, route: Route) -> Result<()> {
        let function = self.live()?.api.symbols.plugin_add_route;
        self.change_route(Call::plugin_add_route, function, route, Error::NetworkUnreachable)
    }

    fn remove_route(&mut self, route: Route) -> Result<()> {
        let function = self.live()?.api.symbols.plugin_del_route;
        self.change_route(Call::plugin_del_route, function, route, Error::NotFound)
    }

    fn tcp_receive_buffer(&self) -> BufferSizes {
        let Ok(live) = self.live() else { return FIXED };
        let function = live.api.symbols.plugin_get_tcp_rcvbuf_size;
        let text = live.api.text(Call::plugin_get_tcp_rcvbuf_size, function);
        text.and_then(|text| json::sizes(&text)).unwrap_or(FIXED)
    }

    fn tcp_send_buffer(&self) -> BufferSizes {
        let Ok(live) = self.live() else { return FIXED };
        let function = live.api.symbols.plugin_get_tcp_sndbuf_size;
        let text = live.api.text(Call::plugin_get_tcp_sndbuf_size, function);
        text.and_then(|text| json::sizes(&text)).unwrap_or(FIXED)
    }

    fn port_range(&self) -> (u16, u16) {
        const PORTS: (u16, u16) = (32_768, 60_999);
        let Ok(live) = self.live() else { return PORTS };
        let text = live.api.text(Call::plugin_get_port_range, live.api.symbols.plugin_get_port_range);
        text.and_then(|text| json::ports(&text)).unwrap_or(PORTS)
    }
}

//! The settings of a whole level 1 stack.

use netgraft_plugin::inet::{BufferSizes, Interface, Recovery, Route, Stack, Statistics, check_buffer_sizes};
use netgraft_plugin::{Cidr, Domain, Error, Result};

use super::Level1Stack;
use super::instance::{Instance, call};
use crate::NOT_SUPPORTED;
use crate::codes;
use crate::convert;
use crate::raw;
use crate::watch::Call;

/// What a stack has that says nothing else, as in the contract.
const FIXED: BufferSizes = BufferSizes { min: 65_536, default: 65_536, max: 65_536 };
/// As in the contract.
const PORTS: (u16, u16) = (32_768, 60_999);

/// Calls a setter.
macro_rules! set {
    ($self:ident, $name:ident($($arg:expr),*)) => {{
        let instance = &$self.live()?.instance;
        instance.status(Call::$name, call!(instance, NOT_SUPPORTED, $name($($arg),*)))
    }};
}

impl Level1Stack {
    fn sizes(
        &self,
        call: Call,
        read: impl Fn(&Instance, *mut raw::BufferSizes) -> i32,
    ) -> Option<BufferSizes> {
        let instance = &self.live().ok()?.instance;
        let mut sizes = raw::BufferSizes::default();
        instance.status(call, read(instance, &raw mut sizes)).ok()?;
        let checked = convert::from_sizes(sizes);
        if checked.is_none() {
            instance.nonsense(call, format_args!("the sizes {sizes:?}"));
        }
        checked
    }

    /// A function that answers 0 or 1; 0 if it is absent.
    fn flag(&self, call: Call, read: impl Fn(&Instance) -> i32) -> bool {
        let Ok(live) = self.live() else { return false };
        matches!(live.instance.count(call, read(&live.instance).into()), Ok(1))
    }

    fn addresses_of(&self, instance: &Instance, index: u32) -> Vec<Cidr> {
        let fill = |out, capacity| call!(instance, 0, addresses(index, out, capacity));
        let list = instance.list::<raw::Cidr>(Call::addresses, fill).unwrap_or_default();
        let checked = list.iter().map(|cidr| {
            let good = convert::from_cidr(cidr);
            if good.is_none() {
                instance.nonsense(Call::addresses, format_args!("{cidr:?}"));
            }
            good
        });
        checked.flatten().collect()
    }
}

impl Stack for Level1Stack {
    fn interfaces(&self) -> Vec<Interface> {
        let Ok(live) = self.live() else { return Vec::new() };
        let instance = &live.instance;
        let fill = |out, capacity| call!(instance, 0, interfaces(out, capacity));
        let list = instance.list::<raw::Interface>(Call::interfaces, fill).unwrap_or_default();
        let mut interfaces = Vec::with_capacity(list.len());
        for raw in &list {
            match convert::from_interface(raw, self.addresses_of(instance, raw.index)) {
                Some(interface) => interfaces.push(interface),
                None => {
                    instance.nonsense(Call::interfaces, format_args!("{raw:?}"));
                }
            }
        }
        interfaces
    }

    fn add_address(&mut self, interface: u32, address: Cidr) -> Result<()> {
        let address = convert::to_cidr(address);
        set!(self, add_address(interface, &raw const address))
    }

    fn remove_address(&mut self, interface: u32, address: Cidr) -> Result<()> {
        let address = convert::to_cidr(address);
        set!(self, remove_address(interface, &raw const address))
    }

    fn routes(&self) -> Vec<Route> {
        let Ok(live) = self.live() else { return Vec::new() };
        let instance = &live.instance;
        let fill = |out, capacity| call!(instance, 0, routes(out, capacity));
        let list = instance.list::<raw::Route>(Call::routes, fill).unwrap_or_default();
        let mut routes = Vec::with_capacity(list.len());
        for raw in &list {
            match convert::from_route(raw) {
                Some(route) => routes.push(route),
                None => {
                    instance.nonsense(Call::routes, format_args!("{raw:?}"));
                }
            }
        }
        routes
    }

    fn add_route(&mut self, route: Route) -> Result<()> {
        let route = convert::to_route(&route);
        set!(self, add_route(&raw const route))
    }

    fn remove_route(&mut self, route: Route) -> Result<()> {
        let route = convert::to_route(&route);
        set!(self, remove_route(&raw const route))
    }

    fn tcp_receive_buffer(&self) -> BufferSizes {
        let read = |instance: &Instance, out| call!(instance, NOT_SUPPORTED, tcp_receive_buffer(out));
        self.sizes(Call::tcp_receive_buffer, read).unwrap_or(FIXED)
    }

    fn set_tcp_receive_buffer(&mut self, sizes: BufferSizes) -> Result<()> {
        check_buffer_sizes(sizes)?;
        let sizes = convert::to_sizes(sizes);
        set!(self, set_tcp_receive_buffer(&raw const sizes))
    }

    fn tcp_send_buffer(&self) -> BufferSizes {
        let read = |instance: &Instance, out| call!(instance, NOT_SUPPORTED, tcp_send_buffer(out));
        self.sizes(Call::tcp_send_buffer, read).unwrap_or(FIXED)
    }

    fn set_tcp_send_buffer(&mut self, sizes: BufferSizes) -> Result<()> {
        check_buffer_sizes(sizes)?;
        let sizes = convert::to_sizes(sizes);
        set!(self, set_tcp_send_buffer(&raw const sizes))
    }

    fn tcp_sack(&self) -> bool {
        self.flag(Call::tcp_sack, |instance| call!(instance, 0, tcp_sack()))
    }

    fn set_tcp_sack(&mut self, on: bool) -> Result<()> {
        set!(self, set_tcp_sack(on.into()))
    }

    fn tcp_recovery(&self) -> Recovery {
        let Ok(live) = self.live() else { return Recovery::Timeout };
        let result = call!(&live.instance, 0, tcp_recovery());
        let number = live.instance.count(Call::tcp_recovery, result.into()).unwrap_or(0);
        codes::recovery_of(number as u32).unwrap_or(Recovery::Timeout)
    }

    fn set_tcp_recovery(&mut self, recovery: Recovery) -> Result<()> {
        let number = codes::recovery_number(recovery).ok_or(Error::NotSupported)?;
        set!(self, set_tcp_recovery(number))
    }

    fn statistics(&self) -> Statistics {
        let Ok(live) = self.live() else { return Statistics::default() };
        let mut statistics = raw::Statistics::default();
        let result = call!(&live.instance, 0, statistics(&raw mut statistics));
        let base = match live.instance.status(Call::statistics, result) {
            Ok(()) => convert::from_statistics(&statistics),
            Err(_) => Statistics::default(),
        };
        let fill = |out, capacity| call!(&live.instance, 0, tcp_counters(out, capacity));
        let counters = live.instance.list::<raw::TcpCounter>(Call::tcp_counters, fill).unwrap_or_default();
        Statistics { tcp: convert::from_tcp_counters(&counters), ..base }
    }

    fn port_range(&self) -> (u16, u16) {
        let Ok(live) = self.live() else { return PORTS };
        let (mut first, mut last) = (0, 0);
        let result = call!(&live.instance, NOT_SUPPORTED, port_range(&raw mut first, &raw mut last));
        match live.instance.status(Call::port_range, result) {
            Ok(()) if 0 < first && first <= last => (first, last),
            Ok(()) => {
                live.instance.nonsense(Call::port_range, format_args!("ports {first} to {last}"));
                PORTS
            }
            Err(_) => PORTS,
        }
    }

    fn set_port_range(&mut self, first: u16, last: u16) -> Result<()> {
        if first == 0 || first > last {
            return Err(Error::Invalid);
        }
        set!(self, set_port_range(first, last))
    }

    fn forwarding(&self, domain: Domain) -> bool {
        let family = u32::from(convert::to_family(domain));
        self.flag(Call::forwarding, |instance| call!(instance, 0, forwarding(family)))
    }

    fn set_forwarding(&mut self, domain: Domain, on: bool) -> Result<()> {
        let family = u32::from(convert::to_family(domain));
        set!(self, set_forwarding(family, on.into()))
    }

    fn pause(&mut self) -> Result<()> {
        set!(self, pause())
    }

    fn resume(&mut self) -> Result<()> {
        set!(self, resume())
    }
}

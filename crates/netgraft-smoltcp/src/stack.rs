//! The stack as the contract has it.

use std::sync::Arc;

use netgraft_link::pcap::Recorder;
use netgraft_link::{MTU_OF_IPV6, Rebuilt};
use netgraft_plugin::faults::{LinkFaults, LinkReport};
use netgraft_plugin::inet::Route;
use netgraft_plugin::link::{Link, Medium};
use netgraft_plugin::owners::Owners;
use netgraft_plugin::recording::Recording;
use netgraft_plugin::registry::Factory;
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{
    Cidr, Error, Event, Events, InitStackArgs, Instant, LinkConfig, PluginStack, PreInitStack,
    PreInitStackArgs, Result, StackConfig, StackInfo, SyscallRule, WakeFd,
};

use crate::argument::Argument;
use crate::core::Core;
use crate::hash::Keyed;
use crate::iface::{NetIf, Side};
use crate::options::KNOWN;

/// The built-in stack.
pub struct SmoltcpStack {
    config: StackConfig,
    argument: Argument,
    /// The secret of the hash tables, taken before the sentry is confined.
    key: Keyed,
    pub(crate) phase: Phase,
}

/// How far the stack has come.
pub(crate) enum Phase {
    /// Made, not initialised; perhaps with a link of the caller's.
    Made(Option<Box<dyn Link>>),
    /// Serving.
    Running(Box<Core>),
    /// Standing still.
    Paused(Box<Core>),
    /// Over.
    Destroyed,
}

impl SmoltcpStack {
    /// A stack for a configuration. Opens nothing.
    ///
    /// # Errors
    /// A configuration that cannot work, in words.
    pub fn new(config: StackConfig) -> Result<Self, SetupError> {
        check(&config)?;
        let argument = Argument::parse(config.argument.as_deref().unwrap_or_default())?;
        Ok(SmoltcpStack { config, argument, key: Keyed::random(), phase: Phase::Made(None) })
    }

    /// A stack on a link of the caller's: a simulated wire, a wrapper around a device. The configuration's own
    /// link is not opened.
    ///
    /// # Errors
    /// As [`SmoltcpStack::new`].
    pub fn with_link(config: StackConfig, link: Box<dyn Link>) -> Result<Self, SetupError> {
        check_addresses(&config)?;
        let argument = Argument::parse(config.argument.as_deref().unwrap_or_default())?;
        Ok(SmoltcpStack { config, argument, key: Keyed::random(), phase: Phase::Made(Some(link)) })
    }

    pub(crate) fn core(&self) -> Result<&Core> {
        match &self.phase {
            Phase::Running(core) | Phase::Paused(core) => Ok(core),
            _ => Err(Error::NetworkDown),
        }
    }

    pub(crate) fn core_mut(&mut self) -> Result<&mut Core> {
        match &mut self.phase {
            Phase::Running(core) | Phase::Paused(core) => Ok(core),
            _ => Err(Error::NetworkDown),
        }
    }

    pub(crate) fn set_paused(&mut self, paused: bool) -> Result<()> {
        self.phase = match (std::mem::replace(&mut self.phase, Phase::Destroyed), paused) {
            (Phase::Running(core) | Phase::Paused(core), true) => Phase::Paused(core),
            (Phase::Running(core) | Phase::Paused(core), false) => Phase::Running(core),
            (other, _) => {
                self.phase = other;
                return Err(Error::NetworkDown);
            }
        };
        Ok(())
    }

    /// How many packets and sockets were handled: the work done, for tests of what costs what.
    #[must_use]
    pub fn work(&self) -> u64 {
        self.core().map_or(0, |c| c.work)
    }

    fn start(
        &self,
        link: Option<Box<dyn Link>>,
        recorder: Option<Recorder>,
        now: Instant,
    ) -> Result<Core, SetupError> {
        let mut core = Core::new(self.key, self.argument, now);
        core.capture = recorder.map(|recorder| {
            let lo = recorder.loopback("lo");
            (recorder, lo)
        });
        let Some(link) = link else { return Ok(core) };
        let seed = core.random.next();
        let mut netif = NetIf::on_link(link.medium(), link.mtu(), link.offload(), seed, now);
        netif.limit_buffers(link.room());
        if netif.mac.is_some() && link.mtu() >= MTU_OF_IPV6 {
            netif.addresses.extend(link_local(core.random.next()));
            netif.sync_addresses();
        }
        core.net.link = Some(netif);
        core.link = Some(link);
        for &cidr in &self.config.addresses {
            core.add_address(Side::Link.index(), cidr)
                .map_err(|e| SetupError::new(format!("address {cidr} cannot be used: {e}")))?;
        }
        for &gateway in &self.config.gateways {
            let any = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            let Ok(destination) = any.parse() else { continue };
            let route = Route { destination, gateway: Some(gateway), interface: Side::Link.index() };
            core.add_route(route).map_err(|e| {
                SetupError::new(format!(
                    "gateway {gateway} cannot be used: {e}; is it in the network of an --address?"
                ))
            })?;
        }
        for neighbour in &self.config.neighbours {
            if core.net.link.as_ref().is_none_or(|link| link.mac.is_none()) {
                return Err(SetupError::new(format!(
                    "--neighbour {neighbour} is for links of Ethernet: leave it out"
                )));
            }
            core.neighbors.fix(neighbour.ip, neighbour.mac);
        }
        core.now = now;
        Ok(core)
    }
}

/// A link-local address with a random interface identifier (RFC 7217): an interface that is shared with the
/// kernel has one from its MAC address already.
pub(crate) fn link_local(random: u64) -> Option<Cidr> {
    let bits = 0xfe80 << 112 | u128::from(random);
    Cidr::new(std::net::Ipv6Addr::from_bits(bits).into(), 64)
}

fn check(config: &StackConfig) -> Result<(), SetupError> {
    let bare = config.addresses.is_empty() && config.gateways.is_empty() && config.neighbours.is_empty();
    if config.link == LinkConfig::None && !bare {
        return Err(SetupError::new(
            "--address, --gateway and --neighbour need a link: give --link tap:NAME or --link packet:IFACE",
        ));
    }
    check_addresses(config)
}

fn check_addresses(config: &StackConfig) -> Result<(), SetupError> {
    for (i, cidr) in config.addresses.iter().enumerate() {
        let ip = cidr.addr();
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            return Err(SetupError::new(format!("{cidr} is no address for an interface")));
        }
        if config.addresses[..i].iter().any(|c| c.addr() == ip) {
            return Err(SetupError::new(format!("address {ip} is given twice")));
        }
    }
    for (i, neighbour) in config.neighbours.iter().enumerate() {
        let ip = neighbour.ip;
        let near = config.addresses.iter().any(|c| c.contains(ip) && c.addr() != ip);
        if !near && !crate::core::is_link_local(ip) {
            return Err(SetupError::new(format!("neighbour {ip} is in the network of no --address")));
        }
        if config.neighbours[..i].iter().any(|before| before.ip == ip) {
            return Err(SetupError::new(format!("neighbour {ip} is given twice")));
        }
    }
    for gateway in &config.gateways {
        let near = config.addresses.iter().any(|c| c.contains(*gateway));
        if !near && !crate::core::is_link_local(*gateway) {
            return Err(SetupError::new(format!("gateway {gateway} is in the network of no --address")));
        }
    }
    Ok(())
}

impl PluginStack for SmoltcpStack {
    fn info(&self) -> StackInfo {
        StackInfo {
            name: crate::NAME.to_owned(),
            version: format!("{} on smoltcp 0.14", env!("CARGO_PKG_VERSION")),
            sockets: crate::sockets::specs(),
            options: KNOWN.to_vec(),
            needs: netgraft_link::needs(&self.config.link),
            wraps_link: true,
        }
    }

    fn pre_init(&mut self, args: PreInitStackArgs) -> Result<PreInitStack, SetupError> {
        let _ = args;
        netgraft_link::open(&self.config)
    }

    fn init(&mut self, args: InitStackArgs) -> Result<(), SetupError> {
        let Phase::Made(given) = &mut self.phase else {
            return Err(SetupError::new("the stack has been initialised already"));
        };
        let Rebuilt { link, recorder, dial } = match given.take() {
            Some(link) => Rebuilt { link: Some(link), recorder: None, dial: None },
            None => netgraft_link::rebuild(&self.config, crate::iface::LINK_NAME, &args.init_str, args.fds)?,
        };
        netgraft_linux::link::keep_large_buffers_lazy();
        let mut core = self.start(link, recorder, args.now)?;
        core.dial = dial;
        self.phase = Phase::Running(Box::new(core));
        Ok(())
    }

    fn seccomp_filters(&self) -> Vec<SyscallRule> {
        netgraft_link::syscalls(&self.config.link)
    }

    fn poll(&mut self, now: Instant) {
        if let Phase::Running(core) = &mut self.phase {
            core.poll(now);
        }
    }

    fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        if let Phase::Running(core) = &mut self.phase {
            core.drain_events(sink);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Running(core) => core.next_deadline(),
            _ => None,
        }
    }

    fn destroy(&mut self) {
        if let Phase::Running(core) | Phase::Paused(core) = &mut self.phase {
            core.destroy();
        }
        self.phase = Phase::Destroyed;
    }

    fn unfinished(&self) -> usize {
        let conns = self.core().map(|core| core.socks.orphans()).into_iter().flatten();
        conns.filter(|conn| conn.queued_out() > 0 || conn.is_closing()).count()
    }

    fn wake_fds(&self) -> Vec<WakeFd<'_>> {
        let fd = self.core().ok().and_then(|c| c.link.as_ref()).and_then(|l| l.fd());
        fd.map(|fd| WakeFd { fd, events: Events::IN }).into_iter().collect()
    }

    fn owners(&self) -> Option<Arc<Owners>> {
        self.core().ok()?.capture.as_ref().map(|(recorder, _)| recorder.owners())
    }

    fn recording(&self) -> Option<Box<dyn Recording>> {
        let (recorder, _) = self.core().ok()?.capture.as_ref()?;
        Some(Box::new(recorder.clone()))
    }

    fn link_report(&self) -> Option<LinkReport> {
        Some(self.core().ok()?.dial.as_ref()?.report())
    }

    fn set_link_faults(&mut self, faults: LinkFaults, seed: Option<u64>) -> Result<(), Error> {
        let dial = self.core()?.dial.as_ref().ok_or(Error::NotSupported)?;
        dial.change(faults, seed);
        Ok(())
    }
}

/// Makes stacks of this kind; for the registry, under [`crate::NAME`].
#[must_use]
pub fn factory() -> Arc<Factory> {
    Arc::new(|config| Ok(Box::new(SmoltcpStack::new(config.clone())?) as Box<dyn PluginStack>))
}

/// The MAC address of a medium that has one.
pub(crate) fn mac_of(medium: Medium) -> Option<[u8; 6]> {
    match medium {
        Medium::Ethernet(mac) => Some(mac),
        Medium::Ip => None,
    }
}

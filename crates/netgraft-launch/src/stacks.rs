//! Which stack a network type means.

use std::path::Path;
use std::sync::Arc;

use netgraft_abi::{Care, Level, LoadError, Loaded};
use netgraft_core::policy::Policy;
use netgraft_linux::filter::Sockets;
use netgraft_linux::sock_diag::Observer;
use netgraft_plugin::registry::Factory;
use netgraft_plugin::{InterfaceName, LinkConfig, NetworkType, PluginStack, StackConfig, StackInfo};

use crate::allow::{self, Origin};
use crate::datagrams::Datagrams;
use crate::error::RunError;
use crate::join::Join;
use crate::publish::Publish;
use crate::spec::{Ask, NetworkSpec};

/// The name that the built-in TCP/IP stack is registered by.
pub const SMOLTCP: &str = "smoltcp";
/// The name that the stack of host sockets is registered by.
pub const HOST: &str = "host";

/// A stack that was chosen.
pub(crate) struct Choice {
    /// Makes it.
    pub(crate) factory: Arc<Factory>,
    /// The shared object that it comes from.
    pub(crate) object: Option<Arc<Loaded>>,
}

/// Finds the stack that a network means, and checks that the options go together.
pub(crate) fn choose(spec: &NetworkSpec) -> Result<Choice, RunError> {
    let NetworkSpec { kind: network, plugin, config, stacks, veth, publish, ask, .. } = spec;
    let (network, veth) = (*network, veth.as_ref());
    check_link(network, config, veth, (publish, ask.is_some() || spec.take_address))?;
    if ask.is_some() && !needs_address(&config.link) && !matches!(config.link, LinkConfig::Passt(_)) {
        return Err(RunError::Options(
            "--address dhcp and --address auto need a --link to ask: tap:NAME or packet:IFACE".to_owned(),
        ));
    }
    let name = match (network, plugin.as_deref()) {
        (NetworkType::Plugin, Some(path)) if is_path(path) => {
            check_neighbours(config, false)?;
            check_datagrams(spec, false)?;
            let object = Arc::new(load(Path::new(path), spec.trust_pre_init)?);
            check_veth(veth, (object.level() == Level::Zero).then_some(path), config)?;
            if let (Some(name), Level::Zero, false) = (veth, object.level(), spec.trust_pre_init) {
                return Err(RunError::Options(format!(
                    "a level 0 stack opens its link itself, with your rights: --link veth:{name} needs \
                     --trust-pre-init, if you trust {path} with them"
                )));
            }
            return Ok(Choice { factory: object.factory(), object: Some(object) });
        }
        (NetworkType::Plugin, Some(name)) => name,
        (NetworkType::Plugin, None) => {
            return Err(RunError::Options(
                "--network plugin needs --plugin NAME or ./FILE.so; 'netgraft stacks' lists the names"
                    .to_owned(),
            ));
        }
        (_, Some(_)) => {
            return Err(RunError::Options(format!(
                "--plugin goes with --network plugin, not with --network {network}"
            )));
        }
        (NetworkType::Host, None) => HOST,
        _ => SMOLTCP,
    };
    check_veth(veth, None, config)?;
    check_neighbours(config, name == SMOLTCP)?;
    check_datagrams(spec, name == SMOLTCP)?;
    if config.argument.is_some() && name == HOST {
        return Err(RunError::Options(format!("the stack {name} takes no --plugin-arg: leave it out")));
    }
    Ok(Choice { factory: stacks.get(name)?, object: None })
}

/// Reads a shared object and looks at it in a child process without rights, behind the sentry's allow-list.
///
/// # Errors
/// One line for the operator, with the object's name.
pub fn load(path: &Path, trust_pre_init: bool) -> Result<Loaded, LoadError> {
    netgraft_abi::load(path, &Care { base: allow::rules(Origin::Foreign, &[]), trust_pre_init })
}

/// Only the built-in stack can leave datagrams to the kernel, and only where connections are joined.
fn check_datagrams(spec: &NetworkSpec, can: bool) -> Result<(), RunError> {
    let text = match (spec.datagrams, spec.join) {
        (Datagrams::Kernel, _) if !can || spec.kind == NetworkType::Plugin => {
            "--datagrams kernel is for the built-in stack: leave it out, or use --network sandbox"
        }
        (Datagrams::Kernel, _) if spec.policy.is_some() => {
            "--allow, --deny and --policy are kept on the stack's datagram sockets only: leave --datagrams kernel out"
        }
        (Datagrams::Kernel, _) if spec.flows.is_some() => {
            "--flows and --learn see the stack's datagram sockets only: leave --datagrams kernel out"
        }
        (Datagrams::Kernel, Join::Never) => {
            "with --join never the stack carries all datagrams: leave --datagrams kernel out"
        }
        _ => return Ok(()),
    };
    Err(RunError::Options(text.to_owned()))
}

/// Only the built-in stack takes static neighbours.
fn check_neighbours(config: &StackConfig, can: bool) -> Result<(), RunError> {
    if can || config.neighbours.is_empty() {
        return Ok(());
    }
    Err(RunError::Options(
        "--neighbour is for the built-in stack on a link: leave it out, or use --network sandbox".to_owned(),
    ))
}

/// A veth pair is for objects of level 0, which look for their interface and its IPv4 addresses themselves; others are
/// given theirs.
fn check_veth(
    veth: Option<&InterfaceName>,
    level_0: Option<&str>,
    config: &StackConfig,
) -> Result<(), RunError> {
    let Some(name) = veth else { return Ok(()) };
    let of_ipv4 = config.addresses.iter().all(|cidr| cidr.addr().is_ipv4())
        && config.gateways.iter().all(|gateway| gateway.is_ipv4());
    match level_0 {
        None => Err(RunError::Options(format!(
            "--link veth:{name} is for level 0 stacks: use --link tap:{name} or packet:IFACE"
        ))),
        Some(object) if config.addresses.is_empty() || config.gateways.is_empty() || !of_ipv4 => {
            Err(RunError::Options(format!(
                "the level 0 stack {object} needs an --address and a --gateway for its link, of IPv4"
            )))
        }
        Some(_) => Ok(()),
    }
}

/// Whether a stack can have the link and the wrappers that it is to have; `is_object` says that it comes from a shared
/// object, whose loopback is its own.
pub(crate) fn check_wrappers(
    config: &StackConfig,
    info: &StackInfo,
    is_object: bool,
    ask: Option<Ask>,
) -> Result<(), RunError> {
    let name = &info.name;
    let wrappers = &config.wrappers;
    let text = if !info.wraps_link && matches!(config.link, LinkConfig::Passt(_)) {
        format!(
            "the stack {name} opens its link itself and knows no passt: use --link tap:NAME, or --network sandbox"
        )
    } else if !info.wraps_link && ask.is_some() {
        format!(
            "the stack {name} opens its link itself, so --address dhcp and --address auto are not for it: give it an \
             --address, or use --network sandbox"
        )
    } else if !info.wraps_link && !wrappers.is_none() {
        format!(
            "the stack {name} opens its link itself, so --pcap, --mtu, --vlan, --link-delay, --link-loss and the like have no \
             effect on it: leave them out, or use --network sandbox"
        )
    } else if is_object && config.link == LinkConfig::None && wrappers.capture.is_some() {
        format!(
            "the stack {name} has no link to record, and its loopback is its own: --pcap needs --link tap:NAME or \
             packet:IFACE"
        )
    } else {
        return Ok(());
    };
    Err(RunError::Options(text))
}

/// Whether a stack is named by its file: no registered name has a slash or a dot.
#[must_use]
pub fn is_path(plugin: &str) -> bool {
    plugin.contains(['/', '.'])
}

fn check_link(
    network: NetworkType,
    config: &StackConfig,
    veth: Option<&InterfaceName>,
    (publish, asked): (&[Publish], bool),
) -> Result<(), RunError> {
    let of_ipv4 = config.gateways.iter().filter(|gateway| gateway.is_ipv4()).count();
    for (family, count) in [("IPv4", of_ipv4), ("IPv6", config.gateways.len() - of_ipv4)] {
        if count > 1 {
            return Err(RunError::Options(format!(
                "--gateway is given {count} times for {family}: a stack has one default gateway of each family"
            )));
        }
    }
    if !publish.is_empty() && !matches!(config.link, LinkConfig::Passt(_)) {
        return Err(RunError::Options(
            "--publish goes with --link passt, which forwards the port".to_owned(),
        ));
    }
    if config.wrappers.vlan.is_some() && !matches!(config.link, LinkConfig::Tap(_) | LinkConfig::Packet(_)) {
        return Err(RunError::Options("--vlan goes with --link tap:NAME or packet:IFACE".to_owned()));
    }
    let linked = config.link != LinkConfig::None || veth.is_some();
    let addressed =
        !config.addresses.is_empty() || !config.gateways.is_empty() || !config.neighbours.is_empty();
    if !linked && (!config.wrappers.faults.is_none() || config.wrappers.changeable) {
        return Err(RunError::Options(
            "--link-delay, --link-loss and the like are faults of a link: give a --link, passt, tap:NAME or packet:IFACE"
                .to_owned(),
        ));
    }
    let text = match network {
        NetworkType::None if linked || addressed => {
            "--network none has a loopback only: leave --link, --address, --gateway and --neighbour out, or use \
             --network sandbox"
        }
        NetworkType::Host if linked || addressed => {
            "--network host uses the host's interfaces: leave --link, --address, --gateway and --neighbour out, or use \
             --network sandbox"
        }
        NetworkType::Sandbox if config.addresses.is_empty() && !asked && needs_address(&config.link) => {
            return Err(RunError::Options(format!(
                "the stack has no address on --link {}: give an --address, such as 192.0.2.2/24, and a --gateway, ask for \
                 them with --address auto, or take those of an interface with --take-address",
                config.link
            )));
        }
        NetworkType::Sandbox if addressed && !linked => {
            "--address, --gateway and --neighbour need a --link: passt, tap:NAME or packet:IFACE"
        }
        _ => return Ok(()),
    };
    Err(RunError::Options(text.to_owned()))
}

/// What stands behind the programs' internet sockets. On the built-in stack datagram sockets are the kernel's of the programs' own
/// network namespace: where nothing can be reached but the loopback it carries them as well as a stack, and where the stack has a link
/// they pass over a private one.
pub(super) fn sockets(network: &NetworkSpec, stack: &dyn PluginStack) -> Sockets {
    // Rules about what stays in the sandbox are the sentry's to keep.
    let rules = network.policy.clone().map(Policy::new);
    let is_ruled = rules.is_some_and(|policy| policy.concerns_loopback_datagrams());
    let is_own = match network.kind {
        NetworkType::None | NetworkType::Sandbox => true,
        // An object may have a link that only it knows of.
        _ => false,
    };
    let can_be_the_kernels = || match (network.datagrams, network.config.link != LinkConfig::None) {
        (Datagrams::Stack, _) => false,
        (Datagrams::Auto | Datagrams::Kernel, false) => !is_ruled,
        (Datagrams::Auto, true) => network.policy.is_none() && can_observe(),
        // What it lacks is said when it is made.
        (Datagrams::Kernel, true) => true,
    };
    if stack.offers_host_fds() {
        Sockets::Host
    } else if is_own && network.join == Join::Always && network.flows.is_none() && can_be_the_kernels() {
        Sockets::StreamSurrogates
    } else {
        Sockets::Surrogates
    }
}

/// Whether the host's sockets stay behind surrogates: somebody is to look at what they carry, and a program that holds them could
/// have the kernel do anything with them.
pub(super) fn keeps_sockets(network: &NetworkSpec) -> bool {
    network.kind == NetworkType::Host && (network.policy.is_some() || network.flows.is_some())
}

/// Whether the kernel says which datagram sockets there are, which a private link needs.
fn can_observe() -> bool {
    let probed = Observer::probe();
    if let Err(error) = &probed {
        tracing::info!(
            "datagram sockets are the stack's, since this kernel does not list its own ({error}): load its module udp_diag"
        );
    }
    probed.is_ok()
}

/// Whether datagrams pass between the kernel and the sentry over private links.
pub(super) fn is_private(network: &NetworkSpec, sockets: Sockets) -> bool {
    sockets == Sockets::StreamSurrogates && network.config.link != LinkConfig::None
}

/// Whether nothing on a link says which addresses a stack has.
fn needs_address(link: &LinkConfig) -> bool {
    matches!(link, LinkConfig::Tap(_) | LinkConfig::Packet(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(network: NetworkType, plugin: Option<&str>, config: &StackConfig) -> String {
        let plugin = plugin.map(str::to_owned);
        let spec = NetworkSpec { kind: network, plugin, config: config.clone(), ..NetworkSpec::default() };
        choose(&spec).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn options_that_do_not_go_together_are_told() {
        let bare = StackConfig::default();
        let linked = StackConfig { link: LinkConfig::tap("t0".parse().unwrap()), ..StackConfig::default() };
        let addressed =
            StackConfig { addresses: vec!["192.0.2.1/24".parse().unwrap()], ..StackConfig::default() };
        assert!(text(NetworkType::Plugin, None, &bare).contains("--plugin NAME"));
        assert!(text(NetworkType::Host, Some("x"), &bare).contains("not with --network host"));
        for config in [&linked, &addressed] {
            assert!(text(NetworkType::None, None, config).contains("loopback only"));
            assert!(text(NetworkType::Host, None, config).contains("host's interfaces"));
        }
        assert!(text(NetworkType::Sandbox, None, &addressed).contains("need a --link"));
        assert!(
            text(NetworkType::Sandbox, None, &linked)
                .contains("no address on --link tap:t0: give an --address")
        );
        let spec = NetworkSpec { publish: vec!["80".parse().unwrap()], ..NetworkSpec::default() };
        assert!(choose(&spec).err().unwrap().to_string().starts_with("--publish goes with --link passt"));
        let neighbours = vec!["192.0.2.9=02:00:00:00:00:09".parse().unwrap()];
        let named = StackConfig { neighbours, ..linked.clone() };
        assert!(text(NetworkType::Plugin, Some("./none.so"), &named).contains("--neighbour is for"));
        assert!(text(NetworkType::Host, None, &named).contains("host's interfaces"));
        let datagrams = |kind, join| {
            let spec = NetworkSpec { kind, join, datagrams: Datagrams::Kernel, ..NetworkSpec::default() };
            choose(&spec).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(
            datagrams(NetworkType::Host, Join::Always).contains("--datagrams kernel is for the built-in")
        );
        assert!(datagrams(NetworkType::Sandbox, Join::Never).contains("leave --datagrams kernel out"));
        let veth = Some("t0".parse().unwrap());
        let pair = |kind| {
            choose(&NetworkSpec { kind, veth: veth.clone(), ..NetworkSpec::default() })
                .err()
                .unwrap()
                .to_string()
        };
        assert!(pair(NetworkType::Sandbox).contains("use --link tap:t0 or packet:IFACE"));
        assert!(pair(NetworkType::None).contains("loopback only"));
        assert!(text(NetworkType::Plugin, Some("none-such"), &linked).contains("no stack is named"));
        for gateways in [["192.0.2.1", "192.0.2.9"], ["2001:db8::1", "fe80::1"]] {
            let gateways = gateways.iter().map(|gateway| gateway.parse().unwrap()).collect();
            let several = StackConfig { gateways, ..linked.clone() };
            for network in [NetworkType::Sandbox, NetworkType::Plugin] {
                let plugin = (network == NetworkType::Plugin).then_some("none-such");
                assert!(text(network, plugin, &several).contains("one default gateway"));
            }
        }
        let wrappers = netgraft_plugin::Wrappers::of_faults(
            netgraft_plugin::faults::LinkFaults::both("loss=1%".parse().unwrap()),
            1,
        );
        let faulty = StackConfig { wrappers, ..StackConfig::default() };
        assert!(text(NetworkType::Sandbox, None, &faulty).contains("give a --link"));
        let info = |wraps_link| StackInfo { name: "own".into(), wraps_link, ..StackInfo::default() };
        let check = |config: &StackConfig, wraps_link, is_object| {
            check_wrappers(config, &info(wraps_link), is_object, None).err().map(|error| error.to_string())
        };
        assert_eq!((check(&faulty, true, false), check(&bare, false, true)), (None, None));
        let refused = check(&faulty, false, true).unwrap();
        assert!(refused.starts_with("the stack own opens its link itself"), "{refused}");
        let passt = StackConfig { link: LinkConfig::passt(None), ..StackConfig::default() };
        assert_eq!((check(&passt, true, true), check(&passt, false, true).is_some()), (None, true));
        let mut captured = bare.clone();
        captured.wrappers.capture = Some(netgraft_plugin::config::CaptureConfig { snap: 0, epoch: 0 });
        let refused = check(&captured, true, true).unwrap();
        assert!(refused.contains("--pcap needs --link tap:NAME"), "{refused}");
        captured.link = linked.link.clone();
        assert_eq!(check(&captured, true, true), None);
        let refused = check_wrappers(&bare, &info(false), true, Some(Ask::Auto)).err().unwrap().to_string();
        assert!(refused.contains("--address auto are not for it"), "{refused}");
        let spec = NetworkSpec { ask: Some(Ask::Auto), ..NetworkSpec::default() };
        assert!(choose(&spec).err().unwrap().to_string().contains("need a --link to ask"));
        let argued = StackConfig { argument: Some("x".into()), ..StackConfig::default() };
        assert!(text(NetworkType::Host, None, &argued).contains("no --plugin-arg"));
    }
}

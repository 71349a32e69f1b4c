//! Which stack a network type means.

use std::path::Path;
use std::sync::Arc;

use netgraft_abi::{Care, Level, LoadError, Loaded};
use netgraft_plugin::registry::Factory;
use netgraft_plugin::{LinkConfig, NetworkType, StackConfig};

use crate::allow;
use crate::error::RunError;
use crate::spec::NetworkSpec;

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
    let NetworkSpec { kind: network, plugin, config, stacks, .. } = spec;
    let network = *network;
    let name = match (network, plugin.as_deref()) {
        (NetworkType::Plugin, Some(path)) if is_path(path) => {
            check_link(network, config)?;
            let object = Arc::new(load(Path::new(path), spec.trust_pre_init)?);
            match (object.level(), &config.link) {
                (Level::Zero, LinkConfig::Veth(name)) if !spec.trust_pre_init => {
                    return Err(RunError::Options(format!(
                        "a level 0 stack opens its link itself, with your rights: --link veth:{name} needs \
                         --trust-pre-init, if you trust {path} with them"
                    )));
                }
                (Level::Zero, _) => {}
                _ => refuse_veth(config)?,
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
    check_link(network, config)?;
    refuse_veth(config)?;
    if config.argument.is_some() && [HOST, SMOLTCP].contains(&name) {
        return Err(RunError::Options(format!("the stack {name} takes no --plugin-arg: leave it out")));
    }
    Ok(Choice { factory: stacks.get(name)?, object: None })
}

/// Reads a shared object and looks at it in a child process without rights, behind the sentry's allow-list.
///
/// # Errors
/// One line for the operator, with the object's name.
pub fn load(path: &Path, trust_pre_init: bool) -> Result<Loaded, LoadError> {
    netgraft_abi::load(path, &Care { base: allow::rules(&[]), trust_pre_init })
}

/// A veth pair is for objects that look for their interface themselves; others are given theirs.
fn refuse_veth(config: &StackConfig) -> Result<(), RunError> {
    match &config.link {
        LinkConfig::Veth(name) => Err(RunError::Options(format!(
            "--link veth:{name} is for level 0 stacks: use --link tap:{name} or packet:IFACE"
        ))),
        _ => Ok(()),
    }
}

/// Whether a stack is named by its file: no registered name has a slash or a dot.
#[must_use]
pub fn is_path(plugin: &str) -> bool {
    plugin.contains(['/', '.'])
}

fn check_link(network: NetworkType, config: &StackConfig) -> Result<(), RunError> {
    let of_ipv4 = config.gateways.iter().filter(|gateway| gateway.is_ipv4()).count();
    for (family, count) in [("IPv4", of_ipv4), ("IPv6", config.gateways.len() - of_ipv4)] {
        if count > 1 {
            return Err(RunError::Options(format!(
                "--gateway is given {count} times for {family}: a stack has one default gateway of each family"
            )));
        }
    }
    let linked = config.link != LinkConfig::None;
    let addressed = !config.addresses.is_empty() || !config.gateways.is_empty();
    let text = match network {
        NetworkType::None if linked || addressed => {
            "--network none has a loopback only: leave --link, --address and --gateway out, or use --network \
             sandbox"
        }
        NetworkType::Host if linked || addressed => {
            "--network host uses the host's interfaces: leave --link, --address and --gateway out, or use \
             --network sandbox"
        }
        NetworkType::Sandbox if addressed && !linked => {
            "--address and --gateway need a --link: tap:NAME or packet:IFACE"
        }
        _ => return Ok(()),
    };
    Err(RunError::Options(text.to_owned()))
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
        let linked = StackConfig { link: LinkConfig::Tap("t0".into()), ..StackConfig::default() };
        let addressed =
            StackConfig { addresses: vec!["192.0.2.1/24".parse().unwrap()], ..StackConfig::default() };
        assert!(text(NetworkType::Plugin, None, &bare).contains("--plugin NAME"));
        assert!(text(NetworkType::Host, Some("x"), &bare).contains("not with --network host"));
        for config in [&linked, &addressed] {
            assert!(text(NetworkType::None, None, config).contains("loopback only"));
            assert!(text(NetworkType::Host, None, config).contains("host's interfaces"));
        }
        assert!(text(NetworkType::Sandbox, None, &addressed).contains("need a --link"));
        let pair = StackConfig { link: LinkConfig::Veth("t0".into()), ..StackConfig::default() };
        assert!(text(NetworkType::Sandbox, None, &pair).contains("use --link tap:t0 or packet:IFACE"));
        assert!(text(NetworkType::Plugin, Some("none-such"), &linked).contains("no stack is named"));
        for gateways in [["192.0.2.1", "192.0.2.9"], ["2001:db8::1", "fe80::1"]] {
            let gateways = gateways.iter().map(|gateway| gateway.parse().unwrap()).collect();
            let several = StackConfig { gateways, ..linked.clone() };
            for network in [NetworkType::Sandbox, NetworkType::Plugin] {
                let plugin = (network == NetworkType::Plugin).then_some("none-such");
                assert!(text(network, plugin, &several).contains("one default gateway"));
            }
        }
        let argued = StackConfig { argument: Some("x".into()), ..StackConfig::default() };
        assert!(text(NetworkType::Sandbox, None, &argued).contains("no --plugin-arg"));
    }
}

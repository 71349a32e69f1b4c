//! What is said of a sandbox without a link.

use netgraft::NetworkSpec;
use netgraft_launch::stacks::SMOLTCP;
use netgraft_plugin::{LinkConfig, NetworkType};

/// What gives a network an uplink, if it could have one and has none.
pub(crate) fn remedy(network: &NetworkSpec) -> Option<&'static str> {
    // A stack of another's may bring a link of its own.
    let is_built_in = match network.kind {
        NetworkType::Sandbox => true,
        NetworkType::Plugin => network.plugin.as_deref() == Some(SMOLTCP),
        _ => false,
    };
    if !is_built_in || network.config.link != LinkConfig::None || network.veth.is_some() {
        return None;
    }
    Some(if has_passt() {
        "--link passt gives it one"
    } else {
        "install the package passt, and --link passt gives it one"
    })
}

/// Whether passt is where programs are looked for.
pub(crate) fn has_passt() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("passt").is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sandbox_that_could_have_an_uplink_lacks_one() {
        let sandbox = NetworkSpec::new(NetworkType::Sandbox);
        assert!(remedy(&sandbox).is_some_and(|text| text.contains("--link passt gives it one")));
        let mut linked = sandbox.clone();
        linked.config.link = LinkConfig::passt(None);
        let mut named = NetworkSpec::new(NetworkType::Plugin);
        named.plugin = Some("smoltcp".to_owned());
        assert_eq!(remedy(&named), remedy(&sandbox));
        named.plugin = Some("./libfoo.so".to_owned());
        for other in [linked, named, NetworkSpec::new(NetworkType::None), NetworkSpec::new(NetworkType::Host)]
        {
            assert_eq!(remedy(&other), None);
        }
    }
}

//! What is said of a sandbox without a link.

use netgraft::NetworkSpec;
use netgraft_plugin::{LinkConfig, NetworkType};

/// What gives a network an uplink, if it could have one and has none.
pub(crate) fn remedy(network: &NetworkSpec) -> Option<&'static str> {
    if network.kind != NetworkType::Sandbox
        || network.config.link != LinkConfig::None
        || network.veth.is_some()
    {
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
        for other in [linked, NetworkSpec::new(NetworkType::None), NetworkSpec::new(NetworkType::Host)] {
            assert_eq!(remedy(&other), None);
        }
    }
}

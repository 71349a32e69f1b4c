//! A container's bundle: its configuration, and a shadow of it for the runtime.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Which network namespace a container is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// One that the runtime makes.
    New,
    /// One that is there: its number, and a file that stands for it.
    There(u64, PathBuf),
}

/// Reads the configuration of a bundle.
pub(crate) fn read(bundle: &Path) -> Result<Value, String> {
    let path = bundle.join("config.json");
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(&path).map_err(|error| told(&error))?;
    let config: Value = serde_json::from_str(&text).map_err(|error| told(&error))?;
    if config.is_object() { Ok(config) } else { Err(told(&"it is no configuration of a container")) }
}

/// Finds the container's network namespace.
pub(crate) fn network_namespace(config: &Value) -> Result<Network, String> {
    let namespaces = config["linux"]["namespaces"].as_array().map_or(&[][..], Vec::as_slice);
    let of_host = "the container is in the host's network namespace, where netgraft serves no containers: \
                   give it another network, or use another runtime for it";
    let network = namespaces.iter().find(|namespace| namespace["type"] == "network").ok_or(of_host)?;
    let path = match network["path"].as_str() {
        None | Some("") => return Ok(Network::New),
        Some(path) => path,
    };
    let number = |path: &str| fs::metadata(path).map(|found| found.ino()).map_err(|e| format!("{path}: {e}"));
    let there = number(path)?;
    if there == number("/proc/self/ns/net")? {
        return Err(of_host.to_owned());
    }
    Ok(Network::There(there, path.into()))
}

/// Writes a bundle with another configuration into the sandbox's folder; everything else leads to the first. The sandbox
/// removes it with its folder, and whoever makes a container of this name again replaces it.
pub(crate) fn write(bundle: &Path, mut config: Value, folder: &Path, id: &str) -> Result<PathBuf, String> {
    let told = |what: &Path, error: io::Error| format!("{}: {error}", what.display());
    let bundle = fs::canonicalize(bundle).map_err(|error| told(bundle, error))?;
    // The runtime takes no link for a root directory.
    let root = bundle.join(config["root"]["path"].as_str().unwrap_or("rootfs"));
    let root = fs::canonicalize(&root).map_err(|error| told(&root, error))?;
    config["root"]["path"] = Value::from(root.to_string_lossy());
    let shadow = folder.join("bundles").join(id);
    let _ = fs::remove_dir_all(&shadow);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&shadow);
    made.map_err(|error| told(&shadow, error))?;
    let entries = fs::read_dir(&bundle).map_err(|error| told(&bundle, error))?;
    for entry in entries.flatten().filter(|entry| entry.file_name() != "config.json") {
        let link = shadow.join(entry.file_name());
        symlink(entry.path(), &link).map_err(|error| told(&link, error))?;
    }
    let path = shadow.join("config.json");
    fs::write(&path, config.to_string()).map_err(|error| told(&path, error))?;
    Ok(shadow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(namespaces: Value) -> Value {
        json!({ "linux": { "namespaces": namespaces } })
    }

    #[test]
    fn the_hosts_network_is_refused_however_it_is_named() {
        assert_eq!(network_namespace(&with(json!([{ "type": "network" }]))), Ok(Network::New));
        let by_path = |path: &str| network_namespace(&with(json!([{ "type": "network", "path": path }])));
        assert!(by_path("/proc/self/ns/net").unwrap_err().contains("host's network"));
        assert!(network_namespace(&with(json!([{ "type": "pid" }]))).unwrap_err().contains("host's network"));
        assert!(by_path("/proc/self/ns/nothing").unwrap_err().contains("/ns/nothing"));
        assert!(matches!(by_path("/proc/self/ns/user"), Ok(Network::There(..))));
    }

    #[test]
    fn a_shadow_leads_to_all_that_the_bundle_has() {
        let folder = std::env::temp_dir().join(format!("netgraft-oci-{}", std::process::id()));
        let bundle = folder.join("bundle");
        fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
        fs::write(bundle.join("config.json"), "{}").unwrap();
        fs::write(bundle.join("hosts"), "one").unwrap();
        let config = json!({ "root": { "path": "rootfs" }, "hostname": "other" });
        for _ in 0..2 {
            let shadow = write(&bundle, config.clone(), &folder, "web").unwrap();
            assert_eq!(fs::read_to_string(shadow.join("hosts")).unwrap(), "one");
            let written = read(&shadow).unwrap();
            assert_eq!(written["hostname"], "other");
            assert_eq!(
                written["root"]["path"],
                fs::canonicalize(&bundle).unwrap().join("rootfs").to_str().unwrap()
            );
            assert_eq!(fs::read_to_string(bundle.join("config.json")).unwrap(), "{}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}

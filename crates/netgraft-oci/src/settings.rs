//! The options of a container's network: those of `netgraft run`, from the node's file and from the container's annotations.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

/// The node's file, unless the variable names another one.
const FILE: &str = "/etc/netgraft/oci.toml";
const FILE_VARIABLE: &str = "NETGRAFT_OCI_FILE";
/// What annotations begin with that are netgraft's.
const PREFIX: &str = "dev.netgraft.";

/// Options of `netgraft run` that containers have: each has a value.
const OPTIONS: &[&str] = &[
    "network",
    "plugin",
    "plugin-arg",
    "on-crash",
    "join",
    "datagrams",
    "allow",
    "deny",
    "policy",
    "policy-default",
    "deny-with",
    "allow-syscall",
    "max-sockets",
    "max-process-sockets",
    "max-memory",
];

/// What the node's file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The real runtime.
    pub(crate) runtime: Option<OsString>,
    options: Vec<(String, String)>,
    /// The options that containers may set.
    annotations: Vec<String>,
}

/// Options that lead to nothing which a container has not by default, so that it may set them unless the node has: an image's
/// annotations become those of its containers (Podman), and who has made it is not trusted.
const HARMLESS: &[&str] = &["join", "datagrams", "on-crash"];
/// Likewise, of the option `network`.
const HARMLESS_NETWORKS: &[&str] = &["none", "sandbox"];

impl Settings {
    /// Reads the node's file, if there is one.
    pub(crate) fn of_node() -> Result<Settings, String> {
        let other = std::env::var_os(FILE_VARIABLE);
        let file = other.as_deref().map_or(Path::new(FILE), Path::new);
        match fs::read_to_string(file) {
            Ok(text) => parse(&text).map_err(|error| format!("{}: {error}", file.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound && other.is_none() => {
                Ok(Settings::default())
            }
            Err(error) => Err(format!("{}: {error}", file.display())),
        }
    }

    /// Whether a container may set an option to a value.
    fn may_set(&self, name: &str, value: &str) -> bool {
        let is_open = self.options.iter().all(|(other, _)| other != name);
        let is_harmless =
            HARMLESS.contains(&name) || (name == "network" && HARMLESS_NETWORKS.contains(&value));
        self.annotations.iter().any(|listed| listed == name) || (is_open && is_harmless)
    }

    /// The options of a container, as arguments: an annotation that the node permits stands in the place of what the file says of
    /// the same.
    pub(crate) fn options(&self, config: &Value) -> Result<Vec<OsString>, String> {
        let mut own: Vec<(String, String)> = Vec::new();
        for (key, value) in config["annotations"].as_object().into_iter().flatten() {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            let value = value.as_str().ok_or_else(|| format!("annotation {key}: it is no text"))?;
            known(name).map_err(|error| format!("annotation {key}: {error}"))?;
            if !self.may_set(name, value) {
                return Err(format!(
                    "annotation {key}: containers may not set it here, nor may their images: list it in {FILE}, annotations = \
                     [\"{name}\"]"
                ));
            }
            // Several values of an option that can be repeated, each on a line of its own.
            own.extend(value.lines().map(|line| (name.to_owned(), line.to_owned())));
        }
        let of_file = self.options.iter().filter(|(name, _)| own.iter().all(|(other, _)| other != name));
        Ok(of_file.chain(&own).map(|(name, value)| OsString::from(format!("--{name}={value}"))).collect())
    }
}

fn known(name: &str) -> Result<(), String> {
    if OPTIONS.contains(&name) {
        return Ok(());
    }
    Err(format!("containers have no option '{name}': there are {}", OPTIONS.join(", ")))
}

fn parse(text: &str) -> Result<Settings, String> {
    // One line: the engine shows no more.
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| error.message().replace('\n', " "))?;
    let mut settings = Settings::default();
    for (name, value) in table {
        if name == "runtime" {
            let path = value.as_str().ok_or("runtime: it is no text")?;
            settings.runtime = Some(path.into());
            continue;
        }
        let values = match value {
            toml::Value::Array(values) => values,
            value => vec![value],
        };
        if name == "annotations" {
            for value in values {
                let option = value.as_str().ok_or("annotations: they are no texts")?;
                known(option).map_err(|error| format!("annotations: {error}"))?;
                settings.annotations.push(option.to_owned());
            }
            continue;
        }
        known(&name)?;
        for value in values {
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                _ => return Err(format!("{name}: it is no text and no number")),
            };
            settings.options.push((name.clone(), value));
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_annotation_stands_in_the_place_of_the_files_option() {
        let settings = parse(
            "runtime = \"/usr/sbin/runc\"\nnetwork = \"host\"\nmax-sockets = 10\ndeny = [\"a\", \"b\"]\n\
             annotations = [\"network\", \"deny\"]",
        )
        .unwrap();
        assert_eq!(settings.runtime.as_deref(), Some("/usr/sbin/runc".as_ref()));
        let config = json!({ "annotations": { "dev.netgraft.network": "sandbox", "other": "x" } });
        let mut options = settings.options(&config).unwrap();
        options.sort();
        assert_eq!(options, ["--deny=a", "--deny=b", "--max-sockets=10", "--network=sandbox"]);
        let config = json!({ "annotations": { "dev.netgraft.deny": "c\nd" } });
        assert!(settings.options(&config).unwrap().ends_with(&["--deny=c".into(), "--deny=d".into()]));
    }

    #[test]
    fn a_container_sets_what_the_node_permits() {
        let may = |file: &str, name: &str, value: &str| {
            let config = json!({ "annotations": { format!("dev.netgraft.{name}"): value } });
            parse(file).unwrap().options(&config).map(drop)
        };
        for (name, value) in [("join", "never"), ("network", "none"), ("network", "sandbox")] {
            assert_eq!(may("", name, value), Ok(()));
        }
        for (name, value) in [
            ("network", "host"),
            ("network", "plugin"),
            ("plugin", "/x.so"),
            ("allow", "out any any"),
            ("policy-default", "allow"),
            ("allow-syscall", "ptrace"),
            ("max-memory", "9999"),
        ] {
            let error = may("", name, value).unwrap_err();
            assert!(error.contains("may not set it") && !error.contains('\n'), "{error}");
            assert_eq!(may(&format!("annotations = [\"{name}\"]"), name, value), Ok(()));
        }
        // What the node has set stands.
        assert!(may("network = \"none\"", "network", "sandbox").is_err());
        assert!(parse("annotations = [\"x\"]").is_err() && parse("annotations = [1]").is_err());
    }

    #[test]
    fn what_is_wrong_is_named_in_one_line() {
        let config = json!({ "annotations": { "dev.netgraft.netwrok": "host" } });
        let error = Settings::default().options(&config).unwrap_err();
        assert!(
            error.starts_with("annotation dev.netgraft.netwrok: containers have no option 'netwrok'"),
            "{error}"
        );
        for text in ["netwrok = 1", "network = true", "runtime = 5", "network ="] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}

//! The options of a container's network: those of `netgraft run`, from the node's file and from the container's annotations.

use std::ffi::OsString;
use std::fs;
use std::io;

use serde_json::Value;

/// The node's file.
const FILE: &str = "/etc/netgraft/oci.toml";
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
}

impl Settings {
    /// Reads the node's file, if there is one.
    pub(crate) fn of_node() -> Result<Settings, String> {
        match fs::read_to_string(FILE) {
            Ok(text) => parse(&text).map_err(|error| format!("{FILE}: {error}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Settings::default()),
            Err(error) => Err(format!("{FILE}: {error}")),
        }
    }

    /// The options of a container, as arguments: an annotation stands in the place of what the file says of the same.
    pub(crate) fn options(&self, config: &Value) -> Result<Vec<OsString>, String> {
        let mut own: Vec<(String, String)> = Vec::new();
        for (key, value) in config["annotations"].as_object().into_iter().flatten() {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            let value = value.as_str().ok_or_else(|| format!("annotation {key}: it is no text"))?;
            known(name).map_err(|error| format!("annotation {key}: {error}"))?;
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
        known(&name)?;
        let values = match value {
            toml::Value::Array(values) => values,
            value => vec![value],
        };
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
            "runtime = \"/usr/sbin/runc\"\nnetwork = \"host\"\nmax-sockets = 10\ndeny = [\"a\", \"b\"]",
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

//! The networks that are compared, and the command that runs something on one of them.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use crate::error::{Doing, Error, Result};

/// One side of a comparison: the kernel, or `netgraft run` with a network type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Without netgraft.
    Native,
    /// `--network none`
    None,
    /// `--network host`
    Host,
    /// `--network sandbox`
    Sandbox,
    /// `--network plugin --plugin NAME`
    Plugin(String),
    /// The kernel's sockets in a network namespace behind pasta(1), as an ordinary user: the other program of passt's.
    Pasta,
}

impl FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "native" => Ok(Self::Native),
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            "sandbox" => Ok(Self::Sandbox),
            "pasta" => Ok(Self::Pasta),
            _ => match text.strip_prefix("plugin:") {
                Some(name) if !name.is_empty() => Ok(Self::Plugin(name.to_owned())),
                _ => Err("expected native, none, host, sandbox, pasta or plugin:NAME".to_owned()),
            },
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => formatter.write_str("native"),
            Self::None => formatter.write_str("none"),
            Self::Host => formatter.write_str("host"),
            Self::Sandbox => formatter.write_str("sandbox"),
            Self::Pasta => formatter.write_str("pasta"),
            Self::Plugin(name) => write!(formatter, "plugin:{name}"),
        }
    }
}

impl Side {
    /// Whether the side has a stack that takes a link and an address.
    pub(crate) fn takes_a_link(&self) -> bool {
        match self {
            Self::Sandbox | Self::Plugin(_) => true,
            Self::Native | Self::None | Self::Host | Self::Pasta => false,
        }
    }

    /// The options of `netgraft run` that choose this network; `None` without netgraft.
    fn options(&self) -> Option<Vec<&str>> {
        match self {
            Self::Native | Self::Pasta => None,
            Self::None => Some(vec!["--network", "none"]),
            Self::Host => Some(vec!["--network", "host"]),
            Self::Sandbox => Some(vec!["--network", "sandbox"]),
            Self::Plugin(name) => Some(vec!["--network", "plugin", "--plugin", name]),
        }
    }
}

/// pasta as nobody: as root it would change users by itself, and then not start the program.
const PASTA: [&str; 9] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "pasta",
    "--config-net",
    "--quiet",
    "--no-map-gw",
    "--",
];

/// Makes the command lines of a comparison.
#[derive(Clone, Debug)]
pub(crate) struct Runner {
    /// This program.
    pub(crate) bench: PathBuf,
    /// The `netgraft` command; absent when only `native` is asked for.
    pub(crate) netgraft: Option<PathBuf>,
}

impl Runner {
    /// Finds this program and, if one of the sides needs it, `netgraft`: the path that was given, else
    /// the environment variable NETGRAFT_BIN, else the file beside this program.
    pub(crate) fn find(sides: &[Side], given: Option<PathBuf>) -> Result<Self> {
        let bench = std::env::current_exe().doing(|| "finding this program's own file")?;
        if sides.iter().all(|side| matches!(side, Side::Native | Side::Pasta)) {
            return Ok(Self { bench, netgraft: None });
        }
        let named = given.or_else(|| std::env::var_os("NETGRAFT_BIN").map(PathBuf::from));
        let path = named.unwrap_or_else(|| bench.with_file_name("netgraft"));
        if !path.is_file() {
            let path = path.display();
            return Err(Error::Failed(format!(
                "there is no netgraft at {path}: build it beside this program, or say where it is with \
                 --netgraft PATH or NETGRAFT_BIN"
            )));
        }
        Ok(Self { bench, netgraft: Some(path) })
    }

    /// The command that runs `program` with `words` on a side, in the network namespace `namespace` if
    /// there is one, with further options for `netgraft run`.
    pub(crate) fn command(
        &self,
        side: &Side,
        namespace: Option<&str>,
        options: &[String],
        program: &Path,
        words: &[String],
    ) -> Result<Command> {
        let mut line: Vec<OsString> = Vec::new();
        if let Some(namespace) = namespace {
            line.extend(["ip", "netns", "exec", namespace].map(OsString::from));
        }
        if *side == Side::Pasta {
            line.extend(PASTA.map(OsString::from));
        }
        if let Some(chosen) = side.options() {
            let netgraft =
                self.netgraft.as_ref().ok_or_else(|| Error::Failed(format!("{side} needs netgraft")))?;
            line.push(netgraft.into());
            line.push("run".into());
            line.extend(chosen.into_iter().map(OsString::from));
            line.extend(options.iter().map(OsString::from));
            line.push("--".into());
        }
        line.push(program.into());
        line.extend(words.iter().map(OsString::from));
        let mut line = line.into_iter();
        let mut command = Command::new(line.next().unwrap_or_default());
        command.args(line);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_have_names() {
        for name in ["native", "none", "host", "sandbox", "pasta", "plugin:lwip"] {
            assert_eq!(name.parse::<Side>().unwrap().to_string(), name);
        }
        for name in ["", "Native", "plugin", "plugin:"] {
            assert!(name.parse::<Side>().is_err(), "{name}");
        }
    }

    #[test]
    fn command_lines_are_built_from_the_outside_in() {
        let runner = Runner { bench: "b".into(), netgraft: Some("netgraft".into()) };
        let words = |side: &str, namespace, options: &[&str]| {
            let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
            let side = side.parse().unwrap();
            let command =
                runner.command(&side, namespace, &options, Path::new("b"), &["pair".to_owned()]).unwrap();
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words("native", None, &["--link", "x"]), "b pair");
        assert!(
            words("pasta", Some("ns"), &[]).ends_with("pasta --config-net --quiet --no-map-gw -- b pair")
        );
        assert_eq!(words("host", None, &[]), "netgraft run --network host -- b pair");
        assert_eq!(
            words("plugin:lwip", Some("ns"), &["--link", "packet:veth"]),
            "ip netns exec ns netgraft run --network plugin --plugin lwip --link packet:veth -- b pair"
        );
    }

    #[test]
    fn native_alone_needs_no_netgraft() {
        let missing = Some(PathBuf::from("/no/such/netgraft"));
        assert!(Runner::find(&[Side::Native], missing.clone()).unwrap().netgraft.is_none());
        let error = Runner::find(&[Side::Native, Side::Host], missing).unwrap_err().to_string();
        assert!(error.starts_with("there is no netgraft at /no/such/netgraft"), "{error}");
    }
}

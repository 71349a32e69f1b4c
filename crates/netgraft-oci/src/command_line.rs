//! A runtime's command line, as far as it matters here: everything else is handed on as it is.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Invocation {
    /// The container that is to be made, by `create` or `run`.
    pub(crate) making: Option<Making>,
    /// Where the engine looks for what is wrong.
    pub(crate) log: Option<PathBuf>,
    /// Whether that is in JSON.
    pub(crate) is_json: bool,
    /// Whether a container is to be removed.
    pub(crate) is_end: bool,
    /// Whether the version is asked for.
    pub(crate) is_version: bool,
}

/// A container that is to be made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Making {
    /// Its name.
    pub(crate) id: String,
    /// Its bundle.
    pub(crate) bundle: PathBuf,
    /// Where the bundle is named among the arguments: an index, and how many there are; or where it can be put.
    place: (usize, usize),
}

impl Making {
    /// The arguments with another bundle.
    pub(crate) fn with_bundle(&self, mut args: Vec<OsString>, bundle: &Path) -> Vec<OsString> {
        let (at, count) = self.place;
        args.splice(at..at + count, ["--bundle".into(), bundle.as_os_str().to_owned()]);
        args
    }
}

/// Options with a value, before the command and behind `create` or `run` (runc(8), runc-create(8), runc-run(8)).
const GLOBAL: &[&str] = &["log", "log-format", "root", "criu", "rootless"];
const OF_MAKING: &[&str] = &["bundle", "b", "console-socket", "pid-file", "preserve-fds", "pidfd-socket"];

/// An option, its value, and how many arguments both are.
fn option<'a>(args: &'a [OsString], with_value: &[&str]) -> Option<(&'a str, Option<&'a OsStr>, usize)> {
    let first = args.first()?.as_bytes();
    let text = first.strip_prefix(b"--").or_else(|| first.strip_prefix(b"-"))?;
    if text.is_empty() {
        return None;
    }
    let (name, value) = match text.iter().position(|byte| *byte == b'=') {
        Some(at) => (&text[..at], Some(OsStr::from_bytes(&text[at + 1..]))),
        None => (text, None),
    };
    let name = std::str::from_utf8(name).ok()?;
    match (value, with_value.contains(&name)) {
        (None, true) => Some((name, args.get(1).map(OsString::as_os_str), args.len().min(2))),
        (value, _) => Some((name, value, 1)),
    }
}

/// Finds out what is asked for. What is wrong is for the runtime to say.
pub(crate) fn parse(args: &[OsString]) -> Invocation {
    let mut found = Invocation::default();
    let mut at = 0;
    while let Some((name, value, count)) = option(&args[at..], GLOBAL) {
        match name {
            "log" => found.log = value.map(PathBuf::from),
            "log-format" => found.is_json = value.is_some_and(|value| value == "json"),
            "version" | "v" => found.is_version = true,
            _ => {}
        }
        at += count;
    }
    match args.get(at).and_then(|command| command.to_str()) {
        Some("create" | "run") => found.making = making(args, at + 1),
        Some("delete") => found.is_end = true,
        _ => {}
    }
    found
}

fn making(args: &[OsString], first: usize) -> Option<Making> {
    let mut at = first;
    let (mut bundle, mut place) = (PathBuf::from("."), (first, 0));
    while let Some((name, value, count)) = option(&args[at..], OF_MAKING) {
        match name {
            "bundle" | "b" => {
                bundle = PathBuf::from(value?);
                place = (at, count);
            }
            // The runtime's to tell.
            "help" | "h" => return None,
            _ => {}
        }
        at += count;
    }
    let id = args.get(at)?.to_str()?.to_owned();
    Some(Making { id, bundle, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_command_lines_of_engines_are_understood() {
        // conmon's, of Podman.
        let podman = "--log /x/oci-log --log-format=json --systemd-cgroup create --bundle /b --pid-file /x/pidfile \
                      --console-socket /c web";
        let found = parse(&words(podman));
        assert_eq!((found.log.as_deref(), found.is_json), (Some(Path::new("/x/oci-log")), true));
        let making = found.making.unwrap();
        assert_eq!((making.id.as_str(), making.bundle.as_path()), ("web", Path::new("/b")));
        let changed = making.with_bundle(words(podman), Path::new("/other"));
        assert_eq!(changed, words(&podman.replace("--bundle /b", "--bundle /other")));
        // By hand, in the bundle.
        let making = parse(&words("run -d one")).making.unwrap();
        assert_eq!((making.id.as_str(), making.bundle.as_path()), ("one", Path::new(".")));
        assert_eq!(making.with_bundle(words("run -d one"), Path::new("/o")), words("run --bundle /o -d one"));
        assert_eq!(parse(&words("run -b=/b one")).making.unwrap().bundle, Path::new("/b"));
    }

    #[test]
    fn all_other_commands_make_no_container() {
        for line in [
            "start web",
            "exec web run one",
            "delete --force web",
            "--root create state web",
            "",
            "run",
            "run --help",
        ] {
            assert_eq!(parse(&words(line)).making, None, "{line}");
        }
        assert!(parse(&words("--version")).is_version);
    }
}

//! The options of `netgraft run` that are about the program and not about its network.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use netgraft::{
    Bind, Descriptors, Files, Ids, NetworkSpec, Profile, ProgramSpec, Seccomp, Terminal, Until, User,
};

#[derive(Args)]
#[command(next_help_heading = "The program")]
pub(crate) struct ProgramArgs {
    /// Give the program a terminal of its own, which is shown at this one: it cannot see or reach the operator's
    #[arg(long)]
    pty: bool,

    /// Run it as this user and group of the sandbox, as numbers or names: USER or USER:GROUP
    #[arg(long, value_name = "USER")]
    user: Option<Account>,

    /// When root starts it: let root of the sandbox be the host's root, with all ids, capabilities and system calls. Without
    /// this it is nobody on the host
    #[arg(long)]
    host_ids: bool,

    /// When root starts it: the first of the 65,536 user and group ids that it has on the host, from 65536 on, to be the owner
    /// of files that are given to it [default: some that no other sandbox has]
    #[arg(long, value_name = "FIRST", value_parser = clap::value_parser!(u32).range(65_536..), conflicts_with = "host_ids")]
    ids: Option<u32>,

    /// The system calls that it may make: default (no mounts, keys, eBPF, modules, new user namespaces and the like; see
    /// 'netgraft seccomp'), none (all of them) or a profile in the form of OCI runtimes [default: default if root starts
    /// it without --host-ids, else none]
    #[arg(long, value_name = "default|none|FILE")]
    seccomp: Option<String>,

    /// Its root directory; it gets a /proc, /sys and /dev where it has directories of these names
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,

    /// Let it change no file but below --bind and --tmpfs
    #[arg(long)]
    read_only: bool,

    /// Show it a file or directory at another place, which must exist; read-only with ':ro'; repeatable
    #[arg(long = "bind", value_name = "SRC:DST[:ro]")]
    binds: Vec<Place>,

    /// Give it an empty directory in memory at this place, which must exist; repeatable
    #[arg(long, value_name = "DIR")]
    tmpfs: Vec<PathBuf>,

    /// Let it reach no AF_UNIX socket of the host's file system (a container engine's, D-Bus): it can make pairs only, and no
    /// network namespace of its own
    #[arg(long)]
    no_path_sockets: bool,

    /// Begin with an empty environment, but for --env
    #[arg(long)]
    clear_env: bool,

    /// Set a variable of its environment, or with NAME alone keep it under --clear-env; repeatable
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,

    /// Its working directory
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,

    /// Let it inherit this descriptor; others than input, output and error are closed; repeatable
    #[arg(long = "keep-fd", value_name = "N")]
    keep_fds: Vec<i32>,

    /// When the sandbox ends: first (when the program does; what it left running ends with it) or all (when that has ended,
    /// too, as for a server that puts itself in the background) [default: first]
    #[arg(long, value_name = "first|all")]
    wait: Option<Until>,

    /// Run it as code that you do not trust: --read-only, --no-path-sockets, --seccomp default, --clear-env with PATH, TERM and
    /// LANG, HOME in /tmp, and empty directories for /tmp, /var/tmp, /run, /home, /root and your home; --bind gives it what it needs
    #[arg(long, conflicts_with = "host_ids")]
    untrusted: bool,

    /// The most memory that it and all that it starts have, in bytes or with K, M or G
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,

    /// The most processors that they use, such as 1.5
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,

    /// The most processes and threads that they are
    #[arg(long, value_name = "N")]
    pids: Option<u32>,

    /// Let it make user namespaces of its own under the default profile
    #[arg(long)]
    allow_userns: bool,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
struct Size(u64);

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Size, String> {
        let unit = |letter: char| "KMG".find(letter.to_ascii_uppercase()).map(|at| 10 * (at as u32 + 1));
        let (number, shift) = match text.chars().last().and_then(unit) {
            Some(shift) => (&text[..text.len() - 1], shift),
            None => (text, 0),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        let bytes = bytes.filter(|bytes| *bytes > 0);
        bytes.map(Size).ok_or_else(|| format!("'{text}' is no size: use a number, or one with K, M or G"))
    }
}

/// A place of the host and where it is shown.
#[derive(Clone, Debug)]
struct Place(Bind);

impl FromStr for Place {
    type Err = String;
    fn from_str(text: &str) -> Result<Place, String> {
        let wrong =
            || format!("'{text}' is no place to show: use SRC:DST or SRC:DST:ro, with absolute paths");
        let (paths, read_only) = match text.strip_suffix(":ro") {
            Some(paths) => (paths, true),
            None => (text, false),
        };
        let (source, target) = paths.split_once(':').ok_or_else(wrong)?;
        let bind = Bind { source: source.into(), target: target.into(), read_only };
        if bind.source.is_absolute() && bind.target.is_absolute() { Ok(Place(bind)) } else { Err(wrong()) }
    }
}

/// What is empty for a program that is not trusted, where it is there.
const HIDDEN: [&str; 5] = ["/tmp", "/var/tmp", "/run", "/home", "/root"];
/// The variables that such a program keeps.
const HARMLESS: [&str; 3] = ["PATH", "TERM", "LANG"];

/// A user and a group, by number or name.
#[derive(Clone, Debug)]
struct Account(User);

impl FromStr for Account {
    type Err = String;
    fn from_str(text: &str) -> Result<Account, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        // Name, password, id and, of a user, its group.
        let entry = |file: &str, name: &str| -> Option<(u32, Option<u32>)> {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| {
                let mut words = line.split(':');
                words.next() == Some(name) || words.nth(1) == Some(name)
            })?;
            let mut words = line.split(':').skip(2);
            Some((words.next()?.parse().ok()?, words.next().and_then(|word| word.parse().ok())))
        };
        let found = entry("/etc/passwd", user);
        let number = found.map(|(id, _)| id).or_else(|| user.parse().ok());
        let number = number.ok_or_else(|| format!("there is no user '{user}': use a name or a number"))?;
        let group = match group {
            None => found.and_then(|(_, group)| group).unwrap_or(number),
            Some(name) => entry("/etc/group", name)
                .map(|(id, _)| id)
                .or_else(|| name.parse().ok())
                .ok_or_else(|| format!("there is no group '{name}': use a name or a number"))?,
        };
        Ok(Account(User { user: number, group }))
    }
}

impl ProgramArgs {
    /// Puts what was asked for into the specs.
    ///
    /// # Errors
    /// What does not go together or cannot be read, in one line.
    pub(crate) fn apply(
        mut self,
        network: &mut NetworkSpec,
        program: &mut ProgramSpec,
    ) -> Result<(), String> {
        if self.pty {
            program.terminal = Terminal::Own;
        }
        if self.host_ids {
            network.ids = Ids::Host;
        }
        if let Some(first) = self.ids {
            network.ids = Ids::From(first);
        }
        if self.untrusted {
            self.distrust();
        }
        self.environment(program);
        program.directory = self.workdir;
        program.descriptors = Descriptors::Only(self.keep_fds);
        program.until = self.wait.unwrap_or_default();
        program.files = Files::default();
        program.files.root = self.rootfs;
        program.files.read_only = self.read_only;
        program.files.tmpfs = self.tmpfs;
        program.files.no_path_sockets = self.no_path_sockets;
        program.files.binds = self.binds.into_iter().map(|place| place.0).collect();
        if let Some(bind) = program.files.binds.iter().find(|bind| !bind.source.exists()) {
            return Err(format!("--bind {}: there is no such file or directory", bind.source.display()));
        }
        if let Some(root) = program.files.root.as_ref().filter(|root| !root.is_dir()) {
            return Err(format!("--rootfs {}: there is no such directory", root.display()));
        }
        network.limits.memory = self.memory.map(|size| size.0);
        network.limits.pids = self.pids;
        network.limits.milli_cpus = match self.cpus {
            None => None,
            // Kernels take no less than a hundredth, and there are machines with thousands.
            Some(cpus) if (0.01..=100_000.0).contains(&cpus) => Some((cpus * 1000.0) as u32),
            Some(cpus) => return Err(format!("--cpus {cpus}: use a number from 0.01, such as 1.5")),
        };
        program.user = self.user.map(|account| account.0);
        program.seccomp = match self.seccomp.as_deref() {
            None => Seccomp::ByIds { user_namespaces: self.allow_userns },
            Some("default") => Seccomp::Profile(Profile::contained(self.allow_userns)),
            Some("none") => Seccomp::All,
            Some(file) => Seccomp::Profile(read_profile(file)?),
        };
        Ok(())
    }
}

impl ProgramArgs {
    /// Turns on what keeps a program that is not trusted away from the host.
    fn distrust(&mut self) {
        self.read_only = true;
        self.no_path_sockets = true;
        self.clear_env = true;
        self.env.splice(0..0, HARMLESS.iter().map(OsString::from));
        if self.rootfs.is_none() {
            // Builds keep their caches there, and end without one.
            self.env.insert(0, "HOME=/tmp".into());
        }
        self.seccomp.get_or_insert_with(|| "default".to_owned());
        if self.rootfs.is_some() {
            // Nothing of the host is in sight.
            return;
        }
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let hidden = HIDDEN.iter().map(PathBuf::from).chain(home);
        // A place within another one that is hidden is gone already, and a link leads to one that is.
        for place in
            hidden.filter_map(|place| place.canonicalize().ok()).filter(|place| place.parent().is_some())
        {
            if !self.tmpfs.iter().any(|above| place.starts_with(above)) {
                self.tmpfs.push(place);
            }
        }
    }

    /// Makes the program's environment.
    fn environment(&self, program: &mut ProgramSpec) {
        let callers = std::mem::take(&mut program.environment);
        let given = self.env.iter().filter_map(|word| {
            let bytes = word.as_encoded_bytes();
            match bytes.iter().position(|byte| *byte == b'=') {
                Some(at) => {
                    let (name, value) = (&bytes[..at], &bytes[at + 1..]);
                    Some((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value).to_owned()))
                }
                None => callers.iter().find(|(name, _)| name == word).cloned(),
            }
        });
        let given: Vec<(OsString, OsString)> = given.collect();
        let kept = callers.iter().filter(|_| !self.clear_env);
        let kept = kept.filter(|(name, _)| !given.iter().any(|(other, _)| other == name));
        let mut all: Vec<_> = kept.cloned().collect();
        // The last one of a name counts.
        for (at, variable) in given.iter().enumerate() {
            if !given[at + 1..].iter().any(|(name, _)| *name == variable.0) {
                all.push(variable.clone());
            }
        }
        program.environment = all;
    }
}

/// Reads a profile.
///
/// # Errors
/// What is wrong with it, in one line.
pub(crate) fn read_profile(file: &str) -> Result<Profile, String> {
    let told = |e: String| format!("the seccomp profile {file} cannot be used: {e}");
    let text = std::fs::read_to_string(file).map_err(|e| told(e.to_string()))?;
    Profile::parse(&text).map_err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_two_absolute_paths() {
        let of = |text: &str| {
            text.parse::<Place>().map(|place| (place.0.source, place.0.target, place.0.read_only))
        };
        assert_eq!(of("/a:/b"), Ok(("/a".into(), "/b".into(), false)));
        assert_eq!(of("/a:/b:ro"), Ok(("/a".into(), "/b".into(), true)));
        for wrong in ["/a", "a:/b", "/a:b", ":/b", "/a:"] {
            assert!(of(wrong).unwrap_err().contains("use SRC:DST"), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units() {
        let of = |text: &str| text.parse::<Size>().map(|size| size.0);
        assert_eq!((of("5"), of("2k"), of("3M"), of("1G")), (Ok(5), Ok(2048), Ok(3 << 20), Ok(1 << 30)));
        for wrong in ["", "0", "M", "-1", "1.5G", "99999999999G", "1T"] {
            assert!(of(wrong).unwrap_err().contains("is no size"), "{wrong}");
        }
    }

    #[test]
    fn accounts_are_names_or_numbers() {
        let of = |text: &str| text.parse::<Account>().map(|account| (account.0.user, account.0.group));
        assert_eq!(of("0"), Ok((0, 0)));
        assert_eq!(of("root:daemon"), Ok((0, 1)));
        assert_eq!(of("4242"), Ok((4242, 4242)));
        assert_eq!(of("4242:17"), Ok((4242, 17)));
        assert!(of("no-such-user").unwrap_err().contains("no-such-user"));
        assert!(of("root:no-such-group").unwrap_err().contains("no-such-group"));
    }
}

//! The options of `netgraft run` that are about the program and not about its network.

use std::str::FromStr;

use clap::Args;
use netgraft::{Ids, NetworkSpec, Profile, ProgramSpec, Seccomp, Terminal, User};

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

    /// The system calls that it may make: default (no mounts, keys, eBPF, modules, new user namespaces and the like; see
    /// 'netgraft seccomp'), none (all of them) or a profile in the form of OCI runtimes [default: default if root starts
    /// it without --host-ids, else none]
    #[arg(long, value_name = "default|none|FILE")]
    seccomp: Option<String>,

    /// Let it make user namespaces of its own under the default profile
    #[arg(long)]
    allow_userns: bool,
}

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
    pub(crate) fn apply(self, network: &mut NetworkSpec, program: &mut ProgramSpec) -> Result<(), String> {
        if self.pty {
            program.terminal = Terminal::Own;
        }
        if self.host_ids {
            network.ids = Ids::Host;
        }
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

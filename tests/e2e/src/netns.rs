//! Network namespaces of the tests' own, removed when they go out of scope.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::column::{ORDINARY_ID, User};
use crate::machine::run_tool;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The first characters of every name that this process gives.
#[must_use]
pub fn name_prefix() -> String {
    format!("ngt{}x", std::process::id())
}

/// A named network namespace with its loopback up.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace.
    ///
    /// # Errors
    /// When `ip` fails, with what it printed.
    pub fn new() -> Result<Self, String> {
        let name = format!("{}{}", name_prefix(), COUNTER.fetch_add(1, Ordering::Relaxed));
        run_tool("ip", &["netns", "add", &name])?;
        let namespace = Namespace { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        // Every group may open ICMP echo sockets, which is what Linux distributions set at boot. No wait for
        // duplicate address detection.
        namespace.sysctl("net.ipv4.ping_group_range=0 2147483647")?;
        namespace.sysctl("net.ipv6.conf.default.accept_dad=0")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` on it.
    ///
    /// # Errors
    /// When `ip` fails, with what it printed.
    pub fn ip(&self, arguments: &[&str]) -> Result<String, String> {
        let mut words = vec!["-n", self.name.as_str()];
        words.extend_from_slice(arguments);
        run_tool("ip", &words)
    }

    /// Sets one `name=value` inside it.
    ///
    /// # Errors
    /// When `sysctl` fails, with what it printed.
    pub fn sysctl(&self, setting: &str) -> Result<String, String> {
        run_tool("ip", &["netns", "exec", &self.name, "sysctl", "-q", "-w", setting])
    }

    /// A command that runs inside it as a user.
    ///
    /// `accounts` stands in for the user database, so that the ordinary user has a name and a shell: some
    /// programs insist. Only the command sees it, since `ip netns exec` gives it mounts of its own.
    #[must_use]
    pub fn command_as(&self, user: User, accounts: &Path, words: &[String]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]);
        if user == User::Ordinary {
            command.args(["sh", "-c", "mount --bind \"$0\" /etc/passwd && exec \"$@\""]).arg(accounts);
            command.arg("setpriv");
            command.arg(format!("--reuid={ORDINARY_ID}")).arg(format!("--regid={ORDINARY_ID}"));
            command.args(["--clear-groups", "--inh-caps=-all", "--"]);
        }
        command.args(words);
        command
    }

    /// The names of its interfaces, for the check that none was left behind.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn interfaces(&self) -> Result<Vec<String>, String> {
        let listing = self.ip(&["-o", "link", "show"])?;
        let name = |line: &str| {
            line.split(": ").nth(1).map(|word| word.split('@').next().unwrap_or(word).to_owned())
        };
        Ok(listing.lines().filter_map(name).collect())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(why) = run_tool("ip", &["netns", "delete", &self.name]) {
            eprintln!("namespace {} could not be removed: {why}", self.name);
        }
    }
}

/// Two namespaces joined by a veth pair: `near`, where netgraft runs, and `far`, whose stack is the kernel's.
#[derive(Debug)]
pub struct Pair {
    /// The side that netgraft serves: it has `NEAR_INTERFACE` and no address of its own.
    pub near: Namespace,
    /// The side of the kernel's stack.
    pub far: Namespace,
}

/// The name of the interface on the near side.
pub const NEAR_INTERFACE: &str = "near0";
/// The near side's addresses, with their prefix.
pub const NEAR: [&str; 2] = ["10.77.0.2/24", "fd77::2/64"];
/// The far side's addresses, with their prefix.
pub const FAR: [&str; 2] = ["10.77.0.1/24", "fd77::1/64"];
/// Addresses that are routed to the far side and that nobody there answers for.
pub const BLACKHOLE: [&str; 2] = ["10.99.0.1", "fd99::1"];

impl Pair {
    /// Makes both sides and the wire. With `native`, the near side's kernel gets the near addresses.
    ///
    /// # Errors
    /// When `ip` fails, with what it printed.
    pub fn new(native: bool) -> Result<Self, String> {
        let pair = Pair { near: Namespace::new()?, far: Namespace::new()? };
        let far_name = pair.far.name().to_owned();
        pair.near.ip(&[
            "link",
            "add",
            NEAR_INTERFACE,
            "type",
            "veth",
            "peer",
            "name",
            "far0",
            "netns",
            &far_name,
        ])?;
        pair.far.ip(&["link", "set", "far0", "up"])?;
        for address in FAR {
            pair.far.ip(&["address", "add", address, "dev", "far0"])?;
        }
        if native {
            pair.near.ip(&["link", "set", NEAR_INTERFACE, "up"])?;
            for (address, gateway) in NEAR.iter().zip(FAR) {
                pair.near.ip(&["address", "add", address, "dev", NEAR_INTERFACE])?;
                pair.near.ip(&["route", "add", "default", "via", without_prefix(gateway)])?;
            }
        } else {
            // The kernel must not answer on the interface that is netgraft's.
            pair.near.sysctl(&format!("net.ipv6.conf.{NEAR_INTERFACE}.disable_ipv6=1"))?;
            pair.near.ip(&["link", "set", NEAR_INTERFACE, "up"])?;
        }
        Ok(pair)
    }
}

/// The address without its prefix length.
#[must_use]
pub fn without_prefix(address: &str) -> &str {
    address.split('/').next().unwrap_or(address)
}

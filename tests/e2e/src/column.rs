//! The ways in which a job is run.

use std::fmt;
use std::process::Command;

use crate::netns::Namespace;
use crate::stage::Stage;

/// The user and group id of the ordinary user.
pub const ORDINARY_ID: u32 = 65_533;

/// What carries the program's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// The kernel, without netgraft: the reference.
    Native,
    /// `netgraft run --network host`.
    Host,
    /// `netgraft run --network sandbox`, with all connections through the stack.
    Sandbox,
    /// `netgraft run --network none`, where connections inside the sandbox are joined past the same stack.
    None,
    /// `netgraft run --network plugin` with a shared object.
    Object(Object),
}

/// The shared objects that programs are run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// `tests/plugins/level0.c`: the existing C interface, on kernel sockets.
    Relay,
    /// The built-in stack as a Rust `cdylib`, through level 1.
    Rust,
    /// `plugins/lwip`: C, through level 1.
    Lwip,
}

impl Object {
    /// All of them.
    pub const ALL: [Object; 3] = [Object::Relay, Object::Rust, Object::Lwip];

    /// Its name in tables, and its file's in the stage.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Object::Relay => "relay.so",
            Object::Rust => "rust.so",
            Object::Lwip => "lwip.so",
        }
    }

    /// What `netgraft run` is told beside its file: the relay's pre-init forks a process with the caller's sockets.
    #[must_use]
    pub const fn options(self) -> &'static [&'static str] {
        match self {
            Object::Relay => &["--trust-pre-init"],
            Object::Rust | Object::Lwip => &[],
        }
    }
}

impl Network {
    /// The stack that serves it, by the name that `tests/skips.toml` uses.
    #[must_use]
    pub const fn stack(self) -> &'static str {
        match self {
            Network::Native => "native",
            Network::Host => "host",
            // The object in Rust is the built-in stack through another interface.
            Network::Sandbox | Network::Object(Object::Rust) => "smoltcp",
            Network::None => "joined",
            Network::Object(object) => object.name(),
        }
    }
}

/// Whether the launcher is root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum User {
    /// User id 0 with every capability.
    Root,
    /// A user without any privilege.
    Ordinary,
}

/// One column of the closing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Column {
    /// What carries the sockets.
    pub network: Network,
    /// Who starts the program.
    pub user: User,
}

impl fmt::Display for Column {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = match self.network {
            Network::Native => "native",
            Network::Host => "host",
            Network::Sandbox => "sandbox",
            Network::None => "none",
            Network::Object(object) => object.name(),
        };
        let user = match self.user {
            User::Root => "root",
            User::Ordinary => "user",
        };
        write!(out, "{network}-{user}")
    }
}

impl Column {
    /// Every combination that a program without a link is run in.
    pub const ALL: [Column; 8] = {
        const fn of(network: Network, user: User) -> Column {
            Column { network, user }
        }
        [
            of(Network::Native, User::Root),
            of(Network::Native, User::Ordinary),
            of(Network::Host, User::Root),
            of(Network::Host, User::Ordinary),
            of(Network::Sandbox, User::Root),
            of(Network::Sandbox, User::Ordinary),
            of(Network::None, User::Root),
            of(Network::None, User::Ordinary),
        ]
    };

    /// The columns of shared objects.
    pub const OBJECTS: [Column; 6] = {
        const fn of(object: Object, user: User) -> Column {
            Column { network: Network::Object(object), user }
        }
        [
            of(Object::Relay, User::Root),
            of(Object::Relay, User::Ordinary),
            of(Object::Rust, User::Root),
            of(Object::Rust, User::Ordinary),
            of(Object::Lwip, User::Root),
            of(Object::Lwip, User::Ordinary),
        ]
    };

    /// The owner that a job's files must have.
    #[must_use]
    pub const fn owner(self) -> u32 {
        match self.user {
            User::Root => 0,
            User::Ordinary => ORDINARY_ID,
        }
    }

    /// The command that runs `program` in this column.
    ///
    /// Whatever uses the kernel's sockets does so in `namespace`, whose loopback is nobody else's.
    #[must_use]
    pub fn command(self, stage: &Stage, namespace: &Namespace, program: &[String]) -> Command {
        let netgraft = |network: &str| {
            let mut words: Vec<String> = ["run", "--network", network, "--host-ids", "--"]
                .iter()
                .map(|word| (*word).to_owned())
                .collect();
            words.insert(0, stage.netgraft().display().to_string());
            if self.network != Network::None {
                // What is tested is the stack.
                words.splice(2..2, ["--join", "never"].map(str::to_owned));
            }
            words.extend_from_slice(program);
            words
        };
        let words = match self.network {
            Network::Native => program.to_vec(),
            Network::Host => netgraft("host"),
            Network::Sandbox => netgraft("sandbox"),
            Network::None => netgraft("none"),
            Network::Object(object) => {
                let mut words = netgraft("plugin");
                let file = stage.bin(object.name()).display().to_string();
                words.splice(2..2, ["--plugin".to_owned(), file]);
                words.splice(2..2, object.options().iter().map(|word| (*word).to_owned()));
                words
            }
        };
        namespace.command_as(self.user, &stage.accounts(), &words)
    }
}

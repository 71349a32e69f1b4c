//! What the operator asks for: the network of a sandbox, and a program that runs in it.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use netgraft_plugin::registry::{Factory, Registry, RegistryError};
use netgraft_plugin::{InterfaceName, NetworkType, StackConfig, get_plugin_stack};

use crate::crash::OnCrash;

/// The stacks that a name is looked up in.
#[derive(Clone, Default)]
pub enum Stacks {
    /// Those that are registered for this process ([`netgraft_plugin::register_plugin_stack`]).
    #[default]
    OfProcess,
    /// Those of this registry.
    Of(Arc<Registry>),
}

impl Stacks {
    /// Finds a stack's factory.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], which lists what there is.
    pub fn get(&self, name: &str) -> Result<Arc<Factory>, RegistryError> {
        match self {
            Stacks::OfProcess => get_plugin_stack(name),
            Stacks::Of(registry) => registry.get(name),
        }
    }
}

impl fmt::Debug for Stacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stacks::OfProcess => f.write_str("OfProcess"),
            Stacks::Of(registry) => f.debug_tuple("Of").field(&registry.names()).finish(),
        }
    }
}

/// The network of a sandbox.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NetworkSpec {
    /// How the network is set up.
    pub kind: NetworkType,
    /// The stack's name or file, for [`NetworkType::Plugin`] only.
    pub plugin: Option<String>,
    /// What the stack gets: link, addresses, gateways, its text.
    pub config: StackConfig,
    /// For a stack of level 0 of the C interface only, which looks for its interface itself: a veth pair is made, one end
    /// of this name in the caller's network namespace, the other with the addresses and the gateway of `config` where the
    /// stack looks.
    pub veth: Option<InterfaceName>,
    /// Name servers for the programs; none leaves /etc/resolv.conf as it is.
    pub name_servers: Vec<IpAddr>,
    /// What happens when the stack crashes, hangs or makes a system call that it may not make.
    pub on_crash: OnCrash,
    /// System calls, by their numbers, that the stack may make beside those of the base and its own rules: with any
    /// arguments. For [`NetworkType::Plugin`] only.
    pub allowed_calls: Vec<i64>,
    /// Whether the `pre_init` of a shared object runs with the caller's rights, to open devices itself.
    pub trust_pre_init: bool,
    /// Where names of stacks are looked up.
    pub stacks: Stacks,
}

impl NetworkSpec {
    /// A network of this type, without a link.
    #[must_use]
    pub fn new(kind: NetworkType) -> NetworkSpec {
        NetworkSpec { kind, ..NetworkSpec::default() }
    }
}

/// The user and group that a program runs as, as its user namespace has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub user: u32,
    /// Group id; there are no supplementary groups.
    pub group: u32,
}

/// The terminal of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Terminal {
    /// The caller's input, output and error, and with them its terminal.
    #[default]
    Callers,
    /// A pseudo-terminal of the sandbox's own, which the launcher shows at the caller's input and output.
    Own,
}

/// A program that runs in a sandbox.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProgramSpec {
    /// The program, looked for as execvp(3) does, with the `PATH` of `environment`.
    pub program: OsString,
    /// Its arguments, without its name.
    pub args: Vec<OsString>,
    /// Its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Its working directory; `None` keeps the caller's.
    pub directory: Option<PathBuf>,
    /// Who it runs as; `None` is the user that the caller is.
    pub user: Option<User>,
    /// Its terminal.
    pub terminal: Terminal,
}

impl ProgramSpec {
    /// A program with the caller's environment, working directory and user.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> ProgramSpec {
        ProgramSpec {
            program: program.into(),
            args: Vec::new(),
            environment: std::env::vars_os().collect(),
            directory: None,
            user: None,
            terminal: Terminal::default(),
        }
    }
}

//! What the operator asks for: the network of a sandbox, and a program that runs in it.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use netgraft_core::policy::PolicySpec;
use netgraft_plugin::registry::{Factory, Registry, RegistryError};
use netgraft_plugin::{InterfaceName, NetworkType, StackConfig, get_plugin_stack};

use crate::capture::CaptureSpec;
use crate::crash::OnCrash;
use crate::datagrams::Datagrams;
use crate::flows::FlowsSpec;
use crate::groups::Limits;
use crate::join::Join;
use crate::profile::Profile;
use crate::publish::Publish;
use crate::scrape::MetricsAddress;

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

/// Which ids and rights of the host the programs of a sandbox have when root starts it. An ordinary user's have its own id and
/// no more in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ids {
    /// None: root inside is nobody outside, with ids that no other sandbox has which runs. It has the capabilities that root in a container has, mounts nothing, and may write
    /// what concerns its own network in `/proc/sys`, and nothing else there or in `/sys`.
    #[default]
    Apart,
    /// As [`Ids::Apart`], with the 65,536 user and group ids of the host from this one on: for files that are to be the
    /// sandbox's. Sandboxes with the same ids can change each other's files.
    From(u32),
    /// All: root inside is the host's root, with all capabilities in the sandbox's namespaces.
    Host,
}

/// The system calls that a program may make beside those that its network is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seccomp {
    /// [`Profile::contained`] with [`Ids::Apart`] if root starts it, and all else.
    ByIds {
        /// Whether that profile lets it make user namespaces of its own.
        user_namespaces: bool,
    },
    /// All.
    All,
    /// Those that a profile leaves.
    Profile(Profile),
}

/// What a sandbox may use of its sentry. A program that asks for more gets the errno of a system without room, and goes on
/// when sockets are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketLimits {
    /// Sockets at a time, those in flight in messages and in queues of listeners among them. The number of descriptors
    /// that the sentry may have (`RLIMIT_NOFILE`, hard) is a limit as well. Default: 65,536.
    pub sockets: usize,
    /// The most of them that one process has made or accepted. Default: three quarters of `sockets`.
    pub process_sockets: Option<usize>,
    /// Bytes of memory of the sentry, its stack's buffers included, beyond which there are no new sockets and programs
    /// send no more. Default: 1 GiB.
    pub memory: usize,
}

impl Default for SocketLimits {
    fn default() -> SocketLimits {
        SocketLimits { sockets: 65_536, process_sockets: None, memory: 1 << 30 }
    }
}

/// What a link is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ask {
    /// An address by DHCP (RFC 2131).
    Dhcp,
    /// One of each family: by DHCP, and by router advertisements and DHCPv6 (RFC 4861, RFC 4862, RFC 8415).
    Auto,
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
    /// A capture of what crosses the stack's link and its loopback, for a stack that has its link from `netgraft-link`.
    pub capture: Option<CaptureSpec>,
    /// For a stack of level 0 of the C interface only, which looks for its interface itself: a veth pair is made, one end
    /// of this name in the caller's network namespace, the other with the addresses and the gateway of `config` where the
    /// stack looks.
    pub veth: Option<InterfaceName>,
    /// Whether the kernel's addresses on a `packet:` link are the stack's while the sandbox lives.
    pub take_address: bool,
    /// Whether the link is asked for addresses, gateways, name servers and the MTU: what it is to be asked, for a TAP device
    /// or an interface. passt is asked in any case.
    pub ask: Option<Ask>,
    /// Ports of the host's that lead into the sandbox, by passt only.
    pub publish: Vec<Publish>,
    /// Name servers for the programs; none leaves /etc/resolv.conf as it is.
    pub name_servers: Vec<IpAddr>,
    /// What happens when the stack crashes, hangs or makes a system call that it may not make.
    pub on_crash: OnCrash,
    /// What becomes of connections inside the sandbox.
    pub join: Join,
    /// Whose sockets the programs' datagram and raw sockets are, on the built-in stack.
    pub datagrams: Datagrams,
    /// System calls, by their numbers, that the stack may make beside those of the base and its own rules: with any
    /// arguments. For [`NetworkType::Plugin`] only.
    pub allowed_calls: Vec<i64>,
    /// What the programs may use of the sentry.
    pub sockets: SocketLimits,
    /// Whether the `pre_init` of a shared object runs with the caller's rights, to open devices itself.
    pub trust_pre_init: bool,
    /// Which ids of the host there are.
    pub ids: Ids,
    /// What its programs may use together.
    pub limits: Limits,
    /// Where names of stacks are looked up.
    pub stacks: Stacks,
    /// Who may talk to whom; `None` is everybody, to everybody who can be reached.
    pub policy: Option<PolicySpec>,
    /// Whether it is an error to give the first program internet sockets of the host's, which no rule reaches. With a policy
    /// alone it is said.
    pub strict: bool,
    /// Where flows are written; `None` is nowhere.
    pub flows: Option<FlowsSpec>,
    /// Where metrics are served; `None` is nowhere.
    pub metrics: Option<MetricsAddress>,
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

/// A file or directory of the host that a program sees at another place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// What is shown.
    pub source: PathBuf,
    /// Where, which must exist.
    pub target: PathBuf,
    /// Whether it cannot be changed there.
    pub read_only: bool,
}

/// The files that a program sees. The default is what the caller sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Files {
    /// Its root directory, if not the host's. It gets a /proc, /sys and /dev where it has directories of these names.
    pub root: Option<PathBuf>,
    /// Whether nothing can be changed but below `tmpfs` and `binds`; enforced by read-only mounts and, where the kernel has
    /// it, by Landlock.
    pub read_only: bool,
    /// What is shown from the host.
    pub binds: Vec<Bind>,
    /// Directories that are empty, writable and in memory.
    pub tmpfs: Vec<PathBuf>,
    /// Whether it makes no AF_UNIX sockets, which reach those of the host's file system, but pairs, and no network namespace, in
    /// which a surrogate could be turned into one.
    pub no_path_sockets: bool,
}

impl Files {
    /// Whether mounts are to be made.
    pub(crate) fn has_mounts(&self) -> bool {
        self.root.is_some() || self.read_only || !self.binds.is_empty() || !self.tmpfs.is_empty()
    }
}

/// The caller's descriptors beside input, output and error that a program gets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Descriptors {
    /// All that are not closed by execve(2).
    All,
    /// These.
    Only(Vec<i32>),
}

/// When a sandbox of [`crate::run`] ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Until {
    /// When the program ends; what it left running ends with it.
    #[default]
    First,
    /// When the program and all that it left running have ended, as for a server that puts itself in the background. The
    /// exit status is the program's.
    All,
}

impl FromStr for Until {
    type Err = String;
    fn from_str(text: &str) -> Result<Until, String> {
        match text {
            "first" => Ok(Until::First),
            "all" => Ok(Until::All),
            other => Err(format!("unknown end '{other}': use first or all")),
        }
    }
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
    /// The system calls that it may make.
    pub seccomp: Seccomp,
    /// The files that it sees.
    pub files: Files,
    /// The descriptors that it gets. If its environment says that the caller got sockets by socket activation
    /// (sd_listen_fds(3): `LISTEN_PID`, `LISTEN_FDS`), it gets those, too, but for what is no socket, and its own process id
    /// in `LISTEN_PID`.
    pub descriptors: Descriptors,
    /// When the sandbox ends.
    pub until: Until,
}

impl ProgramSpec {
    /// A program with the caller's environment, working directory, files and user, and none of its descriptors but input,
    /// output and error.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> ProgramSpec {
        ProgramSpec {
            program: program.into(),
            args: Vec::new(),
            environment: std::env::vars_os().collect(),
            directory: None,
            user: None,
            terminal: Terminal::default(),
            seccomp: Seccomp::ByIds { user_namespaces: false },
            files: Files::default(),
            descriptors: Descriptors::Only(Vec::new()),
            until: Until::default(),
        }
    }
}

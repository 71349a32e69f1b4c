//! The command line, and what is printed.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use netgraft::control::Summary;
use netgraft::publish::Publish;
use netgraft::{
    Cases, CheckOptions, Datagrams, Join, Language, LogWriter, NetworkSpec, NewStack, OnCrash, ProgramSpec,
    SocketLimits,
};
use netgraft_plugin::registry::plugin_stack_names;
use netgraft_plugin::{
    InterfaceName, LinkConfig, Neighbour, NetworkType, StackConfig, StackInfo, SyscallRule, get_plugin_stack,
};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::fault_args::FaultArgs;
use crate::flow_args::FlowArgs;
use crate::link_option::{AddressOption, LinkOption};
use crate::operator::{LinkArgs, SsArgs};
use crate::pcap_args::PcapArgs;
use crate::policy_args::{PolicyArgs, PolicyCommand};
use crate::program_args::ProgramArgs;

const EXAMPLES: &str = "\
Examples:
  netgraft run -- redis-server
      a server whose loopback is the built-in stack's: clients run in the same sandbox
  netgraft run --summary -- sh -c 'python3 -m http.server 8000 & sleep 1; curl -s http://127.0.0.1:8000/'
      server and client in one sandbox; says at the end what went through the stack
  netgraft run --link passt -- curl https://example.com/
      out with the rights of an ordinary user, by the built-in stack and passt
  netgraft run --link tap:ng0 --address 192.0.2.2/24 --gateway 192.0.2.1 --dns 192.0.2.1 -- nginx -g 'daemon off;'
      a server that the host reaches through the TAP device ng0 (as root)
  netgraft run --network host -- curl https://example.com/
      host sockets, made by the sentry
  netgraft run --network plugin --plugin ./libfoo.so -- redis-server
      a stack of your own or anybody's, in a shared object

Exit status: the program's, or 128+N if signal N ended it; 125 if netgraft itself failed, 126 if the program
cannot be executed, 127 if it does not exist.";

/// Runs any Linux program, unchanged, on any TCP/IP stack.
#[derive(Parser)]
#[command(name = "netgraft", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Run a program in a sandbox whose sockets a network stack serves
    #[command(after_help = EXAMPLES)]
    Run(Box<RunArgs>),
    /// Print what has a shell complete the words of this command
    Completions {
        /// The shell: bash, elvish, fish, powershell or zsh
        shell: Shell,
    },
    /// List the stacks that --plugin can name, or tell of stacks in files
    Stacks {
        /// Shared objects to tell of
        #[arg(value_name = "FILE.so")]
        files: Vec<String>,
        /// Print the system calls that the sentry may make, and what each stack adds to them
        #[arg(long)]
        syscalls: bool,
    },
    /// Policy files: who may talk to whom
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// List the sandboxes that run
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the sockets of a sandbox, as ss(8) prints those of a machine
    Ss(SsArgs),
    /// Print what is counted in a sandbox, as OpenMetrics text
    Metrics {
        /// The sandbox, as 'netgraft list' names it
        sandbox: String,
    },
    /// Show the faults of a sandbox's link, and change them while it runs
    #[command(after_help = LINK_HELP)]
    Link(Box<LinkArgs>),
    /// Print the system call profile that programs have by default, to be changed and given to --seccomp
    Seccomp,
    /// Write a small stack that is whole, with build files and its test: to begin a stack of your own with
    NewStack(NewStackArgs),
    /// Run the conformance suite on a stack: what passes, what fails, what the stack says it cannot do
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
}

const LINK_HELP: &str = "\
Examples:
  netgraft link 4711
      the faults of the link of sandbox 4711 ('netgraft list' shows the numbers), and what became of its frames
  netgraft link 4711 --link-loss 1% --link-delay out:25ms
      from now on: a fault that is not named stays as it is
  netgraft link 4711 --reset
      none from now on";

const CHECK_HELP: &str = "\
A stack in a file runs in processes of its own for each case, which have no rights, files and network of yours, and may
make only the system calls that it may make in 'netgraft run'. A level 0 stack is given a link of the case's own. A crash, a hang or a forbidden call fails its case, and the next one
goes on; after three hangs in a row the rest does not run. A case that fails shows what was said of the stack's answers,
and the last calls before.

Exit status: 0 if all passed that is not known to fail, 1 if something failed, 125 if netgraft itself failed or there is
no such stack, 128+N if signal N ended it.";

#[derive(Args)]
struct NewStackArgs {
    /// A directory that is not there yet; its last part is the stack's name
    dir: PathBuf,

    /// The language: c or rust
    #[arg(long = "lang", value_name = "LANG", default_value = "c")]
    language: Language,

    /// netgraft's sources, for a stack in Rust, if they are not where this command was built
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
}

#[derive(Args)]
struct CheckArgs {
    /// A registered stack's name, or a shared object: ./FILE.so
    stack: String,

    /// Only the cases whose name contains this text
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["only", "trace"])]
    filter: Option<String>,

    /// Only the case of this name, "group/name [v4]", or without the setting in all that it has
    #[arg(long, value_name = "CASE", conflicts_with = "trace")]
    only: Option<String>,

    /// Only this case, with each call of the stack: the time of the case in seconds, arguments and answer
    #[arg(long, value_name = "CASE", conflicts_with = "json")]
    trace: Option<String>,

    /// Print what failed and is not known, and nothing else
    #[arg(long, conflicts_with = "json")]
    failures_only: bool,

    /// A TOML file of failures that are known: a table of the stack's name, in it the cases and a reason for each. They
    /// do not make the check fail; an entry that explains nothing does
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,

    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,

    /// A system call, by its name, that a stack in a file may make beside those of the base and its own rules; repeatable
    #[arg(long = "allow-syscall", value_name = "NAME", value_parser = system_call)]
    allowed_calls: Vec<i64>,

    /// Show what the stack prints and logs
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,

    /// A text that the stack is given as it is
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    plugin_arg: Option<String>,

    /// Let the pre_init of a stack in a shared object run with your rights
    #[arg(long)]
    trust_pre_init: bool,
}

#[derive(Args)]
struct RunArgs {
    /// How the network is set up: none (a loopback only), host (the host's sockets), sandbox (the built-in
    /// TCP/IP stack) or plugin (the stack that --plugin names)
    #[arg(long, value_name = "TYPE", default_value_t)]
    network: NetworkType,

    /// The stack of --network plugin: a registered name ('netgraft stacks' lists them) or a shared object, ./FILE.so
    #[arg(long, value_name = "NAME|FILE.so")]
    plugin: Option<String>,

    /// A text that the stack is given as it is
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    plugin_arg: Option<String>,

    /// Let the pre_init of a stack in a shared object run with your rights, to open devices itself; without this no code of
    /// it does
    #[arg(long)]
    trust_pre_init: bool,

    /// Where the stack's packets go: none, passt (out with the rights of an ordinary user; or passt:SOCKET, one that is
    /// running), tap:NAME (a TAP device in this network namespace, made if absent),
    /// packet:IFACE (an existing interface, such as one end of a veth pair) or, for a level 0 stack, veth:NAME (one end
    /// of a veth pair that is made)
    #[arg(long, value_name = "LINK", default_value_t)]
    link: LinkOption,

    #[command(flatten)]
    faults: FaultArgs,

    #[command(flatten)]
    pcap: PcapArgs,

    /// An address of the stack with its prefix length, such as 192.0.2.2/24 or 2001:db8::2/64; repeatable. Or what is on the
    /// link is asked for one: dhcp (DHCP for IPv4) or auto (that, router advertisements and DHCPv6)
    #[arg(long = "address", value_name = "CIDR|dhcp|auto")]
    addresses: Vec<AddressOption>,

    /// With --link packet:IFACE: the interface's own addresses and default gateways are the stack's while it runs, and the kernel's
    /// again afterwards
    #[arg(long)]
    take_address: bool,

    /// The largest packet that crosses the link, in bytes, if it carries larger ones: for passt up to 65520 [default: what
    /// the link carries]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(576..=65520))]
    mtu: Option<u16>,

    /// With --link tap:NAME or packet:IFACE: the stack's frames have the tag of this VLAN (IEEE 802.1Q), and no others are for
    /// it
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..4095))]
    vlan: Option<u16>,

    /// With --link passt: lead a port of the host's to one of the sandbox's, such as 8080:80, 127.0.0.1:8080:80 or 53/udp;
    /// repeatable
    #[arg(long, value_name = "[ADDR:]PORT[:INSIDE][/udp]")]
    publish: Vec<Publish>,

    /// A default gateway of the stack; repeatable, one for IPv4 and one for IPv6
    #[arg(long = "gateway", value_name = "ADDR")]
    gateways: Vec<IpAddr>,

    /// A neighbour on the link and its Ethernet address, which is not asked for and which no answer replaces; repeatable
    #[arg(long = "neighbour", visible_alias = "neighbor", value_name = "IP=MAC")]
    neighbours: Vec<Neighbour>,

    /// A name server for the program instead of those in /etc/resolv.conf; repeatable
    #[arg(long = "dns", value_name = "ADDR")]
    dns: Vec<IpAddr>,

    /// What happens when the stack crashes, hangs for 5 s or makes a system call that it may not: fail (the program
    /// goes on without a network) or restart (a fresh stack takes over: connections are reset, listening sockets
    /// listen again)
    #[arg(long, value_name = "ACTION", default_value_t)]
    on_crash: OnCrash,

    /// What becomes of a connection to a listener of the same sandbox, and of datagrams to a socket of it: always (the
    /// kernel carries them from one program to the other, past the stack) or never (the stack carries them, as any
    /// other: to test a stack, or to see the packets)
    #[arg(long, value_name = "WHEN", default_value_t)]
    join: Join,

    /// Whose sockets the program's datagram and raw sockets are, on the built-in stack: kernel (those of its own network
    /// namespace, with all that Linux has: what goes to other hosts is given to the stack as packets, over a veth pair), stack
    /// (surrogates, of which each call with an address is served by the sentry) or auto (the kernel's, but the stack's with a link
    /// and rules, with --join never, and where the kernel has no udp_diag)
    #[arg(long, value_name = "WHOSE", default_value_t)]
    datagrams: Datagrams,

    /// A system call, by its name, that the stack may make beside those of the base and its own rules, with any
    /// arguments; repeatable. The message of a stack that was killed for one has the name
    #[arg(long = "allow-syscall", value_name = "NAME", value_parser = system_call)]
    allowed_calls: Vec<i64>,

    /// The most sockets at a time, of all programs; who asks for more gets ENFILE [default: 65536, and never more than the
    /// hard limit of descriptors allows]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    max_sockets: Option<u32>,

    /// The most sockets at a time that one process has made or accepted; who asks for more gets EMFILE [default: three
    /// quarters of --max-sockets]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    max_process_sockets: Option<u32>,

    /// The most memory that serving them may take, in MiB: then there are no new sockets (ENOBUFS), and what programs send
    /// waits [default: 1024]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(16..))]
    max_memory: Option<u32>,

    /// Say at the end what went through the stack
    #[arg(long)]
    summary: bool,

    /// Say more of what happens; repeatable
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    flows: FlowArgs,

    #[command(flatten)]
    program: ProgramArgs,

    /// The program and its arguments; options of netgraft end here
    #[arg(
        value_name = "PROGRAM [ARGS]",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

/// What the programs may use of the sentry; `memory` is in MiB.
fn limits(sockets: Option<u32>, process_sockets: Option<u32>, memory: Option<u32>) -> SocketLimits {
    let default = SocketLimits::default();
    let number = |given: Option<u32>| given.and_then(|n| usize::try_from(n).ok());
    SocketLimits {
        sockets: number(sockets).unwrap_or(default.sockets),
        process_sockets: number(process_sockets),
        memory: number(memory).map_or(default.memory, |mib| mib.saturating_mul(1 << 20)),
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Run a program.
    Run {
        /// On which network.
        network: Box<NetworkSpec>,
        /// Which one.
        program: Box<ProgramSpec>,
        /// Whether to print the summary.
        summary: bool,
        /// How often -v was given.
        verbosity: u8,
    },
    /// List the stacks.
    Stacks {
        /// Those in files instead of the registered ones.
        files: Vec<String>,
        /// Whether their system calls are asked for.
        syscalls: bool,
    },
    /// Say what a policy file does, or have a sandbox keep its rules.
    Policy(PolicyCommand),
    /// List the sandboxes that run.
    List {
        /// Whether as JSON.
        json: bool,
    },
    /// Show the sockets of a sandbox.
    Ss(SsArgs),
    /// Print what is counted in this sandbox.
    Metrics(String),
    /// Show or change the faults of its link.
    Link(Box<LinkArgs>),
    /// Serve containers.
    Containers {
        /// The folder where they come.
        folder: PathBuf,
        /// Their network namespace, if there is one already.
        namespace: Option<PathBuf>,
        /// Their network.
        network: Box<NetworkSpec>,
        /// How often -v was given.
        verbosity: u8,
    },
    /// Write a new stack.
    NewStack(NewStack),
    /// Run the conformance suite.
    Check {
        /// What, and how.
        options: CheckOptions,
        /// How the report is printed.
        style: Style,
        /// How often -v was given.
        verbosity: u8,
    },
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// For people.
    Table,
    /// For people who want what failed alone.
    Failures,
    /// For programs.
    Json,
}

/// Why there is no command.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Help or version, as asked for.
    Text(String),
    /// What is wrong, in one line.
    Error(String),
}

/// Parses a command line; the first element is this program's name.
pub(crate) fn parse(args: Vec<OsString>) -> Result<Command, Stop> {
    if let Some((run, matches)) = parse_run(&args) {
        return to_run(run, &args, &matches);
    }
    if let [_, command, folder, namespace, options @ ..] = &args[..]
        && command == "containers"
    {
        let namespace = (namespace != "new").then(|| namespace.into());
        return parse_containers(folder.into(), namespace, options);
    }
    let matches = Cli::command().try_get_matches_from(&args).map_err(|error| stop(&error, &args))?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| stop(&error, &args))?;
    match cli.command {
        Subcommands::Stacks { files, syscalls } => Ok(Command::Stacks { files, syscalls }),
        Subcommands::Completions { shell } => Err(Stop::Text(completions(shell))),
        Subcommands::Seccomp => Err(Stop::Text(format!("{}\n", netgraft::Profile::contained(false).text()))),
        Subcommands::Check(args) => Ok(check(args)),
        Subcommands::Policy(command) => Ok(Command::Policy(command)),
        Subcommands::List { json } => Ok(Command::List { json }),
        Subcommands::Ss(args) => Ok(Command::Ss(args)),
        Subcommands::Metrics { sandbox } => Ok(Command::Metrics(sandbox)),
        Subcommands::Link(args) => Ok(Command::Link(args)),
        Subcommands::NewStack(NewStackArgs { dir, language, source }) => {
            let command = std::env::current_exe().unwrap_or_else(|_| "netgraft".into());
            Ok(Command::NewStack(NewStack { dir, language, source, command }))
        }
        Subcommands::Run(run) => match matches.subcommand_matches("run") {
            Some(matches) => to_run(*run, &args, matches),
            None => Err(Stop::Error("there is no command".to_owned())),
        },
    }
}

/// What has a shell complete the command's words.
fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "netgraft", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Parses the options of `run` alone: describing all other commands takes as long as this one's parsing. `None` for another
/// command, and where something is wrong or help is asked for, which is for the whole description to say.
fn parse_run(args: &[OsString]) -> Option<(RunArgs, ArgMatches)> {
    let args = args.get(1..).filter(|args| args.first().is_some_and(|name| name == "run"))?;
    let matches = RunArgs::augment_args(clap::Command::new("run")).try_get_matches_from(args).ok()?;
    let run = RunArgs::from_arg_matches(&matches).ok()?;
    Some((run, matches))
}

/// Parses `containers FOLDER NAMESPACE OPTION...`, which netgraft-oci calls: the options of `run` that concern a network.
fn parse_containers(
    folder: PathBuf,
    namespace: Option<PathBuf>,
    options: &[OsString],
) -> Result<Command, Stop> {
    let before = ["netgraft", "run"].map(OsString::from);
    let after = ["--", "container"].map(OsString::from);
    let line: Vec<OsString> = before.into_iter().chain(options.iter().cloned()).chain(after).collect();
    match parse(line)? {
        Command::Run { network, verbosity, .. } => {
            Ok(Command::Containers { folder, namespace, network, verbosity })
        }
        _ => Err(Stop::Error("containers have the options of 'netgraft run'".to_owned())),
    }
}

/// What `run` is to do; `matches` are its own.
fn to_run(run: RunArgs, args: &[OsString], matches: &ArgMatches) -> Result<Command, Stop> {
    let mut command = run.command.into_iter();
    let program = command.next().unwrap_or_default();
    // A program's name may begin with '-' only behind "--": anything else is a misspelt option.
    if program.as_encoded_bytes().starts_with(b"-") {
        let place = args.len() - 1 - command.len();
        if place.checked_sub(1).and_then(|i| args.get(i)).is_none_or(|before| before != "--") {
            let text = format!("unknown option '{}' (see 'netgraft run --help')", program.display());
            return Err(Stop::Error(text));
        }
    }
    let mut network = NetworkSpec::new(run.network);
    network.strict = run.policy.strict;
    network.policy = run.policy.spec(Some(matches), run.network).map_err(Stop::Error)?;
    (network.flows, network.metrics) = (run.flows.spec(), run.flows.metrics);
    network.plugin = run.plugin;
    let (link, veth) = run.link.split();
    network.veth = veth;
    network.publish = run.publish;
    let (addresses, ask) = AddressOption::split(run.addresses).map_err(Stop::Error)?;
    network.ask = ask;
    network.take_address = run.take_address;
    let mut wrappers = run.faults.wrappers().map_err(Stop::Error)?;
    wrappers.mtu = run.mtu;
    wrappers.vlan = run.vlan;
    network.capture = run.pcap.spec().map_err(Stop::Error)?;
    network.config = StackConfig {
        link,
        wrappers,
        addresses,
        gateways: run.gateways,
        neighbours: run.neighbours,
        argument: run.plugin_arg,
        keeps_sockets: false,
    };
    network.trust_pre_init = run.trust_pre_init;
    network.name_servers = run.dns;
    network.on_crash = run.on_crash;
    network.join = run.join;
    network.datagrams = run.datagrams;
    network.allowed_calls = run.allowed_calls;
    network.sockets = limits(run.max_sockets, run.max_process_sockets, run.max_memory);
    let mut program = ProgramSpec::new(program);
    program.args = command.collect();
    run.program.apply(&mut network, &mut program).map_err(Stop::Error)?;
    Ok(Command::Run {
        network: Box::new(network),
        program: Box::new(program),
        summary: run.summary,
        verbosity: run.verbose,
    })
}

fn check(args: CheckArgs) -> Command {
    let mut options = CheckOptions::new(args.stack);
    options.argument = args.plugin_arg;
    options.trace = args.trace.is_some();
    options.cases = match (args.trace.or(args.only), args.filter) {
        (Some(name), _) => Cases::Named(name),
        (None, Some(part)) => Cases::Containing(part),
        (None, None) => Cases::All,
    };
    options.trust_pre_init = args.trust_pre_init;
    options.allowed_calls = args.allowed_calls;
    options.known = args.known;
    let style = match (args.json, args.failures_only) {
        (true, _) => Style::Json,
        (false, true) => Style::Failures,
        (false, false) => Style::Table,
    };
    Command::Check { options, style, verbosity: args.verbose }
}

/// A system call's number, of its name.
fn system_call(text: &str) -> Result<i64, String> {
    netgraft_linux::syscall::number(text)
        .ok_or_else(|| format!("'{text}' is no system call that is known: use a name of syscalls(2)"))
}

fn stop(error: &clap::Error, args: &[OsString]) -> Stop {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return Stop::Text(text),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Stop::Error(
                "no command given: 'netgraft run -- PROGRAM' runs a program, 'netgraft --help' lists the others".into(),
            );
        }
        _ => {}
    }
    // The first paragraph says what; the rest is usage.
    let what: Vec<&str> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let hint = if what.contains(": use ") {
        String::new()
    } else {
        let command = args.get(1).and_then(|arg| arg.to_str());
        let command = command.filter(|arg| ["run", "stacks", "check", "new-stack", "seccomp"].contains(arg));
        format!(" (see 'netgraft {}--help')", command.map(|name| format!("{name} ")).unwrap_or_default())
    };
    Stop::Error(format!("{what}{hint}"))
}

/// The registered stacks, for people.
pub(crate) fn stacks_text() -> String {
    let mut text = String::new();
    for name in plugin_stack_names() {
        let made = get_plugin_stack(&name).map_err(|e| e.to_string()).and_then(|factory| {
            factory(&StackConfig::default()).map(|stack| stack.info()).map_err(|e| e.to_string())
        });
        let _ = match made {
            Ok(info) => write!(text, "{}", StackText(&info, true)),
            Err(error) => writeln!(text, "{name}: {error}"),
        };
    }
    text
}

/// The system calls of a sentry: its own, and what each stack adds.
///
/// # Errors
/// The first file that holds no stack.
pub(crate) fn syscalls_text(files: &[String]) -> Result<String, netgraft_abi::LoadError> {
    use netgraft_launch::{Origin, base_listing, foreign_listing, on_private_links, stack_listing};
    let (base, foreign) = (base_listing(), foreign_listing());
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "the sentry: {} system calls; any other kills it\n{base}", base.len());
    let of_stack = |name: &str, origin, rules: &[SyscallRule]| {
        let more = stack_listing(origin, rules);
        if more.is_empty() {
            return format!("{name}: no more\n\n");
        }
        format!("{name}: {} more\n{more}\n", more.len())
    };
    if files.is_empty() {
        text += &of_stack(
            "a private link (datagram sockets on a link of the built-in stack)",
            Origin::Tree,
            &on_private_links(),
        );
        let device: Option<InterfaceName> = "IFACE".parse().ok();
        let tap = device.clone().map(|name| ("with --link tap:IFACE ", LinkConfig::tap(name)));
        let packet = device.map(|name| ("with --link packet:IFACE ", LinkConfig::packet(name)));
        let links = [Some(("", LinkConfig::None)), tap, packet].into_iter().flatten();
        let links: Vec<_> = links.collect();
        for name in plugin_stack_names() {
            let mut before = None;
            for (with, link) in &links {
                let config = StackConfig { link: link.clone(), ..StackConfig::default() };
                let made = get_plugin_stack(&name).ok().and_then(|factory| factory(&config).ok());
                let Some(rules) = made.map(|stack| stack.seccomp_filters()) else { continue };
                if before.as_ref() != Some(&rules) {
                    text += &of_stack(format!("{name} {with}").trim_end(), Origin::Tree, &rules);
                }
                before = Some(rules);
            }
        }
    }
    let _ = writeln!(
        text,
        "any stack that is not of netgraft itself, such as a shared object: {} more\n{foreign}",
        foreign.len()
    );
    for file in files {
        let object = netgraft_launch::stacks::load(file.as_ref(), false)?;
        text += &of_stack(&format!("{file}, besides"), Origin::Foreign, object.rules());
    }
    Ok(text.trim_end().to_owned() + "\n")
}

/// Stacks in files, for people.
///
/// # Errors
/// The first file that holds no stack.
pub(crate) fn object_text(files: &[String]) -> Result<String, netgraft_abi::LoadError> {
    let mut text = String::new();
    for file in files {
        let object = netgraft_launch::stacks::load(file.as_ref(), false)?;
        let level = match object.level() {
            netgraft_abi::Level::Zero => "level 0",
            netgraft_abi::Level::One => "level 1",
            _ => "a later level",
        };
        // Writing to a string does not fail.
        // Level 0 has no way to say which options it knows: those that its adapter would ask for are no promise.
        let said = object.level() != netgraft_abi::Level::Zero;
        let _ = writeln!(text, "{}  object:  {file}, {level}", StackText(object.info(), said));
        for doubt in object.doubts() {
            let _ = writeln!(text, "  beware:  it {doubt}");
        }
    }
    Ok(text)
}

/// A stack, and whether it says itself which options it knows.
struct StackText<'a>(&'a StackInfo, bool);

impl fmt::Display for StackText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0;
        writeln!(f, "{} {}", info.name, info.version)?;
        let mut sockets: Vec<String> =
            info.sockets.iter().map(|s| format!("{:?}/{:?}", s.protocol, s.domain).to_lowercase()).collect();
        sockets.dedup();
        writeln!(f, "  sockets: {}", sockets.join(", "))?;
        let options: Vec<String> = info.options.iter().map(|name| format!("{name:?}")).collect();
        let options = match options.join(", ") {
            _ if !self.1 => "not said before it is asked (level 0)".to_owned(),
            none if none.is_empty() => "none".to_owned(),
            options => options,
        };
        writeln!(f, "  options: {options}")?;
        writeln!(f, "  needs:   {}", if info.needs.is_empty() { "nothing" } else { &info.needs })
    }
}

/// What to do with a new stack, for people.
pub(crate) fn new_stack_text(new: &NewStack, object: &str) -> String {
    let dir = new.dir.display();
    let (build, test) = match new.language {
        Language::Rust => ("cargo build --release".to_owned(), format!("./test.sh {object}")),
        _ => ("make".to_owned(), "make test".to_owned()),
    };
    format!(
        "{dir}: a stack that is whole. README.md says where to begin; then:\n  \
         cd {dir} && {build}\n  \
         netgraft check ./{object}\n  \
         netgraft run --network plugin --plugin ./{object} -- redis-server\n  \
         {test}\n"
    )
}

/// What happened in a sandbox, for people.
pub(crate) fn summary_text(summary: Option<&Summary>) -> String {
    let Some(s) = summary else {
        return "netgraft: the sentry did not say in time what happened\n".to_owned();
    };
    let packets = match s.packets {
        // A stack that does not count them says none, and so does one that had none.
        (0, 0) => String::new(),
        (received, sent) => format!("netgraft: IP packets   {sent} sent, {received} received\n"),
    };
    let joined = match s.connections_joined {
        0 => String::new(),
        joined => format!(", {joined} of them inside the sandbox, past the stack"),
    };
    let denied = match s.denied {
        0 => String::new(),
        denied => format!("netgraft: denied       {denied}\n"),
    };
    format!(
        "netgraft: stack        {}\n\
         netgraft: sockets      {} ({} calls answered)\n\
         netgraft: connections  {} out, {} in{joined}\n\
         netgraft: bytes        {} sent, {} received\n\
         netgraft: datagrams    {} sent, {} received\n\
         {packets}{denied}",
        s.stack,
        s.sockets,
        s.calls,
        s.connections_out,
        s.connections_in,
        s.bytes_sent,
        s.bytes_received,
        s.datagrams_sent,
        s.datagrams_received,
    )
}

/// Prints warnings, and with more `verbosity` more, to standard error.
pub(crate) fn log_to_stderr(verbosity: u8) {
    let level = match verbosity {
        0 => Level::WARN,
        1 => Level::INFO,
        2 => Level::DEBUG,
        _ => Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(LogWriter::new)
        .with_ansi(false)
        .event_format(Line)
        .init();
}

/// A text on one line, whatever is in it: a part of it may come from a stack or a program.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// One event: "netgraft: warning: text".
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        writeln!(writer, "netgraft: {level}: {}", one_line(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_complete_commands_and_options() {
        for shell in ["bash", "fish", "zsh"] {
            let Err(Stop::Text(text)) = parsed(&format!("netgraft completions {shell}")) else {
                panic!("{shell}")
            };
            for word in ["netgraft", "run", "network", "policy"] {
                assert!(text.contains(word), "{shell}: {word}");
            }
        }
        assert!(
            matches!(parsed("netgraft completions nosuchshell"), Err(Stop::Error(text)) if text.contains("nosuchshell"))
        );
    }

    #[test]
    fn run_is_parsed_without_the_other_commands() {
        let alone =
            |line: &str| parse_run(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).is_some();
        assert!(alone("netgraft run --network host -- true"));
        // Who says what is wrong knows all commands.
        for line in ["netgraft run --help", "netgraft run", "netgraft list"] {
            assert!(!alone(line), "{line}");
        }
    }

    fn parsed(line: &str) -> Result<Command, Stop> {
        parse(line.split_ascii_whitespace().map(OsString::from).collect())
    }

    fn run(line: &str) -> (NetworkSpec, ProgramSpec) {
        match parsed(line) {
            Ok(Command::Run { network, program, .. }) => (*network, *program),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn error(line: &str) -> String {
        match parsed(line) {
            Err(Stop::Error(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn options_end_at_the_program() {
        let (network, program) = run("netgraft run --network none ls --network host -v --summary -- x");
        assert_eq!(network.kind, NetworkType::None);
        assert_eq!(program.program, "ls");
        assert_eq!(program.args, ["--network", "host", "-v", "--summary", "--", "x"]);
        let (_, program) = run("netgraft run -- curl -s -- y");
        assert_eq!((program.program.to_str(), program.args.len()), (Some("curl"), 3));
        let (_, program) = run("netgraft run -- --odd-name");
        assert_eq!(program.program, "--odd-name");
        assert_eq!(run("netgraft run true").0.kind, NetworkType::Sandbox);
    }

    #[test]
    fn everything_about_the_stack_is_parsed() {
        let (network, _) =
            run("netgraft run --network plugin --plugin mine --plugin-arg -x=1 --link packet:eth1 \
             --address 192.0.2.2/24 --address 2001:db8::2/64 --gateway 192.0.2.1 --dns 192.0.2.53 -- p");
        assert_eq!(network.plugin.as_deref(), Some("mine"));
        assert_eq!(network.config.argument.as_deref(), Some("-x=1"));
        assert_eq!(network.config.link, netgraft_plugin::LinkConfig::packet("eth1".parse().unwrap()));
        assert_eq!(network.config.addresses.len(), 2);
        assert_eq!(network.config.gateways.len(), 1);
        assert_eq!(network.name_servers.len(), 1);
    }

    #[test]
    fn bad_input_is_told_in_one_line() {
        for (line, part) in [
            ("netgraft run --network tun -- p", "use none, host, sandbox or plugin"),
            ("netgraft run --link wire -- p", "use none, passt, tap:NAME, packet:IFACE or"),
            ("netgraft run --link tap:a/b -- p", "cannot be an interface name"),
            ("netgraft run --link-delay 25 -- p", "'25' is not a time of at most an hour, such as 25ms"),
            ("netgraft run --link-loss up:1% -- p", "'up:1%' is not a loss"),
            ("netgraft run --link-jitter 5ms -- p", "--link-jitter, out: the jitter of 5ms is more than"),
            ("netgraft run --link-queue in:5 -- p", "--link-queue, in: a queue without a rate"),
            ("netgraft run --address 192.0.2.2 -- p", "address with a prefix length"),
            ("netgraft run --gateway here -- p", "--gateway"),
            ("netgraft run --neighbour 192.0.2.1=ff:ff:ff:ff:ff:ff -- p", "of a host and of its station"),
            ("netgraft run --dns 1.2.3 -- p", "--dns"),
            ("netgraft run --on-crash retry -- p", "use fail or restart"),
            ("netgraft run --allow-syscall opn -- p", "use a name of syscalls(2)"),
            ("netgraft new-stack x --lang go", "use c or rust"),
            ("netgraft run --bogus p", "unknown option '--bogus'"),
            ("netgraft run", "PROGRAM"),
            ("netgraft run --", "PROGRAM"),
            ("netgraft", "no command given"),
            ("netgraft walk", "walk"),
        ] {
            let text = error(line);
            assert!(text.contains(part), "{line}: {text}");
            assert!(!text.contains('\n') && !text.starts_with("error"), "{line}: {text}");
        }
    }

    #[test]
    fn errors_point_to_the_help_of_their_command() {
        for (line, help) in [
            ("netgraft run --odd", "(see 'netgraft run --help')"),
            ("netgraft stacks --odd", "(see 'netgraft stacks --help')"),
            ("netgraft check", "(see 'netgraft check --help')"),
            ("netgraft check --odd ./x.so", "(see 'netgraft check --help')"),
            ("netgraft new-stack", "(see 'netgraft new-stack --help')"),
            ("netgraft walk", "(see 'netgraft --help')"),
        ] {
            let text = error(line);
            assert!(text.contains(help), "{line}: {text}");
        }
    }

    #[test]
    fn help_is_text_and_has_examples() {
        for line in ["netgraft --help", "netgraft run --help", "netgraft --version"] {
            assert!(matches!(parsed(line), Err(Stop::Text(_))), "{line}");
        }
        let Err(Stop::Text(help)) = parsed("netgraft run --help") else { panic!() };
        assert!(help.contains("Examples:") && help.contains("Exit status"));
    }

    #[test]
    fn a_text_is_one_line() {
        assert_eq!(
            one_line("a\nnetgraft: error: b\r\u{1b}[1m"),
            "a\u{fffd}netgraft: error: b\u{fffd}\u{fffd}[1m"
        );
    }

    #[test]
    fn summaries_are_readable() {
        let summary = Summary { stack: "smoltcp 0.1".into(), packets: (3, 4), ..Summary::default() };
        let text = summary_text(Some(&summary));
        assert!(text.contains("smoltcp 0.1") && text.contains("4 sent, 3 received"));
        assert!(text.lines().all(|line| line.starts_with("netgraft: ")));
        let silent = Summary { packets: (0, 0), ..summary };
        assert!(!summary_text(Some(&silent)).contains("IP packets"));
        assert!(summary_text(None).contains("did not say"));
    }
}

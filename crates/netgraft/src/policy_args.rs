//! The options of `netgraft run` about who may talk to whom, and `netgraft policy`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args, Subcommand};
use netgraft::policy::{
    Action, Denial, Direction, Loopback, Policy, PolicyFile, PolicySpec, Rule, parse_flow,
};
use netgraft_launch::operator::{Answer, Request};
use netgraft_plugin::NetworkType;

use crate::operator::Client;

#[derive(Args)]
#[command(next_help_heading = "Who may talk to whom")]
pub(crate) struct PolicyArgs {
    /// Allow what a rule is about; repeatable, and the first rule of all that is about a flow decides. RULE is
    /// [out|in|bind] [tcp|udp|icmp|raw] ADDRESS[/BITS][:PORT[-PORT]], such as 192.0.2.1:443, 'udp 192.0.2.53:53',
    /// 'in tcp any:80', 'bind tcp any:8000-8999'. Once there is a rule that allows, all else out and in is denied. With any rule,
    /// private networks and metadata services of clouds are denied unless a rule names them, and
    /// not more than them; the loopback of a sandbox is its own, but for --network host
    #[arg(long, value_name = "RULE", value_parser = allow)]
    allow: Vec<Rule>,

    /// Deny what a rule is about; repeatable
    #[arg(long, value_name = "RULE", value_parser = deny)]
    deny: Vec<Rule>,

    /// Rules from a file, after those of the command line
    #[arg(long, value_name = "FILE.toml")]
    policy: Option<PathBuf>,

    /// What becomes of flows out and in that no rule is about: allow or deny [default: deny if any rule allows, else allow]
    #[arg(long, value_name = "ACTION", value_parser = action)]
    policy_default: Option<Action>,

    /// Rules about all addresses are about private networks, too
    #[arg(long)]
    allow_private: bool,

    /// What a call says that is denied: access (EACCES) or refused (ECONNREFUSED) [default: access]
    #[arg(long, value_name = "ERROR", value_parser = denial)]
    deny_with: Option<Denial>,

    /// Do not start if the program is given internet sockets of the host's (--keep-fd, socket activation, input and output), which no
    /// rule reaches; with rules alone that is said
    #[arg(long)]
    pub(crate) strict: bool,
}

fn allow(text: &str) -> Result<Rule, String> {
    Rule::parse(Action::Allow, text).map_err(|error| error.to_string())
}

fn deny(text: &str) -> Result<Rule, String> {
    Rule::parse(Action::Deny, text).map_err(|error| error.to_string())
}

fn action(text: &str) -> Result<Action, String> {
    match text {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        _ => Err("use allow or deny".to_owned()),
    }
}

fn denial(text: &str) -> Result<Denial, String> {
    match text {
        "access" => Ok(Denial::AccessDenied),
        "refused" => Ok(Denial::Refused),
        _ => Err("use access or refused".to_owned()),
    }
}

impl PolicyArgs {
    /// The policy; `None` if nothing of it was given. `matches` tells in which order the rules were.
    pub(crate) fn spec(
        self,
        matches: Option<&ArgMatches>,
        network: NetworkType,
    ) -> Result<Option<PolicySpec>, String> {
        let mut spec = match &self.policy {
            Some(file) => read(file)?,
            None => PolicySpec::default(),
        };
        let places = |name: &str| -> Vec<usize> {
            matches.and_then(|matches| matches.indices_of(name)).into_iter().flatten().collect()
        };
        let mut rules: Vec<(usize, Rule)> = places("allow").into_iter().zip(self.allow).collect();
        rules.extend(places("deny").into_iter().zip(self.deny));
        rules.sort_by_key(|(place, _)| *place);
        spec.rules.splice(0..0, rules.into_iter().map(|(_, rule)| rule));
        spec.default = self.policy_default.or(spec.default);
        spec.deny_with = self.deny_with.or(spec.deny_with);
        spec.allow_private |= self.allow_private;
        spec.loopback = loopback(network);
        if let (Some(file), true) = (&self.policy, spec.is_empty()) {
            return Err(without_rules(file));
        }
        if spec.is_empty() {
            let alone = [(self.allow_private, "--allow-private"), (self.deny_with.is_some(), "--deny-with")];
            return match alone.into_iter().find(|(given, _)| *given) {
                Some((_, option)) => {
                    Err(format!("{option} goes with --allow, --deny, --policy or --policy-default"))
                }
                None => Ok(None),
            };
        }
        Ok(Some(spec))
    }
}

fn loopback(network: NetworkType) -> Loopback {
    if network == NetworkType::Host { Loopback::OfHost } else { Loopback::OfSandbox }
}

fn without_rules(file: &Path) -> String {
    format!(
        "{}: there is neither a rule nor a default in it, so it would allow everything: add one, such as default = \"deny\"",
        file.display()
    )
}

fn read(file: &Path) -> Result<PolicySpec, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    PolicyFile::parse(&text).map(|file| file.spec).map_err(|error| format!("{}: {error}", file.display()))
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Read a policy file and say what it does
    Check(PolicyCheck),
    /// Have a sandbox that runs keep the rules of a file instead of those that it has
    Set(PolicySet),
}

#[derive(Args, Debug)]
pub(crate) struct PolicySet {
    /// The sandbox, as 'netgraft list' names it
    sandbox: String,

    /// The file. If anything is wrong with it, the sandbox keeps the rules that it has
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,

    /// Also end what goes on and is denied by them: connections are reset. Without it, they are about what begins from now on
    #[arg(long)]
    kill: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PolicyCheck {
    /// The file
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,

    /// Say what becomes of a flow, and by which rule: 'tcp 192.0.2.1:443', 'in tcp 192.0.2.1:80' (a peer's address and the own
    /// port), 'bind udp 127.0.0.1:53'; repeatable
    #[arg(long = "flow", value_name = "FLOW")]
    flows: Vec<String>,

    /// The type of network that it is for
    #[arg(long, value_name = "TYPE", default_value_t)]
    network: NetworkType,
}

/// The text of `netgraft policy set`.
pub(crate) fn set(args: &PolicySet) -> Result<String, String> {
    let policy = read(&args.file)?;
    if policy.is_empty() {
        return Err(without_rules(&args.file));
    }
    let mut client = Client::connect(&args.sandbox)?;
    client.ask(Request::SetPolicy { policy, kill: args.kill })?;
    let Answer::PolicySet { ended, left } = client.next()? else {
        return Err(format!("the sandbox {} answers something else", args.sandbox));
    };
    let mut text = String::new();
    if args.kill {
        let _ = writeln!(text, "{ended} flows ended");
    }
    if left > 0 {
        let _ = writeln!(
            text,
            "{left} connections between its programs go on: no descriptor of theirs was found"
        );
    }
    Ok(text)
}

/// The text of `netgraft policy check`.
pub(crate) fn check(args: &PolicyCheck) -> Result<String, String> {
    let spec = PolicySpec { loopback: loopback(args.network), ..read(&args.file)? };
    if spec.is_empty() {
        return Ok(format!("{}: no rules: everything is allowed\n", args.file.display()));
    }
    let policy = Policy::new(spec);
    let mut text = String::new();
    if args.flows.is_empty() {
        let rules = policy.spec().rules.len();
        let default = policy.default_of(Direction::Out);
        let _ = writeln!(text, "{}: {rules} rules, what no rule is about: {default}", args.file.display());
    }
    for flow in &args.flows {
        let (direction, protocol, address) =
            parse_flow(flow).map_err(|error| format!("the flow '{flow}': {error}"))?;
        let own = std::net::SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), address.port());
        let (local, remote) = match direction {
            Direction::Bind => (address, own),
            _ => (own, address),
        };
        let verdict = policy.decide(direction, protocol, local, remote);
        let reason = policy.reason_text(verdict);
        let _ = writeln!(text, "{} {direction} {protocol} {address}: {reason}", verdict.action);
    }
    Ok(text)
}

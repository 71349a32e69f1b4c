//! The command line.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::compare::{LOOPBACK, Place, Plan, crosses_a_link};
use crate::error::{Doing, Error, Result};
use crate::lab::{Lab, Uplink};
use crate::load::{Protocol, Workload, cases, select};
use crate::machine::Machine;
use crate::outcome::{Bounds, Outcome};
use crate::report::{Report, entries};
use crate::server::Life;
use crate::side::{Runner, Side};
use crate::{client, pair, process, server, wan};

/// Compares netgraft's stacks with the kernel's own, side by side in one run.
#[derive(Parser)]
#[command(name = "netgraft-bench", version)]
struct Line {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Serve every workload; print the address as one line of JSON and end with standard input
    Server(ServerArgs),
    /// Run a workload against a server and print the outcome as one line of JSON
    Client {
        /// Where the server listens
        #[arg(long, value_name = "ADDRESS:PORT")]
        connect: SocketAddr,
        #[command(flatten)]
        timing: Timing,
        #[command(subcommand)]
        workload: Workload,
    },
    /// Run a server and a client on a loopback address and print the outcome as one line of JSON
    Pair {
        /// The address that both use
        #[arg(long, value_name = "ADDRESS", default_value_t = LOOPBACK)]
        on: IpAddr,
        #[command(flatten)]
        timing: Timing,
        #[command(subcommand)]
        workload: Workload,
    },
    /// Run workloads on several networks in turn and print a table
    Compare(CompareArgs),
    /// Compare TCP on a line with delay, loss and so on between two namespaces; needs root
    #[command(after_help = wan::HELP)]
    Wan(wan::WanArgs),
    /// A process of `wan`: the line, or one end
    #[command(hide = true)]
    WanPart {
        #[command(subcommand)]
        part: wan::Part,
    },
}

#[derive(Args)]
struct ServerArgs {
    /// Where to listen; port 0 leaves the port to the system
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Serve UDP instead of TCP
    #[arg(long)]
    udp: bool,
    /// End after this time, whatever happens
    #[arg(long = "for", value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    life: Duration,
    /// End after this time without traffic
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    quiet: Duration,
    /// Go on when standard input ends
    #[arg(long)]
    ignore_stdin: bool,
}

#[derive(Args)]
struct Timing {
    /// How long to count; a tenth of it is added as warm-up (not in bulk)
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    seconds: Duration,
    /// How many operations to make at most; bytes, in a bulk transfer
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl Timing {
    fn bounds(&self, workload: &Workload) -> Bounds {
        let most = match workload {
            Workload::Bulk { .. } | Workload::Iperf3 { .. } => 10_000_000_000_000,
            _ => 100_000_000,
        };
        Bounds { time: self.seconds, count: self.limit.unwrap_or(most) }
    }
}

#[derive(Args)]
struct CompareArgs {
    /// Networks to compare, the first being the base: native, none, host, sandbox, plugin:NAME,
    /// pasta
    #[arg(long, value_delimiter = ',', default_value = "native,host,sandbox", value_name = "NETWORKS")]
    networks: Vec<Side>,
    /// Workloads, by full name or family; all of netgraft-bench's own if absent
    #[arg(long, value_delimiter = ',', value_name = "WORKLOADS")]
    workloads: Vec<String>,
    /// Add the time that starting a program takes
    #[arg(long)]
    start_up: bool,
    /// Add workloads of programs that are installed
    #[arg(long = "with", value_delimiter = ',', value_enum, value_name = "PROGRAMS")]
    tools: Vec<Tool>,
    /// Put the two ends into two namespaces joined by veth, with a native peer, both ways; needs root
    #[arg(long)]
    links: bool,
    /// The same with passt as the link of netgraft's stacks, which dial; the network pasta is beside it
    #[arg(long, value_enum, value_name = "LINK")]
    link: Option<Link>,
    /// How often to measure each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long to count in one run
    #[arg(long, default_value = "1", value_parser = seconds)]
    seconds: Duration,
    /// Write everything to this file as JSON; - is standard output, and the table then goes to standard error
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The netgraft command [default: NETGRAFT_BIN, else the file beside this program]
    #[arg(long, value_name = "PATH")]
    netgraft: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Link {
    /// passt
    Passt,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tool {
    /// redis-server and redis-benchmark
    Redis,
    /// iperf3
    Iperf3,
}

impl Tool {
    fn family(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Iperf3 => "iperf3",
        }
    }
}

/// A time in seconds, with a fraction if need be.
pub(crate) fn seconds(text: &str) -> std::result::Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected a number of seconds from 0.01 to 3600".to_owned()),
    }
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    match act(Line::parse().action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("netgraft-bench: {error}");
            match error {
                // As a shell reports SIGINT.
                Error::Interrupted => ExitCode::from(130),
                Error::Io { .. } | Error::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn act(action: Action) -> Result<ExitCode> {
    match action {
        Action::Server(args) => {
            process::raise_file_limit()?;
            let protocol = if args.udp { Protocol::Udp } else { Protocol::Tcp };
            let life = Life::new(Instant::now(), args.life, args.quiet);
            server::run(protocol, args.listen, life, !args.ignore_stdin)?;
        }
        Action::Client { connect, timing, workload } => {
            process::raise_file_limit()?;
            print_outcome(&client::run(&workload, connect, timing.bounds(&workload))?)?;
        }
        Action::Pair { on, timing, workload } => {
            process::raise_file_limit()?;
            process::catch_interrupts()?;
            print_outcome(&pair::run(&workload, on, timing.bounds(&workload))?)?;
        }
        Action::Compare(args) => return compare(args),
        Action::Wan(args) => return wan::run(args),
        Action::WanPart { part } => wan::run_part(part)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print_outcome(outcome: &Outcome) -> Result<()> {
    let line = serde_json::to_string(outcome).doing(|| "writing the outcome as JSON")?;
    writeln!(std::io::stdout(), "{line}").doing(|| "printing the outcome")
}

fn compare(args: CompareArgs) -> Result<ExitCode> {
    process::catch_interrupts()?;
    let links = args.links || args.link.is_some();
    let uplink = if args.link.is_some() { Uplink::Passt } else { Uplink::Packet };
    if args.networks.contains(&Side::Pasta) && args.link.is_none() {
        return Err(Error::Failed("the network pasta goes with --link passt".to_owned()));
    }
    if links && args.networks.contains(&Side::None) {
        return Err(Error::Failed(
            "the network none reaches no peer, so it can't be compared with --links".to_owned(),
        ));
    }
    let runner = Runner::find(&args.networks, args.netgraft)?;
    let cases = select(&chosen(&args.workloads, args.start_up, &args.tools, links)).map_err(Error::Failed)?;
    let machine = Machine::now();
    let place = if links { Place::Links(Lab::new(uplink)?) } else { Place::Loopback };
    let plan = Plan { runner, sides: args.networks, cases, rounds: args.rounds, time: args.seconds, place };
    let rows = plan.run(|step| eprintln!("netgraft-bench: {step}"))?;
    let report = Report {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        machine,
        rounds: plan.rounds,
        seconds: plan.time.as_secs_f64(),
        results: entries(&plan.sides, rows),
    };
    publish(&report, args.json)?;
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The names of the cases that the options ask for.
fn chosen(workloads: &[String], start_up: bool, tools: &[Tool], links: bool) -> Vec<String> {
    let mut names = workloads.to_vec();
    if start_up {
        names.push("start-up".to_owned());
    }
    names.extend(tools.iter().map(|tool| tool.family().to_owned()));
    if workloads.is_empty() {
        let tool = |family| family == Tool::Redis.family() || family == Tool::Iperf3.family();
        let own = cases().into_iter().filter(|case| !tool(case.family) && (!links || crosses_a_link(case)));
        names.extend(own.map(|case| case.name.to_owned()));
    }
    names
}

fn publish(report: &Report, json: Option<PathBuf>) -> Result<()> {
    let table = report.table();
    let Some(path) = json else {
        return write!(std::io::stdout(), "{table}").doing(|| "printing the table");
    };
    let text = serde_json::to_string_pretty(report).doing(|| "writing the report as JSON")?;
    if path.as_os_str() == "-" {
        eprint!("{table}");
        return writeln!(std::io::stdout(), "{text}").doing(|| "printing the report");
    }
    // The table comes first: an hour's figures must not get lost to a full disk.
    write!(std::io::stdout(), "{table}").doing(|| "printing the table")?;
    std::fs::write(&path, text + "\n").doing(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "0", "-1", "3601", "NaN", "inf", "1s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tools_come_only_when_asked_for() {
        let names = chosen(&[], false, &[], false);
        assert!(
            names.contains(&"start-up".to_owned()) && !names.iter().any(|name| name.starts_with("redis"))
        );
        let names = chosen(&["request-1".to_owned()], true, &[Tool::Redis], false);
        assert_eq!(names, ["request-1", "start-up", "redis"]);
        assert!(!chosen(&[], false, &[], true).contains(&"control".to_owned()));
    }
}

//! `netgraft-bench wan`: a stack's TCP beside the kernel's on a line with delay, loss and so on.
//!
//! Each run has a line, a native server at its far end and a client on the side under test, all processes of this program.
//! The runs of a round are neighbours in time and have the same seed.

mod flow;
mod hub;
mod lab;
mod line;
mod report;
mod svg;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use netgraft_plugin::InterfaceName;
use netgraft_plugin::faults::Faults;

use crate::cli::seconds;
use crate::error::{Doing, Error, Result};
use crate::pair::ready;
use crate::process::{self, Running, check_interrupt};
use crate::side::{Runner, Side};
use flow::{Direction, Seen};
use lab::WanLab;
use report::{Case, Report, Sample, Size};

/// How long a part may take beside its flows.
const PATIENCE: Duration = Duration::from_secs(60);

/// The lines that are measured unless others are asked for.
const LINES: [&str; 10] = [
    "none",
    "loss=0.1%",
    "loss=1%",
    "delay=5ms",
    "delay=25ms",
    "delay=25ms,loss=0.1%",
    "delay=25ms,loss=1%",
    "delay=25ms,loss=3%",
    "delay=25ms,reorder=1%:3ms",
    "delay=25ms,duplicate=1%",
];

/// The line on which flows meet unless others are asked for: its queue holds a round trip.
const BOTTLENECK: &str = "delay=10ms,rate=100mbit,queue=170";

pub(crate) const HELP: &str = "\
A line is NAME=VALUE as often as is wanted, with commas between, for each direction: delay=25ms, jitter=2ms, loss=1% or
loss=burst:BEGIN/END, reorder=1%:3ms, duplicate=1%, corrupt=0.1%, rate=100mbit, queue=200 (frames); or none.
Flows: 10k and 1m tell the time until a flow of this size is complete, bulk the goodput. share makes four flows at the same
time and tells what the slowest has of a fair share; beside makes two beside two of the kernel's and tells what they have of
theirs. These two take ten times as long as a bulk flow, and have a line with a bottleneck of 100 Mbit/s unless --line is
given.

Examples:
  netgraft-bench wan
      ten lines and a bottleneck, cubic and bbr, all flows, both directions: some 55 minutes
  netgraft-bench wan --line delay=25ms,loss=1% --congestion cubic --flows bulk --svg wan.svg
      one row";

#[derive(Args)]
pub(crate) struct WanArgs {
    /// Networks to compare, the first being the base: native, sandbox, plugin:NAME
    #[arg(long, value_delimiter = ',', default_value = "native,sandbox", value_name = "NETWORKS")]
    networks: Vec<Side>,
    /// A line to measure on; repeatable [default: ten of them]
    #[arg(long = "line", value_name = "FAULTS")]
    lines: Vec<String>,
    /// Congestion controls of both ends, in turn
    #[arg(long, value_delimiter = ',', default_value = "cubic,bbr", value_name = "NAMES")]
    congestion: Vec<String>,
    /// Flows to measure: 10k and 1m for the time until a flow of this size is complete, bulk for goodput, share and beside for
    /// how they share a bottleneck
    #[arg(long, value_delimiter = ',', default_value = "10k,1m,bulk,share,beside", value_name = "SIZES")]
    flows: Vec<Size>,
    /// Directions, as the side under test sees them
    #[arg(long, value_delimiter = ',', value_enum, default_value = "out,in", value_name = "DIRECTIONS")]
    directions: Vec<Direction>,
    /// How often to measure each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long a bulk flow takes
    #[arg(long, default_value = "2", value_parser = seconds)]
    seconds: Duration,
    /// Decides which frames are lost and so on; each round has another one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write everything to this file as JSON; - is standard output, and the table then goes to standard error
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a chart of the ratios to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The netgraft command [default: NETGRAFT_BIN, else the file beside this program]
    #[arg(long, value_name = "PATH")]
    netgraft: Option<PathBuf>,
}

/// The processes of a run.
#[derive(Subcommand)]
pub(crate) enum Part {
    /// Carry frames between interfaces: from the first of the one end to the first of the other, and so on
    Line {
        #[arg(long, value_delimiter = ',')]
        left: Vec<InterfaceName>,
        #[arg(long, value_delimiter = ',')]
        right: Vec<InterfaceName>,
        #[arg(long, default_value = "none")]
        faults: Faults,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Serve flows
    Server {
        listen: SocketAddr,
        #[arg(long)]
        congestion: String,
    },
    /// Make flows
    Client {
        to: SocketAddr,
        #[arg(long)]
        congestion: String,
        #[arg(long, value_enum)]
        direction: Direction,
        #[arg(long, default_value_t = 0)]
        bytes: u64,
        #[arg(long, default_value_t = 1)]
        times: u32,
        #[arg(long, default_value_t = 1)]
        at_once: u32,
        #[arg(long, default_value = "1", value_parser = seconds)]
        seconds: Duration,
    },
}

/// Runs a process of a run.
pub(crate) fn run_part(part: Part) -> Result<()> {
    match part {
        Part::Line { left, right, faults, seed } => line::run(&left, &right, faults, seed),
        Part::Server { listen, congestion } => flow::serve(listen, &congestion),
        Part::Client { to, congestion, direction, bytes, times, at_once, seconds } => {
            // Neighbours are found before the clock runs: both stacks may wait a second for a lost question.
            flow::dial(to, &congestion, Direction::In, 1, 1, Duration::ZERO)?;
            flow::print(&if at_once > 1 {
                flow::dial_several(to, &congestion, direction, at_once, seconds)?
            } else {
                flow::dial(to, &congestion, direction, bytes, times, seconds)?
            })
        }
    }
}

/// Compares.
pub(crate) fn run(args: WanArgs) -> Result<ExitCode> {
    process::catch_interrupts()?;
    if let Some(side) = args.networks.iter().find(|side| matches!(side, Side::None | Side::Host)) {
        return Err(Error::Failed(format!(
            "{side} has no link of its own: compare native, sandbox, plugin:NAME"
        )));
    }
    let texts = if args.lines.is_empty() { LINES.map(str::to_owned).to_vec() } else { args.lines.clone() };
    for text in &texts {
        text.parse::<Faults>().map_err(|error| Error::Failed(format!("--line {text}: {error}")))?;
    }
    let known = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")
        .doing(|| "asking for the kernel's congestion controls")?;
    if let Some(name) = args.congestion.iter().find(|name| !known.split_whitespace().any(|one| one == *name))
    {
        let known = known.trim();
        return Err(Error::Failed(format!("the kernel has no congestion control {name}, but: {known}")));
    }
    let runner = Runner::find(&args.networks, args.netgraft.clone())?;
    let machine = crate::machine::Machine::now();
    let bench = Bench { lab: WanLab::new()?, runner, seconds: args.seconds };
    let cases = cases(&args, &texts);
    let mut rows = Vec::new();
    for case in cases {
        let mut sides = vec![Vec::new(); args.networks.len()];
        for round in 1..=args.rounds {
            for (side, samples) in args.networks.iter().zip(&mut sides) {
                eprintln!("netgraft-bench: {case}, round {round} of {}, {side}", args.rounds);
                samples.push(match bench.sample(&case, side, args.seed.wrapping_add(u64::from(round))) {
                    Ok(sample) => Ok(sample),
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(error) => Err(error.to_string()),
                });
            }
        }
        rows.push((case, sides));
    }
    let report = Report::new(machine, args.rounds, args.seconds, args.seed, &args.networks, rows);
    publish(&report, &args)?;
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is measured, in its order.
fn cases(args: &WanArgs, lines: &[String]) -> Vec<Case> {
    let (own, meeting): (Vec<Size>, Vec<Size>) = args.flows.iter().partition(|size| !size.meets_others());
    let bottleneck = [BOTTLENECK.to_owned()];
    // Flows that meet need a bottleneck; a line that was asked for is expected to have one.
    let parts = match args.lines.is_empty() {
        true => vec![(lines, own), (&bottleneck[..], meeting)],
        false => vec![(lines, args.flows.clone())],
    };
    let mut cases = Vec::new();
    for (lines, sizes) in &parts {
        for line in *lines {
            for congestion in &args.congestion {
                for &size in sizes {
                    for &direction in &args.directions {
                        let (line, congestion) = (line.clone(), congestion.clone());
                        cases.push(Case { line, congestion, size, direction });
                    }
                }
            }
        }
    }
    cases
}

fn publish(report: &Report, args: &WanArgs) -> Result<()> {
    let to_stdout = args.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
    let table = report.table();
    if to_stdout {
        eprint!("{table}");
    } else {
        print!("{table}");
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, svg::chart(report)).doing(|| format!("writing {}", path.display()))?;
    }
    let Some(path) = &args.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(report).doing(|| "writing the report as JSON")?;
    if to_stdout {
        println!("{text}");
        return Ok(());
    }
    std::fs::write(path, text + "\n").doing(|| format!("writing {}", path.display()))
}

struct Bench {
    lab: WanLab,
    runner: Runner,
    seconds: Duration,
}

impl Bench {
    fn sample(&self, case: &Case, side: &Side, seed: u64) -> Result<Sample> {
        check_interrupt()?;
        let mut lanes = vec![WanLab::attach(side)];
        if case.size == Size::Beside {
            lanes.push(WanLab::attach(&Side::Native));
        }
        let time = case.size.time(self.seconds);
        let until = || Instant::now() + time * 4 + PATIENCE;
        // Both sides may have the same lane.
        let shared = lanes.len() == 2 && lanes[0].interfaces != lanes[1].interfaces;
        let ends = |place: usize| {
            let names =
                lanes.iter().take(1 + usize::from(shared)).map(|lane| lane.interfaces[place].as_str());
            names.collect::<Vec<&str>>().join(",")
        };
        let (left, right, seed) = (ends(0), ends(1), seed.to_string());
        let words = ["line", "--left", &left, "--right", &right, "--faults", &case.line, "--seed", &seed];
        let mut line = Running::spawn("the line", &mut self.inside(&self.lab.line.name, &words))?;
        if line.next_line(until())? != line::READY {
            return Err(Error::Failed("the line said something else than that it is there".to_owned()));
        }
        let mut running = Vec::new();
        for (lane, side) in lanes.iter().zip([side, &Side::Native]) {
            running.push(self.start(case, side, lane)?);
        }
        let mut seen = Vec::new();
        for (server, client) in running {
            let client = flow::seen_in(&client.finish(until())?)?;
            let server: Seen = flow::seen_in(&server.finish(until())?)?;
            seen.push((client, server));
        }
        line.finish(until())?;
        let others = seen.get(1).map_or(0, |(client, _)| client.bytes);
        let (client, server) = seen.swap_remove(0);
        Ok(Sample::of(case, client, &server, others))
    }

    /// A part of a run in a namespace.
    fn inside(&self, namespace: &str, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(&self.runner.bench).args(part(words));
        command
    }

    /// Starts a native server and a client on a side.
    fn start(&self, case: &Case, side: &Side, lane: &lab::Attachment) -> Result<(Running, Running)> {
        let listen = SocketAddr::new(lane.peer, 0).to_string();
        let words = ["server", &listen, "--congestion", &case.congestion];
        let mut server = Running::spawn("the server", &mut self.inside(&self.lab.peer.name, &words))?;
        let address = ready(&mut server)?.to_string();
        let (bytes, times) = (case.size.bytes().to_string(), case.size.times().to_string());
        let time = case.size.time(self.seconds).as_secs_f64().to_string();
        let (direction, at_once) = (case.direction.to_string(), case.size.at_once().to_string());
        let mut words = vec!["client", &address, "--congestion", &case.congestion, "--direction", &direction];
        words.extend(["--bytes", &bytes, "--times", &times, "--at-once", &at_once, "--seconds", &time]);
        let namespace = Some(self.lab.side.name.as_str());
        let mut client =
            self.runner.command(side, namespace, &lane.options, &self.runner.bench, &part(&words))?;
        let client = Running::spawn(format!("the client on {side}"), &mut client)?;
        Ok((server, client))
    }
}

fn part(words: &[&str]) -> Vec<String> {
    std::iter::once("wan-part").chain(words.iter().copied()).map(str::to_owned).collect()
}

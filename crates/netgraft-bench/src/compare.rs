//! Rounds over several networks: native, host, sandbox, native, host, sandbox, …

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::lab::{Lab, Uplink};
use crate::load::{Case, Peers, Protocol, Task, Workload};
use crate::outcome::{Bounds, Outcome};
use crate::process::{Running, check_interrupt, time};
use crate::side::{Runner, Side};
use crate::stats::Summary;
use crate::{machine, pair};

/// How long a run may take beyond the time it measures.
const PATIENCE: Duration = Duration::from_secs(30);

/// After so many failures without a single figure, a side is not tried again in a row: what hangs would
/// otherwise take the whole patience in every round.
const ENOUGH: usize = 2;

/// Where the two ends of a workload are.
pub(crate) enum Place {
    /// Both in one process tree, on its loopback.
    Loopback,
    /// In two namespaces; the peer is always native.
    Links(Lab),
}

/// What the side under test does in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Server and client, or there is only one.
    Both,
    /// The server; a native client dials it.
    Serves,
    /// The client; it dials a native server.
    Dials,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Both => "both",
            Self::Serves => "serves",
            Self::Dials => "dials",
        })
    }
}

/// A comparison that can begin.
pub(crate) struct Plan {
    pub(crate) runner: Runner,
    pub(crate) sides: Vec<Side>,
    pub(crate) cases: Vec<Case>,
    pub(crate) rounds: u32,
    pub(crate) time: Duration,
    pub(crate) place: Place,
}

/// One run of one case on one side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// What it measured.
    pub(crate) outcome: Outcome,
    /// CPU time of all processes of the run, in seconds, from start to end.
    pub(crate) cpu_seconds: f64,
}

/// All rounds of one case in one role, for each side in the plan's order.
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) role: Role,
    /// For each side, for each round: the sample, or why there is none.
    pub(crate) sides: Vec<Vec<std::result::Result<Sample, String>>>,
}

impl Plan {
    /// Runs everything. A run that fails is kept with its reason, and the rest goes on.
    ///
    /// # Errors
    /// The user interrupted, or a case can't be run in this place at all.
    pub(crate) fn run(&self, progress: impl Fn(&str)) -> Result<Vec<Row>> {
        self.rows()?
            .into_iter()
            .map(|(case, role)| {
                let mut sides = vec![Vec::new(); self.sides.len()];
                for round in 1..=self.rounds {
                    for (side, samples) in self.sides.iter().zip(&mut sides) {
                        if let Some(failure) = hopeless(samples) {
                            samples.push(Err(failure));
                            continue;
                        }
                        progress(&format!("{} {role}, round {round} of {}, {side}", case.name, self.rounds));
                        samples.push(self.sample(&case.task, role, side)?);
                    }
                }
                Ok(Row { case, role, sides })
            })
            .collect()
    }

    /// The rows of the table.
    fn rows(&self) -> Result<Vec<(Case, Role)>> {
        let mut rows = Vec::new();
        for case in &self.cases {
            match &self.place {
                Place::Loopback => rows.push((case.clone(), Role::Both)),
                Place::Links(lab) if crosses_a_link(case) && lab.uplink == Uplink::Passt => {
                    rows.push((case.clone(), Role::Dials));
                }
                Place::Links(_) if crosses_a_link(case) => {
                    rows.extend([(case.clone(), Role::Serves), (case.clone(), Role::Dials)]);
                }
                Place::Links(_) => return Err(Error::Failed(format!("{} does not cross a link", case.name))),
            }
        }
        Ok(rows)
    }

    /// One run; the outer error ends the whole comparison.
    fn sample(&self, task: &Task, role: Role, side: &Side) -> Result<std::result::Result<Sample, String>> {
        check_interrupt()?;
        let before = machine::cpu_of_children()?;
        let outcome = match (task, &self.place) {
            (Task::StartUp { times }, _) => self.start_up(side, *times),
            (Task::Load(workload), Place::Loopback) => self.pair(side, workload),
            (Task::Load(workload), Place::Links(lab)) => self.link(lab, role, side, workload),
        };
        let cpu_seconds = (machine::cpu_of_children()?.saturating_sub(before)).as_secs_f64();
        match outcome {
            Ok(outcome) => Ok(Ok(Sample { outcome, cpu_seconds })),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    fn until(&self) -> Instant {
        // iperf3 counts whole seconds, redis-benchmark a number of requests: both may take longer.
        Instant::now() + self.time * 10 + PATIENCE
    }

    fn pair(&self, side: &Side, workload: &Workload) -> Result<Outcome> {
        let words = timed_words("pair", &[], self.time, workload);
        let mut command = self.runner.command(side, None, &[], &self.runner.bench, &words)?;
        outcome_of(Running::spawn(format!("pair on {side}"), &mut command)?, self.until())
    }

    fn link(&self, lab: &Lab, role: Role, side: &Side, workload: &Workload) -> Result<Outcome> {
        let Peers::Own(protocol) = workload.peers() else {
            return Err(Error::Failed("this workload does not cross a link".to_owned()));
        };
        let attachment = Lab::attach(lab.uplink, side);
        let under_test = (side, lab.side(), attachment.options.as_slice());
        let peer = (&Side::Native, lab.peer(), [].as_slice());
        let (server, listen, client) = match role {
            Role::Both | Role::Serves => (under_test, attachment.own, peer),
            Role::Dials => (peer, attachment.peer, under_test),
        };
        let command = |(side, namespace, options): (&Side, &str, &[String]), words: &[String]| {
            self.runner.command(side, Some(namespace), options, &self.runner.bench, words)
        };
        let words = server_words(protocol, listen, self.time);
        let mut server =
            Running::spawn(format!("the server on {}", server.0), &mut command(server, &words)?)?;
        let address = pair::ready(&mut server)?.to_string();
        let words = timed_words("client", &["--connect", &address], self.time, workload);
        let client = Running::spawn(format!("the client on {}", client.0), &mut command(client, &words)?)?;
        let outcome = outcome_of(client, self.until())?;
        server.finish(self.until())?;
        Ok(outcome)
    }

    /// Starts `true` again and again; the median in milliseconds.
    fn start_up(&self, side: &Side, times: u32) -> Result<Outcome> {
        let mut took = Vec::new();
        for _ in 0..times {
            let mut command = self.runner.command(side, None, &[], Path::new("true"), &[])?;
            took.push(time("true", &mut command, Duration::from_secs(10))?.as_secs_f64());
        }
        let median = Summary::of(took.iter().copied()).map_or(f64::NAN, |summary| summary.median);
        Ok(Outcome {
            rate: median * 1e3,
            unit: "ms".to_owned(),
            operations: u64::from(times),
            seconds: took.iter().sum(),
            latency: None,
            lost: 0,
        })
    }
}

/// Why a side need not be tried again in a row, if so.
fn hopeless(samples: &[std::result::Result<Sample, String>]) -> Option<String> {
    match samples {
        [Err(failure), ..] if samples.len() >= ENOUGH && samples.iter().all(std::result::Result::is_err) => {
            Some(format!("not tried again after: {failure}"))
        }
        _ => None,
    }
}

/// Whether a case has a server and a client that can be in two places.
pub(crate) fn crosses_a_link(case: &Case) -> bool {
    match &case.task {
        Task::StartUp { .. } => false,
        Task::Load(workload) => matches!(workload.peers(), Peers::Own(_)),
    }
}

fn server_words(protocol: Protocol, listen: IpAddr, time: Duration) -> Vec<String> {
    let bounds = Bounds { time, count: u64::MAX };
    pair::server_words(protocol, SocketAddr::new(listen, 0), bounds)
}

/// The words of a subcommand that runs a workload for a time.
fn timed_words(subcommand: &str, options: &[&str], time: Duration, workload: &Workload) -> Vec<String> {
    let mut words = vec![subcommand.to_owned()];
    words.extend(options.iter().map(|&option| option.to_owned()));
    words.extend(["--seconds".to_owned(), time.as_secs_f64().to_string()]);
    words.extend(workload.to_arguments());
    words
}

/// The outcome that a `pair` or a `client` prints.
fn outcome_of(running: Running, until: Instant) -> Result<Outcome> {
    let lines = running.finish(until)?;
    let line = lines.last().map_or("", String::as_str);
    serde_json::from_str(line).map_err(|error| Error::Failed(format!("no outcome but {line:?}: {error}")))
}

/// Where the two ends of a pair meet unless the caller says otherwise.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_given_up_only_without_any_figure() {
        let failure = || Err("no luck".to_owned());
        let outcome =
            Outcome { rate: 1.0, unit: String::new(), operations: 1, seconds: 1.0, latency: None, lost: 0 };
        let figure = Ok(Sample { outcome, cpu_seconds: 0.0 });
        assert_eq!(hopeless(&[]), None);
        assert_eq!(hopeless(&[failure()]), None);
        assert_eq!(hopeless(&[failure(), failure()]).unwrap(), "not tried again after: no luck");
        assert_eq!(hopeless(&[failure(), figure, failure()]), None);
    }
}

//! The result of `wan`, as a table and as JSON.

use std::fmt::{self, Write};
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use super::flow::{Direction, Seen};
use crate::machine::Machine;
use crate::side::Side;
use crate::stats::{Summary, by_round};

/// How much a flow carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Size {
    /// 10,000 bytes.
    #[serde(rename = "10k")]
    Small,
    /// 1,000,000 bytes.
    #[serde(rename = "1m")]
    Large,
    /// As much as goes through in the time.
    Bulk,
    /// Four bulk flows at the same time: whether each has its share.
    Share,
    /// Two bulk flows beside two of the kernel's: whether each side has its share.
    Beside,
}

impl Size {
    /// Bytes of a flow; 0 for a bulk transfer.
    pub(crate) const fn bytes(self) -> u64 {
        match self {
            Size::Small => 10_000,
            Size::Large => 1_000_000,
            Size::Bulk | Size::Share | Size::Beside => 0,
        }
    }

    /// Flows of one run, one after the other.
    pub(crate) const fn times(self) -> u32 {
        match self {
            Size::Small => 20,
            Size::Large => 5,
            Size::Bulk | Size::Share | Size::Beside => 1,
        }
    }

    /// How many flows of a side run at the same time.
    pub(crate) const fn at_once(self) -> u32 {
        match self {
            Size::Small | Size::Large | Size::Bulk => 1,
            Size::Share => 4,
            Size::Beside => 2,
        }
    }

    /// How long flows take that have no size, if a bulk flow takes `bulk`: shares settle over many round trips.
    pub(crate) fn time(self, bulk: Duration) -> Duration {
        if self.at_once() > 1 { bulk * 10 } else { bulk }
    }

    /// Whether the flows meet at a bottleneck, which the line has to have.
    pub(crate) const fn meets_others(self) -> bool {
        self.at_once() > 1
    }

    const fn unit(self) -> &'static str {
        match self {
            Size::Small | Size::Large => "ms",
            Size::Bulk => "Mbit/s",
            Size::Share | Size::Beside => "share",
        }
    }
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "10k" => Ok(Size::Small),
            "1m" => Ok(Size::Large),
            "bulk" => Ok(Size::Bulk),
            "share" => Ok(Size::Share),
            "beside" => Ok(Size::Beside),
            _ => Err("expected 10k, 1m, bulk, share or beside".to_owned()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Size::Small => "10k",
            Size::Large => "1m",
            Size::Bulk => "bulk",
            Size::Share => "share",
            Size::Beside => "beside",
        })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::In => "in",
            Direction::Out => "out",
        })
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Case {
    pub(crate) line: String,
    pub(crate) congestion: String,
    pub(crate) size: Size,
    pub(crate) direction: Direction,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {} {}", self.line, self.congestion, self.size, self.direction)
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// Mbit/s of payload for a bulk transfer, the median time of a flow of a known size in ms. Of flows that share, parts of
    /// a fair share: that of the flow with the least, or that of this side.
    pub(crate) figure: f64,
    /// Segments that the sender sent again; `None` if its stack does not say.
    pub(crate) retransmits: Option<u64>,
    /// The congestion control that the sender says it has.
    pub(crate) congestion: Option<String>,
    /// The time of each flow, in ms.
    pub(crate) completions: Vec<f64>,
    /// Payload bytes of each of several flows at the same time.
    pub(crate) each: Vec<u64>,
}

impl Sample {
    /// A run, from what its two ends saw, and what the other side's flows beside it had, in bytes.
    pub(crate) fn of(case: &Case, client: Seen, server: &Seen, others: u64) -> Sample {
        let sender = match case.direction {
            Direction::In => server,
            Direction::Out => &client,
        };
        let (retransmits, congestion) = (sender.retransmits, sender.congestion.clone());
        let figure = match case.size {
            Size::Bulk => client.bytes as f64 * 8.0 / client.seconds / 1e6,
            Size::Share => {
                let least = client.each.iter().min().map_or(f64::NAN, |least| *least as f64);
                least * client.each.len() as f64 / client.bytes as f64
            }
            Size::Beside => 2.0 * client.bytes as f64 / (client.bytes + others) as f64,
            _ => Summary::of(client.completions.iter().copied()).map_or(f64::NAN, |times| times.median),
        };
        Sample { figure, retransmits, congestion, completions: client.completions, each: client.each }
    }
}

/// One case on one network.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    #[serde(flatten)]
    pub(crate) case: Case,
    pub(crate) network: String,
    pub(crate) unit: &'static str,
    pub(crate) figure: Option<Summary>,
    /// How fast this network is against the first one in the same round: above 1 is faster, for rates and times.
    pub(crate) ratio: Option<Summary>,
    /// Median over the rounds of what the sender sent again.
    pub(crate) retransmits: Option<f64>,
    /// Whether the sender had another congestion control than was asked for, or did not say.
    pub(crate) other_congestion: Option<String>,
    /// Why rounds gave no figure.
    pub(crate) failures: Vec<String>,
    pub(crate) samples: Vec<Sample>,
}

/// A finished comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    /// Of a bulk flow.
    pub(crate) seconds: f64,
    pub(crate) seed: u64,
    pub(crate) results: Vec<Entry>,
}

/// For each network, for each round: the sample, or why there is none.
type Columns = Vec<Vec<Result<Sample, String>>>;

impl Report {
    /// Sums the rounds up.
    pub(crate) fn new(
        machine: Machine,
        rounds: u32,
        time: Duration,
        seed: u64,
        networks: &[Side],
        rows: Vec<(Case, Columns)>,
    ) -> Report {
        let mut results = Vec::new();
        for (case, columns) in rows {
            let figures: Vec<Vec<Option<f64>>> = columns
                .iter()
                .map(|column| column.iter().map(|run| run.as_ref().ok().map(|s| s.figure)).collect())
                .collect();
            for (place, (network, column)) in networks.iter().zip(columns).enumerate() {
                let speed = |figure: f64, base: f64| match case.size {
                    Size::Small | Size::Large => base / figure,
                    _ => figure / base,
                };
                let ratio = if place == 0 { None } else { by_round(&figures[place], &figures[0], speed) };
                results.push(entry(&case, network, column, ratio));
            }
        }
        let command = std::env::args().collect::<Vec<_>>().join(" ");
        Report { command, machine, rounds, seconds: time.as_secs_f64(), seed, results }
    }

    /// Whether every run gave a figure.
    pub(crate) fn is_complete(&self) -> bool {
        self.results.iter().all(|entry| entry.failures.is_empty())
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}, {} cores, Linux {}", machine.processor, machine.cores, machine.kernel);
        let _ = writeln!(text, "load {}, {} build; {}\n", machine.load, machine.build, self.command);
        let _ = writeln!(
            text,
            "{:<28} {:<7} {:<5} {:<4} {:<12} {:>10} {:<6} {:>24} {:>8}",
            "line, each way",
            "control",
            "flow",
            "way",
            "network",
            "median",
            "",
            "speed against the first",
            "resent"
        );
        for entry in &self.results {
            let digits = if entry.case.size.meets_others() { 2 } else { 1 };
            let figure = entry.figure.map_or("-".to_owned(), |figure| format!("{:.digits$}", figure.median));
            let ratio = entry.ratio.map_or(String::new(), |ratio| {
                format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max)
            });
            let again = entry.retransmits.map_or("-".to_owned(), |count| format!("{count:.0}"));
            let _ = writeln!(
                text,
                "{:<28} {:<7} {:<5} {:<4} {:<12} {figure:>10} {:<6} {ratio:>24} {again:>8}",
                entry.case.line,
                entry.case.congestion,
                entry.case.size.to_string(),
                entry.case.direction.to_string(),
                entry.network,
                entry.unit,
            );
        }
        self.notes(&mut text);
        text
    }

    fn notes(&self, text: &mut String) {
        let mut notes: Vec<String> = Vec::new();
        for entry in &self.results {
            if let Some(other) = &entry.other_congestion {
                notes.push(format!(
                    "{} did not send with {} but with {other}",
                    entry.network, entry.case.congestion
                ));
            }
            notes
                .extend(entry.failures.iter().map(|why| format!("{}, {}: {why}", entry.case, entry.network)));
        }
        notes.sort();
        notes.dedup();
        if !notes.is_empty() {
            let _ = writeln!(text, "\n{}", notes.join("\n"));
        }
    }
}

fn entry(case: &Case, network: &Side, column: Vec<Result<Sample, String>>, ratio: Option<Summary>) -> Entry {
    let (mut samples, mut failures) = (Vec::new(), Vec::new());
    for run in column {
        match run {
            Ok(sample) => samples.push(sample),
            Err(failure) => failures.push(failure),
        }
    }
    let counts: Option<Vec<f64>> =
        samples.iter().map(|sample: &Sample| sample.retransmits.map(|count| count as f64)).collect();
    let other = samples.iter().find(|sample| sample.congestion.as_ref() != Some(&case.congestion));
    Entry {
        network: network.to_string(),
        unit: case.size.unit(),
        figure: Summary::of(samples.iter().map(|sample| sample.figure)),
        ratio,
        retransmits: counts.and_then(Summary::of).map(|counts| counts.median),
        other_congestion: other
            .map(|sample| sample.congestion.clone().unwrap_or_else(|| "its own".to_owned())),
        failures,
        samples,
        case: case.clone(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn run(figure: f64, congestion: &str) -> Result<Sample, String> {
        let congestion = Some(congestion.to_owned());
        Ok(Sample { figure, retransmits: Some(3), congestion, completions: vec![figure], each: Vec::new() })
    }

    pub(crate) fn report() -> Report {
        let case = |size| Case {
            line: "delay=25ms,loss=1%".into(),
            congestion: "cubic".into(),
            size,
            direction: Direction::Out,
        };
        let rows = vec![
            (
                case(Size::Bulk),
                vec![
                    vec![run(100.0, "cubic"), run(50.0, "cubic")],
                    vec![run(90.0, "cubic"), Err("no <luck>".into())],
                ],
            ),
            (
                case(Size::Small),
                vec![
                    vec![run(40.0, "cubic"), run(42.0, "cubic")],
                    vec![run(50.0, "reno"), run(84.0, "reno")],
                ],
            ),
        ];
        let networks = [Side::Native, Side::Sandbox];
        Report::new(Machine::now(), 2, Duration::from_secs(2), 1, &networks, rows)
    }

    #[test]
    fn rates_and_times_both_compare_as_speeds() {
        let report = report();
        let ratio = |place: usize| report.results[place].ratio.map(|ratio| ratio.median);
        assert_eq!((ratio(0), ratio(1)), (None, Some(0.9)));
        assert_eq!((ratio(2), ratio(3)), (None, Some(f64::midpoint(0.5, 0.8))));
        assert!(!report.is_complete());
        let table = report.table();
        for part in
            ["75.0 Mbit/s", "0.90 (0.90 to 0.90)", "did not send with cubic but with reno", "no <luck>"]
        {
            assert!(table.contains(part), "{part}: {table}");
        }
    }

    #[test]
    fn goodput_is_of_the_bytes_that_arrived() {
        let case = Case {
            line: "none".into(),
            congestion: "bbr".into(),
            size: Size::Bulk,
            direction: Direction::In,
        };
        let client = Seen { bytes: 1_000_000, seconds: 2.0, retransmits: Some(0), ..Seen::default() };
        let server = Seen { retransmits: Some(7), congestion: Some("bbr".into()), ..Seen::default() };
        let sample = Sample::of(&case, client.clone(), &server, 0);
        assert_eq!((sample.figure, sample.retransmits), (4.0, Some(7)));
        assert_eq!(sample.congestion.as_deref(), Some("bbr"));
        // Four flows, of which the slowest has 0.8 of a quarter; and two that have 0.5 of a half beside others.
        let client = Seen { each: vec![200_000, 250_000, 250_000, 300_000], ..client };
        let share = Case { size: Size::Share, ..case.clone() };
        assert_eq!(Sample::of(&share, client.clone(), &server, 0).figure, 0.8);
        let beside = Case { size: Size::Beside, ..case };
        assert_eq!(Sample::of(&beside, client, &server, 3_000_000).figure, 0.5);
    }
}

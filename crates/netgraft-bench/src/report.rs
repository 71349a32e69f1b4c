//! The result of a comparison, as a table and as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::compare::{Role, Row, Sample};
use crate::load::Task;
use crate::machine::Machine;
use crate::side::Side;
use crate::stats::{Summary, by_round};

/// A finished comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The command that made it.
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    /// Of one run.
    pub(crate) seconds: f64,
    pub(crate) results: Vec<Entry>,
}

/// One case on one network.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) workload: &'static str,
    pub(crate) task: Task,
    pub(crate) role: Role,
    pub(crate) network: String,
    pub(crate) unit: String,
    /// Of the rounds that gave a figure.
    pub(crate) figure: Option<Summary>,
    /// Against the first network of the comparison in the same round.
    pub(crate) against: Option<Against>,
    /// In microseconds: medians over the rounds.
    pub(crate) p50: Option<f64>,
    /// In microseconds: medians over the rounds.
    pub(crate) p99: Option<f64>,
    /// CPU time of one operation (one byte, for a bulk transfer) in microseconds, median over the rounds
    /// that took enough of it to tell.
    pub(crate) cpu_per_operation: Option<f64>,
    /// Datagrams that were lost, in all rounds.
    pub(crate) lost: u64,
    /// Why rounds gave no figure.
    pub(crate) failures: Vec<String>,
    /// Every round that gave a figure.
    pub(crate) samples: Vec<Sample>,
}

/// How a network compares with the base.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Against {
    /// Figure divided by the base's: above 1 is faster than the base.
    Ratio(Summary),
    /// Figure minus the base's, in the figure's unit: what the network costs in addition.
    Difference(Summary),
}

/// Turns rows of samples into entries; the first side is the base of the others.
pub(crate) fn entries(sides: &[Side], rows: Vec<Row>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for Row { case, role, sides: columns } in rows {
        let rates: Vec<Vec<Option<f64>>> = columns
            .iter()
            .map(|column| {
                column.iter().map(|run| run.as_ref().ok().map(|sample| sample.outcome.rate)).collect()
            })
            .collect();
        for (place, (side, column)) in sides.iter().zip(columns).enumerate() {
            let against = if place == 0 { None } else { against(&case.task, &rates[place], &rates[0]) };
            let mut failures = Vec::new();
            let mut samples = Vec::new();
            for run in column {
                match run {
                    Ok(sample) => samples.push(sample),
                    Err(failure) => failures.push(failure),
                }
            }
            let median = |figure: &dyn Fn(&Sample) -> Option<f64>| {
                Summary::of(samples.iter().filter_map(figure)).map(|summary| summary.median)
            };
            entries.push(Entry {
                workload: case.name,
                task: case.task.clone(),
                role,
                network: side.to_string(),
                unit: samples.first().map(|sample| sample.outcome.unit.clone()).unwrap_or_default(),
                figure: Summary::of(rates[place].iter().flatten().copied()),
                against,
                p50: median(&|sample| sample.outcome.latency.as_ref().map(|latency| latency.p50)),
                p99: median(&|sample| sample.outcome.latency.as_ref().map(|latency| latency.p99)),
                cpu_per_operation: median(&cpu_per_operation),
                lost: samples.iter().map(|sample| sample.outcome.lost).sum(),
                failures,
                samples,
            });
        }
    }
    entries
}

/// The kernel counts in ticks of 10 ms, so that less than ten of them would be a guess.
fn cpu_per_operation(sample: &Sample) -> Option<f64> {
    (sample.cpu_seconds >= 0.1).then(|| sample.cpu_seconds * 1e6 / sample.outcome.operations as f64)
}

fn against(task: &Task, figures: &[Option<f64>], bases: &[Option<f64>]) -> Option<Against> {
    match task {
        Task::Load(_) => by_round(figures, bases, |figure, base| figure / base).map(Against::Ratio),
        Task::StartUp { .. } => {
            by_round(figures, bases, |figure, base| figure - base).map(Against::Difference)
        }
    }
}

impl Report {
    /// Whether every run gave a figure.
    pub(crate) fn is_complete(&self) -> bool {
        self.results.iter().all(|entry| entry.failures.is_empty())
    }

    /// The table, with the facts that it needs.
    pub(crate) fn table(&self) -> String {
        let Machine { cores, processor, kernel, load, build } = &self.machine;
        let mut text = String::new();
        // Writing to a string can't fail.
        let _written = writeln!(text, "{cores} × {processor}, Linux {kernel}, load {load}, {build} build");
        let _written = writeln!(text, "{} rounds of {} s: {}\n", self.rounds, self.seconds, self.command);
        let base = self.results.first().map_or("native", |entry| entry.network.as_str());
        let mut lines = vec![
            [
                "workload",
                "network",
                "median",
                "unit",
                "min–max",
                &format!("against {base}"),
                "p50 µs",
                "p99 µs",
                "CPU",
            ]
            .map(str::to_owned),
        ];
        lines.extend(self.results.iter().map(Entry::line));
        text.push_str(&aligned(&lines));
        for entry in &self.results {
            let (rounds, failures) = (self.rounds, entry.failures.len());
            if let Some(failure) = entry.failures.first() {
                let (name, network) = (entry.title(), &entry.network);
                let _written =
                    writeln!(text, "{name} on {network} failed in {failures} of {rounds} rounds: {failure}");
            }
            if entry.lost > 0 {
                let _written =
                    writeln!(text, "{} on {} lost {} datagrams", entry.title(), entry.network, entry.lost);
            }
        }
        text
    }
}

impl Entry {
    fn title(&self) -> String {
        match self.role {
            Role::Both => self.workload.to_owned(),
            role => format!("{} {role}", self.workload),
        }
    }

    fn line(&self) -> [String; 9] {
        let optional = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
        let (median, spread) = match &self.figure {
            Some(figure) => (short(figure.median), format!("{}–{}", short(figure.min), short(figure.max))),
            None => ("failed".to_owned(), "-".to_owned()),
        };
        let against = match &self.against {
            None => "-".to_owned(),
            Some(Against::Ratio(ratio)) => format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.min, ratio.max),
            Some(Against::Difference(more)) => {
                format!("{:+.2} ({:+.2}–{:+.2})", more.median, more.min, more.max)
            }
        };
        let cpu = match self.cpu_per_operation {
            None => "-".to_owned(),
            // One byte takes too little to read; a gigabyte is 1e9 of them.
            Some(cpu) if self.unit == "Gbit/s" => format!("{} ms/GB", short(cpu * 1e6)),
            Some(cpu) => format!("{} µs", short(cpu)),
        };
        let (p50, p99) = (optional(self.p50), optional(self.p99));
        [self.title(), self.network.clone(), median, self.unit.clone(), spread, against, p50, p99, cpu]
    }
}

/// A figure with about three digits that mean something.
fn short(figure: f64) -> String {
    match figure.abs() {
        0.0..10.0 => format!("{figure:.2}"),
        10.0..100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

/// Columns of equal width: the words on the left, the figures on the right.
fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 | 1 | 3 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;
    use crate::outcome::Outcome;

    fn sample(rate: f64) -> Result<Sample, String> {
        let outcome = Outcome {
            rate,
            unit: "requests/s".into(),
            operations: 1000,
            seconds: 1.0,
            latency: None,
            lost: 1,
        };
        Ok(Sample { outcome, cpu_seconds: 0.5 })
    }

    fn report(names: &[&str], sides: Vec<Vec<Result<Sample, String>>>) -> Report {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let case = load::select(&names).unwrap().remove(0);
        let rows = vec![Row { case, role: Role::Both, sides }];
        let machine = Machine {
            cores: 2,
            processor: "Abacus".into(),
            kernel: "6.18".into(),
            load: "0.1".into(),
            build: "release",
        };
        let results = entries(&[Side::Native, Side::Sandbox], rows);
        Report { command: "netgraft-bench compare".into(), machine, rounds: 2, seconds: 1.0, results }
    }

    #[test]
    fn a_table_shows_figures_ratios_and_facts() {
        let columns = vec![vec![sample(1000.0), sample(500.0)], vec![sample(800.0), sample(300.0)]];
        let report = report(&["request-1"], columns);
        assert!(report.is_complete());
        let expected = "\
2 × Abacus, Linux 6.18, load 0.1, release build
2 rounds of 1 s: netgraft-bench compare

workload   network  median  unit         min–max    against native  p50 µs  p99 µs     CPU
request-1  native      750  requests/s  500–1000                 -       -       -  500 µs
request-1  sandbox     550  requests/s   300–800  0.70 (0.60–0.80)       -       -  500 µs
request-1 on native lost 2 datagrams
request-1 on sandbox lost 2 datagrams
";
        assert_eq!(report.table(), expected);
    }

    #[test]
    fn a_failure_is_told_and_leaves_the_rest_alone() {
        let columns =
            vec![vec![sample(1000.0), sample(1000.0)], vec![Err("no luck".into()), Err("no luck".into())]];
        let report = report(&["request-1"], columns);
        assert!(!report.is_complete());
        assert!(report.table().contains("request-1 on sandbox failed in 2 of 2 rounds: no luck"));
        assert!(report.table().lines().nth(5).unwrap().contains("failed"));
    }

    #[test]
    fn start_up_is_a_difference() {
        let columns = vec![vec![sample(1.0), sample(2.0)], vec![sample(8.0), sample(11.0)]];
        let report = report(&["start-up"], columns);
        let difference = Summary { median: 8.0, min: 7.0, max: 9.0 };
        assert_eq!(report.results[1].against, Some(Against::Difference(difference)));
        assert!(report.table().contains("+8.00 (+7.00–+9.00)"));
    }

    #[test]
    fn json_holds_every_sample() {
        let columns = vec![vec![sample(1000.0)], vec![Err("no luck".into())]];
        let json = serde_json::to_value(report(&["bulk-in"], columns)).unwrap();
        assert_eq!(json["machine"]["cores"], 2);
        assert_eq!(json["results"][0]["samples"][0]["outcome"]["rate"], 1000.0);
        assert_eq!(json["results"][0]["task"]["load"]["bulk"]["direction"], "in");
        assert_eq!(json["results"][1]["failures"][0], "no luck");
        assert!(json["results"][1]["figure"].is_null());
    }
}

//! Runs jobs a few at a time, prints a line for each and a table at the end.

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::leaks::Footprint;
use crate::stage::Stage;

/// Jobs at once. Most of them wait for a time to pass, as a client that asks again or a transfer of some seconds: two for each
/// processor keep it busy, and none may depend on how busy that is.
fn parallel() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// One row of the report.
pub struct Job<'a> {
    /// What is run.
    pub name: String,
    /// How, for the table.
    pub column: String,
    /// The reason of a skip. The job is run all the same, and is expected to fail.
    pub skip: Option<Skipped>,
    /// Runs it.
    pub run: Box<dyn Fn() -> Outcome + Send + Sync + 'a>,
}

/// Why a job is expected to fail.
pub struct Skipped {
    /// The stack of the skip: a skip is stale when its job passes in every column of this stack.
    pub stack: String,
    /// The reason that the data file gives.
    pub reason: String,
}

enum Verdict {
    Passed,
    Failed(String),
    Skipped { passed: bool },
}

#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// What the command line asks for: the words of libtest that make sense here, and no others by accident.
struct Asked {
    list: bool,
    filters: Vec<String>,
}

fn asked() -> Asked {
    let mut asked = Asked { list: false, filters: Vec::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => asked.list = true,
            // Options of libtest that have a value of their own.
            "--test-threads" | "--format" | "--color" | "--skip" | "-Z" => drop(arguments.next()),
            option if option.starts_with('-') => {}
            filter => asked.filters.push(filter.to_owned()),
        }
    }
    asked
}

/// The body of a test program: makes the stage, asks for its jobs, runs those that the command line names.
///
/// `jobs` is given the stage. `close` is run after all jobs when all of them were run, and gives what is wrong
/// with the run as a whole.
pub fn main(
    title: &str,
    jobs: impl for<'a> Fn(&'a Stage) -> Result<Vec<Job<'a>>, String>,
    close: impl Fn() -> Vec<String>,
) -> ExitCode {
    let started = Instant::now();
    let before = Footprint::now();
    let stage = match Stage::new() {
        Ok(stage) => stage,
        Err(why) => return broken(title, &why),
    };
    let mut wrong = Vec::new();
    let (results, filtered) = {
        let all = match jobs(&stage) {
            Ok(all) => all,
            Err(why) => return broken(title, &why),
        };
        let asked = asked();
        if asked.list {
            for job in &all {
                println!("{} @ {}: test", job.name, job.column);
            }
            return ExitCode::SUCCESS;
        }
        let total = all.len();
        let wanted = |job: &Job<'_>| {
            let full = format!("{} @ {}", job.name, job.column);
            asked.filters.is_empty() || asked.filters.iter().any(|filter| full.contains(filter))
        };
        let chosen: Vec<Job<'_>> = all.into_iter().filter(wanted).collect();
        let filtered = total - chosen.len();
        println!("\n{title}: running {} jobs, {} at a time", chosen.len(), parallel());
        let results = run_all(&chosen);
        if filtered == 0 {
            wrong.extend(close());
        }
        wrong.extend(stale_skips(&chosen, &results));
        let rows = chosen.into_iter().zip(results).map(|(job, (verdict, _))| (job.name, job.column, verdict));
        (rows.collect::<Vec<_>>(), filtered)
    };
    wrong.extend(stage.finish().err());
    wrong.extend(before.nothing_new().err());
    close_report(title, &results, &wrong, filtered, started.elapsed())
}

fn broken(title: &str, why: &str) -> ExitCode {
    println!(
        "failed: {title}: {why}\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out"
    );
    ExitCode::FAILURE
}

fn run_all(jobs: &[Job<'_>]) -> Vec<(Verdict, Duration)> {
    let queue = Mutex::new((0..jobs.len()).collect::<VecDeque<_>>());
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..parallel() {
            let (sender, queue) = (sender.clone(), &queue);
            scope.spawn(move || {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.pop_front());
                    let Some(index) = next else { break };
                    let started = Instant::now();
                    let outcome = (jobs[index].run)();
                    if sender.send((index, outcome, started.elapsed())).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut results: Vec<Option<(Verdict, Duration)>> = jobs.iter().map(|_| None).collect();
        for (index, outcome, took) in receiver {
            let job = &jobs[index];
            let verdict = match (&job.skip, outcome) {
                (Some(_), outcome) => Verdict::Skipped { passed: outcome.is_ok() },
                (None, Ok(())) => Verdict::Passed,
                (None, Err(why)) => Verdict::Failed(why),
            };
            print_line(job, &verdict, took);
            results[index] = Some((verdict, took));
        }
        let lost = || (Verdict::Failed("its thread ended before it".to_owned()), Duration::ZERO);
        results.into_iter().map(|result| result.unwrap_or_else(lost)).collect()
    })
}

fn print_line(job: &Job<'_>, verdict: &Verdict, took: Duration) {
    let (word, more) = match (verdict, &job.skip) {
        (Verdict::Passed, _) => ("ok  ", String::new()),
        (Verdict::Failed(why), _) => ("FAIL", format!("\n{}", why.trim_end())),
        (Verdict::Skipped { .. }, Some(skip)) => ("skip", format!(" ({})", skip.reason)),
        (Verdict::Skipped { .. }, None) => ("skip", String::new()),
    };
    println!("{word} {:5.1}s {} @ {}{more}", took.as_secs_f64(), job.name, job.column);
}

/// Skips whose job passes in every column of their stack.
fn stale_skips(jobs: &[Job<'_>], results: &[(Verdict, Duration)]) -> Vec<String> {
    let mut still_fails: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    for (job, (verdict, _)) in jobs.iter().zip(results) {
        if let (Some(skip), Verdict::Skipped { passed }) = (&job.skip, verdict) {
            *still_fails.entry((&job.name, &skip.stack)).or_default() |= !passed;
        }
    }
    let stale = still_fails.into_iter().filter(|(_, fails)| !fails);
    stale.map(|((name, stack), _)| format!("stale skip: {name} passes on {stack}")).collect()
}

fn close_report(
    title: &str,
    results: &[(String, String, Verdict)],
    wrong: &[String],
    filtered: usize,
    took: Duration,
) -> ExitCode {
    let mut columns: BTreeMap<&str, Count> = BTreeMap::new();
    let mut total = Count::default();
    for (_, column, verdict) in results {
        let count = columns.entry(column).or_default();
        for count in [count, &mut total] {
            match verdict {
                Verdict::Passed => count.passed += 1,
                Verdict::Failed(_) => count.failed += 1,
                Verdict::Skipped { .. } => count.skipped += 1,
            }
        }
    }
    println!("\n{title}\n{:<28} {:>7} {:>7} {:>7}", "", "passed", "failed", "skipped");
    for (column, count) in &columns {
        println!("{column:<28} {:>7} {:>7} {:>7}", count.passed, count.failed, count.skipped);
    }
    let failed = results.iter().filter(|(_, _, verdict)| matches!(verdict, Verdict::Failed(_)));
    for (name, column, _) in failed {
        println!("failed: {name} @ {column}");
    }
    for each in wrong {
        println!("failed: {each}");
    }
    let failures = total.failed + wrong.len();
    println!(
        "\ntest result: {}. {} passed; {failures} failed; {} ignored; 0 measured; {filtered} filtered out; \
         finished in {:.2}s\n",
        if failures == 0 { "ok" } else { "FAILED" },
        total.passed,
        total.skipped,
        took.as_secs_f64(),
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(name: &str) -> Job<'static> {
        let skip = Some(Skipped { stack: "host".to_owned(), reason: "why".to_owned() });
        Job { name: name.to_owned(), column: "host-root".to_owned(), skip, run: Box::new(|| Ok(())) }
    }

    #[test]
    fn a_skip_is_stale_when_its_job_passes_in_every_column() {
        let jobs = [skipped("a"), skipped("a"), skipped("b"), skipped("b")];
        let results: Vec<_> = [true, true, true, false]
            .map(|passed| (Verdict::Skipped { passed }, Duration::ZERO))
            .into_iter()
            .collect();
        assert_eq!(stale_skips(&jobs, &results), ["stale skip: a passes on host"]);
    }

    #[test]
    fn jobs_run_once_each_and_keep_their_order() {
        let failing = |name: &str| Job {
            name: name.to_owned(),
            column: "c".to_owned(),
            skip: None,
            run: Box::new(|| Err("no".to_owned())),
        };
        let results = run_all(&[failing("x"), skipped("y")]);
        assert!(matches!(results[0].0, Verdict::Failed(_)));
        assert!(matches!(results[1].0, Verdict::Skipped { passed: true }));
    }
}

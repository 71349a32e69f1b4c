//! Real programs, server and client in one sandbox over its loopback, in every column.

use std::process::ExitCode;

use netgraft_e2e::Outcome;
use netgraft_e2e::column::{Column, Network, Object, User};
use netgraft_e2e::netns::Namespace;
use netgraft_e2e::process::Running;
use netgraft_e2e::programs::{self, Family, Kit, Program};
use netgraft_e2e::report::{self, Job};
use netgraft_e2e::stage::Stage;

fn main() -> ExitCode {
    report::main("real programs over loopback", jobs, Vec::new)
}

/// Whether a program is run in a column. Those that differ only in what the guest cases cover already are
/// run once.
fn wanted(program: Program, column: Column, family: Family) -> bool {
    let among = |names: &[&str]| names.contains(&program.name);
    let few = among(&["redis", "pyhttp"]);
    match (column.network, column.user, family) {
        // Level 0 has no IPv6.
        (Network::Object(Object::Relay), _, Family::V6) => false,
        (Network::Object(_), User::Root, Family::V4) => {
            among(&["redis", "nginx", "pyhttp", "asyncio", "iperf3"])
        }
        (Network::Object(_), User::Root, Family::V6) | (Network::Object(_), User::Ordinary, Family::V4) => {
            few
        }
        (Network::Object(_), User::Ordinary, Family::V6) => false,
        (Network::None, _, _) => few && family == Family::V4,
        (_, User::Root, Family::V6) => program.name != "bulk",
        (_, User::Ordinary, Family::V6) => few || among(&["nginx", "asyncio", "ssh"]),
        (_, _, Family::V4) => true,
    }
}

fn jobs(stage: &Stage) -> Result<Vec<Job<'_>>, String> {
    let kit = std::sync::Arc::new(Kit::new(stage)?);
    stage.build_objects()?;
    let mut jobs = Vec::new();
    for column in Column::ALL.into_iter().chain(Column::OBJECTS) {
        for program in programs::ALL {
            for family in Family::BOTH {
                if !wanted(program, column, family) {
                    continue;
                }
                let name = format!("{} over {}", program.name, family.name());
                let kit = kit.clone();
                let run = Box::new(move || run(stage, &kit, column, program, family));
                jobs.push(Job { name, column: column.to_string(), skip: None, run });
            }
        }
    }
    Ok(jobs)
}

fn run(stage: &Stage, kit: &Kit, column: Column, program: Program, family: Family) -> Outcome {
    let namespace = Namespace::new()?;
    let mut scratch = stage.scratch(column)?;
    let loopback = family.of(["127.0.0.1", "::1"]);
    kit.describe(&mut scratch, loopback, loopback);
    let mut command = column.command(stage, &namespace, &kit.script("both.sh", &[program.name]));
    let ended = Running::start(&mut command, &scratch, program.name)?.finish(programs::LIMIT)?;
    let outcome = ended.success();
    outcome.and(scratch.finish())
}

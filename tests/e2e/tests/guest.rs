//! Every guest case, in every column: the same assertions hold natively and on every stack.

use std::process::{Command, ExitCode};
use std::time::Duration;

use netgraft_e2e::Outcome;
use netgraft_e2e::column::{Column, Network, Object, User};
use netgraft_e2e::machine::SEARCH_PATH;
use netgraft_e2e::netns::Namespace;
use netgraft_e2e::process::Running;
use netgraft_e2e::report::{self, Job, Skipped};
use netgraft_e2e::skips::Skips;
use netgraft_e2e::stage::Stage;

/// A case takes a second or two; python's own limit, which shows where it hangs, is 20 s.
const LIMIT: Duration = Duration::from_secs(25);

/// A guest program: a language, and the words that start it.
struct Guest {
    language: &'static str,
    words: Vec<String>,
}

fn main() -> ExitCode {
    let skips = match Skips::load() {
        Ok(skips) => skips,
        Err(why) => {
            println!("{why}");
            return ExitCode::FAILURE;
        }
    };
    report::main("guest cases", |stage| jobs(stage, &skips), || skips.unused())
}

fn jobs<'a>(stage: &'a Stage, skips: &Skips) -> Result<Vec<Job<'a>>, String> {
    stage.compile_c()?;
    stage.compile_rust()?;
    stage.build_objects()?;
    let python = stage.copy_folder("guest/python")?.join("guest.py").display().to_string();
    let compiled = |language, name| Guest { language, words: vec![stage.bin(name).display().to_string()] };
    let guests = [
        Guest { language: "python", words: vec!["python3".to_owned(), python] },
        compiled("c", "guest-c"),
        compiled("musl", "guest-musl"),
        compiled("rust", "guest-rust"),
        compiled("static", "guest-static"),
        compiled("rust-musl", "guest-rust-musl"),
    ];
    let mut jobs = Vec::new();
    let objects = Column::OBJECTS.into_iter().filter(|column| column.user == User::Root);
    for column in Column::ALL.into_iter().chain(objects) {
        for guest in &guests {
            for case in cases(guest)?.into_iter().filter(|case| is_for(column, guest, case)) {
                let name = format!("{}/{case}", guest.language);
                let skip = skips
                    .reason(&name, column)
                    .map(|reason| Skipped { stack: column.network.stack().to_owned(), reason });
                let mut words = guest.words.clone();
                words.extend(["run".to_owned(), case]);
                let run = Box::new(move || run(stage, column, &words));
                jobs.push(Job { name, column: column.to_string(), skip, run });
            }
        }
    }
    Ok(jobs)
}

/// Whether a case is run in a column. A libc more says nothing more about an object; level 0 has no IPv6.
fn is_for(column: Column, guest: &Guest, case: &str) -> bool {
    let Network::Object(object) = column.network else { return true };
    ["python", "c"].contains(&guest.language) && (object != Object::Relay || case.ends_with("_v4"))
}

fn cases(guest: &Guest) -> Result<Vec<String>, String> {
    let output = Command::new(&guest.words[0])
        .args(&guest.words[1..])
        .arg("list")
        .env("PATH", SEARCH_PATH)
        .output()
        .map_err(|error| format!("{}: {error}", guest.language))?;
    let cases: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    if output.status.success() && !cases.is_empty() {
        Ok(cases)
    } else {
        Err(format!("{} lists no cases: {}", guest.language, String::from_utf8_lossy(&output.stderr)))
    }
}

fn run(stage: &Stage, column: Column, words: &[String]) -> Outcome {
    let namespace = Namespace::new()?;
    let interfaces = namespace.interfaces()?;
    let scratch = stage.scratch(column)?;
    let mut command = column.command(stage, &namespace, words);
    let ended = Running::start(&mut command, &scratch, "case")?.finish(LIMIT)?;
    let outcome = ended.success();
    let leaks = scratch.finish().and_then(|()| {
        let left = namespace.interfaces()?;
        if left == interfaces { Ok(()) } else { Err(format!("interfaces {left:?}, before {interfaces:?}")) }
    });
    outcome.and(leaks)
}

//! `netgraft-fuzz [--runs N] [--seed N] [TARGET [FILE...]]`: fuzzes all targets or one, or runs it on files.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use netgraft_fuzz::driver::{self, Fault};
use netgraft_fuzz::{TARGETS, Target};

/// What the command line asks for.
struct Options {
    runs: u64,
    seed: u64,
    targets: Vec<&'static Target>,
    files: Vec<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { runs: 1_000_000, seed: 1, targets: Vec::new(), files: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || {
            let value = args.next().ok_or_else(|| format!("{arg} needs a number"))?;
            value.parse().map_err(|_| format!("{arg}: '{value}' is no number"))
        };
        match arg.as_str() {
            "--runs" => options.runs = number()?,
            "--seed" => options.seed = number()?,
            _ if options.targets.is_empty() => {
                let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
                let found = TARGETS.iter().find(|target| target.name == arg);
                let found =
                    found.ok_or_else(|| format!("no target is named '{arg}': use {}", names.join(", ")))?;
                options.targets.push(found);
            }
            _ => options.files.push(arg.into()),
        }
    }
    if options.targets.is_empty() {
        options.targets.extend(TARGETS);
    }
    Ok(options)
}

fn run(options: &Options) -> Result<(), String> {
    for target in &options.targets {
        let failed = |error| format!("the corpus of {} cannot be read: {error}", target.name);
        if options.files.is_empty() {
            let corpus = driver::corpus(target).map_err(failed)?;
            driver::fuzz(target, &corpus, options.runs, options.seed).map_err(|fault| keep(&fault))?;
            println!("{}: {} of the corpus, {} made", target.name, corpus.len(), options.runs);
        }
        for file in &options.files {
            let input = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            driver::try_input(target, &input)
                .map_err(|fault| format!("{}: {}", file.display(), fault.text))?;
        }
    }
    Ok(())
}

/// Writes the input of a fault to a file of its own; what to say of it.
fn keep(fault: &Fault) -> String {
    let file = std::env::temp_dir().join(format!("netgraft-fuzz-{}-{}", fault.target, std::process::id()));
    let kept = match std::fs::write(&file, &fault.input) {
        Ok(()) => format!("'netgraft-fuzz {} {}' repeats it", fault.target, file.display()),
        Err(error) => format!("{} cannot be written: {error}", file.display()),
    };
    format!("{}: {}\n{kept}", fault.target, fault.text)
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("netgraft-fuzz: {text}");
            ExitCode::FAILURE
        }
    }
}

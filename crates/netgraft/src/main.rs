//! The command `netgraft`.
#![forbid(unsafe_code)]

mod cli;
mod fault_args;
mod link_option;
mod program_args;

use std::process::ExitCode;

use cli::Command;
use netgraft::{EXIT_FAILURE, NetworkSpec, ProgramSpec, RunError};

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().collect()) {
        Ok(command) => command,
        Err(cli::Stop::Text(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(cli::Stop::Error(text)) => {
            eprintln!("netgraft: {text}");
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    if let Err(error) = netgraft::register_builtin_stacks() {
        eprintln!("netgraft: {error}");
        return ExitCode::from(EXIT_FAILURE);
    }
    match command {
        Command::Run { network, program, summary, verbosity } => {
            cli::log_to_stderr(verbosity);
            let wrappers = &network.config.wrappers;
            if !wrappers.is_none() {
                tracing::info!("the link has faults; --link-seed {} repeats them", wrappers.seed);
            }
            run(&network, &program, summary)
        }
        Command::Stacks { files } if files.is_empty() => {
            print!("{}", cli::stacks_text());
            ExitCode::SUCCESS
        }
        Command::Stacks { files } => match cli::object_text(&files) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("netgraft: {error}");
                ExitCode::from(EXIT_FAILURE)
            }
        },
        Command::Check { stack, argument, trust_pre_init, filter, json } => {
            check(&stack, argument, trust_pre_init, &filter, json)
        }
    }
}

fn check(stack: &str, argument: Option<String>, trust_pre_init: bool, filter: &str, json: bool) -> ExitCode {
    let checked = match netgraft::check(stack, argument, trust_pre_init, filter) {
        Ok(checked) => checked,
        Err(error) => {
            tell(&error);
            return ExitCode::from(error.exit_status());
        }
    };
    if json {
        match checked.report.json() {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("netgraft: the report cannot be written: {error}");
                return ExitCode::from(EXIT_FAILURE);
            }
        }
    } else {
        print!("{}", checked.report.table());
        if checked.known > 0 {
            println!("{} of these lines are known deviations of a stack of this tree", checked.known);
        }
    }
    if checked.report.rows.is_empty() {
        eprintln!("netgraft: no case's name contains '{filter}'");
        return ExitCode::from(EXIT_FAILURE);
    }
    if let Some(text) = checked.stopped {
        eprintln!("netgraft: {text}");
    }
    ExitCode::from(u8::from(checked.failed))
}

fn tell(error: &RunError) {
    // A signal's sender knows what it did.
    if !matches!(error, RunError::Interrupted(_)) {
        eprintln!("netgraft: {}", cli::one_line(&error.to_string()));
    }
}

fn run(network: &NetworkSpec, program: &ProgramSpec, summary: bool) -> ExitCode {
    match netgraft::run(network, program) {
        Ok(status) => {
            if summary {
                eprint!("{}", cli::summary_text(status.summary.as_ref()));
            }
            ExitCode::from(status.code)
        }
        Err(error) => {
            tell(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

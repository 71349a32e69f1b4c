//! The command `netgraft`.
#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

use cli::Command;
use netgraft::{EXIT_FAILURE, RunError};

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
        Command::Run { options, summary, verbosity } => {
            cli::log_to_stderr(verbosity);
            run(*options, summary)
        }
        Command::Stacks => {
            print!("{}", cli::stacks_text());
            ExitCode::SUCCESS
        }
    }
}

fn run(options: netgraft::RunOptions, summary: bool) -> ExitCode {
    match netgraft::run(options) {
        Ok(status) => {
            if summary {
                eprint!("{}", cli::summary_text(status.summary.as_ref()));
            }
            ExitCode::from(status.code)
        }
        Err(error) => {
            // A signal's sender knows what it did.
            if !matches!(error, RunError::Interrupted(_)) {
                eprintln!("netgraft: {error}");
            }
            ExitCode::from(error.exit_status())
        }
    }
}

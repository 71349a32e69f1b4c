//! The command `netgraft`.
#![forbid(unsafe_code)]

mod cli;
mod containers;
mod fault_args;
mod flow_args;
mod link_option;
mod operator;
mod pcap_args;
mod policy_args;
mod program_args;
mod uplink;

use std::io::Write;
use std::process::ExitCode;

use cli::{Command, Style};
use netgraft::{Cases, CheckOptions, EXIT_FAILURE, NetworkSpec, ProgramSpec, RunError};
use policy_args::PolicyCommand;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().collect()) {
        Ok(command) => command,
        Err(cli::Stop::Text(text)) => {
            print(&text);
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
            if !wrappers.faults.is_none() {
                tracing::info!("the link has faults; --link-seed {} repeats them", wrappers.seed);
            }
            // Looking for passt takes a dozen system calls.
            if tracing::enabled!(tracing::Level::INFO)
                && let Some(remedy) = uplink::remedy(&network)
            {
                tracing::info!("the sandbox has no uplink: {remedy}");
            }
            run(&network, &program, summary)
        }
        Command::Stacks { files, syscalls } => {
            let text = match (files.is_empty(), syscalls) {
                (_, true) => cli::syscalls_text(&files),
                (true, false) => Ok(cli::stacks_text()),
                (false, false) => cli::object_text(&files),
            };
            match text {
                Ok(text) => {
                    print(&text);
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("netgraft: {error}");
                    ExitCode::from(EXIT_FAILURE)
                }
            }
        }
        Command::Policy(PolicyCommand::Check(args)) => text(policy_args::check(&args)),
        Command::Policy(PolicyCommand::Set(args)) => text(policy_args::set(&args)),
        Command::List { json } => text(operator::list(json)),
        Command::Ss(args) => text(operator::ss(&args)),
        Command::Metrics(sandbox) => text(operator::metrics(&sandbox)),
        Command::Link(args) => text(operator::link(&args)),
        Command::Containers { folder, namespace, network, verbosity } => {
            cli::log_to_stderr(verbosity);
            containers::main(&folder, namespace.as_deref(), *network)
        }
        Command::NewStack(new) => match netgraft::new_stack(&new) {
            Ok(object) => {
                print(&cli::new_stack_text(&new, &object));
                ExitCode::SUCCESS
            }
            Err(error) => {
                tell(&error);
                ExitCode::from(error.exit_status())
            }
        },
        Command::Check { options, style, verbosity } => {
            cli::log_to_stderr(verbosity);
            check(&options, style)
        }
    }
}

/// Prints a text, or why there is none.
fn text(text: Result<String, String>) -> ExitCode {
    match text {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("netgraft: {}", cli::one_line(&error));
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn check(options: &CheckOptions, style: Style) -> ExitCode {
    let checked = match netgraft::check(options, &mut |line| print(&format!("{line}\n"))) {
        Ok(checked) => checked,
        Err(error) => {
            tell(&error);
            return ExitCode::from(error.exit_status());
        }
    };
    if checked.report.rows.is_empty() {
        let told = match &options.cases {
            Cases::Named(name) => {
                format!("no case is named '{name}': --filter TEXT runs those whose name contains a text")
            }
            Cases::Containing(part) => format!("no case's name contains '{part}'"),
            _ => "the suite has no cases".to_owned(),
        };
        eprintln!("netgraft: {told}");
        return ExitCode::from(EXIT_FAILURE);
    }
    match style {
        Style::Json => match checked.report.json() {
            Ok(text) => print(&format!("{text}\n")),
            Err(error) => {
                eprintln!("netgraft: the report cannot be written: {error}");
                return ExitCode::from(EXIT_FAILURE);
            }
        },
        Style::Failures => print(&checked.failures_text()),
        Style::Table => {
            print(&checked.table());
            if !checked.known.is_empty() {
                print(&format!("known failures: {}\n", checked.known.len()));
            }
        }
    }
    for entry in &checked.stale {
        eprintln!("netgraft: '{entry}' is listed as known, and explains nothing: remove it");
    }
    if let Some(text) = checked.stopped {
        eprintln!("netgraft: {text}");
    }
    ExitCode::from(u8::from(checked.failed))
}

/// Prints to standard output. Where its reader is gone (`| head`), nothing is left to do.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => {}
        // As a shell reports the signal that ends most programs then.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(128 + libc::SIGPIPE),
        Err(e) => {
            eprintln!("netgraft: standard output cannot be written: {e}");
            std::process::exit(EXIT_FAILURE.into());
        }
    }
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
                if let Some(remedy) = uplink::remedy(network).filter(|_| uplink::has_passt()) {
                    eprintln!("netgraft: uplink       none: {remedy}");
                }
            }
            ExitCode::from(status.code)
        }
        Err(error) => {
            tell(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

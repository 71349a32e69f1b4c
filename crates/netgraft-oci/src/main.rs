//! The command `netgraft-oci`: an OCI runtime in front of another one.
//!
//! A container engine names it as its runtime. Every command is the real runtime's (runc), which takes this process's place.
//! Before `create` and `run` a sandbox is started for the container's network namespace ([`sandbox`]), and the runtime gets the
//! container's configuration with a filter of system calls whose listener goes there ([`bundle`], [`profile`]). What `exec`
//! makes has the container's filter.
#![forbid(unsafe_code)]

mod bundle;
mod command_line;
mod profile;
mod sandbox;
mod settings;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use command_line::{Invocation, Making};
use settings::Settings;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let invocation = command_line::parse(&args);
    if invocation.is_version {
        println!("netgraft-oci version {}", env!("CARGO_PKG_VERSION"));
    }
    match run(&invocation, args) {
        Ok(never) => never,
        Err(text) => {
            complain(&invocation, &text);
            ExitCode::FAILURE
        }
    }
}

/// Prepares what is to be prepared and becomes the runtime; answers only why it did not.
fn run(invocation: &Invocation, args: Vec<OsString>) -> Result<ExitCode, String> {
    let settings = Settings::of_node()?;
    let runtime = settings.runtime.clone().unwrap_or_else(|| "runc".into());
    if invocation.is_end {
        // Where there are no sandboxes there is nothing to remove.
        let _ = sandbox::sweep();
    }
    let Some(making) = &invocation.making else { return Err(become_runtime(&runtime, args)) };
    let args = prepare(making, &settings, &runtime, args)?;
    Err(become_runtime(&runtime, args))
}

/// Starts the sandbox of a container that is to be made, and answers the runtime's arguments.
fn prepare(
    making: &Making,
    settings: &Settings,
    runtime: &OsString,
    args: Vec<OsString>,
) -> Result<Vec<OsString>, String> {
    // Before anything is made for nothing.
    sandbox::find_program(runtime)
        .ok_or_else(|| format!("there is no runtime '{}': install the package runc", runtime.display()))?;
    let mut config = bundle::read(&making.bundle)?;
    let options = settings.options(&config)?;
    profile::check(&config)?;
    let network = bundle::network_namespace(&config)?;
    let joined = sandbox::join(&making.id, network, &options)?;
    profile::extend(&mut config, joined.sockets, &joined.listeners)?;
    let shadow = bundle::write(&making.bundle, config, &joined.folder, &making.id)?;
    // Open until the runtime's process has ended: the sandbox waits for that.
    joined.hold()?;
    Ok(making.with_bundle(args, &shadow))
}

fn become_runtime(runtime: &OsString, args: Vec<OsString>) -> String {
    let error = Command::new(runtime).args(args).exec();
    if error.kind() == std::io::ErrorKind::NotFound {
        return format!("there is no runtime '{}': install the package runc", runtime.display());
    }
    format!("{} cannot be run: {error}", runtime.display())
}

/// Says what is wrong as the runtime would: on standard error, and in the log that the engine reads.
fn complain(invocation: &Invocation, text: &str) {
    eprintln!("netgraft-oci: {text}");
    let Some(log) = &invocation.log else { return };
    let message = format!("netgraft-oci: {text}");
    let line = if invocation.is_json {
        serde_json::json!({ "level": "error", "msg": message }).to_string()
    } else {
        format!("level=error msg={message:?}")
    };
    let opened = std::fs::File::options().append(true).create(true).open(log);
    // The engine has standard error as well.
    let _ = opened.and_then(|mut file| writeln!(file, "{line}"));
}

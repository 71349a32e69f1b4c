//! A server and a client in one process tree: what runs inside a sandbox, and natively beside it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Doing, Error, Result};
use crate::load::{Peers, Protocol, Workload};
use crate::outcome::{Bounds, Outcome};
use crate::process::Running;
use crate::server::Ready;
use crate::{client, tools};

/// How long a server may take to say that it is ready.
const READY: Duration = Duration::from_secs(15);

/// How long a server may take to end after its input did.
const END: Duration = Duration::from_secs(10);

/// Runs a workload between two processes on the address `on`.
pub(crate) fn run(workload: &Workload, on: IpAddr, bounds: Bounds) -> Result<Outcome> {
    let nowhere = SocketAddr::new(on, 0);
    match workload.peers() {
        Peers::Alone => client::run(workload, nowhere, bounds),
        Peers::Tools => tools::run(workload, on, bounds),
        Peers::Own(protocol) => {
            let program = std::env::current_exe().doing(|| "finding this program's own file")?;
            let mut server =
                Running::spawn("the server", &mut server_command(&program, protocol, nowhere, bounds))?;
            let address = ready(&mut server)?;
            let outcome = client::run(workload, address, bounds)?;
            server.finish(Instant::now() + END)?;
            Ok(outcome)
        }
    }
}

/// The command that starts this crate's server.
fn server_command(program: &Path, protocol: Protocol, listen: SocketAddr, bounds: Bounds) -> Command {
    let mut command = Command::new(program);
    command.args(server_words(protocol, listen, bounds));
    command
}

/// The words after the program's name that start a server for one run.
pub(crate) fn server_words(protocol: Protocol, listen: SocketAddr, bounds: Bounds) -> Vec<String> {
    // The client's patience is part of the server's life: it must not vanish under a slow client.
    let life = bounds.time.as_secs_f64() * 1.1 + 40.0;
    let mut words = vec!["server".to_owned(), "--listen".to_owned(), listen.to_string()];
    words.extend(["--for".to_owned(), format!("{life:.1}")]);
    if protocol == Protocol::Udp {
        words.push("--udp".to_owned());
    }
    words
}

/// Waits until a server says where it listens.
pub(crate) fn ready(server: &mut Running) -> Result<SocketAddr> {
    let line = server.next_line(Instant::now() + READY)?;
    let ready: Ready = serde_json::from_str(&line).map_err(|error| {
        Error::Failed(format!("the server printed {line:?} instead of its address: {error}"))
    })?;
    Ok(ready.listening)
}

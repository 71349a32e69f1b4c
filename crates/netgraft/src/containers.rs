//! `netgraft containers FOLDER NAMESPACE`: the sandbox of containers that share a network namespace, for netgraft-oci.
//!
//! It goes on in the background, and says in one line on standard output what has come of its start: "ready" and what stands
//! behind the containers' internet sockets, or "error" and why.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use netgraft::{EXIT_FAILURE, Gate, NetworkSpec, SENTRY, Sandbox, enter_network};
use netgraft_linux::filter::Sockets;
use netgraft_linux::{process, task, unix};

use crate::cli;

/// Where those that start runtimes connect, and where runtimes send listeners.
const FRONTS: &str = "front.sock";
const LISTENERS: &str = "seccomp.sock";
/// Where the number of their network namespace is written.
const NETWORK: &str = "network";

/// Serves the containers that come to a folder, which is removed at the end.
pub(crate) fn main(folder: &Path, namespace: Option<&Path>, network: NetworkSpec) -> ExitCode {
    match start(folder, namespace, network) {
        Ok(line) => {
            println!("{line}");
            ExitCode::from(if line.starts_with("ready") { 0 } else { EXIT_FAILURE })
        }
        Err(error) => {
            println!("error the sandbox cannot be started: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// Forks the process that serves, and waits for what it says of its start.
fn start(folder: &Path, namespace: Option<&Path>, network: NetworkSpec) -> io::Result<String> {
    let (mut said, says) = io::pipe()?;
    let mut says = Some(says);
    process::fork(|| {
        let Some(says) = says.take() else { return 1 };
        i32::from(serve(folder, namespace, network, says).is_err())
    })?;
    drop(says);
    let mut line = String::new();
    said.read_to_string(&mut line)?;
    let line = line.trim_end();
    Ok(if line.is_empty() { "error the sandbox ended without a word".to_owned() } else { line.to_owned() })
}

fn serve(
    folder: &Path,
    namespace: Option<&Path>,
    mut network: NetworkSpec,
    mut says: io::PipeWriter,
) -> io::Result<()> {
    process::new_session()?;
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    process::replace_stdin_and_stdout(null.as_fd())?;
    std::env::set_current_dir("/")?;
    let made = gate(folder).map_err(|e| format!("{}: {e}", folder.display())).and_then(|gate| {
        namespace.map_or(Ok(()), |namespace| enter_network(namespace, &mut network))?;
        let sandbox = Sandbox::for_containers(&network, SENTRY).map_err(|e| e.to_string())?;
        Ok((gate, sandbox))
    });
    let (gate, sandbox) = match made {
        Ok(made) => made,
        Err(why) => {
            writeln!(says, "error {}", cli::one_line(&why))?;
            return Err(io::ErrorKind::Other.into());
        }
    };
    let sockets = match sandbox.sockets() {
        Sockets::Host => "host",
        Sockets::Surrogates => "surrogates",
        Sockets::StreamSurrogates => "stream-surrogates",
    };
    writeln!(says, "ready {sockets}")?;
    drop(says);
    let (mut is_closed, mut lock) = (false, None);
    let served = sandbox.serve_containers(&gate, || {
        (is_closed, lock) = close(folder, &gate);
        is_closed
    });
    // What was taken of the network is given back by now, so that the next sandbox finds it.
    drop(lock);
    // After a signal it is there still. One that was closed may be another sandbox's by now.
    let removed = if is_closed { Ok(()) } else { fs::remove_dir_all(folder) };
    if let Err(error) = served {
        tracing::error!("{error}");
    }
    removed
}

/// Removes the folder, so that a container of this network begins anew, unless somebody has come meanwhile. netgraft-oci holds
/// the same lock while it looks for a sandbox; it is to be kept until all of this one has ended.
fn close(folder: &Path, gate: &Gate) -> (bool, Option<fs::File>) {
    // Without a lock somebody may come too late, and is told that the sandbox is gone.
    let lock = folder.parent().and_then(|above| fs::File::open(above).ok());
    if let Some(lock) = &lock {
        let _ = lock.lock();
    }
    if unix::readable(gate.fronts.as_fd()).unwrap_or(false) {
        return (false, None);
    }
    let _ = fs::remove_dir_all(folder);
    (true, lock)
}

fn gate(folder: &Path) -> io::Result<Gate> {
    let listen = |name: &str| {
        let listener = UnixListener::bind(folder.join(name))?;
        listener.set_nonblocking(true)?;
        Ok::<_, io::Error>(listener)
    };
    let of_host = task::own_namespace("net")?;
    Ok(Gate {
        fronts: listen(FRONTS)?,
        listeners: listen(LISTENERS)?,
        network: folder.join(NETWORK),
        of_host,
    })
}

//! The sandbox of a network namespace: found, or started.
//!
//! Each has a folder below `/run/netgraft/oci`, with a file `network` that has the namespace's number once that is known, and
//! with its sockets. One process at a time looks for a sandbox or starts one.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use netgraft_linux::filter::Sockets;
use netgraft_linux::process;

use crate::bundle::Network;

/// Where sandboxes of containers are.
const FOLDER: &str = "/run/netgraft/oci";
/// What a sandbox has in its folder.
const FRONTS: &str = "front.sock";
const LISTENERS: &str = "seccomp.sock";
const NETWORK: &str = "network";
const SOCKETS: &str = "sockets";
const OPTIONS: &str = "options";
const LOG: &str = "log";

/// How long a sandbox without containers may take to end, and how often it is looked for.
const ENDS: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// A sandbox that a container is to come to.
pub(crate) struct Joined {
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// Where the runtime sends listeners.
    pub(crate) listeners: PathBuf,
    /// What stands behind its containers' internet sockets.
    pub(crate) sockets: Sockets,
    /// As long as this is open the sandbox does not end.
    front: UnixStream,
}

impl Joined {
    /// Leaves the connection to the process that takes this one's place.
    pub(crate) fn hold(self) -> Result<(), String> {
        process::leave_open(self.front.as_fd())
            .map_err(|error| format!("the sandbox cannot be held: {error}"))?;
        std::mem::forget(self.front);
        Ok(())
    }
}

/// Finds the sandbox of a container's network namespace, or starts one with these options.
pub(crate) fn join(id: &str, network: Network, options: &[OsString]) -> Result<Joined, String> {
    let told = |what: &Path, error: io::Error| format!("{}: {error}", what.display());
    let is_name =
        |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b));
    if !is_name(id) || id.starts_with('.') {
        return Err(format!("'{id}' is no name of a container"));
    }
    let top = Path::new(FOLDER);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(top);
    made.map_err(|error| told(top, error))?;
    let mut lock = sweep()?;
    // One whose container has ended is about to end as well.
    if network == Network::New {
        let ends = Instant::now() + ENDS;
        while UnixStream::connect(top.join(id).join(FRONTS)).is_ok() {
            if Instant::now() > ends {
                return Err(format!("a container '{id}' runs already"));
            }
            drop(lock);
            thread::sleep(LOOK);
            lock = sweep()?;
        }
    }
    let _lock = lock;
    let name = match &network {
        Network::New => id.to_owned(),
        Network::There(number, _) => match find(top, *number) {
            Some(name) => name,
            None => format!("net-{number}"),
        },
    };
    let folder = top.join(name);
    if let Ok(front) = UnixStream::connect(folder.join(FRONTS)) {
        same_options(&folder, options)?;
        let sockets = fs::read_to_string(folder.join(SOCKETS)).map_err(|error| told(&folder, error))?;
        return joined(folder, &sockets, front);
    }
    fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| told(&folder, error))?;
    let started = start(&folder, options, network);
    if started.is_err() {
        let _ = fs::remove_dir_all(&folder);
    }
    started
}

/// Removes what sandboxes have left that were killed. Nobody else looks for one, or starts one, until the file is closed.
pub(crate) fn sweep() -> Result<File, String> {
    let top = Path::new(FOLDER);
    let told = |error: io::Error| format!("{FOLDER}: {error}");
    let found = fs::symlink_metadata(top).map_err(told)?;
    if !found.is_dir() || found.uid() != process::ids().1 || found.mode() & 0o022 != 0 {
        return Err(format!("{FOLDER} is no directory of the caller's alone"));
    }
    let lock = File::open(top).map_err(told)?;
    lock.lock().map_err(told)?;
    for folder in fs::read_dir(top).map_err(told)?.flatten().map(|entry| entry.path()) {
        let end = UnixStream::connect(folder.join(FRONTS)).err();
        // One whose queue is full lives.
        let is_gone = |kind| [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound].contains(&kind);
        if end.is_some_and(|error| is_gone(error.kind())) {
            let _ = fs::remove_dir_all(folder);
        }
    }
    Ok(lock)
}

/// The sandbox of a network namespace.
fn find(top: &Path, number: u64) -> Option<String> {
    let entries = fs::read_dir(top).ok()?;
    let has = |folder: &Path| {
        let text = fs::read_to_string(folder.join(NETWORK)).unwrap_or_default();
        text.trim().parse() == Ok(number) && UnixStream::connect(folder.join(FRONTS)).is_ok()
    };
    let found = entries.flatten().map(|entry| entry.path()).find(|folder| has(folder))?;
    Some(found.file_name()?.to_str()?.to_owned())
}

fn text_of(options: &[OsString]) -> String {
    options.iter().map(|option| format!("{}\n", option.display())).collect()
}

/// Containers of one network have one stack: options that say otherwise would be ignored.
fn same_options(folder: &Path, options: &[OsString]) -> Result<(), String> {
    let others = fs::read_to_string(folder.join(OPTIONS)).unwrap_or_default();
    if options.is_empty() || others == text_of(options) {
        return Ok(());
    }
    Err(format!(
        "the container's network has a stack already, with other options ({}): give all its containers the same",
        others.lines().collect::<Vec<_>>().join(" ")
    ))
}

/// Starts a sandbox in a folder that is there.
fn start(folder: &Path, options: &[OsString], network: Network) -> Result<Joined, String> {
    let told = |error: io::Error| format!("{}: {error}", folder.display());
    let log = File::options().create(true).append(true).mode(0o600).open(folder.join(LOG)).map_err(told)?;
    let netgraft = beside("netgraft");
    let made = Command::new(&netgraft)
        .arg("containers")
        .arg(folder)
        .arg(match &network {
            Network::New => Path::new("new"),
            Network::There(_, path) => path,
        })
        .args(options)
        .stdin(Stdio::null())
        .stderr(log)
        .output()
        .map_err(|error| format!("{} cannot be run: {error}", netgraft.display()))?;
    let said = String::from_utf8_lossy(&made.stdout);
    let Some(sockets) = said.strip_prefix("ready ") else {
        // An option that is wrong is told on standard error.
        let text = fs::read_to_string(folder.join(LOG)).unwrap_or_default();
        let last = text.lines().next_back().map(|line| line.trim_start_matches("netgraft: ").to_owned());
        let why = said.strip_prefix("error ").map(|why| why.trim_end().to_owned()).or(last);
        return Err(why.unwrap_or_else(|| format!("{} ended without a word", netgraft.display())));
    };
    let write = |name: &str, text: &str| {
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(folder.join(name))?;
        file.write_all(text.as_bytes())
    };
    write(SOCKETS, sockets.trim_end()).and_then(|()| write(OPTIONS, &text_of(options))).map_err(told)?;
    if let Network::There(number, _) = network {
        write(NETWORK, &number.to_string()).map_err(told)?;
    }
    let front = UnixStream::connect(folder.join(FRONTS)).map_err(told)?;
    joined(folder.to_owned(), sockets, front)
}

fn joined(folder: PathBuf, sockets: &str, front: UnixStream) -> Result<Joined, String> {
    let sockets = match sockets.trim_end() {
        "host" => Sockets::Host,
        "surrogates" => Sockets::Surrogates,
        "stream-surrogates" => Sockets::StreamSurrogates,
        other => return Err(format!("netgraft says '{other}': it is of another version than netgraft-oci")),
    };
    let listeners = folder.join(LISTENERS);
    Ok(Joined { folder, listeners, sockets, front })
}

/// A program beside this one, or of the search path.
fn beside(name: &str) -> PathBuf {
    let own = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    own.filter(|path| path.exists()).unwrap_or_else(|| name.into())
}

/// A program, by its path or in the search path.
pub(crate) fn find_program(name: &OsStr) -> Option<PathBuf> {
    let path = Path::new(name);
    if path.components().count() > 1 {
        return path.exists().then(|| path.to_owned());
    }
    let search = std::env::var_os("PATH")?;
    std::env::split_paths(&search).map(|folder| folder.join(name)).find(|path| path.exists())
}

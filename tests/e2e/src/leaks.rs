//! What must not be left when a job, or the whole run, has ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::MARK;

/// How long what was told to end may take to be gone.
const GRACE: Duration = Duration::from_secs(10);

/// Asserts that no process carries the job's mark any more. What is found is killed, by its id.
///
/// # Errors
/// Names the processes that were left.
pub fn no_processes(mark: &str) -> Result<(), String> {
    let deadline = Instant::now() + GRACE;
    loop {
        let left = marked_processes(mark);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            for (pid, _) in &left {
                if let Some(pid) = Pid::from_raw(*pid) {
                    // It may end by itself between the look and the kill.
                    let _gone = kill_process(pid, Signal::KILL);
                }
            }
            let names: Vec<String> = left.iter().map(|(pid, name)| format!("{name} ({pid})")).collect();
            return Err(format!("processes left behind: {}", names.join(", ")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Asserts that no process runs this very file, whatever its environment says.
///
/// # Errors
/// Names the processes that do.
pub fn nobody_runs(binary: &Path) -> Result<(), String> {
    let running: Vec<String> = processes()
        .filter(|(_, folder)| fs::read_link(folder.join("exe")).is_ok_and(|exe| exe == binary))
        .map(|(pid, folder)| format!("{} ({pid})", name_of(&folder)))
        .collect();
    if running.is_empty() { Ok(()) } else { Err(format!("netgraft still runs: {}", running.join(", "))) }
}

fn processes() -> impl Iterator<Item = (i32, PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

fn name_of(folder: &Path) -> String {
    let line = fs::read(folder.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()
}

/// The processes of a job, with their command lines.
#[must_use]
pub fn marked_processes(mark: &str) -> Vec<(i32, String)> {
    let needle = format!("{MARK}={mark}");
    let carries = |folder: &Path| {
        wait_for_its_words(folder);
        let environment = fs::read(folder.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == needle.as_bytes())
    };
    processes().filter(|(_, folder)| carries(folder)).map(|(pid, folder)| (pid, name_of(&folder))).collect()
}

/// Waits, briefly, while a process is in the middle of execve(2): it has its new program then, and its parent goes on
/// already, but its command line and environment are still empty. Threads of the kernel and the dead have no program.
fn wait_for_its_words(folder: &Path) {
    let is_between = || {
        fs::read(folder.join("cmdline")).is_ok_and(|line| line.is_empty())
            && fs::read_link(folder.join("exe")).is_ok()
    };
    for _ in 0..100 {
        if !is_between() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Asserts that a folder is empty.
///
/// # Errors
/// Names what is in it.
pub fn empty_folder(folder: &Path) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let left: Vec<String> = entries.flatten().map(|entry| entry.file_name().display().to_string()).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("files left behind: {}", left.join(", "))) }
}

/// What a run could leave on the machine outside of its own folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    namespace_mounts: Vec<String>,
    interfaces: Vec<String>,
    files: Vec<String>,
}

impl Footprint {
    /// Looks at the machine.
    #[must_use]
    pub fn now() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let namespace_mounts = mounts
            .lines()
            .filter(|line| line.contains(" - nsfs ") || line.contains("netgraft"))
            .filter_map(|line| line.split(' ').nth(4).map(str::to_owned))
            .collect();
        let listing = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path().display().to_string()).collect()
        };
        // Other sandboxes of the same user have the folder of their sockets while they run.
        let of_user = |path: &str| {
            path.strip_prefix("/tmp/netgraft-").is_some_and(|id| id.bytes().all(|b| b.is_ascii_digit()))
        };
        let ours =
            |path: &String| path.contains("netgraft") && !path.contains("netgraft-e2e") && !of_user(path);
        let mut files: Vec<String> = ["/tmp", "/run", "/var/tmp", "/dev/shm"]
            .iter()
            .flat_map(|folder| listing(folder))
            .filter(ours)
            .collect();
        files.sort();
        Footprint { namespace_mounts, interfaces: listing("/sys/class/net"), files }
    }

    /// Asserts that nothing has come since.
    ///
    /// # Errors
    /// Names what has come.
    pub fn nothing_new(&self) -> Result<(), String> {
        let now = Footprint::now();
        let new = |before: &[String], after: &[String]| -> Vec<String> {
            after.iter().filter(|each| !before.contains(each)).cloned().collect()
        };
        // Namespaces of other test runs on the machine have other names.
        let prefix = crate::netns::name_prefix();
        let ours = |path: &String| path.contains(&prefix) || path.contains("netgraft");
        let mounts: Vec<String> =
            new(&self.namespace_mounts, &now.namespace_mounts).into_iter().filter(ours).collect();
        let interfaces = new(&self.interfaces, &now.interfaces);
        let files = new(&self.files, &now.files);
        if mounts.is_empty() && interfaces.is_empty() && files.is_empty() {
            return Ok(());
        }
        Err(format!("left on the machine: namespaces {mounts:?}, interfaces {interfaces:?}, files {files:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_stays_is_named_and_ended() {
        let mark = format!("self-test-{}", std::process::id());
        let mut child = std::process::Command::new("sleep").arg("60").env(MARK, &mark).spawn().unwrap();
        // For an instant after the parent goes on, the child still shows the parent's environment.
        let deadline = Instant::now() + GRACE;
        while marked_processes(&mark).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let why = no_processes(&mark).unwrap_err();
        assert!(why.contains("sleep 60"), "{why}");
        assert!(!child.wait().unwrap().success());
        no_processes(&mark).unwrap();
    }

    #[test]
    fn a_file_that_stays_is_named() {
        let folder = std::env::temp_dir().join(format!("netgraft-e2e-self-test-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        empty_folder(&folder).unwrap();
        fs::write(folder.join("left"), "").unwrap();
        assert!(empty_folder(&folder).unwrap_err().contains("left"));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_binary_that_runs_is_found() {
        let this = std::env::current_exe().unwrap();
        assert!(nobody_runs(&this).is_err());
        nobody_runs(Path::new("/no/such/binary")).unwrap();
    }
}

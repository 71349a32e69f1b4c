//! The processes of a sandbox, by /proc of who asks (proc(5)): those that come from its launcher and are not netgraft's own.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use netgraft_launch::printable;

/// Processes of netgraft that are in the programs' process-id namespace.
const OWN: &str = "netgraft-init";
/// What the sentry is called.
const SENTRY: &str = "netgraft-sentry";

/// A process of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its id here.
    pub(crate) pid: u32,
    /// Its id in the sentry's process-id namespace.
    pub(crate) seen_by_sentry: u32,
    /// What it calls itself.
    pub(crate) name: String,
}

/// What /proc/PID/status says.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    name: String,
    parent: u32,
    /// Its ids, from this process-id namespace inwards.
    ids: Vec<u32>,
}

/// The processes of the sandbox that a process has made, by their ids.
pub(crate) fn of_launcher(launcher: u32) -> Vec<Process> {
    let all: HashMap<u32, Status> = pids().filter_map(|pid| Some((pid, status(pid)?))).collect();
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (&pid, status) in &all {
        children.entry(status.parent).or_default().push(pid);
    }
    let (mut found, mut next) = (HashSet::new(), vec![launcher]);
    while let Some(pid) = next.pop() {
        if found.insert(pid) {
            next.extend(children.get(&pid).into_iter().flatten());
        }
    }
    // A program may call itself so as well, but is in a process-id namespace below the sentry's.
    let depth = |pid: &u32| all.get(pid).map_or(usize::MAX, |status| status.ids.len());
    let is_sentry =
        |pid: &u32| all.get(pid).is_some_and(|status| status.name == SENTRY && status.parent == launcher);
    let sentry = found.iter().copied().filter(is_sentry).min_by_key(depth);
    let Some(depth) = sentry.and_then(|pid| all.get(&pid)).map(|status| status.ids.len()) else {
        return Vec::new();
    };
    let namespaces = [Some(launcher), sentry].map(|pid| pid.and_then(namespace));
    let mut programs: Vec<Process> = found
        .into_iter()
        .filter_map(|pid| {
            let status = all.get(&pid)?;
            let inside = namespace(pid).is_some_and(|own| !namespaces.contains(&Some(own)));
            let seen_by_sentry = *status.ids.get(depth - 1)?;
            // The first process of its namespace, where a program may call itself what it likes.
            let is_own = status.name == OWN && status.ids.last() == Some(&1);
            (inside && !is_own).then(|| Process { pid, seen_by_sentry, name: printable(&status.name) })
        })
        .collect();
    programs.sort_by_key(|process| process.pid);
    programs
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn namespace(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

fn status(pid: u32) -> Option<Status> {
    parse_status(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/status")).ok()?))
}

fn parse_status(text: &str) -> Option<Status> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some(Status {
        name: field("Name:")?.to_owned(),
        parent: field("PPid:")?.parse().ok()?,
        ids: field("NSpid:")?.split_whitespace().filter_map(|id| id.parse().ok()).collect(),
    })
}

/// How long ago a process began, in seconds.
pub(crate) fn age(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may have any in it. The 22nd field is in hundredths of a second (USER_HZ).
    let began: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let up = fs::read_to_string("/proc/uptime").ok()?;
    let up: u64 = up.split('.').next()?.parse().ok()?;
    Some(up.saturating_sub(began / 100))
}

/// Which processes have a socket open, by the socket's inode: the process and its descriptor.
pub(crate) fn by_inode(processes: &[Process]) -> HashMap<u64, (u32, i32)> {
    let mut found = HashMap::new();
    for process in processes {
        let entries = fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten();
        for entry in entries {
            let Ok(link) = fs::read_link(entry.path()) else { continue };
            let inode =
                link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            let fd = entry.file_name().to_str().and_then(|fd| fd.parse().ok());
            if let (Some(inode), Some(fd)) = (inode, fd) {
                found.entry(inode).or_insert((process.pid, fd));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_by_its_fields() {
        let text = "Name:\tsh\nUmask:\t0022\nPid:\t7\nPPid:\t5\nNSpid:\t7\t4\t2\n";
        let status = parse_status(text).unwrap();
        assert_eq!(status, Status { name: "sh".into(), parent: 5, ids: vec![7, 4, 2] });
        assert_eq!(parse_status("Name:\tsh\n"), None);
    }

    #[test]
    fn this_process_is_young_and_has_its_sockets() {
        let own = std::process::id();
        assert!(age(own).unwrap() < 3600);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let process = Process { pid: own, seen_by_sentry: own, name: String::new() };
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        assert!(by_inode(&[process]).values().any(|&(pid, found)| (pid, found) == (own, fd)));
    }
}

//! `netgraft ss SANDBOX`: the sockets of a sandbox, as ss(8) prints those of a machine.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;

use clap::Args;
use netgraft_launch::operator::{Answer, Behind, Request, SocketLine};
use netgraft_launch::printable;
use serde::Serialize;

use super::kernel_sockets::{self, KernelSocket};
use super::processes::{self, Process};
use super::{Client, table, unexpected};

#[derive(Args, Debug, Default)]
pub(crate) struct SsArgs {
    /// The sandbox, as 'netgraft list' names it
    pub(crate) sandbox: String,

    /// Also sockets that listen or have no peer
    #[arg(short, long)]
    pub(crate) all: bool,

    /// Only sockets that listen, and datagram sockets without a peer
    #[arg(short, long, conflicts_with = "all")]
    pub(crate) listening: bool,

    /// TCP
    #[arg(short, long)]
    pub(crate) tcp: bool,

    /// UDP
    #[arg(short, long)]
    pub(crate) udp: bool,

    /// Only sockets in a state, such as estab, listen, syn-sent, close-wait; may be given again
    #[arg(long, value_name = "STATE", conflicts_with_all = ["all", "listening"], value_parser = state)]
    pub(crate) state: Vec<String>,

    /// Only sockets with this port on either side
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const STATES: [&str; 12] = [
    "ESTAB",
    "SYN-SENT",
    "SYN-RECV",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "CLOSE",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
    "UNCONN",
];

fn state(text: &str) -> Result<String, String> {
    let name = match text.to_ascii_uppercase().as_str() {
        "ESTABLISHED" => "ESTAB".to_owned(),
        "LISTENING" => "LISTEN".to_owned(),
        "CLOSED" | "UNCONNECTED" => "UNCONN".to_owned(),
        other => other.to_owned(),
    };
    let known = STATES.contains(&name.as_str());
    known.then_some(name).ok_or_else(|| format!("use one of {}", STATES.join(", ").to_ascii_lowercase()))
}

/// A socket, with the process that has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Line {
    protocol: String,
    state: String,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    recv_q: u64,
    send_q: u64,
    joined: bool,
    process: Option<String>,
    pid: Option<u32>,
    fd: Option<i32>,
}

/// The text of `netgraft ss`.
pub(crate) fn ss(args: &SsArgs) -> Result<String, String> {
    let mut client = Client::connect(&args.sandbox)?;
    client.ask(Request::Info)?;
    let Answer::Info(info) = client.next()? else { return Err(unexpected()) };
    client.ask(Request::Sockets)?;
    let mut sockets = Vec::new();
    loop {
        match client.next()? {
            Answer::Socket(socket) => sockets.push(socket),
            Answer::Done => break,
            _ => return Err(unexpected()),
        }
    }
    let launcher = client.launcher();
    let processes = launcher.map(processes::of_launcher).unwrap_or_default();
    let mut lines = of_sentry(sockets, &processes);
    lines.extend(of_kernel(info.behind, launcher, &processes));
    lines.retain(|line| is_wanted(args, line));
    lines.sort_by_key(|line| (line.protocol.clone(), line.local, line.peer));
    if args.json {
        let text = serde_json::to_string_pretty(&lines).map_err(|error| error.to_string())?;
        return Ok(format!("{text}\n"));
    }
    let heads = ["Netid", "State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port", "Process"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(lines.iter().map(row));
    Ok(table(&rows))
}

/// The sentry's sockets. Of a joined connection both sides are there, also when only one has an entry.
fn of_sentry(sockets: Vec<SocketLine>, processes: &[Process]) -> Vec<Line> {
    let names: HashMap<u32, &Process> = processes.iter().map(|p| (p.seen_by_sentry, p)).collect();
    let line = |socket: SocketLine| {
        let process = names.get(&socket.process);
        Line {
            protocol: printable(&socket.protocol),
            state: printable(&socket.state),
            local: socket.local.map(canonical),
            peer: socket.peer.map(canonical),
            recv_q: socket.received,
            send_q: socket.unsent,
            joined: socket.joined,
            process: process.map(|process| process.name.clone()),
            pid: process.map(|process| process.pid),
            fd: socket.descriptor.filter(|_| process.is_some()),
        }
    };
    let mut lines: Vec<Line> = sockets.into_iter().map(line).collect();
    let known: Vec<_> = lines.iter().filter(|l| l.joined).map(|l| (l.local, l.peer)).collect();
    let others: Vec<Line> = lines
        .iter()
        .filter(|l| l.joined && !known.contains(&(l.peer, l.local)))
        .map(|l| Line { local: l.peer, peer: l.local, process: None, pid: None, fd: None, ..l.clone() })
        .collect();
    lines.extend(others);
    lines
}

/// Sockets that are the kernel's: in the programs' network namespace, and with host sockets those of the host's that a
/// program has.
fn of_kernel(behind: Behind, launcher: Option<u32>, processes: &[Process]) -> Vec<Line> {
    let by_inode = processes::by_inode(processes);
    let theirs = |socket: &KernelSocket| by_inode.contains_key(&socket.inode);
    let mut found = Vec::new();
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = launcher.and_then(namespace);
    let mut seen = vec![own];
    for process in processes {
        let inside = namespace(process.pid);
        if inside.is_some() && !seen.contains(&inside) {
            seen.push(inside);
            // What no process has is the kernel's, such as that of the device that shows an interface.
            found.extend(kernel_sockets::of_process(process.pid).into_iter().filter(&theirs));
        }
    }
    if behind == Behind::Host
        && let Some(launcher) = launcher
    {
        found.extend(kernel_sockets::of_process(launcher).into_iter().filter(theirs));
    }
    let line = |socket: KernelSocket| {
        let (pid, fd) = by_inode.get(&socket.inode).copied().unzip();
        Line {
            protocol: socket.protocol.to_owned(),
            state: socket.state.to_owned(),
            local: Some(canonical(socket.local)),
            peer: (socket.peer.port() != 0 || !socket.peer.ip().is_unspecified())
                .then(|| canonical(socket.peer)),
            recv_q: socket.received,
            send_q: socket.unsent,
            joined: false,
            process: processes.iter().find(|p| Some(p.pid) == pid).map(|p| p.name.clone()),
            pid,
            fd,
        }
    };
    found.into_iter().map(line).collect()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn is_wanted(args: &SsArgs, line: &Line) -> bool {
    let protocol = match (args.tcp, args.udp) {
        (false, false) => true,
        (tcp, udp) => (tcp && line.protocol == "tcp") || (udp && line.protocol == "udp"),
    };
    let port =
        args.port.is_none_or(|port| [line.local, line.peer].into_iter().flatten().any(|a| a.port() == port));
    let waits = matches!(line.state.as_str(), "LISTEN" | "UNCONN");
    let state = match (args.state.is_empty(), args.all, args.listening) {
        (false, ..) => {
            args.state.contains(&line.state)
                || (line.state == "CLOSE" && args.state.contains(&"UNCONN".to_owned()))
        }
        (true, true, _) => true,
        (true, false, true) => waits,
        (true, false, false) => !waits && line.state != "CLOSE",
    };
    protocol && port && state
}

fn row(line: &Line) -> Vec<String> {
    let address = |address: Option<SocketAddr>| match address {
        None => "*:*".to_owned(),
        Some(SocketAddr::V4(v4)) if v4.port() == 0 => format!("{}:*", v4.ip()),
        Some(SocketAddr::V6(v6)) if v6.port() == 0 => format!("[{}]:*", v6.ip()),
        Some(address) => address.to_string(),
    };
    let process = match (&line.process, line.pid, line.fd) {
        (Some(name), Some(pid), Some(fd)) => format!("users:((\"{name}\",pid={pid},fd={fd}))"),
        (Some(name), Some(pid), None) => format!("users:((\"{name}\",pid={pid}))"),
        _ => String::new(),
    };
    vec![
        line.protocol.clone(),
        line.state.clone(),
        line.recv_q.to_string(),
        line.send_q.to_string(),
        address(line.local),
        address(line.peer),
        process,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(local: &str, peer: &str, joined: bool) -> SocketLine {
        SocketLine {
            protocol: "tcp".into(),
            state: "ESTAB".into(),
            local: local.parse().ok(),
            peer: peer.parse().ok(),
            received: 0,
            unsent: 0,
            joined,
            process: 4,
            descriptor: Some(3),
        }
    }

    #[test]
    fn both_sides_of_a_joined_connection_are_shown_once() {
        let process = Process { pid: 70, seen_by_sentry: 4, name: "curl".into() };
        let client = socket("127.0.0.1:5000", "127.0.0.1:80", true);
        let lines = of_sentry(vec![client.clone()], std::slice::from_ref(&process));
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].pid, lines[1].pid), (Some(70), None));
        assert_eq!(lines[1].local, client.peer);
        let server = SocketLine { process: 9, ..socket("127.0.0.1:80", "127.0.0.1:5000", true) };
        assert_eq!(of_sentry(vec![client, server], &[process]).len(), 2);
    }

    #[test]
    fn filters_are_those_of_ss() {
        let line = |state: &str| Line {
            state: state.into(),
            ..of_sentry(vec![socket("127.0.0.1:5000", "[::ffff:10.0.0.1]:80", false)], &[]).remove(0)
        };
        let args = SsArgs::default();
        assert!(is_wanted(&args, &line("ESTAB")) && !is_wanted(&args, &line("LISTEN")));
        let listening = SsArgs { listening: true, ..SsArgs::default() };
        assert!(!is_wanted(&listening, &line("ESTAB")) && is_wanted(&listening, &line("LISTEN")));
        let port = |port| SsArgs { port: Some(port), ..SsArgs::default() };
        assert!(is_wanted(&port(80), &line("ESTAB")) && !is_wanted(&port(81), &line("ESTAB")));
        let named = SsArgs { state: vec![state("listening").unwrap()], ..SsArgs::default() };
        assert!(is_wanted(&named, &line("LISTEN")) && !is_wanted(&named, &line("ESTAB")));
        let udp = SsArgs { udp: true, ..SsArgs::default() };
        assert!(!is_wanted(&udp, &line("ESTAB")));
        assert!(state("nonsense").is_err());
        assert_eq!(line("ESTAB").peer, "10.0.0.1:80".parse().ok());
    }

    #[test]
    fn a_line_is_that_of_ss() {
        let process = Process { pid: 70, seen_by_sentry: 4, name: "curl".into() };
        let line = of_sentry(vec![socket("0.0.0.0:0", "[2001:db8::1]:80", false)], &[process]).remove(0);
        let cells = row(&line);
        assert_eq!(cells[4..], ["0.0.0.0:*", "[2001:db8::1]:80", "users:((\"curl\",pid=70,fd=3))"]);
    }
}

//! Sockets of the kernel's own, by the tables in /proc/PID/net (proc(5)): those that have no entry in the sentry.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A line of such a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelSocket {
    /// `tcp`, `udp`, `icmp`, `raw`
    pub(crate) protocol: &'static str,
    /// As ss(8) names it.
    pub(crate) state: &'static str,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) received: u64,
    pub(crate) unsent: u64,
    pub(crate) inode: u64,
}

const TABLES: [(&str, &str); 8] = [
    ("tcp", "tcp"),
    ("tcp6", "tcp"),
    ("udp", "udp"),
    ("udp6", "udp"),
    ("icmp", "icmp"),
    ("icmp6", "icmp6"),
    ("raw", "raw"),
    ("raw6", "raw"),
];

/// The sockets of the network namespace that a process is in.
pub(crate) fn of_process(pid: u32) -> Vec<KernelSocket> {
    let mut sockets = Vec::new();
    for (file, protocol) in TABLES {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        sockets.extend(text.lines().skip(1).filter_map(|line| parse(protocol, line)));
    }
    sockets
}

/// `sl local rem st tx:rx tr:when retrnsmt uid timeout inode …`
fn parse(protocol: &'static str, line: &str) -> Option<KernelSocket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, peer, state, queues, _, _, _, _, inode, ..] = fields.as_slice() else { return None };
    let (unsent, received) = queues.split_once(':')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(KernelSocket {
        protocol,
        state: state_name(protocol, u8::from_str_radix(state, 16).ok()?),
        local: address(local)?,
        peer: address(peer)?,
        received: number(received)?,
        unsent: number(unsent)?,
        inode: inode.parse().ok()?,
    })
}

/// The words of an address are in the machine's order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

fn state_name(protocol: &str, state: u8) -> &'static str {
    match (protocol, state) {
        (_, 1) => "ESTAB",
        (_, 2) => "SYN-SENT",
        (_, 3) => "SYN-RECV",
        (_, 4) => "FIN-WAIT-1",
        (_, 5) => "FIN-WAIT-2",
        (_, 6) => "TIME-WAIT",
        ("tcp", 7) => "CLOSE",
        (_, 8) => "CLOSE-WAIT",
        (_, 9) => "LAST-ACK",
        (_, 10) => "LISTEN",
        (_, 11) => "CLOSING",
        _ => "UNCONN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let line = "   1: 0100007F:1F90 0200000A:C350 01 00000005:00000007 00:00000000 00000000     0        0 4242 1 0 20 4 30 10 -1";
        let socket = parse("tcp", line).unwrap();
        assert_eq!(
            (socket.local, socket.peer),
            ("127.0.0.1:8080".parse().unwrap(), "10.0.0.2:50000".parse().unwrap())
        );
        assert_eq!((socket.state, socket.unsent, socket.received, socket.inode), ("ESTAB", 5, 7, 4242));
        let line = " 21: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 99 2 0 0";
        let socket = parse("udp", line).unwrap();
        assert_eq!((socket.local, socket.state), ("[::1]:53".parse().unwrap(), "UNCONN"));
        assert_eq!(parse("udp", "nonsense"), None);
    }

    #[test]
    fn this_process_finds_its_own() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        let found = of_process(std::process::id());
        assert!(
            found.iter().any(|s| s.protocol == "udp" && s.local == local && s.state == "UNCONN"),
            "{found:?}"
        );
    }
}

//! A guest program in Rust: what the standard library's sockets do on Linux.
//!
//! `guest list` names the cases, `guest run CASE` runs one: exit status 0 when every assertion held, 1 when
//! one did not, with what was expected and what was seen. The harness builds it three times: linked as usual,
//! static, and static with musl's libc, whose calls differ. The folders beside it hold the cases in Python and C.
#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

type Outcome = Result<(), String>;

/// A case and its name.
type Case = (&'static str, fn() -> Outcome);

const CASES: &[Case] = &[
    ("tcp_v4", || tcp(localhost_v4())),
    ("tcp_v6", || tcp(localhost_v6())),
    ("udp_v4", || udp(localhost_v4())),
    ("udp_v6", || udp(localhost_v6())),
    ("timeouts", timeouts),
    ("connect_timeout", connect_timeout),
    ("nonblocking", nonblocking),
    ("refused", refused),
    ("half_close", half_close),
    ("clones", clones),
    ("threads", threads),
    ("bulk", bulk),
    ("resolve", resolve),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["list"] => {
            for (name, _) in CASES {
                println!("{name}");
            }
            ExitCode::SUCCESS
        }
        ["run", name] => match CASES.iter().find(|(known, _)| known == name) {
            Some((_, case)) => report(case()),
            None => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: guest list | guest run CASE");
    ExitCode::from(2)
}

fn report(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => {
            println!("every assertion held");
            ExitCode::SUCCESS
        }
        Err(what) => {
            println!("FAIL {what}");
            ExitCode::FAILURE
        }
    }
}

fn localhost_v4() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn localhost_v6() -> SocketAddr {
    (Ipv6Addr::LOCALHOST, 0).into()
}

/// Asserts that what was seen is what was wanted.
fn same<T: PartialEq + Debug>(what: &str, seen: T, wanted: T) -> Outcome {
    if seen == wanted { Ok(()) } else { Err(format!("{what}: expected {wanted:?}, saw {seen:?}")) }
}

fn holds(what: &str, condition: bool) -> Outcome {
    if condition { Ok(()) } else { Err(what.to_owned()) }
}

/// Names the step at which an I/O error came.
fn at<T>(step: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{step}: {error} ({:?})", error.kind()))
}

fn pair(any_port: SocketAddr) -> Result<(TcpStream, TcpStream), String> {
    let listener = at("bind", TcpListener::bind(any_port))?;
    let client = at("connect", TcpStream::connect(at("local_addr", listener.local_addr())?))?;
    let (server, peer) = at("accept", listener.accept())?;
    same("accept's address", peer, at("local_addr", client.local_addr())?)?;
    Ok((client, server))
}

fn kind_of<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn tcp(any_port: SocketAddr) -> Outcome {
    let (mut client, mut server) = pair(any_port)?;
    same("peer_addr", at("peer_addr", client.peer_addr())?, at("local_addr", server.local_addr())?)?;
    at("write", client.write_all(b"question"))?;
    let mut data = [0; 8];
    at("read", server.read_exact(&mut data))?;
    same("data", &data, b"question")?;
    at("set_nodelay", client.set_nodelay(true))?;
    same("nodelay", at("nodelay", client.nodelay())?, true)?;
    at("set_ttl", client.set_ttl(77))?;
    same("ttl", at("ttl", client.ttl())?, 77)?;
    same("take_error", at("take_error", client.take_error())?.is_none(), true)?;
    at("write", server.write_all(b"peeked"))?;
    let mut peeked = [0; 6];
    same("peek", at("peek", client.peek(&mut peeked))?, 6)?;
    let mut text = String::new();
    drop(server);
    at("read_to_string", client.read_to_string(&mut text))?;
    same("text", text.as_str(), "peeked")
}

fn udp(any_port: SocketAddr) -> Outcome {
    let one = at("bind", UdpSocket::bind(any_port))?;
    let other = at("bind", UdpSocket::bind(any_port))?;
    let (one_address, other_address) =
        (at("local_addr", one.local_addr())?, at("local_addr", other.local_addr())?);
    same("send_to", at("send_to", one.send_to(b"datagram", other_address))?, 8)?;
    let mut data = [0; 64];
    same("peek_from", at("peek_from", other.peek_from(&mut data))?, (8, one_address))?;
    same("recv_from", at("recv_from", other.recv_from(&mut data))?, (8, one_address))?;
    at("connect", other.connect(one_address))?;
    same("send", at("send", other.send(b"back"))?, 4)?;
    same("recv", at("recv", one.recv(&mut data))?, 4)?;
    same("data", &data[..4], b"back")?;
    at("set_broadcast", one.set_broadcast(true))?;
    same("broadcast", at("broadcast", one.broadcast())?, true)
}

fn timeouts() -> Outcome {
    let (mut client, _server) = pair(localhost_v4())?;
    let limit = Duration::from_millis(200);
    at("set_read_timeout", client.set_read_timeout(Some(limit)))?;
    same("read_timeout", at("read_timeout", client.read_timeout())?, Some(limit))?;
    let start = Instant::now();
    same("read", kind_of(client.read(&mut [0; 8])), Some(ErrorKind::WouldBlock))?;
    holds("it waited", start.elapsed() >= Duration::from_millis(150))?;
    let socket = at("bind", UdpSocket::bind(localhost_v4()))?;
    at("set_read_timeout", socket.set_read_timeout(Some(limit)))?;
    same("recv_from", kind_of(socket.recv_from(&mut [0; 8])), Some(ErrorKind::WouldBlock))
}

fn connect_timeout() -> Outcome {
    let listener = at("bind", TcpListener::bind(localhost_v6()))?;
    let address = at("local_addr", listener.local_addr())?;
    let client = at("connect", TcpStream::connect_timeout(&address, Duration::from_secs(5)))?;
    same("peer_addr", at("peer_addr", client.peer_addr())?, address)?;
    drop(listener);
    let refused = TcpStream::connect_timeout(&address, Duration::from_secs(5));
    same("refused", kind_of(refused), Some(ErrorKind::ConnectionRefused))
}

fn nonblocking() -> Outcome {
    let listener = at("bind", TcpListener::bind(localhost_v4()))?;
    at("set_nonblocking", listener.set_nonblocking(true))?;
    same("accept", kind_of(listener.accept()), Some(ErrorKind::WouldBlock))?;
    let (mut client, mut server) = pair(localhost_v4())?;
    at("set_nonblocking", client.set_nonblocking(true))?;
    same("read", kind_of(client.read(&mut [0; 8])), Some(ErrorKind::WouldBlock))?;
    at("set_nonblocking", client.set_nonblocking(false))?;
    at("write", server.write_all(b"x"))?;
    same("read", at("read", client.read(&mut [0; 8]))?, 1)
}

fn refused() -> Outcome {
    let address = at("local_addr", at("bind", TcpListener::bind(localhost_v4()))?.local_addr())?;
    same("connect", kind_of(TcpStream::connect(address)), Some(ErrorKind::ConnectionRefused))?;
    let holder = at("bind again", TcpListener::bind(address))?;
    same("bind", kind_of(TcpListener::bind(address)), Some(ErrorKind::AddrInUse))?;
    drop(holder);
    same("no such address", kind_of(TcpListener::bind("192.0.2.9:0")), Some(ErrorKind::AddrNotAvailable))
}

fn half_close() -> Outcome {
    let (mut client, mut server) = pair(localhost_v6())?;
    at("write", client.write_all(b"all of it"))?;
    at("shutdown", client.shutdown(Shutdown::Write))?;
    let mut text = String::new();
    at("read", server.read_to_string(&mut text))?;
    same("text", text.as_str(), "all of it")?;
    at("write", server.write_all(b"answer"))?;
    drop(server);
    text.clear();
    at("read", client.read_to_string(&mut text))?;
    same("text", text.as_str(), "answer")
}

fn clones() -> Outcome {
    let (client, mut server) = pair(localhost_v4())?;
    let mut copy = at("try_clone", client.try_clone())?;
    drop(client);
    at("write", copy.write_all(b"by the clone"))?;
    let mut data = [0; 12];
    at("read", server.read_exact(&mut data))?;
    same("data", &data, b"by the clone")?;
    drop(copy);
    same("end", at("read", server.read(&mut data))?, 0)
}

fn threads() -> Outcome {
    let listener = at("bind", TcpListener::bind(localhost_v4()))?;
    let address = at("local_addr", listener.local_addr())?;
    let clients: Vec<_> = (0..16u8)
        .map(|number| {
            thread::spawn(move || -> Outcome {
                for round in 0..10u8 {
                    let mut stream = at("connect", TcpStream::connect(address))?;
                    at("write", stream.write_all(&[number, round]))?;
                    let mut data = [0; 2];
                    at("read", stream.read_exact(&mut data))?;
                    same("echo", data, [number, round])?;
                }
                Ok(())
            })
        })
        .collect();
    for _ in 0..160 {
        let (mut stream, _) = at("accept", listener.accept())?;
        let mut data = [0; 2];
        at("read", stream.read_exact(&mut data))?;
        at("write", stream.write_all(&data))?;
    }
    for client in clients {
        client.join().map_err(|_| "a client's thread panicked".to_owned())??;
    }
    Ok(())
}

fn bulk() -> Outcome {
    const SIZE: usize = 64 << 20;
    let (mut client, mut server) = pair(localhost_v4())?;
    let sender = thread::spawn(move || -> io::Result<()> {
        let block: Vec<u8> = (0..65_521u32).map(|position| (position % 251) as u8).collect();
        let mut left = SIZE;
        while left > 0 {
            let part = left.min(block.len());
            client.write_all(&block[..part])?;
            left -= part;
        }
        Ok(())
    });
    let (mut length, mut data) = (0usize, vec![0; 1 << 18]);
    loop {
        let got = at("read", server.read(&mut data))?;
        if got == 0 {
            break;
        }
        let wrong = data[..got]
            .iter()
            .enumerate()
            .find(|(offset, byte)| usize::from(**byte) != (length + offset) % 65_521 % 251);
        if let Some((offset, byte)) = wrong {
            return Err(format!("byte {} is {byte}", length + offset));
        }
        length += got;
    }
    at("write", sender.join().map_err(|_| "the sender panicked".to_owned())?)?;
    same("length", length, SIZE)
}

fn resolve() -> Outcome {
    let found: Vec<SocketAddr> = at("localhost", ("localhost", 80).to_socket_addrs())?.collect();
    holds("localhost has an address", !found.is_empty())?;
    holds("and only the loopback's", found.iter().all(|address| address.ip().is_loopback()))
}

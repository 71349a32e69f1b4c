//! Two programs in one sandbox, each with a listener of its own, on one sentry.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netgraft::{Ids, Join, NetworkSpec, ProgramSpec, SENTRY, Sandbox};
use netgraft_plugin::NetworkType;

/// A folder of the test's own.
fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("netgraft-programs-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    common::remove_at_exit(&folder);
    folder
}

fn python(code: &str, argument: &Path) -> ProgramSpec {
    let mut program = ProgramSpec::new("python3");
    program.args = vec!["-c".into(), code.into(), argument.into()];
    program
}

const SERVER: &str = "
import os, socket, sys
s = socket.create_server(('127.0.0.1', 0))
with open(sys.argv[1] + '.new', 'w') as f: f.write(str(s.getsockname()[1]))
os.rename(sys.argv[1] + '.new', sys.argv[1])
c, peer = s.accept()
data = b''
while part := c.recv(4096): data += part
c.sendall(data.upper())
c.close()
sys.exit(len(data) % 251)
";

const CLIENT: &str = "
import socket, sys
with open(sys.argv[1]) as f: port = int(f.read())
c = socket.create_connection(('127.0.0.1', port), timeout=20)
c.sendall(b'a' * 100000)
c.shutdown(socket.SHUT_WR)
data = b''
while part := c.recv(4096): data += part
sys.exit(0 if data == b'A' * 100000 else 1)
";

/// Not on libtest's threads: a sandbox is made by a process with one thread.
fn main() {
    netgraft::register_builtin_stacks().unwrap();
    let port = folder().join("port");
    for join in [Join::Never, Join::Always] {
        serves_both(join, &port);
    }
    println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}

/// A server and a client, each a program of its own, in one sandbox.
fn serves_both(join: Join, port: &Path) {
    // The server writes into a folder of who runs the test, who may be root.
    let mut network = NetworkSpec::new(NetworkType::Sandbox);
    network.ids = Ids::Host;
    network.join = join;
    let mut sandbox = Sandbox::start(&network, SENTRY).unwrap();
    let server = sandbox.spawn(&python(SERVER, port)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !port.exists() {
        assert!(Instant::now() < deadline, "the server has no port after 30 s");
        std::thread::sleep(Duration::from_millis(5));
    }
    let client = sandbox.spawn(&python(CLIENT, port)).unwrap();
    assert_eq!(sandbox.wait(client).unwrap(), 0, "the client got all that it sent");
    assert_eq!(sandbox.wait(server).unwrap(), (100_000 % 251) as u8);
    // A third, after the places of the others are free.
    let alone =
        sandbox.spawn(&python("import socket; socket.socket().bind(('127.0.0.1', 0))", port)).unwrap();
    assert_eq!(sandbox.wait(alone).unwrap(), 0);
    let summary = sandbox.finish().unwrap();
    assert_eq!((summary.sockets, summary.connections_out, summary.connections_in), (3, 1, 1));
    let (joined, bytes) = if join == Join::Always { (1, 0) } else { (0, 200_000) };
    assert_eq!(summary.connections_joined, joined);
    assert_eq!((summary.bytes_sent, summary.bytes_received), (bytes, bytes));
    std::fs::remove_file(port).unwrap();
}

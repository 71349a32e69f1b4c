//! What a new user meets: what is said of refused options and of programs that go into the background, and sockets that were
//! handed over by socket activation.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_netgraft");

fn netgraft(options: &[&str], program: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("run").args(options).arg("--").args(program).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asks for two options that are refused, one of them twice, and for one that is not.
const OPTIONS: &str = "
import socket
s = socket.socket()
for name in (60, 60, 36):
    try:
        s.setsockopt(socket.SOL_SOCKET, name, 1)
    except OSError as error:
        print(error.errno)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
";

#[test]
fn each_refused_option_is_named_once_and_each_call_for_who_wants_more() {
    let count = |options: &[&str], part: &str| {
        let got = netgraft(options, &["python3", "-c", OPTIONS]);
        assert!(got.status.success() && text(&got.stdout).lines().count() == 3, "{got:?}");
        text(&got.stderr).lines().filter(|line| line.contains(part)).count()
    };
    assert_eq!(count(&[], "setsockopt"), 0);
    assert_eq!(count(&["-v"], "setsockopt(SOL_SOCKET, SO_ZEROCOPY) is refused: EOPNOTSUPP"), 1);
    assert_eq!(count(&["-v"], "setsockopt(SOL_SOCKET, SO_MARK) is refused: EPERM"), 1);
    assert_eq!(count(&["-v"], "TCP_NODELAY"), 0);
    assert_eq!(count(&["-vv"], "setsockopt(SOL_SOCKET, SO_ZEROCOPY) = EOPNOTSUPP"), 2);
}

/// Leaves a process behind that reaches its own server over the sandbox's loopback, later.
const DAEMON: &str = "
import os, socket, sys, time
s = socket.create_server(('127.0.0.1', 7))
if os.fork() == 0:
    os.setsid()
    time.sleep(0.3)
    c = socket.create_connection(('127.0.0.1', 7))
    a = s.accept()[0]
    c.sendall(b'over')
    print(a.recv(9).decode(), flush=True)
    os._exit(9)
sys.exit(3)
";

#[test]
fn what_a_program_leaves_running_ends_with_it_or_is_waited_for() {
    let first = netgraft(&["-v"], &["python3", "-c", DAEMON]);
    assert_eq!((first.status.code(), text(&first.stdout).as_str()), (Some(3), ""));
    let told = text(&first.stderr);
    assert!(
        told.contains("so does what it left running (python3, 1 in all): --wait all waits for it"),
        "{told}"
    );
    let all = netgraft(&["--wait", "all"], &["python3", "-c", DAEMON]);
    assert_eq!((all.status.code(), text(&all.stdout).as_str()), (Some(3), "over\n"), "{all:?}");
    assert!(all.stderr.is_empty(), "{all:?}");
    // One that leaves nothing ends at once, and says nothing.
    let alone = netgraft(&["-v", "--wait", "all"], &["true"]);
    assert!(alone.status.success() && !text(&alone.stderr).contains("left running"), "{alone:?}");
    let odd = netgraft(&["--wait", "never"], &["true"]);
    assert!(odd.status.code() == Some(125) && text(&odd.stderr).contains("use first or all"), "{odd:?}");
}

/// Goes into the background and waits for SIGTERM there.
const WAITS: &str = "
import os, signal, sys, time
if os.fork():
    sys.exit(0)
while os.getppid() != 1:
    time.sleep(0.01)
signal.signal(signal.SIGTERM, lambda *_: (print('stopped', flush=True), os._exit(0)))
print('up', flush=True)
while True:
    time.sleep(1)
";

#[test]
fn a_signal_reaches_what_is_waited_for() {
    let mut command = Command::new(BINARY);
    command.args(["run", "--wait", "all", "--", "python3", "-c", WAITS]).stdout(Stdio::piped());
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    // The launcher may not have seen the program's end yet, and a signal is the program's until then.
    while child.try_wait().unwrap().is_none() {
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(lines.next().unwrap().unwrap(), "stopped");
    assert!(lines.next().is_none());
}

/// Does as systemd does: the socket is descriptor 3, and the variables name the process that is executed. Descriptor 4 is a
/// file, which is no socket and is not handed on.
const ACTIVATES: &str = "
import os, socket, sys
s = socket.create_server(('127.0.0.1', 0))
print(s.getsockname()[1], flush=True)
os.dup2(s.fileno(), 4)
os.dup2(4, 3, inheritable=True)
os.dup2(os.open('/etc/passwd', os.O_RDONLY), 4, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_PIDFDID='7')
os.execv(sys.argv[1], sys.argv[1:])
";

/// As sd_listen_fds(3): the sockets are this process's only if LISTEN_PID is its own id.
const ACTIVATED: &str = "
import errno, os, socket
assert os.environ['LISTEN_PID'] == str(os.getpid()), os.environ['LISTEN_PID']
assert os.environ['LISTEN_FDS'] == '2' and 'LISTEN_PIDFDID' not in os.environ
try:
    os.fstat(4)
except OSError as error:
    assert error.errno == errno.EBADF, error
else:
    raise AssertionError('a file was handed on as if it were a socket')
socket.socket(fileno=3).accept()[0].sendall(b'activated')
";

#[test]
fn sockets_of_socket_activation_are_handed_on_with_the_program_s_own_id() {
    let mut command = Command::new("python3");
    command.args(["-c", ACTIVATES, BINARY, "run", "--", "python3", "-c", ACTIVATED]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let port: u16 = port.trim().parse().unwrap();
    let mut got = String::new();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap().read_to_string(&mut got).unwrap();
    assert_eq!(got, "activated");
    assert!(child.wait().unwrap().success());
    // What was handed to another process is not this one's.
    let mut other = Command::new(BINARY);
    other.args(["run", "--", "sh", "-c", "echo $LISTEN_PID"]).env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    assert_eq!(text(&other.stdin(Stdio::null()).output().unwrap().stdout), "1\n");
}

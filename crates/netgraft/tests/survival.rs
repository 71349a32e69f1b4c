//! Stacks that crash, hang or do what they may not: what the program sees, what the operator is told, and that
//! nothing is left behind.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]
#![expect(clippy::panic, reason = "one of the faults is a panic")]

#[path = "survival/odd.rs"]
mod odd;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use netgraft::{Join, NetworkSpec, OnCrash, ProgramSpec};
use netgraft_linux::process::{self, Change, Wait};
use netgraft_plugin::NetworkType;

const MARK: &str = "NETGRAFT_SURVIVAL_MARK";
const RUN: &str = "NETGRAFT_SURVIVAL_RUN";

/// The process that runs a sandbox: how to deal with a crash, the stack's text, and the program, one a line.
#[test]
#[ignore = "the other tests run it, each in a process of its own"]
fn sandbox_process() {
    // The launcher must have one thread, and the test harness has two.
    let child = process::fork(|| sandbox(&std::env::var(RUN).unwrap()).into()).unwrap();
    match process::wait(child, Wait::Block).unwrap() {
        Some(Change::Exited(status)) => std::process::exit(status),
        other => panic!("{other:?}"),
    }
}

fn sandbox(plan: &str) -> u8 {
    let mut lines = plan.splitn(3, '\n');
    let (on_crash, argument) = (lines.next().unwrap(), lines.next().unwrap());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).without_time().init();
    netgraft::register_builtin_stacks().unwrap();
    netgraft_plugin::register_plugin_stack("odd", odd::factory()).unwrap();
    let mut network = NetworkSpec::new(NetworkType::Plugin);
    network.plugin = Some("odd".to_owned());
    network.config.argument = Some(argument.to_owned()).filter(|a| !a.is_empty());
    network.on_crash = on_crash.parse().unwrap();
    // What is to be seen is how connections of the stack end.
    network.join = Join::Never;
    let mut program = ProgramSpec::new("python3");
    program.args = ["-c".into(), lines.next().unwrap().into()].to_vec();
    match netgraft::run(&network, &program) {
        Ok(status) => status.code,
        Err(error) => {
            eprintln!("netgraft: {error}");
            error.exit_status()
        }
    }
}

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// Lines of the launcher about the stack's end.
    fn told(&self) -> Vec<&str> {
        let own = |line: &&str| line.starts_with("netgraft: ") && !line.starts_with("netgraft: sentry: ");
        self.stderr.lines().filter(|line| line.contains("ERROR") || own(line)).collect()
    }
}

/// Runs a python program on the odd stack.
fn run(on_crash: OnCrash, argument: &str, program: &str) -> Ended {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mark = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let program = format!("{}\n{program}", include_str!("survival/common.py"));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["sandbox_process", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(RUN, format!("{on_crash}\n{argument}\n{program}"))
        .env(MARK, &mark)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !left(&mark).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", left(&mark));
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    println!("--- {on_crash} {argument}\n{stdout}{stderr}");
    Ended { code: output.status.code(), stdout, stderr }
}

/// The same as an ordinary user, where the tests run as root: the namespaces of a fresh sentry are entered, and
/// the program's descriptors looked at, without any right on the host.
#[test]
fn an_ordinary_user_s_stack_is_survived_too() {
    let root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        // Then the other tests have shown it.
        return;
    }
    let dir = std::env::temp_dir().join(format!("netgraft-survival-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let place = dir.join("survival");
    fs::copy(std::env::current_exe().unwrap(), &place).unwrap();
    for path in [&dir, &place] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let tests = ["an_abort_is_told", "a_fresh_stack_takes_over", "where_another_process_has_it"];
    let output = Command::new(&place).args(tests).current_dir("/").uid(65534).gid(65534).output().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("3 passed"), "{text}");
}

/// Processes of a sandbox that are left.
fn left(mark: &str) -> Vec<u32> {
    let wanted = format!("{MARK}={mark}");
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|&b| b == 0).any(|v| v == wanted.as_bytes())
        })
        .collect()
}

/// A program that has all kinds of sockets when its stack fails, and exits with 42.
const FAILS: &str = r#"
listener = socket.create_server(("127.0.0.1", 0))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
here, there = socket.create_connection(listener.getsockname()), listener.accept()[0]
here.sendall(b"hello")
assert there.recv(5) == b"hello"
own = socket.socketpair()
waiter = threading.Thread(target=serve, args=(listener,))
waiter.start()
receiver = threading.Thread(target=lambda: say("recvfrom:", outcome(udp.recvfrom, 10)))
receiver.start()
time.sleep(0.2)
say("fault:", fault(FAULT))
here.settimeout(20)
say("stream:", outcome(here.recv, 10))
say("socket:", outcome(socket.socket))
say("accept:", outcome(listener.accept))
say("sendto:", outcome(udp.sendto, b"x", ("127.0.0.1", 9)))
say("bind:", outcome(udp.bind, ("127.0.0.1", 0)))
waiter.join(60)
receiver.join(60)
say("waiting:", waiter.is_alive(), receiver.is_alive())
own[0].sendmsg([b"still"])
say("own:", own[1].recvmsg(10)[0].decode(), outcome(own[0].getsockname))
sys.exit(42)
"#;

fn fails(fault: &str) -> Ended {
    let ended = run(OnCrash::Fail, "", &format!("FAULT = '{fault}'\n{FAILS}"));
    assert_eq!(ended.code, Some(42));
    for line in [
        "socket: ENETDOWN",
        "accept: ENETDOWN",
        "sendto: ENETDOWN",
        "bind: ENETDOWN",
        "recvfrom: ENETDOWN",
        "waiting: False False",
        "own: still",
    ] {
        assert!(ended.stdout.contains(line), "{line}");
    }
    assert!(ended.stdout.contains("stream: b''") || ended.stdout.contains("stream: ECONNRESET"));
    let told = ended.told();
    assert!(told.len() == 1 && told[0].contains("the program goes on without a network"), "{told:?}");
    ended
}

#[test]
fn an_abort_is_told_with_call_and_signal() {
    assert!(
        fails("abort").stderr.contains("the stack odd was killed by signal 6 (SIGABRT) in its call 'send'")
    );
}

#[test]
fn an_exit_is_told() {
    assert!(fails("exit").stderr.contains("the stack odd exited with status 3 in its call 'send'"));
}

#[test]
fn a_panic_is_told_with_its_text() {
    let told = fails("panic").stderr;
    assert!(told.contains("gave up in its call 'send'") && told.contains("out of sorts"));
}

#[test]
fn a_forbidden_system_call_is_named() {
    let told = fails("forbidden").stderr;
    assert!(told.contains("(SIGSYS) in its call 'send' for the system call socket"));
}

#[test]
fn a_stack_cannot_have_the_signal_that_tells_of_forbidden_calls() {
    assert!(fails("handler").stderr.contains("for the system call rt_sigaction"));
}

#[test]
fn a_stack_that_closes_our_descriptors_is_ended() {
    fails("close");
    assert!(fails("close-listener").stderr.contains("gave up"));
}

#[test]
fn a_call_that_hangs_is_ended() {
    assert!(fails("hang").stderr.contains("its call 'send' hung for 5 s"));
    assert!(fails("sleepy").stderr.contains("its call 'poll' hung for 5 s"));
}

#[test]
fn nonsense_harms_nobody_else() {
    // Whether the stack goes on or is ended, the program gets its answers and ends by itself.
    let ended = run(
        OnCrash::Fail,
        "",
        r#"
listener = socket.create_server(("127.0.0.1", 0))
here, there = socket.create_connection(listener.getsockname()), listener.accept()[0]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
udp.settimeout(2)
there.settimeout(2)
at, to = udp.getsockname(), listener.getsockname()
fault("nonsense")
outcome(here.send, b"x" * 100)
outcome(udp.sendto, b"y" * 100, at)
for call in [lambda: there.recv(10), lambda: udp.recvfrom(1000), udp.getsockname, here.getpeername,
             lambda: here.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR),
             lambda: here.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 100),
             lambda: echo(to, b"z"), socket.socket]:
    try:
        call()
    except (OSError, OverflowError) as e:
        print(e)
sys.exit(41)
"#,
    );
    assert_eq!(ended.code, Some(41));
}

#[test]
fn a_fresh_stack_takes_over() {
    let ended = run(
        OnCrash::Restart,
        "",
        r#"
listeners = [socket.create_server(("127.0.0.1", 0)),
             socket.create_server(("::1", 0), family=socket.AF_INET6)]
for listener in listeners:
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
closed = socket.create_server(("127.0.0.1", 0))
gone = closed.getsockname()
closed.close()
addresses = [l.getsockname() for l in listeners]
v4, v6 = lambda: echo(addresses[0], b"four"), lambda: echo(addresses[1], b"six", socket.AF_INET6)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
udp.settimeout(20)
at = udp.getsockname()
receiver = threading.Thread(target=lambda: say("received:", outcome(udp.recvfrom, 10)[0]))
receiver.start()
assert v4() == b"four" and v6() == b"six"
old = socket.create_connection(addresses[0])
fresh = socket.socket()
unbound, connected = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
connected.connect(at)
time.sleep(0.2)
fault("abort")
old.settimeout(20)
say("old:", outcome(old.recv, 10))
until(v4, b"four")
until(v6, b"six")
say("gone:", outcome(echo, gone, b""))
def ask():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.sendto(b"datagram", at)
    s.close()
ask()
receiver.join(60)
fresh.connect(addresses[0])
fresh.sendall(b"fresh")
say("fresh:", fresh.recv(10))
unbound.sendto(b"unbound", at)
say("unbound:", udp.recvfrom(10)[0])
connected.send(b"connected")
say("connected:", udp.recvfrom(10)[0])
fault("exit")
until(v4, b"four")
say("names:", [l.getsockname() for l in listeners] == addresses)
new = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(new,), daemon=True).start()
say("new:", echo(new.getsockname(), b"listener"))
sys.exit(43)
"#,
    );
    assert_eq!(ended.code, Some(43));
    for line in [
        "gone: ECONNREFUSED",
        "received: b'datagram'",
        "fresh: b'fresh'",
        "unbound: b'unbound'",
        "connected: b'connected'",
        "names: True",
        "new: b'listener'",
    ] {
        assert!(ended.stdout.contains(line), "{line}");
    }
    assert!(ended.stdout.contains("old: b''") || ended.stdout.contains("old: ECONNRESET"));
    let told = ended.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("SIGABRT") && told[0].contains("a fresh one takes over (restart 1 of 5 in 60 s)")
    );
    assert!(told[1].contains("restart 2 of 5"));
}

#[test]
fn a_death_resets_connections_and_looks_like_no_orderly_end() {
    for on_crash in [OnCrash::Fail, OnCrash::Restart] {
        let ended = run(on_crash, "", include_str!("survival/resets.py"));
        assert_eq!(ended.code, Some(46));
        for line in [
            "download: (32000, 'ECONNRESET')",
            // What was complete stays so.
            "done: (3, 'end')",
            "half: (4, 'ECONNRESET')",
            "upload: (0, 'ECONNRESET')",
            "blocked: (0, 'ECONNRESET')",
            "child: (0, 'ECONNRESET')",
            "waiting: (0, 'ECONNRESET')",
            "poll: True True",
            "epoll: True",
            "pending: EINPROGRESS",
            "pending: True",
            "writable: 1",
            "SO_ERROR: ECONNRESET",
            "peer: ENOTCONN",
            "send: EPIPE",
        ] {
            assert!(ended.stdout.contains(line), "{on_crash} {line}");
        }
        assert!(!ended.stdout.contains("SO_ERROR: None"));
        assert_eq!(ended.stdout.contains("bare: -1 EINVAL"), on_crash == OnCrash::Fail);
    }
}

#[test]
fn sockets_of_a_dead_stack_are_still_internet_sockets() {
    let program = |mode: &str| format!("MODE = '{mode}'\n{}", include_str!("survival/strangers.py"));
    let ended = run(OnCrash::Restart, "", &program("restart"));
    assert_eq!(ended.code, Some(47));
    let v4 = "2 1 6 ('0.0.0.0', 0) ENOTCONN None 1";
    let v6 = "10 1 6 ('::', 0, 0, 0) ENOTCONN None 1";
    for line in [
        format!("connected: {v4}"),
        format!("accepted: {v4}"),
        format!("connected6: {v6}"),
        format!("accepted6: {v6}"),
        format!("fresh: {v4}"),
        format!("fresh6: {v6}"),
        "recvmsg: b'unread' ECONNRESET".to_owned(),
        "SO_ERROR: ['ECONNRESET', None]".to_owned(),
        "own: True ''".to_owned(),
        "used: b'used' 1".to_owned(),
        // As Linux says of a connection that was reset.
        "again: EISCONN".to_owned(),
    ] {
        assert!(ended.stdout.contains(&line), "{line}");
    }
    let ended = run(OnCrash::Fail, "", &program("fail"));
    assert_eq!(ended.code, Some(47));
    let down = "ENETDOWN 1 ENETDOWN ENETDOWN ENOTCONN ENETDOWN ENETDOWN";
    for name in ["connected", "accepted", "connected6", "accepted6", "fresh", "fresh6"] {
        assert!(ended.stdout.contains(&format!("{name}: {down}")), "{name}");
    }
    for line in
        ["recvmsg: b'unread' ECONNRESET", "SO_ERROR: ['ECONNRESET', None]", "own: True ''", "type: True"]
    {
        assert!(ended.stdout.contains(line), "{line}");
    }
}

#[test]
fn a_listener_is_found_where_another_process_has_it() {
    let ended = run(
        OnCrash::Restart,
        "",
        r#"
listener = socket.create_server(("127.0.0.1", 0))
address = listener.getsockname()
child = os.fork()
if child == 0:
    # Under another number, and in a process that never asked the sentry for anything.
    moved = socket.socket(fileno=os.dup2(listener.fileno(), 77))
    listener.detach()
    serve(moved)
    os._exit(0)
listener.close()
os.closerange(60, 70)
until(lambda: echo(address, b"a"), b"a")
fault("abort")
until(lambda: echo(address, b"b"), b"b")
os.kill(child, 9)
os.wait()
say("gone:", outcome(echo, address, b""))
sys.exit(44)
"#,
    );
    assert_eq!(ended.code, Some(44));
    assert!(ended.stdout.contains("gone: ECONNREFUSED"), "{}", ended.stdout);
}

#[test]
fn restarts_are_bounded() {
    let ended = run(
        OnCrash::Restart,
        "",
        r#"
listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(listener,), daemon=True).start()
for _ in range(5):
    fault("abort")
    until(lambda: echo(listener.getsockname(), b"up"), b"up")
fault("abort")
until(socket.socket, "ENETDOWN")
sys.exit(45)
"#,
    );
    assert_eq!(ended.code, Some(45));
    let told = ended.told();
    assert_eq!(told.len(), 6, "{told:?}");
    assert!(told[5].contains("restarted 5 times in 60 s: the program goes on without a network"));
}

#[test]
fn a_stack_that_fails_at_its_start_is_told_in_one_line() {
    for (fault, part) in [
        ("abort", "the stack odd was killed by signal 6 (SIGABRT) in its call 'init'"),
        ("exit", "the stack odd exited with status 3 in its call 'init'"),
        ("panic", "out of sorts"),
        ("forbidden", "for the system call socket"),
        ("hang", "its call 'init' hung for 10 s"),
    ] {
        for on_crash in [OnCrash::Fail, OnCrash::Restart] {
            if (fault, on_crash) == ("hang", OnCrash::Restart) {
                continue;
            }
            let ended = run(on_crash, fault, "print('must not run')");
            assert_eq!(ended.code, Some(125), "{fault}");
            let told = ended.told();
            assert!(told.len() == 1 && told[0].contains(part), "{told:?}");
            assert!(!ended.stdout.contains("must not run"));
        }
    }
}

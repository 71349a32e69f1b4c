//! The level 0 test object (`tests/plugins/level0.c`) with its faults, in a real sandbox: what the operator is told,
//! and what becomes of the program.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The object, compiled here as its author would.
fn relay() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/plugins/level0.c");
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("level0");
        std::fs::create_dir_all(&dir).unwrap();
        let place = dir.join("librelay.so");
        let compiler = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&place).arg(source).status();
        assert!(compiler.unwrap().success());
        place
    })
}

struct Ended {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// What the operator is told of the stack's end.
    fn told(&self) -> Vec<&str> {
        let lines = self.stderr.lines();
        lines.filter(|l| l.starts_with("netgraft: ") && !l.starts_with("netgraft: warning:")).collect()
    }
}

/// Runs a python program on the relay with some quirks.
fn run(quirks: &str, on_crash: &str, program: &str) -> Ended {
    run_with(&[], quirks, on_crash, program)
}

/// The same with more options.
fn run_with(options: &[&str], quirks: &str, on_crash: &str, program: &str) -> Ended {
    let output = command(options, quirks, on_crash, program).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    println!("--- {quirks} {on_crash}: {:?}\n{stdout}{stderr}", output.status);
    Ended { status: output.status.code(), stdout, stderr }
}

/// The same for a program whose standard input ends when the operator has been told something.
fn run_until_told(what: &str, quirks: &str, on_crash: &str, program: &str) -> Ended {
    let mut child = command(&[], quirks, on_crash, program);
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap) {
        stderr += &format!("{line}\n");
        input.take_if(|_| line.contains(what));
    }
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let status = child.wait().unwrap();
    println!("--- {quirks} {on_crash}: {status:?}\n{stdout}{stderr}");
    Ended { status: status.code(), stdout, stderr }
}

fn command(options: &[&str], quirks: &str, on_crash: &str, program: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netgraft"));
    command
        .args(["run", "--join", "never", "--network", "plugin", "--trust-pre-init", "--on-crash", on_crash])
        .arg("--plugin")
        .arg(relay())
        .args(options)
        .args(["--", "python3", "-c", &format!("{COMMON}{program}")])
        .env("NETGRAFT_QUIRKS", quirks);
    command
}

/// What the programs share: a call's result or its error.
const COMMON: &str = r#"
import errno, socket, sys
socket.setdefaulttimeout(20)
def outcome(call, *args):
    try:
        return call(*args)
    except OSError as e:
        return errno.errorcode.get(e.errno, e)
"#;

#[test]
fn the_c_function_that_crashed_is_named() {
    let ended = run("abort-plugin_ioctl", "fail", "outcome(socket.socket, 2, 2)\nsys.exit(9)");
    assert_eq!(ended.status, Some(9));
    let told = ended.told();
    assert_eq!(told.len(), 1, "{told:?}");
    let promised = "the stack relay was killed by signal 6 (SIGABRT) in its call 'plugin_ioctl'";
    assert!(told[0].contains(promised), "{told:?}");
}

/// Packets move in the thread that waits for events: what goes wrong there is told as such, whatever the other thread
/// does meanwhile, and whichever sentry it is.
#[test]
fn a_crash_of_the_thread_that_waits_is_told() {
    for on_crash in ["fail", "restart"] {
        let ended = run(
            "abort-late",
            on_crash,
            r#"
# Each of six deaths may be an answer to a call; the rest is the network that is gone.
down = 0
while down < 10:
    down += outcome(socket.create_connection, ("127.0.0.1", 9)) == "ENETDOWN"
sys.exit(9)
"#,
        );
        assert_eq!(ended.status, Some(9));
        let told = ended.told();
        assert_eq!(told.len(), if on_crash == "fail" { 1 } else { 6 }, "{told:?}");
        for line in told {
            assert!(
                line.contains("was killed by signal 6 (SIGABRT) in its call 'plugin_epoll_wait'"),
                "{line}"
            );
        }
    }
}

/// What the allow-list has for the object is said once, however many sentries the run has.
#[test]
fn a_wider_allow_list_is_told_once_for_all_restarts() {
    let program = "while outcome(socket.create_connection, ('127.0.0.1', 9)) != 'ENETDOWN': pass";
    for options in [&[][..], &["-v"]] {
        let ended = run_with(options, "abort-late", "restart", program);
        assert!(ended.stderr.contains("(restart 1 of 5"), "{}", ended.stderr);
        let warned: Vec<&str> = ended
            .stderr
            .lines()
            .filter(|line| {
                line.starts_with("netgraft: warning: ") && line.contains("allow-list by 35 system calls")
            })
            .collect();
        assert_eq!(warned.len(), 1, "{options:?}: {}", ended.stderr);
        let lists = ended.stderr.lines().filter(|line| line.contains("allow-list by system call")).count();
        assert_eq!(lists, options.len(), "the list at -v alone: {}", ended.stderr);
    }
}

/// What the adapter finds ends the stack as a crash does.
#[test]
fn a_wait_that_is_broken_ends_the_stack() {
    for (quirks, why) in [
        ("fail-wait", "its call 'plugin_epoll_wait' has failed 1001 times in a row, the last time with -1"),
        ("many-events", "its call 'plugin_epoll_wait' says that it wrote 261 events to an array of 256"),
    ] {
        for (on_crash, then) in
            [("fail", "the program goes on"), ("restart", "a fresh one takes over (restart 1 of 5")]
        {
            let ended = run_until_told(
                then,
                quirks,
                on_crash,
                r#"
import select
down = 0
while down < 10:
    down += outcome(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) == "ENETDOWN"
select.select([sys.stdin], [], [], 60)
sys.exit(9)
"#,
            );
            assert_eq!(ended.status, Some(9));
            let told = ended.told();
            assert!(told[0].contains(then), "{told:?}");
            for line in told {
                // The program may end before the last one of them does.
                let start = format!("netgraft: error: the stack relay cannot go on: {why}");
                let rest = line.strip_prefix(&start).unwrap_or_default();
                assert!(rest.starts_with("; ") || line.ends_with(", when the program had ended"), "{line}");
            }
        }
    }
}

/// A program has a connection, and nothing but its own words on its standard output.
fn works_with(quirk: &str) {
    let ended = run(
        quirk,
        "fail",
        r#"
listener = socket.create_server(("127.0.0.1", 0))
here, (there, _) = socket.create_connection(listener.getsockname()), listener.accept()
here.sendall(b"bytes")
print("got", there.recv(10).decode())
"#,
    );
    assert_eq!((ended.status, ended.stdout.as_str()), (Some(0), "got bytes\n"));
    assert_eq!(ended.told(), Vec::<&str>::new());
}

/// A missing event is seen: what the stack is asked, what it answers, and what it reports.
#[test]
fn each_call_of_the_stack_can_be_seen() {
    let program = "a = socket.create_server(('127.0.0.1', 0))\nb = socket.create_connection(a.getsockname())";
    let ended = run_with(&["-vvv"], "", "fail", program);
    assert_eq!(ended.status, Some(0));
    for part in ["stack: connect(#", ") = Err(InProgress)", "stack: events: [Event { #", "stack: listen(#"] {
        assert!(ended.stderr.contains(part), "{part}");
    }
    assert!(!run_with(&["-vv"], "", "fail", program).stderr.contains("stack: listen"));
}

#[test]
fn what_it_prints_is_not_the_program_s_output() {
    works_with("print");
    for (options, shown) in [(&["-v"][..], true), (&[], false)] {
        let ended = run_with(options, "print", "fail", "socket.socket(2, 2).close()");
        let lines = ended.stderr.lines().filter(|line| line.contains("plugin_")).count();
        let prefix = "netgraft: info: librelay.so: plugin_";
        let named = ended.stderr.lines().filter(|line| line.starts_with(prefix)).count();
        assert!((lines > 0) == shown && lines == named, "{}", ended.stderr);
        assert_eq!(ended.stderr.contains("librelay.so: plugin_preinitstack"), shown);
    }
}

/// A row of zeros where the stack counts nothing would say that nothing was sent.
#[test]
fn the_summary_leaves_out_what_nobody_counts() {
    let program = "a = socket.create_server(('127.0.0.1', 0))\nsocket.create_connection(a.getsockname())";
    let ended = run_with(&["--summary"], "", "fail", program);
    assert!(ended.stderr.contains("netgraft: connections  1 out, 1 in\n"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("IP packets"), "{}", ended.stderr);
}

/// The allow-list has what packet stacks do in init, and the thread that waits is the one that made the handle.
#[test]
fn memory_and_threads_are_as_packet_stacks_want_them() {
    works_with("heavy");
}

/// What an object built years ago calls, and what an environment such as DPDK's does.
#[test]
fn system_calls_in_their_older_form_are_the_same_calls() {
    works_with("old");
    works_with("vhost");
}

/// What the test before stands on: the object makes every call that the list has for objects, and no other.
#[test]
fn the_list_for_objects_is_made_whole() {
    let source = include_str!("../../../tests/plugins/calls.h");
    let named =
        |start: &'static str| source.split(start).skip(1).filter_map(|rest| rest.split([',', ')']).next());
    let made: BTreeSet<&str> =
        named("MAKE(").chain(named("NEED(")).filter(|name| !matches!(*name, "name")).collect();
    let listed =
        Command::new(env!("CARGO_BIN_EXE_netgraft")).args(["stacks", "--syscalls"]).arg(relay()).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    let (_, objects) = listed.split_once("any stack that is not of netgraft itself").unwrap();
    let allowed: BTreeSet<&str> =
        objects.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(allowed.len() > 80, "{listed}");
    assert_eq!(allowed.difference(&made).copied().collect::<Vec<_>>(), [""; 0]);
    // Of the older ones other architectures have none.
    if cfg!(target_arch = "x86_64") {
        assert_eq!(made.difference(&allowed).copied().collect::<Vec<_>>(), [""; 0]);
    }
}

/// The message of the kill says what to type, and that works.
#[test]
fn a_call_beyond_is_named_with_its_option() {
    let program = "socket.socket(2, 2).bind(('', 0))\nprint('bound')";
    let ended = run("priority", "fail", "print(outcome(socket.socket(2, 2).bind, ('', 0)))");
    let told = ended.told();
    assert_eq!((ended.status, ended.stdout.as_str()), (Some(0), "ENETDOWN\n"));
    let promised = "for the system call getpriority, which its allow-list does not have (--allow-syscall getpriority \
                    allows it)";
    assert!(told.len() == 1 && told[0].contains(promised), "{told:?}");
    let ended = run_with(&["--allow-syscall", "getpriority"], "priority", "fail", program);
    assert_eq!((ended.status, ended.stdout.as_str()), (Some(0), "bound\n"));
    let warned: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("allow-list")).collect();
    assert_eq!(warned.len(), 1, "once, and one line: {}", ended.stderr);
    assert!(warned[0].contains("system calls: -v lists them") && warned[0].len() < 120, "{warned:?}");
    let ended = run_with(&["-v", "--allow-syscall", "getpriority"], "priority", "fail", program);
    assert_eq!(ended.stderr.matches("system call getpriority").count(), 1, "{}", ended.stderr);
}

#[test]
fn an_exit_of_init_is_told_in_one_line() {
    let ended = run("exit-init", "restart", "print('must not run')");
    assert_eq!((ended.status, ended.stdout.as_str()), (Some(125), ""));
    let told = ended.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("the stack relay exited with status 7 in its call 'plugin_initstack'"),
        "{told:?}"
    );
}

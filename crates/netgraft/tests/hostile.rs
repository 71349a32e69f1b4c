//! A shared object in C that turns on whoever runs it (`tests/plugins/hostile.c`), in a real sandbox: each of its
//! faults is reported, none reaches anything of the host, and the program gets its answers.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The object, compiled here as its author would.
fn object() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
        std::fs::create_dir_all(&dir).unwrap();
        let place = dir.join("libhostile.so");
        let compiler = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&place)
            .arg("-I")
            .arg(root.join("crates/netgraft-abi/include"))
            .arg("-I")
            .arg(root.join("tests/plugins"))
            .arg(root.join("tests/plugins/hostile.c"))
            .status()
            .unwrap();
        assert!(compiler.success());
        place
    })
}

/// Sends some bytes through the stack, and says whether they came and whether there is a network afterwards.
const PROGRAM: &str = r#"
import socket, sys
socket.setdefaulttimeout(float(sys.argv[1]))
listener = socket.create_server(("127.0.0.1", 0))
here = socket.create_connection(listener.getsockname())
there, _ = listener.accept()
try:
    here.sendall(b"x" * 100)
    got = len(there.recv(1000))
except OSError:
    got = 0
try:
    socket.socket()
    print(got, "up")
except OSError as e:
    print(got, "down", e.errno)
sys.exit(9)
"#;

fn run(argument: &str, on_crash: &str) -> (Option<i32>, String, String) {
    run_for(argument, on_crash, 10)
}

/// The program waits for each of its calls at most for so many seconds.
fn run_for(argument: &str, on_crash: &str, seconds: u32) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_netgraft"))
        .args(["run", "--join", "never", "--network", "plugin", "--on-crash", on_crash, "--plugin"])
        .arg(object())
        .args(["--plugin-arg", argument, "--", "python3", "-c", PROGRAM, &seconds.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    println!("--- {argument} {on_crash}: {:?}\n{stdout}{stderr}", output.status);
    (output.status.code(), stdout, stderr)
}

#[test]
fn what_ends_the_stack_leaves_the_program_without_a_network() {
    let forbidden = |call: &str| format!("(SIGSYS) in its call 'send' for the system call {call}");
    for (fault, told) in [
        ("abort", "(SIGABRT) in its call 'send'".to_owned()),
        ("segfault", "signal 11 (SIGSEGV) in its call 'send'".to_owned()),
        ("exit", "exited with status 0 in its call 'send'".to_owned()),
        ("spin", "its call 'send' hung for 5 s".to_owned()),
        ("inet", forbidden("socket")),
        ("packet", forbidden("socket")),
        ("exec", forbidden("execve")),
        ("fork", forbidden("clone")),
        ("mount", forbidden("mount")),
        ("bpf", forbidden("bpf")),
        ("ptrace", "SIGSYS".to_owned()),
        ("memory", "SIGSYS".to_owned()),
        ("kill", "SIGSYS".to_owned()),
        ("close-all", "the stack hostile has closed the sentry's descriptors after its call '".to_owned()),
    ] {
        let (status, stdout, stderr) = run(&format!("send:{fault}"), "fail");
        assert_eq!(status, Some(9), "{fault}");
        assert_eq!(stdout, format!("0 down {}\n", libc::ENETDOWN), "{fault}");
        let count = stderr.lines().filter(|l| l.starts_with("netgraft: error:") && l.contains(&told)).count();
        assert_eq!(count, 1, "{fault}: {stderr}");
    }
}

#[test]
fn what_is_nonsense_harms_nobody_else() {
    for call in ["send", "recv", "accept", "drain_events", "interfaces"] {
        for fault in ["print", "leak", "length", "handle", "again", "address", "event", "error"] {
            // The bytes may be wrong, and the stack may be gone; the program and the sandbox go on.
            let (status, _, stderr) = run_for(&format!("{call}:{fault}"), "fail", 1);
            assert!(matches!(status, Some(9 | 1)), "{call}:{fault} {status:?}");
            assert!(!stderr.contains("panicked"), "{call}:{fault}");
        }
    }
}

/// Neither by its prints nor by the sentry's own log, and though the operator wants to see some of it.
#[test]
fn what_it_writes_without_end_fills_no_disk_and_forges_no_line() {
    for verbosity in ["", "-v"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netgraft"));
        command.arg("run").args((!verbosity.is_empty()).then_some(verbosity));
        let output = command
            .args(["--join", "never", "--network", "plugin", "--plugin"])
            .arg(object())
            .args(["--plugin-arg", "send:flood", "--", "python3", "-c", PROGRAM, "60"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!((output.status.code(), &*stdout), (Some(9), "100 up\n"));
        assert!(stderr.len() < 1500 << 10, "{} bytes", stderr.len());
        assert!(stderr.contains("forged") && !stderr.contains(['\r', '\x1b']));
        assert!(!stderr.lines().any(|line| line.starts_with("netgraft: error:")));
        assert!(verbosity.is_empty() || stderr.contains("the rest is not"), "{} bytes", stderr.len());
    }
}

/// What a stack says last is often why it ended, and has no end of its own.
#[test]
fn a_last_line_without_an_end_is_shown() {
    let output = Command::new(env!("CARGO_BIN_EXE_netgraft"))
        .args(["run", "-v", "--join", "never", "--network", "plugin", "--plugin"])
        .arg(object())
        .args(["--plugin-arg", "socket:print-part", "--", "python3", "-c", PROGRAM, "10"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(9), "{stderr}");
    assert_eq!(stderr.matches("netgraft: info: libhostile.so: no end").count(), 1, "{stderr}");
}

#[test]
fn files_of_the_host_are_not_there() {
    let (status, stdout, stderr) = run("send:open", "fail");
    assert_eq!((status, stdout.as_str()), (Some(9), "100 up\n"));
    assert!(stderr.contains(&format!("open: errno {}", libc::ENOENT)), "{stderr}");
}

#[test]
fn a_fresh_object_takes_over() {
    let (status, stdout, stderr) = run("send:segfault", "restart");
    assert_eq!(status, Some(9));
    assert_eq!(stdout, "0 up\n");
    assert!(stderr.contains("SIGSEGV") && stderr.contains("a fresh one takes over"), "{stderr}");
}

/// A stack that says that it cannot go on is dealt with as one that crashed.
#[test]
fn a_stack_that_gives_up_is_ended() {
    let told = "the stack hostile cannot go on: it is broken since its call 'send': the device is gone; ";
    for (on_crash, network) in
        [("fail", format!("down {}\n", libc::ENETDOWN)), ("restart", "up\n".to_owned())]
    {
        let (status, stdout, stderr) = run("send:broken", on_crash);
        assert_eq!(status, Some(9), "{on_crash}");
        assert!(stdout.ends_with(&network), "{on_crash}: {stdout}");
        assert_eq!(stderr.lines().filter(|l| l.contains(told)).count(), 1, "{on_crash}: {stderr}");
    }
}

#[test]
fn a_start_that_fails_is_told_in_one_line() {
    for (argument, told) in [
        ("create:segfault", "SIGSEGV"),
        ("pre_init:abort", "SIGABRT"),
        ("init:segfault", "was killed by signal 11 (SIGSEGV) in its call 'init'"),
        ("init:inet", "for the system call socket"),
        ("init:spin", "its call 'init' hung for 10 s"),
    ] {
        let (status, stdout, stderr) = run(argument, "restart");
        assert_eq!((status, stdout.as_str()), (Some(125), ""), "{argument}");
        assert_eq!(stderr.lines().filter(|l| l.contains(told)).count(), 1, "{argument}: {stderr}");
    }
}

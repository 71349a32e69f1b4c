//! The whole command against the kernel's own stack: no netgraft and no root is needed.
#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as it should be")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_netgraft-bench");

fn bench(words: &str) -> Output {
    Command::new(PROGRAM).args(words.split_whitespace()).stdin(Stdio::null()).output().unwrap()
}

fn outcome(words: &str) -> Value {
    let output = bench(words);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}: {complaint}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A server, its output and its address.
fn server(words: &str) -> (Child, BufReader<ChildStdout>, SocketAddr) {
    let mut command = Command::new(PROGRAM);
    command.arg("server").args(words.split_whitespace());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let address = ready["listening"].as_str().unwrap().parse().unwrap();
    (child, output, address)
}

/// Asserts that a process ends by itself soon and well.
fn ends(mut child: Child) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return assert!(status.success(), "{status}"),
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                unreachable!("the process did not end");
            }
        }
    }
}

#[test]
fn every_workload_of_a_pair_gives_a_figure() {
    for (workload, unit) in [
        ("request", "requests/s"),
        ("request --connections 20 --pipeline 8", "requests/s"),
        ("request --connections 3 --request-size 100000 --reply-size 300000 --pipeline 4", "requests/s"),
        ("request --request-size 1 --reply-size 1048576 --pipeline 16", "requests/s"),
        ("idle --connections 2 --idle 100", "requests/s"),
        ("bulk --direction in", "Gbit/s"),
        ("bulk --direction out --streams 3", "Gbit/s"),
        ("connect", "connections/s"),
        ("connect --connections 20", "connections/s"),
        ("udp", "datagrams/s"),
        ("udp --connections 20 --size 1400", "datagrams/s"),
        ("control", "sockets/s"),
    ] {
        let outcome = outcome(&format!("pair --seconds 0.1 {workload}"));
        assert_eq!(outcome["unit"], unit, "{workload}");
        assert!(outcome["rate"].as_f64().unwrap() > 0.0, "{workload}: {outcome}");
    }
}

#[test]
fn ipv6_works_where_the_machine_has_it() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no ::1, so only the error is looked at");
        assert!(!bench("pair --on ::1 request").status.success());
        return;
    }
    for workload in ["request", "udp", "connect"] {
        assert!(
            outcome(&format!("pair --on ::1 --seconds 0.1 {workload}"))["operations"].as_u64().unwrap() > 0
        );
    }
}

#[test]
fn a_count_bounds_a_run() {
    let began = Instant::now();
    let outcome = outcome("pair --seconds 600 --limit 2000000 bulk --direction out");
    assert!(outcome["operations"].as_u64().unwrap() < 3_000_000);
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_server_ends_with_its_input() {
    for words in ["", "--udp"] {
        let (mut child, _output, _address) = server(words);
        drop(child.stdin.take());
        ends(child);
    }
}

#[test]
fn a_server_ends_by_itself() {
    for words in ["--for 0.2", "--quiet 0.2", "--udp --for 0.2", "--udp --quiet 0.2"] {
        let (child, _output, _address) = server(words);
        ends(child);
    }
}

#[test]
fn a_server_survives_clients_that_misbehave() {
    let (mut child, _output, address) = server("");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _reset_or_end = stream.read_to_end(&mut answer);
    assert!(answer.is_empty());
    drop(TcpStream::connect(address).unwrap());
    let mut half = TcpStream::connect(address).unwrap();
    half.write_all(b"NGB").unwrap();
    let outcome = outcome(&format!("client --connect {address} --seconds 0.1 request --connections 5"));
    assert!(outcome["operations"].as_u64().unwrap() > 0);
    drop(half);
    drop(child.stdin.take());
    ends(child);
}

#[test]
fn a_client_without_a_server_says_so() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for workload in ["request", "bulk", "connect", "udp"] {
        let output = bench(&format!("client --connect 127.0.0.1:{port} --seconds 0.1 {workload}"));
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaint.contains("refused"), "{workload}: {complaint}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_comparison_prints_a_table_and_json() {
    let words =
        "compare --networks native --workloads request-1,control,start-up --rounds 2 --seconds 0.05 --json -";
    let output = bench(words);
    let table = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{table}");
    assert!(table.lines().any(|line| line.starts_with("request-1  native")), "{table}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> =
        report["results"].as_array().unwrap().iter().map(|entry| &entry["workload"]).collect();
    assert_eq!(names, ["request-1", "control", "start-up"]);
    assert_eq!(report["results"][0]["samples"].as_array().unwrap().len(), 2);
}

#[test]
fn a_network_that_fails_is_told_and_fails_the_command() {
    let words =
        "compare --networks native,host --workloads control --rounds 1 --seconds 0.05 --netgraft /bin/false";
    let output = bench(words);
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(table.contains("control on host failed in 1 of 1 rounds"), "{table}");
}

#[test]
fn a_comparison_starts_netgraft_beside_native() {
    use std::os::unix::fs::PermissionsExt;

    // Stands in for netgraft: notes how it was called, then runs the program on the kernel's stack.
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (program, calls) = (directory.join("stand-in"), directory.join("stand-in-calls"));
    let script = format!(
        "#!/bin/sh\necho \"$*\" >>'{}'\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n",
        calls.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(&calls, "").unwrap();
    let words = "compare --workloads request-1,udp-1 --start-up --rounds 1 --seconds 0.2 --json - --netgraft";
    let output = bench(&format!("{words} {}", program.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = report["results"].as_array().unwrap();
    let networks: Vec<_> = results.iter().map(|entry| entry["network"].as_str().unwrap()).collect();
    assert_eq!(networks, ["native", "host", "sandbox"].repeat(3));
    assert!(results[1]["against"]["ratio"]["median"].as_f64().unwrap() > 0.0);
    assert!(results[8]["against"]["difference"]["median"].is_f64());
    let calls = std::fs::read_to_string(&calls).unwrap();
    let first = format!("run --network host -- {PROGRAM} pair --seconds 0.2 request --connections 1 ");
    assert!(calls.lines().next().unwrap().starts_with(&first), "{calls}");
    assert!(calls.lines().last().unwrap() == "run --network sandbox -- true", "{calls}");
}

#[test]
fn mistakes_are_named() {
    for (words, complaint) in [
        ("compare --networks mars", "expected native, none, host, sandbox, pasta or plugin:NAME"),
        ("compare --networks native --workloads juggling", "there is no workload \"juggling\""),
        ("compare --networks host --netgraft /no/such/netgraft", "there is no netgraft at /no/such/netgraft"),
        ("compare --links --networks none", "the network none reaches no peer"),
        ("pair --seconds 0 request", "from 0.01 to 3600"),
        ("pair request --connections 0", "0 is not in 1..=4096"),
        ("client --connect 127.0.0.1:1 redis", "use `pair`"),
        ("server --listen 192.0.2.1:0", "listening on TCP 192.0.2.1:0"),
    ] {
        let output = bench(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(complaint), "{words}: {said}");
    }
}

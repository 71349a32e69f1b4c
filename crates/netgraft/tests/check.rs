//! `netgraft check` and `netgraft stacks` from outside.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn netgraft(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netgraft")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Builds a test object of `tests/plugins` with definitions.
fn object(name: &str, file: &str, defines: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/plugins").join(file);
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../netgraft-abi/include");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-pthread", "-o"])
        .arg(&out)
        .arg(format!("-I{}", header.display()))
        .args(defines)
        .arg(&source)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built.stderr));
    out
}

#[test]
fn the_built_in_stack_is_examined_and_the_report_is_json() {
    let ran = netgraft(&["check", "smoltcp", "--filter", "create/", "--json"]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(report["stack"], "smoltcp");
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() >= 10 && rows.iter().all(|row| row["outcome"] == "pass"), "{report}");
}

#[test]
fn failures_of_an_object_name_the_call() {
    let hostile = object("libcheckcall.so", "hostile.c", &[]);
    let ran = netgraft(&[
        "check",
        hostile.to_str().unwrap(),
        "--plugin-arg",
        "send:error",
        "--filter",
        "stream/questions",
    ]);
    let table = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1), "{table}");
    assert!(table.contains("FAIL stream/questions and answers [v4]: send: "), "{table}");
    assert!(table.contains("expected") && table.contains("got"), "{table}");
}

/// What an object says of itself, and of one of level 0 what its interface says.
#[test]
fn stacks_in_files_are_told_of() {
    let loops = object("libtoldloop.so", "loop.c", &[]);
    let relay = object("libtoldrelay.so", "level0.c", &[]);
    let ran = netgraft(&["stacks", loops.to_str().unwrap(), relay.to_str().unwrap()]);
    assert_eq!((ran.status.code(), text(&ran.stderr).as_str()), (Some(0), ""));
    let told = text(&ran.stdout);
    let lines: Vec<&str> = told.lines().collect();
    let (first, second) =
        lines.split_at(lines.iter().position(|line| line.starts_with("toldrelay ")).unwrap());
    assert!(first[0].starts_with("loop "), "{told}");
    assert!(first.contains(&"  sockets: tcp/v4, udp/v4"), "{told}");
    assert!(first[2].starts_with("  options: ReuseAddress, ") && first[2].contains(", NoDelay"), "{told}");
    assert!(first.contains(&format!("  object:  {}, level 1", loops.display()).as_str()), "{told}");
    let expected = [
        "toldrelay level 0",
        "  sockets: tcp/v4, udp/v4",
        "  options: not said before it is asked (level 0)",
        "  needs:   nothing",
        &format!("  object:  {}, level 0", relay.display()),
    ];
    assert_eq!(second, expected, "{told}");
    let ran = netgraft(&["stacks", "--syscalls", relay.to_str().unwrap()]);
    let told = text(&ran.stdout);
    assert!(told.contains(&format!("\n{}, besides: ", relay.display())), "{told}");
    assert!(told.contains("\n  mlock\n") && told.contains("\n  clone               only if "), "{told}");
}

#[test]
fn a_stack_that_crashes_fails_its_case_and_the_next_one_runs() {
    let hostile = object("libcheckhostile.so", "hostile.c", &[]);
    let ran =
        netgraft(&["check", hostile.to_str().unwrap(), "--plugin-arg", "socket:abort", "--filter", "bind/"]);
    let table = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1), "{table}{}", text(&ran.stderr));
    let expected = "socket: expected a return, got the process was killed by signal 6 (SIGABRT)";
    assert!(table.matches(expected).count() > 3, "{table}");
}

/// As in `run`: a system call that is not allowed fails its case, with the names of the function and of the call.
#[test]
fn a_forbidden_system_call_fails_its_case() {
    let hostile = object("libcheckforbidden.so", "hostile.c", &[]);
    for (deed, call) in [("inet", "socket"), ("fork", "clone"), ("mount", "mount")] {
        let argument = format!("send:{deed}");
        let case = "stream/questions and answers [v4]";
        let ran =
            netgraft(&["check", hostile.to_str().unwrap(), "--plugin-arg", &argument, "--filter", case]);
        let table = text(&ran.stdout);
        assert_eq!(ran.status.code(), Some(1), "{table}{}", text(&ran.stderr));
        let expected = format!(
            "FAIL {case}: send: expected a return, got the process was killed by signal 31 (SIGSYS) for the \
             system call {call}, which"
        );
        assert!(table.contains(&expected), "{table}");
    }
}

#[test]
fn hangs_are_named_and_not_waited_for_again_and_again() {
    let hostile = object("libcheckhang.so", "hostile.c", &[]);
    let ran =
        netgraft(&["check", hostile.to_str().unwrap(), "--plugin-arg", "socket:spin", "--filter", "bind/"]);
    let table = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1), "{table}");
    assert_eq!(table.matches("socket: expected a return, got none within 10 s").count(), 3, "{table}");
    assert_eq!(table.matches("FAIL").count(), 3, "{table}");
    let expected = "netgraft: 3 cases in a row hung, the last one in socket: the rest did not run\n";
    assert!(text(&ran.stderr).ends_with(expected), "{}", text(&ran.stderr));
}

#[test]
fn what_a_stack_does_not_have_is_no_failure() {
    let loops = object("libcheckfamily.so", "loop.c", &[]);
    let ran = netgraft(&["check", loops.to_str().unwrap(), "--filter", "create/"]);
    let table = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(0), "{table}");
    let family: Vec<&str> = table.lines().filter(|line| line.contains("IPv6")).collect();
    assert_eq!(family, ["unsupported 8 cases: it has no sockets of IPv6"], "once, and not for each case");
}

/// An interface with an address and a default route, in a network namespace of the test's own, while netgraft runs:
/// what netgraft says, and what is left of the address.
fn beside_an_interface(quirks: &str, args: &[&str]) -> (Output, String) {
    let script = "ip link set lo up && ip link add ngt0 type veth peer name ngt1 && ip link set ngt1 up && \
                  ip link set ngt0 up && ip address add 198.51.100.2/24 dev ngt0 && \
                  ip route add default via 198.51.100.1 && \"$@\"; status=$?; \
                  ip -4 -o address show dev ngt0 >&2; ip route show default >&2; exit $status";
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_netgraft")])
        .args(args)
        .env("NETGRAFT_QUIRKS", quirks)
        .output()
        .unwrap();
    let errors = text(&output.stderr);
    (output, errors)
}

/// Its pre-init takes the address of the first interface that it finds: never the caller's. Needs root.
#[test]
fn pre_init_of_a_level_0_object_has_a_link_of_its_own() {
    let relay = object("librelay.so", "level0.c", &[]);
    let relay = relay.to_str().unwrap();
    let (ran, errors) =
        beside_an_interface("address", &["check", relay, "--trust-pre-init", "--filter", "create/handles"]);
    assert_eq!(ran.status.code(), Some(0), "{}{errors}", text(&ran.stdout));
    assert!(errors.contains("198.51.100.2/24") && errors.contains("default via 198.51.100.1"), "{errors}");
}

/// Without a link it finds nothing, and the line before that says why.
#[test]
fn a_level_0_object_without_a_link_is_warned_of_before_pre_init() {
    let relay = object("librelaylone.so", "level0.c", &[]);
    let relay = relay.to_str().unwrap();
    let run = ["run", "--network", "plugin", "--trust-pre-init", "--plugin", relay, "--", "true"];
    let (ran, errors) = beside_an_interface("address", &run);
    assert_eq!(ran.status.code(), Some(125), "{errors}");
    let lines: Vec<&str> = errors.lines().filter(|line| line.starts_with("netgraft: ")).collect();
    assert_eq!(lines.len(), 2, "{errors}");
    assert!(lines[0].starts_with("netgraft: warning: ") && lines[0].contains("--link veth:NAME"), "{errors}");
    assert!(lines[1].contains("plugin_preinitstack answers -7"), "{errors}");
    assert!(errors.contains("198.51.100.2/24"), "{errors}");
}

/// Without rights pre-init of one of level 0 fails in every case: the first says so.
#[test]
fn a_level_0_object_without_rights_fails_one_case() {
    let relay = object("libcheckrights.so", "level0.c", &[]);
    let ran = netgraft(&["check", relay.to_str().unwrap()]);
    let table = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1), "{table}{}", text(&ran.stderr));
    assert_eq!(table.matches("FAIL").count(), 1, "{table}");
    assert!(table.contains("plugin_preinitstack answers -1; with --trust-pre-init"), "{table}");
    let expected = "netgraft: libcheckrights.so opens its devices itself, and cannot without your rights: the rest did not \
                    run; use --trust-pre-init, if you trust it with them\n";
    assert!(text(&ran.stderr).ends_with(expected), "{}", text(&ran.stderr));
}

#[test]
fn the_relay_does_what_is_known_of_it() {
    let relay = object("libcheckrelay.so", "level0.c", &[]);
    let known = Path::new(env!("CARGO_TARGET_TMPDIR")).join("relay.toml");
    let all = include_str!("../../netgraft-abi/tests/all/deviations.toml");
    std::fs::write(&known, all.replace("[relay]", "[checkrelay]")).unwrap();
    let ran =
        netgraft(&["check", relay.to_str().unwrap(), "--trust-pre-init", "--known", known.to_str().unwrap()]);
    let table = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(0), "{table}{}", text(&ran.stderr));
    // That it has no IPv6 is one line, and no other says so.
    let unsupported = table.lines().filter(|line| line.starts_with("unsupported "));
    let family: Vec<&str> =
        unsupported.filter(|line| line.contains("IPv6") || line.contains("Family")).collect();
    assert!(
        matches!(family[..], [line] if line.ends_with(" cases: it has no sockets of IPv6")),
        "{family:?}"
    );
    assert!(table.lines().count() < 100, "{table}");
}

/// What the adapter finds wrong with an answer, as `run` logs it, and the calls before.
#[test]
fn a_failure_says_what_was_wrong_and_what_came_before() {
    let hostile = object("libchecknonsense.so", "hostile.c", &[]);
    let case = "stream/questions and answers [v4]";
    for (argument, call, what) in [
        (
            "recv:length",
            "recv",
            "18446744073709551615 of 18446744073709551615 bytes in a buffer of 4, or its address",
        ),
        ("socket:again", "socket", "the handle 1 is given twice"),
        ("send:error", "send", "the result -9223372036854775808 means nothing"),
        ("drain_events:length", "drain_events", "65 events in an array of 64"),
    ] {
        let ran = netgraft(&["check", hostile.to_str().unwrap(), "--plugin-arg", argument, "--only", case]);
        let table = text(&ran.stdout);
        assert_eq!(ran.status.code(), Some(1), "{argument}: {table}");
        let said = format!("     the stack libchecknonsense.so breaks its contract in {call}: {what}");
        assert!(table.lines().any(|line| line == said), "{argument}: {table}");
        let calls = table.lines().filter(|line| line.starts_with("     ") && line.contains("(#"));
        assert!(calls.count() > 3, "the calls: {table}");
    }
    let ran =
        netgraft(&["check", hostile.to_str().unwrap(), "--plugin-arg", "recv:segfault", "--only", case]);
    let table = text(&ran.stdout);
    let last = table.lines().rev().find(|line| line.starts_with("     ")).unwrap();
    assert!(table.contains("recv: expected a return") && last.contains(" send(#"), "before a crash: {table}");
}

/// Every call of a case, in order, with the time of the case; and nothing of it twice.
#[test]
fn a_case_is_traced() {
    let ran = netgraft(&["check", "smoltcp", "--trace", "stream/questions and answers [v4]"]);
    let trace = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(0), "{trace}{}", text(&ran.stderr));
    let lines: Vec<&str> = trace.lines().collect();
    assert_eq!(lines[0], "stream/questions and answers [v4]:");
    for part in ["connect(#", "recv(#", ") = Ok(", "destroy()"] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part}: {trace}");
    }
    let times: Vec<f64> =
        lines.iter().filter_map(|line| line.trim_start().split(' ').next()?.parse().ok()).collect();
    assert!(times.len() > 100 && times.is_sorted(), "{trace}");
    let ran = netgraft(&["check", "smoltcp", "--trace", "no such case"]);
    assert_eq!(ran.status.code(), Some(125));
    assert!(text(&ran.stderr).contains("no case is named 'no such case'"));
    // Somebody reads the first line only.
    let script = "\"$0\" check smoltcp --trace 'stream/questions and answers [v4]' | head -n 1";
    let ran = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_netgraft")]).output().unwrap();
    assert_eq!((text(&ran.stdout).lines().count(), text(&ran.stderr).as_str()), (1, ""));
}

/// For an author's own tests: what is known does not fail, what is listed in vain does, and only failures are printed.
#[test]
fn known_failures_are_a_file() {
    let hostile = object("libcheckknown.so", "hostile.c", &[]);
    let known = Path::new(env!("CARGO_TARGET_TMPDIR")).join("known.toml");
    let check = |more: &[&str]| {
        let mut args =
            vec!["check", hostile.to_str().unwrap(), "--plugin-arg", "send:error", "--failures-only"];
        args.extend(more);
        args.extend(["--known", known.to_str().unwrap()]);
        netgraft(&args)
    };
    let only = ["--only", "stream/questions and answers"];
    std::fs::write(&known, "[hostile]\n\"stream/questions and answers\" = \"send is broken\"\n").unwrap();
    let ran = check(&only);
    let table = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(0), "{table}{}", text(&ran.stderr));
    assert_eq!(table, "", "what is known is no news");
    let whole = ["check", hostile.to_str().unwrap(), "--plugin-arg", "send:error", "--known"];
    let ran = netgraft(&[&whole[..], &[known.to_str().unwrap()], &only].concat());
    let table = text(&ran.stdout);
    let lines: Vec<&str> = table.lines().skip(3).collect();
    assert_eq!(lines[0], "known stream/questions and answers [v4]: send is broken", "{table}");
    assert!(!table.contains("FAIL") && !table.contains("(#"), "no calls of it: {table}");
    assert_eq!(lines.last(), Some(&"known failures: 1"), "{table}");
    // Of a case that is not known all is printed.
    std::fs::write(&known, "[hostile]\n\"stream/another\" = \"send is broken\"\n").unwrap();
    let ran = check(&only);
    let table = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1), "{table}{}", text(&ran.stderr));
    assert!(table.starts_with("FAIL stream/questions and answers [v4]: ") && table.contains("(#"), "{table}");
    std::fs::write(&known, "[hostile]\n\"stream/questions and answers\" = \"\"\n").unwrap();
    let ran = check(&only);
    assert_eq!((ran.status.code(), text(&ran.stderr).lines().count()), (Some(125), 1));
    assert!(text(&ran.stderr).contains("gives no reason"), "{}", text(&ran.stderr));
}

/// What is known and passes after all fails the whole check, so that the file stays true.
#[test]
fn what_is_known_in_vain_fails() {
    let loops = object("libcheckstale.so", "loop.c", &[]);
    let known = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stale.toml");
    let check = || {
        netgraft(&["check", loops.to_str().unwrap(), "--failures-only", "--known", known.to_str().unwrap()])
    };
    // As a new stack's.
    std::fs::write(&known, "[loop]\n").unwrap();
    let ran = check();
    assert_eq!((ran.status.code(), text(&ran.stderr).as_str()), (Some(0), ""), "{}", text(&ran.stdout));
    let stale = "\"create/handles are not used again\" = \"it passes\"\n\"create/none\" = \"no such case\"\n";
    std::fs::write(&known, format!("[loop]\n{stale}")).unwrap();
    let ran = check();
    let lines = text(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{lines}");
    let expected = ["create/handles are not used again", "create/none"]
        .map(|case| format!("netgraft: '{case}' is listed as known, and explains nothing: remove it"));
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
}

/// After pre-init there is no file system, as in the sentry; and what a stack prints or logs is shown when asked for.
#[test]
fn a_case_has_no_more_than_a_sentry() {
    let hostile = object("libcheckplace.so", "hostile.c", &[]);
    let one = ["check", hostile.to_str().unwrap(), "--only", "create/handles are not used again [v4]"];
    let with = |more: &[&str]| netgraft(&[&one[..], more].concat());
    let ran = with(&["--plugin-arg", "init:open", "-v"]);
    assert!(text(&ran.stderr).contains("open: errno 2"), "{}", text(&ran.stderr));
    let ran = with(&["--plugin-arg", "socket:print", "-v"]);
    assert!(text(&ran.stderr).contains("netgraft: info: libcheckplace.so: the stack prints\n"));
    let ran = with(&["--plugin-arg", "socket:print-part", "-v"]);
    assert!(text(&ran.stderr).contains("netgraft: info: libcheckplace.so: no end"), "{}", text(&ran.stderr));
    let ran = with(&["--plugin-arg", "socket:print"]);
    assert!(!text(&ran.stderr).contains("prints"), "{}", text(&ran.stderr));
}

#[test]
fn what_cannot_be_checked_is_one_line() {
    for args in [
        &["check", "no-such-stack"][..],
        &["check", "./no-such-file.so"],
        &["check", "smoltcp", "--filter", "no such case"],
        &["stacks", "./no-such-file.so"],
    ] {
        let ran = netgraft(args);
        assert_eq!(ran.status.code(), Some(125), "{args:?}");
        assert_eq!(text(&ran.stderr).lines().count(), 1, "{args:?}: {}", text(&ran.stderr));
    }
}

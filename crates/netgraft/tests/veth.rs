//! `--link veth:NAME`: a level 0 object finds its interface as the existing interface says (`tests/plugins/link0.c`),
//! packets flow, and the pair is gone with the sandbox, however that ends. Needs root: makes network namespaces.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Objects, compiled here as their authors would.
fn object(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("veth");
        std::fs::create_dir_all(&dir).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for name in ["link0", "level0", "loop"] {
            let mut compiler = Command::new("cc");
            compiler.args(["-shared", "-fPIC", "-fvisibility=hidden", "-I"]);
            compiler
                .arg(root.join("crates/netgraft-abi/include"))
                .arg("-o")
                .arg(dir.join(format!("lib{name}.so")));
            assert!(compiler.arg(root.join(format!("tests/plugins/{name}.c"))).status().unwrap().success());
        }
        dir
    });
    dir.join(format!("lib{name}.so"))
}

/// Runs the script in a network namespace of its own.
fn script(turn: &str) -> String {
    let output = Command::new("unshare")
        .args(["--net", "python3", "-c", include_str!("veth.py"), env!("CARGO_BIN_EXE_netgraft")])
        .arg(object("link0"))
        .arg(turn)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

const UP: &str = "program sees ['lo', 'ngv0']\nping True\nother False\n";

#[test]
fn packets_flow_and_the_pair_goes_with_the_program() {
    assert_eq!(script("end"), format!("{UP}status 9\ngone True\n"));
}

#[test]
fn the_pair_goes_with_a_launcher_that_is_killed() {
    assert_eq!(script("launcher"), format!("{UP}gone True\n"));
}

#[test]
fn a_fresh_sentry_has_the_same_link() {
    assert_eq!(script("sentry"), format!("{UP}again True\nstatus 9\ngone True\n"));
}

/// What netgraft says to a command line that it refuses.
fn refused(plugin: &Path, options: &[&str]) -> String {
    let output = Command::new("unshare")
        .args(["--net", env!("CARGO_BIN_EXE_netgraft"), "run", "--network", "plugin", "--plugin"])
        .arg(plugin)
        .args(options)
        .args(["--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("warning:")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    lines[0].to_owned()
}

#[test]
fn what_does_not_go_together_is_told() {
    let relay = object("level0");
    let whole = ["--link", "veth:ngv0", "--address", "192.0.2.2/24", "--gateway", "192.0.2.1"];
    for (plugin, options, told) in [
        (&relay, &whole[..4], "needs an --address and a --gateway for its link, of IPv4"),
        (&relay, &whole[2..4], "takes addresses and gateways with --link veth:NAME only"),
        (&relay, &["--link", "tap:ngv0"], "takes no link tap:ngv0: give it --link veth:NAME"),
        (&object("loop"), &whole[..2], "use --link tap:ngv0 or packet:IFACE"),
        (
            &relay,
            &["--link", "veth:lo", "--address", "192.0.2.2/24", "--gateway", "192.0.2.1"],
            "cannot be made, since lo is there already",
        ),
        (
            &relay,
            &["--link", "veth:ngv0", "--address", "192.0.2.2/24", "--gateway", "198.51.100.1"],
            "cannot be given its addresses and its gateway",
        ),
    ] {
        let line = refused(plugin, &[options, &["--trust-pre-init"]].concat());
        assert!(line.contains(told), "{line}");
    }
    let line = refused(&relay, &whole);
    assert!(line.contains("--link veth:ngv0 needs --trust-pre-init, if you trust "), "{line}");
}

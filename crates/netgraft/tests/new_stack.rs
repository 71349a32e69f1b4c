//! `netgraft new-stack`: what it writes passes the conformance suite as written, and redis and python3's http.server run
//! on it, in both languages; all by the test that is written with it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn new_stack(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netgraft")).arg("new-stack").args(args).output().unwrap()
}

/// A directory that is not there.
fn place(name: &str) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-stack").join(name);
    let _ = std::fs::remove_dir_all(&place);
    place
}

fn run(dir: &Path, command: &str, args: &[&str]) -> String {
    let output = Command::new(command).args(args).current_dir(dir).output().unwrap();
    let printed = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command} {args:?}: {printed}");
    printed
}

fn is_good(output: &str, name: &str) {
    let all = output.lines().find(|line| line.starts_with("all ")).unwrap_or_default();
    let counts: Vec<usize> = all.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    assert!(counts[0] > 150 && counts[1] == 0, "nothing fails: {output}");
    assert!(output.contains(&format!("{name} ")), "{output}");
    assert!(!output.contains("FAIL") && !output.contains("\nknown "), "{output}");
    assert!(output.contains("ok: redis\n") && output.contains("ok: http.server\n"), "{output}");
}

#[test]
fn a_stack_in_c_runs_programs_as_written() {
    let dir = place("mine");
    let ran = new_stack(&[dir.to_str().unwrap()]);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    assert!(text(&ran.stdout).contains("make test"), "{}", text(&ran.stdout));
    let output = run(&dir, "make", &["-s", "test", "CFLAGS=-O1 -Wall -Wextra -Werror"]);
    is_good(&output, "mine");
    run(&dir, env!("CARGO_BIN_EXE_netgraft"), &["check", "--filter", "bind/", "./libmine.so"]);
    // A second time it would overwrite what is somebody's work by then.
    let ran = new_stack(&[dir.to_str().unwrap()]);
    assert_eq!(ran.status.code(), Some(125));
    assert!(text(&ran.stderr).contains("is there already"), "{}", text(&ran.stderr));
}

#[test]
fn a_stack_in_rust_runs_programs_as_written() {
    let dir = place("my-own");
    let ran = new_stack(&[dir.to_str().unwrap(), "--lang", "rust"]);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    // The versions that this repository has, so that nothing is looked for elsewhere.
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
    std::fs::copy(lock, dir.join("Cargo.lock")).unwrap();
    run(&dir, env!("CARGO"), &["build", "--offline", "-q", "--target-dir", "target"]);
    let output = run(&dir, "./test.sh", &["target/debug/libmy_own.so"]);
    is_good(&output, "my-own");
}

#[test]
fn what_cannot_be_written_is_one_line() {
    let file = place("file");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "").unwrap();
    let good = place("good");
    for (args, part) in [
        (&["7up"][..], "a letter first"),
        (&["a/b c"], "cannot be a stack's name"),
        (&[file.to_str().unwrap()], "is there already"),
        (&[good.to_str().unwrap(), "--lang", "rust", "--source", "/proc"], "use --source DIR"),
    ] {
        let ran = new_stack(args);
        let error = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(125), "{args:?}");
        assert!(error.lines().count() == 1 && error.contains(part), "{args:?}: {error}");
    }
    assert!(!good.exists());
}

//! docs/stack-authors.md: its commands do what it says, as they stand, in a folder that has of this repository what they name.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

const GUIDE: &str = include_str!("../../../docs/stack-authors.md");

/// The blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    GUIDE.split(fence.as_str()).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// The folder with the command in its PATH.
fn run(folder: &Path, script: &str) -> (Option<i32>, String) {
    let command = Path::new(env!("CARGO_BIN_EXE_netgraft")).parent().unwrap();
    let path = format!("{}:{}", command.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn the_commands_of_the_guide_do_what_it_says() {
    let [new, empty, whole, check, steps, redis, link, rust, level_0] = blocks("sh")[..] else {
        panic!("a new block is to be tried here")
    };
    let folder = std::env::temp_dir().join(format!("netgraft-guide-{}", std::process::id()));
    fs::create_dir_all(folder.join("crates")).unwrap();
    common::remove_at_exit(&folder);
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    for part in ["crates/netgraft-abi", "tests"] {
        symlink(repository.join(part), folder.join(part)).unwrap();
    }
    let (flags, _) = empty.split_once('\n').unwrap();
    let known = blocks("toml").into_iter().find(|block| block.starts_with("[mine]")).unwrap();
    fs::write(folder.join("known.toml"), format!("{known}\n")).unwrap();
    let texts = blocks("text");
    for (block, status, printed) in [
        (empty, 125, &[texts[0]][..]),
        (whole, 0, &[texts[2]]),
        (check, 0, &["\nstream "]),
        (steps, 0, &[" = Ok(", "\nbind "]),
        (redis, 0, &["PONG", "SET: ", "GET: "]),
        (level_0, 0, &["PONG"]),
    ] {
        let (ended, text) = run(&folder, &format!("{flags}\n{block}"));
        assert_eq!(ended, Some(status), "{block}\n{text}");
        assert!(printed.iter().all(|part| text.contains(part)), "{block}\n{text}");
    }
    // These have tests of their own: new_stack.rs, the links of tests/e2e, objects.rs.
    assert!(new.starts_with("netgraft new-stack mine ") && link.contains("--link tap:ng0"));
    assert!(rust.contains("libsmoltcp_plugin.so"));
}

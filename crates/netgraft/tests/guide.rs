//! docs/stack-authors.md: its commands do what it says, as they stand, in a folder that has of this repository what they name.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/cargo.rs"]
mod package;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use package::{cargo, repository};

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
    for part in ["crates/netgraft-abi", "tests"] {
        symlink(repository().join(part), folder.join(part)).unwrap();
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

/// Its Cargo.toml and its line of Rust make an object, with the smallest stack of this repository for the reader's own.
#[test]
fn the_rust_of_the_guide_is_a_stack() {
    let [line] = blocks("rust")[..] else { panic!("a new block is to be tried here") };
    let manifest = blocks("toml").into_iter().find(|block| block.starts_with("[lib]")).unwrap();
    let package = std::env::temp_dir().join(format!("netgraft-guide-rust-{}", std::process::id()));
    fs::create_dir_all(package.join("src")).unwrap();
    common::remove_at_exit(&package);
    assert_eq!(manifest.matches("\"../netgraft/").count(), 2, "{manifest}");
    let manifest = manifest.replace("\"../netgraft/", &format!("\"{}/", repository().display()));
    let head = "[package]\nname = \"guide-mine\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n\n";
    fs::write(package.join("Cargo.toml"), format!("{head}{manifest}\n")).unwrap();
    // The versions that this repository has, so that nothing is looked for elsewhere.
    fs::copy(repository().join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let stack = repository().join("crates/netgraft-plugin/examples/echo_stack/stack.rs");
    let own = format!(
        r#"
#[path = {stack:?}]
mod stack;

struct Mine;

impl Mine {{
    fn new(_: &netgraft_plugin::StackConfig) -> Result<stack::EchoStack, netgraft_plugin::stack::SetupError> {{
        Ok(stack::EchoStack::default())
    }}
}}
"#
    );
    fs::write(package.join("src/lib.rs"), format!("{line}\n{own}")).unwrap();
    cargo(&package, &["build", "-q"]);
    let test = std::env::current_exe().unwrap();
    let object = test.ancestors().nth(3).unwrap().join("debug/libguide_mine.so");
    let (ended, text) = run(&package, &format!("netgraft stacks {}", object.display()));
    assert_eq!(ended, Some(0), "{text}");
    assert!(text.starts_with("mine ") && text.contains("level 1"), "{text}");
}

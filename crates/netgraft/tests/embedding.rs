//! docs/embedding.md: its package builds as written against these sources, without a parser of command lines, and both of
//! its programs run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/cargo.rs"]
mod package;

use std::fs;

use package::{cargo, repository};

const GUIDE: &str = include_str!("../../../docs/embedding.md");

/// The blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    GUIDE.split(fence.as_str()).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// The guide's stack of one's own, for which the smallest one of this repository stands in, and a program that talks to it.
fn own_stack(snippet: &str) -> String {
    let stack = repository().join("crates/netgraft-plugin/examples/echo_stack/stack.rs");
    let program = "import socket; s = socket.create_connection(('192.0.2.1', 7)); s.sendall(b'hello'); \
                   assert s.recv(9) == b'hello'; print('echoed')";
    format!(
        r#"
#[path = {stack:?}]
mod stack;

struct MyStack;

impl MyStack {{
    fn new(config: &netgraft_plugin::StackConfig) -> Result<stack::EchoStack, netgraft_plugin::stack::SetupError> {{
        assert!(config.argument.as_deref().is_none_or(|text| text == "free text for the stack"));
        Ok(stack::EchoStack::default())
    }}
}}

fn main() -> Result<(), Box<dyn std::error::Error>> {{
{snippet}
    let mut program = netgraft::ProgramSpec::new("python3");
    program.args = vec!["-c".into(), {program:?}.into()];
    let status = netgraft::run(&network, &program)?;
    assert_eq!(status.code, 0);
    Ok(())
}}
"#
    )
}

#[test]
fn the_package_of_the_guide_builds_and_runs() {
    let [manifest] = blocks("toml")[..] else { panic!("one Cargo.toml") };
    let [program, snippet] = blocks("rust")[..] else { panic!("two pieces of Rust") };
    let package = std::env::temp_dir().join(format!("netgraft-embedding-{}", std::process::id()));
    fs::create_dir_all(package.join("src/bin")).unwrap();
    common::remove_at_exit(&package);
    assert_eq!(manifest.matches("\"../netgraft/").count(), 2, "{manifest}");
    let here = format!("\"{}/", repository().display());
    fs::write(package.join("Cargo.toml"), manifest.replace("\"../netgraft/", &here)).unwrap();
    // The versions that this repository has, so that nothing is looked for elsewhere.
    fs::copy(repository().join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    fs::write(package.join("src/main.rs"), program).unwrap();
    fs::write(package.join("src/bin/own.rs"), own_stack(snippet)).unwrap();

    let ran = cargo(&package, &["run", "-q", "--bin", "my-runner"]);
    let text = String::from_utf8(ran.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("redis-cli "), "{text}");
    assert_eq!(lines[1], "status 0");
    assert!(lines[2].starts_with("0 sockets on smoltcp"), "{text}");

    let ran = cargo(&package, &["run", "-q", "--bin", "own"]);
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), "echoed\n");

    let tree =
        String::from_utf8(cargo(&package, &["tree", "-e", "normal", "--prefix", "none"]).stdout).unwrap();
    let with = |name: &str| tree.lines().filter(|line| line.starts_with(name)).count();
    assert!(with("netgraft-launch v") > 0 && with("clap") == 0 && with("tracing-subscriber") == 0, "{tree}");
}

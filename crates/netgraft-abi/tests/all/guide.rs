//! docs/stack-authors.md: its C compiles, and what it says of errors is what is said.

use crate::common;

const GUIDE: &str = include_str!("../../../../docs/stack-authors.md");

/// The blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    GUIDE.split(fence.as_str()).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

#[test]
fn every_block_of_c_compiles() {
    let blocks = blocks("c");
    assert_eq!(blocks.len(), 6);
    for (i, code) in blocks.iter().enumerate() {
        common::build_text(&format!("guide_{i}"), &format!("{code}\n"), &[]);
    }
}

/// What `netgraft stacks` prints of the whole stack: the same facts, each in its line.
#[test]
fn the_whole_stack_is_described_as_the_guide_says() {
    let object = crate::common::load(&common::build("guide_loop", "loop.c", &[])).unwrap();
    let info = object.info();
    let options: Vec<String> = info.options.iter().map(|name| format!("{name:?}")).collect();
    let lines: Vec<&str> = blocks("text")[2].lines().collect();
    assert_eq!(lines[0], format!("{} {}", info.name, info.version));
    assert_eq!(lines[2], format!("  options: {}", options.join(", ")));
    assert_eq!((lines[3], info.needs.as_str()), ("  needs:   nothing", ""));
    // The fourth are figures of a benchmark. A block that comes after it is to be compared, too.
    assert_eq!(blocks("text").len(), 4);
}

#[test]
fn the_first_two_steps_print_what_the_guide_says() {
    let objects = [("guide_empty", "\n"), ("guide_entry", blocks("c")[0])];
    for ((name, code), text) in objects.into_iter().zip(blocks("text")) {
        let object = common::build_text(name, &format!("{code}\n"), &["-Wno-pedantic"]);
        let error = crate::common::load(&object).err().unwrap().to_string();
        let (_, printed) = error.split_once(".so: ").unwrap();
        let (_, promised) = text.split_once(".so: ").unwrap();
        assert_eq!(printed, promised.replace('\n', " "));
    }
}

/// The line of Rust is that of the stack which `netgraft new-stack` writes, and that is built here (example loop_stack).
#[test]
fn the_export_in_rust_compiles_as_written() {
    let written = include_str!("../../../netgraft/templates/rust/src/lib.rs");
    let line = written.lines().find(|line| line.starts_with("netgraft_abi::export_stack!")).unwrap();
    let line = line.replace("\"loop\"", "\"mine\"").replace("LoopStack", "Mine");
    assert!(blocks("rust").iter().any(|block| block.contains(&line)), "{line}");
    let manifest = include_str!("../../../netgraft/templates/rust/Cargo.toml.in");
    let block = blocks("toml").into_iter().find(|block| block.starts_with("[lib]")).unwrap();
    for line in block.lines().map(|line| line.split(" #").next().unwrap()) {
        assert!(manifest.contains(&line.replace("../netgraft/", "@source@/")), "{line}");
    }
}

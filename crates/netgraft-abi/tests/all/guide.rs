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
    assert_eq!(blocks.len(), 5);
    for (i, code) in blocks.iter().enumerate() {
        common::build_text(&format!("guide_{i}"), &format!("{code}\n"), &[]);
    }
}

#[test]
fn the_first_two_steps_are_told_as_the_guide_says() {
    let objects = [("guide_empty", "\n"), ("guide_entry", blocks("c")[0])];
    for ((name, code), text) in objects.into_iter().zip(blocks("text")) {
        let object = common::build_text(name, &format!("{code}\n"), &["-Wno-pedantic"]);
        let error = netgraft_abi::load(&object).err().unwrap().to_string();
        let (_, told) = error.split_once(".so: ").unwrap();
        let (_, promised) = text.split_once(".so: ").unwrap();
        assert_eq!(told, promised.replace('\n', " "));
    }
}

//! The bounded run of continuous integration: each target on its corpus and on inputs made of it.

use netgraft_fuzz::{TARGETS, driver};

fn bounded(name: &str, runs: u64) -> Result<(), String> {
    let target = TARGETS.iter().find(|target| target.name == name).ok_or("no such target")?;
    let corpus = driver::corpus(target).map_err(|error| format!("the corpus of {name}: {error}"))?;
    if corpus.is_empty() {
        return Err(format!("the corpus of {name} is empty"));
    }
    driver::fuzz(target, &corpus, runs, 1)
        .map_err(|fault| format!("{name}: {}\non {:02x?}", fault.text, fault.input))
}

#[test]
fn messages() {
    bounded("messages", 200_000).unwrap();
}

#[test]
fn structures() {
    bounded("structures", 200_000).unwrap();
}

#[test]
fn objects() {
    bounded("objects", 100_000).unwrap();
}

#[test]
fn frames() {
    bounded("frames", 5_000).unwrap();
}

#[test]
fn segments() {
    bounded("segments", 100_000).unwrap();
}

#[test]
fn link() {
    bounded("link", 20_000).unwrap();
}

#[test]
fn sequences() {
    bounded("sequences", 3_000).unwrap();
}

#[test]
fn netlink() {
    bounded("netlink", 100_000).unwrap();
}

#[test]
fn leases() {
    bounded("leases", 50_000).unwrap();
}

#[test]
fn captures() {
    bounded("captures", 200_000).unwrap();
}

#[test]
fn policy() {
    bounded("policy", 50_000).unwrap();
}

#[test]
fn said() {
    bounded("said", 100_000).unwrap();
}

/// Each target has its file for cargo-fuzz, and its corpus, and nothing else has.
#[test]
fn the_folder_of_the_fuzzer_has_every_target() {
    let names = |folder: &str| {
        let folder = driver::corpus_folder().join("..").join(folder);
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.trim_end_matches(".rs").to_owned())
            .collect();
        names.sort();
        names
    };
    let mut expected: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    expected.sort_unstable();
    assert_eq!(names("fuzz_targets"), expected);
    assert_eq!(names("corpus"), expected);
}

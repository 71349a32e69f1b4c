//! `netgraft new-stack`: a directory with a small stack that is whole, its build files and its test.
//!
//! What is written are files of this repository, which its own tests build and run as they stand; only names change.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use netgraft_launch::RunError;

const HEADER: &str = include_str!("../../netgraft-abi/include/netgraft.h");
const KNOWN: &str = include_str!("../templates/known.toml");
const TEST: &str = include_str!("../templates/test.sh");
const C_STACK: &str = include_str!("../../../tests/plugins/loop.c");
const C_MAKEFILE: &str = include_str!("../templates/c/Makefile");
const C_README: &str = include_str!("../templates/c/README.md");
const RUST_MANIFEST: &str = include_str!("../templates/rust/Cargo.toml.in");
const RUST_LIB: &str = include_str!("../templates/rust/src/lib.rs");
const RUST_SOCK: &str = include_str!("../templates/rust/src/sock.rs");
const RUST_README: &str = include_str!("../templates/rust/README.md");

/// The language of a new stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Language {
    /// C, against `netgraft.h`.
    #[default]
    C,
    /// Rust, against the crate `netgraft-plugin`.
    Rust,
}

impl FromStr for Language {
    type Err = String;

    fn from_str(text: &str) -> Result<Language, String> {
        match text {
            "c" => Ok(Language::C),
            "rust" => Ok(Language::Rust),
            other => Err(format!("'{other}' is no language of a new stack: use c or rust")),
        }
    }
}

/// What to write.
#[derive(Clone, Debug)]
pub struct NewStack {
    /// The directory; its last part is the stack's name.
    pub dir: PathBuf,
    /// In which language.
    pub language: Language,
    /// netgraft's sources, for a stack in Rust; `None` for those that this library was built from.
    pub source: Option<PathBuf>,
    /// The command that the stack's test runs.
    pub command: PathBuf,
}

/// Writes a new stack, and answers the name of its shared object, from its directory.
///
/// # Errors
/// [`RunError::Options`], one line: the directory is there and not empty, its name cannot be a stack's, or it cannot be
/// written.
pub fn new_stack(new: &NewStack) -> Result<String, RunError> {
    let dir = &new.dir;
    let wrong = |what: String| RunError::Options(format!("{}: {what}", dir.display()));
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(letters) {
        return Err(wrong(format!(
            "'{name}' cannot be a stack's name: use letters, digits, '-' and '_', a letter first"
        )));
    }
    let full = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if full || dir.is_file() {
        return Err(wrong("is there already: name a directory that is not, or is empty".to_owned()));
    }
    let (lib, files) = match new.language {
        Language::C => (format!("lib{name}.so"), c_files()),
        Language::Rust => (format!("lib{}.so", name.replace('-', "_")), rust_files()),
    };
    let source = source(new).map_err(wrong)?;
    let command = new.command.display().to_string();
    let replaced = [("@name@", name), ("@lib@", &lib), ("@netgraft@", &command), ("@source@", &source)];
    for (path, text) in files {
        let text = replaced.iter().fold(text, |text, (mark, value)| text.replace(mark, value));
        write(&dir.join(path), &text).map_err(|e| wrong(format!("{path} cannot be written: {e}")))?;
    }
    Ok(match new.language {
        Language::C => lib,
        Language::Rust => format!("target/release/{lib}"),
    })
}

fn c_files() -> Vec<(&'static str, String)> {
    vec![
        ("stack.c", c_stack()),
        ("netgraft.h", HEADER.to_owned()),
        ("Makefile", C_MAKEFILE.to_owned()),
        ("README.md", C_README.to_owned()),
        ("known.toml", KNOWN.to_owned()),
        ("test.sh", TEST.to_owned()),
    ]
}

fn rust_files() -> Vec<(&'static str, String)> {
    vec![
        ("Cargo.toml", RUST_MANIFEST.to_owned()),
        ("src/lib.rs", RUST_LIB.replace("\"loop\"", "\"@name@\"")),
        ("src/sock.rs", RUST_SOCK.to_owned()),
        ("README.md", RUST_README.to_owned()),
        ("known.toml", KNOWN.to_owned()),
        ("test.sh", TEST.to_owned()),
    ]
}

/// The stack of the guide under names of its own, without what other tests use it for.
fn c_stack() -> String {
    let head = "/*\n * @name@: a network stack under netgraft. TCP and UDP in memory, on 127.0.0.0/8, for programs of one sandbox \
                that\n * talk to each other. README.md says where to begin, netgraft.h what each call must do.\n */\n";
    let (_, body) = C_STACK.split_once("*/\n").unwrap_or_default();
    let mut text = head.to_owned();
    let guards = ["#ifndef LOOP_AS_A_PART", "#endif"];
    for line in body.lines().filter(|line| !guards.iter().any(|guard| line.starts_with(guard))) {
        text.push_str(
            &line.replace("loop_", "my_").replace("LOOP", "TABLE").replace("\"loop\"", "\"@name@\""),
        );
        text.push('\n');
    }
    text
}

/// Where netgraft's crates are.
fn source(new: &NewStack) -> Result<String, String> {
    if new.language == Language::C {
        return Ok(String::new());
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let source = new.source.clone().unwrap_or(built);
    let found = source.join("crates/netgraft-abi/Cargo.toml").is_file();
    match fs::canonicalize(&source) {
        Ok(path) if found => Ok(path.display().to_string()),
        _ => Err(format!("netgraft's sources are not in {}: use --source DIR", source.display())),
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)?;
    if text.starts_with("#!") {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_original_s_names_is_left() {
        let text = c_stack();
        assert!(text.contains("static int32_t my_socket(") && text.contains("? &TABLE : NULL"));
        assert!(!text.contains("loop_") && !text.contains("LOOP") && !text.contains("#endif"));
        let rust: Vec<_> = rust_files().into_iter().filter(|(_, text)| text.contains("\"loop\"")).collect();
        assert!(rust.is_empty(), "{rust:?}");
    }

    #[test]
    fn languages_are_parsed() {
        assert_eq!(("c".parse(), "rust".parse()), (Ok(Language::C), Ok(Language::Rust)));
        assert!("go".parse::<Language>().unwrap_err().contains("use c or rust"));
    }
}

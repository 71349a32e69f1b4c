//! Packages that a test writes, built against these sources.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// This repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Cargo in the package, with the settings and the folder of this build, so that the crates of others are not built again.
pub(crate) fn cargo(package: &Path, args: &[&str]) -> Output {
    // This test lies in target/PROFILE/deps.
    let test = std::env::current_exe().unwrap();
    let output = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(package)
        .env("CARGO_TARGET_DIR", test.ancestors().nth(3).unwrap())
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {args:?}: {}{errors}", String::from_utf8_lossy(&output.stdout));
    output
}

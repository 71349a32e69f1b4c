//! The object of `plugins/lwip`, for tests.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds `plugins/lwip`, a stack in C with links of its own; the object. `folder` must be the test's own.
pub(crate) fn build(folder: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/lwip");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let mut make = Command::new("make");
    make.args(["-s", "-C"]).arg(source).arg(format!("OUT={}", out.display()));
    let made = make.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    out.join("libnetgraft_lwip.so")
}

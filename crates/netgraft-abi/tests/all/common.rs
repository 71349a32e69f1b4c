//! Objects for tests: C from tests/plugins, compiled when a test wants them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The directory of the test objects' sources.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/plugins")
}

/// Compiles an object; `name` must be the test's own.
pub(crate) fn build(name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let source = sources().join(source);
    compile(name, &source, flags)
}

/// Compiles an object from C given as text.
pub(crate) fn build_text(name: &str, code: &str, flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.c"));
    std::fs::write(&source, code).unwrap();
    compile(name, &source, flags)
}

fn compile(name: &str, source: &Path, flags: &[&str]) -> PathBuf {
    let object = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lib{name}.so"));
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let output = Command::new("cc")
        .args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"])
        .arg("-fvisibility=hidden")
        .arg("-I")
        .arg(&include)
        .arg("-I")
        .arg(sources())
        .args(flags)
        .arg("-o")
        .arg(&object)
        .arg(source)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    object
}

/// `loop.c` with its table `t` changed by a statement of C before it is returned.
pub(crate) fn with_table(name: &str, change: &str) -> PathBuf {
    let code = format!(
        "#define LOOP_AS_A_PART\n#include \"loop.c\"\nstatic struct netgraft_stack_v1 t;\n\
         const struct netgraft_stack_v1 *netgraft_stack(uint32_t v) {{ (void)v; t = LOOP; {change}; return &t; }}"
    );
    build_text(&format!("table_{name}"), &code, &[])
}

/// Builds an example of this crate that is an object; its path.
pub(crate) fn build_example(name: &str) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "-q", "-p", "netgraft-abi", "--example", name])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // This test lies in deps, the examples beside that.
    let deps = std::env::current_exe().unwrap();
    deps.ancestors().nth(2).unwrap().join(format!("examples/lib{name}.so"))
}

/// Looks at an object as the command does, one at a time: the command has one thread, and a process that is forked while
/// another thread is in dlopen(3) waits for ever in its own.
pub(crate) fn load(path: &Path) -> Result<netgraft_abi::Loaded, netgraft_abi::LoadError> {
    load_alone(path, false)
}

/// Keeps other tests from loading objects and from forking to do so.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load_alone(path: &Path, trusted: bool) -> Result<netgraft_abi::Loaded, netgraft_abi::LoadError> {
    let _alone = alone();
    netgraft_launch::stacks::load(path, trusted)
}

/// The same for an object whose pre-init needs the caller's rights, as that of `level0.c` does: it forks what relays.
pub(crate) fn load_trusted(path: &Path) -> Result<netgraft_abi::Loaded, netgraft_abi::LoadError> {
    load_alone(path, true)
}

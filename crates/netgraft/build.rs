//! Links the command with the unwinder in it (libgcc_eh.a) where the compiler brings one.
//!
//! Loading libgcc_s.so.1 takes a tenth of a millisecond of each start: as it is initialised it asks the processor what it can
//! do (cpuid), which a virtual machine's monitor answers. Everything else of the C library is shared as usual.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Some(folder) = unwinder() {
        println!("cargo:rustc-link-arg-bins=-L{}", folder.display());
    }
}

/// A folder in which what the standard library asks for, `-lgcc_s`, is found first: a linker script that names the archive.
fn unwinder() -> Option<PathBuf> {
    // Another machine's compiler is not the one that would be asked.
    let is_native = env::var_os("HOST")? == env::var_os("TARGET")?;
    if !is_native || env::var("CARGO_CFG_TARGET_ENV").ok()? != "gnu" {
        return None;
    }
    let asked = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output().ok()?;
    // What it does not have it names without a folder.
    let archive = String::from_utf8(asked.stdout).ok().filter(|path| Path::new(path.trim()).is_absolute())?;
    let folder = PathBuf::from(env::var_os("OUT_DIR")?);
    fs::write(folder.join("libgcc_s.so"), format!("INPUT({})\n", archive.trim())).ok()?;
    Some(folder)
}

//! The folder that a run works in: netgraft's binary, the guest programs, and a scratch folder for each job.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::column::{Column, ORDINARY_ID, Object};
use crate::leaks;
use crate::machine::{self, run_tool};

/// The folder of a run. Readable by every user, whatever the permissions of the source tree are; removed at
/// the end.
#[derive(Debug)]
pub struct Stage {
    folder: PathBuf,
    jobs: AtomicU32,
}

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn io<T>(path: &Path, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{}: {error}", path.display()))
}

impl Stage {
    /// Makes the folder and puts netgraft's binary there.
    ///
    /// # Errors
    /// When the machine lacks something (see [`machine::check`]) or there is no binary.
    pub fn new() -> Result<Self, String> {
        machine::check()?;
        let folder = std::env::temp_dir().join(format!("netgraft-e2e-{}", std::process::id()));
        let stage = Stage { folder, jobs: AtomicU32::new(0) };
        for part in ["", "bin", "jobs"] {
            let path = stage.folder.join(part);
            io(&path, fs::create_dir(&path))?;
            io(&path, fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))?;
        }
        let mut accounts = io(Path::new("/etc/passwd"), fs::read_to_string("/etc/passwd"))?;
        accounts.push_str(&format!("guest:x:{ORDINARY_ID}:{ORDINARY_ID}:an ordinary user:/:/bin/sh\n"));
        io(&stage.folder, fs::write(stage.accounts(), accounts))?;
        let binary = netgraft_binary()?;
        io(&binary, fs::copy(&binary, stage.netgraft()))?;
        Ok(stage)
    }

    /// Where netgraft's binary is: a path of this run alone, so that a process that runs it is this run's.
    #[must_use]
    pub fn netgraft(&self) -> PathBuf {
        self.folder.join("bin/netgraft")
    }

    /// Builds the shared objects that programs are run on.
    ///
    /// # Errors
    /// When one cannot be built.
    pub fn build_objects(&self) -> Result<(), String> {
        let tree = |path: &str| in_tree("..").join(path).display().to_string();
        let relay = self.bin(Object::Relay.name()).display().to_string();
        run_tool(
            "cc",
            &["-shared", "-fPIC", "-O2", "-o", &relay, &tree("tests/plugins/level0.c"), "-pthread"],
        )?;
        let out = self.folder.join("lwip").display().to_string();
        run_tool("make", &["-s", "-C", &tree("plugins/lwip"), &format!("OUT={out}")])?;
        let example = ["-p", "netgraft-abi", "--example", "smoltcp_plugin"];
        let rust = built(&example, "examples/libsmoltcp_plugin.so")?;
        for (from, object) in
            [(PathBuf::from(out).join("libnetgraft_lwip.so"), Object::Lwip), (rust, Object::Rust)]
        {
            io(&from, fs::copy(&from, self.bin(object.name())))?;
        }
        Ok(())
    }

    /// Compiles the object of `tests/plugins/wider.c`, which asks for a system call beyond the base.
    ///
    /// # Errors
    /// What the compiler printed.
    pub fn build_wider(&self) -> Result<PathBuf, String> {
        let tree = |path: &str| in_tree("..").join(path).display().to_string();
        let (include, parts, file) =
            (tree("crates/netgraft-abi/include"), tree("tests/plugins"), self.bin("wider.so"));
        let output = file.display().to_string();
        let source = tree("tests/plugins/wider.c");
        run_tool("cc", &["-shared", "-fPIC", "-I", &include, "-I", &parts, "-o", &output, &source])?;
        Ok(file)
    }

    /// A user database in which the ordinary user has a name and a shell.
    #[must_use]
    pub fn accounts(&self) -> PathBuf {
        self.folder.join("passwd")
    }

    /// A program of the stage.
    #[must_use]
    pub fn bin(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// Where [`Self::copy_folder`] puts a folder.
    #[must_use]
    pub fn copied(&self, folder: &str) -> PathBuf {
        self.folder.join(folder.replace('/', "-"))
    }

    /// Copies a folder of `tests/` here and gives its path.
    ///
    /// # Errors
    /// When it can't be copied.
    pub fn copy_folder(&self, folder: &str) -> Result<PathBuf, String> {
        let (from, to) = (in_tree(folder), self.copied(folder));
        copy_tree(&from, &to)?;
        Ok(to)
    }

    /// Compiles the guest cases in C: with the machine's libc and, static, with musl.
    ///
    /// # Errors
    /// What the compiler printed.
    pub fn compile_c(&self) -> Result<(), String> {
        let sources = in_tree("guest/c");
        let mut files: Vec<String> = io(&sources, fs::read_dir(&sources))?
            .flatten()
            .map(|entry| entry.path().display().to_string())
            .filter(|path| path.ends_with(".c"))
            .collect();
        files.sort();
        for (compiler, name, extra) in [("cc", "guest-c", "-Werror"), ("musl-gcc", "guest-musl", "-static")] {
            let output = self.bin(name).display().to_string();
            let mut arguments =
                vec!["-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread", extra, "-o", output.as_str()];
            arguments.extend(files.iter().map(String::as_str));
            run_tool(compiler, &arguments)?;
        }
        Ok(())
    }

    /// Compiles the guest cases in Rust: linked as usual, static, and static with musl. The program has no
    /// dependencies.
    ///
    /// With musl it is the standard library of the machine's own target, and musl's libc in the place of glibc's:
    /// `tests/guest/src/glibc_names.c` has the three functions that musl lacks.
    ///
    /// # Errors
    /// What the compiler printed.
    pub fn compile_rust(&self) -> Result<(), String> {
        let source = in_tree("guest/src/main.rs");
        let (names, object) = (in_tree("guest/src/glibc_names.c"), self.folder.join("glibc_names.o"));
        run_tool(
            "musl-gcc",
            &[
                "-O2",
                "-Wall",
                "-Wextra",
                "-c",
                "-o",
                &object.display().to_string(),
                &names.display().to_string(),
            ],
        )?;
        let link_object = format!("link-arg={}", object.display());
        let musl = ["relocation-model=static", "panic=abort", "linker=musl-gcc", &link_object];
        let ways: [(&str, &str, &[&str]); 3] = [
            ("guest-rust", "-crt-static", &[]),
            ("guest-static", "+crt-static", &[]),
            ("guest-rust-musl", "+crt-static", &musl),
        ];
        for (name, feature, options) in ways {
            let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")))
                .args(["--edition", "2024", "-O", "-C", &format!("target-feature={feature}"), "-o"])
                .arg(self.bin(name))
                .args(options.iter().flat_map(|option| ["-C", option]))
                .arg(&source)
                .current_dir(in_tree("."))
                .output()
                .map_err(|error| format!("rustc: {error}"))?;
            if !output.status.success() {
                return Err(format!("rustc: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        Ok(())
    }

    /// Builds the Go program, without modules from elsewhere.
    ///
    /// # Errors
    /// When Go is missing, or what it printed.
    pub fn compile_go(&self) -> Result<(), String> {
        let go = machine::find("go")?;
        let output = Command::new(go)
            .args(["build", "-o"])
            .arg(self.bin("goweb"))
            .arg(".")
            .current_dir(in_tree("guest/go"))
            .env("GOFLAGS", "-mod=mod")
            .env("GOPROXY", "off")
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            .env("GOCACHE", self.folder.join("go-cache"))
            .env("GOPATH", self.folder.join("go-path"))
            .output()
            .map_err(|error| format!("go: {error}"))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("go build: {}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// Makes the keys of the ssh server and its user, in a folder that every user can read.
    ///
    /// # Errors
    /// When `ssh-keygen` is missing, or what it printed.
    pub fn make_keys(&self) -> Result<PathBuf, String> {
        let folder = self.folder.join("keys");
        io(&folder, fs::create_dir(&folder))?;
        io(&folder, fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)))?;
        let keygen = machine::find("ssh-keygen")?.display().to_string();
        for name in ["host", "user"] {
            let key = folder.join(name);
            run_tool(&keygen, &["-q", "-t", "ed25519", "-N", "", "-f", &key.display().to_string()])?;
            io(&key, fs::set_permissions(&key, fs::Permissions::from_mode(0o644)))?;
        }
        Ok(folder)
    }

    /// A scratch folder for one job in one column.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn scratch(&self, column: Column) -> Result<Scratch, String> {
        let number = self.jobs.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join("jobs").join(number.to_string());
        let scratch =
            Scratch { mark: format!("{}-{number}", std::process::id()), folder, variables: BTreeMap::new() };
        io(&scratch.folder, fs::create_dir(&scratch.folder))?;
        for path in [scratch.work(), scratch.temporary()] {
            io(&path, fs::create_dir(&path))?;
            io(&path, chown(&path, Some(column.owner()), Some(column.owner())))?;
        }
        Ok(scratch)
    }

    /// Asserts that nobody runs netgraft any more, and removes the folder.
    ///
    /// # Errors
    /// Names the processes that still run it.
    pub fn finish(self) -> Result<(), String> {
        leaks::nobody_runs(&self.netgraft())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("{} could not be removed: {error}", self.folder.display());
        }
    }
}

/// The folder of one job: `work`, where it runs, and `tmp`, which must be empty when it has ended.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    mark: String,
    variables: BTreeMap<String, String>,
}

impl Scratch {
    /// The folder itself, which has the logs.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Where the job runs and may leave files.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// The job's folder for temporary files.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    /// What its processes carry in their environment.
    #[must_use]
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Sets a variable of the job's programs.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.variables.insert(name.to_owned(), value.to_string());
    }

    /// The variables of the job's programs.
    #[must_use]
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// Asserts that nothing is left of the job, and removes the folder.
    ///
    /// # Errors
    /// Names the processes and the files that were left.
    pub fn finish(self) -> Result<(), String> {
        leaks::no_processes(&self.mark)?;
        leaks::empty_folder(&self.temporary())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A job that failed half-way may have left processes; the ids are its own.
        let _reported_by_finish = leaks::no_processes(&self.mark);
        let _removed_with_the_stage = fs::remove_dir_all(&self.folder);
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), String> {
    io(to, fs::create_dir_all(to))?;
    io(to, fs::set_permissions(to, fs::Permissions::from_mode(0o755)))?;
    for entry in io(from, fs::read_dir(from))?.flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            io(&source, fs::copy(&source, &target))?;
            io(&target, fs::set_permissions(&target, fs::Permissions::from_mode(0o755)))?;
        }
    }
    Ok(())
}

/// The binary under test: `NETGRAFT_BIN`, or a release build, made now if it is not up to date.
fn netgraft_binary() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("NETGRAFT_BIN") {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("NETGRAFT_BIN: no file {}", path.display()))
        };
    }
    built(&["-p", "netgraft"], "netgraft")
}

/// Builds something of the workspace, for release, and gives its path in the target folder.
fn built(what: &[&str], file: &str) -> Result<PathBuf, String> {
    // This test's own executable is TARGET/PROFILE/deps/NAME.
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = this.ancestors().nth(3).ok_or("this test is in no target folder")?;
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
        .args(["build", "--release", "--locked", "--offline"])
        .args(what)
        .arg("--target-dir")
        .arg(target)
        .current_dir(in_tree(".."))
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("{file} could not be built: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(target.join("release").join(file))
}

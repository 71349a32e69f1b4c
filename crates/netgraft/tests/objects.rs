//! Shared objects that are no stacks, hang, or leave processes behind, for each command that takes one: an end with
//! the right status, one line, and nothing that stays.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long is waited for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(120);

fn place(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("objects");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// Compiles C, as an object's author would.
fn compile(name: &str, code: &str, flags: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (source, object) = (place(&format!("{name}.c")), place(name));
    fs::write(&source, code).unwrap();
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-I"])
        .arg(root.join("crates/netgraft-abi/include"))
        .arg("-I")
        .arg(root.join("tests/plugins"))
        .args(flags)
        .arg("-o")
        .arg(&object)
        .arg(&source)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    object
}

/// The object of `tests/plugins/hostile.c`.
fn hostile(name: &str, flags: &[&str]) -> PathBuf {
    compile(name, "#include \"hostile.c\"\n", flags)
}

/// One netgraft, whose processes are known by a word in their environment.
struct Marked {
    word: String,
    /// What the object makes when it is where it hangs.
    here: PathBuf,
}

impl Marked {
    fn new(name: &str) -> Marked {
        let here = place(&format!("{name}.here"));
        let _ = fs::remove_file(&here);
        Marked { word: format!("NETGRAFT_TEST_OBJECT={name}.{}", std::process::id()), here }
    }

    fn command(&self, args: &[&str]) -> Command {
        let (key, value) = self.word.split_once('=').unwrap();
        // Whoever runs the tests may ignore the signals that they send.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT,TERM,HUP").arg(env!("CARGO_BIN_EXE_netgraft")).args(args);
        command.env(key, value).env("HOSTILE_IS_HERE", &self.here).stdin(Stdio::null());
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Starts it, and waits until the object hangs.
    fn hanging(&self, args: &[&str]) -> Child {
        let child = self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("the object's call", || self.here.exists() || self.has_marked());
        child
    }

    /// Whether the object hangs where there are no files.
    fn has_marked(&self) -> bool {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let mut environments =
            entries.map(|entry| fs::read(entry.path().join("environ")).unwrap_or_default());
        let mark = format!("HOSTILE_IS_HERE=!{}", &self.here.to_str().unwrap()[1..]);
        environments.any(|text| {
            let mut words = text.split(|byte| *byte == 0);
            words.clone().any(|word| word == self.word.as_bytes())
                && words.any(|word| word == mark.as_bytes())
        })
    }

    /// The processes that are left.
    fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let marked = entries.filter(|entry| {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|word| word == self.word.as_bytes())
        });
        marked.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn leaves_nothing(&self) {
        until("the end of all processes", || self.processes().is_empty());
        let _ = fs::remove_file(&self.here);
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        sleep(Duration::from_millis(20));
    }
}

fn kill(pid: u32, signal: &str) {
    assert!(Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap().success());
}

/// The commands that take an object, with its place.
fn commands(object: &str) -> [Vec<&str>; 3] {
    [
        vec!["run", "--network", "plugin", "--plugin", object, "--", "true"],
        vec!["stacks", object],
        vec!["check", object],
    ]
}

#[test]
fn what_is_no_stack_is_one_line_for_every_command() {
    let good = fs::read(compile("good.so", "#define LOOP_AS_A_PART\n#include \"loop.c\"\n", &[])).unwrap();
    let written = |name: &str, bytes: &[u8]| {
        fs::write(place(name), bytes).unwrap();
        place(name)
    };
    let mut foreign = good.clone();
    foreign[18] = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
    let with_table = |name: &str, change: &str| {
        let code = format!(
            "#define LOOP_AS_A_PART\n#include \"loop.c\"\nstatic struct netgraft_stack_v1 t;\n\
             __attribute__((visibility(\"default\"))) const struct netgraft_stack_v1 *netgraft_stack(uint32_t v) \
             {{ (void)v; t = LOOP; {change}; return &t; }}"
        );
        compile(name, &code, &[])
    };
    let loose = "int nowhere(void); int plugin_initstack(void) { return nowhere(); }";
    for (name, object, told) in [
        ("missing", place("missing.so"), "cannot be read: No such file"),
        ("text", written("text.so", b"int main;"), "is not a shared object: it is no ELF file"),
        ("foreign", written("foreign.so", &foreign), "is built for "),
        (
            "cut",
            written("cut.so", &good[..3000]),
            "is cut off: the file has 3000 bytes, and its headers speak of ",
        ),
        ("empty", compile("empty.so", "int x;", &[]), "has no entry point: it exports neither "),
        ("future", with_table("future.so", "t.version = 2u << 16"), "speaks version 2.0 of the interface"),
        ("short", with_table("short.so", "t.size = 64"), "has a table of 64 bytes that lacks "),
        ("loose", compile("loose.so", loose, &[]), "cannot be linked: "),
        (
            "segfault",
            hostile("segfault.so", &["-DCONSTRUCTOR=segfault"]),
            "died of SIGSEGV in its constructors",
        ),
        ("hang", hostile("exits.so", &["-DCONSTRUCTOR=exit"]), "exited with status 0 in its constructors"),
    ] {
        let path = object.to_str().unwrap();
        for args in commands(path) {
            let marked = Marked::new(name);
            let ran = marked.output(&args);
            let stderr = String::from_utf8(ran.stderr).unwrap();
            assert_eq!(ran.status.code(), Some(125), "{args:?}: {stderr}");
            assert!(stderr.starts_with(&format!("netgraft: {path}: {told}")), "{args:?}: {stderr}");
            assert_eq!((stderr.lines().count(), ran.stdout.len()), (1, 0), "{args:?}: {stderr}");
            marked.leaves_nothing();
        }
    }
}

#[test]
fn what_an_object_forks_ends_with_its_command() {
    for deed in ["stay", "depart"] {
        let flag = format!("-DCONSTRUCTOR={deed}");
        let object = hostile(&format!("{deed}.so"), &[&flag]);
        let path = object.to_str().unwrap();
        for args in commands(path) {
            let marked = Marked::new(deed);
            let ran = marked.output(&args);
            // It is confined wherever it is linked: it may not fork.
            let told = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(ran.status.code(), Some(125), "{args:?}: {told}");
            assert!(
                told.contains("died of SIGSYS (a system call that is not allowed) in its constructors"),
                "{told}"
            );
            marked.leaves_nothing();
        }
    }
    // A pre-init that is trusted has the rights of whoever calls it, and what it leaves behind may be what the stack stands on.
    let object = hostile("leaver.so", &[]);
    for deed in ["pre_init:stay", "pre_init:depart"] {
        let marked = Marked::new("leaver");
        let path = object.to_str().unwrap();
        let args = [
            "run",
            "--network",
            "plugin",
            "--plugin",
            path,
            "--plugin-arg",
            deed,
            "--trust-pre-init",
            "--",
            "sh",
            "-c",
            "exit 7",
        ];
        let ran = marked.output(&args);
        assert_eq!(ran.status.code(), Some(7), "{deed}: {}", String::from_utf8_lossy(&ran.stderr));
        marked.leaves_nothing();
        let ran = marked.output(&[
            "check",
            path,
            "--trust-pre-init",
            "--plugin-arg",
            deed,
            "--filter",
            "create/a fresh",
        ]);
        assert_eq!(ran.status.code(), Some(0), "{deed}: {}", String::from_utf8_lossy(&ran.stdout));
        marked.leaves_nothing();
    }
}

#[test]
fn a_signal_ends_what_hangs_at_once() {
    let object = hostile("hanging.so", &[]);
    let path = object.to_str().unwrap();
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        for args in [
            &["run", "--network", "plugin", "--plugin", path, "--plugin-arg", "pre_init:hang", "--", "true"]
                [..],
            &["run", "--network", "plugin", "--plugin", path, "--plugin-arg", "create:spin", "--", "true"],
            &["check", path, "--plugin-arg", "create:hang"],
            &["check", path, "--plugin-arg", "socket:spin"],
        ] {
            let marked = Marked::new("signal");
            let mut child = marked.hanging(args);
            kill(child.id(), signal);
            let end = child.wait().unwrap();
            assert_eq!(marked.processes(), Vec::<String>::new(), "{signal} {args:?}");
            assert_eq!(end.code(), Some(status), "{signal} {args:?}");
            marked.leaves_nothing();
        }
    }
}

#[test]
fn a_killed_command_leaves_nothing_that_hangs() {
    let object = hostile("killed.so", &[]);
    let constructor = hostile("constructor.so", &["-DCONSTRUCTOR=spin"]);
    let (path, constructor) = (object.to_str().unwrap(), constructor.to_str().unwrap());
    for args in [
        &["run", "--network", "plugin", "--plugin", path, "--plugin-arg", "pre_init:hang", "--", "true"][..],
        &["check", path, "--plugin-arg", "create:hang"],
        &["check", path, "--plugin-arg", "socket:spin"],
        &["stacks", constructor],
    ] {
        let marked = Marked::new("killed");
        let mut child = marked.hanging(args);
        kill(child.id(), "KILL");
        child.wait().unwrap();
        marked.leaves_nothing();
    }
}

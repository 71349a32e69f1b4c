//! Real programs of agents and builds under `--untrusted`: what it takes away is not what they need. As root they have ids that
//! are named, to which their folder belongs; as an ordinary user the folder is that user's.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NOBODY: u32 = 65534;
const IDS: u32 = 1_200_000;

/// A program, what it runs in the folder at `/mnt`, and the last line that it prints.
const PROGRAMS: &[(&str, &str, &str)] = &[
    (
        "pip",
        "python3 -m venv /tmp/venv && /tmp/venv/bin/pip install -q --no-index --no-build-isolation ./package && \
         /tmp/venv/bin/python -m hello",
        "hello of the package",
    ),
    (
        "git",
        "git clone -q --bare repository /tmp/clone && git clone -q /tmp/clone copy && \
         git -C copy -c user.name=a -c user.email=a@b commit -q --allow-empty -m second && git -C copy push -q && \
         git -C /tmp/clone log --format=%s --all -1",
        "second",
    ),
    ("node", "node server.js", "answered by node"),
    ("go", "cd module && go build -o ../program . && ../program", "answered by go"),
    ("make", "make -s && ./made", "made"),
];

const FILES: &[(&str, &str)] = &[
    (
        "package/setup.py",
        "from setuptools import setup\nsetup(name='hello', version='1', py_modules=['hello'])\n",
    ),
    ("package/hello.py", "print('hello of the package')\n"),
    (
        "server.js",
        "const http = require('http');\n\
         const server = http.createServer((_, answer) => answer.end('answered by node\\n')).listen(0, '127.0.0.1', () =>\n\
         http.get({ port: server.address().port }, (got) => got.pipe(process.stdout).on('close', () => 0) && got.on('end', () => server.close())));\n",
    ),
    ("module/go.mod", "module example.com/hello\n\ngo 1.19\n"),
    (
        "module/main.go",
        "package main\n\nimport (\n\t\"io\"\n\t\"net\"\n\t\"os\"\n)\n\nfunc main() {\n\
         \tserver, _ := net.Listen(\"tcp\", \"127.0.0.1:0\")\n\
         \tgo func() {\n\t\tconnection, _ := server.Accept()\n\t\tconnection.Write([]byte(\"answered by go\\n\"))\n\t\tconnection.Close()\n\t}()\n\
         \tconnection, _ := net.Dial(\"tcp\", server.Addr().String())\n\tio.Copy(os.Stdout, connection)\n}\n",
    ),
    ("main.c", "#include <stdio.h>\nint main(void) { return puts(\"made\") < 0; }\n"),
    ("Makefile", "made: main.c\n\tcc -o made main.c\n"),
];

/// The folder, of this user.
fn folder(owner: u32) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("netgraft-untrusted-{owner}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    common::remove_at_exit(&folder);
    for (name, text) in FILES {
        let place = folder.join(name);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, text).unwrap();
    }
    let git = "git init -q repository && cd repository && \
               git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first";
    let made = Command::new("sh").args(["-c", git]).current_dir(&folder).status().unwrap();
    assert!(made.success());
    let mut all = vec![folder.clone()];
    while let Some(place) = all.pop() {
        chown(&place, Some(owner), Some(owner)).unwrap();
        if place.is_dir() {
            all.extend(fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    folder
}

fn run(binary: &Path, folder: &Path, options: &[String], user: u32) {
    for (name, script, last) in PROGRAMS {
        let mut command = Command::new(binary);
        command.args(["run", "--untrusted", "--workdir", "/mnt"]).args(options);
        command.arg("--bind").arg(format!("{}:/mnt", folder.display())).args(["--", "sh", "-c", script]);
        command.current_dir("/").env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        if user != 0 {
            command.uid(user).gid(user);
        }
        let got = command.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&got.stdout), String::from_utf8_lossy(&got.stderr));
        assert!(got.status.success() && out.lines().last() == Some(last), "{name} as {user}: {out}{err}");
    }
}

#[test]
fn programs_of_builds_and_agents_do_their_work() {
    let is_root = fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    assert!(is_root, "this test gives files to other users: run it as root");
    let place = std::env::temp_dir().join(format!("netgraft-untrusted-{}", std::process::id()));
    fs::create_dir_all(&place).unwrap();
    common::remove_at_exit(&place);
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    let binary = place.join("netgraft");
    fs::copy(env!("CARGO_BIN_EXE_netgraft"), &binary).unwrap();
    run(&binary, &folder(IDS), &["--ids".to_owned(), IDS.to_string()], 0);
    run(&binary, &folder(NOBODY), &[], NOBODY);
}

"""The test suites of others that scripts/compat runs: where each comes from, its tests, and how one says what it did.

A suite is prepared once, into a folder below target/, and yields groups: tests that one command runs one after the
other. A group says how its output names the test that begins and the one that has ended.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

HERE = Path(__file__).resolve().parent
# The interpreter that libpython3-testsuite belongs to, whatever else the machine has.
PYTHON = "/usr/bin/python3"


@dataclass
class Group:
    """Tests of one command."""

    prefix: str
    tests: list[str]
    command: Callable[[list[str], Path], list[str]]
    folder: Path
    # The test that begins, in the output; nothing where a group is one test and its exit status says how it ended.
    begins: re.Pattern | None = None
    # The test that has ended, and the word for how.
    ends: re.Pattern | None = None
    words: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    # A question and its answer: what is asked everywhere, and compared with what the kernel says.
    answers: re.Pattern | None = None


class Unavailable(Exception):
    """A suite that this machine cannot run, and what to install."""


def say_and_run(words, folder, limit=1500, **more):
    ended = subprocess.run([str(w) for w in words], cwd=folder, text=True, capture_output=True, timeout=limit, **more)
    if ended.returncode != 0:
        raise Unavailable(f"{' '.join(map(str, words[:4]))}: {(ended.stderr or ended.stdout).strip()[-400:]}")
    return ended.stdout


# CPython: Debian's libpython3-testsuite, of the interpreter that Debian has.
CPYTHON = [
    "test_socket", "test_asyncio", "test_select", "test_selectors", "test_ssl", "test_httplib", "test_socketserver",
    "test_ftplib", "test_smtplib", "test_poplib", "test_imaplib", "test_telnetlib", "test_asyncore", "test_xmlrpc",
    "test_epoll", "test_poll", "test_httpservers", "test_urllib2_localnet", "test_robotparser",
]  # fmt: skip


def cpython(module):
    def groups(work):
        script = HERE / "python_suite.py"
        listed = say_and_run([PYTHON, script, "list", module], work)
        names = [line for line in listed.splitlines() if re.match(r"^(test|unittest)\.", line)]

        def command(tests, scratch):
            wanted = scratch / "wanted"
            wanted.write_text("\n".join(tests))
            return [PYTHON, str(script), "run", module, str(wanted)]

        return [
            Group(
                "", names, command, work,
                begins=re.compile(r"^@start (\S+)$", re.M),
                ends=re.compile(r"^@(pass|fail|skip) (\S+)$", re.M),
                words={"pass": "pass", "fail": "fail", "skip": "skip"},
            )
        ]  # fmt: skip

    return groups


# Tests that only build something, for longer than a test may say nothing.
BUILDS = {"TestOmitHTTP2Vet"}


def go(package):
    def groups(work):
        root = Path(say_and_run(["go", "env", "GOROOT"], work).strip())
        folder = root / "src" / package
        if not list(folder.glob("*_test.go")):
            raise Unavailable(f"{folder} has no tests: install golang-src")
        binary = work / f"{package.replace('/', '_')}.test"
        say_and_run(["go", "test", "-c", "-o", binary, package], work)
        names = [line for line in say_and_run([binary, "-test.list", "^Test"], folder).splitlines() if line.startswith("Test") and line not in BUILDS]

        def command(tests, _):
            return [str(binary), "-test.v", "-test.short", "-test.parallel=1", "-test.run", f"^({'|'.join(tests)})$"]

        return [
            Group(
                "", names, command, folder,
                begins=re.compile(r"^=== (?:RUN|CONT)   (Test[^/\s]+)$", re.M),
                ends=re.compile(r"^--- (PASS|FAIL|SKIP): (\S+) ", re.M),
                words={"PASS": "pass", "FAIL": "fail", "SKIP": "skip"},
            )
        ]  # fmt: skip

    return groups


# Crates whose package on crates.io brings its tests (those of mio and socket2 do not), and which of them are about
# sockets.
CRATES = {
    "tokio": ("1.54.1", ["--features", "full"], r"^(tcp_|udp|uds_|unix_|io_async_fd|io_copy_bidirectional|io_driver|net_)", r"windows|named_pipe"),
    "polling": ("3.11.0", [], r"", r"windows|precision"),
    "async-io": ("2.6.0", [], r"^async$", r"^$"),
    "quinn-udp": ("0.6.3", [], r"", r"^$"),
}


def crate(name):
    def groups(work):
        version, features, wanted, unwanted = CRATES[name]
        folder = work / f"{name}-{version}"
        if not folder.exists():
            # What cargo has fetched for a package of ours that depends on it is the source that is built.
            asks = work / f"asks-{name}"
            (asks / "src").mkdir(parents=True, exist_ok=True)
            (asks / "src/lib.rs").write_text("")
            (asks / "Cargo.toml").write_text(
                f'[package]\nname = "asks"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\n{name} = "={version}"\n[workspace]\n'
            )
            say_and_run(["cargo", "fetch"], asks)
            data = json.loads(say_and_run(["cargo", "metadata", "--format-version", "1"], asks))
            source = next(p["manifest_path"] for p in data["packages"] if p["name"] == name)
            shutil.copytree(Path(source).parent, folder)
            with open(folder / "Cargo.toml", "a", encoding="utf-8") as manifest:
                manifest.write("\n[workspace]\n")
        tests = [
            path.stem
            for path in sorted((folder / "tests").glob("*.rs"))
            if re.search(wanted, path.stem) and not re.search(unwanted, path.stem)
        ]
        words = [word for test in tests for word in ("--test", test)]
        environment = dict(os.environ, CARGO_TARGET_DIR=str(work / "rust"), CARGO_PROFILE_DEV_DEBUG="0", CARGO_PROFILE_TEST_DEBUG="0")
        told = say_and_run(
            ["nice", "cargo", "test", "--no-run", "--message-format=json", *features, *words], folder, env=environment
        )
        found = []
        for line in told.splitlines():
            message = json.loads(line)
            if message.get("reason") == "compiler-artifact" and message.get("executable") and message["target"]["name"] in tests:
                found.append((message["target"]["name"], message["executable"]))
        made = []
        for test, binary in sorted(found):
            listed = say_and_run([binary, "--list", "--format", "terse"], folder)
            names = [line[: -len(": test")] for line in listed.splitlines() if line.endswith(": test")]
            if not names:
                continue

            def command(tests, _, binary=binary):
                return [binary, "--test-threads=1", "--exact", *tests]

            made.append(
                Group(
                    f"{test}::", names, command, folder,
                    begins=re.compile(r"^test (\S+)(?: - should panic)? \.\.\. ", re.M),
                    ends=re.compile(r"^test (?P<name>\S+)(?: - should panic)? \.\.\. (?:.*\n)*?(?P<word>ok|FAILED|ignored)\b", re.M),
                    words={"ok": "pass", "FAILED": "fail", "ignored": "skip"},
                )
            )  # fmt: skip
        return made

    return groups


def debian_source(package, work):
    """The source of a Debian package, unpacked below `work`. The machine's own lists of packages stay as they are."""
    found = list(work.glob(f"{package}-*/"))
    if found:
        return found[0]
    folder = work / "apt"
    (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
    (folder / "sources.list").write_text("deb-src http://deb.debian.org/debian bookworm main\n")
    options = ["-o", f"Dir::Etc::sourcelist={folder}/sources.list", "-o", "Dir::Etc::sourceparts=/dev/null",
               "-o", f"Dir::State::lists={folder}/lists"]  # fmt: skip
    say_and_run(["apt-get", *options, "update", "-q"], work)
    say_and_run(["apt-get", *options, "source", "--download-only", "-q", package], work)
    archive = next(p for p in work.glob(f"{package}_*.orig.tar.*") if not p.name.endswith(".asc"))
    version = archive.name.split("_")[1].split(".orig")[0]
    into = work / f"{package}-{version}"
    into.mkdir()
    say_and_run(["tar", "xf", archive, "-C", into, "--strip-components=1"], work)
    return into


def files(package, patterns, command):
    """A suite whose tests are files that say by their exit status how they ended."""

    def groups(work):
        source = debian_source(package, work)
        paths = sorted(path for pattern in patterns for path in source.glob(pattern))
        if not paths:
            raise Unavailable(f"the source of {package} has no {patterns}")
        return [
            Group("", [path.stem], lambda _tests, _scratch, path=path: command(source, path), path.parent.parent)
            for path in paths
        ]

    return groups


def perl(_source, path):
    return ["/usr/bin/perl", "-I", "t/lib", str(path)]


def node(_source, path):
    flags = re.search(r"^// Flags: (.*)$", path.read_text(encoding="utf-8", errors="replace"), re.M)
    return ["node", *(flags.group(1).split() if flags else []), str(path)]


def ruby(work):
    source = debian_source("ruby3.1", work)
    made = []
    for path in sorted((source / "test/socket").glob("test_*.rb")):
        names = re.findall(r"^\s*def (test_\w+)", path.read_text(encoding="utf-8"), re.M)

        def command(tests, _, path=path):
            return ["ruby", "test/runner.rb", "-v", "-n", f"/^({'|'.join(tests)})$/", str(path)]

        made.append(
            Group(
                f"{path.stem}::", sorted(set(names)), command, source,
                begins=re.compile(r"^(?:\[ *\d+/\d+\] )?\S+#(test_\w+)", re.M),
                ends=re.compile(r"^(?:\[ *\d+/\d+\] )?\S+#(?P<name>test_\w+) = [\d.]+ s = (?P<word>[.FES])", re.M),
                words={".": "pass", "F": "fail", "E": "fail", "S": "skip"},
            )
        )  # fmt: skip
    return made


def options(work):
    """Every question of options_probe.py is a test: it passes where the answer is the one that the kernel gives."""

    def command(tests, _):
        return [PYTHON, str(HERE / "options_probe.py")]

    return [Group("", ["all"], command, work, answers=re.compile(r"^(\w+ \w+ [^\t\n]+)\t(.*)$", re.M))]


# The suite whose answers are compared with the kernel's.
OPTIONS = "Socket options"

SUITES = {
    OPTIONS: options,
    **{f"CPython {module}": cpython(module) for module in CPYTHON},
    "Go net": go("net"),
    "Go net/http": go("net/http"),
    **{f"Rust {name}": crate(name) for name in CRATES},
    "Perl IO": files("perl", ["dist/IO/t/*sock*.t", "dist/IO/t/io_udp.t", "dist/IO/t/io_multihomed.t", "dist/IO/t/io_sel.t", "dist/IO/t/io_poll.t"], perl),
    "Perl Socket": files("perl", ["cpan/Socket/t/*.t", "cpan/IO-Socket-IP/t/*.t"], perl),
    "Ruby socket": ruby,
    "node net, dgram, http": files("nodejs", ["test/parallel/test-net-*.js", "test/parallel/test-dgram-*.js", "test/parallel/test-http-*.js"], node),
}

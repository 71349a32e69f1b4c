"""Runs a group of tests in a column, in bounded time, whatever the tests do."""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

# A test that says nothing for so long is one that hangs: it is ended, and the ones behind it are run.
STALL = 40.0
# A suite may take so long in one column; what is left then is "late", which counts as no pass.
LIMIT = 420.0
AT_MOST_RESTARTS = 25


def columns(netgraft, lwip):
    """Each column's name, and the words before a program's. All are run in a network namespace with a loopback."""
    run = [netgraft, "run", "--host-ids"]
    return {
        "native": [],
        "sandbox": [*run, "--network", "sandbox", "--"],
        "sandbox, not joined": [*run, "--network", "sandbox", "--join", "never", "--"],
        "host": [*run, "--network", "host", "--"],
        "lwIP": [*run, "--network", "plugin", "--plugin", lwip, "--join", "never", "--"],
    }


class Bounded:
    """How long a suite may still take in a column."""

    def __init__(self):
        self.end = time.monotonic() + LIMIT

    def left(self):
        return self.end - time.monotonic()


def attempt(group, tests, prefix, log, bounded):
    """One process: how its tests ended, the test in which it stood still, and the output."""
    scratch = Path(tempfile.mkdtemp(prefix="compat-"))
    try:
        inner = prefix + group.command(tests, scratch)
        words = ["unshare", "--net", "--kill-child", "--fork", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *inner]
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(scratch),
            "TMPDIR": str(scratch), "LANG": "C.UTF-8", "USER": "root", "PERL_CORE": "0", **group.environment,
        }  # fmt: skip
        with tempfile.TemporaryFile() as output:
            child = subprocess.Popen(
                words, cwd=group.folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
            size, since, stalled = 0, time.monotonic(), False
            while child.poll() is None:
                time.sleep(0.05)
                grown = os.fstat(output.fileno()).st_size
                if grown != size:
                    size, since = grown, time.monotonic()
                if time.monotonic() - since > STALL or bounded.left() < 0:
                    stalled = True
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            output.seek(0)
            text = output.read(64 << 20).decode(errors="replace")
    finally:
        subprocess.run(["rm", "-rf", str(scratch)], check=False)
    log.write(f"\n$ {' '.join(words)[:300]}\n{text}\n")
    return text, child.returncode, stalled


def finished(group, text):
    ended = {}
    for match in group.ends.finditer(text):
        named = match.groupdict()
        word, name = (named["word"], named["name"]) if named else match.groups()
        ended[name] = group.words[word]
    return ended


def run(group, prefix, log, bounded):
    """How each test of a group ended: pass, fail, skip, hang, crash or late."""
    if group.answers is not None:
        text, _, _ = attempt(group, group.tests, prefix, log, bounded)
        return {question: answer for question, answer in group.answers.findall(text)}
    if group.begins is None:
        if bounded.left() < 0:
            return {group.tests[0]: "late"}
        text, status, stalled = attempt(group, group.tests, prefix, log, bounded)
        verdict = "hang" if stalled else "pass" if status == 0 and "\nnot ok" not in text else "fail"
        if verdict == "pass" and ("1..0 # skip" in text.lower() or "1..0 # Skipped" in text):
            verdict = "skip"
        return {group.tests[0]: verdict}
    results = {}
    left = list(group.tests)
    for _ in range(AT_MOST_RESTARTS):
        if not left or bounded.left() < 0:
            break
        text, _, stalled = attempt(group, left, prefix, log, bounded)
        ended = finished(group, text)
        known = set(left)
        results.update({name: verdict for name, verdict in ended.items() if name in known})
        begun = [name for name in group.begins.findall(text) if name in known and name not in ended]
        left = [name for name in left if name not in ended]
        if not begun:
            # Nothing stood still: what is left said nothing, such as a class that could not be set up.
            results.update({name: "late" if bounded.left() < 0 else "fail" for name in left})
            left = []
        elif bounded.left() >= 0:
            results[begun[-1]] = "hang" if stalled else "crash"
            left.remove(begun[-1])
    results.update({name: "late" for name in left})
    return {group.prefix + name: verdict for name, verdict in results.items()}

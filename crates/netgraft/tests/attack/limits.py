"""A program forks and takes memory without end, under limits.

Usage: limits.py PATH-OF-NETGRAFT
"""

import glob
import os
import subprocess
import sys

NETGRAFT = sys.argv[1]

FORK = r"""
import os, time
made = 0
try:
    while made < 500:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except OSError as e:
    print(made, e.errno)
"""
FILL = r"""
data = []
for _ in range(400):
    data.append(bytearray(b"x") * (1 << 20))
print('filled')
"""


def run(*options):
    return subprocess.run(
        [NETGRAFT, "run", "--network", "none", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120
    )


def groups():
    return glob.glob("/sys/fs/cgroup/**/netgraft-*", recursive=True)


def check(ok, what):
    if not ok:
        sys.exit(f"{what}")


def main():
    if os.geteuid() != 0:
        # Where no group is delegated, one line says so and the program is not started.
        got = run("--pids", "20", "--", "sh", "-c", "echo started")
        if got.returncode != 0:
            check(got.returncode == 125 and "no control group to limit pids" in got.stderr and not got.stdout, got)
        return
    before = groups()
    fork = run("--pids", "20", "--", "python3", "-c", FORK)
    made, errno = fork.stdout.split()
    check(10 <= int(made) < 20 and errno == "11", fork)
    fill = run("--memory", "100M", "--", "python3", "-c", FILL)
    check(fill.returncode == 137 and "filled" not in fill.stdout, fill)
    check("filled" in run("--memory", "2G", "--", "python3", "-c", FILL).stdout, "with enough memory it is filled")
    # The limit holds for what it starts, too, and the group is the program's to see and not to leave.
    left = run("--memory", "100M", "--", "sh", "-c", "python3 -c \"$1\" & wait $!; echo $?", "sh", FILL)
    check(left.stdout == "137\n", left)
    spin = "import time; a = time.monotonic(); c = time.process_time()\nwhile time.monotonic() - a < 2: pass\nprint(time.process_time() - c)"
    busy = run("--cpus", "0.1", "--", "python3", "-c", spin)
    check(float(busy.stdout) < 1, busy)
    check(groups() == before, f"groups are left: {groups()}")


main()
print("done")

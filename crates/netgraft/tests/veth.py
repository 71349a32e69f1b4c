"""Runs in a network namespace of its own: netgraft (argv[1]) on an object with a link (argv[2])."""
import os
import signal
import subprocess
import sys
import time

NETGRAFT, OBJECT, TURN = sys.argv[1:]
PROGRAM = "import socket, sys; print([n for _, n in socket.if_nameindex()], flush=True); sys.stdin.read(); sys.exit(9)"


def start(on_crash="fail"):
    return subprocess.Popen(
        [NETGRAFT, "run", "--network", "plugin", "--plugin", OBJECT, "--trust-pre-init", "--on-crash", on_crash, "--link", "veth:ngv0",
         "--address", "192.0.2.2/24", "--gateway", "192.0.2.1", "--", "python3", "-c", PROGRAM],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ping(address="192.0.2.2", wait="5"):
    done = subprocess.run(["ping", "-c", "1", "-W", wait, address], capture_output=True, text=True)
    return done.returncode == 0


def devices():
    return [
        line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]


def until_gone():
    # The kernel takes a namespace down in its own time.
    for _ in range(400):
        if "ngv0" not in devices():
            return True
        time.sleep(0.05)
    return False


def sentry_of(launcher):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = open(f"/proc/{pid}/status").read()
        except OSError:
            continue
        if f"\nPPid:\t{launcher}\n" in status and "netgraft-sentry" in status:
            return int(pid)


run = start("restart" if TURN == "sentry" else "fail")
seen = run.stdout.readline().strip()
print("program sees", seen)
# The end of the caller's is up; it is given an address as a TAP device is.
subprocess.run(["ip", "addr", "add", "192.0.2.1/24", "dev", "ngv0"], check=True)
print("ping", ping())
# The kernel of the stack's namespace has no address there, and does not answer for others.
print("other", ping("192.0.2.3", "1"))
if TURN == "end":
    run.stdin.close()
    print("status", run.wait())
    # Removed before the launcher ends.
    print("gone", "ngv0" not in devices())
elif TURN == "launcher":
    run.send_signal(signal.SIGKILL)
    run.wait()
    print("gone", until_gone())
elif TURN == "sentry":
    os.kill(sentry_of(run.pid), signal.SIGKILL)
    # A fresh one has the same socket.
    print("again", any(ping(wait="1") for _ in range(60)))
    run.stdin.close()
    print("status", run.wait())
    print("gone", "ngv0" not in devices())

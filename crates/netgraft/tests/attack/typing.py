"""A program tries to type into the terminal of who started it, and with --pty at a terminal of its own.

Usage: typing.py PATH-OF-NETGRAFT NETWORK
"""

import errno
import os
import pty
import select
import struct
import subprocess
import sys
import time

NETGRAFT, NETWORK = sys.argv[1], sys.argv[2]

# Types a line with TIOCSTI (0x5412), and pastes with TIOCLINUX (0x541c), also with bits that the kernel does not look at.
ATTACK = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
said = []
for request in (0x5412, 0x541c, 0x100005412):
    for byte in b"id\n":
        buffer = ctypes.create_string_buffer(bytes([byte]))
        said.append(0 if libc.ioctl(0, request, buffer) == 0 else ctypes.get_errno())
print("said", *sorted(set(said)), flush=True)
"""


def at_terminal(command, typed=b"", columns=0):
    """What a command shows at a terminal, and what waits in the terminal's input afterwards."""
    pid, fd = pty.fork()
    if pid == 0:
        # Stays behind the command, as an operator's shell does.
        if columns:
            import fcntl, termios
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 20, columns, 0, 0))
        status = subprocess.run(command).returncode
        ready = select.select([0], [], [], 0.2)[0]
        left = os.read(0, 100) if ready else b""
        print(f"left {left!r} status {status}", flush=True)
        os._exit(0)
    os.write(fd, typed)
    text, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            got = os.read(fd, 4096)
        except OSError:
            break
        if not got:
            break
        text += got
    os.close(fd)
    os.waitpid(pid, 0)
    return text.decode()


def check(ok, text):
    if not ok:
        sys.exit(f"{text!r}")


def run(*options):
    return [NETGRAFT, "run", "--network", NETWORK, *options, "--"]


def main():
    attack = ["python3", "-c", ATTACK]
    # The kernel allows it to root, and to all where dev.tty.legacy_tiocsti is 1: then the attack is seen to work without netgraft.
    with open("/proc/sys/dev/tty/legacy_tiocsti") as file:
        legacy = file.read().strip() == "1"
    native = at_terminal(attack)
    check(("left b'id\\n'" in native) == (legacy or os.geteuid() == 0), native)
    got = at_terminal(run() + attack)
    check(f"said {errno.EPERM}\r\n" in got and "left b'' status 0" in got, got)

    # A terminal of its own: its session, size and keys, and nothing of the operator's.
    got = at_terminal(run("--pty") + attack)
    check(f"said {errno.EPERM}\r\n" in got and "left b'' status 0" in got, got)
    looks = (
        "import os; print('tty', os.ttyname(0), os.ttyname(2), 'size', os.get_terminal_size().columns,"
        " 'leads', os.getsid(0) == os.getpid(), 'front', os.tcgetpgrp(0) == os.getpgrp(),"
        " 'others', len(os.listdir('/dev/pts')), flush=True)"
    )
    got = at_terminal(run("--pty") + ["python3", "-c", looks], columns=77)
    check("tty /dev/pts/0 /dev/pts/0 size 77 leads True front True others 2" in got, got)
    got = at_terminal(run("--pty") + ["sh", "-c", "stty -echo; read line; echo got $line; exit 7"], typed=b"hello\n")
    check("got hello" in got and "status 7" in got, got)
    # The interrupt key reaches the program's session and nobody else.
    trap = "trap 'echo caught; exit 3' INT; stty -echo; echo ready; while :; do sleep 0.1; done"
    got = interrupt(trap)
    check("caught" in got and "status 3" in got, got)
    # All that was written is shown, though the program has ended.
    got = at_terminal(run("--pty") + ["sh", "-c", "seq 1 20000"])
    check("\r\n20000\r\n" in got and "status 0" in got, got[-300:])
    # Without a terminal: input ends as typed input does.
    piped = subprocess.run(run("--pty") + ["cat"], input=b"through\n", stdout=subprocess.PIPE, timeout=30)
    check(piped.returncode == 0 and piped.stdout.count(b"through") >= 1, piped)


def interrupt(trap):
    pid, fd = pty.fork()
    if pid == 0:
        status = subprocess.run(run("--pty") + ["sh", "-c", trap]).returncode
        print(f"status {status}", flush=True)
        os._exit(0)
    text, pressed, deadline = b"", False, time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            got = os.read(fd, 4096)
        except OSError:
            break
        text += got
        if b"ready" in text and not pressed:
            os.write(fd, b"\x03")
            pressed = True
    os.close(fd)
    os.waitpid(pid, 0)
    return text.decode()


main()
print("done")

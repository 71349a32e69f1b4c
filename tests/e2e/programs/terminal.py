"""What a person at a terminal sees of `netgraft run`: `terminal.py NETGRAFT NETWORK`.

Each step runs netgraft on a new pseudo-terminal of its own.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

NETGRAFT, NETWORK = sys.argv[1:3]
FAILED = []


def check(what, ok, seen=""):
    if not ok:
        FAILED.append(what)
        print(f"FAIL {what}: {seen!r}", flush=True)


class Session:
    """A program on a terminal of 45 lines and 123 columns."""

    def __init__(self, *program):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 45, 123, 0, 0))
            words = [NETGRAFT, "run", "--network", NETWORK, "--", *program]
            os.execv(words[0], words)
        self.seen = b""

    def type(self, text):
        os.write(self.terminal, text)

    def wait_for(self, text, seconds=30.0):
        end = time.monotonic() + seconds
        while text not in self.seen and time.monotonic() < end:
            if not select.select([self.terminal], [], [], 0.1)[0]:
                continue
            try:
                self.seen += os.read(self.terminal, 4096)
            except OSError:  # the other side has gone
                break
        return text in self.seen

    def end(self, seconds=30.0):
        """The exit status, minus a signal's number, or None when it does not end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            self.wait_for(b"\0never", 0.05)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return None


session = Session("sh", "-c", "tty; stty size; echo typed:$(head -n 1)")
session.wait_for(b"45 123")
session.type(b"hello\n")
check("what is typed arrives", session.wait_for(b"typed:hello"), session.seen)
check("it is a terminal of that size", b"/dev/" in session.seen and b"45 123" in session.seen, session.seen)
check("exit status 0", session.end() == 0, session.seen)

session = Session("sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done")
check("ready", session.wait_for(b"ready"), session.seen)
fcntl.ioctl(session.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
check("a new window size is seen", session.wait_for(b"33 99"), session.seen)
session.type(b"\x03")
status = session.end()
check("Ctrl-C ends it as it ends any program", status in (130, -signal.SIGINT), status)

session = Session("bash", "--norc", "-i")
session.type(b"PS1=; echo shell is r''eady\n")
check("an interactive shell", session.wait_for(b"shell is ready"), session.seen)
check("has job control", b"no job control" not in session.seen, session.seen)
# The job itself says that it has the terminal: a key that comes before that is the shell's. It starts no program, for
# a vfork(2) that Ctrl-Z hits is stuck without netgraft as well.
JOB = """import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGCONT, lambda *_: os.write(1, b"again here\\n"))
os.write(1, b"runs now\\n")
while True:
    signal.pause()
"""
script = os.path.join(os.environ["WORK"], "job.py")
with open(script, "w") as file:
    file.write(JOB)
session.type(f"python3 {script}\n".encode())
check("a job starts", session.wait_for(b"runs now"), session.seen)
session.type(b"\x1a")
check("Ctrl-Z stops a job", session.wait_for(b"Stopped"), session.seen)
session.type(b"fg\n")
check("fg resumes it", session.wait_for(b"again here"), session.seen)
session.type(b"\x03")
session.type(b"echo status $?; exit 5\n")
check("Ctrl-C ends it", session.wait_for(b"status 130"), session.seen)
check("and the shell ends with its own status", session.end() == 5, session.seen)

print("FAILED" if FAILED else "the terminal works")
sys.exit(1 if FAILED else 0)

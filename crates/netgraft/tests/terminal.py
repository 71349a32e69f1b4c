"""Drives `netgraft run` from an interactive bash at a pseudo-terminal: job control, ctrl-C, window size.

Usage: terminal.py PATH-OF-NETGRAFT
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import tempfile
import termios
import time

NETGRAFT = sys.argv[1]


class Terminal:
    def __init__(self):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["PS1"] = "$ "
            os.environ["TERM"] = "dumb"
            os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
        self.text = ""

    def send(self, text):
        os.write(self.fd, text.encode())

    def expect(self, pattern, seconds=60.0):
        """Reads until the pattern appears, and forgets what came before its end."""
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text)
            if found:
                self.text = self.text[found.end():]
                return found
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                sys.exit(f"{pattern!r} did not appear; there is {self.text!r}")
            try:
                self.text += os.read(self.fd, 4096).decode(errors="replace")
            except OSError:
                sys.exit(f"the terminal was closed before {pattern!r}; there is {self.text!r}")

    def expect_of_a_job(self, word):
        """Waits until the shell says this of a job."""
        for _ in range(600):
            if re.search(word, self.text):
                break
            self.send("jobs\n")
            time.sleep(0.1)
            if select.select([self.fd], [], [], 0.1)[0]:
                self.text += os.read(self.fd, 4096).decode(errors="replace")
        self.expect(word, 0.1)

    def press(self, key):
        """Sends a control character, once the shell is through with starting the next program: a vfork(2) that
        a signal of the terminal hits is stuck without netgraft as well."""
        time.sleep(0.3)
        self.send(key)

    def job(self):
        """The process that the shell runs."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as file:
            (pid,) = file.read().split()
        return int(pid)

    def run(self, arguments):
        self.send(f"{NETGRAFT} run --network none -- {arguments}\n")

    def status(self, expected):
        self.send("echo status=$?.\n")
        got = self.expect(r"status=(\d+)\.").group(1)
        if got != str(expected):
            sys.exit(f"status {got} and not {expected}")

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def main():
    t = Terminal()
    t.expect(r"\$ ")

    # ctrl-C ends the program, not the shell.
    t.run("sh -c 'echo up; exec sleep 50'")
    t.expect(r"\nup")
    t.press("\x03")
    t.status(130)

    # ctrl-C is the program's to handle.
    t.run("""sh -c 'trap "echo caught; exit 5" INT; echo up; while :; do sleep 0.05; done'""")
    t.expect(r"\nup")
    t.press("\x03")
    t.expect("caught")
    t.status(5)

    # ctrl-Z stops the job, fg and bg continue it.
    t.run("sh -c 'echo up; read x; echo got $x; exit 6'")
    t.expect(r"\nup")
    t.press("\x1a")
    t.expect("Stopped")
    t.send("fg\n")
    t.expect("netgraft run")
    t.send("line\n")
    t.expect("got line")
    t.status(6)

    with tempfile.TemporaryDirectory() as folder:
        # A program that starts others could be hit in the middle of a vfork(2).
        os.chmod(folder, 0o755)
        os.mkfifo(f"{folder}/go", 0o644)
        t.run(f"sh -c 'echo up; read x <{folder}/go; echo over; exit 0'")
        t.expect(r"\nup")
        t.press("\x1a")
        t.expect("Stopped")
        t.send("bg\n")
        with open(f"{folder}/go", "w") as go:
            go.write("go\n")
        t.expect("over\r\n")
    t.expect_of_a_job("Done")

    # A background job that reads from the terminal is stopped.
    t.send("%s run --network none -- sh -c 'read x; echo got $x' &\n" % NETGRAFT)
    t.expect_of_a_job("Stopped")
    t.send("fg\n")
    t.expect("netgraft run")
    t.send("word\n")
    t.expect("got word")
    t.status(0)

    # A pipeline shares the terminal.
    t.send("%s run --network none -- sh -c 'echo up; read x; echo got $x; sleep 50' | cat\n" % NETGRAFT)
    t.expect(r"\nup")
    t.send("piped\n")
    t.expect("got piped")
    t.press("\x03")
    t.send("echo alive$((1+1))\n")
    t.expect("alive2")

    # An interactive shell inside has job control of its own, and its end gives the terminal back.
    t.run("env PS1='in> ' bash --norc --noprofile -i")
    t.expect(r"\nin> ")
    t.send("sh -c 'echo up; exec sleep 50'\n")
    t.expect(r"\nup")
    t.press("\x1a")
    t.expect("Stopped")
    # bash does not exit while it thinks that a job is stopped: it is to see that this one has ended.
    t.send("kill %1; wait %1; echo inner$((2+3))\n")
    t.expect("inner5")
    t.send("exit 8\n")
    t.expect("exit")
    t.status(8)

    # A terminal of its own: in the background the shell has its terminal to itself, as the job is stopped when it reads, and in
    # front the job has the keys.
    own = f"{NETGRAFT} run --network none --pty -- sh -c 'stty -echo; echo up; read x; echo got $x; exit 6'"
    t.send(own + " &\n")
    t.expect(r"up\r")
    t.expect_of_a_job("Stopped")
    t.send("echo alive$((1+2))\n")
    t.expect("alive3")
    t.send("fg\n")
    t.expect("netgraft run")
    t.send("first\n")
    t.expect("got first")
    # What is typed until the job has ended is still the job's.
    t.expect(r"\$ ")
    t.status(6)
    t.send(own + "\n")
    t.expect(r"\nup")
    os.killpg(t.job(), signal.SIGSTOP)
    t.expect("Stopped")
    t.send("bg\n")
    t.expect("netgraft run")
    t.expect_of_a_job("Stopped")
    t.send("echo alive$((2+2))\n")
    t.expect("alive4")
    t.send("fg\n")
    t.expect("netgraft run")
    t.send("second\n")
    t.expect("got second")
    # What is typed until the job has ended is still the job's.
    t.expect(r"\$ ")
    t.status(6)
    t.send("stty -a\n")
    t.expect(r"[^-]icanon")

    # The window's size, and its change.
    fcntl.ioctl(t.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 97, 0, 0))
    t.run("sh -c 'trap \"stty size; exit 0\" WINCH; stty size; while :; do sleep 0.05; done'")
    t.expect("41 97")
    fcntl.ioctl(t.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 23, 79, 0, 0))
    t.expect("23 79")
    t.status(0)
    t.close()


main()

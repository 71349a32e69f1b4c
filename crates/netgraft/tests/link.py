"""Runs in a network namespace of its own, which it owns: netgraft (argv[1]) on a TAP device whose faults are changed while it carries
traffic; with an object behind it, on that. Prints OK."""
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

NETGRAFT = sys.argv[1]
OBJECT = ["--network", "plugin", "--plugin", sys.argv[2]] if len(sys.argv) > 2 else []
FRAMES, SIZE = 10_000, 4 << 20
# Echoes what connections bring, one after the other, and sends so many datagrams as it is told.
INSIDE = f"""
import socket, sys, threading
def serve(listener):
    while True:
        connection = listener.accept()[0]
        while data := connection.recv(1 << 20):
            connection.sendall(data)
        connection.close()
listener = socket.create_server(("192.0.2.2", 80))
threading.Thread(target=serve, args=[listener], daemon=True).start()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("192.0.2.2", 7))
print("ready", flush=True)
for line in sys.stdin:
    for number in range(int(line)):
        s.sendto(b"x" * 100, ("192.0.2.1", 9))
    print("sent", flush=True)
"""


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def counter(protocol, name):
    lines = [line.split() for line in open("/proc/net/snmp") if line.startswith(protocol + ":")]
    return int(lines[1][lines[0].index(name)])


def carried():
    """Frames that the kernel has got from the TAP device (proc_net_dev(5)): one of 64 KiB counts once."""
    line = next(line for line in open("/proc/net/dev") if line.strip().startswith("ng0:"))
    return int(line.split(":")[1].split()[1])


def settled(count, rounds=10):
    """What a counter says when it has stood still."""
    before, still = count(), 0
    while still < rounds:
        time.sleep(0.05)
        now = count()
        still, before = (still + 1 if now == before else 0), now
    return before


def near(what, count, expected, share):
    """Within five standard deviations of a share of the frames, and a few frames of others."""
    off = 5 * (FRAMES * share * (1 - share)) ** 0.5 + 20
    assert abs(count - expected) <= off, f"{what}: {count}, not {expected} within {off:.0f}"


class Sandbox:
    def __init__(self, *options, link=True):
        # Each datagram is to be a frame: an ordinary user's private link has room for some hundred.
        options = [*options, "--datagrams", "stack", "--link", "tap:ng0", "--address", "192.0.2.2/24"] if link else options
        program = INSIDE if link else "print('ready', flush=True); input()"
        command = [NETGRAFT, "run", *options, "--", "python3", "-c", program]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.expect("ready")
        if link:
            ip("address", "replace", "192.0.2.1/24", "dev", "ng0")
            subprocess.run(["ip", "neighbour", "flush", "dev", "ng0"], check=True)
            while subprocess.run(["ping", "-c", "1", "-W", "1", "192.0.2.2"], stdout=subprocess.DEVNULL).returncode != 0:
                assert self.process.poll() is None, self.process.stderr.read()

    def expect(self, word):
        line = self.process.stdout.readline().strip()
        assert line == word, (line, self.process.stderr.read() if not line else "")

    def ask(self, *options):
        """What netgraft link says, which is there once the program has been let go."""
        deadline = time.monotonic() + 30
        while True:
            done = subprocess.run([NETGRAFT, "link", str(self.process.pid), *options], capture_output=True, text=True)
            if "no sandbox" not in done.stderr or time.monotonic() > deadline:
                return done
            time.sleep(0.01)

    def link(self, *options):
        done = self.ask("--json", *options)
        assert done.returncode == 0 and not done.stderr, done
        return json.loads(done.stdout)

    def fails(self, *options):
        done = self.ask(*options)
        assert done.returncode == 125 and len(done.stderr.splitlines()) == 1 and not done.stdout, done
        return done.stderr

    def faults(self, *options):
        state = self.link(*options)
        return state["in"]["faults"], state["out"]["faults"]

    def send(self):
        """How many datagrams reach the kernel, where nobody has the port."""
        before = counter("Udp", "NoPorts")
        self.process.stdin.write(f"{FRAMES}\n")
        self.process.stdin.flush()
        self.expect("sent")
        return settled(lambda: counter("Udp", "NoPorts")) - before

    def end(self):
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        return errors


class Echo:
    """One connection, on which what is echoed is compared."""

    def __init__(self):
        self.socket = socket.create_connection(("192.0.2.2", 80), timeout=60)

    def exchange(self, size=SIZE):
        """Sends and reads so many bytes, and says how many frames came for that."""
        before, data = carried(), os.urandom(size)
        got, sent = bytearray(), 0
        while sent < size:
            part = data[sent:sent + (256 << 10)]
            self.socket.sendall(part)
            sent += len(part)
            while len(got) < sent:
                piece = self.socket.recv(1 << 20)
                assert piece, "ended"
                got += piece
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        return carried() - before

    def close(self):
        self.socket.close()


if "PLAIN" in os.environ:
    ip("tuntap", "add", "ng0", "mode", "tap", "user", "65534")
    ip("link", "set", "ng0", "up")

# An object that has the device itself needs a fault of 0 to be ready for others.
box = Sandbox(*OBJECT, *(["--link-delay", "0ms"] if OBJECT else []))
state = box.link()
assert state["in"]["faults"] == state["out"]["faults"] == {} and state["in"]["frames"] > 0 and state["out"]["lost"] == 0, state
text = box.ask().stdout
assert text.splitlines()[1].endswith(" none") and text.splitlines()[3] == f"seed {state['seed']}", text

# On one connection: with offloads, with faults, without them again.
echo = Echo()
least = SIZE // 1460
offloads = echo.exchange()
assert box.faults("--link-delay", "1ms", "--link-loss", "out:0.1%") == ({"delay": "1ms"}, {"delay": "1ms", "loss": "0.1%"})
faulty = echo.exchange()
assert faulty >= least, (faulty, least)
# A fault that is not named stays.
assert box.faults("--link-loss", "0%", "--link-corrupt", "in:1%") == ({"delay": "1ms", "corrupt": "1%"}, {"delay": "1ms"})
assert echo.exchange() >= least
state = box.link()
assert state["in"]["corrupted"] > 0 and state["in"]["frames"] > SIZE // 1460, state
assert box.faults("--reset") == ({}, {})
again = echo.exchange()
if not OBJECT:
    # The built-in stack's frames have 64 KiB again.
    assert offloads < least / 4 and again < least / 4, (offloads, again, least)

# Shares hold for what comes from now on, and the sandbox counts as the kernel does.
near("without faults", box.send(), FRAMES, 0)
before = box.link("--link-loss", "out:20%", "--link-seed", "5")
assert before["seed"] == 5, before
arrived = box.send()
near("20 % lost", arrived, FRAMES * 0.8, 0.2)
lost = box.link()["out"]["lost"] - before["out"]["lost"]
near("lost", lost, FRAMES * 0.2, 0.2)
near("counted", lost + arrived, FRAMES, 0)
before = box.link("--reset", "--link-duplicate", "out:10%")
near("10 % twice", box.send(), FRAMES * 1.1, 0.1)

# Nothing comes, and then it does; what an hour of delay has under way does not keep others waiting.
box.link("--reset", "--link-loss", "in:100%")
ping = ["ping", "-c", "1", "-W", "1", "192.0.2.2"]
assert subprocess.run(ping, stdout=subprocess.DEVNULL).returncode != 0
box.link("--reset", "--link-delay", "3600s")
assert subprocess.run(ping, stdout=subprocess.DEVNULL).returncode != 0
box.link("--reset")
echo.exchange(100_000)
echo.close()

# What makes no sense changes nothing.
assert "jitter" in box.fails("--link-jitter", "in:1ms") and "in:" in box.fails("--link-jitter", "in:1ms")
assert "share of frames" in box.fails("--link-duplicate", "2")
assert box.faults("--link-rate", "8mbit", "--link-queue", "9") == ({"rate": "8mbit", "queue": "9"},) * 2
assert box.faults("--link-rate", "in:none") == ({}, {"rate": "8mbit", "queue": "9"})
assert "queue" in box.fails("--link-queue", "in:9")
assert box.end() == ""

# A sentry that takes over has the faults of the one before.
box = Sandbox(*OBJECT, *(["--link-delay", "0ms"] if OBJECT else []), "--on-crash", "restart")
wanted = box.faults("--link-delay", "2ms", "--link-loss", "in:3%", "--link-seed", "8")
children = subprocess.run(["pgrep", "-P", str(box.process.pid), "-x", "netgraft-sentry"], capture_output=True, text=True).stdout.split()
assert len(children) == 1, children
os.kill(int(children[0]), signal.SIGKILL)
deadline = time.monotonic() + 30
while True:
    done = box.ask("--json")
    if done.returncode == 0:
        state = json.loads(done.stdout)
        break
    assert time.monotonic() < deadline, done
    time.sleep(0.05)
assert (state["in"]["faults"], state["out"]["faults"], state["seed"]) == (*wanted, 8), state
box.process.kill()
box.process.communicate()

# Where there is no link of netgraft's, it says why.
for options, link, reason in [([], False, "netgraft run --link"), (["--network", "host"], False, "host's"),
                              *([(OBJECT, True, "--link-delay 0ms")] if OBJECT else [])]:
    box = Sandbox(*options, link=link)
    assert reason in box.fails("--link-loss", "1%"), (options, box.fails())
    box.process.communicate("\n" if not link else "")
assert "no sandbox" in subprocess.run([NETGRAFT, "link", "0"], capture_output=True, text=True).stderr
print("OK")

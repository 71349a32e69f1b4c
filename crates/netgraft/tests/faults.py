"""Runs in a network namespace of its own, which it owns: netgraft (argv[1]), with the options of a stack behind it, on a TAP
device with faults, counted by the kernel at the other end. Prints OK."""
import re
import socket
import subprocess
import sys
import time

NETGRAFT, STACK = sys.argv[1], sys.argv[2:]
FRAMES = 10_000
# Sends when it is told to, in bursts that a device's queue holds; a port that nobody has, so that the kernel counts
# each intact datagram ("NoPorts").
SENDER = f"""
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("192.0.2.2", 7))
print("ready", flush=True)
sys.stdin.readline()
for number in range({FRAMES}):
    s.sendto(number.to_bytes(4, "big") * 25, ("192.0.2.1", 9))
print("sent", flush=True)
sys.stdin.readline()
"""


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def counter(protocol, name):
    lines = [line.split() for line in open("/proc/net/snmp") if line.startswith(protocol + ":")]
    return int(lines[1][lines[0].index(name)])


def sent_to_the_stack():
    """Frames that the kernel has given to the TAP device (proc_net_dev(5))."""
    line = next(line for line in open("/proc/net/dev") if line.strip().startswith("ng0:"))
    return int(line.split(":")[1].split()[9])


class Sandbox:
    def __init__(self, *options, program=SENDER):
        command = [NETGRAFT, "run", *STACK, "--summary", "--link", "tap:ng0", "--address", "192.0.2.2/24", *options, "--",
                   "python3", "-c", program]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.expect("ready")
        ip("address", "add", "192.0.2.1/24", "dev", "ng0")
        ip("neighbour", "replace", "192.0.2.2", "lladdr", self.mac(), "dev", "ng0")

    def mac(self):
        """Whatever is lost of the questions for it is asked again."""
        for _ in range(100):
            got = subprocess.run(["ip", "neighbour", "show", "dev", "ng0"], capture_output=True, text=True).stdout
            found = re.search(r"192\.0\.2\.2 .*lladdr (\S+)", got)
            if found:
                return found.group(1)
            subprocess.run(["ping", "-c", "1", "-W", "1", "192.0.2.2"], stdout=subprocess.DEVNULL)
        raise AssertionError("no neighbour: " + got)

    def expect(self, word):
        line = self.process.stdout.readline().strip()
        assert line == word, (line, self.process.stderr.read() if not line else "")

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        _, errors = self.process.communicate("\n", timeout=60)
        assert self.process.returncode == 0, errors
        return errors


def settled(count):
    """What a counter says when it has stood still."""
    before, still = count(), 0
    while still < 10:
        time.sleep(0.05)
        now = count()
        still, before = (still + 1 if now == before else 0), now
    return before


def near(what, count, expected, share):
    """Within five standard deviations of a share of the frames, and a few frames of others."""
    off = 5 * (FRAMES * share * (1 - share)) ** 0.5 + 20
    assert abs(count - expected) <= off, f"{what}: {count}, not {expected} within {off:.0f}"


def outgoing(*options):
    box = Sandbox(*options)
    start = counter("Udp", "NoPorts")
    box.go()
    box.expect("sent")
    count = settled(lambda: counter("Udp", "NoPorts")) - start
    box.end()
    return count


def incoming(*options):
    """Sent by the kernel, and received by the stack."""
    box = Sandbox(*options, program=SENDER.replace(f"range({FRAMES})", "()"))
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("192.0.2.1", 0))
    before = sent_to_the_stack()
    for number in range(FRAMES):
        s.sendto(b"x" * 100, ("192.0.2.2", 7))
        if number % 100 == 0:
            time.sleep(0.001)
    carried = settled(lambda: sent_to_the_stack()) - before
    box.go()
    box.expect("sent")
    text = box.end()
    return carried, int(re.search(r"IP packets +\d+ sent, (\d+) received", text).group(1))


near("without faults", outgoing(), FRAMES, 0)
near("5 % lost", outgoing("--link-loss", "out:5%", "--link-seed", "1"), FRAMES * 0.95, 0.05)
near("5 % lost each way", outgoing("--link-loss", "5%", "--link-seed", "7"), FRAMES * 0.95, 0.05)
near("10 % doubled", outgoing("--link-duplicate", "out:10%", "--link-seed", "2"), FRAMES * 1.1, 0.1)
near("10 % damaged", outgoing("--link-corrupt", "out:10%", "--link-seed", "3"), FRAMES * 0.9, 0.1)
near("bursts", outgoing("--link-loss", "out:burst:100%/0%/20%", "--link-seed", "4"), FRAMES * 0.8, 0.2)
near("in only", outgoing("--link-loss", "in:50%", "--link-seed", "5"), FRAMES, 0)
for options, share in [([], 1), (["--link-loss", "in:20%", "--link-seed", "6"], 0.8),
                       (["--link-duplicate", "in:20%", "--link-seed", "8"], 1.2)]:
    carried, received = incoming(*options)
    near(f"received with {options}", received, carried * share, abs(1 - share))

# A frame cannot be early: the delays of both directions, and no more than one in each is asserted.
box = Sandbox("--link-delay", "out:30ms", "--link-delay", "in:20ms")
text = subprocess.run(["ping", "-c", "3", "-i", "0.2", "192.0.2.2"], capture_output=True, text=True).stdout
least = float(re.search(r"= ([0-9.]+)/", text).group(1))
assert least >= 50, text
box.go()
box.expect("sent")
box.end()
print("OK")

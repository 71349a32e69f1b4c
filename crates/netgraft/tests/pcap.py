"""Runs in a network namespace of its own, which it owns, in a folder of its own: netgraft (argv[1]) with captures, on the
built-in stack and on an object (argv[2]), read back by tcpdump and tshark. Prints OK."""
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time

NETGRAFT, OBJECT = sys.argv[1:]
PLUGIN = ["--network", "plugin", "--plugin", OBJECT]
# It would become another user, of whom a user namespace knows nothing.
TCPDUMP = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "tcpdump"]
# netgraft is that of an ordinary user, who has a TAP device.
PLAIN = "PLAIN" in os.environ
if PLAIN:
    TCPDUMP = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "tcpdump"]
    subprocess.run(["sh", "-ec", "ip tuntap add ng0 mode tap user 65534; ip link set ng0 up"], check=True)
TAP = ["--link", "tap:ng0", "--address", "192.0.2.2/24"]
# A connection to itself, which crosses the loopback; then what was asked of the kernel through the link. Says who it is.
LOOPBACK = """
import os, socket
if not os.path.exists("pid"):
    open("pid", "w").write(str(os.getpid()))
l = socket.create_server(("127.0.0.1", 8000))
c = socket.create_connection(("127.0.0.1", 8000))
s = l.accept()[0]
c.sendall(b"a" * 100_000)
got = 0
while got < 100_000:
    got += len(s.recv(65536))
print("moved", flush=True)
"""
# The same with more than may wait for the writer, whose program then ends at once.
BULK = """
import os, socket, threading
N = 20 << 20
l = socket.create_server(("127.0.0.1", 8000))
c = socket.create_connection(("127.0.0.1", 8000))
s = l.accept()[0]
threading.Thread(target=lambda: c.sendall(b"a" * N)).start()
got = 0
while got < N:
    got += len(s.recv(1 << 20))
os._exit(0)
"""
SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("192.0.2.2", 7))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(2000)
    s.sendto(data, peer)
    if data == b"end":
        break
"""


def run(*words, **more):
    done = subprocess.run([NETGRAFT, "run", "--join", "never", *words], capture_output=True, timeout=60, **more)
    assert done.returncode == 0, done.stderr
    return done


def tshark(file, *words):
    done = subprocess.run(["tshark", "-r", file, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tcpdump(file, *words):
    done = subprocess.run([*TCPDUMP, "-nr", file, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def tally(data):
    """Of a capture: its frames, what they say is missing before them, and what its end says is missing (None without one)."""
    at, frames, before, end = 0, 0, 0, None
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        body = {5: 20, 6: 28}.get(kind)
        if kind == 6:
            frames += 1
            body += (struct.unpack_from("<I", data, at + 20)[0] + 3) // 4 * 4
        option = at + body if body else at + length
        while option < at + length - 4:
            code, size = struct.unpack_from("<HH", data, option)
            if code == 0:
                break
            if (kind, code) == (6, 4):
                before += struct.unpack_from("<Q", data, option + 4)[0]
            if (kind, code) == (5, 5):
                end = (end or 0) + struct.unpack_from("<Q", data, option + 4)[0]
            option += 4 + (size + 3) // 4 * 4
        at += length
    return frames, before, end


def packets(errors):
    """Of a summary: what was received, which is what crossed the loopback."""
    return int(re.search(r"IP packets +(\d+) sent, (\d+) received", errors)[2])


def warned(errors):
    """How many frames are missing, as the writer says."""
    found = re.search(r"(\d+) frames? (?:are|is) missing in the capture", errors)
    return int(found[1]) if found else 0


def echoed(count, *options, end=True):
    """Datagrams that the kernel sends and gets back."""
    import socket
    box = subprocess.Popen([NETGRAFT, "run", *TAP, *options, "--", "python3", "-c", SERVER],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert box.stdout.readline() == "ready\n", box.stderr.read()
    subprocess.run(["ip", "address", "replace", "192.0.2.1/24", "dev", "ng0"], check=True)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(10)
    for number in range(count):
        s.sendto(f"number {number}".encode() + b"." * 900, ("192.0.2.2", 7))
        s.recv(2000)
    if end:
        s.sendto(b"end", ("192.0.2.2", 7))
        s.recv(2000)
        _, errors = box.communicate(timeout=30)
        assert (box.returncode, errors) == (0, ""), errors
    return box


# The loopback, without a link.
run("--pcap", "lo.pcapng", "--", "python3", "-c", LOOPBACK)
assert os.stat("lo.pcapng").st_mode & 0o777 == 0o600
fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "tcp.len"]
rows = [line.split("\t") for line in tshark("lo.pcapng", "-Y", "tcp.dstport==8000", *fields).splitlines()]
assert {name for name, _ in rows} == {"lo"}, rows
assert sum(int(length) for _, length in rows) == 100_000, rows
assert any("Flags [S]" in line for line in tcpdump("lo.pcapng"))
# Each with the processes and descriptors of its sockets, the sender's first; before it is accepted the listener has it.
comments = lambda file, which: set(tshark(file, "-Y", which, "-T", "fields", "-e", "frame.comment").splitlines())
me = f"python3[{open('pid').read()}]"
assert comments("lo.pcapng", "tcp.dstport==8000") == {f"{me} fd 4,{me} fd {fd}" for fd in (3, 5)}, comments("lo.pcapng", "tcp")
assert comments("lo.pcapng", "tcp.srcport==8000") == {f"{me} fd {fd},{me} fd 4" for fd in (3, 5)}, comments("lo.pcapng", "tcp")

# More than may wait for the writer. Nothing is lost in silence: each frame is there, or the end says that it is not.
done = run("--summary", "--pcap", "bulk.pcapng", "--", "python3", "-c", BULK)
errors = done.stderr.decode()
frames, before, end = tally(open("bulk.pcapng", "rb").read())
assert end is not None and frames + end == packets(errors) > 300, (frames, before, end, errors)
assert before <= end == warned(errors) and "may lack" not in errors, (before, end, errors)
# A reader that begins when netgraft has ended, and with it the time for the rest: that is counted, and the writer says so.
reader, pipe = os.pipe()
with open("late.errors", "wb") as told:
    box = subprocess.Popen([NETGRAFT, "run", "--join", "never", "--summary", "--pcap", "-", "--", "python3", "-c", BULK],
                           stdout=pipe, stderr=told)
os.close(pipe)
assert box.wait(timeout=60) == 0, open("late.errors").read()
frames, before, end = tally(open(reader, "rb").read())
errors = open("late.errors").read()
assert "is still being written" in errors, errors
assert end is not None and frames + end == packets(errors) and end == warned(errors) > 100, (frames, before, end, errors)
# A sentry that is killed has said nothing of the kind; one that sees first that netgraft is gone ends in order.
box = subprocess.Popen([NETGRAFT, "run", "--join", "never", "--pcap", "cut.pcapng", "--", "python3", "-c",
                        LOOPBACK + "import time; time.sleep(60)"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
assert box.stdout.readline() == "moved\n"
box.send_signal(signal.SIGKILL)
_, errors = box.communicate(timeout=30)
_, _, end = tally(open("cut.pcapng", "rb").read())
assert (end is None) == ("the capture cut.pcapng may lack its last frames" in errors), (end, errors)

# A link: names, directions, times, a snap length.
began = time.time()
echoed(20, "--pcap", "tap.pcapng", "--pcap-snaplen", "60")
lines = tcpdump("tap.pcapng", "udp")
assert len(lines) == 42, lines
fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "frame.time_epoch",
          "-e", "frame.cap_len", "-e", "frame.len"]
rows = [line.split("\t") for line in tshark("tap.pcapng", "-Y", "udp.dstport==7", *fields).splitlines()]
assert len(rows) == 21 and all(row[0] == "eth0" and int(row[1], 0) == 1 for row in rows), rows
assert all(began - 1 < float(row[2]) < time.time() + 1 for row in rows), (began, rows)
assert rows[0][3] == "60" and int(rows[0][4]) > 900, rows
assert all(re.fullmatch(r"python3\[\d+\] fd 3", comment) for comment in comments("tap.pcapng", "udp.port==7"))
assert comments("tap.pcapng", "arp") == {""}
out = [line.split("\t") for line in tshark("tap.pcapng", "-Y", "udp.srcport==7", *fields).splitlines()]
assert len(out) == 21 and all(int(row[1], 0) == 2 for row in out), out

# A datagram socket that was never bound, of whom nobody has told: it is looked for.
run(*TAP, "--pcap", "unbound.pcapng", "--", "python3", "-c",
    "import socket\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n"
    "for _ in range(3): s.sendto(b'x', ('192.0.2.255', 9))")
seen = comments("unbound.pcapng", "udp.dstport==9")
assert len(seen) == 1 and re.fullmatch(r"python3\[\d+\] fd 3", seen.pop()), seen

# Several files, each of which can be read by itself; the oldest are removed.
echoed(60, "--pcap", "many.pcapng", "--pcap-size", "10k", "--pcap-keep", "3")
files = sorted((name for name in os.listdir(".") if name.startswith("many")), key=lambda name: int(name.split(".")[-1]))
assert len(files) == 3 and files[0] != "many.pcapng", files
counts = [len(tcpdump(name, "udp")) for name in files]
assert all(os.stat(name).st_size <= 10_000 for name in files) and all(counts), counts
assert any(line.endswith("end") for line in tcpdump(files[-1], "-A", "udp")), files

# Or by their age.
run("--pcap", "old.pcapng", "--pcap-time", "1", "--", "python3", "-c",
    "import socket, time\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "for _ in range(26): s.sendto(b'x', ('127.0.0.1', 9)); time.sleep(0.1)")
files = [name for name in os.listdir(".") if name.startswith("old")]
assert len(files) >= 2 and all(tcpdump(name, "udp") for name in files), files

# An interface of the kernel's.
subprocess.run(["sh", "-ec", "ip link add p0 type veth peer name p1; ip link set p0 up; ip link set p1 up; "
                "ip address add 198.51.100.1/24 dev p0"], check=True)
packet = ["--link", "packet:p1", "--address", "198.51.100.2/24", "--pcap", "packet.pcapng", "--"]
if PLAIN:
    done = subprocess.run([NETGRAFT, "run", *packet, "echo", "started"], capture_output=True, text=True)
    assert done.returncode == 125 and done.stdout == "" and done.stderr.count("\n") == 1, done
    assert "CAP_NET_RAW" in done.stderr, done.stderr
else:
    run(*packet, "ping", "-c", "1", "198.51.100.1")
    lines = tcpdump("packet.pcapng", "icmp")
    assert [part in line for line, part in zip(lines, ("echo request", "echo reply"))] == [True, True], lines

# One that is too small for IPv6.
subprocess.run(["ip", "link", "set", "p1", "mtu", "1000"], check=True)
done = subprocess.run([NETGRAFT, "run", "--link", "packet:p1", "--address", "2001:db8::2/64", "--", "true"],
                      capture_output=True, text=True)
assert done.returncode == 125 and "IPv6 needs an MTU of 1280 or more, and --link packet:p1 has 1000" in done.stderr, done.stderr

# Standard output is the capture's, and the program's goes to standard error.
done = run("--pcap", "-", "--", "python3", "-c", LOOPBACK)
assert done.stderr == b"moved\n" and done.stdout.startswith(b"\n\r\r\n"), done.stderr
open("out.pcapng", "wb").write(done.stdout)
assert len(tcpdump("out.pcapng", "tcp")) > 4

# The file can be read when netgraft is killed: what it lacks is what the sentry still kept, which is little where frames are few.
box = echoed(5, "--pcap", "killed.pcapng", end=False)
box.send_signal(signal.SIGKILL)
box.wait()
for _ in range(200):
    if len(subprocess.run([*TCPDUMP, "-nr", "killed.pcapng", "udp"], capture_output=True).stdout.splitlines()) >= 9:
        break
    time.sleep(0.05)
else:
    raise AssertionError(tcpdump("killed.pcapng"))

# An object has the other end of a pair of sockets instead of the device, and its link is recorded as that of the built-in
# stack, under the device's name.
echoed(20, *PLUGIN, "--pcap", "object.pcapng")
for port, direction in [("dst", 1), ("src", 2)]:
    rows = [line.split("\t") for line in tshark("object.pcapng", "-Y", f"udp.{port}port==7", *fields).splitlines()]
    assert len(rows) == 21 and all(row[0] == "ng0" and int(row[1], 0) == direction for row in rows), rows
assert all(re.fullmatch(r"python3\[\d+\] fd 3", comment) for comment in comments("object.pcapng", "udp.port==7"))
text = run(*PLUGIN, *TAP, "--link-loss", "out:100%", "--pcap", "object-lost.pcapng", "--", "python3", "-c",
           "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
           "try: s.connect(('192.0.2.1', 9)); s.send(b'x')\nexcept OSError: pass")
lines = tcpdump("object-lost.pcapng", "arp")
assert any("Request who-has 192.0.2.1" in line for line in lines), lines
# Its loopback is its own, and nothing else is to be recorded.
done = subprocess.run([NETGRAFT, "run", *PLUGIN, "--pcap", "x", "--", "true"], capture_output=True, text=True)
assert done.returncode == 125 and "--pcap needs --link" in done.stderr and done.stderr.count("\n") == 1, done.stderr
# One whose pre-init is trusted opens the device itself.
done = subprocess.run([NETGRAFT, "run", *PLUGIN, "--trust-pre-init", *TAP, "--pcap", "x", "--", "true"],
                      capture_output=True, text=True)
assert done.returncode == 125 and "opens its link itself" in done.stderr, done.stderr

# With faults, the capture has what the stack sent, and not what is lost on the way to it.
text = run(*TAP, "--link-loss", "out:100%", "--pcap", "lost.pcapng", "--", "python3", "-c",
           "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
           "try: s.connect(('192.0.2.1', 9)); s.send(b'x')\nexcept OSError: pass")
assert any("Request who-has 192.0.2.1" in line for line in tcpdump("lost.pcapng", "arp")), tcpdump("lost.pcapng")

# A reader that goes away ends the capture and nothing else.
done = subprocess.run(["sh", "-c", '"$0" run --pcap - -- python3 -c "$1" | head -c 1 >/dev/null', NETGRAFT, LOOPBACK],
                      capture_output=True, text=True, timeout=60)
assert "moved" in done.stderr, done.stderr

# What cannot be written is told before the program starts.
done = subprocess.run([NETGRAFT, "run", "--pcap", "no/such/folder", "--", "echo", "started"], capture_output=True, text=True)
assert done.returncode == 125 and done.stdout == "" and done.stderr.count("\n") == 1, done
assert "the capture no/such/folder cannot be written: No such file" in done.stderr, done.stderr
done = subprocess.run([NETGRAFT, "run", "--network", "host", "--pcap", "x", "--", "true"], capture_output=True, text=True)
assert done.returncode == 125 and "so --pcap" in done.stderr, done.stderr
done = subprocess.run([NETGRAFT, "run", "--join", "never", "--pcap", "/dev/full", "--", "python3", "-c", LOOPBACK], capture_output=True, text=True)
assert done.returncode == 0 and "the capture /dev/full ends here: No space left" in done.stderr, done.stderr
print("OK")

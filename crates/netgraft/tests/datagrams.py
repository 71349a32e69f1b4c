"""Runs in a network namespace of its own, which it owns: a program in a sandbox of netgraft (argv[1]) on a TAP device, and a server of UDP at its other end. Prints OK."""
import atexit
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

NETGRAFT = sys.argv[1]
CHILDREN = []
# What the program does, natively at first: there the server is on the loopback, under the addresses that it is called by.
PROGRAM = r"""
import errno, os, select, socket, struct, subprocess, sys
IP_RECVERR, IP_RECVTTL, IP_PKTINFO, UDP_SEGMENT = 11, 12, 8, 103
SERVERS = [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")]

def udp(family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(20)
    return s

def ask(s, data, to):
    # The first may be lost while the neighbour is being found.
    for _ in range(20):
        s.sendto(data, to)
        if select.select([s], [], [], 1)[0]:
            return s.recvfrom(70000)
    raise TimeoutError(to)

for family, server in SERVERS:
    s = udp(family)
    data, source = ask(s, b"hello", (server, 7000))
    assert (data, source[:2]) == (b"hello", (server, 7000)), (data, source)
    # More than the link carries in a packet, both ways, and nothing at all.
    big = bytes(range(256)) * 235
    assert ask(s, big, (server, 7000))[0] == big
    assert ask(s, b"", (server, 7000))[0] == b""
    # A peer: only what it sends comes, and each name is what was connected.
    c = udp(family)
    c.connect((server, 7000))
    assert c.getpeername()[:2] == (server, 7000) and c.getsockname()[1] != 0
    c.send(b"connected")
    assert c.recv(100) == b"connected"
    # Nobody is there: the error comes with who said so, and what was sent.
    r = udp(family)
    level, option = (socket.SOL_IP, IP_RECVERR) if family == socket.AF_INET else (socket.IPPROTO_IPV6, 25)
    r.setsockopt(level, option, 1)
    r.connect((server, 9))
    r.send(b"lost")
    assert select.select([r], [], [], 20)[0]
    try:
        r.recv(100)
        raise AssertionError("no error")
    except ConnectionRefusedError:
        pass
    data, control, flags, address = r.recvmsg(100, 512, socket.MSG_ERRQUEUE)
    assert data == b"lost" and flags & socket.MSG_ERRQUEUE and address[:2] == (server, 9), (data, flags, address)
    assert control[0][2][:4] == struct.pack("=I", errno.ECONNREFUSED), control
    # Segments of one call, and what the header of a packet said.
    g = udp(family)
    g.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
    if family == socket.AF_INET:
        g.setsockopt(socket.SOL_IP, IP_RECVTTL, 1)
    g.sendto(b"a" * 250, (server, 7000))
    parts = sorted(len(g.recv(1000)) for _ in range(3))
    assert parts == [50, 100, 100], parts
    # A time to live that does not suffice for a router, but for a neighbour.
    if family == socket.AF_INET:
        t = udp()
        t.setsockopt(socket.SOL_IP, socket.IP_TTL, 1)
        assert ask(t, b"ttl", (server, 7000))[0] == b"1"

    # What another peer sends to a connected socket is refused, and told to who sent it.
    assert ask(c, b"other", (server, 7000))[0] == b"refused"

# The source that a socket is bound to, or that a control message names, of several.
o = udp()
o.bind((OTHER, 0))
assert ask(o, b"from", ("192.0.2.1", 7000))[0] == OTHER.encode()
chosen = udp()
def from_other(s, data, to):
    info = struct.pack("=I4s4s", 0, socket.inet_aton(OTHER), bytes(4))
    s.sendmsg([data], [(socket.SOL_IP, IP_PKTINFO, info)], 0, to)
from_other(chosen, b"from", ("192.0.2.1", 7000))
assert chosen.recv(100) == OTHER.encode()
assert ask(chosen, b"from", ("192.0.2.1", 7000))[0] == OWN.encode()

# A bound socket is reached by what it never spoke to, with the address that was meant.
b = udp()
b.setsockopt(socket.SOL_IP, IP_PKTINFO, 1)
b.bind(("0.0.0.0", 5353))
assert ask(udp(), b"poke", ("192.0.2.1", 7000))[0] == b"poke"
data, control, _, source = b.recvmsg(100, 100)
assert data == b"unasked" and source == ("192.0.2.1", 7000), (data, source)
meant = control[0][2]
assert socket.inet_ntoa(meant[8:12]) == OWN, meant
# It is deaf when it is closed, and its port is free.
b.close()
again = udp()
again.bind((OWN, 5353))
again.close()
# A group.
m = udp()
m.setsockopt(socket.SOL_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.3") + socket.inet_aton(OWN))
m.bind(("239.1.2.3", 5354))
for _ in range(20):
    assert ask(udp(), b"group", ("192.0.2.1", 7000))[0] == b"group"
    if select.select([m], [], [], 1)[0]:
        break
assert m.recv(100) == b"for the group"
m.close()
if not NATIVE:
    # The link hears that nobody here is a member any more.
    assert ask(udp(), b"left", ("192.0.2.1", 7000))[0] == b"left"
# A port that the kernel chose stays its socket's, whoever asks for it.
v = udp()
assert ask(v, b"mine", ("192.0.2.1", 7000))[0] == b"mine"
for address in ("0.0.0.0", OWN):
    with udp() as thief:
        try:
            thief.bind((address, v.getsockname()[1]))
            raise AssertionError("two have a port")
        except OSError as error:
            assert error.errno == errno.EADDRINUSE, error
    assert ask(v, b"still", ("192.0.2.1", 7000))[0] == b"still"
# Groups that the kernel refuses are no groups.
with udp() as refused:
    for at in range(1100):
        try:
            group = struct.pack("=4s4si", bytes([239, 9, at >> 8, at & 255]), bytes(4), 9999)
            refused.setsockopt(socket.SOL_IP, socket.IP_ADD_MEMBERSHIP, group)
            raise AssertionError("joined on an interface that is not there")
        except OSError as error:
            assert error.errno == errno.ENODEV, error
m = udp()
m.setsockopt(socket.SOL_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.5") + socket.inet_aton(OWN))
m.bind(("239.1.2.5", 5354))
for _ in range(20):
    assert ask(udp(), b"group 5", ("192.0.2.1", 7000))[0] == b"group 5"
    if select.select([m], [], [], 1)[0]:
        break
assert m.recv(100) == b"for the group"
# Inside, nothing of this is needed.
inside = udp()
inside.bind(("127.0.0.1", 0))
assert ask(inside, b"inside", inside.getsockname())[0] == b"inside"
# Many sockets, one after the other.
for at in range(300):
    s = udp()
    assert ask(s, b"%d" % at, ("192.0.2.1", 7000))[0] == b"%d" % at
    s.close()
for words in (["-c1", "-W9", "192.0.2.1"], ["-6", "-c1", "-W9", "2001:db8::1"], ["-s", "4000", "-c1", "-W9", "192.0.2.1"]):
    subprocess.run(["ping", *words], check=True, stdout=subprocess.DEVNULL)
if not NATIVE:
    # A neighbour that does not answer.
    for words in (["192.0.2.99"], ["-6", "2001:db8::99"]):
        ping = subprocess.run(["ping", "-c1", "-W9", *words], capture_output=True, text=True)
        assert ping.returncode == 1 and "nreachable" in ping.stdout, ping
print("done")
"""
# Sends back what comes, before and after the sentry was killed: its socket stays.
SURVIVOR = r"""
import os, socket
# A listener whose descriptor has another number than when it began to listen.
first = socket.socket()
first.bind(("0.0.0.0", 5356))
first.listen(5)
listener = socket.socket(fileno=os.dup(first.fileno()))
first.close()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 5355))
s.setsockopt(socket.SOL_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.4") + socket.inet_aton("192.0.2.2"))
print("up", flush=True)
while True:
    data, source = s.recvfrom(100)
    s.sendto(data, source)
"""


@atexit.register
def end():
    for process in CHILDREN:
        if process.poll() is None:
            process.kill()
        process.wait()


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def await_leave(igmp):
    """Waits for the report that nobody is a member of 239.1.2.3: of IGMP's version 2 (RFC 2236) or 3 (RFC 3376)."""
    group = socket.inet_aton("239.1.2.3")
    while True:
        packet = igmp.recv(2000)
        report = packet[(packet[0] & 15) * 4:]
        if report[0] == 0x17 and report[4:8] == group or report[0] == 0x22 and report[8] in (3, 6) and report[12:16] == group:
            return


def serve():
    sockets = []
    for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind((address, 7000))
        sockets.append(server)
    sockets[0].setsockopt(socket.SOL_IP, 12, 1)
    igmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
    igmp.settimeout(20)
    while True:
        for server in select.select(sockets, [], [])[0]:
            data, control, _, source = server.recvmsg(70000, 100)
            if data == b"ttl":
                data = b"%d" % int.from_bytes(control[0][2][:4], "little")
            if data == b"from":
                data = source[0].encode()
            if data == b"other":
                with socket.socket(server.family, socket.SOCK_DGRAM) as other:
                    other.settimeout(20)
                    other.connect(source)
                    other.send(b"nothing that you asked for")
                    try:
                        data = other.recv(100)
                    except ConnectionRefusedError:
                        data = b"refused"
            if data == b"left":
                await_leave(igmp)
            server.sendto(data, source)
            if data == b"poke":
                server.sendto(b"unasked", (source[0], 5353))
            if data.startswith(b"group"):
                # The device that has the address now.
                server.setsockopt(socket.SOL_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.0.2.1"))
                server.sendto(b"for the group", ("239.1.2.5" if data == b"group 5" else "239.1.2.3", 5354))
                # As a router, which hears who leaves.
                for routers in ("224.0.0.2", "224.0.0.22"):
                    member = socket.inet_aton(routers) + socket.inet_aton("192.0.2.1")
                    try:
                        igmp.setsockopt(socket.SOL_IP, socket.IP_ADD_MEMBERSHIP, member)
                    except OSError as error:
                        assert error.errno == errno.EADDRINUSE, error


def await_device(name):
    for _ in range(1000):
        if os.path.exists(f"/sys/class/net/{name}") or subprocess.run(["ip", "link", "show", name], capture_output=True).returncode == 0:
            return
        time.sleep(0.02)
    raise TimeoutError(name)


def sandbox(*words):
    command = [NETGRAFT, "run", "--link", "tap:t0", "--address", "192.0.2.2/24", "--address", "2001:db8::2/64",
               "--address", "192.0.2.3/24", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    CHILDREN.append(process)
    await_device("t0")
    for words in (["addr", "add", "192.0.2.1/24", "dev", "t0"], ["addr", "add", "2001:db8::1/64", "dev", "t0", "nodad"],
                  ["link", "set", "t0", "up"]):
        ip(*words)
    return process


def sentry_of(launcher):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
            name = open(f"/proc/{pid}/comm").read().strip()
        except OSError:
            continue
        if parent == launcher.pid and name == "netgraft-sentry":
            return int(pid)
    raise LookupError("sentry")


ip("link", "set", "lo", "up")
# The program is right: the kernel's sockets pass.
OWN = (["192.0.2.1/32", "dev", "lo"], ["192.0.2.3/32", "dev", "lo"], ["2001:db8::1/128", "dev", "lo"])
for words in OWN:
    ip("addr", "add", *words)
thread = threading.Thread(target=serve, daemon=True)
thread.start()
native = subprocess.run([sys.executable, "-c", f"NATIVE, OWN, OTHER = True, '192.0.2.1', '192.0.2.3'\n{PROGRAM}"], capture_output=True, text=True, timeout=120)
assert native.stdout == "done\n", native.stderr
for words in OWN:
    ip("addr", "del", *words)

# With a capture, which asks who sends.
capture = tempfile.NamedTemporaryFile(suffix=".pcapng")
box = sandbox("--pcap", capture.name, "--", "/usr/bin/python3", "-c", f"NATIVE, OWN, OTHER = False, '192.0.2.2', '192.0.2.3'\n{PROGRAM}")
out, errors = box.communicate(timeout=120)
assert (out, errors, box.returncode) == ("done\n", "", 0), (out, errors, box.returncode)

# The sentry dies: who waits for datagrams goes on, and is reached again.
box = sandbox("--on-crash", "restart", "--", "/usr/bin/python3", "-c", SURVIVOR)
assert box.stdout.readline() == "up\n", box.stderr.read()
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


client.setsockopt(socket.SOL_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.0.2.1"))


def echoed(address="192.0.2.2"):
    for _ in range(60):
        client.sendto(b"there?", (address, 5355))
        if select.select([client], [], [], 0.5)[0]:
            try:
                return client.recv(100) == b"there?"
            except ConnectionRefusedError:
                pass
    return False


assert echoed() and echoed("239.1.2.4")
os.kill(sentry_of(box), signal.SIGKILL)
assert echoed() and echoed("239.1.2.4")
socket.create_connection(("192.0.2.2", 5356), 20).close()
box.send_signal(signal.SIGTERM)
_, errors = box.communicate(timeout=30)
assert "a fresh one takes over" in errors, errors
assert subprocess.run(["ip", "link", "show", "t0"], capture_output=True).returncode != 0
print("OK")

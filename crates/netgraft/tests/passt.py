"""Runs in a network namespace of its own, which it owns, in a folder of its own: netgraft (argv[1]) behind passt, also with
lwIP (argv[2]), and servers in another namespace. The stack that argv[3] names (built-in, lwip, neither) moves 1 GiB each way. Prints OK."""
import atexit
import hashlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time

NETGRAFT, LWIP, LARGE = sys.argv[1:4]
V4, V6 = "198.51.100.1", "2001:db8:1::1"
# Each way, half of it over each family; PASST_SIZE in MiB is another. And what the other stack moves.
SIZE = int(os.environ.get("PASST_SIZE", "1024")) << 19
LESS = 32 << 20
CHILDREN = []
# Answers every name with the servers' addresses.
DNS = f"""
import socket, struct
import sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
while True:
    q, peer = s.recvfrom(2000)
    end = q.index(b"\\0", 12) + 5
    kind = struct.unpack("!H", q[end - 4:end - 2])[0]
    data = {{1: socket.inet_aton("{V4}"), 28: socket.inet_pton(socket.AF_INET6, "{V6}")}}.get(kind)
    head = q[:2] + struct.pack("!HHHHH", 0x8580, 1, 1 if data else 0, 0, 0)
    answer = b"\\xc0\\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data if data else b""
    s.sendto(head + q[12:end] + answer, peer)
"""


# Takes so many bytes, says so, and prints their checksum: the sender does not end before that. It does not close its side either,
# as the passt of Debian 12 says no end of a connection that is half closed.
SINK = """
import hashlib, socket, sys
v6 = ":" in sys.argv[1]
s = socket.create_server((sys.argv[1], 9000), family=socket.AF_INET6 if v6 else socket.AF_INET)
c, digest, left = s.accept()[0], hashlib.sha256(), int(sys.argv[2])
while left and (data := c.recv(1 << 20)):
    digest.update(data)
    left -= len(data)
c.sendall(b"all")
c.close()
print(digest.hexdigest())
"""


SOURCE = """
import socket, sys
c = socket.create_connection((sys.argv[1], 9000))
c.sendfile(open(sys.argv[2], "rb"))
print(c.recv(9).decode())
"""


def sh(script):
    subprocess.run(["sh", "-ec", script], check=True)


def child(*words, **more):
    process = subprocess.Popen(words, **more)
    CHILDREN.append(process)
    return process


@atexit.register
def end():
    for process in CHILDREN:
        if process.poll() is None:
            process.kill()
        process.wait()


def until(what, found):
    for _ in range(400):
        if found():
            return
        time.sleep(0.025)
    raise AssertionError("never: " + what)


def outside(*words, **more):
    return child("nsenter", f"--net=/proc/{OUTSIDE}/ns/net", *words, **more)


def listening(port):
    files = [f"/proc/{OUTSIDE}/net/{name}" for name in ("tcp", "tcp6")]
    entry = f":{port:04X} "
    until(f"a server on {port}", lambda: any(
        entry in line.split(" rem")[0] and " 0A " in line for name in files for line in open(name)))


def passts():
    """The processes that the kernel knows as passt, of this user namespace."""
    own = os.readlink("/proc/self/ns/net")
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if open(f"/proc/{pid}/comm").read().startswith("passt") and os.readlink(f"/proc/{pid}/ns/net") == own \
                    and " Z" not in open(f"/proc/{pid}/stat").read():
                found.append(int(pid))
        except OSError:
            pass
    return found


def run(*words, link=("--link", "passt"), status=0, **more):
    done = subprocess.run([NETGRAFT, "run", *link, *words], capture_output=True, text=True, timeout=120, **more)
    assert done.returncode == status, (words, done.stdout, done.stderr)
    until("passt ends with the sandbox", lambda: not passts() or link != ("--link", "passt"))
    return done


def refused(part, *words, **more):
    done = run(*words, "--", "echo", "started", status=125, **more)
    assert part in done.stderr and done.stderr.count("\n") == 1 and done.stdout == "", done


# Without a way out there is nothing that passt could offer.
sh("ip link set lo up")
refused("--link passt: passt: ")

holder = child("unshare", "--net", "sleep", "1000")
until("the other namespace", lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
OUTSIDE = holder.pid
sh(f"""
ip link add veth0 type veth peer name veth1 netns {OUTSIDE}
ip address add 198.51.100.2/24 dev veth0
ip address add 2001:db8:1::2/64 dev veth0 nodad
ip link set veth0 up
nsenter --net=/proc/{OUTSIDE}/ns/net sh -ec '
ip link set lo up
ip address add {V4}/24 dev veth1
ip address add {V6}/64 dev veth1 nodad
ip link set veth1 up'
ip route add default via {V4}
ip -6 route add default via {V6}
""")
# Until then neighbours cannot be asked for.
for place in ("self", OUTSIDE):
    until("addresses are no longer tentative", lambda: all(
        int(line.split()[4], 16) & 0x40 == 0 for line in open(f"/proc/{place}/net/if_inet6")))
os.mkdir("www")
block = os.urandom(1 << 20)


def make(name, size):
    """A file, and its checksum."""
    digest = hashlib.sha256()
    with open(name, "wb") as file:
        for number in range(size >> 20):
            # No two are the same, so that one that is lost or twice there shows.
            piece = struct.pack("!I", number) + block[4:]
            file.write(piece)
            digest.update(piece)
    return name.removeprefix("www/"), size, digest.hexdigest()


PART = make("www/part", LESS)
FILE = make("www/file", SIZE) if LARGE != "neither" else PART
SMALL = 3_000_000
open("www/small", "wb").write(block * 2 + block[:SMALL - (2 << 20)])
for address in (V4, V6):
    outside(sys.executable, "-m", "http.server", "--bind", address, "--directory", "www", "8000",
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
outside("redis-server", "--bind", V4, V6, "--save", "", "--protected-mode", "no", stdout=subprocess.DEVNULL)
for address in (V4, V6):
    outside(sys.executable, "-c", DNS, address)
listening(8000)
listening(6379)

# What passt offers is what the program sees.
seen = run("--", "sh", "-c", "ip -o address show dev eth0; ip route; ip -6 route; ip link show eth0").stdout
for part in ("198.51.100.2/24", "2001:db8:1::2/128", "2001:db8:1:0:", f"default via {V4} dev eth0", "default via fe80:", "mtu 65520", "state UP"):
    assert part in seen, (part, seen)

# What it is called inside is said, and what gives a way out.
assert "inside, the link passt is eth0" in run("-v", "--", "true").stderr
assert "no uplink: --link passt gives it one" in run("-v", "--", "true", link=()).stderr
assert "uplink       none: --link passt gives it one" in run("--summary", "--", "true", link=()).stderr
assert "uplink" not in run("--summary", "--", "true").stderr

def programs(moved, *stack):
    """Real programs on a stack, both families, both ways."""
    name, size, digest = moved
    for url in (f"http://{V4}:8000/{name}", f"http://[{V6}]:8000/{name}"):
        got = run(*stack, "--", "sh", "-c", f"curl -sSg '{url}' | sha256sum").stdout.split()[0]
        assert got == digest, url
    for address in (V4, V6):
        sink = outside(sys.executable, "-c", SINK, address, str(size), stdout=subprocess.PIPE, text=True)
        listening(9000)
        assert run(*stack, "--", "python3", "-c", SOURCE, address, f"www/{name}").stdout == "all\n"
        assert sink.communicate(timeout=60)[0].split()[0] == digest, address

    # Several at once: none of them starves.
    script = "for i in 1 2 3 4 5 6 7 8; do curl -sS http://198.51.100.1:8000/small | wc -c & done; wait"
    assert run(*stack, "--", "sh", "-c", script).stdout.split() == [str(SMALL)] * 8

    # Names, redis, and other programs.
    named = (*stack, "--dns", V4, "--")
    for family, server in (("-4", V4), ("-6", V6), ("-4", V6), ("-6", V4)):
        assert run(*stack, "--dns", server, "--", "curl", family, "-sS", "http://server.test:8000/small", "-o", "/dev/null", "-w",
                   "%{size_download}").stdout == str(SMALL)
    for address in (V4, V6):
        assert run(*stack, "--", "redis-cli", "-h", address, "ping").stdout == "PONG\n"
        assert "PING_INLINE" in run(*stack, "--", "redis-benchmark", "-h", address, "-n", "2000", "-c", "20", "-t", "ping",
                                    "--csv").stdout
    # Root of the sandbox is nobody outside.
    clones = f"clones{len(stack)}"
    os.mkdir(clones)
    os.chmod(clones, 0o777)
    in_python = "import sys, urllib.request; print(len(urllib.request.urlopen(sys.argv[1]).read()))"
    in_node = "require('http').get(process.argv[1], r => { let n = 0; r.on('data', d => n += d.length); " \
        "r.on('end', () => console.log(n)) })"
    for number, host in enumerate(("server.test", V4, f"[{V6}]")):
        run(*named, "git", "clone", "-q", f"http://{host}:8000/repo.git", f"{clones}/{number}")
        assert os.path.getsize(f"{clones}/{number}/small") == SMALL
        url = f"http://{host}:8000/small"
        for program in ([os.path.abspath("fetch")], ["python3", "-c", in_python], ["node", "-e", in_node]):
            assert run(*named, *program, url).stdout == f"{SMALL}\n", (program, host)


sh('''
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
git init -q work && cd work && git -c user.name=t -c user.email=t@t commit -q --allow-empty -m first && cp ../www/small . && git add small
git -c user.name=t -c user.email=t@t commit -q -m second
git clone -q --bare . ../www/repo.git && cd ../www/repo.git && git update-server-info''')
programs(FILE if LARGE == "built-in" else PART)
programs(FILE if LARGE == "lwip" else PART, "--network", "plugin", "--plugin", LWIP)

# What comes on a connection whose sandbox's side has ended comes once. That of Debian 12 says no end: it resets the connection
# after 16 s.
HALF_SERVER = f"""
import socket, time
s = socket.create_server(("{V4}", 9001))
c = s.accept()[0]
count = 0
while data := c.recv(65536):
    count += len(data)
c.sendall(b"%d bytes\\n" % count)
time.sleep(0.3)
c.sendall(b"and more\\n")
"""
HALF_CLIENT = f"""
import socket
s = socket.create_connection(("{V4}", 9001))
s.sendall(b"x" * 100_000)
s.shutdown(socket.SHUT_WR)
try:
    while data := s.recv(100):
        print(data.decode(), end="", flush=True)
except ConnectionResetError:
    pass
"""
outside(sys.executable, "-c", HALF_SERVER)
listening(9001)
HALF = child(NETGRAFT, "run", "--link", "passt", "--", "python3", "-c", HALF_CLIENT, stdout=subprocess.PIPE, text=True)
assert HALF.stdout.readline() == "100000 bytes\n" and HALF.stdout.readline() == "and more\n"
assert HALF.stdout.read() == "" and HALF.wait(30) == 0

# Nobody listens: the outside says so.
assert "Failed to connect" in run("--", "curl", "-sS", f"http://{V4}:9/", status=7).stderr

# Addresses of one's own; faults and captures work here as on any link.
own = ("--address", "192.0.2.9/24", "--gateway", "192.0.2.1")
assert run(*own, "--link-delay", "10ms", "--pcap", "p.pcapng", "--", "redis-cli", "-h", V4, "ping").stdout == "PONG\n"
# tcpdump would become another user, of whom a user namespace knows nothing.
who = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
if "PLAIN" in os.environ:
    who = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
lines = subprocess.run([*who, "tcpdump", "-nr", "p.pcapng", "tcp port 6379"],
                       capture_output=True, text=True, check=True).stdout.splitlines()
assert any("Flags [S]," in line for line in lines) and any(" > 192.0.2.9." in line for line in lines), lines
comments = subprocess.run(["tshark", "-r", "p.pcapng", "-Y", "tcp.port==6379", "-T", "fields", "-e", "frame.comment"],
                          capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
assert comments and all(comment.startswith("redis-cli[") and comment.endswith("] fd 3") for comment in comments), comments

# A name server that the host alone reaches, as systemd-resolved's: passt asks it.
child(sys.executable, "-c", DNS, "127.0.0.53")
with open("resolv.conf", "w") as file:
    file.write("nameserver 127.0.0.53\noptions edns0\n")
os.chmod("resolv.conf", 0o644)
hidden = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', os.path.abspath("resolv.conf")]
done = subprocess.run([*hidden, NETGRAFT, "run", "--link", "passt", "--", "curl", "-4sS", "http://server.test:8000/small", "-o", "/dev/null",
                       "-w", "%{size_download}"], capture_output=True, text=True, timeout=120)
assert (done.stdout, done.stderr) == (str(SMALL), ""), done
until("passt ends with the sandbox", lambda: not passts())

# Too small a one for IPv6, which is left out, and said.
done = run("--mtu", "1200", "--", "ip", "address", "show", "eth0")
assert "mtu 1200" in done.stdout and "inet 198.51.100.2/24" in done.stdout and "inet6" not in done.stdout, done.stdout
assert done.stderr == ("netgraft: warning: IPv6 is left out: IPv6 needs an MTU of 1280 or more, and --link passt has 1200\n"), done.stderr
refused("the address 2001:db8:1::9/64: IPv6 needs an MTU of 1280 or more, and --link passt has 1200", "--mtu", "1200",
        "--address", "2001:db8:1::9/64")
# An MTU of one's own.
assert "mtu 1400" in run("--mtu", "1400", "--", "ip", "link", "show", "eth0").stdout

# A port of the host's leads inside: of TCP to a server that speaks first, and of UDP.
TCP_SERVER = """
import socket, sys
v6 = sys.argv[1] == "6"
s = socket.create_server(("::" if v6 else "", 80), family=socket.AF_INET6 if v6 else socket.AF_INET)
print("up", flush=True)
s.accept()[0].sendall(b"inside")
"""
UDP_SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 53))
print("up", flush=True)
while True:
    data, peer = s.recvfrom(2000)
    s.sendto(b"inside " + data, peer)
    if data == b"last":
        break
"""
UDP_CLIENT = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
s.connect((sys.argv[1], 5353))
for data in (b"first", b"x" * 1200, b"last"):
    # A datagram may be lost.
    for attempt in range(20):
        s.send(data)
        try:
            # One that was late is that of an attempt before.
            while s.recv(2000) != b"inside " + data:
                pass
            break
        except OSError:
            assert attempt < 19, data
print("all")
"""
for stack in ((), ("--network", "plugin", "--plugin", LWIP)):
    for family, shown in (("4", "198.51.100.2"), ("6", "[2001:db8:1::2]")):
        for port, server, client in (
                ("8080:80", TCP_SERVER, ("nc", "-d", shown.strip("[]"), "8080")),
                ("5353:53/udp", UDP_SERVER, (sys.executable, "-c", UDP_CLIENT, shown.strip("[]")))):
            box = child(NETGRAFT, "run", *stack, "--link", "passt", "--publish", f"{shown}:{port}", "--", "python3", "-c",
                        server, family, stdout=subprocess.PIPE, text=True)
            assert box.stdout.readline() == "up\n"
            done = subprocess.run(["nsenter", f"--net=/proc/{OUTSIDE}/ns/net", *client], capture_output=True, text=True,
                                  timeout=60)
            assert done.stdout in ("inside", "all\n"), (stack, shown, port, done)
            assert box.wait(30) == 0
# One that is taken for one family, or by another socket of UDP that would share it, or that is no address of the host's.
for family, kind, address, ports in (
        (socket.AF_INET6, socket.SOCK_STREAM, "::", ["8080:80", "[2001:db8:1::2]:8080:80"]),
        (socket.AF_INET, socket.SOCK_STREAM, "198.51.100.2", ["8080:80", "198.51.100.2:8080:80"]),
        (socket.AF_INET6, socket.SOCK_DGRAM, "::", ["8080:80/udp", "[::]:8080:80/udp"]),
        (socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0", ["8080:80/udp", "198.51.100.2:8080:80/udp"])):
    with socket.socket(family, kind) as holder_of_port:
        # Connections to the port of before may still wait for their end.
        holder_of_port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            holder_of_port.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        holder_of_port.bind((address, 8080))
        if kind == socket.SOCK_STREAM:
            holder_of_port.listen()
        for port in ports:
            refused(f"--publish {port}: ", "--publish", port)
        # The other family's is free.
        other = "[2001:db8:1::2]" if family == socket.AF_INET else "198.51.100.2"
        run("--publish", f"{other}:{ports[0]}", "--", "true")
refused("Cannot assign requested address", "--publish", "192.0.2.9:8080:80")
refused("--publish goes with --link passt", "--publish", "80", link=())
refused("is no port to publish", "--publish", "80/sctp")

# One that is running already.
child("passt", "--foreground", "--quiet", "--one-off", "--no-map-gw", "--socket", os.path.abspath("s"),
      "--tcp-ports", "none", "--udp-ports", "none", stderr=subprocess.DEVNULL)
if os.getuid() != 0 or os.environ.get("USERNS"):
    until("passt's socket", lambda: os.path.exists("s"))
    assert run("--", "redis-cli", "-h", V4, "ping", link=("--link", "passt:s")).stdout == "PONG\n"
    CHILDREN.pop().wait(30)
    # It is killed: the stack says so, as nobody else sees it.
    other = child("passt", "--foreground", "--quiet", "--one-off", "--no-map-gw", "--socket", os.path.abspath("s2"),
                  "--tcp-ports", "none", "--udp-ports", "none", stderr=subprocess.DEVNULL)
    until("passt's socket", lambda: os.path.exists("s2"))
    box = child(NETGRAFT, "run", "--link", "passt:s2", "--", "sh", "-c", f"redis-cli -h {V4} ping; read x", stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert box.stdout.readline() == "PONG\n"
    other.kill()
    assert box.stderr.readline() == "netgraft: sentry: warning: passt has closed the link; the sandbox has no uplink from here on\n"
    box.communicate("\n", timeout=30)
else:
    CHILDREN.pop().kill()
refused("is 'passt --socket no/such' running", link=("--link", "passt:no/such"))

# passt is killed under load: the program's connection ends, and one line says why.
script = "curl -sS --limit-rate 8M --max-time 60 http://198.51.100.1:8000/part -o /dev/null; echo status $?; " \
    "curl -sS --max-time 60 http://198.51.100.1:8000/; echo status $?"
box = child(NETGRAFT, "run", "--link", "passt", "--", "sh", "-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
until("passt", passts)
time.sleep(1)
for pid in passts():
    os.kill(pid, signal.SIGKILL)
out, errors = box.communicate(timeout=60)
told = [line for line in errors.splitlines() if line.startswith("netgraft: warning: passt has ended (signal: 9")]
# curl's statuses: a failure of receiving, and no connection; neither takes the time that it has.
assert out == "status 56\nstatus 7\n" and len(told) == 1 and "no uplink from here on" in told[0], (out, errors)

# passt is killed and started again.
box = child(NETGRAFT, "run", "--link", "passt", "--on-crash", "restart", "--", "sh", "-c",
            f"redis-cli -h {V4} ping; read x; for i in 1 2 3 4 5 6 7 8 9; do redis-cli -h {V4} ping && break; sleep 1; done",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
assert box.stdout.readline() == "PONG\n"
before = passts()
os.kill(before[0], signal.SIGKILL)
until("another passt", lambda: passts() and passts() != before)
out, errors = box.communicate("\n", timeout=60)
assert out == "PONG\n" and "passt has ended (signal: 9" in errors and "a fresh one takes over" in errors, (out, errors)

# The stack crashes under load and starts again, with a passt of its own.
script = f"""
import os, signal, socket, sys, time
print("up", flush=True)
sys.stdin.readline()
for _ in range(100):
    try:
        s = socket.create_connection(("{V4}", 6379), timeout=5)
        s.sendall(b"PING\\r\\n")
        if s.recv(100) == b"+PONG\\r\\n":
            print("again", flush=True)
            break
    except OSError:
        pass
    time.sleep(0.1)
"""
box = child(NETGRAFT, "run", "--link", "passt", "--on-crash", "restart", "--", "python3", "-c", script,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
assert box.stdout.readline() == "up\n"
before = passts()


def sentry_of(launcher):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if open(f"/proc/{pid}/comm").read() == "netgraft-sentry\n" and f"PPid:\t{launcher}\n" in open(f"/proc/{pid}/status").read():
                return int(pid)
        except OSError:
            pass
    raise AssertionError("no sentry")


os.kill(sentry_of(box.pid), signal.SIGKILL)
until("another passt", lambda: passts() and passts() != before)
out, errors = box.communicate("\n", timeout=60)
assert out == "again\n", (out, errors)
until("passt ends", lambda: not passts())

# netgraft is killed: passt ends.
box = child(NETGRAFT, "run", "--link", "passt", "--", "sh", "-c", "echo up; sleep 1000", stdout=subprocess.PIPE, text=True)
assert box.stdout.readline() == "up\n" and passts()
box.kill()
box.wait()
until("passt ends after a kill", lambda: not passts())

# A passt that is missing is told with the package's name.
os.mkdir("bin")
for name in ("echo", "true"):
    os.symlink(f"/usr/bin/{name}", f"bin/{name}")
refused("install the package passt", env={**os.environ, "PATH": os.path.abspath("bin")})

# One that is too old for what netgraft asks of it.
with open("bin/passt", "w") as file:
    file.write("#!/bin/sh\necho \"passt: unrecognized option '--fd'\" >&2\nexit 1\n")
os.chmod("bin/passt", 0o755)
refused("unrecognized option '--fd'", env={**os.environ, "PATH": os.path.abspath("bin") + ":/usr/bin:/bin"})
print("OK")

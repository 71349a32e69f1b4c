# Who may talk to whom: a program that tries every way out gets where the rules say, and nowhere else. A namespace of the test's
# own has the servers. Prints OK if all is well.
import json, os, queue, socket, struct, subprocess, sys, threading, time

NETGRAFT, LWIP, HOSTILE = sys.argv[1:4]
# The test's addresses are documentation's, which are public to a policy; the last two are private and a cloud's.
SERVERS = ["198.51.100.1", "198.51.100.2", "10.9.9.1", "169.254.169.254"]
SIX = ["2001:db8::1", "2001:db8::2"]

def sh(*args):
    subprocess.run(args, check=True)

sh("ip", "link", "set", "lo", "up")
sh("ip", "tuntap", "add", "ng0", "mode", "tap")
for server in SERVERS:
    sh("ip", "address", "add", f"{server}/32", "dev", "lo")
for server in SIX:
    sh("ip", "address", "add", f"{server}/128", "dev", "lo", "nodad")
sh("ip", "address", "add", "192.0.2.1/24", "dev", "ng0")
sh("ip", "address", "add", "2001:db8:1::1/64", "dev", "ng0", "nodad")
sh("ip", "link", "set", "ng0", "up")

# What reaches the servers: the address and port that were reached, in order.
reached, lock, marks = [], threading.Lock(), queue.Queue()

# Forgets what has reached the servers, when they have seen all that was sent to them.
def forget():
    udp = [(s.family, s.getsockname()[:2]) for s in servers if s.type == socket.SOCK_DGRAM]
    for family, place in udp:
        with socket.socket(family, socket.SOCK_DGRAM) as marker:
            marker.sendto(b"marker", place)
    assert {marks.get(timeout=60) for _ in udp} == {place for _, place in udp}
    with lock:
        reached.clear()

def serve(family, kind, address, port):
    server = socket.socket(family, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    if kind == socket.SOCK_STREAM:
        server.listen(1000)
    def tcp():
        while True:
            connection, _ = server.accept()
            with lock:
                reached.append(("tcp", address, port))
            try:
                connection.sendall(b"yes")
            except OSError:
                pass
            connection.close()
    def udp():
        while True:
            data, peer = server.recvfrom(2000)
            if data == b"marker":
                marks.put((address, port))
                continue
            with lock:
                reached.append(("udp", address, port))
            server.sendto(b"yes", peer)
    threading.Thread(target=tcp if kind == socket.SOCK_STREAM else udp, daemon=True).start()
    return server

servers = []
for address in SERVERS + SIX:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in (443, 80, 53):
        servers += [serve(family, kind, address, port) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]

LINK = ["--link", "tap:ng0", "--address", "192.0.2.2/24", "--gateway", "192.0.2.1"]
SIX_LINK = ["--address", "2001:db8:1::2/64", "--gateway", "2001:db8:1::1"]

# Inside: tries each flow it is told, one a line, and prints what came of it.
INSIDE = r'''
import errno, socket, sys
def attempt(kind, address, port, how):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    s.settimeout(60)
    try:
        to = (address, port)
        if how == "connect":
            s.connect(to)
            if kind == "udp": s.send(b"x")
        elif how == "sendto": s.sendto(b"x", to)
        elif how == "sendmsg": s.sendmsg([b"x"], [], 0, to)
        elif how == "fastopen": s.sendto(b"x", 0x20000000, to)
        return s.recv(10).decode()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    finally: s.close()
for line in sys.stdin:
    kind, address, port, how = line.split()
    print(attempt(kind, address, int(port), how), flush=True)
'''

class Sandbox:
    def __init__(self, *options):
        command = [NETGRAFT, "run", "--host-ids", *options, "--", "/usr/bin/python3", "-c", INSIDE]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    def tries(self, kind, address, port, how="connect"):
        self.child.stdin.write(f"{kind} {address} {port} {how}\n"); self.child.stdin.flush()
        return self.child.stdout.readline().strip()
    def end(self):
        _, errors = self.child.communicate(timeout=600)
        assert self.child.returncode == 0, errors
        return errors

STACKS = {
    "built-in": LINK + SIX_LINK,
    "lwip": ["--network", "plugin", "--plugin", LWIP, *LINK],
    "host": ["--network", "host"],
}
# Where a sandbox is reached.
INNER = {"built-in": "192.0.2.2", "lwip": "192.0.2.2", "host": "192.0.2.1"}

def flows(name, stack):
    v6 = name != "lwip"
    rules = ["--allow", "tcp 198.51.100.1:443", "--allow", "udp 198.51.100.1:53", "--allow", "2001:db8::1", "--deny", "198.51.100.2:80", "--allow", "tcp any:80"]
    box = Sandbox(*stack, *rules)
    yes, no = "yes", "EACCES"
    cases = [
        ("tcp 198.51.100.1 443", yes), ("tcp 198.51.100.1 53", no), ("tcp 198.51.100.2 443", no), ("tcp 198.51.100.2 80", no),
        ("tcp 198.51.100.1 80", yes), ("udp 198.51.100.1 53", yes), ("udp 198.51.100.1 443", no), ("udp 198.51.100.2 53", no),
        # Not by a rule about all.
        ("tcp 10.9.9.1 80", no), ("tcp 169.254.169.254 80", no), ("udp 169.254.169.254 80", no),
    ]
    if v6:
        cases += [
            ("tcp 2001:db8::1 443", yes), ("udp 2001:db8::1 53", yes), ("tcp 2001:db8::2 443", no), ("udp 2001:db8::2 53", no),
            ("tcp ::ffff:198.51.100.1 443", yes), ("tcp ::ffff:198.51.100.2 443", no), ("tcp ::ffff:169.254.169.254 80", no),
            ("udp ::ffff:198.51.100.2 53", no),
        ]
    forget()
    for flow, wanted in cases:
        kind = flow.split()[0]
        ways = ["connect"] + (["sendto", "sendmsg"] if kind == "udp" else ["fastopen"] if not v6 or ":" not in flow else [])
        for how in ways:
            if how == "fastopen" and (name != "built-in" or wanted == yes):
                continue
            got = box.tries(*flow.split(), how)
            assert got == wanted, (name, flow, how, got)
    errors = box.end()
    told = [line for line in errors.splitlines() if "denied: python3" in line]
    assert any("out tcp 198.51.100.2:80: rule" in line and "'deny out 198.51.100.2:80'" in line for line in told), errors
    assert any("169.254.169.254:80: a metadata service" in line for line in told), errors
    assert any("10.9.9.1:80: a private network" in line for line in told), errors
    with lock:
        allowed = {("tcp", "198.51.100.1", 443), ("tcp", "198.51.100.1", 80), ("udp", "198.51.100.1", 53), ("tcp", "2001:db8::1", 443), ("udp", "2001:db8::1", 53)}
        assert set(reached) <= allowed, set(reached) - allowed
        assert ("tcp", "198.51.100.1", 443) in reached and ("udp", "198.51.100.1", 53) in reached

    box = Sandbox(*stack, "--deny", "198.51.100.2", "--deny-with", "refused")
    assert box.tries("tcp", "198.51.100.1", "443") == "yes"
    assert box.tries("tcp", "198.51.100.2", "443") == "ECONNREFUSED"
    assert box.tries("tcp", "10.9.9.1", "80") == "ECONNREFUSED"
    box.end()
    box = Sandbox(*stack, "--allow", "any", "--allow-private", "--allow", "169.254.169.254:80")
    assert [box.tries("tcp", a, p) for a, p in (("10.9.9.1", "80"), ("169.254.169.254", "80"), ("169.254.169.254", "443"))] == ["yes", "yes", "EACCES"]
    box.end()

# Who comes in: by the peer's address and the own port. What binds, by the own address.
INSIDE_SERVER = r'''
import errno, socket, sys, threading
def bind(kind, address, port):
    s = socket.socket(socket.AF_INET, kind)
    s.bind((address, port))
    return s
one, two = bind(socket.SOCK_STREAM, "0.0.0.0", 8080), bind(socket.SOCK_STREAM, "0.0.0.0", 8081)
datagrams = bind(socket.SOCK_DGRAM, "0.0.0.0", 8080), bind(socket.SOCK_DGRAM, "0.0.0.0", 8081)
for port in (22, 9000):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try: bind(kind, "0.0.0.0", port); print("bound")
        except OSError as error: print(errno.errorcode[error.errno])
def accept(s):
    while True:
        c, _ = s.accept(); c.sendall(b"in"); c.close()
def echo(s):
    while True:
        data, peer = s.recvfrom(100); s.sendto(b"in", peer)
        if data == b"spoof": print("spoofed", peer, flush=True)
for s in (one, two): s.listen(); threading.Thread(target=accept, args=[s], daemon=True).start()
for s in datagrams: threading.Thread(target=echo, args=[s], daemon=True).start()
# Within the sandbox everybody may: over the loopback, and to its own address.
for to in (("127.0.0.1", 8081), (sys.argv[1], 8081)):
    try: c = socket.create_connection(to, 20); print(c.recv(10).decode()); c.close()
    except OSError as error: print(errno.errorcode[error.errno])
print("up", flush=True)
sys.stdin.read()
'''

def comes_in(name, stack):
    inner = INNER[name]
    options = [*stack, "--allow", "in 192.0.2.1:8080", "--allow", "bind any:8000-8999"]
    command = [NETGRAFT, "run", "--host-ids", *options, "--", "/usr/bin/python3", "-c", INSIDE_SERVER, inner]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = []
    while said[-1:] != ["up"]:
        line = child.stdout.readline()
        assert line, child.communicate()
        said.append(line.strip())
    # The host's loopback and addresses are not the sandbox's own.
    within = ["EACCES", "EACCES"] if name == "host" else ["in", "in"]
    assert said == ["EACCES"] * 4 + within + ["up"], (name, said)
    def asks(kind, port, source, patience=60):
        s = socket.socket(socket.AF_INET, kind); s.settimeout(patience)
        s.bind((source, 0))
        try:
            s.connect((inner, port)); s.send(b"x"); return s.recv(10).decode()
        except socket.timeout:
            return "silence"
        except OSError:
            return "error"
        finally:
            s.close()
    stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
    assert asks(stream, 8080, "192.0.2.1") == "in", name
    got = [asks(datagram, 8080, "192.0.2.1") for _ in range(3)]
    assert got == ["in"] * 3, (name, got)
    for port, source in ((8081, "192.0.2.1"), (8080, "198.51.100.1")):
        got = asks(stream, port, source)
        assert got in ("", "error"), (name, port, source, got)
    assert asks(datagram, 8081, "192.0.2.1", 1) == "silence" and asks(datagram, 8080, "198.51.100.1", 1) == "silence", name
    # Who takes the sandbox's own address is not within it.
    if name != "host":
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        payload = b"spoof"
        for source, port in (("192.0.2.2", 8081), ("192.0.2.2", 8080), ("127.0.0.1", 8081)):
            udp = struct.pack("!HHHH", 4000, port, 8 + len(payload), 0) + payload
            header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton("192.0.2.2"))
            raw.sendto(header + udp, ("192.0.2.2", 0))
    # One that is dropped holds up none behind it.
    got = [asks(datagram, 8080, "192.0.2.1") for _ in range(3)]
    assert got == ["in"] * 3, (name, got)
    said, errors = child.communicate(timeout=600)
    assert said == "", said
    assert "denied: - in tcp" in errors and "denied: - in udp" in errors, errors

# A thread that changes the address in memory while another one calls, a child, raw sockets, and 10⁵ tries.
def hostile(name, stack):
    forget()
    tries = "100000" if name != "lwip" and "USERNS" not in os.environ else "10000"
    command = [NETGRAFT, "run", "--host-ids", *stack, "--allow", "198.51.100.1:443", "--", HOSTILE, "198.51.100.1", "198.51.100.2", "443", tries]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (name, done.stdout[-2000:], done.stderr[-2000:])
    assert len(done.stderr) < 64 << 10, len(done.stderr)
    # The last that it does is to reach the allowed one by both; whatever went astray came before that.
    deadline = time.monotonic() + 60
    while len(set(reached)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    with lock:
        assert set(reached) == {("tcp", "198.51.100.1", 443), ("udp", "198.51.100.1", 443)}, set(reached)

def bad_files():
    with open("bad.toml", "w") as file:
        file.write('rules = [\n  "allow tcp 198.51.100.1:443",\n  "allow tcp 198.51.100.1:x",\n]\n')
    for command in (["run", "--policy", "bad.toml", "--", "true"], ["policy", "check", "bad.toml"]):
        done = subprocess.run([NETGRAFT, *command], capture_output=True, text=True)
        assert done.returncode == 125 and "bad.toml: line 3, column 27: 'x' is no port" in done.stderr, done
    with open("empty.toml", "w") as file:
        file.write("allow-private = true\n")
    done = subprocess.run([NETGRAFT, "run", "--policy", "empty.toml", "--", "true"], capture_output=True, text=True)
    assert done.returncode == 125 and "empty.toml: there is neither a rule nor a default in it" in done.stderr, done
    with open("good.toml", "w") as file:
        file.write('default = "allow"\ndeny-with = "refused"\nrules = ["deny tcp 198.51.100.2:443"]\n')
    done = subprocess.run([NETGRAFT, "policy", "check", "good.toml", "--flow", "tcp 198.51.100.2:443", "--flow", "udp 198.51.100.2:53"], capture_output=True, text=True)
    assert done.stdout == "deny out tcp 198.51.100.2:443: rule 1, 'deny out tcp 198.51.100.2:443'\nallow out udp 198.51.100.2:53: no rule is about it\n", done
    box = Sandbox(*LINK, "--allow", "tcp 198.51.100.2:443", "--policy", "good.toml")
    assert box.tries("tcp", "198.51.100.2", "443") == "yes", "the command line's rules come first"
    box.end()
    box = Sandbox(*LINK, "--policy", "good.toml")
    assert box.tries("tcp", "198.51.100.2", "443") == "ECONNREFUSED" and box.tries("tcp", "198.51.100.2", "80") == "yes"
    box.end()

# Sockets of the host's that the program is given: said, or with --strict refused.
def given_sockets():
    with socket.socket() as one, socket.socket(socket.AF_UNIX) as other:
        for each in (one, other):
            os.set_inheritable(each.fileno(), True)
        for fd, is_inet in ((one.fileno(), True), (other.fileno(), False)):
            for strict in (False, True):
                options = ["--deny", "198.51.100.2", "--keep-fd", str(fd)] + ["--strict"] * strict
                done = subprocess.run([NETGRAFT, "run", "--host-ids", *options, "--", "true"], capture_output=True, text=True, pass_fds=[fd])
                said = f"no rule reaches the host's sockets that the program is given: descriptor {fd}" in done.stderr
                assert said == is_inet and done.returncode == (125 if strict and is_inet else 0), (fd, strict, done)
    done = subprocess.run([NETGRAFT, "run", "--host-ids", "--strict", "--", "true"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done

given_sockets()
bad_files()
for name, stack in STACKS.items():
    flows(name, stack)
    comes_in(name, stack)
    hostile(name, stack)
print("OK")

# Flows as lines of JSON, and the rules that a run needs. Prints OK if all is well.
import json, os, socket, subprocess, sys, threading, time

NETGRAFT, LWIP = sys.argv[1:3]

def sh(*args):
    subprocess.run(args, check=True)

sh("ip", "link", "set", "lo", "up")
sh("ip", "tuntap", "add", "ng0", "mode", "tap")
for server in ("198.51.100.1", "198.51.100.2", "10.9.9.1"):
    sh("ip", "address", "add", f"{server}/32", "dev", "lo")
sh("ip", "address", "add", "192.0.2.1/24", "dev", "ng0")
sh("ip", "link", "set", "ng0", "up")

def serve(address):
    streams = socket.socket(); streams.bind((address, 80)); streams.listen(1000)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); datagrams.bind((address, 53))
    def accept():
        while True:
            connection = streams.accept()[0]
            if data := connection.recv(100):
                connection.sendall(data * 3)
            connection.close()
    def answer():
        while True:
            data, peer = datagrams.recvfrom(100)
            datagrams.sendto(data * 2, peer)
    for each in (accept, answer):
        threading.Thread(target=each, daemon=True).start()

for address in ("198.51.100.1", "198.51.100.2", "10.9.9.1"):
    serve(address)

INSIDE = r"""
import socket, sys
def tcp(address, port, data):
    s = socket.socket(); s.settimeout(60)
    try:
        s.connect((address, port)); s.sendall(data); got = b""
        while part := s.recv(100): got += part
        return len(got)
    except OSError as error: return type(error).__name__
    finally: s.close()
def udp(address, data, count=1):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(60)
    try:
        for _ in range(count): s.sendto(data, (address, 53)); got = len(s.recvfrom(100)[0])
        return got
    except OSError as error: return type(error).__name__
    finally: s.close()
def joined():
    a = socket.socket(); a.bind(("127.0.0.1", 0)); a.listen()
    b = socket.create_connection(a.getsockname()); c = a.accept()[0]
    for s in (a, b, c): s.close()
    return "joined"
def serve(port):
    a = socket.socket(); a.bind(("0.0.0.0", port)); a.listen()
    print("up", flush=True)
    c, peer = a.accept(); data = c.recv(100); c.sendall(data); c.close()
    return "served"
for text in sys.argv[1:]: print(eval(text), flush=True)
"""

LINK = ["--link", "tap:ng0", "--address", "192.0.2.2/24", "--gateway", "192.0.2.1"]

def run(options, *texts):
    command = [NETGRAFT, "run", "--host-ids", *options, "--", "/usr/bin/python3", "-c", INSIDE, *texts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done
    return done.stdout.split(), done.stderr

def lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]

def flows(stack, joins):
    is_host = "host" in stack
    options = [*stack, "--flows", "flows.json", "--deny", "198.51.100.2", "--allow", "198.51.100.1", "--allow", "10.9.9.1", "--allow", "127.0.0.0/8", "--allow", "in 127.0.0.0/8"]
    said, _ = run(options, "tcp('198.51.100.1', 80, b'question')", "tcp('198.51.100.2', 80, b'x')", "tcp('198.51.100.1', 81, b'x')",
        "udp('198.51.100.1', b'four', 3)", "udp('198.51.100.2', b'four')", "joined()")
    assert said == ["24", "PermissionError", "ConnectionRefusedError", "8", "PermissionError", "joined"], said
    assert os.stat("flows.json").st_mode & 0o777 == 0o600
    all = lines("flows.json")
    assert all and all == sorted(all, key=lambda f: f["end"]), all
    for flow in all:
        assert abs(flow["start"] - time.time()) < 3600 and flow["end"] >= flow["start"], flow
        assert flow["pid"] == 1 or flow["pid"] == 2, flow
        assert flow["executable"].startswith("/usr/bin/python3"), flow
    def one(**wanted):
        found = [f for f in all if all_of(f, wanted)]
        assert len(found) == 1, (wanted, all)
        return found[0]
    all_of = lambda f, wanted: all_items(wanted, f)
    all_items = lambda wanted, f: not [k for k, v in wanted.items() if f.get(k) != v]
    flow = one(protocol="tcp", remote="198.51.100.1:80")
    assert (flow["direction"], flow["bytes_sent"], flow["bytes_received"], flow["ended"]) == ("out", 8, 24, "closed"), flow
    assert flow["local"].startswith("198.51.100.1:" if is_host else "192.0.2.2:") and flow["rule"] == "rule 2, 'allow out 198.51.100.1'" and "packets_sent" not in flow, flow
    if "plugin" not in stack:
        assert flow["retransmits"] == 0, flow
    flow = one(remote="198.51.100.1:81")
    assert flow["ended"] == "connection refused", flow
    flow = one(protocol="tcp", remote="198.51.100.2:80")
    assert flow["ended"] == "denied" and flow["rule"] == "rule 1, 'deny out 198.51.100.2'" and "bytes_sent" not in flow, flow
    flow = one(protocol="udp", remote="198.51.100.1:53")
    sums = [flow[name] for name in ("packets_sent", "packets_received", "bytes_sent", "bytes_received")]
    assert sums == [3, 3, 12, 24] and flow["ended"] == "closed", flow
    one(protocol="udp", remote="198.51.100.2:53", ended="denied")
    inner = [f for f in all if f["remote"].startswith("127.0.0.1:")]
    if joins:
        assert len(inner) == 1 and inner[0]["joined"] and "bytes_sent" not in inner[0] and inner[0]["ended"] == "closed", inner
    else:
        assert [f["direction"] for f in inner].count("out") == 1 and "joined" not in inner[0], inner

def comes_in(stack):
    command = [NETGRAFT, "run", "--host-ids", *stack, "--flows", "in.json", "--learn", "in.toml", "--", "/usr/bin/python3", "-c", INSIDE, "serve(8080)"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "up\n"
    inner = "192.0.2.1" if "host" in stack else "192.0.2.2"
    client = socket.create_connection((inner, 8080), 60)
    client.sendall(b"hello"); assert client.recv(10) == b"hello"
    peer = "%s:%d" % client.getsockname()
    assert child.wait(60) == 0
    all = lines("in.json")
    assert len(all) == 1 and all[0]["direction"] == "in" and all[0]["remote"] == peer and all[0]["local"] == inner + ":8080", all
    assert all[0]["bytes_received"] == 5 and all[0]["bytes_sent"] == 5 and all[0]["executable"].startswith("/usr/bin/python3"), all
    with open("in.toml") as file:
        assert '"allow in tcp 192.0.2.1:8080",' in file.read()

def rotation():
    said, _ = run([*LINK, "--flows", "many.json", "--flows-size", "2000", "--flows-keep", "3"], "[tcp('198.51.100.1', 80, b'x') for _ in range(50)][-1]")
    assert said == ["3"], said
    files = sorted(name for name in os.listdir(".") if name.startswith("many.json"))
    assert len(files) == 3 and not os.path.exists("many.json"), files
    numbers = sorted(int(name.rpartition(".")[2]) for name in files)
    assert numbers == list(range(numbers[0], numbers[0] + 3)) and numbers[0] > 1, files
    for name in files:
        assert os.stat(name).st_size <= 2000 and len(lines(name)) >= 1, name

# What a run was seen to need lets it run again, and nothing else.
def learns(stack):
    # On the host each port of the loopback is named, and that one is another one each time.
    within = "1 and 'joined'" if "host" in stack else "joined()"
    texts = ["tcp('198.51.100.1', 80, b'a')", "udp('10.9.9.1', b'a')", within]
    said, _ = run([*stack, "--learn", "rules.toml"], *texts)
    assert said == ["3", "2", "joined"], said
    checked = subprocess.run([NETGRAFT, "policy", "check", "rules.toml"], capture_output=True, text=True)
    assert checked.returncode == 0 and "2 rules, what no rule is about: deny" in checked.stdout, checked
    said, errors = run([*stack, "--policy", "rules.toml", "--learn", "again.toml"], *texts, "tcp('198.51.100.2', 80, b'a')", "udp('198.51.100.1', b'a')")
    assert said == ["3", "2", "joined", "PermissionError", "PermissionError"], said
    with open("again.toml") as file:
        text = file.read()
    with open("rules.toml") as file:
        assert text.startswith(file.read()), text
    assert text.endswith("# Denied, and not among them:\n#   out tcp 198.51.100.2:80\n#   out udp 198.51.100.1:53\n"), text

def what_cannot_be():
    for options, part in (
        (["--flows", "/nowhere/flows"], "the flows /nowhere/flows cannot be written: No such file"),
        (["--datagrams", "kernel", *LINK, "--learn", "f"], "leave --datagrams kernel out"),
        (["--flows", "f", "--flows-size", "10"], "1000 bytes or more"),
    ):
        done = subprocess.run([NETGRAFT, "run", *options, "--", "true"], capture_output=True, text=True)
        assert done.returncode == 125 and part in done.stderr, done
    # The loopback alone: datagrams are seen there, too.
    said, _ = run(["--flows", "loopback.json"], "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'abc', ('127.0.0.1', 9))")
    assert said == ["3"] and [(f["protocol"], f["bytes_sent"]) for f in lines("loopback.json")] == [("udp", 3)], said
    # A program that is killed has flows, too.
    child = subprocess.Popen([NETGRAFT, "run", "--host-ids", *LINK, "--flows", "killed.json", "--", "/usr/bin/python3", "-c",
        "import socket, time; s = socket.create_connection(('198.51.100.1', 80)); print('up', flush=True); time.sleep(1000)"], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"up\n"
    child.terminate(); child.wait(60)
    assert [(f["remote"], f["ended"]) for f in lines("killed.json")] in ([("198.51.100.1:80", "closed")], [("198.51.100.1:80", "stopped")]), lines("killed.json")

LWIP_STACK = ["--network", "plugin", "--plugin", LWIP, *LINK]
HOST = ["--network", "host"]
flows(LINK, True)
flows([*LINK, "--join", "never"], False)
flows(LWIP_STACK, True)
flows(HOST, True)
for stack in (LINK, LWIP_STACK, HOST):
    comes_in(stack)
    learns(stack)
rotation()
what_cannot_be()
print("OK")

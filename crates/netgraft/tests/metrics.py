# Metrics of a sandbox that runs, as Prometheus' own library reads them. Prints OK if all is well.
import json, os, signal, socket, stat, subprocess, sys, threading, time
from prometheus_client.openmetrics.parser import text_string_to_metric_families

NETGRAFT, LWIP = sys.argv[1:3]

def sh(*args):
    subprocess.run(args, check=True)

sh("ip", "link", "set", "lo", "up")
sh("ip", "tuntap", "add", "ng0", "mode", "tap")
sh("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
sh("ip", "address", "add", "192.0.2.1/24", "dev", "ng0")
sh("ip", "link", "set", "ng0", "up")
server = socket.socket(); server.bind(("198.51.100.1", 80)); server.listen(100)
def serve():
    while True:
        connection = server.accept()[0]
        connection.recv(100); connection.sendall(b"x" * 1000); connection.close()
threading.Thread(target=serve, daemon=True).start()

INSIDE = r'''
import socket, sys
print("up", flush=True)
for line in sys.stdin:
    try:
        s = socket.create_connection((line.strip(), 80), 60); s.sendall(b"hello")
        got = 0
        while part := s.recv(2000): got += len(part)
        print(got, flush=True)
    except OSError as error: print(type(error).__name__, flush=True)
'''

class Sandbox:
    def __init__(self, *options):
        command = [NETGRAFT, "run", "--host-ids", *options, "--", "/usr/bin/python3", "-c", INSIDE]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.child.stdout.readline() == "up\n", self.child.communicate()
    def connects(self, to):
        self.child.stdin.write(to + "\n"); self.child.stdin.flush()
        return self.child.stdout.readline().strip()
    def end(self):
        _, errors = self.child.communicate(timeout=600)
        assert self.child.returncode == 0, errors

def connect(place):
    if place.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX); client.settimeout(60); client.connect(place[5:])
        return client
    address, _, port = place.rpartition(":")
    return socket.create_connection((address.strip("[]"), int(port)), 60)

def ask(place, request=b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
    client = connect(place)
    client.sendall(request)
    said = b""
    while part := client.recv(65536):
        said += part
    head, _, body = said.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body.decode()

# By name and labels.
def values(text):
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name + "".join(f"{{{k}={v}}}" for k, v in sorted(sample.labels.items()))] = sample.value
    return found

LINK = ["--link", "tap:ng0", "--address", "192.0.2.2/24", "--gateway", "192.0.2.1"]

def check(stack, place):
    box = Sandbox(*stack, *LINK, "--metrics", place, "--allow", "198.51.100.1")
    status, head, text = ask(place)
    assert status == 200 and head["Content-Type"].startswith("application/openmetrics-text; version=1.0.0"), head
    assert int(head["Content-Length"]) == len(text), head
    before = values(text)
    assert [box.connects(to) for to in ("198.51.100.1", "198.51.100.1", "198.51.100.9")] == ["1000", "1000", "PermissionError"]
    after = values(ask(place)[2])
    grown = lambda name: after[name] - before[name]
    assert grown("netgraft_connections_total{direction=out}") == 2 and grown("netgraft_connections_total{direction=in}") == 0
    assert grown("netgraft_payload_bytes_total{direction=out}") == 10 and grown("netgraft_payload_bytes_total{direction=in}") == 2000
    assert grown("netgraft_policy_denied_total") == 1 and after["netgraft_policy_rules"] == 1
    assert grown("netgraft_calls_total") >= 6 and grown("netgraft_rounds_total") >= 1
    assert grown("netgraft_ip_packets_total{direction=out}") >= 6 and grown("netgraft_ip_octets_bytes_total{direction=in}") >= 2000
    assert grown("netgraft_tcp_opens_total{side=active}") == 2 or stack, after
    assert after["netgraft_memory_bytes"] < after["netgraft_memory_limit_bytes"] == 1 << 30
    assert after["netgraft_descriptors"] > 5, after
    assert "netgraft_tcp_events_total{event=RetransSegs}" in after
    name = "smoltcp" if not stack else "lwip"
    info = [key for key in after if key.startswith("netgraft_stack_info{stack=" + name)]
    assert len(info) == 1 and after[info[0]] == 1, after
    if not stack:
        assert grown("netgraft_link_frames_total{direction=out}") >= 6, after
    # Whatever else comes.
    assert ask(place, b"HEAD /metrics HTTP/1.1\r\n\r\n")[2] == ""
    assert ask(place, b"GET /secret HTTP/1.1\r\n\r\n")[0] == 404
    assert ask(place, b"POST /metrics HTTP/1.1\r\n\r\n")[0] == 405
    assert ask(place, b"\x00\x01\r\n\r\n")[0] == 400
    try:
        assert ask(place, b"GET /" + b"a" * 100_000)[0] == 400
    except (ConnectionResetError, BrokenPipeError):
        pass
    # Those that say nothing keep nobody else waiting, and the sandbox neither.
    idle = [connect(place) for _ in range(7)]
    # Those that were served before may still be on their way out.
    deadline = time.monotonic() + 60
    while ask(place)[0] != 200:
        assert time.monotonic() < deadline
    assert box.connects("198.51.100.1") == "1000"
    for client in idle:
        client.close()
    if place.startswith("unix:"):
        assert stat.S_IMODE(os.stat(place[5:]).st_mode) == 0o600
        done = subprocess.run([NETGRAFT, "metrics", str(box.child.pid)], capture_output=True, text=True)
        assert done.returncode == 0 and set(values(done.stdout)) == set(after), done
    taken = subprocess.run([NETGRAFT, "run", "--metrics", place, "--", "true"], capture_output=True, text=True)
    assert taken.returncode == 125 and taken.stderr.strip().endswith("it is taken") and len(taken.stderr.splitlines()) == 1, taken
    box.end()
    try:
        connect(place)
        assert False, "somebody listens"
    except (ConnectionRefusedError, FileNotFoundError):
        pass
    assert not os.path.exists("metrics.sock")

def a_sentry_that_takes_over():
    box = Sandbox(*LINK, "--on-crash", "restart", "--metrics", "127.0.0.1:9100")
    assert ask("127.0.0.1:9100")[0] == 200
    processes = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,comm="], capture_output=True, text=True).stdout
    sentry, = [int(pid) for pid, parent, name in map(str.split, processes.splitlines()) if parent == str(box.child.pid) and name.startswith("netgraft-sentry")]
    os.kill(sentry, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (status := ask("127.0.0.1:9100")[0]) != 200:
        assert status == 503 and time.monotonic() < deadline
        time.sleep(0.01)
    box.end()

# All that the dashboard asks for is there.
def dashboard():
    with open(sys.argv[3]) as file:
        board = json.load(file)
    box = Sandbox(*LINK, "--metrics", "127.0.0.1:9100", "--allow", "198.51.100.1")
    box.connects("198.51.100.1")
    names = {key.partition("{")[0] for key in values(ask("127.0.0.1:9100")[2])}
    box.end()
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(asked) >= 12, asked
    for text in asked:
        used = {word for word in text.replace("(", " ").replace("[", " ").replace("{", " ").replace(")", " ").split() if word.startswith("netgraft_")}
        assert used and used <= names, (text, used - names)

check([], "unix:" + os.path.abspath("metrics.sock"))
check([], "127.0.0.1:9100")
check(["--network", "plugin", "--plugin", LWIP], "[::1]:9100")
a_sentry_that_takes_over()
dashboard()
print("OK")

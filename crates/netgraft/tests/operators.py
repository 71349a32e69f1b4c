# The operator's socket of a sandbox: netgraft list, netgraft ss, and clients that mean ill. Prints OK if all is well.
import json, os, signal, socket, stat, subprocess, sys, time

NETGRAFT = sys.argv[1]

INSIDE = r'''
import socket, sys
listener = socket.socket(); listener.bind(("127.0.0.1", 8000)); listener.listen()
connection = socket.create_connection(("127.0.0.1", 8000)); accepted = listener.accept()[0]
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); datagrams.bind(("127.0.0.1", 5353))
print("up", flush=True)
for path in sys.stdin:
    try:
        operator = socket.socket(socket.AF_UNIX); operator.settimeout(5); operator.connect(path.strip())
        operator.sendall(b'{"v":1,"ask":"info"}\n')
        said = operator.recv(1000)
    except OSError as error:
        said = error
    print(repr(said), flush=True)
'''

def run(*args):
    done = subprocess.run([NETGRAFT, *args], capture_output=True, text=True)
    assert done.returncode == 0, (args, done)
    return done.stdout

def fails(*args):
    done = subprocess.run([NETGRAFT, *args], capture_output=True, text=True)
    assert done.returncode == 125 and len(done.stderr.splitlines()) == 1, done
    return done.stderr

def find(id):
    return next((s for s in json.loads(run("list", "--json")) if s["id"] == id), None)

def begin(*options):
    program = ["/usr/bin/python3", "-c", INSIDE]
    child = subprocess.Popen([NETGRAFT, "run", "--host-ids", *options, "--", *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "up\n"
    # The socket comes when the program has been let go.
    deadline = time.monotonic() + 30
    while not find(str(child.pid)):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.01)
    return child, str(child.pid)

def place(id):
    folder = "/run/netgraft"
    if "USERNS" in os.environ:
        with open("/proc/self/uid_map") as maps:
            folder = "/tmp/netgraft-" + maps.read().split()[1]
    return f"{folder}/{id}.sock"

def sockets(id, *options):
    return json.loads(run("ss", id, "--json", *options))

def ask(path, *lines):
    client = socket.socket(socket.AF_UNIX); client.settimeout(20); client.connect(path)
    if lines:
        client.sendall(b"".join(line + b"\n" for line in lines))
    reader = client.makefile("rb")
    return client, reader

def check(*options):
    child, id = begin(*options)
    joined = "--join" not in options and "host" not in options
    sandbox = find(id)
    assert sandbox["launcher"] == child.pid and sandbox["uptime"] < 60, sandbox
    assert [p["name"] for p in sandbox["programs"]] == ["python3"], sandbox
    pid = sandbox["programs"][0]["pid"]
    assert id in run("list") and "python3" in run("list")

    # What there is, and filters.
    every = sockets(id, "-a")
    at = lambda state, port: [s for s in every if s["state"] == state and s["local"] == f"127.0.0.1:{port}"]
    assert len(at("LISTEN", 8000)) == 1 and at("LISTEN", 8000)[0]["pid"] == pid, every
    assert len(at("ESTAB", 8000)) == 1 and at("ESTAB", 8000)[0]["joined"] == joined, every
    assert len(at("UNCONN", 5353)) == 1 and at("UNCONN", 5353)[0]["pid"] == pid, every
    assert len(every) == 4, every
    clients = [s for s in every if s["peer"] == "127.0.0.1:8000"]
    assert len(clients) == 1 and clients[0]["process"] == "python3" and clients[0]["fd"] == 4, every
    assert [s["state"] for s in sockets(id)] == ["ESTAB"] * 2
    assert {s["state"] for s in sockets(id, "-l")} == {"LISTEN", "UNCONN"}
    assert [s["protocol"] for s in sockets(id, "-a", "-u")] == ["udp"]
    assert [s["state"] for s in sockets(id, "--state", "listen")] == ["LISTEN"]
    assert len(sockets(id, "-a", "--port", "8000")) == 3 and sockets(id, "--port", "9") == []
    text = run("ss", id, "-l")
    assert "Local Address:Port" in text and f'users:(("python3",pid={pid},fd=3))' in text, text

    # The caller's alone, and nobody's inside.
    path = place(id)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600 and stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    child.stdin.write(path + "\n"); child.stdin.flush()
    said = child.stdout.readline()
    assert "Error" in said or said == "b''\n", said

    # What is no request is answered, and the connection goes on. Requests are answered in their order.
    client, reader = ask(path, b"nonsense", b'{"v":99,"ask":"info"}', b'{"v":1,"ask":"x"}', b'{"v":1,"ask":"sockets"}', b'{"v":1,"ask":"info"}')
    kinds = []
    while kinds[-1:] != ["info"]:
        kinds.append(json.loads(reader.readline())["is"])
    assert kinds[:3] == ["error"] * 3 and kinds[3:-2] == ["socket"] * (len(kinds) - 5) and kinds[-2] == "done", kinds
    # One that sends and never reads, one that asks in halves, one whose line has no end, and too many: nobody waits for them.
    idle = [client]
    deaf, _ = ask(path); deaf.setblocking(False); sent = 0
    while True:
        try:
            sent += deaf.send(b'{"v":1,"ask":"sockets"}\n' * 100)
        except BlockingIOError:
            time.sleep(0.2)
            try:
                sent += deaf.send(b"\n" * 100)
            except BlockingIOError:
                break
    assert sent < 8 << 20, sent
    half, _ = ask(path); half.sendall(b'{"v":1,')
    endless, _ = ask(path)
    try:
        endless.sendall(b"a" * (4 << 20)); assert endless.recv(1) == b""
    except (BrokenPipeError, ConnectionResetError):
        pass
    idle += [deaf, half, endless]
    assert len(sockets(id, "-a")) == 4
    for _ in range(40):
        extra, reader = ask(path); idle.append(extra)
    assert "serves" in fails("ss", id)
    for each in idle:
        each.close()
    deadline = time.monotonic() + 20
    while subprocess.run([NETGRAFT, "ss", id], capture_output=True).returncode != 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert child.poll() is None

    # At the end it is gone.
    child.stdin.close()
    status = child.wait(30)
    assert status == 0, status
    assert not os.path.exists(path) and find(id) is None
    assert "netgraft list" in fails("ss", id)

# The namespace is the test's own.
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for options in ([], ["--join", "never"], ["--network", "host"], ["--network", "plugin", "--plugin", sys.argv[2], "--join", "never"]):
    check(*options)

# What a killed one leaves, the next look removes.
child, id = begin()
path = place(id)
os.kill(child.pid, signal.SIGKILL); child.wait()
assert os.path.exists(path)
assert "killed" in fails("ss", id)
assert find(id) is None and not os.path.exists(path)
assert "no sandbox" in fails("ss", "../x") and "no sandbox" in fails("ss", "0")
print("OK")

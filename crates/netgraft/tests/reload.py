# Rules that change while a sandbox runs: netgraft policy set. Prints OK if all is well.
import os, signal, socket, subprocess, sys, threading, time

NETGRAFT, LWIP = sys.argv[1:3]

def sh(*args):
    subprocess.run(args, check=True)

sh("ip", "link", "set", "lo", "up")
sh("ip", "tuntap", "add", "ng0", "mode", "tap")
for server in ("198.51.100.1", "198.51.100.2"):
    sh("ip", "address", "add", f"{server}/32", "dev", "lo")
sh("ip", "address", "add", "192.0.2.1/24", "dev", "ng0")
sh("ip", "link", "set", "ng0", "up")

def serve(address):
    streams = socket.socket(); streams.bind((address, 80)); streams.listen(100)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); datagrams.bind((address, 53))
    def echo(connection):
        try:
            while data := connection.recv(100):
                connection.sendall(data)
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")
        connection.close()
    def accept():
        while True:
            threading.Thread(target=echo, args=[streams.accept()[0]], daemon=True).start()
    def answer():
        while True:
            data, peer = datagrams.recvfrom(100)
            datagrams.sendto(data, peer)
    for each in (accept, answer):
        threading.Thread(target=each, daemon=True).start()

ends = []
for address in ("198.51.100.1", "198.51.100.2"):
    serve(address)

# Inside: each line is a statement on what there is; its value, or the error's name, is printed.
INSIDE = r'''
import errno, socket, sys
def tcp(address, port=80):
    s = socket.socket(); s.settimeout(60); s.connect((address, port)); return s
def udp(address):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(60); s.connect((address, 53)); return s
def echo(s):
    s.send(b"x"); return s.recv(10).decode() or "end"
def listen(port):
    s = socket.socket(); s.bind(("127.0.0.1", port)); s.listen(); return s
names = {}
for line in sys.stdin:
    name, _, text = line.strip().partition("=")
    try: names[name] = value = eval(text, globals(), names)
    except OSError as error: value = errno.errorcode.get(error.errno, repr(error))
    print(value if isinstance(value, str) else "ok", flush=True)
'''

class Sandbox:
    def __init__(self, *options):
        command = [NETGRAFT, "run", "--host-ids", *options, "--", "/usr/bin/python3", "-c", INSIDE]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.id = str(self.child.pid)
        assert self.does("1") == "ok"
        # The socket comes when the program has been let go.
        deadline = time.monotonic() + 60
        while self.id not in subprocess.run([NETGRAFT, "list"], capture_output=True, text=True).stdout:
            assert time.monotonic() < deadline and self.child.poll() is None
            time.sleep(0.01)
    def does(self, text):
        name, equals, _ = text.partition("=")
        self.child.stdin.write((text if equals else "_=" + text) + "\n"); self.child.stdin.flush()
        return self.child.stdout.readline().strip()
    def set(self, text, *options):
        with open("rules.toml", "w") as file:
            file.write(text)
        return subprocess.run([NETGRAFT, "policy", "set", self.id, "rules.toml", *options], capture_output=True, text=True)
    def is_set(self, text, *options):
        done = self.set(text, *options)
        assert done.returncode == 0 and done.stderr == "", done
        return done.stdout
    def end(self):
        _, errors = self.child.communicate(timeout=600)
        assert self.child.returncode == 0, errors
        return errors

LINK = ["--link", "tap:ng0", "--address", "192.0.2.2/24", "--gateway", "192.0.2.1"]

def rules_change(stack):
    box = Sandbox(*stack, "--policy-default", "allow", "--on-crash", "restart")
    for made in ("one=tcp('198.51.100.1')", "two=tcp('198.51.100.2')", "three=udp('198.51.100.1')", "four=udp('198.51.100.2')"):
        assert box.does(made) == "ok", made
    assert [box.does(f"echo({name})") for name in ("one", "two", "three", "four")] == ["x"] * 4

    # What is wrong with a file is said, and nothing changes.
    done = box.set('rules = [\n  "deny any",\n  "deny tcp 198.51.100.1:x",\n]\n')
    assert done.returncode == 125 and "rules.toml: line 3, column 26: 'x' is no port" in done.stderr, done
    done = box.set("allow-private = true\n")
    assert done.returncode == 125 and "neither a rule nor a default" in done.stderr, done
    assert box.does("echo(tcp('198.51.100.2'))") == "x"

    # New flows by the new rules; what there is goes on.
    assert box.is_set('rules = ["allow 198.51.100.1"]') == ""
    assert box.does("tcp('198.51.100.2')") == "EACCES" and box.does("udp('198.51.100.2')") == "EACCES"
    assert box.does("echo(tcp('198.51.100.1'))") == "x" and box.does("echo(udp('198.51.100.1'))") == "x"
    assert [box.does(f"echo({name})") for name in ("one", "two", "three")] == ["x"] * 3

    # With --kill it does not. The peer of a connection is told.
    del ends[:]
    said = box.is_set('deny-with = "refused"\nrules = ["allow 198.51.100.1"]', "--kill")
    assert said == "2 flows ended\n", said
    assert box.does("echo(two)") in ("ECONNRESET", "EPIPE") and box.does("tcp('198.51.100.2')") == "ECONNREFUSED"
    assert box.does("echo(four)") not in ("x", "ok"), "a datagram socket without a peer"
    deadline = time.monotonic() + 60
    while "reset" not in ends:
        assert time.monotonic() < deadline, ends
        time.sleep(0.01)
    assert [box.does(f"echo({name})") for name in ("one", "three")] == ["x"] * 2
    assert box.is_set('rules = ["allow 198.51.100.1"]', "--kill") == "0 flows ended\n"

    # Between programs of the sandbox, joined. The host's loopback has to be named.
    if "host" in stack:
        assert box.does("listener=listen(7000)") == "ok" and box.does("tcp('127.0.0.1', 7000)") == "EACCES"
        assert box.is_set('rules = ["allow 198.51.100.1", "allow 127.0.0.1:7000", "allow in 127.0.0.1:7000"]') == ""
        assert box.does("listener.close()") == "ok"
    for made in ("listener=listen(7000)", "client=tcp('127.0.0.1', 7000)", "server=listener.accept()[0]"):
        assert box.does(made) == "ok", made
    assert box.is_set('default = "allow"\nrules = ["deny tcp 127.0.0.1:7000"]', "--kill") in ("1 flows ended\n", "2 flows ended\n")
    assert box.does("client.send(b'x')") == "EPIPE" and box.does("server.send(b'x')") in ("EPIPE", "ECONNRESET")
    assert box.does("tcp('127.0.0.1', 7000)") == "EACCES"

    # As many rules as there may be, which are more than one message.
    many = ",".join(f'"deny tcp 203.0.{n >> 8}.{n & 255}"' for n in range(65535))
    assert box.is_set(f'rules = ["deny tcp 198.51.100.2",{many}]') == ""
    assert box.does("tcp('198.51.100.2')") == "EACCES" and box.does("echo(tcp('198.51.100.1'))") == "x"
    done = box.set(f'rules = ["deny any", "deny any",{many}]')
    assert done.returncode == 125 and "more than 65536 rules" in done.stderr, done

    # A sentry that takes over keeps them.
    processes = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,comm="], capture_output=True, text=True).stdout
    sentries = [int(pid) for pid, parent, name in map(str.split, processes.splitlines()) if parent == box.id and name.startswith("netgraft-sentry")]
    assert len(sentries) == 1, processes
    os.kill(sentries[0], signal.SIGKILL)
    said, deadline = "", time.monotonic() + 60
    while said != "x":
        assert time.monotonic() < deadline, said
        said = box.does("echo(tcp('198.51.100.1'))")
        assert box.does("tcp('198.51.100.2')") != "ok"
    assert box.does("tcp('198.51.100.2')") == "EACCES"
    errors = box.end()
    assert "denied: " in errors and "takes over" in errors, errors

def where_they_cannot_be_kept():
    for options, part in ((["--network", "host"], "the host's, since it was started without rules"), ([], "on its loopback")):
        box = Sandbox(*options)
        done = box.set('rules = ["deny udp 127.0.0.1"]')
        assert done.returncode == 125 and part in done.stderr and len(done.stderr.splitlines()) == 1, done
        if not options:
            assert box.is_set('rules = ["deny tcp 127.0.0.1:7000"]') == ""
            assert box.does("listener=listen(7000)") == "ok" and box.does("tcp('127.0.0.1', 7000)") == "EACCES"
        box.end()
    # Without rules at the start, datagrams to other hosts go past the sentry's decisions.
    box = Sandbox(*LINK)
    done = box.set('rules = ["deny tcp 198.51.100.2"]')
    assert done.returncode == 125 and "start it with --policy" in done.stderr, done
    assert box.does("echo(tcp('198.51.100.2'))") == "x"
    box.end()
    done = box.set('default = "deny"')
    assert done.returncode == 125 and "no sandbox" in done.stderr, done

for stack in (LINK, ["--network", "plugin", "--plugin", LWIP, *LINK], ["--network", "host"]):
    rules_change(stack)
where_they_cannot_be_kept()
print("OK")

# Containers by runc, behind netgraft-oci, in a network namespace of the script's own. Prints OK if all is well.
import json, os, signal, socket, subprocess, sys, time

FOLDER, LWIP = sys.argv[1:3]
OCI, NETGRAFT = FOLDER + "/netgraft-oci", FOLDER + "/netgraft"
STATE = "/run/netgraft/oci"
MINE = f"ng{os.getpid()}"
made = 0
# What containers may set by annotations, beside what nobody has to permit.
os.environ["NETGRAFT_OCI_FILE"] = FOLDER + "/oci.toml"
with open(FOLDER + "/oci.toml", "w") as file:
    file.write('annotations = ["network", "plugin", "plugin-arg", "allow", "deny", "policy", "policy-default", "deny-with", "max-sockets"]\n')


def oci(*args, env=None, timeout=120):
    return subprocess.run([OCI, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout, env=env)


def ok(*args, **more):
    done = oci(*args, **more)
    assert done.returncode == 0, (args, done)
    return done.stdout


def until(what, text, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, text
        time.sleep(0.01)


# A bundle whose root has the machine's own programs.
def bundle(args, change=lambda config: None, **annotations):
    global made
    made += 1
    name = f"{MINE}-{made}"
    path = f"{FOLDER}/{name}"
    for part in ("usr", "etc", "proc", "dev", "sys", "tmp"):
        os.makedirs(f"{path}/rootfs/{part}")
    for link in ("bin", "lib", "lib64", "sbin"):
        os.symlink(f"usr/{link}", f"{path}/rootfs/{link}")
    subprocess.run(["runc", "spec"], cwd=path, check=True)
    with open(path + "/config.json") as file:
        config = json.load(file)
    config["process"].update(terminal=False, args=args)
    config["process"]["rlimits"] = []
    config["root"]["readonly"] = False
    for part in ("/usr", "/etc"):
        config["mounts"].append({"destination": part, "type": "bind", "source": part, "options": ["rbind", "ro"]})
    config["annotations"] = {"dev.netgraft." + key.replace("_", "-"): value for key, value in annotations.items()}
    change(config)
    with open(path + "/config.json", "w") as file:
        json.dump(config, file)
    return name, path


def start(args, change=lambda config: None, **annotations):
    name, path = bundle(args, change, **annotations)
    # What the container writes goes to a file: a pipe would stay open with it.
    with open(path + "/out", "w") as out:
        done = subprocess.run([OCI, "create", "--bundle", path, name], stdout=out, stderr=out, stdin=subprocess.DEVNULL, timeout=60)
    with open(path + "/out") as out:
        assert done.returncode == 0, out.read()
    ok("start", name)
    return name, path


def end(name):
    ok("delete", "--force", name)
    until(lambda: name not in os.listdir(STATE), f"the sandbox of {name} is left")


def run(args, change=lambda config: None, **annotations):
    name, path = bundle(args, change, **annotations)
    done = oci("run", "--bundle", path, name)
    until(lambda: name not in os.listdir(STATE), f"the sandbox of {name} is left")
    return done


def python(code):
    return ["/usr/bin/python3", "-c", code]


def pid_of(name):
    return json.loads(ok("state", name))["pid"]


def of_sandbox(name):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read().split(b"\0")
            with open(f"/proc/{pid}/comm") as file:
                comm = file.read().strip()
        except OSError:
            continue
        if f"{STATE}/{name}".encode() in line:
            found.append((comm, int(pid)))
    return found


def redis(port, **annotations):
    name, path = start(["/usr/bin/redis-server", "--port", str(port), "--save", "", "--dir", "/tmp"], **annotations)
    cli = ("exec", name, "/usr/bin/redis-cli", "-p", str(port))
    until(lambda: oci(*cli, "ping").stdout == "PONG\n", "redis does not answer")
    bench = ok("exec", name, "/usr/bin/redis-benchmark", "-p", str(port), "-q", "-n", "3000", "-c", "20", "-t", "set,get")
    assert bench.count("requests per second") == 2, bench
    assert int(ok(*cli, "dbsize")) == 1
    # The kernel has no such socket in the container's network: somebody else serves it.
    listening = ok("exec", name, "/usr/bin/cat", "/proc/net/tcp", "/proc/net/tcp6")
    assert f":{port:04X} " not in listening, listening
    return name


def reaches(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 5):
            return True
    except ConnectionRefusedError:
        return False


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def redis_in_a_container():
    for annotations in ({}, {"join": "never"}, {"network": "plugin", "plugin": LWIP, "join": "never"}):
        name = redis(6379, **annotations)
        assert {"netgraft", "netgraft-sentry", "netgraft-inspec"} <= {comm for comm, _ in of_sandbox(name)}, of_sandbox(name)
        end(name)
        assert of_sandbox(name) == []
    port = free_port()
    name = redis(port, network="host")
    assert reaches(port), "the host reaches a socket of the host's"
    end(name)
    assert not reaches(port)


ECHO = """
import socket
server = socket.create_server(('127.0.0.1', 7000))
while True:
    with server.accept()[0] as client: client.sendall(client.recv(100).upper())
"""
ASK = """
import socket
with socket.create_connection(('127.0.0.1', 7000), 20) as client:
    client.sendall(b'hello'); assert client.recv(100) == b'HELLO'
"""
REFUSED = "import socket\ntry: socket.create_connection(('127.0.0.1', 7000), 20)\nexcept ConnectionRefusedError: print('refused')"


# Containers of one network namespace reach each other by 127.0.0.1, and no others.
def two_containers_of_a_pod():
    first, _ = start(python(ECHO))
    until(lambda: oci("exec", first, *python(ASK)).returncode == 0, "the server does not answer")
    assert ok("exec", first, *python(ASK)) == ""

    def share(config):
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = f"/proc/{pid_of(first)}/ns/net"

    second, _ = start(python("import time; time.sleep(1000)"), share)
    assert second not in os.listdir(STATE), "it has the first one's sandbox"
    ok("exec", second, *python(ASK))
    done = run(python(REFUSED))
    assert done.stdout == "refused\n", done
    # Whoever comes while the sandbox of the last one ends gets one, the same or another.
    sh("ip", "netns", "add", MINE)
    try:

        def again(config):
            for namespace in config["linux"]["namespaces"]:
                if namespace["type"] == "network":
                    namespace["path"] = f"/run/netns/{MINE}"

        for _ in range(20):
            name, path = bundle(python(REFUSED), again)
            done = oci("run", "--bundle", path, name)
            assert done.stdout == "refused\n", done
    finally:
        sh("ip", "netns", "del", MINE)
    # Other options for the same network are refused.
    name, path = bundle(["/usr/bin/true"], share, network="host")
    done = oci("run", "--bundle", path, name)
    assert done.returncode != 0 and "a stack already, with other options" in done.stderr, done
    # The sandbox goes on with the second.
    ok("delete", "--force", first)
    done = oci("exec", second, *python(REFUSED))
    assert done.stdout == "refused\n", done
    ok("delete", "--force", second)
    until(lambda: first not in os.listdir(STATE), "the sandbox is left")


def an_engines_profile_stays():
    def profile(config):
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [
                {"names": ["mkdir", "mkdirat", "listen"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
                {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}]},
            ],
        }

    code = """
import errno, os, socket
def fails(call):
    try: call()
    except OSError as error: return errno.errorcode[error.errno]
print(fails(lambda: os.mkdir('/tmp/x')), fails(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)))
s = socket.socket(); s.bind(('127.0.0.1', 0))
print(fails(s.listen), s.getsockname()[0], fails(lambda: socket.socket(socket.AF_VSOCK)))
"""
    # netgraft's own rules about what the profile allows are kept too, but for what it says of sockets.
    done = run(python(code), profile)
    assert done.stdout.split() == ["EACCES", "EINVAL", "EACCES", "127.0.0.1", "EAFNOSUPPORT"], done


def kinds_of_containers():
    code = REFUSED + "\nimport os\nprint(os.getuid())"

    def no_capabilities(config):
        config["process"]["capabilities"] = {}
        config["process"]["user"] = {"uid": 1000, "gid": 1000}

    def user_namespace(config):
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
        # sysfs belongs to the network, which is the user namespace's: runc mounts it.

    def read_only(config):
        config["root"]["readonly"] = True

    for change, user in ((no_capabilities, "1000"), (user_namespace, "0"), (read_only, "0")):
        done = run(python(code), change)
        assert done.stdout.split() == ["refused", user], (change, done)
    done = run(python("raise SystemExit(42)"))
    assert done.returncode == 42, done
    # A process that enters another network namespace has the kernel's network there.
    def admin(config):
        for kind in config["process"]["capabilities"].values():
            kind.append("CAP_SYS_ADMIN")

    done = run(["/usr/bin/unshare", "-n", *python("import socket\ntry: socket.create_connection(('127.0.0.1', 1))\nexcept OSError as e: print(e.errno)")], admin)
    assert done.stdout == "101\n", done


def many_at_once():
    code = "import socket, time\ns = socket.create_server(('127.0.0.1', 80))\nsocket.create_connection(('127.0.0.1', 80))\nopen('/tmp/up', 'w')\ntime.sleep(1000)"
    bundles = [bundle(python(code)) for _ in range(20)]
    makers = []
    for name, path in bundles:
        with open(path + "/out", "w") as out:
            makers.append(subprocess.Popen([OCI, "run", "--detach", "--bundle", path, name], stdout=out, stderr=out, stdin=subprocess.DEVNULL))
    assert [maker.wait(120) for maker in makers] == [0] * 20, [open(path + "/out").read() for _, path in bundles]
    for _, path in bundles:
        until(lambda: os.path.exists(path + "/rootfs/tmp/up"), f"{path} is not up")
    for name, _ in bundles:
        end(name)


def processes_in_numbers():
    code = """
import os, socket
server = socket.create_server(('127.0.0.1', 0), backlog=300)
for _ in range(200):
    if os.fork() == 0:
        with socket.create_connection(server.getsockname()) as c: c.sendall(b'x'); c.recv(1)
        os._exit(0)
for _ in range(200):
    with server.accept()[0] as c: c.sendall(c.recv(1))
print(sum(os.wait()[1] == 0 for _ in range(200)))
"""
    done = run(python(code))
    assert done.stdout == "200\n", done


def sh(*args):
    return subprocess.run(args, check=True, capture_output=True, text=True, timeout=60).stdout


SERVE = """
import socket, sys
servers = [socket.create_server((address, 8000), family=family) for address, family in (('192.0.2.2', socket.AF_INET), ('fd00:6e67::2', socket.AF_INET6))]
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); datagrams.bind(('0.0.0.0', 8000))
print('up', flush=True)
for server in servers:
    with server.accept()[0] as client: client.sendall(client.recv(100).upper())
data, peer = datagrams.recvfrom(100); datagrams.sendto(data.upper(), peer)
"""
GO_OUT = """
import socket
for address in ('192.0.2.1', 'fd00:6e67::1'):
    try: client = socket.create_connection((address, 8001), 20)
    except OSError as error: raise SystemExit(f'{address}: {error}')
    with client:
        client.sendall(b'out'); print(client.recv(100).decode(), client.getsockname()[0])
"""


# What an engine puts into the namespace is the stack's while the containers live.
def an_engines_network_is_taken_over():
    for number, annotations in enumerate(({}, {"network": "plugin", "plugin": LWIP})):
        taken_over(f"ng{os.getpid() % 100000}{number}", annotations)


def taken_over(net, annotations):
    sh("ip", "netns", "add", net)
    inside = ("ip", "netns", "exec", net)
    try:
        sh("ip", "link", "add", net + "h", "type", "veth", "peer", "name", "eth0", "netns", net)
        for command in ("ip addr add 192.0.2.1/24 dev {0}h", "ip addr add fd00:6e67::1/64 dev {0}h nodad", "ip link set {0}h up",
                        "ip -n {0} addr add 192.0.2.2/24 dev eth0", "ip -n {0} addr add fd00:6e67::2/64 dev eth0 nodad",
                        "ip -n {0} link set eth0 up", "ip -n {0} link set lo up", "ip -n {0} route add default via 192.0.2.1",
                        "ip -n {0} -6 route add default via fd00:6e67::1"):
            sh(*command.format(net).split())
        look = lambda: [sh(*inside, *command.split()) for command in ("ip -br addr show dev eth0", "ip route", "ip -6 route show default")]
        before = look()

        def there(config):
            for namespace in config["linux"]["namespaces"]:
                if namespace["type"] == "network":
                    namespace["path"] = f"/run/netns/{net}"

        name, path = start(python(SERVE), there, **annotations)
        until(lambda: "up" in open(path + "/out").read(), open(path + "/out").read())
        assert "192.0.2.2" not in sh(*inside, "ip", "addr", "show", "dev", "eth0")
        # Out of the container, beside its first process.
        listeners = [socket.create_server((address, 8001), family=family) for address, family in (("192.0.2.1", socket.AF_INET), ("fd00:6e67::1", socket.AF_INET6))]
        out = subprocess.Popen([OCI, "exec", name, *python(GO_OUT)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        for listener in listeners:
            listener.settimeout(30)
            try:
                with listener.accept()[0] as client, listener:
                    client.sendall(client.recv(100).upper())
            except TimeoutError:
                print(annotations, open(path + "/out").read(), sh("ip", "-s", "addr"), sh("ip", "neigh"), sh(*inside, "ip", "-s", "addr"), sh(NETGRAFT, "list"), file=sys.stderr)
                for folder in os.listdir(STATE): print(folder, open(f"{STATE}/{folder}/log").read(), file=sys.stderr)
                raise
        assert out.communicate(timeout=30)[0].split() == ["OUT", "192.0.2.2", "OUT", "fd00:6e67::2"]
        # Into it.
        for address in ("192.0.2.2", "fd00:6e67::2"):
            with socket.create_connection((address, 8000), 30) as client:
                client.sendall(b"hello"); assert client.recv(100) == b"HELLO"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(30); client.sendto(b"datagram", ("192.0.2.2", 8000)); assert client.recv(100) == b"DATAGRAM"
        until(lambda: json.loads(ok("state", name))["status"] == "stopped", "the server goes on")
        ok("delete", name)
        until(lambda: of_sandbox(f"net-{os.stat('/run/netns/' + net).st_ino}") == [], "the sandbox is left")
        # The kernel's again. The route says that somebody has set it.
        assert [text.replace(" proto static", "") for text in look()] == before, (before, look())
    finally:
        sh("ip", "link", "del", net + "h")
        sh("ip", "netns", "del", net)


CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
WEB = "mkdir -p /w; echo hello > /w/index.html; exec httpd -f -p 8080 -h /w"


def podman():
    with open(FOLDER + "/containers.conf", "w") as file:
        file.write(CONF)
    image = FOLDER + "/image"
    for part in ("bin", "etc", "tmp", "usr", "proc", "sys", "dev"):
        os.makedirs(f"{image}/{part}")
    sh("cp", "/bin/busybox", image + "/bin")
    for name in ("sh", "httpd", "wget", "sleep", "cat", "mkdir"):
        os.symlink("busybox", f"{image}/bin/{name}")
    with open(image + "/bin/pause", "w") as file:
        file.write("#!/bin/sh\nexec sleep 100000\n")
    os.chmod(image + "/bin/pause", 0o755)
    sh("tar", "-C", image, "-cf", FOLDER + "/image.tar", ".")
    env = {**os.environ, "CONTAINERS_CONF": FOLDER + "/containers.conf"}
    # Beside whatever the machine has of Podman's.
    options = ["--root", FOLDER + "/root", "--runroot", FOLDER + "/run", "--network-config-dir", FOLDER + "/networks",
               "--tmpdir", FOLDER + "/libpod", "--storage-driver", "vfs", "--runtime", OCI]

    def call(*args):
        done = subprocess.run(["podman", *options, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, env=env)
        assert done.returncode == 0, (args, done)
        return done.stdout.strip()

    ids = set()

    # Beside this test others make containers.
    def sandboxes():
        ids.update(call("ps", "-a", "-q", "--no-trunc").split())
        bundles = lambda name: f"{STATE}/{name}/bundles"
        return [name for name in os.listdir(STATE) if os.path.isdir(bundles(name)) and ids & set(os.listdir(bundles(name)))]

    image = MINE + ":1"
    call("import", FOLDER + "/image.tar", image)
    web, pod, net = MINE + "-web", MINE + "-pod", MINE + "-net"
    try:
        # A web server that is published, and reached by another container by name.
        port = free_port()
        call("network", "create", net)
        call("run", "-d", "--name", web, "--network", net, "-p", f"{port}:8080", image, "/bin/sh", "-c", WEB)
        until(lambda: "hello" in outcome(["podman", *options, "exec", web, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/index.html"], env), "no answer")
        address = call("inspect", web, "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
        # From outside: by its address, and by the port of this network namespace.
        for url in (f"http://{address}:8080/index.html", f"http://{own_address(address)}:{port}/index.html"):
            assert sh("curl", "-sS", "--max-time", "20", url) == "hello\n", url
        for host in (address, web):
            said = call("run", "--rm", "--network", net, image, "wget", "-q", "-O", "-", f"http://{host}:8080/index.html")
            assert said == "hello", said
        # Nothing of it is the kernel's.
        assert ":1F90 " not in call("exec", web, "cat", "/proc/net/tcp", "/proc/net/tcp6")
        assert len(sandboxes()) == 1
        call("stop", "-t", "1", web)
        call("rm", web)
        until(lambda: sandboxes() == [], "a sandbox is left")
        # Two containers in a pod.
        call("pod", "create", "--name", pod, "--network", net, "--infra-image", image, "--infra-command", "/bin/pause", "--exit-policy", "continue")
        first = call("run", "-d", "--pod", pod, image, "/bin/sh", "-c", WEB)
        ask = ("wget", "-q", "-O", "-", "http://127.0.0.1:8080/index.html")
        until(lambda: "hello" in outcome(["podman", *options, "exec", first, *ask], env), "no answer in the pod")
        assert call("run", "--rm", "--pod", pod, image, *ask) == "hello"
        assert len(sandboxes()) == 1, "one sandbox for the pod"
        call("pod", "rm", "-f", "-t", "1", pod)
        until(lambda: sandboxes() == [], "a sandbox is left")
        # The monitor of a container is killed.
        lost = call("run", "-d", "--network", net, image, "/bin/sh", "-c", WEB)
        assert len(sandboxes()) == 1
        until(lambda: "hello" in outcome(["podman", *options, "exec", lost, *ask], env), "no answer")
        os.kill(int(call("inspect", lost, "--format", "{{.State.ConmonPid}}")), signal.SIGKILL)
        call("rm", "-f", "-t", "1", lost)
        # Podman leaves what runc knows of it, since the monitor would have deleted that.
        oci("delete", "--force", lost)
        until(lambda: sandboxes() == [], "a sandbox is left")
    finally:
        subprocess.run(["podman", *options, "pod", "rm", "-f", "-a", "-t", "1"], capture_output=True, timeout=120, env=env)
        subprocess.run(["podman", *options, "rm", "-f", "-a", "-t", "1"], capture_output=True, timeout=120, env=env)
        subprocess.run(["podman", *options, "network", "rm", "-f", net], capture_output=True, timeout=120, env=env)


def outcome(command, env):
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, env=env).stdout


# The bridge's, which is the container's gateway.
def own_address(address):
    return json.loads(sh("ip", "-j", "route", "get", address))[0]["prefsrc"]


CLOSED = "import socket\ntry: socket.create_connection(('127.0.0.1', 7000), 20)\nexcept OSError as e: print(e.errno)"


def sudden_ends():
    # Of the sentry: the network is down, the container goes on.
    # With a first process that needs no network: all end with it.
    name, _ = start(python("import time; time.sleep(1000)"))
    assert ok("exec", name, *python(REFUSED)) == "refused\n"
    [sentry] = [pid for comm, pid in of_sandbox(name) if comm == "netgraft-sentry"]
    watch = subprocess.Popen([OCI, "exec", name, *python("import time\nimport socket\nprint('up', flush=True)\ninput()\n" + CLOSED)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watch.stdout.readline() == "up\n"
    os.kill(sentry, signal.SIGKILL)
    said = watch.communicate("\n", 60)
    assert (said[0], watch.returncode) == ("100\n", 0), (said, watch.returncode)
    end(name)
    # Of all that serves it: the container goes on without a network, and what is left goes with the next command.
    name, _ = start(python(ECHO))
    until(lambda: oci("exec", name, *python(ASK)).returncode == 0, "the server does not answer")
    for comm, pid in of_sandbox(name):
        if comm == "netgraft":
            os.kill(pid, signal.SIGKILL)
    until(lambda: of_sandbox(name) == [], "the sandbox's processes are left")
    end(name)


def wrong(part, change=lambda config: None, env=None, **annotations):
    name, path = bundle(["/usr/bin/true"], change, **annotations)
    log = path + "/log.json"
    done = oci("--log", log, "--log-format", "json", "create", "--bundle", path, name, env=env)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and len(lines) == 1 and part in lines[0], done
    with open(log) as file:
        told = json.loads(file.read())
    assert told["level"] == "error" and part in told["msg"], told
    assert name not in os.listdir(STATE) and of_sandbox(name) == [], name


def errors():
    def host(config):
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "network"]

    def listener(config):
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}

    wrong("host's network namespace", host)
    wrong("a listener already", listener)
    wrong("there is no runtime 'runc': install the package runc", env={"PATH": "/nowhere"})
    wrong("containers have no option 'netwrok'", netwrok="host")
    wrong("invalid value 'hots'", network="hots")
    wrong("containers have no option 'link'", link="passt")
    wrong("nothere.so", network="plugin", plugin="./nothere.so")
    # An image could say so.
    wrong("containers may not set it here", allow_syscall="ptrace")
    # A packet socket would pass the stack.
    done = run(python("import socket\ntry: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nexcept OSError as e: print(e.errno)"))
    assert done.stdout == "97\n", done
    # The same name again at once.
    name, path = bundle(["/usr/bin/true"])
    for _ in range(6):
        done = oci("run", "--bundle", path, name)
        assert done.returncode == 0, done
    until(lambda: name not in os.listdir(STATE), f"the sandbox of {name} is left")
    # What the runtime itself refuses leaves nothing, either.
    name, path = bundle(["/usr/bin/no-such-program"])
    done = oci("run", "--bundle", path, name)
    assert done.returncode != 0 and "no-such-program" in done.stderr, done
    until(lambda: name not in os.listdir(STATE), f"the sandbox of {name} is left")
    assert "netgraft-oci version" in ok("--version") and "runc version" in ok("--version")


sh("ip", "link", "set", "lo", "up")
try:
    globals()[sys.argv[3]]()
except BaseException:
    for number in range(1, made + 1):
        name = f"{MINE}-{number}"
        try:
            with open(f"{STATE}/{name}/log") as file:
                print(name, file.read(), file=sys.stderr)
        except OSError:
            pass
        subprocess.run([OCI, "delete", "--force", name], capture_output=True, timeout=60)
    raise
assert [name for name in os.listdir(STATE) if name.startswith(MINE)] == []
print("OK")

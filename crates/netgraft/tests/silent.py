"""Runs in a network namespace of its own, which it owns, in a folder of its own: netgraft (argv[1]) behind passt, also with
lwIP (argv[2]), and peers in another namespace that say nothing for 30 s. Prints OK."""
import atexit
import os
import subprocess
import sys
import time

NETGRAFT, LWIP = sys.argv[1:3]
V4, V6 = "198.51.100.1", "2001:db8:1::1"
# The passt of Debian 12 resets after 24 s.
SILENCE = 30
CHILDREN = []
# Reads so many bytes from the first who connects, is silent, and answers with their number.
SERVER = f"""
import socket, sys, time
v6 = ":" in sys.argv[1]
s = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6 if v6 else socket.AF_INET)
print("up", flush=True)
c, left = s.accept()[0], int(sys.argv[3])
end = time.monotonic() + {SILENCE}
while left and (data := c.recv(min(left, 1 << 20))):
    left -= len(data)
time.sleep(max(0, end - time.monotonic()))
c.sendall(b"%d" % (int(sys.argv[3]) - left))
c.close()
"""
# Sends so many bytes, in as many pieces as a second each, and reads the answer.
CLIENT = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
count, seconds = int(sys.argv[3]), int(sys.argv[4])
for _ in range(seconds):
    s.sendall(bytes(count // seconds))
    time.sleep(1)
print(s.makefile().read(), end="")
"""
# A published server that speaks, to a client that does not.
SPEAKER = f"""
import socket, time
s = socket.create_server(("", 80))
print("up", flush=True)
c = s.accept()[0]
for _ in range({SILENCE}):
    c.sendall(bytes(1000))
    time.sleep(1)
c.close()
"""


def sh(script):
    subprocess.run(["sh", "-ec", script], check=True)


def child(*words):
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
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


holder = child("unshare", "--net", "sleep", "1000")
until("the other namespace", lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
OUTSIDE = ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
sh(f"""
ip link set lo up
ip link add veth0 type veth peer name veth1 netns {holder.pid}
ip address add 198.51.100.2/24 dev veth0
ip address add 2001:db8:1::2/64 dev veth0 nodad
ip link set veth0 up
{" ".join(OUTSIDE)} sh -ec '
ip link set lo up
ip address add {V4}/24 dev veth1
ip address add {V6}/64 dev veth1 nodad
ip link set veth1 up'
ip route add default via {V4}
ip -6 route add default via {V6}
""")
for place in ("self", holder.pid):
    until("addresses are no longer tentative", lambda: all(
        int(line.split()[4], 16) & 0x40 == 0 for line in open(f"/proc/{place}/net/if_inet6")))

# All at once, as each takes its half minute. What is sent: a request of three bytes, an upload that takes as long, and one at
# full speed.
LWIP_STACK = ("--network", "plugin", "--plugin", LWIP)
UPLOADS = [((), V4, 3, 1), ((), V6, 3, 1), (LWIP_STACK, V4, 3, 1), ((), V4, SILENCE * 100_000, SILENCE), ((), V4, 100 << 20, 1)]
running = []
for number, (stack, address, count, seconds) in enumerate(UPLOADS):
    port = 9000 + number
    server = child(*OUTSIDE, sys.executable, "-c", SERVER, address, str(port), str(count))
    assert server.stdout.readline() == "up\n"
    client = child(NETGRAFT, "run", *stack, "--link", "passt", "--", "python3", "-c", CLIENT, address, str(port), str(count),
                   str(seconds))
    running.append((client, str(count)))


def published():
    """A client that sends nothing to a server inside; what it has read, and whether the sandbox ended well."""
    box = child(NETGRAFT, "run", "--link", "passt", "--publish", "198.51.100.2:8080:80", "--", "python3", "-c", SPEAKER)
    assert box.stdout.readline() == "up\n"
    listener = child(*OUTSIDE, "sh", "-c", "exec nc -d 198.51.100.2 8080 | wc -c")
    return box, listener


box, listener = published()
wrong = [(number, got) for number, (process, expected) in enumerate(running)
         if (got := process.communicate(timeout=120)[0]) != expected]
assert not wrong, wrong
got = listener.communicate(timeout=120)[0]
for _ in range(4):
    if got == f"{SILENCE * 1000}\n":
        break
    # On a busy machine passt has reset it now and then (docs/limits.md).
    box.kill()
    box.wait()
    time.sleep(1)
    box, listener = published()
    got = listener.communicate(timeout=120)[0]
assert got == f"{SILENCE * 1000}\n", got
assert box.wait(30) == 0
print("OK")

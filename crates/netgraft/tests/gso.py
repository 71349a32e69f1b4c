"""Runs in a network namespace of its own, which it owns: netgraft (argv[1]) with the built-in stack on a TAP device and on an interface,
and the kernel at the other end. Counts frames: with segmentation offload each carries many segments, either way. Prints OK."""
import json
import os
import socket
import subprocess
import sys
import time

NETGRAFT = sys.argv[1]
SIZE = 8 << 20
SEGMENT = 1500 - 20 - 20
INSIDE = f"""
import socket, sys
listener = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
for line in sys.stdin:
    connection = listener.accept()[0]
    if line == "send\\n":
        connection.sendall(bytes({SIZE}))
    left = {SIZE}
    while left and line == "take\\n":
        left -= len(connection.recv(1 << 20))
    connection.sendall(b".")
    connection.close()
    print("done", flush=True)
"""


def sh(script):
    subprocess.run(["sh", "-ec", script], check=True)


def carried(device):
    """Frames that the kernel has got from a device and has given to it (proc_net_dev(5))."""
    line = next(line for line in open("/proc/net/dev") if line.strip().startswith(device + ":"))
    words = line.split(":")[1].split()
    return int(words[1]), int(words[9])


def check(link, device, prepare):
    command = [NETGRAFT, "run", "--link", link, "--address", "192.0.2.2/24", "--address", "2001:db8::2/64", "--", "python3", "-c", INSIDE]
    box = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert box.stdout.readline() == "ready\n"
    sh(prepare)

    def seen():
        """Frames as the kernel counts them, and as netgraft does: from the stack, and to it."""
        while (done := subprocess.run([NETGRAFT, "link", str(box.pid), "--json"], capture_output=True, text=True)).returncode != 0:
            assert "no sandbox" in done.stderr, done
            time.sleep(0.01)
        state = json.loads(done.stdout)
        return (*carried(device), state["out"]["frames"], state["in"]["frames"])

    for address in ("192.0.2.2", "2001:db8::2"):
        for way, from_stack in (("send", True), ("take", False)):
            before = seen()
            client = socket.create_connection((address, 80), timeout=60)
            box.stdin.write(way + "\n")
            box.stdin.flush()
            if not from_stack:
                client.sendall(bytes(SIZE))
            got = 0
            while data := client.recv(1 << 20):
                got += len(data)
            assert got == (SIZE + 1 if from_stack else 1), got
            client.close()
            assert box.stdout.readline() == "done\n"
            by_kernel, to_stack, sent, received = (after - first for after, first in zip(seen(), before))
            counted = (by_kernel, sent) if from_stack else (to_stack, received)
            # One segment a frame would be at least as many as the bytes have segments.
            assert max(counted) < SIZE / SEGMENT / 2, (link, address, way, counted)
            assert min(counted) > SIZE / 65536, (link, address, way, counted)
    box.communicate(timeout=60)
    assert box.returncode == 0


sh("ip link set lo up")
addresses = "ip address add 192.0.2.1/24 dev {0}; ip address add 2001:db8::1/64 dev {0} nodad"
check("tap:ng0", "ng0", addresses.format("ng0"))
sh("ip link add veth0 type veth peer name veth1 && ip link set veth0 up && ip link set veth1 up")
sh(addresses.format("veth1"))
check("packet:veth0", "veth1", "true")
print("OK")

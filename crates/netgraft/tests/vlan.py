"""Runs in a network namespace of its own, which it owns: two sandboxes of netgraft (argv[1]) on the two ends of a veth pair and
of a TAP device, in VLANs; also on a stack in a shared object (argv[2]). The kernel needs no VLANs for that. Prints OK."""
import atexit
import hashlib
import socket
import struct
import subprocess
import sys

NETGRAFT, OBJECT = sys.argv[1:]
PLUGIN = ("--network", "plugin", "--plugin", OBJECT)
SIZE = 8 << 20
CHILDREN = []
SERVER = f"""
import socket
s = socket.create_server(("192.0.2.1", 9000))
print("up", flush=True)
while True:
    c = s.accept()[0]
    got = 0
    while got < {SIZE} and (data := c.recv(1 << 20)):
        got += len(data)
        c.sendall(data)
    c.close()
"""
CLIENT = f"""
import hashlib, socket, threading
s = socket.create_connection(("192.0.2.1", 9000), timeout=4)
s.settimeout(60)
data = bytes(range(251)) * ({SIZE} // 251 + 1)
threading.Thread(target=s.sendall, args=(data[:{SIZE}],)).start()
digest, got = hashlib.sha256(), 0
while got < {SIZE} and (part := s.recv(1 << 20)):
    digest.update(part)
    got += len(part)
print(digest.hexdigest())
"""
DIGEST = hashlib.sha256((bytes(range(251)) * (SIZE // 251 + 1))[:SIZE]).hexdigest()
# Of a frame that the kernel shows: whether there was a tag, and which (packet(7), PACKET_AUXDATA).
SOL_PACKET, PACKET_AUXDATA, TP_STATUS_VLAN_VALID = 263, 8, 16


@atexit.register
def end():
    for process in CHILDREN:
        if process.poll() is None:
            process.kill()
        process.wait()


def sandbox(link, address, *words):
    command = [NETGRAFT, "run", "--link", link, "--address", address, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    CHILDREN.append(process)
    return process


def client(link, *options):
    done = sandbox(link, "192.0.2.2/24", *options, "--", "python3", "-c", CLIENT)
    out, errors = done.communicate(timeout=120)
    return out.strip() or errors.splitlines()[-1]


def tags(sniffer):
    """The numbers in the tags of the frames that have come; None for none."""
    seen = {}
    while True:
        try:
            frame, control, _, _ = sniffer.recvmsg(100, 100, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return seen
        (_, _, data), = control
        status, _, _, _, _, tag = struct.unpack("IIIHHH", data[:18])
        tag = tag & 0xFFF if status & TP_STATUS_VLAN_VALID else None
        if frame[12:14] in (b"\x81\x00", b"\x08\x00", b"\x08\x06"):
            # On its way out of the kernel's own device the tag is where the sender has put it.
            tag = struct.unpack("!H", frame[14:16])[0] & 0xFFF if frame[12:14] == b"\x81\x00" else tag
            seen[tag] = seen.get(tag, 0) + 1


def sniff(name):
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sniffer.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sniffer.bind((name, 3))
    return sniffer


subprocess.run(["sh", "-ec", """
sysctl -qw net.ipv6.conf.default.disable_ipv6=1
ip link set lo up
ip link add a0 type veth peer name a1
ip link set a0 up
ip link set a1 up
ip tuntap add t0 mode tap
ip link set t0 up
"""], check=True)

for stack in ((), PLUGIN):
    for serves, dials in (("packet:a0", "packet:a1"), ("tap:t0", "packet:t0")):
        server = sandbox(serves, "192.0.2.1/24", *stack, "--vlan", "5", "--", "python3", "-c", SERVER)
        assert server.stdout.readline() == "up\n", server.stderr.read()
        # Whole, both ways, and each frame has the tag.
        sniffer = sniff(dials.split(":")[1])
        for dialer in {(), stack}:
            assert client(dials, *dialer, "--vlan", "5") == DIGEST, (serves, stack, dialer)
        seen = tags(sniffer)
        assert set(seen) == {5} and seen[5] > 10, (serves, seen)
        # Who is in another VLAN, or in none, does not reach it.
        for other in (("--vlan", "6"), ()):
            said = client(dials, *other)
            assert "timed out" in said or "No route to host" in said, (serves, other, said)
        server.terminate()
        server.wait()
        # Without a VLAN frames have no tag, and those with one are not for the stack.
        server = sandbox(serves, "192.0.2.1/24", *stack, "--", "python3", "-c", SERVER)
        assert server.stdout.readline() == "up\n", server.stderr.read()
        tags(sniffer)
        said = client(dials, "--vlan", "5")
        assert "timed out" in said or "No route to host" in said, (serves, said)
        assert set(tags(sniffer)) == {5}, serves
        assert client(dials) == DIGEST
        assert None in tags(sniffer)
        sniffer.close()
        server.terminate()
        server.wait()

# A lease in a VLAN is asked for there.
server = subprocess.Popen(["timeout", "60", NETGRAFT, "run", "--link", "packet:a1", "--address", "dhcp", "--vlan", "5", "--", "true"],
                          stderr=subprocess.PIPE, text=True)
CHILDREN.append(server)
sniffer = sniff("a0")
while 5 not in (seen := tags(sniffer)):
    assert server.poll() is None and None not in seen, seen
server.terminate()
for words, part in ((("--link", "passt"), "--vlan goes with --link tap:NAME or packet:IFACE"), ((), "--vlan goes with"),
                    (("--link", "packet:a0"), "0 is not in 1..4095")):
    number = "0" if "1..4095" in part else "5"
    done = subprocess.run([NETGRAFT, "run", *words, "--vlan", number, "--", "true"], capture_output=True, text=True)
    assert done.returncode in (2, 125) and part in done.stderr, done
print("OK")

"""Runs in a network namespace of its own, which it owns: netgraft (argv[1]) on a veth pair with leases of some seconds, from a
DHCP server that is this script; and a stack in a shared object (argv[2]). Prints OK."""
import atexit
import select
import socket
import struct
import subprocess
import sys
import threading
import time

NETGRAFT, OBJECT = sys.argv[1:]
OWN, GIVEN = "192.0.2.1", "192.0.2.7"
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
CHILDREN = []
# Says when its datagrams come back, and when they no longer do.
PROGRAM = f"""
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.5)
said, misses = None, 0
while True:
    try:
        s.sendto(b"x", ("{OWN}", 7))
        s.recv(10)
        misses = 0
    except OSError:
        misses += 1
    now = "on" if misses == 0 else "off" if misses == 3 else said
    if now != said:
        said = now
        print(now, flush=True)
    time.sleep(0.05)
"""


@atexit.register
def end():
    for process in CHILDREN:
        if process.poll() is None:
            process.kill()
        process.wait()


def echo():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((OWN, 7))
    while True:
        s.sendto(*s.recvfrom(100))


def checksum(header):
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


class Server:
    """Answers what `policy` says, and notes what it is asked."""

    def __init__(self, policy):
        self.policy, self.asked = policy, []
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self.socket.bind(("r0", 0x0800))
        self.mac = self.socket.getsockname()[4]
        self.over, self.wrong = False, None
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def stop(self):
        self.over = True
        self.thread.join()
        self.socket.close()
        if self.wrong:
            raise self.wrong

    def serve(self):
        while not self.over:
            if select.select([self.socket], [], [], 0.05)[0]:
                frame, (_, _, kind, *_) = self.socket.recvfrom(2000)
                if kind != socket.PACKET_OUTGOING and frame[23] == 17 and frame[36:38] == b"\0\x43":
                    try:
                        self.take(frame)
                    except (AssertionError, LookupError) as wrong:
                        self.wrong = wrong

    def take(self, frame):
        message = frame[42:]
        options, at = {}, 240
        while message[at] != 255:
            options[message[at]] = message[at + 2:at + 2 + message[at + 1]]
            at += 2 + message[at + 1]
        kind, own = options[53][0], socket.inet_ntoa(message[12:16])
        if kind == DISCOVER:
            what = "discover"
        elif own == "0.0.0.0":
            # Without a server it is an address that it once had (RFC 2131 section 4.3.2: INIT-REBOOT).
            assert options[50] == socket.inet_aton(GIVEN) and options.get(54) in (None, socket.inet_aton(OWN)), options
            what = "request" if 54 in options else "former"
        else:
            # From its address, and without the options of a first request (RFC 2131 section 4.3.2).
            assert own == GIVEN and 50 not in options and 54 not in options, (own, options)
            assert socket.inet_ntoa(frame[26:30]) == GIVEN
            to = socket.inet_ntoa(frame[30:34])
            assert (to == OWN and frame[:6] == self.mac) or (to == "255.255.255.255" and frame[:6] == b"\xff" * 6), frame
            what = "renew" if to == OWN else "rebind"
        self.asked.append(what)
        answer = self.policy(self.asked)
        if answer is None:
            return
        kind, lease = answer
        reply = bytes([2, 1, 6, 0]) + message[4:8] + bytes(4) + bytes(4)
        reply += socket.inet_aton(GIVEN if kind != NAK else "0.0.0.0") + bytes(8) + message[28:44] + bytes(192)
        reply += b"\x63\x82\x53\x63" + bytes([53, 1, kind, 54, 4]) + socket.inet_aton(OWN)
        if kind != NAK:
            reply += bytes([1, 4, 255, 255, 255, 0])
            # How long it may be used, and when to ask for it again: this server, and any.
            for code, seconds in zip((51, 58, 59), lease):
                reply += bytes([code, 4]) + struct.pack("!I", seconds)
        reply += b"\xff"
        udp = struct.pack("!HHHH", 67, 68, 8 + len(reply), 0) + reply
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(OWN),
                         socket.inet_aton("255.255.255.255"))
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        self.socket.send(b"\xff" * 6 + self.mac + b"\x08\x00" + ip + udp)


def sandbox(*stack):
    process = subprocess.Popen([NETGRAFT, "run", *stack, "--link", "packet:r1", "--address", "dhcp", "--", "python3", "-c", PROGRAM],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    CHILDREN.append(process)
    return process


subprocess.run(["sh", "-ec", f"""
ip link set lo up
ip link add r0 type veth peer name r1
ip address add {OWN}/24 dev r0
ip link set r0 up
ip link set r1 up
"""], check=True)
threading.Thread(target=echo, daemon=True).start()
# Nothing is said of a port without a server.
bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
bound.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
bound.bind((OWN, 67))

OVER = f"the address {GIVEN} was not given again and is not used any more"


def answers_until(stage):
    """Answers each question but what is asked again, which it answers at first and then at some stage only."""
    def policy(asked):
        if asked[-1] == "discover":
            return OFFER, (6, 1, 3)
        if asked[-1] == "request" or len(asked) <= stage or (asked[-1] == "rebind" and "rebind" not in asked[:-1]):
            return ACK, (6, 1, 3)
        return None
    return policy


# Renewed twice by the server that gave it; then that one is silent, and all are asked, of whom one answers once; then none
# does, and the address is given up, with a warning. Until then not one datagram is lost for long.
server = Server(answers_until(4))
box = sandbox()
assert box.stdout.readline() == "on\n"
assert box.stdout.readline() == "off\n"
assert OVER in box.stderr.readline()
server.stop()
asked = server.asked
again = asked[asked.index("request") + 1:]
assert asked[0] == "discover" and again[:2] == ["renew", "renew"], asked
assert again.count("rebind") >= 2 and again.index("rebind") >= 3, asked
# After an answer to all it is this server's again.
assert "renew" in again[again.index("rebind"):], asked
box.kill()
box.wait()

# Given up and asked for as an address that it once had, which is given back.
server = Server(lambda asked: (OFFER, (4, 1, 2)) if asked[-1] == "discover" else
                (ACK, (4, 1, 2)) if asked[-1] == "request" or "former" in asked else None)
box = sandbox()
assert box.stdout.readline() == "on\n"
assert OVER in box.stderr.readline()
for _ in range(1000):
    if "former" in server.asked[:-1]:
        break
    time.sleep(0.02)
server.stop()
assert server.asked[:2] == ["discover", "request"] and server.asked[server.asked.index("former") + 1] == "renew", server.asked
box.kill()
box.wait()

# Refused: given up at once.
for stack in ((), ("--network", "plugin", "--plugin", OBJECT)):
    server = Server(lambda asked: (OFFER, (600, 2, 500)) if asked[-1] == "discover" else
                    (ACK, (600, 2, 500)) if asked[-1] == "request" else (NAK, ()))
    box = sandbox(*stack)
    assert box.stdout.readline() == "on\n"
    assert box.stdout.readline() == "off\n"
    assert OVER in box.stderr.readline()
    server.stop()
    assert server.asked[-1] == "renew" and server.asked.count("renew") == 1, server.asked
    box.kill()
    box.wait()
print("OK")

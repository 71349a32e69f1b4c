"""ICMP echo sockets: what ping uses when it may not open a raw socket."""

import socket
import struct

from lib import *

PROTOCOL = {V4: socket.IPPROTO_ICMP, V6: socket.IPPROTO_ICMPV6}
REQUEST, REPLY = {V4: 8, V6: 128}, {V4: 0, V6: 129}


@per_family
def icmp_echo(family):
    sock = socket.socket(family, UDP, PROTOCOL[family])
    eq("SO_PROTOCOL", sock.getsockopt(socket.SOL_SOCKET, 38), PROTOCOL[family])
    sock.settimeout(3)
    for sequence in (1, 2):
        request = struct.pack("!BBHHH", REQUEST[family], 0, 0, 0, sequence) + b"payload of an echo"
        eq("sendto", sock.sendto(request, (LOOPBACK[family], 0)), len(request))
        answer, peer = sock.recvfrom(200)
        eq("the reply's sender", peer[0], LOOPBACK[family])
        kind, code, _sum, identifier, number = struct.unpack("!BBHHH", answer[:8])
        eq("type, code and sequence", (kind, code, number), (REPLY[family], 0, sequence))
        eq("payload", answer[8:], b"payload of an echo")
        eq("the identifier is the socket's port", identifier, sock.getsockname()[1])


@per_family
def icmp_echo_connected(family):
    sock = socket.socket(family, UDP, PROTOCOL[family])
    sock.connect((LOOPBACK[family], 0))
    sock.settimeout(3)
    sock.send(struct.pack("!BBHHH", REQUEST[family], 0, 0, 0, 9) + b"data")
    answer = sock.recv(200)
    eq("the reply", (answer[0], answer[8:]), (REPLY[family], b"data"))


@per_family
def icmp_bad_request(family):
    sock = socket.socket(family, UDP, PROTOCOL[family])
    reply = struct.pack("!BBHHH", REPLY[family], 0, 0, 0, 1)
    fails("only requests may be sent", "EINVAL", sock.sendto, reply, (LOOPBACK[family], 0))
    fails("less than a header", "EINVAL", sock.sendto, b"abc", (LOOPBACK[family], 0))

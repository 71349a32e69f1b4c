"""Raw sockets: packets whose IP header the program writes, and what the stack writes into its own."""

import socket
import struct

from lib import *

IP_HDRINCL, IPV6_HDRINCL, IPPROTO_RAW = 3, 36, 255
IP_MTU_DISCOVER = 10
LEVEL = {V4: socket.IPPROTO_IP, V6: socket.IPPROTO_IPV6}
INCLUDED = {V4: IP_HDRINCL, V6: IPV6_HDRINCL}
CAP_NET_RAW = 13


def raw_socket(family, protocol):
    """A raw socket. A program without CAP_NET_RAW has none: that is checked then, and None is the answer."""
    with open("/proc/self/status") as file:
        capabilities = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    if capabilities >> CAP_NET_RAW & 1:
        sock = socket.socket(family, socket.SOCK_RAW, protocol)
        sock.settimeout(3)
        return sock
    fails("a raw socket without CAP_NET_RAW", "EPERM", socket.socket, family, socket.SOCK_RAW, protocol)
    return None


def checksum(data):
    """The Internet checksum (RFC 1071) of an even number of bytes; 0 if `data` holds its own."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def udp_datagram(port, data, family=V4):
    """A UDP datagram from port 7 to a port of the loopback."""
    whole = struct.pack("!HHHH", 7, port, 8 + len(data), 0) + data
    address = socket.inet_pton(family, LOOPBACK[family])
    pseudo = address + address + struct.pack("!II", len(whole), socket.IPPROTO_UDP)
    check = checksum(pseudo + whole)
    return whole[:6] + struct.pack("!H", check or 0xFFFF) + whole[8:]


def header4(source="127.0.0.1", total=0, ident=0, field=0, protocol=socket.IPPROTO_UDP, options=b""):
    addresses = socket.inet_aton(source) + socket.inet_aton("127.0.0.1")
    start = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0x10, total, ident, field, 33, protocol, 0xBAD)
    return start + addresses + options


@case
def raw_header_included_v4():
    sock = raw_socket(V4, IPPROTO_RAW)
    if sock is None:
        return
    watcher, receiver = raw_socket(V4, socket.IPPROTO_UDP), udp_bound()
    receiver.settimeout(3)
    to, port = ("127.0.0.1", 0), receiver.getsockname()[1]
    datagram = udp_datagram(port, b"own header")
    eq("IP_HDRINCL of IPPROTO_RAW", sock.getsockopt(LEVEL[V4], IP_HDRINCL), 1)
    for what, header in {
        "all is filled in": header4(source="0.0.0.0", total=7),
        "what is set stays": header4(ident=0x1234, field=0x4000),
        "options stay": header4(ident=1, options=b"\x01\x01\x01\x00"),
    }.items():
        eq(f"{what}: sendto", sock.sendto(header + datagram, to), len(header) + len(datagram))
        eq(f"{what}: the receiver", receiver.recvfrom(100), (b"own header", ("127.0.0.1", 7)))
        seen = watcher.recv(200)
        length = len(header)
        eq(f"{what}: version, length, TOS", seen[:2], header[:2])
        eq(f"{what}: total length", struct.unpack("!H", seen[2:4])[0], len(header) + len(datagram))
        if header[4:6] == bytes(2):
            check(f"{what}: an identification", seen[4:6] != bytes(2))
        else:
            eq(f"{what}: identification", seen[4:6], header[4:6])
        eq(f"{what}: flags, TTL, protocol", seen[6:10], header[6:10])
        eq(f"{what}: checksum", checksum(seen[:length]), 0)
        eq(f"{what}: source", seen[12:16], socket.inet_aton("127.0.0.1"))
        eq(f"{what}: options and data", seen[20:], header[20:] + datagram)
    fails("less than a header", "EINVAL", sock.sendto, header4()[:19], to)
    fails("a header that is longer than the packet", "EINVAL", sock.sendto, b"\x46" + header4()[1:], to)
    fails("more than IPv4 has", "EMSGSIZE", sock.sendto, header4() + bytes(65516), to)
    # Nothing of what was sent has come back to the sender.
    sock.setblocking(False)
    fails("it receives nothing of it", "EAGAIN", sock.recv, 100)


@case
def raw_header_included_option():
    for kind in (TCP, UDP):
        with socket.socket(V4, kind) as other:
            eq("IP_HDRINCL of others", other.getsockopt(LEVEL[V4], IP_HDRINCL), 0)
            fails("IP_HDRINCL of others, set", "ENOPROTOOPT", other.setsockopt, LEVEL[V4], IP_HDRINCL, 1)
    sock = raw_socket(V4, socket.IPPROTO_UDP)
    if sock is None:
        return
    receiver = udp_bound()
    receiver.settimeout(3)
    datagram = udp_datagram(receiver.getsockname()[1], b"data")
    eq("IP_HDRINCL at first", sock.getsockopt(LEVEL[V4], IP_HDRINCL), 0)
    sock.sendto(datagram, ("127.0.0.1", 0))
    eq("the stack's header", receiver.recv(100), b"data")
    sock.setsockopt(LEVEL[V4], IP_HDRINCL, 77)
    eq("IP_HDRINCL set", sock.getsockopt(LEVEL[V4], IP_HDRINCL), 1)
    sock.connect(("127.0.0.1", 0))
    sock.send(header4() + datagram)
    eq("a header of one's own", receiver.recv(100), b"data")
    sock.setsockopt(LEVEL[V4], IP_HDRINCL, 0)
    eq("IP_HDRINCL cleared", sock.getsockopt(LEVEL[V4], IP_HDRINCL), 0)


@case
def raw_header_included_v6():
    sock = raw_socket(V6, IPPROTO_RAW)
    if sock is None:
        return
    receiver = udp_bound(V6)
    receiver.settimeout(3)
    eq("IPV6_HDRINCL of IPPROTO_RAW", sock.getsockopt(LEVEL[V6], IPV6_HDRINCL), 1)
    datagram = udp_datagram(receiver.getsockname()[1], b"own header", V6)
    loopback = socket.inet_pton(V6, "::1")
    header = struct.pack("!IHBB", 0x60000000, len(datagram), socket.IPPROTO_UDP, 33) + loopback + loopback
    eq("sendto", sock.sendto(header + datagram, ("::1", 0)), 40 + len(datagram))
    eq("the receiver", receiver.recvfrom(100)[1][:2], ("::1", 7))
    fails("less than a header", "EINVAL", sock.sendto, header[:39], ("::1", 0))
    other = raw_socket(V6, socket.IPPROTO_UDP)
    eq("IPV6_HDRINCL at first", other.getsockopt(LEVEL[V6], IPV6_HDRINCL), 0)
    other.setsockopt(LEVEL[V6], IPV6_HDRINCL, 1)
    other.sendto(header + datagram, ("::1", 0))
    eq("the receiver of the other", receiver.recv(100), b"own header")


@case
def raw_dont_fragment():
    watcher = raw_socket(V4, socket.IPPROTO_UDP)
    if watcher is None:
        return
    receiver = udp_bound()
    with socket.socket(V4, UDP) as sock:
        # IP_PMTUDISC_DONT, WANT, DO, PROBE, INTERFACE and OMIT
        for mode, flag in enumerate((0, 0x40, 0x40, 0x40, 0, 0)):
            sock.setsockopt(LEVEL[V4], IP_MTU_DISCOVER, mode)
            sock.sendto(b"data", receiver.getsockname())
            eq(f"'don't fragment' of IP_MTU_DISCOVER {mode}", watcher.recv(100)[6], flag)

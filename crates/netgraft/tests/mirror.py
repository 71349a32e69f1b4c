"""Prints, as one JSON object, what a program sees of interfaces, addresses and routes, by the name of the interface.

With arguments ADDRESS PORT it also sends a datagram there, so that the neighbour learns this side's Ethernet address.
"""
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys


class Sockaddr(ctypes.Structure):
    _fields_ = [("family", ctypes.c_ushort), ("data", ctypes.c_ubyte * 126)]


class Ifaddrs(ctypes.Structure):
    pass


Ifaddrs._fields_ = [
    ("next", ctypes.POINTER(Ifaddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.POINTER(Sockaddr)),
    ("netmask", ctypes.POINTER(Sockaddr)),
    ("broadcast", ctypes.POINTER(Sockaddr)),
    ("data", ctypes.c_void_p),
]


def plain(sockaddr):
    """The address in a struct sockaddr (packet(7), ip(7), ipv6(7)); None for a null pointer."""
    if not sockaddr:
        return None
    family, data = sockaddr.contents.family, bytes(sockaddr.contents.data)
    if family == socket.AF_INET:
        return socket.inet_ntop(family, data[2:6])
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, data[6:22])
    return data[10:16].hex(":")


def getifaddrs():
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(Ifaddrs)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        raise OSError(ctypes.get_errno(), "getifaddrs")
    found, entry = {}, first
    while entry:
        e = entry.contents
        if e.address:
            about = found.setdefault(e.name.decode(), {"addresses": []})
            family = e.address.contents.family
            if family == socket.AF_PACKET:
                about["mac"], about["flags"] = plain(e.address), e.flags
            else:
                about["addresses"].append([plain(e.address), plain(e.netmask)])
            if family == socket.AF_INET and e.flags & 2:
                about["broadcast"] = plain(e.broadcast)
        entry = e.next
    libc.freeifaddrs(first)
    return found


def ask(sock, request, name):
    """An interface request of netdevice(7): the bytes behind the name."""
    return fcntl.ioctl(sock, request, struct.pack("16s24x", name.encode()))[16:]


def ioctls():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    room = ctypes.create_string_buffer(4096)
    answer = fcntl.ioctl(sock, 0x8912, struct.pack("iP", len(room), ctypes.addressof(room)))
    used = struct.unpack("iP", answer)[0]
    found = {}
    for at in range(0, used, 40):
        name = room.raw[at : at + 16].split(b"\0")[0].decode()
        found[name] = {
            "address": socket.inet_ntoa(room.raw[at + 20 : at + 24]),
            "netmask": socket.inet_ntoa(ask(sock, 0x891B, name)[4:8]),
            "broadcast": socket.inet_ntoa(ask(sock, 0x8919, name)[4:8]),
            "mac": ask(sock, 0x8927, name)[2:8].hex(":"),
            "mtu": struct.unpack("i", ask(sock, 0x8921, name)[:4])[0],
            "index": struct.unpack("i", ask(sock, 0x8933, name)[:4])[0],
            "flags": struct.unpack("H", ask(sock, 0x8913, name)[:2])[0],
        }
    return found


def ip(*args):
    out = subprocess.run(["ip", "-j", *args], check=True, capture_output=True, text=True).stdout
    return json.loads(out or "[]")


if len(sys.argv) == 3:
    family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (sys.argv[1], int(sys.argv[2])))

print(json.dumps({
    "namespace": os.readlink("/proc/self/ns/net"),
    "getifaddrs": getifaddrs(),
    "ioctls": ioctls(),
    "indices": {name: index for index, name in socket.if_nameindex()},
    "ip_addr": {i["ifname"]: i for i in ip("addr")},
    "routes4": ip("-4", "route"),
    "routes6": ip("-6", "route"),
    "proc_net_dev": [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]],
    "proc_net_route": [line.split()[:3] for line in open("/proc/net/route").readlines()[1:]],
    "proc_net_if_inet6": [line.split()[5] for line in open("/proc/net/if_inet6")],
}))
